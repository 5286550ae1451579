package host

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// badBus is a bus that does not do what it should.
type badBus struct {
	name string
	// conn handles a connection, where there is no bus behind the socket.
	conn func(net.Conn)
	// refuses are methods of systemd and systemd-machined that answer with an
	// error, and stalls those that never answer.
	refuses, stalls string
	// jobs is how jobs end, "done" if it is empty.
	jobs string
	// old: systemd-machined before 259.
	old bool
	// What is said: of a machine that can do without, and of one that can't.
	notice, failure string
	// scope: what can't do without a scope fails, too.
	scope bool
	slow  bool
	// ask is told of each call before it is answered, and what it returns is the
	// answer unless it is "".
	ask func(method string) string
}

const nobody = "; the machine is known to nobody"

var badBuses = []badBus{
	{name: "good"},
	{name: "good and old", old: true},
	{name: "none", notice: "connection refused" + nobody, failure: "connect to the system's bus at", scope: true},
	{name: "dies", conn: func(c net.Conn) { c.Close() }, notice: nobody, failure: "connect to the system's bus at", scope: true},
	{name: "dies after the greeting", conn: func(c net.Conn) { c.Write([]byte("OK 1234\r\nAGREE_UNIX_FD\r\n")); c.Close() }, notice: nobody, failure: "connect to the system's bus at", scope: true},
	{name: "nonsense", conn: func(c net.Conn) { c.Write([]byte(strings.Repeat("nonsense ", 2000))) }, notice: "what answers there is no bus" + nobody, failure: "what answers there is no bus", scope: true},
	{name: "nonsense after the greeting", conn: func(c net.Conn) { c.Write([]byte("OK 1234\r\nAGREE_UNIX_FD\r\n" + strings.Repeat("nonsense ", 2000))) }, notice: "what answers there is no bus" + nobody, failure: "what answers there is no bus", scope: true},
	{name: "an endless message", conn: func(c net.Conn) {
		c.Write([]byte("OK 1234\r\nAGREE_UNIX_FD\r\nl\x02\x00\x01\xff\xff\xff\xff\x01\x00\x00\x00\xff\xff\xff\xff"))
	}, notice: "a message is too long" + nobody, failure: "a message is too long", scope: true},
	{name: "rejects", conn: func(c net.Conn) { c.Write([]byte("REJECTED EXTERNAL\r\n")) }, notice: "the bus refuses us", failure: "the bus refuses us", scope: true},
	{name: "says nothing", conn: func(c net.Conn) {}, notice: "timed out" + nobody, failure: "timed out", scope: true, slow: true},
	{name: "no scope", refuses: "StartTransientUnit", notice: "start unit machine-bad.scope: no StartTransientUnit; the machine stays in the launcher's own unit", scope: true, failure: "-"},
	{name: "a job fails", jobs: "failed", notice: `the job ended with "failed"; the machine stays`, scope: true, failure: "-"},
	{name: "no answer about the scope", stalls: "StartTransientUnit", notice: "timed out; the machine stays", scope: true, failure: "-", slow: true},
	{name: "no machine", refuses: "RegisterMachineEx", notice: "register machine bad: no RegisterMachineEx; machinectl will not show", failure: "register machine bad: no RegisterMachineEx"},
	{name: "no machine, old", old: true, refuses: "RegisterMachineWithNetwork", notice: "register machine bad: no RegisterMachineWithNetwork", failure: "register machine bad: no RegisterMachineWithNetwork"},
	{name: "no answer about the machine", stalls: "RegisterMachineEx", notice: "register machine bad: connection timed out", failure: "register machine bad: connection timed out", slow: true},
	{name: "no word of other machines", refuses: "GetMachine"},
	{name: "no goodbye", refuses: "UnregisterMachine", notice: "unregister machine bad: no UnregisterMachine"},
	{name: "no goodbye of the scope", refuses: "UnrefUnit"},
}

// start makes the bus at a path.
func (b badBus) start(t *testing.T, path string) {
	t.Helper()
	if b.conn != nil || b.name == "none" {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		if b.conn == nil {
			l.(*net.UnixListener).SetUnlinkOnClose(false)
			l.Close()
			return
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				t.Cleanup(func() { c.Close() })
				b.conn(c)
			}
		}()
		return
	}
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("needs dbus-daemon")
	}
	daemon := exec.Command(program, "--session", "--nofork", "--address=unix:path="+path)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	var conn *dbus.Conn
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if conn, err = dbus.Connect("unix:path=" + path); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { conn.Close() })
	answer := func(method string) *dbus.Error {
		if b.ask != nil {
			if no := b.ask(method); no != "" {
				return dbus.NewError("org.freedesktop.DBus.Error.Failed", []any{no})
			}
		}
		if method == b.stalls {
			time.Sleep(2 * time.Minute)
		}
		if method == b.refuses {
			return dbus.NewError("org.freedesktop.DBus.Error.AccessDenied", []any{"no " + method})
		}
		return nil
	}
	units := map[string]any{
		"StartTransientUnit": func(name, mode string, props []property, aux []auxiliary) (dbus.ObjectPath, *dbus.Error) {
			const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/17")
			if e := answer("StartTransientUnit"); e != nil {
				return "", e
			}
			result := "done"
			if b.jobs != "" {
				result = b.jobs
			}
			conn.Emit("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.JobRemoved", uint32(17), job, name, result)
			return job, nil
		},
		"UnrefUnit":       func(string) *dbus.Error { return answer("UnrefUnit") },
		"ResetFailedUnit": func(string) *dbus.Error { return answer("ResetFailedUnit") },
	}
	machines := map[string]any{
		"GetMachine": func(string) (dbus.ObjectPath, *dbus.Error) {
			if e := answer("GetMachine"); e != nil {
				return "", e
			}
			return "", dbus.NewError("org.freedesktop.machine1.NoSuchMachine", []any{"No machine"})
		},
		"RegisterMachineWithNetwork": func(string, []byte, string, string, uint32, string, []int32) (dbus.ObjectPath, *dbus.Error) {
			return "/x", answer("RegisterMachineWithNetwork")
		},
		"UnregisterMachine": func(string) *dbus.Error { return answer("UnregisterMachine") },
	}
	if !b.old {
		machines["RegisterMachineEx"] = func(string, []property) (dbus.ObjectPath, *dbus.Error) { return "/x", answer("RegisterMachineEx") }
	}
	for name, methods := range map[string]map[string]any{"org.freedesktop.systemd1": units, "org.freedesktop.machine1": machines} {
		object := dbus.ObjectPath("/" + strings.ReplaceAll(name, ".", "/"))
		if err := conn.ExportMethodTable(methods, object, name+".Manager"); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.RequestName(name, 0); err != nil {
			t.Fatal(err)
		}
	}
}

type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name  string
	Props []property
}

// TestBadBus: whatever a bus does, a machine that can do without starts, with a
// notice; one that can't is not started, with an error; and nothing is left.
func TestBadBus(t *testing.T) {
	for _, b := range badBuses {
		t.Run(b.name, func(t *testing.T) {
			if b.slow {
				long(t)
			}
			t.Parallel()
			s := stage.New(t, stage.Unified)
			s.Look("mkdir", "-p", "/run/systemd/system")
			dir := tree.Copy(t, tree.Tiny(t))
			path := filepath.Join(filepath.Dir(dir), "bus")
			b.start(t, path)
			l := stage.Launch(t)
			try := func(args ...string) (string, int) {
				t.Helper()
				argv := append([]string{l.Path, "--directory=" + dir, "--machine=bad", "--console=pipe", "--resolv-conf=off", "--timezone=off"}, args...)
				r := s.Start([]string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + path, "DBUS_SESSION_BUS_ADDRESS=unix:path=" + path}, append(argv, "/bin/busybox", "echo", "the payload")...)
				code, err := r.Code(80 * time.Second)
				if err != nil {
					t.Fatal(err, r.Out)
				}
				if left := r.Left(); left != nil {
					t.Errorf("%q: left: %q", args, left)
				}
				return r.Out.String(), code
			}
			out, code := try("--register=auto")
			if code != 0 || !strings.Contains(out, "the payload") || !strings.Contains(out, b.notice) || b.notice == "" && strings.Contains(out, "launch:") {
				t.Errorf("auto: status %d, want the notice %q: %s", code, b.notice, out)
			}
			out, code = try("--register=yes")
			if b.failure == "" || b.failure == "-" {
				if code != 0 || !strings.Contains(out, "the payload") {
					t.Errorf("yes: status %d: %s", code, out)
				}
			} else if code != 1 || strings.Contains(out, "the payload") || !strings.Contains(out, b.failure) || !strings.Contains(out, "from:  --register") {
				t.Errorf("yes: status %d, want the error %q: %s", code, b.failure, out)
			}
			out, code = try("--slice=a", "--register=no")
			if ok := code == 0 && strings.Contains(out, "the payload"); ok == b.scope || !ok && (code != 1 || strings.Contains(out, "the payload") || !strings.Contains(out, "from:  --slice")) {
				t.Errorf("slice: status %d: %s", code, out)
			}
			// The user's bus is another one, and told is told.
			out, code = try("--user", "--register=no")
			if ok := code == 0 && strings.Contains(out, "the payload"); ok == b.scope || !ok && (code != 1 || strings.Contains(out, "the payload") || !strings.Contains(out, "from:  --user")) {
				t.Errorf("user: status %d: %s", code, out)
			}
			if left := strings.TrimSpace(s.Look("sh", "-c", "ls /run/launch 2>/dev/null || true")); left != "" {
				t.Errorf("left in /run/launch: %s", left)
			}
		})
	}
}

// TestBeside: what systemd and systemd-machined are asked for goes on beside the
// mounts, and is few calls. So both wait here until they see what the launcher does
// meanwhile: a target that is made in the tree, and the tree as somebody's root.
func TestBeside(t *testing.T) {
	s := stage.New(t, stage.Unified)
	s.Look("mkdir", "-p", "/run/systemd/system")
	dir := tree.Copy(t, tree.Tiny(t))
	const mark = "a-mark-of-the-tree"
	if err := os.WriteFile(filepath.Join(dir, mark), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(dir), "bus")
	var calls []string
	var mu sync.Mutex
	sees := func(what string) string {
		for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if found, _ := filepath.Glob(what); found != nil {
				return ""
			}
		}
		return "nobody goes on until this is answered"
	}
	var launcher atomic.Int64
	badBus{ask: func(method string) string {
		mu.Lock()
		calls = append(calls, method)
		mu.Unlock()
		switch method {
		case "StartTransientUnit":
			return sees(filepath.Join(dir, "made/here"))
		case "RegisterMachineEx":
			return sees(fmt.Sprintf("/proc/%d/task/*/root/%s", launcher.Load(), mark))
		}
		return ""
	}}.start(t, path)
	r := s.Start([]string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + path}, stage.Launch(t).Path, "--directory="+dir, "--machine=bad", "--console=pipe", "--resolv-conf=off", "--timezone=off",
		"--register=yes", "--slice=a", "--bind=/etc:/made/here", "/bin/busybox", "echo", "the payload")
	launcher.Store(int64(r.Process.Pid))
	code, err := r.Code(80 * time.Second)
	if out := r.Out.String(); err != nil || code != 0 || !strings.Contains(out, "the payload") || strings.Contains(out, "launch:") {
		t.Errorf("status %d, %v: %s", code, err, out)
	}
	want := []string{"GetMachine", "StartTransientUnit", "RegisterMachineEx", "UnregisterMachine", "UnrefUnit"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(calls, want) {
		t.Errorf("the calls are %q, want %q", calls, want)
	}
}

// TestBusGoes: a machine that runs doesn't care for the bus.
func TestBusGoes(t *testing.T) {
	s := stage.New(t, stage.Unified)
	s.Look("mkdir", "-p", "/run/systemd/system")
	dir := tree.Copy(t, tree.Tiny(t))
	path := filepath.Join(filepath.Dir(dir), "bus")
	var r *stage.Run
	t.Run("while there is one", func(t *testing.T) {
		badBus{}.start(t, path)
		r = s.Start([]string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + path}, stage.Launch(t).Path, "--quiet", "--directory="+dir, "--machine=bad", "--console=pipe",
			"--resolv-conf=off", "--timezone=off", "--register=yes", "--kill-signal=SIGTERM", "/bin/busybox", "ash", "-c", "trap 'echo asked; exit 7' TERM; echo up; while :; do sleep 0.1; done")
		if err := r.Await("up", 30*time.Second); err != nil {
			t.Fatal(err, r.Out)
		}
	})
	time.Sleep(300 * time.Millisecond)
	r.Process.Signal(syscall.SIGTERM)
	if code, err := r.Code(30 * time.Second); code != 7 || err != nil || !strings.Contains(r.Out.String(), "asked") {
		t.Error(fmt.Sprint(code, err), r.Out)
	}
}
