package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/internal/mstack"
	"launch/internal/origin"
	"launch/mount"
	"launch/settings"
	"launch/userns"
)

// Input is all that a plan is made of.
type Input struct {
	Settings settings.Settings
	Facts    facts.Facts
	Profile  settings.Profile
	// From tells where the option of this name was set; the zero Origin if it
	// wasn't.
	From func(option string) origin.Origin
	// ID is the machine id if the tree has none, 32 hex digits; BootID another
	// one, for this start only.
	ID, BootID string
	// Suffix makes the name of a copy unlike others: 16 hex digits.
	Suffix string
	// Moved: the first process is moved into its cgroup once it is there, as
	// systemd wants it, instead of being born in it.
	Moved bool
	// Exposed: processes of the container that is joined may trace the one that joins
	// it, until it has become its payload.
	Exposed bool
}

// compiler holds what the parts of Compile share.
type compiler struct {
	Input
	Plan
	base origin.Origin // the profile, which asks for what nobody asked for
	late []Step        // what comes after all other steps of a bundle
	// failed is what is wrong with a bundle's program.
	failed error
	// linked is what the machine's journal asks for in the tree.
	linked *Step
	// received is the socket that its lines are handed on by.
	received *Step
	// records and homes are those of bound users.
	records []Entry
	homes   []mount.Mount
}

// Compile makes the plan. The same input gives the same plan.
func Compile(in Input) (*Plan, error) {
	if in.Settings.Bundle != nil {
		return compileBundle(in)
	}
	s := in.Settings
	c := &compiler{Input: in, base: origin.Origin{Source: origin.Profile, Path: in.Profile.Name}}
	// Room for what a plain machine has: growing costs more than it holds.
	c.Steps, c.Program = make([]Step, 0, 64), make([]Op, 0, 48)
	c.Machine = s.Machine
	c.Directory = s.Image.Directory
	for _, v := range [...]settings.Picked{s.Image.Version, s.Image.TemplateVersion} {
		if v.Asked != "" {
			c.Picked = append(c.Picked, v)
		}
	}
	if s.Image.File != "" {
		c.Directory, c.Plan.Image = s.Image.File, true
	}
	if s.Image.MStack != "" {
		c.Directory, c.Plan.MStack = s.Image.MStack, true
	}
	c.Hostname = s.Machine
	if s.Exec.Hostname != "" {
		c.Hostname = s.Exec.Hostname
	}
	c.KeepUnit, c.Plan.User = s.Life.KeepUnit, s.Unit.User
	c.Quiet = s.Life.Quiet
	c.Plan.NotifyReady = s.Life.NotifyReady
	c.identity()
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := c.checkDisk(); err != nil {
		return nil, err
	}
	if err := c.checkStack(); err != nil {
		return nil, err
	}
	if err := c.checkSELinux(); err != nil {
		return nil, err
	}
	c.console()
	if err := c.users(); err != nil {
		return nil, err
	}
	if err := c.ambient(); err != nil {
		return nil, err
	}
	if err := c.bound(); err != nil {
		return nil, err
	}
	c.namespaces()
	c.before()
	c.secrets()
	if err := c.beside(); err != nil {
		return nil, err
	}
	if err := c.tree(); err != nil {
		return nil, err
	}
	if !s.Image.OverlayAll {
		c.volumes() // else they are below the layer
	}
	if err := c.mounts(); err != nil {
		return nil, err
	}
	c.stubs()
	c.context()
	if file := s.Image.Mounts; file != "" {
		c.step(Step{World: settings.Inner, Do: Saved, Path: file, Origin: c.from("mounts")})
	}
	c.payload()
	c.program()
	if w := c.Facts.Watches; w.Few {
		c.note("this user may watch few files more: what is booted may not come up; raise fs.inotify.max_user_instances, which is %d", w.Most)
	}
	if err := c.links(); err != nil {
		return nil, err
	}
	c.Plan.Forwards = s.Network.Ports
	c.register() // the directory is known by now
	c.effects()
	for i := range c.Steps {
		c.Steps[i].Flags = AttrWords(c.Steps[i].Attr)
	}
	p := c.Plan
	if p.Users.Mode != userns.Pick {
		p.SetRange(p.Users.Range)
	}
	return &p, nil
}

// check refuses a directory that is no operating system's tree.
func (c *compiler) check() error {
	root := c.Facts.Root
	dir, value, option := c.Directory, c.Directory, "directory"
	if c.Plan.Image {
		option = "image"
	}
	if c.Plan.MStack {
		option = "mstack"
	}
	if p := c.Settings.Image.Pivot; p.New != "" {
		dir, value, option = path.Join(dir, p.New), p.String(), "pivot-root"
	}
	e := &settings.Error{Value: value}
	if c.From != nil {
		e.Origin = c.From(option)
	}
	switch {
	case !root.Known || c.Profile.App:
		return nil
	case c.Settings.Exec.Mode == settings.Boot && !root.OSRelease && !c.Settings.Environment.AnyTree:
		e.What = fmt.Sprintf("cannot boot %s: it holds no operating system (no /etc/os-release, no /usr/lib/os-release)", dir)
		e.Hint = "give the directory of a whole tree, or run a command in it without --boot"
	case root.Usr != facts.Dir:
		e.What = fmt.Sprintf("cannot use %s as a root directory: it has no /usr directory", dir)
		e.Hint = "give the directory of an operating system's tree"
	default:
		return nil
	}
	if c.Plan.Image {
		e.What, e.Hint = strings.Replace(e.What, " as a root directory", " as a root", 1), "give the image of an operating system"
	}
	if c.Plan.MStack {
		e.What, e.Hint = strings.Replace(e.What, " as a root directory", " as a root", 1), "its layers must have an operating system's tree together"
	}
	return e
}

func (c *compiler) from(option string) origin.Origin {
	if c.From != nil {
		if o := c.From(option); o != (origin.Origin{}) {
			return o
		}
	}
	return c.base
}

func (c *compiler) users() error {
	u := c.Settings.Users
	c.Plan.Users = Users{Mode: u.Mode, Range: u.Range, Ownership: u.Ownership, Origin: c.from("private-users")}
	if c.Plan.Users.Origin == c.base {
		c.Plan.Users.Origin = c.from("private-users-ownership") // which alone means users, too
	}
	if u.Mode == userns.No {
		c.Plan.Users.Ownership = userns.Off
		return nil
	}
	root := c.Facts.Root
	if u.Mode == userns.Owner && root.Known {
		if root.UID>>16 != root.GID>>16 {
			return &settings.Error{
				What:   fmt.Sprintf("cannot read the user range from %s: its owner %d and group %d lie in different ranges", c.Directory, root.UID, root.GID),
				Origin: c.Plan.Users.Origin,
				Hint:   "give the range as --private-users=START, or change the directory's owner",
			}
		}
		c.Plan.Users.Range = userns.Range{Start: root.UID &^ 0xffff, Size: userns.DefaultSize}
	}
	if c.Plan.Users.Range.Size == 0 {
		c.Plan.Users.Range.Size = userns.DefaultSize
	}
	if c.Plan.Users.Ownership == "" {
		c.Plan.Users.Ownership = userns.Off
		if u.Mode == userns.Pick {
			c.Plan.Users.Ownership = userns.Auto
		}
	}
	return nil
}

func (c *compiler) namespaces() {
	add := func(name string, flag uint64, late bool, o origin.Origin) {
		c.Namespaces = append(c.Namespaces, Namespace{Name: name, Flag: flag, Late: late, Origin: o})
	}
	// The mount namespace is the launcher's: the first process has it from
	// its parent, or, with private users, makes its copy at the very end, so
	// that what is in it stays locked.
	add("mount", 0, false, c.base)
	if c.Plan.Users.Private() {
		add("user", unix.CLONE_NEWUSER, false, c.Plan.Users.Origin)
	}
	env := c.Settings.Environment
	if !env.SharePID {
		add("pid", unix.CLONE_NEWPID, false, c.base)
	}
	if !env.ShareIPC {
		add("ipc", unix.CLONE_NEWIPC, false, c.base)
	}
	if !env.ShareUTS {
		add("uts", unix.CLONE_NEWUTS, false, c.base)
	} else if c.Hostname != c.Machine {
		c.note("the machine shares the host's name: --hostname= is not used")
	}
	switch n := c.Settings.Network; {
	case n.Path != "":
		// The launcher's thread joins it, and the first process is born there:
		// who has users of its own could not move into one of the host's.
		add("network", unix.CLONE_NEWNET, false, c.from("network-namespace-path"))
		own := &c.Namespaces[len(c.Namespaces)-1]
		own.Path, own.Kept = n.Path, !n.Private
	case n.Private:
		add("network", unix.CLONE_NEWNET, true, c.from("private-network"))
		if c.Plan.Users.Private() {
			// All of the machine's groups may ping, as on a host.
			c.Plan.Sysctl = append(c.Plan.Sysctl, settings.Sysctl{Name: "net.ipv4.ping_group_range", Value: rangeStart, Origin: c.base})
		}
	}
	if c.Facts.Host.CgroupMount != "" || !c.Facts.Host.Known {
		if !env.NoCgroupNamespace {
			add("cgroup", unix.CLONE_NEWCGROUP, true, c.base)
		}
		c.unit()
	} else {
		c.note("the host has no cgroup2 hierarchy: the machine gets no cgroup of its own")
	}
}

func (c *compiler) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

func (c *compiler) step(s Step) {
	if s.World == "" {
		s.World = settings.Outer
	}
	if s.Origin == (origin.Origin{}) {
		s.Origin = c.base
	}
	c.Steps = append(c.Steps, s)
}

const (
	ro = unix.MOUNT_ATTR_RDONLY
	ns = unix.MOUNT_ATTR_NOSUID
	nd = unix.MOUNT_ATTR_NODEV
	nx = unix.MOUNT_ATTR_NOEXEC
	sa = unix.MOUNT_ATTR_STRICTATIME
	nf = unix.MOUNT_ATTR_NOSYMFOLLOW
)

// alone cuts a bind mount off from the host's: what is mounted on its source
// later does not appear inside.
var alone = []uint64{unix.MS_PRIVATE | unix.MS_REC}

// snapshot begins the name of a copy (see package tree).
const snapshot = ".#snapshot."

// before plans what is done with the tree before the machine has it: it is
// locked, or a copy of it is made, which the machine runs on instead.
func (c *compiler) before() {
	img, root := c.Settings.Image, c.Facts.Root
	step := func(s Step) {
		s.World = settings.Before
		c.step(s)
	}
	lock := func(dir string, shared, brief bool, o origin.Origin) {
		// The root of the host has no lock: who may use it at all may share it.
		if !c.Settings.Environment.Unlocked && dir != "/" {
			step(Step{Do: Lock, Path: dir, Shared: shared, Brief: brief, Origin: o})
		}
	}
	// All links resolved, where that is known.
	real := root.Path
	if real == "" {
		real = c.Directory
	}
	from := c.from("directory")
	c.RootPath = real
	switch {
	case img.File != "":
		c.RootPath = "" // the host doesn't see it
		from = c.from("image")
		if !img.Ephemeral {
			lock(real, c.shared(), false, from)
			return
		}
		o := c.from("ephemeral")
		c.Plan.Source, c.Plan.Ephemeral = c.Directory, true
		lock(real, true, true, o)
		dir := path.Dir(real)
		if c.Facts.Disk.Block {
			dir = "/var/tmp"
		}
		step(Step{Do: CloneIt, Source: mount.Path{Path: real}, Path: dir, Origin: o})
		return
	case img.MStack != "":
		c.RootPath = "" // the host doesn't see it
		lock(real, c.shared(), false, c.from("mstack"))
		return
	case img.Stack != nil:
		// What lies below is shared by all, and never changes; its own part is
		// the machine's alone by its name.
	case img.Ephemeral:
		o := c.from("ephemeral")
		c.Plan.Source, c.Plan.Ephemeral = c.Directory, true
		c.Directory = path.Join(path.Dir(real), snapshot+path.Base(real)+c.Suffix)
		if root.MountPoint || real == "/" {
			// What lies beside it is on another file system, which could not
			// share anything with it.
			c.Directory = path.Join(real, snapshot+c.Suffix)
		}
		c.RootPath = c.Directory
		lock(real, true, true, o)
		step(Step{Do: Clone, Source: mount.Path{Path: real}, Path: c.Directory, Origin: o})
		lock(c.Directory, false, false, o)
	case root.Missing:
		o := c.from("template")
		c.Plan.Source = img.Template
		to := path.Join(root.Parent, path.Base(c.Directory))
		c.RootPath = to
		half := path.Join(root.Parent, snapshot+path.Base(c.Directory)+c.Suffix)
		lock(real, true, true, o)
		step(Step{Do: Clone, Source: mount.Path{Path: real}, Path: half, Origin: o})
		step(Step{Do: Rename, Source: mount.Path{Path: half}, Path: to, Origin: o})
		lock(to, c.shared(), false, from)
	default:
		lock(real, c.shared(), false, from)
	}
	c.RootPath = path.Join(c.RootPath, img.Pivot.New)
}

// shared tells whether others may use the tree at the same time: nothing is
// written to it.
func (c *compiler) shared() bool {
	img := c.Settings.Image
	if img.Frozen() {
		return true
	}
	if img.MStack != "" && c.Facts.Stack.Known {
		if t := c.arranged(); !t.Changes() {
			return true
		}
	}
	return c.covered() && !slices.ContainsFunc(c.Settings.Mounts, func(m mount.Mount) bool {
		return m.Target == "/" && m.Source.InRoot && !m.ReadOnly // the tree itself, by another way
	})
}

// covered tells whether one of the user's mounts takes the place of the tree.
func (c *compiler) covered() bool {
	return slices.ContainsFunc(c.Settings.Mounts, func(m mount.Mount) bool { return m.Target == "/" })
}

// cover plans the user's mounts on /, which become the root, one after the
// other.
func (c *compiler) cover() error {
	for _, m := range mount.Sorted(c.Settings.Mounts) {
		if m.Target == "/" {
			if err := c.custom(m, settings.Outer); err != nil {
				return err
			}
		}
	}
	return nil
}

// tree plans the root.
func (c *compiler) tree() error {
	img := c.Settings.Image
	root := c.Facts.Root
	owners := func() error {
		u := c.Plan.Users
		shifted := root.Known && root.UID>>16 != 0
		foreign := root.Known && c.foreign()
		if img.MStack != "" {
			return c.stackOwners()
		}
		if img.File != "" && !c.hasVolume(disk.Root) {
			return nil // what is not new has a step of its own
		}
		// A range that begins at 0 shows the files' owners as they are.
		if !u.Private() || img.Stack != nil || u.Mode != userns.Pick && u.Range.Start == 0 && u.Ownership != userns.Chown && u.Ownership != userns.Foreign {
			return nil
		}
		// No file of a tree that is only layered over gets another owner.
		kept, chown := img.OverlayAll && !img.Ephemeral, Chown
		if kept {
			chown = NoFallback
		}
		change := u.Ownership == userns.Chown || u.Ownership == userns.Auto && shifted && !foreign
		switch {
		case kept && change:
			return &settings.Error{
				What:   fmt.Sprintf("cannot give the files of %s to the machine's users: --overlay-all leaves the tree as it is", c.Directory),
				Origin: u.Origin,
				Hint:   "add --ephemeral, or use a tree whose owners can be mapped (--private-users-ownership=map)",
			}
		case change && u.Mode != userns.Pick && (u.Range.Start&0xffff != 0 || u.Range.Size != userns.DefaultSize):
			return &settings.Error{
				What:   fmt.Sprintf("cannot change the owners of %s to the range %s: it is not %d users from a multiple of that", c.Directory, u.Range, userns.DefaultSize),
				Origin: u.Origin,
				Hint: fmt.Sprintf("use --private-users=%d, or --private-users-ownership=map, which takes any range",
					max(u.Range.Start&^0xffff, userns.DefaultSize)),
			}
		case change && root.Known && root.UID>>16 != root.GID>>16:
			return &settings.Error{
				What:   fmt.Sprintf("cannot change the owners of %s: its owner %d and group %d lie in different ranges", c.Directory, root.UID, root.GID),
				Origin: u.Origin,
				Hint:   fmt.Sprintf("change the directory's group to the owner's range (chgrp %d)", root.UID&^0xffff|root.GID&0xffff),
			}
		case u.Ownership == userns.Foreign && !foreign && root.Known:
			return &settings.Error{
				What:   fmt.Sprintf("cannot map the owners of %s: it belongs to %d, and not to the range for foreign trees, %d", c.Directory, root.UID, userns.ForeignBase),
				Origin: c.from("private-users-ownership"), Value: "foreign",
				Hint: "use --private-users-ownership=map for a tree whose files belong to the host's numbers",
			}
		case u.Ownership == userns.Auto && foreign:
			c.step(Step{Do: Idmap, Target: "/", IDMap: mount.ForeignIDMap, Fallback: chown, Origin: u.Origin})
			return nil
		case u.Ownership == userns.MapIt && shifted:
			return &settings.Error{
				What:   fmt.Sprintf("cannot map the owners of %s: its files belong to the range from %d already", c.Directory, root.UID&^0xffff),
				Origin: u.Origin,
				Hint:   "use --private-users-ownership=chown, which moves them to the new range",
			}
		case u.Ownership == userns.Auto && shifted:
			// A tree that was given to a range once: an id map starts at 0.
			c.step(Step{Do: Chown, Target: "/", Origin: u.Origin})
			return nil
		}
		switch u.Ownership {
		case userns.Auto:
			c.step(Step{Do: Idmap, Target: "/", Fallback: chown, Origin: u.Origin})
		case userns.MapIt:
			c.step(Step{Do: Idmap, Target: "/", Origin: u.Origin})
		case userns.Foreign:
			c.step(Step{Do: Idmap, Target: "/", IDMap: mount.ForeignIDMap, Origin: u.Origin})
		case userns.Chown:
			c.step(Step{Do: Chown, Target: "/", Origin: u.Origin})
		}
		return nil
	}
	dir := mount.Path{Path: c.Directory}
	from := c.from("directory")
	volatile := c.from("volatile")
	pivot := img.Pivot
	if pivot.Old != "" && (img.Volatile == settings.VolatileOverlay || img.Volatile == settings.VolatileYes) {
		c.note("the old root is not seen on %s: with --volatile=%s, only what the new root itself has is", pivot.Old, img.Volatile)
		pivot.Old = ""
	}
	take := func() {
		switch {
		case img.Stack != nil:
			c.step(c.stack(from))
		case img.MStack != "":
			c.stackRoot()
		case img.File != "":
			c.disk()
		default:
			c.step(Step{Do: Tree, Source: dir, Origin: from})
		}
		if pivot.New != "" {
			c.step(Step{Do: Pivot, Source: mount.Path{Path: pivot.New, InRoot: true}, Target: pivot.Old, Origin: c.from("pivot-root")})
		}
	}
	if img.OverlayAll && c.covered() {
		return &settings.Error{What: "cannot lay a layer over the tree: a mount on / takes its place", Origin: c.from("overlay-all"), Hint: "use --directory= for the root itself"}
	}
	fill := append([]Option{{"mode", "0755"}}, fill[:]...)
	switch img.Volatile {
	case settings.VolatileNo:
		take()
		if err := owners(); err != nil {
			return err
		}
		c.usr()
		switch {
		case img.ReadOnly && !c.covered() && c.unchanged():
			c.step(Step{Do: Attr, Target: "/", Attr: ro, Recursive: true, Origin: c.from("read-only")})
			return nil
		case img.ReadOnly && !c.covered():
			c.base0()
			c.step(Step{Do: Attr, Target: "/", Attr: ro, Recursive: true, Origin: c.from("read-only")})
			return nil
		case img.OverlayAll:
			c.volumes()
			attr := uint64(sa)
			if img.Stack != nil || img.MStack != "" {
				attr |= nd
			}
			c.step(Step{Do: Layer, Target: "/", Attr: attr, AllAttr: ro, Options: slices.Clone(fill[:]), Like: true, Origin: c.from("overlay-all")})
		}
	case settings.VolatileState:
		take()
		if err := owners(); err != nil {
			return err
		}
		c.usr()
		if !c.covered() && !c.unchanged() {
			c.base0()
		}
		c.step(Step{Do: Attr, Target: "/", Attr: ro, Recursive: true, Origin: volatile})
		if c.covered() {
			if err := c.cover(); err != nil {
				return err
			}
			c.base0()
		}
		c.step(Step{Do: Mount, Target: "/var", Type: "tmpfs", Attr: sa, Options: c.owned(fill), Origin: volatile})
		return nil
	case settings.VolatileOverlay:
		take()
		if err := owners(); err != nil {
			return err
		}
		c.step(Step{Do: Layer, Target: "/", Attr: sa, Options: c.owned(fill), Origin: volatile})
		c.usr() // an overlay shows nothing that is mounted below
	case settings.VolatileYes:
		if root.Known && root.Bin != facts.Link && root.Bin != facts.Absent {
			return &settings.Error{
				What:   fmt.Sprintf("cannot use only /usr of %s: its /bin is a %s of its own", c.Directory, root.Bin),
				Origin: volatile,
				Hint:   "the tree must have a merged /usr (/bin a link to usr/bin); else use --volatile=overlay",
			}
		}
		c.step(Step{Do: Mount, Target: "/", Type: "tmpfs", Attr: sa, Options: c.owned(fill), Origin: volatile,
			Content: []Entry{{Path: "usr", Mode: unix.S_IFDIR | 0o755}}})
		part := strings.TrimPrefix(path.Join(pivot.New, "usr"), "/")
		if img.MStack != "" {
			if err := owners(); err != nil {
				return err
			}
			if t := c.arranged(); !slices.ContainsFunc(t.Binds, func(e mstack.Entry) bool { return e.Where == "/usr" }) {
				c.stackPart(t, part)
			}
			c.stackBinds()
			break
		}
		if img.File != "" {
			if c.hasVolume(disk.Usr) {
				c.usr()
				break
			}
			s := Step{Do: Disk, Source: mount.Path{Path: img.File}, Attr: ro}
			if c.Facts.Disk.Known {
				s = c.volume(c.Facts.Disk.Volumes[0], "")
			}
			s.Target, s.Part, s.IDMap, s.Fallback, s.Origin = "/usr", part, c.rootMap(), NoFallback, volatile
			c.step(s)
			break
		}
		usr := mount.Path{Path: path.Join(c.Directory, part)}
		c.step(Step{Do: Bind, Source: usr, Part: part, Target: "/usr", Attr: ro, Recursive: true, IDMap: c.rootMap(), Fallback: NoFallback, Propagation: alone, Origin: volatile})
	}
	if err := c.cover(); err != nil {
		return err
	}
	c.base0()
	return nil
}

// stack plans a root of several directories. An overlay can't be shown with
// other owners, but what it is made of can, so that is mapped: no file changes
// its owner, however many machines share it.
func (c *compiler) stack(from origin.Origin) Step {
	st := c.Settings.Image.Stack
	s := Step{Do: Stack, Path: st.Base, Attr: nd, IDMap: c.rootMap(), Origin: from}
	for _, l := range st.Layers {
		s.Lower = append(s.Lower, mount.Path{Path: l})
	}
	s.Source, s.Options = mount.Path{Path: st.Upper}, []Option{{"workdir", st.Work}}
	if st.Passing {
		// Else the whole file system below is written to the disk when the machine
		// ends, or whenever it asks for that; nothing of it outlives the host.
		s.Options = append(s.Options, Option{"volatile", ""})
	}
	return s
}

// NoFallback says that a step either works or fails.
const NoFallback Do = ""

// rootMap is the id map of a part of the tree.
func (c *compiler) rootMap() mount.IDMap {
	u := c.Plan.Users
	switch {
	case !u.Private() || u.Ownership == userns.Off:
	case u.Ownership == userns.Foreign, u.Ownership == userns.Auto && c.foreign():
		return mount.ForeignIDMap
	case u.Mode == userns.Pick || u.Range.Start != 0:
		return mount.FullIDMap
	}
	return mount.NoIDMap
}

// foreign tells whether the tree belongs to the range for trees that are
// nobody's on the host.
func (c *compiler) foreign() bool { return c.Facts.Root.UID>>16 == userns.ForeignBase>>16 }

// owned adds the machine's root user as the owner of a new file system.
func (c *compiler) owned(options []Option) []Option {
	if !c.Plan.Users.Private() {
		return options
	}
	// Filled in by Plan.SetRange once the range is known.
	return append(options, Option{"uid", rangeStart}, Option{"gid", rangeStart})
}

// rangeStart stands in options for the first id of the range, and as the value
// of a sysctl for the first and the last.
const rangeStart = "@root"

// SetRange puts the range that was picked in place.
func (p *Plan) SetRange(r userns.Range) {
	p.Users.Range = r
	for i := range p.Steps {
		for j := range p.Steps[i].Options {
			o := &p.Steps[i].Options[j]
			switch o.Value {
			case rangeStart:
				o.Value = fmt.Sprint(r.Start)
			case ttyGroup:
				o.Value = fmt.Sprint(r.Start + 5)
			}
		}
	}
	for i := range p.Sysctl {
		if s := &p.Sysctl[i]; s.Value == rangeStart {
			s.Value = fmt.Sprintf("%d %d", r.Start, r.Start+r.Size-1)
		}
	}
}

// ttyGroup stands for the group of terminals inside, which is 5 everywhere.
const ttyGroup = "@tty"

// base0 makes the directories that no machine can be without.
func (c *compiler) base0() {
	root := c.Facts.Root
	if c.Profile.App {
		for _, name := range [...]string{"proc", "sys", "dev"} {
			c.step(Step{Do: Mkdir, Target: "/" + name, Mode: 0o755})
		}
		c.image()
		return
	}
	mk := func(name string, mode uint32) {
		c.step(Step{Do: Mkdir, Target: "/" + name, Mode: mode})
	}
	ln := func(name, to string) {
		c.step(Step{Do: Symlink, Target: "/" + name, Source: mount.Path{Path: to, InRoot: true}})
	}
	mk("usr", 0o755)
	if root.UsrBin != facts.Absent {
		ln("bin", "usr/bin")
	}
	if root.UsrLib != facts.Absent {
		ln("lib", "usr/lib")
	}
	if root.UsrSbin != facts.Absent {
		ln("sbin", "usr/sbin")
	}
	if root.Loader64 != "" {
		ln("lib64", root.Loader64)
	}
	mk("root", 0o750)
	mk("var", 0o755)
	mk("etc", 0o755)
	mk("proc", 0o555)
	mk("sys", 0o555)
	mk("dev", 0o555)
	mk("run", 0o555)
	if !c.Settings.Environment.NoTmpfsTmp {
		mk("tmp", 0o1777) // for the tmpfs; else it is as the tree has it
	}
}

// image plans what an image asks for in its tree.
func (c *compiler) image() {
	st := c.Settings.Image.Stack
	if st == nil {
		return
	}
	from := c.from("directory")
	for _, v := range st.Volumes {
		c.step(Step{Do: Mkdir, Target: v, Mode: 0o755, Origin: from})
	}
	if dir := c.Settings.Exec.Dir; dir != "" && dir != "/" {
		c.step(Step{Do: Mkdir, Target: dir, Mode: 0o755, Origin: c.from("chdir")})
	}
	for _, f := range st.Files {
		c.step(Step{Do: Bind, Source: mount.Path{Path: f.Source}, Target: f.Target, Attr: ns | nd | nx, IDMap: c.rootMap(), Mode: 0o755, Origin: from})
	}
	c.Plan.Ports = st.Ports
}

// mounts plans the API file systems of the profile and the user's own mounts.
func (c *compiler) mounts() error {
	if st := c.Settings.Image.Stack; st != nil && c.Settings.Image.ReadOnly {
		for _, v := range st.Volumes {
			// It holds what the image has there, and can be written to.
			c.step(Step{Do: Mount, Target: v, Type: "tmpfs", Attr: ns | nd, Options: c.owned([]Option{{"mode", "0755"}}), CopyUp: true, Like: true, Origin: c.from("directory")})
		}
	}
	for _, row := range c.Profile.API {
		if row.World == settings.Outer {
			c.api(row)
		}
	}
	if c.received != nil {
		c.step(*c.received)
	}
	custom := slices.DeleteFunc(c.withHomes(mount.Sorted(c.Settings.Mounts)), func(m mount.Mount) bool { return m.Target == "/" })
	for _, m := range custom {
		if !mount.Below(m.Target, "/proc") {
			if err := c.custom(m, settings.Outer); err != nil {
				return err
			}
		}
	}
	c.resolvConf()
	c.localtime()
	if c.linked != nil {
		c.step(*c.linked)
	}
	for _, row := range c.Profile.API {
		if row.World == settings.Inner {
			c.api(row)
		}
	}
	for _, m := range custom {
		if mount.Below(m.Target, "/proc") {
			if err := c.custom(m, settings.Inner); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *compiler) api(row settings.APIMount) {
	env := c.Settings.Environment
	network := c.Settings.Network.Private || env.API == settings.APINetwork
	// Who is in a network of its own, whosever it is, sees that one in /sys.
	apart := network || c.Settings.Network.Path != ""
	for _, w := range [...]struct {
		when  settings.When
		holds bool
	}{
		{settings.WithNetwork, network}, {settings.Apart, apart}, {settings.WithoutNetwork, !apart},
		{settings.Protected, env.API != settings.APIWritable}, {settings.Unprotected, env.API == settings.APIWritable},
		{settings.FreshTmp, !env.NoTmpfsTmp},
	} {
		if row.When&w.when != 0 && !w.holds {
			return
		}
	}
	if row.When&settings.Unsaid != 0 && slices.ContainsFunc(c.Settings.Mounts, func(m mount.Mount) bool { return m.Target == row.Target }) {
		return
	}
	s := Step{World: row.World, Do: Mount, Target: row.Target, Type: row.Type, Attr: row.Attr, Clear: row.Clear,
		Lenient: row.Lenient, Soft: row.Soft, Options: splitOptions(row.Options), Origin: c.base}
	if row.Owned {
		s.Options = c.owned(s.Options)
	}
	host := c.Facts.Host
	switch row.Type {
	case "":
		s.Do, s.Source, s.Recursive = Bind, mount.Path{Path: row.Target, InRoot: true}, true
	case "mask":
		s.Do, s.Type = Mask, ""
	case "hide":
		s.Do, s.Type, s.Lenient = Hide, "", true
	case "os-release":
		if host.OSRelease == "" && host.Known {
			return
		}
		s.Do, s.Type, s.Source, s.Propagation = Bind, "", mount.Path{Path: host.OSRelease}, alone
	case "boot-id", "kmsg":
		s.Do, s.Type = Bind, ""
		s.Source = mount.Path{Path: map[string]string{
			"boot-id": "/run/host/proc-sys-kernel-random-boot-id",
			"kmsg":    "/run/host/proc-kmsg",
		}[row.Type], InRoot: true}
	case "incoming":
		s.Do, s.Type, s.Source = Bind, "", mount.Path{Path: path.Join(propagate, c.Machine)}
	case "unix-export":
		s.Do, s.Type, s.Source, s.Owned = Bind, "", mount.Path{Path: path.Join(unixExport, c.Machine)}, true
	case "credentials":
		c.credentials(s)
		return
	case "sys-parts":
		s.Do, s.Type = Parts, "sysfs"
	case "devpts":
		gid := "5"
		if c.Plan.Users.Private() {
			gid = ttyGroup
		}
		s.Options = append(s.Options, Option{"gid", gid})
	case "cgroup2":
		if c.Plan.Cgroup == (Cgroup{}) {
			return
		}
		if env.NoCgroupNamespace {
			// The host's own mount: a new one, made outside of a cgroup
			// namespace, would change the options of the host's.
			s.Origin = c.from("use-cgroup-namespace")
			s.Do, s.Type = Bind, ""
			s.Source, s.Attr, s.Propagation = mount.Path{Path: c.Plan.Cgroup.Mount}, row.Attr|ro, alone
			c.step(s)
			s.Source, s.Attr = mount.Path{Path: path.Join(c.Plan.Cgroup.Mount, c.Plan.Cgroup.Path)}, row.Attr
			s.Target = path.Join(row.Target, c.Plan.Cgroup.Path)
		}
	}
	if row.Type == "devpts" || row.Type == "mqueue" || row.Target == "/dev/shm" {
		s.Mode = 0o755
	}
	switch row.Content {
	case "dev":
		s.Content = c.dev()
	case "run":
		s.Content = c.run()
	case "sys":
		s.Content = []Entry{{Path: "fs", Mode: dir755}, {Path: "fs/cgroup", Mode: dir755}, {Path: "fs/bpf", Mode: dir755}}
	}
	c.keepTmp(&s)
	c.step(s)
}

const (
	dir755 = unix.S_IFDIR | 0o755
	link   = unix.S_IFLNK | 0o777
)

func splitOptions(text string) []Option {
	var list []Option
	for word := range strings.SplitSeq(text, ",") {
		if word == "" {
			continue
		}
		k, v, _ := strings.Cut(word, "=")
		list = append(list, Option{k, v})
	}
	return list
}

// dev lists what /dev holds before anybody sees it.
func (c *compiler) dev() []Entry {
	host := c.Facts.Host
	entries := []Entry{
		{Path: "pts", Mode: dir755}, {Path: "shm", Mode: dir755}, {Path: "mqueue", Mode: dir755},
		{Path: "char", Mode: dir755},
	}
	node := func(name string, major, minor uint32, mode uint32, optional bool) {
		if strings.Contains(name, "/") {
			entries = append(entries, Entry{Path: path.Dir(name), Mode: dir755})
		}
		entries = append(entries, Entry{Path: name, Mode: unix.S_IFCHR | mode, Dev: unix.Mkdev(major, minor), Optional: optional})
		entries = append(entries, Entry{Path: fmt.Sprintf("char/%d:%d", major, minor), Mode: link, Data: "../" + name, Optional: optional})
	}
	for _, d := range nodes {
		node(d.name, d.major, d.minor, 0o666, false)
	}
	if c.Profile.App {
		host.Fuse, host.Tun, host.Kcore = 0, 0, false
	}
	if host.Fuse != 0 {
		node("fuse", 10, 229, host.Fuse, true)
	}
	if host.Tun != 0 {
		node("net/tun", 10, 200, host.Tun, true)
	}
	for _, l := range links {
		entries = append(entries, Entry{Path: l.name, Mode: link, Data: l.to})
	}
	if host.Kcore {
		entries = append(entries, Entry{Path: "core", Mode: link, Data: "/proc/kcore"})
	}
	if c.pty() {
		// The machine's first terminal is the first that its devpts gives.
		entries = append(entries, Entry{Path: "console", Mode: link, Data: "pts/0"})
	}
	return entries
}

// run lists what /run holds before anybody sees it.
func (c *compiler) run() []Entry {
	entries := []Entry{
		{Path: "host", Mode: dir755},
		{Path: "host/container-manager", Mode: unix.S_IFREG | 0o444, Data: c.Plan.Service + "\n"},
		{Path: "host/container-uuid", Mode: unix.S_IFREG | 0o444, Data: dashed(c.Plan.ID) + "\n"},
		// Targets of the mounts that follow.
		{Path: "host/incoming", Mode: unix.S_IFDIR | 0o600},
		{Path: "host/unix-export", Mode: dir755},
		{Path: "host/inaccessible", Mode: unix.S_IFDIR | 0o555},
		{Path: "host/inaccessible/reg", Mode: unix.S_IFREG},
		{Path: "host/inaccessible/dir", Mode: unix.S_IFDIR},
		{Path: "host/inaccessible/fifo", Mode: unix.S_IFIFO},
		{Path: "host/inaccessible/sock", Mode: unix.S_IFSOCK},
		{Path: "host/inaccessible/chr", Mode: unix.S_IFCHR, Optional: true},
		{Path: "host/inaccessible/blk", Mode: unix.S_IFBLK, Optional: true},
		{Path: "host/proc-sys-kernel-random-boot-id", Mode: unix.S_IFREG | 0o444, Data: dashed(c.BootID) + "\n"},
		{Path: "host/proc-kmsg", Mode: unix.S_IFIFO | 0o600},
		{Path: "host/os-release", Mode: unix.S_IFREG | 0o444},
	}
	if len(c.Plan.Credentials) > 0 {
		entries = append(entries, Entry{Path: "host/credentials", Mode: unix.S_IFDIR | 0o500})
	}
	if c.received != nil {
		entries = append(entries, Entry{Path: "host/journal", Mode: dir755}, Entry{Path: "host/journal/socket", Mode: unix.S_IFREG | 0o444})
	}
	return append(entries, c.records...)
}

// dashed writes an id of 32 hex digits as a UUID.
func dashed(id string) string {
	if len(id) != 32 {
		return id
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

// custom plans one of the user's mounts.
func (c *compiler) custom(m mount.Mount, w settings.World) error {
	s := Step{World: w, Target: m.Target, Origin: m.Origin}
	if w == settings.Outer {
		s.Avoid = "/proc" // what is meant for the machine's is mounted after it
	}
	refuse := func(what, hint string) error {
		return &settings.Error{What: what, Origin: m.Origin, Value: m.Target, Hint: hint}
	}
	switch m.Kind {
	case mount.Bind:
		s.Do, s.Source, s.Recursive, s.IDMap, s.Optional = Bind, m.Source, !m.NoRecurse, m.IDMap, m.Optional
		s.Mode = 0o755
		if s.UIDs, s.GIDs = m.UIDs, m.GIDs; s.UIDs != nil { // a home
			s.MapAll, s.Counted = true, true
		}
		if m.ReadOnly {
			s.Attr = ro
		}
		if m.IDMap == mount.FullIDMap && !c.Plan.Users.Private() {
			return refuse("cannot map owners: the machine has no users of its own", "add --private-users=")
		}
	case mount.Tmpfs, mount.Arbitrary:
		set, clear, data, err := mount.ApplyOptions(m.Options)
		if err != nil {
			return refuse(err.Error(), "")
		}
		s.Do, s.Attr, s.Mode = Mount, set, 0o755
		s.Type, s.Source = m.Type, m.Source
		if m.Kind == mount.Tmpfs {
			s.Type = "tmpfs"
			s.Attr = (nd|sa)&^clear | set
		}
		if s.Options, err = c.options(&m, s.Type, data); err != nil {
			return err
		}
		if m.Kind == mount.Tmpfs {
			s.Options = c.owned(s.Options)
		}
		private(&s)
		c.keepTmp(&s)
	case mount.Overlay:
		s.Do, s.Lower, s.Source, s.Mode = Overlay, m.Lower, m.Source, 0o755
		if m.ReadOnly {
			s.Attr = ro
		}
	case mount.Inaccessible:
		s.Do, s.Attr = Mask, ro|ns|nd|nx
	}
	c.layered(&s)
	c.step(s)
	return nil
}

// effects lists what the host will have for the machine.
func (c *compiler) effects() {
	add := func(o origin.Origin, what, where, undo string) {
		c.Effects = append(c.Effects, Effect{what, where, undo, o})
	}
	add(c.base, "lock and journal", "/run/launch/"+c.Machine, "removed")
	if c.Plan.Users.Mode == userns.Pick {
		add(c.Plan.Users.Origin, "lock of the user range", "/run/systemd/nspawn-uid/", "released and removed")
	}
	if g := c.Plan.Cgroup; g != (Cgroup{}) {
		if u := c.Plan.Scope; u != nil {
			what := "scope unit"
			if c.Plan.User {
				what = "scope unit of the user's"
			}
			add(u.Origin, what, u.Name+" in "+u.Slice, "ends with the machine")
		}
		if g.Supervisor != "" {
			add(c.from("keep-unit"), "cgroup of the launcher", path.Join(g.Mount, g.Supervisor), "ends with the unit")
		}
		add(c.base, "cgroup", path.Join(g.Mount, g.Path), "its processes are killed, it is removed")
	}
	if r := c.Plan.Register; r != nil {
		what := "machine of systemd-machined"
		if c.Plan.User {
			what = "machine of the user's own"
		}
		add(r.Origin, what, c.Machine, "unregistered")
	}
	c.Effects = append(c.Effects, c.linkEffects()...)
	for _, p := range c.Plan.Forwards {
		add(p.Origin, "forwarded port", fmt.Sprintf("%s %d to %d", p.Protocol, p.Host, p.Machine), "ends with the launcher")
	}
	c.stackEffects(func(s Step, what, where, undo string) { add(s.Origin, what, where, undo) })
	for _, s := range c.Steps {
		switch {
		case s.Do == Stack && c.Settings.Image.Stack.Passing:
			add(s.Origin, "the machine's own layer", path.Dir(s.Source.Path), "removed with what is in it")
		case s.Do == Stack:
			add(s.Origin, "the machine's own layer", path.Dir(s.Source.Path), "stays")
		case s.Do == Lock:
			add(s.Origin, "lock of the tree", path.Join(path.Dir(s.Path), ".#"+path.Base(s.Path)+".lck"), "released and removed")
		case s.Do == CloneIt:
			add(s.Origin, "copy of the image, without a name", s.Path, "ends with the machine")
		case s.Do == Disk:
			add(s.Origin, "loop device", "/dev/loop…", "ends with the machine")
		case s.Do == Clone && c.Plan.Ephemeral:
			add(s.Origin, "copy of the tree", s.Path, "removed with what is in it")
		case s.Do == Clone:
			add(s.Origin, "half of a copy", s.Path, "removed, if it is not finished")
		case s.Do == Rename:
			add(s.Origin, "copy of the template", s.Path, "stays")
		case (s.Do == Make || s.Do == Link) && s.Stays:
			add(s.Origin, "place of the journal", s.Path, "stays")
		case s.Do == Make:
			add(s.Origin, "tunnel for mounts", s.Path, "removed")
		case s.Do == Receive:
			add(s.Origin, "journal of the machine", s.Source.Path, "stays")
			add(s.Origin, "socket for it, and a process", s.Path, "removed, and ended")
		case s.Do == Export:
			add(s.Origin, "sockets of the machine", s.Path, "unmounted and removed")
		case s.Do == Link:
			add(s.Origin, "the same, for systemd 261", s.Path, "removed")
		}
		for _, p := range append([]mount.Path{s.Source}, s.Lower...) {
			if p.Temp {
				add(s.Origin, "fresh directory", "/var/tmp/launch-"+c.Machine+"-", "removed with what is in it")
			}
		}
		switch {
		case s.Do == Overlay && s.Attr&ro == 0 && !s.Source.InRoot && !s.Source.Temp:
			if s.Over == nil {
				add(s.Origin, "upper directory", s.Source.Path, "made if it is missing, stays")
			}
			add(s.Origin, "work directory", path.Join(path.Dir(s.Source.Path), ".#"+path.Base(s.Source.Path)), "removed")
		case (s.Do == Chown || s.Fallback == Chown) && !c.Plan.Ephemeral:
			add(s.Origin, "owners of the tree's files", c.Directory, "stay changed")
		}
	}
}
