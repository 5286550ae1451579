// Package console sits at a terminal, starts machines, types and looks: what
// reaches the machine, what comes back, and what the terminal is like at the
// end.
//
// Room: test.
package console

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// inside is set in the machine, where this program is its own payload.
const inside = "LAUNCH_TEST_INSIDE"

func TestMain(m *testing.M) {
	if what := os.Getenv(inside); what != "" {
		payload(what)
	}
	os.Exit(stage.Main(m))
}

// most is how long anything may take.
const most = 20 * time.Second

// descriptor is what a payload finds as one of its descriptors.
type descriptor struct {
	Dev, Ino uint64
	// Own: it is the machine's terminal. TTY: it is one at all.
	Own, TTY bool
	// Push is what pushing input into it gave.
	Push string
}

type view struct {
	FDs     [3]descriptor
	CTTY    string // what opening /dev/tty gave
	Console string // what /dev/console is
	Read    string // a line from standard input
	Env     []string
}

// payload runs in the machine.
func payload(what string) {
	switch what {
	case "look":
		v := view{Console: "none", Env: os.Environ()}
		var own unix.Stat_t
		unix.Stat("/dev/pts/0", &own)
		for n := range v.FDs {
			var st unix.Stat_t
			d := &v.FDs[n]
			if unix.Fstat(n, &st) == nil {
				d.Dev, d.Ino = uint64(st.Dev), st.Ino
			}
			_, err := unix.IoctlGetTermios(n, unix.TCGETS)
			d.TTY, d.Own = err == nil, own.Ino != 0 && st.Dev == own.Dev && st.Ino == own.Ino
			if d.TTY && !d.Own {
				c := byte('!')
				_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(n), unix.TIOCSTI, uintptr(unsafe.Pointer(&c)))
				d.Push = errno.Error()
			}
		}
		n, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY, 0)
		v.CTTY = fmt.Sprint(err)
		if err == nil {
			unix.Close(n)
		}
		if to, err := os.Readlink("/dev/console"); err == nil {
			v.Console = to
		}
		fmt.Println("OUTPUT")
		fmt.Fprintln(os.Stderr, "ERROR")
		v.Read, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		b, _ := json.Marshal(v)
		if err := os.WriteFile("/view", b, 0o600); err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	case "winch":
		// Says the size at the start, and each time it changes.
		ch := make(chan os.Signal, 8)
		signal.Notify(ch, syscall.SIGWINCH)
		for {
			w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			fmt.Printf("size %dx%d %v\n", w.Col, w.Row, err)
			<-ch
		}
	}
	os.Exit(9)
}

// terminal is the one that the test sits at.
type terminal struct {
	t      testing.TB
	master *os.File
	slave  *os.File
	out    stage.Output
	before unix.Termios
}

// sit opens one, with settings that are nobody's default, so that bringing back
// the usual ones is not enough.
func sit(t testing.TB, columns, lines uint16) *terminal {
	t.Helper()
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip("no terminal to be had: ", err)
	}
	if err := unix.IoctlSetPointerInt(m, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	s, err := unix.IoctlGetInt(m, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", s), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	tt := &terminal{t: t, master: os.NewFile(uintptr(m), "master"), slave: slave}
	tt.resize(columns, lines)
	tt.before = tt.modes()
	tt.before.Cc[unix.VINTR] = 7 // ^G
	tt.before.Lflag &^= unix.ECHOCTL
	tt.before.Oflag |= unix.OLCUC
	if err := unix.IoctlSetTermios(int(slave.Fd()), unix.TCSETS, &tt.before); err != nil {
		t.Fatal(err)
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		b := make([]byte, 4096)
		for {
			n, err := tt.master.Read(b)
			if err != nil {
				return
			}
			tt.out.Write(b[:n])
		}
	}()
	t.Cleanup(func() {
		tt.hangUp()
		tt.slave.Close()
		<-done
	})
	return tt
}

func (tt *terminal) modes() unix.Termios {
	tt.t.Helper()
	a, err := unix.IoctlGetTermios(int(tt.slave.Fd()), unix.TCGETS)
	if err != nil {
		tt.t.Fatal(err)
	}
	return *a
}

func (tt *terminal) raw() bool { return tt.modes().Lflag&unix.ICANON == 0 }

func (tt *terminal) resize(columns, lines uint16) {
	tt.t.Helper()
	if err := unix.IoctlSetWinsize(int(tt.slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: lines}); err != nil {
		tt.t.Fatal(err)
	}
}

func (tt *terminal) write(text string) {
	tt.t.Helper()
	if _, err := tt.master.WriteString(text); err != nil {
		tt.t.Fatal(err)
	}
}

func (tt *terminal) hangUp() { tt.master.Close() }

// shows waits until the words are on the terminal; it writes small letters large
// while it is not raw.
func (tt *terminal) shows(words string) {
	tt.t.Helper()
	tt.soon("it shows "+fmt.Sprintf("%q", words), func() bool {
		return strings.Contains(strings.ToLower(tt.out.String()), strings.ToLower(words))
	})
}

func (tt *terminal) say(text, answer string) {
	tt.t.Helper()
	tt.write(text)
	tt.shows(answer)
}

func (tt *terminal) soon(what string, is func() bool) {
	tt.t.Helper()
	for end := time.Now().Add(most); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			tt.t.Fatalf("not within %v: %s\nthe terminal shows %q", most, what, tt.out.String())
		}
	}
}

// as makes a command's descriptors this terminal, and the command the leader
// of its session; other is what the remaining descriptors are.
func (tt *terminal) as(which string, other *os.File) func(*exec.Cmd) {
	return func(c *exec.Cmd) {
		// A file of an own, which the command's start does not make blocking.
		c.Stdin, c.Stdout, c.Stderr = other, other, other
		ctty := -1
		if strings.Contains(which, "2") {
			c.Stderr, ctty = tt.slave, 2
		}
		if strings.Contains(which, "1") {
			c.Stdout, ctty = tt.slave, 1
		}
		if strings.Contains(which, "0") {
			c.Stdin, ctty = tt.slave, 0
		}
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if ctty >= 0 {
			c.SysProcAttr.Setctty, c.SysProcAttr.Ctty = true, ctty
		}
	}
}

// machine is a machine and the terminal that its launcher has.
type machine struct {
	*stage.Run
	*terminal
	dir string
}

// command is the launcher's command line; dir is a tree of its own.
func command(t testing.TB, l stage.Launcher, args ...string) (argv []string, dir string) {
	t.Helper()
	dir = tree.Copy(t, tree.Tiny(t))
	argv = []string{l.Path, "--directory=" + dir, "--machine=launch-test-console", "--register=no", "--keep-unit"}
	return append(argv, args...), dir
}

// start starts a machine at a terminal.
func start(t testing.TB, args ...string) *machine {
	t.Helper()
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	argv, dir := command(t, l, args...)
	tt := sit(t, 101, 37)
	r := s.StartAs(tt.as("012", nil), l.Env, argv...)
	return &machine{r, tt, dir}
}

// self are the words that make this program the payload.
func self(t testing.TB, what string) []string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{"--setenv=" + inside + "=" + what, "--bind-ro=" + path + ":/test", "/test"}
}

// ends waits for the launcher's end and looks at what it leaves.
func (m *machine) ends(code int) {
	m.terminal.t.Helper()
	t := m.terminal.t
	got, err := m.Code(most)
	if err != nil {
		t.Fatalf("%v\n%q", err, m.terminal.out.String())
	}
	if got != code {
		t.Errorf("exit status %d, want %d\n%q", got, code, m.terminal.out.String())
	}
	if left := m.Left(); len(left) > 0 {
		t.Errorf("still running after the launcher ended: %q", left)
	}
}

func (m *machine) restored() {
	m.terminal.t.Helper()
	if now := m.modes(); now != m.before {
		m.terminal.t.Errorf("the terminal is\n%+v, it was\n%+v", now, m.before)
	}
}

// TestPipe: each descriptor that is a terminal is replaced, the others are
// handed on as they are.
func TestPipe(t *testing.T) {
	if os.Getenv("LAUNCH_PEER") == "nspawn" {
		t.Skip("systemd-nspawn hands over the terminal")
	}
	for _, users := range []string{"no", "pick"} {
		for _, which := range []string{"", "0", "1", "2", "01", "02", "12", "012"} {
			if users != "no" && which != "02" {
				continue
			}
			for _, kind := range []string{"pipe", "socket", "file", "null"} {
				if which == "012" && kind != "null" || users != "no" && kind != "pipe" {
					continue
				}
				t.Run("terminals="+which+" "+kind+" users="+users, func(t *testing.T) { pipe(t, which, kind, users) })
			}
		}
	}
}

func pipe(t *testing.T, which, kind, users string) {
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	argv, dir := command(t, l, append([]string{"--quiet", "--console=pipe", "--private-users=" + users, "--private-users-ownership=chown"}, self(t, "look")...)...)
	tt := sit(t, 101, 37)
	// One file for all: what goes out can come in.
	var there, here *os.File
	open := func(path string, flags int) *os.File {
		f, err := os.OpenFile(path, flags, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	var in *os.File
	switch kind {
	case "pipe":
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		there, here = w, r
		in, w, err = os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString("typed\n")
		w.Close()
	case "socket":
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		there, here = os.NewFile(uintptr(p[0]), "there"), os.NewFile(uintptr(p[1]), "here")
		here.WriteString("typed\n")
		in = there
	case "file":
		path := filepath.Join(t.TempDir(), "file")
		there = open(path, os.O_WRONLY|os.O_CREATE)
		os.WriteFile(path+".in", []byte("typed\n"), 0o600)
		here, in = open(path, os.O_RDONLY), open(path+".in", os.O_RDONLY)
	case "null":
		there = open("/dev/null", os.O_RDWR)
		in = there
	}
	r := s.StartAs(func(c *exec.Cmd) {
		tt.as(which, there)(c)
		if !strings.Contains(which, "0") {
			c.Stdin = in
		}
	}, l.Env, argv...)
	if strings.Contains(which, "1") {
		tt.shows("OUTPUT\r")
	}
	if strings.Contains(which, "2") {
		tt.shows("ERROR\r")
	}
	if strings.Contains(which, "0") {
		tt.write("typed\n")
	}
	want := make([]unix.Stat_t, 3)
	for n := range want {
		f := there
		if n == 0 {
			f = in
		}
		if err := unix.Fstat(int(f.Fd()), &want[n]); err != nil {
			t.Fatal(err)
		}
	}
	if code, err := r.Code(most); err != nil || code != 0 {
		t.Fatalf("exit status %d, %v\n%q", code, err, tt.out.String())
	}
	if now := tt.modes(); now != tt.before {
		t.Errorf("the terminal is\n%+v, it was\n%+v", now, tt.before)
	}
	there.Close()
	if here != nil && !strings.Contains(which, "1") {
		b := make([]byte, 4096)
		n, _ := here.Read(b)
		if !strings.Contains(string(b[:n]), "OUTPUT\n") {
			t.Errorf("what is written does not come: %q", b[:n])
		}
	}
	b, err := os.ReadFile(dir + "/view")
	if err != nil {
		t.Fatal(err)
	}
	var v view
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	for n, d := range v.FDs {
		if own := strings.Contains(which, fmt.Sprint(n)); own != d.Own || d.TTY && !d.Own || !own && (d.Ino != want[n].Ino || d.Dev != uint64(want[n].Dev)) {
			t.Errorf("descriptor %d: %+v, want the machine's terminal %v, or inode %d of %d", n, d, own, want[n].Ino, want[n].Dev)
		}
	}
	if has := v.CTTY == "<nil>"; has != strings.Contains(which, "0") {
		t.Errorf("the controlling terminal: %s", v.CTTY)
	}
	if has := v.Console == "pts/0"; has != (which != "") {
		t.Errorf("/dev/console is %s", v.Console)
	}
	if v.Read != "typed\n" && !(kind == "null" && !strings.Contains(which, "0")) {
		t.Errorf("it read %q", v.Read)
	}
}

// TestBackground: a job in the background is not stopped by the terminal as
// long as it wants nothing from it, and has what is typed when it is in front.
func TestBackground(t *testing.T) {
	if os.Getenv("LAUNCH_PEER") == "nspawn" {
		t.Skip("systemd-nspawn hands over the terminal")
	}
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	argv, _ := command(t, l, "--quiet", "--pipe", "/bin/busybox", "ash", "-c", "echo r''un; read x; echo got:$x:")
	tt := sit(t, 101, 37)
	tt.before.Oflag &^= unix.OLCUC
	unix.IoctlSetTermios(int(tt.slave.Fd()), unix.TCSETS, &tt.before)
	r := s.StartAs(tt.as("012", nil), append(l.Env, "PS1=> "), "bash", "--norc", "--noediting", "-i")
	tt.shows("> ")
	tt.say(strings.Join(argv[:len(argv)-1], " ")+" '"+strings.ReplaceAll(argv[len(argv)-1], "''", `"d"`)+"' &\n", "rdun")
	tt.say("echo st''ill $(jobs -r | wc -l)\n", "still 1")
	if tt.raw() {
		t.Error("the terminal is the shell's, and raw")
	}
	tt.write("fg\n")
	tt.soon("the launcher takes the terminal", tt.raw)
	tt.say("mine\r", "got:mine:")
	tt.soon("the terminal is given back", func() bool { return tt.modes() == tt.before })
	tt.write("exit 5\n")
	if code, err := r.Code(most); err != nil || code != 5 {
		t.Errorf("exit status %d, %v\n%q", code, err, tt.out.String())
	}
}

// TestLines: in front of a pipe, the terminal is left alone: lines go in, the
// end of input too, and what isn't asked for stays for others.
func TestLines(t *testing.T) {
	if os.Getenv("LAUNCH_PEER") == "nspawn" {
		t.Skip("systemd-nspawn hands over the terminal")
	}
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	argv, _ := command(t, l, "--quiet", "--pipe", "/bin/busybox", "ash", "-c",
		"echo ready >&2; read x; echo got:$x:; cat | sed s/^/cat:/; echo next:$(cat); echo two; sleep 1")
	tt := sit(t, 101, 37)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	out := &stage.Output{}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := r.Read(b)
			if err != nil {
				return
			}
			out.Write(b[:n])
		}
	}()
	run := s.StartAs(func(c *exec.Cmd) { tt.as("02", nil)(c); c.Stdout = w }, l.Env, argv...)
	w.Close()
	comes := func(text string) {
		t.Helper()
		tt.soon("in the pipe: "+text, func() bool { return strings.Contains(out.String(), text) })
	}
	tt.shows("ready")
	if tt.modes() != tt.before {
		t.Error("the terminal's settings are changed")
	}
	tt.write("one\n")
	comes("got:one:")
	tt.write("a\nb\x04\x04") // the first hands over "b"
	comes("cat:a\n")
	comes("cat:b")
	tt.write("c\n\x04")
	comes("next:c")
	comes("two")
	if n := strings.Count(strings.ToLower(tt.out.String()), "one"); n != 1 {
		t.Errorf("a line is echoed %d times: %q", n, tt.out.String())
	}
	// Of what nobody asks for, one line goes in at most.
	tt.write("first\nsecond\nthird\n")
	if code, err := run.Code(most); err != nil || code != 0 {
		t.Fatalf("exit status %d, %v\n%q", code, err, tt.out.String())
	}
	b := make([]byte, 100)
	unix.SetNonblock(int(tt.slave.Fd()), true)
	n, _ := unix.Read(int(tt.slave.Fd()), b)
	if string(b[:max(n, 0)]) != "second\n" {
		t.Errorf("left for others: %q", b[:max(n, 0)])
	}
}

// TestSize: the machine's terminal has the size of the caller's, at once and
// when it changes; where there is none, the environment says it.
func TestSize(t *testing.T) {
	for _, mode := range []string{"interactive", "pipe", "read-only"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "pipe" && os.Getenv("LAUNCH_PEER") == "nspawn" {
				t.Skip("systemd-nspawn hands over the terminal")
			}
			m := start(t, append([]string{"--quiet", "--console=" + mode}, self(t, "winch")...)...)
			m.shows("size 101x37 <nil>")
			for i := range 3 {
				m.resize(uint16(60+i), 20)
				m.shows(fmt.Sprintf("size %dx20", 60+i))
			}
			m.Process.Signal(syscall.SIGTERM)
			m.ends(1)
			m.restored()
		})
	}
	for _, c := range []struct{ env, want string }{{"COLUMNS=66", "66x24"}, {"LINES=11", "80x11"}, {"COLUMNS=70000", "80x24"}, {"COLUMNS=wide", "80x24"}} {
		t.Run(c.env, func(t *testing.T) {
			l := stage.Under(t)
			s := stage.New(t, stage.Unified)
			argv, _ := command(t, l, append([]string{"--quiet", "--console=read-only"}, self(t, "winch")...)...)
			r := s.Start(append(l.Env, c.env), argv...)
			if err := r.Await("size ", most); err != nil {
				t.Fatal(err, r.Out)
			}
			if !strings.Contains(r.Out.String(), "size "+c.want) {
				t.Errorf("want %s: %s", c.want, r.Out)
			}
			r.Process.Signal(syscall.SIGTERM)
			if code, err := r.Code(most); err != nil || code != 1 {
				t.Errorf("status %d after SIGTERM (%v)", code, err)
			}
		})
	}
}

// TestJobControl: keys for signals reach the job in front, in the machine.
func TestJobControl(t *testing.T) {
	for _, mode := range []string{"interactive", "pipe"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "pipe" && os.Getenv("LAUNCH_PEER") == "nspawn" {
				t.Skip("systemd-nspawn hands over the terminal")
			}
			m := start(t, "--quiet", "--console="+mode, "/bin/busybox", "ash", "-i")
			// ash has the machine's keys, and not the odd one of the caller's.
			m.say("echo h''ere\r", "here")
			m.say("busybox ash -c 'echo run\"\"ning; sleep 300'\r", "running")
			m.say("\x03", "^C")
			m.say("echo st''atus $?\r", "status 130")
			m.say("busybox ash -c 'trap \"echo fet\"\"ched\" CONT; echo rea\"\"dy; while :; do sleep 0.1; done'\r", "ready")
			m.say("\x1a", "Stopped")
			m.say("fg\r", "fetched")
			m.write("\x03")
			m.say("echo th''en\r", "then")
			m.say("trap 'echo tr''apped' INT; echo s''et\r", "set")
			m.write("exit 23\r")
			m.ends(23)
			m.restored()
		})
	}
}

// TestRestored: the terminal is as it was, whatever the end. (After a SIGKILL
// of the launcher nobody is left who could.)
func TestRestored(t *testing.T) {
	sh := func(script string) []string { return []string{"/bin/busybox", "ash", "-c", script} }
	ends := []struct {
		name   string
		script []string
		end    func(m *machine)
		code   int
	}{
		{"exit 0", sh("echo up; stty raw -echo; sleep 0.5"), nil, 0},
		{"exit 7", sh("printf '\\033]0;x'; echo up; sleep 0.5; exit 7"), nil, 7},
		{"payload killed", sh("echo up; sleep 300"), func(m *machine) {
			pid, err := m.Leader(most)
			if err != nil {
				m.terminal.t.Fatal(err)
			}
			syscall.Kill(pid, syscall.SIGKILL)
		}, 1},
		{"SIGTERM", sh("echo up; sleep 300"), func(m *machine) { m.Process.Signal(syscall.SIGTERM) }, 1},
		{"SIGINT", sh("echo up; sleep 300"), func(m *machine) { m.Process.Signal(syscall.SIGINT) }, 1},
		{"SIGHUP", sh("echo up; sleep 300"), func(m *machine) { m.Process.Signal(syscall.SIGHUP) }, 1},
		{"hotkey", sh("trap '' INT TERM; echo up; sleep 300"), func(m *machine) { m.write("\x1d\x1d\x1d") }, 1},
		{"hotkey after much input", sh("echo up; sleep 300"), func(m *machine) { m.write(strings.Repeat("x", 3000) + "\x1d\x1d\x1d") }, 1},
		{"power off", sh("echo up; sleep 0.5; busybox poweroff -f"), nil, 0},
		{"reboot", sh("[ -e /again ] && exit 5; >/again; echo up; sleep 0.5; busybox reboot -f"), nil, 5},
		{"does not start", []string{"/no/such/file"}, nil, 1},
	}
	for _, mode := range []string{"interactive", "pipe"} {
		for _, e := range ends {
			t.Run(mode+", "+e.name, func(t *testing.T) {
				if os.Getenv("LAUNCH_PEER") == "nspawn" {
					if mode == "pipe" {
						t.Skip("systemd-nspawn hands over the terminal")
					}
					if e.name == "SIGHUP" {
						t.Skip("systemd-nspawn is killed by it")
					}
				}
				l := stage.Under(t)
				s := stage.New(t, stage.Unified)
				argv, dir := command(t, l, append([]string{"--console=" + mode}, e.script...)...)
				if e.name == "reboot" {
					// With --keep-unit, who started us is asked to do it.
					argv = append(argv[:4:4], argv[5:]...)
				}
				tt := sit(t, 101, 37)
				m := &machine{s.StartAs(tt.as("012", nil), l.Env, argv...), tt, dir}
				if e.script[0] != "/no/such/file" {
					m.shows("up\r")
					m.soon("the terminal is raw", m.raw)
				}
				if e.end != nil {
					e.end(m)
				}
				m.ends(e.code)
				m.restored()
			})
		}
	}
}

// TestStopped: a launcher that is stopped leaves the terminal to the shell, and
// takes it again when it goes on.
func TestStopped(t *testing.T) {
	if os.Getenv("LAUNCH_PEER") == "nspawn" {
		t.Skip("systemd-nspawn leaves the terminal raw")
	}
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	argv, _ := command(t, l, "--console=interactive", "/bin/busybox", "ash", "-i")
	tt := sit(t, 101, 37)
	tt.before.Oflag &^= unix.OLCUC
	unix.IoctlSetTermios(int(tt.slave.Fd()), unix.TCSETS, &tt.before)
	// A shell that itself never changes the terminal's modes, as bash does.
	r := s.StartAs(tt.as("012", nil), append(l.Env, "PS1=> "), "sh", "-i")
	tt.shows("> ")
	tt.write("sh -c 'echo pid $$ end; exec \"$@\"' sh " + strings.Join(argv, " ") + "\n")
	tt.soon("it is raw", tt.raw)
	tt.say("echo ins''ide\r", "inside")
	var pid int
	_, after, _ := strings.Cut(tt.out.String(), "\npid ")
	if _, err := fmt.Sscanf(after, "%d end", &pid); err != nil {
		t.Fatal(err, tt.out.String())
	}
	for i := range 2 {
		syscall.Kill(pid, syscall.SIGTSTP)
		tt.soon("the shell has the terminal", func() bool { return strings.Count(tt.out.String(), "Stopped") > i })
		tt.soon("it is as it was", func() bool { return tt.modes() == tt.before })
		tt.write("fg\n")
		tt.soon("it is raw again", tt.raw)
		tt.say(fmt.Sprintf("echo aga''in %d\r", i), fmt.Sprint("again ", i))
	}
	tt.write("exit 3\r")
	// What is typed before is thrown away.
	tt.soon("it is as it was", func() bool { return tt.modes() == tt.before })
	tt.say("echo co''de $?\n", "code 3")
	tt.soon("it is as it was", func() bool { return tt.modes() == tt.before })
	tt.write("exit\n")
	r.Code(most)
}

// TestHangUp: without a terminal there is nobody who sees the machine, or could
// stop it, so it ends; unless the terminal was never its, or a hang-up is to be
// ignored.
func TestHangUp(t *testing.T) {
	sh := []string{"/bin/busybox", "ash", "-c", "trap '' HUP; echo up; sleep 300"}
	for _, c := range []struct {
		mode, which string
		ignored     bool
	}{
		{"interactive", "012", false}, {"pipe", "012", false}, {"pipe", "0", false}, {"pipe", "2", false}, {"read-only", "012", false},
		{"interactive", "012", true}, {"pipe", "012", true}, {"pipe", "2", true}, {"read-only", "012", true},
	} {
		t.Run(fmt.Sprintf("%s terminals=%s ignored=%v", c.mode, c.which, c.ignored), func(t *testing.T) {
			if os.Getenv("LAUNCH_PEER") == "nspawn" && (c.mode == "pipe" || c.mode == "read-only") {
				t.Skip("systemd-nspawn hands over the terminal, or goes on writing to it")
			}
			l := stage.Under(t)
			s := stage.New(t, stage.Unified)
			argv, dir := command(t, l, append([]string{"--console=" + c.mode}, sh...)...)
			if c.ignored {
				argv = append([]string{"sh", "-c", `trap "" HUP; exec "$@"`, "sh"}, argv...)
			}
			tt := sit(t, 101, 37)
			null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer null.Close()
			m := &machine{s.StartAs(tt.as(c.which, null), l.Env, argv...), tt, dir}
			if _, err := m.Leader(most); err != nil {
				t.Fatal(err)
			}
			if c.which != "0" && !(c.mode == "pipe" && c.which == "2") {
				m.shows("up\r")
			}
			tt.slave.Close()
			tt.hangUp()
			code, err := m.Code(most)
			if err != nil {
				t.Fatal(err)
			}
			if want := 1; code != want && os.Getenv("LAUNCH_PEER") != "nspawn" {
				t.Errorf("exit status %d, want %d", code, want)
			}
			if left := m.Left(); len(left) > 0 {
				t.Errorf("still running: %q", left)
			}
		})
	}
	// Nothing of the machine's is a terminal.
	t.Run("ignored without a terminal", func(t *testing.T) {
		l := stage.Under(t)
		s := stage.New(t, stage.Unified)
		argv, _ := command(t, l, "--console=pipe", "/bin/busybox", "ash", "-c", "echo up; sleep 1; echo st''ill; sleep 300")
		r := s.Start(l.Env, append([]string{"sh", "-c", `trap "" HUP INT; exec "$@"`, "sh"}, argv...)...)
		if err := r.Await("up\n", most); err != nil {
			t.Fatal(err, r.Out)
		}
		r.Process.Signal(syscall.SIGHUP)
		r.Process.Signal(syscall.SIGINT)
		if err := r.Await("still\n", most); err != nil {
			t.Fatal(err, r.Out)
		}
		r.Process.Signal(syscall.SIGTERM)
		if code, err := r.Code(most); err != nil || code != 1 {
			t.Errorf("exit status %d, %v", code, err)
		}
	})
}
