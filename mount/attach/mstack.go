package attach

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/mstack"
	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
	"launch/mount/loop"
	"launch/userns"
)

// take mounts an entry of a mount stack: as the root, on the step's target, or
// where the root will hide it, for the pile that follows.
func (t *Tree) take(s plan.Step) error {
	raw := s.Type != ""
	n, err := t.entryMount(s)
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			sys.Close(n)
		}
	}()
	if len(s.Content) > 0 {
		if err := t.furnish(n, s); err != nil {
			return err
		}
	}
	attr := unix.MountAttr{Attr_set: s.Attr, Propagation: unix.MS_PRIVATE}
	if s.Attr&unix.MOUNT_ATTR_RDONLY == 0 {
		attr.Attr_clr = unix.MOUNT_ATTR_RDONLY
	}
	if s.IDMap != mount.NoIDMap {
		ns, err := t.UserNS(s.IDMap, unix.Statx_t{}, unix.Statx_t{})
		if err != nil {
			return err
		}
		attr.Attr_set, attr.Userns_fd = attr.Attr_set|unix.MOUNT_ATTR_IDMAP, uint64(ns)
	}
	if err := sys.MountSetattr(n, 0, &attr); err != nil {
		if s.IDMap != mount.NoIDMap {
			err = fmt.Errorf("map owners: %w", err)
		}
		return err
	}
	switch s.Target {
	case "/":
		t.loose, keep = n, true
		return nil
	case "":
		// An overlay takes only directories of attached mounts. The pile takes
		// them away again.
		if err := sys.MoveMount(n, t.at); err != nil {
			return fmt.Errorf("attach it: %w", err)
		}
		keep = true
		t.layers = append(t.layers, layerAt{n, n})
		if s.Part != "" {
			t.layers[len(t.layers)-1].dir, err = inEntry(n, s.Part)
		}
		return err
	}
	if err := t.seat(); err != nil {
		return err
	}
	if s.Part != "" && raw {
		if n, err = t.partOf(n, s.Part); err != nil {
			return err
		}
	}
	return t.place(n, s, unix.S_IFDIR)
}

// entryMount gives a detached mount of what the step takes, which is what was
// looked at when the plan was made. Of a directory, that is the part.
func (t *Tree) entryMount(s plan.Step) (int, error) {
	pin, ok := t.Pins[s.Source.Path]
	if !ok {
		return -1, fmt.Errorf("nobody has looked at it")
	}
	if s.Type != "" {
		return loop.Mount(partOfFile(pin, s))
	}
	// By path again: the kernel clones only mounts of this namespace, and the pin
	// is of the host's.
	at, err := sys.Openat2(unix.AT_FDCWD, s.Source.Path, unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, err
	}
	defer func() { sys.Close(at) }()
	if err := same(at, pin); err != nil {
		return -1, err
	}
	if s.Part != "" && s.Target != "" {
		below, err := inEntry(at, s.Part)
		if err != nil {
			return -1, err
		}
		sys.Close(at)
		at = below
	}
	open := sys.OpenTree
	if s.IDMap != mount.NoIDMap {
		open = openBare
	}
	return open(at, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
}

// inEntry opens a directory of an entry. The way there means what it means in
// the machine, its end is no link.
func inEntry(n int, part string) (int, error) {
	in := n
	if i := strings.LastIndexByte(part, '/'); i >= 0 {
		var err error
		if in, err = sys.Openat2(n, part[:i], unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot); err != nil {
			return -1, fmt.Errorf("open its %s: %w", part[:i], err)
		}
		defer sys.Close(in)
		part = part[i+1:]
	}
	at, err := sys.Openat2(in, part, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return -1, fmt.Errorf("open its %s: %w", part, err)
	}
	return at, nil
}

// furnish makes the directories that an entry needs to be written to. The mount
// has no map of owners yet, so they get what the map will show as the machine's.
func (t *Tree) furnish(n int, s plan.Step) error {
	uid, gid := t.UID, t.GID
	switch s.IDMap {
	case mount.NoIDMap:
	case mount.ForeignIDMap:
		uid, gid = userns.ForeignBase, userns.ForeignBase
	default:
		uid, gid = 0, 0
	}
	for _, e := range s.Content {
		if err := sys.MakeAs(t.l, uid, gid, func() error { return t.entry(n, e, false) }); err != nil {
			return fmt.Errorf("make its %s: %w", e.Path, err)
		}
	}
	return nil
}

// layerAt is a layer that was taken: its mount, and what is seen of that.
type layerAt struct{ mount, dir int }

// letGo closes the layers.
func (t *Tree) letGo() {
	for _, l := range t.layers {
		if l.dir >= 0 && l.dir != l.mount {
			sys.Close(l.dir)
		}
		sys.Close(l.mount)
	}
	t.layers = nil
}

// pile makes an overlay of the layers that were taken.
func (t *Tree) pile(s plan.Step) error {
	defer t.letGo()
	var lower []int
	for _, l := range t.layers {
		lower = append(lower, l.dir)
	}
	upper, work := -1, -1
	if s.Attr&unix.MOUNT_ATTR_RDONLY == 0 {
		top := lower[len(lower)-1]
		lower = lower[:len(lower)-1]
		var err error
		if upper, err = inEntry(top, mstack.Data); err != nil {
			return err
		}
		defer sys.Close(upper)
		if work, err = inEntry(top, mstack.Work); err != nil {
			return err
		}
		defer sys.Close(work)
	}
	// What overlayfs notes at files, such as those that were removed, belongs to
	// the layers, which may come from another tool.
	n, err := Overlay("/proc", s.Path, lower, upper, work, s.Attr, []plan.Option{{Key: "userxattr"}})
	if err != nil {
		return err
	}
	keep := false
	defer func() {
		if !keep {
			sys.Close(n)
		}
	}()
	// The overlay has them now; where they are attached, they would cover a root
	// that is there already.
	for _, l := range slices.Backward(t.layers) {
		if err := sys.Fchdir(t.l, l.mount); err != nil {
			return err
		}
		if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
			return fmt.Errorf("take the layers away again: %w", err)
		}
	}
	if err := sys.Fchdir(t.l, t.host); err != nil {
		return err
	}
	if s.Target == "/" {
		t.loose, keep = n, true
		return nil
	}
	if err := t.seat(); err != nil {
		return err
	}
	if s.Part != "" {
		if n, err = t.partOf(n, s.Part); err != nil {
			return err
		}
	}
	return t.place(n, s, unix.S_IFDIR)
}
