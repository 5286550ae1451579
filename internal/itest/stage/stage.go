// Package stage gives a test a place to start machines from: a mount namespace
// with its own /run and a cgroup of its own, as alike to a systemd host as this
// host allows. It guarantees that the host's /run, mounts and cgroups are left
// alone, and it says what a run left behind. It also knows which launcher is
// tried: launch, or systemd-nspawn, with which the tests themselves are tried.
//
// Room: test.
package stage

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// View is what the machine's launcher finds on /sys/fs/cgroup.
type View string

const (
	// Unified is one cgroup2, as on every host of today.
	Unified View = "unified"
	// Host is whatever the host has there.
	Host View = "host"
)

// Stage is a mount namespace kept alive by a waiting shell.
type Stage struct {
	t     testing.TB
	shell *exec.Cmd
	hold  io.Closer
	view  View
	mnt   string
	base  []string // where cgroups are made, as the host sees them
	// before and host are the mount tables, here and outside, that must be
	// the same at the end.
	before, host string
}

// The shell makes what systemd makes on a host and a container does not have:
// the nodes that nspawn masks with, and mounts that are shared, so that a
// launcher that lets mounts escape is seen.
const setup = `set -e
# What others have mounted there goes away with their directories, here as well.
while read -r _ _ _ _ at _; do
	case $at in
	"$3"/Test* | /run/*) umount -l "$at" 2>/dev/null || true ;;
	esac
done </proc/self/mountinfo
mount -t tmpfs -o mode=755,nosuid,nodev run /run
mkdir -p /run/lock /run/systemd/inaccessible
cd /run/systemd/inaccessible
(umask 777; : >reg; mkdir dir; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0) 2>/dev/null
chmod 755 .
cd /
if [ "$1" = unified ] && [ "$2" ]; then
	# The host's own mount, bound: mounting cgroup2 again, or with other
	# options, would change nsdelegate for the whole host.
	mkdir /run/cgroup2
	mount --bind "$2" /run/cgroup2
	umount -R -l /sys/fs/cgroup
	mount --move /run/cgroup2 /sys/fs/cgroup
	rmdir /run/cgroup2
	mount -o remount,bind,nosuid,nodev,noexec,relatime /sys/fs/cgroup
fi
mount --make-rshared /
echo ready
read end || true
`

// New makes a stage, which ends with the test.
func New(t testing.TB, view View) *Stage {
	t.Helper()
	s := &Stage{t: t, view: view, base: cgroups()}
	if len(s.base) == 0 {
		t.Skip("no cgroup2, and no hierarchy named systemd, is mounted here")
	}
	s.host = table(t, os.Getpid())
	s.shell = exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", setup, "stage", string(view), hybrid(), filepath.Clean(os.TempDir()))
	s.shell.Env = Environ()
	stderr := &Output{}
	s.shell.Stderr = stderr
	in, err := s.shell.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.shell.Start(); err != nil {
		t.Fatal(err)
	}
	s.hold = in
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		s.shell.Process.Kill()
		s.shell.Wait()
		t.Skipf("cannot make a mount namespace to start machines from: %v\n%s", err, stderr)
	}
	s.mnt = fmt.Sprintf("/proc/%d/ns/mnt", s.shell.Process.Pid)
	s.before = table(t, s.shell.Process.Pid)
	t.Cleanup(s.end)
	return s
}

func (s *Stage) end() {
	if after := table(s.t, s.shell.Process.Pid); after != s.before {
		s.t.Errorf("mounts left behind where the machines were started from:\n%s", changed(s.before, after))
	}
	s.hold.Close()
	s.shell.Wait()
	// The tests of other packages run at the same time and may come and go with mounts of
	// their own, so only what was added while ours ran, and names a machine, counts.
	for line := range strings.Lines(changed(s.host, table(s.t, os.Getpid()))) {
		if strings.HasPrefix(line, "+") && strings.Contains(line, "launch-test") {
			s.t.Errorf("the host got a mount: %s", line)
		}
	}
}

// Look runs a command in the stage and gives its output.
func (s *Stage) Look(argv ...string) string {
	s.t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--mount=" + s.mnt, "--"}, argv...)...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out)
}

// Mount mounts something in the stage, for a machine to be given. It ends with
// the stage and is not taken for something left behind.
func (s *Stage) Mount(args ...string) {
	s.t.Helper()
	s.Look(append([]string{"mount"}, args...)...)
	s.before = table(s.t, s.shell.Process.Pid)
}

// Namespaces gives what /proc/PID/ns links to, for the stage: what a payload
// sees if its launcher made no namespace of that kind.
func (s *Stage) Namespaces() map[string]string {
	dir := fmt.Sprintf("/proc/%d/ns", s.shell.Process.Pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	ns := map[string]string{}
	for _, n := range names {
		if ns[n.Name()], err = os.Readlink(filepath.Join(dir, n.Name())); err != nil {
			s.t.Fatal(err)
		}
	}
	return ns
}

// Path gives a path that opens, from the host, what the stage has there.
func (s *Stage) Path(path string) string {
	return fmt.Sprintf("/proc/%d/root%s", s.shell.Process.Pid, path)
}

func table(t testing.TB, pid int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The options of cgroup2 are the whole host's: who mounts it anywhere
	// changes them.
	var kept strings.Builder
	for l := range strings.Lines(string(b)) {
		if at := strings.Index(l, " - cgroup2 "); at >= 0 {
			l = l[:at] + " - cgroup2\n"
		}
		kept.WriteString(l)
	}
	return kept.String()
}

func changed(before, after string) string {
	var b strings.Builder
	have := map[string]bool{}
	for l := range strings.Lines(before) {
		have[l] = true
	}
	for l := range strings.Lines(after) {
		if !have[l] {
			b.WriteString("+" + l)
		}
		delete(have, l)
	}
	for l := range strings.Lines(before) {
		if have[l] {
			b.WriteString("-" + l)
		}
	}
	return b.String()
}

// cgroups gives the directories below which a launcher gets a cgroup: cgroup2,
// and on a hybrid host the hierarchy named systemd too, as systemd would use
// both.
func cgroups() []string {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		own, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			return nil
		}
		_, path, _ := strings.Cut(strings.TrimSpace(string(own)), "0::")
		return []string{filepath.Join("/sys/fs/cgroup", path)}
	}
	var dirs []string
	for _, d := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(filepath.Join(d, "cgroup.procs")); err == nil {
			dirs = append(dirs, d)
		}
	}
	return dirs
}

// hybrid is where a host that still has cgroup v1 keeps its cgroup2, else
// nothing.
func hybrid() string {
	const dir = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(dir + "/cgroup.procs"); err != nil {
		return ""
	}
	return dir
}

// Environ is the environment that each launcher is started with: a known one,
// since part of it reaches the payload.
func Environ() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=vt220", "LANG=C.UTF-8",
	}
}

// Run is a launcher at work.
type Run struct {
	*exec.Cmd
	Out    *Output // standard output and error
	t      testing.TB
	stage  *Stage
	groups []string
	done   chan struct{}
	err    error
	// Cgroup is the name of its cgroup.
	Cgroup string
}

var count atomic.Int64

// CgroupPrefix begins the name of each cgroup that is made here.
const CgroupPrefix = "launch-test-"

// Start starts a launcher in the stage, in a cgroup of its own, with
// /dev/null as standard input and pipes for output. It is killed, with all its
// machine, at the latest at the end of the test.
func (s *Stage) Start(env []string, argv ...string) *Run {
	s.t.Helper()
	return s.StartAs(func(*exec.Cmd) {}, env, argv...)
}

// StartAs is Start with other descriptors, or another session: as may change
// the command.
func (s *Stage) StartAs(as func(*exec.Cmd), env []string, argv ...string) *Run {
	s.t.Helper()
	name := fmt.Sprintf("%s%d-%d", CgroupPrefix, os.Getpid(), count.Add(1))
	r := &Run{t: s.t, stage: s, Cgroup: name, Out: &Output{}, done: make(chan struct{})}
	script := ""
	for _, b := range s.base {
		dir := filepath.Join(b, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			s.t.Fatal(err)
		}
		r.groups = append(r.groups, dir)
	}
	s.t.Cleanup(r.sweep)
	// The cgroups are joined from outside of the stage, where they have
	// their host names; the pid stays the same through both execs.
	for _, g := range r.groups {
		script += "echo 0 >" + g + "/cgroup.procs && "
	}
	script += `exec nsenter --mount=` + s.mnt + ` -- "$@"`
	r.Cmd = exec.Command("sh", append([]string{"-c", script, "sh"}, argv...)...)
	r.Env = append(Environ(), env...)
	r.Stdout, r.Stderr = r.Out, r.Out
	r.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	as(r.Cmd)
	r.WaitDelay = 5 * time.Second // a machine that outlives its launcher holds the pipes
	if err := r.Cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		r.err = r.Cmd.Wait()
		close(r.done)
	}()
	return r
}

// Code waits for the launcher's end, at most that long, and gives its exit
// status, -1 if a signal ended it.
func (r *Run) Code(most time.Duration) (int, error) {
	select {
	case <-r.done:
	case <-time.After(most):
		return 0, fmt.Errorf("still running after %v", most)
	}
	if errors.Is(r.err, exec.ErrWaitDelay) {
		return r.ProcessState.ExitCode(), errors.New("it ended, and something that it started still holds its output")
	}
	return r.ProcessState.ExitCode(), nil
}

// Cleanup is what is done about a launcher that was killed.
func (r *Run) Cleanup(l Launcher) {
	r.t.Helper()
	r.stage.Look(l.Path, "--cleanup")
}

// Left gives the processes that are still in the run's cgroups.
func (r *Run) Left() []string {
	var left []string
	for _, g := range r.groups {
		filepath.WalkDir(g, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil
			}
			b, _ := os.ReadFile(path)
			for pid := range strings.FieldsSeq(string(b)) {
				cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
				left = append(left, pid+" "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
			}
			return nil
		})
	}
	return left
}

// sweep ends what is left and removes the cgroups.
func (r *Run) sweep() {
	select {
	case <-r.done:
	default:
		r.Process.Kill()
	}
	for range 100 {
		left := r.Left()
		for _, l := range left {
			var pid int
			if fmt.Sscan(l, &pid); pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		gone := true
		for _, g := range r.groups {
			if !removeGroup(g) {
				gone = false
			}
		}
		if gone && len(left) == 0 {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	r.t.Errorf("cannot remove the cgroups %s: %q", r.groups, r.Left())
}

func removeGroup(dir string) bool {
	sub, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, e := range sub {
		if e.IsDir() {
			removeGroup(filepath.Join(dir, e.Name()))
		}
	}
	err = unix.Rmdir(dir)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}

// Leader gives the machine's first process: the launcher's child (or a child
// of a thread of it, or an adopted grandchild) that is 1 in a pid namespace of
// its own.
func (r *Run) Leader(most time.Duration) (int, error) {
	own := fmt.Sprintf("/proc/%d", r.Process.Pid)
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		procs, err := os.ReadDir("/proc")
		if err != nil {
			return 0, err
		}
		for _, p := range procs {
			b, err := os.ReadFile("/proc/" + p.Name() + "/status")
			if err != nil {
				continue
			}
			parent, first := "", false
			for l := range strings.Lines(string(b)) {
				if v, ok := strings.CutPrefix(l, "PPid:"); ok {
					parent = strings.TrimSpace(v)
				}
				if v, ok := strings.CutPrefix(l, "NSpid:"); ok {
					f := strings.Fields(v)
					first = len(f) > 1 && f[len(f)-1] == "1"
				}
			}
			if "/proc/"+parent == own && first {
				var pid int
				fmt.Sscan(p.Name(), &pid)
				return pid, nil
			}
		}
		select {
		case <-r.done:
			return 0, errors.New("the launcher ended")
		default:
		}
	}
	return 0, errors.New("the launcher has no child that is 1 in its pid namespace")
}

// Output collects what is written and lets a test wait for words in it.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Await waits until the words were written, or the launcher ended.
func (r *Run) Await(words string, most time.Duration) error {
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if strings.Contains(r.Out.String(), words) {
			return nil
		}
		select {
		case <-r.done:
			if !strings.Contains(r.Out.String(), words) {
				return fmt.Errorf("the launcher ended before %q was written", words)
			}
		default:
		}
	}
	return fmt.Errorf("%q was not written within %v", words, most)
}
