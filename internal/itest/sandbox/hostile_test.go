package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestHostileTargets: whatever the tree has in the place of a mount point, or on
// the way there, nothing outside of it is touched, and nothing in it: stubs and
// layers are made where the names lead inside.
func TestHostileTargets(t *testing.T) {
	tree.NeedRoot(t)
	l := stage.Launch(t)
	s := stage.New(t, stage.Unified)
	const onData = `{"destination":"/data","type":"tmpfs"},{"destination":"/data/x/y","source":"$SRC/file","options":["bind"]}`
	for _, c := range []struct {
		name, tree string // a script in the tree; $OUT is a directory of the host's
		mounts     string
		say        string // on failure; else it starts
	}{
		{"link out", "ln -s $OUT data", onData, ""},
		{"link up", "ln -s ../../../../../../../../$OUT data", onData, ""},
		{"link on the way", "ln -s $OUT way", `{"destination":"/way/new/x","type":"tmpfs"}`, ""},
		{"link to what is missing", "ln -s /a/b/c data", onData, ""},
		{"magic link", "ln -s /proc/self/root/$OUT data", onData, "make /proc/self"},
		{"magic link of the launcher", "ln -s /proc/1/root data", onData, "too many levels"},
		{"loop", "ln -s data2 data; ln -s data data2", onData, "too many levels"},
		{"file on the way", ": >data", onData, "no directory"},
		{"fifo", "mkfifo data", onData, "no directory"},
		{"directory for a file", "mkdir -p file", `{"destination":"/file","source":"$SRC/file","options":["bind"]}`, "is a directory"},
		{"proc is a link", "rm -rf proc; ln -s $OUT proc", ``, "must be a directory"},
		{"sys is a file", "rm -rf sys; : >sys", ``, "must be a directory"},
		{"tmp is a link", "rm -rf tmp; ln -s $OUT tmp", ``, ""},
		{"tmp is a link to /etc", "rm -rf tmp; ln -s etc tmp", ``, ""},
		{"dev is a link", "rm -rf dev; ln -s $OUT dev", ``, ""},
		{"link in a bind", "", `{"destination":"/mnt","source":"$SRC/dir","options":["bind","ro"]},{"destination":"/mnt/out/new","type":"tmpfs"}`, "read-only"},
		{"dots", "mkdir mnt/a; ln -s ../../../.. mnt/a/up", `{"destination":"/mnt/a/up/$OUT/new","type":"tmpfs"}`, ""},
	} {
		for _, mode := range []string{"", layered} {
			t.Run(strings.TrimSpace(c.name+" "+mode), func(t *testing.T) {
				top := tree.Scratch(t)
				dir, out := filepath.Join(top, name), filepath.Join(top, "out")
				for _, d := range []string{dir, out} {
					if err := os.Mkdir(d, 0o755); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.WriteFile(filepath.Join(out, "canary"), []byte("sings"), 0o600); err != nil {
					t.Fatal(err)
				}
				b := bundleCase{mounts: strings.ReplaceAll(c.mounts, "$OUT", out), ro: true}
				b.bundle(t, dir)
				if msg, err := exec.Command("sh", "-ec", "cd "+dir+"/rootfs; "+strings.ReplaceAll(c.tree, "$OUT", out)).CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, msg)
				}
				before, canary := record(t, dir), record(t, out)
				args := append([]string{l.Path, "--oci-bundle=" + dir, "--register=no", "--keep-unit", "--console=pipe", sandboxed}, strings.Fields(mode)...)
				r := s.Start(nil, args...)
				code, err := r.Code(most)
				said := r.Out.String()
				switch {
				case err != nil:
					t.Errorf("%v\n%s", err, said)
				case c.say == "" && code != 7:
					t.Errorf("status %d\n%s", code, said)
				case c.say != "" && (code != 1 || !strings.Contains(said, c.say)):
					t.Errorf("status %d, want 1 with %q\n%s", code, c.say, said)
				}
				if strings.Contains(said, "canary") {
					t.Errorf("the machine sees what is outside:\n%s", said)
				}
				for _, n := range append(changed(before, record(t, dir)), changed(canary, record(t, out))...) {
					if mode == "" && strings.HasPrefix(n, "src/file") {
						continue // which the bundle binds
					}
					t.Errorf("changed: %s", n)
				}
			})
		}
	}
}
