package tree

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// ErrBusy says that somebody else has a lock.
var ErrBusy = errors.New("the directory tree is currently busy")

// Locks is where the locks by inode are: they hold whatever name a tree is
// reached by. Only tests move it.
var Locks = "/run/systemd/nspawn/locks"

// LockFiles gives the files that stand for the tree or disk image n, which lies
// at the absolute path real: one beside it, which other hosts see if the file
// system is shared, and one for its inode. The root of the file system has none,
// and a block device has only one, for its number.
func LockFiles(n int, real string) ([]string, error) {
	if real == "/" {
		return nil, nil
	}
	st, err := sys.Statx(n, "", unix.STATX_INO|unix.STATX_TYPE)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", real, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		return []string{fmt.Sprintf("%s/block-%d:%d", Locks, st.Rdev_major, st.Rdev_minor)}, nil
	}
	return []string{
		Beside(real),
		fmt.Sprintf("%s/inode-%d:%d", Locks, unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino),
	}, nil
}

// Beside gives the lock file that lies beside a tree.
func Beside(real string) string { return path.Join(path.Dir(real), ".#"+path.Base(real)+".lck") }

// Lock is a lock that is held. It goes with the process, however that ends;
// its file may stay behind, see Unlock.
type Lock struct {
	Path   string
	Shared bool
	fd     int
	stays  bool // its file could not be removed
}

// Take locks a file without waiting, and makes it if it is missing; ErrBusy
// says that somebody else has it.
func Take(file string, shared bool) (*Lock, error) { return take(file, shared, false) }

// Wait locks a file for one alone, when nobody else has it any more.
func Wait(file string) (*Lock, error) { return take(file, false, true) }

func take(file string, shared, wait bool) (*Lock, error) {
	if path.Dir(file) == Locks {
		if err := mkdirs(Locks); err != nil {
			return nil, err
		}
	}
	for {
		// O_NONBLOCK and the look at the type: the directory may be anybody's.
		n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", file, err)
		}
		l := &Lock{Path: file, Shared: shared, fd: n}
		if wait {
			if err = sys.OFDLockWait(n, unix.F_WRLCK); err != nil {
				err = fmt.Errorf("lock %s: %w", file, err)
			}
		} else {
			err = l.set(shared)
		}
		if err != nil {
			sys.Close(n)
			return nil, err
		}
		st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_NLINK)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = fmt.Errorf("it is no lock file: %w", unix.EINVAL)
		}
		if err != nil {
			sys.Close(n)
			return nil, fmt.Errorf("look at %s: %w", file, err)
		}
		if st.Nlink > 0 {
			return l, nil
		}
		sys.Close(n) // its owner removed it between our open and our lock
	}
}

// Free gives ErrBusy if somebody has one of the locks for himself alone. It
// makes no file, and takes no lock.
func Free(files []string) error {
	for _, file := range files {
		n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			continue
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", file, err)
		}
		held, err := sys.OFDHeld(n, unix.F_RDLCK)
		sys.Close(n)
		if err != nil {
			return fmt.Errorf("look at the lock %s: %w", file, err)
		}
		if held {
			return ErrBusy
		}
	}
	return nil
}

func (l *Lock) set(shared bool) error {
	kind := int16(unix.F_WRLCK)
	if shared {
		kind = unix.F_RDLCK
	}
	switch err := sys.OFDLock(l.fd, kind); err {
	case nil:
		l.Shared = shared
		return nil
	case unix.EAGAIN, unix.EACCES:
		return ErrBusy
	default:
		return fmt.Errorf("lock %s: %w", l.Path, err)
	}
}

// Change makes the lock shared or exclusive; ErrBusy says that others share
// it, and leaves it as it is.
func (l *Lock) Change(shared bool) error {
	if l.Shared == shared {
		return nil
	}
	return l.set(shared)
}

// Release gives the lock back, and removes its file if nobody else has it. An
// error is only about the file, and another call tries that again.
func (l *Lock) Release() (err error) {
	switch {
	case l.fd >= 0:
		err = l.remove()
		sys.Close(l.fd)
		l.fd = -1
	case l.stays:
		err = Unlock(l.Path)
	}
	l.stays = err != nil
	return err
}

// remove unlinks the file while it is locked: whoever opened it before finds,
// after locking it, that it has no name any more, and makes a new one.
func (l *Lock) remove() error {
	if err := l.set(false); err != nil {
		if err == ErrBusy {
			return nil
		}
		return err
	}
	st, err := sys.Statx(l.fd, "", unix.STATX_NLINK)
	if err != nil {
		return fmt.Errorf("look at %s: %w", l.Path, err)
	}
	if st.Nlink == 0 {
		return nil
	}
	if err := sys.Unlinkat(unix.AT_FDCWD, l.Path, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove %s: %w", l.Path, err)
	}
	return nil
}

// Unlock removes a lock file that its owner left behind. One that is in use is
// left alone, and so is what is no lock file.
func Unlock(file string) error {
	n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP || err == unix.EISDIR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_SIZE)
	if err != nil {
		return fmt.Errorf("look at %s: %w", file, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return nil
	}
	return (&Lock{Path: file, fd: n}).remove()
}

// mkdirs makes a directory that only root may enter, and what is missing
// above it.
func mkdirs(dir string) error {
	err := sys.Mkdirat(unix.AT_FDCWD, dir, 0o700)
	if err == unix.ENOENT {
		for i := 1; i < len(dir); i++ {
			if dir[i] == '/' {
				if err := sys.Mkdirat(unix.AT_FDCWD, dir[:i], 0o755); err != nil && err != unix.EEXIST {
					return fmt.Errorf("make %s: %w", dir[:i], err)
				}
			}
		}
		err = sys.Mkdirat(unix.AT_FDCWD, dir, 0o700)
	}
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}
