package plan

import (
	"strings"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/mount"
	"launch/settings"
)

// writable tells whether files of the tree's /etc can be changed.
func (c *compiler) writable() bool {
	switch c.Settings.Image.Volatile {
	case settings.VolatileYes, settings.VolatileOverlay:
		return true
	case settings.VolatileState:
		return false
	}
	for _, v := range c.Facts.Disk.Volumes {
		if v.Use == disk.Root && v.ReadOnly {
			return false
		}
	}
	if c.Plan.MStack {
		if t := c.arranged(); !t.Writable() {
			return false
		}
	}
	return !c.Settings.Image.ReadOnly && !c.covered()
}

// resolvConf plans how the machine resolves names.
func (c *compiler) resolvConf() {
	mode := c.Settings.Host.ResolvConf
	from := c.from("resolv-conf")
	host := c.Facts.Host.Resolv
	if mode == "" {
		how := "bind-"
		if c.writable() {
			how = "copy-"
		}
		switch {
		case c.Settings.Network.Private:
			// The host's name servers may not be in reach.
			return
		case host.Stub:
			mode = how + "stub"
		case host.Host:
			mode = how + "host"
		case c.writable():
			mode = "delete"
		default:
			return
		}
	}
	const target = "/etc/resolv.conf"
	how, kind, _ := strings.Cut(mode, "-")
	s := Step{Target: target, Source: mount.Path{Path: settings.ResolvFile(kind)}, Soft: true, Origin: from}
	switch how {
	case "copy":
		s.Do, s.Keep = Copy, true
	case "replace":
		s.Do = Copy
	case "bind":
		// Over a link and not where it leads: there, a resolver of the machine's own
		// may have to put its file.
		s.Do, s.Fallback, s.Attr, s.Mode, s.Keep, s.NoFollow = Bind, Copy, ro|ns|nd, 0o755, true, true
	case "delete":
		s = Step{Do: Remove, Target: target, Soft: true, Origin: from}
	default: // off
		return
	}
	c.step(s)
}

// localtime plans the machine's time zone.
func (c *compiler) localtime() {
	mode := c.Settings.Host.Timezone
	if mode == "" && c.Profile.App {
		return
	}
	from := c.from("timezone")
	host := c.Facts.Host
	if mode == "" {
		switch {
		case host.Localtime == facts.Absent && c.writable():
			mode = "delete"
		case host.Localtime == facts.Link && c.writable() && host.Zone != "":
			mode = "symlink"
		case host.Localtime == facts.File && c.writable():
			mode = "copy"
		case host.Localtime == facts.Link, host.Localtime == facts.File:
			mode = "bind"
		default:
			return
		}
	}
	const target = "/etc/localtime"
	file := mount.Path{Path: target}
	switch mode {
	case "symlink":
		if host.Zone == "" {
			if host.Known {
				c.note("the host's /etc/localtime is no link to a time zone: that of the machine stays as it is")
			}
			return
		}
		// A tree that lacks the zone gets the host's file: a link would lead
		// nowhere, and a bind mount leaves an empty file behind.
		c.step(Step{Do: Zone, Target: target, Source: mount.Path{Path: "../usr/share/zoneinfo/" + host.Zone}, Lower: []mount.Path{file},
			Fallback: Copy, Soft: true, Origin: from})
	case "bind":
		c.step(Step{Do: Bind, Target: target, Source: file, Fallback: Copy, Attr: ro | ns | nd, Mode: 0o755, NoFollow: true, Soft: true, Origin: from})
	case "copy":
		c.step(Step{Do: Copy, Target: target, Source: file, Soft: true, Origin: from})
	case "delete":
		c.step(Step{Do: Remove, Target: target, Soft: true, Origin: from})
	}
}
