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
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/internal/tree"
	"launch/userns"
)

// Busy is the shift that the root directory has while the tree is worked on.
// systemd-nspawn uses the same.
const Busy = 0xfffe0000

const low = 0xffff // the part of an id that stays

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

// Recursive gives every inode of the tree to the range. rootfd may be an
// O_PATH descriptor.
func Recursive(rootfd int, r userns.Range, o Options) (Report, error) {
	switch {
	case r.Start&low != 0 || r.Size != userns.DefaultSize:
		return Report{}, fmt.Errorf("range %s is not %d users from a multiple of that: %w", r, userns.DefaultSize, unix.EOPNOTSUPP)
	case r.Start == Busy || !r.Valid():
		return Report{}, fmt.Errorf("range %s is reserved: %w", r, unix.EINVAL)
	}
	fd, err := sys.OpenEntry(rootfd, dot, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return Report{}, fmt.Errorf("open the root directory: %w", err)
	}
	top := &tree.Dir{Fd: fd, To: -1}
	defer top.Close()
	if err := sys.StatxFd(fd, wanted, &top.Stat); err != nil {
		return Report{}, fmt.Errorf("read the owner of the root directory: %w", err)
	}
	own := idOf(&top.Stat)
	if own.uid&^low != own.gid&^low {
		return Report{}, fmt.Errorf("root directory belongs to user %d and group %d, which lie in different ranges: %w", own.uid, own.gid, unix.EBADE)
	}
	if own.uid&^low == r.Start {
		return Report{}, nil
	}
	fs, err := sys.Fstatfs(fd)
	if err != nil {
		return Report{}, fmt.Errorf("look at the root's file system: %w", err)
	}
	if tree.Pseudo(fs.Type) {
		return Report{}, fmt.Errorf("root directory is on a file system of the kernel: %w", unix.EINVAL)
	}

	w := &walk{Options: o, shift: r.Start, links: map[inode]links{}}
	w.Walk = tree.Walk{Mask: wanted, Lanes: &lanes, New: func() tree.Visitor { return &worker{walk: w, attrs: make([]byte, 4<<10)} }}
	if err := w.openProc(); err != nil {
		return Report{}, err
	}
	defer sys.Close(w.proc)
	if err := sys.ChownFd(fd, Busy|own.uid&low, Busy|own.gid&low); err != nil {
		return Report{}, fmt.Errorf("mark the root directory: %w", err)
	}
	err = w.Run(top)
	report := Report{Inodes: int(w.inodes.Load()), Changed: int(w.changed.Load()), ReadOnly: int(w.readonly.Load()), Mounts: int(w.mounts.Load())}
	if err != nil {
		return report, err
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
	if err := k.patch(top.Fd, own, unix.DT_DIR); err != nil {
		return report, fmt.Errorf("root directory: %w", err)
	}
	report.Changed++
	report.Inodes++
	return report, nil
}

// lanes are the names of the workers in fault runs.
var lanes = [tree.MaxWorkers]string{
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

// walk is what the workers share.
type walk struct {
	tree.Walk
	Options
	shift uint32
	proc  int         // /proc/self/fd
	old   atomic.Bool // no listxattrat

	inodes, changed, readonly, mounts atomic.Int64

	mu    sync.Mutex
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

// worker is what one of the goroutines does.
type worker struct {
	*walk
	attrs []byte
	name  [24]byte // a descriptor as a name in proc
	st    unix.Statx_t
	n     int // inodes since the last report
}

// Pause adds up and reports.
func (k *worker) Pause() {
	n := k.inodes.Add(int64(k.n))
	k.n = 0
	if k.Progress != nil {
		k.Tell(n, func() error { return k.Progress(int(n)) })
	}
}

// Enter stays out of what does not belong to the tree.
func (k *worker) Enter(d *tree.Dir) (bool, error) {
	if stay, err := k.otherMount(d.Up, d.Fd, &d.Stat); stay || err != nil {
		return false, err
	}
	k.n++
	return true, nil
}

// Leave changes a directory: only now is all below it what it says it is.
func (k *worker) Leave(d *tree.Dir) error { return k.patch(d.Fd, idOf(&d.Stat), unix.DT_DIR) }

// otherMount tells whether what was opened is a mount point to stay out of.
func (k *worker) otherMount(d *tree.Dir, fd int, st *unix.Statx_t) (bool, error) {
	if st.Mnt_id == d.Stat.Mnt_id {
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
		if !tree.Pseudo(fs.Type) {
			return false, nil
		}
	}
	k.mounts.Add(1)
	return true, nil
}

// Entry changes what is no directory; isDir says that it is one after all.
func (k *worker) Entry(d *tree.Dir, name []byte, _ byte) (isDir bool, err error) {
	if k.n >= 1024 {
		k.Pause()
	}
	fd, err := sys.OpenEntry(d.Fd, name, unix.O_PATH|unix.O_NOFOLLOW)
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
	if stay, err := k.otherMount(d, fd, &k.st); stay || err != nil {
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
func (k *worker) lastName(d *tree.Dir, name []byte) bool {
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
		l.path = d.Path(string(name[:len(name)-1]))
	}
	k.links[i] = l
	return false
}
