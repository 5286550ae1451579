package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// ConnectUnix connects a socket to a name in the file system; a leading @
// stands for the abstract name space.
func ConnectUnix(n int, path string) error {
	a, size, err := sockaddr(path)
	if err != nil {
		return err
	}
	_, err = call("connect", unix.SYS_CONNECT, uintptr(n), uintptr(unsafe.Pointer(a)), size, 0, 0, 0)
	return err
}
