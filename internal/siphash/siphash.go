// Package siphash is SipHash-2-4, by which systemd makes names, addresses and
// user ranges out of a machine's name. It refuses to know what for.
//
//	n := siphash.Sum(key, "web")
//
// Room: paper.
package siphash

import (
	"encoding/binary"
	"math/bits"
)

// Sum hashes the message under a key of 16 bytes.
func Sum(key, m string) uint64 {
	k0, k1 := binary.LittleEndian.Uint64([]byte(key[:8])), binary.LittleEndian.Uint64([]byte(key[8:16]))
	v0, v1 := k0^0x736f6d6570736575, k1^0x646f72616e646f6d
	v2, v3 := k0^0x6c7967656e657261, k1^0x7465646279746573
	round := func() {
		v0 += v1
		v2 += v3
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v1
		v0 += v3
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 = bits.RotateLeft64(v2, 32)
	}
	var word [8]byte
	for n := len(m); ; m = m[8:] {
		end := len(m) < 8
		if end { // the rest, and the length in the last byte
			word = [8]byte{7: byte(n)}
			copy(word[:7], m)
		} else {
			copy(word[:], m)
		}
		w := binary.LittleEndian.Uint64(word[:])
		v3 ^= w
		round()
		round()
		v0 ^= w
		if end {
			break
		}
	}
	v2 ^= 0xff
	for range 4 {
		round()
	}
	return v0 ^ v1 ^ v2 ^ v3
}
