package settings

import (
	"strings"
	"testing"
)

// TestNetworkValues: what the options for interfaces take, and what not.
func TestNetworkValues(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"network-bridge", "br0", "br0"},
		{"network-bridge", "br.0-x_y", "br.0-x_y"},
		{"network-bridge", "", "-"}, {"network-bridge", "a b", "-"}, {"network-bridge", "a:b", "-"}, {"network-bridge", "a%d", "-"},
		{"network-bridge", "..", "-"}, {"network-bridge", "all", "-"}, {"network-bridge", "default", "-"}, {"network-bridge", "17", "-"},
		{"network-bridge", "fifteenbytes123", "fifteenbytes123"}, {"network-bridge", "sixteenbytes1234", "-"}, {"network-bridge", "brü", "-"},
		{"network-zone", "twelvebytes1", "twelvebytes1"}, {"network-zone", "thirteenbytes", "-"}, {"network-zone", "", "-"}, {"network-zone", "1", "1"},
		{"network-veth-extra", "a", "a"}, {"network-veth-extra", "a:b", "a:b"}, {"network-veth-extra", "a:", "a"},
		{"network-veth-extra", ":b", "-"}, {"network-veth-extra", "a:b:c", "-"}, {"network-veth-extra", "", "-"}, {"network-veth-extra", "a b", "-"},
		{"network-veth-extra", "lo", "-"}, {"network-veth-extra", "a:lo", "-"}, {"network-macvlan", "a:lo", "-"}, {"network-macvlan", "lo", "lo"},
		{"network-mac", "02:11:22:33:44:aB", "0211223344ab"}, {"network-mac", "02-11-22-33-44-55", "021122334455"}, {"network-mac", "0211.2233.4455", "021122334455"},
		{"network-mac", "0211.2233.44.55", "-"}, {"network-mac", "021.2233.44556", "-"}, {"network-mac", "02.11.22.33.44.55", "-"}, {"network-mac", "01:11:22:33:44:55", "-"},
		{"network-macvlan", " eth0  eth1:lan\teth2: ", "eth0 eth1:lan eth2"}, {"network-macvlan", "", ""}, {"network-macvlan", "eth0 a/b", "-"},
		{"network-ipvlan", "eth0:sixteenbytes1234", "-"}, {"network-interface", "eth0:default", "-"}, {"network-interface", "eth0", "eth0"},
		{"network-namespace-path", "/run/netns/x", "/run/netns/x"}, {"network-namespace-path", "netns/x", "/srv/netns/x"}, {"network-namespace-path", "", ""},
	} {
		v, err := Find(c.name).Parse(Place{Cwd: "/srv"}, c.text)
		got := ""
		switch v := v.(type) {
		case string:
			got = v
		case []Link:
			var words []string
			for _, l := range v {
				words = append(words, l.String())
			}
			got = strings.Join(words, " ")
		}
		if err != nil {
			got = "-"
		}
		if got != c.want {
			t.Errorf("%s=%q: %q %v, want %q", c.name, c.text, got, err, c.want)
		}
	}
}

// TestNetworkImplies: what one option implies, and what doesn't go together.
func TestNetworkImplies(t *testing.T) {
	for _, c := range []struct {
		words         []string
		private, veth bool
		refused       string
	}{
		{[]string{"network-zone=z"}, true, true, ""},
		{[]string{"network-bridge=b"}, true, true, ""},
		{[]string{"network-veth-extra=a"}, true, false, ""},
		{[]string{"network-macvlan=a"}, true, false, ""},
		{[]string{"network-ipvlan=a"}, true, false, ""},
		{[]string{"network-interface="}, true, false, ""},
		{[]string{"network-macvlan=a", "private-network=no"}, true, false, ""},
		{[]string{"network-bridge=b", "network-veth=no"}, true, true, ""},
		{[]string{"network-namespace-path=/x"}, false, false, ""},
		{[]string{"network-namespace-path=/x", "private-network=yes"}, true, false, ""},
		{[]string{"network-bridge=b", "network-zone=z"}, true, true, "network-zone"},
		{[]string{"network-namespace-path=/x", "network-interface=a"}, true, false, "network-interface"},
		{[]string{"network-namespace-path=/x", "network-zone=z"}, true, true, "network-zone"},
		{[]string{"network-namespace-path=/x", "network-zone=z", "network-namespace-path="}, true, true, ""},
	} {
		s, _, _, err := Resolve(say(t, c.words...), Surroundings{Place: Place{Cwd: "/srv/web"}})
		if (err != nil) != (c.refused != "") {
			t.Errorf("%q: %v", c.words, err)
			continue
		}
		if s.Network.Private != c.private || s.Network.Veth != c.veth {
			t.Errorf("%q: %+v", c.words, s.Network)
		}
	}
}
