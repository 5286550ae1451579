package hostile

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// world is a thread with namespaces of its own, whose root is an overlay of the
// host's: what a launcher breaks, breaks there. The work is done by do.
type world struct {
	work chan func()
	// up is the overlay's upper directory: what was written to the root.
	up string
	// canary and tree are where the bait and the machine's tree are.
	canary, tree string
	// cgroup is the launchers' own.
	cgroup   int
	cgroupAt string
}

// bait is the text in every file of the canary.
const bait = "CANARY-b1f7e2"

// cgroup2 is where the hierarchy is on this host, or "".
func cgroup2() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

// newWorld makes a world whose root is shared or private.
func newWorld(t *testing.T, shared bool) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	w := &world{work: make(chan func()), cgroup: -1}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its
		// namespaces with it.
		runtime.LockOSThread()
		ready <- w.enter(shared)
		for f := range w.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		t.Skipf("cannot make a copy of the host's root to break: %v", err)
	}
	t.Cleanup(func() {
		close(w.work)
		if w.cgroup >= 0 {
			unix.Close(w.cgroup)
			for range 100 {
				if unix.Rmdir(w.cgroupAt) != unix.EBUSY {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
	})
	return w
}

// do runs f on the world's thread.
func (w *world) do(f func()) {
	done := make(chan any)
	w.work <- func() {
		defer func() { done <- recover() }()
		f()
	}
	if r := <-done; r != nil {
		panic(r)
	}
}

func (w *world) enter(shared bool) error {
	var errs []error
	step := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
	}
	if mnt := cgroup2(); mnt != "" {
		dir, err := os.MkdirTemp(mnt, "launch-hostile-")
		step("make a cgroup", err)
		if err == nil {
			w.cgroupAt = dir
			w.cgroup, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			step("open the cgroup", err)
		}
	}
	step("unshare", unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS|unix.CLONE_NEWNET|unix.CLONE_NEWUTS|unix.CLONE_NEWIPC))
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	step("make private", unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	const base = "/mnt"
	mkdir := func(p string) { step("mkdir "+p, os.MkdirAll(p, 0o755)) }
	step("tmpfs", unix.Mount("launch-hostile", base, "tmpfs", 0, "mode=0755"))
	for _, d := range []string{"up", "work", "root"} {
		mkdir(base + "/" + d)
	}
	root := base + "/root"
	step("overlay", unix.Mount("overlay", root, "overlay", 0, "lowerdir=/,upperdir="+base+"/up,workdir="+base+"/work"))
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	for _, d := range []string{"/proc", "/sys", "/dev"} {
		step("bind "+d, unix.Mount(d, root+d, "", unix.MS_BIND|unix.MS_REC, ""))
	}
	step("tmpfs on /run", unix.Mount("tmpfs", root+"/run", "tmpfs", 0, "mode=0755"))
	for _, d := range []string{"/box", "/upper"} {
		mkdir(root + d)
	}
	step("bind upper", unix.Mount(base+"/up", root+"/upper", "", unix.MS_BIND, ""))
	step("tmpfs on /box", unix.Mount("tmpfs", root+"/box", "tmpfs", 0, "mode=0755"))
	step("chdir", unix.Chdir(root))
	step("pivot", unix.PivotRoot(".", "."))
	step("umount", unix.Unmount(".", unix.MNT_DETACH))
	step("chdir", unix.Chdir("/"))
	if shared {
		step("share", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""))
	}
	w.up, w.canary, w.tree = "/upper", "/box/canary", "/box/tree"
	step("copy programs", errors.Join(os.Mkdir("/box/bin", 0o755), copyFile(payload, "/box/bin/payload")))
	// A key that nobody inside may find.
	if _, err := unix.KeyctlJoinSessionKeyring("launch-hostile"); err == nil {
		unix.AddKey("user", "launch-canary", []byte(bait), unix.KEY_SPEC_SESSION_KEYRING)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return w.plant()
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	// A process that is forked meanwhile would have the program open for writing,
	// and for as long nobody could run it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(to, b, 0o755)
}

// plant makes the canary.
func (w *world) plant() error {
	if err := os.RemoveAll(w.canary); err != nil {
		return err
	}
	c := w.canary
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	do(os.MkdirAll(c+"/dir/sub", 0o755))
	do(os.MkdirAll(c+"/etc", 0o755))
	do(os.WriteFile(c+"/dir/file", []byte(bait+"\n"), 0o644))
	do(os.WriteFile(c+"/secret", []byte(bait+" secret\n"), 0o600))
	do(os.WriteFile(c+"/machine-id", []byte("c0ffeec0ffeec0ffeec0ffeec0ffee00\n"), 0o644))
	do(os.WriteFile(c+"/os-release", []byte("ID="+bait+"\n"), 0o644))
	do(os.WriteFile(c+"/passwd", []byte("bob:x:0:0:"+bait+":/:/bin/sh\n"), 0o644))
	do(os.WriteFile(c+"/group", []byte("wheel:x:0:bob\n"), 0o644))
	do(os.WriteFile(c+"/etc/machine-id", []byte("c0ffeec0ffeec0ffeec0ffeec0ffee00\n"), 0o644))
	do(os.WriteFile(c+"/program", []byte("#!/bin/payload\n"), 0o755))
	do(unix.Mkfifo(c+"/fifo", 0o644))
	do(unix.Mknod(c+"/sock", unix.S_IFSOCK|0o644, 0))
	do(os.Symlink("dir", c+"/link"))
	do(unix.Chmod(c+"/dir/sub", 0o711))
	do(unix.Setxattr(c+"/dir/file", "user.canary", []byte("here"), 0))
	return errors.Join(errs...)
}

// state is what must not change, a line each.
type state []string

// host looks at the world as its host.
func (w *world) host() state {
	var s state
	add := func(format string, args ...any) { s = append(s, fmt.Sprintf(format, args...)) }
	file := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(b))
	}
	for _, line := range strings.Split(file("/proc/thread-self/mountinfo"), "\n") {
		// The options of the one cgroup2 are everybody's.
		if i := strings.Index(line, " - cgroup2 "); i >= 0 {
			line = line[:i+11]
		}
		add("mount %s", line)
	}
	for _, line := range strings.Split(file("/proc/thread-self/net/dev"), "\n") {
		name, _, _ := strings.Cut(line, ":")
		add("interface %s", strings.TrimSpace(name))
	}
	for _, f := range []string{"core_pattern", "sysrq", "tainted", "hostname", "modprobe"} {
		add("%s %s", f, file("/proc/sys/kernel/"+f))
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		// Other tests have theirs, for files of their own.
		if of := file(l); strings.HasPrefix(of, "/box/") {
			add("%s %s", l, of)
		}
	}
	if id, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); err == nil {
		keys := make([]byte, 256)
		n, _ := unix.KeyctlBuffer(unix.KEYCTL_READ, id, keys, 0)
		add("keyring %d %x", id, keys[:max(n, 0)])
	}
	if w.cgroupAt != "" {
		filepath.WalkDir(w.cgroupAt, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				add("cgroup %s", path)
			}
			return nil
		})
	}
	w.list(&s, w.canary, true)
	w.list(&s, w.up, false)
	w.list(&s, "/run", false)
	return s
}

// list adds what is below a directory, in full with the content.
func (w *world) list(s *state, dir string, full bool) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err != nil || unix.Lstat(path, &st) != nil {
			*s = append(*s, fmt.Sprintf("file %s %v", path, err))
			return nil
		}
		line := fmt.Sprintf("file %s %o %d:%d rdev %x", path, st.Mode, st.Uid, st.Gid, st.Rdev)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			line += fmt.Sprintf(" nlink %d size %d", st.Nlink, st.Size)
		}
		if full {
			line += fmt.Sprintf(" ino %d mtime %d.%d ctime %d.%d", st.Ino, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
			names := make([]byte, 1024)
			if n, err := unix.Llistxattr(path, names); err == nil {
				for _, name := range strings.Split(string(names[:n]), "\x00") {
					v := make([]byte, 1024)
					if m, err := unix.Lgetxattr(path, name, v); err == nil && name != "" {
						line += fmt.Sprintf(" %s=%q", name, v[:m])
					}
				}
			}
			if d.Type().IsRegular() {
				b, _ := os.ReadFile(path)
				line += fmt.Sprintf(" %x", sha256.Sum256(b))
			}
			if d.Type()&fs.ModeSymlink != 0 {
				to, _ := os.Readlink(path)
				line += " -> " + to
			}
		}
		*s = append(*s, line)
		return nil
	})
}

// changes gives the first lines that differ, or "".
func changes(before, after state) string {
	var out []string
	old := map[string]bool{}
	for _, l := range before {
		old[l] = true
	}
	for _, l := range after {
		if !old[l] {
			out = append(out, "now: "+l)
		}
		delete(old, l)
	}
	for _, l := range before {
		if old[l] {
			out = append(out, "was: "+l)
		}
	}
	if len(out) > 6 {
		out = append(out[:6], "…")
	}
	return strings.Join(out, "\n")
}

// grow makes the tree that the traps are put in: the payload and what a merged
// /usr has.
func (w *world) grow(chown bool) error {
	if err := os.RemoveAll(w.tree); err != nil {
		return err
	}
	t := w.tree
	var errs []error
	do := func(err error) { errs = append(errs, err) }
	for _, d := range []string{"usr/bin", "usr/lib", "etc", "var", "tmp", "root", "proc", "sys", "dev", "run", "mnt", "srv"} {
		do(os.MkdirAll(t+"/"+d, 0o755))
	}
	do(os.Symlink("usr/bin", t+"/bin"))
	do(os.Symlink("usr/lib", t+"/lib"))
	if chown { // which is not to reach the other names
		do(copyFile("/box/bin/payload", t+"/usr/bin/payload"))
	} else {
		do(os.Link("/box/bin/payload", t+"/usr/bin/payload"))
	}
	do(os.WriteFile(t+"/etc/os-release", []byte("ID=hostile\n"), 0o644))
	do(os.WriteFile(t+"/etc/passwd", []byte("root:x:0:0::/root:/bin/sh\nbob:x:1000:1000::/srv:/bin/sh\n"), 0o644))
	do(os.WriteFile(t+"/etc/group", []byte("root:x:0:\nbob:x:1000:\nfriends:x:1001:bob\n"), 0o644))
	return errors.Join(errs...)
}

// result is what a launcher left.
type result struct {
	status int
	core   bool
	signal syscall.Signal
	out    string // standard output, or the caller's terminal
	errs   string
	view   *View
	took   time.Duration
}

// start runs a launcher in the world, on its thread, with what the case says.
func (w *world) start(bin string, c *kase) (result, error) {
	args := []string{"--directory=" + w.tree, "--machine=hostile", "--register=no", "--quiet"}
	if !c.tty {
		args = append(args, "--console=pipe")
	}
	for _, a := range c.args {
		args = append(args, strings.ReplaceAll(a, "$C", w.canary))
	}
	args = append(args, "--setenv=MARKER="+bait)
	if c.program != "" {
		args = append(args, c.program)
	} else {
		args = append(args, "/usr/bin/payload")
	}
	cmd := exec.Command(bin, append(args, c.words...)...)
	cmd.Dir = w.canary
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=vt100"}
	cmd.Env = append(cmd.Env, c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if w.cgroup >= 0 {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, w.cgroup
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	var pty *terminal
	if c.tty || c.ctty {
		var err error
		if pty, err = openTerminal(); err != nil {
			return result{}, err
		}
		defer pty.close()
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
		cmd.Stdin = pty.slave
		if c.tty {
			cmd.Stdout = pty.slave
		} else {
			// The terminal is the session's, but nobody hands it over.
			cmd.SysProcAttr.Ctty = 3
			cmd.ExtraFiles = []*os.File{pty.slave}
			cmd.Stdin = nil
		}
	}
	if c.ambient {
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_RAW, unix.CAP_SYS_ADMIN}
		cmd.SysProcAttr.Credential = &syscall.Credential{Groups: []uint32{4, 27, 4242}}
	}
	if c.leak > 0 {
		dir, err := os.Open(w.canary)
		if err != nil {
			return result{}, err
		}
		defer dir.Close()
		for len(cmd.ExtraFiles) < c.leak {
			cmd.ExtraFiles = append(cmd.ExtraFiles, dir)
		}
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	kill := time.AfterFunc(15*time.Second, func() { cmd.Process.Kill() })
	if c.during != nil {
		c.during(cmd.Process)
	}
	cmd.Wait()
	hung := !kill.Stop()
	r := result{status: cmd.ProcessState.ExitCode(), errs: errs.String(), took: time.Since(begin)}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	r.core = ws.CoreDump()
	if ws.Signaled() {
		r.signal = ws.Signal()
	}
	r.out = out.String()
	if pty != nil {
		if n := pty.pushed(); n > 0 {
			return r, fmt.Errorf("%d bytes were pushed to the caller's terminal", n)
		}
		if text := pty.text(); c.tty {
			r.out = text
		}
	}
	if hung {
		return r, errors.New("the launcher hung")
	}
	for line := range strings.Lines(r.out) {
		if i := strings.Index(line, `{"FDs"`); i >= 0 {
			var v View
			if err := json.Unmarshal([]byte(strings.TrimSpace(line[i:])), &v); err == nil {
				r.view = &v
			}
		}
	}
	return r, nil
}

// terminal is a caller's terminal.
type terminal struct {
	master *os.File
	slave  *os.File
	buf    bytes.Buffer
	done   chan bool
}

func openTerminal() (*terminal, error) {
	m, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var zero int32
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCSPTLCK, uintptr(unsafe.Pointer(&zero))); e != 0 {
		return nil, e
	}
	s, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(m), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		return nil, e
	}
	// Without echo and line editing: what is pushed can be read at once.
	tio, err := unix.IoctlGetTermios(int(s), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	tio.Lflag &^= unix.ECHO | unix.ICANON
	unix.IoctlSetTermios(int(s), unix.TCSETS, tio)
	t := &terminal{os.NewFile(uintptr(m), "ptmx"), os.NewFile(s, "pts"), bytes.Buffer{}, make(chan bool)}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := unix.Read(m, b)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				break
			}
			t.buf.Write(b[:n])
		}
		close(t.done)
	}()
	return t, nil
}

// pushed gives how many bytes wait as input.
func (t *terminal) pushed() int {
	var n int32
	unix.Syscall(unix.SYS_IOCTL, t.slave.Fd(), unix.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return int(n)
}

// text ends the terminal and gives what was written to it.
func (t *terminal) text() string {
	t.slave.Close()
	<-t.done
	return t.buf.String()
}

func (t *terminal) close() { t.slave.Close(); <-t.done; t.master.Close() }

// try runs one case, and gives what is wrong: "" is what a good launcher gets.
func (w *world) try(bin string, c *kase) string {
	if err := w.grow(slices.Contains(c.args, "--private-users-ownership=chown") || slices.Contains(c.words, "exe")); err != nil {
		return "cannot make the tree: " + err.Error()
	}
	if c.trap != nil {
		if err := c.trap(w); err != nil {
			return "cannot set the trap: " + err.Error()
		}
	}
	if c.after != nil {
		defer c.after(w)
	}
	if c.alone != nil {
		fault := c.alone(w, bin)
		os.RemoveAll("/box/other")
		return fault
	}
	os.Mkdir("/run/launch", 0o700) // a clean-up takes it away
	// What machines and systemd-nspawn share stays when it is empty.
	os.MkdirAll("/run/systemd/nspawn/locks", 0o700)
	os.MkdirAll("/run/systemd/nspawn/propagate", 0o600)
	os.MkdirAll("/run/systemd/nspawn/unix-export", 0o755)
	os.MkdirAll("/run/systemd/nspawn-uid", 0o755)
	before := w.host()
	r, err := w.start(bin, c)
	after := w.host()
	if d := changes(before, after); d != "" {
		return "the host changed:\n" + d
	}
	if err != nil {
		return err.Error() + "\n" + r.errs
	}
	return c.judge(w, r)
}

// swap lets two names of /box change places, over and over, until it is told
// to stop; then it gives how often they did.
func (w *world) swap(a, b string) (stop func() int) {
	// By descriptor: another thread has another idea of /box.
	dir, err := unix.Open("/box", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		panic(err)
	}
	return swapAt(dir, a, b, 0)
}

// swapAt swaps in the directory, which it closes at the end. It goes to sleep
// for the pause between two swaps.
func swapAt(dir int, a, b string, pause time.Duration) (stop func() int) {
	end, done := make(chan bool), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-end:
				if n%2 == 1 { // as it was
					unix.Renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE)
				}
				unix.Close(dir)
				done <- n
				return
			default:
				if unix.Renameat2(dir, a, dir, b, unix.RENAME_EXCHANGE) == nil {
					n++
				}
				if pause > 0 {
					time.Sleep(pause)
				}
			}
		}
	}()
	return sync.OnceValue(func() int { close(end); return <-done })
}
