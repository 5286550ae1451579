package mstack_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// place is a cell like the host's own, with launch and disk images.
func place(t *testing.T) *cell.Cell {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	return cell.Given(t, cell.Options{View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t), "/images": images(t)}}, prepare, most)
}

// TestUsers: a machine with users of its own sees the same owners in every part of
// a stack, and what it writes has the same owners on the disk, as one without. No
// file of a layer changes.
func TestUsers(t *testing.T) {
	c := place(t)
	const see = `for f in / /which /home /home/alice /usr /srv /srv/f /mnt/f; do stat -c "%n %u:%g" $f; done
: >/new; : >/home/alice/new; chown 1000:1000 /home/alice/new; : >/srv/new; chown 33:33 /srv/new; mkdir /made; rm /which
chown 7:8 /home/alice; touch /mnt/f 2>/dev/null && echo written
true`
	const after = `
find rw bind@srv robind@mnt layer@1/home layer@1/which -path rw/work/work -prune -o -printf '%p %y %m %U:%G\n' | sed 's/ c 0 .*/ whiteout/' | sort` // whiteouts are nobody's
	make := "base layer@1; mkdir rw bind@srv robind@mnt; : >bind@srv/f; : >robind@mnt/f; chown 1000:1000 bind@srv/f; chown 5:6 robind@mnt/f"
	run := func(make, args string) string {
		out, _, err := c.Shell(fmt.Sprintf(tools+"%s\ncd /\ntimeout -k 5 20 /given/launch %s --mstack=/k/m.mstack %s /bin/sh -c %s </dev/null 2>&1\necho exit status $?\ncd /k/m.mstack\n%s", make, usual, args, cell.Quoted(see), after), most)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, kind := range []struct{ name, make string }{
		{"directories", make},
		{"rw alone", strings.Replace(make, "base layer@1; mkdir rw", "base rw; mkdir", 1)},
		{"images", strings.Replace(make, "mkdir rw", "cp --sparse=always /images/ext4 layer@0.raw; dir layer@2 two; mkdir rw", 1)},
		{"root apart", strings.Replace(make, "mkdir rw", "cp -a layer@1 root; rm -r root/usr/*; mkdir rw", 1)},
	} {
		want := run(kind.make, "")
		if !strings.Contains(want, "exit status 0") || !strings.Contains(want, "/srv/f 1000:1000") || !strings.Contains(want, "bind@srv/new f 644 33:33") || strings.Contains(want, "\nwritten") {
			t.Fatalf("%s: %s", kind.name, want)
		}
		for _, args := range []string{
			"--private-users=1310720:65536 --private-users-ownership=map", "--private-users=1310720:65536 --private-users-ownership=auto",
			"--private-users=pick", "--private-users=identity",
		} {
			if got := run(kind.make, args); got != want {
				t.Errorf("%s, %s: got\n%s\nwant\n%s", kind.name, args, got, want)
			}
		}
	}
	// A stack that was given to a range is run with it, and without a map.
	given := make + "; chown -Rh 1310720:1310720 ."
	if got := run(given, "--private-users=1310720:65536 --private-users-ownership=off"); !strings.Contains(got, "exit status 0") || !strings.Contains(got, "/which 0:0") || !strings.HasPrefix(got, "/ 0:0\n") || !strings.Contains(got, "rw/data/new f 644 1310720:1310720") {
		t.Error(got)
	}
	foreign := make + "; chown -Rh 2147352576:2147352576 ."
	if got := run(foreign, "--private-users=1310720:65536 --private-users-ownership=foreign"); !strings.Contains(got, "exit status 0") || !strings.Contains(got, "/which 0:0") || !strings.HasPrefix(got, "/ 0:0\n") || !strings.Contains(got, "rw/data/new f 644 2147352576:2147352576") {
		t.Error(got)
	}
	for _, r := range []struct{ make, args, what string }{
		{make, "--private-users=1310720:65536 --private-users-ownership=chown", "cannot change the owners of a mount stack's files"},
		{make, "--private-users=1310720:65536 --private-users-ownership=foreign", "cannot map the owners of /k/m.mstack: it belongs to 0"},
		{given, "--private-users=1310720:65536 --private-users-ownership=map", "its files belong to the range from 1310720 already"},
		{given, "--private-users=1310720:65536 --private-users-ownership=auto", "its files belong to the range from 1310720 already"},
	} {
		if got := run(r.make, r.args); !strings.Contains(got, r.what) || !strings.Contains(got, "exit status 1") || strings.Contains(got, "rw/data") {
			t.Errorf("%s: %s", r.args, got)
		}
	}
}

// TestHostile: each stack that means harm is refused, with its name, and nothing of
// the host changes; and beside each stands one that is like it and is run.
func TestHostile(t *testing.T) {
	c := place(t)
	const many = "base layer@0; mkdir rw; for n in $(seq %d); do mkdir layer@$n; done"
	for _, h := range []struct{ name, make, args, what, legal, sees string }{
		{"layer links out", "base layer@1; mkdir rw; ln -s /given/tiny layer@2", "", "layer@2 is a link that leads out of", "base layer@1; mkdir rw; base ../tiny; ln -s ../tiny layer@2", "base"},
		{"layer links up", "base layer@1; mkdir rw; ln -s ../../etc layer@2", "", "layer@2 is a link that leads out of", "base layer@1; mkdir rw; dir ../a/etc etc; ln -s ../a/etc layer@2", "etc"},
		{"layer links by a link", "base layer@1; mkdir rw; ln -s / ../a; ln -s ../a/etc layer@2", "", "layer@2 is a link that leads out of", "base layer@1; mkdir rw; dir ../b/etc etc; ln -s b ../a; ln -s ../a/etc layer@2", "etc"},
		{"layer links to the kernel", "base layer@1; mkdir rw; ln -s /proc/self/root layer@2", "", "layer@2 is a link that leads out of", "base layer@1; mkdir rw", "base"},
		{"rw is a link", "base layer@1; mkdir ../out; ln -s ../out rw", "", "rw is a link, and the machine could write", "base layer@1; mkdir rw", "base"},
		{"bind is a link", "base layer@1; mkdir rw ../out; ln -s ../out bind@srv", "", "bind@srv is a link, and the machine could write", "base layer@1; mkdir rw ../out; ln -s ../out robind@srv", "base"},
		{"root is a link", "base ../out; ln -s ../out root", "", "root is a link, and the machine could write", "base root", "base"},
		{"image links out", "base layer@1; mkdir rw; ln -s /images/ext4 bind@srv.raw", "", "bind@srv.raw is a link that leads out of", "base layer@1; mkdir rw; cp --sparse=always /images/ext4 ../x; ln -s ../x robind@srv.raw", "base"},
		{"a device", "base layer@1; mkdir rw; mknod layer@2.raw b 7 0", "", "layer@2.raw is a block device", "cp --sparse=always /images/ext4 layer@2.raw; mkdir rw", "image"},
		{"another device", "base layer@1; mkdir rw; mknod layer@2 c 1 3", "", "layer@2 is neither a directory nor a file", "base layer@1; mkdir rw; mknod .2 c 1 3", "base"},
		{"a socket of a name", "base layer@1; mkdir rw; mkfifo rw.raw", "", "rw.raw is neither a directory nor a file", "base layer@1; mkdir rw", "base"},
		{"a version links out", "base layer@1; mkdir rw layer@2.v; ln -s /etc layer@2.v/layer@2_1", "", "layer@2_1 is a link", "base layer@1; mkdir rw; dir layer@2.v/layer@2_1 one", "one"},
		{"versions link out", "base layer@1; mkdir rw; ln -s /usr layer@2.v", "", "layer@2.v is a link that leads out of", "base layer@1; mkdir rw; dir ../layer@2.v/layer@2_1 one; ln -s ../layer@2.v .", "one"},
		{"rw in linked versions", "base layer@1; mkdir -p ../rw.v/rw_1; ln -s ../rw.v rw.v", "", "rw.v is a link, and the machine could write", "base layer@1; mkdir -p rw.v/rw_1", "base"},
		{"equal versions", "base layer@1; dir layer@01 one; mkdir rw", "", "nobody can tell which of layer@01 and layer@1 is the upper layer", "base layer@1; dir layer@02 two; mkdir rw", "two"},
		{"one thing twice", "base layer@1; mkdir rw; ln -s layer@1 layer@2", "", "layer@2 is what another entry is, too", "base layer@1; mkdir rw; cp -a layer@1 layer@2", "base"},
		{"a place in other words", `base layer@1; mkdir rw bind@srv 'robind@sr\x76'`, "", `bind@srv and robind@sr\x76 are both for /srv`, `base layer@1; mkdir rw bind@srv 'robind@sr\x77'`, "base"},
		{"a slash too many", "base layer@1; mkdir rw bind@srv--x", "", "bind@srv--x names no place", "base layer@1; mkdir rw bind@srv-x", "base"},
		{"a NUL", `base layer@1; mkdir rw 'bind@srv\x00x'`, "", "names no place", `base layer@1; mkdir rw 'bind@srv\x0ax'`, "base"},
		{"work is a FIFO", "base layer@1; mkdir -p rw/data; mkfifo rw/work", "", "rw/work is no directory", "base layer@1; mkdir -p rw/data rw/work", "base"},
		{"/usr is a link", "base root; rm -r root/usr; mkdir root/usr; mkdir layer@1 rw; ln -s /usr layer@1/usr", "", "its layers have no directory /usr", "base root; mv root/usr layer@1 2>/dev/null; mkdir root/usr; mkdir x; mv layer@1 x/usr; mv x layer@1; mkdir rw", "base"},
		{"too many layers", fmt.Sprintf(many, 500), "", "it has 501 layers, and the kernel takes at most 500", fmt.Sprintf(many, 499), "base"},
		{"too many entries", "base layer@0; mkdir rw; for n in $(seq 1001); do mkdir robind@srv-$n; done", "", "it has more than 1000 entries", "base layer@0; mkdir rw; for n in $(seq 400); do mkdir robind@srv-$n; done", "base"},
		{"too many names", "base layer@0; mkdir rw; for n in $(seq 9000); do : >.$n; done", "", "it has more than 2000 names", "base layer@0; mkdir rw; for n in $(seq 1000); do : >.$n; done", "base"},
		{"a bind in the layer's link", "base layer@1; mkdir rw bind@srv-x; rm -r layer@1/srv; ln -s /proc/self/root layer@1/srv", "", "a link leads to the tree's /proc", "base layer@1; mkdir rw bind@srv-x; rm -r layer@1/srv; ln -s /home layer@1/srv", "base"},
		{"nowhere to mount on", "base layer@1; dir layer@2 two; mkdir robind@opt-none", "", "the root is read-only: make it in a layer", "base layer@1; mkdir -p layer@2/opt/none robind@opt-none", "base"},
		{"no directory", "rmdir ../m.mstack; : >../m.mstack", "", "open the directory /k/m.mstack: not a directory", "base layer@1", "base"},
		{"another root, with a bind", "base layer@1; mkdir rw bind@srv", "--pivot-root=/deploy", "would stay behind", "base layer@1; mkdir rw bind@srv", "base"},
		{"policy", "base layer@1; mkdir rw; cp --sparse=always /images/gpt layer@2.raw", "--image-policy=root=verity", "layer@2.raw", "cp --sparse=always /images/gpt layer@2.raw; mkdir rw", "image"},
		{"a hash", "base layer@1; mkdir rw", "--root-hash=00112233445566778899aabbccddeeff", "cannot check a tree that is not in a disk image", "base layer@1; mkdir rw", "base"},
	} {
		if strings.HasPrefix(h.name, "too many") && !strings.Contains(os.Getenv("LAUNCH_TEST"), "hostile") {
			continue // slow
		}
		t.Run(h.name, func(t *testing.T) {
			run := func(make, args string) string {
				const state = `{ find /k /etc /srv /home -xdev -not -path '/k/m.mstack/rw/*' -printf '%p %y %m %U:%G %l\n' | sort; find /run/systemd/nspawn/locks /run/launch -mindepth 1 2>/dev/null; cut -d' ' -f4- /proc/self/mountinfo; losetup -ln -O BACK-FILE | grep ^/k; }`
				out, _, err := c.Shell(fmt.Sprintf(tools+"%s\ncd /\n%s >/tmp/before\ntimeout -k 5 60 /given/launch %s --mstack=/k/m.mstack %s /bin/cat /which </dev/null 2>&1\necho exit status $?\n%s >/tmp/after\ndiff /tmp/before /tmp/after", make, state, usual, args, state), most)
				if err != nil {
					t.Fatal(err)
				}
				return out
			}
			bad := run(h.make, h.args)
			said, left, _ := strings.Cut(bad, "exit status 1")
			if !strings.Contains(said, h.what) || !strings.Contains(said, "hint:") || strings.TrimSpace(left) != "" {
				t.Errorf("want %q, nothing changed: %s", h.what, bad)
			}
			args := h.args
			if strings.Contains(h.name, "another root") || strings.HasPrefix(args, "--image-policy=") || strings.HasPrefix(args, "--root-hash=") {
				args = ""
			}
			if good := run(h.legal, args); !strings.HasPrefix(good, h.sees+"\nexit status 0") {
				t.Errorf("%s: %s", h.legal, good)
			}
		})
	}
}

// TestKept: with --overlay-all nothing of a stack changes, nor with a mode of
// --volatile.
func TestKept(t *testing.T) {
	c := place(t)
	for _, args := range []string{"--overlay-all", "--volatile=overlay", "--volatile=state", "--volatile=yes", "--read-only", ""} {
		for _, make := range []string{
			"base layer@1; dir layer@2 two; mkdir rw bind@srv-x robind@mnt; mkdir -p layer@2/srv/x layer@2/mnt",
			"base layer@1; dir rw/data upper; mkdir bind@srv bind@usr-share; mkdir layer@1/usr/share",
			"base layer@1; mkdir layer@2 rw; base root; rm -r root/usr/*; mkdir bind@var",
			"cp --sparse=always /images/ext4 layer@1.raw; mkdir layer@2 rw bind@srv",
		} {
			const state = "find . -not -path ./rw/work/work -printf '%p %y %m %U:%G %T@\n' | sort"
			script := fmt.Sprintf(tools+"%s\n%s >/tmp/before\ntimeout -k 5 20 /given/launch %s --mstack=/k/m.mstack %s /bin/sh -c 'for d in / /usr /srv /srv/x /var /usr/share; do (: >$d/new) 2>/dev/null; done; true' </dev/null 2>&1\necho exit status $?\n%s | diff /tmp/before - | grep -c new", make, state, usual, args, state)
			out, _, err := c.Shell(script, most)
			if err != nil {
				t.Fatal(err)
			}
			if want := "exit status 0\n0\n"; (out == want) != (args != "") || !strings.HasPrefix(out, "exit status 0\n") {
				t.Errorf("%s, %s: %s", make, args, out)
			}
		}
	}
}

// TestPeersNames: which stack a name stands for, what the machine is called, and
// which settings it gets.
func TestPeersNames(t *testing.T) {
	c := world(t)
	const see = `/bin/sh -c 'hostname; cat /which; env | grep ^SAID; true'`
	stack := tools + "base layer@1; mkdir rw; "
	for _, s := range []struct{ name, make, args, sees string }{
		{"of the directory", stack + "mv /k/m.mstack /k/a_b.c.mstack", "--mstack=/k/a_b.c.mstack", "ab.c\nbase"},
		{"no ending", stack + "mv /k/m.mstack /k/plain", "--mstack=/k/plain", "plain\nbase"},
		{"another name", stack, "--mstack=/k/m.mstack -M other", "other\nbase"},
		{"found", stack + "mv /k/m.mstack /var/lib/machines/", "-M m", "m\nbase"},
		{"directory before stack", stack + "mv /k/m.mstack /var/lib/machines/; cp -a /given/tiny /var/lib/machines/m; echo dir >/var/lib/machines/m/which", "-M m", "m\ndir"},
		{"image before stack", stack + "mv /k/m.mstack /var/lib/machines/; cp --sparse=always /images/ext4 /var/lib/machines/m.raw", "-M m", "m\nimage"},
		{"link, which systemd-nspawn takes for a tree", stack + "mv /k/m.mstack /k/real; ln -s /k/real /var/lib/machines/m.mstack", "-M m", "m\nbase"},
		{"settings beside it", stack + `printf '[Exec]\nEnvironment=SAID=beside\n' >/k/m.nspawn`, "--mstack=/k/m.mstack", "m\nbase\nSAID=beside"},
		{"relative", stack + "cd /k", "--mstack=m.mstack", "m\nbase"},
	} {
		run := func(launcher string) string {
			out, _, err := c.Shell(fmt.Sprintf("rm -rf /var/lib/machines/*; mkdir -p /var/lib/machines\n%s\ntimeout -k 5 20 %s %s %s %s </dev/null 2>&1", s.make, launcher, usual, s.args, see), most)
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(out)
		}
		if n, l := run("systemd-nspawn"), run("/given/launch"); (n == s.sees) == strings.HasPrefix(s.name, "link,") || l != s.sees {
			t.Errorf("%s: under systemd-nspawn:\n%s\nunder launch:\n%s", s.name, n, l)
		}
	}
}

// TestImages: what is written to an image is there at the next start, whatever the
// file system; those that the kernel has once only are looked at and mounted one
// after the other.
func TestImages(t *testing.T) {
	c := place(t)
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			for _, name := range []string{"rw.raw", "bind@srv.raw"} {
				empty := disks.File(t, fstype, t.TempDir(), map[string]int64{"ext4": 4 << 20, "xfs": 320 << 20, "btrfs": 130 << 20}[fstype])
				if out, err := exec.Command("cp", "--sparse=always", empty, fmt.Sprintf("/proc/%d/root/tmp/%s", c.Pid, name)).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			const see = "cat /which; echo more >>/which; echo more >>/srv/which"
			out, _, err := c.Shell(fmt.Sprintf(tools+`base layer@1; mv /tmp/*.raw .; cd /
for n in 1 2 3; do timeout -k 5 20 /given/launch %[1]s --mstack=/k/m.mstack /bin/sh -c '%[2]s' </dev/null 2>&1; done
timeout -k 5 20 /given/launch %[1]s --mstack=/k/m.mstack --read-only /bin/sh -c 'cat /which /srv/which' </dev/null 2>&1
losetup -ln -O BACK-FILE | grep ^/k; find /k -name which; true`, usual, see), 2*most)
			if err != nil {
				t.Fatal(err)
			}
			if want := "base\nbase\nmore\nbase\nmore\nmore\nbase\nmore\nmore\nmore\nmore\nmore\nmore\n/k/m.mstack/layer@1/which\n"; out != want {
				t.Error(out)
			}
		})
	}
}

// TestLocks: a stack that a machine can write to is no other's at the same time;
// systemd-nspawn 262 lets both. What nobody writes to can be shared.
func TestLocks(t *testing.T) {
	c := place(t)
	for _, s := range []struct {
		make, first, second string
		works               bool
	}{
		{"base layer@1; mkdir rw", "", "", false}, {"base layer@1; mkdir rw", "--read-only", "", false}, {"base layer@1; mkdir -p rw/data", "", "--read-only", false},
		{"base layer@1; mkdir -p rw/data", "--read-only", "--read-only", true}, {"base layer@1; mkdir layer@2", "--read-only", "--read-only", true},
		{"base layer@1; mkdir layer@2", "", "", true},
	} {
		script := fmt.Sprintf(tools+`%[1]s
cd /; mkfifo /k/up
timeout -k 5 30 %[2]s %[6]s -M one --mstack=/k/m.mstack %[3]s /bin/sh -c 'echo up; read end' </k/up >/k/said 2>&1 &
exec 9>/k/up
for i in $(seq 100); do grep -q up /k/said && break; sleep 0.1; done
grep -q up /k/said || cat /k/said
timeout -k 5 20 %[4]s %[6]s -M two --mstack=/k/m.mstack %[5]s /bin/sh -c 'echo both' </dev/null 2>&1
echo "exit status $?"
exec 9>&-
wait
ls -A /k /run/systemd/nspawn/locks 2>/dev/null
true`, s.make, "/given/launch", s.first, "/given/launch", s.second, usual)
		out, _, err := c.Shell(script, most)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out, "\n")
		if both := slices.Contains(lines, "both") && strings.Contains(out, "exit status 0"); both != s.works || strings.Contains(out, ".lck") || strings.Contains(out, "inode-") || !strings.Contains(out, "exit status") {
			t.Errorf("%s; %s, then %s: works %v, want %v\n%s", s.make, s.first, s.second, both, s.works, out)
		}
	}
}
