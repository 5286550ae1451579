package sys

import (
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Gate is where one thread waits until another lets it go on, once. A channel
// would do, but for the time it takes: whoever opens the gate goes on, too, and Go's
// scheduler has the one that waited run only when a third thread has been woken
// to look for work. Here the kernel wakes it, and it has kept its place
// among those that may run.
type Gate struct {
	open atomic.Uint32
	// quiet is for a process with a single place, which must not be kept.
	quiet chan struct{}
}

// NewGate gives a closed gate.
func NewGate() *Gate {
	g := &Gate{}
	if runtime.GOMAXPROCS(0) < 2 {
		g.quiet = make(chan struct{})
	}
	return g
}

// Open opens the gate, which stays open. It may be called once.
func (g *Gate) Open() {
	if g.quiet != nil {
		close(g.quiet)
		return
	}
	g.open.Store(1)
	unix.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&g.open)), futexWake, 1, 0, 0, 0)
}

// Wait waits for the gate to be open.
func (g *Gate) Wait() {
	if g.quiet != nil {
		<-g.quiet
		return
	}
	for g.open.Load() == 0 {
		unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&g.open)), futexWait, 0, 0, 0, 0)
	}
}

// Watch is Wait for a gate that is about to be opened: for a moment, the thread stays
// awake, and lets others run that want to.
func (g *Gate) Watch() {
	const most = 1500 // a tenth of a millisecond or two, where nobody else wants to run
	for i := 0; i < most && g.quiet == nil && g.open.Load() == 0; i++ {
		yield()
	}
	g.Wait()
}

// yield lets others run that want to.
func yield() { unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// Both are for threads of one process.
const (
	futexWait = 0 | 128
	futexWake = 1 | 128
)
