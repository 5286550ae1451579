package disk

import "fmt"

const (
	headerMin = 92
	// Bounds of our own: 128 entries of 128 bytes are usual.
	entriesMax = 1024
	entryMax   = 1024
	tableMax   = 256 << 10
)

// The flags of a partition that the specification gives a meaning.
const (
	flagGrow     = 1 << 59
	flagReadOnly = 1 << 60
	flagNoAuto   = 1 << 63
)

// gpt reads the table, the copy at the end if the first is damaged; nil if
// there is none.
func (im *imageReader) gpt() (*Image, error) {
	b, err := im.boot()
	if b == nil {
		return nil, err
	}
	// Without it, others take the image for something else.
	protected := false
	for i := range 4 {
		protected = protected || b[mbrTable+i*mbrEntry+4] == mbrGPT
	}
	if !protected {
		return nil, nil
	}
	for _, sector := range sectors {
		t, err := im.header(sector, 1)
		if t != nil || err != nil {
			return t, err
		}
	}
	for _, sector := range sectors {
		if last := im.size/int64(sector) - 1; last > 1 {
			t, err := im.header(sector, last)
			if t != nil || err != nil {
				return t, err
			}
		}
	}
	return nil, nil
}

// header reads the table whose header lies in that sector; nil if there is
// none whose sums are right.
func (im *imageReader) header(sector int, at int64) (*Image, error) {
	size := int64(sector)
	h, ok, err := im.at(at*size, sector)
	if err != nil || !ok || string(h[:8]) != "EFI PART" {
		return nil, err
	}
	n := le.Uint32(h[12:])
	if le.Uint32(h[8:]) != 0x10000 || n < headerMin || int64(n) > size {
		return nil, nil
	}
	sum := le.Uint32(h[16:])
	copy(h[16:20], "\x00\x00\x00\x00")
	if crc(h[:n]) != sum || le.Uint64(h[24:]) != uint64(at) {
		return nil, nil
	}
	// What it says is what somebody wanted to say: from here on, what is wrong is
	// an error.
	total := uint64(im.size / size)
	first, last := le.Uint64(h[40:]), le.Uint64(h[48:])
	if first > last || last >= total {
		return nil, fmt.Errorf("its GPT is for a disk of at least %d sectors, and the image has %d", last+1, total)
	}
	from, count, entry := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if count == 0 || count > entriesMax || entry < 128 || entry > entryMax || entry&(entry-1) != 0 || count*entry > tableMax {
		return nil, fmt.Errorf("its GPT has %d entries of %d bytes, which nobody needs", count, entry)
	}
	if from >= total || from < 2 {
		return nil, fmt.Errorf("the entries of its GPT lie outside of the image")
	}
	e, ok, err := im.at(int64(from)*size, int(count*entry))
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("the entries of its GPT lie outside of the image")
	}
	if crc(e) != le.Uint32(h[88:]) {
		return nil, nil
	}
	t := &Image{Table: "gpt", Sector: sector}
	const none = "00000000-0000-0000-0000-000000000000"
	for i := range int(count) {
		p := e[i*int(entry):][:128]
		kind := guid(p)
		if kind == none {
			continue
		}
		start, end, flags := le.Uint64(p[32:]), le.Uint64(p[40:]), le.Uint64(p[48:])
		if start < first || end < start || end > last {
			return nil, fmt.Errorf("partition %d lies outside of the space that the GPT has for partitions", i+1)
		}
		var label [36]uint16
		for j := range label {
			label[j] = le.Uint16(p[56+2*j:])
		}
		t.Parts = append(t.Parts, Partition{
			Number: i + 1, Start: int64(start) * size, Size: int64(end-start+1) * size, Type: kind, Label: printable(label[:]),
			ReadOnly: flags&flagReadOnly != 0, NoAuto: flags&flagNoAuto != 0, Grow: flags&flagGrow != 0,
		})
	}
	return t, t.apart()
}

// crc is CRC-32 as Ethernet has it. The library's makes its tables before main.
func crc(b []byte) uint32 {
	c := ^uint32(0)
	for _, x := range b {
		c ^= uint32(x)
		c = c>>4 ^ crcTable[c&15]
		c = c>>4 ^ crcTable[c&15]
	}
	return ^c
}

// crcTable has the sums of the sixteen half bytes, for 0xedb88320.
var crcTable = [16]uint32{
	0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
}
