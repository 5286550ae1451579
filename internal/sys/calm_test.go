package sys

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestCalm: one thread has the longer slack, the first that the runtime made;
// and who starts something has that of before.
func TestCalm(t *testing.T) {
	if runtime.GOMAXPROCS(0) < 2 {
		t.Skip("with one processor nothing is done")
	}
	own := func() uintptr {
		n, _, _ := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_TIMERSLACK, 0, 0)
		return n
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := own()
	Calm()
	if os.Getuid() == 0 {
		var calmed []string
		tasks, err := filepath.Glob("/proc/self/task/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, task := range tasks {
			// Only names of the kind /proc/TID have it.
			text, err := os.ReadFile("/proc/" + filepath.Base(task) + "/timerslack_ns")
			if err == nil && strings.TrimSpace(string(text)) == "1000000" {
				calmed = append(calmed, filepath.Base(task))
			}
		}
		least := ""
		for _, task := range tasks {
			n := filepath.Base(task)
			if n != strconv.Itoa(os.Getpid()) && (least == "" || len(n) < len(least) || len(n) == len(least) && n < least) {
				least = n
			}
		}
		// On a busy host, others were born between: then it is left alone.
		n, err := strconv.Atoi(least)
		far := err == nil && n > os.Getpid()+8
		if far && len(calmed) != 0 || !far && (len(calmed) != 1 || calmed[0] != least) {
			t.Errorf("calmed: %q, want the first of %q", calmed, tasks)
		}
	}
	// As on a thread that the monitor made.
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_TIMERSLACK, 1000000, 0)
	Settle(Locked{})
	if now := own(); now != before {
		t.Errorf("the slack of what is started is %d, want %d", now, before)
	}
}
