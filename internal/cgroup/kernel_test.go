package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/cgroup/resource"
	"launch/internal/sys"
)

// scratch makes a group on this host, in its layout, and takes it away after
// the test. It fails the test if anything is left.
func scratch(t *testing.T, r *specs.LinuxResources) Group {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	return scratchIn(t, l, r)
}

func scratchIn(t *testing.T, l Layout, r *specs.LinuxResources) Group {
	t.Helper()
	if l.Kind() == "none" {
		t.Skip("no cgroups are mounted here")
	}
	g, err := l.Group("/launch-cgroup-test-"+strconv.Itoa(os.Getpid())+"/"+strings.ReplaceAll(t.Name(), "/", "-"), "x")
	if err != nil {
		t.Fatal(err)
	}
	var made []string
	t.Cleanup(func() {
		if err := g.Kill(); err != nil {
			t.Error(err)
		}
		if err := g.Delete(); err != nil {
			t.Error(err)
		}
		if err := Undo(made); err != nil {
			t.Error(err)
		}
		for _, dir := range made {
			if _, err := os.Stat(dir); err == nil {
				t.Errorf("%s is left", dir)
			}
		}
	})
	if err := g.Create(r, func(path string) error { made = append(made, path); return nil }); err != nil {
		t.Skipf("no cgroups can be made here: %v", err)
	}
	if len(made) < len(g.Dirs) {
		t.Fatalf("made only %v", made)
	}
	return g
}

// start runs a command in the group, by the way that containers go.
func start(t *testing.T, g Group, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	place, err := g.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer place.Close()
	if place.FD >= 0 {
		c.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: place.FD}
	}
	done := make(chan error)
	go func() {
		l := sys.Lock() // the thread ends with the goroutine
		// The thread's mount table is its own by then, and shows no cgroups.
		if err := sys.Unshare(l, unix.CLONE_NEWNS|unix.CLONE_FS); err != nil {
			done <- err
			return
		}
		if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "")); err != nil {
			done <- err
			return
		}
		if err := place.Enter(l); err != nil {
			done <- err
			return
		}
		err := c.Start()
		if e := place.Leave(l); err == nil {
			err = e
		}
		if err == nil {
			err = place.Finish(c.Process.Pid)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c
}

func read(t *testing.T, g Group, controller, file string) string {
	t.Helper()
	d, ok := g.dir(controller)
	if !ok {
		t.Fatalf("no controller %s", controller)
	}
	b, err := os.ReadFile(filepath.Join(d.String(), file))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func TestPlace(t *testing.T) {
	g := scratch(t, nil)
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, g, "sleep", "60")
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.OfProcess(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.EqualFunc(in.Dirs, g.Dirs, func(a, b Dir) bool { return a.String() == b.String() }) {
		t.Errorf("the process is in\n%v, not in\n%v", in.Dirs, g.Dirs)
	}
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Errorf("Pids: %v %v", pids, err)
	}
	if after, _ := os.ReadFile("/proc/self/cgroup"); string(after) != string(before) {
		t.Errorf("the test itself was moved to\n%s", after)
	}
	again := g
	if err := again.Create(nil, nil); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Create of a cgroup with a process: %v", err)
	}
}

func TestFreezeKill(t *testing.T) {
	g := scratch(t, nil)
	c := start(t, g, "sh", "-c", "sleep 60 & sleep 61 & while :; do :; done")
	state := func() string {
		b, _ := os.ReadFile("/proc/" + strconv.Itoa(c.Process.Pid) + "/stat")
		return string(b)
	}
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		t.Errorf("Frozen: %v %v", frozen, err)
	}
	a := state()
	time.Sleep(50 * time.Millisecond)
	if b := state(); a != b {
		t.Errorf("a frozen process goes on: %s%s", a, b)
	}
	if err := g.Thaw(); err != nil {
		t.Fatal(err)
	}
	if frozen, err := g.Frozen(); err != nil || frozen {
		t.Errorf("Frozen after Thaw: %v %v", frozen, err)
	}
	time.Sleep(50 * time.Millisecond)
	if b := state(); a == b {
		t.Error("a thawed process stands still")
	}
	if err := g.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	if pids, err := g.Pids(); err != nil || len(pids) != 0 {
		t.Errorf("left after Kill: %v %v", pids, err)
	}
	// Another process may have removed the group meanwhile.
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	if err := g.Thaw(); err != nil {
		t.Errorf("Thaw of a group that is gone: %v", err)
	}
	if err := g.Freeze(); err == nil {
		t.Error("Freeze of a group that is gone: no error")
	}
}

func ptr[T any](v T) *T { return &v }

func TestApply(t *testing.T) {
	g := scratch(t, nil)
	if _, ok := g.dir("memory"); !ok {
		t.Skip("no memory controller")
	}
	r := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(128 << 20)), Reservation: ptr(int64(32 << 20)), Swappiness: ptr(uint64(10)), DisableOOMKiller: ptr(false)},
		CPU:    &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(50000)), Period: ptr(uint64(100000)), Burst: ptr(uint64(20000)), Cpus: "0", Mems: "0"},
		Pids:   &specs.LinuxPids{Limit: ptr(int64(77))},
	}
	apply := func(r *specs.LinuxResources) {
		t.Helper()
		if warn, err := g.Apply(r); err != nil {
			t.Fatal(err)
		} else if len(warn) > 0 {
			t.Log(warn)
		}
	}
	apply(r)
	want := func(controller, file, value string) {
		t.Helper()
		if got := read(t, g, controller, file); got != value {
			t.Errorf("%s: %s, want %s", file, got, value)
		}
	}
	if d, _ := g.dir("memory"); d.Version == 2 {
		want("memory", "memory.max", "67108864")
		want("memory", "memory.swap.max", "67108864")
		want("memory", "memory.low", "33554432")
		want("cpu", "cpu.weight", "59")
		want("cpu", "cpu.max", "50000 100000")
		want("cpu", "cpu.max.burst", "20000")
		want("cpuset", "cpuset.cpus", "0")
		want("pids", "pids.max", "77")
		apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(10000)), Burst: ptr(uint64(5000))}})
		want("cpu", "cpu.max.burst", "5000")
		apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(90000)), Burst: ptr(uint64(60000))}})
		want("cpu", "cpu.max.burst", "60000")
		apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(512))}})
		apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(1024))}})
		want("cpu", "cpu.weight", "100")
		apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, Unified: map[string]string{"memory.high": "1048576", "cgroup.max.depth": "3"}})
		want("memory", "memory.max", "max")
		want("memory", "memory.swap.max", "max")
		want("memory", "memory.high", "1048576")
		want("memory", "cgroup.max.depth", "3")
		if _, err := g.Apply(&specs.LinuxResources{Unified: map[string]string{"memory.nothing": "1"}}); err == nil || !strings.Contains(err.Error(), "no such file") {
			t.Error(err)
		}
		return
	}
	want("memory", "memory.limit_in_bytes", "67108864")
	want("memory", "memory.memsw.limit_in_bytes", "134217728")
	want("memory", "memory.soft_limit_in_bytes", "33554432")
	want("memory", "memory.swappiness", "10")
	want("cpu", "cpu.shares", "512")
	want("cpu", "cpu.cfs_quota_us", "50000")
	want("cpu", "cpu.cfs_burst_us", "20000")
	want("cpuset", "cpuset.cpus", "0")
	want("pids", "pids.max", "77")

	// Both up, both down, and away: each order is refused once by the kernel.
	apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(256 << 20)), Swap: ptr(int64(256 << 20))}})
	want("memory", "memory.limit_in_bytes", "268435456")
	apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(32 << 20)), Swap: ptr(int64(33 << 20))}})
	want("memory", "memory.memsw.limit_in_bytes", "34603008")
	apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}})
	want("memory", "memory.memsw.limit_in_bytes", "9223372036854771712")
	// A quota below the burst that is set, then a burst above the quota that was.
	apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(10000)), Burst: ptr(uint64(5000))}})
	want("cpu", "cpu.cfs_burst_us", "5000")
	apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: ptr(int64(90000)), Burst: ptr(uint64(60000))}})
	want("cpu", "cpu.cfs_burst_us", "60000")
	apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(512))}})
	apply(&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(700))}})
	want("cpu", "cpu.shares", "700")
}

// TestDevicesV1 and its sibling below open and make nodes from inside.
func TestDevices(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run("v"+strconv.Itoa(version), func(t *testing.T) {
			g := scratch(t, nil)
			if version == 2 {
				d, ok := g.Unified()
				if !ok {
					t.Skip("no version 2 hierarchy")
				}
				g.Dirs = []Dir{d}
			} else if d, ok := g.dir("devices"); !ok || d.Version != 1 {
				t.Skip("no version 1 devices controller")
			}
			try(t, g)
		})
	}
}

func try(t *testing.T, g Group) {
	dir := t.TempDir()
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "kmsg": 11, "mem": 1} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Skipf("no nodes can be made: %v", err)
		}
	}
	script := `cd ` + dir + `
r() { if (: <$1) 2>/dev/null; then echo "r $1"; fi; }
w() { if (: >>$1) 2>/dev/null; then echo "w $1"; fi; }
for n in null zero kmsg; do r $n; w $n; done
mknod made c 1 11 2>/dev/null && echo mknod && rm made
mknod disk b 7 200 2>/dev/null && echo mknod-b && rm disk
true`
	run := func() string {
		t.Helper()
		c := exec.Command("sh", "-c", script)
		d := g.Dirs[0]
		for _, o := range g.Dirs {
			if slices.Contains(o.Controllers, "devices") {
				d = o
			}
		}
		// The shell goes in by itself, so that its output can be read.
		c.Args[2] = "echo 0 >" + d.String() + "/cgroup.procs && " + script
		out, err := c.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.Join(strings.Fields(string(out)), " ")
	}
	const all = "r null w null r zero w zero r kmsg w kmsg mknod mknod-b"
	if got := run(); got != all {
		t.Skipf("not all can be done even without rules: %s", got)
	}
	deny := specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"}
	kmsg := func(access string) specs.LinuxDeviceCgroup {
		return specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: access}
	}
	for _, c := range []struct {
		rules []specs.LinuxDeviceCgroup
		want  string
	}{
		{nil, "r null w null r zero w zero mknod mknod-b"},
		{[]specs.LinuxDeviceCgroup{deny}, "r null w null r zero w zero mknod mknod-b"},
		{[]specs.LinuxDeviceCgroup{deny, kmsg("r")}, "r null w null r zero w zero r kmsg mknod mknod-b"},
		{[]specs.LinuxDeviceCgroup{deny, kmsg("rw")}, all},
		{[]specs.LinuxDeviceCgroup{deny, kmsg("w")}, "r null w null r zero w zero w kmsg mknod mknod-b"},
		{[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, all},
		{[]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}, {Allow: false, Type: "c", Major: ptr(int64(1)), Minor: ptr(int64(11)), Access: "w"}}, "r null w null r zero w zero r kmsg mknod mknod-b"},
		{[]specs.LinuxDeviceCgroup{deny, kmsg("r")}, "r null w null r zero w zero r kmsg mknod mknod-b"},
	} {
		rules, err := resource.ContainerDevices(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.SetDevices(rules); err != nil {
			t.Fatal(err)
		}
		if got := run(); got != c.want {
			t.Errorf("%v:\n got  %s\n want %s", c.rules, got, c.want)
		}
	}
	// Fewer than what is always there.
	if err := g.SetDevices(resource.Devices{{Allow: true, Type: 'c', Major: 1, Minor: 3, Access: resource.ReadAccess | resource.WriteAccess}, {Allow: false, Type: 'a', Major: 1, Minor: resource.Any, Access: resource.MknodAccess}}); err != nil {
		t.Fatal(err)
	}
	if got := run(); got != "r null w null" {
		t.Errorf("null only: %s", got)
	}
}

// TestUnifiedView runs this file's tests once more where only version 2 is to
// be seen, with the version 1 mounts covered.
func TestUnifiedView(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	u, ok := l.Unified()
	if !ok || l.Kind() == "v2" {
		t.Skip("version 2 is all there is here, or isn't there at all")
	}
	control := filepath.Join(u.Mount, "cgroup.subtree_control")
	before, err := os.ReadFile(control)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		now, _ := os.ReadFile(control)
		for _, c := range strings.Fields(string(now)) {
			if !slices.Contains(strings.Fields(string(before)), c) {
				if err := os.WriteFile(control, []byte("-"+c), 0); err != nil {
					t.Log(err)
				}
			}
		}
	})
	c := exec.Command("unshare", "-m", "--propagation", "private", "sh", "-c",
		`mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec "$0" -test.v -test.run '^(TestPlace|TestFreezeKill|TestDevices|TestHugepages|TestEvents|TestCovered)$'`, os.Args[0])
	c.Env = append(os.Environ(), "LAUNCH_TEST_VIEW=v2")
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPlace") || !strings.Contains(string(out), "--- PASS: TestCovered") {
		t.Errorf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}

func TestCovered(t *testing.T) {
	if os.Getenv("LAUNCH_TEST_VIEW") != "v2" {
		t.Skip("is run by TestUnifiedView")
	}
	l, err := Detect()
	if err != nil || l.Kind() != "v2" || len(l.Hierarchies) != 1 {
		t.Errorf("%s %+v %v", l.Kind(), l, err)
	}
}

// TestHugepages: the one controller that a hybrid host may leave to version 2.
func TestHugepages(t *testing.T) {
	r := &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}}
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv("LAUNCH_TEST_VIEW") == "" && l.Kind() == "hybrid" {
		t.Skip("would pass the controller on in the host's own hierarchy; TestUnifiedView puts that right")
	}
	if g, err := l.Group("x", ""); err != nil || g.Dirs == nil {
		t.Skip(err)
	} else if d, ok := g.dir("hugetlb"); !ok || d.Version != 2 {
		t.Skip("no hugetlb controller of version 2")
	}
	g := scratchIn(t, l, r)
	if _, err := g.Apply(r); err != nil {
		t.Fatal(err)
	}
	if got := read(t, g, "hugetlb", "hugetlb.2MB.max"); got != "4194304" {
		t.Error(got)
	}
	if s, err := g.Stats(); err != nil || len(s.Hugetlb) == 0 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestEvents(t *testing.T) {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(16 << 20)), Swap: ptr(int64(16 << 20))}}
	g := scratch(t, nil)
	if _, ok := g.dir("memory"); !ok {
		t.Skip("no memory controller")
	}
	if _, err := g.Apply(r); err != nil {
		t.Fatal(err)
	}
	o, err := g.WatchOOM()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if oom, end, err := o.Next(20); oom || end || err != nil {
		t.Errorf("before: %v %v %v", oom, end, err)
	}
	c := start(t, g, "tail", "/dev/zero") // takes what it can
	if oom, end, err := o.Next(20000); !oom || end || err != nil {
		t.Errorf("OOM: %v %v %v", oom, end, err)
	}
	c.Wait()
	if g.OOMKills() == 0 {
		t.Error("no kill was counted")
	}
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if s.Memory.Usage.Limit != 16<<20 || s.Memory.Usage.Max < 8<<20 || s.CPU.Usage.Total == 0 || s.CPU.Usage.Kernel == 0 || len(s.Memory.Raw) == 0 {
		t.Errorf("%+v", s)
	}
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	for range 10 { // an OOM may have been told late
		oom, end, err := o.Next(5000)
		if err != nil || !oom && !end {
			t.Fatalf("after Delete: %v %v %v", oom, end, err)
		}
		if end {
			return
		}
	}
	t.Error("the end wasn't told")
}

// TestOneTask: a container that may have no second task can be started.
func TestOneTask(t *testing.T) {
	r := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}
	g := scratch(t, r)
	if _, ok := g.dir("pids"); !ok {
		t.Skip("no pids controller")
	}
	if _, err := g.Apply(r); err != nil {
		t.Fatal(err)
	}
	start(t, g, "sleep", "60")
	if got := read(t, g, "pids", "pids.current"); got != "1" {
		t.Errorf("pids.current is %s", got)
	}
	if s, err := g.Stats(); err != nil || s.PIDs != (PIDsStats{1, 1}) {
		t.Errorf("%+v %v", s, err)
	}
}

// TestKillForks: what forks all the time doesn't get away.
func TestKillForks(t *testing.T) {
	g := scratch(t, nil)
	for _, name := range []string{"all", "version 1 alone"} {
		c := start(t, g, "sh", "-c", `f() { sleep 30 & while :; do (:); (exec sleep 0.01) & done; }; f & f & wait`)
		time.Sleep(100 * time.Millisecond)
		kill := g
		if name != "all" {
			kill.Dirs = slices.DeleteFunc(slices.Clone(g.Dirs), func(d Dir) bool { return d.Version == 2 })
			if len(kill.Dirs) == 0 {
				continue
			}
		}
		if err := kill.Kill(); err != nil {
			t.Fatal(name, err)
		}
		c.Wait()
		if pids, err := g.Pids(); err != nil || len(slices.DeleteFunc(pids, dead)) != 0 {
			t.Errorf("%s: left: %v %v", name, pids, err)
		}
	}
}

// TestKillOwn: a group with a thread of this process is not waited for, and we
// live.
func TestKillOwn(t *testing.T) {
	g := scratch(t, nil)
	i := slices.IndexFunc(g.Dirs, func(d Dir) bool { return d.Version == 1 })
	if i < 0 {
		t.Skip("threads can be moved alone in version 1 only")
	}
	g.Dirs = g.Dirs[i : i+1]
	inside, leave, left := make(chan error), make(chan bool), make(chan error)
	go func() {
		sys.Lock()
		inside <- os.WriteFile(g.Dirs[0].String()+"/tasks", []byte("0"), 0)
		<-leave
		left <- os.WriteFile(g.Dirs[0].Mount+"/tasks", []byte("0"), 0)
	}()
	if err := <-inside; err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := g.Kill(); err == nil || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("the error is %v", err)
	}
	if took := time.Since(began); took > killTime/2 {
		t.Errorf("it took %v", took)
	}
	close(leave)
	if err := <-left; err != nil {
		t.Error(err)
	}
}

// TestSubgroups: a container's own cgroups are counted and removed with it.
func TestSubgroups(t *testing.T) {
	g := scratch(t, nil)
	sub, err := g.Below([]Sub{{Path: "a/b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := sub.Create(nil, nil); err != nil {
		t.Fatal(err)
	}
	c := start(t, sub, "sleep", "60")
	if pids, err := g.Pids(); err != nil || !slices.Equal(pids, []int{c.Process.Pid}) {
		t.Errorf("%v %v", pids, err)
	}
	o := exec.Command("sleep", "60")
	if err := o.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Process.Kill(); o.Wait() })
	err = g.Join(o.Process.Pid)
	if errors.Is(err, unix.EBUSY) {
		// Version 2: a cgroup that passes controllers on takes no processes.
		// There is room where another process of the container is.
		l, err := Detect()
		if err != nil {
			t.Fatal(err)
		}
		beside, err := l.OfProcess(c.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if err := beside.Join(o.Process.Pid); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Pids(); err != nil || len(pids) != 2 {
		t.Errorf("%v %v", pids, err)
	}
	if err := g.Signal(int(unix.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	c.Wait()
	o.Wait()
	if err := g.Delete(); err != nil {
		t.Fatal(err)
	}
	if g.Exists() {
		t.Error("it is still there")
	}
	if err := g.Delete(); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// TestRootless: an unprivileged user gets what the host lets him have, and a
// limit that he can't have is an error that names it.
func TestRootless(t *testing.T) {
	if os.Getenv("LAUNCH_TEST_VIEW") != "rootless" {
		if os.Getuid() != 0 {
			t.Skip("needs root, to become somebody else")
		}
		// The way to the test binary is often closed to others.
		b, err := os.ReadFile(os.Args[0])
		if err != nil {
			t.Fatal(err)
		}
		n, err := unix.MemfdCreate("test", 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(n)
		if _, err := unix.Write(n, b); err != nil {
			t.Fatal(err)
		}
		c := exec.Command("/proc/self/fd/"+strconv.Itoa(n), "-test.v", "-test.run=^TestRootless$")
		c.Dir = "/"
		c.Env = append(os.Environ(), "LAUNCH_TEST_VIEW=rootless")
		c.SysProcAttr = &unix.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := c.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	l, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	g, err := l.Group("/launch-cgroup-test-rootless", "x")
	if err != nil {
		t.Fatal(err)
	}
	if root := g; root.Create(nil, nil) == nil {
		t.Error("an unprivileged user made cgroups")
	}
	all := len(g.Dirs)
	g.Rootless = true
	if err := g.Create(nil, nil); err != nil {
		t.Fatal(err)
	}
	if len(g.Dirs) != 0 || len(g.Denied) < all-1 {
		t.Errorf("%+v", g)
	}
	if _, err := g.Apply(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}); err != nil {
		t.Error(err)
	}
	if err := g.SetDevices(resource.Devices{}); err != nil {
		t.Error(err)
	}
	if _, err := g.Apply(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1 << 30))}}); err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit needs") {
		t.Error(err)
	}
	place, err := g.Open()
	if err != nil || place.FD != -1 {
		t.Error(place, err)
	}
	for _, f := range []func() error{g.Kill, g.Delete} {
		if err := f(); err != nil {
			t.Error(err)
		}
	}
}

// Exists tells whether any of the directories is there.
func (g Group) Exists() bool {
	for _, d := range g.Dirs {
		if n, err := d.open(); err == nil {
			sys.Close(n)
			return true
		}
	}
	return false
}

// Unified gives the version 2 hierarchy, if there is one.
func (l Layout) Unified() (Hierarchy, bool) {
	for _, h := range l.Hierarchies {
		if h.Version == 2 {
			return h, true
		}
	}
	return Hierarchy{}, false
}

// OOMKills is how many processes of the group the kernel killed for want of
// memory since it was made; 0 if nobody counts.
func (g Group) OOMKills() uint64 {
	d, ok := g.dir("memory")
	if !ok {
		return 0
	}
	n, err := d.open()
	if err != nil {
		return 0
	}
	defer sys.Close(n)
	file := "memory.events"
	if d.Version == 1 {
		file = "memory.oom_control"
	}
	text, err := sys.ReadFile(n, file, 4096)
	if err != nil {
		return 0
	}
	return pairs(string(text))["oom_kill"]
}

// TestDeep: cgroups that are nested deeper than files may be opened are counted and
// removed, both a container's and a machine's.
func TestDeep(t *testing.T) {
	g := scratch(t, nil)
	d, ok := g.Unified()
	if !ok {
		t.Skip("no cgroup2 is mounted here")
	}
	nest := func() {
		t.Helper()
		n, err := d.open()
		for i := 0; err == nil && i < 200; i++ {
			name := "deep" + strconv.Itoa(i%2)
			for _, made := range []string{name, "beside"} {
				if err == nil {
					err = sys.Mkdirat(n, made, 0o755)
				}
			}
			if err == nil {
				up := n
				n, err = sys.Openat(up, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
				sys.Close(up)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		c := exec.Command("sleep", "60")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Process.Kill(); c.Wait() })
		if err := sys.WriteFile(n, "cgroup.procs", strconv.Itoa(c.Process.Pid)); err != nil {
			t.Fatal(err)
		}
		sys.Close(n)
		go c.Wait() // or the dead one would keep its cgroup
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := func(f func() error) {
		t.Helper()
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 64, Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
		if err := f(); err != nil {
			t.Error(err)
		}
	}
	nest()
	few(func() error {
		if pids, err := g.Pids(); err != nil || len(pids) != 1 {
			t.Errorf("%v %v", pids, err)
		}
		return errors.Join(g.Kill(), g.Delete())
	})
	if err := sys.Mkdirat(unix.AT_FDCWD, d.String(), 0o755); err != nil {
		t.Fatal(err)
	}
	nest()
	few(func() error { return Remove(d.String()) })
	if _, err := os.Stat(d.String()); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
}
