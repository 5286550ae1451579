package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// MemfdCreate makes a file in memory; MFD_CLOEXEC is always added. Kernels
// before 6.3 don't know MFD_EXEC and give EINVAL for it.
func MemfdCreate(name string, flags int) (int, error) {
	p, err := str(name)
	if err != nil {
		return -1, err
	}
	return result(call("memfd_create", unix.SYS_MEMFD_CREATE, uintptr(unsafe.Pointer(p)), uintptr(flags|unix.MFD_CLOEXEC), 0, 0, 0, 0))
}

// AddSeals forbids what the F_SEAL_ flags say, to everybody and for good.
func AddSeals(n int, seals int) error {
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_ADD_SEALS, uintptr(seals), 0, 0, 0)
	return err
}
