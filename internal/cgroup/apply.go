package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/cgroup/resource"
	"launch/internal/sys"
)

// Apply sets all limits of r but the devices (see SetDevices). For an update, r
// is the whole as resource.Merge gives it. Warnings name what has no effect on
// this host. After an error some limits are set and others not.
func (g Group) Apply(r *specs.LinuxResources) (warnings []string, err error) {
	writes, warnings, err := resource.Writes(r, g.hierarchies())
	var absent *resource.Absent
	if errors.As(err, &absent) && (slices.Contains(g.Denied, absent.Controller) || slices.Contains(g.Denied, resource.V2Name(absent.Controller))) {
		return nil, fmt.Errorf("%s needs a cgroup of controller %s, which this user may not make: %w", absent.Field, absent.Controller, unix.EACCES)
	}
	if err != nil {
		return nil, err
	}
	if err := g.check(r); err != nil {
		return nil, err
	}
	for len(writes) > 0 {
		w := writes[0]
		n := slices.IndexFunc(writes, func(o resource.Write) bool { return o.Controller != w.Controller || o.Version != w.Version })
		if n < 0 {
			n = len(writes)
		}
		if err := g.carry(writes[:n]); err != nil {
			return nil, err
		}
		writes = writes[n:]
	}
	return warnings, nil
}

// carry carries out writes of one controller.
func (g Group) carry(writes []resource.Write) error {
	i := slices.IndexFunc(g.Dirs, func(d Dir) bool {
		return d.Version == writes[0].Version && (d.Version == 2 || slices.Contains(d.Controllers, writes[0].Controller))
	})
	d := g.Dirs[i] // hierarchies said that it is there
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	var later []resource.Write
	for _, w := range writes {
		err := put(n, w)
		if err == unix.EINVAL && w.Later {
			later = append(later, w)
			continue
		}
		if err != nil {
			return explain(n, d, w, err)
		}
	}
	for _, w := range later {
		if err := put(n, w); err != nil {
			return explain(n, d, w, err)
		}
	}
	return nil
}

// put writes one value, into the file that this kernel has.
func put(n int, w resource.Write) error {
	err := sys.WriteFile(n, w.File, w.Value)
	// EOPNOTSUPP: the file is there, but not what it stands for.
	missing := err == unix.ENOENT || err == unix.EOPNOTSUPP
	switch {
	case missing && w.Else != nil:
		e := *w.Else
		e.Optional = e.Optional || w.Optional
		return put(n, e)
	case missing && w.Optional:
		return nil
	}
	return err
}

// Refused is the error of a value that the kernel doesn't take.
type Refused struct {
	Path        string // of the cgroup
	File, Value string
	Err         error
	Cause       string // what was found out on the spot
}

func (e *Refused) Error() string {
	s := fmt.Sprintf("set %s of cgroup %s to %q: %v", e.File, e.Path, e.Value, e.Err)
	if e.Cause != "" {
		s += " (" + e.Cause + ")"
	}
	return s
}

func (e *Refused) Unwrap() error { return e.Err }

func explain(n int, d Dir, w resource.Write, err error) error {
	e := &Refused{Path: d.String(), File: w.File, Value: w.Value, Err: err}
	switch {
	case err == unix.ENOENT && w.Version == 2 && w.Controller != "":
		have, _ := sys.ReadFile(n, "cgroup.controllers", 4096)
		switch {
		case !slices.Contains(strings.Fields(string(have)), w.Controller):
			e.Cause = "the " + w.Controller + " controller isn't available there"
		default:
			e.Cause = "the kernel has no such file"
		}
	case err == unix.ENOENT:
		e.Cause = "the kernel has no such file"
	case err == unix.EBUSY && strings.HasPrefix(w.File, "memory."):
		// Version 1: what is used can't be reclaimed.
		now, _ := readNumber(n, "memory.usage_in_bytes")
		peak, _ := readNumber(n, "memory.max_usage_in_bytes")
		e.Cause = fmt.Sprintf("in use are %d, at most it were %d", now, peak)
	}
	return e
}

// check refuses a memory limit below what is used, where version 2 would kill
// instead.
func (g Group) check(r *specs.LinuxResources) error {
	m := r.Memory
	if m == nil || m.CheckBeforeUpdate == nil || !*m.CheckBeforeUpdate {
		return nil
	}
	d, ok := g.dir("memory")
	if !ok || d.Version == 1 {
		return nil // the kernel does it itself
	}
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	used, err := readNumber(n, "memory.current")
	if err != nil {
		return fmt.Errorf("read memory.current of cgroup %s: %w", d, err)
	}
	if m.Limit != nil && *m.Limit > 0 && uint64(*m.Limit) < used {
		return &Refused{Path: d.String(), File: "memory.max", Value: strconv.FormatInt(*m.Limit, 10), Err: unix.EBUSY,
			Cause: fmt.Sprintf("in use are %d", used)}
	}
	if m.Swap != nil && *m.Swap > 0 && m.Limit != nil && *m.Limit > 0 {
		swapped, _ := readNumber(n, "memory.swap.current")
		if *m.Swap >= *m.Limit && uint64(*m.Swap-*m.Limit) < swapped {
			return &Refused{Path: d.String(), File: "memory.swap.max", Value: strconv.FormatInt(*m.Swap-*m.Limit, 10), Err: unix.EBUSY,
				Cause: fmt.Sprintf("in use are %d", swapped)}
		}
	}
	return nil
}

// readNumber reads a file of one number; max is the greatest there is.
func readNumber(n int, file string) (uint64, error) {
	text, err := sys.ReadFile(n, file, 4096)
	if err != nil {
		return 0, err
	}
	s := strings.TrimSpace(string(text))
	if s == "max" {
		return ^uint64(0), nil
	}
	return strconv.ParseUint(s, 10, 64)
}

// programName is what our device programs are called in the kernel, so that
// an update replaces them and nobody else's.
const programName = "launch_devices"

// SetDevices lets the group use the devices that the rules allow and no
// others, from the next open on. A rootless group goes without what it may not
// set: it could make no nodes anyway. Every other failure must keep the
// container from starting.
func (g Group) SetDevices(rules resource.Devices) error {
	err := g.setDevices(rules)
	if err != nil && g.Rootless && denied(err) {
		return nil
	}
	return err
}

func (g Group) setDevices(rules resource.Devices) error {
	i := slices.IndexFunc(g.Dirs, func(d Dir) bool { return d.Version == 1 && slices.Contains(d.Controllers, "devices") })
	if i >= 0 {
		return g.Dirs[i].listDevices(rules)
	}
	d, ok := g.Unified()
	switch {
	case ok:
		return d.guardDevices(rules)
	case g.Rootless || rules.Everything():
		return nil
	}
	return &resource.Absent{Controller: "devices", Field: "linux.resources.devices"}
}

// listDevices is version 1's way.
func (d Dir) listDevices(rules resource.Devices) error {
	list, err := rules.V1()
	if err != nil {
		return err
	}
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	now, err := sys.ReadFile(n, "devices.list", 1<<20)
	if err != nil {
		return fmt.Errorf("read devices.list of cgroup %s: %w", d, err)
	}
	for _, w := range list.Writes(string(now)) {
		if err := sys.WriteFile(n, w.File, w.Value); err != nil {
			return explain(n, d, w, err)
		}
	}
	return nil
}

// guardDevices is version 2's way: a program that the kernel asks.
func (d Dir) guardDevices(rules resource.Devices) error {
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	code := resource.Bytes(rules.Program())
	prog, err := sys.BPFLoad(unix.BPF_PROG_TYPE_CGROUP_DEVICE, code, programName, nil)
	if err == unix.EACCES || err == unix.EINVAL {
		log := make([]byte, 64<<10)
		if _, again := sys.BPFLoad(unix.BPF_PROG_TYPE_CGROUP_DEVICE, code, programName, log); again != nil && log[0] != 0 {
			return fmt.Errorf("load the device program: %w: %s", err, strings.TrimSpace(unix.ByteSliceToString(log)))
		}
	}
	if err != nil {
		return fmt.Errorf("load the device program: %w", err)
	}
	defer sys.Close(prog)
	old, err := ours(n)
	if err != nil {
		return fmt.Errorf("list the device programs of cgroup %s: %w", d, err)
	}
	defer func() {
		for _, o := range old {
			sys.Close(o)
		}
	}()
	flags, replace := uint32(unix.BPF_F_ALLOW_MULTI), 0
	if len(old) > 0 {
		flags, replace = flags|unix.BPF_F_REPLACE, old[0]
	}
	if err := sys.BPFAttach(n, prog, unix.BPF_CGROUP_DEVICE, flags, replace); err != nil {
		return fmt.Errorf("attach the device program to cgroup %s: %w", d, err)
	}
	for _, o := range old[min(1, len(old)):] {
		if err := sys.BPFDetach(n, o, unix.BPF_CGROUP_DEVICE); err != nil {
			return fmt.Errorf("detach a device program from cgroup %s: %w", d, err)
		}
	}
	return nil
}

// ours gives descriptors of the device programs that we attached.
func ours(n int) ([]int, error) {
	ids, err := sys.BPFAttached(n, unix.BPF_CGROUP_DEVICE)
	if err != nil {
		return nil, err
	}
	var list []int
	var errs []error
	for _, id := range ids {
		p, err := sys.BPFOpen(id)
		if err == nil {
			var name string
			if name, err = sys.BPFName(p); err == nil && name == programName {
				list = append(list, p)
				continue
			}
			sys.Close(p)
		}
		if err != nil && err != unix.ENOENT {
			errs = append(errs, err)
		}
	}
	return list, errors.Join(errs...)
}

// Limit sets all that r asks for: the limits of Apply, then which devices may
// be used. A nil r asks for nothing.
func (g Group) Limit(r *specs.LinuxResources) (warnings []string, err error) {
	if r == nil {
		return nil, nil
	}
	if warnings, err = g.Apply(r); err != nil {
		return nil, err
	}
	devices, err := resource.ContainerDevices(r.Devices)
	if err != nil {
		return warnings, err
	}
	return warnings, g.SetDevices(devices)
}
