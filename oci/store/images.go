package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/tree"
)

// Image is one image of the store.
type Image struct {
	// Version is that of this form.
	Version int `json:"version"`
	// Name is what it was pulled by.
	Name string `json:"name"`
	// Digest is that of its manifest.
	Digest string `json:"digest"`
	// Platform is as in linux/arm64/v8.
	Platform string `json:"platform"`
	// Packed is how many bytes its layers have in the registry, Size how many
	// they have unpacked.
	Packed int64 `json:"packed"`
	Size   int64 `json:"size"`
	// Layers are diffIDs, lowest first.
	Layers []string `json:"layers"`
	// Over is a layer of directories above those, "" if there is none: see
	// Store.Over. Root is what the machine's root looks like.
	Over string    `json:"over,omitempty"`
	Root Directory `json:"root"`
	// Config is the image's configuration, as it is.
	Config json.RawMessage `json:"config"`

	// from is the file that it was read from.
	from inode
}

// imageVersion is the form's: others are not read.
const imageVersion = 2

// ErrOther says that the store has the image in another form.
var ErrOther = errors.New("another version of launch has kept it: pull it again")

// All are the image's layers, lowest first.
func (i *Image) All() []string {
	if i.Over == "" {
		return i.Layers
	}
	return append(slices.Clone(i.Layers), i.Over)
}

// inode is a file, whatever its name.
type inode struct {
	number uint64
	size   uint64
	wrote  unix.StatxTimestamp
}

func inodeOf(at int, name string) (inode, error) {
	st, err := sys.Statx(at, name, unix.STATX_INO|unix.STATX_SIZE|unix.STATX_MTIME)
	return inode{st.Ino, st.Size, st.Mtime}, err
}

// imageMax is more than an image's file may have.
const imageMax = 16 << 20

// id is what an image's file is called: a name may have any bytes, and be long.
func id(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name))) }

// Keep gives an image its place, in that of an older one of the name. Its layers
// must be claimed, and sealed.
func (s *Store) Keep(i Image) error {
	own, err := s.lock(unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer own.Release()
	for _, d := range i.All() {
		h, err := hex(d)
		if err != nil {
			return err
		}
		if _, err := sys.Statx(s.dir, path.Join("layers", h), unix.STATX_TYPE); err != nil {
			return fmt.Errorf("keep image %s: layer %s: %w", i.Name, d, err)
		}
	}
	i.Version = imageVersion
	text, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return s.put("images/"+id(i.Name), text)
}

// Find gives the image of a name; ErrNone if there is none.
func (s *Store) Find(name string) (i Image, err error) {
	n, err := sys.Openat(s.dir, "images/"+id(name), unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return i, ErrNone
	}
	if err == nil {
		var text []byte
		if text, err = sys.ReadAll(n, imageMax); err == nil {
			err = json.Unmarshal(text, &i)
		}
		if err == nil {
			i.from, err = inodeOf(n, "")
		}
		sys.Close(n)
	}
	if err != nil {
		return i, fmt.Errorf("read the image %s of the store: %w", name, err)
	}
	if err == nil && i.Version != imageVersion {
		err = ErrOther
	}
	return i, err
}

// Images lists all of them.
func (s *Store) Images() ([]Image, error) {
	names, err := s.names("images")
	if err != nil {
		return nil, err
	}
	list := make([]Image, 0, len(names))
	for _, n := range names {
		var i Image
		if err := s.readJSON("images/"+n, imageMax, &i); err == unix.ENOENT {
			continue // it was removed just now
		} else if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	return list, nil
}

// Forget takes an image's name away. Its layers go with the next Sweep.
func (s *Store) Forget(name string) error {
	err := sys.Unlinkat(s.dir, "images/"+id(name), 0)
	if err == unix.ENOENT {
		return ErrNone
	}
	if err == nil {
		err = s.settle("images")
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return nil
}

// Swept is what a Sweep took away.
type Swept struct {
	// Layers are diffIDs.
	Layers []string `json:"layers"`
}

// Sweep removes the layers that no image, no machine and nobody's claim has, and
// what those who were killed have left.
func (s *Store) Sweep() (Swept, error) {
	var done Swept
	own, err := s.lock(unix.LOCK_EX)
	if err != nil {
		return done, err
	}
	defer own.Release()
	needed := map[string]bool{}
	images, err := s.Images()
	if err != nil {
		return done, err // not knowing what is needed, nothing is removed
	}
	need := func(diffIDs []string) {
		for _, d := range diffIDs {
			needed[strings.TrimPrefix(d, "sha256:")] = true
		}
	}
	for _, i := range images {
		need(i.All())
	}
	machines, err := s.names("machines")
	if err == nil {
		if _, err = s.bury(machines); err == nil {
			machines, err = s.names("machines")
		}
	}
	if err != nil {
		return done, err
	}
	for _, name := range machines {
		m, err := s.machine(name)
		if err == unix.ENOENT {
			continue // it ended just now
		}
		if err != nil {
			return done, err
		}
		need(m.Image.All())
	}
	left, err := s.names("tmp")
	if err != nil {
		return done, err
	}
	var over []string
	for _, name := range left {
		free, err := s.free("tmp/" + name)
		if err != nil {
			return done, err
		}
		if claimed, ok := strings.CutPrefix(name, "claim."); ok && !free && claimed != "" {
			b, err := sys.ReadFile(s.dir, "tmp/"+name, 1<<20)
			if err == unix.ENOENT {
				continue
			}
			if err != nil {
				return done, fmt.Errorf("read tmp/%s of the store: %w", name, err)
			}
			need(strings.Fields(string(b)))
		}
		if free {
			over = append(over, name)
		}
	}
	for _, name := range over {
		if err := tree.Remove(s.dir, "tmp/"+name); err == unix.ENOTDIR || err != nil && sys.Unlinkat(s.dir, "tmp/"+name, 0) == nil {
			err = nil
		} else if err != nil {
			return done, err
		}
	}
	fresh, err := s.fresh()
	if err != nil {
		return done, err
	}
	tops, err := s.names(".")
	if err != nil {
		return done, err
	}
	for _, top := range tops {
		if strings.HasPrefix(top, "fresh-") && top != fresh {
			// Of another boot: nobody knows what of it is on the disk.
			if err := s.remove(top); err != nil {
				return done, err
			}
		}
	}
	for _, dir := range [...]string{"layers", fresh} {
		all, err := s.names(dir)
		if err != nil {
			return done, err
		}
		for _, h := range all {
			if needed[h] {
				continue
			}
			if err := s.remove(path.Join(dir, h)); err != nil {
				return done, err
			}
			done.Layers = append(done.Layers, "sha256:"+h)
		}
	}
	return done, nil
}

// free tells whether nobody has the lock of something in tmp.
func (s *Store) free(name string) (bool, error) {
	n, err := sys.Openat(s.dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open %s of the store: %w", name, err)
	}
	defer sys.Close(n)
	switch err := sys.Flock(n, unix.LOCK_EX|unix.LOCK_NB); err {
	case nil:
		return true, nil
	case unix.EWOULDBLOCK:
		return false, nil
	default:
		return false, fmt.Errorf("try the lock of %s of the store: %w", name, err)
	}
}
