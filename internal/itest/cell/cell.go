// Package cell gives tests a place to run whole container engines in: mount,
// pid, network, ipc, host name and cgroup namespaces of its own, a root that is
// a throw-away layer over the host's or over another tree, fresh /run and /tmp,
// and a cgroup of its own in every hierarchy. It guarantees that all processes
// of a cell end with it and that the host keeps no file, mount, interface or
// cgroup of it. It refuses to know what is run.
//
//	c, err := cell.Open(cell.Options{View: cell.Unified})
//	defer c.Close()
//	out, err := c.Command("podman", "info").CombinedOutput()
//
// Room: test.
package cell

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
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// View is what lies on /sys/fs/cgroup.
type View string

const (
	// Unified is one cgroup2, as on every host of today. Its controllers are
	// those that the host has not given to cgroup v1.
	Unified View = "unified"
	// Host is the layout that the host has.
	Host View = "host"
	// Legacy is what the host has of cgroup v1, without the cgroup2 beside it;
	// Unified where it has nothing.
	Legacy View = "legacy"
)

// Options say what a cell is like.
type Options struct {
	// Root is the tree that is used as the root; empty for the host's own.
	Root string
	View View
	// Bind gives files and directories of the host (values) a path in the
	// cell (keys). They are read-only.
	Bind map[string]string
	// Name is the host name, "cell" if it is empty.
	Name string
}

// Cell is a running cell.
type Cell struct {
	// Pid is its first process, as the host numbers it.
	Pid int

	init   *exec.Cmd
	hold   io.Closer
	says   *bytes.Buffer
	groups []string
	within []string // where its processes are: a group, or the one below that
	dir    string
}

// setup runs as the cell's first process: bash, since it collects the
// processes that are left to it. It waits for the first line until it is in
// its cgroups, so that they become the roots of what the cell sees.
const setup = `read go || exit 1
exec unshare --cgroup bash -c "$0" "$@"`

const furnish = `set -e
dir=$1 root=$2 view=$3 hostname=$4
shift 4
mount --make-rprivate /
mount -t tmpfs -o mode=755 cell "$dir"
mkdir "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay -o lowerdir="$root",upperdir="$dir/upper",workdir="$dir/work" cell "$dir/root"
cd "$dir/root"
mount -t proc proc proc
mount -t sysfs sysfs sys
# Not the host's /dev: devtmpfs is one for all, and what is removed there is
# gone for everybody.
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm dev/mqueue dev/net
node() { mknod -m "$2" "dev/$1" c "$3" "$4"; }
node null 666 1 3
node zero 666 1 5
node full 666 1 7
node random 666 1 8
node urandom 666 1 9
node kmsg 644 1 11
node tty 666 5 0
node fuse 666 10 229
node net/tun 666 10 200
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for i in 0 1 2; do ln -s /proc/self/fd/$i "dev/$(echo stdin stdout stderr | cut -d' ' -f$((i + 1)))"; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t mqueue mqueue dev/mqueue
for d in run tmp var/lib/containers var/lib/docker var/lib/containerd; do
	mkdir -p $d
	mount -t tmpfs -o mode=755 cell $d
done
chmod 1777 tmp
mkdir -p run/lock run/user/0
if [ "$view" = unified ]; then
	# As on a host: nothing runs beside the groups, or the kernel would let
	# nobody give the controllers on.
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mkdir sys/fs/cgroup/init
	echo $$ >sys/fs/cgroup/init/cgroup.procs
else
	mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
	for h in $view; do
		mkdir sys/fs/cgroup/${h#*=}
		case $h in
		cgroup2=*) mount -t cgroup2 cgroup2 sys/fs/cgroup/${h#*=} ;;
		*) mount -t cgroup -o $h cgroup sys/fs/cgroup/${h#*=} ;;
		esac
	done
fi
while [ $# -gt 0 ]; do
	to=.$1 from=$2
	shift 2
	mkdir -p "${to%/*}"
	if [ -d "$from" ]; then mkdir -p "$to"; else : >"$to"; fi
	mount --bind "$from" "$to"
	mount -o remount,bind,ro "$to"
done
mkdir -p mnt etc
hostname "$hostname"
echo "$hostname" >etc/hostname
rm -f etc/resolv.conf
: >etc/resolv.conf
if ! [ -s etc/machine-id ]; then echo 6c61756e636841a5b6c7d8e9f0a1b2c3 >etc/machine-id; fi
printf '127.0.0.1 localhost %s\n' "$hostname" >etc/hosts
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared /
ip link set lo up 2>/dev/null || true
echo ready
set +e
while read end; do :; done
`

var count atomic.Int64

// Prefix begins the name of each cgroup that is made here.
const Prefix = "launch-cell-"

// hierarchies gives the places where cgroups are mounted, and for mount(8) what
// to mount there again. A word is a controller list, name=NAME, or cgroup2=DIR.
func hierarchies() (dirs []string, view []string, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs("/sys/fs/cgroup", &st); err != nil {
		return nil, nil, err
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{"/sys/fs/cgroup"}, []string{string(Unified)}, nil
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, nil, err
	}
	for l := range strings.Lines(string(text)) {
		left, right, _ := strings.Cut(strings.TrimSpace(l), " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if len(f) < 5 || len(g) < 3 || filepath.Dir(f[4]) != "/sys/fs/cgroup" {
			continue
		}
		switch g[0] {
		case "cgroup2":
			view = append(view, "cgroup2="+filepath.Base(f[4]))
		case "cgroup":
			var words []string
			for o := range strings.SplitSeq(g[2], ",") {
				if o != "rw" && o != "ro" && o != "xattr" && !strings.HasPrefix(o, "release_agent") && !strings.HasPrefix(o, "clone_children") {
					words = append(words, o)
				}
			}
			view = append(view, strings.Join(words, ","))
		default:
			continue
		}
		dirs = append(dirs, f[4])
	}
	if len(dirs) == 0 {
		return nil, nil, errors.New("no cgroups are mounted here")
	}
	return dirs, view, nil
}

// own gives the path of this process's cgroup in the hierarchy that is mounted
// on dir.
func own(dir string) string {
	text, _ := os.ReadFile("/proc/self/cgroup")
	name := filepath.Base(dir)
	for l := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(l), ":", 3)
		if len(f) != 3 {
			continue
		}
		if f[0] == "0" && f[1] == "" && (name == "unified" || name == "cgroup") ||
			f[1] == "name="+name || slices.Contains(strings.Split(f[1], ","), name) || f[1] == name {
			if p := filepath.Join(dir, f[2]); exists(p) {
				return p
			}
		}
	}
	return dir
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Open makes a cell.
func Open(o Options) (c *Cell, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("cells are root's work")
	}
	dirs, view, err := hierarchies()
	if err != nil {
		return nil, err
	}
	if o.View == "" {
		o.View = Host
	}
	if len(view) == 1 && view[0] == string(Unified) {
		o.View = Unified
	}
	if o.View == Unified {
		view = []string{string(Unified)}
		if len(dirs) > 1 && !slices.ContainsFunc(dirs, func(d string) bool { return filepath.Base(d) == "unified" }) {
			return nil, errors.New("no cgroup2 is mounted here")
		}
	}
	if o.View == Legacy {
		view = slices.DeleteFunc(view, func(h string) bool { return strings.HasPrefix(h, "cgroup2=") })
	}
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Name == "" {
		o.Name = "cell"
	}
	dir, err := os.MkdirTemp("", "launch-cell-")
	if err != nil {
		return nil, err
	}
	c = &Cell{dir: dir, says: &bytes.Buffer{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
			if said := strings.TrimSpace(c.says.String()); said != "" {
				err = fmt.Errorf("%w: %s", err, said)
			}
			c = nil
		}
	}()
	name := fmt.Sprintf("%s%d-%d", Prefix, os.Getpid(), count.Add(1))
	for _, d := range dirs {
		parent := own(d)
		g := filepath.Join(parent, name)
		if err := os.Mkdir(g, 0o755); err != nil {
			return c, err
		}
		c.groups = append(c.groups, g)
		if o.View == Unified && (len(dirs) == 1 || filepath.Base(d) == "unified") {
			c.within = append(c.within, filepath.Join(g, "init"))
		} else {
			c.within = append(c.within, g)
		}
		// A cpuset begins empty, and nothing can live in an empty one.
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if have, err := os.ReadFile(filepath.Join(parent, f)); err == nil && exists(filepath.Join(g, f)) && filepath.Base(d) == "cpuset" {
				if err := os.WriteFile(filepath.Join(g, f), have, 0); err != nil {
					return c, err
				}
			}
		}
	}
	args := []string{"-c", setup, furnish, "cell", dir, o.Root, strings.Join(view, " "), o.Name}
	for to, from := range o.Bind {
		args = append(args, to, from)
	}
	// The -c script of the second bash is $0 of the first.
	c.init = exec.Command("bash", args...)
	c.init.Env = Environ()
	c.init.Stderr = c.says
	c.init.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	}
	in, err := c.init.StdinPipe()
	if err != nil {
		return c, err
	}
	out, err := c.init.StdoutPipe()
	if err != nil {
		return c, err
	}
	if err := c.init.Start(); err != nil {
		return c, err
	}
	c.hold, c.Pid = in, c.init.Process.Pid
	for _, g := range c.groups {
		if err := os.WriteFile(filepath.Join(g, "cgroup.procs"), []byte(strconv.Itoa(c.Pid)), 0); err != nil {
			return c, err
		}
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		return c, err
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		return c, fmt.Errorf("make a cell: %w", err)
	}
	return c, nil
}

// Environ is what each command in a cell is started with.
func Environ() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "TERM=xterm", "LANG=C.UTF-8", "TMPDIR=/tmp",
	}
}

// Command gives a command that will run in the cell, in its cgroups.
func (c *Cell) Command(argv ...string) *exec.Cmd {
	var script strings.Builder
	for _, g := range c.within {
		fmt.Fprintf(&script, "echo 0 >%s/cgroup.procs && ", g)
	}
	fmt.Fprintf(&script, `exec nsenter -t %d -m -p -n -i -u -C -r -w -- "$@"`, c.Pid)
	cmd := exec.Command("sh", append([]string{"-c", script.String(), "sh"}, argv...)...)
	cmd.Env = Environ()
	cmd.WaitDelay = 5 * time.Second // a daemon left in the background holds the pipes
	return cmd
}

// Shell runs a script in the cell and gives all that it wrote, and its exit
// status; -1 means that a signal ended it or the time was up.
func (c *Cell) Shell(script string, most time.Duration) (out string, code int, err error) {
	cmd := c.Command("bash", "-c", script)
	var b bytes.Buffer
	cmd.Stdout, cmd.Stderr = &b, &b
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", -1, err
	}
	pid := cmd.Process.Pid
	late := atomic.Bool{}
	end := time.AfterFunc(most, func() {
		late.Store(true)
		syscall.Kill(-pid, syscall.SIGKILL)
		// nsenter forked: what it started is in a session of its own inside only
		// if it asked for one, so the group above is all of it, mostly.
		cmd.Process.Kill()
	})
	err = cmd.Wait()
	end.Stop()
	if late.Load() {
		return b.String(), -1, fmt.Errorf("still running after %v", most)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	return b.String(), cmd.ProcessState.ExitCode(), err
}

// Path gives a path that opens, from the host, what the cell has there.
func (c *Cell) Path(path string) string { return fmt.Sprintf("/proc/%d/root%s", c.Pid, path) }

// Groups gives the cgroups that were made inside and are still there.
func (c *Cell) Groups() []string {
	var left []string
	for _, g := range c.groups {
		filepath.WalkDir(g, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != g && !slices.Contains(c.within, path) {
				left = append(left, path)
			}
			return nil
		})
	}
	return left
}

// Close ends all processes of the cell and removes its cgroups.
func (c *Cell) Close() error {
	var errs []error
	if c.hold != nil {
		c.hold.Close()
		// Its first process ends, and the kernel ends the others; it ends by
		// itself, unless it is stuck.
		gone := make(chan struct{})
		go func() { c.init.Wait(); close(gone) }()
		select {
		case <-gone:
		case <-time.After(2 * time.Second):
			c.init.Process.Kill()
			<-gone
		}
		c.hold = nil
	}
	for range 100 {
		left := 0
		for _, g := range c.groups {
			if !removeGroup(g) {
				left++
			}
		}
		if left == 0 {
			c.groups = nil
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if len(c.groups) > 0 {
		errs = append(errs, fmt.Errorf("cannot remove the cgroups %q", c.groups))
	}
	return errors.Join(append(errs, os.Remove(c.dir))...)
}

// removeGroup thaws and empties what is left, from the deepest.
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
	for _, f := range [][2]string{{"cgroup.freeze", "0"}, {"freezer.state", "THAWED"}, {"cgroup.kill", "1"}} {
		if path := filepath.Join(dir, f[0]); exists(path) {
			os.WriteFile(path, []byte(f[1]), 0)
		}
	}
	err = unix.Rmdir(dir)
	return err == nil || errors.Is(err, fs.ErrNotExist)
}
