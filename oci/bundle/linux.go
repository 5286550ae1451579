package bundle

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/seccomp"
	"launch/settings"
)

func (r *reader) sysctl() {
	for _, key := range sortedKeys(r.linux.Sysctl) {
		at := "/linux/sysctl/" + escape(key)
		value := r.linux.Sysctl[key]
		if !r.clean(at, key) || !r.clean(at, value) {
			return
		}
		name, ok := sysctlName(key)
		if !ok {
			r.refuse(problem{at, value, "cannot take this for the name of a kernel parameter", "write it as net.ipv4.ip_forward"})
			return
		}
		for _, before := range r.b.Sysctl {
			if before.Name == name {
				r.refuse(problem{at, value, "cannot set one kernel parameter twice", "leave one of them out"})
			}
		}
		r.mayset(at, name, value)
		r.b.Sysctl = append(r.b.Sysctl, settings.Sysctl{Name: name, Value: value, Origin: r.at(at)})
	}
	slices.SortFunc(r.b.Sysctl, func(a, b settings.Sysctl) int { return strings.Compare(a.Name, b.Name) })
}

// sysctlName gives a name with dots. Where a slash comes first, slashes and
// dots change places, as sysctl(8) does it.
func sysctlName(key string) (string, bool) {
	name := key
	if i := strings.IndexAny(key, "./"); i >= 0 && key[i] == '/' {
		name = strings.Map(func(c rune) rune {
			switch c {
			case '.':
				return '/'
			case '/':
				return '.'
			}
			return c
		}, key)
	}
	for part := range strings.SplitSeq(name, ".") {
		// With dots as slashes and slashes as dots it becomes a path.
		if part == "" || part == "/" || part == "//" || strings.ContainsAny(part, "\n") {
			return "", false
		}
	}
	return name, strings.Contains(name, ".")
}

// The kernel parameters that each have their value in every ipc namespace.
var ipcNames = [...]string{
	"kernel.auto_msgmni", "kernel.msg_next_id", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.sem_next_id",
	"kernel.shm_next_id", "kernel.shm_rmid_forced", "kernel.shmall", "kernel.shmmax", "kernel.shmmni",
}

// mayset holds that a kernel parameter belongs to a namespace of the
// container's own: any other is the host's.
func (r *reader) mayset(at, name, value string) {
	kind, needs := "", ""
	switch {
	case name == "kernel.hostname":
		r.refuse(problem{at, value, "cannot set the host name as a kernel parameter", `say it in "hostname"`})
		return
	case name == "kernel.domainname":
		kind, needs = "uts", "uts"
		if r.spec.Domainname != "" {
			r.refuse(problem{at, value, `cannot set the domain name twice: "domainname" says it, too`, "leave one of them out"})
			return
		}
	case slices.Contains(ipcNames[:], name), strings.HasPrefix(name, "fs.mqueue."):
		kind, needs = "ipc", "ipc"
	case strings.HasPrefix(name, "net."):
		kind, needs = "net", "network"
	case strings.HasPrefix(name, "user."):
		kind, needs = "user", "user"
	default:
		r.refuse(problem{at, value, "cannot set a kernel parameter that is not in a separate kernel namespace: it is the whole host's",
			"set it on the host, or leave it out"})
		return
	}
	if !r.has(kind) {
		r.refuse(problem{at, value, "cannot set this kernel parameter without a namespace of type " + needs + " of the container's own",
			`add {"type": "` + needs + `"} to linux.namespaces`})
	}
}

func (r *reader) devices() {
	for i, d := range r.linux.Devices {
		at := point("/linux/devices", i)
		d.Path = r.absolute(at+"/path", d.Path)
		switch d.Type {
		case "c", "u", "b":
			const mostMajor, mostMinor = 1<<12 - 1, 1<<20 - 1
			if d.Major < 0 || d.Major > mostMajor {
				r.refuse(problem{at + "/major", d.Major, fmt.Sprintf("cannot make a device with a major number that is not from 0 to %d", mostMajor), ""})
			}
			if d.Minor < 0 || d.Minor > mostMinor {
				r.refuse(problem{at + "/minor", d.Minor, fmt.Sprintf("cannot make a device with a minor number that is not from 0 to %d", mostMinor), ""})
			}
		case "p":
		case "":
			r.refuse(problem{at + "/type", nil, "cannot make a device without knowing its type", "c, b, u or p"})
		default:
			r.refuse(problem{at + "/type", d.Type, "unknown type of device", "known: c, b, u, p"})
		}
		if d.Path == "/" {
			r.refuse(problem{at + "/path", d.Path, "cannot make a device of the root", ""})
		}
		if d.FileMode != nil {
			// Some callers write stat's whole mode.
			mode := *d.FileMode &^ unix.S_IFMT
			if mode > 0o7777 {
				r.refuse(problem{at + "/fileMode", uint32(*d.FileMode), "cannot take this for a file mode", "it is a decimal number: 438 is 0666"})
			}
			d.FileMode = &mode
		}
		for j := range r.b.Devices {
			if b := &r.b.Devices[j]; b.Path == d.Path && (b.Type != d.Type || b.Major != d.Major || b.Minor != d.Minor) {
				r.refuse(problem{at + "/path", d.Path, fmt.Sprintf("cannot make two different devices at one path: device %d has it", j), ""})
			}
		}
		r.b.Devices = append(r.b.Devices, d)
	}
}

func (r *reader) netDevices() {
	for _, name := range sortedKeys(r.linux.NetDevices) {
		at := "/linux/netDevices/" + escape(name)
		as := r.linux.NetDevices[name].Name
		if !interfaceName(name) {
			r.refuse(problem{at, name, "cannot take this for the name of a network device", "it has 1 to 15 characters, without blanks, colons and slashes"})
		}
		if as != "" && !interfaceName(as) || strings.Count(as, "%") != strings.Count(as, "%d") || strings.Count(as, "%") > 1 {
			r.refuse(problem{at + "/name", as, "cannot take this for the name of a network device", "it has 1 to 15 characters, without blanks, colons and slashes; one %d stands for a free number"})
		}
		if !r.has("net") {
			r.refuse(problem{at, name, "cannot move a network device into a container that has no network namespace of its own", `add {"type": "network"} to linux.namespaces`})
		}
		r.b.NetDevices = append(r.b.NetDevices, settings.NetDevice{Name: name, As: as, Origin: r.at(at)})
	}
}

func interfaceName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

func (r *reader) cgroupsPath() {
	r.clean("/linux/cgroupsPath", r.linux.CgroupsPath)
	r.b.CgroupsPath = r.linux.CgroupsPath
}

func (r *reader) resources() {
	if r.linux.Resources == nil {
		return
	}
	r.checkResources("/linux/resources", r.linux.Resources)
	r.b.Resources = r.linux.Resources
	// Before 1.3 the field was required, and engines write 0 into it where
	// nobody asked for a limit.
	if n, ok := semver(r.spec.Version); ok && n[1] < 3 {
		if p := r.linux.Resources.Pids; p != nil && p.Limit != nil && *p.Limit == 0 {
			p.Limit = nil
		}
	}
}

// CheckResources holds that resources of a file of their own can be written to
// a cgroup.
func CheckResources(name string, res *specs.LinuxResources) ([]settings.Warning, error) {
	r := reader{name: name}
	r.checkResources("", res)
	return r.warnings, r.err
}

func (r *reader) checkResources(at string, res *specs.LinuxResources) {
	for i, d := range res.Devices {
		at := point(at+"/devices", i)
		switch d.Type {
		case "", "a", "b", "c":
		default:
			r.refuse(problem{at + "/type", d.Type, "unknown type of device", "known: a, b, c"})
		}
		if d.Major != nil && *d.Major < -1 {
			r.refuse(problem{at + "/major", *d.Major, "cannot take a negative number of a device", "leave it out for all devices"})
		}
		if d.Minor != nil && *d.Minor < -1 {
			r.refuse(problem{at + "/minor", *d.Minor, "cannot take a negative number of a device", "leave it out for all devices"})
		}
		if strings.Trim(d.Access, "rwm") != "" {
			r.refuse(problem{at + "/access", d.Access, "unknown access to a device", "it is made of r, w and m"})
		}
	}
	if m := res.Memory; m != nil {
		for _, f := range [...]struct {
			name string
			n    *int64
		}{{"limit", m.Limit}, {"reservation", m.Reservation}, {"swap", m.Swap}} {
			if f.n != nil && *f.n < -1 {
				r.refuse(problem{at + "/memory/" + f.name, *f.n, "cannot take a negative number of bytes", "-1 is no limit"})
			}
		}
		limit, swap := m.Limit, m.Swap
		if limit != nil && swap != nil && *swap > 0 && *limit > 0 && *swap < *limit {
			r.refuse(problem{at + "/memory/swap", *swap, fmt.Sprintf("cannot limit memory and swap together to less than memory, which is %d", *limit), ""})
		}
		//lint:ignore SA1019 bundles have it
		if k := m.Kernel; k != nil && *k > 0 {
			r.warn(problem{at + "/memory/kernel", *k, "ignored: kernels have no such limit any more", ""})
		}
		if m.Swappiness != nil && *m.Swappiness > 100 {
			r.refuse(problem{at + "/memory/swappiness", *m.Swappiness, "cannot take a swappiness above 100", ""})
		}
	}
	if c := res.CPU; c != nil {
		r.cpuList(at+"/cpu/cpus", c.Cpus, 8191, "processor")
		r.cpuList(at+"/cpu/mems", c.Mems, maxNode, "memory node")
		if c.Quota != nil && c.Burst != nil && *c.Quota > 0 && *c.Burst > uint64(*c.Quota) {
			r.refuse(problem{at + "/cpu/burst", *c.Burst, fmt.Sprintf("cannot take a burst above the quota, which is %d", *c.Quota), ""})
		}
		if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
			r.refuse(problem{at + "/cpu/idle", *c.Idle, "cannot take this: idle is 0 or 1", ""})
		}
	}
	if b := res.BlockIO; b != nil {
		for i, w := range b.WeightDevice {
			if w.Weight == nil && w.LeafWeight == nil {
				r.refuse(problem{point(at+"/blockIO/weightDevice", i), nil, "cannot do without a weight", `add "weight"`})
			}
		}
	}
	for i, h := range res.HugepageLimits {
		if !pageSize(h.Pagesize) {
			r.refuse(problem{point(at+"/hugepageLimits", i) + "/pageSize", h.Pagesize, "cannot take this for a size of pages", "write it as 64KB, 2MB or 1GB"})
		}
	}
	for _, key := range sortedKeys(res.Rdma) {
		if l := res.Rdma[key]; l.HcaHandles == nil && l.HcaObjects == nil {
			r.refuse(problem{at + "/rdma/" + escape(key), nil, "cannot do without a limit", "add hcaHandles or hcaObjects"})
		}
	}
	for _, key := range sortedKeys(res.Unified) {
		if key == "" || strings.Contains(key, "/") || key[0] == '.' || strings.IndexByte(key, '.') < 1 {
			r.refuse(problem{at + "/unified/" + escape(key), res.Unified[key], "cannot take this for a file of a cgroup", "write it as memory.high"})
		}
		r.clean(at+"/unified/"+escape(key), key+res.Unified[key])
	}
}

// pageSize holds that a text is a number without a leading 0, and KB, MB or GB.
func pageSize(text string) bool {
	for _, unit := range [...]string{"KB", "MB", "GB"} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			return n != "" && n[0] != '0' && strings.Trim(n, "0123456789") == ""
		}
	}
	return false
}

func (r *reader) intelRdt() {
	rdt := r.linux.IntelRdt
	if rdt == nil {
		return
	}
	const at = "/linux/intelRdt"
	r.clean(at+"/closID", rdt.ClosID)
	if id := rdt.ClosID; id != "" && id != "/" && (id == "." || id == ".." || strings.ContainsAny(id, "/\n")) {
		r.refuse(problem{at + "/closID", id, "cannot take this for the name of a class of service", `it is one name; "/" is the default class`})
	}
	line := func(at, text, prefix string) {
		if r.clean(at, text); strings.Contains(text, "\n") {
			r.refuse(problem{at, text, "cannot take more than one line", ""})
		}
		if text != "" && !strings.HasPrefix(text, prefix) {
			r.refuse(problem{at, text, "cannot take a schema that does not begin with " + prefix, ""})
		}
	}
	line(at+"/l3CacheSchema", rdt.L3CacheSchema, "") // only a SHOULD: L3CODE: is one, too
	line(at+"/memBwSchema", rdt.MemBwSchema, "MB:")
	for i, s := range rdt.Schemata {
		line(point(at+"/schemata", i), s, "")
	}
	r.b.IntelRdt = rdt
}

func (r *reader) seccomp() {
	c := r.linux.Seccomp
	if text := r.spec.Annotations[filterProgram]; text != "" {
		if c != nil {
			// Engines pass on what an image is annotated with: an image must not
			// undo the filter that it is to run under.
			r.refuse(problem{annotationAt(filterProgram), nil, "cannot take a filter in place of that of linux.seccomp", "leave one of them out"})
		}
		r.givenFilter(text)
		return
	}
	if c == nil {
		return
	}
	const at = "/linux/seccomp"
	socket := r.filterSocket(c.ListenerPath)
	unknown := r.annotated(failUnknown)
	fallback, ok := r.action(at+"/defaultAction", string(c.DefaultAction), c.DefaultErrnoRet)
	if !ok {
		return
	}
	var archs []seccomp.Arch
	for i, name := range c.Architectures {
		a, err := seccomp.ParseArch(string(name))
		switch {
		case err == nil:
			archs = append(archs, a)
		case !errors.Is(err, seccomp.ErrNoTable):
			r.refuse(problem{point(at+"/architectures", i), nil, err.Error(), ""})
			return
		}
	}
	var flags uint32
	for i, name := range c.Flags {
		f, err := seccomp.ParseFlag(string(name))
		if err != nil {
			r.refuseWord(point(at+"/flags", i), "flag of a filter", string(name), flagNames[:]...)
			return
		}
		flags |= f
	}
	rules := make([]seccomp.Rule, 0, len(c.Syscalls))
	notifies := false
	for i := range c.Syscalls {
		call := &c.Syscalls[i]
		action, ok := r.action(point(at+"/syscalls", i)+"/action", string(call.Action), call.ErrnoRet)
		if !ok {
			return
		}
		if len(call.Names) == 0 {
			r.refuse(problem{point(at+"/syscalls", i) + "/names", nil, "cannot do without the names of system calls", ""})
			return
		}
		for j, name := range call.Names {
			if unknown && !seccomp.Known(name) {
				r.refuse(problem{point(at+"/syscalls", i, "/names", j), name, "cannot filter a system call of this name: nobody knows it", ""})
			}
		}
		notifies = notifies || action == seccomp.Notify
		var conds []seccomp.Cond
		for j, a := range call.Args {
			cond, err := seccomp.ParseCond(a.Index, string(a.Op), a.Value, a.ValueTwo)
			if err != nil {
				r.refuse(problem{point(at+"/syscalls", i, "/args", j), nil, err.Error(), ""})
				return
			}
			conds = append(conds, cond)
		}
		rules = append(rules, seccomp.OCIRules(call.Names, action, conds)...)
	}
	native, ok := seccomp.Native()
	if !ok {
		r.refuse(problem{at, nil, "cannot filter system calls on this architecture", ""})
		return
	}
	f, err := seccomp.OCI(native, archs, fallback, rules, flags)
	if err != nil {
		r.refuse(problem{at, nil, err.Error(), ""})
		return
	}
	switch {
	case notifies && socket == "":
		r.refuse(problem{at + "/listenerPath", nil, "cannot use SCMP_ACT_NOTIFY without a listener", "add listenerPath"})
	case c.ListenerMetadata != "" && socket == "":
		r.refuse(problem{at + "/listenerMetadata", c.ListenerMetadata, "cannot take metadata for a listener that is not there", "add listenerPath"})
	}
	r.b.Filter = &settings.Filter{Filter: f, Origin: r.at(at)}
	if notifies {
		r.clean(at+"/listenerPath", socket)
		r.b.Filter.Listener, r.b.Filter.Metadata = path.Clean(socket), c.ListenerMetadata
	}
}

// action reads what a filter does with a call.
func (r *reader) action(at, name string, number *uint) (seccomp.Action, bool) {
	a, err := seccomp.ParseAction(name, number)
	switch {
	case err == nil:
		return a, true
	case slices.Contains(actionNames[:], name):
		r.refuse(problem{at, name, err.Error(), ""})
	default:
		r.refuseWord(at, "action", name, actionNames[:]...)
	}
	return 0, false
}

// The words of the runtime specification about filters.
var (
	actionNames = [...]string{
		"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_KILL_THREAD",
		"SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP",
	}
	operatorNames = [...]string{
		"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE",
	}
	flagNames = [...]string{
		"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
	}
)
