package bundle

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"launch/settings"
)

var update = os.Getenv("UPDATE") != ""

// golden compares with a file, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (UPDATE=1 writes it anew):\n%s", path, diff(string(want), got))
	}
}

// diff shows the first lines that differ.
func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range w {
		if i >= len(g) || w[i] != g[i] {
			return "want " + strings.Join(w[i:min(i+4, len(w))], "\n     ") + "\ngot  " + strings.Join(g[min(i, len(g)):min(i+4, len(g))], "\n     ")
		}
	}
	return "got more: " + g[len(w)]
}

// sentence is an error or a warning as the desk may write it.
func sentence(e *settings.Error) string {
	s := e.What + " | " + e.Place()
	if e.Hint != "" {
		s += " | " + e.Hint
	}
	return s
}

func describe(s any, warnings []settings.Warning, err error) string {
	var b strings.Builder
	for i := range warnings {
		b.WriteString("warning: " + sentence(&warnings[i]) + "\n")
	}
	if err != nil {
		b.WriteString("error: " + sentence(err.(*settings.Error)) + "\n")
		return b.String()
	}
	text, _ := json.MarshalIndent(s, "", "\t")
	return b.String() + string(text) + "\n"
}

// TestGoldens reads each testdata/NAME.json.
func TestGoldens(t *testing.T) {
	names, _ := filepath.Glob("testdata/*.json")
	if len(names) == 0 {
		t.Fatal("no testdata")
	}
	for _, name := range names {
		base := strings.TrimSuffix(filepath.Base(name), ".json")
		t.Run(base, func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s, warnings, err := Read("/b", string(text))
			if runtime.GOARCH != "amd64" && s.Bundle != nil && s.Bundle.Filter != nil {
				t.Skip("the golden has the filter of another architecture")
			}
			golden(t, base+".golden", describe(s, warnings, err))
		})
	}
}

// TestTemplates: what `spec` writes is read without a word, and is written as
// Go would.
func TestTemplates(t *testing.T) {
	for name, text := range map[string]string{"template": Template, "rootless": RootlessTemplate(1000, 100)} {
		s, warnings, err := Read("/b", text)
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %s", name, describe(nil, warnings, err))
		}
		golden(t, "spec-"+name+".golden", describe(s, nil, nil))
		var v any
		if err := json.Unmarshal([]byte(text), &v); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	rootless := RootlessTemplate(1000, 100)
	for _, not := range []string{"gid=5", "sysfs", "network", "resources", "@"} {
		if strings.Contains(rootless, not) {
			t.Errorf("the rootless template has %q", not)
		}
	}
}

// TestProblems: each line of problems.txt changes a good configuration, as
// POINTER = VALUE; and so on, and below it stands what is said of that. A value
// of "-" takes the field away.
func TestProblems(t *testing.T) {
	const name = "problems.txt"
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	n := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "\t") {
			continue
		}
		b.WriteString(line + "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		n++
		config := patched(t, line)
		s, warnings, err := Read("/b", config)
		if err == nil && len(warnings) == 0 {
			t.Errorf("%s: nothing is said of it", line)
		}
		if err != nil && s.Bundle != nil {
			t.Errorf("%s: settings beside an error", line)
		}
		for i := range warnings {
			b.WriteString("\twarning: " + sentence(&warnings[i]) + "\n")
			if warnings[i].Origin.Line == 0 {
				t.Errorf("%s: no line", line)
			}
		}
		if err != nil {
			b.WriteString("\t" + sentence(err.(*settings.Error)) + "\n")
		}
	}
	if n < 60 {
		t.Errorf("only %d problems", n)
	}
	golden(t, name, b.String())
}

// TestUntil: what is called X-dev was written after X, and before the next.
func TestUntil(t *testing.T) {
	for v, want := range map[string][2]bool{
		"1.0.0": {true, true}, "1.0.2-rc1": {true, true}, "1.0.2": {true, true}, "1.0.2-dev": {false, true}, "1.1.0-rc.1": {false, true},
		"1.2.0": {false, true}, "1.2.0+dev": {false, false}, "1.2.1": {false, false}, "1.10.0": {false, false}, "": {false, false}, "1.0": {false, false},
	} {
		if got := [2]bool{until(v, 1, 0, 2), until(v, 1, 2, 0)}; got != want {
			t.Errorf("%q: until 1.0.2, 1.2.0: %v, want %v", v, got, want)
		}
	}
}

// patched gives a good configuration with the changes of a line.
func patched(t *testing.T, line string) string {
	t.Helper()
	var whole any
	if err := json.Unmarshal([]byte(`{"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"args":["sh"],"cwd":"/","user":{"uid":0,"gid":0}},
		"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"uts"},{"type":"ipc"},{"type":"network"}]}}`), &whole); err != nil {
		t.Fatal(err)
	}
	for change := range strings.SplitSeq(line, "; ") {
		pointer, text, ok := strings.Cut(change, " = ")
		if !ok {
			t.Fatalf("%q is not POINTER = VALUE", change)
		}
		var value any
		if text != "-" {
			if err := json.Unmarshal([]byte(text), &value); err != nil {
				t.Fatalf("%s: %v", change, err)
			}
		}
		at := whole
		parts := strings.Split(pointer[1:], "/")
		for i, p := range parts {
			p = strings.ReplaceAll(strings.ReplaceAll(p, "~1", "/"), "~0", "~")
			object := at.(map[string]any)
			if i == len(parts)-1 {
				if object[p] = value; text == "-" {
					delete(object, p)
				}
				break
			}
			if object[p] == nil {
				object[p] = map[string]any{}
			}
			at = object[p]
		}
	}
	out, err := json.MarshalIndent(whole, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
