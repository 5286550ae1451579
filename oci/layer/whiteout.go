package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// A layer removes a name of the layers below with a file `.wh.NAME`, and hides
// all that they have in a directory with a file `.wh..wh..opq` in it. On the
// disk these become what overlayfs looks for: a character device 0:0 in the
// place of the name, which everybody may make, and the attribute
// user.overlay.opaque on the directory.
const (
	marker      = ".wh."
	opaqueMark  = ".wh..wh..opq"
	opaqueXattr = "user.overlay.opaque"
)

// markerDir finds a component that only a marker may have.
func markerDir(name string) (string, bool) {
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, marker) {
			return part, true
		}
	}
	return "", false
}

// mark does what a marker says. It speaks of the layers below only: what this
// layer has there itself, before it or after, stays.
func (u *unpacker) mark(h *tar.Header, up, base string) error {
	if h.Typeflag != tar.TypeReg {
		return errors.New("it has the name of a marker, and is no file")
	}
	if base == opaqueMark {
		n, err := u.within(up)
		if err != nil {
			return err
		}
		return hide(n)
	}
	gone := strings.TrimPrefix(base, marker)
	switch {
	case gone == "", gone == ".", gone == "..", strings.HasPrefix(gone, marker):
		return errors.New("it is a marker that removes nothing")
	}
	at, err := u.within(up)
	if err != nil {
		return err
	}
	name := gone
	if up != "" {
		name = up + "/" + gone
	}
	k, err := u.note(name, removed)
	if err != nil {
		return err
	}
	if k.is&directory != 0 {
		n, err := u.parent(name)
		if err != nil {
			return err
		}
		return hide(n)
	}
	err = sys.Mknodat(at, gone, unix.S_IFCHR, 0)
	if err == unix.EEXIST {
		return nil // the layer's own, which hides the one below
	}
	if err != nil {
		return fmt.Errorf("mark %q as removed: %w", short(name), err)
	}
	return nil
}

// hide makes a directory opaque.
func hide(n int) error {
	if err := sys.Fsetxattr(n, opaqueXattr, []byte("y")); err != nil {
		return fmt.Errorf("hide what the layers below have there: %w", err)
	}
	return nil
}
