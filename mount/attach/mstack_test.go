package attach

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
)

// TestEntries: what is mounted of a stack is what was looked at, and what is
// written to lies in it, whatever somebody puts in its place meanwhile.
func TestEntries(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, c := range []struct{ name, what string }{
		{"as it was", ""},
		{"entry replaced", "the directory was replaced"},
		{"entry is a link now", "too many levels of symbolic links"},
		{"on the way is a link now", "too many levels of symbolic links"},
		{"data is a link now", "open its data"},
		{"work is a link now", "open its work"},
		{"not looked at", "nobody has looked at it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			top := t.TempDir()
			// What a test's directory lies on may be no place for an upper layer.
			if err := unix.Mount("entries", top, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			defer unix.Unmount(top, unix.MNT_DETACH)
			must := func(errs ...error) {
				t.Helper()
				for _, err := range errs {
					if err != nil {
						t.Fatal(err)
					}
				}
			}
			stack, out := filepath.Join(top, "m"), filepath.Join(top, "out")
			layer, rw := filepath.Join(stack, "layer@1"), filepath.Join(stack, "rw")
			for _, d := range []string{layer + "/usr", rw + "/data", rw + "/work", out} {
				must(os.MkdirAll(d, 0o755))
			}
			pins := map[string]int{}
			for _, d := range []string{layer, rw} {
				n, err := sys.Openat(unix.AT_FDCWD, d, unix.O_PATH|unix.O_DIRECTORY, 0)
				must(err)
				pins[d] = n
				defer sys.Close(n)
			}
			switch c.name {
			case "entry replaced":
				must(os.Rename(layer, out+"/x"), os.Mkdir(layer, 0o755))
			case "entry is a link now":
				must(os.Rename(layer, out+"/x"), os.Symlink(out+"/x", layer))
			case "on the way is a link now":
				must(os.Rename(stack, top+"/n"), os.Symlink(top+"/n", stack))
			case "data is a link now":
				must(os.Remove(rw+"/data"), os.Symlink(out, rw+"/data"))
			case "work is a link now":
				must(os.Remove(rw+"/work"), os.Symlink(out, rw+"/work"))
			case "not looked at":
				delete(pins, layer)
			}
			done := make(chan error)
			go func() {
				l := sys.Lock()
				tree, err := BeginAs(l, How{Namespace: -1})
				if err != nil {
					done <- err
					return
				}
				tree.Pins = pins
				content := []plan.Entry{{Path: "data", Mode: dir755}, {Path: "work", Mode: dir755}}
				for _, s := range []plan.Step{
					{Do: plan.Take, Source: mount.Path{Path: layer}, Attr: unix.MOUNT_ATTR_RDONLY},
					{Do: plan.Take, Source: mount.Path{Path: rw}, Content: content},
					{Do: plan.Pile, Target: "/", Path: stack},
					{Do: plan.Mkdir, Target: "/made", Mode: 0o755},
				} {
					if err == nil {
						err = tree.Do(s)
					}
				}
				tree.Close()
				done <- err
			}()
			err := <-done
			if c.what == "" && err != nil || c.what != "" && (err == nil || !strings.Contains(err.Error(), c.what)) {
				t.Errorf("got %v, want %q", err, c.what)
			}
			_, made := os.Stat(rw + "/data/made")
			if (made == nil) != (c.what == "") {
				t.Errorf("what was written: %v", made)
			}
			if in, _ := os.ReadDir(out); len(in) > 1 || len(in) == 1 && in[0].Name() != "x" {
				t.Errorf("something was written elsewhere: %v", in)
			}
		})
	}
}
