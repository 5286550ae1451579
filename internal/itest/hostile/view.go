// Package hostile starts machines from trees that mean harm, and looks at what
// became of the host and what the payload can see. It guarantees that nothing
// of the machine it runs on is touched, not even by a launcher that is broken
// on purpose: every start happens in a copy of the host's root. It refuses to
// know how the launcher does it.
//
// Room: test.
package hostile

// View is what it prints; the tests read it.
type View struct {
	FDs     map[string]string // descriptor → what it is
	Status  map[string]string // /proc/self/status
	UIDMap  string
	Cwd     string // as the kernel tells it
	Mounts  []Mount
	UpIsTop bool // "/.." is "/"
	OneIsUs bool // /proc/1/root is "/"
	Console string
	TTY     string // what opening /dev/tty gives
	Env     []string
	Found   []string // names behind which the canary is
	Key     bool     // the canary's key can be found
	Did     map[string]string
}

// Mount is one line of mountinfo.
type Mount struct{ Target, Root, Type, Flags, Propagation, Super string }
