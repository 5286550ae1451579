package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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

func open(t *testing.T, path string) int {
	t.Helper()
	n, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(n) })
	return n
}

// acl lets one more user in, as the attribute has it.
func acl(user uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{1, 6, 1<<32 - 1}, {2, 6, user}, {4, 4, 1<<32 - 1}, {16, 6, 1<<32 - 1}, {32, 4, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

// netRaw is the file capability cap_net_raw+ep.
var netRaw = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

const holey = 32 << 20

// grow makes a tree with everything that a tree can have.
func grow(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"", "etc", "usr", "usr/bin", "a b\nc", "empty", "deep"} {
		must(t, os.MkdirAll(at(d), 0o755))
	}
	file := func(name string, data []byte) { must(t, os.WriteFile(at(name), data, 0o644)) }
	file("etc/passwd", []byte("root:x:0:0::/root:/bin/sh\n"))
	file("etc/empty", nil)
	file("usr/bin/su", []byte("#!/bin/sh\n"))
	file("usr/bin/ping", bytes.Repeat([]byte("ping"), 1000))
	file("big", bytes.Repeat([]byte("0123456789abcdef"), 1<<16))
	file("a b\nc/\xff\xfe", []byte("odd name"))
	file(".#snapshot.0123456789abcdef.txt", []byte("no copy"))
	for i := range 300 {
		file(fmt.Sprintf("deep/%d", i), []byte(fmt.Sprint(i)))
	}
	deep := at("deep")
	for i := range 60 {
		deep = filepath.Join(deep, fmt.Sprint("d", i))
		must(t, os.Mkdir(deep, 0o700))
		must(t, os.WriteFile(filepath.Join(deep, "f"), []byte{byte(i)}, 0o600))
	}
	// A hole first, data, a hole, data, and a hole last.
	n, err := os.Create(at("sparse"))
	must(t, err)
	for _, where := range []int64{4 << 20, 20 << 20} {
		_, err = n.WriteAt(bytes.Repeat([]byte{7}, 100000), where)
		must(t, err)
	}
	must(t, n.Truncate(holey))
	n.Close()
	must(t, os.WriteFile(at("hole"), nil, 0o644))
	must(t, os.Truncate(at("hole"), holey))
	must(t, os.Link(at("etc/passwd"), at("usr/passwd")))
	must(t, os.Link(at("etc/passwd"), at("deep/passwd")))
	must(t, os.Symlink("/etc/shadow", at("etc/link")))
	must(t, os.Link(at("etc/link"), at("usr/link")))
	must(t, os.Symlink("../../../../..", at("etc/up")))
	must(t, unix.Mkfifo(at("fifo"), 0o640))
	must(t, unix.Mknod(at("sock"), unix.S_IFSOCK|0o600, 0))
	must(t, unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(at("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 1000))))
	for i, name := range []string{"etc/passwd", "usr/bin/su", "etc/link", "fifo", "null", "empty", "a b\nc/\xff\xfe"} {
		must(t, os.Lchown(at(name), 1000+i, 1310720+i))
	}
	must(t, unix.Chmod(at("usr/bin/su"), 0o6755))
	must(t, unix.Chmod(at("empty"), 0o3777))
	must(t, unix.Chmod(at("null"), 0o666))
	must(t, unix.Setxattr(at("usr/bin/ping"), "security.capability", netRaw, 0))
	must(t, unix.Setxattr(at("etc/empty"), "system.posix_acl_access", acl(4711), 0))
	must(t, unix.Setxattr(at("etc"), "system.posix_acl_default", acl(4712), 0))
	must(t, unix.Setxattr(at("big"), "user.long", bytes.Repeat([]byte("x"), 3000), 0))
	must(t, unix.Lsetxattr(at("etc/link"), "trusted.link", []byte("l"), 0))
	must(t, unix.Setxattr(at("fifo"), "trusted.fifo", []byte("f"), 0))
	must(t, unix.Setxattr(dir, "user.top", []byte("t"), 0))
	must(t, unix.Chmod(dir, 0o751))
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		ts := unix.NsecToTimespec(old.UnixNano())
		return errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
	})
}

// model describes all of a tree, one line per name.
func model(t *testing.T, dir string, skip ...string) []string {
	t.Helper()
	var lines []string
	first := map[[2]uint64]string{}
	must(t, filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		if slices.Contains(skip, rel) {
			return fs.SkipDir
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := fmt.Sprintf("%q mode=%o owner=%d:%d", rel, st.Mode, st.Uid, st.Gid)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			line += fmt.Sprintf(" links=%d size=%d rdev=%x", st.Nlink, st.Size, st.Rdev)
			if f, ok := first[[2]uint64{st.Dev, st.Ino}]; ok {
				line += " is " + f
			} else {
				first[[2]uint64{st.Dev, st.Ino}] = rel
			}
		}
		line += fmt.Sprintf(" atime=%d mtime=%d", st.Atim.Nano(), st.Mtim.Nano())
		names := make([]byte, 4096)
		n, err := unix.Llistxattr(p, names)
		if err != nil {
			return err
		}
		var attrs []string
		for _, name := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
			if name != "" {
				v := make([]byte, 8192)
				m, err := unix.Lgetxattr(p, name, v)
				if err != nil {
					return err
				}
				attrs = append(attrs, fmt.Sprintf(" %s=%x", name, v[:m]))
			}
		}
		slices.Sort(attrs)
		line += strings.Join(attrs, "")
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			// Reading must not be what changes the time of access.
			fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NOATIME, 0)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), p)
			h := sha256.New()
			f.WriteTo(h)
			f.Close()
			line += fmt.Sprintf(" %x", h.Sum(nil)[:8])
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			line += " -> " + to
		}
		lines = append(lines, line)
		return nil
	}))
	return lines
}

func same(t *testing.T, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Fatalf("entry %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

// frozen stops the access times of a directory from being changed by looking.
func frozen(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOATIME, ""))
	return dir
}

func TestCopy(t *testing.T) {
	needRoot(t)
	base := frozen(t)
	from := filepath.Join(base, "from")
	grow(t, from)
	// What the parent passes on to what is made in it must not show.
	must(t, unix.Setxattr(base, "system.posix_acl_default", acl(99), 0))
	must(t, unix.Chown(base, 0, 55))
	must(t, unix.Chmod(base, 0o2755))
	before := model(t, from)
	calls := 0
	r, err := Copy(open(t, from), open(t, base), "copy", func(Report) error { calls++; return nil })
	must(t, err)
	same(t, model(t, filepath.Join(base, "copy")), before)
	same(t, model(t, from), before)
	if int(r.Inodes) < 400 || calls == 0 || r.Bytes+r.Shared < 1<<20 || r.Lost != 0 || r.Mounts != 0 {
		t.Errorf("%d calls, %+v", calls, r)
	}
	for _, name := range []string{"sparse", "hole"} {
		var st unix.Stat_t
		must(t, unix.Stat(filepath.Join(base, "copy", name), &st))
		if st.Blocks*512 > 1<<20 {
			t.Errorf("%s lost its holes: %d bytes on the disk", name, st.Blocks*512)
		}
	}
	must(t, Remove(open(t, base), "copy"))
	if _, err := os.Lstat(filepath.Join(base, "copy")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the copy is still there: ", err)
	}
}

// TestInside copies a tree into itself, as for a tree that is a mount point.
func TestInside(t *testing.T) {
	needRoot(t)
	from := frozen(t)
	grow(t, from)
	for _, left := range []string{".#snapshot.0123456789abcdef", ".#machine.m0123456789abcdef"} {
		must(t, os.Mkdir(filepath.Join(from, left), 0o700))
		must(t, os.WriteFile(filepath.Join(from, ".#"+left+".lck"), nil, 0o600))
	}
	must(t, unix.Mount("tmpfs", filepath.Join(from, "empty"), "tmpfs", 0, ""))
	defer unix.Unmount(filepath.Join(from, "empty"), unix.MNT_DETACH)
	must(t, os.WriteFile(filepath.Join(from, "empty", "secret"), nil, 0o600))
	_, err := Copy(open(t, from), open(t, from), "mine", nil)
	must(t, err)
	list, err := os.ReadDir(filepath.Join(from, "mine"))
	must(t, err)
	for _, e := range list {
		if e.Name() == "mine" || strings.HasSuffix(e.Name(), "abcdef") || strings.HasSuffix(e.Name(), ".lck") {
			t.Errorf("%s was copied", e.Name())
		}
	}
	if len(list) != 13 {
		t.Errorf("%d entries: %v", len(list), list)
	}
	// What the mount hides is copied, with its own mode.
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(from, "mine", "empty"), &st))
	if st.Mode&0o7777 != 0o3777 {
		t.Errorf("mode %o", st.Mode)
	}
	if in, _ := os.ReadDir(filepath.Join(from, "mine", "empty")); len(in) != 0 {
		t.Error("what is mounted in the tree was copied")
	}
	must(t, Remove(open(t, from), "mine"))
}

// TestOther copies to another file system, where neither blocks can be shared
// nor all attributes kept.
func TestOther(t *testing.T) {
	needRoot(t)
	base := frozen(t)
	from := filepath.Join(base, "from")
	grow(t, from)
	to := filepath.Join(base, "to")
	must(t, os.Mkdir(to, 0o755))
	must(t, unix.Mount("tmpfs", to, "tmpfs", unix.MS_NOATIME, ""))
	defer unix.Unmount(to, unix.MNT_DETACH)
	_, err := Copy(open(t, from), open(t, to), "copy", nil)
	must(t, err)
	same(t, model(t, filepath.Join(to, "copy")), model(t, from))
	if _, err := Copy(open(t, from), open(t, to), "copy", nil); !errors.Is(err, unix.EEXIST) {
		t.Error("a copy over something: ", err)
	}
	same(t, model(t, filepath.Join(to, "copy")), model(t, from))
	// A full disk: nothing stays.
	small := filepath.Join(base, "small")
	must(t, os.Mkdir(small, 0o755))
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=200k"))
	defer unix.Unmount(small, unix.MNT_DETACH)
	if _, err := Copy(open(t, from), open(t, small), "copy", nil); !errors.Is(err, unix.ENOSPC) {
		t.Error("a full disk: ", err)
	}
	if left, _ := os.ReadDir(small); len(left) != 0 {
		t.Error("left behind: ", left)
	}
	if _, err := Copy(open(t, "/proc/self"), open(t, to), "proc", nil); !errors.Is(err, unix.EINVAL) {
		t.Error("a copy of /proc: ", err)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func TestCancel(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	from := filepath.Join(base, "from")
	grow(t, from)
	enough := errors.New("enough")
	before := descriptors(t)
	src, dst := open(t, from), open(t, base)
	for stop := 1; stop < 4; stop++ {
		n := 0
		_, err := Copy(src, dst, "copy", func(Report) error {
			if n++; n == stop {
				return enough
			}
			return nil
		})
		if n >= stop && err != enough {
			t.Errorf("stop %d: %v", stop, err)
		}
		if _, serr := os.Lstat(filepath.Join(base, "copy")); err != nil && !errors.Is(serr, fs.ErrNotExist) {
			t.Fatal("the partial copy is still there: ", serr)
		}
		if err == nil {
			must(t, Remove(dst, "copy"))
		}
	}
	if after := descriptors(t); after != before+2 {
		t.Errorf("%d descriptors before, %d after", before+2, after)
	}
}

// TestSwap copies while somebody renames things in the tree, puts links in
// their places, and takes them away: nothing from outside gets into the copy.
func TestSwap(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	from, out := filepath.Join(base, "from"), filepath.Join(base, "outside")
	must(t, os.MkdirAll(filepath.Join(out, "dir"), 0o755))
	for _, name := range []string{"file", "dir/file", "dir/canary"} {
		must(t, os.WriteFile(filepath.Join(out, name), []byte("canary"), 0o600))
	}
	for i := range 8 {
		must(t, os.MkdirAll(filepath.Join(from, fmt.Sprint(i), "dir"), 0o755))
		must(t, os.WriteFile(filepath.Join(from, fmt.Sprint(i), "dir/file"), []byte("inside"), 0o644))
		must(t, os.WriteFile(filepath.Join(from, fmt.Sprint(i), "file"), []byte("inside"), 0o644))
		must(t, os.Symlink(out+"/dir", filepath.Join(from, fmt.Sprint(i), "ldir")))
		must(t, os.Symlink(out+"/file", filepath.Join(from, fmt.Sprint(i), "lfile")))
		must(t, unix.Mkfifo(filepath.Join(from, fmt.Sprint(i), "fifo"), 0o600))
	}
	stop, stopped := make(chan bool), make(chan bool)
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			d := filepath.Join(from, fmt.Sprint(i%8))
			for _, pair := range [][2]string{{"dir", "ldir"}, {"file", "lfile"}, {"file", "fifo"}, {"dir", "file"}} {
				unix.Renameat2(unix.AT_FDCWD, filepath.Join(d, pair[0]), unix.AT_FDCWD, filepath.Join(d, pair[1]), unix.RENAME_EXCHANGE)
			}
		}
	}()
	src, dst := open(t, from), open(t, base)
	end := time.Now().Add(2 * time.Second)
	rounds := 0
	for ; time.Now().Before(end); rounds++ {
		if _, err := Copy(src, dst, "copy", nil); err != nil {
			t.Error(err)
			break
		}
		must(t, filepath.WalkDir(filepath.Join(base, "copy"), func(p string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(p)
			if bytes.Contains(b, []byte("canary")) || e.Name() == "canary" {
				t.Errorf("%s is from outside", p)
			}
			return err
		}))
		must(t, Remove(dst, "copy"))
	}
	close(stop)
	<-stopped
	t.Logf("%d copies", rounds)
	if b, err := os.ReadFile(filepath.Join(out, "dir/canary")); err != nil || string(b) != "canary" {
		t.Error("the outside was changed: ", err)
	}
}

func TestRemove(t *testing.T) {
	needRoot(t)
	base := t.TempDir()
	out := filepath.Join(base, "outside")
	must(t, os.WriteFile(out, nil, 0o600))
	top := filepath.Join(base, "top")
	must(t, os.Mkdir(top, 0o700))
	must(t, os.Symlink(out, filepath.Join(top, "link")))
	must(t, os.Mkdir(filepath.Join(top, ".#deep.1"), 0o700))
	// Deeper than any path can tell.
	n, err := unix.Open(top, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	must(t, err)
	name := strings.Repeat("d", 200)
	for range 1500 {
		must(t, unix.Mkdirat(n, name, 0o700))
		m, err := unix.Openat(n, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		must(t, err)
		unix.Close(n)
		n = m
		must(t, unix.Symlinkat(out, n, "link"))
	}
	unix.Close(n)
	// A file and a directory that nobody may change.
	fixed := filepath.Join(top, "fixed")
	must(t, os.Mkdir(fixed, 0o700))
	must(t, os.WriteFile(filepath.Join(fixed, "file"), nil, 0o600))
	for _, p := range []string{filepath.Join(fixed, "file"), fixed} {
		f, err := os.Open(p)
		must(t, err)
		if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_IMMUTABLE); err != nil {
			t.Log("no immutable files here: ", err)
		}
		f.Close()
	}
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 256
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	must(t, Remove(unix.AT_FDCWD, top))
	if _, err := os.Lstat(top); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there: ", err)
	}
	if _, err := os.Lstat(out); err != nil {
		t.Error("a link was followed: ", err)
	}
	must(t, Remove(unix.AT_FDCWD, top))
	must(t, os.Symlink(base, filepath.Join(base, "link")))
	must(t, os.Mkdir(filepath.Join(base, "kept"), 0o700))
	if err := Remove(unix.AT_FDCWD, filepath.Join(base, "link/kept")); err == nil {
		t.Error("a link on the way was followed")
	}
}

// disk makes a file system in a file and mounts it.
func disk(t *testing.T, mkfs ...string) string {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath(mkfs[0]); err != nil {
		t.Skip("needs ", mkfs[0])
	}
	image := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 512<<20))
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", mkfs, err, out)
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,noatime", image, dir).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices and the file system: %v %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error("unmount: ", err)
		}
	})
	return dir
}

// TestReflink: a copy shares its blocks.
func TestReflink(t *testing.T) {
	base := disk(t, "mkfs.xfs", "-q", "-m", "reflink=1")
	from := filepath.Join(base, "from")
	grow(t, from)
	r, err := Copy(open(t, from), open(t, base), "copy", nil)
	must(t, err)
	same(t, model(t, filepath.Join(base, "copy")), model(t, from))
	if r.Bytes != 0 || r.Shared < holey {
		t.Errorf("%+v", r)
	}
}

// TestSubvolume: a subvolume is copied by a snapshot, unless another one lies
// in it.
func TestSubvolume(t *testing.T) {
	base := disk(t, "mkfs.btrfs", "-q")
	from := filepath.Join(base, "from")
	btrfs := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("btrfs", args...).CombinedOutput(); err != nil {
			t.Fatalf("btrfs %v: %v\n%s", args, err, out)
		}
	}
	btrfs("subvolume", "create", from)
	grow(t, from)
	before := model(t, from)
	src, dst := open(t, from), open(t, base)
	r, err := Copy(src, dst, "copy", nil)
	must(t, err)
	if !r.Snapshot {
		t.Errorf("no snapshot: %+v", r)
	}
	copied := filepath.Join(base, "copy")
	same(t, model(t, copied), before)
	if _, err := Copy(src, dst, "copy", nil); !errors.Is(err, unix.EEXIST) {
		t.Error("a snapshot over something: ", err)
	}
	// A machine can make subvolumes of its own.
	btrfs("subvolume", "create", filepath.Join(copied, "sub"))
	must(t, os.WriteFile(filepath.Join(copied, "sub", "file"), []byte("nested"), 0o600))
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, copied, []unix.Timespec{{}, {}}, 0))
	r, err = Copy(open(t, copied), dst, "second", nil)
	must(t, err)
	if r.Snapshot || r.Bytes != 0 {
		t.Errorf("%+v", r)
	}
	same(t, model(t, filepath.Join(base, "second")), model(t, copied))
	for _, name := range []string{"copy", "second"} {
		must(t, Remove(unix.AT_FDCWD, filepath.Join(base, name)))
		if _, err := os.Lstat(filepath.Join(base, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	same(t, model(t, from), before)
}
