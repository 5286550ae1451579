package host

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// listing gives what a tree holds, but for dpkg's own notes.
func listing(t *testing.T, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(p, dir)
		if err == nil && !strings.HasPrefix(rel, "/var/lib/dpkg/") && !strings.HasPrefix(rel, "/var/log/") {
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// TestDeb installs the package in a tree, tries what it brings, and removes it
// without a trace.
func TestDeb(t *testing.T) {
	tree.NeedRoot(t, "make", "dpkg-deb")
	dir := tree.Copy(t, tree.Debian(t))
	before := listing(t, dir)
	Install(t, dir)
	in := func(args ...string) string {
		t.Helper()
		out, err := chroot(dir, args...).CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	if got := in("launch", "--version"); !strings.HasPrefix(got, "launch 1~test (") {
		t.Errorf("launch --version: %q", got)
	}
	for _, program := range []string{"launch", "launch-oci"} {
		in(program, "--help")
	}
	if got := in("dpkg", "--verify", "launch"); got != "" {
		// Manual pages and documents are left out in this tree.
		for l := range strings.Lines(got) {
			if !strings.Contains(l, "/usr/share/man/") && !strings.Contains(l, "/usr/share/doc/") {
				t.Errorf("dpkg --verify: %s", l)
			}
		}
	}
	for _, unit := range []string{"launch@web.service", "launch-oci@web.service"} {
		out, _ := chroot(dir, "systemd-analyze", "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
		for l := range strings.Lines(string(out)) {
			if strings.Contains(l, "launch") && !strings.Contains(l, "'DelegateSubgroup'") && !strings.Contains(l, "'CoredumpReceive'") {
				t.Errorf("%s: %s", unit, l)
			}
		}
		if out, _ := chroot(dir, "systemctl", "--root=/", "is-enabled", unit).Output(); strings.TrimSpace(string(out)) != "disabled" {
			t.Errorf("%s is %q", unit, out)
		}
	}
	in("systemctl", "enable", "launch@web.service")
	if _, err := os.Lstat(filepath.Join(dir, "etc/systemd/system/machines.target.wants/launch@web.service")); err != nil {
		t.Error(err)
	}
	in("systemctl", "disable", "launch@web.service")
	for _, d := range []string{"machines", "launch", "launch-oci"} {
		if st, err := os.Stat(filepath.Join(dir, "var/lib", d)); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("/var/lib/%s: %v %v", d, st, err)
		}
	}
	in("dpkg", "--purge", "launch")
	after := listing(t, dir)
	for _, name := range after {
		if !slices.Contains(before, name) && name != "/var/lib/machines" && !strings.HasPrefix(name, "/run/") && !strings.HasPrefix(name, "/etc/systemd/system/machines.target.wants") {
			t.Errorf("left: %s", name)
		}
	}
	for _, name := range before {
		if !slices.Contains(after, name) {
			t.Errorf("gone: %s", name)
		}
	}
	if out, err := exec.Command("dpkg-deb", "--info", Deb(t)).CombinedOutput(); err != nil || !strings.Contains(string(out), "Recommends: systemd-container") {
		t.Errorf("%v\n%s", err, out)
	}
}
