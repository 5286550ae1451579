// Package entry is where a program begins, before Go's runtime does, if it is
// linked with -E launch/internal/entry.begin.
//
// The runtime asks two questions when it starts: how large a huge page is, and how
// many processors its cgroup grants. For the second it reads the list of all
// mounts, and it does so even when it is told to ignore the answer. Together they
// are a tenth of a millisecond, for programs that live a few; on hosts with many
// mounts, more. A file that can't be opened is answer enough for it, so until the
// first package is initialized this process may open none: its limit of open files
// is 0.
//
// What the runtime would take bit by bit, the main goroutine's stack and the first part
// of the heap, it then takes in one piece each, before the other packages use it.
//
// Nothing depends on it. Linked without the option, a program starts as any. Nobody
// sees the limit: it is back before other packages look.
//
// It refuses to know what the program is.
//
// Room: base.
package entry

// files is RLIMIT_NOFILE as the program was started with it, 0 and 0 if it was
// left alone.
var files [2]uint64

// restore sets the limit to files.
func restore()

// The linker puts packages first that need no others, and this needs none: it must
// come before package syscall, which raises the limit for Go's own sake and gives
// what it found to the programs it starts.
func init() {
	if Begun() {
		restore()
	}
	Stack()
	heap()
}

// Begun reports whether the program began here and not with Go's runtime.
func Begun() bool { return files != [2]uint64{} }
