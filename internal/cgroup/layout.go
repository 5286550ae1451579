package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/cgroup/resource"
	"launch/internal/sys"
	"launch/mount/tree"
)

// Hierarchy is one tree of cgroups that is mounted on this host.
type Hierarchy struct {
	// Version is 1 or 2.
	Version int
	// Controllers are, in version 1, those the tree is for, or its name
	// (name=systemd); in version 2, those it offers at the mount.
	Controllers []string
	// Mount is where it is mounted, Root what of the tree is seen there.
	Mount, Root string
	// Own is where the reader is in the tree.
	Own string

	id uint64 // of the mount
}

// Layout is what this host has of cgroups. Every layout is taken as it is:
// version 1, version 2, both, or none at all.
type Layout struct {
	Hierarchies []Hierarchy
}

// Detect finds the hierarchies that the caller sees.
func Detect() (Layout, error) {
	mounts, err := sys.ReadFile(unix.AT_FDCWD, "/proc/thread-self/mountinfo", 64<<20)
	if err != nil {
		return Layout{}, fmt.Errorf("read the mount table: %w", err)
	}
	own, err := sys.ReadFile(unix.AT_FDCWD, "/proc/thread-self/cgroup", 1<<20)
	if err != nil && err != unix.ENOENT { // a kernel without cgroups
		return Layout{}, fmt.Errorf("read the own cgroups: %w", err)
	}
	var l Layout
	for _, candidates := range parse(string(mounts), string(own)) {
		for _, h := range candidates {
			// A mount may be covered by another one; then its path leads elsewhere.
			st, err := sys.Statx(unix.AT_FDCWD, h.Mount, unix.STATX_MNT_ID)
			if err != nil || st.Mask&unix.STATX_MNT_ID != 0 && st.Mnt_id != h.id {
				continue
			}
			if h.Version == 2 {
				text, err := sys.ReadFile(unix.AT_FDCWD, h.Mount+"/cgroup.controllers", 4096)
				if err != nil && err != unix.ENOENT {
					return Layout{}, fmt.Errorf("read the controllers of %s: %w", h.Mount, err)
				}
				h.Controllers = strings.Fields(string(text))
			}
			l.Hierarchies = append(l.Hierarchies, h)
			break
		}
	}
	return l, nil
}

// parse gives, for each hierarchy that the reader is in, the mounts that show
// it: /sys/fs/cgroup's before others, whole trees before parts.
func parse(mountinfo, own string) [][]Hierarchy {
	var mounts []Hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 6 || len(g) < 3 || g[0] != "cgroup" && g[0] != "cgroup2" {
			continue
		}
		h := Hierarchy{Version: 1, Root: tree.Unescape(f[3]), Mount: tree.Unescape(f[4])}
		h.id, _ = strconv.ParseUint(f[0], 10, 64)
		if g[0] == "cgroup2" {
			h.Version = 2
		} else {
			h.Controllers = strings.Split(g[2], ",") // among other options
		}
		mounts = append(mounts, h)
	}
	rank := func(h Hierarchy) int {
		n := 0
		if !strings.HasPrefix(h.Mount, "/sys/fs/cgroup") {
			n += 2
		}
		if h.Root != "/" {
			n++
		}
		return n
	}
	slices.SortStableFunc(mounts, func(a, b Hierarchy) int { return rank(a) - rank(b) })

	var all [][]Hierarchy
	for line := range strings.Lines(own) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		version, names := 1, strings.Split(f[1], ",")
		if f[1] == "" {
			version = 2
		}
		var found []Hierarchy
		for _, m := range mounts {
			if m.Version != version || version == 1 && !containsAll(m.Controllers, names) {
				continue
			}
			m.Own = strings.TrimSuffix(f[2], " (deleted)")
			m.Controllers = nil
			if version == 1 {
				m.Controllers = names
			}
			found = append(found, m)
		}
		if found != nil {
			all = append(all, found)
		}
	}
	return all
}

func containsAll(all, some []string) bool {
	for _, s := range some {
		if !slices.Contains(all, s) {
			return false
		}
	}
	return true
}

// Kind names the layout: v1, v2, hybrid (both) or none.
func (l Layout) Kind() string {
	v1, v2 := 0, 0
	for _, h := range l.Hierarchies {
		switch {
		case h.Version == 2:
			v2++
		case !named(h.Controllers):
			v1++
		}
	}
	switch {
	case v1 > 0 && v2 > 0:
		return "hybrid"
	case v1 > 0:
		return "v1"
	case v2 > 0:
		return "v2"
	}
	return "none"
}

func named(controllers []string) bool {
	return len(controllers) == 1 && strings.HasPrefix(controllers[0], "name=")
}

// Group gives the cgroups that a bundle's cgroupsPath stands for, one in each
// hierarchy; nothing is made yet.
//
// An absolute path is below the root of each hierarchy as it is mounted. A
// relative one is below the caller's own cgroup; and since in version 2 a
// cgroup that has processes can't pass controllers on, it is there below the
// own cgroup's parent, unless the own cgroup is the root. An empty path
// is the id, taken as a relative path.
func (l Layout) Group(cgroupsPath, id string) (Group, error) {
	if cgroupsPath == "" {
		cgroupsPath = id
	}
	absolute := strings.HasPrefix(cgroupsPath, "/")
	// Cleaned as if from the root, .. leads nowhere above it.
	clean := path.Clean("/" + cgroupsPath)
	if clean == "/" {
		return Group{}, fmt.Errorf("cgroupsPath %q is no cgroup that could be a container's own", cgroupsPath)
	}
	if strings.ContainsAny(clean, "\n\x00") {
		return Group{}, fmt.Errorf("cgroupsPath %q has a character that no cgroup's name may have", cgroupsPath)
	}
	var g Group
	for _, h := range l.Hierarchies {
		at := clean
		if !absolute {
			own, err := h.below(h.Own)
			if err != nil {
				return Group{}, err
			}
			if h.Version == 2 && l.Kind() == "v2" && own != "/" {
				own = path.Dir(own)
			}
			at = path.Join(own, clean)
		}
		g.Dirs = append(g.Dirs, Dir{Version: h.Version, Controllers: h.Controllers, Mount: h.Mount, Path: at})
	}
	return g, nil
}

// below gives a path of the hierarchy as a path below its mount.
func (h Hierarchy) below(p string) (string, error) {
	rest, ok := strings.CutPrefix(p, strings.TrimSuffix(h.Root, "/"))
	if !ok || strings.HasPrefix(p, "/..") || rest != "" && rest[0] != '/' {
		return "", fmt.Errorf("the own cgroup %s isn't to be seen in %s, which shows %s", p, h.Mount, h.Root)
	}
	return path.Clean("/" + rest), nil
}

// Roots gives, for each controller of version 1 and for "", which stands for
// version 2, where the group is in the whole tree that the caller's cgroup
// namespace shows, whatever part of that is mounted.
func (l Layout) Roots(g Group) (list [][2]string) {
	for _, d := range g.Dirs {
		root := "/"
		for _, h := range l.Hierarchies {
			if h.Mount == d.Mount {
				root = h.Root
			}
		}
		full := path.Join(root, d.Path)
		if d.Version == 2 {
			list = append(list, [2]string{"", full})
		}
		for _, c := range d.Controllers {
			if d.Version == 1 {
				list = append(list, [2]string{c, full})
			}
		}
	}
	return list
}

// OfProcess gives the cgroups that a process is in. One more process of a
// container goes beside its first one where it can't go into the container's
// own cgroup: in version 2 that is EBUSY once the container divided it.
func (l Layout) OfProcess(pid int) (Group, error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/cgroup", 1<<20)
	if err != nil {
		return Group{}, fmt.Errorf("read the cgroups of process %d: %w", pid, err)
	}
	return l.group(string(text))
}

// group gives the cgroups that the text of a /proc/PID/cgroup names.
func (l Layout) group(text string) (Group, error) {
	var g Group
	for _, h := range l.Hierarchies {
		for line := range strings.Lines(text) {
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			if len(f) != 3 || (f[1] == "") != (h.Version == 2) || h.Version == 1 && !slices.Equal(strings.Split(f[1], ","), h.Controllers) {
				continue
			}
			at, err := h.below(strings.TrimSuffix(f[2], " (deleted)"))
			if err != nil {
				return Group{}, err
			}
			g.Dirs = append(g.Dirs, Dir{Version: h.Version, Controllers: h.Controllers, Mount: h.Mount, Path: at})
		}
	}
	return g, nil
}

// UnitGroup gives the cgroups of the unit that systemd put a process into: the
// same path in each hierarchy. A process that ended too early to be put there
// is an error: it is still where it was born, and that is the caller's.
func (l Layout) UnitGroup(pid int, unit string) (Group, error) {
	g, err := l.OfProcess(pid)
	if err != nil {
		return Group{}, err
	}
	return l.unitGroup(g, unit)
}

func (l Layout) unitGroup(g Group, unit string) (Group, error) {
	at, ok := g.Unified()
	for _, d := range g.Dirs {
		if slices.Contains(d.Controllers, "name=systemd") {
			at, ok = d, true
		}
	}
	if !ok {
		return Group{}, errors.New("there is no hierarchy of systemd's")
	}
	// Systemd puts a _ before names that could be a file's.
	if name := path.Base(at.Path); name != unit && name != "_"+unit {
		return Group{}, fmt.Errorf("systemd left the process in cgroup %s, which is not that of %s", at, unit)
	}
	return l.Group(at.Path, "")
}

// Offers says which controllers the host has, for packages that work out
// limits.
func (l Layout) Offers() resource.Hierarchies {
	var g Group
	for _, h := range l.Hierarchies {
		g.Dirs = append(g.Dirs, Dir{Version: h.Version, Controllers: h.Controllers})
	}
	return g.hierarchies()
}

// hierarchies says what a group offers, for resource.Writes.
func (g Group) hierarchies() resource.Hierarchies {
	var r resource.Hierarchies
	for _, d := range g.Dirs {
		if d.Version == 1 {
			r.V1 = append(r.V1, d.Controllers...)
			continue
		}
		r.Unified = true
		r.V2 = append(r.V2, d.Controllers...)
	}
	return r
}
