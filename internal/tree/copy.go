package tree

import (
	"bytes"
	"errors"
	"fmt"
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
	if Pseudo(fs.Type) {
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
	w := &copying{progress: progress, making: map[string]bool{}, farm: -1}
	w.Walk = Walk{Verb: "copy ", Mask: wanted, Lanes: &lanes, New: func() Visitor { return &copier{copying: w, attrs: make([]byte, 64<<10)} }}
	w.Skip = func(d *Dir, name []byte) bool { return d.Up == nil && throwAway(name) }
	w.made.L = &w.mu
	err = w.run(top, parent, name)
	if err != nil {
		if rerr := Remove(parent, name); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove what was copied: %w", rerr))
		}
	}
	return w.report(), err
}

// CopyFile copies what is in a file or block device to a new file in the
// directory dir that has no name, and gives it, open for reading and writing.
func CopyFile(from int, dir string, progress func(Report) error) (int, error) {
	st, err := sys.Statx(from, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return -1, fmt.Errorf("look at it: %w", err)
	}
	size, on := int64(st.Size), int64(st.Blocks)<<9
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		if size, err = sys.DeviceSize(from); err != nil {
			return -1, fmt.Errorf("look at its size: %w", err)
		}
		on = size
	}
	n, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return -1, fmt.Errorf("make a file in %s: %w", dir, err)
	}
	w := &copying{progress: progress}
	k := &copier{copying: w}
	if err = k.content(from, n, size, on); err == nil {
		err = w.err
	}
	if err != nil {
		sys.Close(n)
		return -1, err
	}
	return n, nil
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

// copying is what the workers share. A directory's copy is open with it, as
// Dir.To; it gets its owner, mode and times when all below is done.
type copying struct {
	Walk
	progress func(Report) error

	inodes, bytes, shared, mounts, lost atomic.Int64

	noClone, noRange atomic.Bool // the file systems can't

	// What the copy is, so that it isn't copied itself.
	self unix.Statx_t

	mu sync.Mutex
	// farm is a directory in the copy that holds, while it is made, a name for
	// each file that has several: the table of links is on the disk, however
	// long it is. -1 until there is such a file.
	farm     int
	farmName string
	making   map[string]bool
	made     sync.Cond
	lostName string
}

func (w *copying) report() Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Report{
		Inodes: w.inodes.Load(), Bytes: w.bytes.Load(), Shared: w.shared.Load(), Mounts: w.mounts.Load(),
		Lost: w.lost.Load(), LostName: w.lostName,
	}
}

// run copies all that is in top into the directory that was just made.
func (w *copying) run(top, parent int, name string) error {
	d := &Dir{Fd: -1, To: -1}
	var err error
	if d.Fd, err = sys.Dup(top); err != nil {
		return err
	}
	defer func() {
		d.Close()
		if w.farm >= 0 {
			sys.Close(w.farm)
		}
	}()
	if d.To, err = sys.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	if err := sys.StatxFd(d.To, wanted, &w.self); err != nil {
		return fmt.Errorf("look at %s: %w", name, err)
	}
	if err := sys.StatxFd(d.Fd, wanted, &d.Stat); err != nil {
		return fmt.Errorf("look at the tree: %w", err)
	}
	// In a directory of somebody else's it could have been replaced.
	if w.self.Uid != uint32(unix.Geteuid()) {
		return fmt.Errorf("open %s: somebody replaced it: %w", name, unix.EPERM)
	}
	// What the parent passes on to new directories is not the tree's.
	if err := sys.Fchmod(d.To, 0o700); err != nil {
		return fmt.Errorf("close %s to others: %w", name, err)
	}
	for _, acl := range [...]string{"system.posix_acl_default", "system.posix_acl_access"} {
		if err := sys.Removexattr(sys.FdPath(d.To), acl); err != nil && err != unix.ENODATA && err != unix.EOPNOTSUPP {
			return fmt.Errorf("remove %s of %s: %w", acl, name, err)
		}
	}

	if err := w.Run(d); err != nil {
		return err
	}
	if w.farm >= 0 {
		if err := Remove(d.To, w.farmName); err != nil {
			return err
		}
	}
	// The root is last: only now may others enter.
	k := &copier{copying: w, attrs: make([]byte, 64<<10)}
	if err := k.Leave(d); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	w.inodes.Add(1)
	return nil
}

// lanes are the names of the workers in fault runs.
var lanes = [MaxWorkers]string{
	"copy0", "copy1", "copy2", "copy3", "copy4", "copy5", "copy6", "copy7",
	"copy8", "copy9", "copy10", "copy11", "copy12", "copy13", "copy14", "copy15",
}

// copier is what one of the goroutines does.
type copier struct {
	*copying
	attrs []byte
	data  []byte
	st    unix.Statx_t
	n     int64 // inodes since the last report
	b     int64 // bytes since then
}

// Pause adds up and reports.
func (k *copier) Pause() {
	n := k.inodes.Add(k.n) + k.bytes.Load()
	k.n, k.b = 0, 0
	if k.progress != nil {
		r := k.report()
		k.Tell(n, func() error { return k.progress(r) })
	}
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

// Enter makes the copy of a directory.
func (k *copier) Enter(d *Dir) (ok bool, err error) {
	if d.Stat.Ino == k.self.Ino && d.Stat.Dev_major == k.self.Dev_major && d.Stat.Dev_minor == k.self.Dev_minor {
		return false, nil
	}
	if err := sys.Mkdirat(d.Up.To, d.Name, 0o700); err != nil {
		return false, fmt.Errorf("make: %w", err)
	}
	if d.To, err = sys.Openat(d.Up.To, d.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0); err != nil {
		return false, fmt.Errorf("open the copy: %w", err)
	}
	k.n++
	if d.Stat.Mnt_id != d.Up.Stat.Mnt_id {
		k.mounts.Add(1)
		return false, k.Leave(d)
	}
	return true, nil
}

// Leave gives a directory's copy what the directory has; nothing will be made
// in it any more.
func (k *copier) Leave(d *Dir) error { return k.attributes(d.Fd, d.To, &d.Stat) }

// Entry copies what is no directory; isDir says that it is one after all.
func (k *copier) Entry(d *Dir, name []byte, kind byte) (isDir bool, err error) {
	if k.n >= 256 || k.b >= chunk {
		k.Pause()
	}
	flags := unix.O_PATH | unix.O_NOFOLLOW
	if kind == unix.DT_REG {
		flags = unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY
	}
	src, err := sys.OpenEntry(d.Fd, name, flags)
	if err == unix.ENOENT {
		return false, nil // removed meanwhile
	}
	if err != nil && kind == unix.DT_REG {
		return k.Entry(d, name, unix.DT_UNKNOWN) // no file any more?
	}
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer func() { sys.Close(src) }()
	if err := sys.StatxFd(src, wanted, &k.st); err != nil {
		return false, fmt.Errorf("look at it: %w", err)
	}
	if k.st.Mnt_id != d.Stat.Mnt_id {
		k.mounts.Add(1)
		return false, nil
	}
	st := &k.st
	switch t := st.Mode & unix.S_IFMT; {
	case t == unix.S_IFDIR:
		return true, nil
	case t == unix.S_IFREG && flags&unix.O_PATH != 0:
		// Now that it is known to be a file, it can be opened for reading.
		n, err := sys.Openat(unix.AT_FDCWD, sys.FdPath(src), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return false, fmt.Errorf("open: %w", err)
		}
		sys.Close(src)
		src = n
	case t != unix.S_IFREG && flags&unix.O_PATH == 0:
		return k.Entry(d, name, unix.DT_UNKNOWN) // no file any more
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
	return false, create(src, d.To, s)
}

// linked copies a file that has several names: the first that is found makes
// the copy, the others are given to it.
func (k *copier) linked(d *Dir, name string, src int, create func(src, at int, name string) error) error {
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
	err := sys.Linkat(k.farm, key, d.To, name)
	if err == nil || k.Stopped() {
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
		if err = sys.Linkat(k.farm, key, d.To, name); err != nil {
			err = fmt.Errorf("link: %w", err)
		}
	}
	if err != nil { // those that wait need not try again
		k.Fail(fmt.Errorf("copy %s: %w", d.Path(name), err))
	}
	k.mu.Lock()
	delete(k.making, key)
	k.mu.Unlock()
	k.made.Broadcast()
	return err
}

// plant makes the farm.
func (k *copier) plant(d *Dir) error {
	for d.Up != nil {
		d = d.Up
	}
	var b [8]byte
	if err := sys.Random(b[:]); err != nil {
		return fmt.Errorf("get random bytes: %w", err)
	}
	k.farmName = fmt.Sprintf(".#links.%x", b)
	if err := sys.Mkdirat(d.To, k.farmName, 0o700); err != nil {
		return fmt.Errorf("make %s: %w", k.farmName, err)
	}
	n, err := sys.Openat(d.To, k.farmName, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", k.farmName, err)
	}
	k.farm = n
	return nil
}

// regular copies a file.
func (k *copier) regular(src, at int, name string) error {
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
func (k *copier) content(src, dst int, size, on int64) error {
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
	for at < size && !k.Stopped() {
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
func (k *copier) copyRange(src, dst int, at, end int64) (done int64, err error) {
	for at+done < end && !k.Stopped() {
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
			k.Pause()
		}
	}
	if k.Stopped() {
		return end - at, nil // nobody looks at it any more
	}
	return done, nil
}

func (k *copier) copyBytes(src, dst int, at, size int64) (int, error) {
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
func (k *copier) special(src, at int, name string) error {
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
	from := sys.FdPath(src)
	n, err := sys.Listxattr(from, k.attrs)
	if err != nil && err != unix.EOPNOTSUPP {
		return fmt.Errorf("list attributes: %w", err)
	}
	if n > 0 {
		dst, err := sys.Openat(at, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("open the copy: %w", err)
		}
		err = k.xattrs(k.attrs[:n], from, sys.FdPath(dst))
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

// attributes gives an open file what the other one has beside its content. A
// change of owner takes rights away, an access list changes the mode, and
// everything changes the times: hence the order.
func (k *copier) attributes(src, dst int, st *unix.Statx_t) error {
	if err := sys.ChownFd(dst, st.Uid, st.Gid); err != nil {
		return fmt.Errorf("give it its owner: %w", err)
	}
	n, err := sys.Flistxattr(src, k.attrs)
	if err != nil && err != unix.EOPNOTSUPP {
		return fmt.Errorf("list attributes: %w", err)
	}
	if n > 0 {
		if err := k.xattrs(k.attrs[:n], sys.FdPath(src), sys.FdPath(dst)); err != nil {
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
func (k *copier) xattrs(list []byte, from, to string) error {
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
