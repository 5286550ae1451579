package container

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/engine"
	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/userns"
)

// A user without root's rights gets them in users of his own: the program
// starts itself again there, as root, since one with threads can't move.
//
//	users of the host  →  users of launch-oci's  →  users of the container's
//
// Ids of config.json are the host's, so they are translated on the way. What
// the caller is, the second start learns from a variable.
const callerVariable = "_LAUNCH_OCI_CALLER"

// RootlessCaller gives the user that this program was started by, if it has
// been started again since.
func RootlessCaller() (uid int, ok bool) {
	uid, err := strconv.Atoi(os.Getenv(callerVariable))
	return uid, err == nil
}

// Users are those that the program goes on in.
type Users struct {
	// Join is a descriptor of users that are there already; -1: new ones.
	Join int
	// UIDs and GIDs are the maps of the container's users, which the new ones
	// must have room for; without any they are what /etc/subuid gives.
	UIDs, GIDs userns.Map
}

// UsersOfBundle finds out which users a bundle needs. read reads its file.
func UsersOfBundle(dir, config string, read func(file string) ([]byte, error)) (Users, error) {
	u := Users{Join: -1}
	text, err := read(configOf(dir, config))
	if err != nil {
		return u, nil // who makes the container says it better
	}
	s, _, err := bundle.Read(dir, string(text))
	if err != nil {
		return u, nil
	}
	for _, n := range s.Bundle.Namespaces {
		if n.Kind == "user" && n.Path != "" {
			return usersAbove(n.Path)
		}
	}
	u.UIDs, u.GIDs = s.Bundle.UIDs, s.Bundle.GIDs
	return u, nil
}

// UsersOf gives the users that a container was made in.
func (d *Dir) UsersOf() (Users, error) {
	if !d.Alive() {
		return Users{Join: -1}, ErrNotRunning
	}
	return usersAbove(fmt.Sprintf("/proc/%d/ns/user", d.PID))
}

// usersAbove gives the users that the owner of some lives in: those around
// them, unless they are ours.
func usersAbove(file string) (Users, error) {
	fail := func(err error) (Users, error) {
		return Users{Join: -1}, fmt.Errorf("open the users of %s: %w", file, err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return fail(err)
	}
	up, err := sys.Ioctl(n, unix.NS_GET_PARENT, 0)
	if err != nil {
		return Users{Join: n}, nil
	}
	theirs, err := sys.Statx(up, "", unix.STATX_INO)
	if err != nil {
		return fail(err)
	}
	own, err := sys.Openat(unix.AT_FDCWD, "/proc/self/ns/user", unix.O_RDONLY, 0)
	if err != nil {
		return fail(err)
	}
	ours, err := sys.Statx(own, "", unix.STATX_INO)
	sys.Close(own)
	if err != nil {
		return fail(err)
	}
	if theirs.Ino == ours.Ino {
		sys.Close(up)
		return Users{Join: n}, nil
	}
	sys.Close(n)
	return Users{Join: up}, nil
}

// Again starts this program again as root of those users, with the same words,
// and stays until it has ended; signals that are caught are passed on. It gives
// the exit status.
func (u Users) Again(caught *sys.Caught) (status int, err error) {
	// The second start takes the soft limit of open files from its parent, but
	// ours was raised by Go.
	files, err := sys.Getrlimit(unix.RLIMIT_NOFILE)
	if err == nil {
		if theirs, err := sys.RlimitOf(os.Getppid(), unix.RLIMIT_NOFILE); err == nil && theirs[0] <= files[1] {
			files[0] = theirs[0]
		}
	}
	r, w, err := sys.Pipe()
	if err != nil {
		return 1, err
	}
	p := child.New(12)
	var one byte
	p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(w))
	options := child.Options{}
	if u.Join >= 0 {
		p.Add("join the users of the container's maker", unix.SYS_SETNS, uintptr(u.Join), unix.CLONE_NEWUSER)
	} else {
		options.Namespaces = unix.CLONE_NEWUSER
	}
	p.Add("wait for the maps of the users", unix.SYS_READ, uintptr(r), child.Keep(p, &one), 1).NeedResult()
	p.Add("become root", unix.SYS_SETRESGID, 0, 0, 0)
	p.Add("become root", unix.SYS_SETRESUID, 0, 0, 0)
	p.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, child.Keep(p, &files), 0)
	p.Add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	env := append(os.Environ(), fmt.Sprintf("%s=%d", callerVariable, os.Getuid()))
	p.Add("start again", unix.SYS_EXECVE, p.String("/proc/self/exe"), p.Strings(os.Args...), p.Strings(env...))
	var c *child.Process
	err = sys.Elsewhere(func(l sys.Locked) (err error) {
		c, err = child.Start(l, p, options)
		return err
	})
	sys.Close(r)
	if err != nil {
		sys.Close(w)
		return 1, fmt.Errorf("make users of one's own (is that allowed by user.max_user_namespaces?): %w", err)
	}
	if u.Join < 0 {
		err = u.write(c.PID)
	}
	if err == nil {
		err = sys.WriteString(w, "g")
	}
	sys.Close(w)
	if err == nil {
		err = attend(c.Pidfd, caught)
	}
	if err != nil {
		_ = sys.PidfdSignal(c.Pidfd, int(unix.SIGKILL))
	}
	code, status, werr := sys.Wait(c.Pidfd)
	switch f := c.Failure(); {
	case err != nil:
		return 1, err
	case f != nil:
		return 1, fmt.Errorf("go on as root of users of one's own: %w", f)
	case werr != nil:
		return 1, werr
	case code != 1: // CLD_EXITED
		status += 128
	}
	return status, nil
}

// attend passes signals on until the process has ended. A terminal's own go to
// both anyway.
func attend(pidfd int, caught *sys.Caught) error {
	_, terminal := sys.TermSize(0)
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: int32(caught.R), Events: unix.POLLIN}}
		if _, err := sys.Poll(fds, -1); err != nil {
			return err
		}
		for _, s := range caught.Pending() {
			switch s.Number {
			case unix.SIGINT, unix.SIGQUIT, unix.SIGTSTP, unix.SIGWINCH:
				if terminal == nil {
					continue
				}
			}
			_ = sys.PidfdSignal(pidfd, int(s.Number))
		}
		if fds[0].Revents != 0 {
			return nil
		}
	}
}

// write gives the new users their maps: root is the caller, and what follows
// are the ids that the container needs. More than one id takes newuidmap(1).
func (u Users) write(pid int) error {
	uids, gids := u.UIDs, u.GIDs
	if uids == nil {
		uids, gids = subordinate("/etc/subuid"), subordinate("/etc/subgid")
	}
	for _, m := range []struct {
		what, program string
		own           uint32
		of            userns.Map
	}{{"uid_map", "newuidmap", uint32(os.Getuid()), uids}, {"gid_map", "newgidmap", uint32(os.Getgid()), gids}} {
		all := around(m.own, m.of)
		if len(all) == 1 && all[0].Size == 1 {
			if m.what == "gid_map" {
				if err := sys.WriteFile(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/setgroups", pid), "deny"); err != nil {
					return fmt.Errorf("give up groups: %w", err)
				}
			}
			if err := sys.WriteFile(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/%s", pid, m.what), all.String()); err != nil {
				return fmt.Errorf("write the %s: %w", m.what, err)
			}
			continue
		}
		args := []string{strconv.Itoa(pid)}
		for _, e := range all {
			args = append(args, fmt.Sprint(e.Inside), fmt.Sprint(e.Outside), fmt.Sprint(e.Size))
		}
		program := find(m.program)
		if program == "" {
			return fmt.Errorf("map more than one id: %s is not installed (it comes with the package uidmap): operation not permitted", m.program)
		}
		if err := engine.RunTool(program, args...); err != nil {
			return fmt.Errorf("map ids: %s %s: %w", m.program, strings.Join(args, " "), err)
		}
	}
	return nil
}

// subordinate gives the ids that a file gives to the caller, if any.
func subordinate(file string) (m userns.Map) {
	name := ""
	if u, err := user.LookupId(strconv.Itoa(os.Getuid())); err == nil {
		name = u.Username
	}
	text, err := sys.ReadFile(unix.AT_FDCWD, file, 1<<20)
	if err != nil {
		return nil
	}
	if find("newuidmap") == "" {
		return nil
	}
	ranges, _ := userns.ParseSubID(text, name, uint32(os.Getuid()))
	for _, r := range ranges {
		m = append(m, userns.Extent{Outside: r.Start, Size: r.Size})
	}
	return m
}

// find looks a program of the host's up.
func find(program string) string {
	for _, dir := range append(strings.Split(os.Getenv("PATH"), ":"), "/usr/bin", "/bin") {
		file := path.Join(dir, program)
		if st, err := sys.Statx(unix.AT_FDCWD, file, unix.STATX_MODE); path.IsAbs(dir) && err == nil && st.Mode&0o111 != 0 {
			return file
		}
	}
	return ""
}

// around gives the map of users that have all ids of another one's outside,
// and one that is root.
func around(own uint32, m userns.Map) userns.Map {
	all := userns.Map{{Inside: 0, Outside: own, Size: 1}}
	next := uint32(1)
	add := func(start, size uint32) {
		if size > 0 {
			all = append(all, userns.Extent{Inside: next, Outside: start, Size: size})
			next += size
		}
	}
	for _, e := range m {
		if r := (userns.Range{Start: e.Outside, Size: e.Size}); !r.Contains(own) {
			add(e.Outside, e.Size)
			continue
		}
		add(e.Outside, own-e.Outside)
		add(own+1, e.Size-1-(own-e.Outside))
	}
	return all
}

// translate gives the maps with the ids that the caller's have here.
func translate(uids, gids userns.Map) (userns.Map, userns.Map, error) {
	homeUIDs, homeGIDs, err := engine.MapsOfProcess(os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	u, ok := uids.Through(homeUIDs)
	g, gok := gids.Through(homeGIDs)
	if !ok || !gok {
		return nil, nil, errors.New("map the container's users: some ids are not ours to map: operation not permitted")
	}
	return u, g, nil
}
