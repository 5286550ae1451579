// Package sys makes system calls: one per function, without policy.
//
// Every call of the launcher goes through here (or through the op table of
// package child), so that a test build can count the calls and make the n-th
// one fail, or kill the program right after it: see fault_on.go. Errors are
// bare errnos; the caller knows what it was doing and says so.
//
// It refuses to know what a machine is.
//
// Room: base.
package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// call makes one system call and repeats it when a signal interrupts it.
//
// Every function that passes an address on as a number must be marked like
// this one: the mark keeps what the address points to off the stack, which
// moves.
//
//go:uintptrescapes
func call(name string, nr, a, b, c, d, e, f uintptr) (uintptr, error) {
	return made(interrupted, name, nr, a, b, c, d, e, f)
}

// callOnce makes one system call; EINTR is the caller's to handle.
//
//go:uintptrescapes
func callOnce(name string, nr, a, b, c, d, e, f uintptr) (uintptr, error) {
	return made(never, name, nr, a, b, c, d, e, f)
}

// repeat says which answers of the kernel are none, so that a call is made again.
type repeat int

const (
	never       repeat = iota
	interrupted        // by a signal
	renamed            // or by what somebody on the host renamed or mounted meanwhile
)

// wants reports whether a call is made once more, after so many repetitions. What is
// renamed without pause is waited for, but not for ever: it is a second or two.
func (r repeat) wants(errno unix.Errno, times int) bool {
	switch errno {
	case 0:
		return false
	case unix.EINTR:
		return r != never
	case unix.EAGAIN:
		if r != renamed || times == 1<<16 {
			return false
		}
		if times%128 == 127 {
			yield() // to whoever does it
		}
		return true
	}
	return false
}

// made counts a call once, however often it is repeated: how often signals
// come is chance, and the numbers of fault runs must not depend on it.
//
//go:uintptrescapes
func made(again repeat, name string, nr, a, b, c, d, e, f uintptr) (uintptr, error) {
	if Faults {
		if errno := before(name, nr); errno != 0 {
			return 0, errno
		}
	}
	r, _, errno := unix.Syscall6(nr, a, b, c, d, e, f)
	for times := 0; again.wants(errno, times); times++ {
		r, _, errno = unix.Syscall6(nr, a, b, c, d, e, f)
	}
	if Faults {
		after()
	}
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// str gives a C string. A path with a NUL byte names nothing the kernel could
// find, so it is ENOENT rather than a silently shortened path.
func str(s string) (*byte, error) {
	p, err := unix.BytePtrFromString(s)
	if err != nil {
		return nil, unix.ENOENT
	}
	return p, nil
}

// fd turns a descriptor, or AT_FDCWD, into a register.
func fd(n int) uintptr { return uintptr(n) }

// pathCall is a call of the shape nr(dirfd, path, c, d, e).
//
//go:uintptrescapes
func pathCall(name string, nr uintptr, dirfd int, path string, c, d, e uintptr) (uintptr, error) {
	p, err := str(path)
	if err != nil {
		return 0, err
	}
	return call(name, nr, fd(dirfd), uintptr(unsafe.Pointer(p)), c, d, e, 0)
}

// Count counts a call that is made elsewhere (clone3, by package child), and
// gives the error it must fail with in a fault run. Counted follows the call.
func Count(name string) error {
	if Faults {
		if errno := before(name, unix.SYS_CLONE3); errno != 0 {
			return errno
		}
	}
	return nil
}

// Counted ends what Count began.
func Counted() {
	if Faults {
		after()
	}
}
