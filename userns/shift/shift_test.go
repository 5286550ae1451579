package shift

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/userns"
)

const one, two = 0x00090000, 0x70000000

func of(start uint32) userns.Range { return userns.Range{Start: start, Size: 65536} }

// open gives a tree's O_PATH descriptor.
func open(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// list is an access control list in the form of the attribute: owner, one
// user, owning group, one group, mask, others.
func acl(user, group uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 6, user}, {4, 4, 1<<32 - 1}, {8, 4, group}, {16, 6, 1<<32 - 1}, {32, 4, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// caps is cap_net_raw+ep, of the host's root or of another.
func caps(root uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = append(b, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	if root != 0 {
		b[3] = 3
		b = binary.LittleEndian.AppendUint32(b, root)
	}
	return b
}

// tree makes one of everything.
func grow(t *testing.T) string {
	t.Helper()
	needRoot(t)
	top := filepath.Join(t.TempDir(), "tree")
	for _, d := range []string{"", "a", "a/b", "a/b/c", "empty", "setgid", "default"} {
		must(t, os.Mkdir(filepath.Join(top, d), 0o755))
	}
	p := func(s string) string { return filepath.Join(top, s) }
	for _, f := range []string{"file", "a/b/c/deep", "su", "a/sg", "both", "cap", "acl", "group-only", "a/linked"} {
		must(t, os.WriteFile(p(f), []byte("x"), 0o644))
	}
	must(t, os.Link(p("a/linked"), p("a/b/linked2")))
	must(t, os.Link(p("a/linked"), p("linked3")))
	must(t, os.Symlink("/", p("link")))
	must(t, os.Symlink("nowhere", p("a/dangling")))
	must(t, os.Symlink("..", p("a/b/up")))
	must(t, unix.Mkfifo(p("fifo"), 0o600))
	must(t, unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(p("sock"), unix.S_IFSOCK|0o666, 0))
	for f, ids := range map[string][2]int{"file": {1000, 100}, "a/b/c": {65535, 65534}, "a/dangling": {5, 6}, "fifo": {7, 8}, "null": {0, 9}, "group-only": {0, 4}, "both": {0, 42}, "a/linked": {33, 33}} {
		must(t, os.Lchown(p(f), ids[0], ids[1]))
	}
	must(t, unix.Chmod(p("su"), 0o4755))
	must(t, unix.Chmod(p("a/sg"), 0o2755))
	must(t, unix.Chmod(p("both"), 0o6711))
	must(t, unix.Chmod(p("setgid"), 0o3775))
	for f, kv := range map[string][2]string{
		"acl":     {aclAccess, string(acl(1000, 50))},
		"fifo":    {aclAccess, string(acl(3, 4))},
		"default": {aclDefault, string(acl(1001, 51))},
		"a/b":     {aclAccess, string(acl(0, 0))},
		"cap":     {capability, string(caps(0))},
		"both":    {capability, string(caps(0))},
	} {
		if err := unix.Setxattr(p(f), kv[0], []byte(kv[1]), 0); err == unix.EOPNOTSUPP {
			t.Skipf("%s: no %s on this file system", f, kv[0])
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

// state says all that shift may change, a line per name.
func state(t *testing.T, top string) map[string]string {
	t.Helper()
	m := map[string]string{}
	must(t, filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		must(t, err)
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		s := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
		for _, k := range []string{aclAccess, aclDefault, capability, kept} {
			b := make([]byte, 256)
			if n, err := unix.Lgetxattr(path, k, b); err == nil {
				s += fmt.Sprintf(" %s=%x", k, b[:n])
			}
		}
		rel, _ := filepath.Rel(top, path)
		m[rel] = s
		return nil
	}))
	return m
}

func same(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: %s is %s, want %s", what, name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%s: %d names, want %d", what, len(got), len(want))
	}
}

// expect gives what a tree that is at 0 should be at another shift, computed
// from the text of the state.
func expect(t *testing.T, at0 map[string]string, shift uint32) map[string]string {
	t.Helper()
	m := map[string]string{}
	for name, s := range at0 {
		f := strings.Fields(s)
		var uid, gid uint32
		if _, err := fmt.Sscanf(f[0], "%d:%d", &uid, &gid); err != nil {
			t.Fatal(err)
		}
		f[0] = fmt.Sprintf("%d:%d", uid+shift, gid+shift)
		for i, attr := range f[2:] {
			k, v, _ := strings.Cut(attr, "=")
			for _, ids := range [][2]uint32{{1000, 50}, {3, 4}, {1001, 51}, {0, 0}} {
				if v == fmt.Sprintf("%x", acl(ids[0], ids[1])) {
					f[2+i] = fmt.Sprintf("%s=%x", k, acl(ids[0]+shift, ids[1]+shift))
					break
				}
			}
			if k == capability {
				f[2+i] = fmt.Sprintf("%s=%x", k, caps(shift))
			}
		}
		m[name] = strings.Join(f, " ")
	}
	return m
}

func TestRecursive(t *testing.T) {
	top := grow(t)
	fd := open(t, top)
	at0 := state(t, top)
	for _, shift := range []uint32{one, two, 0, one, 0} {
		last := 0
		r, err := Recursive(fd, of(shift), Options{Progress: func(n int) error {
			if n < last {
				t.Errorf("progress went from %d to %d", last, n)
			}
			last = n
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		// Two of the three names of a/linked change nothing.
		if r.Inodes != len(at0) || r.Changed != len(at0)-2 {
			t.Errorf("%+v, want %d inodes", r, len(at0))
		}
		same(t, fmt.Sprint("shift ", shift), state(t, top), expect(t, at0, shift))
		if base, err := Base(fd); base != shift || err != nil {
			t.Errorf("Base: %d, %v; want %d", base, err, shift)
		}
		if r, err := Recursive(fd, of(shift), Options{}); r != (Report{}) || err != nil {
			t.Errorf("again: %+v, %v; want nothing done", r, err)
		}
	}
}

// TestWithoutListxattrat takes the way of kernels before 6.13.
func TestWithoutListxattrat(t *testing.T) {
	top := grow(t)
	k := &worker{walk: &walk{}, attrs: make([]byte, 8)}
	k.old.Store(true)
	for name, want := range map[string]string{"cap": capability, "acl": aclAccess, "fifo": aclAccess, "default": aclDefault} {
		fd, err := unix.Open(filepath.Join(top, name), unix.O_PATH|unix.O_NOFOLLOW, 0)
		must(t, err)
		if attrs, err := k.list(fd); err != nil || !has(attrs, want) {
			t.Errorf("%s: %q, %v; want %s", name, attrs, err, want)
		}
		unix.Close(fd)
	}
}

func TestRefuses(t *testing.T) {
	top := grow(t)
	fd := open(t, top)
	at0 := state(t, top)
	for _, c := range []struct {
		r    userns.Range
		want error
	}{
		{userns.Range{Start: 5, Size: 65536}, unix.EOPNOTSUPP},
		{userns.Range{Start: one, Size: 65535}, unix.EOPNOTSUPP},
		{userns.Range{Start: one, Size: 131072}, unix.EOPNOTSUPP},
		{userns.Range{Start: Busy, Size: 65536}, unix.EINVAL},
		{userns.Range{Start: 0xffff0000, Size: 65536}, unix.EINVAL},
	} {
		if _, err := Recursive(fd, c.r, Options{}); !errors.Is(err, c.want) {
			t.Errorf("%v: %v, want %v", c.r, err, c.want)
		}
	}
	same(t, "refused", state(t, top), at0)
	must(t, os.Chown(top, one, two))
	if _, err := Recursive(fd, of(one), Options{}); !errors.Is(err, unix.EBADE) {
		t.Errorf("mixed owner: %v", err)
	}
	if _, err := Base(fd); !errors.Is(err, unix.EINVAL) {
		t.Errorf("mixed owner: Base: %v", err)
	}
	if _, err := Recursive(open(t, "/proc"), of(one), Options{}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("proc: %v", err)
	}
}

// descriptors counts what this process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(names)
}

func TestDeep(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	fd := open(t, top)
	at := fd
	for i := range tree.MaxDepth + 1 {
		must(t, unix.Mkdirat(at, "d", 0o755))
		n, err := unix.Openat(at, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		must(t, err)
		if at != fd {
			unix.Close(at)
		}
		at = n
		if i == tree.MaxDepth-1 {
			before := descriptors(t)
			r, err := Recursive(fd, of(one), Options{})
			if err != nil || r.Changed != tree.MaxDepth+1 {
				t.Errorf("the deepest tree: %+v, %v", r, err)
			}
			if now := descriptors(t); now != before {
				t.Errorf("%d descriptors became %d", before, now)
			}
		}
	}
	unix.Close(at)
	before := descriptors(t)
	if _, err := Recursive(fd, of(two), Options{}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("too deep: %v", err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors became %d", before, now)
	}
}

// many makes a tree that takes a while, with something special in it.
func many(t *testing.T, dirs, files int) string {
	t.Helper()
	needRoot(t)
	top := filepath.Join(t.TempDir(), "many")
	for d := range dirs {
		dir := filepath.Join(top, fmt.Sprint("d", d%10), fmt.Sprint("e", d))
		must(t, os.MkdirAll(dir, 0o755))
		for f := range files {
			p := filepath.Join(dir, fmt.Sprint("f", f))
			must(t, os.WriteFile(p, nil, 0o644))
			switch f % 4 {
			case 1:
				must(t, unix.Chmod(p, 0o4755))
			case 2:
				must(t, unix.Setxattr(p, capability, caps(0), 0))
			case 3:
				must(t, unix.Setxattr(p, aclAccess, acl(1000, 50), 0))
			}
		}
	}
	return top
}

// TestStop: Progress ends the walk, which leaves a marked root and no
// descriptor, and can be done again.
func TestStop(t *testing.T) {
	top := many(t, 60, 50)
	fd := open(t, top)
	at0 := state(t, top)
	before := descriptors(t)
	stop := errors.New("stop")
	if _, err := Recursive(fd, of(one), Options{Progress: func(n int) error { return stop }}); err != stop {
		t.Errorf("%v, want the error of Progress", err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors became %d", before, now)
	}
	if base, err := Base(fd); base != Busy || err != nil {
		t.Errorf("Base: %#x, %v; want the mark", base, err)
	}
	_, err := Recursive(fd, of(one), Options{})
	must(t, err)
	same(t, "done again", state(t, top), expect(t, at0, one))
}

// TestKilled kills the walk at a hundred moments, in all of which the next one
// must be able to finish.
func TestKilled(t *testing.T) {
	if path := os.Getenv("SHIFT_TEST_TREE"); path != "" {
		fd := open(t, path)
		var to uint32
		fmt.Sscan(os.Getenv("SHIFT_TEST_TO"), &to)
		fmt.Println("ready")
		if _, err := Recursive(fd, of(to), Options{}); err != nil {
			t.Fatal(err)
		}
		return
	}
	top := many(t, 30, 40)
	fd := open(t, top)
	at0 := state(t, top)
	child := func(to uint32, kill func(c *exec.Cmd)) {
		c := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		c.Env = append(os.Environ(), "SHIFT_TEST_TREE="+top, fmt.Sprint("SHIFT_TEST_TO=", to))
		out, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		var s string
		fmt.Fscanln(out, &s)
		kill(c)
		c.Wait()
	}
	began := time.Now()
	child(one, func(*exec.Cmd) {})
	whole := time.Since(began)
	same(t, "by a child", state(t, top), expect(t, at0, one))
	busy := 0
	for i := range 60 {
		// Back and forth, so that what is done again isn't done yet.
		to := []uint32{two, 0, one}[i%3]
		child(to, func(c *exec.Cmd) {
			time.Sleep(time.Duration(rand.Int64N(int64(whole))))
			c.Process.Signal(syscall.SIGKILL)
		})
		if base, _ := Base(fd); base == Busy {
			busy++
		}
	}
	for _, to := range []uint32{one, 0} {
		_, err := Recursive(fd, of(to), Options{})
		must(t, err)
		same(t, "after the kills", state(t, top), expect(t, at0, to))
	}
	if busy < 10 {
		t.Errorf("only %d of 60 kills hit the walk", busy)
	}
	t.Logf("%d of 60 kills hit the walk", busy)
}

// TestEveryCall kills the walk after each of its system calls in turn, and
// fails each in turn; the next walk must give the full result.
func TestEveryCall(t *testing.T) {
	if !sys.Faults {
		t.Skip("needs -tags faults")
	}
	if os.Getenv("SHIFT_TEST_TREE") != "" {
		fd := open(t, os.Getenv("SHIFT_TEST_TREE"))
		if _, err := Recursive(fd, of(one), Options{}); err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}
	top := grow(t)
	fd := open(t, top)
	at0 := state(t, top)
	child := func(env ...string) error {
		c := exec.Command(os.Args[0], "-test.run=^TestEveryCall$")
		c.Env = append(append(os.Environ(), "SHIFT_TEST_TREE="+top), env...)
		return c.Run()
	}
	log := filepath.Join(t.TempDir(), "log")
	must(t, child("LAUNCH_FAULT_LOG="+log))
	text, err := os.ReadFile(log)
	must(t, err)
	_, err = Recursive(fd, of(0), Options{})
	must(t, err)
	failed := 0
	for call := range strings.Lines(string(text)) {
		at, name, _ := strings.Cut(strings.TrimSpace(call), " ")
		harmless := slices.Contains(strings.Fields(name), "close")
		for _, what := range []string{"kill", "EIO"} {
			err := child("LAUNCH_FAULT=" + at + "=" + what)
			if what == "kill" && (err == nil || err.Error() != "signal: killed") {
				t.Fatalf("%s %s: %v, want it killed", at, name, err)
			}
			if what == "EIO" && (err == nil) != harmless {
				t.Errorf("%s %s: failed and gave %v", at, name, err)
			}
			if err != nil {
				failed++
			}
			for _, to := range []uint32{one, 0} {
				_, err := Recursive(fd, of(to), Options{})
				must(t, err)
				same(t, call+what, state(t, top), expect(t, at0, to))
			}
			if t.Failed() {
				return
			}
		}
	}
	t.Logf("%d interrupted walks", failed)
}

// canary is a place outside of the tree, and a function that checks that
// nothing in it changed.
func canary(t *testing.T) (string, func()) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "canary")
	must(t, os.MkdirAll(filepath.Join(dir, "x/sub"), 0o755))
	for _, f := range []string{"secret", "f1", "f2", "x/f1", "x/sub/f"} {
		must(t, os.WriteFile(filepath.Join(dir, f), []byte("secret"), 0o4600))
	}
	was := state(t, dir)
	return dir, func() {
		t.Helper()
		same(t, "canary", state(t, dir), was)
	}
}

func TestHardLink(t *testing.T) {
	top := grow(t)
	fd := open(t, top)
	dir, check := canary(t)
	must(t, os.Link(filepath.Join(dir, "secret"), filepath.Join(top, "a/b/c/innocent")))
	at0 := state(t, top)
	_, err := Recursive(fd, of(one), Options{})
	var e *LinksError
	if !errors.As(err, &e) || e.Count != 1 || e.Path != "/a/b/c/innocent" {
		t.Fatalf("%v, want the name of the link", err)
	}
	check()
	if base, _ := Base(fd); base != Busy {
		t.Errorf("base %#x, want the mark", base)
	}
	must(t, os.Remove(filepath.Join(top, "a/b/c/innocent")))
	delete(at0, "a/b/c/innocent")
	_, err = Recursive(fd, of(one), Options{})
	must(t, err)
	same(t, "without the link", state(t, top), expect(t, at0, one))

	must(t, os.Link(filepath.Join(dir, "secret"), filepath.Join(top, "wanted")))
	_, err = Recursive(fd, of(two), Options{Links: true})
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(dir, "secret"), &st))
	if st.Uid != two {
		t.Errorf("with Links the file belongs to %d", st.Uid)
	}
}

// TestSwap exchanges directories and files of the tree with links to the
// canary and with devices, again and again, while the tree is walked.
func TestSwap(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	top := filepath.Join(base, "tree")
	dir, check := canary(t)
	must(t, os.MkdirAll(filepath.Join(top, "swap/x/sub"), 0o755))
	for i := range 50 {
		must(t, os.WriteFile(filepath.Join(top, "swap", fmt.Sprint("f", i)), nil, 0o4755))
	}
	must(t, os.WriteFile(filepath.Join(top, "swap/x/f1"), nil, 0o644))
	must(t, os.Symlink(dir, filepath.Join(top, "link")))
	must(t, os.Symlink(filepath.Join(dir, "secret"), filepath.Join(top, "flink")))
	must(t, unix.Mkfifo(filepath.Join(top, "fifo"), 0o600))
	must(t, unix.Mknod(filepath.Join(top, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	fd := open(t, top)
	in := open(t, filepath.Join(top, "swap")) // the directory, wherever it is
	done := make(chan struct{})
	ended := make(chan struct{})
	defer func() { close(done); <-ended }()
	swaps := make(chan int, 1)
	go func() {
		defer close(ended)
		n := 0
		for {
			for _, pair := range []struct {
				at   int
				a, b string
			}{{fd, "swap", "link"}, {in, "f1", "flink"}, {in, "x", "fifo"}, {fd, "swap", "link"}, {in, "x", "flink"}, {in, "f2", "null"}} {
				if unix.Renameat2(pair.at, pair.a, fd, pair.b, unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
			select {
			case <-done:
				return
			case swaps <- n:
			default:
			}
		}
	}()
	for i := range 400 {
		to := []uint32{one, two}[i%2]
		if _, err := Recursive(fd, of(to), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := <-swaps; n == 0 {
		t.Error("nothing was exchanged")
	}
	check()
}

// TestMounts stays out of other mounts, unless they belong to the tree, and
// out of proc always.
func TestMounts(t *testing.T) {
	if os.Getenv("SHIFT_TEST_MOUNT") == "" {
		needRoot(t)
		c := exec.Command(os.Args[0], "-test.run=^TestMounts$", "-test.v")
		c.Env = append(os.Environ(), "SHIFT_TEST_MOUNT=1")
		c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
		out, err := c.CombinedOutput()
		if err != nil {
			if strings.Contains(err.Error(), "operation not permitted") {
				t.Skipf("can't have a mount namespace: %v", err)
			}
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	top := grow(t)
	p := func(s string) string { return filepath.Join(top, s) }
	dir, check := canary(t)
	for _, d := range []string{"proc", "part", "ro", "bind"} {
		must(t, os.Mkdir(p(d), 0o755))
	}
	t.Cleanup(func() {
		for _, d := range []string{"proc", "part", "ro", "bind", "file"} {
			unix.Unmount(p(d), unix.MNT_DETACH)
		}
	})
	must(t, unix.Mount("proc", p("proc"), "proc", 0, ""))
	must(t, unix.Mount("tmpfs", p("part"), "tmpfs", 0, ""))
	must(t, unix.Mount("tmpfs", p("ro"), "tmpfs", 0, ""))
	must(t, os.WriteFile(p("part/f"), nil, 0o644))
	must(t, os.WriteFile(p("ro/f"), nil, 0o644))
	must(t, unix.Mount("", p("ro"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	must(t, unix.Mount(dir, p("bind"), "", unix.MS_BIND, ""))
	must(t, unix.Mount(filepath.Join(dir, "secret"), p("file"), "", unix.MS_BIND, ""))
	fd := open(t, top)
	r, err := Recursive(fd, of(one), Options{})
	if err != nil || r.Mounts != 5 || r.ReadOnly != 0 {
		t.Errorf("%+v, %v; want 5 mounts left alone", r, err)
	}
	check()
	owner := func(path string, want uint32) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Lstat(path, &st))
		if st.Uid != want {
			t.Errorf("%s belongs to %d, want %d", path, st.Uid, want)
		}
	}
	owner(p("part/f"), 0)
	must(t, unix.Unmount(p("bind"), 0))
	must(t, unix.Unmount(p("file"), 0))
	r, err = Recursive(fd, of(two), Options{Mounts: true})
	if err != nil || r.Mounts != 1 || r.ReadOnly != 1 {
		t.Errorf("%+v, %v; want proc and the read-only mount left alone", r, err)
	}
	owner(p("part/f"), two)
	owner(p("part"), two)
	owner(p("ro/f"), 0)
	owner(p("file"), two+1000)
}

func TestShiftCaps(t *testing.T) {
	for _, c := range []struct {
		was, shift, want uint32
	}{{0, 0, 0}, {0, one, one}, {one, one, one}, {one, two, two}, {one, 0, 0}, {1000, one, one + 1000}, {one + 1000, 0, 1000}} {
		if got, err := shiftCaps(caps(c.was), c.shift); err != nil || !bytes.Equal(got, caps(c.want)) {
			t.Errorf("%d by %d: %x, %v; want %x", c.was, c.shift, got, err, caps(c.want))
		}
	}
}

func FuzzACL(f *testing.F) {
	f.Add(acl(1000, 50), uint32(one))
	f.Fuzz(func(t *testing.T, v []byte, shift uint32) {
		shift &^= low
		was := bytes.Clone(v)
		changed, err := shiftACL(v, shift)
		if err != nil || !changed {
			if !bytes.Equal(v, was) {
				t.Error("changed all the same")
			}
			return
		}
		if again, err := shiftACL(v, shift); again || err != nil {
			t.Errorf("the second time: %v, %v", again, err)
		}
	})
}

func FuzzCaps(f *testing.F) {
	f.Add(caps(0), uint32(one))
	f.Add(caps(one), uint32(0))
	f.Fuzz(func(t *testing.T, v []byte, shift uint32) {
		shift &^= low
		once, err := shiftCaps(v, shift)
		if err != nil {
			return
		}
		if twice, _ := shiftCaps(once, shift); !bytes.Equal(once, twice) {
			t.Errorf("%x became %x, then %x", v, once, twice)
		}
	})
}

// Base gives the shift that the tree has according to its root directory:
// 0, the start of a range, or Busy.
func Base(rootfd int) (uint32, error) {
	var st unix.Statx_t
	if err := sys.StatxFd(rootfd, unix.STATX_UID|unix.STATX_GID, &st); err != nil {
		return 0, fmt.Errorf("read the owner of the root directory: %w", err)
	}
	if st.Uid&^low != st.Gid&^low {
		return 0, fmt.Errorf("root directory belongs to user %d and group %d, which lie in different ranges: %w", st.Uid, st.Gid, unix.EINVAL)
	}
	return st.Uid &^ low, nil
}
