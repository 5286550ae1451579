package plan

import (
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/origin"
	"launch/mount"
	"launch/settings"
	"launch/userns"
	"launch/userns/record"
)

// bound plans the users of the host's that the machine has, too: which ids they
// have there, their records, and where their home directories go.
func (c *compiler) bound() error {
	b := c.Settings.Bound
	if len(b.Users) == 0 {
		return nil
	}
	next := uint32(record.FirstID)
	dir := func(name string) {
		c.records = append(c.records, Entry{Path: name, Mode: dir755})
	}
	dir("host/home")
	dir("host/userdb")
	for i, u := range b.Users {
		f := facts.Bound{Name: u.Name}
		if i < len(c.Facts.Bound) {
			f = c.Facts.Bound[i]
		}
		refuse := func(hint, format string, args ...any) error {
			return &settings.Error{What: fmt.Sprintf("cannot bind the user "+u.Name+": "+format, args...), Origin: u.Origin, Value: u.Name, Hint: hint}
		}
		if err := c.checkBound(u.Name, f, refuse); err != nil {
			return err
		}
		for slices.Contains(c.Facts.Taken.IDs, next) {
			next++
		}
		if next > record.LastID {
			return refuse(fmt.Sprintf("free some of them in the tree's /etc/passwd and /etc/group, or bind at most %d users", record.LastID-record.FirstID+1),
				"the machine has no id left from %d to %d", record.FirstID, record.LastID)
		}
		if r := c.Plan.Users.Range; c.Plan.Users.Private() && next >= r.Size {
			e := refuse(fmt.Sprintf("give a range of %d", userns.DefaultSize), "it is to have the id %d in the machine, which has only %d", next, r.Size)
			e.(*settings.Error).Origin, e.(*settings.Error).Value = c.Plan.Users.Origin, r.String()
			return e
		}
		g := record.Bound{Name: u.Name, ID: next, Groups: b.Groups, Disposition: f.User.Disposition, GroupDisposition: f.Group.Disposition,
			Passwords: f.User.Passwords, Keys: f.User.Keys}
		next++
		switch b.Shell {
		case settings.HostShell:
			if g.Shell = f.User.Shell; g.Shell != "" && !record.Clean(g.Shell) {
				return refuse("give one as --bind-user-shell=PATH", "its shell on the host, %s, is no clean path", strconv.Quote(g.Shell))
			}
		default:
			g.Shell = b.Shell
		}
		if err := c.introduce(g, f, u.Origin); err != nil {
			return refuse("", "write its record: %v", err)
		}
	}
	return nil
}

// checkBound refuses a user that can't be in the machine.
func (c *compiler) checkBound(name string, f facts.Bound, refuse func(hint, format string, args ...any) error) error {
	u := f.User
	other := "bind another user"
	taken := c.Facts.Taken
	switch {
	case !f.Known:
		c.note("the user %s could not be looked up: the start will tell more", name)
	case !f.Found:
		return refuse("getent passwd lists the host's users", "the host has no such user")
	case name == "root", u.HasUID && u.UID == 0:
		return refuse(other, "it is root, and the machine has a root of its own")
	case name == "nobody", u.HasUID && u.UID == 65534:
		return refuse(other, "it is nobody, and the machine has a nobody of its own")
	case !u.HasUID, u.UID == 65535, u.GID == 65535:
		return refuse(other, "the host has no id for it")
	case f.Group.Name == "":
		return refuse("groupadd --gid="+fmt.Sprint(u.GID)+" "+name, "its group %d is unknown on the host", u.GID)
	case f.Group.Name != name:
		return refuse("give it one: groupadd "+name+" && usermod --gid="+name+" "+name, "it has no group of its own, but is in %s", f.Group.Name)
	case u.GID == 0:
		return refuse("give it a group of its own", "its group is root's")
	}
	switch {
	case slices.Contains(taken.Users, name):
		return refuse("leave it out, or remove the user from the tree", "the machine has a user of that name")
	case slices.Contains(taken.Groups, name):
		return refuse("leave it out, or remove the group from the tree", "the machine has a group of that name")
	case !f.Known:
		return nil
	}
	for _, p := range u.Passwords {
		if !record.Plain(p) {
			return refuse("set another with passwd", "its password in /etc/shadow has a control character")
		}
	}
	switch {
	case u.Home == "", u.Home == "/":
		return refuse("give it a home directory with usermod --home", "its home directory is the host's root directory")
	case u.Home[0] != '/':
		return refuse("give it a home directory with usermod --home", "its home directory %s is no absolute path", strconv.Quote(u.Home))
	case f.Home == facts.Absent:
		return refuse("make the directory", "its home directory %s is not there", u.Home)
	case f.Home != facts.Dir && f.Home != facts.Unknown:
		return refuse("give it a home directory with usermod --home", "its home %s is no directory", u.Home)
	}
	return nil
}

// introduce adds a user's records and home directory.
func (c *compiler) introduce(g record.Bound, f facts.Bound, from origin.Origin) error {
	files, err := g.Files()
	if err != nil {
		return err
	}
	for _, file := range files {
		e := Entry{Path: "host/userdb/" + file.Name, Mode: unix.S_IFREG | 0o644, Data: file.Text}
		switch {
		case file.Link != "":
			e.Mode, e.Data = link, file.Link
		case file.Private:
			e.Mode, e.Data, e.Hidden = unix.S_IFREG|0o600, "", file.Text
		}
		c.records = append(c.records, e)
	}
	c.records = append(c.records, Entry{Path: "host/home/" + g.Name, Mode: dir755})
	home := f.User.Home
	if home == "" { // nobody could be asked
		home = "/home/" + g.Name
	}
	one := func(id uint32) userns.Map { return userns.Map{{Inside: id, Outside: g.ID, Size: 1}} }
	c.homes = append(c.homes, mount.Mount{
		Kind: mount.Bind, Source: mount.Path{Path: home}, Target: g.HomeDir(), UIDs: one(f.User.UID), GIDs: one(f.User.GID), Origin: from,
	})
	c.Plan.Bound = append(c.Plan.Bound, g)
	return nil
}

// withHomes puts the homes of bound users among the user's own mounts: behind all but
// those that lie in one of them.
func (c *compiler) withHomes(mounts []mount.Mount) []mount.Mount {
	if c.homes == nil {
		return mounts
	}
	var before, inside []mount.Mount
	for _, m := range mounts {
		if slices.ContainsFunc(c.homes, func(h mount.Mount) bool { return mount.Inside(m.Target, h.Target) }) {
			inside = append(inside, m)
		} else {
			before = append(before, m)
		}
	}
	return append(append(before, c.homes...), inside...)
}
