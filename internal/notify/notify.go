// Package notify speaks sd_notify both ways: to the service manager that
// started the launcher, and from the machine's first process to us.
//
// It guarantees that only what the first process itself sends is believed, that
// nothing else of a message than the few assignments below gets through, and
// that no message makes anybody wait. It refuses to know what a state means.
//
// Room: host.
package notify

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// maxMessage is how long a datagram of the machine's may be. A longer one is
// thrown away.
const maxMessage = 4096

// Listen makes the socket name in the directory that the descriptor is, for
// the machine's user to write to.
func Listen(dir int, name string, uid, gid uint32) (int, error) {
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return -1, err
	}
	// The directory has no name yet that leads to it, but its descriptor has.
	if err = sys.BindUnix(n, fmt.Sprintf("/proc/thread-self/fd/%d/%s", dir, name)); err == nil {
		err = sys.PassCred(n)
	}
	if err == nil {
		err = sys.Fchmodat(dir, name, 0o200)
	}
	if err == nil && uid != 0 {
		err = sys.Fchownat(dir, name, uid, gid)
	}
	if err != nil {
		sys.Close(n)
		return -1, err
	}
	return n, nil
}

// State is what the machine said of itself.
type State struct {
	Ready, Stopping bool
	// Status is one line of printable text, or "".
	Status string
}

// Receive takes the messages that wait. It gives what the process pid said;
// what others said is dropped. With pid 0 everybody is heard who could reach
// the socket.
func Receive(n, pid int) (State, error) {
	var s State
	// Bounded, so that a flood can't keep the launcher from its other work.
	for range 64 {
		m, err := sys.Receive(n, maxMessage)
		if err == unix.EAGAIN {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if m.Truncated || pid != 0 && int(m.Sender.Pid) != pid {
			continue
		}
		s.add(string(m.Data))
	}
	return s, nil
}

func (s *State) add(text string) {
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "READY":
			s.Ready = s.Ready || value == "1"
		case "STOPPING":
			s.Stopping = s.Stopping || value == "1"
		case "STATUS":
			s.Status = Clean(value)
		}
	}
}

// Clean makes a machine's text fit to be shown and passed on: control
// characters become blanks, and it is cut at 256 bytes.
func Clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	if len(text) > 256 {
		text = strings.ToValidUTF8(text[:256], "")
	}
	return text
}

// Watchdog gives within what time the service manager wants to be told WATCHDOG=1,
// 0 if it doesn't want to, or not from this process. usec and pid are
// $WATCHDOG_USEC and $WATCHDOG_PID.
func Watchdog(usec, pid string, self int) time.Duration {
	if pid != "" && pid != strconv.Itoa(self) {
		return 0
	}
	n, err := strconv.ParseUint(usec, 10, 64)
	if err != nil || n > uint64(math.MaxInt64/time.Microsecond) {
		return 0 // infinity, too, is written as a number
	}
	return time.Duration(n) * time.Microsecond
}

// Send tells the service manager, whose socket is at path; without one it does
// nothing.
func Send(path string, assignments ...string) error {
	if path == "" || path[0] != '/' && path[0] != '@' {
		return nil
	}
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer sys.Close(n)
	if err := sys.SendUnix(n, []byte(strings.Join(assignments, "\n")), path); err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", path, err)
	}
	return nil
}
