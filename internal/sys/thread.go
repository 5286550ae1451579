package sys

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Locked proves that the calling goroutine holds its OS thread for good: it
// can only be had from the functions here. Functions that depend on the thread's
// namespaces, working directory or root take it as an argument, so that calling
// them from elsewhere does not compile.
type Locked struct{ held *struct{} }

// Lock ties the calling goroutine to its thread. It is never untied: a thread
// whose namespaces changed must not run other goroutines, and Go ends it with
// the goroutine.
func Lock() Locked {
	runtime.LockOSThread()
	return Locked{&struct{}{}}
}

// Spawn runs f on a thread that ends with it, and with the thread what it has of its
// own: f may change its namespaces, or stay for as long as something needs the thread.
//
// It is never the process's first thread, on which a goroutine of Go's may well begin.
// That one can't end: Go would park it for good, and with it the mounts of a machine
// that is gone. And what /proc shows of the process is what the first thread has.
func Spawn(f func(Locked)) {
	go func() {
		l := Lock()
		if unix.Gettid() != unix.Getpid() {
			f(l)
			return
		}
		// As long as this goroutine has it, no other begins there.
		begun := make(chan struct{})
		Spawn(func(l Locked) {
			close(begun)
			f(l)
		})
		<-begun
		runtime.UnlockOSThread()
	}()
}

// EndThread ends the calling thread, and with it what the thread has of its own, but
// tells Go nothing, for which it is in a call that takes long. That saves the time
// that Go takes to end a thread, in a process that ends soon.
func EndThread(_ Locked) { unix.Syscall(unix.SYS_EXIT, 0, 0, 0) }

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
	Spawn(func(l Locked) { done <- f(l) })
	return <-done
}
