package settings

import (
	"reflect"
	"testing"

	"launch/internal/origin"
)

// TestSay: what is said of settings makes the same settings again, as flags and
// as keys.
func TestSay(t *testing.T) {
	for _, words := range [][]string{
		{"directory=/srv/web"},
		{"directory=/srv/web", "boot=yes", "machine=box", "hostname=other", "read-only=yes", "private-users=pick", "private-users-ownership=map", "private-network=yes"},
		{"directory=/srv/web", "network-veth=yes"},
		{"directory=/srv/web", "private-network=yes", "port=80", "port=udp:53:5353", "port=tcp:0x1f90:80"},
		{"directory=/srv/web", "network-bridge=br0", "network-veth-extra=a", "network-veth-extra=b:c"},
		{"directory=/srv/web", "network-zone=backend", "network-macvlan=eth0 eth1:lan", "network-macvlan=eth2", "network-ipvlan=eth3", "network-interface=eth4:wan eth5"},
		{"directory=/srv/web", "network-namespace-path=/run/netns/x", "private-network=yes"},
		{"directory=/srv/web", "volatile=state", "private-users=65536:4096", "kill-signal=TERM", "uuid=0123456789abcdef0123456789abcdef"},
		{"directory=/srv/web", "chdir=/srv", "setenv=A=1 '2\" #", "setenv=B=", "uid=www", "words=sh -c \"a b\" ''"},
		{"directory=/srv/web", "capability=CAP_NET_ADMIN,CAP_SYS_TIME", "drop-capability=CAP_MKNOD", "no-new-privileges=yes", "ambient-capability=CAP_KILL"},
		{"directory=/srv/web", "system-call-filter=~@keyring", "system-call-filter=bpf", "restrict-address-families=~AF_PACKET AF_INET"},
		{"directory=/srv/web", "restrict-address-families=none", "oom-score-adjust=-5", "cpu-affinity=0,2-4"},
		{"directory=/srv/web", "selinux-context=system_u:system_r:container_t:s0:c1,c2", "selinux-apifs-context=system_u:object_r:container_file_t"},
		{"directory=/srv/web", "rlimit=NOFILE=1024:4096", "rlimit=CPU=90", "rlimit=RTTIME=7", "rlimit=NICE=+5", "rlimit=CORE=infinity", "rlimit=STACK=8M"},
		{"directory=/srv/web", "bind=/a", `bind=/a\:b:/c\\d:norbind`, "bind-ro=-/x:/y", "bind=+/in:/out", "bind=:/fresh", "tmpfs=/t", "tmpfs=/u:size=1m,mode=0700"},
		{"directory=/srv/web", "private-users=yes", "bind=/a:/b:idmap", "bind=/a:/c:rootidmap", "overlay=/l1:/l2:/u:/t", "overlay-ro=/l::/t2", "inaccessible=/proc/x"},
		{"directory=/srv/web", "resolv-conf=bind-host", "timezone=off", "link-journal=no", "console=pipe", "register=no", "notify-ready=yes", "keep-unit=yes", "quiet=yes"},
		{"directory=/srv/web", "bind-user=joe", "bind-user=ann", "bind-user-shell=/bin/zsh", "bind-user-group=wheel", "bind-user-group=video"},
		{"directory=/srv/web", "bind-user=joe", "bind-user-shell=yes"},
		{"directory=/srv/web", "forward-journal=/j", "forward-journal-max-use=2M", "forward-journal-keep-free=1", "forward-journal-max-file-size=3", "forward-journal-max-files=4"},
		{"directory=/srv/web", "ephemeral=yes", "machine=m", "pivot-root=/a:/b", "suppress-sync=yes"},
	} {
		around := Surroundings{Place: Place{Cwd: "/srv/web"}}
		want, _, _, err := Resolve(say(t, words...), around)
		if err != nil {
			t.Fatalf("%q: %v", words, err)
		}
		list, missed := Say(want)
		if missed != nil {
			t.Errorf("%q: missed %q", words, missed)
		}
		for _, asKeys := range []bool{false, true} {
			var again []Assignment
			for _, s := range list {
				o, text, parse := s.Option, s.Flag, s.Option.Parse
				if asKeys && o.Key != "" {
					text = s.Key
					if o.ParseKey != nil {
						parse = o.ParseKey
					}
				}
				if o.Name == "words" && !asKeys {
					again = append(again, Assignment{Option: o, Value: []string{text}, Origin: origin.Origin{Source: origin.CommandLine}})
					continue
				}
				if o.Name == "rlimit" && asKeys || o.Section != "" && o.Flag == "" && o.Name != "words" && !asKeys {
					continue // the other one says it
				}
				if text == "" && o.Arg == NoArg {
					text = "yes"
				}
				v, err := parse(Place{Cwd: "/elsewhere"}, text)
				if err != nil {
					t.Fatalf("%q: %s=%q: %v", words, o.Name, text, err)
				}
				again = append(again, Assignment{Option: o, Value: v, Text: text, Origin: origin.Origin{Source: origin.CommandLine}})
			}
			got, _, _, err := Resolve(again, around)
			if err != nil {
				t.Fatalf("%q: %v", words, err)
			}
			for i := range got.Mounts {
				got.Mounts[i].Origin = origin.Origin{}
			}
			for i := range want.Mounts {
				want.Mounts[i].Origin = origin.Origin{}
			}
			for _, users := range [][]BoundUser{got.Bound.Users, want.Bound.Users} {
				for i := range users {
					users[i].Origin = origin.Origin{}
				}
			}
			for i := range got.Network.Ports {
				got.Network.Ports[i].Origin = origin.Origin{}
			}
			for i := range want.Network.Ports {
				want.Network.Ports[i].Origin = origin.Origin{}
			}
			for _, n := range []Network{got.Network, want.Network} {
				for _, row := range n.links() {
					for i := range row.List {
						row.List[i].Text, row.List[i].Origin = "", origin.Origin{}
					}
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%q as keys %v:\ngot  %+v\nwant %+v", words, asKeys, got, want)
			}
		}
	}
}
