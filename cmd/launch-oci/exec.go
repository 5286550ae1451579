package main

import (
	"fmt"
	"strconv"

	"launch/oci/bundle"
	"launch/oci/container"
)

var execVerb = &verb{
	name: "exec", args: "CONTAINER COMMAND [ARGUMENTS...] || --process FILE CONTAINER", help: "run one more process in a container",
	least: 1, most: -1, rest: true,
	options: []option{
		{names: "console-socket", arg: "SOCKET", help: "where the master side of the terminal is sent"},
		{names: "pidfd-socket", arg: "SOCKET", help: "where a pidfd of the process is sent"},
		{names: "cwd", arg: "DIR", help: "working directory"},
		{names: "env e", arg: "NAME=VALUE", help: "set a variable", many: true},
		{names: "tty t", help: "give it a terminal"},
		{names: "user u", arg: "UID[:GID]", help: "become this user"},
		{names: "additional-gids g", arg: "GID", help: "be in this group, too", many: true},
		{names: "process p", arg: "FILE", help: "take all this from a file"},
		{names: "detach d", help: "don't wait for its end"},
		{names: "pid-file", arg: "FILE", help: "gets its number"},
		{names: "process-label", arg: "LABEL", help: "SELinux label"},
		{names: "apparmor", arg: "PROFILE", help: "AppArmor profile"},
		{names: "no-new-privs", help: "renounce new privileges"},
		{names: "cap c", arg: "CAPABILITY", help: "have this capability, too", many: true},
		{names: "preserve-fds", arg: "N", help: "hand on N descriptors more than standard input and output"},
		{names: "cgroup", arg: "[CONTROLLER,...:]PATH", help: "a cgroup below the container's", many: true},
		{names: "ignore-paused", help: "also in a paused container, where it waits"},
	},
	run: execute, users: containerUsers,
}

// execFailed is the exit status when there was no process at all.
const execFailed = 255

func execute(c *call) int {
	status, err := c.exec()
	if err != nil {
		c.fail(fmt.Errorf("exec failed: %w", err))
		return execFailed
	}
	return status
}

func (c *call) exec() (int, error) {
	file := c.text("process")
	if file == "" && len(c.words) < 2 {
		return 0, fmt.Errorf("exec args cannot be empty")
	}
	d, err := c.open()
	if err != nil {
		return 0, err
	}
	defer d.Close()
	text, err := d.Config()
	if err != nil {
		return 0, err
	}
	spec, _, err := bundle.Decode(bundle.File, text)
	if err != nil {
		return 0, err
	}
	s, _, err := bundle.Settings(spec, d.Bundle)
	if err != nil {
		return 0, err
	}
	process, name := spec.Process, bundle.File
	if file != "" {
		b, err := readText(file)
		if err != nil {
			return 0, fmt.Errorf("read %s: %w", file, err)
		}
		if process, _, err = bundle.DecodeProcess(file, string(b)); err != nil {
			return 0, err
		}
		bundle.Inherit(process, spec.Process)
		name = file
	} else {
		o := bundle.Override{
			Args: c.words[1:], Cwd: c.text("cwd"), Env: c.values["env"], Terminal: c.on("tty"), User: c.text("user"),
			Caps: c.values["cap"], AppArmor: c.text("apparmor"), SELinux: c.text("process-label"),
		}
		if c.has("no-new-privs") {
			on := c.on("no-new-privs")
			o.NoNewPrivs = &on
		}
		for _, g := range c.values["additional-gids"] {
			n, err := strconv.ParseUint(g, 10, 32)
			if err != nil {
				return 0, fmt.Errorf("invalid value %q for --additional-gids: it is not a number", g)
			}
			o.Groups = append(o.Groups, uint32(n))
		}
		if process, err = bundle.Overridden(process, o); err != nil {
			return 0, err
		}
	}
	e, warnings, err := bundle.ExecOf(name, process, spec)
	if err != nil {
		return 0, err
	}
	for _, w := range warnings {
		out.warn(warning(w))
	}
	// Which signals are ignored is to be seen before they are caught.
	host, err := container.Caller()
	if err != nil {
		return 0, err
	}
	detach := c.on("detach")
	f, err := newFront(detach, c.text("console-socket"))
	if err != nil {
		return 0, err
	}
	o := container.ExecOptions{Host: host, Exec: e, ConsoleSocket: c.text("console-socket"), PidfdSocket: c.text("pidfd-socket"), PidFile: c.text("pid-file"),
		Master: f.takes(), IgnorePaused: c.on("ignore-paused"), Rootless: c.rootless(), Warn: out.warn, Guard: guard}
	for _, g := range c.values["cgroup"] {
		if g != "" {
			o.Cgroups = append(o.Cgroups, g)
		}
	}
	var env []string
	if o.Keep, env, err = c.keep(); err != nil {
		return 0, err
	}
	o.Exec.Env = append(o.Exec.Env, env...)
	p, err := d.Exec(o, s)
	if err != nil {
		return 0, err
	}
	if detach {
		return 0, nil
	}
	return f.wait(p)
}
