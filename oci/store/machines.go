package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Machine is what a machine stands on.
type Machine struct {
	// Image is the name of its image, Digest that of the manifest.
	Image  string   `json:"image"`
	Digest string   `json:"digest"`
	Layers []string `json:"layers"`

	s    *Store
	name string
	lock *Lock
	// New: there was none of this name.
	New bool `json:"-"`
}

// ErrBusy says that a machine of the name is running.
var ErrBusy = errors.New("a machine of this name is running")

// machine reads a machine's record; ENOENT if there is none, or one that a power
// cut left empty: such a machine has just begun.
func (s *Store) machine(name string) (m Machine, err error) {
	b, err := sys.ReadFile(s.dir, path.Join("machines", name, "image"), imageMax)
	if err == nil && len(b) == 0 {
		err = unix.ENOENT
	}
	if err == unix.ENOENT {
		return m, err
	}
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		err = fmt.Errorf("read the machine %s of the store: %w", name, err)
	}
	return m, err
}

// Machine takes a machine's directory, and makes it for an image if there is
// none. A machine keeps the layers it was made with.
func (s *Store) Machine(name string, i Image) (*Machine, error) {
	own, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer own.Release()
	dir := path.Join("machines", name)
	fail := func(err error) (*Machine, error) {
		return nil, fmt.Errorf("make a place for machine %s: %w", name, err)
	}
	lock := &Lock{-1}
	for {
		if err := sys.Mkdirat(s.dir, dir, 0o700); err != nil && err != unix.EEXIST {
			return fail(err)
		}
		if lock.n, err = sys.Openat(s.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == unix.ENOENT {
			continue
		} else if err != nil {
			return fail(err)
		}
		if err := sys.Flock(lock.n, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			lock.Release()
			if err == unix.EWOULDBLOCK {
				err = ErrBusy
			}
			return nil, err
		}
		st, err := sys.Statx(lock.n, "", unix.STATX_NLINK)
		if err != nil {
			lock.Release()
			return fail(err)
		}
		if st.Nlink > 0 {
			break
		}
		lock.Release()
	}
	m, err := s.machine(name)
	if err == unix.ENOENT {
		m = Machine{Image: i.Name, Digest: i.Digest, Layers: i.Layers, New: true}
		for _, part := range []string{"upper", "work"} {
			if err := sys.Mkdirat(lock.n, part, 0o755); err != nil && err != unix.EEXIST {
				lock.Release()
				return fail(err)
			}
		}
		upper := -1
		if upper, err = sys.Openat(lock.n, "upper", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
			err = makeDirs(upper, i.Dirs)
			sys.Close(upper)
		}
		if err != nil {
			lock.Release()
			return fail(err)
		}
		var text []byte
		if text, err = json.Marshal(m); err == nil {
			var n int
			// A start that is cut off here leaves a file that means nothing; one
			// with the name is whole.
			if n, err = sys.Openat(lock.n, "image.half", unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_NOFOLLOW, 0o600); err == nil {
				err = sys.WriteString(n, string(text))
				sys.Close(n)
			}
		}
		if err == nil {
			err = sys.Renameat2(lock.n, "image.half", lock.n, "image", 0)
		}
	}
	if err != nil {
		lock.Release()
		return fail(err)
	}
	m.s, m.name, m.lock = s, name, lock
	return &m, nil
}

// Path is the machine's directory: it holds upper, with what the machine has
// changed, and work.
func (m *Machine) Path() string { return path.Join(m.s.Path, "machines", m.name) }

// Release lets others have the machine.
func (m *Machine) Release() { m.lock.Release() }

// Remove removes what the machine has changed, and its name.
func (m *Machine) Remove() error {
	defer m.Release()
	return m.s.remove(path.Join("machines", m.name))
}

// Machines lists the names of those that are there.
func (s *Store) Machines() ([]string, error) { return s.names("machines") }

// RemoveMachine removes what a machine that doesn't run has changed.
func (s *Store) RemoveMachine(name string) error {
	if _, err := s.machine(name); err == unix.ENOENT {
		return errors.New("there is none of this name")
	} else if err != nil {
		return err
	}
	m, err := s.Machine(name, Image{})
	if err != nil {
		return err
	}
	return m.Remove()
}
