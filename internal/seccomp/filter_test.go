package seccomp

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestGenerated(t *testing.T) {
	out, err := exec.Command("go", "run", "./gen").Output()
	if err != nil {
		t.Skipf("the generator can't run here: %v", err)
	}
	old, err := os.ReadFile("tables_gen.go")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, old) {
		t.Fatal("tables_gen.go is stale: run go generate")
	}
}

func TestTables(t *testing.T) {
	if !slices.IsSorted(callNames[:]) {
		t.Error("callNames are not sorted")
	}
	for _, k := range []struct {
		arch Arch
		name string
		nr   uint32
	}{
		{X86_64, "read", 0}, {X86_64, "mseal", 462}, {X86, "read", 3}, {X86, "socketcall", 102},
		{X32, "read", x32Bit}, {X32, "ioctl", x32Bit | 514}, {X32, "pwritev2", x32Bit | 547},
		{AArch64, "openat", 56}, {ARM, "set_tls", 0xf0005}, {S390X, "ipc", 117},
		{RISCV64, "riscv_hwprobe", 258}, {PPC64LE, "socket", 326},
	} {
		if nr, ok := k.arch.Number(k.name); !ok || nr != k.nr {
			t.Errorf("%v %s = %d %v, want %d", k.arch, k.name, nr, ok, k.nr)
		}
		if name, ok := k.arch.Name(k.nr); !ok || name != k.name {
			t.Errorf("%v %d = %q %v, want %s", k.arch, k.nr, name, ok, k.name)
		}
	}
	for a := Arch(0); a < archCount; a++ {
		have := 0
		for c := range callNumbers {
			if callNumbers[c][a] >= 0 {
				have++
			}
		}
		last := int64(-1)
		for _, c := range callsByNumber[a] {
			if nr := int64(callNumbers[c][a]); nr <= last {
				t.Errorf("%v: %s has the number %d, behind %d", a, callNames[c], nr, last)
			} else {
				last = nr
			}
		}
		if have != len(callsByNumber[a]) {
			t.Errorf("%v has %d calls, %d of them by number", a, have, len(callsByNumber[a]))
		}
	}
	if _, ok := AArch64.Number("open"); ok {
		t.Error("arm64 has no open")
	}
	if _, ok := X32.Number("uselib"); ok {
		t.Error("x32 has no uselib")
	}
	if n, ok := X86_64.Name(400); ok {
		t.Errorf("400 is no x86-64 call, got %s", n)
	}
	// Headers of the build machine, where there are any, are a second witness.
	for _, h := range []struct {
		arch         Arch
		path, prefix string
		base         uint32
	}{
		{X86_64, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "", 0},
		{X86, "/usr/include/x86_64-linux-gnu/asm/unistd_32.h", "", 0},
		{X32, "/usr/include/x86_64-linux-gnu/asm/unistd_x32.h", "(__X32_SYSCALL_BIT + ", x32Bit},
	} {
		text, err := os.ReadFile(h.path)
		if err != nil {
			t.Logf("not compared with %s: %v", h.path, err)
			continue
		}
		for _, line := range strings.Split(string(text), "\n") {
			rest, ok := strings.CutPrefix(line, "#define __NR_")
			name, value, ok2 := strings.Cut(rest, " ")
			if !ok || !ok2 {
				continue
			}
			value = strings.TrimSuffix(strings.TrimPrefix(value, h.prefix), ")")
			var want uint32
			for _, d := range value {
				want = want*10 + uint32(d-'0')
			}
			if nr, ok := h.arch.Number(name); !ok || nr != want|h.base {
				t.Errorf("%v %s: %d %v, the header says %d", h.arch, name, nr, ok, want|h.base)
			}
		}
	}
	for _, g := range Groups() {
		members, ok := Group(g)
		if !ok || len(members) == 0 {
			t.Errorf("group %s: %d members, %v", g, len(members), ok)
		}
	}
}

// randomFilter makes a filter of few numbers and many coincidences.
func randomFilter(r *rand.Rand, archs []Arch, names []string) Filter {
	actions := []Action{Allow, Errno(1), Errno(38), Trap, Log, KillProcess, KillThread, Trace(7)}
	f := Filter{
		Archs:   archs,
		Default: actions[r.IntN(3)],
		BadArch: actions[r.IntN(len(actions))],
	}
	values := []uint64{0, 1, 2, 9, 16, 40, 0xff, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 | 1, 1 << 63, ^uint64(0)}
	for range 1 + r.IntN(40) {
		rule := Rule{Action: actions[r.IntN(len(actions))]}
		for range 1 + r.IntN(12) {
			rule.Names = append(rule.Names, names[r.IntN(len(names))])
		}
		if r.IntN(2) == 0 {
			perm := r.Perm(6)
			for i := range 1 + r.IntN(3) {
				rule.Conds = append(rule.Conds, Cond{
					Arg:   uint8(perm[i]),
					Op:    Op(1 + r.IntN(7)),
					Value: values[r.IntN(len(values))],
					Mask:  values[r.IntN(len(values))],
				})
			}
		}
		f.Rules = append(f.Rules, rule)
	}
	return f
}

// inputs are all numbers around the tables, with arguments at the edges of the
// filter's conditions.
func inputs(r *rand.Rand, f *Filter, each func(call)) {
	edges := []uint64{0, 1, 2, 3, 9, 16, ^uint64(0), 1 << 32}
	for i := range f.Rules {
		for _, c := range f.Rules[i].Conds {
			edges = append(edges, c.Value, c.Value-1, c.Value+1, c.Value&0xffffffff, c.Value^1<<40, c.Mask)
		}
	}
	conditional := map[uint32]bool{102: true, 117: true}
	for i := range f.Rules {
		if len(f.Rules[i].Conds) == 0 {
			continue
		}
		for _, name := range f.Rules[i].Names {
			for _, a := range f.Archs {
				if nr, ok := a.Number(name); ok {
					conditional[nr] = true
				}
			}
		}
	}
	one := func(c call) {
		each(c)
		n := 1
		if conditional[c.nr] {
			n = 24
		}
		for range n {
			for i := range c.args {
				c.args[i] = edges[r.IntN(len(edges))]
			}
			if r.IntN(3) == 0 {
				c.args[0] = r.Uint64N(26)
			}
			each(c)
		}
	}
	for a := Arch(0); a < archCount; a++ {
		for nr := range uint32(701) {
			one(call{arch: a, nr: nr})
			if a == X86_64 {
				one(call{arch: X32, nr: nr | x32Bit})
			}
		}
		one(call{arch: a, nr: 0xffffffff})
		for nr := uint32(0xf0000); nr < 0xf0008; nr++ {
			one(call{arch: a, nr: nr})
		}
	}
	one(call{arch: X86_64, nr: 1, token: 0x12345678})
}

var archSets = [][]Arch{
	{X86_64, X86, X32}, {X86_64, X86}, {X86_64}, {X32}, {X86}, {AArch64, ARM}, {S390X}, {PPC64LE}, {RISCV64},
	{X86_64, X86, X32, AArch64, ARM, RISCV64, PPC64LE},
}

// judge holds a filter's program against the model.
func judge(t *testing.T, r *rand.Rand, f *Filter) {
	t.Helper()
	prog, err := f.Compile()
	if err != nil {
		t.Fatalf("%v: %+v", err, f)
	}
	if err := wellFormed(prog); err != nil {
		t.Fatal(err)
	}
	bad := 0
	inputs(r, f, func(c call) {
		got, _, err := interpret(prog, c)
		if err != nil {
			t.Fatal(err)
		}
		if want := model(f, c); got != want && bad < 5 {
			bad++
			name, _ := c.arch.Name(c.nr)
			t.Errorf("%v %d (%s) %#x: %v, the model says %v", c.arch, c.nr, name, c.args, got, want)
		}
	})
	if bad > 0 {
		t.Fatalf("filter: %+v", f)
	}
}

func TestCompileAgainstModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	few := []string{"read", "write", "close", "socket", "connect", "accept", "bind", "send", "semop", "shmat",
		"ioctl", "clone", "personality", "socketcall", "ipc", "set_tls", "execve", "preadv2", "mseal", "openat2", "waitid"}
	// A filter of both byte orders fits no machine, yet must not mix them up.
	for _, archs := range append(slices.Clip(archSets), []Arch{S390X, RISCV64}) {
		for i := range 3 {
			names := few
			if i == 0 {
				names = callNames[:]
			}
			f := randomFilter(r, archs, names)
			f.NewerENOSYS = r.IntN(2) == 0
			f.CondsStayDirect = r.IntN(2) == 0
			judge(t, r, &f)
		}
	}
	f := dockerSize()
	judge(t, r, &f)
	for _, f := range NSpawn(X86_64, 0xfdecafff, Calls{}) {
		judge(t, r, &f)
	}
}

// TestPasses: what is said to pass is allowed whatever the arguments are.
func TestPasses(t *testing.T) {
	native, ok := Native()
	if !ok {
		t.Skip("no table for this architecture")
	}
	r := rand.New(rand.NewPCG(3, 4))
	names := []string{"read", "write", "openat2", "mseal", "waitid", "ioctl"}
	passed, refused := 0, 0
	with := map[bool]int{}
	for i := range 300 {
		f := randomFilter(r, native.Siblings(), names)
		f.Rules = f.Rules[:min(len(f.Rules), 1+i%5)]
		f.NewerENOSYS = r.IntN(4) == 0
		if i%3 == 0 {
			f.Rules[0].Archs = native.Siblings()[:1]
		}
		pass := map[uint32]bool{}
		byNumber := map[uint32]string{}
		for _, name := range names {
			nr, _ := native.Number(name)
			byNumber[nr] = name
			if f.Passes(name) {
				pass[nr] = true
				passed++
			} else {
				refused++
			}
		}
		inputs(r, &f, func(c call) {
			if c.arch == native && c.token == 0 && pass[c.nr] && model(&f, c) != Allow {
				t.Fatalf("%d passes, but gets %v: %+v", c.nr, model(&f, c), f)
			}
			if name := byNumber[c.nr]; name != "" && c.arch == native && c.token == 0 {
				passes, allowed := f.PassesWith(name, c.args[:]...), model(&f, c) == Allow
				if passes && !allowed || allowed && !passes && !f.NewerENOSYS {
					t.Fatalf("%s with %#x passes: %v, but it gets %v: %+v", name, c.args, passes, model(&f, c), f)
				}
				with[passes]++
			}
		})
	}
	if with[true] < 1000 || with[false] < 1000 {
		t.Errorf("with arguments: %v: too few to tell", with)
	}
	if passed < 100 || refused < 100 {
		t.Errorf("%d calls passed and %d did not: too few to tell", passed, refused)
	}
	f := NSpawn(native, 0xfdecafff, Calls{})[0]
	for name, want := range map[string]bool{"read": true, "mount_setattr": true, "kexec_load": false, "no_such_call": false} {
		if f.Passes(name) != want || want != f.Passes("read", name) {
			t.Errorf("systemd-nspawn's filter passes %s: %v, want %v", name, !want, want)
		}
	}
	raw := Filter{Raw: []unix.SockFilter{{Code: giveBack, K: uint32(Allow)}}}
	if raw.Passes("read") {
		t.Error("of a program nothing is known")
	}
}

// The kernel reads less of a sub-number than a register holds.
func TestMultiplexed(t *testing.T) {
	f := Filter{Archs: []Arch{X86, S390X}, Default: Allow, Rules: []Rule{
		{Names: []string{"semop", "socket"}, Action: Errno(1)},
		{Names: []string{"shmat", "bind"}, Action: Errno(2), Conds: []Cond{{Arg: 0, Op: Equal, Value: 77}}},
	}}
	for _, direct := range []bool{false, true} {
		f.CondsStayDirect = direct
		bind := Errno(2)
		if direct {
			bind = Allow
		}
		for _, k := range []struct {
			c    call
			want Action
		}{
			{named(t, X86, "ipc", 1), Errno(1)},
			{named(t, X86, "ipc", 1<<16|1), Errno(1)},
			{named(t, S390X, "ipc", 5<<32|1<<16|1), Errno(1)},
			{named(t, X86, "ipc", 2), Allow},
			{named(t, X86, "ipc", 21), bind},
			{named(t, S390X, "socketcall", 1<<32|1), Errno(1)},
			{named(t, X86, "socketcall", 1<<16|1), Allow},
			{named(t, X86, "socketcall", 2), bind},
			{named(t, X86, "bind", 77), Errno(2)},
			{named(t, X86, "bind", 2), Allow},
			{named(t, S390X, "bind", 77), Errno(2)},
		} {
			if got := verdictOfAll(t, []Filter{f}, k.c); got != k.want {
				t.Errorf("direct %v: %v %d %#x: %v, want %v", direct, k.c.arch, k.c.nr, k.c.args, got, k.want)
			}
		}
	}
}

// A filter that is larger than conditional jumps reach.
func TestCompileFar(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	f := Filter{Archs: []Arch{X86_64, X86}, BadArch: KillProcess, Default: Errno(1)}
	for i, name := range callNames {
		if i%2 == 0 && len(f.Rules) < 150 {
			f.Rules = append(f.Rules, Rule{Names: []string{name}, Action: Errno(unix.Errno(i + 2)),
				Conds: []Cond{{Arg: uint8(i % 6), Op: Op(1 + i%7), Value: uint64(i) << 30, Mask: 0xfff0fff0fff0}}})
		}
	}
	judge(t, r, &f)
	for i := range f.Rules {
		for a := range 6 {
			f.Rules[i].Conds = append(f.Rules[i].Conds, Cond{Arg: uint8(a), Op: Equal, Value: 1 << 40})
		}
	}
	if _, err := f.Compile(); err == nil {
		t.Error("a program above the kernel's limit was given")
	}
}

func TestCompileRefuses(t *testing.T) {
	for name, f := range map[string]Filter{
		"no architecture":      {},
		"unknown architecture": {Archs: []Arch{99}},
		"argument":             {Archs: []Arch{X86}, Rules: []Rule{{Conds: []Cond{{Arg: 6, Op: Equal}}}}},
		"comparison":           {Archs: []Arch{X86}, Rules: []Rule{{Conds: []Cond{{}}}}},
	} {
		if _, err := f.Compile(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// dockerSize is a filter of the size and kind that container engines send.
func dockerSize() Filter {
	var names []string
	for _, g := range []string{"@system-service", "@timer", "@io-event"} {
		members, _ := Group(g)
		names = append(names, members...)
	}
	special := []string{"personality", "socket", "clone", "clone3"}
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(special, n) })
	slices.Sort(names)
	names = slices.Compact(names)
	rules := []Rule{{Names: names, Action: Allow}}
	for _, v := range []uint64{0, 8, 0x20000, 0x20008, 0xffffffff} {
		rules = append(rules, Rule{Names: []string{"personality"}, Action: Allow, Conds: []Cond{{Arg: 0, Op: Equal, Value: v}}})
	}
	rules = append(rules,
		Rule{Names: []string{"socket"}, Action: Allow, Conds: []Cond{{Arg: 0, Op: NotEqual, Value: 40}}},
		Rule{Names: []string{"clone"}, Action: Allow, Conds: []Cond{{Arg: 0, Op: MaskedEqual, Mask: 0x7e020000}}},
		Rule{Names: []string{"clone3"}, Action: Errno(unix.ENOSYS)},
	)
	f, err := OCI(X86_64, []Arch{X86_64, X86, X32}, Errno(unix.EPERM), rules, 0)
	if err != nil {
		panic(err)
	}
	return f
}

func BenchmarkDockerSize(b *testing.B) {
	f := dockerSize()
	b.ReportAllocs()
	var prog []unix.SockFilter
	for b.Loop() {
		prog, _ = f.Compile()
	}
	b.ReportMetric(float64(len(prog)), "instructions")
	b.ReportMetric(float64(len(f.Rules[0].Names)), "names")
}

func BenchmarkNSpawn(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		for _, f := range NSpawn(X86_64, 0xfdecafff, Calls{}) {
			if _, err := f.Compile(); err != nil {
				b.Fatal(err)
			}
		}
	}
}

var update = flag.Bool("update", false, "write golden files anew")

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs:\n%s", path, got)
	}
}

// Group gives the members of a group such as @file-system. @known is every
// call of every table.
func Group(name string) ([]string, bool) {
	calls, ok := groupCalls(name)
	if !ok {
		return nil, false
	}
	names := make([]string, len(calls))
	for i, c := range calls {
		names[i] = callNames[c]
	}
	return names, true
}

// Groups lists the names of all groups.
func Groups() []string {
	names := make([]string, 0, len(groups)+1)
	for i := range groups {
		names = append(names, groups[i].name)
	}
	names = append(names, "@known")
	slices.Sort(names)
	return names
}
