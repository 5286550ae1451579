package seccomp

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

func (a Action) String() string {
	data := uint32(a) & unix.SECCOMP_RET_DATA
	switch uint32(a) & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_KILL_THREAD:
		return "kill thread"
	case unix.SECCOMP_RET_KILL_PROCESS:
		return "kill process"
	case unix.SECCOMP_RET_TRAP:
		return "trap"
	case unix.SECCOMP_RET_ERRNO:
		if data == 0 {
			return "do nothing"
		}
		if name := unix.ErrnoName(unix.Errno(data)); name != "" {
			return name
		}
		return "errno " + strconv.Itoa(int(data))
	case unix.SECCOMP_RET_USER_NOTIF:
		return "notify"
	case unix.SECCOMP_RET_TRACE:
		return "trace " + strconv.Itoa(int(data))
	case unix.SECCOMP_RET_LOG:
		return "log"
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	}
	return fmt.Sprintf("action %#x", uint32(a))
}

func (o Op) String() string {
	switch o {
	case Equal, MaskedEqual:
		return "="
	case NotEqual:
		return "!="
	case Less:
		return "<"
	case LessEqual:
		return "<="
	case Greater:
		return ">"
	case GreaterEqual:
		return ">="
	}
	return "?"
}

func (c Cond) String() string {
	arg := "arg" + strconv.Itoa(int(c.Arg))
	if c.Op == MaskedEqual {
		if c.Mask == 0xffffffff {
			return fmt.Sprintf("int %s = %d", arg, c.Value)
		}
		return fmt.Sprintf("%s & %#x = %#x", arg, c.Mask, c.Value&c.Mask)
	}
	return fmt.Sprintf("%s %s %d", arg, c.Op, c.Value)
}

// describedNames is how many calls a line of Describe names.
const describedNames = 12

// Describe says in a few lines what the filter does, for a reader who wants to
// know before it is installed. A group stands for its members.
func (f *Filter) Describe() []string {
	if f.Raw != nil {
		return []string{fmt.Sprintf("a given program of %d instructions", len(f.Raw))}
	}
	var archs []string
	for _, a := range f.Archs {
		archs = append(archs, a.String())
	}
	head := "on " + strings.Join(archs, " ") + ": " + f.Default.String()
	if f.NewerENOSYS {
		head += ", newer calls ENOSYS"
	}
	head += "; elsewhere " + f.BadArch.String()
	lines := []string{head}

	calls := f.resolve()
	// Rules without conditions are told by action, the first that names a
	// call winning; the others one by one.
	type share struct {
		action Action
		calls  callSet
	}
	var shares []*share
	var taken callSet
	for i := range f.Rules {
		r := &f.Rules[i]
		if len(r.Conds) > 0 || r.Archs != nil || r.Action == f.Default {
			continue
		}
		var to *share
		for _, s := range shares {
			if s.action == r.Action {
				to = s
			}
		}
		if to == nil {
			to = &share{action: r.Action}
			shares = append(shares, to)
		}
		for _, c := range calls[i] {
			if !taken[c] {
				taken[c], to.calls[c] = true, true
			}
		}
	}
	for _, s := range shares {
		if text := f.list(&s.calls); text != "" {
			lines = append(lines, s.action.String()+": "+text)
		}
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		if len(r.Conds) == 0 && r.Archs == nil || r.Action == f.Default {
			continue
		}
		var set callSet
		for _, c := range calls[i] {
			set[c] = true
		}
		text := f.list(&set)
		if text == "" {
			continue
		}
		if len(r.Conds) > 0 {
			var conds []string
			for _, c := range r.Conds {
				conds = append(conds, c.String())
			}
			text += " if " + strings.Join(conds, " and ")
		}
		if r.Archs != nil {
			var on []string
			for _, a := range r.Archs {
				on = append(on, a.String())
			}
			text += " on " + strings.Join(on, " ")
		}
		lines = append(lines, r.Action.String()+": "+text)
	}
	return lines
}

// list names the calls that the filter's architectures have: whole groups
// first, then single calls.
func (f *Filter) list(set *callSet) string {
	there := func(c uint16) bool {
		for _, a := range f.Archs {
			if callNumbers[c][a] >= 0 {
				return true
			}
		}
		return false
	}
	var words []string
	var told callSet
	for i := range groups {
		g := &groups[i]
		if g.name == "@privileged" || g.name == "@system-service" {
			continue // mixtures of other groups: they would say less
		}
		whole, fresh := true, 0
		for _, c := range g.calls {
			if !there(c) {
				continue
			}
			if !set[c] {
				whole = false
				break
			}
			if !told[c] {
				fresh++
			}
		}
		if !whole || fresh < 2 {
			continue
		}
		for _, c := range g.calls {
			told[c] = true
		}
		words = append(words, g.name)
	}
	var rest []string
	for c := range set {
		if set[c] && !told[c] && there(uint16(c)) {
			rest = append(rest, callNames[c])
		}
	}
	if n := len(rest) - describedNames; n > 3 {
		rest = append(rest[:describedNames], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(append(words, rest...), " ")
}
