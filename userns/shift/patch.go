package shift

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
	"launch/internal/sys"
)

// Attributes that name users, or that a change of owner removes.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
	// kept holds, while a file is worked on, what the change of owner takes
	// away: two bytes of mode, then the capability. Whoever does an interrupted
	// walk again finds it there.
	kept = "trusted.launch.shift"
)

const special = unix.S_ISUID | unix.S_ISGID

// patch changes one inode, given by a descriptor, O_PATH or not. kind is its
// DT_ type.
func (k *worker) patch(fd int, was id, kind byte) error {
	uid, gid := k.shift|was.uid&low, k.shift|was.gid&low
	var attrs []byte
	if kind != unix.DT_LNK { // links have no mode, and none of these attributes
		var err error
		if attrs, err = k.list(fd); err != nil {
			return fmt.Errorf("list attributes: %w", err)
		}
	}
	rich := len(attrs) > 0 && (has(attrs, aclAccess) || has(attrs, aclDefault) || has(attrs, capability) || has(attrs, kept))
	if rich || was.mode&special != 0 && kind != unix.DT_LNK {
		return k.patchRich(fd, was, uid, gid, attrs)
	}
	if was.uid == uid && was.gid == gid {
		return nil
	}
	return k.chown(fd, uid, gid)
}

func (k *worker) chown(fd int, uid, gid uint32) error {
	err := sys.ChownFd(fd, uid, gid)
	if err == unix.EROFS {
		k.readonly.Add(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	k.changed.Add(1)
	return nil
}

// patchRich is patch for the few inodes that have more than an owner.
func (k *worker) patchRich(fd int, was id, uid, gid uint32, attrs []byte) error {
	path := sys.FdPath(fd)
	for _, name := range [...]string{aclAccess, aclDefault} {
		if !has(attrs, name) {
			continue
		}
		v, err := value(path, name)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		changed, err := shiftACL(v, k.shift)
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		if changed {
			if err := sys.Setxattr(path, name, v); err == unix.EROFS {
				k.readonly.Add(1)
				return nil
			} else if err != nil {
				return fmt.Errorf("write %s: %w", name, err)
			}
		}
	}

	// What the change of owner takes away: from an earlier, interrupted, run,
	// or from now.
	mode, caps := was.mode, []byte(nil)
	noted := false
	if has(attrs, kept) {
		v, err := value(path, kept)
		if err != nil && err != unix.ENODATA {
			return fmt.Errorf("read %s: %w", kept, err)
		}
		if len(v) >= 2 {
			noted = true
			mode |= binary.LittleEndian.Uint16(v) & special
			caps = v[2:]
		}
	}
	if has(attrs, capability) {
		v, err := value(path, capability)
		if err != nil && err != unix.ENODATA {
			return fmt.Errorf("read %s: %w", capability, err)
		}
		if err == nil {
			caps = v
		}
	}
	newCaps, err := shiftCaps(caps, k.shift)
	if err != nil {
		return fmt.Errorf("read %s: %w", capability, err)
	}
	if was.uid == uid && was.gid == gid && !noted && bytes.Equal(caps, newCaps) {
		return nil
	}
	loses := was.mode&unix.S_IFMT == unix.S_IFREG && (mode&special != 0 || len(caps) > 0)
	if loses && !noted {
		v := append(binary.LittleEndian.AppendUint16(nil, mode&special), caps...)
		// A file system without such attributes can't be made proof against
		// a kill; that is no reason not to go on.
		switch err := sys.Setxattr(path, kept, v); err {
		case nil:
			noted = true
		case unix.EROFS:
			k.readonly.Add(1)
			return nil
		case unix.EOPNOTSUPP, unix.EPERM, unix.ENOSPC, unix.EDQUOT, unix.E2BIG:
		default:
			return fmt.Errorf("write %s: %w", kept, err)
		}
	}
	if was.uid != uid || was.gid != gid {
		if err := k.chown(fd, uid, gid); err != nil {
			return err
		}
	}
	if mode&special != 0 {
		if err := sys.Fchmodat(unix.AT_FDCWD, path, uint32(mode&^unix.S_IFMT)); err != nil && err != unix.EROFS {
			return fmt.Errorf("restore the mode: %w", err)
		}
	}
	if len(newCaps) > 0 {
		if err := sys.Setxattr(path, capability, newCaps); err != nil && err != unix.EROFS {
			return fmt.Errorf("write %s: %w", capability, err)
		}
	}
	if noted {
		if err := sys.Removexattr(path, kept); err != nil && err != unix.ENODATA {
			return fmt.Errorf("remove %s: %w", kept, err)
		}
	}
	return nil
}

// list gives the names of the attributes, each with its NUL byte. It is
// called for every inode.
func (k *worker) list(fd int) ([]byte, error) {
	for {
		n, err := -1, error(unix.ENOSYS)
		if !k.old.Load() {
			// listxattrat takes no O_PATH descriptor, so it goes through proc as
			// well, but from where the descriptors are.
			name := append(strconv.AppendInt(k.name[:0], int64(fd), 10), 0)
			if n, err = sys.Listxattrat(k.proc, name, k.attrs); err == unix.ENOSYS {
				k.old.Store(true)
			}
		}
		if err == unix.ENOSYS {
			n, err = sys.Listxattr(sys.FdPath(fd), k.attrs)
		}
		switch {
		case err == nil:
			return k.attrs[:n], nil
		case err == unix.EOPNOTSUPP:
			return nil, nil
		case err == unix.ERANGE && len(k.attrs) < 64<<10: // XATTR_LIST_MAX
			k.attrs = make([]byte, 64<<10)
		default:
			return nil, err
		}
	}
}

// has tells whether a name is in what list gave.
func has(attrs []byte, name string) bool {
	for len(attrs) > 0 {
		end := bytes.IndexByte(attrs, 0)
		if end < 0 {
			return false
		}
		if string(attrs[:end]) == name {
			return true
		}
		attrs = attrs[end+1:]
	}
	return false
}

// value gives an attribute.
func value(path, name string) ([]byte, error) {
	for size := 256; ; size = 64 << 10 { // XATTR_SIZE_MAX
		b := make([]byte, size)
		n, err := sys.Getxattr(path, name, b)
		if err == unix.ERANGE && size < 64<<10 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}

// shiftACL changes the users and groups of a list, as attributes have it: a
// version, then entries of tag, permissions and id.
func shiftACL(v []byte, shift uint32) (changed bool, err error) {
	const version, user, group = 2, 0x02, 0x08
	if len(v) < 4 || len(v)%8 != 4 || binary.LittleEndian.Uint32(v) != version {
		return false, fmt.Errorf("access control list of %d bytes in an unknown form: %w", len(v), unix.EINVAL)
	}
	for e := v[4:]; len(e) > 0; e = e[8:] {
		if tag := binary.LittleEndian.Uint16(e); tag != user && tag != group {
			continue
		}
		old := binary.LittleEndian.Uint32(e[4:])
		if id := shift | old&low; id != old {
			binary.LittleEndian.PutUint32(e[4:], id)
			changed = true
		}
	}
	return changed, nil
}

// shiftCaps binds a file's capabilities to the machine's root: they count
// where the range's first user is root, and for nobody on the host. Range 0
// gives the old form, which belongs to the host's root.
func shiftCaps(v []byte, shift uint32) ([]byte, error) {
	const (
		mask   = 0xff000000 // the version in the first word; the rest are flags
		v2, v3 = 0x02000000, 0x03000000
		size2  = 20
		size3  = 24
	)
	if len(v) == 0 {
		return nil, nil
	}
	var root uint32
	version := uint32(0)
	if len(v) >= 4 {
		version = binary.LittleEndian.Uint32(v) & mask
	}
	switch {
	case version == v2 && len(v) == size2:
	case version == v3 && len(v) == size3:
		root = binary.LittleEndian.Uint32(v[size2:])
	default:
		return v, nil // version 1, or one to come: it names no user that we know of
	}
	root = shift | root&low
	flags := binary.LittleEndian.Uint32(v) &^ mask
	out := append([]byte(nil), v[:size2]...)
	if root == 0 {
		binary.LittleEndian.PutUint32(out, v2|flags)
		return out, nil
	}
	binary.LittleEndian.PutUint32(out, v3|flags)
	return binary.LittleEndian.AppendUint32(out, root), nil
}
