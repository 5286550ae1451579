package loop_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/disk"
	"launch/internal/itest/disks"
	"launch/internal/itest/tree"
	"launch/mount/loop"
)

// devices gives what the kernel says of the loop devices that show a file.
func devices(t *testing.T, file string) (list []map[string]string) {
	t.Helper()
	all, _ := filepath.Glob("/sys/block/loop*/loop")
	for _, d := range all {
		m := map[string]string{}
		for _, name := range []string{"backing_file", "offset", "sizelimit", "autoclear", "partscan", "../ro"} {
			b, _ := os.ReadFile(filepath.Join(d, name))
			m[filepath.Base(name)] = strings.TrimSpace(string(b))
		}
		if m["backing_file"] == file {
			list = append(list, m)
		}
	}
	return list
}

// gone waits for the last of them: the kernel may end one a moment later.
func gone(t *testing.T, file string) {
	t.Helper()
	for range 200 {
		if len(devices(t, file)) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("loop devices stay: %v", devices(t, file))
}

// image makes a disk with a file system at Align.
func image(t *testing.T) (file string, size int64) {
	t.Helper()
	tree.NeedRoot(t, "mkfs.ext4")
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("needs loop devices")
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/hello", []byte("hello"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs := disks.FS(t, "ext4", dir, 4<<20)
	file = filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(file, disks.GPT(disks.Table{Parts: []disks.Part{{Type: disks.Root, Data: fs}}}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, int64(len(fs))
}

func open(t *testing.T, file string, how int) int {
	t.Helper()
	n, err := unix.Open(file, how|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(n) })
	return n
}

// TestMount: the part is seen, the device goes with the mount, and read-only
// means the device, too.
func TestMount(t *testing.T) {
	file, size := image(t)
	for _, readOnly := range []bool{false, true} {
		how := unix.O_RDWR
		if readOnly {
			how = unix.O_RDONLY
		}
		n, err := loop.Mount(loop.Part{File: open(t, file, how), Start: disks.Align, Size: size, Type: "ext4", ReadOnly: readOnly})
		if err != nil {
			t.Fatal(err)
		}
		list := devices(t, file)
		if len(list) != 1 || list[0]["offset"] != "65536" || list[0]["sizelimit"] != "4194304" || list[0]["autoclear"] != "1" || list[0]["partscan"] != "0" ||
			(list[0]["ro"] == "1") != readOnly {
			t.Errorf("read-only %v: %v", readOnly, list)
		}
		in, err := unix.Openat(n, "hello", unix.O_RDONLY, 0)
		if err != nil {
			t.Error(err)
		}
		unix.Close(in)
		made, err := unix.Openat(n, "new", unix.O_CREAT|unix.O_WRONLY, 0o600)
		if (err == nil) == readOnly || readOnly && err != unix.EROFS {
			t.Errorf("read-only %v: make a file: %v", readOnly, err)
		}
		unix.Close(made)
		unix.Close(n)
		gone(t, file)
	}
}

// TestPanic: the kernel doesn't panic for an image that wants it to.
func TestPanic(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	tree.NeedRoot(t, "mkfs.ext4")
	const size = 4 << 20
	if out, err := exec.Command("mkfs.ext4", "-q", "-e", "panic", file, fmt.Sprint(size>>10, "k")).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	for _, readOnly := range []bool{false, true} {
		n, err := loop.Mount(loop.Part{File: open(t, file, unix.O_RDWR), Size: size, Type: "ext4", ReadOnly: readOnly, Options: disk.Options("ext4", readOnly, readOnly)})
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(n, &st); err != nil {
			t.Fatal(err)
		}
		device, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
		if err != nil {
			t.Fatal(err)
		}
		options, err := os.ReadFile("/proc/fs/ext4/" + filepath.Base(device) + "/options")
		if s := string(options); err != nil || !strings.Contains(s, "errors=remount-ro\n") || strings.HasPrefix(s, "ro\n") != readOnly {
			t.Errorf("read-only %v: %v %s", readOnly, err, s)
		}
		unix.Close(n)
		gone(t, file)
	}
}

// TestFails: after an error nothing is left.
func TestFails(t *testing.T) {
	file, size := image(t)
	n := open(t, file, unix.O_RDONLY)
	for _, c := range []struct {
		part loop.Part
		want error
	}{
		{loop.Part{File: n, Start: disks.Align, Size: size, Type: "no-such", ReadOnly: true}, unix.ENODEV},
		{loop.Part{File: n, Start: 0, Size: size, Type: "ext4", ReadOnly: true}, unix.EINVAL},
		{loop.Part{File: n, Start: disks.Align, Size: size / 4096 * 2048, Type: "ext4", ReadOnly: true}, unix.EINVAL}, // less than the file system says
		{loop.Part{File: n, Start: disks.Align, Size: size, Type: "ext4", ReadOnly: true, Options: []string{"no-such-option"}}, unix.EINVAL},
		{loop.Part{File: n, Start: disks.Align, Size: size, Sector: 3, Type: "ext4", ReadOnly: true}, unix.EINVAL},
		{loop.Part{File: open(t, "/dev/null", unix.O_RDONLY), Size: size, Type: "ext4", ReadOnly: true}, unix.EINVAL},
	} {
		m, err := loop.Mount(c.part)
		if !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.part, err, c.want)
		}
		if err == nil {
			unix.Close(m)
		}
		gone(t, file)
	}
}

// TestMany: whoever takes a free device at the same time is no obstacle.
func TestMany(t *testing.T) {
	file, size := image(t)
	n := open(t, file, unix.O_RDONLY)
	var all sync.WaitGroup
	for range 24 {
		all.Add(1)
		go func() {
			defer all.Done()
			m, err := loop.Mount(loop.Part{File: n, Start: disks.Align, Size: size, Type: "ext4", ReadOnly: true, Options: []string{"norecovery"}})
			if err != nil {
				t.Error(err)
				return
			}
			unix.Close(m)
		}()
	}
	all.Wait()
	gone(t, file)
}
