package container

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/notify"
	"launch/internal/sys"
	"launch/mount"
	"launch/settings"
)

// A container that a service manager waits for gets a socket of its own: its
// messages are read here, and what may be said is said to the manager. The
// socket's directory is bound, since there is a socket only while somebody
// reads it: from start on.
const (
	notifyDir    = "notify"
	notifyInside = "/run/notify"
	notifySocket = "notify.sock"
)

// notified puts the directory and the variable into the settings.
func notified(s *settings.Settings, dir string) {
	s.Mounts = append(s.Mounts, mount.Mount{Kind: mount.Bind, Source: mount.Path{Path: path.Join(dir, notifyDir)}, Target: notifyInside, NoRecurse: true,
		Set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC})
	s.Exec.Env = append(s.Exec.Env, "NOTIFY_SOCKET="+notifyInside+"/"+notifySocket)
}

// listen makes the socket; -1 for a container that was made without one.
func (d *Dir) listen() (int, error) {
	dir, err := sys.Openat(d.fd, notifyDir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return -1, nil
	}
	var n int
	if err == nil {
		defer sys.Close(dir)
		if err := sys.Unlinkat(dir, notifySocket, 0); err != nil && err != unix.ENOENT {
			return -1, fmt.Errorf("remove the socket for notifications: %w", err)
		}
		if n, err = notify.Listen(dir, notifySocket, 0, 0); err == nil {
			// Who the payload becomes is its own business.
			err = sys.Fchmodat(dir, notifySocket, 0o222)
		}
	}
	if err != nil {
		return -1, fmt.Errorf("make the socket for notifications: %w", err)
	}
	return n, nil
}

// Forward tells the service manager at socket what the container says of
// itself, until it is ready, or, with all, until its end. main makes the
// container's first process the service's main one.
func (d *Dir) Forward(n int, socket string, main, all bool) error {
	if n < 0 {
		return nil
	}
	ear := notify.NewEar(n, 0, nil)
	defer ear.Close()
	pid := d.PID // another goroutine may load the state again
	process, err := d.Pidfd()
	if errors.Is(err, ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(process)
	for gone := false; ; {
		fds := []unix.PollFd{{Fd: int32(ear.FD()), Events: unix.POLLIN}, {Fd: int32(process), Events: unix.POLLIN}}
		if _, err := sys.Poll(fds, -1); err != nil {
			return fmt.Errorf("wait for the container to be ready: %w", err)
		}
		take := ear.Take
		if gone = fds[1].Revents != 0; gone {
			take = func() (notify.State, bool, error) { return ear.Rest(notify.Last) }
		} else if fds[0].Revents == 0 {
			continue
		}
		s, ok, err := take()
		if err != nil {
			return fmt.Errorf("read what the container notifies: %w", err)
		}
		var tell []string
		if s.Ready {
			tell = append(tell, "READY=1")
			if main {
				tell = append(tell, fmt.Sprintf("MAINPID=%d", pid))
			}
		}
		if s.Stopping {
			tell = append(tell, "STOPPING=1")
		}
		if s.Status != "" {
			tell = append(tell, "STATUS="+s.Status)
		}
		if ok && len(tell) > 0 {
			if err := notify.Send(socket, tell...); err != nil {
				return err
			}
		}
		if gone || s.Ready && !all {
			return nil
		}
	}
}
