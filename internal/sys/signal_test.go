package sys

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestCatch(t *testing.T) {
	c, err := Catch(unix.SIGUSR1, unix.SIGTERM)
	if err != nil {
		t.Fatal(err)
	}
	wait := func() {
		t.Helper()
		fds := []unix.PollFd{{Fd: int32(c.R), Events: unix.POLLIN}}
		for end := time.Now().Add(5 * time.Second); fds[0].Revents == 0; {
			if time.Now().After(end) {
				t.Fatal("no signal came")
			}
			Poll(fds, 1000)
		}
	}
	// From other threads too, and many: none may end the process or hang it.
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGUSR1} {
		if err := unix.Kill(unix.Getpid(), s); err != nil {
			t.Fatal(err)
		}
		wait()
		if got := c.Pending(); !slices.Equal(got, []Signal{{s, unix.Getpid()}}) {
			t.Errorf("got %v, want %v", got, s)
		}
	}
	for range 200_000 / 64 {
		unix.Kill(unix.Getpid(), unix.SIGUSR1)
	}
	wait()
	// Another thread may yet be about to get one.
	for n := 1; n > 0; n, _ = Poll([]unix.PollFd{{Fd: int32(c.R), Events: unix.POLLIN}}, 200) {
		if list := c.Pending(); slices.ContainsFunc(list, func(s Signal) bool { return s != Signal{unix.SIGUSR1, unix.Getpid()} }) {
			t.Fatalf("got %v", list)
		}
	}
	if out, err := exec.Command("sh", "-c", fmt.Sprintf("echo $$; kill -USR1 %d", unix.Getpid())).Output(); err != nil {
		t.Fatal(err)
	} else {
		wait()
		pid, _ := strconv.Atoi(strings.TrimSpace(string(out)))
		if got := c.Pending(); !slices.Equal(got, []Signal{{unix.SIGUSR1, pid}}) {
			t.Errorf("got %v, sent by %d", got, pid)
		}
	}
	c.Release()

	// What was there before is back, and a second set works.
	if c, err = Catch(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	unix.Kill(unix.Getpid(), unix.SIGUSR1)
	wait()
	if got := c.Pending(); !slices.Equal(got, []Signal{{unix.SIGUSR1, unix.Getpid()}}) {
		t.Errorf("got %v", got)
	}
}
