package engine

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/console"
	"launch/internal/netns"
	"launch/internal/notify"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/mount"
	"launch/mount/attach"
	"launch/mount/snapshot"
	"launch/settings"
	"launch/userns"
	"launch/userns/shift"
)

// builder puts a machine together on its own thread.
type builder struct {
	site   *Thread // of a machine
	plan   *plan.Plan
	opt    Options
	state  *state.Machine
	alone  func(func() error) error
	cgroup int
	divide bool // the cgroup above has controllers for it
	// place waits until the cgroup is there, registered until systemd-machined
	// knows of the machine.
	place, registered func() error
	// shares waits until what the host shares with the machine is there; shared are
	// copies of those mounts, by their paths.
	shares func() error
	shared map[string]int
	unit   unit
	// secrets are the values of credentials.
	secrets map[string]string

	l       sys.Locked
	tree    *attach.Tree
	prog    *child.Program
	proc    *child.Process
	pty     console.Pty
	notify  int         // the machine's notification socket, or -1
	ear     *notify.Ear // what hears on it, or nil
	kmsg    int         // the machine's /proc/kmsg, or -1
	oom     *oom
	goR     int
	goW     int
	statR   int
	statW   int
	filters [][]unix.SockFilter
	// compiled waits for the filters and what the first process is born with, which are
	// made meanwhile, and received for who takes the journal.
	compiled, received func() error
	idmaps             int // the user namespace for id-mapped mounts, -1 before it is needed
	foreign            int // the one for a tree that belongs to the foreign range
	// lowered is how many ops of the plan's program the first process has got.
	lowered int
	// top is the root of the first process's own copy of the tree, or -1.
	top  int
	user user
	stub *stubFile // what executes the payload; nil in a container

	// What only containers have, see container.go.
	create0 *CreateOptions
	spaces  []int // the namespaces that are shared, by their place in the plan
	gate    int
	into    int // the first process of the container that is joined, or -1
	intoPID int
	times   int                // the time namespace of that process, where it is joined
	entered uint64             // the namespaces that it has and we don't
	moved   []*netns.Interface // of the host's, in the container now
	// watch tells of the machine's addresses, follower does what follows from it.
	watch    *netns.Watch
	follower *follower
	// interfaces are the numbers of the machine's interfaces on the host.
	interfaces []int32
	// network is the machine's network namespace, or -1; kept: a mount keeps it
	// until what was lent is back. stacked are interfaces in it that are removed
	// at the end.
	network int
	kept    bool
	stacked []*netns.Interface
	// rebirthAt is the op with which the first process is born again, or 0.
	rebirthAt int
	// keepGroups: the caller's groups can't be left, or are to be kept.
	keepGroups bool
}

// root is the host's id of the machine's root user.
func (b *builder) root() uint32 {
	if !b.plan.Users.Private() {
		return 0
	}
	return b.plan.Users.Range.Start
}

// programMax is more than any program has: about 25 steps, 64 capabilities to
// drop and as many to raise, and 16 limits.
const programMax = 200

// build makes the machine and lets its payload go; begun tells whether that runs.
func (b *builder) build(l sys.Locked) (err error) {
	b.l, b.idmaps, b.foreign, b.top = l, -1, -1, -1
	if b.site.err != nil {
		return b.site.err
	}
	b.tree = b.site.tree
	defer b.tree.Close()
	var before *snapshot.Before
	if b.opt.Mounts != nil {
		// What the host shares with the machine is of the host's mounts, too.
		if err := b.shares(); err != nil {
			return err
		}
		// The machine's /proc will not show this thread.
		if before, err = snapshot.Look(); err != nil {
			return err
		}
		defer before.Close()
	}
	if err := b.tree.Seat(); err != nil {
		return err
	}
	defer func() {
		for _, n := range []int{b.idmaps, b.foreign, b.top} {
			if n >= 0 {
				sys.Close(n)
			}
		}
	}()
	t := b.tree
	t.Pin, t.UID, t.GID = b.opt.Pin, b.root(), b.root()
	if b.plan.Image {
		t.Pin, t.Image = -1, b.opt.Pin
	}
	t.Pins = b.opt.Pins
	t.UserNS, t.Chown, t.Temp, t.Work = b.userNS, b.chown, b.temp, b.work
	t.MapNS = b.mapNS
	t.ProcFS = b.procFS
	t.Path = b.plan.RootPath
	t.Shared = b.sharedMount
	t.Secret = func(id string) string { return b.secrets[id] }

	if err := b.enterPaths(); err != nil {
		return err
	}
	// Here: own mount namespace, all else the host's but for what a path names.
	if err := b.terminal(); err != nil {
		return err
	}
	if err := b.noLogin(); err != nil {
		b.opt.Warn(err.Error())
	}
	waits := !b.bornFirst()
	if waits {
		// The cgroup is made meanwhile.
		if err := b.steps(settings.Outer); err != nil {
			return err
		}
	}
	if err := b.place(); err != nil {
		return err
	}
	if err := b.compiled(); err != nil {
		return err
	}
	if b.prog == nil { // it takes a terminal along
		if err := b.conceive(); err != nil {
			return err
		}
	}
	if err := b.born(); err != nil {
		return err
	}
	defer func() {
		// If it is gone, what failed here failed because of that.
		if err != nil && b.proc != nil && b.proc.Failure() != nil {
			err = b.failure()
		}
	}()
	if !waits {
		if err := b.steps(settings.Outer); err != nil {
			return err
		}
	}
	if dir := b.tree.RunHost(); dir >= 0 {
		if b.notify, err = notify.Listen(dir, "notify", b.root(), b.root()); err != nil {
			return fmt.Errorf("make the notification socket: %w", err)
		}
		// As long as somebody could write to it, who reads the kernel's log in
		// the machine waits, and is not told that it ends.
		if b.kmsg, err = sys.Openat(dir, "proc-kmsg", unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0); err != nil {
			return fmt.Errorf("open the machine's kernel log: %w", err)
		}
	}
	if err := b.ready(); err != nil {
		return err
	}
	b.settled()
	if err := b.links(); err != nil {
		return err
	}
	if b.plan.Register != nil {
		b.registered = sync.OnceValue(sys.Go("register", b.register))
	}
	// Here: the first process waits, its namespaces are complete. This thread
	// joins those that decide what proc, sysfs, mqueue and cgroup2 show, but
	// stays in the mount namespace that belongs to the host's users: what is
	// mounted here, the machine can't unmount.
	if err := b.join(); err != nil {
		return err
	}
	if err := b.steps(settings.Inner); err != nil {
		return err
	}
	if err := t.Finish(); err != nil {
		return err
	}
	if err := b.saved(before); err != nil {
		return err
	}
	// Here: the machine's tree is complete, and the root of this thread and of
	// the first process.
	if err := b.payload(); err != nil {
		return err
	}
	if err := b.registered(); err != nil {
		return err
	}
	if err := b.received(); err != nil {
		return err
	}
	return b.release()
}

// bornFirst reports whether the first process is born before the tree is made:
// a network namespace takes longer than all mounts, and owners that were changed
// for a machine that can't be are not changed back.
func (b *builder) bornFirst() bool {
	if b.plan.Scope != nil {
		return false // the service manager takes longer still
	}
	return slices.ContainsFunc(b.plan.Namespaces, func(n plan.Namespace) bool { return n.Late && n.Flag == unix.CLONE_NEWNET }) ||
		slices.ContainsFunc(b.plan.Steps, func(s plan.Step) bool { return s.Do == plan.Chown })
}

// compile makes the programs of the system-call filters.
func (b *builder) compile() error {
	for _, f := range b.plan.Filters {
		code, err := f.Compile()
		if err != nil {
			return fmt.Errorf("compile the system-call filter: %w", err)
		}
		b.filters = append(b.filters, code)
	}
	return nil
}

// sharedMount gives the machine's copy of what the host shares with it, once; -1:
// the path is of nothing like that.
func (b *builder) sharedMount(at string) (int, error) {
	if err := b.shares(); err != nil {
		return -1, err
	}
	n, ok := b.shared[at]
	if !ok {
		return -1, nil
	}
	delete(b.shared, at)
	return n, nil
}

// steps performs the plan's steps of one world.
func (b *builder) steps(w settings.World) error {
	for i, s := range b.plan.Steps {
		if s.World != w || s.Do == plan.Saved {
			continue
		}
		if err := b.tree.Do(s); err != nil {
			if s.Soft && !errors.Is(err, sys.ErrOther) {
				b.opt.Warn(fmt.Sprintf("step %d, %v; the machine does without", i+1, err))
				continue
			}
			var other *StepError
			if errors.As(err, &other) {
				return other // what it waited for
			}
			return &StepError{i + 1, s.Origin, err}
		}
	}
	return nil
}

// terminal makes the machine's own terminal.
func (b *builder) terminal() error {
	t := b.plan.Terminal
	if len(t.Stdio) == 0 {
		return nil
	}
	for i, s := range b.plan.Steps {
		if s.Type != "devpts" {
			continue
		}
		devpts, err := b.tree.Terminals(s)
		if err != nil {
			return &StepError{i + 1, s.Origin, err}
		}
		if b.pty, err = console.Open(devpts); err != nil {
			return fmt.Errorf("open the machine's terminal: %w", err)
		}
		if err := b.pty.Own(b.root(), b.root()+5); err != nil {
			return fmt.Errorf("give the terminal to the machine: %w", err)
		}
		// Size and echo are there before the payload looks: some look once.
		like := []int{t.Output}
		if t.Input != plan.NoInput {
			like = append(like, 0)
		}
		if err := b.pty.Fit(like, t.Columns, t.Lines); err != nil {
			return fmt.Errorf("set the size of the machine's terminal: %w", err)
		}
		if t.Input == plan.Lines {
			if err := b.pty.Silence(); err != nil {
				return fmt.Errorf("turn off the echo of the machine's terminal: %w", err)
			}
		}
		return nil
	}
	return fmt.Errorf("the plan has a console, but no devpts to take it from")
}

// noLogin makes the thread, and what is cloned from it, one that nobody has
// logged in with.
func (b *builder) noLogin() error {
	for _, op := range b.plan.Program {
		if op.Call == plan.NoLogin {
			if err := sys.WriteFile(unix.AT_FDCWD, "/proc/thread-self/loginuid", "4294967295"); err != nil {
				return fmt.Errorf("%s: %w; who logs in inside is audited as that user", op.Text, err)
			}
		}
	}
	return nil
}

// conceive makes what the first process is born with: two pipes, a file, and the
// part of its program that needs nothing of the tree.
func (b *builder) conceive() (err error) {
	if b.goR, b.goW, err = sys.Pipe(); err != nil {
		return fmt.Errorf("make the go pipe: %w", err)
	}
	if b.statR, b.statW, err = sys.Pipe(); err != nil {
		return fmt.Errorf("make the status pipe: %w", err)
	}
	if b.stub, err = newStub(); err != nil {
		return fmt.Errorf("make a file for the stub: %w", err)
	}
	// Descriptors get their fixed numbers before the first process waits: what it
	// needs from then on must not have one of them.
	for _, n := range []*int{&b.goR, &b.statW, &b.stub.run} {
		if err := above(n, b.status()+2); err != nil {
			return fmt.Errorf("move a descriptor: %w", err)
		}
	}
	b.prog = child.New(programMax)
	b.lowered = 0
	return b.lowerUntil(plan.Go)
}

// born starts the first process.
func (b *builder) born() (err error) {
	var flags uint64
	for _, n := range b.plan.Namespaces {
		if !n.Late && n.Path == "" {
			flags |= n.Flag
		}
	}
	if b.proc, err = child.Start(b.l, b.prog, child.Options{Namespaces: flags, Cgroup: b.cgroup}); err != nil {
		return fmt.Errorf("clone the first process: %w", err)
	}
	sys.Close(b.goR)
	sys.Close(b.statW)
	return nil
}

// above gives a descriptor a number that is not below least.
func above(n *int, least int) error {
	if *n >= least {
		return nil
	}
	to, err := sys.DupAbove(*n, least)
	if err == nil {
		sys.Close(*n)
		*n = to
	}
	return err
}

// enterPaths joins the namespaces that the machine is to have and that are there
// already, so that the first process is born in them.
func (b *builder) enterPaths() error {
	for _, n := range b.plan.Namespaces {
		if n.Path == "" {
			continue
		}
		fd, err := openNamespace(n)
		if err == nil {
			if err = sys.Setns(b.l, fd, int(n.Flag)); err != nil {
				err = cannotJoin(n, err)
			}
			sys.Close(fd)
		}
		var e *settings.Error
		if errors.As(err, &e) {
			e.Value, e.Hint = n.Path, "give the file of a network namespace, like /run/netns/NAME (ip netns) or /proc/PID/ns/net"
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lowerUntil gives the first process its further ops, up to and with a call at
// which it waits.
func (b *builder) lowerUntil(last plan.Call) error {
	for ; b.lowered < len(b.plan.Program); b.lowered++ {
		op := b.plan.Program[b.lowered]
		if err := b.lower(op); err != nil {
			return b.programError(b.lowered, err)
		}
		if op.Call == last {
			b.lowered++
			break
		}
	}
	return nil
}

// treeRoot is where the tree of the first process begins.
func (b *builder) treeRoot() int {
	if b.top >= 0 {
		return b.top
	}
	return b.tree.Root()
}

func (b *builder) programError(i int, err error) error {
	return &StepError{len(b.plan.Steps) + i + 1, b.plan.Program[i].Origin, err}
}

// failure is what went wrong in the first process.
func (b *builder) failure() error {
	f := b.proc.Failure()
	if f == nil {
		return fmt.Errorf("the first process ended without a word")
	}
	// Ops are named by the plan's text; several ops may stem from one.
	for i, op := range b.plan.Program {
		if op.Text == f.Name {
			return b.programError(i, f)
		}
	}
	return f
}

// ready waits until the first process has its namespaces.
func (b *builder) ready() error {
	for try := 0; ; try++ {
		n, err := sys.Read(b.statR, make([]byte, 1))
		if err != nil {
			return fmt.Errorf("hear from the first process: %w", err)
		}
		if n > 0 {
			break
		}
		if _, began := b.proc.Result(0); began || b.cgroup < 0 || try == births {
			return b.failure()
		}
		if err := b.rebirth(); err != nil {
			return err
		}
	}
	var err error
	if b.oom, err = b.openOOM(); err != nil {
		return err
	}
	if b.plan.Users.Private() {
		m := b.plan.Users.Range.Map()
		return writeMaps(b.proc.PID, m, m)
	}
	return nil
}

// births is how often a stillborn process is tried again.
const births = 32

// rebirth starts the first process once more, after it was killed before it
// did anything. The kernel counts how often a cgroup was killed by cgroup.kill,
// and takes a process for one that just escaped such a kill when the cgroup it
// is born into has another count than the one it comes from: no launcher in a
// cgroup that was ever killed could have children elsewhere. Killing the
// machine's cgroup, which is empty, makes it catch up.
func (b *builder) rebirth() error {
	if _, _, err := sys.Wait(b.proc.Pidfd); err != nil {
		return fmt.Errorf("reap the first process: %w", err)
	}
	for _, n := range []int{b.proc.Pidfd, b.goW, b.statR} {
		sys.Close(n)
	}
	b.stub.close()
	b.proc = nil
	if err := sys.WriteFile(b.cgroup, "cgroup.kill", "1"); err != nil {
		return fmt.Errorf("write cgroup.kill of the machine's cgroup: %w", err)
	}
	if err := b.conceive(); err != nil {
		return err
	}
	return b.born()
}

func writeMaps(pid int, uids, gids userns.Map) error {
	if err := sys.WriteFile(unix.AT_FDCWD, procPath(pid, "uid_map"), uids.String()); err != nil {
		return fmt.Errorf("write the uid_map: %w", err)
	}
	if err := sys.WriteFile(unix.AT_FDCWD, procPath(pid, "gid_map"), gids.String()); err != nil {
		return fmt.Errorf("write the gid_map: %w", err)
	}
	return nil
}

func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// join puts the thread into the machine's namespaces and sets them up.
func (b *builder) join() error {
	flags := 0
	network := false
	var err error
	for _, n := range b.plan.Namespaces {
		switch n.Flag {
		case 0, unix.CLONE_NEWUSER:
			continue
		case unix.CLONE_NEWPID:
			if b.tree.PidNS, err = sys.Openat(unix.AT_FDCWD, procPath(b.proc.PID, "ns/pid"), unix.O_RDONLY, 0); err != nil {
				return fmt.Errorf("open the machine's pid namespace: %w", err)
			}
		case unix.CLONE_NEWNET:
			network = !n.Kept
		}
		if n.Path != "" {
			continue // this thread is there already
		}
		flags |= int(n.Flag)
	}
	if flags != 0 { // the kernel takes it for a mistake
		if err := sys.Setns(b.l, b.proc.Pidfd, flags); err != nil {
			return fmt.Errorf("join the machine's namespaces: %w", err)
		}
	}
	if flags&unix.CLONE_NEWUTS != 0 { // else it is the host's
		if err := sys.Sethostname(b.l, b.plan.Hostname); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	if network {
		if err := loopback(); err != nil {
			return fmt.Errorf("bring up the loopback interface: %w", err)
		}
		if err := b.settleLinks(); err != nil {
			return err
		}
	}
	if len(b.plan.Forwards) > 0 {
		if b.watch, err = netns.WatchAddresses(); err != nil {
			return err
		}
	}
	for _, s := range b.plan.Sysctl {
		if err := b.sysctl(s); err != nil {
			b.opt.Warn(err.Error() + "; the machine does without")
		}
	}
	return nil
}

// passing is the number, in the machine, of a process that is gone before the
// payload runs: not 2, which may be the payload's.
const passing = 300

// procFS opens a procfs context of the machine's pid namespace: a process that
// is born into the namespace does, and shares its descriptors with us.
func (b *builder) procFS() (int, error) {
	p := child.New(4)
	p.Add("open a proc file system", unix.SYS_FSOPEN, p.String("proc"), unix.FSOPEN_CLOEXEC)
	p.Add("end", unix.SYS_EXIT_GROUP, 0)
	c, err := child.Start(b.l, p, child.Options{ShareFiles: true, PID: passing})
	if err != nil {
		return -1, err
	}
	_, _, err = sys.Wait(c.Pidfd)
	sys.Close(c.Pidfd)
	if f := c.Failure(); f != nil {
		return -1, f
	}
	n, _ := c.Result(0)
	return n, err
}

// userNS gives a user namespace for id-mapped mounts.
func (b *builder) userNS(kind mount.IDMap, source, target unix.Statx_t) (int, error) {
	r := b.plan.Users.Range
	var m userns.Map
	switch kind {
	case mount.FullIDMap:
		if b.idmaps >= 0 {
			return b.idmaps, nil
		}
		// Beside the machine's range, the host's root gets an id that no file
		// has, so that the launcher itself can make what is missing.
		m = userns.Map{{Inside: 0, Outside: r.Start, Size: r.Size}}
		if !r.Contains(0) {
			m = append(m, userns.Extent{Inside: hostRoot, Outside: 0, Size: 1})
		}
	case mount.ForeignIDMap:
		if b.foreign >= 0 {
			return b.foreign, nil
		}
		m = userns.Map{{Inside: userns.ForeignBase, Outside: r.Start, Size: min(r.Size, userns.DefaultSize)}}
		if !r.Contains(0) {
			m = append(m, userns.Extent{Inside: hostRoot, Outside: 0, Size: 1})
		}
	case mount.RootIDMap:
		m = userns.Map{{Inside: source.Uid, Outside: r.Start, Size: 1}}
	case mount.OwnerIDMap:
		m = userns.Map{{Inside: source.Uid, Outside: target.Uid, Size: 1}}
	}
	// Not on this thread: over its root lies the machine's, and the kernel
	// lets nobody make user namespaces whose root is hidden like that.
	n := -1
	err := sys.Elsewhere(func(l sys.Locked) (err error) {
		n, err = mapNamespace(l, m)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("make a user namespace for the id map: %w", err)
	}
	switch kind {
	case mount.FullIDMap:
		b.idmaps = n
	case mount.ForeignIDMap:
		b.foreign = n
	}
	return n, nil
}

// hostRoot is the id that the host's root has in id-mapped trees.
const hostRoot = 2147483646

// mapNamespace makes a user namespace with the map and nothing in it. It takes
// a process to make one; the process waits until the map is written, and ends.
func mapNamespace(l sys.Locked, m userns.Map) (int, error) { return mapsNamespace(l, m, m) }

func mapsNamespace(l sys.Locked, uids, gids userns.Map) (int, error) {
	r, w, err := sys.Pipe()
	if err != nil {
		return -1, err
	}
	var one byte
	p := child.New(4)
	p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(w))
	p.Add("wait for the map", unix.SYS_READ, uintptr(r), child.Keep(p, &one), 1)
	p.Add("end", unix.SYS_EXIT_GROUP, 0)
	c, err := child.Start(l, p, child.Options{Namespaces: unix.CLONE_NEWUSER})
	sys.Close(r)
	if err != nil {
		sys.Close(w)
		return -1, err
	}
	n := -1
	if err = writeMaps(c.PID, uids, gids); err == nil {
		n, err = sys.Openat(unix.AT_FDCWD, procPath(c.PID, "ns/user"), unix.O_RDONLY, 0)
	}
	sys.Close(w)
	if _, _, werr := sys.Wait(c.Pidfd); err == nil && werr != nil {
		err = werr
	}
	sys.Close(c.Pidfd)
	return n, err
}

// chown gives a tree to the machine's users, with all that is mounted in it,
// as systemd-nspawn does.
func (b *builder) chown(rootfd int) error {
	// Files with names outside are not the tree's to give away: a hard link to
	// /etc/shadow would make the machine its owner.
	return b.alone(func() error {
		_, err := shift.Recursive(rootfd, b.plan.Users.Range, shift.Options{Mounts: true})
		return err
	})
}

// temp makes a fresh directory for an empty source.
func (b *builder) temp(what string) (string, error) {
	token, err := random()
	if err != nil {
		return "", err
	}
	dir := "/var/tmp/launch-" + b.plan.Machine + "-" + token
	if err := b.state.Record(state.Tree, dir); err != nil {
		return "", err
	}
	if err := sys.Mkdirat(unix.AT_FDCWD, dir, 0o700); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	return b.mkdir(path.Join(dir, what), 0o755)
}

// work makes the work directory of an overlay beside its upper directory, on
// the same mount; see attach.Tree.Work.
func (b *builder) work(upper string, dir int) (string, error) {
	token, err := random()
	if err != nil {
		return "", err
	}
	work := path.Join(path.Dir(upper), ".#"+path.Base(upper)+token)
	if err := b.state.Record(state.Tree, work); err != nil {
		return "", err
	}
	name := path.Base(work)
	if dir == unix.AT_FDCWD {
		name = work
	}
	// Who may rename what is beside the upper directory could have put something else
	// there by the time that it is given away by its name.
	return name, sys.MakeAs(b.l, b.root(), b.root(), func() error { return sys.Mkdirat(dir, name, 0o700) })
}

func (b *builder) mkdir(dir string, mode uint32) (string, error) {
	if err := sys.Mkdirat(unix.AT_FDCWD, dir, mode); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	if b.root() != 0 {
		if err := sys.Fchownat(unix.AT_FDCWD, dir, b.root(), b.root()); err != nil {
			return "", fmt.Errorf("give %s to the machine: %w", dir, err)
		}
	}
	return dir, nil
}

// release fills in the rest of the program, and lets the first process run it.
func (b *builder) release() error {
	if err := b.lowerUntil(""); err != nil {
		return err
	}
	if err := b.stub.write(b.image()); err != nil {
		return fmt.Errorf("write the stub: %w", err)
	}
	if err := b.oom.set(b); err != nil {
		return err
	}
	if err := sys.WriteString(b.goW, "g"); err != nil {
		b.oom.restore(b)
		return fmt.Errorf("let the first process go: %w", err)
	}
	b.pty.CloseSlave()
	return nil
}

// begun waits until the payload runs.
func (b *builder) begun() error {
	err := b.heard()
	b.oom.restore(b)
	sys.Close(b.statR)
	sys.Close(b.goW)
	return err
}

// executed reports whether the process became the payload. An execve that
// worked never returns, so its result stays open; one that a kill prevented
// leaves the process dead.
func (b *builder) executed() bool {
	fds := []unix.PollFd{{Fd: int32(b.proc.Pidfd), Events: unix.POLLIN}}
	n, _ := sys.Poll(fds, 0)
	if n == 0 {
		return true
	}
	// It has ended already: as the payload, if the last op was reached.
	return b.prog.Reached()
}

// random gives what makes a name nobody else's: the directory of that name is
// removed with all it holds, even if making it failed.
func random() (string, error) {
	var buf [8]byte
	if err := sys.Random(buf[:]); err != nil {
		return "", fmt.Errorf("get random bytes: %w", err)
	}
	return fmt.Sprintf("%x", buf), nil
}
