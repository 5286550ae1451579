package notify

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Ear hears what comes to a socket without waiting for who sent it. To close a
// descriptor that came along may take as long as its sender likes: a TCP
// connection can be told to stay until all is sent (SO_LINGER), to a peer that
// never reads. The kernel, too, closes what it has no room for. So messages
// are taken on another thread, one reading at a time; one that hangs keeps
// nobody but the sender from being heard.
//
// It is for one goroutine.
type Ear struct {
	n, pid int
	store  func(Stored)
	bell   int // counted up when a reading is over; -1: there was none yet
	said   chan said
	reads  bool
}

type said struct {
	state State
	err   error
}

// NewEar hears what the process pid says on the socket, as Receive does. store
// is called on another thread, and never twice at a time.
func NewEar(n, pid int, store func(Stored)) *Ear {
	return &Ear{n: n, pid: pid, store: store, bell: -1, said: make(chan said, 1)}
}

// FD becomes readable when it is time for Take.
func (e *Ear) FD() int {
	if e.reads {
		return e.bell
	}
	return e.n
}

// Busy tells whether a reading is under way, or not fetched yet.
func (e *Ear) Busy() bool { return e.reads }

// Take gives what a reading that is over has heard, or begins one if there is
// none: ok is false for that, and for one that goes on.
func (e *Ear) Take() (s State, ok bool, err error) {
	if e.reads {
		select {
		case r := <-e.said:
			s, err = e.over(r)
			return s, true, err
		default:
			return s, false, nil
		}
	}
	if sys.Faults { // its calls are numbered: one thread makes them
		s, err = Receive(e.n, e.pid, e.store)
		return s, true, err
	}
	if e.bell < 0 {
		if e.bell, err = sys.Eventfd(unix.EFD_NONBLOCK); err != nil {
			e.bell = -1
			return s, true, fmt.Errorf("make a counter: %w", err)
		}
	}
	e.reads = true
	go func() {
		var r said
		r.state, r.err = Receive(e.n, e.pid, e.store)
		e.said <- r
		one := [8]byte{7: 1} // more than nothing in either order of bytes
		_, _ = sys.Write(e.bell, one[:])
	}()
	return s, false, nil
}

// fetch waits for a reading, at most so long.
func (e *Ear) fetch(most time.Duration) (s State, ok bool, err error) {
	select {
	case r := <-e.said:
		s, err = e.over(r)
		return s, true, err
	case <-time.After(most):
		return s, false, nil
	}
}

// over ends a reading.
func (e *Ear) over(r said) (State, error) {
	// The bell rings a moment later: unheard, it would be the next reading's.
	_, _ = sys.Poll([]unix.PollFd{{Fd: int32(e.bell), Events: unix.POLLIN}}, -1)
	var count [8]byte
	_, _ = sys.Read(e.bell, count[:])
	e.reads = false
	return r.state, r.err
}

// Last is how long what was said at the end is worth waiting for.
const Last = time.Second

// Rest gives what was said last, by a sender that is gone. It waits for it at
// most so long; ok is false if that did not do.
func (e *Ear) Rest(most time.Duration) (s State, ok bool, err error) {
	end := time.Now().Add(most)
	for range 2 { // one that is under way may have begun too early
		began := !e.reads
		var now State
		if began {
			if now, ok, err = e.Take(); ok {
				return s.and(now), ok, err
			}
		}
		if now, ok, err = e.fetch(time.Until(end)); !ok || err != nil {
			return s, ok, err
		}
		if s = s.and(now); began {
			break
		}
	}
	return s, true, nil
}

// and gives what was said in both.
func (s State) and(next State) State {
	s.Ready, s.Stopping = s.Ready || next.Ready, s.Stopping || next.Stopping
	if next.Status != "" {
		s.Status = next.Status
	}
	return s
}

// Close closes the socket, without waiting for what is still in it. It must be the
// last that is done with the ear.
func (e *Ear) Close() {
	if sys.Faults {
		sys.Close(e.n)
		return
	}
	go func() {
		if e.reads {
			_, _ = e.over(<-e.said)
		}
		sys.Close(e.n)
		if e.bell >= 0 {
			sys.Close(e.bell)
		}
	}()
}
