package netns

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Pair is a pair of virtual interfaces: what one is given, the other has.
type Pair struct {
	Name string
	// Index is the number of the interface in the thread's namespace. It is
	// chosen beforehand, so that the interface can be told from another of its
	// name.
	Index int
	// Alias is one more name, or "".
	Alias string
	// MAC, PeerMAC: the hardware addresses, or nil.
	MAC, PeerMAC []byte
	Peer         string
	// Up: the one in the thread's namespace is brought up.
	Up bool
	// Bridge is the number of the bridge that it is plugged into; 0 is none.
	Bridge int
}

// vethPeer is VETH_INFO_PEER of linux/veth.h.
const vethPeer = 1

// Numbers is where those of Pair.Index are from: the kernel counts from 1.
const Numbers = 1 << 20

// Make makes the pair, the peer in the network namespace of the process. The
// error is EEXIST if the name is taken, EBUSY if the number is.
func (p Pair) Make(pid int) error {
	flags := uint32(0)
	if p.Up {
		flags = unix.IFF_UP
	}
	name := func(b []byte, name string, mac []byte) []byte {
		b = attribute(b, unix.IFLA_IFNAME, append([]byte(name), 0))
		if mac != nil {
			b = attribute(b, unix.IFLA_ADDRESS, mac)
		}
		return b
	}
	peer := attribute(name(link(0, 0), p.Peer, p.PeerMAC), unix.IFLA_NET_NS_PID, binary.NativeEndian.AppendUint32(nil, uint32(pid)))
	info := attribute(nil, unix.IFLA_INFO_KIND, []byte("veth"))
	info = attribute(info, unix.IFLA_INFO_DATA, attribute(nil, vethPeer, peer))
	b := attribute(name(link(uint32(p.Index), flags), p.Name, p.MAC), unix.IFLA_LINKINFO, info)
	if p.Bridge != 0 {
		b = attribute(b, unix.IFLA_MASTER, binary.NativeEndian.AppendUint32(nil, uint32(p.Bridge)))
	}
	if _, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("make the interface %s: %w", p.Name, err)
	}
	if p.Alias != "" {
		return rename(link(uint32(p.Index), 0), p.Name, p.Alias)
	}
	return nil
}

// Remove removes an interface of the thread's namespace, if the one with this
// number has this name.
func Remove(name string, index int) error {
	i, err := number(uint32(index))
	if err == nil {
		if i.Name != name {
			return nil
		}
		_, err = request(unix.RTM_DELLINK, 0, link(i.index, 0))
	}
	if err != nil && !errors.Is(err, unix.ENODEV) { // the kernel may have been faster
		return fmt.Errorf("remove the interface %s: %w", name, err)
	}
	return nil
}

// Up brings up an interface of the thread's namespace.
func Up(name string) error {
	if _, err := request(unix.RTM_NEWLINK, 0, attribute(link(0, unix.IFF_UP), unix.IFLA_IFNAME, append([]byte(name), 0))); err != nil {
		return fmt.Errorf("bring up the interface %s: %w", name, err)
	}
	return nil
}

// AddName gives an interface of the thread's namespace one more name.
func AddName(name, alias string) error {
	return rename(attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)), name, alias)
}

func rename(b []byte, name, alias string) error {
	list := attribute(nil, unix.IFLA_ALT_IFNAME, append([]byte(alias), 0))
	if _, err := request(unix.RTM_NEWLINKPROP, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_APPEND, attribute(b, unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, list)); err != nil {
		return fmt.Errorf("give the interface %s the name %s: %w", name, alias, err)
	}
	return nil
}

// Stacked is an interface that lies on another: what it is given, that one
// sends.
type Stacked struct {
	Name string
	// Kind is macvlan or ipvlan.
	Kind string
	// On is the number of the one below, in the thread's namespace.
	On int
	// MAC is the hardware address, or nil.
	MAC []byte
}

// The modes of linux/if_link.h that machines get: those on one interface reach
// each other.
const (
	macvlanBridge = 4
	ipvlanL2      = 0
)

// Make makes the interface in the network namespace of the process. The error
// is EEXIST if the name is taken, EOPNOTSUPP if the kernel has none of the kind.
func (s Stacked) Make(pid int) error {
	info := attribute(nil, unix.IFLA_INFO_KIND, []byte(s.Kind))
	data := attribute(nil, unix.IFLA_MACVLAN_MODE, binary.NativeEndian.AppendUint32(nil, macvlanBridge))
	if s.Kind == "ipvlan" {
		data = attribute(nil, unix.IFLA_IPVLAN_MODE, binary.NativeEndian.AppendUint16(nil, ipvlanL2))
	}
	b := attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(s.Name), 0))
	b = attribute(b, unix.IFLA_LINK, binary.NativeEndian.AppendUint32(nil, uint32(s.On)))
	b = attribute(b, unix.IFLA_NET_NS_PID, binary.NativeEndian.AppendUint32(nil, uint32(pid)))
	if s.MAC != nil {
		b = attribute(b, unix.IFLA_ADDRESS, s.MAC)
	}
	b = attribute(b, unix.IFLA_LINKINFO, attribute(info, unix.IFLA_INFO_DATA, data))
	if _, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("make the interface %s: %w", s.Name, err)
	}
	return nil
}

// MakeBridge gives the number of the bridge of that name, which is made if it is
// missing, and brought up if it should be.
func MakeBridge(name string, up bool) (index int, err error) {
	i, err := Find(name)
	if errors.Is(err, unix.ENODEV) {
		b := attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
		if _, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, attribute(b, unix.IFLA_LINKINFO, attribute(nil, unix.IFLA_INFO_KIND, []byte("bridge")))); err != nil {
			return 0, fmt.Errorf("make the bridge %s: %w", name, err)
		}
		i, err = Find(name)
	}
	if err != nil {
		return 0, err
	}
	if up {
		if _, err := request(unix.RTM_NEWLINK, 0, link(i.index, unix.IFF_UP)); err != nil {
			return 0, fmt.Errorf("bring up the bridge %s: %w", name, err)
		}
	}
	return int(i.index), nil
}

// RemoveBridge removes the bridge of that name unless something is plugged into
// it. What is no bridge stays.
func RemoveBridge(name string) error {
	i, err := Find(name)
	if errors.Is(err, unix.ENODEV) || err == nil && i.Kind != "bridge" {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := request(unix.RTM_GETLINK, unix.NLM_F_DUMP, link(0, 0))
	if err != nil {
		return fmt.Errorf("look for what is plugged into the bridge %s: %w", name, err)
	}
	for _, a := range all {
		if len(a) < unix.SizeofIfInfomsg {
			return errTorn
		}
		if m := find(a[unix.SizeofIfInfomsg:], unix.IFLA_MASTER); len(m) == 4 && binary.NativeEndian.Uint32(m) == i.index {
			return nil
		}
	}
	return Remove(i.Name, int(i.index))
}

// RemoveIn removes an interface with this number and name from another
// namespace, by its descriptor.
func RemoveIn(ns int, name string, index int) error {
	return sys.Apart(func(l sys.Locked) error {
		if err := sys.Setns(l, ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("join the network namespace: %w", err)
		}
		return Remove(name, index)
	})
}
