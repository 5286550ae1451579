package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SendRights sends bytes and descriptors over a connected socket.
func SendRights(n int, b []byte, fds ...int) error {
	var control []byte
	if len(fds) > 0 {
		control = unix.UnixRights(fds...)
	}
	iov := unix.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	msg := &unix.Msghdr{Iov: &iov, Iovlen: 1, Control: unsafe.SliceData(control)}
	msg.SetControllen(len(control))
	_, err := call("sendmsg", unix.SYS_SENDMSG, fd(n), uintptr(unsafe.Pointer(msg)), unix.MSG_NOSIGNAL, 0, 0, 0)
	return err
}

// Mkfifo makes a FIFO.
func Mkfifo(dirfd int, path string, mode uint32) error {
	return Mknodat(dirfd, path, unix.S_IFIFO|mode, 0)
}
