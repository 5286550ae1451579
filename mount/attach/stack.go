package attach

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
)

// stack makes the root of directories that lie over each other. The one
// directory that all of them are in is mounted once, with the machine's owners
// if it has any; whatever is opened below that mount has them, too, and so
// have the layers of an overlay that is made of it. The mount lies below the
// root's, where nobody gets to, and goes with the host's root.
func (t *Tree) stack(s plan.Step) error {
	base, err := sys.OpenTree(unix.AT_FDCWD, s.Path, unix.OPEN_TREE_CLONE)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Path, err)
	}
	defer sys.Close(base)
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if s.IDMap != mount.NoIDMap {
		ns, err := t.UserNS(s.IDMap, unix.Statx_t{}, unix.Statx_t{})
		if err != nil {
			return err
		}
		attr.Attr_set, attr.Userns_fd = unix.MOUNT_ATTR_IDMAP, uint64(ns)
	}
	if err := sys.MountSetattr(base, 0, &attr); err != nil {
		return fmt.Errorf("show %s with the machine's owners: %w", s.Path, err)
	}
	// An overlay takes only directories of attached mounts.
	if err := sys.MoveMount(base, t.at); err != nil {
		return fmt.Errorf("attach %s: %w", s.Path, err)
	}
	t.loose, err = layers(base, s)
	return err
}

// layers makes a detached overlay of the step. Its directories are looked up
// below base, which is s.Path.
func layers(base int, s plan.Step) (int, error) {
	var fds []int
	defer func() {
		for _, n := range fds {
			sys.Close(n)
		}
	}()
	open := func(name string) (int, error) {
		below, ok := strings.CutPrefix(name, s.Path+"/")
		if !ok {
			return -1, fmt.Errorf("%s does not lie in %s", name, s.Path)
		}
		n, err := sys.Openat2(base, below, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", name, err)
		}
		fds = append(fds, n)
		return n, nil
	}
	var lower []int
	for _, p := range s.Lower {
		n, err := open(p.Path)
		if err != nil {
			return -1, err
		}
		lower = append(lower, n)
	}
	upper, err := open(s.Source.Path)
	if err != nil {
		return -1, err
	}
	work, err := open(s.Options[0].Value)
	if err != nil {
		return -1, err
	}
	return Overlay("/proc", "overlay", lower, upper, work, s.Attr, append([]plan.Option{{Key: "userxattr"}}, s.Options[1:]...))
}
