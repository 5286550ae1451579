package remake

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOverlay: an edit reaches what is built, and nothing else.
func TestOverlay(t *testing.T) {
	const file = "internal/itest/remake/remake.go"
	edit := func(old, new string) Edit { return Edit{file, old, new} }
	before, err := os.ReadFile("remake.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]Edit{
		{edit("no such words", "")},
		{edit("err != nil", "")},
		{edit("*no such words at all", "")},
		{edit("\npackage remake\n", "\npackage other\n"), edit("\npackage remake\n", "\npackage third\n")},
		{{"internal/itest/remake/none.go", "a", "b"}},
	} {
		if _, err := Overlay(t.TempDir(), bad...); err == nil {
			t.Errorf("%q fits", bad)
		}
	}
	dir := t.TempDir()
	over, err := Overlay(dir, edit("\n// Root is", "\nvar _ = nonsense\n\n// Root is"), edit("*nonsense", "edited"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "build", "-overlay", over, "launch/internal/itest/remake").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "undefined: edited") {
		t.Errorf("what is built is without the edit: %v\n%s", err, out)
	}
	if after, err := os.ReadFile("remake.go"); err != nil || string(after) != string(before) {
		t.Errorf("the file itself is another: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 2 {
		t.Errorf("in the directory: %q", files)
	}
}
