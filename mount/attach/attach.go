// Package attach performs the mount steps of a plan on a tree, in a mount
// namespace of the launcher's own.
//
// What it guarantees: a path inside the machine is resolved once, by openat2
// below the descriptor of the machine's root, and what is found is used by
// descriptor; no name of the tree is ever looked up from the host's root. A
// new file system is set up and filled while nobody can see it, gets its final
// flags, and is attached last: there is no instant in which it is wider open
// than planned.
//
// It refuses to know why a step is there, and undoes nothing: everything it
// makes lives in the namespace and goes away with it, but for the mount points
// it makes in a writable tree.
//
// Room: host.
package attach

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
	"launch/userns"
)

// Tree is a machine's tree while it is put together.
type Tree struct {
	l sys.Locked
	// root is the machine's root: the topmost mount on seat; -1 until the first
	// step.
	root int
	// loose is a root that is not attached yet; -1 otherwise.
	loose int
	// below is the root that an overlay of ours over the root shows; -1
	// without.
	below int
	// old is the tree, not attached yet, that a pivot moves to the directory
	// oldAt of the new root; both are -1 without one.
	old, oldAt int
	// host is the host's root directory; at is the directory of it that the
	// machine's root is attached to, see seat.
	host, at int
	// shared: the host's mounts were not cut off.
	shared bool
	// bare: the root stays where it is attached, in the host's mounts.
	bare bool
	// runHost is the machine's /run/host as made, which holds the nodes that
	// masks are made of; devpts is its /dev/pts.
	runHost, devpts int

	// Pin is the tree's directory as it was when the plan was made: a
	// directory that was swapped since is refused. -1: nothing to compare.
	Pin int
	// Pins are the entries of a mount stack, open, by their paths.
	Pins map[string]int
	// layers are those that the next pile is made of, lowest first.
	layers []layerAt
	// Image is the disk image that the tree is in; -1: none.
	Image int
	// UID and GID are the machine's root user, on the host.
	UID, GID uint32
	// UserNS gives a user namespace with the machine's map, for id-mapped
	// mounts; nil where there is none.
	UserNS func(m mount.IDMap, source, target unix.Statx_t) (int, error)
	// Chown gives the files below the descriptor the machine's owners.
	Chown func(rootfd int) error
	// PidNS is the machine's pid namespace, whose processes /proc shows; -1
	// until there is one. ProcFS opens a context for that procfs on kernels
	// that can't be told the namespace (before Linux 6.17).
	PidNS  int
	ProcFS func() (int, error)
	// Temp makes a fresh directory on the host that is removed with the
	// machine, and gives its path.
	Temp func(what string) (string, error)
	// Shared gives the copy of a mount that the host has for this machine; -1:
	// there is none, and the path is one as any other.
	Shared func(path string) (int, error)
	// Secret gives a credential's value.
	Secret func(id string) string
	// Work makes an overlay's work directory beside the upper one, in the
	// directory dir or, if that is AT_FDCWD, by the upper one's path, and gives
	// its name there.
	Work func(upper string, dir int) (string, error)
	// Path is where the host has the machine's root, without links.
	Path string
	// MapNS gives a user namespace with these maps, for id-mapped mounts, and
	// HostID the host's numbers for a user and group of the machine's.
	MapNS  func(uids, gids userns.Map) (int, error)
	HostID func(uid, gid uint32) (uint32, uint32)
	// Cgroup gives the text of /proc/PID/cgroup of the machine's first process.
	Cgroup func() (string, error)
	// Exact: the tree is a bundle's, which brings its own API file systems.
	Exact bool
	// TTY is the machine's terminal, below its devpts: a number; -1: it has
	// none.
	TTY int
}

// Begin gives the thread a mount namespace of its own, in which nothing that
// is mounted reaches the host; the host's mounts still arrive. Before the first
// step, the tree needs a seat.
func Begin(l sys.Locked) (*Tree, error) { return begin(l, How{Namespace: -1}) }

// How says what is unusual about a tree's mount namespace.
type How struct {
	// Shared: the host is to hear from the machine's mounts, and only the
	// mount that the machine's root is attached to is cut off.
	Shared bool
	// Namespace is a mount namespace that is there already; -1: a new one.
	Namespace int
	// Seat is a directory of the caller's own mount namespace that the root is
	// attached to, and stays.
	Seat string
	// Own is a directory that nobody else uses, for callers that may not make
	// the usual one.
	Own string
}

// BeginAs is Begin and Seat for a tree that has no mount namespace of its own, or
// shares it.
func BeginAs(l sys.Locked, how How) (*Tree, error) {
	t, err := begin(l, how)
	if err != nil {
		return nil, err
	}
	if err := t.seatAt(how); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

func begin(l sys.Locked, how How) (*Tree, error) {
	flags := unix.CLONE_NEWNS | unix.CLONE_FS
	if how.Seat != "" || how.Namespace >= 0 {
		flags = unix.CLONE_FS
	}
	if err := sys.Unshare(l, flags); err != nil {
		return nil, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if how.Namespace >= 0 {
		if err := sys.Setns(l, how.Namespace, unix.CLONE_NEWNS); err != nil {
			return nil, fmt.Errorf("join the mount namespace: %w", err)
		}
	}
	t := &Tree{l: l, root: -1, loose: -1, below: -1, old: -1, oldAt: -1, host: -1, at: -1, runHost: -1, devpts: -1, Pin: -1, Image: -1, PidNS: -1, TTY: -1, bare: how.Seat != ""}
	var err error
	if t.host, err = sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("open /: %w", err)
	}
	// A seat of the caller's own: its mounts are not changed, but for one more.
	if t.shared = how.Shared || t.bare; !t.shared {
		if err := sys.MountSetattr(t.host, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
			return nil, fmt.Errorf("cut off mount propagation to the host: %w", err)
		}
	}
	sys.Umask(l, 0)
	return t, nil
}

// Seat makes the place that the tree is put together at.
func (t *Tree) Seat() error { return t.seatAt(How{}) }

func (t *Tree) seatAt(how How) (err error) {
	seat := seat
	if t.bare {
		seat = how.Seat
	} else {
		if err := sys.Mkdirat(unix.AT_FDCWD, seat, 0o700); (err == unix.EACCES || err == unix.EPERM || err == unix.EROFS) && how.Own != "" {
			seat = how.Own
		} else if err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s: %w", seat, err)
		}
	}
	if t.at, err = sys.Openat(unix.AT_FDCWD, seat, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return fmt.Errorf("open %s: %w", seat, err)
	}
	if t.shared && !t.bare {
		if err := t.cutOff(); err != nil {
			return fmt.Errorf("cut off mount propagation from %s: %w", seat, err)
		}
	}
	return nil
}

// seat is the host's directory that the machine's root covers, in the
// launcher's namespace only, while the machine is put together. It must be one
// that no source of a mount lies in. It must not be "/": then each ".." up to
// the host's root, in a path or in a link like /etc/os-release, would lead into
// the machine's tree instead, and a link there back to any file of the host's.
const seat = "/run/launch"

// Close gives back the descriptors.
func (t *Tree) Close() {
	t.letGo()
	for _, n := range []*int{&t.root, &t.loose, &t.below, &t.old, &t.oldAt, &t.host, &t.at, &t.runHost, &t.devpts, &t.PidNS} {
		if *n >= 0 {
			sys.Close(*n)
			*n = -1
		}
	}
}

// RunHost is the machine's /run/host, as it was made; -1 if it has none.
func (t *Tree) RunHost() int { return t.runHost }

// Root is the machine's root.
func (t *Tree) Root() int { return t.root }

// Host is the host's root.
func (t *Tree) Host() int { return t.host }

// MakeDir makes a directory of the machine's, and those on the way.
func (t *Tree) MakeDir(target string) error {
	return t.make(plan.Step{Target: target, Mode: 0o755}, unix.S_IFDIR)
}

// Do performs a step.
func (t *Tree) Do(s plan.Step) error {
	if err := t.do(s); err != nil {
		return fmt.Errorf("%s: %w", words(s), err)
	}
	return nil
}

// words says what a step does, for errors.
func words(s plan.Step) string {
	switch s.Do {
	case plan.Tree:
		return "take the tree " + s.Source.Path
	case plan.Disk:
		return fmt.Sprintf("mount %s of the image %s on %s", s.Type, s.Source.Path, s.Target)
	case plan.Stack:
		return "put together the layers in " + s.Path
	case plan.Take:
		if s.Target == "" {
			return "take the layer " + s.Source.Path
		}
		return fmt.Sprintf("take %s for %s", s.Source.Path, s.Target)
	case plan.Pile:
		return fmt.Sprintf("put together the layers of %s on %s", s.Path, s.Target)
	case plan.Pivot:
		return fmt.Sprintf("take %s of the tree as the root", s.Source.Path)
	case plan.Mount:
		return fmt.Sprintf("mount %s on %s", s.Type, s.Target)
	case plan.Bind:
		return fmt.Sprintf("bind %s on %s", s.Source.Path, s.Target)
	case plan.Overlay:
		return "mount overlay on " + s.Target
	case plan.Layer:
		return "lay a throw-away layer over " + s.Target
	case plan.Stubs:
		return "make mount points for " + s.Target
	case plan.Mask:
		return "mask " + s.Target
	case plan.Parts:
		return "mount parts of sysfs on " + s.Target
	case plan.Mkdir:
		return "make directory " + s.Target
	case plan.Symlink:
		return "make symlink " + s.Target
	case plan.Attr:
		return "change the flags of " + s.Target
	case plan.Copy:
		return fmt.Sprintf("copy %s to %s", s.Source.Path, s.Target)
	case plan.Zone:
		return fmt.Sprintf("link %s to %s", s.Target, s.Source.Path)
	case plan.Remove:
		return "remove " + s.Target
	case plan.Idmap:
		return "map the owners of the tree's files"
	case plan.Chown:
		return "change the owners of the tree's files"
	case plan.Node:
		return "make device " + s.Target
	case plan.Hide:
		return "mask " + s.Target
	case plan.Guard:
		return "make read-only " + s.Target
	case plan.Cgroups:
		return "mount cgroup on " + s.Target
	case plan.Terminal:
		return "bind the terminal on " + s.Target
	}
	return string(s.Do)
}

func (t *Tree) do(s plan.Step) error {
	switch s.Do {
	case plan.Tree:
		return t.tree(s)
	case plan.Stack:
		return t.stack(s)
	case plan.Disk:
		return t.disk(s)
	case plan.Take:
		return t.take(s)
	case plan.Pile:
		return t.pile(s)
	case plan.Idmap:
		return t.idmap(s)
	case plan.Pivot:
		return t.pivot(s)
	case plan.Chown:
		for _, n := range t.unattached() {
			if err := t.Chown(n); err != nil {
				return err
			}
		}
		return nil
	}
	if err := t.seat(); err != nil {
		return err
	}
	switch s.Do {
	case plan.Layer:
		return t.layer(s)
	case plan.Stubs:
		return t.stubs(s)
	case plan.Mount:
		return t.mount(s)
	case plan.Bind:
		err := t.bind(s)
		if err != nil && s.Fallback == plan.Copy {
			return t.copy(s)
		}
		return err
	case plan.Overlay:
		return t.overlay(s)
	case plan.Mask:
		return t.mask(s)
	case plan.Parts:
		return t.parts(s)
	case plan.Mkdir, plan.Symlink:
		if path.Dir(s.Target) != "/" && s.Do == plan.Symlink {
			return t.link(s)
		}
		if path.Dir(s.Target) != "/" {
			n, err := t.target(s, unix.S_IFDIR)
			if err == nil {
				sys.Close(n)
			}
			return err
		}
		return t.base(s)
	case plan.Attr:
		return t.attr(s)
	case plan.Copy, plan.Zone, plan.Remove:
		return t.file(s)
	case plan.Node:
		return t.node(s)
	case plan.Hide:
		return t.hide(s)
	case plan.Guard:
		return t.guard(s)
	case plan.Cgroups:
		return t.cgroups(s)
	case plan.Terminal:
		return t.terminal(s)
	}
	return fmt.Errorf("no such step: %s", s.Do)
}

// tree clones the directory, with all that is mounted below it, and cuts the
// clone off from the host's propagation.
func (t *Tree) tree(s plan.Step) error {
	n, err := sys.OpenTree(unix.AT_FDCWD, s.Source.Path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	t.loose = n
	if t.Pin >= 0 {
		if err := same(n, t.Pin); err != nil {
			return err
		}
	}
	return sys.MountSetattr(n, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
}

// same fails unless two descriptors are of one file.
func same(a, b int) error {
	ok, err := sys.Same(a, b)
	if err == nil && !ok {
		err = errors.New("the directory was replaced while the machine was starting")
	}
	return err
}

// idmap shows the tree's files with the machine's owners. The kernel takes an
// id map only on a mount that was never attached.
func (t *Tree) idmap(s plan.Step) error {
	kind := mount.FullIDMap
	if s.IDMap != mount.NoIDMap {
		kind = s.IDMap
	}
	ns, err := t.UserNS(kind, unix.Statx_t{}, unix.Statx_t{})
	if err != nil {
		return err
	}
	for _, n := range t.unattached() {
		err := sys.MountSetattr(n, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)})
		if s.Fallback == plan.Chown && (err == unix.EINVAL || err == unix.EOPNOTSUPP || err == unix.ENOSYS) {
			err = t.Chown(n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// seat attaches a loose root.
func (t *Tree) seat() error {
	if t.loose < 0 {
		return nil
	}
	if err := sys.MoveMount(t.loose, t.at); err != nil {
		return fmt.Errorf("attach the machine's root: %w", err)
	}
	if t.root >= 0 {
		sys.Close(t.root)
	}
	t.root, t.loose = t.loose, -1
	return t.seatOld()
}

// Overlay makes a detached overlay, with the source that a mount table names.
// lower is given lowest first; upper and work are -1 for a read-only one. proc is
// where a /proc is that shows this process.
func Overlay(proc, source string, lower []int, upper, work int, attr uint64, options []plan.Option) (int, error) {
	fs, err := sys.Fsopen("overlay")
	if err != nil {
		return -1, err
	}
	defer sys.Close(fs)
	set := func(key string, n int) error {
		err := sys.FsFd(fs, key, n)
		if err == unix.EINVAL { // before Linux 6.13 it takes names only
			err = sys.FsSet(fs, key, selfFd(proc, n))
		}
		return err
	}
	if err = sys.FsSet(fs, "source", source); err != nil {
		return -1, withLog(fs, err)
	}
	// The uppermost comes first.
	for i := len(lower) - 1; i >= 0 && err == nil; i-- {
		err = set("lowerdir+", lower[i])
	}
	if err == unix.EINVAL { // before Linux 6.5 it takes one list only
		var list []string
		for i := len(lower) - 1; i >= 0; i-- {
			list = append(list, selfFd(proc, lower[i]))
		}
		err = sys.FsSet(fs, "lowerdir", strings.Join(list, ":"))
	}
	if err == nil && upper >= 0 {
		if err = set("upperdir", upper); err == nil {
			err = set("workdir", work)
		}
	}
	for _, o := range options {
		if err == nil {
			err = sys.FsFlag(fs, o.Key)
		}
	}
	if err == nil {
		err = sys.FsCreate(fs)
	}
	if err != nil {
		return -1, withLog(fs, err)
	}
	return sys.Fsmount(fs, int(attr))
}

// selfFd is sys.FdPath where proc is the /proc.
func selfFd(proc string, n int) string { return fmt.Sprintf("%s/self/fd/%d", proc, n) }

// withLog adds what the kernel says about a failed set-up.
func withLog(fs int, err error) error {
	if s := strings.TrimSpace(sys.FsLog(fs)); s != "" {
		return fmt.Errorf("%w (%s)", err, strings.TrimPrefix(strings.TrimPrefix(s, "e "), "w "))
	}
	return err
}

// fs makes a detached file system.
func (t *Tree) fs(fstype, source string, options []plan.Option, attr uint64) (int, error) {
	fs, err := sys.Fsopen(fstype)
	if err != nil {
		return -1, err
	}
	defer func() { sys.Close(fs) }()
	if fstype == "proc" && t.PidNS >= 0 {
		// A procfs shows the pid namespace of the process that opens it,
		// whatever this thread has joined, unless it is told.
		err := sys.FsFd(fs, "pidns", t.PidNS)
		if err == unix.EINVAL {
			sys.Close(fs)
			fs, err = t.ProcFS()
		}
		if err != nil {
			return -1, fmt.Errorf("choose the pid namespace: %w", err)
		}
	}
	if source != "" {
		if err := sys.FsSet(fs, "source", source); err != nil {
			return -1, withLog(fs, err)
		}
	}
	for _, o := range options {
		if o.Value == "" {
			err = sys.FsFlag(fs, o.Key)
		} else {
			err = sys.FsSet(fs, o.Key, o.Value)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", o.Key, withLog(fs, err))
		}
	}
	if err := sys.FsCreate(fs); err != nil {
		return -1, withLog(fs, err)
	}
	return sys.Fsmount(fs, int(attr))
}

// mount makes a file system, fills it, and attaches it.
func (t *Tree) mount(s plan.Step) error {
	source := s.Source.Path
	if source == "" {
		source = s.Type
	}
	var n int
	var err error
	if s.Like || s.CopyUp {
		if s, err = t.like(s); err != nil {
			return err
		}
	}
	// What is read-only must be filled first.
	later := uint64(0)
	if len(s.Content) > 0 {
		later = s.Attr & unix.MOUNT_ATTR_RDONLY
	}
	if s.Type == "devpts" && t.devpts >= 0 {
		// Terminals made it.
		n, err = sys.Dup(t.devpts)
	} else {
		n, err = t.fs(s.Type, source, s.Options, s.Attr&^later)
	}
	if err != nil {
		return err
	}
	err = t.fill(n, s.Content)
	if err == nil && later != 0 {
		err = t.own(n, "")
	}
	if err == nil && later != 0 {
		err = setattr(n, later, false)
	}
	if s.Owned && err == nil {
		err = t.own(n, "")
	}
	if s.Type == "devpts" && t.UID != 0 {
		// The kernel gives the directory and its ptmx to the host's root.
		for _, name := range []string{"", "ptmx"} {
			if err == nil {
				err = sys.Fchownat(n, name, t.UID, t.GID)
			}
		}
	}
	if err != nil {
		sys.Close(n)
		return err
	}
	if t.root < 0 { // there is nothing yet that it could be placed in
		t.loose = n
		return t.seat()
	}
	defer sys.Close(n)
	if s.CopyUp {
		if err := t.copyUp(n, s); err != nil {
			return err
		}
	}
	if err := t.place(n, s, unix.S_IFDIR); err != nil {
		return err
	}
	if err := propagate(n, s.Propagation); err != nil || t.Exact {
		return err
	}
	if s.Target == "/run" {
		// Kept open from here: what is mounted on /run/host later hides it.
		t.runHost, err = sys.Openat(n, "host", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	}
	return err
}

// Terminals makes the machine's devpts, which the step will attach, and gives
// its descriptor. A first process that is to get a terminal from it must be
// born after, to have the terminal among its descriptors.
func (t *Tree) Terminals(s plan.Step) (int, error) {
	n, err := t.fs(s.Type, s.Type, s.Options, s.Attr)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", words(s), err)
	}
	t.devpts = n
	return n, nil
}

// fill makes the entries inside a file system that is not attached yet, so
// names can't lead anywhere else.
func (t *Tree) fill(dir int, entries []plan.Entry) error {
	for _, e := range entries {
		err := t.entry(dir, e, true)
		if err != nil && e.Optional && (err == unix.EPERM || err == unix.EEXIST) {
			continue
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", e.Path, err)
		}
	}
	return nil
}

func (t *Tree) entry(dir int, e plan.Entry, chown bool) error {
	var err error
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err = sys.Mkdirat(dir, e.Path, e.Mode&0o7777); err == unix.EEXIST {
			return nil
		}
	case unix.S_IFLNK:
		err = sys.Symlinkat(e.Data, dir, e.Path)
	default:
		err = sys.Mknodat(dir, e.Path, e.Mode, e.Dev)
	}
	switch {
	case e.Credential:
		e.Data = t.Secret(e.Path)
	case e.Hidden != "":
		e.Data = e.Hidden
	}
	if err == nil && e.Data != "" && e.Mode&unix.S_IFMT == unix.S_IFREG {
		err = sys.WriteFile(dir, e.Path, e.Data)
	}
	if err == nil && chown {
		if err = t.own(dir, e.Path); err != nil {
			// Not the plain errno: what is made and not the machine's is worse
			// than what is left out.
			err = fmt.Errorf("give it to the machine: %w", err)
		}
	}
	return err
}

// owned makes something in the machine's tree, which outlives the launcher, so
// that it belongs to the machine's root user from its first moment.
func (t *Tree) owned(make func() error) error {
	return sys.MakeAs(t.l, t.UID, t.GID, make)
}

// own gives something to the machine's root.
func (t *Tree) own(dir int, name string) error {
	if t.UID == 0 {
		return nil
	}
	return sys.Fchownat(dir, name, t.UID, t.GID)
}

// bind clones the source and attaches the clone.
func (t *Tree) bind(s plan.Step) error {
	var n int
	var err error
	switch {
	case s.Part != "":
		n, err = t.part(s)
	case s.SourceLink == mount.Copied && !s.Source.InRoot:
		to, lerr := sys.Readlinkat(unix.AT_FDCWD, s.Source.Path)
		if lerr == nil {
			return t.copyLink(s, to)
		}
		fallthrough // it is none
	default:
		n = -1
		if s.Owned && t.Shared != nil {
			n, err = t.Shared(s.Source.Path)
		}
		if n >= 0 || err != nil {
			break
		}
		n, err = t.clone(s.Source, s.Recursive, s.IDMap != mount.NoIDMap || s.Counted, s.SourceLink == mount.Bound)
	}
	if errors.Is(err, unix.ENOENT) && (s.Optional || s.Lenient) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_UID|unix.STATX_GID)
	if err != nil {
		return err
	}
	if s.IDMap != mount.NoIDMap {
		var target unix.Statx_t
		if s.IDMap == mount.OwnerIDMap {
			target.Uid, target.Gid = t.UID, t.GID
			if to, err := t.resolve(s.Target); err == nil {
				target, err = sys.Statx(to, "", unix.STATX_UID|unix.STATX_GID)
				sys.Close(to)
				if err != nil {
					return err
				}
			}
		}
		ns, err := t.UserNS(s.IDMap, st, target)
		if err != nil {
			return err
		}
		if err := sys.MountSetattr(n, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}); err != nil {
			return fmt.Errorf("map owners: %w", err)
		}
	}
	if s.UIDs != nil {
		uids, gids := s.UIDs, s.GIDs
		if s.Counted {
			uids, gids = uids.From(t.UID), gids.From(t.GID)
		}
		ns, err := t.MapNS(uids, gids)
		if err != nil {
			return err
		}
		flags := uint(0)
		if s.MapAll {
			flags = unix.AT_RECURSIVE
		}
		err = sys.MountSetattr(n, flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)})
		sys.Close(ns)
		if err != nil {
			return fmt.Errorf("map owners: %w", err)
		}
	}
	if s.Attr|s.Clear|s.Rest != 0 {
		// A bundle's flags are of the one mount, those for all below are apart.
		err := change(n, s.Attr, s.Clear|s.Rest, s.Recursive && !t.Exact)
		if err == unix.EPERM && s.Rest != 0 {
			// In users of one's own, the host's flags are locked.
			err = change(n, s.Attr, s.Clear, false)
		}
		if err != nil {
			return err
		}
	}
	if s.AllAttr|s.AllClear != 0 {
		if err := change(n, s.AllAttr, s.AllClear, true); err != nil {
			return err
		}
	}
	if s.Owned {
		if err := t.own(n, ""); err != nil {
			return err
		}
	}
	if s.Over != nil {
		return t.bindUnder(n, s, uint32(st.Mode)&unix.S_IFMT)
	}
	if err := t.place(n, s, uint32(st.Mode)&unix.S_IFMT); err != nil {
		return err
	}
	return propagate(n, s.Propagation)
}

func setattr(n int, attr uint64, recursive bool) error { return change(n, attr, 0, recursive) }

// change sets and clears flags of a mount.
func change(n int, attr, clear uint64, recursive bool) error {
	a := unix.MountAttr{Attr_set: attr, Attr_clr: clear}
	if attr&unix.MOUNT_ATTR__ATIME != 0 {
		a.Attr_clr |= unix.MOUNT_ATTR__ATIME
	}
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	return sys.MountSetattr(n, flags, &a)
}

// part clones a directory of the tree, where not all of the tree becomes the
// root. The path of the host's leads only to the tree; from there on it is the
// tree that could answer with a link, even if it had a directory there when
// the plan was made.
func (t *Tree) part(s plan.Step) (int, error) {
	// By path again: the kernel clones only mounts of this namespace, and the
	// pin is of the host's.
	dir := strings.TrimSuffix(s.Source.Path, "/"+s.Part)
	if dir == "" {
		dir = "/"
	}
	top, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer sys.Close(top)
	if t.Pin >= 0 {
		if err := same(top, t.Pin); err != nil {
			return -1, err
		}
	}
	at, err := openPart(top, s.Part)
	if err != nil {
		return -1, err
	}
	defer sys.Close(at)
	flags := uint(unix.OPEN_TREE_CLONE | unix.AT_EMPTY_PATH)
	if s.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	return sys.OpenTree(at, "", flags)
}

// openPart opens a directory of the tree behind top. The way there means what it
// means inside, and a link in its place what it means where that is the root.
func openPart(top int, part string) (int, error) {
	in := top
	if dir := path.Dir(part); dir != "." {
		var err error
		if in, err = sys.Openat2(top, dir, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot); err != nil {
			return -1, fmt.Errorf("open the tree's %s: %w", dir, err)
		}
		defer sys.Close(in)
	}
	at, err := sys.Openat2(in, path.Base(part), unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
	if err != nil {
		return -1, fmt.Errorf("open the tree's %s: %w", part, err)
	}
	return at, nil
}

// openBare is sys.OpenTree for a clone that is to get an id map: without one that
// the original has. Before Linux 6.15, an original that has one is refused later.
func openBare(dir int, path string, flags uint) (int, error) {
	n, err := sys.OpenTreeBare(dir, path, flags)
	if err == unix.ENOSYS {
		n, err = sys.OpenTree(dir, path, flags)
	}
	return n, err
}

// clone gives a detached copy of the mount that the source is; bare: without
// an id map that it has, since the kernel lays none over another; link: of the
// source itself, also if it is a link.
func (t *Tree) clone(p mount.Path, recursive, bare, link bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE)
	if link {
		flags |= unix.AT_SYMLINK_NOFOLLOW
	}
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	open := sys.OpenTree
	if bare {
		open = func(dir int, path string, flags uint) (int, error) {
			n, err := openBare(dir, path, flags)
			if err == unix.EINVAL { // not a kind of file system that can
				err = fmt.Errorf("map owners: %w", err)
			}
			return n, err
		}
	}
	switch {
	case p.Temp:
		dir, err := t.Temp("src")
		if err != nil {
			return -1, err
		}
		return open(unix.AT_FDCWD, dir, flags)
	case p.InRoot:
		n, err := t.resolve(p.Path)
		if err != nil {
			return -1, err
		}
		defer sys.Close(n)
		return open(n, "", flags|unix.AT_EMPTY_PATH)
	}
	// A path of the host's, named by who started the launcher.
	return open(unix.AT_FDCWD, p.Path, flags)
}

// overlay mounts what the user asked for.
func (t *Tree) overlay(s plan.Step) error {
	var fds []int
	defer func() {
		for _, n := range fds {
			sys.Close(n)
		}
	}()
	open := func(p mount.Path) (n int, hostPath string, err error) {
		switch {
		case p.Temp:
			if hostPath, err = t.Temp("src"); err != nil {
				return -1, "", err
			}
			n, err = sys.Openat(unix.AT_FDCWD, hostPath, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		case p.InRoot:
			n, err = t.resolve(p.Path)
		default:
			hostPath = p.Path
			n, err = sys.Openat(unix.AT_FDCWD, p.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
			if err == unix.ENOENT && p == s.Source && s.Attr&unix.MOUNT_ATTR_RDONLY == 0 && s.Over == nil {
				n, err = t.upper(p.Path)
			}
		}
		if err != nil {
			return -1, "", fmt.Errorf("open %s: %w", p.Path, err)
		}
		fds = append(fds, n)
		return n, hostPath, nil
	}
	var lower []int
	for _, p := range s.Lower {
		n, _, err := open(p)
		if err != nil {
			return err
		}
		lower = append(lower, n)
	}
	upper, hostPath, err := open(s.Source)
	if err != nil {
		return err
	}
	work := -1
	if s.Over != nil {
		to, err := t.point(s, unix.S_IFDIR)
		if err != nil {
			return err
		}
		defer sys.Close(to)
		n, err := t.over(to, append(lower, upper), s.Over, s.Attr, true)
		if err == nil {
			sys.Close(n)
		}
		return err
	}
	if s.Attr&unix.MOUNT_ATTR_RDONLY != 0 {
		lower, upper = append(lower, upper), -1
	} else {
		dir := unix.AT_FDCWD
		if s.Source.InRoot {
			if hostPath, dir, err = t.onHost(s.Source.Path); err != nil {
				return err
			}
			fds = append(fds, dir)
		}
		name, err := t.Work(hostPath, dir)
		if err != nil {
			return fmt.Errorf("make a work directory beside %s: %w", hostPath, err)
		}
		if work, err = sys.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
			return err
		}
		fds = append(fds, work)
	}
	n, err := Overlay("/proc", "overlay", lower, upper, work, s.Attr, nil)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return t.place(n, s, unix.S_IFDIR)
}

// upper makes a missing directory of the host's for what a machine writes. It is
// the machine's root's, and stays.
func (t *Tree) upper(hostPath string) (int, error) {
	dir, err := sys.Openat(unix.AT_FDCWD, path.Dir(hostPath), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer sys.Close(dir)
	if err := t.owned(func() error { return sys.Mkdirat(dir, path.Base(hostPath), 0o755) }); err != nil {
		return -1, err
	}
	return sys.Openat(dir, path.Base(hostPath), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// onHost gives the path that something in the machine's tree has on the host,
// without links, and a descriptor of its directory. What is made beside it must
// be found there after the machine's end, so it is an error where the machine
// has another mount than the tree's.
func (t *Tree) onHost(target string) (hostPath string, dir int, err error) {
	n, err := t.resolve(target)
	if err != nil {
		return "", -1, err
	}
	defer sys.Close(n)
	at, err := t.inside(n, target)
	if err != nil {
		return "", -1, err
	}
	if dir, err = sys.Openat2(t.root, path.Dir(at), unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot|unix.RESOLVE_NO_SYMLINKS); err != nil {
		return "", -1, fmt.Errorf("open %s of the tree: %w", path.Dir(at), err)
	}
	hostPath = path.Join(t.Path, at)
	there, err := sys.Openat2(t.host, path.Dir(hostPath), unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot|unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		err = same(there, dir)
		sys.Close(there)
	}
	if err != nil {
		sys.Close(dir)
		return "", -1, fmt.Errorf("%s is not the tree's own here, and a work directory has no place beside it: give the upper directory as a path of the host", target)
	}
	return hostPath, dir, nil
}

// mask hides the target behind an empty node of its own kind. The nodes are
// those that the launcher made in the machine's /run, found below the
// descriptor of that mount: nothing the tree holds can take their place.
func (t *Tree) mask(s plan.Step) error {
	to, err := t.resolve(s.Target)
	if err == unix.ENOENT && s.Lenient {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(to)
	if err := t.avoid(to, s); err != nil {
		return err
	}
	st, err := sys.Statx(to, "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	var names []string
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		names = []string{"reg"}
	case unix.S_IFDIR:
		names = []string{"dir"}
	case unix.S_IFIFO:
		names = []string{"fifo"}
	case unix.S_IFSOCK:
		names = []string{"sock"}
	case unix.S_IFCHR:
		names = []string{"chr", "sock"}
	case unix.S_IFBLK:
		names = []string{"blk", "sock"}
	default:
		return fmt.Errorf("it is neither file, directory, node, FIFO nor socket")
	}
	var from int
	for _, name := range names {
		from, err = sys.Openat2(t.runHost, "inaccessible/"+name, unix.O_PATH|unix.O_NOFOLLOW, 0,
			unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
		if err != unix.ENOENT {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("open the empty node: %w", err)
	}
	defer sys.Close(from)
	return cover(to, from, 0, s.Attr)
}

// cover puts a clone of the mount that from is on the directory or file to,
// with more flags. How is AT_RECURSIVE for all that is mounted below, or 0.
func cover(to, from int, how uint, attr uint64) error {
	n, err := sys.OpenTree(from, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|how)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	if err := setattr(n, attr, false); err != nil {
		return err
	}
	return sys.MoveMount(n, to)
}

// parts attaches the parts of sysfs that a machine with a network of its own
// may see to directories of the same names, and leaves the rest out.
func (t *Tree) parts(s plan.Step) error {
	dir, err := t.resolve(s.Target)
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	// The kernel binds parts only of a mount that is attached somewhere.
	if err := t.fill(dir, []plan.Entry{{Path: "full", Mode: unix.S_IFDIR | 0o755}}); err != nil {
		return err
	}
	full, err := t.fs("sysfs", "sysfs", nil, s.Attr)
	if err != nil {
		return err
	}
	defer sys.Close(full)
	at, err := sys.Openat(dir, "full", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = sys.MoveMount(full, at)
	sys.Close(at)
	if err != nil {
		return err
	}
	for _, name := range []string{"block", "bus", "class", "dev", "devices", "kernel"} {
		n, err := sys.OpenTree(full, name, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		err = t.fill(dir, []plan.Entry{{Path: name, Mode: unix.S_IFDIR | 0o755}})
		if err == nil {
			var to int
			if to, err = sys.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
				err = sys.MoveMount(n, to)
				sys.Close(to)
			}
		}
		sys.Close(n)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := sys.Fchdir(t.l, full); err != nil {
		return err
	}
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the whole sysfs away again: %w", err)
	}
	if err := sys.Fchdir(t.l, t.host); err != nil {
		return err
	}
	if err := sys.Unlinkat(dir, "full", unix.AT_REMOVEDIR); err != nil {
		return err
	}
	return setattr(dir, s.Attr, false)
}

// base makes a directory or link of the tree's top level if it is missing. A
// tree that can't be written to is taken as it is.
func (t *Tree) base(s plan.Step) error {
	name := path.Base(s.Target)
	e := plan.Entry{Path: name, Mode: unix.S_IFDIR | s.Mode}
	if s.Do == plan.Symlink {
		n, err := sys.Openat2(t.root, s.Source.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, sys.InRoot)
		if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
			return nil // nothing there to point to
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", s.Source.Path, err)
		}
		sys.Close(n)
		e = plan.Entry{Path: name, Mode: unix.S_IFLNK, Data: s.Source.Path}
	}
	if _, err := sys.Statx(t.root, name, unix.STATX_TYPE); err != unix.ENOENT {
		return err
	}
	err := t.owned(func() error { return t.entry(t.root, e, false) })
	if err == unix.EROFS || err == unix.EEXIST {
		return nil
	}
	return err
}

// attr changes the flags of the mount that the target is.
func (t *Tree) attr(s plan.Step) error {
	if s.Target == "/" {
		return setattr(t.root, s.Attr, s.Recursive)
	}
	n, err := t.resolve(s.Target)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return setattr(n, s.Attr, s.Recursive)
}

// place attaches a detached mount to the step's target, which it makes if the
// step allows it.
func (t *Tree) place(n int, s plan.Step, kind uint32) error {
	to, err := t.point(s, kind)
	if errors.Is(err, unix.ENOENT) && s.Lenient {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(to)
	if s.Target == "/" {
		// It is the machine's root from here on.
		if t.loose, err = sys.Dup(n); err != nil {
			return err
		}
		return t.seat()
	}
	return sys.MoveMount(n, to)
}

// point opens the step's target, which must be as much of a directory as what
// goes there.
func (t *Tree) point(s plan.Step, kind uint32) (int, error) {
	to, err := t.target(s, kind)
	if err != nil {
		return -1, err
	}
	st, err := sys.Statx(to, "", unix.STATX_TYPE)
	if have := uint32(st.Mode) & unix.S_IFMT; err == nil && (have == unix.S_IFDIR) != (kind == unix.S_IFDIR) {
		err = fmt.Errorf("%s is %s, what goes there is %s", s.Target, kindWord(have), kindWord(kind))
	}
	if err != nil {
		sys.Close(to)
		return -1, err
	}
	return to, nil
}

func kindWord(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symlink"
	}
	return "no directory"
}

// Finish makes the machine's root the root of the namespace and of the thread,
// and lets go of the host's.
func (t *Tree) Finish() error {
	if err := t.seat(); err != nil {
		return err
	}
	if err := sys.Fchdir(t.l, t.root); err != nil {
		return fmt.Errorf("enter the machine's root: %w", err)
	}
	if t.bare {
		return nil
	}
	// The old root lands on top of the new one, where "." still names it.
	if err := sys.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot into the machine's root: %w", err)
	}
	if t.shared {
		// Until here it was the caller's to hear of mounts, and to be heard:
		// of what follows, nobody must hear.
		if err := sys.MountSetattr(t.host, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
			return fmt.Errorf("cut off the host's root: %w", err)
		}
	}
	// It takes along what is attached below it, and what the new root was
	// attached to.
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's root: %w", err)
	}
	if err := sys.Chdir(t.l, "/"); err != nil {
		return fmt.Errorf("change to the machine's root: %w", err)
	}
	return t.alone()
}

// alone makes sure that nothing is left on top of the machine's root: "/.."
// would lead there. It can only fail if this package is wrong about how
// mounts stack, and then nothing must run.
func (t *Tree) alone() error {
	n, err := sys.Openat(unix.AT_FDCWD, "/..", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the machine's root: %w", err)
	}
	defer sys.Close(n)
	top, err := sys.Statx(n, "", unix.STATX_MNT_ID)
	if err != nil {
		return fmt.Errorf("look at what lies over the machine's root: %w", err)
	}
	root, err := sys.Statx(t.root, "", unix.STATX_MNT_ID)
	if err != nil {
		return fmt.Errorf("look at the machine's root: %w", err)
	}
	if top.Mnt_id != root.Mnt_id {
		return errors.New("the machine's root is covered by another mount")
	}
	return nil
}
