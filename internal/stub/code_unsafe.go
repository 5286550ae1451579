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
