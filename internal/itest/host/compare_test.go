package host

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// differs says what a host may see otherwise of a machine of launch than of one
// of systemd-nspawn, and why. "*" are all suites.
var differs = map[string]map[string]string{
	"*": {
		"machine Leader": "another process", "machine LeaderPIDFDId": "as that", "machine Supervisor": "as that", "machine SupervisorPIDFDId": "as that",
		"machine Timestamp": "another time", "machine TimestampMonotonic": "as that", "machine NetworkInterfaces": "launch chooses the number of an interface",
		"machine Name": "two machines", "machine Unit": "as that", "machine RootDirectory": "as that", "machine UIDShift": "as that",
	},
	"forky": {
		"unit TasksMax":    "as machined has it for the scopes that it makes; a whole machine is more than a service",
		"machine VSockCID": "D-Bus has no way to say that there is none, which Varlink means by saying nothing",
		"machine Subgroup": "systemd-nspawn moves the first process to the cgroup payload when it has registered it; launch's is born there",
	},
}

// own are properties that tell which unit it is, how long it has run, and what
// it took.
var own = []string{"Id", "Names", "Description", "InvocationID", "ControlGroup", "ControlGroupId", "Controller", "FragmentPath", "Transient", "StateChange", "Active", "Inactive", "Condition",
	"Assert", "CPUUsage", "Memory", "Tasks", "IO", "IP", "Effective", "Start", "Job", "Killed", "OOM", "Managed", "LeaderPID", "MainPID", "ExecMain", "TimeoutStart", "Refs", "Following", "RequiresMountsFor", "WantsMountsFor", "Documentation"}

// TestPeersSeeUnits compares what systemd and systemd-machined know of a machine
// that launch has started and of one of systemd-nspawn's: all properties of its
// scope, and of the machine.
func TestPeersSeeUnits(t *testing.T) {
	if s := os.Getenv("LAUNCH_TEST"); !strings.Contains(s, "peers") && !strings.Contains(s, "host") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make compare)")
	}
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1", "c2")
			see := func(program, name string) map[string]string {
				t.Helper()
				run(t, h, "systemd-run --quiet --unit=run-"+name+" --collect "+program+" --quiet --boot -D /var/lib/machines/"+name+" -M "+name+" --console=read-only --link-journal=no --network-veth -U --kill-signal=SIGRTMIN+3 --property=MemoryHigh=2G --slice=peers && up "+name)
				list := map[string]string{}
				add := func(kind, text string) {
					for line := range strings.Lines(text) {
						k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
						list[kind+" "+k] = v
					}
				}
				unit := run(t, h, "machinectl show -p Unit --value "+name)
				add("machine", run(t, h, "machinectl show "+name))
				add("unit", run(t, h, "systemctl show '"+unit+"'"))
				run(t, h, "machinectl terminate "+name+"; gone "+name+"; ended run-"+name)
				return list
			}
			ours, peers := see("launch", "c1"), see("systemd-nspawn", "c2")
			if len(ours) < 100 || ours["unit MemoryHigh"] != "2147483648" || ours["machine Class"] != "container" {
				t.Fatalf("too little is seen: %d properties, %q", len(ours), ours["unit MemoryHigh"])
			}
			used := map[string]bool{}
			same := 0
			for _, k := range keys(ours, peers) {
				if strings.ReplaceAll(ours[k], "c1", "c2") == peers[k] {
					same++
					continue
				}
				name := strings.TrimPrefix(k, "unit ")
				if name != k && slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(name, p) }) && !strings.HasPrefix(name, "MemoryHigh") && name != "TasksMax" {
					continue
				}
				known := false
				for _, s := range []string{"*", suite} {
					if differs[s][k] != "" {
						known, used[s+k] = true, true
					}
				}
				if !known {
					t.Errorf("%s is %q, under systemd-nspawn %q", k, ours[k], peers[k])
				}
			}
			for k := range differs[suite] {
				if !used[suite+k] {
					t.Errorf("%s is the same: it need not be explained any more", k)
				}
			}
			t.Logf("%d properties are the same", same)
		})
	}
}

func keys(maps ...map[string]string) (list []string) {
	for _, m := range maps {
		for k := range m {
			list = append(list, k)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
