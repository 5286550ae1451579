package engine

import (
	"launch/internal/netns"
	"launch/settings"
)

// moveNetDevices moves interfaces of the host into the container's network
// namespace.
func (b *builder) moveNetDevices() error {
	for _, d := range b.plan.NetDevices {
		i, err := netns.Look(d.Name)
		if err == nil {
			err = i.Move(b.proc.PID, d.As)
		}
		if err != nil {
			return &settings.Error{What: "cannot move a network interface: " + err.Error(), Origin: d.Origin, Value: d.Name}
		}
		b.moved = append(b.moved, i)
	}
	return nil
}

// setUpNetDevices does the rest in the container's network namespace.
func (b *builder) setUpNetDevices() error {
	for _, i := range b.moved {
		if err := i.SetUp(); err != nil {
			return err
		}
	}
	return nil
}
