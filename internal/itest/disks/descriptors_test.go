package disks_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestLowDescriptors starts copies of an image where a descriptor with a low number
// becomes free just before the first process is born: that of the image goes with
// the copy, and the bus, which is asked meanwhile and hangs up, had it next. What
// the first process still needs must not get a number that it gives away itself.
func TestLowDescriptors(t *testing.T) {
	given, bus := t.TempDir(), t.TempDir()
	if err := os.WriteFile(given+"/image", disks.FS(t, "ext4", tree.Copy(t, tree.Tiny(t)), 24<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(bus, "bus"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	asked := make(chan bool, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			asked <- true
			time.Sleep(50 * time.Millisecond)
			c.Close()
		}
	}()
	c := cell.Given(t, cell.Options{View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/images": given, "/bus": bus}}, prepare, most)
	// Without a cgroup nothing takes the number again.
	out, code, err := c.Shell(`set -e
cp --sparse=always /images/image /w/image
umount -R -l /sys/fs/cgroup
mkdir -p /run/systemd/system
export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/bus/bus
for n in 1 2 3 4 5 6 7 8 9 10; do
	/given/launch `+strings.ReplaceAll(usual, "--register=no ", "")+` --image=/w/image --ephemeral --machine=low-$n /bin/busybox echo started </dev/null
done`, most)
	if code != 0 || err != nil || strings.Count(out, "started\n") != 10 || len(asked) < 10 {
		t.Errorf("exit status %d, %v, the bus was asked %d times\n%s", code, err, len(asked), out)
	}
}
