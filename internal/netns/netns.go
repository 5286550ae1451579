// Package netns moves network interfaces between network namespaces, with what
// makes them usable: their global addresses, and whether they are up; it
// makes pairs of them; and it forwards ports of one namespace to another, wherever
// the address there is.
//
// It guarantees that an interface which could not be moved is where it was,
// that none is removed that it didn't make, and that nothing is forwarded any more
// when the process that asked for it is gone, however that ended. It
// speaks rtnetlink and nftables itself, a few messages of both. It refuses to know
// what a container is.
//
//	i, err := netns.Look("eth1")       // in the host's namespace
//	err = i.Move(pid, "eth0")
//	err = i.SetUp()                    // on a thread in the new one
//
// Room: host.
package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// errTorn is what can't happen.
var errTorn = errors.New("an answer of the kernel is torn")

// Interface is a network interface, as it was when it was looked at.
type Interface struct {
	Name  string
	index uint32
	up    bool
	// addresses are RTM_NEWADDR messages without header.
	addresses [][]byte
}

// request is one message to the kernel; what it answers comes as messages of
// their own, without headers.
func request(kind, flags uint16, body []byte) (answers [][]byte, err error) {
	n, err := sys.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	m := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(m, uint32(unix.SizeofNlMsghdr+len(body)))
	binary.NativeEndian.PutUint16(m[4:], kind)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if _, err := sys.Write(n, append(m, body...)); err != nil {
		return nil, err
	}
	buf := make([]byte, 1<<16)
	for {
		got, err := sys.Read(n, buf)
		if err != nil {
			return nil, err
		}
		for b := buf[:got]; len(b) > 0; {
			var m message
			if m, b, err = cut(b); err != nil {
				return nil, err
			}
			switch m.kind {
			case unix.NLMSG_DONE:
				return answers, nil
			case unix.NLMSG_ERROR:
				errno, err := m.errno()
				switch {
				case err != nil:
					return nil, err
				case errno != 0:
					return nil, errno
				}
				return answers, nil
			}
			answers = append(answers, append([]byte(nil), m.body...))
		}
	}
}

func align(n int) int { return (n + 3) &^ 3 }

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
	if _, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return fmt.Errorf("make the interface %s: %w", p.Name, err)
	}
	if p.Alias != "" {
		list := attribute(nil, unix.IFLA_ALT_IFNAME, append([]byte(p.Alias), 0))
		if _, err := request(unix.RTM_NEWLINKPROP, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_APPEND, attribute(link(uint32(p.Index), 0), unix.IFLA_PROP_LIST|unix.NLA_F_NESTED, list)); err != nil {
			return fmt.Errorf("give the interface %s the name %s: %w", p.Name, p.Alias, err)
		}
	}
	return nil
}

// Remove removes an interface of the thread's namespace, if the one with this
// number has this name.
func Remove(name string, index int) error {
	answers, err := request(unix.RTM_GETLINK, 0, link(uint32(index), 0))
	if err == unix.ENODEV {
		return nil
	}
	if err == nil && (len(answers) != 1 || len(answers[0]) < unix.SizeofIfInfomsg) {
		err = errTorn
	}
	if err == nil {
		if nameOf(answers[0][unix.SizeofIfInfomsg:]) != name {
			return nil
		}
		_, err = request(unix.RTM_DELLINK, 0, link(uint32(index), 0))
	}
	if err != nil && err != unix.ENODEV { // the kernel may have been faster
		return fmt.Errorf("remove the interface %s: %w", name, err)
	}
	return nil
}

// Join joins an interface of the thread's namespace to a bridge there, brings it
// up, and gives the bridge's number.
func Join(bridge string, index int) (int, error) {
	master, err := number(bridge)
	if err != nil {
		return 0, err
	}
	b := attribute(link(uint32(index), unix.IFF_UP), unix.IFLA_MASTER, binary.NativeEndian.AppendUint32(nil, master))
	if _, err := request(unix.RTM_NEWLINK, 0, b); err != nil {
		return 0, err
	}
	return int(master), nil
}

// number gives the number of an interface.
func number(name string) (uint32, error) {
	answers, err := request(unix.RTM_GETLINK, 0, attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
	if err == nil && (len(answers) != 1 || len(answers[0]) < unix.SizeofIfInfomsg) {
		err = errTorn
	}
	if err != nil {
		return 0, err
	}
	return binary.NativeEndian.Uint32(answers[0][4:]), nil
}

// ZoneLock is held by who makes or removes the bridge of a zone. It is
// systemd-nspawn's, whose machines share zones with ours.
var ZoneLock = "/run/systemd/nspawn-network-zone"

// locked runs f while nobody else makes or removes the bridge of a zone.
func locked(f func() error) error {
	if err := sys.Mkdirat(unix.AT_FDCWD, path.Dir(ZoneLock), 0o755); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make %s: %w", path.Dir(ZoneLock), err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, ZoneLock, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NOCTTY, 0o600)
	if err != nil {
		return fmt.Errorf("open %s: %w", ZoneLock, err)
	}
	defer sys.Close(n)
	if err := sys.Flock(n, unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", ZoneLock, err)
	}
	return f()
}

// JoinZone is Join for a bridge that is made if it is missing, and brought up if
// up says so.
func JoinZone(bridge string, index int, up bool) (master int, err error) {
	err = locked(func() error {
		_, err := number(bridge)
		if err != nil && err != unix.ENODEV {
			return err
		}
		if err != nil {
			flags := uint32(0)
			if up {
				flags = unix.IFF_UP
			}
			info := attribute(nil, unix.IFLA_INFO_KIND, []byte("bridge"))
			b := attribute(attribute(link(0, flags), unix.IFLA_IFNAME, append([]byte(bridge), 0)), unix.IFLA_LINKINFO, info)
			if _, err := request(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
				return fmt.Errorf("make it: %w", err)
			}
		}
		master, err = Join(bridge, index)
		return err
	})
	return master, err
}

// LeaveZone removes a bridge of the thread's namespace, unless something is still
// joined to it.
func LeaveZone(bridge string) error {
	return locked(func() error {
		master, err := number(bridge)
		if err == unix.ENODEV {
			return nil
		}
		var all [][]byte
		if err == nil {
			all, err = request(unix.RTM_GETLINK, unix.NLM_F_DUMP, link(0, 0))
		}
		for _, a := range all {
			if len(a) < unix.SizeofIfInfomsg {
				continue
			}
			if m := find(a[unix.SizeofIfInfomsg:], unix.IFLA_MASTER); len(m) == 4 && binary.NativeEndian.Uint32(m) == master {
				return nil
			}
		}
		if err == nil {
			_, err = request(unix.RTM_DELLINK, 0, link(master, 0))
		}
		if err != nil && err != unix.ENODEV {
			return fmt.Errorf("remove the bridge %s: %w", bridge, err)
		}
		return nil
	})
}

// nameOf looks for the name among the attributes of an interface.
func nameOf(b []byte) string {
	name, _, _ := strings.Cut(string(find(b, unix.IFLA_IFNAME)), "\x00")
	return name
}

// find gives the value of the first attribute of that kind, or nil.
func find(b []byte, kind uint16) []byte {
	for k, value := range attributes(b) {
		if k == kind {
			return value
		}
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

// attribute appends one.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// link begins a message about an interface. Flags are IFF_ flags to be set.
func link(index, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], index)
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], flags) // the mask
	return b
}

// Look finds an interface of the thread's network namespace.
func Look(name string) (*Interface, error) {
	answers, err := request(unix.RTM_GETLINK, 0, attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
	if err != nil {
		return nil, fmt.Errorf("look at the interface %s: %w", name, err)
	}
	if len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("look at the interface %s: %w", name, unix.ENODEV)
	}
	i := &Interface{Name: name, index: binary.NativeEndian.Uint32(answers[0][4:])}
	i.up = binary.NativeEndian.Uint32(answers[0][8:])&unix.IFF_UP != 0
	all, err := request(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	if err != nil {
		return nil, fmt.Errorf("look at the addresses of the interface %s: %w", name, err)
	}
	for _, a := range all {
		// Family, length of the prefix, flags, scope, index.
		if len(a) >= unix.SizeofIfAddrmsg && binary.NativeEndian.Uint32(a[4:]) == i.index && a[3] == unix.RT_SCOPE_UNIVERSE {
			i.addresses = append(i.addresses, a)
		}
	}
	return i, nil
}

// Move gives the interface to the network namespace of a process, under a new
// name if there is one. It takes its addresses with it only by SetUp.
func (i *Interface) Move(pid int, as string) error {
	b := attribute(link(i.index, 0), unix.IFLA_NET_NS_PID, binary.NativeEndian.AppendUint32(nil, uint32(pid)))
	if as != "" && as != i.Name {
		b = attribute(b, unix.IFLA_IFNAME, append([]byte(as), 0))
	} else {
		as = i.Name
	}
	if _, err := request(unix.RTM_NEWLINK, 0, b); err != nil {
		return fmt.Errorf("move the interface %s: %w", i.Name, err)
	}
	i.Name = as
	return nil
}

// SetUp gives the interface, which was moved to the thread's network
// namespace, the addresses that it had, and brings it up.
func (i *Interface) SetUp() error {
	moved, err := Look(i.Name)
	if err != nil {
		return err
	}
	for _, a := range i.addresses {
		binary.NativeEndian.PutUint32(a[4:], moved.index)
		if _, err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a); err != nil {
			return fmt.Errorf("give the interface %s its address: %w", i.Name, err)
		}
	}
	// A runtime that moves an interface brings it up.
	if _, err := request(unix.RTM_NEWLINK, 0, link(moved.index, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring up the interface %s: %w", i.Name, err)
	}
	return nil
}
