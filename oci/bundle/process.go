package bundle

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/settings"
)

func (r *reader) containerProcess() { r.process("/process") }

// process reads the process at a pointer, which is empty in a file that has
// nothing else.
func (r *reader) process(at string) {
	p := r.spec.Process
	if p == nil {
		r.refuse(problem{at, nil, "cannot do without a process", `add "process" with "args", "cwd" and "user"`})
		return
	}
	e := &r.s.Exec
	out := &settings.Process{}
	e.Process = out

	if len(p.Args) == 0 {
		r.refuse(problem{at + "/args", nil, "cannot run nothing: args is empty", `add "args": ["/bin/sh"]`})
	} else if p.Args[0] == "" {
		r.refuse(problem{at + "/args/0", p.Args[0], "cannot run a program without a name: executable file not found in $PATH", ""})
	}
	r.cleanAll(at+"/args", p.Args)
	e.Words = p.Args
	r.cleanAll(at+"/env", p.Env)
	for i, v := range p.Env {
		if strings.IndexByte(v, '=') < 1 {
			r.warn(problem{point(at+"/env", i), v, "this is no NAME=VALUE; it is passed on as it is", ""})
		}
	}
	e.Env = p.Env
	e.Dir = r.absolute(at+"/cwd", p.Cwd)
	e.NoNewPrivileges = p.NoNewPrivileges

	out.Terminal = p.Terminal
	r.consoleSize(at+"/consoleSize", p)
	r.ids(at+"/user", p.User, out)
	if p.CommandLine != "" {
		r.warn(problem{at + "/commandLine", nil, "ignored: this is for Windows", ""})
	}
	r.capabilities(at+"/capabilities", p.Capabilities, out)
	r.rlimits(at+"/rlimits", p.Rlimits)
	if s := p.OOMScoreAdj; s != nil {
		if *s < -1000 || *s > 1000 {
			r.refuse(problem{at + "/oomScoreAdj", *s, "cannot take a score that is not from -1000 to 1000", ""})
		}
		e.OOMScore = settings.OOMScore{Told: true, Adjust: *s}
	}
	r.scheduler(at+"/scheduler", p.Scheduler, out)
	r.ioPriority(at+"/ioPriority", p.IOPriority, out)
	if a := p.ExecCPUAffinity; a != nil {
		out.InitialCPUs = r.cpus(at+"/execCPUAffinity/initial", a.Initial)
		out.FinalCPUs = r.cpus(at+"/execCPUAffinity/final", a.Final)
	}
	out.AppArmor = r.label(at, "/apparmorProfile", "/process/apparmorProfile", p.ApparmorProfile)
	out.SELinux = r.label(at, "/selinuxLabel", "/process/selinuxLabel", p.SelinuxLabel)
}

// label holds that a text of a security module is told to somebody: a container
// must not run without what confines it.
func (r *reader) label(at, name, pointer, text string) string {
	if text == "" {
		return ""
	}
	if f := row(r.rows, pointer); f.Disposition == Refused {
		r.refuse(problem{at + name, text, "cannot honour this: " + f.Why, "leave it out"})
	}
	r.clean(at+name, text)
	return text
}

func (r *reader) consoleSize(at string, p *specs.Process) {
	c := p.ConsoleSize
	if c == nil {
		return
	}
	const most = 1<<16 - 1
	switch {
	case !p.Terminal:
		// The specification wants it ignored; docker always writes one.
		return
	case c.Height > most:
		r.refuse(problem{at + "/height", c.Height, "cannot make a terminal of more than 65535 rows", ""})
	case c.Width > most:
		r.refuse(problem{at + "/width", c.Width, "cannot make a terminal of more than 65535 columns", ""})
	}
	r.s.Exec.Process.Rows, r.s.Exec.Process.Columns = uint16(c.Height), uint16(c.Width)
}

func (r *reader) ids(at string, u specs.User, out *settings.Process) {
	out.IDs = settings.IDs{UID: u.UID, GID: u.GID, Groups: u.AdditionalGids, KeepGroups: r.annotated(keepGroups), Umask: -1}
	const nobody = 1<<32 - 1
	if u.UID == nobody {
		r.refuse(problem{at + "/uid", u.UID, "cannot run as this user: the number means no user", ""})
	}
	if u.GID == nobody {
		r.refuse(problem{at + "/gid", u.GID, "cannot run as this group: the number means no group", ""})
	}
	for i, g := range u.AdditionalGids {
		if g == nobody {
			r.refuse(problem{point(at+"/additionalGids", i), g, "cannot run as this group: the number means no group", ""})
		}
	}
	if u.Umask != nil {
		if *u.Umask > 0o777 {
			r.refuse(problem{at + "/umask", *u.Umask, "cannot take a umask above 511, which is 0777", "JSON has no octal numbers: 18 is 022"})
		}
		out.IDs.Umask = int(*u.Umask)
	}
	if u.Username != "" {
		r.warn(problem{at + "/username", u.Username, "ignored: this is for Windows", "give the numbers of user and group as uid and gid"})
	}
	if r.joins || !r.makes("user") {
		return
	}
	if !mapped(r.linux.UIDMappings, u.UID) {
		r.refuse(problem{at + "/uid", u.UID, "cannot run as a user that is not mapped", "add the user to linux.uidMappings"})
	}
	if !mapped(r.linux.GIDMappings, u.GID) {
		r.refuse(problem{at + "/gid", u.GID, "cannot run as a group that is not mapped", "add the group to linux.gidMappings"})
	}
	for i, g := range u.AdditionalGids {
		if !mapped(r.linux.GIDMappings, g) {
			r.refuse(problem{point(at+"/additionalGids", i), g, "cannot run as a group that is not mapped", "add the group to linux.gidMappings"})
		}
	}
}

func mapped(m []specs.LinuxIDMapping, id uint32) bool {
	for _, e := range m {
		if id >= e.ContainerID && id-e.ContainerID < e.Size {
			return true
		}
	}
	return false
}

func (r *reader) capabilities(at string, c *specs.LinuxCapabilities, out *settings.Process) {
	if c == nil {
		return
	}
	var told []string // so that a name is warned of once
	read := func(set string, names []string) (mask uint64) {
		for i, name := range names {
			n, err := -1, error(nil)
			if len(name) > 4 && strings.EqualFold(name[:4], "CAP_") {
				n, err = settings.ParseCapability(name)
			}
			switch {
			case err == nil && n >= 0:
				mask |= 1 << n
			case !contains(told, name):
				told = append(told, name)
				hint := ""
				if err != nil {
					if _, near, ok := strings.Cut(err.Error(), ", "); ok {
						hint = near
					}
				} else if _, err := settings.ParseCapability("CAP_" + name); err == nil {
					hint = "did you mean CAP_" + strings.ToUpper(name) + "?"
				}
				p := problem{point(at, set, i), name, "ignored: unknown capability", hint}
				// Such a bundle was to be refused; since then engines may name
				// what this kernel, or this runtime, is too old for.
				if until(r.spec.Version, 1, 0, 2) {
					p.what = "unknown capability"
					r.refuse(p)
				} else {
					r.warn(p)
				}
			}
		}
		return mask
	}
	s := settings.CapSets{
		Bounding:    read("/bounding", c.Bounding),
		Effective:   read("/effective", c.Effective),
		Permitted:   read("/permitted", c.Permitted),
		Inheritable: read("/inheritable", c.Inheritable),
		Ambient:     read("/ambient", c.Ambient),
	}
	drop := func(set string, mask *uint64, room uint64, why string) {
		if over := *mask &^ room; over != 0 {
			r.warn(problem{at + set, settings.CapabilityNames(over), "ignored: capabilities that are not in the " + why, ""})
			*mask &= room
		}
	}
	drop("/effective", &s.Effective, s.Permitted, "permitted set")
	drop("/ambient", &s.Ambient, s.Permitted&s.Inheritable, "permitted and in the inheritable set")
	out.Caps = &s
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func (r *reader) rlimits(at string, list []specs.POSIXRlimit) {
	for i, l := range list {
		at := point(at, i)
		name, ok := settings.RlimitName(l.Type)
		if !ok {
			r.refuseWord(at+"/type", "resource limit", l.Type, settings.RlimitNames()...)
			return
		}
		for _, before := range r.s.Exec.Rlimits {
			if before.Name == name {
				r.refuse(problem{at + "/type", l.Type, "cannot set the same limit twice", "leave one of them out"})
			}
		}
		if l.Soft > l.Hard {
			r.refuse(problem{at + "/soft", l.Soft, fmt.Sprintf("cannot set a soft limit above the hard limit, which is %d", l.Hard), ""})
		}
		r.s.Exec.Rlimits = append(r.s.Exec.Rlimits, settings.Rlimit{Name: name, Soft: l.Soft, Hard: l.Hard})
	}
}

// word is a name that stands for a number.
type word struct {
	name string
	n    uint64
}

// lookUp gives the number of a word.
func (r *reader) lookUp(at, kind, name string, words []word) (uint64, bool) {
	for _, w := range words {
		if w.name == name {
			return w.n, true
		}
	}
	r.refuseWord(at, kind, name, namesOf(words)...)
	return 0, false
}

func namesOf(words []word) []string {
	names := make([]string, len(words))
	for i, w := range words {
		names[i] = w.name
	}
	return names
}

// The scheduling policies and flags of sched_setattr(2).
var (
	policies = [...]word{
		{"SCHED_OTHER", unix.SCHED_NORMAL}, {"SCHED_FIFO", unix.SCHED_FIFO}, {"SCHED_RR", unix.SCHED_RR},
		{"SCHED_BATCH", unix.SCHED_BATCH}, {"SCHED_IDLE", unix.SCHED_IDLE}, {"SCHED_DEADLINE", unix.SCHED_DEADLINE},
	}
	schedulerFlags = [...]word{
		{"SCHED_FLAG_RESET_ON_FORK", unix.SCHED_FLAG_RESET_ON_FORK}, {"SCHED_FLAG_RECLAIM", unix.SCHED_FLAG_RECLAIM},
		{"SCHED_FLAG_DL_OVERRUN", unix.SCHED_FLAG_DL_OVERRUN}, {"SCHED_FLAG_KEEP_POLICY", unix.SCHED_FLAG_KEEP_POLICY},
		{"SCHED_FLAG_KEEP_PARAMS", unix.SCHED_FLAG_KEEP_PARAMS}, {"SCHED_FLAG_UTIL_CLAMP_MIN", unix.SCHED_FLAG_UTIL_CLAMP_MIN},
		{"SCHED_FLAG_UTIL_CLAMP_MAX", unix.SCHED_FLAG_UTIL_CLAMP_MAX},
	}
)

func (r *reader) scheduler(at string, s *specs.Scheduler, out *settings.Process) {
	if s == nil {
		return
	}
	if s.Policy == "SCHED_ISO" {
		r.refuse(problem{at + "/policy", string(s.Policy), "cannot use a scheduling policy that Linux does not have", "use SCHED_RR or SCHED_OTHER"})
		return
	}
	policy, ok := r.lookUp(at+"/policy", "scheduling policy", string(s.Policy), policies[:])
	if !ok {
		return
	}
	a := &settings.Scheduler{Policy: uint32(policy), Nice: s.Nice, Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
	for i, f := range s.Flags {
		bit, _ := r.lookUp(point(at+"/flags", i), "scheduling flag", string(f), schedulerFlags[:])
		a.Flags |= bit
	}
	realtime := policy == unix.SCHED_FIFO || policy == unix.SCHED_RR
	fair := policy == unix.SCHED_NORMAL || policy == unix.SCHED_BATCH
	switch {
	case s.Nice < -20 || s.Nice > 19:
		r.refuse(problem{at + "/nice", s.Nice, "cannot take a nice value that is not from -20 to 19", ""})
	case s.Nice != 0 && !fair:
		r.refuse(problem{at + "/nice", s.Nice, "cannot use a nice value with " + string(s.Policy), "it is for SCHED_OTHER and SCHED_BATCH"})
	case realtime && (s.Priority < 1 || s.Priority > 99):
		r.refuse(problem{at + "/priority", s.Priority, "cannot use " + string(s.Policy) + " with a priority that is not from 1 to 99", ""})
	case s.Priority != 0 && !realtime:
		r.refuse(problem{at + "/priority", s.Priority, "cannot use a priority with " + string(s.Policy), "it is for SCHED_FIFO and SCHED_RR"})
	case policy != unix.SCHED_DEADLINE && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		r.refuse(problem{at, nil, "cannot use runtime, deadline and period with " + string(s.Policy), "they are for SCHED_DEADLINE"})
	case policy == unix.SCHED_DEADLINE && (s.Runtime == 0 || s.Runtime > s.Deadline || s.Period != 0 && s.Deadline > s.Period):
		r.refuse(problem{at, nil, "cannot use SCHED_DEADLINE unless runtime, deadline and period are each at least the one before, and none is 0", ""})
	}
	out.Scheduler = a
}

var ioClasses = [...]word{{"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3}}

func (r *reader) ioPriority(at string, p *specs.LinuxIOPriority, out *settings.Process) {
	if p == nil {
		return
	}
	class, _ := r.lookUp(at+"/class", "I/O priority class", string(p.Class), ioClasses[:])
	if p.Priority < 0 || p.Priority > 7 {
		r.refuse(problem{at + "/priority", p.Priority, "cannot take an I/O priority that is not from 0 to 7", ""})
	}
	out.IOPriority = uint32(class)<<13 | uint32(p.Priority)&7
}

func (r *reader) cpus(at, text string) settings.CPUs {
	if text == "" {
		return nil
	}
	c, err := settings.ParseCPUs(text)
	if err != nil {
		r.refuse(problem{at, text, err.Error(), ""})
	}
	return c
}

func (r *reader) personality() {
	p := r.linux.Personality
	if p == nil {
		return
	}
	const at = "/linux/personality"
	domain, ok := r.lookUp(at+"/domain", "personality", string(p.Domain), domains[:])
	for i, f := range p.Flags {
		r.refuse(problem{point(at+"/flags", i), string(f), "cannot set a flag of a personality: the runtime specification has none", "leave the flags out"})
	}
	if ok {
		r.s.Exec.Process.Persona, r.s.Exec.Process.HasPersona = uint32(domain), true
	}
}

var domains = [...]word{{"LINUX", 0}, {"LINUX32", 8}}

// The modes and flags of set_mempolicy(2).
var (
	policyModes = [...]word{
		{"MPOL_DEFAULT", unix.MPOL_DEFAULT}, {"MPOL_BIND", unix.MPOL_BIND}, {"MPOL_INTERLEAVE", unix.MPOL_INTERLEAVE},
		{"MPOL_WEIGHTED_INTERLEAVE", unix.MPOL_WEIGHTED_INTERLEAVE}, {"MPOL_PREFERRED", unix.MPOL_PREFERRED},
		{"MPOL_PREFERRED_MANY", unix.MPOL_PREFERRED_MANY}, {"MPOL_LOCAL", unix.MPOL_LOCAL},
	}
	policyFlags = [...]word{
		{"MPOL_F_NUMA_BALANCING", unix.MPOL_F_NUMA_BALANCING}, {"MPOL_F_RELATIVE_NODES", unix.MPOL_F_RELATIVE_NODES},
		{"MPOL_F_STATIC_NODES", unix.MPOL_F_STATIC_NODES},
	}
)

func (r *reader) memoryPolicy() {
	p := r.linux.MemoryPolicy
	if p == nil {
		return
	}
	const at = "/linux/memoryPolicy"
	mode, ok := r.lookUp(at+"/mode", "memory policy", string(p.Mode), policyModes[:])
	if !ok {
		return
	}
	var flags uint64
	for i, f := range p.Flags {
		bit, _ := r.lookUp(point(at+"/flags", i), "flag of a memory policy", string(f), policyFlags[:])
		flags |= bit
	}
	nodes := r.cpuList(at+"/nodes", p.Nodes, maxNode, "memory node")
	const both = unix.MPOL_F_RELATIVE_NODES | unix.MPOL_F_STATIC_NODES
	switch {
	case (mode == unix.MPOL_DEFAULT || mode == unix.MPOL_LOCAL) && len(nodes) > 0:
		r.refuse(problem{at + "/nodes", p.Nodes, "cannot use " + string(p.Mode) + " with nodes", "leave the nodes out"})
	case (mode == unix.MPOL_DEFAULT || mode == unix.MPOL_LOCAL) && flags != 0:
		r.refuse(problem{at + "/flags", nil, "cannot use " + string(p.Mode) + " with flags", "leave the flags out"})
	case mode != unix.MPOL_DEFAULT && mode != unix.MPOL_LOCAL && mode != unix.MPOL_PREFERRED && len(nodes) == 0:
		r.refuse(problem{at + "/nodes", nil, "cannot use " + string(p.Mode) + " without nodes", `add "nodes": "0"`})
	case mode == unix.MPOL_PREFERRED && len(nodes) == 0 && flags&both != 0:
		r.refuse(problem{at + "/flags", nil, "cannot use these flags without nodes", ""})
	case flags&both == both:
		r.refuse(problem{at + "/flags", nil, "cannot use MPOL_F_RELATIVE_NODES and MPOL_F_STATIC_NODES at once", ""})
	case flags&unix.MPOL_F_NUMA_BALANCING != 0 && mode != unix.MPOL_BIND && mode != unix.MPOL_PREFERRED_MANY:
		r.refuse(problem{at + "/flags", nil, "cannot use MPOL_F_NUMA_BALANCING with " + string(p.Mode), "it is for MPOL_BIND"})
	}
	m := &settings.MemoryPolicy{Mode: uint32(mode | flags)}
	for _, n := range nodes {
		for len(m.Nodes) <= n/64 {
			m.Nodes = append(m.Nodes, 0)
		}
		m.Nodes[n/64] |= 1 << (n % 64)
	}
	r.s.Exec.Process.Memory = m
}

// maxNode is more than any kernel counts.
const maxNode = 1023

// cpuList reads 0,2-4, strictly.
func (r *reader) cpuList(at, text string, most int, what string) []int {
	if text == "" {
		return nil
	}
	if strings.ContainsAny(text, " \t\n") {
		r.refuse(problem{at, text, "cannot read a list with blanks in it", "write it as 0,2-4"})
		return nil
	}
	list, err := settings.ParseCPUs(text)
	if err != nil || len(list) == 0 {
		r.refuse(problem{at, text, "cannot read the list of " + what + "s", "write it as 0,2-4"})
		return nil
	}
	if last := list[len(list)-1]; last > most {
		r.refuse(problem{at, text, fmt.Sprintf("there is no %s %d: the last is %d", what, last, most), ""})
		return nil
	}
	return list
}

// parseID reads the number of a user or group.
func parseID(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || text[0] == '+' {
		return 0, fmt.Errorf("%q is not a number from 0 to 4294967295", text)
	}
	return uint32(n), nil
}

// Inherit gives a process that `exec --process` is told what it leaves out and
// the container's own has: its rights, and how the kernel is to treat it. It
// says itself who it is, where, with which variables and limits.
func Inherit(p, container *specs.Process) {
	if container == nil {
		return
	}
	inherit(&p.Capabilities, container.Capabilities)
	inherit(&p.User.Umask, container.User.Umask)
	inherit(&p.OOMScoreAdj, container.OOMScoreAdj)
	inherit(&p.Scheduler, container.Scheduler)
	inherit(&p.IOPriority, container.IOPriority)
	inherit(&p.ExecCPUAffinity, container.ExecCPUAffinity)
	if p.ApparmorProfile == "" {
		p.ApparmorProfile = container.ApparmorProfile
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = container.SelinuxLabel
	}
}

func inherit[T any](to **T, from *T) {
	if *to == nil {
		*to = from
	}
}

// Override is what `exec` says on its command line of a process that is
// otherwise the container's own.
type Override struct {
	Args []string
	// Cwd is empty if not told.
	Cwd      string
	Env      []string // come after the container's
	Terminal bool
	// User is UID or UID:GID; empty if not told.
	User       string
	Groups     []uint32
	NoNewPrivs *bool    // nil if not told
	Caps       []string // come on top
	AppArmor   string
	SELinux    string
}

// Overridden gives the container's process with what is told otherwise. The
// error is about User.
func Overridden(container *specs.Process, o Override) (*specs.Process, error) {
	var p specs.Process
	if container != nil {
		p = *container
	}
	p.Args = o.Args
	p.Terminal = o.Terminal
	p.ConsoleSize = nil
	if o.Cwd != "" {
		p.Cwd = o.Cwd
	}
	if p.Cwd == "" {
		p.Cwd = "/"
	}
	p.Cwd = path.Clean(p.Cwd)
	p.Env = append(p.Env[:len(p.Env):len(p.Env)], o.Env...)
	if o.AppArmor != "" {
		p.ApparmorProfile = o.AppArmor
	}
	if o.SELinux != "" {
		p.SelinuxLabel = o.SELinux
	}
	if o.NoNewPrivs != nil {
		p.NoNewPrivileges = *o.NoNewPrivs
	}
	if len(o.Caps) > 0 {
		var c specs.LinuxCapabilities
		if p.Capabilities != nil {
			c = *p.Capabilities
		}
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted} {
			*set = append((*set)[:len(*set):len(*set)], o.Caps...)
		}
		p.Capabilities = &c
	}
	if o.User != "" {
		uid, gid, two := strings.Cut(o.User, ":")
		n, err := parseID(uid)
		if err != nil {
			return nil, fmt.Errorf("read user %q: %w", o.User, err)
		}
		p.User.UID = n
		if two {
			if p.User.GID, err = parseID(gid); err != nil {
				return nil, fmt.Errorf("read user %q: %w", o.User, err)
			}
		}
	}
	p.User.AdditionalGids = append(p.User.AdditionalGids[:len(p.User.AdditionalGids):len(p.User.AdditionalGids)], o.Groups...)
	return &p, nil
}
