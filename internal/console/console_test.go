package console

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// TestMain: the test binary is also the machine's programs, as $PROGRAM says.
func TestMain(m *testing.M) {
	switch os.Getenv("PROGRAM") {
	case "":
		os.Exit(m.Run())
	case "vhangup":
		// What a getty does: hang up whoever has the console, open it anew.
		signal.Ignore(syscall.SIGHUP)
		time.Sleep(100 * time.Millisecond)
		if _, _, err := syscall.RawSyscall(unix.SYS_VHANGUP, 0, 0, 0); err != 0 {
			os.Exit(2)
		}
		time.Sleep(200 * time.Millisecond) // nobody has the console open
		n, err := sys.PtyPeer(3, unix.O_RDWR)
		if err != nil {
			os.Exit(3)
		}
		sys.WriteString(n, "after\n")
		b := make([]byte, 16)
		k, _ := sys.Read(n, b)
		sys.WriteString(n, "got "+string(b[:k]))
		os.Exit(0)
	}
}

// devpts gives a detached devpts of its own.
func devpts(t testing.TB) int {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: a devpts is mounted")
	}
	fs, err := sys.Fsopen("devpts")
	if err != nil {
		t.Skip("no devpts by fsopen: ", err)
	}
	defer sys.Close(fs)
	// Without it, old kernels would give the host's.
	if err := sys.FsFlag(fs, "newinstance"); err != nil {
		t.Fatal(err)
	}
	if err := sys.FsSet(fs, "ptmxmode", "0666"); err != nil {
		t.Fatal(err)
	}
	if err := sys.FsCreate(fs); err != nil {
		t.Fatal(err)
	}
	n, err := sys.Fsmount(fs, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(n) })
	return n
}

// pty gives a pty that the test's end closes, once, whatever of it the test
// itself has closed.
func pty(t testing.TB) *Pty {
	t.Helper()
	p, err := Open(devpts(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &p
}

// clock is set by hand.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

// loop is a caller's loop: it runs until stop is readable or the user's side
// hangs up.
type loop struct {
	f     *Forwarder
	stopR int
	stopW int
	done  chan struct{}
	state State
	err   error
	turns atomic.Int64
	most  int // the most input that waited
}

func run(t testing.TB, f *Forwarder) *loop {
	t.Helper()
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := &loop{f: f, stopR: r, stopW: w, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		var fds []unix.PollFd
		for l.state == Running {
			fds = f.Fds(append(fds[:0], unix.PollFd{Fd: int32(r), Events: unix.POLLIN}))
			if _, err := sys.Poll(fds, f.Timeout()); err != nil {
				l.err = err
				return
			}
			l.turns.Add(1)
			l.most = max(l.most, f.toMachine.len())
			if l.state, l.err = f.Handle(fds[1:]); l.err != nil {
				return
			}
			if fds[0].Revents != 0 {
				return
			}
		}
	}()
	t.Cleanup(func() { l.stop(t); f.Restore() })
	return l
}

// stop ends the loop, as the end of the machine would.
func (l *loop) stop(t testing.TB) {
	t.Helper()
	if l.stopW < 0 {
		return
	}
	sys.Close(l.stopW)
	l.stopW = -1
	l.wait(t)
	sys.Close(l.stopR)
}

func (l *loop) wait(t testing.TB) {
	t.Helper()
	select {
	case <-l.done:
	case <-time.After(20 * time.Second):
		t.Fatal("the loop hangs")
	}
}

func (l *loop) hung(t *testing.T) {
	t.Helper()
	l.wait(t)
	if l.state != Hung || l.err != nil {
		t.Fatalf("state %v, error %v; want a plain hang-up", l.state, l.err)
	}
}

func start(t testing.TB, c Config) *Forwarder {
	t.Helper()
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Restore)
	return f
}

func write(t testing.TB, n int, s string) {
	t.Helper()
	for s != "" {
		k, err := sys.Write(n, []byte(s))
		if err != nil {
			t.Errorf("write %d bytes: %v", len(s), err)
			return
		}
		s = s[k:]
	}
}

// some gives what can be read within the time, or until want has come.
func some(t testing.TB, n int, within time.Duration, want string) string {
	t.Helper()
	var b bytes.Buffer
	for end := time.Now().Add(within); ; {
		if want != "" && strings.Contains(b.String(), want) {
			return b.String()
		}
		left := time.Until(end)
		if left <= 0 {
			return b.String()
		}
		p := []unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}
		if k, err := sys.Poll(p, int(left/time.Millisecond)+1); err != nil {
			t.Fatal(err)
		} else if k == 0 {
			continue
		}
		c := make([]byte, 4096)
		k, err := sys.Read(n, c)
		if err != nil || k == 0 {
			return b.String()
		}
		b.Write(c[:k])
	}
}

func expect(t testing.TB, n int, want string) string {
	t.Helper()
	got := some(t, n, 5*time.Second, want)
	if !strings.Contains(got, want) {
		t.Fatalf("%q does not come, only %q", want, got)
	}
	return got
}

func setRaw(t testing.TB, n int) {
	t.Helper()
	a, err := sys.TermGet(n)
	if err != nil {
		t.Fatal(err)
	}
	rawInput(&a)
	plainOutput(&a)
	if err := sys.TermSet(n, &a); err != nil {
		t.Fatal(err)
	}
}

func term(t testing.TB, n int) unix.Termios {
	t.Helper()
	a, err := sys.TermGet(n)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// program runs a program on the slave, as leader of a session of its own.
func program(t testing.TB, slave int, extra []*os.File, env string, argv ...string) *exec.Cmd {
	t.Helper()
	n, err := sys.Dup(slave)
	if err != nil {
		t.Fatal(err)
	}
	tty := os.NewFile(uintptr(n), "slave")
	defer tty.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.ExtraFiles = extra
	cmd.Env = append(os.Environ(), "PS1=$ ", "TERM=dumb", env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

func TestOpen(t *testing.T) {
	dir := devpts(t)
	for want := range 3 {
		p, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.Number != want {
			t.Errorf("number %d, want %d", p.Number, want)
		}
		if err := p.Own(1000, 5); err != nil {
			t.Error(err)
		}
		st, err := sys.Statx(dir, fmt.Sprint(want), unix.STATX_BASIC_STATS)
		if err != nil || st.Uid != 1000 || st.Gid != 5 {
			t.Errorf("slave %d belongs to %d:%d (%v)", want, st.Uid, st.Gid, err)
		}
		for _, n := range []int{p.Master, p.Slave} {
			if r, err := sys.Ioctl(n, unix.TIOCGPGRP, 0); err == nil {
				t.Error("it became the test's controlling terminal", r)
			}
		}
		write(t, p.Slave, "x")
		expect(t, p.Master, "x")
	}
}

// A directory with a ptmx in it is no devpts.
func TestOpenElsewhere(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: makes a device node")
	}
	d := t.TempDir()
	if err := unix.Mknod(d+"/ptmx", unix.S_IFCHR|0o666, int(unix.Mkdev(5, 2))); err != nil {
		t.Skip("cannot make a node: ", err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, d, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(n)
	p, err := Open(n)
	if err == nil || !strings.Contains(err.Error(), "not on a devpts") {
		t.Errorf("opened a pty in a plain directory: %+v, %v", p, err)
	}
	if p.Master != -1 || p.Slave != -1 {
		t.Errorf("descriptors with an error: %+v", p)
	}
}

func TestSlaveIsLookedAt(t *testing.T) {
	p := pty(t)
	if err := isSlave(p.Slave, p.Number+1); err == nil {
		t.Error("another number passes")
	}
	if err := isSlave(p.Master, p.Number); err == nil {
		t.Error("a master passes as slave")
	}
	null, err := sys.Openat(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(null)
	if err := isSlave(null, p.Number); err == nil {
		t.Error("/dev/null passes as slave")
	}
}

// A shell on the machine's side, a user at a terminal on the other.
func TestShell(t *testing.T) {
	user, machine := pty(t), pty(t)
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master})
	l := run(t, f)
	sh := program(t, machine.Slave, nil, "ENV=", "/bin/sh", "-i")
	machine.CloseSlave()
	expect(t, user.Master, "$ ")
	write(t, user.Master, "echo $((6*7))\r")
	expect(t, user.Master, "\r\n42\r\n$ ")
	// Keys that mean something to the local terminal belong to the machine.
	write(t, user.Master, "cat\r")
	expect(t, user.Master, "cat\r\n")
	time.Sleep(50 * time.Millisecond)
	write(t, user.Master, "\x03")
	expect(t, user.Master, "$ ") // cat would still read a line that comes now
	write(t, user.Master, "tty; stty -a | grep -c isig; exit 3\r")
	expect(t, user.Master, "\r\n1\r\n")
	sh.Wait()
	if sh.ProcessState.ExitCode() != 3 {
		t.Errorf("the shell ended with %v", sh.ProcessState)
	}
	l.stop(t)
}

// pattern gives n bytes which are all different enough to see a loss.
func pattern(n int) []byte {
	b := make([]byte, 0, n+16)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "%07d\n", i)
	}
	return b[:n]
}

const much = 10 << 20

// much of output reaches a slow reader, and until it reads the machine waits.
func TestMuchOutput(t *testing.T) {
	for _, kind := range []string{"terminal", "pipe", "socket"} {
		t.Run(kind, func(t *testing.T) {
			machine := pty(t)
			setRaw(t, machine.Slave)
			var r, w int
			switch kind {
			case "terminal":
				user := pty(t)
				setRaw(t, user.Slave)
				r, w = user.Master, user.Slave
			case "pipe":
				var err error
				if r, w, err = sys.Pipe(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { sys.Close(r); sys.Close(w) })
			case "socket":
				p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				r, w = p[0], p[1]
				t.Cleanup(func() { sys.Close(r); sys.Close(w) })
			}
			before, _ := sys.StatusFlags(w)
			f := start(t, Config{In: -1, Out: w, Master: machine.Master})
			if now, _ := sys.StatusFlags(w); kind != "socket" && now != before {
				t.Error("flags that others share were changed")
			}
			l := run(t, f)
			want := pattern(much)
			written := make(chan error, 1)
			go func() {
				for b := want; len(b) > 0; {
					n, err := sys.Write(machine.Slave, b)
					if err != nil {
						written <- err
						return
					}
					b = b[n:]
				}
				written <- nil
			}()
			select {
			case err := <-written:
				t.Fatal("10 MB were taken though nobody reads: ", err)
			case <-time.After(300 * time.Millisecond):
			}
			if n := l.turns.Load(); n > 500 {
				t.Errorf("the loop turned %d times while nobody reads", n)
			}
			var got []byte
			b := make([]byte, 64<<10)
			for len(got) < len(want) {
				if len(got)%(1<<20) < 4096 {
					time.Sleep(time.Millisecond)
				}
				n, err := sys.Read(r, b)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b[:n]...)
			}
			if !bytes.Equal(got, want) {
				t.Fatal("what arrives is not what was written")
			}
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			l.stop(t)
			f.Restore()
			if now, _ := sys.StatusFlags(w); now != before {
				t.Errorf("flags are %#x, they were %#x", now, before)
			}
		})
	}
}

// much of input reaches a slow machine.
func TestMuchInput(t *testing.T) {
	for _, kind := range []string{"terminal", "pipe"} {
		t.Run(kind, func(t *testing.T) {
			machine := pty(t)
			setRaw(t, machine.Slave)
			var r, w int
			if kind == "terminal" {
				user := pty(t)
				r, w = user.Slave, user.Master
			} else {
				var err error
				if r, w, err = sys.Pipe(); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { sys.Close(r); sys.Close(w) })
			}
			l := run(t, start(t, Config{In: r, Out: -1, Master: machine.Master, Hotkey: func(Hotkey) {}}))
			want := pattern(much)
			go write(t, w, string(want))
			time.Sleep(200 * time.Millisecond)
			var got []byte
			b := make([]byte, 64<<10)
			for len(got) < len(want) {
				n, err := sys.Read(machine.Slave, b)
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, b[:n]...)
			}
			if !bytes.Equal(got, want) {
				t.Fatal("what arrives is not what was typed")
			}
			l.stop(t)
			if l.most > typeRoom {
				t.Errorf("up to %d bytes waited", l.most)
			}
		})
	}
}

// Both ways at once through a program, which must not come to a standstill:
// the machine's output is taken whether or not it takes input.
func TestMuchEcho(t *testing.T) {
	machine := pty(t)
	setRaw(t, machine.Slave)
	inR, inW, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(inR); sys.Close(outR); sys.Close(outW) })
	l := run(t, start(t, Config{In: inR, Out: outW, Master: machine.Master}))
	program(t, machine.Slave, nil, "", "/bin/cat")
	machine.CloseSlave()
	want := pattern(much)
	go func() { write(t, inW, string(want)); sys.Close(inW) }()
	var got []byte
	b := make([]byte, 64<<10)
	for len(got) < len(want) {
		n, err := sys.Read(outR, b)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Fatal("what comes back is not what was typed")
	}
	l.stop(t)
}

func TestSize(t *testing.T) {
	user, machine := pty(t), pty(t)
	size := func() string {
		w, err := sys.TermSize(machine.Slave)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(w.Col, "x", w.Row)
	}
	set := func(c, r uint16) {
		if err := sys.SetTermSize(user.Slave, unix.Winsize{Col: c, Row: r}); err != nil {
			t.Fatal(err)
		}
	}
	set(101, 37)
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master})
	if size() != "101x37" {
		t.Error("at the start:", size())
	}
	program(t, machine.Slave, nil, "", "/bin/sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done")
	l := run(t, f)
	expect(t, user.Master, "ready")
	l.stop(t)
	set(90, 30)
	if err := f.Resize(); err != nil {
		t.Fatal(err)
	}
	if size() != "90x30" {
		t.Error("after a change:", size())
	}
	l = run(t, f)
	expect(t, user.Master, "30 90")
	l.stop(t)
	set(0, 0)
	f.Resize()
	if size() != "90x30" {
		t.Error("after a change to nothing:", size())
	}
	f.Restore()

	set(90, 30)
	f = start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Columns: 120})
	if size() != "120x30" {
		t.Error("with $COLUMNS:", size())
	}
	f.Resize()
	if size() != "90x30" {
		t.Error("with $COLUMNS, after a change:", size())
	}
	f.Restore()
	f = start(t, Config{In: -1, Out: -1, Master: machine.Master, Columns: 66, Lines: 11, Mode: ReadOnly})
	if size() != "66x11" {
		t.Error("without a terminal:", size())
	}
	f.Restore()
	start(t, Config{In: -1, Out: -1, Master: machine.Master}).Restore()
	if size() != "66x11" {
		t.Error("without a terminal, and no size given:", size())
	}
}

// The terminal is as it was, whatever the end.
func TestRestored(t *testing.T) {
	twoWay := func(user, machine *Pty) Config {
		return Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Title: "m", Reset: true,
			Hotkey: func(Hotkey) { panic("from the caller") }}
	}
	none := unix.PollFd{Fd: -1}
	ends := []struct {
		name string
		end  func(t *testing.T, f *Forwarder, user, machine *Pty)
	}{
		{"normal", func(t *testing.T, f *Forwarder, user, machine *Pty) {
			if err := f.Drain(time.Second); err != nil {
				t.Error(err)
			}
		}},
		{"error", func(t *testing.T, f *Forwarder, user, machine *Pty) {
			_, err := f.Handle([]unix.PollFd{none, none, none})
			if err != nil {
				t.Error(err)
			}
			sys.Close(f.master) // a mistake of the caller's, the worst there is
			n, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_RDONLY, 0)
			if err != nil || n != f.master {
				t.Fatalf("open / as %d: %d, %v", f.master, n, err)
			}
			if _, err = f.Handle([]unix.PollFd{none, none, {Fd: int32(f.master), Revents: unix.POLLIN}}); err == nil {
				t.Error("reading a directory is no error")
			}
		}},
		{"panic", func(t *testing.T, f *Forwarder, user, machine *Pty) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			defer f.Restore()
			write(t, user.Master, "\x1d\x1d\x1d")
			fds := f.Fds(nil)
			sys.Poll(fds, 1000)
			f.Handle(fds)
		}},
		{"stop and go on", func(t *testing.T, f *Forwarder, user, machine *Pty) {
			raw := term(t, user.Slave)
			f.Suspend()
			if term(t, user.Slave).Lflag&unix.ICANON == 0 {
				t.Error("still raw while stopped")
			}
			if err := f.Resume(); err != nil {
				t.Error(err)
			}
			if term(t, user.Slave) != raw {
				t.Error("not raw again")
			}
			// Stopped by surprise; the shell changed the terminal.
			a := raw
			a.Lflag |= unix.ICANON | unix.ECHO
			sys.TermSet(user.Slave, &a)
			if err := f.Resume(); err != nil {
				t.Error(err)
			}
			if term(t, user.Slave) != raw {
				t.Error("not raw again")
			}
		}},
	}
	for _, e := range ends {
		t.Run(e.name, func(t *testing.T) {
			user, machine := pty(t), pty(t)
			before := term(t, user.Slave)
			f := start(t, twoWay(user, machine))
			raw := term(t, user.Slave)
			if raw.Lflag&(unix.ICANON|unix.ECHO|unix.ISIG) != 0 || raw.Iflag&unix.ICRNL != 0 || raw.Oflag&unix.OPOST != 0 {
				t.Fatal("the terminal is not raw")
			}
			e.end(t, f, user, machine)
			f.Restore()
			f.Restore()
			if now := term(t, user.Slave); now != before {
				t.Errorf("the terminal is\n%+v, it was\n%+v", now, before)
			}
		})
	}
}

// The errors of New leave nothing behind either.
func TestNewFails(t *testing.T) {
	user := pty(t)
	before := term(t, user.Slave)
	if _, err := New(Config{In: user.Slave, Out: 9999, Master: user.Master}); err == nil {
		t.Error("no error from an output that is not open")
	}
	if _, err := New(Config{In: user.Slave, Out: user.Slave, Master: 9999}); err == nil {
		t.Error("no error from a master that is not open")
	}
	null, _ := sys.Openat(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	defer sys.Close(null)
	if _, err := New(Config{In: user.Slave, Out: user.Slave, Master: null}); err == nil {
		t.Error("no error from a master that is no terminal")
	}
	if term(t, user.Slave) != before {
		t.Error("the terminal is not as it was")
	}
}

// Read-only: nothing is read, and the local terminal keeps its settings.
func TestReadOnly(t *testing.T) {
	user, machine := pty(t), pty(t)
	before := term(t, user.Slave)
	l := run(t, start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Mode: ReadOnly}))
	if term(t, user.Slave) != before {
		t.Error("the terminal's settings changed")
	}
	write(t, machine.Slave, "hello\n")
	expect(t, user.Master, "hello")
	write(t, user.Master, "typed\r")
	if got := some(t, machine.Slave, 200*time.Millisecond, ""); got != "" {
		t.Errorf("the machine reads %q", got)
	}
	l.stop(t)
}

// Input from a terminal with output elsewhere: messages on that terminal keep
// their line ends.
func TestOutputElsewhere(t *testing.T) {
	user, machine := pty(t), pty(t)
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(r)
	defer sys.Close(w)
	start(t, Config{In: user.Slave, Out: w, Master: machine.Master})
	a := term(t, user.Slave)
	if a.Oflag&unix.OPOST == 0 || a.Lflag&unix.ICANON != 0 {
		t.Errorf("oflag %#o lflag %#o", a.Oflag, a.Lflag)
	}
}

// What was typed for the machine does not reach the host's shell.
func TestTypedAhead(t *testing.T) {
	user, machine := pty(t), pty(t)
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master})
	write(t, user.Master, "rm -r something\r")
	time.Sleep(50 * time.Millisecond)
	f.Restore()
	if got := some(t, user.Slave, 200*time.Millisecond, ""); got != "" {
		t.Errorf("the shell would read %q", got)
	}
}

func TestTitleAndReset(t *testing.T) {
	user, machine := pty(t), pty(t)
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Title: "evil\x1b]0;x\x07 on h\u202est", Reset: true})
	l := run(t, f)
	write(t, machine.Slave, "MARK")
	got := expect(t, user.Master, "MARK")
	if want := "\x1b[22;0t\x1b]0;evil?]0;x? on h?st\x1b\\MARK"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	l.stop(t)
	f.Restore()
	got = expect(t, user.Master, "\x1b[23;0t")
	if want := reset + titleOff; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}

	// To something that is no terminal, nothing but the machine's bytes.
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	f = start(t, Config{In: -1, Out: w, Master: machine.Master, Title: "t", Reset: true})
	l = run(t, f)
	write(t, machine.Slave, "MARK")
	expect(t, r, "MARK")
	l.stop(t)
	f.Restore()
	sys.Close(w)
	if got := some(t, r, time.Second, ""); got != "" {
		t.Errorf("written to a pipe at the end: %q", got)
	}
	sys.Close(r)
}

func TestPrintable(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"web on host", "web on host"},
		{"größe 日本", "größe 日本"},
		{"a\x00b\x07c\x1b[2Jd\x7fe\n", "a?b?c?[2Jd?e?"},
		{"c1 \u009b2J \x9b", "c1 ?2J ?"},
		{"bidi \u202e\u2066\u2028\ufeff", "bidi ????"},
		{strings.Repeat("x", 300), strings.Repeat("x", maxText) + "..."},
		{strings.Repeat("x", maxText), strings.Repeat("x", maxText)},
		{"", ""},
	} {
		if got := Printable(c.in); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.in, got, c.want)
		}
	}
}

// The end of input reaches programs that read the terminal, each of them.
func TestEndOfInput(t *testing.T) {
	for _, c := range []struct {
		name, in, script, want string
	}{
		{"one", "hello\n", "stty -echo; cat; echo end", "hello\r\nend"},
		{"begun line", "hello", "stty -echo; cat; echo end", "helloend"},
		{"nothing", "", "cat; echo end", "end"},
		{"late", "hello\n", "stty -echo; sleep 0.7; cat; echo end", "hello\r\nend"},
		{"two readers", "a\n", "stty -echo; cat; cat; echo end", "a\r\nend"},
		{"swallowed", "", "sleep 0.3; stty raw; dd bs=1 count=1 of=/dev/null 2>/dev/null; stty sane -echo; cat; echo end", "end"},
		{"noise", "", "(while sleep 0.02; do echo x; done) & cat; echo end; kill $!", "end"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			machine := pty(t)
			inR, inW, err := sys.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			outR, outW, err := sys.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { sys.Close(inR); sys.Close(outR); sys.Close(outW) })
			write(t, inW, c.in)
			sys.Close(inW)
			if !strings.Contains(c.in, "\n") && c.in != "" {
				// The pty's own echo would come before stty takes it away.
				a := term(t, machine.Slave)
				a.Lflag &^= unix.ECHO
				sys.TermSet(machine.Slave, &a)
			}
			l := run(t, start(t, Config{In: inR, Out: outW, Master: machine.Master}))
			program(t, machine.Slave, nil, "", "/bin/sh", "-c", c.script)
			machine.CloseSlave()
			expect(t, outR, c.want)
			l.stop(t)
		})
	}
}

// An end of input that nobody reads costs next to nothing.
func TestEndOfInputUnread(t *testing.T) {
	machine := pty(t)
	null, err := sys.Openat(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(null)
	l := run(t, start(t, Config{In: null, Out: null, Master: machine.Master}))
	time.Sleep(1500 * time.Millisecond)
	l.stop(t)
	if n := l.turns.Load(); n > 12 {
		t.Errorf("woken %d times in 1.5 s", n)
	}
	// One end of input waits, not several.
	b := make([]byte, 8)
	if n, err := sys.Read(machine.Slave, b); n != 0 || err != nil {
		t.Errorf("read %d, %v; want the end of input", n, err)
	}
	if readable(machine.Slave, 50) {
		t.Error("more than one end of input was waiting")
	}
}

func readable(n, ms int) bool {
	k, _ := sys.Poll([]unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}, ms)
	return k > 0
}

// After a getty hung up its console, the end of input is told as before.
func TestEndOfInputAfterHangup(t *testing.T) {
	machine := pty(t)
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(r)
	l := run(t, start(t, Config{In: r, Out: -1, Master: machine.Master}))
	m, err := sys.Dup(machine.Master)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(m), "master")
	cmd := program(t, machine.Slave, []*os.File{master}, "PROGRAM=vhangup", "/proc/self/exe")
	master.Close()
	time.Sleep(400 * time.Millisecond)
	sys.Close(w)
	ended := make(chan error)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the program waits for input for ever")
	}
	l.stop(t)
}

// Output that is never silent delays the end of input, but not for ever; a
// pause that was decided is kept.
func TestEndOfInputTime(t *testing.T) {
	t0 := time.Unix(100, 0)
	f := &Forwarder{eofLast: t0, eofDelay: 400 * time.Millisecond}
	for _, c := range []struct{ now, want time.Duration }{
		{0, 400 * time.Millisecond},
		{200 * time.Millisecond, 400 * time.Millisecond},
		{350 * time.Millisecond, 450 * time.Millisecond},
		{2200 * time.Millisecond, 2300 * time.Millisecond},
		{2350 * time.Millisecond, 2400 * time.Millisecond},
		{9 * time.Second, 2400 * time.Millisecond},
	} {
		if got := f.eofTime(t0.Add(c.now)).Sub(t0); got != c.want {
			t.Errorf("output at %v: told at %v, want %v", c.now, got, c.want)
		}
	}
}

// A line that was begun is handed over and the end told at once, both.
func TestEndOfInputInLine(t *testing.T) {
	machine := pty(t)
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(r)
	write(t, w, "hello")
	sys.Close(w)
	l := run(t, start(t, Config{In: r, Out: -1, Master: machine.Master}))
	b := make([]byte, 8)
	if n, err := sys.Read(machine.Slave, b); string(b[:n]) != "hello" {
		t.Errorf("%q, %v", b[:n], err)
	}
	if !readable(machine.Slave, 100) {
		t.Error("no end after the line")
	}
	l.stop(t)
}

// Bytes that come from elsewhere than a terminal are no hotkeys.
func TestHotkeysInAFile(t *testing.T) {
	machine := pty(t)
	setRaw(t, machine.Slave)
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(r)
	defer sys.Close(w)
	l := run(t, start(t, Config{In: r, Out: -1, Master: machine.Master, Hotkey: func(h Hotkey) { t.Errorf("hotkey %q", h) }}))
	write(t, w, "\x1d\x1d\x1d.")
	if got := expect(t, machine.Slave, "."); got != "\x1d\x1d\x1d." {
		t.Errorf("the machine gets %q", got)
	}
	l.stop(t)
}

// Input and output can be two terminals.
func TestTwoTerminals(t *testing.T) {
	in, out, machine := pty(t), pty(t), pty(t)
	a, b := term(t, in.Slave), term(t, out.Slave)
	f := start(t, Config{In: in.Slave, Out: out.Slave, Master: machine.Master})
	if r := term(t, in.Slave); r.Lflag&unix.ICANON != 0 {
		t.Error("input is not raw")
	}
	if r := term(t, out.Slave); r.Oflag&unix.OPOST != 0 || r.Lflag&unix.ICANON == 0 {
		t.Error("output is not plain, or its input was changed")
	}
	f.Restore()
	if term(t, in.Slave) != a || term(t, out.Slave) != b {
		t.Error("a terminal is not as it was")
	}
}

// Opened once more, a master would be another pty's.
func TestMasterAsOutput(t *testing.T) {
	p := pty(t)
	before, _ := sys.StatusFlags(p.Master)
	l, err := openLocal(p.Master, "output", unix.O_WRONLY)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := sys.PtyNumber(l.fd); n != p.Number || err != nil {
		t.Errorf("number %d, %v, want %d", n, err, p.Number)
	}
	if now, _ := sys.StatusFlags(l.fd); now&unix.O_NONBLOCK == 0 {
		t.Error("writing to it can block")
	}
	l.close()
	if now, _ := sys.StatusFlags(p.Master); now != before {
		t.Errorf("flags are %#x, they were %#x", now, before)
	}
}

// A getty hangs up everybody at the console and opens it again; and a booted
// machine has its console closed most of the time. Neither ends anything, nor
// makes the loop spin.
func TestMachineHangsUp(t *testing.T) {
	user, machine := pty(t), pty(t)
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master})
	l := run(t, f)
	m, err := sys.Dup(machine.Master)
	if err != nil {
		t.Fatal(err)
	}
	master := os.NewFile(uintptr(m), "master")
	cmd := program(t, machine.Slave, []*os.File{master}, "PROGRAM=vhangup", "/proc/self/exe")
	master.Close()
	machine.CloseSlave()
	expect(t, user.Master, "after")
	write(t, user.Master, "typed\r")
	expect(t, user.Master, "got typed")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	time.Sleep(300 * time.Millisecond)
	l.stop(t)
	if n := l.turns.Load(); n > 60 {
		t.Errorf("the loop turned %d times", n)
	}

	// The same when the slave could not be held. Closed by everybody, then
	// opened by a new program.
	sys.Close(f.peer)
	f.peer = -1
	l = run(t, f)
	write(t, user.Master, "early\r")
	time.Sleep(100 * time.Millisecond)
	s, err := sys.PtyPeer(machine.Master, unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(s)
	expect(t, s, "early\n")
	l.stop(t)
	if n := l.turns.Load(); n > 20 {
		t.Errorf("the loop turned %d times", n)
	}
}

// The user's side goes away.
func TestUserHangsUp(t *testing.T) {
	t.Run("terminal", func(t *testing.T) {
		for _, mode := range []Mode{Interactive, ReadOnly} {
			user, machine := pty(t), pty(t)
			l := run(t, start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Mode: mode}))
			time.Sleep(20 * time.Millisecond)
			sys.Close(user.Master)
			user.Master = -1
			l.hung(t)
			l.f.Restore()
		}
	})
	t.Run("reader of a pipe", func(t *testing.T) {
		machine := pty(t)
		r, w, err := sys.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(w)
		f := start(t, Config{In: -1, Out: w, Master: machine.Master})
		l := run(t, f)
		time.Sleep(20 * time.Millisecond)
		sys.Close(r)
		l.hung(t)
		// Who goes on polling keeps the machine from waiting.
		done := make(chan bool)
		go func() { write(t, machine.Slave, string(pattern(1<<20))); done <- true }()
		fds := make([]unix.PollFd, 3)
		for end := time.Now().Add(10 * time.Second); ; {
			fds = f.Fds(fds[:0])
			sys.Poll(fds, 100)
			if state, err := f.Handle(fds); state != Hung || err != nil {
				t.Fatal(state, err)
			}
			select {
			case <-done:
				return
			default:
			}
			if time.Now().After(end) {
				t.Fatal("the machine waits for a reader that is gone")
			}
		}
	})
	t.Run("full disk", func(t *testing.T) {
		machine := pty(t)
		full, err := sys.Openat(unix.AT_FDCWD, "/dev/full", unix.O_WRONLY, 0)
		if err != nil {
			t.Skip("no /dev/full: ", err)
		}
		defer sys.Close(full)
		l := run(t, start(t, Config{In: -1, Out: full, Master: machine.Master}))
		write(t, machine.Slave, "x")
		l.wait(t)
		if l.state != Hung || l.err == nil || !strings.Contains(l.err.Error(), "no space left") {
			t.Errorf("state %v, error %v", l.state, l.err)
		}
	})
	t.Run("input is a directory", func(t *testing.T) {
		machine := pty(t)
		dir, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(dir)
		l := run(t, start(t, Config{In: dir, Out: -1, Master: machine.Master}))
		l.wait(t)
		if l.state != Running || l.err == nil {
			t.Errorf("state %v, error %v", l.state, l.err)
		}
	})
}

func TestDrain(t *testing.T) {
	newPipe := func(t *testing.T) (int, int) {
		r, w, err := sys.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sys.Close(r); sys.Close(w) })
		return r, w
	}
	t.Run("rest", func(t *testing.T) {
		machine := pty(t)
		r, w := newPipe(t)
		f := start(t, Config{In: -1, Out: w, Master: machine.Master})
		write(t, machine.Slave, "last words")
		machine.CloseSlave()
		if err := f.Drain(time.Second); err != nil {
			t.Error(err)
		}
		expect(t, r, "last words")
	})
	t.Run("nobody reads", func(t *testing.T) {
		machine := pty(t)
		_, w := newPipe(t)
		if _, err := unix.FcntlInt(uintptr(w), unix.F_SETPIPE_SZ, 4096); err != nil {
			t.Skip("cannot make a small pipe: ", err)
		}
		f := start(t, Config{In: -1, Out: w, Master: machine.Master})
		write(t, machine.Slave, strings.Repeat("x", 8000))
		begin := time.Now()
		err := f.Drain(200 * time.Millisecond)
		if err == nil || !strings.Contains(err.Error(), "bytes are lost") {
			t.Errorf("error %v", err)
		}
		if d := time.Since(begin); d < 150*time.Millisecond || d > 2*time.Second {
			t.Errorf("it took %v", d)
		}
	})
	t.Run("writes for ever", func(t *testing.T) {
		machine := pty(t)
		null, err := sys.Openat(unix.AT_FDCWD, "/dev/null", unix.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer sys.Close(null)
		f := start(t, Config{In: -1, Out: null, Master: machine.Master})
		for range 3 {
			program(t, machine.Slave, nil, "", "/bin/sh", "-c", "trap '' HUP; exec yes xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx")
		}
		begin := time.Now()
		if err := f.Drain(5 * time.Second); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d > 4*time.Second {
			t.Errorf("it took %v", d)
		}
	})
}

// Hotkeys through the whole, also when the machine takes nothing any more.
func TestHotkeys(t *testing.T) {
	user, machine := pty(t), pty(t)
	setRaw(t, machine.Slave)
	hit := make(chan Hotkey, 8)
	c := &clock{t: time.Now()}
	f := start(t, Config{In: user.Slave, Out: user.Slave, Master: machine.Master, Now: c.now, Hotkey: func(h Hotkey) { hit <- h }})
	l := run(t, f)
	want := func(h Hotkey) {
		t.Helper()
		select {
		case got := <-hit:
			if got != h {
				t.Errorf("hotkey %q, want %q", got, h)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("no hotkey %q", h)
		}
	}
	write(t, user.Master, "a\x1d\x1d\x1db\x1d\x1dpc\x1d\x1drd\x1d\x1dxe")
	for _, h := range []Hotkey{Kill, Poweroff, Reboot, 'x'} {
		want(h)
	}
	if got := expect(t, machine.Slave, "e"); got != "a\x1d\x1db\x1d\x1dc\x1d\x1dd\x1d\x1de" {
		t.Errorf("the machine gets %q", got)
	}
	// Too slow.
	write(t, user.Master, "\x1d\x1d1")
	expect(t, machine.Slave, "1")
	write(t, user.Master, "\x1d\x1d")
	expect(t, machine.Slave, "\x1d\x1d")
	c.add(1001 * time.Millisecond)
	write(t, user.Master, "\x1d2")
	if got := expect(t, machine.Slave, "2"); got != "\x1d2" {
		t.Errorf("the machine gets %q", got)
	}
	// The machine hangs, and its queue is full to the brim.
	flood := make(chan bool)
	go func() {
		write(t, user.Master, strings.Repeat("f", typeRoom+256<<10))
		close(flood)
	}()
	for range 100 {
		time.Sleep(20 * time.Millisecond)
		c.add(stuck) // and the loop's own timeout has to see it
		select {
		case <-flood:
		default:
			continue
		}
		break
	}
	<-flood
	write(t, user.Master, "\x1d\x1d\x1d")
	want(Kill)
	l.stop(t)
}

func TestKeys(t *testing.T) {
	type typed struct {
		ms int
		s  string
	}
	for _, c := range []struct {
		name  string
		typed []typed
		out   string
		hit   string
	}{
		{"three", []typed{{0, "\x1d"}, {400, "\x1d"}, {1000, "\x1d"}}, "\x1d\x1d", "]"},
		{"three, too slow", []typed{{0, "\x1d"}, {400, "\x1d"}, {1001, "\x1d"}}, "\x1d\x1d\x1d", ""},
		{"the last three count", []typed{{0, "\x1d"}, {900, "\x1d"}, {1100, "\x1d"}, {1200, "\x1d"}}, "\x1d\x1d\x1d", "]"},
		{"six", []typed{{0, "\x1d\x1d\x1d\x1d\x1d\x1d"}}, "\x1d\x1d\x1d\x1d", "]]"},
		{"between", []typed{{0, "\x1d\x1da\x1d"}}, "\x1d\x1d\x1d", "a"},
		{"not a letter", []typed{{0, "\x1d\x1d1p"}}, "\x1d\x1d1p", ""},
		{"a capital", []typed{{0, "\x1d\x1dPp"}}, "\x1d\x1dPp", ""},
		{"one and a letter", []typed{{0, "\x1dp"}}, "\x1dp", ""},
		{"letter, too late", []typed{{0, "\x1d\x1d"}, {1001, "p"}}, "\x1d\x1dp", ""},
		{"letter in time", []typed{{0, "\x1d"}, {600, "\x1d"}, {1000, "p"}}, "\x1d\x1d", "p"},
		{"long after", []typed{{0, "\x1d\x1d"}, {5000, "\x1d"}, {5100, "\x1d"}, {5200, "r"}}, "\x1d\x1d\x1d\x1d", "r"},
	} {
		var k keys
		out := ""
		for _, y := range c.typed {
			out += string(k.filter([]byte(y.s), time.Unix(100, 0).Add(time.Duration(y.ms)*time.Millisecond)))
		}
		hit := ""
		for _, h := range k.hit {
			hit += string(byte(h))
		}
		if out != c.out || hit != c.hit {
			t.Errorf("%s: out %q hit %q, want %q and %q", c.name, out, hit, c.out, c.hit)
		}
	}
}

// Bytes out are bytes in, less the one that completes each hotkey; and how
// they are cut into reads changes nothing.
func FuzzKeys(f *testing.F) {
	f.Add([]byte("ls\x1d\x1d\x1d\x1d\x1dp\x1dx"), uint8(3))
	f.Add([]byte("\x1d\x1d\x1d"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, cut uint8) {
		now := time.Unix(100, 0)
		var whole, parts keys
		out := whole.filter(bytes.Clone(in), now)
		if len(out)+len(whole.hit) != len(in) {
			t.Fatalf("%d in, %d out, %d hotkeys", len(in), len(out), len(whole.hit))
		}
		var joined []byte
		for b := bytes.Clone(in); len(b) > 0; {
			n := min(len(b), int(cut%7)+1)
			joined = append(joined, parts.filter(b[:n], now)...)
			b = b[n:]
		}
		if !bytes.Equal(out, joined) || string(fmt.Sprint(whole.hit)) != fmt.Sprint(parts.hit) {
			t.Fatal("the cuts matter")
		}
		// Put the hotkeys back where they were taken: that is what came in.
		var back []byte
		n, hit := 0, whole.hit
		for i := 0; i < len(out) || len(hit) > 0; {
			if n == 2 && len(hit) > 0 && len(back) < len(in) {
				c := in[len(back)]
				if (c == escape && hit[0] == Kill) || (c >= 'a' && c <= 'z' && Hotkey(c) == hit[0]) {
					back, hit, n = append(back, c), hit[1:], 0
					continue
				}
			}
			if i == len(out) {
				t.Fatal("a hotkey from nowhere")
			}
			c := out[i]
			i++
			back = append(back, c)
			if c == escape {
				n++
			} else {
				n = 0
			}
		}
		if !bytes.Equal(back, in) {
			t.Fatalf("in %q, back %q", in, back)
		}
		if bytes.Count(in, []byte{escape}) < 2 && len(out) != len(in) {
			t.Fatal("bytes are missing without a hotkey")
		}
	})
}

func FuzzQueue(f *testing.F) {
	f.Add([]byte{1, 2, 3, 200, 4})
	f.Fuzz(func(t *testing.T, ops []byte) {
		var q queue
		var in, out []byte
		next := byte(0)
		for i, op := range ops {
			n := int(op) % 61
			switch i % 3 {
			case 0:
				b := make([]byte, n)
				for j := range b {
					b[j] = next
					next++
				}
				in = append(in, b...)
				q.append(b)
			case 1:
				d := q.tail(128)
				if q.len() < 128 && len(d) == 0 || len(d) > 128 {
					t.Fatalf("room for %d with %d waiting", len(d), q.len())
				}
				d = d[:min(n, len(d))]
				for j := range d {
					d[j] = next
					next++
				}
				in = append(in, d...)
				q.grew(len(d))
			case 2:
				n = min(n, q.len())
				out = append(out, q.bytes()[:n]...)
				q.drop(n)
			}
		}
		if out = append(out, q.bytes()...); !bytes.Equal(in, out) {
			t.Fatalf("in %v out %v", in, out)
		}
	})
}
