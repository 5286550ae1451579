package bound

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/remake"
	"launch/internal/itest/tree"
)

// mutants are programs without one of the checks: each is made by one edit, for one
// run of the test that must notice.
var mutants = []struct{ what, file, old, new, notices string }{
	{"the group has the user's number", "internal/plan/bound.go", "GIDs: one(f.User.GID)", "GIDs: one(f.User.UID)", "TestPeerExamples/home-other-group-number"},
	{"everybody may read passwords", "internal/plan/bound.go", "unix.S_IFREG|0o600", "unix.S_IFREG|0o644", "TestPeerExamples/one"},
	{"an id may be taken", "internal/plan/bound.go", "slices.Contains(c.Facts.Taken.IDs, next)", "false", "TestPeerExamples/id-of-user"},
	{"a name may be taken", "internal/plan/bound.go", "slices.Contains(taken.Users, name)", "false", "TestPeerExamples/clash-user"},
	{"root by another name", "internal/plan/bound.go", `case name == "root", u.HasUID && u.UID == 0:`, `case name == "root":`, "TestPeerExamples/root-by-another-name"},
	{"the range may be too small", "internal/plan/bound.go", "c.Plan.Users.Private() && next >= r.Size", "false", "TestPeerExamples/users-too-few"},
	{"the homes come before other mounts", "internal/plan/bound.go", "append(append(before, c.homes...), inside...)", "append(append(c.homes, before...), inside...)", "TestPeerExamples/tmpfs-on-homes"},
	{"what is mounted in a home is hidden", "internal/plan/bound.go", "mount.Inside(m.Target, h.Target)", "false", "TestPeerExamples/bind-in-home"},
	{"systemd-userdbd is not asked", "internal/probe/bound.go", `const multiplexer = "/run/systemd/userdb/`, `const multiplexer = "/run/systemd/nobody/`, "TestPeerExamples/asked-only"},
	{"records are not read", "internal/probe/bound.go", "for _, dir := range recordDirs {\n\t\tb.From", "for _, dir := range recordDirs[:0] {\n\t\tb.From", "TestPeerExamples/record"},
	{"the tree's links lead out", "internal/probe/bound.go", `database(n, "etc/"+file, sys.InRoot)`, `database(n, "etc/"+file, 0)`, "TestHostile/passwd-leads-out"},
	{"a user is looked up in the tree alone", "internal/engine/payload.go", "if g.Name == name || notID == nil && g.ID == id {", "if false {", "TestPeerExamples/uid"},
	{"whoever the record is about", "userns/record/record.go", "u.Name != name", "false", "TestHostile/answer-about-another"},
	{"a record is told in part", "internal/probe/bound.go", "err == nil && a.Incomplete", "false", "TestHostile/answer-incomplete"},
}

// TestHostileMutants: those tests are ones that can fail. Every day, the edits must
// fit; the runs are for: make hostile.
func TestHostileMutants(t *testing.T) {
	whole := os.Getenv("LAUNCH_TEST") == "hostile"
	if whole {
		tree.UsersThere(t)
	}
	root, err := remake.Root()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.what, func(t *testing.T) {
			over, err := remake.Overlay(t.TempDir(), remake.Edit{m.file, m.old, m.new})
			if err != nil {
				t.Fatal(err)
			}
			if !whole {
				return
			}
			test, sub, _ := strings.Cut(m.notices, "/")
			if out, err := remake.Test(filepath.Join(root, "internal/itest/bound"), over, "bound", "^"+test+"$/^"+sub+"$"); err == nil || !strings.Contains(out, "--- FAIL: "+m.notices) {
				t.Errorf("%s: %v\n%s", m.notices, err, out)
			}
		})
	}
}
