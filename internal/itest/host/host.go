// Package host boots a host for machines: a Debian with systemd as process 1,
// a bus, systemd-machined, networks, units and logins, in which launch is
// installed from its package. It guarantees that nothing of it is left when the
// test ends. It refuses to know what is tried in it.
//
//	h := host.Boot(t, tree.Suite)
//	out, err := h.Sh("machinectl list")
//
// Room: test.
package host

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// Host is a booted host.
type Host struct {
	// Dir is its root, as we see it.
	Dir    string
	Suite  string
	t      testing.TB
	outer  *exec.Cmd
	says   *stage.Output
	leader int
}

// prepare is the host's first program, before systemd. A mount over any part of
// /proc would forbid a fresh one further inside.
const prepare = `#!/bin/sh
mount --make-rprivate /
while umount /proc/kmsg 2>/dev/null; do :; done
while umount /proc/sys/kernel/random/boot_id 2>/dev/null; do :; done
mount --make-rshared /
exec /lib/systemd/systemd
`

// enter puts the launcher of the host into cgroups of its own, since its
// children are called the same wherever it is.
const enter = `set -e
for d in "$1" "$2"; do
	[ "$d" ] || continue
	mkdir "$d"
	echo $$ >"$d/cgroup.procs"
done
shift 2
exec "$@"
`

// most is how long the host's boot may take.
const most = 90 * time.Second

var count atomic.Int32

// Deb makes launch's package and gives its path.
func Deb(t testing.TB) string {
	t.Helper()
	deb.Do(func() {
		if deb.dir, deb.err = os.MkdirTemp("", "launch-deb-"); deb.err != nil {
			return
		}
		c := exec.Command("make", "-s", "deb", "OUT="+deb.dir, "VERSION=1~test")
		c.Dir = "../../.."
		out, err := c.CombinedOutput()
		if err != nil {
			deb.err = fmt.Errorf("make deb: %w\n%s", err, out)
		}
		deb.path = strings.TrimSpace(string(out))
	})
	if deb.err != nil {
		t.Fatal(deb.err)
	}
	return deb.path
}

var deb struct {
	sync.Once
	dir, path string
	err       error
}

// Main is what TestMain calls: it runs the tests and removes what was built.
func Main(m *testing.M) int {
	defer func() { os.RemoveAll(deb.dir) }()
	return stage.Main(m)
}

// Install installs the package in a tree.
func Install(t testing.TB, dir string) {
	t.Helper()
	text, err := os.ReadFile(Deb(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "var/cache/launch.deb")
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	if out, err := chroot(dir, "dpkg", "--install", "/var/cache/launch.deb").CombinedOutput(); err != nil {
		t.Fatalf("dpkg --install: %v\n%s", err, out)
	}
}

// chroot gives a command in a tree that has a /proc meanwhile.
func chroot(dir string, args ...string) *exec.Cmd {
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", `mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`, dir}, args...)...)
	c.Env = append(stage.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return c
}

// Boot boots a host by the launcher that $LAUNCH_HOST names, systemd-nspawn unless
// that is launch.
func Boot(t testing.TB, suite string, machines ...string) *Host {
	t.Helper()
	return BootBy(t, os.Getenv("LAUNCH_HOST"), suite, machines...)
}

// BootBy boots a host of the suite, whose /var/lib/machines has a Debian for each
// of the names; its systemd-networkd looks after host0. The test is skipped where
// that can't be had.
func BootBy(t testing.TB, launcher, suite string, machines ...string) *Host {
	t.Helper()
	tree.NeedRoot(t, "systemd-nspawn", "nsenter", "make", "dpkg-deb")
	h := &Host{t: t, Suite: suite, Dir: tree.Copy(t, tree.Host(t, suite)), says: &stage.Output{}}
	for _, m := range machines {
		dir := filepath.Join(h.Dir, "var/lib/machines", m)
		tree.Fresh(t, tree.Debian(t), dir)
		wants := filepath.Join(dir, "etc/systemd/system/multi-user.target.wants")
		if err := os.MkdirAll(wants, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/lib/systemd/system/systemd-networkd.service", filepath.Join(wants, "systemd-networkd.service")); err != nil {
			t.Fatal(err)
		}
	}
	h.Write("usr/lib/itest/prepare", prepare, 0o755)
	Install(t, h.Dir)

	var groups [2]string
	name := fmt.Sprintf("launch-host-%d-%d", os.Getpid(), count.Add(1))
	for i, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			groups[i] = filepath.Join(dir, name)
		}
	}
	if groups[0] == "" {
		t.Skip("the host needs a cgroup2 beside cgroup v1, as here: /sys/fs/cgroup/unified isn't there")
	}
	outer := "systemd-nspawn"
	if launcher == "launch" {
		outer = stage.Launch(t).Path
	}
	h.outer = exec.Command("sh", "-c", enter, "host", groups[0], groups[1],
		outer, "--quiet", "--directory="+h.Dir, "--machine="+name, "--register=no", "--keep-unit", "--private-network", "--console=pipe",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--kill-signal=SIGRTMIN+3", "--rlimit=RLIMIT_NOFILE=1024:524288", "--capability=all",
		"/usr/lib/itest/prepare")
	h.outer.Env = append(stage.Environ(), "SYSTEMD_SECCOMP=0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=1", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1", "SYSTEMD_NSPAWN_LOCK=0")
	h.outer.Stdout, h.outer.Stderr = h.says, h.says
	h.outer.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGTERM}
	if err := h.outer.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { h.outer.Wait(); close(ended) }()
	t.Cleanup(func() {
		h.outer.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			h.outer.Process.Kill()
			<-ended
		}
		for _, g := range groups {
			if g != "" {
				exec.Command("find", g, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
			}
		}
	})
	cannot := t.Skipf
	if launcher == "launch" {
		cannot = t.Fatalf // that is its business
	}
	for end := time.Now().Add(most); ; {
		if h.leader == 0 {
			h.leader = child(h.outer.Process.Pid)
		}
		if h.leader != 0 {
			out, err := h.enter("systemctl", "is-system-running").CombinedOutput()
			if s := strings.TrimSpace(string(out)); s == "running" || s == "degraded" {
				return h
			} else if time.Now().After(end) {
				cannot("the host doesn't come up: %s %v\n%s", s, err, h.says)
			}
		}
		select {
		case <-ended:
			cannot("%s can't boot a host here:\n%s", outer, h.says)
		case <-time.After(200 * time.Millisecond):
		}
		if time.Now().After(end) {
			cannot("the host doesn't come up:\n%s", h.says)
		}
	}
}

// child gives the process that the launcher started and that became systemd.
func child(parent int) int {
	names, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		pid, rest, ok := strings.Cut(string(text), " (systemd) ")
		if f := strings.Fields(rest); ok && len(f) > 1 && f[1] == strconv.Itoa(parent) {
			n, _ := strconv.Atoi(pid)
			return n
		}
	}
	return 0
}

func (h *Host) enter(args ...string) *exec.Cmd {
	c := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(h.leader), "--all"}, args...)...)
	c.Env = stage.Environ()
	return c
}

// Write makes a file of the host.
func (h *Host) Write(name, text string, mode os.FileMode) {
	h.t.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		h.t.Fatal(err)
	}
}

// Read gives a file of the host.
func (h *Host) Read(name string) string {
	h.t.Helper()
	text, err := os.ReadFile(filepath.Join(h.Dir, name))
	if err != nil {
		h.t.Fatal(err)
	}
	return string(text)
}

// Sh runs a script in the host, in a unit of its own, for a minute at most.
func (h *Host) Sh(script string) (string, error) { return h.ShFor(time.Minute, script) }

// ShFor is Sh with another time.
func (h *Host) ShFor(most time.Duration, script string) (string, error) {
	out, err := h.enter("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property=Delegate=yes",
		fmt.Sprintf("--property=RuntimeMaxSec=%d", int(most.Seconds())), "/bin/sh", "-c", script).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// Journal gives the end of what the host wrote down.
func (h *Host) Journal() string {
	out, _ := h.enter("journalctl", "--boot", "--no-pager", "--lines=60", "--output=short-monotonic").CombinedOutput()
	return string(out)
}
