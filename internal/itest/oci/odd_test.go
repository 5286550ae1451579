package oci

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFIFO: whoever made the bundle can't keep its runtime waiting by a FIFO.
func TestFIFO(t *testing.T) {
	w := theWorld(t)
	fifo := w.dir + "/fifo"
	must(t, unix.Mkfifo(fifo, 0o666))
	b := w.bundle("a", forever, nil)
	must(t, os.Remove(b+"/config.json"))
	must(t, unix.Mkfifo(b+"/config.json", 0o666))
	for _, verb := range []string{"create", "run", "restore"} {
		w.fails(1, "config.json: it is not a regular file", verb, "-b", b, "a")
	}
	for _, kind := range []string{"user", "network", "pid", "time"} {
		b = w.bundle("a", forever, func(c object) {
			c["linux"].(object)["namespaces"] = []object{{"type": "mount"}, {"type": kind, "path": fifo}}
			delete(c, "hostname")
		})
		w.fails(1, "cannot join the "+kind+" namespace "+fifo+": it is no namespace", "create", "-b", b, "a")
	}
	hook := func(kind, annotation string) string {
		return w.bundle("a", forever, func(c object) {
			c["annotations"] = object{annotation: fifo}
			c["hooks"] = object{kind: []object{{"path": "/bin/sh", "args": []string{"sh", "-c", "echo said; echo said >&2"}}}}
		})
	}
	for _, annotation := range []string{"run.oci.hooks.stdout", "run.oci.hooks.stderr"} {
		w.fails(1, "open "+fifo+" for what it writes: nobody reads it", "create", "-b", hook("createRuntime", annotation), "a")
		w.ok("run", "-d", "-b", hook("poststop", annotation), "a")
		w.ok("delete", "-f", "a")
	}
	// With somebody who reads, the hook may write more than a pipe holds.
	b = w.bundle("a", forever, func(c object) {
		c["annotations"] = object{"run.oci.hooks.stdout": fifo}
		c["hooks"] = object{"createRuntime": []object{{"path": "/bin/sh", "args": []string{"sh", "-c", "head -c 300000 /dev/zero"}}}}
	})
	reader := exec.Command("sh", "-c", "exec 3<"+fifo+"; sleep 0.3; wc -c <&3")
	read, err := reader.StdoutPipe()
	must(t, err)
	must(t, reader.Start())
	time.Sleep(100 * time.Millisecond) // it waits in its open
	w.soon("somebody reads", func() bool { return w.do("create", "-b", b, "a").code == 0 })
	said := make([]byte, 100)
	n, _ := read.Read(said)
	if got := strings.TrimSpace(string(said[:n])); got != "300000" {
		t.Errorf("of 300000 bytes %q arrived", got)
	}
	reader.Wait()
	w.ok("delete", "-f", "a")
}

// TestPiped: what is read through a pipe is there once, and the runtime starts
// itself again for containers that may trace it.
func TestPiped(t *testing.T) {
	w := theWorld(t)
	caps := []string{"CAP_SYS_PTRACE"}
	b := w.bundle("p", forever, func(c object) {
		c["process"].(object)["capabilities"] = object{"bounding": caps, "permitted": caps, "effective": caps}
	})
	text, err := os.ReadFile(b + "/config.json")
	must(t, err)
	piped := func(text string, args ...string) result {
		c := w.command(args...)
		c.Stdin = strings.NewReader(text) // through a pipe
		return w.run(c)
	}
	if r := piped(string(text), "run", "-d", "-b", b, "--config", "/dev/stdin", "p"); r.code != 0 {
		t.Fatalf("run with a configuration from a pipe: %v", r)
	}
	if r := piped(`{"args":["/bin/sh","-c","echo $A; exit 4"],"cwd":"/","env":["A=b"]}`, "exec", "--process", "/dev/stdin", "p"); r.code != 4 || r.out != "b\n" {
		t.Errorf("exec with a process from a pipe: %v", r)
	}

	// It starts itself again for users without root's rights, too.
	must(t, os.Mkdir(w.dir+"/nobody", 0o700))
	must(t, os.Chown(w.dir+"/nobody", 1234, 4321))
	b = w.bundleOf("q", []string{"sh", "-c", "exit 6"}, nil)
	c := w.nobodys()
	c.Path, c.Args = "/bin/sh", []string{"sh", "-c", `cat "$1/config.json" | "$0" run -b "$1" --config /dev/stdin q`, w.path, b} // a pipe of his own
	if r := w.run(c); r.code != 6 {
		t.Errorf("run with a configuration from a pipe, as nobody: %v", r)
	}
}

// TestForeign: a directory that no create made is no container, whatever is
// in it, and stays as it is; what a create left that was cut off can be deleted.
func TestForeign(t *testing.T) {
	w := theWorld(t)
	for dir, files := range map[string][]string{"bundle": {"config.json", "rootfs"}, "empty": nil, "other": {"state.json"}} {
		must(t, os.MkdirAll(w.root+"/"+dir, 0o755))
		for _, f := range files {
			must(t, os.WriteFile(w.root+"/"+dir+"/"+f, nil, 0o644))
		}
		const gone = "container does not exist"
		for _, verb := range []string{"state", "delete", "kill", "ps"} {
			w.fails(1, gone, verb, dir)
		}
		w.ok("delete", "--force", dir)
		w.fails(1, "container with given ID already exists", "create", "-b", w.bundle("f", forever, nil), dir)
		for _, f := range append(files, "") {
			if _, err := os.Stat(w.root + "/" + dir + "/" + f); err != nil {
				t.Error(err)
			}
		}
	}
	if got := w.ok("list", "-q"); got != "" {
		t.Errorf("list has %q", got)
	}
	must(t, os.RemoveAll(w.root))

	must(t, os.Mkdir(w.root, 0o700))
	must(t, os.Mkdir(w.root+"/half", 0o711))
	must(t, os.WriteFile(w.root+"/half/config.json", nil, 0o600))
	must(t, os.WriteFile(w.root+"/half/made", nil, 0o600))
	if got := w.ok("list", "-q"); got != "half\n" {
		t.Errorf("list has %q", got)
	}
	w.ok("delete", "half")

	// Without room there is an error that says for what, and nothing left.
	must(t, unix.Mount("full", w.root, "tmpfs", 0, "size=4k,nr_inodes=3"))
	w.fails(1, "no space left on device", "create", "-b", w.bundle("f", forever, nil), "a")
	w.fails(1, "note that container a makes ", "create", "-b", w.bundle("f", forever, nil), "a")
	es, err := os.ReadDir(w.root)
	must(t, err)
	if len(es) > 0 {
		t.Errorf("a create without room left %q", es)
	}
	must(t, unix.Unmount(w.root, 0))
}

// TestHuge: a bundle that can be created can be deleted, however large what it
// says is in the state.
func TestHuge(t *testing.T) {
	w := theWorld(t)
	const size = 15 << 20
	b := w.bundle("a", forever, func(c object) { c["annotations"] = object{"blank": strings.Repeat(" ", size)} })
	w.ok("create", "-b", b, "a")
	c := w.command("state", "a")
	out, err := c.Output()
	if err != nil || len(out) < size {
		t.Errorf("state: %v, %d bytes", err, len(out))
	}
	w.ok("delete", "--force", "a")
}

// TestFewDescriptors: a low limit of open files is enough, and the payload has
// it.
func TestFewDescriptors(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("a", forever, func(c object) { delete(c["process"].(object), "rlimits") })
	few := func(args ...string) result {
		c := w.command(args...)
		c.Path, c.Args = "/bin/sh", append([]string{"sh", "-c", `ulimit -n 48; exec "$@"`, "sh"}, c.Args...)
		return w.run(c)
	}
	if r := few("run", "-d", "-b", b, "a"); r.code != 0 {
		t.Fatal(r)
	}
	if r := few("exec", "a", "sh", "-c", "ulimit -n"); r.code != 0 || r.out != "48\n" {
		t.Error(r)
	}
}

// TestFull: what was asked for and could not be written is an error.
func TestFull(t *testing.T) {
	w := theWorld(t)
	w.ok("create", "-b", w.bundle("a", forever, nil), "a")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	must(t, err)
	defer full.Close()
	for _, words := range []string{"state a", "list", "list -q", "list -f json", "ps a", "ps -f json a", "events --stats a", "features", "--version"} {
		c := w.command(strings.Fields(words)...)
		c.Stdout = full
		if r := w.run(c); r.code != 1 || !strings.Contains(r.err, "no space left on device") {
			t.Errorf("%s on a full disk: %v", words, r)
		}
	}
}
