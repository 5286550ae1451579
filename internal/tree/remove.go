package tree

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Remove removes a directory with all that is in it, whatever that is. It
// crosses no mount. What is gone already is no error.
func Remove(at int, name string) error {
	parent, err := sys.Openat2(at, path.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path.Dir(name), err)
	}
	defer sys.Close(parent)
	base := path.Base(name)
	n, err := sys.Openat2(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_BENEATH)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if subvolume(n) && destroy(parent, base) == nil {
		sys.Close(n)
		return nil
	}
	r := &remover{top: n}
	err = r.empty(n, 0)
	sys.Close(n)
	if err != nil {
		return fmt.Errorf("empty %s: %w", name, err)
	}
	if err := sys.Unlinkat(parent, base, unix.AT_REMOVEDIR); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// subvolume tells whether a directory is the root of a btrfs subvolume.
func subvolume(n int) bool {
	fs, err := sys.Fstatfs(n)
	if err != nil || fs.Type != unix.BTRFS_SUPER_MAGIC {
		return false
	}
	const first = 256 // the inode number of every subvolume's root
	st, err := sys.Statx(n, "", unix.STATX_INO)
	return err == nil && st.Ino == first
}

// destroy removes a subvolume at once. It takes a descriptor that is more than
// a path.
func destroy(parent int, base string) error {
	n, err := sys.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return sys.BtrfsDestroy(n, base)
}

// remover empties one tree.
type remover struct {
	top  int // its root directory
	deep int // how many directories were moved up into it
}

// deepest is how many directories are open at a time. What lies deeper is
// moved up: a machine can nest directories deeper than anybody can open.
const deepest = 100

func (r *remover) empty(n, depth int) error {
	var dents [8 << 10]byte
	for {
		found := false
		// From the start again until nothing is found: what is removed while a
		// directory is listed may hide something else.
		if _, err := sys.Seek(n, 0, 0); err != nil {
			return err
		}
		for {
			m, err := sys.Getdents(n, dents[:])
			if err != nil {
				return err
			}
			if m == 0 {
				break
			}
			for b := dents[:m]; ; {
				var kind byte
				var name []byte
				if kind, name, b = sys.Dirent(b); name == nil {
					break
				}
				s := string(name[:len(name)-1])
				if s == "." || s == ".." {
					continue
				}
				found = true
				if err := r.entry(n, depth, s, kind == unix.DT_DIR); err != nil {
					return fmt.Errorf("remove %s: %w", s, err)
				}
			}
		}
		if !found {
			return nil
		}
	}
}

// entry removes one name.
func (r *remover) entry(n, depth int, name string, dir bool) error {
	if !dir {
		err := sys.Unlinkat(n, name, 0)
		if err == unix.EPERM && r.unprotect(n, name) {
			err = sys.Unlinkat(n, name, 0)
		}
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EISDIR {
			return err
		}
	}
	if depth == deepest {
		return r.lift(n, name)
	}
	sub, err := sys.Openat2(n, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	err = r.empty(sub, depth+1)
	sys.Close(sub)
	if err != nil {
		return err
	}
	err = sys.Unlinkat(n, name, unix.AT_REMOVEDIR)
	if err == unix.EPERM && r.unprotect(n, name) {
		err = sys.Unlinkat(n, name, unix.AT_REMOVEDIR)
	}
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// lift moves a directory into the top one, where it is found later.
func (r *remover) lift(n int, name string) error {
	for {
		r.deep++
		err := sys.Renameat2(n, name, r.top, fmt.Sprintf(".#deep.%d", r.deep), unix.RENAME_NOREPLACE)
		switch {
		case err == nil, err == unix.ENOENT:
			return nil
		case err == unix.EEXIST, err == unix.EPERM && r.unprotect(n, name):
		default:
			return err
		}
	}
}

// unprotect takes the flags of chattr(1) off that keep a name from being
// removed: of the file, and of the directory that it is in. A machine with the
// capability may have set them.
func (r *remover) unprotect(n int, name string) bool {
	const keep = unix.STATX_ATTR_IMMUTABLE | unix.STATX_ATTR_APPEND
	changed := false
	clear := func(fd int) {
		if flags, err := sys.FileFlags(fd); err == nil && flags&keep != 0 {
			changed = sys.SetFileFlags(fd, flags&^keep) == nil || changed
		}
	}
	clear(n)
	st, err := sys.Statx(n, name, unix.STATX_TYPE)
	if err != nil || st.Attributes&keep == 0 {
		return changed
	}
	if t := st.Mode & unix.S_IFMT; t != unix.S_IFREG && t != unix.S_IFDIR {
		return changed
	}
	if fd, err := sys.Openat(n, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0); err == nil {
		clear(fd)
		sys.Close(fd)
	}
	return changed
}
