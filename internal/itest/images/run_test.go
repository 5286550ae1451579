package images

import (
	"archive/tar"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/stage"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// TestPullAndRun goes the whole way: pull, list, run, remove.
func TestPullAndRun(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{
		"Entrypoint": []string{"/bin/sh", "-c"}, "Cmd": []string{"echo user $(id -u):$(id -g):$(id -G); echo $GREETING; pwd; hostname; exit 7"},
		"User": "web", "Env": []string{"GREETING=good morning"}, "WorkingDir": "/srv/data", "StopSignal": "SIGUSR1",
		"Volumes": map[string]any{"/var/lib/db": map[string]any{}}, "ExposedPorts": map[string]any{"80/tcp": map[string]any{}},
	}).layer(gzipped, shell(t)).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"

	if out := w.does("pull", ref); !strings.Contains(out, p.digest) {
		t.Errorf("pull says %q, without the digest %s", out, p.digest)
	}
	before := w.Look("find", w.store, "-printf", "%p %i %T@ %C@\n")
	if out := w.does("pull", ref); !strings.Contains(out, "up to date") {
		t.Errorf("a second pull says %q", out)
	}
	// Locks and claims come and go in tmp; nothing else is touched.
	quiet := func(s string) (kept string) {
		for l := range strings.Lines(s) {
			if !strings.Contains(l, "/tmp ") {
				kept += l
			}
		}
		return kept
	}
	if after := w.Look("find", w.store, "-printf", "%p %i %T@ %C@\n"); quiet(after) != quiet(before) {
		t.Errorf("a second pull changes the store:\n%s\n%s", before, after)
	}

	var list []struct {
		Name, Digest, Tree string
		Size               int64
		Trees              []string
	}
	if err := json.Unmarshal([]byte(w.does("images", "--json")), &list); err != nil || len(list) != 1 {
		t.Fatalf("images: %v, %v", list, err)
	}
	if i := list[0]; i.Name != ref || i.Digest != p.digest || i.Size < 1<<20 || len(i.Trees) != 1 {
		t.Errorf("images gives %+v", i)
	}
	if _, err := os.Stat(filepath.Join(list[0].Tree, "bin/busybox")); err != nil {
		t.Errorf("the tree: %v", err)
	}

	out, code := w.launch("run", "--quiet", "--name=box", ref)
	if want := "user 1000:1000:1000 10\ngood morning\n/srv/data\nbox\n"; out != want || code != 7 {
		t.Errorf("the image's command: status %d\n%q, want 7\n%q", code, out, want)
	}
	out = w.machine("--uid=root", "-E", "GREETING=hi", ref, "echo $GREETING $0 $1; ls -d /var/lib/db; cat /etc/hosts /etc/hostname /etc/resolv.conf", "a", "b")
	for _, want := range []string{"hi a b\n", "/var/lib/db\n", "127.0.0.1\tlocalhost\n", "# This machine has no network.\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("a run with other words lacks %q:\n%s", want, out)
		}
	}
	// What it sees is its own: users, network, processes.
	out = w.machine("--uid=0", "--entrypoint=/bin/sh", ref, "-c", "cat /proc/self/uid_map; wc -l </proc/net/dev; ls -d /proc/[0-9]* | wc -l; grep -c ' / overlay ' /proc/mounts; stat -c %u:%g /bin/busybox; grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status")
	f := strings.Fields(out)
	if len(f) < 7 || f[0] != "0" || f[1] == "0" || f[2] != "65536" || f[3] != "3" || f[5] != "1" || f[6] != "0:0" {
		t.Errorf("the machine sees\n%s", out)
	}
	if !strings.Contains(out, "CapBnd:\t00000000800405fb\n") || !strings.Contains(out, "NoNewPrivs:\t1\n") {
		t.Errorf("the machine may\n%s", out)
	}

	// A machine with a name keeps what it changed; another one never sees it.
	w.machine("--name=box", "--uid=0", ref, "echo kept >/note; rm /bin/wc")
	if out := w.machine("--name=box", "--uid=0", ref, "cat /note; ls /bin/wc 2>&1; stat -c %u:%g /note"); out != "kept\nls: /bin/wc: No such file or directory\n0:0\n" {
		t.Errorf("the machine that is kept has %q", out)
	}
	if out := w.machine("--uid=0", ref, "ls /note 2>&1; ls /bin/wc"); out != "ls: /note: No such file or directory\n/bin/wc\n" {
		t.Errorf("another machine has %q", out)
	}
	if names, _ := os.ReadDir(filepath.Join(w.store, "machines")); len(names) != 1 || names[0].Name() != "box" {
		t.Errorf("machines left: %v", names)
	}

	// Its layers stay as long as it needs them.
	w.does("rmi", ref)
	if _, err := os.Stat(filepath.Join(list[0].Tree, "bin/busybox")); err != nil {
		t.Errorf("rmi took a machine's layer away: %v", err)
	}
	w.refuses("there is no image", "rmi", ref)
	w.refuses("no such image", "run", "--pull=never", ref)
	w.does("rmi", "--machine=box")
	if left := w.Look("find", w.store, "-mindepth", "2"); left != "" {
		t.Errorf("the store still has\n%s", left)
	}
	// Where it isn't there, run pulls it.
	if out := w.machine(ref, "echo pulled"); !strings.HasSuffix(out, "pulled\n") {
		t.Errorf("run of what isn't there: %q", out)
	}
}

// TestLayersOverEachOther: what the layers remove, hide and replace.
func TestLayersOverEachOther(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/sh"}}).
		layer(gzipped, shell(t)).
		layer(zstandard, tarOf(
			file{name: "a", kind: tar.TypeDir}, file{name: "a/1", data: "1"}, file{name: "a/2", data: "2"},
			file{name: "b", kind: tar.TypeDir}, file{name: "b/1"}, file{name: "c", kind: tar.TypeDir}, file{name: "c/1"},
			file{name: "d", data: "file"}, file{name: "e", kind: tar.TypeDir}, file{name: "e/1"})).
		layer(plain, tarOf(
			file{name: "a", kind: tar.TypeDir, mode: 0o700, uid: 1000}, file{name: "a/.wh.1"}, // one name
			file{name: ".wh.b"},                                                                 // a directory
			file{name: "c", kind: tar.TypeDir}, file{name: "c/.wh..wh..opq"}, file{name: "c/2"}, // all in it
			file{name: "d", kind: tar.TypeDir}, file{name: "d/1"}, // another kind
			file{name: ".wh.e"}, file{name: "e", kind: tar.TypeDir}, file{name: "e/2"})). // and made anew
		finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p})
	out := w.machine(ref, "/bin/sh", "-c", "find /a /b /c /d /e 2>/dev/null; stat -c %a:%u /a; grep -c overlay /proc/mounts")
	if want := "/a\n/a/2\n/c\n/c/2\n/d\n/d/1\n/e\n/e/2\n700:1000\n1\n"; out != want {
		t.Errorf("the machine has\n%swant\n%s", out, want)
	}
}

// TestDetach: a machine in the background, its log, and its stop signal.
func TestDetach(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/sh"}, "StopSignal": "SIGUSR1"}).layer(gzipped, shell(t)).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	w.does("pull", ref)
	// As from a script that has a lock, for which its own end is to be enough.
	lock := filepath.Join(w.dir, "lock")
	r := w.Stage.Start(w.env, "/bin/sh", "-c", `exec 9>"$1"; shift; exec "$@"`, "sh", lock, filepath.Join(w.bin, "launch"),
		"run", "--quiet", "--register=no", "--keep-unit", "-d", "--name=bg", ref, "/bin/sh", "-c", "trap 'echo stopped; exit 5' USR1; echo up; while :; do sleep 0.1; done")
	if code, err := r.Code(most); err != nil || code != 0 || r.Out.String() != "bg\n" {
		t.Errorf("run -d: status %d, %v: it prints %q", code, err, r.Out)
	}
	log := func(want string) {
		t.Helper()
		var b []byte
		for range 100 {
			if b, _ = os.ReadFile(filepath.Join(w.store, "machines/bg/log")); string(b) == want {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("the log is %q, want %q", b, want)
	}
	log("up\n")
	w.refuses("a machine of this name is running", "run", "--name=bg", ref, "true")
	w.refuses("a machine of this name is running", "rmi", "--quiet", "--machine=bg")
	pids := strings.Fields(w.Look("pgrep", "-f", "run --quiet --register=no --keep-unit -d --name=bg oci:"+w.dir))
	if len(pids) != 1 {
		t.Fatalf("launchers: %v", pids)
	}
	fds, _ := filepath.Glob("/proc/" + pids[0] + "/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == lock {
			t.Errorf("the launcher in the background has the caller's descriptor %s", filepath.Base(fd))
		}
	}
	if len(fds) == 0 {
		t.Error("the launcher in the background has no descriptors")
	}
	w.Look("kill", "-TERM", pids[0])
	log("up\nstopped\n")
	for range 100 {
		if _, code := w.launch("rmi", "--quiet", "--machine=bg"); code == 0 {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	w.refuses("executable file not found", "run", "--quiet", "-d", ref, "/bin/nothing")
	if left, _ := os.ReadDir(filepath.Join(w.store, "machines")); len(left) != 0 {
		t.Errorf("machines left: %v", left)
	}
}

// TestPassing: nothing of a machine that is not to be kept outlives it. What a
// launcher that was killed leaves is taken away by whoever comes next.
func TestPassing(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/sh"}}).layer(gzipped, shell(t)).finish()
	dir := w.layout("box", map[string]*picture{"v1": p, "v2": p})
	ref := "oci:" + dir + ":v1"
	w.does("pull", "--quiet", ref, "oci:"+dir+":v2")
	left := func() (names []string) {
		list, err := os.ReadDir(filepath.Join(w.store, "machines"))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			names = append(names, d.Name())
		}
		return names
	}
	// killed starts a machine, and ends its launcher so that it can't do a thing.
	killed := func(args ...string) string {
		t.Helper()
		r := w.Start(w.env, append(append([]string{filepath.Join(w.bin, "launch"), "run", "--quiet", "--register=no", "--keep-unit"}, args...),
			ref, "/bin/sh", "-c", "echo x >/changed; echo up; while :; do sleep 0.1; done")...)
		if err := r.Await("up\n", most); err != nil {
			t.Fatal(err)
		}
		if names := left(); len(names) != 1 {
			t.Fatalf("while it runs there is %q", names)
		}
		if out := w.does("rmi", "--unused"); out != "" {
			t.Errorf("a sweep takes what the running machine needs: %q", out)
		}
		r.Process.Kill()
		r.Code(most)
		names := left()
		if len(names) != 1 {
			t.Fatalf("its launcher was killed, and there is %q", names)
		}
		return names[0]
	}
	gone := func(who string) {
		t.Helper()
		if names := left(); len(names) != 0 {
			t.Errorf("after %s there is still %q", who, names)
		}
	}
	name := killed()
	if out := w.does("--cleanup"); strings.Count(out, "cleaned up after machine "+name) != 1 {
		t.Errorf("the clean-up says %q, and not once %s", out, name)
	}
	gone("a clean-up")
	name = killed()
	if out := w.machine(ref, "/bin/sh", "-c", "ls /changed 2>&1 || true"); out != "launch: cleaned up after machine "+name+"\nls: /changed: No such file or directory\n" {
		t.Errorf("the next machine of the image: %q", out)
	}
	gone("another start")
	killed()
	w.does("rmi", "--unused", "--quiet")
	gone("a sweep")
	killed("--rm", "--name=box")
	w.does("--cleanup", "--machine=other")
	if names := left(); len(names) != 1 {
		t.Errorf("the clean-up of another machine takes it away")
	}
	w.does("--cleanup", "--machine=box")
	gone("its own clean-up")
	killed("--rm", "--name=box")
	if out := w.machine("--name=box", ref, "/bin/sh", "-c", "ls /changed 2>&1 || true"); !strings.HasSuffix(out, "No such file or directory\n") {
		t.Errorf("a machine that is kept goes on with one that was not to be: %q", out)
	}
	// One that is kept is nobody's to throw away.
	w.machine("--name=box", ref, "/bin/touch", "/mine")
	w.refuses("there already, with what it has changed", "run", "--rm", "--name=box", ref, "/bin/true")
	w.does("--cleanup")
	w.does("rmi", "--unused", "--quiet")
	if out := w.machine("--name=box", ref, "/bin/ls", "/mine"); out != "/mine\n" {
		t.Errorf("the machine that is kept has %q", out)
	}
	w.refuses("is there already, and is one of", "run", "--name=box", "oci:"+dir+":v2", "/bin/true")
	w.does("rmi", "--quiet", "--machine=box")
	// One that never ran is none, whatever its name.
	w.refuses("executable file not found", "run", "--quiet", "--name=box", ref, "/bin/nothing")
	gone("a start that failed")
	w.does("rmi", "--quiet", ref, "oci:"+dir+":v2")
	if left := w.Look("find", w.store, "-mindepth", "2"); left != "" {
		t.Errorf("the store still has\n%s", left)
	}
}
