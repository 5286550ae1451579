package probe_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/itest/tree"
	"launch/internal/probe"
	"launch/internal/sys"
)

// TestDeviceInUse: what is mounted is no machine's to write to, and what a machine
// writes to, nobody can mount.
func TestDeviceInUse(t *testing.T) {
	tree.NeedRoot(t, "mkfs.ext4", "losetup", "mount", "umount")
	dir := tree.Scratch(t)
	image, on := filepath.Join(dir, "image"), filepath.Join(dir, "on")
	run := func(name string, args ...string) (string, error) {
		out, err := exec.Command(name, args...).CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	must := func(name string, args ...string) string {
		t.Helper()
		out, err := run(name, args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return out
	}
	if err := os.Mkdir(on, 0o755); err != nil {
		t.Fatal(err)
	}
	must("mkfs.ext4", "-q", image, "16M")
	device := must("losetup", "--find", "--show", image)
	defer func() { must("losetup", "--detach", device) }()
	look := func(write bool) (n int, err error) {
		t.Helper()
		n, d, err := probe.Disk(device, write, disk.Policy{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = probe.DiskTree(n, device, &d, "", func(int) error { return nil })
		return n, err
	}

	must("mount", device, on)
	n, err := look(true)
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("of a device that is mounted: %v", err)
	}
	sys.Close(n)
	if n, err = look(false); err != nil {
		t.Errorf("only to read, of a device that is mounted: %v", err)
	}
	sys.Close(n)
	must("umount", on)

	n, err = look(true)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := run("mount", device, on); err == nil {
		t.Errorf("mounted while a machine has it: %s", out)
		must("umount", on)
	}
	sys.Close(n)
	must("mount", device, on)
	must("umount", on)
}
