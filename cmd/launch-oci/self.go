package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// guard goes on as a copy of this program that nobody can change. A process of
// a container that may trace ours could else open us through /proc/PID/exe,
// keep that, and write to the program when it no longer runs (CVE-2019-5736).
// It takes CAP_SYS_PTRACE in the users that we run as: everybody else is kept
// out by our not being dumpable, so this is done only for such containers.
func guard() error {
	n, err := sys.Openat(unix.AT_FDCWD, self, unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open this program: %w", err)
	}
	defer sys.Close(n)
	if s, err := sys.Seals(n); err == nil && s&unix.F_SEAL_WRITE != 0 {
		return nil
	}
	// What a file is mounted as by itself has no name.
	if name, err := sys.Readlinkat(unix.AT_FDCWD, self); err == nil && name == "/" {
		return nil
	}
	if err := carry(); err != nil {
		return fmt.Errorf("keep what was read: %w", err)
	}
	mount, err := alone()
	if err == nil {
		err = again(mount)
	}
	memory, merr := sealed(n)
	if merr == nil {
		merr = again(memory)
	}
	return fmt.Errorf("protect this program from the container by a mount: %w, and by a copy in memory: %w", err, merr)
}

const self = "/proc/self/exe"

// alone gives a read-only mount of the program alone, which is nowhere and ends
// with who runs it: no byte has to be copied.
func alone() (int, error) {
	n, err := sys.OpenTree(unix.AT_FDCWD, self, unix.OPEN_TREE_CLONE)
	if err != nil {
		return -1, err
	}
	return n, sys.MountSetattr(n, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
}

// again executes the program that the descriptor is.
func again(n int) error {
	out.debug("going on as a copy that can't be changed")
	return sys.Exec(sys.FdPath(n), os.Args, os.Environ())
}

// sealed gives a copy of a file in memory that can't be changed any more.
func sealed(from int) (int, error) {
	n, err := sys.MemfdCreate("launch-oci", unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err == unix.EINVAL {
		n, err = sys.MemfdCreate("launch-oci", unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1, err
	}
	b := make([]byte, 1<<20)
	for at := int64(0); ; {
		got, err := sys.Pread(from, b, at)
		if err != nil {
			return -1, err
		}
		if got == 0 {
			break
		}
		for part := b[:got]; len(part) > 0; {
			put, err := sys.Write(n, part)
			if err != nil {
				return -1, err
			}
			part = part[put:]
		}
		at += int64(got)
	}
	return n, sys.AddSeals(n, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
}
