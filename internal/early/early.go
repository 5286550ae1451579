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

// skipped is never touched.
//
//lint:ignore U1000 it only has to be allocated, and stay
var skipped []byte

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
	if least < dear {
		fresh = nil
		return
	}
	from := at &^ (huge - 1)
	if left := from + huge - at; left >= need {
		advise(from, madvCollapse)
	} else {
		// Where the heap begins is chance. What is left of this huge page is taken
		// away, so that what follows comes from the next one. Go maps that when
		// something of it is used: advice before would be lost.
		if left > 4*page {
			skipped = make([]byte, left-4*page)
		}
		fresh = make([]byte, 4*page)
		from = uintptr(unsafe.Pointer(&fresh[0])) &^ (huge - 1)
		advise(from, madvHugepage)
		advise(from, madvCollapse) // if something of it was touched before
	}
	fresh = nil
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
