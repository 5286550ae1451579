package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/mount/snapshot"
)

// restoring prints how long trees of mounts take to be restored, beside a plain
// loop that makes the same mounts by mount(2).
func restoring(w io.Writer, rounds int) error {
	fmt.Fprintf(w, "%-24s %10s %10s %7s %7s %14s\n", "", "loop", "restored", "ratio", "at most", "for one mount")
	for _, n := range []int{250, 500, 1000, 2000, 4000} {
		var loop, again []float64
		for range rounds {
			a, b, err := trip(n)
			if err != nil {
				return fmt.Errorf("%d mounts: %w", n, err)
			}
			loop, again = append(loop, a), append(again, b)
		}
		slices.Sort(loop)
		slices.Sort(again)
		a, b := loop[rounds/2], again[rounds/2]
		fmt.Fprintf(w, "%-24s %7.1f ms %7.1f ms %7.2f %7.2f %11.1f µs\n", fmt.Sprintf("%d mounts", n), a, b, b/a, 5.0, 1000*b/float64(n))
	}
	return nil
}

// trip makes n mounts, saves them, and restores them, and gives the times of
// the first and of the last in ms.
func trip(n int) (loop, again float64, err error) {
	// Each on a thread that is never given back: its mounts go with it.
	made, end := make(chan int), make(chan bool)
	defer close(end)
	go func() {
		l := sys.Lock()
		loop, err = plainLoop(l, n)
		made <- unix.Gettid()
		<-end
	}()
	tid := <-made
	if err != nil {
		return 0, 0, err
	}
	f, err := snapshot.Read([]int{tid})
	if err != nil {
		return 0, 0, err
	}
	done := make(chan error)
	go func() {
		l := sys.Lock()
		begun := time.Now()
		spaces, err := snapshot.Restore(l, f, snapshot.Options{})
		again = float64(time.Since(begun).Microseconds()) / 1000
		for _, s := range spaces {
			s.Close()
		}
		done <- err
	}()
	return loop, again, <-done
}

// plainLoop makes one mount in five a new file system and the others bind
// mounts, half of them read-only.
func plainLoop(l sys.Locked, n int) (float64, error) {
	if err := sys.Unshare(l, unix.CLONE_NEWNS|unix.CLONE_FS); err != nil {
		return 0, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, err
	}
	if err := unix.Mount("root", "/mnt", "tmpfs", 0, ""); err != nil {
		return 0, err
	}
	if err := unix.Chdir("/mnt"); err != nil {
		return 0, err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return 0, err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return 0, err
	}
	if err := unix.Chdir("/"); err != nil {
		return 0, err
	}
	if err := os.Mkdir("/source", 0o755); err != nil {
		return 0, err
	}
	begun := time.Now()
	for i := range n {
		at := fmt.Sprintf("/%d", i)
		if err := unix.Mkdir(at, 0o755); err != nil {
			return 0, err
		}
		if i%5 == 0 {
			if err := unix.Mount("t", at, "tmpfs", 0, ""); err != nil {
				return 0, err
			}
			continue
		}
		if err := unix.Mount("/source", at, "", unix.MS_BIND, ""); err != nil {
			return 0, err
		}
		if i%2 == 0 {
			if err := unix.Mount("", at, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
				return 0, err
			}
		}
	}
	return float64(time.Since(begun).Microseconds()) / 1000, nil
}
