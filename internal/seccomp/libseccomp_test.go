package seccomp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// compileC builds a C program of testdata, or skips the test.
func compileC(t *testing.T, source string, flags ...string) string {
	t.Helper()
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no C compiler")
	}
	out := filepath.Join(t.TempDir(), "program")
	args := append([]string{"-O1", "-Wall", "-o", out, filepath.Join("testdata", source)}, flags...)
	if text, err := exec.Command(gcc, args...).CombinedOutput(); err != nil {
		t.Skipf("%s does not compile here: %s", source, text)
	}
	return out
}

// libseccomp's numbers for architectures are the audit tokens; x32 has one of
// its own there.
func (a Arch) libseccomp() uint32 {
	if a == X32 {
		return unix.AUDIT_ARCH_X86_64 &^ 0x80000000
	}
	return arches[a].token
}

var libseccompOps = [...]int{Equal: 4, NotEqual: 1, Less: 2, LessEqual: 3, Greater: 6, GreaterEqual: 5, MaskedEqual: 7}

// oracle has libseccomp build the same filter. Rules that it refuses, since
// their action is the default, are left out.
func oracle(t *testing.T, program string, f *Filter) ([]unix.SockFilter, error) {
	t.Helper()
	var in bytes.Buffer
	fmt.Fprintf(&in, "init %d %d\n", uint32(f.Default), uint32(f.BadArch))
	for _, a := range f.Archs {
		fmt.Fprintf(&in, "arch %d\n", a.libseccomp())
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Action == f.Default {
			continue
		}
		for _, name := range r.Names {
			fmt.Fprintf(&in, "rule %d %s %d", uint32(r.Action), name, len(r.Conds))
			for _, c := range r.Conds {
				a, b := c.Value, uint64(0)
				if c.Op == MaskedEqual {
					a, b = c.Mask, c.Value
				}
				fmt.Fprintf(&in, " %d %d %d %d", c.Arg, libseccompOps[c.Op], a, b)
			}
			in.WriteByte('\n')
		}
	}
	cmd := exec.Command(program)
	cmd.Stdin = &in
	var refusal bytes.Buffer
	cmd.Stderr = &refusal
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%v: %s", err, &refusal)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if arches[f.Archs[0]].big {
		order = binary.BigEndian
	}
	prog := make([]unix.SockFilter, len(out)/8)
	for i := range prog {
		b := out[8*i:]
		prog[i] = unix.SockFilter{Code: order.Uint16(b), Jt: b[2], Jf: b[3], K: order.Uint32(b[4:])}
	}
	return prog, nil
}

// commonNames are the calls that libseccomp knows under the same number on
// every architecture; it also reports those with another number.
func commonNames(t *testing.T, program string) []string {
	t.Helper()
	var in bytes.Buffer
	in.WriteString("names\n")
	for _, name := range callNames {
		for a := range Arch(archCount) {
			fmt.Fprintf(&in, "%s %d\n", name, a.libseccomp())
		}
	}
	cmd := exec.Command(program)
	cmd.Stdin = &in
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("resolve names: %v", err)
	}
	lines := strings.Fields(string(out))
	var common, unknown []string
	for i, name := range callNames {
		same := true
		for a := range Arch(archCount) {
			theirs, _ := strconv.Atoi(lines[i*archCount+int(a)])
			ours := int(callNumbers[i][a])
			if _, sub := multiplexed(name); sub != 0 && arches[a].multiplexes {
				if theirs >= 0 {
					t.Errorf("%s on %v: libseccomp does not multiplex it", name, a)
				}
				continue
			}
			if ours == theirs || ours < 0 && theirs < 0 {
				continue
			}
			same = false
			if theirs >= 0 && ours >= 0 {
				t.Errorf("%s on %v: %d, libseccomp says %d", name, a, ours, theirs)
			}
			if theirs >= 0 && ours < 0 {
				t.Logf("%s on %v: libseccomp knows it as %d", name, a, theirs)
			}
		}
		if name == "switch_endian" || name == "sys_debug_setcontext" {
			same = false // libseccomp 2.5 gives both names one pseudo number
		}
		if same {
			common = append(common, name)
		} else {
			unknown = append(unknown, name)
		}
	}
	t.Logf("not everywhere known to libseccomp: %s", strings.Join(unknown, " "))
	return common
}

func TestCompileAgainstLibseccomp(t *testing.T) {
	program := compileC(t, "oracle.c", "-lseccomp")
	names := commonNames(t, program)
	if len(names) < 400 {
		t.Fatalf("only %d calls in common", len(names))
	}
	r := rand.New(rand.NewPCG(5, 6))
	few := []string{"read", "write", "close", "socket", "connect", "accept", "bind", "send", "semop", "shmat",
		"ioctl", "clone", "personality", "execve", "preadv2", "waitid"}
	var filters []Filter
	for i := range 120 {
		list := names
		if i%2 == 0 {
			list = few
		}
		archs := archSets[i%len(archSets)]
		f := randomFilter(r, archs, list)
		settle(&f)
		filters = append(filters, f)
	}
	docker := dockerSize()
	docker.NewerENOSYS = false // is laid over libseccomp's program by its callers
	docker.Rules[0].Names = slices.DeleteFunc(docker.Rules[0].Names, func(n string) bool { return !slices.Contains(names, n) })
	filters = append(filters, docker)

	compared, refused, instructions, theirs, steps, theirSteps := 0, 0, 0, 0, 0, 0
	for i := range filters {
		f := &filters[i]
		want, err := oracle(t, program, f)
		if err != nil {
			refused++
			t.Logf("filter %d: libseccomp refuses it: %v", i, err)
			continue
		}
		got, err := f.Compile()
		if err != nil {
			t.Fatal(err)
		}
		instructions, theirs = len(got), len(want)
		bad := 0
		steps, theirSteps = 0, 0
		inputs(r, f, func(c call) {
			// The kernel reads socketcall's number as an int and ipc's as 16
			// bits; libseccomp compares the whole word.
			if name, _ := c.arch.Name(c.nr); name == "ipc" && c.args[0] > 0xffff || name == "socketcall" && c.args[0] > 0xffffffff {
				return
			}
			a, n, err := interpret(got, c)
			if err != nil {
				t.Fatal(err)
			}
			b, m, err := interpret(want, c)
			if err != nil {
				t.Fatal(err)
			}
			compared++
			steps += n
			theirSteps += m
			if a != b && bad < 5 {
				bad++
				name, _ := c.arch.Name(c.nr)
				t.Errorf("filter %d: %v %d (%s) %#x: %v, libseccomp %v", i, c.arch, c.nr, name, c.args, a, b)
			}
		})
		if bad > 0 {
			t.Logf("filter %d: %+v", i, *f)
		}
	}
	t.Logf("%d verdicts compared, %d of %d filters refused", compared, refused, len(filters))
	t.Logf("container profile: %d instructions, libseccomp %d; executed in sum %d and %d", instructions, theirs, steps, theirSteps)
	if refused*3 > len(filters) {
		t.Errorf("libseccomp refused %d of %d filters", refused, len(filters))
	}
}

// tangled says whether two rules for one call compare the same argument in a way
// that libseccomp 2.5 merges wrongly: with the rules "arg2 > 1" and "arg2 <= N
// and arg5 >= M" it loses sight of an arg2 of 0x100000000. Single equalities,
// which are what profiles have, are fine.
func tangled(a, b []Cond) bool {
	if len(a) == 1 && len(b) == 1 && a[0].Op == Equal && b[0].Op == Equal {
		return false
	}
	return slices.ContainsFunc(a, func(c Cond) bool {
		return slices.ContainsFunc(b, func(d Cond) bool { return c.Arg == d.Arg })
	})
}

// settle takes from a random filter what libseccomp reorders or refuses: two
// rules for one call have the same action, an unconditional rule comes alone.
func settle(f *Filter) {
	action := map[string]Action{}
	seen := map[string][]Rule{}
	// The sub-numbers of one carrier are one call.
	key := func(name string) string {
		if carrier, sub := multiplexed(name); sub != 0 {
			return carrier + strconv.Itoa(int(sub))
		}
		return name
	}
	var rules []Rule
	for _, r := range f.Rules {
		if r.Action == f.Default {
			continue
		}
		for _, name := range r.Names {
			a, ok := action[key(name)]
			if !ok {
				a = r.Action
				action[key(name)] = a
			}
			// All sub-numbers meet in their carrier.
			call := name
			if carrier, sub := multiplexed(name); sub != 0 {
				call = carrier
			}
			if slices.ContainsFunc(seen[call], func(o Rule) bool { return tangled(o.Conds, r.Conds) }) {
				continue
			}
			seen[call] = append(seen[call], r)
			rules = append(rules, Rule{Names: []string{name}, Action: a, Conds: r.Conds})
		}
	}
	f.Rules = rules
}
