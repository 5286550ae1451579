package attach

import (
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
	"launch/mount/loop"
)

// partOfFile is the part of a disk image, open as file, that the step mounts.
func partOfFile(file int, s plan.Step) loop.Part {
	p := loop.Part{File: file, Start: s.Start, Size: s.Size, Sector: s.Sector, Type: s.Type,
		ReadOnly: s.Attr&unix.MOUNT_ATTR_RDONLY != 0, Attr: s.Attr}
	for _, o := range s.Options {
		if o.Value != "" {
			o.Key += "=" + o.Value
		}
		p.Options = append(p.Options, o.Key)
	}
	return p
}

// disk mounts a part of the image: as the root, which idmap and chown wait for,
// or on its target in the tree.
func (t *Tree) disk(s plan.Step) error {
	n, err := loop.Mount(partOfFile(t.Image, s))
	if err != nil {
		return err
	}
	if s.Target == "/" {
		t.loose = n
		return nil
	}
	defer func() { sys.Close(n) }()
	if err := t.seat(); err != nil {
		return err
	}
	if s.Part != "" {
		if n, err = t.partOf(n, s.Part); err != nil {
			return err
		}
	}
	if s.IDMap != mount.NoIDMap {
		ns, err := t.UserNS(s.IDMap, unix.Statx_t{}, unix.Statx_t{})
		if err != nil {
			return err
		}
		err = sys.MountSetattr(n, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)})
		if s.Fallback == plan.Chown && (err == unix.EINVAL || err == unix.EOPNOTSUPP) {
			err = t.Chown(n)
		}
		if err != nil {
			return fmt.Errorf("map owners: %w", err)
		}
	} else if s.Fallback == plan.Chown {
		if err := t.Chown(n); err != nil {
			return fmt.Errorf("change owners: %w", err)
		}
	}
	return t.place(n, s, unix.S_IFDIR)
}

// partOf takes a directory of a file system that is attached nowhere, and lets
// go of the rest. The kernel gives a part only of what is attached in this
// namespace, so that is done for a moment, on top of the root.
func (t *Tree) partOf(n int, part string) (int, error) {
	if err := sys.MoveMount(n, t.root); err != nil {
		return n, err
	}
	at, err := openPart(n, part)
	if err != nil {
		return n, err
	}
	defer sys.Close(at)
	some, err := sys.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return n, err
	}
	err = sys.Fchdir(t.l, n)
	if err == nil {
		err = sys.Umount(".", unix.MNT_DETACH)
	}
	if err == nil {
		err = sys.Fchdir(t.l, t.host)
	}
	sys.Close(n)
	if err != nil {
		return some, fmt.Errorf("take the image's root away again: %w", err)
	}
	return some, nil
}
