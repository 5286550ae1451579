// Package network tries the networks of machines: which interfaces there are,
// on both sides, how two machines reach each other, and what is left of all
// that. It runs in cells, whose network stands for the host's, and where
// systemd-nspawn has the same, it is run beside.
//
// Room: test.
package network

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

//go:embed look.sh
var look string

const (
	most    = 2 * time.Minute
	program = "/run/tried/launch"
)

// open makes a cell on a tree, with launch in it.
func open(t *testing.T, root string) *cell.Cell {
	t.Helper()
	tree.NeedRoot(t, "ip", "busybox")
	return cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{program: stage.Launch(t).Path}}, "", time.Minute)
}

// sh runs a script with the functions of look.sh under a launcher.
func sh(t *testing.T, c *cell.Cell, launcher, script string) string {
	t.Helper()
	out, status, err := c.Shell("L='"+launcher+"'\n"+look+script, most)
	if err != nil || status != 0 {
		t.Fatalf("exit status %d %v\n%s", status, err, out)
	}
	return out
}

// link is what is compared of an interface.
type link struct {
	Name   string   `json:"ifname"`
	Names  []string `json:"altnames"`
	Flags  []string `json:"flags"`
	MTU    int      `json:"mtu"`
	MAC    string   `json:"address"`
	Master string   `json:"master"`
	Info   struct {
		Kind string `json:"info_kind"`
		Data struct {
			Mode string `json:"mode"`
		} `json:"info_data"`
	} `json:"linkinfo"`
	Index     int `json:"ifindex"`
	Addresses []struct {
		Local string `json:"local"`
		Scope string `json:"scope"`
	} `json:"addr_info"`
}

// facts gives the interfaces beside lo, a line each.
func facts(t *testing.T, text string) (list []string) {
	t.Helper()
	var links []link
	if err := json.Unmarshal([]byte(text), &links); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	for _, l := range links {
		if l.Name == "lo" {
			continue
		}
		state := "down"
		if slices.Contains(l.Flags, "UP") {
			state = "up"
		}
		line := fmt.Sprintf("%s %v %s %s %s mtu %d of %q %s", l.Name, l.Names, l.Info.Kind, l.Info.Data.Mode, l.MAC, l.MTU, l.Master, state)
		for _, a := range l.Addresses {
			if a.Scope == "global" {
				line += " " + a.Local
			}
		}
		if strings.HasPrefix(l.MAC, "02:00:00:00:01:") && l.Info.Kind == "veth" { // one that the test made keeps its number
			line += fmt.Sprint(" number ", l.Index)
		}
		list = append(list, line)
	}
	slices.Sort(list)
	return list
}

// world is what machines are started among.
const world = `
for i in 0 1 2; do cable eth$i; done
ip link set eth0 mtu 1400 up
ip addr add 192.0.2.7/24 dev eth0
ip link property add dev eth1 altname second
cable eth9
ip link set eth9 name fifteenbytes123
ip link add br0 type bridge
ip link set br0 address 02:00:00:00:01:09 up
ip link property add dev br0 altname brother
ip netns add there
ip -n there link add q address 02:00:00:00:02:00 type veth peer name r address 02:00:00:00:02:01
`

// Options as words; the rest says what is special.
var cases = []struct {
	name, args string
	// new: systemd-nspawn 252 doesn't have that.
	new bool
	// differs is what is otherwise under launch, and why.
	differs map[string]string
}{
	{name: "veth", args: "--network-veth"},
	{name: "bridge", args: "--network-bridge=br0"},
	{name: "bridge-other-name", args: "--network-bridge=brother"},
	{name: "bridge-last-wins", args: "--network-bridge=nope --network-bridge=br0"},
	{name: "bridge-long", args: "--network-bridge=br0 -M averylongcontainername"},
	{name: "zone", args: "--network-zone=backend"},
	{name: "zone-longest", args: "--network-zone=twelvebytes1 -M averylongcontainername"},
	{name: "extra", args: "--network-veth-extra=a"},
	{name: "extra-several", args: "--network-veth-extra=a:b --network-veth-extra=c --network-veth-extra=d:"},
	{name: "extra-veth", args: "--network-veth-extra=a:b --network-veth"},
	{name: "macvlan", args: "--network-macvlan=eth0"},
	{name: "macvlan-list", args: "'--network-macvlan=eth0 fifteenbytes123' --network-macvlan=eth1", new: true,
		differs: map[string]string{"mv-fifteenb0dC4": "systemd-nspawn looks for the interface on the host when it gives it its whole name, and goes without"}},
	{name: "macvlan-names", args: "'--network-macvlan=eth0:lan eth1' --network-macvlan=second:wan", new: true},
	{name: "macvlan-other-name", args: "--network-macvlan=second", new: true},
	{name: "macvlan-none", args: "--network-macvlan=", new: true},
	{name: "interface", args: "--network-interface=eth0"},
	{name: "interface-list", args: "'--network-interface=eth0:lan eth2' --network-interface=eth1:wan", new: true},
	{name: "interface-other-name", args: "--network-interface=second", new: true},
	{name: "interface-none", args: "--network-interface=", new: true},
	{name: "path", args: "--network-namespace-path=/run/netns/there"},
	{name: "path-private", args: "--network-namespace-path=/run/netns/there --private-network"},
	{name: "path-taken-back", args: "--network-namespace-path=/run/netns/nope --network-namespace-path= --network-veth"},
	{name: "all", args: "--network-bridge=br0 --network-veth-extra=a:b --network-macvlan=eth2 --network-interface=eth1"},
	{name: "users", args: "-D /u --private-users=1310720:65536 --private-users-chown --network-zone=z --network-veth-extra=a:b --network-macvlan=eth2 --network-interface=eth1"},
	{name: "users-path", args: "-D /u --private-users=1310720:65536 --private-users-chown --network-namespace-path=/run/netns/there", new: true},

	// What the files say.
	{name: "file", args: `--settings=trusted FILE=[Network]\nBridge=br0\nVirtualEthernetExtra=a:b\nMACVLAN=eth0 eth2\nInterface=eth1\n`},
	{name: "file-zone", args: `--settings=trusted FILE=[Network]\nPrivate=no\nZone=far\n`},
	{name: "file-path", args: `--settings=trusted FILE=[Network]\nNamespacePath=/run/netns/there\n`, new: true},
	{name: "file-empty", args: `--settings=trusted FILE=[Network]\nBridge=nope\nBridge=\nMACVLAN=eth0\nMACVLAN=\nVirtualEthernetExtra=a\nVirtualEthernetExtra=\n`, new: true},
	{name: "file-beside-flags", args: `--settings=trusted --network-veth FILE=[Network]\nZone=far\nMACVLAN=eth0\n`},
	{name: "file-untrusted", args: `--private-network FILE=[Network]\nZone=far\nMACVLAN=eth0\n`},
}

// refusals are what nobody starts a machine with.
var refusals = []string{
	"--network-bridge=nope", "--network-bridge=eth1", "--network-bridge=", "--network-bridge=a/b", "--network-bridge=bridgewithlongname",
	"--network-bridge=br0 --network-zone=z", "--network-zone=thirteenbytes", "--network-zone=a:b", "'--network-zone=a b'",
	"--network-veth-extra=", "--network-veth-extra=:a", "--network-veth-extra=a:b:c", "--network-veth-extra=a --network-veth-extra=a",
	"--network-veth-extra=a:x --network-veth-extra=b:x", "'--network-veth-extra=a b'", "--network-veth-extra=toolonginterfacename1",
	"--network-veth-extra=eth0:a", "--network-veth-extra=a:host0 --network-veth",
	"--network-macvlan=nope", "--network-macvlan=lo", "--network-macvlan=thisislongerthanfifteen", "--network-macvlan=eth0 --network-macvlan=eth0",
	"--network-ipvlan=nope", "--network-ipvlan=a/b", "--network-interface=nope", "--network-interface=lo", "--network-interface=br0",
	"--network-interface=eth0:1234567890123456", "--network-interface=eth1 --network-interface=eth1",
	"--network-namespace-path=/nope", "--network-namespace-path=/etc/passwd", "--network-namespace-path=/proc/1/ns/uts",
	"--network-namespace-path=/run/netns/there --network-veth", "--network-namespace-path=/run/netns/there --network-zone=z",
	"--network-namespace-path=/run/netns/there --network-bridge=br0", "--network-namespace-path=/run/netns/there --network-veth-extra=a",
	"--network-namespace-path=/run/netns/there --network-macvlan=eth0", "--network-namespace-path=/run/netns/there --network-ipvlan=eth0",
	"--network-namespace-path=/run/netns/there --network-interface=eth1",
	`--settings=trusted FILE=[Network]\nBridge=br0\nZone=z\n`,
	`--settings=trusted FILE=[Network]\nNamespacePath=/run/netns/there\nVirtualEthernet=yes\n`,
}

// seen is what one machine looks like.
type seen struct {
	host, machine, after []string
	own, sys, caps       string
}

// see starts a machine and looks at it, in a fresh cell.
func see(t *testing.T, root, launcher, args string, managed bool) seen {
	t.Helper()
	c := open(t, root)
	script, boot, file := world, "", ""
	if managed {
		script += "mkdir -p /sys/fs/cgroup/system.slice/systemd-networkd.service\n"
		boot = "--boot"
	}
	if words, text, ok := strings.Cut(args, "FILE="); ok {
		args, file = words, text
		script += "printf '" + file + "' >/m.nspawn\n"
	}
	args += " " + boot
	out := sh(t, c, launcher, script+`
start m `+args+` || { cat /run/m.out; exit 3; }
echo "=== $(readlink /proc/$(net m)/ns/net)"
ip -d -j addr
echo ===
in_ m ip -d -j addr
say m 'echo sys: $(ls /sys/class/net) , $(grep CapBnd /proc/self/status); echo 1 >/proc/sys/net/ipv4/conf/all/forwarding && echo changes sysctls; true'
end m || { cat /run/m.out; exit 3; }
echo ===
for i in $(seq 100); do links | grep -q 'v[ebz]-\|^a ' || break; sleep 0.02; done
ip -d -j addr
echo ===
grep -v '^up' /run/m.out`)
	part := strings.SplitN(out, "===", 5)
	if len(part) != 5 {
		t.Fatalf("what was seen is cut off: %s", out)
	}
	own, host, _ := strings.Cut(part[1], "\n")
	s := seen{host: facts(t, host), machine: facts(t, part[2]), after: facts(t, part[3])}
	s.own = own
	for line := range strings.Lines(part[4]) {
		if text, ok := strings.CutPrefix(line, "sys: "); ok {
			s.sys, s.caps, _ = strings.Cut(text, " , ")
		}
		if strings.HasPrefix(line, "changes") {
			s.caps += line
		}
	}
	return s
}

// nspawns are the trees that cells are made on, and how their systemd-nspawn is
// called.
func nspawns(t *testing.T) (list []struct {
	version, root, command string
	old                    bool
}) {
	add := func(version, root, command string, old bool) {
		list = append(list, struct {
			version, root, command string
			old                    bool
		}{version, root, command, old})
	}
	if !testing.Short() {
		add("host", "/", "env SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn", true)
	}
	add(tree.PeerSuite, tree.PeersThere(t), "systemd-nspawn --restrict-address-families=", false)
	return list
}

// TestPeersSeeLinks: each option makes the interfaces that systemd-nspawn makes:
// names, kinds, modes, addresses, MTUs, bridges. Where somebody looks after them,
// on the host and inside, they also are up where its are.
func TestPeersSeeLinks(t *testing.T) {
	if s := os.Getenv("LAUNCH_TEST"); !strings.Contains(s, "peers") && !strings.Contains(s, "network") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make compare)")
	}
	for _, n := range nspawns(t) {
		for _, c := range cases {
			if c.new && n.old {
				continue
			}
			t.Run(n.version+"/"+c.name, func(t *testing.T) {
				ours, peers := see(t, n.root, program, c.args, true), see(t, n.root, n.command, c.args, true)
				compare := func(what string, ours, peers []string) {
					t.Helper()
					for _, line := range slices.Compact(slices.Sorted(slices.Values(slices.Concat(ours, peers)))) {
						if name, _, _ := strings.Cut(line, " "); slices.Contains(ours, line) != slices.Contains(peers, line) && c.differs[name] == "" {
							t.Errorf("%s: %s\nours:  %q\npeers: %q", what, line, ours, peers)
							return
						}
					}
				}
				if len(ours.host) < 5 || len(ours.machine) < 1 && !strings.Contains(c.name, "none") && c.name != "file-untrusted" {
					t.Fatalf("too little is seen: %+v", ours)
				}
				compare("on the host", ours.host, peers.host)
				compare("in the machine", ours.machine, peers.machine)
				if ours.caps != peers.caps || !strings.Contains(ours.caps, "CapBnd") {
					t.Errorf("rights: %q, under systemd-nspawn %q", ours.caps, peers.caps)
				}
				// What comes back is as it was; systemd-nspawn's is down, and has
				// no addresses.
				before := facts(t, sh(t, open(t, n.root), program, world+"ip -d -j addr"))
				if !slices.Equal(before, ours.after) {
					t.Errorf("afterwards there is\n%q, before there was\n%q", ours.after, before)
				}
				if strings.Contains(c.name, "path") && !strings.Contains(c.name, "back") {
					if ours.sys != "lo q r" {
						t.Errorf("in /sys is %q", ours.sys)
					}
				} else if ours.sys != peers.sys {
					t.Errorf("in /sys is %q, under systemd-nspawn %q", ours.sys, peers.sys)
				}

				// Where nobody looks after them, the only difference is that they
				// are brought up.
				alone := see(t, n.root, program, c.args, false)
				up := func(list []string) (l []string) {
					for _, line := range list {
						l = append(l, strings.Replace(line, " down", " up", 1))
					}
					return l
				}
				compare("on the host, without a network manager", up(alone.host), up(peers.host))
				compare("in the machine, without an init", up(alone.machine), up(peers.machine))
				for _, line := range alone.machine {
					if !strings.Contains(line, " up") && !strings.Contains(c.name, "path") {
						t.Errorf("nobody has brought up %s", line)
					}
				}
			})
		}
	}
}

// TestPeersSeeRefusals: both refuse the same, and leave nothing.
func TestPeersSeeRefusals(t *testing.T) {
	if s := os.Getenv("LAUNCH_TEST"); !strings.Contains(s, "peers") && !strings.Contains(s, "network") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make compare)")
	}
	root := tree.PeersThere(t)
	script := world + "before=$(links)\n"
	for i, args := range refusals {
		file := "rm -f /m.nspawn\n"
		if words, text, ok := strings.Cut(args, "FILE="); ok {
			args, file = words, "printf '"+text+"' >/m.nspawn\n"
		}
		script += file + fmt.Sprintf("run m %s; echo \"refused %d: $?\"\ngone ve-m; gone vb-m; gone vz-z; [ \"$(links)\" = \"$before\" ] || { echo 'left:' $(links); ip link del eth1 2>/dev/null; cable eth1; before=$(links); }\n", args, i)
	}
	verdict := func(launcher string) []string {
		out := sh(t, open(t, root), launcher, script)
		list, said := make([]string, len(refusals)), ""
		for line := range strings.Lines(out) {
			var n, status int
			if _, err := fmt.Sscanf(line, "refused %d: %d", &n, &status); err == nil {
				list[n], said = fmt.Sprintf("%d: %s", status, said), ""
			} else if strings.HasPrefix(line, "left:") && launcher == program {
				t.Errorf("%s", line)
			} else {
				said += strings.TrimSpace(line) + " "
			}
		}
		return list
	}
	ours, peers := verdict(program), verdict("systemd-nspawn --restrict-address-families=")
	for i, args := range refusals {
		if !strings.HasPrefix(ours[i], "1: launch: cannot") || !strings.Contains(ours[i], "from:") && !strings.Contains(ours[i], "cannot use --") {
			t.Errorf("%s: %s", args, ours[i])
		}
		if !strings.HasPrefix(peers[i], "1:") {
			t.Errorf("%s: systemd-nspawn does it: %s", args, peers[i])
		}
	}
}
