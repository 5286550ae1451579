package engine

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/settings"
)

// read reads a credential.
func (s *supervisor) read(step plan.Step) error {
	b, err := sys.ReadFile(unix.AT_FDCWD, step.Path, settings.CredentialMax)
	if err == unix.ENXIO {
		b, err = hear(step.Path)
	}
	if err != nil {
		return fmt.Errorf("read credential %s from %s: %w", step.Credential, step.Path, err)
	}
	s.secrets[step.Credential] = string(b)
	return nil
}

// hear takes all that a socket's owner says.
func hear(name string) ([]byte, error) {
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	if err := sys.ConnectUnix(n, name); err != nil {
		return nil, err
	}
	return sys.ReadAll(n, settings.CredentialMax)
}

// beside makes what the host has for one start of the machine, but for mounts. The
// record of each comes first; it is undone with the machine's end.
func (s *supervisor) beside() error {
	for i, step := range s.plan.Steps {
		if step.World != settings.Beside {
			continue
		}
		var err error
		switch step.Do {
		case plan.Make:
			err = s.make(step)
		case plan.Receive:
			err = s.receive(i+1, step)
		case plan.Export: // comes later
		case plan.Link:
			if err = s.link(step); err != nil {
				err = fmt.Errorf("link %s to %s: %w", step.Path, step.Source.Path, err)
			}
		case plan.Remove:
			if err = sys.Unlinkat(unix.AT_FDCWD, step.Path, 0); err == unix.EISDIR {
				err = sys.Unlinkat(unix.AT_FDCWD, step.Path, unix.AT_REMOVEDIR)
			}
			if err == unix.ENOENT {
				err = nil
			}
			if err != nil {
				err = fmt.Errorf("remove %s: %w", step.Path, err)
			}
		default:
			err = fmt.Errorf("%s: no such step", step.Do)
		}
		if err != nil && step.Soft {
			s.opt.Warn(fmt.Sprintf("step %d, %v; the machine does without", i+1, err))
			continue
		}
		var told *settings.Error
		if errors.As(err, &told) {
			return err
		}
		if err != nil {
			return &StepError{i + 1, step.Origin, err}
		}
	}
	return nil
}

// make makes a directory. One that is there already, of a launcher that is
// gone, is as good.
func (s *supervisor) make(step plan.Step) error {
	if step.Stays {
		// Its parent says whether anybody wants it.
		if err := sys.Mkdirat(unix.AT_FDCWD, step.Path, step.Mode); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s: %w", step.Path, err)
		}
		return nil
	}
	if err := s.state.Record(state.Mounts, step.Path); err != nil {
		return err
	}
	return mkdirAll(step.Path, step.Mode, step.Mode)
}

// link makes a link; one that goes with the machine has a directory that goes with
// it, too.
func (s *supervisor) link(step plan.Step) error {
	if step.Stays {
		return sys.Symlinkat(step.Source.Path, unix.AT_FDCWD, step.Path)
	}
	// What somebody else has there must not be undone: so it is looked at before
	// anything is recorded.
	switch have, err := sys.Readlinkat(unix.AT_FDCWD, step.Path); {
	case err == unix.EINVAL, err == nil && have != step.Source.Path:
		return unix.EEXIST
	case err != nil && err != unix.ENOENT:
		return err
	}
	dir := path.Dir(step.Path)
	if err := s.state.Record(state.Mounts, dir); err != nil {
		return err
	}
	if err := mkdirAll(dir, 0o755, 0o755); err != nil {
		return err
	}
	if err := sys.Symlinkat(step.Source.Path, unix.AT_FDCWD, step.Path); err != unix.EEXIST {
		return err
	}
	return nil // a launcher that is gone has made it
}

// share makes the mounts that the host shares with the machine, and leaves the
// builder a copy of each: its own mounts, as a rule, are older.
func (s *supervisor) share(b *builder) error {
	for i, step := range s.plan.Steps {
		if step.Do != plan.Export {
			continue
		}
		n, err := s.export(step)
		if err != nil {
			return &StepError{i + 1, step.Origin, err}
		}
		b.shared[step.Path] = n
	}
	return nil
}

// export mounts a file system that the machine will have, too, on a directory
// of its own, and gives a copy that hears of what is mounted there.
func (s *supervisor) export(step plan.Step) (int, error) {
	if err := s.state.Record(state.Mounts, step.Path); err != nil {
		return -1, err
	}
	if err := mkdirAll(step.Path, 0o755, 0o755); err != nil {
		return -1, err
	}
	n, err := s.mountOn(step)
	if err != nil {
		return -1, fmt.Errorf("mount %s on %s: %w", step.Type, step.Path, err)
	}
	return n, nil
}

func (s *supervisor) mountOn(step plan.Step) (int, error) {
	fs, err := sys.Fsopen(step.Type)
	if err != nil {
		return -1, err
	}
	defer sys.Close(fs)
	if err := sys.FsSet(fs, "source", step.Type); err != nil {
		return -1, err
	}
	for _, o := range step.Options {
		if err := sys.FsSet(fs, o.Key, o.Value); err != nil {
			return -1, fmt.Errorf("option %s: %w", o.Key, err)
		}
	}
	if err := sys.FsCreate(fs); err != nil {
		return -1, err
	}
	n, err := sys.Fsmount(fs, int(step.Attr|unix.MOUNT_ATTR_RDONLY))
	if err != nil {
		return -1, err
	}
	defer sys.Close(n)
	at, err := sys.Openat2(unix.AT_FDCWD, step.Path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, err
	}
	defer sys.Close(at)
	if err := sys.MoveMount(n, at); err != nil {
		return -1, err
	}
	to, err := sys.OpenTree(n, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
	if err != nil {
		return -1, err
	}
	if err := sys.MountSetattr(to, 0, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
		sys.Close(to)
		return -1, err
	}
	return to, nil
}

// mkdirAll makes a directory and those that lead to it: the nearest with mode
// above, what is further up as /run's own are. It is tried from the end, since
// as a rule all but the last are there.
func mkdirAll(dir string, mode, above uint32) error {
	err := sys.Mkdirat(unix.AT_FDCWD, dir, mode)
	if err == unix.ENOENT && dir != "/" {
		if err := mkdirAll(path.Dir(dir), above, 0o755); err != nil {
			return err
		}
		err = sys.Mkdirat(unix.AT_FDCWD, dir, mode)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", dir, err)
	}
	return nil
}
