package userns

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

const passwd = `# a comment
root:x:0:0:root:/root:/bin/bash

+nisuser::::::
+
-@denied
short:x:5
web:x:33:33:web:/var/www:/usr/sbin/nologin
web:x:34:34:a second entry:/:/bin/sh
1000:x:7:7:a name of digits:/:/bin/sh
bad1:x:-1:0::/:/bin/sh
bad2:x:4294967296:0::/:/bin/sh
bad3:x:4294967295:0::/:/bin/sh
bad4:x:0x0:0::/:/bin/sh
bad5:x: 0:0::/:/bin/sh
bad6:x:+0:0::/:/bin/sh
bad7:x::0::/:/bin/sh
bad8:x:00:0::/:/bin/sh
bad9:x:9:0::/:/bin/sh:more
 indented:x:8:8::/:/bin/sh
high:x:4294967294:2147483648::/home/high:
last:x:1001:1001::/home/last:/bin/sh`

func TestParsePasswd(t *testing.T) {
	for user, want := range map[string]Account{
		"root":       {"root", 0, 0, "/root", "/bin/bash"},
		"0":          {"root", 0, 0, "/root", "/bin/bash"},
		"web":        {"web", 33, 33, "/var/www", "/usr/sbin/nologin"},
		"34":         {"web", 34, 34, "/", "/bin/sh"},
		"7":          {"1000", 7, 7, "/", "/bin/sh"},
		"high":       {"high", 4294967294, 2147483648, "/home/high", ""},
		"4294967294": {"high", 4294967294, 2147483648, "/home/high", ""},
		"last":       {"last", 1001, 1001, "/home/last", "/bin/sh"},
	} {
		if got, err := ParsePasswd([]byte(passwd), user); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", user, got, err, want)
		}
	}
	for _, user := range []string{"nobody", "1000", "short", "5", "nisuser", "denied", "indented", "8", "9",
		"bad1", "bad2", "bad3", "bad4", "bad5", "bad6", "bad7", "bad8", "bad9", "@denied"} {
		if got, err := ParsePasswd([]byte(passwd), user); !errors.Is(err, ErrNoUser) {
			t.Errorf("%q: %+v, %v; want no such user", user, got, err)
		}
	}
	// None of these may be taken for root, nor be looked for as a name.
	odd := "4294967296,4294967295,99999999999999999999,-1,+0,-0,0x0,00,000, 0,0 ,1:,0:0,:0,\t0,0\n,,+,-,a b,a/b,a:b,٠,0\x00"
	for user := range strings.SplitSeq(odd, ",") {
		data := fmt.Sprintf("%s:x:0:0::/:/bin/sh\n%s", user, passwd)
		got, err := ParsePasswd([]byte(data), user)
		if user == "٠" { // a digit, but not one of ours: an ordinary name
			if err != nil {
				t.Errorf("%q: %v", user, err)
			}
			continue
		}
		if err == nil || errors.Is(err, ErrNoUser) {
			t.Errorf("%q: %+v, %v; want it refused", user, got, err)
		}
	}
}

func TestLongLine(t *testing.T) {
	at := "root:x:0:0:" + strings.Repeat("a", MaxLine-len("root:x:0:0::/:")) + ":/:"
	if _, err := ParsePasswd([]byte(at+"\n"), "root"); err != nil {
		t.Errorf("a line at the limit: %v", err)
	}
	for _, data := range []string{"a" + at, "x\na" + at + "\n", "ro\x00ot:x:0:0::/:\n"} {
		if _, err := ParsePasswd([]byte(data), "root"); err == nil || errors.Is(err, ErrNoUser) {
			t.Errorf("%.20q…: %v; want an error about the line", data, err)
		}
	}
	// What stands behind the entry is not read.
	if _, err := ParsePasswd([]byte("root:x:0:0::/:\na"+at), "root"); err != nil {
		t.Error(err)
	}
}

const group = `root:x:0:
# video:x:44:web
video:x:44:root,web
web:x:33:web
audio:x:29:web2,webb
twice:x:44:web
bad:x:-1:web
bad:x:4294967295:web
+:::web
shadow:x:42:web,web
`

func TestGroups(t *testing.T) {
	for _, c := range []struct {
		name string
		gid  uint32
		want []uint32
	}{
		{"web", 33, []uint32{33, 44, 42}},
		{"web", 7, []uint32{7, 44, 33, 42}},
		{"root", 0, []uint32{0, 44}},
		{"nobody", 65534, []uint32{65534}},
		{"", 5, []uint32{5}},
	} {
		if got, err := Groups([]byte(group), c.name, c.gid); err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
		}
	}
	var many strings.Builder
	for i := range MaxGroups + 1 {
		fmt.Fprintf(&many, "g:x:%d:web\n", i+1)
	}
	if _, err := Groups([]byte(many.String()), "web", 0); err == nil {
		t.Error("too many groups are accepted")
	}
	for _, c := range []struct {
		group string
		want  uint32
		ok    bool
	}{{"video", 44, true}, {"12", 12, true}, {"none", 0, false}, {"-1", 0, false}, {"bad", 0, false}, {"4294967295", 0, false}} {
		if got, err := ParseGroup([]byte(group), c.group); got != c.want && c.ok || (err == nil) != c.ok {
			t.Errorf("ParseGroup %s: %d, %v", c.group, got, err)
		}
	}
}

func TestHasID(t *testing.T) {
	for id, want := range map[uint32]bool{0: true, 33: true, 5: true, 8: false, 4294967294: true, 12: false} {
		if got, err := HasID([]byte(passwd), id); err != nil || got != want {
			t.Errorf("%d: %v, %v; want %v", id, got, err, want)
		}
	}
}

func TestParseSubID(t *testing.T) {
	ok := "# web:1:1\n\nother:7\nweb:100000:65536\nother:x:y\n1000:300000:1\nweb:4294967294:1\n"
	want := []Range{{100000, 65536}, {300000, 1}, {4294967294, 1}}
	if got, err := ParseSubID([]byte(ok), "web", 1000); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := ParseSubID([]byte(":5:5\n"), "", 1); err != nil || len(got) != 0 {
		t.Errorf("empty owner: %v, %v", got, err)
	}
	for _, line := range []string{
		"web", "web:", "web:1", "web:1:", "web::1", "web:1:1:1", "web:-1:5", "web:1:-5", "web:1:0", "web:0x1:1",
		"web: 1:1", "web:1:1 ", "web:4294967295:1", "web:4294967294:2", "web:1:4294967295", "web:1:4294967296", "1000:a:1",
	} {
		if got, err := ParseSubID([]byte("web:100000:65536\n"+line+"\n"), "web", 1000); err == nil {
			t.Errorf("%q: %v; want an error", line, got)
		}
	}
}

func FuzzParsePasswd(f *testing.F) {
	f.Add([]byte(passwd), "web")
	f.Add([]byte(passwd), "4294967296")
	f.Fuzz(func(t *testing.T, data []byte, user string) {
		a, err := ParsePasswd(data, user)
		if err != nil {
			return
		}
		// What was found stands in the text, and is what was asked for.
		if want := fmt.Sprintf("%d:%d:", a.UID, a.GID); !strings.Contains(string(data), want) {
			t.Errorf("%q is not in the text", want)
		}
		if digits(user) {
			if user != fmt.Sprint(a.UID) {
				t.Errorf("%q found id %d", user, a.UID)
			}
		} else if a.Name != user {
			t.Errorf("%q found %q", user, a.Name)
		}
		if a.UID == 1<<32-1 || a.GID == 1<<32-1 {
			t.Error("the id that means no id")
		}
	})
}

func FuzzGroups(f *testing.F) {
	f.Add([]byte(group), "web", uint32(33))
	f.Fuzz(func(t *testing.T, data []byte, name string, gid uint32) {
		g, err := Groups(data, name, gid)
		if err != nil {
			return
		}
		if g[0] != gid {
			t.Errorf("the first group is %d", g[0])
		}
		slices.Sort(g)
		if len(slices.Compact(g)) != len(g) {
			t.Errorf("a group stands twice in %v", g)
		}
	})
}

func FuzzParseSubID(f *testing.F) {
	f.Add([]byte("web:100000:65536\n"), "web", uint32(1000))
	f.Fuzz(func(t *testing.T, data []byte, name string, uid uint32) {
		ranges, _ := ParseSubID(data, name, uid)
		for _, r := range ranges {
			if !r.Valid() || !strings.Contains(string(data), fmt.Sprintf(":%d:%d", r.Start, r.Size)) {
				t.Errorf("%v is not in the text", r)
			}
		}
	})
}

func TestParseShadow(t *testing.T) {
	const text = "root:*:19000:0:99999:7:::\njoe:$6$a$b:19000::::-1::\njoe:second:1::::::\nshort:a:1\nodd:a:x::::::\nempty::::::::\n+nis:a::::::::\n"
	for name, want := range map[string]string{"root": "*", "joe": "$6$a$b", "empty": ""} {
		if got, ok, err := ParseShadow([]byte(text), name); got != want || !ok || err != nil {
			t.Errorf("%s: %q, %v, %v", name, got, ok, err)
		}
	}
	for _, name := range []string{"", "nobody", "short", "odd", "nis", "+nis"} {
		if got, ok, err := ParseShadow([]byte(text), name); ok || err != nil {
			t.Errorf("%s: %q, %v, want nothing", name, got, err)
		}
	}
}

func TestNamesAndIDs(t *testing.T) {
	const group = "root:x:0:\njoe:x:60514:a,b\nodd:x:y:\nwheel:x:60520:\nagain:x:60514:\n+nis:x:60515:\n"
	for name, want := range map[string]bool{"joe": true, "odd": false, "a": false, "nis": false, "": false, "jo": false} {
		if got, err := HasName([]byte(group), name); got != want || err != nil {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
	if ids, err := IDs([]byte(group), 60514, 60519); err != nil || !slices.Equal(ids, []uint32{60514}) {
		t.Errorf("%v, %v", ids, err)
	}
	if name, ok, err := GroupName([]byte(group), 60514); name != "joe" || !ok || err != nil {
		t.Errorf("%s, %v, %v", name, ok, err)
	}
	if name, ok, err := GroupName([]byte(group), 60515); ok || err != nil {
		t.Errorf("%s, %v", name, err)
	}
}
