package share

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// hand is a machine's payload that does what a journal does: it hands on so many
// lines, and ends without waiting for anything.
func hand(count string) {
	c, err := net.Dial("unix", "/run/host/journal/socket")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	most, _ := strconv.Atoi(count)
	for i := range most {
		if _, err := c.Write([]byte(entry(i))); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("handed on")
	os.Exit(0)
}

// entry is a line as journals hand it on.
func entry(i int) string {
	return fmt.Sprintf("__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n_BOOT_ID=3128c1b259a442b2b1c7ffcb64c2eeab\nMESSAGE=line %d %s\n\n",
		time.Now().UnixMicro(), 1000+i, i, strings.Repeat("x", 1000))
}

// receiving begins a test in whose tree hand is, with a place for journals.
func receiving(t *testing.T) (p *place, dir string) {
	t.Helper()
	launchOnly(t, "forwarded journals")
	tree.NeedRoot(t, "journalctl")
	if _, err := os.Stat("/usr/lib/systemd/systemd-journal-remote"); err != nil {
		t.Skip("needs systemd-journal-remote: ", err)
	}
	p = begin(t)
	furnish(t, p.dir)
	dir = tree.Scratch(t)
	return p, dir
}

// lines counts what hand has handed on, in a file.
func lines(t *testing.T, file string) int {
	t.Helper()
	out, err := exec.Command("journalctl", "--file="+file, "--output=cat", "--no-pager", "-q").CombinedOutput()
	if err != nil {
		t.Fatalf("journalctl: %v\n%s", err, out)
	}
	return strings.Count(string(out), "line ")
}

// receivers lists the processes that take journals into the directory.
func receivers(dir string) (pids []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && strings.Contains(string(text), "--output="+dir) && strings.Contains(string(text), "--split-mode=") {
			pids = append(pids, filepath.Base(filepath.Dir(name)))
		}
	}
	return pids
}

// self gives the path of this program.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// status gives a line of /proc/PID/status.
func status(t *testing.T, pid, key string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(regexp.MustCompile("(?m)^" + key + ":(.*)$").FindStringSubmatch(string(text))[1])
}

// TestForward: what a machine hands on is in the host's files when the machine has
// ended, to the last line, whoever its root is on the host; nothing else is left.
func TestForward(t *testing.T) {
	for kind, args := range map[string][]string{"plain": nil, "users": {users, "--private-users-ownership=map"}, "pid2": {"--as-pid2"}} {
		t.Run(kind, func(t *testing.T) {
			p, dir := receiving(t)
			said := p.says(`cat /run/host/credentials/journal.forward_to_socket; echo; echo "$CREDENTIALS_DIRECTORY"; stat -c "%a %u %F" /run/host/journal /run/host/journal/socket
				grep ' /run/host/journal' /proc/self/mountinfo | cut -d' ' -f6
				rm /run/host/journal/socket 2>/dev/null || echo stays
				exec /bin/serve hand 500`, append(args, "--forward-journal="+dir+"/new/web.journal")...)
			mode := "755 0 directory\n644 0 socket\nro,nosuid,nodev,noexec,relatime\nstays\nhanded on\n"
			want(t, "what the machine sees", said, "/run/host/journal/socket\n/run/host/credentials\n"+mode)
			if n := lines(t, dir+"/new/web.journal"); n != 500 {
				t.Errorf("%d lines of 500 are there", n)
			}
			if pids := receivers(dir); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
			want(t, "what is left", p.Look("sh", "-c", "ls -A /run/systemd/nspawn/journal; find /run/launch -mindepth 1 2>/dev/null || true"), "")
		})
	}
}

// halt stops the one receiver that the machine has once it is up.
func halt(t *testing.T, r *stage.Run, dir string) (pid int) {
	t.Helper()
	if err := r.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	pids := receivers(dir)
	if len(pids) != 1 {
		t.Fatalf("there are %q", pids)
	}
	pid, _ = strconv.Atoi(pids[0])
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	return pid
}

// TestForwardSlow: a machine's last lines get into the file, also if whoever writes it
// hasn't read them when the machine ends.
func TestForwardSlow(t *testing.T) {
	p, dir := receiving(t)
	r := p.start("echo up; while [ ! -e /srv/now ]; do sleep 0.1; done; exec /bin/serve hand 40", "--forward-journal="+dir+"/web.journal")
	pid := halt(t, r, dir)
	if err := os.WriteFile(filepath.Join(p.dir, "srv/now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := r.Await("handed on\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	time.Sleep(300 * time.Millisecond) // the machine ends
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if out, code := end(t, r); code != 0 || out != "up\nhanded on\n" {
		t.Errorf("exit status %d\n%s", code, out)
	}
	if n := lines(t, dir+"/web.journal"); n != 40 {
		t.Errorf("%d lines of 40 are there", n)
	}
}

// TestForwardHangs: who does not write them at all is ended, and a message says so, with
// --quiet as well.
func TestForwardHangs(t *testing.T) {
	t.Parallel() // it waits
	p, dir := receiving(t)
	r := p.start("echo up; while [ ! -e /srv/now ]; do sleep 0.1; done; exec /bin/serve hand 1", "--forward-journal="+dir+"/web.journal")
	if err := r.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	for _, pid := range receivers(dir) {
		n, _ := strconv.Atoi(pid)
		syscall.Kill(n, syscall.SIGSTOP)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "srv/now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, code := end(t, r)
	if code != 0 || !strings.Contains(out, "the last lines of its journal may be missing: systemd-journal-remote: it did not answer within 5s\n") {
		t.Errorf("exit status %d\n%s", code, out)
	}
	if pids := receivers(dir); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

// TestForwardDirectory: in a directory, files have names of systemd-journal-remote's
// choosing.
func TestForwardDirectory(t *testing.T) {
	p, dir := receiving(t)
	want(t, "what it says", p.says("exec /bin/serve hand 7", "--forward-journal="+dir+"/all"), "handed on\n")
	files, err := filepath.Glob(dir + "/all/remote-*.journal")
	if err != nil || len(files) != 1 || lines(t, files[0]) != 7 {
		t.Errorf("there are %q, %v", files, err)
	}
}

// TestForwardNeeds: who parses what the machine sends has no rights but one, no
// descriptor of ours, and is told nothing about the launcher.
func TestForwardNeeds(t *testing.T) {
	p, dir := receiving(t)
	// Whoever the directory belongs to.
	if err := os.Chown(dir, 4711, 4711); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	// A caller's descriptors stay open in the launcher.
	r := p.StartAs(func(c *exec.Cmd) { c.ExtraFiles = []*os.File{null, null, null} }, append(p.l.Env, "SECRET=x"), p.l.Path, "--quiet", "--directory="+p.dir, "--machine="+name, "--register=no", "--keep-unit",
		"--console=pipe", "--resolv-conf=off", "--timezone=off", "--forward-journal="+dir+"/web.journal", "/bin/busybox", "ash", "-c", "echo up; exec sleep 100")
	if err := r.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	pids := receivers(dir)
	if len(pids) != 1 {
		t.Fatalf("there are %q", pids)
	}
	pid := pids[0]
	const override = "0000000000000002"
	for _, key := range []string{"CapPrm", "CapEff", "CapInh", "CapAmb"} {
		want(t, key, status(t, pid, key), override)
	}
	want(t, "NoNewPrivs", status(t, pid, "NoNewPrivs"), "1")
	want(t, "its descriptors", p.Look("sh", "-c", "sleep 0.1; for f in /proc/"+pid+"/fd/*; do readlink $f; done | sed 's/:.*//; s|.*/|/|'"), "/null\npipe\npipe\nsocket\nanon_inode\nanon_inode\n/web.journal\n")
	env, _ := os.ReadFile("/proc/" + pid + "/environ")
	if strings.Contains(string(env), "SECRET") || !strings.Contains(string(env), "LISTEN_PID="+pid+"\x00") {
		t.Errorf("its environment is %q", env)
	}
	stat, _ := os.ReadFile("/proc/" + pid + "/stat")
	if f := strings.Fields(string(stat)); f[5] != pid {
		t.Errorf("its session is %s", f[5])
	}
	r.Process.Signal(syscall.SIGKILL)
	r.Code(most)
	r.Cleanup(p.l)
}

// TestForwardKilled: when the launcher is killed, nobody takes journals any more, what
// was handed on before is there, and the file is whole.
func TestForwardKilled(t *testing.T) {
	for kind, undo := range map[string]func(p *place, r *stage.Run){
		"clean-up": func(p *place, r *stage.Run) { r.Cleanup(p.l) },
		"next":     func(p *place, _ *stage.Run) { p.says("true") },
	} {
		t.Run(kind, func(t *testing.T) {
			p, dir := receiving(t)
			r := p.start("/bin/serve hand 20; echo up; exec sleep 100", "--forward-journal="+dir+"/web.journal")
			if err := r.Await("up\n", most); err != nil {
				t.Fatalf("%v\n%s", err, r.Out)
			}
			for end := time.Now().Add(most); lines(t, dir+"/web.journal") < 20; time.Sleep(50 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("the lines don't come")
				}
			}
			r.Process.Signal(syscall.SIGKILL)
			r.Code(most)
			for end := time.Now().Add(5 * time.Second); len(receivers(dir)) > 0; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("it lives on without its launcher")
				}
			}
			undo(p, r)
			if pids := receivers(dir); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
			want(t, "what is left", p.Look("sh", "-c", "ls -A /run/systemd/nspawn/journal; find /run/launch -mindepth 1 2>/dev/null || true"), "")
			// Who is killed leaves it as one that is written to.
			if out, err := exec.Command("journalctl", "--header", "--file="+dir+"/web.journal").CombinedOutput(); err != nil || !strings.Contains(string(out), "State: OFFLINE\n") {
				t.Errorf("the file is not closed: %v\n%s", err, out)
			}
			if out, err := exec.Command("journalctl", "--verify", "--file="+dir+"/web.journal").CombinedOutput(); err != nil || lines(t, dir+"/web.journal") != 20 {
				t.Errorf("the file is broken: %v\n%s", err, out)
			}
		})
	}
}

// TestForwardStopped: one that can't hear that it is to end, since it is stopped, is
// in the launcher's journal all the same.
func TestForwardStopped(t *testing.T) {
	t.Parallel() // it waits
	p, dir := receiving(t)
	r := p.start("echo up; exec sleep 100", "--forward-journal="+dir+"/web.journal")
	halt(t, r, dir)
	r.Process.Signal(syscall.SIGKILL)
	r.Code(most)
	if len(receivers(dir)) != 1 {
		t.Error("it is gone before the clean-up: this test shows nothing")
	}
	r.Cleanup(p.l)
	if pids := receivers(dir); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

// TestForwardLost: when systemd-journal-remote dies, somebody is told, and the machine
// goes on: it is refused, and doesn't wait.
func TestForwardLost(t *testing.T) {
	p, dir := receiving(t)
	r := p.Start(p.l.Env, p.l.Path, "--directory="+p.dir, "--machine="+name, "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off",
		"--forward-journal="+dir+"/web.journal", "/bin/busybox", "ash", "-c", `echo up; while [ ! -e /srv/now ]; do sleep 0.1; done; /bin/serve hand 1 && exit 1; echo "goes on"`)
	if err := r.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	for _, pid := range receivers(dir) {
		n, _ := strconv.Atoi(pid)
		syscall.Kill(n, syscall.SIGKILL)
	}
	if err := r.Await("systemd-journal-remote ended (signal: SIGKILL)", most); err != nil {
		t.Errorf("%v\n%s", err, r.Out)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "srv/now"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out, code := end(t, r)
	if code != 0 || !strings.Contains(out, "connection refused\ngoes on\n") {
		t.Errorf("exit status %d\n%s", code, out)
	}
}

// TestForwardRefused: what can't be forwarded is an error before the machine runs.
func TestForwardRefused(t *testing.T) {
	p, dir := receiving(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p.refuses("cannot limit the files of a journal that is not forwarded", "--forward-journal-max-files=2")
	p.refuses("journal.forward_to_socket", "--forward-journal="+dir, "--set-credential=journal.forward_to_socket:/x")
	p.refuses("make "+file+"/below: not a directory", "--forward-journal="+file+"/below/web.journal")
	p.refuses(file+" is no directory", "--forward-journal="+file)
	// Its own words.
	p.refuses("systemd-journal-remote: exit status 1: ", "--forward-journal=/proc/self/web.journal")
	if pids := receivers(dir); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
	want(t, "what is left", p.Look("sh", "-c", "ls -A /run/systemd/nspawn/journal; find /run/launch -mindepth 1 2>/dev/null || true"), "")
}

// TestPeerForward boots an operating system whose journal hands on, under launch and
// under the newest systemd-nspawn, and holds what the machine sees, and what the
// host's files have, against each other. Where systemd-nspawn's machine has users of
// its own, it may not write to the socket.
func TestPeerForward(t *testing.T) {
	find := tree.UsersThere
	if strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		find = tree.Users
	}
	root := find(t)
	c, err := cell.Open(cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/usr/bin/launch": stage.Launch(t).Path, "/trees/big": root, "/trees/tiny": tree.Tiny(t), "/usr/bin/serve": self(t)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	shell := func(script string) string {
		t.Helper()
		out, code, err := c.Shell(script, 2*time.Minute)
		if code != 0 || err != nil {
			t.Fatalf("exit status %d, %v\n%s", code, err, out)
		}
		return out
	}
	shell(`set -e
		mkdir /j /mnt/t
		mount -t tmpfs -o size=3G trees /mnt/t
		cp -a /trees/big /mnt/t/big
		cp -a /trees/tiny /mnt/t/tiny
		cp /usr/bin/serve /mnt/t/tiny/bin
		cd /mnt/t/big/etc/systemd/system
		printf '[Unit]\nAfter=multi-user.target\n[Service]\nType=oneshot\nExecStart=-/bin/sh /etc/view\nExecStopPost=/bin/systemctl --no-block poweroff\n' >view.service
		printf '[Unit]\nRequires=multi-user.target\nWants=view.service\nAllowIsolate=yes\n' >view.target
		ln -sf /etc/systemd/system/view.target default.target
		cat >/mnt/t/big/etc/view <<'X'
echo a line of a service | systemd-cat -t view -p warning
logger -t view a line of syslog
journalctl --sync
stat -c '%a %u:%g %F' /run/host/journal /run/host/journal/socket /run/host/credentials/* >/var/view
for f in /run/host/credentials/*; do echo "$f $(cat $f)"; done >>/var/view
grep -o '/run/host/journal/socket r[ow]' /proc/self/mountinfo >>/var/view
X
		chmod 755 /mnt/t/big/etc/view`)
	boot := func(launcher string, args string) (seen, kept string) {
		t.Helper()
		file := "/j/" + filepath.Base(launcher) + strings.ReplaceAll(args, " ", "") + ".journal"
		out := shell(fmt.Sprintf(`rm -f /mnt/t/big/var/view
			%s --quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no -D /mnt/t/big --machine=big --restrict-address-families= --boot --forward-journal='%s' --forward-journal-max-use=64M --forward-journal-max-files=2 %s </dev/null >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }
			cat /mnt/t/big/var/view; echo === kept
			[ -e '%[2]s' ] || exit 0
			journalctl --verify -q --file='%[2]s' || exit 1
			for f in MESSAGE PRIORITY SYSLOG_IDENTIFIER _TRANSPORT _HOSTNAME; do
				journalctl -q --file='%[2]s' -t view -o cat --output-fields=$f | sed "s/^/$f=/" | sort
			done
			journalctl -q --file='%[2]s' -o cat SYSLOG_IDENTIFIER=systemd | grep -c 'Shutting down'
			journalctl -q --file='%[2]s' -o cat SYSLOG_IDENTIFIER=systemd-journald | tail -1`, launcher, file, args))
		seen, kept, _ = strings.Cut(out, "=== kept\n")
		return seen, kept
	}
	seen, kept := boot("launch", "")
	nseen, nkept := boot("systemd-nspawn", "")
	want(t, "what the machine sees, under launch and systemd-nspawn", seen, nseen)
	want(t, "what is in the file, under launch and systemd-nspawn", kept, nkept)
	if strings.Count(kept, "SYSLOG_IDENTIFIER=view\n") != 2 || !strings.Contains(kept, "\n1\nJournal stopped\n") || !strings.Contains(seen, "/run/host/journal/socket ro\n") {
		t.Errorf("too little is kept:\n%s%s", seen, kept)
	}
	const own = "--private-users=1310720:65536 --private-users-ownership=map"
	_, kept2 := boot("launch", own)
	want(t, "what is in the file, with users of the machine's own", kept2, kept)
	for l, want := range map[string]string{"launch": "handed on\n", "systemd-nspawn": "permission denied\n"} {
		out := shell(l + " --quiet -D /mnt/t/tiny --register=no --keep-unit --link-journal=no --resolv-conf=off --timezone=off --console=pipe " + own + " --forward-journal=/j/own.journal /bin/serve hand 1 || true")
		if !strings.HasSuffix(out, want) {
			t.Errorf("a machine with users of its own says under %s\n%s", l, out)
		}
	}
	// Neither leaves anything that runs.
	want(t, "what is left", shell("ls -A /run/systemd/nspawn/journal; pidof systemd-journal-remote; find /run/launch -mindepth 1 2>/dev/null || true"), "")
	// Without the program, both say so.
	for _, l := range []string{"launch", "systemd-nspawn"} {
		out := shell("mv /usr/lib/systemd/systemd-journal-remote /tmp; " + l + " --quiet -D /mnt/t/tiny --register=no --keep-unit --link-journal=no --forward-journal=/j/x.journal /bin/true; echo $?; mv /tmp/systemd-journal-remote /usr/lib/systemd")
		if !strings.Contains(out, "systemd-journal-remote") || !strings.HasSuffix(out, "\n1\n") {
			t.Errorf("%s says\n%s", l, out)
		}
	}
}
