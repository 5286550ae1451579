package resource

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Hierarchies tells where controllers are to be found.
type Hierarchies struct {
	// V1 are the controllers that are mounted as version 1, V2 those that the
	// unified hierarchy offers. Unified says that there is one, be it without
	// controllers.
	V1, V2  []string
	Unified bool
}

// version gives where a controller is, 0 for nowhere.
func (h Hierarchies) version(controller string) int {
	switch {
	case slices.Contains(h.V1, controller):
		return 1
	case slices.Contains(h.V2, V2Name(controller)):
		return 2
	}
	return 0
}

// V2Name gives version 2's name of a version 1 controller.
func V2Name(controller string) string {
	switch controller {
	case "blkio":
		return "io"
	case "cpuacct":
		return "cpu"
	}
	return controller
}

// A Write puts one value into one file of a cgroup, in one system call.
type Write struct {
	// Controller owns the file, by its name in the hierarchy of the Version.
	// It is empty for files that every cgroup of version 2 has.
	Controller string
	Version    int
	File       string
	Value      string

	// Else is tried where the kernel doesn't have the file.
	Else *Write
	// Optional says that a kernel without the file (and Else) does already what
	// the write asks for.
	Optional bool
	// Later says that the kernel may refuse the value (EINVAL) until others of
	// the controller are written; then it is tried once more after them.
	Later bool
}

func (w Write) String() string { return w.File + "=" + w.Value }

// Absent is the error for a limit whose controller is mounted nowhere.
type Absent struct {
	Controller string
	// Field is what asked for it, as the runtime spec calls it.
	Field string
}

func (e *Absent) Error() string {
	return fmt.Sprintf("%s needs the %s cgroup controller, which this host doesn't have", e.Field, e.Controller)
}

// Unsupported is the error for a limit that version 2 cannot express.
type Unsupported struct{ Field string }

func (e *Unsupported) Error() string {
	return e.Field + " can't be set with cgroup version 2"
}

type writer struct {
	h    Hierarchies
	out  []Write
	warn []string
}

// Writes gives what to write, in order, for all of r but the devices (see
// Policy). Warnings name fields that were asked for and have no effect here.
//
// Zero means "not set" where callers use it so: memory limits, cpu shares,
// quota and period, and weights.
func Writes(r *specs.LinuxResources, h Hierarchies) ([]Write, []string, error) {
	w := &writer{h: h}
	for _, f := range []func(*specs.LinuxResources) error{w.cpuset, w.cpu, w.memory, w.pids, w.blockIO, w.hugepages, w.network, w.rdma, w.unified} {
		if err := f(r); err != nil {
			return nil, nil, err
		}
	}
	return w.out, w.warn, nil
}

// need gives the version of a controller that a field asks for.
func (w *writer) need(controller, field string) (int, error) {
	v := w.h.version(controller)
	if v == 0 {
		return 0, &Absent{Controller: controller, Field: "linux.resources." + field}
	}
	return v, nil
}

func (w *writer) add(version int, controller, file, value string) *Write {
	if version == 2 {
		controller = V2Name(controller)
	}
	w.out = append(w.out, Write{Controller: controller, Version: version, File: file, Value: value})
	return &w.out[len(w.out)-1]
}

func (w *writer) noEffect(field string) {
	w.warn = append(w.warn, "linux.resources."+field+" has no effect with cgroup version 2")
}

func (w *writer) cpuset(r *specs.LinuxResources) error {
	if r.CPU == nil {
		return nil
	}
	for _, f := range [...]struct{ name, value string }{{"cpus", r.CPU.Cpus}, {"mems", r.CPU.Mems}} {
		if f.value == "" {
			continue
		}
		v, err := w.need("cpuset", "cpu."+f.name)
		if err != nil {
			return err
		}
		w.add(v, "cpuset", "cpuset."+f.name, f.value)
	}
	return nil
}

func (w *writer) cpu(r *specs.LinuxResources) error {
	c := r.CPU
	if c == nil {
		return nil
	}
	idle := value(c.Idle)
	shares, quota, period := value(c.Shares), value(c.Quota), value(c.Period)
	asked := ""
	switch {
	case c.Idle != nil:
		asked = "cpu.idle"
	case shares != 0:
		asked = "cpu.shares"
	case quota != 0:
		asked = "cpu.quota"
	case period != 0:
		asked = "cpu.period"
	case c.Burst != nil:
		asked = "cpu.burst"
	case value(c.RealtimeRuntime) != 0:
		asked = "cpu.realtimeRuntime"
	case value(c.RealtimePeriod) != 0:
		asked = "cpu.realtimePeriod"
	default:
		return nil
	}
	v, err := w.need("cpu", asked)
	if err != nil {
		return err
	}
	if c.Idle != nil {
		if idle != 0 && idle != 1 {
			return fmt.Errorf("linux.resources.cpu.idle: %d is neither 0 nor 1", idle)
		}
		w.add(v, "cpu", "cpu.idle", strconv.FormatInt(idle, 10))
	}
	// The kernel refuses to weigh an idle group: its weight is the least.
	if shares != 0 && idle == 0 {
		// The kernel takes the next best without a word.
		const least, most = 2, 262144
		if v == 1 && shares < least {
			return fmt.Errorf("linux.resources.cpu.shares: the minimum allowed cpu-shares is %d", least)
		}
		if v == 1 && shares > most {
			return fmt.Errorf("linux.resources.cpu.shares: the maximum allowed cpu-shares is %d", most)
		}
		if v == 1 {
			w.add(1, "cpu", "cpu.shares", strconv.FormatUint(shares, 10))
		} else {
			w.add(2, "cpu", "cpu.weight", strconv.FormatUint(Weight(shares), 10))
		}
	}
	if v == 1 {
		// Realtime: a runtime must fit its period, before and after.
		if p := value(c.RealtimePeriod); p != 0 {
			w.add(1, "cpu", "cpu.rt_period_us", strconv.FormatUint(p, 10)).Later = true
		}
		if t := value(c.RealtimeRuntime); t != 0 {
			w.add(1, "cpu", "cpu.rt_runtime_us", strconv.FormatInt(t, 10)).Later = true
		}
	} else if value(c.RealtimePeriod) != 0 || value(c.RealtimeRuntime) != 0 {
		return &Unsupported{"linux.resources." + asked}
	}
	// The burst must not exceed the quota, and the share of a group not that of
	// its parent, whichever is written first.
	if c.Burst != nil {
		file := "cpu.cfs_burst_us"
		if v == 2 {
			file = "cpu.max.burst"
		}
		b := w.add(v, "cpu", file, strconv.FormatUint(*c.Burst, 10))
		b.Later = true
		b.Optional = *c.Burst == 0
	}
	switch {
	case v == 1:
		if period != 0 {
			w.add(1, "cpu", "cpu.cfs_period_us", strconv.FormatUint(period, 10)).Later = true
		}
		if quota != 0 {
			w.add(1, "cpu", "cpu.cfs_quota_us", strconv.FormatInt(max(quota, -1), 10)).Later = true
		}
	case quota != 0 || period != 0:
		text := "max"
		if quota > 0 {
			text = strconv.FormatInt(quota, 10)
		}
		if period == 0 {
			period = 100000
		}
		w.add(2, "cpu", "cpu.max", text+" "+strconv.FormatUint(period, 10)).Later = true
	}
	return nil
}

// Weight turns shares of version 1 (2 to 262144, normally 1024) into a weight
// of version 2 (1 to 10000, normally 100). The curve goes through both ends
// and through the normal value: log10(weight) = (l² + 125·l)/612 − 7/34 with
// l = log2(shares). The straight line that was used before gives a normal
// container a weight of 39, less than half of what a service has.
func Weight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	x := math.Pow(10, (l*l+125*l)/612-7.0/34)
	// Rounded up, but not because of the last bits of the arithmetic.
	if n := math.Round(x); math.Abs(x-n) < 1e-9*x {
		return uint64(n)
	}
	return uint64(math.Ceil(x))
}

func (w *writer) memory(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil {
		return nil
	}
	limit, swap, reservation := value(m.Limit), value(m.Swap), value(m.Reservation)
	asked := ""
	switch {
	case limit != 0:
		asked = "memory.limit"
	case swap != 0:
		asked = "memory.swap"
	case reservation != 0:
		asked = "memory.reservation"
	case value(m.KernelTCP) > 0:
		asked = "memory.kernelTCP"
	case m.Swappiness != nil:
		asked = "memory.swappiness"
	case value(m.DisableOOMKiller):
		asked = "memory.disableOOMKiller"
	default:
		return nil
	}
	v, err := w.need("memory", asked)
	if err != nil {
		return err
	}
	if limit < -1 || swap < -1 || reservation < -1 {
		return fmt.Errorf("linux.resources.memory: a limit below -1")
	}
	if limit > 0 && swap > 0 && swap < limit {
		return fmt.Errorf("linux.resources.memory.swap: memory and swap together (%d) are less than memory alone (%d)", swap, limit)
	}
	if s := m.Swappiness; s != nil && *s > 100 {
		return fmt.Errorf("linux.resources.memory.swappiness: %d is not from 0 to 100", *s)
	}
	if v == 2 {
		return w.memory2(m, limit, swap, reservation)
	}
	if value(m.UseHierarchy) {
		w.add(1, "memory", "memory.use_hierarchy", "1").Optional = true
	}
	if limit != 0 {
		w.add(1, "memory", "memory.limit_in_bytes", strconv.FormatInt(limit, 10)).Later = true
	}
	switch {
	case swap != 0:
		w.add(1, "memory", "memory.memsw.limit_in_bytes", strconv.FormatInt(swap, 10)).Later = true
	case limit == -1:
		// Without this, an older limit of both would stay and refuse the -1.
		s := w.add(1, "memory", "memory.memsw.limit_in_bytes", "-1")
		s.Optional = true
	}
	if reservation != 0 {
		w.add(1, "memory", "memory.soft_limit_in_bytes", strconv.FormatInt(reservation, 10))
	}
	if t := value(m.KernelTCP); t != 0 {
		w.add(1, "memory", "memory.kmem.tcp.limit_in_bytes", strconv.FormatInt(t, 10))
	}
	if m.Swappiness != nil {
		w.add(1, "memory", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
	if d := m.DisableOOMKiller; d != nil {
		value := "0"
		if *d {
			value = "1"
		}
		o := w.add(1, "memory", "memory.oom_control", value)
		o.Optional = !*d
	}
	return nil
}

func (w *writer) memory2(m *specs.LinuxMemory, limit, swap, reservation int64) error {
	if limit == -1 && swap == 0 {
		swap = -1 // as on version 1: without a limit of memory there is none of both
	}
	if swap != 0 {
		value, whole := "max", false
		switch {
		case swap == -1:
			whole = true
		case limit <= 0:
			return fmt.Errorf("linux.resources.memory.swap: a limit of memory and swap together needs a memory limit with cgroup version 2")
		default:
			value = strconv.FormatInt(swap-limit, 10)
		}
		// A kernel without swap accounting doesn't need to be told these.
		s := w.add(2, "memory", "memory.swap.max", value)
		s.Optional = whole || swap == limit
	}
	if limit != 0 {
		w.add(2, "memory", "memory.max", orMax(limit))
	}
	if reservation != 0 {
		w.add(2, "memory", "memory.low", orMax(reservation))
	}
	if m.Swappiness != nil {
		w.noEffect("memory.swappiness")
	}
	if value(m.KernelTCP) > 0 {
		w.noEffect("memory.kernelTCP")
	}
	if value(m.DisableOOMKiller) {
		w.noEffect("memory.disableOOMKiller")
	}
	return nil
}

func orMax(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

func (w *writer) pids(r *specs.LinuxResources) error {
	if r.Pids == nil || r.Pids.Limit == nil {
		return nil
	}
	n := *r.Pids.Limit
	v := w.h.version("pids")
	if v == 0 && n < 0 {
		return nil // no limit is what there is
	}
	if v == 0 {
		_, err := w.need("pids", "pids.limit")
		return err
	}
	// With 0 the container's first process could not be made. It is itself one
	// task, so that 1 forbids any other, which is what 0 means.
	if n == 0 {
		n = 1
	}
	w.add(v, "pids", "pids.max", orMax(n))
	return nil
}

func (w *writer) blockIO(r *specs.LinuxResources) error {
	b := r.BlockIO
	if b == nil {
		return nil
	}
	throttles := [...]struct {
		field, v1, v2 string
		list          []specs.LinuxThrottleDevice
	}{
		{"throttleReadBpsDevice", "read_bps", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops", "wiops", b.ThrottleWriteIOPSDevice},
	}
	asked := ""
	switch {
	case value(b.Weight) != 0:
		asked = "blockIO.weight"
	case value(b.LeafWeight) != 0:
		asked = "blockIO.leafWeight"
	case len(b.WeightDevice) != 0:
		asked = "blockIO.weightDevice"
	}
	for _, t := range throttles {
		if len(t.list) != 0 && asked == "" {
			asked = "blockIO." + t.field
		}
	}
	if asked == "" {
		return nil
	}
	v, err := w.need("blkio", asked)
	if err != nil {
		return err
	}
	weight := func(field, device string, n uint16) error {
		if n < 10 || n > 1000 {
			return fmt.Errorf("linux.resources.blockIO.%s: %d is not from 10 to 1000", field, n)
		}
		text := strconv.Itoa(int(n))
		// Which scheduler a disk has decides which of the files is there.
		if v == 2 {
			x := w.add(2, "io", "io.bfq.weight", device+text)
			x.Else = &Write{Controller: "io", Version: 2, File: "io.weight", Value: device + strconv.FormatUint(ioWeight(n), 10)}
			return nil
		}
		file := "weight"
		if device != "" {
			file += "_device"
		}
		x := w.add(1, "blkio", "blkio."+file, device+text)
		x.Else = &Write{Controller: "blkio", Version: 1, File: "blkio.bfq." + file, Value: device + text}
		return nil
	}
	leaf := func(field, file, device string, n uint16) {
		if v == 2 {
			w.noEffect("blockIO." + field)
			return
		}
		w.add(1, "blkio", "blkio."+file, device+strconv.Itoa(int(n)))
	}
	if n := value(b.Weight); n != 0 {
		if err := weight("weight", "", n); err != nil {
			return err
		}
	}
	if n := value(b.LeafWeight); n != 0 {
		leaf("leafWeight", "leaf_weight", "", n)
	}
	for _, d := range b.WeightDevice {
		device := fmt.Sprintf("%d:%d ", d.Major, d.Minor)
		if n := value(d.Weight); n != 0 {
			if err := weight("weightDevice", device, n); err != nil {
				return err
			}
		}
		if n := value(d.LeafWeight); n != 0 {
			leaf("weightDevice.leafWeight", "leaf_weight_device", device, n)
		}
	}
	for _, t := range throttles {
		for _, d := range t.list {
			rate := strconv.FormatUint(d.Rate, 10)
			if v == 1 {
				w.add(1, "blkio", "blkio.throttle."+t.v1+"_device", fmt.Sprintf("%d:%d %s", d.Major, d.Minor, rate))
				continue
			}
			if d.Rate == 0 {
				rate = "max"
			}
			w.add(2, "io", "io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate))
		}
	}
	return nil
}

// ioWeight maps 10…1000 of version 1 on 1…10000 of version 2, ends on ends.
func ioWeight(n uint16) uint64 { return 1 + (uint64(n)-10)*9999/990 }

func (w *writer) hugepages(r *specs.LinuxResources) error {
	for _, l := range r.HugepageLimits {
		v, err := w.need("hugetlb", "hugepageLimits")
		if err != nil {
			return err
		}
		if !pageSize(l.Pagesize) {
			return fmt.Errorf("linux.resources.hugepageLimits: page size %q is not like 64KB, 2MB or 1GB", l.Pagesize)
		}
		file, n := "max", strconv.FormatUint(l.Limit, 10)
		if v == 1 {
			file = "limit_in_bytes"
		}
		// What is used is limited, and what is set aside, where the kernel counts
		// that: a reservation that is refused is an error of mmap, where a page
		// fault that is refused is the end of the process.
		w.add(v, "hugetlb", "hugetlb."+l.Pagesize+"."+file, n)
		w.add(v, "hugetlb", "hugetlb."+l.Pagesize+".rsvd."+file, n).Optional = true
	}
	return nil
}

// pageSize tells whether s is a size as the kernel writes it: 64KB, 2MB, 1GB.
func pageSize(s string) bool {
	n, ok := strings.CutSuffix(s, "B")
	if !ok || len(n) < 2 || !strings.Contains("KMG", n[len(n)-1:]) || n[0] == '0' {
		return false
	}
	_, err := strconv.ParseUint(n[:len(n)-1], 10, 32)
	return err == nil
}

func (w *writer) network(r *specs.LinuxResources) error {
	n := r.Network
	if n == nil {
		return nil
	}
	if id := value(n.ClassID); id != 0 {
		if _, err := w.need("net_cls", "network.classID"); err != nil {
			return err
		}
		w.add(1, "net_cls", "net_cls.classid", strconv.FormatUint(uint64(id), 10))
	}
	for _, p := range n.Priorities {
		if _, err := w.need("net_prio", "network.priorities"); err != nil {
			return err
		}
		if p.Name == "" || strings.ContainsAny(p.Name, " \n\t/") {
			return fmt.Errorf("linux.resources.network.priorities: %q is no interface", p.Name)
		}
		w.add(1, "net_prio", "net_prio.ifpriomap", p.Name+" "+strconv.FormatUint(uint64(p.Priority), 10))
	}
	return nil
}

func (w *writer) rdma(r *specs.LinuxResources) error {
	for _, device := range slices.Sorted(maps.Keys(r.Rdma)) {
		v, err := w.need("rdma", "rdma")
		if err != nil {
			return err
		}
		if device == "" || strings.ContainsAny(device, " \n\t") {
			return fmt.Errorf("linux.resources.rdma: %q is no device", device)
		}
		value := device
		if n := r.Rdma[device].HcaHandles; n != nil {
			value += " hca_handle=" + strconv.FormatUint(uint64(*n), 10)
		}
		if n := r.Rdma[device].HcaObjects; n != nil {
			value += " hca_object=" + strconv.FormatUint(uint64(*n), 10)
		}
		if value == device {
			return fmt.Errorf("linux.resources.rdma.%s: neither hcaHandles nor hcaObjects", device)
		}
		w.add(v, "rdma", "rdma.max", value)
	}
	return nil
}

func (w *writer) unified(r *specs.LinuxResources) error {
	for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
		if !w.h.Unified {
			return fmt.Errorf("linux.resources.unified: %s: this host has no cgroup version 2 hierarchy", file)
		}
		controller, _, ok := strings.Cut(file, ".")
		if !ok || controller == "" || strings.ContainsAny(file, "/\n\x00") {
			return fmt.Errorf("linux.resources.unified: %q is not the name of a cgroup file", file)
		}
		if controller == "cgroup" {
			controller = ""
		}
		// Most files take one line per write.
		value := strings.TrimSuffix(r.Unified[file], "\n")
		for line := range strings.SplitSeq(value, "\n") {
			w.add(2, controller, file, line)
		}
	}
	return nil
}

// value is what p points to, or zero.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
