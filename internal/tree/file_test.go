package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCopyFile: a copy of an image has its bytes and its holes, and no name.
func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk.raw")
	want := make([]byte, 24<<20)
	copy(want[5<<20:], bytes.Repeat([]byte("data"), 1<<18))
	f, err := os.Create(file)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(int64(len(want))))
	_, err = f.WriteAt(want[5<<20:6<<20], 5<<20)
	must(t, err)

	asked := 0
	n, err := CopyFile(int(f.Fd()), dir, func(Report) error { asked++; return nil })
	must(t, err)
	copied := os.NewFile(uintptr(n), "copy")
	defer copied.Close()
	got := make([]byte, len(want)+1)
	if m, _ := copied.ReadAt(got, 0); m != len(want) || !bytes.Equal(got[:m], want) {
		t.Errorf("%d bytes, or other ones", m)
	}
	var st unix.Stat_t
	must(t, unix.Fstat(n, &st))
	if st.Nlink != 0 || st.Mode&0o777 != 0o600 || st.Blocks > 8<<11 {
		t.Errorf("%d names, mode %o, %d blocks", st.Nlink, st.Mode, st.Blocks)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 1 {
		t.Errorf("%v %v", names, err)
	}
	if _, err := copied.WriteAt([]byte("x"), 0); err != nil {
		t.Error(err)
	}
	if _, err := CopyFile(int(f.Fd()), filepath.Join(dir, "no-such"), nil); !errors.Is(err, unix.ENOENT) {
		t.Errorf("to nowhere: %v", err)
	}
}

// TestFree: somebody's lock is seen, and none is taken or made.
func TestFree(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	must(t, Free([]string{file}))
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a look at a lock makes it: %v", err)
	}
	for _, shared := range []bool{true, false} {
		l, err := Take(file, shared)
		must(t, err)
		if err := Free([]string{file + "-other", file}); (err == ErrBusy) == shared || err != nil && err != ErrBusy {
			t.Errorf("shared %v: %v", shared, err)
		}
		must(t, l.Release())
	}
}

// TestLockFiles: a device is locked by its number, whatever its name.
func TestLockFiles(t *testing.T) {
	n, err := unix.Open("/dev/loop0", unix.O_PATH, 0)
	if err != nil {
		t.Skip("needs a block device")
	}
	defer unix.Close(n)
	if got, err := LockFiles(n, "/dev/loop0"); err != nil || len(got) != 1 || got[0] != Locks+"/block-7:0" {
		t.Errorf("%v %v", got, err)
	}
}
