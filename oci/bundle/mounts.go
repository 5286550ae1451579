package bundle

import (
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/mount"
)

// The mount options that only bundles have, beside mount.Options.
const (
	optCopySymlink  = "copy-symlink"
	optDestNoFollow = "dest-nofollow"
	optIDMap        = "idmap"
	optIversion     = "iversion"
	optNoiversion   = "noiversion"
	optRemount      = "remount"
	optRIDMap       = "ridmap"
	optSrcNoFollow  = "src-nofollow"
	optTmpCopyUp    = "tmpcopyup"
)

var bundleOptions = [...]string{optCopySymlink, optDestNoFollow, optIDMap, optIversion, optNoiversion, optRemount, optRIDMap, optSrcNoFollow, optTmpCopyUp}

// mounts keeps the bundle's order, and gives binds and, for everything else,
// Arbitrary: a tmpfs, too, since no default of launch's own may come on top.
func (r *reader) mounts() {
	for i := range r.spec.Mounts {
		if m, ok := r.mount(point("/mounts", i), &r.spec.Mounts[i]); ok {
			r.s.Mounts = append(r.s.Mounts, m)
		}
	}
}

func (r *reader) mount(at string, from *specs.Mount) (m mount.Mount, ok bool) {
	m.Origin = r.at(at)
	if !r.clean(at+"/destination", from.Destination) || !r.clean(at+"/source", from.Source) || !r.clean(at+"/type", from.Type) {
		return m, false
	}
	switch m.Target = path.Clean("/" + from.Destination); {
	case from.Destination == "":
		r.refuse(problem{at + "/destination", nil, "cannot mount without a destination", ""})
		return m, false
	case m.Target == "/":
		r.refuse(problem{at + "/destination", from.Destination, "cannot mount on the root itself", "say what the root is in root.path"})
		return m, false
	case !path.IsAbs(from.Destination):
		r.warn(problem{at + "/destination", from.Destination, "taken for " + m.Target + ": a destination should be absolute", "write " + m.Target})
	}
	o := r.mountOptions(at, from.Options, &m)
	if r.err != nil {
		return m, false
	}

	m.Kind = mount.Arbitrary
	switch {
	case o.remount:
		// What is there already is bound onto itself, with the new flags.
		m.Kind, m.NoRecurse = mount.Bind, false
		m.Source = mount.Path{Path: m.Target, InRoot: true}
		if m.Options != "" {
			r.refuse(problem{o.at(m.Options), m.Options, "cannot change options of a file system that is mounted already", "leave out remount, or the option"})
		}
	case o.bind:
		m.Kind, m.NoRecurse = mount.Bind, !o.rbind
		if from.Source == "" {
			r.refuse(problem{at + "/source", nil, "cannot bind without a source", ""})
			return m, false
		}
		m.Source.Path = r.below(from.Source)
		if m.Options != "" {
			r.warn(problem{o.at(m.Options), m.Options, "ignored: a bind mount shows a file system that has its options already", ""})
			m.Options = ""
		}
		// mount(2) gives a mount the flags that it is told, and no others: so
		// do other runtimes as soon as a word is about one. But "ro" alone
		// takes nothing else away.
		if told := m.Set | m.Clear; told != 0 && m.Set != unix.MOUNT_ATTR_RDONLY {
			m.Rest = flags &^ told
			if o.atime {
				m.Rest &^= unix.MOUNT_ATTR__ATIME
			}
		}
	case from.Type == "bind":
		// The specification has the options decide; the type is a dummy.
		r.refuse(problem{at + "/type", from.Type, "cannot mount: no file system has this type", "add the option bind or rbind"})
		return m, false
	case from.Type == "":
		r.refuse(problem{at + "/type", nil, "cannot mount a file system without knowing its type", "give a type, or add the option rbind"})
		return m, false
	case strings.ContainsAny(from.Type, "/, \t\n"):
		r.refuse(problem{at + "/type", from.Type, "cannot take this for the type of a file system", ""})
		return m, false
	default:
		m.Type = from.Type
		m.Source.Path = from.Source
	}
	if m.CopyUp && m.Type != "tmpfs" {
		r.warn(problem{o.at(optTmpCopyUp), optTmpCopyUp, "ignored: this is for tmpfs", ""})
		m.CopyUp = false
	}
	if m.Kind != mount.Bind {
		for _, w := range [...]string{optDestNoFollow, optSrcNoFollow, optCopySymlink} {
			if contains(o.words, w) {
				r.warn(problem{o.at(w), w, "ignored: this is for bind mounts", ""})
			}
		}
		m.NoFollow, m.SourceLink = false, mount.Followed
	}
	r.mountIDs(at, from, o, &m)
	return m, r.err == nil
}

// flags are those of a mount.
const flags = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODIRATIME |
	unix.MOUNT_ATTR_NOSYMFOLLOW | unix.MOUNT_ATTR__ATIME

// mountWords are what the options say beside flags.
type mountWords struct {
	where                string
	words                []string
	bind, rbind, remount bool
	idmap, ridmap        bool
	ids, idsAt           string // what an idmap that has a value says, and where
	atime                bool   // a word is about access times
}

// at gives the pointer of an option.
func (o *mountWords) at(word string) string {
	for i, w := range o.words {
		if w == word || strings.HasPrefix(word, w+",") {
			return point(o.where, i)
		}
	}
	return o.where
}

func (r *reader) mountOptions(at string, words []string, m *mount.Mount) *mountWords {
	o := &mountWords{where: at + "/options", words: words}
	n := 0
	for i, w := range words {
		if !r.clean(point(o.where, i), w) {
			return o
		}
		if name, ids, ok := strings.Cut(w, "="); ok && (name == optIDMap || name == optRIDMap) {
			w, o.ids, o.idsAt = name, ids, point(o.where, i)
		}
		switch w {
		case "":
			continue
		case optCopySymlink:
			m.SourceLink = mount.Copied
			continue
		case optSrcNoFollow:
			m.SourceLink = mount.Bound
			continue
		case optDestNoFollow:
			m.NoFollow = true
			continue
		case optIDMap:
			o.idmap = true
			continue
		case optRIDMap:
			o.idmap, o.ridmap = true, true
			continue
		case optRemount:
			o.remount = true
			continue
		case optTmpCopyUp:
			m.CopyUp = true
			continue
		case optIversion, optNoiversion:
			// A flag for those who read the table only: file systems have
			// words of their own for it, if any.
			continue
		}
		f, known := mount.FindOption(w)
		switch {
		case !known && strings.HasPrefix(w, "x-"), known && f.Effect == mount.Ignored:
		case !known, f.Effect == mount.Superblock:
			if n++; n > 1 {
				m.Options += ","
			}
			m.Options += w
		case f.Effect == mount.Binding:
			o.bind = true
			o.rbind = o.rbind || f.Recursive
		case f.Effect == mount.Propagation:
			m.Propagation = append(m.Propagation, propagation(f))
		case f.Recursive:
			m.AllClear = m.AllClear&^f.Set | f.Clear
			m.AllSet = m.AllSet&^f.Clear | f.Set
		default:
			m.Clear = m.Clear&^f.Set | f.Clear
			m.Set = m.Set&^f.Clear | f.Set
			o.atime = o.atime || f.Clear&unix.MOUNT_ATTR__ATIME != 0
		}
	}
	return o
}

// mountIDs reads how the owners of a bind mount's files are shown.
func (r *reader) mountIDs(at string, from *specs.Mount, o *mountWords, m *mount.Mount) {
	told := len(from.UIDMappings) > 0 || len(from.GIDMappings) > 0
	switch {
	case !told && !o.idmap:
		return
	case m.Kind != mount.Bind || o.remount:
		r.refuse(problem{at, nil, "cannot map the owners of a file system that is not a bind mount", "add the option rbind, or leave out idmap and the mappings"})
	case o.ids != "" && told:
		r.refuse(problem{o.idsAt, nil, "cannot map owners twice: by an option and by mappings", "leave one of them out"})
	case o.ids != "":
		r.optionIDs(o, m)
	case !told && !r.has("user"):
		r.refuse(problem{o.at(optIDMap), nil, "cannot map owners: neither the mount has mappings, nor the container a user namespace", "add uidMappings and gidMappings to the mount"})
	case !told:
		m.MapContainer = true
	case len(from.UIDMappings) == 0:
		r.refuse(problem{at + "/uidMappings", nil, "cannot map groups and not users", "add uidMappings to the mount"})
	case len(from.GIDMappings) == 0:
		r.refuse(problem{at + "/gidMappings", nil, "cannot map users and not groups", "add gidMappings to the mount"})
	default:
		m.UIDs = r.idMap(at+"/uidMappings", from.UIDMappings)
		m.GIDs = r.idMap(at+"/gidMappings", from.GIDMappings)
		if !o.idmap {
			r.warn(problem{at, nil, "taken for idmap: the mount has mappings, and no word about them in its options", "add the option idmap or ridmap"})
		}
	}
	m.MapAll = o.ridmap
}

// optionIDs reads the map of owners from the option idmap=uids=A-B-N#…;gids=…:
// what the files have from A on is shown to the host as from B on, for N ids.
// Behind an @, B is a number of the container's.
func (r *reader) optionIDs(o *mountWords, m *mount.Mount) {
	refuse := func(text, what string) {
		r.refuse(problem{o.idsAt, text, what, "write idmap=uids=0-1000-10;gids=0-1000-10"})
	}
	for part := range strings.SplitSeq(o.ids, ";") {
		name, ranges, _ := strings.Cut(part, "=")
		to, around := &m.UIDs, r.linux.UIDMappings
		switch name {
		case "uids":
		case "gids":
			to, around = &m.GIDs, r.linux.GIDMappings
		default:
			refuse(part, "cannot map owners by this: it is neither uids= nor gids=")
			return
		}
		var list []specs.LinuxIDMapping
		for text := range strings.SplitSeq(ranges, "#") {
			numbers, relative := strings.CutPrefix(text, "@")
			f := strings.Split(numbers, "-")
			var n [3]uint32
			bad := len(f) != len(n)
			for i := 0; i < len(n) && !bad; i++ {
				id, err := parseID(f[i])
				n[i], bad = id, err != nil
			}
			if bad {
				refuse(text, "cannot take this for a range of ids")
				return
			}
			ids := []specs.LinuxIDMapping{{ContainerID: n[0], HostID: n[1], Size: n[2]}}
			if relative {
				ids = hostRanges(around, ids[0])
			}
			if len(ids) == 0 {
				refuse(text, "cannot map to ids that the container does not have")
				return
			}
			list = append(list, ids...)
		}
		*to = r.idMap(o.idsAt, list)
	}
	if r.err == nil && (m.UIDs == nil || m.GIDs == nil) {
		refuse(o.ids, "cannot map users and not groups, or groups and not users")
	}
}

// hostRanges gives a range whose HostIDs are the container's as the host has
// them: those that the container has, in as many ranges as it has them in.
func hostRanges(container []specs.LinuxIDMapping, want specs.LinuxIDMapping) (list []specs.LinuxIDMapping) {
	for _, e := range container {
		from := max(want.HostID, e.ContainerID)
		to := min(uint64(want.HostID)+uint64(want.Size), uint64(e.ContainerID)+uint64(e.Size))
		if uint64(from) < to {
			list = append(list, specs.LinuxIDMapping{ContainerID: want.ContainerID + from - want.HostID, HostID: e.HostID + from - e.ContainerID, Size: uint32(to - uint64(from))})
		}
	}
	return list
}
