package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"launch/internal/itest/stage"
)

// A runtimeCall is a call of the Go runtime's, or of the standard library's
// own start, which no fault run can reach. Where args is given, only calls
// with such arguments are meant.
type runtimeCall struct{ name, args, why string }

var runtimeCalls = []runtimeCall{
	{"execve", `^"[^"]*/launch"`, "how the launcher itself begins"},
	{"brk", "", "memory"}, {"mmap", "", "memory"}, {"munmap", "", "memory"}, {"madvise", "", "memory"}, {"mprotect", "", "memory"}, {"mincore", "", "memory"},
	{"arch_prctl", "", "a thread's own storage"}, {"set_tid_address", "", "threads"}, {"set_robust_list", "", "threads"}, {"rseq", "", "threads"},
	{"clone", "CLONE_THREAD", "threads"}, {"clone3", "CLONE_THREAD", "threads"},
	{"futex", "", "goroutines that wait"}, {"nanosleep", "", "the scheduler"}, {"sched_yield", "", "the scheduler"}, {"sched_getaffinity", "", "the number of processors"},
	{"gettid", "", "threads"}, {"getpid", "", "preemption"}, {"tgkill", "", "preemption"}, {"timer_create", "", "preemption"},
	{"rt_sigaction", "", "signals"}, {"rt_sigprocmask", "", "signals; the child's own is in its table, and that of clone3 can't fail"}, {"rt_sigreturn", "", "signals"}, {"sigaltstack", "", "signals"}, {"restart_syscall", "", "signals"},
	{"epoll_create1", "", "the poller"}, {"epoll_ctl", "", "the poller"}, {"epoll_pwait", "", "the poller"}, {"eventfd2", "", "the poller"},
	{"exit", "", "the end of a thread"}, {"exit_group", "", "the end"},
	{"prctl", "PR_SET_VMA", "names of memory"},
	{"uname", "", "the kernel's version, for the runtime"},
	{"getrandom", "", "the runtime's hash seeds; those of the launcher are in the log"},
	{"openat", `hpage_pmd_size|cpu\.max|cpu\.cfs_(quota|period)_us`, "memory, and the number of processors"},
	{"openat", `"/proc/self/(cgroup|mountinfo)", O_RDONLY\|O_CLOEXEC\) = 3`, "the number of processors: the first descriptor, so before main"},
	{"fcntl", `^[012], F_GETFD`, "the standard descriptors, before main"},
	{"fcntl", `^[012], F_GETFL`, "the standard descriptors, before main"},
	{"prlimit64", `^0, RLIMIT_NOFILE, (NULL|\{rlim_cur=.*\}, NULL)`, "the limit of open files is raised; asking for it is in the log, too"},
}

// traced is a line of strace.
type traced struct {
	pid, nr    int
	name, args string // args with the result
}

var straceLine = regexp.MustCompile(`^(\d+) +\[ *(\d+)\] (.*)$`)

// parseTrace joins what strace cut in two, and leaves out the payload.
func parseTrace(text string) (list []traced, err error) {
	cut := stage.Pieces{}
	payload := map[int]bool{}
	first := 0
	for line := range strings.Lines(text) {
		m := straceLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			continue // signals and ends
		}
		pid, _ := strconv.Atoi(m[1])
		nr, _ := strconv.Atoi(m[2])
		if first == 0 {
			first = pid
		}
		rest, err := cut.Join(pid, m[3])
		if err != nil {
			return nil, err
		}
		name, args, ok := strings.Cut(rest, "(")
		if !ok || payload[pid] {
			continue
		}
		list = append(list, traced{pid, nr, name, args})
		if name == "execve" && pid != first && strings.HasSuffix(rest, "= 0") {
			payload[pid] = true
		}
	}
	// What never came back: the end of the process, and threads that waited.
	for pid, rest := range cut {
		if name, args, ok := strings.Cut(rest, "("); ok && !payload[pid] {
			list = append(list, traced{pid, -1, name, args})
		}
	}
	return list, nil
}

// ofRuntime sorts out the runtime's calls, and those on descriptors that it
// opened.
func ofRuntime(list []traced) (own []traced, used map[string]int) {
	open := map[string]bool{}
	used = map[string]int{}
	compiled := make([]*regexp.Regexp, len(runtimeCalls))
	for i, r := range runtimeCalls {
		compiled[i] = regexp.MustCompile(r.args)
	}
next:
	for _, c := range list {
		if c.nr < 0 && c.name != "clone3" && c.name != "clone" {
			for i := range runtimeCalls {
				if runtimeCalls[i].name == c.name {
					continue next
				}
			}
		}
		on, _, _ := strings.Cut(strings.TrimRight(c.args, " "), ",")
		on, _, _ = strings.Cut(on, ")")
		switch c.name {
		case "read", "pread64", "close":
			if open[on] {
				used[c.name]++
				if c.name == "close" {
					delete(open, on)
				}
				continue next
			}
		}
		for i, r := range runtimeCalls {
			if r.name == c.name && compiled[i].MatchString(c.args) {
				used[c.name]++
				if c.name == "openat" {
					if i := strings.LastIndex(c.args, "= "); i >= 0 {
						open[c.args[i+2:]] = true
					}
				}
				continue next
			}
		}
		own = append(own, c)
	}
	return own, used
}

// TestFaultCoverage: nearly everything that a start asks of the kernel can be
// made to fail. It traces a start of the launcher as it is installed and holds
// it against the list of the fault build.
func TestFaultCoverage(t *testing.T) {
	w := theOne(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace: ", err)
	}
	calls, _, _ := w.reference(t, plain)
	if err := w.fresh(plain); err != nil {
		t.Fatal(err)
	}
	// A payload that does nothing, so that nothing of it is in the trace.
	nothing := exec.Command("gcc", "-static", "-x", "c", "-o", root+"/usr/bin/nothing", "-")
	nothing.Stdin = strings.NewReader("int main(void) { return 0; }")
	if out, err := nothing.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	out := filepath.Join(desk, "strace")
	defer os.Remove(out)
	args := append([]string{"-f", "-n", "-qq", "-s", "64", "-o", out, w.launch}, plain.args...)
	r, err := w.run(nil, strace, append(args, "/bin/nothing")...)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(r.err, "ptrace") {
		t.Skipf("strace can't trace here: %s", r.err)
	}
	if r.status != 0 {
		t.Fatalf("a start under strace: %v", r)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	all, err := parseTrace(string(text))
	if err != nil {
		t.Fatal(err)
	}
	own, used := ofRuntime(all)
	have := map[int]int{}
	for _, c := range calls {
		have[c.nr]++
	}
	var elsewhere []string
	through := 0
	for _, c := range own {
		if have[c.nr] > 0 {
			have[c.nr]--
			through++
			continue
		}
		elsewhere = append(elsewhere, fmt.Sprintf("%s(%.100s", c.name, c.args))
	}
	share := 100 * float64(through) / float64(max(len(own), 1))
	t.Logf("%d calls of a start: %d of the runtime, %d others, of which %.1f %% can be made to fail (%d in the list)",
		len(all), len(all)-len(own), len(own), share, len(calls))
	for _, e := range elsewhere {
		t.Logf("elsewhere: %s", e)
	}
	if len(own) < 200 || len(used) < 5 {
		t.Errorf("only %d calls were found: the trace can't be right", len(own))
	}
	if share < 95 {
		t.Errorf("%.1f %% of the calls pass through packages sys and child, want 95 %%", share)
	}
	if len(calls)-through > len(calls)/10 {
		var missing []int
		for nr, n := range have {
			if n > 0 {
				missing = append(missing, nr)
			}
		}
		slices.Sort(missing)
		t.Errorf("%d calls of the list were not seen by strace (numbers %v)", len(calls)-through, missing)
	}
	if err := w.cleanUp(); err != nil {
		t.Error(err)
	}
}
