package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/cell"
	"launch/internal/itest/tree"
)

// What follows runs in a cell on the tree of the newest peers, which sees
// cgroup2 and nothing else: crun and a newer systemd-nspawn refuse to work with
// the two versions side by side. This program goes on in there as another
// process, with -inside.
//
// given is where the cell finds what it needs.
const given = "/run/given"

// peers holds launch against the newest systemd-nspawn, and launch-oci against
// the newest crun and runc.
func peers(w io.Writer, dir, launch, oci string, rounds, alive, parallel int) (err error) {
	// Cgroups of v1 take no real-time processes.
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr}, 0); err != nil {
		return fmt.Errorf("go back to the usual priority: %w", err)
	}
	root, err := tree.PeersDir()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bind := map[string]string{
		given + "/bench": self, given + "/launch": launch, given + "/launch-oci": oci, given + "/built": filepath.Join(dir, "built"),
	}
	c, err := cell.Open(cell.Options{Root: root, View: cell.Unified, Bind: bind})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	for _, inside := range [][]string{
		{"-launch", "launch=" + given + "/launch", "-alive", strconv.Itoa(alive)},
		{"-inside", "-parallel", strconv.Itoa(parallel)},
	} {
		args := append([]string{given + "/bench", "-rounds", strconv.Itoa(rounds), "-built", given + "/built"}, inside...)
		fmt.Fprintf(w, "\nIn a tree of %s, with cgroup2 alone: ", tree.PeerSuite)
		cmd := c.Command(args...)
		cmd.Stdout, cmd.Stderr = w, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("in the cell: %w", err)
		}
	}
	// No hierarchy of the cell's has a controller for memory if the host gave it
	// to cgroup v1.
	return small(w, dir, oci)
}

// small runs /bin/true under a limit of memory that is next to nothing, on the
// host's own cgroups.
func small(w io.Writer, dir, oci string) error {
	bundle := filepath.Join(dir, "small")
	if err := plantBundle(bundle, filepath.Join(dir, "built"), oci, func(c map[string]any) {
		c["ociVersion"] = "1.0.2" // what the host's crun may know
		linux := c["linux"].(map[string]any)
		linux["resources"].(map[string]any)["memory"] = map[string]any{"limit": 4 << 20}
	}); err != nil {
		return err
	}
	crun, _ := exec.LookPath("crun")
	for _, program := range []string{oci, crun} {
		if program == "" {
			continue
		}
		const times = 20
		done := 0
		var last string
		for i := range times {
			out, err := exec.Command(program, "--root", filepath.Join(dir, "rt"), "run", "--bundle", bundle, fmt.Sprintf("bench-%d-%d", os.Getpid(), i)).CombinedOutput()
			if err == nil {
				done++
			} else {
				last = ": " + strings.TrimSpace(string(out))
			}
		}
		fmt.Fprintf(w, "\nwith a memory limit of 4 MiB, /bin/true ran in %d of %d starts under %s%s\n", done, times, filepath.Base(program), last)
	}
	return nil
}

// plantBundle makes the bundle that `spec` makes, with /bin/true in it.
func plantBundle(dir, built, runtime string, change func(map[string]any)) error {
	for _, d := range []string{"bin", "proc", "sys", "dev", "etc", "tmp", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", d), 0o755); err != nil {
			return err
		}
	}
	for _, p := range []string{"true", "pause"} {
		if err := copyFile(filepath.Join(built, p), filepath.Join(dir, "rootfs/bin", p)); err != nil {
			return err
		}
	}
	if out, err := exec.Command(runtime, "spec", "--bundle", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%s spec: %w: %s", runtime, err, out)
	}
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c map[string]any
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	process := c["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/bin/true"}
	change(c)
	if text, err = json.Marshal(c); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// ociRuntime is one of the programs with runc's command line.
type ociRuntime struct {
	name, path string
	count      int
}

// call runs the runtime and gives the milliseconds it took.
func (r *ociRuntime) call(args ...string) (float64, error) {
	begun := time.Now()
	pid, says, err := r.start(args...)
	if err != nil {
		return 0, err
	}
	err = r.ended(pid, says, args)
	return ms(time.Since(begun)), err
}

func (r *ociRuntime) start(args ...string) (pid int, says *os.File, err error) {
	in, err := os.Open(os.DevNull)
	if err != nil {
		return 0, nil, err
	}
	defer in.Close()
	if says, err = os.CreateTemp("", "bench-"); err != nil {
		return 0, nil, err
	}
	os.Remove(says.Name())
	words := []string{r.path}
	if r.name != "floor" {
		words = append(words, "--root", "/run/rt-"+r.name)
	}
	words = append(words, args...)
	attr := &syscall.ProcAttr{Dir: "/run/bench", Env: cell.Environ(), Files: []uintptr{in.Fd(), says.Fd(), says.Fd()}}
	pid, err = syscall.ForkExec(words[0], words, attr)
	return pid, says, err
}

// ended waits for the runtime's end. One that failed may have been fast.
func (r *ociRuntime) ended(pid int, says *os.File, args []string) error {
	defer says.Close()
	var status syscall.WaitStatus
	for {
		if _, err := syscall.Wait4(pid, &status, 0, nil); err == nil {
			break
		} else if err != syscall.EINTR {
			return err
		}
	}
	if status != 0 {
		text := make([]byte, 500)
		n, _ := says.ReadAt(text, 0)
		return fmt.Errorf("%s %s: wait status %#x: %s", r.name, strings.Join(args, " "), int(status), text[:n])
	}
	return nil
}

// id gives a name for the next container.
func (r *ociRuntime) id() string {
	r.count++
	return fmt.Sprintf("%s%d", r.name, r.count)
}

func (r *ociRuntime) run() (float64, error) {
	if r.name == "floor" {
		return r.call("/run/bench/rootfs", "/bin/true")
	}
	return r.call("run", "--bundle", "/run/bench", r.id())
}

// steps is create, start and delete; nobody measures how long the payload, or
// who reaps it, takes meanwhile.
func (r *ociRuntime) steps() (float64, error) {
	id, file := r.id(), "/run/pid-"+r.name
	sum, err := r.call("create", "--bundle", "/run/bench", "--pid-file", file, id)
	if err != nil {
		return 0, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	t, err := r.call("start", id)
	if err != nil {
		return 0, err
	}
	sum += t
	for range 1000 {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(text)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		time.Sleep(time.Millisecond)
	}
	t, err = r.call("delete", id)
	return sum + t, err
}

func (r *ociRuntime) exec() (float64, error) { return r.call("exec", r.name+"-waits", "/bin/true") }

func (r *ociRuntime) features() (float64, error) { return r.call("features") }

// inside is the part of peers in the cell that is about launch-oci.
func inside(w io.Writer, built string, rounds, parallel int) error {
	field := []*ociRuntime{{name: "launch-oci", path: given + "/launch-oci"}, {name: "crun", path: "/usr/bin/crun"}, {name: "runc", path: "/usr/sbin/runc"}}
	for _, r := range field {
		if !exists(r.path) {
			r.path = "/usr/bin/" + r.name
		}
	}
	if err := plantBundle("/run/bench", built, field[2].path, func(map[string]any) {}); err != nil {
		return err
	}
	if err := plantBundle("/run/waits", built, field[2].path, func(c map[string]any) {
		c["process"].(map[string]any)["args"] = []string{"/bin/pause"}
	}); err != nil {
		return err
	}
	for _, r := range field {
		if _, err := r.call("run", "--detach", "--bundle", "/run/waits", r.name+"-waits"); err != nil {
			return err
		}
	}
	var versions []string
	for _, r := range field {
		out, err := exec.Command(r.path, "--version").Output()
		if err != nil {
			return err
		}
		line, _, _ := strings.Cut(string(out), "\n")
		versions = append(versions, line)
	}
	fmt.Fprintf(w, "%s; medians of %d rounds, milliseconds\n\n", strings.Join(versions, ", "), rounds)
	fmt.Fprintf(w, "%-30s %10s %8s %8s %9s %8s %9s %8s %8s\n", "", "launch-oci", "crun", "runc", "of crun's", "at most", "of runc's", "at most", "floor")
	for _, t := range []comparison{
		{"run", 0.5, 0.2, (*ociRuntime).run, rounds},
		{"create, start and delete", 0.7, 0, (*ociRuntime).steps, rounds},
		{"exec", 0.8, 0, (*ociRuntime).exec, rounds},
		{fmt.Sprintf("%d × run at once", parallel), 1, 0, func(r *ociRuntime) (float64, error) { return r.atOnce(parallel) }, max(rounds/8, 3)},
		{"features", 0, 0, (*ociRuntime).features, rounds},
	} {
		all := field
		if t.what == "run" {
			all = append(all[:len(all):len(all)], &ociRuntime{name: "floor", path: filepath.Join(built, "floor-oci")})
		}
		medians, err := t.measure(all)
		if err != nil {
			return fmt.Errorf("%s: %w", t.what, err)
		}
		floor := ""
		if len(medians) > len(field) {
			floor = fmt.Sprintf("%.2f", medians[len(field)])
		}
		fmt.Fprintf(w, "%-30s %10.2f %8.2f %8.2f %9.2f %8s %9.2f %8s %8s\n", t.what, medians[0], medians[1], medians[2],
			medians[0]/medians[1], most(t.crun), medians[0]/medians[2], most(t.runc), floor)
	}
	for _, r := range field {
		if _, err := r.call("delete", "--force", r.name+"-waits"); err != nil {
			return err
		}
	}
	return nil
}

// comparison is one figure of all runtimes.
type comparison struct {
	what       string
	crun, runc float64 // launch-oci's share of theirs that is still fine; 0: it doesn't matter
	take       func(*ociRuntime) (float64, error)
	rounds     int
}

// measure gives each runtime's median. Each round asks all, in an order that
// changes.
func (c comparison) measure(field []*ociRuntime) ([]float64, error) {
	all := make([][]float64, len(field))
	for round := range c.rounds + 2 {
		for _, i := range rand.Perm(len(field)) {
			v, err := c.take(field[i])
			if err != nil {
				return nil, err
			}
			if round >= 2 { // two don't count: see run
				all[i] = append(all[i], v)
			}
		}
	}
	var medians []float64
	for _, list := range all {
		slices.Sort(list)
		medians = append(medians, list[len(list)/2])
	}
	return medians, nil
}

func most(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", v)
}

// atOnce starts many containers at once and gives the time until the last has
// ended.
func (r *ociRuntime) atOnce(many int) (float64, error) {
	type one struct {
		pid  int
		says *os.File
		args []string
	}
	var all []one
	var errs []error
	begun := time.Now()
	for range many {
		args := []string{"run", "--bundle", "/run/bench", r.id()}
		pid, says, err := r.start(args...)
		if err != nil {
			errs = append(errs, err)
			break
		}
		all = append(all, one{pid, says, args})
	}
	for _, o := range all {
		errs = append(errs, r.ended(o.pid, o.says, o.args))
	}
	return ms(time.Since(begun)), errors.Join(errs...)
}
