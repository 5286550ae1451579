package faults

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFaultResume kills the launcher, as it is installed, while it gives a big
// tree to other users. The tree is then neither the one's nor the others'. The
// next start, whoever it is for, gives it away completely: every owner, mode,
// capability and access list is what it would have been.
func TestFaultResume(t *testing.T) {
	w := theOne(t)
	m := of("resumed", "--private-users=pick", "--private-users-ownership=chown")
	m.shifts = true
	elsewhere := m
	elsewhere.args = append(elsewhere.args[:len(elsewhere.args)-2:len(elsewhere.args)-2], "--private-users=805306368:65536", "--private-users-ownership=chown")
	auto := m
	auto.args = append(auto.args[:len(auto.args)-1:len(auto.args)-1], "--private-users-ownership=auto")
	fresh := func() {
		t.Helper()
		if err := w.fresh(m); err != nil {
			t.Fatal(err)
		}
		for i := range 40 {
			dir := fmt.Sprintf("%s/srv/many/%d", root, i)
			if err := variety(dir, 2); err != nil {
				t.Fatal(err)
			}
			for j := range 40 {
				if err := os.WriteFile(fmt.Sprintf("%s/%d", dir, j), nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	list := func() []string {
		t.Helper()
		l, err := owners(root)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	start := func(m machine) vector {
		t.Helper()
		r, err := w.startWith(w.launch, m)
		if err != nil || r.status != 0 || r.err != "" {
			t.Fatalf("a start: %v %v", r, err)
		}
		v, err := w.read(r.out)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	// What it comes to when nobody is killed.
	resumers := []machine{m, elsewhere, auto}
	var want [3]vector
	var owned [3][]string
	for i, r := range resumers[:2] {
		fresh()
		want[i] = start(r)
		owned[i] = list()
	}
	want[2], owned[2] = want[0], owned[0]
	rounds := 9
	if whole() {
		rounds = 60
	}
	half, least, most := 0, len(owned[0]), 0
	for i := range rounds {
		fresh()
		before, err := w.things(m)
		if err != nil {
			t.Fatal(err)
		}
		// A second kill, while the first one's work is taken up again.
		for range 1 + i%2 {
			w.killMidway(t, m, time.Duration(i*i)*10*time.Microsecond)
			mine, others := 0, 0
			for _, line := range list()[1:] {
				if ids := strings.Fields(line)[2]; strings.Contains(ids, ":") && len(ids) > 11 {
					others++
				} else {
					mine++
				}
			}
			if mine > 0 && others > 0 {
				half++
				least, most = min(least, others), max(most, others)
			}
		}
		which := i % 3
		if i%4 < 2 { // a clean-up has nothing to do with it
			if err := w.cleanUp(); err != nil {
				t.Fatal(err)
			}
		}
		if d := want[which].differs(start(resumers[which])); len(d) > 0 {
			t.Errorf("round %d: the payload ran in another state: %q", i, d)
		}
		if d := difference(owned[which], list()); len(d) > 0 {
			t.Errorf("round %d: the tree is not what it would have been (%d files): %.2000q", i, len(d), d)
		}
		if err := w.cleanUp(); err != nil {
			t.Fatal(err)
		}
		if err := w.clean(m, before); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
	}
	t.Logf("%d rounds; %d kills left the tree half done (%d to %d of %d files)", rounds, half, least, most, len(owned[0]))
	if half < rounds/3 {
		t.Errorf("only %d of the kills came midway", half)
	}
}

// killMidway starts a machine and kills the launcher a moment after the tree's
// root was marked.
func (w *world) killMidway(t *testing.T, m machine, later time.Duration) {
	t.Helper()
	marked := func() bool {
		var st syscall.Stat_t
		return syscall.Lstat(root, &st) == nil && st.Uid>>16 == 0xfffe
	}
	again := marked()
	c := exec.Command(w.launch, append(m.args, m.program)...)
	c.SysProcAttr = &syscall.SysProcAttr{}
	if w.cgfd != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(w.cgfd.Fd())
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	held := func() bool { // the launcher is at work
		_, err := os.Stat(filepath.Join("/run/launch", m.name, "undo"))
		return err == nil
	}
	for deadline := time.Now().Add(longest); time.Now().Before(deadline); {
		if marked() && (!again || held()) {
			break
		}
		var si unix.Siginfo
		if unix.Waitid(unix.P_PID, c.Process.Pid, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil && si.Signo != 0 {
			break
		}
	}
	time.Sleep(later)
	c.Process.Kill()
	c.Wait()
	w.quiet(2 * time.Second)
}
