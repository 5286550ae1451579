package resource

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// run is the kernel's side of Program: an interpreter that knows these
// instructions and no others.
func run(t *testing.T, p []Instruction, kind, access, major, minor uint32) bool {
	t.Helper()
	ctx := [3]uint32{access<<16 | kind, major, minor}
	var r [11]uint64
	for pc := 0; ; pc++ {
		if pc < 0 || pc >= len(p) {
			t.Fatalf("the program leaves its end at %d", pc)
		}
		i := p[pc]
		imm := uint64(int64(i.Imm))
		switch i.Op {
		case opLoadWord:
			if i.Src != 1 || i.Off%4 != 0 || i.Off < 0 || i.Off > 8 {
				t.Fatalf("load of %d:%d", i.Src, i.Off)
			}
			r[i.Dst] = uint64(ctx[i.Off/4])
		case opMoveReg:
			r[i.Dst] = r[i.Src]
		case opMoveImm:
			r[i.Dst] = imm
		case opAnd:
			r[i.Dst] &= imm
		case opShift:
			r[i.Dst] >>= imm
		case opEqual:
			if r[i.Dst] == imm {
				pc += int(i.Off)
			}
		case opNotEqual:
			if r[i.Dst] != imm {
				pc += int(i.Off)
			}
		case opAnyBit:
			if r[i.Dst]&imm != 0 {
				pc += int(i.Off)
			}
		case opJump:
			pc += int(i.Off)
		case opExit:
			return r[0] != 0
		default:
			t.Fatalf("unknown instruction %#x", i.Op)
		}
	}
}

func random(r *rand.Rand) Devices {
	var d Devices
	numbers := []int64{Any, 1, 5, 136}
	for range r.IntN(9) {
		d = append(d, DeviceRule{Allow: r.IntN(2) == 0, Type: "abc"[r.IntN(3)], Major: numbers[r.IntN(4)], Minor: numbers[r.IntN(4)], Access: Access(1 + r.IntN(7))})
		for last := d[len(d)-1]; r.IntN(3) == 0; { // what the program tests in one go
			last.Access, last.Minor = allAccess, numbers[r.IntN(4)]
			d = append(d, last)
		}
		if r.IntN(8) == 0 {
			d = append(d, DeviceRule{Allow: r.IntN(2) == 0, Type: 'a', Major: Any, Minor: Any, Access: allAccess})
		}
	}
	return d
}

// each calls f for the accesses to devices that random rules can tell apart.
func each(f func(kind byte, major, minor int64, access Access)) {
	for _, kind := range []byte{'b', 'c'} {
		for _, major := range []int64{0, 1, 5, 136} {
			for _, minor := range []int64{0, 1, 5, 136} {
				for access := Access(1); access <= allAccess; access++ {
					f(kind, major, minor, access)
				}
			}
		}
	}
}

// TestProgram: the program says what the model says.
func TestProgram(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	yes := 0
	for range 2000 {
		d := random(r)
		p := d.Program()
		each(func(kind byte, major, minor int64, access Access) {
			n := uint32(kindBlock)
			if kind == 'c' {
				n = kindChar
			}
			want := d.Allowed(kind, major, minor, access)
			if want {
				yes++
			}
			if got := run(t, p, n, uint32(access), uint32(major), uint32(minor)); got != want {
				t.Fatalf("%v: %c %d:%d %v: the program says %v, the model %v", d, kind, major, minor, access, got, want)
			}
		})
	}
	if yes == 0 {
		t.Error("nothing was ever allowed")
	}
	d, err := ContainerDevices(nil)
	if err != nil {
		t.Fatal(err)
	}
	// A start pays for each instruction.
	if n := len(d.Program()); n > 40 {
		t.Errorf("%d instructions for what every container has", n)
	}
}

// TestV1: a list that can be expressed says what the model says, and the
// writes lead from any list to any other.
func TestV1(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	now := List{Allow: true} // what a new cgroup below the root has
	expressed := 0
	for range 4000 {
		d := random(r)
		l, err := d.V1()
		if err != nil {
			continue
		}
		expressed++
		each(func(kind byte, major, minor int64, access Access) {
			// In version 1 one exception must grant all of an access; asked bit by
			// bit, both are the same.
			for bit := MknodAccess; bit <= WriteAccess; bit <<= 1 {
				if access != bit {
					continue
				}
				if got, want := l.allowed(kind, major, minor, bit), d.Allowed(kind, major, minor, bit); got != want {
					t.Fatalf("%v: %c %d:%d %v: the list %v says %v, the model %v", d, kind, major, minor, bit, l, got, want)
				}
			}
		})
		now = kernel(t, now, l.Writes(now.shown()))
		each(func(kind byte, major, minor int64, access Access) {
			if got, want := now.allowed(kind, major, minor, access), l.allowed(kind, major, minor, access); got != want {
				t.Fatalf("after %v: %c %d:%d %v: %v, want %v", l.Writes(now.shown()), kind, major, minor, access, got, want)
			}
		})
	}
	if expressed < 500 {
		t.Errorf("only %d lists could be expressed", expressed)
	}
}

func (l List) allowed(kind byte, major, minor int64, access Access) bool {
	at := DeviceRule{Type: kind, Major: major, Minor: minor}
	for _, e := range l.Exceptions {
		if !e.covers(at) {
			continue
		}
		if !l.Allow && e.Access&access == access {
			return true
		}
		if l.Allow && e.Access&access != 0 {
			return false
		}
	}
	return l.Allow
}

// shown is devices.list: an allowing list hides its exceptions.
func (l List) shown() string {
	if l.Allow {
		return "a *:* rwm\n"
	}
	s := ""
	for _, e := range l.Exceptions {
		s += e.String() + "\n"
	}
	return s
}

// kernel does what writes to devices.allow and devices.deny do.
func kernel(t *testing.T, l List, writes []Write) List {
	t.Helper()
	l.Exceptions = slices.Clone(l.Exceptions)
	for _, w := range writes {
		allow := w.File == "devices.allow"
		if w.Value == "a" {
			l = List{Allow: allow}
			continue
		}
		if strings.HasPrefix(w.Value, "a") {
			t.Fatalf("%v means everything to the kernel", w)
		}
		r := rule(t, w.Value, allow)
		i := slices.IndexFunc(l.Exceptions, func(e DeviceRule) bool {
			return e.Type == r.Type && e.Major == r.Major && e.Minor == r.Minor
		})
		switch {
		case allow != l.Allow && i >= 0:
			l.Exceptions[i].Access |= r.Access
		case allow != l.Allow:
			l.Exceptions = append(l.Exceptions, r)
		case i >= 0:
			if l.Exceptions[i].Access &^= r.Access; l.Exceptions[i].Access == 0 {
				l.Exceptions = slices.Delete(l.Exceptions, i, i+1)
			}
		default:
			t.Errorf("%v takes away what isn't there", w)
		}
	}
	return l
}

func rule(t *testing.T, s string, allow bool) DeviceRule {
	t.Helper()
	for _, kind := range []byte{'b', 'c'} {
		for _, major := range []int64{Any, 1, 5, 136} {
			for _, minor := range []int64{Any, 1, 5, 136} {
				for a := Access(1); a <= allAccess; a++ {
					if r := (DeviceRule{allow, kind, major, minor, a}); r.String() == s {
						return r
					}
				}
			}
		}
	}
	t.Fatalf("written: %q", s)
	return DeviceRule{}
}

func TestContainerDevices(t *testing.T) {
	fuse := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(229)), Access: "rw"}
	none := specs.LinuxDeviceCgroup{Access: "rwm"}
	for _, c := range []struct {
		rules []specs.LinuxDeviceCgroup
		kind  byte
		major int64
		minor int64
		a     Access
		want  bool
	}{
		{nil, 'c', 1, 3, allAccess, true},
		{nil, 'c', 136, 77, ReadAccess | WriteAccess, true},
		{nil, 'b', 8, 0, ReadAccess, false},
		{nil, 'b', 8, 0, MknodAccess, true},
		{nil, 'c', 1, 1, MknodAccess | ReadAccess, false},
		{[]specs.LinuxDeviceCgroup{none}, 'c', 1, 3, allAccess, true}, // or no shell could redirect
		{[]specs.LinuxDeviceCgroup{fuse}, 'c', 10, 229, ReadAccess | WriteAccess, true},
		{[]specs.LinuxDeviceCgroup{fuse, none}, 'c', 10, 229, ReadAccess, false},
		{[]specs.LinuxDeviceCgroup{none, fuse}, 'c', 10, 229, ReadAccess, true},
		{[]specs.LinuxDeviceCgroup{none, fuse}, 'b', 10, 229, ReadAccess, false},
		{[]specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}, 'b', 8, 0, ReadAccess, true},
		{[]specs.LinuxDeviceCgroup{{Allow: true, Access: "r"}}, 'b', 8, 0, WriteAccess, false},
	} {
		d, err := ContainerDevices(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Allowed(c.kind, c.major, c.minor, c.a); got != c.want {
			t.Errorf("%v: %c %d:%d %v: %v", c.rules, c.kind, c.major, c.minor, c.a, got)
		}
		if _, err := d.V1(); err != nil {
			t.Errorf("%v: %v", c.rules, err)
		}
	}
	for _, bad := range []specs.LinuxDeviceCgroup{{Allow: true}, {Access: "rx"}, {Type: "p", Access: "r"}, {Access: "r", Major: ptr(int64(-2))}, {Access: "r", Minor: ptr(int64(1 << 20))}} {
		if d, err := ContainerDevices([]specs.LinuxDeviceCgroup{bad}); err == nil {
			t.Errorf("%+v gives %v", bad, d)
		}
	}
	hole, err := ContainerDevices([]specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: ptr(int64(10)), Access: "rw"}, {Type: "c", Major: ptr(int64(10)), Minor: ptr(int64(200)), Access: "rw"}})
	if err != nil {
		t.Fatal(err)
	}
	if l, err := hole.V1(); err == nil {
		t.Errorf("a hole in a hole: %v", l)
	}
}
