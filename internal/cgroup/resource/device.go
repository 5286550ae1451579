package resource

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Access is what may be done with a device: bits as the kernel numbers them.
type Access uint32

const (
	MknodAccess Access = 1 << iota
	ReadAccess
	WriteAccess
	allAccess = MknodAccess | ReadAccess | WriteAccess
)

func (a Access) String() string {
	s := ""
	if a&ReadAccess != 0 {
		s += "r"
	}
	if a&WriteAccess != 0 {
		s += "w"
	}
	if a&MknodAccess != 0 {
		s += "m"
	}
	return s
}

// Any is a device number that stands for all.
const Any = -1

// A DeviceRule gives a verdict on some access to some devices.
type DeviceRule struct {
	Allow bool
	// Type is b, c, or a for both.
	Type         byte
	Major, Minor int64 // Any for all
	Access       Access
}

// String is the rule in the kernel's words, as devices.allow takes them.
func (r DeviceRule) String() string {
	return string(r.Type) + " " + number(r.Major) + ":" + number(r.Minor) + " " + r.Access.String()
}

func number(n int64) string {
	if n == Any {
		return "*"
	}
	return strconv.FormatInt(n, 10)
}

// whole tells whether a rule is about everything.
func (r DeviceRule) whole() bool {
	return r.Type == 'a' && r.Major == Any && r.Minor == Any && r.Access == allAccess
}

// covers tells whether r is about each device that o is about.
func (r DeviceRule) covers(o DeviceRule) bool {
	return (r.Type == 'a' || r.Type == o.Type) && (r.Major == Any || r.Major == o.Major) && (r.Minor == Any || r.Minor == o.Minor)
}

// meets tells whether both rules are about some device.
func (r DeviceRule) meets(o DeviceRule) bool {
	return (r.Type == 'a' || o.Type == 'a' || r.Type == o.Type) &&
		(r.Major == Any || o.Major == Any || r.Major == o.Major) &&
		(r.Minor == Any || o.Minor == Any || r.Minor == o.Minor)
}

// Devices are rules in order: for each kind of access the last one that is
// about the device decides, and what no rule is about is denied.
type Devices []DeviceRule

// ContainerDevices gives the rules of a container: everything is denied at
// first; the bundle's rules follow; what each container has stays allowed. So
// a rule "deny all", which most bundles begin with, changes nothing, and no
// list can be read as one of what to forbid only.
//
// Nodes of any device may be made: that gives no access to it, and unpacking
// archives needs it.
func ContainerDevices(rules []specs.LinuxDeviceCgroup) (Devices, error) {
	list := Devices{{Allow: false, Type: 'a', Major: Any, Minor: Any, Access: allAccess}}
	for i, r := range rules {
		d, err := deviceRule(r)
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d]: %w", i, err)
		}
		list = append(list, d)
	}
	return append(list, always[:]...), nil
}

// always are the devices that every container has.
var always = [...]DeviceRule{
	{true, 'c', Any, Any, MknodAccess},
	{true, 'b', Any, Any, MknodAccess},
	{true, 'c', 1, 3, allAccess},     // null
	{true, 'c', 1, 5, allAccess},     // zero
	{true, 'c', 1, 7, allAccess},     // full
	{true, 'c', 1, 8, allAccess},     // random
	{true, 'c', 1, 9, allAccess},     // urandom
	{true, 'c', 5, 0, allAccess},     // tty
	{true, 'c', 5, 1, allAccess},     // console
	{true, 'c', 5, 2, allAccess},     // ptmx
	{true, 'c', 136, Any, allAccess}, // pts/N
}

func deviceRule(r specs.LinuxDeviceCgroup) (DeviceRule, error) {
	d := DeviceRule{Allow: r.Allow, Type: 'a', Major: Any, Minor: Any}
	switch r.Type {
	case "", "a":
	case "b", "c":
		d.Type = r.Type[0]
	default:
		return d, fmt.Errorf("no type %q", r.Type)
	}
	if r.Major != nil {
		d.Major = *r.Major
	}
	if r.Minor != nil {
		d.Minor = *r.Minor
	}
	if err := inRange(d.Major, d.Minor); err != nil {
		return d, err
	}
	for _, c := range r.Access {
		switch c {
		case 'r':
			d.Access |= ReadAccess
		case 'w':
			d.Access |= WriteAccess
		case 'm':
			d.Access |= MknodAccess
		default:
			return d, fmt.Errorf("access %q has letters other than r, w and m", r.Access)
		}
	}
	if d.Access == 0 {
		return d, fmt.Errorf("access is empty")
	}
	return d, nil
}

// inRange: device numbers have 12 and 20 bits.
func inRange(major, minor int64) error {
	if major < Any || major > 0xfff || minor < Any || minor > 0xfffff {
		return fmt.Errorf("no device has the number %d:%d", major, minor)
	}
	return nil
}

// Allowed is the model of what the rules mean: it tells whether all of the
// access is allowed. kind is b or c.
func (d Devices) Allowed(kind byte, major, minor int64, access Access) bool {
	at := DeviceRule{Type: kind, Major: major, Minor: minor}
	for bit := MknodAccess; bit <= WriteAccess; bit <<= 1 {
		if access&bit == 0 {
			continue
		}
		allow := false
		for _, r := range d {
			if r.Access&bit != 0 && r.covers(at) {
				allow = r.Allow
			}
		}
		if !allow {
			return false
		}
	}
	return true
}

// Everything tells whether the rules allow all there is.
func (d Devices) Everything() bool {
	for i := len(d) - 1; i >= 0; i-- {
		if !d[i].Allow {
			return false
		}
		if d[i].whole() {
			return true
		}
	}
	return false
}

// A List is what version 1 of cgroups can express: a verdict on everything,
// and exceptions, none of which has exceptions itself.
type List struct {
	Allow      bool // the verdict on what no exception is about
	Exceptions []DeviceRule
}

// V1 brings the rules into the form of version 1, or says which rules it
// cannot express.
func (d Devices) V1() (List, error) {
	var l List
	for _, r := range d {
		if r.whole() {
			l = List{Allow: r.Allow}
			continue
		}
		// "a" with numbers would mean everything to the kernel.
		kinds := []byte{r.Type}
		if r.Type == 'a' {
			kinds = []byte{'b', 'c'}
		}
		for _, k := range kinds {
			r.Type = k
			if err := l.add(r); err != nil {
				return List{}, err
			}
		}
	}
	return l, nil
}

func (l *List) add(r DeviceRule) error {
	if r.Allow != l.Allow { // an exception, or more of one
		for i, e := range l.Exceptions {
			if e.Type == r.Type && e.Major == r.Major && e.Minor == r.Minor {
				l.Exceptions[i].Access |= r.Access
				return nil
			}
		}
		l.Exceptions = append(l.Exceptions, r)
		return nil
	}
	// Back to the verdict on everything: exceptions inside of it end. One that
	// is wider would need a hole.
	kept := l.Exceptions[:0:0]
	for _, e := range l.Exceptions {
		switch {
		case r.covers(e):
			e.Access &^= r.Access
		case r.meets(e) && r.Access&e.Access != 0:
			return fmt.Errorf("linux.resources.devices: cgroup version 1 can't express %s inside of %s", verdict(r), verdict(e))
		}
		if e.Access != 0 {
			kept = append(kept, e)
		}
	}
	l.Exceptions = kept
	return nil
}

func verdict(r DeviceRule) string {
	word := "deny"
	if r.Allow {
		word = "allow"
	}
	return fmt.Sprintf("%q", word+" "+r.String())
}

// Writes gives the writes that turn a cgroup's list into l. now is what
// devices.list says. As little as possible is written, since a running
// container must not lose for a moment what it may use; a cgroup with others
// below refuses to begin anew.
func (l List) Writes(now string) []Write {
	deny, allow := "devices.deny", "devices.allow"
	write := func(file, value string) Write {
		return Write{Controller: "devices", Version: 1, File: file, Value: value}
	}
	var out []Write
	if all := strings.Contains("\n"+now, "\na "); all || l.Allow {
		// An allowing list doesn't show its exceptions, so it is begun anew.
		if l.Allow {
			out = append(out, write(allow, "a"))
			for _, e := range l.Exceptions {
				out = append(out, write(deny, e.String()))
			}
			return out
		}
		out = append(out, write(deny, "a"))
		now = ""
	}
	have := map[string]Access{}
	for line := range strings.Lines(now) {
		device, access, ok := strings.Cut(strings.TrimSpace(line), " ")
		numbers, access, ok2 := strings.Cut(access, " ")
		if !ok || !ok2 {
			continue
		}
		var a Access
		for _, c := range access {
			switch c {
			case 'r':
				a |= ReadAccess
			case 'w':
				a |= WriteAccess
			case 'm':
				a |= MknodAccess
			}
		}
		have[device+" "+numbers+" "] |= a
	}
	for _, e := range l.Exceptions {
		key := strings.TrimSuffix(e.String(), e.Access.String())
		if more := e.Access &^ have[key]; more != 0 {
			e.Access = more
			out = append(out, write(allow, e.String()))
		}
	}
	// What goes, goes last and in the order of the list.
	for line := range strings.Lines(now) {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 {
			continue
		}
		key := line[:i+1]
		gone := have[key]
		for _, e := range l.Exceptions {
			if strings.TrimSuffix(e.String(), e.Access.String()) == key {
				gone &^= e.Access
			}
		}
		if gone != 0 {
			out = append(out, write(deny, key+gone.String()))
			have[key] = 0
		}
	}
	return out
}
