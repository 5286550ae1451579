package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Eventfd gives a close-on-exec counter that others can count up.
func Eventfd(flags int) (int, error) {
	return result(call("eventfd2", unix.SYS_EVENTFD2, 0, uintptr(flags|unix.EFD_CLOEXEC), 0, 0, 0, 0))
}

// InotifyInit gives a close-on-exec queue of file events.
func InotifyInit(flags int) (int, error) {
	return result(call("inotify_init1", unix.SYS_INOTIFY_INIT1, uintptr(flags|unix.IN_CLOEXEC), 0, 0, 0, 0, 0))
}

// InotifyAdd watches a path for the events of the mask.
func InotifyAdd(n int, path string, mask uint32) (int, error) {
	p, err := str(path)
	if err != nil {
		return -1, err
	}
	return result(call("inotify_add_watch", unix.SYS_INOTIFY_ADD_WATCH, fd(n), uintptr(unsafe.Pointer(p)), uintptr(mask), 0, 0, 0))
}
