package settings

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"launch/internal/origin"
	"launch/internal/seccomp"
	"launch/userns"
)

// Bundle is what an OCI bundle says beyond what options can say. It is exact:
// nothing is added to it and nothing is inherited. What both can say is in the
// other fields of Settings: the root in Image, the process in Exec, mounts in
// Mounts (in the bundle's order), the host name in Exec.Hostname.
type Bundle struct {
	// Path is the bundle's directory.
	Path        string            `json:"path"`
	Version     string            `json:"version"`
	Annotations map[string]string `json:"annotations,omitempty"`

	Domainname  string       `json:"domainname,omitempty"`
	Namespaces  []Namespace  `json:"namespaces,omitempty"`
	TimeOffsets []TimeOffset `json:"time_offsets,omitempty"`
	// UIDs and GIDs are the maps of the user namespace, if one is made.
	UIDs userns.Map `json:"uids,omitempty"`
	GIDs userns.Map `json:"gids,omitempty"`

	Devices    []specs.LinuxDevice `json:"devices,omitempty"`
	NetDevices []NetDevice         `json:"net_devices,omitempty"`
	// Sysctl is sorted by name; names have dots.
	Sysctl []Sysctl `json:"sysctl,omitempty"`

	// CgroupsPath is as written: empty, a path, or slice:prefix:name.
	CgroupsPath string                `json:"cgroups_path,omitempty"`
	Resources   *specs.LinuxResources `json:"resources,omitempty"`
	IntelRdt    *specs.LinuxIntelRdt  `json:"intel_rdt,omitempty"`

	Filter *Filter `json:"filter,omitempty"`

	// Propagation of the root mount, MS_… with MS_REC; 0 for the default.
	Propagation uint64   `json:"propagation,omitempty"`
	Masked      []string `json:"masked,omitempty"`
	ReadOnly    []string `json:"read_only,omitempty"`
	MountLabel  string   `json:"mount_label,omitempty"`
	// MountContext is what option the label is; empty is context.
	MountContext string `json:"mount_context,omitempty"`

	Hooks Hooks `json:"hooks,omitzero"`
}

// Owns reports whether a namespace of that kind is made for the container.
func (b *Bundle) Owns(kind string) bool {
	return slices.ContainsFunc(b.Namespaces, func(n Namespace) bool { return n.Kind == kind && n.Path == "" })
}

// Namespace is one that the container has of its own, or, with a Path, shares
// with who made it. Namespaces that aren't listed are the caller's.
type Namespace struct {
	// Kind is as in /proc/PID/ns: mnt, pid, net, ipc, uts, user, cgroup, time.
	Kind   string        `json:"kind"`
	Path   string        `json:"path,omitempty"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// TimeOffset moves a clock of the container's time namespace.
type TimeOffset struct {
	Clock string `json:"clock"` // monotonic or boottime
	Secs  int64  `json:"secs"`
	Nanos uint32 `json:"nanos"`
}

// NetDevice is a network interface of the host that moves into the container.
type NetDevice struct {
	Name string `json:"name"`
	// As is its name inside; "" keeps the name.
	As     string        `json:"as,omitempty"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// Sysctl is a parameter of the kernel that belongs to a namespace of the
// container.
type Sysctl struct {
	Name   string        `json:"name"`
	Value  string        `json:"value"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// Filter is a bundle's system-call filter. Listener is the path of the socket
// that is told of calls to be decided in user space, with Metadata.
type Filter struct {
	seccomp.Filter
	Listener string        `json:"listener,omitempty"`
	Metadata string        `json:"metadata,omitempty"`
	Origin   origin.Origin `json:"origin,omitzero"`
}

// Hooks are programs that are run at the moments of a container's life, in
// order.
type Hooks struct {
	Prestart        []Hook `json:"prestart,omitempty"`
	CreateRuntime   []Hook `json:"create_runtime,omitempty"`
	CreateContainer []Hook `json:"create_container,omitempty"`
	StartContainer  []Hook `json:"start_container,omitempty"`
	Poststart       []Hook `json:"poststart,omitempty"`
	Poststop        []Hook `json:"poststop,omitempty"`
	// PoststartWarns: one of Poststart that fails is no more than a warning.
	PoststartWarns bool `json:"poststart_warns,omitempty"`
}

// Hook is one program. Args start with argv[0]; none means the path alone.
type Hook struct {
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"`
	Env  []string `json:"env,omitempty"`
	// Timeout in seconds; 0 means none.
	Timeout int `json:"timeout,omitempty"`
	// Stdout and Stderr are files that what it writes is appended to; empty for
	// what is told if it fails.
	Stdout string        `json:"stdout,omitempty"`
	Stderr string        `json:"stderr,omitempty"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// IDs are a process's numbers, as it sees them itself.
type IDs struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
	// KeepGroups: the caller's groups are kept instead.
	KeepGroups bool `json:"keep_groups,omitempty"`
	// Umask is -1 for the default, 022.
	Umask int `json:"umask"`
}

// CapSets are the five capability sets of a process, bit n being capability n.
type CapSets struct {
	Bounding    uint64 `json:"bounding"`
	Effective   uint64 `json:"effective"`
	Permitted   uint64 `json:"permitted"`
	Inheritable uint64 `json:"inheritable"`
	Ambient     uint64 `json:"ambient"`
}

// Scheduler is what sched_setattr(2) is told.
type Scheduler struct {
	Policy   uint32 `json:"policy"`
	Nice     int32  `json:"nice,omitempty"`
	Priority uint32 `json:"priority,omitempty"`
	Flags    uint64 `json:"flags,omitempty"`
	// Runtime, Deadline and Period are in nanoseconds, for SCHED_DEADLINE.
	Runtime  uint64 `json:"runtime,omitempty"`
	Deadline uint64 `json:"deadline,omitempty"`
	Period   uint64 `json:"period,omitempty"`
}

// MemoryPolicy is what set_mempolicy(2) is told: the mode with its flags, and
// the mask of nodes.
type MemoryPolicy struct {
	Mode  uint32   `json:"mode"`
	Nodes []uint64 `json:"nodes,omitempty"`
}

// Process is the part of Exec that only bundles say, and say exactly.
type Process struct {
	// Terminal: standard input and output are a terminal of the container's,
	// of Rows and Columns if they are not 0.
	Terminal bool   `json:"terminal,omitempty"`
	Rows     uint16 `json:"rows,omitempty"`
	Columns  uint16 `json:"columns,omitempty"`
	IDs      IDs    `json:"ids"`
	// Caps nil: none of them.
	Caps      *CapSets   `json:"caps,omitempty"`
	Scheduler *Scheduler `json:"scheduler,omitempty"`
	// IOPriority is as ioprio_set(2) takes it; 0: not set.
	IOPriority uint32        `json:"io_priority,omitempty"`
	Memory     *MemoryPolicy `json:"memory_policy,omitempty"`
	// InitialCPUs are for a process that joins a container, before it moves to
	// the container's cgroup, FinalCPUs after.
	InitialCPUs CPUs `json:"initial_cpus,omitempty"`
	FinalCPUs   CPUs `json:"final_cpus,omitempty"`
	// Persona is what personality(2) is told if HasPersona.
	Persona    uint32 `json:"persona,omitempty"`
	HasPersona bool   `json:"has_persona,omitempty"`
	// AppArmor is a profile, SELinux a label.
	AppArmor string `json:"apparmor,omitempty"`
	SELinux  string `json:"selinux,omitempty"`
}
