// Package state keeps what must survive the launcher: that a machine of a name
// runs, and what has to be undone when it is gone.
//
// A machine has a directory under /run/launch with a lock, which its launcher
// holds as long as it lives, and a journal. Each effect on the host is recorded
// in the journal before it is made, so that whoever finds the lock free can
// finish what the launcher could not. Undoing an effect that was never made,
// or twice, does nothing.
//
// Room: engine.
package state

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/netns"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/settings"
	"launch/userns/pick"
)

// Dir is where machines are kept. It is root's alone. Only tests move it.
var Dir = "/run/launch"

// version is the first word of a journal. A later one begins the same.
const version = versions + "1"
const versions = "launch-undo-"

// Effect is a kind of change to the host.
type Effect string

// The effects that can be undone.
const (
	Cgroup  Effect = "cgroup"  // a cgroup: processes in it are killed, it is removed
	Tree    Effect = "tree"    // a directory with all that is in it
	File    Effect = "file"    // an empty file
	Ranges  Effect = "ranges"  // lock files of user ranges that nobody holds
	Lock    Effect = "lock"    // a lock file, unless somebody holds it
	Group   Effect = "group"   // a bundle's cgroup, of any version
	Empty   Effect = "empty"   // an empty directory, unless somebody uses it
	Link    Effect = "link"    // a network interface: /NAME/NUMBER
	Lent    Effect = "lent"    // one that was moved: /, what netns.Interface says of itself, and the file of the namespace
	Zone    Effect = "zone"    // a bridge, if nothing is plugged into it: /NAME
	Kept    Effect = "kept"    // as mounts, with a network namespace in it: that is what lent ones come back from
	Process Effect = "process" // a process that serves the machine: /PID/TIME, its start time in ticks since boot
	Mounts  Effect = "mounts"  // a directory: what is mounted on it and on its entries is unmounted, they are removed
)

// ErrBusy is what Open gives when the machine's launcher is alive.
var ErrBusy = errors.New("a machine of this name is running")

// Machine is an open directory of a machine.
type Machine struct {
	Name    string
	dir     int // /run/launch/NAME
	lock    int
	journal int
	entries []entry
	// recording: what is made side by side is recorded one after the other.
	recording sync.Mutex
}

type entry struct {
	effect Effect
	what   string
	lock   *tree.Lock // if it is ours
}

// Open takes the machine's name: it makes the directory and locks it. What an
// earlier launcher of that name left is undone first.
func Open(name string) (*Machine, error) {
	base, err := openBase()
	if err != nil {
		return nil, err
	}
	defer sys.Close(base)
	m := &Machine{Name: name, dir: -1, lock: -1, journal: -1}
	for try := 0; ; try++ {
		ok, err := m.take(base)
		if err != nil {
			m.abandon(base)
			return nil, err
		}
		if ok {
			break
		}
		// The directory went away between opening and locking: another
		// launcher finished.
		m.close()
		if try == 100 {
			return nil, fmt.Errorf("lock %s/%s: it keeps disappearing", Dir, name)
		}
	}
	if err := m.load(); err != nil {
		m.close()
		return nil, err
	}
	if err := m.Undo(); err != nil {
		m.close()
		return nil, fmt.Errorf("undo what an earlier machine left: %w", err)
	}
	return m, nil
}

// openBase opens /run/launch, and makes it if it is missing.
func openBase() (int, error) {
	if err := sys.Mkdirat(unix.AT_FDCWD, Dir, 0o700); err != nil && err != unix.EEXIST {
		return -1, fmt.Errorf("make %s: %w", Dir, err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", Dir, err)
	}
	return n, nil
}

// take opens and locks the directory. It reports false when the lock taken is
// no longer the one that the name stands for.
func (m *Machine) take(base int) (bool, error) {
	if err := sys.Mkdirat(base, m.Name, 0o700); err != nil && err != unix.EEXIST {
		return false, fmt.Errorf("make %s/%s: %w", Dir, m.Name, err)
	}
	var err error
	if m.dir, err = sys.Openat(base, m.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		if err == unix.ENOENT {
			return false, nil
		}
		return false, fmt.Errorf("open %s/%s: %w", Dir, m.Name, err)
	}
	if m.lock, err = sys.Openat(m.dir, "lock", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600); err != nil {
		if err == unix.ENOENT {
			return false, nil
		}
		return false, fmt.Errorf("open the lock of %s/%s: %w", Dir, m.Name, err)
	}
	if err := sys.Flock(m.lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if err == unix.EWOULDBLOCK {
			return false, ErrBusy
		}
		return false, fmt.Errorf("lock %s/%s: %w", Dir, m.Name, err)
	}
	st, err := sys.Statx(m.lock, "", unix.STATX_NLINK)
	if err != nil {
		return false, fmt.Errorf("look at the lock of %s/%s: %w", Dir, m.Name, err)
	}
	return st.Nlink > 0, nil
}

// load reads the journal of an earlier launcher. A torn last line is an
// effect that was never made, since the record comes first.
func (m *Machine) load() error {
	b, err := sys.ReadFile(m.dir, "undo", 1<<20)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the journal of %s/%s: %w", Dir, m.Name, err)
	}
	for line := range strings.SplitAfterSeq(string(b), "\n") {
		text, whole := strings.CutSuffix(line, "\n")
		effect, what, ok := strings.Cut(text, " ")
		if whole && strings.HasPrefix(effect, versions) && effect != version {
			return fmt.Errorf("read the journal of %s/%s: a newer launch wrote it (%s)", Dir, m.Name, effect)
		}
		if whole && ok && effect != version {
			m.entries = append(m.entries, entry{effect: Effect(effect), what: unescape(what)})
		}
	}
	return nil
}

// A line holds one effect, whatever bytes a path has.
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "%", "%25"), "\n", "%0a")
}

func unescape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "%0a", "\n"), "%25", "%")
}

// Record notes an effect that is about to be made.
func (m *Machine) Record(e Effect, what string) error {
	m.recording.Lock()
	defer m.recording.Unlock()
	if m.journal < 0 {
		n, err := sys.Openat(m.dir, "undo", unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("open the journal: %w", err)
		}
		m.journal = n
		if err := sys.WriteString(n, version+" \n"); err != nil {
			return fmt.Errorf("write the journal: %w", err)
		}
	}
	if err := sys.WriteString(m.journal, string(e)+" "+escape(what)+"\n"); err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	m.entries = append(m.entries, entry{effect: e, what: what})
	return nil
}

// Lock takes a lock file; it is given back when its turn to be undone comes.
func (m *Machine) Lock(file string, shared bool) (*tree.Lock, error) {
	if err := m.Record(Lock, file); err != nil {
		return nil, err
	}
	l, err := tree.Take(file, shared)
	m.entries[len(m.entries)-1].lock = l
	return l, err
}

// ZoneLock is the lock file for the bridges of zones, systemd-nspawn's as well.
// Only tests move it.
var ZoneLock = "/run/systemd/nspawn-network-zone"

// LockZones waits until nobody else makes or removes a bridge of a zone.
func LockZones() (*tree.Lock, error) {
	l, err := tree.Wait(ZoneLock)
	if errors.Is(err, unix.ENOENT) { // a host without systemd
		if err := sys.Mkdirat(unix.AT_FDCWD, path.Dir(ZoneLock), 0o755); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make %s: %w", path.Dir(ZoneLock), err)
		}
		l, err = tree.Wait(ZoneLock)
	}
	return l, err
}

// Mark is the place in the journal for UndoTo.
func (m *Machine) Mark() int { return len(m.entries) }

// UndoTo undoes what was recorded since the mark, last first. What can't be
// undone stays recorded.
func (m *Machine) UndoTo(mark int) error {
	var errs []error
	var left []entry
	for i := len(m.entries) - 1; i >= mark; i-- {
		if m.entries[i].waits(left) {
			left = append([]entry{m.entries[i]}, left...)
			continue
		}
		if err := m.entries[i].undo(); err != nil {
			errs = append(errs, err)
			left = append([]entry{m.entries[i]}, left...)
		}
	}
	m.entries = append(m.entries[:min(mark, len(m.entries))], left...)
	return errors.Join(errs...)
}

// UndoOf undoes the effects of one kind, last first, that were recorded since the
// mark, and forgets those it could. The others are left to UndoTo.
func (m *Machine) UndoOf(kind Effect, mark int) {
	for i := len(m.entries) - 1; i >= mark; i-- {
		if m.entries[i].effect == kind && m.entries[i].undo() == nil {
			m.entries = slices.Delete(m.entries, i, i+1)
		}
	}
}

// waits reports whether the effect can't be undone before one of those that are
// left: a namespace would be lost with the interface in it, and a bridge that
// still has one would be taken for somebody else's.
func (e entry) waits(left []entry) bool {
	return slices.ContainsFunc(left, func(l entry) bool {
		return e.effect == Kept && l.effect == Lent || e.effect == Zone && l.effect == Link
	})
}

// Undo undoes the recorded effects, last first, and forgets those it could.
func (m *Machine) Undo() error {
	if err := m.UndoTo(0); err != nil {
		return err
	}
	if m.journal >= 0 {
		sys.Close(m.journal)
		m.journal = -1
	}
	if err := sys.Unlinkat(m.dir, "undo", 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("remove the journal: %w", err)
	}
	return nil
}

func (e entry) undo() error {
	if !strings.HasPrefix(e.what, "/") || path.Clean(e.what) != e.what {
		return fmt.Errorf("undo %s %q: not a clean path", e.effect, e.what)
	}
	switch e.effect {
	case Cgroup:
		return cgroup.Remove(e.what)
	case Group:
		g := cgroup.Group{Dirs: []cgroup.Dir{{Version: 1, Mount: path.Dir(e.what), Path: "/" + path.Base(e.what)}}}
		if err := g.Kill(); err != nil {
			return err
		}
		return g.Delete()
	case Empty:
		return cgroup.Undo([]string{e.what})
	case Ranges:
		_, err := pick.Clean(e.what)
		return err
	case Link:
		name, number, _ := strings.Cut(e.what[1:], "/")
		index, err := strconv.ParseInt(number, 10, 32)
		if err != nil {
			return fmt.Errorf("undo %s %q: no number of an interface", e.effect, e.what)
		}
		return netns.Remove(name, int(index))
	case Lent:
		i, file, err := netns.ParseInterface(e.what[1:])
		if err != nil {
			return fmt.Errorf("undo %s %q: %w", e.effect, e.what, err)
		}
		return i.Return("/" + file)
	case Process:
		pid, ticks, _ := strings.Cut(e.what[1:], "/")
		number, err := strconv.ParseInt(pid, 10, 32)
		began, berr := strconv.ParseUint(ticks, 10, 64)
		if err != nil || berr != nil || number <= 0 {
			return fmt.Errorf("undo %s %q: no process", e.effect, e.what)
		}
		return end(int(number), began)
	case Zone:
		lock, err := LockZones()
		if err != nil {
			return err
		}
		return errors.Join(netns.RemoveBridge(e.what[1:]), lock.Release())
	case Tree:
		return tree.Remove(unix.AT_FDCWD, e.what)
	case Mounts, Kept:
		return unmount(e.what)
	case Lock:
		if e.lock != nil {
			return e.lock.Release()
		}
		return tree.Unlock(e.what)
	case File:
		if err := sys.Unlinkat(unix.AT_FDCWD, e.what, 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s: %w", e.what, err)
		}
		return nil
	}
	return fmt.Errorf("undo %s %s: this launch knows no such effect; a newer one made it", e.effect, e.what)
}

// abandon gives up a name that was not taken. A directory that take made for
// it goes, too; one with anything in it is somebody's, or a later start's to
// undo. Who opened the empty one, to make a lock in it, finds that it is gone
// and begins anew.
func (m *Machine) abandon(base int) {
	m.close()
	_ = sys.Unlinkat(base, m.Name, unix.AT_REMOVEDIR)
}

// SetLeader notes the machine's first process, for Leader.
func (m *Machine) SetLeader(pid int) error {
	ticks, _ := Began(pid)
	text := fmt.Sprintf("%d %d\n", pid, ticks)
	if err := sys.Ftruncate(m.lock, 0); err != nil {
		return err
	}
	_, err := sys.Pwrite(m.lock, []byte(text), 0)
	return err
}

// CgroupOf gives the directory of a machine's cgroup; "" if it has none.
func CgroupOf(name string) (dir string, err error) {
	m := &Machine{Name: name, lock: -1, journal: -1}
	if m.dir, err = sys.Openat(unix.AT_FDCWD, path.Join(Dir, name), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return "", ErrNone
	}
	defer m.close()
	if err := m.load(); err != nil {
		return "", err
	}
	for _, e := range m.entries {
		if e.effect == Cgroup {
			dir = e.what
		}
	}
	return dir, nil
}

// ErrNone: no machine of that name runs.
var ErrNone = errors.New("no such machine is running")

// Leader gives the first process of a running machine.
func Leader(name string) (pid int, err error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, path.Join(Dir, name, "lock"), 4096)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return 0, ErrNone
	}
	if err != nil {
		return 0, fmt.Errorf("read the lock of %s/%s: %w", Dir, name, err)
	}
	var then uint64
	if _, err := fmt.Sscan(string(text), &pid, &then); err != nil {
		return 0, ErrNone // it only starts
	}
	if now, ok := Began(pid); !ok || now != then {
		return 0, ErrNone
	}
	return pid, nil
}

// Began reads the start time of a process; ok is false if it is gone or waits
// for its parent only.
func Began(pid int) (ticks uint64, ok bool) {
	ticks, err := StartTime(pid)
	return ticks, err == nil
}

// StartTime reads the start time of a process, in ticks since boot. ESRCH is the
// error for one that is gone or waits for its parent only.
func StartTime(pid int) (ticks uint64, err error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return 0, err
	}
	// The name is in parentheses, and may hold some itself.
	_, rest, found := strings.Cut(string(text), ")")
	for found {
		var more string
		if _, more, found = strings.Cut(rest, ")"); found {
			rest = more
		}
	}
	f := strings.Fields(rest)
	if len(f) < 20 || f[0] == "Z" || f[0] == "X" {
		return 0, unix.ESRCH
	}
	return strconv.ParseUint(f[19], 10, 64)
}

// Close gives the name back, and removes the directory if nothing is left to
// undo. An error is only about that: the next start or clean-up does it.
func (m *Machine) Close() error {
	defer m.close()
	if len(m.entries) > 0 {
		return nil
	}
	// The lock goes last but one: who waits for it sees that its file has
	// no name any more, and begins anew.
	if err := sys.Unlinkat(m.dir, "lock", 0); err != nil {
		return fmt.Errorf("remove the lock of %s/%s: %w", Dir, m.Name, err)
	}
	err := sys.Unlinkat(unix.AT_FDCWD, path.Join(Dir, m.Name), unix.AT_REMOVEDIR)
	if err != nil && err != unix.ENOENT && err != unix.ENOTEMPTY { // somebody waited for it, and has it
		return fmt.Errorf("remove %s/%s: %w", Dir, m.Name, err)
	}
	return nil
}

func (m *Machine) close() {
	for _, n := range []*int{&m.dir, &m.lock, &m.journal} {
		if *n >= 0 {
			sys.Close(*n)
			*n = -1
		}
	}
}

// Cleanup undoes what launchers that are gone have left: of the named machine,
// or of all if name is "". Machines that run are not touched. It gives the
// names of those it cleaned up.
func Cleanup(name string) (cleaned []string, err error) {
	cleaned, err = cleanup(name != "", func(found string) bool { return name == "" || found == name })
	if name == "" && err == nil {
		// Only an empty one goes.
		err = sys.Unlinkat(unix.AT_FDCWD, Dir, unix.AT_REMOVEDIR)
		if err == unix.ENOENT || err == unix.ENOTEMPTY || err == unix.EBUSY {
			err = nil
		} else if err != nil {
			err = fmt.Errorf("remove %s: %w", Dir, err)
		}
	}
	return cleaned, err
}

// CleanupCopies does the same for machines that ran on a copy of the named
// machine's tree, and therefore have a name like it.
func CleanupCopies(name string) (cleaned []string, err error) {
	return cleanup(false, func(found string) bool { return settings.IsCopy(found, name) })
}

// cleanup does it for those that is names; told says that one of them being
// busy is an error.
func cleanup(told bool, is func(found string) bool) (cleaned []string, err error) {
	n, err := sys.Openat(unix.AT_FDCWD, Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", Dir, err)
	}
	names, err := sys.Names(n)
	sys.Close(n)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", Dir, err)
	}
	var errs []error
	for _, found := range names {
		if !is(found) {
			continue
		}
		m, err := Open(found)
		if err == ErrBusy {
			if told {
				errs = append(errs, fmt.Errorf("%s: %w", found, err))
			}
			continue
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", found, err))
			continue
		}
		if err := m.Close(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", found, err))
			continue
		}
		cleaned = append(cleaned, found)
	}
	return cleaned, errors.Join(errs...)
}
