// Package cgroup makes, fills, limits, watches, stops and removes cgroups.
//
// Create and Remove are for machines: version 2 only, no limits. Group is what
// an OCI runtime needs, on every layout of a host: Detect, Layout.Group,
// Create, Apply, SetDevices, Open (a Place for the first process), and later,
// maybe in another process, Freeze, Thaw, Kill, Stats, WatchOOM and Delete.
//
// It guarantees that Remove leaves no process and no directory of the machine
// behind, whatever the machine made below its cgroup; that a limit that was
// asked for is set or an error names it; and that without a working device
// guard nothing is said to be done. It refuses to know what limits mean (see
// package resource) and where they come from.
//
//	layout, err := cgroup.Detect()
//	g, err := layout.Group("/pods/web", "web")
//	err = g.Create(resources, nil)
//	warnings, err := g.Apply(resources)
//	err = g.SetDevices(devices)
//	place, err := g.Open()
//
// Room: host.
package cgroup

import (
	"fmt"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// delegated are the files that a machine's root user owns, beside the
// directory, so that it can divide its cgroup further.
var delegated = [...]string{
	"cgroup.controllers", "cgroup.events", "cgroup.procs", "cgroup.stat", "cgroup.subtree_control",
	"cgroup.threads", "memory.oom.group", "memory.reclaim",
}

// Create makes the cgroup, owned by the user, and gives a descriptor of it.
// A cgroup that is left over from another start is an error.
func Create(mount, cgroup string, uid, gid uint32) (int, error) {
	full := path.Join(mount, cgroup)
	if err := sys.Mkdirat(unix.AT_FDCWD, full, 0o755); err != nil {
		return -1, fmt.Errorf("make cgroup %s: %w", full, err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, full, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup %s: %w", full, err)
	}
	// No controllers are passed on: into a cgroup that does so, no process can be
	// born. The machine's own manager does it when it has moved its processes.
	if uid == 0 {
		return n, nil
	}
	if err := sys.Fchownat(n, "", uid, gid); err != nil {
		sys.Close(n)
		return -1, fmt.Errorf("give cgroup %s to user %d: %w", full, uid, err)
	}
	for _, name := range delegated {
		if err := sys.Fchownat(n, name, uid, gid); err != nil && err != unix.ENOENT {
			sys.Close(n)
			return -1, fmt.Errorf("give %s of cgroup %s to user %d: %w", name, full, uid, err)
		}
	}
	return n, nil
}

// Remove kills what runs in the cgroup and removes it with all that is below.
// A cgroup that is gone is no error. It waits up to five seconds for the
// kernel to let go of the processes.
func Remove(full string) error {
	n, err := sys.Openat(unix.AT_FDCWD, full, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open cgroup %s: %w", full, err)
	}
	defer sys.Close(n)
	// The plain case first: nothing is left but the directory.
	if err := sys.Unlinkat(unix.AT_FDCWD, full, unix.AT_REMOVEDIR); err == nil || err == unix.ENOENT {
		return nil
	}
	if err := sys.WriteFile(n, "cgroup.kill", "1"); err != nil && err != unix.ENOENT {
		return fmt.Errorf("kill what runs in cgroup %s: %w", full, err)
	}
	deadline := time.Now().Add(5 * time.Second)
	failed := 0
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		below := removeBelow(n)
		err := sys.Unlinkat(unix.AT_FDCWD, full, unix.AT_REMOVEDIR)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if below != nil {
			// Time does not help against that.
			if failed++; failed == 3 {
				return fmt.Errorf("remove the cgroups below %s: %w", full, below)
			}
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup %s: %w", full, err)
		}
		time.Sleep(wait)
	}
}

// removeBelow removes the cgroups below an open one, deepest first, as far as
// they can be.
func removeBelow(n int) error {
	var failed error
	err := walk(n, nil, func(up int, name string) {
		switch err := sys.Unlinkat(up, name, unix.AT_REMOVEDIR); err {
		case nil, unix.ENOENT: // it is gone
		case unix.EBUSY: // tried again
		default:
			failed = err
		}
	})
	if err != nil {
		return err
	}
	return failed
}

// Enter puts the calling process, with all its threads, into the cgroup, which
// is made if it isn't there.
func Enter(mount, cgroup string) error {
	full := path.Join(mount, cgroup)
	if err := sys.Mkdirat(unix.AT_FDCWD, full, 0o755); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make cgroup %s: %w", full, err)
	}
	if err := sys.WriteFile(unix.AT_FDCWD, path.Join(full, "cgroup.procs"), "0"); err != nil {
		return fmt.Errorf("enter cgroup %s: %w", full, err)
	}
	return nil
}

// PassOn lets the cgroup behind the descriptor, and those beside it, have the
// controllers of the one above, as far as the kernel allows it: one that can't
// be divided is no reason not to start.
func PassOn(n int) {
	up, err := sys.Openat(n, "..", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer sys.Close(up)
	text, err := sys.ReadFile(up, "cgroup.controllers", 4096)
	if err != nil {
		return
	}
	for name := range strings.FieldsSeq(string(text)) {
		_ = sys.WriteFile(up, "cgroup.subtree_control", "+"+name) // each for itself
	}
}
