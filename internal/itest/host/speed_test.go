package host

import (
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// TestRegistrationIsCheap: what systemd and systemd-machined are asked for goes
// on beside the mounts, so a scope and a registration add less than 10 ms to a
// start. Starts with and without take turns, all with a real-time priority.
func TestRegistrationIsCheap(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "host") {
		t.Skip("slow: runs with LAUNCH_TEST=host (make host)")
	}
	h := Boot(t, tree.Suite, "c1")
	const rounds, most = 60, 10_000 // microseconds
	// In a file: systemd-run would take ${…} for its own.
	h.Write("/root/times", `once() { local a b; a=${EPOCHREALTIME/[.,]/}; launch --quiet --console=pipe --link-journal=no -D /var/lib/machines/c1 -M c-1 "$@" /bin/true </dev/null || exit 1; b=${EPOCHREALTIME/[.,]/}; echo $1 $((b - a)); }
# What else the computer does has no part in it.
systemctl start systemd-machined
for p in 1 $(pidof dbus-daemon systemd-machined) $$; do chrt --fifo --pid 50 $p; done
for i in $(seq `+strconv.Itoa(rounds)+`); do once --register=no --keep-unit; once --register=yes; done
`, 0o644)
	out, err := h.Sh("bash /root/times")
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, out, h.Journal())
	}
	times := map[string][]int{}
	for l := range strings.Lines(out) {
		how, took, _ := strings.Cut(strings.TrimSpace(l), " ")
		n, err := strconv.Atoi(took)
		if err != nil || n < 500 { // faster than a program starts
			t.Fatalf("unexpected line %q", l)
		}
		times[how] = append(times[how], n)
	}
	middle := func(how string) int {
		list := times[how]
		if len(list) != rounds {
			t.Fatalf("%d starts with %s, want %d\n%s", len(list), how, rounds, out)
		}
		slices.Sort(list)
		return list[len(list)/2]
	}
	with, without := middle("--register=yes"), middle("--register=no")
	t.Logf("medians of %d: %d µs with a scope and a registration, %d µs without", rounds, with, without)
	if with-without >= most {
		t.Errorf("a scope and a registration add %d µs to a start, at most %d are fine", with-without, most)
	}
}
