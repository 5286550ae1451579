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
	machineMACKey  = "\xc3\xc4\xf9\x19\xb5\x57\xb2\x1c\xe6\xcf\x14\x27\x03\x9c\xee\xa2"
	interfaceBytes = 15 // the longest name that the kernel takes
)

// veth plans the pair of interfaces between host and machine.
func (c *compiler) veth() {
	if !c.Settings.Network.Veth {
		return
	}
	net := c.Facts.Network
	v := &Veth{Origin: c.from("network-veth")}
	v.Host.Name, v.Host.Alias = interfaceName("ve-" + c.Machine)
	v.Host.MAC = mac(net.HostID, c.Machine, hostMACKey)
	v.Host.Up = net.Known && !net.Managed
	v.Machine.Name = "host0"
	v.Machine.MAC = mac(net.HostID, c.Machine, machineMACKey)
	if m := c.Settings.Environment.MAC; m != "" {
		v.Machine.MAC = m
	}
	// An init brings up what it finds, or is told not to.
	v.Machine.Up = c.Settings.Exec.Mode != settings.Boot
	c.Plan.Veth = v
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
// the host has no id.
func mac(hostID, machine, key string) string {
	id, err := hex.DecodeString(hostID)
	if err != nil || len(id) != 16 {
		return ""
	}
	b := binary.LittleEndian.AppendUint64(nil, siphash.Sum(key, string(id)+machine))
	b[0] = b[0]&^1 | 2 // of one interface, and nobody bought it
	return hex.EncodeToString(b[:6])
}
