package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// LockFile takes a write lock on a whole open file without waiting; EAGAIN or
// EACCES says that somebody else has it. The lock belongs to the open file
// description, so it goes with the last copy of the descriptor, however the
// process ends, and it excludes the locks that other programs take with
// F_SETLK as well. The descriptor must be open for writing.
func LockFile(n int) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: 0 /* SEEK_SET */}
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_OFD_SETLK, uintptr(unsafe.Pointer(&l)), 0, 0, 0)
	return err
}

// Nanosleep waits; a signal doesn't shorten it.
func Nanosleep(ns int64) error {
	t := unix.NsecToTimespec(ns)
	_, err := call("nanosleep", unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), uintptr(unsafe.Pointer(&t)), 0, 0, 0, 0)
	return err
}
