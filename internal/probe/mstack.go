package probe

import (
	"errors"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/internal/mstack"
	"launch/internal/plan"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/mount/attach"
	"launch/settings"
)

// Pins are the entries of a mount stack, open, by their paths.
type Pins map[string]int

// Close lets go of all.
func (p Pins) Close() {
	for _, n := range p {
		sys.Close(n)
	}
}

// Stack opens the directory of a mount stack and each of its entries, and reads
// what they mean. A link is followed if it leads to something beside the
// directory, and no further; mstack.Read says which entries may be links. To write
// means that disk images may be written to.
func Stack(dir string, write bool, policy disk.Policy) (n int, st facts.Stack, pins Pins, err error) {
	n, err = OpenRoot(dir)
	if err != nil {
		return -1, st, nil, err
	}
	pins = Pins{}
	defer func() {
		if err != nil {
			pins.Close()
			sys.Close(n)
			n, pins = -1, nil
		}
	}()
	real, err := RealPath(n)
	if err == nil && real == "" {
		err = unix.ENOENT
	}
	if err != nil {
		return n, st, pins, fmt.Errorf("look at the path of %s: %w", dir, err)
	}
	up, err := sys.Openat2(unix.AT_FDCWD, path.Dir(real), unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return n, st, pins, fmt.Errorf("open the directory of %s: %w", dir, err)
	}
	defer sys.Close(up)
	nodes, found, err := stackNodes(n, up, path.Base(real))
	defer found.Close()
	if err != nil {
		return n, st, pins, err
	}
	if st.Entries, err = mstack.Read(nodes); err != nil {
		return n, st, pins, err
	}
	for i := range st.Entries {
		e := &st.Entries[i]
		at := found[e.Name]
		if e.Raw {
			e.Path, err = RealFile(at)
		} else {
			e.Path, err = RealPath(at)
		}
		if err == nil && e.Path == "" {
			err = unix.ENOENT
		}
		if err != nil {
			return n, st, pins, fmt.Errorf("look at the path of %s: %w", e.Name, err)
		}
		if _, twice := pins[e.Path]; twice {
			return n, st, pins, &mstack.Error{What: fmt.Sprintf("%s is what another entry is, too", e.Name), Hint: "leave one of them"}
		}
		if e.Raw {
			var d facts.Disk
			file, d, err := Disk(e.Path, write && e.Writes(), policy)
			if err == nil {
				pins[e.Path] = file
				err = same(file, at)
			}
			if err == nil && d.Volumes[0].Use != disk.Root {
				err = &mstack.Error{What: fmt.Sprintf("the disk image %s has no partition for a root", e.Name), Hint: "give one that is a file system, or has one marked as a root"}
			}
			if err != nil {
				return n, st, pins, err
			}
			e.Volume, e.Sector = d.Volumes[0], d.Sector
			continue
		}
		if pins[e.Path], err = sys.Dup(at); err != nil {
			return n, st, pins, err
		}
		if e.Use == mstack.Writable {
			if e.Data, err = dataIn(at, e.Name); err != nil {
				return n, st, pins, err
			}
		}
	}
	st.Known = true
	return n, st, pins, nil
}

func same(a, b int) error {
	ok, err := sys.Same(a, b)
	if err == nil && !ok {
		err = fmt.Errorf("it was replaced while it was looked at")
	}
	return err
}

// stackNodes opens all names of the directory n, which is called base in up.
func stackNodes(n, up int, base string) (list []mstack.Node, found Pins, err error) {
	found = Pins{}
	dir, err := sys.Openat(n, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, found, err
	}
	defer sys.Close(dir)
	names, err := sys.NamesUpTo(dir, 2*mstack.Most)
	if err == unix.E2BIG {
		err = &mstack.Error{What: fmt.Sprintf("it has more than %d names", 2*mstack.Most), Hint: "make layers of fewer parts"}
	}
	if err != nil {
		return nil, found, fmt.Errorf("list the mount stack: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, ".") {
			continue
		}
		link := false
		at, err := sys.Openat2(n, name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH)
		if err != nil {
			return nil, found, fmt.Errorf("open %s: %w", name, err)
		}
		st, err := sys.Statx(at, "", unix.STATX_TYPE)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			link = true
			sys.Close(at)
			at, err = sys.Openat2(up, base+"/"+name, unix.O_PATH, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
			switch {
			case err == unix.EXDEV:
				return nil, found, &mstack.Error{What: fmt.Sprintf("%s is a link that leads out of the directory that the stack lies in", name), Hint: "link to something there, by a relative path"}
			case err == unix.ENOENT, err == unix.ENOTDIR, err == unix.ELOOP:
				return nil, found, &mstack.Error{What: fmt.Sprintf("the link %s leads nowhere", name), Hint: "remove it, or make what it leads to"}
			case err != nil:
				return nil, found, fmt.Errorf("follow the link %s: %w", name, err)
			}
			st, err = sys.Statx(at, "", unix.STATX_TYPE)
		}
		if err != nil {
			sys.Close(at)
			return nil, found, fmt.Errorf("look at %s: %w", name, err)
		}
		mode, versions := uint32(st.Mode)&unix.S_IFMT, false
		if versions = mode == unix.S_IFDIR && strings.HasSuffix(name, ".v"); versions {
			at, mode, err = newest(at, name)
			if err != nil {
				return nil, found, err
			}
		}
		found[name] = at
		list = append(list, mstack.Node{Name: name, Mode: mode, Link: link, Versions: versions})
	}
	return list, found, nil
}

// newest opens the newest version in a directory of versions, NAME.v or NAME.raw.v,
// and closes that. A version is no link.
func newest(dir int, name string) (at int, mode uint32, err error) {
	defer sys.Close(dir)
	where, err := RealPath(dir)
	if err == nil && where == "" {
		err = unix.ENOENT
	}
	if err != nil {
		return -1, 0, fmt.Errorf("look at the path of %s: %w", name, err)
	}
	wrong := func(why string) error {
		return &mstack.Error{What: fmt.Sprintf("no version in %s can be used: %s", name, why), Hint: "see systemd.v(7) for the names, or put the version itself there, under the name without .v"}
	}
	v, ok := settings.VersionsOf(path.Join(path.Dir(where), name), strings.HasSuffix(name, ".raw.v"))
	if !ok {
		return -1, 0, wrong("it has no name")
	}
	v.Dir = where
	l, err := list(v, mostNames, mostVersions)
	if err != nil {
		return -1, 0, fmt.Errorf("list %s: %w", name, err)
	}
	picked, err := v.Pick(l.Names, runtime.GOARCH)
	if err != nil {
		return -1, 0, wrong(err.Error())
	}
	if picked.Path == "" {
		return -1, 0, wrong(picked.Why)
	}
	at, err = sys.Openat2(dir, path.Base(picked.Path), unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH)
	if err != nil {
		return -1, 0, fmt.Errorf("open %s: %w", picked.Path, err)
	}
	st, err := sys.Statx(at, "", unix.STATX_TYPE)
	if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		err = wrong(path.Base(picked.Path) + " is a link")
	}
	if err != nil {
		sys.Close(at)
		return -1, 0, err
	}
	return at, uint32(st.Mode) & unix.S_IFMT, nil
}

// dataIn tells whether the directory for what is written has its parts already.
// Either may be missing, but none may be something else than a directory.
func dataIn(n int, name string) (there bool, err error) {
	for _, part := range [...]string{mstack.Work, mstack.Data} {
		at, err := sys.Openat2(n, part, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH)
		if err == unix.ENOENT {
			there = false
			continue
		}
		if err != nil {
			return false, fmt.Errorf("open %s/%s: %w", name, part, err)
		}
		st, err := sys.Statx(at, "", unix.STATX_TYPE)
		sys.Close(at)
		if err != nil {
			return false, fmt.Errorf("look at %s/%s: %w", name, part, err)
		}
		if there = st.Mode&unix.S_IFMT == unix.S_IFDIR; !there {
			return false, &mstack.Error{What: fmt.Sprintf("%s/%s is no directory", name, part), Hint: "remove it: what is missing there is made at the start"}
		}
	}
	return there, nil
}

// StackTree looks at the tree that the stack gives, where nobody else sees it, and
// not while somebody writes to it. More is what else is to be looked at below its
// root. Frozen is as in mstack.Arrange.
func StackTree(n int, st *facts.Stack, pins Pins, frozen bool, pivot string, more func(top int) error) (r facts.Root, err error) {
	real, err := RealPath(n)
	if err != nil {
		return r, fmt.Errorf("look at the path of the stack: %w", err)
	}
	files, err := tree.LockFiles(n, real)
	if err == nil {
		err = tree.Free(files)
	}
	if err != nil {
		return r, fmt.Errorf("lock %s: %w", real, err)
	}
	for i := range st.Entries {
		if e := &st.Entries[i]; e.Raw && e.Use == mstack.Writable {
			at, err := lookAtEntry(e, pins)
			if err == nil {
				e.Data, err = dataIn(at, e.Name)
				sys.Close(at)
			}
			if err != nil {
				return r, err
			}
		}
	}
	t := mstack.Arrange(st.Entries, frozen)
	raw := false
	for _, e := range t.Layers {
		raw = raw || e.Raw
	}
	if raw || t.Upper != nil && t.Upper.Raw {
		// Layers must be attached somewhere.
		err = apart(func(l sys.Locked) error {
			seat, err := sys.Openat2(unix.AT_FDCWD, real, unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
			if err != nil {
				return err
			}
			defer sys.Close(seat)
			leave := func(n int) error {
				err := sys.Fchdir(l, n)
				if err == nil {
					err = sys.Umount(".", unix.MNT_DETACH)
				}
				return errors.Join(err, sys.Fchdir(l, seat))
			}
			r, err = stackRoot(&t, pins, seat, leave, pivot, more)
			return err
		})
	} else {
		r, err = stackRoot(&t, pins, -1, nil, pivot, more)
	}
	r.Path, r.MountPoint = real, false
	return r, err
}

// apart runs f on a thread with mounts of its own, which nobody hears of, and
// which go with it.
func apart(f func(sys.Locked) error) error {
	return sys.Apart(func(l sys.Locked) error {
		err := sys.Unshare(l, unix.CLONE_NEWNS|unix.CLONE_FS)
		var top int
		if err == nil {
			top, err = sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
		}
		if err == nil {
			err = sys.MountSetattr(top, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE})
			sys.Close(top)
		}
		if err == nil {
			err = f(l)
		}
		return err
	})
}

// lookAtEntry mounts an entry that is a disk image, attached nowhere, to look at.
func lookAtEntry(e *mstack.Entry, pins Pins) (int, error) {
	n, err := lookAt(pins[e.Path], e.Volume, e.Sector)
	if err != nil {
		err = fmt.Errorf("mount %s: %w", e.Name, err)
	}
	return n, err
}

// stackRoot looks at what is put together. Layers that are disk images are
// attached to the directory seat meanwhile, and leave takes them away: when this
// is over, no file system of an image may be in use any more.
func stackRoot(t *mstack.Tree, pins Pins, seat int, leave func(n int) error, pivot string, more func(top int) error) (r facts.Root, err error) {
	var open, attached []int
	defer func() {
		for _, n := range slices.Backward(attached) {
			err = errors.Join(err, leave(n))
		}
		for _, n := range open {
			sys.Close(n)
		}
	}()
	keep := func(n int, err error) (int, error) {
		if err == nil {
			open = append(open, n)
		}
		return n, err
	}
	// By path again, in these mounts, and before anything covers them.
	dirs := map[string]int{}
	for name, pin := range pins {
		n, err := keep(sys.Openat2(unix.AT_FDCWD, name, unix.O_PATH, 0, unix.RESOLVE_NO_SYMLINKS))
		if err == nil {
			err = same(n, pin)
		}
		if err != nil {
			return r, fmt.Errorf("open %s: %w", name, err)
		}
		dirs[name] = n
	}
	take := func(e *mstack.Entry, attach bool) (int, error) {
		if !e.Raw {
			return dirs[e.Path], nil
		}
		n, err := keep(lookAtEntry(e, pins))
		if err == nil && attach && seat >= 0 {
			if err = sys.MoveMount(n, seat); err != nil {
				return n, fmt.Errorf("attach %s: %w", e.Name, err)
			}
			attached = append(attached, n)
		}
		return n, err
	}
	layers := func() (int, error) {
		var lower []int
		add := func(e *mstack.Entry) error {
			n, err := take(e, true)
			if err == nil && e.Use == mstack.Writable {
				n, err = keep(sys.Openat2(n, mstack.Data, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH))
			}
			lower = append(lower, n)
			return err
		}
		for i := range t.Layers {
			if err := add(&t.Layers[i]); err != nil {
				return -1, err
			}
		}
		if e := t.Upper; e != nil && e.Data {
			if err := add(e); err != nil {
				return -1, err
			}
		}
		if len(lower) == 1 {
			return lower[0], nil
		}
		n, err := keep(attach.Overlay("/proc", "overlay", lower, -1, -1, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC, []plan.Option{{Key: "userxattr"}}))
		if err != nil {
			err = fmt.Errorf("put together the layers: %w", err)
		}
		return n, err
	}
	r = facts.Root{Known: true, Usr: facts.Absent, Bin: facts.Absent, Var: facts.Absent}
	top := -1
	switch {
	case t.Root != nil:
		top, err = take(t.Root, false)
	case !t.Usr && len(t.Layers) > 0:
		top, err = layers()
	}
	if err != nil {
		return facts.Root{}, err
	}
	if top >= 0 {
		if r, err = Root(top, pivot); err == nil {
			err = more(top)
		}
		if err != nil {
			return r, err
		}
	}
	var l look
	usr := func(top int) {
		r.Usr = facts.Dir
		r.UsrBin, r.UsrSbin, r.UsrLib = l.kind(top, "bin"), l.kind(top, "sbin"), l.kind(top, "lib")
		r.Loader64 = l.loader(top, "")
		r.OSRelease = r.OSRelease || l.exists(top, "lib/os-release")
	}
	if t.Usr {
		if len(t.Layers) == 0 {
			top, err = take(t.Upper, false)
		} else {
			top, err = layers()
		}
		if err == nil {
			top, err = keep(sys.Openat2(top, "usr", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH))
		}
		if err != nil {
			if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP || err == unix.EXDEV {
				err = &mstack.Error{What: "its layers have no directory /usr", Hint: "the uppermost layer that has a /usr must have it as a directory"}
			}
			return facts.Root{}, err
		}
		usr(top)
	}
	for i := range t.Binds {
		e := &t.Binds[i]
		if e.Where != "/usr" && e.Where != "/etc" {
			continue
		}
		n, err := take(e, false)
		if err != nil {
			return facts.Root{}, err
		}
		if e.Where == "/usr" {
			usr(n)
			continue
		}
		r.OSRelease = r.OSRelease || l.exists(n, "os-release")
		if r.MachineID, err = machineID(n, "machine-id"); err != nil {
			l.fail("read /etc/machine-id of the tree", err)
		}
	}
	return r, l.err
}
