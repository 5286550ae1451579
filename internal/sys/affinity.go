package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetAffinity keeps the calling thread, and what it starts, to the processors
// whose bits are set.
func SetAffinity(_ Locked, mask []byte) error {
	_, err := call("sched_setaffinity", unix.SYS_SCHED_SETAFFINITY, 0, uintptr(len(mask)), uintptr(unsafe.Pointer(&mask[0])), 0, 0, 0)
	return err
}
