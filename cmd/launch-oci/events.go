package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
	"launch/oci/container"
)

var eventsVerb = &verb{
	name: "events", args: "CONTAINER", help: "tell what a container uses, and when its memory ran out", least: 1, most: 1,
	options: []option{
		{names: "interval", arg: "DURATION", help: "how often, 5s if not told"},
		{names: "stats", help: "once"},
	},
	run: events,
}

// event is a line of events.
type event struct {
	Type string `json:"type"`
	ID   string `json:"id"`
	Data any    `json:"data,omitempty"`
}

func tell(e event) error {
	return sys.WriteString(int(os.Stdout.Fd()), string(append(bundle.AppendValue(nil, e), '\n')))
}

func events(c *call) int {
	interval := 5 * time.Second
	if c.has("interval") {
		var err error
		if interval, err = time.ParseDuration(c.text("interval")); err != nil {
			return c.fail(fmt.Errorf("invalid value %q for --interval: %w", c.text("interval"), err))
		}
	}
	if interval <= 0 {
		return c.fail(errors.New("duration interval must be greater than 0"))
	}
	d, err := c.open()
	if err != nil {
		return c.fail(err)
	}
	defer d.Close()
	status, err := d.Status()
	if err != nil {
		return c.fail(err)
	}
	if status == container.Stopped {
		return c.fail(fmt.Errorf("container with id %s is not running", d.ID))
	}
	if c.on("stats") {
		s, err := d.Stats()
		if err == nil {
			err = tell(event{"stats", d.ID, s})
		}
		if err != nil {
			return c.fail(err)
		}
		return 0
	}
	if err := watch(d, interval); err != nil {
		return c.fail(err)
	}
	return 0
}

// watch tells what happens until the container's first process has ended.
func watch(d *container.Dir, interval time.Duration) error {
	process, err := d.Pidfd()
	if errors.Is(err, container.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sys.Close(process)
	fds := []unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}
	oom, err := d.Group.WatchOOM()
	if err == nil {
		defer oom.Close()
		fds = append(fds, unix.PollFd{Fd: int32(oom.Fd()), Events: unix.POLLIN})
	} else {
		out.warn(err.Error())
	}
	next := time.Now().Add(interval)
	for {
		left := max(time.Until(next), 0)
		if _, err := sys.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond)); err != nil {
			return fmt.Errorf("wait for events: %w", err)
		}
		if len(fds) > 1 && fds[1].Revents != 0 {
			for {
				ran, end, err := oom.Next(0)
				if err != nil {
					return err
				}
				if ran {
					if err := tell(event{"oom", d.ID, nil}); err != nil {
						return err
					}
				}
				if end {
					fds = fds[:1]
				}
				if !ran || end {
					break
				}
			}
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if time.Until(next) > 0 {
			continue
		}
		next = time.Now().Add(interval)
		s, err := d.Stats()
		if err != nil {
			if !d.Alive() {
				return nil
			}
			return err
		}
		if err := tell(event{"stats", d.ID, s}); err != nil {
			return err
		}
	}
}
