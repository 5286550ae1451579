// Package engine carries out a plan: it is the only place that knows the whole
// order of a start.
//
// Three parties take part. The *supervisor* (the calling goroutine) holds the
// machine's lock, forwards the console and signals, waits for the end, and
// undoes what was made. The *builder* is one locked thread in a mount
// namespace of its own; it puts the tree together with ordinary Go code. The
// *first process* is a clone of that thread which runs a table of system calls
// and becomes the payload (package child).
//
// What it guarantees: every effect on the host is recorded before it is made;
// whatever happens, the payload dies with the launcher; an error names the
// step that failed and who asked for it. It refuses to know options, files or
// bundles: what it does is in the plan.
//
// Room: engine.
package engine

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/console"
	"launch/internal/entry"
	"launch/internal/machine"
	"launch/internal/netns"
	"launch/internal/notify"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/internal/tree"
	saved "launch/mount/tree"
	"launch/userns"
	"launch/userns/pick"
)

// Options are what a run needs beside the plan.
type Options struct {
	// Pin is the tree's directory, or the disk image that it is in, as it was
	// looked at for the plan.
	Pin int
	// Pins are the entries of a mount stack, whose directory Pin is, by their paths.
	Pins map[string]int
	// Shift is the first id of the range that the tree's files belong to now.
	Shift uint32
	// Warn takes what a person should know; it may be nil.
	Warn func(string)
	// Notify is the service manager's socket ($NOTIFY_SOCKET), or "".
	Notify string
	// Watchdog is within what time the service manager wants to hear from the
	// launcher, again and again; 0: it doesn't.
	Watchdog time.Duration
	// Copying is told how far the copy of the tree is, and when it is over; it
	// may be nil.
	Copying func(r tree.Report, over bool)
	// State gives a bundle's state as JSON, for its hooks.
	State func(status string, pid int) []byte
	// Opened is that of CreateOptions, for bundles.
	Opened func() error
	// Mounts are brought back where the plan says so.
	Mounts *saved.File
	// Thread is what a machine is built on first, of NewSite; nil: a new one.
	Thread *Thread
	// Started is called when the payload runs, with its number on the host.
	Started func(pid int)
}

// StepError is a step of a plan that failed.
type StepError struct {
	// Number counts from 1, over the steps and then the program.
	Number int
	Origin origin.Origin
	// Err says what was done to what, and why it failed.
	Err error
}

func (e *StepError) Error() string { return fmt.Sprintf("step %d, %v", e.Number, e.Err) }

// Unwrap gives the cause.
func (e *StepError) Unwrap() error { return e.Err }

// LeftError is what could not be undone after a machine's end. The machine
// itself may have done well.
type LeftError struct{ Err error }

func (e *LeftError) Error() string { return "undo: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *LeftError) Unwrap() error { return e.Err }

// Reboot is the status of a machine that wants to be started again.
const Reboot = 133

// Run carries out the plan and gives the exit status. An error means that the
// machine did not start, or that something could not be undone; the status is
// right in both cases.
func Run(p *plan.Plan, o Options) (status int, err error) {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	// A launcher that the machine could read or trace would give it the host.
	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {
		return 1, fmt.Errorf("become undumpable: %w", err)
	}
	s := &supervisor{plan: p, opt: o, thread: o.Thread, secrets: map[string]string{}}
	for _, c := range p.Credentials {
		s.secrets[c.ID] = c.Value
	}
	defer func() { s.ended(status, err) }()
	if s.thread != nil {
		s.thread.rouse()
	}
	if err := s.listen(); err != nil {
		return 1, err
	}
	defer s.signals.Release()
	if s.state, err = state.Open(p.Machine); err != nil {
		return 1, err
	}
	defer s.state.Close()
	defer func() { s.ports.Close() }() // last, see Free
	defer func() {
		if uerr := s.state.Undo(); uerr != nil {
			err = errors.Join(err, &LeftError{uerr})
		}
	}()
	if err := s.forward(); err != nil {
		return 1, err
	}
	if err := s.before(); err != nil {
		return 1, err
	}
	if p.Users.Mode == userns.Pick {
		// A machine that reboots keeps its range: its files are there.
		if err := s.state.Record(state.Ranges, pick.Dir); err != nil {
			return 1, err
		}
		held, err := pick.Range(p.Machine, o.Shift)
		if err != nil {
			return 1, &StepError{1, p.Users.Origin, err}
		}
		defer held.Release()
		p.SetRange(held.Range)
	}
	for {
		status, err := s.once()
		if err == nil && s.again(status) && !p.KeepUnit {
			s.anew()
			continue
		}
		if err != nil && s.again(status) && !p.KeepUnit {
			status = 1 // it wanted to, and can't: what it was is still in the way
		}
		return status, err
	}
}

// again tells whether the machine wants to be started again. The status of a
// payload that is passed on means nothing, whatever it is.
func (s *supervisor) again(status int) bool { return status == Reboot && !s.plan.Stop.Pass }

// anew is between two starts of a machine. Systemd-machined, since 258, sends us
// SIGTERM when it finds that a first process has ended before we have told it: that
// was about the machine before, and the next one is not to be stopped for it. Since
// it has answered our goodbye, there is none to come. What others ask for stands.
func (s *supervisor) anew() {
	for _, sig := range s.signals.Pending() {
		if sig.Number == unix.SIGTERM && machine.From(sig.Sender) {
			continue
		}
		sys.Kill(os.Getpid(), int(sig.Number))
	}
}

// supervisor is one run of one machine.
type supervisor struct {
	plan    *plan.Plan
	opt     Options
	state   *state.Machine
	mark    int          // of the effects that go with one run of the machine
	locks   []*tree.Lock // of the tree, until the end
	secrets map[string]string
	thread  *Thread // that builds the machine next; nil: there is none yet
	signals *sys.Caught
	ports   *netns.Ports // that lead to the machine, or nil
	// receiver takes the machine's journal; nil: nobody does.
	receiver *receiver
	stored   int       // how often the machine had descriptors kept
	unstored []string  // why they were not, since the last reading of messages
	ping     time.Time // when the service manager is told next that we live
}

// listen makes signals wake the loop instead of ending the launcher.
func (s *supervisor) listen() error {
	list := []unix.Signal{unix.SIGWINCH, unix.SIGCONT}
	if s.plan.Stop.Pass {
		list = append(list, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM)
	}
	// Who starts us with a signal ignored, as nohup does, means it.
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGTSTP} {
		if !signal.Ignored(sig) {
			list = append(list, sig)
		}
	}
	var err error
	if s.signals, err = sys.Catch(list...); err != nil {
		return fmt.Errorf("set up the signals: %w", err)
	}
	return nil
}

// once starts the machine, waits for its end, and undoes all that was made for
// this time.
func (s *supervisor) once() (status int, err error) {
	p := s.plan
	s.mark = s.state.Mark()
	defer func() {
		if uerr := s.state.UndoTo(s.mark); uerr != nil {
			err = errors.Join(err, &LeftError{uerr})
		}
	}()

	if p.Payload.Exact != nil {
		return s.onceBundle()
	}
	defer func() {
		switch rerr := s.unreceive(); {
		case rerr == nil:
		case err == nil && s.again(status):
			s.opt.Warn(rerr.Error()) // it is started again all the same
		default:
			err = errors.Join(err, rerr)
		}
	}()
	if err := s.beside(); err != nil {
		return 1, err
	}
	b := &builder{plan: p, opt: s.opt, state: s.state, alone: s.alone, secrets: s.secrets, shared: map[string]int{}, cgroup: -1, notify: -1, kmsg: -1, network: -1, pty: console.Pty{Master: -1, Slave: -1}}
	shared, placed, compiled, received := make(chan error, 1), make(chan error, 1), make(chan error, 1), make(chan error, 1)
	b.shares = sync.OnceValue(func() error { return <-shared })
	b.place = sync.OnceValue(func() error { return <-placed })
	b.compiled = func() error { return <-compiled }
	b.received = func() error { return <-received }
	b.registered = func() error { return nil }
	defer func() {
		if b.cgroup >= 0 {
			sys.Close(b.cgroup)
		}
	}()
	defer s.forget(b)
	defer b.unlink()

	// The thread lives as long as the machine: it is what the first process
	// dies with.
	if s.thread == nil {
		s.thread = NewSite()
	}
	t := s.thread
	b.site = t
	defer func() {
		if !s.again(status) {
			t.leave()
			return
		}
		t.end()
		s.thread = nil
	}()
	err = t.beside(b.build, func() {
		shared <- s.share(b)
		err := s.settleIn(b)
		placed <- err
		cerr := b.compile()
		if cerr == nil && len(p.Terminal.Stdio) == 0 {
			cerr = b.conceive()
		}
		compiled <- cerr
		if err == nil {
			err = s.received()
		}
		received <- err
	})
	b.stub.close()
	for _, n := range b.shared { // if it came to nothing
		sys.Close(n)
	}
	if b.watch != nil {
		b.follower = &follower{watch: b.watch, ports: s.ports, warn: s.opt.Warn, due: true}
		defer func() { b.follower.close(!s.again(status)) }()
	}
	if b.notify >= 0 {
		b.ear = s.newEar(b)
		defer func() {
			// What is still in there may take long to be thrown away, but not when
			// the launcher ends, which comes next but after a reboot.
			if s.again(status) {
				b.ear.Close()
			}
		}()
	}
	if b.kmsg >= 0 {
		defer sys.Close(b.kmsg)
	}
	if b.proc != nil {
		defer sys.Close(b.proc.Pidfd)
	}
	if err == nil {
		err = b.begun()
	}
	b.oom.close()
	if err != nil {
		b.kill()
		return 1, err
	}
	defer b.pty.Close()
	if err := s.state.SetLeader(b.proc.PID); err != nil {
		s.opt.Warn(fmt.Sprintf("note the first process, for other commands: %v", err))
	}
	if s.opt.Started != nil {
		s.opt.Started(b.proc.PID)
	}
	lines := []string{"STATUS=Machine started.", fmt.Sprintf("X_NSPAWN_LEADER_PID=%d", b.proc.PID)}
	if !p.NotifyReady {
		lines = append(lines, "READY=1")
	}
	s.tell(lines...)
	status, err = s.supervise(b)
	switch {
	case s.again(status) && !p.KeepUnit:
		s.tell("STATUS=Restarting...") // we do that ourselves, and don't stop
	case s.again(status):
		s.tell("STOPPING=1", "STATUS=Restarting...")
	default:
		s.tell("STOPPING=1", "STATUS=Terminating...")
	}
	return status, err
}

// patience is how often the machine's notifications may be unreadable in a row.
const patience = 8

// tell says something to the service manager.
func (s *supervisor) tell(lines ...string) {
	if err := notify.Send(s.opt.Notify, lines...); err != nil {
		s.opt.Warn(err.Error())
	}
}

// ended tells the service manager how the machine ended, when all is undone.
func (s *supervisor) ended(status int, err error) {
	var lines []string
	if no := unix.Errno(0); status != 0 && errors.As(err, &no) {
		lines = append(lines, fmt.Sprintf("ERRNO=%d", int(no)))
	}
	s.tell(append(lines, fmt.Sprintf("EXIT_STATUS=%d", status))...)
}

// alive tells the service manager that the launcher lives, if it is time, and
// gives the milliseconds until it is time again; -1: never. What the machine
// does has no part in it.
func (s *supervisor) alive(now time.Time) (next int) {
	if s.opt.Watchdog <= 0 {
		return -1
	}
	if !now.Before(s.ping) {
		s.tell("WATCHDOG=1")
		s.ping = now.Add(s.opt.Watchdog / 2)
	}
	return int(s.ping.Sub(now)/time.Millisecond) + 1
}

// mostStored is how often a machine may ask for descriptors to be kept.
const mostStored = 1000

// newEar hears what the machine says of itself. Descriptors that it wants to be
// kept are passed on at once; this runs beside the loop.
func (s *supervisor) newEar(b *builder) *notify.Ear {
	return notify.NewEar(b.notify, b.proc.PID, func(d notify.Stored) {
		// The machine could keep the service manager busy for ever.
		if s.stored++; s.stored > mostStored {
			if s.stored == mostStored+1 {
				s.unstored = append(s.unstored, "the machine wants its descriptors to be kept all too often: from now on, they are not")
			}
			return
		}
		if err := notify.Store(s.opt.Notify, d); err != nil {
			s.unstored = append(s.unstored, err.Error())
		}
	})
}

// relay passes on what a reading has heard.
func (s *supervisor) relay(state notify.State, err error) error {
	for _, text := range s.unstored {
		s.opt.Warn(text)
	}
	s.unstored = nil
	if err != nil {
		s.opt.Warn(fmt.Sprintf("read the machine's notifications: %v", err))
		return err
	}
	if state.Status != "" {
		s.tell("STATUS=Machine running: " + state.Status)
	}
	if state.Ready && s.plan.NotifyReady {
		s.tell("READY=1")
	}
	return nil
}

// supervise is the loop of a machine's life.
func (s *supervisor) supervise(b *builder) (int, error) {
	var f *console.Forwarder
	asked, hung := false, false
	var lost *console.OutputError
	if t := s.plan.Terminal; b.pty.Master > 0 && t.Output >= 0 {
		c := console.Config{In: 0, Out: t.Output, Master: b.pty.Master, Title: t.Title, Reset: t.Reset, Yield: t.Yield}
		switch t.Input {
		case plan.NoInput:
			c.Mode = console.ReadOnly
		case plan.Lines:
			c.Mode = console.Lines
		case plan.Keys:
			c.Mode = console.Interactive
			c.Hotkey = func(k console.Hotkey) {
				switch k {
				case console.Kill:
					asked = true
					sys.PidfdSignal(b.proc.Pidfd, int(unix.SIGKILL))
				case console.Poweroff:
					sys.PidfdSignal(b.proc.Pidfd, sigrtmin+4)
				case console.Reboot:
					sys.PidfdSignal(b.proc.Pidfd, sigrtmin+5)
				default:
					s.opt.Warn("after ^] ^]: ^] ends the machine, p powers it off, r reboots it")
				}
			}
		}
		var err error
		if f, err = console.New(c); err != nil {
			b.kill()
			return 1, fmt.Errorf("set up the console: %w", err)
		}
		defer f.Restore()
	}
	poll := sys.Poll
	// stop asks the machine to end; the second time it is killed.
	stop := func() error {
		sig := int(unix.SIGKILL)
		if s.plan.Stop.Signal != 0 && !asked {
			sig = s.plan.Stop.Signal
		}
		if !asked && sig != int(unix.SIGKILL) {
			s.tell("STOPPING=1", "STATUS=Shutting down...")
		}
		asked = true
		err := sys.PidfdSignal(b.proc.Pidfd, sig)
		if sig == int(unix.SIGKILL) {
			// What the host shares with it is taken back while it ends.
			s.state.UndoOf(state.Mounts, s.mark)
			poll = sys.PollAwake // it takes longer to fall asleep and wake than it has to live
		}
		return err
	}
	// over is when a machine that was asked to end is killed; zero: never.
	var over time.Time
	rested := sys.Faults // it would be a call more or not, by chance
	var fds []unix.PollFd
	deaf, unheard := b.ear == nil, 0
	host := -1
	if b.unit.host != nil {
		host = b.unit.host.FD()
		// What came with an answer wakes nobody any more.
		if asked, _ := b.unit.host.Stop(); asked {
			stop()
		}
	}
	for {
		ear := -1
		if !deaf {
			ear = b.ear.FD()
		}
		fds = append(fds[:0],
			unix.PollFd{Fd: int32(b.proc.Pidfd), Events: unix.POLLIN},
			unix.PollFd{Fd: int32(s.signals.R), Events: unix.POLLIN},
			unix.PollFd{Fd: int32(ear), Events: unix.POLLIN}, // ignored if negative
			unix.PollFd{Fd: int32(host), Events: unix.POLLIN},
			unix.PollFd{Fd: int32(s.receiver.pidfd()), Events: unix.POLLIN})
		watch, timeout := b.follower.poll()
		fds = append(fds, unix.PollFd{Fd: int32(watch), Events: unix.POLLIN})
		if f != nil {
			fds = f.Fds(fds)
			if next := f.Timeout(); next >= 0 && (timeout < 0 || next < timeout) {
				timeout = next
			}
		}
		if next := s.alive(time.Now()); next >= 0 && (timeout < 0 || next < timeout) {
			timeout = next
		}
		if !over.IsZero() {
			if left := int(time.Until(over)/time.Millisecond) + 1; timeout < 0 || left < timeout {
				timeout = max(left, 0)
			}
		}
		if !rested && (timeout < 0 || timeout > idle) {
			timeout = idle
		}
		n, err := poll(fds, timeout)
		if err != nil {
			b.kill()
			return 1, fmt.Errorf("wait for the machine: %w", err)
		}
		if n == 0 && !rested {
			rested = true
			entry.Forget()
		}
		poll = sys.Poll
		if !over.IsZero() && time.Now().After(over) {
			over = time.Time{}
			stop()
		}
		if fds[1].Revents != 0 {
			for _, sig := range s.signals.Pending() {
				switch sig.Number {
				case unix.SIGWINCH:
					if f != nil {
						f.Resize()
					}
				case unix.SIGTSTP:
					// A job that is stopped leaves the terminal as it was. The machine
					// goes on, as long as its output has room.
					if f != nil {
						f.Suspend()
					}
					sys.Kill(os.Getpid(), int(unix.SIGSTOP))
				case unix.SIGCONT:
					if f != nil {
						if err := f.Resume(); err != nil {
							s.opt.Warn(err.Error())
						}
					}
				case unix.SIGINT, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM, unix.SIGHUP:
					if s.plan.Stop.Pass {
						sys.PidfdSignal(b.proc.Pidfd, int(sig.Number))
						break
					}
					if sig.Number != unix.SIGHUP {
						stop()
						break
					}
					asked = true
					sys.PidfdSignal(b.proc.Pidfd, int(unix.SIGKILL))
				default:
					if fds[0].Revents == 0 { // else there is nobody to be asked
						stop()
					}
				}
			}
		}
		if fds[2].Revents != 0 {
			if state, ok, err := b.ear.Take(); !ok {
				// It is being read.
			} else if s.relay(state, err) == nil {
				unheard = 0
			} else if unheard++; unheard == patience {
				// The message waits still, and would wake the loop for ever.
				deaf = true
			}
		}
		if fds[3].Revents != 0 {
			asked, err := b.unit.host.Stop()
			if asked {
				stop()
			}
			if err != nil {
				host = -1
			}
		}
		if fds[4].Revents != 0 {
			s.lost()
		}
		b.follower.look(fds[5].Revents != 0)
		if f != nil {
			state, err := f.Handle(fds[6:])
			if err != nil && !errors.As(err, &lost) {
				s.opt.Warn(err.Error())
			}
			if state != console.Running && !hung {
				// Nobody can see or stop the machine any more.
				hung = true
				stop()
				if s.plan.Stop.Pass {
					over = time.Now().Add(leave) // a command may know nothing of the signal
				}
			}
			if state == console.Lost {
				// Without a terminal, it doesn't wait for somebody to read from it.
				f.Restore()
				f = nil
				b.pty.Close()
			}
		}
		if fds[0].Revents != 0 {
			break
		}
	}
	code, status, err := sys.Wait(b.proc.Pidfd)
	if !deaf && (b.ear.Busy() || fds[2].Revents != 0 && !sys.Faults) { // there may be more
		if state, ok, err := b.ear.Rest(notify.Last); ok {
			_ = s.relay(state, err)
		} else {
			s.opt.Warn("the machine's last notifications can't be read: what was sent with them keeps the kernel waiting")
		}
	}
	if f != nil {
		if err := f.Drain(time.Second); err != nil && !errors.As(err, &lost) {
			s.opt.Warn(err.Error())
		}
	}
	if err != nil {
		return 1, fmt.Errorf("reap the machine's first process: %w", err)
	}
	if !s.plan.Stop.Pass {
		status, err = verdict(code, status, asked, s.plan.First())
	} else if code != cldExited {
		status += 128 // as a shell says it
	}
	if lost != nil && err == nil {
		return max(status, 1), lost
	}
	return status, err
}

// idle is how many milliseconds nothing happens before the launcher takes it that it
// has to wait. A command may be over by then.
const idle = 10

// leave is how long a command whose terminal is gone may take to end.
const leave = 10 * time.Second

// sigrtmin is the first real-time signal as libc counts.
const sigrtmin = 34

// CLD_EXITED and its like of siginfo.
const (
	cldExited = 1
	cldKilled = 2
)

// verdict is the launcher's exit status for the end of the first process. The
// kernel ends a pid namespace that asked for power off or halt by SIGINT, and
// for a reboot by SIGHUP, if it is the first there.
func verdict(code, status int, asked, first bool) (int, error) {
	switch {
	case code == cldExited && status == Reboot:
		return 1, nil // means something else to who started the launcher
	case code == cldExited:
		return status, nil
	case first && code == cldKilled && status == int(unix.SIGINT):
		return 0, nil
	case first && code == cldKilled && status == int(unix.SIGHUP):
		return Reboot, nil
	case asked && status == int(unix.SIGKILL):
		return 1, nil
	}
	return 1, &Ended{syscall.Signal(status)}
}

// Ended is the error for a machine whose first process was ended by a signal
// that nobody sent on purpose.
type Ended struct{ Signal syscall.Signal }

func (e *Ended) Error() string {
	return "the first process was ended by " + unix.SignalName(e.Signal)
}

// kill ends a first process that must not go on.
func (b *builder) kill() {
	if b.proc == nil {
		return
	}
	sys.PidfdSignal(b.proc.Pidfd, int(unix.SIGKILL))
	sys.Wait(b.proc.Pidfd)
}
