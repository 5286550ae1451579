package sys

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What stands here is for walking big trees: names are taken as the kernel
// gave them, with their NUL byte, and nothing is allocated per call.

// ended tells whether a name ends where the kernel would look for its end.
func ended(name []byte) bool { return bytes.IndexByte(name, 0) >= 0 }

// Getdents reads directory entries into b; 0 is the end. See Dirent.
func Getdents(n int, b []byte) (int, error) {
	return result(call("getdents64", unix.SYS_GETDENTS64, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0))
}

// Dirent takes the first entry off what Getdents read: its type (DT_DIR, …),
// its name with the NUL byte, and the rest. name is nil where b holds no
// whole entry.
func Dirent(b []byte) (kind byte, name, rest []byte) {
	const head = int(unsafe.Offsetof(unix.Dirent{}.Name))
	if len(b) <= head {
		return 0, nil, nil
	}
	size := int(b[16]) | int(b[17])<<8 // d_reclen; amd64 and arm64 are little-endian
	if size <= head || size > len(b) {
		return 0, nil, nil
	}
	end := bytes.IndexByte(b[head:size], 0)
	if end < 0 {
		return 0, nil, nil
	}
	return b[18], b[head : head+end+1 : head+end+1], b[size:]
}

// OpenEntry opens a name of Dirent. O_CLOEXEC is always added.
func OpenEntry(dirfd int, name []byte, flags int) (int, error) {
	if !ended(name) {
		return -1, unix.EFAULT
	}
	return result(call("openat", unix.SYS_OPENAT, fd(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(name))), uintptr(flags|unix.O_CLOEXEC|unix.O_LARGEFILE), 0, 0, 0))
}

// nothing is the empty path. It is a variable so that no call allocates it.
var nothing [1]byte

// StatxFd asks about a descriptor, O_PATH or not.
func StatxFd(n int, mask int, st *unix.Statx_t) error {
	_, err := call("statx", unix.SYS_STATX, fd(n), uintptr(unsafe.Pointer(&nothing)),
		unix.AT_EMPTY_PATH|unix.AT_NO_AUTOMOUNT, uintptr(mask), uintptr(unsafe.Pointer(st)), 0)
	return err
}

// ChownFd changes the owner and group of a descriptor, O_PATH or not.
func ChownFd(n int, uid, gid uint32) error {
	_, err := call("fchownat", unix.SYS_FCHOWNAT, fd(n), uintptr(unsafe.Pointer(&nothing)), uintptr(uid), uintptr(gid), unix.AT_EMPTY_PATH, 0)
	return err
}
