// Package mount describes mounts as a user writes them: what goes where, with
// which options. Parsing, ordering and the volatile modes live here; nothing
// in it calls the kernel.
//
// A mount's Target is a path inside the machine's root. What it resolves to is
// decided later, by descriptor, when the tree is there (package attach).
//
// Room: paper.
package mount

import (
	"launch/internal/origin"
	"launch/userns"
)

// Kind is what sort of mount it is. The order is the one in which mounts of
// the same target are made.
type Kind uint8

// The five kinds.
const (
	Bind Kind = iota
	Tmpfs
	Overlay
	Inaccessible
	Arbitrary
)

var kindNames = [...]string{"bind", "tmpfs", "overlay", "inaccessible", "arbitrary"}

// String gives the kind's name.
func (k Kind) String() string { return kindNames[k] }

// MarshalText gives the kind's name, for JSON.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Path is a source of a mount.
type Path struct {
	// Path is absolute: on the host, or below the machine's root if InRoot.
	Path string `json:"path,omitempty"`
	// InRoot: written with a leading `+`.
	InRoot bool `json:"in_root,omitempty"`
	// Temp: written as an empty field; a fresh directory is made under
	// /var/tmp, and removed when the machine is gone.
	Temp bool `json:"temp,omitempty"`
}

// IDMap says how owners are shown through a bind mount.
type IDMap string

// The id maps of a bind mount.
const (
	NoIDMap    IDMap = ""
	FullIDMap  IDMap = "idmap"      // the machine's whole range
	RootIDMap  IDMap = "rootidmap"  // the source's owner is the machine's root
	OwnerIDMap IDMap = "owneridmap" // the source's owner is the target's owner

	// ForeignIDMap is for trees alone: as FullIDMap, for files that belong to
	// the range that no machine runs in.
	ForeignIDMap IDMap = "foreign"
)

// Link says what becomes of the source of a bind mount that is a link.
type Link string

// What can be done with a link.
const (
	Followed Link = ""
	Bound    Link = "bound"  // it is itself seen at the target
	Copied   Link = "copied" // nothing is mounted: the target is a link to the same
)

// The sources that the mounts made for a layer have in a mount table: whoever
// saves or restores a tree of mounts knows by them what was asked for and what
// was made for it. LayerSource is an overlay whose upper directory is thrown
// away, and the tmpfs that this is on; StubsSource an overlay without an upper
// directory, which shows mount points that its lower one lacks, and the tmpfs
// that has those.
const (
	LayerSource = "launch-layer"
	StubsSource = "launch-stubs"
)

// Mount is one mount that the user asked for.
type Mount struct {
	Kind Kind `json:"kind"`
	// Target is absolute and clean, inside the machine's root.
	Target string `json:"target"`
	// Source: what is bound, or an overlay's upper directory.
	Source Path `json:"source,omitzero"`
	// Lower are an overlay's lower directories, lowest first.
	Lower []Path `json:"lower,omitempty"`
	// ReadOnly holds for everything below the target, too.
	ReadOnly bool `json:"read_only,omitempty"`
	// Optional: a source that isn't there is no error (a leading `-`).
	Optional bool `json:"optional,omitempty"`
	// NoRecurse: only the source's own mount is bound (norbind).
	NoRecurse bool  `json:"no_recurse,omitempty"`
	IDMap     IDMap `json:"id_map,omitempty"`
	// Type is an arbitrary mount's file system.
	Type string `json:"type,omitempty"`
	// Options are file system options and mount flags in mount(8)'s words,
	// comma separated, as written.
	Options string `json:"options,omitempty"`
	// What only bundles say. Set and Clear are MOUNT_ATTR_ flags of the mount,
	// AllSet and AllClear of it and of all below; Rest are those that no word
	// is about, and that are cleared where the kernel lets, as mount(2) has it
	// for a mount with any flags. Propagation are MS_ flags with MS_REC, in
	// order. CopyUp: a tmpfs begins with a copy of what the
	// target holds. NoFollow: a Target that is a link is made as one;
	// SourceLink: what becomes of a Source that is one. UIDs and
	// GIDs are the owners' map of an id-mapped mount, for all below if
	// MapAll; MapContainer: the container's own map.
	Set          uint64     `json:"set,omitempty"`
	Clear        uint64     `json:"clear,omitempty"`
	Rest         uint64     `json:"rest,omitempty"`
	AllSet       uint64     `json:"all_set,omitempty"`
	AllClear     uint64     `json:"all_clear,omitempty"`
	Propagation  []uint64   `json:"propagation,omitempty"`
	CopyUp       bool       `json:"copy_up,omitempty"`
	NoFollow     bool       `json:"no_follow,omitempty"`
	SourceLink   Link       `json:"source_link,omitempty"`
	UIDs         userns.Map `json:"uids,omitempty"`
	GIDs         userns.Map `json:"gids,omitempty"`
	MapAll       bool       `json:"map_all,omitempty"`
	MapContainer bool       `json:"map_container,omitempty"`

	Origin origin.Origin `json:"origin,omitzero"`
}
