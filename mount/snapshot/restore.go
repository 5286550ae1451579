package snapshot

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/sys"
	"launch/mount"
	"launch/mount/attach"
	"launch/mount/tree"
	"launch/userns"
)

// Options say what a restore may use, and who looks on.
type Options struct {
	// Policy gives a meaning to what is outside.
	Policy tree.Policy
	// Users is the map of the machine's users, and UserNS a namespace with it;
	// without a map, the mounts are the caller's.
	Users  userns.Map
	UserNS int
	// Fill is told of each new file system, before anything of it is mounted,
	// so that files and sockets can be put in. dir is closed afterwards.
	Fill func(source string, dir int) error
	// Reach is told of each mount once all are in place: before is a
	// descriptor of what it lies on (-1 for a root), after one of its root. So files can be
	// reached that other mounts cover.
	Reach func(m *tree.Mount, before, after int) error
}

// restorer makes one tree. Its thread goes through several mount namespaces:
// the caller's, the workshop, and each of those that are made.
type restorer struct {
	l    sys.Locked
	f    *tree.File
	o    Options
	proc int // /proc of the caller
	self int // what the thread is there
	// workshop is the namespace in which sources and groups are, and nobody
	// ever is; spaces are those that are made.
	workshop int
	spaces   []Space

	sources map[string]*source
	outside map[string]*outside
	anchors map[int]int // for each group, a member of it in the workshop
	clones  map[int]int // the mounts, by number
	before  map[int]int // what they lie on
	all     []int       // every descriptor
	dirs    int         // how many there are in the workshop
}

// outside is a member of a sharing group of the caller's, and a copy of it.
type outside struct{ member, copy int }

type source struct {
	*tree.Source
	// top is the mount of all of it in the workshop, or a clone that goes
	// there.
	top int
	// wide is a clone of all of the mount that an external one is part of.
	wide int
	// times are copies of top with other rules for times of access, by the
	// MOUNT_ATTR_ flags for them, where the kernel would lock those of top.
	times map[uint64]*int
}

// Space is a namespace that was made, and the root that processes have in it,
// which may be covered by another mount: descriptors of the caller's.
type Space struct{ NS, Root int }

// Close gives back the descriptors.
func (s Space) Close() {
	sys.Close(s.NS)
	sys.Close(s.Root)
}

// Enter brings the thread into the namespace.
func (s Space) Enter(l sys.Locked) error {
	if err := sys.Setns(l, s.NS, unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := sys.Fchdir(l, s.Root); err != nil {
		return err
	}
	return sys.Chroot(l)
}

// Restore makes the tree and gives its namespaces.
// The thread is of no use afterwards: its mount namespace is not the caller's
// any more. When it fails, nothing is left.
func Restore(l sys.Locked, f *tree.File, o Options) (spaces []Space, err error) {
	if err := o.Policy.Check(f, len(o.Users) > 0); err != nil {
		return nil, err
	}
	r := &restorer{l: l, f: f, o: o, sources: map[string]*source{}, outside: map[string]*outside{}, anchors: map[int]int{}, clones: map[int]int{}, before: map[int]int{}}
	defer func() {
		for _, n := range r.all {
			sys.Close(n)
		}
		if err != nil {
			for _, s := range r.spaces {
				s.Close()
			}
		}
	}()
	for _, stage := range []func() error{r.externals, r.leave, r.namespaces, r.make, r.clone, r.groups, r.attach, r.share, r.seal} {
		if err := stage(); err != nil {
			return nil, err
		}
	}
	return r.spaces, nil
}

// keep closes the descriptor at the end.
func (r *restorer) keep(n int, err error) (int, error) {
	if err == nil {
		r.all = append(r.all, n)
	}
	return n, err
}

const cloneHere = unix.OPEN_TREE_CLONE | unix.AT_EMPTY_PATH

// externals opens what the policy names.
//
// Here: the caller's mount namespace, the ancestor of all users. Nothing has
// been changed.
func (r *restorer) externals() (err error) {
	if r.proc, err = r.keep(sys.Openat(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY, 0)); err != nil {
		return fmt.Errorf("open /proc: %w", err)
	}
	if r.self, err = r.keep(sys.Openat(r.proc, "thread-self", unix.O_PATH|unix.O_DIRECTORY, 0)); err != nil {
		return fmt.Errorf("open /proc/thread-self: %w", err)
	}
	sharing := map[string]bool{}
	times := map[string]map[uint64]*int{}
	for _, n := range r.f.Namespaces {
		for _, m := range n.Mounts {
			if len(r.o.Users) > 0 {
				if times[m.Source] == nil {
					times[m.Source] = map[uint64]*int{}
				}
				times[m.Source][m.Attr()&timeFlags] = new(int)
			}
			if m.Group != 0 || m.Slave != 0 {
				sharing[m.Source] = true
			}
		}
	}
	for i := range r.f.Sources {
		s := &source{Source: &r.f.Sources[i], top: -1, wide: -1, times: times[r.f.Sources[i].ID]}
		r.sources[s.ID] = s
		if !s.External {
			continue
		}
		x := r.o.Policy.External[s.ID]
		if err := r.external(s, x, sharing[s.ID]); err != nil {
			return fmt.Errorf("external %s, %s: %w", s.ID, strconv.Quote(x.Path), err)
		}
	}
	for _, g := range r.f.Groups {
		if g.Outside == "" {
			continue
		}
		x := r.o.Policy.External[g.Outside]
		n, err := r.keep(Find(x.Path))
		if err != nil {
			return fmt.Errorf("external %s, %s: %w", g.Outside, strconv.Quote(x.Path), err)
		}
		if st, err := sys.Statx(n, "", unix.STATX_TYPE); err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return fmt.Errorf("external %s: nothing is mounted on %s", g.Outside, strconv.Quote(x.Path))
		}
		c, err := r.detach(n)
		if err != nil {
			return fmt.Errorf("external %s, %s: %w", g.Outside, strconv.Quote(x.Path), err)
		}
		r.outside[g.Outside] = &outside{n, c}
	}
	return nil
}

func (r *restorer) external(s *source, x tree.External, sharing bool) error {
	n, err := Find(x.Path)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	if x.Type != "" {
		return r.device(s, x, n)
	}
	if s.top, err = r.detach(n); err != nil {
		return err
	}
	if sharing {
		// Groups can be copied only from a mount that is at least as wide.
		whole, err := Top(n, x.Path)
		if err != nil {
			return fmt.Errorf("find the mount that it is on: %w", err)
		}
		defer sys.Close(whole)
		if s.wide, err = r.detach(whole); err != nil {
			return err
		}
	}
	var attr unix.MountAttr
	if x.ReadOnly {
		attr.Attr_set = unix.MOUNT_ATTR_RDONLY
		if err := sys.MountSetattr(s.top, 0, &attr); err != nil {
			return err
		}
	}
	for flags, c := range s.times {
		if *c, err = r.detach(n); err != nil {
			return err
		}
		a := unix.MountAttr{Attr_set: attr.Attr_set | flags, Attr_clr: timeFlags}
		if err := sys.MountSetattr(*c, 0, &a); err != nil {
			return err
		}
	}
	return nil
}

// timeFlags are the flags for times of access.
const timeFlags = unix.MOUNT_ATTR__ATIME | unix.MOUNT_ATTR_NODIRATIME

// detach gives a private copy of a mount.
func (r *restorer) detach(n int) (int, error) {
	c, err := r.keep(sys.OpenTree(n, "", cloneHere))
	if err != nil {
		return -1, err
	}
	return c, sys.MountSetattr(c, 0, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
}

// device makes the file system that is on a block device.
func (r *restorer) device(s *source, x tree.External, n int) error {
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return errors.New("it is no block device")
	}
	fs, err := sys.Fsopen(x.Type)
	if err != nil {
		return fmt.Errorf("make a %s: %w", x.Type, err)
	}
	defer sys.Close(fs)
	if err := sys.FsSet(fs, "source", x.Path); err != nil {
		return err
	}
	if x.ReadOnly {
		if err := sys.FsFlag(fs, "ro"); err != nil {
			return err
		}
	}
	if err := sys.FsCreate(fs); err != nil {
		return fmt.Errorf("make a %s: %w", x.Type, withLog(fs, err))
	}
	attr := 0
	if x.ReadOnly {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	s.top, err = r.keep(sys.Fsmount(fs, attr))
	return err
}

// withLog adds what the kernel says about a failed set-up.
func withLog(fs int, err error) error {
	if s := strings.TrimSpace(sys.FsLog(fs)); s != "" {
		return fmt.Errorf("%w (%s)", err, strings.TrimPrefix(strings.TrimPrefix(s, "e "), "w "))
	}
	return err
}

// Find opens a path of the host's without following a link and without
// setting off an automount, so that it is what the user sees there now.
func Find(hostPath string) (int, error) {
	at, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(strings.Trim(path.Clean(hostPath), "/"), "/") {
		if name != "" {
			n, err := sys.Openat2(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_MAGICLINKS|unix.RESOLVE_BENEATH)
			sys.Close(at)
			if err != nil {
				return -1, err
			}
			at = n
		}
		st, err := sys.Statx(at, "", unix.STATX_TYPE)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			err = fmt.Errorf("%s is a link: give the path that it leads to", name)
		}
		var fs unix.Statfs_t
		if err == nil {
			fs, err = sys.Fstatfs(at)
		}
		if err == nil && fs.Type == unix.AUTOFS_SUPER_MAGIC {
			err = fmt.Errorf("%s is an automount point that nothing is mounted on", name)
		}
		if err != nil {
			sys.Close(at)
			return -1, err
		}
	}
	return at, nil
}

// Top gives the root of the mount that n, which is at the path, is in.
func Top(n int, hostPath string) (int, error) {
	at, err := sys.Dup(n)
	for err == nil {
		var st unix.Statx_t
		if st, err = sys.Statx(at, "", unix.STATX_TYPE); err != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			break
		}
		up := -1
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			up, err = sys.Openat2(at, "..", unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
		} else {
			up, err = Find(path.Dir(path.Clean(hostPath)))
		}
		sys.Close(at)
		at = up
	}
	return at, err
}

// leave goes to a new mount namespace with nothing in it but a small tmpfs.
func (r *restorer) leave() error {
	if err := sys.Unshare(r.l, unix.CLONE_NEWNS|unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	sys.Umask(r.l, 0)
	root, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(root)
	if err := sys.MountSetattr(root, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return fmt.Errorf("cut off mount propagation: %w", err)
	}
	yard, err := newFS(&tree.Source{Type: "tmpfs", Device: "launch", Options: []string{"mode=755"}})
	if err != nil {
		return fmt.Errorf("make a yard: %w", err)
	}
	defer sys.Close(yard)
	if err := sys.MoveMount(yard, root); err != nil {
		return fmt.Errorf("attach the yard: %w", err)
	}
	return pivot(r.l, yard)
}

// pivot makes a mount on / the root of the namespace, and lets go of what was
// there.
func pivot(l sys.Locked, n int) error {
	if err := sys.Fchdir(l, n); err != nil {
		return err
	}
	if err := sys.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot: %w", err)
	}
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the old root: %w", err)
	}
	return sys.Chdir(l, "/")
}

// newFS makes a detached file system.
func newFS(s *tree.Source) (int, error) {
	fs, err := sys.Fsopen(s.Type)
	if err != nil {
		return -1, err
	}
	defer sys.Close(fs)
	if s.Device != "" {
		if err := sys.FsSet(fs, "source", s.Device); err != nil {
			return -1, withLog(fs, err)
		}
	}
	for _, o := range s.Options {
		key, value, has := strings.Cut(o, "=")
		if has {
			err = sys.FsSet(fs, key, value)
		} else {
			err = sys.FsFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", o, withLog(fs, err))
		}
	}
	if err := sys.FsCreate(fs); err != nil {
		return -1, withLog(fs, err)
	}
	return sys.Fsmount(fs, 0)
}

// namespaces makes the namespaces, each with an empty yard.
//
// Here: the workshop, which is empty.
func (r *restorer) namespaces() (err error) {
	if r.workshop, err = r.keep(r.here()); err != nil {
		return fmt.Errorf("open the workshop's namespace: %w", err)
	}
	for range r.f.Namespaces {
		n, err := r.copy()
		if err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		r.spaces = append(r.spaces, Space{n, -1})
	}
	return nil
}

func (r *restorer) here() (int, error) { return sys.Openat(r.self, "ns/mnt", unix.O_RDONLY, 0) }

func (r *restorer) enter(ns int) error {
	if err := sys.Setns(r.l, ns, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter a mount namespace: %w", err)
	}
	return nil
}

// copy makes a copy of the workshop, which belongs to the machine's users.
func (r *restorer) copy() (int, error) {
	if len(r.o.Users) == 0 {
		if err := sys.Unshare(r.l, unix.CLONE_NEWNS); err != nil {
			return -1, err
		}
		n, err := r.here()
		if err == nil {
			err = r.enter(r.workshop)
		}
		return n, err
	}
	// No thread among others can join a user namespace; a process of one can.
	ready, told, err := sys.Pipe()
	if err != nil {
		return -1, err
	}
	defer sys.Close(ready)
	wait, go_, err := sys.Pipe()
	if err != nil {
		sys.Close(told)
		return -1, err
	}
	var one byte
	p := child.New(6)
	p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(go_))
	p.Add("join the user namespace", unix.SYS_SETNS, uintptr(r.o.UserNS), unix.CLONE_NEWUSER)
	p.Add("unshare the mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	p.Add("tell that", unix.SYS_WRITE, uintptr(told), p.Bytes([]byte("r")), 1)
	p.Add("wait", unix.SYS_READ, uintptr(wait), child.Keep(p, &one), 1)
	p.Add("end", unix.SYS_EXIT_GROUP, 0)
	c, err := child.Start(r.l, p, child.Options{})
	sys.Close(told)
	sys.Close(wait)
	if err != nil {
		sys.Close(go_)
		return -1, err
	}
	n := -1
	if m, rerr := sys.Read(ready, make([]byte, 1)); rerr == nil && m == 1 {
		n, err = sys.Openat(r.proc, strconv.Itoa(c.PID)+"/ns/mnt", unix.O_RDONLY, 0)
	}
	sys.Close(go_)
	if _, _, werr := sys.Wait(c.Pidfd); err == nil {
		err = werr
	}
	sys.Close(c.Pidfd)
	if f := c.Failure(); f != nil {
		err = f
	}
	return n, err
}

// dir makes a directory in the workshop, and gives it.
func (r *restorer) dir() (int, string, error) {
	r.dirs++
	name := "/" + strconv.Itoa(r.dirs)
	if err := sys.Mkdirat(unix.AT_FDCWD, name, 0o700); err != nil {
		return -1, "", err
	}
	n, err := sys.Openat(unix.AT_FDCWD, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	return n, name, err
}

// put attaches a detached mount in the workshop: the kernel copies only what is
// attached.
func (r *restorer) put(n int) (name string, err error) {
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		return "", err
	}
	var at int
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		at, name, err = r.dir()
	} else {
		r.dirs++
		name = "/" + strconv.Itoa(r.dirs)
		if err = sys.Mknodat(unix.AT_FDCWD, name, unix.S_IFREG|0o600, 0); err == nil {
			at, err = sys.Openat(unix.AT_FDCWD, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		}
	}
	if err != nil {
		return "", err
	}
	defer sys.Close(at)
	return name, sys.MoveMount(n, at)
}

// make puts all of each source into the workshop. So nothing that is to be
// mounted ever has to wait for something else to be mounted.
func (r *restorer) make() error {
	// Made here, where the caller's users own the namespace: in one of others,
	// the kernel gives no procfs that shows more than they see already.
	for _, s := range r.list() {
		if s.External {
			continue
		}
		if err := r.begin(s); err != nil {
			return fmt.Errorf("make the %s %s: %w", s.Type, s.ID, err)
		}
	}
	names := map[*int]string{}
	for id, x := range r.outside {
		name, err := r.put(x.copy)
		if err != nil {
			return fmt.Errorf("external %s: %w", id, err)
		}
		names[&x.copy] = name
	}
	for _, s := range r.list() {
		if !s.External {
			continue
		}
		copies := []*int{&s.top, &s.wide}
		for _, c := range s.times {
			copies = append(copies, c)
		}
		for _, n := range copies {
			if *n < 0 {
				continue
			}
			name, err := r.put(*n)
			if err != nil {
				return fmt.Errorf("external %s: %w", s.ID, err)
			}
			names[n] = name
		}
	}
	if len(r.o.Users) > 0 {
		// In a copy for other users, the kernel locks the flags of what is there:
		// what the policy gives read-only, they can't make writable.
		ns, err := r.keep(r.copy())
		if err != nil {
			return fmt.Errorf("make the users' workshop: %w", err)
		}
		r.workshop = ns
		if err := r.enter(ns); err != nil {
			return err
		}
		for n, name := range names {
			if *n, err = r.keep(sys.Openat(unix.AT_FDCWD, name, unix.O_PATH|unix.O_NOFOLLOW, 0)); err != nil {
				return err
			}
		}
	}
	for _, s := range r.list() {
		if s.External && s.Made != "" {
			if err := r.layer(s); err != nil {
				return fmt.Errorf("external %s: lay a layer over it: %w", s.ID, err)
			}
		}
		if s.External {
			continue
		}
		if _, err := r.put(s.top); err != nil {
			return fmt.Errorf("attach the %s %s: %w", s.Type, s.ID, err)
		}
		if r.o.Fill != nil {
			n, err := sys.Openat(s.top, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
			if err == nil {
				err = r.o.Fill(s.ID, n)
				sys.Close(n)
			}
			if err != nil {
				return fmt.Errorf("fill the %s %s: %w", s.Type, s.ID, err)
			}
		}
	}
	return nil
}

// layer lays a new layer over what comes from outside, which becomes the source.
// What was made as stubs is a layer, too, with the mount points in it: on a mount
// that is read-only, nothing is ever written to it.
func (r *restorer) layer(s *source) error {
	if err := sys.MountSetattr(s.top, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	st, err := sys.Statx(s.top, "", unix.STATX_TYPE|unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return errors.New("it is no directory")
	}
	tmp, err := r.keep(newFS(&tree.Source{Type: "tmpfs", Device: mount.LayerSource, Options: []string{"mode=755"}}))
	if err != nil {
		return err
	}
	if _, err := r.put(tmp); err != nil {
		return err
	}
	var dirs [2]int
	for i, name := range []string{"upper", "work"} {
		if err := sys.Mkdirat(tmp, name, 0o755); err != nil {
			return err
		}
		if dirs[i], err = r.keep(sys.Openat(tmp, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)); err != nil {
			return err
		}
	}
	// The layer's root is what is seen of it.
	if err := sys.Fchownat(tmp, "upper", st.Uid, st.Gid); err != nil {
		return err
	}
	if err := sys.Fchmodat(tmp, "upper", uint32(st.Mode)&0o7777); err != nil {
		return err
	}
	device := mount.LayerSource
	if s.Made == tree.Stubs {
		device = mount.StubsSource
	}
	// Older kernels take names only, and there is no /proc here.
	if err := sys.Fchdir(r.l, r.proc); err != nil {
		return err
	}
	top, err := r.keep(attach.Overlay(".", device, []int{s.top}, dirs[0], dirs[1], 0, nil))
	if err := sys.Chdir(r.l, "/"); err != nil {
		return err
	}
	if err != nil {
		return err
	}
	s.top, s.wide, s.times = top, -1, nil
	_, err = r.put(top)
	return err
}

// list gives the sources in the order of the file.
func (r *restorer) list() (list []*source) {
	for i := range r.f.Sources {
		list = append(list, r.sources[r.f.Sources[i].ID])
	}
	return list
}

// begin makes the file system of a new source, which can be written to until all
// is in it.
func (r *restorer) begin(s *source) (err error) {
	fs := *s.Source
	if fs.ReadOnly = false; len(r.o.Users) > 0 {
		fs.Options = r.owners(&fs)
	}
	s.top, err = r.keep(newFS(&fs))
	return err
}

// owners gives a file system's options with the host's numbers of the
// machine's users. Its root belongs to one of them.
func (r *restorer) owners(s *tree.Source) (list []string) {
	has := map[string]bool{}
	for _, o := range s.Options {
		key, value, _ := strings.Cut(o, "=")
		if key == "uid" || key == "gid" {
			n, _ := strconv.ParseUint(value, 10, 32)
			id, _ := r.o.Users.Host(uint32(n))
			o, has[key] = key+"="+strconv.FormatUint(uint64(id), 10), true
		}
		list = append(list, o)
	}
	root, _ := r.o.Users.Host(0)
	for _, key := range []string{"uid", "gid"} {
		if s.Type == "tmpfs" && !has[key] {
			list = append(list, key+"="+strconv.FormatUint(uint64(root), 10))
		}
	}
	return list
}

// below is how a path is looked up in a source: it leads to where it says, or
// nowhere.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

// open opens a path below a mount's root, which may be a file.
func open(top int, p string) (int, error) {
	if p == "/" {
		return sys.Dup(top)
	}
	return sys.Openat2(top, p[1:], unix.O_PATH|unix.O_NOFOLLOW, 0, below)
}

// fresh reports whether things can be made in a source: it is new, and in
// memory.
func (s *source) fresh() bool {
	return s.Made != "" || !s.External && (s.Type == "tmpfs" || s.Type == "ramfs")
}

// find opens a path of a source. In a new one, what is missing is made, of the
// kind that is wanted.
func (r *restorer) find(s *source, p string, kind tree.Kind) (int, error) {
	n, err := open(s.top, p)
	if err != unix.ENOENT || !s.fresh() {
		return n, err
	}
	dir := path.Dir(p)
	at, err := r.find(s, dir, tree.Dir)
	if err != nil {
		return -1, err
	}
	defer sys.Close(at)
	if kind == tree.Node {
		err = sys.Mknodat(at, path.Base(p), unix.S_IFREG|0o644, 0)
	} else {
		err = sys.Mkdirat(at, path.Base(p), 0o755)
	}
	// Nobody else sees it yet.
	if root, ok := r.o.Users.Host(0); ok && err == nil {
		err = sys.Fchownat(at, path.Base(p), root, root)
	}
	if err != nil {
		return -1, fmt.Errorf("make %s: %w", strconv.Quote(p), err)
	}
	return open(s.top, p)
}

// clone makes each mount, detached and with its flags, and the mount points in
// new file systems.
//
// Here: the workshop, with all sources in it.
func (r *restorer) clone() error {
	for _, n := range r.f.Namespaces {
		byID := map[int]*tree.Mount{}
		for i := range n.Mounts {
			m := &n.Mounts[i]
			byID[m.ID] = m
			c, kind, err := r.one(m)
			if err != nil {
				return fmt.Errorf("mount %d, %s of %s: %w", m.ID, strconv.Quote(m.Root), m.Source, err)
			}
			r.clones[m.ID] = c
			if m.Parent == 0 || m.Point == "/" {
				continue
			}
			on := byID[m.Parent]
			p, err := r.find(r.sources[on.Source], path.Join(on.Root, m.Point), kind)
			if err != nil {
				return fmt.Errorf("mount %d: its place %s in %s: %w", m.ID, strconv.Quote(path.Join(on.Root, m.Point)), on.Source, err)
			}
			sys.Close(p)
		}
	}
	return nil
}

func (r *restorer) one(m *tree.Mount) (int, tree.Kind, error) {
	s := r.sources[m.Source]
	var at int
	var err error
	if top, ok := s.times[m.Attr()&timeFlags]; ok && s.External && *top > 0 {
		at, err = open(*top, m.Root)
	} else {
		at, err = r.find(s, m.Root, m.Kind)
	}
	if err != nil {
		return -1, "", err
	}
	defer sys.Close(at)
	st, err := sys.Statx(at, "", unix.STATX_TYPE)
	if err != nil {
		return -1, "", err
	}
	kind := tree.Node
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		kind = tree.Dir
	case unix.S_IFLNK:
		return -1, "", errors.New("it is a link")
	}
	if m.Kind != "" && m.Kind != kind {
		return -1, "", fmt.Errorf("it is a %s, and was a %s", kind, m.Kind)
	}
	c, err := r.keep(sys.OpenTree(at, "", cloneHere))
	if err != nil {
		return -1, "", err
	}
	attr := unix.MountAttr{Attr_set: m.Attr(), Propagation: unix.MS_PRIVATE}
	attr.Attr_clr = timeFlags
	if m.Users {
		attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
		attr.Userns_fd = uint64(r.o.UserNS)
	}
	return c, kind, sys.MountSetattr(c, 0, &attr)
}

// groups makes a member of each sharing group in the workshop: a copy of the
// whole source, so that no member is wider. It has no mounts on it, which could
// be in the way.
func (r *restorer) groups() error {
	first := map[int]*source{}
	masters := map[int]int{}
	for _, g := range r.f.Groups {
		masters[g.ID] = g.Master
	}
	for _, n := range r.f.Namespaces {
		for _, m := range n.Mounts {
			for g := max(m.Group, m.Slave); g != 0 && first[g] == nil; g = masters[g] {
				first[g] = r.sources[m.Source]
			}
		}
	}
	for _, g := range r.f.Order() {
		if err := r.anchor(g, first[g.ID]); err != nil {
			return fmt.Errorf("sharing group %d: %w", g.ID, err)
		}
	}
	return nil
}

func (r *restorer) anchor(g tree.Group, s *source) error {
	// No member may be wider than the mount that its group is copied from.
	from := s.top
	switch {
	case g.Outside != "":
		from = r.outside[g.Outside].copy
	case g.Master != 0:
		from = r.anchors[g.Master]
	case s.wide >= 0:
		from = s.wide
	}
	a, err := r.detach(from)
	if err != nil {
		return err
	}
	if _, err := r.put(a); err != nil {
		return err
	}
	r.anchors[g.ID] = a
	switch {
	case g.Outside != "":
		// This one is not listened to, if only masters are asked for: what
		// follows of it are slaves.
		if err := sys.SetGroup(r.outside[g.Outside].member, a); err != nil {
			return fmt.Errorf("join the group of %s: %w", strconv.Quote(r.o.Policy.External[g.Outside].Path), err)
		}
		return nil
	case g.Master != 0:
		if err := sys.SetGroup(r.anchors[g.Master], a); err != nil {
			return fmt.Errorf("copy the master: %w", err)
		}
		if err := propagate(a, unix.MS_SLAVE); err != nil {
			return err
		}
	}
	return propagate(a, unix.MS_SHARED)
}

func propagate(n int, how uint64) error {
	return sys.MountSetattr(n, 0, &unix.MountAttr{Propagation: how})
}

// attach puts the mounts in their places, parents before children.
//
// Here: each of the new namespaces in turn. All is private, so nothing arrives
// anywhere else.
func (r *restorer) attach() error {
	for i := range r.f.Namespaces {
		if err := r.enter(r.spaces[i].NS); err != nil {
			return err
		}
		mounts := r.f.Namespaces[i].Places()
		root, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		err = sys.MoveMount(r.clones[mounts[0].ID], root)
		sys.Close(root)
		if err == nil {
			err = pivot(r.l, r.clones[mounts[0].ID])
		}
		if err != nil {
			return fmt.Errorf("take mount %d as the root: %w", mounts[0].ID, err)
		}
		if r.spaces[i].Root, err = sys.Dup(r.clones[mounts[0].ID]); err != nil {
			return err
		}
		for _, m := range mounts[1:] {
			at, err := open(r.clones[m.Parent], m.Point)
			if err == nil {
				if err = sys.MoveMount(r.clones[m.ID], at); r.o.Reach == nil {
					sys.Close(at)
				} else {
					r.all, r.before[m.ID] = append(r.all, at), at
				}
			}
			if err != nil {
				return fmt.Errorf("mount %d on %s of mount %d: %w", m.ID, strconv.Quote(m.Point), m.Parent, err)
			}
		}
	}
	return nil
}

// share gives the mounts their groups, and then forbids to bind what is
// unbindable.
func (r *restorer) share() error {
	for i := range r.f.Namespaces {
		if err := r.enter(r.spaces[i].NS); err != nil {
			return err
		}
		for j := range r.f.Namespaces[i].Mounts {
			m := &r.f.Namespaces[i].Mounts[j]
			var err error
			n := r.clones[m.ID]
			switch {
			case m.Group != 0:
				err = sys.SetGroup(r.anchors[m.Group], n)
			case m.Slave != 0:
				if err = sys.SetGroup(r.anchors[m.Slave], n); err == nil {
					err = propagate(n, unix.MS_SLAVE)
				}
			case m.Unbindable:
				err = propagate(n, unix.MS_UNBINDABLE)
			}
			if err != nil {
				return fmt.Errorf("mount %d: join its sharing group: %w", m.ID, err)
			}
			if r.o.Reach != nil {
				before, ok := r.before[m.ID]
				if !ok {
					before = -1
				}
				if err := r.o.Reach(m, before, n); err != nil {
					return fmt.Errorf("mount %d: %w", m.ID, err)
				}
			}
		}
	}
	return nil
}

// seal removes what is to be mounted although it was removed, and makes file
// systems read-only that are to be: until here, things were made in them.
func (r *restorer) seal() error {
	done := map[string]bool{}
	for _, n := range r.f.Namespaces {
		for _, m := range n.Mounts {
			key := m.Source + m.Root
			if !m.Deleted || done[key] {
				continue
			}
			done[key] = true
			at, err := open(r.sources[m.Source].top, path.Dir(m.Root))
			if err == nil {
				if err = sys.Unlinkat(at, path.Base(m.Root), 0); err == unix.EISDIR {
					err = sys.Unlinkat(at, path.Base(m.Root), unix.AT_REMOVEDIR)
				}
				sys.Close(at)
			}
			if err != nil {
				return fmt.Errorf("mount %d: remove its source %s: %w", m.ID, strconv.Quote(m.Root), err)
			}
		}
	}
	for _, s := range r.list() {
		if !s.ReadOnly {
			continue
		}
		fs, err := sys.Fspick(s.top)
		if err == nil {
			if err = sys.FsFlag(fs, "ro"); err == nil {
				err = sys.FsReconfigure(fs)
			}
			sys.Close(fs)
		}
		if err != nil {
			return fmt.Errorf("make the %s %s read-only: %w", s.Type, s.ID, err)
		}
	}
	return nil
}
