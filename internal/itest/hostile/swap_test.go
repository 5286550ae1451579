package hostile

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// checked is a launcher that looks whether a path of the tree leads outside,
// and then uses it by name: right in every still tree, wrong in one that moves.
var checked = mutant{"checked, then used", "paths are checked and then looked up again", []edit{
	{resolveGo, "func (t *Tree) resolve(target string) (int, error) {\n	return sys.Openat2(t.root, target, unix.O_PATH, 0, sys.InRoot)", `func (t *Tree) checked(target string, flags int) (int, error) {
	n, err := sys.Openat2(t.root, target, flags, 0, sys.InRoot|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, err
	}
	sys.Close(n)
	return sys.Openat2(t.root, "."+target, flags, 0, 0)
}

func (t *Tree) resolve(target string) (int, error) {
	return t.checked(target, unix.O_PATH)`},
	{resolveGo, `sys.Openat2(t.root, done+"/", unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot)`, `t.checked(done+"/", unix.O_PATH|unix.O_DIRECTORY)`},
}}

// named is one that makes what a read-only tree lacks by its name on the host.
var named = mutant{"stubs by name", "stubs are made in the tree, by name", []edit{
	{"mount/attach/layer.go", "	if err := t.fill(tmp, missing); err != nil {\n		return err\n	}\n	if err := setattr(tmp,", `	for _, e := range missing {
		sys.Mkdirat(unix.AT_FDCWD, sys.FdPath(t.Pin)+"/"+e.Path, 0o755)
	}
	if err := t.fill(tmp, missing); err != nil {
		return err
	}
	if err := setattr(tmp,`},
}}

// race starts machines with the arguments while a component of their mount
// targets, of which there are some, is by turns a directory and a link to the
// canary, and gives the first escape. It ends with the escape, or when both
// numbers are reached, or after the time.
func race(t *testing.T, bin string, mounts int, args []string, starts, swaps int, limit time.Duration) (escape string, started, swapped, ran int) {
	w := newWorld(t, true)
	c := &kase{args: args}
	for i := range mounts {
		c.args = append(c.args, fmt.Sprintf("--tmpfs=/srv/trap/%d/x:size=8192k", i))
	}
	w.do(func() {
		srv := w.tree + "/srv"
		err := errors.Join(w.grow(false), os.Mkdir(srv+"/trap", 0o755), os.Symlink("/box/canary/dir", srv+"/link"), os.MkdirAll(w.tree+"/box/canary/dir", 0o755))
		if err != nil {
			t.Error(err)
			return
		}
		dir, err := unix.Open(srv, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		os.Mkdir("/run/launch", 0o700)
		if _, err := w.start(bin, &kase{}); err != nil {
			t.Error(err)
			return
		}
		before := w.host()
		stop := swapAt(dir, "trap", "link", 0)
		begin := time.Now()
		for ; escape == "" && time.Since(begin) < limit; started++ {
			// The swapper is not asked, since it would have to stop; it is
			// far ahead after so many starts.
			if started >= starts && time.Since(begin) > time.Duration(swaps)*10*time.Microsecond {
				break
			}
			r, err := w.start(bin, c)
			switch {
			case err != nil:
				escape = err.Error()
			case r.view != nil:
				ran++
				n := 0
				for _, m := range r.view.Mounts {
					if strings.Contains(m.Super, "size=8192k") {
						n++
					}
				}
				if n != mounts {
					escape = "a mount of the machine's went elsewhere"
				}
			case r.status != 1 || !strings.HasPrefix(r.errs, "launch: "):
				escape = "neither ran nor was refused: " + r.errs
			}
			if d := changes(before, w.host()); d != "" && escape == "" {
				escape = "the host changed: " + d
			}
			// What was made inside is taken away, so that it is missing again.
			for _, d := range []string{srv + "/trap", srv + "/link", w.tree + "/box/canary/dir"} {
				emptyOut(d, mounts)
			}
		}
		swapped = stop()
	})
	return escape, started, swapped, ran
}

// emptyOut removes the targets below d, which is never followed as a link.
func emptyOut(d string, mounts int) {
	n, err := unix.Open(d, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(n)
	for i := range mounts {
		unix.Unlinkat(n, fmt.Sprintf("%d/x", i), unix.AT_REMOVEDIR)
		unix.Unlinkat(n, fmt.Sprint(i), unix.AT_REMOVEDIR)
	}
}

// TestHostileSwap: nothing escapes from a tree that moves, and the test can
// tell, since a launcher that checks first and uses then does not last.
func TestHostileSwap(t *testing.T) { swap(t, checked, 12) }

// TestHostileSwapStubs: the same where the tree is read-only and lacks the
// targets, which are seen by an overlay. With few of them, since what has
// changed between stub and mount ends a start.
func TestHostileSwapStubs(t *testing.T) { swap(t, named, 2, "--read-only", "--profile=sandbox") }

func swap(t *testing.T, m mutant, mounts int, args ...string) {
	if !hostileRun() {
		t.Skip("the swap race runs by: make hostile")
	}
	escape, started, swapped, ran := race(t, launcher, mounts, args, 200, 100_000, 10*time.Minute)
	t.Logf("%d starts, %d of them ran, %d swaps", started, ran, swapped)
	if escape != "" {
		t.Errorf("after %d starts and %d swaps: %s", started, swapped, escape)
	} else if started < 200 || swapped < 100_000 || ran == 0 {
		t.Errorf("%d starts (%d ran) and %d swaps: too few to say anything", started, ran, swapped)
	}
	begin := time.Now()
	escape, started, swapped, ran = race(t, m.build(t), mounts, args, 1<<30, 0, 3*time.Minute)
	t.Logf("%s: %d starts, %d of them ran, %d swaps, %v: %s", m.name, started, ran, swapped, time.Since(begin).Round(time.Millisecond), escape)
	if escape == "" {
		t.Errorf("the mutant lasted three minutes (%s): the race is never met", m.what)
	}
}
