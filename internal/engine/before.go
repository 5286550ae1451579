package engine

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/settings"
)

// ErrInterrupted says that a signal came before there was a machine.
var ErrInterrupted = errors.New("interrupted")

// before does what comes before the machine: it locks the tree, and makes a
// copy if the machine is to run on one. A reboot comes back to the same.
func (s *supervisor) before() error {
	var brief []*tree.Lock
	for i, step := range s.plan.Steps {
		if step.World != settings.Before {
			continue
		}
		var err error
		switch step.Do {
		case plan.Lock:
			var held []*tree.Lock
			held, err = s.lock(step)
			if step.Brief {
				brief = append(brief, held...)
			} else {
				s.locks = append(s.locks, held...)
			}
		case plan.Clone, plan.CloneIt:
			if step.Do == plan.Clone {
				err = s.clone(step)
			} else {
				err = s.cloneImage(step)
			}
			for _, l := range brief {
				err = errors.Join(err, l.Release())
			}
			brief = nil
		case plan.Rename:
			err = s.rename(step)
		case plan.Read:
			err = s.read(step)
		default:
			err = fmt.Errorf("%s: no such step", step.Do)
		}
		if err != nil {
			return &StepError{i + 1, step.Origin, err}
		}
	}
	return nil
}

// lock takes the locks of the tree that the step names, which is the one that
// is pinned.
func (s *supervisor) lock(step plan.Step) ([]*tree.Lock, error) {
	var held []*tree.Lock
	files, err := tree.LockFiles(s.opt.Pin, step.Path)
	for _, file := range files {
		var l *tree.Lock
		l, err = s.state.Lock(file, step.Shared)
		if errors.Is(err, unix.EROFS) {
			// Nobody can make the file there, so nobody looks for it; the
			// other one counts.
			err = nil
			continue
		}
		if err != nil {
			break
		}
		held = append(held, l)
	}
	if err != nil {
		return held, fmt.Errorf("lock %s: %w", step.Path, err)
	}
	return held, nil
}

// clone copies the pinned tree, and pins the copy.
func (s *supervisor) clone(step plan.Step) error {
	if err := s.state.Record(state.Tree, step.Path); err != nil {
		return err
	}
	what := "copy " + step.Source.Path
	parent, err := sys.Openat2(unix.AT_FDCWD, path.Dir(step.Path), unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return fmt.Errorf("%s: open %s: %w", what, path.Dir(step.Path), err)
	}
	defer sys.Close(parent)
	r, err := tree.Copy(s.opt.Pin, parent, path.Base(step.Path), s.copying())
	if s.opt.Copying != nil {
		s.opt.Copying(r, true)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if r.Lost > 0 {
		s.opt.Warn(fmt.Sprintf("the file system of the copy can't keep %d attributes, such as %s", r.Lost, r.LostName))
	}
	n, err := sys.Openat(parent, path.Base(step.Path), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("%s: open the copy: %w", what, err)
	}
	s.opt.Pin = n
	return nil
}

// copying is what a copy calls now and then.
func (s *supervisor) copying() func(r tree.Report) error {
	warned := false
	return func(r tree.Report) error {
		const much = 1 << 30
		if r.Bytes > much && !warned {
			warned = true
			s.opt.Warn("this is much to copy, and its file system can't share the blocks of two files: --volatile=overlay needs no copy")
		}
		if s.opt.Copying != nil {
			s.opt.Copying(r, false)
		}
		for _, sig := range s.signals.Pending() {
			switch sig.Number {
			case unix.SIGTSTP:
				sys.Kill(os.Getpid(), int(unix.SIGSTOP))
			case unix.SIGTERM, unix.SIGINT, unix.SIGHUP:
				return ErrInterrupted
			}
		}
		return nil
	}
}

// cloneImage copies the pinned image, and pins the copy. It never has a name,
// so nobody has to remove it.
func (s *supervisor) cloneImage(step plan.Step) error {
	n, err := tree.CopyFile(s.opt.Pin, step.Path, s.copying())
	if s.opt.Copying != nil {
		s.opt.Copying(tree.Report{}, true)
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", step.Source.Path, err)
	}
	sys.Close(s.opt.Pin)
	s.opt.Pin = n
	return nil
}

// rename gives a copy that is finished its place. The record of the copy stays,
// and finds nothing any more.
func (s *supervisor) rename(step plan.Step) error {
	err := sys.Renameat2(unix.AT_FDCWD, step.Source.Path, unix.AT_FDCWD, step.Path, unix.RENAME_NOREPLACE)
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", step.Source.Path, step.Path, err)
	}
	return nil
}

// alone does something to the tree that those who share it must not see, or
// refuses.
func (s *supervisor) alone(f func() error) error {
	for i, l := range s.locks {
		if !l.Shared {
			continue
		}
		if err := l.Change(false); err != nil {
			return err
		}
		defer func() { s.locks[i].Change(true) }()
	}
	return f()
}
