// Command launch starts a machine: an operating system's tree, or a command in
// one, with its own processes, mounts, users and network.
//
// The order of everything is here: the command line becomes assignments, these
// become Settings; the tree's directory is opened and the facts about it and
// the host are looked up; Settings and facts become a Plan; the plan is printed
// or run.
//
// Room: desk.
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
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/console"
	"launch/internal/disk"
	"launch/internal/engine"
	_ "launch/internal/entry" // where it begins
	"launch/internal/facts"
	"launch/internal/mstack"
	"launch/internal/notify"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/probe"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/mount/hostns"
	mounttree "launch/mount/tree"
	"launch/oci/store"
	"launch/settings"
	"launch/settings/nspawn"
)

func main() {
	if sys.Borrowed() {
		cli.Report(os.Stderr, settings.Borrowed())
		os.Exit(1)
	}
	if path.Base(os.Args[0]) == hostns.Name {
		os.Exit(hostExec(os.Args[1:], os.Environ()))
	}
	os.Exit(launch(os.Args[1:], os.Environ()))
}

// launch does what the command line asks for and gives the exit status.
func launch(args, env []string) int {
	cwd, err := os.Getwd()
	if err != nil {
		cwd = "/"
	}
	// A verb is one only as the very first word: behind an option, or behind
	// --, it is a command to run.
	if len(args) > 0 {
		switch args[0] {
		case "cat":
			return cat(args[1:], env, cwd)
		case "convert":
			return convert(args[1:], env, cwd)
		case "mounts":
			return mounts(args[1:], env)
		case "freeze", "thaw":
			return freeze(args[0], args[1:])
		case "host-exec", hostns.Name:
			return hostExec(args[1:], env)
		case "run":
			return runImage(args[1:], env, cwd)
		case "pull", "images", "rmi":
			return images(args[0], args[1:])
		}
	}
	req, err := cli.Parse(args, env, cwd)
	if err != nil {
		cli.Report(os.Stderr, err)
		return 1
	}
	if asked(req, cli.Usage) {
		return 0
	}
	if req.Action == cli.Cleanup {
		return cleanup(req)
	}
	if from, ok := bundleOf(req); ok {
		return startBundle(req, from, env)
	}
	return start(req, env, cwd)
}

// asked answers what has nothing to do with a machine; it reports false where
// there is one.
func asked(req cli.Request, usage func(io.Writer)) bool {
	switch req.Action {
	case cli.Help:
		usage(os.Stdout)
	case cli.Version:
		cli.PrintVersion(os.Stdout)
	case cli.Values:
		cli.ListValues(os.Stdout, req.Option)
	default:
		return false
	}
	return true
}

// start makes a plan, and prints or runs it.
func start(req cli.Request, env []string, cwd string) int {
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	var thread *engine.Thread
	if req.Action != cli.Plan {
		thread = engine.NewSite()
	}
	host, unseen := probe.Host(env)
	around := settings.Surroundings{
		Place:    settings.Place{Cwd: cwd, Env: env},
		Hostname: host.Hostname,
		Files:    req.Files,
		PID2:     true,
	}
	var err error
	if around.Suffix, err = probe.NewSuffix(); err != nil {
		return fail(err)
	}
	var finder probe.Finder
	finder.Around(&around)
	assignments, unread, err := withFile(req, around)
	if err != nil {
		return fail(err)
	}
	s, trace, warnings, err := settings.Resolve(assignments, around)
	warn(s, append(append(req.Warnings, unread...), warnings...), err)
	if err != nil {
		return fail(err)
	}
	planning := req.Action == cli.Plan
	if !planning && !host.Root {
		return fail(&settings.Error{What: "cannot start a machine as this user", Hint: "run launch as root; --plan needs no root"})
	}
	look := openTree
	var pins probe.Pins
	switch {
	case s.Image.File != "":
		look = openDisk
	case s.Image.MStack != "":
		look = func(s settings.Settings, trace settings.Trace, planning bool, f *facts.Facts) (pin int, err error) {
			pin, pins, err = openStack(s, trace, planning, f)
			return pin, err
		}
	}
	f := facts.Facts{Host: host}
	pin, err := look(s, trace, planning, &f)
	if err != nil {
		return fail(err)
	}
	if unseen != nil && !planning {
		return fail(&settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, unseen)})
	}
	id, err := probe.NewID()
	if err != nil {
		return fail(err)
	}
	if s.Host.LinkJournal != "no" {
		if f.Journal, err = probe.Journal(plan.MachineID(s, f.Root, id), s.Host.LinkJournal != ""); err != nil && !planning {
			return fail(err)
		}
	}
	if s.Host.Forward.To != "" {
		if f.Receiver, err = probe.Receiver(plan.Getenv(env, "PATH")); err != nil && !planning {
			return fail(err)
		}
	}
	if s.Exec.Mode == settings.Boot {
		if f.Watches, err = probe.Watches(); err != nil && !planning {
			return fail(err)
		}
	}
	if s.Network.Linked() {
		if f.Network, err = probe.Network(host.CgroupMount); err != nil && !planning {
			return fail(err)
		}
	}
	if s.SELinux != (settings.SELinux{}) {
		f.Host.SELinux = probe.SELinux()
	}
	if f.Devices, err = probe.Devices(s.Mounts); err != nil && !planning {
		return fail(err)
	}
	if err := people(&f, s, host.Hostname); err != nil && !planning {
		return fail(err)
	}
	boot, err := probe.NewID()
	if err != nil {
		return fail(err)
	}
	p, err := plan.Compile(plan.Input{
		Settings: s, Facts: f, Profile: settings.ProfileOf(s.Profile, settings.NSpawn), From: trace.Origin, ID: id, BootID: boot, Suffix: around.Suffix,
	})
	if err != nil {
		return fail(err)
	}
	if planning {
		if err := show(os.Stdout, p, req.PlanFormat); err != nil {
			return fail(fmt.Errorf("print the plan: %w", err))
		}
		return 0
	}
	if name, copied := strings.CutSuffix(s.Machine, "-"+around.Suffix); copied {
		// What was killed can't be found by a name that it shares with this one.
		if err := tidy(name, nil); err != nil {
			return fail(err)
		}
	}
	var saved *mounttree.File
	if file := s.Image.Mounts; file != "" {
		if saved, err = readMounts(file); err != nil {
			return fail(&settings.Error{What: err.Error(), Origin: trace.Origin("mounts"), Value: file})
		}
	}
	return run(p, engine.Options{Pin: pin, Pins: pins, Mounts: saved, Thread: thread, Shift: f.Root.UID &^ 0xffff, Notify: plan.Getenv(env, "NOTIFY_SOCKET"),
		Watchdog: notify.Watchdog(plan.Getenv(env, "WATCHDOG_USEC"), plan.Getenv(env, "WATCHDOG_PID"), os.Getpid())})
}

// warn tells of what is ignored or old-fashioned. What a file says in vain is told
// with --quiet, too: who starts machines as services reads of it nowhere else.
func warn(s settings.Settings, list []settings.Warning, err error) {
	for _, w := range list {
		if !s.Life.Quiet || err != nil || w.Origin.Source == origin.File && !s.Life.ErrorsOnly {
			cli.Warn(os.Stderr, w)
		}
	}
}

// openTree pins the directory that the machine runs from, and looks at it.
func openTree(s settings.Settings, trace settings.Trace, planning bool, f *facts.Facts) (int, error) {
	pin, parent, missing, err := probe.OpenTree(s.Image.Directory, s.Image.Template)
	switch {
	case err != nil && missing:
		return -1, &settings.Error{What: err.Error(), Origin: trace.Origin("template"), Value: s.Image.Template,
			Hint: "the directory is missing: give a tree that it can be a copy of, and a place for it that is there"}
	case err != nil:
		e := &settings.Error{What: err.Error(), Origin: trace.Origin("directory"), Value: s.Image.Directory, Hint: "give the directory of an operating system's tree"}
		if errors.Is(err, unix.ENOENT) {
			e.Hint += "; --template= makes one that is missing"
		}
		if errors.Is(err, unix.ENOTDIR) {
			e.Hint += ", or a disk image as --image=PATH"
		}
		if errors.Is(err, probe.ErrLeadsNowhere) {
			e.Hint = "remove the link, or give what it leads to as --directory="
		}
		return -1, e
	case s.Image.Template != "" && !missing && !s.Life.Quiet:
		cli.Warn(os.Stderr, settings.Warning{
			What:   s.Image.Directory + " is there already: it is used as it is, not as a copy of the template",
			Origin: trace.Origin("template"), Value: s.Image.Template,
		})
	}
	f.Root, err = probe.Root(pin, s.Image.Pivot.New)
	if err != nil && !planning {
		return -1, unusable(s, trace, f.Root, err)
	}
	if err := taken(f, s, pin); err != nil && !planning {
		return -1, err
	}
	f.Root.Missing, f.Root.Parent = missing, parent
	return pin, nil
}

// unusable is the error about a tree that can't be looked at.
func unusable(s settings.Settings, trace settings.Trace, root facts.Root, err error) *settings.Error {
	e := &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, err)}
	if s.Image.Pivot.New != "" && !root.Known {
		e.Origin, e.Value = trace.Origin("pivot-root"), s.Image.Pivot.String()
		e.Hint = "give a directory of the tree, and one of its own for the old root"
	}
	return e
}

// openDisk pins the disk image that the machine runs from, and looks at what is
// on it. Where only a plan is asked for, it may have to stay unknown.
func openDisk(s settings.Settings, trace settings.Trace, planning bool, f *facts.Facts) (int, error) {
	file := s.Image.File
	pin, d, err := probe.Disk(file, !planning && !s.Image.Ephemeral && !s.Image.Frozen(), policyOf(s))
	if err != nil {
		e := &settings.Error{What: err.Error(), Origin: trace.Origin("image"), Value: file}
		var locked *disk.LockedError
		var verity *disk.VerityError
		var forbidden *disk.PolicyError
		switch {
		case errors.As(err, &verity):
			e.Hint = fmt.Sprintf("systemd-nspawn can; --image-policy=%s=unprotected runs it unchecked", verity.Use)
		case errors.As(err, &locked):
			e.Hint = "systemd-nspawn can, or decrypt the image beforehand"
		case errors.As(err, &forbidden) && s.Image.Policy != "":
			e.Origin, e.Value = trace.Origin("image-policy"), s.Image.Policy
		case errors.Is(err, disk.ErrNoRoot), errors.Is(err, disk.ErrNothing), errors.Is(err, disk.ErrRoots):
			e.Hint = "give a file system, or a disk that follows the Discoverable Partitions Specification or has a single Linux partition"
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EISDIR):
			e.Hint = "give a disk image; a directory is given as --directory=PATH"
		}
		return -1, e
	}
	f.Disk = d
	users := func(top int) error { return taken(f, s, top) }
	if f.Root, err = probe.DiskTree(pin, file, &f.Disk, s.Image.Pivot.New, users); err != nil && !planning {
		var bad *settings.Error
		if errors.As(err, &bad) {
			return -1, bad
		}
		if errors.Is(err, tree.ErrBusy) {
			return -1, busy(s, err, trace.Origin("image"), file)
		}
		if errors.Is(err, unix.EBUSY) && f.Disk.Block {
			return -1, &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, err), Origin: trace.Origin("image"), Value: file,
				Hint: "it is mounted, or somebody else has it: end that first"}
		}
		return -1, unusable(s, trace, f.Root, fmt.Errorf("look at the image %s: %w", file, err))
	}
	return pin, nil
}

// policyOf gives the image policy, which was read once already.
func policyOf(s settings.Settings) (policy disk.Policy) {
	if s.Image.Policy != "" {
		policy, _ = disk.ParsePolicy(s.Image.Policy)
	}
	return policy
}

// busy is the error about an image or a stack that somebody has: the machine of that
// name, most likely, if it runs.
func busy(s settings.Settings, err error, from origin.Origin, value string) *settings.Error {
	if _, lerr := state.Leader(s.Machine); lerr == nil {
		return &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, state.ErrBusy), Hint: nameHint}
	}
	return &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, err), Origin: from, Value: value, Hint: busyHint}
}

// openStack pins the mount stack that the machine runs from, and all that is in
// it, and looks at the tree that it gives.
func openStack(s settings.Settings, trace settings.Trace, planning bool, f *facts.Facts) (int, probe.Pins, error) {
	dir, img := s.Image.MStack, s.Image
	say := func(err error) *settings.Error {
		e := &settings.Error{What: fmt.Sprintf("cannot use %s as a mount stack: %v", dir, err), Origin: trace.Origin("mstack"), Value: dir}
		var bad *mstack.Error
		var image *probe.DiskError
		switch {
		case errors.As(err, &bad):
			e.Hint = bad.Hint
		case errors.As(err, &image):
			e.Hint = "give a disk image with one root, or with a file system and nothing else"
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
			e.Hint = "give a directory with entries such as layer@1 and rw"
		case errors.Is(err, tree.ErrBusy):
			return busy(s, err, trace.Origin("mstack"), dir)
		}
		return e
	}
	pin, st, pins, err := probe.Stack(dir, !planning && !img.Frozen(), policyOf(s))
	if err != nil {
		return -1, nil, say(err)
	}
	f.Stack = st
	users := func(top int) error { return taken(f, s, top) }
	if f.Root, err = probe.StackTree(pin, &f.Stack, pins, img.Frozen(), img.Pivot.New, users); err != nil && !planning {
		var bad *settings.Error
		var wrong *mstack.Error
		switch {
		case errors.As(err, &bad):
			return -1, nil, bad
		case errors.As(err, &wrong), errors.Is(err, tree.ErrBusy):
			return -1, nil, say(err)
		case img.Pivot.New != "" && !f.Root.Known:
			return -1, nil, unusable(s, trace, f.Root, err)
		}
		e := unusable(s, trace, f.Root, fmt.Errorf("look at the stack %s: %w", dir, err))
		e.Origin, e.Value = trace.Origin("mstack"), dir
		e.Hint = "launch --plan shows what it would be made of"
		return -1, nil, e
	}
	return pin, pins, nil
}

// people looks up the users of the host's that the machine is to have.
func people(f *facts.Facts, s settings.Settings, hostname string) (failed error) {
	for _, u := range s.Bound.Users {
		b, err := probe.Bound(u.Name, hostname)
		if err != nil && failed == nil {
			failed = &settings.Error{What: fmt.Sprintf("cannot bind the user %s: %v", u.Name, err), Origin: u.Origin, Value: u.Name,
				Hint: "userdbctl user " + u.Name + " tells what systemd makes of it"}
		}
		f.Bound = append(f.Bound, b)
	}
	return failed
}

// taken looks what of their names and ids the tree has already. A machine that has
// only the tree's /usr has none of its users.
func taken(f *facts.Facts, s settings.Settings, top int) (err error) {
	if len(s.Bound.Users) == 0 || s.Image.Volatile == settings.VolatileYes {
		return nil
	}
	var names []string
	for _, u := range s.Bound.Users {
		names = append(names, u.Name)
	}
	if f.Taken, err = probe.Taken(top, s.Image.Pivot.New, names); err != nil {
		return &settings.Error{What: fmt.Sprintf("cannot bind users of the host: %v", err), Origin: s.Bound.Users[0].Origin, Value: names[0],
			Hint: "nobody can tell whether the machine has such a user: repair the tree, or leave it out"}
	}
	return nil
}

// withFile adds what the environment says, and the machine's settings file, if
// there is one and it is to be read.
func withFile(req cli.Request, around settings.Surroundings) ([]settings.Assignment, []settings.Warning, error) {
	said, err := settings.FromEnvironment(around.Place)
	if err != nil {
		return nil, nil, err
	}
	said = append(said, req.Assignments...)
	if req.Files == settings.FileNo {
		return said, nil, nil
	}
	machine, at, err := settings.Locate(req.Assignments, around)
	if err != nil {
		return nil, nil, err
	}
	file, warnings, err := nspawn.Load(nspawn.Candidates(machine, at.Path), around.Place, probe.SettingsFile)
	return append(said, file...), warnings, err
}

func show(w io.Writer, p *plan.Plan, format string) error {
	if format == "json" {
		return writeJSON(w, p)
	}
	var b strings.Builder
	if err := p.Print(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, cli.PrintableLines(b.String()))
	return err
}

// writeJSON writes a listing for programs.
func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// run starts the machine and stays with it.
func run(p *plan.Plan, o engine.Options) int {
	say := func(text string) {
		if !p.Quiet {
			// The terminal may be raw meanwhile.
			fmt.Fprintf(os.Stderr, "%s: %s\r\n", cli.Name, cli.Printable(text))
		}
	}
	for _, n := range p.Notes {
		say(n)
	}
	if p.Console == settings.ConsoleInteractive && !p.Quiet {
		fmt.Fprintf(os.Stderr, "%s: machine %s from %s; press ^] three times within a second to end it\n",
			cli.Name, console.Printable(p.Machine), console.Printable(p.Directory))
	}
	o.Warn = say
	if p.Source != "" && !p.Quiet && probe.Terminal(2) {
		o.Copying = progress(p)
	}
	status, err := engine.Run(p, o)
	if err != nil {
		cli.Report(os.Stderr, explain(p, err))
	}
	return status
}

// progress tells on the terminal how far a copy is, on a line that goes away.
func progress(p *plan.Plan) func(r tree.Report, over bool) {
	begun := time.Now()
	told, shown := begun, false
	return func(r tree.Report, over bool) {
		now := time.Now()
		switch {
		case over && shown:
			fmt.Fprint(os.Stderr, "\r\x1b[K")
		case !over && now.Sub(told) > 100*time.Millisecond && now.Sub(begun) > 500*time.Millisecond:
			told, shown = now, true
			fmt.Fprintf(os.Stderr, "\r%s: copying %s: %d files, %d MiB\x1b[K", cli.Name, console.Printable(p.Source), r.Inodes, (r.Bytes+r.Shared)>>20)
		}
	}
}

// explain makes one sentence of what went wrong, and adds what may help.
func explain(p *plan.Plan, err error) error {
	var bad *settings.Error
	if errors.As(err, &bad) {
		return err
	}
	e := &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", p.Machine, err)}
	var step *engine.StepError
	var ended *engine.Ended
	var left *engine.LeftError
	var lost *console.OutputError
	var journal *engine.JournalError
	switch {
	case errors.As(err, &step):
		e.Origin = step.Origin
	case errors.As(err, &left):
		e.What = fmt.Sprintf("machine %q has ended, but something of it is left on the host: %v", p.Machine, err)
		e.Hint = "launch --cleanup tries again"
		return e
	case errors.As(err, &ended), errors.As(err, &lost), errors.As(err, &journal):
		e.What = fmt.Sprintf("machine %q: %v", p.Machine, err)
	}
	e.Hint = hint(p, err)
	return e
}

// cleanup undoes what launchers that are gone have left behind.
func cleanup(req cli.Request) int {
	named, placed := "", false
	for _, a := range req.Assignments {
		if on, _ := a.Value.(bool); on && a.Option.Name == "ephemeral" {
			cli.Report(os.Stderr, &settings.Error{
				What:   "cannot clean up after a copy that nobody has made yet",
				Origin: a.Origin, Value: a.Text,
				Hint: "leave out --ephemeral: --cleanup with --directory= finds the copies of that tree, too",
			})
			return 1
		}
		switch a.Option.Name {
		case "machine":
			named = a.Value.(string)
		case "directory", "image", "mstack":
			placed = true
		}
	}
	name := named
	if name == "" && placed {
		// Nothing else of the host decides what the machine of a tree is called.
		around := settings.Surroundings{Hostname: probe.Hostname()}
		var finder probe.Finder
		finder.Around(&around)
		var err error
		if name, _, err = settings.Locate(req.Assignments, around); err != nil {
			cli.Report(os.Stderr, err)
			return 1
		}
	}
	copies := settings.CopiesOf(name)
	is := func(found string) bool { return name == "" || found == name || settings.IsCopy(found, copies) }
	cleaned, err := state.Cleanup(name)
	if name != "" {
		more, cerr := state.CleanupCopies(copies)
		cleaned, err = append(cleaned, more...), errors.Join(err, cerr)
	}
	// Then what of machines from images nobody needs any more.
	more, serr := bury(is)
	if err := swept(append(cleaned, more...), errors.Join(err, serr)); err != nil {
		cli.Report(os.Stderr, &settings.Error{What: "cannot clean up: " + err.Error()})
		return 1
	}
	return 0
}

// swept tells what was cleaned up.
func swept(cleaned []string, err error) error {
	for n, m := range cleaned {
		if slices.Contains(cleaned[:n], m) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s: cleaned up after machine %s\n", cli.Name, console.Printable(m))
	}
	return err
}

// tidy undoes what killed launchers of throw-away machines of that name have
// left behind, also in the store of images, if it is given.
func tidy(name string, s *store.Store) error {
	cleaned, err := state.CleanupCopies(name)
	if s != nil {
		more, serr := s.Bury(func(found string) bool { return settings.IsCopy(found, name) }, false)
		cleaned, err = append(cleaned, more...), errors.Join(err, serr)
	}
	if err := swept(cleaned, err); err != nil {
		return &settings.Error{What: "cannot clean up: " + err.Error(), Hint: "see what launch --cleanup says"}
	}
	return nil
}
