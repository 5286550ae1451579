package rules

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// listed is what `go list` says about a package.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Module     *struct{ Path string }
	Error      *struct{ Err string }
}

const root = "../.."

// list asks the go command for every package of the module and all they need.
func list(t *testing.T, arch, tags string) []listed {
	t.Helper()
	c := exec.Command("go", "list", "-e", "-deps", "-tags", tags,
		"-json=ImportPath,Dir,GoFiles,Imports,Module,Error", "./...")
	c.Dir = root
	c.Env = append(os.Environ(), "GOARCH="+arch, "GOOS=linux", "CGO_ENABLED=0")
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	var all []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var l listed
		if err := d.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
	}
	return all
}

// functions gives the exported functions (not methods) of a package.
func functions(t *testing.T, l listed) map[string]bool {
	t.Helper()
	m := map[string]bool{}
	for _, name := range l.GoFiles {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(l.Dir, name), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.IsExported() {
				m[fn.Name.Name] = true
			}
		}
	}
	return m
}

// TestHouse holds every package of the module against the rules, for both
// architectures, in the ordinary and in the fault build.
func TestHouse(t *testing.T) {
	found := map[string]breach{}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, tags := range []string{"", "faults"} {
			all := list(t, arch, tags)
			kernel := calls{}
			graph := map[string][]string{}
			for _, l := range all {
				graph[l.ImportPath] = l.Imports
				switch l.ImportPath {
				case "os", "syscall", "golang.org/x/sys/unix":
					kernel[l.ImportPath] = functions(t, l)
				}
			}
			if len(kernel["golang.org/x/sys/unix"]) < 300 || len(kernel["os"]) < 50 {
				t.Fatalf("found only %d functions of x/sys/unix and %d of os: the rule about system calls would hold nothing",
					len(kernel["golang.org/x/sys/unix"]), len(kernel["os"]))
			}
			n := 0
			for _, l := range all {
				if l.Module == nil || l.Module.Path != "launch" || len(l.GoFiles) == 0 {
					continue // others' packages, and packages with nothing but tests
				}
				n++
				p := pkg{path: strings.TrimPrefix(l.ImportPath, "launch/"), imports: l.Imports, fset: token.NewFileSet()}
				for _, name := range l.GoFiles {
					path, err := filepath.Rel(mustAbs(t, root), filepath.Join(l.Dir, name))
					if err != nil {
						t.Fatal(err)
					}
					src, err := os.ReadFile(filepath.Join(root, path))
					if err != nil {
						t.Fatal(err)
					}
					f, err := parser.ParseFile(p.fset, path, src, parser.ParseComments|parser.SkipObjectResolution)
					if err != nil {
						t.Errorf("%v", err)
						continue
					}
					p.files = append(p.files, f)
				}
				for _, b := range check(p, kernel) {
					found[b.String()] = b
				}
			}
			if n < 5 {
				t.Fatalf("go list found only %d packages", n)
			}
			for _, b := range links(graph) {
				found[b.String()] = b
			}
		}
	}
	text, err := os.ReadFile("testdata/allow.txt")
	if err != nil {
		t.Fatal(err)
	}
	left, faults := forgive(found, string(text), ceiling)
	for _, s := range faults {
		t.Errorf("testdata/allow.txt: %s", s)
	}
	for _, s := range left {
		t.Error(s)
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// ceiling is how many exceptions there may be. It goes down with the list, and
// up never without a good reason in the commit.
const ceiling = 2

// forgive drops the breaches that the list allows, and finds fault with the
// list: lines that nothing needs any more, lines without a reason, too many.
func forgive(found map[string]breach, text string, ceiling int) (left, faults []string) {
	type key struct{ rule, path, symbol string }
	used := map[key]bool{}
	lines := 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		lines++
		f := strings.Fields(line)
		if len(f) < 6 {
			faults = append(faults, fmt.Sprintf("%q: want RULE PACKAGE SYMBOL and a reason in words", line))
			continue
		}
		used[key{f[0], f[1], f[2]}] = false
	}
	for s, b := range found {
		k := key{b.rule, b.path, b.symbol}
		if _, ok := used[k]; ok {
			used[k] = true
			continue
		}
		left = append(left, s)
	}
	for k, u := range used {
		if !u {
			faults = append(faults, fmt.Sprintf("%s %s %s: nothing needs this line any more, remove it", k.rule, k.path, k.symbol))
		}
	}
	if lines > ceiling {
		faults = append(faults, fmt.Sprintf("%d exceptions, at most %d: the list may only shrink", lines, ceiling))
	}
	slices.Sort(left)
	slices.Sort(faults)
	return left, faults
}

// TestRed feeds each rule with a package that breaks it, and one that nearly
// does.
func TestRed(t *testing.T) {
	kernel := calls{
		"golang.org/x/sys/unix": set("Open Mkdir Major Kill Geteuid"),
		"os":                    set("Open ReadFile Getenv Exit"),
		"syscall":               set("Open Exec"),
	}
	doc := func(room string) string {
		return "// Package x is for the test.\n//\n// Room: " + room + ".\npackage x\n"
	}
	many := ""
	for i := range bigMap + 1 {
		many += fmt.Sprintf("%d: true,", i)
	}
	for _, c := range []struct {
		name, path, src string
		want            string // "rule symbol", or "" where nothing is wrong
	}{
		{"new package", "internal/util", doc("host"), "row "},
		{"no doc", "mount", "package x", "room "},
		{"doc without a room", "mount", "// Package x.\npackage x", "room "},
		{"two rooms", "mount", "// Room: paper.\n// Room: host.\npackage x", "room "},
		{"wrong room", "mount", doc("host"), "room host"},
		{"no such room", "internal/itest", doc("kitchen"), "room kitchen"},
		{"right room", "mount", doc("paper"), ""},

		{"import upward", "mount", doc("paper") + `import _ "launch/mount/attach"`, "floor mount/attach"},
		{"import tests", "internal/cli", doc("desk") + `import _ "launch/internal/itest"`, "floor internal/itest"},
		{"import downward", "mount/attach", doc("host") + `import _ "launch/mount"`, ""},
		{"import level", "settings", doc("paper") + `import _ "launch/mount"`, ""},

		{"paper with os", "mount", doc("paper") + `import _ "os"`, "paper os"},
		{"paper with sys", "mount", doc("paper") + `import _ "launch/internal/sys"`, "paper launch/internal/sys"},
		{"paper with net", "mount", doc("paper") + `import _ "net"`, "paper net"},
		{"paper with os/exec", "mount", doc("paper") + `import _ "os/exec"`, "paper os/exec"},
		{"paper with addresses", "mount", doc("paper") + `import _ "net/netip"`, ""},
		{"paper asks the time", "mount", doc("paper") + `import "time"; var f = time.Now`, "paper time.Now"},
		{"paper has a duration", "mount", doc("paper") + `import "time"; const d = time.Second`, ""},
		{"paper walks", "mount", doc("paper") + `import fp "path/filepath"; func f() { fp.Glob("*") }`, "paper filepath.Glob"},
		{"paper cleans", "mount", doc("paper") + `import "path/filepath"; func f() { filepath.Clean("") }`, ""},

		{"host prints", "mount/attach", doc("host") + `import "fmt"; func f() { fmt.Println() }`, "print fmt.Println"},
		{"host formats", "mount/attach", doc("host") + `import "fmt"; func f() { fmt.Sprintln() }`, ""},
		{"host has standard error", "mount/attach", doc("host") + `import "os"; var w = os.Stderr`, "print os.Stderr"},
		{"host exits", "mount/attach", doc("host") + `import "os"; func f() { os.Exit(1) }`, "print os.Exit"},
		{"host prints for debugging", "mount/attach", doc("host") + `func f() { println() }`, "print println"},
		{"host logs", "mount/attach", doc("host") + `import _ "log/slog"`, "import log/slog"},
		{"desk prints and exits", "cmd/launch", doc("desk") + `import ("fmt"; "os"); func f() { fmt.Println(); os.Exit(1) }`, ""},

		{"direct system call", "mount/attach", doc("host") + `import "golang.org/x/sys/unix"; func f() { unix.Open("", 0, 0) }`, "syscall unix.Open"},
		{"renamed import", "mount/attach", doc("host") + `import u "golang.org/x/sys/unix"; var f = u.Mkdir`, "syscall unix.Mkdir"},
		{"desk calls the kernel", "cmd/launch", doc("desk") + `import "golang.org/x/sys/unix"; func f() { unix.Kill(1, 9) }`, "syscall unix.Kill"},
		{"host opens by os", "mount/attach", doc("host") + `import "os"; func f() { os.ReadFile("") }`, "syscall os.ReadFile"},
		{"constant and type", "mount/attach", doc("host") + `import "golang.org/x/sys/unix"; var f = unix.Errno(unix.EPERM)`, ""},
		{"function that computes", "mount/attach", doc("host") + `import "golang.org/x/sys/unix"; var f = unix.Major(1)`, ""},
		{"host asks who it is", "mount/attach", doc("host") + `import "golang.org/x/sys/unix"; var f = unix.Geteuid`, ""},
		{"paper asks who it is", "mount", doc("paper") + `import "golang.org/x/sys/unix"; var f = unix.Geteuid`, "syscall unix.Geteuid"},
		{"sys calls", "internal/sys", doc("base") + `import "golang.org/x/sys/unix"; func f() { unix.Open("", 0, 0) }`, ""},

		{"init", "mount", doc("paper") + `func init() {}`, "start init"},
		{"method init", "mount", doc("paper") + `type x int; func (x) init() {}`, ""},
		{"big map", "mount", doc("paper") + `var m = map[int]bool{` + many + `}`, "start map"},
		{"big map of a named type", "mount", doc("paper") + `type mm map[int]bool; var m = mm{` + many + `}`, "start map"},
		{"big map in a function", "mount", doc("paper") + `func f() { _ = map[int]bool{` + many + `} }`, ""},
		{"small map", "mount", doc("paper") + `var m = map[int]bool{1: true}`, ""},
		{"regular expression", "mount", doc("paper") + `import "regexp"; var r = regexp.MustCompile("a")`, "start regexp.MustCompile"},
		{"regular expression when needed", "mount", doc("paper") + `import "regexp"; var r = func() any { return regexp.MustCompile("a") }`, ""},

		{"descriptor of a thread", "mount/attach", doc("host") + "var p = `/proc/thread-self/fd/3`", "thread thread-self/fd"},
		{"descriptor of the process", "mount/attach", doc("host") + "var p = `/proc/self/fd/3`", ""},

		{"linkname", "mount", doc("paper") + "//go:linkname f runtime.f\nfunc f()", "linkname "},
		{"linkname in child", "internal/child", doc("child") + "//go:linkname f runtime.f\nfunc f()", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, "x.go", c.src, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			p := pkg{path: c.path, files: []*ast.File{f}, fset: fset}
			for _, path := range imported(f) {
				p.imports = append(p.imports, path)
			}
			for _, i := range f.Imports {
				if i.Name != nil && i.Name.Name == "_" {
					p.imports = append(p.imports, strings.Trim(i.Path.Value, `"`))
				}
			}
			slices.Sort(p.imports)
			p.imports = slices.Compact(p.imports)
			var got []string
			for _, b := range check(p, kernel) {
				got = append(got, b.rule+" "+b.symbol)
			}
			if c.want == "" && len(got) > 0 {
				t.Errorf("found %q in a package that breaks no rule", got)
			}
			if c.want != "" && !slices.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

// TestLean sees a banned package through two others, and no package that isn't
// linked.
func TestLean(t *testing.T) {
	graph := map[string][]string{
		"launch/cmd/launch":   {"a", "net"},
		"a":                   {"b"},
		"b":                   {"net/http"},
		"launch/cmd/somemore": {"text/template"},
	}
	got := links(graph)
	if len(got) != 1 || got[0].symbol != "net/http" || !strings.Contains(got[0].advice, "a → b → net/http") {
		t.Errorf("links = %v", got)
	}
}

// TestForgive holds the list of exceptions itself: it forgives what it names,
// and grows neither old nor long.
func TestForgive(t *testing.T) {
	found := map[string]breach{"x": {rule: "syscall", path: "mount/attach", symbol: "unix.Open"}}
	for _, c := range []struct {
		name, text   string
		left, faults int
	}{
		{"empty list", "# nothing\n", 1, 0},
		{"forgiven", "syscall mount/attach unix.Open because it must\n", 0, 0},
		{"another symbol", "syscall mount/attach unix.Mkdir because it must\n", 1, 1},
		{"no reason", "syscall mount/attach unix.Open\n", 1, 1},
		{"too many", "syscall mount/attach unix.Open because it must\nprint mount/attach fmt.Print because it must\n", 0, 2},
	} {
		left, faults := forgive(found, c.text, 1)
		if len(left) != c.left || len(faults) != c.faults {
			t.Errorf("%s: left %q, faults %q", c.name, left, faults)
		}
	}
}

// foreign matches paths of the machine that somebody happened to write the
// text on. (Overlays have a directory "work", so the word alone is fine.)
var foreign = regexp.MustCompile(`(^|[^A-Za-z0-9_./-])/wo` + `rk/(main|shared)\b`)

// TestPaths: no committed text names a path of its author's machine.
func TestPaths(t *testing.T) {
	c := exec.Command("git", "-c", "safe.directory=*", "ls-files", "-z")
	c.Dir = root
	out, err := c.Output()
	if err != nil {
		t.Skipf("git ls-files: %v (not a checkout)", err)
	}
	names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if len(names) < 10 {
		t.Fatalf("git lists only %d files", len(names))
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil || bytes.IndexByte(text, 0) >= 0 {
			continue // removed in the working tree, or no text
		}
		for _, m := range leaks(string(text)) {
			t.Errorf("%s: %s", name, m)
		}
	}
}

// leaks gives the lines of a text that name a foreign path.
func leaks(text string) []string {
	var out []string
	n := 0
	for line := range strings.Lines(text) {
		n++
		if foreign.MatchString(line) {
			out = append(out, fmt.Sprintf("line %d names a path of somebody's machine: %s", n, strings.TrimSpace(line)))
		}
	}
	return out
}

func TestLeaks(t *testing.T) {
	bad := "see /wo" + "rk/main/mount\n(/wo" + "rk/shared)\n"
	if got := leaks(bad); len(got) != 2 {
		t.Errorf("leaks found %q", got)
	}
	good := "upper=/run/x/work,lower=/work\n/workspace and /tmp/launch\nx/work/main\n"
	if got := leaks(good); len(got) != 0 {
		t.Errorf("leaks found %q in an innocent text", got)
	}
}
