package share

import (
	"fmt"
	"os"
	"path/filepath"
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

// TestLives: of the lives that a machine had before it rebooted, no thread of the
// launcher keeps anything; and each has the timer slack that the launcher was started
// with.
func TestLives(t *testing.T) {
	launchOnly(t, "machines that it starts again by itself")
	for _, procs := range []string{"1", "2"} {
		t.Run("processors "+procs, func(t *testing.T) {
			p := begin(t)
			// Not with --keep-unit: then a reboot is the service manager's.
			r := p.Start(append(p.l.Env, "GOMAXPROCS="+procs), p.l.Path, "--quiet", "--directory="+p.dir, "--machine=lives", "--register=no", "--console=pipe",
				"--resolv-conf=off", "--timezone=off", "/bin/busybox", "ash", "-c",
				`busybox cat /proc/self/timerslack_ns; echo x >>/srv/lives; [ $(wc -l </srv/lives) -lt 4 ] && busybox reboot -f; echo up; sleep 60`)
			if err := r.Await("up", most); err != nil {
				t.Fatal(err, r.Out)
			}
			own, err := os.ReadFile("/proc/self/timerslack_ns")
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Out.String(); got != strings.Repeat(string(own), 4)+"up\n" {
				t.Errorf("it said %q, its caller's timer slack is %q", got, own)
			}
			// The thread of the last life may be about to end.
			var wrong string
			for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if wrong = strays(r.Process.Pid); wrong == "" {
					break
				}
			}
			if wrong != "" {
				t.Error(wrong)
			}
			r.Process.Signal(syscall.SIGTERM)
			if code, err := r.Code(most); err != nil || code != 1 {
				t.Errorf("stopped, it ends with %d, %v\n%s", code, err, r.Out)
			}
		})
	}
}

// strays says what is wrong if not exactly one thread of the process has another mount
// namespace than the first.
func strays(pid int) string {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/ns/mnt", pid))
	if err != nil || len(tasks) < 3 {
		return fmt.Sprint(tasks, err)
	}
	has := map[string]int{}
	for _, task := range tasks {
		ns, err := os.Readlink(task)
		if err != nil {
			return err.Error() // it ended just now
		}
		has[ns]++
	}
	home, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil || len(has) != 2 || has[home] != len(tasks)-1 {
		return fmt.Sprintf("its threads are in these mount namespaces: %v, the first in %s, %v", has, home, err)
	}
	return ""
}
