package itest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// most is how long anything may take. A boot takes 2 s.
const most = 60 * time.Second

// report is what the machine runs when it is up. It writes to the console, the
// one place that every kind of machine has.
const report = `#!/bin/sh
say() { echo "itest: $*" >/dev/console; }
# The answer "starting" only means that --wait was too early by a moment.
say state $(systemctl is-system-running --wait)
for u in $(systemctl list-units --failed --plain --no-legend | cut -d' ' -f1); do
	say failed $u: $(systemctl status --no-pager --lines=5 $u 2>&1 | tr '\n' ' ')
done
say uidmap $(cat /proc/self/uid_map)
say root $(stat -c '%u:%g %a' /)
while read -r id parent dev from on flags rest; do
	case $on in /|/usr|/var|/etc|/sys|/sys/fs/cgroup|/proc/sys|/tmp|/run|/dev) say mount $on ${flags%%,*} ${rest##* - };; esac
done </proc/self/mountinfo
for d in / /usr /etc /var /tmp /run; do
	if (: >$d/itest-written) 2>/dev/null; then say write $d yes; else say write $d no; fi
done
say links $(ip -o link | cut -d: -f2 | sort | tr -d '\n')
say cgroup $(cat /proc/1/cgroup | grep ^0:)
say virt $(systemd-detect-virt)
say manager $(cat /run/host/container-manager)
say hostname $(cat /proc/sys/kernel/hostname)
say journal $(journalctl -b --no-pager -q 2>/dev/null | grep -c .)
say done
`

// dress puts the report, and units of the test's own, where every kind of
// machine finds them: below /usr, all that --volatile=yes keeps.
func dress(t *testing.T, dir, after string, units map[string]string) {
	t.Helper()
	write := func(name, text string, mode fs.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/lib/itest/report", report+after+"\n", 0o755)
	all := map[string]string{
		// Not oneshot: the boot would wait for the report, which waits for
		// the boot.
		"itest-report.service": "[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nExecStart=/usr/lib/itest/report\n",
	}
	for n, text := range units {
		all[n] = text
	}
	wants := filepath.Join(dir, "usr/lib/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		t.Fatal(err)
	}
	for n, text := range all {
		write("usr/lib/systemd/system/"+n, text, 0o644)
		if err := os.Symlink("../"+n, filepath.Join(wants, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// facts reads the report from the console: the first word of each line is the
// fact; what has several lines is joined.
func facts(console string) map[string][]string {
	m := map[string][]string{}
	for l := range strings.Lines(console) {
		_, l, ok := strings.Cut(l, "itest: ")
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(l), " ")
		m[name] = append(m[name], value)
	}
	return m
}

func start(t *testing.T, view stage.View, console, dir string, args ...string) *stage.Run {
	t.Helper()
	s := stage.New(t, view)
	return startOn(t, s, console, dir, args...)
}

func startOn(t *testing.T, s *stage.Stage, console, dir string, args ...string) *stage.Run {
	t.Helper()
	l := stage.Under(t)
	from := "--directory=" + dir
	if strings.HasSuffix(dir, ".raw") {
		from = "--image=" + dir
	}
	argv := append([]string{l.Path, "--quiet", from, "--machine=itest", "--register=no", "--keep-unit",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=" + console}, args...)
	r := s.Start(l.Env, argv...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\n--- console ---\n%s--- end ---", strings.Join(argv, " "), r.Out)
		}
	})
	return r
}

// ends waits for the launcher's end and holds it against what should be.
func ends(t *testing.T, r *stage.Run, code int, within time.Duration) {
	t.Helper()
	got, err := r.Code(within)
	if err != nil {
		t.Fatal(err)
	}
	if got != code {
		t.Errorf("exit status %d, want %d", got, code)
	}
	if left := r.Left(); len(left) > 0 {
		t.Errorf("still running after the launcher ended: %q", left)
	}
}

// mapped fails unless the machine's root is another user outside.
func mapped(t *testing.T, f map[string][]string) {
	t.Helper()
	var inside, outside, n int
	if _, err := fmt.Sscan(f["uidmap"][0], &inside, &outside, &n); err != nil || inside != 0 || outside == 0 || n != 65536 {
		t.Errorf("uid map %q: want 0 SHIFT 65536 with a SHIFT", f["uidmap"][0])
	}
}

func want(t *testing.T, f map[string][]string, fact string, values ...string) {
	t.Helper()
	for _, v := range values {
		found := false
		for _, got := range f[fact] {
			found = found || got == v || strings.HasSuffix(v, "…") && strings.HasPrefix(got, strings.TrimSuffix(v, "…"))
		}
		if !found {
			t.Errorf("%s: %q, want %q", fact, f[fact], v)
		}
	}
}

// written gives the files in a tree that were made or changed since then.
func written(t *testing.T, dir string, since time.Time) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		if st := i.Sys().(*syscall.Stat_t); time.Unix(st.Ctim.Unix()).After(since) {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestBoot(t *testing.T) {
	none := func(*testing.T, map[string][]string) {}
	for _, c := range []struct {
		name    string
		args    []string
		view    stage.View
		look    func(*testing.T, map[string][]string)
		changes bool // the machine may write into its tree
		writes  string
	}{
		{name: "plain", changes: true, writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) {
				want(t, f, "uidmap", "0 0 4294967295")
				want(t, f, "mount", "/sys ro sysfs…", "/proc/sys ro proc…", "/sys/fs/cgroup rw cgroup2…", "/tmp rw tmpfs…", "/run rw tmpfs…", "/dev rw tmpfs…")
			}},
		{name: "plain-on-the-hosts-cgroups", view: stage.Host, changes: true, writes: "/ /usr /etc /var /tmp /run", look: none},
		{name: "users-picked", args: []string{"-U"}, changes: true, writes: "/ /usr /etc /var /tmp /run", look: mapped},
		{name: "users-picked-and-owned", args: []string{"--private-users=pick", "--private-users-ownership=auto"}, changes: true,
			writes: "/ /usr /etc /var /tmp /run", look: mapped},
		{name: "users-chown", args: []string{"--private-users=pick", "--private-users-ownership=chown"}, changes: true,
			writes: "/ /usr /etc /var /tmp /run", look: mapped},
		{name: "users-shift", args: []string{"--private-users=1310720:65536", "--private-users-ownership=map"}, changes: true,
			writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) {
				want(t, f, "uidmap", "0 1310720 65536")
				want(t, f, "root", "0:0 755")
			}},
		// A system without a writable /var cannot reach "running" by its own
		// means, whoever starts it, so it gets one.
		{name: "read-only", args: []string{"--read-only", "--tmpfs=/var"}, writes: "/var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "mount", "/ ro…", "/var rw tmpfs…") }},
		{name: "volatile-yes", args: []string{"--volatile=yes"}, writes: "/ /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "mount", "/ rw tmpfs…", "/usr ro…") }},
		{name: "volatile-state", args: []string{"--volatile=state"}, writes: "/var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "mount", "/ ro…", "/var rw tmpfs…") }},
		{name: "volatile-overlay", args: []string{"--volatile=overlay"}, writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "mount", "/ rw overlay…") }},
		{name: "private-network", args: []string{"--private-network"}, changes: true, writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "links", "lo") }},
		{name: "private-network-and-users", args: []string{"--private-network", "-U"}, changes: true, writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "links", "lo"); mapped(t, f) }},
		{name: "hostname", args: []string{"--hostname=other"}, changes: true, writes: "/ /usr /etc /var /tmp /run",
			look: func(t *testing.T, f map[string][]string) { want(t, f, "hostname", "other") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree.Copy(t, tree.Debian(t))
			dress(t, dir, "systemctl poweroff", nil)
			if c.view == "" {
				c.view = stage.Unified
			}
			time.Sleep(20 * time.Millisecond) // ctime counts in ticks
			before := time.Now()
			time.Sleep(20 * time.Millisecond)
			r := start(t, c.view, "read-only", dir, append(c.args, "--boot")...)
			if err := r.Await("itest: done", most); err != nil {
				t.Fatal(err)
			}
			f := facts(r.Out.String())
			want(t, f, "state", "running")
			for _, u := range f["failed"] {
				t.Errorf("failed unit: %s", u)
			}
			for _, d := range strings.Fields("/ /usr /etc /var /tmp /run") {
				can := "no"
				for _, w := range strings.Fields(c.writes) {
					if w == d {
						can = "yes"
					}
				}
				want(t, f, "write", d+" "+can)
			}
			want(t, f, "virt", "systemd-nspawn")
			want(t, f, "manager", "systemd-nspawn")
			if !strings.Contains(strings.Join(c.args, " "), "--hostname") {
				want(t, f, "hostname", "itest")
			}
			want(t, f, "cgroup", "0::/init.scope")
			c.look(t, f)
			// poweroff inside: the launcher ends well, after everything.
			ends(t, r, 0, most)
			if !strings.Contains(r.Out.String(), "Powering off.") {
				t.Error("the machine did not say `Powering off.`, so its shutdown was cut off")
			}
			if !c.changes {
				for _, name := range written(t, dir, before) {
					t.Errorf("the tree was changed: %s", name)
				}
			}
		})
	}
}

// TestBootImage boots from disk images, and what was written there is found by
// the next boot. Nothing of it is left to the host.
func TestBootImage(t *testing.T) {
	if stage.Under(t).Name == "nspawn" {
		t.Skip("this systemd-nspawn wants udev for images; the newest is asked by TestPeersBoot in internal/itest/disks")
	}
	for _, c := range []struct {
		name, fstype string
		table        bool
		args         []string
		writes       string
		again        bool // a second boot finds what the first has written
	}{
		{name: "ext4", fstype: "ext4", writes: "/ /usr /etc /var /tmp /run", again: true},
		{name: "ext4-users", fstype: "ext4", args: []string{"--private-users=1310720:65536", "--private-users-ownership=map", "--private-network"}, writes: "/ /usr /etc /var /tmp /run", again: true},
		{name: "ext4-copy", fstype: "ext4", args: []string{"--ephemeral"}, writes: "/ /usr /etc /var /tmp /run"},
		{name: "squashfs-in-a-table", fstype: "squashfs", table: true, args: []string{"--volatile=overlay"}, writes: "/ /usr /etc /var /tmp /run"},
		{name: "erofs-state", fstype: "erofs", args: []string{"--volatile=state"}, writes: "/var /tmp /run"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree.Copy(t, tree.Debian(t))
			dress(t, dir, `[ -e /var/itest-before ] && say before yes; : >/var/itest-before; systemctl poweroff`, nil)
			image := filepath.Join(tree.Scratch(t), "disk.raw")
			file := disks.File(t, c.fstype, dir, 320<<20)
			if c.table {
				b, err := os.ReadFile(file)
				if err == nil {
					err = os.WriteFile(image, disks.GPT(disks.Table{Parts: []disks.Part{{Type: disks.Root, Data: append(b, make([]byte, -len(b)&4095)...)}}}), 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
			} else if out, err := exec.Command("cp", "--sparse=always", file, image).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			for n := range 2 {
				r := start(t, stage.Unified, "read-only", image, append(c.args, "--boot")...)
				if err := r.Await("itest: done", most); err != nil {
					t.Fatal(err)
				}
				f := facts(r.Out.String())
				want(t, f, "state", "running")
				for _, d := range strings.Fields("/ /usr /etc /var /tmp /run") {
					can := "no"
					if slices.Contains(strings.Fields(c.writes), d) {
						can = "yes"
					}
					want(t, f, "write", d+" "+can)
				}
				want(t, f, "root", "0:0 755")
				ends(t, r, 0, most)
				if found := strings.Contains(r.Out.String(), "itest: before yes"); found != (n == 1 && c.again) {
					t.Errorf("boot %d: what was written before is there: %v", n+1, found)
				}
				if !c.again {
					break
				}
			}
			files, err := os.ReadDir(filepath.Dir(image))
			if err != nil || len(files) != 1 {
				t.Errorf("beside the image: %v %v", files, err)
			}
			if out, err := exec.Command("losetup", "-j", image).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("loop devices: %v %s", err, out)
			}
		})
	}
}

// A machine that reboots ends the launcher with 133, for the unit around it.
func TestReboot(t *testing.T) {
	dir := tree.Copy(t, tree.Debian(t))
	dress(t, dir, "systemctl reboot", nil)
	r := start(t, stage.Unified, "read-only", dir, "--boot")
	if err := r.Await("itest: done", most); err != nil {
		t.Fatal(err)
	}
	ends(t, r, 133, most)
}

// The first SIGTERM (or SIGINT) asks the machine to stop, which it does in
// order.
func TestSignalStopsMachine(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			dir := tree.Copy(t, tree.Debian(t))
			dress(t, dir, "", nil)
			r := start(t, stage.Unified, "read-only", dir, "--boot")
			if err := r.Await("itest: done", most); err != nil {
				t.Fatal(err)
			}
			if err := r.Process.Signal(sig); err != nil {
				t.Fatal(err)
			}
			ends(t, r, 0, most)
			if !strings.Contains(r.Out.String(), "System Shutdown") {
				t.Error("the machine never reached shutdown.target")
			}
		})
	}
}

// The second SIGTERM does not wait for a machine that is slow to stop.
func TestSecondSignalKills(t *testing.T) {
	dir := tree.Copy(t, tree.Debian(t))
	dress(t, dir, "", map[string]string{"itest-slow.service": `[Service]
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c 'echo "itest: stopping slowly" >/dev/console; sleep 50'
TimeoutStopSec=55
`})
	r := start(t, stage.Unified, "read-only", dir, "--boot")
	if err := r.Await("itest: done", most); err != nil {
		t.Fatal(err)
	}
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := r.Await("itest: stopping slowly", most); err != nil {
		t.Fatal(err)
	}
	if err := r.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ends(t, r, 1, 10*time.Second)
}

// The launcher's exit status is the payload's.
func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		code int
	}{
		{"0", []string{"/bin/sh", "-c", "exit 0"}, 0},
		{"1", []string{"/bin/sh", "-c", "exit 1"}, 1},
		{"7", []string{"/bin/sh", "-c", "exit 7"}, 7},
		{"255", []string{"/bin/sh", "-c", "exit 255"}, 255},
		// 133 would be taken for a reboot.
		{"133", []string{"/bin/sh", "-c", "exit 133"}, 1},
		{"by-name", []string{"sh", "-c", "exit 9"}, 9},
		{"no-such-program", []string{"/no/such/program"}, 1},
		{"as-pid2", []string{"--as-pid2", "/bin/sh", "-c", "exit 5"}, 5},
		{"as-pid2-killed", []string{"--as-pid2", "/bin/sh", "-c", "kill -9 $$"}, 255},
		{"orphans-do-not-hold-it", []string{"/bin/sh", "-c", "sleep 300 & exit 3"}, 3},
		{"as-pid2-orphans", []string{"--as-pid2", "/bin/sh", "-c", "sleep 300 & exit 3"}, 3},
	} {
		for _, console := range []string{"pipe", "read-only"} {
			t.Run(c.name+"/"+console, func(t *testing.T) {
				r := start(t, stage.Unified, console, tree.Copy(t, tree.Tiny(t)), c.args...)
				ends(t, r, c.code, most)
			})
		}
	}
}

// A payload that a signal kills is a failure; one without a signal that stops
// it is killed by the first SIGTERM.
func TestKilled(t *testing.T) {
	begin := func(t *testing.T, args ...string) (*stage.Run, int) {
		t.Helper()
		r := start(t, stage.Unified, "pipe", tree.Copy(t, tree.Tiny(t)),
			append(args, "/bin/sh", "-c", "trap 'echo asked; exit 4' USR1; echo up; while :; do sleep 0.1; done")...)
		if err := r.Await("up", most); err != nil {
			t.Fatal(err)
		}
		leader, err := r.Leader(most)
		if err != nil {
			t.Fatal(err)
		}
		return r, leader
	}
	t.Run("leader-killed", func(t *testing.T) {
		r, leader := begin(t)
		if err := syscall.Kill(leader, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ends(t, r, 1, most)
	})
	t.Run("SIGTERM-without-kill-signal", func(t *testing.T) {
		r, _ := begin(t)
		r.Process.Signal(syscall.SIGTERM)
		ends(t, r, 1, 10*time.Second)
	})
	t.Run("SIGTERM-with-kill-signal", func(t *testing.T) {
		r, _ := begin(t, "--kill-signal=SIGUSR1")
		r.Process.Signal(syscall.SIGTERM)
		ends(t, r, 4, 10*time.Second)
		if !strings.Contains(r.Out.String(), "asked") {
			t.Error("the payload did not get the signal")
		}
	})
	// The payload dies with its launcher, however that ends.
	t.Run("launcher-killed", func(t *testing.T) {
		if stage.Under(t).Name == "nspawn" {
			t.Skip("systemd-nspawn does not do that: its payload outlives it")
		}
		r, leader := begin(t)
		r.Process.Kill()
		if _, err := r.Code(most); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			// Whoever adopted it may leave it as a zombie.
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", leader))
			if err != nil || strings.Contains(string(b), ") Z ") {
				break
			}
			if time.Now().After(end) {
				t.Fatal("the payload outlives its launcher")
			}
		}
		r.Cleanup(stage.Launch(t))
	})
}
