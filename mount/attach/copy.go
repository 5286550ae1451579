package attach

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
)

// file performs the steps that change a single file of the tree.
func (t *Tree) file(s plan.Step) error {
	switch s.Do {
	case plan.Copy:
		return t.copy(s)
	case plan.Remove:
		return t.remove(s)
	}
	err := t.zone(s)
	if err != nil && s.Fallback == plan.Copy {
		s.Source = s.Lower[0]
		return t.copy(s)
	}
	return err
}

// copyMax is more than any file of the host's that is copied has.
const copyMax = 1 << 20

// copy puts a file of the host's into the tree. What is there before is
// replaced as a whole, so that nothing is ever written through it; a link that
// must be kept (the tree has its own arrangement) stays.
func (t *Tree) copy(s plan.Step) error {
	data, err := sys.ReadFile(unix.AT_FDCWD, s.Source.Path, copyMax)
	if err != nil {
		return err
	}
	return t.put(s, func(dir int, name string, clear func() error) error {
		if t.holds(dir, name, data) {
			return nil
		}
		// Without a name until it is whole: whoever is killed here leaves nothing.
		n, err := t.create(dir, ".", unix.O_TMPFILE)
		switch err {
		default:
			return err
		case unix.EOPNOTSUPP, unix.EISDIR, unix.EINVAL:
		case nil:
			defer sys.Close(n)
			if err = sys.WriteString(n, string(data)); err != nil {
				return err
			}
			if err = clear(); err != nil {
				return err
			}
			if err = sys.LinkFile(n, dir, name); err != unix.ENOENT && err != unix.EPERM {
				return err
			}
		}
		// A file system that has no such files (NFS), or a launcher that may not
		// name them. What is killed here is made anew by the next start.
		if err = clear(); err != nil {
			return err
		}
		if n, err = t.create(dir, name, unix.O_CREAT|unix.O_EXCL); err != nil {
			return err
		}
		defer sys.Close(n)
		if err = sys.WriteString(n, string(data)); err != nil {
			_ = clear()
		}
		return err
	})
}

// holds tells whether the name is a file with that content, as copy would have
// made it. Most machines start more than once, and to write the file anew takes
// ext4 half as long (0.5 ms) as all the mounts take.
func (t *Tree) holds(dir int, name string, data []byte) bool {
	st, err := sys.Statx(dir, name, unix.STATX_BASIC_STATS)
	if err != nil || st.Mode != unix.S_IFREG|0o644 || st.Nlink != 1 || st.Size != uint64(len(data)) || st.Uid != t.UID || st.Gid != t.GID {
		return false
	}
	n, err := sys.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer sys.Close(n)
	old, err := sys.ReadAll(n, copyMax)
	return err == nil && string(old) == string(data)
}

func (t *Tree) create(dir int, name string, how int) (n int, err error) {
	err = t.owned(func() (err error) {
		n, err = sys.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|how, 0o644)
		return err
	})
	return n, err
}

// zone makes the tree's /etc/localtime a link to a time zone that the tree
// has.
func (t *Tree) zone(s plan.Step) error {
	n, err := sys.Openat2(t.root, "/etc/"+s.Source.Path, unix.O_PATH, 0, sys.InRoot)
	if err != nil {
		return fmt.Errorf("find the time zone in the tree: %w", err)
	}
	sys.Close(n)
	return t.put(s, func(dir int, name string, clear func() error) error {
		if link, err := sys.Readlinkat(dir, name); err == nil && link == s.Source.Path {
			return nil
		}
		if err := clear(); err != nil {
			return err
		}
		return t.owned(func() error { return sys.Symlinkat(s.Source.Path, dir, name) })
	})
}

// put looks up the target's directory in the machine, for make to put something
// there; the target's own name is taken as it is. clear takes away what has
// that name, which is never written through.
func (t *Tree) put(s plan.Step, make func(dir int, name string, clear func() error) error) error {
	dir, err := sys.Openat2(t.root, path.Dir(s.Target), unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
	if err != nil {
		return fmt.Errorf("open %s: %w", path.Dir(s.Target), err)
	}
	defer sys.Close(dir)
	name := path.Base(s.Target)
	if s.Keep {
		if _, err := sys.Readlinkat(dir, name); err == nil {
			return nil
		}
	}
	return make(dir, name, func() error {
		if err := sys.Unlinkat(dir, name, 0); err != nil && err != unix.ENOENT {
			return err
		}
		return nil
	})
}

// remove takes a name of the tree away. It may be gone already.
func (t *Tree) remove(s plan.Step) error {
	dir, err := sys.Openat2(t.root, path.Dir(s.Target), unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
	if err != nil {
		return fmt.Errorf("open %s: %w", path.Dir(s.Target), err)
	}
	defer sys.Close(dir)
	if err := sys.Unlinkat(dir, path.Base(s.Target), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
