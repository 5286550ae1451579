package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/cgroup/resource"
	"launch/internal/sys"
)

// Dir is a cgroup in one hierarchy.
type Dir struct {
	// Version is 1 or 2.
	Version     int      `json:"version"`
	Controllers []string `json:"controllers,omitempty"`
	// Mount is the hierarchy's mount, Path the cgroup below it, from "/".
	Mount string `json:"mount"`
	Path  string `json:"path"`
}

func (d Dir) String() string { return path.Join(d.Mount, d.Path) }

// open gives a descriptor of the directory. Nothing on the way below the mount
// may be a link or lead out of it.
func (d Dir) open() (int, error) {
	m, err := sys.Openat(unix.AT_FDCWD, d.Mount, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer sys.Close(m)
	below := strings.TrimPrefix(d.Path, "/")
	if below == "" {
		below = "."
	}
	return sys.Openat2(m, below, unix.O_RDONLY|unix.O_DIRECTORY, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
}

// Group is a container's cgroup: one directory in each hierarchy. It is plain
// data, to be kept in a state file; another process can go on with it.
type Group struct {
	Dirs []Dir `json:"dirs,omitempty"`
	// Rootless: what the kernel doesn't permit is left out, unless a limit
	// needs it.
	Rootless bool `json:"rootless,omitempty"`
	// Denied are the controllers that were left out of a rootless group.
	Denied []string `json:"denied,omitempty"`
}

// dir gives the directory that has a controller (version 1's name).
func (g Group) dir(controller string) (Dir, bool) {
	for _, d := range g.Dirs {
		if d.Version == 1 && slices.Contains(d.Controllers, controller) {
			return d, true
		}
	}
	if d, ok := g.Unified(); ok && slices.Contains(d.Controllers, resource.V2Name(controller)) {
		return d, true
	}
	return Dir{}, false
}

// Unified gives the version 2 directory.
func (g Group) Unified() (Dir, bool) {
	for _, d := range g.Dirs {
		if d.Version == 2 {
			return d, true
		}
	}
	return Dir{}, false
}

// hybrid tells whether controllers are (also) in version 1.
func (g Group) hybrid() bool {
	return slices.ContainsFunc(g.Dirs, func(d Dir) bool { return d.Version == 1 && !named(d.Controllers) })
}

// Path gives the full path that stands for the whole: the unified one, where
// that has the controllers, else that of devices, else the first.
func (g Group) Path() string {
	if !g.hybrid() {
		if d, ok := g.Unified(); ok {
			return d.String()
		}
	}
	if d, ok := g.dir("devices"); ok {
		return d.String()
	}
	if len(g.Dirs) == 0 {
		return ""
	}
	return g.Dirs[0].String()
}

// NotEmpty is the error of Create for a cgroup that already has processes.
type NotEmpty struct {
	Path  string
	Count int
}

func (e *NotEmpty) Error() string {
	return fmt.Sprintf("container's cgroup is not empty: %d process(es) found in %s", e.Count, e.Path)
}

// ErrFrozen says that processes of the cgroup do not run.
var ErrFrozen = errors.New("container's cgroup unexpectedly frozen")

// denied tells whether the kernel doesn't let the caller.
func denied(err error) bool {
	return errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EROFS)
}

// Create makes the directories, and those above them, and passes controllers
// on: in a pure version 2 layout all there are, else those that r needs (the
// host's hierarchy is then somebody else's). record, which may be nil, is told
// each path before it is made; Undo takes what it was told. Directories of a
// rootless group that may not be made are dropped from it.
//
// A cgroup that already has processes, or is frozen, is an error.
func (g *Group) Create(r *specs.LinuxResources, record func(path string) error) error {
	if err := g.make(r, record); err != nil {
		return err
	}
	n, where, err := g.count()
	if err == nil && n > 0 {
		err = &NotEmpty{where.String(), n}
	}
	if err != nil {
		return err
	}
	frozen, err := g.Frozen()
	if err == nil && frozen {
		err = fmt.Errorf("%w: %s", ErrFrozen, g.Path())
	}
	return err
}

// make makes the directories, whatever is in them.
func (g *Group) make(r *specs.LinuxResources, record func(path string) error) error {
	if r == nil {
		r = &specs.LinuxResources{}
	}
	writes, _, err := resource.Writes(r, g.hierarchies())
	if err != nil {
		return err
	}
	kept := make([]Dir, 0, len(g.Dirs))
	for _, d := range g.Dirs {
		var pass []string
		if d.Version == 2 {
			for _, c := range d.Controllers {
				asked := func(w resource.Write) bool { return w.Version == 2 && w.Controller == c }
				if !g.hybrid() || slices.ContainsFunc(writes, asked) {
					pass = append(pass, c)
				}
			}
		}
		err := d.create(pass, record)
		if err != nil && g.Rootless && denied(err) {
			g.Denied = append(g.Denied, d.Controllers...)
			continue
		}
		if err != nil {
			return err
		}
		kept = append(kept, d)
	}
	g.Dirs = kept
	return nil
}

// Adopt completes a group that somebody else (systemd) made and put the
// process into: hierarchies that were left out get their directory, and the
// process is put there too.
func (g *Group) Adopt(r *specs.LinuxResources, pid int, record func(path string) error) error {
	if err := g.make(r, record); err != nil {
		return err
	}
	return g.Join(pid)
}

// count gives the number of processes in the first directory that has some.
func (g Group) count() (int, Dir, error) {
	for _, d := range g.Dirs {
		n, err := d.open()
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return 0, d, fmt.Errorf("open cgroup %s: %w", d, err)
		}
		pids, err := readPids(n, "cgroup.procs")
		sys.Close(n)
		// One for threads doesn't tell.
		if err != unix.EOPNOTSUPP && gone(err) != nil {
			return 0, d, fmt.Errorf("read cgroup.procs of cgroup %s: %w", d, err)
		}
		if len(pids) > 0 {
			return len(pids), d, nil
		}
	}
	return 0, Dir{}, nil
}

// create makes one directory with those above it.
func (d Dir) create(pass []string, record func(string) error) error {
	at, err := sys.Openat(unix.AT_FDCWD, d.Mount, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d.Mount, err)
	}
	defer func() { sys.Close(at) }()
	full := d.Mount
	for name := range strings.SplitSeq(strings.Trim(d.Path, "/"), "/") {
		if name == "" || name == "." || name == ".." {
			return fmt.Errorf("make cgroup %s: %q is no name", d, name)
		}
		enable(at, pass)
		full = path.Join(full, name)
		const how = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
		n, err := sys.Openat2(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0, how)
		if err == unix.ENOENT {
			if record != nil {
				if err := record(full); err != nil {
					return err
				}
			}
			if err := sys.Mkdirat(at, name, 0o755); err != nil && err != unix.EEXIST {
				return fmt.Errorf("make cgroup %s: %w", full, err)
			}
			n, err = sys.Openat2(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0, how)
		}
		if err != nil {
			return fmt.Errorf("open cgroup %s: %w", full, err)
		}
		if d.Version == 1 && slices.Contains(d.Controllers, "cpuset") {
			if err := inherit(at, n); err != nil {
				sys.Close(n)
				return fmt.Errorf("give cgroup %s the processors of its parent: %w", full, err)
			}
		}
		sys.Close(at)
		at = n
	}
	return nil
}

// enable passes controllers on to what is below. What the kernel refuses (the
// cgroup has processes, or isn't ours) will be missed by the limit that needs
// it, if any.
func enable(n int, controllers []string) {
	if len(controllers) == 0 {
		return
	}
	have, _ := sys.ReadFile(n, "cgroup.subtree_control", 4096)
	on := strings.Fields(string(have))
	var missing []string
	for _, c := range controllers {
		if !slices.Contains(on, c) {
			missing = append(missing, "+"+c)
		}
	}
	if missing == nil {
		return
	}
	if sys.WriteFile(n, "cgroup.subtree_control", strings.Join(missing, " ")) == nil {
		return
	}
	for _, c := range missing {
		_ = sys.WriteFile(n, "cgroup.subtree_control", c) // refused: see above
	}
}

// inherit fills a new version 1 cpuset: without processors and memory nodes no
// process can be put into it.
func inherit(parent, n int) error {
	for _, file := range [...]string{"cpuset.cpus", "cpuset.mems"} {
		have, err := sys.ReadFile(n, file, 64<<10)
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(have)) != "" {
			continue
		}
		of, err := sys.ReadFile(parent, file, 64<<10)
		if err != nil {
			return err
		}
		if err := sys.WriteFile(n, file, strings.TrimSpace(string(of))); err != nil {
			return err
		}
	}
	return nil
}

// Give makes a user the owner of the version 2 cgroup, so that a container
// with a cgroup namespace can divide it. Version 1 is never given: a user
// could leave the cgroup there.
func (g Group) Give(uid uint32) error {
	d, ok := g.Unified()
	if !ok {
		return nil
	}
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if list, err := sys.ReadFile(unix.AT_FDCWD, "/sys/kernel/cgroup/delegate", 64<<10); err == nil {
		files = strings.Fields(string(list))
	}
	const same = 1<<32 - 1
	for _, file := range append([]string{""}, files...) {
		if strings.Contains(file, "/") {
			continue
		}
		if err := sys.Fchownat(n, file, uid, same); err != nil && err != unix.ENOENT {
			return fmt.Errorf("give %s of cgroup %s to user %d: %w", file, d, uid, err)
		}
	}
	return nil
}

// Delete removes the directories with all that is below them. Processes that
// are still in there are not killed (see Kill); it waits up to five seconds
// for the kernel to let go of those that end. What is gone is no error.
func (g Group) Delete() error {
	deadline := time.Now().Add(5 * time.Second)
	var errs []error
	for _, d := range g.Dirs {
		if err := d.remove(deadline); err != nil && !(g.Rootless && denied(err)) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// RemoveEmpty removes a group that has nothing left in it, and tells whether it
// did. It is for version 2 alone: elsewhere a process that is in one hierarchy
// could be found no more by what it is in another.
func (g Group) RemoveEmpty() bool {
	if len(g.Dirs) != 1 || g.Dirs[0].Version != 2 || strings.Trim(g.Dirs[0].Path, "/") == "" {
		return false
	}
	return sys.Unlinkat(unix.AT_FDCWD, g.Dirs[0].String(), unix.AT_REMOVEDIR) == nil
}

func (d Dir) remove(deadline time.Time) error {
	if strings.Trim(d.Path, "/") == "" {
		return fmt.Errorf("remove cgroup %s: it is a whole hierarchy", d)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := sys.Unlinkat(unix.AT_FDCWD, d.String(), unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err == unix.EBUSY || err == unix.ENOTEMPTY {
			if n, e := d.open(); e == nil {
				removeBelow(n)
				sys.Close(n)
				if sys.Unlinkat(unix.AT_FDCWD, d.String(), unix.AT_REMOVEDIR) == nil {
					return nil
				}
			}
		} else {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", d, err)
		}
		time.Sleep(wait)
	}
}

// Undo removes directories that Create made and recorded, the last one first.
// One that somebody else uses by now stays.
func Undo(made []string) error {
	var errs []error
	for _, full := range slices.Backward(made) {
		err := sys.Unlinkat(unix.AT_FDCWD, full, unix.AT_REMOVEDIR)
		if err != nil && err != unix.ENOENT && err != unix.EBUSY {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", full, err))
		}
	}
	return errors.Join(errs...)
}

func readPids(n int, file string) ([]int, error) {
	text, err := sys.ReadFile(n, file, 64<<20)
	if err != nil {
		return nil, err
	}
	var pids []int
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
