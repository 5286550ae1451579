package store

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/tree"
)

// hex gives the name that a layer has in the store: its diffID without the
// algorithm.
func hex(diffID string) (string, error) {
	h, ok := strings.CutPrefix(diffID, "sha256:")
	if !ok || len(h) != 64 || strings.Trim(h, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is no sha256 digest", diffID)
	}
	return h, nil
}

// has tells whether a whole layer is there: kept, or fresh.
func (s *Store) has(h string) (dir string, err error) {
	fresh, err := s.fresh()
	if err != nil {
		return "", err
	}
	// Fresh ones move to layers, so they are looked for first.
	for _, dir := range [...]string{"layers", fresh, "layers"} {
		_, err := sys.Statx(s.dir, path.Join(dir, h), unix.STATX_TYPE)
		if err == nil {
			return dir, nil
		}
		if err != unix.ENOENT {
			return "", fmt.Errorf("look for layer %s in the store: %w", h, err)
		}
	}
	return "", nil
}

// TreePath is where a layer's files are.
func (s *Store) TreePath(diffID string) string {
	return path.Join(s.Path, "layers", strings.TrimPrefix(diffID, "sha256:"), "tree")
}

// Claim keeps layers from being swept away until an image, or nobody, needs
// them.
type Claim struct {
	s    *Store
	lock *Lock
	name string
}

// Claim says which layers somebody is about to need.
func (s *Store) Claim(diffIDs []string) (*Claim, error) {
	own, err := s.lock(unix.LOCK_SH) // no Sweep sees the claim half made
	if err != nil {
		return nil, err
	}
	defer own.Release()
	token, err := random()
	if err != nil {
		return nil, err
	}
	c := &Claim{s: s, name: "tmp/claim." + token, lock: &Lock{-1}}
	c.lock.n, err = sys.Openat(s.dir, c.name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = sys.Flock(c.lock.n, unix.LOCK_EX)
	}
	if err == nil {
		err = sys.WriteString(c.lock.n, strings.Join(diffIDs, "\n")+"\n")
	}
	if err != nil {
		c.Release()
		return nil, fmt.Errorf("claim layers of the store: %w", err)
	}
	return c, nil
}

// Release gives the layers back.
func (c *Claim) Release() {
	if c == nil {
		return
	}
	_ = sys.Unlinkat(c.s.dir, c.name, 0)
	c.lock.Release()
}

// Half is a layer that is being made. Nobody else makes it meanwhile.
type Half struct {
	s    *Store
	hex  string
	lock *Lock
	own  *Lock
	// Name is that of the directory to unpack into, below Path/tmp; it holds
	// an empty directory "tree".
	Name string
}

// Begin begins a layer. It gives nil where the layer is there already, and
// waits for who makes it unless told not to: then busy says that somebody does.
func (s *Store) Begin(diffID string, wait bool) (half *Half, busy bool, err error) {
	h, err := hex(diffID)
	if err != nil {
		return nil, false, err
	}
	if dir, err := s.has(h); err != nil || dir != "" {
		return nil, false, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	x := &Half{s: s, hex: h, lock: &Lock{-1}, own: &Lock{-1}}
	name := "tmp/lock." + h
	for {
		if x.lock.n, err = sys.Openat(s.dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW, 0o600); err != nil {
			return nil, false, fmt.Errorf("make a lock for layer %s: %w", h, err)
		}
		err = sys.Flock(x.lock.n, how)
		if err == unix.EWOULDBLOCK {
			x.lock.Release()
			return nil, true, nil
		}
		var st unix.Statx_t
		if err == nil {
			st, err = sys.Statx(x.lock.n, "", unix.STATX_NLINK)
		}
		if err != nil {
			x.lock.Release()
			return nil, false, fmt.Errorf("lock layer %s: %w", h, err)
		}
		if st.Nlink > 0 {
			break
		}
		x.lock.Release() // whoever had it has finished
	}
	// Here: it is ours to make, unless somebody has just made it.
	if dir, err := s.has(h); err != nil || dir != "" {
		x.Abandon()
		return nil, false, err
	}
	own, err := s.lock(unix.LOCK_SH)
	if err != nil {
		x.Abandon()
		return nil, false, err
	}
	defer own.Release()
	token, err := random()
	if err != nil {
		x.Abandon()
		return nil, false, err
	}
	x.Name = "half." + token
	if err = sys.Mkdirat(s.dir, "tmp/"+x.Name, 0o700); err == nil {
		if err = sys.Mkdirat(s.dir, "tmp/"+x.Name+"/tree", 0o755); err == nil {
			if x.own.n, err = sys.Openat(s.dir, "tmp/"+x.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err == nil {
				err = sys.Flock(x.own.n, unix.LOCK_EX)
			}
		}
	}
	if err != nil {
		x.Abandon()
		return nil, false, fmt.Errorf("make a directory for layer %s: %w", h, err)
	}
	return x, false, nil
}

// Done gives a layer that is whole its place, with a report about it. It is on
// the disk only when an image that has it is kept.
func (x *Half) Done(report any) error {
	defer x.Abandon()
	text, err := json.Marshal(report)
	if err != nil {
		return err
	}
	n, err := sys.Openat(x.own.n, "report", unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err == nil {
		err = sys.WriteString(n, string(text))
		sys.Close(n)
	}
	fresh := ""
	if err == nil {
		fresh, err = x.s.fresh()
	}
	if err == nil {
		err = sys.Renameat2(x.s.dir, "tmp/"+x.Name, x.s.dir, path.Join(fresh, x.hex), unix.RENAME_NOREPLACE)
	}
	if err != nil {
		return fmt.Errorf("keep layer %s: %w", x.hex, err)
	}
	x.Name = ""
	return nil
}

// Tree opens the directory that the layer is unpacked to.
func (x *Half) Tree() (int, error) {
	return sys.Openat(x.own.n, "tree", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// Abandon gives up a layer that is not done, and lets others make it.
func (x *Half) Abandon() {
	if x.Name != "" {
		_ = tree.Remove(x.s.dir, "tmp/"+x.Name)
		x.Name = ""
	}
	x.own.Release()
	if x.lock.n >= 0 {
		// Who waits for it finds that it has no name any more, and looks again.
		_ = sys.Unlinkat(x.s.dir, "tmp/lock."+x.hex, 0)
	}
	x.lock.Release()
}

// Tree opens the directory with the files of a layer that is there.
func (s *Store) Tree(diffID string) (n int, err error) {
	err = s.within(diffID, func(dir string) error {
		n, err = sys.Openat(s.dir, path.Join(dir, "tree"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		return err
	})
	return n, err
}

// Report reads the report about a layer that is there.
func (s *Store) Report(diffID string, report any) error {
	return s.within(diffID, func(dir string) error { return s.readJSON(path.Join(dir, "report"), 256<<20, report) })
}

// within does something in a layer's directory. A fresh one may be moved just
// then, but only once.
func (s *Store) within(diffID string, do func(dir string) error) error {
	h, err := hex(diffID)
	if err != nil {
		return err
	}
	for range 2 {
		var dir string
		if dir, err = s.has(h); err == nil && dir == "" {
			err = unix.ENOENT
		}
		if err == nil {
			err = do(path.Join(dir, h))
		}
		if err != unix.ENOENT {
			return err
		}
	}
	return err
}

// Seal makes sure that the layers are on the disk, and moves those that were
// fresh to their place.
func (s *Store) Seal(diffIDs []string) error {
	fresh, err := s.fresh()
	if err != nil {
		return err
	}
	var moved []string
	for _, d := range diffIDs {
		h, err := hex(d)
		if err != nil {
			return err
		}
		dir, err := s.has(h)
		if err != nil {
			return err
		}
		switch dir {
		case fresh:
			moved = append(moved, h)
		case "":
			return fmt.Errorf("layer %s is gone", d)
		}
	}
	if len(moved) == 0 {
		return nil
	}
	if err := sys.Syncfs(s.dir); err != nil {
		return fmt.Errorf("write the layers to the disk: %w", err)
	}
	for _, h := range moved {
		err := sys.Renameat2(s.dir, path.Join(fresh, h), s.dir, "layers/"+h, unix.RENAME_NOREPLACE)
		if err != nil && err != unix.ENOENT { // another one did
			return fmt.Errorf("keep layer %s: %w", h, err)
		}
	}
	if err := s.settle("layers"); err != nil {
		return fmt.Errorf("write the layers to the disk: %w", err)
	}
	return nil
}

// Over makes a layer of directories, which belongs above those that they were
// found in, and gives its name; "" where there are none to make. Whoever has the
// same ones has the same layer. It is claimed until the Claim is released.
func (s *Store) Over(list []Directory) (name string, c *Claim, err error) {
	if len(list) == 0 {
		return "", nil, nil
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", nil, err
	}
	// No archive begins like that, so no layer of one has this name.
	h := fmt.Sprintf("%x", sha256.Sum256(append([]byte("directories\n"), text...)))
	name = "sha256:" + h
	if c, err = s.Claim([]string{name}); err != nil {
		return "", nil, err
	}
	half, _, err := s.Begin(name, true)
	if err == nil && half != nil {
		var n int
		if n, err = half.Tree(); err == nil {
			err = makeDirs(n, list)
			sys.Close(n)
		}
		if err == nil {
			err = half.Done(struct{}{})
		} else {
			half.Abandon()
		}
	}
	if err != nil {
		c.Release()
		return "", nil, fmt.Errorf("make the layer of directories: %w", err)
	}
	return name, c, nil
}
