package layer

import (
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Room is what a confined process sees: one directory and what is below it.
type Room struct {
	l   sys.Locked
	top int
}

// Confine shuts the calling process up in a directory of the host's. The
// process has just been born into a user, mount and network namespace of its
// own and runs nothing else. From then on no link is followed there, and no
// device, setuid file or program works.
func Confine(l sys.Locked, dir string) (*Room, error) {
	fail := func(what string, err error) (*Room, error) {
		return nil, fmt.Errorf("shut the unpacker up in %s: %s: %w", dir, what, err)
	}
	if err := sys.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return fail("renounce new privileges", err)
	}
	root, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fail("open /", err)
	}
	defer sys.Close(root)
	if err := sys.MountSetattr(root, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return fail("cut off mount propagation", err)
	}
	at, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fail("open it", err)
	}
	defer sys.Close(at)
	n, err := sys.OpenTree(at, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return fail("clone its mount", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW}
	if err := sys.MountSetattr(n, 0, &attr); err != nil {
		return fail("restrict its mount", err)
	}
	if err := sys.MoveMount(n, at); err != nil {
		return fail("attach its mount", err)
	}
	if err := sys.Fchdir(l, n); err != nil {
		return fail("enter it", err)
	}
	if err := sys.PivotRoot(".", "."); err != nil {
		return fail("make it the root", err)
	}
	// The old root lies on top of it now.
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fail("let go of the host's root", err)
	}
	sys.Umask(l, 0)
	return &Room{l, n}, sys.Chdir(l, "/")
}

// Enter goes on into one directory of the room, which is the root until the
// next Enter, and opens it.
func (r *Room) Enter(name string) (int, error) {
	for _, step := range []func() error{
		func() error { return sys.Fchdir(r.l, r.top) },
		func() error { return sys.Chroot(r.l) },
		func() error { return sys.Chdir(r.l, name) },
		func() error { return sys.Chroot(r.l) },
	} {
		if err := step(); err != nil {
			return -1, fmt.Errorf("enter %s: %w", name, err)
		}
	}
	return sys.Openat(unix.AT_FDCWD, "/", unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// Make makes the device nodes that a layer asked for, in the directory that it
// was unpacked to.
func Make(root int, nodes []Node) error {
	for _, d := range nodes {
		if err := d.make(root); err != nil {
			return fmt.Errorf("make the device node %q: %w", short(d.Path), err)
		}
	}
	return nil
}

func (d Node) make(root int) error {
	up, base := cut(d.Path)
	at := root
	if up != "" {
		var err error
		if at, err = sys.Openat2(root, up, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, below); err != nil {
			return err
		}
		defer sys.Close(at)
	}
	err := sys.Mknodat(at, base, d.Mode, unix.Mkdev(d.Major, d.Minor))
	if err == unix.EEXIST {
		return nil // a later entry has taken its place
	}
	if err != nil {
		return err
	}
	if err := sys.Fchownat(at, base, d.UID, d.GID); err != nil {
		return err
	}
	if err := sys.Fchmodat(at, base, d.Mode&0o7777); err != nil {
		return err
	}
	t := unix.StatxTimestamp{Sec: d.Modified}
	return sys.Utimensat(at, base, t, t)
}
