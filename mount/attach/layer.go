package attach

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/mount"
	table "launch/mount/tree"
)

// This file lays overlays over what is attached: layers that are thrown away,
// and stubs, which are mount points that something read-only lacks. Both lie
// where they are seen, on a tmpfs that lies there, too, below the overlay: the
// kernel takes only directories of attached mounts.

// layer performs a step Layer: what is written on its target is thrown away.
func (t *Tree) layer(s plan.Step) error {
	if s.Target == "/" {
		if s.AllAttr == 0 {
			// A machine that is all volatile has the mount that systemd-nspawn
			// gives it.
			return t.overRoot(s, "overlay", 0)
		}
		if err := setattr(t.root, s.AllAttr, true); err != nil {
			return err
		}
		lay := func() (int, error) {
			err := t.overRoot(s, mount.LayerSource, s.Attr)
			return t.root, err
		}
		return t.withParts(t.root, lay, func(to, from int) error {
			return t.overPart(to, from, s.Options)
		})
	}
	to, err := t.point(s, unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer sys.Close(to)
	lower, err := t.uncovered(to, s.Target)
	if err != nil {
		return err
	}
	if lower >= 0 {
		defer sys.Close(lower)
		n, err := t.over(to, []int{lower}, s.Options, s.Attr, s.Like)
		if err == nil {
			sys.Close(n)
		}
		return err
	}
	// Nothing is there that could be hidden.
	if s.Like {
		if s, err = t.like(s); err != nil {
			return err
		}
	}
	n, err := t.fs("tmpfs", mount.LayerSource, s.Options, s.Attr)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return sys.MoveMount(n, to)
}

// uncovered gives the directory, for reading, that holds what is seen at the
// target, without what was laid over the root: overlays can be stacked twice
// only, and the tree may be one. It gives -1 if there is nothing in it.
func (t *Tree) uncovered(to int, target string) (n int, err error) {
	under, err := sameMount(to, t.root)
	if err != nil {
		return -1, err
	}
	if under && t.below >= 0 {
		n, err = sys.Openat2(t.below, target, unix.O_RDONLY|unix.O_DIRECTORY, 0, sys.InRoot)
	} else {
		n, err = sys.Openat(to, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	}
	if err == unix.ENOENT {
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", target, err)
	}
	names, err := sys.Names(n)
	if err != nil || len(names) == 0 {
		sys.Close(n)
		n = -1
	}
	return n, err
}

func sameMount(a, b int) (bool, error) {
	x, err := sys.Statx(a, "", unix.STATX_MNT_ID)
	if err != nil {
		return false, err
	}
	y, err := sys.Statx(b, "", unix.STATX_MNT_ID)
	return x.Mnt_id == y.Mnt_id, err
}

// over attaches an overlay of the directories, lowest first, with a fresh upper
// one to the directory to, and gives it. Like: the upper one has the mode and the
// owner of the topmost of them, else those of the options.
func (t *Tree) over(to int, lower []int, options []plan.Option, attr uint64, like bool) (int, error) {
	n, err := t.fresh(mount.LayerSource, to, lower, options, attr, like)
	if err == nil {
		if err = sys.MoveMount(n, to); err != nil {
			sys.Close(n)
		}
	}
	return n, err
}

// fresh is over without attaching the overlay, which has the source; what it
// writes to is attached.
func (t *Tree) fresh(source string, to int, lower []int, options []plan.Option, attr uint64, like bool) (int, error) {
	tmp, err := t.fs("tmpfs", source, options, attr&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return -1, err
	}
	defer sys.Close(tmp)
	if err := t.fill(tmp, []plan.Entry{{Path: "upper", Mode: dir755}, {Path: "work", Mode: dir755}}); err != nil {
		return -1, err
	}
	as := tmp
	if like {
		as = lower[len(lower)-1]
	}
	if err := dress(tmp, "upper", as); err != nil {
		return -1, fmt.Errorf("make the upper directory: %w", err)
	}
	if err := sys.MoveMount(tmp, to); err != nil {
		return -1, err
	}
	var fds [2]int
	for i, name := range []string{"upper", "work"} {
		if fds[i], err = sys.Openat(tmp, name, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
			return -1, err
		}
		defer sys.Close(fds[i])
	}
	return Overlay("/proc", source, lower, fds[0], fds[1], attr, nil)
}

// dress gives something the mode and the owner of another file or directory.
func dress(dir int, name string, as int) error {
	st, err := sys.Statx(as, "", unix.STATX_MODE|unix.STATX_UID|unix.STATX_GID)
	if err != nil {
		return err
	}
	if err := sys.Fchownat(dir, name, st.Uid, st.Gid); err != nil {
		return err
	}
	return sys.Fchmodat(dir, name, uint32(st.Mode)&0o7777)
}

const dir755 = unix.S_IFDIR | 0o755

// overRoot lays a layer over the root, which becomes the root.
func (t *Tree) overRoot(s plan.Step, source string, attr uint64) error {
	var err error
	if t.below, err = sys.Dup(t.root); err != nil {
		return err
	}
	if t.loose, err = t.fresh(source, t.at, []int{t.root}, s.Options, attr, s.Like); err != nil {
		return err
	}
	return t.seat()
}

// bindUnder attaches a mount that is to be bound, read-only, and a layer over it,
// unless it was read-only before.
func (t *Tree) bindUnder(n int, s plan.Step, kind uint32) error {
	flags, holds, err := layerable(n, kind)
	if err != nil {
		return err
	}
	if err := setattr(n, unix.MOUNT_ATTR_RDONLY, true); err != nil {
		return err
	}
	holds = holds && flags&unix.MOUNT_ATTR_RDONLY == 0
	if kind == unix.S_IFREG && holds {
		to, err := t.point(s, kind)
		if err != nil {
			return err
		}
		defer sys.Close(to)
		return t.overFile(to, n, s.Over, flags)
	}
	if err := t.place(n, s, kind); err != nil || kind != unix.S_IFDIR || !holds {
		return err
	}
	return t.withParts(n, func() (int, error) { return t.over(n, []int{n}, s.Over, flags, true) }, func(to, from int) error {
		return t.overPart(to, from, s.Over)
	})
}

// overPart lays a layer over something that is mounted in what has one, and is
// read-only by now.
func (t *Tree) overPart(to, from int, options []plan.Option) error {
	st, err := sys.Statx(from, "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	kind := uint32(st.Mode) & unix.S_IFMT
	flags, holds, err := layerable(from, kind)
	flags &^= unix.MOUNT_ATTR_RDONLY
	switch {
	case err != nil:
		return err
	case !holds:
		return cover(to, from, 0, 0)
	case kind == unix.S_IFREG:
		return t.overFile(to, from, options, flags)
	}
	n, err := t.over(to, []int{from}, options, flags, true)
	if err == nil {
		sys.Close(n)
	}
	return err
}

// layerable reports whether a layer can hold what is written to a mount of this
// kind, whose flags it gives: to directories and files, but for those that the
// kernel makes up. Nothing else is more than read-only.
func layerable(n int, kind uint32) (flags uint64, holds bool, err error) {
	st, err := sys.Fstatfs(n)
	return flagsOf(&st), (kind == unix.S_IFDIR || kind == unix.S_IFREG) && !tree.Pseudo(st.Type), err
}

// overFile attaches a copy of a file to a file. No overlay can be laid over a
// single file, and over the directory that it lies in only if it isn't mounted
// there itself.
func (t *Tree) overFile(to, from int, options []plan.Option, attr uint64) error {
	tmp, err := t.fs("tmpfs", mount.LayerSource, options, attr)
	if err != nil {
		return err
	}
	defer sys.Close(tmp)
	const name = "file"
	if err := copyFile(tmp, name, from); err != nil {
		return fmt.Errorf("copy what is to be written to: %w", err)
	}
	// Only of what is attached a part can be cloned.
	if err := sys.MoveMount(tmp, t.at); err != nil {
		return err
	}
	file, err := sys.Openat(tmp, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == nil {
		err = cover(to, file, 0, 0)
		sys.Close(file)
	}
	return errors.Join(err, sys.Fchdir(t.l, tmp), sys.Umount(".", unix.MNT_DETACH), sys.Fchdir(t.l, t.host))
}

// copyFile copies a file with its mode, its owner and its times.
func copyFile(dir int, name string, from int) error {
	r, err := sys.Openat(unix.AT_FDCWD, sys.FdPath(from), unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(r)
	w, err := sys.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer sys.Close(w)
	for buf := make([]byte, 1<<20); ; {
		n, err := sys.Read(r, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if err := sys.WriteString(w, string(buf[:n])); err != nil {
			return err
		}
	}
	if err := dress(dir, name, from); err != nil {
		return err
	}
	st, err := sys.Statx(from, "", unix.STATX_ATIME|unix.STATX_MTIME)
	if err != nil {
		return err
	}
	return sys.Utimensat(dir, name, st.Atime, st.Mtime)
}

// stubs performs a step Stubs: if the target is read-only, what it lacks of the
// content is seen in it, and nothing of it is changed.
func (t *Tree) stubs(s plan.Step) error {
	top := t.root
	if s.Target != "/" {
		n, err := t.resolve(s.Target)
		if err == unix.ENOENT && s.Lenient {
			return nil
		}
		if err != nil {
			return fmt.Errorf("open %s: %w", s.Target, err)
		}
		defer sys.Close(n)
		st, err := sys.Statx(n, "", unix.STATX_TYPE)
		if err != nil || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return err // the mount was left out
		}
		top = n
	}
	st, err := sys.Fstatfs(top)
	flags := flagsOf(&st)
	if err != nil || flags&unix.MOUNT_ATTR_RDONLY == 0 {
		return err
	}
	var missing []plan.Entry
	for _, e := range s.Content {
		at, err := t.lacks(top, path.Join(s.Target, e.Path))
		if err != nil {
			return err
		}
		if at == "" {
			continue
		}
		if e.Mode == 0 {
			switch e.Mode, err = t.kindOf(e.Kind); err {
			case nil:
			case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
				continue // what binds it says so
			default:
				return fmt.Errorf("look at %s: %w", e.Kind.Path, err)
			}
		}
		for i := range at {
			if at[i] == '/' {
				missing = append(missing, plan.Entry{Path: at[:i], Mode: dir755})
			}
		}
		e.Path, e.Kind = at, mount.Path{}
		if !slices.ContainsFunc(missing, func(have plan.Entry) bool { return have.Path == e.Path }) {
			missing = append(missing, e)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	tmp, err := t.fs("tmpfs", mount.StubsSource, []plan.Option{{Key: "mode", Value: "0755"}}, flags&^unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return err
	}
	defer sys.Close(tmp)
	if err := t.fill(tmp, missing); err != nil {
		return err
	}
	if err := setattr(tmp, unix.MOUNT_ATTR_RDONLY, false); err != nil {
		return err
	}
	to := top
	if s.Target == "/" {
		to = t.at
	}
	lay := func() (int, error) {
		if err := sys.MoveMount(tmp, to); err != nil {
			return -1, err
		}
		// What the target has comes before what is made for it.
		n, err := Overlay("/proc", mount.StubsSource, []int{tmp, top}, -1, -1, flags, nil)
		if err != nil {
			return -1, err
		}
		if s.Target != "/" {
			return n, sys.MoveMount(n, to)
		}
		if t.below, err = sys.Dup(top); err != nil {
			return n, err
		}
		t.loose = n
		return n, t.seat()
	}
	return t.withParts(top, lay, func(to, from int) error { return cover(to, from, 0, 0) })
}

// kindOf gives what kind of mount point a source needs.
func (t *Tree) kindOf(p mount.Path) (mode uint32, err error) {
	var n int
	if p.InRoot {
		n, err = t.resolve(p.Path)
	} else {
		n, err = sys.Openat(unix.AT_FDCWD, p.Path, unix.O_PATH, 0)
	}
	if err != nil {
		return 0, err
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return dir755, err
	}
	return unix.S_IFREG | 0o644, err
}

// lacks gives the name, below the mount that top is, of what is missing there
// of a target, or "" if it is there or would have to be made elsewhere.
func (t *Tree) lacks(top int, target string) (name string, err error) {
	err = t.walk(target, func(parent int, rest []string) error {
		in, err := sameMount(parent, top)
		if err != nil {
			return err
		}
		if !in {
			return errStop
		}
		at, err := t.inside(parent, target)
		if err != nil {
			return err
		}
		base, err := t.inside(top, target)
		if err != nil {
			return err
		}
		name = path.Join(strings.TrimPrefix(at, base), path.Join(rest...))
		name = strings.TrimPrefix(name, "/")
		return errStop
	})
	return name, err
}

// part is a mount below another one.
type part struct {
	name string // from there
	n    int
}

// withParts covers what is mounted at top, by lay, which gives what is seen
// there then; and, by again, brings back what was mounted in it.
func (t *Tree) withParts(top int, lay func() (int, error), again func(to, from int) error) error {
	parts, err := t.mounted(top)
	defer func() {
		for _, p := range parts {
			sys.Close(p.n)
		}
	}()
	if err != nil {
		return fmt.Errorf("look at what is mounted there: %w", err)
	}
	n, err := lay()
	if n >= 0 && n != t.root {
		defer sys.Close(n)
	}
	if err != nil {
		return err
	}
	for _, p := range parts {
		to, err := sys.Openat2(n, p.name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		if err == nil {
			err = again(to, p.n)
			sys.Close(to)
		}
		if err != nil {
			return fmt.Errorf("bring back what is mounted on %s: %w", p.name, err)
		}
	}
	return nil
}

// mounted gives what is mounted in the mount that top is, parents first.
func (t *Tree) mounted(top int) (parts []part, err error) {
	st, err := sys.Statx(top, "", unix.STATX_MNT_ID)
	if err != nil {
		return nil, err
	}
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/thread-self/mountinfo", 64<<20)
	if err != nil {
		return nil, err
	}
	rows, err := table.ParseMountinfo(string(text))
	if err != nil {
		return nil, err
	}
	point := map[uint64]string{} // of those that are in it, and of itself
	for _, r := range rows {
		if r.ID == st.Mnt_id {
			point[r.ID] = r.Point
		}
	}
	base := point[st.Mnt_id]
	// The table's order is that of mounting, mostly: moved ones come late.
	for more := true; more; {
		more = false
		for _, r := range rows {
			_, in := point[r.Parent]
			if _, done := point[r.ID]; !in || done {
				continue
			}
			point[r.ID], more = r.Point, true
			name := strings.TrimPrefix(strings.TrimPrefix(r.Point, base), "/")
			if name == "" || slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
				continue // covered, or what covers it
			}
			n, err := sys.Openat2(top, name, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
			if err == unix.ENOENT || err == unix.ENOTDIR {
				continue // in a directory that something covers
			}
			if err != nil {
				return parts, fmt.Errorf("open %s: %w", name, err)
			}
			parts = append(parts, part{name, n})
		}
	}
	return parts, nil
}

// flagsOf gives the MOUNT_ATTR_ flags of a mount; read-only is also what lies on
// a file system that is.
func flagsOf(st *unix.Statfs_t) (attr uint64) {
	for _, f := range [...]struct {
		have int64
		attr uint64
	}{
		{unix.ST_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.ST_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.ST_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.ST_NOEXEC, unix.MOUNT_ATTR_NOEXEC}, {unix.ST_NOATIME, unix.MOUNT_ATTR_NOATIME}, {unix.ST_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{stNoSymfollow, unix.MOUNT_ATTR_NOSYMFOLLOW},
	} {
		if int64(st.Flags)&f.have != 0 {
			attr |= f.attr
		}
	}
	return attr
}

// stNoSymfollow is the kernel's ST_NOSYMFOLLOW.
const stNoSymfollow = 0x2000
