package engine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/netns"
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

// veth makes the pair of interfaces between host and machine. Its number on the
// host is chosen before, and recorded: so what is removed later is what was
// made here, and not another of the same name.
func (b *builder) veth() error {
	v := b.plan.Veth
	if v == nil {
		return nil
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
			b.interfaces = append(b.interfaces, int32(p.Index))
			return nil
		case errors.Is(err, unix.EBUSY) && try < 8:
			continue // the number is taken
		case errors.Is(err, unix.EEXIST):
			return &settings.Error{What: fmt.Sprintf("cannot make the network interface %s: there is one of that name", p.Name), Origin: v.Origin,
				Hint: "it belongs to another machine of this name, or to nobody any more (ip link delete " + p.Name + ")"}
		}
		return &settings.Error{What: fmt.Sprintf("cannot start machine %q: %v", b.plan.Machine, err), Origin: v.Origin}
	}
}
