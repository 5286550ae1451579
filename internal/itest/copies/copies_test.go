// Package copies tries machines on copies of a tree, and the locks of trees.
//
// Room: test.
package copies

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// most is how long anything may take.
const most = 60 * time.Second

// place is a stage with a tree that nothing else is beside.
type place struct {
	*testing.T
	*stage.Stage
	dir string // the tree
}

func here(t *testing.T) place {
	t.Helper()
	tree.NeedRoot(t)
	dir := filepath.Join(tree.Scratch(t), "copied")
	tree.Fresh(t, tree.Tiny(t), dir)
	return place{t, stage.New(t, stage.Unified), dir}
}

// start starts a machine that runs a script.
func (p place) start(l stage.Launcher, script string, args ...string) *stage.Run {
	p.Helper()
	argv := append([]string{l.Path, "--quiet", "--console=pipe", "--register=no", "--keep-unit"}, args...)
	r := p.Start(l.Env, append(argv, "/bin/busybox", "ash", "-c", script)...)
	p.Cleanup(func() {
		if p.Failed() {
			p.Logf("%s %s: %q\n%s", l.Name, args, script, r.Out)
		}
	})
	return r
}

// up starts a machine and waits until it runs.
func (p place) up(l stage.Launcher, args ...string) *stage.Run {
	p.Helper()
	r := p.start(l, "echo up; exec sleep 1000", args...)
	if err := r.Await("up\n", most); err != nil {
		p.Fatal(err)
	}
	return r
}

// code waits for the end.
func (p place) code(r *stage.Run, want int) {
	p.Helper()
	if got, err := r.Code(most); err != nil || got != want {
		p.Errorf("exit status %d (%v), want %d\n%s", got, err, want, r.Out)
	}
}

// end asks a machine to end.
func (p place) end(r *stage.Run) {
	p.Helper()
	r.Process.Signal(syscall.SIGHUP)
	if _, err := r.Code(most); err != nil {
		p.Error(err)
	}
}

// beside lists what lies beside the tree.
func (p place) beside() string {
	p.Helper()
	list, err := os.ReadDir(filepath.Dir(p.dir))
	if err != nil {
		p.Fatal(err)
	}
	var names []string
	for _, e := range list {
		if e.Name() != "copied" {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// clean fails if something is left of machines.
func (p place) clean() {
	p.Helper()
	left := p.beside()
	for _, dir := range []string{"/run/launch", "/run/systemd/nspawn/locks"} {
		list, _ := os.ReadDir(p.Path(dir))
		for _, e := range list {
			left += " " + dir + "/" + e.Name()
		}
	}
	if left != "" {
		p.Errorf("left behind: %s", left)
	}
}

func refused(p place, r *stage.Run) {
	p.Helper()
	p.code(r, 1)
	if out := r.Out.String(); !strings.Contains(out, "currently busy") {
		p.Errorf("refused for another reason: %s", out)
	}
}

// TestLocks: one tree, one machine; unless none of them can write to it.
func TestLocks(t *testing.T) {
	p := here(t)
	l := stage.Launch(t)
	d := "--directory=" + p.dir
	first := p.up(l, d, "--machine=launch-test-a")
	refused(p, p.start(l, "true", d, "--machine=launch-test-b"))
	refused(p, p.start(l, "true", d, "--machine=launch-test-b", "--read-only"))
	refused(p, p.start(l, "true", d, "--machine=launch-test-b", "--ephemeral"))
	// The same tree by another name.
	other := filepath.Join(filepath.Dir(p.dir), "other")
	if err := os.Symlink(p.dir, other); err != nil {
		t.Fatal(err)
	}
	refused(p, p.start(l, "true", "--directory="+other, "--machine=launch-test-b"))
	os.Remove(other)
	p.code(p.start(l, "true", "--directory="+tree.Copy(t, tree.Tiny(t)), "--machine=launch-test-b"), 0)
	unlocked := l
	unlocked.Env = append(unlocked.Env, "SYSTEMD_NSPAWN_LOCK=0")
	p.code(p.start(unlocked, "true", d, "--machine=launch-test-b"), 0)
	p.end(first)
	p.clean()

	first = p.up(l, d, "--machine=launch-test-a", "--read-only")
	p.code(p.start(l, "true", d, "--machine=launch-test-b", "--read-only"), 0)
	p.code(p.start(l, "true", d, "--machine=launch-test-b", "--volatile=overlay"), 0)
	p.code(p.start(l, "true", d, "--machine=launch-test-b", "--ephemeral"), 0)
	refused(p, p.start(l, "true", d, "--machine=launch-test-b"))
	// Whoever ends last takes the lock away.
	if p.beside() != ".#copied.lck" {
		t.Errorf("beside the tree: %s", p.beside())
	}
	p.end(first)
	p.clean()
	p.code(p.start(l, "true", d, "--machine=launch-test-b"), 0)
	p.clean()
}

// TestPeer: the peer sees our locks, and we see the peer's.
func TestPeer(t *testing.T) {
	p := here(t)
	l, n := stage.Launch(t), stage.Nspawn(t)
	d := "--directory=" + p.dir
	first := p.up(l, d, "--machine=launch-test-a")
	refused(p, p.start(n, "true", d, "--machine=launch-test-b"))
	p.end(first)
	p.clean()
	first = p.up(n, d, "--machine=launch-test-a")
	refused(p, p.start(l, "true", d, "--machine=launch-test-b"))
	refused(p, p.start(l, "true", d, "--machine=launch-test-b", "--read-only"))
	p.end(first)
	first = p.up(n, d, "--machine=launch-test-a", "--read-only")
	p.code(p.start(l, "true", d, "--machine=launch-test-b", "--read-only"), 0)
	refused(p, p.start(l, "true", d, "--machine=launch-test-b"))
	p.end(first)
	p.code(p.start(l, "true", d, "--machine=launch-test-b"), 0)
	p.clean()
}

// TestEphemeral: what the machine does stays in the copy, which survives a
// reboot from inside and nothing else.
func TestEphemeral(t *testing.T) {
	p := here(t)
	l := stage.Launch(t)
	d := "--directory=" + p.dir
	// Not with --keep-unit: then a reboot is the service manager's.
	const twice = `echo up as $(hostname); [ -e /root/mark ] && echo again && exit 7; echo x >/root/mark; busybox reboot -f; sleep 1000`
	r := p.Start(l.Env, l.Path, "--quiet", "--console=pipe", "--register=no", d, "-x", "/bin/busybox", "ash", "-c", twice)
	p.code(r, 7)
	lines := strings.Split(strings.TrimSpace(r.Out.String()), "\n")
	if len(lines) != 3 || lines[0] != lines[1] || lines[2] != "again" || !strings.HasPrefix(lines[0], "up as copied-") || len(lines[0]) != len("up as copied-0123456789abcdef") {
		t.Errorf("%q", lines)
	}
	if _, err := os.Lstat(filepath.Join(p.dir, "root/mark")); err == nil {
		t.Error("the tree itself was changed")
	}
	p.clean()
	// Two at once, without names.
	a, b := p.up(l, d, "-x"), p.up(l, d, "-x")
	if n := strings.Count(p.beside(), ".#snapshot.copied"); n != 4 { // each with its lock
		t.Errorf("beside the tree: %s", p.beside())
	}
	p.end(a)
	p.end(b)
	p.clean()
	// -x --template=T is -x -D T.
	p.code(p.start(l, "true", "-x", "--template="+p.dir), 0)
	p.clean()
}

// TestMounted: something is mounted where the tree is, so that the copy has to
// be in it.
func TestMounted(t *testing.T) {
	p := here(t)
	p.Mount("--bind", p.dir, p.dir)
	r := p.up(stage.Launch(t), "--directory="+p.dir, "-x")
	if p.beside() != "" && p.beside() != ".#copied.lck" {
		t.Errorf("beside the tree: %s", p.beside())
	}
	found, _ := filepath.Glob(p.Path(p.dir) + "/.#snapshot.*")
	if len(found) != 1 {
		t.Errorf("in the tree: %q", found)
	}
	p.end(r)
	if found, _ = filepath.Glob(p.Path(p.dir) + "/.#*"); len(found) != 0 {
		t.Errorf("left in the tree: %q", found)
	}
	p.clean()
}

// TestTemplate: a missing directory is made, and used from then on.
func TestTemplate(t *testing.T) {
	p := here(t)
	l := stage.Launch(t)
	made := filepath.Join(filepath.Dir(p.dir), "made")
	args := []string{"--directory=" + made, "--template=" + p.dir}
	p.code(p.start(l, "echo x >/root/mark", args...), 0)
	if p.beside() != "made" {
		t.Errorf("beside the tree: %s", p.beside())
	}
	p.code(p.start(l, "[ -e /root/mark ]", args...), 0)
	if _, err := os.Lstat(filepath.Join(p.dir, "root/mark")); err == nil {
		t.Error("the template was changed")
	}
	os.RemoveAll(made)
	p.clean()
}

// fill makes the tree big enough to be caught while it is copied.
func (p place) fill() {
	p.Helper()
	for i := range 300 {
		dir := filepath.Join(p.dir, "srv", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			p.Fatal(err)
		}
		for j := range 30 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(j)), []byte("x"), 0o644); err != nil {
				p.Fatal(err)
			}
		}
	}
}

// copying waits until a copy is under way.
func (p place) copying() {
	p.Helper()
	for begin := time.Now(); time.Since(begin) < most; time.Sleep(time.Millisecond) {
		if found, _ := filepath.Glob(filepath.Join(filepath.Dir(p.dir), ".#snapshot.*/srv/*/*")); len(found) > 0 {
			return
		}
	}
	p.Fatal("no copy was begun")
}

// TestKilled: SIGKILL while a copy is made or used. --cleanup, or the next
// machine of that kind, finishes what the launcher could not.
func TestKilled(t *testing.T) {
	p := here(t)
	p.fill()
	l := stage.Launch(t)
	d := "--directory=" + p.dir
	kill := func(r *stage.Run) {
		r.Process.Kill()
		r.Code(most)
		if !strings.Contains(p.beside(), ".#snapshot.copied") {
			t.Skip("the copy was finished before it could be interrupted")
		}
	}
	for _, args := range [][]string{{d, "-x"}, {d, "-x", "--machine=launch-test-a"}, {"--template=" + p.dir, "--directory=" + p.dir + "2"}} {
		r := p.start(l, "sleep 1000", args...)
		p.copying()
		kill(r)
		p.code(p.Start(nil, l.Path, "--cleanup"), 0)
		p.clean()
	}
	r := p.up(l, d, "-x")
	kill(r)
	p.code(p.start(l, "true", d, "-x"), 0)
	p.clean()
	r = p.up(l, d, "-x")
	kill(r)
	p.code(p.Start(nil, l.Path, "--cleanup", d), 0)
	p.clean()
}

// TestInterrupted: a signal while a copy is made ends it.
func TestInterrupted(t *testing.T) {
	p := here(t)
	p.fill()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		r := p.start(stage.Launch(t), "sleep 1000", "--directory="+p.dir, "-x")
		p.copying()
		r.Process.Signal(sig)
		p.code(r, 1)
		if out := r.Out.String(); !strings.Contains(out, "interrupted") {
			t.Errorf("%v: %s", sig, out)
		}
		p.clean()
	}
}
