package plan

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/origin"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// This file compiles what an OCI bundle says. Nothing is added to it, mounts
// are made in its order, and it has the last word on the process: compile.go
// has the other semantics, and both meet in the same steps and ops.

// namespaceFlags are the kinds of namespaces as bundles name them, in the
// order in which a process enters them.
var namespaceFlags = []struct {
	kind, word string
	flag       uint64
	late       bool
}{
	{"user", "user", unix.CLONE_NEWUSER, false},
	{"mnt", "mount", unix.CLONE_NEWNS, false},
	{"pid", "pid", unix.CLONE_NEWPID, false},
	{"ipc", "ipc", unix.CLONE_NEWIPC, false},
	{"uts", "uts", unix.CLONE_NEWUTS, false},
	{"net", "network", unix.CLONE_NEWNET, true},
	{"time", "time", unix.CLONE_NEWTIME, true},
	{"cgroup", "cgroup", unix.CLONE_NEWCGROUP, true},
}

func bundleCompiler(in Input) *compiler {
	c := &compiler{Input: in, base: origin.Origin{Source: origin.Profile, Path: in.Profile.Name}}
	c.Steps, c.Program = make([]Step, 0, 64), make([]Op, 0, 48)
	c.Machine = in.Settings.Machine
	c.Directory = in.Settings.Image.Directory
	c.Hostname = in.Settings.Exec.Hostname
	c.KeepUnit, c.Quiet = in.Settings.Life.KeepUnit, in.Settings.Life.Quiet
	return c
}

func compileBundle(in Input) (*Plan, error) {
	c := bundleCompiler(in)
	b := in.Settings.Bundle
	c.Domainname, c.TimeOffsets, c.NetDevices, c.Sysctl, c.Hooks = b.Domainname, b.TimeOffsets, b.NetDevices, b.Sysctl, b.Hooks
	c.Plan.Shared = b.Propagation&unix.MS_SHARED != 0
	c.bundleUsers()
	if err := c.bundleNamespaces(); err != nil {
		return nil, err
	}
	c.step(Step{World: settings.Inner, Do: Tree, Source: mount.Path{Path: c.Directory}, Recursive: true, Origin: c.from("root")})
	readOnly := Step{World: settings.Inner, Do: Attr, Target: "/", Attr: ro, Origin: c.bundle("/root/readonly")}
	switch img := c.Settings.Image; {
	case img.ReadOnly && c.unchanged():
		c.step(readOnly)
	case img.OverlayAll && !img.ReadOnly:
		c.step(Step{World: settings.Inner, Do: Layer, Target: "/", AllAttr: ro, Options: slices.Clone(fill[:]), Like: true, Origin: c.from("overlay-all")})
	}
	if err := c.mandatory(); err != nil {
		return nil, err
	}
	if err := c.bundleMounts(); err != nil {
		return nil, err
	}
	c.devices()
	for _, s := range c.late {
		c.step(s)
	}
	for _, name := range b.ReadOnly {
		c.step(Step{World: settings.Inner, Do: Guard, Target: name, Attr: ro, Lenient: true, Origin: c.bundle("/linux/readonlyPaths")})
	}
	for _, name := range b.Masked {
		c.step(Step{World: settings.Inner, Do: Hide, Target: name, Attr: ro, Lenient: true, Origin: c.bundle("/linux/maskedPaths")})
	}
	if c.Settings.Image.ReadOnly && !c.unchanged() {
		if dir := path.Clean("/" + c.Settings.Exec.Dir); dir != "/" {
			// If the working directory is missing, this is the time to make it.
			c.step(Step{World: settings.Inner, Do: Mkdir, Target: dir, Mode: 0o755, Origin: c.bundle("/process/cwd")})
		}
		c.step(readOnly)
	}
	c.stubs()
	c.bundlePayload()
	if f := b.Filter; f != nil {
		c.Filters = []Filter{{f.Filter, f.Origin}}
		c.Listener, c.Metadata = f.Listener, f.Metadata
	}
	c.bundleProgram(false)
	if c.failed != nil {
		return nil, c.failed
	}
	c.Effects = []Effect{
		{"lock and journal", "/run/launch/" + c.Machine, "removed", c.base},
		{"cgroups", cmp.Or(b.CgroupsPath, c.Machine), "their processes are killed, they are removed", c.bundle("/linux/cgroupsPath")},
	}
	c.CgroupsPath, c.Resources = b.CgroupsPath, b.Resources
	for i := range c.Steps {
		c.Steps[i].Flags = AttrWords(c.Steps[i].Attr)
	}
	p := c.Plan
	return &p, nil
}

// CompileJoin makes the plan of a process that joins a container: Settings are
// the container's, but for Exec.
func CompileJoin(in Input) (*Plan, error) {
	c := bundleCompiler(in)
	c.bundleUsers()
	// Which namespaces the container really has, its first process tells.
	c.Forks = c.has("time")
	c.bundlePayload()
	if f := in.Settings.Bundle.Filter; f != nil {
		c.Filters = []Filter{{f.Filter, f.Origin}}
		c.Listener, c.Metadata = f.Listener, f.Metadata
	}
	if in.Exposed {
		// With our memory, who traces it would have us.
		c.Last = !c.Forks && c.bornLast()
		c.Forks = true
	}
	c.bundleProgram(true)
	if c.failed != nil {
		return nil, c.failed
	}
	p := c.Plan
	return &p, nil
}

// bundle is the place of a value in config.json.
func (c *compiler) bundle(pointer string) origin.Origin {
	return origin.Origin{Source: origin.Bundle, Path: "config.json", Key: pointer}
}

func (c *compiler) bundleUsers() {
	b := c.Settings.Bundle
	u := &c.Plan.Users
	u.Mode, u.Ownership = userns.No, userns.Off
	for _, n := range b.Namespaces {
		if n.Kind != "user" {
			continue
		}
		u.Origin = n.Origin
		u.Mode, u.UIDs, u.GIDs = userns.Exact, b.UIDs, b.GIDs
		if n.Path != "" {
			u.Mode = userns.Join
		}
	}
	c.Plan.HostCaps = c.Facts.Host.Caps
	if u.Private() || !c.Facts.Host.Known {
		c.Plan.HostCaps = 1<<(unix.CAP_LAST_CAP+1) - 1
	}
}

func (c *compiler) bundleNamespaces() error {
	b := c.Settings.Bundle
	joined := c.Plan.Users.Mode == userns.Join
	for _, row := range namespaceFlags {
		i := slices.IndexFunc(b.Namespaces, func(n settings.Namespace) bool { return n.Kind == row.kind })
		if i < 0 {
			c.Bare = c.Bare || row.kind == "mnt"
			continue
		}
		n := b.Namespaces[i]
		// In a user namespace that is there already, the first process has to
		// be before it makes others, or they would be the host's.
		// The mount namespace is the thread's until the tree is finished.
		late := row.late || joined && row.kind != "user" && row.kind != "pid" && row.kind != "mnt"
		switch {
		case n.Path == "":
		case row.flag == unix.CLONE_NEWTIME:
			c.Forks = true
		case row.flag != unix.CLONE_NEWUSER && row.flag != unix.CLONE_NEWNS:
			// They are the caller's, and nobody in new users may join them.
			c.Reborn = c.Plan.Users.Mode == userns.Exact
		}
		c.Namespaces = append(c.Namespaces, Namespace{Name: row.word, Flag: row.flag, Late: late, Path: n.Path, Origin: n.Origin})
	}
	return nil
}

// has reports whether the container has a namespace of that kind of its own.
func (c *compiler) has(kind string) bool {
	return slices.ContainsFunc(c.Settings.Bundle.Namespaces, func(n settings.Namespace) bool { return n.Kind == kind })
}

// insideProc are the files of procfs that a bundle may mount something on:
// what tools that imitate the numbers of a smaller machine need.
var insideProc = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/loadavg", "/proc/slabinfo", "/proc/net/dev", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

func (c *compiler) bundleMounts() error {
	var late []Step
	for _, m := range c.Settings.Mounts {
		s, err := c.bundleMount(m)
		if err != nil {
			return err
		}
		if s.Do == Mount && s.Attr&ro != 0 && (s.Type == "tmpfs" || s.Target == "/dev") {
			// Something may have to be made in it.
			s.Attr &^= ro
			late = append(late, Step{World: settings.Inner, Do: Attr, Target: s.Target, Attr: ro, Origin: m.Origin})
		}
		c.step(s)
	}
	if p := c.Settings.Exec.Process; p != nil && p.Terminal {
		c.step(Step{World: settings.Inner, Do: Terminal, Target: "/dev/console", Mode: 0o620, Origin: c.bundle("/process/terminal")})
	}
	c.late = late
	return nil
}

func (c *compiler) bundleMount(m mount.Mount) (Step, error) {
	s := Step{World: settings.Inner, Target: m.Target, Mode: 0o755, Attr: m.Set, Clear: m.Clear, Rest: m.Rest, AllAttr: m.AllSet, AllClear: m.AllClear,
		Propagation: m.Propagation, NoFollow: m.NoFollow, SourceLink: m.SourceLink, Origin: m.Origin}
	refuse := func(what, hint string) (Step, error) {
		return s, &settings.Error{What: what, Origin: m.Origin, Value: m.Target, Hint: hint}
	}
	if m.Target == "/" {
		return refuse("cannot mount on /: the container's root is what the bundle's root says", "set root.path")
	}
	if mount.Below(m.Target, "/proc") && (m.Target != "/proc" || m.Type != "proc") {
		inside := slices.Contains(insideProc, m.Target)
		host := m.Target == "/proc" && m.Kind == mount.Bind
		if !inside && !host {
			return refuse(fmt.Sprintf("cannot mount on %s: it is inside /proc", m.Target), "a container's /proc is its procfs")
		}
	}
	if m.Kind == mount.Bind {
		s.Do, s.Source, s.Recursive, s.Optional = Bind, m.Source, !m.NoRecurse, m.Optional
		if !path.IsAbs(s.Source.Path) {
			s.Source.Path = path.Join(c.Settings.Bundle.Path, s.Source.Path)
		}
		if m.ReadOnly {
			s.AllAttr |= ro
		}
		if m.IDMap != mount.NoIDMap {
			return refuse("cannot map the owners of a mount by an option: the machine is a bundle", "give the mount uidMappings and gidMappings in config.json")
		}
		s.UIDs, s.GIDs, s.MapAll = m.UIDs, m.GIDs, m.MapAll
		if m.MapContainer {
			s.UIDs, s.GIDs = c.Plan.Users.UIDs, c.Plan.Users.GIDs
			if s.UIDs == nil {
				return refuse("cannot map the owners of a mount: the container has no user namespace with a map", "give the mount uidMappings and gidMappings")
			}
		}
		c.layered(&s)
		return s, nil
	}
	s.Do, s.Type, s.Source, s.CopyUp = Mount, m.Type, m.Source, m.CopyUp
	if m.Kind == mount.Tmpfs {
		attr, data, err := mount.SplitOptions(m.Options)
		if err != nil {
			return refuse(err.Error(), "")
		}
		m.Type, m.Options = "tmpfs", data
		s.Type, s.Attr = m.Type, attr|nd
	}
	options, err := c.options(&m, m.Type, m.Options)
	if err != nil {
		return s, err
	}
	switch m.Type {
	case "cgroup", "cgroup2":
		s.Do, s.Type = Cgroups, "cgroup"
		if c.has("cgroup") {
			s.Type = "own"
		}
		return s, nil
	case "mqueue":
		s.Source = mount.Path{Path: "mqueue"}
		// The kernel gives the queues of the namespace to the host's root. Those
		// of somebody else's namespace stay whose they are.
		s.Owned = c.Plan.Users.Private() && slices.ContainsFunc(c.Settings.Bundle.Namespaces,
			func(n settings.Namespace) bool { return n.Kind == "ipc" && n.Path == "" })
	}
	for _, o := range options {
		if c.Plan.Users.Private() && (o.Key == "uid" || o.Key == "gid") {
			m := c.Plan.Users.UIDs
			if o.Key == "gid" {
				m = c.Plan.Users.GIDs
			}
			var id uint32
			if _, err := fmt.Sscan(o.Value, &id); err == nil {
				host, ok := m.Host(id)
				if !ok {
					return refuse(fmt.Sprintf("cannot mount on %s: %s=%s has no place in the container's users", s.Target, o.Key, o.Value), "extend the mappings")
				}
				o.Value = fmt.Sprint(host)
			}
		}
		s.Options = append(s.Options, o)
	}
	if label := c.Settings.Bundle.MountLabel; label != "" && c.Facts.Host.SELinux && m.Type != "proc" && m.Type != "sysfs" {
		s.Options = append(s.Options, Option{cmp.Or(c.Settings.Bundle.MountContext, "context"), label})
	}
	private(&s)
	if s.Attr&ro != 0 && s.Type != "tmpfs" && s.Target != "/dev" {
		// As mount(2) does it: the file system, not only its mount.
		s.Options = append(s.Options, Option{Key: "ro"})
	}
	if s.Type == "tmpfs" {
		given := func(key string) bool {
			return slices.ContainsFunc(s.Options, func(o Option) bool { return o.Key == key })
		}
		s.Like = !given("mode")
		if root, ok := c.Plan.Users.UIDs.Host(0); ok && !given("uid") {
			s.Options = append(s.Options, Option{"uid", fmt.Sprint(root)})
		}
		if root, ok := c.Plan.Users.GIDs.Host(0); ok && !given("gid") {
			s.Options = append(s.Options, Option{"gid", fmt.Sprint(root)})
		}
	}
	c.keepTmp(&s)
	return s, nil
}

// devices plans the device nodes and links of /dev, unless the bundle brings
// the host's /dev.
func (c *compiler) devices() {
	for _, m := range c.Settings.Mounts {
		if m.Kind == mount.Bind && m.Target == "/dev" {
			return
		}
	}
	done := map[string]bool{}
	node := func(target string, kind, mode uint32, dev uint64, uid, gid uint32, o origin.Origin) {
		if done[target] {
			return
		}
		done[target] = true
		c.step(Step{World: settings.Inner, Do: Node, Target: target, Mode: 0o755, Origin: o,
			Content: []Entry{{Path: path.Base(target), Mode: kind | mode, Dev: dev, UID: uid, GID: gid}}})
	}
	for i, d := range c.Settings.Bundle.Devices {
		mode, uid, gid := uint32(0o666), uint32(0), uint32(0)
		if d.FileMode != nil {
			mode = uint32(*d.FileMode) & 0o7777
		}
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		kind := uint32(unix.S_IFCHR)
		switch d.Type {
		case "b":
			kind = unix.S_IFBLK
		case "p":
			kind = unix.S_IFIFO
		}
		if path.Clean(d.Path) == "/dev/ptmx" {
			continue // a link to the container's own
		}
		node(path.Clean(d.Path), kind, mode, unix.Mkdev(uint32(d.Major), uint32(d.Minor)), uid, gid, c.bundle(fmt.Sprintf("/linux/devices/%d", i)))
	}
	for _, d := range nodes {
		node("/dev/"+d.name, unix.S_IFCHR, 0o666, unix.Mkdev(d.major, d.minor), 0, 0, c.base)
	}
	links := links[:]
	if c.Facts.Host.Kcore {
		links = append(links, struct{ name, to string }{"core", "/proc/kcore"})
	}
	for _, l := range links {
		c.step(Step{World: settings.Inner, Do: Symlink, Target: "/dev/" + l.name, Source: mount.Path{Path: l.to, InRoot: true}, Mode: 0o755})
	}
}

func (c *compiler) bundlePayload() {
	e := c.Settings.Exec
	p := &c.Plan.Payload
	p.Args, p.Env, p.Dir, p.Exact = e.Words, lastValues(e.Env), e.Dir, e.Process
	if p.Exact == nil {
		p.Exact = &settings.Process{IDs: settings.IDs{Umask: -1}}
	}
	if len(e.Words) > 0 {
		p.Candidates = e.Words[:1]
	}
	p.UserOrigin = c.bundle("/process/user")
	if p.Dir == "" {
		p.Dir = "/"
	}
	p.DirOrigin = c.bundle("/process/cwd")
	c.Console, c.Plan.Terminal.Output = settings.ConsolePipe, -1
	if p.Exact.Terminal {
		c.console()
	}
	if c.Plan.Stop.Signal = e.KillSignal; e.KillSignal == 0 {
		c.Plan.Stop.Signal = int(unix.SIGTERM)
	}
}

// lastValues leaves one value of each variable: the last, as if they had been
// set one after the other. getenv(3) would find the first.
func lastValues(env []string) []string {
	at := make(map[string]int, len(env))
	out := make([]string, 0, len(env))
	for _, v := range env {
		name, _, ok := strings.Cut(v, "=")
		if i, again := at[name]; ok && again {
			out[i] = v
			continue
		}
		if ok {
			at[name] = len(out)
		}
		out = append(out, v)
	}
	return out
}

// bundleProgram plans the first process of a container, or one that joins it.
func (c *compiler) bundleProgram(join bool) {
	op := func(call Call, o origin.Origin, a, b, d uint64, format string, args ...any) *Op {
		if o == (origin.Origin{}) {
			o = c.base
		}
		c.Program = append(c.Program, Op{Call: call, Text: fmt.Sprintf(format, args...), A: a, B: b, C: d, Origin: o})
		return &c.Program[len(c.Program)-1]
	}
	none := origin.Origin{}
	e := c.Settings.Exec
	x := c.Plan.Payload.Exact
	private := c.Plan.Users.Private()
	op(CloseGo, none, 0, 0, 0, "close the other end of the go pipe")
	op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the runtime")
	// With the caller's rights over all namespaces; the user namespace, which
	// ends them, comes last.
	var users []int
	for i, n := range c.Namespaces {
		if n.Path != "" && n.Flag == unix.CLONE_NEWUSER {
			users = append(users, i)
		} else if n.Path != "" && n.Flag != unix.CLONE_NEWPID && n.Flag != unix.CLONE_NEWNS && n.Flag != unix.CLONE_NEWTIME {
			op(Join, n.Origin, n.Flag, uint64(i), 0, "join the %s namespace %s", n.Name, n.Path)
		}
	}
	for _, i := range users {
		n := c.Namespaces[i]
		op(Join, n.Origin, n.Flag, uint64(i), 0, "join the user namespace %s", n.Path)
		for _, pid := range c.Namespaces {
			if pid.Flag == unix.CLONE_NEWPID && pid.Path == "" {
				// Nobody can move into a new pid namespace, only be born there.
				op(Rebirth, pid.Origin, pid.Flag, 0, 0, "be born again in a pid namespace of these users")
				op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the runtime, born again")
			}
		}
	}
	if c.Reborn {
		flags := uint64(0)
		for _, n := range c.Namespaces {
			if n.Path == "" && !n.Late && n.Flag != unix.CLONE_NEWNS {
				flags |= n.Flag
			}
		}
		op(Rebirth, c.Plan.Users.Origin, flags, 0, 0, "be born again with users of its own")
		op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the runtime, born again")
	}
	if c.Forks && !c.Last {
		// A time namespace can be joined only by who shares memory with
		// nobody. Who is born again can't be the first of a pid namespace, so
		// the other one is.
		if !slices.ContainsFunc(c.Program, func(o Op) bool { return o.Call == Rebirth }) {
			pid := uint64(0)
			for _, n := range c.Namespaces {
				if n.Flag == unix.CLONE_NEWPID && n.Path == "" {
					pid = n.Flag
				}
			}
			op(Rebirth, none, pid, 0, 0, "be born again with memory of its own")
			op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the runtime, born again")
		}
		for i, n := range c.Namespaces {
			if n.Path != "" && n.Flag == unix.CLONE_NEWTIME {
				op(Join, n.Origin, n.Flag, uint64(i), 0, "join the time namespace %s", n.Path)
			}
		}
	}
	if c.Moved {
		op(Ready, none, 0, 0, 0, "tell the runtime that the process is there")
		op(Seat, none, 0, 0, 0, "wait to be moved into the cgroup")
	}
	for _, n := range c.Namespaces {
		if n.Late && n.Path == "" {
			op(Unshare, n.Origin, n.Flag, 0, 0, "unshare the %s namespace", n.Name)
		}
	}
	op(Ready, none, 0, 0, 0, "tell the runtime that the namespaces are there")
	if e.OOMScore.Told {
		op(OOMScore, c.bundle("/process/oomScoreAdj"), uint64(e.OOMScore.Adjust), 0, 0, "set the oom_score_adj to %d", e.OOMScore.Adjust)
	}
	op(Go, none, 0, 0, 0, "wait for the runtime")
	if join {
		op(Enter, none, 0, 0, 0, "enter the container's namespaces")
	}
	if private {
		op(BecomeRoot, c.Plan.Users.Origin, 0, 0, 0, "become the container's root user")
		if !join && !c.Bare && !c.joins(unix.CLONE_NEWNS) {
			op(Unshare, c.Plan.Users.Origin, unix.CLONE_NEWNS, 0, 0, "copy the mount namespace, with every mount locked")
		}
	}
	if c.Bare && !join {
		op(Chroot, none, 0, 0, 0, "change the root to %s", c.Directory).Path = c.Directory
	}
	if flags := c.Settings.Bundle.Propagation; flags != 0 && !join {
		op(Share, c.bundle("/linux/rootfsPropagation"), flags, 0, 0, "set the propagation of the root")
	}
	session := func() {
		op(Setsid, none, 0, 0, 0, "begin a session")
	}
	terminal := func() {
		if x.Terminal {
			op(CtlTTY, c.bundle("/process/terminal"), 0, 0, 0, "take the terminal")
		}
	}
	if !c.Last {
		session()
	}
	if !join {
		op(Keyring, none, 0, 0, 0, "join a new session keyring")
	}
	op(Stdio, none, 0, 0, 0, "set up standard input and output")
	if !c.Last {
		terminal()
	}
	if x.Scheduler != nil {
		op(Scheduler, c.bundle("/process/scheduler"), 0, 0, 0, "set the scheduler")
	}
	if x.IOPriority != 0 {
		op(IOPriority, c.bundle("/process/ioPriority"), uint64(x.IOPriority), 0, 0, "set the I/O priority")
	}
	if x.Memory != nil {
		op(MemPolicy, c.bundle("/linux/memoryPolicy"), 0, 0, 0, "set the memory policy")
	}
	if join && len(x.FinalCPUs) > 0 {
		c.Plan.CPUs = x.FinalCPUs
		op(Affinity, c.bundle("/process/execCPUAffinity/final"), 0, 0, 0, "keep to the processors %s", x.FinalCPUs)
	}
	if x.HasPersona {
		op(Persona, c.bundle("/linux/personality"), uint64(x.Persona), 0, 0, "set the personality to %#x", x.Persona)
	}
	for _, l := range c.exactLimits() {
		op(Rlimit, l.from, uint64(l.resource), l.soft, l.hard, "set RLIMIT_%s to %s:%s", l.name, number(l.soft), number(l.hard))
	}
	// Closed before any path is followed: one through /proc/self/fd must not
	// find a descriptor of the runtime's.
	op(CloseRest, none, 0, 0, 0, "close all other descriptors")
	op(Chdir, c.bundle("/process/cwd"), 0, 0, 0, "change to %s", path.Clean(c.Plan.Payload.Dir))
	mask := uint64(0o022)
	if x.IDs.Umask >= 0 {
		mask = uint64(x.IDs.Umask)
	}
	op(Umask, c.bundle("/process/user/umask"), mask, 0, 0, "set the umask to %03o", mask)
	label := func() {
		if err := c.labels(op); err != nil {
			c.failed = err
		}
	}
	if !c.Last {
		label()
	}
	// Like a machine's, the payload is executed by the stub, so that a file of
	// the container can't run this program by naming /proc/self/exe. The stub
	// also installs a filter that comes last, which might forbid the stub
	// itself. Where a label takes effect at the first exec, or a filter must
	// come earlier, there is no stub: the caller then sees to it that this
	// program is a copy of itself.
	stub := c.stubbed()
	filters := func() {
		for i, f := range c.Filters {
			if stub {
				op(Seccomp, f.Origin, uint64(i), 1, 0, "install the system-call filter")
				continue
			}
			op(Seccomp, f.Origin, uint64(i), 0, 0, "install the system-call filter")
			if c.Listener != "" {
				op(Notify, c.bundle("/linux/seccomp/listenerPath"), uint64(i), 0, 0, "hand over the listener of the filter")
			}
		}
	}
	if !e.NoNewPrivileges && !stub {
		// It takes CAP_SYS_ADMIN, which may be gone soon.
		filters()
	}
	caps := settings.CapSets{}
	if x.Caps != nil {
		caps = *x.Caps
	}
	from := c.bundle("/process/capabilities")
	op(Bounding, from, caps.Bounding, 0, 0, "keep the capabilities %#x at most", caps.Bounding)
	op(KeepCaps, from, 0, 0, 0, "keep the capabilities when the user changes")
	op(Switch, c.bundle("/process/user"), 0, 0, 0, "become the user %d:%d", x.IDs.UID, x.IDs.GID)
	op(TryChdir, c.bundle("/process/cwd"), 0, 0, 0, "change to %s as this user", path.Clean(c.Plan.Payload.Dir))
	op(CapSets, from, 0, 0, 0, "set the capabilities")
	if e.NoNewPrivileges {
		op(NoNewPrivs, c.bundle("/process/noNewPrivileges"), 0, 0, 0, "renounce new privileges")
	}
	if c.Last {
		op(Rebirth, none, 0, 0, 0, "be born again in the container's pid namespace, with nothing of the runtime's")
		session()
		terminal()
		label()
	}
	op(Outlive, none, 0, 0, 0, "outlive the runtime")
	late := e.NoNewPrivileges && !stub
	if !join {
		if late && c.Listener != "" {
			// Who takes the listener may be gone when the gate is opened.
			filters()
			late = false
		}
		op(Gate, none, 0, 0, 0, "wait to be started")
	}
	if late {
		filters()
	}
	// What nohup(1) or a shell has the runtime ignore is not the payload's
	// concern: it hears of signals by the runtime only. 32 and 33 belong to C
	// libraries.
	const libc = 1<<(32-1) | 1<<(33-1)
	if ignored := c.Facts.Host.Ignored &^ libc; ignored != 0 {
		op(Signals, none, ignored, 0, 0, "stop ignoring signals")
	}
	op(Unblock, none, 0, 0, 0, "unblock signals")
	if stub {
		op(ExecStub, none, 0, 0, 0, "exec the stub")
		filters()
	}
	op(Exec, c.bundle("/process/args"), 0, 0, 0, "exec %s", strings.Join(c.Plan.Payload.Candidates, " or "))
}

// bornLast reports whether the process can be born again when it has given up its
// rights. It can't where somebody takes the filter's listener from it; where a filter
// that comes before forbids it, or what is left to do; and with a deadline, with which
// no process is born.
func (c *compiler) bornLast() bool {
	x := c.Plan.Payload.Exact
	if c.Listener != "" || x.Scheduler != nil {
		return false
	}
	if c.Settings.Exec.NoNewPrivileges || c.stubbed() {
		return true
	}
	return !slices.ContainsFunc(c.Filters, func(f Filter) bool {
		return !f.Filter.PassesWith("clone", unix.CLONE_PARENT|unix.CLONE_PARENT_SETTID, 0) || !f.Filter.Passes("setsid") ||
			x.Terminal && !f.Filter.PassesWith("ioctl", 0, unix.TIOCSCTTY, 0) || c.labelled() && !f.Filter.Passes("openat", "write", "close")
	})
}

// labelled reports whether a security module is told of the process.
func (c *compiler) labelled() bool {
	x := c.Plan.Payload.Exact
	return x.SELinux != "" || x.AppArmor != "" && c.Facts.Host.AppArmor
}

// stubbed reports whether the payload is executed by the stub.
func (c *compiler) stubbed() bool {
	return (len(c.Filters) == 0 || c.Settings.Exec.NoNewPrivileges && c.Listener == "") && !c.labelled()
}

// joins reports whether a namespace is one that is there already.
func (c *compiler) joins(flag uint64) bool {
	return slices.ContainsFunc(c.Namespaces, func(n Namespace) bool { return n.Flag == flag && n.Path != "" })
}

// labels plans what security modules are told of the process.
func (c *compiler) labels(op func(Call, origin.Origin, uint64, uint64, uint64, string, ...any) *Op) error {
	x, host := c.Plan.Payload.Exact, c.Facts.Host
	if x.SELinux != "" {
		if !host.SELinux {
			return &settings.Error{What: "cannot set the SELinux label: SELinux is not enabled on the host", Origin: c.bundle("/process/selinuxLabel"), Value: x.SELinux}
		}
		o := op(Label, c.bundle("/process/selinuxLabel"), 0, 0, 0, "set the SELinux label %s", x.SELinux)
		o.Path, o.Data = execLabel, x.SELinux
	}
	switch {
	case x.AppArmor == "":
	case host.AppArmor:
		o := op(Label, c.bundle("/process/apparmorProfile"), 0, 0, 0, "set the AppArmor profile %s", x.AppArmor)
		o.Path, o.Data = "/proc/thread-self/attr/apparmor/exec", "exec "+x.AppArmor
	case x.AppArmor != "unconfined":
		return &settings.Error{What: "cannot set the AppArmor profile: AppArmor is not enabled on the host", Origin: c.bundle("/process/apparmorProfile"), Value: x.AppArmor}
	}
	return nil
}

// exactLimits are the bundle's limits, and the soft limit of open files that
// the runtime itself was started with, since its own start raised it.
func (c *compiler) exactLimits() []limit {
	var list []limit
	open := false
	for i, r := range c.Settings.Exec.Rlimits {
		n, ok := settings.RlimitNumber(r.Name)
		if !ok {
			continue // refused by the reader
		}
		open = open || n == unix.RLIMIT_NOFILE
		list = append(list, limit{r.Name, n, r.Soft, r.Hard, c.bundle(fmt.Sprintf("/process/rlimits/%d", i))})
	}
	if own := c.Facts.Host.Limits[unix.RLIMIT_NOFILE]; !open && own[1] != 0 {
		list = append(list, limit{"NOFILE", unix.RLIMIT_NOFILE, own[0], own[1], c.base})
	}
	return list
}
