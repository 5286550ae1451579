package tree

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkCopy copies and removes the tree that $LAUNCH_TREE names, beside it.
func BenchmarkCopy(b *testing.B) {
	from := os.Getenv("LAUNCH_TREE")
	if from == "" || os.Getuid() != 0 {
		b.Skip("needs root, and a tree in $LAUNCH_TREE")
	}
	src, err := unix.Open(from, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		b.Fatal(err)
	}
	dst, err := unix.Open(filepath.Dir(from), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		b.Fatal(err)
	}
	name := Snapshot + "bench0123456789abcdef"
	for b.Loop() {
		if _, err := Copy(src, dst, name, nil); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := Remove(dst, name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
