package mounts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/sys"
	"launch/mount/snapshot"
	"launch/mount/tree"
)

// connects tries a socket by its path on the thread.
func connects(th *thread, path string) error {
	return th.do(func(sys.Locked) error {
		s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.Connect(s, &unix.SockaddrUnix{Name: path})
	})
}

// TestSockets: a socket of the host's that is bound to another place is there
// again, and one in a new file system can be put in before it is mounted.
func TestSockets(t *testing.T) {
	for _, private := range []bool{false, true} {
		p := &trip{t: t, host: newHost(t), ns: -1}
		if private {
			p.private()
		}
		if err := p.host.do(func(sys.Locked) error { return script([]string{"socket /mnt/s"}) }); err != nil {
			t.Fatal(err)
		}
		made := grow(t, p.host, []string{"bind /ext/s /s", "umount /ext", "tmpfs /a", "socket /a/own", "bind /a/own /own", "tmpfs /a"})
		for _, at := range []string{"/s", "/own"} {
			if err := connects(made[0], at); err != nil {
				t.Fatalf("before: %s: %v", at, err)
			}
		}
		f, _, err := p.save(tids(made)...)
		if err != nil {
			t.Fatal(err)
		}
		source := ""
		for _, m := range f.Namespaces[0].Mounts {
			if m.Root == "/own" {
				source = m.Source
			}
		}
		r, err := p.restore(f, snapshot.Options{Policy: policy(f, map[string]tree.External{"/s": {Path: "/mnt/s"}}),
			Fill: func(id string, dir int) error {
				if id != source {
					return nil
				}
				s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
				if err != nil {
					return err
				}
				if err := unix.Fchdir(dir); err != nil {
					return err
				}
				if err := unix.Bind(s, &unix.SockaddrUnix{Name: "own"}); err != nil {
					return err
				}
				return errors.Join(unix.Listen(s, 8), unix.Chdir("/"))
			}})
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{"/s", "/own"} {
			if err := connects(r.threads[0], at); err != nil {
				t.Errorf("private users %v: restored: %s: %v", private, at, err)
			}
		}
	}
}

// TestReach: files below mounts that cover them are reached by descriptors of
// what lies below, and of each mount.
func TestReach(t *testing.T) {
	p := &trip{t: t, host: newHost(t), ns: -1}
	made := grow(t, p.host, []string{"umount /ext", "mkdir /a", "tmpfs /a", "mkdir /a/b", "tmpfs /a/b", "tmpfs /a"})
	f, _, err := p.save(tids(made)...)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	write := func(dir int, name string) error {
		n, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_WRONLY, 0o644)
		if err == nil {
			unix.Close(n)
		}
		return err
	}
	r, err := p.restore(f, snapshot.Options{Reach: func(m *tree.Mount, before, after int) error {
		count++
		if m.Parent == 0 {
			if before != -1 {
				return errors.New("a root lies on something")
			}
			return write(after, "root")
		}
		return errors.Join(write(before, fmt.Sprintf("below%d", m.ID)), write(after, fmt.Sprintf("in%d", m.ID)))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if count != len(f.Namespaces[0].Mounts) {
		t.Errorf("told of %d mounts of %d", count, len(f.Namespaces[0].Mounts))
	}
	// From the top: what covers what is there is taken away, one by one.
	var seen []string
	if err := r.threads[0].do(func(sys.Locked) error {
		for range 3 {
			list, err := os.ReadDir("/a")
			if err != nil {
				return err
			}
			for _, e := range list {
				seen = append(seen, e.Name())
			}
			seen = append(seen, "/")
			unix.Unmount("/a", 0)
			unix.Unmount("/a/b", 0)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(seen, " "), "in3 / b below3 in2 / below2 /"; got != want {
		t.Errorf("seen: %s, want %s", got, want)
	}
}

// TestDevice: an id may stand for a file system on a block device, which is
// then mounted anew.
func TestDevice(t *testing.T) {
	for _, program := range []string{"mkfs.ext4", "losetup"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s", program)
		}
	}
	p := &trip{t: t, host: newHost(t), ns: -1}
	image := filepath.Join(t.TempDir(), "image")
	if out, err := exec.Command("sh", "-c", "truncate -s 8M "+image+" && mkfs.ext4 -q "+image).CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).CombinedOutput()
	if err != nil {
		t.Skipf("no loop devices here: %v: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	defer exec.Command("losetup", "-d", loop).Run()
	made := grow(t, p.host, []string{"umount /ext", "mkdir /disk"})
	number := int(device(t, loop)) // there is no /dev in the tree
	if err := made[0].do(func(sys.Locked) error {
		return unix.Mknod("/loop", unix.S_IFBLK|0o600, number)
	}); err != nil {
		t.Fatal(err)
	}
	if err := made[0].do(func(sys.Locked) error { return unix.Mount("/loop", "/disk", "ext4", 0, "") }); err != nil {
		t.Skipf("mount ext4: %v", err)
	}
	f, text, err := p.save(tids(made)...)
	if err != nil {
		t.Fatal(err)
	}
	if err := made[0].do(func(sys.Locked) error { return unix.Unmount("/disk", 0) }); err != nil {
		t.Fatal(err)
	}
	r, err := p.restore(f, snapshot.Options{Policy: policy(f, map[string]tree.External{"/disk": {Path: loop, Type: "ext4"}})})
	if err != nil {
		t.Fatal(err)
	}
	_, again, err := p.save(r.pids...)
	if err != nil {
		t.Fatal(err)
	}
	if err := differ(text, again); err != nil {
		t.Error(err)
	}
	for _, th := range r.threads {
		th.do(func(sys.Locked) error { return unix.Unmount("/disk", unix.MNT_DETACH) })
	}
	for name, x := range map[string]tree.External{"no device": {Path: "/mnt", Type: "ext4"}, "another type": {Path: loop, Type: "vfat"}} {
		if _, err := p.restore(f, snapshot.Options{Policy: policy(f, map[string]tree.External{"/disk": x})}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func device(t *testing.T, file string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		t.Fatal(err)
	}
	return st.Rdev
}

// TestLocked: what the caller gives read-only, the users of the tree can't make
// writable. What is read-only because the file says so, they can.
func TestLocked(t *testing.T) {
	for _, given := range []bool{true, false} {
		p := &trip{t: t, host: newHost(t), ns: -1}
		p.private()
		made := grow(t, p.host, []string{"bind /ext /b", "flags /b ro", "umount /ext"})
		f, _, err := p.save(tids(made)...)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.restore(f, snapshot.Options{Policy: policy(f, map[string]tree.External{"/b": {Path: "/mnt", ReadOnly: given}})})
		if err != nil {
			t.Fatal(err)
		}
		var failed *child.Failure
		if err := p.host.in(t).do(func(l sys.Locked) error {
			q := child.New(8)
			q.Add("join the user namespace", unix.SYS_SETNS, uintptr(p.ns), unix.CLONE_NEWUSER)
			q.Add("join the mount namespace", unix.SYS_SETNS, uintptr(r.spaces[0].NS), unix.CLONE_NEWNS)
			q.Add("go to its root", unix.SYS_FCHDIR, uintptr(r.spaces[0].Root))
			q.Add("take it as the root", unix.SYS_CHROOT, q.String("."))
			attr := &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
			q.Add("make it writable", unix.SYS_MOUNT_SETATTR, ^uintptr(99), q.String("/b"), 0, child.Keep(q, attr), unsafe.Sizeof(*attr))
			q.Add("end", unix.SYS_EXIT_GROUP, 0)
			c, err := child.Start(l, q, child.Options{})
			if err != nil {
				return err
			}
			defer sys.Close(c.Pidfd)
			if _, _, err := sys.Wait(c.Pidfd); err != nil {
				return err
			}
			failed = c.Failure()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := failed != nil && failed.Name == "make it writable" && failed.Errno == unix.EPERM; got != given || !given && failed != nil {
			t.Errorf("given read-only: %v; making it writable gave %v", given, failed)
		}
	}
}

// TestLayers: what was made as a layer is one again, over what its id stands for
// today: nothing that is written to it gets there.
func TestLayers(t *testing.T) {
	for _, what := range []string{"layer", "stubs"} {
		for _, private := range []bool{false, true} {
			p := &trip{t: t, host: newHost(t), ns: -1}
			if private {
				p.private()
			}
			if err := p.host.do(func(sys.Locked) error {
				return script([]string{"mkdir /mnt/now/sub", "touch /mnt/now/f", "mkdir /mnt/was"})
			}); err != nil {
				t.Fatal(err)
			}
			made := grow(t, p.host, []string{"bind /ext/was /b", what + " /b", "umount /ext"})
			f, text, err := p.save(tids(made)...)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), `"made": "`+what+`"`); n != 2 { // the overlay, and the tmpfs below it
				t.Fatalf("%d sources were made as %s:\n%s", n, what, text)
			}
			r, err := p.restore(f, snapshot.Options{Policy: policy(f, map[string]tree.External{"/b": {Path: "/mnt/now"}})})
			if err != nil {
				t.Fatal(err)
			}
			if err := r.threads[0].do(func(sys.Locked) error {
				return errors.Join(os.WriteFile("/b/f", []byte("changed"), 0o644), os.Remove("/b/sub"), os.Mkdir("/b/more", 0o755))
			}); err != nil {
				t.Error(err)
			}
			var names []string
			var inside string
			if err := p.host.do(func(sys.Locked) error {
				list, err := os.ReadDir("/mnt/now")
				for _, e := range list {
					names = append(names, e.Name())
				}
				b, rerr := os.ReadFile("/mnt/now/f")
				inside = string(b)
				return errors.Join(err, rerr)
			}); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(names, " ") + ": " + inside; got != "f sub: /mnt/now/f" {
				t.Errorf("%s, private users %v: on the host there is %s", what, private, got)
			}
		}
	}
}
