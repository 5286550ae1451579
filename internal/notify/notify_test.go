package notify

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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
	got, err := Receive(s, os.Getpid(), nil)
	if err != nil || got != (State{Ready: true, Stopping: true, Status: "a [31mb"}) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err := Receive(s, os.Getpid(), nil); err != nil || got != (State{}) {
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
	if got, err := Receive(s, os.Getpid(), nil); err != nil || got.Ready {
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
	if got, err := Receive(s, os.Getpid(), nil); err != nil || got != (State{}) {
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

// TestStore: descriptors are passed on with their name, and what is no request,
// or has a name that the service manager refuses, is closed.
func TestStore(t *testing.T) {
	from, path := listen(t)
	to, manager := listen(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	for _, lines := range [][]string{{"FDSTORE=1", "FDNAME=a"}, {"FDSTORE=1", "FDPOLL=0"}, {"FDSTOREREMOVE=1", "FDNAME=a"},
		{"FDNAME=a"}, {"FDSTORE=0"}, {"FDSTORE=1", "FDNAME=a:b"}, {"FDSTORE=1", "FDNAME=" + strings.Repeat("x", 256)}, {"BARRIER=1"}, {"FDSTOREREMOVE=1"}} {
		if err := send(path, []int{int(w.Fd())}, lines); err != nil {
			t.Fatal(err)
		}
	}
	Send(path, "FDSTORE=1") // without one
	w.Close()
	if _, err := Receive(from, os.Getpid(), func(d Stored) {
		if err := Store(manager, d); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	var held []int
	for {
		m, err := sys.Receive(to, 4096, true)
		if err != nil {
			break
		}
		got = append(got, fmt.Sprintf("%s %d", strings.ReplaceAll(string(m.Data), "\n", " "), len(m.Fds)))
		held = append(held, m.Fds...)
	}
	if want := []string{"FDSTORE=1 FDNAME=a 1", "FDSTORE=1 FDPOLL=0 1", "FDSTOREREMOVE=1 FDNAME=a 0"}; !slices.Equal(got, want) {
		t.Fatalf("%q, want %q", got, want)
	}
	// It is the pipe that was sent, and nobody else holds it any more.
	sys.WriteString(held[0], "x")
	for _, n := range held {
		sys.Close(n)
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second)) // else there is no end to it
	if b, err := io.ReadAll(r); string(b) != "x" || err != nil {
		t.Errorf("%q %v", b, err)
	}
}
