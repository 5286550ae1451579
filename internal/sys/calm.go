package sys

import (
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Calm lets the monitor of Go's runtime sleep longer. That thread (sysmon)
// looks every twenty microseconds, for as long as anything runs, whether a
// system call takes so long that somebody else could run meanwhile. It mostly
// wakes on the processor that the start of a machine is on, and so often that
// it takes a fifteenth of it. The kernel may wake a sleeper later than it asked
// for, by its timer slack: that is made a millisecond, for this one thread.
//
// Threads that the monitor makes have its slack, and so would processes that they
// start: see Settle.
//
// Nothing depends on this, and errors are ignored. With one processor the
// monitor is left alone: who waits to run would wait for it. In the build in which
// calls are counted nothing is done, since a busy host has other threads there.
//
// It is done once: a thread that the monitor made later knows nothing of the slack that
// the program was started with.
func Calm() { calm.Do(calmDown) }

var calm sync.Once

func calmDown() {
	if Faults || runtime.GOMAXPROCS(0) < 2 {
		return
	}
	// It is the first thread that the runtime makes. So it has the number after
	// the process's own, or, if others were born in that instant, one of the
	// next. Only a thread of this process can be asked like this.
	n, _, _ := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK, 0, 0)
	slack.Store(uint64(n))
	pid := unix.Getpid()
	for tid := pid + 1; tid <= pid+8; tid++ {
		if unix.Tgkill(pid, tid, 0) == nil {
			_ = WriteFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(tid)+"/timerslack_ns", "1000000")
			return
		}
	}
}

// slack is that of the process's threads before Calm, in nanoseconds; 0: nothing
// was changed.
var slack atomic.Uint64

// Settle gives the calling thread, and so what is started from it, the timer
// slack that this program was started with. Functions that start programs call
// it.
func Settle(Locked) {
	if n := slack.Load(); n != 0 {
		unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, uintptr(n), 0)
	}
}
