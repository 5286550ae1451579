package machine

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/varlink"
)

// fake answers on a real bus as systemd and systemd-machined do, by another
// program's idea of the wire.
type fake struct {
	conn *dbus.Conn

	mu     sync.Mutex
	calls  []string
	old    bool // before 259
	exists int
	err    *dbus.Error
	leader int // of a machine that is there already
	odd    any // what is said instead of that
}

type prop struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name  string
	Props []prop
}

func (f *fake) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fake) StartTransientUnit(from dbus.Sender, name, mode string, props []prop, aux []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	for _, p := range props {
		if p.Name == "Newer" && f.old {
			return "", dbus.NewError("org.freedesktop.DBus.Error.PropertyReadOnly", []any{"Cannot set property Newer, or unknown property."})
		}
	}
	if f.exists > 0 {
		f.exists--
		return "", dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + name + " already exists."})
	}
	var list []string
	for _, p := range props {
		v := p.Value.String()
		if v == fmt.Sprintf("%q", string(from)) {
			v = "the caller"
		}
		list = append(list, p.Name+"="+v)
	}
	f.note("start %s %s %s %d", name, mode, strings.Join(list, " "), len(aux))
	const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/17")
	f.conn.Emit(unitsPath, unitsFace+".JobRemoved", uint32(17), job, name, "done")
	// To the caller alone, as systemd does it.
	msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(string(from)),
		dbus.FieldPath:        dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1/unit/x")),
		dbus.FieldInterface:   dbus.MakeVariant("org.freedesktop.systemd1.Scope"),
		dbus.FieldMember:      dbus.MakeVariant("RequestStop"),
	}}
	f.conn.Send(msg, nil)
	return job, nil
}

func (f *fake) UnrefUnit(name string) *dbus.Error { f.note("unref %s", name); return nil }

func (f *fake) ResetFailedUnit(name string) *dbus.Error { f.note("reset %s", name); return nil }

func (f *fake) RegisterMachineEx(name string, props []prop) *dbus.Error {
	if f.old {
		return dbus.NewError("org.freedesktop.DBus.Error.UnknownMethod", []any{"Unknown method RegisterMachineEx."})
	}
	if f.err != nil {
		return f.err
	}
	var list []string
	for _, p := range props {
		v := p.Value.String()
		if fd, ok := p.Value.Value().(dbus.UnixFD); ok {
			file := os.NewFile(uintptr(fd), "sent")
			text, _ := io.ReadAll(file)
			file.Close()
			v = fmt.Sprintf("descriptor of %q", text)
		}
		list = append(list, p.Name+"="+v)
	}
	f.note("register %s %s", name, strings.Join(list, " "))
	return nil
}

func (f *fake) RegisterMachineWithNetwork(name string, id []byte, service, class string, leader uint32, root string, ifs []int32) (dbus.ObjectPath, *dbus.Error) {
	if f.err != nil {
		return "", f.err
	}
	f.note("register %s %x %s %s %d %s %v", name, id, service, class, leader, root, ifs)
	return "/x", nil
}

func (f *fake) GetMachine(name string) (dbus.ObjectPath, *dbus.Error) {
	if f.leader == 0 {
		return "", dbus.NewError("org.freedesktop.machine1.NoSuchMachine", []any{"No machine known"})
	}
	return machinesPath, nil
}

func (f *fake) Get(face, name string) (dbus.Variant, *dbus.Error) {
	if f.odd != nil {
		return dbus.MakeVariant(f.odd), nil
	}
	return dbus.MakeVariant(uint32(f.leader)), nil
}

func (f *fake) UnregisterMachine(name string) *dbus.Error {
	if f.leader != 0 {
		f.leader, f.err = 0, nil
	}
	if name == "gone" {
		return dbus.NewError("org.freedesktop.machine1.NoSuchMachine", []any{"No machine 'gone' known"})
	}
	f.note("unregister %s", name)
	return nil
}

// start starts a bus with the fake on it, and connects to it.
func start(t *testing.T) (*fake, *Host) {
	t.Helper()
	path, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("there is no dbus-daemon")
	}
	address := "unix:path=" + filepath.Join(t.TempDir(), "bus")
	daemon := exec.Command(path, "--session", "--nofork", "--address="+address)
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	f := &fake{}
	for try := 0; ; try++ {
		if f.conn, err = dbus.Connect(address); err == nil {
			break
		}
		if try == 200 {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Cleanup(func() { f.conn.Close() })
	for _, e := range [][2]string{{unitsPath, unitsFace}, {machinesPath, machinesFace}, {machinesPath, "org.freedesktop.DBus.Properties"}} {
		if err := f.conn.Export(f, dbus.ObjectPath(e[0]), e[1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{units, machines} {
		if _, err := f.conn.RequestName(name, 0); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", address)
	h, err := Connect(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return f, h
}

func (f *fake) want(t *testing.T, want ...string) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !slices.Equal(f.calls, want) {
		t.Errorf("calls\n%s\nwant\n%s", strings.Join(f.calls, "\n"), strings.Join(want, "\n"))
	}
	f.calls = nil
}

func TestScope(t *testing.T) {
	f, h := start(t)
	f.exists = 2
	at, err := h.Start(Scope{Name: "machine-x.scope", Properties: []bus.Property{
		{Name: "Slice", Value: "machine.slice"}, {Name: "DeviceAllow", Value: [][2]string{{"/dev/fuse", "rwm"}}}, {Name: "KillSignal", Value: int32(37)},
		{Name: "IPAddressDeny", Value: [][]any{{int32(2), []byte{127, 0, 0, 0}, uint32(8)}}}, {Name: "After", Value: []string{"a", "b"}},
	}}, os.Getpid())
	if err != nil || !strings.HasPrefix(at, "/") {
		t.Fatal(at, err)
	}
	f.want(t, "reset machine-x.scope", "reset machine-x.scope", fmt.Sprintf(`start machine-x.scope fail PIDs=@au [%d] AddRef=true Controller=the caller Slice="machine.slice" `+
		`DeviceAllow=[["/dev/fuse", "rwm"]] KillSignal=37 IPAddressDeny=@a(iayu) [[2, [0x7f, 0x0, 0x0, 0x0], 8]] After=["a", "b"] 0`, os.Getpid()))
	asked := false
	for end := time.Now().Add(5 * time.Second); !asked && time.Now().Before(end); {
		if asked, err = h.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if !asked {
		t.Error("systemd asked us to stop, and nobody heard it")
	}
	if asked, err := h.Stop(); asked || err != nil {
		t.Error("asked twice", err)
	}
	h.Release()
	h.Release()
	f.want(t, "unref machine-x.scope")

	// What an old systemd doesn't know is left out, and nothing else.
	for _, old := range []bool{false, true} {
		f.old = old
		if _, err := h.Start(Scope{Name: "y.scope", Properties: []bus.Property{{Name: "Slice", Value: "a.slice"}}, Newer: []bus.Property{{Name: "Newer", Value: true}}}, 1); err != nil {
			t.Fatal(err)
		}
		newer := " Newer=true"
		if old {
			newer = ""
		}
		f.want(t, `start y.scope fail PIDs=@au [1] AddRef=true Controller=the caller Slice="a.slice"`+newer+" 0")
	}
}

func TestRegister(t *testing.T) {
	f, h := start(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	w.WriteString("a process")
	w.Close()
	defer r.Close()
	m := Machine{Name: "x", ID: "000102030405060708090a0b0c0d0e0f", Service: "systemd-nspawn", Class: "container", Leader: 42, Pidfd: int(r.Fd()), Root: "/srv/x", Interfaces: []int32{7}}
	if err := h.Register(m); err != nil {
		t.Fatal(err)
	}
	f.old = true
	if err := h.Register(m); err != nil {
		t.Fatal(err)
	}
	m.Pidfd, m.Interfaces = -1, nil
	if err := h.Register(m); err != nil {
		t.Fatal(err)
	}
	if err := h.Unregister("x"); err != nil {
		t.Fatal(err)
	}
	if err := h.Unregister("gone"); err != nil {
		t.Fatal(err)
	}
	f.want(t,
		`register x Id=@ay [0x0, 0x1, 0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xa, 0xb, 0xc, 0xd, 0xe, 0xf] Service="systemd-nspawn" Class="container" LeaderPIDFD=descriptor of "a process" RootDirectory="/srv/x" NetworkInterfaces=[7]`,
		"register x 000102030405060708090a0b0c0d0e0f systemd-nspawn container 42 /srv/x [7]",
		"register x 000102030405060708090a0b0c0d0e0f systemd-nspawn container 42 /srv/x []",
		"unregister x")
	// One whose first process is gone is in nobody's way.
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	f.leader, f.err = ended.Process.Pid, dbus.NewError("org.freedesktop.machine1.MachineExists", []any{"Machine 'x' already exists"})
	for range 2 {
		if err := h.Clear("x"); err != nil {
			t.Error(err)
		}
	}
	f.want(t, "unregister x")
	f.leader = os.Getpid()
	if err := h.Clear("x"); err != nil {
		t.Error(err)
	}
	f.want(t)
	f.leader, f.err = os.Getpid(), dbus.NewError("org.freedesktop.machine1.MachineExists", []any{"Machine 'x' already exists"})
	if err := h.Register(m); err == nil || err.Error() != "register machine x: Machine 'x' already exists" || missing(err) {
		t.Error(err)
	}
	m.ID = "12"
	if err := h.Register(m); err == nil {
		t.Error("a machine id of one byte")
	}
}

func TestMissing(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "no"))
	if _, err := Connect(false); !missing(err) {
		t.Error(err)
	}
	f, h := start(t)
	if _, err := f.conn.ReleaseName(machines); err != nil {
		t.Fatal(err)
	}
	if err := h.Register(Machine{Name: "x", ID: strings.Repeat("0", 32), Pidfd: -1}); !missing(err) {
		t.Error(err)
	}
}

// TestUser: the user's own bus is where its variables say, and is that user's.
func TestUser(t *testing.T) {
	f, _ := start(t)
	dir := t.TempDir()
	_, file, _ := strings.Cut(os.Getenv("DBUS_SYSTEM_BUS_ADDRESS"), "=")
	if err := os.Symlink(file, filepath.Join(dir, "bus")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/none")
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	refused := func(dir, want string) {
		t.Helper()
		t.Setenv("XDG_RUNTIME_DIR", dir)
		if h, err := Connect(true); err == nil {
			h.Close()
			t.Errorf("connected, want %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	refused("", "connect to the user's bus: neither $DBUS_SESSION_BUS_ADDRESS nor $XDG_RUNTIME_DIR")
	refused(t.TempDir(), "/bus: no such file or directory")

	t.Setenv("XDG_RUNTIME_DIR", dir)
	h, err := Connect(true)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if want := filepath.Join(dir, "systemd/machine/io.systemd.Machine"); h.socket != want {
		t.Errorf("systemd-machined is asked at %s, want %s", h.socket, want)
	}
	if err := h.Unregister("x"); err != nil {
		t.Error(err)
	}
	f.want(t, "unregister x")

	if os.Geteuid() != 0 {
		t.Skip("the rest needs root")
	}
	// Who listens there greets us as systemd does, but belongs to somebody else.
	other := t.TempDir()
	if err := os.Mkdir(filepath.Join(other, "systemd"), 0o755); err != nil {
		t.Fatal(err)
	}
	listening := make(chan error)
	go func() {
		runtime.LockOSThread() // and the thread ends with it
		n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(n, &unix.SockaddrUnix{Name: filepath.Join(other, "systemd/private")})
		}
		if err == nil {
			if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, 4711, 4711, 4711); e != 0 {
				err = e
			}
		}
		if err == nil {
			err = unix.Listen(n, 8)
		}
		listening <- err
		for err == nil {
			var c int
			if c, _, err = unix.Accept(n); err == nil {
				unix.Write(c, []byte("OK 1234\r\nAGREE_UNIX_FD\r\n"))
			}
		}
	}()
	if err := <-listening; err != nil {
		t.Fatal(err)
	}
	refused(other, "systemd/private: it is user 4711's, and this is user 0")
}

// TestOddAnswers: whatever systemd-machined answers when it is asked who is a
// machine's first process, it is read or refused, and no machine is given up that
// nobody knows to be gone.
func TestOddAnswers(t *testing.T) {
	f, h := start(t)
	f.leader = os.Getpid()
	for _, odd := range []any{uint32(0), "1", uint64(1 << 63), int32(-1), true, []uint32{1}, map[string]string{}, strings.Repeat("x", 1<<20)} {
		f.odd = odd
		if err := h.Clear("x"); !errors.Is(err, errNonsense) {
			t.Errorf("%.40v: %v", odd, err)
		}
		f.want(t)
	}

	socket := filepath.Join(t.TempDir(), "machine")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	answers, calls := make(chan string, 1), make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			text, _ := bufio.NewReader(c).ReadString(0)
			calls <- text
			select {
			case answer := <-answers:
				io.WriteString(c, answer)
			default: // nobody should have asked
			}
			c.Close()
		}
	}()
	h = &Host{direct: true, socket: socket}
	for _, odd := range []string{
		`{}`, `null`, `[]`, `1`, `""`, `{"parameters":null}`, `{"parameters":{}}`, `{"parameters":[]}`, `{"parameters":{"leader":null}}`, `{"parameters":{"leader":[{"pid":1}]}}`,
		`{"parameters":{"leader":{"pid":0}}}`, `{"parameters":{"leader":{"pid":-1}}}`, `{"parameters":{"leader":{"pid":null}}}`, `{"parameters":{"leader":{"pid":"1"}}}`,
		`{"parameters":{"leader":{"pid":9223372036854775808}}}`, `{"parameters":{"leader":{"pid":1e400}}}`, `{"parameters":{"leader":{"pid":NaN}}}`, `{"parameters":{"leader":{"pid":1.5}}}`,
		`{"parameters":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`, strings.Repeat("[", 1<<20), `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, "\xff\xfe", "",
	} {
		answers <- odd + "\x00"
		err := h.Clear("x")
		if err == nil || !errors.Is(err, errNonsense) && !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%.60q: %v", odd, err)
		}
		if <-calls; len(calls) != 0 {
			t.Errorf("%.60q: and then it was told %q", odd, <-calls)
		}
	}
	// Nobody reads on for ever.
	h.socket += "2"
	another, err := net.Listen("unix", h.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	written := make(chan int)
	go func() {
		c, err := another.Accept()
		n := 0
		for more := []byte(strings.Repeat("x", 1<<16)); err == nil && n < 4<<20; n += len(more) {
			_, err = c.Write(more)
		}
		if err == nil {
			c.Close()
		}
		written <- n
	}()
	if err := h.Clear("x"); !errors.Is(err, errNonsense) {
		t.Errorf("an answer without an end: %v", err)
	}
	if n := <-written; n > 2<<20 {
		t.Errorf("of an answer without an end, %d bytes were read", n)
	}
}

// TestVarlink: without a bus, systemd-machined is told on its own socket, of
// what it knows: 257 has another way to name a process than later ones.
func TestVarlink(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "machine")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	calls, answers := make(chan string, 10), make(chan string, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			text, _ := bufio.NewReader(c).ReadString(0)
			calls <- strings.TrimSuffix(text, "\x00")
			answer := <-answers
			// In two pieces, as it may come.
			io.WriteString(c, answer[:len(answer)/2])
			time.Sleep(10 * time.Millisecond)
			io.WriteString(c, answer[len(answer)/2:])
			c.Close()
		}
	}()
	const done = `{"parameters":{}}` + "\x00"
	h := &Host{direct: true, socket: socket}
	m := Machine{Name: "x", ID: strings.Repeat("0a", 16), Service: "systemd-nspawn", Class: "container", Leader: 42, Pidfd: -1, Root: "/srv/x", Interfaces: []int32{7}}
	ask := func(f func() error, want string, with ...string) error {
		t.Helper()
		for _, a := range with {
			answers <- a
		}
		err := f()
		got := ""
		for range with {
			got += <-calls + "\n"
		}
		if strings.TrimSpace(got) != want {
			t.Errorf("calls\n%swant\n%s", got, want)
		}
		return err
	}
	const head = `{"method":"io.systemd.Machine.Register","parameters":{"name":"x","id":"0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a","service":"systemd-nspawn","class":"container",`
	const tail = `,"rootDirectory":"/srv/x","ifIndices":[7]}}`
	register := func() error { return h.Register(m) }
	if err := ask(register, head+`"leaderProcessId":{"pid":42}`+tail, done); err != nil {
		t.Error(err)
	}
	if err := ask(register, head+`"leaderProcessId":{"pid":42}`+tail+"\n"+head+`"leader":42`+tail,
		`{"error":"org.varlink.service.InvalidParameter","parameters":{"parameter":"leaderProcessId"}}`+"\x00", done); err != nil {
		t.Error(err)
	}
	// Another machine of that name is looked at: its first process lives, or not.
	const exists = `{"error":"io.systemd.Machine.MachineExists","parameters":{}}` + "\x00"
	const list = `{"method":"io.systemd.Machine.List","parameters":{"name":"x"}}`
	ended := exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	leader := func(pid int) string {
		return fmt.Sprintf(`{"parameters":{"name":"x","leader":{"pid":%d}}}`+"\x00", pid)
	}
	const first = head + `"leaderProcessId":{"pid":42}` + tail
	clear := func() error { return h.Clear("x") }
	if err := ask(clear, list+"\n"+`{"method":"io.systemd.Machine.Unregister","parameters":{"name":"x"}}`, leader(ended.Process.Pid), done); err != nil {
		t.Error(err)
	}
	if err := ask(clear, list, leader(os.Getpid())); err != nil {
		t.Error(err)
	}
	if err := ask(clear, list, `{"error":"io.systemd.Machine.NoSuchMachine"}`+"\x00"); err != nil {
		t.Error(err)
	}
	if err := ask(register, first, exists); err == nil || err.Error() != "register machine x: io.systemd.Machine.MachineExists" {
		t.Error(err)
	}
	for _, nonsense := range []string{"nonsense\x00", "half", strings.Repeat("x", varlink.MostAnswer+1)} {
		if err := ask(register, head+`"leaderProcessId":{"pid":42}`+tail, nonsense); err == nil || !strings.Contains(err.Error(), "nonsense") && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%.20q: %v", nonsense, err)
		}
	}
	unregister := func() error { return h.Unregister("x") }
	const forget = `{"method":"io.systemd.Machine.Unregister","parameters":{"name":"x"}}`
	if err := ask(unregister, forget, done); err != nil {
		t.Error(err)
	}
	if err := ask(unregister, forget, `{"error":"io.systemd.Machine.NoSuchMachine","parameters":{}}`+"\x00"); err != nil {
		t.Error(err)
	}
	// The process itself is meant, where the kernel can tell.
	if n, err := unix.PidfdOpen(os.Getpid(), 0); err == nil {
		defer unix.Close(n)
		m.Leader, m.Pidfd = os.Getpid(), n
		answers <- done
		if err := h.Register(m); err != nil {
			t.Error(err)
		}
		var fs unix.Statfs_t
		if call := <-calls; unix.Fstatfs(n, &fs) == nil && fs.Type == pidfs && !regexp.MustCompile(`"pidfdId":[1-9][0-9]*,"bootId":"[0-9a-f]{32}"`).MatchString(call) {
			t.Error(call)
		}
	}
}
