package flags

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"launch/internal/itest/stage"
)

// TestBorrowed: a copy that is set-user-ID or set-group-ID does nothing for who has
// not its owner's rights.
func TestBorrowed(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a program set-user-ID")
	}
	text, err := os.ReadFile(stage.Launch(t).Path)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/var/tmp", "launch-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "launch")
	if err := os.WriteFile(file, text, 0o755); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	for _, c := range []struct {
		mode  os.FileMode
		other bool
		runs  bool
	}{{0o755, true, true}, {0o755 | os.ModeSetuid, true, false}, {0o755 | os.ModeSetgid, true, false}, {0o755 | os.ModeSetuid, false, true}} {
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"--version"}, {"--cleanup"}, {"host-exec", "id"}} {
			if c.runs && args[0] != "--version" {
				continue
			}
			cmd := exec.Command(file, args...)
			if c.other {
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			}
			out, err := cmd.CombinedOutput()
			if (err == nil) != c.runs || strings.Contains(string(out), "refused to run with the rights") == c.runs {
				t.Errorf("mode %v, another user %v: %q: %v\n%s", c.mode, c.other, args, err, out)
			}
		}
	}
}
