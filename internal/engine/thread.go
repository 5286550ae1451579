package engine

import "launch/internal/sys"

// Thread is a thread that waits for what it is to do. To make one takes a fifth
// of a millisecond, so it is made beside what comes before.
type Thread struct {
	do   chan func(sys.Locked) error
	done chan error
}

// NewThread makes a thread. It stays for as long as the process, since what is
// born on it may have it as the parent that it dies with.
func NewThread() *Thread {
	t := &Thread{make(chan func(sys.Locked) error), make(chan error)}
	go func() {
		sys.Stack()
		l := sys.Lock()
		for f := range t.do {
			t.done <- f(l)
		}
	}()
	return t
}

// run runs f on the thread.
func (t *Thread) run(f func(sys.Locked) error) error {
	t.do <- f
	return <-t.done
}

// end ends the thread.
func (t *Thread) end() { close(t.do) }
