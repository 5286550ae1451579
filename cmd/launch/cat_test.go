package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/settings"
)

// shown is what a function writes to standard output.
func shown(t *testing.T, f func() int) (text string, code int) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	old := os.Stdout
	os.Stdout = w
	code = f()
	os.Stdout = old
	w.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b), code
}

// TestCat: each value that was said, by whom, and what became of it.
func TestCat(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "web.nspawn")
	if err := os.Mkdir(filepath.Join(dir, "web"), 0o755); err != nil {
		t.Fatal(err)
	}
	const text = "[Exec]\nHostname=one\nHostname=two\nCapability=CAP_SYS_TIME\n\n[Files]\nReadOnly=yes\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-D", filepath.Join(dir, "web"), "--hostname=three"}
	for mode, want := range map[string]map[string]settings.Fate{
		// The file lies beside the tree, so it can only make the machine stricter.
		"yes":     {"two": settings.Hidden, "three": settings.Applied, "CAP_SYS_TIME": settings.Ignored, "yes": settings.Applied},
		"trusted": {"two": settings.Hidden, "three": settings.Applied, "CAP_SYS_TIME": settings.Applied, "yes": settings.Applied},
		// It wins, but nobody trusts it.
		"override": {"one": settings.Hidden, "two": settings.Applied, "three": settings.Hidden, "CAP_SYS_TIME": settings.Ignored, "yes": settings.Applied},
	} {
		out, code := shown(t, func() int { return cat(append([]string{"--json", "--settings=" + mode}, args...), nil, "/") })
		var got struct {
			Settings settings.Settings
			Trace    []said
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
			t.Fatalf("%s: exit status %d, %v\n%s", mode, code, err, out)
		}
		for value, fate := range want {
			found := false
			for _, s := range got.Trace {
				if s.Text == value {
					found = true
					if s.Fate != fate || fate == settings.Hidden && s.By == nil {
						t.Errorf("--settings=%s: %s=%s from %s is %s, want %s", mode, s.Option, value, s.Origin, s.Fate, fate)
					}
					if s.Origin.Path == file && s.Origin.Line == 0 {
						t.Errorf("--settings=%s: %s has no line", mode, value)
					}
				}
			}
			if !found {
				t.Errorf("--settings=%s: nothing about %q\n%s", mode, value, out)
			}
		}
		plain, code := shown(t, func() int { return cat(append([]string{"--settings=" + mode}, args...), nil, "/") })
		for _, part := range []string{file + ":3 Hostname=", "--hostname", file + ":7 ReadOnly="} {
			if code != 0 || !strings.Contains(plain, part) {
				t.Errorf("--settings=%s: exit status %d, no %q in\n%s", mode, code, part, plain)
			}
		}
	}
	// Without the file, nothing of it is there.
	if out, code := shown(t, func() int { return cat(append([]string{"--settings=no"}, args...), nil, "/") }); code != 0 || strings.Contains(out, file) {
		t.Errorf("--settings=no: exit status %d\n%s", code, out)
	}
}

// TestControls: what a file beside a tree says reaches no terminal as it is, whether
// its values are shown or what would be done.
func TestControls(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "web", "usr"), 0o755); err != nil {
		t.Fatal(err)
	}
	const text = "[Exec]\nEnvironment=A=\x1b]0;title\a\u009b2J \"B=b\\nenv     C=c\"\n"
	if err := os.WriteFile(filepath.Join(dir, "web.nspawn"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"-D", filepath.Join(dir, "web")}
	said, code := shown(t, func() int { return cat(args, nil, "/") })
	if code != 0 || !strings.Contains(said, `\x1b]0;title`) {
		t.Errorf("cat: %d %q", code, said)
	}
	plan, code := shown(t, func() int { return launch(append(args, "--plan", "/bin/true"), nil) })
	if code != 0 || !strings.Contains(plan, `env     A=\x1b]0;title`) || !strings.Contains(plan, `env     B=b\nenv     C=c`) {
		t.Errorf("--plan: %d %q", code, plan)
	}
	for _, out := range []string{said, plan} {
		if i := strings.IndexFunc(out, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }); i >= 0 {
			t.Errorf("a control character is shown: %q", out[max(0, i-20):min(len(out), i+20)])
		}
	}
}
