package attach

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/plan"
	"launch/internal/sys"
	"launch/mount"
)

// resolve opens what a path inside the machine names.
func (t *Tree) resolve(target string) (int, error) {
	return sys.Openat2(t.root, target, unix.O_PATH, 0, sys.InRoot)
}

// apiDirs are the directories that every machine's own file systems go to. A
// link in their place is refused: a tree that redirects its /proc or /dev
// wants something else than to be run.
func isAPI(target string) bool {
	switch target {
	case "/proc", "/sys", "/dev", "/run":
		return true
	}
	return false
}

// target opens the step's target, and makes it first if it is missing and the
// step says with which mode.
func (t *Tree) target(s plan.Step, kind uint32) (int, error) {
	if isAPI(s.Target) && !t.Exact || s.NoFollow || t.Exact && (s.Target == "/proc" || s.Target == "/sys") {
		n, err := sys.Openat2(t.root, s.Target, unix.O_PATH|unix.O_NOFOLLOW, 0, sys.InRoot)
		if err == unix.ENOENT && (t.Exact || s.NoFollow && s.Mode != 0) {
			if err = t.make(s, kind); err == nil {
				n, err = sys.Openat2(t.root, s.Target, unix.O_PATH|unix.O_NOFOLLOW, 0, sys.InRoot)
			}
		}
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", s.Target, err)
		}
		st, err := sys.Statx(n, "", unix.STATX_TYPE)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR && !s.NoFollow {
			err = fmt.Errorf("the tree's %s is %s, it must be a directory", s.Target, kindWord(uint32(st.Mode)&unix.S_IFMT))
		}
		if err != nil {
			sys.Close(n)
			return -1, err
		}
		return n, nil
	}
	n, err := t.resolve(s.Target)
	if err == nil {
		if err = t.avoid(n, s); err != nil {
			sys.Close(n)
		}
		return n, err
	}
	if err != unix.ENOENT || s.Mode == 0 {
		return -1, fmt.Errorf("open %s: %w", s.Target, err)
	}
	if err := t.make(s, kind); err != nil {
		return -1, err
	}
	if n, err = t.resolve(s.Target); err != nil {
		return -1, fmt.Errorf("open %s: %w", s.Target, err)
	}
	return n, nil
}

// avoid refuses a target, or the directory to make one in, where the step says
// that it would be covered later.
func (t *Tree) avoid(n int, s plan.Step) error {
	if s.Avoid == "" {
		return nil
	}
	at, err := t.inside(n, s.Target)
	if err != nil {
		return err
	}
	if mount.Below(at, s.Avoid) {
		return fmt.Errorf("a link leads to the tree's %s, which the machine's own file system on %s covers", at, s.Avoid)
	}
	return nil
}

// inside gives the path that what target led to has in the machine, without
// links.
func (t *Tree) inside(n int, target string) (string, error) {
	root, err := sys.PathOf(t.root)
	if err != nil {
		return "", fmt.Errorf("find the machine's root: %w", err)
	}
	at, err := sys.PathOf(n)
	if err != nil {
		return "", fmt.Errorf("find out what %s is: %w", target, err)
	}
	return strings.TrimPrefix(at, root), nil
}

// make makes a missing target, and the directories on the way. The last one is
// a directory or an empty file, as kind says.
func (t *Tree) make(s plan.Step, kind uint32) error {
	return t.walk(s.Target, func(parent int, rest []string) error {
		if err := t.avoid(parent, s); err != nil {
			return err
		}
		mode := uint32(unix.S_IFDIR | 0o755)
		if len(rest) == 1 {
			mode = unix.S_IFDIR | s.Mode
			if kind != unix.S_IFDIR {
				mode = unix.S_IFREG | 0o644
			}
		}
		make := func() error {
			if mode&unix.S_IFMT == unix.S_IFDIR {
				return sys.Mkdirat(parent, rest[0], mode&0o7777)
			}
			return sys.Mknodat(parent, rest[0], mode, 0)
		}
		err := t.owned(make)
		if err == unix.EROFS {
			if n, ok := t.behind(parent); ok {
				defer sys.Close(n)
				parent = n
				err = t.owned(make)
			}
		}
		return err
	})
}

// behind gives the directory of /run that the machine's read-only mount on
// /run/host shows as n, and in which something can be made still.
func (t *Tree) behind(n int) (behind int, ok bool) {
	if t.runHost < 0 || t.Exact {
		return -1, false
	}
	at, err := t.inside(n, runHost)
	if err != nil || !mount.Below(at, runHost) {
		return -1, false
	}
	behind, err = sys.Openat2(t.runHost, "."+strings.TrimPrefix(at, runHost), unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV)
	if err != nil {
		return -1, false
	}
	if same(behind, n) != nil { // it is of another mount
		sys.Close(behind)
		return -1, false
	}
	return behind, true
}

// runHost is where the machine finds what its launcher tells it.
const runHost = "/run/host"

// walk goes to a target name by name: each is looked up from the root again, so
// that links mean what they mean inside. Where one is missing, it calls missing
// with the directory that the lookup of its parent gave and the names that are
// left; a link to what isn't there leads on. It goes on as if that had made it.
func (t *Tree) walk(target string, missing func(parent int, rest []string) error) error {
	rest := strings.Split(strings.Trim(path.Clean(target), "/"), "/")
	done := ""
	for links := 0; len(rest) > 0; {
		name := rest[0]
		here := done + "/" + name
		if n, err := t.resolve(here); err == nil {
			sys.Close(n)
			done, rest = here, rest[1:]
			continue
		} else if err != unix.ENOENT {
			return fmt.Errorf("open %s: %w", here, err)
		}
		parent, err := sys.Openat2(t.root, done+"/", unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)
		if err != nil {
			return fmt.Errorf("open %s: %w", done+"/", err)
		}
		link, lerr := sys.Readlinkat(parent, name)
		if lerr == nil {
			// A link to what isn't there: what it names is made.
			sys.Close(parent)
			if links++; links > 40 {
				return fmt.Errorf("make %s: %w", here, unix.ELOOP)
			}
			if !strings.HasPrefix(link, "/") {
				link = done + "/" + link
			}
			rest = append(strings.Split(strings.Trim(path.Clean(link), "/"), "/"), rest[1:]...)
			done = ""
			continue
		}
		err = missing(parent, rest)
		sys.Close(parent)
		if err == errStop {
			return nil
		}
		if err != nil {
			return fmt.Errorf("make %s: %w", here, err)
		}
		done, rest = here, rest[1:]
	}
	return nil
}

// errStop ends a walk.
var errStop = errors.New("stop")
