package notify

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
	"launch/internal/sys"
)

// readable waits for it at most so long.
func readable(t *testing.T, fd int, most time.Duration) bool {
	t.Helper()
	n, err := sys.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(most.Milliseconds()))
	if err != nil {
		t.Fatal(err)
	}
	return n > 0
}

// hear waits for a reading.
func hear(t *testing.T, e *Ear) State {
	t.Helper()
	for range 10 {
		if !readable(t, e.FD(), 10*time.Second) {
			t.Fatal("nothing to be heard")
		}
		if s, ok, err := e.Take(); ok || err != nil {
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	t.Fatal("no reading ends")
	return State{}
}

func TestEar(t *testing.T) {
	s, path := listen(t)
	s, err := unix.Dup(s)
	if err != nil {
		t.Fatal(err)
	}
	stored := 0
	e := NewEar(s, os.Getpid(), func(d Stored) { stored += len(d.Fds) })
	for range 3 {
		Send(path, "STATUS=a")
		Send(path, "STATUS=b", "READY=1")
		if got := hear(t, e); got != (State{Ready: true, Status: "b"}) {
			t.Fatalf("%+v", got)
		}
		if readable(t, e.FD(), 0) {
			t.Fatal("it is readable when all is read")
		}
	}
	var many []int
	for range 253 { // the kernel's SCM_MAX_FD
		many = append(many, 0)
	}
	if err := send(path, many, []string{"FDSTORE=1"}); err != nil {
		t.Fatal(err)
	}
	if hear(t, e); stored != len(many) {
		t.Errorf("of %d descriptors, %d have come", len(many), stored)
	}
	Send(path, "STATUS=c")
	if got, ok, err := e.Rest(10 * time.Second); !ok || err != nil || got != (State{Status: "c"}) {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	e.Close()
	for range 1000 {
		if _, err := unix.FcntlInt(uintptr(s), unix.F_GETFD, 0); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("the socket is open")
}

// TestEarLinger: a connection that can't be closed for a minute makes nobody wait,
// be it one that was sent along, one that there is no room for, or one that is still
// in the socket.
func TestEarLinger(t *testing.T) {
	for _, text := range []string{"X=1", "FDSTORE=1"} {
		s, path := listen(t)
		s, err := unix.Dup(s)
		if err != nil {
			t.Fatal(err)
		}
		f, end := stage.Lingering(t)
		if err := send(path, []int{int(f.Fd())}, []string{text}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		began := time.Now()
		e := NewEar(s, os.Getpid(), func(Stored) {})
		if _, ok, err := e.Take(); ok || err != nil {
			t.Errorf("the first reading: %v %v", ok, err)
		}
		if readable(t, e.FD(), 300*time.Millisecond) {
			t.Error("the reading is over: the connection doesn't linger, and the test says nothing")
		}
		if _, ok, err := e.Take(); ok || err != nil {
			t.Errorf("a reading that goes on: %v %v", ok, err)
		}
		if _, ok, err := e.Rest(300 * time.Millisecond); ok || err != nil {
			t.Errorf("what is left of it: %v %v", ok, err)
		}
		e.Close()
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("it took %v", d)
		}
		end()
	}
}
