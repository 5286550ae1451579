package siphash

import "testing"

// TestSum holds the function against the vectors of its authors: key
// 00 01 … 0f, message 00 01 … of growing length.
func TestSum(t *testing.T) {
	m := ""
	want := map[int]uint64{0: 0x726fdb47dd0e0e31, 1: 0x74f839c593dc67fd, 7: 0xab0200f58b01d137, 8: 0x93f5f5799a932462, 15: 0xa129ca6149be45e5}
	for i := range 16 {
		if w, ok := want[i]; ok {
			if got := Sum("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f", m); got != w {
				t.Errorf("%d bytes: %#x, want %#x", i, got, w)
			}
		}
		m += string(rune(i))
	}
}
