package engine

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"launch/internal/netns"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/settings"
)

// links makes and moves the machine's network interfaces, from the host's
// network namespace, where the thread still is.
func (b *builder) links() (err error) {
	if len(b.plan.Links) == 0 {
		return nil
	}
	if b.network, err = sys.Openat(unix.AT_FDCWD, procPath(b.proc.PID, "ns/net"), unix.O_RDONLY, 0); err != nil {
		return fmt.Errorf("open the machine's network namespace: %w", err)
	}
	for _, l := range b.plan.Links {
		switch l.Kind {
		case plan.Lent:
			err = b.lend(l)
		case plan.Pair:
			err = b.pair(l)
		default:
			err = b.stack(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// refuse says why an interface can't be had.
func refuse(l plan.NetLink, hint, format string, args ...any) error {
	return &settings.Error{What: fmt.Sprintf(format, args...), Origin: l.Origin, Value: l.Value, Hint: hint}
}

// failed is what a link failed for if nobody expects it.
func (b *builder) failed(l plan.NetLink, err error) error {
	return refuse(l, "", "cannot start machine %q: %v", b.plan.Machine, err)
}

// lend moves an interface of the host's into the machine. If the machine's
// network namespace went with the machine, a virtual interface would go with it,
// and others would come back under some name. So the namespace is kept, by a
// mount, until they are moved back: after a kill, by whoever cleans up.
func (b *builder) lend(l plan.NetLink) error {
	dir := path.Join(state.Dir, b.plan.Machine, "net")
	file := path.Join(dir, "namespace")
	if !b.kept {
		if err := b.keep(dir, file); err != nil {
			return fmt.Errorf("keep the machine's network namespace: %w", err)
		}
		b.kept = true
	}
	i, err := netns.Look(l.Host.Name)
	if errors.Is(err, unix.ENODEV) {
		return refuse(l, "see what interfaces there are (ip link)", "cannot move the network interface %s into the machine: there is none of that name", l.Host.Name)
	}
	if err != nil {
		return err
	}
	stays := func() error {
		return refuse(l, "use --network-macvlan= or --network-bridge=; of Wi-Fi, the whole device has to move (iw phy)", "cannot move the network interface %s into the machine: it is of a kind that stays in its network namespace", i.Name)
	}
	if i.Loopback {
		return stays()
	}
	if busy, err := unready(i.Index()); err != nil {
		return err
	} else if busy {
		return refuse(l, "start the machine when udev has seen the interface (udevadm wait /sys/class/net/"+i.Name+")", "cannot move the network interface %s into the machine: udev isn't done with it yet", i.Name)
	}
	if err := b.state.Record(state.Lent, "/"+i.String()+file); err != nil {
		return err
	}
	as := l.Machine.Name
	if as == l.Host.Name {
		as = "" // it keeps its own, by whatever name it was asked for
	}
	switch err := i.Lend(b.proc.PID, as); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		return stays()
	case errors.Is(err, unix.EEXIST):
		return refuse(l, "give it another name, as in HOST:MACHINE", "cannot move the network interface %s into the machine as %s: one of that name is there", i.Name, l.Machine.Name)
	default:
		return b.failed(l, err)
	}
}

// keep mounts the machine's network namespace on a file.
func (b *builder) keep(dir, file string) error {
	if err := b.state.Record(state.Kept, dir); err != nil {
		return err
	}
	// In the host's mount namespace, and not in this thread's.
	return sys.Elsewhere(func(sys.Locked) error {
		if err := sys.Mkdirat(unix.AT_FDCWD, dir, 0o700); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
		on, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o400)
		if err != nil {
			return fmt.Errorf("make %s: %w", file, err)
		}
		defer sys.Close(on)
		ns, err := sys.OpenTree(unix.AT_FDCWD, procPath(b.proc.PID, "ns/net"), unix.OPEN_TREE_CLONE)
		if err != nil {
			return fmt.Errorf("copy the mount: %w", err)
		}
		defer sys.Close(ns)
		if err := sys.MoveMount(ns, on); err != nil {
			return fmt.Errorf("attach it on %s: %w", file, err)
		}
		return nil
	})
}

// unready reports whether udev runs and has not seen the interface of that
// number yet: what it does next, like giving it a name, would fail.
func unready(index int) (bool, error) {
	for _, f := range []string{"/run/udev/control", fmt.Sprintf("/run/udev/data/n%d", index)} {
		_, err := sys.Statx(unix.AT_FDCWD, f, unix.STATX_TYPE)
		there := err == nil
		if err != nil && err != unix.ENOENT && err != unix.ENOTDIR {
			return false, fmt.Errorf("look at %s: %w", f, err)
		}
		if f == "/run/udev/control" && !there {
			return false, nil
		}
		if f != "/run/udev/control" {
			return !there, nil
		}
	}
	return false, nil
}

// pair makes the two ends of a virtual cable. The number of the one on the host
// is chosen before, and recorded: so what is removed later is what was made
// here, and not another of the same name.
func (b *builder) pair(l plan.NetLink) (err error) {
	p := netns.Pair{Name: l.Host.Name, Alias: l.Host.Alias, MAC: address(l.Host.MAC), Peer: l.Machine.Name, PeerMAC: address(l.Machine.MAC), Up: l.Host.Up}
	if l.Zone {
		if err := b.state.Record(state.Zone, "/"+l.Bridge); err != nil {
			return err
		}
		// Who removes an empty bridge has the lock, too.
		lock, err := state.LockZones()
		if err != nil {
			return err
		}
		defer lock.Release()
	}
	for try := 0; ; try++ {
		if l.Bridge != "" {
			if p.Bridge, err = b.bridge(l); err != nil {
				return err
			}
		}
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
			if l.Main { // on the host, the machine's packets come from there
				b.interfaces = append(b.interfaces, int32(p.Index))
				if p.Bridge != 0 {
					b.interfaces[0] = int32(p.Bridge)
				}
			}
			return nil
		case errors.Is(err, unix.EBUSY) && try < 8, errors.Is(err, unix.ENODEV) && l.Zone && try < 8:
			continue // the number is taken; somebody without the lock has removed the bridge
		case errors.Is(err, unix.EEXIST):
			return refuse(l, "it belongs to another machine of this name, or to nobody any more (ip link delete "+p.Name+")", "cannot make the network interface %s: there is one of that name", p.Name)
		case errors.Is(err, unix.EOPNOTSUPP) && l.Bridge != "":
			return refuse(l, "give the name of a bridge", "cannot plug a network interface into %s: it is no bridge", l.Bridge)
		}
		return b.failed(l, err)
	}
}

// bridge gives the number of what an interface is plugged into.
func (b *builder) bridge(l plan.NetLink) (int, error) {
	if l.Zone {
		index, err := netns.MakeBridge(l.Bridge, l.Raise)
		if err != nil {
			return 0, b.failed(l, err)
		}
		return index, nil
	}
	i, err := netns.Find(l.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return 0, refuse(l, "make it before (ip link add "+l.Bridge+" type bridge), or use --network-zone=, which makes one", "cannot plug a network interface into the bridge %s: there is none of that name", l.Bridge)
	}
	if err != nil {
		return 0, err
	}
	return i.Index(), nil
}

// stack makes an interface of the machine's that lies on one of the host's.
// Nothing of it is on the host.
func (b *builder) stack(l plan.NetLink) error {
	on, err := netns.Find(l.Host.Name)
	article := "a"
	if l.Kind == plan.IPVLAN {
		article = "an"
	}
	cannot := func(hint, format string, args ...any) error {
		return refuse(l, hint, "cannot put %s %s interface on %s: "+format, append([]any{article, l.Kind, l.Host.Name}, args...)...)
	}
	if errors.Is(err, unix.ENODEV) {
		return cannot("see what interfaces there are (ip link)", "there is no interface of that name")
	}
	if err != nil {
		return err
	}
	s := netns.Stacked{Name: l.Machine.Name, Kind: string(l.Kind), On: on.Index(), MAC: address(l.Machine.MAC)}
	switch err := s.Make(b.proc.PID); {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return cannot("load the module (modprobe "+string(l.Kind)+"), or use --network-bridge=", "the kernel has no such interfaces")
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return cannot("use one that is no part of a bridge, and no loopback", "it does not take any (%v)", errors.Unwrap(err))
	default:
		return b.failed(l, err)
	}
}

// settleLinks does the rest in the machine's network namespace.
func (b *builder) settleLinks() error {
	for _, l := range b.plan.Links {
		if l.Kind == plan.MACVLAN || l.Kind == plan.IPVLAN {
			i, err := netns.Find(l.Machine.Name)
			if err != nil {
				return err
			}
			b.stacked = append(b.stacked, i)
			if l.Machine.Alias != "" {
				if err := netns.AddName(l.Machine.Name, l.Machine.Alias); err != nil {
					return err
				}
			}
		}
		if !l.Machine.Up {
			continue
		}
		err := netns.Up(l.Machine.Name)
		// What a machine before this one had there goes a moment after it, and
		// meanwhile has the same hardware address.
		for try := 0; taken(err) && l.Kind == plan.MACVLAN && try < 100; try++ {
			if err := sys.Nanosleep(20e6); err != nil {
				return err
			}
			err = netns.Up(l.Machine.Name)
		}
		if taken(err) && l.Kind == plan.MACVLAN {
			return refuse(l, "end the other machine, or give this one another name", "cannot bring up %s on %s: another machine has the same hardware address there", l.Machine.Name, l.Host.Name)
		}
		if err != nil {
			return b.failed(l, err)
		}
	}
	return nil
}

// taken reports whether a hardware address is in use, in the words of newer and
// of older kernels.
func taken(err error) bool { return errors.Is(err, unix.EADDRINUSE) || errors.Is(err, unix.EBUSY) }

// unlink removes what lies on the host's interfaces. The kernel would do it when
// the namespace goes; but that may take a moment, or somebody keeps it, and the
// next machine wants the same hardware addresses.
func (b *builder) unlink() {
	for _, i := range b.stacked {
		if err := netns.RemoveIn(b.network, i.Name, i.Index()); err != nil {
			b.opt.Warn(err.Error() + "; it goes with the machine's network namespace")
		}
	}
	if b.network >= 0 {
		sys.Close(b.network)
	}
}

// address gives the bytes of a hardware address; none are any.
func address(text string) []byte {
	if a, err := hex.DecodeString(text); err == nil && text != "" {
		return a
	}
	return nil
}
