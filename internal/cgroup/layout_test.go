package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	hybridMounts = `22 1 254:0 / / rw - ext4 /dev/root rw
30 22 0:27 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
31 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 30 0:31 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,xattr,memory
39 30 0:36 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
40 30 0:37 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 22 0:31 /sub /mnt/a\040part rw - cgroup cgroup rw,memory
`
	hybridOwn = `9:name=systemd:/user.slice/one
8:pids:/
4:memory:/a/b:c
1:cpu,cpuacct:/
0::/user.slice/one
`
	unifiedMounts = "30 22 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
)

// layout is Detect without the look at what covers what.
func layout(mounts, own string, controllers ...string) Layout {
	var l Layout
	for _, c := range parse(mounts, own) {
		if c[0].Version == 2 {
			c[0].Controllers = controllers
		}
		l.Hierarchies = append(l.Hierarchies, c[0])
	}
	return l
}

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		mounts, own, kind string
		path, want        string
	}{
		{hybridMounts, hybridOwn, "hybrid", "/x/y", `
			systemd /sys/fs/cgroup/systemd/x/y
			memory /sys/fs/cgroup/memory/x/y
			cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/x/y
			2 /sys/fs/cgroup/unified/x/y`},
		{hybridMounts, hybridOwn, "hybrid", "x/../../../y", `
			systemd /sys/fs/cgroup/systemd/user.slice/one/y
			memory /sys/fs/cgroup/memory/a/b:c/y
			cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/y
			2 /sys/fs/cgroup/unified/user.slice/one/y`},
		{strings.Replace(hybridMounts, "\n40 30", "\n", 1), hybridOwn, "v1", "", `
			systemd /sys/fs/cgroup/systemd/user.slice/one/id
			memory /sys/fs/cgroup/memory/a/b:c/id
			cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct/id`},
		{unifiedMounts, "0::/user.slice/one\n", "v2", "", "2 /sys/fs/cgroup/user.slice/id"},
		{unifiedMounts, "0::/\n", "v2", "", "2 /sys/fs/cgroup/id"},
		{unifiedMounts, "0::/\n", "v2", "/a/b", "2 /sys/fs/cgroup/a/b"},
		// A container of another runtime, without a cgroup namespace.
		{"30 22 0:27 /outer /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/outer\n", "v2", "x", "2 /sys/fs/cgroup/x"},
		{"30 22 0:27 /outer /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/outer/init\n", "v2", "x", "2 /sys/fs/cgroup/x"},
		{"30 22 0:27 /outer /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/outerspace\n", "v2", "x", "error"},
		{"30 22 0:27 /outer /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/outerspace\n", "v2", "/x", "2 /sys/fs/cgroup/x"},
		{unifiedMounts, "0::/../elsewhere\n", "v2", "x", "error"},
		{"", hybridOwn, "none", "x", ""},
		{hybridMounts, "", "none", "x", ""},
		{unifiedMounts, "0::/\n", "v2", "/", "error"},
		{unifiedMounts, "0::/\n", "v2", "/..", "error"},
		{unifiedMounts, "0::/\n", "v2", "a\nb", "error"},
		{unifiedMounts, "0::/\n", "v2", "system.slice:cri:x", "2 /sys/fs/cgroup/system.slice:cri:x"},
	} {
		l := layout(c.mounts, c.own, "memory")
		if l.Kind() != c.kind {
			t.Errorf("kind %s, want %s of\n%s%s", l.Kind(), c.kind, c.mounts, c.own)
		}
		g, err := l.Group(c.path, "id")
		var got []string
		for _, d := range g.Dirs {
			name := strings.TrimPrefix(strings.Join(d.Controllers, ","), "name=")
			if d.Version == 2 {
				name = "2"
			}
			got = append(got, name+" "+d.String())
		}
		want := strings.Join(strings.Fields(c.want), " ")
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q of a %s layout: %v %v, want %s", c.path, c.kind, got, err, want)
		}
	}
}

func TestOfProcess(t *testing.T) {
	l := layout(hybridMounts, hybridOwn)
	g, err := l.group("9:name=systemd:/s\n4:memory:/m/x (deleted)\n1:cpu,cpuacct:/\n0::/u\n")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(g.Dirs); got != "[/sys/fs/cgroup/systemd/s /sys/fs/cgroup/memory/m/x /sys/fs/cgroup/cpu,cpuacct /sys/fs/cgroup/unified/u]" {
		t.Error(got)
	}
}

// TestUnitGroup: only the unit's own cgroup is taken for it.
func TestUnitGroup(t *testing.T) {
	for _, c := range []struct{ mounts, own, text, unit, want string }{
		{hybridMounts, hybridOwn, "9:name=systemd:/s/x.scope\n4:memory:/m\n1:cpu,cpuacct:/\n0::/u\n", "x.scope", "/s/x.scope /s/x.scope /s/x.scope /s/x.scope"},
		{hybridMounts, hybridOwn, "9:name=systemd:/s/_cgroup.x.scope\n0::/u\n", "cgroup.x.scope", "/s/_cgroup.x.scope /s/_cgroup.x.scope /s/_cgroup.x.scope /s/_cgroup.x.scope"},
		{hybridMounts, hybridOwn, "9:name=systemd:/s/caller.service\n0::/s/x.scope\n", "x.scope", "systemd left the process in cgroup /sys/fs/cgroup/systemd/s/caller.service, which is not that of x.scope"},
		{unifiedMounts, "0::/\n", "0::/s/x.scope\n", "x.scope", "/s/x.scope"},
		{unifiedMounts, "0::/\n", "0::/s/caller.service\n", "x.scope", "systemd left the process in cgroup /sys/fs/cgroup/s/caller.service, which is not that of x.scope"},
		{unifiedMounts, "0::/\n", "", "x.scope", "there is no hierarchy of systemd's"},
	} {
		l := layout(c.mounts, c.own)
		g, err := l.group(c.text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if g, err = l.unitGroup(g, c.unit); err != nil {
			got = []string{err.Error()}
		}
		for _, d := range g.Dirs {
			got = append(got, d.Path)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, want %q", c.text, strings.Join(got, " "), c.want)
		}
	}
}

// TestRoots: paths in a whole tree, of which a part may be mounted.
func TestRoots(t *testing.T) {
	l := Layout{Hierarchies: []Hierarchy{{Version: 1, Controllers: []string{"cpu", "cpuacct"}, Mount: "/c", Root: "/"}, {Version: 2, Controllers: []string{"memory"}, Mount: "/u", Root: "/part"}}}
	g, err := l.Group("/a/b", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(l.Roots(g)); got != "[[cpu /a/b] [cpuacct /a/b] [ /part/a/b]]" {
		t.Error(got)
	}
}

func TestBelow(t *testing.T) {
	l := layout(hybridMounts, hybridOwn)
	g, err := l.Group("/c", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ sub, want string }{
		{"/x", "/c/x /c/x /c/x /c/x"},
		{"x/./y/", "/c/x/y /c/x/y /c/x/y /c/x/y"},
		{"memory:x", "/c /c/x /c /c"},
		{"cpu,memory:/x", "/c /c/x /c/x /c"},
		{"/", "/c /c /c /c"},
		{"..", "error"}, {"a/../b", "error"}, {"", "error"}, {"memory:", "error"}, {",:x", "error"}, {"nothing:x", "error"},
	} {
		s, err := ParseSub(c.sub)
		var below Group
		if err == nil {
			below, err = g.Below([]Sub{s})
		}
		var got []string
		for _, d := range below.Dirs {
			got = append(got, d.Path)
		}
		if err != nil {
			got = []string{"error"}
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%q: %v %v, want %s", c.sub, got, err, c.want)
		}
	}
	if g.Dirs[0].Path != "/c" {
		t.Error("Below changed the group itself")
	}
}

// fake makes a group of plain directories: it shows what is written, not what
// a kernel makes of it.
func fake(t *testing.T, version int, controllers []string, files map[string]string) Group {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Group{Dirs: []Dir{{Version: version, Controllers: controllers, Mount: root, Path: "/c"}}}
}

func has(t *testing.T, g Group, file, want string) {
	t.Helper()
	if b, err := os.ReadFile(filepath.Join(g.Dirs[0].String(), file)); err != nil || string(b) != want {
		t.Errorf("%s: %q, want %q (%v)", file, b, want, err)
	}
}

func TestApplyUnifiedFiles(t *testing.T) {
	g := fake(t, 2, []string{"memory", "cpu", "io", "pids"}, map[string]string{
		"memory.max": "", "memory.low": "", "memory.current": "5000\n", "cpu.max": "", "cpu.weight": "", "pids.max": "", "io.max": "", "io.weight": "", "cgroup.controllers": "cpu io pids\n"})
	warn, err := g.Apply(&specs.LinuxResources{
		// No swap file: a kernel without swap accounting has no swap to limit.
		Memory:  &specs.LinuxMemory{Limit: ptr(int64(9000)), Swap: ptr(int64(9000)), Swappiness: ptr(uint64(3))},
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(1))},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(-1))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(505))},
		Unified: map[string]string{"memory.low": "17"},
	})
	if err != nil || len(warn) != 1 || !strings.Contains(warn[0], "swappiness") {
		t.Fatal(warn, err)
	}
	has(t, g, "memory.max", "9000")
	has(t, g, "memory.low", "17")
	has(t, g, "cpu.weight", "100")
	has(t, g, "cpu.max", "1 100000")
	has(t, g, "pids.max", "max")
	has(t, g, "io.weight", "5000")

	for name, c := range map[string]struct {
		r    specs.LinuxResources
		want string
	}{
		"swap": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(1)), Swap: ptr(int64(2))}}, `set memory.swap.max of cgroup .* to "1": no such file or directory (the memory controller isn't available there)`},
		"file": {specs.LinuxResources{Unified: map[string]string{"pids.min": "1"}}, `(the kernel has no such file)`},
		"misc": {specs.LinuxResources{Unified: map[string]string{"misc.max": "1"}}, `the misc controller isn't available there`},
		"used": {specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(100)), CheckBeforeUpdate: ptr(true)}}, `in use are 5000`},
		"none": {specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}}}, `linux.resources.hugepageLimits needs the hugetlb cgroup controller`},
	} {
		_, err := g.Apply(&c.r)
		ok := err != nil
		for _, part := range strings.Split(c.want, ".*") {
			ok = ok && strings.Contains(err.Error(), part)
		}
		if !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestApplyVersion1Files(t *testing.T) {
	g := fake(t, 1, []string{"net_cls", "net_prio", "hugetlb", "blkio"}, map[string]string{
		"net_cls.classid": "", "net_prio.ifpriomap": "", "hugetlb.2MB.limit_in_bytes": "", "blkio.bfq.weight": "", "blkio.throttle.read_bps_device": ""})
	r := specs.LinuxResources{
		Network:        &specs.LinuxNetwork{ClassID: ptr(uint32(0x100001)), Priorities: []specs.LinuxInterfacePriority{{Name: "eth0", Priority: 5}}},
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}},
		BlockIO:        &specs.LinuxBlockIO{Weight: ptr(uint16(100)), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 600}}},
	}
	if warn, err := g.Apply(&r); err != nil || warn != nil {
		t.Fatal(warn, err)
	}
	has(t, g, "net_cls.classid", "1048577")
	has(t, g, "net_prio.ifpriomap", "eth0 5")
	has(t, g, "hugetlb.2MB.limit_in_bytes", "2097152")
	has(t, g, "blkio.bfq.weight", "100")
	has(t, g, "blkio.throttle.read_bps_device", "0:0 600")
	if _, err := g.Apply(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(100))}}); err == nil || !strings.Contains(err.Error(), "blkio.leaf_weight") {
		t.Error(err)
	}
}

// TestCreateFiles: the way down is made, and controllers are passed on at each
// step of a pure version 2 layout.
func TestCreateFiles(t *testing.T) {
	g := fake(t, 2, []string{"memory", "pids"}, map[string]string{"cgroup.subtree_control": "", "cgroup.procs": "12\n13\n"})
	d := &g.Dirs[0]
	if err := os.WriteFile(filepath.Join(d.Mount, "cgroup.subtree_control"), []byte("pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var made []string
	d.Path = "/c/new/er"
	if err := g.Create(nil, func(p string) error { made = append(made, strings.TrimPrefix(p, d.Mount)); return nil }); err != nil {
		t.Fatal(err)
	}
	if strings.Join(made, " ") != "/c/new /c/new/er" {
		t.Errorf("made %v", made)
	}
	up := Group{Dirs: []Dir{{Version: 2, Mount: d.Mount, Path: "/"}}}
	has(t, up, "cgroup.subtree_control", "+memory")
	up.Dirs[0].Path = "/c"
	has(t, up, "cgroup.subtree_control", "+memory +pids")
	if err := up.Create(nil, nil); err == nil || !strings.Contains(err.Error(), "is not empty: 2 process") {
		t.Error(err)
	}
	// Nothing on the way may be a link.
	if err := os.Symlink(t.TempDir(), filepath.Join(d.Mount, "link")); err != nil {
		t.Fatal(err)
	}
	g.Dirs[0].Path = "/link/x"
	if err := g.Create(nil, nil); err == nil {
		t.Error("a link was followed")
	}
}

func TestStatsFiles(t *testing.T) {
	g := fake(t, 2, []string{"memory", "cpu", "io", "pids", "hugetlb"}, map[string]string{
		"cpu.stat":       "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n",
		"memory.current": "1000\n", "memory.max": "2000\n", "memory.peak": "1500\n", "memory.swap.current": "10\n", "memory.swap.max": "100\n",
		"memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\n", "memory.stat": "anon 600\nfile 300\nsock 5\nkernel 40\n",
		"pids.current": "3\n", "pids.max": "max\n",
		"io.stat":             "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 \n",
		"hugetlb.2MB.current": "2097152\n", "hugetlb.2MB.events": "max 9\n",
		"memory.pressure": "some avg10=0.10 avg60=1.50 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=6\n",
	})
	s, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%+v|%+v|%+v %+v|%+v|%+v|%+v|%+v", s.CPU.Usage, s.CPU.Throttling, s.Memory.Usage, s.Memory.Swap, s.PIDs, s.Blkio.IOServiceBytes, s.Hugetlb, *s.Memory.PSI)
	want := "{Total:30000 PerCPU:[] PerCPUKernel:[] PerCPUUser:[] Kernel:20000 User:10000}|{Periods:4 ThrottledPeriods:3 ThrottledTime:2000}|" +
		"{Limit:2000 Usage:1000 Max:1500 Failcnt:7} {Limit:2100 Usage:1010 Max:0 Failcnt:0}|{Current:3 Limit:0}|" +
		"[{Major:8 Minor:0 Op:Read Value:1} {Major:8 Minor:0 Op:Write Value:2} {Major:8 Minor:0 Op:Discard Value:0}]|" +
		"map[2MB:{Usage:2097152 Max:0 Failcnt:9}]|{Some:{Avg10:0.1 Avg60:1.5 Avg300:0 Total:77} Full:{Avg10:0 Avg60:0 Avg300:0 Total:6}}"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if g.OOMKills() != 2 {
		t.Error(g.OOMKills())
	}
}
