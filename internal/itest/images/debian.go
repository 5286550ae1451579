package images

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cut parts a tree into layers, and gives a tar file of each: its files in the
// order of their names. Every other layer leaves out the directories that its
// files lie in. Of /dev, /proc and /sys there is no more than in any image. What a
// layer holds beyond its part of the tree, changes gives.
func cut(root string, layers int, changes func(n int) []file) ([][]byte, error) {
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, p)
		if err == nil && rel != "." {
			names = append(names, rel)
		}
		if rel == "dev" || rel == "proc" || rel == "sys" {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var out [][]byte
	size := (len(names) + layers - 1) / layers
	for n := range layers {
		var b bytes.Buffer
		t := tar.NewWriter(&b)
		links, done := map[uint64]string{}, map[string]bool{}
		add := func(rel string) error {
			if done[rel] {
				return nil
			}
			done[rel] = true
			return addFile(t, root, rel, links)
		}
		for _, rel := range names[min(n*size, len(names)):min((n+1)*size, len(names))] {
			if n%2 == 0 {
				parts := strings.Split(rel, "/")
				for i := 1; i < len(parts); i++ {
					if err := add(strings.Join(parts[:i], "/")); err != nil {
						return nil, err
					}
				}
			}
			if err := add(rel); err != nil {
				return nil, err
			}
		}
		for _, f := range changes(n) {
			if err := f.add(t); err != nil {
				return nil, err
			}
		}
		if err := t.Close(); err != nil {
			return nil, err
		}
		out = append(out, b.Bytes())
	}
	return out, nil
}

// pictureOf makes an image of a tree, in layers.
func pictureOf(root string, layers int, changes func(n int) []file) (*picture, error) {
	list, err := cut(root, layers, changes)
	if err != nil {
		return nil, err
	}
	p := draw(map[string]any{"Cmd": []string{"/bin/sh"}, "Env": []string{"PATH=/usr/bin:/bin"}})
	for n, t := range list {
		pack := gzipped
		if n%5 == 4 {
			pack = plain // umoci knows no zstd
		}
		p.layer(pack, t)
	}
	return p.finish(), nil
}

// Layout writes an image v1 of a tree, in layers, into a directory in the OCI's
// layout.
func Layout(root string, layers int, dir string) error {
	p, err := pictureOf(root, layers, func(int) []file { return nil })
	if err != nil {
		return err
	}
	return layout(dir, map[string]*picture{"v1": p})
}

// addFile puts a file of the host's into an archive, with its attributes.
func addFile(t *tar.Writer, root, rel string, links map[uint64]string) error {
	name := filepath.Join(root, rel)
	st, err := os.Lstat(name)
	if err != nil {
		return err
	}
	link := ""
	if st.Mode()&fs.ModeSymlink != 0 {
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return err
	}
	h.Name, h.Format, h.Uname, h.Gname = rel, tar.FormatPAX, "", ""
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	sys := st.Sys().(*syscall.Stat_t)
	if st.Mode().IsRegular() && sys.Nlink > 1 {
		if first, ok := links[sys.Ino]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		}
		links[sys.Ino] = rel
	}
	if h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeDir {
		names := make([]byte, 64<<10)
		n, err := unix.Llistxattr(name, names)
		if err != nil {
			return err
		}
		for x := range strings.SplitSeq(string(names[:n]), "\x00") {
			if x == "" {
				continue
			}
			value := make([]byte, 64<<10)
			n, err := unix.Lgetxattr(name, x, value)
			if err != nil {
				return err
			}
			if h.PAXRecords == nil {
				h.PAXRecords = map[string]string{}
			}
			h.PAXRecords["SCHILY.xattr."+x] = string(value[:n])
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(t, f)
	return err
}

// listing says of each entry of an archive all that can be told of it, by its
// name. Times are in nanoseconds; hard links count as what they are links to.
func listing(r io.Reader) (map[string]string, error) {
	list := map[string]string{}
	groups := map[string][]string{}
	t := tar.NewReader(bufio.NewReaderSize(r, 1<<20))
	for {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := "/" + strings.Trim(strings.TrimPrefix(h.Name, "./"), "/")
		if h.Typeflag == tar.TypeLink {
			to := "/" + strings.TrimPrefix(h.Linkname, "./")
			list[name] = list[to]
			groups[to] = append(groups[to], name)
			continue
		}
		kind := h.Typeflag
		if kind == tar.TypeGNUSparse {
			kind = tar.TypeReg
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, t); err != nil {
			return nil, err
		}
		var attributes []string
		for k, v := range h.PAXRecords {
			if strings.HasPrefix(k, "SCHILY.xattr.") {
				attributes = append(attributes, fmt.Sprintf("%s=%x", strings.TrimPrefix(k, "SCHILY.xattr."), v))
			}
		}
		slices.Sort(attributes)
		list[name] = fmt.Sprintf("%c %04o %d:%d size %d time %d -> %q %s %x", kind, h.Mode, h.Uid, h.Gid, h.Size, h.ModTime.UnixNano(), h.Linkname, attributes, sum.Sum(nil)[:8])
	}
	for first, more := range groups {
		all := slices.Sorted(slices.Values(append(more, first)))
		for _, name := range all {
			list[name] += fmt.Sprint(" linked ", all)
		}
	}
	return list, nil
}

// add puts the file into an archive.
func (f file) add(t *tar.Writer) error {
	h := &tar.Header{Typeflag: f.kind, Name: f.name, Linkname: f.link, Mode: f.mode, Uid: f.uid, Gid: f.gid, PAXRecords: f.pax,
		Devmajor: f.dev[0], Devminor: f.dev[1], Size: int64(len(f.data)), ModTime: time.Unix(1700000000+f.time, 0), Format: tar.FormatPAX}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if err := t.WriteHeader(h); err != nil {
		return fmt.Errorf("%s: %w", f.name, err)
	}
	_, err := io.WriteString(t, f.data)
	return err
}
