package ocisuite

import (
	"fmt"
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

// TestSuite is the run.
func TestSuite(t *testing.T) {
	tree.NeedRoot(t)
	if testing.Short() {
		t.Skip("it takes a minute or two")
	}
	rt := oci.Under(t)
	dir := programs(t)
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	jobs := make(chan string, len(all))
	for _, e := range all {
		if n := e.Name(); n != "runtimetest" && !strings.HasPrefix(n, "rootfs-") && wanted(n) {
			jobs <- n
		}
	}
	close(jobs)
	found := map[string]result{}
	var mu sync.Mutex
	var all3 sync.WaitGroup
	for range lanes {
		all3.Go(func() {
			c, err := cell.Open(cell.Options{View: cell.Host, Bind: map[string]string{"/run/suite": dir, "/run/suite-runtime/" + rt.Name: rt.Path}})
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

	clean, ok, notOK, skip := 0, 0, 0, 0
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
	summary := fmt.Sprintf("%s: %d of %d programs clean; %d ok, %d not ok, %d skipped", rt.Version, clean, len(found), ok, notOK, skip)
	t.Log(summary)
	fmt.Println(summary)
	if os.Getenv("PROGRAMS") != "" {
		return
	}
	text, err := os.ReadFile(filepath.Join("expected", rt.List()+".txt"))
	if err != nil {
		t.Logf("no list for %s: nothing to hold this against", rt.List())
		return
	}
	want, err := expectations(string(text))
	if err != nil {
		t.Fatalf("expected/%s.txt: %v", rt.List(), err)
	}
	for _, w := range compare(found, want) {
		name, _, _ := strings.Cut(w, " ")
		t.Errorf("%s\n%s", w, found[name].said)
	}
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
