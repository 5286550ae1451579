package layer

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/itest/remake"
)

// entry is an entry of a hostile layer, written byte by byte: archive/tar
// refuses to write some of them.
type entry struct {
	name, link string
	kind       byte
	data       string
	major, min int
	pax        map[string]string
}

// old stands for the type that files had before tar knew others.
const old = 0xff

// header gives a block as ustar has it.
func header(name, link string, kind byte, size, major, minor int) []byte {
	b := make([]byte, 512)
	copy(b[0:100], name)
	copy(b[100:108], "0000755\x00")
	copy(b[108:116], "0000000\x00")
	copy(b[116:124], "0000000\x00")
	copy(b[124:136], fmt.Sprintf("%011o\x00", size))
	copy(b[136:148], fmt.Sprintf("%011o\x00", 1700000000))
	b[156] = kind
	copy(b[157:257], link)
	copy(b[257:265], "ustar\x0000")
	copy(b[329:337], fmt.Sprintf("%07o\x00", major))
	copy(b[337:345], fmt.Sprintf("%07o\x00", minor))
	copy(b[148:156], "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

func padded(s string) []byte {
	return append([]byte(s), make([]byte, (512-len(s)%512)%512)...)
}

// record gives a line of a PAX header, which says how long it is itself.
func record(key, value string) string {
	n := len(key) + len(value) + 3
	for {
		s := fmt.Sprintf("%d %s=%s\n", n, key, value)
		if len(s) == n {
			return s
		}
		n = len(s)
	}
}

func (e entry) bytes() []byte {
	var out []byte
	pax := ""
	if len(e.name) > 100 {
		pax += record("path", e.name)
	}
	if len(e.link) > 100 {
		pax += record("linkpath", e.link)
	}
	for k, v := range e.pax {
		pax += record(k, v)
	}
	if pax != "" {
		out = append(append(out, header("PaxHeaders.0/x", "", 'x', len(pax), 0, 0)...), padded(pax)...)
	}
	kind := e.kind
	switch kind {
	case 0:
		kind = '0'
	case old:
		kind = 0
	}
	return append(append(out, header(e.name, e.link, kind, len(e.data), e.major, e.min)...), padded(e.data)...)
}

func layerOf(list ...entry) []byte {
	var b []byte
	for _, e := range list {
		b = append(b, e.bytes()...)
	}
	return append(b, make([]byte, 1024)...)
}

// ground is a place with a root to unpack to, and something beside it that must
// stay as it is.
type ground struct{ dir, root, canary, before string }

func prepare(t testing.TB) *ground {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, who may give files away")
	}
	dir := t.TempDir()
	g := &ground{dir: dir, root: filepath.Join(dir, "root"), canary: filepath.Join(dir, "canary")}
	for _, err := range []error{
		os.Mkdir(g.canary, 0o755), os.WriteFile(filepath.Join(g.canary, "secret"), []byte("secret"), 0o600),
		os.Mkdir(filepath.Join(g.canary, "dir"), 0o755), os.WriteFile(filepath.Join(g.canary, "dir/x"), []byte("x"), 0o644),
		os.Symlink("dir", filepath.Join(g.canary, "link")), unix.Mkfifo(filepath.Join(g.canary, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	g.before = g.look(t)
	return g
}

// look describes the place, but for what is in the root.
func (g *ground) look(t testing.TB) string {
	var b strings.Builder
	err := filepath.WalkDir(g.dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == g.root {
			if err == nil {
				err = fs.SkipDir
			}
			return err
		}
		if p == g.dir {
			return nil
		}
		st, err := os.Lstat(p)
		if err != nil {
			return err
		}
		text, _ := os.ReadFile(p + "\x00")
		if st.Mode().IsRegular() {
			text, _ = os.ReadFile(p)
		}
		var s unix.Stat_t
		unix.Lstat(p, &s)
		fmt.Fprintf(&b, "%s %v %d:%d %d %v %v %x\n", p, st.Mode(), s.Uid, s.Gid, s.Nlink, s.Mtim, s.Ctim, sha256.Sum256(text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unpack unpacks into an empty root, in this process, which nothing confines.
func (g *ground) unpack(t testing.TB, layer []byte, packed int64, l Limits) (Report, error) {
	t.Helper()
	if err := os.RemoveAll(g.root); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(g.root, 0o755); err != nil {
		t.Fatal(err)
	}
	n, err := unix.Open(g.root, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	return Unpack(n, bytes.NewReader(layer), packed, l)
}

// verdict is what must become of a layer.
type verdict string

const (
	refused verdict = "refused"
	taken   verdict = "taken"
)

// badNames are names, most of them bad, by what must become of an entry that has it.
var badNames = []struct {
	name string
	want verdict
	root bool // it is the root's own
}{
	{"../canary/x", refused, false}, {"../../root/../canary/x", refused, false}, {"d/../../canary/x", refused, false},
	{"..", refused, false}, {"d/..", refused, false}, {"./../x", refused, false}, {"/../canary/x", refused, false}, {"d/../x", refused, false},
	{"../", refused, false}, {"./d/./../../canary/secret", refused, false},
	{".wh.", refused, false}, {".wh..", refused, false}, {".wh...", refused, false}, {"d/.wh.", refused, false}, {"d/.wh..", refused, false}, {"d/.wh...", refused, false},
	{".wh..wh.", refused, false}, {".wh..wh.x", refused, false}, {".wh..wh.plnk", refused, false}, {".wh.x/y", refused, false}, {".wh..wh..opq/y", refused, false}, {"d/.wh.x/y/z", refused, false},
	{"abs/x", refused, false}, {"rel/x", refused, false}, {"far/x", refused, false}, {"abs/dir/x", refused, false}, {"self/x", refused, false}, {"loop/x", refused, false}, {"proc/x", refused, false}, {"abs/../x", refused, false},
	{"f/x", refused, false}, {"f/x/y", refused, false},
	{strings.Repeat("n", 256), refused, false}, {"d/" + strings.Repeat("n", 300) + "/x", refused, false}, {strings.Repeat("p/", 2100) + "x", refused, false},
	{"", refused, true}, {".", refused, true}, {"./", refused, true}, {"/", refused, true}, {"././/.", refused, true},
	{".wh.x", taken, false}, {"d/.wh.x", taken, false}, {"d/.wh..wh..opq", taken, false}, {"new/.wh.x", taken, false},
	{"x", taken, false}, {"d/x", taken, false}, {"/x", taken, false}, {"./d//x", taken, false}, {"new/dir/x", taken, false}, {"d/x/", taken, false},
	{"a b\nc\xff", taken, false}, {strings.Repeat("n", 255), taken, false}, {"wh.x", taken, false}, {"d/.w", taken, false}, {"...", taken, false}, {"..x", taken, false},
}

// allTypes are types of entries.
var allTypes = []struct {
	word string
	e    entry
	want verdict // at a good name
}{
	{"file", entry{kind: '0', data: "data"}, taken},
	{"old file", entry{kind: old, data: "data"}, taken},
	{"contiguous file", entry{kind: '7', data: "data"}, taken},
	{"directory", entry{kind: '5'}, taken},
	{"symlink", entry{kind: '2', link: "../canary/secret"}, taken},
	{"hard link", entry{kind: '1', link: "f"}, taken},
	{"FIFO", entry{kind: '6'}, taken},
	{"device", entry{kind: '3', major: 1, min: 3}, taken},
	{"disk", entry{kind: '4', major: 8, min: 0}, taken},
	{"whiteout", entry{kind: '3'}, refused},
	{"unknown type", entry{kind: 'Z'}, refused},
}

// orders are what stands before and behind the entry.
func orders(g *ground, e entry) map[string][]entry {
	legal := []entry{
		{name: "d", kind: '5'}, {name: "f", data: "f"},
		{name: "abs", kind: '2', link: g.canary}, {name: "rel", kind: '2', link: "../canary"}, {name: "far", kind: '2', link: "rel"},
		{name: "self", kind: '2', link: "."}, {name: "loop", kind: '2', link: "loop"}, {name: "proc", kind: '2', link: "/proc/self/cwd"},
	}
	after := []entry{{name: "z", data: "z"}}
	join := func(lists ...[]entry) []entry { return slices.Concat(lists...) }
	// A directory that was used before is replaced by a link.
	swapped := []entry{
		{name: "d", kind: '5'}, {name: "f", data: "f"},
		{name: "abs", kind: '5'}, {name: "abs/a"}, {name: "rel", kind: '5'}, {name: "rel/a"}, {name: "far/a"}, {name: "self/a"}, {name: "loop/a"}, {name: "proc/a"}, {name: "abs/dir/a"},
	}
	return map[string][]entry{
		"after":   join(legal, []entry{e}),
		"between": join(legal, []entry{e}, after),
		"swapped": join(swapped, legal[2:], []entry{e}),
		"twice":   join(legal, []entry{e, e}),
	}
}

// TestHostile: names by types by orders. Each layer is refused with one
// sentence or taken, as it must be, and what is beside its root stays as it is.
func TestHostile(t *testing.T) {
	g := prepare(t)
	cases, bad := 0, 0
	for _, n := range badNames {
		for _, k := range allTypes {
			e := k.e
			e.name = n.name
			want := n.want
			if want == taken {
				want = k.want
			}
			if strings.Contains(n.name, ".wh.") && k.word != "file" && k.word != "old file" {
				want = refused // a marker is a file
			}
			if n.root && k.word == "directory" {
				want = taken
			}
			// Its name ends in a slash, so it is a directory to tar; but it has data.
			if strings.HasSuffix(n.name, "/") && k.word == "old file" {
				want = refused
			}
			for order, list := range orders(g, e) {
				cases++
				r, err := g.unpack(t, layerOf(list...), 1<<20, Limits{})
				got := taken
				if err != nil {
					got = refused
					if text := err.Error(); strings.Contains(text, "\n") || len(text) > 1000 {
						t.Errorf("%q %s %s: it says\n%s", short(n.name), k.word, order, text)
					}
				}
				if got != want {
					bad++
					t.Errorf("%q %s %s: %s, must be %s (%v)", short(n.name), k.word, order, got, want, err)
				}
				if (k.word == "device" || k.word == "disk") && err == nil && len(r.Nodes) == 0 {
					t.Errorf("%q %s %s: the device node is not listed", n.name, k.word, order)
				}
				if bad > 20 {
					t.Fatal("and so on")
				}
			}
			if after := g.look(t); after != g.before {
				t.Fatalf("%q %s: what is beside the root has changed:\n%s\nwas\n%s", short(n.name), k.word, after, g.before)
			}
		}
	}
	if cases < 1000 {
		t.Errorf("only %d layers", cases)
	}
	t.Logf("%d layers", cases)
}

// TestHostileLinks: hard links to all kinds of names.
func TestHostileLinks(t *testing.T) {
	g := prepare(t)
	for _, c := range []struct {
		link string
		want verdict
	}{
		{"../canary/secret", refused}, {g.canary + "/secret", refused}, {"/../../canary/secret", refused}, {"abs/secret", refused}, {"rel/secret", refused},
		{"far/dir/x", refused}, {"d/../f", refused}, {"..", refused}, {".", refused}, {"", refused}, {"/", refused}, {"d", refused}, {"missing", refused}, {"d/missing", refused},
		{"f/x", refused}, {"gone", refused}, {".wh.gone", refused}, {".wh..wh..opq", refused}, {"loop/x", refused}, {"l", refused},
		{"f", taken}, {"/f", taken}, {"./f", taken}, {"abs", taken}, {"d/f", taken},
	} {
		for _, name := range []string{"l", "d/l", "new/l", "f"} {
			if name == "f" && strings.Trim(c.link, "./") == "f" {
				continue // to itself
			}
			list := []entry{
				{name: "d", kind: '5'}, {name: "d/f", data: "d"}, {name: "f", data: "f"}, {name: ".wh.gone"},
				{name: "abs", kind: '2', link: g.canary}, {name: "rel", kind: '2', link: "../canary"}, {name: "far", kind: '2', link: "rel"}, {name: "loop", kind: '2', link: "loop"},
				{name: name, kind: '1', link: c.link}, {name: name + "2", data: "after"},
			}
			want := c.want
			if c.link == "l" && name == "d/l" || c.link == "l" && name != "l" {
				want = refused
			}
			_, err := g.unpack(t, layerOf(list...), 1<<20, Limits{})
			if got := map[bool]verdict{true: taken, false: refused}[err == nil]; got != want {
				t.Errorf("%s -> %q: %s, must be %s (%v)", name, c.link, got, want, err)
			}
		}
	}
	// Through a link that is made between the check and the use of others.
	for _, list := range [][]entry{
		{{name: "a", kind: '5'}, {name: "a/x", data: "1"}, {name: "a", kind: '2', link: g.canary}, {name: "a/secret", data: "changed"}},
		{{name: "a", kind: '2', link: g.canary}, {name: "b", kind: '1', link: "a"}, {name: "b/secret", data: "changed"}},
		{{name: "a", kind: '2', link: g.canary + "/secret"}, {name: "b", kind: '1', link: "a"}, {name: "c", data: "x"}, {name: "b/x"}},
		{{name: "a/b/c"}, {name: "a/b", kind: '2', link: g.canary}, {name: "a/b/.wh.secret"}},
		{{name: "a/b/c"}, {name: "a", kind: '2', link: g.canary}, {name: "a/.wh..wh..opq"}},
		{{name: ".", kind: '2', link: g.canary}, {name: "secret", data: "changed"}},
		{{name: "a", kind: '2', link: g.canary}, {name: "a", kind: '5'}, {name: "a/.wh.secret"}, {name: "a/../../canary/x"}},
	} {
		if _, err := g.unpack(t, layerOf(list...), 1<<20, Limits{}); err == nil {
			t.Errorf("taken: %v", list)
		}
	}
	// What a link leads to is written to by nobody, also not when it is replaced.
	for _, kind := range []byte{'0', '5', '6', '1', '3'} {
		list := []entry{{name: "g", data: "g"}, {name: "a", kind: '2', link: g.canary + "/secret"}, {name: "a", kind: kind, link: "g", data: map[bool]string{true: "new"}[kind == '0'], major: 1, min: 3}}
		if _, err := g.unpack(t, layerOf(list...), 1<<20, Limits{}); err != nil {
			t.Errorf("a link that is replaced by %c: %v", kind, err)
		}
	}
	if after := g.look(t); after != g.before {
		t.Errorf("what is beside the root has changed:\n%s\nwas\n%s", after, g.before)
	}
}

// TestHostileAttributes: attributes that speak to the host.
func TestHostileAttributes(t *testing.T) {
	g := prepare(t)
	for name, want := range map[string]verdict{
		"trusted.overlay.opaque": refused, "trusted.overlay.redirect": refused, "trusted.overlay.metacopy": refused, "trusted.overlay.": refused,
		"user.overlay.opaque": refused, "user.overlay.whiteout": refused, "user.overlay.redirect": refused, "user.overlay.overlay.x": refused,
		"user.x": taken, "security.capability": refused, "security.selinux": taken, "security.ima": taken, "trusted.x": taken, "system.x": taken, "nonsense": taken,
		"user." + strings.Repeat("n", 300): refused,
	} {
		for _, kind := range []byte{'0', '5'} {
			if name == "security.capability" && kind == '5' {
				continue // the kernel's to say
			}
			e := entry{name: "x", kind: kind, pax: map[string]string{"SCHILY.xattr." + name: "y"}}
			_, err := g.unpack(t, layerOf(e), 1<<20, Limits{})
			if got := map[bool]verdict{true: taken, false: refused}[err == nil]; got != want {
				t.Errorf("%s of %c: %s, must be %s (%v)", short(name), kind, got, want, err)
			}
			var b [8]byte
			if n, err := unix.Lgetxattr(filepath.Join(g.root, "x"), name, b[:]); err == nil && name != "user.x" {
				t.Errorf("the layer has set %s to %q", name, b[:n])
			}
		}
	}
	if after := g.look(t); after != g.before {
		t.Errorf("what is beside the root has changed:\n%s\nwas\n%s", after, g.before)
	}
}

// TestBombs: layers that cost more than they should.
func TestBombs(t *testing.T) {
	g := prepare(t)
	big := func(size int64) io.Reader { // one file of zeros
		h := entry{name: "big"}.bytes()
		copy(h, header("big", "", '0', 0, 0, 0))
		copy(h[124:136], fmt.Sprintf("%011o\x00", size))
		copy(h[148:156], "        ")
		sum := 0
		for _, c := range h[:512] {
			sum += int(c)
		}
		copy(h[148:156], fmt.Sprintf("%06o\x00 ", sum))
		return io.MultiReader(bytes.NewReader(h[:512]), io.LimitReader(zeroReader{}, size+1024))
	}
	for _, c := range []struct {
		name  string
		layer []byte
		l     Limits
		want  string
	}{
		{"gzip", pack(t, "gzip", big(2<<30)), Limits{}, "more than 200 times"},
		{"zstd", pack(t, "zstd", big(2<<30)), Limits{}, "more than 200 times"},
		{"plain", layerOf(entry{name: "x", data: strings.Repeat("x", 10000)}), Limits{Size: 5000}, "more than 5000 bytes"},
		{"sparse", layerOf(entry{name: "x", pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x", "GNU.sparse.realsize": "9000000000000000000"}, data: string(padded("0\n"))}), Limits{}, "more than"},
		{"many", layerOf(slices.Repeat([]entry{{name: "x"}}, 101)...), Limits{Entries: 100}, "more than 100 entries"},
		{"replaced", layerOf(slices.Repeat([]entry{{name: "x", kind: '5'}, {name: "x"}}, replacements+1)...), Limits{}, "replaces more than"},
		{"cut off", pack(t, "gzip", bytes.NewReader(layerOf(entry{name: "x", data: strings.Repeat("x", 100000)})))[:100], Limits{}, ""},
		{"cut off too", layerOf(entry{name: "x", data: strings.Repeat("x", 100000)})[:5000], Limits{}, ""},
		{"window", []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x01, 0, 0}, Limits{}, ""},
		{"garbage", bytes.Repeat([]byte("garbage "), 1000), Limits{}, ""},
		{"garbage behind gzip", append(pack(t, "gzip", bytes.NewReader(layerOf(entry{name: "x"}))), "garbage, and no more of it"...), Limits{}, ""},
	} {
		_, err := g.unpack(t, c.layer, int64(len(c.layer)), c.l)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	// Beside these, much is legal.
	legal := layerOf(entry{name: "x", data: strings.Repeat("x", 1<<20)})
	if _, err := g.unpack(t, pack(t, "gzip", bytes.NewReader(legal)), 5000, Limits{}); err != nil {
		t.Errorf("a file of one letter: %v", err)
	}
}

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestUnpacked: what a legal layer becomes, markers included.
func TestUnpacked(t *testing.T) {
	g := prepare(t)
	sparse := "2\n0\n512\n1048576\n512\n"
	r, err := g.unpack(t, layerOf(
		entry{name: "d", kind: '5'}, entry{name: "d/.wh.gone"}, entry{name: "d/.wh..wh..opq"}, entry{name: "own", data: "x"}, entry{name: ".wh.own"},
		entry{name: ".wh.later"}, entry{name: "later/x"}, entry{name: ".wh.again"}, entry{name: "again", kind: '5'},
		entry{name: "hole", pax: map[string]string{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "hole", "GNU.sparse.realsize": "1049088"}, data: string(padded(sparse)) + strings.Repeat("a", 512) + strings.Repeat("b", 512)},
		entry{name: "null", kind: '3', major: 1, min: 3},
	), 1<<20, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Nodes) != 1 || r.Nodes[0].Path != "null" || !slices.Equal(r.Implied, []string{"", "later"}) {
		t.Errorf("the report is %+v", r)
	}
	var st unix.Stat_t
	for _, name := range []string{"d/gone"} {
		if err := unix.Lstat(filepath.Join(g.root, name), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			t.Errorf("%s is no whiteout: %v %o", name, err, st.Mode)
		}
	}
	for name, want := range map[string]bool{"d": true, "later": true, "again": true, "": false} {
		var b [2]byte
		n, err := unix.Lgetxattr(filepath.Join(g.root, name), opaqueXattr, b[:])
		if got := err == nil && string(b[:n]) == "y"; got != want {
			t.Errorf("%q is opaque: %v, want %v", name, got, want)
		}
	}
	if b, err := os.ReadFile(filepath.Join(g.root, "own")); err != nil || string(b) != "x" {
		t.Errorf("the layer's own file is %q, %v", b, err)
	}
	if err := unix.Lstat(filepath.Join(g.root, "hole"), &st); err != nil || st.Size != 1049088 || st.Blocks > 64 {
		t.Errorf("the sparse file has %d bytes in %d blocks, %v", st.Size, st.Blocks, err)
	}
	if _, err := os.Lstat(filepath.Join(g.root, "null")); !os.IsNotExist(err) {
		t.Errorf("a device node was made: %v", err)
	}
	n, err := unix.Open(g.root, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(n)
	if err := Make(n, r.Nodes); err != nil {
		t.Error(err)
	}
	if err := unix.Lstat(filepath.Join(g.root, "null"), &st); err != nil || st.Rdev != unix.Mkdev(1, 3) || st.Mode != unix.S_IFCHR|0o755 {
		t.Errorf("the device node is %o %d, %v", st.Mode, st.Rdev, err)
	}
}

// beneath takes the kernel's part of the work away.
var beneath = remake.Edit{"oci/layer/layer.go", "const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV", "const below = 0"}

// mutants are unpackers without one of their defences, each of which a test must
// miss.
var mutants = []struct {
	name, test, file, old, new string
	// also: the kernel is not asked to stay beneath either, since that alone
	// would hold.
	also bool
}{
	{"names lead out", "TestHostile", "layer.go", `		case p == "..":
			return "", errors.New("its name leads out of the layer")
`, "", true},
	{"links are followed", "TestHostile", "layer.go", "const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV", "const below = 0", false},
	{"a directory that was used stays known", "TestHostile", "entry.go", `		if u.is(name, directory) {
			if err := u.forget(name); err != nil {
				return err
			}
		}
		if err = u.remove`, `		if err = u.remove`, false},
	{"the root may be replaced", "TestHostile", "entry.go", `		if h.Typeflag != tar.TypeDir {
			return errors.New("it would take the place of the root directory")
		}
`, "", false},
	{"any marker will do", "TestHostile", "whiteout.go", `	case gone == "", gone == ".", gone == "..", strings.HasPrefix(gone, marker):
		return errors.New("it is a marker that removes nothing")
`, "", false},
	{"directories may be called like markers", "TestHostile", "entry.go", `	if dir, bad := markerDir(up); bad {
		return fmt.Errorf("it lies in %q, which is the name of a marker", short(dir))
	}
`, "", false},
	{"markers of any type", "TestHostile", "whiteout.go", `	if h.Typeflag != tar.TypeReg {
		return errors.New("it has the name of a marker, and is no file")
	}
`, "", false},
	{"hard links to anything", "TestHostileLinks", "entry.go", `	to, err := clean(h.Linkname)
	if err != nil || to == "" {`, `	to, err := h.Linkname, error(nil)
	if to == "" {`, true},
	{"hard links to markers", "TestHostileLinks", "entry.go", " || err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR", "", false},
	{"overlayfs's attributes", "TestHostileAttributes", "entry.go", `		case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
			return fmt.Errorf("its attribute %s is overlayfs's own", short(name))
`, "", false},
	{"all attributes", "TestHostileAttributes", "entry.go", `		default:
			continue // labels and the like are the host's to give
`, "", false},
	{"whiteouts as devices", "TestHostile", "entry.go", "if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {", "if false {", false},
	{"device nodes are not listed", "TestUnpacked", "entry.go", "	u.report.Nodes = append(u.report.Nodes, Node{", "	_ = append(u.report.Nodes, Node{", false},
	{"no ratio", "TestBombs", "layer.go", "left: min(l.Size, max(small, packed*l.Ratio))", "left: l.Size", false},
	{"no size", "TestBombs", "layer.go", "	if b.left -= int64(n); b.left < 0 {\n		return 0, b.why\n	}\n", "", false},
	{"no sum of sizes", "TestBombs", "entry.go", "if u.written += h.Size; h.Size < 0 || u.written < 0 || u.written > u.limits.Size {", "if false {", false},
	{"no count", "TestBombs", "layer.go", "u.report.Entries > u.limits.Entries {", "false {", false},
	{"unknown types", "TestHostile", "entry.go", `	return fmt.Errorf("its type %q is none that a layer can have", string(h.Typeflag))`, "	return nil", false},
	{"own files are hidden", "TestUnpacked", "whiteout.go", "	if err == unix.EEXIST {\n		return nil // the layer's own, which hides the one below\n	}\n", "	if err == unix.EEXIST {\n		sys.Unlinkat(at, gone, 0)\n		err = sys.Mknodat(at, gone, unix.S_IFCHR, 0)\n	}\n", false},
	{"new directories show what was removed", "TestUnpacked", "layer.go", "if n, err = u.parent(name); err == nil && k.is&removed != 0 {", "if n, err = u.parent(name); k == nil {", false},
}

// TestHostileMutants: without any one of the defences, the tests above fail.
func TestHostileMutants(t *testing.T) {
	prepare(t)
	if os.Getenv("LAYER_MUTANT") != "" {
		t.Skip("in a mutant")
	}
	// Every day, those that are quickly tried have to do.
	all := os.Getenv("LAUNCH_TEST") == "images"
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			edits := []remake.Edit{{"oci/layer/" + m.file, m.old, m.new}}
			if m.also {
				edits = append(edits, beneath)
			}
			list, err := remake.Overlay(t.TempDir(), edits...)
			if err != nil {
				t.Fatal(err)
			}
			if !all && m.test != "TestUnpacked" && m.test != "TestHostileLinks" {
				return
			}
			c := exec.Command("go", "test", "-count=1", "-vet=off", "-timeout=100s", "-overlay="+list, "-run=^"+m.test+"$", ".")
			c.Env = append(os.Environ(), "LAYER_MUTANT="+m.name)
			// Without a defence, a bomb may go on until the time is over.
			out, err := c.CombinedOutput()
			if err == nil || !bytes.Contains(out, []byte("--- FAIL")) && !bytes.Contains(out, []byte("test timed out")) {
				t.Errorf("the mutant passes, or can't be built: %v\n%.2000s", err, out)
			}
		})
	}
}
