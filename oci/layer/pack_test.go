package layer

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// pack packs a layer.
func pack(t testing.TB, how string, r io.Reader) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	if how == "zstd" {
		w, err = zstd.NewWriter(&b, zstd.WithEncoderLevel(zstd.SpeedFastest))
	} else {
		w, err = gzip.NewWriterLevel(&b, gzip.BestSpeed)
	}
	if err == nil {
		if _, err = io.Copy(w, r); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
