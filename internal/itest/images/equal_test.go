package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/tree"
)

// special is what a tree from Debian doesn't have, or what later layers change.
func special(layers int) func(n int) []file {
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service=ep
	first := []file{
		{name: "odd", kind: tar.TypeDir, mode: 0o1751, uid: 7, gid: 8, pax: map[string]string{"SCHILY.xattr.user.dir": "of a directory"}},
		{name: "odd/setuid", data: "x", mode: 0o6755, uid: 33, gid: 34},
		{name: "odd/caps", data: "x", mode: 0o755, uid: 1, pax: map[string]string{"SCHILY.xattr.security.capability": caps}},
		{name: "odd/attributes", data: "x", pax: map[string]string{"SCHILY.xattr.user.one": "1\x00\n=", "SCHILY.xattr.user.two": strings.Repeat("z", 2000)}},
		{name: "odd/link 1", data: "linked", uid: 5}, {name: "odd/link 2", kind: tar.TypeLink, link: "odd/link 1"},
		{name: "odd/link 3", kind: tar.TypeLink, link: "./odd/link 2"},
		{name: "odd/fifo", kind: tar.TypeFifo, mode: 0o620, gid: 5},
		{name: "odd/abs", kind: tar.TypeSymlink, link: "/etc/passwd", uid: 3}, {name: "odd/out", kind: tar.TypeSymlink, link: "../../../../etc/shadow"},
		{name: "odd/" + strings.Repeat("n", 255), data: "long"},
		{name: "odd/" + strings.Repeat("deep/", 100) + "file", data: "deep"},
		{name: "odd/new\nline \x01\xff tab\t", data: "name"},
		{name: "odd/empty"}, {name: "odd/big", data: strings.Repeat("0123456789abcdef", 1<<17)},
		{name: "odd/twice", data: "first"}, {name: "odd/twice", data: "second", mode: 0o600},
		{name: "odd/gone", data: "x"}, {name: "odd/dir", kind: tar.TypeDir, mode: 0o700}, {name: "odd/dir/a"}, {name: "odd/dir/b/c"},
		{name: "odd/opaque", kind: tar.TypeDir}, {name: "odd/opaque/old"}, {name: "odd/anew", kind: tar.TypeDir}, {name: "odd/anew/old"},
		{name: "odd/kept", kind: tar.TypeDir, mode: 0o705, uid: 9, gid: 9}, {name: "odd/kept/1"},
		{name: "odd/file to dir"}, {name: "odd/dir to file", kind: tar.TypeDir}, {name: "odd/dir to file/x"},
	}
	last := []file{
		{name: "odd/.wh.gone"}, {name: "odd/.wh.dir"}, {name: "odd/opaque", kind: tar.TypeDir, mode: 0o711, time: 5}, {name: "odd/opaque/.wh..wh..opq"}, {name: "odd/opaque/new"},
		{name: "odd/.wh.anew"}, {name: "odd/anew", kind: tar.TypeDir, mode: 0o750}, {name: "odd/anew/new"},
		{name: "odd/kept/2", data: "its directory is not in this layer"},
		{name: "odd/file to dir", kind: tar.TypeDir}, {name: "odd/file to dir/y"}, {name: "odd/dir to file", data: "z"},
		{name: "etc/motd", data: "changed\n", uid: 1234, gid: 4321}, {name: "etc/.wh.debian_version"},
	}
	return func(n int) []file {
		switch {
		case layers == 1:
			return first
		case n == 0:
			return first
		case n == layers-1:
			return last
		}
		return nil
	}
}

// debian makes an image of a Debian tree in a layout.
func (w *world) debian(layers int) (ref string, p *picture) {
	w.Helper()
	p, err := pictureOf(tree.Debian(w), layers, special(layers))
	if err != nil {
		w.Fatal(err)
	}
	return "oci:" + w.layout(fmt.Sprintf("debian%d", layers), map[string]*picture{"v1": p}) + ":v1", p
}

// apart are what a machine has of its own, or what its launcher makes in it.
var apart = []string{"/", "/dev", "/proc", "/sys", "/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}

// archive has an archive made of a tree, by GNU tar.
var archive = []string{"tar", "-c", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--sort=name", "--format=posix", "--pax-option=delete=atime,delete=ctime",
	"--exclude=./proc/*", "--exclude=./sys/*", "--exclude=./dev/*", "--warning=no-file-ignored", "--warning=no-file-changed"}

// alike compares two lines of listings. The time of a directory doesn't count
// if the peer's is that of the test: it is as old as its unpacking, since no
// layer names it, or something was put into it later.
func alike(ours, theirs string, since int64) bool {
	cut := func(line string) (before, stamp, after string) {
		before, rest, _ := strings.Cut(line, " time ")
		stamp, after, _ = strings.Cut(rest, " ")
		return before, stamp, after
	}
	b1, _, a1 := cut(ours)
	b2, stamp, a2 := cut(theirs)
	if n, err := strconv.ParseInt(stamp, 10, 64); strings.HasPrefix(theirs, "5 ") && err == nil && n >= since {
		return b1 == b2 && a1 == a2
	}
	return ours == theirs
}

// TestPeersUnpack: a machine sees the tree that skopeo and umoci unpack: byte
// for byte, owner for owner, attribute for attribute, in 1, 8 and 60 layers. Every
// day, 8 have to do.
func TestPeersUnpack(t *testing.T) {
	w := here(t)
	for _, p := range []string{"skopeo", "umoci"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(err)
		}
	}
	host := w.dockerRegistry()
	numbers := []int{8}
	if whole() {
		numbers = []int{1, 8, 60}
	}
	for _, layers := range numbers {
		t.Run(fmt.Sprint(layers), func(t *testing.T) {
			w := *w
			w.T = t
			ref, _ := w.debian(layers)
			name := fmt.Sprintf("%s/debian:l%d", host, layers)
			w.skopeo(ref, "docker://"+name)
			begun := time.Now().UnixNano()
			w.does("pull", name)
			// The peers, from the same registry.
			dir := filepath.Join(w.dir, fmt.Sprintf("peer%d", layers))
			w.skopeo("docker://"+name, "oci:"+dir+":v1")
			if out, err := exec.Command("umoci", "unpack", "--image", dir+":v1", dir+"-bundle").CombinedOutput(); err != nil {
				t.Fatalf("umoci: %v\n%s", err, out)
			}
			c := exec.Command(archive[0], append(archive[1:], "-C", dir+"-bundle/rootfs", ".")...)
			var errs bytes.Buffer
			c.Stderr = &errs
			text, err := c.Output()
			if err != nil {
				t.Fatalf("tar: %v\n%s", err, &errs)
			}
			want, err := listing(bytes.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			out := filepath.Join(w.dir, fmt.Sprintf("seen%d.tar", layers))
			f, err := os.Create(out)
			if err != nil {
				t.Fatal(err)
			}
			errs.Reset()
			r := w.StartAs(func(c *exec.Cmd) { c.Stdout, c.Stderr = f, &errs }, w.env,
				append(append([]string{filepath.Join(w.bin, "launch"), "run", "--quiet", "--register=no", "--keep-unit", name}, archive...), "-C", "/", ".")...)
			if code, err := r.Code(most); err != nil || code > 1 { // 1: proc and sys change
				t.Fatalf("tar in the machine: status %d, %v\n%s", code, err, &errs)
			}
			f.Seek(0, 0)
			got, err := listing(f)
			if err != nil {
				t.Fatal(err)
			}
			if len(want) < 5000 {
				t.Fatalf("umoci's tree has only %d names", len(want))
			}
			for _, name := range apart {
				delete(got, name)
				delete(want, name)
			}
			differ := 0
			for _, name := range slices.Sorted(maps.Keys(want)) {
				if !alike(got[name], want[name], begun) && differ < 20 {
					differ++
					t.Errorf("%q:\n\tumoci:  %s\n\tlaunch: %s", name, want[name], got[name])
				}
				delete(got, name)
			}
			for name := range got {
				t.Errorf("%q is not in umoci's tree: %s", name, got[name])
			}
		})
	}
}
