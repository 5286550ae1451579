package host

import (
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// TestZone: where systemd-networkd looks after interfaces, a machine of launch's
// and one of systemd-nspawn's in one zone get addresses of one network and reach
// each other, systemd-machined finds their addresses by the bridge, and that ends
// with the last of them, whosever it is.
func TestZone(t *testing.T) {
	long(t)
	h := Boot(t, tree.Suite, "c1", "c2")
	got := run(t, h, `
start() { systemd-run --quiet --unit=run-$2 --collect $1 --quiet --boot -D /var/lib/machines/$2 -M $2 --console=read-only --link-journal=no --kill-signal=SIGRTMIN+3 --network-zone=lab; }
address() { getent ahostsv4 "$1" | cut -d' ' -f1 | grep '^192[.]168[.]\|^10[.]\|^172[.]' | head -n1; }
reach() { nsenter -t $(leader $1) -n bash -c "echo >/dev/tcp/$(address $2)/9" 2>&1 | grep -o 'refused' | head -n1; }
start launch c1 && start systemd-nspawn c2 && up c1 && up c2
until_ 'address c1 | grep -q . && address c2 | grep -q .'
a=$(address c1) b=$(address c2)
[ "${a%.*}" = "${b%.*}" ] && echo one network || echo "$a and $b"
reach c1 c2; reach c2 c1
machinectl poweroff c1 && gone c1
ls /sys/class/net/vz-lab/brif
machinectl poweroff c2 && gone c2
until_ "! test -e /sys/class/net/vz-lab" && echo ended
start systemd-nspawn c2 && up c2 && start launch c1 && up c1 && machinectl poweroff c2 && gone c2 && machinectl poweroff c1 && gone c1
until_ "! test -e /sys/class/net/vz-lab" && echo ended`)
	if want := "one network refused refused vb-c2 ended ended"; strings.Join(strings.Fields(got), " ") != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
