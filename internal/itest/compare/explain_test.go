package compare

import "testing"

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"*", "", true}, {"a", "a", true}, {"a", "ab", false}, {"a*", "ab", true}, {"*b", "ab", true}, {"a*c*e", "abcde", true},
		{"a*c*e", "abde", false}, {"ab*b", "ab", false}, {"mount /proc/* flags", "mount /proc/sys/net flags", true},
	} {
		if got := match(c.pattern, c.s); got != c.want {
			t.Errorf("match(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func TestExplain(t *testing.T) {
	by, err := explanations("# comment\n\n* | env A | x | * | because we say so\nread-only | env B | * | * | another good reason\n")
	if err != nil {
		t.Fatal(err)
	}
	ok, left := explain([]difference{{"plain", "env A", "x", "y"}, {"plain", "env A", "z", "y"}, {"plain", "env B", "1", "2"}}, by)
	if ok != 1 || len(left) != 2 || by[0].used != 1 || by[1].used != 0 {
		t.Errorf("explained %d, left %v, used %d and %d", ok, left, by[0].used, by[1].used)
	}
	for _, bad := range []string{"a | b | c | d", "a | b | c | d | no", "words"} {
		if _, err := explanations(bad); err == nil {
			t.Errorf("%q is taken for an explanation", bad)
		}
	}
}

func TestMountsAreNormal(t *testing.T) {
	const one = `100 90 254:0 /var/x/cmp / rw,relatime shared:5 master:2 - ext4 /dev/vda rw,b,a
101 100 0:50 / /tmp rw - tmpfs tmp rw
102 100 254:0 /srv /mnt/a ro shared:7 - ext4 /dev/vda rw,a,b
103 102 254:0 /srv /mnt/a ro shared:7 - ext4 /dev/vda rw,a,b
`
	const two = `7 3 254:0 /var/x/cmp / rw,relatime shared:91 master:44 - ext4 /dev/vda rw,a,b
8 7 0:99 / /tmp rw - tmpfs tmp rw
10 7 254:0 /srv /mnt/a ro shared:8 - ext4 /dev/vda rw,b,a
11 10 254:0 /srv /mnt/a ro shared:8 - ext4 /dev/vda rw,b,a
`
	w := world{tree: "/var/x/cmp", out: "/var/x/out"}
	a, b := vector{}, vector{}
	mounts(a, one, w)
	mounts(b, two, w)
	if d := differ("", a, b); len(d) > 0 {
		t.Errorf("the same table with other numbers: %v", d)
	}
	for k, want := range map[string]string{
		"mount / root": "TREE", "mount / propagation": "shared, master (outside)", "mount /mnt/a#2 propagation": "shared with /mnt/a",
		"mount /mnt/a#2 parent": "/mnt/a", "mount /tmp propagation": "", "mount /mnt/a filesystem": "/",
	} {
		if a[k] != want {
			t.Errorf("%s: %q, want %q", k, a[k], want)
		}
	}
}
