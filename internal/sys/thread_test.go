package sys

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEndThread: the thread is gone, and all else goes on as if it were busy, also what
// stops every thread for a moment.
func TestEndThread(t *testing.T) {
	tid := make(chan int)
	Spawn(func(l Locked) {
		tid <- unix.Gettid()
		EndThread(l)
		t.Error("goes on")
	})
	task := fmt.Sprintf("/proc/self/task/%d", <-tid)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(task); err != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("still there after 10 s")
		}
	}
	for range 3 {
		runtime.GC()
	}
}
