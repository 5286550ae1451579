// Package disk reads what a disk image says of itself: a partition table (GPT,
// or MBR) or a bare file system, and which of the partitions a machine's root
// and the rest of its tree are (UAPI Discoverable Partitions Specification).
//
// An image is untrusted. Each number in it is bounded before it is used, what
// contradicts itself is refused and never repaired, and no more than a mebibyte
// of it is read, whatever it says. Package disk refuses to know how anything is mounted, and never
// looks into a file system beyond the few bytes that tell its type.
//
// Room: paper.
package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Image is what an image holds.
type Image struct {
	// Table is gpt, dos or, if there is only a file system, "".
	Table string `json:"table,omitempty"`
	// Sector is the size of a sector that the table counts in; 0 without one.
	Sector int         `json:"sector,omitempty"`
	Parts  []Partition `json:"parts"`
}

// Partition is one of them, or the whole of an image without a table.
type Partition struct {
	// Number counts from 1, as the kernel would; 0 is the whole image.
	Number int `json:"number,omitempty"`
	// Start and Size are in bytes.
	Start int64 `json:"start"`
	Size  int64 `json:"size"`
	// Type is the GUID of its type, or 0x and two hex digits.
	Type  string `json:"type,omitempty"`
	Label string `json:"label,omitempty"`
	// ReadOnly, NoAuto and Grow are what its flags say; Boot is the MBR's.
	ReadOnly bool `json:"read_only,omitempty"`
	NoAuto   bool `json:"no_auto,omitempty"`
	Grow     bool `json:"grow,omitempty"`
	Boot     bool `json:"boot,omitempty"`
	// FS is the type of its file system, or what it holds instead: see Probe.
	FS FS `json:"fs,omitempty"`
}

// Errors that a person can do something about.
var (
	// ErrNothing: there is neither a table nor a file system.
	ErrNothing = errors.New("it holds no partition table and no file system that is known here")
	// ErrTwice: it can be read in two ways, and whoever made it may want others
	// to read it in the other.
	ErrTwice = errors.New("it is two things at once")
)

// A GPT counts in sectors of one of these sizes.
var sectors = [...]int{512, 4096, 1024, 2048}

// Read looks at an image of that size.
func Read(r io.ReaderAt, size int64) (*Image, error) {
	im := &imageReader{r: r, size: size}
	whole, err := im.probe(0, size)
	if err != nil {
		return nil, err
	}
	table, err := im.gpt()
	if err != nil {
		return nil, err
	}
	switch {
	case table != nil && whole != NoFS:
		return nil, fmt.Errorf("%w: a partition table, and the file system %s", ErrTwice, whole)
	case whole != NoFS:
		// A boot sector that was left over says nothing.
		return &Image{Parts: []Partition{{Size: size, FS: whole}}}, nil
	}
	if table == nil {
		if table, err = im.mbr(); err != nil {
			return nil, err
		}
	}
	if table == nil {
		return nil, ErrNothing
	}
	for i := range table.Parts {
		p := &table.Parts[i]
		if p.FS, err = im.probe(p.Start, p.Size); err != nil {
			return nil, fmt.Errorf("partition %d: %w", p.Number, err)
		}
	}
	return table, nil
}

// imageReader reads parts of one image.
type imageReader struct {
	r    io.ReaderAt
	size int64
}

// at reads so many bytes; ok is false where the image ends before.
func (im *imageReader) at(off int64, n int) (b []byte, ok bool, err error) {
	if off < 0 || n < 0 || off > im.size-int64(n) {
		return nil, false, nil
	}
	b = make([]byte, n)
	if m, err := im.r.ReadAt(b, off); m < n {
		if err == nil || err == io.EOF {
			return nil, false, nil // it was cut meanwhile
		}
		return nil, false, fmt.Errorf("read the image: %w", err)
	}
	return b, true, nil
}

var le = binary.LittleEndian

// The places in a boot sector.
const (
	mbrTable  = 446
	mbrEntry  = 16
	mbrMagic  = 510
	mbrActive = 0x80
	mbrLinux  = 0x83
	mbrGPT    = 0xee
)

// boot reads the boot sector; nil if it is none.
func (im *imageReader) boot() ([]byte, error) {
	b, ok, err := im.at(0, 512)
	if err != nil || !ok || b[mbrMagic] != 0x55 || b[mbrMagic+1] != 0xaa {
		return nil, err
	}
	return b, nil
}

// mbr reads the four entries of a boot sector; nil if there is no table.
func (im *imageReader) mbr() (*Image, error) {
	b, err := im.boot()
	if b == nil {
		return nil, err
	}
	t := &Image{Table: "dos", Sector: 512}
	for i := range 4 {
		e := b[mbrTable+i*mbrEntry:][:mbrEntry]
		active, kind := e[0], e[4]
		start, n := int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
		if active != 0 && active != mbrActive {
			return nil, nil // some other boot sector
		}
		if kind == mbrGPT {
			return nil, errors.New("it says that it has a GPT, and that is not there, or damaged")
		}
		if kind == 0 || n == 0 {
			continue
		}
		if start == 0 || (start+n)*512 > im.size {
			return nil, fmt.Errorf("partition %d lies outside of the image", i+1)
		}
		t.Parts = append(t.Parts, Partition{Number: i + 1, Start: start * 512, Size: n * 512, Type: fmt.Sprintf("0x%02x", kind), Boot: active != 0})
	}
	if len(t.Parts) == 0 {
		return nil, nil
	}
	return t, t.apart()
}

// apart refuses partitions that overlap: what one machine's tree writes would
// be another file system's.
func (t *Image) apart() error {
	for i, p := range t.Parts {
		for _, q := range t.Parts[:i] {
			if p.Start < q.Start+q.Size && q.Start < p.Start+p.Size {
				return fmt.Errorf("partitions %d and %d overlap", q.Number, p.Number)
			}
		}
	}
	return nil
}

// guid writes one as it is printed; the first three fields are little-endian.
func guid(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le.Uint32(b), le.Uint16(b[4:]), le.Uint16(b[6:]), b[8:10], b[10:16])
}

// printable makes a label one that can be shown.
func printable(units []uint16) string {
	var s strings.Builder
	for _, u := range units {
		switch {
		case u == 0:
			return s.String()
		case u < 0x20 || u >= 0x7f && u < 0xa0 || u >= 0xd800 && u < 0xe000 || u >= 0xfffe:
			s.WriteByte('?')
		default:
			s.WriteRune(rune(u))
		}
	}
	return s.String()
}
