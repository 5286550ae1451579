package systemd

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"launch/internal/cgroup/resource"
)

func ptr[T any](v T) *T { return &v }

func TestParse(t *testing.T) {
	for _, c := range []struct {
		path       string
		user       bool
		name, want string
	}{
		{"", false, "launch-id.scope", "/system.slice/launch-id.scope"},
		{"", true, "launch-id.scope", "/user.slice/launch-id.scope"},
		{"machine.slice:libpod:abc", false, "libpod-abc.scope", "/machine.slice/libpod-abc.scope"},
		{"a-b-c.slice:cri:x", false, "cri-x.scope", "/a.slice/a-b.slice/a-b-c.slice/cri-x.scope"},
		{":cri:x", false, "cri-x.scope", "/system.slice/cri-x.scope"},
		{"-.slice::x", false, "x.scope", "/x.scope"},
		{"/a/b", false, "", ""}, {"a:b", false, "", ""}, {"a:b:c", false, "", ""}, {"a.slice:b:", false, "", ""},
		{"../a.slice:b:c", false, "", ""}, {"a--b.slice:b:c", false, "", ""}, {"-a.slice:b:c", false, "", ""}, {"a.slice:b:c/d", false, "", ""}, {".slice:b:c", false, "", ""}, {"a.slice:cri:a-pod.slice", false, "", ""},
	} {
		u, err := Parse(c.path, "id", c.user)
		if c.name == "" {
			if err == nil {
				t.Errorf("%q: %+v", c.path, u)
			}
			continue
		}
		if err != nil || u.Name != c.name || u.CgroupPath() != c.want || u.User != c.user {
			t.Errorf("%q: %+v %s %v", c.path, u, u.CgroupPath(), err)
		}
	}
}

func TestProperties(t *testing.T) {
	r := specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150)), Reservation: ptr(int64(-1))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(1500)), Period: ptr(uint64(10001)), Cpus: "0-1,9", Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(10))},
		Unified: map[string]string{"memory.high": "77", "memory.max": "99", "misc.max": "x"},
	}
	v2 := resource.Hierarchies{V2: []string{"memory", "cpu", "cpuset", "pids", "io"}, Unified: true}
	v1 := resource.Hierarchies{V1: []string{"memory", "cpu", "cpuset", "pids", "blkio"}, Unified: true}
	for _, c := range []struct {
		h       resource.Hierarchies
		version int
		want    string
	}{
		{v2, 0, "AllowedCPUs=[3 2] AllowedMemoryNodes=[1] CPUWeight=100 CPUQuotaPeriodUSec=10001 CPUQuotaPerSecUSec=150000 MemorySwapMax=50 MemoryMax=99 MemoryLow=18446744073709551615 TasksMax=18446744073709551615 IOWeight=1 MemoryHigh=77"},
		{v2, 240, "CPUWeight=100 CPUQuotaPerSecUSec=150000 MemorySwapMax=50 MemoryMax=99 MemoryLow=18446744073709551615 TasksMax=18446744073709551615 IOWeight=1 MemoryHigh=77"},
		{v1, 250, "CPUShares=1024 MemoryLimit=100 TasksMax=18446744073709551615 BlockIOWeight=10 MemoryHigh=77 MemoryMax=99 CPUQuotaPeriodUSec=10001 CPUQuotaPerSecUSec=150000"},
	} {
		props, err := Properties(&r, c.h, c.version)
		var got []string
		for _, p := range props {
			got = append(got, fmt.Sprintf("%s=%v", p.Name, p.Value))
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("version %d: %v\n got  %s\n want %s", c.version, err, strings.Join(got, " "), c.want)
		}
	}
	if _, err := Properties(&r, resource.Hierarchies{}, 0); err == nil {
		t.Error("no controllers, no error")
	}
	for quotas, want := range map[string]uint64{"100000 100000": 1000000, "1 100000": 10000, "max 100000": infinity, "250000 100000": 2500000, "12345 100000": 130000} {
		q, p, _ := strings.Cut(quotas, " ")
		quota(q, p, 250, func(name string, v any) {
			if name == "CPUQuotaPerSecUSec" && v != want {
				t.Errorf("%s: %v, want %d", quotas, v, want)
			}
		})
	}
}

func TestDeviceProperties(t *testing.T) {
	rules, err := resource.ContainerDevices([]specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Major: ptr(int64(8)), Access: "r"}})
	if err != nil {
		t.Fatal(err)
	}
	props, err := DeviceProperties(rules)
	want := "[{DevicePolicy strict} {DeviceAllow [[/dev/char/1:3 rwm] [/dev/char/1:5 rwm] [/dev/char/1:7 rwm] [/dev/char/1:8 rwm] [/dev/char/1:9 rwm] [/dev/char/5:0 rwm] [/dev/char/5:1 rwm] [/dev/char/5:2 rwm] [block-* m] [block-8 r] [char-* m] [char-136 rwm]]}]"
	if err != nil || fmt.Sprint(props) != want {
		t.Errorf("%v %v", props, err)
	}
}

// fakeManager answers on a real bus as systemd does, by another program's
// idea of the wire.
type fakeManager struct {
	conn *dbus.Conn

	mu     sync.Mutex
	calls  []string
	exists int // how often a unit of that name is there already
	holds  int // how often it has processes
	result string
}

type prop struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name  string
	Props []prop
}

const job = dbus.ObjectPath("/org/freedesktop/systemd1/job/17")

func (f *fakeManager) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *fakeManager) done(unit string) {
	// Emitted before the reply: the client must cope with either order.
	f.conn.Emit(object, manager+".JobRemoved", uint32(16), dbus.ObjectPath("/org/freedesktop/systemd1/job/16"), "other.scope", "failed")
	f.conn.Emit(object, manager+".JobRemoved", uint32(17), job, unit, f.result)
}

func (f *fakeManager) StartTransientUnit(name, mode string, props []prop, aux []auxiliary) (dbus.ObjectPath, *dbus.Error) {
	if f.exists > 0 {
		f.exists--
		f.note("exists")
		return "", dbus.NewError("org.freedesktop.systemd1.UnitExists", []any{"Unit " + name + " already exists."})
	}
	var list []string
	for _, p := range props {
		list = append(list, fmt.Sprintf("%s=%s", p.Name, p.Value))
	}
	f.note("start %s %s %s %d", name, mode, strings.Join(list, " "), len(aux))
	f.done(name)
	return job, nil
}

func (f *fakeManager) SetUnitProperties(name string, runtime bool, props []prop) *dbus.Error {
	f.note("set %s %v %v", name, runtime, props)
	return nil
}

func (f *fakeManager) StopUnit(name, mode string) (dbus.ObjectPath, *dbus.Error) {
	if name == "gone.scope" {
		return "", dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit gone.scope not loaded."})
	}
	f.note("stop %s %s", name, mode)
	go func() {
		time.Sleep(20 * time.Millisecond)
		f.done(name)
	}()
	return job, nil
}

type process struct {
	Path string
	PID  uint32
	Name string
}

func (f *fakeManager) GetUnitProcesses(name string) ([]process, *dbus.Error) {
	if name == "gone.scope" {
		return nil, dbus.NewError("org.freedesktop.systemd1.NoSuchUnit", []any{"Unit gone.scope not loaded."})
	}
	f.note("processes %s", name)
	if f.holds > 0 {
		f.holds--
		return []process{{"/a.slice/" + name, 7, "sleep"}}, nil
	}
	return nil, nil
}

func (f *fakeManager) ResetFailedUnit(name string) *dbus.Error { f.note("reset %s", name); return nil }
func (f *fakeManager) Subscribe() *dbus.Error                  { f.note("subscribe"); return nil }

func (f *fakeManager) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	return dbus.MakeVariant("252.39-1~deb12u1"), nil
}

// fakeBus starts a bus with a fake manager on it, and connects to it.
func fakeBus(t *testing.T) (*fakeManager, *Bus) {
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
	f := &fakeManager{result: "done"}
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
	if err := f.conn.Export(f, object, manager); err != nil {
		t.Fatal(err)
	}
	if err := f.conn.Export(f, object, "org.freedesktop.DBus.Properties"); err != nil {
		t.Fatal(err)
	}
	if _, err := f.conn.RequestName(destination, 0); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "tcp:host=nowhere;"+address+",guid=00")
	b, err := Connect(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return f, b
}

func TestBus(t *testing.T) {
	f, b := fakeBus(t)
	if b.version != 252 {
		t.Errorf("version %d", b.version)
	}
	u, err := Parse("a.slice:cri:x", "id", true)
	if err != nil {
		t.Fatal(err)
	}
	limits := []Property{{"TasksMax", uint64(1) << 40}, {"AllowedCPUs", []byte{3, 2}}, {"DeviceAllow", [][2]string{{"/dev/null", "rwm"}, {"char-*", "m"}}}}
	f.exists = 1
	if err := b.Start(u, 4711, "id", limits); err != nil {
		t.Fatal(err)
	}
	if err := b.Update(u, []Property{{"TasksMax", infinity}}); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(u); err != nil {
		t.Fatal(err)
	}
	if err := b.Stop(Unit{Name: "gone.scope"}); err != nil {
		t.Errorf("stop what is gone: %v", err)
	}
	const accounting = "MemoryAccounting=true CPUAccounting=true TasksAccounting=true IOAccounting=true"
	want := []string{
		"subscribe",
		"exists",
		"reset cri-x.scope",
		`start cri-x.scope fail Description="container id" Delegate=true DefaultDependencies=false ` + accounting + ` Slice="a.slice" PIDs=@au [4711] CollectMode="inactive-or-failed" TasksMax=@t 1099511627776 AllowedCPUs=@ay [0x3, 0x2] DeviceAllow=[["/dev/null", "rwm"], ["char-*", "m"]] 0`,
		"set cri-x.scope true [{TasksMax @t 18446744073709551615}]",
		"stop cri-x.scope replace",
		"reset cri-x.scope",
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range max(len(want), len(f.calls)) {
		if i >= len(want) || i >= len(f.calls) || f.calls[i] != want[i] {
			t.Fatalf("calls differ at %d:\n%s\nwant\n%s", i, strings.Join(f.calls, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestStopEmpty: what nobody knows to be ours is stopped when nothing runs in it.
func TestStopEmpty(t *testing.T) {
	f, b := fakeBus(t)
	if err := b.StopEmpty(Unit{Name: "gone.scope"}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		holds int
		want  string
	}{{0, "processes x.scope, stop x.scope replace, reset x.scope"}, {2, "processes x.scope, processes x.scope, processes x.scope, stop x.scope replace, reset x.scope"},
		{1000, strings.TrimSuffix(strings.Repeat("processes x.scope, ", 100), ", ")}} {
		f.mu.Lock()
		f.calls, f.holds = nil, c.holds
		f.mu.Unlock()
		if err := b.StopEmpty(Unit{Name: "x.scope"}); err != nil {
			t.Error(err)
		}
		f.mu.Lock()
		if got := strings.Join(f.calls, ", "); got != c.want {
			t.Errorf("a unit that has processes %d times: %s", c.holds, got)
		}
		f.mu.Unlock()
	}
}

func TestBusErrors(t *testing.T) {
	f, b := fakeBus(t)
	f.result = "failed"
	u := Unit{Name: "x.scope", Slice: "a.slice"}
	if err := b.Start(u, 1, "id", nil); err == nil || !strings.Contains(err.Error(), `start unit x.scope: the job ended with "failed"`) {
		t.Error(err)
	}
	f.exists = 2
	if err := b.Start(u, 1, "id", nil); !errors.Is(err, ErrTaken) || err.Error() != "start unit x.scope: there is a unit of that name already" {
		t.Error(err)
	}
}

// CgroupPath is where systemd makes the unit's cgroup, below the manager's
// own: each dash of a slice's name stands for a slice above it.
func (u Unit) CgroupPath() string {
	var p strings.Builder
	if name := strings.TrimSuffix(u.Slice, ".slice"); name != "-" {
		for i := range len(name) + 1 {
			if i == len(name) || name[i] == '-' {
				p.WriteString("/" + name[:i] + ".slice")
			}
		}
	}
	p.WriteString("/" + u.Name)
	return p.String()
}
