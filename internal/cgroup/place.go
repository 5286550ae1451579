package cgroup

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"launch/internal/sys"
)

// Place is where a new process is to be born: descriptors of a group's
// directories.
//
// Writing a process's number into cgroup.procs makes the kernel wait for all
// processors, 3 to 15 ms on an idle host. So in version 2 the process is
// born in its cgroup (clone3 with CLONE_INTO_CGROUP and FD); in version 1 the
// thread that makes it goes into the cgroup first (Enter), which is
// cheap for one thread, and comes back (Leave).
type Place struct {
	// FD is the version 2 directory, -1 if there is none.
	FD int

	v1   []spot
	rest []int // to be joined by number, as indexes of v1
	away bool
}

type spot struct {
	dir     Dir
	n, back int // descriptors of the cgroup's tasks file's directory and of the thread's own
}

// Open gives the place of a new process in the group. The caller closes it.
//
// It must be called where the host's cgroups are to be seen; Enter and Leave
// only use descriptors, and so work wherever the thread's root is by then.
func (g Group) Open() (*Place, error) {
	p := &Place{FD: -1}
	home, err := g.home()
	if err != nil {
		return nil, err
	}
	for _, d := range g.Dirs {
		n, err := d.open()
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("open cgroup %s: %w", d, err)
		}
		if d.Version == 2 {
			p.FD = n
			continue
		}
		p.v1 = append(p.v1, spot{d, n, -1})
		s := &p.v1[len(p.v1)-1]
		if !enterable(d, n) {
			p.rest = append(p.rest, len(p.v1)-1)
			continue
		}
		j := slices.IndexFunc(home, func(h Dir) bool { return h.Version == 1 && slices.Equal(h.Controllers, d.Controllers) })
		if j < 0 {
			p.Close()
			return nil, fmt.Errorf("open cgroup %s: there would be no way back out of it", d)
		}
		if s.back, err = home[j].open(); err != nil {
			p.Close()
			return nil, fmt.Errorf("open cgroup %s: %w", home[j], err)
		}
	}
	return p, nil
}

// Born reports whether a process that is born in the group needs nothing of the
// launcher's: it is one cgroup of version 2, whose limits may come later.
func (g Group) Born() bool { return len(g.Dirs) == 1 && g.Dirs[0].Version == 2 }

// home gives the version 1 cgroups that the caller is in, if g has some.
func (g Group) home() ([]Dir, error) {
	if !slices.ContainsFunc(g.Dirs, func(d Dir) bool { return d.Version == 1 }) {
		return nil, nil
	}
	layout, err := Detect()
	if err != nil {
		return nil, err
	}
	var out []Dir
	for _, h := range layout.Hierarchies {
		at, err := h.below(h.Own)
		if err == nil {
			out = append(out, Dir{Version: h.Version, Controllers: h.Controllers, Mount: h.Mount, Path: at})
		}
	}
	return out, nil
}

// enterable tells whether the launcher's thread can go in, make one process
// and come back: not if it would be frozen, nor if the only task that is
// allowed is the new process itself.
func enterable(d Dir, n int) bool {
	switch {
	case slices.Contains(d.Controllers, "freezer"):
		text, err := sys.ReadFile(n, "freezer.state", 64)
		return err != nil || strings.TrimSpace(string(text)) == "THAWED"
	case slices.Contains(d.Controllers, "pids"):
		limit, err := readNumber(n, "pids.max")
		now, err2 := readNumber(n, "pids.current")
		return err != nil || err2 != nil || limit >= now+2
	}
	return true
}

// Enter puts the calling thread into the version 1 cgroups, so that its
// children are born there. Leave must follow.
func (p *Place) Enter(l sys.Locked) error {
	if len(p.v1) == 0 {
		return nil
	}
	p.away = true
	for i := range p.v1 {
		if s := &p.v1[i]; !slices.Contains(p.rest, i) {
			if err := sys.WriteFile(s.n, "tasks", "0"); err != nil {
				_ = p.Leave(l) // what failed first counts
				return fmt.Errorf("enter cgroup %s: %w", s.dir, err)
			}
		}
	}
	return nil
}

// Leave puts the calling thread, which entered, back to where it was.
func (p *Place) Leave(sys.Locked) error {
	if !p.away {
		return nil
	}
	var first error
	for _, s := range p.v1 {
		if s.back < 0 {
			continue
		}
		err := sys.WriteFile(s.back, "tasks", "0")
		if err != nil {
			// Once more: a thread that stays keeps the cgroup from being removed,
			// and its processes from being killed without us.
			err = sys.WriteFile(s.back, "tasks", "0")
		}
		if err != nil && first == nil {
			first = fmt.Errorf("leave cgroup %s: %w", s.dir, err)
		}
	}
	p.away = first != nil
	return first
}

// Finish puts the process into the version 1 cgroups that the thread could not
// enter: a frozen one, or one that allows no second task. It must be called
// while the process waits.
func (p *Place) Finish(pid int) error {
	for _, i := range p.rest {
		s := p.v1[i]
		if err := sys.WriteFile(s.n, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("put process %d into cgroup %s: %w", pid, s.dir, err)
		}
	}
	return nil
}

// Close closes the descriptors.
func (p *Place) Close() {
	if p.FD >= 0 {
		sys.Close(p.FD)
		p.FD = -1
	}
	for _, s := range p.v1 {
		sys.Close(s.n)
		if s.back >= 0 {
			sys.Close(s.back)
		}
	}
	p.v1 = nil
}

// Join moves a process, with all its threads, into the group. It is slow, see
// Place.
func (g Group) Join(pid int) error {
	for _, d := range g.Dirs {
		n, err := d.open()
		if err == nil {
			err = sys.WriteFile(n, "cgroup.procs", strconv.Itoa(pid))
			sys.Close(n)
		}
		if err != nil && !(g.Rootless && denied(err)) {
			return fmt.Errorf("put process %d into cgroup %s: %w", pid, d, err)
		}
	}
	return nil
}

// Sub is a cgroup below a container's, for one more process of it.
type Sub struct {
	// Controllers narrow it to some version 1 hierarchies; nil means all.
	Controllers []string
	Path        string
}

// ParseSub reads [CTRL,…:]PATH.
func ParseSub(s string) (Sub, error) {
	var sub Sub
	sub.Path = s
	if before, after, ok := strings.Cut(s, ":"); ok {
		sub.Controllers, sub.Path = strings.Split(before, ","), after
	}
	if sub.Path == "" || slices.Contains(sub.Controllers, "") {
		return Sub{}, fmt.Errorf("cgroup %q is not like /PATH or CONTROLLER,…:/PATH", s)
	}
	for name := range strings.SplitSeq(sub.Path, "/") {
		if name == ".." {
			return Sub{}, fmt.Errorf("cgroup %q: %s is not below the container's cgroup", s, sub.Path)
		}
	}
	return sub, nil
}

// Below gives the group that one more process of the container goes into: g,
// and below it where subs say so. They must exist already, which Open finds out.
func (g Group) Below(subs []Sub) (Group, error) {
	out := g
	out.Dirs = slices.Clone(g.Dirs)
	for _, s := range subs {
		hit := len(s.Controllers) == 0
		for i, d := range g.Dirs {
			here := len(s.Controllers) == 0
			for _, c := range s.Controllers {
				here = here || slices.Contains(d.Controllers, c)
			}
			if here {
				out.Dirs[i].Path = path.Join(d.Path, path.Clean("/"+s.Path))
				hit = true
			}
		}
		if !hit {
			return Group{}, fmt.Errorf("the container has no cgroup of controller %s", strings.Join(s.Controllers, ","))
		}
	}
	return out, nil
}
