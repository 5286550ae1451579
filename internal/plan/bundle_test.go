package plan

import (
	"fmt"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/seccomp"
	"launch/settings"
)

// TestBornLast: a process that joins a container which may trace it is born there when
// it has given up its rights, and not before, whatever else is asked of it; where that
// can't be, it has memory of its own from the beginning.
func TestBornLast(t *testing.T) {
	native, ok := seccomp.Native()
	if !ok {
		t.Skip("no table of system calls for this computer")
	}
	filter := func(rules ...seccomp.Rule) *settings.Filter {
		return &settings.Filter{Filter: seccomp.Filter{Archs: []seccomp.Arch{native}, Default: seccomp.Allow, Rules: rules}}
	}
	refused := func(names ...string) seccomp.Rule {
		return seccomp.Rule{Names: names, Action: seccomp.Errno(38)}
	}
	docker := filter(refused("clone3"), seccomp.Rule{Names: []string{"clone"}, Action: seccomp.Errno(1),
		Conds: []seccomp.Cond{{Arg: 0, Op: seccomp.GreaterEqual, Value: unix.CLONE_NEWNS | unix.CLONE_PARENT_SETTID}}})
	for name, c := range map[string]struct {
		process settings.Process
		filter  *settings.Filter
		nnp     bool
		last    bool
	}{
		"plain":                          {last: true},
		"terminal":                       {process: settings.Process{Terminal: true}, last: true},
		"label":                          {process: settings.Process{AppArmor: "p"}, last: true},
		"filter":                         {filter: docker, last: true},
		"filter and label":               {filter: docker, process: settings.Process{AppArmor: "p"}, last: true},
		"filter that comes last":         {filter: filter(refused("clone", "setsid")), nnp: true, last: true},
		"filter that forbids it":         {filter: filter(refused("clone"))},
		"filter that forbids a session":  {filter: filter(refused("setsid"))},
		"filter that forbids the label":  {filter: filter(refused("openat")), process: settings.Process{AppArmor: "p"}},
		"filter that forbids a terminal": {filter: filter(refused("ioctl")), process: settings.Process{Terminal: true}},
		"deadline":                       {process: settings.Process{Scheduler: &settings.Scheduler{}}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, exposed := range []bool{true, false} {
				p, err := CompileJoin(Input{
					Settings: settings.Settings{Bundle: &settings.Bundle{Filter: c.filter}, Exec: settings.Exec{Process: &c.process, NoNewPrivileges: c.nnp, Words: []string{"true"}}},
					Facts:    facts.Facts{Host: facts.Host{Known: true, AppArmor: true}}, Profile: settings.OCI, Exposed: exposed,
				})
				if err != nil {
					t.Fatal(err)
				}
				var order []Call
				for _, op := range p.Program {
					order = append(order, op.Call)
				}
				at := func(call Call) int { return slices.Index(order, call) }
				birth := at(Rebirth)
				if p.Forks != exposed || (birth >= 0) != exposed || p.Last != (exposed && c.last) {
					t.Fatalf("exposed %v: forks %v, last %v, %v", exposed, p.Forks, p.Last, order)
				}
				if !exposed {
					continue
				}
				if !c.last {
					if birth > at(Ready) {
						t.Errorf("memory of its own comes late: %v", order)
					}
					continue
				}
				for _, before := range []Call{Enter, CloseRest, Bounding, Switch, CapSets} {
					if at(before) < 0 || at(before) > birth {
						t.Errorf("%s comes after the birth: %v", before, order)
					}
				}
				for _, after := range []Call{Setsid, CtlTTY, Label, Exec} {
					if i := at(after); i >= 0 && i < birth {
						t.Errorf("%s comes before the birth: %v", after, order)
					}
				}
				for call, want := range map[Call]bool{CtlTTY: c.process.Terminal, Label: c.process.AppArmor != "", Setsid: true, Exec: true} {
					if (at(call) >= 0) != want {
						t.Errorf("%s is there: %v: %s", call, !want, fmt.Sprint(order))
					}
				}
			}
		})
	}
}
