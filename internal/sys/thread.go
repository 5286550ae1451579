package sys

import "runtime"

// Locked proves that the calling goroutine holds its OS thread for good: it
// can only be had from Lock. Functions that depend on the thread's namespaces,
// working directory or root take it as an argument, so that calling them from
// elsewhere does not compile.
type Locked struct{ held *struct{} }

// Lock ties the calling goroutine to its thread. It is never untied: a thread
// whose namespaces changed must not run other goroutines, and Go ends it with
// the goroutine.
func Lock() Locked {
	runtime.LockOSThread()
	return Locked{&struct{}{}}
}

// Elsewhere runs f on a thread that the caller's thread has lent nothing to:
// in the process's own namespaces, with its root. f must leave the thread as
// it found it.
func Elsewhere(f func(Locked) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- f(Locked{&struct{}{}})
	}()
	return <-done
}

// Apart runs f on a thread of its own, which begins in the process's own
// namespaces and ends with f: f may change them.
func Apart(f func(Locked) error) error {
	done := make(chan error, 1)
	go func() { done <- f(Lock()) }()
	return <-done
}
