package ocisuite

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/oci"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(oci.Main(m)) }

const module = "github.com/opencontainers/runtime-tools"

// programs gives the directory of the built programs, with runtimetest and the
// root file system that they put into their bundles.
func programs(t *testing.T) string {
	t.Helper()
	id := runtime.Version() + runtime.GOARCH
	for _, f := range []string{"programs/go.mod", "programs/go.sum"} {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		id += string(text)
	}
	run := func(args ...string) (string, error) {
		c := exec.Command("go", args...)
		c.Dir = "programs"
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		out, err := c.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	if out, err := run("mod", "download"); err != nil {
		t.Skipf("cannot download the modules: %v\n%s", err, out)
	}
	return tree.Kept(t, "ocisuite", id, func(dir string) error {
		if out, err := run("build", "-trimpath", "-ldflags=-s -w", "-o", dir, module+"/validation/...", module+"/cmd/runtimetest"); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		from, err := run("list", "-m", "-f", "{{.Dir}}", module)
		if err != nil {
			return fmt.Errorf("%w\n%s", err, from)
		}
		rootfs := "rootfs-" + runtime.GOARCH + ".tar.gz"
		text, err := os.ReadFile(filepath.Join(from, rootfs))
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, rootfs), text, 0o644)
	})
}

// lanes is how many programs run at the same time, each in a cell of its own:
// they use fixed names of cgroups, and wait most of their time.
const lanes = 3

// most is how long a program may take; the slowest take 25 s of waiting.
const most = 3 * time.Minute

// TestSuite is the run. Unless a runtime is named, crun has its turn as well,
// where it is installed.
func TestSuite(t *testing.T) {
	tree.NeedRoot(t)
	if testing.Short() {
		t.Skip("it takes a minute or two")
	}
	dir := programs(t)
	rt := oci.Under(t)
	ours := 0
	t.Run(rt.Name, func(t *testing.T) { ours = suite(t, rt, dir, t.Errorf) })
	if os.Getenv("RUNTIME") != "" || os.Getenv("PROGRAMS") != "" {
		return
	}
	t.Run("crun", func(t *testing.T) {
		path, err := exec.LookPath("crun")
		if err != nil {
			t.Skip(err)
		}
		// What it is steady in is not for us to hold.
		if clean := suite(t, oci.Named(t, path), dir, t.Logf); clean > ours {
			t.Errorf("%d programs are clean under crun, and %d under launch-oci", clean, ours)
		}
	})
}

// suite runs the programs under a runtime, and gives how many were clean. It
// holds the results against the runtime's list, and tells wrong what differs.
func suite(t *testing.T, rt oci.Runtime, dir string, wrong func(format string, args ...any)) (clean int) {
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		if n := e.Name(); n != "runtimetest" && !strings.HasPrefix(n, "rootfs-") && wanted(n) {
			names = append(names, n)
		}
	}
	want, err := list(rt)
	if err != nil {
		t.Fatal(err)
	}
	found := runs(t, rt, dir, names)
	// A busy computer can make any of them late, as killsig, which takes a
	// shell to have its traps when the runtime says that it runs. What was
	// lost for good isn't clean the third time either.
	for range 2 {
		names = nil
		for name, r := range found {
			if want[name].word == "clean" && !r.clean() {
				t.Logf("once more: %s: %s", name, r)
				names = append(names, name)
			}
		}
		maps.Copy(found, runs(t, rt, dir, names))
	}
	ok, notOK, skip := 0, 0, 0
	for _, name := range slices.Sorted(maps.Keys(found)) {
		r := found[name]
		ok, notOK, skip = ok+r.ok, notOK+r.notOK, skip+r.skip
		if r.clean() {
			clean++
			continue
		}
		t.Logf("%s: %s", name, r)
		if os.Getenv("LAUNCH_TEST_VERBOSE") != "" {
			t.Log(r.said)
		}
	}
	always := 0
	for _, w := range want {
		if w.word == "clean" {
			always++
		}
	}
	summary := fmt.Sprintf("%s: %d of %d programs clean, %d of them always; %d ok, %d not ok, %d skipped", rt.Version, clean, len(found), always, ok, notOK, skip)
	t.Log(summary)
	fmt.Println(summary)
	if want == nil {
		t.Logf("no list for %s: nothing to hold this against", rt.List())
	} else if os.Getenv("PROGRAMS") == "" {
		for _, w := range compare(found, want) {
			name, _, _ := strings.Cut(w, " ")
			wrong("%s\n%s", w, found[name].said)
		}
	}
	return clean
}

// list reads what is expected of a runtime; nil if nobody has written it down.
func list(rt oci.Runtime) (map[string]expected, error) {
	file := filepath.Join("expected", rt.List()+".txt")
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	want, err := expectations(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return want, nil
}

// runs gives what each program printed. They know cgroup v1 alone; and crun
// refuses a host of both versions once anybody, such as a test beside this one,
// has passed on a controller of version 2.
func runs(t *testing.T, rt oci.Runtime, dir string, names []string) map[string]result {
	jobs := make(chan string, len(names))
	for _, n := range names {
		jobs <- n
	}
	close(jobs)
	found := map[string]result{}
	var mu sync.Mutex
	var all3 sync.WaitGroup
	for range min(lanes, len(names)) {
		all3.Go(func() {
			c, err := cell.Open(cell.Options{View: cell.Legacy, Bind: map[string]string{"/run/suite": dir, "/run/suite-runtime/" + rt.Name: rt.Path}})
			if err != nil {
				t.Error(err)
				return
			}
			defer func() {
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}()
			for name := range jobs {
				out, status, err := c.Shell("cd /run/suite && RUNTIME=/run/suite-runtime/"+rt.Name+" ./"+name, most)
				r := tap(out)
				if r.status = status; err != nil {
					r.said += err.Error()
				}
				mu.Lock()
				found[name] = r
				mu.Unlock()
			}
		})
	}
	all3.Wait()
	return found
}

// wanted lets PROGRAMS="start state" run some alone.
func wanted(name string) bool {
	only := strings.Fields(os.Getenv("PROGRAMS"))
	return len(only) == 0 || slices.Contains(only, name)
}

func TestTAP(t *testing.T) {
	r := tap("TAP version 13\nok 1 - fine\nnot ok 2 - it broke\n  ---\n  error: not ok here\n  ...\nok 3 # skip no such thing\nok\n1..4\n")
	if r.ok != 2 || r.notOK != 1 || r.skip != 1 || !slices.Equal(r.failed, []string{"it broke"}) {
		t.Errorf("%+v", r)
	}
	for _, c := range []struct {
		said   string
		status int
		clean  bool
	}{
		{"ok 1 - a\n1..1\n", 0, true},
		{"ok 1 - a\n1..1\n", 1, false},
		{"ok 1 # SKIP a\n1..1\n", 0, false},
		{"", 0, true},
		{"", 1, false},
		{"TAP version 13\n1..0\n", 0, true},
		{"TAP version 13\n  ---\n  {\n    \"error\": \"it broke\"\n  }\n  ...\n1..0\n", 0, false},
		{"ok 1 - a\n  ---\n  {\n    \"error\": \"as it should be\"\n  }\n  ...\n1..1\n", 0, true},
		{"ok 1 - a\nnot ok 2 - b\n", 0, false},
	} {
		r := tap(c.said)
		r.status = c.status
		if r.clean() != c.clean {
			t.Errorf("%q, status %d: clean %v", c.said, c.status, r.clean())
		}
	}
}

func TestCompare(t *testing.T) {
	want, err := expectations("# words\nfine clean\nworse clean\nbetter unclean the suite is wrong\nbad unclean because of that\ngone clean\nracy unsteady it depends on luck\n")
	if err != nil {
		t.Fatal(err)
	}
	good, bad := result{ok: 1}, result{ok: 1, notOK: 1}
	got := compare(map[string]result{"fine": good, "worse": bad, "better": good, "bad": bad, "new": good, "racy": bad}, want)
	if len(got) != 4 {
		t.Errorf("%q", got)
	}
	for i, begin := range []string{"better is clean now", "gone is in the list", "new isn't in the list", "worse was clean"} {
		if i < len(got) && !strings.HasPrefix(got[i], begin) {
			t.Errorf("got %q, want %q…", got[i], begin)
		}
	}
	for _, text := range []string{"a", "a dirty", "a unclean", "a unclean so", "a clean\na clean", "a clean why"} {
		if _, err := expectations(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
