package child

import (
	"bytes"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// run starts the program on a thread of its own and waits for its end.
func run(t *testing.T, p *Program, o Options) (c *Process, code, status int) {
	t.Helper()
	done := make(chan bool)
	go func() {
		defer close(done)
		l := sys.Lock()
		var err error
		if c, err = Start(l, p, o); err != nil {
			t.Errorf("start: %v", err)
			return
		}
		if code, status, err = sys.Wait(c.Pidfd); err != nil {
			t.Errorf("wait: %v", err)
		}
		sys.Close(c.Pidfd)
	}()
	<-done
	if t.Failed() {
		t.FailNow()
	}
	return c, code, status
}

const exited = 1

func TestExec(t *testing.T) {
	r, w, _ := os.Pipe()
	p := New(8)
	p.Add("put the pipe on standard output", unix.SYS_DUP3, w.Fd(), 1, 0)
	p.Add("exec", unix.SYS_EXECVE, p.String("/bin/echo"), p.Strings("echo", "hello"), p.Strings())
	c, code, status := run(t, p, Options{})
	if f := c.Failure(); f != nil || code != exited || status != 0 {
		t.Fatalf("failure %v, code %d, status %d", f, code, status)
	}
	w.Close()
	var b bytes.Buffer
	b.ReadFrom(r)
	if b.String() != "hello\n" {
		t.Fatalf("output %q", b.String())
	}
}

func TestFailureNamesTheOp(t *testing.T) {
	p := New(8)
	p.Add("harmless", unix.SYS_GETPID)
	p.Add("change to nowhere", unix.SYS_CHDIR, p.String("/does/not/exist"))
	p.Add("never reached", unix.SYS_EXIT_GROUP, 0)
	c, _, status := run(t, p, Options{})
	f := c.Failure()
	if f == nil || f.Index != 1 || f.Errno != unix.ENOENT || status != 127 {
		t.Fatalf("failure %v, status %d", f, status)
	}
	if got, want := f.Error(), "change to nowhere: no such file or directory"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func TestAllow(t *testing.T) {
	for _, tc := range []struct {
		allow []unix.Errno
		want  int
	}{
		{nil, 127},
		{[]unix.Errno{unix.EACCES}, 127},
		{[]unix.Errno{unix.ENOENT}, 5},
		{[]unix.Errno{unix.EACCES, unix.ENOENT}, 5},
	} {
		p := New(8)
		p.Add("exec nothing", unix.SYS_EXECVE, p.String("/does/not/exist"), p.Strings("x"), p.Strings()).Allow(tc.allow...)
		p.Add("exit", unix.SYS_EXIT_GROUP, 5)
		c, _, status := run(t, p, Options{})
		if status != tc.want || (c.Failure() != nil) != (tc.want == 127) {
			t.Errorf("allow %v: status %d, failure %v", tc.allow, status, c.Failure())
		}
	}
}

// An op that must give nothing fails when it gives something.
func TestNeedNone(t *testing.T) {
	for _, tc := range []struct {
		nr   uintptr
		want int
	}{{unix.SYS_GETPID, 127}, {unix.SYS_SCHED_YIELD, 5}} {
		p := New(8)
		p.Add("give nothing", tc.nr).NeedNone()
		p.Add("exit", unix.SYS_EXIT_GROUP, 5)
		c, _, status := run(t, p, Options{})
		if status != tc.want || (c.Failure() != nil) != (tc.want == 127) {
			t.Errorf("call %d: status %d, failure %v", tc.nr, status, c.Failure())
		}
	}
}

// An op that must give something fails at the end of a pipe, and a table can
// be written further while the child waits in it.
func TestGoStep(t *testing.T) {
	for _, say := range []string{"", "g"} {
		r, w, _ := sys.Pipe()
		p := New(8)
		p.Add("close the writing end", unix.SYS_CLOSE, uintptr(w))
		var b byte
		p.Add("wait for the launcher", unix.SYS_READ, uintptr(r), Keep(p, &b), 1).NeedResult()
		done := make(chan bool)
		go func() {
			defer close(done)
			l := sys.Lock()
			c, err := Start(l, p, Options{})
			if err != nil {
				t.Error(err)
				return
			}
			p.Add("exit", unix.SYS_EXIT_GROUP, 7)
			if say != "" {
				sys.WriteString(w, say)
			}
			sys.Close(w)
			_, status, _ := sys.Wait(c.Pidfd)
			if say == "" && (status != 127 || c.Failure() == nil || c.Failure().Index != 1) {
				t.Errorf("no go: status %d, failure %v", status, c.Failure())
			}
			if say != "" && (status != 7 || c.Failure() != nil) {
				t.Errorf("go: status %d, failure %v", status, c.Failure())
			}
		}()
		<-done
		sys.Close(r)
	}
}

// Signals that hit the launcher meanwhile must never run Go's handlers in the
// child; many starts under garbage collection and signals would show it.
func TestManyStarts(t *testing.T) {
	stop := make(chan bool)
	go func() {
		var keep [][]byte
		for {
			select {
			case <-stop:
				return
			default:
				keep = append(keep, make([]byte, 1<<16))
				if len(keep) > 64 {
					keep = nil
				}
			}
		}
	}()
	for i := range 300 {
		p := New(40)
		for range 30 {
			p.Add("look", unix.SYS_GETPID)
		}
		p.Add("exit", unix.SYS_EXIT_GROUP, uintptr(i%100))
		if _, code, status := run(t, p, Options{}); code != exited || status != i%100 {
			t.Fatalf("round %d: code %d, status %d", i, code, status)
		}
	}
	close(stop)
}
