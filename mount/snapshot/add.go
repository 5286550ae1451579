package snapshot

import (
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	itree "launch/internal/tree"
	"launch/mount/tree"
	"launch/userns"
)

// adder brings saved mounts back into a tree that is there already.
type adder struct {
	restorer
	before *Before
	// tree is the namespace of the machine's tree, ours the one that the thread
	// is in. Without private users they are the same.
	tree, ours int
	root       int // of the tree, in its namespace
	rows       map[uint64]*tree.Row
	// there are mounts of the file that the tree has, by number.
	there map[int]*tree.Row
	by    map[int]*tree.Mount
	at    map[int]string // targets
	// wide are copies of what groups are made of, by source, where that is in
	// the tree.
	wide map[string]int
	// covered are mounts of the file that one covers which was made as a layer
	// or as stubs, and what lies in them: they are not seen, and not brought back.
	covered map[int]bool
	// outside are the groups that hear of mounts outside of the tree. Of those
	// of them that the tree has a member of, which new ones may join, seats have
	// the member, and copies a copy of it.
	outside map[int]bool
	seats   map[int]*tree.Mount
	copies  map[int]int
}

// Before is what Add must know from before the machine's tree is made.
type Before struct {
	proc, self int
	// outside are the host's file systems.
	outside map[uint64]bool
}

// Look gives what is to be known later. The thread must be the one that adds; the
// process still has the host's mounts.
func Look() (*Before, error) {
	b := &Before{-1, -1, nil}
	var err error
	if b.proc, err = sys.Openat(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		b.self, err = sys.Openat(b.proc, "thread-self", unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		b.Close()
		return nil, fmt.Errorf("open /proc/thread-self: %w", err)
	}
	if b.outside, _, err = caller("/proc/self"); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// Close gives back the descriptors.
func (b *Before) Close() {
	for _, n := range []int{b.proc, b.self} {
		if n >= 0 {
			sys.Close(n)
		}
	}
}

// Add makes, in the mount namespace of a machine's first process, which waits
// there, those mounts of the file's one namespace that the tree doesn't have
// yet: new file systems in memory, and parts of what it has already; and it
// gives them, and those that are there, the sharing groups of the file. What
// the tree has stays as it is otherwise, but for flags that forbid more; from
// outside comes nothing. users is the map of who the namespace belongs to. The
// thread is in the namespace that this one is a copy of, or in the same one.
//
// All is looked at before anything is made. It gives the root of the tree.
func Add(l sys.Locked, before *Before, pid int, f *tree.File, users userns.Map) (root int, err error) {
	if len(f.Namespaces) != 1 {
		return -1, fmt.Errorf("the file has %d mount namespaces, a machine begins with one", len(f.Namespaces))
	}
	a := &adder{restorer: restorer{l: l, f: f, proc: before.proc, self: before.self, o: Options{Users: users}, sources: map[string]*source{}, anchors: map[int]int{}, clones: map[int]int{}},
		before: before, root: -1, rows: map[uint64]*tree.Row{}, there: map[int]*tree.Row{}, by: map[int]*tree.Mount{}, at: f.Namespaces[0].Targets(), wide: map[string]int{}, covered: map[int]bool{}, outside: map[int]bool{}, seats: map[int]*tree.Mount{}, copies: map[int]int{}}
	for _, g := range f.Order() {
		a.outside[g.ID] = g.Outside != "" || a.outside[g.Master]
	}
	defer func() {
		for _, n := range a.all {
			sys.Close(n)
		}
	}()
	// A thread that shares its root with another process can't change its
	// namespace.
	if err := sys.Unshare(l, unix.CLONE_FS); err != nil {
		return -1, fmt.Errorf("part from the first process's root directory: %w", err)
	}
	if a.ours, err = a.keep(a.here()); err != nil {
		return -1, fmt.Errorf("open our own mount namespace: %w", err)
	}
	if a.tree, err = a.keep(sys.Openat(a.proc, strconv.Itoa(pid)+"/ns/mnt", unix.O_RDONLY, 0)); err != nil {
		return -1, fmt.Errorf("open the machine's mount namespace: %w", err)
	}
	for _, stage := range []func() error{a.look, a.meet, a.reach, a.judge, a.widest, a.fresh, a.places, a.lay, a.forbid, a.join} {
		if err := stage(); err != nil {
			return -1, err
		}
	}
	if err := a.enter(a.ours); err != nil {
		return -1, err
	}
	if root, err = sys.Dup(a.root); err != nil {
		return -1, fmt.Errorf("keep the machine's root: %w", err)
	}
	return root, nil
}

// look reads the tree's mounts.
func (a *adder) look() error {
	err := a.enter(a.tree)
	if err != nil {
		return err
	}
	if a.root, err = a.keep(sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)); err != nil {
		return fmt.Errorf("open the machine's root: %w", err)
	}
	rows, err := table(a.l, a.self)
	if err != nil {
		return fmt.Errorf("read the machine's mounts: %w", err)
	}
	for i := range rows {
		a.rows[rows[i].ID] = &rows[i]
	}
	return nil
}

// meet finds the mounts that are there already. What was made as a layer or as
// stubs is not the file's to bring back: it stands for what it covers, whether
// the tree has it in the same place or not.
func (a *adder) meet() error {
	type place struct {
		parent uint64
		point  string
	}
	have := map[place]*tree.Row{}
	var top *tree.Row
	for _, r := range a.rows {
		on := a.rows[r.Parent]
		if on == nil || on == r {
			top = r
			continue
		}
		have[place{r.Parent, tree.Below(r.Point, on.Point)}] = r
	}
	if top == nil {
		return errors.New("the machine has no root")
	}
	// above is what is seen of a mount that a layer covers.
	above := func(r *tree.Row) *tree.Row {
		for c := have[place{r.ID, "/"}]; c != nil && tree.MadeFor(c.Type, c.Device) != ""; c = have[place{r.ID, "/"}] {
			r = c
		}
		return r
	}
	sources := map[string]*tree.Source{}
	for i := range a.f.Sources {
		sources[a.f.Sources[i].ID] = &a.f.Sources[i]
	}
	covers := func(m *tree.Mount) bool { return m.Parent != 0 && m.Point == "/" && sources[m.Source].Made != "" }
	for i := range a.f.Namespaces[0].Mounts {
		if m := &a.f.Namespaces[0].Mounts[i]; covers(m) {
			a.covered[m.Parent] = true
		}
	}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		a.by[m.ID] = m
		if a.covered[m.Parent] && !covers(m) {
			a.covered[m.ID] = true
		}
		r := above(top)
		if m.Parent != 0 {
			on := a.there[m.Parent]
			if on == nil {
				continue
			}
			if covers(m) {
				a.there[m.ID] = on
				continue
			}
			if r = have[place{on.ID, m.Point}]; r == nil {
				continue
			}
			r = above(r)
		}
		if s := sources[m.Source]; !s.External && s.Made == "" && s.Type != r.Type && tree.MadeFor(r.Type, r.Device) == "" {
			return fmt.Errorf("%s was a %s, and is a %s of the machine's", strconv.Quote(a.at[m.ID]), s.Type, r.Type)
		}
		a.there[m.ID] = r
	}
	return nil
}

// judge refuses what settings would not allow.
func (a *adder) judge() error {
	for _, s := range a.f.Sources {
		x := &source{Source: &s, top: -1, wide: -1}
		a.sources[s.ID] = x
	}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		if !a.missing(m) {
			continue
		}
		s, at := a.sources[m.Source], strconv.Quote(a.at[m.ID])
		from := a.from(m)
		if m.Users && (from == nil || !a.there[from.ID].Mapped) {
			return fmt.Errorf("%s: owners were mapped there", at)
		}
		if m.Deleted {
			return fmt.Errorf("%s: what was mounted there is deleted", at)
		}
		switch {
		case from == nil && s.Made != "":
			return fmt.Errorf("%s: the machine's settings put no layer there", at)
		case from == nil && s.External:
			return fmt.Errorf("%s: the machine's settings bind nothing of the host's there (%s)", at, s.ID)
		case from == nil && s.Type != "tmpfs" && s.Type != "ramfs":
			return fmt.Errorf("%s: the machine's settings mount no %s there", at, s.Type)
		case from == nil:
			continue
		}
		r := a.there[from.ID]
		if pseudo, err := a.pseudo(from); err != nil {
			return fmt.Errorf("%s: %w", at, err)
		} else if pseudo {
			return fmt.Errorf("%s: a part of a %s would be seen in another place", at, r.Type)
		}
		// What settings mount over a part of it would be gone from there.
		part := path.Join(r.Root, tree.Below(m.Root, from.Root))
		for _, c := range a.rows {
			if on := a.rows[c.Parent]; on != nil && on != c && on.Dev == r.Dev && tree.Within(path.Join(on.Root, tree.Below(c.Point, on.Point)), part) {
				return fmt.Errorf("%s would show what the machine's mount on %s covers", at, strconv.Quote(c.Point))
			}
		}
	}
	return a.seat()
}

// seat finds the members that the tree has of groups that hear of the host's
// mounts, by its settings: who is bound from one of those hears no more than
// they do.
func (a *adder) seat() error {
	groups, member := map[int]tree.Group{}, map[int]*tree.Mount{}
	for _, g := range a.f.Groups {
		groups[g.ID] = g
	}
	mounts := a.f.Namespaces[0].Mounts
	for i := range mounts {
		m := &mounts[i]
		g := max(m.Group, m.Slave)
		if _, ok := a.clones[m.ID]; ok && a.outside[g] && (m.Group != 0 || groups[g].Outside != "") && (member[g] == nil || len(m.Root) < len(member[g].Root)) {
			member[g] = m
		}
	}
	for i := range mounts {
		m := &mounts[i]
		if !a.missing(m) {
			continue
		}
		for g := max(m.Group, m.Slave); a.outside[g]; g = groups[g].Master {
			if member[g] != nil {
				a.seats[g] = member[g]
				break
			}
			if groups[g].Outside != "" {
				return fmt.Errorf("%s would hear of the host's mounts", strconv.Quote(a.at[m.ID]))
			}
		}
	}
	return nil
}

// missing reports whether a mount is to be made.
func (a *adder) missing(m *tree.Mount) bool { return a.there[m.ID] == nil && !a.covered[m.ID] }

// foreign reports whether a mount hears of mounts outside of the tree.
func (a *adder) foreign(m *tree.Mount) bool { return a.outside[m.Group] || a.outside[m.Slave] }

// from gives the narrowest mount that is there and that m is a part of.
func (a *adder) from(m *tree.Mount) (best *tree.Mount) {
	for id := range a.there {
		o := a.by[id]
		if !a.covered[id] && o.Source == m.Source && tree.Within(m.Root, o.Root) && (best == nil || len(o.Root) > len(best.Root) || len(o.Root) == len(best.Root) && o.ID < best.ID) {
			best = o
		}
	}
	return best
}

// pseudo reports whether a mount that is there shows the kernel's things.
func (a *adder) pseudo(m *tree.Mount) (bool, error) {
	n, ok := a.clones[m.ID]
	if !ok {
		return false, errors.New("what it is a part of is hidden")
	}
	st, err := sys.Fstatfs(n)
	return itree.Pseudo(st.Type), err
}

// reach opens the mounts that are there.
func (a *adder) reach() error {
	for _, id := range slices.Sorted(maps.Keys(a.there)) {
		if a.covered[id] {
			continue
		}
		r := a.there[id]
		n, err := a.keep(sys.Openat2(a.root, r.Point, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS))
		if err != nil {
			return fmt.Errorf("open %s: %w", strconv.Quote(r.Point), err)
		}
		unique, err := sys.Statx(n, "", statxMntIDUnique)
		old, err2 := sys.Statx(n, "", unix.STATX_MNT_ID)
		if err := cmp.Or(err, err2); err != nil {
			return fmt.Errorf("look at %s: %w", strconv.Quote(r.Point), err)
		}
		if unique.Mnt_id != r.ID && old.Mnt_id != r.ID {
			continue // hidden: nothing can be added there
		}
		a.clones[id] = n
	}
	return nil
}

// forbid gives what is there those flags of the file that forbid something.
func (a *adder) forbid() error {
	const forbid = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	for _, id := range slices.Sorted(maps.Keys(a.there)) {
		r := a.there[id]
		n, ok := a.clones[id]
		if !ok {
			continue
		}
		if more := a.by[id].Attr() & forbid &^ r.Attr; more != 0 {
			if err := sys.MountSetattr(n, 0, &unix.MountAttr{Attr_set: more}); err != nil {
				return fmt.Errorf("change the flags of %s: %w", strconv.Quote(r.Point), err)
			}
		}
	}
	return nil
}

// widest copies what groups are to be made of: no member may be wider than the
// mount that its group is copied from.
//
// Here, at the end: our own namespace. In the tree's, what lies on a mount may
// be locked there, and the kernel copies nothing without it.
func (a *adder) widest() error {
	if err := a.enter(a.ours); err != nil {
		return err
	}
	root, err := a.keep(sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0))
	if err != nil {
		return fmt.Errorf("open the root: %w", err)
	}
	copy := func(id int) (c int, err error) {
		r := a.there[id]
		n, err := sys.Openat2(root, r.Point, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
		if err == nil {
			c, err = a.detach(n)
			sys.Close(n)
		}
		if err != nil {
			return -1, fmt.Errorf("copy what is on %s: %w", strconv.Quote(r.Point), err)
		}
		return c, nil
	}
	for g, m := range a.seats {
		if a.copies[g], err = copy(m.ID); err != nil {
			return err
		}
	}
	for _, m := range a.f.Namespaces[0].Mounts {
		if m.Group == 0 && m.Slave == 0 || a.foreign(&m) || a.covered[m.ID] {
			continue
		}
		wide := 0
		for id := range a.there {
			o := a.by[id]
			if o.Source == m.Source && a.clones[id] > 0 && (wide == 0 || len(o.Root) < len(a.by[wide].Root)) {
				wide = id
			}
		}
		if _, done := a.wide[m.Source]; done || wide == 0 {
			continue
		}
		if a.wide[m.Source], err = copy(wide); err != nil {
			return err
		}
	}
	return nil
}

// fresh makes the new mounts, detached: those of new file systems in the
// workshop, and parts of what is there in the tree, where copies keep what is
// locked. The workshop gets a member of each sharing group, too.
func (a *adder) fresh() (err error) {
	// Here: a copy of our own namespace, which nobody hears of.
	if err := sys.Unshare(a.l, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	if a.workshop, err = a.keep(a.here()); err != nil {
		return fmt.Errorf("open the workshop's mount namespace: %w", err)
	}
	root, err := a.keep(sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0))
	if err != nil {
		return fmt.Errorf("open the root: %w", err)
	}
	if err := sys.MountSetattr(root, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_PRIVATE}); err != nil {
		return fmt.Errorf("cut off mount propagation: %w", err)
	}
	yard, err := a.keep(newFS(&tree.Source{Type: "tmpfs", Options: []string{"mode=700"}}))
	if err != nil {
		return fmt.Errorf("make a yard: %w", err)
	}
	if err := sys.MoveMount(yard, root); err != nil {
		return fmt.Errorf("attach the yard: %w", err)
	}
	if err := sys.Fchdir(a.l, yard); err != nil {
		return fmt.Errorf("go to the yard: %w", err)
	}
	if err := sys.Chroot(a.l); err != nil {
		return fmt.Errorf("take the yard as the root: %w", err)
	}
	if err := a.each(func(m *tree.Mount) bool { return a.from(m) == nil }); err != nil {
		return err
	}
	if err := a.groups(); err != nil {
		return err
	}
	if err := a.enter(a.tree); err != nil {
		return err
	}
	return a.each(func(m *tree.Mount) bool { return a.from(m) != nil })
}

// each makes those new mounts, detached, that are chosen.
func (a *adder) each(chosen func(*tree.Mount) bool) error {
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		if !a.missing(m) || !chosen(m) {
			continue
		}
		c, err := a.detached(m)
		if err != nil {
			return fmt.Errorf("make what was on %s: %w", strconv.Quote(a.at[m.ID]), err)
		}
		a.clones[m.ID] = c
	}
	return nil
}

func (a *adder) detached(m *tree.Mount) (int, error) {
	s := a.sources[m.Source]
	var at int
	var err error
	if from := a.from(m); from != nil {
		n, ok := a.clones[from.ID]
		if !ok {
			return -1, errors.New("what it is a part of is hidden")
		}
		at, err = a.find(a.inTree(a.there[from.ID], n), tree.Below(m.Root, from.Root), m.Kind)
	} else {
		if s.top < 0 {
			if err = a.begin(s); err != nil {
				return -1, err
			}
			// The kernel copies only what is attached.
			if _, err := a.restorer.put(s.top); err != nil {
				return -1, err
			}
		}
		at, err = a.find(s, m.Root, m.Kind)
	}
	if err != nil {
		return -1, err
	}
	defer sys.Close(at)
	c, err := a.detach(at)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_set: m.Attr()}
	if attr.Attr_set&timeFlags != 0 {
		attr.Attr_clr = timeFlags
	}
	return c, sys.MountSetattr(c, 0, &attr)
}

// inTree is a file system of the tree's as a source, whose part top is: new, if
// the host has it nowhere.
func (a *adder) inTree(r *tree.Row, top int) *source {
	x := &tree.Source{Type: r.Type, External: a.before.outside[r.Dev]}
	if !x.External {
		x.Made = tree.MadeFor(r.Type, r.Device)
	}
	return &source{Source: x, top: top}
}

// groups makes a member of each sharing group in the workshop.
func (a *adder) groups() error {
	for _, copies := range []iter.Seq[int]{maps.Values(a.wide), maps.Values(a.copies)} {
		for n := range copies {
			if _, err := a.restorer.put(n); err != nil {
				return fmt.Errorf("keep what sharing groups are made of: %w", err)
			}
		}
	}
	masters := map[int]int{}
	for _, g := range a.f.Groups {
		masters[g.ID] = g.Master
	}
	from := map[int]int{}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		n, ok := a.wide[m.Source]
		if s := a.sources[m.Source]; s.top >= 0 {
			n, ok = s.top, true
		}
		if !ok || a.foreign(m) || a.covered[m.ID] {
			continue
		}
		for g := max(m.Group, m.Slave); g != 0 && from[g] == 0; g = masters[g] {
			from[g] = n
		}
	}
	for _, g := range a.f.Order() {
		n, ok := from[g.ID], true
		if m := a.seats[g.ID]; m != nil {
			if err := sys.SetGroup(a.clones[m.ID], a.copies[g.ID]); err != nil {
				return fmt.Errorf("join the group of what is on %s: %w", strconv.Quote(a.at[m.ID]), err)
			}
			a.anchors[g.ID] = a.copies[g.ID]
			continue
		}
		if g.Master != 0 {
			// No member may be wider than the mount that its group is copied from.
			n, ok = a.anchors[g.Master]
		}
		if !ok || n == 0 {
			continue // whom it hears of is not the file's to say
		}
		if err := a.first(g, n); err != nil {
			return fmt.Errorf("sharing group %d: %w", g.ID, err)
		}
	}
	return nil
}

// first makes a group's member in the workshop, a copy.
func (a *adder) first(g tree.Group, from int) error {
	n, err := a.detach(from)
	if err != nil {
		return err
	}
	if _, err := a.restorer.put(n); err != nil {
		return err
	}
	if g.Master != 0 {
		if err := sys.SetGroup(a.anchors[g.Master], n); err != nil {
			return fmt.Errorf("copy the master: %w", err)
		}
		if err := propagate(n, unix.MS_SLAVE); err != nil {
			return err
		}
	}
	a.anchors[g.ID] = n
	return propagate(n, unix.MS_SHARED)
}

// places makes the mount points that are missing in file systems in memory,
// which begin empty, as long as nothing new covers them.
func (a *adder) places() error {
	for _, m := range a.f.Namespaces[0].Places() {
		if !a.missing(m) || m.Point == "/" {
			continue
		}
		if err := a.place(m); err != nil {
			return fmt.Errorf("mount what was on %s: make its place: %w", strconv.Quote(a.at[m.ID]), err)
		}
	}
	return nil
}

func (a *adder) place(m *tree.Mount) error {
	st, err := sys.Statx(a.clones[m.ID], "", unix.STATX_TYPE)
	if err != nil {
		return err
	}
	kind := tree.Node
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		kind = tree.Dir
	}
	// Not by what it lies on, which may be read-only.
	on := a.by[m.Parent]
	s, p := a.sources[on.Source], path.Join(on.Root, m.Point)
	if from := a.from(on); from != nil {
		n, ok := a.clones[from.ID]
		if !ok {
			return errors.New("what it lies on is hidden")
		}
		s, p = a.inTree(a.there[from.ID], n), tree.Below(p, from.Root)
	}
	n, err := a.find(s, p, kind)
	if err == nil {
		sys.Close(n)
	}
	return err
}

// lay attaches the new mounts.
//
// Here: the tree's namespace, in which nobody runs yet. What is there is in no
// group with anything else, so nothing arrives anywhere else.
func (a *adder) lay() error {
	for _, m := range a.f.Namespaces[0].Places() {
		if !a.missing(m) {
			continue
		}
		if err := a.put(m); err != nil {
			return fmt.Errorf("mount what was on %s: %w", strconv.Quote(a.at[m.ID]), err)
		}
	}
	return nil
}

func (a *adder) put(m *tree.Mount) error {
	on, ok := a.clones[m.Parent]
	if !ok {
		return errors.New("what it lies on is hidden")
	}
	at, err := open(on, m.Point)
	if err != nil {
		return fmt.Errorf("open its place: %w", err)
	}
	defer sys.Close(at)
	return sys.MoveMount(a.clones[m.ID], at)
}

// join brings back the sharing groups. What of the tree's own hears of the
// host's mounts keeps doing so.
func (a *adder) join() error {
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		n, ok := a.clones[m.ID]
		if r := a.there[m.ID]; !ok || r != nil && (a.foreign(m) || r.Master != 0) {
			continue
		}
		err := propagate(n, unix.MS_PRIVATE)
		switch {
		case err != nil:
		case m.Group != 0:
			err = sys.SetGroup(a.anchors[m.Group], n)
		case m.Slave != 0:
			if err = sys.SetGroup(a.anchors[m.Slave], n); err == nil {
				err = propagate(n, unix.MS_SLAVE)
			}
		case m.Unbindable:
			err = propagate(n, unix.MS_UNBINDABLE)
		}
		if err != nil {
			return fmt.Errorf("let %s join its sharing group: %w", strconv.Quote(a.at[m.ID]), err)
		}
	}
	return nil
}
