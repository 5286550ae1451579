package images

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/itest/remake"
)

type edit = remake.Edit

// blind takes away all that keeps names below the layer's directory but for
// what confines the process.
var blind = []edit{
	{"oci/layer/layer.go", `		case p == "..":
			return "", errors.New("its name leads out of the layer")
`, ""},
	{"oci/layer/layer.go", "const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV", "const below = 0"},
	{"oci/layer/layer.go", "unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0, below)", "unix.O_RDONLY|unix.O_DIRECTORY, 0, below)"},
}

// free does without that, too.
var free = append([]edit{
	{"oci/layer/confine.go", "	if err := sys.PivotRoot(\".\", \".\"); err != nil {", "	if err := error(nil); err != nil {"},
	{"oci/layer/confine.go", "	if err := sys.Umount(\".\", unix.MNT_DETACH); err != nil {", "	if err := error(nil); err != nil {"},
	{"oci/layer/confine.go", "	return &Room{l, n}, sys.Chdir(l, \"/\")", "	at, err = sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH, 0)\n	return &Room{l, at}, err"},
	{"oci/layer/confine.go", "		func() error { return sys.Chroot(r.l) },\n		func() error { return sys.Chdir(r.l, name) },\n		func() error { return sys.Chroot(r.l) },\n", "		func() error { return sys.Chdir(r.l, name) },\n"},
	{"oci/layer/confine.go", "return sys.Openat(unix.AT_FDCWD, \"/\", unix.O_RDONLY", "return sys.Openat(unix.AT_FDCWD, \".\", unix.O_RDONLY"},
	{"oci/layer/confine.go", " | unix.MOUNT_ATTR_NOSYMFOLLOW", ""},
}, blind...)

// top is the directory of our sources.
func top(t *testing.T) string {
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// mutate builds launch-pull with the edits, beside the launch that there is.
func (w *world) mutate(edits []edit) string {
	w.Helper()
	dir := w.TempDir()
	list, err := remake.Overlay(dir, edits...)
	if err != nil {
		w.Fatal(err)
	}
	return w.build(dir, "-overlay="+list)
}

// build builds launch-pull in a way of its own, in a directory with the launch
// that there is.
func (w *world) build(dir, how string) string {
	w.Helper()
	bin := filepath.Join(dir, "bin")
	c := exec.Command("sh", "-ec", `mkdir "$1"; cp "$2/launch" "$1"; go build -buildvcs=false "$3" -o "$1/" ./cmd/launch-pull`, "sh", bin, w.bin, how)
	c.Dir = top(w.T)
	if out, err := c.CombinedOutput(); err != nil {
		w.Fatalf("build the mutant: %v\n%s", err, out)
	}
	return bin
}

// mutateLibrary does the same with an edit of a module that we use: names of files
// are those in it.
func (w *world) mutateLibrary(module string, e edit) string {
	w.Helper()
	dir := w.TempDir()
	c := exec.Command("sh", "-ec", `cp -r "$(go list -m -f '{{.Dir}}' "$1")" "$2/library"; chmod -R u+w "$2/library"; cp go.mod go.sum "$2"; echo "replace $1 => \"$2/library\"" >>"$2/go.mod"`, "sh", module, dir)
	c.Dir = top(w.T)
	if out, err := c.CombinedOutput(); err != nil {
		w.Fatalf("copy %s: %v\n%s", module, err, out)
	}
	file := filepath.Join(dir, "library", e[0])
	b, err := os.ReadFile(file)
	if err != nil {
		w.Fatal(err)
	}
	text, err := e.In(string(b))
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		w.Fatal(err)
	}
	return w.build(dir, "-modfile="+dir+"/go.mod")
}

// TestConfined: an unpacker that follows every name and link still gets nowhere:
// what lies outside of the layer's directory isn't there for it. Without the
// confinement, it does.
func TestConfined(t *testing.T) {
	w := here(t)
	canary := filepath.Join(w.dir, "canary")
	look := func() string { return w.Look("sh", "-c", "ls -lAR --full-time "+canary+"; cat "+canary+"/secret") }
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := look()
	up := strings.Repeat("../", 12)
	attacks := map[string][]byte{
		"dots":      tarOf(file{name: up + canary[1:] + "/new", data: "x"}),
		"link":      tarOf(file{name: "l", kind: tar.TypeSymlink, link: canary}, file{name: "l/secret", data: "changed"}),
		"dots link": tarOf(file{name: "l", kind: tar.TypeSymlink, link: up + canary[1:]}, file{name: "l/secret", data: "changed"}),
		"marker":    tarOf(file{name: "l", kind: tar.TypeSymlink, link: canary}, file{name: "l/.wh.other"}),
		"directory": tarOf(file{name: "l", kind: tar.TypeSymlink, link: canary}, file{name: "l/dir", kind: tar.TypeDir, mode: 0o777}),
		"hard link": tarOf(file{name: "l", kind: tar.TypeSymlink, link: canary}, file{name: "h", kind: tar.TypeLink, link: "l/secret"}),
	}
	for _, c := range []struct {
		name  string
		edits []edit
		holds bool
	}{{"as it is", nil, true}, {"blind", blind, true}, {"blind and free", free, false}} {
		t.Run(c.name, func(t *testing.T) {
			w := *w
			w.T = t
			if c.edits != nil {
				w.bin = w.mutate(c.edits)
			}
			pictures := map[string]*picture{}
			for name, layer := range attacks {
				pictures[strings.ReplaceAll(name, " ", "-")] = draw(nil).layer(gzipped, shell(t)).layer(gzipped, layer).finish()
			}
			dir := w.layout("attacks", pictures)
			for tag := range pictures {
				if c.edits == nil {
					w.refuses("of the layer: ", "pull", "oci:"+dir+":"+tag)
				} else {
					w.launch("pull", "oci:"+dir+":"+tag)
				}
			}
			if after := look(); (after == before) != c.holds {
				t.Errorf("the canary is untouched: %v, want %v\n%s", after == before, c.holds, after)
			}
			if c.edits == nil {
				w.bare(0)
			}
		})
	}
}

// TestUnpackerHolds: an unpacker has pipes, and a directory of the store, and nothing
// of the terminal that the pull was started from.
func TestUnpackerHolds(t *testing.T) {
	w := here(t)
	p := draw(nil)
	for n := range 7 {
		p.layer(gzipped, pieces(n, 300))
	}
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p.finish()}) + ":v1"
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := w.pull("--quiet", ref)
	// With one that the caller has left open by mistake.
	c.Stdin, c.Stdout, c.Stderr = tty, tty, tty
	c.ExtraFiles = []*os.File{tty}
	c.SysProcAttr.Setpgid = false
	c.SysProcAttr.Setsid, c.SysProcAttr.Setctty, c.SysProcAttr.Ctty = true, true, 0
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	tty.Close()
	go io.Copy(io.Discard, pty)
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	seen := 0
	for {
		select {
		case err := <-ended:
			if err != nil || seen == 0 {
				t.Fatalf("%v; unpackers were seen %d times", err, seen)
			}
			return
		default:
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.Process.Pid))
		for _, task := range tasks {
			children, _ := os.ReadFile(task)
			for _, child := range strings.Fields(string(children)) {
				words, _ := os.ReadFile("/proc/" + child + "/cmdline")
				stat, _ := os.ReadFile("/proc/" + child + "/stat")
				_, rest, _ := strings.Cut(string(stat), ") ")
				f := strings.Fields(rest)
				if !strings.HasSuffix(string(words), "/tmp\x00") || len(f) < 5 { // not executed yet, or gone
					continue
				}
				seen++
				if f[4] != "0" {
					t.Errorf("it has a terminal: %s", f[4])
				}
				fds, _ := filepath.Glob("/proc/" + child + "/fd/*")
				for _, fd := range fds {
					if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "/dev/") {
						t.Errorf("descriptor %s is %s", filepath.Base(fd), to)
					}
				}
				if t.Failed() {
					c.Process.Kill()
					<-ended
					return
				}
			}
		}
	}
}
