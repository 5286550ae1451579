// Package snapshot reads the mounts of live namespaces and makes such trees
// again, in namespaces of their own.
//
// What it guarantees: reading changes nothing and follows no link of the tree
// it reads. What is made is made in namespaces that no process is in, and only
// a complete tree is given out; when something fails, all of it is gone and no
// mount of the caller's has changed. A tree's outside is what the Policy says,
// whatever the tree says. Nothing is made in a file system that isn't new.
//
// It refuses to know what a machine is, and what is in files.
//
// Room: host.
package snapshot

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/tree"
	"launch/userns"
)

// maxTable is how long a mount table may be, in bytes.
const maxTable = 64 << 20

// Read gives the mounts of the mount namespaces of processes, each namespace
// once, in the order of the processes. The mounts of the caller's own
// namespace are what is outside.
func Read(pids []int) (*tree.File, error) {
	var tables [][]tree.Row
	var around tree.Around
	have := map[string]bool{}
	for i, pid := range pids {
		proc, err := sys.Openat(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid), unix.O_PATH|unix.O_DIRECTORY, 0)
		if i > 0 && err == unix.ENOENT {
			continue // it is gone
		}
		if err != nil {
			return nil, fmt.Errorf("find process %d: %w", pid, err)
		}
		rows, name, err := read(proc, have)
		if err == nil && i == 0 {
			around.Users, err = usersOf(proc)
		}
		sys.Close(proc)
		if i > 0 && (err == unix.ENOENT || err == unix.ESRCH) {
			continue // it is gone
		}
		if err != nil {
			return nil, fmt.Errorf("read the mounts of process %d: %w", pid, err)
		}
		if rows != nil {
			have[name] = true
			tables = append(tables, rows)
		}
	}
	if len(tables) == 0 {
		return nil, errors.New("there is no process whose mounts could be read")
	}
	own, err := sys.Readlinkat(unix.AT_FDCWD, "/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("find our own mount namespace: %w", err)
	}
	if !have[own] {
		if around.Devices, around.Groups, err = caller("/proc/thread-self"); err != nil {
			return nil, err
		}
	}
	return tree.Build(tables, around)
}

// Processes gives the processes that are in the pid namespace of a machine's
// first one, which comes first.
func Processes(leader int) (pids []int, err error) {
	want, err := sys.Readlinkat(unix.AT_FDCWD, fmt.Sprintf("/proc/%d/ns/pid", leader))
	if err != nil {
		return nil, fmt.Errorf("find process %d: %w", leader, err)
	}
	n, err := sys.Openat(unix.AT_FDCWD, "/proc", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	names, err := sys.Names(n)
	if err != nil {
		return nil, fmt.Errorf("list /proc: %w", err)
	}
	pids = []int{leader}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || pid == leader {
			continue
		}
		// One that is gone meanwhile has no namespace.
		if ns, err := sys.Readlinkat(n, name+"/ns/pid"); err == nil && ns == want {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids[1:])
	return pids, nil
}

// caller gives the file systems and sharing groups of our own namespace: the thread's
// or, where that has another already, the process's.
func caller(who string) (devices, groups map[uint64]bool, err error) {
	text, err := sys.ReadFile(unix.AT_FDCWD, who+"/mountinfo", maxTable)
	if err != nil {
		return nil, nil, fmt.Errorf("read our own mounts, %s/mountinfo: %w", who, err)
	}
	rows, err := tree.ParseMountinfo(string(text))
	if err != nil {
		return nil, nil, err
	}
	devices, groups = map[uint64]bool{}, map[uint64]bool{}
	for _, r := range rows {
		devices[r.Dev] = true
		if r.Peers != 0 {
			groups[r.Peers] = true
		}
	}
	return devices, groups, nil
}

// usersOf gives the user map of a process, or nothing if it has the users that
// we have.
func usersOf(proc int) (userns.Map, error) {
	theirs, err := sys.Readlinkat(proc, "ns/user")
	if err != nil {
		return nil, fmt.Errorf("find its user namespace: %w", err)
	}
	ours, err := sys.Readlinkat(unix.AT_FDCWD, "/proc/thread-self/ns/user")
	if err != nil || ours == theirs {
		return nil, err
	}
	text, err := sys.ReadFile(proc, "uid_map", 1<<16)
	if err != nil {
		return nil, fmt.Errorf("read its user map: %w", err)
	}
	return userns.ParseMap(string(text))
}

// table gives the mounts of the thread's namespace, and of proc's, which is a
// process or thread there, below /proc.
func table(l sys.Locked, proc int) ([]tree.Row, error) {
	rows, err := stat(l)
	if err != unix.ENOSYS && !errors.Is(err, tree.ErrOld) {
		return rows, err
	}
	text, err := sys.ReadFile(proc, "mountinfo", maxTable)
	if err != nil {
		return nil, err
	}
	return tree.ParseMountinfo(string(text))
}

// read gives the mounts of one process, or nothing if the namespace is among
// those that were read.
func read(proc int, have map[string]bool) (rows []tree.Row, name string, err error) {
	if name, err = sys.Readlinkat(proc, "ns/mnt"); err != nil || have[name] {
		return nil, name, err
	}
	ns, err := sys.Openat(proc, "ns/mnt", unix.O_RDONLY, 0)
	if err != nil {
		return nil, name, err
	}
	defer sys.Close(ns)
	root, err := sys.Openat(proc, "root", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, name, err
	}
	defer sys.Close(root)
	// The kernel tells of mounts as the thread that asks could reach them. It
	// must not come back: it has the root of the tree that is read.
	err = sys.Apart(func(l sys.Locked) error {
		if err := sys.Unshare(l, unix.CLONE_FS); err != nil {
			return err
		}
		if err := sys.Setns(l, ns, unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter its mount namespace: %w", err)
		}
		if err := sys.Fchdir(l, root); err != nil {
			return err
		}
		if err := sys.Chroot(l); err != nil {
			return err
		}
		if rows, err = table(l, proc); err != nil {
			return err
		}
		kinds(root, rows)
		return nil
	})
	return rows, name, err
}

// tries is how often mounts are read again that changed meanwhile.
const tries = 8

// stat reads the mounts below the thread's root by listmount and statmount.
func stat(l sys.Locked) ([]tree.Row, error) {
	ids, err := list(l)
	for range tries {
		if err != nil {
			return nil, err
		}
		var rows []tree.Row
		if rows, err = statAll(l, ids); err != nil && err != unix.ENOENT {
			return nil, err
		}
		again, lerr := list(l)
		if err == nil && lerr == nil && slices.Equal(ids, again) {
			return rows, nil
		}
		ids, err = again, lerr
	}
	return nil, errors.New("its mounts change all the time")
}

func list(l sys.Locked) (all []uint64, err error) {
	ids := make([]uint64, 512)
	last := uint64(0)
	for {
		n, err := sys.Listmount(l, last, ids)
		if err != nil {
			return nil, err
		}
		all = append(all, ids[:n]...)
		if n < len(ids) {
			break
		}
		last = ids[n-1]
	}
	// The root itself is not below itself.
	st, err := sys.Statx(unix.AT_FDCWD, "/", statxMntIDUnique)
	if err != nil {
		return nil, err
	}
	for _, id := range all {
		if id == st.Mnt_id {
			return all, nil
		}
	}
	return append([]uint64{st.Mnt_id}, all...), nil
}

const statxMntIDUnique = 0x4000

func statAll(l sys.Locked, ids []uint64) (rows []tree.Row, err error) {
	b := make([]byte, 4096)
	for _, id := range ids {
		for {
			clear(b)
			err := sys.Statmount(l, id, tree.Wanted, b)
			if err == unix.EOVERFLOW && len(b) < 1<<20 {
				b = make([]byte, 2*len(b))
				continue
			}
			if err != nil {
				return nil, err
			}
			break
		}
		r, err := tree.ParseStatmount(b)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// kinds notes what the roots of mounts are, where they are not hidden.
func kinds(root int, rows []tree.Row) {
	for i := range rows {
		r := &rows[i]
		// Nothing is followed, and no automount is set off.
		n, err := sys.Openat2(root, r.Point, unix.O_PATH|unix.O_NOFOLLOW, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			continue
		}
		unique, err := sys.Statx(n, "", unix.STATX_TYPE|statxMntIDUnique)
		old, err2 := sys.Statx(n, "", unix.STATX_MNT_ID)
		sys.Close(n)
		if err != nil || err2 != nil || unique.Mnt_id != r.ID && old.Mnt_id != r.ID {
			continue
		}
		if r.Kind = tree.Node; unique.Mode&unix.S_IFMT == unix.S_IFDIR {
			r.Kind = tree.Dir
		}
	}
}
