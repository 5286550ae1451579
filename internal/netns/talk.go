package netns

import (
	"encoding/binary"
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// errTorn is what can't happen.
var errTorn = errors.New("an answer of the kernel is torn")

// request is one message to the kernel; what it answers comes as messages of
// their own, without headers.
func request(kind, flags uint16, body []byte) (answers [][]byte, err error) {
	n, err := sys.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(m, uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if _, err := sys.Write(n, append(m, body...)); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<16)
	for {
		// The kernel has answered by the time that it has taken the message. Whoever
		// rules the namespace that we are in can send here, too, and is neither
		// believed nor waited for.
		got, kernel, err := sys.ReceiveNetlink(n, buf)
		if err == unix.EAGAIN {
			err = errTorn
		}
		if err != nil {
			return nil, err
		}
		if !kernel {
			continue
		}
		for b := buf[:got]; len(b) > 0; {
			var m message
			if m, b, err = cut(b); err != nil {
				return nil, err
			}
			switch m.kind {
			case unix.NLMSG_DONE:
				return answers, nil
			case unix.NLMSG_ERROR:
				errno, err := m.errno()
				switch {
				case err != nil:
					return nil, err
				case errno != 0:
					return nil, errno
				}
				return answers, nil
			}
			answers = append(answers, append([]byte(nil), m.body...))
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

// attribute appends one.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// link begins a message about an interface. Flags are IFF_ flags to be set.
func link(index, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], flags) // the mask
	return b
}

// find gives the value of the first attribute of that kind, or nil.
func find(b []byte, kind uint16) []byte {
	for k, value := range attributes(b) {
		if k == kind {
			return value
		}
	}
	return nil
}

// word gives the text of an attribute.
func word(b []byte, kind uint16) string {
	name, _, _ := strings.Cut(string(find(b, kind)), "\x00")
	return name
}
