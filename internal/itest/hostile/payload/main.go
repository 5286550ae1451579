// Command payload is what the hostile tests run inside a machine: it says what
// it sees and what it can do, as one line of JSON. It guarantees to need
// nothing of the tree but itself, and never to block on what the tree holds.
// It refuses to judge.
//
//	payload [read:FILE] [write:DIR] [stat:FILE] [tell:FILE] [wait:FILE]
//	        [mount:DIR] [mounted:DIR] [undo] [exe] [inject] …
//
// Room: test.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"launch/internal/itest/hostile"
)

func main() {
	v := hostile.View{FDs: map[string]string{}, Status: map[string]string{}, Did: map[string]string{}}
	for n := range 1024 {
		var st unix.Stat_t
		if unix.Fstat(n, &st) == nil {
			v.FDs[fmt.Sprint(n)] = link(fmt.Sprintf("/proc/self/fd/%d", n))
		}
	}
	for line := range strings.Lines(read("/proc/self/status")) {
		k, val, _ := strings.Cut(strings.TrimSpace(line), ":")
		v.Status[k] = strings.Join(strings.Fields(val), " ")
	}
	v.UIDMap = strings.Join(strings.Fields(read("/proc/self/uid_map")), " ")
	b := make([]byte, unix.PathMax)
	if n, err := unix.Getcwd(b); err == nil && n > 0 {
		v.Cwd = string(b[:n-1])
	} else {
		v.Cwd = fmt.Sprint(err)
	}
	v.Mounts = mounts()
	v.UpIsTop, v.OneIsUs = same("/..", "/"), same("/proc/1/root/.", "/")
	v.Console = link("/dev/console")
	if n, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		v.TTY = err.Error()
	} else {
		v.TTY = "open"
		unix.Close(n)
	}
	v.Env = os.Environ()
	for _, where := range []int{unix.KEY_SPEC_SESSION_KEYRING, unix.KEY_SPEC_USER_SESSION_KEYRING} {
		if id, err := unix.KeyctlSearch(where, "user", "launch-canary", 0); err == nil && id > 0 {
			v.Key = true
		}
	}
	marker := []byte(os.Getenv("MARKER"))
	if len(marker) > 0 {
		walk("/", marker, &v.Found, 0)
	}
	for _, a := range os.Args[1:] {
		verb, arg, _ := strings.Cut(a, ":")
		switch verb {
		case "read":
			v.Did[a] = readAny(arg)
		case "write":
			v.Did[a] = write(arg)
		case "tell":
			v.Did[a] = fmt.Sprint(os.WriteFile(arg, nil, 0o644))
		case "wait":
			v.Did[a] = wait(arg)
		case "mount":
			v.Did[a] = fmt.Sprint(unix.Mount("inside", arg, "tmpfs", 0, "size=64k"))
		case "mounted":
			v.Did[a] = "no"
			for _, m := range mounts() {
				if m.Target == arg {
					v.Did[a] = "yes"
				}
			}
		case "undo":
			v.Did[a] = undo()
		case "stat":
			var st unix.Stat_t
			if err := unix.Lstat(arg, &st); err != nil {
				v.Did[a] = err.Error()
			} else {
				v.Did[a] = fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, st.Mode)
			}
		case "exe":
			v.Did[a] = exe()
		case "nested":
			v.Did[a] = nested()
		case "inject":
			v.Did[a] = inject()
		case "sleep":
			time.Sleep(time.Hour)
		}
	}
	out, err := json.Marshal(v)
	if err != nil {
		fmt.Println(err)
		os.Exit(3)
	}
	out = append(out, '\n')
	for len(out) > 0 {
		n, err := unix.Write(1, out)
		if err != nil {
			os.Exit(4)
		}
		out = out[n:]
	}
}

func link(path string) string {
	s, err := os.Readlink(path)
	if err != nil {
		return err.(*os.PathError).Err.Error()
	}
	return s
}

func read(path string) string { b, _ := os.ReadFile(path); return string(b) }

func mounts() (list []hostile.Mount) {
	for line := range strings.Lines(read("/proc/self/mountinfo")) {
		f := strings.Fields(line)
		for i, w := range f {
			if w == "-" && i+3 < len(f) {
				list = append(list, hostile.Mount{Target: f[4], Root: f[3], Type: f[i+1], Flags: f[5], Propagation: strings.Join(f[6:i], " "), Super: f[i+3]})
				break
			}
		}
	}
	return list
}

func same(a, b string) bool {
	var x, y unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, a, 0, unix.STATX_INO|unix.STATX_MNT_ID, &x) != nil ||
		unix.Statx(unix.AT_FDCWD, b, 0, unix.STATX_INO|unix.STATX_MNT_ID, &y) != nil {
		return false
	}
	return x.Ino == y.Ino && x.Dev_major == y.Dev_major && x.Dev_minor == y.Dev_minor && x.Mnt_id == y.Mnt_id
}

// readAny opens without waiting, and gives the kind and the first bytes.
func readAny(path string) string {
	n, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(n)
	b := make([]byte, 4096)
	m, err := unix.Read(n, b)
	if err != nil {
		return err.Error()
	}
	return "=" + string(b[:m])
}

func write(dir string) string {
	n, err := unix.Open(dir+"/written-inside", unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err.Error()
	}
	unix.Close(n)
	return "written"
}

// walk looks for the marker in all that the machine's tree shows, the kernel's
// own file systems left out.
func walk(dir string, marker []byte, found *[]string, depth int) {
	if depth > 12 || len(*found) > 50 {
		return
	}
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return
	}
	switch fs.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC:
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := strings.TrimSuffix(dir, "/") + "/" + e.Name()
		// What is mounted there counts, not what the directory says.
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			continue
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			walk(path, marker, found, depth+1)
		case unix.S_IFREG:
			n, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			b := make([]byte, 4096)
			m, _ := unix.Read(n, b)
			unix.Close(n)
			if m > 0 && bytes.Contains(b[:m], marker) {
				*found = append(*found, path)
			}
		}
	}
}

// undo tries to take away what hides and protects, and to get a fresh look at
// what is hidden. It gives what worked.
func undo() string {
	var did []string
	note := func(err error, format string, args ...any) {
		if err == nil {
			did = append(did, fmt.Sprintf(format, args...))
		}
	}
	list := mounts()
	for i := len(list) - 1; i >= 0; i-- {
		m := list[i]
		if m.Target == "/" {
			continue
		}
		if strings.HasPrefix(m.Flags, "ro") {
			note(unix.Mount("", m.Target, "", unix.MS_REMOUNT|unix.MS_BIND, ""), "remount %s", m.Target)
		}
		if m.Target != "/proc" {
			note(unix.Unmount(m.Target, unix.MNT_DETACH), "umount %s", m.Target)
		}
	}
	for _, f := range []string{"proc", "sysfs"} {
		dir := "/tmp/fresh-" + f
		os.MkdirAll(dir, 0o755)
		note(unix.Mount(f, dir, f, 0, ""), "mount %s", f)
	}
	return strings.Join(did, ", ")
}

// nested does the same in users and mounts of its own inside the machine's.
func nested() string {
	c := exec.Command("/proc/self/exe", "undo")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{Size: 65536}}, GidMappings: []syscall.SysProcIDMap{{Size: 65536}},
	}
	var v hostile.View
	out, err := c.Output()
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil {
		return err.Error()
	}
	return v.Did["undo"]
}

// wait waits until a file is there.
func wait(path string) string {
	for range 1000 {
		if unix.Access(path, unix.F_OK) == nil {
			return "there"
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "never came"
}

// exe tries to open the program of every process for writing, and tells of
// those in memory that others could change.
func exe() string {
	var did []string
	until := time.Now().Add(100 * time.Millisecond)
	for time.Now().Before(until) {
		dirs, _ := os.ReadDir("/proc")
		for _, d := range dirs {
			if d.Name()[0] < '0' || d.Name()[0] > '9' {
				continue
			}
			for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR} {
				n, err := unix.Open("/proc/"+d.Name()+"/exe", flags|unix.O_CLOEXEC, 0)
				if err == nil {
					unix.Close(n)
					did = append(did, d.Name())
				}
			}
			program := "/proc/" + d.Name() + "/exe"
			if n, err := unix.Open(program, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
				const sealed = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
				if seals, err := unix.FcntlInt(uintptr(n), unix.F_GET_SEALS, 0); strings.HasPrefix(link(program), "/memfd:") && (err != nil || seals&sealed != sealed) {
					did = append(did, d.Name()+" is not sealed")
				}
				unix.Close(n)
			}
		}
	}
	return strings.Join(did, " ")
}

// inject pushes input to every terminal it can reach that is not the machine's
// own.
func inject() string {
	var did []string
	own := func(n int) bool {
		var a, b unix.Stat_t
		return unix.Fstat(n, &a) == nil && unix.Stat("/dev/pts", &b) == nil && a.Dev == b.Dev
	}
	try := func(name string, n int) {
		if own(n) {
			return
		}
		c := byte('!')
		for _, req := range []uintptr{unix.TIOCSTI, unix.TIOCSTI | 1<<32} {
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(n), req, uintptr(unsafe.Pointer(&c))); e == 0 {
				did = append(did, name)
			}
		}
	}
	for n := range 3 {
		try(fmt.Sprint(n), n)
	}
	if own(0) {
		return strings.Join(did, " ") // then /dev/tty is that one
	}
	if n, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0); err == nil {
		try("/dev/tty", n)
	}
	return strings.Join(did, " ")
}
