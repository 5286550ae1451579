// Package userns describes which users a machine has: the map between the ids
// that the machine sees and the host's.
//
// It refuses to know how a range is found (pick) or how a tree is made to fit
// (shift, or an id-mapped mount).
//
// Room: paper.
package userns

import (
	"fmt"
	"strings"
)

// Mode says how the machine's users relate to the host's.
type Mode string

// The modes of --private-users.
const (
	No    Mode = ""      // the host's users
	Fixed Mode = "fixed" // the range that Range names
	Owner Mode = "owner" // the range is read from the owner of the root directory
	Pick  Mode = "pick"  // a free range is picked
	Exact Mode = "exact" // maps are given line by line
	Join  Mode = "join"  // a user namespace that is there already
)

// Ownership says how the files of the tree get owners the machine can see.
type Ownership string

// The modes of --private-users-ownership.
const (
	Auto  Ownership = "auto"  // map, else chown
	Off   Ownership = "off"   // nothing is done
	MapIt Ownership = "map"   // an id-mapped mount
	Chown Ownership = "chown" // the tree is changed, once
	// Foreign: an id-mapped mount of a tree whose files belong to ForeignBase…,
	// the range in which nobody runs and trees of all machines are kept.
	Foreign Ownership = "foreign"
)

// ForeignBase is the first id of the range for trees that are nobody's on the
// host (systemd's "foreign UID range", DefaultSize ids).
const ForeignBase = 0x7ffe0000

// DefaultSize is how many ids a machine gets when nothing else is said.
const DefaultSize = 65536

// Range is a block of host ids: the machine's id 0 is Start.
type Range struct {
	Start uint32 `json:"start"`
	Size  uint32 `json:"size"`
}

// String gives `start:size`.
func (r Range) String() string { return fmt.Sprintf("%d:%d", r.Start, r.Size) }

// Valid reports whether the range is non-empty and stays below the id that
// means "no id" (4294967295).
func (r Range) Valid() bool {
	return r.Size > 0 && uint64(r.Start)+uint64(r.Size) <= 1<<32-1
}

// Contains reports whether the host id lies in the range.
func (r Range) Contains(id uint32) bool { return id >= r.Start && id-r.Start < r.Size }

// Extent is one line of a uid_map or gid_map.
type Extent struct {
	Inside, Outside, Size uint32
}

// Map is a whole uid_map or gid_map.
type Map []Extent

// String gives the text the kernel takes: one `inside outside size` a line.
func (m Map) String() string {
	s := ""
	for _, e := range m {
		s += fmt.Sprintf("%d %d %d\n", e.Inside, e.Outside, e.Size)
	}
	return s
}

// ParseMap reads what String gives, as the kernel writes it.
func ParseMap(text string) (m Map, err error) {
	for line := range strings.Lines(text) {
		var e Extent
		if _, err := fmt.Sscan(line, &e.Inside, &e.Outside, &e.Size); err != nil {
			return nil, err
		}
		m = append(m, e)
	}
	return m, nil
}

// Map gives the map that puts the machine's ids 0… on the range.
func (r Range) Map() Map { return Map{{0, r.Start, r.Size}} }

// From gives the map that leads where m does, counted from an id.
func (m Map) From(start uint32) Map {
	var out Map
	for _, e := range m {
		e.Outside += start
		out = append(out, e)
	}
	return out
}

// Host gives the host's id for one that the machine sees; false if it has
// none.
func (m Map) Host(id uint32) (uint32, bool) {
	for _, e := range m {
		if id >= e.Inside && id-e.Inside < e.Size {
			return e.Outside + (id - e.Inside), true
		}
	}
	return 0, false
}

// Through gives the map as it reads for who lives in other users: ids outside
// become those that the other map has for them inside. It is false if some
// have none.
func (m Map) Through(home Map) (Map, bool) {
	var out Map
	for _, e := range m {
		for e.Size > 0 {
			found := false
			for _, h := range home {
				r := Range{Start: h.Outside, Size: h.Size}
				if !r.Contains(e.Outside) {
					continue
				}
				n := min(e.Size, h.Size-(e.Outside-h.Outside))
				out = append(out, Extent{Inside: e.Inside, Outside: h.Inside + (e.Outside - h.Outside), Size: n})
				e.Inside, e.Outside, e.Size = e.Inside+n, e.Outside+n, e.Size-n
				found = true
				break
			}
			if !found {
				return nil, false
			}
		}
	}
	return out, true
}
