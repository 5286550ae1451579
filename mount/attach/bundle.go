package attach

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/mount"
)

// This file has the steps that only bundles need.

// propagate sets the propagation of a mount that is in its place.
func propagate(n int, list []uint64) error {
	for _, p := range list {
		flags := uint(0)
		if p&unix.MS_REC != 0 {
			flags = unix.AT_RECURSIVE
		}
		if err := sys.MountSetattr(n, flags, &unix.MountAttr{Propagation: p &^ unix.MS_REC}); err != nil {
			return fmt.Errorf("set the propagation: %w", err)
		}
	}
	return nil
}

// cutOff makes the mount that the seat lies in private: what is attached there
// would reach the host.
func (t *Tree) cutOff() error {
	at, err := sys.Dup(t.at)
	if err != nil {
		return err
	}
	defer func() { sys.Close(at) }()
	for {
		st, err := sys.Statx(at, "", unix.STATX_MNT_ID)
		if err != nil {
			return err
		}
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return sys.MountSetattr(at, 0, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
		}
		up, err := sys.Openat(at, "..", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		sys.Close(at)
		at = up
	}
}

// like gives a new file system the mode of what it covers, if there is
// something.
func (t *Tree) like(s plan.Step) (plan.Step, error) {
	n, err := t.resolve(s.Target)
	if err == unix.ENOENT {
		s.CopyUp = false
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("open %s: %w", s.Target, err)
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_MODE)
	if err == nil && s.Like {
		s.Options = append(s.Options[:len(s.Options):len(s.Options)], plan.Option{Key: "mode", Value: fmt.Sprintf("%04o", st.Mode&0o7777)})
	}
	return s, err
}

// copyUp fills a new file system with what the target holds. The copy is made
// below a name of its own, and its parts move up from there.
func (t *Tree) copyUp(n int, s plan.Step) error {
	from, err := t.resolve(s.Target)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Target, err)
	}
	defer sys.Close(from)
	const name = ".#copy"
	if _, err := tree.Copy(from, n, name, nil); err != nil {
		return fmt.Errorf("copy what %s holds: %w", s.Target, err)
	}
	up, err := sys.Openat(n, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer sys.Close(up)
	st, err := sys.Statx(up, "", unix.STATX_UID|unix.STATX_GID)
	if err != nil {
		return err
	}
	names, err := sys.Names(up)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := sys.Renameat2(up, name, n, name, unix.RENAME_NOREPLACE); err != nil {
			return fmt.Errorf("move %s up: %w", name, err)
		}
	}
	if err := sys.Unlinkat(n, name, unix.AT_REMOVEDIR); err != nil {
		return err
	}
	return sys.Fchownat(n, "", st.Uid, st.Gid)
}

// parent opens the directory that the step's target lies in, and makes what is
// missing of it.
func (t *Tree) parent(s plan.Step) (int, error) {
	dir := path.Dir(s.Target)
	return t.target(plan.Step{Target: dir, Mode: 0o755}, unix.S_IFDIR)
}

// node makes a device node, or, where that is not allowed, binds the host's.
func (t *Tree) node(s plan.Step) error {
	dir, err := t.parent(s)
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	e := s.Content[0]
	switch st, err := sys.Statx(dir, e.Path, unix.STATX_TYPE|unix.STATX_MODE); {
	case err == nil:
		if uint32(st.Mode)&unix.S_IFMT == e.Mode&unix.S_IFMT && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == e.Dev {
			return nil
		}
		if st.Size != 0 || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return errors.New("something else is there already")
		}
		// An empty file, as binding the device leaves behind.
		return t.hostNode(s)
	case err != unix.ENOENT:
		return err
	}
	err = sys.Mknodat(dir, e.Path, e.Mode, e.Dev)
	if err == unix.EPERM && e.Mode&unix.S_IFMT != unix.S_IFIFO {
		return t.hostNode(s)
	}
	if err != nil {
		return err
	}
	uid, gid := t.HostID(e.UID, e.GID)
	if uid|gid == 0 {
		return nil
	}
	return sys.Fchownat(dir, e.Path, uid, gid)
}

// hostNode binds the host's node of the same name.
func (t *Tree) hostNode(s plan.Step) error {
	e := s.Content[0]
	n, err := sys.OpenTree(unix.AT_FDCWD, s.Target, unix.OPEN_TREE_CLONE)
	if err != nil {
		return fmt.Errorf("open the host's: %w", err)
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	if uint32(st.Mode)&unix.S_IFMT != e.Mode&unix.S_IFMT || unix.Mkdev(st.Rdev_major, st.Rdev_minor) != e.Dev {
		return fmt.Errorf("the host's %s is another device", s.Target)
	}
	return t.place(n, s, e.Mode&unix.S_IFMT)
}

// link makes a symlink somewhere in the tree, unless there is something.
func (t *Tree) link(s plan.Step) error {
	dir, err := t.parent(s)
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	name := path.Base(s.Target)
	if _, err := sys.Statx(dir, name, unix.STATX_TYPE); err != unix.ENOENT {
		if err != nil || name != "ptmx" {
			return err
		}
		// The host's would open the host's terminals.
		if to, err := sys.Readlinkat(dir, name); err == nil && to == s.Source.Path {
			return nil
		}
		if err := sys.Unlinkat(dir, name, 0); err != nil {
			return err
		}
	}
	if err := sys.Symlinkat(s.Source.Path, dir, name); err != nil {
		return err
	}
	if t.UID|t.GID == 0 {
		return nil
	}
	return sys.Fchownat(dir, name, t.UID, t.GID)
}

// copyLink makes the target a link. One that is there must be the same.
func (t *Tree) copyLink(s plan.Step, to string) error {
	s.Source = mount.Path{Path: to}
	if dir := path.Dir(s.Target); dir != "/" {
		if err := t.MakeDir(dir); err != nil {
			return err
		}
	}
	dir, err := t.parent(s)
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	name := path.Base(s.Target)
	switch have, err := sys.Readlinkat(dir, name); {
	case err == nil && have == to:
		return nil
	case err == nil:
		return fmt.Errorf("make %s a link to %s: it is one to %s", s.Target, to, have)
	case err != unix.ENOENT:
		return fmt.Errorf("make %s a link: something else is there", s.Target)
	}
	return t.owned(func() error { return sys.Symlinkat(to, dir, name) })
}

// hide puts an empty directory that can't be written to, or the null device,
// on the target.
func (t *Tree) hide(s plan.Step) error {
	to, err := t.resolve(s.Target)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(to)
	st, err := sys.Statx(to, "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	var n int
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		n, err = t.empty(s)
	} else {
		n, err = t.null()
	}
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return sys.MoveMount(n, to)
}

func (t *Tree) empty(s plan.Step) (int, error) {
	options := []plan.Option{{Key: "nr_blocks", Value: "1"}, {Key: "nr_inodes", Value: "1"}, {Key: "ro"}}
	if t.UID != 0 {
		options = append(options, plan.Option{Key: "uid", Value: fmt.Sprint(t.UID)}, plan.Option{Key: "gid", Value: fmt.Sprint(t.GID)})
	}
	return t.fs("tmpfs", "tmpfs", options, s.Attr)
}

// null gives the host's null device as a mount. Not the tree's: who can change
// the tree could put anything there.
func (t *Tree) null() (int, error) {
	n, err := sys.OpenTree(t.host, "dev/null", unix.OPEN_TREE_CLONE|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, fmt.Errorf("open the host's /dev/null: %w", err)
	}
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev_major != 1 || st.Rdev_minor != 3) {
		err = errors.New("the host's /dev/null is not the null device")
	}
	if err == nil {
		// The host's /dev is shared with others, what is masked with is not.
		err = sys.MountSetattr(n, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE})
	}
	if err != nil {
		sys.Close(n)
		return -1, err
	}
	return n, nil
}

// guard binds the target onto itself, with more flags.
func (t *Tree) guard(s plan.Step) error {
	to, err := t.resolve(s.Target)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(to)
	return cover(to, to, unix.AT_RECURSIVE, s.Attr)
}

// cgroups shows the container cgroups: with cgroup2 those of its cgroup
// namespace, whether that is its own or the host's; with cgroup v1 its own
// cgroups, by file systems of its namespace (Type own) or by binding the
// host's directories.
func (t *Tree) cgroups(s plan.Step) error {
	source := s.Source.Path
	if source == "" {
		source = "cgroup"
	}
	unified, err := t.unified()
	if err != nil {
		return err
	}
	if unified {
		n, err := t.fs("cgroup2", source, nil, s.Attr)
		if err == unix.EPERM && s.Type != "own" {
			// In users of his own, somebody who shares the host's cgroup
			// namespace may bind what he sees.
			if n, err = sys.OpenTree(t.host, "sys/fs/cgroup", unix.OPEN_TREE_CLONE); err == nil {
				err = setattr(n, s.Attr, false)
			}
		}
		if err != nil {
			return err
		}
		defer sys.Close(n)
		if err := t.place(n, s, unix.S_IFDIR); err != nil {
			return err
		}
		return propagate(n, s.Propagation)
	}
	// Nothing in a cgroup file system is a device or a program.
	s.Attr |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	text, err := t.Cgroup()
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	own := s.Type == "own"
	base, err := t.fs("tmpfs", "tmpfs", []plan.Option{{Key: "mode", Value: "0755"}}, s.Attr&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer sys.Close(base)
	if err := t.place(base, s, unix.S_IFDIR); err != nil {
		return err
	}
	for _, line := range lines {
		_, rest, _ := strings.Cut(line, ":")
		names, rest, _ := strings.Cut(rest, ":")
		if names == "" {
			continue // cgroup2 has no controllers in such a layout
		}
		if err := t.hierarchy(base, names, rest, own, s.Attr); err != nil {
			return fmt.Errorf("hierarchy %s: %w", names, err)
		}
	}
	if s.Attr&unix.MOUNT_ATTR_RDONLY != 0 {
		if err := setattr(base, unix.MOUNT_ATTR_RDONLY, false); err != nil {
			return err
		}
	}
	return propagate(base, s.Propagation)
}

// unified reports whether the host shows cgroup2 alone.
func (t *Tree) unified() (bool, error) {
	n, err := sys.Openat(t.host, "sys/fs/cgroup", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open the host's /sys/fs/cgroup: %w", err)
	}
	defer sys.Close(n)
	st, err := sys.Fstatfs(n)
	return st.Type == unix.CGROUP2_SUPER_MAGIC, err
}

// hierarchy shows one hierarchy of cgroup v1 in a directory of base.
func (t *Tree) hierarchy(base int, names, where string, own bool, attr uint64) error {
	dir, source := names, "cgroup"
	var options []plan.Option
	if strings.HasPrefix(names, "name=") {
		dir = strings.TrimPrefix(names, "name=")
		source = dir
		options = []plan.Option{{Key: "none"}, {Key: "name", Value: dir}}
	} else {
		for c := range strings.SplitSeq(names, ",") {
			options = append(options, plan.Option{Key: c})
		}
	}
	// The host's directory tells whether it shows that hierarchy at all.
	n, err := sys.OpenTree(unix.AT_FDCWD, path.Join("/sys/fs/cgroup", dir, where), unix.OPEN_TREE_CLONE)
	if err == unix.ENOENT {
		return nil
	}
	if err == nil && own {
		sys.Close(n)
		n, err = t.fs("cgroup", source, options, attr)
	} else if err == nil {
		err = setattr(n, attr, false)
	}
	if err != nil {
		return err
	}
	defer sys.Close(n)
	entries := []plan.Entry{{Path: dir, Mode: unix.S_IFDIR | 0o755}}
	if strings.Contains(names, ",") {
		for c := range strings.SplitSeq(names, ",") {
			entries = append(entries, plan.Entry{Path: c, Mode: unix.S_IFLNK, Data: dir})
		}
	}
	if err := t.fill(base, entries); err != nil {
		return err
	}
	to, err := sys.Openat(base, dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer sys.Close(to)
	return sys.MoveMount(n, to)
}

// terminal binds the machine's terminal on the target.
func (t *Tree) terminal(s plan.Step) error {
	if t.TTY < 0 {
		return nil
	}
	from, err := sys.Openat2(t.root, fmt.Sprintf("/dev/pts/%d", t.TTY), unix.O_PATH|unix.O_NOFOLLOW, 0, sys.InRoot)
	if err != nil {
		return fmt.Errorf("open the container's terminal: %w", err)
	}
	defer sys.Close(from)
	n, err := sys.OpenTree(from, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return t.place(n, s, unix.S_IFCHR)
}
