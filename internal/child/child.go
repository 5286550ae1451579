// Package child starts a process that runs a table of system calls and ends in
// execve, without a Go runtime of its own.
//
// The child shares the launcher's memory until it execs (CLONE_VM), but nothing
// else: it has its own stack, descriptors, signal handlers and namespaces. It
// runs one assembly loop over the table and nothing else of Go, so it never
// allocates, never takes a lock, and never returns. Because the memory is
// shared, a table can be written further while the child waits in one of its
// reads, and what each op gave is seen by the launcher without a pipe.
//
// What it refuses to know: what the calls are for. No loops, no branches: a
// step that needs one is the launcher's.
//
// Example:
//
//	p := child.New(8)
//	p.Add("exec /bin/true", unix.SYS_EXECVE, p.String("/bin/true"), p.Strings("true"), p.Strings())
//	proc, err := child.Start(sys.Lock(), p, child.Options{})
//
// Room: child.
package child

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is one system call. The layout is known to the assembly.
type Op struct {
	Nr  uintptr
	Arg [6]uintptr
	// Ret is what the kernel gave: a result or a negative errno. pending until
	// then.
	Ret uintptr
	// Allow has bit E set where errno E (below 64) is no failure.
	Allow uint64
	// Flags: needResult, needNone, failed.
	Flags uintptr
}

const (
	// needResult: a result of 0 is a failure, too (a read at the end of a
	// pipe whose other end died).
	needResult = 1
	// needNone: any other result than 0 is a failure (a poll that must find
	// nothing).
	needNone = 2
	// failed: an errno in Allow is a failure all the same, after which the child
	// goes on. Only the launcher looks at it.
	failed = 4

	// end ends the table: the child exits with status 127.
	end = ^uintptr(0)
	// pending is the Ret of an op that has not returned. No call gives it: it
	// is no errno and no address.
	pending = uintptr(1) << 62
)

// Program is a table of ops with the memory that their arguments point to.
type Program struct {
	ops   []Op // the capacity never changes: the child reads it meanwhile
	names []string
	keep  []any
	// shared is memory for ops and arguments that a child without the
	// launcher's memory sees, too; nil for most programs.
	shared []byte
	// reborn is set by AddRebirth.
	reborn *rebirth
	// after is how many ops there are behind the execve.
	after int
}

// New gives an empty program with room for max ops.
func New(max int) *Program {
	p := &Program{ops: make([]Op, 1, max+1)}
	p.ops[0] = Op{Nr: end, Ret: pending}
	return p
}

// Forks reports whether the program is one of NewForking.
func (p *Program) Forks() bool { return p.shared != nil }

// Step is one op of a program, for the caller to refine.
type Step struct {
	p *Program
	i int
}

// Add appends a call. While the child runs, it may only be used when the child
// waits in an op that the program has further back. name says in words what it does: it is what an error
// names. It panics when the program is longer than New was told.
func (p *Program) Add(name string, nr uintptr, args ...uintptr) Step {
	n := len(p.ops) - 1
	if n+1 >= cap(p.ops) {
		panic("child: program longer than announced")
	}
	p.ops = p.ops[:n+2]
	p.ops[n+1] = Op{Nr: end, Ret: pending}
	p.names = append(p.names, name)
	copy(p.ops[n].Arg[:], args)
	p.ops[n].Nr = nr
	inject(p, n)
	return Step{p, n}
}

// Allow makes the errnos no failures of the op.
func (s Step) Allow(errnos ...unix.Errno) Step {
	for _, e := range errnos {
		s.p.ops[s.i].Allow |= 1 << e
	}
	injectAllowed(s.p, s.i)
	return s
}

// NeedResult makes a result of 0 a failure of the op.
func (s Step) NeedResult() Step {
	s.p.ops[s.i].Flags |= needResult
	return s
}

// NeedNone makes a result other than 0 a failure of the op.
func (s Step) NeedNone() Step {
	s.p.ops[s.i].Flags |= needNone
	return s
}

// OrElse appends a call that is made when the step, which is the execve and the
// last so far, fails with that errno. It has failed all the same.
func (s Step) OrElse(errno unix.Errno, name string, nr uintptr, args ...uintptr) {
	s.Allow(errno)
	s.p.ops[s.i].Flags |= failed
	s.p.after++
	s.p.Add(name, nr, args...)
}

// Names lists what the ops do, in order.
func (p *Program) Names() []string { return p.names }

// Failure is an op that failed.
type Failure struct {
	Index int
	Name  string
	// Errno is 0 where a call gave nothing although it had to (NeedResult), or
	// something although it must not (NeedNone).
	Errno unix.Errno
}

func (f *Failure) Error() string {
	if f.Errno == 0 {
		return f.Name + ": the other side is gone"
	}
	return fmt.Sprintf("%s: %v", f.Name, f.Errno)
}

// Unwrap gives the errno.
func (f *Failure) Unwrap() error {
	if f.Errno == 0 {
		return nil
	}
	return f.Errno
}

// Reached reports whether all ops before the last, which is an execve, returned:
// the child was there, or beyond.
func (p *Program) Reached() bool {
	n := len(p.ops) - 2 - p.after
	return n < 1 || p.ops[n-1].Ret != pending
}
