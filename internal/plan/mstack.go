package plan

import (
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/mstack"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// apart reports whether the root is no directory of the host's.
func (p *Plan) apart() bool { return p.Image || p.MStack }

// arranged is the mount stack as this machine has it.
func (c *compiler) arranged() mstack.Tree {
	return mstack.Arrange(c.Facts.Stack.Entries, c.Settings.Image.Frozen())
}

// take plans the mount of an entry: as the root, on a target, or, without one, as
// a layer of the pile that follows. Part is the directory of it that is taken.
// Layers and what is bound read-only are never written to.
func (c *compiler) take(e *mstack.Entry, target, part string) Step {
	img := c.Settings.Image
	s := Step{Do: Take, Source: mount.Path{Path: e.Path}, Target: target, Part: part, Attr: nd, IDMap: c.rootMap(), Mode: 0o755, Origin: c.from("mstack")}
	if target != "" && target != "/" {
		s.Avoid = "/proc"
	}
	if !e.Writes() || img.Frozen() || e.Volume.ReadOnly {
		s.Attr |= ro
	}
	if e.Raw {
		s.Type, s.Start, s.Size, s.Sector = string(e.Volume.FS), e.Volume.Start, e.Volume.Size, e.Sector
		s.Options = fsOptions(e.Volume.FS, s.Attr&ro != 0, s.Attr&ro != 0)
	}
	return s
}

// pile plans the overlay of a stack's layers, or of a part of it.
func (c *compiler) pile(t mstack.Tree, target, part string) {
	s := Step{Do: Pile, Path: c.Directory, Target: target, Part: part, Attr: nd, Mode: 0o755, Origin: c.from("mstack")}
	for i := range t.Layers {
		e := &t.Layers[i]
		below := ""
		if e.Use == mstack.Writable {
			below = mstack.Data
		}
		c.step(c.take(e, "", below))
	}
	if t.Upper != nil {
		up := c.take(t.Upper, "", "")
		up.Content = []Entry{{Path: mstack.Data, Mode: dir755}, {Path: mstack.Work, Mode: dir755}}
		c.step(up)
		s.Source = mount.Path{Path: path.Join(t.Upper.Path, mstack.Data)}
	} else {
		s.Attr |= ro
	}
	c.step(s)
}

// stackRoot plans the root of a machine on a mount stack.
func (c *compiler) stackRoot() {
	switch t := c.arranged(); {
	case t.Root != nil:
		c.step(c.take(t.Root, "/", ""))
	case len(t.Layers) > 0:
		c.pile(t, "/", "")
	default:
		c.step(Step{Do: Mount, Target: "/", Type: "tmpfs", Source: mount.Path{Path: c.Directory}, Attr: nd, Options: c.owned([]Option{{"mode", "0755"}}), Origin: c.from("mstack")})
	}
}

// stackUsr plans the /usr of a stack whose layers are for that alone.
func (c *compiler) stackUsr() {
	if t := c.arranged(); t.Usr {
		c.stackPart(t, "usr")
	}
}

// stackPart plans a directory of the stack's root on /usr.
func (c *compiler) stackPart(t mstack.Tree, part string) {
	switch {
	case t.Root != nil && !t.Usr:
		c.step(c.take(t.Root, "/usr", part))
	case len(t.Layers)+btoi(t.Upper != nil) > 1:
		c.pile(t, "/usr", part)
	case t.Upper != nil:
		c.step(c.take(t.Upper, "/usr", part))
	case len(t.Layers) == 1:
		c.step(c.take(&t.Layers[0], "/usr", part))
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// stackBinds plans what lies on the root. Of a machine that has only the tree's
// /usr, it is what lies there.
func (c *compiler) stackBinds() {
	t := c.arranged()
	for i := range t.Binds {
		e := &t.Binds[i]
		if c.Settings.Image.Volatile == settings.VolatileYes && !mount.Below(e.Where, "/usr") {
			continue
		}
		c.step(c.take(e, e.Where, ""))
	}
}

// checkStack refuses what can't be had of a mount stack.
func (c *compiler) checkStack() error {
	dir, img := c.Settings.Image.MStack, c.Settings.Image
	if dir == "" {
		return nil
	}
	t := c.arranged()
	if img.Pivot.New != "" && (t.Usr || len(t.Binds) > 0) {
		return &settings.Error{
			What:   fmt.Sprintf("cannot take another root in %s: what the stack mounts on its own root would stay behind", dir),
			Origin: c.from("pivot-root"), Value: img.Pivot.String(), Hint: "leave out --pivot-root=",
		}
	}
	return nil
}

// stackOwners refuses owners that can't be had. All parts of a stack are shown
// with the machine's, each by a map of its own, and no file changes its owner.
func (c *compiler) stackOwners() error {
	u, root := c.Plan.Users, c.Facts.Root
	given := root.Known && root.UID>>16 != 0
	switch {
	case !u.Private():
	case u.Ownership == userns.Foreign && root.Known && !c.foreign():
		return &settings.Error{
			What:   fmt.Sprintf("cannot map the owners of %s: it belongs to %d, and not to the range for foreign trees, %d", c.Directory, root.UID, userns.ForeignBase),
			Origin: c.from("private-users-ownership"), Value: "foreign",
			Hint: "use --private-users-ownership=map for a tree whose files belong to the host's numbers",
		}
	case given && (u.Ownership == userns.MapIt || u.Ownership == userns.Auto && !c.foreign()):
		return &settings.Error{
			What:   fmt.Sprintf("cannot map the owners of %s: its files belong to the range from %d already", c.Directory, root.UID&^0xffff),
			Origin: u.Origin,
			Hint:   fmt.Sprintf("give that range to the machine: --private-users=%d --private-users-ownership=off", root.UID&^0xffff),
		}
	}
	return nil
}

// stackEffects tells of what the host has for the stack.
func (c *compiler) stackEffects(add func(s Step, what, where, undo string)) {
	for _, s := range c.Steps {
		switch {
		case s.Do == Pile && s.Attr&unix.MOUNT_ATTR_RDONLY == 0:
			add(s, "the machine's own layer", s.Source.Path, "stays")
		case s.Do == Take && s.Type != "":
			add(s, "loop device", "/dev/loop…", "ends with the machine")
		}
	}
}
