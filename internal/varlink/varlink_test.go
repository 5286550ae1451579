package varlink

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestPatience: a service that hangs doesn't make us hang, however far it came.
func TestPatience(t *testing.T) {
	const patience = 300 * time.Millisecond
	dir := t.TempDir()
	listen := func(name string, backlog int) (int, string) {
		t.Helper()
		path := filepath.Join(dir, name)
		n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(n, &unix.SockaddrUnix{Name: path})
		}
		if err == nil {
			err = unix.Listen(n, backlog)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(n) })
		return n, path
	}
	ask := func(what, path string) {
		t.Helper()
		done, began := make(chan error, 1), time.Now()
		go func() { done <- within(patience, path, "a.B", struct{}{}, nil) }()
		select {
		case err := <-done:
			if !errors.Is(err, unix.ETIMEDOUT) || time.Since(began) < patience {
				t.Errorf("%s: %v, after %v", what, err, time.Since(began))
			}
		case <-time.After(20 * patience):
			t.Errorf("%s: no end", what)
		}
	}

	_, deaf := listen("deaf", 5)
	ask("it takes no calls", deaf)

	// Of a queue of none, there is room for one.
	_, full := listen("full", 0)
	c, err := net.Dial("unix", full)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask("its queue is full", full)

	half, path := listen("half", 5)
	twin, err := unix.Dup(half)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(twin), "half")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, `{"parameters":`)
			defer c.Close()
		}
	}()
	ask("it begins to answer", path)
}
