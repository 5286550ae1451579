package engine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/stub"
	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
	"launch/userns"
	"launch/userns/pick"
)

// Mounts is a saved tree of mounts and a command that runs in it. But for the
// mounts, and the users if there is a map, the command has the caller's world.
type Mounts struct {
	File   *tree.File
	Policy tree.Policy
	// Users is the map of the command's users; none: it has the caller's. Pick:
	// a free range is picked for them.
	Users userns.Map
	Pick  bool
	// Args is the command, Env its environment.
	Args, Env []string
}

// Run makes the tree, runs the command in its first namespace and gives the
// exit status. The command has the further namespaces as descriptors, from 3
// on. An error means that the command did not run, and that nothing is left.
func (m *Mounts) Run() (status int, err error) {
	// Who is in the tree must not be able to look into us.
	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {
		return 1, fmt.Errorf("become undumpable: %w", err)
	}
	signals, err := sys.Catch(unix.SIGTERM, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT)
	if err != nil {
		return 1, fmt.Errorf("set up the signals: %w", err)
	}
	defer signals.Release()
	if m.Pick {
		st, err := state.Open(fmt.Sprintf("mounts-%d", os.Getpid()))
		if err != nil {
			return 1, err
		}
		defer st.Close()
		defer st.Undo()
		if err := st.Record(state.Ranges, pick.Dir); err != nil {
			return 1, err
		}
		held, err := pick.Range(st.Name, 0)
		if err != nil {
			return 1, err
		}
		defer held.Release()
		m.Users = held.Range.Map()
	}
	started, hold := make(chan error), make(chan bool)
	defer close(hold)
	var c *child.Process
	sys.Spawn(func(l sys.Locked) {
		// The command dies with the thread.
		var err error
		c, err = m.start(l)
		started <- err
		<-hold
	})
	if err := <-started; err != nil {
		return 1, err
	}
	fds := []unix.PollFd{{Fd: int32(c.Pidfd), Events: unix.POLLIN}, {Fd: int32(signals.R), Events: unix.POLLIN}}
	for fds[0].Revents == 0 {
		if _, err := sys.Poll(fds, -1); err != nil {
			return 1, fmt.Errorf("wait for the command: %w", err)
		}
		if fds[1].Revents != 0 {
			for _, s := range signals.Pending() {
				// The terminal's keys reach the command by themselves.
				if s.Number == unix.SIGTERM || s.Number == unix.SIGHUP {
					sys.PidfdSignal(c.Pidfd, int(s.Number))
				}
			}
		}
	}
	code, status, err := sys.Wait(c.Pidfd)
	if err != nil {
		return 1, fmt.Errorf("reap the command: %w", err)
	}
	if code != cldExited {
		status += 128
	}
	return status, nil
}

// start makes the tree and lets the command run.
func (m *Mounts) start(l sys.Locked) (*child.Process, error) {
	o := snapshot.Options{Policy: m.Policy, Users: m.Users, UserNS: -1}
	if len(m.Users) > 0 {
		var err error
		if o.UserNS, err = mapNamespace(l, m.Users); err != nil {
			return nil, fmt.Errorf("make a user namespace: %w", err)
		}
		defer sys.Close(o.UserNS)
	}
	limit := fileLimit()
	spaces, err := snapshot.Restore(l, m.File, o)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range spaces {
			s.Close()
		}
	}()
	// Here: one of the new namespaces. The command is looked up in the first.
	if err := spaces[0].Enter(l); err != nil {
		return nil, fmt.Errorf("enter the tree: %w", err)
	}
	root, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(root)
	search := plan.Getenv(m.Env, "PATH")
	if search == "" {
		search = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	program, _, err := looker{root, "/"}.find(m.Args[:1], search)
	if err != nil {
		return nil, err
	}
	// As for machines, it is the stub that executes what the tree holds.
	status := 3 + len(spaces) - 1
	file, err := newStub()
	if err != nil {
		return nil, fmt.Errorf("make a file for the stub: %w", err)
	}
	defer file.close()
	if err := file.write(stub.Image(stub.Options{Only: true, Program: program, Args: m.Args, Env: m.Env, Status: status})); err != nil {
		return nil, fmt.Errorf("write the stub: %w", err)
	}
	statR, statW, err := sys.Pipe()
	if err != nil {
		return nil, err
	}
	defer sys.Close(statR)
	// Numbers that are out of the way of those that the command gets.
	const apart = 1 << 9
	high := func(n int) uintptr {
		to, derr := sys.DupAbove(n, apart)
		if derr != nil {
			err = derr
		}
		return uintptr(to)
	}
	var moved []uintptr
	moved = append(moved, high(statW), high(file.run))
	for _, s := range spaces {
		moved = append(moved, high(s.NS))
	}
	defer func() {
		for _, n := range moved {
			sys.Close(int(n))
		}
	}()
	sys.Close(statW)
	if err != nil {
		return nil, fmt.Errorf("move descriptors: %w", err)
	}
	p := child.New(24 + len(spaces))
	if len(m.Users) > 0 {
		p.Add("join the user namespace", unix.SYS_SETNS, uintptr(o.UserNS), unix.CLONE_NEWUSER)
		p.Add("drop all groups", unix.SYS_SETGROUPS, 0, 0)
		p.Add("become the group root", unix.SYS_SETRESGID, 0, 0, 0)
		p.Add("become the user root", unix.SYS_SETRESUID, 0, 0, 0)
	}
	p.Add("enter the tree", unix.SYS_SETNS, moved[2], unix.CLONE_NEWNS)
	p.Add("go to its root", unix.SYS_FCHDIR, uintptr(spaces[0].Root))
	p.Add("take it as the root", unix.SYS_CHROOT, p.String("."))
	p.Add("die with the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	fd := &unix.PollFd{Fd: int32(statR)}
	p.Add("find the launcher alive", unix.SYS_PPOLL, child.Keep(p, fd), 1, child.Keep(p, &unix.Timespec{}), 0, 0).NeedNone()
	for i, n := range moved[3:] {
		p.Add("pass on a namespace", unix.SYS_DUP3, n, uintptr(3+i), 0)
	}
	p.Add("move the status pipe", unix.SYS_DUP3, moved[0], uintptr(status), 0)
	p.Add("move the stub's file", unix.SYS_DUP3, moved[1], uintptr(status+1), unix.O_CLOEXEC)
	p.Add("close all other descriptors", unix.SYS_CLOSE_RANGE, uintptr(status+2), ^uintptr(0)>>32, 0)
	if limit != nil {
		p.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, child.Keep(p, limit), 0)
	}
	p.Add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	p.Add("execute the stub", unix.SYS_EXECVEAT, uintptr(status+1), p.String(""), p.Strings(stub.Name), p.Strings(), unix.AT_EMPTY_PATH)
	c, err := child.Start(l, p, child.Options{})
	for _, n := range moved {
		sys.Close(int(n))
	}
	moved = nil
	if err != nil {
		return nil, fmt.Errorf("start the command: %w", err)
	}
	report := make([]byte, stub.ReportSize)
	n, err := sys.Read(statR, report)
	switch f := c.Failure(); {
	case err != nil:
		err = fmt.Errorf("hear from the command: %w", err)
	case f != nil:
		err = f
	case n == len(report):
		_, errno := stub.Report(report)
		err = &os.PathError{Op: "execute", Path: program, Err: errno}
	default:
		return c, nil
	}
	sys.PidfdSignal(c.Pidfd, int(unix.SIGKILL))
	sys.Wait(c.Pidfd)
	sys.Close(c.Pidfd)
	return nil, err
}

// saved brings back the mounts of a file, in the namespace of the first
// process, which is let go until it has one and waits again there. What is
// looked up in the tree is looked up in that one then.
func (b *builder) saved(before *snapshot.Before) error {
	if before == nil {
		return nil
	}
	if err := b.lowerUntil(plan.Mounted); err != nil {
		return err
	}
	if err := sys.WriteString(b.goW, "g"); err != nil {
		return fmt.Errorf("let the first process go on to its mount namespace: %w", err)
	}
	if err := b.arrived(); err != nil {
		return err
	}
	var users userns.Map
	if b.plan.Users.Private() {
		users = b.plan.Users.Range.Map()
	}
	root, err := snapshot.Add(b.l, before, b.proc.PID, b.opt.Mounts, users)
	if err != nil {
		for i, s := range b.plan.Steps {
			if s.Do == plan.Saved {
				return &StepError{i + 1, s.Origin, fmt.Errorf("bring back the mounts of %s: %w", s.Path, err)}
			}
		}
		return err
	}
	b.top = root
	return nil
}
