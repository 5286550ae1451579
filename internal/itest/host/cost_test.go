package host

import (
	"strconv"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// TestCost: a scope and the registration add little to a start, since they are
// asked for beside the mounts. The numbers are for who reads them; only what
// can't be noise fails.
func TestCost(t *testing.T) {
	long(t)
	h := Boot(t, tree.Suite, "c1")
	out := run(t, h, `
once() { s=$(date +%s%N); launch --quiet -D /var/lib/machines/c1 -M cost --timezone=off --link-journal=no --pipe "$@" true </dev/null; e=$(date +%s%N); echo $(((e - s) / 1000)); }
median() { sort -n | sed -n 16p; }
for i in 1 2 3; do once --register=yes; once --register=no --keep-unit; done >/dev/null
for i in $(seq 31); do once --register=no --keep-unit >>/run/without; once --register=yes >>/run/with; done
median </run/without; median </run/with`)
	f := strings.Fields(out)
	if len(f) != 2 {
		t.Fatalf("%q", out)
	}
	without, _ := strconv.Atoi(f[0])
	with, _ := strconv.Atoi(f[1])
	t.Logf("a whole run: %d µs without, %d µs with scope and registration: %d µs more", without, with, with-without)
	if with-without > 50000 {
		t.Errorf("scope and registration take %d µs", with-without)
	}
}
