package host

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// BenchmarkRegistration measures what a scope and a registration add to a start
// and end: TestBeside shows why that is little, and this how much it is. Starts
// with and without take turns, all with a real-time priority. See make bench, which
// runs it once: the rounds are its own.
func BenchmarkRegistration(b *testing.B) {
	h := Boot(b, tree.Suite, "c1")
	const rounds = 60
	// In a file: systemd-run would take ${…} for its own.
	h.Write("/root/times", `once() { local a b; a=${EPOCHREALTIME/[.,]/}; launch --quiet --console=pipe --link-journal=no -D /var/lib/machines/c1 -M c-1 "$@" /bin/true </dev/null || exit 1; b=${EPOCHREALTIME/[.,]/}; echo $1 $((b - a)); }
# What else the computer does has no part in it.
systemctl start systemd-machined
for p in 1 $(pidof dbus-daemon systemd-machined) $$; do chrt --fifo --pid 50 $p; done
for i in $(seq `+strconv.Itoa(rounds)+`); do once --register=no --keep-unit; once --register=no; once --register=yes; done
`, 0o644)
	out, err := h.Sh("bash /root/times")
	if err != nil {
		b.Fatalf("%v\n%s\n%s", err, out, h.Journal())
	}
	times := map[string][]float64{}
	n := 0
	for l := range strings.Lines(out) {
		_, took, _ := strings.Cut(strings.TrimSpace(l), " ")
		us, err := strconv.Atoi(took)
		if err != nil {
			b.Fatalf("unexpected line %q", l)
		}
		how := [...]string{"without", "scope", "both"}[n%3]
		times[how], n = append(times[how], float64(us)/1000), n+1
	}
	if n != 3*rounds {
		b.Fatalf("%d starts, want %d\n%s", n, 3*rounds, out)
	}
	for _, list := range times {
		slices.Sort(list)
	}
	middle := func(how string) float64 { return times[how][rounds/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(middle("without"), "ms-without")
	b.ReportMetric(middle("scope")-middle("without"), "ms-scope")
	b.ReportMetric(middle("both")-middle("without"), "ms-scope-and-registration")
}
