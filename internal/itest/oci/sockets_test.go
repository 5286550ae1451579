package oci

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
)

func itoa(n int) string { return strconv.Itoa(n) }

// takes gives a socket, and what takes one message with a descriptor from it.
func takes(t *testing.T, path string) func() (string, *os.File) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return func() (string, *os.File) {
		l.SetDeadline(time.Now().Add(longest))
		c, err := l.AcceptUnix()
		must(t, err)
		defer c.Close()
		b, rights := make([]byte, 8192), make([]byte, 256)
		n, rn, _, _, err := c.ReadMsgUnix(b, rights)
		must(t, err)
		ms, err := syscall.ParseSocketControlMessage(rights[:rn])
		must(t, err)
		if len(ms) != 1 {
			t.Fatalf("%d control messages with %q", len(ms), b[:n])
		}
		fds, err := syscall.ParseUnixRights(&ms[0])
		must(t, err)
		for _, extra := range fds[1:] {
			syscall.Close(extra)
		}
		return string(b[:n]), os.NewFile(uintptr(fds[0]), "received")
	}
}

// TestConsoleSocket: the terminal's master side arrives, and is the payload's
// terminal; the container's /dev/console is it.
func TestConsoleSocket(t *testing.T) {
	w := theWorld(t)
	take := takes(t, w.dir+"/s")
	b := w.bundle("c", []string{"sh", "-c", `test -t 0 && test -t 2 && echo tty; stat -c %t /dev/console; sleep 1000`}, func(c object) {
		c["process"].(object)["terminal"] = true
		c["process"].(object)["consoleSize"] = object{"height": 33, "width": 44}
	})
	w.fails(1, "console socket", "create", "-b", b, "c")
	w.ok("create", "-b", b, "--console-socket", w.dir+"/s", "c")
	_, master := take()
	defer master.Close()
	size, err := unix.IoctlGetWinsize(int(master.Fd()), unix.TIOCGWINSZ)
	if err != nil || size.Row != 33 || size.Col != 44 {
		t.Errorf("the terminal is %+v, %v", size, err)
	}
	w.ok("start", "c")
	said := ""
	for b := make([]byte, 100); !strings.Contains(said, "88"); { // 0x88: a pty's major number
		n, err := master.Read(b)
		must(t, err)
		said += string(b[:n])
	}
	if !strings.HasPrefix(said, "tty") {
		t.Errorf("the payload said %q", said)
	}
	w.ok("exec", "-d", "-t", "--console-socket", w.dir+"/s", "c", "sh", "-c", "test -t 1 && echo in; sleep 1")
	_, second := take()
	defer second.Close()
	p := make([]byte, 100)
	if n, err := second.Read(p); err != nil || !strings.HasPrefix(string(p[:n]), "in") {
		t.Errorf("exec said %q, %v", p[:n], err)
	}
}

// TestPidfdSocket: a descriptor of the very process arrives.
func TestPidfdSocket(t *testing.T) {
	w := theWorld(t)
	take := takes(t, w.dir+"/s")
	b := w.bundle("p", forever, nil)
	w.ok("create", "-b", b, "--pidfd-socket", w.dir+"/s", "--pid-file", w.dir+"/pid", "p")
	_, f := take()
	defer f.Close()
	info, err := os.ReadFile("/proc/self/fdinfo/" + itoa(int(f.Fd())))
	must(t, err)
	file, err := os.ReadFile(w.dir + "/pid")
	must(t, err)
	if pid := itoa(w.pid("p")); string(file) != pid || !strings.Contains(string(info), "Pid:\t"+pid+"\n") {
		t.Errorf("process %s: the file says %q, the descriptor %q", pid, file, info)
	}
}

// TestDescriptors: the payload has the descriptors that it is meant to have,
// whatever the caller has open, also before it is started and in exec.
func TestDescriptors(t *testing.T) {
	w := theWorld(t)
	const list = `ls /proc/self/fd | tr '\n' ' '`
	b := w.bundle("f", []string{"busybox", "sh", "-c", "busybox " + list + "; echo $LISTEN_FDS $LISTEN_PID; cat <&3"}, nil)
	leaky := func(keep int, args ...string) result {
		c := w.command(args...)
		f, err := os.CreateTemp(w.dir, "kept-")
		must(t, err)
		f.WriteString("this is it")
		f.Seek(0, 0)
		defer f.Close()
		for range keep {
			c.ExtraFiles = append(c.ExtraFiles, f)
		}
		for range 30 {
			c.ExtraFiles = append(c.ExtraFiles, f)
		}
		return w.run(c)
	}
	if r := leaky(1, "run", "-b", b, "--preserve-fds", "1", "f"); r.code != 0 || !strings.HasPrefix(r.out, "0 1 2 3 4 ") || !strings.HasSuffix(r.out, "this is it") {
		t.Errorf("one kept: %v", r)
	}
	w.env = []string{"LISTEN_FDS=2"}
	if r := leaky(2, "run", "-b", b, "f"); r.code != 0 || !strings.HasPrefix(r.out, "0 1 2 3 4 5 ") || !strings.Contains(r.out, "2 1\n") {
		t.Errorf("LISTEN_FDS=2: %v", r)
	}
	w.env = nil
	w.fails(1, "preserved-fd", "run", "-b", b, "--preserve-fds", "20", "f")
	b = w.bundle("g", forever, nil)
	r := leaky(0, "create", "-b", b, "g")
	if r.code != 0 {
		t.Fatal(r)
	}
	// Waiting, it still holds the gate and the way to tell errors, and nothing
	// of the caller's.
	dir := "/proc/" + itoa(w.pid("g")) + "/fd/"
	es, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range es {
		if to, _ := os.Readlink(dir + e.Name()); strings.Contains(to, "kept-") {
			t.Errorf("the waiting process has %s", to)
		}
	}
	w.ok("start", "g")
	if r := leaky(0, "exec", "g", "busybox", "ls", "/proc/self/fd"); r.out != "0\n1\n2\n3\n" {
		t.Errorf("exec has %v", r)
	}
	if r := leaky(1, "exec", "--preserve-fds", "1", "g", "sh", "-c", "cat <&3"); r.out != "this is it" {
		t.Errorf("exec with one kept: %v", r)
	}
}

// notifying listens as a service manager, and gives what starts a container that it
// hears of: inside is the container's socket, as a process inside finds it.
func notifying(w *world) (manager *net.UnixConn, run func(detached bool) (c *exec.Cmd, inside string)) {
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: w.dir + "/manager"})
	must(w.t, err)
	w.t.Cleanup(func() { l.Close() })
	w.env = []string{"NOTIFY_SOCKET=" + w.dir + "/manager"}
	b := w.bundle("n", []string{"sh", "-c", "echo $NOTIFY_SOCKET >/tmp/socket; sleep 1000"}, nil)
	socket := b + "/rootfs/tmp/socket"
	return l, func(detached bool) (c *exec.Cmd, inside string) {
		args := []string{"run", "-b", b, "n"}
		if detached {
			args = []string{"run", "-d", "-b", b, "n"}
		}
		os.Remove(socket)
		c = w.command(args...)
		must(w.t, c.Start())
		w.soon("the payload knows its socket", func() bool { return len(lines(socket)) == 1 })
		return c, fmt.Sprintf("/proc/%d/root%s", w.pid("n"), lines(socket)[0])
	}
}

// TestNotify: a detached run waits for the container to be ready, and says so
// to the service manager with the container's process as the main one.
func TestNotify(t *testing.T) {
	w := theWorld(t)
	l, run := notifying(w)
	for _, detached := range []bool{true, false} {
		c, inside := run(detached)
		said, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: inside, Net: "unixgram"})
		must(t, err)
		said.Write([]byte("STATUS=up\nMAINPID=1\nFDSTORE=1\nREADY=1"))
		said.Close()
		p := make([]byte, 4096)
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := l.Read(p)
		must(t, err)
		text := "\n" + string(p[:n]) + "\n"
		main := "\nMAINPID=" + itoa(w.pid("n")) + "\n"
		if !strings.Contains(text, "\nREADY=1\n") || !strings.Contains(text, "\nSTATUS=up\n") || strings.Contains(text, main) != detached || strings.Contains(text, "MAINPID=1\n") || strings.Contains(text, "FDSTORE") {
			t.Errorf("detached %v: the service manager got %q", detached, text)
		}
		w.ok("kill", "n", "KILL")
		c.Wait()
		if detached {
			if c.ProcessState.ExitCode() != 0 {
				t.Errorf("run -d: %v", c.ProcessState)
			}
			w.soon("stopped", func() bool { return w.state("n") == "stopped" })
			w.ok("delete", "n")
		}
	}
}

// TestNotifyLinger: a container sends a connection that the kernel doesn't close for ten
// minutes. Who waits for the container to be ready, or to end, still hears of its end.
func TestNotifyLinger(t *testing.T) {
	w := theWorld(t)
	_, run := notifying(w)
	for _, detached := range []bool{false, true} {
		c, inside := run(detached)
		stage.HandLingering(t, c.Process, inside, "X_THIS=1")
		time.Sleep(200 * time.Millisecond) // launch-oci has it now
		w.ok("kill", "n", "KILL")
		ended := make(chan error, 1)
		go func() { ended <- c.Wait() }()
		select {
		case <-ended:
		case <-time.After(longest):
			t.Errorf("detached %v: it waits for the connection", detached)
			c.Process.Kill()
			<-ended
		}
		if detached {
			w.soon("stopped", func() bool { return w.state("n") == "stopped" })
			w.ok("delete", "n")
		}
	}
}

// TestListener: the filter's listener and the container's state are sent to who
// decides, and the call waits for that.
func TestListener(t *testing.T) {
	for _, nnp := range []bool{true, false} { // the filter comes last, or before the gate
		t.Run(fmt.Sprint("noNewPrivileges=", nnp), func(t *testing.T) { listener(t, nnp) })
	}
}

func listener(t *testing.T, nnp bool) {
	w := theWorld(t)
	take := takes(t, w.dir+"/s")
	b := w.bundle("l", []string{"mkdir", "/tmp/x"}, func(c object) {
		c["process"].(object)["noNewPrivileges"] = nnp
		c["linux"].(object)["seccomp"] = object{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": w.dir + "/s", "listenerMetadata": "of mine",
			"syscalls": []object{{"names": []string{"mkdir", "mkdirat"}, "action": "SCMP_ACT_NOTIFY"}}}
	})
	// Made and started by two runtimes, as engines do it: the first one sends
	// the listener.
	w.ok("create", "-b", b, "c")
	text, f := take()
	if !strings.Contains(text, `"id":"c"`) {
		t.Errorf("create sent the listener with %s", text)
	}
	w.ok("start", "c")
	if s := w.state("c"); s != "running" {
		t.Errorf("started, and waiting for an answer: %q", s)
	}
	answer(t, f)
	f.Close()
	w.soon("the container has ended", func() bool { return w.state("c") == "stopped" })
	w.ok("delete", "c")
	if _, err := os.Stat(b + "/rootfs/tmp/x"); err == nil {
		t.Error("the call was made, whatever the answer")
	}

	done := make(chan result)
	go func() { done <- w.do("run", "-b", b, "l") }()
	text, f = take()
	defer f.Close()
	if !strings.Contains(text, `"of mine"`) || !strings.Contains(text, `"id":"l"`) || !strings.Contains(text, `"seccompFd"`) {
		t.Errorf("the listener came with %s", text)
	}
	answer(t, f)
	if r := <-done; r.code == 0 || !strings.Contains(r.err+r.out, "Numerical") && !strings.Contains(r.err, "Math") {
		t.Errorf("the call that was answered by EDOM: %v", r)
	}
}

// answer lets a call that a listener hears of fail with EDOM.
func answer(t *testing.T, f *os.File) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, int(longest/time.Millisecond)); n != 1 || fds[0].Revents&unix.POLLIN == 0 {
		t.Fatalf("nobody asks: %v, events %#x", err, fds[0].Revents)
	}
	// struct seccomp_notif has 80 bytes, its answer 24.
	var req [80]byte
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc0502100, ptr(&req[0])); errno != 0 {
		t.Fatal(errno)
	}
	var reply [24]byte
	copy(reply[:8], req[:8])
	edom := -int32(unix.EDOM)
	binary.NativeEndian.PutUint32(reply[16:], uint32(edom))
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0xc0182101, ptr(&reply[0])); errno != 0 {
		t.Fatal(errno)
	}
}

// TestExecOptions: what the options of exec say holds for the process.
func TestExecOptions(t *testing.T) {
	w := theWorld(t)
	b := w.bundle("e", forever, nil)
	w.ok("run", "-d", "-b", b, "e")
	status := func(args ...string) string {
		return w.ok(append(append([]string{"exec"}, args...), "e", "sh", "-c", "pwd; echo $X; cat /proc/self/status")...)
	}
	has := func(text, line string) {
		t.Helper()
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q in %q", line, text)
		}
	}
	s := status("--cwd", "/tmp", "-e", "X=y z", "-u", "7:8", "-g", "9", "--additional-gids", "10")
	for _, line := range []string{"/tmp", "y z", "Uid:\t7\t7\t7\t7", "Gid:\t8\t8\t8\t8", "NoNewPrivs:\t1", "CapEff:\t0000000000000000"} {
		has(s, line)
	}
	if !strings.Contains(s, "Groups:\t8 9 10") && !strings.Contains(s, "Groups:\t9 10") {
		t.Errorf("the groups in %q", s)
	}
	if s = status("--cap", "CAP_SYS_PTRACE"); !strings.Contains(s, "CapPrm:\t0000000020080420") {
		t.Errorf("a capability more: %q", s)
	}
	p := w.dir + "/p.json"
	must(t, os.WriteFile(p, []byte(`{"user":{"uid":5,"gid":6},"args":["sh","-c","id -u; pwd; exit 4"],"env":["PATH=/bin"],"cwd":"/etc"}`), 0o644))
	if r := w.do("exec", "--process", p, "e"); r.code != 4 || r.out != "5\n/etc\n" {
		t.Errorf("a process from a file: %v", r)
	}
	for _, which := range []string{"initial", "final"} {
		must(t, os.WriteFile(p, []byte(`{"args":["sh","-c","cat /proc/self/status"],"env":["PATH=/bin"],"cwd":"/","execCPUAffinity":{"`+which+`":"0"}}`), 0o644))
		has(w.ok("exec", "--process", p, "e"), "Cpus_allowed_list:\t0")
	}
	w.ok("exec", "-d", "--pid-file", w.dir+"/pid", "e", "sleep", "1000")
	pids := w.ok("ps", "--format", "json", "e")
	if f := lines(w.dir + "/pid"); len(f) != 1 || !strings.Contains(pids, f[0]) || strings.Count(pids, ",") != 1 {
		t.Errorf("the pid file %q, the processes %q", f, pids)
	}
	if s := w.ok("ps", "e", "-o", "pid,comm"); strings.Count(s, "sleep") != 2 {
		t.Errorf("ps says %q", s)
	}
	w.fails(255, "no such file or directory", "exec", "--cgroup", "nonesuch", "e", "true")
	// A signal passes through to what is waited for.
	c := w.command("exec", "e", "sh", "-c", `trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done`)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	out.Read(make([]byte, 10))
	c.Process.Signal(unix.SIGTERM)
	if err := c.Wait(); err == nil || err.(*exec.ExitError).ExitCode() != 9 {
		t.Errorf("after SIGTERM: %v", err)
	}
}
