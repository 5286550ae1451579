package cgroup

import (
	"os/exec"
	"syscall"
	"testing"
)

// TestSignalAll: a number that is not in the list any more when its process is
// open may be somebody else's by then.
func TestSignalAll(t *testing.T) {
	var stays, gone *exec.Cmd
	for _, c := range []**exec.Cmd{&stays, &gone} {
		*c = exec.Command("sleep", "100")
		if err := (*c).Start(); err != nil {
			t.Fatal(err)
		}
		defer (*c).Wait()
		defer (*c).Process.Kill()
	}
	asked := 0
	err := SignalAll(func() ([]int, error) {
		asked++
		if asked == 1 {
			return []int{stays.Process.Pid, gone.Process.Pid}, nil
		}
		return []int{stays.Process.Pid}, nil
	}, int(syscall.SIGTERM))
	if err != nil {
		t.Fatal(err)
	}
	gone.Process.Kill()
	gone.Wait()
	if got := gone.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGKILL {
		t.Errorf("the process that was gone from the list got signal %d", got)
	}
	stays.Wait()
	if got := stays.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != syscall.SIGTERM {
		t.Errorf("the process of the list got signal %d", got)
	}
}
