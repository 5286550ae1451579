package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// side is one of the two launchers that are held against each other beyond
// their start.
type side struct {
	name, path string
}

// args are the words for a machine of that name.
func (s side) args(machine, tree string, more ...string) []string {
	words := []string{s.path, "--quiet", "--console=pipe", "--register=no", "--keep-unit", "--machine=" + machine, "--directory=" + tree}
	return append(words, more...)
}

// trial is one figure: launch's, systemd-nspawn's, and how they should compare.
type trial struct {
	what string
	unit string
	// most is launch's share of systemd-nspawn's figure that is still fine.
	most float64
	take func(s side) (float64, error)
}

// more prints figures beyond the start: what a waiting launcher holds in
// memory, how long an end takes, and what happens to the owners of big trees.
func more(w io.Writer, dir, launch, nspawn string, alive, rounds int) error {
	tree, big := filepath.Join(dir, "tree"), filepath.Join(dir, "big")
	if err := copyFile(filepath.Join(built, "pause"), filepath.Join(tree, "usr/bin/pause")); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tree, "usr/lib/systemd"), 0o755); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(built, "stamp"), filepath.Join(tree, "usr/lib/systemd/systemd")); err != nil {
		return err
	}
	files, size, err := plantBig(big)
	if err != nil {
		return err
	}
	trials := []trial{
		{fmt.Sprintf("memory of one of %d that wait (PSS)", alive), "KiB", 1, func(s side) (float64, error) { return waiting(s, tree, alive) }},
		{"from the start to the first instruction of --boot's init", "ms", 0.5, func(s side) (float64, error) {
			return middle(rounds, func(int) (float64, error) { return booting(s, tree) })
		}},
		{"from SIGTERM to the end", "ms", 0.5, func(s side) (float64, error) {
			return middle(rounds, func(int) (float64, error) { return stopping(s, tree) })
		}},
		{fmt.Sprintf("owners of %d files, %d MiB, changed", files, size>>20), "ms", 0.5, func(s side) (float64, error) {
			return owners(s, big, "chown", rounds)
		}},
		{"start with id-mapped owners, that tree", "ms", 1, func(s side) (float64, error) { return mapped(s, big, rounds) }},
		{"start with id-mapped owners, small tree", "ms", 1, func(s side) (float64, error) { return mapped(s, tree, rounds) }},
	}
	fmt.Fprintf(w, "\n%-58s %10s %16s %7s %7s\n", "", "launch", "systemd-nspawn", "ratio", "at most")
	for _, t := range trials {
		mine, err := t.take(side{"launch", launch})
		if err != nil {
			return fmt.Errorf("%s: launch: %w", t.what, err)
		}
		line := fmt.Sprintf("%-58s %7.1f %s", t.what, mine, t.unit)
		if nspawn != "" {
			peer, err := t.take(side{"nspawn", nspawn})
			if err != nil {
				line += fmt.Sprintf("   systemd-nspawn: %v", err)
			} else {
				line += fmt.Sprintf(" %12.1f %s %7.2f %7.2f", peer, t.unit, mine/peer, t.most)
			}
		}
		fmt.Fprintln(w, line)
	}
	return nil
}

// plantBig makes a tree of about 200 MiB, in the sizes that an operating
// system's files have: most are small.
func plantBig(tree string) (files int, size int64, err error) {
	if err := plant(tree); err != nil {
		return 0, 0, err
	}
	text := bytes.Repeat([]byte("launch bench "), 10<<10)
	for i := range 8000 {
		dir := filepath.Join(tree, "usr/lib", strconv.Itoa(i/400), strconv.Itoa(i/20%20))
		if i%20 == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return 0, 0, err
			}
		}
		part := text[:[...]int{300, 1 << 10, 4 << 10, 30 << 10, 95 << 10}[i%5]]
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), part, 0o644); err != nil {
			return 0, 0, err
		}
		files++
		size += int64(len(part))
	}
	return files, size, nil
}

// middle is the median of what f gives.
func middle(rounds int, f func(round int) (float64, error)) (float64, error) {
	var all []float64
	for i := range rounds {
		v, err := f(i)
		if err != nil {
			return 0, err
		}
		all = append(all, v)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// start starts a machine and doesn't wait for its end.
func (s side) start(machine, tree string, more ...string) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	args := s.args(machine, tree, more...)
	return os.StartProcess(args[0], args, &os.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: []*os.File{null, null, null}})
}

// payload waits until a process of that name is there below pid, and gives the
// processes on the way to it: the launcher's own.
func payload(pid int, name string) (own []int, err error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if own := above(pid, name); own != nil {
			return own, nil
		}
	}
	return nil, fmt.Errorf("no %s came", name)
}

func above(pid int, name string) []int {
	if text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); strings.TrimSpace(string(text)) == name {
		return []int{}
	}
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range tasks {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		for _, c := range strings.Fields(string(text)) {
			child, _ := strconv.Atoi(c)
			if list := above(child, name); list != nil {
				return append(list, pid)
			}
		}
	}
	return nil
}

// waiting gives the proportional set size of a launcher whose machine does
// nothing, when many are alive.
func waiting(s side, tree string, alive int) (mean float64, err error) {
	var all []*os.Process
	defer func() {
		// Each undoes what it made: killed, they would leave it.
		for _, p := range all {
			p.Signal(syscall.SIGTERM)
		}
		for _, p := range all {
			p.Wait()
		}
	}()
	var pids []int
	for i := range alive {
		p, err := s.start(fmt.Sprintf("bench-%s-%d-%d", s.name, os.Getpid(), i), tree, "--read-only", "/bin/pause")
		if err != nil {
			return 0, err
		}
		all = append(all, p)
		own, err := payload(p.Pid, "pause")
		if err != nil {
			return 0, err
		}
		pids = append(pids, own...)
	}
	time.Sleep(time.Second)
	sum := 0
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "Pss:"); ok {
				n, _ := strconv.Atoi(strings.Fields(rest)[0])
				sum += n
			}
		}
	}
	return float64(sum) / float64(alive), nil
}

// booting gives the milliseconds until a machine's init runs, which is all that
// a launcher has to do with a boot.
func booting(s side, tree string) (float64, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer r.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	args := s.args(fmt.Sprintf("bench-%s-%d", s.name, os.Getpid()), tree, "--boot", "--kill-signal=SIGKILL")
	var before unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before); err != nil {
		return 0, err
	}
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: []*os.File{null, w, w}})
	w.Close()
	if err != nil {
		return 0, err
	}
	r.SetReadDeadline(time.Now().Add(30 * time.Second))
	var stamp int64
	said := bufio.NewScanner(r)
	for stamp == 0 && said.Scan() {
		stamp, _ = strconv.ParseInt(said.Text(), 10, 64) // launchers may say something, too
	}
	p.Signal(syscall.SIGTERM)
	p.Wait()
	if stamp == 0 {
		return 0, errors.New("no init came")
	}
	return ms(time.Duration(stamp - before.Nano())), nil
}

// stopping gives the milliseconds from a SIGTERM to the launcher's end.
func stopping(s side, tree string) (float64, error) {
	p, err := s.start(fmt.Sprintf("bench-%s-%d", s.name, os.Getpid()), tree, "/bin/pause")
	if err != nil {
		return 0, err
	}
	if _, err := payload(p.Pid, "pause"); err != nil {
		p.Signal(syscall.SIGTERM)
		p.Wait()
		return 0, err
	}
	time.Sleep(20 * time.Millisecond)
	begun := time.Now()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	_, err = p.Wait()
	return ms(time.Since(begun)), err
}

// run gives the milliseconds of a whole start and end.
func (s side) run(tree string, more ...string) (float64, error) {
	begun := time.Now()
	p, err := s.start(fmt.Sprintf("bench-%s-%d", s.name, os.Getpid()), tree, append(more, "/bin/true")...)
	if err != nil {
		return 0, err
	}
	state, err := p.Wait()
	if err == nil && !state.Success() {
		err = fmt.Errorf("%s", state)
	}
	return ms(time.Since(begun)), err
}

// owners gives how much longer a start takes that changes the owners of the
// whole tree than the next one, which finds them right.
func owners(s side, tree, how string, rounds int) (float64, error) {
	return middle(min(rounds, 9), func(i int) (float64, error) {
		users := fmt.Sprintf("--private-users=%d:65536", shift+(i%2+1)*65536)
		changed, err := s.run(tree, users, "--private-users-ownership="+how)
		if err != nil {
			return 0, err
		}
		right, err := s.run(tree, users, "--private-users-ownership="+how)
		return changed - right, err
	})
}

// mapped gives the time of a start with an id-mapped root.
func mapped(s side, tree string, rounds int) (float64, error) {
	err := filepath.WalkDir(tree, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, 0, 0)
	})
	if err != nil {
		return 0, err
	}
	return middle(rounds, func(int) (float64, error) {
		return s.run(tree, fmt.Sprintf("--private-users=%d:65536", shift), "--private-users-ownership=map")
	})
}
