package sys

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Exec replaces the program by another one; it returns only an error.
func Exec(path string, args, env []string) error {
	if Faults {
		if errno := before("execve", unix.SYS_EXECVE); errno != 0 {
			return errno
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	Settle(Locked{})
	err := unix.Exec(path, args, env)
	if Faults {
		after()
	}
	return err
}

// Seals gives what may no longer be done to a file in memory; EINVAL says that
// it is no such file.
func Seals(n int) (int, error) {
	r, err := call("fcntl", unix.SYS_FCNTL, uintptr(n), unix.F_GET_SEALS, 0, 0, 0, 0)
	return int(r), err
}

// CloseOnExec marks all open descriptors from the first on to be closed on exec, which
// those of the caller's may not be.
func CloseOnExec(first int) error {
	_, err := call("close_range", unix.SYS_CLOSE_RANGE, fd(first), ^uintptr(0)>>32, unix.CLOSE_RANGE_CLOEXEC, 0, 0, 0)
	return err
}
