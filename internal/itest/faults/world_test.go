// Package faults lets each system call of a start fail once, kills the launcher
// after each, and looks at what is left.
//
// It guarantees that a start which could not be completed says what went wrong
// and ends, that one which goes on all the same gives its payload exactly the
// state that an undisturbed start gives it, and that after one clean-up, or the
// next start, the host is as it was. What may fail without stopping a start
// stands in harmless.txt, with a reason each. The package refuses to know what a
// start does: it takes the list of calls from the launcher itself (see fault_on.go of
// internal/sys).
//
// The everyday run takes a sample; LAUNCH_TEST=faults takes all, but for what
// is like something else on a computer that is too busy (see TestFaultOther).
//
// Room: test.
package faults

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/images"
	"launch/internal/itest/tree"
)

// The test binary runs itself again in a world of its own: a mount namespace
// whose /run, /tmp and /var/tmp are empty, shared so that a mount that gets out
// of a machine would show, and a cgroup. Whatever else goes on on the host,
// what is found there afterwards is the launcher's.
const inner = "LAUNCH_FAULTS_WORLD"

// desk is a directory that the test may use, empty at first, on a tmpfs.
const desk = "/mnt"

// image is there, and has been pulled into a store that each machine of it gets
// a copy of.
const image = "oci:" + desk + "/image:v1"

func TestMain(m *testing.M) {
	if os.Getenv(sleeping) != "" { // as a payload
		fmt.Println("asleep")
		time.Sleep(time.Minute)
		os.Exit(0)
	}
	if os.Geteuid() != 0 || os.Getenv(inner) != "" {
		code := m.Run()
		if theWorld != nil && theWorld.pod > 0 {
			unix.Kill(theWorld.pod, unix.SIGKILL)
		}
		os.Exit(code)
	}
	code, err := again()
	if err != nil {
		fmt.Fprintln(os.Stderr, "faults:", err)
		code = 1
	}
	os.Exit(code)
}

// again runs the test binary in its own world.
func again() (int, error) {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), inner+"=none")
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if dir, err := makeCgroup(); err == nil {
		f, err := os.Open(dir)
		if err != nil {
			return 1, err
		}
		defer f.Close()
		defer removeCgroup(dir)
		c.Env = append(os.Environ(), inner+"="+dir)
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(f.Fd())
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// makeCgroup makes a cgroup beside where the test runs.
func makeCgroup() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	_, own, ok := strings.Cut("\n"+string(text), "\n0::")
	if !ok {
		return "", errors.New("no cgroup2")
	}
	own, _, _ = strings.Cut(own, "\n")
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(mount, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
			continue
		}
		dir := filepath.Join(mount, own, "faults-"+strconv.Itoa(os.Getpid()))
		return dir, os.Mkdir(dir, 0o755)
	}
	return "", errors.New("cgroup2 is not mounted")
}

// removeCgroup kills what is in a cgroup and removes it.
func removeCgroup(dir string) {
	for range 200 {
		killAll(dir)
		var dirs []string
		filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		if len(dirs) == 0 {
			return
		}
		for _, d := range slices.Backward(dirs) {
			os.Remove(d)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// killAll kills what is in a cgroup and below, one by one: what is cloned into
// a cgroup whose cgroup.kill was ever written may be killed at once, on
// kernels since 6.14.
func killAll(dir string) {
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			b, _ := os.ReadFile(p + "/cgroup.procs")
			for _, pid := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(pid); err == nil && n > 0 {
					unix.Kill(n, unix.SIGKILL)
				}
			}
		}
		return nil
	})
}

// world is where launchers are tried.
type world struct {
	cgroup  string // where launchers are started, "" without cgroup2
	cgroups string // the root of the hierarchy
	cgfd    *os.File
	fault   string            // the launcher of the fault build
	launch  string            // the launcher as it is installed
	probe   string            // the payload: prints what it sees
	init    string            // what boots: see testdata/init.c
	left    map[string]bool   // what was left by now, see was
	tried   map[any]bool      // faults of all machines, see unlike
	owned   []string          // the tree of the machine that gives it away, see owners
	outer   map[string]string // the host's namespaces and boot id
	disk    []byte            // the image of machines on disks
	pod     int               // the launcher of the machine that is joined
	out     *os.File          // standard output and error of what runs
	err     *os.File
}

// whole reports whether all is to be tried, however long it takes.
func whole() bool { return os.Getenv("LAUNCH_TEST") == "faults" }

var theWorld *world

// theOne gives the world, which is made once.
func theOne(t *testing.T) *world {
	t.Helper()
	tree.NeedRoot(t, "go", "gcc", "mkfs.ext4")
	if os.Getenv(inner) == "" {
		t.Fatal("not in a world of its own")
	}
	if theWorld == nil {
		theWorld = makeWorld(t)
	}
	return theWorld
}

func makeWorld(t *testing.T) *world {
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	w := &world{outer: map[string]string{}, left: map[string]bool{}, tried: map[any]bool{}}
	w.probe = tree.Probe(t)
	// Built before the mounts below: the checkout may lie under one of them.
	build, err := os.MkdirTemp("", "launch-faults-")
	must("make a directory to build in", err)
	defer os.RemoveAll(build)
	programs := []struct {
		to         *string
		name, tags string
		text       []byte
	}{{to: &w.fault, name: "launch-faults", tags: "faults"}, {to: &w.launch, name: "launch"}, {to: new(string), name: "launch-pull"}}
	for i := range programs {
		b := &programs[i]
		fresh := filepath.Join(build, b.name)
		c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-tags", b.tags, "-o", fresh, "launch/cmd/"+strings.TrimSuffix(b.name, "-faults"))
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("build launch: %v\n%s", err, out)
		}
		b.text, err = os.ReadFile(fresh)
		must("read the launcher", err)
	}
	c := exec.Command("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", filepath.Join(build, "init"), "testdata/init.c")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	boots, err := os.ReadFile(filepath.Join(build, "init"))
	must("read the init", err)
	os.RemoveAll(build)
	text, err := os.ReadFile(w.probe)
	must("read the probe", err)

	must("make / private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, dir := range []string{desk, "/run", "/tmp", "/var/tmp"} {
		must("mount on "+dir, unix.Mount("faults", dir, "tmpfs", 0, "mode=1777"))
	}
	must("make / shared", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""))
	for _, b := range programs {
		*b.to = filepath.Join(desk, b.name)
		must("install the launcher", os.WriteFile(*b.to, b.text, 0o755))
	}
	must("make an image", images.Programs(desk+"/image", map[string]string{"true": string(text)}))
	pull := exec.Command(w.launch, "pull", "--quiet", image)
	pull.Env = append(os.Environ(), "LAUNCH_STORE="+desk+"/store")
	if out, err := pull.CombinedOutput(); err != nil {
		t.Fatalf("pull the image: %v\n%s", err, out)
	}
	w.probe = filepath.Join(desk, "probe")
	must("install the probe", os.WriteFile(w.probe, text, 0o755))
	w.init = filepath.Join(desk, "init")
	must("install the init", os.WriteFile(w.init, boots, 0o755))
	must("install what takes journals", os.WriteFile(filepath.Join(desk, "systemd-journal-remote"), boots, 0o755))
	must("be a service manager", manager(desk+"/notify"))

	if dir := os.Getenv(inner); dir != "none" {
		w.cgroup = filepath.Join(dir, "run")
		must("make a cgroup", os.Mkdir(w.cgroup, 0o755))
		var st unix.Statfs_t
		for w.cgroups = dir; unix.Statfs(filepath.Dir(w.cgroups), &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC; {
			w.cgroups = filepath.Dir(w.cgroups)
		}
		w.cgfd, err = os.Open(w.cgroup)
		must("open the cgroup", err)
	}
	// What the launcher leaves behind becomes a child of the test.
	must("adopt orphans", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
	// A payload that kept the host's keyring would show this name.
	name, _ := unix.BytePtrFromString("the-host's-keyring")
	unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, ptr(name), 0)

	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"} {
		w.outer[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	must("read the boot id", err)
	w.outer["boot_id"] = string(boot)
	w.out, err = os.OpenFile(desk+"/stdout", os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	must("make a file", err)
	w.err, err = os.OpenFile(desk+"/stderr", os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	must("make a file", err)
	return w
}

// manager takes what launchers tell a service manager, and forgets it.
func manager(path string) error {
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(n, &unix.SockaddrUnix{Name: path}); err != nil {
		return err
	}
	go func() {
		for b := make([]byte, 4096); ; {
			if _, _, err := unix.Recvfrom(n, b, 0); err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	return nil
}
