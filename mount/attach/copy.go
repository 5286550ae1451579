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
	return t.put(s, func(dir int, name string) error {
		n, err := sys.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o644)
		if err != nil {
			return err
		}
		defer sys.Close(n)
		return sys.WriteString(n, string(data))
	})
}

// zone makes the tree's /etc/localtime a link to a time zone that the tree
// has.
func (t *Tree) zone(s plan.Step) error {
	n, err := sys.Openat2(t.root, "/etc/"+s.Source.Path, unix.O_PATH, 0, inRoot)
	if err != nil {
		return fmt.Errorf("find the time zone in the tree: %w", err)
	}
	sys.Close(n)
	return t.put(s, func(dir int, name string) error { return sys.Symlinkat(s.Source.Path, dir, name) })
}

// put makes something under a name that nobody knows, and moves it over the
// target. The target's directory is looked up in the machine; below it, names
// are taken as they are.
func (t *Tree) put(s plan.Step, make func(dir int, name string) error) error {
	dir, err := sys.Openat2(t.root, path.Dir(s.Target), unix.O_PATH|unix.O_DIRECTORY, 0, inRoot)
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
	var random [8]byte
	if err := sys.Random(random[:]); err != nil {
		return err
	}
	temp := fmt.Sprintf(".#%s%x", name, random)
	err = make(dir, temp)
	if err == nil && t.UID != 0 {
		err = sys.Fchownat(dir, temp, t.UID, t.GID)
	}
	if err == nil {
		err = sys.Renameat2(dir, temp, dir, name, 0)
	}
	if err != nil {
		// It may not have been made.
		_ = sys.Unlinkat(dir, temp, 0)
	}
	return err
}

// remove takes a name of the tree away. It may be gone already.
func (t *Tree) remove(s plan.Step) error {
	dir, err := sys.Openat2(t.root, path.Dir(s.Target), unix.O_PATH|unix.O_DIRECTORY, 0, inRoot)
	if err != nil {
		return fmt.Errorf("open %s: %w", path.Dir(s.Target), err)
	}
	defer sys.Close(dir)
	if err := sys.Unlinkat(dir, path.Base(s.Target), 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
