package entry

import "unsafe"

const (
	// page is the smallest that there is; where pages are larger, the kernel
	// refuses, or has less to do.
	page = 4 << 10
	// ahead is how many pages of the heap any start uses from here on.
	ahead = 64
)

// fresh keeps memory on the heap that the compiler would else put on the stack.
var fresh []byte

// heap has the kernel put memory behind the pages that the heap will have next, all at
// once: one by one, as they are met, it takes more than twice as long. Errors are
// ignored: then it is one by one.
func heap() {
	fresh = make([]byte, page)
	advise(uintptr(unsafe.Pointer(&fresh[0])), ahead*page, populateWrite)
	fresh = nil
}
