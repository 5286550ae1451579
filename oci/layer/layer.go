// Package layer unpacks the layers of images, which anybody may have made.
//
// What it guarantees: each name is opened below the directory of the layer, by
// descriptors, without following a link, in one pass that checks an entry and
// writes it; nothing is looked at twice. What a layer asks for that no layer
// needs (names that lead out, links on the way, markers that mean nothing,
// attributes of overlayfs) is an error that names the entry. A layer is as
// long, holds as many entries, and expands as much as Limits allow. Removed
// names become what overlayfs takes for removed: see whiteout.go.
//
// It refuses to know where a layer comes from and what becomes of it, and makes
// no device nodes: they are listed for somebody who may (Nodes).
//
// The first line of defence is Confine: the process that unpacks sees nothing
// but the directory to unpack into, and has no rights outside of it.
//
// Room: host.
package layer

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Limits bound what a layer may cost. Zero values mean the defaults.
type Limits struct {
	// Size is how many bytes the layer may have when it is expanded, and how
	// many all its files may have together, holes included.
	Size int64 `json:"size,omitempty"`
	// Entries is how many entries it may have.
	Entries int `json:"entries,omitempty"`
	// Ratio is how many times its packed size it may expand to, once it is
	// beyond a quarter of a GiB.
	Ratio int64 `json:"ratio,omitempty"`
	// Mine: files belong to who unpacks, who may not give any away.
	Mine bool `json:"mine,omitempty"`
}

// The default limits.
const (
	DefaultSize    = 64 << 30
	DefaultEntries = 2_000_000
	DefaultRatio   = 200
	// small is the expanded size up to which the ratio doesn't matter.
	small = 256 << 20
	// remembered is how many bytes of names may have to be kept in memory
	// until the end of the layer.
	remembered = 64 << 20
)

func (l Limits) filled() Limits {
	if l.Size == 0 {
		l.Size = DefaultSize
	}
	if l.Entries == 0 {
		l.Entries = DefaultEntries
	}
	if l.Ratio == 0 {
		l.Ratio = DefaultRatio
	}
	return l
}

// Node is a device node that the layer asks for.
type Node struct {
	Path string `json:"path"`
	// Mode holds the type and the permissions.
	Mode     uint32 `json:"mode"`
	Major    uint32 `json:"major"`
	Minor    uint32 `json:"minor"`
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Modified int64  `json:"modified"` // seconds
}

// Report is what a layer turned out to be.
type Report struct {
	// DiffID is the digest of the expanded layer.
	DiffID string `json:"diff_id"`
	// Size is how many bytes it has expanded; Entries how many entries.
	Size    int64 `json:"size"`
	Entries int   `json:"entries"`
	// Nodes are the device nodes that were not made.
	Nodes []Node `json:"nodes,omitempty"`
	// Implied are directories that the layer has files in, but doesn't name
	// itself: they look like those of the layers below.
	Implied []string `json:"implied,omitempty"`
}

// Unpack reads a layer, packed as its first bytes say, and makes its files
// below the directory root, which is empty. packed is how many bytes there are
// to be read. All of r is read.
func Unpack(root int, r io.Reader, packed int64, limits Limits) (Report, error) {
	limits = limits.filled()
	expanded, done, err := Expand(r)
	if err != nil {
		return Report{}, fmt.Errorf("read the layer: %w", err)
	}
	defer done()
	sum := sha256.New()
	counted := limits.Bound(io.TeeReader(expanded, sum), packed, "the layer")
	most := counted.left
	u := &unpacker{root: root, limits: limits, parents: map[string]int{"": root}, names: map[string]*known{}}
	defer u.close()
	if _, err := u.note("", directory); err != nil {
		return Report{}, err
	}
	if err := u.all(tar.NewReader(counted)); err != nil {
		return Report{}, err
	}
	// What stands behind the archive's end belongs to the digest.
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return Report{}, fmt.Errorf("read the layer: %w", err)
	}
	u.report.DiffID = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	u.report.Size = most - counted.left
	return u.report, nil
}

// Bound bounds what packed bytes expand to; what is a name for it.
func (l Limits) Bound(r io.Reader, packed int64, what string) *Bounded {
	l = l.filled()
	b := &Bounded{r: r, left: min(l.Size, max(small, packed*l.Ratio))}
	if b.left < l.Size {
		b.why = fmt.Errorf("%s expands to more than %d times its size", what, l.Ratio)
	} else {
		b.why = fmt.Errorf("%s has more than %d bytes", what, l.Size)
	}
	return b
}

// Bounded reads at most left bytes, and then gives the error why.
type Bounded struct {
	r    io.Reader
	left int64
	why  error
}

func (b *Bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, b.why
	}
	return n, err
}

// what is known of a name that the layer has spoken of.
type what uint8

const (
	named     what = 1 << iota // an entry is of this name
	removed                    // a marker removes it from the layers below
	directory                  // it is one
)

type known struct {
	is what
	// time is a directory's, set at the end: what is made in it changes it.
	time unix.StatxTimestamp
}

// unpacker is one layer under way.
type unpacker struct {
	root   int
	limits Limits
	report Report
	// names are the directories, and what markers speak of; kept is about how
	// many bytes they take.
	names    map[string]*known
	kept     int
	replaced int
	// parents are open directories, by name; order is the one they were opened
	// in.
	parents map[string]int
	order   []string
	written int64
	buf     []byte
}

func (u *unpacker) close() {
	for name, n := range u.parents {
		if name != "" {
			sys.Close(n)
		}
	}
}

// all unpacks every entry.
func (u *unpacker) all(t *tar.Reader) error {
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read entry %d of the layer: %w", u.report.Entries+1, err)
		}
		if u.report.Entries++; u.report.Entries > u.limits.Entries {
			return fmt.Errorf("the layer has more than %d entries", u.limits.Entries)
		}
		if err := u.entry(h, t); err != nil {
			return fmt.Errorf("entry %q of the layer: %w", short(h.Name), err)
		}
	}
	// Sorted, so that those with the same parent come together.
	for _, name := range slices.Sorted(maps.Keys(u.names)) {
		switch k := u.names[name]; {
		case k.is&directory == 0:
		case k.is&named == 0:
			u.report.Implied = append(u.report.Implied, name)
		default:
			n, err := u.parent(name)
			if err == nil {
				err = sys.Utimensat(n, "", k.time, k.time)
			}
			if err != nil {
				return fmt.Errorf("set the time of %q: %w", short(name), err)
			}
		}
	}
	return nil
}

// short makes a name fit into a sentence.
func short(name string) string {
	if len(name) > 200 {
		return name[:200] + "…"
	}
	return name
}

// clean gives the path of an entry below the layer's top, which is "", or says
// why it can't be one. There are tools that write all names from the root on.
func clean(name string) (string, error) {
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return "", errors.New("its name has a NUL byte")
	case len(name) >= unix.PathMax:
		return "", fmt.Errorf("its name has %d bytes, %d are possible", len(name), unix.PathMax-1)
	}
	parts := strings.Split(name, "/")
	kept := parts[:0]
	for _, p := range parts {
		switch {
		case p == "" || p == ".":
		case p == "..":
			return "", errors.New("its name leads out of the layer")
		case len(p) > 255:
			return "", fmt.Errorf("a part of its name has %d bytes, 255 are possible", len(p))
		default:
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "/"), nil
}

// cut parts a path into its directory and its last component.
func cut(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// note remembers something about a name.
func (u *unpacker) note(name string, w what) (*known, error) {
	k := u.names[name]
	if k == nil {
		if u.kept += len(name) + 128; u.kept > remembered {
			return nil, errors.New("the layer has too many directories to remember")
		}
		k = &known{}
		u.names[name] = k
	}
	k.is |= w
	return k, nil
}

// is tells what is known of a name.
func (u *unpacker) is(name string, w what) bool {
	k := u.names[name]
	return k != nil && k.is&w != 0
}

// openParents is how many directories are open at a time.
const openParents = 64

// below is how a name of the layer is opened.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV

// parent opens a directory of the layer; it stays open for the entries that
// follow, which mostly lie in the same one.
func (u *unpacker) parent(name string) (int, error) {
	if n, ok := u.parents[name]; ok {
		return n, nil
	}
	up, base := cut(name)
	at, ok := u.parents[up]
	if !ok {
		at, base = u.root, name
	}
	n, err := sys.Openat2(at, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, below)
	switch err {
	case nil:
	case unix.ELOOP:
		return -1, fmt.Errorf("it lies behind the link %q", short(name))
	case unix.ENOTDIR:
		return -1, fmt.Errorf("it lies in %q, which is no directory", short(name))
	default:
		return -1, err
	}
	if len(u.order) == openParents {
		sys.Close(u.parents[u.order[0]])
		delete(u.parents, u.order[0])
		u.order = u.order[:copy(u.order, u.order[1:])]
	}
	u.parents[name] = n
	u.order = append(u.order, name)
	return n, nil
}

// replacements is how many directories a layer may replace by something else.
// Each costs a look at all that are remembered.
const replacements = 1000

// forget closes the directories at and below a name that is going away.
func (u *unpacker) forget(name string) error {
	if u.replaced++; u.replaced > replacements {
		return fmt.Errorf("the layer replaces more than %d of its own directories", replacements)
	}
	kept := u.order[:0]
	for _, o := range u.order {
		if o == name || strings.HasPrefix(o, name+"/") {
			sys.Close(u.parents[o])
			delete(u.parents, o)
		} else {
			kept = append(kept, o)
		}
	}
	u.order = kept
	for other, k := range u.names {
		if other == name {
			k.is &= removed
		} else if strings.HasPrefix(other, name+"/") {
			delete(u.names, other)
		}
	}
	return nil
}

// within opens the directory that a name lies in, and makes it, and those above
// it, if the layer hasn't done that.
func (u *unpacker) within(name string) (int, error) {
	if n, ok := u.parents[name]; ok {
		return n, nil
	}
	up, base := cut(name)
	if u.is(name, removed) && !u.is(name, directory) {
		// It was made to be a marker, and is a directory after all.
		at, err := u.within(up)
		if err != nil {
			return -1, err
		}
		if st, err := sys.Statx(at, base, unix.STATX_TYPE); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
			if err := sys.Unlinkat(at, base, 0); err != nil {
				return -1, err
			}
		}
	}
	n, err := u.parent(name)
	if err != unix.ENOENT {
		return n, err
	}
	at, err := u.within(up)
	if err != nil {
		return -1, err
	}
	if err := sys.Mkdirat(at, base, 0o755); err != nil {
		return -1, fmt.Errorf("make its directory %q: %w", short(name), err)
	}
	k, err := u.note(name, directory)
	if err != nil {
		return -1, err
	}
	if n, err = u.parent(name); err == nil && k.is&removed != 0 {
		err = hide(n)
	}
	return n, err
}
