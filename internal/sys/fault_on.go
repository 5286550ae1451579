//go:build faults

package sys

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Faults tells whether this is the build that counts calls and makes them
// fail.
//
// The build reads $LAUNCH_FAULT, `LANE/WHICH=WHAT`: a call of the lane fails
// with WHAT (EPERM, ENOMEM, …) instead of being made, and, with WHAT ending in
// `+`, so does every later one of the same name and site; or, with WHAT being
// `kill`, it is made, and then the program is killed by SIGKILL; with `stop`, it
// is made, and the program stops until SIGCONT, so that somebody can look at
// what there is at that moment. WHICH is N, the
// number of the call (1 is the first), or `NAME SITE#N`, the N-th one of that
// name and site: so a call can be told where numbers before it are chance.
// $LAUNCH_FAULT_LOG names a file that gets one line `LANE/N NR NAME SITE` per
// call: NR is the call's number, SITE the functions that asked for it, the
// innermost first. Calls of a child's table say `child` as NAME and the op's
// text instead of SITE. $LAUNCH_FAULT_HIT names a file that gets NAME SITE
// when the call comes.
// Lanes run one after another in this build, so that numbers repeat.
const Faults = true

type fault struct {
	mu    sync.Mutex
	lane  string
	count map[string]int
	log   *os.File

	atLane  string
	at      int
	atCall  string // "NAME SITE"; "" if calls are counted whatever they are
	came    int    // how often that call came
	errno   unix.Errno
	kill    bool
	stop    bool
	forever bool
	hitCall string // what fails forever, once it has
	hits    *os.File
}

var faults = newFault()

func newFault() *fault {
	f := &fault{lane: "main", count: map[string]int{}}
	if path := os.Getenv("LAUNCH_FAULT_LOG"); path != "" {
		f.log, _ = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
	if path := os.Getenv("LAUNCH_FAULT_HIT"); path != "" {
		f.hits, _ = os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	}
	text := os.Getenv("LAUNCH_FAULT")
	i := strings.LastIndex(text, "=") // an op's text may have others
	if i < 0 {
		return f
	}
	where, what := text[:i], text[i+1:]
	lane, n, _ := strings.Cut(where, "/")
	f.atLane = lane
	if i := strings.LastIndex(n, "#"); i >= 0 {
		f.atCall, n = n[:i], n[i+1:]
	}
	f.at, _ = strconv.Atoi(n)
	if what == "kill" || what == "stop" {
		f.kill, f.stop = what == "kill", what == "stop"
		return f
	}
	what, f.forever = strings.CutSuffix(what, "+")
	for e := syscall.Errno(1); e < 134; e++ {
		if unix.ErrnoName(e) == what {
			f.errno = e
		}
	}
	if f.errno == 0 {
		panic("LAUNCH_FAULT: unknown errno " + what)
	}
	return f
}

// note counts a call and tells whether it is the one.
func (f *fault) note(nr uintptr, name, site string) (hit bool) {
	f.count[f.lane]++
	n := f.count[f.lane]
	same := f.hitCall != "" || f.atCall != "" && f.lane == f.atLane
	if site == "" && (f.log != nil || f.forever && n == f.at || same) {
		site = caller()
	}
	if f.log != nil {
		fmt.Fprintf(f.log, "%s/%d %d %s %s\n", f.lane, n, nr, name, site)
	}
	if f.hitCall != "" {
		return f.hitCall == name+" "+site
	}
	if f.lane != f.atLane {
		return false
	}
	if f.atCall != "" {
		if f.atCall != name+" "+site {
			return false
		}
		f.came++
		n = f.came
	}
	if n != f.at {
		return false
	}
	if f.forever {
		f.hitCall = name + " " + site
	}
	if f.hits != nil {
		if site == "" {
			site = caller()
		}
		f.hits.WriteString(name + " " + site)
	}
	return true
}

// caller names the two innermost functions that are not of this package.
func caller() string {
	var pcs [24]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	var site []string
	for len(site) < 2 {
		f, more := frames.Next()
		name, ours := strings.CutPrefix(f.Function, "launch/")
		ours = ours || strings.HasPrefix(name, "main.")
		if ours && !strings.HasPrefix(name, "internal/sys.") {
			site = append(site, strings.NewReplacer("(*", "", ")", "").Replace(path.Base(name)))
		}
		if !more {
			break
		}
	}
	return strings.Join(site, "<")
}

var killNext, stopNext bool

func before(name string, nr uintptr) unix.Errno {
	faults.mu.Lock()
	defer faults.mu.Unlock()
	if !faults.note(nr, name, "") {
		return 0
	}
	if faults.kill || faults.stop {
		killNext, stopNext = faults.kill, faults.stop
		return 0
	}
	switch nr {
	case unix.SYS_CLOSE, unix.SYS_UMASK:
		// Linux closes the descriptor even when it reports an error, and umask
		// has no errors.
		return 0
	}
	return faults.errno
}

func after() {
	if killNext {
		unix.Kill(os.Getpid(), unix.SIGKILL)
		select {}
	}
	if stopNext {
		stopNext = false
		// This thread: another one would let it run on for a moment.
		unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
	}
}

// Go runs f at once, in a lane of its own.
func Go(lane string, f func() error) (wait func() error) {
	faults.mu.Lock()
	old := faults.lane
	faults.lane = lane
	faults.mu.Unlock()
	err := f()
	faults.mu.Lock()
	faults.lane = old
	faults.mu.Unlock()
	return func() error { return err }
}

// ChildFault counts an op of a child's table in the lane "child", and tells
// whether it must fail, or be followed by a kill.
func ChildFault(nr uintptr, text string) (errno unix.Errno, kill bool) {
	faults.mu.Lock()
	defer faults.mu.Unlock()
	old := faults.lane
	faults.lane = "child"
	defer func() { faults.lane = old }()
	if !faults.note(nr, "child", text) {
		return 0, false
	}
	return faults.errno, faults.kill
}
