package settings

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"unicode"

	"launch/internal/origin"
	"launch/mount"
)

// Environment is what only the launcher's environment says: systemd-nspawn's
// switches for tests and emergencies.
type Environment struct {
	// API says whether the file systems of the kernel may be written to.
	API API `json:"api,omitempty"`
	// NoTmpfsTmp: /tmp is the tree's.
	NoTmpfsTmp        bool `json:"no_tmpfs_tmp,omitempty"`
	NoCgroupNamespace bool `json:"no_cgroup_namespace,omitempty"`
	// The namespaces that the machine shares with the host.
	ShareIPC bool `json:"share_ipc,omitempty"`
	SharePID bool `json:"share_pid,omitempty"`
	ShareUTS bool `json:"share_uts,omitempty"`
	// Service is what the machine is told of who runs it; "" is
	// DefaultService.
	Service string `json:"service,omitempty"`
	// MAC is the hardware address of host0, 12 hex digits; "" is one that
	// belongs to the machine's name.
	MAC string `json:"mac,omitempty"`
	// AnyTree: a tree to boot need not have an os-release file.
	AnyTree bool `json:"any_tree,omitempty"`
	// Unlocked: nobody is kept from using the tree at the same time.
	Unlocked bool `json:"unlocked,omitempty"`
	// NoTitle: the title of the caller's window stays.
	NoTitle bool `json:"no_title,omitempty"`
}

// DefaultService is what programs look for that want to know where they are.
const DefaultService = "systemd-nspawn"

// API says whether /proc/sys and /sys may be written to.
type API string

// The modes of API.
const (
	APIProtected API = ""        // read-only, and in parts hidden
	APINetwork   API = "network" // but for the network's part of /proc/sys
	APIWritable  API = "yes"     // writable
)

// FromEnvironment gives what the caller's environment says. It comes first
// among the assignments: whatever is said elsewhere is said later.
func FromEnvironment(place Place) ([]Assignment, error) {
	var list []Assignment
	for i := range Options {
		o := &Options[i]
		if o.Env == "" {
			continue
		}
		text, ok := lookup(place.Env, o.Env)
		if !ok {
			continue
		}
		from := origin.Origin{Source: origin.Environment, Path: o.Env}
		v, err := o.Parse(place, text)
		if err != nil {
			return nil, &Error{What: "cannot use " + from.String() + ": " + err.Error(), Origin: from, Value: text}
		}
		list = append(list, Assignment{Option: o, Value: v, Origin: from, Text: text})
	}
	return list, nil
}

// lookup gives a variable's value. Of several definitions the first counts, as
// for getenv(3).
func lookup(env []string, name string) (string, bool) {
	for _, e := range env {
		if n, v, ok := strings.Cut(e, "="); ok && n == name {
			return v, true
		}
	}
	return "", false
}

// when gives a text if something holds.
func when(holds bool, text string) string {
	if holds {
		return text
	}
	return ""
}

func parseAPI(_ Place, text string) (any, error) {
	if text == "network" {
		return APINetwork, nil
	}
	b, err := ParseBool(text)
	switch {
	case err != nil:
		return nil, oneOf(text, "yes", "no", "network")
	case b:
		return APIWritable, nil
	}
	return APIProtected, nil
}

// parseService checks a word that becomes a variable's value and a line of a
// file.
func parseService(_ Place, text string) (any, error) {
	if i := strings.IndexFunc(text, func(c rune) bool { return !unicode.IsPrint(c) || c == unicode.ReplacementChar }); i >= 0 {
		return nil, fmt.Errorf("%q has characters that can't be printed", text)
	}
	return text, nil
}

// parseMAC reads a hardware address: six bytes in hex, between colons or
// dashes, two and two between dots, or with nothing between them.
func parseMAC(_ Place, text string) (any, error) {
	digits := text
	for _, sep := range []string{":", "-"} {
		if parts := strings.Split(text, sep); len(parts) == 6 && !slices.ContainsFunc(parts, func(p string) bool { return len(p) != 2 }) {
			digits = strings.Join(parts, "")
		}
	}
	if parts := strings.Split(text, "."); len(parts) == 3 && !slices.ContainsFunc(parts, func(p string) bool { return len(p) != 4 }) {
		digits = strings.Join(parts, "")
	}
	digits = strings.ToLower(digits)
	if len(digits) != 12 || strings.Trim(digits, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is no hardware address, like 8a:68:08:2a:1a:13", text)
	}
	if first := strings.IndexByte("0123456789abcdef", digits[1]); first&1 != 0 || digits == "000000000000" {
		return nil, fmt.Errorf("%q is the address of many, or of nobody, and not that of one interface", text)
	}
	return digits, nil
}

// onlyErrors reports whether the level leaves out warnings. One that nobody
// knows doesn't, and is no reason not to start.
func onlyErrors(level string) bool {
	return slices.Contains([]string{"emerg", "alert", "crit", "err", "0", "1", "2", "3"}, level)
}

// personalityList gives the architectures that a process of this one can say that
// it is on: its own, and its 32-bit sibling.
func personalityList() []string {
	switch runtime.GOARCH {
	case "amd64":
		return []string{"x86-64", "x86"}
	case "arm64":
		return []string{"arm64", "arm"}
	}
	return nil
}

func parsePersonality(_ Place, text string) (any, error) {
	known := personalityList()
	if !slices.Contains(known, text) {
		return nil, oneOf(text, known...)
	}
	return text, nil
}

// Sibling reports whether the personality is the 32-bit one.
func Sibling(personality string) bool {
	return personality != "" && slices.Index(personalityList(), personality) > 0
}

// parseID128 reads an id of 128 bits, with a UUID's dashes or without.
func parseID128(_ Place, text string) (any, error) {
	id := text
	if len(text) == 36 && text[8] == '-' && text[13] == '-' && text[18] == '-' && text[23] == '-' {
		id = strings.ReplaceAll(text, "-", "")
	}
	id = strings.ToLower(id)
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%q is not a machine id: 32 hexadecimal digits, or a UUID", text)
	}
	if strings.Trim(id, "0") == "" {
		return nil, errors.New("a machine id can't be all zeroes")
	}
	return id, nil
}

// Pivot says that another directory of the tree becomes the root.
type Pivot struct {
	// New becomes the root. Old, if it isn't empty, is where the tree's own
	// root is seen, below New.
	New string `json:"new,omitempty"`
	Old string `json:"old,omitempty"`
}

// String gives NEW[:OLD].
func (p Pivot) String() string {
	if p.Old == "" {
		return p.New
	}
	return p.New + ":" + p.Old
}

func parsePivot(_ Place, text string) (any, error) {
	var p Pivot
	var err error
	fresh, old, _ := strings.Cut(text, ":")
	if p.New, err = mount.ParseTarget(fresh); err != nil {
		return nil, err
	}
	if old != "" {
		if p.Old, err = mount.ParseTarget(old); err != nil {
			return nil, err
		}
	}
	if p.Old == "/" {
		return nil, errors.New("the old root can't be on /: nothing would be seen of the new one")
	}
	if p.New == "/" && p.Old == "" {
		return Pivot{}, nil // it is that already
	}
	return p, nil
}

func ambientList() []string { return list("", capNames[:]) }

func parseAmbient(p Place, text string) (any, error) {
	if slices.Contains(strings.Split(text, ","), "all") {
		return uint64(0), errAll()
	}
	return parseCaps(p, text)
}

func parseAmbientKey(p Place, text string) (any, error) {
	if words, err := SplitWords(text); err == nil && slices.Contains(words, "all") {
		return uint64(0), errAll()
	}
	return parseCapsKey(p, text)
}

func errAll() error {
	return errors.New("the command can't be given all capabilities: name those it needs")
}
