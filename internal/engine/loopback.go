package engine

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// loopback brings up lo in the thread's network namespace. The kernel gives it
// its addresses by itself.
func loopback() error {
	n, err := sys.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return sys.IoctlPtr(n, unix.SIOCSIFFLAGS, unsafe.Pointer(ifr))
}
