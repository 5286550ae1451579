package sys

import (
	"errors"
	"math"
	"strconv"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Openat opens path below dirfd. O_CLOEXEC is always added.
func Openat(dirfd int, path string, flags int, mode uint32) (int, error) {
	r, err := pathCall("openat", unix.SYS_OPENAT, dirfd, path, uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), uintptr(mode), 0)
	return result(r, err)
}

// FdPath is a name for what a descriptor is of, O_PATH or not, where /proc shows this
// process.
//
// It is not below /proc/thread-self: all threads have the same descriptors, and what
// procfs remembers of a thread is thrown away when that ends. If it is the last one of
// the process, and the parent, which has just been woken, takes its processor, then
// the parent throws away what there is of the whole process, and it turns in circles
// until that part is gone, too: for as long as the scheduler lets it, which is 3 ms.
func FdPath(n int) string { return "/proc/self/fd/" + strconv.Itoa(n) }

// PathOf gives the path that what a descriptor is of has for the calling thread.
func PathOf(n int) (string, error) { return Readlinkat(unix.AT_FDCWD, FdPath(n)) }

// InRoot is how names of a machine's tree are looked up, whoever made it:
// links, absolute ones too, mean what they would mean inside, and procfs's
// magic links mean nothing. A name of the tree is never looked up otherwise.
const InRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// Openat2 opens path below dirfd with resolve flags. O_CLOEXEC is always
// added. EAGAIN is what the kernel gives when anything on the host was renamed or mounted
// while the lookup went up a directory: then it is tried again.
func Openat2(dirfd int, path string, flags int, mode uint32, resolve uint64) (int, error) {
	p, err := str(path)
	if err != nil {
		return -1, err
	}
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Mode: uint64(mode), Resolve: resolve}
	return result(made(renamed, "openat2", unix.SYS_OPENAT2, fd(dirfd), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&how)), unix.SizeofOpenHow, 0, 0))
}

func result(r uintptr, err error) (int, error) {
	if err != nil {
		return -1, err
	}
	return int(r), nil
}

// Close closes a descriptor. There is nothing to do about an error.
func Close(n int) { callOnce("close", unix.SYS_CLOSE, fd(n), 0, 0, 0, 0, 0) }

// Dup gives another, close-on-exec, descriptor at or above 3.
func Dup(n int) (int, error) {
	return result(call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_DUPFD_CLOEXEC, 3, 0, 0, 0))
}

// What the kernel writes to must be on the heap, see call. A start asks for a
// hundred such things, most of them for a moment, and each page of the heap that
// nobody used yet costs it two microseconds or more.
type page [4096]byte

var (
	pages = sync.Pool{New: func() any { return new(page) }}
	stats = sync.Pool{New: func() any { return new(unix.Statx_t) }}
)

// Read reads once.
func Read(n int, b []byte) (int, error) {
	return result(call("read", unix.SYS_READ, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0))
}

// Write writes once.
func Write(n int, b []byte) (int, error) {
	return result(call("write", unix.SYS_WRITE, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0))
}

// WriteString writes all of s in one call; a short write is EIO, since what
// it is used for (proc, cgroup and state files) takes all or nothing.
func WriteString(n int, s string) error {
	m, err := Write(n, []byte(s))
	if err == nil && m != len(s) {
		return unix.EIO
	}
	return err
}

// ReadAll reads to the end of the file, at most max bytes; a longer file is
// EFBIG.
func ReadAll(n int, max int) ([]byte, error) {
	room := pages.Get().(*page)
	defer pages.Put(room)
	b := room[:0]
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		m, err := Read(n, b[len(b):cap(b)])
		if err != nil {
			return nil, err
		}
		if m == 0 {
			return append([]byte(nil), b...), nil
		}
		b = b[:len(b)+m]
		if len(b) > max {
			return nil, unix.EFBIG
		}
	}
}

// ReadFile reads a whole file below dirfd, at most max bytes.
func ReadFile(dirfd int, path string, max int) ([]byte, error) {
	n, err := Openat(dirfd, path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer Close(n)
	return ReadAll(n, max)
}

// ReadRegular is ReadFile for a file that somebody else may have put there:
// what is not a regular one is ErrNotRegular, and nobody waits for its other
// end.
func ReadRegular(dirfd int, path string, max int) ([]byte, error) {
	n, err := Openat(dirfd, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err == unix.ENXIO { // a socket
		return nil, ErrNotRegular
	}
	if err != nil {
		return nil, err
	}
	defer Close(n)
	return readRegular(n, max, ErrNotRegular)
}

// ErrNotRegular is the error for what can't be read to an end.
var ErrNotRegular = errors.New("it is not a regular file")

// WriteFile writes s to an existing file below dirfd in one call.
func WriteFile(dirfd int, path, s string) error {
	n, err := Openat(dirfd, path, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer Close(n)
	return WriteString(n, s)
}

// Mkdirat makes a directory.
func Mkdirat(dirfd int, path string, mode uint32) error {
	_, err := pathCall("mkdirat", unix.SYS_MKDIRAT, dirfd, path, uintptr(mode), 0, 0)
	return err
}

// Mknodat makes a node, FIFO, socket or empty file.
func Mknodat(dirfd int, path string, mode uint32, dev uint64) error {
	_, err := pathCall("mknodat", unix.SYS_MKNODAT, dirfd, path, uintptr(mode), uintptr(dev), 0)
	return err
}

// Symlinkat makes the link path, below dirfd, pointing to target.
func Symlinkat(target string, dirfd int, path string) error {
	t, err := str(target)
	if err != nil {
		return err
	}
	p, err := str(path)
	if err != nil {
		return err
	}
	_, err = call("symlinkat", unix.SYS_SYMLINKAT, uintptr(unsafe.Pointer(t)), fd(dirfd), uintptr(unsafe.Pointer(p)), 0, 0, 0)
	return err
}

// Readlinkat gives where a link points; with path "" the link that dirfd (an
// O_PATH descriptor) is.
func Readlinkat(dirfd int, path string) (string, error) {
	b := pages.Get().(*page)
	defer pages.Put(b)
	r, err := pathCall("readlinkat", unix.SYS_READLINKAT, dirfd, path, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
	if err != nil {
		return "", err
	}
	return string(b[:r]), nil
}

// Unlinkat removes a name; flags may be AT_REMOVEDIR.
func Unlinkat(dirfd int, path string, flags int) error {
	_, err := pathCall("unlinkat", unix.SYS_UNLINKAT, dirfd, path, uintptr(flags), 0, 0)
	return err
}

// Renameat2 renames.
func Renameat2(olddir int, old string, newdir int, new string, flags uint) error {
	o, err := str(old)
	if err != nil {
		return err
	}
	p, err := str(new)
	if err != nil {
		return err
	}
	_, err = call("renameat2", unix.SYS_RENAMEAT2, fd(olddir), uintptr(unsafe.Pointer(o)), fd(newdir), uintptr(unsafe.Pointer(p)), uintptr(flags), 0)
	return err
}

// Fchownat changes owner and group without following a link; path "" means
// dirfd itself.
func Fchownat(dirfd int, path string, uid, gid uint32) error {
	_, err := pathCall("fchownat", unix.SYS_FCHOWNAT, dirfd, path, uintptr(uid), uintptr(gid), unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
	return err
}

// Fchmod changes the mode of an open file (not of an O_PATH descriptor).
func Fchmod(n int, mode uint32) error {
	_, err := call("fchmod", unix.SYS_FCHMOD, fd(n), uintptr(mode), 0, 0, 0, 0)
	return err
}

// Fchmodat changes a mode; it follows links, so path must be a name that the
// caller made itself.
func Fchmodat(dirfd int, path string, mode uint32) error {
	_, err := pathCall("fchmodat", unix.SYS_FCHMODAT, dirfd, path, uintptr(mode), 0, 0)
	return err
}

// Ftruncate sets a file's length.
func Ftruncate(n int, size int64) error {
	_, err := call("ftruncate", unix.SYS_FTRUNCATE, fd(n), uintptr(size), 0, 0, 0, 0)
	return err
}

// Statx asks about path below dirfd without following a link; path "" means
// dirfd itself.
func Statx(dirfd int, path string, mask int) (unix.Statx_t, error) {
	st := stats.Get().(*unix.Statx_t)
	defer stats.Put(st)
	_, err := pathCall("statx", unix.SYS_STATX, dirfd, path,
		unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, uintptr(mask), uintptr(unsafe.Pointer(st)))
	if err != nil {
		return unix.Statx_t{}, err
	}
	return *st, nil
}

// Same reports whether two descriptors are of one file.
func Same(a, b int) (bool, error) {
	x, err := Statx(a, "", unix.STATX_INO)
	if err != nil {
		return false, err
	}
	y, err := Statx(b, "", unix.STATX_INO)
	return x.Ino == y.Ino && x.Dev_major == y.Dev_major && x.Dev_minor == y.Dev_minor, err
}

// Fstatfs asks about the file system a descriptor is on.
func Fstatfs(n int) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	_, err := call("fstatfs", unix.SYS_FSTATFS, fd(n), uintptr(unsafe.Pointer(&st)), 0, 0, 0, 0)
	return st, err
}

// Flock takes or gives back a lock (LOCK_EX, LOCK_SH, LOCK_UN, LOCK_NB).
func Flock(n int, how int) error {
	_, err := call("flock", unix.SYS_FLOCK, fd(n), uintptr(how), 0, 0, 0, 0)
	return err
}

// Pipe gives the reading and the writing end, both close-on-exec.
func Pipe() (r, w int, err error) {
	var p [2]int32
	_, err = call("pipe2", unix.SYS_PIPE2, uintptr(unsafe.Pointer(&p)), unix.O_CLOEXEC, 0, 0, 0, 0)
	return int(p[0]), int(p[1]), err
}

// Names lists a directory given by an open descriptor, without . and ..; it
// reads from the descriptor's current position.
func Names(n int) ([]string, error) { return NamesUpTo(n, math.MaxInt) }

// NamesUpTo is Names for a directory that may have at most so many names, give
// or take a page of them; else it gives E2BIG.
func NamesUpTo(n, most int) ([]string, error) {
	var names []string
	b := pages.Get().(*page)
	defer pages.Put(b)
	for {
		r, err := call("getdents64", unix.SYS_GETDENTS64, fd(n), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
		if err != nil {
			return nil, err
		}
		if r == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(b[:r], -1, names)
		if len(names) > most {
			return nil, unix.E2BIG
		}
	}
}

// LoopFree gives the number of a loop device that nobody uses yet, and makes
// one if there is none. control is /dev/loop-control.
func LoopFree(control int) (int, error) {
	return Ioctl(control, unix.LOOP_CTL_GET_FREE, 0)
}

// LoopConfigure makes a loop device show a file, in one step; EBUSY says that
// somebody else was faster.
func LoopConfigure(device int, c *unix.LoopConfig) error {
	return IoctlPtr(device, unix.LOOP_CONFIGURE, unsafe.Pointer(c))
}

// DeviceSize gives the size of a block device in bytes.
func DeviceSize(n int) (int64, error) {
	size := new(uint64)
	err := IoctlPtr(n, unix.BLKGETSIZE64, unsafe.Pointer(size))
	return int64(*size), err
}
