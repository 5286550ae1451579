package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fsopen opens a context in which a file system of the type is set up. The
// namespaces of the calling thread decide which proc, sysfs, mqueue or cgroup2
// it will be.
func Fsopen(fstype string) (int, error) {
	p, err := str(fstype)
	if err != nil {
		return -1, err
	}
	return result(call("fsopen", unix.SYS_FSOPEN, uintptr(unsafe.Pointer(p)), unix.FSOPEN_CLOEXEC, 0, 0, 0, 0))
}

func fsconfig(n int, cmd uintptr, key string, value unsafe.Pointer, aux int) error {
	var k *byte
	if key != "" {
		var err error
		if k, err = str(key); err != nil {
			return unix.EINVAL
		}
	}
	_, err := call("fsconfig", unix.SYS_FSCONFIG, fd(n), cmd, uintptr(unsafe.Pointer(k)), uintptr(value), uintptr(aux), 0)
	return err
}

// FsSet sets one option; the value may hold any byte but NUL.
func FsSet(n int, key, value string) error {
	v, err := str(value)
	if err != nil {
		return unix.EINVAL
	}
	return fsconfig(n, unix.FSCONFIG_SET_STRING, key, unsafe.Pointer(v), 0)
}

// FsFlag sets an option that has no value.
func FsFlag(n int, key string) error {
	return fsconfig(n, unix.FSCONFIG_SET_FLAG, key, nil, 0)
}

// FsFd sets an option whose value is a descriptor.
func FsFd(n int, key string, value int) error {
	return fsconfig(n, unix.FSCONFIG_SET_FD, key, nil, value)
}

// FsCreate makes the file system from the options set so far.
func FsCreate(n int) error {
	return fsconfig(n, unix.FSCONFIG_CMD_CREATE, "", nil, 0)
}

// FsLog reads one line of what the kernel has to say about the context; ""
// when there is none.
func FsLog(n int) string {
	b := make([]byte, 512)
	m, err := Read(n, b)
	if err != nil {
		return ""
	}
	return string(b[:m])
}

// Fsmount makes a detached mount with the MOUNT_ATTR_ flags.
func Fsmount(n int, attr int) (int, error) {
	return result(call("fsmount", unix.SYS_FSMOUNT, fd(n), unix.FSMOUNT_CLOEXEC, uintptr(attr), 0, 0, 0))
}

// OpenTree opens path below dirfd; flags may hold OPEN_TREE_CLONE,
// AT_RECURSIVE, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW.
func OpenTree(dirfd int, path string, flags uint) (int, error) {
	return result(pathCall("open_tree", unix.SYS_OPEN_TREE, dirfd, path, uintptr(flags|unix.OPEN_TREE_CLOEXEC), 0, 0))
}

// OpenTreeBare is OpenTree for a clone, of which no mount maps owners, also
// where the original does. ENOSYS: the kernel is older than 6.15.
func OpenTreeBare(dirfd int, path string, flags uint) (int, error) {
	p, err := str(path)
	if err != nil {
		return -1, err
	}
	attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_IDMAP}
	return result(call("open_tree_attr", unix.SYS_OPEN_TREE_ATTR, fd(dirfd), uintptr(unsafe.Pointer(p)), uintptr(flags|unix.OPEN_TREE_CLOEXEC),
		uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0))
}

// MoveMount attaches the mount that from is onto what to is. Both are
// descriptors, no path is looked up.
func MoveMount(from, to int) error {
	var empty byte
	_, err := call("move_mount", unix.SYS_MOVE_MOUNT, fd(from), uintptr(unsafe.Pointer(&empty)), fd(to), uintptr(unsafe.Pointer(&empty)),
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH, 0)
	return err
}

// MountSetattr changes a mount given by descriptor; flags may be
// AT_RECURSIVE.
func MountSetattr(n int, flags uint, attr *unix.MountAttr) error {
	_, err := pathCall("mount_setattr", unix.SYS_MOUNT_SETATTR, n, "",
		uintptr(flags|unix.AT_EMPTY_PATH), uintptr(unsafe.Pointer(attr)), unsafe.Sizeof(*attr))
	return err
}

// PivotRoot makes the mount at newRoot the root of the thread's mount
// namespace, and puts the old one on putOld.
func PivotRoot(newRoot, putOld string) error {
	n, err := str(newRoot)
	if err != nil {
		return err
	}
	o, err := str(putOld)
	if err != nil {
		return err
	}
	_, err = call("pivot_root", unix.SYS_PIVOT_ROOT, uintptr(unsafe.Pointer(n)), uintptr(unsafe.Pointer(o)), 0, 0, 0, 0)
	return err
}

// Umount detaches what is mounted at path (flags as of umount2).
func Umount(path string, flags int) error {
	p, err := str(path)
	if err != nil {
		return err
	}
	_, err = call("umount2", unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(p)), uintptr(flags), 0, 0, 0, 0)
	return err
}

// SetGroup gives the mount that to is the sharing group of the mount that from
// is, and its master. Both are descriptors.
func SetGroup(from, to int) error {
	var empty byte
	_, err := call("move_mount", unix.SYS_MOVE_MOUNT, fd(from), uintptr(unsafe.Pointer(&empty)), fd(to), uintptr(unsafe.Pointer(&empty)),
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH|moveMountSetGroup, 0)
	return err
}

const moveMountSetGroup = 0x100

// Fspick opens the file system of the mount that n is, to change its options.
func Fspick(n int) (int, error) {
	return result(pathCall("fspick", unix.SYS_FSPICK, n, "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH, 0, 0))
}

// FsReconfigure makes a picked file system take the options set so far.
func FsReconfigure(n int) error {
	return fsconfig(n, unix.FSCONFIG_CMD_RECONFIGURE, "", nil, 0)
}

// mntIDReq is the kernel's struct mnt_id_req.
type mntIDReq struct {
	size, _ uint32
	id      uint64
	param   uint64
}

// Listmount gives the ids of the mounts below the thread's root, from the
// smallest above last (Linux 6.8 and newer). It gives how many there are in
// ids.
func Listmount(_ Locked, last uint64, ids []uint64) (int, error) {
	const root = ^uint64(0)
	req := &mntIDReq{size: 24, id: root, param: last}
	n, err := call("listmount", unix.SYS_LISTMOUNT, uintptr(unsafe.Pointer(req)), uintptr(unsafe.Pointer(&ids[0])), uintptr(len(ids)), 0, 0, 0)
	return int(n), err
}

// Statmount writes the parts of struct statmount that mask names into b;
// EOVERFLOW: b is too short (Linux 6.8 and newer).
func Statmount(_ Locked, id, mask uint64, b []byte) error {
	req := &mntIDReq{size: 24, id: id, param: mask}
	_, err := call("statmount", unix.SYS_STATMOUNT, uintptr(unsafe.Pointer(req)), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0, 0, 0)
	return err
}

// Chroot makes the thread's working directory its root.
func Chroot(_ Locked) error {
	dot, err := str(".")
	if err != nil {
		return err
	}
	_, err = call("chroot", unix.SYS_CHROOT, uintptr(unsafe.Pointer(dot)), 0, 0, 0, 0, 0)
	return err
}
