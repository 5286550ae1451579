package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// ErrNoTable is what ParseArch says of an architecture that the runtime spec
// may name and that no machine of this program can run, so that a list may
// simply leave it out.
var ErrNoTable = errors.New("no table of system calls")

// ParseArch reads an architecture as the runtime spec spells it.
func ParseArch(name string) (Arch, error) {
	for i := range arches {
		if arches[i].oci == name {
			return Arch(i), nil
		}
	}
	switch name {
	case "SCMP_ARCH_MIPS", "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL",
		"SCMP_ARCH_MIPSEL64", "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64",
		"SCMP_ARCH_S390", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_LOONGARCH64",
		"SCMP_ARCH_M68K", "SCMP_ARCH_SH", "SCMP_ARCH_SHEB":
		return 0, fmt.Errorf("architecture %s: %w", name, ErrNoTable)
	}
	return 0, fmt.Errorf("unknown architecture %q", name)
}

// ParseAction reads an action of the runtime spec. The number goes with ERRNO
// and TRACE, nil means EPERM; other actions take none.
func ParseAction(name string, number *uint) (Action, error) {
	data := uint(unix.EPERM)
	if number != nil {
		data = *number
	}
	switch name {
	case "SCMP_ACT_ERRNO", "SCMP_ACT_TRACE":
		if data > 0xffff {
			return 0, fmt.Errorf("action %s: number %d is too big", name, data)
		}
		if name == "SCMP_ACT_TRACE" {
			return Trace(uint16(data)), nil
		}
		return Errno(unix.Errno(data)), nil
	}
	if number != nil {
		return 0, fmt.Errorf("action %s takes no error number", name)
	}
	switch name {
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return KillThread, nil
	case "SCMP_ACT_KILL_PROCESS":
		return KillProcess, nil
	case "SCMP_ACT_TRAP":
		return Trap, nil
	case "SCMP_ACT_ALLOW":
		return Allow, nil
	case "SCMP_ACT_LOG":
		return Log, nil
	case "SCMP_ACT_NOTIFY":
		return Notify, nil
	}
	return 0, fmt.Errorf("unknown action %q", name)
}

// ParseCond reads a comparison of the runtime spec. For SCMP_CMP_MASKED_EQ the
// first value is the mask and the second what the masked argument must be.
func ParseCond(arg uint, op string, value, second uint64) (Cond, error) {
	if arg > 5 {
		return Cond{}, fmt.Errorf("a system call has no argument %d", arg)
	}
	c := Cond{Arg: uint8(arg), Value: value}
	switch op {
	case "SCMP_CMP_NE":
		c.Op = NotEqual
	case "SCMP_CMP_LT":
		c.Op = Less
	case "SCMP_CMP_LE":
		c.Op = LessEqual
	case "SCMP_CMP_EQ":
		c.Op = Equal
	case "SCMP_CMP_GE":
		c.Op = GreaterEqual
	case "SCMP_CMP_GT":
		c.Op = Greater
	case "SCMP_CMP_MASKED_EQ":
		c.Op, c.Mask, c.Value = MaskedEqual, value, second
	default:
		return Cond{}, fmt.Errorf("unknown comparison %q", op)
	}
	return c, nil
}

// ParseFlag reads a filter flag of the runtime spec.
func ParseFlag(name string) (uint32, error) {
	switch name {
	case "SECCOMP_FILTER_FLAG_TSYNC":
		return unix.SECCOMP_FILTER_FLAG_TSYNC, nil
	case "SECCOMP_FILTER_FLAG_LOG":
		return unix.SECCOMP_FILTER_FLAG_LOG, nil
	case "SECCOMP_FILTER_FLAG_SPEC_ALLOW":
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, nil
	case "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":
		return unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, nil
	}
	return 0, fmt.Errorf("unknown seccomp flag %q", name)
}

// OCIRules gives the rules of one entry of a bundle's list. Conditions on
// different arguments must all hold; as soon as one argument has two, every
// condition becomes a rule of its own, so that any of them is enough. Runtimes
// have agreed on that reading.
func OCIRules(names []string, action Action, conds []Cond) []Rule {
	var seen [6]bool
	for _, c := range conds {
		if c.Arg > 5 {
			break // Compile refuses it
		}
		if !seen[c.Arg] {
			seen[c.Arg] = true
			continue
		}
		rules := make([]Rule, len(conds))
		for i := range conds {
			rules[i] = Rule{Names: names, Action: action, Conds: conds[i : i+1 : i+1]}
		}
		return rules
	}
	return []Rule{{Names: names, Action: action, Conds: conds}}
}

// OCI gives the filter of a bundle: the native architecture is always among
// the listed ones, others are killed, and calls newer than the list get ENOSYS
// unless the default lets calls pass.
func OCI(native Arch, archs []Arch, fallback Action, rules []Rule, flags uint32) (Filter, error) {
	f := Filter{
		Archs:       []Arch{native},
		BadArch:     KillThread,
		Default:     fallback,
		Rules:       rules,
		NewerENOSYS: fallback != Allow && fallback != Log && fallback != Errno(unix.ENOSYS),
		Flags:       flags,
	}
	for _, a := range archs {
		if a != native {
			f.Archs = append(f.Archs, a)
		}
	}
	if fallback == Notify {
		return Filter{}, fmt.Errorf("SCMP_ACT_NOTIFY can't be the default action: nobody could answer")
	}
	for i := range rules {
		if rules[i].Action != Notify {
			continue
		}
		f.Flags |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
		for _, name := range rules[i].Names {
			// The listener's descriptor is handed over after the filter is
			// in place, and its sender writes.
			if name == "write" {
				return Filter{}, fmt.Errorf("SCMP_ACT_NOTIFY can't be used for write")
			}
		}
	}
	if f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 && f.Flags&unix.SECCOMP_FILTER_FLAG_TSYNC != 0 {
		// The kernel takes both only if a failed sync is not told by thread id.
		f.Flags |= unix.SECCOMP_FILTER_FLAG_TSYNC_ESRCH
	}
	return f, nil
}

// ArchNames are the architectures that a bundle's filter can be made for, as
// the runtime spec spells them.
func ArchNames() []string {
	names := make([]string, 0, archCount)
	for i := range arches {
		names = append(names, arches[i].oci)
	}
	slices.Sort(names)
	return names
}
