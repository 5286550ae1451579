package hostns

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFirstPID: the number of the first pid namespace, where that can be told:
// the kernel's own threads are nowhere else.
func TestFirstPID(t *testing.T) {
	comm, err := os.ReadFile("/proc/2/comm")
	if err != nil || strings.TrimSpace(string(comm)) != "kthreadd" {
		t.Skip("this is not the first pid namespace, or /proc shows another one")
	}
	_, st, err := namespace("/proc/self/ns/pid", unix.CLONE_NEWPID)
	if err != nil || st.Ino != firstPID {
		t.Errorf("it is %#x, want %#x (%v)", st.Ino, uint64(firstPID), err)
	}
}
