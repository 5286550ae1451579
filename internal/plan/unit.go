package plan

import (
	"fmt"
	"path"
	"strings"

	"launch/mount"
	"launch/settings"
)

// unit decides where the machine's processes are: in a scope of its own that
// systemd makes, or below the cgroup that the launcher is in.
func (c *compiler) unit() {
	own := Cgroup{Mount: c.Facts.Host.CgroupMount, Path: path.Join("/", c.Facts.Host.Cgroup, "launch-"+c.Machine)}
	u := c.Settings.Unit
	told := u.Slice != "" || len(u.Properties) > 0 || u.User
	if c.KeepUnit {
		if u.Slice != "" || len(u.Properties) > 0 {
			c.note("the machine stays in the launcher's unit: --slice= and --property= are not used")
		}
		at := path.Join("/", c.Facts.Host.Cgroup)
		if up, ok := strings.CutSuffix(at, "/supervisor"); ok {
			// A unit that delegates its cgroup has the launcher in a child
			// already, and the machine beside it.
			own.Path, own.Divide = path.Join("/", up, "payload"), true
		} else if c.Facts.Host.Systemd && strings.HasSuffix(at, ".service") {
			// An older systemd leaves that to the launcher.
			own.Path, own.Supervisor, own.Divide = path.Join(at, "payload"), path.Join(at, "supervisor"), true
		}
		c.Plan.Cgroup = own
		return
	}
	c.Plan.Cgroup = own
	if !c.Facts.Host.Systemd && !u.User {
		if told {
			c.note("systemd does not run here: the machine gets no scope, --slice= and --property= are not used")
		}
		return
	}
	s := &Scope{Name: "machine-" + escape(c.Machine) + ".scope", Slice: "machine.slice", Required: told, Else: own, Origin: c.base}
	for _, name := range [...]string{"property", "slice", "system"} {
		if o := c.from(name); o != c.base {
			s.Origin = o
		}
	}
	if u.Slice != "" {
		s.Slice = u.Slice
	}
	allow := [][2]string{{"/dev/net/tun", "rwm"}, {"char-pts", "rw"}, {"/dev/fuse", "rwm"}}
	for _, m := range c.Settings.Mounts {
		if name := c.device(m); name != "" {
			rights := "rw"
			if m.ReadOnly {
				rights = "r"
			}
			allow = append(allow, [2]string{name, rights})
		}
	}
	s.Properties = []settings.Property{
		{Name: "Description", Value: "Container " + c.Machine},
		{Name: "Delegate", Value: true},
		{Name: "CollectMode", Value: "inactive-or-failed"},
		{Name: "Slice", Value: s.Slice},
		{Name: "TasksMax", Value: uint64(16384)}, // a whole machine is more than a service
		{Name: "DevicePolicy", Value: "closed"},
		{Name: "DeviceAllow", Value: allow},
	}
	if sig := c.stopSignal(); sig != 0 {
		s.Properties = append(s.Properties, settings.Property{Name: "KillSignal", Value: int32(sig)}, settings.Property{Name: "KillMode", Value: "mixed"})
	}
	if c.Settings.Exec.Mode == settings.Boot {
		// The machine's own systemd takes care of programs that crash in it.
		s.Newer = []settings.Property{{Name: "CoredumpReceive", Value: true}}
	}
	for _, text := range u.Properties {
		p, err := settings.ParseProperty(text)
		if err != nil {
			continue // it was read before
		}
		if slice, ok := p.Value.(string); ok && p.Name == "Slice" {
			s.Slice = slice
		}
		s.Properties = append(s.Properties, p)
	}
	c.Plan.Scope = s
	at := slicePath(s.Slice)
	if u.User {
		at = path.Join(rootManager, at)
	}
	c.Plan.Cgroup = Cgroup{Mount: own.Mount, Path: path.Join(at, s.Name, "payload"), Divide: true}
}

// rootManager is where root's own service manager is: machines take root.
const rootManager = "/user.slice/user-0.slice/user@0.service"

// device is what systemd calls the device that is bound: by its path in /dev or,
// where the node lies elsewhere, by its number. It is "" for what is no device, and
// for a directory: whoever binds one has not named a device.
func (c *compiler) device(m mount.Mount) string {
	if m.Kind != mount.Bind || m.Source.InRoot {
		return ""
	}
	for _, d := range c.Facts.Devices {
		kind := "char"
		if d.Block {
			kind = "block"
		}
		switch {
		case d.Path != m.Source.Path:
		case strings.HasPrefix(d.Path, "/dev/"):
			return d.Path
		default:
			return fmt.Sprintf("/dev/%s/%d:%d", kind, d.Major, d.Minor)
		}
	}
	return ""
}

// stopSignal is what asks the machine to end; 0: nothing does.
func (c *compiler) stopSignal() int {
	if sig := c.Settings.Exec.KillSignal; sig != 0 || c.Settings.Exec.Mode != settings.Boot {
		return sig
	}
	return 34 + 3 // SIGRTMIN+3 as libc counts: systemd's halt
}

// slicePath is where systemd has a slice: each dash stands for one above it.
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	at := "/"
	if name == "-" {
		return at
	}
	for i := range len(name) + 1 {
		if i == len(name) || name[i] == '-' {
			at = path.Join(at, name[:i]+".slice")
		}
	}
	return at
}

// escape gives a machine's name as a part of a unit's: a dash has a meaning
// there, and so has a dot in front.
func escape(name string) string {
	return strings.ReplaceAll(name, "-", `\x2d`)
}

// register decides whether systemd-machined is told of the machine.
func (c *compiler) register() {
	mode := c.Settings.Life.Register
	env := c.Settings.Environment
	if mode == settings.Never || env.SharePID || env.ShareUTS || mode != settings.Yes && !c.Facts.Host.Systemd && !c.Settings.Unit.User {
		return
	}
	root := c.Directory
	if c.Plan.apart() {
		root = "" // the host has no directory that it is in
	}
	c.Plan.Register = &Registration{Class: "container", Root: root, Required: mode == settings.Yes, Origin: c.from("register")}
}
