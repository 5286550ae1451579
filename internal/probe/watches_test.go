package probe

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const inWatches = "LAUNCH_TEST_WATCHES"

// TestWatches: where few files can be watched, that is seen. The limit is that of
// a user namespace, so that nobody else runs into it.
func TestWatches(t *testing.T) {
	if most := os.Getenv(inWatches); most != "" {
		if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte(most), 0); err != nil {
			t.Skip(err)
		}
		w, err := Watches()
		if want := most == "3"; err != nil || !w.Known || w.Few != want || w.Most <= 0 {
			t.Errorf("at most %s: %+v %v", most, w, err)
		}
		return
	}
	for _, most := range []string{"3", "20"} {
		c := exec.Command("/proc/self/exe", "-test.run=^TestWatches$", "-test.v")
		c.Env = append(os.Environ(), inWatches+"="+most)
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		out, err := c.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		} else if strings.Contains(string(out), "--- SKIP") {
			t.Skip(string(out))
		}
	}
}
