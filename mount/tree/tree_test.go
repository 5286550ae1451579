package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the goldens")

func TestEscape(t *testing.T) {
	for _, s := range []string{"/", "/a b", "/a\nb", `/a\b`, "/\xff,]:", "/ä"} {
		if got, ok := unescape(escape(s)); !ok || got != s {
			t.Errorf("%q: got %q, %v", s, got, ok)
		}
	}
	for _, s := range []string{`\`, `\09`, `\400`, `\141`, "/ä", "\n"} {
		if got, ok := unescape(s); ok {
			t.Errorf("%q: got %q, and no error", s, got)
		}
	}
}

// TestGolden: a mount table, and the file that is made of it.
func TestGolden(t *testing.T) {
	text, err := os.ReadFile("testdata/machine.mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := ParseMountinfo(string(text))
	if err != nil {
		t.Fatal(err)
	}
	f, err := Build([][]Row{rows}, Around{Devices: map[uint64]bool{unix.Mkdev(8, 1): true}, Groups: map[uint64]bool{1: true}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/machine.json"
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the file is not %s (-update writes it):\n%s", golden, got)
	}
	if _, err := Decode(got); err != nil {
		t.Errorf("what was made of mounts is refused: %v", err)
	}
}

// TestRefused: what is wrong with files, one thing each. A line is what is
// changed in the golden file, what it becomes, and what is said.
func TestRefused(t *testing.T) {
	text, err := os.ReadFile("testdata/machine.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][3]string{
		{`"launch-mounts": 1`, `"launch-mounts": 2`, "format 2"},
		{`"launch-mounts": 1`, `"launch-mounts": 1, "more": 1`, "unknown field"},
		{`"id": "root"`, `"id": "/etc"`, "bad id"},
		{`"id": "root"`, `"id": "Root"`, "bad id"},
		{`"type": "proc"`, `"type": "debugfs"`, "only an external one"},
		{`"type": "proc"`, `"type": "cgroup2"`, "only an external one"},
		{`"type": "proc"`, `"type": "pr/oc"`, "bad type"},
		{`"hidepid=invisible"`, `"hidepid=1,gid=0"`, "bad option"},
		{`"hidepid=invisible"`, `"context=x"`, "no option"},
		{`"external": true`, `"external": true, "options": ["size=1"]`, "can't have options"},
		{`"external": true`, `"external": false`, "only an external one"},
		{`"external": true`, `"external": true, "made": "layer"`, "can't have been made"},
		{`"type": "proc"`, `"type": "proc", "made": "stubs"`, "can't have been made"},
		{`"type": "tmpfs"`, `"type": "tmpfs", "made": "x"`, "can't have been made"},
		{`"type": "tmpfs"`, `"type": "tmpfs", "made": "layer"`, ""},
		{`"parent": 1`, `"parent": 77`, "none of the mounts before it"},
		{`"parent": 1`, `"parent": 3`, "none of the mounts before it"},
		{`"parent": 1,`, ``, "second root"},
		{`"point": "/y"`, `"point": "/../y"`, "bad path"},
		{`"point": "/y"`, `"point": "y"`, "bad path"},
		{`"point": "/y"`, `"point": "/y/"`, "bad path"},
		{`"point": "/y"`, `"point": "/y\\"`, "octal"},
		{`"point": "/y"`, `"point": "/\\000"`, "bad path"},
		{`"root": "/x"`, `"root": "/./x"`, "bad path"},
		{`"point": "/a b"`, `"point": "/proc"`, "lies where another one does"},
		{`"id": 10,`, `"id": 9,`, "two mounts 9"},
		{`"master": 2`, `"master": 99`, "not in the file"},
		{`"master": 2`, `"master": 3`, "another file system"},
		{`"unbindable": true`, `"unbindable": true, "group": 1`, "can't be in a group"},
		{`"deleted": true`, `"deleted": false`, ""},
		{`"ro"`, `"rw"`, "unknown or repeated flag"},
		{`"noatime"`, `"noatime", "strictatime"`, "both"},
		{`"launch-mounts": 1`, `"launch-mounts": 1.5`, "line 2"},
		{"\n}\n", "\n} {}\n", "more text"},
		{`"kind": "dir"`, `"kind": "link"`, "bad kind"},
	} {
		bad := strings.Replace(string(text), c[0], c[1], 1)
		if bad == string(text) {
			t.Errorf("%q is not in the file", c[0])
			continue
		}
		_, err := Decode([]byte(bad))
		if err == nil && c[2] != "" || err != nil && (c[2] == "" || !strings.Contains(err.Error(), c[2])) {
			t.Errorf("%s: got %v, want %q", c[1], err, c[2])
		}
	}
}

// TestCircles: groups that are their own masters, and mounts that lie on each
// other.
func TestCircles(t *testing.T) {
	f := File{Version: Version, Sources: []Source{{ID: "s1", Type: "tmpfs"}}, Namespaces: []Namespace{{[]Mount{{ID: 1, Point: "/", Source: "s1", Root: "/", Slave: 3}}}},
		Groups: []Group{{ID: 1, Master: 3}, {ID: 2, Master: 1}, {ID: 3, Master: 2}}}
	if err := f.check(); err == nil || !strings.Contains(err.Error(), "own master") {
		t.Errorf("got %v", err)
	}
	rows := []Row{{ID: 1, Parent: 0, Root: "/", Point: "/", Type: "tmpfs"}, {ID: 2, Parent: 3, Root: "/", Point: "/a", Type: "tmpfs"}, {ID: 3, Parent: 2, Root: "/", Point: "/a/b", Type: "tmpfs"}}
	if _, err := Build([][]Row{rows}, Around{}); err == nil || !strings.Contains(err.Error(), "circle") {
		t.Errorf("got %v", err)
	}
}

// table makes a random mount table that a kernel could show.
func table(r *rand.Rand, n int) (rows []Row) {
	groups, masters := []uint64{0}, map[uint64]uint64{}
	for i := range n {
		row := Row{ID: uint64(i + 10), Root: "/", Point: "/", Type: "tmpfs", Device: "t", Dev: uint64(r.IntN(4))}
		if i > 0 {
			on := rows[r.IntN(len(rows))]
			row.Parent = on.ID
			row.Point = path.Join(on.Point, []string{"", "a", "b", "a/b", "c d"}[r.IntN(5)])
			if slices.ContainsFunc(rows, func(o Row) bool { return o.Parent == row.Parent && o.Point == row.Point }) {
				continue
			}
			row.Root = []string{"/", "/x", "/x/y"}[r.IntN(3)]
		}
		if row.Kind = Dir; r.IntN(4) == 0 {
			row.Kind = ""
		}
		if row.Dev == 3 {
			row.Type = "ext4"
		}
		g := uint64(r.IntN(6))*4 + row.Dev // groups are of one file system
		if r.IntN(2) == 0 && g != 0 {
			if _, ok := masters[g]; !ok {
				if masters[g] = 0; r.IntN(2) == 0 {
					// Only smaller ones: no circles.
					for m := g; m > 4; m -= 4 {
						if _, ok := masters[m-4]; ok {
							masters[g] = m - 4
							break
						}
					}
				}
				groups = append(groups, g)
			}
			row.Peers, row.Master = g, masters[g]
		}
		row.Attr = []uint64{0, unix.MOUNT_ATTR_RDONLY, unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_NOSUID}[r.IntN(3)]
		rows = append(rows, row)
	}
	return rows
}

// TestProperties: of random tables, equal files are made however the table is
// sorted; they are read as they were written; parents and masters come first,
// deep places before the shallow ones that hide them.
func TestProperties(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rows := table(r, 1+r.IntN(30))
		f, err := Build([][]Row{slices.Clone(rows)}, Around{})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		text, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		g, err := Build([][]Row{rows}, Around{})
		if err != nil {
			t.Fatalf("seed %d: shuffled: %v", seed, err)
		}
		again, _ := g.Encode()
		if !bytes.Equal(text, again) {
			t.Fatalf("seed %d: another order gives another file", seed)
		}
		back, err := Decode(text)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if again, _ = back.Encode(); !bytes.Equal(text, again) {
			t.Fatalf("seed %d: read and written it is another file", seed)
		}
		if what := Differ(f, back); what != "" {
			t.Fatalf("seed %d: %s", seed, what)
		}
		if err := ordered(back); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func ordered(f *File) error {
	for i := range f.Namespaces {
		n := &f.Namespaces[i]
		done := map[int]*Mount{}
		for _, m := range n.Places() {
			if m.Parent != 0 && done[m.Parent] == nil {
				return fmt.Errorf("mount %d comes before its parent", m.ID)
			}
			for _, o := range done {
				if o.Parent == m.Parent && o != m && strings.HasPrefix(m.Point, strings.TrimSuffix(o.Point, "/")+"/") {
					return fmt.Errorf("mount %d hides the place of mount %d, and comes first", o.ID, m.ID)
				}
			}
			done[m.ID] = m
		}
		if len(done) != len(n.Mounts) {
			return fmt.Errorf("%d of %d mounts have places", len(done), len(n.Mounts))
		}
	}
	seen := map[int]bool{0: true}
	for _, g := range f.Order() {
		if !seen[g.Master] {
			return fmt.Errorf("group %d comes before its master", g.ID)
		}
		seen[g.ID] = true
	}
	if len(seen) != len(f.Groups)+1 {
		return fmt.Errorf("%d of %d groups are in the order", len(seen)-1, len(f.Groups))
	}
	return nil
}

func TestParseExternal(t *testing.T) {
	for text, want := range map[string]External{
		"a=/b":              {Path: "/b"},
		"a=/b:ro":           {Path: "/b", ReadOnly: true},
		`a=/b\:c\\d:shared`: {Path: `/b:c\d`, Shared: true},
		"a=/dev/sda:type=x": {Path: "/dev/sda", Type: "x"},
	} {
		if id, got, err := ParseExternal(text); err != nil || id != "a" || got != want {
			t.Errorf("%s: got %s, %+v, %v", text, id, got, err)
		}
	}
	for _, text := range []string{"", "a", "=/b", "a=b", "a=/b:rw", "a=/b:type=", "A=/b", "../a=/b", "a="} {
		if _, _, err := ParseExternal(text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// FuzzDecode: a file is refused, or it is a tree that can be put in order, and
// it is written as it was read.
func FuzzDecode(f *testing.F) {
	if text, err := os.ReadFile("testdata/machine.json"); err == nil {
		f.Add(text)
	}
	for seed := range uint64(20) {
		if tree, err := Build([][]Row{table(rand.New(rand.NewPCG(seed, 2)), 6)}, Around{}); err == nil {
			text, _ := tree.Encode()
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		tree, err := Decode(text)
		if err != nil {
			return
		}
		if err := ordered(tree); err != nil {
			t.Fatal(err)
		}
		out, err := tree.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(out)
		if err != nil {
			t.Fatalf("what was read is refused once it is written: %v\n%s", err, out)
		}
		if what := Differ(tree, again); what != "" {
			t.Fatal(what)
		}
		// Without a policy, nothing from outside is allowed.
		var p Policy
		if err := p.Check(tree, true); err == nil && slices.ContainsFunc(tree.Sources, func(s Source) bool { return s.External }) {
			t.Fatal("something from outside is allowed that nobody allowed")
		}
	})
}

// FuzzMountinfo: whatever a table says, what is made of it is refused or a file
// that can be read.
func FuzzMountinfo(f *testing.F) {
	if text, err := os.ReadFile("testdata/machine.mountinfo"); err == nil {
		f.Add(string(text))
	}
	if text, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		f.Add(string(text))
	}
	f.Fuzz(func(t *testing.T, text string) {
		rows, err := ParseMountinfo(text)
		if err == nil {
			built(t, rows)
		}
	})
}

func built(t *testing.T, rows []Row) {
	f, err := Build([][]Row{rows}, Around{Devices: map[uint64]bool{2049: true}})
	if err != nil {
		return
	}
	text, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Decode(text); err != nil {
		t.Fatalf("what was made of mounts is refused: %v\n%s", err, text)
	}
}

// FuzzStatmount: what the kernel writes is read within its bounds.
func FuzzStatmount(f *testing.F) {
	b := make([]byte, statmountSize+64)
	le := binary.NativeEndian
	le.PutUint32(b, uint32(len(b)))
	le.PutUint64(b[8:], Wanted&^(FSSubtype|MntUIDMap))
	copy(b[statmountSize:], "tmpfs\x00/\x00/a\x00rw,size=1k\x00src\x00")
	for at, off := range map[int]uint32{36: 0, 104: 6, 108: 8, 4: 11, 124: 22} {
		le.PutUint32(b[at:], off)
	}
	if r, err := ParseStatmount(b); err != nil || r.Type != "tmpfs" || r.Root != "/" || r.Point != "/a" || !slices.Equal(r.Options, []string{"size=1k"}) || r.Device != "src" {
		f.Fatalf("got %+v, %v", r, err)
	}
	f.Add(b)
	f.Add(b[:statmountSize])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseStatmount(b)
		if err == nil {
			r.Parent = 0
			built(t, []Row{r})
		}
	})
}

// TestPolicy: each id needs a meaning, of the right kind, and none has one that
// the file doesn't know.
func TestPolicy(t *testing.T) {
	text, err := os.ReadFile("testdata/machine.json")
	if err != nil {
		t.Fatal(err)
	}
	f, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	full := func() map[string]External {
		m := map[string]External{}
		for _, s := range f.Sources {
			if s.External {
				m[s.ID] = External{Path: "/x"}
			}
		}
		for _, g := range f.Groups {
			if g.Outside != "" {
				m[g.Outside] = External{Path: "/x"}
			}
		}
		return m
	}
	p := Policy{full()}
	if err := p.Check(f, true); err != nil {
		t.Fatal(err)
	}
	if err := p.Check(f, false); err == nil || !strings.Contains(err.Error(), "private users") {
		t.Errorf("owners without users: %v", err)
	}
	for id := range full() {
		p := Policy{full()}
		delete(p.External, id)
		var missing *Missing
		if err := p.Check(f, true); !errors.As(err, &missing) || missing.ID != id || missing.Target == "" {
			t.Errorf("without %s: %v", id, err)
		}
		if len(p.External) != len(full())-1 {
			t.Errorf("%s got a meaning", id)
		}
	}
	p.External["m-0"] = External{Path: "/x"}
	if err := p.Check(f, true); err == nil || !strings.Contains(err.Error(), "no external m-0") {
		t.Errorf("one too many: %v", err)
	}
}
