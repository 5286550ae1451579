package probe

import (
	"path/filepath"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/mount"
)

// TestDevices: device nodes are found wherever they lie, and by links, too; what
// is in a directory, and what is in the tree, is none of them.
func TestDevices(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := unix.Symlink("/dev/null", link); err != nil {
		t.Fatal(err)
	}
	var mounts []mount.Mount
	for _, p := range []string{"/dev/full", dir, link, filepath.Join(dir, "missing"), "/dev", "/etc/passwd"} {
		mounts = append(mounts, mount.Mount{Kind: mount.Bind, Source: mount.Path{Path: p}})
	}
	mounts = append(mounts, mount.Mount{Kind: mount.Bind, Source: mount.Path{Path: "/dev/null", InRoot: true}},
		mount.Mount{Kind: mount.Tmpfs, Source: mount.Path{Path: "/dev/null"}})
	got, err := Devices(mounts)
	want := []facts.Device{{Path: "/dev/full", Major: 1, Minor: 7}, {Path: link, Major: 1, Minor: 3}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
}
