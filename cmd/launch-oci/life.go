package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/oci/container"
)

const version, commit, specVersion = "1.0.0", "none", "1.3.0"

var startVerb = &verb{name: "start", args: "CONTAINER", help: "start a created container", least: 1, most: 1, run: locked((*container.Dir).Start)}

// locked runs what changes a container.
func locked(f func(d *container.Dir, warn func(string)) error) func(c *call) int {
	return func(c *call) int {
		d, err := c.open()
		if err == nil {
			defer d.Close()
			err = d.Reload()
		}
		if err == nil {
			err = f(d, out.warn)
		}
		if err != nil {
			return c.fail(err)
		}
		return 0
	}
}

var killVerb = &verb{
	name: "kill", args: "CONTAINER [SIGNAL]", help: "send a signal to a container's first process, SIGTERM by default", least: 1, most: 2,
	options: []option{{names: "all a", help: "to all processes"}}, run: kill,
}

func kill(c *call) int {
	word := "SIGTERM"
	if len(c.words) > 1 {
		word = c.words[1]
	}
	sig, err := parseSignal(word)
	if err != nil {
		return c.fail(err)
	}
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	err = d.Kill(sig, c.on("all"))
	if errors.Is(err, container.ErrNotRunning) && c.on("all") {
		err = nil
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

// parseSignal reads a number, or a name with or without SIG.
func parseSignal(word string) (int, error) {
	if n, err := strconv.Atoi(word); err == nil {
		if n < 0 || n > 64 {
			return 0, fmt.Errorf("unknown signal %q", word)
		}
		return n, nil
	}
	name := strings.ToUpper(word)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if s := unix.SignalNum(name); s != 0 {
		return int(s), nil
	}
	// The real-time ones count from both ends.
	for _, r := range []struct {
		prefix string
		at     int
		sign   int
	}{{"SIGRTMIN", 34, 1}, {"SIGRTMAX", 64, -1}} {
		if rest, ok := strings.CutPrefix(name, r.prefix); ok {
			if rest == "" {
				return r.at, nil
			}
			if n, err := strconv.Atoi(strings.TrimLeft(rest, "+-")); err == nil && n <= 30 {
				return r.at + r.sign*n, nil
			}
		}
	}
	return 0, fmt.Errorf("unknown signal %q", word)
}

var deleteVerb = &verb{
	name: "delete", args: "CONTAINER", help: "delete a container that has stopped", least: 1, most: 1,
	options: []option{{names: "force f", help: "kill it first if it runs"}}, run: remove,
}

func remove(c *call) int {
	force := c.on("force")
	d, err := c.open()
	if err == nil {
		defer d.Close()
		err = d.Reload()
	}
	if err == nil {
		err = d.Delete(force, out.warn)
	}
	if errors.Is(err, container.ErrNotExist) && force {
		return 0
	}
	if err != nil {
		return c.fail(err)
	}
	return 0
}

var pauseVerb = &verb{name: "pause", args: "CONTAINER", help: "freeze all processes of a container", least: 1, most: 1, run: locked((*container.Dir).Pause)}
var resumeVerb = &verb{name: "resume", args: "CONTAINER", help: "let a paused container go on", least: 1, most: 1, run: locked((*container.Dir).Resume)}

var psVerb = &verb{
	name: "ps", args: "CONTAINER [PS OPTIONS...]", help: "list the processes of a container", least: 1, most: -1, rest: true,
	options: []option{{names: "format f", arg: "table|json", help: "how they are listed"}}, run: ps,
}

func ps(c *call) int {
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	pids, err := d.Group.Pids()
	if err != nil {
		return c.fail(err)
	}
	switch c.text("format") {
	case "json":
		var list []string
		for _, p := range pids {
			list = append(list, strconv.Itoa(p))
		}
		fmt.Print("[" + strings.Join(list, ",") + "]")
		return 0
	case "", "table":
	default:
		return c.fail(errors.New("invalid format option"))
	}
	text, err := table(pids, c.words[1:])
	if err != nil {
		return c.fail(err)
	}
	os.Stdout.WriteString(text)
	return 0
}

var specVerb = &verb{
	name: "spec", help: "write a new config.json", most: 0,
	options: []option{
		{names: "bundle b", arg: "DIR", help: "where it goes"},
		{names: "rootless", help: "for a user without root's rights"},
	},
	run: spec,
}

func spec(c *call) int {
	text := bundle.Template
	if c.on("rootless") {
		text = bundle.RootlessTemplate(os.Getuid(), os.Getgid())
	}
	if dir := c.text("bundle"); dir != "" {
		if err := os.Chdir(dir); err != nil {
			return c.fail(err)
		}
	}
	n, err := sys.Openat(unix.AT_FDCWD, bundle.File, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o666)
	if err == unix.EEXIST {
		return c.fail(fmt.Errorf("file %s exists. Remove it first", bundle.File))
	}
	if err == nil {
		err = sys.WriteString(n, text)
	}
	if err != nil {
		return c.fail(fmt.Errorf("write %s: %w", bundle.File, err))
	}
	return 0
}

var checkpointOptions = []option{
	{names: "image-path", arg: "DIR"}, {names: "work-path", arg: "DIR"}, {names: "parent-path", arg: "DIR"}, {names: "leave-running"},
	{names: "tcp-established"}, {names: "tcp-skip-in-flight"}, {names: "tcp-close"}, {names: "link-remap"}, {names: "ext-unix-sk"}, {names: "shell-job"}, {names: "lazy-pages"},
	{names: "status-fd", arg: "N"}, {names: "page-server", arg: "ADDRESS:PORT"}, {names: "file-locks"}, {names: "pre-dump"},
	{names: "manage-cgroups-mode", arg: "MODE"}, {names: "empty-ns", arg: "NAMESPACE", many: true}, {names: "auto-dedup"},
}

var checkpointVerb = &verb{name: "checkpoint", args: "CONTAINER", help: "write a container into files", least: 1, most: 1, options: checkpointOptions, run: noCRIU}
var restoreVerb = &verb{name: "restore", args: "CONTAINER", help: "go on with a container from files", least: 1, most: 1,
	options: append(append([]option{{names: "detach d"}, {names: "lsm-profile", arg: "PROFILE"}, {names: "lsm-mount-context", arg: "CONTEXT"}, {names: "no-subreaper"}}, createOptions...), checkpointOptions...), run: noCRIU}

func noCRIU(c *call) int {
	return c.fail(errors.New(c.verb.name + " needs CRIU, which this launch-oci can't use yet"))
}
