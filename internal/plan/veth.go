package plan

import (
	"encoding/binary"
	"encoding/hex"

	"launch/internal/siphash"
	"launch/settings"
)

// Keys of the hashes that make the names and the hardware addresses of a
// machine's interfaces: those of systemd-nspawn, so that a machine keeps its
// addresses, and what network managers know of it, under either launcher.
const (
	nameKey        = "\xe1\x90\xa4\x04\xa8\xef\x4b\x51\x8c\xcc\xc3\x3a\x9f\x11\xfc\xa2"
	hostMACKey     = "\x1a\x37\x6f\xc7\x46\xec\x45\x0b\xad\xa3\xd5\x31\x06\x60\x5d\xb1"
	extraHostKey   = "\x48\xc7\xf6\xb7\xea\x9d\x4c\x9e\xb7\x28\xd4\xde\x91\xd5\xbf\x66"
	extraKey       = "\xaf\x50\x17\x61\xce\xf9\x4d\x35\x84\x0d\x2b\x20\x54\xbe\xce\x59"
	machineMACKey  = "\xc3\xc4\xf9\x19\xb5\x57\xb2\x1c\xe6\xcf\x14\x27\x03\x9c\xee\xa2"
	interfaceBytes = 15 // the longest name that the kernel takes
)

// veth plans the pairs of interfaces between host and machine.
func (c *compiler) veth() {
	s, net := c.Settings.Network, c.Facts.Network
	up := net.Known && !net.Managed
	// An init brings up what it finds, or is told not to.
	inside := c.Settings.Exec.Mode != settings.Boot
	if s.Veth {
		v := Veth{Bridge: s.Bridge, Zone: s.Zone, BridgeUp: s.Zone && up, Origin: c.from("network-veth")}
		prefix := "ve-"
		switch {
		case s.Zone:
			prefix, v.Origin = "vb-", c.from("network-zone")
		case s.Bridge != "":
			prefix, v.Origin = "vb-", c.from("network-bridge")
		}
		v.Host.Name, v.Host.Alias = interfaceName(prefix + c.Machine)
		v.Host.MAC = mac(net.HostID, c.Machine, hostMACKey, 0)
		v.Host.Up = up && s.Bridge == "" // else it comes up with the bridge
		v.Machine = Interface{Name: "host0", MAC: mac(net.HostID, c.Machine, machineMACKey, 0), Up: inside}
		if m := c.Settings.Environment.MAC; m != "" {
			v.Machine.MAC = m
		}
		c.Plan.Veth = append(c.Plan.Veth, v)
	}
	for i, e := range s.Extra {
		c.Plan.Veth = append(c.Plan.Veth, Veth{
			Host:    Interface{Name: e.Host, MAC: mac(net.HostID, c.Machine, extraHostKey, uint64(i)), Up: up},
			Machine: Interface{Name: e.Machine, MAC: mac(net.HostID, c.Machine, extraKey, uint64(i)), Up: inside},
			Origin:  c.from("network-veth-extra"),
		})
	}
}

// interfaceName gives a name that the kernel takes, and the whole one if that
// is another.
func interfaceName(whole string) (name, alias string) {
	if len(whole) <= interfaceBytes {
		return whole, ""
	}
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	h := siphash.Sum(nameKey, whole)
	name = whole[:interfaceBytes-4]
	for _, shift := range [...]int{18, 12, 6, 0} {
		name += string(digits[h>>shift&63])
	}
	return name, whole
}

// mac gives the hardware address that belongs to a machine of this host; "" if
// the host has no id. Number is which of several of its kind it is.
func mac(hostID, machine, key string, number uint64) string {
	id, err := hex.DecodeString(hostID)
	if err != nil || len(id) != 16 {
		return ""
	}
	which := append(id, machine...)
	if number > 0 {
		which = binary.LittleEndian.AppendUint64(which, number)
	}
	b := binary.LittleEndian.AppendUint64(nil, siphash.Sum(key, string(which)))
	b[0] = b[0]&^1 | 2 // of one interface, and nobody bought it
	return hex.EncodeToString(b[:6])
}
