// Command bench measures how long starting a machine takes, from the start of
// the launcher to its end, with a payload that does nothing:
//
//	bench [-rounds 40] [-alive 100] [-oci PATH] [-fifo] [-json] -launch NAME=PATH [-launch NAME=PATH]…
//
// Beside the launchers it runs systemd-nspawn, if that is there, and floor.c,
// which makes the same kernel objects and decides nothing. All of them start
// the same small tree. Each round runs each contestant once, in an order that
// changes, so that a busy moment of the machine falls on all of them; each
// exit status is checked. What is timed are copies of the programs, on the disk
// that the temporary directory is on, since a file as the linker wrote it starts
// slower.
//
// With -alive it goes on to what more.go measures, with -oci to oci.go; with
// -pull it does what images.go says instead.
//
// It runs as root, in a cgroup and mount namespace of its own, and leaves
// nothing behind. /run is a tmpfs, as on any host: where it isn't one, each
// machine's end would wait for a disk. With -fifo all of it runs before what
// else the computer has to do, and after nothing: for busy computers, whose
// figures are of no use otherwise.
//
// Room: test.
package main

import (
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/seccomp"
)

//go:embed floor.h.c
var floorsShare string

//go:embed floor.c
var floorSource string

//go:embed floor-oci.c
var floorOCISource string

const stampSource = `#include <time.h>
#include <stdio.h>
#include <unistd.h>
static struct timespec began;
static void first(void) { clock_gettime(CLOCK_MONOTONIC, &began); }
__attribute__((section(".preinit_array"), used)) static void (*const p)(void) = first;
int main(void) { printf("%lld\n", began.tv_sec * 1000000000LL + began.tv_nsec); fflush(stdout); for (;;) pause(); }
`

// caps are the capabilities that a machine keeps by default.
const caps = 0xfdecafff

// shift is where the users of the machines with private users begin.
const shift = 1310720

// contestant is one way to start the machine.
type contestant struct {
	Name string
	args []string

	// Missing says why it doesn't take part.
	Missing string

	times  []time.Duration
	faults []int64
}

func main() {
	rounds := flag.Int("rounds", 40, "how many times each contestant runs")
	asJSON := flag.Bool("json", false, "print JSON")
	alive := flag.Int("alive", 0, "compare more than the start, with that many machines alive at once")
	pull := flag.String("pull", "", "compare pulls instead, of an image of the OS tree in this `DIRECTORY`")
	only := flag.String("only", "", "of -pull: `PART`, which is tmpfs, disk or start")
	oci := flag.String("oci", "", "compare `PATH`, a launch-oci, with the newest crun and runc")
	parallel := flag.Int("parallel", 100, "how many containers are started at once")
	fifo := flag.Bool("fifo", false, "run at a real-time priority")
	flag.StringVar(&built, "built", "", "a `DIR` of the C programs, for where there is no compiler; all programs are then timed where they are")
	mounts := flag.Bool("mounts", false, "measure trees of mounts instead")
	within := flag.Bool("inside", false, "what -oci runs in a cell")
	var launchers []string
	flag.Func("launch", "`NAME=PATH` of a launch to measure (may be repeated)", func(s string) error {
		if name, path, ok := strings.Cut(s, "="); !ok || name == "" || path == "" {
			return errors.New("want NAME=PATH")
		}
		launchers = append(launchers, s)
		return nil
	})
	flag.Parse()
	if flag.NArg() > 0 || *rounds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	err := alone(*fifo)
	switch {
	case err != nil:
	case *pull != "":
		err = pulls(os.Stdout, *pull, *only, *rounds, launchers)
	case *mounts:
		err = restoring(os.Stdout, *rounds)
	case *within:
		err = inside(os.Stdout, built, *rounds, *parallel)
	default:
		err = run(os.Stdout, *rounds, *alive, *parallel, *asJSON, *oci, launchers)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// built is where the C programs are kept, each under its name.
var built string

// alone gives this thread, and all that it starts, a /run of its own.
func alone(fifo bool) error {
	runtime.LockOSThread()
	if os.Getuid() != 0 {
		return errors.New("starting machines is root's work: run it by make bench")
	}
	err := syscall.Unshare(syscall.CLONE_NEWNS)
	if err == nil {
		err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
	}
	var fs syscall.Statfs_t
	if err == nil {
		err = syscall.Statfs("/run", &fs)
	}
	if err == nil && fs.Type != unix.TMPFS_MAGIC {
		err = syscall.Mount("run", "/run", "tmpfs", 0, "mode=755")
	}
	if err != nil {
		return fmt.Errorf("make a /run of our own: %w", err)
	}
	if fifo {
		if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50}, 0); err != nil {
			return fmt.Errorf("take a real-time priority: %w", err)
		}
	}
	return nil
}

func run(w io.Writer, rounds, alive, parallel int, asJSON bool, oci string, launchers []string) (err error) {
	if os.Getuid() != 0 {
		return errors.New("starting machines is root's work: run it by make bench")
	}
	dir, err := os.MkdirTemp("", "launch-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	ready := built != ""
	if !ready {
		built = filepath.Join(dir, "built")
		if err := build(); err != nil {
			return err
		}
	}
	// In /tmp others could swap a tree under our hands; nobody else enters.
	field, err := prepare(dir, launchers, ready)
	if err != nil {
		return err
	}
	leave, err := ownCgroups(filepath.Base(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	defer forgetPeer(dir)

	in, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer in.Close()
	// Two rounds that don't count: who can't run says so here, and files get
	// into the page cache.
	for range 2 {
		for _, c := range field {
			if c.Missing == "" {
				if _, _, err := c.once(dir, in); err != nil {
					c.Missing = err.Error()
				}
			}
		}
	}
	for range rounds {
		for _, i := range rand.Perm(len(field)) {
			c := field[i]
			if c.Missing != "" {
				continue
			}
			took, faults, err := c.once(dir, in)
			if err != nil {
				// Once it could, and now it can't: that is no bad luck.
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			c.times = append(c.times, took)
			c.faults = append(c.faults, faults)
		}
	}
	if asJSON {
		err = printJSON(w, field, rounds)
	} else {
		err = printTable(w, field, rounds)
	}
	if err == nil && alive > 0 && !asJSON && len(launchers) > 0 {
		nspawn, _ := exec.LookPath("systemd-nspawn")
		err = more(w, dir, filepath.Join(dir, "launch0"), nspawn, alive, rounds)
	}
	if err == nil && oci != "" && !asJSON && len(launchers) > 0 {
		own := filepath.Join(dir, "launch-oci")
		if err = copyFile(oci, own); err == nil {
			err = peers(w, dir, filepath.Join(dir, "launch0"), own, rounds, alive, parallel)
		}
	}
	for _, c := range field {
		if c.Missing != "" && slices.ContainsFunc(launchers, func(l string) bool { return strings.HasPrefix(l, c.Name+"=") }) {
			err = errors.Join(err, fmt.Errorf("%s: %s", c.Name, c.Missing))
		}
	}
	return err
}

// prepare fills dir with the trees and the programs: copies, or links to those
// that are ready. They lie on a disk, as the peers do; dir may be a tmpfs, from which a
// program starts slower.
func prepare(dir string, launchers []string, ready bool) ([]*contestant, error) {
	put := copyFile
	if ready {
		put = os.Symlink
	}
	tree, shifted := filepath.Join(dir, "tree"), filepath.Join(dir, "shifted")
	for _, t := range []string{tree, shifted} {
		if err := plant(t); err != nil {
			return nil, err
		}
	}
	// The map of the second tree's users is in its owners already, as it is
	// for a machine that has run before.
	err := filepath.WalkDir(shifted, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, shift, shift)
	})
	if err != nil {
		return nil, err
	}

	var field []*contestant
	for _, name := range []string{"floor", "bare floor"} {
		floor := filepath.Join(dir, name)
		c := &contestant{Name: name, args: []string{floor, "-D", tree, "/bin/true"}}
		users := &contestant{Name: name + " with users", args: []string{floor, "-U", strconv.Itoa(shift), "-D", shifted, "/bin/true"}}
		if err := put(filepath.Join(built, name), floor); err != nil {
			c.Missing, users.Missing = err.Error(), err.Error()
		}
		field = append(field, c, users)
	}

	users := fmt.Sprintf("--private-users=%d:65536", shift)
	for i, l := range launchers {
		name, path, _ := strings.Cut(l, "=")
		own := filepath.Join(dir, "launch"+strconv.Itoa(i))
		if err := put(path, own); err != nil {
			return nil, err
		}
		common := []string{own, "--quiet", "--console=pipe", "--register=no", "--keep-unit"}
		field = append(field,
			&contestant{Name: name, args: slices.Concat(common, []string{"-D", tree, "/bin/true"})},
			&contestant{Name: name + " with users", args: slices.Concat(common, []string{users, "--private-users-ownership=off", "-D", shifted, "/bin/true"})})
	}
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		return append(field, &contestant{Name: "systemd-nspawn", Missing: "systemd-nspawn is not installed"}), nil
	}
	common := []string{nspawn, "--quiet", "--console=pipe", "--register=no", "--keep-unit"}
	return append(field,
		&contestant{Name: "systemd-nspawn", args: slices.Concat(common, []string{"-D", tree, "/bin/true"})},
		&contestant{Name: "systemd-nspawn with users", args: slices.Concat(common, []string{users, "--private-users-ownership=off", "-D", shifted, "/bin/true"})}), nil
}

// plant makes the smallest tree that all contestants take for an OS tree.
func plant(tree string) error {
	for _, d := range []string{"usr/bin", "usr/lib", "etc", "proc", "sys", "dev", "run", "tmp", "var", "root"} {
		if err := os.MkdirAll(filepath.Join(tree, d), 0o755); err != nil {
			return err
		}
	}
	for _, f := range [][2]string{
		{"etc/os-release", "ID=bench\n"},
		{"etc/machine-id", ""},
		{"etc/passwd", "root:x:0:0:root:/root:/bin/true\n"},
		{"etc/group", "root:x:0:\n"},
	} {
		if err := os.WriteFile(filepath.Join(tree, f[0]), []byte(f[1]), 0o644); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"usr/bin", "bin"}, {"usr/bin", "sbin"}, {"usr/lib", "lib"}} {
		if err := os.Symlink(l[0], filepath.Join(tree, l[1])); err != nil {
			return err
		}
	}
	return copyFile(filepath.Join(built, "true"), filepath.Join(tree, "usr/bin/true"))
}

// build makes the C programs.
func build() error {
	if err := os.Mkdir(built, 0o755); err != nil {
		return err
	}
	for name, source := range map[string]string{
		"floor":      floorsShare + filters() + floorSource,
		"bare floor": "#define BARE\n" + floorsShare + floorSource,
		"floor-oci":  floorsShare + floorOCISource,
		"true":       "int main(void) { return 0; }\n",
		"pause":      "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n",
		// When its first instruction ran, in nanoseconds; nothing of libc's start
		// comes before, which takes a millisecond on some computers.
		"stamp": stampSource,
	} {
		if err := compile(source, filepath.Join(built, name)); err != nil {
			return err
		}
	}
	return nil
}

// filters are the machine's filters of system calls, for C.
func filters() string {
	native, ok := seccomp.Native()
	if !ok {
		return "#define BARE\n"
	}
	var b strings.Builder
	b.WriteString("#include <linux/filter.h>\n")
	for i, f := range seccomp.NSpawn(native, caps, seccomp.Calls{}) {
		program, err := f.Compile()
		if err != nil {
			return "#error " + err.Error() + "\n"
		}
		fmt.Fprintf(&b, "static struct sock_filter filter%d[] = {\n", i+1)
		for _, ins := range program {
			fmt.Fprintf(&b, "\t{ %#x, %d, %d, %#x },\n", ins.Code, ins.Jt, ins.Jf, ins.K)
		}
		b.WriteString("};\n")
	}
	return b.String()
}

// compile makes a static program from C.
func compile(source, to string) error {
	c := exec.Command("gcc", "-O2", "-static", "-x", "c", "-o", to, "-")
	c.Stdin = strings.NewReader(source)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("gcc: %w\n%s", err, out)
	}
	return nil
}

func copyFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// once runs the contestant and gives the time and the page faults it took.
func (c *contestant) once(dir string, in *os.File) (time.Duration, int64, error) {
	says, err := os.OpenFile(filepath.Join(dir, "stderr"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, 0, err
	}
	defer says.Close()
	attr := &syscall.ProcAttr{Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}, Files: []uintptr{in.Fd(), says.Fd(), says.Fd()}}
	start := time.Now()
	pid, err := syscall.ForkExec(c.args[0], c.args, attr)
	if err != nil {
		return 0, 0, err
	}
	var status syscall.WaitStatus
	var usage syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &status, 0, &usage); err != syscall.EINTR {
			break
		}
	}
	took := time.Since(start)
	if err != nil {
		return 0, 0, err
	}
	if status != 0 {
		text, _ := os.ReadFile(says.Name())
		line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return 0, 0, fmt.Errorf("wait status %#x: %s", int(status), line)
	}
	return took, usage.Minflt, nil
}

// ownCgroups moves this process into a fresh cgroup of the hierarchies that
// systemd-nspawn takes part in, as a service would have one; what it makes
// below and forgets is removed in the end, from the deepest.
func ownCgroups(name string) (leave func() error, err error) {
	type place struct{ old, own string }
	var places []place
	leave = func() error {
		var errs []error
		pid := strconv.Itoa(os.Getpid())
		for _, p := range places {
			errs = append(errs, os.WriteFile(filepath.Join(p.old, "cgroup.procs"), []byte(pid), 0))
			var below []string
			filepath.WalkDir(p.own, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					below = append(below, path)
				}
				return nil
			})
			for _, b := range slices.Backward(below) {
				errs = append(errs, syscall.Rmdir(b))
			}
		}
		return errors.Join(errs...)
	}
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return leave, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		top := ""
		switch {
		case f[1] == "name=systemd":
			top = "/sys/fs/cgroup/systemd"
		case f[0] == "0" && exists("/sys/fs/cgroup/unified/cgroup.procs"):
			top = "/sys/fs/cgroup/unified"
		case f[0] == "0" && exists("/sys/fs/cgroup/cgroup.procs"):
			top = "/sys/fs/cgroup"
		}
		if top == "" || !exists(top) {
			continue
		}
		p := place{old: filepath.Join(top, f[2])}
		p.own = filepath.Join(p.old, name)
		if err := os.Mkdir(p.own, 0o755); err != nil {
			return leave, errors.Join(err, leave())
		}
		places = append(places, p)
		if err := os.WriteFile(filepath.Join(p.own, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return leave, errors.Join(err, leave())
		}
	}
	return leave, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// forgetPeer removes the directories that systemd-nspawn keeps for a machine
// name after it has ended.
func forgetPeer(dir string) {
	for _, machine := range []string{"tree", "shifted"} {
		for _, d := range []string{"propagate", "unix-export"} {
			syscall.Rmdir(filepath.Join("/run/systemd/nspawn", d, machine))
		}
	}
	for _, d := range []string{"propagate", "unix-export"} {
		list, _ := filepath.Glob(filepath.Join("/run/systemd/nspawn", d, fmt.Sprintf("bench-nspawn-%d*", os.Getpid())))
		for _, at := range list {
			syscall.Rmdir(at)
		}
	}
}

// figures are what is told of a contestant. Times are in milliseconds.
type figures struct {
	Name    string  `json:"name"`
	Missing string  `json:"missing,omitempty"`
	Median  float64 `json:"median_ms,omitempty"`
	Best    float64 `json:"best_ms,omitempty"`
	P90     float64 `json:"p90_ms,omitempty"`
	Ratio   float64 `json:"ratio,omitempty"`
	Faults  int64   `json:"page_faults,omitempty"`
}

// sum works out the figures; Ratio is the median over the first contestant's
// that took part.
func sum(field []*contestant) []figures {
	var out []figures
	first := 0.0
	for _, c := range field {
		f := figures{Name: c.Name, Missing: c.Missing}
		if len(c.times) > 0 {
			t, p := slices.Sorted(slices.Values(c.times)), slices.Sorted(slices.Values(c.faults))
			f.Best, f.Median, f.P90 = ms(t[0]), ms(median(t)), ms(t[(len(t)*9+9)/10-1])
			f.Faults = median(p)
			if first == 0 {
				first = f.Median
			}
			f.Ratio = f.Median / first
		}
		out = append(out, f)
	}
	return out
}

func find(all []figures, name string) figures {
	for _, f := range all {
		if f.Name == name {
			return f
		}
	}
	return figures{}
}

// median of a sorted list; of an even number of values the mean of the two in
// the middle.
func median[T ~int64](sorted []T) T {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func printTable(w io.Writer, field []*contestant, rounds int) error {
	fmt.Fprintf(w, "start and end of a machine that runs /bin/true, %d rounds, milliseconds\n\n", rounds)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmedian\tbest\tp90\tratio\tpage faults\t")
	for _, f := range sum(field) {
		if f.Missing == "" {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%d\t\n", f.Name, f.Median, f.Best, f.P90, f.Ratio, f.Faults)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, users := range []string{"", " with users"} {
		mine := find(sum(field), "launch"+users).Median
		for _, o := range [][2]string{{"systemd-nspawn", " (wanted: 0.10)"}, {"floor", " (wanted: 1.5)"}, {"bare floor", ""}} {
			if other := find(sum(field), o[0]+users).Median; mine > 0 && other > 0 {
				fmt.Fprintf(w, "\nlaunch%s takes %.2f of the time of %s%s%s", users, mine/other, o[0], users, o[1])
			}
		}
	}
	fmt.Fprintln(w)
	for _, f := range sum(field) {
		if f.Missing != "" {
			fmt.Fprintf(w, "\nnot measured: %s: %s\n", f.Name, f.Missing)
		}
	}
	return nil
}

func printJSON(w io.Writer, field []*contestant, rounds int) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Rounds  int       `json:"rounds"`
		Results []figures `json:"results"`
	}{rounds, sum(field)})
}
