package disks_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// most is how long a script may take; it takes half a second.
const most = time.Minute

// A sample is an image and a way to start it.
type sample struct {
	name string
	// image is one of those that prepare makes.
	image, args string
	// fails: both refuse it.
	fails bool
	// other says what is seen otherwise under launch, and what systemd-nspawn
	// has there.
	other [2]string
}

// The samples. An image that is made of several is called after what is in it.
var samples = []sample{
	{name: "ext4", image: "ext4"},
	{name: "ext4, read-only", image: "ext4", args: "--read-only"},
	{name: "ext4, a copy", image: "ext4", args: "--ephemeral"},
	{name: "ext4, volatile", image: "ext4", args: "--volatile=yes"},
	{name: "ext4, booted", image: "ext4", args: "--as-pid2"},
	{name: "xfs", image: "xfs"},
	{name: "xfs, read-only", image: "xfs", args: "--read-only"},
	{name: "xfs, map", image: "xfs", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "btrfs", image: "btrfs"},
	{name: "btrfs, read-only", image: "btrfs", args: "--read-only"},
	{name: "btrfs, map", image: "btrfs", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "squashfs", image: "squashfs"},
	{name: "squashfs, map", image: "squashfs", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "squashfs, overlay", image: "squashfs", args: "--volatile=overlay"},
	{name: "erofs", image: "erofs"},
	{name: "erofs, map", image: "erofs", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "whole", image: "whole"},
	{name: "whole, read-only", image: "whole", args: "--read-only"},
	{name: "whole, volatile", image: "whole", args: "--volatile=yes"},
	{name: "whole, state", image: "whole", args: "--volatile=state"},
	{name: "whole, overlay", image: "whole", args: "--volatile=overlay"},
	{name: "whole, a copy", image: "whole", args: "--ephemeral"},
	{name: "whole, map", image: "whole", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "whole, auto", image: "whole", args: "--private-users=1310720:65536 --private-users-ownership=auto"},
	{name: "whole, off", image: "whole", args: "--private-users=1310720:65536 --private-users-ownership=off"},
	{name: "whole, chown", image: "whole", args: "--private-users=1310720:65536 --private-users-ownership=chown"},
	{name: "whole, identity", image: "whole", args: "--private-users=identity"},
	{name: "whole, a copy with users", image: "whole", args: "--ephemeral -U"},
	{name: "whole, volatile with users", image: "whole", args: "--volatile=yes --private-users=1310720:65536 --private-users-ownership=map"},
	{name: "whole, state with users", image: "whole", args: "--volatile=state --private-users=1310720:65536 --private-users-ownership=map"},
	{name: "whole, another root", image: "whole", args: "--pivot-root=/deploy"},
	{name: "whole, a mount over it", image: "whole", args: "--tmpfs=/home --bind=/w/out:/srv"},
	{name: "marked", image: "marked"},
	// Who may write to / could put a link in the way of what root makes there.
	{name: "usr alone", image: "usr", other: [2]string{"/ 0:0 1777 directory", "/ 0:0 755 directory"}},
	{name: "root and usr", image: "usr+root"},
	{name: "root and usr, read-only", image: "usr+root", args: "--read-only"},
	{name: "root and usr, volatile", image: "usr+root", args: "--volatile=yes"},
	{name: "root and usr, map", image: "usr+root", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "versions", image: "versions"},
	{name: "equal versions", image: "equal"},
	{name: "not automatic", image: "noauto"},
	{name: "generic", image: "generic"},
	{name: "two generic", image: "generic2", fails: true},
	{name: "generic beside root", image: "generic+root"},
	{name: "no root", image: "home", fails: true},
	{name: "another architecture", image: "riscv"},
	{name: "both architectures", image: "riscv+root"},
	{name: "sectors of 4096", image: "sectors"},
	{name: "the table's copy", image: "copy"},
	{name: "no copy of the table", image: "nocopy"},
	{name: "cut", image: "cut", fails: true},
	{name: "no protective MBR", image: "unprotected", fails: true},
	{name: "MBR", image: "mbr"},
	{name: "MBR, two", image: "mbr2", fails: true},
	{name: "MBR, not bootable", image: "mbr0", fails: true},
	{name: "ext3", image: "ext3", fails: true},
	{name: "nothing", image: "nothing", fails: true},
	{name: "empty", image: "empty", fails: true},
	{name: "missing", image: "no-such", fails: true},
	{name: "LUKS", image: "luks", args: "--no-ask-password", fails: true},
	{name: "verity", image: "verity", fails: true},
	{name: "verity, not to be used", image: "verity", args: "--image-policy=root=unprotected"},
	{name: "policy: no home", image: "whole", args: "--image-policy=root=unprotected:home=unused"},
	{name: "policy: home forbidden", image: "whole", args: "--image-policy=root=unprotected:home=absent", fails: true},
	{name: "policy: must be verified", image: "whole", args: "--image-policy=root=verity", fails: true},
	{name: "policy: any", image: "whole", args: "--image-policy=*"},
	{name: "policy: ignore", image: "whole", args: "--image-policy=-", fails: true},
	{name: "policy: nothing", image: "whole", args: "--image-policy=~", fails: true},
	{name: "policy: read-only", image: "whole", args: "--image-policy=root=unprotected+read-only-on", fails: true},
	{name: "policy: read-only, it is", image: "marked", args: "--image-policy=root=unprotected+read-only-on:home=unprotected"},
	{name: "root hash of another", image: "whole", args: "--root-hash=00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", fails: true},
	{name: "root hash too short", image: "whole", args: "--root-hash=0011", fails: true},
	{name: "with a directory", image: "whole", args: "--directory=/given/tiny", fails: true},
	{name: "with a template", image: "whole", args: "--template=/given/tiny", fails: true},
	{name: "chown, read-only", image: "whole", args: "--read-only --private-users=1310720:65536 --private-users-ownership=chown", fails: true},
	{name: "overlap", image: "overlap", fails: true},
}

// images makes all of them, in a directory.
func images(t *testing.T) string {
	dir := t.TempDir()
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	one, two := tree.Copy(t, tree.Tiny(t)), tree.Copy(t, tree.Tiny(t))
	for text, root := range map[string]string{"one": one, "two": two} {
		for _, d := range []string{"efi", "boot"} {
			os.Mkdir(filepath.Join(root, d), 0o755)
		}
		if err := os.WriteFile(root+"/which", []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for fstype, size := range map[string]int64{"xfs": 320 << 20, "btrfs": 130 << 20} {
		if out, err := exec.Command("cp", "--sparse=always", disks.File(t, fstype, one, size), filepath.Join(dir, fstype)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ext := func(root string) []byte { return disks.FS(t, "ext4", root, 24<<20) }
	part := func(kind string, b []byte) disks.Part { return disks.Part{Type: kind, Data: b} }
	small := func(name string) []byte {
		d := t.TempDir()
		if err := os.WriteFile(filepath.Join(d, name), []byte(name+"\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		os.Chown(filepath.Join(d, name), 1000, 1000)
		if name == "var" {
			os.Mkdir(d+"/tmp", 0o755)
		}
		return disks.FS(t, "ext4", d, 1<<20)
	}
	a, b := ext(one), ext(two)
	bare := tree.Copy(t, one)
	if err := os.RemoveAll(bare + "/usr"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(bare+"/usr", 0o755); err != nil {
		t.Fatal(err)
	}
	root, root2, usr := part(disks.Root, a), part(disks.Root, b), part(disks.Usr, disks.FS(t, "squashfs", one+"/usr", 0))
	home := part(disks.Home, small("home"))
	label := func(p disks.Part, text string, flags uint64) disks.Part {
		p.Label, p.Flags = text, flags
		return p
	}
	gpt := func(parts ...disks.Part) []byte { return disks.GPT(disks.Table{Parts: parts}) }
	whole := []disks.Part{part(disks.Swap, disks.Fake("swap")), home, part(disks.Tmp, small("tmp")), part(disks.Var, small("var")), part(disks.Srv, small("srv")), root}
	put("ext4", a)
	put("ext3", disks.Fake("ext3"))
	put("luks", disks.Fake("crypto_LUKS"))
	put("nothing", disks.Fake(""))
	put("empty", nil)
	put("squashfs", disks.FS(t, "squashfs", one, 0))
	put("erofs", disks.FS(t, "erofs", one, 0))
	put("whole", gpt(whole...))
	put("marked", gpt(label(root, "", disks.ReadOnly), label(home, "", disks.ReadOnly), label(part(disks.Srv, small("srv")), "", disks.NoAuto)))
	put("usr", gpt(usr))
	put("usr+root", gpt(usr, part(disks.Root, ext(bare)), home))
	put("versions", gpt(label(root, "os_9", 0), label(root2, "os_10", 0)))
	put("equal", gpt(label(root, "os", 0), label(root2, "os", 0)))
	put("noauto", gpt(label(root2, "os_10", disks.NoAuto), label(root, "os_9", 0)))
	put("generic", gpt(part(disks.Linux, a), home))
	put("generic2", gpt(part(disks.Linux, a), part(disks.Linux, b)))
	put("generic+root", gpt(part(disks.Linux, a), root2))
	put("home", gpt(home))
	put("riscv", gpt(part(disks.RISCV, a)))
	put("riscv+root", gpt(label(part(disks.RISCV, a), "2", 0), label(root2, "1", 0)))
	put("sectors", disks.GPT(disks.Table{Sector: 4096, Parts: []disks.Part{root, home}}))
	put("copy", disks.GPT(disks.Table{Parts: []disks.Part{root, home}, Broken: func(b []byte) { clear(b[512:1024]) }}))
	put("nocopy", disks.GPT(disks.Table{Parts: []disks.Part{root, home}, Broken: func(b []byte) { clear(b[len(b)-512:]) }}))
	put("cut", gpt(root, home)[:20<<20])
	put("unprotected", disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { clear(b[446:510]) }}))
	put("overlap", disks.GPT(disks.Table{Parts: []disks.Part{root, home}, Change: func(_, e []byte) { copy(e[128+32:128+48], e[32:48]) }}))
	put("mbr", disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: a}))
	put("mbr2", disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: a}, disks.Primary{Type: 0x83, Active: true, Data: b}))
	put("mbr0", disks.MBR(disks.Primary{Type: 0x83, Data: a}))
	put("verity", gpt(root, part(disks.RootVerity, disks.Fake("verity"))))
	return dir
}

// prepare makes a cell like a host with disks. Nobody removes anything of this
// devtmpfs, which is one for the whole host.
const prepare = `set -e
echo 11112222333344445555666677778888 >/etc/machine-id
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mkdir -p /w /run/udev /run/systemd/inaccessible
mount -t tmpfs w /w
cd /run/systemd/inaccessible
(umask 777; : >reg; mkdir dir; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0)
chmod 755 .
`

// payload says all about the tree that an image could have to do with, and
// leaves something to be found the next time.
const payload = `cat /proc/self/mountinfo
echo "--- tree"
hostname
cat /which
for f in / /usr /bin /etc /home /srv /var /var/tmp /home/* /srv/* /var/* /var/tmp/* /efi /boot; do
	[ -e $f ] && stat -c "%n %u:%g %a %F" $f
done
for d in / /usr /home /srv /var /var/tmp; do
	[ -e $d/mark ] && echo "marked: $d"
	(: >$d/mark) 2>/dev/null && echo "written: $d"
done
true
`

// usual are options that all runs have.
const usual = "--quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no --restrict-address-families="

// twice starts the image $1 two times under a launcher, and looks at what is
// left.
const twice = `
rm -rf /w/* /run/systemd/nspawn /var/lib/machines/*
mkdir -p /w/out /var/lib/machines
[ -e /images/%[1]s ] && cp --sparse=always /images/%[1]s /w/disk.raw
for n in 1 2; do
	timeout -k 5 20 %[2]s %[3]s --image=/w/disk.raw %[4]s /bin/sh -c %[5]s </dev/null 2>/run/said
	echo "exit status $?"
done
echo "--- left"
ls -A /w
losetup -ln -O BACK-FILE | grep ^/w
ls -A /run/systemd/nspawn/locks 2>/dev/null
echo "--- said"
cat /run/said
`

var (
	fresh  = regexp.MustCompile(`disk-[0-9a-f]{16}`)
	picked = regexp.MustCompile(`([ug]id)=[0-9]{8,10}\b`) // a range of its own each time
)

// normal takes away what is a number, or only a name, and sorts mounts.
func normal(out string) string {
	return disks.Normal(out, func(f []string, right string) string {
		right = strings.ReplaceAll(right, ",nouuid", "")
		right = picked.ReplaceAllString(right, "$1=PICKED")
		right = strings.ReplaceAll(right, "rootfs rw,mode=755", "rootfs rw")
		return strings.Join([]string{"mount", f[4], f[3], f[5], right}, " ")
	}, func(line string) string { return fresh.ReplaceAllString(line, "disk-COPY") })
}

// world is a cell with all images.
func world(t *testing.T) *cell.Cell {
	t.Helper()
	root := tree.PeersThere(t)
	dir := images(t)
	return cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t), "/images": dir}}, prepare, most)
}

// TestPeersImages starts images under systemd-nspawn and under launch, twice
// each, and compares mounts, owners, what can be written, what stays, and what
// is left on the host.
func TestPeersImages(t *testing.T) {
	c := world(t)
	daily := []string{"ext4", "whole", "whole, volatile", "whole, map", "usr alone", "versions", "MBR", "cut", "overlap", "squashfs"}
	ran, refused := 0, 0
	for _, s := range samples {
		if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") && !slices.Contains(daily, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			ran++
			see := func(launcher string) (saw, said string) {
				out, _, err := c.Shell(fmt.Sprintf(twice, s.image, launcher, usual, s.args, cell.Quoted(payload)), 2*most)
				if err != nil {
					t.Fatal(err)
				}
				saw, said, ok := strings.Cut(normal(out), "--- said")
				if !ok || !strings.Contains(saw, "exit status ") {
					t.Fatalf("nothing to compare: %s", out)
				}
				return saw, said
			}
			n, nsaid := see("systemd-nspawn")
			l, lsaid := see("/given/launch")
			started := strings.Contains(n, "exit status 0")
			switch {
			case s.fails:
				refused++
				if started || strings.Contains(l, "exit status 0") || strings.Contains(l, "--- tree") {
					t.Errorf("it is not refused: under systemd-nspawn:\n%s\nunder launch:\n%s", n, l)
				}
				if _, left, _ := strings.Cut(l, "--- left"); strings.Contains(left, "/w") || strings.Contains(left, "inode") {
					t.Errorf("left:%s", left)
				}
			case !started:
				t.Errorf("systemd-nspawn does not start it:\n%s%s", n, nsaid)
			case s.other[0] != "" && !strings.Contains(n, s.other[0]):
				t.Errorf("nothing is seen otherwise, and explained all the same: %s", s.other[0])
			case strings.ReplaceAll(n, s.other[0]+"\n", s.other[1]+"\n") != l:
				t.Errorf("under systemd-nspawn:\n%s%s\nunder launch:\n%s%s", n, nsaid, l, lsaid)
			}
		})
	}
	t.Logf("%d images and ways to start them, %d refused", ran, refused)
}
