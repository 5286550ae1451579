// Package systemd is the driver for hosts whose systemd wants to be the only
// one to make cgroups: a container becomes a transient scope with its limits as
// properties, and its cgroup is delegated to us.
//
// It guarantees that a unit that it started is complete, with the process in
// it, when Start returns. Limits that systemd has no property for are set in
// the cgroup's files, by package cgroup, as always. It refuses to know how
// files of cgroups are called.
//
//	u, err := systemd.Parse("machine.slice:libpod:web", "web", false)
//	bus, err := systemd.Connect(false)
//	props, err := bus.Properties(resources, hierarchies)
//	err = bus.Start(u, pid, "web", props)
//	group, err := layout.UnitGroup(pid, u.Name)
//
// Room: host.
package systemd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"launch/internal/bus"
	"launch/internal/cgroup/resource"
)

// Unit is a container's unit. It is plain data for a state file.
type Unit struct {
	// Name ends in .scope; Slice is the one it is in.
	Name  string `json:"name"`
	Slice string `json:"slice,omitempty"`
	// User says that it belongs to the user's own manager.
	User bool `json:"user,omitempty"`
}

// Parse reads a cgroupsPath of the form slice:prefix:name. An empty path is
// PREFIX-ID.scope in the usual slice, with prefix "launch".
func Parse(cgroupsPath, id string, user bool) (Unit, error) {
	u := Unit{Slice: "system.slice", User: user}
	if user {
		u.Slice = "user.slice"
	}
	prefix, name := "launch", id
	if cgroupsPath != "" {
		parts := strings.Split(cgroupsPath, ":")
		if len(parts) != 3 {
			return Unit{}, fmt.Errorf("cgroupsPath %q is not slice:prefix:name, which the systemd cgroup driver needs", cgroupsPath)
		}
		if parts[0] != "" {
			u.Slice = parts[0]
		}
		prefix, name = parts[1], parts[2]
	}
	if err := validSlice(u.Slice); err != nil {
		return Unit{}, fmt.Errorf("cgroupsPath %q: %w", cgroupsPath, err)
	}
	if strings.HasSuffix(name, ".slice") {
		return Unit{}, fmt.Errorf("cgroupsPath %q: systemd puts no processes into a slice: give a name without .slice for a scope in it", cgroupsPath)
	}
	u.Name = name + ".scope"
	if prefix != "" {
		u.Name = prefix + "-" + u.Name
	}
	if !validName(u.Name) || name == "" {
		return Unit{}, fmt.Errorf("cgroupsPath %q: %q can't be the name of a unit", cgroupsPath, u.Name)
	}
	return u, nil
}

// validName: letters, digits and a few signs, as systemd has it.
func validName(s string) bool {
	if len(s) > 255 {
		return false
	}
	for _, c := range s {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || strings.ContainsRune(`:-_.\@`, c)) {
			return false
		}
	}
	return true
}

func validSlice(s string) error {
	name, ok := strings.CutSuffix(s, ".slice")
	if !ok || !validName(s) || name == "" || name != "-" && (strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") || strings.Contains(name, "--")) {
		return fmt.Errorf("%q is no slice", s)
	}
	return nil
}

// infinity is no limit.
const infinity = ^uint64(0)

// ErrTaken is the error of Start for a unit that somebody else has.
var ErrTaken = errors.New("there is a unit of that name already")

// Start starts the unit with the process in it, and waits until it is there.
// A unit of that name that has failed is cleared away.
func (b *Bus) Start(u Unit, pid int, id string, limits []Property) error {
	props := []Property{
		{"Description", "container " + id},
		{"Delegate", true},
		{"DefaultDependencies", false},
		{"MemoryAccounting", true}, {"CPUAccounting", true}, {"TasksAccounting", true}, {"IOAccounting", true},
		{"Slice", u.Slice}, {"PIDs", []uint32{uint32(pid)}},
	}
	if b.version == 0 || b.version >= 236 {
		// Else what failed would stay in the list for ever.
		props = append(props, Property{"CollectMode", "inactive-or-failed"})
	}
	body := &bus.Writer{Sig: "ssa(sv)a(sa(sv))"}
	body.Str(u.Name)
	body.Str("fail")
	body.Properties(wire(append(props, limits...)))
	body.Array(8, func() {})
	m, err := b.ask("StartTransientUnit", body)
	if exists(err) {
		if _, reset := b.ask("ResetFailedUnit", bus.Strings("s", u.Name)); reset == nil {
			m, err = b.ask("StartTransientUnit", body)
		}
		if exists(err) {
			return fmt.Errorf("start unit %s: %w", u.Name, ErrTaken)
		}
	}
	if err == nil {
		err = b.c.Job(m)
	}
	if err != nil {
		return fmt.Errorf("start unit %s: %w", u.Name, err)
	}
	return nil
}

func exists(err error) bool {
	var e *bus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.UnitExists"
}

// Update changes the limits of a unit, until it ends.
func (b *Bus) Update(u Unit, limits []Property) error {
	if len(limits) == 0 {
		return nil
	}
	body := &bus.Writer{Sig: "sba(sv)"}
	body.Str(u.Name)
	body.Uint32(1) // runtime: nothing stays on the disk
	body.Properties(wire(limits))
	if _, err := b.ask("SetUnitProperties", body); err != nil {
		return fmt.Errorf("update unit %s: %w", u.Name, err)
	}
	return nil
}

// Stop removes the unit with all that runs in it. One that is gone is no
// error.
func (b *Bus) Stop(u Unit) error {
	m, err := b.ask("StopUnit", bus.Strings("ss", u.Name, "replace"))
	if err == nil {
		err = b.c.Job(m)
	}
	var e *bus.Error
	if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop unit %s: %w", u.Name, err)
	}
	// If it had failed, it would be kept.
	_, _ = b.ask("ResetFailedUnit", bus.Strings("s", u.Name)) // it is gone, mostly
	return nil
}

// StopEmpty removes a unit that we asked for without having heard that it is
// ours: if our process ended meanwhile, systemd keeps the unit, though it
// will never hear that nothing is left in it. One with processes is somebody
// else's, and stays; ours may take a moment to end.
func (b *Bus) StopEmpty(u Unit) error {
	for range 100 {
		m, err := b.ask("GetUnitProcesses", bus.Strings("s", u.Name))
		var e *bus.Error
		if errors.As(err, &e) && e.Name == "org.freedesktop.systemd1.NoSuchUnit" {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for the processes of unit %s: %w", u.Name, err)
		}
		if m.Reader().Uint32() == 0 { // the length of the list
			return b.Stop(u)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

// Properties turns limits into properties that this manager knows. h tells
// which controllers are of version 2.
func (b *Bus) Properties(r *specs.LinuxResources, h resource.Hierarchies) ([]Property, error) {
	return Properties(r, h, b.version)
}

// Properties turns limits into properties; version is the manager's, 0 for a
// new one. Limits without a property are left out: their files are written by
// package cgroup. It fails where resource.Writes does.
func Properties(r *specs.LinuxResources, h resource.Hierarchies, version int) ([]Property, error) {
	if r == nil {
		return nil, nil
	}
	writes, _, err := resource.Writes(r, h)
	if err != nil {
		return nil, err
	}
	if version == 0 {
		version = 1 << 30
	}
	var out []Property
	set := func(name string, value any) {
		i := slices.IndexFunc(out, func(p Property) bool { return p.Name == name })
		if i < 0 {
			out = append(out, Property{name, value})
		} else {
			out[i].Value = value // a later write wins
		}
	}
	period := map[string]string{}
	for _, w := range writes {
		if err := property(w, version, period, set); err != nil {
			return nil, err
		}
	}
	// Version 1 has quota and period in two files.
	if q := period["cpu.cfs_quota_us"]; q != "" {
		p := period["cpu.cfs_period_us"]
		if p == "" {
			p = "100000"
		}
		quota(q, p, version, set)
	}
	return out, nil
}

// property gives the property of one write.
func property(w resource.Write, version int, v1 map[string]string, set func(string, any)) error {
	number := func(name string) error {
		if w.Value == "max" || w.Value == "-1" {
			set(name, infinity)
			return nil
		}
		n, err := strconv.ParseUint(w.Value, 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %q is no number", w.File, w.Value)
		}
		set(name, n)
		return nil
	}
	switch w.File {
	case "memory.max":
		return number("MemoryMax")
	case "memory.high":
		return number("MemoryHigh")
	case "memory.low":
		return number("MemoryLow")
	case "memory.min":
		return number("MemoryMin")
	case "memory.swap.max":
		return number("MemorySwapMax")
	case "memory.limit_in_bytes":
		return number("MemoryLimit")
	case "pids.max":
		return number("TasksMax")
	case "cpu.weight":
		return number("CPUWeight")
	case "cpu.shares":
		return number("CPUShares")
	case "cpu.idle":
		if w.Version == 2 && w.Value == "1" && version >= 252 {
			set("CPUWeight", uint64(0)) // "idle"
		}
	case "cpu.max":
		q, p, ok := strings.Cut(w.Value, " ")
		if !ok {
			p = "100000"
		}
		quota(q, p, version, set)
	case "cpu.cfs_quota_us", "cpu.cfs_period_us":
		v1[w.File] = w.Value
	case "io.weight":
		if !strings.Contains(w.Value, " ") {
			return number("IOWeight")
		}
	case "io.bfq.weight":
		if w.Else != nil && !strings.Contains(w.Value, " ") {
			w = *w.Else
			return number("IOWeight")
		}
	case "blkio.weight":
		if !strings.Contains(w.Value, " ") {
			return number("BlockIOWeight")
		}
	case "cpuset.cpus", "cpuset.mems":
		if w.Version != 2 || version < 244 {
			return nil
		}
		bits, err := mask(w.Value)
		if err != nil {
			return fmt.Errorf("%s: %w", w.File, err)
		}
		set(map[string]string{"cpuset.cpus": "AllowedCPUs", "cpuset.mems": "AllowedMemoryNodes"}[w.File], bits)
	}
	return nil
}

// quota: systemd counts the time per second, and cuts it to a hundredth of it;
// rounded up, the container never gets less than it was promised.
func quota(q, p string, version int, set func(string, any)) {
	perSecond, period := infinity, infinity
	if n, err := strconv.ParseUint(p, 10, 64); err == nil && n > 0 {
		period = n
		if q, err := strconv.ParseUint(q, 10, 32); err == nil && q > 0 {
			perSecond = (q*1000000/period + 9999) / 10000 * 10000
		}
	}
	if version >= 242 && period != infinity {
		set("CPUQuotaPeriodUSec", period)
	}
	set("CPUQuotaPerSecUSec", perSecond)
}

// mask turns a list like 0-3,7 into bits, the first in the first byte.
func mask(list string) ([]byte, error) {
	var bits []byte
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		from, to, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			to = from
		}
		a, err := strconv.ParseUint(from, 10, 13)
		z, err2 := strconv.ParseUint(to, 10, 13)
		if err != nil || err2 != nil || z < a {
			return nil, fmt.Errorf("%q is not a list like 0-3,7", list)
		}
		for ; a <= z; a++ {
			for len(bits) <= int(a/8) {
				bits = append(bits, 0)
			}
			bits[a/8] |= 1 << (a % 8)
		}
	}
	return bits, nil
}

// DeviceProperties are the rules as properties. In version 1 systemd writes
// the list anew when it is reloaded, so it has to know it; in version 2 it
// leaves our program alone, and must not be told, since it can't express all
// rules.
func DeviceProperties(rules resource.Devices) ([]Property, error) {
	list, err := rules.V1()
	if err != nil {
		return nil, err
	}
	if list.Allow {
		if len(list.Exceptions) > 0 {
			return nil, nil // can't be expressed; the file has it
		}
		return []Property{{"DevicePolicy", "auto"}, {"DeviceAllow", [][2]string{}}}, nil
	}
	allow := map[string]resource.Access{}
	for _, e := range list.Exceptions {
		kind := map[byte]string{'b': "block", 'c': "char"}[e.Type]
		name := fmt.Sprintf("/dev/%s/%d:%d", kind, e.Major, e.Minor)
		switch {
		case e.Major == resource.Any && e.Minor == resource.Any:
			name = kind + "-*"
		case e.Major == resource.Any:
			return nil, fmt.Errorf("linux.resources.devices: systemd can't express %q", e.String())
		case e.Minor == resource.Any:
			name = fmt.Sprintf("%s-%d", kind, e.Major)
		}
		allow[name] |= e.Access
	}
	var pairs [][2]string
	for _, name := range slices.Sorted(maps.Keys(allow)) {
		pairs = append(pairs, [2]string{name, allow[name].String()})
	}
	return []Property{{"DevicePolicy", "strict"}, {"DeviceAllow", pairs}}, nil
}
