package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/engine"
	"launch/internal/facts"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/probe"
	"launch/internal/sys"
	"launch/oci/store"
	"launch/settings"
	"launch/userns"
)

// images hands a verb about images over to launch-pull, which lies beside
// launch: what speaks to registries is no part of this program.
func images(verb string, args []string) int {
	self, err := os.Executable()
	if err == nil {
		program := cli.Beside(self, "launch-pull")
		err = sys.Exec(program, append([]string{"launch-pull", verb}, args...), os.Environ())
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%s is not there", program)
		}
	}
	cli.Report(os.Stderr, &settings.Error{What: fmt.Sprintf("cannot run launch-pull, which knows about images: %v", err)})
	return 1
}

// imageConfig is the part of an image's configuration that has an effect, and
// all of it: what else an image says of itself (labels, a health check, what to
// do when it is built upon) is not read.
type imageConfig struct {
	Config struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		StopSignal   string
		Volumes      map[string]struct{}
		ExposedPorts map[string]struct{}
	} `json:"config"`
}

// runImage is `launch run`.
func runImage(args, env []string, cwd string) int {
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	verb := settings.FindVerb("run")
	req, told, err := cli.ParseStart(verb, args, env, cwd)
	if err != nil {
		return fail(err)
	}
	if asked(req, func(w io.Writer) { cli.VerbUsage(w, verb) }) {
		return 0
	}
	if req.Action == cli.Cleanup {
		return fail(&settings.Error{What: "cannot run an image and clean up at the same time", Hint: "launch --cleanup"})
	}
	for _, a := range req.Assignments {
		if err := refuse(a); err != nil {
			return fail(err)
		}
	}
	if len(req.Words) == 0 {
		return fail(&settings.Error{What: "no image was named", Hint: "launch run [OPTION…] IMAGE [COMMAND…]"})
	}
	ref, err := store.ParseReference(req.Words[0], cwd)
	if err != nil {
		return fail(&settings.Error{What: err.Error()})
	}
	if unix.Geteuid() != 0 && req.Action != cli.Plan {
		return fail(&settings.Error{What: "cannot start a machine as this user", Hint: "run launch as root; --plan needs no root"})
	}
	if told.Get("pull") == "always" {
		return images("run", args)
	}
	i, s, err := stored(ref.String())
	if errors.Is(err, store.ErrNone) && told.Get("pull") != "never" {
		return images("run", args)
	}
	if err != nil {
		return fail(&settings.Error{What: fmt.Sprintf("cannot run %s: %v", ref, err), Hint: "launch images lists what there is"})
	}
	defer s.Close()
	r := &imageRun{req: req, told: told, image: i, store: s, args: args, env: env, cwd: cwd}
	status, err := r.run()
	if err != nil {
		return fail(err)
	}
	return status
}

// alien are options that speak of a tree, which an image is not.
var alien = [...]string{"directory", "image", "mstack", "image-policy", "root-hash", "root-hash-sig", "verity-data", "template", "ephemeral", "oci-bundle", "pivot-root", "volatile",
	"boot", "machine", "link-journal", "uuid", "join", "bind-user", "bind-user-shell", "bind-user-group"}

// refuse gives an error for an option that an image can't have.
func refuse(a settings.Assignment) error {
	if !slices.Contains(alien[:], a.Option.Name) {
		return nil
	}
	hint := "an image is no directory of an operating system; leave the option out"
	switch a.Option.Name {
	case "machine":
		hint = "use --name="
	case "ephemeral", "volatile":
		hint = "leave it out: without --name=, or with --rm, nothing is kept; --overlay-all is for what is bound, too"
	case "bind-user", "bind-user-shell", "bind-user-group":
		hint = "what an image runs doesn't look for users of the host; bind the home directory with --bind=, and leave the option out"
	case "join":
		hint = "only a bundle can join another machine (--oci-bundle=); leave the option out"
	}
	return &settings.Error{What: "cannot use this option with an image", Origin: a.Origin, Value: a.Text, Hint: hint}
}

// stored finds an image in the store.
func stored(name string) (i store.Image, s *store.Store, err error) {
	dir, err := store.Where(os.Getenv, os.Geteuid() == 0)
	if err != nil {
		return i, nil, err
	}
	if s, err = store.Look(dir); err != nil {
		return i, nil, err
	}
	if i, err = s.Find(name); err != nil {
		s.Close()
	}
	return i, s, err
}

// imageRun is one start of an image.
type imageRun struct {
	req   cli.Request
	told  cli.Told
	image store.Image
	store *store.Store
	args  []string // behind the verb
	env   []string
	cwd   string
	// machine is where the machine's own part is.
	machine *store.Machine
}

func (r *imageRun) run() (status int, err error) {
	var c imageConfig
	if err := json.Unmarshal(r.image.Config, &c); err != nil {
		return 1, &settings.Error{What: fmt.Sprintf("cannot read the configuration of %s: %v", r.image.Name, err)}
	}
	host, unseen := probe.Host(r.env)
	suffix, err := probe.NewSuffix()
	if err != nil {
		return 1, err
	}
	name, passing, nameless := r.told.Get("name"), r.told.Has("rm"), ""
	if name == "" {
		// Nobody could find it again.
		nameless = settings.DeriveName(path.Base(strings.SplitN(r.image.Name, "@", 2)[0]))
		name, passing = settings.CopyName(nameless, suffix), true
	}
	background := plan.Getenv(r.env, detached)
	if background != "" {
		name = background
	}
	if err := settings.CheckName(name); err != nil {
		return 1, &settings.Error{What: err.Error(), Origin: origin.Origin{Source: origin.CommandLine, Path: "--name"}, Value: name}
	}
	base := path.Join(r.store.Path, "machines", name)
	around := settings.Surroundings{
		Place: settings.Place{Cwd: r.cwd, Env: r.env}, Hostname: host.Hostname, Files: r.req.Files, PID2: true, Suffix: suffix,
	}
	from := origin.Origin{Source: origin.Image, Path: r.image.Name}
	usual := func(option, text string) {
		o := settings.Find(option)
		v, perr := o.Parse(around.Place, text)
		err = errors.Join(err, perr)
		r.req.Assignments = append(r.req.Assignments, settings.Assignment{Option: o, Value: v, Origin: from, Text: text})
	}
	usual("machine", name)
	usual("directory", base)
	usual("private-users", "pick")
	if r.told.Get("network") != "host" {
		usual("private-network", "yes")
	}
	if err != nil {
		return 1, err
	}
	assignments, unread, err := withFile(r.req, around)
	if err != nil {
		return 1, err
	}
	set, trace, warnings, err := settings.Resolve(assignments, around)
	warn(set, append(append(r.req.Warnings, unread...), warnings...), err)
	if err != nil {
		return 1, err
	}
	if err := r.complete(&set, &c, trace); err != nil {
		return 1, err
	}
	planning := r.req.Action == cli.Plan
	if r.told.Has("detach") && background == "" && !planning {
		return r.detach(name)
	}
	if unseen != nil && !planning {
		return 1, &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", name, unseen)}
	}
	set.Image.Stack.Base, set.Image.Stack.Passing = r.store.Path, passing
	set.Image.Stack.Upper, set.Image.Stack.Work = path.Join(base, "upper"), path.Join(base, "work")
	layers, started := r.image.All(), false
	if !planning {
		if nameless != "" {
			// What was killed can't be found by a name that it shares with this one.
			if err := tidy(settings.CopiesOf(nameless), r.store); err != nil {
				return 1, err
			}
		}
		if r.machine, err = r.store.Machine(name, r.image, passing); err != nil {
			e := &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", name, err)}
			switch {
			case errors.Is(err, store.ErrBusy):
				e.Hint = "give this one another name with --name=, or end the other"
			case errors.Is(err, store.ErrKept):
				e.Hint = "leave out --rm to go on with it; launch rmi --machine=" + name + " removes it"
			}
			return 1, e
		}
		defer func() {
			if !passing && (started || !r.machine.New) {
				r.machine.Release()
			} else if rerr := r.machine.Remove(); rerr != nil {
				// Its status counts all the same.
				cli.Report(os.Stderr, &settings.Error{What: fmt.Sprintf("machine %q has ended, but something of it is left on the host: undo: %v", name, rerr), Hint: "launch --cleanup tries again"})
			}
		}()
		if began := r.machine.Image; began.Name != r.image.Name {
			return 1, &settings.Error{What: fmt.Sprintf("machine %q is there already, and is one of %s", name, began.Name), Hint: "launch rmi --machine=" + name + " removes it"}
		} else if began.Digest != r.image.Digest {
			cli.Warn(os.Stderr, settings.Warning{What: fmt.Sprintf("machine %q is there already, and goes on with the image that it began with, %s", name, began.Digest)})
		}
		layers = r.machine.Image.All()
		if err := r.files(&set, name); err != nil {
			return 1, err
		}
	}
	for _, d := range layers {
		set.Image.Stack.Layers = append(set.Image.Stack.Layers, r.store.TreePath(d))
	}
	id, err := probe.NewID()
	if err != nil {
		return 1, err
	}
	boot, err := probe.NewID()
	if err != nil {
		return 1, err
	}
	if set.SELinux != (settings.SELinux{}) {
		host.SELinux = probe.SELinux()
	}
	devices, err := probe.Devices(set.Mounts)
	if err != nil && !planning {
		return 1, err
	}
	p, err := plan.Compile(plan.Input{
		Settings: set, Facts: facts.Facts{Host: host, Devices: devices}, Profile: settings.ProfileOf(set.Profile, settings.Strict), From: trace.Origin, ID: id, BootID: boot, Suffix: suffix,
	})
	if err != nil {
		return 1, err
	}
	if planning {
		if err := show(os.Stdout, p, r.req.PlanFormat); err != nil {
			return 1, fmt.Errorf("print the plan: %w", err)
		}
		return 0, nil
	}
	o := engine.Options{Pin: -1, Notify: plan.Getenv(r.env, "NOTIFY_SOCKET"), Started: func(int) { started = true }}
	if background != "" {
		if err := r.output(base); err != nil {
			return 1, &settings.Error{What: fmt.Sprintf("cannot start machine %q in the background: %v", name, err)}
		}
		o.Started = func(int) {
			started = true
			os.Stderr.Close()
			os.Stderr = os.NewFile(2, "/dev/stderr") // from now on, the log
			ready := os.NewFile(readyFd, "ready")
			ready.WriteString("\n")
			ready.Close()
		}
	}
	return run(p, o), nil
}

// bury removes what killed launchers of machines that were not to be kept have
// left in the store, if there is one.
func bury(is func(name string) bool) ([]string, error) {
	dir, err := store.Where(os.Getenv, os.Geteuid() == 0)
	if err != nil {
		return nil, nil // then nobody has ever kept anything there
	}
	s, err := store.Look(dir)
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Bury(is, true)
}

// A launcher in the background is a process of its own: it is told the name of
// its machine by this variable, and says on this descriptor that the payload
// runs.
const (
	detached = "LAUNCH_DETACHED"
	readyFd  = 3
)

// logFile is where the output of a machine in the background goes, beside what
// it has changed.
const logFile = "log"

// detach starts a launcher in the background, and waits until its machine runs.
func (r *imageRun) detach(name string) (int, error) {
	fail := func(err error) (int, error) {
		return 1, &settings.Error{What: fmt.Sprintf("cannot start machine %q in the background: %v", name, err)}
	}
	self, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	// What else the caller has open would be held for as long as the machine runs: a
	// lock, the end of a pipe.
	if err := sys.CloseOnExec(3); err != nil {
		return fail(err)
	}
	var p *os.Process
	err = sys.Elsewhere(func(l sys.Locked) (err error) {
		sys.Settle(l)
		p, err = os.StartProcess(self, append([]string{"launch", "run"}, r.args...), &os.ProcAttr{
			Env: append(r.env, detached+"="+name), Files: []*os.File{null, null, os.Stderr, theirs}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return err
	})
	if err != nil {
		return fail(err)
	}
	theirs.Close()
	if n, _ := ours.Read(make([]byte, 1)); n == 1 {
		fmt.Println(name)
		return 0, nil
	}
	// It has said why, or what it ran has ended already.
	state, err := p.Wait()
	if err != nil {
		return fail(err)
	}
	return state.ExitCode(), nil
}

// output makes the machine's log the launcher's output, which the payload gets.
// What the launcher itself has to say goes where it did, until the payload runs.
func (r *imageRun) output(dir string) error {
	n, err := sys.Openat(unix.AT_FDCWD, path.Join(dir, logFile), unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	said, err := sys.Dup(2)
	if err != nil {
		return err
	}
	os.Stderr = os.NewFile(uintptr(said), "/dev/stderr")
	if err := sys.Dup3(n, 1, 0); err != nil {
		return err
	}
	return sys.Dup3(n, 2, 0)
}

// complete adds what the image says, and what the profile has, wherever nobody
// said anything.
func (r *imageRun) complete(s *settings.Settings, c *imageConfig, trace settings.Trace) error {
	silent := func(option string) bool { return trace.Origin(option) == (origin.Origin{}) }
	bad := func(what string) error {
		return &settings.Error{What: fmt.Sprintf("cannot run %s: %s", r.image.Name, what)}
	}
	for _, text := range append(append(append([]string{c.Config.WorkingDir, c.Config.User}, c.Config.Entrypoint...), c.Config.Cmd...), c.Config.Env...) {
		if strings.IndexByte(text, 0) >= 0 {
			return bad("its configuration has a NUL byte")
		}
	}
	entry, words := c.Config.Entrypoint, c.Config.Cmd
	if r.told.Has("entrypoint") {
		entry, words = []string{r.told.Get("entrypoint")}, nil
	}
	if len(r.req.Words) > 1 {
		words = r.req.Words[1:]
	}
	if s.Exec.Words = append(append([]string{}, entry...), words...); len(s.Exec.Words) == 0 || s.Exec.Words[0] == "" {
		return &settings.Error{What: fmt.Sprintf("cannot run %s: it has no command", r.image.Name), Hint: "give one behind the image's name"}
	}
	var env []string
	for _, e := range c.Config.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return bad(fmt.Sprintf("its environment has %q, which is no assignment", e))
		}
		env = append(env, e)
	}
	s.Exec.Env = append(env, s.Exec.Env...)
	if silent("uid") && c.Config.User != "" {
		s.Exec.User, s.Exec.Group, _ = strings.Cut(c.Config.User, ":")
		for _, name := range []string{s.Exec.User, s.Exec.Group} {
			if name == "" {
				continue
			}
			if err := userns.CheckUser(name); err != nil {
				return bad(fmt.Sprintf("its user %q is none: %v", c.Config.User, err))
			}
		}
	}
	if silent("chdir") {
		s.Exec.Dir = "/"
		if c.Config.WorkingDir != "" {
			s.Exec.Dir = path.Join("/", c.Config.WorkingDir)
		}
	}
	if silent("kill-signal") {
		s.Exec.KillSignal = int(unix.SIGTERM)
		if text := c.Config.StopSignal; text != "" {
			n, err := settings.ParseSignal(text)
			if err != nil {
				return bad(fmt.Sprintf("its stop signal is none: %v", err))
			}
			s.Exec.KillSignal = n
		}
	}
	s.Image.Stack = &settings.Stack{}
	for v := range c.Config.Volumes {
		v = path.Join("/", v)
		if v != "/" {
			s.Image.Stack.Volumes = append(s.Image.Stack.Volumes, v)
		}
	}
	for p := range c.Config.ExposedPorts {
		s.Image.Stack.Ports = append(s.Image.Stack.Ports, p)
	}
	slices.Sort(s.Image.Stack.Volumes)
	slices.Sort(s.Image.Stack.Ports)
	if s.Users.Mode == userns.Owner {
		// The files of an image belong to no range.
		s.Users.Mode = userns.Pick
	}
	if s.Users.Ownership == "" {
		s.Users.Ownership = userns.MapIt
	}
	if silent("no-new-privileges") {
		s.Exec.NoNewPrivileges = true
	}
	if silent("console") {
		s.Life.Console = settings.ConsoleAutopipe
	}
	s.Host.LinkJournal = "no"
	if s.Users.Ownership == userns.Chown {
		return &settings.Error{What: "cannot change the owners of an image's files: others share them", Origin: trace.Origin("private-users-ownership"), Value: "chown",
			Hint: "leave it out: they are mapped"}
	}
	return nil
}

// files writes what a machine finds as its hosts, host name and resolver, and
// has them take the place of the image's.
func (r *imageRun) files(s *settings.Settings, name string) error {
	hostname := s.Exec.Hostname
	if hostname == "" {
		hostname = name
	}
	hosts := "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + hostname + "\n"
	list := [][2]string{{"hosts", hosts}, {"hostname", hostname + "\n"}}
	if s.Network.Private && s.Host.ResolvConf == "" {
		// The host's name servers are not in reach, and those of whoever made
		// the image are nobody's business.
		list = append(list, [2]string{"resolv.conf", "# This machine has no network.\n"})
	}
	for _, f := range list {
		at, err := r.machine.Put(f[0], f[1])
		if err != nil {
			return &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", name, err)}
		}
		s.Image.Stack.Files = append(s.Image.Stack.Files, settings.File{Source: at, Target: "/etc/" + f[0]})
	}
	return nil
}
