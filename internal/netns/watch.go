package netns

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Watch tells of the addresses of a network namespace.
type Watch struct {
	// events hears of changes, asks is for questions: what is heard between
	// question and answer would have to be told apart.
	events, asks int
	seq          uint32
	buf          []byte
}

// WatchAddresses begins to watch the thread's namespace. Who uses it may be in
// another one.
func WatchAddresses() (*Watch, error) {
	w := &Watch{asks: -1}
	var err error
	if w.events, err = sys.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE); err == nil {
		if err = sys.BindNetlink(w.events, 1<<(unix.RTNLGRP_IPV4_IFADDR-1)|1<<(unix.RTNLGRP_IPV6_IFADDR-1)); err == nil {
			w.asks, err = sys.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		}
		if err != nil {
			w.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open a socket about the machine's addresses: %w", err)
	}
	return w, nil
}

// most is how much is taken from a socket at once. Whoever rules the namespace can
// send there without end.
const most = 1 << 12

// FD is readable when something has changed.
func (w *Watch) FD() int { return w.events }

// Close ends it.
func (w *Watch) Close() {
	for _, n := range []int{w.events, w.asks} {
		if n >= 0 {
			sys.Close(n)
		}
	}
}

// address is one that the outside can send to.
type address struct {
	scope byte
	index uint32 // of its interface
	bytes string // 4 or 16
}

// before says which of two is taken: the one for more of the world, then the
// one of the earlier interface, then the lower.
func (a address) before(b address) bool {
	switch {
	case b.bytes == "":
		return true
	case a.scope != b.scope:
		return a.scope < b.scope
	case a.index != b.index:
		return a.index < b.index
	}
	return a.bytes < b.bytes
}

// parseAddress reads what the kernel says of one; ok is false if nobody outside
// could send to it: one of a link or of the host alone, one that is not known to
// be free or about to go, and none that a host would take for itself.
func parseAddress(body []byte) (a address, ok bool) {
	if len(body) < unix.SizeofIfAddrmsg {
		return a, false
	}
	// Family, length of the prefix, flags, scope, index.
	family, flags := body[0], uint32(body[2])
	a.scope, a.index = body[3], binary.NativeEndian.Uint32(body[4:])
	var local, far []byte
	for kind, value := range attributes(body[unix.SizeofIfAddrmsg:]) {
		switch kind {
		case unix.IFA_LOCAL:
			local = value
		case unix.IFA_ADDRESS:
			far = value // of a tunnel's other end, or else the same
		case unix.IFA_FLAGS:
			if len(value) == 4 {
				flags = binary.NativeEndian.Uint32(value)
			}
		}
	}
	if local == nil {
		local = far
	}
	a.bytes = string(local)
	switch family {
	case unix.AF_INET:
		ok = len(local) == 4 && local[0] != 0 && local[0] != 127 && local[0] < 224
	case unix.AF_INET6:
		none := make([]byte, 10)
		ok = len(local) == 16 && local[0] != 0xff && !bytes.HasPrefix(local, none)
	}
	const unusable = unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	return a, ok && a.scope < unix.RT_SCOPE_LINK && flags&unusable == 0
}

// Addresses looks which address of each family the outside can send to, 4 and
// 16 bytes; "" if there is none. What was to be heard until now is over.
func (w *Watch) Addresses() (v4, v6 string, err error) {
	if w.buf == nil {
		w.buf = make([]byte, 1<<16)
	}
	// What is heard doesn't matter, and neither does what was lost of it.
	// Somebody who makes noise all the time is heard again.
	for range most {
		if _, _, err := sys.ReceiveNetlink(w.events, w.buf); err == unix.EAGAIN {
			break
		} else if err != nil && err != unix.ENOBUFS {
			return "", "", fmt.Errorf("hear of the machine's addresses: %w", err)
		}
	}
	four, six, err := w.ask()
	if err != nil {
		return "", "", fmt.Errorf("look at the machine's addresses: %w", err)
	}
	return four.bytes, six.bytes, nil
}

func (w *Watch) ask() (four, six address, err error) {
	w.seq++
	m := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+unix.SizeofIfAddrmsg)
	m = binary.NativeEndian.AppendUint16(m, unix.RTM_GETADDR)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	m = binary.NativeEndian.AppendUint32(m, w.seq)
	m = append(m, make([]byte, 4+unix.SizeofIfAddrmsg)...)
	if _, err := sys.Write(w.asks, m); err != nil {
		return four, six, err
	}
	for range most {
		got, kernel, err := sys.ReceiveNetlink(w.asks, w.buf)
		if err == unix.ENOBUFS || err == nil && !kernel {
			continue // somebody inside speaks to the socket
		}
		if err != nil {
			return four, six, err
		}
		over, err := choose(w.buf[:got], w.seq, &four, &six)
		if over || err != nil {
			return four, six, err
		}
	}
	return four, six, unix.ENOBUFS
}

// choose reads a part of the answer to a question; over tells that it is the last.
func choose(b []byte, seq uint32, four, six *address) (over bool, err error) {
	for len(b) > 0 {
		var m message
		if m, b, err = cut(b); err != nil {
			return false, err
		}
		if m.seq != seq {
			continue // of a question that was given up
		}
		switch m.kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			errno, err := m.errno()
			if err == nil && errno != 0 {
				err = errno
			}
			return true, err
		case unix.RTM_NEWADDR:
			if a, ok := parseAddress(m.body); ok {
				best := four
				if len(a.bytes) == 16 {
					best = six
				}
				if a.before(*best) {
					*best = a
				}
			}
		}
	}
	return false, nil
}
