package oci

import (
	"encoding/json"
	"errors"
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

	"golang.org/x/sys/unix"

	"launch/internal/itest/remake"
	"launch/internal/itest/tree"
)

// The test binary runs itself again in a mount namespace of its own with an
// empty /run, shared so that a mount that gets out of a container would show.
const inner = "LAUNCH_OCI_WORLD"

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 || os.Getenv(inner) != "" {
		os.Exit(Main(m))
	}
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), inner+"=1")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := c.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err != nil:
		fmt.Fprintln(os.Stderr, "oci:", err)
		os.Exit(1)
	}
}

// whole reports whether all is to be tried, however long it takes.
func whole() bool { return os.Getenv("LAUNCH_TEST") == "faults" }

// longest is how long a command may take.
const longest = 30 * time.Second

var ready bool

// world is a root directory for containers, and bundles.
type world struct {
	t       testing.TB
	path    string // of the runtime
	dir     string
	root    string
	cgroups string // below which they are
	env     []string
}

// theWorld gives a fresh one for a test.
func theWorld(t testing.TB) *world {
	t.Helper()
	tree.NeedRoot(t, "busybox")
	path := Under(t).Path
	if !ready {
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		must(t, unix.Mount("oci", "/run", "tmpfs", 0, "mode=755"))
		must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""))
		ready = true
	}
	w := &world{t: t, path: path, cgroups: fmt.Sprintf("/oci-test-%d", os.Getpid())}
	var err error
	w.dir, err = os.MkdirTemp("/run", "oci-")
	must(t, err)
	must(t, os.Chmod(w.dir, 0o755))
	w.root = w.dir + "/root"
	t.Cleanup(func() {
		if es, err := os.ReadDir(w.root); err == nil {
			for _, e := range es {
				w.do("delete", "--force", e.Name())
			}
		}
		if left := w.left(); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
		os.RemoveAll(w.dir)
	})
	return w
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// left lists what containers left: directories, cgroups, mounts.
func (w *world) left() (left []string) {
	es, _ := os.ReadDir(w.root)
	for _, e := range es {
		left = append(left, w.root+"/"+e.Name())
	}
	tops, _ := filepath.Glob("/sys/fs/cgroup/*")
	for _, top := range append(tops, "/sys/fs/cgroup") {
		filepath.WalkDir(top+w.cgroups, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				left = append(left, p)
			}
			return nil
		})
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, w.dir) {
			left = append(left, line)
		}
	}
	return left
}

// result is what a command did.
type result struct {
	code     int
	out, err string
}

func (r result) String() string { return fmt.Sprintf("status %d, %q, %q", r.code, r.out, r.err) }

// command gives the runtime's command.
func (w *world) command(args ...string) *exec.Cmd {
	c := exec.Command(w.path, append([]string{"--root", w.root}, args...)...)
	c.Env = append(os.Environ(), w.env...)
	c.Dir = w.dir
	return c
}

// do runs a command. What it leaves running may keep its output.
func (w *world) do(args ...string) result { return w.run(w.command(args...)) }

func (w *world) run(c *exec.Cmd) result {
	w.t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.CreateTemp(w.dir, "out-")
		must(w.t, err)
		os.Remove(f.Name())
		files[i] = f
		defer f.Close()
	}
	if c.Stdout == nil {
		c.Stdout = files[0]
	}
	if c.Stderr == nil {
		c.Stderr = files[1]
	}
	must(w.t, c.Start())
	timer := time.AfterFunc(longest, func() { c.Process.Kill() })
	err := c.Wait()
	if !timer.Stop() {
		w.t.Fatalf("%q hangs", c.Args)
	}
	r := result{code: c.ProcessState.ExitCode()}
	if s := c.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		r.code = 128 + int(s.Signal())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	for i, to := range []*string{&r.out, &r.err} {
		b := make([]byte, 1<<20)
		n, _ := files[i].ReadAt(b, 0)
		*to = string(b[:n])
	}
	return r
}

// ok runs a command that must do well, and gives its output.
func (w *world) ok(args ...string) string {
	w.t.Helper()
	r := w.do(args...)
	if r.code != 0 {
		w.t.Fatalf("%q: %v", args, r)
	}
	return r.out
}

// fails runs a command that must fail with that status, and say the words.
func (w *world) fails(code int, words string, args ...string) {
	w.t.Helper()
	if r := w.do(args...); r.code != code || !strings.Contains(strings.ReplaceAll(r.err, `\"`, `"`), words) {
		w.t.Errorf("%q: %v; want status %d and %q", args, r, code, words)
	}
}

type object = map[string]any

// bundle makes a bundle of a busybox tree that runs args. edit may change it.
func (w *world) bundle(name string, args []string, edit func(c object)) string {
	w.t.Helper()
	dir := filepath.Join(w.dir, name)
	bin := dir + "/rootfs/bin"
	for _, d := range []string{bin, dir + "/rootfs/etc", dir + "/rootfs/tmp", dir + "/rootfs/proc"} {
		must(w.t, os.MkdirAll(d, 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(w.t, err)
	text, err := os.ReadFile(busybox)
	must(w.t, err)
	if err := os.WriteFile(bin+"/busybox", text, 0o755); err != nil {
		w.t.Fatal(err)
	}
	for _, a := range strings.Fields("sh ls cat sleep true false echo id mount ps kill env pwd stat tail readlink head touch dd nc test mkdir grep") {
		os.Symlink("busybox", bin+"/"+a)
	}
	os.Remove(dir + "/config.json")
	w.ok("spec", "--bundle", dir)
	b, err := os.ReadFile(dir + "/config.json")
	must(w.t, err)
	var c object
	must(w.t, json.Unmarshal(b, &c))
	p := c["process"].(object)
	p["args"], p["terminal"] = args, false
	c["root"].(object)["readonly"] = false
	c["linux"].(object)["cgroupsPath"] = w.cgroups + "/" + name
	if edit != nil {
		edit(c)
	}
	b, err = json.MarshalIndent(c, "", "\t")
	must(w.t, err)
	must(w.t, os.WriteFile(dir+"/config.json", b, 0o644))
	return dir
}

var forever = []string{"sleep", "1000"}

// state gives a container's status, "" for one that isn't there.
func (w *world) state(id string) string {
	w.t.Helper()
	r := w.do("state", id)
	if r.code != 0 {
		return ""
	}
	var s struct{ Status string }
	must(w.t, json.Unmarshal([]byte(r.out), &s))
	return s.Status
}

func (w *world) pid(id string) int {
	w.t.Helper()
	var s struct{ Pid int }
	must(w.t, json.Unmarshal([]byte(w.ok("state", id)), &s))
	return s.Pid
}

// soon waits for something to become true.
func (w *world) soon(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("never: %s", what)
		}
	}
}

// built2 are other builds of the runtime, by name.
var built2 = map[string]string{}

// build makes the runtime with a build tag, or with some texts of its sources
// replaced by others (file, old, new): a defence taken away, so that the test
// of it is known to see that.
func (w *world) build(name, tags string, edits ...remake.Edit) string {
	w.t.Helper()
	Under(w.t)
	if os.Getenv("RUNTIME") != "" {
		w.t.Skip("another runtime has no such build")
	}
	if built2[name] != "" {
		return built2[name]
	}
	overlay, err := remake.Overlay(w.t.TempDir(), edits...)
	must(w.t, err)
	to := filepath.Join(built.dir, "launch-oci-"+name)
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", overlay, "-tags", tags, "-o", to, "launch/cmd/launch-oci")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		w.t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	built2[name] = to
	return to
}

// lines gives the lines of a file, none if it isn't there.
func lines(path string) []string {
	b, _ := os.ReadFile(path)
	return slices.DeleteFunc(strings.Split(string(b), "\n"), func(s string) bool { return s == "" })
}
