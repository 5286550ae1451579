package oci

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var kinds = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// hooked makes a bundle whose hooks write what they get into files of its
// rootfs/tmp, each KIND.N, and the order into "order". inside is what the
// namespaces of the container look like from a hook: nil takes none.
func (w *world) hooked(name string, edit func(hooks object)) string {
	return w.bundle(name, forever, func(c object) {
		hooks := object{}
		tmp := filepath.Join(w.dir, name, "rootfs/tmp")
		for _, k := range kinds {
			sh, out := "/bin/sh", tmp
			if k == "startContainer" {
				out = "/tmp"
			}
			var list []any
			for _, n := range []string{"1", "2"} {
				// All that is told by a hook: its name and its variables, what is on
				// its standard input, and where it is.
				script := `echo "$0 $A" >>$T/order; { cat; echo; for n in mnt uts pid; do readlink /proc/self/ns/$n; done; pwd; env; ls /proc/self/fd; } >$T/$0`
				list = append(list, object{"path": sh, "args": []string{"sh", "-c", script, k + "." + n}, "env": []string{"A=b", "T=" + out, "PATH=/bin:/usr/bin"}})
			}
			hooks[k] = list
		}
		if edit != nil {
			edit(hooks)
		}
		c["hooks"] = hooks
	})
}

// told reads what a hook wrote: the state, and the lines that follow.
func told(t *testing.T, file string) (s struct {
	ID, Status, Bundle string
	Pid                int
}, rest []string) {
	t.Helper()
	ls := lines(file)
	if len(ls) < 5 {
		t.Fatalf("%s: %q", file, ls)
	}
	if err := json.Unmarshal([]byte(ls[0]), &s); err != nil {
		t.Fatalf("%s: %v", ls[0], err)
	}
	return s, ls[1:]
}

// TestHooks: all six kinds, in order, each with the state that the container is
// in, in the namespaces that the specification says.
func TestHooks(t *testing.T) {
	w := theWorld(t)
	b := w.hooked("h", nil)
	tmp := b + "/rootfs/tmp/"
	order := func() string { return strings.ReplaceAll(strings.Join(lines(tmp+"order"), " "), " b", "") }
	w.ok("create", "-b", b, "h")
	if got, want := order(), "prestart.1 prestart.2 createRuntime.1 createRuntime.2 createContainer.1 createContainer.2"; got != want {
		t.Errorf("create ran %q, want %q", got, want)
	}
	pid := w.pid("h")
	ns := func(name string) string {
		s, err := os.Readlink(filepath.Join("/proc", itoa(pid), "ns", name))
		must(t, err)
		return s
	}
	inside := []string{ns("mnt"), ns("uts"), ns("pid")}
	w.ok("start", "h")
	w.ok("kill", "h", "KILL")
	w.soon("stopped", func() bool { return w.state("h") == "stopped" })
	if got := order(); strings.Contains(got, "poststop") || !strings.HasSuffix(got, "startContainer.1 startContainer.2 poststart.1 poststart.2") {
		t.Errorf("start ran %q", got)
	}
	w.ok("delete", "h")
	if got := order(); !strings.HasSuffix(got, "poststart.2 poststop.1 poststop.2") {
		t.Errorf("delete ran %q", got)
	}
	for _, k := range kinds {
		for _, n := range []string{".1", ".2"} {
			s, rest := told(t, tmp+k+n)
			want := map[string]string{"poststart": "running", "poststop": "stopped"}[k]
			if want == "" {
				want = "created"
			}
			if s.ID != "h" || s.Status != want || s.Bundle != b || (s.Pid != pid) != (k == "poststop") {
				t.Errorf("%s%s got the state %+v, want %s of process %d", k, n, s, want, pid)
			}
			in := k == "createContainer" || k == "startContainer"
			if (rest[1] == inside[1]) != in {
				t.Errorf("%s%s ran in %s, the container is %s", k, n, rest[1], inside[1])
			}
			if k == "startContainer" && (rest[2] != inside[2] || rest[0] != inside[0]) {
				t.Errorf("%s%s ran in %q, the container is %q", k, n, rest[:3], inside)
			}
			// The working directory is the runtime's; inside there is no such place.
			dir := map[bool]string{true: "/", false: w.dir}[k == "startContainer"]
			if rest[3] != dir {
				t.Errorf("%s%s ran in the directory %s, want %s", k, n, rest[3], dir)
			}
			env := strings.Join(rest, " ")
			if !strings.Contains(env, " A=b") || strings.Contains(env, "HOME=") {
				t.Errorf("%s%s has the environment %q", k, n, env)
			}
			// The last words are its descriptors; ls has one more.
			if fds := rest[len(rest)-4:]; strings.Join(fds, " ") != "0 1 2 3" {
				t.Errorf("%s%s has the descriptors %q", k, n, fds)
			}
		}
	}
}

// TestHookFails: a hook that fails, or hangs, ends what it belongs to.
func TestHookFails(t *testing.T) {
	w := theWorld(t)
	for _, how := range []string{"fails", "hangs", "is missing"} {
		for _, k := range kinds {
			name := k + "-" + strings.ReplaceAll(how, " ", "-")
			b := w.hooked(name, func(h object) {
				first := h[k].([]any)[0].(object)
				switch how {
				case "fails":
					first["args"] = []string{"sh", "-c", "echo what I say >&2; exit 3"}
				case "hangs":
					first["args"], first["timeout"] = []string{"sh", "-c", "sleep 100"}, 1
				default:
					first["path"] = "/nonesuch/hook"
				}
			})
			words := map[string]string{"fails": "exit status 3: what I say", "hangs": "timeout", "is missing": "no such file"}[how]
			ran := func() string { return strings.Join(lines(b+"/rootfs/tmp/order"), " ") }
			began := time.Now()
			switch k {
			case "prestart", "createRuntime", "createContainer":
				w.fails(1, words, "create", "-b", b, name)
				if s := w.state(name); s != "" {
					t.Errorf("%s: the container is %s", name, s)
				}
				// What began is ended: the last hooks run, and none of the same kind.
				if got := ran(); !strings.Contains(got, "poststop.2") || strings.Contains(got, k+".2") {
					t.Errorf("%s: ran %q", name, got)
				}
			case "startContainer", "poststart":
				w.ok("create", "-b", b, name)
				w.fails(1, words, "start", name)
				if s := w.state(name); s != "stopped" {
					t.Errorf("%s: the container is %q", name, s)
				}
				if got := ran(); strings.Contains(got, k+".2") || k == "startContainer" && strings.Contains(got, "poststart") {
					t.Errorf("%s: ran %q", name, got)
				}
				w.ok("delete", name)
				if got := ran(); !strings.Contains(got, "poststop.2") {
					t.Errorf("%s: ran %q", name, got)
				}
			case "poststop":
				w.ok("run", "-d", "-b", b, name)
				r := w.do("delete", "--force", name)
				if r.code != 0 || !strings.Contains(r.err, words) || !strings.Contains(r.err, "warn") {
					t.Errorf("%s: %v", name, r)
				}
				if got := ran(); !strings.Contains(got, "poststop.2") {
					t.Errorf("%s: ran %q", name, got)
				}
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("%s: took %v", name, d)
			}
			if left := w.left(); len(left) > 0 {
				t.Errorf("%s left %q", name, left)
			}
		}
	}
}

// TestPoststart: the hooks after the start wait for the payload, and others
// can have the container meanwhile. What a failed one is depends on the version
// that the bundle is written for.
func TestPoststart(t *testing.T) {
	w := theWorld(t)
	// startContainer's would be the first to execute a file of the tree.
	b := w.hooked("p", func(h object) { delete(h, "startContainer") })
	ran := func(b string) string { return strings.Join(lines(b+"/rootfs/tmp/order"), " ") }
	w.ok("create", "-b", b, "p")
	// Its program takes until we have looked at it.
	fan, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	must(t, err)
	exec := os.NewFile(uintptr(fan), "fanotify")
	defer exec.Close()
	must(t, unix.FanotifyMark(fan, unix.FAN_MARK_ADD, unix.FAN_OPEN_EXEC_PERM, unix.AT_FDCWD, b+"/rootfs/bin/busybox"))
	start := make(chan result)
	go func() { start <- w.do("start", "p") }()
	var event unix.FanotifyEventMetadata
	must(t, binary.Read(exec, binary.NativeEndian, &event))
	time.Sleep(300 * time.Millisecond)
	if got := ran(b); strings.Contains(got, "poststart") {
		t.Errorf("before the payload: %q", got)
	}
	must(t, binary.Write(exec, binary.NativeEndian, unix.FanotifyResponse{Fd: event.Fd, Response: unix.FAN_ALLOW}))
	unix.Close(int(event.Fd))
	exec.Close()
	if r := <-start; r.code != 0 || !strings.HasSuffix(ran(b), "poststart.1 b poststart.2 b") {
		t.Errorf("%v; ran %q", r, ran(b))
	}
	w.ok("delete", "--force", "p")

	// Who is frozen at that moment can be resumed; who is killed has no payload.
	for what, words := range map[string]string{"resume q": "", "kill q KILL": "has stopped", "delete --force q": "does not exist"} {
		b := w.hooked("q", func(h object) {
			h["startContainer"].([]any)[0].(object)["args"] = []string{"sh", "-c", "touch /tmp/waits; until [ -e /tmp/go ]; do sleep 0.05; done"}
		})
		for _, name := range []string{"order", "waits", "go"} {
			os.Remove(b + "/rootfs/tmp/" + name)
		}
		w.ok("create", "-b", b, "q")
		go func() { start <- w.do("start", "q") }()
		w.soon("the hook", func() bool { _, err := os.Stat(b + "/rootfs/tmp/waits"); return err == nil })
		freeze(t, w.cgroups+"/q")
		must(t, os.WriteFile(b+"/rootfs/tmp/go", nil, 0o644))
		w.soon("started", func() bool { _, err := os.Stat(w.root + "/q/exec.fifo"); return err != nil })
		time.Sleep(100 * time.Millisecond)
		if got := ran(b); strings.Contains(got, "poststart") {
			t.Errorf("before the payload: %q", got)
		}
		w.ok(strings.Fields(what)...)
		select {
		case r := <-start:
			if (r.code != 0) != (words != "") || !strings.Contains(r.err, words) || strings.Contains(ran(b), "poststart") != (words == "") {
				t.Errorf("%s: start gives %v, ran %q", what, r, ran(b))
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("start hangs after %s", what)
		}
		w.ok("delete", "--force", "q")
	}

	for version, warns := range map[string]bool{"1.0.2": true, "1.0.2-dev": true, "1.2.0": true, "1.2.1": false, "1.3.0": false} {
		name := "v" + version
		b := w.hooked(name, func(h object) {
			h["poststart"].([]any)[0].(object)["args"] = []string{"sh", "-c", "echo what I say >&2; exit 3"}
		})
		text, err := os.ReadFile(b + "/config.json")
		must(t, err)
		must(t, os.WriteFile(b+"/config.json", []byte(strings.Replace(string(text), `"ociVersion": "1.3.0"`, `"ociVersion": "`+version+`"`, 1)), 0o644))
		w.ok("create", "-b", b, name)
		r := w.do("start", name)
		if !strings.Contains(r.err, "exit status 3: what I say") {
			t.Errorf("%s: %v", name, r)
		}
		state, code := "stopped", 1
		if warns {
			state, code = "running", 0
		}
		if s := w.state(name); r.code != code || s != state || strings.Contains(ran(b), "poststart.2") != warns {
			t.Errorf("%s: %v, it is %s, and ran %q", name, r, s, ran(b))
		}
		w.ok("delete", "--force", name)
	}
	if left := w.left(); len(left) > 0 {
		t.Errorf("left %q", left)
	}
}

// freeze freezes a cgroup, past the runtime's locks.
func freeze(t *testing.T, group string) {
	t.Helper()
	for _, f := range [][2]string{{"/sys/fs/cgroup/freezer" + group + "/freezer.state", "FROZEN"}, {"/sys/fs/cgroup" + group + "/cgroup.freeze", "1"}} {
		if os.WriteFile(f[0], []byte(f[1]), 0) == nil {
			return
		}
	}
	t.Fatal("nothing freezes ", group)
}
