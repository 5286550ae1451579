package disk_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"slices"
	"strings"
	"testing"

	"launch/internal/disk"
	"launch/internal/itest/disks"
)

const arch = runtime.GOARCH

var le = binary.LittleEndian

func read(b []byte) (*disk.Image, error) { return disk.Read(bytes.NewReader(b), int64(len(b))) }

// volumes reads an image and says in a line what a machine would get.
func volumes(b []byte, policy string, checked bool) string {
	im, err := read(b)
	if err != nil {
		return "unreadable: " + err.Error()
	}
	var p disk.Policy
	if policy != "" {
		if p, err = disk.ParsePolicy(policy); err != nil {
			return "policy: " + err.Error()
		}
	}
	list, err := im.Choose(arch, p, checked)
	if err != nil {
		return "refused: " + err.Error()
	}
	var words []string
	for _, v := range list {
		w := fmt.Sprintf("%s=%d:%s", v.Use, v.Number, v.FS)
		if v.ReadOnly {
			w += ":ro"
		}
		words = append(words, w)
	}
	return strings.Join(words, " ")
}

func part(kind, fs string) disks.Part { return disks.Part{Type: kind, Data: disks.Fake(fs)} }

func labelled(p disks.Part, label string) disks.Part {
	p.Label = label
	return p
}

func flagged(p disks.Part, flags uint64) disks.Part {
	p.Flags = flags
	return p
}

func gpt(parts ...disks.Part) []byte { return disks.GPT(disks.Table{Parts: parts}) }

// TestVolumes: what of an image a machine gets.
func TestVolumes(t *testing.T) {
	root, usr := part(disks.Root, "ext4"), part(disks.Usr, "erofs")
	verity := part(disks.RootVerity, "verity")
	whole := []disks.Part{part(disks.ESP, "vfat"), part(disks.Swap, "swap"), part(disks.Tmp, "xfs"), part(disks.Var, "ext4"), part(disks.Srv, "squashfs"),
		part(disks.Home, "btrfs"), part(disks.XBootldr, "vfat"), root}
	for _, c := range []struct {
		name, policy string
		image        []byte
		checked      bool
		want         string
	}{
		{name: "bare ext4", image: disks.Fake("ext4"), want: "root=0:ext4"},
		{name: "bare squashfs", image: disks.Fake("squashfs"), want: "root=0:squashfs:ro"},
		{name: "bare btrfs", image: disks.Fake("btrfs"), want: "root=0:btrfs"},
		{name: "bare f2fs", image: disks.Fake("f2fs"), want: "root=0:f2fs"},
		{name: "bare vfat", image: disks.Fake("vfat"), want: "root=0:vfat"},
		{name: "bare ext3", image: disks.Fake("ext3"), want: "refused: its root is ext3, and no file system that a machine can be on"},
		{name: "bare ext2", image: disks.Fake("ext2"), want: "refused: its root is ext2, and no file system that a machine can be on"},
		{name: "a journal", image: disks.Fake("jbd"), want: "refused: its root is jbd, and no file system that a machine can be on"},
		{name: "bare LUKS", image: disks.Fake("crypto_LUKS"), want: "refused: its root is encrypted, which launch can't open"},
		{name: "nothing", image: disks.Fake(""), want: "unreadable: it holds no partition table and no file system that is known here"},
		{name: "empty", want: "unreadable: it holds no partition table and no file system that is known here"},
		{name: "boot sector left over", image: disks.MBR(disks.Primary{Type: 7, Data: disks.Fake("")}), want: "refused: it has no partition for the root of a machine"},

		{name: "whole", image: gpt(whole...), want: "root=8:ext4 home=6:btrfs srv=5:squashfs:ro var=4:ext4 tmp=3:xfs xbootldr=7:vfat esp=1:vfat"},
		{name: "no copy", image: disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { clear(b[len(b)-512:]) }}), want: "root=1:ext4"},
		{name: "only the copy", image: disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { clear(b[512:1024]) }}), want: "root=1:ext4"},
		{name: "entries damaged", image: disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { b[1024+17]++ }}), want: "root=1:ext4"},
		{name: "4096", image: disks.GPT(disks.Table{Sector: 4096, Parts: []disks.Part{root}}), want: "root=1:ext4"},
		{name: "2048", image: disks.GPT(disks.Table{Sector: 2048, Parts: []disks.Part{root}}), want: "root=1:ext4"},
		{name: "1024, copy", image: disks.GPT(disks.Table{Sector: 1024, Parts: []disks.Part{root}, Broken: func(b []byte) { clear(b[1024:2048]) }}), want: "root=1:ext4"},
		{name: "bigger entries", image: disks.GPT(disks.Table{Entry: 256, Count: 16, Parts: []disks.Part{part(disks.Home, "ext4"), root}}), want: "root=2:ext4 home=1:ext4"},
		{name: "usr alone", image: gpt(usr), want: "usr=1:erofs:ro"},
		{name: "root and usr", image: gpt(usr, root), want: "root=2:ext4 usr=1:erofs:ro"},
		{name: "marked read-only", image: gpt(flagged(root, disks.ReadOnly)), want: "root=1:ext4:ro"},
		{name: "not automatic", image: gpt(flagged(root, disks.NoAuto), root), want: "root=2:ext4"},
		{name: "none automatic", image: gpt(flagged(root, disks.NoAuto)), want: "refused: it has no partition for the root of a machine"},
		{name: "boot not automatic", image: gpt(root, flagged(part(disks.ESP, "vfat"), disks.NoAuto), flagged(part(disks.XBootldr, "vfat"), disks.NoAuto)), want: "root=1:ext4 esp=2:vfat"},
		{name: "newest", image: gpt(labelled(root, "os_9"), labelled(root, "os_10"), labelled(root, "os_10~rc1")), want: "root=2:ext4"},
		{name: "equal", image: gpt(labelled(root, "os"), labelled(root, "os")), want: "root=1:ext4"},
		{name: "first home", image: gpt(root, labelled(part(disks.Home, "ext4"), "1"), labelled(part(disks.Home, "xfs"), "2")), want: "root=1:ext4 home=2:ext4"},
		{name: "another architecture", image: gpt(part(disks.RISCV, "ext4")), want: "root=1:ext4"},
		{name: "this architecture", image: gpt(labelled(part(disks.RISCV, "ext4"), "2"), labelled(root, "1")), want: "root=2:ext4"},
		{name: "usr of another", image: gpt(part(disks.RISCV, "ext4"), usr), want: "root=1:ext4"},
		{name: "generic", image: gpt(part(disks.Linux, "xfs"), part(disks.Home, "ext4")), want: "root=1:xfs home=2:ext4"},
		{name: "two generic", image: gpt(part(disks.Linux, "xfs"), part(disks.Linux, "ext4")), want: "refused: it has several partitions that could be the root, and says of none that it is"},
		{name: "generic beside root", image: gpt(part(disks.Linux, "xfs"), part(disks.Linux, "ext4"), root), want: "root=3:ext4"},
		{name: "home alone", image: gpt(part(disks.Home, "ext4")), want: "refused: it has no partition for the root of a machine"},
		{name: "unknown partition", image: gpt(disks.Part{Type: "00000000-0000-0000-0000-000000000001", Data: disks.Fake("ext4")}, root), want: "root=2:ext4"},
		{name: "root of nothing", image: gpt(part(disks.Root, "")), want: "refused: its root holds no file system that is known here"},
		{name: "root of swap", image: gpt(part(disks.Root, "swap")), want: "refused: its root is swap, and no file system that a machine can be on"},
		{name: "home of ISO", image: gpt(root, part(disks.Home, "iso9660")), want: "refused: its home is iso9660, and no file system that a machine can be on"},

		{name: "MBR", image: disks.MBR(disks.Primary{Type: 0x0c, Data: disks.Fake("vfat")}, disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")}), want: "root=2:ext4"},
		{name: "MBR, not bootable", image: disks.MBR(disks.Primary{Type: 0x83, Data: disks.Fake("ext4")}), want: "refused: it has no partition for the root of a machine"},
		{name: "MBR, two", image: disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")}, disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")}),
			want: "refused: it has several partitions that could be the root, and says of none that it is"},
		{name: "MBR, boot", image: disks.MBR(disks.Primary{Type: 0xea, Data: disks.Fake("vfat")}, disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")}), want: "root=2:ext4 xbootldr=1:vfat"},

		{name: "verity", image: gpt(root, verity), want: "refused: its root is protected by Verity, which launch can't check"},
		{name: "verity, allowed without", image: gpt(root, verity), policy: "root=unprotected", want: "root=1:ext4"},
		{name: "verity, any", image: gpt(root, verity), policy: "*", want: "refused: its root is protected by Verity, which launch can't check"},
		{name: "verity of another", image: gpt(part(disks.RISCV, "ext4"), verity), want: "root=1:ext4"},
		{name: "a hash beside it", image: disks.Fake("ext4"), checked: true, want: "refused: its root is protected by Verity, which launch can't check"},
		{name: "a hash beside it, no matter", image: disks.Fake("ext4"), checked: true, policy: "root=unprotected", want: "root=0:ext4"},
		{name: "encrypted", image: gpt(part(disks.Root, "crypto_LUKS")), want: "refused: its root is encrypted, which launch can't open"},
		{name: "encrypted home, left out", image: gpt(root, part(disks.Home, "crypto_LUKS")), policy: "root=open:home=unprotected+unused", want: "root=1:ext4"},
		{name: "encrypted home, forbidden", image: gpt(root, part(disks.Home, "crypto_LUKS")), policy: "root=open:home=unprotected", want: "refused: the image policy forbids it: its home is encrypted"},
		{name: "encrypted boot", image: gpt(root, part(disks.ESP, "crypto_LUKS")), want: "refused: the image policy forbids it: its esp is encrypted"},
		{name: "must be verified", image: gpt(root), policy: "root=verity", want: "refused: the image policy forbids it: its root is not protected"},
		{name: "must not be there", image: gpt(whole...), policy: "root=unprotected:home=absent", want: "refused: the image policy forbids it: its home is there"},
		{name: "not named", image: gpt(whole...), policy: "root=unprotected", want: "root=8:ext4"},
		{name: "must be there", image: gpt(root), policy: "root=open:home=unprotected", want: "refused: the image policy forbids it: its home is missing"},
		{name: "root left out", image: gpt(root), policy: "-", want: "refused: it has no partition for the root of a machine"},
		{name: "root forbidden", image: gpt(root), policy: "~", want: "refused: the image policy forbids it: its root is there"},
		{name: "swap forbidden", image: gpt(root, part(disks.Swap, "swap")), policy: "root=open:swap=absent", want: "refused: the image policy forbids it: its swap is there"},
		{name: "must be read-only", image: gpt(root), policy: "root=unprotected+read-only-on", want: "refused: the image policy forbids it: its root is not marked as read-only"},
		{name: "must not be read-only", image: gpt(flagged(root, disks.ReadOnly)), policy: "root=read-only-off", want: "refused: the image policy forbids it: its root is marked as read-only"},
		{name: "must grow", image: gpt(root), policy: "root=growfs-on", want: "refused: the image policy forbids it: its root is not marked to grow"},
		{name: "must not grow", image: gpt(flagged(root, disks.Grow)), policy: "root=growfs-off", want: "refused: the image policy forbids it: its root is marked to grow"},
		{name: "a default", image: gpt(root, part(disks.Home, "ext4")), policy: "=open", want: "root=1:ext4 home=2:ext4"},
	} {
		if got := volumes(c.image, c.policy, c.checked); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestHostile: images that mean harm, or that somebody damaged.
func TestHostile(t *testing.T) {
	root, home := part(disks.Root, "ext4"), part(disks.Home, "ext4")
	both := func(change func(h, e []byte)) []byte {
		return disks.GPT(disks.Table{Parts: []disks.Part{root, home}, Change: change})
	}
	h64 := func(at int, v uint64) []byte { return both(func(h, _ []byte) { le.PutUint64(h[at:], v) }) }
	h32 := func(at int, v uint32) []byte { return both(func(h, _ []byte) { le.PutUint32(h[at:], v) }) }
	e64 := func(at int, v uint64) []byte { return both(func(_, e []byte) { le.PutUint64(e[at:], v) }) }
	good := gpt(root, home)
	twice := disks.Fake("ext4")
	copy(twice, "XFSB")
	onGPT := gpt(root, home)
	copy(onGPT[0x10040:], "_BHRfS_M") // the first partition begins there: what is read as a whole is another thing
	const max = ^uint64(0)
	const entry = 128
	for _, c := range []struct {
		name  string
		image []byte
		want  string // what the error says
	}{
		{"cut in the last partition", good[:len(good)-128<<10], "its GPT is for a disk of at least"},
		{"cut in the first partition", good[:100<<10], "its GPT is for a disk of at least"},
		{"cut in the table", good[:2048], "its GPT is for a disk of at least"},
		{"cut behind the boot sector", good[:512], "it says that it has a GPT, and that is not there"},
		{"cut in the boot sector", good[:511], "no partition table and no file system"},
		{"both headers gone", disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { clear(b[512:1024]); clear(b[len(b)-512:]) }}), "it says that it has a GPT, and that is not there"},
		{"sums of both headers wrong", disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { b[512+60]++; b[len(b)-512+60]++ }}), "it says that it has a GPT, and that is not there"},
		{"protective entry gone", disks.GPT(disks.Table{Parts: []disks.Part{root}, Broken: func(b []byte) { b[446+4] = 0 }}), "no partition table and no file system"},
		{"a header of 4 GiB", h32(12, 0xffffffff), "it says that it has a GPT, and that is not there"},
		{"a header too short for itself", h32(12, 20), "it says that it has a GPT, and that is not there"},
		{"another revision", h32(8, 0x20000), "it says that it has a GPT, and that is not there"},
		{"a header that lies elsewhere", h64(24, 5), "it says that it has a GPT, and that is not there"},
		{"entries at the end of the world", h64(72, max), "the entries of its GPT lie outside"},
		{"entries behind the end", h64(72, uint64(len(good))/512-1), "the entries of its GPT lie outside"},
		{"entries in the boot sector", h64(72, 0), "the entries of its GPT lie outside"},
		{"four thousand million entries", h32(80, 0xffffffff), "which nobody needs"},
		{"no entries", h32(80, 0), "which nobody needs"},
		{"entries of no bytes", h32(84, 0), "which nobody needs"},
		{"entries of 2 GiB", h32(84, 1<<31), "which nobody needs"},
		{"entries whose product is 0 in 32 bits", both(func(h, _ []byte) { le.PutUint32(h[80:], 1<<16); le.PutUint32(h[84:], 1<<16) }), "which nobody needs"},
		{"entries of odd sizes", h32(84, 129), "which nobody needs"},
		{"a last sector that is none", h64(48, max), "its GPT is for a disk of at least"},
		{"a last sector before the first", h64(40, uint64(len(good))/512), "its GPT is for a disk of at least"},
		{"a partition at the end of the world", e64(32, max), "partition 1 lies outside"},
		{"a partition that ends there", e64(40, max), "partition 1 lies outside"},
		{"a partition that wraps around", both(func(_, e []byte) { le.PutUint64(e[32:], 1<<63); le.PutUint64(e[40:], 1<<63+8) }), "partition 1 lies outside"},
		{"a partition that ends before it begins", e64(40, disks.Align/512-1), "partition 1 lies outside"},
		{"a partition over the table", e64(32, 1), "partition 1 lies outside"},
		{"partitions that overlap", e64(entry+32, disks.Align/512+1), "partitions 1 and 2 overlap"},
		{"a partition in another", both(func(_, e []byte) { copy(e[entry+32:entry+48], e[32:48]) }), "partitions 1 and 2 overlap"},
		{"two file systems at once", twice, "it is two things at once: xfs and ext4"},
		{"a file system over a table", onGPT, "it is two things at once"},
		{"two file systems in a partition", gpt(disks.Part{Type: disks.Root, Data: twice}), "partition 1: it is two things at once: xfs and ext4"},
		{"an MBR entry behind the end", disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")})[:disks.Align+512], "partition 1 lies outside"},
		{"MBR entries that overlap", func() []byte {
			b := disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")}, disks.Primary{Type: 0x83, Data: disks.Fake("xfs")})
			copy(b[446+16+8:446+16+12], b[446+8:446+12])
			return b
		}(), "partitions 1 and 2 overlap"},
		{"an MBR entry at the boot sector", func() []byte {
			b := disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: disks.Fake("ext4")})
			le.PutUint32(b[446+8:], 0)
			return b
		}(), "partition 1 lies outside"},
	} {
		if im, err := read(c.image); err == nil {
			t.Errorf("%s: taken: %+v", c.name, im)
		} else if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %s", c.name, err, c.want)
		}
	}
	if n := len(good); n > 1<<20 {
		t.Errorf("images of %d bytes make this slow", n)
	}
}

// TestLabels: a label can be anything, and is shown on terminals.
func TestLabels(t *testing.T) {
	im, err := read(gpt(labelled(part(disks.Root, "ext4"), "a\x1b[31m\u009bé\U0001f600")))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := im.Parts[0].Label, "a?[31m?é??"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// failing is an image whose disk is broken.
type failing struct{ after int64 }

var errDisk = errors.New("bad disk")

func (f failing) ReadAt(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > f.after {
		return 0, errDisk
	}
	return len(b), nil
}

// TestBadDisk: what can't be read is an error, and nothing else.
func TestBadDisk(t *testing.T) {
	for _, after := range []int64{0, 1024, 2048, 40000} {
		if _, err := disk.Read(failing{after}, 1<<20); !errors.Is(err, errDisk) {
			t.Errorf("bad after %d: %v", after, err)
		}
	}
}

// TestNewer has the specification's own order.
func TestNewer(t *testing.T) {
	// Each is newer than those before.
	order := strings.Fields("~ ~a . a 9 10 122 122.1 123~rc1-1 123 123-a 123-a.1 123-1 123-1.1 123^post1 123.a-1 123.1-1 123a-1 124-1")
	order = slices.DeleteFunc(order, func(s string) bool { return s == "." })
	for i, a := range order {
		for j, b := range order {
			if got := disk.Newer(a, b); got != (i > j) {
				t.Errorf("%s newer than %s: %v", a, b, got)
			}
		}
	}
	for _, same := range [][2]string{{"", ""}, {"_", ""}, {"123", "0123"}, {"a_b", "a+b"}, {"0.1", "00.01"}} {
		if disk.Newer(same[0], same[1]) || disk.Newer(same[1], same[0]) {
			t.Errorf("%q and %q are not the same", same[0], same[1])
		}
	}
}

// TestPolicies: what is no policy.
func TestPolicies(t *testing.T) {
	for _, bad := range []string{"frob", "root", "root=frob", "frob=open", "root=open:root=open", "=open:=absent", "root=", "root=open+"} {
		if _, err := disk.ParsePolicy(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// beginning is the beginning of an image of some size, in which nothing follows.
type beginning struct {
	b    []byte
	size int64
}

func (r beginning) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(b)) > r.size {
		panic("read behind the end")
	}
	clear(b)
	if off < int64(len(r.b)) {
		copy(b, r.b[off:])
	}
	return len(b), nil
}

// FuzzRead: an image can be anything. What is taken lies in the image, and
// nothing overlaps.
func FuzzRead(f *testing.F) {
	add := func(b []byte) { f.Add(b[:min(len(b), 4096)], int64(len(b))) }
	root := part(disks.Root, "squashfs")
	for _, sector := range []int{512, 1024} {
		add(disks.GPT(disks.Table{Sector: sector, Count: 8, Parts: []disks.Part{labelled(root, "a_1"), {Type: disks.Home, Data: root.Data}}}))
	}
	add(disks.MBR(disks.Primary{Type: 0x83, Active: true, Data: root.Data}, disks.Primary{Type: 0xea, Data: root.Data}))
	for _, fs := range []string{"ext4", "ext3", "vfat", "erofs", "xfs", "crypto_LUKS"} {
		add(disks.Fake(fs))
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		if size < int64(len(b)) || size > 1<<62 {
			t.Skip()
		}
		b = bytes.Clone(b)
		// Sums that are right let it get further than chance would.
		for _, sector := range []int{512, 1024} {
			mend(b, sector)
		}
		im, err := disk.Read(beginning{b, size}, size)
		if err != nil {
			return
		}
		for i, p := range im.Parts {
			if p.Start < 0 || p.Size <= 0 || p.Start > size-p.Size {
				t.Fatalf("partition %+v of %d bytes", p, size)
			}
			for _, q := range im.Parts[:i] {
				if p.Start < q.Start+q.Size && q.Start < p.Start+p.Size {
					t.Fatalf("%+v and %+v overlap", p, q)
				}
			}
		}
		list, err := im.Choose(arch, disk.Policy{}, false)
		if err != nil {
			return
		}
		for _, v := range list {
			if v.Size <= 0 || v.FS == disk.NoFS || v.FS == disk.LUKS || v.FS == disk.Verity {
				t.Fatalf("volume %+v", v)
			}
		}
	})
}

// mend makes the sums of the first header right, if there is one.
func mend(b []byte, sector int) {
	if 2*sector > len(b) {
		return
	}
	h := b[sector:][:sector]
	if string(h[:8]) != "EFI PART" {
		return
	}
	from, n := le.Uint64(h[72:])*uint64(sector), uint64(le.Uint32(h[80:]))*uint64(le.Uint32(h[84:]))
	if n <= 1<<20 {
		table := make([]byte, n)
		if from < uint64(len(b)) {
			copy(table, b[from:])
		}
		le.PutUint32(h[88:], crc32.ChecksumIEEE(table))
	}
	if n := le.Uint32(h[12:]); int64(n) <= int64(sector) && n >= 20 {
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:n]))
	}
}

// FuzzPolicy: a policy can be anything that somebody types.
func FuzzPolicy(f *testing.F) {
	for _, s := range []string{"*", "-", "~", "root=verity+signed:=ignore", "usr=read-only-on:swap=unused+absent"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := disk.ParsePolicy(s)
		if err != nil {
			return
		}
		im, err := read(gpt(part(disks.Root, "crypto_LUKS"), part(disks.RootVerity, "verity")))
		if err != nil {
			t.Fatal(err)
		}
		// Whatever it says, nothing is decrypted here.
		if list, err := im.Choose(arch, p, false); err == nil {
			t.Fatalf("%q: %+v", s, list)
		}
	})
}

// FuzzNewer: one of two versions is newer, or none; and never both.
func FuzzNewer(f *testing.F) {
	f.Add("1.2~rc1", "1.2-3")
	f.Add("a_10", "a_9")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := disk.Newer(a, b), disk.Newer(b, a)
		if x && y || (x || y) && a == b {
			t.Fatalf("%q %q: %v %v", a, b, x, y)
		}
	})
}
