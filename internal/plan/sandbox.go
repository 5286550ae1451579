package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/mount"
	"launch/settings"
)

// This file plans what keeps a machine from touching what it was given: the
// mounts that a profile gives every bundle, stubs for missing mount points, and
// throw-away layers.

// mandatory plans the mounts that the profile gives a bundle, and takes those
// of the bundle's away that would cover them.
func (c *compiler) mandatory() error {
	var own []mount.Mount
	said := map[string]bool{}
	for _, m := range c.Settings.Mounts {
		reserved := func(dir string) bool {
			return m.Target == dir || dir != "/dev" && mount.Inside(m.Target, dir)
		}
		if slices.ContainsFunc(c.Profile.Reserved, reserved) {
			c.note("%s: not mounted on %s: the profile %s has its own there", m.Origin, m.Target, c.Profile.Name)
			continue
		}
		said[m.Target] = true
		own = append(own, m)
	}
	c.Settings.Mounts = own
	for _, row := range c.Profile.Bundle {
		if row.When&settings.Unsaid != 0 && said[row.Target] {
			continue
		}
		m := mount.Mount{Kind: mount.Arbitrary, Target: row.Target, Type: row.Type, Set: row.Attr, Options: row.Options, Origin: c.base}
		if users := c.Plan.Users; row.Type == "devpts" && users.Private() {
			if _, ok := users.GIDs.Host(5); !ok {
				m.Options = strings.TrimSuffix(m.Options, ",gid=5") // there is no such group inside
			}
		}
		s, err := c.bundleMount(m)
		if err != nil {
			return err
		}
		c.step(s)
	}
	return nil
}

// fresh are the file systems that begin anew with each mount, or are the
// kernel's view of the machine. A devtmpfs is one of them only in a sandbox.
var fresh = [...]string{"cgroup", "cgroup2", "devpts", "mqueue", "none", "proc", "ramfs", "sysfs", "tmpfs"}

// options divides a new file system's options, and holds type and keys to what
// the profile knows.
func (c *compiler) options(m *mount.Mount, fstype, text string) ([]Option, error) {
	list := splitOptions(text)
	refuse := func(what, hint string) ([]Option, error) {
		return nil, &settings.Error{What: what, Origin: m.Origin, Value: m.Target, Hint: hint}
	}
	if c.Settings.Image.OverlayAll && m.Set&ro == 0 && !slices.Contains(fresh[:], fstype) &&
		(fstype != "devtmpfs" || c.Profile.Known == nil) {
		return refuse(fmt.Sprintf("cannot mount %s on %s: what is written there would not be thrown away, as --overlay-all wants", fstype, m.Target),
			"mount it read-only, or on the host, and bind it")
	}
	if c.Profile.Known == nil {
		if fstype == "none" {
			return refuse("cannot mount a file system without knowing its type", "give a type, or add the option rbind")
		}
		return list, nil
	}
	var names []string
	var keys []string
	known := false
	for _, f := range c.Profile.Known {
		names = append(names, f.Type)
		if f.Type == fstype {
			known, keys = true, f.Keys
		}
	}
	if !known {
		return refuse(fmt.Sprintf("cannot mount %s on %s: the profile %s doesn't know this file system", fstype, m.Target, c.Profile.Name),
			"it knows binds, and "+strings.Join(names, " "))
	}
	var kept []Option
	for _, o := range list {
		switch {
		case strings.Contains(o.Value, "="):
			return refuse(fmt.Sprintf("cannot mount %s on %s: the option %s=%s has two equals signs", fstype, m.Target, o.Key, o.Value), "write KEY=VALUE")
		case !slices.Contains(keys, o.Key):
			c.note("%s: ignored: %s on %s has no option %s that the profile %s knows", m.Origin, fstype, m.Target, o.Key, c.Profile.Name)
		default:
			kept = append(kept, o)
		}
	}
	return kept, nil
}

// private makes of the types that stand for the host's devices, or for nothing,
// what a sandbox has in their place.
func private(s *Step) {
	switch s.Type {
	case "none":
		// An empty directory that nobody can put anything into.
		s.Type, s.Source = "tmpfs", mount.Path{Path: "none"}
		s.Attr |= ro | ns | nd | nx
		s.Options = []Option{{"mode", "0555"}, {"size", "4k"}}
	case "devtmpfs":
		s.Type, s.Source = "tmpfs", mount.Path{Path: "devtmpfs"}
		s.Attr |= ns | nx
		for _, o := range [][2]string{{"mode", "0755"}, {"size", "4m"}, {"nr_inodes", "64k"}} {
			if !slices.ContainsFunc(s.Options, func(have Option) bool { return have.Key == o[0] }) {
				s.Options = append(s.Options, Option{o[0], o[1]})
			}
		}
		if s.Target == "/dev" {
			break // devices fills it
		}
		for _, d := range nodes {
			s.Content = append(s.Content, Entry{Path: d.name, Mode: unix.S_IFCHR | 0o666, Dev: unix.Mkdev(d.major, d.minor)})
		}
		for _, l := range links {
			s.Content = append(s.Content, Entry{Path: l.name, Mode: link, Data: l.to})
		}
	}
}

// keepTmp makes a tmpfs on /tmp a layer over what the tree has there.
func (c *compiler) keepTmp(s *Step) {
	if c.Profile.KeepTmp && s.Do == Mount && s.Type == "tmpfs" && s.Target == "/tmp" {
		s.Do, s.Type, s.Source, s.Mode, s.CopyUp = Layer, "", mount.Path{}, 0o1777, false
		s.Like = !slices.ContainsFunc(s.Options, func(o Option) bool { return o.Key == "mode" })
	}
}

// fill is how much a throw-away layer may hold.
var fill = [...]Option{{"size", "25%"}, {"nr_inodes", "1m"}}

// layered makes a step that shows something of the host's keep it from being
// written to.
func (c *compiler) layered(s *Step) {
	img := c.Settings.Image
	if !img.OverlayAll || s.Source.Temp {
		return
	}
	if s.Do == Bind && !s.Source.InRoot && (s.Attr|s.AllAttr)&ro == 0 || s.Do == Overlay && s.Attr&ro == 0 {
		s.Over = fill[:]
	}
}

// unchanged reports whether the tree and the sources of mounts must be left as
// they are: what they lack is made in a layer.
func (c *compiler) unchanged() bool { return c.Profile.Stubs || c.Settings.Image.OverlayAll }

// stubs plans, behind each mount that may turn out to be read-only and to lack
// the target of a later one, the layer that has it.
func (c *compiler) stubs() {
	if !c.unchanged() {
		return
	}
	content := map[int][]Entry{}
	for i := range c.Steps {
		e, ok := stub(&c.Steps[i])
		if !ok {
			continue
		}
		o := c.lies(i)
		if o < 0 || !c.Steps[o].shows() {
			continue
		}
		e.Path = strings.TrimPrefix(strings.TrimPrefix(e.Path, c.Steps[o].Target), "/")
		if !slices.ContainsFunc(content[o], func(have Entry) bool { return have.Path == e.Path }) {
			content[o] = append(content[o], e)
		}
	}
	steps := make([]Step, 0, len(c.Steps)+len(content))
	for i, s := range c.Steps {
		steps = append(steps, s)
		if len(content[i]) > 0 {
			if s.Target == "" {
				s.Target = "/"
			}
			steps = append(steps, Step{World: s.World, Do: Stubs, Target: s.Target, Content: content[i], Lenient: s.Optional, Origin: s.Origin})
		}
	}
	c.Steps = steps
}

// lies gives the step that made the mount that the target of another one lies
// in when its turn comes: the last one with the longest target, or what made the
// root what it is; -1 if there is none. It goes by names, since what a link of
// the tree's leads to isn't known yet.
func (c *compiler) lies(at int) int {
	found := -1
	for i := range at {
		s := &c.Steps[i]
		switch {
		case s.Do == Tree || s.Do == Stack || s.Do == Pivot || s.Target == "/":
			found = i // comes before all others
		case s.Do != Mount && s.Do != Bind && s.Do != Overlay && s.Do != Layer && s.Do != Disk && s.Do != Pile && (s.Do != Take || s.Target == ""):
		case mount.Inside(c.Steps[at].Target, s.Target) && (found < 0 || mount.Below(s.Target, c.Steps[found].Target) || c.Steps[found].Target == ""):
			found = i
		}
	}
	return found
}

// shows reports whether what the step makes shows files that are there already,
// and could be read-only: all else begins empty, or is a layer.
func (s *Step) shows() bool { return s.Do != Mount && s.Do != Layer }

// stub is what a step needs to be there.
func stub(s *Step) (e Entry, ok bool) {
	e.Path = s.Target
	if s.Target == "" || s.Target == "/" || s.Lenient || s.World == settings.Before || s.World == settings.Beside {
		return e, false
	}
	switch s.Do {
	case Bind:
		if s.Part != "" || s.Source.Temp {
			e.Mode = unix.S_IFDIR | 0o755
		} else {
			e.Kind = s.Source
		}
	case Mount, Overlay, Cgroups, Disk, Take, Pile:
		e.Mode = unix.S_IFDIR | 0o755
	case Layer:
		e.Mode = unix.S_IFDIR | 0o1777
	case Terminal:
		e.Mode = unix.S_IFREG | 0o644
	case Node:
		e.Mode, e.Dev, e.UID, e.GID = s.Content[0].Mode, s.Content[0].Dev, s.Content[0].UID, s.Content[0].GID
	case Symlink:
		if path.Dir(s.Target) == "/" {
			return e, false // of the tree's own, see base0
		}
		e.Mode, e.Data = link, s.Source.Path
	default:
		return e, false
	}
	return e, true
}

// device names one of the nodes that every /dev has.
type device struct {
	name         string
	major, minor uint32
}

var nodes = [...]device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

// links are the links that every /dev has.
var links = [...]struct{ name, to string }{
	{"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"}, {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}, {"ptmx", "pts/ptmx"},
}
