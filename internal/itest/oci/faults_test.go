package oci

import (
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestFaults lets each system call of create, start, exec and delete fail, and
// kills the runtime after each. What failed is told and leaves nothing; after a
// kill, one delete --force makes the host as it was.
func TestFaults(t *testing.T) {
	w := theWorld(t)
	w.path = w.build("faults", "faults")
	b := w.bundle("x", forever, func(c object) {
		c["linux"].(object)["resources"] = object{"pids": object{"limit": 50}}
	})
	log := w.dir + "/calls"
	// calls lists the calls of a command, as LANE/N.
	calls := func(args ...string) (list []string) {
		os.Remove(log)
		w.env = []string{"LAUNCH_FAULT_LOG=" + log}
		w.ok(args...)
		w.env = nil
		for _, l := range lines(log) {
			at, rest, _ := strings.Cut(l, " ")
			nr, _, _ := strings.Cut(rest, " ")
			if nr == "3" && !strings.HasPrefix(at, "child/") { // close
				continue
			}
			list = append(list, at)
		}
		if len(list) < 10 {
			t.Fatalf("%q makes only %q", args, list)
		}
		return list
	}
	create := []string{"create", "-b", b, "x"}
	creates := calls(create...)
	starts := calls("start", "x")
	execs := calls("exec", "x", "true")
	w.ok("kill", "x", "KILL")
	w.soon("stopped", func() bool { return w.state("x") == "stopped" })
	deletes := calls("delete", "x")
	t.Logf("calls: create %d, start %d, exec %d, delete %d", len(creates), len(starts), len(execs), len(deletes))

	some := func(list []string, n int) []string {
		if whole() || len(list) <= n {
			return list
		}
		list = slices.Clone(list)
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list[:n]
	}
	with := func(fault string, args ...string) result {
		w.env = []string{"LAUNCH_FAULT=" + fault}
		defer func() { w.env = nil }()
		return w.do(args...)
	}
	clean := func(after string, r result) {
		t.Helper()
		w.ok("delete", "--force", "x")
		if left := w.left(); len(left) > 0 {
			t.Fatalf("%s (%v) left %q", after, r, left)
		}
	}
	points := 0
	for _, errno := range []string{"EPERM", "ENOMEM"} {
		for _, at := range some(creates, 15) {
			points++
			fault := at + "=" + errno
			r := with(fault, create...)
			left := w.left()
			switch {
			case r.code == 0:
				// It did without: but then all is there.
				// (Only that its process waits can fail after it was told.)
				if s := w.state("x"); s != "created" && !strings.HasPrefix(at, "child/") {
					t.Errorf("create with %s: status 0, and the container is %q", fault, s)
				}
			case len(left) > 0 && !strings.Contains(r.err, "\n") && r.code != 1:
				t.Errorf("create with %s: %v", fault, r)
			case len(left) > 0:
				t.Errorf("create with %s (%v) left %q", fault, r, left)
			case r.err == "":
				t.Errorf("create with %s says nothing", fault)
			}
			clean("create with "+fault, r)
		}
	}
	for _, at := range some(creates, 25) {
		points++
		r := with(at+"=kill", create...)
		if r.code == 0 && !strings.HasPrefix(at, "child/") {
			t.Errorf("create killed at %s: status 0", at)
		}
		clean("create killed at "+at, r)
	}
	for _, at := range some(starts, 6) {
		for _, what := range []string{"EPERM", "kill"} {
			points++
			w.ok(create...)
			r := with(at+"="+what, "start", "x")
			if s := w.state("x"); s != "created" && s != "running" && s != "stopped" {
				t.Errorf("start with %s=%s: %v, and the container is %q", at, what, r, s)
			}
			clean(fmt.Sprintf("start with %s=%s", at, what), r)
		}
	}
	w.ok(create...)
	w.ok("start", "x")
	for _, at := range some(execs, 10) {
		for _, what := range []string{"ENOMEM", "kill"} {
			points++
			r := with(at+"="+what, "exec", "x", "true")
			if what == "ENOMEM" && r.code != 0 && r.code != 255 {
				t.Errorf("exec with %s=%s: %v", at, what, r)
			}
			w.soon("no process of a failed exec is left after "+at+"="+what, func() bool {
				return strings.Count(w.ok("ps", "-f", "json", "x"), ",") == 0
			})
		}
	}
	clean("exec", result{})
	for _, at := range some(deletes, 6) {
		for _, what := range []string{"EPERM", "kill"} {
			points++
			w.ok(create...)
			r := with(at+"="+what, "delete", "--force", "x")
			clean(fmt.Sprintf("delete with %s=%s", at, what), r)
		}
	}
	t.Logf("%d faults", points)
}
