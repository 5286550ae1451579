package main

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"launch/internal/engine"
	"launch/internal/origin"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/tree"
	"launch/mount"
)

const nameHint = "give this one another name with --machine=, or end the other"

const busyHint = "another machine runs from this tree, or somebody copies it; machines that are all --read-only can share it"

// hint says what may help against an error of the engine's; "" is nothing.
func hint(p *plan.Plan, err error) string {
	var step *engine.StepError
	if errors.As(err, &step) && step.Number <= len(p.Steps) {
		if h := stepHint(p.Steps[step.Number-1], step.Err); h != "" {
			return h
		}
	} else if ops := slices.Concat(p.Program, p.Second); errors.As(err, &step) && step.Number <= len(p.Steps)+len(ops) {
		n := step.Number - len(p.Steps) - 1
		if ops[n].Call == plan.Exec && n > 0 && ops[n-1].Call == plan.Label && errors.Is(err, unix.EPERM) {
			return "the host's SELinux policy does not let a process change to this label here: if new privileges are renounced, it must allow nnp_transition"
		}
		if h := opHint(ops[n], step.Err); h != "" {
			return h
		}
		if errors.Is(err, unix.EPERM) && filtered(p, ops[:n]) {
			return "a system-call filter that was asked for refuses what the start needs from there on: take the call out of --system-call-filter="
		}
	}
	switch {
	case errors.Is(err, state.ErrBusy) && slices.ContainsFunc(p.Steps, func(s plan.Step) bool { return s.Do == plan.Stack }):
		return "give this one another name with --name=, or end the other"
	case errors.Is(err, state.ErrBusy):
		return nameHint
	case errors.Is(err, tree.ErrBusy):
		return busyHint
	case errors.Is(err, unix.EMFILE):
		return "raise the limit of open files (ulimit -n)"
	case errors.Is(err, unix.ENFILE):
		return "the host has no more open files: raise fs.file-max"
	case errors.Is(err, unix.ENOSYS):
		return "launch needs Linux 6.1 or newer"
	case errors.Is(err, unix.EOVERFLOW):
		return "the owner of this file or directory has no place in the machine's user range"
	case errors.Is(err, unix.ENOSPC):
		return "a file system is full, or a limit is reached: see /proc/sys/fs/mount-max and /proc/sys/user/max_*_namespaces"
	case errors.Is(err, unix.EPERM):
		return "the host does not allow it: if that is a container itself, see launch(1), NESTING"
	}
	return ""
}

// stepHint is about a step for the machine's tree.
func stepHint(s plan.Step, err error) string {
	is := func(errno unix.Errno) bool { return errors.Is(err, errno) }
	maps := s.IDMap != mount.NoIDMap
	image := s.Do == plan.Disk || s.Do == plan.Take && s.Type != ""
	switch {
	case labelled(s) && (is(unix.EINVAL) || is(unix.EACCES)):
		return "the host must run SELinux, and its policy must know the label (context=) and let the launcher use it for file systems"
	case s.Do == plan.Bind && maps && (is(unix.EINVAL) || is(unix.EPERM)):
		return "the source's file system, or one below it, can't map owners: leave out the bind option " + string(s.IDMap)
	case s.Do == plan.Idmap && (is(unix.EINVAL) || is(unix.EPERM)):
		return "the tree's file system, or one below it, can't map owners: use --private-users-ownership=chown"
	case s.Do == plan.Pivot && s.Target != "" && (is(unix.ENOENT) || is(unix.ENOTDIR)):
		return "the old root needs a directory in the new one: make " + s.Target + " there, or leave it out of --pivot-root="
	case s.Do == plan.Bind && is(unix.ENOENT):
		return "what is bound must be there; if it may be missing, begin it with -"
	case s.Do == plan.Disk && is(unix.ENODEV) && s.Target != "/" && s.Target != "/usr":
		return "the kernel can't mount it; --image-policy=root=open:usr=open:home=open:srv=open:var=open:tmp=open leaves out boot partitions"
	case image && is(unix.ENODEV):
		return "load the kernel's module for it, or make the image with ext4, xfs, btrfs, squashfs or erofs"
	case image && (is(unix.ENOENT) || is(unix.ENXIO)):
		return "launch needs loop devices: /dev/loop-control and /dev/loop0 and so on"
	case s.Do == plan.Take && maps && (is(unix.EINVAL) || is(unix.EPERM)):
		return "the file system of this part of the stack can't map owners: leave out --private-users="
	case s.Do == plan.Take && s.Type != "" && is(unix.EINVAL):
		return "the kernel's log says what is wrong with the file system; an XFS can't be mounted beside a copy of itself"
	case s.Do == plan.Take && s.Target == "" && is(unix.EROFS):
		return "what the machine writes to must not be read-only itself; --read-only starts it all the same"
	case s.Do == plan.Take && is(unix.EROFS):
		return "the place that it is to be mounted on is missing, and the root is read-only: make it in a layer"
	case s.Do == plan.Take && !errors.As(err, new(unix.Errno)):
		return "what the stack mounts must find its place in the machine's own tree: change the link, or the entry's location"
	case s.Do == plan.Pile && is(unix.EBUSY):
		return "another overlay writes to the same directory: end what uses it"
	case s.Do == plan.Pile && is(unix.EINVAL):
		return "rw must lie on a file system of a disk or in memory that can be an upper layer, and no layer in another"
	case s.Do == plan.Overlay && is(unix.ENOENT), s.Do == plan.Overlay && is(unix.ENOTDIR):
		return "an overlay is made of directories that are there"
	case s.Do == plan.Overlay && is(unix.EINVAL):
		return "the upper directory must lie on a file system of a disk or in memory, and no directory in another"
	case s.Do == plan.Mask && is(unix.ENOENT):
		return "what is made inaccessible must be there"
	case s.Do == plan.Mount && is(unix.EINVAL) && s.Type == "tmpfs":
		return "see tmpfs(5) for its options"
	case s.Do == plan.Read:
		return "give the path of a file, or of a socket, on the host"
	case s.Do == plan.Bind && !errors.As(err, new(unix.Errno)):
		return "bind a directory onto a directory, and anything else onto a file"
	case is(unix.EROFS):
		return "there it is read-only: make what is mounted on beforehand, or use --profile=sandbox"
	case is(unix.ELOOP):
		return "a link of the tree leads to itself"
	}
	return ""
}

// filtered tells whether a filter is there, after these calls, that refuses what
// systemd-nspawn's own doesn't: one that somebody asked for.
func filtered(p *plan.Plan, before []plan.Op) bool {
	return slices.ContainsFunc(before, func(op plan.Op) bool {
		return op.Call == plan.Seccomp && p.Filters[op.A].Origin.Source != origin.Profile
	})
}

// labelled tells whether a step gives a file system an SELinux label.
func labelled(s plan.Step) bool {
	return slices.ContainsFunc(s.Options, func(o plan.Option) bool { return o.Key == "context" })
}

// opHint is about what the machine's first process does for itself.
func opHint(op plan.Op, err error) string {
	switch {
	case op.Call == plan.Chdir:
		return "give a directory of the machine's that its user may enter"
	case op.Call == plan.Label:
		return "the host's policy must know the label, and let the launcher start processes with it"
	case op.Call == plan.Exec && errors.Is(err, unix.EACCES):
		return "it may not be executed: see its mode, and what the host's SELinux or AppArmor forbids, if it has one"
	case op.Call == plan.Affinity:
		return "name processors of the host's, see /sys/devices/system/cpu/online"
	case op.Call == plan.Rlimit && errors.Is(err, unix.EPERM):
		return "a limit can't be raised above the launcher's own without CAP_SYS_RESOURCE"
	}
	return ""
}
