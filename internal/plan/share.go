package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// Where systemd-machined and others look for what a machine shares with them.
const (
	propagate  = "/run/systemd/nspawn/propagate"
	unixExport = "/run/systemd/nspawn/unix-export"
	journals   = "/var/log/journal"
	// named has a directory for each machine. There, in unix-export, systemd 261 and
	// later look for what versions before have in unixExport (systemd-ssh-proxy).
	named = "/run/systemd/nspawn"
	// received has a socket for each machine whose journal is forwarded. It can't be
	// in /run/launch, on which the tree is put together.
	received = "/run/systemd/nspawn/journal"
)

// shares tells whether the profile has a mount of that type.
func (c *compiler) shares(fstype string) bool {
	for _, row := range c.Profile.API {
		if row.Type == fstype {
			return true
		}
	}
	return false
}

// beside plans what the host has beside the machine: directories under /run
// that others reach it by, and the place of its journal.
func (c *compiler) beside() error {
	step := func(s Step) {
		s.World = settings.Beside
		c.step(s)
	}
	if c.shares("incoming") {
		step(Step{Do: Make, Path: path.Join(propagate, c.Machine), Mode: 0o600})
	}
	if c.shares("unix-export") {
		// Little of everything: the machine can fill it.
		step(Step{Do: Export, Path: path.Join(unixExport, c.Machine), Type: "tmpfs", Attr: ns | nd | nx | nf, Mode: 0o755,
			Options: []Option{{"mode", "0755"}, {"size", "4M"}, {"nr_inodes", "64"}}})
		// A machine can be called as what is beside the directories of machines.
		if !slices.Contains([]string{path.Base(unixExport), path.Base(propagate), path.Base(received), "locks"}, c.Machine) {
			step(Step{Do: Link, Path: path.Join(named, c.Machine, "unix-export"), Source: mount.Path{Path: path.Join("../unix-export", c.Machine)}, Soft: true})
		}
	}
	if err := c.receive(step); err != nil {
		return err
	}
	return c.journal(step)
}

// receive plans who takes what the machine's journal hands on. In a directory,
// systemd-journal-remote names the files after the host, and puts full ones aside.
func (c *compiler) receive(host func(Step)) error {
	f, from := c.Settings.Host.Forward, c.from("forward-journal")
	if f.To == "" {
		return nil
	}
	r := c.Facts.Receiver
	if r.Known && r.Path == "" {
		return &settings.Error{What: "cannot forward the machine's journal: this host has no systemd-journal-remote", Origin: from, Value: f.To,
			Hint: "install it (as a rule it is a package of that name), or use --link-journal="}
	}
	if !r.Known {
		r.Path = "/usr/lib/systemd/systemd-journal-remote"
	}
	split := "host"
	if f.File() {
		split = "none"
	}
	args := []string{r.Path, "--output=" + f.To, "--split-mode=" + split}
	for _, limit := range [...][2]string{{"--max-use=", f.MaxUse}, {"--keep-free=", f.KeepFree}, {"--max-file-size=", f.MaxFileSize}, {"--max-files=", f.MaxFiles}} {
		if limit[1] != "" {
			args = append(args, limit[0]+limit[1])
		}
	}
	dir := f.To
	if f.File() {
		dir = path.Dir(dir)
	}
	socket := path.Join(received, c.Machine)
	host(Step{Do: Receive, Path: socket, Source: mount.Path{Path: dir}, Args: args, Mode: 0o755, Origin: from})
	c.Plan.Credentials = append(slices.Clip(c.Plan.Credentials), settings.Credential{ID: settings.ForwardCredential, Value: settings.ForwardSocket, Origin: from})
	c.received = &Step{World: settings.Outer, Do: Bind, Source: mount.Path{Path: socket}, Target: settings.ForwardSocket, Attr: ro | ns | nd | nx, Propagation: alone, Origin: from}
	return nil
}

// secrets plans where credentials are read from.
func (c *compiler) secrets() {
	for _, s := range c.Settings.Credentials {
		if s.Path != "" {
			c.step(Step{World: settings.Before, Do: Read, Path: s.Path, Credential: s.ID, Origin: s.Origin})
		}
	}
	c.Plan.Credentials = c.Settings.Credentials
}

// credentials plans the file system that holds them. It is no tmpfs, which
// could be swapped to a disk.
func (c *compiler) credentials(s Step) {
	if len(c.Plan.Credentials) == 0 {
		return
	}
	e := c.Settings.Exec
	s.Type, s.Origin = "ramfs", c.Plan.Credentials[0].Origin
	dir, file := "0500", uint32(0o400)
	if e.User != "" && e.User != "root" && e.User != "0" && e.NoNewPrivileges && e.Mode == settings.Plain {
		// Nobody else will ever be in the machine.
		dir, file = "0555", 0o444
	}
	s.Options = []Option{{"mode", dir}}
	for _, one := range c.Plan.Credentials {
		s.Content = append(s.Content, Entry{Path: one.ID, Mode: unix.S_IFREG | file, Credential: true})
	}
	c.step(s)
}

// journal plans the directory that the machine's journal is in: the host's, a
// mount in the machine, or the tree's, with a link on the host.
func (c *compiler) journal(host func(Step)) error {
	mode, j := c.Settings.Host.LinkJournal, c.Facts.Journal
	from := c.from("link-journal")
	img := c.Settings.Image
	if mode == "no" || img.Ephemeral || img.OverlayAll || mode == "" && (!j.Known || j.Kind == facts.Absent) {
		return nil
	}
	if !j.Known {
		j.Kind = facts.Absent
	}
	kind, try := strings.CutPrefix(mode, "try-")
	try = try || mode == ""
	cannot := func(format string, args ...any) error {
		what := fmt.Sprintf(format, args...)
		if try {
			if mode != "" {
				c.note("the machine's journal is not linked: %s", what)
			}
			return nil
		}
		return &settings.Error{What: "cannot link the machine's journal: " + what, Origin: from, Value: kind,
			Hint: "use --link-journal=try-" + kind + ", or --link-journal=no"}
	}
	dir := path.Join(journals, c.Plan.ID)
	// What the host sees of the tree's own directory.
	inTree := path.Join(c.Facts.Root.Path, img.Pivot.New, dir)
	if c.Facts.Root.Path == "" {
		inTree = path.Join(c.Directory, img.Pivot.New, dir)
	}
	if c.Facts.Root.Missing {
		inTree = path.Join(c.Facts.Root.Parent, path.Base(c.Directory), img.Pivot.New, dir)
	}
	switch {
	case j.Known && j.HostID == c.Plan.ID:
		return cannot("its machine id is the host's, %s", c.Plan.ID)
	case j.Mounted:
		return cannot("something is mounted on %s already", dir)
	case j.Known && !j.Parent:
		return cannot("the host keeps no journals (it has no %s)", journals)
	case j.Kind == facts.File || j.Kind == facts.Other:
		return cannot("%s is no directory", dir)
	case kind == "guest" && img.Volatile != settings.VolatileNo:
		return cannot("it is gone with the machine, which is --volatile")
	case kind == "guest" && c.Plan.apart():
		return cannot("the host doesn't see the files of a disk image or a mount stack")
	case kind == "guest" && (img.ReadOnly || c.covered()):
		return cannot("the tree is read-only")
	}
	linked := j.Kind == facts.Link && j.Link == inTree && !c.Plan.apart()
	switch {
	case kind == "guest" || mode == "" && linked:
		if j.Kind != facts.Absent && !linked {
			// A directory goes only if it is empty.
			host(Step{Do: Remove, Path: dir, Soft: try, Origin: from})
		}
		if !linked {
			host(Step{Do: Link, Path: dir, Source: mount.Path{Path: inTree}, Stays: true, Soft: try, Origin: from})
		}
		c.linked = &Step{Do: Mkdir, Target: dir, Mode: 0o755, Soft: try, Origin: from}
	case mode == "" && j.Kind != facts.Dir:
		// A link to somewhere else is somebody's arrangement.
	default:
		if j.Kind == facts.Link {
			host(Step{Do: Remove, Path: dir, Soft: try, Origin: from})
		}
		if j.Kind != facts.Dir {
			host(Step{Do: Make, Path: dir, Mode: 0o755, Stays: true, Soft: try, Origin: from})
		}
		s := Step{Do: Bind, Source: mount.Path{Path: dir}, Target: dir, Mode: 0o755, Soft: try, Origin: from}
		if u := c.Plan.Users; u.Private() && (u.Mode == userns.Pick || u.Range.Start != 0) {
			s.IDMap = mount.RootIDMap
		}
		c.linked = &s
	}
	return nil
}
