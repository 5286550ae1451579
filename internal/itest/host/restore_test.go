package host

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/tree"
)

//go:embed restore.sh
var restoreScript string

// The properties that a unit is to have, and what see tells of a container.
const (
	unitOf = "ActiveState=active\nDefaultDependencies=no\nTimeoutStopUSec=7s\nSlice=SLICE\nControlGroup=GROUP\nDelegate=yes\n"
	seen   = "GROUP\nGROUP /sys/fs/cgroup\n0::/\nit counts\n"
	taken  = `start unit oci-one.scope: there is a unit of that name already` + "\n"
)

func at(text, group, slice string) string {
	return strings.NewReplacer("GROUP", group, "SLICE", slice).Replace(text)
}

var movedTo = at(seen, "/a.slice/a-b.slice/oci-two.scope", "") + at(unitOf, "/a.slice/a-b.slice/oci-two.scope", "a-b.slice") + at(seen, "/box/three", "") + "one\nthree\ntwo\n"

// restored are the cases of the script, and what they tell.
var restored = []struct{ name, want string }{
	{"same", "it counts\n" + strings.Repeat(at(seen, "/system.slice/oci-one.scope", ""), 2) + at(unitOf, "/system.slice/oci-one.scope", "system.slice") +
		"it counts\n" + strings.Repeat(at(seen, "/box", ""), 2)},
	{"moved", "it counts\nrunc restore failed: " + taken + "it is running\n" + movedTo +
		"it counts\nrunc restore failed: cgroupsPath \\\"/box\\\" is not slice:prefix:name, which the systemd cgroup driver needs\nit is running\n" + movedTo},
	{"verbs", "it counts\npaused\nit counts\nupdated\n1\n1\nit is there\nit counts\nstatus 137\n"},
	{"fails", "it counts\nrunc restore failed: " + taken + "runc run failed: " + taken + "active\noci-one.scope\n/sys/fs/cgroup/system.slice/oci-one.scope\n" +
		"runc restore failed: process PID came back with capabilities that the bundle doesn't give (CapPrm 0000000020000420)\n" +
		"runc restore failed: start unit oci-one.scope: Failed to set unit properties: Unexpected message contents\n" +
		"runc restore failed: cgroupsPath \\\"system.slice:oci:one.slice\\\": systemd puts no processes into a slice: give a name without .slice for a scope in it\n" +
		"runc restore failed: cgroupsPath \\\"/box\\\" is not slice:prefix:name, which the systemd cgroup driver needs\n"},
	{"inside", inside("/a.slice/a-b.slice/oci-two.scope") + inside("/box/two")},
	{"users", "runc run failed: connect to the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set\nit counts\n" +
		"runc restore failed: connect to the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set\n" +
		at(seen, "/user.slice/user-0.slice/user@0.service/user.slice/launch-one.scope", "") + "ActiveState=active\nSlice=user.slice\nnot-found\n" +
		"runc restore failed: CRIU needs root's rights\n"},
}

func inside(group string) (text string) {
	for _, mode := range []string{"soft", "ignore"} {
		for _, namespace := range []string{"own", "none"} {
			text += "it counts\n" + mode + ", " + namespace + "\n" + group + "\n"
			if mode == "soft" {
				text += group + "/sub\n"
			}
			text += "it counts\n"
		}
	}
	return text
}

// TestRestoredScopes: a container that was written into files comes back in a
// scope of systemd's, from whatever driver, with all verbs afterwards; where it
// doesn't, nothing is left, and nothing of others' goes.
func TestRestoredScopes(t *testing.T) {
	slow := strings.Contains(os.Getenv("LAUNCH_TEST"), "host")
	if !slow {
		tree.HostThere(t, tree.PeerSuite)
	}
	h := Boot(t, tree.PeerSuite)
	h.Write("root/restore.sh", restoreScript, 0o644)
	tell := func(t *testing.T, args string) string {
		t.Helper()
		out, err := h.ShFor(5*time.Minute, "sh /root/restore.sh "+args)
		if err != nil {
			t.Fatalf("%s: %v\n%s\n%s", args, err, out, h.Journal())
		}
		return out + "\n"
	}
	for _, c := range restored {
		t.Run(c.name, func(t *testing.T) {
			if !slow && c.name != "same" && c.name != "fails" {
				t.Skip("slow: runs with LAUNCH_TEST=host (make host)")
			}
			if got := tell(t, c.name); got != c.want {
				t.Errorf("it says\n%s\nand not\n%s\n%s", got, c.want, h.Journal())
			}
		})
	}
	t.Run("runc", func(t *testing.T) {
		// The same, but that it loses its cgroup namespace where runc leaves cgroups
		// alone, as launch-oci does.
		want := restored[0].want
		for _, group := range []string{"/system.slice/oci-one.scope", "/box"} {
			was := at(seen, group, "")
			lost := group + "\n/ /sys/fs/cgroup\n0::" + group + "\nit counts\n"
			want = strings.Replace(want, was+was, was+lost, 1)
		}
		if got := tell(t, "same runc"); got != want {
			t.Errorf("runc says\n%s\nand not\n%s", got, want)
		}
	})
	t.Run("faults", func(t *testing.T) {
		if !slow {
			t.Skip("slow: runs with LAUNCH_TEST=host (make host)")
		}
		program := filepath.Join(t.TempDir(), "launch-oci")
		c := exec.Command("go", "build", "-tags=faults", "-o", program, "launch/cmd/launch-oci")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		text, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		h.Write("usr/bin/launch-oci-faults", string(text), 0o755)
		for _, what := range []string{"kill", "EPERM", "kill create", "EPERM create"} {
			if got := tell(t, "faults launch-oci "+what); got != "it counts\nall was tried\n" {
				t.Errorf("%s: %s", what, got)
			}
		}
	})
}
