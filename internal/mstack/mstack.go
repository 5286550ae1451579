// Package mstack knows what the names in the directory of a mount stack mean
// (systemd.mstack(7)): which are the layers of an overlay, which is what the
// machine writes to, and what is bound on top.
//
// What has no meaning, or two, is an error that names it: nothing in such a
// directory is left out in silence, but for names that begin with a dot. It
// refuses to know how a name is opened and how anything is mounted.
//
// Room: paper.
package mstack

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
)

// Use is what an entry is for.
type Use string

// The uses of entries.
const (
	Layer    Use = "layer"  // a lower layer
	Writable Use = "rw"     // its data is the upper layer, its work that one's work directory
	Bind     Use = "bind"   // is mounted on Where
	ReadOnly Use = "robind" // as before, read-only
	Root     Use = "root"   // the root, which gets only /usr from the layers
)

// The directories in an entry for Writable.
const (
	Data = "data"
	Work = "work"
)

// Node is a name in the directory, and the type of what is there (S_IF…); a
// link's is that of what it leads to, and Link is set. Of a directory of versions
// (NAME.v), it is the type of the version that was chosen, and Versions is set.
type Node struct {
	Name     string
	Mode     uint32
	Link     bool
	Versions bool
}

// Entry is a name that has a meaning.
type Entry struct {
	Name string `json:"name"`
	Use  Use    `json:"use"`
	// Key is a layer's place among the others; Where is where an entry is bound.
	Key   string `json:"key,omitempty"`
	Where string `json:"where,omitempty"`
	// Path is where the host has it, without links.
	Path string `json:"path,omitempty"`
	// Raw: it is a disk image, of which Volume is mounted, with sectors of that
	// size. Else it is a directory.
	Raw    bool        `json:"raw,omitempty"`
	Volume disk.Volume `json:"volume,omitzero"`
	Sector int         `json:"sector,omitempty"`
	// Data: an entry for Writable has its data directory already.
	Data bool `json:"data,omitempty"`
}

// Error says what is wrong with a stack.
type Error struct{ What, Hint string }

func (e *Error) Error() string { return e.What }

func bad(hint, format string, args ...any) error {
	return &Error{fmt.Sprintf(format, args...), hint}
}

// MostLayers is how many lower layers the kernel takes, Most how many entries
// there may be.
const (
	MostLayers = 500
	Most       = 1000
)

// The hints that many errors share.
const (
	known   = "entries are layer@ID, rw, bind@LOCATION, robind@LOCATION and root, directories or disk images with .raw behind the name"
	oneOnly = "leave one of them"
)

// Read gives the meaning of the names, layers first and lowest first, mounts
// sorted by where they go.
func Read(nodes []Node) ([]Entry, error) {
	var list []Entry
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, ".") {
			continue
		}
		if len(list) == Most {
			return nil, bad("make layers of fewer parts", "it has more than %d entries", Most)
		}
		e, err := read(n)
		if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		return nil, bad(known, "there is nothing in it")
	}
	slices.SortFunc(list, func(a, b Entry) int {
		if c := cmp.Compare(a.Use.rank(), b.Use.rank()); c != 0 {
			return c
		}
		if c := byPath(a.Where, b.Where); c != 0 {
			return c
		}
		if c := version(a.Key, b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	layers := 0
	for i, e := range list {
		if e.Use == Layer {
			layers++
		}
		if i == 0 {
			continue
		}
		switch was := list[i-1]; {
		case was.Use.rank() != e.Use.rank():
		case e.Use == Layer && version(was.Key, e.Key) == 0:
			return nil, bad("give one of them another ID", "nobody can tell which of %s and %s is the upper layer", was.Name, e.Name)
		case e.Use == Writable || e.Use == Root:
			return nil, bad(oneOnly, "%s and %s are both the stack's %s", was.Name, e.Name, e.Use)
		case e.Where != "" && was.Where == e.Where:
			return nil, bad(oneOnly, "%s and %s are both for %s", was.Name, e.Name, e.Where)
		}
	}
	if layers > MostLayers {
		return nil, bad("make one layer of some of them", "it has %d layers, and the kernel takes at most %d", layers, MostLayers)
	}
	return list, nil
}

// rank sorts entries by what they are for.
func (u Use) rank() int {
	switch u {
	case Layer:
		return 0
	case Writable:
		return 1
	case Root:
		return 2
	}
	return 3
}

func version(a, b string) int {
	switch {
	case disk.Newer(a, b):
		return 1
	case disk.Newer(b, a):
		return -1
	}
	return 0
}

// byPath puts a directory before what is in it.
func byPath(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func read(n Node) (e Entry, err error) {
	e.Name = n.Name
	base := n.Name
	if n.Versions {
		base = strings.TrimSuffix(base, ".v")
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFREG:
		ok := false
		if base, ok = strings.CutSuffix(base, ".raw"); !ok {
			return e, bad(known, "%s is a file whose name does not end in .raw", n.Name)
		}
		e.Raw = true
	case unix.S_IFBLK:
		return e, bad("use a disk image, or a directory that the device is mounted on", "%s is a block device, which launch doesn't take as a part of a stack", n.Name)
	default:
		return e, bad(known, "%s is neither a directory nor a file", n.Name)
	}
	kind, of, at := strings.Cut(base, "@")
	switch {
	case !at && base == "rw":
		e.Use = Writable
	case !at && base == "root":
		e.Use = Root
	case at && kind == "layer" && of != "":
		e.Use, e.Key = Layer, of
	case at && (kind == "bind" || kind == "robind") && of != "":
		e.Use = Bind
		if kind == "robind" {
			e.Use = ReadOnly
		}
		if e.Where, err = Unescape(of); err != nil {
			return e, bad("the location is written as in the name of a mount unit: systemd-escape --path /srv/www", "%s names no place: %v", n.Name, err)
		}
	default:
		return e, bad(known, "%s has no meaning in a stack", n.Name)
	}
	if n.Link && e.Use != Layer && e.Use != ReadOnly {
		return e, bad("put the directory itself there; links can be layers and read-only binds", "%s is a link, and the machine could write to what that leads to", n.Name)
	}
	return e, nil
}

// Unescape gives the absolute path that a part of a unit's name stands for: a
// dash is a slash, and \xNN any byte. What is no path in its simplest form is an
// error.
func Unescape(name string) (string, error) {
	if name == "-" {
		return "/", nil
	}
	b := []byte{'/'}
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '-':
			b = append(b, '/')
		case c == '\\':
			if len(name) < i+4 || name[i+1] != 'x' {
				return "", fmt.Errorf("%q is cut, or no escape", name[i:])
			}
			v, err := strconv.ParseUint(name[i+2:i+4], 16, 8)
			if err != nil || v == 0 {
				return "", fmt.Errorf("%q is no byte that a path can have", name[i:i+4])
			}
			b = append(b, byte(v))
			i += 3
		default:
			b = append(b, c)
		}
	}
	where := string(b)
	if where == "/" || path.Clean(where) != where {
		return "", fmt.Errorf("%q is not in its simplest form", where)
	}
	return where, nil
}

// Tree is how a stack becomes a machine's root.
type Tree struct {
	// Root is the one entry that is the root. Without one, the root is an overlay
	// of Layers and Upper or, where these have only /usr or there are none, an
	// empty file system in memory.
	Root *Entry
	// Layers are lowest first; the last may be an entry for Writable, whose data
	// is shown. Upper is over them and takes what is written.
	Layers []Entry
	Upper  *Entry
	// Usr: of Layers and Upper, only /usr is seen, and lies on Root's.
	Usr bool
	// Binds are sorted by where they go, none is for the root itself.
	Binds []Entry
}

// Arrange puts the entries together. Frozen: nothing is written to any of them.
func Arrange(list []Entry, frozen bool) (t Tree) {
	var root *Entry
	usr := false
	for i := range list {
		switch e := &list[i]; {
		case e.Use == Layer:
			t.Layers = append(t.Layers, *e)
		case e.Use == Writable:
			t.Upper = e
		case e.Use == Root:
			t.Usr, t.Root = true, e
		case e.Where == "/":
			root = e
		default:
			usr = usr || e.Where == "/usr"
			t.Binds = append(t.Binds, *e)
		}
	}
	switch {
	case root != nil: // it hides all else
		t.Root, t.Layers, t.Upper, t.Usr = root, nil, nil, false
	case t.Usr && usr:
		t.Layers, t.Upper, t.Usr = nil, nil, false
	case t.Usr && len(t.Layers) == 0 && t.Upper == nil:
		t.Usr = false
	}
	if frozen && t.Upper != nil && len(t.Layers) > 0 {
		if t.Upper.Data {
			t.Layers = append(slices.Clip(t.Layers), *t.Upper)
		}
		t.Upper = nil
	}
	if t.Usr {
		return t
	}
	// One alone needs no overlay, and is what is written to, if it may be.
	switch {
	case len(t.Layers) == 1 && t.Upper == nil:
		t.Root, t.Layers = &t.Layers[0], nil
	case len(t.Layers) == 0 && t.Upper != nil:
		t.Root, t.Upper = t.Upper, nil
	}
	return t
}

// Writes reports whether an entry is for writing.
func (e *Entry) Writes() bool { return e.Use != Layer && e.Use != ReadOnly }

// Writable reports whether the machine can write to its root.
func (t *Tree) Writable() bool {
	switch {
	case t.Root != nil:
		return t.Root.Writes()
	case len(t.Layers) > 0:
		return t.Upper != nil
	}
	return true
}

// Changes reports whether anything of the stack may be written to.
func (t *Tree) Changes() bool {
	return t.Root != nil && t.Root.Writes() || t.Upper != nil || slices.ContainsFunc(t.Binds, func(e Entry) bool { return e.Writes() })
}
