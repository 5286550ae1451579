package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"launch/settings"
)

const root = ".."

// TestGenerated: what lies there is what the table and the prose give.
func TestGenerated(t *testing.T) {
	files, err := generate(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 {
		t.Fatalf("only %d files are generated", len(files))
	}
	for _, f := range files {
		there, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			t.Error(err)
			continue
		}
		if string(there) != f.text {
			t.Errorf("%s is not what the option table gives: run `go generate ./man`%s", f.path, firstChange(string(there), f.text))
		}
	}
}

func firstChange(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return "\n\tthere: " + x[i] + "\n\tgives: " + y[i]
		}
	}
	return ""
}

// TestEveryRow: each option and key is in its page.
func TestEveryRow(t *testing.T) {
	text := map[string]string{}
	for _, name := range pages {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		text[name] = string(b)
	}
	for i := range settings.Options {
		o := &settings.Options[i]
		if o.Flag != "" {
			if got, want := strings.Contains(text["launch.1"], `\fB\-\-`+escape(o.Flag)+`\fR`) || strings.Contains(text["launch.1"], `\fB\-\-`+escape(o.Flag)+`=`), documented(o); got != want {
				t.Errorf("launch.1 lists --%s: %v, want %v", o.Flag, got, want)
			}
		}
		if o.Key != "" {
			if got, want := strings.Contains(text["launch.nspawn.5"], `\fB`+o.Key+`=\fR`), documented(o); got != want {
				t.Errorf("launch.nspawn.5 lists %s=: %v, want %v", o.Key, got, want)
			}
		}
	}
}

// TestStrangers: prose and table can't drift apart.
func TestStrangers(t *testing.T) {
	prose, err := readProse("options")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range prose {
		if len(text) < 15 || !strings.HasSuffix(text, "\n") {
			t.Errorf("options/%s.man is hardly prose: %q", name, text)
		}
	}
	delete(prose, "bind")
	if err := strangers(prose); err == nil || !strings.Contains(err.Error(), `"bind"`) {
		t.Errorf("a row without prose: %v", err)
	}
	prose["bind"] = "x\n"
	prose["bindd"] = "x\n"
	if err := strangers(prose); err == nil || !strings.Contains(err.Error(), "bindd") {
		t.Errorf("prose about no option: %v", err)
	}
}

func TestFill(t *testing.T) {
	prose, err := readProse("options")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("launch.nspawn.5")
	if err != nil {
		t.Fatal(err)
	}
	whole := string(page)
	for _, c := range []struct{ old, new, want string }{
		{begin + "keys Network\n", "", "without a beginning"},
		{begin + "keys Network\n", begin + "keys Nothing\n", "would be empty"},
		{begin + "keys Network\n", begin + "keys Exec\n", "is there twice"},
		{begin + "keys Network\n", begin + "words Network\n", "nobody knows the block"},
	} {
		if _, err := fill(strings.Replace(whole, c.old, c.new, 1), prose); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.new, err, c.want)
		}
	}
	from := strings.Index(whole, begin+"keys Network")
	to := from + strings.Index(whole[from:], end) + len(end) + 1
	if _, err := fill(whole[:from]+whole[to:], prose); err == nil || !strings.Contains(err.Error(), "there is no block") {
		t.Errorf("a missing block: %v", err)
	}
	// An older block is replaced.
	stale, err := fill(whole[:from]+begin+"keys Network\nold\n"+whole[to-len(end)-1:], prose)
	if err != nil || stale != whole {
		t.Errorf("a stale block: %v%s", err, firstChange(stale, whole))
	}
}

func TestPart(t *testing.T) {
	prose := ".\\\" value: X\nboth\n.\\\" only: flag\nflag\n.PP\n.\\\" only: key\nkey\n.\\\" both\nend\n"
	if got := part(prose, "flag"); got != "both\nflag\n.IP\nend\n" {
		t.Errorf("flag: %q", got)
	}
	if got := part(prose, "key"); got != "both\nkey\nend\n" {
		t.Errorf("key: %q", got)
	}
}

// TestPlain: what a reader copies has plain hyphens. In roff a bare one is
// typeset as a typographic hyphen, which no shell knows.
func TestPlain(t *testing.T) {
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range bare(string(text)) {
			t.Errorf("%s:%s", name, s)
		}
	}
	if len(bare("a\n.B --x\n\\fB-x\\fR\n.B \\-\\-x\n.EX\n$ a -b\n.EE\n")) != 3 {
		t.Error("bare hyphens are not found")
	}
}

// lint runs mandoc on a page.
func lint(t *testing.T, name string, text []byte) string {
	path, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("needs mandoc: ", err)
	}
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command(path, "-Tlint", "-W", "warning", file).CombinedOutput()
	return string(out)
}

func TestMandoc(t *testing.T) {
	for _, name := range pages {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if out := lint(t, name, text); out != "" {
			t.Error(out)
		}
		if !bytes.Contains(text, []byte("\n.SH ")) {
			t.Errorf("%s has no sections", name)
		}
	}
	if lint(t, "bad.1", []byte(".TH A 1 2026-01-01\n.SH NAME\na \\- b\n.FOO\n")) == "" {
		t.Error("mandoc finds nothing wrong with an unknown macro")
	}
}
