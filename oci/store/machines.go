package store

import (
	"errors"
	"fmt"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/tree"
)

// Machine is a machine's directory. Its record is the image's own: another name
// of that file, so it is there whole or not at all, and costs nothing.
type Machine struct {
	// Image is what it stands on.
	Image Image
	// Passing: nothing of it is kept. It is there as long as somebody has its
	// lock, and whoever finds the lock free may take away what is left.
	Passing bool
	// New: there was none of this name.
	New bool

	s    *Store
	name string
	lock *Lock
}

// The names of the record.
const (
	keptRecord    = "image"
	passingRecord = "passing"
)

var (
	// ErrBusy says that a machine of the name is running.
	ErrBusy = errors.New("a machine of this name is running")
	// ErrKept says that one of the name is there, to be kept.
	ErrKept = errors.New("a machine of this name is there already, with what it has changed")
	// ErrChanged says that the image isn't what it was when it was found.
	ErrChanged = errors.New("its image was pulled anew, or removed, just now: try again")
	// ErrNoMachine says that there is none of the name.
	ErrNoMachine = errors.New("there is none of this name")
)

// machine reads a machine's record; ENOENT if there is none: nothing of such a
// machine is needed.
func (s *Store) machine(name string) (m Machine, err error) {
	dir := path.Join("machines", name)
	err = s.readJSON(path.Join(dir, passingRecord), imageMax, &m.Image)
	if m.Passing = err == nil; err == unix.ENOENT {
		err = s.readJSON(path.Join(dir, keptRecord), imageMax, &m.Image)
	}
	if err == nil && m.Image.Version != imageVersion {
		err = fmt.Errorf("read the machine %s of the store: another version of launch has kept it", name)
	}
	return m, err
}

// Machine takes a machine's directory, and makes it for an image if there is
// none. A machine keeps the layers it was made with, unless it is only passing.
func (s *Store) Machine(name string, i Image, passing bool) (*Machine, error) {
	own, err := s.lock(unix.LOCK_SH) // no Sweep sees it half made
	if err != nil {
		return nil, err
	}
	defer own.Release()
	fail := func(err error) (*Machine, error) {
		if err == ErrBusy || err == ErrKept || err == ErrChanged {
			return nil, err
		}
		return nil, fmt.Errorf("make a place for machine %s: %w", name, err)
	}
	dir := path.Join("machines", name)
	for {
		lock, made, err := s.enter(dir)
		if err != nil {
			return fail(err)
		}
		m := Machine{Image: i, Passing: passing, New: true}
		if !made {
			if m, err = s.machine(name); err == unix.ENOENT || err == nil && m.Passing {
				// Left by who was killed.
				err = s.discard(dir)
				lock.Release()
				if err != nil {
					return fail(err)
				}
				continue
			}
			if err == nil && passing {
				err = ErrKept
			}
		} else if err = s.furnish(lock.n, &m); err != nil {
			_ = s.discard(dir)
		}
		if err != nil {
			lock.Release()
			return fail(err)
		}
		m.s, m.name, m.lock = s, name, lock
		return &m, nil
	}
}

// enter locks a machine's directory, and makes it if there is none.
func (s *Store) enter(dir string) (lock *Lock, made bool, err error) {
	for {
		err := sys.Mkdirat(s.dir, dir, 0o700)
		if err != nil && err != unix.EEXIST {
			return nil, false, err
		}
		made := err == nil
		lock, err := s.seize(dir)
		if err == unix.ENOENT {
			continue // it went away just now
		}
		if err != nil && made {
			_ = sys.Unlinkat(s.dir, dir, unix.AT_REMOVEDIR)
		}
		return lock, made, err
	}
}

// seize locks a directory of the store that has a name; ENOENT if it has none.
func (s *Store) seize(dir string) (*Lock, error) {
	n, err := sys.Openat(s.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	lock := &Lock{n}
	if err = sys.Flock(n, unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		err = ErrBusy
	}
	if err == nil {
		var st unix.Statx_t
		if st, err = sys.Statx(n, "", unix.STATX_NLINK); err == nil && st.Nlink == 0 {
			err = unix.ENOENT
		}
	}
	if err != nil {
		lock.Release()
		return nil, err
	}
	return lock, nil
}

// furnish makes what a new machine has in its directory. The record comes last.
func (s *Store) furnish(dir int, m *Machine) error {
	for _, part := range [...]string{"upper", "work"} {
		if err := sys.Mkdirat(dir, part, 0o755); err != nil {
			return err
		}
	}
	upper, err := sys.Openat(dir, "upper", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	err = makeDirs(upper, []Directory{m.Image.Root})
	sys.Close(upper)
	if err != nil {
		return err
	}
	name := keptRecord
	if m.Passing {
		name = passingRecord
	}
	if err := sys.Linkat(s.dir, "images/"+id(m.Image.Name), dir, name); err == unix.ENOENT {
		return ErrChanged
	} else if err != nil {
		return err
	}
	from, err := inodeOf(dir, name)
	if err == nil && from != m.Image.from {
		err = ErrChanged // the layers of the one before may be gone
	}
	return err
}

// Put writes a file of the machine's, and gives its path.
func (m *Machine) Put(name, text string) (string, error) {
	at := path.Join(m.s.Path, "machines", m.name, name)
	n, err := sys.Openat(m.lock.n, name, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o644)
	if err == nil {
		err = sys.WriteString(n, text)
		sys.Close(n)
	}
	if err != nil {
		err = fmt.Errorf("write %s: %w", at, err)
	}
	return at, err
}

// Release lets others have the machine.
func (m *Machine) Release() { m.lock.Release() }

// Remove removes what the machine has changed, and its name.
func (m *Machine) Remove() error {
	defer m.Release()
	return m.s.discard(path.Join("machines", m.name))
}

// discard removes the directory of a machine whose lock is ours: the record
// first, so that what is left if that is cut off is nobody's.
func (s *Store) discard(dir string) error {
	for _, record := range [...]string{keptRecord, passingRecord} {
		if err := sys.Unlinkat(s.dir, path.Join(dir, record), 0); err != nil && err != unix.ENOENT {
			return fmt.Errorf("remove %s/%s/%s: %w", s.Path, dir, record, err)
		}
	}
	if err := tree.Remove(s.dir, dir); err != nil {
		return fmt.Errorf("remove %s/%s: %w", s.Path, dir, err)
	}
	return nil
}

// RemoveMachine removes what a machine that doesn't run has changed.
func (s *Store) RemoveMachine(name string) error {
	if _, err := s.machine(name); err == unix.ENOENT {
		return ErrNoMachine
	} else if err != nil {
		return err
	}
	lock, err := s.seize(path.Join("machines", name))
	if err == unix.ENOENT {
		return ErrNoMachine
	}
	if err != nil {
		return err
	}
	defer lock.Release()
	return s.discard(path.Join("machines", name))
}

// Bury takes away what machines have left that were only passing, and whose
// launchers are gone; of those that is tells to. It gives their names. Unless it
// is to wait for it, nothing is done while others use the store.
func (s *Store) Bury(is func(name string) bool, wait bool) (gone []string, err error) {
	names, err := s.names("machines")
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !is(name) })
	if len(names) == 0 {
		return nil, nil
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	own, err := s.lock(how)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer own.Release()
	return s.bury(names)
}

// bury does that, with the store's lock.
func (s *Store) bury(names []string) (gone []string, err error) {
	for _, name := range names {
		dir := path.Join("machines", name)
		lock, err := s.seize(dir)
		if err == ErrBusy || err == unix.ENOENT {
			continue
		}
		if err != nil {
			return gone, fmt.Errorf("try the lock of %s of the store: %w", dir, err)
		}
		m, err := s.machine(name)
		if err == unix.ENOENT || err == nil && m.Passing {
			if err = s.discard(dir); err == nil {
				gone = append(gone, name)
			}
		}
		lock.Release()
		if err != nil {
			return gone, err
		}
	}
	return gone, nil
}
