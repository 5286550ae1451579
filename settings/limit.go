package settings

import (
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Rlimit is a resource limit.
type Rlimit struct {
	// Name is the kernel's, without RLIMIT_.
	Name string `json:"name"`
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Infinity is no limit.
const Infinity = ^uint64(0)

// unit is what a limit counts.
type unit uint8

const (
	plainNumber unit = iota
	size
	seconds
	microseconds
	niceLevel
)

// limitNames are the resources, in the kernel's order.
var limitNames = [...]struct {
	name     string
	resource uint8
	unit     unit
}{
	{"CPU", unix.RLIMIT_CPU, seconds},
	{"FSIZE", unix.RLIMIT_FSIZE, size},
	{"DATA", unix.RLIMIT_DATA, size},
	{"STACK", unix.RLIMIT_STACK, size},
	{"CORE", unix.RLIMIT_CORE, size},
	{"RSS", unix.RLIMIT_RSS, size},
	{"NPROC", unix.RLIMIT_NPROC, plainNumber},
	{"NOFILE", unix.RLIMIT_NOFILE, plainNumber},
	{"MEMLOCK", unix.RLIMIT_MEMLOCK, size},
	{"AS", unix.RLIMIT_AS, size},
	{"LOCKS", unix.RLIMIT_LOCKS, plainNumber},
	{"SIGPENDING", unix.RLIMIT_SIGPENDING, plainNumber},
	{"MSGQUEUE", unix.RLIMIT_MSGQUEUE, size},
	{"NICE", unix.RLIMIT_NICE, niceLevel},
	{"RTPRIO", unix.RLIMIT_RTPRIO, plainNumber},
	{"RTTIME", unix.RLIMIT_RTTIME, microseconds},
}

// RlimitNumber gives the kernel's number of a limit, by its name without
// RLIMIT_.
func RlimitNumber(name string) (int, bool) {
	for _, r := range limitNames {
		if r.name == name {
			return int(r.resource), true
		}
	}
	return 0, false
}

func limitList() []string {
	names := make([]string, len(limitNames))
	for i, l := range limitNames {
		names[i] = l.name
	}
	return names
}

// parseRlimit reads NAME=SOFT[:HARD]. The name may be the kernel's or the
// key's.
func parseRlimit(_ Place, text string) (any, error) {
	name, value, ok := strings.Cut(text, "=")
	if !ok {
		return nil, fmt.Errorf("%q is not NAME=VALUE", text)
	}
	short := strings.TrimPrefix(strings.TrimPrefix(name, "RLIMIT_"), "Limit")
	if !slices.Contains(limitList(), short) {
		return nil, oneOf(name, limitList()...)
	}
	return parseLimit(short, value)
}

// parseLimit reads SOFT[:HARD] for a resource.
func parseLimit(name, text string) (any, error) {
	l := Rlimit{Name: name}
	soft, hard, two := strings.Cut(text, ":")
	var err error
	if l.Soft, err = limitValue(name, soft); err != nil {
		return nil, err
	}
	l.Hard = l.Soft
	if two {
		if l.Hard, err = limitValue(name, hard); err != nil {
			return nil, err
		}
	}
	if l.Soft > l.Hard {
		return nil, fmt.Errorf("the soft limit %s is above the hard limit %s", soft, hard)
	}
	return l, nil
}

func limitValue(name, text string) (uint64, error) {
	kind := plainNumber
	for _, l := range limitNames {
		if l.name == name {
			kind = l.unit
		}
	}
	if kind == niceLevel {
		return niceLimit(text)
	}
	if text == "infinity" {
		return Infinity, nil
	}
	var n uint64
	var err error
	switch kind {
	case size:
		n, err = ParseSize(text)
	case seconds:
		if n, err = parseSpan(text, 1e6); err == nil {
			n = n/1e6 + min(n%1e6, 1) // a part of a second counts as one
		}
	case microseconds:
		n, err = parseSpan(text, 1)
	default:
		n, err = parseNumber(text)
	}
	if err == nil && n == Infinity {
		err = fmt.Errorf("%s is too much", text)
	}
	return n, err
}

// niceLimit reads a nice level, if there is a sign, or else the kernel's
// number, which counts the other way: 20 minus the level.
func niceLimit(text string) (uint64, error) {
	bad := fmt.Errorf("%q is neither a nice level (-20 to +19) nor a number up to 40", text)
	level, negative := strings.CutPrefix(text, "-")
	level, positive := strings.CutPrefix(level, "+")
	n, err := parseNumber(level)
	switch {
	case err != nil, negative && positive, negative && n > 20, positive && n > 19, n > 40:
		return 0, bad
	case negative:
		return 20 + n, nil
	case positive:
		return 20 - n, nil
	}
	return n, nil
}

// parseNumber reads a number as C writes them.
func parseNumber(text string) (uint64, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimLeft(text, " "), "+"), 0, 64)
	if err != nil || strings.Contains(text, "_") {
		return 0, fmt.Errorf("%q is not a number", text)
	}
	return n, nil
}

// decimal takes a number, with or without a fraction, from the head of a text
// and gives it times scale.
func decimal(text string, scale uint64) (n uint64, rest string, err error) {
	end := strings.IndexFunc(text, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
	if end < 0 {
		end = len(text)
	}
	whole, part, point := strings.Cut(text[:end], ".")
	if point && whole == "" {
		whole = "0"
	}
	n, err = strconv.ParseUint(whole, 10, 64)
	hi, n := bits.Mul64(n, scale)
	if err != nil || hi > 0 || strings.Contains(part, ".") || point && part == "" {
		return 0, "", fmt.Errorf("%q is not a number, or too large", text[:end])
	}
	for _, c := range []byte(part) {
		// Digits that are worth less than one don't count.
		if scale /= 10; scale == 0 {
			break
		}
		if n += uint64(c-'0') * scale; n < scale {
			return 0, "", fmt.Errorf("%q is too large", text[:end])
		}
	}
	return n, text[end:], nil
}

// ParseSize reads a number of bytes: 4096, 8M, 1.5G, or 1G512M.
func ParseSize(text string) (uint64, error) {
	bad := fmt.Errorf("%q is not a size: a number, with K, M, G, T, P or E behind it or not", text)
	const letters = "BKMGTPE"
	var sum uint64
	last := len(letters) // the parts get smaller
	for rest := strings.TrimLeft(text, " "); rest != "" || last == len(letters); {
		digits := strings.IndexFunc(rest, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
		if digits < 0 {
			digits = len(rest)
		}
		suffix := strings.TrimLeft(rest[digits:], " ")
		which := 0
		if suffix != "" {
			if which = strings.IndexByte(letters, suffix[0]); which < 0 {
				return 0, bad
			}
			suffix = strings.TrimLeft(suffix[1:], " ")
			if suffix == "" && rest[len(rest)-1] == ' ' {
				return 0, bad
			}
		} else if rest != rest[:digits] {
			return 0, bad // blanks at the end
		}
		n, err := binary(rest[:digits], uint(which)*10)
		if err != nil || which >= last || sum+n < sum {
			return 0, bad
		}
		sum, last, rest = sum+n, which, suffix
	}
	return sum, nil
}

// binary gives a decimal number times a power of two.
func binary(text string, shift uint) (uint64, error) {
	whole, part, point := strings.Cut(text, ".")
	n, err := strconv.ParseUint(whole, 10, 64)
	if err != nil || bits.Len64(n)+int(shift) > 64 {
		return 0, errors.New("too large")
	}
	n <<= shift
	if !point {
		return n, nil
	}
	if len(part) > 9 {
		part = part[:9]
	}
	f, err := strconv.ParseUint(part, 10, 64)
	if err != nil {
		return 0, err
	}
	ten := uint64(1)
	for range part {
		ten *= 10
	}
	hi, lo := bits.Mul64(f, 1<<shift)
	q, _ := bits.Div64(hi, lo, ten)
	return n + q, nil
}

// The units of a span of time, in microseconds. A month is a twelfth of a year
// of 365.25 days.
var spans = [...]struct {
	name string
	us   uint64
}{
	{"seconds", 1e6}, {"second", 1e6}, {"sec", 1e6}, {"s", 1e6},
	{"minutes", 60e6}, {"minute", 60e6}, {"min", 60e6}, {"m", 60e6},
	{"months", 2629800e6}, {"month", 2629800e6}, {"M", 2629800e6},
	{"msec", 1e3}, {"ms", 1e3}, {"usec", 1}, {"us", 1}, {"µs", 1}, {"μs", 1},
	{"hours", 3600e6}, {"hour", 3600e6}, {"hr", 3600e6}, {"h", 3600e6},
	{"days", 86400e6}, {"day", 86400e6}, {"d", 86400e6},
	{"weeks", 604800e6}, {"week", 604800e6}, {"w", 604800e6},
	{"years", 31557600e6}, {"year", 31557600e6}, {"y", 31557600e6},
}

// parseSpan reads a span of time (90, 1min 30s, 1.5h) in microseconds; a
// number alone counts units.
func parseSpan(text string, units uint64) (uint64, error) {
	bad := fmt.Errorf("%q is not a span of time: numbers with us, ms, s, min, h, d or w", text)
	var sum uint64
	rest := strings.TrimSpace(text)
	for first := true; rest != "" || first; first = false {
		end := strings.IndexFunc(rest, func(c rune) bool { return (c < '0' || c > '9') && c != '.' })
		if end < 0 {
			end = len(rest)
		}
		number, tail := rest[:end], strings.TrimLeft(rest[end:], " \t")
		word := tail
		if i := strings.IndexFunc(tail, func(c rune) bool { return c == ' ' || c == '\t' || c >= '0' && c <= '9' }); i >= 0 {
			word = tail[:i]
		}
		scale, known := units, word == ""
		for _, s := range spans {
			if s.name == word {
				scale, known = s.us, true
			}
		}
		n, _, err := decimal(number, scale)
		if err != nil || !known || sum+n < sum {
			return 0, bad
		}
		sum += n
		rest = strings.TrimLeft(tail[len(word):], " \t")
	}
	return sum, nil
}

func setRlimit(s *Settings, a Assignment) {
	l := a.Value.(Rlimit)
	list := slices.DeleteFunc(slices.Clone(s.Exec.Rlimits), func(r Rlimit) bool { return r.Name == l.Name })
	list = append(list, l)
	slices.SortFunc(list, func(a, b Rlimit) int { return strings.Compare(a.Name, b.Name) })
	s.Exec.Rlimits = list
}

// OOMScore is who is killed first when memory is short. The zero value leaves
// it to the kernel.
type OOMScore struct {
	Told   bool `json:"told,omitempty"`
	Adjust int  `json:"adjust"`
}

func parseOOM(_ Place, text string) (any, error) {
	n, err := strconv.ParseInt(strings.TrimLeft(text, " "), 0, 64)
	if err != nil || n < -1000 || n > 1000 || strings.Contains(text, "_") {
		return nil, fmt.Errorf("%q is not a number from -1000 to 1000", text)
	}
	return OOMScore{Told: true, Adjust: int(n)}, nil
}

// parseSELinux reads a label, USER:ROLE:TYPE and, where the policy has levels, one
// of these. Only the policy knows which there are. An empty one says nothing.
func parseSELinux(_ Place, text string) (any, error) {
	if text == "" {
		return "", nil
	}
	odd := strings.IndexFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f || c == '"' })
	parts := strings.SplitN(text, ":", 4)
	if odd >= 0 || len(parts) < 3 || slices.Contains(parts, "") {
		return nil, fmt.Errorf("%q is no label of SELinux: that is USER:ROLE:TYPE, or USER:ROLE:TYPE:LEVEL", text)
	}
	return text, nil
}

// CPUs is a set of processors, each once and in order.
type CPUs []int

// maxCPU is more than any kernel counts.
const maxCPU = 8191

// someCPUs is what an option says: all of them, or some more.
type someCPUs struct {
	CPUs
	more bool
}

// parseCPUs reads the flag, which says them all.
func parseCPUs(_ Place, text string) (any, error) {
	c, err := readCPUs(text)
	return someCPUs{c, false}, err
}

// parseCPUsKey reads a line of a file, which adds to the lines above it.
func parseCPUsKey(_ Place, text string) (any, error) {
	c, err := readCPUs(text)
	return someCPUs{c, true}, err
}

func setCPUs(s *Settings, a Assignment) {
	c := a.Value.(someCPUs)
	if !c.more {
		s.Exec.CPUs = nil
	}
	s.Exec.CPUs = s.Exec.CPUs.add(c.CPUs)
}

// readCPUs reads 0,2-4 or 0 2-4. An empty list takes back what was said.
func readCPUs(text string) (CPUs, error) {
	words, err := SplitWords(strings.ReplaceAll(text, ",", " "))
	if err != nil {
		return nil, err
	}
	var c CPUs
	for _, w := range words {
		from, to, span := strings.Cut(w, "-")
		if !span {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 32)
		b, err2 := strconv.ParseUint(to, 10, 32)
		switch {
		case err != nil || err2 != nil:
			return nil, fmt.Errorf("%q is neither the number of a processor nor a range of them", w)
		case b > maxCPU:
			return nil, fmt.Errorf("there is no processor %d: the last is %d", b, maxCPU)
		case a > b:
			return nil, fmt.Errorf("the range %s ends before it begins", w)
		}
		for n := a; n <= b; n++ {
			c = append(c, int(n))
		}
	}
	return CPUs(nil).add(c), nil
}

// add gives both sets together; nothing added clears.
func (c CPUs) add(more CPUs) CPUs {
	if len(more) == 0 {
		return nil
	}
	all := append(slices.Clone(c), more...)
	slices.Sort(all)
	return slices.Compact(all)
}

// String gives 0,2-4.
func (c CPUs) String() string {
	var b strings.Builder
	for i := 0; i < len(c); {
		j := i
		for j+1 < len(c) && c[j+1] == c[j]+1 {
			j++
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(c[i]))
		if j > i {
			b.WriteString("-" + strconv.Itoa(c[j]))
		}
		i = j + 1
	}
	return b.String()
}

// RlimitName gives the name of a limit as Rlimit has it for one that the
// runtime specification and getrlimit(2) call RLIMIT_…
func RlimitName(text string) (string, bool) {
	short, ok := strings.CutPrefix(text, "RLIMIT_")
	return short, ok && slices.Contains(limitList(), short)
}

// RlimitNames are the names that RlimitName takes.
func RlimitNames() []string {
	names := limitList()
	for i := range names {
		names[i] = "RLIMIT_" + names[i]
	}
	return names
}

// ParseCPUs reads a list of processors, 0,2-4.
func ParseCPUs(text string) (CPUs, error) { return readCPUs(text) }
