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
	if err = sys.BindUnix(n, sys.FdPath(dir)+"/"+name); err == nil {
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

// Stored is a request to keep descriptors (FDSTORE=1), or to close those that
// are kept under a name (FDSTOREREMOVE=1).
type Stored struct {
	Name   string
	Remove bool
	// Poll: those whose other end is gone need not be kept.
	Poll bool
	// Fds are open as long as the function runs that is told.
	Fds []int
}

// Receive takes the messages that wait. It gives what the process pid said;
// what others said is dropped. With pid 0 everybody is heard who could reach
// the socket. Who wants to be told of descriptors gives a function; else they
// are closed.
func Receive(n, pid int, store func(Stored)) (State, error) {
	var s State
	// Bounded, so that a flood can't keep the launcher from its other work.
	for range 64 {
		m, err := sys.Receive(n, maxMessage, store != nil)
		if err == unix.EAGAIN {
			return s, nil
		}
		if err != nil {
			return s, err
		}
		if !m.Truncated && (pid == 0 || int(m.Sender.Pid) == pid) {
			s.add(string(m.Data))
			if d, ok := stored(string(m.Data), m.Fds); ok && store != nil {
				store(d)
			}
		}
		for _, f := range m.Fds {
			sys.Close(f)
		}
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

// stored reads what a message says of descriptors.
func stored(text string, fds []int) (d Stored, ok bool) {
	d.Poll = true
	for line := range strings.SplitSeq(text, "\n") {
		key, value, _ := strings.Cut(line, "=")
		switch key {
		case "FDSTORE":
			ok = ok || value == "1" && len(fds) > 0
		case "FDSTOREREMOVE":
			d.Remove = d.Remove || value == "1"
		case "FDNAME":
			d.Name = value
		case "FDPOLL":
			d.Poll = value != "0"
		}
	}
	// What the service manager takes for a name.
	if len(d.Name) > 255 || strings.IndexFunc(d.Name, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' }) >= 0 {
		return d, false
	}
	if d.Remove {
		return d, d.Name != ""
	}
	d.Fds = fds
	return d, ok
}

// Store passes such a request on to the service manager, whose socket is at
// path.
func Store(path string, d Stored) error {
	lines := []string{"FDSTORE=1"}
	if d.Remove {
		lines[0] = "FDSTOREREMOVE=1"
	}
	if d.Name != "" {
		lines = append(lines, "FDNAME="+d.Name)
	}
	if !d.Poll {
		lines = append(lines, "FDPOLL=0")
	}
	return send(path, d.Fds, lines)
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
func Send(path string, assignments ...string) error { return send(path, nil, assignments) }

func send(path string, fds []int, assignments []string) error {
	if path == "" || path[0] != '/' && path[0] != '@' {
		return nil
	}
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer sys.Close(n)
	text := []byte(strings.Join(assignments, "\n"))
	if len(fds) == 0 {
		err = sys.SendUnix(n, text, path)
	} else if err = sys.ConnectUnix(n, path); err == nil {
		err = sys.SendRights(n, text, fds...)
	}
	if err != nil {
		return fmt.Errorf("notify the service manager at %s: %w", path, err)
	}
	return nil
}
