package sys

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// signalPipe is where the handler writes to.
//
//lint:ignore U1000 the assembly uses it
var signalPipe int32

// caught is the handler, and returned what it returns to: both are known to
// the kernel by their address only. They use neither Go's stack nor its
// runtime.
//
//lint:ignore U1000 the assembly uses it
func caught()

//lint:ignore U1000 the assembly uses it
func returned()

// handlers gives the addresses of the two.
func handlers() (handler, restorer uintptr)

// sigaction is the kernel's structure.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	saSiginfo  = 0x00000004
	saRestorer = 0x04000000
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
)

// Ignored reports whether a signal is ignored.
func Ignored(s unix.Signal) bool {
	const ignore = 1 // SIG_IGN
	var now sigaction
	_, err := call("rt_sigaction", unix.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&now)), 8, 0, 0)
	return err == nil && now.handler == ignore
}

// Signal is one that came.
type Signal struct {
	Number unix.Signal
	// Sender is the process that sent it; 0: it was the kernel, or somebody who
	// has no number here.
	Sender int
}

// siginfo is the beginning of the kernel's structure, for signals of processes.
type siginfo struct {
	number, _, code, _, pid, _ int32
}

const signalSize = unsafe.Sizeof(siginfo{})

// Caught is a set of signals that wake a poll instead of ending the process.
type Caught struct {
	// R can be read when a signal came.
	R, w    int
	signals []unix.Signal
	before  []sigaction
}

// Catch lets each of the signals write what it is into a pipe. There is one such
// set in a process. SIGCHLD has no effect meanwhile: who waits for a child's end
// polls, and the runtime's handler would wake one more thread for nothing.
//
// Package os/signal would do it with two goroutines that hold a thread each:
// half a millisecond of a start and an end.
func Catch(signals ...unix.Signal) (*Caught, error) {
	var p [2]int32
	_, err := call("pipe2", unix.SYS_PIPE2, uintptr(unsafe.Pointer(&p)), unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0, 0, 0)
	if err != nil {
		return nil, err
	}
	c := &Caught{R: int(p[0]), w: int(p[1]), before: make([]sigaction, len(signals)+1)}
	signalPipe = p[1]
	handler, restorer := handlers()
	act := &sigaction{handler: handler, flags: saSiginfo | saRestorer | saOnStack | saRestart, restorer: restorer, mask: ^uint64(0)}
	for i, s := range append(slices.Clip(signals), unix.SIGCHLD) {
		if s == unix.SIGCHLD {
			act = &sigaction{}
		}
		_, err := call("rt_sigaction", unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(act)), uintptr(unsafe.Pointer(&c.before[i])), 8, 0, 0)
		if err != nil {
			c.Release()
			return nil, err
		}
		c.signals = append(c.signals, s)
	}
	return c, nil
}

// Pending gives the signals that came since it was asked last.
//
// It is not counted in fault runs, nor is the handler: when a signal comes is
// not the machine's doing, and would shift the numbers.
func (c *Caught) Pending() []Signal {
	var came [64]siginfo
	n, _ := unix.Read(c.R, unsafe.Slice((*byte)(unsafe.Pointer(&came)), unsafe.Sizeof(came)))
	var list []Signal
	for _, i := range came[:max(n, 0)/int(signalSize)] {
		s := Signal{Number: unix.Signal(i.number)}
		if i.code <= 0 { // not the kernel's
			s.Sender = int(i.pid)
		}
		list = append(list, s)
	}
	return list
}

// Release gives the signals the handlers that they had before.
func (c *Caught) Release() {
	for i, s := range c.signals {
		callOnce("rt_sigaction", unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&c.before[i])), 0, 8, 0, 0)
	}
	c.signals = nil
	Close(c.R)
	Close(c.w)
}
