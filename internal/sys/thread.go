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
