package sys_test

import (
	"encoding/binary"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// TestBPFLoad: signals that come while the kernel verifies a program, as Go sends
// them to itself, don't keep it from being loaded.
func TestBPFLoad(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("loading programs is root's work")
	}
	// As many instructions as take a while: r0 = 0, and the end.
	var program []byte
	add := func(code uint64) { program = binary.NativeEndian.AppendUint64(program, code) }
	for range 4000 {
		add(0xb7)
	}
	add(0x95)

	sys.Lock()
	thread, over := unix.Gettid(), atomic.Bool{}
	sent := make(chan int)
	go func() {
		n := 0
		for ; !over.Load(); n++ {
			unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
		}
		sent <- n
	}()
	const times = 300
	for i := range times {
		n, err := sys.BPFLoad(unix.BPF_PROG_TYPE_CGROUP_DEVICE, program, "launch_test", nil)
		if err != nil {
			t.Errorf("load %d: %v", i, err)
			break
		}
		sys.Close(n)
	}
	over.Store(true)
	if n := <-sent; n < times {
		t.Errorf("only %d signals came", n)
	}
}
