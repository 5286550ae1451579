// Command launch-oci makes and runs containers from OCI bundles, with runc's
// command line.
//
// Room: desk.
package main

import (
	"errors"
	"fmt"
	"os"
	"path"

	"strings"

	"golang.org/x/sys/unix"

	_ "launch/internal/early" // its init makes a huge page
	_ "launch/internal/entry" // where it begins
	"launch/internal/sys"
	"launch/oci/container"
	"launch/settings"
)

var globals = []option{
	{names: "root", arg: "DIR", help: "where containers are kept"},
	{names: "log", arg: "FILE", help: "where messages go"},
	{names: "log-format", arg: "text|json", help: "how messages are written"},
	{names: "debug", help: "tell more"},
	{names: "log-level", arg: "error|warning|debug", help: "how much is told"},
	{names: "systemd-cgroup", help: "let systemd make the cgroups"},
	{names: "cgroup-manager", arg: "cgroupfs|systemd|disabled", help: "who makes the cgroups"},
	{names: "rootless", arg: "true|false|auto", help: "do without what only root may do"},
	{names: "criu", arg: "PATH", help: "the program CRIU"},
	{names: "help h", help: "show this"},
	{names: "version v V", help: "show the version"},
}

var helpOption = option{names: "help h", help: "show this"}

func verbs() []*verb {
	return []*verb{
		createVerb, startVerb, runVerb, execVerb, stateVerb, listVerb, killVerb, deleteVerb, pauseVerb, resumeVerb,
		psVerb, updateVerb, eventsVerb, specVerb, featuresVerb, checkpointVerb, restoreVerb,
	}
}

const version, commit, specVersion = "1.0.0", "none", "1.3.0"

// out is where messages go.
var out = &log{fd: -1}

func main() {
	if sys.Borrowed() {
		out.fail(settings.Borrowed())
		os.Exit(1)
	}
	sys.Calm()
	os.Exit(launchOCI(os.Args))
}

func launchOCI(args []string) int {
	name := path.Base(args[0])
	values, rest, err := parse(globals, args[1:])
	g := &call{values: values}
	if err != nil {
		fmt.Fprintf(os.Stderr, "Incorrect Usage: %v\n\n", err)
		usage(os.Stdout, name)
		out.fail(err)
		return 1
	}
	switch {
	case g.on("version"):
		return say(fmt.Appendf(nil, "%s version %s\ncommit: %s\nspec: %s\n", asRunc(name), version, commit, specVersion))
	case g.on("help"):
		usage(os.Stdout, name)
		return 0
	}
	switch f := g.text("log-format"); f {
	case "", "text":
	case "json":
		out.json = true
	default:
		out.fail(fmt.Errorf("invalid log-format: %s", f))
		return 1
	}
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		rest = []string{"help"}
	}
	out.debugging = g.on("debug")
	switch f := g.text("log-level"); f {
	case "", "error", "warning":
	case "debug":
		out.debugging = true
	default:
		out.fail(fmt.Errorf("invalid log-level: %s", f))
		return 1
	}
	switch f := g.text("cgroup-manager"); f {
	case "", "cgroupfs", "systemd", "disabled":
	default:
		out.fail(fmt.Errorf("invalid cgroup-manager: %s", f))
		return 1
	}
	if err := out.open(strings.TrimPrefix(g.text("log"), "file:")); err != nil {
		out.fail(err)
		return 1
	}
	help := rest[0] == "help" || rest[0] == "h"
	if help {
		rest = rest[1:]
	}
	if len(rest) == 0 || rest[0] == "" {
		usage(os.Stdout, name)
		return 0
	}
	for _, v := range verbs() {
		switch {
		case v.name != rest[0]:
		case help:
			v.usage(os.Stdout, name)
			return 0
		default:
			out.debug("%s", strings.Join(args, " "))
			return v.call(name, g, rest[1:])
		}
	}
	//lint:ignore ST1005 runc's words
	out.fail(fmt.Errorf("No help topic for '%s'", rest[0]))
	return 3
}

func (v *verb) call(name string, g *call, args []string) int {
	options := v.all(helpOption)
	values, words, err := parse(options, args)
	switch {
	case err != nil:
	case !v.rest:
		words, err = late(options, words, values)
	case len(words) > 0 && words[0] == "--":
		words = words[1:]
	}
	c := &call{global: g, verb: v, values: values, words: words}
	switch {
	case err != nil:
		fmt.Fprintf(os.Stderr, "Incorrect Usage: %v\n\n", err)
		v.usage(os.Stdout, name)
		return c.fail(err)
	case c.on("help"):
		v.usage(os.Stdout, name)
		return 0
	case len(words) < v.least || v.most >= 0 && len(words) > v.most && !v.rest:
		var err error
		switch {
		case len(words) < v.least && v.least == v.most:
			err = fmt.Errorf("%q requires exactly %d argument(s)", v.name, v.least)
		case len(words) < v.least:
			err = fmt.Errorf("%q requires a minimum of %d argument(s)", v.name, v.least)
		case v.least < v.most:
			err = fmt.Errorf("%q requires a maximum of %d argument(s)", v.name, v.most)
		default:
			err = fmt.Errorf("%q requires exactly %d argument(s)", v.name, v.most)
		}
		fmt.Fprintf(os.Stderr, "Incorrect Usage.\n\n")
		v.usage(os.Stdout, name)
		return c.fail(err)
	}
	if v.users != nil && os.Geteuid() != 0 {
		return c.again()
	}
	return v.run(c)
}

// again lets a user without root's rights go on as root of users of his own.
func (c *call) again() int {
	fail := func(err error) int {
		out.fail(err)
		if c.verb == execVerb {
			return execFailed
		}
		return 1
	}
	u, err := c.verb.users(c)
	if errors.Is(err, container.ErrNotRunning) {
		return c.verb.run(c) // which says it in its own words
	}
	if err != nil {
		return fail(err)
	}
	if err := carry(); err != nil {
		return fail(fmt.Errorf("keep what was read: %w", err))
	}
	caught, err := sys.Catch(passed()...)
	if err != nil {
		return fail(fmt.Errorf("catch signals: %w", err))
	}
	status, err := u.Again(caught)
	if err != nil {
		return fail(err)
	}
	return status
}

// fail tells an error and gives the exit status for it.
func (c *call) fail(err error) int {
	out.fail(err)
	return 1
}

// root is where containers are kept.
func (c *call) root() string {
	if r := c.global.text("root"); r != "" {
		if !path.IsAbs(r) {
			if wd, err := os.Getwd(); err == nil {
				r = path.Join(wd, r)
			}
		}
		return path.Clean(r)
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && !hostRoot() {
		return path.Join(dir, "launch-oci")
	}
	return "/run/launch-oci"
}

// hostRoot reports whether who called is root, as far as he can tell.
func hostRoot() bool {
	_, rootless := container.RootlessCaller()
	return os.Geteuid() == 0 && !rootless
}

// systemd reports whether systemd is to make the cgroups.
func (c *call) systemd() bool {
	return c.global.on("systemd-cgroup") || c.global.text("cgroup-manager") == "systemd"
}

// open opens the container that the first word names.
func (c *call) open() (*container.Dir, error) { return container.Open(c.root(), c.words[0]) }

// rootless reports whether to do without what only the host's root may do:
// who is root in users of his own mostly has no cgroups either.
func (c *call) rootless() bool {
	switch c.global.text("rootless") {
	case "true":
		return true
	case "false":
		return false
	}
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/self/uid_map", 1<<16)
	f := strings.Fields(string(text))
	return os.Geteuid() != 0 || err == nil && !(len(f) == 3 && f[0] == "0" && f[1] == "0" && f[2] == "4294967295")
}

// asRunc: under the name runc, callers look at the first words of some answers.
func asRunc(name string) string {
	if name == "runc" {
		return name
	}
	return "launch-oci"
}

func usage(w *os.File, name string) {
	name = asRunc(name)
	var b strings.Builder
	fmt.Fprintf(&b, "NAME:\n   %s - Open Container Initiative runtime\n\nUSAGE:\n   %s [global options] command [command options] [arguments...]\n\nCOMMANDS:\n", name, name)
	for _, v := range verbs() {
		fmt.Fprintf(&b, "   %-12s %s\n", v.name, v.help)
	}
	b.WriteString("\nGLOBAL OPTIONS:\n")
	list(&b, globals)
	w.WriteString(b.String())
}

func (v *verb) usage(w *os.File, name string) {
	name = asRunc(name)
	var b strings.Builder
	fmt.Fprintf(&b, "NAME:\n   %s %s - %s\n\nUSAGE:\n   %s %s [command options] %s\n\nOPTIONS:\n", name, v.name, v.help, name, v.name, v.args)
	list(&b, v.all(helpOption))
	w.WriteString(b.String())
}

func list(b *strings.Builder, options []option) {
	for _, o := range options {
		words := ""
		for n := range strings.SplitSeq(o.names, " ") {
			if words != "" {
				words += ", "
			}
			if len(n) == 1 {
				words += "-" + n
			} else {
				words += "--" + n
			}
			if o.arg != "" {
				words += " " + o.arg
			}
		}
		fmt.Fprintf(b, "   %-40s %s\n", words, o.help)
	}
}
