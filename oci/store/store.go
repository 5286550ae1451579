// Package store keeps images on the disk: each layer unpacked, once, whichever
// images have it, and what the images say of themselves.
//
//	lock            flock: shared by who adds something, exclusive for who sweeps
//	images/ID       one image: what it is called, its layers, its configuration
//	layers/HEX      a whole layer: its tree, and report, what the unpacker said
//	fresh-BOOT/HEX  the same, not yet known to be on the disk: only this boot's
//	tmp/            what is being made; whatever nobody has a lock on is left over
//	machines/NAME   what a machine has changed, and its image's file
//
// What it guarantees: a layer is in layers/ only when all of it is on the disk,
// and an image in images/ only when all of its layers are. Everything gets its
// place by a rename, so that who is killed leaves nothing but what the next
// Sweep takes away. Locks go with the process that has them.
//
// It refuses to know where layers come from, and how a machine is started.
//
// Room: host.
package store

import (
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

// Dir is where root's store is. Only tests move it.
const Dir = "/var/lib/launch"

// Store is an open store.
type Store struct {
	// Path is where it is, without links.
	Path string
	dir  int
	boot string
}

// Where gives the store's directory for who runs the program: root's, another
// user's own, or what LAUNCH_STORE says.
func Where(env func(string) string, root bool) (string, error) {
	if dir := env("LAUNCH_STORE"); dir != "" {
		if !path.IsAbs(dir) {
			return "", fmt.Errorf("LAUNCH_STORE=%s: it must be an absolute path", dir)
		}
		return path.Clean(dir), nil
	}
	if root {
		return Dir, nil
	}
	if dir := env("XDG_STATE_HOME"); path.IsAbs(dir) {
		return path.Join(dir, "launch"), nil
	}
	if home := env("HOME"); path.IsAbs(home) {
		return path.Join(home, ".local/state/launch"), nil
	}
	return "", errors.New("neither XDG_STATE_HOME nor HOME says where to keep images")
}

// ErrNone says that there is no store yet, or no such image.
var ErrNone = errors.New("no such image")

// Open opens the store, and makes what of it is missing.
func Open(dir string) (*Store, error) {
	s, err := open(dir)
	if err != unix.ENOENT {
		return s, err
	}
	if err := mkdirs(dir); err != nil {
		return nil, err
	}
	return open(dir)
}

// Look opens a store that is there already; ErrNone if none is.
func Look(dir string) (*Store, error) {
	s, err := open(dir)
	if err == unix.ENOENT {
		return nil, ErrNone
	}
	return s, err
}

var parts = [...]string{"images", "layers", "machines", "tmp"}

func mkdirs(dir string) error {
	made := ""
	for part := range strings.SplitSeq(strings.Trim(dir, "/"), "/") {
		made += "/" + part
		mode := uint32(0o755)
		if made == dir {
			mode = 0o700
		}
		if err := sys.Mkdirat(unix.AT_FDCWD, made, mode); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s: %w", made, err)
		}
	}
	for _, name := range parts {
		if err := sys.Mkdirat(unix.AT_FDCWD, path.Join(dir, name), 0o700); err != nil && err != unix.EEXIST {
			return fmt.Errorf("make %s/%s: %w", dir, name, err)
		}
	}
	return nil
}

// open gives ENOENT bare where the store, or a part of it, is missing.
func open(dir string) (*Store, error) {
	n, err := sys.Openat2(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err == unix.ENOENT {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open the store %s: %w", dir, err)
	}
	s := &Store{Path: dir, dir: n}
	st, err := sys.Statx(n, "", unix.STATX_UID|unix.STATX_MODE)
	if err == nil && (st.Uid != uint32(unix.Geteuid()) || st.Mode&0o077 != 0) {
		// Somebody else could put anything there, setuid files included.
		err = fmt.Errorf("it must belong to user %d, with mode 0700", unix.Geteuid())
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open the store %s: %w", dir, err)
	}
	for _, name := range parts {
		if _, err := sys.Statx(n, name, unix.STATX_TYPE); err != nil {
			s.Close()
			if err != unix.ENOENT {
				err = fmt.Errorf("look at %s/%s: %w", dir, name, err)
			}
			return nil, err
		}
	}
	return s, nil
}

// Close closes it.
func (s *Store) Close() {
	if s.dir >= 0 {
		sys.Close(s.dir)
		s.dir = -1
	}
}

// fresh is the name of the directory for layers that may not be on the disk yet.
func (s *Store) fresh() (string, error) {
	if s.boot == "" {
		b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64)
		if err != nil {
			return "", fmt.Errorf("read the boot's id: %w", err)
		}
		s.boot = "fresh-" + strings.TrimSpace(string(b))
		if err := sys.Mkdirat(s.dir, s.boot, 0o700); err != nil && err != unix.EEXIST {
			return "", fmt.Errorf("make %s in the store: %w", s.boot, err)
		}
	}
	return s.boot, nil
}

// Lock is a lock that goes with the process at the latest.
type Lock struct{ n int }

// Release gives it back.
func (l *Lock) Release() {
	if l != nil && l.n >= 0 {
		sys.Close(l.n)
		l.n = -1
	}
}

// lock takes the store's own lock, and waits for it.
func (s *Store) lock(how int) (*Lock, error) {
	n, err := sys.Openat(s.dir, "lock", unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		if err = sys.Flock(n, how); err == nil {
			return &Lock{n}, nil
		}
		sys.Close(n)
	}
	return nil, fmt.Errorf("lock the store %s: %w", s.Path, err)
}

// random gives a name that nobody else has.
func random() (string, error) {
	var b [8]byte
	if err := sys.Random(b[:]); err != nil {
		return "", fmt.Errorf("get random bytes: %w", err)
	}
	return fmt.Sprintf("%x", b), nil
}

// put writes a file so that it is there whole or not at all, also after a power
// cut.
func (s *Store) put(name string, data []byte) error {
	token, err := random()
	if err != nil {
		return err
	}
	half := "tmp/file." + token
	n, err := sys.Openat(s.dir, half, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		for b := data; len(b) > 0 && err == nil; {
			var m int
			m, err = sys.Write(n, b)
			b = b[max(m, 0):]
		}
		if err == nil {
			err = sys.Fsync(n)
		}
		sys.Close(n)
	}
	if err == nil {
		err = sys.Renameat2(s.dir, half, s.dir, name, 0)
	}
	if err == nil {
		err = s.settle(path.Dir(name))
	}
	if err != nil {
		_ = sys.Unlinkat(s.dir, half, 0)
		return fmt.Errorf("write %s of the store: %w", name, err)
	}
	return nil
}

// settle makes sure that the names in a directory of the store are on the disk.
func (s *Store) settle(dir string) error {
	n, err := sys.Openat(s.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return sys.Fsync(n)
}

// names lists a directory of the store.
func (s *Store) names(dir string) ([]string, error) {
	n, err := sys.Openat(s.dir, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path.Join(s.Path, dir), err)
	}
	defer sys.Close(n)
	list, err := sys.Names(n)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", path.Join(s.Path, dir), err)
	}
	slices.Sort(list)
	return list, nil
}

// remove takes something away: first its name, so that nobody finds half of it.
func (s *Store) remove(name string) error {
	token, err := random()
	if err != nil {
		return err
	}
	gone := "tmp/gone." + token
	if err := sys.Renameat2(s.dir, name, s.dir, gone, unix.RENAME_NOREPLACE); err == unix.ENOENT {
		return nil
	} else if err != nil {
		return fmt.Errorf("remove %s of the store: %w", name, err)
	}
	return tree.Remove(s.dir, gone)
}

// readJSON reads a file of the store, at most max bytes.
func (s *Store) readJSON(name string, max int, v any) error {
	b, err := sys.ReadFile(s.dir, name, max)
	if err == unix.ENOENT {
		return err
	}
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		return fmt.Errorf("read %s of the store: %w", name, err)
	}
	return nil
}
