package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// DupAbove duplicates a descriptor to a close-on-exec one that is not below
// least.
func DupAbove(n, least int) (int, error) {
	return result(call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_DUPFD_CLOEXEC, uintptr(least), 0, 0, 0))
}

// Setdomainname sets the NIS domain name of the thread's UTS namespace.
func Setdomainname(_ Locked, name string) error {
	b := []byte(name)
	_, err := call("setdomainname", unix.SYS_SETDOMAINNAME, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0, 0)
	return err
}

// PidfdGetfd gives a descriptor of another process (pidfd_getfd(2)).
func PidfdGetfd(pidfd, n int) (int, error) {
	return result(call("pidfd_getfd", unix.SYS_PIDFD_GETFD, fd(pidfd), fd(n), 0, 0, 0, 0))
}

// RlimitOf gives the soft and the hard limit of a process, 0 for this one. EPERM: it
// has other users than this one, which may not ask.
func RlimitOf(pid, resource int) ([2]uint64, error) {
	var l [2]uint64
	_, err := call("prlimit64", unix.SYS_PRLIMIT64, uintptr(pid), uintptr(resource), 0, uintptr(unsafe.Pointer(&l)), 0, 0)
	return l, err
}
