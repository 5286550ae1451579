package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

var seeds = []string{
	`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + hex64 + `","size":7,"platform":{"os":"linux","architecture":"amd64"}}]}`,
	`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:` + hex64 + `","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:` + hex64 + `","size":9}]}`,
	`{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + hex64 + `"]},"config":{"User":"a:b","Env":["A=b"],"Volumes":{"/x":{}}}}`,
	`{"layers":null,"manifests":[]}`, `[]`, `{"config":{}}`,
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func FuzzIndex(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		index, err := ParseIndex(b)
		if err != nil {
			return
		}
		if d, err := choose(index, v1.Platform{OS: "linux", Architecture: "amd64"}); err == nil && (d.Size < 0 || d.Size > manifestMax || len(d.Digest.Hex) != 64) {
			t.Errorf("it chooses %+v", d)
		}
	})
}

func FuzzManifest(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), "")
		f.Add([]byte(s), "application/vnd.oci.image.index.v1+json")
	}
	f.Fuzz(func(t *testing.T, b []byte, kind string) {
		k, err := shape(Blob{Data: b})
		m, merr := ParseManifest(b)
		if err == nil && k == isIndex && merr == nil && len(m.Layers) > 0 {
			t.Errorf("an index, and a manifest with %d layers", len(m.Layers))
		}
		if merr != nil {
			return
		}
		for _, d := range append(m.Layers, m.Config) {
			if d.Size < 0 || strings.Trim(d.Digest.Hex, "0123456789abcdef") != "" || len(d.Digest.Hex) != 64 {
				t.Errorf("it holds %+v", d)
			}
		}
	})
}

func FuzzConfiguration(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseConfig(b)
		if err != nil {
			return
		}
		for _, d := range c.RootFS.DiffIDs {
			if d.Algorithm != "sha256" || len(d.Hex) != 64 {
				t.Errorf("it holds %v", d)
			}
		}
	})
}

// FuzzResolve: whatever a source gives, an image that comes out of it is made of
// blobs with digests that were checked.
func FuzzResolve(f *testing.F) {
	for _, a := range seeds {
		for _, b := range seeds {
			f.Add([]byte(a), []byte(b))
		}
	}
	f.Fuzz(func(t *testing.T, root, blob []byte) {
		s := &liar{root, blob, 0}
		i, err := Resolve(context.Background(), s, v1.Platform{OS: "linux", Architecture: "amd64"})
		if s.asked > 8 {
			t.Errorf("it asks %d times", s.asked)
		}
		if err == nil && (i.Config == nil || sum(root) != i.Digest && sum(blob) != i.Digest) {
			t.Errorf("an image came out: %+v", i)
		}
	})
}

// liar is a source with the same blob for every digest.
type liar struct {
	root, blob []byte
	asked      int
}

func (l *liar) Root(context.Context) (Blob, error) { return Blob{Data: l.root}, nil }
func (l *liar) Manifest(context.Context, v1.Descriptor) (io.ReadCloser, error) {
	if l.asked++; l.asked > 100 {
		return nil, errors.New("enough")
	}
	return io.NopCloser(bytes.NewReader(l.blob)), nil
}
func (l *liar) Open(ctx context.Context, d v1.Descriptor, _ int64) (io.ReadCloser, error) {
	return l.Manifest(ctx, d)
}
func (l *liar) Close() error { return nil }

func TestChoose(t *testing.T) {
	p := func(text string) v1.Descriptor {
		pl, err := ParsePlatform(text)
		if err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: "application/vnd.oci.image.manifest.v1+json", Platform: &pl, Annotations: map[string]string{"is": text}}
	}
	for _, c := range []struct{ want, got string }{
		{"linux/amd64", "linux/amd64"}, {"linux/arm64", "linux/arm64/v8"}, {"linux/arm64/v8", "linux/arm64/v8"}, {"linux/arm/v6", "linux/arm/v6"}, {"linux/arm/v5", ""}, {"linux/s390x", ""},
	} {
		index := &v1.IndexManifest{Manifests: []v1.Descriptor{p("unknown/unknown"), p("linux/amd64"), p("linux/arm/v7"), p("linux/arm/v6"), p("linux/arm64/v8")}}
		want, _ := ParsePlatform(c.want)
		d, err := choose(index, want)
		if got := d.Annotations["is"]; got != c.got || (err == nil) != (c.got != "") {
			t.Errorf("%s chooses %q, %v; want %q", c.want, got, err, c.got)
		}
	}
	for _, text := range []string{"", "linux", "/", "linux/", "a/b/c/d"} {
		if p, err := ParsePlatform(text); err == nil {
			t.Errorf("%q is the platform %v", text, p)
		}
	}
}
