package seccomp

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// prober builds the C program that makes calls under filters. It is static, so
// that it runs in an empty tree.
func prober(t *testing.T) string {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		t.Skip("the prober is written for amd64")
	}
	return compileC(t, "prober.c", "-static", "-fomit-frame-pointer", "-mno-red-zone")
}

// has32 says whether the machine runs i386 calls; some hypervisors don't let
// them through whatever the kernel was built with.
func has32(t *testing.T, program string) bool {
	t.Helper()
	path := writeCalls(t, t.TempDir(), []call{named(t, X86, "getppid")})
	out, err := exec.Command(program, path).Output()
	return err == nil && strings.TrimSpace(string(out)) == "0"
}

func writeCalls(t *testing.T, dir string, calls []call) string {
	t.Helper()
	var b strings.Builder
	for _, c := range calls {
		abi := 0
		if c.arch == X86 {
			abi = 1
		}
		fmt.Fprintf(&b, "%x %x", abi, c.nr)
		for _, a := range c.args {
			fmt.Fprintf(&b, " %x", a)
		}
		b.WriteByte('\n')
	}
	path := filepath.Join(dir, "calls")
	if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFilters(t *testing.T, dir string, filters []Filter) []string {
	t.Helper()
	var paths []string
	for i := range filters {
		prog, err := filters[i].Compile()
		if err != nil {
			t.Fatal(err)
		}
		var b []byte
		for _, ins := range prog {
			b = binary.LittleEndian.AppendUint16(b, ins.Code)
			b = append(b, ins.Jt, ins.Jf)
			b = binary.LittleEndian.AppendUint32(b, ins.K)
		}
		path := filepath.Join(dir, "filter"+strconv.Itoa(i))
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func results(t *testing.T, out []byte, want int) []int {
	t.Helper()
	var list []int
	for _, f := range strings.Fields(string(out)) {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatalf("the prober says %q", f)
		}
		list = append(list, n)
	}
	if len(list) != want {
		t.Fatalf("%d results for %d calls", len(list), want)
	}
	return list
}

// The kernel takes a random filter and gives the verdicts of the model. Only
// calls that get an errno or a kill are made, so nothing happens to the host.
// A mark in argument 5 keeps the prober's own calls out of the filter.
func TestKernel(t *testing.T) {
	const mark = 0x5ec00000c0ffee
	program := prober(t)
	abis := []Arch{X86_64, X32}
	if has32(t, program) {
		abis = append(abis, X86)
	} else {
		t.Log("i386 calls don't work on this machine: not tried")
	}
	r := rand.New(rand.NewPCG(7, 8))
	dir := t.TempDir()
	f := Filter{Archs: abis, BadArch: KillProcess, Default: Allow}
	values := []uint64{0, 1, 0x80000000, 0xffffffff, 1 << 32, 1 << 63, ^uint64(0)}
	for i, name := range callNames {
		if i%5 < 3 {
			continue // all of them would be too many instructions
		}
		conds := []Cond{{Arg: 5, Op: Equal, Value: mark}}
		if i%4 != 0 {
			conds = append(conds, Cond{Arg: uint8(i % 5), Op: Op(1 + i%7), Value: values[r.IntN(len(values))], Mask: values[r.IntN(len(values))]})
		}
		action := Errno(unix.Errno(1000 + i))
		if i%41 == 0 {
			action = KillProcess
		}
		f.Rules = append(f.Rules, Rule{Names: []string{name}, Action: action, Conds: conds})
	}
	var calls []call
	var want []int
	for _, a := range abis {
		for _, at := range callsByNumber[a] {
			nr, _ := a.Number(callNames[at])
			for range 3 {
				c := call{arch: a, nr: nr}
				for i := range 5 {
					c.args[i] = values[r.IntN(len(values))] + uint64(r.IntN(3)) - 1
				}
				c.args[5] = mark
				if a == X86 {
					for i := range c.args {
						c.args[i] &= 0xffffffff
					}
				}
				switch v := model(&f, c); {
				case v == KillProcess:
					want = append(want, -int(unix.SIGSYS))
				case uint32(v)&unix.SECCOMP_RET_ACTION_FULL == unix.SECCOMP_RET_ERRNO:
					want = append(want, int(v&0xffff))
				default:
					continue
				}
				calls = append(calls, c)
			}
		}
	}
	args := append([]string{writeCalls(t, dir, calls)}, writeFilters(t, dir, []Filter{f})...)
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("prober: %v", err)
	}
	for i, got := range results(t, out, len(calls)) {
		if got != want[i] {
			name, _ := calls[i].arch.Name(calls[i].nr)
			t.Errorf("%v %s %#x: %d, want %d", calls[i].arch, name, calls[i].args, got, want[i])
		}
	}
	t.Logf("%d calls", len(calls))
}

// newerThan252 are the calls that get another answer here than under
// systemd-nspawn 252, whose lists are older: allowed since then, or known since
// then and so refused with EPERM instead of ENOSYS.
var newerThan252 = strings.Fields(`add_key keyctl request_key listns lsm_set_self_attr nfsservctl cachestat futex_requeue futex_wait futex_wake
	file_getattr file_setattr getxattrat listxattrat removexattrat setxattrat
	landlock_add_rule landlock_create_ruleset landlock_restrict_self listmount
	lsm_get_self_attr lsm_list_modules map_shadow_stack mseal open_tree_attr
	rseq_slice_yield statmount`)

// peer is a machine of systemd-nspawn with nothing in it but the prober.
type peer struct {
	nspawn, tree string
	calls        []call
}

func newPeer(t *testing.T, program string, calls []call) peer {
	t.Helper()
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skip("no systemd-nspawn")
	}
	if os.Geteuid() != 0 {
		t.Skip("systemd-nspawn needs root")
	}
	tree := filepath.Join(t.TempDir(), "seccomp-peer")
	for _, dir := range []string{"usr", "etc"} {
		if err := os.MkdirAll(filepath.Join(tree, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(filepath.Join(tree, "prober"), text, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(tree, "etc/os-release"), []byte("ID=test\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	writeCalls(t, tree, calls)
	return peer{nspawn, tree, calls}
}

// peerGroups are the cgroups that systemd-nspawn makes below the one that it is
// started in, and leaves.
func peerGroups() (list []string) {
	text, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		_, own, _ := strings.Cut(strings.TrimSpace(line), ":/")
		for _, hierarchy := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/systemd/", "/sys/fs/cgroup/unified/"} {
			for _, name := range []string{"payload", "supervisor"} {
				if g := filepath.Join(hierarchy, own, name); !slices.Contains(list, g) {
					if _, err := os.Stat(g); err == nil {
						list = append(list, g)
					}
				}
			}
		}
	}
	return list
}

// results makes the calls in a machine with those flags: under nspawn's own
// filters, or under ours only.
func (p peer) results(t *testing.T, ours []Filter, flags ...string) []int {
	t.Helper()
	args := append([]string{"-q", "-D", p.tree, "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off",
		"--timezone=off", "--link-journal=no"}, flags...)
	args = append(args, "/prober", "/calls")
	env := "SYSTEMD_SECCOMP=1"
	if ours != nil {
		env = "SYSTEMD_SECCOMP=0"
		for _, path := range writeFilters(t, p.tree, ours) {
			args = append(args, "/"+filepath.Base(path))
		}
	}
	before := peerGroups()
	defer func() {
		for _, g := range peerGroups() {
			if !slices.Contains(before, g) {
				os.Remove(g)
			}
		}
	}()
	cmd := exec.Command(p.nspawn, args...)
	cmd.Env = append(os.Environ(), env)
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("systemd-nspawn does not work here: %v: %s", err, &complaint)
	}
	return results(t, out, len(p.calls))
}

// Every number is called with nonsense under systemd-nspawn's own filter, and
// again without it under ours, in the same kind of machine.
func TestNSpawnPeer(t *testing.T) {
	program := prober(t)
	// These end, stop, multiply or signal the caller, or reach outside.
	never := strings.Fields(`exit exit_group fork vfork clone clone3 pause kill tkill tgkill rt_sigreturn sigreturn
		rt_sigsuspend sigsuspend reboot vhangup sync syncfs alarm setitimer restart_syscall kexec_load kexec_file_load
		rt_sigqueueinfo rt_tgsigqueueinfo acct settimeofday stime adjtimex iopl ioperm nice`)
	abis := []Arch{X86_64, X32}
	if has32(t, program) {
		abis = append(abis, X86)
	}
	var calls []call
	for _, a := range abis {
		for nr := range uint32(520) {
			if a == X32 {
				nr |= x32Bit
			}
			if name, _ := a.Name(nr); slices.Contains(never, name) {
				continue
			}
			c := call{arch: a, nr: nr}
			for i := range c.args {
				c.args[i] = ^uint64(0)
			}
			if a == X86 {
				for i := range c.args {
					c.args[i] = 0xffffffff
				}
			}
			calls = append(calls, c)
		}
	}
	nrSocket, _ := X86_64.Number("socket")
	for _, k := range [][3]uint64{{16, 3, 9}, {16, 3, 0}, {16 | 1<<32, 3, 9}, {1, 1, 0}} {
		calls = append(calls, call{arch: X86_64, nr: nrSocket, args: [6]uint64{k[0], k[1], k[2]}})
	}

	p := newPeer(t, program, calls)
	theirs := p.results(t, nil)
	ours := p.results(t, NSpawn(X86_64, usualCaps, Calls{}))
	differ, refused := 0, 0
	for i, c := range calls {
		if ours[i] == int(unix.EPERM) {
			refused++
		}
		if ours[i] == theirs[i] {
			continue
		}
		name, _ := c.arch.Name(c.nr)
		if name == "socket" && c.args[0]>>32 != 0 && ours[i] == int(unix.EAFNOSUPPORT) {
			continue // the peer's comparison is undone by a high word
		}
		if slices.Contains(newerThan252, name) {
			differ++
			continue
		}
		t.Errorf("%v %d %s %#x: %d, systemd-nspawn %d", c.arch, c.nr, name, c.args, ours[i], theirs[i])
	}
	t.Logf("%d calls, %d refused, %d newer than the peer's list", len(calls), refused, differ)
	if refused < 15 {
		t.Errorf("only %d calls were refused: was the filter in place?", refused)
	}
}

// The options that change the filter do what the peer's do.
func TestNSpawnPeerOptions(t *testing.T) {
	minusOne := ^uint64(0)
	var calls []call
	for _, k := range []struct {
		name string
		args []uint64
	}{
		{"fsync", []uint64{0}}, {"fsync", []uint64{minusOne}}, {"fdatasync", []uint64{999}}, {"fdatasync", []uint64{0xffffffff}},
		{"syncfs", []uint64{999}}, {"msync", []uint64{minusOne, 1, 99}}, {"sync_file_range", []uint64{999}},
		{"open", []uint64{0, unix.O_SYNC}}, {"open", []uint64{0, unix.O_DSYNC}}, {"open", []uint64{0, 0}},
		{"openat", []uint64{minusOne, 0, unix.O_SYNC}}, {"openat", []uint64{minusOne, 0, unix.O_DSYNC}}, {"openat", []uint64{minusOne, 0, 0}},
		{"openat2", []uint64{minusOne}}, {"swapon", nil}, {"swapoff", nil}, {"perf_event_open", nil}, {"getpriority", nil},
		{"settimeofday", []uint64{minusOne}}, {"userfaultfd", []uint64{minusOne}}, {"syslog", []uint64{minusOne}}, {"bpf", []uint64{minusOne}},
	} {
		calls = append(calls, named(t, X86_64, k.name, k.args...))
	}
	p := newPeer(t, prober(t), calls)
	with := func(caps uint64, values ...string) []Filter {
		var extra Calls
		for _, v := range values {
			extra.Add(v)
		}
		return NSpawn(X86_64, caps, extra)
	}
	for _, k := range []struct {
		flags []string
		ours  []Filter
	}{
		{[]string{"--suppress-sync=yes"}, append(with(usualCaps), SuppressSync(X86_64.Siblings()))},
		{[]string{"--system-call-filter=@swap perf_event_open"}, with(usualCaps, "@swap perf_event_open")},
		{[]string{"--system-call-filter=@swap", "--system-call-filter=~swapoff getpriority"}, with(usualCaps, "@swap", "~swapoff getpriority")},
		{[]string{"--capability=CAP_SYS_TIME,CAP_SYSLOG"},
			with(usualCaps | 1<<unix.CAP_SYS_TIME | 1<<unix.CAP_SYSLOG)},
	} {
		// Ours gets only what the flags mean for capabilities.
		var caps []string
		for _, flag := range k.flags {
			if strings.HasPrefix(flag, "--capability=") {
				caps = append(caps, flag)
			}
		}
		theirs, ours := p.results(t, nil, k.flags...), p.results(t, k.ours, caps...)
		for i, c := range calls {
			if ours[i] != theirs[i] {
				name, _ := c.arch.Name(c.nr)
				t.Errorf("%v: %s %#x: %d, systemd-nspawn %d", k.flags, name, c.args, ours[i], theirs[i])
			}
		}
	}
}
