package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dup3 makes the descriptor to another one of what n is, whatever it was before.
func Dup3(n, to, flags int) error {
	_, err := call("dup3", unix.SYS_DUP3, fd(n), fd(to), uintptr(flags), 0, 0, 0)
	return err
}

// Fsync waits until a file, or a directory's entries, are on the disk.
func Fsync(n int) error {
	_, err := call("fsync", unix.SYS_FSYNC, fd(n), 0, 0, 0, 0, 0)
	return err
}

// Syncfs waits until all of the file system that n is on is on the disk.
func Syncfs(n int) error {
	_, err := call("syncfs", unix.SYS_SYNCFS, fd(n), 0, 0, 0, 0, 0)
	return err
}

// Fsetxattr sets an attribute of an open file (not of an O_PATH descriptor).
func Fsetxattr(n int, name string, value []byte) error {
	k, err := str(name)
	if err != nil {
		return err
	}
	_, err = call("fsetxattr", unix.SYS_FSETXATTR, fd(n), uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0, 0)
	return err
}

// Fgetxattr writes the value of an open file's attribute into b and gives its
// length; ENODATA says that there is none.
func Fgetxattr(n int, name string, b []byte) (int, error) {
	k, err := str(name)
	if err != nil {
		return -1, err
	}
	return result(call("fgetxattr", unix.SYS_FGETXATTR, fd(n), uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0))
}
