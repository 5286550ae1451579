package netns

import (
	"os"
	"os/exec"
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
