package probe

import (
	"fmt"
	"io"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/facts"
	"launch/internal/sys"
	"launch/internal/tree"
	"launch/mount/loop"
)

// DiskError is what is wrong with the disk image itself.
type DiskError struct{ Err error }

func (e *DiskError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *DiskError) Unwrap() error { return e.Err }

// Disk opens a disk image and reads what is on it. To write means that its
// volumes may be written to; an image that can't be, has read-only ones.
func Disk(path string, write bool, policy disk.Policy) (n int, d facts.Disk, err error) {
	// What it is, nobody knows yet.
	const careful = unix.O_NONBLOCK | unix.O_NOCTTY
	how, locked := unix.O_RDONLY|careful, false
	if write {
		how = unix.O_RDWR | careful
	}
	n, err = sys.Openat(unix.AT_FDCWD, path, how, 0)
	if write && (err == unix.EROFS || err == unix.EPERM) {
		locked = true
		refused := err
		n, err = sys.Openat(unix.AT_FDCWD, path, unix.O_RDONLY|careful, 0)
		if err == nil && refused == unix.EPERM && !immutable(n) {
			sys.Close(n)
			err = refused
		}
	}
	if err != nil {
		return -1, d, fmt.Errorf("open the disk image %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			sys.Close(n)
			n = -1
		}
	}()
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_SIZE)
	if err != nil {
		return n, d, fmt.Errorf("look at the disk image %s: %w", path, err)
	}
	size := int64(st.Size)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFBLK:
		d.Block = true
		if size, err = sys.DeviceSize(n); err != nil {
			return n, d, fmt.Errorf("look at the size of %s: %w", path, err)
		}
	default:
		return n, d, &DiskError{fmt.Errorf("%s is neither a file nor a block device", path)}
	}
	image, err := disk.Read(reader(n), size)
	if err != nil {
		return n, d, &DiskError{fmt.Errorf("cannot use %s as a disk image: %w", path, err)}
	}
	checked, err := checkedBy(n, path)
	if err != nil {
		return n, d, err
	}
	d.Known, d.Sector = true, image.Sector
	if d.Volumes, err = image.Choose(runtime.GOARCH, policy, checked); err != nil {
		return n, d, &DiskError{fmt.Errorf("cannot use %s as a disk image: %w", path, err)}
	}
	for i := range d.Volumes {
		d.Volumes[i].ReadOnly = d.Volumes[i].ReadOnly || locked
	}
	return n, d, nil
}

// immutable tells whether nobody may write to a file, not even root (chattr +i).
func immutable(n int) bool {
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	return err == nil && st.Attributes&unix.STATX_ATTR_IMMUTABLE != 0
}

// reader reads an open file at a place.
type reader int

func (r reader) ReadAt(b []byte, off int64) (done int, err error) {
	for done < len(b) {
		m, err := sys.Pread(int(r), b[done:], off+int64(done))
		if err != nil {
			return done, err
		}
		if m == 0 {
			return done, io.EOF
		}
		done += m
	}
	return done, nil
}

// checkedBy tells whether something says what hash the image has to have, where
// systemd looks for that: in an attribute, and in files beside the image.
func checkedBy(n int, path string) (bool, error) {
	for _, name := range [...]string{"user.verity.roothash", "user.verity.usrhash"} {
		_, err := sys.Getxattr(sys.FdPath(n), name, make([]byte, 512))
		switch err {
		case nil, unix.ERANGE:
			return true, nil
		case unix.ENODATA, unix.EOPNOTSUPP:
		default:
			return false, fmt.Errorf("read %s of %s: %w", name, path, err)
		}
	}
	base := strings.TrimSuffix(path, ".raw")
	for _, end := range [...]string{".roothash", ".usrhash", ".verity"} {
		var l look
		if l.exists(unix.AT_FDCWD, base+end) {
			return true, nil
		}
		if l.err != nil {
			return false, l.err
		}
	}
	return false, nil
}

// DiskTree looks at the tree that is on a disk image, which n is and which lies
// at the path. It is mounted for that, for the moment and read-only, where
// nobody else sees it; and not while somebody writes to it. More is what else is to
// be looked at below its root, if it has one.
func DiskTree(n int, path string, d *facts.Disk, pivot string, more func(top int) error) (r facts.Root, err error) {
	real, err := RealFile(n)
	if err != nil {
		return r, fmt.Errorf("look at the path of %s: %w", path, err)
	}
	if real == "" {
		return r, fmt.Errorf("look at the path of %s: %w", path, unix.ENOENT)
	}
	if files, err := tree.LockFiles(n, real); err != nil {
		return r, err
	} else if err := tree.Free(files); err != nil {
		return r, fmt.Errorf("lock %s: %w", path, err)
	}
	if d.Block {
		if err := claim(n); err != nil {
			return r, fmt.Errorf("take %s for the machine: %w", path, err)
		}
	}
	mount := func(v disk.Volume) (int, error) {
		n, err := lookAt(n, v, d.Sector)
		if err != nil {
			err = fmt.Errorf("mount its %s, %s: %w", v.Use, v.FS, err)
		}
		return n, err
	}
	r = facts.Root{Known: true, Usr: facts.Dir, Bin: facts.Absent, Var: facts.Absent}
	for _, v := range d.Volumes {
		switch v.Use {
		case disk.Root:
			top, err := mount(v)
			if err != nil {
				return facts.Root{}, err
			}
			defer sys.Close(top)
			if r, err = Root(top, pivot); err == nil {
				err = more(top)
			}
			if err != nil {
				return r, err
			}
			var l look
			d.Efi, d.Boot = l.kind(top, "efi"), l.kind(top, "boot")
			if l.err != nil {
				return facts.Root{}, l.err
			}
		case disk.Usr:
			top, err := mount(v)
			if err != nil {
				return facts.Root{}, err
			}
			defer sys.Close(top)
			var l look
			r.Usr = facts.Dir
			r.UsrBin, r.UsrSbin, r.UsrLib = l.kind(top, "bin"), l.kind(top, "sbin"), l.kind(top, "lib")
			r.Loader64 = l.loader(top, "")
			r.OSRelease = r.OSRelease || l.exists(top, "lib/os-release")
			if l.err != nil {
				return facts.Root{}, l.err
			}
		}
	}
	r.Path, r.MountPoint = real, false
	return r, nil
}

// lookAt mounts a volume of the image, attached nowhere, to look at.
func lookAt(image int, v disk.Volume, sector int) (int, error) {
	return loop.Mount(loop.Part{
		File: image, Start: v.Start, Size: v.Size, Sector: sector, Type: string(v.FS), ReadOnly: true, Options: disk.LookOptions(v.FS), Attr: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC,
	})
}

// claim takes a block device that may be written to for nobody else, for as long as
// it is open. The kernel keeps a device from being mounted twice, but not one that
// a loop device shows: two mounts of one file system destroy it.
func claim(n int) error {
	how, err := sys.StatusFlags(n)
	if err != nil || how&unix.O_ACCMODE == unix.O_RDONLY {
		return err
	}
	own, err := sys.Openat(unix.AT_FDCWD, sys.FdPath(n), unix.O_RDWR|unix.O_EXCL|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer sys.Close(own)
	return sys.Dup3(own, n, unix.O_CLOEXEC)
}

// RealFile gives the path of an open file without links; "" if it has none.
func RealFile(n int) (string, error) {
	text, err := sys.PathOf(n)
	if err != nil {
		return "", err
	}
	at, err := sys.Openat2(unix.AT_FDCWD, text, unix.O_PATH, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		if missing(err) {
			return "", nil
		}
		return "", err
	}
	defer sys.Close(at)
	ok, err := sys.Same(at, n)
	if err != nil || !ok {
		return "", err
	}
	return text, nil
}
