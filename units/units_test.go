package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"launch/internal/cli"
	"launch/settings"
)

// TestFlags: what the units run, launch understands, and supports.
func TestFlags(t *testing.T) {
	names, err := filepath.Glob("*.service")
	if err != nil || len(names) == 0 {
		t.Fatal("no units", err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		commands := regexp.MustCompile(`(?m)^Exec\w+=/usr/local/bin/launch (.*)$`).FindAllStringSubmatch(string(text), -1)
		if len(commands) != strings.Count(string(text), "\nExec") || len(commands) == 0 {
			t.Errorf("%s: not all that it runs is launch", name)
		}
		for _, c := range commands {
			req, err := cli.Parse(strings.Fields(strings.ReplaceAll(c[1], "%i", "web")), nil, "/")
			if err != nil {
				t.Errorf("%s: %s: %v", name, c[1], err)
				continue
			}
			if req.Action != cli.Run {
				continue
			}
			s, _, _, err := settings.Resolve(req.Assignments, settings.Surroundings{
				Place: settings.Place{Cwd: "/"}, Files: req.Files, Images: func(string) (string, bool) { return "/var/lib/machines/web", true },
			})
			if err != nil {
				t.Errorf("%s: %s: %v", name, c[1], err)
			}
			if !s.Life.KeepUnit || s.Exec.Mode != settings.Boot || s.Machine != "web" {
				t.Errorf("%s: %s: %+v", name, c[1], s)
			}
		}
	}
}

// TestVerify holds the units against systemd's own reading.
func TestVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	dir := t.TempDir()
	text, err := os.ReadFile("launch@.service")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "launch")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(dir, "launch@web.service")
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/launch", program)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", "--recursive-errors=no", unit).CombinedOutput()
	known := 0
	for line := range strings.Lines(string(out)) {
		switch {
		case strings.Contains(line, "DelegateSubgroup"): // 254 has it; what is older says so and goes on
			known++
		case strings.Contains(line, "launch@"):
			t.Error(line)
		}
	}
	if err != nil && known == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}
