package plan

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"launch/internal/siphash"
	"launch/settings"
)

// Keys of the hashes that make the names and the hardware addresses of a
// machine's interfaces: those of systemd-nspawn, so that a machine keeps its
// addresses, and what network managers know of it, under either launcher.
const (
	nameKey         = "\xe1\x90\xa4\x04\xa8\xef\x4b\x51\x8c\xcc\xc3\x3a\x9f\x11\xfc\xa2"
	hostMACKey      = "\x1a\x37\x6f\xc7\x46\xec\x45\x0b\xad\xa3\xd5\x31\x06\x60\x5d\xb1"
	machineMACKey   = "\xc3\xc4\xf9\x19\xb5\x57\xb2\x1c\xe6\xcf\x14\x27\x03\x9c\xee\xa2"
	extraHostKey    = "\x48\xc7\xf6\xb7\xea\x9d\x4c\x9e\xb7\x28\xd4\xde\x91\xd5\xbf\x66"
	extraMachineKey = "\xaf\x50\x17\x61\xce\xf9\x4d\x35\x84\x0d\x2b\x20\x54\xbe\xce\x59"
	macvlanKey      = "\x00\x13\x6d\xbc\x66\x83\x44\x81\xbb\x0c\xf9\x51\x1f\x24\xa6\x6f"
)

// links plans the machine's network interfaces: first those that the host lends
// it, which keep their numbers, then those that are made.
func (c *compiler) links() error {
	net := c.Settings.Network
	known := c.Facts.Network
	// An init brings up what it finds, or is told not to; and so does a network
	// manager on the host.
	inside := c.Settings.Exec.Mode != settings.Boot
	outside := known.Known && !known.Managed
	address := func(key string, index int) string { return mac(known.HostID, c.Machine, key, index) }

	for _, l := range net.Interfaces {
		c.Links = append(c.Links, NetLink{
			Kind: Lent, Host: Interface{Name: l.Host}, Machine: Interface{Name: inner(l), Up: inside}, Value: l.Text, Origin: l.Origin,
		})
	}
	if net.Veth {
		v := NetLink{Kind: Pair, Main: true, Origin: c.from("network-veth")}
		prefix := "ve-"
		switch {
		case net.Bridge != "":
			prefix, v.Bridge, v.Value, v.Origin = "vb-", net.Bridge, net.Bridge, c.from("network-bridge")
		case net.Zone != "":
			prefix, v.Bridge, v.Value, v.Origin = "vb-", settings.ZonePrefix+net.Zone, net.Zone, c.from("network-zone")
			v.Zone, v.Raise = true, outside
		}
		v.Host.Name, v.Host.Alias = interfaceName(prefix + c.Machine)
		v.Host.MAC = address(hostMACKey, 0)
		// Nothing gets through a port of a bridge that is down, and it has no
		// addresses that a network manager would have to give it.
		v.Host.Up = outside || v.Bridge != ""
		v.Machine.Name, v.Machine.MAC, v.Machine.Up = "host0", address(machineMACKey, 0), inside
		if m := c.Settings.Environment.MAC; m != "" {
			v.Machine.MAC = m
		}
		c.Links = append(c.Links, v)
	}
	for i, l := range net.Extra {
		c.Links = append(c.Links, NetLink{
			Kind: Pair, Value: l.Text, Origin: l.Origin,
			Host:    Interface{Name: l.Host, MAC: address(extraHostKey, i), Up: outside},
			Machine: Interface{Name: inner(l), MAC: address(extraMachineKey, i), Up: inside},
		})
	}
	for _, row := range [...]struct {
		kind   LinkKind
		prefix string
		list   []settings.Link
	}{{MACVLAN, "mv-", net.MACVLAN}, {IPVLAN, "iv-", net.IPVLAN}} {
		for i, l := range row.list {
			v := NetLink{Kind: row.kind, Host: Interface{Name: l.Host}, Machine: Interface{Name: l.Machine, Up: inside}, Value: l.Text, Origin: l.Origin}
			if l.Machine == "" {
				v.Machine.Name, v.Machine.Alias = interfaceName(row.prefix + l.Host)
			}
			if row.kind == MACVLAN { // the others have the host's
				v.Machine.MAC = address(macvlanKey, i)
			}
			c.Links = append(c.Links, v)
		}
	}
	return c.distinct()
}

// inner is what an interface is called in the machine where that is not another
// name.
func inner(l settings.Link) string {
	if l.Machine == "" {
		return l.Host
	}
	return l.Machine
}

// distinct refuses interfaces of one name.
func (c *compiler) distinct() error {
	for i, l := range c.Links {
		for _, before := range c.Links[:i] {
			e := &settings.Error{Origin: l.Origin, Value: l.Value, Hint: "give one of them another name, as in HOST:MACHINE"}
			switch {
			case l.Machine.Name == before.Machine.Name:
				e.What = fmt.Sprintf("cannot give the machine two network interfaces of the name %s", l.Machine.Name)
			case l.Kind == Lent && before.Kind == Lent && l.Host.Name == before.Host.Name:
				e.What, e.Hint = fmt.Sprintf("cannot move the network interface %s into the machine twice", l.Host.Name), "leave one of them out"
			case l.Kind == Pair && before.Kind == Pair && l.Host.Name == before.Host.Name:
				e.What = fmt.Sprintf("cannot give the host two network interfaces of the name %s", l.Host.Name)
			case l.Kind != Pair && before.Kind == Lent && l.Host.Name == before.Host.Name:
				e.What, e.Hint = fmt.Sprintf("cannot put an interface on %s, which moves into the machine itself", l.Host.Name), "leave out --network-interface="+l.Host.Name
			default:
				continue
			}
			return e
		}
	}
	return nil
}

// interfaceName gives a name that the kernel takes, and the whole one if that
// is another.
func interfaceName(whole string) (name, alias string) {
	if len(whole) <= settings.InterfaceBytes {
		return whole, ""
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	h := siphash.Sum(nameKey, whole)
	name = whole[:settings.InterfaceBytes-4]
	for _, shift := range [...]int{18, 12, 6, 0} {
		name += string(digits[h>>shift&63])
	}
	return name, whole
}

// mac gives the hardware address that belongs to a machine of this host; "" if
// the host has no id. The index tells several interfaces apart.
func mac(hostID, machine, key string, index int) string {
	id, err := hex.DecodeString(hostID)
	if err != nil || len(id) != 16 {
		return ""
	}
	text := string(id) + machine
	if index > 0 {
		text = string(binary.LittleEndian.AppendUint64([]byte(text), uint64(index)))
	}
	b := binary.LittleEndian.AppendUint64(nil, siphash.Sum(key, text))
	b[0] = b[0]&^1 | 2 // of one interface, and nobody bought it
	return hex.EncodeToString(b[:6])
}

// linkEffects tells what links change on the host.
func (c *compiler) linkEffects() (list []Effect) {
	add := func(l NetLink, what, path, undo string) {
		list = append(list, Effect{What: what, Path: path, Undo: undo, Origin: l.Origin})
	}
	lent := false
	for _, l := range c.Links {
		inside := l.Machine.String()
		switch l.Kind {
		case Lent:
			if !lent {
				lent = true
				add(l, "network namespace", "/run/launch/"+c.Machine+"/net", "unmounted and removed")
			}
			add(l, "moved network interface", l.Host.Name+" to "+inside, "moved back")
		case Pair:
			host := l.Host.String()
			if l.Bridge != "" {
				host += " in " + l.Bridge
			}
			if l.Zone {
				state := ""
				if l.Raise {
					state = " up"
				}
				add(l, "bridge of the zone", l.Bridge+state, "removed with its last interface")
			}
			add(l, "network interface", host+" to "+inside, "removed")
		default:
			add(l, "network interface", string(l.Kind)+" on "+l.Host.Name+" as "+inside, "ends with the machine")
		}
	}
	return list
}
