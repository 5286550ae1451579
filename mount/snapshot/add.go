package snapshot

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/tree"
	"launch/userns"
)

// adder brings saved mounts back into a tree that is there already.
type adder struct {
	restorer
	root int // of the tree
	// yard is where new file systems are put aside; -1: nowhere yet.
	yard int
	rows map[uint64]*tree.Row
	// there are mounts of the file that the tree has, by number.
	there map[int]*tree.Row
	by    map[int]*tree.Mount
	at    map[int]string // targets
}

// Add makes, in the tree that is the thread's root, those mounts of the file's
// one namespace that the tree doesn't have yet: new file systems in memory, and
// parts of what it has already. What the tree has stays as it is, but for flags
// that forbid more; from outside comes nothing. self is the thread's directory
// in a /proc that shows it, users the map of who the tree belongs to.
//
// All is looked at before anything is made.
func Add(l sys.Locked, root, self int, f *tree.File, users userns.Map) error {
	if len(f.Namespaces) != 1 {
		return fmt.Errorf("the file has %d mount namespaces, a machine begins with one", len(f.Namespaces))
	}
	a := &adder{restorer: restorer{l: l, f: f, self: self, o: Options{Users: users}, sources: map[string]*source{}, anchors: map[int]int{}, clones: map[int]int{}},
		root: root, yard: -1, rows: map[uint64]*tree.Row{}, there: map[int]*tree.Row{}, by: map[int]*tree.Mount{}, at: f.Namespaces[0].Targets()}
	defer func() {
		for _, n := range a.all {
			sys.Close(n)
		}
	}()
	for _, stage := range []func() error{a.look, a.meet, a.judge, a.hold, a.fresh, a.lay, a.join, a.clear} {
		if err := stage(); err != nil {
			return err
		}
	}
	return nil
}

// look reads the tree's mounts.
func (a *adder) look() error {
	rows, err := stat(a.l)
	if err == unix.ENOSYS || errors.Is(err, tree.ErrOld) {
		var text []byte
		if text, err = sys.ReadFile(a.self, "mountinfo", maxTable); err == nil {
			rows, err = tree.ParseMountinfo(string(text))
		}
	}
	if err != nil {
		return fmt.Errorf("read the machine's mounts: %w", err)
	}
	for i := range rows {
		a.rows[rows[i].ID] = &rows[i]
	}
	return nil
}

// meet finds the mounts that are there already.
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
	types := map[string]*tree.Source{}
	for i := range a.f.Sources {
		types[a.f.Sources[i].ID] = &a.f.Sources[i]
	}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		a.by[m.ID] = m
		r := top
		if m.Parent != 0 {
			on := a.there[m.Parent]
			if on == nil {
				continue
			}
			if r = have[place{on.ID, m.Point}]; r == nil {
				continue
			}
		}
		if s := types[m.Source]; !s.External && s.Type != r.Type {
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
		if a.there[m.ID] != nil {
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
		case from == nil && s.External:
			return fmt.Errorf("%s: the machine's settings bind nothing of the host's there (%s)", at, s.ID)
		case from == nil && s.Type != "tmpfs" && s.Type != "ramfs":
			return fmt.Errorf("%s: the machine's settings mount no %s there", at, s.Type)
		case from == nil:
			continue
		}
		r := a.there[from.ID]
		if s.ID != tree.RootID && r.Type != "tmpfs" && r.Type != "ramfs" {
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
	for _, g := range a.f.Groups {
		if g.Outside == "" {
			continue
		}
		for _, m := range a.by {
			if (m.Group == g.ID || m.Slave == g.ID) && a.there[m.ID] == nil {
				return fmt.Errorf("%s would hear of the host's mounts", strconv.Quote(a.at[m.ID]))
			}
		}
	}
	return nil
}

// from gives the narrowest mount that is there and that m is a part of.
func (a *adder) from(m *tree.Mount) (best *tree.Mount) {
	for id := range a.there {
		o := a.by[id]
		if o.Source == m.Source && tree.Within(m.Root, o.Root) && (best == nil || len(o.Root) > len(best.Root) || len(o.Root) == len(best.Root) && o.ID < best.ID) {
			best = o
		}
	}
	return best
}

// hold opens the mounts that are there, and gives them the flags of the
// file that forbid something.
func (a *adder) hold() error {
	const forbid = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW
	for _, id := range slices.Sorted(sortedKeys(a.there)) {
		r := a.there[id]
		n, err := a.keep(sys.Openat2(a.root, r.Point, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS))
		if err != nil {
			return fmt.Errorf("open %s: %w", strconv.Quote(r.Point), err)
		}
		unique, err := sys.Statx(n, "", statxMntIDUnique)
		old, err2 := sys.Statx(n, "", unix.STATX_MNT_ID)
		if err != nil || err2 != nil || unique.Mnt_id != r.ID && old.Mnt_id != r.ID {
			continue // hidden: nothing can be added there
		}
		a.clones[id] = n
		if more := a.by[id].Attr() & forbid &^ r.Attr; more != 0 {
			if err := sys.MountSetattr(n, 0, &unix.MountAttr{Attr_set: more}); err != nil {
				return fmt.Errorf("change the flags of %s: %w", strconv.Quote(r.Point), err)
			}
		}
	}
	return nil
}

func sortedKeys[V any](m map[int]V) func(func(int) bool) {
	return func(yield func(int) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// fresh makes the new mounts, detached.
func (a *adder) fresh() error {
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		if a.there[m.ID] != nil {
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
	top, below := s.top, m.Root
	if from := a.from(m); from != nil {
		n, ok := a.clones[from.ID]
		if !ok {
			return -1, errors.New("what it is a part of is hidden")
		}
		top, below = n, tree.Below(m.Root, from.Root)
	} else if s.top < 0 {
		fs := *s.Source
		if fs.ReadOnly = false; len(a.o.Users) > 0 {
			fs.Options = a.owners(&fs)
		}
		var err error
		if s.top, err = a.keep(newFS(&fs)); err != nil {
			return -1, err
		}
		// The kernel copies only what is attached somewhere: on the root for a
		// moment, where the next one comes to lie on it.
		if err := a.aside(s.top); err != nil {
			return -1, err
		}
		top = s.top
	}
	var at int
	var err error
	if top == s.top {
		at, err = a.find(s, below, m.Kind)
	} else {
		at, err = open(top, below)
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

// aside attaches a new file system where nobody is, over the tree's root: the
// kernel copies only what is attached somewhere.
func (a *adder) aside(n int) error {
	if a.yard < 0 {
		y, err := a.keep(newFS(&tree.Source{Type: "tmpfs", Options: []string{"mode=700"}}))
		if err != nil {
			return err
		}
		if err := sys.MoveMount(y, a.root); err != nil {
			return err
		}
		a.yard = y
	}
	a.dirs++
	name := strconv.Itoa(a.dirs)
	if err := sys.Mkdirat(a.yard, name, 0o700); err != nil {
		return err
	}
	at, err := sys.Openat(a.yard, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer sys.Close(at)
	return sys.MoveMount(n, at)
}

// lay attaches the new mounts.
func (a *adder) lay() error {
	for _, m := range a.f.Namespaces[0].Places() {
		if a.there[m.ID] != nil {
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
	if err == unix.ENOENT {
		// In a file system in memory, which begins empty, its place is made.
		st, serr := sys.Statx(a.clones[m.ID], "", unix.STATX_TYPE)
		if serr != nil {
			return serr
		}
		kind := tree.Node
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			kind = tree.Dir
		}
		s, p := a.sources[a.by[m.Parent].Source], path.Join(a.by[m.Parent].Root, m.Point)
		if r := a.there[m.Parent]; r != nil {
			s, p = &source{Source: &tree.Source{Type: r.Type}, top: on}, m.Point
		}
		if at, err = a.find(s, p, kind); err == nil {
			sys.Close(at)
			at, err = open(on, m.Point)
		}
	}
	if err != nil {
		return fmt.Errorf("open its place: %w", err)
	}
	defer sys.Close(at)
	return sys.MoveMount(a.clones[m.ID], at)
}

// join brings back the sharing groups of more than one mount.
func (a *adder) join() error {
	if len(a.o.Users) > 0 {
		// The machine gets a copy for its own users, whose mounts would hear of
		// these: of nobody is better.
		return nil
	}
	members, heard := map[int][]*tree.Mount{}, map[int]bool{}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		if m.Group != 0 {
			members[m.Group] = append(members[m.Group], m)
		}
		heard[m.Slave] = true
	}
	outside := map[int]bool{}
	for _, g := range a.f.Groups {
		heard[g.Master] = true
		outside[g.ID] = g.Outside != ""
	}
	for _, g := range a.f.Order() {
		if outside[g.ID] || outside[g.Master] || len(members[g.ID]) < 2 && g.Master == 0 && !heard[g.ID] {
			continue // whom it hears of is not the file's to say
		}
		if err := a.first(g, members[g.ID]); err != nil {
			return fmt.Errorf("sharing group %d: %w", g.ID, err)
		}
	}
	for i := range a.f.Namespaces[0].Mounts {
		m := &a.f.Namespaces[0].Mounts[i]
		n, ok := a.clones[m.ID]
		if !ok || !a.alone(m) {
			continue
		}
		var err error
		switch {
		case a.anchors[m.Group] > 0:
			err = sys.SetGroup(a.anchors[m.Group], n)
		case a.anchors[m.Slave] > 0:
			if err = sys.SetGroup(a.anchors[m.Slave], n); err == nil {
				err = propagate(n, unix.MS_SLAVE)
			}
		case m.Unbindable && a.there[m.ID] == nil:
			err = propagate(n, unix.MS_UNBINDABLE)
		}
		if err != nil {
			return fmt.Errorf("let %s join its sharing group: %w", strconv.Quote(a.at[m.ID]), err)
		}
	}
	return nil
}

// alone reports whether a mount is in no group yet.
func (a *adder) alone(m *tree.Mount) bool {
	r := a.there[m.ID]
	return r == nil || r.Peers == 0 && r.Master == 0
}

// first makes a member that nobody sees: a copy of the widest.
func (a *adder) first(g tree.Group, members []*tree.Mount) error {
	from, ok := a.anchors[g.Master]
	for _, m := range a.f.Namespaces[0].Mounts {
		if ok || m.Group != g.ID && m.Slave != g.ID {
			continue
		}
		if s := a.sources[m.Source]; s.top >= 0 {
			from, ok = s.top, true
			continue
		}
		wide := -1
		for id := range a.there {
			if o := a.by[id]; o.Source == m.Source && a.clones[id] > 0 && (wide < 0 || len(o.Root) < len(a.by[wide].Root)) {
				wide = id
			}
		}
		if wide >= 0 {
			from, ok = a.clones[wide], true
		}
	}
	if !ok {
		return errors.New("nothing that its members are a part of is to be seen")
	}
	n, err := a.detach(from)
	if err != nil {
		return err
	}
	if g.Master != 0 {
		if err := sys.SetGroup(from, n); err != nil {
			return fmt.Errorf("copy the master: %w", err)
		}
		if err := propagate(n, unix.MS_SLAVE); err != nil {
			return err
		}
	}
	a.anchors[g.ID] = n
	return propagate(n, unix.MS_SHARED)
}

// clear takes away what was put aside.
func (a *adder) clear() error {
	if a.yard < 0 {
		return nil
	}
	if err := sys.Fchdir(a.l, a.yard); err != nil {
		return err
	}
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the yard away again: %w", err)
	}
	return sys.Fchdir(a.l, a.root)
}
