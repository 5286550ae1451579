package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// Limits of a file. The kernel allows 100,000 mounts in a namespace.
const (
	// Limit is the most bytes that a file has.
	Limit         = 64 << 20
	maxMounts     = 100000
	maxNamespaces = 64
	maxPath       = 4095
	maxName       = 255
	maxOptions    = 32
)

// Encode gives the file's text.
func (f *File) Encode() ([]byte, error) {
	g := f.mapped(escape)
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", " ")
	if err := e.Encode(g); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Decode reads a file, and refuses one that holds no possible tree.
func Decode(text []byte) (*File, error) {
	if len(text) > Limit {
		return nil, fmt.Errorf("the file is longer than %d MiB", Limit>>20)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var f File
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%s: %w", place(text, d.InputOffset(), err), err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%s: more text after the end", place(text, d.InputOffset(), nil))
	}
	if f.Version != Version {
		return nil, fmt.Errorf("the file has format %d, known is %d", f.Version, Version)
	}
	bad := false
	g := f.mapped(func(s string) string {
		t, ok := unescape(s)
		bad = bad || !ok
		return t
	})
	if bad {
		return nil, errors.New(`a path has a \ that is not followed by three octal digits`)
	}
	if err := g.check(); err != nil {
		return nil, err
	}
	return g, nil
}

// place says where in the text something is wrong.
func place(text []byte, at int64, err error) string {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		at = syntax.Offset
	case errors.As(err, &kind):
		at = kind.Offset
	}
	at = min(at, int64(len(text)))
	return fmt.Sprintf("line %d", 1+bytes.Count(text[:at], []byte("\n")))
}

// mapped gives a copy with each path changed. JSON can't hold all that paths can.
func (f *File) mapped(change func(string) string) *File {
	g := *f
	g.Sources = slices.Clone(f.Sources)
	for i := range g.Sources {
		s := &g.Sources[i]
		s.Device = change(s.Device)
		s.Options = slices.Clone(s.Options)
		for j := range s.Options {
			s.Options[j] = change(s.Options[j])
		}
	}
	g.Namespaces = make([]Namespace, len(f.Namespaces))
	for i, n := range f.Namespaces {
		mounts := slices.Clone(n.Mounts)
		for j := range mounts {
			mounts[j].Point, mounts[j].Root = change(mounts[j].Point), change(mounts[j].Root)
		}
		g.Namespaces[i].Mounts = mounts
	}
	return &g
}

// escape writes what is no printable ASCII, and the backslash, as \ and three
// octal digits, like mountinfo does.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '\\' {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// unescape undoes escape; ok tells whether s was something that escape gives.
func unescape(s string) (t string, ok bool) {
	if !strings.Contains(s, `\`) {
		return s, escape(s) == s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) {
			return "", false
		}
		n := 0
		for _, c := range []byte(s[i+1 : i+4]) {
			if c < '0' || c > '7' {
				return "", false
			}
			n = n*8 + int(c-'0')
		}
		if n > 255 {
			return "", false
		}
		b.WriteByte(byte(n))
		i += 3
	}
	t = b.String()
	return t, escape(t) == s
}

// check refuses what is no possible tree.
func (f *File) check() error {
	sources := map[string]*Source{}
	outside := map[string]bool{}
	for i := range f.Sources {
		s := &f.Sources[i]
		if err := s.check(); err != nil {
			return fmt.Errorf("source %d: %w", i+1, err)
		}
		if sources[s.ID] != nil {
			return fmt.Errorf("there are two sources %q", s.ID)
		}
		sources[s.ID] = s
	}
	groups := map[int]*Group{}
	for i := range f.Groups {
		g := &f.Groups[i]
		switch {
		case g.ID < 1:
			return fmt.Errorf("a group has the number %d, they begin with 1", g.ID)
		case groups[g.ID] != nil:
			return fmt.Errorf("there are two groups %d", g.ID)
		case g.Outside != "" && g.Master != 0:
			return fmt.Errorf("group %d has members outside and can't have a master in the file", g.ID)
		case g.Outside != "" && (checkID(g.Outside) != nil || outside[g.Outside] || sources[g.Outside] != nil):
			return fmt.Errorf("group %d: bad or repeated id %q", g.ID, g.Outside)
		}
		outside[g.Outside] = g.Outside != ""
		groups[g.ID] = g
	}
	for _, g := range f.Groups {
		// A chain longer than there are groups goes in a circle.
		at, steps := &g, 0
		for ; at.Master != 0; steps++ {
			next := groups[at.Master]
			if next == nil {
				return fmt.Errorf("group %d has the master %d, which is not in the file", at.ID, at.Master)
			}
			if at = next; steps > len(f.Groups) {
				return fmt.Errorf("group %d is its own master", g.ID)
			}
		}
	}
	if len(f.Namespaces) < 1 || len(f.Namespaces) > maxNamespaces {
		return fmt.Errorf("the file has %d namespaces, it must have 1 to %d", len(f.Namespaces), maxNamespaces)
	}
	all := 0
	ids := map[int]bool{}
	members := map[int]bool{}
	used := map[string]bool{}
	var devices = map[int]string{} // a source of each group
	for i, n := range f.Namespaces {
		if all += len(n.Mounts); all > maxMounts {
			return fmt.Errorf("the file has more than %d mounts", maxMounts)
		}
		if err := n.check(ids, sources, groups); err != nil {
			return fmt.Errorf("namespace %d: %w", i+1, err)
		}
		for _, m := range n.Mounts {
			used[m.Source] = true
			for _, g := range []int{m.Group, m.Slave} {
				if g == 0 {
					continue
				}
				members[g] = true
				// All members of a group, and of its masters, are of one file system.
				for at := groups[g]; at != nil; at = groups[at.Master] {
					first, ok := devices[at.ID]
					if !ok {
						devices[at.ID] = m.Source
					} else if first != m.Source && !(sources[first].External && sources[m.Source].External) {
						return fmt.Errorf("mount %d is in a sharing group with mounts of another file system", m.ID)
					}
					members[at.ID] = true
				}
			}
		}
	}
	if err := f.checkDeleted(); err != nil {
		return err
	}
	for _, s := range f.Sources {
		if !used[s.ID] {
			return fmt.Errorf("no mount is of the source %q", s.ID)
		}
	}
	for _, g := range f.Groups {
		if !members[g.ID] {
			return fmt.Errorf("no mount has to do with the group %d", g.ID)
		}
	}
	return nil
}

// checkDeleted: what was deleted is made under its old name, and removed. So
// nothing else may have that name, or need it to be there.
func (f *File) checkDeleted() error {
	type part struct{ source, root string }
	gone := map[part]int{}
	for _, n := range f.Namespaces {
		for _, m := range n.Mounts {
			if m.Deleted {
				gone[part{m.Source, m.Root}] = m.ID
			}
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, n := range f.Namespaces {
		byID := map[int]*Mount{}
		for i := range n.Mounts {
			m := &n.Mounts[i]
			byID[m.ID] = m
			roots := []part{{m.Source, path.Dir(m.Root)}}
			if !m.Deleted {
				roots[0].root = m.Root
			}
			if on := byID[m.Parent]; on != nil && m.Point != "/" {
				roots = append(roots, part{on.Source, path.Join(on.Root, m.Point)})
			}
			for _, p := range roots {
				for ; ; p.root = path.Dir(p.root) {
					if id, ok := gone[p]; ok {
						return fmt.Errorf("mount %d is of something deleted, but mount %d needs the same name", id, m.ID)
					}
					if p.root == "/" {
						break
					}
				}
			}
		}
	}
	return nil
}

// checkID: letters, digits and -, so that no reader takes it for anything else.
func checkID(id string) error {
	if id == "" || len(id) > 64 || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || id[0] == '-' {
		return fmt.Errorf("bad id %q: it is up to 64 of a-z, 0-9 and -", id)
	}
	return nil
}

func (s *Source) check() error {
	if err := checkID(s.ID); err != nil {
		return err
	}
	if s.Type == "" || len(s.Type) > 64 || strings.Trim(s.Type, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return fmt.Errorf("bad type of file system %q", s.Type)
	}
	if s.Made != "" && s.Made != Layer && s.Made != Stubs || s.Made != "" && (s.External && s.Type != "overlay" || !s.External && s.Type != "tmpfs") {
		return fmt.Errorf("%s can't have been made as %q", s.ID, s.Made)
	}
	if s.External {
		if s.Device != "" || len(s.Options) > 0 || s.ReadOnly {
			return fmt.Errorf("%s is external: it can't have options", s.ID)
		}
		return nil
	}
	if !IsNew(s.Type) {
		return fmt.Errorf("%s has the type %s, which only an external one can have", s.ID, s.Type)
	}
	if s.ReadOnly && !own(s.Type) {
		return fmt.Errorf("%s: the only %s can't be read-only", s.ID, s.Type)
	}
	if len(s.Device) > maxName || strings.Contains(s.Device, "\x00") {
		return fmt.Errorf("%s: bad device name", s.ID)
	}
	if len(s.Options) > maxOptions {
		return fmt.Errorf("%s has more than %d options", s.ID, maxOptions)
	}
	for _, o := range s.Options {
		key, value, _ := strings.Cut(o, "=")
		if !slices.Contains(optionsOf(s.Type), key) {
			return fmt.Errorf("%s: %s has no option %q", s.ID, s.Type, key)
		}
		if len(o) > maxName || strings.ContainsAny(value, "\x00,") {
			return fmt.Errorf("%s: bad option %s", s.ID, key)
		}
	}
	return nil
}

// checkPath: absolute, clean, and below the limits.
func checkPath(p string) error {
	switch {
	case len(p) > maxPath, strings.Contains(p, "\x00"):
		return errors.New("bad path: too long, or with a zero byte")
	case !path.IsAbs(p), path.Clean(p) != p:
		return fmt.Errorf("bad path %q: it must be absolute, without . and .. in it", p)
	}
	for name := range strings.SplitSeq(p, "/") {
		if len(name) > maxName {
			return errors.New("bad path: a name is too long")
		}
	}
	return nil
}

func (n *Namespace) check(ids map[int]bool, sources map[string]*Source, groups map[int]*Group) error {
	here := map[int]*Mount{}
	type place struct {
		parent int
		point  string
	}
	taken := map[place]bool{}
	for i := range n.Mounts {
		m := &n.Mounts[i]
		s := sources[m.Source]
		switch {
		case m.ID < 1:
			return fmt.Errorf("a mount has the number %d, they begin with 1", m.ID)
		case ids[m.ID]:
			return fmt.Errorf("there are two mounts %d", m.ID)
		case i == 0 && m.Parent != 0:
			return fmt.Errorf("mount %d is the first, and must be the root", m.ID)
		case i > 0 && m.Parent == 0:
			return fmt.Errorf("mount %d is a second root", m.ID)
		case i > 0 && here[m.Parent] == nil:
			return fmt.Errorf("mount %d lies on mount %d, which is none of the mounts before it", m.ID, m.Parent)
		case s == nil:
			return fmt.Errorf("mount %d is of the source %q, which is not in the file", m.ID, m.Source)
		case m.Kind != "" && m.Kind != Dir && m.Kind != Node:
			return fmt.Errorf("mount %d: bad kind %q (known: dir, file)", m.ID, m.Kind)
		case m.Parent == 0 && (m.Kind == Node || m.Point != "/" || m.Deleted):
			return fmt.Errorf("mount %d is the root, and must be a directory on /", m.ID)
		case m.Parent != 0 && here[m.Parent].Kind == Node && m.Point != "/":
			return fmt.Errorf("mount %d lies in mount %d, which is a file", m.ID, m.Parent)
		case m.Parent != 0 && m.Point == "/" && m.Kind != "" && here[m.Parent].Kind != "" && m.Kind != here[m.Parent].Kind:
			return fmt.Errorf("mount %d and what it covers, mount %d, must both be directories or both not", m.ID, m.Parent)
		case m.Deleted && s.External:
			return fmt.Errorf("mount %d is of something deleted in %q, which is external: nothing can be made there", m.ID, m.Source)
		case m.Deleted && s.ReadOnly:
			return fmt.Errorf("mount %d is of something deleted in a read-only file system, which the kernel doesn't allow", m.ID)
		case m.Deleted && (m.Root == "/" || s.Type != "tmpfs" && s.Type != "ramfs"):
			return fmt.Errorf("mount %d can't be of something deleted", m.ID)
		case m.Group != 0 && m.Slave != 0:
			return fmt.Errorf("mount %d is in a group, which has its own master", m.ID)
		case m.Group != 0 && groups[m.Group] == nil, m.Slave != 0 && groups[m.Slave] == nil:
			return fmt.Errorf("mount %d is in a group that is not in the file", m.ID)
		case m.Unbindable && (m.Group != 0 || m.Slave != 0):
			return fmt.Errorf("mount %d is unbindable, and can't be in a group", m.ID)
		case m.Users && !s.External && s.Type != "tmpfs":
			return fmt.Errorf("mount %d: owners can't be mapped in %s", m.ID, s.Type)
		case taken[place{m.Parent, m.Point}]:
			return fmt.Errorf("mount %d lies where another one does", m.ID)
		}
		for _, p := range []string{m.Point, m.Root} {
			if err := checkPath(p); err != nil {
				return fmt.Errorf("mount %d: %w", m.ID, err)
			}
		}
		last := ""
		for _, w := range m.Flags {
			i := slices.IndexFunc(flags[:], func(f struct {
				word string
				attr uint64
			}) bool {
				return f.word == w
			})
			if i < 0 || w == last {
				return fmt.Errorf("mount %d: unknown or repeated flag %q", m.ID, w)
			}
			last = w
		}
		if slices.Contains(m.Flags, "noatime") && slices.Contains(m.Flags, "strictatime") {
			return fmt.Errorf("mount %d is both noatime and strictatime", m.ID)
		}
		ids[m.ID], here[m.ID], taken[place{m.Parent, m.Point}] = true, m, true
	}
	if len(n.Mounts) == 0 {
		return errors.New("there are no mounts in it")
	}
	return nil
}

// Order gives the groups so that masters come before those that hear of them.
// A group stands beside the source that its members have.
func (f *File) Order() []Group {
	below := map[int][]Group{}
	for _, g := range f.Groups {
		below[g.Master] = append(below[g.Master], g)
	}
	list := make([]Group, 0, len(f.Groups))
	// Depth first: a branch is complete before the next one begins.
	stack := slices.Clone(below[0])
	slices.Reverse(stack)
	for len(stack) > 0 {
		g := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		list = append(list, g)
		next := slices.Clone(below[g.ID])
		slices.Reverse(next)
		stack = append(stack, next...)
	}
	return list
}

// Places gives the mounts in the order in which they can be attached: parents
// before children, and of two on one parent the one whose place is deeper
// first, since the other one may hide that place.
func (n *Namespace) Places() []*Mount {
	on := map[int][]*Mount{}
	for i := range n.Mounts {
		m := &n.Mounts[i]
		on[m.Parent] = append(on[m.Parent], m)
	}
	list := make([]*Mount, 0, len(n.Mounts))
	stack := on[0]
	for len(stack) > 0 {
		m := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		list = append(list, m)
		// A longer path sorts behind the one that it begins with.
		slices.SortFunc(on[m.ID], func(x, y *Mount) int { return strings.Compare(x.Point, y.Point) })
		stack = append(stack, on[m.ID]...)
	}
	return list
}
