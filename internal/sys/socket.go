package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr gives the address of a UNIX socket; a leading @ stands for the
// abstract name space.
func sockaddr(path string) (*unix.RawSockaddrUnix, uintptr, error) {
	a := &unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	if path == "" || len(path) >= len(a.Path) {
		return nil, 0, unix.ENAMETOOLONG
	}
	for i := range len(path) {
		a.Path[i] = int8(path[i])
	}
	n := 2 + uintptr(len(path))
	if path[0] == '@' {
		a.Path[0] = 0
	} else {
		n++ // the closing NUL
	}
	return a, n, nil
}

// BindUnix gives a socket its name in the file system.
func BindUnix(n int, path string) error {
	a, size, err := sockaddr(path)
	if err != nil {
		return err
	}
	_, err = call("bind", unix.SYS_BIND, fd(n), uintptr(unsafe.Pointer(a)), size, 0, 0, 0)
	return err
}

// Listen makes a socket take connections, of which so many may wait.
func Listen(n, backlog int) error {
	_, err := call("listen", unix.SYS_LISTEN, fd(n), uintptr(backlog), 0, 0, 0, 0)
	return err
}

// Shutdown ends one direction of a connection (SHUT_WR), or both.
func Shutdown(n, how int) error {
	_, err := call("shutdown", unix.SYS_SHUTDOWN, fd(n), uintptr(how), 0, 0, 0, 0)
	return err
}

// SendUnix sends one datagram to a socket's name.
func SendUnix(n int, b []byte, path string) error {
	a, size, err := sockaddr(path)
	if err != nil {
		return err
	}
	_, err = call("sendto", unix.SYS_SENDTO, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_NOSIGNAL, uintptr(unsafe.Pointer(a)), size)
	return err
}

// PassCred makes a socket tell who sent each message.
func PassCred(n int) error {
	one := int32(1)
	_, err := call("setsockopt", unix.SYS_SETSOCKOPT, fd(n), unix.SOL_SOCKET, unix.SO_PASSCRED, uintptr(unsafe.Pointer(&one)), 4, 0)
	return err
}

// SendTimeout bounds how long a socket waits for room at the other end: for the
// connection, and for each write. Both then fail with EAGAIN.
func SendTimeout(n int, d time.Duration) error {
	t := unix.NsecToTimeval(int64(d))
	_, err := call("setsockopt", unix.SYS_SETSOCKOPT, fd(n), unix.SOL_SOCKET, unix.SO_SNDTIMEO, uintptr(unsafe.Pointer(&t)), unsafe.Sizeof(t), 0)
	return err
}

// PeerUser is the user of who listens, or listened, at the other end of a
// connection.
func PeerUser(n int) (uint32, error) {
	var u unix.Ucred
	size := uint32(unsafe.Sizeof(u))
	_, err := call("getsockopt", unix.SYS_GETSOCKOPT, fd(n), unix.SOL_SOCKET, unix.SO_PEERCRED, uintptr(unsafe.Pointer(&u)), uintptr(unsafe.Pointer(&size)), 0)
	return u.Uid, err
}

// Message is a datagram and its sender. Truncated ones have lost their end.
type Message struct {
	Data      []byte
	Sender    unix.Ucred
	Truncated bool
	// Fds are descriptors that were sent along; they are the caller's to close.
	Fds []int
}

// Receive takes one datagram of at most max bytes without waiting. Descriptors
// that come with it are closed, unless they are to be kept.
func Receive(n int, max int, keep bool) (Message, error) {
	b := make([]byte, max)
	control := make([]byte, 1088) // for the sender and as many descriptors as one message may have, 253
	iov := &unix.Iovec{Base: &b[0]}
	iov.SetLen(len(b))
	h := &unix.Msghdr{Iov: iov, Iovlen: 1, Control: &control[0]}
	h.SetControllen(len(control))
	got, err := call("recvmsg", unix.SYS_RECVMSG, fd(n), uintptr(unsafe.Pointer(h)), unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC, 0, 0, 0)
	if err != nil {
		return Message{}, err
	}
	m := Message{Data: b[:got], Truncated: h.Flags&unix.MSG_TRUNC != 0}
	list, err := unix.ParseSocketControlMessage(control[:h.Controllen])
	if err != nil {
		return m, nil
	}
	for i := range list {
		c := &list[i]
		if c.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch c.Header.Type {
		case unix.SCM_CREDENTIALS:
			if cred, err := unix.ParseUnixCredentials(c); err == nil {
				m.Sender = *cred
			}
		case unix.SCM_RIGHTS:
			fds, _ := unix.ParseUnixRights(c)
			if keep {
				m.Fds = append(m.Fds, fds...)
				continue
			}
			for _, f := range fds {
				Close(f)
			}
		}
	}
	return m, nil
}

// Socketpair makes two sockets that are connected with each other.
func Socketpair(family, kind int) (a, b int, err error) {
	var p [2]int32
	_, err = call("socketpair", unix.SYS_SOCKETPAIR, uintptr(family), uintptr(kind|unix.SOCK_CLOEXEC), 0, uintptr(unsafe.Pointer(&p)), 0, 0)
	return int(p[0]), int(p[1]), err
}

// BindNetlink makes a socket hear of what the groups are about; group n is bit
// n-1.
func BindNetlink(n int, groups uint32) error {
	a := &unix.RawSockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}
	_, err := call("bind", unix.SYS_BIND, fd(n), uintptr(unsafe.Pointer(a)), unix.SizeofSockaddrNetlink, 0, 0, 0)
	return err
}

// ReceiveNetlink takes what has come to a netlink socket, without waiting, and
// tells whether the kernel said it. Others in its namespace may send, too.
func ReceiveNetlink(n int, b []byte) (got int, kernel bool, err error) {
	a := &unix.RawSockaddrNetlink{}
	size := uint32(unix.SizeofSockaddrNetlink)
	got, err = result(call("recvfrom", unix.SYS_RECVFROM, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT, uintptr(unsafe.Pointer(a)), uintptr(unsafe.Pointer(&size))))
	return got, err == nil && a.Pid == 0, err
}
