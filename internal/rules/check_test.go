package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"slices"
	"strconv"
	"strings"
)

// pkg is a package as the rules see it: its path below the module, what it
// imports, and its files without the tests.
type pkg struct {
	path    string
	imports []string
	files   []*ast.File
	fset    *token.FileSet
}

// breach is one broken rule. rule, path and symbol together are what a line of
// testdata/allow.txt names.
type breach struct {
	rule, path, symbol string
	pos                string
	advice             string
}

func (b breach) String() string {
	s := b.rule + ": " + b.path
	if b.pos != "" {
		s = b.pos + ": " + s
	}
	if b.symbol != "" {
		s += ": " + b.symbol
	}
	return s + ": " + b.advice
}

// calls are the functions of the packages that reach the kernel, by import
// path.
type calls map[string]map[string]bool

// pure are the functions among them that only compute.
var pure = calls{
	"golang.org/x/sys/unix": set(`BytePtrFromString BytePtrToString ByteSliceFromString ByteSliceToString
		CmsgLen CmsgSpace ErrnoName Major Minor Mkdev NewIfreq NsecToTimespec NsecToTimeval ParseDirent
		ParseOneSocketControlMessage ParseSocketControlMessage ParseUnixCredentials ParseUnixRights SignalName SignalNum
		TimespecToNsec TimeToTimespec TimevalToNsec UnixCredentials UnixRights`),
	"syscall": set(`BytePtrFromString ByteSliceFromString NsecToTimespec NsecToTimeval TimespecToNsec TimevalToNsec
		ParseDirent ParseSocketControlMessage ParseUnixRights UnixRights Getenv Environ`),
	"os": set(`Getenv LookupEnv Environ Expand ExpandEnv IsExist IsNotExist IsPermission IsTimeout IsPathSeparator NewSyscallError`),
}

// harmless are calls that change nothing and can't fail, so that counting them
// would be of no use. Paper doesn't make them all the same.
var harmless = calls{
	"golang.org/x/sys/unix": set("Getpid Getppid Gettid Getuid Geteuid Getgid Getegid Getpagesize"),
	"os":                    set("Getpid Getppid Getuid Geteuid Getgid Getegid Getpagesize"),
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// check holds one package against every rule that looks at a single package.
func check(p pkg, kernel calls) []breach {
	r, ok := place(p.path)
	if !ok {
		return []breach{{rule: "row", path: p.path,
			advice: "this package has no place in the house: give it a row (floor and room) in internal/rules/house_test.go, or merge it with the package it always changes with"}}
	}
	var out []breach
	add := func(rule, symbol string, at token.Pos, advice string) {
		b := breach{rule: rule, path: p.path, symbol: symbol, advice: advice}
		if at.IsValid() {
			b.pos = p.fset.Position(at).String()
		}
		out = append(out, b)
	}
	checkRoom(p, r, add)
	checkImports(p, r, add)
	for _, f := range p.files {
		checkUses(f, r, kernel, add)
		checkStart(f, r, add)
		checkLinkname(f, r, add)
		checkThread(f, add)
	}
	return out
}

type adder func(rule, symbol string, at token.Pos, advice string)

// checkRoom: the package says itself which room it is.
func checkRoom(p pkg, r row, add adder) {
	var said []string
	doc := false
	for _, f := range p.files {
		if f.Doc == nil {
			continue
		}
		doc = true
		for line := range strings.Lines(f.Doc.Text()) {
			if word, ok := strings.CutPrefix(strings.TrimSpace(line), "Room: "); ok {
				said = append(said, strings.TrimSuffix(word, "."))
			}
		}
	}
	switch {
	case !doc:
		add("room", "", 0, "the package has no doc: say what it guarantees, what it refuses to know, and `Room: "+orAny(r.room)+".`")
	case len(said) != 1:
		add("room", "", 0, fmt.Sprintf("the package doc has %d lines `Room: …`, it needs one: `Room: %s.`", len(said), orAny(r.room)))
	case !slices.Contains(rooms, said[0]):
		add("room", said[0], 0, "there is no such room; there are "+strings.Join(rooms, ", "))
	case r.room != "" && said[0] != r.room:
		add("room", said[0], 0, "the table in internal/rules/house_test.go says "+r.room)
	}
}

func orAny(room string) string {
	if room == "" {
		return "test"
	}
	return room
}

// checkImports: nothing reaches up, and paper reaches nothing that asks or
// changes the world.
func checkImports(p pkg, r row, add adder) {
	for _, path := range p.imports {
		if own, ok := strings.CutPrefix(path, "launch/"); ok {
			to, ok := place(own)
			if ok && to.floor > r.floor {
				add("floor", own, 0, fmt.Sprintf("%s is on the floor %q, above %q: move the shared type down, or the work up", own, to.floor, r.floor))
			}
		}
		if r.room == "paper" && worldly(path) {
			add("paper", path, 0, "paper asks and changes nothing: take the answer as an argument (a fact, a reader, bytes)")
		}
		if (r.room == "host" || r.room == "engine") && (path == "os/exec" || path == "log" || path == "log/slog") {
			add("import", path, 0, "host rooms start programs through package child or sys, and return errors instead of logging")
		}
	}
}

// worldly are the imports with which a package could reach the world. Packages
// that have both sides (time, path/filepath, io/fs) are held by name of
// function, in checkUses.
func worldly(path string) bool {
	switch path {
	case "os", "syscall", "net", "log", "log/slog", "crypto/rand", "plugin", "io/ioutil", "launch/internal/sys", "launch/internal/child":
		return true
	case "net/netip", "net/url", "net/mail", "net/textproto":
		return false
	}
	return strings.HasPrefix(path, "os/") || strings.HasPrefix(path, "net/")
}

// twofold are the functions that reach the world, of packages that otherwise
// only compute.
var twofold = calls{
	"time":          set("Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker LoadLocation"),
	"path/filepath": set("Abs EvalSymlinks Glob Walk WalkDir"),
	"io/fs":         set("ReadFile ReadDir Stat WalkDir Glob Sub ReadLink Lstat"),
}

// checkUses looks at each pkg.Name in a file.
func checkUses(f *ast.File, r row, kernel calls, add adder) {
	if r.floor == tests {
		return
	}
	names := imported(f)
	calling := r.room == "base" || r.room == "child"
	ast.Inspect(f, func(n ast.Node) bool {
		if c, ok := n.(*ast.CallExpr); ok && r.room != "desk" {
			if id, ok := c.Fun.(*ast.Ident); ok && (id.Name == "print" || id.Name == "println") {
				add("print", id.Name, id.Pos(), "only a desk prints: return an error or a value")
			}
		}
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		id, ok := s.X.(*ast.Ident)
		if !ok || names[id.Name] == "" {
			return true
		}
		path, name := names[id.Name], s.Sel.Name
		full := path[strings.LastIndexByte(path, '/')+1:] + "." + name
		if r.room != "desk" {
			switch {
			case path == "fmt" && (name == "Print" || name == "Printf" || name == "Println"),
				path == "os" && (name == "Exit" || name == "Stdout" || name == "Stderr"),
				path == "log":
				add("print", full, s.Pos(), "only a desk (internal/cli, cmd/…) prints or exits: return an error or a value")
				return true
			}
		}
		if r.room == "paper" && twofold[path][name] {
			add("paper", full, s.Pos(), "paper neither asks the time nor looks at files: take the answer as an argument")
		}
		if !calling && kernel[path][name] && !pure[path][name] {
			if path == "os" && r.room == "desk" || harmless[path][name] && r.room != "paper" {
				return true
			}
			add("syscall", full, s.Pos(), "system calls are made by package sys, one function each, so that fault runs can count them and let them fail")
		}
		return true
	})
}

// imported gives the import path behind each name that the file can use.
func imported(f *ast.File) map[string]string {
	m := map[string]string{}
	for _, i := range f.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue
		}
		name := path[strings.LastIndexByte(path, '/')+1:]
		if i.Name != nil {
			name = i.Name.Name
		}
		m[name] = path
	}
	return m
}

// bigMap is the number of entries from which a map literal at package level is
// too much: it is built at every start, while a static array of structs is
// data in the file.
const bigMap = 8

// checkStart: nothing is worked out before main.
func checkStart(f *ast.File, r row, add adder) {
	if r.floor == tests {
		return
	}
	names := imported(f)
	maps := map[string]bool{} // this file's named map types
	for _, d := range f.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			for _, s := range g.Specs {
				if t, ok := s.(*ast.TypeSpec); ok {
					if _, ok := t.Type.(*ast.MapType); ok {
						maps[t.Name.Name] = true
					}
				}
			}
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				add("start", "init", d.Pos(), "no work before main: do it where it is needed, on the first need")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			ast.Inspect(d, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncLit:
					return false // runs later
				case *ast.CompositeLit:
					_, isMap := n.Type.(*ast.MapType)
					if id, ok := n.Type.(*ast.Ident); ok {
						isMap = maps[id.Name]
					}
					if isMap && len(n.Elts) > bigMap {
						add("start", "map", n.Pos(), fmt.Sprintf("a map of %d entries is built at each start: use an array of structs and search it", len(n.Elts)))
					}
				case *ast.CallExpr:
					s, ok := n.Fun.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					id, ok := s.X.(*ast.Ident)
					if !ok {
						return true
					}
					switch path := names[id.Name]; {
					case path == "regexp", path == "text/template", path == "html/template",
						path == "hash/crc32" && s.Sel.Name == "MakeTable", path == "hash/crc64" && s.Sel.Name == "MakeTable":
						add("start", id.Name+"."+s.Sel.Name, n.Pos(), "compiled at each start, needed or not: write the few lines by hand, or do it on the first need")
					}
				}
				return true
			})
		}
	}
}

// checkThread finds descriptors that are named by the thread, see sys.FdPath.
func checkThread(f *ast.File, add adder) {
	ast.Inspect(f, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING && strings.Contains(l.Value, "thread-self/fd") {
			add("thread", "thread-self/fd", l.Pos(), "it makes ends slower, and all threads have the same descriptors: name it by sys.FdPath")
		}
		return true
	})
}

// checkLinkname: the runtime's private parts are touched in one place only.
func checkLinkname(f *ast.File, r row, add adder) {
	if r.room == "child" || r.room == "base" {
		return
	}
	for _, g := range f.Comments {
		for _, c := range g.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				add("linkname", "", c.Pos(), "only packages sys and child reach into the runtime")
			}
		}
	}
}

// links gives the breaches of the lean table, from the whole import graph
// (import path → imports).
func links(graph map[string][]string) []breach {
	var out []breach
	for _, l := range lean {
		start := "launch/" + l.program
		if graph[start] == nil {
			continue
		}
		from := map[string]string{start: ""}
		queue := []string{start}
		for len(queue) > 0 {
			at := queue[0]
			queue = queue[1:]
			for _, to := range graph[at] {
				if _, seen := from[to]; !seen {
					from[to] = at
					queue = append(queue, to)
				}
			}
		}
		for _, b := range l.banned {
			if _, ok := from[b]; !ok {
				continue
			}
			chain := b
			for at := from[b]; at != ""; at = from[at] {
				chain = at + " → " + chain
			}
			out = append(out, breach{rule: "lean", path: l.program, symbol: b, advice: "it makes every start slower: " + chain})
		}
	}
	return out
}
