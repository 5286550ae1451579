package state

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// unmount removes a directory that others mount things on, and its entries.
// Nothing is removed that lies in a mount.
func unmount(dir string) error {
	// Mostly it is empty, and there is one mount on it, or none.
	if removed(dir) {
		return nil
	}
	if err := clear(dir); err != nil {
		return err
	}
	if removed(dir) {
		return nil
	}
	n, err := sys.Openat2(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_SYMLINKS)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	names, err := sys.Names(n)
	if err != nil {
		err = fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if err == nil {
			err = clear(path.Join(dir, name))
		}
		if err != nil {
			break
		}
		if err = sys.Unlinkat(n, name, 0); err == unix.EISDIR {
			err = sys.Unlinkat(n, name, unix.AT_REMOVEDIR)
		}
		if err == unix.ENOENT {
			err = nil
		}
		if err != nil {
			err = fmt.Errorf("remove %s/%s: %w", dir, name, err)
		}
	}
	sys.Close(n)
	if err != nil {
		return err
	}
	if err := sys.Unlinkat(unix.AT_FDCWD, dir, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", dir, err)
	}
	return nil
}

// removed removes a directory, if it is empty and nothing is mounted on it.
func removed(dir string) bool {
	err := sys.Unlinkat(unix.AT_FDCWD, dir, unix.AT_REMOVEDIR)
	return err == nil || err == unix.ENOENT
}

// clear unmounts all that is mounted on a name.
func clear(name string) error {
	for range 1000 { // they may be stacked
		err := sys.Umount(name, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err == unix.EINVAL || err == unix.ENOENT { // nothing is, or nobody is there
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", name, err)
		}
	}
	return fmt.Errorf("unmount %s: there is always something mounted", name)
}
