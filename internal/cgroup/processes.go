package cgroup

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Pids lists the processes of the group and of all cgroups below it, each
// once, in order. A group that is gone has none. A process that a hierarchy
// doesn't know (it was moved there, or never put in) is found in another.
func (g Group) Pids() ([]int, error) {
	var all []int
	for _, d := range g.Dirs {
		n, err := d.open()
		if err == nil {
			err = pidsBelow(n, &all)
			sys.Close(n)
		}
		if err != nil && err != unix.ENOENT && !(g.Rootless && denied(err)) {
			return nil, fmt.Errorf("list the processes of cgroup %s: %w", d, err)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func pidsBelow(n int, all *[]int) error {
	if err := pidsOf(n, all); err != nil {
		return err
	}
	return walk(n, func(sub int) error { return pidsOf(sub, all) }, nil)
}

func pidsOf(n int, all *[]int) error {
	pids, err := readPids(n, "cgroup.procs")
	if err == unix.EOPNOTSUPP {
		// A threaded cgroup; its processes are listed above it.
		return nil
	}
	for _, pid := range pids {
		if pid > 0 { // 0 is a process outside of our pid namespace; to kill 0 is to kill our own group
			*all = append(*all, pid)
		}
	}
	return gone(err) // being removed
}

// walk calls enter for each cgroup below an open one, and leave with the directory
// above and the name when it comes back from there; either may be nil. A machine can
// nest cgroups deeper than we may open files: two are open at a time.
func walk(top int, enter func(n int) error, leave func(up int, name string)) error {
	type place struct {
		name string
		rest []string // what is below and was not visited
	}
	n, err := sys.Openat(top, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return gone(err)
	}
	defer func() { sys.Close(n) }()
	names, err := subdirs(n)
	if err != nil {
		return gone(err)
	}
	for way := []place{{rest: names}}; ; {
		here := &way[len(way)-1]
		if len(here.rest) > 0 {
			name := here.rest[0]
			here.rest = here.rest[1:]
			sub, err := sys.Openat(n, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
			if err != nil {
				if gone(err) != nil {
					return err
				}
				continue
			}
			sys.Close(n)
			n = sub
			if enter != nil {
				if err := enter(n); err != nil {
					return err
				}
			}
			if names, err = subdirs(n); gone(err) != nil {
				return err
			}
			way = append(way, place{name, names})
			continue
		}
		if len(way) == 1 {
			return nil
		}
		up, err := sys.Openat(n, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		sys.Close(n)
		n = up
		if leave != nil {
			leave(n, here.name)
		}
		way = way[:len(way)-1]
	}
}

// subdirs lists the cgroups right below one that was just opened.
func subdirs(n int) (names []string, err error) {
	b := make([]byte, 8192)
	for {
		m, err := sys.Getdents(n, b)
		if err != nil || m == 0 {
			return names, err
		}
		for rest := b[:m]; len(rest) > 0; {
			var kind byte
			var name []byte
			if kind, name, rest = sys.Dirent(rest); name == nil {
				break
			}
			if s := string(name[:len(name)-1]); kind == unix.DT_DIR && s != "." && s != ".." {
				names = append(names, s)
			}
		}
	}
}

// gone leaves out the errors of a cgroup that is being removed.
func gone(err error) error {
	if err == unix.ENOENT || err == unix.ENODEV {
		return nil
	}
	return err
}

// freezeTime is how long Freeze and Thaw wait for the kernel.
const freezeTime = 10 * time.Second

// Freeze stops all processes of the group and waits until they stand still.
// After an error they run again.
func (g Group) Freeze() error {
	if err := g.freeze(true); err != nil {
		_ = g.freeze(false) // what failed first counts
		return err
	}
	return nil
}

// Thaw lets them go on. In a group that is gone, or is being removed meanwhile,
// nothing stands still.
func (g Group) Thaw() error {
	err := g.freeze(false)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func (g Group) freeze(frozen bool) error {
	d, version, err := g.freezer()
	if err != nil {
		return err
	}
	n, err := d.open()
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	word := "thaw"
	if frozen {
		word = "freeze"
	}
	if version == 1 {
		err = freeze1(n, frozen)
	} else {
		err = freeze2(n, frozen)
	}
	if err != nil {
		return fmt.Errorf("%s cgroup %s: %w", word, d, err)
	}
	return nil
}

// Freezer gives the path of the directory where the group is frozen, if there
// is one.
func (g Group) Freezer() (string, bool) {
	d, _, err := g.freezer()
	return d.String(), err == nil
}

// freezer gives the directory where the group can be frozen.
func (g Group) freezer() (d Dir, version int, err error) {
	if d, ok := g.dir("freezer"); ok {
		return d, 1, nil
	}
	if d, ok := g.Unified(); ok {
		return d, 2, nil // every one can
	}
	if len(g.Dirs) == 0 {
		return d, 0, errors.New("the container has no cgroup of its own that could be frozen")
	}
	return d, 0, fmt.Errorf("no cgroup of this container can be frozen: neither a freezer controller nor version 2 is mounted")
}

// freeze1: a process in a system call that lasts (vfork, a file system in user
// space) delays version 1's freezer, and one that is forked meanwhile may
// escape its first round; thawing for a moment and freezing again helps.
func freeze1(n int, frozen bool) error {
	want := "THAWED"
	if frozen {
		want = "FROZEN"
	}
	deadline := time.Now().Add(freezeTime)
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		if err := sys.WriteFile(n, "freezer.state", want); err != nil {
			return err
		}
		for range 8 {
			state, err := sys.ReadFile(n, "freezer.state", 64)
			if err != nil {
				return err
			}
			if strings.TrimSpace(string(state)) == want {
				return nil
			}
			time.Sleep(wait)
		}
		if !frozen {
			// Thawed itself; what is above it is still frozen.
			if own, err := readNumber(n, "freezer.self_freezing"); err == nil && own == 0 {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return unix.ETIMEDOUT
		}
		if frozen {
			if err := sys.WriteFile(n, "freezer.state", "THAWED"); err != nil {
				return err
			}
			time.Sleep(wait)
		}
	}
}

func freeze2(n int, frozen bool) error {
	value := "0"
	if frozen {
		value = "1"
	}
	events, err := sys.Openat(n, "cgroup.events", unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(events)
	if err := sys.WriteFile(n, "cgroup.freeze", value); err != nil {
		return err
	}
	deadline := time.Now().Add(freezeTime)
	for {
		now, err := eventOf(events, "frozen")
		if err != nil {
			return err
		}
		if now == value || !frozen {
			return nil // a thawed one may stay frozen by what is above
		}
		left := time.Until(deadline)
		if left <= 0 {
			return unix.ETIMEDOUT
		}
		// The kernel wakes whoever polls the file when one of its values changes.
		if _, err := sys.Poll([]unix.PollFd{{Fd: int32(events), Events: unix.POLLPRI}}, int(left/time.Millisecond)+1); err != nil {
			return err
		}
	}
}

// eventOf reads one value of an open cgroup.events from its beginning.
func eventOf(n int, name string) (string, error) {
	b := make([]byte, 4096)
	m, err := sys.Pread(n, b, 0)
	if err != nil {
		return "", err
	}
	return field(string(b[:m]), name), nil
}

// field gives the value of a line "name value".
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == name {
			return v
		}
	}
	return ""
}

// Frozen tells whether the group is frozen by itself. A group that is gone is
// not.
func (g Group) Frozen() (bool, error) {
	d, version, err := g.freezer()
	if err != nil {
		return false, nil
	}
	n, err := d.open()
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open cgroup %s: %w", d, err)
	}
	defer sys.Close(n)
	file := "cgroup.freeze"
	if version == 1 {
		file = "freezer.self_freezing"
	}
	frozen, err := readNumber(n, file)
	if gone(err) == nil {
		return frozen == 1, nil // the root of a hierarchy has no such file
	}
	return false, fmt.Errorf("read %s of cgroup %s: %w", file, d, err)
}

// Signal sends a signal to all processes of the group.
func (g Group) Signal(sig int) error { return SignalAll(g.Pids, sig) }

// SignalAll sends a signal to all processes of a list. It is asked for again
// when they are open: before, a number may have become somebody else's.
func SignalAll(list func() ([]int, error), sig int) error {
	const most = 256 // descriptors at once
	pids, err := list()
	if err != nil {
		return err
	}
	var errs []error
	for some := range slices.Chunk(pids, most) {
		errs = append(errs, signalSome(some, list, sig))
	}
	return errors.Join(errs...)
}

func signalSome(pids []int, list func() ([]int, error), sig int) error {
	var errs []error
	opened := make([]int, len(pids))
	for i, pid := range pids {
		var err error
		if opened[i], err = sys.PidfdOpen(pid); err != nil {
			opened[i] = -1
			if err != unix.ESRCH {
				errs = append(errs, fmt.Errorf("open process %d: %w", pid, err))
			}
			continue
		}
		defer sys.Close(opened[i])
	}
	still, err := list()
	if err != nil {
		return err
	}
	for i, n := range opened {
		if n < 0 || !slices.Contains(still, pids[i]) {
			continue
		}
		if err := sys.PidfdSignal(n, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("send signal %d to process %d: %w", sig, pids[i], err))
		}
	}
	return errors.Join(errs...)
}

// killTime is how long Kill tries, ownTime how long it waits for this process, which it
// doesn't kill.
const (
	killTime = 10 * time.Second
	ownTime  = 100 * time.Millisecond
)

// Kill kills all processes of the group, frozen or not, also those that others
// fork meanwhile, and waits until no living one is left. (Dead ones that
// nobody reaped don't count.) A group without directories, as a rootless one
// may be, has no processes that could be found.
func (g Group) Kill() error {
	began := time.Now()
	deadline := began.Add(killTime)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 50*time.Millisecond) {
		whole := false
		if d, ok := g.Unified(); ok {
			if n, err := d.open(); err == nil {
				whole = sys.WriteFile(n, "cgroup.kill", "1") == nil
				sys.Close(n)
			}
		}
		pids, err := g.Pids()
		if err != nil {
			return err
		}
		if !whole || g.hybrid() {
			if pids, err = g.killEach(pids); err != nil {
				return err
			}
		}
		if alive := slices.DeleteFunc(pids, dead); len(alive) == 0 {
			if pids, err = g.Pids(); err != nil {
				return err
			}
			if alive = slices.DeleteFunc(pids, dead); len(alive) == 0 {
				return nil
			}
		}
		// A thread of our own that was to leave and couldn't stays until we end.
		if own := slices.Equal(pids, []int{os.Getpid()}); time.Now().After(deadline) || own && time.Since(began) > ownTime {
			return fmt.Errorf("kill what runs in cgroup %s: processes are left: %s", g.Path(), numbers(pids))
		}
		time.Sleep(wait)
	}
}

// killEach kills processes by number, and gives those that there were.
func (g Group) killEach(pids []int) ([]int, error) {
	n := -1
	d, version, err := g.freezer()
	if err == nil && version == 1 {
		// Standing still, they can't fork, and their numbers stay theirs.
		if n, err = d.open(); err == nil {
			defer sys.Close(n)
			_ = sys.WriteFile(n, "freezer.state", "FROZEN") // helps, if it works
			if pids, err = g.Pids(); err != nil {
				return nil, err
			}
		}
	}
	// One of our threads may be in there, making a process (see Place).
	pids = slices.DeleteFunc(pids, func(pid int) bool { return pid == unix.Getpid() })
	var failed error
	for _, pid := range pids {
		if err := sys.Kill(pid, int(unix.SIGKILL)); err != nil && err != unix.ESRCH && failed == nil {
			failed = fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	// A frozen process of version 1 doesn't die before it is thawed.
	if n >= 0 {
		if err := sys.WriteFile(n, "freezer.state", "THAWED"); gone(err) != nil && failed == nil {
			failed = fmt.Errorf("thaw cgroup %s: %w", d, err)
		}
	}
	return pids, failed
}

func numbers(pids []int) string {
	var s []string
	for _, p := range pids[:min(8, len(pids))] {
		s = append(s, strconv.Itoa(p))
	}
	return strings.Join(s, " ")
}

// dead tells whether a process has ended, reaped or not.
func dead(pid int) bool {
	stat, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return err == unix.ENOENT || err == unix.ESRCH
	}
	// The name, in parentheses, may have any character.
	s := string(stat)
	i := strings.LastIndexByte(s, ')')
	return i >= 0 && i+2 < len(s) && (s[i+2] == 'Z' || s[i+2] == 'X')
}
