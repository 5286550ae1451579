package sys

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrOther says that a thread still acts for another user: it must not go on.
var ErrOther = errors.New("the thread can't be itself again")

// MakeAs runs f with a thread that makes files for the user and the group, so
// that they are theirs from the first moment: a launcher that is killed between
// mkdir and chown would leave a directory that nobody in the machine may use.
// What the thread may do stays the same. EPERM says that it may not act for
// others; f has not run then. Root's are the launcher's own.
func MakeAs(_ Locked, uid, gid uint32, f func() error) (err error) {
	if uid == 0 {
		return f()
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if _, err := call("capget", unix.SYS_CAPGET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps)), 0, 0, 0, 0); err != nil {
		return err
	}
	own, err := fsIDs()
	if err != nil {
		return err
	}
	defer func() {
		// Whatever f says: a thread that stayed somebody else must not go on.
		if e := setFSIDs(own); e != nil {
			err = fmt.Errorf("%w: %w", ErrOther, e)
		}
	}()
	if err := setFSIDs([2]uint32{uid, gid}); err != nil {
		return err
	}
	// Who acts for another user loses what the kernel allows root with files.
	if _, err := call("capset", unix.SYS_CAPSET, uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&caps)), 0, 0, 0, 0); err != nil {
		return err
	}
	return f()
}

// setFSIDs sets the user and the group that files are made for. The kernel
// reports no errors: it must be asked what came of it.
func setFSIDs(ids [2]uint32) error {
	for i, nr := range [...]uintptr{unix.SYS_SETFSUID, unix.SYS_SETFSGID} {
		if _, err := call(fsCalls[i], nr, uintptr(ids[i]), 0, 0, 0, 0, 0); err != nil {
			return err
		}
	}
	is, err := fsIDs()
	if err == nil && is != ids {
		err = unix.EPERM
	}
	return err
}

// fsIDs asks for them, by setting what is no id and therefore changes nothing.
func fsIDs() (ids [2]uint32, err error) {
	for i, nr := range [...]uintptr{unix.SYS_SETFSUID, unix.SYS_SETFSGID} {
		is, err := call(fsCalls[i], nr, uintptr(^uint32(0)), 0, 0, 0, 0, 0)
		if err != nil {
			return ids, err
		}
		ids[i] = uint32(is)
	}
	return ids, nil
}

var fsCalls = [...]string{"setfsuid", "setfsgid"}

// LinkFile gives an open file a name. It fails with ENOENT where the caller may
// not (CAP_DAC_READ_SEARCH).
func LinkFile(n, dirfd int, path string) error {
	p, err := str(path)
	if err != nil {
		return err
	}
	empty := new(byte)
	_, err = call("linkat", unix.SYS_LINKAT, fd(n), uintptr(unsafe.Pointer(empty)), fd(dirfd), uintptr(unsafe.Pointer(p)), unix.AT_EMPTY_PATH, 0)
	return err
}

// Borrowed reports whether this program has the rights of its file's owner or group,
// since the file is set-user-ID or set-group-ID: then what it is told comes from
// somebody who doesn't have them.
func Borrowed() bool {
	return unix.Getuid() != unix.Geteuid() || unix.Getgid() != unix.Getegid()
}
