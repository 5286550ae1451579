package engine

import (
	"errors"
	"fmt"
	"time"

	"launch/internal/netns"
	"launch/settings"
)

// forward takes ports of the host for the machine, which keeps them when it
// reboots. They lead nowhere yet.
func (s *supervisor) forward() error {
	list := s.plan.Forwards
	if len(list) == 0 {
		return nil
	}
	ports := make([]netns.Port, len(list))
	for i, p := range list {
		ports[i] = netns.Port{Protocol: p.Protocol, Host: p.Host, Machine: p.Machine}
	}
	var err error
	if s.ports, err = netns.Forward(s.plan.Machine, ports); err == nil {
		return nil
	}
	e := &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", s.plan.Machine, err), Origin: list[0].Origin, Value: list[0].String(),
		Hint: "it takes a kernel with nftables and NAT, and rights over the host's network"}
	var taken *netns.TakenError
	if errors.As(err, &taken) {
		for i, p := range ports {
			if p == taken.Port {
				e.Origin, e.Value = list[i].Origin, list[i].String()
			}
		}
		e.Hint = fmt.Sprintf("stop that machine, or give another port of the host, as --port=%s:PORT:%d", taken.Port.Protocol, taken.Port.Machine)
		if taken.Peer {
			e.Hint = "stop its machine; one that was killed leaves that in the nftables table io.systemd.nat"
		}
	}
	return e
}

// follower lets ports lead to wherever the machine's address is.
type follower struct {
	watch *netns.Watch
	ports *netns.Ports
	warn  func(string)
	// next is when to look again: a machine that changes its addresses without
	// end must not keep the launcher busy, nor whoever else has rules.
	next time.Time
	due  bool // then, whether or not anything is heard
	// failed: the last look has, and that was said.
	failed bool
}

// pause is the least time between two looks, and patient that after one that
// failed.
const (
	pause   = 100 * time.Millisecond
	patient = time.Second
)

// look looks once, if it is time.
func (f *follower) look(heard bool) {
	if f == nil || !heard && !f.due {
		return
	}
	began := time.Now()
	if began.Before(f.next) {
		return
	}
	f.due = false
	v4, v6, err := f.watch.Addresses()
	if err == nil {
		err = f.ports.To(v4, v6)
	}
	now := time.Now()
	f.next = now.Add(max(pause, 10*now.Sub(began)))
	if err == nil {
		f.failed = false
		return
	}
	if !f.failed {
		f.warn(fmt.Sprintf("forward ports: %v; it is tried again", err))
	}
	f.next, f.due, f.failed = now.Add(patient), true, true
}

// poll gives what to listen to, -1 as long as nothing is to be heard, and the
// milliseconds after which that changes, -1 for never.
func (f *follower) poll() (fd, timeout int) {
	if f == nil {
		return -1, -1
	}
	if left := time.Until(f.next); left > 0 {
		return -1, int(left/time.Millisecond) + 1
	}
	if f.due {
		return f.watch.FD(), 0
	}
	return f.watch.FD(), -1
}

// close is for the end of the machine: its address is gone, and if that was the last
// of it, so are its ports.
func (f *follower) close(last bool) {
	f.watch.Close()
	if last {
		f.ports.Free()
	} else if err := f.ports.To("", ""); err != nil {
		f.warn(err.Error())
	}
}
