// Package image finds out what an image is made of, wherever it lies: a
// registry, a directory in the OCI's layout, an archive of either kind.
//
// What it guarantees: no byte of a manifest or a configuration is believed
// before its size and digest are what the one above it says (a tag's first
// manifest has nobody above it); layers are given with the digest that their
// bytes must have, for whoever reads them. What is read is bounded: the size of
// a manifest, how many entries an index has, how deep they go. Credentials go
// to the registry that they are for, and to the token server that it names.
//
// It refuses to unpack, and to keep anything.
//
// Room: host.
package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"launch/oci/store"
)

// Limits of what an image may say of itself.
const (
	manifestMax = 4 << 20
	configMax   = 8 << 20
	indexMax    = 500 // entries
	depthMax    = 2   // indexes above a manifest
	layersMax   = 500
)

// Source is a place that has an image. Its methods may be called side by side.
type Source interface {
	// Root gives the manifest, or the index, that the reference names.
	Root(ctx context.Context) (Blob, error)
	// Manifest gives what a descriptor of an index stands for.
	Manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error)
	// Open reads a configuration or layer from a place on.
	Open(ctx context.Context, d v1.Descriptor, from int64) (io.ReadCloser, error)
	Close() error
}

// Blob is a manifest with what it is called.
type Blob struct {
	Data      []byte
	MediaType types.MediaType
	// Digest is what it must have; "" where nobody said.
	Digest string
}

// Layer is one layer.
type Layer struct {
	v1.Descriptor
	// DiffID is the digest of what it expands to.
	DiffID string
	// Unsummed: nobody says what digest the packed layer has.
	Unsummed bool
}

// Image is what an image is made of.
type Image struct {
	// Digest is that of its manifest.
	Digest   string
	Platform string
	Config   []byte
	Layers   []Layer
}

// Platform gives the platform that the program itself was made for.
func Platform() v1.Platform {
	p := v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if p.Architecture == "arm64" {
		p.Variant = "v8"
	}
	return p
}

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT].
func ParsePlatform(text string) (v1.Platform, error) {
	f := strings.Split(text, "/")
	if len(f) < 2 || len(f) > 3 || f[0] == "" || f[1] == "" {
		return v1.Platform{}, fmt.Errorf("%q is no platform: say OS/ARCHITECTURE, as in linux/arm64", text)
	}
	p := v1.Platform{OS: f[0], Architecture: f[1]}
	if len(f) == 3 {
		p.Variant = f[2]
	}
	return p, nil
}

func word(p v1.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// sum gives the digest of some bytes.
func sum(b []byte) string {
	h := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(h[:])
}

// Resolve goes from the reference to the image for the platform.
func Resolve(ctx context.Context, s Source, want v1.Platform) (Image, error) {
	root, err := s.Root(ctx)
	if err != nil {
		return Image{}, err
	}
	if got := sum(root.Data); root.Digest != "" && got != root.Digest {
		return Image{}, fmt.Errorf("the manifest has the digest %s, and should have %s", got, root.Digest)
	}
	return resolve(ctx, s, root, want, 0)
}

func resolve(ctx context.Context, s Source, b Blob, want v1.Platform, depth int) (Image, error) {
	kind, err := shape(b)
	if err != nil {
		return Image{}, err
	}
	if kind == isManifest {
		return manifest(ctx, s, b, want)
	}
	if depth == depthMax {
		return Image{}, fmt.Errorf("the image has more than %d indexes above its manifest", depthMax)
	}
	index, err := ParseIndex(b.Data)
	if err != nil {
		return Image{}, err
	}
	d, err := choose(index, want)
	if err != nil {
		return Image{}, err
	}
	data, err := fetch(ctx, s.Manifest, d, manifestMax, "manifest")
	if err != nil {
		return Image{}, err
	}
	return resolve(ctx, s, Blob{Data: data, MediaType: d.MediaType}, want, depth+1)
}

type kind int

const (
	isManifest kind = iota
	isIndex
)

// shape tells what a manifest is, and refuses one that could be read in two
// ways: what one reader has checked, the next must not read differently.
func shape(b Blob) (kind, error) {
	var has struct {
		MediaType types.MediaType  `json:"mediaType"`
		Manifests *json.RawMessage `json:"manifests"`
		Config    *json.RawMessage `json:"config"`
		Layers    *json.RawMessage `json:"layers"`
		FSLayers  *json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(b.Data, &has); err != nil {
		return 0, fmt.Errorf("read the manifest: %w", err)
	}
	if has.MediaType != "" && b.MediaType != "" && has.MediaType != b.MediaType {
		return 0, fmt.Errorf("the manifest says that it is %s, and is served as %s", has.MediaType, b.MediaType)
	}
	t := b.MediaType
	if t == "" {
		t = has.MediaType
	}
	list, single := has.Manifests != nil, has.Config != nil || has.Layers != nil
	switch {
	case has.FSLayers != nil || t == types.DockerManifestSchema1 || t == types.DockerManifestSchema1Signed:
		return 0, errors.New("the image has a manifest of schema 1, which nobody can verify")
	case list && single:
		return 0, errors.New("the manifest is both an image's and an index")
	case list && (t == "" || t.IsIndex()):
		return isIndex, nil
	case single && (t == "" || t.IsImage()):
		return isManifest, nil
	case list || single:
		return 0, fmt.Errorf("the manifest isn't what its media type %q says", t)
	}
	return 0, fmt.Errorf("the manifest of type %q holds no image", t)
}

// ParseIndex reads an index, and bounds it.
func ParseIndex(data []byte) (*v1.IndexManifest, error) {
	var index v1.IndexManifest
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("read the index: %w", err)
	}
	if len(index.Manifests) > indexMax {
		return nil, fmt.Errorf("the index has %d entries, at most %d are possible", len(index.Manifests), indexMax)
	}
	for _, d := range index.Manifests {
		if err := sane(d, manifestMax); err != nil {
			return nil, fmt.Errorf("the index: %w", err)
		}
	}
	return &index, nil
}

// sane refuses a descriptor that nobody can check.
func sane(d v1.Descriptor, most int64) error {
	switch {
	case d.Digest.Algorithm != "sha256" || len(d.Digest.Hex) != 64 || strings.Trim(d.Digest.Hex, "0123456789abcdef") != "":
		return fmt.Errorf("%q is no sha256 digest", d.Digest.String())
	case d.Size < 0 || d.Size > most:
		return fmt.Errorf("%s has %d bytes, at most %d are possible", d.Digest, d.Size, most)
	}
	return nil
}

// choose finds the entry of an index for a platform.
func choose(index *v1.IndexManifest, want v1.Platform) (v1.Descriptor, error) {
	var there []string
	best, found := v1.Descriptor{}, false
	for _, d := range index.Manifests {
		if !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		p := d.Platform
		if p == nil {
			if len(index.Manifests) == 1 {
				return d, nil
			}
			continue
		}
		if p.OS == "unknown" {
			continue // a statement about another entry
		}
		there = append(there, word(*p))
		if p.OS != want.OS || p.Architecture != want.Architecture {
			continue
		}
		if p.Variant == want.Variant {
			return d, nil
		}
		if !found && (p.Variant == "" || want.Variant == "") {
			best, found = d, true
		}
	}
	if found {
		return best, nil
	}
	if there == nil {
		return best, errors.New("the index names no image for any platform")
	}
	return best, fmt.Errorf("there is no image for %s, only for %s", word(want), strings.Join(there, ", "))
}

// fetch reads something small whole, and checks it.
func fetch(ctx context.Context, open func(context.Context, v1.Descriptor) (io.ReadCloser, error), d v1.Descriptor, most int64, what string) ([]byte, error) {
	if err := sane(d, most); err != nil {
		return nil, fmt.Errorf("the %s: %w", what, err)
	}
	r, err := open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the %s: %w", what, err)
	case int64(len(b)) != d.Size:
		return nil, fmt.Errorf("the %s has not the %d bytes that it should have", what, d.Size)
	case sum(b) != d.Digest.String():
		return nil, fmt.Errorf("the %s has the digest %s, and should have %s", what, sum(b), d.Digest)
	}
	return b, nil
}

// manifest reads an image's manifest and its configuration.
func manifest(ctx context.Context, s Source, b Blob, want v1.Platform) (Image, error) {
	m, err := ParseManifest(b.Data)
	if err != nil {
		return Image{}, err
	}
	open := func(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) { return s.Open(ctx, d, 0) }
	config, err := fetch(ctx, open, m.Config, configMax, "configuration")
	if err != nil {
		return Image{}, err
	}
	c, err := ParseConfig(config)
	if err != nil {
		return Image{}, err
	}
	i := Image{Digest: sum(b.Data), Config: config, Platform: word(v1.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant})}
	if c.OS != want.OS || c.Architecture != want.Architecture {
		return Image{}, fmt.Errorf("the image is for %s, and not for %s", i.Platform, word(want))
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return Image{}, fmt.Errorf("the manifest has %d layers, the configuration %d", len(m.Layers), len(c.RootFS.DiffIDs))
	}
	seen := map[string]string{}
	for n, d := range m.Layers {
		l := Layer{Descriptor: d, DiffID: c.RootFS.DiffIDs[n].String()}
		if other, ok := seen[d.Digest.String()]; ok && other != l.DiffID {
			return Image{}, fmt.Errorf("the layer %s expands to both %s and %s", d.Digest, other, l.DiffID)
		}
		seen[d.Digest.String()] = l.DiffID
		i.Layers = append(i.Layers, l)
	}
	return i, nil
}

// ParseManifest reads an image's manifest, and refuses what can't be checked.
func ParseManifest(data []byte) (*v1.Manifest, error) {
	var m v1.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("read the manifest: %w", err)
	}
	if len(m.Layers) > layersMax {
		return nil, fmt.Errorf("the manifest has %d layers, at most %d are possible", len(m.Layers), layersMax)
	}
	if !m.Config.MediaType.IsConfig() {
		return nil, fmt.Errorf("the manifest is not an image's: its configuration is %q", m.Config.MediaType)
	}
	if err := sane(m.Config, configMax); err != nil {
		return nil, fmt.Errorf("the configuration: %w", err)
	}
	for n, d := range m.Layers {
		if err := sane(d, 1<<40); err != nil {
			return nil, fmt.Errorf("layer %d: %w", n+1, err)
		}
		if !isLayer(d.MediaType) {
			return nil, fmt.Errorf("layer %d is of type %q, which is no layer that can be unpacked", n+1, d.MediaType)
		}
	}
	return &m, nil
}

func isLayer(t types.MediaType) bool {
	switch t {
	case types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer, types.DockerLayer, types.DockerUncompressedLayer,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":
		return true
	}
	return false
}

// ParseConfig reads an image's configuration as far as it says what the image
// is made of.
func ParseConfig(data []byte) (*v1.ConfigFile, error) {
	var c v1.ConfigFile
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("the configuration's root is made of %q, not of layers", c.RootFS.Type)
	}
	for n, d := range c.RootFS.DiffIDs {
		if err := sane(v1.Descriptor{Digest: d}, 0); err != nil {
			return nil, fmt.Errorf("the configuration: layer %d: %w", n+1, err)
		}
	}
	return &c, nil
}

// Find gives the source that a reference names.
func Find(ctx context.Context, r store.Reference, o Options) (Source, error) {
	switch r.Kind {
	case "docker":
		return openRegistry(r, o)
	case "oci":
		return openLayout(r)
	case "oci-archive":
		return openArchive(ctx, r, o)
	case "docker-archive":
		return openDocker(ctx, r, o)
	}
	return nil, fmt.Errorf("there is no kind of image called %q", r.Kind)
}
