package settings

import "golang.org/x/sys/unix"

// Profile is what a machine gets without being asked for: the API file
// systems, the capability set, and how its mounts are put in order. One
// Compile serves every profile; what differs between them is here, as data.
type Profile struct {
	Name string
	// Bundle are the mounts that a bundle gets before its own, and Reserved
	// the targets that the bundle has no say about: what it mounts on them, or,
	// but for /dev, below them, is left out, with a note.
	Bundle   []APIMount
	Reserved []string
	// Stubs: a target that is missing where nothing can be written is made in a
	// private layer. Without, it is an error.
	Stubs bool
	// KeepTmp: a tmpfs on /tmp does not hide what the tree has there.
	KeepTmp bool
	// Known are the file systems that may be mounted, sorted; none means
	// whatever the kernel has.
	Known []Filesystem

	// API are the mounts that make a tree a machine, in the order in which
	// they are made.
	API []APIMount
	// Caps is the bounding set, bit n being capability n; NetworkCaps come on
	// top with a private network.
	Caps, NetworkCaps uint64
	// SystemCalls are values of --system-call-filter= that come before others.
	SystemCalls []string
	// App: the payload is a program that brings its own files, and no operating
	// system. Nothing of the host's settings goes into its tree, users need no
	// entry there, and signals are passed on to it as they are.
	App bool
}

// When says in which machines an API mount is made. The zero value means all.
type When uint8

// Conditions of API mounts; several must all hold.
const (
	WithNetwork    When = 1 << iota // an own network namespace
	Apart                           // the same, or one that is neither its own nor the host's
	WithoutNetwork                  // the host's network
	Protected                       // the kernel's file systems are read-only
	Unprotected                     // they may be written to
	FreshTmp                        // /tmp is a tmpfs
	Unsaid                          // nothing that was asked for has this target
)

// World is when a mount is made.
type World string

// The worlds. Outer is before the machine's first process is let go and knows
// only the host's namespaces beside an own mount namespace; Inner is the same
// mount namespace with the machine's pid, network, ipc and cgroup namespaces
// joined, which is what proc, sysfs, mqueue and cgroup2 take theirs from.
const (
	// Before is what comes first, in the host's own namespaces: it has to do
	// with the tree itself.
	Before World = "before"
	// Beside is what the host has for the machine as long as it runs, made
	// anew for each start, in the host's own namespaces, too.
	Beside World = "beside"

	Outer World = "outer"
	Inner World = "inner"
)

// APIMount is one row: a mount that every machine of the profile has.
type APIMount struct {
	World  World
	Target string
	// Type is the file system; "" means that the target is bound onto itself
	// with Attr, "mask" that the target is made unreadable. Some are what only
	// the launcher knows: "incoming" is the way in for mounts of the host's,
	// "unix-export" a directory of sockets that the host sees.
	Type string
	// Attr are MOUNT_ATTR_ flags.
	Attr uint64
	// Clear are flags that a part of the tree loses when it is bound onto
	// itself.
	Clear   uint64
	Options string
	When    When
	// Owned: the file system's root belongs to the machine's root user.
	Owned bool
	// Lenient: a target that is not there is left alone.
	Lenient bool
	// Soft: if it can't be had, the machine does without, and a warning says so.
	Soft bool
	// Content names what a new tmpfs is filled with: "dev", "run" or "sys".
	Content string
}

// Filesystem is one that may be mounted, with the keys of the options that it
// takes.
type Filesystem struct {
	Type string
	Keys []string
}

const (
	ro = unix.MOUNT_ATTR_RDONLY
	ns = unix.MOUNT_ATTR_NOSUID
	nd = unix.MOUNT_ATTR_NODEV
	nx = unix.MOUNT_ATTR_NOEXEC
	sa = unix.MOUNT_ATTR_STRICTATIME
	nf = unix.MOUNT_ATTR_NOSYMFOLLOW
)

// NSpawn is the profile of option, file and unit: what systemd-nspawn's users
// expect.
var NSpawn = Profile{
	Name: "nspawn",
	API: []APIMount{
		{World: Outer, Target: "/tmp", Type: "tmpfs", Attr: ns | nd | sa, Options: "mode=01777,size=10%,nr_inodes=400k", When: FreshTmp, Owned: true},
		{World: Outer, Target: "/sys", Type: "tmpfs", Attr: ns | nd | nx, Options: "mode=0555,size=4m,nr_inodes=1k", When: Apart, Owned: true, Content: "sys"},
		{World: Outer, Target: "/sys", Type: "sysfs", Attr: ro | ns | nd | nx, When: WithoutNetwork | Protected},
		{World: Outer, Target: "/sys", Type: "sysfs", Attr: ns | nd | nx, When: WithoutNetwork | Unprotected},
		{World: Outer, Target: "/dev", Type: "tmpfs", Attr: ns | sa, Options: "mode=0755,size=4m,nr_inodes=64k", Owned: true, Content: "dev"},
		{World: Outer, Target: "/dev/shm", Type: "tmpfs", Attr: ns | nd | sa, Options: "mode=01777,size=10%,nr_inodes=400k", Owned: true},
		{World: Outer, Target: "/dev/pts", Type: "devpts", Attr: ns | nx, Options: "ptmxmode=0666,mode=0600"},
		{World: Outer, Target: "/run", Type: "tmpfs", Attr: ns | nd | sa, Options: "mode=0755,size=20%,nr_inodes=800k", Owned: true, Content: "run"},
		{World: Outer, Target: "/run/host", Attr: ro | ns | nd | nx},
		{World: Outer, Target: "/run/host/os-release", Type: "os-release", Attr: ro | ns | nd | nx, Lenient: true},
		{World: Outer, Target: "/run/host/incoming", Type: "incoming", Attr: ro | ns | nd | nx},
		{World: Outer, Target: "/run/host/unix-export", Type: "unix-export", Attr: ns | nd | nx | nf, Clear: ro},
		{World: Outer, Target: "/run/host/credentials", Type: "credentials", Attr: ro | ns | nd | nx},

		{World: Inner, Target: "/proc", Type: "proc", Attr: ns | nd | nx},
		{World: Inner, Target: "/proc/sys", Attr: ro | ns | nd | nx, When: Protected},
		{World: Inner, Target: "/proc/sys/net", Attr: ns | nd | nx, Clear: ro, When: WithNetwork | Protected},
		{World: Inner, Target: "/proc/kallsyms", Type: "mask", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/kcore", Type: "mask", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/keys", Type: "mask", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/sysrq-trigger", Type: "mask", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/timer_list", Type: "mask", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/acpi", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/apm", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/asound", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/bus", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/fs", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/irq", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/scsi", Attr: ro | ns | nd | nx, When: Protected, Lenient: true},
		{World: Inner, Target: "/proc/sys/kernel/random/boot_id", Type: "boot-id", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/kmsg", Type: "kmsg", Lenient: true},
		{World: Inner, Target: "/dev/mqueue", Type: "mqueue", Attr: ns | nd | nx, Soft: true},
		{World: Inner, Target: "/sys", Type: "sys-parts", Attr: ro | ns | nd | nx, When: Apart | Protected},
		{World: Inner, Target: "/sys", Type: "sys-parts", Attr: ns | nd | nx, When: Apart | Unprotected},
		{World: Inner, Target: "/sys/fs/cgroup", Type: "cgroup2", Attr: ns | nd | nx},
	},
	Caps: 1<<unix.CAP_AUDIT_CONTROL | 1<<unix.CAP_AUDIT_WRITE | 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE |
		1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_IPC_OWNER |
		1<<unix.CAP_KILL | 1<<unix.CAP_LEASE | 1<<unix.CAP_LINUX_IMMUTABLE | 1<<unix.CAP_MKNOD |
		1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_NET_BROADCAST | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_SETFCAP |
		1<<unix.CAP_SETGID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SETUID | 1<<unix.CAP_SYS_ADMIN |
		1<<unix.CAP_SYS_BOOT | 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SYS_NICE | 1<<unix.CAP_SYS_PTRACE |
		1<<unix.CAP_SYS_RESOURCE | 1<<unix.CAP_SYS_TTY_CONFIG,
	NetworkCaps: 1 << unix.CAP_NET_ADMIN,
}

// OCI is the profile of bundles: nothing that the bundle doesn't say, but for
// the device nodes and links that the runtime spec promises.
var OCI = Profile{Name: "oci"}

// Strict is the profile of images: a program that somebody else has packed.
var Strict = Profile{
	Name: "strict",
	App:  true,
	API: []APIMount{
		{World: Outer, Target: "/dev", Type: "tmpfs", Attr: ns | nx | sa, Options: "mode=0755,size=4m,nr_inodes=64k", Owned: true, Content: "dev"},
		{World: Outer, Target: "/dev/shm", Type: "tmpfs", Attr: ns | nd | nx | sa, Options: "mode=01777,size=64m,nr_inodes=64k", Owned: true},
		{World: Outer, Target: "/dev/pts", Type: "devpts", Attr: ns | nx, Options: "ptmxmode=0666,mode=0600"},

		{World: Inner, Target: "/proc", Type: "proc", Attr: ns | nd | nx},
		{World: Inner, Target: "/proc/sys", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/acpi", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/apm", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/asound", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/interrupts", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/kallsyms", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/kcore", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/keys", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/kmsg", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/latency_stats", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/sched_debug", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/scsi", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/sysrq-trigger", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/timer_list", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/timer_stats", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/proc/bus", Attr: ro | ns | nd | nx, Lenient: true},
		{World: Inner, Target: "/proc/fs", Attr: ro | ns | nd | nx, Lenient: true},
		{World: Inner, Target: "/proc/irq", Attr: ro | ns | nd | nx, Lenient: true},
		{World: Inner, Target: "/dev/mqueue", Type: "mqueue", Attr: ns | nd | nx, Soft: true},
		{World: Inner, Target: "/sys", Type: "sysfs", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/sys/firmware", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/sys/devices/virtual/powercap", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/sys/class/thermal", Type: "hide", Attr: ro | ns | nd | nx},
		{World: Inner, Target: "/sys/fs/cgroup", Type: "cgroup2", Attr: ro | ns | nd | nx},
	},
	Caps: 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_KILL |
		1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETGID | 1<<unix.CAP_SETPCAP | 1<<unix.CAP_SETUID |
		1<<unix.CAP_SYS_CHROOT,
	SystemCalls: []string{"~@keyring bpf io_uring_enter io_uring_register io_uring_setup perf_event_open userfaultfd"},
}

// Sandbox is the profile of programs that are to have what any program needs,
// and nothing of the host's devices, whatever their tree and bundle say or
// forget. As a machine's profile it is NSpawn beside that, see ProfileOf.
var Sandbox = Profile{
	Name: "sandbox",
	Bundle: []APIMount{
		{Target: "/proc", Type: "proc", Attr: ns | nd | nx, When: Unsaid},
		{Target: "/sys", Type: "sysfs", Attr: ro | ns | nd | nx, When: Unsaid},
		{Target: "/tmp", Type: "tmpfs", Attr: ns | nd | sa, Options: "mode=01777,size=10%,nr_inodes=400k", When: Unsaid},
		{Target: "/dev", Type: "devtmpfs", Attr: ns | nx | sa},
		{Target: "/dev/pts", Type: "devpts", Attr: ns | nx, Options: "ptmxmode=0666,mode=0620,gid=5"},
	},
	Reserved: []string{
		"/dev", "/dev/fd", "/dev/full", "/dev/null", "/dev/ptmx", "/dev/pts", "/dev/random", "/dev/stderr", "/dev/stdin",
		"/dev/stdout", "/dev/tty", "/dev/urandom", "/dev/zero",
	},
	Stubs: true, KeepTmp: true,
	Known: []Filesystem{
		{"cgroup", nil}, {"cgroup2", nil},
		{"devpts", []string{"gid", "max", "mode", "newinstance", "ptmxmode", "uid"}},
		{"devtmpfs", []string{"mode", "nr_inodes", "size"}},
		{"mqueue", nil},
		{"none", nil},
		{"proc", []string{"hidepid", "subset"}},
		{"sysfs", nil},
		{"tmpfs", []string{"gid", "huge", "inode32", "inode64", "mode", "mpol", "nr_blocks", "nr_inodes", "size", "uid"}},
	},
}

// ProfileOf gives the profile that --profile= names, where another one is the
// usual one, which "" stands for.
func ProfileOf(name string, p Profile) Profile {
	switch {
	case name == Sandbox.Name && p.Name == OCI.Name:
		return Sandbox
	case name == Sandbox.Name:
		p.Name, p.Stubs, p.KeepTmp, p.Known = Sandbox.Name, Sandbox.Stubs, Sandbox.KeepTmp, Sandbox.Known
	}
	return p
}
