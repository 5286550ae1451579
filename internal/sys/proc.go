package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Unshare gives the calling thread new namespaces (CLONE_NEW… and CLONE_FS).
func Unshare(_ Locked, flags int) error {
	_, err := call("unshare", unix.SYS_UNSHARE, uintptr(flags), 0, 0, 0, 0, 0)
	return err
}

// Setns puts the calling thread into namespaces of the process (pidfd) or of
// the namespace descriptor n.
func Setns(_ Locked, n int, flags int) error {
	_, err := call("setns", unix.SYS_SETNS, fd(n), uintptr(flags), 0, 0, 0, 0)
	return err
}

// Fchdir changes the thread's working directory (the process's, unless the
// thread unshared CLONE_FS).
func Fchdir(_ Locked, n int) error {
	_, err := call("fchdir", unix.SYS_FCHDIR, fd(n), 0, 0, 0, 0, 0)
	return err
}

// Chdir changes the thread's working directory by path.
func Chdir(_ Locked, path string) error {
	p, err := str(path)
	if err != nil {
		return err
	}
	_, err = call("chdir", unix.SYS_CHDIR, uintptr(unsafe.Pointer(p)), 0, 0, 0, 0, 0)
	return err
}

// Umask sets the umask and gives the old one.
func Umask(_ Locked, mask int) int {
	r, _ := call("umask", unix.SYS_UMASK, uintptr(mask), 0, 0, 0, 0, 0)
	return int(r)
}

// Sethostname sets the host name of the thread's UTS namespace.
func Sethostname(_ Locked, name string) error {
	b := []byte(name)
	_, err := call("sethostname", unix.SYS_SETHOSTNAME, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0, 0)
	return err
}

// Kill sends a signal by number of process.
func Kill(pid int, sig int) error {
	_, err := call("kill", unix.SYS_KILL, uintptr(pid), uintptr(sig), 0, 0, 0, 0)
	return err
}

// PidfdOpen gives a descriptor of a process.
func PidfdOpen(pid int) (int, error) {
	return result(call("pidfd_open", unix.SYS_PIDFD_OPEN, uintptr(pid), 0, 0, 0, 0, 0))
}

// PidfdSignal sends a signal to the process that the descriptor is.
func PidfdSignal(pidfd int, sig int) error {
	_, err := call("pidfd_send_signal", unix.SYS_PIDFD_SEND_SIGNAL, fd(pidfd), uintptr(sig), 0, 0, 0, 0)
	return err
}

// Wait waits until the child that the descriptor is has ended, and reaps it.
// code is CLD_EXITED, CLD_KILLED or CLD_DUMPED; status the exit status or the
// signal.
func Wait(pidfd int) (code, status int, err error) {
	var info [128]byte
	_, err = call("waitid", unix.SYS_WAITID, unix.P_PIDFD, fd(pidfd), uintptr(unsafe.Pointer(&info)), unix.WEXITED|unix.WALL, 0, 0)
	if err != nil {
		return 0, 0, err
	}
	// siginfo: signo, errno, code, (padding), pid, uid, status.
	code = int(*(*int32)(unsafe.Pointer(&info[8])))
	status = int(*(*int32)(unsafe.Pointer(&info[24])))
	return code, status, nil
}

// Poll waits until one of the descriptors is ready; timeout in milliseconds,
// -1 for ever. EINTR is given to the caller as no event.
func Poll(fds []unix.PollFd, timeout int) (int, error) {
	ts := unix.NsecToTimespec(int64(timeout) * 1e6)
	t := &ts
	if timeout < 0 {
		t = nil
	}
	r, err := callOnce("ppoll", unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(fds))), uintptr(len(fds)), uintptr(unsafe.Pointer(t)), 0, 0, 0)
	if err == unix.EINTR {
		return 0, nil
	}
	return result(r, err)
}

// PollAwake is Poll for what is about to happen: for a moment, the thread stays awake,
// and lets others run that want to.
func PollAwake(fds []unix.PollFd, timeout int) (int, error) {
	const most = 400 // as Gate.Watch
	for i := 0; i < most && !Faults; i++ {
		if n, err := Poll(fds, 0); n != 0 || err != nil {
			return n, err
		}
		yield()
	}
	return Poll(fds, timeout)
}

// Ioctl makes a request with a plain number as argument.
func Ioctl(n int, req uint, arg uintptr) (int, error) {
	return result(call("ioctl", unix.SYS_IOCTL, fd(n), uintptr(req), arg, 0, 0, 0))
}

// Unread gives how many bytes lie in a pipe.
func Unread(n int) (int, error) {
	var bytes int32
	err := IoctlPtr(n, unix.TIOCINQ, unsafe.Pointer(&bytes))
	return int(bytes), err
}

// IoctlPtr makes a request with a pointer as argument.
func IoctlPtr(n int, req uint, arg unsafe.Pointer) error {
	_, err := call("ioctl", unix.SYS_IOCTL, fd(n), uintptr(req), uintptr(arg), 0, 0, 0)
	return err
}

// Prctl makes a prctl call with up to two arguments.
func Prctl(op int, a, b uintptr) error {
	_, err := call("prctl", unix.SYS_PRCTL, uintptr(op), a, b, 0, 0, 0)
	return err
}

// Socket makes a close-on-exec socket.
func Socket(family, kind, proto int) (int, error) {
	return result(call("socket", unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_CLOEXEC), uintptr(proto), 0, 0, 0))
}
