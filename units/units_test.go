package units

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"launch/internal/cli"
	"launch/settings"
)

const program = "/usr/local/bin/launch"

// all are the units, and the drop-in for systemd-nspawn's own.
func all(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"*.service", "user/*.service", "*.d/*.conf"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal("no units: ", pattern, err)
		}
		names = append(names, found...)
	}
	return names
}

// TestFlags: what the units run, launch understands, and supports.
func TestFlags(t *testing.T) {
	for _, name := range all(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		commands := regexp.MustCompile(`(?m)^Exec\w+=`+program+` (.*)$`).FindAllStringSubmatch(string(text), -1)
		if len(commands) != len(regexp.MustCompile(`(?m)^Exec\w+=.+$`).FindAll(text, -1)) || len(commands) != 2 {
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
				Place: settings.Place{Cwd: "/"}, Files: req.Files, Images: func(string) (settings.Where, bool) { return settings.Where{Path: "/var/lib/machines/web"}, true },
			})
			if err != nil {
				t.Errorf("%s: %s: %v", name, c[1], err)
			}
			if bundle := strings.Contains(c[1], "--oci-bundle=/var/lib/launch-oci/"); !s.Life.KeepUnit || !bundle && s.Exec.Mode != settings.Boot || s.Machine != "web" {
				t.Errorf("%s: %s: %+v", name, c[1], s)
			}
		}
	}
}

// TestSame: the units that boot a machine do it alike.
func TestSame(t *testing.T) {
	commands := map[string]bool{}
	for _, name := range all(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range regexp.MustCompile(`(?m)^ExecStart=.*--boot.*$`).FindAllString(string(text), -1) {
			// The user's own manager starts a machine of its own.
			same := strings.Replace(l, " --user", "", 1)
			if (same != l) != strings.HasPrefix(name, "user/") {
				t.Errorf("%s: %s", name, l)
			}
			commands[same] = true
		}
	}
	if len(commands) != 1 {
		t.Errorf("there are %d ways to boot a machine: %v", len(commands), commands)
	}
}

// TestSlice: machines that units boot are together in the slice in which systemd has
// machines, whoever's manager starts them. The drop-in leaves that of the unit.
func TestSlice(t *testing.T) {
	for _, name := range all(t) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".service") && bytes.Contains(text, []byte(" --boot ")) && !bytes.Contains(text, []byte("\nSlice=machine.slice\n")) {
			t.Errorf("%s: not in machine.slice", name)
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
	fake := filepath.Join(dir, "launch")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	verify := func(name, text string, scope ...string) (said []string) {
		unit := filepath.Join(dir, strings.Replace(filepath.Base(name), "@", "@web", 1))
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(text, program, fake)), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, append(append([]string{"verify", "--man=no", "--recursive-errors=no"}, scope...), unit)...).CombinedOutput()
		known := 0
		for line := range bytes.Lines(out) {
			switch l := string(line); {
			case strings.Contains(l, "'DelegateSubgroup'"), strings.Contains(l, "'CoredumpReceive'"): // newer than 252, which says so and goes on
				known++
			case strings.Contains(l, "launch"):
				said = append(said, l)
			}
		}
		if err != nil && known == 0 && said == nil {
			said = append(said, err.Error()+": "+string(out))
		}
		return said
	}
	for _, name := range all(t) {
		if !strings.HasSuffix(name, ".service") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var scope []string
		if strings.HasPrefix(name, "user/") {
			if os.Getenv("XDG_RUNTIME_DIR") == "" {
				t.Setenv("XDG_RUNTIME_DIR", t.TempDir()) // it is only asked for
			}
			scope = []string{"--user"}
		}
		if said := verify(name, string(text), scope...); said != nil {
			t.Errorf("%s: %s", name, strings.Join(said, ""))
		}
		// The check finds something.
		if bad := verify(name, strings.Replace(string(text), "KillMode=mixed", "KillMode=mixt", 1), scope...); !slices.ContainsFunc(bad, func(l string) bool { return strings.Contains(l, "mixt") }) {
			t.Errorf("%s: a mistake is not found: %q", name, bad)
		}
	}
}
