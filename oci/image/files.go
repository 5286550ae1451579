package image

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/layer"
	"launch/oci/store"
)

// file is an open file of the host's.
type file struct{ n int }

func openFile(dirfd int, name string, resolve uint64) (*file, error) {
	n, err := sys.Openat2(dirfd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0, resolve)
	if err != nil {
		return nil, err
	}
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		sys.Close(n)
		return nil, err
	}
	return &file{n}, nil
}

func (f *file) ReadAt(b []byte, at int64) (int, error) {
	done := 0
	for done < len(b) {
		n, err := sys.Pread(f.n, b[done:], at+int64(done))
		if err != nil {
			return done, err
		}
		if n == 0 {
			return done, io.EOF
		}
		done += n
	}
	return done, nil
}

func (f *file) Write(b []byte) (done int, err error) {
	for done < len(b) && err == nil {
		var n int
		n, err = sys.Write(f.n, b[done:])
		done += max(n, 0)
	}
	return done, err
}

func (f *file) Close() error { sys.Close(f.n); return nil }

// part is a part of a file.
type part struct {
	io.Reader
	io.Closer
}

// layout is a directory, or an archive, in the OCI's layout.
type layout struct {
	r store.Reference
	// open opens a file of it.
	open  func(name string) (io.ReadCloser, error)
	close func() error
}

func openLayout(r store.Reference) (Source, error) {
	n, err := sys.Openat(unix.AT_FDCWD, r.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", r.Path, err)
	}
	return &layout{r, func(name string) (io.ReadCloser, error) {
		f, err := openFile(n, name, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_MAGICLINKS)
		if err != nil {
			return nil, fmt.Errorf("open %s of %s: %w", name, r.Path, err)
		}
		return part{io.NewSectionReader(f, 0, 1<<62), f}, nil
	}, func() error { sys.Close(n); return nil }}, nil
}

func openArchive(ctx context.Context, r store.Reference, o Options) (Source, error) {
	a, err := openTar(ctx, r.Path, o)
	if err != nil {
		return nil, err
	}
	return &layout{r, a.open, a.f.Close}, nil
}

func (l *layout) Close() error { return l.close() }

// Root finds the image of the reference's tag in the layout's index.
func (l *layout) Root(ctx context.Context) (Blob, error) {
	r, err := l.open("index.json")
	if err != nil {
		return Blob{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, manifestMax+1))
	if err != nil {
		return Blob{}, fmt.Errorf("read the index of %s: %w", l.r.Path, err)
	}
	if len(b) > manifestMax {
		return Blob{}, fmt.Errorf("the index of %s has more than %d bytes", l.r.Path, manifestMax)
	}
	index, err := ParseIndex(b)
	if err != nil {
		return Blob{}, fmt.Errorf("%s: %w", l.r.Path, err)
	}
	if l.r.Tag == "" {
		return Blob{Data: b, MediaType: types.OCIImageIndex}, nil
	}
	var there []string
	for _, d := range index.Manifests {
		name := d.Annotations["org.opencontainers.image.ref.name"]
		if name != l.r.Tag && d.Digest.String() != l.r.Tag {
			there = append(there, name)
			continue
		}
		data, err := fetch(ctx, l.Manifest, d, manifestMax, "manifest")
		return Blob{data, d.MediaType, d.Digest.String()}, err
	}
	return Blob{}, fmt.Errorf("%s has no image %q, only %q", l.r.Path, l.r.Tag, there)
}

// Manifest is one of the layout's blobs, as all is.
func (l *layout) Manifest(ctx context.Context, d v1.Descriptor) (io.ReadCloser, error) {
	return l.Open(ctx, d, 0)
}

// Open opens a blob.
func (l *layout) Open(_ context.Context, d v1.Descriptor, from int64) (io.ReadCloser, error) {
	r, err := l.open("blobs/sha256/" + d.Digest.Hex)
	if err == nil && from > 0 {
		_, err = io.CopyN(io.Discard, r, from)
	}
	return r, err
}

// archive is a tar file whose entries are read where they lie.
type archive struct {
	path  string
	f     *file
	parts map[string]*io.SectionReader
	links map[string]string
}

// entriesMax is how many files an archive may have: an image has few.
const entriesMax = 10_000

func openTar(ctx context.Context, name string, o Options) (*archive, error) {
	f, err := openFile(unix.AT_FDCWD, name, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	if f, err = expanded(ctx, f, o); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	a := &archive{name, f, map[string]*io.SectionReader{}, map[string]string{}}
	// The place of an entry is that of the reader when it comes to its content.
	s := io.NewSectionReader(f, 0, 1<<62)
	t := tar.NewReader(s)
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return a, nil
		}
		if err == nil && n == entriesMax {
			err = fmt.Errorf("it has more than %d files", entriesMax)
		}
		if err == nil && (h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "") {
			err = errors.New("it has sparse files")
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		at, _ := s.Seek(0, io.SeekCurrent)
		entry := path.Clean(strings.TrimPrefix(h.Name, "./"))
		switch h.Typeflag {
		case tar.TypeReg:
			a.parts[entry] = io.NewSectionReader(f, at, h.Size)
		case tar.TypeSymlink:
			a.links[entry] = path.Join(path.Dir(entry), h.Linkname)
		case tar.TypeLink:
			a.links[entry] = path.Clean(h.Linkname)
		}
	}
}

// expanded gives the file as it is, or, where it is packed, another one without a
// name, which is not: its parts are read out of order.
func expanded(ctx context.Context, f *file, o Options) (plain *file, err error) {
	defer func() {
		if plain != f {
			f.Close()
		}
	}()
	var head [6]byte
	n, err := f.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	for magic, packer := range map[string]string{"\xfd7zXZ\x00": "xz", "BZh": "bzip2"} {
		if strings.HasPrefix(string(head[:n]), magic) {
			return nil, fmt.Errorf("it is packed by %s, and launch knows gzip and zstd only: unpack it first", packer)
		}
	}
	if n < 4 || !layer.Packed(head[:4]) {
		return f, nil
	}
	st, err := sys.Statx(f.n, "", unix.STATX_SIZE)
	if err != nil {
		return nil, err
	}
	r, done, err := layer.Expand(&interruptible{ctx, io.NewSectionReader(f, 0, 1<<62)})
	if err != nil {
		return nil, err
	}
	defer done()
	to, err := sys.Openat(unix.AT_FDCWD, o.Scratch, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make room for what is packed, in %s: %w", o.Scratch, err)
	}
	plain = &file{to}
	if _, err := io.Copy(plain, o.Limits.Bound(r, int64(st.Size), "it")); err != nil {
		plain.Close()
		return nil, err
	}
	return plain, nil
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	io.Reader
}

func (i *interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.Reader.Read(b)
}

// open reads a file of the archive. A link, which some programs write for a
// layer that is there twice, is followed once.
func (a *archive) open(name string) (io.ReadCloser, error) {
	p := a.parts[name]
	if p == nil {
		p = a.parts[a.links[name]]
	}
	if p == nil {
		return nil, fmt.Errorf("open %s of %s: %w", name, a.path, unix.ENOENT)
	}
	return io.NopCloser(io.NewSectionReader(p, 0, p.Size())), nil
}

// docker is an archive as `docker save` writes it. It has no manifest, so one is
// made for it; its layers are known by the digest of what they expand to only.
type docker struct {
	a     *archive
	r     store.Reference
	files map[string]string // by hex digest
}

func openDocker(ctx context.Context, r store.Reference, o Options) (Source, error) {
	a, err := openTar(ctx, r.Path, o)
	if err != nil {
		return nil, err
	}
	return &docker{a: a, r: r, files: map[string]string{}}, nil
}

func (d *docker) Close() error { return d.a.f.Close() }

func (d *docker) read(name string, most int64) ([]byte, error) {
	r, err := d.a.open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s of %s has more than %d bytes", name, d.r.Path, most)
	}
	return b, err
}

// Root makes a manifest of the archive's own list.
func (d *docker) Root(context.Context) (Blob, error) {
	text, err := d.read("manifest.json", manifestMax)
	if err != nil {
		return Blob{}, err
	}
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return Blob{}, fmt.Errorf("read the manifest of %s: %w", d.r.Path, err)
	}
	at := -1
	var there []string
	for n, i := range list {
		there = append(there, i.RepoTags...)
		if d.r.Tag == "" && len(list) == 1 {
			at = n
		}
		for _, t := range i.RepoTags {
			if same(t, d.r.Tag) {
				at = n
			}
		}
	}
	if at < 0 {
		return Blob{}, fmt.Errorf("%s has no image %q, only %q", d.r.Path, d.r.Tag, there)
	}
	config, err := d.read(path.Clean(list[at].Config), configMax)
	if err != nil {
		return Blob{}, err
	}
	c, err := ParseConfig(config)
	if err != nil {
		return Blob{}, fmt.Errorf("%s: %w", d.r.Path, err)
	}
	if len(c.RootFS.DiffIDs) != len(list[at].Layers) {
		return Blob{}, fmt.Errorf("%s has %d layers, its configuration %d", d.r.Path, len(list[at].Layers), len(c.RootFS.DiffIDs))
	}
	digest, err := v1.NewHash(sum(config))
	if err != nil {
		return Blob{}, err
	}
	m := v1.Manifest{SchemaVersion: 2, MediaType: types.DockerManifestSchema2,
		Config: v1.Descriptor{MediaType: types.DockerConfigJSON, Size: int64(len(config)), Digest: digest}}
	d.files[digest.Hex] = path.Clean(list[at].Config)
	for n, name := range list[at].Layers {
		name = path.Clean(name)
		p := d.a.parts[name]
		if p == nil {
			p = d.a.parts[d.a.links[name]]
		}
		if p == nil {
			return Blob{}, fmt.Errorf("open %s of %s: %w", name, d.r.Path, unix.ENOENT)
		}
		// Named by what it expands to: see Packed.
		id := c.RootFS.DiffIDs[n]
		d.files[id.Hex] = name
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: types.DockerUncompressedLayer, Size: p.Size(), Digest: id})
	}
	data, err := json.Marshal(m)
	return Blob{Data: data, MediaType: m.MediaType}, err
}

// same tells whether two names of a Docker archive mean one image.
func same(a, b string) bool {
	if a == b {
		return true
	}
	x, err := store.ParseReference(a, "/")
	if err != nil {
		return false
	}
	y, err := store.ParseReference(b, "/")
	return err == nil && x == y
}

// Manifest is never asked for: there is no index.
func (d *docker) Manifest(context.Context, v1.Descriptor) (io.ReadCloser, error) {
	return nil, errors.New("a docker archive has no index")
}

// Open opens the configuration or a layer.
func (d *docker) Open(_ context.Context, desc v1.Descriptor, from int64) (io.ReadCloser, error) {
	r, err := d.a.open(d.files[desc.Digest.Hex])
	if err == nil && from > 0 {
		_, err = io.CopyN(io.Discard, r, from)
	}
	return r, err
}
