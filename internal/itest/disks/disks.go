// Package disks makes disk images for tests: partition tables byte by byte, so
// that each can be wrong in just one place, and file systems by their own
// programs. It shares no code with what reads them.
//
// Room: test.
package disks

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unicode/utf16"
)

// The types of partitions that tests use. Root and Usr are those of this
// architecture.
var (
	Root, Usr, RootVerity = native()
)

// Others.
const (
	Home     = "933ac7e1-2eb4-4f13-b844-0e14e2aef915"
	Srv      = "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"
	Var      = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
	Tmp      = "7ec6f557-3bc5-4aca-b293-16ef5df639d1"
	ESP      = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	XBootldr = "bc13c2ff-59e6-4262-a352-b275fd6f7172"
	Swap     = "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"
	Linux    = "0fc63daf-8483-4772-8e79-3d69d8477de4"
	// RISCV is the root of a machine that can't run on any that tests run on.
	RISCV = "72ec70a6-cf74-40e6-bd49-4bda08e8f224"
)

func native() (root, usr, verity string) {
	if runtime.GOARCH == "arm64" {
		return "b921b045-1df0-41c3-af44-4c6f280d3fae", "b0e01050-ee5f-4390-949a-9101b17104e9", "df3300ce-d69f-4c92-978c-9bfb0f38d820"
	}
	return "4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "8484680c-9521-48c6-9c11-b0720656f69e", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"
}

// Flags of partitions.
const (
	Grow     = uint64(1) << 59
	ReadOnly = uint64(1) << 60
	NoAuto   = uint64(1) << 63
)

// Part is a partition.
type Part struct {
	Type, Label string
	Flags       uint64
	Data        []byte
}

// Table is a partition table, of which each number can be another one.
type Table struct {
	Sector       int
	Parts        []Part
	Count, Entry uint32
	// Change is called with the table as it is about to be written, before sums
	// are made: the header and the entries, of the first table and of the copy.
	Change func(header, entries []byte)
	// Broken is called with all of the image at the end.
	Broken func(image []byte)
}

// Align is where partitions begin.
const Align = 64 << 10

func guid(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 {
		panic("no GUID: " + s)
	}
	b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7] = b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]
	return b
}

// GPT gives a disk with a protective MBR, a table and its copy.
func GPT(t Table) []byte {
	le := binary.LittleEndian
	if t.Sector == 0 {
		t.Sector = 512
	}
	if t.Count == 0 {
		t.Count = 128
	}
	if t.Entry == 0 {
		t.Entry = 128
	}
	size := int64(Align)
	var at []int64
	for _, p := range t.Parts {
		at = append(at, size)
		size += (int64(len(p.Data)) + Align - 1) / Align * Align
	}
	table := int64(t.Count) * int64(t.Entry)
	tail := (table+int64(t.Sector)-1)/int64(t.Sector)*int64(t.Sector) + int64(t.Sector)
	size += (tail + 4095) / 4096 * 4096
	disk := make([]byte, size)
	sectors := uint64(size) / uint64(t.Sector)

	disk[446+4] = 0xee
	le.PutUint32(disk[446+8:], 1)
	le.PutUint32(disk[446+12:], uint32(min(sectors-1, 0xffffffff)))
	disk[510], disk[511] = 0x55, 0xaa

	entries := make([]byte, table)
	for i, p := range t.Parts {
		copy(disk[at[i]:], p.Data)
		e := entries[i*int(t.Entry):]
		copy(e, guid(p.Type))
		e[16] = byte(i + 1)
		le.PutUint64(e[32:], uint64(at[i])/uint64(t.Sector))
		le.PutUint64(e[40:], (uint64(at[i])+uint64(len(p.Data)))/uint64(t.Sector)-1)
		le.PutUint64(e[48:], p.Flags)
		for j, u := range utf16.Encode([]rune(p.Label)) {
			le.PutUint16(e[56+2*j:], u)
		}
	}
	put := func(my, other, first uint64) {
		h, e := make([]byte, t.Sector), bytes.Clone(entries)
		copy(h, "EFI PART")
		le.PutUint32(h[8:], 0x10000)
		le.PutUint32(h[12:], 92)
		le.PutUint64(h[24:], my)
		le.PutUint64(h[32:], other)
		le.PutUint64(h[40:], uint64(Align/t.Sector))
		le.PutUint64(h[48:], sectors-uint64(tail)/uint64(t.Sector)-1)
		le.PutUint64(h[72:], first)
		le.PutUint32(h[80:], t.Count)
		le.PutUint32(h[84:], t.Entry)
		if t.Change != nil {
			t.Change(h, e)
		}
		le.PutUint32(h[88:], crc32.ChecksumIEEE(e))
		n := min(le.Uint32(h[12:]), uint32(len(h)))
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
		copy(disk[int64(my)*int64(t.Sector):], h)
		if at := int64(first) * int64(t.Sector); at < size {
			copy(disk[at:], e)
		}
	}
	put(1, sectors-1, 2)
	put(sectors-1, 1, sectors-uint64(tail)/uint64(t.Sector))
	if t.Broken != nil {
		t.Broken(disk)
	}
	return disk
}

// Primary is an entry of an MBR.
type Primary struct {
	Type   byte
	Active bool
	Data   []byte
}

// MBR gives a disk with a boot sector.
func MBR(parts ...Primary) []byte {
	le := binary.LittleEndian
	disk := make([]byte, Align)
	for i, p := range parts {
		e := disk[446+16*i:]
		if p.Active {
			e[0] = 0x80
		}
		e[4] = p.Type
		le.PutUint32(e[8:], uint32(len(disk)/512))
		le.PutUint32(e[12:], uint32(len(p.Data)/512))
		disk = append(disk, p.Data...)
	}
	disk[510], disk[511] = 0x55, 0xaa
	return disk
}

// FS gives a file system of the type with what is in the directory, see File.
func FS(t testing.TB, fstype, dir string, size int64) []byte {
	t.Helper()
	b, err := os.ReadFile(File(t, fstype, dir, size))
	if err != nil {
		t.Fatal(err)
	}
	return append(b, make([]byte, -len(b)&4095)...)
}

// File gives the path of a file that holds a file system of the type with what
// is in the directory. It skips the test where the program for that or the
// kernel's driver is missing.
func File(t testing.TB, fstype, dir string, size int64) string {
	t.Helper()
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(known), "\t"+fstype+"\n") {
		t.Skipf("the kernel has no %s", fstype)
	}
	file := filepath.Join(t.TempDir(), "fs")
	var cmd []string
	switch fstype {
	case "ext4":
		cmd = []string{"mkfs.ext4", "-q", "-b", "4096", "-d", dir, file}
	case "btrfs":
		cmd = []string{"mkfs.btrfs", "-q", "--rootdir", dir, file}
	case "squashfs":
		cmd = []string{"mksquashfs", dir, file, "-noappend", "-quiet", "-no-progress"}
	case "erofs":
		cmd = []string{"mkfs.erofs", file, dir}
	case "xfs":
		cmd = []string{"mkfs.xfs", "-q", file}
	default:
		t.Fatalf("no program for %s", fstype)
	}
	if _, err := exec.LookPath(cmd[0]); err != nil {
		t.Skipf("needs %s", cmd[0])
	}
	if fstype != "squashfs" && fstype != "erofs" {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(file, size); err != nil {
			t.Fatal(err)
		}
	}
	run := func(argv ...string) {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", argv, err, out)
		}
	}
	run(cmd...)
	if fstype == "xfs" { // its mkfs takes no directory
		at := t.TempDir()
		run("mount", "-o", "loop", file, at)
		out, err := exec.Command("cp", "-a", dir+"/.", at).CombinedOutput()
		run("umount", at)
		if err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	return file
}

// Fake gives something that looks like a file system of the type, and holds
// nothing.
func Fake(fstype string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 128<<10)
	switch fstype {
	case "ext2", "ext3", "ext4", "jbd":
		copy(b[1024+0x38:], "\x53\xef")
		if fstype == "ext4" {
			le.PutUint32(b[1024+0x60:], 0x40) // extents
		}
		if fstype == "ext3" {
			le.PutUint32(b[1024+0x5c:], 4)
		}
		if fstype == "jbd" {
			le.PutUint32(b[1024+0x60:], 8)
		}
	case "xfs":
		copy(b, "XFSB")
	case "squashfs":
		copy(b, "hsqs")
	case "erofs":
		copy(b[1024:], "\xe2\xe1\xf5\xe0")
	case "f2fs":
		copy(b[1024:], "\x10\x20\xf5\xf2")
	case "btrfs":
		copy(b[0x10040:], "_BHRfS_M")
	case "vfat":
		copy(b, FAT())
	case "crypto_LUKS":
		copy(b, "LUKS\xba\xbe")
	case "verity":
		copy(b, "verity\x00\x00")
	case "swap":
		copy(b[4086:], "SWAPSPACE2")
	case "iso9660":
		copy(b[32769:], "CD001")
	case "":
	default:
		panic(fmt.Sprintf("no magic for %s", fstype))
	}
	return b
}

// FAT gives an empty FAT file system.
func FAT() []byte {
	le := binary.LittleEndian
	b := make([]byte, 128<<10)
	copy(b, "\xeb\x3c\x90mkfs.fat")
	le.PutUint16(b[11:], 512)
	b[13] = 1
	le.PutUint16(b[14:], 1)
	b[16] = 2
	le.PutUint16(b[17:], 512)
	le.PutUint16(b[19:], uint16(len(b)/512))
	b[21] = 0xf8
	le.PutUint16(b[22:], 2)
	b[36], b[38] = 0x80, 0x29
	copy(b[43:], "NO NAME    FAT12   ")
	b[510], b[511] = 0x55, 0xaa
	for _, at := range []int{512, 512 + 1024} {
		copy(b[at:], "\xf8\xff\xff")
	}
	return b
}
