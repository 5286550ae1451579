package stub

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// qemu is the emulator that these tests run in, if they do: programs of this
// architecture must be started with it then.
const qemu = "LAUNCH_TEST_QEMU"

// end is how the program ended.
type end struct {
	syscall.WaitStatus
	out    string
	report []byte
	took   time.Duration
}

func (e end) String() string {
	s := fmt.Sprintf("exit %d", e.ExitStatus())
	if e.Signaled() {
		s = fmt.Sprint(e.Signal())
	}
	if len(e.report) != 0 {
		step, errno := Report(e.report)
		s += fmt.Sprintf(", step %d: %v", step, errno)
	}
	return s
}

// start starts the program as process 1 of a new pid namespace.
func start(t *testing.T, o Options, files ...*os.File) (wait func() end) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	file := filepath.Join(t.TempDir(), "stub")
	if err := os.WriteFile(file, Image(o), 0o755); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	argv := []string{"--pid", "--mount-proc", "--fork", "--kill-child"}
	if q := os.Getenv(qemu); q != "" {
		argv = append(argv, q)
	}
	cmd := exec.Command("unshare", append(argv, file)...)
	cmd.Env = []string{"container=test"}
	cmd.ExtraFiles = []*os.File{w}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if len(files) > 0 {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[0], files[0]
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Skip("needs unshare: ", err)
	}
	w.Close()
	kill := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
	return func() end {
		t.Helper()
		report, _ := io.ReadAll(r)
		r.Close()
		err := cmd.Wait()
		if !kill.Stop() {
			t.Error("it did not end")
		}
		var bad *exec.ExitError
		if err != nil && !errors.As(err, &bad) {
			t.Fatal(err)
		}
		return end{cmd.ProcessState.Sys().(syscall.WaitStatus), out.String(), report, time.Since(begin)}
	}
}

func sh(script string) Options {
	return Options{
		Program: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH"), "A=b c", "EMPTY="},
		Grace: 90 * time.Second,
	}
}

// TestProcess1: what process 2 does, and how process 1 ends.
func TestProcess1(t *testing.T) {
	const patient = "trap t=1 TERM; trap c=1 CONT; trap h=1 HUP; "
	const asked = "while [ \"$t$c$h\" != 111 ]; do sleep 0.05; done; exit 3"
	const stay = "while :; do sleep 0.05; done"
	// The emulator passes on the n-th real-time signal as an earlier one: the
	// tests below send 38 and 39, which mean power off as numbers and one and
	// two less, and that comes first.
	emulated := os.Getenv(qemu) != ""
	realtime := "34 35 36 41 46 51 64"
	if emulated {
		realtime = ""
	}
	cases := []struct{ name, script, want, out string }{
		{"exit 0", "exit 0", "exit 0", ""},
		{"exit 7", "exit 7", "exit 7", ""},
		{"exit 255", "exit 255", "exit 255", ""},
		{"killed", "kill -9 $$", "exit 255", ""},
		{"segmentation fault", "kill -SEGV $$", "exit 255", ""},
		{"process 2", "echo $$ $PPID", "exit 0", "2 1\n"},
		{"environment", "echo \"$A.$EMPTY.$B.$container\"", "exit 0", "b c...\n"},
		{"orphans", "for i in $(seq 200); do (sleep 0.01 & ); done; sleep 0.5; grep -l '^PPid:.1$' /proc/[0-9]*/status", "exit 0", "/proc/2/status\n"},
		{"orphans left alone", "sleep 300 & exit 5", "exit 5", ""},
		{"ignored", patient + "for s in 1 15 10 12 14 17 18 20 " + realtime + "; do kill -$s 1; done; sleep 0.2; echo $t$c$h; exit 6", "exit 6", "\n"},
		{"its own directory", "cd /tmp; readlink /proc/1/cwd", "exit 0", "/\n"},
		{"signals", "grep -E 'Sig(Ign|Cgt)|^Name' /proc/1/status; grep SigBlk /proc/self/status", "exit 0",
			"Name:\t(sd-stubinit)\nSigIgn:\t" + ignored(t) + "\nSigCgt:\t0000000000000000\nSigBlk:\t0000000000000000\n"},
		{"sessions", "for p in 1 2; do cut -d' ' -f5,6,7 /proc/$p/stat; done", "exit 0", "0 0 0\n2 2 0\n"},
		{"descriptors", "for p in 1 2; do for f in 1 3; do [ -e /proc/$p/fd/$f ] && echo $p has $f; done; done; exit 0", "exit 0", "1 has 1\n2 has 1\n"},
		{"first request counts", patient + "kill -2 1; sleep 0.1; kill -38 1; kill -39 1; " + asked, "hangup", ""},
		{"first request counts", patient + "kill -38 1; kill -39 1; sleep 0.1; kill -2 1; " + asked, "interrupt", ""},
	}
	for _, s := range []int{37, 38, 47, 48} {
		if emulated {
			break
		}
		cases = append(cases, struct{ name, script, want, out string }{
			fmt.Sprint("power off ", s), fmt.Sprintf("kill -%d 1; %s", s, stay), "interrupt", ""})
	}
	for _, s := range []int{2, 39, 40, 49, 50} {
		if emulated && s != 2 {
			break
		}
		cases = append(cases, struct{ name, script, want, out string }{
			fmt.Sprint("reboot ", s), fmt.Sprintf("kill -%d 1; %s", s, stay), "hangup", ""})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			switch c.name {
			case "process 2", "orphans", "signals", "descriptors", "sessions":
				if emulated {
					t.Skip("would show the emulator")
				}
			}
			e := start(t, sh(c.script))()
			if e.String() != c.want || e.out != c.out {
				t.Errorf("%v, output %q; want %s, %q", e, e.out, c.want, c.out)
			}
		})
	}
}

// TestGrace: who does not listen is not waited for any longer.
func TestGrace(t *testing.T) {
	o := sh("trap '' TERM HUP; kill -2 1; while :; do sleep 0.05; done")
	o.Grace = 1200 * time.Millisecond
	e := start(t, o)()
	if !e.Signaled() || e.Signal() != unix.SIGHUP || e.took < o.Grace || e.took > o.Grace+5*time.Second {
		t.Errorf("%v after %v; want a reboot after %v", e, e.took, o.Grace)
	}
}

// TestNoRight: without the right to reboot, it is the payload's status.
func TestNoRight(t *testing.T) {
	if os.Getenv(qemu) != "" {
		t.Skip("setpriv would have to start the emulator")
	}
	file := filepath.Join(t.TempDir(), "inner")
	inner := sh("trap 'exit 9' TERM; trap '' HUP; kill -38 1; while :; do sleep 0.05; done")
	if err := os.WriteFile(file, Image(inner), 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c := exec.Command("unshare", "--pid", "--fork", "--kill-child", "setpriv", "--bounding-set=-sys_boot", file)
	_, w, _ := os.Pipe()
	c.ExtraFiles = []*os.File{w}
	c.Run()
	if got := c.ProcessState.ExitCode(); got != 9 {
		t.Errorf("exit %d, want 9", got)
	}
}

// TestFailures: each failure names its step.
func TestFailures(t *testing.T) {
	none := sh("")
	none.Program = "/does/not/exist"
	text := sh("")
	text.Program = filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text.Program, []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	tty := sh("")
	tty.Terminal = true
	for _, c := range []struct {
		name string
		o    Options
		step Step
		err  unix.Errno
	}{
		{"no such program", none, Exec, unix.ENOENT},
		{"no program", text, Exec, unix.ENOEXEC},
		{"no terminal", tty, CtlTTY, unix.ENOTTY},
	} {
		e := start(t, c.o)()
		if len(e.report) != ReportSize {
			t.Errorf("%s: %d bytes on the status pipe, %v", c.name, len(e.report), e)
			continue
		}
		if step, errno := Report(e.report); step != c.step || errno != c.err || e.ExitStatus() != 1 {
			t.Errorf("%s: %v; want step %d: %v", c.name, e, c.step, c.err)
		}
	}
}

// TestOnly: without process 2, the program becomes the payload, with all that
// it was started with.
func TestOnly(t *testing.T) {
	o := sh("echo $$ \"$A\"; [ -e /proc/$$/fd/3 ] && echo has 3; exit 7")
	o.Only = true
	if os.Getenv(qemu) != "" { // has descriptors of its own
		o.Args[2] = "echo 1 \"$A\"; exit 7"
	}
	if e := start(t, o)(); e.ExitStatus() != 7 || e.out != "1 b c\n" || len(e.report) > 0 {
		t.Errorf("%v, output %q", e, e.out)
	}
	o.Program = "/does/not/exist"
	e := start(t, o)()
	if len(e.report) != ReportSize || e.ExitStatus() != 1 {
		t.Fatalf("%v", e)
	}
	if step, errno := Report(e.report); step != Exec || errno != unix.ENOENT {
		t.Errorf("%v", e)
	}
}

// TestGate: the descriptor behind the status one is closed when the payload
// runs, for whoever has the other end.
func TestGate(t *testing.T) {
	if os.Getenv(qemu) != "" {
		t.Skip("the emulator has descriptors of its own")
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	o := sh("read line; [ -e /proc/$$/fd/4 ] && echo has 4; exit 7")
	o.Only = true
	file := filepath.Join(t.TempDir(), "stub")
	if err := os.WriteFile(file, Image(o), 0o755); err != nil {
		t.Fatal(err)
	}
	status, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer status.Close()
	cmd := exec.Command(file)
	cmd.ExtraFiles = []*os.File{status, w}
	var out bytes.Buffer
	cmd.Stdout = &out
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("the payload waits, and the other end hears %d, %v", n, err)
	}
	in.Close()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 7 || out.Len() > 0 {
		t.Errorf("%v, output %q", err, out.String())
	}
}

// TestOnce: a payload whose interpreter is /proc/self/exe gets the program
// again, and that ends at once, instead of starting it over and over.
func TestOnce(t *testing.T) {
	if os.Getenv(qemu) != "" {
		t.Skip("/proc/self/exe would be the emulator")
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, only := range []bool{true, false} {
		for _, program := range []string{script, "/proc/self/exe"} {
			o := sh("")
			o.Only, o.Program = only, program
			if e := start(t, o)(); e.ExitStatus() != 127 || len(e.report) > 0 || e.took > 5*time.Second {
				t.Errorf("only %v, %s: %v after %v", only, program, e, e.took)
			}
		}
	}
}

// TestSmall: process 1 is a few pages of a file of two.
func TestSmall(t *testing.T) {
	if os.Getenv(qemu) != "" {
		t.Skip("would show the emulator")
	}
	e := start(t, sh("grep VmRSS /proc/1/status"))()
	var kb int
	if _, err := fmt.Sscanf(e.out, "VmRSS: %d kB", &kb); err != nil || kb > 64 {
		t.Errorf("process 1 has %q", e.out)
	}
}

// TestImage: the file is what it should be for whoever reads ELF.
func TestImage(t *testing.T) {
	o := Options{Program: "/p", Args: []string{"a0", ""}, Env: []string{"E=1"}, Grace: 1500 * time.Millisecond}
	image := Image(o)
	if !bytes.Equal(image, Image(o)) {
		t.Error("two images of the same options differ")
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != map[int]elf.Machine{62: elf.EM_X86_64, 183: elf.EM_AARCH64}[machine] {
		t.Errorf("%v for %v", f.Type, f.Machine)
	}
	var load []*elf.Prog
	for _, p := range f.Progs {
		if p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			t.Errorf("%v is writable and executable", p.Type)
		}
		if p.Type == elf.PT_LOAD {
			load = append(load, p)
			if p.Off%0x10000 != p.Vaddr%0x10000 {
				t.Errorf("a segment at %#x in the file cannot be mapped to %#x", p.Off, p.Vaddr)
			}
		}
	}
	if len(load) != 2 || load[0].Filesz > blockAt || f.Entry != codeAddr+headSize {
		t.Fatalf("%d segments, entry %#x", len(load), f.Entry)
	}
	var b block
	data := image[blockAt:]
	word := func(offset uintptr) uint64 { return binary.LittleEndian.Uint64(data[offset:]) }
	text := func(addr uint64) string {
		s, _, _ := strings.Cut(string(data[addr-blockAddr:]), "\x00")
		return s
	}
	array := func(addr uint64) (list []string) {
		for ; ; addr += 8 {
			a := word(uintptr(addr - blockAddr))
			if a == 0 {
				return list
			}
			list = append(list, text(a))
		}
	}
	got := fmt.Sprintf("%q %q %q %d %d %d", text(word(unsafe.Offsetof(b.program))), array(word(unsafe.Offsetof(b.argv))),
		array(word(unsafe.Offsetof(b.envp))), word(unsafe.Offsetof(b.grace)+16), word(unsafe.Offsetof(b.grace)+24), word(unsafe.Offsetof(b.terminal)))
	if want := `"/p" ["a0" ""] ["E=1"] 1 500000 0`; got != want {
		t.Errorf("the program finds %s, want %s", got, want)
	}
	if n := len(code()); n < 200 || n > blockAt-headSize {
		t.Errorf("%d bytes of code", n)
	}
}

// TestArm64 runs these tests in an emulator, for the other architecture.
func TestArm64(t *testing.T) {
	q, err := exec.LookPath("qemu-aarch64-static")
	if err != nil {
		t.Skip("needs qemu-user-static: ", err)
	}
	if machine == 183 {
		t.Skip("this is arm64")
	}
	bin := filepath.Join(t.TempDir(), "stub.test")
	build := exec.Command("go", "test", "-c", "-o", bin, ".")
	build.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	// The emulator may lose a program with threads when that forks, and then waits
	// for ever: that says nothing about the stub.
	var out []byte
	for try := 0; ; try++ {
		limit, stop := context.WithTimeout(t.Context(), time.Minute)
		c := exec.CommandContext(limit, q, bin, "-test.v")
		c.Env = append(os.Environ(), qemu+"="+q)
		c.WaitDelay = time.Second
		out, err = c.CombinedOutput()
		hung := limit.Err() != nil
		stop()
		if !hung || try == 2 {
			break
		}
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestProcess1")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// ignored gives the signals that the test itself was started with ignored,
// which pass to what it starts.
func ignored(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "SigIgn:\t")
	set, _, _ := strings.Cut(rest, "\n")
	return set
}

// TestLabel: the label is written by the process that becomes the payload, before
// the filter comes and before it is executed, and the file is closed.
func TestLabel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exec")
	for _, only := range []bool{true, false} {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		o := sh("cat " + file + "; for f in /proc/$$/fd/*; do [ \"$(readlink $f)\" != " + file + " ] || echo open; done")
		o.Only, o.Label, o.LabelFile = only, "a:b:c", file
		if e := start(t, o)(); e.ExitStatus() != 0 || len(e.report) != 0 || e.out != "a:b:c" {
			t.Errorf("only: %v: %v, output %q", only, e, e.out)
		}
		for at, want := range map[string]unix.Errno{"/does/not/exist": unix.ENOENT, "/dev/full": unix.ENOSPC} {
			o.LabelFile = at
			e := start(t, o)()
			if len(e.report) != ReportSize || e.out != "" {
				t.Errorf("%s: %v, output %q", at, e, e.out)
				continue
			}
			if step, errno := Report(e.report); step != Label || errno != want {
				t.Errorf("%s: %v", at, e)
			}
		}
	}
	// No label, no file.
	o := sh("exit 3")
	o.Only, o.LabelFile = true, "/does/not/exist"
	if e := start(t, o)(); e.ExitStatus() != 3 || len(e.report) != 0 {
		t.Errorf("%v", e)
	}
}
