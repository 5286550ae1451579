package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Getrlimit gives the soft and the hard limit that this process was started
// with. Go raises its own soft limit of open files; that is not undone here.
func Getrlimit(resource int) ([2]uint64, error) { return RlimitOf(0, resource) }

// Hostname gives the host name of the thread's uts namespace.
func Hostname() (string, error) {
	var u unix.Utsname
	_, err := call("uname", unix.SYS_UNAME, uintptr(unsafe.Pointer(&u)), 0, 0, 0, 0, 0)
	return unix.ByteSliceToString(u.Nodename[:]), err
}

// ReadIn reads a regular file below dirfd, resolved with the given flags, at
// most max bytes. Anything but a regular file is EINVAL: a FIFO would block,
// a device would do something.
func ReadIn(dirfd int, path string, resolve uint64, max int) ([]byte, error) {
	n, err := Openat2(dirfd, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, resolve)
	if err != nil {
		return nil, err
	}
	defer Close(n)
	return readRegular(n, max, unix.EINVAL)
}

// readRegular reads an open file if it is a regular one; other is the error for
// what isn't.
func readRegular(n, max int, other error) ([]byte, error) {
	st, err := Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, other
	}
	return ReadAll(n, max)
}

// Random fills b with random bytes.
func Random(b []byte) error {
	_, err := call("getrandom", unix.SYS_GETRANDOM, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0, 0)
	return err
}
