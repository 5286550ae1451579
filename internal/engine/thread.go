package engine

import "launch/internal/sys"

// Thread is a thread that waits for what it is to do. To make one takes a fifth
// of a millisecond, so it is made beside what comes before.
type Thread struct {
	gate *sys.Gate
	do   func(sys.Locked) error // written before the gate is opened
	done chan error
	over chan struct{}
}

// NewThread makes a thread. It stays for as long as the process, since what is
// born on it may have it as the parent that it dies with.
func NewThread() *Thread {
	t := &Thread{gate: sys.NewGate(), done: make(chan error), over: make(chan struct{})}
	go func() {
		sys.Stack()
		l := sys.Lock()
		t.gate.Wait(l)
		t.done <- t.do(l)
		<-t.over
	}()
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
	t.gate.Open()
	if !sys.Faults {
		meanwhile()
	}
	return <-t.done
}

// end ends the thread, after run.
func (t *Thread) end() { close(t.over) }
