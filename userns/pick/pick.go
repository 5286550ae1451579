// Package pick finds a range of host users that nothing else uses.
//
// It guarantees that one range is never given out twice, neither by us nor by
// systemd-nspawn, whose directory of lock files and whose order of candidates
// it shares: a machine keeps its range from one start to the next as long as
// nobody else took it. The lock goes with the last copy of its descriptor,
// hence with the process, however that ends.
//
// It asks the files /etc/passwd and /etc/group, and no name service. It
// refuses to know what the range is for.
//
// Room: host.
package pick

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"launch/internal/siphash"
	"launch/internal/sys"
	"launch/userns"
)

// Where everybody keeps things.
const (
	Dir = "/run/systemd/nspawn-uid" // one lock file per range, named by its start
	Etc = "/etc"
)

// First and Last are the bounds of a range's start.
const (
	First = 0x00080000
	Last  = 0x6fff0000
)

// rounds is how many candidates are tried.
const rounds = 99

// maxFile is how long /etc/passwd and /etc/group may be. They are the host's,
// so this is against mistakes.
const maxFile = 16 << 20

// Held is a range that is ours until Release.
type Held struct {
	Range userns.Range
	// Path is the lock file. It stays behind when the process is killed, which
	// does no harm: see Clean.
	Path string

	fd int // -1: not held
}

// Range picks a range of 65536 users for the machine name. current is the
// shift that the image has already, which is kept when
// possible, so that the image need not be changed.
func Range(name string, current uint32) (Held, error) {
	return At(Dir, Etc, name, current)
}

// At is Range with other directories: that of the lock files, which is made
// if it is missing, and that of passwd, group and .pwd.lock.
func At(dir, etc, name string, current uint32) (Held, error) {
	unlock, err := lockPasswd(etc)
	if err != nil {
		return Held{fd: -1}, err
	}
	defer unlock()

	var db [2][]byte
	for i, file := range [...]string{"passwd", "group"} {
		db[i], err = sys.ReadFile(unix.AT_FDCWD, etc+"/"+file, maxFile)
		if err != nil && err != unix.ENOENT {
			return Held{fd: -1}, fmt.Errorf("read %s/%s: %w", etc, file, err)
		}
	}
	dirfd, err := openDir(dir)
	if err != nil {
		return Held{fd: -1}, fmt.Errorf("open %s: %w", dir, err)
	}
	defer sys.Close(dirfd)

	c := current
	for try := range rounds {
		if try > 0 {
			if c, err = candidate(name, try == 1); err != nil {
				return Held{fd: -1}, fmt.Errorf("get random bytes: %w", err)
			}
		}
		if c < First || c > Last || c%userns.DefaultSize != 0 {
			continue
		}
		file := strconv.FormatUint(uint64(c), 10)
		fd, err := lock(dirfd, file)
		if busy(err) {
			continue
		}
		if err != nil {
			return Held{fd: -1}, fmt.Errorf("lock %s/%s: %w", dir, file, err)
		}
		h := Held{Range: userns.Range{Start: c, Size: userns.DefaultSize}, Path: dir + "/" + file, fd: fd}
		used, err := known(db, c)
		if err != nil {
			h.Release()
			return Held{fd: -1}, fmt.Errorf("read %s: %w", etc, err)
		}
		if used {
			h.Release()
			continue
		}
		return h, nil
	}
	return Held{fd: -1}, fmt.Errorf("pick a range of users: all %d candidates are taken: %w", rounds, unix.EBUSY)
}

// Release gives the range back.
func (h *Held) Release() {
	if h.fd <= 0 {
		return
	}
	// Unlinked while locked: whoever opened the file before finds, after
	// locking it, that it has no name any more, and makes a new one.
	sys.Unlinkat(unix.AT_FDCWD, h.Path, 0)
	sys.Close(h.fd)
	h.fd = -1
}

// Clean removes the lock files that killed processes left in a directory (Dir),
// and tells how many there were. Files that are in use are left alone. Its error
// is the first of several files; the others are tried all the same.
func Clean(dir string) (int, error) {
	dirfd, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err == unix.ENOENT {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", dir, err)
	}
	defer sys.Close(dirfd)
	names, err := sys.Names(dirfd)
	if err != nil {
		return 0, fmt.Errorf("list %s: %w", dir, err)
	}
	n := 0
	var failed error
	for _, name := range names {
		if _, err := userns.ParseID(name); err != nil {
			continue
		}
		switch err := cleanFile(dirfd, name); err {
		case nil:
			n++
		case unix.EAGAIN, unix.EACCES, unix.ENOENT, unix.ELOOP, unix.EISDIR: // in use, gone, or no lock file
		default:
			if failed == nil {
				failed = fmt.Errorf("remove %s/%s: %w", dir, name, err)
			}
		}
	}
	return n, failed
}

// cleanFile removes one of them, unless it is in use.
func cleanFile(dirfd int, name string) error {
	fd, err := sys.Openat(dirfd, name, unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(fd)
	if err := sys.LockFile(fd); err != nil {
		return err
	}
	ok, err := linked(fd)
	if err == nil && !ok {
		err = unix.ENOENT
	}
	if err != nil {
		return err
	}
	return sys.Unlinkat(dirfd, name, 0)
}

// candidate gives a start within the bounds: one that belongs to the name, or
// a random one.
func candidate(name string, byName bool) (uint32, error) {
	var c uint32
	if byName {
		c = uint32(siphash.Sum("\xe1\x56\xe0\xf0\x4a\xf0\x41\xaf\x96\x41\xcf\x41\x33\x94\xff\x72", name))
	} else {
		var b [4]byte
		if err := sys.Random(b[:]); err != nil {
			return 0, err
		}
		c = binary.LittleEndian.Uint32(b[:])
	}
	return (c%(Last-First) + First) &^ (userns.DefaultSize - 1), nil
}

// known tells whether the first or the last ordinary id of the range that
// begins at c has an entry.
func known(db [2][]byte, c uint32) (bool, error) {
	for _, data := range db {
		for _, id := range [...]uint32{c, c + 65534} {
			if used, err := userns.HasID(data, id); used || err != nil {
				return used, err
			}
		}
	}
	return false, nil
}

func openDir(dir string) (int, error) {
	for {
		fd, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != unix.ENOENT {
			return fd, err
		}
		// /run/systemd is missing only where no systemd ever ran.
		for i := 1; i <= len(dir); i++ {
			if i == len(dir) || dir[i] == '/' {
				if err := sys.Mkdirat(unix.AT_FDCWD, dir[:i], 0o755); err != nil && err != unix.EEXIST {
					return -1, err
				}
			}
		}
	}
}

func busy(err error) bool { return err == unix.EAGAIN || err == unix.EACCES }

// linked tells whether an open file still has a name.
func linked(fd int) (bool, error) {
	st, err := sys.Statx(fd, "", unix.STATX_NLINK)
	return err == nil && st.Nlink > 0, err
}

// lock makes the file if need be and locks it.
func lock(dirfd int, file string) (int, error) {
	for {
		fd, err := sys.Openat(dirfd, file, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY, 0o600)
		if err != nil {
			return -1, err
		}
		if err := sys.LockFile(fd); err != nil {
			sys.Close(fd)
			return -1, err
		}
		ok, err := linked(fd)
		if ok {
			return fd, nil
		}
		sys.Close(fd)
		if err != nil {
			// Not knowing is no reason to try again, perhaps for ever. The file
			// may be another's by now: it stays until a clean-up.
			return -1, err
		}
		// Its owner removed it between our open and our lock.
	}
}

// lockPasswd takes the lock that programs hold while they add users. It is
// the same that lckpwdf(3) takes; a host whose /etc can't be written adds no
// users either.
func lockPasswd(etc string) (unlock func(), err error) {
	const wait, step = 15e9, 2e6 // nanoseconds; lckpwdf waits 15 s too
	path := etc + "/.pwd.lock"
	fd, err := sys.Openat(unix.AT_FDCWD, path, unix.O_WRONLY|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY, 0o600)
	if err == unix.EROFS {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	for slept := 0; ; slept += step {
		if err = sys.LockFile(fd); !busy(err) || slept >= wait {
			break
		}
		if err = sys.Nanosleep(step); err != nil {
			break
		}
	}
	if err != nil {
		sys.Close(fd)
		if busy(err) {
			err = fmt.Errorf("somebody is changing the users of this host: %w", err)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { sys.Close(fd) }, nil
}
