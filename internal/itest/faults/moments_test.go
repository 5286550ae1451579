package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFaultMoments stops a start after each call that changes a mount, and looks
// at those that the machine has by then: each has its final flags from the
// first moment on. Made first and restricted later, it could be written to in
// between, by who shares the file system.
func TestFaultMoments(t *testing.T) {
	w := theOne(t)
	m := of("moments", "--private-network", "--private-users=pick", "--bind-ro="+place+"/ro:/srv/ro", "--bind-ro="+place+"/ro:/srv/map:rootidmap",
		"--bind-ro=+/usr:/srv/usr", "--overlay-ro="+place+"/ro:"+place+"/low:/srv/over", "--tmpfs=/srv/tmp:ro,noexec", "--inaccessible=/usr/lib/os-release")
	m.dirs = []string{"ro", "low"}
	for _, name := range []string{"", "/ro", "/map", "/usr", "/over", "/tmp"} {
		m.grows = append(m.grows, root+"/srv"+name)
	}
	calls, _, _ := w.reference(t, m)
	var stops []call
	last := -1
	for _, c := range calls {
		if c.lane == "main" && slices.Contains([]string{"move_mount", "mount_setattr", "pivot_root", "umount2"}, c.name) {
			stops = append(stops, c)
		}
		if strings.HasPrefix(c.site, "engine.builder.release") && c.name == "write" {
			last = c.n
		}
	}
	if len(stops) < 40 || last < 0 {
		t.Fatalf("only %d calls of a start change mounts", len(stops))
	}
	final := w.moment(t, m, call{lane: "main", n: last})
	for _, target := range []string{"/srv/ro", "/srv/map", "/srv/usr", "/srv/over", "/proc/sys", "/run/host/incoming"} {
		if !strings.Contains(final[target], "ro,") {
			t.Fatalf("in the end, %s is %q", target, final[target])
		}
	}
	seen := 0
	for _, c := range stops {
		for target, flags := range w.moment(t, m, c) {
			// The machine's own file systems are filled before they are closed,
			// and nobody else has them.
			if target == "/" || target == "/sys" || target == "/sys/full" {
				continue
			}
			seen++
			for _, flag := range []string{"ro", "nosuid", "nodev", "noexec", "nosymfollow"} {
				if has(final[target], flag) && !has(flags, flag) {
					t.Errorf("after %v, %s has the flags %s, and in the end %s", c, target, flags, final[target])
				}
			}
		}
	}
	t.Logf("%d moments, in which %d mounts were seen", len(stops), seen)
	if seen < 10*len(stops) {
		t.Error("too few to say anything")
	}
}

func has(flags, flag string) bool { return strings.Contains(","+flags+",", ","+flag+",") }

// moment starts a machine, stops the launcher after a call, and gives the flags
// of all mounts that are the machine's by then.
func (w *world) moment(t *testing.T, m machine, at call) map[string]string {
	t.Helper()
	if err := w.fresh(m); err != nil {
		t.Fatal(err)
	}
	c := exec.Command(w.fault, append(slices.Clone(m.args), m.program)...)
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LAUNCH_FAULT=" + at.fault("stop")}
	c.Dir = desk
	c.SysProcAttr = &syscall.SysProcAttr{}
	if w.cgfd != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(w.cgfd.Fd())
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	for deadline := time.Now().Add(longest); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		var si unix.Siginfo
		err := unix.Waitid(unix.P_PID, c.Process.Pid, &si, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT, nil)
		if err == nil && si.Signo != 0 {
			stopped = si.Code == 5 // CLD_STOPPED
			break
		}
	}
	if !stopped {
		c.Process.Kill()
		c.Wait()
		t.Fatalf("the launcher did not stop after %v", at)
	}
	found := map[string]string{}
	tables, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/mountinfo", c.Process.Pid))
	for _, table := range tables {
		b, _ := os.ReadFile(table)
		text := string(b)
		// The thread that builds: the root is at its place, or is the root already.
		seat := "/run/launch"
		if !strings.Contains(text, " "+seat+" ") {
			if seat = ""; strings.Contains(text, " "+desk+" ") {
				continue
			}
		}
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if target, ok := strings.CutPrefix(f[4], seat); ok && (target == "" || target[0] == '/') {
				found["/"+strings.TrimPrefix(target, "/")] = f[5]
			}
		}
	}
	c.Process.Signal(syscall.SIGCONT)
	if err := c.Wait(); err != nil {
		t.Errorf("stopped after %v, and continued: %v", at, err)
	}
	w.quiet(longest)
	if err := w.cleanUp(); err != nil {
		t.Error(err)
	}
	return found
}
