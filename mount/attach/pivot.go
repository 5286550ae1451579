package attach

import (
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
)

// pivot takes a directory of the tree in place of the tree, which itself is
// kept for a directory of the new one if the step has a target.
//
// The kernel clones only what is attached, and takes an id map only for what
// never was. So the tree is attached for a moment, and what goes on from here
// are clones of its parts.
func (t *Tree) pivot(s plan.Step) error {
	if err := t.seat(); err != nil {
		return err
	}
	at, err := sys.Openat2(t.root, s.Source.Path, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
	if err != nil {
		return fmt.Errorf("open %s: %w", s.Source.Path, err)
	}
	defer sys.Close(at)
	const whole = unix.OPEN_TREE_CLONE | unix.AT_RECURSIVE | unix.AT_EMPTY_PATH
	fresh, err := sys.OpenTree(at, "", whole)
	if err != nil {
		return err
	}
	t.loose = fresh
	if s.Target != "" {
		if t.old, err = sys.OpenTree(t.root, "", whole); err != nil {
			return err
		}
		if t.oldAt, err = sys.Openat2(fresh, s.Target, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot); err != nil {
			return fmt.Errorf("open %s of the new root: %w", s.Target, err)
		}
	}
	if err := sys.Fchdir(t.l, t.root); err != nil {
		return err
	}
	if err := sys.Umount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("take the tree away again: %w", err)
	}
	if err := sys.Fchdir(t.l, t.host); err != nil {
		return err
	}
	sys.Close(t.root)
	t.root = -1
	return nil
}

// parts of the machine's root that are not attached yet: itself, and what a
// pivot left of the tree.
func (t *Tree) unattached() []int {
	if t.old >= 0 {
		return []int{t.loose, t.old}
	}
	return []int{t.loose}
}

// seatOld shows the tree in the new root, which was just attached.
func (t *Tree) seatOld() error {
	if t.old < 0 {
		return nil
	}
	if err := sys.MoveMount(t.old, t.oldAt); err != nil {
		return fmt.Errorf("attach the old root: %w", err)
	}
	sys.Close(t.old)
	sys.Close(t.oldAt)
	t.old, t.oldAt = -1, -1
	return nil
}
