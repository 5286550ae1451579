package faults

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// plain is the machine that everything is tried with.
var plain = machine{
	name: "faulty",
	args: []string{"--directory=" + root, "--machine=faulty", "--quiet", "--resolv-conf=off", "--timezone=off", "--pipe"},
}

// others have what plain has not.
var others = []machine{
	{
		name: "picked",
		args: []string{"--directory=" + root, "--machine=picked", "--quiet", "--resolv-conf=off", "--timezone=off", "--pipe", "--private-users=pick"},
	},
	{
		name: "volatile",
		args: []string{"--directory=" + root, "--machine=volatile", "--quiet", "--resolv-conf=off", "--timezone=off", "--pipe", "--volatile=overlay"},
	},
	{
		name: "mounts",
		args: []string{"--directory=" + root, "--machine=mounts", "--quiet", "--resolv-conf=off", "--timezone=off", "--pipe", "--private-network",
			"--bind=:/var/scratch", "--overlay=" + place + "/lower:" + place + "/upper:/data"},
		dirs:  []string{"lower", "upper"},
		grows: []string{root + "/var/scratch", root + "/data"},
	},
	{
		name: "limits",
		args: []string{"--directory=" + root, "--machine=limits", "--quiet", "--resolv-conf=off", "--timezone=off", "--pipe", "--rlimit=NOFILE=100",
			"--oom-score-adjust=300", "--cpu-affinity=0", "--ambient-capability=CAP_CHOWN", "--restrict-address-families=AF_UNIX"},
	},
	{
		name:   "terminal",
		args:   []string{"--directory=" + root, "--machine=terminal", "--quiet", "--resolv-conf=off", "--timezone=off", "--console=read-only"},
		drifts: true,
	},
}

// call is a system call of a start.
type call struct {
	lane string
	n    int
	nr   int
	name string // "child": the op's text is in site
	site string
}

func (c call) String() string { return fmt.Sprintf("%s/%d %s %s", c.lane, c.n, c.name, c.site) }

// fault gives the value of LAUNCH_FAULT.
func (c call) fault(what string) string { return fmt.Sprintf("%s/%d=%s", c.lane, c.n, what) }

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
	if residue, err := w.after(m, before); err != nil || len(residue) > 0 {
		t.Fatalf("an undisturbed start leaves: %v %v", residue, err)
	}
	return calls, v, string(text)
}

// TestFaultReference: the calls of a start are the same each time. Without
// that, the numbers of LAUNCH_FAULT would mean nothing.
func TestFaultReference(t *testing.T) {
	w := theOne(t)
	for _, m := range append([]machine{plain}, others...) {
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
	i := strings.Index(log, " child exec ")
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
	calls, kills, ok, harmless, wrong int
	// residue before the clean-up, of failed calls and of kills.
	dirtyFaults, dirtyKills int
	kinds                   map[string]int
	slowest                 time.Duration
	slow                    string
	skipped                 int
}

func (s *tally) print(t *testing.T, m machine, errnos int) {
	share := func(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }
	t.Logf("%s: %d calls × %d + %d kills: %d ok, %d harmless, %d wrong, residue before clean-up %.1f %% of failures, %.1f %% of kills %v; slowest %v (LAUNCH_FAULT=%s)",
		m.name, s.calls, errnos, s.kills, s.ok, s.harmless, s.wrong,
		share(s.dirtyFaults, s.calls*errnos), share(s.dirtyKills, s.kills), s.kinds, s.slowest.Round(time.Millisecond), s.slow)
	if s.skipped > 0 {
		t.Logf("%s: a sample: %d more were left out; LAUNCH_TEST=faults takes all", m.name, s.skipped)
	}
}

var allErrnos = []unix.Errno{unix.EPERM, unix.ENOMEM, unix.ENOSPC, unix.EMFILE}

// campaign lets every call fail with each errno, and kills the launcher after
// every call. Within the budget, if there is one.
func (w *world) campaign(t *testing.T, m machine, errnos []unix.Errno, budget time.Duration) *tally {
	calls, want, log := w.reference(t, m)
	if m.drifts {
		var err error
		if calls, err = parseLog(upToExec(log)); err != nil {
			t.Fatal(err)
		}
	}
	s := &tally{kinds: map[string]int{}}
	type try struct {
		call  call
		errno unix.Errno // 0: kill
	}
	var tries []try
	for _, c := range calls {
		tries = append(tries, try{c, 0})
	}
	for _, e := range errnos {
		for _, c := range calls {
			tries = append(tries, try{c, e})
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
	began := time.Now()
	seen := map[call]bool{}
	for done, i := range order {
		if budget > 0 && time.Since(began) > budget {
			s.skipped = len(order) - done
			break
		}
		c, e := tries[i].call, tries[i].errno
		seen[c] = true
		what := "kill"
		if e != 0 {
			what = unix.ErrnoName(e)
		} else {
			s.kills++
		}
		residue, verdict, r, err := w.try(m, c, e, want)
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
	s.calls = len(seen)
	s.print(t, m, len(errnos))
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
)

// try is one run with one fault; the error says what is wrong with it.
func (w *world) try(m machine, c call, e unix.Errno, want vector) (residue []string, o outcome, r result, err error) {
	if err = w.fresh(m); err != nil {
		return
	}
	before, err := w.things(m)
	if err != nil {
		return
	}
	what := "kill"
	if e != 0 {
		what = unix.ErrnoName(e)
	}
	if r, err = w.start(m, "LAUNCH_FAULT="+c.fault(what)); err != nil {
		return
	}
	o, verdict := w.judge(c, e, r, want)
	residue, err = w.after(m, before)
	report(m, c, what, r, verdict, residue)
	if verdict != nil {
		err = fmt.Errorf("%w [%v]", verdict, r)
	}
	return
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
func (w *world) judge(c call, e unix.Errno, r result, want vector) (outcome, error) {
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
		if line == 0 && strings.Contains(r.err, "undo: ") && tells(r.err, e) == nil {
			// The payload has ended and its status counts. That something is
			// left was told, and the clean-up must find it.
			return harmless, nil
		}
		if line == 0 {
			return good, fmt.Errorf("status 0, and harmless.txt doesn't list %s %s", c.name, c.site)
		}
		return harmless, nil
	case r.status == 1:
		if e == 0 {
			return good, fmt.Errorf("was not killed")
		}
		return good, tells(r.err, e)
	}
	return good, fmt.Errorf("an unexpected status")
}

// last: an exec that works never returns, nor does an exit, so nothing comes
// after it. The kill after the call by which the launcher learns of it stands
// for it.
func last(c call) bool {
	return c.lane == "child" && (c.nr == unix.SYS_EXECVE || c.nr == unix.SYS_EXIT_GROUP)
}

// TestFault lets every call of a plain start fail.
func TestFault(t *testing.T) {
	w := theOne(t)
	if whole() {
		w.campaign(t, plain, allErrnos, 0)
		all["plain"] = true
		return
	}
	w.campaign(t, plain, []unix.Errno{unix.EPERM}, 20*time.Second)
}

// TestFaultOther does the same with machines that need more; one errno each.
func TestFaultOther(t *testing.T) {
	if !whole() {
		t.Skip("set LAUNCH_TEST=faults to run it")
	}
	w := theOne(t)
	for _, m := range others {
		t.Run(m.name, func(t *testing.T) { w.campaign(t, m, []unix.Errno{unix.ENOMEM}, 0) })
	}
	all["others"] = true
}
