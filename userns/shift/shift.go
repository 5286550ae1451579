// Package shift changes the owners of a whole tree, so that they fit a range
// of host users: id n becomes start + n mod 65536. Range 0 undoes it.
//
// It guarantees that only what lies in the tree is touched, even while
// somebody renames things in it: everything is opened without following links
// and changed through that descriptor. Modes, set-user-id bits, file
// capabilities and access control lists survive, capabilities bound to the
// machine's root. A walk that was interrupted, even by SIGKILL, leaves the
// root marked, and is simply done again: doing it twice changes nothing.
//
// It refuses to know why a tree needs it, and where the range comes from. It
// can't know whether a directory that is moved while the tree is walked was
// visited, so nobody but the caller should be using the tree.
//
// Room: host.
package shift

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"launch/internal/sys"
	"launch/userns"
)

// Busy is the shift that the root directory has while the tree is worked on.
// systemd-nspawn uses the same.
const Busy = 0xfffe0000

const low = 0xffff // the part of an id that stays

// maxDepth is how deep directories may be nested: each level costs an open
// descriptor. No path that a program can name is deeper than PATH_MAX / 2.
const maxDepth = 2048

// Options are the liberties that Recursive may take.
type Options struct {
	// Mounts says that file systems mounted below the root belong to the tree
	// (the partitions of a disk image). Kernel file systems such as proc never
	// do.
	Mounts bool
	// Links says that files may be changed that have more names than the
	// walk finds: the other names are then outside of the tree.
	Links bool
	// Progress is called now and then with the number of inodes seen so far,
	// one call at a time. Its error ends the walk, which can be done again.
	Progress func(inodes int) error
}

// Report says what Recursive did.
type Report struct {
	Inodes   int // seen; a file with several names counts once per name
	Changed  int // given another owner
	ReadOnly int // left alone: on a read-only mount below the root
	Mounts   int // left alone: mount points
}

// LinksError says that files of the tree have names elsewhere too. They were
// left alone, all others were changed, and the root is still marked.
type LinksError struct {
	Count int    // how many inodes
	Path  string // one of the names in the tree
}

func (e *LinksError) Error() string {
	return fmt.Sprintf("%d files have names outside of the tree too, and keep their owners; one is %s", e.Count, e.Path)
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

// Recursive gives every inode of the tree to the range. rootfd may be an
// O_PATH descriptor.
func Recursive(rootfd int, r userns.Range, o Options) (Report, error) {
	switch {
	case r.Start&low != 0 || r.Size != userns.DefaultSize:
		return Report{}, fmt.Errorf("range %s is not %d users from a multiple of that: %w", r, userns.DefaultSize, unix.EOPNOTSUPP)
	case r.Start == Busy || !r.Valid():
		return Report{}, fmt.Errorf("range %s is reserved: %w", r, unix.EINVAL)
	}
	top := &dir{}
	fd, err := sys.OpenEntry(rootfd, dot, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return Report{}, fmt.Errorf("open the root directory: %w", err)
	}
	top.fd = fd
	defer func() {
		if top.fd >= 0 {
			sys.Close(top.fd)
		}
	}()
	var st unix.Statx_t
	if err := sys.StatxFd(fd, wanted, &st); err != nil {
		return Report{}, fmt.Errorf("read the owner of the root directory: %w", err)
	}
	top.id, top.mnt = idOf(&st), st.Mnt_id
	if top.uid&^low != top.gid&^low {
		return Report{}, fmt.Errorf("root directory belongs to user %d and group %d, which lie in different ranges: %w", top.uid, top.gid, unix.EBADE)
	}
	if top.uid&^low == r.Start {
		return Report{}, nil
	}
	fs, err := sys.Fstatfs(fd)
	if err != nil {
		return Report{}, fmt.Errorf("look at the root's file system: %w", err)
	}
	if pseudo(fs.Type) {
		return Report{}, fmt.Errorf("root directory is on a file system of the kernel: %w", unix.EINVAL)
	}

	w := &walk{Options: o, shift: r.Start, links: map[inode]links{}}
	w.wake.L = &w.mu
	if err := w.openProc(); err != nil {
		return Report{}, err
	}
	defer sys.Close(w.proc)
	if err := sys.ChownFd(fd, Busy|top.uid&low, Busy|top.gid&low); err != nil {
		return Report{}, fmt.Errorf("mark the root directory: %w", err)
	}

	n := min(runtime.GOMAXPROCS(0), maxWorkers)
	w.queue = append(w.queue, top)
	waits := make([]func() error, n)
	for i := range waits {
		waits[i] = sys.Go(lanes[i], func() error {
			k := &worker{walk: w, dents: make([]byte, 32<<10), attrs: make([]byte, 4<<10)}
			k.run()
			return nil
		})
	}
	for _, wait := range waits {
		wait()
	}
	report := Report{Inodes: int(w.inodes.Load()), Changed: int(w.changed.Load()), ReadOnly: int(w.readonly.Load()), Mounts: int(w.mounts.Load())}
	if w.err != nil {
		for _, d := range w.open() {
			sys.Close(d.fd)
			d.fd = -1
		}
		return report, w.err
	}
	if len(w.links) > 0 {
		e := &LinksError{Count: len(w.links)}
		for _, l := range w.links {
			if e.Path == "" || l.path != "" && l.path < e.Path {
				e.Path = l.path
			}
		}
		return report, e
	}
	// The root is last: only now is the tree what it says it is.
	k := &worker{walk: w, attrs: make([]byte, 4<<10)}
	if err := k.patch(top.fd, top.id, unix.DT_DIR); err != nil {
		return report, fmt.Errorf("root directory: %w", err)
	}
	report.Changed++
	report.Inodes++
	return report, nil
}

const maxWorkers = 16

// lanes are the names of the workers in fault runs.
var lanes = [maxWorkers]string{
	"shift0", "shift1", "shift2", "shift3", "shift4", "shift5", "shift6", "shift7",
	"shift8", "shift9", "shift10", "shift11", "shift12", "shift13", "shift14", "shift15",
}

var dot = []byte{'.', 0}

// wanted is what is asked about each inode.
const wanted = unix.STATX_TYPE | unix.STATX_MODE | unix.STATX_NLINK | unix.STATX_UID | unix.STATX_GID | unix.STATX_INO | unix.STATX_MNT_ID

// inode names a file however many names it has.
type inode struct{ dev, ino uint64 }

// id is whose an inode is, and its mode.
type id struct {
	uid, gid uint32
	mode     uint16
}

func idOf(st *unix.Statx_t) id { return id{st.Uid, st.Gid, st.Mode} }

// links counts the names found of a file that has several.
type links struct {
	seen uint32
	path string // for the message; kept for the first few only
}

// dir is an open directory. It stays open until all below it is done, and
// is changed itself then.
type dir struct {
	id
	up    *dir
	name  string
	fd    int
	depth int
	mnt   uint64
	left  atomic.Int32 // what is not done yet: reading it, and its subdirectories
}

func (d *dir) path(name string) string {
	for ; d.up != nil; d = d.up {
		name = d.name + "/" + name
	}
	return "/" + name
}

// walk is what the workers share.
type walk struct {
	Options
	shift uint32
	proc  int         // /proc/self/fd
	old   atomic.Bool // no listxattrat

	inodes, changed, readonly, mounts atomic.Int64

	idle atomic.Int32 // workers that wait; read without the lock, as a hint
	stop atomic.Bool

	mu    sync.Mutex
	wake  sync.Cond
	queue []*dir // directories to walk; at most one per idle worker
	busy  int    // workers that walk
	err   error  // the first
	shut  []*dir // what an error left open
	told  int64
	links map[inode]links
}

// openProc opens the directory of our descriptors. Attributes and modes of
// files that are no directories can only be reached that way.
func (w *walk) openProc() error {
	fd, err := sys.Openat(unix.AT_FDCWD, "/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open /proc/self/fd: %w", err)
	}
	fs, err := sys.Fstatfs(fd)
	if err == nil && fs.Type != unix.PROC_SUPER_MAGIC {
		err = errors.New("not on proc")
	}
	if err != nil {
		sys.Close(fd)
		return fmt.Errorf("look at /proc/self/fd: %w", err)
	}
	w.proc = fd
	return nil
}

func (w *walk) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.stop.Store(true)
}

// open gives the directories that an error left open.
func (w *walk) open() []*dir {
	var all []*dir
	for _, d := range append(w.shut, w.queue...) {
		for ; d != nil && d.fd >= 0; d = d.up {
			if !slices.Contains(all, d) {
				all = append(all, d)
			}
		}
	}
	return all
}

// worker is one of the goroutines.
type worker struct {
	*walk
	dents []byte
	attrs []byte
	name  [24]byte // a descriptor as a name in proc
	st    unix.Statx_t
	stack []frame
	n     int // inodes since the last report
}

// run walks directories until none is left.
func (k *worker) run() {
	w := k.walk
	w.mu.Lock()
	for {
		for len(w.queue) == 0 && w.busy > 0 && w.err == nil {
			w.idle.Add(1)
			w.wake.Wait()
			w.idle.Add(-1)
		}
		if len(w.queue) == 0 || w.err != nil {
			break
		}
		d := w.queue[len(w.queue)-1]
		w.queue = w.queue[:len(w.queue)-1]
		w.busy++
		w.mu.Unlock()
		k.walkDir(d)
		k.tell()
		w.mu.Lock()
		w.busy--
	}
	w.mu.Unlock()
	w.wake.Broadcast()
}

// share gives a part of what this worker has left to one that waits, if there
// is one. It is a subdirectory of the uppermost directory that has any, since
// that is likely to be the biggest part.
func (k *worker) share() {
	w := k.walk
	if w.idle.Load() == 0 {
		return
	}
	for i := range k.stack {
		f := &k.stack[i]
		if len(f.below) == 0 {
			continue
		}
		w.mu.Lock()
		enough := len(w.queue) >= int(w.idle.Load())
		w.mu.Unlock()
		if enough {
			return
		}
		if sub := k.next(f); sub != nil {
			w.mu.Lock()
			w.queue = append(w.queue, sub)
			w.mu.Unlock()
			w.wake.Signal()
		}
		return
	}
}

// tell adds up and reports.
func (k *worker) tell() {
	n := k.inodes.Add(int64(k.n))
	k.n = 0
	if k.Progress == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if n > k.told && k.err == nil { // another worker may have told more
		k.told = n
		if k.err = k.Progress(int(n)); k.err != nil {
			k.stop.Store(true)
		}
	}
}

// frame is a directory that a worker is in.
type frame struct {
	dir   *dir
	below []byte // the subdirectories that are left, each name with its NUL byte
}

// walkDir changes all that lies below a directory and then, unless other
// workers still have a part of it, the directory.
func (k *worker) walkDir(d *dir) {
	k.stack = append(k.stack[:0], frame{d, k.read(d)})
	for len(k.stack) > 0 {
		k.share()
		f := &k.stack[len(k.stack)-1]
		if len(f.below) > 0 && !k.stop.Load() {
			if sub := k.next(f); sub != nil {
				k.stack = append(k.stack, frame{sub, k.read(sub)})
			}
			continue
		}
		d := f.dir
		*f = frame{}
		k.stack = k.stack[:len(k.stack)-1]
		k.done(d)
	}
}

// read changes what lies in a directory and is none, and gives the names of
// the subdirectories. They come later, so that one buffer is enough, however
// deep the tree.
func (k *worker) read(d *dir) (below []byte) {
	d.left.Store(1)
	for !k.stop.Load() {
		n, err := sys.Getdents(d.fd, k.dents)
		if err != nil {
			k.fail(fmt.Errorf("list %s: %w", d.path(""), err))
			break
		}
		if n == 0 {
			break
		}
		for b := k.dents[:n]; !k.stop.Load(); {
			var kind byte
			var name []byte
			if kind, name, b = sys.Dirent(b); name == nil {
				break
			}
			if name[0] == '.' && (len(name) == 2 || len(name) == 3 && name[1] == '.') {
				continue
			}
			isDir := kind == unix.DT_DIR
			if !isDir {
				// It may be one all the same: some file systems don't say, and it
				// may have become one just now.
				if isDir, err = k.entry(d, name); err != nil {
					k.fail(fmt.Errorf("%s: %w", d.path(string(name[:len(name)-1])), err))
				}
			}
			if isDir {
				below = append(below, name...)
			}
			if k.n >= 1024 {
				k.tell()
			}
		}
	}
	return below
}

// next opens the next subdirectory; nil says that there is nothing to do in
// it.
func (k *worker) next(f *frame) *dir {
	end := slices.Index(f.below, 0) + 1
	name := f.below[:end:end]
	f.below = f.below[end:]
	sub, err := k.descend(f.dir, name)
	if err != nil {
		k.fail(fmt.Errorf("%s: %w", f.dir.path(string(name[:end-1])), err))
	}
	if sub != nil {
		f.dir.left.Add(1)
	}
	return sub
}

// done notes that a part of d is finished, and changes d when it was the last.
func (k *worker) done(d *dir) {
	for {
		if k.stop.Load() {
			k.mu.Lock()
			k.shut = append(k.shut, d)
			k.mu.Unlock()
			return
		}
		if d.left.Add(-1) > 0 || d.up == nil {
			return // the root is Recursive's
		}
		err := k.patch(d.fd, d.id, unix.DT_DIR)
		if err != nil {
			k.fail(fmt.Errorf("%s: %w", d.path(""), err))
			continue
		}
		sys.Close(d.fd)
		d.fd = -1
		d = d.up
	}
}

// descend opens a subdirectory; nil says that there is nothing to do in it.
func (k *worker) descend(d *dir, name []byte) (*dir, error) {
	// O_DIRECTORY: opening something else that was put there meanwhile fails
	// before a driver could see it.
	fd, err := sys.OpenEntry(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == unix.ENOENT {
		return nil, nil // removed meanwhile
	}
	if err == unix.ENOTDIR || err == unix.ELOOP {
		_, err = k.entry(d, name)
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	ok := false
	defer func() {
		if !ok {
			sys.Close(fd)
		}
	}()
	if err := sys.StatxFd(fd, wanted, &k.st); err != nil {
		return nil, fmt.Errorf("read the owner: %w", err)
	}
	if stay, err := k.otherMount(d, fd); stay || err != nil {
		return nil, err
	}
	if d.depth == maxDepth {
		return nil, fmt.Errorf("directories are nested more than %d deep: %w", maxDepth, unix.ELOOP)
	}
	k.n++
	ok = true
	return &dir{id: idOf(&k.st), up: d, name: string(name[:len(name)-1]), fd: fd, depth: d.depth + 1, mnt: k.st.Mnt_id}, nil
}

// otherMount tells whether what was opened is a mount point to stay out of.
func (k *worker) otherMount(d *dir, fd int) (bool, error) {
	if k.st.Mnt_id == d.mnt {
		return false, nil
	}
	if k.Mounts {
		fs, err := sys.Fstatfs(fd)
		if err != nil {
			return true, fmt.Errorf("look at the file system: %w", err)
		}
		if fs.Flags&unix.ST_RDONLY != 0 {
			k.readonly.Add(1)
			return true, nil
		}
		if !pseudo(fs.Type) {
			return false, nil
		}
	}
	k.mounts.Add(1)
	return true, nil
}

// entry changes what is no directory; isDir says that it is one after all.
func (k *worker) entry(d *dir, name []byte) (isDir bool, err error) {
	fd, err := sys.OpenEntry(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil // removed meanwhile
	}
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer sys.Close(fd)
	if err := sys.StatxFd(fd, wanted, &k.st); err != nil {
		return false, fmt.Errorf("read the owner: %w", err)
	}
	if k.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return true, nil
	}
	if stay, err := k.otherMount(d, fd); stay || err != nil {
		return false, err
	}
	k.n++
	if k.st.Nlink > 1 && !k.Links && !k.lastName(d, name) {
		return false, nil
	}
	return false, k.patch(fd, idOf(&k.st), byte(k.st.Mode>>12))
}

// lastName counts the names of a file that has several, and tells whether
// this is the last of them. Until then the file is left alone: it could have
// a name outside, where its owner is nobody's business.
func (k *worker) lastName(d *dir, name []byte) bool {
	const paths = 1024 // how many are kept; a hostile tree may have millions
	i := inode{uint64(k.st.Dev_major)<<32 | uint64(k.st.Dev_minor), k.st.Ino}
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.links[i]
	if l.seen++; l.seen >= k.st.Nlink {
		delete(k.links, i)
		return true
	}
	if l.path == "" && len(k.links) < paths {
		l.path = d.path(string(name[:len(name)-1]))
	}
	k.links[i] = l
	return false
}

// pseudo tells whether a file system shows the kernel's things, which belong
// to nobody's tree.
func pseudo(magic int64) bool {
	const mqueue = 0x19800202
	switch uint32(magic) {
	case unix.BINFMTFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC,
		unix.DEVPTS_SUPER_MAGIC, unix.EFIVARFS_MAGIC, unix.HUGETLBFS_MAGIC, mqueue, unix.PROC_SUPER_MAGIC,
		unix.PSTOREFS_MAGIC, unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC,
		unix.TRACEFS_MAGIC, unix.SYSFS_MAGIC:
		return true
	}
	return false
}
