// Package seccomp turns a description of a system-call filter into the BPF
// program that the kernel runs.
//
// It guarantees that a Filter compiles to a program with exactly the verdicts
// that its fields promise, on every architecture that it lists, whatever the
// machine it is compiled on, and that the program jumps forward only, checks
// the architecture first and fits the kernel's limit. It refuses to know how
// and when a filter is installed, and which capabilities a machine keeps.
//
//	f := seccomp.Filter{
//		Archs:   []seccomp.Arch{seccomp.X86_64},
//		Default: seccomp.Allow,
//		Rules:   []seccomp.Rule{{Names: []string{"reboot"}, Action: seccomp.Errno(unix.EPERM)}},
//	}
//	program, err := f.Compile()
//
// Room: paper.
package seccomp

//go:generate go run ./gen tables_gen.go

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Action is what the kernel does with a call: its own return value of a
// filter. The zero value kills the thread, so what is forgotten is refused.
type Action uint32

const (
	KillThread  Action = unix.SECCOMP_RET_KILL_THREAD
	KillProcess Action = unix.SECCOMP_RET_KILL_PROCESS
	Trap        Action = unix.SECCOMP_RET_TRAP
	Notify      Action = unix.SECCOMP_RET_USER_NOTIF
	Log         Action = unix.SECCOMP_RET_LOG
	Allow       Action = unix.SECCOMP_RET_ALLOW
)

// Errno makes the call fail with e; Errno(0) makes it succeed without effect.
func Errno(e unix.Errno) Action { return Action(unix.SECCOMP_RET_ERRNO | uint32(e)&0xffff) }

// Trace hands the call to a tracer, with a number for it.
func Trace(data uint16) Action { return Action(unix.SECCOMP_RET_TRACE | uint32(data)) }

// Op compares an argument with a value, both unsigned.
type Op uint8

const (
	Equal Op = iota + 1
	NotEqual
	Less
	LessEqual
	Greater
	GreaterEqual
	// MaskedEqual compares the bits of Mask only, in the argument and in Value.
	MaskedEqual
)

// Cond is one comparison. On an architecture with 32-bit arguments only the
// low words are compared.
type Cond struct {
	Arg   uint8 // 0 to 5
	Op    Op
	Value uint64
	Mask  uint64 // for MaskedEqual
}

// Rule gives some calls an action.
type Rule struct {
	// Names are system calls. A name that an architecture lacks is skipped
	// there; see Filter.Unknown.
	Names  []string
	Action Action
	// Conds must all hold. Without any, the rule holds always.
	Conds []Cond
	// Archs narrows the rule; nil means all of the filter's.
	Archs []Arch

	calls []uint16 // as Names, looked up already
}

// Filter describes one program.
//
// A call gets the action of the first rule without conditions that names it;
// if there is none, of the first rule whose conditions hold; else Default. A
// rule whose action is the Default is passed over, so that it can't shadow a
// later one. On x86, PPC64LE and S390X the rules of a socket or System V IPC
// call also answer for its sub-number of socketcall and ipc. There a condition
// on argument 0 gives way to the sub-number, and the others are compared with
// what the carrier gets in their place, as libseccomp does it, unless
// CondsStayDirect is set.
type Filter struct {
	// Raw is the program itself, if it is given; all else is then empty.
	Raw []unix.SockFilter `json:",omitempty"`
	// Archs are the architectures whose calls are looked at.
	Archs []Arch
	// BadArch answers for calls of any other.
	BadArch Action
	Default Action
	Rules   []Rule

	// NewerENOSYS answers ENOSYS for numbers above the highest that a rule
	// names on that architecture, instead of Default: programs try calls that
	// are newer than the list, and fall back on ENOSYS only.
	NewerENOSYS bool
	// CondsStayDirect keeps rules with conditions away from socketcall and
	// ipc, where the arguments lie behind a pointer and can't be compared.
	CondsStayDirect bool

	// Flags are the SECCOMP_FILTER_FLAG_ bits to install the program with.
	Flags uint32

	ready []uint64 // the program, packed, where it was compiled beforehand
}

// maxInstructions is the kernel's limit, BPF_MAXINSNS.
const maxInstructions = 4096

// Unknown lists, sorted, the names of rules that no table has: misspelt, or
// newer than this program, or of an architecture without a table.
func (f *Filter) Unknown() []string {
	var out []string
	for i := range f.Rules {
		for _, name := range f.Rules[i].Names {
			if !Known(name) {
				out = append(out, name)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Passes reports whether the filter allows the calls on this computer, whatever
// their arguments. What it can't tell easily, it denies.
func (f *Filter) Passes(names ...string) bool {
	native, ok := Native()
	if !ok || f.Raw != nil || !slices.Contains(f.Archs, native) {
		return false
	}
	for _, name := range names {
		if !f.passes(native, name) {
			return false
		}
	}
	return true
}

// PassesWith reports whether the filter allows one call with these arguments on this
// computer.
func (f *Filter) PassesWith(name string, args ...uint64) bool {
	native, ok := Native()
	index, known := callIndex(name)
	if !ok || !known || callNumbers[index][native] < 0 || f.Raw != nil || !slices.Contains(f.Archs, native) {
		return false
	}
	action := f.Default
	held := false
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Action == f.Default || r.Archs != nil && !slices.Contains(r.Archs, native) || !slices.Contains(r.calls, index) && !slices.Contains(r.Names, name) {
			continue
		}
		if len(r.Conds) == 0 {
			return r.Action == Allow
		}
		if !held && !slices.ContainsFunc(r.Conds, func(c Cond) bool { return !c.holds(args) }) {
			action, held = r.Action, true
		}
	}
	return action == Allow && (held || !f.NewerENOSYS)
}

// holds reports whether a condition is true of a call; of arguments that aren't
// given, none is.
func (c Cond) holds(args []uint64) bool {
	if int(c.Arg) >= len(args) {
		return false
	}
	switch a := args[c.Arg]; c.Op {
	case NotEqual:
		return a != c.Value
	case Less:
		return a < c.Value
	case LessEqual:
		return a <= c.Value
	case Equal:
		return a == c.Value
	case GreaterEqual:
		return a >= c.Value
	case Greater:
		return a > c.Value
	case MaskedEqual:
		return a&c.Mask == c.Value&c.Mask
	}
	return false
}

func (f *Filter) passes(native Arch, name string) bool {
	index, ok := callIndex(name)
	if !ok || callNumbers[index][native] < 0 {
		return false
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Action == f.Default || r.Archs != nil && !slices.Contains(r.Archs, native) {
			continue
		}
		if slices.Contains(r.calls, index) || slices.Contains(r.Names, name) {
			if r.Action == Allow && len(r.Conds) > 0 {
				continue // it adds to what is allowed else
			}
			return r.Action == Allow
		}
	}
	return f.Default == Allow && !f.NewerENOSYS
}

func (f *Filter) check() error {
	if len(f.Archs) == 0 {
		return fmt.Errorf("compile filter: no architecture")
	}
	for _, a := range f.Archs {
		if int(a) >= archCount {
			return fmt.Errorf("compile filter: unknown architecture %d", a)
		}
	}
	if len(f.Rules) > 0xffff {
		return fmt.Errorf("compile filter: %d rules are too many", len(f.Rules))
	}
	for i := range f.Rules {
		for _, c := range f.Rules[i].Conds {
			if c.Arg > 5 {
				return fmt.Errorf("compile filter: rule %d: no argument %d", i, c.Arg)
			}
			if c.Op < Equal || c.Op > MaskedEqual {
				return fmt.Errorf("compile filter: rule %d: unknown comparison %d", i, c.Op)
			}
		}
	}
	return nil
}

// verdict is what a number gets: an action at once, or the first branch whose
// conditions hold, and else the default.
type verdict struct {
	action   Action
	branches []branch
}

type branch struct {
	conds  []Cond
	action Action
}

func (v verdict) equal(w verdict) bool {
	return v.action == w.action && slices.EqualFunc(v.branches, w.branches, func(a, b branch) bool {
		return a.action == b.action && slices.Equal(a.conds, b.conds)
	})
}

// span is a range of numbers with one verdict; it ends where the next begins.
type span struct {
	from uint32
	verdict
}

// A mention is a number that a rule names: number, rule and sub-number packed
// so that sorting them sorts by number and then by the rules' order.
type mention uint64

func mentionOf(nr uint32, rule int, sub uint8) mention {
	return mention(nr)<<32 | mention(rule)<<16 | mention(sub)
}

func (m mention) number() uint32 { return uint32(m >> 32) }
func (m mention) rule() int      { return int(m >> 16 & 0xffff) }
func (m mention) sub() uint8     { return uint8(m) }

// resolve looks up the names of all rules, once for all architectures.
func (f *Filter) resolve() [][]uint16 {
	calls := make([][]uint16, len(f.Rules))
	total := 0
	for i := range f.Rules {
		total += len(f.Rules[i].Names)
	}
	room := make([]uint16, 0, total)
	for i := range f.Rules {
		if f.Rules[i].calls != nil {
			calls[i] = f.Rules[i].calls
			continue
		}
		from := len(room)
		for _, name := range f.Rules[i].Names {
			if c, ok := callIndex(name); ok {
				room = append(room, c)
			}
		}
		calls[i] = room[from:len(room):len(room)]
	}
	return calls
}

// mentioned is what the rules say of each call. Most calls are named by rules that hold
// always and everywhere: those are looked up and not sorted.
type mentioned struct {
	// plain is the first such rule that decides about a call, counted from 1; 0:
	// there is none.
	plain [len(callNames)]uint16
	// named: a rule names the call, if only in vain; odd: one that doesn't hold
	// always does.
	named, odd callSet
}

// look sorts the rules' calls into plain and odd ones.
func (f *Filter) look(calls [][]uint16) *mentioned {
	n := &mentioned{}
	for i := range f.Rules {
		r := &f.Rules[i]
		odd := r.Archs != nil || len(r.Conds) > 0
		for _, c := range calls[i] {
			n.named[c] = true
			switch {
			case odd:
				n.odd[c] = true
			case n.plain[c] == 0 && r.Action != f.Default:
				n.plain[c] = uint16(i + 1)
			}
		}
	}
	return n
}

// spans gives the whole number range of one architecture, in order, the first
// span from number 0 (from the x32 bit on x32). It may use the room for it.
func (f *Filter) spans(a Arch, calls [][]uint16, n *mentioned, room []span) []span {
	// Only what can't be looked up is sorted: calls with odd rules, and all that
	// may come through a carrier.
	var mentions []mention
	multiplexes := arches[a].multiplexes
	carriers := map[string]int32{}
	var carrier callSet
	if multiplexes {
		for _, name := range [...]string{"socketcall", "ipc"} {
			if c, ok := callIndex(name); ok {
				carriers[name] = callNumbers[c][a]
				carrier[c] = true
			}
		}
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		if r.Archs != nil && !slices.Contains(r.Archs, a) {
			continue
		}
		for _, c := range calls[i] {
			if nr := callNumbers[c][a]; nr >= 0 && (n.odd[c] || carrier[c]) {
				mentions = append(mentions, mentionOf(uint32(nr), i, 0))
			}
			if !multiplexes || f.CondsStayDirect && len(r.Conds) > 0 {
				continue
			}
			if carrier, sub := multiplexed(callNames[c]); sub != 0 {
				mentions = append(mentions, mentionOf(uint32(carriers[carrier]), i, sub))
			}
		}
	}
	slices.Sort(mentions)

	base := uint32(0)
	if a == X32 {
		base = x32Bit
	}
	usual := verdict{action: f.Default}
	out := room[:0]
	next := base // the first number that has no span yet
	add := func(from uint32, v verdict) {
		if n := len(out); n > 0 && out[n-1].verdict.equal(v) {
			return
		}
		out = append(out, span{from, v})
	}
	some := false
	one := func(nr uint32, v verdict) {
		if nr > next {
			add(next, usual)
		}
		add(nr, v)
		next, some = nr+1, true
	}
	// sorted takes the mentions of the numbers below end.
	sorted := func(end uint64) {
		for len(mentions) > 0 && uint64(mentions[0].number()) < end {
			nr, j := mentions[0].number(), 0
			for j < len(mentions) && mentions[j].number() == nr {
				j++
			}
			one(nr, f.verdictOf(mentions[:j], a))
			mentions = mentions[j:]
		}
	}
	for _, c := range callsByNumber[a] {
		// A call that only rules for other architectures name isn't among the
		// mentions, as if nobody had named it.
		if !n.named[c] || n.odd[c] || carrier[c] {
			continue
		}
		nr := uint32(callNumbers[c][a])
		sorted(uint64(nr))
		v := usual
		if i := n.plain[c]; i > 0 {
			v.action = f.Rules[i-1].Action
		}
		one(nr, v)
	}
	sorted(1 << 32)
	rest := usual
	if f.NewerENOSYS && some {
		rest = verdict{action: Errno(unix.ENOSYS)}
	}
	add(next, rest)
	return out
}

// verdictOf joins the rules that name one number.
func (f *Filter) verdictOf(mentions []mention, a Arch) verdict {
	var branches []branch
	for _, m := range mentions {
		r := &f.Rules[m.rule()]
		if r.Action == f.Default {
			continue
		}
		if len(r.Conds) == 0 && m.sub() == 0 {
			return verdict{action: r.Action}
		}
		branches = append(branches, branch{condsOf(r, m, a), r.Action})
	}
	return verdict{action: f.Default, branches: branches}
}

// condsOf gives the conditions of a rule, with the sub-number in place of what
// it says of argument 0 where a carrier is meant.
func condsOf(r *Rule, m mention, a Arch) []Cond {
	if m.sub() == 0 {
		return r.Conds
	}
	mask := uint64(socketcallMask)
	if c, _ := callIndex("ipc"); m.number() == uint32(callNumbers[c][a]) {
		mask = ipcMask
	}
	conds := []Cond{{Arg: 0, Op: MaskedEqual, Value: uint64(m.sub()), Mask: mask}}
	for _, c := range r.Conds {
		if c.Arg != 0 {
			conds = append(conds, c)
		}
	}
	return conds
}
