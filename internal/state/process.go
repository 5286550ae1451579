package state

import (
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// patience is how long a process may take to end, in milliseconds, before it is
// killed, and after.
const patience = 5000

// end ends the process that began at that time, in ticks since boot. Another one
// that has its number by now is left alone.
func end(pid int, ticks uint64) error {
	n, err := sys.PidfdOpen(pid)
	if err == unix.ESRCH || err == unix.EINVAL { // no process, or no process any more
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for process %d: %w", pid, err)
	}
	defer sys.Close(n)
	// Asked now, so that the descriptor is the right one's.
	if now, ok := Began(pid); !ok || now != ticks {
		return nil
	}
	gone, err := End(n)
	if err == nil && !gone {
		err = unix.ETIMEDOUT
	}
	if err != nil {
		return fmt.Errorf("end process %d: %w", pid, err)
	}
	return nil
}

// End asks a process to end, and kills it if it doesn't. It reports whether it is
// gone; who started it must still reap it.
func End(pidfd int) (gone bool, err error) {
	for _, sig := range [...]unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := sys.PidfdSignal(pidfd, int(sig)); err == unix.ESRCH {
			return true, nil
		} else if err != nil {
			return false, err
		}
		n, err := sys.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, patience)
		if n > 0 || err != nil {
			return n > 0, err
		}
	}
	return false, nil
}
