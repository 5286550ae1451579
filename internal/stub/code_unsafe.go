package stub

import "unsafe"

// entry gives the address of the program's first instruction. It is assembled
// like all else and lies among the launcher's own code, but is never called
// there: what is executed is a copy of it.
func entry() unsafe.Pointer

// code gives a copy of the program's instructions.
func code() []byte {
	start := entry()
	n := 0
	for *(*uint64)(unsafe.Add(start, n)) != mark {
		n++
	}
	return append([]byte(nil), unsafe.Slice((*byte)(start), n)...)
}

// bytesOf gives what is in memory. The structures of this file format are laid
// out as Go lays them out, without gaps, on the machines that launch runs on;
// package encoding/binary finds that out by reflection, which takes a start
// 50 microseconds.
func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }
