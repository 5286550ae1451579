package seccomp

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const usualCaps = 0xfdecafff // what a machine keeps by default

// verdict runs a call through filters as the kernel does, the newest first,
// and gives the strictest answer.
func verdictOfAll(t *testing.T, filters []Filter, c call) Action {
	t.Helper()
	rank := func(a Action) int32 { return int32(uint32(a) & unix.SECCOMP_RET_ACTION_FULL) }
	out := Allow
	for i := len(filters) - 1; i >= 0; i-- {
		prog, err := filters[i].Compile()
		if err != nil {
			t.Fatal(err)
		}
		got, _, err := interpret(prog, c)
		if err != nil {
			t.Fatal(err)
		}
		if rank(got) < rank(out) {
			out = got
		}
	}
	return out
}

func named(t *testing.T, a Arch, name string, args ...uint64) call {
	t.Helper()
	nr, ok := a.Number(name)
	if !ok {
		t.Fatalf("%v has no %s", a, name)
	}
	c := call{arch: a, nr: nr}
	copy(c.args[:], args)
	return c
}

func TestNSpawn(t *testing.T) {
	eperm, enosys, noaf := Errno(unix.EPERM), Errno(unix.ENOSYS), Errno(unix.EAFNOSUPPORT)
	var deny, allow, both Calls
	deny.Add("~@mount reboot")
	allow.Add("swapon @swap perf_event_open")
	both.Add("perf_event_open")
	both.Add("~ perf_event_open")
	if u := both.Add("read frobnicate @nothing"); !slices.Equal(u, []string{"frobnicate", "@nothing"}) {
		t.Errorf("unknown: %q", u)
	}
	all := ^uint64(0)
	for _, k := range []struct {
		arch  Arch
		name  string
		args  []uint64
		caps  uint64
		extra Calls
		want  Action
	}{
		{arch: X86_64, name: "read", want: Allow},
		{arch: X86, name: "read", want: Allow},
		{arch: X32, name: "read", want: Allow},
		{arch: X86_64, name: "mount", want: Allow},
		{arch: X86_64, name: "mseal", want: Allow},
		{arch: X86_64, name: "futex_wait", want: Allow},
		{arch: X86_64, name: "landlock_restrict_self", want: Allow},
		{arch: X86_64, name: "io_uring_setup", want: Allow},
		{arch: X86_64, name: "statmount", want: Allow},
		{arch: X86_64, name: "kexec_load", want: eperm},
		{arch: X86_64, name: "kexec_load", caps: all, want: eperm},
		{arch: X86, name: "swapon", want: eperm},
		{arch: X86_64, name: "open_by_handle_at", want: eperm},
		{arch: X86_64, name: "reboot", want: Allow}, // CAP_SYS_BOOT is kept
		{arch: X86_64, name: "reboot", caps: 1, want: eperm},
		{arch: X86_64, name: "ptrace", caps: 1, want: eperm},
		{arch: X86_64, name: "process_vm_readv", caps: 1, want: Allow}, // through @ipc
		{arch: X86_64, name: "settimeofday", want: eperm},
		{arch: X86_64, name: "settimeofday", caps: 1 << unix.CAP_SYS_TIME, want: Allow},
		{arch: X86_64, name: "bpf", want: eperm},
		{arch: X86_64, name: "bpf", caps: 1 << unix.CAP_BPF, want: Allow},
		{arch: X86_64, name: "mount", extra: deny, want: eperm},
		{arch: X86_64, name: "move_mount", extra: deny, want: eperm},
		{arch: X86_64, name: "open_tree", extra: deny, want: eperm},
		{arch: X86_64, name: "reboot", extra: deny, want: eperm},
		{arch: X86_64, name: "swapoff", extra: allow, want: Allow},
		{arch: X86_64, name: "perf_event_open", extra: allow, want: Allow},
		{arch: X86_64, name: "perf_event_open", extra: both, want: eperm},
		{arch: X86_64, name: "socket", args: []uint64{unix.AF_NETLINK, 3, unix.NETLINK_AUDIT}, want: noaf},
		{arch: X86_64, name: "socket", args: []uint64{1<<32 | unix.AF_NETLINK, 3, 1<<40 | unix.NETLINK_AUDIT}, want: noaf},
		{arch: X86_64, name: "socket", args: []uint64{unix.AF_NETLINK, 3, 0}, want: Allow},
		{arch: X86, name: "socket", args: []uint64{unix.AF_NETLINK, 3, unix.NETLINK_AUDIT}, want: noaf},
		{arch: X86, name: "socketcall", args: []uint64{1, unix.AF_NETLINK, unix.NETLINK_AUDIT}, want: Allow},
	} {
		if k.caps == 0 {
			k.caps = usualCaps
		}
		got := verdictOfAll(t, NSpawn(X86_64, k.caps, k.extra), named(t, k.arch, k.name, k.args...))
		if got != k.want {
			t.Errorf("%v %s %#x, caps %#x, %v: %v, want %v", k.arch, k.name, k.args, k.caps, k.extra, got, k.want)
		}
	}
	for _, c := range []call{
		{arch: X86_64, nr: 600}, {arch: X86, nr: 600}, {arch: X32, nr: x32Bit | 600}, {arch: X86_64, nr: 400},
		{arch: AArch64, nr: 63},
	} {
		if got := verdictOfAll(t, NSpawn(X86_64, usualCaps, Calls{}), c); got != enosys {
			t.Errorf("%v %d: %v, want ENOSYS", c.arch, c.nr, got)
		}
	}
	if got := verdictOfAll(t, NSpawn(AArch64, usualCaps, Calls{}), named(t, ARM, "set_tls")); got != Allow {
		t.Errorf("arm set_tls: %v", got)
	}
}

func TestSuppressSync(t *testing.T) {
	filters := []Filter{SuppressSync(X86_64.Siblings())}
	minusOne := ^uint64(0)
	for _, k := range []struct {
		name string
		args []uint64
		want Action
	}{
		{"fsync", []uint64{3}, Errno(0)},
		{"fsync", []uint64{7<<32 | 3}, Errno(0)},
		{"fsync", []uint64{minusOne}, Allow},
		{"fsync", []uint64{0xffffffff}, Allow},
		{"sync", nil, Errno(0)},
		{"msync", []uint64{minusOne}, Errno(0)},
		{"syncfs", []uint64{0}, Errno(0)},
		{"open", []uint64{0, unix.O_SYNC}, Errno(unix.EINVAL)},
		{"openat", []uint64{minusOne, 0, unix.O_DSYNC | unix.O_RDWR}, Errno(unix.EINVAL)},
		{"openat", []uint64{unix.O_DSYNC, unix.O_DSYNC, unix.O_RDWR}, Allow},
		{"openat2", nil, Errno(unix.ENOSYS)},
		{"write", []uint64{1}, Allow},
	} {
		for _, a := range X86_64.Siblings() {
			if got := verdictOfAll(t, filters, named(t, a, k.name, k.args...)); got != k.want {
				t.Errorf("%v %s %#x: %v, want %v", a, k.name, k.args, got, k.want)
			}
		}
	}
}

func TestAddressFamilies(t *testing.T) {
	archs := []Arch{X86_64, X86, AArch64}
	list := []uint16{unix.AF_INET6, unix.AF_UNIX, unix.AF_INET, unix.AF_NETLINK, unix.AF_INET}
	for _, k := range []struct {
		families       []uint16
		except, closed bool
		refused        func(uint32) bool
	}{
		{list, false, false, func(n uint32) bool { return !slices.Contains(list, uint16(n)) }},
		{list, false, true, func(n uint32) bool { return !slices.Contains(list, uint16(n)) }},
		{list, true, false, func(n uint32) bool { return slices.Contains(list, uint16(n)) }},
		{nil, false, true, func(uint32) bool { return true }},
		{nil, true, true, func(uint32) bool { return false }},
		{[]uint16{0}, false, false, func(n uint32) bool { return n != 0 }},
	} {
		filters := []Filter{AddressFamilies(archs, k.families, k.except, k.closed)}
		for n := range uint64(52) {
			for _, a := range archs {
				// What the kernel takes for a refused family must be refused
				// whatever the high word says.
				for _, high := range []uint64{0, 1 << 32} {
					got := verdictOfAll(t, filters, named(t, a, "socket", high|n))
					want := k.refused(uint32(n))
					if (got != Allow) != want && !(high != 0 && !k.except && got != Allow) {
						t.Errorf("%+v: %v socket(%#x): %v", k, a, high|n, got)
					}
				}
			}
		}
		got := verdictOfAll(t, filters, named(t, X86, "socketcall", 1))
		// With no family at all the rule has no condition to stay direct for.
		want := k.closed && !k.except || len(k.families) == 0 && !k.except
		if (got != Allow) != want {
			t.Errorf("%+v: socketcall(1): %v", k, got)
		}
		if got := verdictOfAll(t, filters, named(t, X86, "socketcall", 3)); got != Allow {
			t.Errorf("%+v: socketcall(connect): %v", k, got)
		}
	}
}

func TestDescribe(t *testing.T) {
	var b strings.Builder
	var extra Calls
	extra.Add("~swapon @clock")
	filters := append(NSpawn(X86_64, usualCaps, extra), SuppressSync([]Arch{AArch64}),
		AddressFamilies([]Arch{X86_64, X86}, []uint16{1, 2}, false, true))
	for i := range filters {
		for _, line := range filters[i].Describe() {
			b.WriteString(line + "\n")
		}
		b.WriteString("\n")
	}
	golden(t, "testdata/describe.txt", b.String())
}

func TestOCI(t *testing.T) {
	seven := uint(7)
	for _, k := range []struct {
		name   string
		number *uint
		want   Action
		fails  bool
	}{
		{"SCMP_ACT_ERRNO", nil, Errno(1), false}, {"SCMP_ACT_ERRNO", &seven, Errno(7), false},
		{"SCMP_ACT_TRACE", &seven, Trace(7), false}, {"SCMP_ACT_KILL", nil, KillThread, false},
		{"SCMP_ACT_KILL_PROCESS", nil, KillProcess, false}, {"SCMP_ACT_ALLOW", &seven, 0, true},
		{"SCMP_ACT_FROB", nil, 0, true}, {"SCMP_ACT_NOTIFY", nil, Notify, false},
	} {
		got, err := ParseAction(k.name, k.number)
		if got != k.want || (err != nil) != k.fails {
			t.Errorf("%s: %v, %v", k.name, got, err)
		}
	}
	masked, err := ParseCond(2, "SCMP_CMP_MASKED_EQ", 0xf0, 0x10)
	if err != nil || masked != (Cond{2, MaskedEqual, 0x10, 0xf0}) {
		t.Errorf("masked: %+v %v", masked, err)
	}
	one := Cond{Arg: 0, Op: Equal, Value: 1}
	two := Cond{Arg: 0, Op: Equal, Value: 2}
	other := Cond{Arg: 1, Op: Equal, Value: 3}
	if r := OCIRules([]string{"read"}, Allow, []Cond{one, other}); len(r) != 1 || len(r[0].Conds) != 2 {
		t.Errorf("two arguments: %+v", r)
	}
	rules := OCIRules([]string{"read"}, Allow, []Cond{one, other, two})
	f, err := OCI(X86_64, []Arch{X86}, Errno(1), rules, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		c    call
		want Action
	}{
		{named(t, X86_64, "read", 2, 0), Allow}, {named(t, X86_64, "read", 1, 0), Allow},
		{named(t, X86_64, "read", 9, 3), Allow}, {named(t, X86_64, "read", 9, 9), Errno(1)},
		{named(t, X86_64, "write"), Errno(unix.ENOSYS)}, {named(t, X86, "exit"), Errno(1)},
		{named(t, X86, "write"), Errno(unix.ENOSYS)}, {named(t, X32, "read"), KillThread},
	} {
		if got := verdictOfAll(t, []Filter{f}, k.c); got != k.want {
			t.Errorf("%v %d %v: %v, want %v", k.c.arch, k.c.nr, k.c.args, got, k.want)
		}
	}
	if _, err := OCI(X86_64, nil, Notify, nil, 0); err == nil {
		t.Error("notify as the default is accepted")
	}
	notify := []Rule{{Names: []string{"mount"}, Action: Notify}}
	if f, err := OCI(X86_64, nil, Allow, notify, unix.SECCOMP_FILTER_FLAG_TSYNC); err != nil ||
		f.Flags != unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_TSYNC|unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH {
		t.Errorf("notify: flags %#x, %v", f.Flags, err)
	}
	notify[0].Names[0] = "write"
	if _, err := OCI(X86_64, nil, Allow, notify, 0); err == nil {
		t.Error("notify for write is accepted")
	}
}
