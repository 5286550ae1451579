package engine

import (
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/plan"
	"launch/internal/stub"
	"launch/internal/sys"
	"launch/settings"
)

// statusFd is where the status pipe is once all other descriptors are closed,
// if the payload gets none beside the standard ones.
const statusFd = stub.Status

// lower turns one step of the plan's program into ops.
func (b *builder) lower(op plan.Op) error {
	p := b.prog
	add := func(nr uintptr, args ...uintptr) child.Step { return p.Add(op.Text, nr, args...) }
	var one byte
	switch op.Call {
	case plan.CloseGo:
		// The child has both ends of both pipes; as long as it holds this
		// one, it would never see that the launcher is gone.
		add(unix.SYS_CLOSE, uintptr(b.goW))
	case plan.DieWith:
		add(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(op.A))
	case plan.Alive:
		// The launcher holds the other end open until the payload runs.
		fds := &unix.PollFd{Fd: int32(b.goR)}
		add(unix.SYS_PPOLL, child.Keep(p, fds), 1, child.Keep(p, &unix.Timespec{}), 0, 0).NeedNone()
	case plan.Unshare:
		add(unix.SYS_UNSHARE, uintptr(op.A))
	case plan.Ready:
		add(unix.SYS_WRITE, uintptr(b.statW), p.Bytes([]byte("r")), 1)
	case plan.Go, plan.Seat, plan.Mounted:
		add(unix.SYS_READ, uintptr(b.goR), child.Keep(p, &one), 1).NeedResult()
	case plan.BecomeRoot:
		if !b.keepGroups {
			add(unix.SYS_SETGROUPS, 0, 0)
		}
		add(unix.SYS_SETRESGID, 0, 0, 0)
		add(unix.SYS_SETRESUID, 0, 0, 0)
	case plan.Share:
		attr, flags := &unix.MountAttr{Propagation: unix.MS_SHARED}, uintptr(unix.AT_RECURSIVE)
		if op.A != 0 {
			if attr.Propagation = op.A &^ unix.MS_REC; op.A&unix.MS_REC == 0 {
				flags = 0
			}
		}
		add(unix.SYS_MOUNT_SETATTR, atFdcwd, p.String("/"), flags, child.Keep(p, attr), unsafe.Sizeof(*attr))
	case plan.Incoming:
		// Unless another mount covers it, which then is nobody's way in.
		attr := &unix.MountAttr{Propagation: unix.MS_SLAVE}
		add(unix.SYS_MOUNT_SETATTR, atFdcwd, p.String("/run/host/incoming"), unix.AT_SYMLINK_NOFOLLOW, child.Keep(p, attr), unsafe.Sizeof(*attr)).
			Allow(unix.EINVAL, unix.ENOENT, unix.ENOTDIR, unix.ELOOP)
	case plan.Setsid:
		add(unix.SYS_SETSID)
	case plan.Keyring:
		if b.create0 != nil && b.create0.KeepKeyring {
			break
		}
		join := add(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0)
		// Where the kernel has no keys, or a filter around us forbids them,
		// there is nothing to keep apart. Else the machine would have the
		// keys of who started the launcher.
		if _, err := sys.SessionKeyring(); err == unix.ENOSYS || err == unix.EPERM {
			join.Allow(unix.ENOSYS, unix.EPERM)
		}
	case plan.Stdio:
		if b.create0 != nil {
			b.stdioExact(add)
			break
		}
		for n := range uintptr(3) {
			if op.A>>n&1 == 1 {
				add(unix.SYS_DUP3, uintptr(b.pty.Slave), n, 0)
			}
		}
		// Out of the way of the fixed number below: dup3 onto itself fails.
		// The stub tells on it whether the payload could be executed.
		add(unix.SYS_DUP3, uintptr(b.statW), uintptr(b.status()), 0)
		add(unix.SYS_DUP3, uintptr(b.stub.run), uintptr(b.status()+1), unix.O_CLOEXEC)
	case plan.CtlTTY:
		add(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0)
	case plan.CloseRest:
		first := uintptr(b.status() + 2)
		if b.create0 != nil {
			first = uintptr(b.status() + 3)
			if b.stub != nil {
				first++
			}
		}
		add(unix.SYS_CLOSE_RANGE, first, ^uintptr(0)>>32, 0)
		if b.create0 != nil && b.tree != nil {
			b.nulls(add, first)
		}
	case plan.OOMScore, plan.NoLogin:
		// Done by the launcher: for the first process, while that waits, or
		// for the thread that it is cloned from.
	case plan.Affinity:
		mask := cpuMask(b.plan.CPUs)
		add(unix.SYS_SCHED_SETAFFINITY, 0, uintptr(len(mask)), p.Bytes(mask))
	case plan.Persona:
		add(unix.SYS_PERSONALITY, uintptr(op.A))
	case plan.KeepCaps:
		add(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	case plan.Rlimit:
		add(unix.SYS_PRLIMIT64, 0, uintptr(op.A), child.Keep(p, &unix.Rlimit{Cur: op.B, Max: op.C}), 0)
	case plan.Umask:
		add(unix.SYS_UMASK, uintptr(op.A))
	case plan.Seccomp:
		if op.B == 1 {
			break // the stub's to do
		}
		code := b.filters[op.A]
		add(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, uintptr(b.plan.Filters[op.A].Flags),
			child.Keep(p, &sockFprog{length: uint16(len(code)), filter: child.Values(p, code)}))
	case plan.Bounding:
		for c := range uint64(bits.Len64(b.capsNow())) {
			if b.capsNow()&^op.A>>c&1 == 1 {
				add(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c))
			}
		}
	case plan.Switch:
		groups := b.user.groups
		if len(groups) > 0 || !b.keepGroups {
			add(unix.SYS_SETGROUPS, uintptr(len(groups)), p.Uint32s(groups))
		}
		add(unix.SYS_SETRESGID, uintptr(b.user.gid), uintptr(b.user.gid), uintptr(b.user.gid))
		add(unix.SYS_SETRESUID, uintptr(b.user.uid), uintptr(b.user.uid), uintptr(b.user.uid))
	case plan.Caps:
		// But for what was asked for, ambient and inheritable sets stay empty: a
		// program that is handed capabilities nobody asked for keeps them
		// across its own exec.
		caps := settings.CapSets{Effective: op.A & b.capsNow(), Inheritable: op.B, Ambient: op.B}
		caps.Permitted = caps.Effective
		if b.user.uid != 0 {
			caps.Effective, caps.Permitted = 0, caps.Ambient
		}
		b.capSets(add, caps)
	case plan.NoNewPrivs:
		add(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	case plan.Chdir:
		dir, implicit := b.plan.Payload.Dir, b.plan.Payload.Dir == plan.Home
		if implicit {
			dir = b.user.home
			// Where the launcher was started is a directory of the host's, with
			// all that ".." leads to: it must not be what is left if this fails,
			// nor where a relative home begins.
			add(unix.SYS_CHDIR, p.String("/"))
		}
		s := add(unix.SYS_CHDIR, p.String(dir))
		if implicit {
			s.Allow(unix.ENOENT, unix.EACCES, unix.ENOTDIR)
		}
	case plan.Signals:
		for n := range uintptr(bits.Len64(op.A)) {
			// SIGKILL and SIGSTOP can't be ignored; the rest of the structure
			// is zero, which is the default action.
			if op.A>>n&1 == 1 {
				add(unix.SYS_RT_SIGACTION, n+1, child.Keep(p, new([4]uint64)), 0, 8)
			}
		}
	case plan.Unblock:
		add(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	case plan.Exec:
		if b.stub == nil {
			u := b.user
			s := add(unix.SYS_EXECVE, p.String(u.program), p.Strings(u.args...), p.Strings(u.env...))
			if b.create0 != nil && b.create0.Say {
				words := notExecutable(u.program)
				s.OrElse(unix.ENOEXEC, "say that the payload can't be executed", unix.SYS_WRITE, 2, p.Bytes([]byte(words)), uintptr(len(words)))
			}
		}
		// Else it is done by the stub.
	case plan.ExecStub:
		// Here, /proc/self/exe is still the launcher: no path of the machine's
		// is followed.
		n := uintptr(b.status() + 1)
		if b.create0 != nil {
			n = uintptr(b.status() + 3)
		}
		add(unix.SYS_EXECVEAT, n, p.String(""), p.Strings(stub.Name), p.Strings(b.plan.Payload.StubEnv...), unix.AT_EMPTY_PATH)
	default:
		return b.lowerExact(op)
	}
	return nil
}

// notExecutable is what a container says that nobody listens to any more, on
// its standard error: engines show that with what its payload wrote. They know
// these words.
func notExecutable(program string) string { return "exec " + program + ": exec format error\n" }

// nulls opens those of the payload's standard input and output anew that are
// the host's /dev/null: an open file of the host's would keep the container
// from being written into files. It must be the device, as in every container,
// since opening something else could wait. If it can't be opened, the host's
// stays. free is the number that an opened file gets: all below are in use, all
// above closed.
func (b *builder) nulls(add func(nr uintptr, args ...uintptr) child.Step, free uintptr) {
	null := func(n int, file string) bool {
		st, err := sys.Statx(n, file, unix.STATX_TYPE)
		return err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev_major == 1 && st.Rdev_minor == 3
	}
	const name = "/dev/null"
	at, err := sys.Openat2(b.tree.Root(), name, unix.O_PATH|unix.O_NOFOLLOW, 0, sys.InRoot)
	if err != nil {
		return
	}
	defer sys.Close(at)
	if b.plan.Payload.Exact.Terminal || !null(at, "") {
		return
	}
	for n := range 3 {
		flags, err := sys.StatusFlags(n)
		if err != nil {
			return // the next one that is opened would get its number
		}
		if null(n, "") {
			add(unix.SYS_OPENAT, atFdcwd, b.prog.String(name), uintptr(flags&unix.O_ACCMODE)|unix.O_NOFOLLOW|unix.O_NOCTTY, 0).
				Allow(unix.EACCES, unix.EPERM, unix.ENOENT, unix.ENXIO, unix.ENODEV, unix.EROFS, unix.ENOSYS, unix.EMFILE, unix.ELOOP)
			add(unix.SYS_DUP3, free, uintptr(n), 0).Allow(unix.EBADF)
			add(unix.SYS_CLOSE, free).Allow(unix.EBADF)
		}
	}
}

// capSets sets all capability sets but the bounding set.
func (b *builder) capSets(add func(nr uintptr, args ...uintptr) child.Step, caps settings.CapSets) {
	add(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{
		{Effective: uint32(caps.Effective), Permitted: uint32(caps.Permitted), Inheritable: uint32(caps.Inheritable)},
		{Effective: uint32(caps.Effective >> 32), Permitted: uint32(caps.Permitted >> 32), Inheritable: uint32(caps.Inheritable >> 32)},
	}
	add(unix.SYS_CAPSET, child.Keep(b.prog, hdr), child.Keep(b.prog, data))
	for c := range uintptr(bits.Len64(caps.Ambient)) {
		if caps.Ambient>>c&1 == 1 {
			add(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, c, 0, 0)
		}
	}
}

const atFdcwd = ^uintptr(99) // AT_FDCWD, -100

// capsNow are the capabilities that the first process has when its program
// comes to them: all in a user namespace, else the launcher's bounding set.
func (b *builder) capsNow() uint64 { return b.plan.HostCaps }

// cpuMask is a list of processors as sched_setaffinity(2) takes it.
func cpuMask(cpus settings.CPUs) []byte {
	last := cpus[len(cpus)-1]
	mask := make([]byte, last/64*8+8)
	for _, n := range cpus {
		mask[n/8] |= 1 << (n % 8)
	}
	return mask
}

// sockFprog is the kernel's struct sock_fprog.
type sockFprog struct {
	length uint16
	_      [6]byte
	filter uintptr
}
