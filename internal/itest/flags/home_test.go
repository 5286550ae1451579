package flags

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestNoHome: a shell whose user has no home directory, or one that no absolute
// path leads to, begins in the machine's root. It must not stay where the launcher
// was started: that is a directory of the host's, with all that ".." leads to.
func TestNoHome(t *testing.T) {
	l, s := stage.Under(t), stage.New(t, stage.Unified)
	here := filepath.Join(t.TempDir(), "a", "b")
	if err := os.MkdirAll(here, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(here+"/the-hosts", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct{ home, args string }{
		{"/nonexistent", "--uid=someone"},
		{"/nonexistent", "--uid=someone --private-network"},
		{"/nonexistent", "--uid=someone --as-pid2"},
		{"/nonexistent", "--uid=someone --private-users=1310720:65536 --private-users-ownership=map"},
		{"/etc/passwd", "--uid=someone"},
		{"..", "--uid=someone"},
		{"", ""}, // root's is a link to nowhere
	} {
		dir := tree.Copy(t, tree.Tiny(t))
		if err := os.WriteFile(dir+"/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nsomeone:x:0:0::"+k.home+":/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if k.home == "" {
			if err := os.RemoveAll(dir + "/root"); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("/no/where", dir+"/root"); err != nil {
				t.Fatal(err)
			}
		}
		argv := append([]string{"sh", "-c", `cd "$0" && echo 'pwd; ls; ls ..; exit' | "$@"`, here, l.Path, "--quiet", "--directory=" + dir, "--machine=launch-test-flags",
			"--register=no", "--keep-unit", "--console=pipe"}, strings.Fields(k.args)...)
		r := s.Start(l.Env, argv...)
		code, err := r.Code(most)
		out := r.Out.String()
		if err != nil || code != 0 || !strings.Contains(out, "/\nbin\n") || strings.Contains(out, "hosts") || strings.Count(out, "usr") != 2 {
			t.Errorf("home %q %s: exit status %d, %v\n%s", k.home, k.args, code, err, out)
		}
	}
}
