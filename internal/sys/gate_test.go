package sys

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// TestGate: who waits at a gate goes on when it is opened and not before, with one
// processor and with more; and an open gate holds up nobody.
func TestGate(t *testing.T) {
	for _, procs := range []int{1, 2} {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(procs))
		g := NewGate()
		var opened atomic.Bool
		early, done := make(chan bool, 1), make(chan bool)
		go func() {
			g.Wait()
			early <- !opened.Load()
			g.Wait()
			close(done)
		}()
		time.Sleep(20 * time.Millisecond)
		opened.Store(true)
		g.Open()
		if <-early {
			t.Errorf("%d processors: went through a closed gate", procs)
		}
		<-done
	}
}
