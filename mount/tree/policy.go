package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Policy is what whoever restores a tree allows. The tree's file has no say in
// it.
type Policy struct {
	// External tells what ids of the file mean.
	External map[string]External
}

// External is what an id may mean today.
type External struct {
	// Path is on the host: a directory or file, for a source; something on the
	// mount that is listened to, for a group.
	Path string
	// ReadOnly: nothing is written to it, whatever the file says.
	ReadOnly bool
	// Shared: mounts reach the host's, too. Without it, a group may only
	// listen.
	Shared bool
	// Type: Path is a block device with a file system of this type.
	Type string
}

// ParseExternal reads ID=PATH[:WORD…]; words are ro, shared and type=TYPE. A \
// before : and \ makes it part of the path.
func ParseExternal(text string) (id string, x External, err error) {
	id, rest, ok := strings.Cut(text, "=")
	if !ok {
		return "", x, errors.New("it must be ID=PATH, maybe with :ro behind it")
	}
	if err := checkID(id); err != nil {
		return "", x, err
	}
	var parts []string
	var part strings.Builder
	for i := 0; i < len(rest); i++ {
		switch {
		case rest[i] == '\\' && i+1 < len(rest):
			i++
			part.WriteByte(rest[i])
		case rest[i] == ':':
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(rest[i])
		}
	}
	parts = append(parts, part.String())
	x.Path = parts[0]
	if !strings.HasPrefix(x.Path, "/") || strings.Contains(x.Path, "\x00") {
		return "", x, fmt.Errorf("the path %q is not absolute", x.Path)
	}
	for _, w := range parts[1:] {
		key, value, has := strings.Cut(w, "=")
		switch {
		case w == "ro":
			x.ReadOnly = true
		case w == "shared":
			x.Shared = true
		case key == "type" && has && value != "":
			x.Type = value
		default:
			return "", x, fmt.Errorf("unknown word %q (known: ro, shared, type=TYPE)", w)
		}
	}
	return id, x, nil
}

// Missing is an id that nobody gave a meaning to.
type Missing struct{ ID, Type, Target string }

func (e *Missing) Error() string {
	what := "a part of the host's " + e.Type
	if e.Type == "" {
		what = "a sharing group of the host's"
	}
	return fmt.Sprintf("nobody says what %s is, which was %s, on %q", e.ID, what, e.Target)
}

// Check reports what the policy does not allow of a tree, or has nothing to do
// with it. users tells whether the tree will have users of its own.
func (p *Policy) Check(f *File, users bool) error {
	known := map[string]bool{}
	targets := map[string]string{}
	var groups = map[int]string{}
	members := map[int]bool{}
	masters := map[int]int{}
	for _, g := range f.Groups {
		masters[g.ID] = g.Master
	}
	for i := range f.Namespaces {
		t := f.Namespaces[i].Targets()
		for _, m := range f.Namespaces[i].Mounts {
			if targets[m.Source] == "" {
				targets[m.Source] = t[m.ID]
			}
			for g := max(m.Group, m.Slave); g != 0 && groups[g] == ""; g = masters[g] {
				groups[g] = t[m.ID]
			}
			members[m.Group] = true
			if m.Users && !users {
				return fmt.Errorf("mount %d shows files with the owners of a machine with private users", m.ID)
			}
		}
	}
	for _, s := range f.Sources {
		if !s.External {
			continue
		}
		known[s.ID] = true
		x, ok := p.External[s.ID]
		if !ok {
			return &Missing{s.ID, s.Type, targets[s.ID]}
		}
		if x.Shared {
			return fmt.Errorf("the external %s is a file system, and can't be shared: that is for groups", s.ID)
		}
	}
	for _, g := range f.Groups {
		if g.Outside == "" {
			continue
		}
		known[g.Outside] = true
		x, ok := p.External[g.Outside]
		switch {
		case !ok:
			return &Missing{g.Outside, "", groups[g.ID]}
		case x.ReadOnly || x.Type != "":
			return fmt.Errorf("the external %s is a sharing group: no word but shared has a meaning for it", g.Outside)
		case members[g.ID] && !x.Shared:
			return fmt.Errorf("mounts on %q would reach the host: that needs :shared behind the path of %s", groups[g.ID], g.Outside)
		}
	}
	for id := range p.External {
		if !known[id] {
			return fmt.Errorf("there is no external %s in the file (known: %s)", id, names(known))
		}
	}
	return nil
}

func names(set map[string]bool) string {
	var list []string
	for n := range set {
		list = append(list, n)
	}
	slices.Sort(list)
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
