//go:build !faults

package sys

import "golang.org/x/sys/unix"

// Faults tells whether this is the build that counts calls and makes them
// fail (build tag "faults"). In every other build the counting is compiled
// away.
const Faults = false

func before(string, uintptr) unix.Errno { return 0 }
func after()                            {}

// Go runs f beside the caller and gives a function that waits for its error.
// lane names it in fault runs.
func Go(lane string, f func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() error { return <-done }
}
