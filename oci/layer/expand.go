package layer

import (
	"bufio"
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// window is the most memory that a zstd stream may ask for.
const window = 128 << 20

// packing is a way to make something smaller.
type packing uint8

const (
	unpacked packing = iota
	gzipped
	zstandard
)

// how tells it from the first four bytes.
func how(head []byte) packing {
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzipped
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return zstandard
	}
	return unpacked
}

// Packed tells whether what begins with these four bytes is packed in a way that
// Expand undoes.
func Packed(head []byte) bool { return how(head) != unpacked }

// Expand undoes the packing that the first bytes show. Who is done with the
// reader calls the function. What a manifest calls it doesn't matter: the digests
// of both forms are checked.
func Expand(r io.Reader) (io.Reader, func(), error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, fmt.Errorf("expand: %w", err)
	}
	switch how(head) {
	case gzipped:
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, nil, fmt.Errorf("expand: %w", err)
		}
		p := ahead(z)
		return p, p.close, nil
	case zstandard:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(window), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, fmt.Errorf("expand: %w", err)
		}
		p := ahead(z)
		return p, p.close, nil
	}
	return b, func() {}, nil
}

// pipeline reads ahead on another thread, so that expanding and writing happen
// side by side.
type pipeline struct {
	full, empty chan []byte
	stop        chan bool
	err         error
	now         []byte
	whole       []byte
}

func ahead(r io.Reader) *pipeline {
	const parts, size = 4, 256 << 10
	p := &pipeline{full: make(chan []byte, parts), empty: make(chan []byte, parts), stop: make(chan bool)}
	for range parts {
		p.empty <- make([]byte, size)
	}
	go func() {
		defer close(p.full)
		for {
			var b []byte
			select {
			case b = <-p.empty:
			case <-p.stop:
				return
			}
			var err error
			n := 0
			for n < size && err == nil {
				var m int
				m, err = r.Read(b[n:size])
				n += m
			}
			if n > 0 {
				p.full <- b[:n]
			}
			if err == io.EOF {
				p.err = err
				return
			}
			if err != nil {
				p.err = fmt.Errorf("expand: %w", err)
				return
			}
		}
	}()
	return p
}

func (p *pipeline) Read(b []byte) (int, error) {
	if len(p.now) == 0 {
		if p.whole != nil {
			p.empty <- p.whole[:cap(p.whole)]
			p.whole = nil
		}
		next, ok := <-p.full
		if !ok {
			return 0, p.err
		}
		p.whole, p.now = next, next
	}
	n := copy(b, p.now)
	p.now = p.now[n:]
	return n, nil
}

// close ends the reading ahead, with the next read at the latest.
func (p *pipeline) close() { close(p.stop) }
