package state

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/tree"
)

// here moves the machines' directory into the test's own.
func here(t *testing.T) string {
	t.Helper()
	old := Dir
	Dir = filepath.Join(t.TempDir(), "launch")
	t.Cleanup(func() { Dir = old })
	return filepath.Dir(Dir)
}

func open(t *testing.T, name string) *Machine {
	t.Helper()
	m, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func record(t *testing.T, m *Machine, e Effect, what string) {
	t.Helper()
	if err := m.Record(e, what); err != nil {
		t.Fatal(err)
	}
}

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// die leaves a machine as a launcher does that is killed.
func (m *Machine) die() { m.close() }

func TestBusy(t *testing.T) {
	here(t)
	m := open(t, "web")
	if _, err := Open("web"); err != ErrBusy {
		t.Errorf("a second Open gives %v", err)
	}
	other := open(t, "db")
	other.Close()
	m.Close()
	m = open(t, "web")
	m.Close()
	if names, _ := os.ReadDir(Dir); len(names) != 0 {
		t.Errorf("left in %s: %v", Dir, names)
	}
	if st, err := os.Stat(Dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%s is not root's alone: %v %v", Dir, st, err)
	}
}

// TestAbandon: an Open that fails midway leaves no directory. It fails because
// there are no descriptors left, at each of them.
func TestAbandon(t *testing.T) {
	here(t)
	open(t, "other").Close() // makes what all share
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	failed := 0
	for most := uint64(3); ; most++ {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		m, err := Open("web")
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			m.Close()
			break
		}
		if !errors.Is(err, unix.EMFILE) {
			t.Fatal(err)
		}
		names, _ := os.ReadDir(Dir)
		if len(names) > 0 && !exists(filepath.Join(Dir, "web/lock")) {
			t.Errorf("%v, and an empty directory stays", err)
		}
		if strings.Contains(err.Error(), "lock") {
			failed++
		}
	}
	if failed == 0 {
		t.Error("Open never failed between making and locking")
	}
}

// TestOrder: what was made last goes first, and a directory with all it holds.
func TestOrder(t *testing.T) {
	top := here(t)
	m := open(t, "web")
	tree := filepath.Join(top, "a % b\nc")
	record(t, m, Tree, tree)
	if err := os.MkdirAll(filepath.Join(tree, "sub/deeper"), 0o700); err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(top, "kept")
	touch(t, kept)
	touch(t, filepath.Join(tree, "sub/file"))
	if err := os.Symlink(kept, filepath.Join(tree, "sub/link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(top, filepath.Join(tree, "sub/deeper/up")); err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(tree, "file")
	record(t, m, File, inside)
	touch(t, inside)
	m.die()
	cleaned, err := Cleanup("")
	if err != nil || !slices.Equal(cleaned, []string{"web"}) {
		t.Fatalf("Cleanup gives %q, %v", cleaned, err)
	}
	if exists(tree) {
		t.Error("the tree is still there")
	}
	if !exists(kept) {
		t.Error("a link was followed")
	}
	if exists(Dir) {
		t.Errorf("%s is still there", Dir)
	}
}

// TestTorn cuts the journal off at every byte: what was recorded completely is
// undone, nothing else is touched.
func TestTorn(t *testing.T) {
	top := here(t)
	// Each name is the beginning of the next, so that a torn line names
	// something that is not the machine's.
	names := []string{filepath.Join(top, "a"), filepath.Join(top, "aa"), filepath.Join(top, "aaa")}
	m := open(t, "web")
	for _, n := range names[1:] {
		record(t, m, File, n)
	}
	m.die()
	journal := filepath.Join(Dir, "web", "undo")
	whole, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(whole) + 1 {
		for _, n := range names {
			touch(t, n)
		}
		if err := os.MkdirAll(filepath.Dir(journal), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(journal, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := Open("web")
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		m.Close()
		for _, n := range names {
			made := strings.Contains(string(whole[:cut]), "file "+n+"\n")
			if exists(n) == made {
				t.Errorf("cut at %d: recorded %v, still there %v: %s", cut, made, exists(n), n)
			}
		}
	}
}

// TestProcess: a process that was noted is ended, also one that doesn't want to; one
// that has its number by chance is not.
func TestProcess(t *testing.T) {
	here(t)
	start := func(script string) *exec.Cmd {
		t.Helper()
		c := exec.Command("sh", "-c", script)
		out, err := c.StdoutPipe()
		if err == nil {
			err = c.Start()
		}
		if err == nil {
			_, err = out.Read(make([]byte, 3)) // it is up
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	willing, stubborn, other := start("echo up; exec sleep 100"), start("trap '' TERM; echo up; exec sleep 100"), start("echo up; exec sleep 100")
	m := open(t, "web")
	note := func(c *exec.Cmd, more uint64) {
		t.Helper()
		ticks, ok := Began(c.Process.Pid)
		if !ok {
			t.Fatal("no process")
		}
		record(t, m, Process, fmt.Sprintf("/%d/%d", c.Process.Pid, ticks+more))
	}
	note(willing, 0)
	note(stubborn, 0)
	note(other, 1)
	record(t, m, Process, "/999999999/1") // none
	m.die()
	ends := func(c *exec.Cmd) string {
		done := make(chan string, 1)
		go func() { c.Wait(); done <- c.ProcessState.String() }()
		select {
		case s := <-done:
			return s
		case <-time.After(time.Second):
			return "lives"
		}
	}
	// They are our children, and gone for good when we have heard of it.
	ended := make(chan [2]string)
	go func() {
		willing.Wait()
		stubborn.Wait()
		ended <- [2]string{willing.ProcessState.String(), stubborn.ProcessState.String()}
	}()
	if cleaned, err := Cleanup(""); err != nil || !slices.Equal(cleaned, []string{"web"}) {
		t.Errorf("Cleanup gives %q, %v", cleaned, err)
	}
	if got := <-ended; got != [2]string{"signal: terminated", "signal: killed"} {
		t.Errorf("they end as %q", got)
	}
	if s := ends(other); s != "lives" {
		t.Errorf("another process of that number: %s", s)
	}
	other.Process.Kill()
	for _, what := range []string{"/1", "/x/1", "/1/x", "/-1/2", "/0/2"} {
		if err := (entry{effect: Process, what: what}).undo(); err == nil {
			t.Errorf("%s is undone", what)
		}
	}
}

// TestTwice: undoing is the same done twice, and what was recorded but never
// made is no error.
func TestTwice(t *testing.T) {
	top := here(t)
	m := open(t, "web")
	file := filepath.Join(top, "file")
	record(t, m, File, file)
	record(t, m, File, filepath.Join(top, "never-made"))
	record(t, m, Tree, filepath.Join(top, "never-made-either"))
	record(t, m, Tree, filepath.Join(top, "not/even/its/parent"))
	touch(t, file)
	for range 2 {
		if err := m.Undo(); err != nil {
			t.Fatal(err)
		}
	}
	// Recorded again, undone again: a machine that reboots.
	record(t, m, File, file)
	touch(t, file)
	m.die()
	m = open(t, "web")
	if exists(file) {
		t.Error("what was recorded after an undo is still there")
	}
	m.Close()
}

// TestStuck: what can't be undone stays recorded, with all that could be done
// done, until it can.
func TestStuck(t *testing.T) {
	top := here(t)
	m := open(t, "web")
	file, stuck := filepath.Join(top, "file"), filepath.Join(top, "stuck")
	record(t, m, File, stuck)
	record(t, m, File, file)
	touch(t, file)
	if err := os.Mkdir(stuck, 0o700); err != nil { // unlink gives EISDIR
		t.Fatal(err)
	}
	if err := m.Undo(); err == nil || !strings.Contains(err.Error(), stuck) {
		t.Errorf("Undo gives %v", err)
	}
	if exists(file) {
		t.Error("one failure stopped the others")
	}
	m.Close()
	if _, err := Open("web"); err == nil {
		t.Error("the name is given away although something is left")
	}
	os.Remove(stuck)
	m = open(t, "web")
	m.Close()
	if exists(filepath.Join(Dir, "web")) {
		t.Error("the machine's directory is still there")
	}
}

// TestNewer: a journal of a newer launch is not understood, and not forgotten.
func TestNewer(t *testing.T) {
	for name, text := range map[string]string{
		"effect":  version + " \nportal /somewhere\n",
		"version": "launch-undo-2 \nfile /somewhere\n",
	} {
		t.Run(name, func(t *testing.T) {
			here(t)
			dir := filepath.Join(Dir, "web")
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/undo", []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := Open("web")
				if err == nil || !strings.Contains(err.Error(), "newer") {
					t.Errorf("Open gives %v", err)
				}
				if _, err := Cleanup(""); err == nil {
					t.Error("Cleanup says nothing")
				}
				if now, _ := os.ReadFile(dir + "/undo"); string(now) != text {
					t.Errorf("the journal is now %q", now)
				}
			}
		})
	}
}

// TestNames: a journal is only believed when it names clean paths.
func TestNames(t *testing.T) {
	top := here(t)
	kept := filepath.Join(top, "kept")
	dir := filepath.Join(Dir, "web")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"kept", "../kept", top + "/x/../kept", top + "//kept", kept + "/", ""} {
		touch(t, kept)
		if err := os.WriteFile(dir+"/undo", []byte(version+" \nfile "+bad+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open("web"); err == nil {
			t.Errorf("%q: no error", bad)
		}
		if !exists(kept) {
			t.Errorf("%q was removed", bad)
		}
	}
}

// TestCleanupLeavesRunning: a machine whose launcher lives is left alone, the
// others are not.
func TestCleanupLeavesRunning(t *testing.T) {
	top := here(t)
	running, dead := open(t, "running"), open(t, "dead")
	a, b := filepath.Join(top, "a"), filepath.Join(top, "b")
	record(t, running, File, a)
	record(t, dead, File, b)
	touch(t, a)
	touch(t, b)
	dead.die()
	cleaned, err := Cleanup("")
	if err != nil || !slices.Equal(cleaned, []string{"dead"}) {
		t.Errorf("Cleanup gives %q, %v", cleaned, err)
	}
	if !exists(a) || exists(b) {
		t.Errorf("of the running machine: %v, of the dead one: %v", exists(a), exists(b))
	}
	if _, err := Cleanup("running"); !errors.Is(err, ErrBusy) {
		t.Errorf("Cleanup of the running machine gives %v", err)
	}
	if err := running.Undo(); err != nil || exists(a) {
		t.Errorf("the running machine can't undo any more: %v", err)
	}
	running.Close()
}

const contender = "LAUNCH_STATE_CONTENDER"

// TestContenders opens and closes one name in many processes at once: at most
// one has it at a time, nobody fails but by being told so, and nothing stays.
func TestContenders(t *testing.T) {
	if dir := os.Getenv(contender); dir != "" {
		contend(t, dir)
		return
	}
	top := here(t)
	var all []*exec.Cmd
	for range 5 {
		c := exec.Command("/proc/self/exe", "-test.run=^TestContenders$")
		c.Env = append(os.Environ(), contender+"="+top)
		out := &strings.Builder{}
		c.Stdout, c.Stderr = out, out
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	for _, c := range all {
		if err := c.Wait(); err != nil {
			t.Errorf("%v\n%s", err, c.Stdout)
		}
	}
	if names, _ := os.ReadDir(Dir); len(names) != 0 {
		t.Errorf("left: %v", names)
	}
}

func contend(t *testing.T, top string) {
	Dir = filepath.Join(top, "launch")
	mine := filepath.Join(top, "mine")
	deadline := time.Now().Add(time.Minute)
	for had := 0; had < 50; {
		m, err := Open("web")
		if err == ErrBusy && time.Now().Before(deadline) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		had++
		record(t, m, File, mine)
		f, err := os.OpenFile(mine, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatalf("somebody else has the name, too: %v", err)
		}
		fmt.Fprintln(f, os.Getpid())
		f.Close()
		if had%3 == 0 {
			m.die() // the next one undoes it
			continue
		}
		if err := m.Undo(); err != nil {
			t.Fatal(err)
		}
		m.Close()
	}
	if _, err := Cleanup("web"); err != nil && !errors.Is(err, ErrBusy) {
		t.Fatal(err)
	}
}

// TestLock: a lock file goes when its turn comes, unless somebody else has it.
func TestLock(t *testing.T) {
	dir := here(t)
	file, other := filepath.Join(dir, ".#tree.lck"), filepath.Join(dir, ".#other.lck")
	m, err := Open("m")
	if err != nil {
		t.Fatal(err)
	}
	l, err := m.Lock(file, true)
	if err != nil {
		t.Fatal(err)
	}
	mark := m.Mark()
	if _, err := m.Lock(other, false); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Take(other, true); err != tree.ErrBusy {
		t.Error("an exclusive lock was shared: ", err)
	}
	if err := m.UndoTo(mark); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(other); err == nil {
		t.Error("the later lock stayed")
	}
	if _, err := os.Lstat(file); err != nil {
		t.Error("the earlier lock went: ", err)
	}
	second, err := tree.Take(file, true)
	if err != nil {
		t.Fatal("a shared lock was not shared: ", err)
	}
	if err := l.Change(false); err != tree.ErrBusy {
		t.Error("a lock that is shared became exclusive: ", err)
	}
	if err := m.Undo(); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if _, err := os.Lstat(file); err != nil {
		t.Error("the lock of somebody else was removed: ", err)
	}
	// A journal that a killed launcher left.
	if m, err = Open("m"); err != nil {
		t.Fatal(err)
	}
	if err := m.Record(Lock, file); err != nil {
		t.Fatal(err)
	}
	m.close()
	if _, err := Cleanup("m"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(file); err != nil {
		t.Error("clean-up removed a lock that is held: ", err)
	}
	second.Release()
	if _, err := os.Lstat(file); err == nil {
		t.Error("the last one left its file")
	}
}

// TestCleanupCopies: the machines that ran on copies are told by their names.
func TestCleanupCopies(t *testing.T) {
	here(t)
	for _, name := range []string{"web", "web-0123456789abcdef", "web-0123456789abcdeg", "web-2", "other-0123456789abcdef"} {
		m, err := Open(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Record(Tree, filepath.Join(Dir, "gone")); err != nil {
			t.Fatal(err)
		}
		m.close()
	}
	cleaned, err := CleanupCopies("web")
	if err != nil || len(cleaned) != 1 || cleaned[0] != "web-0123456789abcdef" {
		t.Error(cleaned, err)
	}
}
