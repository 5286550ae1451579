package container

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/cgroup"
	"launch/internal/criu"
	"launch/internal/engine"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
	"launch/oci/bundle"
	"launch/settings"
)

// Restore makes a container and brings its processes back from files. What is
// outside of it is what today's bundle says; what the files say about that
// counts for nothing, and processes that came back with more than the bundle
// allows are ended before they run.
func Restore(o CreateOptions, r CRIUOptions) (l *Live, err error) {
	config := configOf(o.Bundle, o.Config)
	text, err := o.Read(config)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", config, err)
	}
	s, p, err := compiled(o.Bundle, string(text), o.ID, o.Host)
	if err != nil {
		var e *settings.Error
		if errors.As(err, &e) {
			e.Origin = bundle.Locate(e.Origin, string(text))
		}
		return nil, err
	}
	if err := checkTerminal(s.Exec.Process, o.ConsoleSocket, o.Master); err != nil {
		return nil, err
	}
	if p.Bare {
		return nil, errors.New("cannot restore a container without a mount namespace of its own")
	}
	f, out, err := readTree(r.Images)
	if err != nil {
		return nil, err
	}
	wanted, err := match(p, f, out)
	if err != nil {
		return nil, err
	}
	if err := CheckID(o.ID); err != nil {
		return nil, err
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
	made, hooked := l, false
	defer func() { err = made.unless(err, hooked) }()
	d.describe(o, s, unix.Getuid())
	b := s.Bundle
	if err := d.group(o, b); err != nil {
		return nil, err
	}
	if err := d.write(configName, string(text)); err != nil {
		return nil, fmt.Errorf("keep config.json: %w", err)
	}
	if err := d.save(); err != nil {
		return nil, err
	}
	if err := r.ready(); err != nil {
		return nil, err
	}
	defer sys.Close(r.CRIU.WorkFD)
	seat := path.Join(d.name, seatName)
	if err := sys.Mkdirat(d.fd, seatName, 0o700); err != nil {
		return nil, fmt.Errorf("make %s: %w", seat, err)
	}
	place, limited, err := d.place(b, p, o.Warn)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	if err := limited(); err != nil {
		return nil, err
	}

	found := map[string]int{}
	defer func() {
		for _, n := range found {
			sys.Close(n)
		}
	}()
	c := &r.CRIU
	c.Log, c.Sibling, c.OrphanPtsMaster = "restore.log", true, true
	w := criu.With{Cgroup: place.FD, Rooted: b.Owns("cgroup")}
	if d.Unit.Name != "" {
		// Systemd wants a process for a unit, and CRIU is the first one there.
		w.Placed = func(pid int) error { return d.scope(b, p, pid, o.Warn) }
	}
	// CRIU's images name cgroups by their paths of then.
	roots := func() error {
		switch {
		case c.Cgroups == criu.Ignore:
		case w.Rooted:
			c.CgroupRoots = [][2]string{{criu.Every, "/"}}
		default:
			layout, err := cgroup.Detect()
			if err != nil {
				return err
			}
			c.CgroupRoots = layout.Roots(d.Group)
		}
		return nil
	}
	for n, name := range out.Stdio {
		if name != "" && !slices.Contains(c.Inherit, name) {
			c.Inherit, w.Inherit = append(c.Inherit, name), append(w.Inherit, n)
		}
	}
	for _, n := range b.Namespaces {
		if n.Kind != "network" || n.Path == "" {
			continue
		}
		ns, err := sys.Openat(unix.AT_FDCWD, n.Path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return nil, fmt.Errorf("open the network namespace %s: %w", n.Path, err)
		}
		defer sys.Close(ns)
		c.Inherit, w.Inherit = append(c.Inherit, networkKey), append(w.Inherit, ns)
	}
	r.pass(&w)
	var refused error
	var terminal func(int) error
	if x := s.Exec.Process; x != nil && x.Terminal {
		terminal = terminalTo(o.ConsoleSocket, o.Master)
	}
	stage := func(name string, pid, fd int) error {
		switch name {
		case "orphan-pts-master":
			// The other side of the container's terminal, of which nobody inside had
			// the master.
			if fd < 0 || terminal == nil {
				return errors.New("the container had a terminal, and the bundle gives it none")
			}
			if err := terminal(fd); err != nil {
				return err
			}
			terminal = nil
		case "setup-namespaces":
			hooked = true
			for _, h := range slices.Concat(b.Hooks.Prestart, b.Hooks.CreateRuntime) {
				if err := engine.RunHook(h, d.StateJSON(Creating, pid)); err != nil {
					return err
				}
			}
		case "post-restore":
			d.PID = pid
			var ok bool
			if d.Began, ok = state.Began(pid); !ok {
				return errors.New("the first process is gone")
			}
			if err := place.Finish(pid); err != nil {
				return err
			}
			if b.Owns("cgroup") {
				if err := d.apart(); err != nil {
					return err
				}
			}
			if err := d.inspect(f, p, wanted, found); err != nil {
				return err
			}
			return d.save()
		case "pre-resume":
			// Rights come back last, and CRIU lets all run now whatever we say: so
			// they stand still until they are killed.
			refused = d.modest(p)
			if refused == nil && terminal != nil {
				refused = errors.New("the bundle gives the container a terminal, and it had none")
			}
			if refused != nil {
				refused = errors.Join(refused, d.Group.Freeze())
			}
			return refused
		}
		return nil
	}
	pid := 0
	started := make(chan error)
	sys.Spawn(func(l sys.Locked) {
		// The thread has mounts of its own, and what was restored has it as
		// the parent.
		started <- func() (err error) {
			pid, err = restoreOn(l, seat, pin, wanted, found, &r, w, place.Enter, place.Leave, roots, stage)
			return err
		}()
		select {}
	})
	err = <-started
	if refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, r.explain(err)
	}
	sys.Unlinkat(d.fd, seatName, unix.AT_REMOVEDIR)
	pidfd, err := sys.PidfdOpen(pid)
	if err != nil {
		return nil, fmt.Errorf("open the first process: %w", err)
	}
	l.Process = &engine.Container{PID: pid, Pidfd: pidfd}
	if err := d.poststart(b.Hooks, o.Warn); err != nil {
		return nil, err
	}
	return l, announce(o.PidfdSocket, o.PidFile, l.Process)
}

// match compares what images need from outside with what today's bundle has,
// and gives the source of each key.
func match(p *plan.Plan, f *tree.File, out *beyond) (map[string]external, error) {
	list := externals(p)
	wanted := map[string]external{}
	for _, key := range out.Mounts {
		i := slices.IndexFunc(list, func(x external) bool { return x.key == key })
		if i >= 0 {
			wanted[key] = list[i]
			continue
		}
		// Something below a recursive bind mount: its target tells which.
		x, ok := belowOf(f, list, key)
		if !ok {
			return nil, fmt.Errorf("cannot restore: the container had something of the host's mounted on %s, which the bundle says nothing of", targetOf(f, key))
		}
		wanted[key] = x
	}
	for _, x := range list {
		if _, ok := wanted[x.key]; !ok && !x.lenient {
			return nil, fmt.Errorf("cannot restore: the bundle mounts %s on %s, where the container had nothing of the host's", strconv.Quote(x.source), strconv.Quote(x.target))
		}
	}
	network := false
	for _, n := range p.Namespaces {
		if n.Path == "" {
			continue
		}
		if network = n.Name == "network"; !network {
			return nil, fmt.Errorf("cannot restore a container whose %s namespace is somebody else's", n.Name)
		}
	}
	if network != out.Network {
		return nil, errors.New("cannot restore: the network namespace was the container's own then, or is now, and not both")
	}
	// A master is copied from the mount that a source lies on: with two of them,
	// that must be wider than both.
	listens := map[string]bool{}
	at := f.Namespaces[0].Targets()
	for _, m := range f.Namespaces[0].Mounts {
		listens[at[m.ID]] = listens[at[m.ID]] || m.Slave != 0 || m.Group != 0
	}
	for key, x := range wanted {
		x.wide = listens[x.target]
		wanted[key] = x
	}
	// What the bundle forbids today, the saved mounts must not allow.
	for _, m := range f.Namespaces[0].Mounts {
		for _, x := range wanted {
			if at[m.ID] == x.target && x.attr&guarded&^m.Attr() != 0 {
				return nil, fmt.Errorf("cannot restore: the bundle gives %s flags that the saved container had not there (%s)",
					strconv.Quote(x.target), strings.Join(tree.Words(x.attr&guarded&^m.Attr()), ", "))
			}
		}
	}
	return wanted, nil
}

// guarded are the flags that a restored mount must have if the bundle says so.
const guarded = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// belowOf finds the recursive bind mount that a key's target lies below, and
// gives the place below its source.
func belowOf(f *tree.File, list []external, key string) (external, bool) {
	for _, at := range f.Namespaces[0].Targets() {
		if tree.Key(0, at) != key {
			continue
		}
		for _, x := range list {
			if rest, ok := strings.CutPrefix(at, x.target+"/"); ok && x.step.Do == plan.Bind && x.step.Recursive {
				x.key, x.target, x.source, x.attr = key, at, path.Join(x.source, rest), 0
				return x, true
			}
		}
	}
	return external{}, false
}

// targetOf says where a key's mount was.
func targetOf(f *tree.File, key string) string {
	for _, at := range f.Namespaces[0].Targets() {
		if tree.Key(0, at) == key {
			return strconv.Quote(at)
		}
	}
	return "a place with the key " + key
}

// restoreOn runs CRIU on a thread with mounts of its own: on seat are the
// container's root and all that it takes from outside, each looked up without
// links just before. What CRIU makes of it is looked at afterwards.
func restoreOn(l sys.Locked, seat string, pin int, wanted map[string]external, found map[string]int, r *CRIUOptions, w criu.With,
	enter, leave func(sys.Locked) error, placed func() error, stage criu.Told) (pid int, err error) {
	c := &r.CRIU
	if err := sys.Unshare(l, unix.CLONE_NEWNS|unix.CLONE_FS); err != nil {
		return 0, fmt.Errorf("unshare the mount namespace: %w", err)
	}
	host, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer sys.Close(host)
	if err := sys.MountSetattr(host, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
		return 0, fmt.Errorf("cut off mount propagation: %w", err)
	}
	// CRIU mounts on a directory there, which it can in its own namespace only.
	work, err := sys.Openat(unix.AT_FDCWD, r.Work, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, fmt.Errorf("open %s: %w", r.Work, err)
	}
	defer sys.Close(work)
	if err := same(work, c.WorkFD); err != nil {
		return 0, fmt.Errorf("open %s: %w", r.Work, err)
	}
	defer func(before int) { c.WorkFD = before }(c.WorkFD)
	c.WorkFD = work
	fs, err := sys.Fsopen("tmpfs")
	if err != nil {
		return 0, err
	}
	defer sys.Close(fs)
	if err = sys.FsSet(fs, "mode", "700"); err == nil {
		err = sys.FsCreate(fs)
	}
	if err != nil {
		return 0, fmt.Errorf("make a place for what is outside: %w", err)
	}
	top, err := sys.Fsmount(fs, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return 0, err
	}
	defer sys.Close(top)
	at, err := sys.Openat(unix.AT_FDCWD, seat, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	err = sys.MoveMount(top, at)
	sys.Close(at)
	if err != nil {
		return 0, fmt.Errorf("attach it: %w", err)
	}
	// By path again: the kernel copies only mounts of this namespace.
	put := func(name string, x external, found int) (file string, err error) {
		n := found
		file = path.Join(seat, name)
		if x.wide {
			if n, err = snapshot.Top(found, x.source); err != nil {
				return "", err
			}
			defer sys.Close(n)
			whole, err := sys.PathOf(n)
			if err != nil {
				return "", err
			}
			part, err := sys.PathOf(found)
			if err != nil {
				return "", err
			}
			file = path.Join(file, strings.TrimPrefix(part, whole))
		}
		m, err := sys.OpenTree(n, "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH)
		if err != nil {
			return "", err
		}
		defer sys.Close(m)
		a := unix.MountAttr{Propagation: unix.MS_PRIVATE, Attr_set: x.attr & guarded}
		if x.slave {
			a.Propagation = unix.MS_SLAVE
		}
		if err := sys.MountSetattr(m, 0, &a); err != nil {
			return "", err
		}
		st, err := sys.Statx(m, "", unix.STATX_TYPE)
		if err != nil {
			return "", err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = sys.Mkdirat(top, name, 0o700)
		} else {
			err = sys.Mknodat(top, name, unix.S_IFREG|0o600, 0)
		}
		if err != nil {
			return "", err
		}
		to, err := sys.Openat(top, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return "", err
		}
		defer sys.Close(to)
		return file, sys.MoveMount(m, to)
	}
	rootfs, err := sys.PathOf(pin)
	if err != nil {
		return 0, err
	}
	n, err := snapshot.Find(rootfs)
	if err == nil {
		if err = same(n, pin); err == nil {
			c.Root, err = put("root", external{slave: true}, n)
		}
		sys.Close(n)
	}
	if err != nil {
		return 0, fmt.Errorf("take the root %s: %w", rootfs, err)
	}
	for _, key := range slices.Sorted(maps.Keys(wanted)) {
		x := wanted[key]
		// Kept open: what comes back is compared with it.
		x.found, err = snapshot.Find(x.source)
		var file string
		if err == nil {
			found[key] = x.found
			file, err = put(key, x, x.found)
		}
		if err != nil {
			return 0, fmt.Errorf("take %s, for %s: %w", strconv.Quote(x.source), strconv.Quote(x.target), err)
		}
		c.External = append(c.External, [2]string{key, file})
	}
	if err := enter(l); err != nil {
		return 0, err
	}
	proc, err := r.start(l, w)
	if lerr := leave(l); err == nil {
		err = lerr
	}
	if err != nil {
		return 0, err
	}
	defer proc.Close()
	if err := placed(); err != nil {
		return 0, err
	}
	return proc.Do(criu.Restore, c, stage)
}

// same fails unless two descriptors are of one file.
func same(a, b int) error {
	ok, err := sys.Same(a, b)
	if err == nil && !ok {
		err = errors.New("it was replaced meanwhile")
	}
	return err
}

// apart makes sure that the container doesn't see the cgroups around its own.
func (d *Dir) apart() error {
	var ns [2]string
	for i, who := range []string{"thread-self", strconv.Itoa(d.PID)} {
		var err error
		if ns[i], err = sys.Readlinkat(unix.AT_FDCWD, "/proc/"+who+"/ns/cgroup"); err != nil {
			return fmt.Errorf("look at its cgroup namespace: %w", err)
		}
	}
	if ns[0] == ns[1] {
		return errors.New("the container came back without a cgroup namespace of its own")
	}
	return nil
}

// inspect looks at the mounts that came back, before anything runs on them:
// they must be those that were saved, and of what was found.
func (d *Dir) inspect(f *tree.File, p *plan.Plan, wanted map[string]external, found map[string]int) error {
	now, err := snapshot.Read([]int{d.PID})
	if err != nil {
		return err
	}
	if what := tree.Differ(f, now); what != "" {
		return fmt.Errorf("the mounts that came back are not those that were saved: %s", what)
	}
	root, err := sys.Openat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/root", d.PID), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open the container's root: %w", err)
	}
	defer sys.Close(root)
	for key, n := range found {
		at, err := sys.Openat2(root, wanted[key].target, unix.O_PATH, 0, sys.InRoot)
		if err == unix.ENOENT {
			continue // the container took it away itself, and the mounts are as saved
		}
		if err == nil {
			err = same(at, n)
			sys.Close(at)
		}
		if err != nil {
			return fmt.Errorf("look at %s: %w", strconv.Quote(wanted[key].target), err)
		}
	}
	return nil
}

// modest refuses processes with more rights than the bundle gives.
func (d *Dir) modest(p *plan.Plan) error {
	pids, err := snapshot.Processes(d.PID)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := modest(pid, p); err != nil {
			return err
		}
	}
	return nil
}

func modest(pid int, p *plan.Plan) error {
	text, err := sys.ReadFile(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/status", pid), 1<<16)
	if err != nil {
		return fmt.Errorf("look at process %d: %w", pid, err)
	}
	most := uint64(0)
	if c := p.Payload.Exact.Caps; c != nil {
		most = c.Bounding | c.Effective | c.Permitted | c.Inheritable | c.Ambient
	}
	confined := slices.ContainsFunc(p.Program, func(o plan.Op) bool { return o.Call == plan.NoNewPrivs })
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			if strings.HasPrefix(value, "Z") || strings.HasPrefix(value, "X") {
				return nil // it has ended, as CRIU's child with CRIU's rights
			}
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb":
			have, err := strconv.ParseUint(value, 16, 64)
			if err != nil || have&^most != 0 {
				return fmt.Errorf("process %d came back with capabilities that the bundle doesn't give (%s %s)", pid, key, value)
			}
		case "NoNewPrivs":
			if value == "0" && confined {
				return fmt.Errorf("process %d came back without no_new_privs", pid)
			}
		case "Seccomp":
			if value == "0" && len(p.Filters) > 0 {
				return fmt.Errorf("process %d came back without a system-call filter", pid)
			}
		}
	}
	return nil
}
