package container

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/engine"
	"launch/internal/facts"
	"launch/internal/plan"
	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/settings"
)

// Start lets the first process of a created container become its payload. The
// container must be locked. With a service manager's socket to notify, it stays
// until the container says that it is ready.
func (d *Dir) Start(notify string, warn func(string)) error {
	switch status, err := d.Status(); {
	case err != nil:
		return err
	case status == Stopped:
		return errors.New("cannot start a container that has stopped")
	case status == Paused:
		return errors.New("cannot start a container in the paused state")
	case status != Created:
		return errors.New("cannot start an already running container")
	}
	text, err := d.Config()
	if err != nil {
		return err
	}
	s, _, err := bundle.Read(d.Bundle, text)
	if err != nil {
		return err
	}
	heard := -1
	if notify != "" {
		if heard, err = d.listen(); err != nil {
			return err
		}
	}
	executed := func(int) error { return nil }
	if len(s.Bundle.Hooks.Poststart) > 0 {
		executed = d.executed
	}
	if err := d.start(s.Bundle.Hooks, warn, executed); err != nil {
		return err
	}
	if heard >= 0 {
		// Others may kill what never becomes ready.
		d.Unlock()
	}
	return d.Forward(heard, notify, true, false)
}

// Start lets the first process become its payload. heard is where it notifies
// its service manager, for Forward; -1 if there is none.
func (l *Live) Start() (heard int, err error) {
	if heard, err = l.listen(); err != nil {
		return -1, err
	}
	return heard, l.start(l.Settings.Bundle.Hooks, l.warn, func(int) error { return l.Process.Started() })
}

// start opens the gate, and runs the hooks around that. executed waits until
// the payload is, or is not going to be.
func (d *Dir) start(hooks settings.Hooks, warn func(string), executed func(gate int) error) error {
	if len(hooks.StartContainer) > 0 {
		pidfd, err := d.Pidfd()
		if err != nil {
			return err
		}
		for _, h := range hooks.StartContainer {
			if err = engine.RunHookIn(h, d.StateJSON(Created, d.PID), pidfd, d.PID); err != nil {
				break
			}
		}
		sys.Close(pidfd)
		if err != nil {
			// A container whose hook failed must not run.
			return errors.Join(err, d.kill())
		}
	}
	gate, err := sys.Openat(d.fd, gateName, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err == unix.ENXIO || err == unix.ENOENT {
		return errStopped
	}
	if err != nil {
		return fmt.Errorf("open the exec fifo: %w", err)
	}
	// The name goes first: who sees it may take the container for a created
	// one.
	err = sys.Unlinkat(d.fd, gateName, 0)
	if err == nil {
		err = sys.WriteString(gate, "s")
	}
	if err == nil {
		err = executed(gate)
	} else if err == unix.EPIPE { // since a moment ago
		err = errStopped
	} else {
		err = fmt.Errorf("let the first process go: %w", err)
	}
	sys.Close(gate)
	if err != nil {
		return err
	}
	if err := d.poststart(hooks, warn); err != nil {
		return errors.Join(err, d.kill())
	}
	return nil
}

var errStopped = errors.New("cannot start a container that has stopped")

// executed waits until the first process has closed the gate, which it does by
// executing the payload, or by its end.
func (d *Dir) executed(gate int) error {
	// Others may kill it, or let it go on, while that takes its time.
	d.Unlock()
	for fds := []unix.PollFd{{Fd: int32(gate)}}; fds[0].Revents == 0; {
		if _, err := sys.Poll(fds, -1); err != nil {
			return fmt.Errorf("wait for the payload: %w", err)
		}
	}
	if err := d.Lock(); err != nil {
		return err
	}
	// A word that nobody read: it was killed before.
	unread, err := sys.Unread(gate)
	if err != nil {
		return fmt.Errorf("look into the exec fifo: %w", err)
	}
	if unread > 0 {
		return errStopped
	}
	return nil
}

// poststart runs the hooks after the start.
func (d *Dir) poststart(hooks settings.Hooks, warn func(string)) error {
	for _, h := range hooks.Poststart {
		err := engine.RunHook(h, d.StateJSON(Running, d.PID))
		if err != nil && !hooks.PoststartWarns {
			return err
		}
		if err != nil {
			warn(err.Error())
		}
	}
	return nil
}

// kill ends the container at once, if it hasn't ended by itself.
func (d *Dir) kill() error {
	if err := d.Group.Kill(); err != nil {
		return err
	}
	if err := d.Kill(int(unix.SIGKILL), false); !errors.Is(err, ErrNotRunning) {
		return err
	}
	return nil
}

// Pidfd opens the first process, and makes sure that it is the container's.
func (d *Dir) Pidfd() (int, error) {
	if d.PID == 0 {
		return -1, ErrNotRunning
	}
	n, err := sys.PidfdOpen(d.PID)
	if err == unix.ESRCH {
		return -1, ErrNotRunning
	}
	if err != nil {
		return -1, fmt.Errorf("open process %d: %w", d.PID, err)
	}
	if !d.Alive() {
		sys.Close(n)
		return -1, ErrNotRunning
	}
	return n, nil
}

// ErrNotRunning is the error for what takes a first process.
var ErrNotRunning = errors.New("container not running")

// Kill sends a signal to the first process, or to all.
func (d *Dir) Kill(sig int, all bool) error {
	shared := false
	if !all && sig == int(unix.SIGKILL) {
		// Without a pid namespace of its own, killing the first process would
		// leave the others.
		shared = d.sharesPIDs()
	}
	if all || shared {
		pids, err := d.Group.Pids()
		switch {
		case err != nil:
			return err
		case len(pids) == 0 && all && sig != int(unix.SIGKILL):
			return cgroup.SignalAll(d.Processes, sig)
		case len(pids) == 0:
			// It may have no cgroups: then with the first process the kernel
			// ends all of its pid namespace.
		case sig == int(unix.SIGKILL):
			return d.Group.Kill()
		default:
			return d.Group.Signal(sig)
		}
	}
	n, err := d.Pidfd()
	if err != nil {
		return err
	}
	defer sys.Close(n)
	switch unix.Signal(sig) {
	case unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT:
		// Before the payload runs there is nobody to whom these could mean
		// anything but the end, and the kernel spares the first process of a
		// pid namespace.
		if waits, err := d.waits(); err == nil && waits {
			sig = int(unix.SIGKILL)
		}
	}
	if err := sys.PidfdSignal(n, sig); err != nil {
		if err == unix.ESRCH {
			return ErrNotRunning
		}
		return fmt.Errorf("signal the first process: %w", err)
	}
	if sig == int(unix.SIGKILL) {
		// In a frozen version 1 cgroup it would never arrive.
		if frozen, err := d.Group.Frozen(); err == nil && frozen {
			return d.Group.Thaw()
		}
	}
	return nil
}

// Processes lists the container's processes, in order. One without cgroups of
// its own, as an unprivileged user's may be, has those of its pid namespace,
// and if it shares that, too, the first process is all that is known.
func (d *Dir) Processes() ([]int, error) {
	pids, err := d.Group.Pids()
	if err != nil || len(pids) > 0 || !d.Alive() {
		return pids, err
	}
	const namespace = "/proc/%d/ns/pid"
	own, err := sys.Readlinkat(unix.AT_FDCWD, "/proc/self/ns/pid")
	if err != nil {
		return nil, fmt.Errorf("look at our pid namespace: %w", err)
	}
	its, err := sys.Readlinkat(unix.AT_FDCWD, fmt.Sprintf(namespace, d.PID))
	if err != nil || its == own {
		return []int{d.PID}, nil
	}
	proc, err := sys.Openat(unix.AT_FDCWD, "/proc", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open /proc: %w", err)
	}
	defer sys.Close(proc)
	names, err := sys.Names(proc)
	if err != nil {
		return nil, fmt.Errorf("list /proc: %w", err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if ns, err := sys.Readlinkat(unix.AT_FDCWD, fmt.Sprintf(namespace, pid)); err == nil && ns == its {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, nil
}

func (d *Dir) sharesPIDs() bool {
	text, err := d.Config()
	if err != nil {
		return false
	}
	s, _, err := bundle.Read(d.Bundle, text)
	if err != nil {
		return false
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Kind == "pid" {
			return n.Path != ""
		}
	}
	return true
}

// Delete removes a container that has stopped, or, with force, any. It must be
// locked.
func (d *Dir) Delete(force bool, warn func(string)) error { return d.end(force, warn, nil) }

// end is Delete; the hooks are nil if config.json must be read for them.
func (d *Dir) end(force bool, warn func(string), known *settings.Hooks) error {
	status, err := d.Status()
	if err != nil && !force {
		return err
	}
	if status != Stopped && !force {
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", d.ID, status)
	}
	if status != Stopped {
		if err := d.finish(); err != nil {
			return err
		}
	}
	hooks := known
	if hooks == nil {
		text, err := d.Config()
		if err == nil {
			var s settings.Settings
			if s, _, err = bundle.Read(d.Bundle, text); err == nil {
				hooks = &s.Bundle.Hooks
			}
		}
		// Else it was cut off before there was one.
	}
	if err := d.destroy(); err != nil {
		return err
	}
	if hooks != nil {
		d.poststop(*hooks, warn)
	}
	return nil
}

// finish kills the container, and waits for the end of its first process: who
// deletes a container may take away its root next. Its cgroups, for whose end
// destroy waits, it may not have.
func (d *Dir) finish() error {
	const most = 10_000 // milliseconds
	n, err := d.Pidfd()
	_ = d.Kill(int(unix.SIGKILL), false)
	if err != nil {
		return nil
	}
	defer sys.Close(n)
	fds := []unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}}
	if _, err := sys.Poll(fds, most); err != nil {
		return fmt.Errorf("wait for the end of process %d: %w", d.PID, err)
	}
	if fds[0].Revents == 0 {
		return fmt.Errorf("process %d of container %s was killed, and is still there", d.PID, d.ID)
	}
	return nil
}

// Delete removes it again, as Dir's does.
func (l *Live) Delete(force bool, warn func(string)) error {
	return l.Dir.end(force, warn, &l.Settings.Bundle.Hooks)
}

// poststop runs the hooks at the end. The container is gone: what a hook says
// is told, and no more.
func (d *Dir) poststop(hooks settings.Hooks, warn func(string)) {
	for _, h := range hooks.Poststop {
		if err := engine.RunHook(h, d.StateJSON(Stopped, 0)); err != nil {
			warn(err.Error())
		}
	}
}

// traces reports whether processes of the container may trace others that it
// sees, such as a runtime that enters it.
func traces(s *settings.Settings) bool {
	p := s.Exec.Process
	if p == nil || p.Caps == nil || (p.Caps.Bounding|p.Caps.Permitted|p.Caps.Inheritable)>>unix.CAP_SYS_PTRACE&1 == 0 {
		return false
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Kind == "user" {
			return false
		}
	}
	return true
}

// exposed reports whether processes that may trace others may see the runtime as it
// enters the container: the container's own, or those of another one with which it
// shares a pid namespace, whose rights are not known here.
func exposed(s *settings.Settings) bool {
	return traces(s) || slices.ContainsFunc(s.Bundle.Namespaces, func(n settings.Namespace) bool { return n.Kind == "pid" && n.Path != "" })
}

// ExecOptions are what exec is told.
type ExecOptions struct {
	Host facts.Host
	Exec settings.Exec
	// Console, as in CreateOptions.
	ConsoleSocket, PidfdSocket, PidFile string
	Master                              func(master int) error
	Keep                                int
	IgnorePaused, Rootless              bool
	Cgroups                             []string // [CONTROLLER,...:]PATH each
	Warn                                func(string)
	// Guard: as in CreateOptions.
	Guard func() error
}

// Exec starts one more process in a running container.
func (d *Dir) Exec(o ExecOptions, s settings.Settings) (*engine.Container, error) {
	switch status, err := d.Status(); {
	case err != nil:
		return nil, err
	case status == Stopped:
		return nil, errors.New("cannot exec in a stopped container")
	case status == Paused && !o.IgnorePaused:
		return nil, errors.New("cannot exec in a paused container (use --ignore-paused to override)")
	}
	// What one process may do, it may do to the runtime that brings the next.
	tracing := exposed(&s)
	s.Exec = o.Exec
	if !tracing && traces(&s) {
		tracing = true
		if err := d.write(tracesName, ""); err != nil {
			return nil, fmt.Errorf("note that container %s may trace: %w", d.ID, err)
		}
	}
	if !tracing {
		_, err := sys.Statx(d.fd, tracesName, unix.STATX_TYPE)
		tracing = err == nil
	}
	if tracing {
		if err := o.Guard(); err != nil {
			return nil, err
		}
	}
	if err := checkTerminal(s.Exec.Process, o.ConsoleSocket, o.Master); err != nil {
		return nil, err
	}
	labels(&o.Host, &s)
	pidfd, err := d.Pidfd()
	if err != nil {
		return nil, err
	}
	defer sys.Close(pidfd)
	if slices.ContainsFunc(s.Bundle.Namespaces, func(n settings.Namespace) bool { return n.Kind == "user" }) {
		// As we see them: the bundle's are not those where users without root's
		// rights go on, and one that joined others' users may have none.
		if s.Bundle.UIDs, s.Bundle.GIDs, err = engine.MapsOfProcess(d.PID); err != nil {
			return nil, err
		}
	}
	p, err := plan.CompileJoin(plan.Input{Settings: s, Facts: facts.Facts{Host: o.Host}, Profile: settings.OCI, Exposed: tracing})
	if err != nil {
		return nil, err
	}
	if !tracing && !p.Stubbed() {
		if err := o.Guard(); err != nil {
			return nil, err
		}
	}
	c, err := d.join(p, pidfd, o)
	if err != nil {
		return nil, err
	}
	if err := c.Started(); err != nil {
		return nil, err
	}
	if err := announce(o.PidfdSocket, o.PidFile, c); err != nil {
		_ = sys.PidfdSignal(c.Pidfd, int(unix.SIGKILL))
		_, _, _ = sys.Wait(c.Pidfd)
		return nil, err
	}
	return c, nil
}

// join starts the process in the container's cgroups, or below them.
func (d *Dir) join(p *plan.Plan, pidfd int, o ExecOptions) (*engine.Container, error) {
	var subs []cgroup.Sub
	for _, text := range o.Cgroups {
		sub, err := cgroup.ParseSub(text)
		if err != nil {
			return nil, err
		}
		subs = append(subs, sub)
	}
	group, err := d.Group.Below(subs)
	if err != nil {
		return nil, err
	}
	gone := false
	in := func(g cgroup.Group) (*engine.Container, error) {
		place, err := g.Open()
		if err != nil {
			gone = errors.Is(err, unix.ENOENT)
			return nil, err
		}
		defer place.Close()
		return engine.Join(p, engine.JoinOptions{
			Pidfd: pidfd, PID: d.PID, Warn: o.Warn, Rootless: o.Rootless, Cgroup: place.FD, Enter: place.Enter, Leave: place.Leave,
			Placed: func(pid int) error {
				if d.RDT.Dir != "" {
					if err := d.RDT.Join(pid); err != nil {
						return err
					}
				}
				return place.Finish(pid)
			},
			Console: terminalTo(o.ConsoleSocket, o.Master), Keep: o.Keep,
			Listener: func(listener, pid int) error { return d.sendListener(p, listener, pid) },
		})
	}
	c, err := in(group)
	if len(subs) > 0 || !gone && !errors.Is(err, unix.EBUSY) {
		return c, err
	}
	// The container divided its cgroup, which can't have processes since then,
	// or somebody moved its processes and took the cgroup away: the new one goes
	// to where the first one is.
	layout, lerr := cgroup.Detect()
	if lerr != nil {
		return nil, err
	}
	if group, lerr = layout.OfProcess(d.PID); lerr != nil {
		return nil, err
	}
	return in(group)
}

// Pause freezes the container.
func (d *Dir) Pause(func(string)) error {
	switch status, err := d.Status(); {
	case err != nil:
		return err
	case status != Running && status != Created:
		return fmt.Errorf("container not running or created: %s", status)
	}
	return d.Group.Freeze()
}

// Resume lets a paused container go on.
func (d *Dir) Resume(func(string)) error {
	switch status, err := d.Status(); {
	case err != nil:
		return err
	case status != Paused:
		return errors.New("container not paused")
	}
	return d.Group.Thaw()
}
