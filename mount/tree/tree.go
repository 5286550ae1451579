// Package tree has saved mount trees: what a file of them holds, how it is made
// of mount tables, what is wrong with a file, and in which order sharing groups
// are brought back.
//
// It guarantees that a tree that Decode gave is one that can exist: each
// namespace has one root, each mount lies on another, no group is its own
// master, no path leaves its file system, and all sizes are bounded. What is
// outside of the tree has a name that says nothing (an opaque id); what that
// may mean is for whoever restores it to say.
//
// It refuses to know the kernel: package snapshot reads and makes mounts.
//
//	f, err := tree.Decode(text)
//	for _, g := range f.Order() { … }
//
// Room: paper.
package tree

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/siphash"
	"launch/mount"
)

// Version is the version of the file's format.
const Version = 1

// File is the mounts of one machine.
type File struct {
	Version    int         `json:"launch-mounts"`
	Sources    []Source    `json:"sources"`
	Groups     []Group     `json:"groups,omitempty"`
	Namespaces []Namespace `json:"namespaces"`
}

// Namespace is the mounts of one namespace, parents before children.
type Namespace struct {
	Mounts []Mount `json:"mounts"`
}

// Source is a file system, or a part of one that comes from outside.
type Source struct {
	ID string `json:"id"`
	// External: it is not made, but given to who restores.
	External bool `json:"external,omitempty"`
	// Type is the file system's type. Of an external one it only informs.
	Type string `json:"type"`
	// Device is what mount(8) shows as the source of a new one.
	Device  string   `json:"device,omitempty"`
	Options []string `json:"options,omitempty"`
	// ReadOnly: the file system itself is.
	ReadOnly bool `json:"read-only,omitempty"`
	// Made: nobody asked for it, but for a layer or for stubs: it is made anew.
	// An external one is an overlay, and what its id stands for is to lie below.
	Made Made `json:"made,omitempty"`
}

// Made says what something was made for; empty: somebody asked for it.
type Made string

const (
	Layer Made = "layer" // what is written is thrown away
	Stubs Made = "stubs" // mount points that were missing in what lies below
)

// MadeFor gives what a file system was made for, by its type and by the source
// that a mount table shows.
func MadeFor(fstype, device string) Made {
	switch {
	case fstype != "overlay" && fstype != "tmpfs":
	case device == mount.LayerSource:
		return Layer
	case device == mount.StubsSource:
		return Stubs
	}
	return ""
}

// Group is a sharing group: mounts that hear of each other's mounts.
type Group struct {
	ID int `json:"id"`
	// Master is the group whose mounts it hears of; 0: none.
	Master int `json:"master,omitempty"`
	// Outside is the opaque id of a group that has members outside of the
	// tree.
	Outside string `json:"outside,omitempty"`
}

// Mount is one mount.
type Mount struct {
	// ID is unique in the file, from 1.
	ID int `json:"id"`
	// Parent is the mount it lies on; 0: it is the namespace's root.
	Parent int `json:"parent,omitempty"`
	// Point is where on the parent, from the parent's own root.
	Point string `json:"point"`
	// Source is what is mounted, Root which part of it.
	Source string   `json:"source"`
	Root   string   `json:"root"`
	Kind   Kind     `json:"kind,omitempty"`
	Flags  []string `json:"flags,omitempty"`
	// Users: owners are mapped to the machine's users.
	Users bool `json:"users,omitempty"`
	// Deleted: Root was removed after it was mounted.
	Deleted bool `json:"deleted,omitempty"`
	// Group is its sharing group, 0: none. Slave is the group that it hears of
	// without being in one.
	Group      int  `json:"group,omitempty"`
	Slave      int  `json:"slave,omitempty"`
	Unbindable bool `json:"unbindable,omitempty"`
}

// Kind is what the root of a mount is. It is empty where nobody could look,
// since another mount hides it.
type Kind string

const (
	Dir  Kind = "dir"
	Node Kind = "file" // anything but a directory
)

// RootID is the id of the external source on / of the first namespace.
const RootID = "root"

// Key is the opaque id of what is on a target: the same for the same target,
// and nothing in it could be read as a path or as an option by anybody.
func Key(namespace int, target string) string {
	if namespace == 0 && target == "/" {
		return RootID
	}
	return "m-" + hash(namespace, target)
}

// MasterKey is the opaque id of an outside group of which the mount on target
// hears.
func MasterKey(namespace int, target string) string { return "g-" + hash(namespace, target) }

// hashKey is no secret: it only makes our ids unlike anybody else's hashes.
const hashKey = "launch-mounts-id"

func hash(namespace int, target string) string {
	return fmt.Sprintf("%016x", siphash.Sum(hashKey, strconv.Itoa(namespace)+":"+target))
}

// New are the types of file systems that are made anew; others are external.
// Not cgroup2: its options are the whole host's. For each, the options that may
// be in a file.
var newTypes = [...]struct {
	name    string
	options []string
}{
	{"tmpfs", []string{"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol", "inode64", "inode32", "noswap"}},
	{"ramfs", []string{"mode"}},
	{"devpts", []string{"uid", "gid", "mode", "ptmxmode", "max"}},
	{"proc", []string{"hidepid", "gid", "subset"}},
	{"sysfs", nil},
	{"mqueue", nil},
}

// IsNew reports whether file systems of the type are made anew.
func IsNew(fstype string) bool {
	return slices.ContainsFunc(newTypes[:], func(t struct {
		name    string
		options []string
	}) bool {
		return t.name == fstype
	})
}

func optionsOf(fstype string) []string {
	for _, t := range newTypes {
		if t.name == fstype {
			return t.options
		}
	}
	return nil
}

// own reports whether each mount of the type is a file system of its own, whose
// super block nobody else has.
func own(fstype string) bool { return fstype != "sysfs" && fstype != "mqueue" }

// flags are the words for the flags of a mount. Not among them is relatime,
// which is the default, as for the kernel.
var flags = [...]struct {
	word string
	attr uint64
}{
	{"ro", unix.MOUNT_ATTR_RDONLY},
	{"nosuid", unix.MOUNT_ATTR_NOSUID},
	{"nodev", unix.MOUNT_ATTR_NODEV},
	{"noexec", unix.MOUNT_ATTR_NOEXEC},
	{"noatime", unix.MOUNT_ATTR_NOATIME},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW},
}

// Attr gives the MOUNT_ATTR_ flags of a mount.
func (m *Mount) Attr() (attr uint64) {
	for _, f := range flags {
		if slices.Contains(m.Flags, f.word) {
			attr |= f.attr
		}
	}
	return attr
}

// Words gives the words for MOUNT_ATTR_ flags.
func Words(attr uint64) (list []string) {
	for _, f := range flags {
		if attr&f.attr != 0 {
			list = append(list, f.word)
		}
	}
	return list
}

// Differ tells how two trees differ, but for their ids; "" is not at all.
func Differ(a, b *File) string {
	if len(a.Namespaces) != len(b.Namespaces) {
		return "there are more namespaces, or fewer"
	}
	sources := [2]map[string]*Source{{}, {}}
	for i, f := range []*File{a, b} {
		for j := range f.Sources {
			sources[i][f.Sources[j].ID] = &f.Sources[j]
		}
	}
	for i := range a.Namespaces {
		x, y := a.Namespaces[i].described(sources[0]), b.Namespaces[i].described(sources[1])
		count := map[string]int{}
		for _, at := range x {
			count[at]++
		}
		for _, at := range y {
			if count[at]--; count[at] < 0 {
				return "there is " + at
			}
		}
		for _, at := range x {
			if count[at] > 0 {
				return "there was " + at
			}
		}
	}
	return ""
}

// described gives a line for each mount, without sharing groups.
func (n *Namespace) described(sources map[string]*Source) (list []string) {
	at := n.Targets()
	for _, m := range n.Mounts {
		s := sources[m.Source]
		line := s.Type
		if s.External {
			line = "something of the host's"
		}
		line += " on " + strconv.Quote(at[m.ID])
		if len(m.Flags) > 0 {
			line += " " + strings.Join(m.Flags, ",")
		}
		if m.Group != 0 {
			line += " shared"
		}
		list = append(list, line)
	}
	return list
}
