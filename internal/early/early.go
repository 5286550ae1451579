// Package early gives Go's heap one huge page, where page faults are dear.
//
// A program that imports it, and lives for some milliseconds only, touches about
// 150 new pages of the heap, each by a page fault of its own. On bare metal a
// fault takes a third of a microsecond and nobody cares. On machines that are
// virtualized without the hardware's nested page tables it takes 12 and more;
// there, one call that makes a huge page of what the heap has, and will need,
// takes as long as 20 of them. So it looks how long a fault takes, and does
// nothing where that is little.
//
// Nothing depends on it: errors are ignored, and the memory has the same
// content before and after. A program that stays would hold two megabytes for
// it: launch doesn't import it.
//
// It refuses to know what the memory is for.
//
// Room: base.
package early

import (
	"syscall"
	"unsafe"
)

const (
	page = 4 << 10
	huge = 2 << 20

	madvHugepage = 14
	madvCollapse = 25

	// dear is how many nanoseconds a fault takes at least to be avoided.
	dear = 4000
	// need is how much of the heap is not used yet when this runs, but will be.
	need = 640 << 10
)

// fresh keeps memory on the heap that the compiler would else put on the stack.
var fresh []byte

// The other packages' own work before main touches a quarter of the pages, so
// this comes before them: the linker puts packages first that need few others.
func init() {
	fresh = make([]byte, 4*page)
	at := uintptr(unsafe.Pointer(&fresh[0]))
	least := int64(1 << 62)
	for i := 1; i < 4; i++ {
		before := now()
		fresh[i*page] = 1
		least = min(least, now()-before)
	}
	fresh = nil
	if least < dear {
		return
	}
	from := at &^ (huge - 1)
	if from+huge-at >= need {
		advise(from, madvCollapse)
		return
	}
	// The next one, in which nothing is yet, so that a word suffices.
	advise(from+huge, madvHugepage)
}

// advise can only be about memory that Go has reserved for its heap: that comes
// in pieces of 64 megabytes, each begun with a huge page. Elsewhere it fails.
func advise(at, how uintptr) {
	syscall.RawSyscall(syscall.SYS_MADVISE, at, huge, how)
}

func now() int64 {
	var t syscall.Timespec
	syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&t)), 0) // CLOCK_MONOTONIC
	return t.Nano()
}
