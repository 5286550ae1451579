package share

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestRests: a launcher that waits has given most of its code back, and still does what
// it is there for.
func TestRests(t *testing.T) {
	launchOnly(t, "launchers that rest")
	p := begin(t)
	r := p.start("echo up; sleep 60")
	if err := r.Await("up", most); err != nil {
		t.Fatal(err, r.Out)
	}
	has := 0
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), "RssFile:")
		if has, err = strconv.Atoi(strings.Fields(rest)[0]); err != nil {
			t.Fatal(err)
		}
		if has < 3<<10 {
			break
		}
	}
	if has >= 3<<10 {
		t.Errorf("it has %d KiB of files in memory", has)
	}
	r.Process.Signal(syscall.SIGTERM)
	if code, err := r.Code(most); err != nil || code != 1 {
		t.Errorf("stopped, it ends with %d, %v\n%s", code, err, r.Out)
	}
}
