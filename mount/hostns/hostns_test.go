package hostns_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
	"launch/mount/hostns"
)

// The test's own program plays the caller of the Go API.
func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == hostns.Name:
		err := hostns.Exec(os.Args[1:], os.Environ(), hostns.Options{Nested: true})
		var e *hostns.Error
		errors.As(err, &e)
		fmt.Println(err)
		os.Exit(e.Status)
	case os.Getenv("HOSTNS_PLAY") == "command":
		path, args := hostns.Command("/bin/sh", "-c", "readlink /proc/self/ns/mnt; exit 5")
		c := exec.Cmd{Path: path, Args: args, Stdout: os.Stdout, Stderr: os.Stderr}
		c.Run()
		os.Exit(c.ProcessState.ExitCode())
	case os.Getenv("HOSTNS_PLAY") == "unshare":
		before, _ := os.Readlink("/proc/self/ns/mnt")
		fmt.Println(os.Getpid(), before, os.Args[1:])
		if err := hostns.Unshare(os.Args, os.Environ()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(stage.Main(m))
}

const most = 30 * time.Second

// host is a made-up host: its process 1 is a script, in a pid namespace and
// with mounts of its own.
type host struct {
	*stage.Stage
	t *testing.T
	l stage.Launcher
}

func begin(t *testing.T) *host {
	t.Helper()
	tree.NeedRoot(t, "unshare")
	return &host{Stage: stage.New(t, stage.Unified), t: t, l: stage.Launch(t)}
}

// runs gives what the script says as process 1, and the status it ends with.
func (h *host) runs(script string, env ...string) (string, int) {
	h.t.Helper()
	r := h.Start(append(env, "L="+h.l.Path), "unshare", "--pid", "--fork", "--mount", "--propagation", "unchanged", "--mount-proc", "--kill-child", "sh", "-c", script+"\nexit $?")
	code, err := r.Code(most)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, r.Out)
	}
	return r.Out.String(), code
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

// TestFailures: each failure has its own words, status and advice.
func TestFailures(t *testing.T) {
	h := begin(t)
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "plain"), []byte("echo no first line\n"), 0o755)
	os.WriteFile(filepath.Join(dir, "unread"), []byte("#!/bin/sh\n"), 0o644)
	os.WriteFile(filepath.Join(dir, "orphan"), []byte("#!/no/such/interpreter\n"), 0o755)
	seen := map[string]string{}
	for _, c := range []struct {
		name, script string
		code         int
		say          string
	}{
		{"no command", "$L host-exec", 125, "no command to run"},
		{"no command behind the dashes", "$L host-exec --", 125, "no command to run"},
		{"empty name", "$L host-exec ''", 125, "has no name"},
		{"option", "$L host-exec -x true", 125, "host-exec has no option -x"},
		{"not root", "setpriv --reuid=65534 --clear-groups $L host-exec --nested true", 125, "as this user"},
		{"no proc", "mount -t tmpfs x /proc; $L host-exec --nested true", 125, "is not available"},
		{"no namespace", "mkdir -p " + dir + "/proc/1/ns; : >" + dir + "/proc/1/ns/mnt; mount --bind " + dir + "/proc /proc; $L host-exec --nested true", 125, "cannot open the mount namespace"},
		{"another kind", "mkdir -p " + dir + "/other/1/ns; : >" + dir + "/other/1/ns/mnt; mount --bind /proc/self/ns/net " + dir + "/other/1/ns/mnt; mount --rbind " + dir + "/other /proc; $L host-exec --nested true", 125, "is no such namespace"},
		{"not readable", "unshare --user --map-root-user --mount $L host-exec --nested true", 125, "may not look at"},
		{"not the host's", "unshare --mount $L host-exec true", 125, "host's pid namespace is missing"},
		{"our own", "$L host-exec --nested true", 125, "our own mount namespace"},
		{"setns refused", "unshare --mount setpriv --bounding-set=-sys_chroot $L host-exec --nested true", 125, "may not enter"},
		{"not found", "unshare --mount $L host-exec --nested nope", 127, "the host has no command nope"},
		{"path not found", "unshare --mount $L host-exec --nested /no/such", 127, "the host has no /no/such"},
		{"below a file", "unshare --mount $L host-exec --nested /etc/passwd/x", 127, "the host has no /etc/passwd/x"},
		{"not executable", "unshare --mount $L host-exec --nested " + dir + "/unread", 126, "permission denied"},
		{"directory", "unshare --mount $L host-exec --nested /etc", 126, "permission denied"},
		{"no program", "unshare --mount $L host-exec --nested " + dir + "/plain", 126, "exec format error"},
		{"no interpreter", "unshare --mount $L host-exec --nested " + dir + "/orphan", 126, "its interpreter is not"},
		{"not executable in PATH", "unshare --mount env PATH=" + dir + ":/nowhere $L host-exec --nested unread", 126, "unread: permission denied"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			out, code := h.runs(c.script)
			if code != c.code || !strings.Contains(out, c.say) || !strings.HasPrefix(out, "launch: ") {
				t.Errorf("status %d, want %d with %q\n%s", code, c.code, c.say, out)
			}
			line, _, _ := strings.Cut(out, "\n")
			if other := seen[line]; other != "" && !strings.HasPrefix(c.name, other) {
				t.Errorf("the same words as for %q: %s", other, line)
			}
			seen[line] = c.name
		})
	}
}

// machine starts a machine from the made-up host. The script finds launch in
// it, and the host's process 1 if it shares the host's pid namespace.
func (h *host) machine(dir, script string, args ...string) string {
	return "$L --quiet --directory=" + dir + " --machine=launch-test-hostns --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off " +
		"--bind-ro=$L:/usr/bin/launch " + strings.Join(args, " ") + " /bin/busybox ash -c '" + script + "'"
}

const share = "SYSTEMD_NSPAWN_SHARE_NS_PID=1"

// TestMachine: from a machine with the host's pid namespace the command runs
// among the host's mounts, in place.
func TestMachine(t *testing.T) {
	h := begin(t)
	dir := tree.Copy(t, tree.Tiny(t))
	t.Run("mounts", func(t *testing.T) {
		h.t = t
		out, code := h.runs("cat /proc/self/mountinfo; echo ==; "+h.machine(dir, "launch host-exec --nested -- cat /proc/self/mountinfo"), share)
		theirs, ours, _ := strings.Cut(out, "==\n")
		// What the machine's launcher has for it meanwhile is the host's, too.
		// The root of a cgroup2 depends on who looks.
		var kept strings.Builder
		for line := range strings.Lines(ours) {
			if !strings.Contains(line, "launch-test-hostns") {
				kept.WriteString(strings.Replace(line, " /../.. ", " / ", 1))
			}
		}
		if code != 0 || len(theirs) < 500 {
			t.Errorf("status %d", code)
		}
		want(t, "the mount table", kept.String(), theirs)
	})
	t.Run("in place", func(t *testing.T) {
		h.t = t
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("from a descriptor\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		out, code := h.runs(h.machine(dir, `echo pid $$; exec 7</file; export A=1 B="two words"; cd /tmp; exec launch host-exec --nested -- `+
			`sh -c "echo pid \$\$; cat <&7; echo \"\$A \$B \$0 \$1 \$2\"; pwd; tr \"\\\\0\" \"|\" </proc/\$\$/cmdline; exit 37" \* "" --`, "--bind-ro="+file+":/file"), share)
		first, rest, _ := strings.Cut(out[strings.Index(out, "pid "):], "\n")
		second, rest, _ := strings.Cut(rest, "\n")
		if code != 37 || first != second {
			t.Errorf("status %d, %s and then %s", code, first, second)
		}
		if !strings.HasPrefix(rest, "from a descriptor\n1 two words *  --\n/\nsh|-c|echo pid $$;") || !strings.HasSuffix(rest, "exit 37|*||--|") {
			t.Errorf("got %q", rest)
		}
	})
	t.Run("by its name", func(t *testing.T) {
		h.t = t
		link := "ln -s /usr/bin/launch /tmp/" + hostns.Name + "; "
		for script, want := range map[string]string{
			link + "/tmp/" + hostns.Name + " --nested -- echo -- -b": "-- -b\n",
			link + "/tmp/" + hostns.Name + " true":                   "host's pid namespace is missing",
			"launch " + hostns.Name + " --nested echo --":            "--\n",
		} {
			if out, _ := h.runs(h.machine(dir, script), share); !strings.Contains(out, want) {
				t.Errorf("%s: %s", script, out)
			}
		}
	})
	t.Run("without the host's pid namespace", func(t *testing.T) {
		h.t = t
		out, code := h.runs(h.machine(dir, "launch host-exec -- cat /proc/self/mountinfo"))
		if code != 125 || !strings.Contains(out, "host's pid namespace is missing") || strings.Contains(out, " / / ") {
			t.Errorf("status %d: %s", code, out)
		}
		out, code = h.runs(h.machine(dir, "launch host-exec --nested -- cat /proc/self/mountinfo"))
		if code != 125 || !strings.Contains(out, "host's pid namespace is missing") {
			t.Errorf("nested: status %d: %s", code, out)
		}
	})
	t.Run("logged", func(t *testing.T) {
		h.t = t
		socket := filepath.Join(t.TempDir(), "log")
		l, err := net.ListenPacket("unixgram", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, code := h.runs(h.machine(dir, "launch host-exec --nested nope", "--bind="+socket+":/dev/log"), share)
		b := make([]byte, 4096)
		l.SetReadDeadline(time.Now().Add(time.Second))
		n, _, err := l.ReadFrom(b)
		if line := string(b[:n]); code != 127 || err != nil || !strings.HasPrefix(line, "<11>launch[") || !strings.HasSuffix(line, "host-exec: the host has no command nope") {
			t.Errorf("status %d, logged %q, %v", code, line, err)
		}
	})
}

// TestSupermin: a root without /usr whose /root has one is changed.
func TestSupermin(t *testing.T) {
	h := begin(t)
	dir := tree.Copy(t, tree.Tiny(t))
	root := t.TempDir()
	appliance := func(more string) string {
		return `set -e
			mount --make-rprivate /; mount -t tmpfs root ` + root + `
			unshare --mount sh -c "until [ -e ` + root + `/ready ]; do sleep 0.05; done; exec $L host-exec --nested -- /bin/busybox ash -c 'read x </which; echo at \$x'" &
			cd ` + root + `; mkdir -p proc bin old root; cp ` + dir + `/bin/busybox bin; ` + more + `
			mount --rbind /proc proc; pivot_root . old; : >ready; wait $!`
	}
	inRoot := "echo top >which; mount --bind " + dir + " root; echo root >root/which; "
	for _, c := range []struct{ name, more, say string }{
		{"changed", inRoot, "at root\n"},
		{"has a /usr of its own", inRoot + "mkdir usr", "at top\n"},
		{"has neither", "echo top >which", "at top\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			out, code := h.runs(appliance(c.more))
			if code != 0 || out != c.say {
				t.Errorf("status %d: %s", code, out)
			}
		})
	}
}

// TestCommand: a program of its own runs a command in the host's mounts.
func TestCommand(t *testing.T) {
	h := begin(t)
	me, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, code := h.runs("readlink /proc/self/ns/mnt; HOSTNS_PLAY=command unshare --mount " + me)
	f := strings.Fields(out)
	if code != 5 || len(f) != 2 || f[0] != f[1] {
		t.Errorf("status %d: %s", code, out)
	}
}

// TestUnshare: once anew, with the same number and words, and then no more.
func TestUnshare(t *testing.T) {
	h := begin(t)
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	me := filepath.Join(t.TempDir(), "me") // which others may execute, too
	if err := os.Chmod(filepath.Dir(filepath.Dir(me)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(me, b, 0o755); err != nil {
		t.Fatal(err)
	}
	play := "HOSTNS_PLAY=unshare " + me + " a 'b c'"
	out, code := h.runs(play)
	f := strings.Fields(out)
	if code != 0 || len(f) != 10 || f[0] != f[5] || f[1] == f[6] || strings.Join(f[2:5], " ") != "[a b c]" || strings.Join(f[7:], " ") != "[a b c]" {
		t.Errorf("status %d: %s", code, out)
	}
	once := func(what, out string, code, wantCode int) {
		t.Helper()
		if code != wantCode || strings.Count(out, "[a b c]") != 1 {
			t.Errorf("%s: status %d: %s", what, code, out)
		}
	}
	out, code = h.runs("unshare --mount env " + play)
	once("unshared already", out, code, 0)
	out, code = h.runs("setpriv --reuid=65534 --clear-groups env " + play)
	once("not root", out, code, 0)
	// The shell's own number is what the program will have.
	out, code = h.runs("sh -c 'LAUNCH_UNSHARED=$$ HOSTNS_PLAY=unshare exec " + me + " a \"b c\"'")
	once("a loop", out, code, 1)
	if !strings.Contains(out, "still in the host's mount namespace") {
		t.Error(out)
	}
	out, code = h.runs("LAUNCH_UNSHARED=1 " + play)
	if code != 0 || strings.Count(out, "[a b c]") != 2 {
		t.Errorf("another process's mark: status %d: %s", code, out)
	}
}
