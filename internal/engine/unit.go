package engine

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/cgroup"
	"launch/internal/child"
	"launch/internal/machine"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/settings"
)

// unit is what the machine is on the host: its cgroup, its scope, and what
// systemd-machined knows.
type unit struct {
	host       *machine.Host // nil: nobody is told anything
	registered bool
	holder     *holder
}

// settleIn makes the scope and the cgroup of the machine. Where systemd makes
// them, it does so beside the mounts, and the first process is born afterwards.
func (s *supervisor) settleIn(b *builder) (err error) {
	p := s.plan
	u := &b.unit
	if p.Scope != nil || p.Register != nil {
		if u.host, err = machine.Connect(p.User); err != nil {
			if p.Scope != nil && p.Scope.Required {
				return &settings.Error{What: err.Error(), Origin: p.Scope.Origin, Hint: unreached(p)}
			}
			if p.Register != nil && p.Register.Required {
				return &settings.Error{What: err.Error(), Origin: p.Register.Origin, Hint: unreached(p)}
			}
			u.host = nil
			s.opt.Warn(err.Error() + "; the machine is known to nobody")
		}
	}
	if u.host != nil && p.Register != nil {
		// What fails here fails again when the machine is registered.
		_ = u.host.Clear(p.Machine)
	}
	where := p.Cgroup
	if p.Scope != nil {
		at, err := s.scope(u)
		switch {
		case err == nil:
			where.Path = path.Join(at, "payload")
		case p.Scope.Required:
			return &settings.Error{What: err.Error(), Origin: p.Scope.Origin}
		default:
			if u.host != nil {
				s.opt.Warn(err.Error() + "; the machine stays in the launcher's own unit")
			}
			where = p.Scope.Else
		}
	}
	if where.Mount == "" {
		return nil
	}
	if where.Supervisor != "" {
		if err := cgroup.Enter(where.Mount, where.Supervisor); err != nil {
			return err
		}
	}
	full := path.Join(where.Mount, where.Path)
	if err := s.state.Record(state.Cgroup, full); err != nil {
		return err
	}
	if b.cgroup, err = cgroup.Create(where.Mount, where.Path, b.root(), b.root()); err != nil {
		return err
	}
	b.divide = where.Divide
	return nil
}

// unreached says what may help where the service manager isn't there.
func unreached(p *plan.Plan) string {
	if p.User {
		return "loginctl enable-linger starts a user's service manager, and XDG_RUNTIME_DIR=/run/user/UID is where it is; without --user, the system's is asked"
	}
	return ""
}

// scope asks systemd for the machine's scope. Systemd wants a process in it,
// but the first process shall be born in its own cgroup below (moving it would
// take milliseconds, and it could see from where it came): so somebody else
// holds the place until then.
func (s *supervisor) scope(u *unit) (at string, err error) {
	if u.host == nil {
		return "", errors.New("there is no bus")
	}
	if u.holder, err = hold(); err != nil {
		return "", fmt.Errorf("hold the scope's place: %w", err)
	}
	want := machine.Scope{Name: s.plan.Scope.Name}
	for _, p := range s.plan.Scope.Properties {
		want.Properties = append(want.Properties, bus.Property(p))
	}
	for _, p := range s.plan.Scope.Newer {
		want.Newer = append(want.Newer, bus.Property(p))
	}
	at, err = u.host.Start(want, u.holder.proc.PID)
	if err != nil {
		u.holder.release()
		u.holder = nil
	}
	return at, err
}

// holder is a process that does nothing.
type holder struct {
	proc *child.Process
	w    int
}

func hold() (*holder, error) {
	r, w, err := sys.Pipe()
	if err != nil {
		return nil, err
	}
	h := &holder{w: w}
	err = sys.Elsewhere(func(l sys.Locked) (err error) {
		var one byte
		p := child.New(4)
		p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(w))
		p.Add("wait", unix.SYS_READ, uintptr(r), child.Keep(p, &one), 1)
		p.Add("end", unix.SYS_EXIT_GROUP, 0)
		h.proc, err = child.Start(l, p, child.Options{})
		return err
	})
	sys.Close(r)
	if err != nil {
		sys.Close(w)
		return nil, err
	}
	return h, nil
}

func (h *holder) release() {
	if h == nil {
		return
	}
	// A byte, since the end of the pipe may be open in a process that was born
	// meanwhile. If the launcher dies, the end of the pipe does it.
	_ = sys.WriteString(h.w, "g")
	sys.Close(h.w)
	_, _, _ = sys.Wait(h.proc.Pidfd) // nobody asks how it ended
	sys.Close(h.proc.Pidfd)
}

// settled lets go of the scope's place, which the first process has now, and
// passes the controllers on.
func (b *builder) settled() {
	b.unit.holder.release()
	b.unit.holder = nil
	if b.divide {
		cgroup.PassOn(b.cgroup)
	}
}

// register tells systemd-machined about the machine, whose first process waits.
func (b *builder) register() error {
	p, u := b.plan, &b.unit
	if p.Register == nil || u.host == nil {
		return nil
	}
	err := u.host.Register(machine.Machine{
		Name: p.Machine, ID: p.ID, Service: p.Service, Class: p.Register.Class,
		Leader: b.proc.PID, Pidfd: b.proc.Pidfd, Root: p.Register.Root, Interfaces: b.interfaces,
	})
	switch {
	case err == nil:
		u.registered = true
	case p.Register.Required:
		return &settings.Error{What: err.Error(), Origin: p.Register.Origin}
	default:
		b.opt.Warn(err.Error() + "; machinectl will not show the machine")
	}
	return nil
}

// forget is the end of what the host knows. It waits for what is still being
// told.
func (s *supervisor) forget(b *builder) {
	u := &b.unit
	_ = b.place()      // who asked for it has the error,
	_ = b.registered() // and for this
	u.holder.release()
	u.holder = nil
	if u.host == nil {
		return
	}
	if u.registered {
		if err := u.host.Unregister(s.plan.Machine); err != nil {
			s.opt.Warn(err.Error())
		}
	}
	u.host.Release()
	u.host.Close()
	u.host = nil
}
