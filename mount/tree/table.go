package tree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/userns"
)

// Row is a mount as the kernel tells of it.
type Row struct {
	ID, Parent uint64
	// Dev is the device number of the file system.
	Dev uint64
	// Root is below the file system's root, Point below the reader's.
	Root, Point string
	Attr        uint64 // MOUNT_ATTR_…
	// Peers is its sharing group, Master the one it hears of; 0: none.
	Peers, Master uint64
	Unbindable    bool
	Type, Device  string
	Options       []string
	ReadOnly      bool // the file system is
	// UIDs is the map of owners, if there is one and the kernel tells it;
	// Mapped tells whether there is one.
	UIDs   string
	Mapped bool
	Kind   Kind
}

// ParseMountinfo reads /proc/PID/mountinfo.
func ParseMountinfo(text string) ([]Row, error) {
	var rows []Row
	n := 0
	for line := range strings.Lines(text) {
		n++
		r, err := parseLine(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, fmt.Errorf("line %d of the mount table: %w", n, err)
		}
		rows = append(rows, r)
	}
	return rows, nil
}

func parseLine(line string) (r Row, err error) {
	left, right, ok := strings.Cut(line, " - ")
	f := strings.Split(left, " ")
	g := strings.Split(right, " ")
	if !ok || len(f) < 6 || len(g) < 3 {
		return r, errors.New("it has too few fields")
	}
	if r.ID, err = strconv.ParseUint(f[0], 10, 32); err != nil {
		return r, errors.New("bad id")
	}
	if r.Parent, err = strconv.ParseUint(f[1], 10, 32); err != nil {
		return r, errors.New("bad id of the parent")
	}
	major, minor, ok := strings.Cut(f[2], ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return r, errors.New("bad device number")
	}
	r.Dev = unix.Mkdev(uint32(a), uint32(b))
	r.Root, r.Point = Unescape(f[3]), Unescape(f[4])
	for w := range strings.SplitSeq(f[5], ",") {
		switch w {
		case "idmapped":
			r.Mapped = true
		case "rw", "relatime":
		default:
			for _, g := range flags {
				if g.word == w {
					r.Attr |= g.attr
				}
			}
		}
	}
	if !slices.Contains(strings.Split(f[5], ","), "relatime") && r.Attr&unix.MOUNT_ATTR_NOATIME == 0 {
		r.Attr |= unix.MOUNT_ATTR_STRICTATIME
	}
	for _, w := range f[6:] {
		key, value, _ := strings.Cut(w, ":")
		switch key {
		case "shared":
			r.Peers, err = strconv.ParseUint(value, 10, 64)
		case "master":
			r.Master, err = strconv.ParseUint(value, 10, 64)
		case "unbindable":
			r.Unbindable = true
		}
		if err != nil {
			return r, errors.New("bad sharing group")
		}
	}
	r.Type, r.Device = Unescape(g[0]), Unescape(g[1])
	r.setOptions(g[2])
	return r, nil
}

// setOptions takes what the file system says of itself.
func (r *Row) setOptions(list string) {
	for o := range strings.SplitSeq(list, ",") {
		switch o = Unescape(o); o {
		case "", "rw":
		case "ro":
			r.ReadOnly = true
		default:
			r.Options = append(r.Options, o)
		}
	}
}

// Unescape undoes what the kernel does to white space and backslashes in
// mountinfo: \040 and the like.
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// The parts of struct statmount, which the kernel fills in as its mask says.
const (
	SBBasic       = 1 << 0
	MntBasic      = 1 << 1
	MntRoot       = 1 << 3
	MntPoint      = 1 << 4
	FSType        = 1 << 5
	MntOpts       = 1 << 7
	FSSubtype     = 1 << 8
	SBSource      = 1 << 9
	MntUIDMap     = 1 << 13
	statmountSize = 512
	// Wanted is what ParseStatmount makes use of, Needed what it can't do without.
	Wanted = SBBasic | MntBasic | MntRoot | MntPoint | FSType | MntOpts | FSSubtype | SBSource | MntUIDMap
	needed = SBBasic | MntBasic | MntRoot | MntPoint | FSType
)

// ErrOld is for a kernel that knows statmount, but not enough of it.
var ErrOld = errors.New("statmount tells too little")

// ParseStatmount reads what statmount(2) gave.
func ParseStatmount(b []byte) (r Row, err error) {
	le := binary.NativeEndian
	if len(b) < statmountSize {
		return r, errors.New("statmount gave too little")
	}
	size, mask := le.Uint32(b), le.Uint64(b[8:])
	if int64(size) > int64(len(b)) || size < statmountSize {
		return r, errors.New("statmount gave a bad size")
	}
	if mask&needed != needed {
		return r, ErrOld
	}
	text := func(at int, bit uint64) string {
		off := le.Uint32(b[at:])
		if mask&bit == 0 || int64(off) >= int64(size)-statmountSize {
			return ""
		}
		s := b[statmountSize+off : size]
		if end := bytes.IndexByte(s, 0); end >= 0 {
			return string(s[:end])
		}
		err = errors.New("statmount gave a text without an end")
		return ""
	}
	r.Dev = unix.Mkdev(le.Uint32(b[16:]), le.Uint32(b[20:]))
	r.ReadOnly = le.Uint32(b[32:])&unix.MS_RDONLY != 0
	r.ID, r.Parent = le.Uint64(b[40:]), le.Uint64(b[48:])
	attr := le.Uint64(b[64:])
	for _, f := range flags {
		if f.attr&unix.MOUNT_ATTR__ATIME == 0 {
			r.Attr |= attr & f.attr
		}
	}
	switch attr & unix.MOUNT_ATTR__ATIME {
	case unix.MOUNT_ATTR_NOATIME, unix.MOUNT_ATTR_STRICTATIME:
		r.Attr |= attr & unix.MOUNT_ATTR__ATIME
	}
	r.Mapped = attr&unix.MOUNT_ATTR_IDMAP != 0
	r.Unbindable = le.Uint64(b[72:])&unix.MS_UNBINDABLE != 0
	r.Peers, r.Master = le.Uint64(b[80:]), le.Uint64(b[88:])
	r.Root, r.Point, r.Type = text(104, MntRoot), text(108, MntPoint), text(36, FSType)
	if sub := text(120, FSSubtype); sub != "" {
		r.Type += "." + sub
	}
	if r.Device = text(124, SBSource); mask&SBSource == 0 {
		r.Device = "none"
	}
	r.setOptions(text(4, MntOpts))
	if mask&MntUIDMap != 0 && le.Uint32(b[152:]) > 0 {
		r.UIDs = text(156, MntUIDMap)
	}
	return r, err
}

// Around is what is known of the world around the tree.
type Around struct {
	// Devices are the file systems that are mounted outside too, Groups the
	// sharing groups with members there.
	Devices, Groups map[uint64]bool
	// Users is the machine's user map; empty: it has none of its own.
	Users userns.Map
}

const deleted = "//deleted"

// Build makes a file of mount tables, one for each namespace.
func Build(tables [][]Row, around Around) (*File, error) {
	f := &File{Version: Version}
	b := builder{f: f, around: around, sources: map[sourceKey]string{}, groups: map[uint64]int{}, covers: map[uint64][]string{}, masters: map[uint64]uint64{}, targets: map[sourceKey]target{}}
	// The parts of file systems that come from outside: the widest that are
	// mounted somewhere.
	for _, t := range tables {
		for i := range t {
			if r := &t[i]; !b.isNew(r) {
				b.cover(r.Dev, r.Root)
			}
			b.mastered(&t[i])
		}
	}
	for i, t := range tables {
		for j := range t {
			r := &t[j]
			if b.isNew(r) {
				continue
			}
			if k := b.external(r); k.root == r.Root {
				if at, ok := b.targets[k]; !ok || at.namespace == i && r.Point < at.point {
					b.targets[k] = target{i, r.Point}
				}
			}
		}
	}
	for i, t := range tables {
		if err := b.namespace(i, t); err != nil {
			return nil, err
		}
	}
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("the mounts can't be saved: %w", err)
	}
	return f, nil
}

type builder struct {
	f       *File
	around  Around
	sources map[sourceKey]string
	covers  map[uint64][]string
	groups  map[uint64]int // the kernel's numbers, and ours
	masters map[uint64]uint64
	// targets are where the whole of each external source is mounted.
	targets map[sourceKey]target
	made    int
}

type target struct {
	namespace int
	point     string
}

type sourceKey struct {
	dev  uint64
	root string // of an external one
}

func (b *builder) isNew(r *Row) bool {
	if !IsNew(r.Type) || !strings.HasPrefix(r.Root, "/") || strings.HasPrefix(r.Root, "/..") {
		return false
	}
	switch r.Type {
	case "proc", "sysfs", "mqueue":
		return true // there is one for each namespace of another kind
	}
	return !b.around.Devices[r.Dev]
}

// external gives the source of a mount that comes from outside.
func (b *builder) external(r *Row) sourceKey {
	i := slices.IndexFunc(b.covers[r.Dev], func(c string) bool { return Within(r.Root, c) })
	return sourceKey{r.Dev, b.covers[r.Dev][i]}
}

// cover notes that root is mounted.
func (b *builder) cover(dev uint64, root string) {
	list := b.covers[dev]
	if slices.ContainsFunc(list, func(have string) bool { return Within(root, have) }) {
		return
	}
	b.covers[dev] = append(slices.DeleteFunc(list, func(have string) bool { return Within(have, root) }), root)
}

// Within reports whether p is top or lies below it.
func Within(p, top string) bool {
	return p == top || top == "/" && strings.HasPrefix(p, "/") || strings.HasPrefix(p, top+"/")
}

// Below gives the rest of p below top, from /.
func Below(p, top string) string {
	if top == "/" {
		return p
	}
	if p == top {
		return "/"
	}
	return strings.TrimPrefix(p, top)
}

func (b *builder) mastered(r *Row) {
	if r.Peers != 0 {
		b.masters[r.Peers] = r.Master
	}
}

// namespace adds a table's mounts, children in the order of their mount
// points, so that equal trees give equal files.
func (b *builder) namespace(ns int, rows []Row) error {
	children := map[uint64][]*Row{}
	have := map[uint64]bool{}
	for i := range rows {
		if have[rows[i].ID] {
			return fmt.Errorf("namespace %d has two mounts with the number %d", ns+1, rows[i].ID)
		}
		have[rows[i].ID] = true
	}
	var root *Row
	for i := range rows {
		r := &rows[i]
		if have[r.Parent] && r.Parent != r.ID {
			children[r.Parent] = append(children[r.Parent], r)
			continue
		}
		if root != nil {
			return fmt.Errorf("namespace %d has two roots, on %q and %q", ns+1, root.Point, r.Point)
		}
		root = r
	}
	if root == nil {
		return fmt.Errorf("namespace %d has no root", ns+1)
	}
	type todo struct {
		r      *Row
		parent int
		point  string // of the parent, from the reader's root
	}
	stack := []todo{{root, 0, "/"}}
	var list []Mount
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		m, err := b.mount(ns, at.r, at.parent, at.point)
		if err != nil {
			return err
		}
		list = append(list, m)
		below := children[at.r.ID]
		slices.SortFunc(below, func(x, y *Row) int { return -strings.Compare(x.Point, y.Point) })
		for _, c := range below {
			stack = append(stack, todo{c, m.ID, at.r.Point})
		}
	}
	if len(list) != len(rows) {
		return fmt.Errorf("namespace %d has mounts that lie on each other in a circle", ns+1)
	}
	infer(list)
	b.f.Namespaces = append(b.f.Namespaces, Namespace{list})
	return nil
}

// infer finds out kinds of hidden mounts: what is covered is of the kind that
// covers it, and what something lies in is a directory. Parents come first.
func infer(list []Mount) {
	first := list[0].ID
	for i := len(list) - 1; i > 0; i-- {
		m := &list[i]
		if on := &list[m.Parent-first]; on.Kind == "" {
			if on.Kind = Dir; m.Point == "/" {
				on.Kind = m.Kind
			}
		}
	}
	for i := range list[1:] {
		if m := &list[i+1]; m.Point == "/" && m.Kind == "" {
			m.Kind = list[m.Parent-first].Kind
		}
	}
}

func (b *builder) mount(ns int, r *Row, parent int, on string) (Mount, error) {
	b.made++
	m := Mount{ID: b.made, Parent: parent, Root: r.Root, Kind: r.Kind, Flags: Words(r.Attr), Unbindable: r.Unbindable}
	fail := func(what string) (Mount, error) {
		return m, fmt.Errorf("the mount on %s can't be saved: %s", strconv.Quote(r.Point), what)
	}
	switch {
	case parent == 0:
		m.Point = "/"
	case Within(r.Point, on):
		m.Point = Below(r.Point, on)
	default:
		return fail("it is not below the one it lies on")
	}
	if rest, ok := strings.CutSuffix(m.Root, deleted); ok {
		m.Root, m.Deleted = rest, true
	}
	if r.Mapped {
		if r.UIDs != "" && len(b.around.Users) == 1 {
			// What the kernel tells begins with who it tells it to.
			if f := strings.Fields(r.UIDs); len(f) == 3 && f[2] != strconv.FormatUint(uint64(b.around.Users[0].Size), 10) {
				return fail("its owners are mapped to others than the machine's users")
			}
		}
		m.Users = true
	}
	key := sourceKey{dev: r.Dev}
	isNew := b.isNew(r)
	if !isNew {
		key = b.external(r)
		if m.Deleted = strings.HasSuffix(r.Root, deleted); m.Deleted {
			return fail("what is mounted was deleted, in a file system that is not the machine's own")
		}
		m.Root = Below(r.Root, key.root)
	}
	id, ok := b.sources[key]
	if !ok {
		s := Source{External: !isNew, Type: r.Type}
		if !b.around.Devices[r.Dev] {
			s.Made = MadeFor(r.Type, r.Device)
		}
		if !isNew {
			s.ID = Key(b.targets[key].namespace, b.targets[key].point)
		}
		if isNew {
			s.ID = "s" + strconv.Itoa(len(b.f.Sources)+1)
			s.Device, s.ReadOnly = r.Device, r.ReadOnly && own(r.Type)
			for _, o := range r.Options {
				o, err := b.inside(o)
				if err != nil {
					return fail(err.Error())
				}
				if key, _, _ := strings.Cut(o, "="); slices.Contains(optionsOf(r.Type), key) {
					s.Options = append(s.Options, o)
				}
			}
		}
		for n := 2; slices.ContainsFunc(b.f.Sources, func(o Source) bool { return o.ID == s.ID }); n++ {
			// Only one mount covers another on the same target.
			s.ID = Key(b.targets[key].namespace, b.targets[key].point) + "-" + strconv.Itoa(n)
		}
		id, b.sources[key] = s.ID, s.ID
		b.f.Sources = append(b.f.Sources, s)
	}
	m.Source = id
	if r.Peers != 0 {
		m.Group = b.group(ns, r.Peers, r.Point)
	} else if r.Master != 0 {
		m.Slave = b.group(ns, r.Master, r.Point)
	}
	return m, nil
}

// group gives our number of a sharing group.
func (b *builder) group(ns int, peers uint64, target string) int {
	if n, ok := b.groups[peers]; ok {
		return n
	}
	g := Group{ID: len(b.f.Groups) + 1}
	b.groups[peers] = g.ID
	master, known := b.masters[peers]
	if !known || b.around.Groups[peers] {
		g.Outside = MasterKey(ns, target)
		for n := 2; slices.ContainsFunc(b.f.Groups, func(o Group) bool { return o.Outside == g.Outside }); n++ {
			g.Outside = MasterKey(ns, target) + "-" + strconv.Itoa(n)
		}
	}
	b.f.Groups = append(b.f.Groups, g)
	if g.Outside == "" && master != 0 {
		b.f.Groups[g.ID-1].Master = b.group(ns, master, target)
	}
	return g.ID
}

// inside translates the owner in an option to the machine's numbers; root is
// what is meant when nothing is said.
func (b *builder) inside(o string) (string, error) {
	key, value, _ := strings.Cut(o, "=")
	if key != "uid" && key != "gid" || len(b.around.Users) == 0 {
		return o, nil
	}
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		return "", fmt.Errorf("bad option %s", o)
	}
	for _, e := range b.around.Users {
		if uint64(e.Outside) <= n && n-uint64(e.Outside) < uint64(e.Size) {
			if n -= uint64(e.Outside) - uint64(e.Inside); n == 0 {
				return "", nil
			}
			return key + "=" + strconv.FormatUint(n, 10), nil
		}
	}
	return "", fmt.Errorf("%s is none of the machine's users", o)
}

// Targets gives, for each mount of a namespace, the path it is on.
func (n *Namespace) Targets() map[int]string {
	list := map[int]string{}
	for _, m := range n.Mounts {
		list[m.ID] = path.Join("/", list[m.Parent], m.Point)
	}
	return list
}
