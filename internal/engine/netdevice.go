package engine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/netns"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
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

// veth makes the pairs of interfaces between host and machine.
func (b *builder) veth() error {
	for _, v := range b.plan.Veth {
		if err := b.pair(v); err != nil {
			return err
		}
	}
	return nil
}

// pair makes one. Its number on the host is chosen before, and recorded: so what
// is removed later is what was made here, and not another of the same name.
func (b *builder) pair(v plan.Veth) error {
	if v.Zone { // before the interface, and so undone after it
		if err := b.state.Record(state.Zone, "/"+v.Bridge); err != nil {
			return err
		}
	}
	mac := func(text string) []byte {
		if a, err := hex.DecodeString(text); err == nil && text != "" {
			return a
		}
		return nil
	}
	p := netns.Pair{Name: v.Host.Name, Alias: v.Host.Alias, MAC: mac(v.Host.MAC), Peer: v.Machine.Name, PeerMAC: mac(v.Machine.MAC), Up: v.Host.Up}
	for try := 0; ; try++ {
		var random [4]byte
		if err := sys.Random(random[:]); err != nil {
			return fmt.Errorf("choose a number for the interface: %w", err)
		}
		p.Index = netns.Numbers + int(binary.NativeEndian.Uint32(random[:])%netns.Numbers)
		if err := b.state.Record(state.Link, fmt.Sprintf("/%s/%d", p.Name, p.Index)); err != nil {
			return err
		}
		err := p.Make(b.proc.PID)
		switch {
		case err == nil:
			return b.bridge(v, p.Index)
		case errors.Is(err, unix.EBUSY) && try < 8:
			continue // the number is taken
		case errors.Is(err, unix.EEXIST):
			e := &settings.Error{What: fmt.Sprintf("cannot make the network interfaces %s and %s: there is one of that name", p.Name, p.Peer), Origin: v.Origin,
				Hint: "it belongs to another machine of this name, or to nobody any more (ip link delete " + p.Name + ")"}
			if v.Machine.Name != "host0" {
				e.Hint = "give it another name"
			}
			return e
		}
		return &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", b.plan.Machine, err), Origin: v.Origin}
	}
}

// bridge joins the host's end of a pair to the bridge that it is for, which then
// stands for it with those who ask for the machine's interfaces.
func (b *builder) bridge(v plan.Veth, index int) error {
	var err error
	switch {
	case v.Zone:
		index, err = netns.JoinZone(v.Bridge, index, v.BridgeUp)
	case v.Bridge != "":
		index, err = netns.Join(v.Bridge, index)
	}
	if err != nil {
		e := &settings.Error{What: fmt.Sprintf("cannot start machine %q: join the interface %s to the bridge %s: %v", b.plan.Machine, v.Host.Name, v.Bridge, err), Origin: v.Origin, Value: v.Bridge}
		if errors.Is(err, unix.ENODEV) {
			e.Hint = "make it first (ip link add " + v.Bridge + " type bridge), or use --network-zone="
		}
		return e
	}
	b.interfaces = append(b.interfaces, int32(index))
	return nil
}
