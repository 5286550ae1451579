package cell

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func open(t *testing.T, o Options) *Cell {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// TestCell looks at a cell from inside, and at the host afterwards.
func TestCell(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	mounts := func() string {
		b, _ := os.ReadFile("/proc/self/mountinfo")
		return string(b)
	}
	before := mounts()
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full that could be lost")
	}
	bound := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(bound, []byte("bound\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, view := range []View{Unified, Host, Legacy} {
		t.Run(string(view), func(t *testing.T) {
			c := open(t, Options{View: view, Name: "inside", Bind: map[string]string{"/run/given/file": bound}})
			out, code, err := c.Shell(`
				cat /run/given/file; hostname; echo pid $$
				ls /sys/class/net
				rm /dev/full && [ -c /dev/null ] || echo no devices
				: >/usr/here /etc/here; ls /usr/here
				ls -d /sys/fs/cgroup/unified
				grep -c . /proc/self/cgroup; cut -d: -f3 /proc/self/cgroup | sort -u
				sleep 1000 >/dev/null 2>&1 & exit 7`, 20*time.Second)
			if err != nil || code != 7 {
				t.Fatalf("exit status %d, %v: %s", code, err, out)
			}
			for _, want := range []string{"bound\n", "inside\n", "\nlo\n", "/usr/here\n", "\n/\n"} {
				if !strings.Contains("\n"+out, want) {
					t.Errorf("no %q in:\n%s", want, out)
				}
			}
			if view == Legacy && strings.Contains(out, "\n/sys/fs/cgroup/unified\n") {
				t.Errorf("cgroup2 is in:\n%s", out)
			}
			if strings.Contains(out, "no devices") {
				t.Errorf("no devices in:\n%s", out)
			}
			if strings.Contains(out, "..") {
				t.Errorf("a command isn't in the cell's cgroups:\n%s", out)
			}
			if out, code, _ := c.Shell("sleep 50", 200*time.Millisecond); code != -1 {
				t.Errorf("a command that takes too long: %d %s", code, out)
			}
			if view == Unified {
				if out, code, err := c.Shell("for c in $(cat /sys/fs/cgroup/cgroup.controllers); do echo +$c >/sys/fs/cgroup/cgroup.subtree_control || exit 1; done", 20*time.Second); code != 0 {
					t.Errorf("the controllers can't be given on: %d %v %s", code, err, out)
				}
			}
			if out, code, err := c.Shell("mkdir $(find /sys/fs/cgroup -maxdepth 2 -name cgroup.procs | head -n 1 | xargs dirname)/left", 20*time.Second); code != 0 || len(c.Groups()) != 1 {
				t.Errorf("a cgroup that is left: %q, %d %v %s", c.Groups(), code, err, out)
			}
		})
	}
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Errorf("the cell has the host's /dev: %v", err)
	}
	if _, err := os.Stat("/usr/here"); err == nil {
		t.Error("the cell wrote to the host's root")
	}
	for l := range strings.Lines(mounts()) {
		if strings.Contains(l, "launch-cell-") && !strings.Contains(before, l) {
			t.Errorf("left behind: %s", l)
		}
	}
}

func TestNot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if c, err := Open(Options{Root: "/no/such/tree", View: Unified}); err == nil {
		c.Close()
		t.Error("a cell without a root")
	} else if !strings.Contains(err.Error(), "/no/such/tree") && !strings.Contains(err.Error(), "mount") {
		t.Errorf("it doesn't say why: %v", err)
	}
}
