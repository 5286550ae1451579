// Package mounts tries saved mount trees: trees are made, saved, restored and
// saved again, and mounts are made in both to see where they arrive. It
// guarantees that all of it happens in mount namespaces of its own, the
// "host" included. It refuses to know how trees are saved or restored.
//
// Room: test.
package mounts

import (
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/sys"
	"launch/mount/attach"
	"launch/mount/snapshot"
)

// thread runs functions in mount namespaces of its own. It is never given
// back.
type thread struct {
	work chan func(sys.Locked)
	tid  int
}

func newThread(t testing.TB) *thread {
	th := &thread{work: make(chan func(sys.Locked))}
	ready := make(chan error)
	go func() {
		l := sys.Lock()
		th.tid = unix.Gettid()
		ready <- sys.Unshare(l, unix.CLONE_FS)
		for f := range th.work {
			f(l)
		}
		runtime.Goexit() // and the thread with it
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(th.work) })
	return th
}

// do runs f on the thread.
func (th *thread) do(f func(sys.Locked) error) error {
	done := make(chan error)
	th.work <- func(l sys.Locked) { done <- f(l) }
	return <-done
}

// host is a mount namespace that stands for the host's: on /mnt is a tmpfs for
// what is taken from outside.
func newHost(t testing.TB) *thread {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	h := newThread(t)
	if err := h.do(func(l sys.Locked) error {
		if err := sys.Unshare(l, unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("host", "/mnt", "tmpfs", 0, ""); err != nil {
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return h
}

// in gives a thread in the namespace of another one.
func (th *thread) in(t testing.TB) *thread {
	n := newThread(t)
	if err := n.do(func(l sys.Locked) error { return th.enter(l) }); err != nil {
		t.Fatal(err)
	}
	return n
}

func (th *thread) enter(l sys.Locked) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", th.tid))
	if err != nil {
		return err
	}
	defer ns.Close()
	return sys.Setns(l, int(ns.Fd()), unix.CLONE_NEWNS)
}

// table is the mounts as the thread sees them.
func (th *thread) table(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", th.tid))
	if err != nil {
		t.Fatal(err)
	}
	// Mounts that other tests have in places of their own go when those places
	// are removed, in all namespaces.
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if !slices.ContainsFunc([]string{"/run/", "/tmp/", "/var/"}, func(dir string) bool { return strings.HasPrefix(f[4], dir) }) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// bare gives the thread a namespace that holds nothing but a tmpfs, and what
// the host has in /mnt, on /ext.
func bare(l sys.Locked) error {
	if err := sys.Unshare(l, unix.CLONE_NEWNS); err != nil {
		return err
	}
	// What comes from the host's groups stays in them, below /ext.
	if err := unix.Mount("root", "/root", "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, d := range []string{"ext", "old"} {
		if err := os.Mkdir("/root/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/mnt", "/root/ext", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Chdir("/root"); err != nil { // of this thread only
		return err
	}
	if err := unix.PivotRoot(".", "old"); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Mount("", "/old", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Unmount("/old", unix.MNT_DETACH); err != nil {
		return err
	}
	return os.Remove("/old")
}

// The words of a script, one to a line. Each mount point is made when it is
// missing.
//
//	tmpfs /a [OPTIONS]    proc /p, sysfs /s, mqueue /q, devpts /d
//	bind /a /b            rbind /a /b    move /a /b    umount /a
//	shared /a             slave, private, unbindable; rshared …
//	flags /a ro,nosuid    of the mount
//	layer /a  stubs /a    over what is there, as launch makes them
//	mkdir /a  touch /a  rm /a  link TARGET /a  socket /a
//	namespace             the rest happens in a copy
var automounts []int // keeps the pipes

func script(lines []string) error {
	for _, line := range lines {
		if err := word(strings.Fields(line)); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return nil
}

// grow makes a tree by a script, and gives a thread in each of its namespaces.
func grow(t testing.TB, host *thread, lines []string) []*thread {
	t.Helper()
	th := host.in(t)
	if err := th.do(bare); err != nil {
		t.Fatalf("make an empty tree: %v", err)
	}
	list := []*thread{th}
	for len(lines) > 0 {
		part := lines
		lines = nil
		for i, line := range part {
			if line == "namespace" {
				part, lines = part[:i], part[i+1:]
				break
			}
		}
		if err := th.do(func(sys.Locked) error { return script(part) }); err != nil {
			t.Fatal(err)
		}
		if lines != nil {
			th = th.in(t)
			if err := th.do(func(l sys.Locked) error { return sys.Unshare(l, unix.CLONE_NEWNS) }); err != nil {
				t.Fatal(err)
			}
			list = append(list, th)
		}
	}
	return list
}

// unescape lets a script name what it can't hold: \ooo is a byte.
func unescape(s string) string {
	for i := 0; i+3 < len(s); i++ {
		if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); s[i] == '\\' && err == nil {
			s = s[:i] + string([]byte{byte(n)}) + s[i+4:]
		}
	}
	return s
}

// target makes a mount point of the kind that from is.
func target(from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	if err := os.MkdirAll(path.Dir(to), 0o755); err != nil {
		return err
	}
	if st, err := os.Lstat(from); err == nil && !st.IsDir() {
		return os.WriteFile(to, nil, 0o644)
	}
	return os.Mkdir(to, 0o755)
}

func word(f []string) error {
	if len(f) < 2 {
		return errors.New("too short")
	}
	for i := range f {
		f[i] = unescape(f[i])
	}
	options := strings.Join(f[2:], ",")
	switch f[0] {
	case "tmpfs", "proc", "sysfs", "mqueue", "devpts", "ramfs":
		if err := target("/", f[1]); err != nil {
			return err
		}
		return unix.Mount(f[0], f[1], f[0], 0, options)
	case "bind", "rbind":
		if err := target(f[1], f[2]); err != nil {
			return err
		}
		how := uintptr(unix.MS_BIND)
		if f[0] == "rbind" {
			how |= unix.MS_REC
		}
		return unix.Mount(f[1], f[2], "", how, "")
	case "move":
		if err := target(f[1], f[2]); err != nil {
			return err
		}
		return unix.Mount(f[1], f[2], "", unix.MS_MOVE, "")
	case "umount":
		return unix.Unmount(f[1], unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	case "mkdir":
		return os.MkdirAll(f[1], 0o755)
	case "touch":
		if err := os.MkdirAll(path.Dir(f[1]), 0o755); err != nil {
			return err
		}
		return os.WriteFile(f[1], []byte(f[1]), 0o644)
	case "rm":
		return os.Remove(f[1])
	case "readonly":
		return unix.Mount("", f[1], "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
	case "autofs":
		// Nobody answers: who sets it off would wait.
		r, w, err := sys.Pipe()
		if err != nil {
			return err
		}
		automounts = append(automounts, r)
		if err := target("/", f[1]); err != nil {
			return err
		}
		return unix.Mount("auto", f[1], "autofs", 0, fmt.Sprintf("fd=%d,pgrp=%d,minproto=5,maxproto=5,direct", w, unix.Getpgrp()))
	case "layer", "stubs":
		return lay(f[0], f[1])
	case "link":
		return os.Symlink(f[1], f[2])
	case "socket":
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		if err := unix.Bind(s, &unix.SockaddrUnix{Name: f[1]}); err != nil {
			return err
		}
		return unix.Listen(s, 8)
	case "flags":
		var attr unix.MountAttr
		for w := range strings.SplitSeq(f[2], ",") {
			attr.Attr_set |= map[string]uint64{"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
				"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
				"nodiratime": unix.MOUNT_ATTR_NODIRATIME, "nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW}[w]
		}
		if attr.Attr_set&(unix.MOUNT_ATTR_NOATIME|unix.MOUNT_ATTR_STRICTATIME) != 0 {
			attr.Attr_clr = unix.MOUNT_ATTR__ATIME
		}
		return unix.MountSetattr(unix.AT_FDCWD, f[1], 0, &attr)
	}
	how, rec := strings.CutPrefix(f[0], "r")
	bits := map[string]uintptr{"shared": unix.MS_SHARED, "slave": unix.MS_SLAVE, "private": unix.MS_PRIVATE, "unbindable": unix.MS_UNBINDABLE}[how]
	if bits == 0 {
		return errors.New("unknown word")
	}
	if rec {
		bits |= unix.MS_REC
	}
	return unix.Mount("", f[1], "", bits, "")
}

// lay lays an overlay over a directory that is made read-only: with an upper
// directory, or with one of mount points below.
func lay(what, dir string) error {
	if err := unix.MountSetattr(unix.AT_FDCWD, dir, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	under, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(under)
	if err := unix.Mount("launch-"+what, dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, d := range []string{"/upper", "/work", "/stub"} {
		if err := os.Mkdir(dir+d, 0o755); err != nil {
			return err
		}
	}
	lower, upper, work := []int{under}, -1, -1
	if what == "stubs" {
		lower = []int{0, under}
		lower[0], err = sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	} else if upper, err = sys.Openat(unix.AT_FDCWD, dir+"/upper", unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		work, err = sys.Openat(unix.AT_FDCWD, dir+"/work", unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	if err != nil {
		return err
	}
	n, err := attach.Overlay("/proc", "launch-"+what, lower, upper, work, 0, nil)
	for _, d := range []int{lower[0], upper, work} {
		if d >= 0 && d != under {
			sys.Close(d)
		}
	}
	if err != nil {
		return err
	}
	defer sys.Close(n)
	at, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(at)
	return sys.MoveMount(n, at)
}

// inside is a process in users of its own, in a mount namespace, that waits
// until the test ends.
func inside(t testing.TB, l sys.Locked, users int, space snapshot.Space) int {
	t.Helper()
	return waiting(t, l, func(p *child.Program) {
		if users >= 0 {
			p.Add("join the user namespace", unix.SYS_SETNS, uintptr(users), unix.CLONE_NEWUSER)
		}
		p.Add("join the mount namespace", unix.SYS_SETNS, uintptr(space.NS), unix.CLONE_NEWNS)
		p.Add("go to its root", unix.SYS_FCHDIR, uintptr(space.Root))
		p.Add("take it as the root", unix.SYS_CHROOT, p.String("."))
	})
}

// copied is one in a copy of the thread's mount namespace that belongs to users
// of its own, where mounts propagate, as in a machine.
func copied(t testing.TB, l sys.Locked, users int) int {
	t.Helper()
	return waiting(t, l, func(p *child.Program) {
		attr := &unix.MountAttr{Propagation: unix.MS_SHARED}
		p.Add("join the user namespace", unix.SYS_SETNS, uintptr(users), unix.CLONE_NEWUSER)
		p.Add("copy the mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
		p.Add("let mounts propagate", unix.SYS_MOUNT_SETATTR, ^uintptr(99), p.String("/"), unix.AT_RECURSIVE, child.Keep(p, attr), unsafe.Sizeof(*attr))
	})
}

func waiting(t testing.TB, l sys.Locked, first func(*child.Program)) int {
	t.Helper()
	r, w, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	told, tell, err := sys.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	var one byte
	p := child.New(8)
	p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(w))
	first(p)
	p.Add("tell", unix.SYS_WRITE, uintptr(tell), p.Bytes([]byte("r")), 1)
	p.Add("wait", unix.SYS_READ, uintptr(r), child.Keep(p, &one), 1)
	p.Add("end", unix.SYS_EXIT_GROUP, 0)
	c, err := child.Start(l, p, child.Options{})
	sys.Close(r)
	sys.Close(tell)
	if err != nil {
		t.Fatal(err)
	}
	sys.Read(told, make([]byte, 1))
	sys.Close(told)
	t.Cleanup(func() {
		sys.Close(w)
		sys.Wait(c.Pidfd)
		sys.Close(c.Pidfd)
	})
	if f := c.Failure(); f != nil {
		t.Fatal(f)
	}
	return c.PID
}
