package sys

import (
	"slices"
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
		if got := c.Pending(); !slices.Equal(got, []unix.Signal{s}) {
			t.Errorf("got %v, want %v", got, s)
		}
	}
	for range 200_000 / 64 {
		unix.Kill(unix.Getpid(), unix.SIGUSR1)
	}
	wait()
	for len(c.Pending()) == 64 {
	}
	if got := c.Pending(); got != nil {
		t.Errorf("got %v after all was read", got)
	}
	c.Release()

	// What was there before is back, and a second set works.
	if c, err = Catch(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	unix.Kill(unix.Getpid(), unix.SIGUSR1)
	wait()
	if got := c.Pending(); !slices.Equal(got, []unix.Signal{unix.SIGUSR1}) {
		t.Errorf("got %v", got)
	}
}
