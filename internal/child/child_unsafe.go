package child

import (
	"errors"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// clone makes a child that runs the ops, and gives its number or an errno. It
// is assembly: the child must not run a single instruction of Go, since it has
// the parent's goroutine but not its stack.
//
//go:noescape
func clone(args *cloneArgs, size uintptr, ops *Op) (pid int, errno uintptr)

// cloneArgs is the kernel's struct clone_args. What has no name here (child_tid,
// tls) stays zero.
type cloneArgs struct {
	flags, pidfd, _, parentTID, exitSignal, stack, stackSize, _, setTID, setTIDSize, cgroup uint64
}

const (
	cloneVM           = unix.CLONE_VM
	clonePidfd        = unix.CLONE_PIDFD
	cloneClearSighand = 0x100000000
	cloneIntoCgroup   = 0x200000000
)

// Options of Start.
type Options struct {
	// Namespaces are CLONE_NEW… flags.
	Namespaces uint64
	// ShareFiles: descriptors that the child opens are the launcher's, too.
	ShareFiles bool
	// Cgroup is a descriptor of the cgroup (v2) to start in, or 0.
	Cgroup int
	// PID is the child's number in its own pid namespace, or 0: the next one.
	// One that is given leaves the next one to whoever is born next.
	PID int32
}

// Process is a started child.
type Process struct {
	PID   int
	Pidfd int
	prog  *Program
	stack []byte
	pidfd int32 // as the kernel writes it
	pid   int32 // as the kernel reads it
}

// Start clones a child that runs the program. All signals are blocked in it;
// the program's last steps unblock them. The thread is the child's parent for
// PR_SET_PDEATHSIG: when it ends, the child gets that signal.
func Start(l sys.Locked, p *Program, o Options) (*Process, error) {
	sys.Settle(l)
	// c is on the heap, which doesn't move, since it is what is returned.
	// The child never uses its stack, but the kernel wants one.
	c := &Process{prog: p, stack: make([]byte, 256)}
	args := &cloneArgs{
		flags:      cloneVM | clonePidfd | cloneClearSighand | o.Namespaces,
		pidfd:      uint64(uintptr(unsafe.Pointer(&c.pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(uintptr(unsafe.Pointer(&c.stack[0]))),
		stackSize:  uint64(len(c.stack)),
	}
	if o.ShareFiles {
		args.flags |= unix.CLONE_FILES
	}
	if o.Cgroup > 0 {
		args.flags |= cloneIntoCgroup
		args.cgroup = uint64(o.Cgroup)
	}
	if o.PID > 0 {
		c.pid = o.PID
		args.setTID, args.setTIDSize = uint64(uintptr(unsafe.Pointer(&c.pid))), 1
	}
	if err := sys.Count("clone3"); err != nil {
		return nil, err
	}
	// Other goroutines must not be between opening a descriptor and marking it
	// close-on-exec.
	syscall.ForkLock.Lock()
	// A signal that arrives between clone and the child's first own mask would
	// run Go's handler on the child's stack.
	all, old := ^uint64(0), uint64(0)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	pid, errno := clone(args, unsafe.Sizeof(*args), &p.ops[0])
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(args)
	sys.Counted()
	if errno != 0 {
		return nil, unix.Errno(errno)
	}
	c.PID, c.Pidfd = pid, int(c.pidfd)
	return c, nil
}

// Failure gives the op that failed, or nil. It means something once the child
// has exec'ed or ended.
func (c *Process) Failure() *Failure {
	for i := range c.prog.ops {
		op := &c.prog.ops[i]
		if op.Ret == pending {
			return nil
		}
		switch e := -op.Ret; {
		case e-1 < 4095 && (op.Flags&failed != 0 || !(e < 64 && op.Allow>>e&1 == 1)):
			return &Failure{i, c.prog.names[i], unix.Errno(e)}
		case op.Ret == 0 && op.Flags&needResult != 0, op.Ret != 0 && e-1 >= 4095 && op.Flags&needNone != 0:
			return &Failure{i, c.prog.names[i], 0}
		}
	}
	return nil
}

// Result gives what the i-th op returned, and whether it has.
func (c *Process) Result(i int) (int, bool) {
	r := c.prog.ops[i].Ret
	return int(r), r != pending
}

// sharedSize is more than a process can be given in arguments; what isn't used
// costs nothing.
const sharedSize = 64 << 20

// NewForking gives a program whose child may go on with memory of its own (see
// AddRebirth): what the launcher writes later reaches it all the same.
func NewForking(max int) (*Program, error) {
	b, err := unix.Mmap(-1, 0, sharedSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, err
	}
	room := unsafe.Sizeof(Op{}) * uintptr(max+1)
	p := &Program{ops: unsafe.Slice((*Op)(unsafe.Pointer(&b[0])), max+1)[:1], shared: b[room:]}
	p.ops[0] = Op{Nr: end, Ret: pending}
	return p, nil
}

// put puts a value of plain memory, without pointers, where the child sees it.
func put[T any](p *Program, list []T) uintptr {
	if p.shared == nil {
		p.keep = append(p.keep, list)
		return uintptr(unsafe.Pointer(unsafe.SliceData(list)))
	}
	size := int(unsafe.Sizeof(*new(T))) * len(list)
	at := p.shared[:size]
	copy(at, unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(list))), size))
	p.shared = p.shared[(size+15)&^15:]
	return uintptr(unsafe.Pointer(unsafe.SliceData(at)))
}

// String puts a C string into the program's memory.
func (p *Program) String(s string) uintptr { return put(p, append([]byte(s), 0)) }

// Strings puts a null-terminated array of C strings into the program's memory.
func (p *Program) Strings(list ...string) uintptr {
	a := make([]uintptr, len(list)+1)
	for i, s := range list {
		a[i] = p.String(s)
	}
	return put(p, a)
}

// Bytes puts data into the program's memory.
func (p *Program) Bytes(b []byte) uintptr { return Values(p, b) }

// Keep gives the address of what a pointer points to, which has no pointers,
// and holds it. In a forking program it is a copy.
func Keep[T any](p *Program, v *T) uintptr { return put(p, unsafe.Slice(v, 1)) }

// Values puts plain values, without pointers, into the program's memory.
func Values[T any](p *Program, list []T) uintptr { return put(p, append([]T(nil), list...)) }

// Uint32s puts numbers into the program's memory.
func (p *Program) Uint32s(list []uint32) uintptr { return Values(p, list) }

// Uint64s puts numbers into the program's memory.
func (p *Program) Uint64s(list []uint64) uintptr { return Values(p, list) }

// rebirth is what a child that is born again needs.
type rebirth struct {
	args  cloneArgs
	pid   int32
	pidfd int32
	stack [256]byte
}

// forkFlags are those of clone(2) for who is born again with memory of its own, in no
// new namespaces.
const forkFlags = unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID

// AddRebirth appends a step after which another process goes on with the
// program: a new child of ours, with new namespaces that belong to the users
// that the first one joined meanwhile. The first one ends. See Reborn. In a
// forking program the other one has memory of its own, as some calls want it.
//
// With sharesFiles the first one is started with ShareFiles, and leaves us the
// pidfd of the other. Without, it must be in our pid namespace, since it tells
// the other's number as it sees it.
func (p *Program) AddRebirth(name string, namespaces uint64, sharesFiles bool) {
	// The loop never uses a stack, but the kernel wants one.
	r := &rebirth{pidfd: -1}
	r.args = cloneArgs{
		flags:     cloneVM | unix.CLONE_PARENT | unix.CLONE_PARENT_SETTID | namespaces,
		parentTID: uint64(uintptr(unsafe.Pointer(&r.pid))),
		stack:     uint64(uintptr(unsafe.Pointer(&r.stack[0]))),
		stackSize: uint64(len(r.stack)),
	}
	if sharesFiles {
		r.args.flags |= clonePidfd
		r.args.pidfd = uint64(uintptr(unsafe.Pointer(&r.pidfd)))
	}
	if p.Forks() {
		r.args.flags &^= cloneVM
		r.args.stack, r.args.stackSize = 0, 0
	}
	p.reborn = r
	if p.Forks() && !sharesFiles && namespaces == 0 {
		// Filters of containers allow the old call, and not the new one.
		p.Add(name, unix.SYS_CLONE, forkFlags, 0, uintptr(unsafe.Pointer(&r.pid))).NeedNone()
		return
	}
	p.Add(name, unix.SYS_CLONE3, Keep(p, &r.args), unsafe.Sizeof(r.args)).NeedNone()
}

// Reborn waits for the first process to end, and makes c the one that goes on
// after the step i, which AddRebirth made. Of one that comes as a pidfd, the
// number is not known.
func (c *Process) Reborn(i int) error {
	if _, _, err := sys.Wait(c.Pidfd); err != nil {
		return err
	}
	r := c.prog.reborn
	if r.pid == 0 {
		if f := c.Failure(); f != nil {
			return f
		}
		return errors.New("the first process was ended before its time")
	}
	n, pid := int(r.pidfd), 0
	if n < 0 {
		var err error
		pid = int(r.pid)
		if n, err = sys.PidfdOpen(pid); err != nil {
			return err
		}
	}
	sys.Close(c.Pidfd)
	c.PID, c.Pidfd = pid, n
	// Both wrote what the call gave them.
	c.prog.ops[i].Ret = 0
	return nil
}
