package resource

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func ptr[T any](v T) *T { return &v }

var (
	all1 = Hierarchies{V1: []string{"cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma", "devices", "freezer"}}
	all2 = Hierarchies{V2: []string{"cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma"}, Unified: true}
)

func TestWrites(t *testing.T) {
	mem := func(m specs.LinuxMemory) specs.LinuxResources { return specs.LinuxResources{Memory: &m} }
	cpu := func(c specs.LinuxCPU) specs.LinuxResources { return specs.LinuxResources{CPU: &c} }
	for _, c := range []struct {
		name   string
		r      specs.LinuxResources
		v1, v2 string // "file=value, …", or "error: words"
		warn   int    // with version 2
	}{
		{name: "nothing"},
		{name: "zeros ask for nothing", r: specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(0)), Swap: ptr(int64(0))}, CPU: &specs.LinuxCPU{Shares: ptr(uint64(0)), Quota: ptr(int64(0)), Period: ptr(uint64(0))}, BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(0))}, Network: &specs.LinuxNetwork{ClassID: ptr(uint32(0))}}},

		{name: "memory", r: mem(specs.LinuxMemory{Limit: ptr(int64(100))}),
			v1: "memory.limit_in_bytes=100", v2: "memory.max=100"},
		{name: "memory and swap", r: mem(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(150))}),
			v1: "memory.limit_in_bytes=100, memory.memsw.limit_in_bytes=150", v2: "memory.swap.max=50, memory.max=100"},
		{name: "no swap", r: mem(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(100))}),
			v1: "memory.limit_in_bytes=100, memory.memsw.limit_in_bytes=100", v2: "memory.swap.max=0, memory.max=100"},
		{name: "any swap", r: mem(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(-1))}),
			v1: "memory.limit_in_bytes=100, memory.memsw.limit_in_bytes=-1", v2: "memory.swap.max=max, memory.max=100"},
		{name: "no limit", r: mem(specs.LinuxMemory{Limit: ptr(int64(-1))}),
			v1: "memory.limit_in_bytes=-1, memory.memsw.limit_in_bytes=-1", v2: "memory.swap.max=max, memory.max=max"},
		{name: "swap alone", r: mem(specs.LinuxMemory{Swap: ptr(int64(150))}),
			v1: "memory.memsw.limit_in_bytes=150", v2: "error: needs a memory limit"},
		{name: "swap without limit of memory", r: mem(specs.LinuxMemory{Limit: ptr(int64(-1)), Swap: ptr(int64(150))}),
			v1: "memory.limit_in_bytes=-1, memory.memsw.limit_in_bytes=150", v2: "error: needs a memory limit"},
		{name: "swap below memory", r: mem(specs.LinuxMemory{Limit: ptr(int64(100)), Swap: ptr(int64(50))}),
			v1: "error: are less than memory alone", v2: "error: are less than memory alone"},
		{name: "reservation", r: mem(specs.LinuxMemory{Reservation: ptr(int64(70))}),
			v1: "memory.soft_limit_in_bytes=70", v2: "memory.low=70"},
		//lint:ignore SA1019 bundles have it
		{name: "version 1's own", r: mem(specs.LinuxMemory{Limit: ptr(int64(9)), Kernel: ptr(int64(5)), KernelTCP: ptr(int64(6)), Swappiness: ptr(uint64(0)), DisableOOMKiller: ptr(true), UseHierarchy: ptr(true)}),
			v1: "memory.use_hierarchy=1, memory.limit_in_bytes=9, memory.kmem.tcp.limit_in_bytes=6, memory.swappiness=0, memory.oom_control=1", v2: "memory.max=9", warn: 3},
		{name: "swappiness", r: mem(specs.LinuxMemory{Swappiness: ptr(uint64(101))}), v1: "error: not from 0 to 100", v2: "error: not from 0 to 100"},

		{name: "shares", r: cpu(specs.LinuxCPU{Shares: ptr(uint64(1024))}), v1: "cpu.shares=1024", v2: "cpu.weight=100"},
		{name: "quota", r: cpu(specs.LinuxCPU{Quota: ptr(int64(5000))}), v1: "cpu.cfs_quota_us=5000", v2: "cpu.max=5000 100000"},
		{name: "quota and period", r: cpu(specs.LinuxCPU{Quota: ptr(int64(5000)), Period: ptr(uint64(20000))}),
			v1: "cpu.cfs_period_us=20000, cpu.cfs_quota_us=5000", v2: "cpu.max=5000 20000"},
		{name: "no quota", r: cpu(specs.LinuxCPU{Quota: ptr(int64(-1)), Period: ptr(uint64(20000))}),
			v1: "cpu.cfs_period_us=20000, cpu.cfs_quota_us=-1", v2: "cpu.max=max 20000"},
		{name: "burst", r: cpu(specs.LinuxCPU{Quota: ptr(int64(5000)), Burst: ptr(uint64(100))}),
			v1: "cpu.cfs_burst_us=100, cpu.cfs_quota_us=5000", v2: "cpu.max.burst=100, cpu.max=5000 100000"},
		{name: "idle", r: cpu(specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(1024))}), v1: "cpu.idle=1", v2: "cpu.idle=1"},
		{name: "not idle", r: cpu(specs.LinuxCPU{Idle: ptr(int64(0)), Shares: ptr(uint64(1024))}), v1: "cpu.idle=0, cpu.shares=1024", v2: "cpu.idle=0, cpu.weight=100"},
		{name: "idle 2", r: cpu(specs.LinuxCPU{Idle: ptr(int64(2))}), v1: "error: neither 0 nor 1", v2: "error: neither 0 nor 1"},
		{name: "realtime", r: cpu(specs.LinuxCPU{RealtimeRuntime: ptr(int64(5)), RealtimePeriod: ptr(uint64(10))}),
			v1: "cpu.rt_period_us=10, cpu.rt_runtime_us=5", v2: "error: cpu.realtimeRuntime can't be set with cgroup version 2"},
		{name: "cpuset", r: cpu(specs.LinuxCPU{Cpus: "0-1", Mems: "0"}), v1: "cpuset.cpus=0-1, cpuset.mems=0", v2: "cpuset.cpus=0-1, cpuset.mems=0"},

		{name: "pids", r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(7))}}, v1: "pids.max=7", v2: "pids.max=7"},
		{name: "pids: none more", r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, v1: "pids.max=1", v2: "pids.max=1"},
		{name: "pids: no limit", r: specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, v1: "pids.max=max", v2: "pids.max=max"},

		{name: "weights", r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(1000)), LeafWeight: ptr(uint16(20)),
			WeightDevice: []specs.LinuxWeightDevice{weightDevice(8, 16, 10, 30)}}},
			v1: "blkio.weight=1000 else blkio.bfq.weight=1000, blkio.leaf_weight=20, blkio.weight_device=8:16 10 else blkio.bfq.weight_device=8:16 10, blkio.leaf_weight_device=8:16 30",
			v2: "io.bfq.weight=1000 else io.weight=10000, io.bfq.weight=8:16 10 else io.weight=8:16 1", warn: 2},
		{name: "weight out of range", r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(9))}}, v1: "error: not from 10 to 1000", v2: "error: not from 10 to 1000"},
		{name: "throttle", r: specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 600)},
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 700)}, ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 0, 0)}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttle(8, 1, 9)}}},
			v1: "blkio.throttle.read_bps_device=8:0 600, blkio.throttle.write_bps_device=8:0 700, blkio.throttle.read_iops_device=8:0 0, blkio.throttle.write_iops_device=8:1 9",
			v2: "io.max=8:0 rbps=600, io.max=8:0 wbps=700, io.max=8:0 riops=max, io.max=8:1 wiops=9"},

		{name: "huge pages", r: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}}},
			v1: "hugetlb.2MB.limit_in_bytes=4194304, hugetlb.2MB.rsvd.limit_in_bytes=4194304", v2: "hugetlb.2MB.max=4194304, hugetlb.2MB.rsvd.max=4194304"},
		{name: "no page size", r: specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}}, v1: "error: page size", v2: "error: page size"},
		{name: "network", r: specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(17)), Priorities: []specs.LinuxInterfacePriority{{Name: "lo", Priority: 3}}}},
			v1: "net_cls.classid=17, net_prio.ifpriomap=lo 3", v2: "error: network.classID needs the net_cls cgroup controller"},
		{name: "rdma", r: specs.LinuxResources{Rdma: map[string]specs.LinuxRdma{"b": {HcaObjects: ptr(uint32(2))}, "a": {HcaHandles: ptr(uint32(1)), HcaObjects: ptr(uint32(3))}}},
			v1: "rdma.max=a hca_handle=1 hca_object=3, rdma.max=b hca_object=2", v2: "rdma.max=a hca_handle=1 hca_object=3, rdma.max=b hca_object=2"},
		{name: "unified", r: specs.LinuxResources{Unified: map[string]string{"memory.high": "7", "io.max": "8:0 rbps=1\n8:1 rbps=2\n", "cgroup.max.depth": "4"}},
			v1: "error: no cgroup version 2 hierarchy", v2: "cgroup.max.depth=4, io.max=8:0 rbps=1, io.max=8:1 rbps=2, memory.high=7"},
		{name: "unified elsewhere", r: specs.LinuxResources{Unified: map[string]string{"../memory.high": "7"}}, v1: "error: ", v2: "error: not the name of a cgroup file"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range []struct {
				h    Hierarchies
				want string
				warn int
			}{{all1, c.v1, 0}, {all2, c.v2, c.warn}} {
				writes, warnings, err := Writes(&c.r, v.h)
				var words []string
				for _, w := range writes {
					s := w.String()
					if w.Else != nil {
						s += " else " + w.Else.String()
					}
					words = append(words, s)
				}
				got := strings.Join(words, ", ")
				if err != nil {
					got = "error: " + err.Error()
					if strings.HasPrefix(v.want, "error: ") && strings.Contains(got, v.want[7:]) {
						continue
					}
				}
				if got != v.want || len(warnings) != v.warn {
					t.Errorf("%v:\n got  %s\n want %s\n warnings %q", v.h, got, v.want, warnings)
				}
			}
		})
	}
}

func throttle(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func weightDevice(major, minor int64, weight, leaf uint16) specs.LinuxWeightDevice {
	d := specs.LinuxWeightDevice{Weight: &weight, LeafWeight: &leaf}
	d.Major, d.Minor = major, minor
	return d
}

// TestAbsent: a controller that is mounted nowhere is an error that names it
// for every field that needs it, and for nothing else.
func TestAbsent(t *testing.T) {
	full := specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: ptr(int64(1))}, CPU: &specs.LinuxCPU{Shares: ptr(uint64(5)), Cpus: "0"}, Pids: &specs.LinuxPids{Limit: ptr(int64(1))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(10))}, HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB"}},
		Network: &specs.LinuxNetwork{ClassID: ptr(uint32(1)), Priorities: []specs.LinuxInterfacePriority{{Name: "lo"}}},
		Rdma:    map[string]specs.LinuxRdma{"a": {HcaHandles: ptr(uint32(1))}},
	}
	for _, c := range []string{"memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"} {
		h := Hierarchies{V1: slices.DeleteFunc(slices.Clone(all1.V1), func(s string) bool { return s == c })}
		_, _, err := Writes(&full, h)
		var absent *Absent
		if !errors.As(err, &absent) || absent.Controller != c {
			t.Errorf("without %s: %v", c, err)
		}
		if _, _, err := Writes(&specs.LinuxResources{}, h); err != nil {
			t.Errorf("nothing, without %s: %v", c, err)
		}
	}
	if _, _, err := Writes(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, Hierarchies{}); err != nil {
		t.Errorf("no limit of pids, without pids: %v", err)
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 0, 1: 1, 2: 1, 3: 2, 512: 59, 1024: 100, 2048: 174, 8192: 532, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
	last := uint64(0)
	for s := uint64(1); s < 300000; s++ {
		w := Weight(s)
		if w < last || w < 1 || w > 10000 {
			t.Fatalf("Weight(%d) = %d after %d", s, w, last)
		}
		last = w
	}
}

// TestMerge sets every field of an update, one at a time, by reflection, so
// that a field that a newer runtime spec has isn't forgotten.
func TestMerge(t *testing.T) {
	old := specs.LinuxResources{}
	fill(reflect.ValueOf(&old).Elem(), 1)
	same := Merge(&old, &specs.LinuxResources{})
	if !reflect.DeepEqual(same, old) {
		t.Errorf("an empty update changes\n%+v to\n%+v", old, same)
	}
	all := specs.LinuxResources{}
	fill(reflect.ValueOf(&all).Elem(), 2)
	if got := Merge(&old, &all); !reflect.DeepEqual(got, all) {
		t.Errorf("a full update gives\n%+v, not\n%+v", got, all)
	}
	if got := Merge(nil, &all); !reflect.DeepEqual(got, all) {
		t.Errorf("an update of nothing gives\n%+v, not\n%+v", got, all)
	}
	got := Merge(&old, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(5))}})
	want := *old.Memory
	want.Limit = ptr(int64(5))
	if !reflect.DeepEqual(*got.Memory, want) || *old.Memory.Limit != 1 {
		t.Errorf("one field: %+v, and the old one %+v", got.Memory, old.Memory)
	}
}

func fill(v reflect.Value, n int64) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), n)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), int(n), int(n)))
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		m := reflect.MakeMap(v.Type())
		k := reflect.New(v.Type().Key()).Elem()
		k.SetString("a")
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, n)
		m.SetMapIndex(k, e)
		v.Set(m)
	case reflect.Int64:
		v.SetInt(n)
	case reflect.Uint64, reflect.Uint32, reflect.Uint16:
		v.SetUint(uint64(n))
	case reflect.Bool:
		v.SetBool(n == 2)
	case reflect.String:
		v.SetString(strings.Repeat("x", int(n)))
	}
}

func TestShares(t *testing.T) {
	for shares, words := range map[uint64]string{1: "minimum allowed cpu-shares is 2", 262145: "maximum allowed cpu-shares is 262144", 2: "", 262144: ""} {
		_, _, err := Writes(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}, all1)
		if (err == nil) != (words == "") || err != nil && !strings.Contains(err.Error(), words) {
			t.Errorf("%d: %v, want %q", shares, err, words)
		}
	}
}
