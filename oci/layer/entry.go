package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/tree"
)

// entry makes one entry of the layer.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil // a comment, such as git's
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= math.MaxUint32 || int64(h.Gid) >= math.MaxUint32 {
		return fmt.Errorf("its owner %d:%d is no user and group", h.Uid, h.Gid)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return errors.New("it would take the place of the root directory")
		}
		return u.dress(u.root, name, h)
	}
	up, base := cut(name)
	if dir, bad := markerDir(up); bad {
		return fmt.Errorf("it lies in %q, which is the name of a marker", short(dir))
	}
	if strings.HasPrefix(base, marker) {
		return u.mark(h, up, base)
	}
	at, err := u.within(up)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.directory(at, name, base, h)
	}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		return u.file(at, name, base, h, content)
	case tar.TypeSymlink:
		if h.Linkname == "" {
			return errors.New("it is a link to nothing")
		}
		if strings.IndexByte(h.Linkname, 0) >= 0 || len(h.Linkname) >= unix.PathMax {
			return errors.New("the link's target is no path")
		}
		if err := u.replace(at, name, base, func() error { return sys.Symlinkat(h.Linkname, at, base) }); err != nil {
			return err
		}
		return u.finish(at, base, h)
	case tar.TypeLink:
		return u.hardLink(at, name, base, h)
	case tar.TypeFifo:
		if err := u.replace(at, name, base, func() error { return sys.Mkfifo(at, base, 0o600) }); err != nil {
			return err
		}
		// It was made here, and nobody else is here: the name is what it was.
		if err := u.give(at, base, h); err != nil {
			return err
		}
		if err := sys.Fchmodat(at, base, mode(h)); err != nil {
			return err
		}
		return u.finish(at, base, h)
	case tar.TypeChar, tar.TypeBlock:
		return u.node(at, name, base, h)
	}
	return fmt.Errorf("its type %q is none that a layer can have", string(h.Typeflag))
}

// give gives something its owner.
func (u *unpacker) give(at int, name string, h *tar.Header) error {
	if u.limits.Mine {
		return nil
	}
	return sys.Fchownat(at, name, uint32(h.Uid), uint32(h.Gid))
}

// mode gives the permissions that chmod(2) takes.
func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

// stamp gives an entry's time, as far as the kernel can have it.
func stamp(t time.Time) unix.StatxTimestamp {
	if t.IsZero() {
		return unix.StatxTimestamp{}
	}
	return unix.StatxTimestamp{Sec: t.Unix(), Nsec: uint32(t.Nanosecond())}
}

// replace makes a name that isn't a directory. What the layer had there before
// goes: the last of two entries holds.
func (u *unpacker) replace(at int, name, base string, make func() error) error {
	err := make()
	if err == unix.EEXIST {
		if u.is(name, directory) {
			if err := u.forget(name); err != nil {
				return err
			}
		}
		if err = u.remove(at, base); err == nil {
			err = make()
		}
	}
	return err
}

func (u *unpacker) remove(at int, base string) error {
	err := sys.Unlinkat(at, base, 0)
	if err == unix.EISDIR || err == unix.EPERM {
		err = tree.Remove(at, base)
	}
	return err
}

// directory makes a directory, or changes one that the layer has already.
func (u *unpacker) directory(at int, name, base string, h *tar.Header) error {
	err := sys.Mkdirat(at, base, 0o700)
	if err == unix.EEXIST && !u.is(name, directory) {
		// It is something else so far, such as a marker for a name that the
		// layers below have.
		if err = u.remove(at, base); err == nil {
			err = sys.Mkdirat(at, base, 0o700)
		}
	}
	if err != nil && err != unix.EEXIST {
		return err
	}
	n, err := u.parent(name)
	if err != nil {
		return err
	}
	if u.is(name, removed) {
		if err := hide(n); err != nil {
			return err
		}
	}
	return u.dress(n, name, h)
}

// dress gives a directory its owner, mode and attributes, and remembers its
// time for the end.
func (u *unpacker) dress(n int, name string, h *tar.Header) error {
	if err := u.give(n, "", h); err != nil {
		return fmt.Errorf("set its owner: %w", err)
	}
	if err := sys.Fchmod(n, mode(h)); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	if err := u.attributes(n, h); err != nil {
		return err
	}
	k, err := u.note(name, named|directory)
	if err == nil {
		k.time = stamp(h.ModTime)
	}
	return err
}

// finish sets owner and time of what can't be opened.
func (u *unpacker) finish(at int, base string, h *tar.Header) error {
	if h.Typeflag == tar.TypeSymlink {
		if err := u.give(at, base, h); err != nil {
			return fmt.Errorf("set its owner: %w", err)
		}
	}
	if err := sys.Utimensat(at, base, stamp(h.ModTime), stamp(h.ModTime)); err != nil {
		return fmt.Errorf("set its time: %w", err)
	}
	return nil
}

// file makes a regular file.
func (u *unpacker) file(at int, name, base string, h *tar.Header, content io.Reader) error {
	if u.written += h.Size; h.Size < 0 || u.written < 0 || u.written > u.limits.Size {
		return fmt.Errorf("the files of the layer have more than %d bytes", u.limits.Size)
	}
	n := -1
	err := u.replace(at, name, base, func() (err error) {
		n, err = sys.Openat(at, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	defer sys.Close(n)
	if err := u.write(n, h, content); err != nil {
		return err
	}
	// The owner first: changing it takes setuid bits and capabilities away.
	if err := u.give(n, "", h); err != nil {
		return fmt.Errorf("set its owner: %w", err)
	}
	if err := sys.Fchmod(n, mode(h)); err != nil {
		return fmt.Errorf("set its mode: %w", err)
	}
	if err := u.attributes(n, h); err != nil {
		return err
	}
	if err := sys.Utimensat(n, "", stamp(h.ModTime), stamp(h.ModTime)); err != nil {
		return fmt.Errorf("set its time: %w", err)
	}
	return nil
}

// hole is what a run of zeros in a sparse file must have to become one.
const hole = 4 << 10

// write copies the content of a file.
func (u *unpacker) write(n int, h *tar.Header, content io.Reader) error {
	if u.buf == nil {
		u.buf = make([]byte, 256<<10)
	}
	sparse := h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != ""
	at, left := int64(0), h.Size
	for left > 0 {
		b := u.buf[:min(left, int64(len(u.buf)))]
		m, err := io.ReadFull(content, b)
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read its content: %w", err)
		}
		left -= int64(m)
		for len(b) > 0 {
			part := b
			if sparse {
				part = b[:min(hole, len(b))]
				if zeros(part) {
					at, b = at+int64(len(part)), b[len(part):]
					continue
				}
			}
			w, err := sys.Pwrite(n, part, at)
			if err != nil {
				return fmt.Errorf("write it: %w", err)
			}
			at, b = at+int64(w), b[w:]
		}
	}
	if sparse {
		return sys.Ftruncate(n, h.Size)
	}
	return nil
}

func zeros(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// hardLink gives a file of this layer another name.
func (u *unpacker) hardLink(at int, name, base string, h *tar.Header) error {
	to, err := clean(h.Linkname)
	if err != nil || to == "" {
		return fmt.Errorf("its target %q leads out of the layer", short(h.Linkname))
	}
	up, last := cut(to)
	if dir, bad := markerDir(to); bad {
		return fmt.Errorf("its target holds %q, which is the name of a marker", short(dir))
	}
	if to == name {
		return errors.New("it is a hard link to itself")
	}
	from, err := u.parent(up)
	if up == "" {
		from, err = u.root, nil
	}
	var st unix.Statx_t
	if err == nil {
		st, err = sys.Statx(from, last, unix.STATX_TYPE)
	}
	switch {
	case err == unix.ENOENT || err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR:
		return fmt.Errorf("it is a hard link to %q, which the layer doesn't hold", short(to))
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("it is a hard link to the directory %q", short(to))
	}
	if strings.HasPrefix(to, name+"/") {
		return fmt.Errorf("it would take the place of the directory that %q is in", short(to))
	}
	return u.replace(at, name, base, func() error { return sys.Linkat(from, last, at, base) })
}

// node notes a device node. A name that it replaces goes all the same.
func (u *unpacker) node(at int, name, base string, h *tar.Header) error {
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return errors.New("it is the device 0:0, which overlayfs takes for a removed name")
	}
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > 0xfff || h.Devminor > 0xfffff {
		return fmt.Errorf("there is no device %d:%d", h.Devmajor, h.Devminor)
	}
	kind := uint32(unix.S_IFCHR)
	if h.Typeflag == tar.TypeBlock {
		kind = unix.S_IFBLK
	}
	if u.is(name, directory) {
		if err := u.forget(name); err != nil {
			return err
		}
	}
	if err := u.remove(at, base); err != nil && err != unix.ENOENT {
		return err
	}
	if u.kept += len(name) + 64; u.kept > remembered {
		return errors.New("the layer has too many device nodes to remember")
	}
	u.report.Nodes = append(u.report.Nodes, Node{
		Path: name, Mode: kind | mode(h), Major: uint32(h.Devmajor), Minor: uint32(h.Devminor),
		UID: uint32(h.Uid), GID: uint32(h.Gid), Modified: h.ModTime.Unix(),
	})
	return nil
}

// xattr begins the names of attributes in PAX headers.
const xattr = "SCHILY.xattr."

// attributes sets the extended attributes of an open file.
func (u *unpacker) attributes(n int, h *tar.Header) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattr)
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(name, "trusted.overlay."), strings.HasPrefix(name, "user.overlay."):
			return fmt.Errorf("its attribute %s is overlayfs's own", short(name))
		case name == "security.capability", strings.HasPrefix(name, "user."), strings.HasPrefix(name, "system.posix_acl_"):
		default:
			continue // labels and the like are the host's to give
		}
		err := sys.Fsetxattr(n, name, []byte(value))
		if err == unix.EOPNOTSUPP && strings.HasPrefix(name, "system.") {
			continue // the file system has no access lists
		}
		if err != nil {
			return fmt.Errorf("set its attribute %s: %w", short(name), err)
		}
	}
	return nil
}
