// Package mstack_test starts mount stacks under systemd-nspawn and under launch,
// and ones that mean harm under launch.
package mstack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// most is how long a script may take; it takes half a second.
const most = time.Minute

// A sample is a stack and a way to start it. It is made in the directory
// /k/m.mstack, in which the script is run.
type sample struct {
	name, make, args string
	// fails: both refuse it.
	fails bool
	// alone is what launch does, where systemd-nspawn 262 fails.
	alone string
	// other says what is seen otherwise under launch: lines of systemd-nspawn's,
	// and what they are under launch.
	other [][2]string
}

// Read-only is what systemd-nspawn 262 makes writable at the end, with all else.
var (
	soleLayer = [][2]string{
		{"mount / /m.mstack/layer@1 rw,relatime tmpfs w rw", "mount / /m.mstack/layer@1 ro,relatime tmpfs w rw"},
		{"removed", ""}, {"written: /", ""}, {"written: /home", ""}, {"written: /srv", ""}, {"written: /usr", ""},
		{"left: layer@1 d 755 0:0", ""}, {"left: layer@1/home d 755 0:0", ""}, {"left: layer@1/home/mark f 644 0:0", ""}, {"left: layer@1/mark f 644 0:0", ""},
		{"left: layer@1/srv d 755 0:0", ""}, {"left: layer@1/srv/mark f 644 0:0", ""}, {"left: layer@1/usr d 755 0:0", ""}, {"left: layer@1/usr/mark f 644 0:0", ""},
	}
	// Who may write to / could put a link in the way of what root makes there.
	openTmp = [2]string{"left: root/tmp d 755 0:0", "left: root/tmp d 1777 0:0"}
)

var samples = []sample{
	{name: "a layer", make: "base layer@1", other: soleLayer},
	{name: "two layers", make: "base layer@1; dir layer@2 two", other: [][2]string{
		{"mount / / rw,relatime overlay /k/m.mstack ro,lowerdir,lowerdir,redirect_dir=nofollow,userxattr", "mount / / ro,relatime overlay /k/m.mstack ro,lowerdir,lowerdir,redirect_dir=nofollow,userxattr"}}},
	{name: "layer and rw", make: "base layer@1; mkdir rw"},
	{name: "rw with what is there", make: "base layer@1; dir rw/data upper"},
	{name: "the order of versions", make: "base layer@1; dir layer@9 nine; dir layer@10 ten; dir layer@10~rc1 candidate; mkdir rw"},
	{name: "the order of names", make: "base layer@a; dir layer@b2 two; dir layer@b10 ten; mkdir rw"},
	{name: "whiteouts", make: "base layer@1; dir layer@2 two; mknod layer@2/srv c 0 0; mkdir rw"},
	{name: "opaque directory", make: "base layer@1; cp -a /images/opaque layer@2; mkdir rw"},
	{name: "read-only", make: "base layer@1; dir rw/data upper", args: "--read-only"},
	{name: "rw alone", make: "base rw"},
	{name: "binds", make: "base layer@1; mkdir rw bind@srv-x robind@home; : >robind@home/f", other: [][2]string{
		{"mount /home /m.mstack/robind@home rw,relatime tmpfs w rw", "mount /home /m.mstack/robind@home ro,relatime tmpfs w rw"},
		{"written: /home", ""}, {"left: robind@home/mark f 644 0:0", ""}, {"left: robind@home d 755 0:0", ""},
	}},
	{name: "escaped", make: `base layer@1; mkdir rw 'bind@srv-a\x2db' 'bind@srv-\xc3\xa4'`},
	{name: "bind over a layer's directory", make: "base layer@1; mkdir rw bind@usr-share; : >bind@usr-share/f"},
	{name: "bind in a bind", make: "base layer@1; mkdir -p rw bind@srv/x bind@srv-x; : >bind@srv-x/f"},
	{name: "root and layer", make: "base layer@1; dir root root", other: [][2]string{openTmp,
		{"mount /usr /m.mstack/layer@1/usr rw,relatime tmpfs w rw", "mount /usr /m.mstack/layer@1/usr ro,relatime tmpfs w rw"},
		{"written: /usr", ""}, {"left: layer@1/usr d 755 0:0", ""}, {"left: layer@1/usr/mark f 644 0:0", ""}}},
	{name: "root, layer and rw", make: "base layer@1; dir root root; mkdir rw", other: [][2]string{openTmp}},
	{name: "root and layers", make: "base layer@1; dir layer@2 two; dir root root", other: [][2]string{openTmp,
		{"mount /usr /usr rw,relatime overlay /k/m.mstack ro,lowerdir,lowerdir,redirect_dir=nofollow,userxattr", "mount /usr /usr ro,relatime overlay /k/m.mstack ro,lowerdir,lowerdir,redirect_dir=nofollow,userxattr"}}},
	{name: "root and rw", make: "base rw; dir root root", other: [][2]string{openTmp}},
	{name: "root alone", make: "base root"},
	{name: "root and a bind for /usr", make: "base layer@1; dir root root; cp -a /given/tiny/usr bind@usr", other: [][2]string{openTmp}},
	{name: "binds alone", make: "cp -a /given/tiny/usr bind@usr; mkdir bind@srv"},
	{name: "binds alone, read-only", make: "cp -a /given/tiny/usr bind@usr; mkdir bind@srv", args: "--read-only", alone: "mount / / ro,relatime tmpfs /k/m.mstack rw,mode=755"},
	{name: "a bind for all", make: "base bind@-; base layer@1; mkdir bind@srv-x"},
	{name: "hidden names", make: "base layer@1; mkdir rw .d; : >.f"},
	{name: "linked layer", make: "base layer@1; dir ../linked linked; ln -s ../linked layer@2; mkdir rw"},
	{name: "versions of a layer", make: "base layer@1; dir layer@2.v/layer@2_9 nine; dir layer@2.v/layer@2_10 ten; dir layer@2.v/layer@3_11 eleven; mkdir rw"},
	{name: "versions of an image", make: "mkdir layer@1.raw.v rw; cp --sparse=always /images/ext4 layer@1.raw.v/layer@1_2.raw; cp /images/nothing layer@1.raw.v/layer@1_1.raw"},
	{name: "versions of rw and a mount", make: "base layer@1; mkdir -p rw.v/rw_1 rw.v/rw_2 bind@srv.v/bind@srv_5; : >bind@srv.v/bind@srv_5/f"},
	{name: "volatile", make: "base layer@1; dir layer@2 two; dir rw/data upper", args: "--volatile=yes"},
	{name: "volatile, state", make: "base layer@1; dir layer@2 two; dir rw/data upper", args: "--volatile=state"},
	{name: "volatile, overlay", make: "base layer@1; dir layer@2 two; dir rw/data upper", args: "--volatile=overlay"},
	{name: "another root", make: "base layer@1; mkdir rw", args: "--pivot-root=/deploy", other: [][2]string{{"left: rw/data/deploy/tmp d 755 0:0", "left: rw/data/deploy/tmp d 1777 0:0"}}},
	{name: "a mount over it", make: "base layer@1; mkdir rw bind@srv", args: "--tmpfs=/srv --bind=/given/tiny/etc:/mnt"},
	{name: "booted", make: "base layer@1; mkdir rw", args: "--as-pid2"},
	{name: "image and rw", make: "cp --sparse=always /images/ext4 layer@1.raw; mkdir rw"},
	{name: "image with a table", make: "cp --sparse=always /images/gpt layer@1.raw; mkdir rw"},
	{name: "image and layer", make: "cp --sparse=always /images/squashfs layer@1.raw; dir layer@2 two; mkdir rw"},
	{name: "rw is an image", make: "base layer@1; cp --sparse=always /images/blank rw.raw"},
	{name: "rw is an image, read-only", make: "base layer@1; cp --sparse=always /images/used rw.raw", args: "--read-only"},
	{name: "image bound", make: "base layer@1; mkdir rw; cp --sparse=always /images/ext4 bind@srv.raw", alone: "written: /srv"},

	{name: "nothing in it", fails: true, make: "true"},
	{name: "unknown name", fails: true, make: "base layer@1; mkdir rw lib"},
	{name: "no image", fails: true, make: "base layer@1; mkdir rw; : >layer@2"},
	{name: "two rw", fails: true, make: "base layer@1; mkdir rw; cp --sparse=always /images/ext4 rw.raw"},
	{name: "two for a place", fails: true, make: "base layer@1; mkdir rw bind@srv robind@srv"},
	{name: "two of an ID", fails: true, make: "base layer@1; mkdir rw; cp --sparse=always /images/ext4 layer@1.raw"},
	{name: "leads out", fails: true, make: "base layer@1; mkdir rw bind@srv-..-..-etc"},
	{name: "leads out, escaped", fails: true, make: `base layer@1; mkdir rw 'bind@srv-\x2e\x2e-etc'`},
	{name: "wrong escape", fails: true, make: `base layer@1; mkdir rw 'bind@srv\x2'`},
	{name: "no place", fails: true, make: "base layer@1; mkdir rw bind@"},
	{name: "no ID", fails: true, make: "base layer@; mkdir rw"},
	{name: "no version", fails: true, make: "base layer@1; mkdir -p rw layer@2.v/other_1"},
	{name: "version and one without", fails: true, make: "base layer@1; mkdir -p rw layer@1.v/layer@1_1"},
	{name: "a FIFO", fails: true, make: "base layer@1; mkdir rw; mkfifo bind@srv"},
	{name: "image of nothing", fails: true, make: "base layer@1; mkdir rw; cp /images/nothing layer@2.raw"},
	{name: "a link to nowhere", fails: true, make: "base layer@1; mkdir rw; ln -s ../nowhere layer@2"},
	{name: "data is a link", fails: true, make: "base layer@1; mkdir -p rw ../out; ln -s ../../out rw/data"},
	{name: "work is a link", fails: true, make: "base layer@1; mkdir -p rw/data ../out; ln -s ../../out rw/work"},
	{name: "data is a file", fails: true, make: "base layer@1; mkdir rw; : >rw/data"},
	{name: "no /usr", fails: true, make: "dir layer@1 one; mkdir rw"},
	{name: "with a directory", fails: true, make: "base layer@1; mkdir rw", args: "--directory=/given/tiny"},
	{name: "with an image", fails: true, make: "base layer@1; mkdir rw", args: "--image=/images/ext4"},
	{name: "with a template", fails: true, make: "base layer@1; mkdir rw", args: "--template=/given/tiny"},
	{name: "a copy", fails: true, make: "base layer@1; mkdir rw", args: "--ephemeral"},
	{name: "journal in the stack", fails: true, make: "base layer@1; mkdir rw", args: "--ephemeral --link-journal=guest"},
}

// images makes disk images, in a directory.
func images(t *testing.T) string {
	dir := t.TempDir()
	root := tree.Copy(t, tree.Tiny(t))
	if err := os.WriteFile(root+"/which", []byte("image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ext := disks.FS(t, "ext4", root, 24<<20)
	blank, used := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(used+"/data", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(used+"/data/which", []byte("used\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"ext4": ext, "squashfs": disks.FS(t, "squashfs", root, 0), "nothing": disks.Fake(""), "blank": disks.FS(t, "ext4", blank, 4<<20), "used": disks.FS(t, "ext4", used, 4<<20),
		"gpt": disks.GPT(disks.Table{Parts: []disks.Part{{Type: disks.Root, Data: ext}}}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	srv := filepath.Join(dir, "opaque", "srv")
	if err := os.MkdirAll(srv, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(srv, "user.overlay.opaque", []byte("y"), 0); err != nil {
		t.Fatal(err)
	}
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
mkdir -p /k /run/udev /run/systemd/inaccessible
mount -t tmpfs w /k
mkdir -p /var/lib/machines
mount -t tmpfs machines /var/lib/machines
cd /run/systemd/inaccessible
(umask 777; : >reg; mkdir dir; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0)
chmod 755 .
`

// payload says all about the tree that a stack could have to do with, and leaves
// something to be found.
const payload = `cat /proc/self/mountinfo
echo "--- tree"
hostname
cat /which
for f in / /usr /bin /etc /which /srv /srv/* /srv/x/* /home /home/* /usr/share/*; do
	[ -e $f ] && stat -c "%n %u:%g %a %F" $f
done
for d in / /usr /home /srv /srv/x; do
	[ -e $d/mark ] && echo "marked: $d"
	(: >$d/mark) 2>/dev/null && echo "written: $d"
done
rm -f /which 2>/dev/null && echo removed
true
`

// usual are options that all runs have.
const usual = "--quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no --restrict-address-families="

// tools are what scripts that make stacks use, and what they begin with.
const tools = `rm -rf /k/* /k/.[#m]* /run/systemd/nspawn
mkdir -p /k/m.mstack && cd /k/m.mstack
base() { cp -a /given/tiny "$1"; echo base >"$1/which"; }
dir() { mkdir -p "$1"; echo "$2" >"$1/which"; }
`

// once starts a stack under a launcher, and looks at what is left.
const once = tools + `
%[1]s
: >/k/stamp; touch -d '1 second ago' /k/stamp; find /k/m.mstack /k/linked /k/out -exec touch -hd '1 minute ago' {} + 2>/dev/null
cd /
timeout -k 5 20 %[2]s %[3]s --mstack=/k/m.mstack %[4]s /bin/sh -c %[5]s </dev/null 2>/run/said
echo "exit status $?"
echo "--- left"
cd /k/m.mstack
find . -path '*/work/work' -prune -o -newer /k/stamp -printf 'left: %%P %%y %%m %%U:%%G\n' | sort
cat rw/data/which 2>/dev/null
ls -A /k
ls -A /k/out 2>/dev/null
losetup -ln -O BACK-FILE | grep ^/k
ls -A /run/systemd/nspawn/locks 2>/dev/null
echo "--- said"
cat /run/said
`

// normal takes away what is a number, or only a name, and sorts mounts.
func normal(out string) string {
	return disks.Normal(out, func(f []string, right string) string {
		flags := f[5]
		if strings.Contains(right, " w rw") || strings.Contains(right, "/k/m.mstack") || strings.Contains(right, " DISK ") {
			flags = strings.ReplaceAll(flags, ",nodev", "")
		}
		return strings.Join([]string{"mount", f[4], f[3], flags, strings.TrimSpace(right)}, " ")
	}, func(line string) string { return line })
}

// world is a cell with all that stacks are made of.
func world(t *testing.T) *cell.Cell {
	t.Helper()
	root := tree.PeersThere(t)
	dir := images(t)
	return cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t), "/images": dir}}, prepare, most)
}

// start gives what is seen, in the machine and behind it, and what was said.
func start(t *testing.T, c *cell.Cell, launcher string, s sample) (saw, said string) {
	t.Helper()
	out, _, err := c.Shell(fmt.Sprintf(once, s.make, launcher, usual, s.args, cell.Quoted(payload)), 2*most)
	if err != nil {
		t.Fatal(err)
	}
	saw, said, ok := strings.Cut(normal(out), "--- said")
	if !ok || !strings.Contains(saw, "exit status ") {
		t.Fatalf("nothing to compare: %s", out)
	}
	return saw, said
}

// TestPeersStacks starts stacks under systemd-nspawn and under launch, and compares
// mounts, owners, what can be written, where it stays, and what is left on the
// host.
func TestPeersStacks(t *testing.T) {
	c := world(t)
	out, _, err := c.Shell("systemd-nspawn --mstack=/no/such", most)
	switch {
	case err != nil:
		t.Fatal(err)
	case strings.Contains(out, "unrecognized option"):
		t.Skip("this systemd-nspawn has no mount stacks")
	}
	daily := []string{"layer and rw", "the order of versions", "whiteouts", "binds", "root, layer and rw", "linked layer", "volatile", "image and layer", "leads out", "data is a link"}
	ran, refused := 0, 0
	for _, s := range samples {
		if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") && !slices.Contains(daily, s.name) {
			continue
		}
		t.Run(s.name, func(t *testing.T) {
			ran++
			n, nsaid := start(t, c, "systemd-nspawn", s)
			l, lsaid := start(t, c, "/given/launch", s)
			started := strings.Contains(n, "exit status 0")
			if s.fails {
				refused++
				if started || strings.Contains(l, "exit status 0") || strings.Contains(l, "--- tree") {
					t.Errorf("it is not refused: under systemd-nspawn:\n%s\nunder launch:\n%s", n, l)
				}
				if strings.Contains(l, "left: ") || strings.Contains(l, "inode") || strings.Contains(l, ".lck") {
					t.Errorf("left:%s", l)
				}
				if !strings.Contains(lsaid, "hint:") {
					t.Errorf("no cure: %s", lsaid)
				}
				t.Log(lsaid)
				return
			}
			if s.alone != "" {
				if started || !strings.Contains(l, "exit status 0") || !strings.Contains(l, s.alone+"\n") {
					t.Errorf("under systemd-nspawn:\n%s%s\nunder launch:\n%s%s", n, nsaid, l, lsaid)
				}
				return
			}
			if !started {
				t.Fatalf("systemd-nspawn does not start it:\n%s%s", n, nsaid)
			}
			lines := strings.Split(n, "\n")
			for _, o := range s.other {
				i := slices.Index(lines, o[0])
				if i < 0 {
					t.Fatalf("nothing is seen otherwise, and explained all the same: %s\n%s", o[0], n)
				}
				if lines[i] = o[1]; o[1] == "" {
					lines = slices.Delete(lines, i, i+1)
				}
			}
			if want := strings.Join(lines, "\n"); want != l {
				t.Errorf("under systemd-nspawn:\n%s%s\nunder launch:\n%s%s", want, nsaid, l, lsaid)
			}
		})
	}
	t.Logf("%d stacks and ways to start them, %d refused", ran, refused)
}
