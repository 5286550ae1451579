package tree

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// MaxDepth is how deep directories may be nested for a walk: each level costs an
// open descriptor or two. No path that a program can name is deeper than
// PATH_MAX / 2.
const MaxDepth = 2048

// MaxWorkers is how many goroutines a walk has at most.
const MaxWorkers = 16

// Walk goes through a tree on all processors. Directories are opened without
// following links and stay open until all that is below them is done, so that
// nothing outside is reached, whoever renames things meanwhile.
type Walk struct {
	// Verb begins the errors: what is done to a path, with a blank; may be "".
	Verb string
	// Mask is what is asked about each directory (STATX_…).
	Mask int
	// Lanes are the names of the workers in fault runs.
	Lanes *[MaxWorkers]string
	// Skip tells which names are left out; nil: none.
	Skip func(d *Dir, name []byte) bool
	// New makes a worker's visitor.
	New func() Visitor

	idle atomic.Int32 // workers that wait; read without the lock, as a hint
	stop atomic.Bool

	mu    sync.Mutex
	wake  sync.Cond
	queue []*Dir // directories to walk; at most one per idle worker
	busy  int    // workers that walk
	err   error  // the first
	shut  []*Dir // what an error left open
	told  int64
}

// Visitor does with a tree what a walk is for. Each is used by one goroutine.
// Names end with a NUL byte.
type Visitor interface {
	// Enter is told of a directory that was opened and looked at; not ok says
	// that there is nothing to do in it, and it is closed.
	Enter(d *Dir) (ok bool, err error)
	// Entry does something with what is no directory; isDir says that it is one
	// after all. kind is a DT_ type, and may be DT_UNKNOWN.
	Entry(d *Dir, name []byte, kind byte) (isDir bool, err error)
	// Leave is told when all below a directory is done, but not of the top one.
	Leave(d *Dir) error
	// Pause comes whenever the worker has a part behind it.
	Pause()
}

// Dir is an open directory of a walk.
type Dir struct {
	Up   *Dir // nil for the top one
	Name string
	Fd   int
	// To is what the visitor has open with it, -1 for nothing.
	To   int
	Stat unix.Statx_t

	depth int
	left  atomic.Int32 // what is not done yet: reading it, and its subdirectories
}

// Path is the path of a name in the directory, from the top one.
func (d *Dir) Path(name string) string {
	for ; d.Up != nil; d = d.Up {
		name = d.Name + "/" + name
	}
	return "/" + name
}

// Close closes what is open.
func (d *Dir) Close() {
	for _, n := range []*int{&d.Fd, &d.To} {
		if *n >= 0 {
			sys.Close(*n)
			*n = -1
		}
	}
}

// Run walks through all below top. It gives the first error; then top is
// closed, and so are all others. Else it stays open, and is the caller's to
// finish.
func (w *Walk) Run(top *Dir) error {
	w.wake.L = &w.mu
	w.queue = append(w.queue, top)
	waits := make([]func() error, min(runtime.GOMAXPROCS(0), MaxWorkers))
	for i := range waits {
		waits[i] = sys.Go(w.Lanes[i], func() error {
			(&worker{Walk: w, v: w.New(), dents: make([]byte, 32<<10)}).run()
			return nil
		})
	}
	for _, wait := range waits {
		wait()
	}
	if w.err != nil {
		for _, d := range w.open() {
			d.Close()
		}
	}
	return w.err
}

// Fail ends the walk with an error, unless there is one already.
func (w *Walk) Fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	w.stop.Store(true)
}

// Stopped reports whether the walk ends.
func (w *Walk) Stopped() bool { return w.stop.Load() }

// Tell calls progress, one call at a time, unless it was told more already. Its
// error ends the walk.
func (w *Walk) Tell(sum int64, progress func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if sum > w.told && w.err == nil {
		w.told = sum
		if w.err = progress(); w.err != nil {
			w.stop.Store(true)
		}
	}
}

// open gives the directories that an error left open.
func (w *Walk) open() []*Dir {
	var all []*Dir
	for _, d := range append(w.shut, w.queue...) {
		for ; d != nil && d.Fd >= 0; d = d.Up {
			if !slices.Contains(all, d) {
				all = append(all, d)
			}
		}
	}
	return all
}

// worker is one of the goroutines.
type worker struct {
	*Walk
	v     Visitor
	dents []byte
	stack []frame
}

// frame is a directory that a worker is in.
type frame struct {
	dir   *Dir
	below []byte // the subdirectories that are left, each name with its NUL byte
}

// run walks directories until none is left.
func (k *worker) run() {
	w := k.Walk
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
		k.v.Pause()
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
	w := k.Walk
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

// walkDir does all that lies below a directory and then, unless other workers
// still have a part of it, leaves it.
func (k *worker) walkDir(d *Dir) {
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

// read does what lies in a directory and is none, and gives the names of the
// subdirectories. They come later, so that one buffer is enough, however deep
// the tree.
func (k *worker) read(d *Dir) (below []byte) {
	d.left.Store(1)
	for !k.stop.Load() {
		n, err := sys.Getdents(d.Fd, k.dents)
		if err != nil {
			k.Fail(fmt.Errorf("list %s: %w", d.Path(""), err))
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
			if name[0] == '.' && (len(name) == 2 || len(name) == 3 && name[1] == '.') || k.Skip != nil && k.Skip(d, name) {
				continue
			}
			isDir := kind == unix.DT_DIR
			if !isDir {
				// It may be one all the same: some file systems don't say, and it
				// may have become one just now.
				if isDir, err = k.v.Entry(d, name, kind); err != nil {
					k.failAt(d, name, err)
				}
			}
			if isDir {
				below = append(below, name...)
			}
		}
	}
	return below
}

func (k *worker) failAt(d *Dir, name []byte, err error) {
	k.Fail(fmt.Errorf("%s%s: %w", k.Verb, d.Path(string(name[:len(name)-1])), err))
}

// next opens the next subdirectory; nil says that there is nothing to do in
// it.
func (k *worker) next(f *frame) *Dir {
	end := slices.Index(f.below, 0) + 1
	name := f.below[:end:end]
	f.below = f.below[end:]
	sub, err := k.descend(f.dir, name)
	if err != nil {
		k.failAt(f.dir, name, err)
	}
	if sub != nil {
		f.dir.left.Add(1)
	}
	return sub
}

// descend opens a subdirectory; nil says that there is nothing to do in it.
func (k *worker) descend(d *Dir, name []byte) (*Dir, error) {
	// O_DIRECTORY: opening something else that was put there meanwhile fails
	// before a driver could see it.
	fd, err := sys.OpenEntry(d.Fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == unix.ENOENT {
		return nil, nil // removed meanwhile
	}
	if err == unix.ENOTDIR || err == unix.ELOOP {
		_, err = k.v.Entry(d, name, unix.DT_UNKNOWN)
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	sub := &Dir{Up: d, Name: string(name[:len(name)-1]), Fd: fd, To: -1, depth: d.depth + 1}
	ok := false
	defer func() {
		if !ok {
			sub.Close()
		}
	}()
	if err := sys.StatxFd(fd, k.Mask, &sub.Stat); err != nil {
		return nil, fmt.Errorf("look at it: %w", err)
	}
	if sub.depth > MaxDepth {
		return nil, fmt.Errorf("directories are nested more than %d deep: %w", MaxDepth, unix.ELOOP)
	}
	if ok, err = k.v.Enter(sub); !ok || err != nil {
		ok = false
		return nil, err
	}
	return sub, nil
}

// done notes that a part of d is finished, and leaves d when it was the last.
func (k *worker) done(d *Dir) {
	for {
		if k.stop.Load() {
			k.mu.Lock()
			k.shut = append(k.shut, d)
			k.mu.Unlock()
			return
		}
		if d.left.Add(-1) > 0 || d.Up == nil {
			return // the top one is the caller's
		}
		if err := k.v.Leave(d); err != nil {
			k.Fail(fmt.Errorf("%s%s: %w", k.Verb, d.Path(""), err))
			continue
		}
		d.Close()
		d = d.Up
	}
}

// Pseudo tells whether a file system shows the kernel's things, which belong to
// nobody's tree.
func Pseudo(magic int64) bool {
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
