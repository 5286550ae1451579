package seccomp

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// call is what a program judges.
type call struct {
	arch Arch
	nr   uint32
	args [6]uint64
	// token stands in for the architecture's where none of ours is meant.
	token uint32
}

func (c call) audit() uint32 {
	if c.token != 0 {
		return c.token
	}
	return arches[c.arch].token
}

// words lays the call out as struct seccomp_data.
func (c call) words() [16]uint32 {
	var w [16]uint32
	w[0], w[1] = c.nr, c.audit()
	for i, a := range c.args {
		lo, hi := uint32(a), uint32(a>>32)
		if arches[c.arch].big {
			lo, hi = hi, lo
		}
		w[4+2*i], w[5+2*i] = lo, hi
	}
	return w
}

// interpret runs a program as the kernel would, refusing what its checker
// refuses.
func interpret(prog []unix.SockFilter, c call) (Action, int, error) {
	data := c.words()
	var acc, x uint32
	var mem [16]uint32
	steps := 0
	for pc := 0; pc < len(prog); pc++ {
		steps++
		ins := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(ins.Jt)
			} else {
				pc += int(ins.Jf)
			}
		}
		switch ins.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if ins.K%4 != 0 || ins.K >= 64 {
				return 0, steps, fmt.Errorf("instruction %d loads from %d", pc, ins.K)
			}
			acc = data[ins.K/4]
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= ins.K
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_X:
			acc &= x
		case unix.BPF_ST:
			mem[ins.K] = acc
		case unix.BPF_LD | unix.BPF_MEM:
			acc = mem[ins.K]
		case unix.BPF_LDX | unix.BPF_IMM:
			x = ins.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(ins.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == ins.K)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			jump(acc > ins.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(acc >= ins.K)
		case unix.BPF_RET | unix.BPF_K:
			return Action(ins.K), steps, nil
		default:
			return 0, steps, fmt.Errorf("instruction %d has code %#x", pc, ins.Code)
		}
	}
	return 0, steps, fmt.Errorf("ran off the end")
}

// wellFormed checks what the kernel checks before it takes a program.
func wellFormed(prog []unix.SockFilter) error {
	if len(prog) == 0 || len(prog) > 4096 {
		return fmt.Errorf("%d instructions", len(prog))
	}
	for pc, ins := range prog {
		if ins.Code&7 != unix.BPF_JMP {
			continue
		}
		far := max(int(ins.Jt), int(ins.Jf))
		if ins.Code == unix.BPF_JMP|unix.BPF_JA {
			far = int(ins.K)
		}
		if pc+1+far >= len(prog) {
			return fmt.Errorf("instruction %d jumps out", pc)
		}
	}
	if prog[len(prog)-1].Code != unix.BPF_RET|unix.BPF_K {
		return fmt.Errorf("does not end in a return")
	}
	return nil
}

// model says what a filter promises, straight from its description.
func model(f *Filter, c call) Action {
	arch, listed := Arch(0), false
	for _, a := range f.Archs {
		if arches[a].token != c.audit() {
			continue
		}
		if a == X86_64 && c.nr >= x32Bit || a == X32 && c.nr < x32Bit {
			continue
		}
		arch, listed = a, true
	}
	if !listed && c.nr == 0xffffffff && slices.Contains(f.Archs, X86_64) && c.audit() == arches[X86_64].token {
		arch, listed = X86_64, true // a tracer's mark, whatever it says of x32
	}
	if !listed {
		return f.BadArch
	}
	holds := func(conds []Cond, carried bool) bool {
		for _, k := range conds {
			if carried && k.Arg == 0 {
				continue
			}
			a, v, m := c.args[k.Arg], k.Value, k.Mask
			if arches[arch].word == 32 {
				a, v, m = a&0xffffffff, v&0xffffffff, m&0xffffffff
			}
			ok := false
			switch k.Op {
			case Equal:
				ok = a == v
			case NotEqual:
				ok = a != v
			case Less:
				ok = a < v
			case LessEqual:
				ok = a <= v
			case Greater:
				ok = a > v
			case GreaterEqual:
				ok = a >= v
			case MaskedEqual:
				ok = a&m == v&m
			}
			if !ok {
				return false
			}
		}
		return true
	}
	verdict, decided, always := f.Default, false, false
	highest, any := uint32(0), false
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Archs != nil && !slices.Contains(r.Archs, arch) {
			continue
		}
		names := slices.Clip(r.Names)
		for _, n := range r.calls {
			names = append(names, callNames[n])
		}
		for _, name := range names {
			nr, ok := arch.Number(name)
			if ok && nr >= highest {
				highest, any = nr, true
			}
			hit := ok && nr == c.nr
			unconditional := hit && len(r.Conds) == 0
			match := hit && holds(r.Conds, false)
			if carrier, sub := multiplexed(name); sub != 0 && arches[arch].multiplexes &&
				!(f.CondsStayDirect && len(r.Conds) > 0) {
				at, _ := arch.Number(carrier)
				if at >= highest {
					highest, any = at, true
				}
				got := uint32(c.args[0])
				if carrier == "ipc" {
					got &= 0xffff
				}
				if at == c.nr && got == uint32(sub) && holds(r.Conds, true) {
					match = true
				}
			}
			if r.Action == f.Default {
				continue
			}
			if unconditional && !always {
				verdict, decided, always = r.Action, true, true
			} else if match && !decided {
				verdict, decided = r.Action, true
			}
		}
	}
	if f.NewerENOSYS && any && c.nr > highest {
		return Errno(unix.ENOSYS)
	}
	return verdict
}
