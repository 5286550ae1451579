// Package pid2 tries machines whose payload is process 2 (--as-pid2).
//
// Room: test.
package pid2

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// most is how long anything may take.
const most = 60 * time.Second

// start starts a machine from the tiny tree.
func start(t *testing.T, args ...string) *stage.Run {
	t.Helper()
	return startIn(t, tree.Copy(t, tree.Tiny(t)), args...)
}

func startIn(t *testing.T, dir string, args ...string) *stage.Run {
	t.Helper()
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	// The launcher is given descriptors that are not for the machine.
	argv := append([]string{"sh", "-c", `exec 3</ 4</ 5</ 6</ 7</ 9</; exec "$@"`, "sh",
		l.Path, "--quiet", "--directory=" + dir, "--machine=launch-test-pid2", "--register=no", "--keep-unit", "--as-pid2"}, args...)
	r := s.Start(l.Env, argv...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n%s", strings.Join(argv, " "), r.Out)
		}
	})
	return r
}

// sh starts a machine that runs a script, with standard output as it is.
func sh(t *testing.T, script string, args ...string) *stage.Run {
	t.Helper()
	return start(t, append(append([]string{"--console=pipe"}, args...), "/bin/busybox", "ash", "-c", script)...)
}

func ends(t *testing.T, r *stage.Run, code int) {
	t.Helper()
	got, err := r.Code(most)
	if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("exit status %d, want %d", got, code)
	}
	if left := r.Left(); len(left) > 0 {
		t.Errorf("still running after the launcher ended: %q", left)
	}
}

// leader waits until the machine has said that it is up.
func leader(t *testing.T, r *stage.Run) int {
	t.Helper()
	if err := r.Await("up\n", most); err != nil {
		t.Fatal(err)
	}
	pid, err := r.Leader(most)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// status reads fields of /proc/PID/status.
func status(t *testing.T, pid int, names ...string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for l := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(l, ":")
		if slices.Contains(names, k) {
			m[k] = strings.Join(strings.Fields(v), " ")
		}
	}
	return m
}

// second gives process 2 of a machine by its number out here.
func second(t *testing.T, leader int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", leader, leader))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if n, err := fmt.Sscan(string(b), &pid); n != 1 {
		t.Fatalf("children of process 1: %q: %v", b, err)
	}
	if got := status(t, pid, "NSpid")["NSpid"]; !strings.HasSuffix(got, " 2") {
		t.Fatalf("the payload is not process 2: NSpid %q", got)
	}
	return pid
}

func descriptors(t *testing.T, pid int) (list []string) {
	t.Helper()
	dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dir {
		list = append(list, d.Name())
	}
	return list
}

const wait = "echo up; while :; do sleep 0.1; done"

// TestView: what process 1 is, seen from outside, and that the payload's
// rights are both processes' rights.
func TestView(t *testing.T) {
	launcher := stage.Under(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"root", nil},
		{"user", []string{"--user=alice"}},
		{"no-new-privileges", []string{"--user=alice", "--no-new-privileges=yes"}},
		{"private-users", []string{"--private-users=1310720"}},
		{"private-user", []string{"--private-users=1310720", "--user=alice"}},
		{"drop", []string{"--drop-capability=CAP_SYS_ADMIN,CAP_KILL"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := sh(t, wait, c.args...)
			one := leader(t, r)
			two := second(t, one)
			rights := []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "Umask"}
			a, b := status(t, one, rights...), status(t, two, rights...)
			for _, k := range rights {
				if a[k] != b[k] || a[k] == "" && k != "Groups" {
					t.Errorf("%s: process 1 has %q, process 2 %q", k, a[k], b[k])
				}
			}
			if got := status(t, one, "Name")["Name"]; got != "(sd-stubinit)" {
				t.Errorf("process 1 is called %q", got)
			}
			if launcher.Name != "launch" {
				r.Process.Signal(syscall.SIGTERM)
				return // the rest is what nspawn does not do
			}
			read := func(name string) string {
				b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", one, name))
				if err != nil {
					t.Error(err)
				}
				return string(b)
			}
			if got := read("cmdline"); got != "(sd-stubinit)\x00" {
				t.Errorf("cmdline %q", got)
			}
			if got, want := read("environ"), "container=systemd-nspawn\x00container_uuid="+tree.MachineID+"\x00"; got != want {
				t.Errorf("environ %q, want %q", got, want)
			}
			var kb int
			if fmt.Sscanf(status(t, one, "VmRSS")["VmRSS"], "%d kB", &kb); kb == 0 || kb >= 100 {
				t.Errorf("process 1 has %d kB", kb)
			}
			exe, err := os.Stat(fmt.Sprintf("/proc/%d/exe", one))
			if err != nil {
				t.Fatal(err)
			}
			own, err := os.Stat(launcher.Path)
			if err != nil {
				t.Fatal(err)
			}
			if os.SameFile(exe, own) || exe.Size() > 64<<10 {
				t.Errorf("process 1 is the launcher's program, or larger than it should be: %d bytes", exe.Size())
			}
			// While it runs, the kernel lets nobody write to it anyway.
			if fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", one), unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
				t.Error(err)
			} else {
				const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
				if got, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0); err != nil || got&all != all {
					t.Errorf("the program has the seals %#x, %v", got, err)
				}
				unix.Close(fd)
			}
			for _, f := range strings.Split(strings.TrimSpace(read("maps")), "\n") {
				if strings.Contains(f, " rwx") || strings.Contains(f, "heap") || strings.Contains(f, "/launch ") {
					t.Errorf("process 1 maps %s", f)
				}
			}
			for _, pid := range []int{one, two} {
				if got := descriptors(t, pid); !slices.Equal(got, []string{"0", "1", "2"}) {
					t.Errorf("%d has the descriptors %q (process 1 is %d)", pid, got, one)
				}
			}
			// Without a kill signal it is killed at once.
			begin := time.Now()
			r.Process.Signal(syscall.SIGTERM)
			ends(t, r, 1)
			if d := time.Since(begin); d > 20*time.Second {
				t.Errorf("it took %v to end", d)
			}
		})
	}
}

// TestEnd: how the machine ends when process 2 does, or is told to.
func TestEnd(t *testing.T) {
	for n := range 3 {
		t.Run(fmt.Sprint("exit ", n*100), func(t *testing.T) { ends(t, sh(t, fmt.Sprintf("exit %d", n*100)), n*100) })
	}
	t.Run("killed", func(t *testing.T) { ends(t, sh(t, "kill -9 $$"), 255) })
	for _, c := range []struct {
		signal int
		code   int
		args   []string
	}{
		{37, 0, nil}, {38, 0, nil}, {47, 0, nil}, {48, 0, nil},
		{2, 133, nil}, {39, 133, nil}, {40, 133, nil}, {49, 133, nil}, {50, 133, nil},
		{38, 0, []string{"--private-users=1310720"}},
		// Without the right to power off, the payload's status is what is left.
		{38, 9, []string{"--user=alice"}},
		{15, 7, nil}, {1, 7, nil}, {10, 7, nil},
	} {
		t.Run(fmt.Sprintf("signal %d %v", c.signal, c.args), func(t *testing.T) {
			r := sh(t, "trap 'exit 9' TERM; trap '' HUP; trap 'exit 7' USR1; "+wait, c.args...)
			one := leader(t, r)
			if err := syscall.Kill(one, syscall.Signal(c.signal)); err != nil {
				t.Fatal(err)
			}
			if c.code == 7 {
				// Process 1 does nothing about these.
				time.Sleep(300 * time.Millisecond)
				if err := syscall.Kill(second(t, one), syscall.SIGUSR1); err != nil {
					t.Fatal(err)
				}
			}
			ends(t, r, c.code)
		})
	}
	t.Run("power off from inside", func(t *testing.T) { ends(t, sh(t, "trap 'exit 9' TERM; trap '' HUP; kill -38 1; "+wait), 0) })
	t.Run("stopped", func(t *testing.T) {
		r := sh(t, wait)
		one := leader(t, r)
		two := second(t, one)
		if err := syscall.Kill(two, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(one, 38); err != nil {
			t.Fatal(err)
		}
		ends(t, r, 0)
	})
	t.Run("launcher killed", func(t *testing.T) {
		r := sh(t, wait)
		two := second(t, leader(t, r))
		fd, err := unix.PidfdOpen(two, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		r.Process.Kill()
		if n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10000); n != 1 {
			t.Errorf("the payload outlives its launcher: %v", err)
		}
		if _, err := r.Code(most); err != nil {
			t.Fatal(err)
		}
		r.Cleanup(stage.Launch(t))
	})
}

// TestOrphans: process 1 reaps what others leave behind.
func TestOrphans(t *testing.T) {
	r := sh(t, "i=0; while [ $i -lt 200 ]; do (sleep 0.01 & ); i=$((i+1)); done; "+wait)
	one := leader(t, r)
	for end := time.Now().Add(most); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", one, one))
		if err != nil {
			t.Fatal(err)
		}
		n := len(strings.Fields(string(b)))
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("process 1 still has %d children", n)
		}
	}
	second(t, one)
	r.Process.Signal(syscall.SIGTERM)
	ends(t, r, 1)
}

// TestSealed: the program that process 1 runs can't be changed from inside,
// by whatever name it is found.
func TestSealed(t *testing.T) {
	const try = `
echo up
for f in /proc/1/exe /proc/1/map_files/*; do
	if (echo x >$f) 2>/dev/null; then echo "wrote $f"; fi
	if (echo x >>$f) 2>/dev/null; then echo "appended $f"; fi
	if busybox truncate -s 0 $f 2>/dev/null; then echo "truncated $f"; fi
done
busybox readlink /proc/1/exe
`
	if stage.Under(t).Name != "launch" {
		t.Skip("nspawn forks itself")
	}
	check := func(t *testing.T, r *stage.Run, where string) {
		t.Helper()
		ends(t, r, 0)
		out := r.Out.String()
		for _, bad := range []string{"wrote", "appended", "truncated"} {
			if strings.Contains(out, bad) {
				t.Errorf("from inside: %s", out)
			}
		}
		if !strings.Contains(out, where) {
			t.Errorf("process 1 is executed from elsewhere than %s", where)
		}
	}
	t.Run("memfd", func(t *testing.T) { check(t, sh(t, try), "/memfd:launch-stub") })
	t.Run("memfd-noexec", func(t *testing.T) {
		l := stage.Under(t)
		s := stage.New(t, stage.Unified)
		dir := tree.Copy(t, tree.Tiny(t))
		// The setting is the pid namespace's.
		r := s.Start(l.Env, "unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "sh", "-c",
			`if ! echo 2 >/proc/sys/vm/memfd_noexec; then echo "not settable"; exit 99; fi; exec "$@"`, "sh",
			l.Path, "--quiet", "--directory="+dir, "--machine=launch-test-pid2", "--keep-unit", "--as-pid2", "--console=pipe",
			"/bin/busybox", "ash", "-c", try+"busybox chmod 700 /proc/1/exe 2>/dev/null && echo wrote its mode; exit 0")
		if code, err := r.Code(most); err == nil && code == 99 {
			t.Skip("vm.memfd_noexec cannot be set here (Linux 6.3 has it): ", r.Out)
		}
		check(t, r, "/stub")
	})
}

// TestExecFails: what keeps the payload from running is told, and is no
// payload's status.
func TestExecFails(t *testing.T) {
	dir := tree.Copy(t, tree.Tiny(t))
	for name, text := range map[string]string{"garbage": "no\x00program\n", "lost": "#!/no/such/shell\n"} {
		if err := os.WriteFile(filepath.Join(dir, "usr/bin", name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ program, want string }{
		{"garbage", "exec garbage: exec format error"},
		{"lost", "/no/such/shell, the interpreter of /bin/lost, is not in the tree"},
		{"/no/such/program", "cannot run /no/such/program"},
		{"", "cannot run \"\", a command without a name"},
	} {
		t.Run(c.program, func(t *testing.T) {
			r := startIn(t, dir, "--console=pipe", c.program)
			ends(t, r, 1)
			if stage.Under(t).Name == "launch" && !strings.Contains(r.Out.String(), c.want) {
				t.Errorf("it says %q, want %q", r.Out, c.want)
			}
		})
	}
}

// TestTerminal: process 2 is the terminal's, so that a shell has job control,
// and process 1 has no terminal.
func TestTerminal(t *testing.T) {
	l := stage.Under(t)
	tree.NeedRoot(t, "script")
	fifo := filepath.Join(t.TempDir(), "typed")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	typed, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer typed.Close()
	s := stage.New(t, stage.Unified)
	dir := tree.Copy(t, tree.Tiny(t))
	r := s.Start(l.Env, "sh", "-c", `exec script --quiet --return --command "$1" /dev/null <`+fifo, "sh",
		l.Path+" --quiet --directory="+dir+" --machine=launch-test-pid2 --register=no --keep-unit --as-pid2 --console=interactive /bin/busybox ash -i")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s", r.Out)
		}
	})
	say := func(text, answer string) {
		t.Helper()
		fmt.Fprint(typed, text)
		if err := r.Await(answer, most); err != nil {
			t.Fatal(err)
		}
	}
	say("echo h''ere\r", "here")
	// Field 5 to 8: process group, session, terminal, foreground group.
	say("echo one:$(cut -d' ' -f6-8 /proc/1/stat)\r", "one:1 0 -1")
	say("read -r x </proc/2/stat; set -- $x; echo two:$6:$([ $7 -gt 0 ] && echo tty):$8\r", "two:2:tty:2")
	// What a job says, it says when it has the terminal.
	say("busybox ash -c 'echo run\"\"ning; sleep 300'\r", "running")
	say("\x03", "^C")
	say("echo st''atus $?\r", "status 130")
	// A job in the background does not get what is typed until it is fetched.
	say("busybox ash -c 'trap \"echo fet\"\"ched\" CONT; echo rea\"\"dy; while :; do sleep 0.1; done' &\r", "ready")
	say("fg\r", "fetched")
	say("\x1a", "Stopped")
	say("kill -9 %1; exit 23\r", "exit 23")
	// A shell may ask a second time for a stopped job.
	if code, err := r.Code(3 * time.Second); err != nil {
		fmt.Fprint(typed, "exit 23\r")
	} else if code != 23 {
		t.Fatalf("exit status %d, want 23", code)
	}
	ends(t, r, 23)
}
