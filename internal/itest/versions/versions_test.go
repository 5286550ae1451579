// Package versions holds directories of versions to what systemd makes of them.
//
// Room: test.
package versions

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
	"launch/internal/probe"
	"launch/settings"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

// A sample is a directory in which systemd-vpick is to choose.
type sample struct {
	at    string // its directory, and what stands behind it
	image bool
	names []string
}

// kinds are what a name can be; the sample's seed says which.
var kinds = [...]string{"directory", "file", "link to a directory", "link to a file", "fifo"}

// samples gives many, by chance but always the same ones.
func samples(n int) (list []sample) {
	r := rand.New(rand.NewPCG(1, 2))
	of := func(words ...string) string { return words[r.IntN(len(words))] }
	for range n {
		var s sample
		s.image = r.IntN(3) == 0
		name, end := of("m", "m", "m_", "a-b"), ""
		if s.image {
			end = ".raw"
		}
		switch r.IntN(4) {
		case 0:
			end = of(".raw", ".tree", "", end)
			s.at = of("x.v/", name+".v/") + name + "___" + end
		case 1:
			s.at = name + ".v"
		default:
			s.at = name + end + ".v"
		}
		words := []string{"1", "2", "10", "2.1", "2~rc1", "2^1", "2-1", "02", "a", "B", "2a"}
		words = words[r.IntN(len(words)-2):]
		for range 1 + r.IntN(9) {
			file := of(name, name, name, name, "x", "") + of("_", "_", "_", "_", "_", "", "__")
			file += of(words...)
			file += of("", "", "", "_x86-64", "_x86", "_arm64", "_arm", "_riscv64", "_other", "_", "_x86-64_x86", ",")
			file += of("", "", "", "+0", "+1", "+3", "+3-1", "+03-2", "+0-7", "+4294967295", "+4294967296", "+", "+x", "+3-", "+1+2")
			file += of(end, end, end, end, end, end, "", ".raw", ".raw+1")
			s.names = append(s.names, file)
		}
		list = append(list, s)
	}
	return list
}

// TestPeersChoose has systemd-vpick choose in many directories, and launch.
func TestPeersChoose(t *testing.T) {
	root := tree.PeersThere(t)
	top := t.TempDir()
	if err := os.Chmod(top, 0o755); err != nil {
		t.Fatal(err)
	}
	list := samples(600)
	r := rand.New(rand.NewPCG(3, 4))
	made := make([][]string, len(list))
	script := ""
	for i, s := range list {
		base := filepath.Join(top, fmt.Sprint(i))
		dir := filepath.Join(base, s.at)
		if strings.Contains(s.at, "___") {
			dir = path.Dir(dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		os.Mkdir(base+"/else", 0o755)
		os.WriteFile(base+"/other", nil, 0o644)
		for _, n := range s.names {
			k := kinds[r.IntN(len(kinds))]
			if r.IntN(3) > 0 {
				k = kinds[0]
				if s.image {
					k = kinds[1]
				}
			}
			at := filepath.Join(dir, n)
			var err error
			switch k {
			case "directory":
				err = os.Mkdir(at, 0o755)
			case "file":
				err = os.WriteFile(at, nil, 0o644)
			case "link to a directory":
				err = os.Symlink("../else", at)
			case "link to a file":
				err = os.Symlink("../other", at)
			case "fifo":
				err = syscall.Mkfifo(at, 0o644)
			}
			if err == nil { // else the name was there
				made[i] = append(made[i], n+" ("+k+")")
			}
		}
		args := "--type=dir"
		if s.image {
			args = "--type=reg --suffix=.raw"
		}
		script += fmt.Sprintf("echo \"%d $(systemd-vpick %s /lists/%d/%s 2>/dev/null)\"\n", i, args, i, s.at)
	}
	if err := os.WriteFile(filepath.Join(top, "script"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	c := cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/lists": top}}, "", time.Minute)
	out, _, err := c.Shell(". /lists/script", 5*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != len(list) {
		t.Fatalf("%d answers to %d questions: %s", len(lines), len(list), out)
	}
	chosen := 0
	for i, s := range list {
		_, theirs, _ := strings.Cut(strings.TrimSpace(lines[i]), " ")
		if theirs != "" {
			theirs = path.Base(theirs)
			chosen++
		}
		v, ok := settings.VersionsOf(filepath.Join(top, fmt.Sprint(i), s.at), s.image)
		if !ok {
			t.Errorf("%s is no path with versions", s.at)
			continue
		}
		there, err := new(probe.Finder).Versions(v)
		if err != nil {
			t.Errorf("%s: %v", s.at, err)
			continue
		}
		ours, why, err := v.Choose(there.Names, runtime.GOARCH)
		if err != nil || ours.File != theirs {
			t.Errorf("%s, images %v, of\n  %s\n systemd-vpick takes %q, and launch %q (%s, %v)", s.at, s.image, strings.Join(made[i], "\n  "), theirs, ours.File, why, err)
		}
	}
	if chosen < len(list)/2 {
		t.Errorf("something was chosen in %d of %d directories only", chosen, len(list))
	}
	t.Logf("%d of %d directories have something to choose", chosen, len(list))
}

// prepare makes a cell like a host, with disks.
const prepare = `set -e
echo 11112222333344445555666677778888 >/etc/machine-id
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm /w /run/udev /run/systemd/inaccessible
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs w /w
cd /run/systemd/inaccessible
(umask 777; : >reg; mkdir dir; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0)
chmod 755 .
`

// start has the functions of all forms: mk makes a tree that knows its own name,
// img puts one of the two images somewhere, and n starts a machine.
const start = `
rm -rf /w/* /etc/machines /run/machines /var/lib/machines /etc/systemd/nspawn
mkdir -p /etc/machines /run/machines /var/lib/machines /etc/systemd/nspawn
cd /w
mk() { for t; do mkdir -p $(dirname $t); cp -a /given/tiny $t; echo $(basename $t) >$t/which; done; }
img() { mkdir -p $(dirname $2); cp --sparse=always /images/$1 $2; }
n() {
	timeout -k 5 20 %s --quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no --restrict-address-families= "$@" \
		/bin/sh -c 'echo "$(hostname) is $(cat /which)"' </dev/null 2>>/run/said && echo started || echo failed
}
: >/run/said
M=/var/lib/machines
`

// forms are started under both launchers.
var forms = []struct {
	name, script string
	// differs says why it is otherwise under launch.
	differs string
}{
	{"directory", "mk m.v/m_1 m.v/m_10 m.v/m_9; n -D /w/m.v; n -D m.v/; n --directory=/w/m.v/../m.v/.", ""},
	{"pattern", "mk m.v/m_1 m.v/x_2 m.v/x_3.tree m.v/y_9; n -D m.v/m___; n -D m.v/x___; n -D m.v/x___.tree; n -D m.v/y___.tree", ""},
	{"one of them", "mk m.v/m_1 m.v/m_2; n -D m.v/m_1", ""},
	{"a name", "mk m.v/m_1 m.v/m_2; n -D m.v -M web", ""},
	{"throw-away", "mk m.v/m_1 m.v/m_2; n -D m.v -x -M web; ls m.v", ""},
	{"tries", "mk m.v/m_1 m.v/m_2+0-1 m.v/m_1+3; n -D m.v", ""},
	{"architectures", "mk m.v/m_1_x86-64 m.v/m_1_arm64 m.v/m_2_riscv64; n -D m.v -M web", ""},
	{"links", "mk d m.v/m_1; ln -s /w/d m.v/m_2; n -D m.v; ln -s m.v l.v; n -D l.v; mk m.v/l_7; n -D l.v", ""},
	{"no directory", "mk m.v/m_1; : >m.v/m_2; mkfifo m.v/m_3; n -D m.v", ""},
	{"newest leads nowhere", "mk m.v/m_1; ln -s nix m.v/m_2; n -D m.v", ""},
	{"older one leads nowhere", "mk m.v/m_2; ln -s nix m.v/m_1; n -D m.v", "a link that would not be taken anyway is no reason not to start"},
	{"nothing", "mkdir m.v; n -D m.v; n -D m.v/m___; n -D x.v; n -i m.v", ""},
	{"a tree", "mk m.v; n -D m.v", ""},
	{"a file", ": >m.v; n -D m.v", ""},
	{"working directory", "mk m.v/m_1; cd m.v; n; n -D .; n -D m___", ""},
	{"settings beside", "mk m.v/m_1; printf '[Exec]\\nHostname=file\\n' >m.v/m1.nspawn; n -D m.v; n -D m.v -M x; mv m.v/m1.nspawn m.nspawn; n -D m.v", ""},
	{"template", "mk m.v/m_1 m.v/m_2; n --template=m.v -D new; cat new/which; n --template=m.v/m___ -M fresh; cat $M/fresh/which; n --template=m.v -x -M web", ""},
	{"template, target", "mk m.v/m_1 t; n --template=t -D new.v; cat new.v/which; n --template=t -D m.v", ""},
	{"template, nothing", "mkdir m.v; n --template=m.v -D new; n --template=m.v/m___ -D new; ls", ""},
	{"machine", "mk $M/a.v/a_1 $M/a.v/a_2; n -M a; mk $M/a; n -M a; mk /run/machines/a.v/a_9; n -M a", ""},
	{"machine, nothing", "mkdir $M/a.v /etc/machines/b.v; mk /etc/machines/b.v/b_3_riscv64 $M/b.v/b_1; n -M a; n -M b", ""},
	{"machine, nowhere", "mk $M/a.v/a_1; ln -s nix $M/a.v/a_2; n -M a", ""},
	{"machine, settings", "mk $M/a.v/a_1; printf '[Exec]\\nHostname=file\\n' >$M/a.v/a.nspawn; n -M a; mv $M/a.v/a.nspawn $M; n -M a", ""},
	{"machine, images", "img one $M/a.raw.v/a_1.raw; img two $M/a.raw.v/a_2.raw; n -M a; mk $M/a.v/a_7; n -M a; img one $M/a.raw; n -M a", ""},
	{"machine, image of a tree's name", "img one $M/a.v/a_1.raw; n -M a; img one $M/b.v/b_1; n -M b", ""},
	{"image", "img one i.raw.v/i_9.raw; img two i.raw.v/i_10.raw; mkdir i.raw.v/i_11.raw; n -i i.raw.v; n -i i.raw.v/i___.raw; n -i i.raw.v/i___; n -i i.raw.v/i_9.raw", ""},
	{"image, names", "img one i.v/i_1.raw; img two i.v/i_2; img two j.img.v/j_1.img; n -i i.v; n -i i.v/i___; n -i j.img.v; n -i j.img.v/j___.img", ""},
	{"image, tries", "img one i.raw.v/i_1.raw; img two i.raw.v/i_2+0.raw; n -i i.raw.v; rm i.raw.v/i_1.raw; n -i i.raw.v -M web", ""},
}

// TestPeersStart starts machines from directories of versions.
func TestPeersStart(t *testing.T) {
	root := tree.PeersThere(t)
	images := t.TempDir()
	if err := os.Chmod(images, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, which := range []string{"one", "two"} {
		from := tree.Copy(t, tree.Tiny(t))
		if err := os.WriteFile(from+"/which", []byte(which+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(images, which), disks.FS(t, "ext4", from, 24<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t), "/images": images}}, prepare, time.Minute)
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			see := func(launcher string) (saw, said string) {
				out, _, err := c.Shell(fmt.Sprintf(start, launcher)+f.script+"\ncd /\necho \"--- said\"; cat /run/said", 2*time.Minute)
				if err != nil {
					t.Fatal(err)
				}
				saw, said, _ = strings.Cut(out, "--- said")
				if !strings.Contains(saw, "started\n") && !strings.Contains(saw, "failed\n") {
					t.Fatalf("nothing to compare: %s", out)
				}
				return saw, said
			}
			n, nsaid := see("systemd-nspawn")
			l, lsaid := see("/given/launch")
			switch {
			case n == l && f.differs != "":
				t.Errorf("it is the same, and need not be explained: %s", f.differs)
			case n != l && f.differs == "":
				t.Errorf("under systemd-nspawn:\n%s%s\nunder launch:\n%s%s", n, nsaid, l, lsaid)
			}
			t.Logf("%s", strings.ReplaceAll(l, "\n", "; "))
		})
	}
}

// TestShown: who asks is told which version is taken, and why.
func TestShown(t *testing.T) {
	launch := stage.Launch(t).Path
	top := t.TempDir()
	for _, d := range []string{"m_1", "m_2", "m_3+0-4", "m_4_riscv64"} {
		if err := os.MkdirAll(filepath.Join(top, "m.v", d, "usr"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const why = "m_2 is the newest of 3; m_4_riscv64 is for riscv64; m_3+0-4 has no tries left"
	dir := filepath.Join(top, "m.v")
	for _, c := range []struct{ args, want string }{
		{"--plan -D " + dir + " /bin/true", "version " + dir + "/m_2 for " + dir + ": " + why + "\n"},
		{"--plan=json -D " + dir + " /bin/true", `"why": "` + why + `"`},
		{"cat -D " + dir, "applied: " + why + "\n"},
		{"cat --json --template=" + dir + " -D " + top + "/new", `"why": "` + why + `"`},
		{"convert --to=args -D " + dir + " /bin/true", "launch --directory=" + dir + " -- /bin/true\n"},
		{"--plan -D " + dir + "/x___.tree", "launch: cannot find a version: " + dir + " has no directory called x_VERSION.tree\n"},
		{"--plan -i " + dir, "launch: cannot find a version: " + dir + " has no disk image called m_VERSION.raw\n  from:  -i " + dir + "\n  hint:"},
	} {
		out, _ := exec.Command(launch, strings.Fields(c.args)...).CombinedOutput()
		if !strings.Contains(string(out), c.want) {
			t.Errorf("launch %s: %s\nwant %s", c.args, out, c.want)
		}
	}
}
