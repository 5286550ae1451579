package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRun runs the go command on small modules and looks at the sums, the text
// and the exit status.
func TestRun(t *testing.T) {
	for _, c := range []struct {
		name, test string
		args       []string
		status     int
		last       string
		has        []string
	}{
		{name: "all kinds", status: 1, last: "2 passed, 2 failed, 1 skipped",
			test: `func TestGood(t *testing.T) {}
func TestBad(t *testing.T) { t.Error("the sky fell") }
func TestSkipped(t *testing.T) { t.Skip("no root here") }
func TestParent(t *testing.T) { t.Run("good", func(*testing.T) {}); t.Run("bad", func(t *testing.T) { t.Error("inner") }) }`,
			has: []string{"the sky fell", "inner", "TestSkipped: no root here"}},
		{name: "good", status: 0, last: "1 passed, 0 failed, 0 skipped", test: `func TestGood(t *testing.T) {}`},
		{name: "only skipped", status: 1, last: "0 passed, 0 failed, 1 skipped",
			test: `func TestSkipped(t *testing.T) { t.Skip("no root here") }`, has: []string{"no test ran"}},
		{name: "no tests", status: 1, last: "0 passed, 0 failed, 0 skipped", has: []string{"no test ran"}},
		{name: "broken build", status: 1, last: "0 passed, 1 failed, 0 skipped",
			test: `func TestGood(t *testing.T) { undefined() }`, has: []string{"undefined: undefined"}},
		{name: "exit in the middle", status: 1, last: "0 passed, 1 failed, 0 skipped",
			test: `func TestExit(t *testing.T) { os.Exit(3) }`, has: []string{"TestExit"}},
		{name: "panic", status: 1, last: "1 passed, 1 failed, 0 skipped",
			test: `func TestGood(t *testing.T) {}
func TestPanic(t *testing.T) { panic("ouch") }`, has: []string{"ouch"}},
		{name: "exit before the first test", status: 1, last: "0 passed, 1 failed, 0 skipped",
			test: `func TestMain(*testing.M) { println("not today"); os.Exit(1) }
func TestGood(t *testing.T) {}`, has: []string{"not today"}},
		{name: "check that fails", status: 1, last: "1 passed, 1 failed, 0 skipped", test: `func TestGood(t *testing.T) {}`,
			args: []string{"-check", "listing ls /nowhere"}, has: []string{"FAIL  listing", "/nowhere"}},
		{name: "check that passes", status: 0, last: "2 passed, 0 failed, 0 skipped", test: `func TestGood(t *testing.T) {}`,
			args: []string{"-check", "truth true"}, has: []string{"ok    truth"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "go.mod", "module small\n\ngo 1.26\n")
			write(t, dir, "a_test.go", "package small\n\nimport (\"os\"; \"testing\")\n\nvar _ = os.Exit\nvar _ testing.TB\n\n"+c.test+"\n")
			t.Chdir(dir)
			summary := filepath.Join(dir, "summary")
			var out, errs strings.Builder
			args := append([]string{"-summary", summary}, c.args...)
			status := run(append(args, "go", "test", "-json", "./..."), &out, &errs)
			text := out.String()
			if status != c.status {
				t.Errorf("exit status %d, want %d", status, c.status)
			}
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			if got := lines[len(lines)-1]; got != c.last {
				t.Errorf("last line %q, want %q", got, c.last)
			}
			for _, h := range c.has {
				if !strings.Contains(text, h) {
					t.Errorf("the text lacks %q", h)
				}
			}
			if got, _ := os.ReadFile(summary); string(got) != c.last+"\n" {
				t.Errorf("summary file %q", got)
			}
			if t.Failed() {
				t.Logf("%s%s", text, errs.String())
			}
		})
	}
}

func TestNoSuchCommand(t *testing.T) {
	var out strings.Builder
	if run([]string{"/no/such/go", "test"}, &out, &out) != 1 {
		t.Errorf("success without a go command: %s", out.String())
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
