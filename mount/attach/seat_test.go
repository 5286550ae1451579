package attach

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
)

// TestHostLinks: a path of the host's means what it means on the host, even
// where it climbs up to the root and down again. Were the machine's tree in
// the way, a link there could show any file of the host's inside.
func TestHostLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	top := t.TempDir()
	tree := filepath.Join(top, "tree")
	source := filepath.Join(top, "source")
	write := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(source, "the host's")
	write(filepath.Join(top, "secret"), "a secret of the host's")
	write(filepath.Join(tree, "target"), "")
	// What the tree would like the host's path to mean.
	if err := os.MkdirAll(tree+top, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(top, "secret"), tree+source); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(top, "link")
	if err := os.Symlink(strings.Repeat("../", strings.Count(top, "/"))+source[1:], link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{source, link, strings.Repeat("/..", 3) + source, top + strings.Repeat("/..", 20) + source} {
		done := make(chan bool)
		go func() {
			defer close(done)
			tr, err := BeginAs(sys.Lock(), How{Namespace: -1})
			if err != nil {
				t.Error(err)
				return
			}
			defer tr.Close()
			for _, s := range []plan.Step{
				{Do: plan.Tree, Target: "/", Source: mount.Path{Path: tree}},
				{Do: plan.Bind, Target: "/target", Source: mount.Path{Path: path}},
			} {
				if err := tr.Do(s); err != nil {
					t.Errorf("%s: %v", path, err)
					return
				}
			}
			got, err := sys.ReadFile(tr.Root(), "target", 100)
			if err != nil || string(got) != "the host's" {
				t.Errorf("%s is %q inside, %v", path, got, err)
			}
		}()
		<-done
	}
}
