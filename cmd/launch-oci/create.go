package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/oci/container"
	"launch/settings"
)

var createOptions = []option{
	{names: "bundle b", arg: "DIR", help: "the bundle's directory, by default the current one"},
	{names: "config f", arg: "FILE", help: "what is read in place of the bundle's config.json"},
	{names: "console-socket", arg: "SOCKET", help: "where the master side of the terminal is sent"},
	{names: "pidfd-socket", arg: "SOCKET", help: "where a pidfd of the first process is sent"},
	{names: "pid-file", arg: "FILE", help: "gets the number of the first process"},
	{names: "no-pivot", help: "accepted; it changes nothing"},
	{names: "no-new-keyring", help: "stay in the caller's session keyring"},
	{names: "preserve-fds", arg: "N", help: "hand on N descriptors more than standard input and output"},
}

var createVerb = &verb{
	name: "create", args: "CONTAINER", help: "create a container", least: 1, most: 1,
	options: createOptions, run: create, users: bundleUsers,
}

var runVerb = &verb{
	name: "run", args: "CONTAINER", help: "create and start a container", least: 1, most: 1,
	options: createOptions,
	also: [2][]option{{
		{names: "detach d", help: "don't wait for its end"}, {names: "keep", help: "don't delete it at its end"},
		{names: "no-subreaper", help: "don't adopt orphans"},
	}},
	run: run, users: bundleUsers,
}

// bundleUsers are the users that a container of the bundle can be made in.
func bundleUsers(c *call) (container.Users, error) {
	dir, err := c.bundle()
	if err != nil {
		return container.Users{}, err
	}
	return container.UsersOfBundle(dir, c.config(), c.configText)
}

// config is the name of the bundle's configuration.
func (c *call) config() string { return cmp.Or(c.text("config"), bundle.File) }

// configText reads a bundle's configuration. Who makes a bundle may not be who
// runs it, and must not keep him waiting; but who names a file knows what it is.
func (c *call) configText(file string) ([]byte, error) {
	if c.told("config") {
		return readText(file)
	}
	return sys.ReadRegular(unix.AT_FDCWD, file, bundle.Limit)
}

// bundle is the bundle's directory. It is the same one for as long as there is
// a container of it, wherever a link on the way leads by then.
func (c *call) bundle() (string, error) {
	dir := c.text("bundle")
	if !path.IsAbs(dir) {
		cwd, err := os.Getwd()
		if err != nil {
			return "", err
		}
		dir = path.Join(cwd, dir)
	}
	dir = path.Clean(dir)
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		return real, nil
	}
	return dir, nil // whoever opens it says what is wrong
}

// containerUsers are the users that a container was made in.
func containerUsers(c *call) (container.Users, error) {
	if len(c.words) == 0 {
		return container.Users{Join: -1}, nil
	}
	d, err := c.open()
	if err != nil {
		return container.Users{}, err
	}
	defer d.Close()
	return d.UsersOf()
}

// makeOptions reads what create and run are told.
func (c *call) makeOptions() (container.CreateOptions, error) {
	o := container.CreateOptions{
		Root: c.root(), ID: c.words[0], Config: c.config(), Read: c.configText, Rootless: c.rootless(),
		Systemd: c.systemd(), NoCgroups: c.global.text("cgroup-manager") == "disabled",
		ConsoleSocket: c.text("console-socket"), PidfdSocket: c.text("pidfd-socket"), PidFile: c.text("pid-file"),
		KeepKeyring: c.on("no-new-keyring"), Warn: out.warn, Guard: guard, Notify: os.Getenv("NOTIFY_SOCKET"),
		Doubt: func(w settings.Warning) { out.warn(warning(w)) },
	}

	var err error
	if o.Bundle, err = c.bundle(); err != nil {
		return o, err
	}
	if o.Host, err = container.Caller(); err != nil {
		return o, err
	}
	if o.Keep, o.Env, err = c.keep(); err != nil {
		return o, err
	}
	return o, nil
}

// keep is how many descriptors the payload inherits: those of socket
// activation, and those that were asked for.
func (c *call) keep() (n int, env []string, err error) {
	if c.has("preserve-fds") {
		v, err := c.number("preserve-fds")
		if err != nil {
			return 0, nil, err
		}
		if v < 0 || v > 1<<16 {
			return 0, nil, fmt.Errorf("invalid value %d for --preserve-fds", v)
		}
		n = int(v)
	}
	if pid := os.Getenv("LISTEN_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return n, nil, c.there(n)
	}
	if listen, _ := strconv.Atoi(os.Getenv("LISTEN_FDS")); listen > 0 {
		env = append(env, "LISTEN_FDS="+strconv.Itoa(listen), "LISTEN_PID=1")
		if names := os.Getenv("LISTEN_FDNAMES"); names != "" {
			env = append(env, "LISTEN_FDNAMES="+names)
		}
		n += listen
	}
	return n, env, c.there(n)
}

// there makes sure that the descriptors to be handed on are open.
func (c *call) there(n int) error {
	for i := range n {
		if _, err := sys.Statx(3+i, "", unix.STATX_TYPE); err != nil {
			return fmt.Errorf("please check that preserved-fd %d (of %d) is present: %w", i, n, err)
		}
	}
	return nil
}

func create(c *call) int {
	o, err := c.makeOptions()
	if err != nil {
		return c.fail(err)
	}
	o.Say = true
	if _, err := container.Create(o); err != nil {
		return c.fail(fmt.Errorf("runc create failed: %w", err))
	}
	return 0
}

func run(c *call) int {
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
	l, err := container.Create(o)
	if err != nil {
		return c.fail(fmt.Errorf("runc run failed: %w", err))
	}
	heard, err := l.Start()
	if err != nil {
		return c.fail(fmt.Errorf("runc run failed: %w", errors.Join(err, l.Delete(true, out.warn))))
	}
	// Others may look at it, and kill it, while it runs.
	l.Unlock()
	if detach {
		if err := l.Forward(heard, o.Notify, true, false); err != nil {
			return c.fail(err)
		}
		return 0
	}
	go func() {
		if err := l.Forward(heard, o.Notify, false, true); err != nil {
			out.warn(err.Error())
		}
	}()
	return c.stay(f, l)
}

// front makes what is between a container and its caller, and adopts what the
// container leaves behind, unless it is detached.
func (c *call) front(detach bool, consoleSocket string) (*front, error) {
	if !c.on("no-subreaper") && !detach {
		if err := sys.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0); err != nil {
			return nil, fmt.Errorf("become a subreaper: %w", err)
		}
	}
	return newFront(detach, consoleSocket)
}

// stay waits for the end of a container, and deletes it then.
func (c *call) stay(f *front, l *container.Live) int {
	status, err := f.wait(l.Process)
	if err != nil {
		out.fail(err)
	}
	if !c.on("keep") {
		err := l.Reload()
		if err == nil {
			err = l.Delete(true, out.warn)
		}
		if err != nil && !errors.Is(err, container.ErrNotExist) {
			out.fail(err)
		}
	}
	return status
}
