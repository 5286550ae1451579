package main

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/engine"
	"launch/internal/facts"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/probe"
	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/settings"
)

// besideBundle are the options that mean something on top of what a bundle
// says.
var besideBundle = [...]string{
	"oci-bundle", "machine", "hostname", "setenv", "chdir", "read-only", "no-new-privileges", "bind", "bind-ro", "tmpfs",
	"join", "profile", "overlay-all", "kill-signal", "console", "register", "keep-unit", "quiet", "settings", "words",
}

// bundleOf gives the assignment that names a bundle.
func bundleOf(req cli.Request) (settings.Assignment, bool) {
	for i := len(req.Assignments) - 1; i >= 0; i-- {
		if a := req.Assignments[i]; a.Option.Name == "oci-bundle" {
			return a, true
		}
	}
	return settings.Assignment{}, false
}

// startBundle makes a plan of a bundle, and prints or runs it.
func startBundle(req cli.Request, from settings.Assignment, env []string) int {
	sys.Calm()
	fail := func(err error) int {
		cli.Report(os.Stderr, err)
		return 1
	}
	dir := from.Value.(string)
	text, err := sys.ReadRegular(unix.AT_FDCWD, path.Join(dir, bundle.File), bundle.Limit)
	if err != nil {
		return fail(&settings.Error{What: fmt.Sprintf("cannot read %s: %v", path.Join(dir, bundle.File), err), Origin: from.Origin, Value: from.Text,
			Hint: "give the directory that holds a config.json"})
	}
	s, warnings, err := bundle.Read(dir, string(text))
	if err != nil {
		return fail(err)
	}
	s.Machine = settings.DeriveName(path.Base(dir))
	command := false
	for _, a := range req.Assignments {
		allowed := false
		for _, name := range besideBundle {
			allowed = allowed || a.Option.Name == name
		}
		if !allowed {
			return fail(&settings.Error{What: "cannot use this option together with --oci-bundle=: the bundle says that", Origin: a.Origin, Value: a.Text,
				Hint: "change config.json, or leave the option out"})
		}
		if a.Option.Name == "words" && !command {
			// The command line's takes the place of the bundle's.
			s.Exec.Words, command = nil, true
		}
		if a.Option.Set != nil {
			a.Option.Set(&s, a)
		}
	}
	if err := settings.CheckName(s.Machine); err != nil {
		return fail(&settings.Error{What: fmt.Sprintf("cannot make a machine name of %q", path.Base(dir)), Origin: from.Origin, Value: from.Text,
			Hint: "give a name as --machine=NAME"})
	}
	switch s.Life.Console {
	case settings.ConsoleDefault:
	case settings.ConsolePipe:
		s.Exec.Process.Terminal = false
	default:
		s.Exec.Process.Terminal = true
	}
	if !s.Life.Quiet {
		for _, w := range append(req.Warnings, warnings...) {
			cli.Warn(os.Stderr, w)
		}
	}
	host, err := probe.Host(env)
	planning := req.Action == cli.Plan
	switch {
	case planning:
	case !host.Root:
		return fail(&settings.Error{What: "cannot start a machine as this user", Hint: "run launch as root; --plan needs no root"})
	case err != nil:
		return fail(&settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.Machine, err)})
	}
	said := func(option string) (o origin.Origin) {
		for _, a := range req.Assignments {
			if a.Option.Name == option {
				o = a.Origin
			}
		}
		return o
	}
	var still func() error
	if s.Join != "" {
		if still, err = join(&s, said("join")); err != nil {
			return fail(err)
		}
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Kind == "user" && n.Path != "" && !planning {
			if s.Bundle.UIDs, s.Bundle.GIDs, err = engine.MapsOf(n.Path, n.Origin); err != nil {
				return fail(&settings.Error{What: err.Error(), Origin: n.Origin, Value: n.Path})
			}
		}
	}
	p, err := plan.Compile(plan.Input{Settings: s, Facts: facts.Facts{Host: host}, Profile: settings.ProfileOf(s.Profile, settings.OCI), From: said})
	if err != nil {
		return fail(err)
	}
	if p.Bare && !planning {
		return fail(&settings.Error{What: "cannot run a bundle whose mounts would be the host's: it has no mount namespace", Origin: from.Origin, Value: from.Text,
			Hint: `add {"type": "mount"} to the namespaces, or use launch-oci`})
	}
	if planning {
		if err := show(os.Stdout, p, req.PlanFormat); err != nil {
			return fail(fmt.Errorf("print the plan: %w", err))
		}
		return 0
	}
	pin, err := sys.Openat(unix.AT_FDCWD, s.Image.Directory, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		e := &settings.Error{What: fmt.Sprintf("cannot open the root %s: %v", s.Image.Directory, err), Origin: from.Origin, Value: from.Text}
		if errors.Is(err, unix.ENOENT) {
			e.Hint = "the bundle's config.json names it as root.path"
		}
		return fail(e)
	}
	state := bundle.State{Version: bundle.Version, ID: s.Machine, Bundle: dir, Rootfs: s.Image.Directory, Annotations: s.Bundle.Annotations}
	return run(p, engine.Options{Pin: pin, Opened: still, Notify: plan.Getenv(env, "NOTIFY_SOCKET"), State: func(status string, pid int) []byte {
		state.Status, state.PID = status, pid
		return state.AppendSpec(nil)
	}})
}
