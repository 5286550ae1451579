package seccomp

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Calls is what --system-call-filter= and SystemCallFilter= add up to: names
// and @groups to allow and to refuse on top of a default list.
type Calls struct {
	Allow, Deny []string
}

// Add takes one more value of the option: names and groups parted by white
// space, all of them refused if the value begins with a tilde. It reports the
// names that nobody knows, which are left out: a list may be written for a
// newer version or another architecture.
func (c *Calls) Add(value string) (unknown []string) {
	value = strings.TrimSpace(value)
	value, deny := strings.CutPrefix(value, "~")
	for _, name := range strings.Fields(value) {
		if _, ok := groupCalls(name); !ok && !Known(name) {
			unknown = append(unknown, name)
			continue
		}
		if deny {
			c.Deny = append(c.Deny, name)
		} else {
			c.Allow = append(c.Allow, name)
		}
	}
	return unknown
}

// nspawnCalls are what a machine may always call.
var nspawnCalls = [...]string{
	"@aio", "@basic-io", "@chown", "@default", "@file-system", "@io-event", "@ipc", "@keyring",
	"@mount", "@network-io", "@process", "@resources", "@setuid", "@signal", "@sync", "@timer",
	"arm_fadvise64_64", "brk", "cachestat", "capget", "capset", "copy_file_range", "fadvise64",
	"fadvise64_64", "flock", "get_mempolicy", "getcpu", "getpriority", "getrandom", "ioctl",
	"ioprio_get", "kcmp", "madvise", "mincore", "mprotect", "mremap", "name_to_handle_at",
	"oldolduname", "olduname", "personality", "readahead", "readdir", "remap_file_pages",
	"sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
	"sched_getparam", "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64",
	"sched_yield", "sendfile", "sendfile64", "setdomainname", "setfsgid", "setfsgid32", "setfsuid",
	"setfsuid32", "sethostname", "setpgid", "setsid", "splice", "sysinfo", "tee", "umask", "uname",
	"userfaultfd", "vmsplice",
	// Newer forms of what stands above, which no group has yet. Refusing them
	// with EPERM breaks a C library that would fall back on ENOSYS.
	"futex_requeue", "futex_wait", "futex_wake", "map_shadow_stack", "rseq_slice_yield",
}

// nspawnCapCalls are what a machine may call with a capability only.
var nspawnCapCalls = [...]struct {
	cap   uint
	calls []string
}{
	{unix.CAP_SYS_TIME, []string{"@clock"}},
	{unix.CAP_SYS_MODULE, []string{"@module"}},
	{unix.CAP_SYS_RAWIO, []string{"@raw-io"}},
	{unix.CAP_IPC_LOCK, []string{"@memlock"}},
	{unix.CAP_SYS_PACCT, []string{"acct"}},
	{unix.CAP_SYS_PTRACE, []string{"ptrace", "process_vm_readv", "process_vm_writev"}},
	{unix.CAP_SYS_BOOT, []string{"reboot"}},
	{unix.CAP_SYSLOG, []string{"syslog"}},
	{unix.CAP_SYS_TTY_CONFIG, []string{"vhangup"}},
	{unix.CAP_BPF, []string{"bpf"}},
}

// NSpawn gives the filters of a machine that keeps the capabilities retained
// (a bit for each) on a host of architecture native: the allow list, and the
// one that keeps it off the host's audit system. What is refused in extra is
// refused even if something else allows it.
//
// Calls that the tables don't know get ENOSYS, so that newer programs fall
// back, and the known but forbidden ones EPERM, so that the refusal shows.
func NSpawn(native Arch, retained uint64, extra Calls) []Filter {
	if len(extra.Allow)+len(extra.Deny) > 0 || (retained^usual)&counted() != 0 {
		yes, no := lists(retained, extra)
		return filters(native, yes, no)
	}
	// What nearly all machines have is compiled with this package.
	f := filters(native, readyYes[:], readyNo[:])
	for i := range ready {
		if r := &ready[i]; r.native == native {
			f[0].ready, f[1].ready = r.calls, r.audit
		}
	}
	return f
}

// usual are the capabilities that a machine keeps by default.
const usual = 0xfdecafff

// counted are the capabilities that something depends on.
func counted() (set uint64) {
	for i := range nspawnCapCalls {
		set |= 1 << nspawnCapCalls[i].cap
	}
	return set
}

// lists parts all calls into those that are allowed and the rest.
func lists(retained uint64, extra Calls) (yes, no []uint16) {
	var allowed callSet
	allowed.add(nspawnCalls[:])
	for i := range nspawnCapCalls {
		if retained&(1<<nspawnCapCalls[i].cap) != 0 {
			allowed.add(nspawnCapCalls[i].calls)
		}
	}
	allowed.add(extra.Allow)
	var denied callSet
	denied.add(extra.Deny)
	yes, no = make([]uint16, 0, len(callNames)), make([]uint16, 0, len(callNames))
	for c := range callNames {
		if allowed[c] && !denied[c] {
			yes = append(yes, uint16(c))
		} else {
			no = append(no, uint16(c))
		}
	}
	return yes, no
}

func filters(native Arch, yes, no []uint16) []Filter {
	archs := native.Siblings()
	return []Filter{
		{
			Archs:   archs,
			BadArch: Errno(unix.ENOSYS),
			Default: Errno(unix.ENOSYS),
			Rules: []Rule{
				{Action: Allow, calls: yes},
				{Action: Errno(unix.EPERM), calls: no},
			},
			// A refused accept is EPERM through socketcall too, but the
			// arguments there are a pointer and a sub-number only.
			CondsStayDirect: true,
		},
		NoAudit(archs),
	}
}

// NoAudit refuses sockets of the audit system, which isn't namespaced. The
// kernel reads both arguments as an int, so their high words are left out.
func NoAudit(archs []Arch) Filter {
	return Filter{
		Archs:   archs,
		BadArch: Allow,
		Default: Allow,
		Rules: []Rule{{
			Names:  []string{"socket"},
			Action: Errno(unix.EAFNOSUPPORT),
			Conds: []Cond{
				{Arg: 0, Op: MaskedEqual, Value: unix.AF_NETLINK, Mask: 0xffffffff},
				{Arg: 2, Op: MaskedEqual, Value: unix.NETLINK_AUDIT, Mask: 0xffffffff},
			},
		}},
		CondsStayDirect: true,
	}
}

// SuppressSync makes writes lazy: calls that would wait for the disk succeed
// at once, and files can't be opened for synchronous writing. A negative
// descriptor still reaches the kernel, and gets its EBADF there. openat2 keeps
// its flags behind a pointer and is answered with ENOSYS.
func SuppressSync(archs []Arch) Filter {
	open := func(name string, flags uint8) Rule {
		// O_SYNC contains O_DSYNC.
		return Rule{
			Names:  []string{name},
			Action: Errno(unix.EINVAL),
			Conds:  []Cond{{Arg: flags, Op: MaskedEqual, Value: unix.O_DSYNC, Mask: unix.O_DSYNC}},
		}
	}
	return Filter{
		Archs:   archs,
		BadArch: Allow,
		Default: Allow,
		Rules: []Rule{
			{Names: []string{"sync", "msync"}, Action: Errno(0)},
			{
				Names:  []string{"fsync", "fdatasync", "syncfs", "sync_file_range", "sync_file_range2"},
				Action: Errno(0),
				Conds:  []Cond{{Arg: 0, Op: MaskedEqual, Value: 0, Mask: 0x80000000}},
			},
			open("open", 1), open("openat", 2), open("open_by_handle_at", 2),
			{Names: []string{"openat2"}, Action: Errno(unix.ENOSYS)},
		},
	}
}

// AddressFamilies lets socket(2) make sockets of the given families only, or,
// with except, of all but those; others get EAFNOSUPPORT. No family at all
// refuses socket altogether (or, with except, nothing).
//
// Where sockets also come from socketcall, whose arguments can't be seen,
// closed says whether that way is refused altogether. 32-bit x86 programs of
// most distributions use it for every socket.
func AddressFamilies(archs []Arch, families []uint16, except, closed bool) Filter {
	refuse := Errno(unix.EAFNOSUPPORT)
	f := Filter{Archs: archs, BadArch: Allow, Default: Allow, CondsStayDirect: true}
	socket := func(conds ...Cond) {
		f.Rules = append(f.Rules, Rule{Names: []string{"socket"}, Action: refuse, Conds: conds})
	}
	sorted := slices.Clone(families)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	// The kernel reads the family as an int: only its low word counts for what
	// is refused by name. A value with a high word is above every family and
	// so refused where only some are allowed.
	one := func(family uint16) Cond {
		return Cond{Arg: 0, Op: MaskedEqual, Value: uint64(family), Mask: 0xffffffff}
	}
	switch {
	case except:
		for _, family := range sorted {
			socket(one(family))
		}
	case len(sorted) == 0:
		socket()
		return f
	default:
		if sorted[0] > 0 {
			socket(Cond{Arg: 0, Op: Less, Value: uint64(sorted[0])})
		}
		for i := 1; i < len(sorted); i++ {
			for family := sorted[i-1] + 1; family < sorted[i]; family++ {
				socket(one(family))
			}
		}
		socket(Cond{Arg: 0, Op: Greater, Value: uint64(sorted[len(sorted)-1])})
	}
	if closed && len(f.Rules) > 0 {
		var multiplexing []Arch
		for _, a := range archs {
			if arches[a].multiplexes {
				multiplexing = append(multiplexing, a)
			}
		}
		if multiplexing != nil {
			f.Rules = append(f.Rules, Rule{
				Names:  []string{"socketcall"},
				Action: refuse,
				Conds:  []Cond{{Arg: 0, Op: MaskedEqual, Value: 1, Mask: socketcallMask}},
				Archs:  multiplexing,
			})
		}
	}
	return f
}

// callSet has a place for each of callNames.
type callSet [len(callNames)]bool

func (s *callSet) add(names []string) {
	for _, name := range names {
		if calls, ok := groupCalls(name); ok {
			for _, c := range calls {
				s[c] = true
			}
		} else if c, ok := callIndex(name); ok {
			s[c] = true
		}
	}
}
