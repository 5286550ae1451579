package store

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Directory is what a directory looks like.
type Directory struct {
	Path string `json:"path"` // "" is the root
	Mode uint32 `json:"mode"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	// Seconds and Nanos are when it was changed.
	Seconds int64  `json:"seconds"`
	Nanos   uint32 `json:"nanos,omitempty"`
	// Attributes are its extended ones.
	Attributes map[string][]byte `json:"attributes,omitempty"`
}

// Dirs finds out what directories look like that layers have files in, but do
// not name: as in the layers below. implied lists them for each layer, lowest
// first. The first one is the root; the others are those that a layer of their
// own must say it for, and each comes with those that it lies in, which come
// first.
func (s *Store) Dirs(diffIDs []string, implied [][]string) (root Directory, list []Directory, err error) {
	c := &chain{implied: make([]map[string]bool, len(diffIDs))}
	defer func() {
		for _, n := range c.roots {
			sys.Close(n)
		}
	}()
	asked := map[string]bool{}
	for n, d := range diffIDs {
		tree, err := s.Tree(d)
		if err != nil {
			return root, nil, fmt.Errorf("open layer %s: %w", d, err)
		}
		c.roots = append(c.roots, tree)
		c.implied[n] = map[string]bool{}
		for _, p := range implied[n] {
			c.implied[n][p] = true
			asked[p] = asked[p] || n > 0
		}
	}
	wanted := map[string]bool{}
	for p := range asked {
		if !asked[p] || p == "" {
			continue
		}
		_, found, err := c.look(p)
		if err != nil {
			return root, nil, fmt.Errorf("look at %q in the layers: %w", p, err)
		}
		for ; found == below && p != "." && p != ""; p = path.Dir(p) {
			wanted[p] = true
		}
	}
	for _, p := range append([]string{""}, slices.Sorted(maps.Keys(wanted))...) {
		d, _, err := c.look(p)
		if err != nil {
			return root, nil, fmt.Errorf("look at %q in the layers: %w", p, err)
		}
		if p == "" {
			root = d
		} else {
			list = append(list, d)
		}
	}
	return root, list, nil
}

// chain is layers over each other.
type chain struct {
	roots   []int
	implied []map[string]bool
}

// what a layer has in the place of a directory.
type found uint8

const (
	nothing found = iota
	shut          // something that hides all below
	plainly       // the directory
	last          // the directory, and nothing from below
)

// said is where a chain says what a directory looks like.
type said uint8

const (
	nowhere said = iota // no layer names it
	above               // in the topmost layer that has it
	below               // below one that has files in it, and doesn't name it
)

// look finds the directory as the whole chain should show it.
func (c *chain) look(p string) (d Directory, where said, err error) {
	// One that nobody names belongs to who unpacked it.
	d = Directory{Path: p, Mode: 0o755, UID: uint32(unix.Geteuid()), GID: uint32(unix.Getegid())}
	where = above
	for n := len(c.roots) - 1; n >= 0; n-- {
		f, fd, err := probe(c.roots[n], p)
		if err != nil {
			return d, nowhere, err
		}
		if f == shut {
			break
		}
		if f != nothing {
			if !c.implied[n][p] {
				err = d.read(fd)
				sys.Close(fd)
				return d, where, err
			}
			sys.Close(fd)
			where = below
		}
		if f == last {
			break
		}
	}
	return d, nowhere, nil
}

// probe looks for the directory in one layer, component by component: what is
// no directory on the way, or hides what is below, counts.
func probe(root int, p string) (f found, fd int, err error) {
	at, err := sys.Openat(root, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nothing, -1, err
	}
	hides := hidden(at)
	for part := range strings.SplitSeq(p, "/") {
		if part == "" {
			break
		}
		st, err := sys.Statx(at, part, unix.STATX_TYPE)
		missing := err == unix.ENOENT
		next := -1
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			next, err = sys.Openat2(at, part, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		}
		sys.Close(at)
		switch {
		case missing && hides:
			return shut, -1, nil
		case missing:
			return nothing, -1, nil
		case err != nil:
			return nothing, -1, err
		case next < 0:
			return shut, -1, nil
		}
		at = next
		hides = hides || hidden(at)
	}
	if hides {
		return last, at, nil
	}
	return plainly, at, nil
}

// hidden tells whether overlayfs shows nothing from below in the directory.
func hidden(fd int) bool {
	var b [1]byte
	n, err := sys.Fgetxattr(fd, opaque, b[:])
	return err == nil && n == 1 && b[0] == 'y'
}

const opaque = "user.overlay.opaque"

// read takes what is to be known from an open directory.
func (d *Directory) read(fd int) error {
	st, err := sys.Statx(fd, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return err
	}
	d.Mode, d.UID, d.GID = uint32(st.Mode)&0o7777, st.Uid, st.Gid
	d.Seconds, d.Nanos = st.Mtime.Sec, st.Mtime.Nsec
	names := make([]byte, 64<<10)
	n, err := sys.Flistxattr(fd, names)
	if err != nil && err != unix.EOPNOTSUPP {
		return err
	}
	for name := range strings.SplitSeq(string(names[:max(n, 0)]), "\x00") {
		if name == "" || strings.HasPrefix(name, "user.overlay.") || strings.HasPrefix(name, "security.selinux") {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := sys.Fgetxattr(fd, name, value)
		if err != nil {
			return err
		}
		if d.Attributes == nil {
			d.Attributes = map[string][]byte{}
		}
		d.Attributes[name] = value[:n]
	}
	return nil
}

// makeDirs makes the directories below one.
func makeDirs(upper int, list []Directory) error {
	open := func(d Directory) (int, error) {
		name := d.Path
		if name == "" {
			name = "."
		}
		return sys.Openat2(upper, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	}
	for _, d := range list {
		if d.Path != "" {
			if err := sys.Mkdirat(upper, d.Path, 0o700); err != nil && err != unix.EEXIST {
				return fmt.Errorf("make %q: %w", d.Path, err)
			}
		}
		n, err := open(d)
		if err == nil {
			if err = sys.Fchownat(n, "", d.UID, d.GID); err == nil {
				err = sys.Fchmod(n, d.Mode)
			}
			for name, value := range d.Attributes {
				if err == nil {
					err = sys.Fsetxattr(n, name, value)
				}
			}
			sys.Close(n)
		}
		if err != nil {
			return fmt.Errorf("make %q: %w", d.Path, err)
		}
	}
	// Times last: what is made in a directory changes them.
	for _, d := range list {
		if d.Seconds == 0 && d.Nanos == 0 {
			continue
		}
		n, err := open(d)
		if err == nil {
			t := unix.StatxTimestamp{Sec: d.Seconds, Nsec: d.Nanos}
			err = sys.Utimensat(n, "", t, t)
			sys.Close(n)
		}
		if err != nil {
			return fmt.Errorf("set the time of %q: %w", d.Path, err)
		}
	}
	return nil
}
