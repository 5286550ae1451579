package bundles

import (
	_ "embed"
	"encoding/json"
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

//go:embed verbs.txt
var verbList string

//go:embed verbs-differences.txt
var verbDifferences string

// script is a case of verbs.txt: command lines for a bundle.
type script struct {
	bundle
	text string
}

func scripts(text string) ([]script, error) {
	var all []script
	for part := range strings.SplitSeq("\n"+text, "\n## ") {
		if len(all) == 0 && !strings.HasPrefix(text, "## ") && strings.HasPrefix(strings.TrimSpace(part), "#") {
			continue // what stands above the first
		}
		name, body, _ := strings.Cut(part, "\n")
		s := script{bundle: bundle{name: name, patch: map[string]any{}}, text: body}
		if patch, rest, ok := strings.Cut(body, "\n"); ok && strings.HasPrefix(patch, "config ") {
			s.text = rest
			if err := json.Unmarshal([]byte(strings.TrimPrefix(patch, "config ")), &s.patch); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		if slices.ContainsFunc(all, func(o script) bool { return o.name == name }) {
			return nil, fmt.Errorf("%s stands there twice", name)
		}
		all = append(all, s)
	}
	return all, nil
}

// config gives the config.json of a script: base.json with a process that
// waits, and the patch.
func (s script) config(base string) ([]byte, error) {
	waits := bundle{patch: map[string]any{"process": map[string]any{"args": []any{"sleep", "1000"}}}}
	text, err := waits.config(base)
	if err != nil {
		return nil, err
	}
	return s.bundle.config(string(text))
}

// facts reads what verbs.sh wrote.
func facts(text string) map[string]vector {
	all := map[string]vector{}
	var v vector
	for l := range strings.Lines(text) {
		l = strings.TrimSuffix(l, "\n")
		name, value, ok := strings.Cut(l, "\t")
		switch {
		case strings.HasPrefix(l, "@"):
			v = vector{}
			all[l[1:]] = v
		case ok && v != nil:
			v[name] = value
		case v != nil:
			v["wrote beside"] += l + " "
		}
	}
	return all
}

// TestVerbs runs the same command lines under all three. CASES='exec*' runs
// some, RUNTIME=… takes the place of launch-oci.
func TestVerbs(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "bundles") {
		t.Skip("slow: runs with LAUNCH_TEST=bundles (make bundles)")
	}
	tree.NeedRoot(t)
	rt := oci.Under(t)
	root := tree.Peers(t)
	all, err := scripts(verbList)
	if err != nil {
		t.Fatalf("verbs.txt: %v", err)
	}
	by, err := explanations(verbDifferences)
	if err != nil {
		t.Fatalf("verbs-differences.txt: %v", err)
	}
	only := strings.Fields(os.Getenv("CASES"))
	if len(only) > 0 {
		all = slices.DeleteFunc(all, func(s script) bool {
			return !slices.ContainsFunc(only, func(p string) bool { ok, _ := path.Match(p, s.name); return ok })
		})
	}
	dir := tree.Scratch(t)
	var views [2][]string
	for _, s := range all {
		config, err := s.config(base)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		for file, text := range map[string]string{s.name + ".json": string(config), s.name + ".sh": s.text} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		at := 0
		if strings.HasPrefix(s.name, "v1-") {
			at = 1
		}
		views[at] = append(views[at], s.name)
	}
	peers := [][2]string{{"runc", "/usr/sbin/runc"}, {"crun", "/usr/bin/crun"}, {"tried", rt.Path}}
	results := map[string]map[string]vector{}
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, p := range peers {
		wait.Go(func() {
			got := map[string]vector{}
			for i, view := range []cell.View{cell.Unified, cell.Host} {
				if len(views[i]) == 0 || i == 1 && p[0] == "crun" {
					continue
				}
				c, program := open(t, p[0], p[1], "verbs.sh", root, view, map[string]string{"/run/given/verbs": dir})
				if c == nil {
					continue
				}
				out, status, err := c.Shell("bash /run/given/verbs.sh "+p[0]+" "+program+" "+strings.Join(views[i], " "), 10*time.Minute)
				if err != nil || status != 0 {
					t.Errorf("%s: %d %v\n%s", p[0], status, err, lastLine(out))
				}
				for k, v := range facts(out) {
					got[k] = v
				}
			}
			mu.Lock()
			defer mu.Unlock()
			results[p[0]] = got
		})
	}
	wait.Wait()
	seen, known := 0, 0
	for _, s := range all {
		t.Run(s.name, func(t *testing.T) {
			var vs []vector
			for _, p := range peers {
				// One that takes no part can't disagree.
				from := p[0]
				switch model, _, _ := strings.Cut(s.name, "-"); {
				case from == "tried":
				case model == "v1":
					from = "runc"
				case model == "runc", model == "crun":
					from = model
				}
				v, ok := results[from][s.name]
				if !ok {
					t.Fatalf("nothing came of it under %s", from)
				}
				vs = append(vs, v)
			}
			seen += len(vs[2])
			for _, d := range differ(s.name, vs...) {
				_, d.fact, _ = strings.Cut(d.fact, " ") // without its number
				switch {
				case !d.alone():
				case explained(d, by) != nil:
					known++
				default:
					t.Error(d)
				}
			}
		})
	}
	for _, e := range by {
		if e.used == 0 && len(only) == 0 {
			t.Errorf("verbs-differences.txt:%d explains nothing any more", e.line)
		}
	}
	fmt.Printf("%d command lines, %d of them otherwise than under both others\n", seen, known)
}
