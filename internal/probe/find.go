package probe

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/settings"
)

// Finder finds trees and disk images for settings. What it has seen of a
// directory of versions it remembers: whoever asks twice gets the same version,
// even if another one has come meanwhile.
type Finder struct {
	seen map[settings.Versions]seen
}

type seen struct {
	settings.Listing
	err error
}

// Around puts the finder into what settings are resolved with.
func (f *Finder) Around(around *settings.Surroundings) {
	around.Images, around.Versions, around.Processor = f.Image, f.Versions, runtime.GOARCH
}

// Image finds the tree of a machine by its name, where systemd keeps them: a
// directory, a block device, a disk image with .raw behind its name, or a mount
// stack with .mstack; or else versions of a tree, or of an image.
func (f *Finder) Image(name string) (found settings.Where, ok bool) {
	missed := ""
	for _, dir := range settings.ImageDirs {
		for _, end := range [...]string{"", ".raw", ".mstack"} {
			at := settings.Where{Path: dir + "/" + name + end}
			kind, locked, err := kindOf(at.Path)
			switch {
			case err != nil:
			case kind == settings.KindDir && end == "":
				at.ReadOnly = locked
				return at, true
			case kind == settings.KindDir && end == ".mstack":
				at.MStack = true
				return at, true
			case kind == settings.KindBlock && end == "", kind == settings.KindFile && end == ".raw":
				at.Image, at.ReadOnly = true, locked
				return at, true
			}
		}
		for _, end := range [...]string{".v", ".raw.v"} {
			at := settings.Where{Image: end != ".v"}
			v, ok := settings.VersionsOf(dir+"/"+name+end, at.Image)
			if !ok {
				continue
			}
			list, err := f.Versions(v)
			if err != nil || list.Missing {
				if err != nil {
					missed = fmt.Sprintf("%s can't be looked into: %v", v.Dir, err)
				}
				continue
			}
			picked, err := v.Pick(list.Names, runtime.GOARCH)
			if err != nil {
				return settings.Where{Missed: err.Error()}, false
			}
			if picked.Path == "" {
				missed = picked.Why
				continue
			}
			at.Path, at.Picked = picked.Path, picked
			_, at.ReadOnly, _ = kindOf(at.Path)
			return at, true
		}
	}
	return settings.Where{Missed: missed}, false
}

// kindOf tells what a path leads to, and whether it is a file that nobody may
// write to, or a directory that nobody can (chattr +i). What lies below /usr is the
// vendor's, and is not to be changed either.
func kindOf(path string) (kind settings.Kind, locked bool, err error) {
	n, err := sys.Openat(unix.AT_FDCWD, path, unix.O_PATH, 0)
	if err != nil {
		return "", false, err
	}
	defer sys.Close(n)
	kind, locked, err = kindAt(n)
	if err == nil && !locked {
		var real string
		real, err = sys.PathOf(n)
		locked = settings.Vendors(real)
	}
	return kind, locked, err
}

func kindAt(n int) (kind settings.Kind, locked bool, err error) {
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_MODE)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return settings.KindDir, st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0, err
	case unix.S_IFREG:
		return settings.KindFile, st.Mode&0o222 == 0, err
	case unix.S_IFBLK:
		return settings.KindBlock, false, err
	}
	return settings.KindOther, false, err
}

// More names, and more versions, are not read: nobody keeps so many.
const (
	mostNames    = 1 << 17
	mostVersions = 1 << 12
)

// Versions lists a directory of versions. Whoever may write to it may have made
// any names there, links among them, which are followed as everywhere on the
// host, but not procfs's magic ones.
func (f *Finder) Versions(v settings.Versions) (settings.Listing, error) {
	s, ok := f.seen[v]
	if !ok {
		s.Listing, s.err = list(v, mostNames, mostVersions)
		if f.seen == nil {
			f.seen = map[settings.Versions]seen{}
		}
		f.seen[v] = s
	}
	return s.Listing, s.err
}

func list(v settings.Versions, mostNames, mostVersions int) (l settings.Listing, err error) {
	n, err := sys.Openat(unix.AT_FDCWD, v.Dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if missing(err) || err == unix.ENOTDIR {
		return settings.Listing{Missing: true}, nil
	}
	if err != nil {
		return l, fmt.Errorf("open it: %w", err)
	}
	defer sys.Close(n)
	var look look
	l.Tree = look.exists(n, "usr")
	b := make([]byte, 16<<10)
	names := 0
	for {
		m, err := sys.Getdents(n, b)
		if err != nil {
			return l, fmt.Errorf("read it: %w", err)
		}
		if m == 0 {
			return l, nil
		}
		for rest := b[:m]; ; {
			kind, name, more := sys.Dirent(rest)
			if name == nil {
				break
			}
			rest = more
			if names++; names > mostNames {
				return l, fmt.Errorf("it has more than %d names", mostNames)
			}
			file := string(name[:len(name)-1])
			if _, ok := v.Parse(file); !ok {
				continue
			}
			if len(l.Names) == mostVersions {
				return l, fmt.Errorf("it has more than %d versions", mostVersions)
			}
			what, err := kindOfEntry(n, file, kind)
			if err != nil {
				return l, fmt.Errorf("look at %s in it: %w", file, err)
			}
			if what != "" {
				l.Names = append(l.Names, settings.Named{Name: file, Kind: what})
			}
		}
	}
}

// kindOfEntry tells what an entry of a directory leads to; "" if it is gone.
func kindOfEntry(dir int, name string, kind byte) (settings.Kind, error) {
	switch kind {
	case unix.DT_DIR:
		return settings.KindDir, nil
	case unix.DT_REG:
		return settings.KindFile, nil
	case unix.DT_BLK:
		return settings.KindBlock, nil
	case unix.DT_LNK, unix.DT_UNKNOWN:
	default:
		return settings.KindOther, nil
	}
	n, err := sys.Openat2(dir, name, unix.O_PATH, 0, unix.RESOLVE_NO_MAGICLINKS)
	switch {
	case err == unix.ENOENT && kind == unix.DT_UNKNOWN:
		return "", nil
	case errors.Is(err, unix.ENOENT), err == unix.ELOOP, err == unix.ENOTDIR:
		return settings.KindNowhere, nil
	case err != nil:
		return "", err
	}
	defer sys.Close(n)
	what, _, err := kindAt(n)
	return what, err
}
