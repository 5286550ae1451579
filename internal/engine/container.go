package engine

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/console"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/stub"
	"launch/internal/sys"
	"launch/mount/attach"
	"launch/settings"
	"launch/userns"
)

// CreateOptions are what the creation of a container needs beside the plan.
type CreateOptions struct {
	// Pin is the root's directory, as it was looked at for the plan.
	Pin int
	// Warn takes what a person should know; it may be nil.
	Warn func(string)
	// Gate is a FIFO, open for reading and writing: the first process reads a
	// byte from it before it becomes the payload. -1: it doesn't wait.
	Gate int
	// Cgroup is a descriptor of the cgroup (v2) that the first process is born
	// into; -1: none. Enter puts the calling thread into cgroups (v1) that its
	// children are to be in, and Leave puts it back; both may be nil.
	Cgroup int
	Enter  func(sys.Locked) error
	Leave  func(sys.Locked) error
	// Opened is called when the namespaces that it shares are open: they are
	// named by number of process, and a number may be somebody else's by now. It
	// may be nil.
	Opened func() error
	// Placed is called when the first process exists, waits, and has all its
	// namespaces (or, where the plan moves it into its cgroup, all but those
	// that come after that); nothing of the container is there yet. It may be
	// nil.
	Placed func(pid int) error
	// Console takes the master side of the container's terminal, which it may
	// keep; nil: there is none, or the caller's own standard input and output
	// are the payload's.
	Console func(master int) error
	// Keep is how many descriptors, from 3 on, the payload inherits.
	Keep int
	// KeepKeyring: the payload stays in the caller's session keyring.
	KeepKeyring bool
	// Rootless: the caller is root in users of his own at most. Own is a
	// directory that nobody else uses: the root is put together on it where
	// the caller may not make one in /run.
	Rootless bool
	Own      string
	// Say: the caller will not be there to hear that the payload could not be
	// executed, so the container says it itself.
	Say bool
	// Bound: the first process does not outlive the caller.
	Bound bool
	// Thread is what the container is built on; nil: a new one.
	Thread *Thread
	// State gives the state of the container as JSON, for hooks.
	State func(status string, pid int) []byte
	// Listener sends the descriptor of the system-call filter's listener to
	// who asked for it; the process waits meanwhile.
	Listener func(listener, pid int) error
}

// Container is a first process that was created, or one that joined.
type Container struct {
	PID   int
	Pidfd int
	b     *builder
}

// Create makes a container as the plan says, runs its hooks up to
// createContainer, and leaves its first process waiting at the gate. The first
// process outlives the caller. After an error nothing of it is left.
func Create(p *plan.Plan, o CreateOptions) (*Container, error) {
	if o.State == nil {
		o.State = func(string, int) []byte { return nil }
	}
	b := newContainerBuilder(p, o)
	return b.contain(func() error { return b.create(b.l) })
}

// JoinOptions are what a process that joins a container needs.
type JoinOptions struct {
	// Pidfd is the container's first process, and PID its number.
	Pidfd, PID int
	Warn       func(string)
	// Cgroup, Enter, Leave, Console, Keep, Listener, Rootless: as in
	// CreateOptions. Placed is called when the process exists and waits.
	Cgroup   int
	Enter    func(sys.Locked) error
	Leave    func(sys.Locked) error
	Placed   func(pid int) error
	Console  func(master int) error
	Keep     int
	Listener func(listener, pid int) error
	Rootless bool
}

// Join starts a process of the plan made by plan.CompileJoin in a running
// container.
func Join(p *plan.Plan, o JoinOptions) (*Container, error) {
	b := newContainerBuilder(p, CreateOptions{Pin: -1, Warn: o.Warn, Gate: -1, Cgroup: o.Cgroup, Enter: o.Enter, Leave: o.Leave, Placed: o.Placed,
		Console: o.Console, Keep: o.Keep, Listener: o.Listener, Rootless: o.Rootless})
	b.into, b.intoPID = o.Pidfd, o.PID
	return b.contain(func() error { return b.join2() })
}

func newContainerBuilder(p *plan.Plan, o CreateOptions) *builder {
	if o.Warn == nil {
		o.Warn = func(string) {}
	}
	return &builder{plan: p, opt: Options{Pin: o.Pin, Warn: o.Warn}, create0: &o, cgroup: o.Cgroup, notify: -1, kmsg: -1, into: -1,
		idmaps: -1, pty: console.Pty{Master: -1, Slave: -1}, keepGroups: p.Payload.Exact.IDs.KeepGroups}
}

// contain runs f on a thread that stays for as long as the caller lives: the
// first process may have it as the parent that it dies with.
func (b *builder) contain(f func() error) (*Container, error) {
	// A runtime that the container could read or trace would give it the host.
	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {
		return nil, fmt.Errorf("become undumpable: %w", err)
	}
	t := b.create0.Thread
	if t == nil {
		t = NewThread()
	}
	err := t.run(func(l sys.Locked) error {
		b.l = l
		return f()
	})
	if err != nil {
		b.kill()
		b.pty.Close()
		return nil, err
	}
	return &Container{PID: b.proc.PID, Pidfd: b.proc.Pidfd, b: b}, nil
}

// Started waits until the process has become the payload. An error says why it
// could not.
func (c *Container) Started() error {
	err := c.b.heard()
	c.b.oom.restore(c.b)
	return err
}

// free is the first number that is out of the way of those that the payload
// gets. It is a low one: the caller's limit of open files may be, too.
func (b *builder) free() int { return b.create0.Keep + 16 }

// aside gives a copy of a descriptor, out of the way of those that the payload gets.
func (b *builder) aside(n *int) error {
	moved, err := sys.DupAbove(*n, b.free())
	if err != nil {
		return err
	}
	*n = moved
	return nil
}

// begin opens what the launcher and the process talk through.
func (b *builder) begin() (err error) {
	if b.goR, b.goW, err = sys.Pipe(); err != nil {
		return fmt.Errorf("make the go pipe: %w", err)
	}
	if b.statR, b.statW, err = sys.Pipe(); err != nil {
		return fmt.Errorf("make the status pipe: %w", err)
	}
	b.gate = b.create0.Gate
	if b.plan.Stubbed() {
		if b.stub, err = newStub(); err != nil {
			return fmt.Errorf("make a file for the stub: %w", err)
		}
		if err := above(&b.stub.run, b.free()); err != nil {
			return fmt.Errorf("move a descriptor: %w", err)
		}
	}
	for _, n := range []*int{&b.goR, &b.statW} {
		if err := above(n, b.free()); err != nil {
			return fmt.Errorf("move a descriptor: %w", err)
		}
	}
	for _, n := range []*int{&b.gate, &b.into} { // the caller's, who keeps them
		if *n < 0 {
			continue
		}
		if err := b.aside(n); err != nil {
			return fmt.Errorf("move a descriptor: %w", err)
		}
	}
	return nil
}

// start clones the first process with its program up to the Go step.
func (b *builder) start(flags uint64) (err error) {
	if b.prog = child.New(programMax + 64); b.plan.Forks {
		if b.prog, err = child.NewForking(programMax + 64); err != nil {
			return fmt.Errorf("get memory for the first process: %w", err)
		}
	}
	for i, op := range b.plan.Program {
		if err := b.lower(op); err != nil {
			return b.programError(i, err)
		}
		if op.Call == plan.Go {
			break
		}
	}
	if b.create0.Enter != nil {
		if err := b.create0.Enter(b.l); err != nil {
			return err
		}
	}
	b.proc, err = child.Start(b.l, b.prog, child.Options{Namespaces: flags, Cgroup: b.cgroup})
	if err != nil {
		err = fmt.Errorf("clone the first process: %w", err)
	}
	if b.create0.Leave != nil {
		err = errors.Join(err, b.create0.Leave(b.l))
	}
	sys.Close(b.goR)
	sys.Close(b.statW)
	return err
}

// create does the work of Create.
func (b *builder) create(l sys.Locked) (err error) {
	o := b.create0
	how := attach.How{Shared: b.plan.Shared, Namespace: -1, Own: o.Own}
	if b.plan.Bare {
		how.Seat = b.plan.Directory
	}
	// The paths of namespaces are the caller's: they are opened before
	// anything changes.
	if err := b.openNamespaces(); err != nil {
		return err
	}
	if o.Opened != nil {
		if err := o.Opened(); err != nil {
			return err
		}
	}
	for i, n := range b.plan.Namespaces {
		if n.Path != "" && n.Flag == unix.CLONE_NEWNS {
			how.Namespace = b.spaces[i]
		}
	}
	if b.tree, err = attach.BeginAs(l, how); err != nil {
		return err
	}
	defer b.tree.Close()
	t := b.tree
	t.Exact, t.Pin = true, b.opt.Pin
	t.UID, t.GID = b.hostID(0, 0)
	t.HostID, t.ProcFS, t.Cgroup = b.hostID, b.procFS, b.cgroupText
	t.MapNS = b.mapNS
	filters := sys.Go("filters", b.compile)
	if err := b.containerTerminal(); err != nil {
		return err
	}
	if err := b.begin(); err != nil {
		return err
	}
	var flags uint64
	for i, n := range b.plan.Namespaces {
		switch {
		case n.Flag == unix.CLONE_NEWNS: // the thread's
		case b.plan.Reborn, n.Flag == unix.CLONE_NEWPID && n.Path == "" && b.plan.Forks: // for who is born again
		case n.Path == "" && !n.Late && b.plan.Users.Mode != userns.Join:
			flags |= n.Flag
		case n.Path != "" && n.Flag == unix.CLONE_NEWPID:
			if err := sys.Setns(l, b.spaces[i], unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("join the pid namespace %s: %w", n.Path, err)
			}
		}
	}
	if err := b.start(flags); err != nil {
		return err
	}
	defer func() {
		// If it is gone, what failed here failed because of that.
		if err != nil && b.proc.Failure() != nil {
			err = b.failure()
		}
	}()
	if err := b.placed(); err != nil {
		return err
	}
	if err := b.enterCreated(); err != nil {
		return err
	}
	// Here: the caller's mount namespace is copied, the container's other
	// namespaces are joined, its users are not: what is mounted here belongs
	// to the caller.
	if err := b.steps(settings.Inner); err != nil {
		return err
	}
	for _, h := range append(b.plan.Hooks.Prestart[:len(b.plan.Hooks.Prestart):len(b.plan.Hooks.Prestart)], b.plan.Hooks.CreateRuntime...) {
		if err := RunHook(h, o.State("created", b.proc.PID)); err != nil {
			return err
		}
	}
	if hooks := b.plan.Hooks.CreateContainer; len(hooks) > 0 {
		times := -1
		if slices.ContainsFunc(b.plan.Namespaces, func(n plan.Namespace) bool { return n.Flag == unix.CLONE_NEWTIME }) {
			if times, err = openClocks(b.proc.PID); err != nil {
				return err
			}
			defer sys.Close(times)
		}
		for _, h := range hooks {
			if err := runHook(l, h, o.State("created", b.proc.PID), -1, times, 0); err != nil {
				return err
			}
		}
	}
	for _, s := range b.plan.Sysctl {
		if err := b.sysctl(s); err != nil {
			return err
		}
	}
	if err := t.Finish(); err != nil {
		return err
	}
	// Here: the container's tree is complete, and the root of this thread and
	// of the first process.
	if err := b.exactPayload(t.Root()); err != nil {
		return err
	}
	if err := filters(); err != nil {
		return err
	}
	return b.letGo()
}

// sysctl sets one. Which namespace's it is, the thread that writes decides.
func (b *builder) sysctl(s settings.Sysctl) error {
	name := "proc/sys/" + strings.Map(func(c rune) rune {
		switch c {
		case '.':
			return '/'
		case '/':
			return '.' // as in the name of an interface
		}
		return c
	}, s.Name)
	if err := sys.WriteFile(b.tree.Host(), name, s.Value); err != nil {
		return fmt.Errorf("set the sysctl %s: %w", s.Name, err)
	}
	return nil
}

// openNamespaces opens the namespaces that the container shares.
func (b *builder) openNamespaces() error {
	b.spaces = make([]int, len(b.plan.Namespaces))
	for i, n := range b.plan.Namespaces {
		b.spaces[i] = -1
		if n.Path == "" {
			continue
		}
		fd, err := openNamespace(n)
		if err != nil {
			return err
		}
		b.spaces[i] = fd
		if err := b.aside(&b.spaces[i]); err != nil {
			return cannotJoin(n, err)
		}
	}
	return nil
}

func cannotJoin(n plan.Namespace, err error) error {
	return &settings.Error{What: fmt.Sprintf("cannot join the %s namespace %s: %v", n.Name, n.Path, err), Origin: n.Origin}
}

// openNamespace opens a namespace that is there already.
func openNamespace(n plan.Namespace) (int, error) {
	fd, err := sys.Openat(unix.AT_FDCWD, n.Path, unix.O_RDONLY|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, cannotJoin(n, err)
	}
	kind, err := sys.Ioctl(fd, unix.NS_GET_NSTYPE, 0)
	switch {
	case err != nil:
		err = errors.New("it is no namespace")
	case uint64(kind) != n.Flag:
		err = errors.New("it is a namespace of another kind")
	default:
		return fd, nil
	}
	sys.Close(fd)
	return -1, cannotJoin(n, err)
}

// MapsOf gives the maps of a user namespace that is there already. from is
// where its file is named.
func MapsOf(file string, from origin.Origin) (uids, gids userns.Map, err error) {
	ns, err := openNamespace(plan.Namespace{Name: "user", Flag: unix.CLONE_NEWUSER, Path: file, Origin: from})
	if err != nil {
		return nil, nil, err
	}
	defer sys.Close(ns)
	err = sys.Elsewhere(func(l sys.Locked) error {
		// A process in it can be asked, and waits for that.
		r, w, err := sys.Pipe()
		if err != nil {
			return err
		}
		ready, told, err := sys.Pipe()
		if err != nil {
			sys.Close(r)
			sys.Close(w)
			return err
		}
		var one byte
		p := child.New(6)
		p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(w))
		p.Add("join the user namespace", unix.SYS_SETNS, uintptr(ns), unix.CLONE_NEWUSER)
		p.Add("tell that", unix.SYS_WRITE, uintptr(told), p.Bytes([]byte("r")), 1)
		p.Add("wait to be asked", unix.SYS_READ, uintptr(r), child.Keep(p, &one), 1)
		p.Add("end", unix.SYS_EXIT_GROUP, 0)
		c, err := child.Start(l, p, child.Options{})
		sys.Close(r)
		sys.Close(told)
		if err == nil {
			var n int
			if n, err = sys.Read(ready, make([]byte, 1)); err == nil && n == 1 {
				uids, gids, err = MapsOfProcess(c.PID)
			}
		}
		sys.Close(ready)
		sys.Close(w)
		if c == nil {
			return err
		}
		if _, _, werr := sys.Wait(c.Pidfd); err == nil {
			err = werr
		}
		sys.Close(c.Pidfd)
		if f := c.Failure(); err == nil && f != nil {
			err = f
		}
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the maps of the user namespace %s: %w", file, err)
	}
	return uids, gids, err
}

// MapsOfProcess gives the maps of a process's users.
func MapsOfProcess(pid int) (uids, gids userns.Map, err error) {
	if uids, err = readMap(pid, "uid_map"); err == nil {
		gids, err = readMap(pid, "gid_map")
	}
	return uids, gids, err
}

func readMap(pid int, name string) (m userns.Map, err error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, procPath(pid, name), 1<<16)
	if err != nil {
		return nil, err
	}
	return userns.ParseMap(string(text))
}

// hostID gives the host's numbers for a user and group of the container's.
// Those that have none belong to nobody.
func (b *builder) hostID(uid, gid uint32) (uint32, uint32) {
	if !b.plan.Users.Private() || b.plan.Users.UIDs == nil {
		return uid, gid
	}
	u, ok := b.plan.Users.UIDs.Host(uid)
	if !ok {
		u = nobody
	}
	g, ok := b.plan.Users.GIDs.Host(gid)
	if !ok {
		g = nobody
	}
	return u, g
}

const nobody = 65534

func (b *builder) cgroupText() (string, error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, procPath(b.proc.PID, "cgroup"), 1<<16)
	if err != nil {
		return "", fmt.Errorf("read the container's cgroups: %w", err)
	}
	return string(text), nil
}

func (b *builder) mapNS(uids, gids userns.Map) (n int, err error) {
	err = sys.Elsewhere(func(l sys.Locked) (err error) {
		n, err = mapsNamespace(l, uids, gids)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make a user namespace for the id map: %w", err)
	}
	return n, nil
}

// containerTerminal makes the container's terminal, in its own devpts if it
// has one.
func (b *builder) containerTerminal() error {
	x := b.plan.Payload.Exact
	if x == nil || !x.Terminal {
		return nil
	}
	devpts := -1
	for i, s := range b.plan.Steps {
		if s.Type == "devpts" && s.Target == "/dev/pts" {
			n, err := b.tree.Terminals(s)
			if err != nil {
				return &StepError{i + 1, s.Origin, err}
			}
			devpts = n
		}
	}
	if devpts < 0 {
		n, err := sys.Openat(unix.AT_FDCWD, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return fmt.Errorf("open /dev/pts: %w", err)
		}
		defer sys.Close(n)
		devpts = n
	}
	if err := b.openTerminal(devpts); err != nil {
		return err
	}
	b.tree.TTY = b.pty.Number
	return nil
}

func (b *builder) openTerminal(devpts int) (err error) {
	if b.pty, err = console.Open(devpts); err != nil {
		return fmt.Errorf("open the container's terminal: %w", err)
	}
	x := b.plan.Payload.Exact
	if x.Rows|x.Columns != 0 {
		if err := sys.SetTermSize(b.pty.Master, unix.Winsize{Row: x.Rows, Col: x.Columns}); err != nil {
			return fmt.Errorf("set the size of the terminal: %w", err)
		}
	}
	for _, n := range []*int{&b.pty.Slave, &b.pty.Master} {
		if err := above(n, b.free()); err != nil {
			return err
		}
	}
	uid, gid := b.hostID(x.IDs.UID, 0)
	_, tty := b.hostID(0, 5)
	if tty == nobody {
		tty = gid
	}
	if err := sys.Fchownat(b.pty.Slave, "", uid, tty); err != nil {
		return fmt.Errorf("give the terminal to user %d: %w", x.IDs.UID, err)
	}
	return nil
}

// arrived waits for the process to say that it is where the program has it.
func (b *builder) arrived() error {
	n, err := sys.Read(b.statR, make([]byte, 1))
	if err != nil {
		return fmt.Errorf("hear from the first process: %w", err)
	}
	if n == 0 {
		return b.failure()
	}
	return nil
}

// placed waits for the process to have its namespaces, and sets up what is
// done from outside.
func (b *builder) placed() (err error) {
	if err := b.arrived(); err != nil {
		return err
	}
	if b.rebirthAt > 0 {
		if err := b.proc.Reborn(b.rebirthAt); err != nil {
			return fmt.Errorf("find the first process, born again: %w", err)
		}
	}
	seated := slices.ContainsFunc(b.plan.Program, func(op plan.Op) bool { return op.Call == plan.Seat })
	if seated {
		// A cgroup namespace begins where the process is when it is made.
		if err := b.create0.Placed(b.proc.PID); err != nil {
			return err
		}
		if err := sys.WriteString(b.goW, "g"); err != nil {
			return fmt.Errorf("let the first process go on in its cgroup: %w", err)
		}
		if err := b.arrived(); err != nil {
			return err
		}
	}
	if b.oom, err = b.openOOM(); err != nil {
		return err
	}
	if u := b.plan.Users; u.Mode == userns.Exact && b.into < 0 {
		if err := writeMaps(b.proc.PID, u.UIDs, u.GIDs); err != nil {
			return err
		}
	}
	if len(b.plan.TimeOffsets) > 0 {
		text := ""
		for _, t := range b.plan.TimeOffsets {
			text += fmt.Sprintf("%s %d %d\n", t.Clock, t.Secs, t.Nanos)
		}
		if err := sys.WriteFile(unix.AT_FDCWD, procPath(b.proc.PID, "timens_offsets"), text); err != nil {
			return fmt.Errorf("write the time offsets: %w", err)
		}
	}
	if b.create0.Rootless {
		// The kernel lets nobody leave a group in users that an unprivileged
		// user made alone, since it may be one that is kept out of a file.
		pid := b.proc.PID
		if b.into >= 0 {
			pid = b.intoPID
		}
		text, err := sys.ReadFile(unix.AT_FDCWD, procPath(pid, "setgroups"), 16)
		if err != nil {
			return fmt.Errorf("ask whether groups can be left: %w", err)
		}
		b.keepGroups = b.keepGroups || strings.TrimSpace(string(text)) == "deny"
	}
	if b.create0.Placed != nil && !seated {
		return b.create0.Placed(b.proc.PID)
	}
	return nil
}

// enterCreated puts the thread into the container's namespaces and sets them
// up.
func (b *builder) enterCreated() error {
	flags, fresh := 0, uint64(0)
	var err error
	for _, n := range b.plan.Namespaces {
		switch n.Flag {
		case unix.CLONE_NEWNS, unix.CLONE_NEWUSER, unix.CLONE_NEWTIME:
			continue
		case unix.CLONE_NEWPID:
			if b.tree.PidNS, err = sys.Openat(unix.AT_FDCWD, procPath(b.proc.PID, "ns/pid"), unix.O_RDONLY, 0); err != nil {
				return fmt.Errorf("open the container's pid namespace: %w", err)
			}
		}
		flags |= int(n.Flag)
		if n.Path == "" {
			fresh |= n.Flag
		}
	}
	if err := b.moveNetDevices(); err != nil {
		return err
	}
	if flags != 0 {
		if err := sys.Setns(b.l, b.proc.Pidfd, flags); err != nil {
			return fmt.Errorf("join the container's namespaces: %w", err)
		}
	}
	if flags&unix.CLONE_NEWUTS != 0 {
		if b.plan.Hostname != "" {
			if err := sys.Sethostname(b.l, b.plan.Hostname); err != nil {
				return fmt.Errorf("set the host name: %w", err)
			}
		}
		if b.plan.Domainname != "" {
			if err := sys.Setdomainname(b.l, b.plan.Domainname); err != nil {
				return fmt.Errorf("set the domain name: %w", err)
			}
		}
	}
	if fresh&unix.CLONE_NEWNET != 0 {
		if err := loopback(); err != nil {
			return fmt.Errorf("bring up the loopback interface: %w", err)
		}
	}
	return b.setUpNetDevices()
}

// LookupError says why the program of a payload can't be run.
type LookupError struct {
	Program string
	Err     error
}

func (e *LookupError) Error() string {
	if e.Err == errNotInPath {
		return fmt.Sprintf("exec: %q: %v", e.Program, e.Err)
	}
	if e.Err == unix.ENOENT || e.Err == unix.ENOTDIR {
		return fmt.Sprintf("exec: %q: stat %s: %v", e.Program, e.Program, e.Err)
	}
	if e.Err == unix.EISDIR {
		return fmt.Sprintf("exec: %q: is a directory: permission denied", e.Program)
	}
	return fmt.Sprintf("exec: %q: %v", e.Program, e.Err)
}

// Unwrap gives the errno.
func (e *LookupError) Unwrap() error { return e.Err }

// NotFound reports whether there is no such program at all.
func (e *LookupError) NotFound() bool { return e.Err != unix.EACCES }

// The words are those that callers look for.
var errNotInPath = errors.New("executable file not found in $PATH")

// exactPayload looks up the program in the finished tree, and makes the
// working directory if it is missing. Nothing of the tree is run for it.
func (b *builder) exactPayload(root int) error {
	p, x := b.plan.Payload, b.plan.Payload.Exact
	u := &b.user
	u.uid, u.gid, u.groups = x.IDs.UID, x.IDs.GID, x.IDs.Groups
	if x.IDs.KeepGroups {
		u.groups = nil
	}
	u.args, u.env = p.Args, append([]string(nil), p.Env...)
	if plan.Getenv(u.env, "HOME") == "" {
		u.env = plan.SetEnv(u.env, "HOME="+b.homeOf(root, x.IDs.UID))
	}
	dir, err := sys.Openat2(root, p.Dir, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
	if err == unix.ENOENT && b.into < 0 {
		err = b.tree.MakeDir(p.Dir)
		if err == nil {
			dir, err = sys.Openat2(root, p.Dir, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
		}
	}
	if err != nil {
		return &settings.Error{What: fmt.Sprintf("cannot change to the working directory: chdir to cwd (%q) set in config.json failed: %v", p.Dir, err), Origin: p.DirOrigin}
	}
	sys.Close(dir)
	if len(p.Candidates) == 0 {
		return &settings.Error{What: "process.args is empty: there is nothing to run"}
	}
	if u.program, err = exactFind(root, p.Candidates[0], plan.Getenv(u.env, "PATH"), p.Dir); err != nil {
		return err
	}
	return b.ownStdio()
}

// homeOf is the home directory of a user by the tree's own list, or /.
func (b *builder) homeOf(root int, uid uint32) string {
	passwd, err := sys.ReadIn(root, "/etc/passwd", sys.InRoot, 1<<20)
	if err == nil {
		if a, err := userns.ParsePasswd(passwd, fmt.Sprint(uid)); err == nil && a.Home != "" {
			return a.Home
		}
	}
	return "/"
}

// exactFind looks a program up as execvp does, in the tree.
func exactFind(root int, name, search, dir string) (string, error) {
	if strings.Contains(name, "/") {
		at := name
		if !path.IsAbs(at) {
			at = path.Join(dir, at)
		}
		if err := executable(root, at); err != nil {
			return "", &LookupError{name, err}
		}
		return name, nil
	}
	var denied error
	for d := range strings.SplitSeq(search, ":") {
		if d == "" {
			d = "."
		}
		file := path.Join(d, name)
		at := file
		if !path.IsAbs(at) {
			at = path.Join(dir, at)
		}
		switch err := executable(root, at); err {
		case nil:
			return file, nil
		case unix.EACCES:
			denied = err
		}
	}
	if denied != nil {
		return "", &LookupError{name, denied}
	}
	return "", &LookupError{name, errNotInPath}
}

// executable reports why a file of the tree can't be executed.
func executable(root int, at string) error {
	n, err := sys.Openat2(root, at, unix.O_PATH, 0, sys.InRoot)
	if err != nil {
		return err
	}
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_MODE)
	sys.Close(n)
	switch {
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Mode&0o111 == 0:
		return unix.EACCES
	}
	return nil
}

// ownStdio gives what the payload has as standard input and output to its
// user, who could not open /dev/stdout again else.
func (b *builder) ownStdio() error {
	x := b.plan.Payload.Exact
	if x.Terminal {
		return nil
	}
	uid, _ := b.hostID(x.IDs.UID, x.IDs.GID)
	for n := range 3 {
		st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_UID|unix.STATX_GID)
		if err != nil || st.Uid == uid {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev_major == 1 && st.Rdev_minor == 3 {
			continue // the null device is everybody's
		}
		switch err := sys.Fchownat(n, "", uid, st.Gid); err {
		case nil, unix.EINVAL, unix.EPERM, unix.EROFS, unix.EOPNOTSUPP, unix.ENOSYS:
		default:
			return fmt.Errorf("give descriptor %d to user %d: %w", n, x.IDs.UID, err)
		}
	}
	return nil
}

// letGo fills in the rest of the program, and lets the process run it up to
// the gate, or, without one, up to its payload.
func (b *builder) letGo() error {
	after := false
	for i, op := range b.plan.Program {
		if after {
			if err := b.lower(op); err != nil {
				return b.programError(i, err)
			}
		}
		after = after || op.Call == plan.Go
	}
	if b.stub != nil {
		err := b.stub.write(b.image())
		b.stub.close()
		if err != nil {
			return fmt.Errorf("write the file of the stub: %w", err)
		}
	}
	if err := b.oom.set(b); err != nil {
		return err
	}
	if b.create0.Console != nil && b.pty.Master >= 0 {
		if err := b.create0.Console(b.pty.Master); err != nil {
			return err
		}
	}
	if err := sys.WriteString(b.goW, "g"); err != nil {
		return fmt.Errorf("let the first process go: %w", err)
	}
	b.pty.CloseSlave()
	if b.plan.Last {
		if err := b.proc.Reborn(b.rebirthAt); err != nil {
			if b.proc.Failure() != nil {
				return b.failure()
			}
			return fmt.Errorf("find the process, born again: %w", err)
		}
	}
	if b.gate < 0 {
		return nil // Started hears the rest
	}
	return b.heard()
}

// heard listens to the process until it waits at the gate, has become the
// payload, or is gone.
func (b *builder) heard() error {
	word := make([]byte, stub.ReportSize)
	for {
		n, err := sys.Read(b.statR, word)
		switch {
		case err != nil:
			return fmt.Errorf("hear from the first process: %w", err)
		case n == 0:
			if b.proc.Failure() != nil {
				return b.failure()
			}
			if !b.executed() {
				return errors.New("the first process was killed before it could run the payload")
			}
			return nil
		case n == stub.ReportSize:
			return b.stubFailure(word)
		case word[0] == 'c':
			return nil
		case word[0] == 'n':
			if err := b.handOver(); err != nil {
				return err
			}
		}
	}
}

// handOver gives the listener of the filter to who asked for it.
func (b *builder) handOver() error {
	n := -1
	for i, name := range b.prog.Names() {
		if name == "install the system-call filter" {
			n, _ = b.proc.Result(i)
		}
	}
	fd, err := sys.PidfdGetfd(b.proc.Pidfd, n)
	if err != nil {
		return fmt.Errorf("take the listener of the system-call filter: %w", err)
	}
	defer sys.Close(fd)
	if b.create0.Listener == nil {
		return errors.New("nobody takes the listener of the system-call filter")
	}
	if err := b.create0.Listener(fd, b.proc.PID); err != nil {
		return err
	}
	return sys.WriteString(b.goW, "g")
}

// join2 does the work of Join.
func (b *builder) join2() (err error) {
	filters := sys.Go("filters", b.compile)
	root, err := sys.Openat(unix.AT_FDCWD, procPath(b.intoPID, "root"), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	defer sys.Close(root)
	if b.plan.Payload.Exact.Terminal {
		devpts, err := sys.Openat2(root, "/dev/pts", unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
		if err != nil {
			return fmt.Errorf("open the container's /dev/pts: %w", err)
		}
		err = b.openTerminal(devpts)
		sys.Close(devpts)
		if err != nil {
			return err
		}
	}
	if err := b.begin(); err != nil {
		return err
	}
	// The process is born into the container's pid namespace; all others it
	// joins itself, when it is placed.
	if b.entered, err = Differing(b.intoPID); err != nil {
		return err
	}
	if !b.plan.Forks {
		// The kernel moves only a process with memory of its own.
		b.entered &^= unix.CLONE_NEWTIME
	}
	if b.entered&unix.CLONE_NEWTIME != 0 {
		if b.times, err = openClocks(b.intoPID); err != nil {
			return err
		}
		defer sys.Close(b.times)
	}
	if b.entered&unix.CLONE_NEWPID != 0 && !b.plan.Forks {
		if err := sys.Setns(b.l, b.into, unix.CLONE_NEWPID); err != nil {
			return fmt.Errorf("join the container's pid namespace: %w", err)
		}
	}
	if cpus := b.plan.Payload.Exact.InitialCPUs; len(cpus) > 0 {
		// The process is born in the container's cgroup with what is left of
		// them there.
		if err := sys.SetAffinity(b.l, cpuMask(cpus)); err != nil {
			return fmt.Errorf("keep to the processors %s: %w", cpus, err)
		}
	}
	if err := b.start(0); err != nil {
		return err
	}
	defer func() {
		if err != nil && b.proc.Failure() != nil {
			err = b.failure()
		}
	}()
	if err := b.placed(); err != nil {
		return err
	}
	if err := b.exactPayload(root); err != nil {
		return err
	}
	if err := filters(); err != nil {
		return err
	}
	return b.letGo()
}

// Differing gives the flags of the namespaces that a process has and the
// caller has not.
func Differing(pid int) (flags uint64, err error) {
	for _, ns := range [...]struct {
		name string
		flag uint64
	}{
		{"user", unix.CLONE_NEWUSER}, {"mnt", unix.CLONE_NEWNS}, {"pid", unix.CLONE_NEWPID}, {"ipc", unix.CLONE_NEWIPC},
		{"uts", unix.CLONE_NEWUTS}, {"net", unix.CLONE_NEWNET}, {"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME},
	} {
		name := "ns/" + ns.name
		if ns.flag == unix.CLONE_NEWTIME {
			name = clocks
		}
		theirs, err := sys.Readlinkat(unix.AT_FDCWD, procPath(pid, name))
		if err == unix.ENOENT {
			if _, err := sys.Statx(unix.AT_FDCWD, procPath(pid, "ns"), unix.STATX_TYPE); err == nil {
				continue // a kernel without such namespaces
			}
		}
		if err != nil {
			return 0, fmt.Errorf("look at the container's namespaces: %w", err)
		}
		ours, err := sys.Readlinkat(unix.AT_FDCWD, "/proc/self/ns/"+ns.name)
		if err != nil {
			return 0, fmt.Errorf("look at our own namespaces: %w", err)
		}
		if ours != theirs {
			flags |= ns.flag
		}
	}
	return flags, nil
}

// clocks is the time namespace of a container below its process in /proc: the
// process gets there itself when it executes its payload.
const clocks = "ns/time_for_children"

// openClocks opens the time namespace of a container.
func openClocks(pid int) (int, error) {
	n, err := sys.Openat(unix.AT_FDCWD, procPath(pid, clocks), unix.O_RDONLY, 0)
	if err != nil {
		return -1, fmt.Errorf("open the container's time namespace: %w", err)
	}
	return n, nil
}

// RunHook runs a hook in the caller's own namespaces, with the container's
// state on its standard input. An error names the hook and what it said.
func RunHook(h settings.Hook, state []byte) error {
	return sys.Elsewhere(func(l sys.Locked) error { return runHook(l, h, state, -1, -1, 0) })
}

// RunHookIn runs a hook in the namespaces of a container's first process.
func RunHookIn(h settings.Hook, state []byte, pidfd, pid int) error {
	// The hook is ours until it executes its program.
	if err := sys.Prctl(unix.PR_SET_DUMPABLE, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	flags, err := Differing(pid)
	if err != nil {
		return err
	}
	times := -1
	if flags&unix.CLONE_NEWTIME != 0 {
		if times, err = openClocks(pid); err != nil {
			return err
		}
		defer sys.Close(times)
	}
	return sys.Apart(func(l sys.Locked) error {
		if flags&unix.CLONE_NEWPID != 0 {
			if err := sys.Setns(l, pidfd, unix.CLONE_NEWPID); err != nil {
				return fmt.Errorf("join the container's pid namespace: %w", err)
			}
		}
		return runHook(l, h, state, pidfd, times, flags)
	})
}

// runHook runs a hook as a child of the thread; with flags it joins those
// namespaces of the process of the pidfd first. times is its time namespace, if
// that is one of them.
func runHook(l sys.Locked, h settings.Hook, state []byte, pidfd, times int, flags uint64) error {
	err := runProgram(l, h, state, pidfd, times, flags)
	if err == nil {
		return nil
	}
	// Callers look for which hook of which kind it was.
	name := h.Path
	if f := strings.Split(h.Origin.Key, "/"); len(f) > 3 {
		name = fmt.Sprintf("%s hook #%s: %s", f[2], f[3], h.Path)
	}
	return &settings.Error{What: fmt.Sprintf("error running %s: %v", name, err), Origin: h.Origin}
}

// RunTool runs a program of the host's that does something for us.
func RunTool(path string, args ...string) error {
	return sys.Elsewhere(func(l sys.Locked) error {
		return runProgram(l, settings.Hook{Path: path, Args: append([]string{path}, args...), Env: os.Environ()}, nil, -1, -1, 0)
	})
}

// runProgram runs a program with a text on its standard input. An error has
// what it said.
func runProgram(l sys.Locked, h settings.Hook, state []byte, pidfd, times int, flags uint64) error {
	in, err := sys.MemfdCreate("state", 0)
	if err != nil {
		return err
	}
	defer sys.Close(in)
	outR, outW, err := sys.Pipe()
	if err != nil {
		return err
	}
	defer sys.Close(outR)
	if _, err := sys.Pwrite(in, state, 0); err != nil {
		sys.Close(outW)
		return err
	}
	to := [2]int{outW, outW}
	for i, name := range [2]string{h.Stdout, h.Stderr} {
		if name == "" {
			continue
		}
		// Not on this thread, whose root may be the container's by now.
		err := sys.Elsewhere(func(sys.Locked) (err error) {
			to[i], err = openAppending(name)
			return err
		})
		if err != nil {
			sys.Close(outW)
			return fmt.Errorf("open %s for what it writes: %w", name, err)
		}
		defer sys.Close(to[i])
	}
	args := h.Args
	if len(args) == 0 {
		args = []string{h.Path}
	}
	p := child.New(16)
	rebirthAt := -1
	if times >= 0 {
		// The kernel gives other clocks only to who has memory of his own.
		if p, err = child.NewForking(16); err != nil {
			sys.Close(outW)
			return fmt.Errorf("get memory for the hook: %w", err)
		}
		rebirthAt = len(p.Names())
		p.AddRebirth("be born again with memory of its own", 0, true)
		p.Add("join the container's time namespace", unix.SYS_SETNS, uintptr(times), unix.CLONE_NEWTIME)
		flags &^= unix.CLONE_NEWTIME
	}
	if flags != 0 {
		p.Add("join the container's namespaces", unix.SYS_SETNS, uintptr(pidfd), uintptr(flags))
	}
	p.Add("set up standard input", unix.SYS_DUP3, uintptr(in), 0, 0)
	p.Add("set up standard output", unix.SYS_DUP3, uintptr(to[0]), 1, 0)
	p.Add("set up standard error", unix.SYS_DUP3, uintptr(to[1]), 2, 0)
	p.Add("close all other descriptors", unix.SYS_CLOSE_RANGE, 3, ^uintptr(0)>>32, 0)
	if own := fileLimit(); own != nil {
		p.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, child.Keep(p, own), 0)
	}
	p.Add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	p.Add("exec", unix.SYS_EXECVE, p.String(h.Path), p.Strings(args...), p.Strings(h.Env...))
	c, err := child.Start(l, p, child.Options{ShareFiles: rebirthAt >= 0})
	if err != nil {
		sys.Close(outW)
		return err
	}
	defer func() { sys.Close(c.Pidfd) }()
	if rebirthAt >= 0 {
		// Until then the descriptors are the hook's as well.
		err = c.Reborn(rebirthAt)
	}
	sys.Close(outW)
	if err != nil {
		return err
	}
	said, late, err := hookOutput(c.Pidfd, outR, h.Timeout)
	if err != nil || late {
		sys.PidfdSignal(c.Pidfd, int(unix.SIGKILL))
	}
	code, status, werr := sys.Wait(c.Pidfd)
	switch f := c.Failure(); {
	case err != nil:
		return err
	case werr != nil:
		return werr
	case late:
		return fmt.Errorf("it ran past its timeout of %d s", h.Timeout)
	case f != nil:
		return f
	case code == cldExited && status == 0:
		return nil
	case code == cldExited:
		err = fmt.Errorf("exit status %d", status)
	default:
		err = fmt.Errorf("signal: %s", unix.SignalName(unix.Signal(status)))
	}
	if said = strings.TrimSpace(said); said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return err
}

// openAppending opens a file to write at its end. A FIFO must have somebody who
// reads it: nobody waits for that.
func openAppending(name string) (int, error) {
	n, err := sys.Openat(unix.AT_FDCWD, name, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY, 0o644)
	if err == unix.ENXIO {
		return -1, errors.New("nobody reads it")
	}
	if err != nil {
		return -1, err
	}
	// Who writes may wait as ever.
	if err := sys.SetStatusFlags(n, unix.O_APPEND); err != nil {
		sys.Close(n)
		return -1, err
	}
	return n, nil
}

// hookOutput reads what a hook says until it ends, or its time is over.
func hookOutput(pidfd, out, timeout int) (said string, late bool, err error) {
	const most = 64 << 10
	left := -1
	if timeout > 0 {
		left = timeout * 1000
	}
	end := time.Now().Add(time.Duration(timeout) * time.Second)
	var buf [4096]byte
	for {
		wait := left
		if left >= 0 {
			if wait = int(time.Until(end) / time.Millisecond); wait <= 0 {
				return said, true, nil
			}
		}
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(out), Events: unix.POLLIN}}
		if _, err := sys.Poll(fds, wait); err != nil {
			return said, false, err
		}
		if fds[1].Revents&unix.POLLIN != 0 {
			n, err := sys.Read(out, buf[:])
			if err != nil {
				return said, false, err
			}
			if len(said) < most {
				said += string(buf[:n])
			}
			continue
		}
		if fds[0].Revents != 0 {
			// What it left running may hold the pipe; nobody waits for that.
			return said, false, nil
		}
		if fds[1].Revents&unix.POLLHUP != 0 {
			fds := fds[:1]
			if n, err := sys.Poll(fds, wait); err != nil || n == 0 {
				return said, err == nil && timeout > 0, err
			}
			return said, false, nil
		}
	}
}

// fileLimit is the limit of open files that programs started by the caller
// expect: Go raises its own soft limit.
func fileLimit() *unix.Rlimit {
	l, err := sys.RlimitOf(os.Getppid(), unix.RLIMIT_NOFILE)
	if err != nil {
		return nil
	}
	own, err := sys.Getrlimit(unix.RLIMIT_NOFILE)
	if err != nil || l[0] > own[1] {
		return nil
	}
	return &unix.Rlimit{Cur: l[0], Max: own[1]}
}

// schedAttr is the kernel's struct sched_attr.
type schedAttr struct {
	size, policy               uint32
	flags                      uint64
	nice                       int32
	priority                   uint32
	runtime, deadline, period_ uint64
}

// lowerExact turns the steps that only bundles have into ops.
func (b *builder) lowerExact(op plan.Op) error {
	p := b.prog
	add := func(nr uintptr, args ...uintptr) child.Step { return p.Add(op.Text, nr, args...) }
	x := b.plan.Payload.Exact
	switch op.Call {
	case plan.Join:
		add(unix.SYS_SETNS, uintptr(b.spaces[op.B]), uintptr(op.A))
	case plan.Chroot:
		add(unix.SYS_CHROOT, p.String(op.Path))
		add(unix.SYS_CHDIR, p.String("/"))
	case plan.Label:
		if op.B == 1 {
			break // the stub's to do
		}
		// The first descriptor that is free, since all others are closed.
		n := uintptr(b.status() + 3)
		add(unix.SYS_OPENAT, atFdcwd, p.String(op.Path), unix.O_WRONLY|unix.O_CLOEXEC)
		add(unix.SYS_WRITE, n, p.Bytes([]byte(op.Data)), uintptr(len(op.Data)))
		add(unix.SYS_CLOSE, n)
	case plan.Rebirth:
		if b.into >= 0 && b.entered&unix.CLONE_NEWPID != 0 && !b.plan.Last {
			// Only the second one is in there: the number that it gets is told
			// as the first one sees it.
			add(unix.SYS_SETNS, uintptr(b.into), unix.CLONE_NEWPID)
		}
		for i, n := range b.plan.Namespaces {
			if b.plan.Reborn && n.Path != "" && n.Flag == unix.CLONE_NEWPID {
				add(unix.SYS_SETNS, uintptr(b.spaces[i]), unix.CLONE_NEWPID)
			}
		}
		b.rebirthAt = len(p.Names())
		p.AddRebirth(op.Text, op.A, false)
	case plan.Enter:
		if b.entered&unix.CLONE_NEWTIME != 0 {
			add(unix.SYS_SETNS, uintptr(b.times), unix.CLONE_NEWTIME)
		}
		in := uint64(unix.CLONE_NEWPID | unix.CLONE_NEWTIME)
		if b.plan.Last {
			in = unix.CLONE_NEWTIME // who is born again will be in there
		}
		if flags := b.entered &^ in; flags != 0 {
			add(unix.SYS_SETNS, uintptr(b.into), uintptr(flags))
		}
	case plan.Scheduler:
		s := x.Scheduler
		a := &schedAttr{policy: s.Policy, flags: s.Flags, nice: s.Nice, priority: s.Priority, runtime: s.Runtime, deadline: s.Deadline, period_: s.Period}
		a.size = uint32(unsafe.Sizeof(*a))
		add(unix.SYS_SCHED_SETATTR, 0, child.Keep(p, a), 0)
	case plan.IOPriority:
		const process = 1
		add(unix.SYS_IOPRIO_SET, process, 0, uintptr(op.A))
	case plan.MemPolicy:
		nodes := append([]uint64(nil), x.Memory.Nodes...)
		if len(nodes) == 0 {
			add(unix.SYS_SET_MEMPOLICY, uintptr(x.Memory.Mode), 0, 0)
			break
		}
		add(unix.SYS_SET_MEMPOLICY, uintptr(x.Memory.Mode), p.Uint64s(nodes), uintptr(len(nodes)*64+1))
	case plan.TryChdir:
		// The first one may have worked only for root, or only this one does.
		add(unix.SYS_CHDIR, p.String(b.plan.Payload.Dir)).Allow(unix.EACCES, unix.EPERM)
	case plan.CapSets:
		var caps settings.CapSets
		if x.Caps != nil {
			caps = *x.Caps
		}
		have := b.capsNow()
		if lost := (caps.Bounding | caps.Permitted | caps.Inheritable) &^ have; lost != 0 {
			b.opt.Warn("ignored: capabilities that the runtime doesn't have itself: " + settings.CapabilityNames(lost))
		}
		caps.Permitted &= have
		caps.Effective &= caps.Permitted
		caps.Inheritable &= have
		caps.Ambient &= caps.Permitted & caps.Inheritable
		b.capSets(add, caps)
	case plan.Outlive:
		if !b.create0.Bound {
			add(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, 0)
			break
		}
		// The change of users cleared it.
		add(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	case plan.Gate:
		if b.gate >= 0 {
			add(unix.SYS_WRITE, uintptr(b.status()), p.Bytes([]byte("c")), 1)
			var one byte
			add(unix.SYS_READ, uintptr(b.status()+1), child.Keep(p, &one), 1).NeedResult()
		}
	case plan.Notify:
		add(unix.SYS_WRITE, uintptr(b.status()), p.Bytes([]byte("n")), 1)
		var one byte
		add(unix.SYS_READ, uintptr(b.status()+2), child.Keep(p, &one), 1).NeedResult()
	default:
		return fmt.Errorf("the program has a step that this launch doesn't know: %s", op.Call)
	}
	return nil
}

// status is the status pipe's number in the process, once all descriptors are
// in their places. In a machine, the stub's file follows; in a container, the
// gate and the go pipe.
func (b *builder) status() int {
	if b.create0 == nil { // the stub's file follows
		return statusFd + b.plan.Listen
	}
	return statusFd + b.create0.Keep
}

// stdioExact places the descriptors of a bundle's process.
func (b *builder) stdioExact(add func(nr uintptr, args ...uintptr) child.Step) {
	if b.plan.Payload.Exact.Terminal {
		for n := range uintptr(3) {
			add(unix.SYS_DUP3, uintptr(b.pty.Slave), n, 0)
		}
	}
	if b.stub == nil {
		add(unix.SYS_DUP3, uintptr(b.statW), uintptr(b.status()), unix.O_CLOEXEC)
	} else {
		// The stub tells on it whether the payload could be executed.
		add(unix.SYS_DUP3, uintptr(b.statW), uintptr(b.status()), 0)
		add(unix.SYS_DUP3, uintptr(b.stub.run), uintptr(b.status()+3), unix.O_CLOEXEC)
	}
	switch {
	case b.gate >= 0 && b.stub != nil:
		// Who opened the gate sees it closed when the payload is executed, and
		// not when the stub is.
		add(unix.SYS_DUP3, uintptr(b.gate), uintptr(b.status()+1), 0)
	case b.gate >= 0:
		add(unix.SYS_DUP3, uintptr(b.gate), uintptr(b.status()+1), unix.O_CLOEXEC)
	default:
		add(unix.SYS_DUP3, uintptr(b.statW), uintptr(b.status()+1), unix.O_CLOEXEC)
	}
	add(unix.SYS_DUP3, uintptr(b.goR), uintptr(b.status()+2), unix.O_CLOEXEC)
}
