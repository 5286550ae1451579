package disk

import "fmt"

// FS is what a partition holds: a type of file system, as the kernel calls it,
// or one of the words below.
type FS string

// What is no file system that could be mounted.
const (
	NoFS   FS = ""
	LUKS   FS = "crypto_LUKS"
	Verity FS = "verity"
	Swap   FS = "swap"
)

// A mark is a few bytes by which something is known.
type mark struct {
	fs    FS
	at    int64
	bytes string
}

// marks are tried one and all. Ext4's is told from its elders' below.
var marks = [...]mark{
	{"xfs", 0, "XFSB"},
	{"squashfs", 0, "hsqs"},
	{LUKS, 0, "LUKS\xba\xbe"},
	{Verity, 0, "verity\x00\x00"},
	{"erofs", 1024, "\xe2\xe1\xf5\xe0"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"ext4", 1024 + 0x38, "\x53\xef"},
	{Swap, 4086, "SWAPSPACE2"},
	{"iso9660", 32769, "CD001"},
	{"btrfs", 0x10040, "_BHRfS_M"},
}

// mountable are the types that a machine may be on: those whose drivers are
// meant to be shown what others have made, and vfat for the boot partitions.
var mountable = [...]FS{"ext4", "xfs", "btrfs", "f2fs", "squashfs", "erofs", "vfat"}

// probe tells what lies in a part of the image. More than one thing is an
// error: the next reader might see the other.
func (im *imageReader) probe(start, size int64) (found FS, err error) {
	take := func(fs FS) error {
		if found != NoFS {
			return fmt.Errorf("%w: %s and %s", ErrTwice, found, fs)
		}
		found = fs
		return nil
	}
	for _, m := range marks {
		if m.at+int64(len(m.bytes)) > size {
			continue
		}
		b, ok, err := im.at(start+m.at, len(m.bytes))
		if err != nil {
			return NoFS, err
		}
		if !ok || string(b) != m.bytes {
			continue
		}
		if m.fs == "ext4" {
			if m.fs, err = im.ext(start, size); err != nil || m.fs == NoFS {
				return NoFS, err
			}
		}
		if err := take(m.fs); err != nil {
			return NoFS, err
		}
	}
	fat, err := im.fat(start, size)
	if err == nil && fat {
		err = take("vfat")
	}
	return found, err
}

// ext tells ext4 from ext2 and ext3, which have no feature of its own.
func (im *imageReader) ext(start, size int64) (FS, error) {
	const super, compat, incompat, roCompat = 1024, 0x5c, 0x60, 0x64
	if size < super+1024 {
		return NoFS, nil
	}
	b, ok, err := im.at(start+super, 0x68)
	if err != nil || !ok {
		return NoFS, err
	}
	const (
		journal = 0x4
		// What ext3 has: sparse superblocks, large files, (hashed) directories;
		// file types, recovery, meta block groups.
		oldIncompat = 0x2 | 0x4 | 0x10
		oldRo       = 0x1 | 0x2 | 0x4
		device      = 0x8 // the journal of another file system
	)
	in, ro := le.Uint32(b[incompat:]), le.Uint32(b[roCompat:])
	switch {
	case in&device != 0:
		return "jbd", nil
	case in&^uint32(oldIncompat) != 0, ro&^uint32(oldRo) != 0:
		return "ext4", nil
	case le.Uint32(b[compat:])&journal != 0:
		return "ext3", nil
	}
	return "ext2", nil
}

// fat tells whether there is a FAT file system: by its numbers, since the boot
// sector's mark is on every disk, and the words in it are comments.
func (im *imageReader) fat(start, size int64) (bool, error) {
	if size < 512 {
		return false, nil
	}
	b, ok, err := im.at(start, 512)
	if err != nil || !ok || b[510] != 0x55 || b[511] != 0xaa {
		return false, err
	}
	word := string(b[54:59]) == "FAT12" || string(b[54:59]) == "FAT16" || string(b[82:87]) == "FAT32"
	sector, cluster, reserved, fats, media := le.Uint16(b[11:]), b[13], le.Uint16(b[14:]), b[16], b[21]
	switch {
	case !word, sector != 512 && sector != 1024 && sector != 2048 && sector != 4096, cluster == 0 || cluster&(cluster-1) != 0,
		reserved == 0, fats == 0 || fats > 2, media < 0xf0:
		return false, nil
	}
	return true, nil
}

// Options are those that a file system is mounted with. Read-only is more than
// a flag: else the kernel writes all the same, what a journal has. What ext4 does
// about a mistake in it, an image would say itself, and one may want the kernel
// to panic. Shared:
// the same file system may be mounted a second time, of a copy or for
// reading, which XFS refuses unless it is told not to look at its name.
func Options(fs FS, readOnly, shared bool) (list []string) {
	if readOnly {
		switch fs {
		case "ext4", "xfs", "f2fs":
			list = append(list, "norecovery")
		case "btrfs":
			list = append(list, "rescue=nologreplay")
		}
	}
	if fs == "ext4" {
		list = append(list, "errors=remount-ro")
	}
	if fs == "xfs" && shared {
		list = append(list, "nouuid")
	}
	if fs == "vfat" {
		list = append(list, "umask=0077")
	}
	return list
}

// LookOptions are for a look that changes nothing.
func LookOptions(fs FS) []string { return Options(fs, true, true) }
