package container

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/cgroup/resource"
	"launch/internal/cgroup/systemd"
	"launch/internal/engine"
	"launch/internal/facts"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/settings"
)

// CreateOptions are what create is told.
type CreateOptions struct {
	Root   string // where containers are kept
	ID     string
	Bundle string // absolute
	Config string // bundle.File, or another file there or anywhere
	// Read reads it, at most bundle.Limit bytes.
	Read func(file string) ([]byte, error)
	Host facts.Host
	// Systemd: the cgroup is a scope of systemd's.
	Systemd  bool
	Rootless bool
	// NoCgroups: the container stays in the caller's cgroups.
	NoCgroups bool
	// ConsoleSocket and PidfdSocket are sockets that the terminal's master
	// side and a descriptor of the first process are sent to; PidFile is
	// written with its number. All may be empty.
	ConsoleSocket, PidfdSocket, PidFile string
	// Master takes the terminal instead of the socket.
	Master      func(master int) error
	Keep        int
	KeepKeyring bool
	Env         []string // come on top of the process's
	Warn        func(string)
	// Guard is called before anything is done for a container whose payload
	// could execute our own program (see plan.Plan.Stubbed), or among whose
	// processes some may trace the runtime itself.
	Guard func() error
	// Notify is the service manager's socket, if it is to be told when the
	// container is ready.
	Notify string
	// Say: the caller doesn't start the container, and so will not hear that its
	// payload can't be executed.
	Say bool
	// Doubt takes what is odd about the bundle.
	Doubt func(settings.Warning)
}

// Live is a container that this process created.
type Live struct {
	*Dir
	Settings settings.Settings
	Process  *engine.Container
	gate     int
	warn     func(string)
}

// Create makes a container and leaves its first process waiting to be started.
// The lock of its directory is held until Close. After an error nothing of it
// is left.
func Create(o CreateOptions) (l *Live, err error) {
	thread := engine.NewThread()
	config := configOf(o.Bundle, o.Config)
	text, err := o.Read(config)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", config, err)
	}
	defer func() {
		// Inside only the place in the structure is known.
		var e *settings.Error
		if errors.As(err, &e) {
			e.Origin = bundle.Locate(e.Origin, string(text))
		}
		var step *engine.StepError
		if errors.As(err, &step) {
			step.Origin = bundle.Locate(step.Origin, string(text))
		}
	}()
	s, warnings, err := bundle.Read(o.Bundle, string(text))
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		w.Origin = bundle.Locate(w.Origin, string(text))
		o.Doubt(w)
	}
	if o.PidfdSocket == "" {
		o.PidfdSocket = s.Bundle.Annotations[bundle.PidfdReceiver]
	}
	s.Machine = o.ID
	s.Exec.Env = append(s.Exec.Env, o.Env...)
	if err := checkTerminal(s.Exec.Process, o.ConsoleSocket, o.Master); err != nil {
		return nil, err
	}
	owner, rootless := RootlessCaller()
	if !rootless {
		owner = os.Getuid()
	} else if s.Bundle.UIDs, s.Bundle.GIDs, err = translate(s.Bundle.UIDs, s.Bundle.GIDs); err != nil {
		return nil, err
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Kind != "user" || n.Path == "" {
			continue
		}
		uids, gids := s.Bundle.UIDs, s.Bundle.GIDs
		if s.Bundle.UIDs, s.Bundle.GIDs, err = engine.MapsOf(n.Path, n.Origin); err != nil {
			return nil, err
		}
		if uids != nil && !slices.Equal(uids, s.Bundle.UIDs) || gids != nil && !slices.Equal(gids, s.Bundle.GIDs) {
			return nil, &settings.Error{What: "cannot join a user namespace with other mappings than it has: both namespace path and non-matching mapping specified", Origin: n.Origin,
				Hint: "leave out uidMappings and gidMappings"}
		}
	}
	if err := CheckID(o.ID); err != nil {
		return nil, err
	}
	if o.Notify != "" {
		notified(&s, path.Join(o.Root, o.ID))
	}
	labels(&o.Host, &s)
	p, err := plan.Compile(plan.Input{Settings: s, Facts: facts.Facts{Host: o.Host}, Profile: settings.OCI, Moved: o.Systemd})
	if err != nil {
		return nil, err
	}
	if exposed(&s) || !p.Stubbed() {
		if err := o.Guard(); err != nil {
			return nil, err
		}
	}
	pin, err := sys.Openat(unix.AT_FDCWD, s.Image.Directory, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root filesystem %s: %w", s.Image.Directory, err)
	}
	defer sys.Close(pin)

	d, err := claim(o.Root, o.ID)
	if err != nil {
		return nil, err
	}
	l = &Live{Dir: d, Settings: s, gate: -1, warn: o.Warn}
	// Not l itself: a return with an error has made it nil by then.
	made := l
	hooked := false
	defer func() { err = made.unless(err, hooked) }()
	b := s.Bundle
	d.describe(o, s, owner)
	if p.Bare {
		if d.Under, err = mountOf(s.Image.Directory); err != nil {
			return nil, err
		}
	}
	if err := d.group(o, b); err != nil {
		return nil, err
	}
	if err := d.write(configName, string(text)); err != nil {
		return nil, fmt.Errorf("keep config.json: %w", err)
	}
	if o.Notify != "" {
		if err := sys.Mkdirat(d.fd, notifyDir, 0o755); err != nil {
			return nil, fmt.Errorf("make the directory for notifications: %w", err)
		}
	}
	seat := ""
	if o.Rootless {
		seat = path.Join(d.name, seatName)
		if err := sys.Mkdirat(d.fd, seatName, 0o700); err != nil {
			return nil, fmt.Errorf("make %s: %w", seat, err)
		}
	}
	place, limited, err := d.place(b, p, o.Warn)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	defer limited() // also if nobody asked: what is undone must not be made meanwhile
	// Not before: who deletes what is left of us ends all processes of these
	// cgroups, and only now they are known to be ours.
	if err := d.save(); err != nil {
		return nil, err
	}
	if err := sys.Mkfifo(d.fd, gateName, 0o622); err != nil {
		return nil, fmt.Errorf("make the exec fifo: %w", err)
	}
	if l.gate, err = sys.Openat(d.fd, gateName, unix.O_RDWR|unix.O_NOFOLLOW, 0); err != nil {
		return nil, fmt.Errorf("open the exec fifo: %w", err)
	}
	l.Process, err = engine.Create(p, engine.CreateOptions{
		Pin: pin, Rootless: o.Rootless, Own: seat, Warn: o.Warn, Gate: l.gate, Cgroup: place.FD, Enter: place.Enter, Leave: place.Leave,
		Placed: func(pid int) error {
			if err := limited(); err != nil {
				return err
			}
			if err := place.Finish(pid); err != nil {
				return err
			}
			d.PID = pid
			var ok bool
			if d.Began, ok = state.Began(pid); !ok {
				return errors.New("the first process is gone")
			}
			if err := d.save(); err != nil {
				return err
			}
			if d.Unit.Name != "" {
				if err := d.scope(b, p, pid, o.Warn); err != nil {
					return err
				}
			}
			if d.RDT.Dir != "" {
				return d.RDT.Join(pid)
			}
			return nil
		},
		Console: terminalTo(o.ConsoleSocket, o.Master), Keep: o.Keep, KeepKeyring: o.KeepKeyring, Thread: thread, Say: o.Say,
		State: func(status string, pid int) []byte {
			hooked = true
			return d.StateJSON(Status(status), pid)
		},
		Listener: func(listener, pid int) error {
			return d.sendListener(p, listener, pid)
		},
	})
	if err != nil {
		return nil, err
	}
	return l, announce(o.PidfdSocket, o.PidFile, l.Process)
}

// describe notes what the bundle and the caller say.
func (d *Dir) describe(o CreateOptions, s settings.Settings, owner int) {
	d.Bundle, d.Rootfs, d.Owner, d.Created = o.Bundle, s.Image.Directory, owner, time.Now()
	for k, v := range s.Bundle.Annotations {
		d.Annotations = append(d.Annotations, [2]string{k, v})
	}
	slices.SortFunc(d.Annotations, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
}

func configOf(dir, config string) string {
	if path.IsAbs(config) {
		return config
	}
	return path.Join(dir, config)
}

// checkTerminal refuses a terminal that nobody would have the other side of,
// and somebody who waits for one that isn't made.
func checkTerminal(p *settings.Process, socket string, master func(int) error) error {
	switch wanted := p != nil && p.Terminal; {
	case wanted && socket == "" && master == nil:
		return errors.New("cannot allocate tty if runc will detach without setting console socket")
	case !wanted && socket != "":
		return errors.New("cannot use console socket if runc will not detach or allocate tty")
	}
	return nil
}

// group finds out which cgroups the container will be in.
func (d *Dir) group(o CreateOptions, b *settings.Bundle) error {
	if o.NoCgroups {
		d.Group.Rootless = true // what would be in them is left out, or refused
		return nil
	}
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	if o.Systemd {
		if !systemd.Running() {
			return errors.New("systemd not running on this host, cannot use systemd cgroups manager")
		}
		// Which cgroups it is, systemd decides.
		d.unasked = true
		d.Unit, err = systemd.Parse(b.CgroupsPath, o.ID, o.Rootless)
		return err
	}
	if d.Group, err = layout.Group(b.CgroupsPath, o.ID); err != nil {
		return err
	}
	d.Group.Rootless = o.Rootless
	return nil
}

// place makes the cgroups, sets their limits, and opens them; limited waits
// until the limits are set. With systemd there is nothing yet: it wants the
// process first.
func (d *Dir) place(b *settings.Bundle, p *plan.Plan, warn func(string)) (_ *cgroup.Place, limited func() error, _ error) {
	limited = func() error { return nil }
	if err := d.classify(b.IntelRdt); err != nil {
		return nil, nil, err
	}
	if d.Unit.Name != "" {
		return &cgroup.Place{FD: -1}, limited, nil
	}
	if err := d.Group.Create(b.Resources, d.record); err != nil {
		var taken *cgroup.NotEmpty
		if errors.As(err, &taken) || errors.Is(err, cgroup.ErrFrozen) {
			// It is somebody else's, with all that is in it.
			d.Group = cgroup.Group{Rootless: d.Group.Rootless}
		}
		return nil, nil, d.lacks(err)
	}
	place, err := d.Group.Open()
	if err != nil {
		return nil, nil, err
	}
	fill := func() error { return d.fill(b, p, warn) }
	if d.Group.Born() {
		// The kernel takes a third of a millisecond to check the device program,
		// and as long to make the process's namespaces.
		return place, sync.OnceValue(sys.Go("limits", fill)), nil
	}
	// No process can enter a cpuset of version 1 that has no processors yet.
	return place, limited, fill()
}

// leastMemory is what the first process needs before it is the payload. With
// less the kernel would end it, and, since it shares memory with the runtime
// until then, the runtime too.
const leastMemory = 192 << 10

// fill sets up the cgroups that are there.
func (d *Dir) fill(b *settings.Bundle, p *plan.Plan, warn func(string)) error {
	if r := b.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 && *r.Memory.Limit < leastMemory {
		return fmt.Errorf("unable to set memory limit to %d: the first process of a container needs %d", *r.Memory.Limit, leastMemory)
	}
	warnings, err := d.Group.Limit(b.Resources)
	for _, w := range warnings {
		warn(w)
	}
	if err != nil {
		return d.lacks(err)
	}
	// A cgroup that the payload sees as the root and can write to is its own.
	writable := false
	for _, s := range p.Steps {
		if s.Do == plan.Cgroups && s.Target == "/sys/fs/cgroup" {
			writable = s.Attr&unix.MOUNT_ATTR_RDONLY == 0
		}
	}
	if !b.Owns("cgroup") || !writable {
		return nil
	}
	uid, ok := p.Payload.Exact.IDs.UID, true
	if p.Users.Private() {
		uid, ok = p.Users.UIDs.Host(uid)
	}
	if !ok || int(uid) == os.Getuid() {
		return nil
	}
	return d.Group.Give(uid)
}

// classify makes the class of service that linux.intelRdt asks for.
func (d *Dir) classify(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	mount, err := cgroup.DetectRDT()
	if err != nil {
		return err
	}
	if r.ClosID == "" {
		if err := d.record(path.Join(mount, d.ID)); err != nil {
			return err
		}
	}
	t, err := cgroup.CreateRDT(mount, r, d.ID)
	if err != nil {
		return err
	}
	d.RDT = *t
	return nil
}

// scope lets systemd make the container's unit with the process in it.
func (d *Dir) scope(b *settings.Bundle, p *plan.Plan, pid int, warn func(string)) error {
	layout, err := cgroup.Detect()
	if err != nil {
		return err
	}
	bus, err := systemd.Connect(d.Unit.User)
	if err != nil {
		return err
	}
	defer bus.Close()
	props, err := bus.Properties(b.Resources, layout.Offers())
	if err != nil {
		return err
	}
	if b.Resources != nil {
		rules, err := resource.ContainerDevices(b.Resources.Devices)
		if err != nil {
			return err
		}
		if layout.Kind() != "v2" {
			devices, err := systemd.DeviceProperties(rules)
			if err != nil {
				return err
			}
			props = append(props, devices...)
		}
	}
	annotated, err := systemd.Annotated(b.Annotations)
	if err != nil {
		return err
	}
	d.unasked = false
	if err := bus.Start(d.Unit, pid, d.ID, append(props, annotated...)); err != nil {
		if errors.Is(err, systemd.ErrTaken) {
			// It is somebody else's, with all that is in it.
			d.Unit = systemd.Unit{}
		}
		return err
	}
	if d.Group, err = layout.UnitGroup(pid, d.Unit.Name); err != nil {
		return err
	}
	d.Group.Rootless = d.Unit.User
	if err := d.save(); err != nil {
		return err
	}
	if err := d.Group.Adopt(b.Resources, pid, d.record); err != nil {
		return err
	}
	return d.fill(b, p, warn)
}

// unless undoes a creation or a restore that failed, and adds to the error what
// could not be undone. What hooks set up, those at the end undo.
func (l *Live) unless(err error, hooked bool) error {
	if err == nil {
		return nil
	}
	left := l.undo()
	if hooked && left == nil {
		l.poststop(l.Settings.Bundle.Hooks, l.warn)
	}
	l.Close()
	return errors.Join(err, left)
}

// undo removes what a failed create made.
func (l *Live) undo() error {
	if l.Process != nil {
		_ = sys.PidfdSignal(l.Process.Pidfd, int(unix.SIGKILL))
		_, _, _ = sys.Wait(l.Process.Pidfd)
	}
	if l.gate >= 0 {
		sys.Close(l.gate)
	}
	return l.destroy()
}

// destroy removes the cgroups with all processes in them, and the directory.
func (d *Dir) destroy() error {
	if d.Unit.Name == "" && d.Group.RemoveEmpty() {
		// The plain case: nothing was left but the directory.
	} else if err := d.Group.Kill(); err != nil {
		return err
	}
	if d.Unit.Name != "" && !d.unasked && systemd.Running() {
		if err := d.unscope(); err != nil {
			return err
		}
	}
	if err := d.Group.Delete(); err != nil {
		return err
	}
	if err := d.uncover(); err != nil {
		return err
	}
	if err := d.RDT.Delete(); err != nil {
		return err
	}
	if err := cgroup.Undo(d.Made); err != nil {
		return err
	}
	return d.remove()
}

// unscope removes the container's unit. As long as its cgroup isn't known, one
// of that name may be somebody else's.
func (d *Dir) unscope() error {
	known := len(d.Group.Dirs) > 0
	bus, err := systemd.Connect(d.Unit.User)
	if err != nil && !known {
		return nil // nor did who made the container reach it
	}
	if err != nil {
		return err
	}
	defer bus.Close()
	if !known {
		return bus.StopEmpty(d.Unit)
	}
	return bus.Stop(d.Unit)
}

// mountOf gives the number of the mount that a directory is on.
func mountOf(dir string) (uint64, error) {
	st, err := sys.Statx(unix.AT_FDCWD, dir, unix.STATX_MNT_ID)
	if err != nil {
		return 0, fmt.Errorf("look at the mount of %s: %w", dir, err)
	}
	return st.Mnt_id, nil
}

// uncover takes away the mounts of a container that has them in the caller's
// mount namespace: all that lie on its root and were not there before.
func (d *Dir) uncover() error {
	const most = 8 // there is one
	for i := 0; d.Under != 0 && i < most; i++ {
		now, err := mountOf(d.Rootfs)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil || now == d.Under {
			return err
		}
		if err := sys.Umount(d.Rootfs, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", d.Rootfs, err)
		}
	}
	return nil
}

// terminalTo gives what takes the master side of a terminal.
func terminalTo(socket string, master func(int) error) func(int) error {
	if socket == "" {
		return master
	}
	return func(n int) error {
		if err := outside(func() error { return sendTo(socket, []byte("/dev/ptmx"), n) }); err != nil {
			return fmt.Errorf("send the terminal to the console socket %s: %w", socket, err)
		}
		return nil
	}
}

// outside runs f where the caller's paths are: who asks for it may be on a
// thread whose root is the container's by now, and a path that leads there
// would be the container's to choose.
func outside(f func() error) error {
	done := make(chan error)
	go func() { done <- f() }()
	return <-done
}

// sendTo sends descriptors to a socket in the file system, whatever the length
// of its name.
func sendTo(socket string, text []byte, fds ...int) error {
	dir, err := sys.Openat(unix.AT_FDCWD, path.Dir(socket), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	if err := sys.ConnectUnix(n, sys.FdPath(dir)+"/"+path.Base(socket)); err != nil {
		return err
	}
	return sys.SendRights(n, text, fds...)
}

// announce tells callers of the process. After an error nobody knows of it.
func announce(pidfdSocket, pidFile string, c *engine.Container) error {
	if pidfdSocket != "" {
		if err := sendTo(pidfdSocket, []byte("pidfd"), c.Pidfd); err != nil {
			return fmt.Errorf("send the pidfd to %s: %w", pidfdSocket, err)
		}
	}
	if pidFile == "" {
		return nil
	}
	half := path.Join(path.Dir(pidFile), "."+path.Base(pidFile))
	n, err := sys.Openat(unix.AT_FDCWD, half, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o666)
	if err != nil {
		return fmt.Errorf("write the pid file %s: %w", pidFile, err)
	}
	err = sys.WriteString(n, fmt.Sprint(c.PID))
	sys.Close(n)
	if err == nil {
		err = sys.Renameat2(unix.AT_FDCWD, half, unix.AT_FDCWD, pidFile, 0)
	}
	if err != nil {
		return fmt.Errorf("write the pid file %s: %w", pidFile, err)
	}
	return nil
}

// sendListener hands the listener of the filter to who decides about calls.
func (d *Dir) sendListener(p *plan.Plan, listener, pid int) error {
	status := Created
	if d.PID != pid {
		status = Running
	}
	t := d.told(status, d.PID)
	b := t.AppendListener(nil, p.Metadata)
	if err := outside(func() error { return sendTo(p.Listener, b, listener) }); err != nil {
		return fmt.Errorf("send the listener of the system-call filter to %s: %w", p.Listener, err)
	}
	return nil
}
