// Package images tries `launch pull`, `launch run`, `launch images` and `launch
// rmi`: with images that are made here, in the OCI's layout, in archives, and in
// registries that the tests run on the loopback interface.
//
// Room: test.
package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// most is how long anything may take.
const most = 2 * time.Minute

// whole says that what takes minutes is run, too.
func whole() bool { return os.Getenv("LAUNCH_TEST") == "images" }

// world is a stage with a store of its own.
type world struct {
	*testing.T
	*stage.Stage
	dir   string // a scratch directory
	store string
	bin   string // the directory of the programs
	env   []string
}

func here(t *testing.T) *world {
	t.Helper()
	tree.NeedRoot(t)
	dir := tree.Scratch(t)
	w := &world{T: t, Stage: stage.New(t, stage.Unified), dir: dir, store: filepath.Join(dir, "store"), bin: stage.WithPull(t)}
	w.env = []string{"LAUNCH_STORE=" + w.store, "LAUNCH_REGISTRIES=" + filepath.Join(dir, "registries.json"), "HOME=" + dir}
	return w
}

// launch runs a command of launch and gives what it printed, both streams
// together, and its status.
func (w *world) launch(args ...string) (string, int) {
	w.Helper()
	r := w.Stage.Start(w.env, append([]string{filepath.Join(w.bin, "launch")}, args...)...)
	code, err := r.Code(most)
	if err != nil {
		w.Fatalf("launch %q: %v\n%s", args, err, r.Out)
	}
	return r.Out.String(), code
}

// does runs a command that must do well.
func (w *world) does(args ...string) string {
	w.Helper()
	out, code := w.launch(args...)
	if code != 0 {
		w.Fatalf("launch %q: status %d\n%s", args, code, out)
	}
	return out
}

// refuses runs a command that must fail, with one sentence that has these
// words.
func (w *world) refuses(words string, args ...string) {
	w.Helper()
	if complaint := w.refusal(words, args...); complaint != "" {
		w.Error(complaint)
	}
}

// refusal says what is wrong with how a command is refused; "" is nothing.
func (w *world) refusal(words string, args ...string) string {
	w.Helper()
	out, code := w.launch(args...)
	if code != 1 || !strings.Contains(out, words) {
		return fmt.Sprintf("launch %q: status %d, want 1 and %q\n%s", args, code, words, out)
	}
	n := 0
	for l := range strings.Lines(out) {
		if !strings.HasPrefix(l, "  ") {
			n++
		}
	}
	if n != 1 {
		return fmt.Sprintf("launch %q: it says %d sentences\n%s", args, n, out)
	}
	return ""
}

// machine starts a machine from an image, and gives what it printed.
func (w *world) machine(args ...string) string {
	w.Helper()
	return w.does(append([]string{"run", "--quiet", "--register=no", "--keep-unit"}, args...)...)
}

// file is an entry of a layer. The zero type is a regular file.
type file struct {
	name string
	kind byte
	data string
	link string
	mode int64
	uid  int
	gid  int
	pax  map[string]string
	dev  [2]int64
	time int64
}

// tarOf gives a layer.
func tarOf(files ...file) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	for _, f := range files {
		if err := f.add(t); err != nil {
			panic(err)
		}
	}
	t.Close()
	return b.Bytes()
}

// Packings of layers.
func plain(b []byte) ([]byte, string) { return b, "application/vnd.oci.image.layer.v1.tar" }

func gzipped(b []byte) ([]byte, string) {
	var z bytes.Buffer
	w, _ := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	w.Write(b)
	w.Close()
	return z.Bytes(), "application/vnd.oci.image.layer.v1.tar+gzip"
}

func zstandard(b []byte) ([]byte, string) {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(b, nil), "application/vnd.oci.image.layer.v1.tar+zstd"
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

// descriptor is what one blob says of another.
type descriptor struct {
	MediaType   string            `json:"mediaType,omitempty"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Platform    map[string]string `json:"platform,omitempty"`
}

// picture is an image while it is made.
type picture struct {
	blobs    map[string][]byte // by digest
	layers   []descriptor
	diffs    []string
	config   map[string]any // the part "config"
	arch     string
	manifest []byte
	digest   string
}

func draw(config map[string]any) *picture {
	return &picture{blobs: map[string][]byte{}, config: config, arch: runtime.GOARCH}
}

func (p *picture) blob(b []byte, kind string) descriptor {
	d := descriptor{MediaType: kind, Digest: digest(b), Size: int64(len(b))}
	p.blobs[d.Digest] = b
	return d
}

// layer adds a layer.
func (p *picture) layer(pack func([]byte) ([]byte, string), t []byte) *picture {
	b, kind := pack(t)
	p.layers = append(p.layers, p.blob(b, kind))
	p.diffs = append(p.diffs, digest(t))
	return p
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

// finish makes configuration and manifest.
func (p *picture) finish() *picture {
	c := map[string]any{"os": "linux", "architecture": p.arch, "config": p.config, "rootfs": map[string]any{"type": "layers", "diff_ids": p.diffs}}
	m := map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": p.blob(mustJSON(c), "application/vnd.oci.image.config.v1+json"), "layers": p.layers}
	p.manifest = mustJSON(m)
	p.digest = p.blob(p.manifest, "").Digest
	return p
}

func (p *picture) entry(tag string) descriptor {
	return descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Digest: p.digest, Size: int64(len(p.manifest)),
		Annotations: map[string]string{"org.opencontainers.image.ref.name": tag},
		Platform:    map[string]string{"os": "linux", "architecture": p.arch}}
}

// layout writes images into a directory in the OCI's layout, by their tags.
func (w *world) layout(name string, pictures map[string]*picture) string {
	w.Helper()
	dir := filepath.Join(w.dir, name)
	if err := layout(dir, pictures); err != nil {
		w.Fatal(err)
	}
	return dir
}

func layout(dir string, pictures map[string]*picture) error {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	var list []descriptor
	for tag, p := range pictures {
		list = append(list, p.entry(tag))
		for d, b := range p.blobs {
			files["blobs/sha256/"+strings.TrimPrefix(d, "sha256:")] = b
		}
	}
	files["index.json"] = mustJSON(map[string]any{"schemaVersion": 2, "manifests": list})
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return err
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Box makes a directory in the OCI's layout with an image v1: a shell with a few
// commands, which says hello.
func Box(dir string) error {
	t, err := busybox()
	if err != nil {
		return err
	}
	p := draw(map[string]any{"Cmd": []string{"/bin/echo", "hello"}}).layer(gzipped, t).finish()
	return layout(dir, map[string]*picture{"v1": p})
}

// Programs makes a directory in the OCI's layout with an image v1 of nothing but
// programs in /bin, in two layers: the upper one has a file in a directory that
// only the lower one names.
func Programs(dir string, programs map[string]string) error {
	files := []file{{name: "bin", kind: tar.TypeDir}, {name: "etc", kind: tar.TypeDir, mode: 0o751, gid: 3}}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		files = append(files, file{name: "bin/" + name, data: programs[name], mode: 0o755})
	}
	p := draw(map[string]any{"Cmd": []string{"/bin/true"}}).layer(gzipped, tarOf(files...)).layer(gzipped, tarOf(file{name: "etc/upper", data: "upper"})).finish()
	return layout(dir, map[string]*picture{"v1": p})
}

// shell is a layer with busybox, and users.
func shell(t testing.TB) []byte {
	t.Helper()
	b, err := busybox()
	if err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	return b
}

func busybox() ([]byte, error) {
	box, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	files := []file{{name: "bin", kind: tar.TypeDir}, {name: "bin/busybox", data: string(box), mode: 0o755}}
	for _, n := range strings.Fields("sh cat echo env id hostname ls mount ps pwd sleep stat test touch rm true false kill mkdir grep readlink wc dd seq find ln chown") {
		files = append(files, file{name: "bin/" + n, kind: tar.TypeSymlink, link: "busybox"})
	}
	files = append(files,
		file{name: "etc", kind: tar.TypeDir},
		file{name: "etc/passwd", data: "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n"},
		file{name: "etc/group", data: "root:x:0:\nweb:x:1000:\nwheel:x:10:web\nstaff:x:50:\n"},
		file{name: "home/web", kind: tar.TypeDir, uid: 1000, gid: 1000},
		file{name: "root", kind: tar.TypeDir, mode: 0o700},
		file{name: "tmp", kind: tar.TypeDir, mode: 0o1777})
	return tarOf(files...), nil
}
