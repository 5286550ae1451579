package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// call is a system call of a start.
type call struct {
	lane string
	n    int
	nr   int
	name string // "child": the op's text is in site
	site string
	// again is the how manieth call of that name and site it is, where numbers
	// are chance; else 0.
	again int
}

func (c call) String() string { return fmt.Sprintf("%s/%d %s %s", c.lane, c.n, c.name, c.site) }

// fault gives the value of LAUNCH_FAULT.
func (c call) fault(what string) string {
	if c.again > 0 {
		return fmt.Sprintf("%s/%s %s#%d=%s", c.lane, c.name, c.site, c.again, what)
	}
	return fmt.Sprintf("%s/%d=%s", c.lane, c.n, what)
}

// always tells that the fault build lets the call be made whatever happens.
func (c call) always() bool { return c.name == "close" || c.name == "umask" }

func parseLog(text string) (calls []call, err error) {
	for line := range strings.Lines(text) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 4)
		if len(f) < 4 {
			return nil, fmt.Errorf("a line of the fault log: %q", line)
		}
		lane, n, _ := strings.Cut(f[0], "/")
		c := call{lane: lane, name: f[2], site: f[3]}
		c.n, _ = strconv.Atoi(n)
		c.nr, _ = strconv.Atoi(f[1])
		calls = append(calls, c)
	}
	return calls, nil
}

// reference is an undisturbed start: its calls, what the payload saw.
func (w *world) reference(t *testing.T, m machine) ([]call, vector, string) {
	t.Helper()
	if err := w.fresh(m); err != nil {
		t.Fatal(err)
	}
	before, err := w.things(m)
	if err != nil {
		t.Fatal(err)
	}
	log := desk + "/log"
	os.Remove(log)
	r, err := w.start(m, "LAUNCH_FAULT_LOG="+log)
	if err != nil || r.status != 0 || r.err != "" {
		t.Fatalf("an undisturbed start: %v %v", r, err)
	}
	v, err := w.read(r.out)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := parseLog(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if m.shifts {
		if w.owned, err = owners(root); err != nil {
			t.Fatal(err)
		}
		if len(w.owned) < 20 || !strings.Contains(w.owned[0], " 40755 ") || strings.Contains(w.owned[0], " 0:0 ") {
			t.Fatalf("an undisturbed start didn't give the tree away: %q", w.owned)
		}
	}
	if residue, err := w.after(m, before); err != nil || len(residue) > 0 {
		t.Fatalf("an undisturbed start leaves: %v %v", residue, err)
	}
	if m.drifts {
		seen := map[string]int{}
		sure := len(strings.Split(upToExec(string(text)), "\n")) - 1
		for i := range calls {
			c := &calls[i]
			seen[c.lane+c.name+c.site]++
			if i >= sure {
				c.again = seen[c.lane+c.name+c.site]
			}
		}
	}
	return calls, v, string(text)
}

// TestFaultReference: the calls of a start are the same each time. Without
// that, the numbers of LAUNCH_FAULT would mean nothing.
func TestFaultReference(t *testing.T) {
	w := theOne(t)
	for _, m := range every() {
		t.Run(m.name, func(t *testing.T) {
			_, v, text := w.reference(t, m)
			times := 1
			if whole() {
				times = 5
			}
			for range times {
				_, v2, text2 := w.reference(t, m)
				if upToExec(text2) != upToExec(text) {
					t.Fatalf("two starts made different calls:\n%s", firstDifference(text, text2))
				}
				if d := v.differs(v2); len(d) > 0 {
					t.Fatalf("two payloads saw different things: %q", d)
				}
			}
		})
	}
}

// upToExec cuts a log off where the payload runs: how often its output is
// forwarded depends on how it comes.
func upToExec(log string) string {
	i := strings.LastIndex(log, " child exec ")
	if i < 0 {
		return log
	}
	// The child's calls are counted when they are written down. The launcher
	// lets it go, closes the terminal's slave, and hears that it ran.
	rest := strings.SplitAfterN(log[i:], "\n", 6)
	return log[:i] + strings.Join(rest[:min(5, len(rest))], "")
}

func firstDifference(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("%s\n%s", x[i], y[i])
		}
	}
	return fmt.Sprintf("%d and %d calls", len(x), len(y))
}

// tally is what a campaign adds up.
type tally struct {
	calls, faults, kills, ok, harmless, wrong int
	// starts that took the place of a clean-up.
	next int
	// calls that the build makes whatever happens, and calls that never came.
	always, missed, again int
	// residue before the clean-up, of failed calls and of kills.
	dirtyFaults, dirtyKills int
	kinds                   map[string]int
	slowest                 time.Duration
	slow                    string
	took                    time.Duration
	skipped                 int
	why                     string
}

func (s *tally) print(t *testing.T, m machine) {
	share := func(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }
	t.Logf("%s: %d calls: %d failures + %d kills: %d ok, %d harmless, %d wrong; residue before clean-up %.1f %% of failures, %.1f %% of kills %v; %d next starts; took %v, slowest %v (LAUNCH_FAULT=%s)",
		m.name, s.calls, s.faults, s.kills, s.ok, s.harmless, s.wrong,
		share(s.dirtyFaults, s.faults), share(s.dirtyKills, s.kills), s.kinds, s.next, s.took.Round(time.Second), s.slowest.Round(time.Millisecond), s.slow)
	if s.always > 0 {
		t.Logf("%s: %d calls (close, umask) were only followed by a kill: Linux makes them whatever it answers, and so does the fault build", m.name, s.always)
	}
	if s.missed > 0 {
		t.Logf("%s: %d faults were left out: their calls, after the payload's exec, didn't come in %d tries", m.name, s.missed, patience)
	}
	if s.again > s.missed*patience {
		t.Logf("%s: %d runs more, since another call came in the first ones", m.name, s.again-s.missed*patience)
	}
	if s.skipped > 0 {
		t.Logf("%s: %d more were left out, since the time was up: %s", m.name, s.skipped, s.why)
	}
}

// patience is how often a fault is tried whose call doesn't come each time.
const patience = 4

var allErrnos = []unix.Errno{unix.EPERM, unix.ENOMEM, unix.ENOSPC, unix.EMFILE}

// try is one fault: a call and what becomes of it.
type try struct {
	call  call
	errno unix.Errno // 0: kill
}

// unlike tells which tries are like none before.
//
// A failure is alike another if the same function of the launcher, called by
// the same one, in the same lane, asked for the call: then the same code finds
// it, on whichever machine. What is to be undone then depends on how much was
// recorded, and by which part of the start; each of that is tried, too, with
// whatever call comes first.
//
// Two kills are alike if nothing was done between them that outlives the
// launcher.
func (w *world) unlike(m machine, calls []call, tries []try) []bool {
	type site struct {
		lane, name, site string
		errno            unix.Errno
	}
	type stage struct {
		machine, lane string
		site          string // for kills
		recorded      int
		lives         bool
	}
	now := map[call]stage{}
	lasting, ops := map[call]bool{}, map[string]bool{}
	n, named, lives := 0, false, false
	for _, c := range calls {
		named = named || strings.Contains(c.site, "state.Open")
		if c.name == "write" && strings.HasPrefix(c.site, "state.Machine.Record") {
			n++
		}
		lives = lives || c.name == "clone3"
		if now[c] = (stage{machine: m.name, lane: c.lane, recorded: n, lives: lives}); !named {
			now[c] = stage{recorded: -1} // nothing is, on whatever machine
		}
		lasting[c] = named && c.changes()
		// What the first process does for itself: limits and capabilities are
		// nothing to the launcher.
		if lives && c.lane == "child" {
			text := c.site
			if rest, ok := strings.CutPrefix(text, "set RLIMIT_"); ok {
				text = text[:len(text)-len(rest)]
			}
			lasting[c] = !ops[text]
			ops[text] = true
		}
	}
	list := make([]bool, len(tries))
	first := func(key any) bool {
		is := !w.tried[key]
		w.tried[key] = true
		return is
	}
	for i, t := range tries {
		at := now[t.call]
		if t.errno == 0 {
			at.site = t.call.name + " " + t.call.site
			list[i] = lasting[t.call] && first(at)
			continue
		}
		new := first(site{t.call.lane, t.call.name, t.call.site, t.errno})
		list[i] = first(at) || new
	}
	return list
}

// changes tells whether a call may change something that outlives the launcher.
func (c call) changes() bool {
	switch c.name {
	case "close", "umask", "statx", "fstatfs", "read", "readlinkat", "getdents64", "lseek", "listxattrat", "flistxattr", "fgetxattr",
		"openat2", "fsopen", "fsconfig", "fsmount", "open_tree", "mount_setattr", "move_mount", "umount2", "pivot_root", "chdir", "fchdir", "chroot",
		"ppoll", "prctl", "getrandom", "capget", "capset", "setfsuid", "setfsgid", "ioctl", "pipe2", "dup3", "keyctl", "unshare", "setns",
		"prlimit64", "inotify_init1", "memfd_create", "sethostname", "socket", "setsockopt", "faccessat2":
		// Descriptors, and mounts in a namespace that goes with the process, but
		// for the one that keeps the machine's network.
		return c.name == "move_mount" && strings.Contains(c.site, "engine.builder.keep")
	case "mkdirat", "mknodat", "symlinkat", "fchownat", "fchmodat":
		// A file system that was not attached yet goes, too.
		return c.site != "attach.Tree.entry<attach.Tree.fill"
	case "openat": // files are made only there
		return strings.Contains(c.site, "state.") || strings.Contains(c.site, "pick.") || strings.Contains(c.site, "tree.") || strings.Contains(c.site, "attach.Tree.create")
	}
	return true
}

// hasty is set when a campaign had less time than it should have.
var hasty bool

// campaign lets every call fail with each errno, and kills the launcher after
// every call. If there is a budget, only what fits in, but, if distinct is set,
// all that is like nothing else.
func (w *world) campaign(t *testing.T, m machine, errnos []unix.Errno, distinct bool, budget time.Duration) *tally {
	calls, want, _ := w.reference(t, m)
	s := &tally{kinds: map[string]int{}}
	if d, err := time.ParseDuration(os.Getenv("LAUNCH_FAULTS_BUDGET")); err == nil && budget > 0 {
		hasty = hasty || d < budget
		budget = d
	}
	var tries []try
	for _, c := range calls {
		tries = append(tries, try{c, 0})
		if c.always() {
			s.always++
		}
	}
	for _, e := range errnos {
		for _, c := range calls {
			if !c.always() {
				tries = append(tries, try{c, e})
			}
		}
	}
	// A sample takes them in an order that reaches everywhere soon.
	order := make([]int, len(tries))
	for i := range order {
		order[i] = i
	}
	if budget > 0 {
		step := len(tries)*618/1000 | 1
		for gcd(step, len(tries)) != 1 {
			step += 2
		}
		for i := range order {
			order[i] = i * step % len(tries)
		}
	}
	// What is like no other comes first, and whatever the budget.
	must := 0
	if distinct {
		unlike := w.unlike(m, calls, tries)
		slices.SortStableFunc(order, func(a, b int) int {
			switch {
			case unlike[a] == unlike[b]:
				return 0
			case unlike[a]:
				return -1
			}
			return 1
		})
		for _, u := range unlike {
			if u {
				must++
			}
		}
		t.Logf("%s: %d faults, of which %d are like no other", m.name, len(tries), must)
	}
	began := time.Now()
	seen := map[call]bool{}
	for done, i := range order {
		if budget > 0 && done >= must && time.Since(began) > budget {
			s.skipped, s.why = len(order)-done, "this is a sample; LAUNCH_TEST=faults takes all"
			if distinct {
				s.why = "kills between which nothing was done that lasts, and failures of calls that the same function asked for; LAUNCH_FAULTS_BUDGET=1h takes them, too"
			}
			break
		}
		c, e := tries[i].call, tries[i].errno
		seen[c] = true
		what := "kill"
		if e != 0 {
			what = unix.ErrnoName(e)
		}
		var residue []string
		var verdict outcome
		var r result
		var err error
		for range patience {
			if residue, verdict, r, err = w.try(m, c, what, want); verdict != missed {
				break
			}
			s.again++
		}
		switch {
		case verdict == missed && err == nil:
			s.missed++
			continue
		case e == 0:
			s.kills++
		default:
			s.faults++
		}
		if verdict&nextToo != 0 {
			verdict &^= nextToo
			s.next++
		}
		if r.took > s.slowest {
			s.slowest, s.slow = r.took, c.fault(what)
		}
		if len(residue) > 0 {
			if e == 0 {
				s.dirtyKills++
			} else {
				s.dirtyFaults++
			}
			had := map[string]bool{}
			for _, r := range residue {
				if k := kind(r); !had[k] {
					had[k] = true
					s.kinds[k]++
				}
			}
		}
		switch {
		case err != nil:
			s.wrong++
			if s.wrong <= 200 {
				t.Errorf("%s: LAUNCH_FAULT=%s (%s): %v", m.name, c.fault(what), c, err)
			}
		case verdict == harmless:
			s.harmless++
		default:
			s.ok++
		}
	}
	s.calls, s.took = len(seen), time.Since(began)
	s.print(t, m)
	return s
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// kind sums up a line of residue.
func kind(line string) string {
	f := strings.Fields(line)
	if f[0] != "new:" && f[0] != "gone:" {
		return "process"
	}
	if f[1] != "file" {
		return f[1]
	}
	for _, dir := range []string{root, place, "/run/launch", "/run/systemd", "/tmp", "/var/tmp"} {
		if f[2] == dir || strings.HasPrefix(f[2], dir+"/") {
			return dir
		}
	}
	return f[2]
}

type outcome int

const (
	good     outcome = iota
	harmless         // the call failed and the machine ran as if it had not
	missed           // the call didn't come
	// nextToo: beside the clean-up, the next start was tried.
	nextToo outcome = 1 << 7
)

// try is one run with one fault; the error says what is wrong with it.
func (w *world) try(m machine, c call, what string, want vector) (residue []string, o outcome, r result, err error) {
	before, r, err := w.disturbed(m, c, what)
	if err != nil {
		return
	}
	var verdict error
	if came, ok := w.hit(c); !ok {
		if o = missed; c.again == 0 {
			verdict = fmt.Errorf("the call never came, but %q", came)
		}
	} else {
		o, verdict = w.judge(m, c, what, r, want)
	}
	// What a start makes in the tree stays there, for the next one to find.
	half, err := owners(root)
	if err != nil && !(m.makes && errors.Is(err, fs.ErrNotExist)) {
		return
	}
	residue, err = w.after(m, before)
	report(m, c, what, r, verdict, residue)
	if verdict != nil {
		err = fmt.Errorf("%w [%v]", verdict, r)
	}
	if err != nil {
		return residue, o, r, err
	}
	if o == missed {
		return
	}
	// The clean-up did it. The next start must do it as well, and what was begun
	// it must end. It has nothing to go by but what was left: once for each kind
	// of that is enough.
	if !w.was(m, half) {
		o |= nextToo
		if err = w.next(m, before, want); err != nil {
			return residue, o, r, fmt.Errorf("after the clean-up: %w", err)
		}
	}
	if len(residue) > 0 && !w.was(m, append(residue, half...)) {
		o |= nextToo
		if before, _, err = w.disturbed(m, c, what); err == nil {
			w.quiet(longest) // who still dies counts as running
			err = w.next(m, before, want)
		}
		if cerr := w.cleanUp(); err == nil {
			err = cerr
		}
		if err != nil {
			w.scrub()
		}
	}
	return
}

// disturbed is a start of a fresh machine with a fault, and what there was
// before.
func (w *world) disturbed(m machine, c call, what string) (before []string, r result, err error) {
	if err = w.fresh(m); err != nil {
		return
	}
	if before, err = w.things(m); err != nil {
		return
	}
	os.Remove(desk + "/hit")
	r, err = w.start(m, "LAUNCH_FAULT="+c.fault(what), "LAUNCH_FAULT_HIT="+desk+"/hit")
	return
}

// hit tells whether the call came that was to fail, and which one came instead.
func (w *world) hit(c call) (came string, ok bool) {
	text, _ := os.ReadFile(desk + "/hit")
	return string(text), string(text) == c.name+" "+c.site
}

// chance is what differs in the same residue.
var chance = regexp.MustCompile(`inode \d+|\bmount \d+ \d+ |[0-9a-f]{16}`)

// was tells whether the machine left the same before.
func (w *world) was(m machine, left []string) bool {
	text := m.name + "\n" + chance.ReplaceAllString(strings.Join(left, "\n"), "")
	if w.left[text] {
		return true
	}
	w.left[text] = true
	return false
}

// next is an undisturbed start after a disturbed one: it works like any other,
// and leaves nothing, neither of its own nor of the other.
func (w *world) next(m machine, before []string, want vector) error {
	r, err := w.startWith(w.launch, m)
	if err != nil {
		return err
	}
	cleaned := "launch: cleaned up after machine " // of a copy
	if r.status != 0 || r.err != "" && !strings.HasPrefix(r.err, cleaned) {
		return fmt.Errorf("the next start: %v", r)
	}
	v, err := w.read(r.out)
	if err != nil {
		return fmt.Errorf("the next start: %w", err)
	}
	if d := want.differs(v); len(d) > 0 {
		return fmt.Errorf("the next start: the payload ran in another state: %s", strings.Join(d, "; "))
	}
	left := w.quiet(2 * time.Second)
	now, err := w.things(m)
	if err != nil {
		return err
	}
	m.grows = append(slices.Clone(m.grows), "/run/launch")
	if left = append(left, changed(m, before, now)...); len(left) > 0 {
		return fmt.Errorf("left after the next start: %s", strings.Join(left, "; "))
	}
	if m.shifts {
		now, err := owners(root)
		if err != nil {
			return err
		}
		if d := difference(w.owned, now); len(d) > 0 {
			return fmt.Errorf("the next start gave the tree to others: %q", d)
		}
	}
	return nil
}

// difference lists what is in one list alone.
func difference(a, b []string) (list []string) {
	for _, s := range a {
		if !slices.Contains(b, s) {
			list = append(list, "-"+s)
		}
	}
	for _, s := range b {
		if !slices.Contains(a, s) {
			list = append(list, "+"+s)
		}
	}
	return list
}

// report adds a line per run to the file that $LAUNCH_FAULTS_REPORT names.
func report(m machine, c call, what string, r result, verdict error, residue []string) {
	name := os.Getenv("LAUNCH_FAULTS_REPORT")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s\t%s\t%s\t%s\t%d\t%v\t%q\t%v\t%q\n", m.name, c.fault(what), c.name, c.site, r.status, r.took.Milliseconds(), r.err, verdict, residue)
}

// judge holds a run against what it may come to.
func (w *world) judge(m machine, c call, what string, r result, want vector) (outcome, error) {
	e := errnoOf(what)
	switch {
	case r.hung:
		return good, fmt.Errorf("hangs")
	case r.status == -1 && e == 0:
		return good, nil // killed, as asked
	case r.status == -1:
		return good, fmt.Errorf("the launcher was killed")
	case r.status == 0:
		v, err := w.read(r.out)
		if err != nil {
			return good, err
		}
		if e == 0 && !last(c) {
			return good, fmt.Errorf("was not killed")
		}
		line, listed := tolerated(c)
		if d := want.differs(v); len(d) > 0 && !listed.covers(d) {
			return good, fmt.Errorf("the payload ran in another state: %s", strings.Join(d, "; "))
		}
		if e == 0 {
			return good, nil
		}
		if line == 0 && (strings.Contains(r.err, "undo: ") || strings.Contains(r.err, "may be missing: ")) && tells(r.err, e) == nil {
			// The payload has ended and its status counts. That something is
			// left was told, and the clean-up must find it; or that something
			// is missing.
			return harmless, nil
		}
		if line == 0 && !m.pod {
			return good, fmt.Errorf("status 0, and harmless.txt doesn't list %s %s", c.name, c.site)
		}
		return harmless, nil
	case r.status == 1:
		if e == 0 {
			return good, fmt.Errorf("was not killed")
		}
		if m.pod && strings.HasPrefix(r.err, "launch: ") {
			return good, nil
		}
		return good, tells(r.err, e)
	}
	return good, fmt.Errorf("an unexpected status")
}

// errnoOf gives the errno of a fault, 0 for a kill.
func errnoOf(what string) unix.Errno {
	what = strings.TrimSuffix(what, "+")
	for e := unix.Errno(1); e < 134; e++ {
		if unix.ErrnoName(e) == what {
			return e
		}
	}
	return 0
}

// last: an exec that works never returns, nor does an exit, so nothing comes
// after it. The kill after the call by which the launcher learns of it stands
// for it.
func last(c call) bool {
	return c.lane == "child" && (c.nr == unix.SYS_EXECVE || c.nr == unix.SYS_EXECVEAT || c.nr == unix.SYS_EXIT_GROUP)
}

// TestFault lets every call of a plain start fail.
func TestFault(t *testing.T) {
	w := theOne(t)
	if whole() {
		w.campaign(t, plain, allErrnos, false, 0)
		all["plain"] = true
		return
	}
	w.campaign(t, plain, []unix.Errno{unix.EPERM}, false, 20*time.Second)
}

// TestFaultOther does the same with machines that need more. Each gets as much
// time as an idle computer of two processors needs for everything; a busy one
// leaves out what is like something else.
func TestFaultOther(t *testing.T) {
	if !whole() {
		t.Skip("set LAUNCH_TEST=faults to run it")
	}
	w := theOne(t)
	// TestFault has all of these.
	calls, _, _ := w.reference(t, plain)
	var tries []try
	for _, c := range calls {
		tries = append(tries, try{c, unix.EPERM}, try{c, unix.ENOMEM})
	}
	w.unlike(plain, calls, tries)
	tried := 0
	for _, m := range others {
		t.Run(m.name, func(t *testing.T) {
			tried++
			w.campaign(t, m, []unix.Errno{unix.EPERM, unix.ENOMEM}, true, otherBudget)
		})
	}
	all["others"] = tried == len(others)
}

// otherBudget is the time for each of the other machines.
var otherBudget = 100 * time.Second
