package faults

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func ptr(p *byte) uintptr { return uintptr(unsafe.Pointer(p)) }

// longest is how long a run may take before it counts as one that hangs.
const longest = 10 * time.Second

// result is what came of one run.
type result struct {
	status int // -1: killed
	out    string
	err    string
	took   time.Duration
	hung   bool
}

func (r result) String() string {
	return fmt.Sprintf("status %d after %v, standard error %q", r.status, r.took.Round(time.Millisecond), r.err)
}

// run runs a launcher in the machine's cgroup.
func (w *world) run(env []string, program string, args ...string) (result, error) {
	for _, f := range []*os.File{w.out, w.err} {
		if err := f.Truncate(0); err != nil {
			return result{}, err
		}
	}
	c := exec.Command(program, args...)
	// Files, not pipes: nothing waits for an orphan that holds them.
	c.Stdout, c.Stderr = w.out, w.err
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LAUNCH_STORE=" + store}, env...)
	c.Dir = desk
	c.SysProcAttr = &syscall.SysProcAttr{}
	if w.cgfd != nil {
		c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(w.cgfd.Fd())
	}
	begin := time.Now()
	if err := c.Start(); err != nil {
		return result{}, err
	}
	var r result
	alarm := time.AfterFunc(longest, func() { r.hung = true; c.Process.Kill() })
	c.Wait()
	alarm.Stop()
	r.took = time.Since(begin)
	r.status = c.ProcessState.ExitCode()
	for _, f := range []struct {
		from *os.File
		to   *string
	}{{w.out, &r.out}, {w.err, &r.err}} {
		b, err := io.ReadAll(io.NewSectionReader(f.from, 0, 1<<22))
		if err != nil {
			return r, err
		}
		*f.to = string(b)
	}
	return r, nil
}

// start runs the machine under the fault build.
func (w *world) start(m machine, env ...string) (result, error) {
	return w.startWith(w.fault, m, env...)
}

// startWith runs the machine under a launcher.
func (w *world) startWith(program string, m machine, env ...string) (result, error) {
	args := slices.Clone(m.args)
	if m.program != "" {
		args = append(args, m.program)
	}
	return w.run(append(slices.Clone(m.env), env...), program, args...)
}

// quiet waits until nothing that a launcher started is alive, and names what
// is.
func (w *world) quiet(patience time.Duration) (alive []string) {
	deadline := time.Now().Add(patience)
	for wait := 200 * time.Microsecond; ; wait = min(2*wait, 20*time.Millisecond) {
		orphans := false
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if err == unix.EINTR || err == nil && pid > 0 {
				continue
			}
			orphans = err == nil
			break
		}
		alive = w.processes()
		if !orphans && len(alive) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			if orphans {
				alive = append(alive, "a process that lost its parent")
			}
			return alive
		}
		time.Sleep(wait)
	}
}

// processes lists what runs in the machines' cgroup.
func (w *world) processes() (list []string) {
	if w.cgroup == "" {
		return nil
	}
	filepath.WalkDir(w.cgroup, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			b, _ := os.ReadFile(p + "/cgroup.procs")
			for _, pid := range strings.Fields(string(b)) {
				comm, _ := os.ReadFile("/proc/" + pid + "/comm")
				list = append(list, "process "+strings.TrimSpace(string(comm))+" in "+filepath.Base(p))
			}
		}
		return nil
	})
	return list
}

// things lists all that a start could leave on the host, but for processes:
// one line each.
func (w *world) things(m machine) (list []string, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if head, _, ok := strings.Cut(line, " - cgroup"); ok {
			line = head // whoever mounts it last sets the options of all
		}
		list = append(list, "mount "+line)
	}
	// Loop devices are the host's; ours are those that show what lies here.
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, l := range loops {
		if text, err := os.ReadFile(l); err == nil && strings.HasPrefix(string(text), place) {
			list = append(list, "loop device of "+strings.TrimSpace(string(text)))
		}
	}
	// Those of the world's own network namespace.
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		line := fmt.Sprintf("interface %s %d mtu %d up %v", i.Name, i.Index, i.MTU, i.Flags&net.FlagUp != 0)
		addresses, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() {
				line += " " + a.String()
			}
		}
		list = append(list, line)
	}
	tables, err := tables()
	if err != nil {
		return nil, err
	}
	list = append(list, tables...)
	// The work of other tests is in this table, too; theirs have other names.
	if h := w.cgroups; h != "" {
		filepath.WalkDir(h, func(p string, d fs.DirEntry, err error) error {
			if err == nil && p != h && (strings.HasPrefix(d.Name(), "faults-") || strings.HasPrefix(d.Name(), "launch-bench-")) && !strings.HasPrefix(w.cgroup, p) {
				return fs.SkipDir // another run of these tests, or of the bench
			}
			if err == nil && d.IsDir() && (strings.HasPrefix(p, w.cgroup) && w.cgroup != "" || strings.HasPrefix(d.Name(), "launch-"+m.name)) {
				list = append(list, "cgroup "+p)
			}
			return nil
		})
	}
	for _, dir := range []string{"/run", "/tmp", "/var/tmp", place} {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(p, &st); err != nil {
				return err
			}
			line := fmt.Sprintf("file %s %o %d:%d", p, st.Mode, st.Uid, st.Gid)
			if m.shifts && strings.HasPrefix(p, root) {
				// Whose it is, and the bits that go with the owner, are looked at
				// when somebody has ended what was begun.
				line = fmt.Sprintf("file %s %o", p, st.Mode&^(unix.S_ISUID|unix.S_ISGID))
			}
			if !d.IsDir() {
				line += fmt.Sprintf(" inode %d size %d", st.Ino, st.Size)
			}
			list = append(list, line)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// tables lists the tables of nftables. A kernel without any has none.
func tables() (list []string, err error) {
	n, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err == unix.EPROTONOSUPPORT {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(n)
	ask := binary.NativeEndian.AppendUint32(nil, unix.SizeofNlMsghdr+4)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETTABLE)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	if _, err := unix.Write(n, append(ask, make([]byte, 12)...)); err != nil {
		return nil, err
	}
	for b := make([]byte, 1<<16); ; {
		got, err := unix.Read(n, b)
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(b[:got])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch {
			case m.Header.Type == unix.NLMSG_DONE || m.Header.Type == unix.NLMSG_ERROR:
				return list, nil
			case len(m.Data) < 8:
				return nil, errors.New("a table without a name")
			}
			name, _, _ := strings.Cut(string(m.Data[8:]), "\x00") // the first attribute
			list = append(list, fmt.Sprintf("table %d %s", m.Data[0], name))
		}
	}
}

// octal undoes what the kernel does to names in mountinfo.
var octal = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// baseDirs may appear in any tree.
var baseDirs = strings.Fields("bin lib lib64 sbin usr root var etc proc sys dev run tmp")

// changed compares two lists of things and leaves out what a start may make.
func changed(m machine, before, after []string) (diff []string) {
	may := slices.Clone(m.grows)
	for _, d := range baseDirs {
		may = append(may, root+"/"+d)
	}
	// systemd's directory is made where there is none, and stays.
	may = append(may, "/run/systemd", "/run/systemd/nspawn-uid", "/run/systemd/nspawn", "/run/systemd/nspawn/locks",
		"/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export", "/run/systemd/nspawn/journal")
	for _, line := range before {
		if slices.Contains(after, line) {
			continue
		}
		if f := strings.Fields(line); f[0] == "mount" {
			// A mount of the host's goes when somebody out there removes the
			// directory that it is on. No launcher does that.
			if _, err := os.Lstat(octal.Replace(f[5])); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		diff = append(diff, "gone: "+line)
	}
	for _, line := range after {
		if slices.Contains(before, line) {
			continue
		}
		if f := strings.Fields(line); f[0] == "file" && (slices.Contains(may, f[1]) || m.makes && strings.HasPrefix(f[1], root)) {
			continue
		}
		diff = append(diff, "new: "+line)
	}
	return diff
}

// cleanUp runs launch --cleanup as a user would.
func (w *world) cleanUp() error {
	r, err := w.run(nil, w.launch, "--cleanup")
	if err == nil && (r.status != 0 || r.hung) {
		err = fmt.Errorf("launch --cleanup: %v", r)
	}
	return err
}

// after looks at what is left: residue is what there is before the clean-up,
// and what is left after it is an error.
func (w *world) after(m machine, before []string) (residue []string, err error) {
	// What is being killed needs a moment; it is no residue.
	residue = w.quiet(500 * time.Millisecond)
	now, err := w.things(m)
	if err != nil {
		return nil, err
	}
	// The directory of all machines stays until a clean-up finds it empty.
	kept := m
	kept.grows = append(slices.Clone(m.grows), "/run/launch")
	residue = append(residue, changed(kept, before, now)...)
	// As long as one of them is in the kernel, as behind others that set up a
	// network, the machine counts as running, and a clean-up leaves it alone.
	w.quiet(longest)
	if err := w.cleanUp(); err != nil {
		return residue, err
	}
	left := w.quiet(2 * time.Second)
	if now, err = w.things(m); err != nil {
		return residue, err
	}
	if left = append(left, changed(m, before, now)...); len(left) > 0 {
		w.scrub()
		return residue, fmt.Errorf("left after the clean-up: %s", strings.Join(left, "; "))
	}
	return residue, nil
}

// scrub removes by force what must not spoil the next run.
func (w *world) scrub() {
	if w.cgroup != "" {
		killAll(w.cgroup)
		w.quiet(2 * time.Second)
		dirs, _ := os.ReadDir(w.cgroup)
		for _, d := range dirs {
			if d.IsDir() {
				removeCgroup(filepath.Join(w.cgroup, d.Name()))
			}
		}
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); strings.HasPrefix(f[4], "/run/") {
			unix.Unmount(f[4], unix.MNT_DETACH)
		}
	}
	for _, pattern := range []string{"/run/*", "/tmp/*", "/var/tmp/*"} {
		names, _ := filepath.Glob(pattern)
		for _, n := range names {
			os.RemoveAll(n)
		}
	}
}
