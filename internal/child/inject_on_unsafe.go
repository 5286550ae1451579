//go:build faults

package child

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// inject is where a fault run gets at the child's ops. An op that must fail is
// replaced by the end of the table with the errno as its result; one that is
// to be followed by a kill of the launcher is followed by a wait, while the
// launcher looks at its result in the shared memory. The wait ends before long:
// a child that does not die with its launcher yet has to find out by itself.
func inject(p *Program, i int) {
	errno, kill := sys.ChildFault(p.ops[i].Nr, p.names[i])
	op := &p.ops[i]
	switch {
	case kill:
		long := unix.NsecToTimespec(int64(200 * time.Millisecond))
		p.Add("wait for the kill", unix.SYS_PPOLL, 0, 0, Keep(p, &long), 0, 0)
		go func() {
			for atomic.LoadUintptr(&op.Ret) == pending {
				time.Sleep(20 * time.Microsecond)
			}
			unix.Kill(unix.Getpid(), unix.SIGKILL)
		}()
	case errno != 0:
		op.Ret = -uintptr(errno)
		op.Nr = end
	}
}

// injectAllowed lets the table go on after an op whose injected failure turns
// out to be an allowed one.
func injectAllowed(p *Program, i int) {
	op := &p.ops[i]
	if e := -op.Ret; op.Nr == end && e < 64 && op.Allow>>e&1 == 1 {
		op.Nr, op.Ret = unix.SYS_GETPID, pending
	}
}
