package network

import (
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// own is the cell of the tests that no peer runs in: on the host's own tree.
func own(t *testing.T, script string) string {
	t.Helper()
	return sh(t, open(t, "/"), program, helpers+"trap 'echo line $LINENO: $BASH_COMMAND; cat /run/*.out' ERR\nset -eE\n"+script)
}

const helpers = `
# same WHAT A B complains unless both are the same.
same() { [ "$2" = "$3" ] || { echo "$1: '$2', want '$3'"; exit 4; }; }
addresses() { echo $(ip -o addr show dev $1 | grep -v 'scope link' | awk '{print $4}') $(ip -o link show dev $1 | grep -o '[<,]UP[,>]' | tr -d '<,>'); }
# left complains about what is left of machines.
left() {
	same "interfaces" "$(links)" "$1"
	same "journals" "$(ls /run/launch 2>/dev/null || true)" ""
	same "mounts" "$(grep -c /run/launch /proc/self/mountinfo || true)" 0
	same "lock files" "$(ls /run/systemd/nspawn-network-zone 2>/dev/null || true)" ""
}
# slay NAME kills the launcher, and waits until its machine is gone.
slay() {
	local p=$(net $1)
	kill -9 $(cat /run/$1.pid)
	end $1 2>/dev/null || true
	hang $1
	for i in $(seq 250); do [ -e /proc/$p ] || return 0; sleep 0.02; done
}
# reach A B says whether B answers A.
reach() {
	local own=$(linklocal $1) other=$(linklocal $2)
	[ "$own" ] && in_ $1 /bin/busybox ping -6 -c 2 -W ${3:-5} $other%host0 >/run/ping 2>&1 || { cat /run/ping; return 5; }
}
# linklocal NAME is the address of host0, when it can be used.
linklocal() { for i in $(seq 250); do a=$(in_ $1 ip -6 -o addr show dev host0 scope link -tentative | awk '{print $4}'); [ -z "$a" ] || { echo ${a%/*}; return; }; sleep 0.02; done; }
`

// TestZone: machines of one zone reach each other without anybody's help, and
// its bridge goes with the last of them.
func TestZone(t *testing.T) {
	own(t, `
start a --network-zone=z
start b --network-zone=z --private-users=1310720:65536 --private-users-chown -D /u
same "ports" "$(ls /sys/class/net/vz-z/brif | tr '\n' ' ')" "vb-a vb-b "
reach a b
reach b a
start c --network-zone=other
if reach c a 1 >/dev/null; then echo "zones are not apart"; exit 5; fi
say a : ; end a
same "with one left" "$(links)" "vb-b vb-c vz-other vz-z "
start a --network-zone=z # comes back
reach a b
say a : ; end a
say b : ; end b
say c : ; end c
left ""
# A bridge that somebody made is used, and not taken for empty by what is not a machine's.
ip link add vz-z type bridge
cable eth5
ip link set eth5 master vz-z
start a --network-zone=z
say a : ; end a
left "eth5 up5 vz-z "
# What has the name and is no bridge stays.
ip link del vz-z
ip link del eth5
ip link add vz-z type veth peer name other
if run a --network-zone=z >/run/said; then echo it runs; exit 5; fi
grep -q 'vz-z: it is no bridge' /run/said || { cat /run/said; exit 5; }
left "other vz-z "
`)
}

// TestZoneKilled: the bridge goes as well when all launchers were killed, by
// whoever comes next; and not before.
func TestZoneKilled(t *testing.T) {
	own(t, `
start a --network-zone=z
start b --network-zone=z
slay a
$L --cleanup
same "with one left" "$(links)" "vb-b vz-z "
slay b
gone vb-b
same "with none left" "$(links)" "vz-z "
$L --cleanup
left ""
start a --network-zone=z
slay a
run a --network-zone=elsewhere # the next start does it as well
left ""
start a --network-zone=z
slay a
start b --network-zone=z # somebody else has it now
$L --cleanup
same "used by another" "$(links)" "vb-b vz-z "
say b : ; end b
left ""
`)
}

// TestZoneRace: many machines that come and go in one zone never find the
// bridge gone, and leave none.
func TestZoneRace(t *testing.T) {
	script := `
many() {
	local n=$1 i
	shift
	for i in $(seq $n); do
		"$@" || { echo "$* $i failed"; return 1; }
	done
}
one() { # NAME LAUNCHER
	$2 --quiet -D /t -M $1 --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --read-only --network-zone=race /bin/busybox sh -c 'test -e /sys/class/net/host0' </dev/null >/run/$1.said 2>&1 ||
		grep -q 'Failed to mount tmpfs.*/nspawn-root-' /run/$1.said || # many at once, systemd-nspawn sometimes loses its own directory
		{ cat /run/$1.said; return 1; }
}
`
	own(t, script+`
for m in a b c d; do many 40 one $m $L & all="$all $!"; done
for p in $all; do wait $p || exit 6; done
left ""
`)

	// With systemd-nspawn beside: both have the same lock.
	root := tree.PeersThere(t)
	out := sh(t, open(t, root), program, helpers+script+`
for m in a b; do many 25 one $m $L & all="$all $!"; done
for m in c d; do many 15 one $m "systemd-nspawn --restrict-address-families=" & all="$all $!"; done
for p in $all; do wait $p || exit 6; done
left ""
echo done`)
	if !strings.HasSuffix(out, "done\n") {
		t.Error(out)
	}
}

// TestLent: an interface that was moved into a machine comes back as it was,
// whatever the machine did with it, and however its launcher ended.
func TestLent(t *testing.T) {
	own(t, `
cable eth0
ip link set eth0 mtu 1400 up
ip addr add 192.0.2.7/24 dev eth0
ip addr add 2001:db8::7/64 dev eth0 nodad
ip link property add dev eth0 altname second
cable eth1
was=$(addresses eth0)
same "before" "$was" "192.0.2.7/24 2001:db8::7/64 UP"
number=$(cat /sys/class/net/eth0/ifindex)
back() {
	left "eth0 eth1 up0 up1 "
	same "addresses of eth0, $1" "$(addresses eth0)" "$was"
	same "state of eth1" "$(addresses eth1)" ""
	same "mtu" "$(cat /sys/class/net/eth0/mtu)" 1400
	same "number" "$(cat /sys/class/net/eth0/ifindex)" $number
	same "other name" "$(ip -o link show second | grep -o 'eth0@')" eth0@
}
for users in "" "--private-users=1310720:65536 --private-users-chown -D /u"; do
	start a "--network-interface=eth0:lan eth1" $users
	same "meanwhile" "$(links)" "up0 up1 "
	same "inside" "$(in_ a ip -o link | grep -c 'lan@\|eth1@')" 2
	say a : ; end a
	back "after a machine"
done
# A machine that changes it.
start a "--network-interface=eth0:lan eth1"
in_ a ip link set lan down
in_ a ip link set lan name fancy
in_ a ip link set eth1 name lan
in_ a ip addr add 10.0.0.1/8 dev fancy
say a : ; end a
back "after it was renamed"
# A start that fails.
if run a --network-interface=eth0 --network-interface=nope >/run/said; then echo it runs; exit 5; fi
grep -q 'nope into the machine: there is none' /run/said || { cat /run/said; exit 5; }
back "after a start that failed"
# Killed: --cleanup, and the next start.
start a "--network-interface=eth0:lan eth1"
slay a
same "after the kill" "$(links)" "up0 up1 "
$L --cleanup
back "after --cleanup"
start a "--network-interface=eth0:lan eth1"
slay a
run a "--network-interface=eth0:lan eth1"
back "after the next start"
# Its name is another's by now, or both are: nothing is lost.
for other in "lan eth0" eth0; do
	start a --network-interface=eth0:lan
	slay a
	for n in $other; do ip link add $n type bridge; done
	for n in $other; do
		if $L --cleanup >/run/said 2>&1; then echo "--cleanup is content"; exit 5; fi
		same "with another of the name" "$(ls /run/launch)" a
		ip link del $n
	done
	$L --cleanup
	back "after the name was free again"
done
# One that udev hasn't seen is not taken away from it.
mkdir -p /run/udev/data
touch /run/udev/control
if run a --network-interface=eth0 >/run/said; then echo it runs; exit 5; fi
grep -q "udev isn't done with it yet" /run/said || { cat /run/said; exit 5; }
touch /run/udev/data/n$number
run a --network-interface=eth0
rm -r /run/udev
back "with udev"
# The machine removes it: that is its right, and what has its number is not moved.
cable eth2
start a --network-interface=eth2
in_ a ip link del eth2
in_ a ip link add index $(($(cat /sys/class/net/up1/ifindex) + 100)) name evil type bridge
say a : ; end a
back "after another one was removed"
# Twice in a row, with a reboot: the interface is lent again.
start a --network-interface=eth0
say a 'echo again >&2'; end a
back "at the end"
`)
}

// TestStacked: what lies on an interface of the host's is gone with the machine,
// also where somebody else keeps its network, so that the next one can have the
// same address.
func TestStacked(t *testing.T) {
	own(t, `
cable eth0
ip link set eth0 up
for i in $(seq 10); do run a --network-macvlan=eth0 --network-macvlan=eth0:second; done
start a --network-macvlan=eth0
nsenter --net=/proc/$(net a)/ns/net sleep 100 & keep=$!
sleep 0.2
say a : ; end a
run a --network-macvlan=eth0
same "in the network that somebody kept" "$(nsenter --net=/proc/$keep/ns/net ip -o link | grep -c mv-eth0 || true)" 0
kill $keep
for i in $(seq 5); do
	start a --network-macvlan=eth0
	kill -9 $(cat /run/a.pid); end a 2>/dev/null || true; hang a
	run a --network-macvlan=eth0 # at once
done
# Two at the same time with one address: the second says so.
start a --network-macvlan=eth0
start b --network-macvlan=eth0
in_ a ip addr add 192.0.2.1/24 dev mv-eth0
in_ b ip addr add 192.0.2.2/24 dev mv-eth0
in_ a /bin/busybox ping -c 1 -W 5 192.0.2.2 >/run/ping || { cat /run/ping; exit 5; }
say a : ; end a
say b : ; end b
left "eth0 up0 "
# The whole name is one of the interface's.
ip link set eth0 name fifteenbytes123
start a --network-macvlan=fifteenbytes123
in_ a ip link show mv-fifteenbytes123 >/dev/null
say a : ; end a
`)
}

// TestIPVLAN: where the kernel has such interfaces, the machine's has the address
// of the host's; else an error says that the kernel has none.
func TestIPVLAN(t *testing.T) {
	own(t, `
cable eth0
if ip link add link eth0 name try type ipvlan 2>/dev/null; then
	ip link del try
	start a --network-ipvlan=eth0
	same "mode" "$(in_ a ip -d -o link show iv-eth0 | grep -o 'ipvlan *mode l2')" "ipvlan  mode l2"
	same "address" "$(in_ a cat /sys/class/net/iv-eth0/address)" "$(cat /sys/class/net/eth0/address)"
	say a : ; end a
else
	if run a --network-ipvlan=eth0 >/run/said; then echo it runs; exit 5; fi
	grep -q 'on eth0: the kernel has no such interfaces' /run/said && grep -q 'from:  --network-ipvlan=eth0' /run/said || { cat /run/said; exit 5; }
fi
left "eth0 up0 "
`)
}

// TestPath: a machine is in the network namespace that was named, which stays as
// it is, and nothing is made.
func TestPath(t *testing.T) {
	for _, users := range []string{"", "--private-users=1310720:65536 --private-users-chown -D /u"} {
		own(t, `
ip netns add there
ip -n there link add q type veth peer name r
ip -n there -d -o addr >/run/before
start a --network-namespace-path=/run/netns/there `+users+`
same "namespace" "$(sed -n 's/^up //p' /run/a.out)" "net:[$(stat -c %i /run/netns/there)]"
same "interfaces" "$(links)" ""
ip -n there -d -o addr | cmp - /run/before
say a : ; end a
ip -n there -d -o addr | cmp - /run/before
cd /run/netns
run a --network-namespace-path=there `+users+` # where we are
start a --network-namespace-path=/run/netns/there `+users+`
slay a
$L --cleanup
ip -n there -d -o addr | cmp - /run/before
left ""
`)
	}
}

// TestReboot: a machine that reboots has its interfaces again.
func TestReboot(t *testing.T) {
	own(t, `
cable eth0
ip addr add 192.0.2.7/24 dev eth0
printf '%s\n' '#!/bin/busybox sh' 'ls /sys/class/net | tr "\n" " " >>/seen' 'echo >>/seen' 'test $(/bin/busybox wc -l </seen) = 3 || exec /bin/busybox reboot -f' >/t/sbin/init
$L --quiet -D /t -M a --register=no --console=pipe --boot --network-zone=z --network-veth-extra=x --network-macvlan=up0 --network-interface=eth0 </dev/null || true
cat /t/seen
same "each time" "$(sort -u /t/seen)" "eth0 host0 lo mv-up0 x "
same "times" "$(wc -l </t/seen)" 3
same "addresses" "$(addresses eth0)" "192.0.2.7/24"
left "eth0 up0 "
`)
}
