package notify

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

func listen(t *testing.T) (int, string) {
	t.Helper()
	dir := t.TempDir()
	n, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(n)
	s, err := Listen(n, "notify", 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sys.Close(s) })
	path := filepath.Join(dir, "notify")
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o200 {
		t.Fatalf("socket: %v %v", st.Mode(), err)
	}
	return s, path
}

func TestRelay(t *testing.T) {
	s, path := listen(t)
	if err := Send(path, "READY=1", "STATUS=a\x1b[31mb", "MAINPID=1", "FDSTORE=1"); err != nil {
		t.Fatal(err)
	}
	if err := Send(path, "STOPPING=1"); err != nil {
		t.Fatal(err)
	}
	got, err := Receive(s, os.Getpid())
	if err != nil || got != (State{Ready: true, Stopping: true, Status: "a [31mb"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := Receive(s, os.Getpid()); err != nil || got != (State{}) {
		t.Fatalf("nothing was sent, got %+v, %v", got, err)
	}
}

// What another process says is not the machine's word.
func TestOtherSender(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed: nothing to send from another process")
	}
	s, path := listen(t)
	cmd := exec.Command("python3", "-c", "import socket,sys; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', sys.argv[1])", path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, err := Receive(s, os.Getpid()); err != nil || got.Ready {
		t.Fatalf("%+v, %v", got, err)
	}
}

// Too long, too many, and with descriptors: nothing is kept, nothing blocks.
func TestFlood(t *testing.T) {
	s, path := listen(t)
	if err := Send(path, "READY=1", strings.Repeat("x", 2*maxMessage)); err != nil {
		t.Fatal(err)
	}
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before, _ := os.ReadDir("/proc/self/fd")
	for range 5 {
		if _, _, err := c.WriteMsgUnix([]byte("FDSTORE=1"), unix.UnixRights(0, 1, 2), &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Receive(s, os.Getpid()); err != nil || got != (State{}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if after, _ := os.ReadDir("/proc/self/fd"); len(after) != len(before) {
		t.Errorf("%d descriptors before, %d after", len(before), len(after))
	}
}

func TestSendNowhere(t *testing.T) {
	if err := Send("", "READY=1"); err != nil {
		t.Error(err)
	}
	if err := Send("/does/not/exist", "READY=1"); err == nil {
		t.Error("no error for a socket that isn't there")
	}
}
