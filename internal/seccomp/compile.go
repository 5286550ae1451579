package seccomp

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Where struct seccomp_data keeps what a program may read.
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

const (
	loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpEQ   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGT   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	jumpGE   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	jumpAny  = unix.BPF_JMP | unix.BPF_JA
	andWith  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	giveBack = unix.BPF_RET | unix.BPF_K
)

// Compile gives the program. Numbers are found by binary search, and nothing
// but number and architecture is read on the way to an action without
// conditions, so that the kernel can answer for allowed calls from its bitmap.
func (f *Filter) Compile() ([]unix.SockFilter, error) {
	if f.Raw != nil {
		return f.Raw, nil
	}
	if f.ready != nil {
		return unpack(f.ready), nil
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	calls := f.resolve()
	mentioned := f.look(calls)
	p := program{backwards: make([]unix.SockFilter, 0, 512)}
	bad := p.ret(f.BadArch)

	var done [archCount]bool
	for _, a := range f.Archs {
		done[a] = true
	}
	spans := make([]span, 0, 64)
	section := func(a Arch) (entry int) {
		spans = f.spans(a, calls, mentioned, spans)
		return p.search(a, spans)
	}
	type start struct{ token, entry int }
	var starts []start
	for a := Arch(0); a < archCount; a++ {
		if !done[a] || a == X32 && done[X86_64] {
			continue
		}
		var entry int
		switch a {
		case X86_64, X32:
			entry = p.x86Section(f, done, bad, section)
		default:
			entry = section(a)
		}
		starts = append(starts, start{int(arches[a].token), p.load(offsetNumber, entry)})
	}
	next := bad
	for i := len(starts) - 1; i >= 0; i-- {
		next = p.jump(jumpEQ, uint32(starts[i].token), starts[i].entry, next)
	}
	p.load(offsetArch, next)
	if n := len(p.backwards); n > maxInstructions {
		return nil, fmt.Errorf("compile filter: %d instructions, the kernel takes %d", n, maxInstructions)
	}
	slices.Reverse(p.backwards)
	return p.backwards, nil
}

// x86Section splits the token that x86_64 and x32 share by the x32 bit. The
// half that isn't listed is a bad architecture, but for number -1: a tracer
// sets it to skip a call, and that must not kill.
func (p *program) x86Section(f *Filter, done [archCount]bool, bad int, section func(Arch) int) int {
	wide, x32 := bad, bad
	if done[X86_64] {
		wide = section(X86_64)
	}
	if done[X32] {
		x32 = section(X32)
	} else if f.BadArch != f.Default {
		skipped := f.Default
		if f.NewerENOSYS {
			skipped = Errno(unix.ENOSYS)
		}
		x32 = p.jump(jumpEQ, 0xffffffff, p.ret(skipped), bad)
	}
	return p.jump(jumpGE, x32Bit, x32, wide)
}

// pack makes a number of an instruction: 16 bits of Code, 8 of Jt, 8 of Jf, 32 of K.
func pack(ins unix.SockFilter) uint64 {
	return uint64(ins.Code)<<48 | uint64(ins.Jt)<<40 | uint64(ins.Jf)<<32 | uint64(ins.K)
}

func unpack(packed []uint64) []unix.SockFilter {
	program := make([]unix.SockFilter, len(packed))
	for i, n := range packed {
		program[i] = unix.SockFilter{Code: uint16(n >> 48), Jt: uint8(n >> 40), Jf: uint8(n >> 32), K: uint32(n)}
	}
	return program
}

// program is built from its end, because BPF jumps forward: a target is
// always there before the jump to it. A label is the place of an instruction
// counted from the end.
type program struct {
	backwards []unix.SockFilter
	rets      []ret
	blocks    []block
}

// block is a chain of comparisons that was emitted already: numbers with the
// same rules share it, also across architectures that compare alike.
type block struct {
	verdict
	word  int
	big   bool
	label int
}

type ret struct {
	action Action
	label  int
}

func (p *program) add(ins unix.SockFilter) int {
	p.backwards = append(p.backwards, ins)
	return len(p.backwards) - 1
}

// away is how many instructions the next one would jump over to reach label.
func (p *program) away(label int) int { return len(p.backwards) - label - 1 }

// reach is how far a conditional jump goes, less the two instructions that a
// jump may have to put in between.
const reach = 255 - 2

// ret gives an end with that action: one near enough, or a new one.
func (p *program) ret(action Action) int {
	for i := range p.rets {
		if p.rets[i].action != action {
			continue
		}
		if p.away(p.rets[i].label) > reach/2 {
			p.rets[i].label = p.add(unix.SockFilter{Code: giveBack, K: uint32(action)})
		}
		return p.rets[i].label
	}
	label := p.add(unix.SockFilter{Code: giveBack, K: uint32(action)})
	p.rets = append(p.rets, ret{action, label})
	return label
}

// near gives a label that leads to the same and that a jump reaches.
func (p *program) near(label int) int {
	if p.away(label) <= reach {
		return label
	}
	if target := p.backwards[label]; target.Code == giveBack {
		return p.ret(Action(target.K))
	}
	return p.add(unix.SockFilter{Code: jumpAny, K: uint32(p.away(label))})
}

// jump goes to yes if the comparison of the loaded word holds, else to no.
func (p *program) jump(code uint16, k uint32, yes, no int) int {
	if yes == no {
		return yes
	}
	yes = p.near(yes)
	no = p.near(no)
	return p.add(unix.SockFilter{Code: code, K: k, Jt: uint8(p.away(yes)), Jf: uint8(p.away(no))})
}

// load reads a word and goes on at next.
func (p *program) load(offset uint32, next int) int {
	if p.away(next) != 0 {
		p.add(unix.SockFilter{Code: jumpAny, K: uint32(p.away(next))})
	}
	return p.add(unix.SockFilter{Code: loadWord, K: offset})
}

// search emits the binary search over the spans.
func (p *program) search(a Arch, spans []span) int {
	if len(spans) == 1 {
		return p.end(a, spans[0].verdict)
	}
	middle := len(spans) / 2
	above := p.search(a, spans[middle:])
	below := p.search(a, spans[:middle])
	return p.jump(jumpGE, spans[middle].from, above, below)
}

func (p *program) end(a Arch, v verdict) int {
	if len(v.branches) == 0 {
		return p.ret(v.action)
	}
	for i := range p.blocks {
		b := &p.blocks[i]
		if b.word == arches[a].word && b.big == arches[a].big && b.verdict.equal(v) {
			return b.label
		}
	}
	next := p.ret(v.action)
	for i := len(v.branches) - 1; i >= 0; i-- {
		b := v.branches[i]
		yes := p.ret(b.action)
		for j := len(b.conds) - 1; j >= 0; j-- {
			yes = p.cond(a, b.conds[j], yes, next)
		}
		next = yes
	}
	p.blocks = append(p.blocks, block{v, arches[a].word, arches[a].big, next})
	return next
}

// cond emits one comparison: the high word, where there is one, decides unless
// it is equal.
func (p *program) cond(a Arch, c Cond, yes, no int) int {
	low := uint32(offsetArgs + 8*int(c.Arg))
	high := low + 4
	if arches[a].big {
		low, high = high, low
	}
	narrow := arches[a].word == 32
	v, vh := uint32(c.Value), uint32(c.Value>>32)
	switch c.Op {
	case NotEqual:
		yes, no = no, yes
		fallthrough
	case Equal:
		eq := p.test(low, jumpEQ, v, yes, no)
		if narrow {
			return eq
		}
		return p.test(high, jumpEQ, vh, eq, no)
	case Less:
		yes, no = no, yes
		fallthrough
	case GreaterEqual:
		return p.order(low, high, narrow, jumpGE, v, vh, yes, no)
	case LessEqual:
		yes, no = no, yes
		fallthrough
	case Greater:
		return p.order(low, high, narrow, jumpGT, v, vh, yes, no)
	}
	eq := p.masked(low, uint32(c.Mask), v, yes, no)
	if narrow {
		return eq
	}
	return p.masked(high, uint32(c.Mask>>32), vh, eq, no)
}

func (p *program) test(word uint32, code uint16, k uint32, yes, no int) int {
	return p.load(word, p.jump(code, k, yes, no))
}

func (p *program) order(low, high uint32, narrow bool, code uint16, v, vh uint32, yes, no int) int {
	last := p.test(low, code, v, yes, no)
	if narrow {
		return last
	}
	equal := p.jump(jumpEQ, vh, last, no)
	return p.load(high, p.jump(jumpGT, vh, yes, equal))
}

func (p *program) masked(word, mask, v uint32, yes, no int) int {
	if mask == 0 {
		return yes
	}
	j := p.jump(jumpEQ, v&mask, yes, no)
	if mask != 0xffffffff {
		if p.away(j) != 0 {
			p.add(unix.SockFilter{Code: jumpAny, K: uint32(p.away(j))})
		}
		j = p.add(unix.SockFilter{Code: andWith, K: mask})
	}
	return p.load(word, j)
}
