package disk

import (
	"fmt"
	"slices"
	"strings"
)

// state is a set of what a partition may be.
type state uint16

const (
	verity state = 1 << iota
	signed
	encrypted
	unprotected
	unused
	absent
	readOnlyOn
	readOnlyOff
	growOn
	growOff

	protections = verity | signed | encrypted | unprotected
	states      = protections | unused | absent
)

var words = [...]struct {
	word string
	state
}{
	{"verity", verity}, {"signed", signed}, {"encrypted", encrypted}, {"encryptedwithintegrity", encrypted}, {"unprotected", unprotected},
	{"unused", unused}, {"absent", absent}, {"open", states}, {"ignore", unused | absent},
	{"read-only-on", readOnlyOn}, {"read-only-off", readOnlyOff}, {"growfs-on", growOn}, {"growfs-off", growOff},
}

// Policy says what the partitions of an image may be (systemd.image-policy(7)).
// The zero Policy is that of systemd-nspawn.
type Policy struct {
	told bool
	of   [len(Uses)]state
}

// ParsePolicy reads one.
func ParsePolicy(text string) (Policy, error) {
	p := Policy{told: true}
	other := unused | absent // what is not named
	switch text {
	case "*":
		text = "=open"
	case "-":
		text = "=ignore"
	case "~":
		text = "=absent"
	}
	var named [len(Uses)]bool
	defaulted := false
	for rule := range strings.SplitSeq(text, ":") {
		if rule == "" {
			continue
		}
		use, list, ok := strings.Cut(rule, "=")
		if !ok {
			return p, fmt.Errorf("%q has no equals sign", rule)
		}
		var s state
		for word := range strings.SplitSeq(list, "+") {
			i := slices.IndexFunc(words[:], func(w struct {
				word string
				state
			}) bool {
				return w.word == word
			})
			if i < 0 {
				return p, fmt.Errorf("%q is nothing that a partition can be", word)
			}
			s |= words[i].state
		}
		if s&states == 0 {
			s |= states // it spoke only of the flags
		}
		if use == "" {
			if defaulted {
				return p, fmt.Errorf("there are two defaults")
			}
			other, defaulted = s, true
			continue
		}
		i := slices.Index(Uses[:], Use(use))
		if i < 0 {
			return p, fmt.Errorf("%q is no kind of partition", use)
		}
		if named[i] {
			return p, fmt.Errorf("%s is named twice", use)
		}
		p.of[i], named[i] = s, true
	}
	for i := range p.of {
		if !named[i] {
			p.of[i] = other
		}
	}
	return p, nil
}

// allowed gives what a partition may be.
func (p Policy) allowed(use Use) state {
	if p.told {
		return p.of[slices.Index(Uses[:], use)]
	}
	switch use {
	case Root, Usr:
		return protections | absent
	case Home, Srv, Tmp, Var:
		return encrypted | unprotected | absent
	case ESP, XBootldr:
		return unprotected | absent
	}
	return unused | absent
}

// judge decides whether a partition is mounted; an error says that the policy
// forbids the image, or that nobody here can do what it asks for.
func (p Policy) judge(use Use, c candidate, checked, sealed bool) (bool, error) {
	s := p.allowed(use)
	mounted := slices.Index(Uses[:], use) < slices.Index(Uses[:], SwapSpace)
	if !c.ok {
		if s&absent == 0 && mounted {
			return false, &PolicyError{use, "missing"}
		}
		return false, nil
	}
	if !mounted {
		// Swap is nothing to a machine, and the others count with what they check.
		if s&states == absent && p.told {
			return false, &PolicyError{use, "there"}
		}
		return false, nil
	}
	switch {
	case s&(readOnlyOn|readOnlyOff) == readOnlyOn && !c.part.ReadOnly:
		return false, &PolicyError{use, "not marked as read-only"}
	case s&(readOnlyOn|readOnlyOff) == readOnlyOff && c.part.ReadOnly:
		return false, &PolicyError{use, "marked as read-only"}
	case s&(growOn|growOff) == growOn && !c.part.Grow:
		return false, &PolicyError{use, "not marked to grow"}
	case s&(growOn|growOff) == growOff && c.part.Grow:
		return false, &PolicyError{use, "marked to grow"}
	}
	locked := c.part.FS == LUKS
	var can state
	switch {
	case locked:
		can = encrypted
	case checked && sealed:
		can = verity | signed | unprotected
	case checked:
		can = verity | unprotected
	default:
		can = unprotected
	}
	switch can &= s; {
	case can == 0 && s&unused != 0:
		return false, nil
	case can == 0 && locked:
		return false, &PolicyError{use, "encrypted"}
	case can == 0 && s&protections == 0:
		return false, &PolicyError{use, "there"}
	case can == 0:
		return false, &PolicyError{use, "not protected"}
	case can&encrypted != 0:
		return false, &LockedError{use}
	case can&(verity|signed) != 0:
		// Also where the policy would take less: who made it so meant it.
		return false, &VerityError{use}
	}
	return true, nil
}
