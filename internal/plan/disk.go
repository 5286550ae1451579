package plan

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// hasVolume tells whether the image has such a volume, or may have it.
func (c *compiler) hasVolume(u disk.Use) bool {
	return !c.Facts.Disk.Known && u == disk.Root || slices.ContainsFunc(c.Facts.Disk.Volumes, func(v disk.Volume) bool { return v.Use == u })
}

// fsOptions are those of disk.Options, taken apart.
func fsOptions(fs disk.FS, readOnly, shared bool) (list []Option) {
	for _, o := range disk.Options(fs, readOnly, shared) {
		k, value, _ := strings.Cut(o, "=")
		list = append(list, Option{k, value})
	}
	return list
}

// volume plans the mount of a volume, with systemd-nspawn's flags.
func (c *compiler) volume(v disk.Volume, target string) Step {
	img := c.Settings.Image
	s := Step{Do: Disk, Source: mount.Path{Path: img.File}, Target: target, Type: string(v.FS), Start: v.Start, Size: v.Size, Sector: c.Facts.Disk.Sector,
		Attr: nd, Mode: 0o755, Origin: c.from("image")}
	// What is thrown away, or layered over, is never written to.
	if v.ReadOnly || img.ReadOnly || img.Volatile != settings.VolatileNo || img.OverlayAll && !img.Ephemeral {
		s.Attr |= ro
	}
	switch v.Use {
	case disk.Tmp:
		s.Attr |= ns
	case disk.ESP, disk.XBootldr:
		s.Attr |= ns | nx | nf
	}
	s.Options = fsOptions(v.FS, s.Attr&ro != 0, img.Ephemeral || s.Attr&ro != 0)
	if v.Use == disk.Root {
		return s // its owners are a step of their own
	}
	if v.FS == "vfat" {
		s.Options = c.owned(s.Options)
		return s
	}
	s.IDMap = c.rootMap()
	switch u := c.Plan.Users; {
	case !u.Private():
	case u.Ownership == userns.Chown, u.Ownership == userns.Auto && c.given():
		s.IDMap, s.Fallback = mount.NoIDMap, Chown
	case u.Ownership == userns.Auto && s.IDMap != mount.NoIDMap && s.Attr&ro == 0:
		s.Fallback = Chown
	}
	return s
}

// given tells whether the tree's files belong to a range already.
func (c *compiler) given() bool {
	root := c.Facts.Root
	return root.Known && root.UID>>16 != 0 && !c.foreign()
}

// disk plans the root of a machine whose tree is in an image: a partition or, if
// it has none, a new file system with the image's /usr.
func (c *compiler) disk() {
	if !c.Facts.Disk.Known {
		c.step(Step{Do: Disk, Source: mount.Path{Path: c.Settings.Image.File}, Target: "/", Origin: c.from("image")})
		return
	}
	if v := c.Facts.Disk.Volumes[0]; v.Use == disk.Root {
		c.step(c.volume(v, "/"))
		return
	}
	c.step(Step{Do: Mount, Target: "/", Type: "tmpfs", Source: mount.Path{Path: "rootfs"}, Attr: nd, Options: c.owned([]Option{{"mode", "0755"}}),
		Content: []Entry{{Path: "usr", Mode: unix.S_IFDIR | 0o755}}, Origin: c.from("image")})
}

// usr plans the /usr of an image that has it apart, and what a mount stack has
// beside its root. Both are as much of a root as the root itself.
func (c *compiler) usr() {
	c.stackUsr()
	c.stackBinds()
	for _, v := range c.Facts.Disk.Volumes {
		if v.Use == disk.Usr {
			c.step(c.volume(v, "/usr"))
		}
	}
}

// volumes plans what else is on the image.
func (c *compiler) volumes() {
	for _, v := range c.Facts.Disk.Volumes {
		target := v.Use.Target()
		switch v.Use {
		case disk.Root, disk.Usr:
			continue
		case disk.XBootldr:
			if c.Facts.Disk.Boot != facts.Dir {
				continue // nobody made room for it
			}
		case disk.ESP:
			switch {
			case c.Facts.Disk.Efi == facts.Dir:
			case c.Facts.Disk.Boot == facts.Dir && !c.hasVolume(disk.XBootldr):
				target = "/boot"
			default:
				continue
			}
		}
		c.step(c.volume(v, target))
	}
}

// checkDisk refuses what can't be had of an image.
func (c *compiler) checkDisk() error {
	img := c.Settings.Image
	if img.Pivot.New != "" && c.hasVolume(disk.Usr) {
		return &settings.Error{
			What:   fmt.Sprintf("cannot take another root in %s: its /usr is a partition of its own, which would stay behind", img.File),
			Origin: c.from("pivot-root"), Value: img.Pivot.String(), Hint: "leave out --pivot-root=",
		}
	}
	return nil
}
