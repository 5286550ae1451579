package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The functions of this file take a path that is followed to its end: it is
// one of /proc/…/fd, so the end is what the descriptor already is.

// Listxattr writes the names of path's attributes, each with a NUL byte, into
// b, and gives their length; ERANGE says that b is too short.
func Listxattr(path string, b []byte) (int, error) {
	p, err := str(path)
	if err != nil {
		return -1, err
	}
	return result(call("listxattr", unix.SYS_LISTXATTR, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0))
}

// Getxattr writes the value of an attribute into b and gives its length;
// ENODATA says that there is none, ERANGE that b is too short.
func Getxattr(path, name string, b []byte) (int, error) {
	p, err := str(path)
	if err != nil {
		return -1, err
	}
	k, err := str(name)
	if err != nil {
		return -1, err
	}
	return result(call("getxattr", unix.SYS_GETXATTR, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0))
}

// Setxattr sets an attribute.
func Setxattr(path, name string, value []byte) error {
	p, err := str(path)
	if err != nil {
		return err
	}
	k, err := str(name)
	if err != nil {
		return err
	}
	_, err = call("setxattr", unix.SYS_SETXATTR, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(k)), uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0, 0)
	return err
}

// Removexattr removes an attribute.
func Removexattr(path, name string) error {
	p, err := str(path)
	if err != nil {
		return err
	}
	k, err := str(name)
	if err != nil {
		return err
	}
	_, err = call("removexattr", unix.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(k)), 0, 0, 0, 0)
	return err
}

// Listxattrat is Listxattr for path below dirfd (Linux 6.13; ENOSYS before).
// path ends in a NUL byte.
func Listxattrat(dirfd int, path []byte, b []byte) (int, error) {
	if !ended(path) {
		return -1, unix.EFAULT
	}
	return result(call("listxattrat", unix.SYS_LISTXATTRAT, fd(dirfd), uintptr(unsafe.Pointer(unsafe.SliceData(path))), 0, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0))
}
