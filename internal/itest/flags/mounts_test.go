package flags

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// outside makes directories and files beside the tree, one for each name: those
// that end in a slash are directories.
func outside(t *testing.T, names ...string) string {
	t.Helper()
	out := t.TempDir()
	for _, name := range names {
		path := filepath.Join(out, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir != path {
			if err := os.WriteFile(path, []byte(name+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// there tells which of the names are there.
func there(dir string, names ...string) (found []string) {
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			found = append(found, name)
		}
	}
	return found
}

// What is mounted on / is the machine's root, and the tree stays as it is.
func TestRootMounts(t *testing.T) {
	const show = `cat /mark 2>/dev/null; stat -c %u / /proc /dev; ls -d /proc/self /dev/null /run/host; (echo hi >/srv/new) 2>/dev/null && echo written`
	const all = "/dev/null\n/proc/self\n/run/host\n"
	for _, c := range []struct {
		args, want string
		// Where what was written must be found; "" is nowhere.
		where string
	}{
		{"--overlay=+/:OUT/upper:/", "tree\n0\n0\n0\n" + all + "written\n", "OUT/upper/srv/new"},
		{"--overlay=+/::/", "tree\n0\n0\n0\n" + all + "written\n", ""},
		{"--bind=OUT/other:/", "other\n0\n0\n0\n" + all + "written\n", "OUT/other/srv/new"},
		{"--bind-ro=OUT/other:/", "other\n0\n0\n0\n" + all, ""},
		{"--bind-ro=OUT/other:/ --tmpfs=/srv", "other\n0\n0\n0\n" + all + "written\n", ""},
		{"--bind=OUT/other:/ --read-only", "other\n0\n0\n0\n" + all + "written\n", "OUT/other/srv/new"},
		{"--bind=OUT/other:/ --volatile=state", "other\n0\n0\n0\n" + all + "written\n", "OUT/other/srv/new"},
		{"--bind=OUT/other:/ --overlay=+/:OUT/upper:/", "other\n0\n0\n0\n" + all + "written\n", "OUT/upper/srv/new"},
		{"--tmpfs=/ --bind=OUT/other/usr:/usr --bind=OUT/other/usr/bin:/bin --tmpfs=/srv", "0\n0\n0\n" + all + "written\n", ""},
		{"--bind=OUT/shifted:/ --private-users=1310720:65536 --private-users-ownership=off", "shifted\n0\n65534\n0\n" + all + "written\n", "OUT/shifted/srv/new"},
	} {
		t.Run(c.args, func(t *testing.T) {
			dir := tree.Copy(t, tree.Tiny(t))
			out := outside(t, "upper/")
			mark := func(dir, text string) {
				t.Helper()
				if err := os.WriteFile(dir+"/mark", []byte(text+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			mark(dir, "tree")
			for _, name := range []string{"other", "shifted"} {
				if text, err := exec.Command("cp", "-a", dir, out+"/"+name).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				mark(out+"/"+name, name)
			}
			if text, err := exec.Command("chown", "-R", "1310720:1310720", out+"/shifted").CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			args := append(strings.Fields(strings.ReplaceAll(c.args, "OUT", out)), "--resolv-conf=off", "--timezone=off")
			got, code := machine{dir: dir, args: args}.run(t, show)
			if got != c.want || code > 1 {
				t.Errorf("exit status %d\n%swant\n%s", code, got, c.want)
			}
			for _, d := range []string{dir, out + "/other", out + "/shifted", out + "/upper"} {
				want := strings.ReplaceAll(c.where, "OUT", out) == d+"/srv/new"
				if have := len(there(d, "srv/new")) > 0; have != want {
					t.Errorf("%s/srv/new: there %v, want %v", d, have, want)
				}
			}
		})
	}
	for _, users := range []string{"--private-users=pick", "--private-users=yes", "-U", "--private-users=1310720:65536 --private-users-ownership=map"} {
		out, code := machine{args: append(strings.Fields(users), "--tmpfs=/")}.run(t, "true")
		if code != 1 || stage.Under(t).Name == "launch" && !strings.Contains(out, "cannot mount on / of a machine whose users") {
			t.Errorf("%s: exit status %d\n%s", users, code, out)
		}
	}
}

// An overlay can write to a directory of the tree. The work directory beside it
// goes with the machine, and with a clean-up after a launcher that was killed.
func TestOverlayUpperInTree(t *testing.T) {
	const write = "echo hi >/mnt/new; cat /mnt/low; stat -c %u /mnt/new"
	users := " --private-users=1310720:65536 --private-users-ownership="
	for _, more := range []string{"", users + "map", users + "chown"} {
		t.Run(more, func(t *testing.T) {
			dir, out := tree.Copy(t, tree.Tiny(t)), outside(t, "low/low")
			if err := os.MkdirAll(dir+"/srv/up", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("srv/up", dir+"/link"); err != nil {
				t.Fatal(err)
			}
			for _, upper := range []string{"/srv/up", "/link"} {
				os.Remove(dir + "/srv/up/new")
				got, code := machine{dir: dir, args: strings.Fields("--overlay=" + out + "/low:+" + upper + ":/mnt" + more)}.run(t, write)
				if code != 0 || got != "low/low\n0\n" {
					t.Errorf("exit status %d\n%s", code, got)
				}
				if found := there(dir+"/srv/up", "new", "low"); len(found) != 1 || found[0] != "new" {
					t.Errorf("in the upper directory: %q", found)
				}
				if left, _ := filepath.Glob(dir + "/srv/.#*"); len(left) > 0 {
					t.Errorf("left beside it: %q", left)
				}
			}
		})
	}
	if stage.Under(t).Name != "launch" {
		return
	}
	t.Run("killed", func(t *testing.T) {
		dir, out := tree.Copy(t, tree.Tiny(t)), outside(t, "low/low")
		if err := os.MkdirAll(dir+"/srv/up", 0o755); err != nil {
			t.Fatal(err)
		}
		l, s := stage.Launch(t), stage.New(t, stage.Unified)
		r := s.Start(nil, l.Path, "--quiet", "--directory="+dir, "--machine=launch-test-flags", "--register=no", "--keep-unit", "--console=pipe",
			"--overlay="+out+"/low:+/srv/up:/mnt", "/bin/busybox", "ash", "-c", "echo up; sleep 60")
		if err := r.Await("up\n", most); err != nil {
			t.Fatal(err)
		}
		if found, _ := filepath.Glob(dir + "/srv/.#up*"); len(found) != 1 {
			t.Fatalf("no work directory: %q", found)
		}
		r.Process.Kill()
		r.Code(most)
		r.Cleanup(l)
		if left, _ := filepath.Glob(dir + "/srv/.#*"); len(left) > 0 {
			t.Errorf("left beside it: %q", left)
		}
	})
	// Where the tree itself isn't seen, nobody would find the work directory.
	dir, out := tree.Copy(t, tree.Tiny(t)), outside(t, "low/low", "srv/up/")
	for _, args := range []string{"--bind=" + out + "/srv:/srv --overlay=" + out + "/low:+/srv/up:/var/new", "--volatile=yes --overlay=" + out + "/low:+/etc:/mnt"} {
		got, code := machine{dir: dir, args: strings.Fields(args)}.run(t, "true")
		if code != 1 || !strings.Contains(got, "give the upper directory as a path of the host") {
			t.Errorf("%s: exit status %d\n%s", args, code, got)
		}
		if left, _ := filepath.Glob(out + "/srv/.#*"); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// The owners of a source that maps them already are those on its disk.
func TestBindMapsAnew(t *testing.T) {
	tree.NeedRoot(t)
	out := outside(t, "from/file", "at/")
	if err := os.Chown(out+"/from/file", 1000, 1000); err != nil {
		t.Fatal(err)
	}
	l, s := stage.Under(t), stage.New(t, stage.Unified)
	if err := onStage(s, func() error { return idmapped(out+"/from", out+"/at") }); err == unix.ENOSYS || err == unix.EINVAL {
		t.Skip("the file system can't map owners: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	defer s.Look("umount", out+"/at")
	if got := strings.TrimSpace(s.Look("stat", "-c", "%u", out+"/at/file")); got != "3000" {
		t.Fatalf("the source's file belongs to %s", got)
	}
	dir := tree.Copy(t, tree.Tiny(t))
	r := s.Start(l.Env, l.Path, "--quiet", "--directory="+dir, "--machine=launch-test-flags", "--register=no", "--keep-unit", "--console=pipe",
		"--private-users=1310720:65536", "--private-users-ownership=map", "--bind="+out+"/at:/mnt:idmap", "/bin/busybox", "stat", "-c", "%u", "/mnt/file")
	code, err := r.Code(most)
	got := r.Out.String()
	if err != nil || code != 0 {
		if strings.Contains(got, "operation not permitted") && older(6, 15) {
			t.Skip("this kernel lays no id map over another")
		}
		if l.Name != "launch" {
			t.Skipf("this systemd-nspawn can't: %s", got)
		}
		t.Fatalf("exit status %d, %v\n%s", code, err, got)
	}
	if got != "1000\n" {
		t.Errorf("inside it belongs to %s", got)
	}
}

// older tells whether the kernel is.
func older(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b)
	return a < major || a == major && b < minor
}

// onStage does something in the stage's mount namespace.
func onStage(s *stage.Stage, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		n, err := unix.Open(filepath.Join(filepath.Dir(s.Path("")), "ns/mnt"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer unix.Close(n)
		if err = unix.Unshare(unix.CLONE_FS); err == nil {
			if err = unix.Setns(n, unix.CLONE_NEWNS); err == nil {
				err = f()
			}
		}
		done <- err
	}()
	return <-done
}

// idmapped binds a directory onto another one, with 1000 shown as 3000.
func idmapped(from, to string) error {
	c := exec.Command("sleep", "60")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 3000, Size: 1}}, GidMappings: []syscall.SysProcIDMap{{ContainerID: 1000, HostID: 3000, Size: 1}}}
	if err := c.Start(); err != nil {
		return err
	}
	defer func() { c.Process.Kill(); c.Wait() }()
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", c.Process.Pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	n, err := unix.OpenTree(unix.AT_FDCWD, from, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(n)
	if err := unix.MountSetattr(n, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns)}); err != nil {
		return err
	}
	return unix.MoveMount(n, "", unix.AT_FDCWD, to, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// Who logged in on the host is not who logs in inside.
func TestLogin(t *testing.T) {
	const file = "/proc/self/loginuid"
	if _, err := os.Stat(file); err != nil {
		t.Skip("this kernel has no audit: ", err)
	}
	l, s := stage.Under(t), stage.New(t, stage.Unified)
	dir := tree.Copy(t, tree.Tiny(t))
	argv := []string{"sh", "-c", `echo 1234 >` + file + ` && exec "$@"`, "sh", l.Path, "--quiet", "--directory=" + dir, "--machine=launch-test-flags",
		"--register=no", "--keep-unit", "--console=pipe", "/bin/busybox", "ash", "-c", "cat " + file}
	r := s.Start(l.Env, argv...)
	code, err := r.Code(most)
	if got := strings.TrimSpace(r.Out.String()); err != nil || code != 0 || got != "4294967295" {
		t.Errorf("exit status %d, %v: %s", code, err, got)
	}
}

// All groups of a machine with users and a network of its own may ping.
func TestPing(t *testing.T) {
	if stage.Under(t).Name != "launch" {
		t.Skip("as systemd-nspawn 262 has it")
	}
	const show = "cat /proc/sys/net/ipv4/ping_group_range"
	for _, c := range []struct{ args, want string }{
		{"--private-network --private-users=1310720:65536", "0\t65535\n"},
		{"--private-network --private-users=1310720:2000", "0\t1999\n"},
		{"--private-network", "1\t0\n"},
	} {
		if out, code := (machine{args: strings.Fields(c.args)}).run(t, show); code != 0 || out != c.want {
			t.Errorf("%s: exit status %d\n%swant\n%s", c.args, code, out, c.want)
		}
	}
}

// A machine that reboots keeps its range of users, also if it is one that nobody
// would be given by now.
func TestRebootKeepsRange(t *testing.T) {
	passwd := filepath.Join(t.TempDir(), "passwd") // goes after the stage, which has it
	l, s := stage.Under(t), stage.New(t, stage.Unified)
	if l.Name != "launch" {
		t.Skip("systemd-nspawn 252 picks a range anew")
	}
	dir := tree.Copy(t, tree.Tiny(t))
	text, err := os.ReadFile("/etc/passwd")
	if err == nil {
		err = os.WriteFile(passwd, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Mount("--bind", passwd, "/etc/passwd")
	const payload = `cat /proc/self/uid_map; stat -c %u /tmp /run /dev; [ -e /srv/again ] && exit 0; : >/srv/again; sleep 0.3; reboot -f`
	r := s.Start(nil, l.Path, "--quiet", "--directory="+dir, "--machine=launch-test-flags", "--register=no", "--console=pipe", "-U",
		"/bin/busybox", "ash", "-c", payload)
	if err := r.Await("0\n0\n0\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	var inside, start int
	fmt.Sscan(r.Out.String(), &inside, &start)
	f, err := os.OpenFile(passwd, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil {
		_, err = fmt.Fprintf(f, "somebody:x:%d:%d::/:/bin/false\n", start, start)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	code, err := r.Code(most)
	out := r.Out.String()
	if lines := strings.Split(out, "\n"); err != nil || code != 0 || len(lines) != 9 || lines[0] != lines[4] || strings.Count(out, "\n0\n") < 2 {
		t.Errorf("exit status %d, %v\n%s", code, err, out)
	}
}

// Output that somebody wants and nobody can have is an error, however quiet.
func TestFullDisk(t *testing.T) {
	if stage.Under(t).Name != "launch" {
		t.Skip("the words are launch's")
	}
	l, s := stage.Launch(t), stage.New(t, stage.Unified)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, payload := range []string{"echo hi", "echo hi; sleep 60"} {
		r := s.StartAs(func(c *exec.Cmd) { c.Stdout = full }, nil, l.Path, "--quiet", "--directory="+tree.Copy(t, tree.Tiny(t)), "--machine=launch-test-flags",
			"--register=no", "--keep-unit", "--console=read-only", "/bin/busybox", "ash", "-c", payload)
		code, err := r.Code(most)
		if got := r.Out.String(); err != nil || code != 1 || !strings.Contains(got, "write the machine's output: no space left on device") {
			t.Errorf("%s: exit status %d, %v\n%s", payload, code, err, got)
		}
	}
}
