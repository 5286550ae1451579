package images

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// pieces are layers of many small files; layer n is the same in all images.
func pieces(n, files int) []byte {
	list := make([]file, 0, files)
	for i := range files {
		list = append(list, file{name: fmt.Sprintf("p%d/%d", n, i), data: strings.Repeat(fmt.Sprint(n, i), 200)})
	}
	return tarOf(list...)
}

// tally describes what is in a directory, but for times that are as they come.
func tally(t testing.TB, dir string) string {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := os.Lstat(p)
		if err == nil {
			size := st.Size()
			if d.IsDir() {
				size = 0
			}
			fmt.Fprintf(&b, "%s %v %d\n", strings.TrimPrefix(p, dir), st.Mode(), size)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// pull starts a pull that needs no stage: it starts no machine.
func (w *world) pull(args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(w.bin, "launch"), append([]string{"pull"}, args...)...)
	c.Env = append(os.Environ(), w.env...)
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// TestKilled: a pull is killed at points all over its way. No half of a tree is
// ever to be seen, the next pull goes on, and a sweep leaves nothing behind.
func TestKilled(t *testing.T) {
	w := here(t)
	points := 40
	if whole() {
		points = 200
	}
	p := draw(map[string]any{"Cmd": []string{"/bin/echo", "whole"}}).layer(gzipped, shell(t))
	for n := range 7 {
		p.layer(gzipped, pieces(n, 300))
	}
	p.finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	begun := time.Now()
	w.does("pull", "--quiet", ref)
	all := time.Since(begun)
	want := map[string]string{}
	layers := filepath.Join(w.store, "layers")
	list, err := os.ReadDir(layers)
	if err != nil || len(list) != 8 {
		t.Fatalf("%d layers, %v", len(list), err)
	}
	for _, l := range list {
		want[l.Name()] = tally(t, filepath.Join(layers, l.Name(), "tree"))
	}
	w.does("rmi", "--quiet", ref)
	alive, resumed := 0, 0
	for i := range points {
		c := w.pull("--quiet", ref)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * all * time.Duration(i) / time.Duration(points))
		syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		c.Wait()
		kept := 0
		dirs, _ := filepath.Glob(filepath.Join(w.store, "fresh-*"))
		for _, dir := range append(dirs, layers) {
			there, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range there {
				kept++
				if got := tally(t, filepath.Join(dir, l.Name(), "tree")); got != want[l.Name()] {
					t.Fatalf("killed at %d of %d: half of layer %s is in %s", i, points, l.Name(), dir)
				}
			}
		}
		out := w.does("images", "--json")
		switch {
		case strings.Contains(out, ref):
			alive++
			if kept != 8 {
				t.Errorf("killed at %d of %d: the image is there, with %d layers", i, points, kept)
			}
			if out := w.machine(ref); out != "whole\n" {
				t.Errorf("killed at %d of %d: the machine says %q", i, points, out)
			}
			w.does("rmi", "--quiet", ref)
		case kept > 0:
			resumed++
			// Every other time what is left is swept, else the next one goes on.
			if i%2 == 0 {
				continue
			}
			fallthrough
		default:
			w.does("rmi", "--quiet", "--unused")
			w.bare(0)
		}
	}
	t.Logf("%d points in %v: %d times the image was there, %d times some layers", points, all, alive, resumed)
	w.does("pull", "--quiet", ref)
	if out := w.machine(ref); out != "whole\n" {
		t.Errorf("in the end the machine says %q", out)
	}
	w.does("rmi", "--quiet", ref)
	w.bare(0)
	if left, _ := os.ReadDir(layers); len(left) != 0 {
		t.Errorf("layers left: %v", left)
	}
}

// TestRemovalKilled: whoever takes an image away is killed at points all over his
// way. Another image with the same layers is never touched, that one is there
// whole or not at all, and the next sweep ends what was begun.
func TestRemovalKilled(t *testing.T) {
	w := here(t)
	points := 12
	if whole() {
		points = 200
	}
	base, shared := shell(t), pieces(0, 100)
	kept := draw(map[string]any{"Cmd": []string{"/bin/echo", "kept"}}).layer(gzipped, base).layer(gzipped, shared).finish()
	gone := draw(map[string]any{"Cmd": []string{"/bin/echo", "gone"}}).layer(gzipped, base).layer(gzipped, shared)
	for n := range 4 {
		gone.layer(gzipped, pieces(n+1, 100))
	}
	gone.finish()
	dir := w.layout("box", map[string]*picture{"kept": kept, "gone": gone})
	ref := func(tag string) string { return "oci:" + dir + ":" + tag }
	w.does("pull", "--quiet", ref("kept"))
	layers := filepath.Join(w.store, "layers")
	mine := tally(t, layers)
	var all time.Duration
	for range 3 {
		w.does("pull", "--quiet", ref("gone"))
		begun := time.Now()
		w.does("rmi", "--quiet", ref("gone"))
		all = time.Since(begun)
	}
	there, half := 0, 0
	for i := range points {
		w.does("pull", "--quiet", ref("gone"))
		c := exec.Command(filepath.Join(w.bin, "launch"), "rmi", "--quiet", ref("gone"))
		c.Env = append(os.Environ(), w.env...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(all * time.Duration(i) / time.Duration(points))
		c.Process.Kill()
		c.Wait()
		if out := w.does("images", "--json"); strings.Contains(out, ref("gone")) {
			there++
			if out := w.machine("--pull=never", ref("gone")); out != "gone\n" {
				t.Errorf("killed at %d of %d: the image is there, and its machine says %q", i, points, out)
			}
			w.does("rmi", "--quiet", ref("gone"))
		} else {
			if tally(t, layers) != mine {
				half++
			}
			w.does("rmi", "--quiet", "--unused")
		}
		if now := tally(t, layers); now != mine {
			t.Fatalf("killed at %d of %d: the layers are\n%s\nand were\n%s", i, points, now, mine)
		}
		w.bare(1)
	}
	if out := w.machine("--pull=never", ref("kept")); out != "kept\n" {
		t.Errorf("in the end the other image's machine says %q", out)
	}
	t.Logf("%d points in %v: %d times the image was still there, %d times some of its layers", points, all, there, half)
}

// TestAtOnce: many pulls of images that share layers, at once: each layer is
// unpacked once, and there once.
func TestAtOnce(t *testing.T) {
	w := here(t)
	number := 40
	if whole() {
		number = 200
	}
	const images, pool = 20, 12
	base := shell(t)
	shared := make([][]byte, pool)
	for n := range shared {
		shared[n] = pieces(n, 40)
	}
	tags := map[string]*picture{}
	for i := range images {
		p := draw(map[string]any{"Cmd": []string{"/bin/ls", "/"}}).layer(gzipped, base)
		for n := range pool {
			if (i>>(n%5))&1 == 1 || n == i%pool {
				p.layer(gzipped, shared[n])
			}
		}
		tags[fmt.Sprintf("v%d", i)] = p.finish()
	}
	dir := w.layout("box", tags)
	var wait sync.WaitGroup
	outs := make([]bytes.Buffer, number)
	for i := range number {
		c := w.pull("--json", fmt.Sprintf("oci:%s:v%d", dir, i%images))
		c.Stdout, c.Stderr = &outs[i], &outs[i]
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			if err := c.Wait(); err != nil {
				t.Errorf("pull %d: %v\n%s", i, err, &outs[i])
			}
		})
	}
	wait.Wait()
	made := map[string]int{}
	for i := range outs {
		for l := range strings.Lines(outs[i].String()) {
			var e struct{ Event, Layer, State string }
			if err := json.Unmarshal([]byte(l), &e); err != nil {
				t.Fatalf("%v: %s", err, l)
			}
			if e.Event == "layer" && e.State == "done" {
				made[e.Layer]++
			}
		}
	}
	for l, n := range made {
		if n != 1 {
			t.Errorf("layer %s was made %d times", l, n)
		}
	}
	list, err := os.ReadDir(filepath.Join(w.store, "layers"))
	if err != nil || len(list) != len(made) || len(list) != pool+1 {
		t.Errorf("%d layers in the store, %d were made, want %d (%v)", len(list), len(made), pool+1, err)
	}
	w.bare(images)
	for i := range 3 {
		w.machine(fmt.Sprintf("oci:%s:v%d", dir, i))
	}
}
