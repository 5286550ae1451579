package engines

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
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

//go:embed checks.txt
var table string

// most is how long a check may take on a busy machine.
const most = 3 * time.Minute

// needs are the programs without which there is no such engine.
var needs = map[string][]string{
	"podman":     {"podman", "conmon", "script"},
	"buildah":    {"buildah", "script"},
	"containerd": {"containerd", "ctr", "script"},
	"docker":     {"dockerd", "docker", "iptables", "script"},
	"swarm":      {"dockerd", "docker", "iptables", "ip"},
}

// client gives the path of the CRI client, built from its own module.
func client(t *testing.T) string {
	t.Helper()
	const src = "../cri"
	id := runtime.Version() + runtime.GOARCH
	for _, f := range []string{"go.mod", "go.sum", "main.go"} {
		text, err := os.ReadFile(filepath.Join(src, f))
		if err != nil {
			t.Fatal(err)
		}
		id += string(text)
	}
	run := func(args ...string) (string, error) {
		c := exec.Command("go", args...)
		c.Dir = src
		c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
		out, err := c.CombinedOutput()
		return string(out), err
	}
	if out, err := run("mod", "download"); err != nil {
		t.Skipf("cannot download the modules of the CRI client: %v\n%s", err, out)
	}
	return filepath.Join(tree.Kept(t, "cri", id, func(dir string) error {
		if out, err := run("build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "cri"), "."); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}), "cri")
}

// place is where an engine runs: a cell, and for a swarm another.
type place struct {
	engine  string
	prelude string
	cells   []*cell.Cell
	have    map[string]bool
}

func (p *place) sh(script string) (string, int, error) {
	return p.cells[0].Shell(p.prelude+script, most)
}

// open makes the cells of an engine and starts it.
func open(t *testing.T, engine string, rt oci.Runtime, root string, view cell.View, cri string) *place {
	t.Helper()
	p := &place{engine: engine, have: map[string]bool{}}
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	bind := map[string]string{
		"/run/given/tiny":       tree.Tiny(t),
		"/run/given/engines":    here,
		"/run/given/examples":   filepath.Join(here, "../../../examples"),
		"/run/tried/" + rt.Name: rt.Path,
	}
	if cri != "" {
		bind["/run/given/cri"] = cri
	}
	script := engine
	names := []string{"cell"}
	if engine == "swarm" {
		script, names = "docker", []string{"one", "two"}
	}
	for _, name := range names {
		c, err := cell.Open(cell.Options{Root: root, View: view, Bind: bind, Name: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		p.cells = append(p.cells, c)
	}
	p.prelude = fmt.Sprintf("TRIED=/run/tried/%s ARCH=%s\n. /run/given/engines/common.sh\n. /run/given/engines/%s.sh\n", rt.Name, runtime.GOARCH, script)
	also := ""
	if engine == "swarm" {
		also = "DOCKER_ALSO='-H tcp://0.0.0.0:2375'\n"
		if out, err := exec.Command("ip", "link", "add", "eth9", "netns", fmt.Sprint(p.cells[0].Pid), "type", "veth",
			"peer", "name", "eth9", "netns", fmt.Sprint(p.cells[1].Pid)).CombinedOutput(); err != nil {
			t.Fatalf("a cable between the nodes: %v\n%s", err, out)
		}
		for i, c := range p.cells {
			if out, status, err := c.Shell(fmt.Sprintf("ip addr add 10.9.0.%d/24 dev eth9 && ip link set eth9 up", i+1), most); status != 0 {
				t.Fatalf("the network of node %d: %v\n%s", i+1, err, out)
			}
		}
	}
	for i, c := range p.cells {
		if out, status, err := c.Shell(p.prelude+also+"furnish", most); err != nil || status != 0 {
			t.Fatalf("start %s, node %d: exit status %d, %v\n%s", engine, i+1, status, err, out)
		}
	}
	if engine == "swarm" {
		out, status, _ := p.sh("docker swarm init --advertise-addr 10.9.0.1 >/dev/null && docker swarm join-token -q worker")
		token := strings.TrimSpace(out)
		if status != 0 || token == "" {
			t.Fatalf("swarm init: %s", out)
		}
		if out, status, _ := p.sh("on2 docker swarm join --token " + token + " 10.9.0.1:2377 && await 30 says 'two.*Ready' docker node ls"); status != 0 {
			t.Fatalf("swarm join: %s", out)
		}
	}
	for what, test := range map[string]string{"v1": "[ -e /sys/fs/cgroup/memory/memory.limit_in_bytes ]", "cni": "[ -e /usr/lib/cni/bridge ]"} {
		_, status, err := p.cells[0].Shell(test, most)
		p.have[what] = err == nil && status == 0
	}
	return p
}

// result of an engine's checks.
type sum struct{ passed, failed, known, skipped int }

func (p *place) run(t *testing.T, checks []check, known map[string]string) (s sum) {
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			for _, o := range c.only {
				if !p.have[o] {
					s.skipped++
					t.Skipf("there is no %s here", o)
				}
			}
			start := time.Now()
			out, status, err := p.sh(c.command)
			wrong := c.wrong(out, status)
			if err != nil {
				wrong = err.Error()
			}
			reason, isKnown := known[c.name]
			switch {
			case wrong == "" && isKnown:
				s.failed++
				t.Errorf("it works, and the list says why it doesn't: %s", reason)
			case wrong == "":
				s.passed++
			case isKnown:
				s.known++
				t.Skipf("known: %s", reason)
			default:
				s.failed++
				t.Errorf("%s\ncommand: %s\n%s(%.1fs)", wrong, c.command, out, time.Since(start).Seconds())
			}
		})
	}
	return s
}

// TestEngines is the run; every day it is a sample, and where an engine isn't
// installed it is skipped.
func TestEngines(t *testing.T) {
	tree.NeedRoot(t)
	all, err := read(table)
	if err != nil {
		t.Fatalf("checks.txt: %v", err)
	}
	full := strings.Contains(os.Getenv("LAUNCH_TEST"), "engines")
	if testing.Short() && !full {
		t.Skip("it takes a minute")
	}
	rt := oci.Under(t)
	root, view, who := "", cell.Host, "debian"
	if v := os.Getenv("VIEW"); v != "" {
		view = cell.View(v)
	}
	if os.Getenv("ENGINES") == "peers" {
		root, view, who = tree.Peers(t), cell.Unified, "peers"
	}
	list := filepath.Join("known", rt.List()+"-"+who+"-"+string(view)+".txt")
	text, err := os.ReadFile(list)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	known, err := failures(string(text))
	if err != nil {
		t.Fatalf("%s: %v", list, err)
	}
	// Checks are taken in lanes of two engines, since they wait a lot.
	var mu sync.Mutex
	total := sum{}
	t.Run("engine", func(t *testing.T) {
		for _, engine := range engines {
			var mine []check
			for _, c := range all {
				if c.engine == engine && (full || c.everyday) && wanted(c.name) {
					mine = append(mine, c)
				}
			}
			if len(mine) == 0 {
				continue
			}
			t.Run(engine, func(t *testing.T) {
				for _, p := range needs[engine] {
					where := p
					if root != "" {
						where = filepath.Join(root, "usr/bin", p)
					}
					if _, err := exec.LookPath(where); err != nil {
						t.Skipf("no %s here: %v", engine, err)
					}
				}
				cri := ""
				if engine == "containerd" && full {
					cri = client(t)
				}
				t.Parallel()
				view := view
				if engine == "containerd" && os.Getenv("VIEW") == "" {
					// It gives each container cpu.shares, and podman takes
					// cgroup v1 no more: so both are not served by one view
					// where version 2 has no controllers.
					view = cell.Host
				}
				s := open(t, engine, rt, root, view, cri).run(t, mine, known)
				mu.Lock()
				defer mu.Unlock()
				total.passed, total.failed = total.passed+s.passed, total.failed+s.failed
				total.known, total.skipped = total.known+s.known, total.skipped+s.skipped
			})
		}
	})
	fmt.Printf("%s under %s's engines, %s cgroups: %d checks hold, %d don't, %d known, %d skipped\n",
		rt.Version, who, view, total.passed, total.failed, total.known, total.skipped)
}

// wanted lets CHECKS='p-* c-echo' run some alone.
func wanted(name string) bool {
	only := strings.Fields(os.Getenv("CHECKS"))
	return len(only) == 0 || slices.ContainsFunc(only, func(pattern string) bool {
		ok, _ := path.Match(pattern, name)
		return ok
	})
}

// TestTable reads the table and holds it against what this package promises.
func TestTable(t *testing.T) {
	all, err := read(table)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, c := range all {
		n[c.engine]++
	}
	for _, e := range engines {
		if n[e] < 5 {
			t.Errorf("%s has %d checks", e, n[e])
		}
	}
	for _, bad := range []string{
		"a :: podman :: true", "a :: lxc :: true :: 0 x", "a :: podman :: true :: x y", "a :: podman :: true :: 0",
		"a :: podman :: true :: 0 (", "a [v3] :: podman :: true :: 0 x", "a :: podman :: true :: 0 x\na :: podman :: true :: 0 x",
	} {
		if _, err := read(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	got, err := read("*a [v1] :: podman :: echo hi; exit 3 :: 3 ^hi$\nb :: docker :: x :: 0 !.")
	if err != nil || len(got) != 2 || !got[0].everyday || got[1].everyday || got[0].only[0] != "v1" {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, c := range []struct {
		check  int
		output string
		status int
		right  bool
	}{
		{0, "x\nhi\r\n", 3, true}, {0, "hi", 0, false}, {0, "hi there", 3, false}, {0, "", 3, false},
		{1, "", 0, true}, {1, "\n", 0, true}, {1, "word", 0, false}, {1, "", 1, false},
	} {
		if wrong := got[c.check].wrong(c.output, c.status); (wrong == "") != c.right {
			t.Errorf("%d %q %d: %q", c.check, c.output, c.status, wrong)
		}
	}
	if _, err := failures("a b"); err == nil {
		t.Error("a reason of one word is accepted")
	}
}
