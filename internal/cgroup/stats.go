package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Stats is what a container uses, in the shape in which `events` tells it.
// Times are nanoseconds, sizes bytes.
type Stats struct {
	CPU     CPUStats                `json:"cpu"`
	CPUSet  CPUSetStats             `json:"cpuset"`
	Memory  MemoryStats             `json:"memory"`
	PIDs    PIDsStats               `json:"pids"`
	Blkio   BlkioStats              `json:"blkio"`
	Hugetlb map[string]HugetlbStats `json:"hugetlb"`
	RDT     RDTStats                `json:"intel_rdt"`
	// Interfaces are nobody's to count here: null, as callers expect it.
	Interfaces []struct{} `json:"network_interfaces"`
}

type CPUStats struct {
	Usage      CPUUsage   `json:"usage"`
	Throttling Throttling `json:"throttling"`
	PSI        *PSI       `json:"psi,omitempty"`
}

type CPUUsage struct {
	Total        uint64   `json:"total,omitempty"`
	PerCPU       []uint64 `json:"percpu,omitempty"`
	PerCPUKernel []uint64 `json:"percpu_kernel,omitempty"`
	PerCPUUser   []uint64 `json:"percpu_user,omitempty"`
	Kernel       uint64   `json:"kernel"`
	User         uint64   `json:"user"`
}

type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"`
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"`
}

type CPUSetStats struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

type MemoryStats struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryUsage       `json:"usage"`
	Swap      MemoryUsage       `json:"swap"`
	Kernel    MemoryUsage       `json:"kernel"`
	KernelTCP MemoryUsage       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
	PSI       *PSI              `json:"psi,omitempty"`
}

type MemoryUsage struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

type PIDsStats struct {
	Current uint64 `json:"current,omitempty"`
	// Limit is 0 for none.
	Limit uint64 `json:"limit,omitempty"`
}

type BlkioStats struct {
	IOServiceBytes []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	IOServiced     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
	IOQueued       []BlkioEntry `json:"ioQueueRecursive,omitempty"`
	IOServiceTime  []BlkioEntry `json:"ioServiceTimeRecursive,omitempty"`
	IOWaitTime     []BlkioEntry `json:"ioWaitTimeRecursive,omitempty"`
	IOMerged       []BlkioEntry `json:"ioMergedRecursive,omitempty"`
	IOTime         []BlkioEntry `json:"ioTimeRecursive,omitempty"`
	Sectors        []BlkioEntry `json:"sectorsRecursive,omitempty"`
	PSI            *PSI         `json:"psi,omitempty"`
}

type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

type HugetlbStats struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// PSI is how long the processes had to wait for something.
type PSI struct {
	Some PSILine `json:"some"`
	Full PSILine `json:"full"`
}

type PSILine struct {
	Avg10  float64 `json:"avg10"`
	Avg60  float64 `json:"avg60"`
	Avg300 float64 `json:"avg300"`
	Total  uint64  `json:"total"`
}

// Stats reads what the group uses. What this kernel doesn't count, or no
// mounted controller does, is left at zero.
func (g Group) Stats() (*Stats, error) {
	s := &Stats{Hugetlb: map[string]HugetlbStats{}}
	for _, d := range g.Dirs {
		n, err := d.open()
		if err != nil {
			return nil, fmt.Errorf("open cgroup %s: %w", d, err)
		}
		r := &reader{n: n}
		if d.Version == 2 {
			r.unified(s, !g.hybrid())
		} else {
			for _, c := range d.Controllers {
				r.v1(s, c)
			}
		}
		sys.Close(n)
		if r.err != nil {
			return nil, fmt.Errorf("read %s of cgroup %s: %w", r.at, d, r.err)
		}
	}
	return s, nil
}

// reader reads files of one directory. The first error, other than that a file
// isn't there or counts nothing, is kept.
type reader struct {
	n   int
	at  string
	err error
}

func (r *reader) text(file string) string {
	b, err := sys.ReadFile(r.n, file, 1<<20)
	switch err {
	case nil, unix.ENOENT, unix.EOPNOTSUPP, unix.ENODEV:
	default:
		if r.err == nil {
			r.at, r.err = file, err
		}
	}
	return string(b)
}

// number reads a file of one number; "max" and absence are 0, as callers
// expect it.
func (r *reader) number(file string) uint64 {
	n, _ := strconv.ParseUint(strings.TrimSpace(r.text(file)), 10, 64)
	return n
}

// limit reads a number whose "max" is the greatest there is.
func (r *reader) limit(file string) uint64 {
	s := strings.TrimSpace(r.text(file))
	if s == "max" {
		return ^uint64(0)
	}
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

// pairs reads lines of a name and a number.
func (r *reader) pairs(file string) map[string]uint64 { return pairs(r.text(file)) }

func pairs(text string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(text) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			m[k] = n
		}
	}
	return m
}

func (r *reader) v1(s *Stats, controller string) {
	switch controller {
	case "cpu":
		p := r.pairs("cpu.stat")
		s.CPU.Throttling = Throttling{p["nr_periods"], p["nr_throttled"], p["throttled_time"]}
	case "cpuacct":
		u := &s.CPU.Usage
		u.Total = r.number("cpuacct.usage")
		u.PerCPU = numbersOf(r.text("cpuacct.usage_percpu"))
		// cpu user system, after a line of heads; cpuacct.stat has only ticks.
		for line := range strings.Lines(r.text("cpuacct.usage_all")) {
			f := numbersOf(line)
			if len(f) != 3 {
				continue
			}
			u.PerCPUUser = append(u.PerCPUUser, f[1])
			u.PerCPUKernel = append(u.PerCPUKernel, f[2])
			u.User += f[1]
			u.Kernel += f[2]
		}
		if u.PerCPUUser == nil {
			const tick = 1e9 / 100 // USER_HZ is 100 wherever this runs
			p := r.pairs("cpuacct.stat")
			u.User, u.Kernel = p["user"]*tick, p["system"]*tick
		}
	case "cpuset":
		s.CPUSet = CPUSetStats{
			CPUs: ranges(r.text("cpuset.cpus")), CPUExclusive: r.number("cpuset.cpu_exclusive"),
			Mems: ranges(r.text("cpuset.mems")), MemHardwall: r.number("cpuset.mem_hardwall"), MemExclusive: r.number("cpuset.mem_exclusive"),
			MemoryMigrate: r.number("cpuset.memory_migrate"), MemorySpreadPage: r.number("cpuset.memory_spread_page"),
			MemorySpreadSlab: r.number("cpuset.memory_spread_slab"), MemoryPressure: r.number("cpuset.memory_pressure"),
			SchedLoadBalance: r.number("cpuset.sched_load_balance"),
		}
		s.CPUSet.SchedRelaxDomainLevel, _ = strconv.ParseInt(strings.TrimSpace(r.text("cpuset.sched_relax_domain_level")), 10, 64)
	case "memory":
		usage := func(part string) MemoryUsage {
			return MemoryUsage{
				Limit: r.number("memory." + part + "limit_in_bytes"), Usage: r.number("memory." + part + "usage_in_bytes"),
				Max: r.number("memory." + part + "max_usage_in_bytes"), Failcnt: r.number("memory." + part + "failcnt"),
			}
		}
		m := &s.Memory
		m.Raw = r.pairs("memory.stat")
		m.Cache = m.Raw["cache"]
		m.Usage, m.Swap, m.Kernel, m.KernelTCP = usage(""), usage("memsw."), usage("kmem."), usage("kmem.tcp.")
	case "pids":
		s.PIDs = PIDsStats{r.number("pids.current"), r.number("pids.max")}
	case "blkio":
		b := &s.Blkio
		first := func(files ...string) []BlkioEntry {
			for _, f := range files {
				if e := blkio(r.text(f)); len(e) > 0 {
					return e
				}
			}
			return nil
		}
		// Which counters move depends on the disk's scheduler.
		b.IOServiceBytes = first("blkio.bfq.io_service_bytes_recursive", "blkio.io_service_bytes_recursive", "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes")
		b.IOServiced = first("blkio.bfq.io_serviced_recursive", "blkio.io_serviced_recursive", "blkio.throttle.io_serviced_recursive", "blkio.throttle.io_serviced")
		b.IOQueued = first("blkio.bfq.io_queued_recursive", "blkio.io_queued_recursive")
		b.IOServiceTime = first("blkio.bfq.io_service_time_recursive", "blkio.io_service_time_recursive")
		b.IOWaitTime = first("blkio.bfq.io_wait_time_recursive", "blkio.io_wait_time_recursive")
		b.IOMerged = first("blkio.bfq.io_merged_recursive", "blkio.io_merged_recursive")
		b.IOTime = first("blkio.bfq.time_recursive", "blkio.time_recursive")
		b.Sectors = first("blkio.bfq.sectors_recursive", "blkio.sectors_recursive")
	case "hugetlb":
		for _, size := range r.pageSizes(".usage_in_bytes") {
			// What is set aside counts, where the kernel knows it.
			p := "hugetlb." + size
			if r.text(p+".rsvd.usage_in_bytes") != "" {
				p += ".rsvd"
			}
			s.Hugetlb[size] = HugetlbStats{r.number(p + ".usage_in_bytes"), r.number(p + ".max_usage_in_bytes"), r.number(p + ".failcnt")}
		}
	}
}

// unified reads a version 2 directory; alone says that nothing is counted
// elsewhere, so that what every cgroup counts (cpu.stat) is taken too.
func (r *reader) unified(s *Stats, alone bool) {
	if alone {
		p := r.pairs("cpu.stat") // microseconds
		s.CPU.Usage = CPUUsage{Total: p["usage_usec"] * 1000, Kernel: p["system_usec"] * 1000, User: p["user_usec"] * 1000}
		s.CPU.Throttling = Throttling{p["nr_periods"], p["nr_throttled"], p["throttled_usec"] * 1000}
		s.CPUSet.CPUs, s.CPUSet.Mems = ranges(r.text("cpuset.cpus.effective")), ranges(r.text("cpuset.mems.effective"))
	}
	s.CPU.PSI = psi(r.text("cpu.pressure"))
	s.Memory.PSI = psi(r.text("memory.pressure"))
	s.Blkio.PSI = psi(r.text("io.pressure"))
	if text := r.text("memory.stat"); text != "" {
		m := &s.Memory
		m.Raw = pairs(text)
		m.Cache = m.Raw["file"]
		events := r.pairs("memory.events")
		m.Usage = MemoryUsage{r.limit("memory.max"), r.number("memory.current"), r.number("memory.peak"), events["max"]}
		// Swap is told as version 1 does it: together with memory.
		swap := MemoryUsage{r.limit("memory.swap.max"), r.number("memory.swap.current"), 0, r.pairs("memory.swap.events")["fail"]}
		if swap.Limit != ^uint64(0) {
			if swap.Limit += m.Usage.Limit; m.Usage.Limit == ^uint64(0) {
				swap.Limit = ^uint64(0)
			}
		}
		swap.Usage += m.Usage.Usage
		m.Swap = swap
		m.Kernel.Usage = m.Raw["kernel"]
		m.KernelTCP.Usage = m.Raw["sock"]
	}
	if text := r.text("pids.current"); text != "" {
		s.PIDs = PIDsStats{r.number("pids.current"), r.number("pids.max")}
	} else {
		// Nobody counts them here.
		s.PIDs.Current = uint64(strings.Count(r.text("cgroup.procs"), "\n"))
	}
	if text := r.text("io.stat"); text != "" {
		s.Blkio.IOServiceBytes, s.Blkio.IOServiced = ioStat(text)
	}
	for _, size := range r.pageSizes(".current") {
		p := "hugetlb." + size
		events := p + ".events"
		if r.text(p+".rsvd.current") != "" {
			p += ".rsvd"
		}
		s.Hugetlb[size] = HugetlbStats{Usage: r.number(p + ".current"), Failcnt: r.pairs(events)["max"]}
	}
}

// pageSizes gives the sizes of huge pages that the directory counts.
func (r *reader) pageSizes(suffix string) []string {
	again, err := sys.Openat(r.n, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer sys.Close(again)
	names, _ := sys.Names(again)
	var sizes []string
	for _, name := range names {
		size, ok := strings.CutPrefix(name, "hugetlb.")
		if size, ok2 := strings.CutSuffix(size, suffix); ok && ok2 && !strings.Contains(size, ".") {
			sizes = append(sizes, size)
		}
	}
	slices.Sort(sizes)
	return sizes
}

func numbersOf(s string) []uint64 {
	var list []uint64
	for f := range strings.FieldsSeq(s) {
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return nil
		}
		list = append(list, n)
	}
	return list
}

// ranges reads a list like 0-3,7.
func ranges(s string) []uint16 {
	var list []uint16
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		from, to, ok := strings.Cut(part, "-")
		if !ok {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 16)
		b, err2 := strconv.ParseUint(to, 10, 16)
		if err != nil || err2 != nil {
			continue
		}
		for ; a <= b; a++ {
			list = append(list, uint16(a))
		}
	}
	return list
}

// blkio reads lines of MAJOR:MINOR [OP] NUMBER; sums are left out.
func blkio(text string) []BlkioEntry {
	var list []BlkioEntry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || len(f) > 3 {
			continue
		}
		major, minor, ok := device(f[0])
		n, err := strconv.ParseUint(f[len(f)-1], 10, 64)
		if !ok || err != nil {
			continue
		}
		e := BlkioEntry{Major: major, Minor: minor, Value: n}
		if len(f) == 3 {
			e.Op = f[1]
		}
		list = append(list, e)
	}
	return list
}

func device(s string) (major, minor uint64, ok bool) {
	a, b, ok := strings.Cut(s, ":")
	major, err := strconv.ParseUint(a, 10, 32)
	minor, err2 := strconv.ParseUint(b, 10, 32)
	return major, minor, ok && err == nil && err2 == nil
}

// ioStat reads lines of MAJOR:MINOR rbytes=… wbytes=… rios=… wios=….
func ioStat(text string) (bytes, count []BlkioEntry) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		major, minor, ok := device(f[0])
		if !ok {
			continue
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				continue
			}
			e := BlkioEntry{Major: major, Minor: minor, Value: n}
			switch k {
			case "rbytes", "rios":
				e.Op = "Read"
			case "wbytes", "wios":
				e.Op = "Write"
			case "dbytes", "dios":
				e.Op = "Discard"
			default:
				continue
			}
			if strings.HasSuffix(k, "bytes") {
				bytes = append(bytes, e)
			} else {
				count = append(count, e)
			}
		}
	}
	return bytes, count
}

// psi reads lines of some|full avg10=… avg60=… avg300=… total=….
func psi(text string) *PSI {
	if text == "" {
		return nil
	}
	p := &PSI{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		to := &p.Some
		switch f[0] {
		case "full":
			to = &p.Full
		case "some":
		default:
			continue
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			if k == "total" {
				to.Total, _ = strconv.ParseUint(v, 10, 64)
				continue
			}
			x, _ := strconv.ParseFloat(v, 64)
			switch k {
			case "avg10":
				to.Avg10 = x
			case "avg60":
				to.Avg60 = x
			case "avg300":
				to.Avg300 = x
			}
		}
	}
	return p
}
