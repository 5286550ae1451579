package bundles

import (
	_ "embed"
	"fmt"
	"os"
	"path"
	"path/filepath"
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

//go:embed base.json
var base string

//go:embed cases.txt
var list string

//go:embed differences.txt
var differences string

// open opens a cell for a runtime, with the tiny tree, a script and more, and
// gives the runtime's path in it. The cell ends with the test.
func open(t *testing.T, name, program, script, root string, view cell.View, bind map[string]string) (*cell.Cell, string) {
	path, err := filepath.Abs(script)
	if err != nil {
		t.Fatal(err)
	}
	bind["/run/given/"+script], bind["/run/given/tiny"] = path, tree.Tiny(t)
	if filepath.Dir(program) != "/usr/bin" && filepath.Dir(program) != "/usr/sbin" {
		bind["/run/tried/"+name] = program
		program = "/run/tried/" + name
	}
	c, err := cell.Open(cell.Options{Root: root, View: view, Bind: bind})
	if err != nil {
		t.Error(err)
		return nil, ""
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, program
}

// runUnder runs the bundles under one runtime, in a cell of its own.
func runUnder(t *testing.T, name, program, root, dir string, view cell.View, all []bundle) map[string]outcome {
	c, program := open(t, name, program, "drive.sh", root, view, map[string]string{"/run/given/bundles": dir})
	if c == nil {
		return nil
	}
	script := "bash /run/given/drive.sh " + name + " " + program
	for _, b := range all {
		script += " " + b.name
	}
	if out, status, err := c.Shell(script, 40*time.Minute); err != nil || status != 0 {
		t.Errorf("%s: %d %v\n%s", name, status, err, out)
	}
	read := func(file string) string {
		text, err := os.ReadFile(filepath.Join(c.Path("/run/results"), name, file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		return string(text)
	}
	ns := map[string]string{}
	for l := range strings.Lines(read("ns")) {
		if f := strings.Fields(l); len(f) == 2 {
			ns[f[0]] = f[1]
		}
	}
	results := map[string]outcome{}
	for _, b := range all {
		o := outcome{out: read(b.name + ".out"), errors: read(b.name + ".err"), ns: ns, status: -1}
		fmt.Sscan(read(b.name+".status"), &o.status)
		// The container and the files are named after the runtime.
		o.out = strings.NewReplacer(name+"-b", "ID", "/run/results/"+name+"/", "/run/results/").Replace(o.out)
		results[b.name] = o
	}
	return results
}

// TestBundles is the run. RUNTIME=… takes the place of launch-oci, and
// RUNTIME=none compares the two others alone. CASES='mount-* random-00007'
// runs some.
func TestBundles(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "bundles") {
		t.Skip("slow: runs with LAUNCH_TEST=bundles (make bundles)")
	}
	tree.NeedRoot(t)
	third := os.Getenv("RUNTIME") != "none"
	var rt oci.Runtime
	if third {
		rt = oci.Under(t)
	}
	root := tree.Peers(t)
	all, err := cases(list)
	if err != nil {
		t.Fatalf("cases.txt: %v", err)
	}
	by, err := explanations(differences)
	if err != nil {
		t.Fatalf("differences.txt: %v", err)
	}
	if only := strings.Fields(os.Getenv("CASES")); len(only) > 0 {
		all = slices.DeleteFunc(all, func(b bundle) bool {
			return !slices.ContainsFunc(only, func(p string) bool { ok, _ := path.Match(p, b.name); return ok })
		})
	}
	chance := 200
	if n := os.Getenv("BUNDLES"); n != "" {
		if _, err := fmt.Sscan(n, &chance); err != nil {
			t.Fatalf("BUNDLES=%s: %v", n, err)
		}
	}
	if len(os.Getenv("CASES")) == 0 || os.Getenv("CASES") == "random" {
		for i := range chance {
			all = append(all, random(uint64(i)))
		}
	}
	for _, name := range strings.Fields(os.Getenv("CASES")) {
		var n uint64
		if _, err := fmt.Sscanf(name, "random-%d", &n); err == nil {
			all = append(all, random(n))
		}
	}
	type peer struct{ name, path string }
	peers := []peer{{"runc", "/usr/sbin/runc"}, {"crun", "/usr/bin/crun"}}
	if third {
		peers = append(peers, peer{"tried", rt.Path})
	}
	var report strings.Builder
	fmt.Fprintf(&report, "# BUNDLE | FACT | %s\n", strings.Join(func() (s []string) {
		for _, p := range peers {
			s = append(s, p.name)
		}
		return s
	}(), " | "))
	same, known, unknown, peersDiffer := 0, 0, 0, 0
	// A few hundred at a time, since what comes out of each is kept in memory.
	for some := range slices.Chunk(all, 500) {
		dir := tree.Scratch(t)
		var v1, v2 []bundle
		for _, b := range some {
			text, err := b.config(base)
			if err != nil {
				t.Fatalf("%s: %v", b.name, err)
			}
			if err := os.Mkdir(filepath.Join(dir, b.name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, b.name, "config.json"), text, 0o644); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(b.name, "v1-") {
				v1 = append(v1, b)
			} else {
				v2 = append(v2, b)
			}
		}
		results := map[string]map[string]outcome{}
		var mu sync.Mutex
		var wait sync.WaitGroup
		for _, p := range peers {
			wait.Go(func() {
				got := runUnder(t, p.name, p.path, root, dir, cell.Unified, v2)
				if p.name != "crun" && len(v1) > 0 {
					for k, v := range runUnder(t, p.name, p.path, root, dir, cell.Host, v1) {
						got[k] = v
					}
				}
				mu.Lock()
				defer mu.Unlock()
				results[p.name] = got
			})
		}
		wait.Wait()
		if len(results["runc"]) == 0 {
			return
		}
		for _, b := range some {
			t.Run(b.name, func(t *testing.T) {
				var vs []vector
				for _, p := range peers {
					o, ok := results[p.name][b.name]
					if !ok { // crun, where it takes no part: it can't disagree
						o = results["runc"][b.name]
					}
					vs = append(vs, o.facts())
				}
				ds := differ(b.name, vs...)
				if len(ds) == 0 {
					same++
				}
				for _, d := range ds {
					e := (*explanation)(nil)
					if third {
						e = explained(d, by)
					}
					fmt.Fprintln(&report, d)
					if d.fact == "started" {
						for _, p := range peers {
							if o, ok := results[p.name][b.name]; ok {
								fmt.Fprintf(&report, "#    %s: %s\n", p.name, lastLine(o.errors))
							}
						}
					}
					switch {
					case e != nil:
						known++
						fmt.Fprintf(&report, "#    %s\n", e.reason)
					case third && d.alone():
						unknown++
						t.Errorf("%s\n%s", d, lastLine(results["tried"][b.name].errors))
					default:
						peersDiffer++
					}
				}
			})
		}
	}
	if len(os.Getenv("CASES")) == 0 && third {
		for _, e := range by {
			// What takes thousands of random ones to show itself need not show now.
			if e.used == 0 && (chance >= 10000 || !strings.HasPrefix(e.fields[0], "random-")) {
				t.Errorf("differences.txt:%d explains nothing any more", e.line)
			}
		}
	}
	if p := os.Getenv("REPORT"); p != "" {
		if err := os.WriteFile(p, []byte(report.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
	fmt.Printf("%d bundles, %d the same under all; differences: %d between the peers, %d explained, %d unexplained\n", len(all), same, peersDiffer, known, unknown)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestCases(t *testing.T) {
	all, err := cases(list)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 200 {
		t.Errorf("only %d cases", len(all))
	}
	seen := map[string]string{}
	for _, b := range all {
		text, err := b.config(base)
		if err != nil {
			t.Errorf("%s: %v", b.name, err)
		}
		if twin := seen[string(text)]; twin != "" && !strings.HasPrefix(b.name, "v1-") {
			t.Errorf("%s is the same as %s", b.name, twin)
		}
		seen[string(text)] = b.name
	}
	if _, err := explanations(differences); err != nil {
		t.Error(err)
	}
}

func TestMerge(t *testing.T) {
	b := bundle{patch: map[string]any{"a": nil, "b": map[string]any{"c": 1.0}, "l+": []any{"y"}, "new": map[string]any{"x": nil, "z": "z"}}}
	got, err := b.config(`{"a":1,"b":{"c":2,"d":12345678901234567},"l":["x"]}`)
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.Join(strings.Fields(string(got)), ""); s != `{"b":{"c":1,"d":12345678901234567},"l":["x","y"],"new":{"z":"z"}}` {
		t.Error(s)
	}
}

func TestDiffer(t *testing.T) {
	yes := func(k, v string) vector { return vector{"started": "yes", "exit status": "0", k: v} }
	ds := differ("b", yes("x", "1"), yes("x", "1"), yes("x", "2"))
	if len(ds) != 1 || !ds[0].alone() || ds[0].String() != "b | x | 1 | 1 | 2" {
		t.Errorf("%v", ds)
	}
	if ds = differ("b", yes("x", "1"), yes("x", "2"), yes("x", "2")); len(ds) != 1 || ds[0].alone() {
		t.Errorf("%v", ds)
	}
	if ds = differ("b", yes("x", "1"), vector{"started": "no", "exit status": "1"}); len(ds) != 2 || ds[1].fact != "started" {
		t.Errorf("%v", ds)
	}
	by, err := explanations("# words\nb* | x | * | 1 | 2 | the specification says so\n")
	if err != nil || explained(differ("b1", yes("x", "0"), yes("x", "1"), yes("x", "2"))[0], by) == nil || explained(differ("b1", yes("x", "0"), yes("x", "1"), yes("x", "3"))[0], by) != nil {
		t.Error("explanations don't fit", err)
	}
	for _, bad := range []string{"a | b | c | d | e", "a | b | c | d | e | why", "a"} {
		if _, err := explanations(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
