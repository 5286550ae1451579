package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/console"
	"launch/internal/engine"
	"launch/internal/sys"
)

// front is what stands before a process that is waited for: it passes signals
// on, and what is typed and shown if it has a terminal.
type front struct {
	detach  bool
	socket  bool
	master  int
	signals *sys.Caught
}

func newFront(detach bool, socket string) (*front, error) {
	f := &front{detach: detach, socket: socket != "", master: -1}
	if detach {
		return f, nil
	}
	var err error
	if f.signals, err = sys.Catch(passed()...); err != nil {
		return nil, fmt.Errorf("catch signals: %w", err)
	}
	return f, nil
}

// passed are the signals that don't stay here: all but those that tell a
// program of its own mistakes, those that Go or a C library has a use for, those
// that can't be caught, and those that nohup(1) or a shell has us ignore: the
// payload ignores them too.
func passed() []unix.Signal {
	const last = 64
	list := make([]unix.Signal, 0, last)
	for s := unix.Signal(1); s <= last; s++ {
		switch s {
		case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGURG,
			unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGPROF, 32, 33:
		case unix.SIGHUP, unix.SIGINT:
			if !sys.Ignored(s) {
				list = append(list, s)
			}
		default:
			list = append(list, s)
		}
	}
	return list
}

// takes gives what takes the terminal, if nobody else does.
func (f *front) takes() func(int) error {
	if f.detach || f.socket {
		return nil
	}
	return func(n int) (err error) {
		f.master, err = sys.Dup(n)
		return err
	}
}

// wait stays with the process until its end, and gives its exit status as a
// shell would.
func (f *front) wait(c *engine.Container) (int, error) {
	var fwd *console.Forwarder
	if f.master >= 0 {
		var err error
		if fwd, err = console.New(console.Config{In: 0, Out: 1, Master: f.master, Mode: console.Interactive}); err != nil {
			sys.PidfdSignal(c.Pidfd, int(unix.SIGKILL))
			sys.Wait(c.Pidfd)
			return 1, fmt.Errorf("set up the terminal: %w", err)
		}
		defer fwd.Restore()
	}
	var fds []unix.PollFd
	for {
		fds = append(fds[:0], unix.PollFd{Fd: int32(c.Pidfd), Events: unix.POLLIN}, unix.PollFd{Fd: int32(f.signals.R), Events: unix.POLLIN})
		timeout := -1
		if fwd != nil {
			fds = fwd.Fds(fds)
			timeout = fwd.Timeout()
		}
		if _, err := sys.Poll(fds, timeout); err != nil {
			return 1, fmt.Errorf("wait for the process: %w", err)
		}
		if fds[1].Revents != 0 {
			for _, sig := range f.signals.Pending() {
				switch {
				case sig.Number == unix.SIGPIPE && sig.Sender == os.Getpid():
					// The kernel's, for what was written where nobody reads.
				case sig.Number == unix.SIGWINCH && f.master >= 0:
					if fwd != nil {
						fwd.Resize()
					}
				default:
					sys.PidfdSignal(c.Pidfd, int(sig.Number))
				}
			}
		}
		if fwd != nil {
			if _, err := fwd.Handle(fds[2:]); err != nil {
				fwd.Restore()
				fwd = nil
			}
		}
		if fds[0].Revents != 0 {
			break
		}
	}
	code, status, err := sys.Wait(c.Pidfd)
	if fwd != nil {
		fwd.Drain(time.Second)
	}
	if err != nil {
		return 1, fmt.Errorf("reap the process: %w", err)
	}
	if code != 1 { // CLD_EXITED
		status += 128
	}
	return status, nil
}
