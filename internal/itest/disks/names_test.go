package disks_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestPeersNames: which image a name stands for, what the machine is called, and
// which settings it gets; and images that are block devices.
func TestPeersNames(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make peers)")
	}
	c := world(t)
	const see = `/bin/sh -c 'hostname; cat /which; grep " / / " /proc/self/mountinfo | cut -d" " -f6; env | grep ^SAID; true'`
	for _, s := range []struct {
		name, setup, args, after string
		// alone: launch can, systemd-nspawn can't.
		alone bool
	}{
		{name: "image", setup: "cp --sparse=always /images/ext4 /var/lib/machines/m.raw", args: "-M m"},
		{name: "directory before image", setup: "cp --sparse=always /images/ext4 /var/lib/machines/m.raw; cp -a /given/tiny /var/lib/machines/m; echo dir >/var/lib/machines/m/which", args: "-M m"},
		{name: "earlier directory", setup: "mkdir -p /run/machines /var/lib/machines/m; cp --sparse=always /images/ext4 /run/machines/m.raw", args: "-M m", after: "rm -rf /run/machines"},
		{name: "nobody may write", setup: "cp --sparse=always /images/ext4 /var/lib/machines/m.raw; chmod a-w /var/lib/machines/m.raw", args: "-M m"},
		{name: "nobody may write, by path", setup: "cp --sparse=always /images/ext4 /var/lib/machines/m.raw; chmod a-w /var/lib/machines/m.raw", args: "-i /var/lib/machines/m.raw"},
		{name: "on a read-only mount", alone: true, setup: "cp --sparse=always /images/ext4 /w/m.raw; mount --bind /w/m.raw /w/m.raw; mount -o remount,bind,ro /w/m.raw", args: "-i /w/m.raw", after: "umount /w/m.raw"},
		{name: "link", setup: "cp --sparse=always /images/ext4 /w/real; ln -s /w/real /var/lib/machines/m.raw", args: "-M m"},
		{name: "device", setup: "cp --sparse=always /images/whole /w/real; ln -s $(losetup -f --show /w/real) /var/lib/machines/m", args: "-M m", after: "losetup -D -j /w/real 2>/dev/null; losetup -d $(losetup -j /w/real | cut -d: -f1)"},
		{name: "device by path", setup: "cp --sparse=always /images/ext4 /w/real; ln -s $(losetup -f --show /w/real) /w/d_1.raw", args: "-i /w/d_1.raw", after: "losetup -d $(losetup -j /w/real | cut -d: -f1)"},
		{name: "none", args: "-M m"},
		{name: "name of the file", setup: "cp --sparse=always /images/ext4 /w/a_b.c.raw", args: "-i /w/a_b.c.raw"},
		{name: "another name", setup: "cp --sparse=always /images/ext4 /w/a.raw", args: "-i /w/a.raw -M other"},
		{name: "relative path", setup: "cp --sparse=always /images/ext4 /w/a.img", args: "-i ./a.img"},
		{name: "settings beside it", setup: `cp --sparse=always /images/ext4 /w/a.raw; printf '[Exec]\nEnvironment=SAID=beside\n[Files]\nReadOnly=yes\n' >/w/a.nspawn`, args: "-i /w/a.raw"},
		{name: "settings of the administrator", setup: `cp --sparse=always /images/ext4 /w/a.raw; mkdir -p /etc/systemd/nspawn; printf '[Exec]\nEnvironment=SAID=trusted\n' >/etc/systemd/nspawn/a.nspawn`, args: "-i /w/a.raw", after: "rm -r /etc/systemd/nspawn"},
		{name: "settings of a copy", setup: `cp --sparse=always /images/ext4 /w/a.raw; printf '[Exec]\nEnvironment=SAID=copy\n' >/w/a.nspawn`, args: "-x -M a -i /w/a.raw"},
	} {
		t.Run(s.name, func(t *testing.T) {
			run := func(launcher string) string {
				script := fmt.Sprintf("rm -rf /w/* /run/systemd/nspawn /var/lib/machines/*\nmkdir -p /var/lib/machines\ncd /w\n%s\ntimeout -k 5 20 %s %s %s %s </dev/null 2>/run/said\necho \"exit status $?\"\nls -A /w /var/lib/machines\nls -A /run/systemd/nspawn/locks 2>/dev/null\nlosetup -ln -O BACK-FILE | grep -c ^/w\n%s\n",
					s.setup, launcher, usual, s.args, see, s.after)
				out, _, err := c.Shell(script, most)
				if err != nil {
					t.Fatal(err)
				}
				said, _, _ := c.Shell("cat /run/said", most)
				t.Logf("%s\n%s%s", launcher, out, said)
				return normal(out)
			}
			n, l := run("systemd-nspawn"), run("/given/launch")
			if s.alone {
				if strings.Contains(n, "exit status 0") || !strings.Contains(l, "exit status 0") || !strings.Contains(l, "ro,nodev") {
					t.Errorf("under systemd-nspawn:\n%s\nunder launch:\n%s", n, l)
				}
				return
			}
			if n != l || s.name != "none" && !strings.Contains(n, "exit status 0") {
				t.Errorf("under systemd-nspawn:\n%s\nunder launch:\n%s", n, l)
			}
		})
	}
}

// TestPeersLocks: an image that one of them has, the other leaves alone, and both
// may read from it.
func TestPeersLocks(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make peers)")
	}
	c := world(t)
	names := [...]string{"systemd-nspawn", "/given/launch"}
	for _, image := range []string{"whole", "xfs", "btrfs", "device"} {
		for _, s := range []struct {
			first, second string
			works         bool
		}{{"", "", false}, {"--read-only", "", false}, {"", "--read-only", false}, {"", "--volatile", false}, {"", "--ephemeral", false}, {"--read-only", "--read-only", true}, {"--volatile", "--read-only", true}, {"--ephemeral", "", true}} {
			for i, first := range names {
				second, works := names[1-i], s.works
				if works && (image == "xfs" || image == "btrfs") {
					// Two mounts of one file system are more than systemd-nspawn can do.
					first, second = names[1], names[1]
				}
				if second == "systemd-nspawn" && s.second == "--ephemeral" {
					works = image != "xfs" // it copies what others write to
				}
				if works && image == "device" {
					continue // it is read-only for both or for none
				}
				t.Run(strings.Join([]string{image, first, s.first, "then", second, s.second}, " "), func(t *testing.T) {
					script := fmt.Sprintf(`rm -rf /w/* /run/systemd/nspawn; cp --sparse=always /images/%[1]s /w/disk.raw 2>/dev/null
at=/w/disk.raw
if [ %[1]s = device ]; then cp --sparse=always /images/ext4 /w/real; at=$(losetup -f --show /w/real); fi
mkfifo /w/up
timeout -k 5 30 %[2]s %[6]s -M one -i $at %[3]s /bin/sh -c 'echo up; read end' </w/up >/w/said 2>&1 &
exec 9>/w/up
for i in $(seq 100); do grep -q up /w/said && break; sleep 0.1; done
grep -q up /w/said || cat /w/said
timeout -k 5 20 %[4]s %[6]s -M two -i $at %[5]s /bin/sh -c 'echo both' </dev/null 2>&1
echo "exit status $?"
exec 9>&-
wait
losetup -ln -O BACK-FILE | grep disk.raw
[ %[1]s = device ] && losetup -d $at
ls -A /w /run/systemd/nspawn/locks 2>/dev/null
true`, image, first, s.first, second, s.second, usual)
					out, _, err := c.Shell(script, most)
					if err != nil {
						t.Fatal(err)
					}
					if both := strings.Contains(out, "both") && strings.Contains(out, "exit status 0"); both != works || strings.Contains(out, ".lck") || strings.Contains(out, "inode-") {
						t.Errorf("works: %v, want %v\n%s", both, works, out)
					}
				})
			}
		}
	}
}
