// Package netns makes network interfaces for other network namespaces and moves
// them there and back, with what makes them usable: their global addresses, and
// whether they are up; and it forwards ports of one namespace to another, wherever
// the address there is.
//
// It guarantees that an interface which could not be moved is where it was,
// that what it makes is all there or not at all, that none is removed that it
// didn't make, and that nothing is forwarded any more when the process that asked
// for it is gone, however that ended. It speaks rtnetlink and nftables itself, a few
// messages of both. It refuses to know what a container is.
//
//	i, err := netns.Look("eth1")       // in the host's namespace
//	err = i.Move(pid, "eth0")
//	err = i.SetUp()                    // on a thread in the new one
//	err = i.Return("/run/netns/new")   // the namespace, where somebody keeps it
//
// Room: host.
package netns

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Interface is a network interface, as it was when it was looked at.
type Interface struct {
	// Name is its own one, whatever it was asked for by.
	Name string
	// Kind is what it was made as, like veth; "" for hardware.
	Kind string
	// Loopback: it is lo, which every namespace has for itself.
	Loopback bool

	index uint32
	up    bool
	// addresses are RTM_NEWADDR messages without header.
	addresses [][]byte
}

// Index is the interface's number.
func (i *Interface) Index() int { return int(i.index) }

// Find finds an interface of the thread's network namespace by any of its
// names.
func Find(name string) (*Interface, error) {
	return ask(name, attribute(link(0, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
}

// number finds the interface with that number.
func number(index uint32) (*Interface, error) { return ask(strconv.Itoa(int(index)), link(index, 0)) }

func ask(name string, body []byte) (*Interface, error) {
	answers, err := request(unix.RTM_GETLINK, 0, body)
	if err == nil && (len(answers) == 0 || len(answers[0]) < unix.SizeofIfInfomsg) {
		err = unix.ENODEV
	}
	if err != nil {
		return nil, fmt.Errorf("look at the interface %s: %w", name, err)
	}
	a, rest := answers[0], answers[0][unix.SizeofIfInfomsg:]
	i := &Interface{Name: word(rest, unix.IFLA_IFNAME), Kind: word(find(rest, unix.IFLA_LINKINFO), unix.IFLA_INFO_KIND), index: binary.NativeEndian.Uint32(a[4:])}
	flags := binary.NativeEndian.Uint32(a[8:])
	i.up, i.Loopback = flags&unix.IFF_UP != 0, flags&unix.IFF_LOOPBACK != 0
	return i, nil
}

// Look finds an interface and its addresses.
func Look(name string) (*Interface, error) {
	i, err := Find(name)
	if err != nil {
		return nil, err
	}
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
	return i.move(as, 0, unix.IFLA_NET_NS_PID, uint32(pid))
}

// Lend does the same, and the interface keeps its number: by that it can be
// found for Return, whatever it is called by then. The error is EBUSY if the
// number is taken.
func (i *Interface) Lend(pid int, as string) error {
	lent := *i // Return wants to know how it is called here
	return lent.move(as, i.index, unix.IFLA_NET_NS_PID, uint32(pid))
}

func (i *Interface) move(as string, index uint32, kind uint16, to uint32) error {
	b := attribute(link(i.index, 0), kind, binary.NativeEndian.AppendUint32(nil, to))
	if index != 0 {
		b = attribute(b, unix.IFLA_NEW_IFINDEX, binary.NativeEndian.AppendUint32(nil, index))
	}
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
	// A runtime that moves an interface brings it up.
	return i.settle(moved.index, true)
}

// settle gives the interface of that number the addresses that this one had.
func (i *Interface) settle(index uint32, up bool) error {
	for _, a := range i.addresses {
		binary.NativeEndian.PutUint32(a[4:], index)
		if _, err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, a); err != nil {
			return fmt.Errorf("give the interface %s its address: %w", i.Name, err)
		}
	}
	if !up {
		return nil
	}
	if _, err := request(unix.RTM_NEWLINK, 0, link(index, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring up the interface %s: %w", i.Name, err)
	}
	return nil
}

// String says all that Return must know, for ParseInterface.
func (i *Interface) String() string {
	state, list := "down", []string{}
	if i.up {
		state = "up"
	}
	for _, a := range i.addresses {
		list = append(list, hex.EncodeToString(a))
	}
	return fmt.Sprintf("%s/%d/%s.%s/+%s", i.Name, i.index, i.Kind, state, strings.Join(list, "+"))
}

// ParseInterface reads what String has written, and gives what follows it.
func ParseInterface(s string) (i *Interface, rest string, err error) {
	f := strings.SplitN(s, "/", 5)
	if len(f) < 4 {
		return nil, "", errors.New("it is cut off")
	}
	f = append(f, "")
	n, err := strconv.ParseUint(f[1], 10, 31)
	kind, state, ok := strings.Cut(f[2], ".")
	if err != nil || !ok || f[0] == "" {
		return nil, "", errors.New("it is no interface")
	}
	i = &Interface{Name: f[0], Kind: kind, index: uint32(n), up: state == "up"}
	for word := range strings.SplitSeq(f[3], "+") {
		a, err := hex.DecodeString(word)
		if err != nil || word != "" && len(a) < unix.SizeofIfAddrmsg {
			return nil, "", errors.New("it has no address")
		}
		if word != "" {
			i.addresses = append(i.addresses, a)
		}
	}
	return i, f[4], nil
}

// Return brings an interface that was lent back from the namespace that the
// file stands for, under its old name, with the addresses that it had. One that
// isn't there was never lent, is back already, or was removed there.
func (i *Interface) Return(file string) error {
	return sys.Apart(func(l sys.Locked) error { return i.bring(l, file) })
}

// bring does that on a thread whose namespace is where the interface belongs.
func (i *Interface) bring(l sys.Locked, file string) error {
	home, err := sys.Openat(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open our own network namespace: %w", err)
	}
	defer sys.Close(home)
	away, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY, 0)
	switch err {
	case nil:
		err = sys.Setns(l, away, unix.CLONE_NEWNET)
		sys.Close(away)
		if err == nil {
			err = i.back(home)
			if again := sys.Setns(l, home, unix.CLONE_NEWNET); err == nil && again != nil {
				err = fmt.Errorf("join our own network namespace again: %w", again)
			}
			if err != nil {
				return err
			}
		} else if err != unix.EINVAL { // nothing is mounted on the file yet
			return fmt.Errorf("join the namespace %s: %w", file, err)
		}
	case unix.ENOENT:
	default:
		return fmt.Errorf("open %s: %w", file, err)
	}
	// Here it is again, or still. Who came back before the launcher was
	// killed may lack its name and its addresses.
	here, err := number(i.index)
	if errors.Is(err, unix.ENODEV) || err == nil && here.Kind != i.Kind {
		here, err = Find(i.Name)
	}
	if errors.Is(err, unix.ENODEV) || err == nil && here.Kind != i.Kind {
		return nil
	}
	if err == nil && here.Name != i.Name {
		if _, err = request(unix.RTM_NEWLINK, 0, attribute(link(here.index, 0), unix.IFLA_IFNAME, append([]byte(i.Name), 0))); err != nil {
			err = fmt.Errorf("give the interface %s its name %s again: %w", here.Name, i.Name, err)
		}
	}
	if err != nil {
		return err
	}
	return i.settle(here.index, i.up)
}

// back moves it to the namespace with that descriptor, from the thread's.
func (i *Interface) back(home int) error {
	there, err := number(i.index)
	if errors.Is(err, unix.ENODEV) || err == nil && there.Kind != i.Kind {
		return nil // it was removed there; what has its number now isn't ours
	}
	if err != nil {
		return err
	}
	err = there.move(i.Name, i.index, unix.IFLA_NET_NS_FD, uint32(home))
	if errors.Is(err, unix.EBUSY) { // its number is another's by now
		err = there.move(i.Name, 0, unix.IFLA_NET_NS_FD, uint32(home))
	}
	if errors.Is(err, unix.EEXIST) {
		// The kernel moves before it renames. If it is still there, both names
		// are taken here.
		if _, still := number(i.index); errors.Is(still, unix.ENODEV) {
			return nil
		}
	}
	return err
}
