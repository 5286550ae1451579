package tree

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Snapshot begins the name of a copy that is thrown away; 16 hex digits end
// it. A copy may have to lie in the tree that it is made of, so such names are
// never copied; nor are those that systemd-nspawn gives.
const Snapshot = ".#snapshot."

const machineCopy = ".#machine."

// maxDepth is how deep directories may be nested: each level costs two open
// descriptors. No path that a program can name is deeper than PATH_MAX / 2.
const maxDepth = 2048

// Report says what Copy did so far.
type Report struct {
	Inodes int64
	// Bytes were copied, Shared bytes share their blocks with the original.
	Bytes, Shared int64
	// Snapshot: all was done at once, by the file system.
	Snapshot bool
	// Mounts are directories left empty, since something is mounted on them.
	Mounts int64
	// Lost attributes are those that the file system of the copy can't keep;
	// LostName is one of them.
	Lost     int64
	LostName string
}

// Copy copies the tree that the descriptor from is to the directory name below
// parent, which must not exist. progress, if any, is called now and then, one
// call at a time; its error ends the copying. After an error nothing is left
// of the copy.
func Copy(from, parent int, name string, progress func(Report) error) (Report, error) {
	fs, err := sys.Fstatfs(from)
	if err != nil {
		return Report{}, fmt.Errorf("look at the tree's file system: %w", err)
	}
	if pseudo(fs.Type) {
		return Report{}, fmt.Errorf("the tree is on a file system of the kernel: %w", unix.EINVAL)
	}
	top, err := view(from)
	if err != nil {
		return Report{}, err
	}
	defer sys.Close(top)
	if subvolume(top) {
		// A snapshot leaves out what other subvolumes are in it.
		if nested, err := sys.BtrfsNested(top); err == nil && !nested {
			switch err := snapshot(top, parent, name); err {
			case nil:
				return Report{Snapshot: true}, nil
			case unix.EEXIST:
				return Report{}, fmt.Errorf("make %s: %w", name, err)
			}
			// Another file system, most likely.
		}
	}
	if err := sys.Mkdirat(parent, name, 0o700); err != nil {
		return Report{}, fmt.Errorf("make %s: %w", name, err)
	}
	w := &walk{progress: progress, making: map[string]bool{}, farm: -1}
	w.wake.L, w.made.L = &w.mu, &w.mu
	err = w.run(top, parent, name)
	if err != nil {
		if rerr := Remove(parent, name); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove what was copied: %w", rerr))
		}
	}
	return w.report(), err
}

// snapshot makes one; it takes a descriptor that is more than a path.
func snapshot(top, parent int, name string) error {
	n, err := sys.Openat(parent, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(n)
	return sys.BtrfsSnapshot(top, n, name)
}

// view opens the tree as a mount of our own, on which nothing else is mounted:
// what a mount in the tree hides is seen, and what is mounted isn't. Reading
// through it changes no access times, and opening what somebody put into the
// place of a file wakes no driver.
func view(from int) (int, error) {
	const clone = unix.OPEN_TREE_CLONE | unix.AT_EMPTY_PATH
	m, err := sys.OpenTree(from, "", clone)
	if err == unix.EINVAL {
		// In a user namespace, what mounts hide stays hidden.
		m, err = sys.OpenTree(from, "", clone|unix.AT_RECURSIVE)
	}
	if err != nil {
		return -1, fmt.Errorf("open the tree: %w", err)
	}
	defer sys.Close(m)
	attr := &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOATIME,
		Attr_clr: unix.MOUNT_ATTR__ATIME,
	}
	if err := sys.MountSetattr(m, unix.AT_RECURSIVE, attr); err != nil {
		return -1, fmt.Errorf("make the tree read-only for ourselves: %w", err)
	}
	n, err := sys.Openat(m, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("open the tree: %w", err)
	}
	return n, nil
}

// wanted is what is asked about each inode.
const wanted = unix.STATX_BASIC_STATS | unix.STATX_BTIME | unix.STATX_MNT_ID

// dir is a directory and its copy. Both stay open until all below is done; the
// copy gets its owner, mode and times then.
type dir struct {
	up       *dir
	name     string
	src, dst int
	st       unix.Statx_t
	depth    int
	left     atomic.Int32 // what is not done yet: reading it, and its subdirectories
}

func (d *dir) path(name string) string {
	for ; d.up != nil; d = d.up {
		name = d.name + "/" + name
	}
	return "/" + name
}

func (d *dir) close() {
	for _, n := range []*int{&d.src, &d.dst} {
		if *n >= 0 {
			sys.Close(*n)
			*n = -1
		}
	}
}

// walk is what the workers share.
type walk struct {
	progress func(Report) error

	inodes, bytes, shared, mounts, lost atomic.Int64

	noClone, noRange atomic.Bool  // the file systems can't
	idle             atomic.Int32 // workers that wait; read without the lock, as a hint
	stop             atomic.Bool

	// What the copy is, so that it isn't copied itself.
	self unix.Statx_t

	mu    sync.Mutex
	wake  sync.Cond
	queue []*dir // directories to walk; at most one per idle worker
	busy  int    // workers that walk
	err   error  // the first
	shut  []*dir // what an error left open
	told  int64

	// farm is a directory in the copy that holds, while it is made, a name for
	// each file that has several: the table of links is on the disk, however
	// long it is. -1 until there is such a file.
	farm     int
	farmName string
	making   map[string]bool
	made     sync.Cond
	lostName string
}

func (w *walk) report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Report{
		Inodes: w.inodes.Load(), Bytes: w.bytes.Load(), Shared: w.shared.Load(), Mounts: w.mounts.Load(),
		Lost: w.lost.Load(), LostName: w.lostName,
	}
}

// run copies all that is in top into the directory that was just made.
func (w *walk) run(top, parent int, name string) error {
	d := &dir{src: -1, dst: -1}
	var err error
	if d.src, err = sys.Dup(top); err != nil {
		return err
	}
	defer func() {
		d.close()
		if w.farm >= 0 {
			sys.Close(w.farm)
		}
	}()
	if d.dst, err = sys.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := sys.StatxFd(d.dst, wanted, &w.self); err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	if err := sys.StatxFd(d.src, wanted, &d.st); err != nil {
		return fmt.Errorf("look at the tree: %w", err)
	}
	// In a directory of somebody else's it could have been replaced.
	if w.self.Uid != uint32(unix.Geteuid()) {
		return fmt.Errorf("open %s: somebody replaced it: %w", name, unix.EPERM)
	}
	// What the parent passes on to new directories is not the tree's.
	if err := sys.Fchmod(d.dst, 0o700); err != nil {
		return fmt.Errorf("close %s to others: %w", name, err)
	}
	for _, acl := range [...]string{"system.posix_acl_default", "system.posix_acl_access"} {
		if err := sys.Removexattr(procFd(d.dst), acl); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return fmt.Errorf("remove %s of %s: %w", acl, name, err)
		}
	}

	n := min(runtime.GOMAXPROCS(0), maxWorkers)
	w.queue = append(w.queue, d)
	waits := make([]func() error, n)
	for i := range waits {
		waits[i] = sys.Go(lanes[i], func() error {
			k := &worker{walk: w, dents: make([]byte, 32<<10), attrs: make([]byte, 64<<10)}
			k.run()
			return nil
		})
	}
	for _, wait := range waits {
		wait()
	}
	if w.err != nil {
		for _, d := range w.open() {
			d.close()
		}
		return w.err
	}
	if w.farm >= 0 {
		if err := Remove(d.dst, w.farmName); err != nil {
			return err
		}
	}
	// The root is last: only now may others enter.
	k := &worker{walk: w, attrs: make([]byte, 64<<10)}
	if err := k.finish(d); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.inodes.Add(1)
	return nil
}

const maxWorkers = 16

// lanes are the names of the workers in fault runs.
var lanes = [maxWorkers]string{
	"copy0", "copy1", "copy2", "copy3", "copy4", "copy5", "copy6", "copy7",
	"copy8", "copy9", "copy10", "copy11", "copy12", "copy13", "copy14", "copy15",
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
		for ; d != nil && d.src >= 0; d = d.up {
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
	data  []byte
	st    unix.Statx_t
	stack []frame
	n     int64 // inodes since the last report
	b     int64 // bytes since then
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
// is one: a subdirectory of the uppermost directory that has any, since that is
// likely to be the biggest part.
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
	n := k.inodes.Add(k.n) + k.bytes.Load()
	k.n, k.b = 0, 0
	if k.progress == nil {
		return
	}
	r := k.report()
	k.mu.Lock()
	defer k.mu.Unlock()
	if n > k.told && k.err == nil { // another worker may have told more
		k.told = n
		if k.err = k.progress(r); k.err != nil {
			k.stop.Store(true)
		}
	}
}

// frame is a directory that a worker is in.
type frame struct {
	dir   *dir
	below []byte // the subdirectories that are left, each name with its NUL byte
}

// walkDir copies all that lies below a directory and then, unless other workers
// still have a part of it, finishes it.
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

// read copies what lies in a directory and is none, and gives the names of the
// subdirectories. They come later, so that one buffer is enough, however deep
// the tree.
func (k *worker) read(d *dir) (below []byte) {
	d.left.Store(1)
	for !k.stop.Load() {
		n, err := sys.Getdents(d.src, k.dents)
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
			if name[0] == '.' && (len(name) == 2 || len(name) == 3 && name[1] == '.' || d.up == nil && throwAway(name)) {
				continue
			}
			isDir := kind == unix.DT_DIR
			if !isDir {
				// It may be one all the same: some file systems don't say, and it
				// may have become one just now.
				if isDir, err = k.entry(d, name, kind); err != nil {
					k.fail(fmt.Errorf("copy %s: %w", d.path(string(name[:len(name)-1])), err))
				}
			}
			if isDir {
				below = append(below, name...)
			}
			if k.n >= 256 || k.b >= chunk {
				k.tell()
			}
		}
	}
	return below
}

// throwAway tells whether the name is that of a copy, or of the lock of one.
func throwAway(entry []byte) bool {
	name := string(entry[:len(entry)-1])
	if lock, ok := strings.CutSuffix(name, ".lck"); ok {
		name = strings.TrimPrefix(lock, ".#")
	}
	for _, begin := range [...]string{Snapshot, machineCopy} {
		rest, ok := strings.CutPrefix(name, begin)
		if ok && len(rest) >= 16 && strings.Trim(rest[len(rest)-16:], "0123456789abcdef") == "" {
			return true
		}
	}
	return false
}

// next makes the copy of the next subdirectory and opens both; nil says that
// there is nothing to do in it.
func (k *worker) next(f *frame) *dir {
	end := slices.Index(f.below, 0) + 1
	name := f.below[:end:end]
	f.below = f.below[end:]
	sub, err := k.descend(f.dir, name)
	if err != nil {
		k.fail(fmt.Errorf("copy %s: %w", f.dir.path(string(name[:end-1])), err))
	}
	if sub != nil {
		f.dir.left.Add(1)
	}
	return sub
}

// done notes that a part of d is copied, and finishes d when it was the last.
func (k *worker) done(d *dir) {
	for {
		if k.stop.Load() {
			k.mu.Lock()
			k.shut = append(k.shut, d)
			k.mu.Unlock()
			return
		}
		if d.left.Add(-1) > 0 || d.up == nil {
			return // the root is run's
		}
		if err := k.finish(d); err != nil {
			k.fail(fmt.Errorf("copy %s: %w", d.path(""), err))
			continue
		}
		d.close()
		d = d.up
	}
}

// descend opens a subdirectory and makes its copy.
func (k *worker) descend(d *dir, name []byte) (*dir, error) {
	// O_DIRECTORY: opening something else that was put there meanwhile fails
	// before a driver could see it.
	src, err := sys.OpenEntry(d.src, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == unix.ENOENT {
		return nil, nil // removed meanwhile
	}
	if err == unix.ENOTDIR || err == unix.ELOOP {
		_, err = k.entry(d, name, unix.DT_UNKNOWN)
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	sub := &dir{up: d, name: string(name[:len(name)-1]), src: src, dst: -1, depth: d.depth + 1}
	ok := false
	defer func() {
		if !ok {
			sub.close()
		}
	}()
	if err := sys.StatxFd(src, wanted, &sub.st); err != nil {
		return nil, fmt.Errorf("look at it: %w", err)
	}
	if sub.st.Ino == k.self.Ino && sub.st.Dev_major == k.self.Dev_major && sub.st.Dev_minor == k.self.Dev_minor {
		return nil, nil
	}
	if sub.depth > maxDepth {
		return nil, fmt.Errorf("directories are nested more than %d deep: %w", maxDepth, unix.ELOOP)
	}
	if err := sys.Mkdirat(d.dst, sub.name, 0o700); err != nil {
		return nil, fmt.Errorf("make: %w", err)
	}
	if sub.dst, err = sys.Openat(d.dst, sub.name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return nil, fmt.Errorf("open the copy: %w", err)
	}
	k.n++
	if sub.st.Mnt_id != d.st.Mnt_id {
		k.mounts.Add(1)
		return nil, k.finish(sub)
	}
	ok = true
	return sub, nil
}

// entry copies what is no directory; isDir says that it is one after all.
func (k *worker) entry(d *dir, name []byte, kind byte) (isDir bool, err error) {
	flags := unix.O_PATH | unix.O_NOFOLLOW
	if kind == unix.DT_REG {
		flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	}
	src, err := sys.OpenEntry(d.src, name, flags)
	if err == unix.ENOENT {
		return false, nil // removed meanwhile
	}
	if err != nil && kind == unix.DT_REG {
		return k.entry(d, name, unix.DT_UNKNOWN) // no file any more?
	}
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer func() { sys.Close(src) }()
	if err := sys.StatxFd(src, wanted, &k.st); err != nil {
		return false, fmt.Errorf("look at it: %w", err)
	}
	if k.st.Mnt_id != d.st.Mnt_id {
		k.mounts.Add(1)
		return false, nil
	}
	st := &k.st
	switch t := st.Mode & unix.S_IFMT; {
	case t == unix.S_IFDIR:
		return true, nil
	case t == unix.S_IFREG && flags&unix.O_PATH != 0:
		// Now that it is known to be a file, it can be opened for reading.
		n, err := sys.Openat(unix.AT_FDCWD, procFd(src), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return false, fmt.Errorf("open: %w", err)
		}
		sys.Close(src)
		src = n
	case t != unix.S_IFREG && flags&unix.O_PATH == 0:
		return k.entry(d, name, unix.DT_UNKNOWN) // no file any more
	}
	k.n++
	s := string(name[:len(name)-1])
	create := k.special
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		create = k.regular
	}
	if st.Nlink > 1 {
		return false, k.linked(d, s, src, create)
	}
	return false, create(src, d.dst, s)
}

// linked copies a file that has several names: the first that is found makes
// the copy, the others are given to it.
func (k *worker) linked(d *dir, name string, src int, create func(src, at int, name string) error) error {
	st := &k.st
	key := fmt.Sprintf("%x.%x.%x.%x.%x", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)
	k.mu.Lock()
	if k.farm < 0 {
		if err := k.plant(d); err != nil {
			k.mu.Unlock()
			return err
		}
	}
	for k.making[key] {
		k.made.Wait()
	}
	err := sys.Linkat(k.farm, key, d.dst, name)
	if err == nil || k.err != nil {
		k.mu.Unlock()
		return nil
	}
	if err == unix.EMLINK { // this file system allows fewer names: begin another copy
		if err = sys.Unlinkat(k.farm, key, 0); err == nil {
			err = unix.ENOENT
		}
	}
	if err != unix.ENOENT {
		k.mu.Unlock()
		return fmt.Errorf("link: %w", err)
	}
	k.making[key] = true
	k.mu.Unlock()
	if err = create(src, k.farm, key); err == nil {
		if err = sys.Linkat(k.farm, key, d.dst, name); err != nil {
			err = fmt.Errorf("link: %w", err)
		}
	} else {
		k.stop.Store(true) // those that wait need not try again
	}
	k.mu.Lock()
	if err != nil && k.err == nil {
		k.err = fmt.Errorf("copy %s: %w", d.path(name), err)
	}
	delete(k.making, key)
	k.mu.Unlock()
	k.made.Broadcast()
	return err
}

// plant makes the farm.
func (k *worker) plant(d *dir) error {
	for d.up != nil {
		d = d.up
	}
	var b [8]byte
	if err := sys.Random(b[:]); err != nil {
		return fmt.Errorf("get random bytes: %w", err)
	}
	k.farmName = fmt.Sprintf(".#links.%x", b)
	if err := sys.Mkdirat(d.dst, k.farmName, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", k.farmName, err)
	}
	n, err := sys.Openat(d.dst, k.farmName, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", k.farmName, err)
	}
	k.farm = n
	return nil
}

// regular copies a file.
func (k *worker) regular(src, at int, name string) error {
	dst, err := sys.Openat(at, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("make: %w", err)
	}
	defer sys.Close(dst)
	if err := k.content(src, dst, int64(k.st.Size), int64(k.st.Blocks)<<9); err != nil {
		return err
	}
	return k.attributes(src, dst, &k.st)
}

const (
	chunk = 8 << 20 // copied between two looks at the clock
	small = 64 << 10
)

// content copies what is in a file. on is how much of it is on the disk. What
// is written to the original meanwhile, beyond its size, is not copied: it
// might never end.
func (k *worker) content(src, dst int, size, on int64) error {
	if size == 0 {
		return nil
	}
	if !k.noClone.Load() {
		switch err := sys.Clone(dst, src); err {
		case nil:
			k.shared.Add(size)
			return nil
		case unix.EOPNOTSUPP, unix.EXDEV, unix.ENOTTY:
			k.noClone.Store(true)
		}
	}
	sparse := on < size
	at := int64(0)
	for at < size && !k.stop.Load() {
		end := size
		if sparse {
			data, err := sys.Seek(src, at, unix.SEEK_DATA)
			if err == unix.ENXIO {
				break // a hole to the end
			}
			if err == nil {
				at = data
				if end, err = sys.Seek(src, at, unix.SEEK_HOLE); err != nil {
					return fmt.Errorf("find a hole: %w", err)
				}
				end = min(end, size)
			} else if err == unix.EINVAL {
				sparse = false
			} else {
				return fmt.Errorf("find the data: %w", err)
			}
		}
		n, err := k.copyRange(src, dst, at, end)
		if err != nil {
			return err
		}
		at += n
		if at < end {
			return nil // it was cut meanwhile
		}
	}
	if at < size {
		if err := sys.Ftruncate(dst, size); err != nil {
			return fmt.Errorf("set the size: %w", err)
		}
	}
	return nil
}

// copyRange copies what lies between at and end, and gives how much that was.
func (k *worker) copyRange(src, dst int, at, end int64) (done int64, err error) {
	for at+done < end && !k.stop.Load() {
		size := min(end-at-done, chunk)
		n := 0
		if size > small && !k.noRange.Load() {
			n, err = sys.CopyRange(src, dst, at+done, size)
			switch err {
			case nil:
			case unix.EXDEV, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL:
				k.noRange.Store(true)
				continue
			default:
				return done, fmt.Errorf("copy: %w", err)
			}
		} else if n, err = k.copyBytes(src, dst, at+done, size); err != nil {
			return done, err
		}
		if n == 0 {
			return done, nil
		}
		done += int64(n)
		k.b += int64(n)
		k.bytes.Add(int64(n))
		if k.b >= chunk {
			k.tell()
		}
	}
	if k.stop.Load() {
		return end - at, nil // nobody looks at it any more
	}
	return done, nil
}

func (k *worker) copyBytes(src, dst int, at, size int64) (int, error) {
	if k.data == nil {
		k.data = make([]byte, 4*small)
	}
	n, err := sys.Pread(src, k.data[:min(size, int64(len(k.data)))], at)
	if err != nil {
		return 0, fmt.Errorf("read: %w", err)
	}
	for b, to := k.data[:n], at; len(b) > 0; {
		m, err := sys.Pwrite(dst, b, to)
		if err == nil && m == 0 {
			err = unix.EIO
		}
		if err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
		b, to = b[m:], to+int64(m)
	}
	return n, nil
}

// special copies a link, FIFO, socket or device node. src is an O_PATH
// descriptor. Nobody but root can reach what is made, so its name is as good
// as a descriptor.
func (k *worker) special(src, at int, name string) error {
	st := &k.st
	isLink := st.Mode&unix.S_IFMT == unix.S_IFLNK
	if isLink {
		target, err := sys.Readlinkat(src, "")
		if err != nil {
			return fmt.Errorf("read the link: %w", err)
		}
		if err := sys.Symlinkat(target, at, name); err != nil {
			return fmt.Errorf("make the link: %w", err)
		}
	} else {
		dev := unix.Mkdev(st.Rdev_major, st.Rdev_minor)
		if err := sys.Mknodat(at, name, uint32(st.Mode)&unix.S_IFMT|0o600, dev); err != nil {
			return fmt.Errorf("make the node: %w", err)
		}
	}
	if st.Uid|st.Gid != 0 {
		if err := sys.Fchownat(at, name, st.Uid, st.Gid); err != nil {
			return fmt.Errorf("give it its owner: %w", err)
		}
	}
	from := procFd(src)
	n, err := sys.Listxattr(from, k.attrs)
	if err != nil && err != unix.EOPNOTSUPP {
		return fmt.Errorf("list attributes: %w", err)
	}
	if n > 0 {
		dst, err := sys.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("open the copy: %w", err)
		}
		err = k.xattrs(k.attrs[:n], from, procFd(dst))
		sys.Close(dst)
		if err != nil {
			return err
		}
	}
	if !isLink {
		if err := sys.Fchmodat(at, name, uint32(st.Mode)&0o7777); err != nil {
			return fmt.Errorf("set the mode: %w", err)
		}
	}
	if err := sys.Utimensat(at, name, st.Atime, st.Mtime); err != nil {
		return fmt.Errorf("set the times: %w", err)
	}
	return nil
}

// finish gives a directory's copy what the directory has; nothing will be
// made in it any more.
func (k *worker) finish(d *dir) error { return k.attributes(d.src, d.dst, &d.st) }

// attributes gives an open file what the other one has beside its content. A
// change of owner takes rights away, an access list changes the mode, and
// everything changes the times: hence the order.
func (k *worker) attributes(src, dst int, st *unix.Statx_t) error {
	if err := sys.ChownFd(dst, st.Uid, st.Gid); err != nil {
		return fmt.Errorf("give it its owner: %w", err)
	}
	n, err := sys.Flistxattr(src, k.attrs)
	if err != nil && err != unix.EOPNOTSUPP {
		return fmt.Errorf("list attributes: %w", err)
	}
	if n > 0 {
		if err := k.xattrs(k.attrs[:n], procFd(src), procFd(dst)); err != nil {
			return err
		}
	}
	if err := sys.Fchmod(dst, uint32(st.Mode)&0o7777); err != nil {
		return fmt.Errorf("set the mode: %w", err)
	}
	if err := sys.Utimensat(dst, "", st.Atime, st.Mtime); err != nil {
		return fmt.Errorf("set the times: %w", err)
	}
	return nil
}

// xattrs copies the attributes of the list, names with a NUL byte each.
func (k *worker) xattrs(list []byte, from, to string) error {
	var value [64 << 10]byte // the kernel has none that is longer
	for len(list) > 0 {
		end := bytes.IndexByte(list, 0)
		if end < 0 {
			break
		}
		name := string(list[:end])
		list = list[end+1:]
		n, err := sys.Getxattr(from, name, value[:])
		if err == unix.ENODATA {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		err = sys.Setxattr(to, name, value[:n])
		// btrfs. names are properties, which not every file can have.
		if err == unix.EOPNOTSUPP || err != nil && strings.HasPrefix(name, "btrfs.") {
			k.lost.Add(1)
			k.mu.Lock()
			k.lostName = name
			k.mu.Unlock()
			continue
		}
		if err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// procFd is a path that leads to what the descriptor is, O_PATH or not.
func procFd(n int) string { return fmt.Sprintf("/proc/thread-self/fd/%d", n) }

// pseudo tells whether a file system shows the kernel's things, which can't be
// copied.
func pseudo(magic int64) bool {
	switch uint32(magic) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC:
		return true
	}
	return false
}
