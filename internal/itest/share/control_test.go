package share

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
)

// TestSockets: a machine that shares the host's network sees the abstract sockets
// there, and none of them is the launcher's. (CVE-2020-15257 of containerd.) That
// such a socket would be seen is tried with one of the test's own.
func TestSockets(t *testing.T) {
	p := begin(t)
	control := fmt.Sprintf("launch-test-control-%d", os.Getpid())
	l, err := net.Listen("unix", "@"+control)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	before := abstract(t, "/proc/self/net/unix")
	r := p.start("cat /proc/net/unix; echo end; sleep 60")
	if err := r.Await("end\n", most); err != nil {
		t.Fatal(err, r.Out)
	}
	seen := r.Out.String()
	if !strings.Contains(seen, "@"+control) {
		t.Errorf("the control isn't seen: %s", seen)
	}
	// The launcher's own descriptors: which sockets has it, and has one a name?
	own := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", r.Process.Pid))
	if err != nil || len(fds) < 3 {
		t.Fatal("the launcher has no descriptors: ", err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fd)
		if inode, ok := strings.CutPrefix(to, "socket:["); ok {
			own[strings.TrimSuffix(inode, "]")] = true
		}
	}
	if len(own) == 0 {
		t.Error("the launcher has no socket, not even that for notifications")
	}
	for line := range strings.Lines(seen) {
		if f := strings.Fields(line); len(f) > 7 && own[f[6]] && !strings.HasSuffix(f[7], "/notify") {
			t.Errorf("a socket of the launcher's can be reached: %s", line)
		}
	}
	for _, name := range abstract(t, "/proc/self/net/unix") {
		if !slices.Contains(before, name) && strings.Contains(name, "launch") && !strings.Contains(name, "launch-test") {
			t.Errorf("a start has made the abstract socket %s", name)
		}
	}
	r.Process.Signal(syscall.SIGTERM)
	r.Code(most)
}

func abstract(t *testing.T, file string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 7 && f[7][0] == '@' {
			list = append(list, f[7])
		}
	}
	return list
}

// TestForged: what a machine sends to the launcher's socket never makes the
// service manager believe another process, or anybody but the first process.
func TestForged(t *testing.T) {
	p := begin(t)
	manager := filepath.Join(filepath.Dir(p.dir), "manager")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: manager, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// The sender is the test, which is not the machine's first process.
	r := p.env([]string{"NOTIFY_SOCKET=" + manager}, "echo up; sleep 60", "--notify-ready=yes")
	if err := r.Await("up", most); err != nil {
		t.Fatal(err, r.Out)
	}
	leader, err := r.Leader(most)
	if err != nil {
		t.Fatal(err)
	}
	socket := fmt.Sprintf("/proc/%d/root/run/host/notify", leader)
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"READY=1", "MAINPID=1", "READY=1\nMAINPID=1\nSTATUS=forged", "FDSTORE=1\nFDNAME=x", "ERRNO=2", "WATCHDOG=trigger", "STOPPING=1", strings.Repeat("STATUS=x\n", 10000)} {
		c.Write([]byte(m)) // some are too long for it
	}
	c.Close()
	l.SetReadDeadline(time.Now().Add(time.Second))
	heard := ""
	b := make([]byte, 1<<16)
	for {
		n, err := l.Read(b)
		if err != nil {
			break
		}
		heard += string(b[:n]) + "\n"
	}
	r.Process.Signal(syscall.SIGTERM)
	r.Code(most)
	if !strings.Contains(heard, "X_NSPAWN_LEADER_PID=") {
		t.Errorf("the launcher itself isn't heard: %q", heard)
	}
	for _, bad := range []string{"READY=1", "MAINPID", "forged", "FDSTORE", "ERRNO", "trigger", "STOPPING"} {
		if strings.Contains(heard, bad) {
			t.Errorf("the service manager was told %s: %q", bad, heard)
		}
	}
}

// TestLinger: a machine sends its launcher a connection that the kernel doesn't close
// for ten minutes (SO_LINGER, and a peer that doesn't read). The launcher still ends
// when it is asked to, and when the machine does.
func TestLinger(t *testing.T) {
	for _, by := range []string{"the launcher is asked to end", "the machine ends"} {
		t.Run(by, func(t *testing.T) {
			p := begin(t)
			r := p.start("echo up; sleep 60")
			if err := r.Await("up", most); err != nil {
				t.Fatal(err, r.Out)
			}
			leader, err := r.Leader(most)
			if err != nil {
				t.Fatal(err)
			}
			stage.HandLingering(t, r.Process, fmt.Sprintf("/proc/%d/root/run/host/notify", leader), "X_THIS=1")
			time.Sleep(200 * time.Millisecond) // the launcher has it now
			if by == "the machine ends" {
				unix.Kill(leader, unix.SIGKILL)
			} else {
				r.Process.Signal(syscall.SIGTERM)
			}
			if code, err := r.Code(most); err != nil || code != 1 && by == "the machine ends" {
				t.Errorf("status %d, %v: %s", code, err, r.Out)
			}
		})
	}
}

// TestPlaces: a start makes nothing in directories that others can write to, where
// somebody might have laid a link in wait. systemd-nspawn does, which shows that
// it would be seen.
func TestPlaces(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	makes := regexp.MustCompile(`(?:mkdir|mkdirat|mknodat|symlinkat|linkat|renameat2?|mkdir|rename|symlink|link|open|openat)\((?:AT_FDCWD(?:<[^>]*>)?, )?"((?:/tmp|/var/tmp|/dev/shm)/[^"]*)"`)
	made := func(l stage.Launcher) (list []string) {
		t.Helper()
		p := begin(t)
		log := filepath.Join(filepath.Dir(p.dir), "strace")
		r := p.Start(l.Env, "strace", "-f", "-qq", "-o", log, "-e", "trace=mkdir,mkdirat,mknod,mknodat,symlink,symlinkat,link,linkat,rename,renameat,renameat2,open,openat", l.Path, "--quiet",
			"--directory="+p.dir, "--machine="+name, "--register=no", "--keep-unit", "--console=pipe", "--private-network", "--volatile=overlay", "--tmpfs=/mnt", "/bin/busybox", "true")
		if code, err := r.Code(2 * most); code != 0 || err != nil {
			t.Fatalf("%s: %d %v %s", l.Name, code, err, r.Out)
		}
		text, err := os.ReadFile(log)
		if err != nil || len(text) < 1000 {
			t.Fatal("strace saw nothing: ", err)
		}
		for line := range strings.Lines(string(text)) {
			if m := makes.FindStringSubmatch(line); m != nil && (!strings.Contains(line, "open") || strings.Contains(line, "O_CREAT")) && !strings.Contains(line, "O_TMPFILE") {
				list = append(list, m[1])
			}
		}
		return list
	}
	if got := made(stage.Launch(t)); got != nil {
		t.Errorf("launch makes %q", got)
	}
	if got := made(stage.Nspawn(t)); got == nil {
		t.Error("the control: systemd-nspawn makes nothing there")
	}
}

// TestEndTold: the service manager hears that a machine is asked to end, and how it
// ended or why it didn't start.
func TestEndTold(t *testing.T) {
	for what, c := range map[string]struct {
		script, args string
		stop         bool
		want         []string // the messages after the start
	}{
		"ended":   {script: "exit 7", want: []string{"STOPPING=1\nSTATUS=Terminating...", "EXIT_STATUS=7"}},
		"reboots": {script: "busybox reboot -f", want: []string{"STOPPING=1\nSTATUS=Restarting...", "EXIT_STATUS=133"}},
		"asked": {script: "trap 'exit 3' TERM; echo up; while :; do sleep 0.1; done", args: "--kill-signal=SIGTERM", stop: true,
			want: []string{"STOPPING=1\nSTATUS=Shutting down...", "STOPPING=1\nSTATUS=Terminating...", "EXIT_STATUS=3"}},
		"fails": {args: "--chdir=/nowhere", want: []string{"ERRNO=2\nEXIT_STATUS=1"}},
	} {
		t.Run(what, func(t *testing.T) {
			launchOnly(t, "it says nothing of its end")
			p := begin(t)
			manager := filepath.Join(t.TempDir(), "notify")
			l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: manager, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			r := p.env([]string{"NOTIFY_SOCKET=" + manager}, c.script, strings.Fields(c.args)...)
			if c.stop {
				if err := r.Await("up\n", most); err != nil {
					t.Fatalf("%v\n%s", err, r.Out)
				}
				r.Process.Signal(syscall.SIGTERM)
			}
			end(t, r)
			var heard []string
			for b := make([]byte, 4096); ; {
				l.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
				n, err := l.Read(b)
				if err != nil {
					break
				}
				if m := strings.TrimSpace(string(b[:n])); !strings.Contains(m, "READY=1") {
					heard = append(heard, m)
				}
			}
			want(t, "what the service manager heard", fmt.Sprintf("%q", heard), fmt.Sprintf("%q", c.want))
		})
	}
}

// TestWorkOwner: the work directory of an overlay lies beside the upper one, where
// somebody else may rename things. It is the machine's from the first moment, and is not
// given away by its name, which may be that of another file by then.
func TestWorkOwner(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace")
	}
	p := begin(t)
	log := filepath.Join(filepath.Dir(p.dir), "strace")
	r := p.Start(p.l.Env, "strace", "-f", "-qq", "-o", log, "-e", "trace=mkdirat,fchownat,chown,lchown", p.l.Path, "--quiet", "--directory="+p.dir, "--machine="+name,
		"--register=no", "--keep-unit", "--console=pipe", "--private-users=655360:65536", "--private-users-ownership=map",
		"--overlay="+p.dir+"/etc:"+filepath.Dir(p.dir)+"/upper:/mnt", "/bin/busybox", "touch", "/mnt/written")
	if code, err := r.Code(2 * most); code != 0 || err != nil {
		t.Fatalf("%d %v %s", code, err, r.Out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	made := false
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "/.#upper") && !strings.Contains(line, "\".#upper") {
			continue
		}
		made = made || strings.Contains(line, "mkdirat")
		if strings.Contains(line, "chown") {
			t.Errorf("it is given away by name: %s", line)
		}
	}
	if !made {
		t.Errorf("strace saw nothing of it:\n%s", text)
	}
}
