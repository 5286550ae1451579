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

// TestInstall: make install puts everything below PREFIX, in DESTDIR, and what names
// a program there names that one.
func TestInstall(t *testing.T) {
	if _, err := exec.LookPath("make"); err != nil {
		t.Skip("needs make")
	}
	const root = "../../.."
	out, dest := t.TempDir(), t.TempDir()
	c := exec.Command("make", "-s", "install", "DESTDIR="+dest, "PREFIX=/opt/l", "OUT="+out, "BIN="+filepath.Join(out, "bin"))
	c.Dir = root
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	want := []string{"bin/exec-in-host-mount-namespace", "lib/tmpfiles.d/launch.conf", "share/bash-completion/completions/launch", "share/zsh/site-functions/_launch",
		"share/fish/vendor_completions.d/launch.fish"}
	for _, from := range [][2]string{{"cmd/*", "bin/"}, {"man/*.1", "share/man/man1/"}, {"man/*.5", "share/man/man5/"}, {"man/*.8", "share/man/man8/"}, {"examples/*", "share/doc/launch/examples/"},
		{"*.md", "share/doc/launch/"}, {"LICENSE", "share/doc/launch/"}, {"units/*.service", "lib/systemd/system/"}, {"units/user/*.service", "lib/systemd/user/"}} {
		files, err := filepath.Glob(filepath.Join(root, from[0]))
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s: %v", from[0], err)
		}
		for _, f := range files {
			if filepath.Base(f) != "CONTRIBUTING.md" {
				want = append(want, from[1]+filepath.Base(f))
			}
		}
	}
	want = append(want, "share/launch/systemd-nspawn@.service.d/launch.conf")
	var got []string
	for _, name := range listing(t, dest) {
		path := filepath.Join(dest, name)
		if st, err := os.Lstat(path); err != nil || st.IsDir() {
			continue
		}
		got = append(got, strings.TrimPrefix(name, "/opt/l/"))
		if text, _ := os.ReadFile(path); strings.Contains(name, "/systemd") && (strings.Contains(string(text), "/usr/local") || !strings.Contains(string(text), "ExecStart=/opt/l/bin/launch ")) {
			t.Errorf("%s names another launch:\n%s", name, text)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("installed are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if said, err := exec.Command(filepath.Join(dest, "opt/l/bin/launch"), "--version").Output(); err != nil || !strings.HasPrefix(string(said), "launch ") {
		t.Errorf("launch --version: %q %v", said, err)
	}
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
