package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/criu"
	"launch/internal/sys"
	"launch/oci/container"
)

var checkpointOptions = []option{
	{names: "image-path", arg: "DIR", help: "where the files are"}, {names: "work-path", arg: "DIR", help: "where CRIU's log goes"},
	{names: "parent-path", arg: "DIR", help: "earlier files, that these add to"}, {names: "leave-running", help: "let the container run on"},
	{names: "tcp-established", help: "with connections of TCP"}, {names: "tcp-skip-in-flight", help: "but for those that are being made"},
	{names: "tcp-close", help: "close connections"}, {names: "link-remap", help: "with files that were removed"},
	{names: "ext-unix-sk", help: "with sockets whose other side is outside"}, {names: "shell-job", help: "with the caller's terminal"},
	{names: "lazy-pages", help: "memory follows when it is needed"}, {names: "status-fd", arg: "N", help: "is told when memory can follow"},
	{names: "page-server", arg: "ADDRESS:PORT", help: "where memory is written to"}, {names: "file-locks", help: "with locks of files"},
	{names: "pre-dump", help: "write the memory only"}, {names: "manage-cgroups-mode", arg: "MODE", help: "ignore (as is), soft, full or strict"},
	{names: "empty-ns", arg: "NAMESPACE", many: true, help: "leave out what is in it (network)"}, {names: "auto-dedup", help: "remove what is in earlier files"},
}

var checkpointVerb = &verb{name: "checkpoint", args: "CONTAINER", help: "write a container into files", least: 1, most: 1, options: checkpointOptions, run: checkpoint}

var restoreVerb = &verb{name: "restore", args: "CONTAINER", help: "go on with a container from files", least: 1, most: 1,
	options: []option{
		{names: "detach d", help: "don't wait for its end"}, {names: "lsm-profile", arg: "PROFILE", help: "of the processes"},
		{names: "lsm-mount-context", arg: "CONTEXT", help: "of the mounts"}, {names: "no-subreaper", help: "don't adopt orphans"},
		{names: "keep", help: "don't delete it at its end"},
	}, also: [2][]option{createOptions, checkpointOptions}, run: restore}

// criuOptions reads what both verbs are told.
func (c *call) criuOptions() (container.CRIUOptions, error) {
	o := container.CRIUOptions{Program: c.global.text("criu"), Search: os.Getenv("PATH"), Env: os.Environ(), PreDump: c.on("pre-dump"), Warn: out.warn}
	cwd, err := os.Getwd()
	if err != nil {
		return o, err
	}
	absolute := func(name, otherwise string) string {
		p := cmp.Or(c.text(name), otherwise)
		if p == "" || path.IsAbs(p) {
			return p
		}
		return path.Join(cwd, p)
	}
	o.Images, o.Work = absolute("image-path", "checkpoint"), absolute("work-path", "")
	if o.Parent = c.text("parent-path"); path.IsAbs(o.Parent) {
		return o, fmt.Errorf("invalid --parent-path %s: it is relative to the image path", o.Parent)
	}
	o.CRIU = criu.Options{
		LeaveRunning: c.on("leave-running"), ExtUnixSk: c.on("ext-unix-sk"), ShellJob: c.on("shell-job"), FileLocks: c.on("file-locks"),
		TCPEstablished: c.on("tcp-established"), TCPSkipInFlight: c.on("tcp-skip-in-flight"), TCPClose: c.on("tcp-close"),
		LinkRemap: c.on("link-remap"), LazyPages: c.on("lazy-pages"), AutoDedup: c.on("auto-dedup"), Locked: c.on("tcp-established"),
		LSM: c.text("lsm-profile"), Context: c.text("lsm-mount-context"),
	}
	if mode := c.text("manage-cgroups-mode"); mode != "" {
		known := false
		for _, m := range criu.CgroupModes {
			if m.Word == mode {
				o.CRIU.Cgroups, known = m.Mode, true
			}
		}
		if !known {
			return o, fmt.Errorf("invalid manage-cgroups-mode: %s (known: ignore, soft, full, strict)", mode)
		}
	}
	for _, ns := range c.values["empty-ns"] {
		if ns != "network" {
			return o, fmt.Errorf("namespace %q is not supported by --empty-ns (known: network)", ns)
		}
		o.CRIU.EmptyNS |= unix.CLONE_NEWNET
	}
	if server := c.text("page-server"); server != "" {
		i := strings.LastIndexByte(server, ':')
		if i < 1 {
			return o, errors.New("use --page-server ADDRESS:PORT to specify page server")
		}
		n, err := strconv.ParseUint(server[i+1:], 10, 16)
		if err != nil {
			return o, fmt.Errorf("invalid port %q of --page-server", server[i+1:])
		}
		o.CRIU.Server, o.CRIU.Port = strings.Trim(server[:i], "[]"), int(n)
	}
	if c.has("status-fd") {
		n, err := c.number("status-fd")
		if err != nil {
			return o, err
		}
		if _, err := sys.Statx(int(n), "", unix.STATX_TYPE); err != nil || n < 0 {
			return o, fmt.Errorf("invalid --status-fd %d: it is not open", n)
		}
		o.CRIU.StatusFD = int(n)
	}
	return o, nil
}

func checkpoint(c *call) int {
	o, err := c.criuOptions()
	if err != nil {
		return c.fail(err)
	}
	return c.locked(func(d *container.Dir, _ func(string)) error { return d.Checkpoint(o) })
}

func restore(c *call) int {
	r, err := c.criuOptions()
	if err != nil {
		return c.fail(err)
	}
	o, err := c.makeOptions()
	if err != nil {
		return c.fail(err)
	}
	detach := c.on("detach")
	f, err := c.front(detach, o.ConsoleSocket)
	if err != nil {
		return c.fail(err)
	}
	o.Master = f.takes()
	l, err := container.Restore(o, r)
	if err != nil {
		return c.fail(fmt.Errorf("runc restore failed: %w", err))
	}
	l.Unlock()
	if detach {
		return 0
	}
	return c.stay(f, l)
}
