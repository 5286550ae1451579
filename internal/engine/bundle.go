package engine

import (
	"fmt"
	"path"

	"launch/internal/cgroup"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/settings"
)

// onceBundle is once for a bundle: its first process is created as for
// launch-oci, but lives no longer than the launcher.
func (s *supervisor) onceBundle() (status int, err error) {
	p := s.plan
	place, err := s.place()
	if err != nil {
		return 1, err
	}
	defer place.Close()
	b := newContainerBuilder(p, CreateOptions{
		Pin: s.opt.Pin, Warn: s.opt.Warn, Gate: -1, Cgroup: place.FD, Enter: place.Enter, Leave: place.Leave, Placed: place.Finish, Bound: true, Opened: s.opt.Opened,
		State: s.bundleState,
	})
	started, hold := make(chan error), make(chan bool)
	defer close(hold)
	sys.Spawn(func(l sys.Locked) {
		b.l = l
		err := b.create(l)
		if err == nil {
			err = b.heard()
			b.oom.restore(b)
		}
		started <- err
		<-hold
	})
	err = <-started
	if b.proc != nil {
		defer sys.Close(b.proc.Pidfd)
	}
	if err != nil {
		b.kill()
		return 1, err
	}
	defer b.pty.Close()
	defer func() {
		for _, h := range p.Hooks.Poststop {
			if err := RunHook(h, s.bundleState("stopped", 0)); err != nil {
				s.opt.Warn(err.Error())
			}
		}
	}()
	if err := s.state.SetLeader(b.proc.PID); err != nil {
		s.opt.Warn(fmt.Sprintf("note the first process, for other commands: %v", err))
	}
	if s.opt.Started != nil {
		s.opt.Started(b.proc.PID)
	}
	for _, h := range p.Hooks.Poststart {
		if err := RunHook(h, s.bundleState("running", b.proc.PID)); err != nil {
			s.opt.Warn(err.Error())
		}
	}
	s.tell("STATUS=Machine started.", fmt.Sprintf("X_NSPAWN_LEADER_PID=%d", b.proc.PID), "READY=1")
	status, err = s.supervise(b)
	s.tell("STOPPING=1", "STATUS=Terminating...")
	return status, err
}

// place makes the cgroups of a bundle and sets their limits.
func (s *supervisor) place() (*cgroup.Place, error) {
	p := s.plan
	layout, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	g, err := layout.Group(p.CgroupsPath, p.Machine)
	if err != nil {
		return nil, &settings.Error{What: err.Error(), Value: p.CgroupsPath}
	}
	if err := g.Create(p.Resources, func(dir string) error { return s.state.Record(state.Empty, dir) }); err != nil {
		return nil, err
	}
	for _, d := range g.Dirs {
		if err := s.state.Record(state.Group, path.Join(d.Mount, d.Path)); err != nil {
			return nil, err
		}
	}
	warnings, err := g.Limit(p.Resources)
	for _, w := range warnings {
		s.opt.Warn(w)
	}
	if err != nil {
		return nil, err
	}
	return g.Open()
}

// bundleState is what hooks are told.
func (s *supervisor) bundleState(status string, pid int) []byte {
	if s.opt.State == nil {
		return nil
	}
	return s.opt.State(status, pid)
}
