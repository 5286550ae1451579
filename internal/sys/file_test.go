package sys

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOpenat2Renames: for as long as anybody on the host renames something, the kernel
// answers EAGAIN to most lookups that go up within a root. They work all the same.
func TestOpenat2Renames(t *testing.T) {
	dir := t.TempDir()
	var over atomic.Bool
	done := make(chan bool)
	for _, name := range []string{"a", "b"} {
		one, two := filepath.Join(dir, name), filepath.Join(dir, name+name)
		if err := os.Mkdir(one, 0o755); err != nil {
			t.Fatal(err)
		}
		go func() {
			for !over.Load() {
				unix.Rename(one, two)
				unix.Rename(two, one)
			}
			done <- true
		}()
	}
	root, err := Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer Close(root)
	up := strings.Repeat("../", 1000)
	for range 300 {
		n, err := Openat2(root, up, unix.O_PATH, 0, InRoot)
		if err != nil {
			t.Error(err)
			break
		}
		Close(n)
	}
	over.Store(true)
	<-done
	<-done
}
