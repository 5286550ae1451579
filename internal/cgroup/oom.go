package cgroup

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// OOM tells when the kernel kills in a group because its memory is used up.
type OOM struct {
	n     int // what is polled
	file  int // memory.oom_control (version 1), memory.events (version 2)
	empty int // version 2: cgroup.events
	dir   Dir
	kills uint64
}

// ErrNoMemoryController says that no OOM can be seen.
var ErrNoMemoryController = errors.New("the container's cgroup has no memory controller")

// WatchOOM begins to watch.
func (g Group) WatchOOM() (*OOM, error) {
	d, ok := g.dir("memory")
	if !ok {
		return nil, ErrNoMemoryController
	}
	o := &OOM{n: -1, file: -1, empty: -1, dir: d}
	if err := o.begin(); err != nil {
		o.Close()
		return nil, fmt.Errorf("watch cgroup %s for OOM: %w", d, err)
	}
	return o, nil
}

func (o *OOM) begin() error {
	dir, err := o.dir.open()
	if err != nil {
		return err
	}
	defer sys.Close(dir)
	if o.dir.Version == 1 {
		if o.n, err = sys.Eventfd(unix.EFD_NONBLOCK); err != nil {
			return err
		}
		if o.file, err = sys.Openat(dir, "memory.oom_control", unix.O_RDONLY, 0); err != nil {
			return err
		}
		o.kills = o.read("oom_kill")
		return sys.WriteFile(dir, "cgroup.event_control", strconv.Itoa(o.n)+" "+strconv.Itoa(o.file))
	}
	if o.n, err = sys.InotifyInit(unix.IN_NONBLOCK); err != nil {
		return err
	}
	if o.file, err = sys.Openat(dir, "memory.events", unix.O_RDONLY, 0); err != nil {
		return err
	}
	if o.empty, err = sys.Openat(dir, "cgroup.events", unix.O_RDONLY, 0); err != nil {
		return err
	}
	for _, file := range [...]string{"memory.events", "cgroup.events"} {
		if _, err = sys.InotifyAdd(o.n, o.dir.String()+"/"+file, unix.IN_MODIFY|unix.IN_DELETE_SELF); err != nil {
			return err
		}
	}
	o.kills = o.read("oom_kill")
	return nil
}

func (o *OOM) read(name string) uint64 {
	text, err := eventOf(o.file, name)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return n
}

// Fd is a descriptor that becomes readable when Next has something to say.
func (o *OOM) Fd() int { return o.n }

// Next waits for the next thing and tells what it is: memory ran out, or the
// group has ended (its last process, in version 2; the cgroup itself, in
// version 1). timeout is in milliseconds, -1 for ever; when it has passed,
// both are false.
func (o *OOM) Next(timeout int) (oom, end bool, err error) {
	for {
		p := []unix.PollFd{{Fd: int32(o.n), Events: unix.POLLIN}}
		n, err := sys.Poll(p, timeout)
		if err != nil {
			return false, false, fmt.Errorf("wait for OOM in cgroup %s: %w", o.dir, err)
		}
		if n == 0 {
			if timeout < 0 {
				continue
			}
			return false, false, nil
		}
		b := make([]byte, 4096)
		if _, err := sys.Read(o.n, b); err != nil && err != unix.EAGAIN {
			return false, false, fmt.Errorf("wait for OOM in cgroup %s: %w", o.dir, err)
		}
		before := o.kills
		if o.dir.Version == 1 {
			// The kernel also wakes us when the cgroup is removed.
			if d, err := o.dir.open(); err != nil {
				return false, true, nil
			} else {
				sys.Close(d)
			}
			o.kills = o.read("oom_kill")
			return true, false, nil
		}
		o.kills = o.read("oom_kill")
		populated, err := eventOf(o.empty, "populated")
		oom, end = o.kills > before, err != nil || populated == "0"
		if oom || end {
			return oom, end, nil
		}
	}
}

// Close ends the watching.
func (o *OOM) Close() {
	for _, n := range [...]*int{&o.n, &o.file, &o.empty} {
		if *n >= 0 {
			sys.Close(*n)
			*n = -1
		}
	}
}
