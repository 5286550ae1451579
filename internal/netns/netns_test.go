package netns

import (
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// TestMove moves one end of a pair into another namespace and looks at it
// there.
func TestMove(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces of the network take root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip(8) is not there")
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		// The thread is not used again.
		l := sys.Lock()
		if err := sys.Unshare(l, unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		run := func(args ...string) string {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %v: %s", args, err, out)
			}
			return string(out)
		}
		run("ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
		run("ip", "addr", "add", "192.0.2.7/25", "dev", "one")
		run("ip", "addr", "add", "2001:db8::7/64", "dev", "one", "nodad")
		run("ip", "link", "set", "one", "up")
		other := exec.Command("unshare", "--net", "sleep", "60")
		if err := other.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() { other.Process.Kill(); other.Wait() }()
		waitOther(t, other.Process.Pid)

		if _, err := Look("none"); err == nil || !strings.Contains(err.Error(), unix.ENODEV.Error()) {
			t.Errorf("an interface that isn't there: %v", err)
		}
		i, err := Look("one")
		if err != nil {
			t.Error(err)
			return
		}
		if err := i.Move(other.Process.Pid, "eth0"); err != nil {
			t.Error(err)
			return
		}
		if out := run("ip", "link"); strings.Contains(out, "one@") {
			t.Errorf("it is still here:\n%s", out)
		}
		n, err := sys.PidfdOpen(other.Process.Pid)
		if err == nil {
			err = sys.Setns(l, n, unix.CLONE_NEWNET)
		}
		if err == nil {
			err = i.SetUp()
		}
		if err != nil {
			t.Error(err)
			return
		}
		out := run("ip", "addr", "show", "eth0")
		for _, want := range []string{"192.0.2.7/25", "2001:db8::7/64", ",UP"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s is missing:\n%s", want, out)
			}
		}
	}()
	<-done
}

// waitOther waits until the process has its own namespace.
func waitOther(t *testing.T, pid int) {
	t.Helper()
	own, _ := os.Readlink("/proc/thread-self/ns/net")
	for range 10000 {
		if theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net"); err == nil && theirs != own {
			return
		}
		exec.Command("true").Run()
	}
	t.Error("the other process got no namespace")
}

// apart runs f on a thread with a network of its own, where ip runs ip(8).
func apart(t *testing.T, f func(ip func(args ...string) string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces of the network take root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("ip(8) is not there")
	}
	if err := sys.Apart(func(l sys.Locked) error {
		if err := sys.Unshare(l, unix.CLONE_NEWNET); err != nil {
			return err
		}
		f(func(args ...string) string {
			out, err := exec.Command("ip", args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %v: %s", args, err, out)
			}
			return string(out)
		})
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestWritten: what String writes of an interface, ParseInterface reads; and
// nothing that is cut off.
func TestWritten(t *testing.T) {
	for _, i := range []Interface{
		{Name: "eth0", index: 3, up: true, addresses: [][]byte{[]byte("\x02\x18\x80\x00\x03\x00\x00\x00rest"), []byte("\x0a\x40\x80\x00\x03\x00\x00\x00/etc")}},
		{Name: "a.b", Kind: "veth", index: 1<<31 - 1}, {Name: "x", index: 2, up: true},
	} {
		text := i.String()
		got, rest, err := ParseInterface(text + "/run/x/net")
		if err != nil || got.String() != text || rest != "run/x/net" || got.Name != i.Name || got.Kind != i.Kind || got.index != i.index || len(got.addresses) != len(i.addresses) {
			t.Errorf("%s: %v %q %v", text, got, rest, err)
		}
		if path.Clean("/"+text+"/run") != "/"+text+"/run" {
			t.Errorf("%s is no part of a clean path", text)
		}
	}
	for _, bad := range []string{"", "eth0", "eth0/3", "eth0/3/veth.up", "eth0/x/.up/+", "/3/.up/+", "eth0/3/up/+/x", "eth0/3/.up/+zz/x", "eth0/3/.up/+00/x"} {
		if i, _, err := ParseInterface(bad); err == nil {
			t.Errorf("%q is %v", bad, i)
		}
	}
}

// TestBridges: one is made if it is missing, and removed if it is empty and a
// bridge.
func TestBridges(t *testing.T) {
	apart(t, func(ip func(...string) string) {
		there := func(name string) bool { _, err := Find(name); return err == nil }
		one, err := MakeBridge("vz-x", false)
		again, err2 := MakeBridge("vz-x", true)
		if err != nil || err2 != nil || one != again || !strings.Contains(ip("link", "show", "vz-x"), ",UP") {
			t.Errorf("%d %d %v %v", one, again, err, err2)
		}
		ip("link", "add", "in", "type", "veth", "peer", "name", "out")
		ip("link", "set", "in", "master", "vz-x")
		if err := RemoveBridge("vz-x"); err != nil || !there("vz-x") {
			t.Errorf("one that is used: %v", err)
		}
		ip("link", "set", "in", "nomaster")
		if err := RemoveBridge("vz-x"); err != nil || there("vz-x") {
			t.Errorf("one that is empty: %v", err)
		}
		if err := RemoveBridge("vz-x"); err != nil {
			t.Errorf("one that is gone: %v", err)
		}
		if err := RemoveBridge("in"); err != nil || !there("in") {
			t.Errorf("what is no bridge: %v", err)
		}
	})
}

// TestReturn: what was lent comes back, however far the loan and the return had
// got.
func TestReturn(t *testing.T) {
	apart(t, func(ip func(...string) string) {
		other := exec.Command("unshare", "--net", "sleep", "60")
		if err := other.Start(); err != nil {
			t.Error(err)
			return
		}
		defer func() { other.Process.Kill(); other.Wait() }()
		waitOther(t, other.Process.Pid)
		file := "/proc/" + strconv.Itoa(other.Process.Pid) + "/ns/net"
		home, err := sys.Openat(unix.AT_FDCWD, "/proc/thread-self/ns/net", unix.O_RDONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer sys.Close(home)
		// Return works in the process's network, which is not this one.
		back := func(i *Interface, file string) error {
			return sys.Apart(func(l sys.Locked) error {
				if err := sys.Setns(l, home, unix.CLONE_NEWNET); err != nil {
					return err
				}
				return i.bring(l, file)
			})
		}
		ip("link", "add", "one", "type", "veth", "peer", "name", "two")
		ip("addr", "add", "192.0.2.7/25", "dev", "one")
		ip("link", "set", "one", "up")
		check := func(what string) {
			t.Helper()
			if got := ip("-o", "addr", "show", "dev", "one"); !strings.Contains(got, "192.0.2.7/25") || !strings.Contains(ip("link", "show", "one"), ",UP") {
				t.Errorf("%s: %s", what, got)
			}
		}
		i, err := Look("one")
		if err != nil {
			t.Error(err)
			return
		}
		// It was never lent; not even the file was made.
		for _, f := range []string{file, "/no/such", "/etc/passwd"} {
			if err := back(i, f); err != nil {
				t.Errorf("%s: %v", f, err)
			}
			check("never lent")
		}
		lend := func(as string) {
			t.Helper()
			if err := i.Lend(other.Process.Pid, as); err != nil {
				t.Error(err)
			}
			if _, err := Find("one"); err == nil {
				t.Error("it is still here")
			}
		}
		lend("inside")
		if err := back(i, file); err != nil {
			t.Error(err)
		}
		check("lent")
		if err := back(i, file); err != nil { // and once more
			t.Error(err)
		}
		check("lent, and back already")
		// Its name, and that which it has there, are taken here.
		lend("inside")
		ip("link", "add", "one", "type", "bridge")
		ip("link", "add", "inside", "type", "bridge")
		if err := back(i, file); err == nil {
			t.Error("both names are taken, and nothing is said")
		}
		ip("link", "del", "inside")
		if err := back(i, file); err == nil {
			t.Error("its name is taken, and nothing is said")
		}
		ip("link", "del", "one")
		if err := back(i, file); err != nil {
			t.Error(err)
		}
		check("after its name was free again")
		// Its number is taken here.
		lend("inside")
		ip("link", "add", "third", "index", strconv.Itoa(i.Index()), "type", "bridge")
		if err := back(i, file); err != nil {
			t.Error(err)
		}
		check("with another number")
	})
}
