package engine

import (
	"runtime"

	"launch/internal/entry"
	"launch/internal/sys"
	"launch/mount/attach"
)

// Thread is a thread that waits for what it is to do. To make one takes a fifth
// of a millisecond, so it is made beside what comes before.
type Thread struct {
	soon   *sys.Gate // opened a moment before the other
	gate   *sys.Gate
	tree   *attach.Tree           // of NewSite
	err    error                  // why there is none
	do     func(sys.Locked) error // written before the gate is opened
	roused bool
	done   chan error
	over   *sys.Gate
	gone   bool // written before over is opened: see leave
}

// NewThread makes a thread. It stays for as long as the process, since what is
// born on it may have it as the parent that it dies with.
func NewThread() *Thread { return newThread(func(*Thread, sys.Locked) {}) }

// NewSite is NewThread for a machine: while it waits, the thread gets the mount
// namespace that the machine's tree is put together in. What the host mounts
// later arrives there, if the host's mounts are shared at all.
func NewSite() *Thread {
	return newThread(func(t *Thread, l sys.Locked) {
		sys.Calm()
		t.tree, t.err = attach.Begin(l)
	})
}

// newThread makes a thread that does something ahead. In the build that counts
// calls, that comes when it is its turn.
func newThread(ahead func(*Thread, sys.Locked)) *Thread {
	t := &Thread{soon: sys.NewGate(), gate: sys.NewGate(), done: make(chan error), over: sys.NewGate()}
	sys.Spawn(func(l sys.Locked) {
		entry.Stack()
		if !sys.Faults {
			ahead(t, l)
		}
		t.soon.Wait()
		t.gate.Watch()
		if sys.Faults {
			ahead(t, l)
		}
		t.done <- t.do(l)
		t.over.Wait()
		if t.gone {
			sys.EndThread(l)
		}
	})
	return t
}

// run runs f on the thread. It can be done once.
func (t *Thread) run(f func(sys.Locked) error) error {
	return t.beside(f, func() {})
}

// beside is run, with meanwhile on the calling thread at the same time. In the
// build that counts calls, meanwhile comes first.
func (t *Thread) beside(f func(sys.Locked) error, meanwhile func()) error {
	if sys.Faults {
		meanwhile()
	}
	t.do = f
	t.rouse()
	t.gate.Open()
	if !sys.Faults {
		meanwhile()
	}
	return <-t.done
}

// rouse wakes the thread, which has something to do in a moment: a processor that
// sleeps takes as long to wake as all that comes before takes. It may be left out,
// and done twice.
func (t *Thread) rouse() {
	if !t.roused {
		t.roused = true
		t.soon.Open()
	}
}

// end ends the thread, after run.
func (t *Thread) end() { t.over.Open() }

// leave is end for a process that ends itself in a moment: the kernel takes down
// what only the thread still has, like the mounts of a machine that is dead, while
// the rest is undone. The thread stays in the build that counts calls, where how
// often an undo asks must not be chance, and where there is one processor, which Go
// would take for busy with the thread's last call.
func (t *Thread) leave() {
	if sys.Faults || runtime.GOMAXPROCS(0) < 2 {
		return
	}
	t.gone = true
	t.over.Open()
}
