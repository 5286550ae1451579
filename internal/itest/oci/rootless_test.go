package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// nobody runs the runtime as a user without rights, in w.dir/nobody.
func (w *world) nobody(args ...string) result {
	w.t.Helper()
	return w.run(w.nobodys(args...))
}

// nobodys gives the command of such a user.
func (w *world) nobodys(args ...string) *exec.Cmd {
	c := exec.Command(w.path, args...)
	c.Dir = w.dir
	c.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+w.dir+"/nobody")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1234, Gid: 4321}, Setsid: true}
	return c
}

// bundleOf makes a bundle of `spec --rootless` for that user.
func (w *world) bundleOf(name string, args []string, edit func(c object)) string {
	w.t.Helper()
	b := w.bundle(name, args, nil)
	must(w.t, os.Remove(b+"/config.json"))
	must(w.t, filepath.WalkDir(b, func(p string, _ os.DirEntry, err error) error {
		if err == nil {
			err = os.Lchown(p, 1234, 4321)
		}
		return err
	}))
	if r := w.nobody("spec", "--rootless", "-b", b); r.code != 0 {
		w.t.Fatal(r)
	}
	text, err := os.ReadFile(b + "/config.json")
	must(w.t, err)
	var c object
	must(w.t, json.Unmarshal(text, &c))
	c["process"].(object)["args"], c["process"].(object)["terminal"] = args, false
	c["root"].(object)["readonly"] = false
	if edit != nil {
		edit(c)
	}
	text, err = json.Marshal(c)
	must(w.t, err)
	must(w.t, os.WriteFile(b+"/config.json", text, 0o644))
	return b
}

// TestNobody: a user without root's rights makes containers in users of his
// own, and lives with them as root does.
func TestNobody(t *testing.T) {
	w := theWorld(t)
	dir := w.dir + "/nobody"
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chown(dir, 1234, 4321))
	ok := func(want string, args ...string) {
		t.Helper()
		if r := w.nobody(args...); r.code != 0 || strings.Join(strings.Fields(r.out), " ") != want {
			t.Errorf("%q: %v; want %q", args, r, want)
		}
	}
	b := w.bundleOf("n", []string{"sh", "-c", "id -u; id -g; stat -c %u /bin; cat /proc/self/setgroups; exit 7"}, nil)
	if r := w.nobody("run", "-b", b, "n"); r.code != 7 || strings.Join(strings.Fields(r.out), " ") != "0 0 0 deny" {
		t.Error(r)
	}
	// What is made inside is the user's outside.
	b = w.bundleOf("f", []string{"touch", "/tmp/made"}, nil)
	ok("", "run", "-b", b, "f")
	if st, err := os.Stat(b + "/rootfs/tmp/made"); err != nil || st.Sys().(*syscall.Stat_t).Uid != 1234 {
		t.Errorf("made inside: %v %v", st, err)
	}

	b = w.bundleOf("c", forever, nil)
	ok("", "create", "-b", b, "c")
	if r := w.nobody("create", "-b", b, "c"); r.code != 1 || !strings.Contains(r.err, "already exists") {
		t.Error(r)
	}
	ok("", "start", "c")
	ok("0 /tmp", "exec", "--cwd", "/tmp", "c", "sh", "-c", "id -u; pwd")
	if r := w.nobody("exec", "c", "sh", "-c", "exit 9"); r.code != 9 {
		t.Error(r)
	}
	if r := w.nobody("exec", "c", "nonesuch"); r.code != 255 || !strings.Contains(r.err, "executable file not found") {
		t.Error(r)
	}
	ok("0", "exec", "-t", "c", "stat", "-L", "-c", "%u", "/proc/self/fd/0")
	ok("", "exec", "-d", "c", "sleep", "1001")
	if r := w.nobody("ps", "-f", "json", "c"); r.code != 0 || strings.Count(r.out, ",") != 1 {
		t.Errorf("two processes: %v", r)
	}
	ok("c", "list", "-q")
	var s struct{ Status, Owner string }
	if r := w.nobody("state", "c"); json.Unmarshal([]byte(r.out), &s) != nil || s.Status != "running" || s.Owner != "#1234" {
		t.Error(r)
	}
	ok("", "kill", "c", "KILL")
	w.soon("it is stopped", func() bool { return strings.Contains(w.nobody("state", "c").out, `"stopped"`) })
	more := map[string][]string{"exec": {"true"}}
	for verb, words := range map[string]string{"start": "cannot start a container that has stopped", "exec": "exec failed: cannot exec in a stopped container"} {
		if r := w.nobody(append([]string{verb, "c"}, more[verb]...)...); r.code != map[string]int{"start": 1, "exec": 255}[verb] || !strings.Contains(r.err, words) {
			t.Errorf("%s of a stopped container: %v, want %q", verb, r, words)
		}
	}
	ok("", "delete", "c")

	// Masks can't be taken off inside: they belong to users above.
	b = w.bundleOf("m", []string{"sh", "-c", "busybox umount /proc/sys || echo kept; ls /proc/acpi | busybox wc -l"}, func(c object) {
		caps := []any{"CAP_SYS_ADMIN"}
		c["process"].(object)["capabilities"] = object{"bounding": caps, "effective": caps, "permitted": caps}
		c["linux"].(object)["seccomp"] = nil
	})
	ok("kept 0", "run", "-b", b, "m")

	// Without users of its own in config.json, the container has the caller's.
	b = w.bundleOf("o", []string{"id", "-u"}, func(c object) {
		l := c["linux"].(object)
		l["namespaces"] = []any{object{"type": "pid"}, object{"type": "mount"}, object{"type": "ipc"}, object{"type": "uts"}}
		delete(l, "uidMappings")
		delete(l, "gidMappings")
	})
	ok("0", "run", "-b", b, "o")

	// Ids that are somebody else's can't be had.
	b = w.bundleOf("x", []string{"id", "-u"}, func(c object) {
		m := []any{object{"containerID": 0, "hostID": 1, "size": 1}}
		c["linux"].(object)["uidMappings"], c["linux"].(object)["gidMappings"] = m, m
	})
	if r := w.nobody("run", "-b", b, "x"); r.code != 1 || !strings.Contains(r.err, "uidmap") && !strings.Contains(r.err, "newuidmap") {
		t.Error(r)
	}
	if es, _ := os.ReadDir(dir + "/launch-oci"); len(es) > 0 {
		t.Errorf("left behind: %v", es)
	}
	if out, _ := exec.Command("sh", "-c", "ls /run/launch 2>/dev/null").Output(); len(out) > 0 {
		t.Errorf("left behind in /run/launch: %s", out)
	}
}

// TestSubordinate: with newuidmap(1), a user has more ids than his own.
func TestSubordinate(t *testing.T) {
	w := theWorld(t)
	for _, p := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	// The world is a mount namespace of its own.
	passwd, err := os.ReadFile("/etc/passwd")
	must(t, err)
	for f, text := range map[string]string{"/etc/subuid": "tester:700000:65536\n", "/etc/subgid": "1234:700000:65536\n", "/etc/passwd": string(passwd) + "tester:x:1234:4321::/:/bin/sh\n"} {
		to := w.dir + "/" + filepath.Base(f)
		must(t, os.WriteFile(to, []byte(text), 0o644))
		if _, err := os.Stat(f); err != nil {
			t.Skip(err)
		}
		must(t, syscall.Mount(to, f, "", syscall.MS_BIND, ""))
		defer syscall.Unmount(f, syscall.MNT_DETACH)
	}
	must(t, os.Mkdir(w.dir+"/nobody", 0o700))
	must(t, os.Chown(w.dir+"/nobody", 1234, 4321))
	b := w.bundleOf("s", []string{"sh", "-c", "id -u; id -g; id -G; touch /tmp/made"}, func(c object) {
		for _, k := range []string{"uid", "gid"} {
			own := map[string]int{"uid": 1234, "gid": 4321}[k]
			c["linux"].(object)[k+"Mappings"] = []any{object{"containerID": 0, "hostID": own, "size": 1}, object{"containerID": 1, "hostID": 700000, "size": 1000}}
		}
		c["process"].(object)["user"] = object{"uid": 5, "gid": 6, "additionalGids": []any{7}}
	})
	must(t, os.Chmod(b+"/rootfs/tmp", 0o777))
	if r := w.nobody("run", "-b", b, "s"); r.code != 0 || r.out != "5\n6\n6 7\n" {
		t.Error(r)
	}
	if st, err := os.Stat(b + "/rootfs/tmp/made"); err != nil || fmt.Sprint(st.Sys().(*syscall.Stat_t).Uid) != "700004" {
		t.Errorf("made inside: %v %v", st, err)
	}
}
