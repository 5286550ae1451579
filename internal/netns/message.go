package netns

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// message is one message of the kernel.
type message struct {
	kind, flags uint16
	seq         uint32
	body        []byte
}

// cut takes the first message off what the kernel said; rest is empty behind
// the last.
func cut(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return m, nil, errTorn
	}
	size := binary.NativeEndian.Uint32(b)
	if size < unix.SizeofNlMsghdr || uint64(size) > uint64(len(b)) {
		return m, nil, errTorn
	}
	m = message{
		kind: binary.NativeEndian.Uint16(b[4:]), flags: binary.NativeEndian.Uint16(b[6:]), seq: binary.NativeEndian.Uint32(b[8:]),
		body: b[unix.SizeofNlMsghdr:size],
	}
	return m, b[min(align(int(size)), len(b)):], nil
}

// errno is what an answer of kind NLMSG_ERROR says; 0 is a yes.
func (m message) errno() (unix.Errno, error) {
	if len(m.body) < 4 {
		return 0, errTorn
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(m.body))), nil
}

// attributes gives kinds and values, without marks about the byte order. What
// is torn ends it.
func attributes(b []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= 4 {
			size := int(binary.NativeEndian.Uint16(b))
			if size < 4 || size > len(b) {
				return
			}
			const marks = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
			if !yield(binary.NativeEndian.Uint16(b[2:])&^marks, b[4:size]) {
				return
			}
			b = b[min(align(size), len(b)):]
		}
	}
}
