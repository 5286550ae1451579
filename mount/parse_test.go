package mount

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func host(p string) Path   { return Path{Path: p} }
func inside(p string) Path { return Path{Path: p, InRoot: true} }

var temp = Path{Temp: true}

func parse(kind, text string) (Mount, error) {
	switch kind {
	case "bind":
		return ParseBind(text, "/home/me", false)
	case "bind-ro":
		return ParseBind(text, "/home/me", true)
	case "tmpfs":
		return ParseTmpfs(text)
	case "overlay":
		return ParseOverlay(text, "/home/me", false)
	case "overlay-ro":
		return ParseOverlay(text, "/home/me", true)
	}
	return ParseInaccessible(text)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		kind, text string
		want       Mount
	}{
		{"bind", "/a", Mount{Target: "/a", Source: host("/a")}},
		{"bind-ro", "/a", Mount{Target: "/a", Source: host("/a"), ReadOnly: true}},
		{"bind", "/a:/b", Mount{Target: "/b", Source: host("/a")}},
		{"bind", "a:/b", Mount{Target: "/b", Source: host("/home/me/a")}},
		{"bind", "../../x/../y:/b", Mount{Target: "/b", Source: host("/x/../y")}},
		{"bind", "../../../..:/b", Mount{Target: "/b", Source: host("/")}},
		{"bind", ".:/b", Mount{Target: "/b", Source: host("/home/me")}},
		{"bind", "..a:/b", Mount{Target: "/b", Source: host("/home/me/..a")}},
		{"bind", ":/b", Mount{Target: "/b", Source: temp}},
		{"bind", "+/a", Mount{Target: "/a", Source: inside("/a")}},
		{"bind", "+/a//c/.:/b/", Mount{Target: "/b", Source: inside("/a/c")}},
		{"bind", "-/a", Mount{Target: "/a", Source: host("/a"), Optional: true}},
		{"bind", "-+/a", Mount{Target: "/a", Source: inside("/a"), Optional: true}},
		{"bind", "-/a:/b", Mount{Target: "/b", Source: host("/a"), Optional: true}},
		{"bind", `/a\:b`, Mount{Target: "/a:b", Source: host("/a:b")}},
		{"bind", `/a\\:/b`, Mount{Target: "/b", Source: host(`/a\`)}},
		{"bind", `/a\x20:/b`, Mount{Target: "/b", Source: host("/ax20")}},
		{"bind", `/a"b:/c d`, Mount{Target: "/c d", Source: host(`/a"b`)}},
		{"bind", "/a:/b:", Mount{Target: "/b", Source: host("/a")}},
		{"bind", "/a:/b:norbind", Mount{Target: "/b", Source: host("/a"), NoRecurse: true}},
		{"bind", "/a:/b:norbind,rbind,,", Mount{Target: "/b", Source: host("/a")}},
		{"bind", "/a:/b:idmap", Mount{Target: "/b", Source: host("/a"), IDMap: FullIDMap}},
		{"bind", "/a:/b:idmap,noidmap", Mount{Target: "/b", Source: host("/a")}},
		{"bind", "/a:/b:rootidmap,norbind", Mount{Target: "/b", Source: host("/a"), IDMap: RootIDMap, NoRecurse: true}},
		{"bind", "/a:/b:owneridmap", Mount{Target: "/b", Source: host("/a"), IDMap: OwnerIDMap}},
		{"bind", "/a:/", Mount{Target: "/", Source: host("/a")}},
		{"tmpfs", "/a", Mount{Kind: Tmpfs, Target: "/a", Options: "mode=0755"}},
		{"tmpfs", "/a:", Mount{Kind: Tmpfs, Target: "/a", Options: "mode=0755"}},
		{"tmpfs", "/a:size=1m,noexec", Mount{Kind: Tmpfs, Target: "/a", Options: "size=1m,noexec"}},
		{"tmpfs", `/a\:b:size=1m:x\:`, Mount{Kind: Tmpfs, Target: "/a:b", Options: `size=1m:x\:`}},
		{"overlay", "/l:/u", Mount{Kind: Overlay, Target: "/u", Source: host("/u"), Lower: []Path{host("/l")}}},
		{"overlay", "/l:+/u", Mount{Kind: Overlay, Target: "/u", Source: inside("/u"), Lower: []Path{host("/l")}}},
		{"overlay", "l:u", Mount{Kind: Overlay, Target: "/home/me/u", Source: host("/home/me/u"), Lower: []Path{host("/home/me/l")}}},
		{"overlay", "/l:/u:/t", Mount{Kind: Overlay, Target: "/t", Source: host("/u"), Lower: []Path{host("/l")}}},
		{"overlay-ro", "+/l:m:/u:/t", Mount{Kind: Overlay, Target: "/t", Source: host("/u"), Lower: []Path{inside("/l"), host("/home/me/m")}, ReadOnly: true}},
		{"overlay", "/l::/t", Mount{Kind: Overlay, Target: "/t", Source: temp, Lower: []Path{host("/l")}}},
		{"overlay", `/l\:1:/u:/t`, Mount{Kind: Overlay, Target: "/t", Source: host("/u"), Lower: []Path{host("/l:1")}}},
		{"inaccessible", "/a//b/", Mount{Kind: Inaccessible, Target: "/a/b"}},
		{"inaccessible", `/a\:b`, Mount{Kind: Inaccessible, Target: `/a\:b`}},
	} {
		got, err := parse(c.kind, c.text)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s\n got %+v %v\nwant %+v", c.kind, c.text, got, err, c.want)
		}
	}
}

func TestRefuse(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"bind", "", "empty bind mount"},
		{"bind", "a", `"a" is not an absolute path`},
		{"bind", "/a:b", `"b" is not an absolute path`},
		{"bind", "/a:", "empty target"},
		{"bind", ":", "empty target"},
		{"bind", "-", "a lone `-` names no source"},
		{"bind", "-:/b", "a lone `-` names no source"},
		{"bind", "+a:/b", `source "+a": a path in the machine's root must be absolute`},
		{"bind", "/a:/b:ro", `unknown bind option "ro" (known: rbind, norbind, idmap, noidmap, rootidmap, owneridmap)`},
		{"bind", "/a:/b:idmap:x", `unknown bind option "idmap:x"`},
		{"bind", `/a\`, "a backslash at the end protects nothing"},
		{"bind", "/a:/b/../c", "\"/b/../c\" has a `..`"},
		{"bind", "/a\x00:/b", "has a NUL byte"},
		{"bind", "/" + strings.Repeat("a", 4096) + ":/b", "longer than the kernel takes"},
		{"bind", "/a\xff:/b", "is not UTF-8"},
		{"tmpfs", "", "empty target"},
		{"tmpfs", "a", "is not an absolute path"},
		{"tmpfs", "/a:rbind", `mount option "rbind" is for bind mounts only`},
		{"overlay", "/a", "an overlay needs a lower and an upper directory"},
		{"overlay", "/a:/b:c", "is not an absolute path"},
		{"overlay", "/a:", "empty target"},
		{"overlay", ":/u:/t", "empty lower directory; only the upper one may be empty"},
		{"inaccessible", "a", "is not an absolute path"},
		{"inaccessible", "/", "the root itself can't be made inaccessible"},
	} {
		m, err := parse(c.kind, c.text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.40q: got %+v %v, want error %s", c.kind, c.text, m, err, c.want)
		}
	}
}

func TestOptionsSorted(t *testing.T) {
	if !slices.IsSortedFunc(Options[:], func(a, b Option) int { return strings.Compare(a.Word, b.Word) }) {
		t.Error("the table is not sorted: words would not be found")
	}
	for _, o := range Options {
		if got, ok := FindOption(o.Word); !ok || got != o {
			t.Errorf("%s is not found", o.Word)
		}
		if o.Effect == Attribute && o.Set == 0 && o.Clear == 0 {
			t.Errorf("%s does nothing", o.Word)
		}
	}
	if _, ok := FindOption("size=1"); ok {
		t.Error("found what isn't there")
	}
}

func TestSplitOptions(t *testing.T) {
	const ro, nosuid, nodev, noexec, noatime, strict = 1, 2, 4, 8, 0x10, 0x20
	for _, c := range []struct {
		in         string
		set, clear uint64
		data       string
	}{
		{"", 0, 0, ""},
		{"mode=0755", 0, 0, "mode=0755"},
		{"ro,nosuid,nodev,noexec,size=1m", ro | nosuid | nodev | noexec, 0, "size=1m"},
		{"ro,rw", 0, ro, ""},
		{"rw,ro", ro, 0, ""},
		{"noatime,strictatime", strict, 0x70, ""},
		{"strictatime,relatime", 0, 0x70, ""},
		{"defaults,,nofail,x-systemd.automount,sync,huge=always", 0, 0, "sync,huge=always"},
		{`context="a:b,c",noexec`, noexec, 0, `context="a:b,c"`},
		{"nodevx", 0, 0, "nodevx"},
	} {
		set, clear, data, err := ApplyOptions(c.in)
		if err != nil || set != c.set || clear&^0x50 != c.clear&^0x50 || data != c.data {
			t.Errorf("%s: set %#x clear %#x data %q %v", c.in, set, clear, data, err)
		}
		if set&clear&^0x70 != 0 {
			t.Errorf("%s: %#x is both set and cleared", c.in, set&clear)
		}
	}
}

func randomMounts(r *rand.Rand) []Mount {
	parts := []string{"a", "a-b", "b", "a.b", "A", "é", "aa"}
	ms := make([]Mount, r.IntN(12))
	for i := range ms {
		ms[i].Kind = Kind(r.IntN(5))
		ms[i].Target = "/"
		for n := range r.IntN(4) {
			if n > 0 {
				ms[i].Target += "/"
			}
			ms[i].Target += parts[r.IntN(len(parts))]
		}
		ms[i].Options = string(rune('0' + i)) // to tell them apart
	}
	return ms
}

// TestSorted: parents come before children, also where targets repeat, and
// equal mounts keep their order.
func TestSorted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		in := randomMounts(r)
		kept := slices.Clone(in)
		out := Sorted(in)
		if !reflect.DeepEqual(in, kept) {
			t.Fatal("the list was changed")
		}
		if len(out) != len(in) {
			t.Fatalf("%d mounts became %d", len(in), len(out))
		}
		for i, a := range out {
			for _, b := range out[i+1:] {
				if a.Target != b.Target && Below(a.Target, b.Target) {
					t.Fatalf("%s comes before its parent %s", a.Target, b.Target)
				}
				if a.Target == b.Target && (a.Kind > b.Kind || a.Kind == b.Kind && a.Options > b.Options) {
					t.Fatalf("%s: %v %s comes before %v %s", a.Target, a.Kind, a.Options, b.Kind, b.Options)
				}
			}
		}
		// The parts of one subtree stay together.
		for i := 2; i < len(out); i++ {
			if Below(out[i].Target, out[i-2].Target) && !Below(out[i-1].Target, out[i-2].Target) {
				t.Fatalf("%s stands between %s and %s", out[i-1].Target, out[i-2].Target, out[i].Target)
			}
		}
	}
}

func TestBelow(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/ab", "/a", false}, {"/a", "/", true}, {"/", "/", true}, {"/", "/a", false}} {
		if Below(c.path, c.dir) != c.want {
			t.Errorf("Below(%s, %s)", c.path, c.dir)
		}
	}
}

func sound(t *testing.T, text string, m Mount, err error) {
	if err != nil {
		return
	}
	if m.Target == "" || m.Target[0] != '/' || m.Target != Simplify(m.Target) || strings.Contains(m.Target+"/", "/../") {
		t.Errorf("%q: target %q is not a clean path", text, m.Target)
	}
	for _, p := range append(m.Lower, m.Source) {
		if !p.Temp && m.Kind != Tmpfs && m.Kind != Inaccessible && (p.Path == "" || p.Path[0] != '/' || strings.Contains(p.Path, "\x00")) {
			t.Errorf("%q: source %q", text, p.Path)
		}
	}
}

func FuzzBind(f *testing.F) {
	for _, s := range []string{"/a:/b:idmap", "+/a", "-/a", `/a\:b:/c`, ":/x", "a:/b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseBind(text, "/home/me", false)
		sound(t, text, m, err)
	})
}

func FuzzTmpfs(f *testing.F) {
	f.Add("/a:size=1m,ro")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseTmpfs(text)
		sound(t, text, m, err)
		if _, _, again := SplitOptions(m.Options); err == nil && again != nil {
			t.Errorf("%q: %v", text, again)
		}
	})
}

func FuzzOverlay(f *testing.F) {
	f.Add("/a:+/b::/c")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseOverlay(text, "/home/me", true)
		sound(t, text, m, err)
		if err == nil && len(m.Lower) == 0 {
			t.Errorf("%q: no lower directory", text)
		}
	})
}

func FuzzInaccessible(f *testing.F) {
	f.Add("/a/../b")
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseInaccessible(text)
		sound(t, text, m, err)
	})
}

// TestInside: a prefix ends at a slash, and a path does not lie in itself.
func TestInside(t *testing.T) {
	for _, c := range []struct {
		path, dir string
		want      bool
	}{
		{"/foobar", "/foo", false}, {"/foo", "/foo", false}, {"/foo/bar", "/foo", true}, {"/foo", "/foo/bar", false},
		{"/foo", "/", true}, {"/", "/", false}, {"/foo/bar/x", "/foo", true},
	} {
		if got := Inside(c.path, c.dir); got != c.want {
			t.Errorf("%s in %s: %v", c.path, c.dir, got)
		}
	}
}
