package oci

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForeign: a directory that no create made is no container, whatever is
// in it, and stays as it is; what a create left that was cut off can be deleted.
func TestForeign(t *testing.T) {
	w := theWorld(t)
	for dir, files := range map[string][]string{"bundle": {"config.json", "rootfs"}, "empty": nil, "other": {"state.json"}} {
		must(t, os.MkdirAll(w.root+"/"+dir, 0o755))
		for _, f := range files {
			must(t, os.WriteFile(w.root+"/"+dir+"/"+f, nil, 0o644))
		}
		const gone = "container does not exist"
		for _, verb := range []string{"state", "delete", "kill", "ps"} {
			w.fails(1, gone, verb, dir)
		}
		w.ok("delete", "--force", dir)
		w.fails(1, "container with given ID already exists", "create", "-b", w.bundle("f", forever, nil), dir)
		for _, f := range append(files, "") {
			if _, err := os.Stat(w.root + "/" + dir + "/" + f); err != nil {
				t.Error(err)
			}
		}
	}
	if got := w.ok("list", "-q"); got != "" {
		t.Errorf("list has %q", got)
	}
	must(t, os.RemoveAll(w.root))

	must(t, os.Mkdir(w.root, 0o700))
	must(t, os.Mkdir(w.root+"/half", 0o711))
	must(t, os.WriteFile(w.root+"/half/config.json", nil, 0o600))
	must(t, os.WriteFile(w.root+"/half/made", nil, 0o600))
	if got := w.ok("list", "-q"); got != "half\n" {
		t.Errorf("list has %q", got)
	}
	w.ok("delete", "half")

	// Without room there is an error that says for what, and nothing left.
	must(t, unix.Mount("full", w.root, "tmpfs", 0, "size=4k,nr_inodes=3"))
	w.fails(1, "no space left on device", "create", "-b", w.bundle("f", forever, nil), "a")
	w.fails(1, "note that container a makes ", "create", "-b", w.bundle("f", forever, nil), "a")
	es, err := os.ReadDir(w.root)
	must(t, err)
	if len(es) > 0 {
		t.Errorf("a create without room left %q", es)
	}
	must(t, unix.Unmount(w.root, 0))
}
