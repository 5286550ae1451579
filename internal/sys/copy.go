package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Linkat gives a file another name. Nothing is followed.
func Linkat(olddir int, old string, newdir int, new string) error {
	o, err := str(old)
	if err != nil {
		return err
	}
	p, err := str(new)
	if err != nil {
		return err
	}
	_, err = call("linkat", unix.SYS_LINKAT, fd(olddir), uintptr(unsafe.Pointer(o)), fd(newdir), uintptr(unsafe.Pointer(p)), 0, 0)
	return err
}

// Utimensat sets when path below dirfd was read and written, without following
// a link. path "" means dirfd itself, which may not be an O_PATH descriptor.
func Utimensat(dirfd int, path string, read, written unix.StatxTimestamp) error {
	times := [2]unix.Timespec{{Sec: read.Sec, Nsec: int64(read.Nsec)}, {Sec: written.Sec, Nsec: int64(written.Nsec)}}
	if path == "" {
		_, err := call("utimensat", unix.SYS_UTIMENSAT, fd(dirfd), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		return err
	}
	_, err := pathCall("utimensat", unix.SYS_UTIMENSAT, dirfd, path, uintptr(unsafe.Pointer(&times)), unix.AT_SYMLINK_NOFOLLOW, 0)
	return err
}

// Seek moves to what whence says (SEEK_SET, SEEK_DATA, SEEK_HOLE, …) and gives
// the place; ENXIO says that there is no more data.
func Seek(n int, to int64, whence int) (int64, error) {
	r, err := call("lseek", unix.SYS_LSEEK, fd(n), uintptr(to), uintptr(whence), 0, 0, 0)
	return int64(r), err
}

// Pread reads once, at a place.
func Pread(n int, b []byte, at int64) (int, error) {
	return result(call("pread64", unix.SYS_PREAD64, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0))
}

// Pwrite writes once, at a place.
func Pwrite(n int, b []byte, at int64) (int, error) {
	return result(call("pwrite64", unix.SYS_PWRITE64, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(at), 0, 0))
}

// CopyRange copies a part of one file to the same place in another, inside the
// kernel; 0 is the end of the file.
func CopyRange(from, to int, at, size int64) (int, error) {
	in, out := at, at
	return result(call("copy_file_range", unix.SYS_COPY_FILE_RANGE, fd(from), uintptr(unsafe.Pointer(&in)), fd(to), uintptr(unsafe.Pointer(&out)), uintptr(size), 0))
}

// Clone makes a file share all its blocks with another one (FICLONE).
func Clone(to, from int) error {
	_, err := Ioctl(to, unix.FICLONE, uintptr(from))
	return err
}

// Flistxattr is Listxattr for an open file (not an O_PATH descriptor).
func Flistxattr(n int, b []byte) (int, error) {
	return result(call("flistxattr", unix.SYS_FLISTXATTR, fd(n), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0))
}

// FileFlags gives the flags of chattr(1) of an open file.
func FileFlags(n int) (uint32, error) {
	var flags uint32
	err := IoctlPtr(n, unix.FS_IOC_GETFLAGS, unsafe.Pointer(&flags))
	return flags, err
}

// SetFileFlags sets them.
func SetFileFlags(n int, flags uint32) error {
	return IoctlPtr(n, unix.FS_IOC_SETFLAGS, unsafe.Pointer(&flags))
}

// OFDLock takes (F_RDLCK, F_WRLCK) or changes a lock on a whole open file
// without waiting; EAGAIN or EACCES says that somebody else has one that
// excludes it. See LockFile.
func OFDLock(n int, kind int16) error {
	l := unix.Flock_t{Type: kind, Whence: 0 /* SEEK_SET */}
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_OFD_SETLK, uintptr(unsafe.Pointer(&l)), 0, 0, 0)
	return err
}

// OFDHeld tells whether somebody has a lock that excludes one of that kind.
func OFDHeld(n int, kind int16) (bool, error) {
	l := &unix.Flock_t{Type: kind, Whence: 0 /* SEEK_SET */}
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_OFD_GETLK, uintptr(unsafe.Pointer(l)), 0, 0, 0)
	return l.Type != unix.F_UNLCK, err
}

// OFDLockWait is an OFDLock that waits for those who have it.
func OFDLockWait(n int, kind int16) error {
	l := unix.Flock_t{Type: kind, Whence: 0 /* SEEK_SET */}
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_OFD_SETLKW, uintptr(unsafe.Pointer(&l)), 0, 0, 0)
	return err
}

// The ioctls of btrfs, all of magic number 0x94.
const (
	btrfsSnapCreateV2  = 0x50009417 // _IOW(0x94, 23, 4096 bytes)
	btrfsSnapDestroy   = 0x5000940f // _IOW(0x94, 15, 4096 bytes)
	btrfsSubvolRootref = 0xd000943d // _IOWR(0x94, 61, 4096 bytes)
)

// BtrfsSnapshot makes a writable snapshot of the subvolume whose root
// directory from is, as name below dirfd.
func BtrfsSnapshot(from, dirfd int, name string) error {
	// struct btrfs_ioctl_vol_args_v2: the source, a transaction, flags, four
	// spare words, the name.
	var arg struct {
		fd   int64
		_    [2]uint64
		_    [4]uint64
		name [4040]byte
	}
	if len(name) >= len(arg.name) {
		return unix.ENAMETOOLONG
	}
	arg.fd = int64(from)
	copy(arg.name[:], name)
	return IoctlPtr(dirfd, btrfsSnapCreateV2, unsafe.Pointer(&arg))
}

// BtrfsDestroy removes the subvolume name below dirfd, however full it is;
// ENOTEMPTY says that another subvolume lies in it.
func BtrfsDestroy(dirfd int, name string) error {
	var arg struct { // btrfs_ioctl_vol_args
		fd   int64
		name [4088]byte
	}
	if len(name) >= len(arg.name) {
		return unix.ENAMETOOLONG
	}
	copy(arg.name[:], name)
	return IoctlPtr(dirfd, btrfsSnapDestroy, unsafe.Pointer(&arg))
}

// BtrfsNested tells whether other subvolumes lie in the one that n is of.
func BtrfsNested(n int) (bool, error) {
	var arg struct { // btrfs_ioctl_get_subvol_rootref_args
		first uint64
		refs  [255][2]uint64
		items uint8
		_     [7]byte
	}
	err := IoctlPtr(n, btrfsSubvolRootref, unsafe.Pointer(&arg))
	if err == unix.EOVERFLOW { // more than fit
		return true, nil
	}
	return arg.items > 0, err
}
