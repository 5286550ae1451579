package rules

import "strings"

// floor is how high a package lies. A package imports its own floor or a
// lower one; Go itself forbids circles within a floor.
type floor int

const (
	base   floor = iota // system calls and the values everybody carries
	paper               // what is wanted, as plain values
	host                // what changes the kernel or the disk, one topic each
	engine              // the order in which a machine comes to life
	cmd                 // what a user talks to
	tests               // what only those who work on launch run
)

var floorNames = [...]string{"base", "paper", "host", "engine", "cmd", "tests"}

func (f floor) String() string { return floorNames[f] }

// A row places one package: how high it lies, and which room it is (what it
// may do). An empty room means that any will do; a path that ends in /... stands
// for all packages below.
type row struct {
	path  string
	floor floor
	room  string
}

// house is the map of the house. Some rooms are drawn before they are built.
var house = []row{
	{"internal/origin", base, "paper"},
	{"internal/siphash", base, "paper"},
	{"internal/early", base, "base"},
	{"internal/entry", base, "base"},
	{"internal/sys", base, "base"},
	{"internal/child", base, "child"},
	{"internal/stub", base, "child"},

	{"userns", paper, "paper"},
	{"userns/record", paper, "paper"},
	{"mount", paper, "paper"},
	{"mount/tree", paper, "paper"},
	{"settings", paper, "paper"},
	{"settings/nspawn", paper, "paper"},
	{"internal/disk", paper, "paper"},
	{"internal/mstack", paper, "paper"},
	{"internal/facts", paper, "paper"},
	{"internal/seccomp", paper, "paper"},
	{"internal/plan", paper, "paper"},
	{"internal/cgroup/resource", paper, "paper"},
	{"oci/bundle", paper, "paper"},

	{"internal/probe", host, "host"},
	{"mount/loop", host, "host"},
	{"mount/attach", host, "host"},
	{"mount/hostns", host, "host"},
	{"userns/pick", host, "host"},
	{"userns/shift", host, "host"},
	{"internal/bus", host, "host"},
	{"internal/varlink", host, "host"},
	{"internal/machine", host, "host"},
	{"internal/cgroup", host, "host"},
	{"internal/cgroup/systemd", host, "host"},
	{"internal/tree", host, "host"},
	{"internal/netns", host, "host"},
	{"internal/console", host, "host"},
	{"internal/criu", host, "host"},
	{"internal/notify", host, "host"},
	{"oci/image", host, "host"},
	{"oci/layer", host, "host"},
	{"oci/store", host, "host"},

	{"internal/state", engine, "engine"},
	{"mount/snapshot", engine, "host"},
	{"oci/container", engine, "host"},
	{"internal/engine", engine, "engine"},

	{"internal/cli", cmd, "desk"},
	{"cmd/launch", cmd, "desk"},
	{"cmd/launch-pull", cmd, "desk"},
	{"cmd/launch-oci", cmd, "desk"},

	{"internal/seccomp/gen", tests, ""},
	{"oci/bundle/gen", tests, ""},
	{"man", tests, "desk"},
	{"units", tests, ""},
	{"internal/rules", tests, ""},
	{"internal/rules/report", tests, ""},
	{"internal/itest", tests, ""},
	{"internal/itest/...", tests, ""},
	{"internal/testns", tests, ""},
	{"bench", tests, ""},
}

// rooms are the words that `Room: X.` may say.
var rooms = []string{"base", "child", "paper", "host", "engine", "desk", "test"}

// lean says what a program must never link, because loading it costs every
// start: see the start-up costs in DESIGN.md.
var lean = []struct {
	program string
	banned  []string
}{
	{"cmd/launch", []string{"net/http", "text/template", "html/template", "crypto/tls", "testing"}},
	{"cmd/launch-oci", []string{"net", "net/http", "regexp", "text/template", "html/template", "crypto/tls", "testing"}},
}

// place gives a package's row.
func place(path string) (row, bool) {
	for _, r := range house {
		if below, all := strings.CutSuffix(r.path, "..."); r.path == path || all && strings.HasPrefix(path, below) {
			return r, true
		}
	}
	return row{}, false
}
