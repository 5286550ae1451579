package images

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// TestPlaces: all the places that an image can be in.
func TestPlaces(t *testing.T) {
	w := here(t)
	p := small(t)
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	file := func(name string) string { return filepath.Join(w.dir, name) }
	w.skopeo(ref, "oci-archive:"+file("a.tar")+":v1")
	w.skopeo(ref, "docker-archive:"+file("d.tar")+":box:v1")
	for _, ref := range []string{
		ref, strings.TrimSuffix(ref, ":v1"), "oci-archive:" + file("a.tar") + ":v1", "oci-archive:" + file("a.tar"),
		"docker-archive:" + file("d.tar") + ":box:v1", "docker-archive:" + file("d.tar") + ":docker.io/library/box:v1", "docker-archive:" + file("d.tar"),
	} {
		if out := w.machine(ref); !strings.HasSuffix(out, "it runs\n") {
			t.Errorf("%s: %q", ref, out)
		}
		if out := w.machine(ref, "/bin/cat", "/note"); out != "noted" {
			t.Errorf("%s: %q", ref, out)
		}
	}
	w.refuses(`has no image "v2"`, "pull", ref[:len(ref)-1]+"2")
	w.refuses("no such file or directory", "pull", "oci:"+file("nothing"))
	w.refuses("has no image", "pull", "docker-archive:"+file("d.tar")+":box:v2")
	w.does("rmi", "--quiet", ref, strings.TrimSuffix(ref, ":v1"), "oci-archive:"+file("a.tar")+":v1", "oci-archive:"+file("a.tar"),
		"docker-archive:"+file("d.tar")+":box:v1", "docker-archive:"+file("d.tar")+":docker.io/library/box:v1", "docker-archive:"+file("d.tar"))

	// Packed archives.
	write := func(name string, b []byte) string {
		if err := os.WriteFile(file(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return file(name)
	}
	read := func(name string) []byte {
		b, err := os.ReadFile(file(name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, ref := range []string{
		"oci-archive:" + write("a.tar.gz", first(gzipped(read("a.tar")))), "oci-archive:" + write("a.tar.zst", first(zstandard(read("a.tar")))) + ":v1",
		"docker-archive:" + write("d.tar.gz", first(gzipped(read("d.tar")))) + ":box:v1", "docker-archive:" + write("d.tar.zst", first(zstandard(read("d.tar")))),
	} {
		if out := w.machine(ref, "/bin/cat", "/note"); !strings.HasSuffix(out, "noted") {
			t.Errorf("%s: %q", ref, out)
		}
		w.does("rmi", "--quiet", ref)
	}
	w.refuses("read "+file("no.tar.gz")+": unexpected EOF", "pull", "docker-archive:"+write("no.tar.gz", first(gzipped([]byte("no tar")))))
	half := read("d.tar.gz")
	w.refuses("unexpected EOF", "pull", "docker-archive:"+write("half.tar.gz", half[:len(half)/2]))
	w.refuses("it has more than 1000 bytes", "pull", "--max-size=1000", "docker-archive:"+file("d.tar.gz"))
	w.refuses("it expands to more than 200 times its size", "pull", "docker-archive:"+write("bomb.tar.gz", bomb(300<<20)))
	for _, b := range []string{"\xfd7zXZ\x00 and more", "BZh91AY and more"} {
		w.refuses("launch knows gzip and zstd only: unpack it first", "pull", "oci-archive:"+write("odd.tar", []byte(b)))
	}
	w.bare(0)
}

// bomb is a small gzip file of so many zero bytes.
func bomb(size int) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range size >> 20 {
		z.Write(zeros)
	}
	z.Close()
	return b.Bytes()
}

func first[A, B any](a A, _ B) A { return a }

// TestPlatforms: of an index of indexes, the image for the host, or for whom one
// asks.
func TestPlatforms(t *testing.T) {
	w := here(t)
	mine := small(t)
	other := draw(nil).layer(gzipped, tarOf(file{name: "other"}))
	other.arch = "s390x"
	other.finish()
	dir := w.layout("box", map[string]*picture{"mine": mine, "other": other})
	put := func(b []byte) descriptor {
		d := descriptor{MediaType: "application/vnd.oci.image.index.v1+json", Digest: digest(b), Size: int64(len(b))}
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", strings.TrimPrefix(d.Digest, "sha256:")), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return d
	}
	index := put(mustJSON(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{other.entry(""), mine.entry("")}}))
	index.Annotations = map[string]string{"org.opencontainers.image.ref.name": "all"}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), mustJSON(map[string]any{"schemaVersion": 2, "manifests": []descriptor{index}}), 0o644); err != nil {
		t.Fatal(err)
	}
	ref := "oci:" + dir + ":all"
	if out := w.machine(ref); !strings.HasSuffix(out, "it runs\n") {
		t.Errorf("the host's image: %q", out)
	}
	w.does("pull", "--quiet", "--platform=linux/s390x", ref)
	if out := w.does("images"); !strings.Contains(out, "linux/s390x") || strings.Contains(out, mine.arch) {
		t.Errorf("the other image:\n%s", out)
	}
	w.refuses("there is no image for plan9/mips", "pull", "--platform=plan9/mips", ref)
	w.refuses("is no platform", "pull", "--platform=mips", ref)
}

// TestDeviceNodes: they are left out and named, or made.
func TestDeviceNodes(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/ls", "-l", "/null"}}).layer(gzipped, shell(t)).
		layer(gzipped, tarOf(file{name: "null", kind: tar.TypeChar, dev: [2]int64{1, 3}, mode: 0o640, gid: 5})).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	if out := w.does("pull", ref); !strings.Contains(out, `left out the device node "null" (1:3)`) {
		t.Errorf("pull says %q", out)
	}
	if out, code := w.launch("run", "--quiet", "--register=no", "--keep-unit", ref); code != 1 {
		t.Errorf("the node is there: %q", out)
	}
	w.does("pull", "--quiet", "--device-nodes", ref)
	if out := w.machine(ref); !strings.Contains(out, "crw-r-----    1 root     5           1,   3") {
		t.Errorf("the node is %q", out)
	}
}

// TestNobody: who isn't root has a store, too.
func TestNobody(t *testing.T) {
	w := here(t)
	p := draw(nil).layer(gzipped, shell(t)).layer(gzipped, tarOf(file{name: ".wh.tmp"}, file{name: "etc/.wh..wh..opq"}, file{name: "owned", uid: 7, mode: 0o4755}, file{name: "home/web/new"})).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	home := filepath.Join(w.dir, "nobody")
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	as := func(args ...string) string {
		return w.Look(append([]string{"env", "HOME=" + home, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(w.bin, "launch")}, args...)...)
	}
	if err := os.Chmod(w.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	as("pull", "--quiet", ref)
	if out := as("images", "--json"); !strings.Contains(out, p.digest) || !strings.Contains(out, home+"/.local/state/launch/layers/") {
		t.Errorf("images: %s", out)
	}
	if out := w.Look("sh", "-c", "find "+home+" ! -uid 65534; stat -c '%a %F' "+home+"/.local/state/launch/layers/*/tree/owned "+home+"/.local/state/launch/layers/*/tree/tmp"); out != "4755 regular empty file\n1777 directory\n0 character special file\n" && !strings.Contains(out, "character special file") {
		t.Errorf("the layers are\n%s", out)
	}
	as("rmi", "--quiet", ref)
	if out := w.Look("find", filepath.Join(home, ".local/state/launch"), "-mindepth", "2"); out != "" {
		t.Errorf("left:\n%s", out)
	}
}
