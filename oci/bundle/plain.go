package bundle

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// apiTargets are where every machine has a file system of the kernel's, or an
// empty one, without being asked.
var apiTargets = [...]string{
	"/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/run", "/sys", "/sys/fs/cgroup", "/tmp",
}

// Plain gives the settings of a bundle as options can say them, for a machine
// of the profile, and names what they can't say: by its JSON pointer, with a
// reason where that is not the lack of an option.
func Plain(s settings.Settings, profile *settings.Profile) (plain settings.Settings, missed []string) {
	b := s.Bundle
	if b == nil {
		return s, nil
	}
	miss := func(yes bool, what string) {
		if yes {
			missed = append(missed, what)
		}
	}
	plain = s
	plain.Bundle, plain.Mounts, plain.Exec.Process = nil, nil, nil
	var env []string
	for i, v := range s.Exec.Env {
		if strings.HasPrefix(v, "=") || strings.IndexByte(v, '=') < 0 {
			miss(true, point("/process/env", i))
			continue
		}
		env = append(env, v)
	}
	plain.Exec.Env = env
	if p := s.Exec.Process; p != nil {
		missed = append(missed, plainProcess(&plain, p, profile)...)
	}
	plain.Life.Console = settings.ConsolePipe
	if s.Exec.Process != nil && s.Exec.Process.Terminal {
		plain.Life.Console = settings.ConsoleInteractive
	}

	for _, kind := range kinds {
		i := slices.IndexFunc(b.Namespaces, func(n settings.Namespace) bool { return n.Kind == kind.kernel })
		switch {
		case i < 0:
			miss(kind.kernel != "net" && kind.kernel != "user" && kind.kernel != "time", "/linux/namespaces: the "+kind.spec+" namespace is the caller's")
		case kind.kernel == "net" && b.Namespaces[i].Path != "":
			plain.Network.Path = b.Namespaces[i].Path
		case b.Namespaces[i].Path != "", kind.kernel == "time":
			miss(true, b.Namespaces[i].Origin.Key)
		case kind.kernel == "user":
			one := len(b.UIDs) == 1 && b.UIDs[0].Inside == 0 && slices.Equal(b.UIDs, b.GIDs)
			if !one {
				miss(true, "/linux/uidMappings: options have one range for users and groups")
				break
			}
			plain.Users = settings.Users{
				Mode: userns.Fixed, Ownership: userns.Off, Range: userns.Range{Start: b.UIDs[0].Outside, Size: b.UIDs[0].Size},
			}
		}
	}
	for _, m := range s.Mounts {
		if m, ok := plainMount(m); ok {
			plain.Mounts = append(plain.Mounts, m)
		} else {
			miss(m.Kind == mount.Bind || !slices.Contains(apiTargets[:], m.Target), m.Origin.Key)
		}
	}
	for _, p := range b.Masked {
		if !has(profile, p, "mask") && !has(profile, p, "") {
			plain.Mounts = append(plain.Mounts, mount.Mount{Kind: mount.Inaccessible, Target: p})
		}
	}
	for _, p := range b.ReadOnly {
		if !has(profile, p, "") && !has(profile, p, "mask") {
			plain.Mounts = append(plain.Mounts, mount.Mount{Kind: mount.Bind, Source: mount.Path{Path: p, InRoot: true}, Target: p, ReadOnly: true})
		}
	}
	if r := b.Resources; r != nil {
		rest := *r
		if c := r.CPU; c != nil && c.Cpus != "" {
			plain.Exec.CPUs, _ = settings.ParseCPUs(c.Cpus)
			other := *c
			other.Cpus = ""
			rest.CPU = &other
		}
		miss(limits(&rest), "/linux/resources")
	}
	miss(b.Domainname != "", "/domainname")
	miss(len(b.Annotations) > 0, "/annotations")
	miss(len(b.TimeOffsets) > 0, "/linux/timeOffsets")
	miss(len(b.Devices) > 0, "/linux/devices")
	for _, d := range b.NetDevices {
		// Into a namespace that is there already, options move nothing.
		miss(plain.Network.Path != "" || strings.Contains(d.As, "%"), d.Origin.Key)
		if plain.Network.Path == "" && !strings.Contains(d.As, "%") {
			plain.Network.Interfaces = append(plain.Network.Interfaces, settings.Link{Host: d.Name, Machine: d.As})
		}
	}
	miss(len(b.Sysctl) > 0, "/linux/sysctl")
	miss(b.CgroupsPath != "", "/linux/cgroupsPath")
	miss(b.IntelRdt != nil, "/linux/intelRdt")
	miss(b.Filter != nil, "/linux/seccomp")
	miss(b.Propagation != 0, "/linux/rootfsPropagation")
	miss(b.MountLabel != "", "/linux/mountLabel")
	h := b.Hooks
	miss(len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) > 0, "/hooks")
	return plain, missed
}

// limits reports whether resources limit anything. Rules that let no device
// through are what machines have anyway.
func limits(r *specs.LinuxResources) bool {
	for _, d := range r.Devices {
		if d.Allow {
			return true
		}
	}
	c, m, io := r.CPU, r.Memory, r.BlockIO
	return c != nil && *c != (specs.LinuxCPU{}) || m != nil && *m != (specs.LinuxMemory{}) || r.Pids != nil && r.Pids.Limit != nil ||
		io != nil && (io.Weight != nil || io.LeafWeight != nil || len(io.WeightDevice)+len(io.ThrottleReadBpsDevice)+
			len(io.ThrottleWriteBpsDevice)+len(io.ThrottleReadIOPSDevice)+len(io.ThrottleWriteIOPSDevice) > 0) ||
		len(r.HugepageLimits) > 0 || r.Network != nil || len(r.Rdma) > 0 || len(r.Unified) > 0
}

func plainProcess(s *settings.Settings, p *settings.Process, profile *settings.Profile) (missed []string) {
	miss := func(yes bool, what string) {
		if yes {
			missed = append(missed, what)
		}
	}
	if p.IDs.UID != 0 {
		s.Exec.User = strconv.FormatUint(uint64(p.IDs.UID), 10)
	}
	miss(p.IDs.GID != 0, "/process/user/gid: the group is the user's in the tree")
	miss(len(p.IDs.Groups) > 0, "/process/user/additionalGids")
	miss(p.IDs.Umask >= 0 && p.IDs.Umask != 0o022, "/process/user/umask")
	usual := profile.Caps
	if s.Network.Private {
		usual |= profile.NetworkCaps
	}
	var c settings.CapSets
	if p.Caps != nil {
		c = *p.Caps
	}
	s.Exec.AddCaps, s.Exec.DropCaps, s.Exec.AmbientCaps = c.Bounding&^usual, usual&^c.Bounding, c.Ambient
	miss(p.IDs.UID == 0 && (c.Effective != c.Bounding || c.Permitted != c.Bounding), "/process/capabilities: root has all of the bounding set")
	miss(c.Inheritable&^c.Ambient != 0, "/process/capabilities/inheritable")
	miss(p.Scheduler != nil, "/process/scheduler")
	miss(p.IOPriority != 0, "/process/ioPriority")
	miss(p.Memory != nil, "/linux/memoryPolicy")
	miss(p.HasPersona && p.Persona != 0, "/linux/personality")
	miss(len(p.InitialCPUs)+len(p.FinalCPUs) > 0, "/process/execCPUAffinity")
	miss(p.Rows != 0 || p.Columns != 0, "/process/consoleSize")
	miss(p.AppArmor != "", "/process/apparmorProfile")
	miss(p.SELinux != "", "/process/selinuxLabel")
	return missed
}

// plainMount gives a mount as an option asks for it.
func plainMount(m mount.Mount) (mount.Mount, bool) {
	out := mount.Mount{Kind: m.Kind, Target: m.Target, Source: m.Source, NoRecurse: m.NoRecurse, Origin: m.Origin}
	const ro = unix.MOUNT_ATTR_RDONLY
	for _, p := range m.Propagation {
		if p&^unix.MS_REC != unix.MS_PRIVATE {
			return m, false
		}
	}
	if m.NoFollow || m.CopyUp || len(m.UIDs) > 0 || m.MapContainer && m.MapAll {
		return m, false
	}
	switch {
	case m.Kind == mount.Bind:
		// An option's ro is for all below, which is the least that is asked.
		if (m.Set|m.AllSet)&^ro != 0 || m.AllClear&m.AllSet != 0 {
			return m, false
		}
		out.ReadOnly = (m.Set|m.AllSet)&ro != 0
		if m.MapContainer {
			out.IDMap = mount.FullIDMap
		}
		return out, true
	case m.Type != "tmpfs" || slices.Contains(apiTargets[:], m.Target) || m.AllSet != 0:
		return m, false
	}
	out.Kind, out.Source = mount.Tmpfs, mount.Path{}
	words := attrWords(m.Set)
	if m.Options != "" {
		words = append(words, m.Options)
	}
	if len(words) == 0 {
		words = []string{"rw"}
	}
	out.Options = strings.Join(words, ",")
	return out, true
}

// attrWords names flags of a mount.
func attrWords(set uint64) (words []string) {
	for _, o := range mount.Options {
		if o.Effect == mount.Attribute && !o.Recursive && o.Set != 0 && set&o.Set == o.Set {
			words = append(words, o.Word)
		}
	}
	return words
}

// has reports whether a profile makes something of that type at a path; an
// empty type is a part of the tree that is made read-only.
func has(profile *settings.Profile, target, kind string) bool {
	return slices.ContainsFunc(profile.API, func(a settings.APIMount) bool {
		return a.Target == target && a.Type == kind && a.When&settings.Unprotected == 0
	})
}

// FromSettings gives the configuration of a container that is like a machine
// with these settings and the profile, and names what no bundle can say.
func FromSettings(s settings.Settings, profile *settings.Profile) (spec *specs.Spec, missed []string) {
	miss := func(yes bool, what string) {
		if yes {
			missed = append(missed, what)
		}
	}
	e := &s.Exec
	spec = &specs.Spec{
		Version:  Version,
		Hostname: e.Hostname,
		Root:     &specs.Root{Path: s.Image.Directory, Readonly: s.Image.ReadOnly},
		Linux:    &specs.Linux{},
	}
	if spec.Hostname == "" {
		spec.Hostname = s.Machine
	}
	p := &specs.Process{Args: e.Words, Cwd: e.Dir, NoNewPrivileges: e.NoNewPrivileges, Terminal: s.Life.Console == settings.ConsoleInteractive}
	spec.Process = p
	p.SelinuxLabel, spec.Linux.MountLabel = s.SELinux.Process, s.SELinux.Files
	switch e.Mode {
	case settings.Boot:
		p.Args = append([]string{"/sbin/init"}, e.Words...)
		miss(true, "the tree's init, whatever it is: it is /sbin/init")
	case settings.PID2:
		miss(true, "process 1, which is the command itself")
	}
	if len(p.Args) == 0 {
		p.Args = []string{"/bin/sh"}
		miss(true, "the user's shell: it is /bin/sh")
	}
	if p.Cwd == "" {
		p.Cwd = "/"
		miss(true, "the user's home as the working directory: it is /")
	}
	if e.User != "" && e.User != "root" {
		n, err := strconv.ParseUint(e.User, 10, 32)
		miss(err != nil, "the name of a user: give the number")
		p.User.UID = uint32(n)
	}
	service := s.Environment.Service
	if service == "" {
		service = settings.DefaultService
	}
	p.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=" + service}
	if p.User.UID == 0 {
		p.Env = append(p.Env, "HOME=/root", "USER=root", "LOGNAME=root")
	}
	p.Env = append(p.Env, e.Env...)

	caps := profile.Caps
	if s.Network.Private {
		caps |= profile.NetworkCaps
	}
	bounding, ambient := names((caps|e.AddCaps)&^e.DropCaps), names(e.AmbientCaps)
	p.Capabilities = &specs.LinuxCapabilities{Bounding: bounding, Ambient: ambient, Inheritable: ambient}
	if p.User.UID == 0 {
		p.Capabilities.Effective, p.Capabilities.Permitted = bounding, bounding
	} else {
		p.Capabilities.Effective, p.Capabilities.Permitted = ambient, ambient
	}
	for _, l := range e.Rlimits {
		p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + l.Name, Soft: l.Soft, Hard: l.Hard})
	}
	if e.OOMScore.Told {
		p.OOMScoreAdj = &e.OOMScore.Adjust
	}
	if settings.Sibling(e.Personality) {
		spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	}
	if len(e.CPUs) > 0 {
		spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: e.CPUs.String()}}
	}
	if e.KillSignal != 0 {
		spec.Annotations = map[string]string{"org.opencontainers.image.stopSignal": strconv.Itoa(e.KillSignal)}
	}
	fromNamespaces(spec, &s, miss)
	fromMounts(spec, &s, profile, miss)

	miss(s.Image.Volatile != settings.VolatileNo, "--volatile")
	miss(s.Image.OverlayAll, "--overlay-all")
	miss(s.Profile != "", "--profile")
	miss(s.Join != "", "--join")
	miss(s.Image.Ephemeral, "--ephemeral")
	miss(s.Image.Template != "", "--template")
	miss(s.Image.Pivot.New != "", "--pivot-root")
	miss(len(s.Bound.Users) > 0, "--bind-user")
	miss(len(s.Network.Ports) > 0, "--port")
	miss(len(e.SystemCalls) > 0, "--system-call-filter")
	miss(!e.Unfiltered, "the default system-call filter")
	miss(e.SuppressSync, "--suppress-sync")
	miss(e.AddressFamilies.Mode != settings.FamiliesAny, "--restrict-address-families")
	miss(e.MachineID != "", "--uuid")
	miss(s.Host.ResolvConf != "" && s.Host.ResolvConf != "off", "--resolv-conf")
	miss(s.Host.Timezone != "" && s.Host.Timezone != "off", "--timezone")
	miss(s.Life.NotifyReady, "--notify-ready")
	miss(s.Life.Register == settings.Yes, "--register")
	miss(s.Unit.Slice != "", "--slice")
	miss(len(s.Unit.Properties) > 0, "--property")
	return spec, missed
}

func names(mask uint64) (list []string) {
	for n := range 64 {
		if name := settings.CapabilityName(n); mask&(1<<n) != 0 && name != "" {
			list = append(list, name)
		}
	}
	return list
}

func fromNamespaces(spec *specs.Spec, s *settings.Settings, miss func(bool, string)) {
	env := s.Environment
	for _, n := range [...]struct {
		kind specs.LinuxNamespaceType
		own  bool
	}{
		{specs.MountNamespace, true}, {specs.PIDNamespace, !env.SharePID}, {specs.IPCNamespace, !env.ShareIPC}, {specs.UTSNamespace, !env.ShareUTS},
		{specs.CgroupNamespace, !env.NoCgroupNamespace}, {specs.NetworkNamespace, s.Network.Private || s.Network.Path != ""}, {specs.UserNamespace, s.Users.Mode == userns.Fixed},
	} {
		if n.own {
			ns := specs.LinuxNamespace{Type: n.kind}
			if n.kind == specs.NetworkNamespace {
				ns.Path = s.Network.Path
			}
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, ns)
		}
	}
	net := s.Network
	for _, l := range net.Interfaces {
		if spec.Linux.NetDevices == nil {
			spec.Linux.NetDevices = map[string]specs.LinuxNetDevice{}
		}
		spec.Linux.NetDevices[l.Host] = specs.LinuxNetDevice{Name: l.Machine}
	}
	miss(net.Veth && net.Bridge == "" && net.Zone == "", "--network-veth")
	miss(net.Bridge != "", "--network-bridge")
	miss(net.Zone != "", "--network-zone")
	miss(len(net.Extra) > 0, "--network-veth-extra")
	miss(len(net.MACVLAN) > 0, "--network-macvlan")
	miss(len(net.IPVLAN) > 0, "--network-ipvlan")
	if env.ShareUTS {
		spec.Hostname = ""
	}
	u := s.Users
	miss(u.Mode == userns.Pick || u.Mode == userns.Owner, "--private-users="+string(u.Mode)+": give a range")
	miss(u.Mode != userns.No && (u.Ownership == userns.Chown || u.Ownership == userns.MapIt), "--private-users-ownership="+string(u.Ownership))
	if u.Mode == userns.Fixed {
		m := []specs.LinuxIDMapping{{HostID: u.Range.Start, Size: u.Range.Size}}
		spec.Linux.UIDMappings, spec.Linux.GIDMappings = m, m
	}
}

func fromMounts(spec *specs.Spec, s *settings.Settings, profile *settings.Profile, miss func(bool, string)) {
	var when settings.When = settings.Protected | settings.FreshTmp
	if s.Network.Private {
		when |= settings.WithNetwork | settings.Apart
	} else {
		when |= settings.WithoutNetwork
	}
	l := spec.Linux
	add := func(target, kind, source string, options ...string) {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: target, Type: kind, Source: source, Options: options})
	}
	for _, a := range profile.API {
		if a.When&^when != 0 {
			continue
		}
		words := attrWords(a.Attr)
		if a.Options != "" {
			words = append(words, strings.Split(a.Options, ",")...)
		}
		switch a.Type {
		case "mask":
			l.MaskedPaths = append(l.MaskedPaths, a.Target)
		case "":
			if strings.HasPrefix(a.Target, "/proc/") && a.Clear == 0 {
				l.ReadonlyPaths = append(l.ReadonlyPaths, a.Target)
			}
		case "tmpfs":
			if a.Content == "sys" {
				add("/sys", "sysfs", "sysfs", "ro", "nosuid", "nodev", "noexec")
				continue
			}
			add(a.Target, a.Type, "tmpfs", words...)
		case "devpts":
			add(a.Target, a.Type, a.Type, append(words, "newinstance", "gid=5")...)
		case "cgroup2":
			add(a.Target, "cgroup", "cgroup", words...)
		case "proc", "mqueue", "sysfs":
			add(a.Target, a.Type, a.Type, words...)
		}
	}
	// What is inside another file system comes after it.
	slices.SortStableFunc(spec.Mounts, func(a, b specs.Mount) int { return mount.ComparePaths(a.Destination, b.Destination) })
	for _, m := range mount.Sorted(s.Mounts) {
		what := "the " + m.Kind.String() + " mount on " + m.Target
		switch m.Kind {
		case mount.Bind:
			words := []string{"rbind"}
			if m.NoRecurse {
				words[0] = "bind"
			}
			if m.ReadOnly {
				words = append(words, "rro")
			}
			switch m.IDMap {
			case mount.NoIDMap:
			case mount.FullIDMap:
				words = append(words, "idmap")
			default:
				miss(true, what+": "+string(m.IDMap))
				continue
			}
			if m.Source.Temp {
				miss(true, what+": its fresh directory")
				continue
			}
			source := m.Source.Path
			if m.Source.InRoot {
				source = path.Join(s.Image.Directory, source)
			}
			miss(m.Optional, what+": that its source may be missing")
			add(m.Target, "bind", source, words...)
		case mount.Tmpfs:
			add(m.Target, "tmpfs", "tmpfs", strings.Split(m.Options, ",")...)
		case mount.Inaccessible:
			l.MaskedPaths = append(l.MaskedPaths, m.Target)
		default:
			miss(true, what)
		}
	}
}
