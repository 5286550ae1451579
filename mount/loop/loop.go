// Package loop makes mounts of the file systems in a disk image.
//
// A part of the image's file becomes a loop device, and that a detached mount.
// The device is told at its birth to go away with its last user (autoclear), so
// there is nothing to undo: whoever is killed, at whatever moment, takes along
// the descriptors, the mount, and with them the device. The kernel's own scan
// for partitions is neither needed nor asked for.
//
// It refuses to know what an image is: which parts there are, package disk has
// found out.
//
// Room: host.
package loop

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Part is a part of a file, and the file system in it.
type Part struct {
	// File is the image, open for writing unless ReadOnly.
	File int
	// Start and Size say where, in bytes; Sector is the size of its sectors, 0
	// for the kernel's choice.
	Start, Size int64
	Sector      int
	// Type is the file system's.
	Type     string
	ReadOnly bool
	// Options are the file system's, KEY or KEY=VALUE.
	Options []string
	// Attr are the mount's MOUNT_ATTR_ flags.
	Attr uint64
}

// The flags of a loop device (linux/loop.h).
const (
	readOnly  = 1
	autoclear = 4
	directIO  = 16
)

// tries is how often somebody else may be faster.
const tries = 64

// Mount gives a mount that is attached nowhere. It goes with its descriptor,
// unless it is attached before, and the loop device with it.
func Mount(p Part) (int, error) {
	fs, err := sys.Fsopen(p.Type)
	if err == unix.ENODEV {
		err = fmt.Errorf("the kernel has no file system %s: %w", p.Type, err)
	}
	if err != nil {
		return -1, err
	}
	defer sys.Close(fs)
	device, name, err := attach(p)
	if err != nil {
		return -1, err
	}
	// From here on the file system keeps it.
	defer sys.Close(device)
	err = sys.FsSet(fs, "source", name)
	if err == nil && p.ReadOnly {
		err = sys.FsFlag(fs, "ro")
	}
	for _, o := range p.Options {
		if err != nil {
			break
		}
		if k, v, ok := strings.Cut(o, "="); ok {
			err = sys.FsSet(fs, k, v)
		} else {
			err = sys.FsFlag(fs, k)
		}
	}
	if err == nil {
		err = sys.FsCreate(fs)
	}
	if err != nil {
		if said := strings.TrimSpace(sys.FsLog(fs)); said != "" {
			err = fmt.Errorf("%w (%s)", err, strings.TrimLeft(said[1:], " "))
		}
		return -1, err
	}
	attr := p.Attr
	if p.ReadOnly {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	return sys.Fsmount(fs, int(attr))
}

// attach gives an open loop device that shows the part, and its path.
func attach(p Part) (device int, name string, err error) {
	control, err := sys.Openat(unix.AT_FDCWD, "/dev/loop-control", unix.O_RDWR, 0)
	if err != nil {
		return -1, "", fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer sys.Close(control)
	how := unix.O_RDWR
	c := &unix.LoopConfig{Fd: uint32(p.File), Size: uint32(p.Sector)}
	c.Info.Offset, c.Info.Sizelimit = uint64(p.Start), uint64(p.Size)
	// The image's pages are not kept twice, where the kernel can do without.
	c.Info.Flags = autoclear | directIO
	if p.ReadOnly {
		how, c.Info.Flags = unix.O_RDONLY, c.Info.Flags|readOnly
	}
	for range tries {
		n, err := sys.LoopFree(control)
		if err != nil {
			return -1, "", fmt.Errorf("find a free loop device: %w", err)
		}
		name = "/dev/loop" + strconv.Itoa(n)
		device, err := sys.Openat(unix.AT_FDCWD, name, how|unix.O_NONBLOCK, 0)
		if err != nil {
			return -1, "", fmt.Errorf("open %s: %w", name, err)
		}
		err = sys.LoopConfigure(device, c)
		if err == nil {
			return device, name, nil
		}
		sys.Close(device)
		if err != unix.EBUSY {
			return -1, "", fmt.Errorf("make %s of a part of the image: %w", name, err)
		}
	}
	return -1, "", fmt.Errorf("find a free loop device: somebody else takes each: %w", unix.EBUSY)
}
