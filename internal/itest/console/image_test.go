package console

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"launch/internal/itest/images"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestImage: `launch run` at a terminal. The command has one of its own, with
// the size of the caller's; keys and signals reach it, and its status comes back.
func TestImage(t *testing.T) {
	tree.NeedRoot(t)
	dir := tree.Scratch(t)
	launch := filepath.Join(stage.WithPull(t), "launch")
	if err := images.Box(dir + "/box"); err != nil {
		t.Skip("needs busybox-static: ", err)
	}
	ref := "oci:" + dir + "/box:v1"
	env := []string{"LAUNCH_STORE=" + dir + "/store", "HOME=" + dir}
	pull := exec.Command(launch, "pull", "--quiet", ref)
	pull.Env = append(os.Environ(), env...)
	if out, err := pull.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// run starts a command of the image; which of its descriptors are the
	// terminal, and what the others are.
	run := func(t *testing.T, which string, other *os.File, words ...string) *machine {
		s := stage.New(t, stage.Unified)
		tt := sit(t, 101, 37)
		r := s.StartAs(tt.as(which, other), env, append([]string{launch, "run", "--quiet", "--register=no", "--keep-unit", ref}, words...)...)
		return &machine{r, tt, dir}
	}
	ends := func(m *machine, code int) {
		m.terminal.t.Helper()
		m.ends(code)
		m.restored()
		if left, err := os.ReadDir(dir + "/store/machines"); err != nil || len(left) != 0 {
			m.terminal.t.Errorf("left: %v, %v", left, err)
		}
	}
	t.Run("keys, size and status", func(t *testing.T) {
		m := run(t, "012", nil, "/bin/sh")
		m.soon("the terminal is raw", m.raw)
		m.say("busybox stty size\r", "37 101")
		m.say("busybox tty\r", "/dev/")
		m.resize(66, 20)
		m.soon("the size is the new one", func() bool {
			m.write("busybox stty size\r")
			return strings.Contains(m.terminal.out.String(), "20 66")
		})
		m.say("busybox ash -c 'echo run\"\"ning; sleep 300'\r", "running")
		m.say("\x03", "^C")
		m.say("echo st''atus $?\r", "status 130")
		m.say("busybox ash -c 'echo sl\"\"eeps; sleep 300'\r", "sleeps")
		m.say("\x1a", "Stopped")
		m.say("kill %1; read a; echo got $a''\r", "kill")
		m.say("a li''ne\r", "got a li''ne")
		// The end of input; with the prompt the shell reads keys again, and not lines.
		m.say("\x04", "You have stopped jobs.\r\n/ # ")
		m.write("\x04")
		ends(m, 0)
	})
	t.Run("status", func(t *testing.T) {
		ends(run(t, "012", nil, "/bin/sh", "-c", "exit 23"), 23)
	})
	t.Run("a file on standard input", func(t *testing.T) {
		in, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("from a pipe\n")
		out.Close()
		m := run(t, "12", in, "/bin/sh", "-c", "cat; test -t 0 || echo no; test -t 1 && echo yes")
		in.Close()
		m.shows("from a pipe")
		m.shows("no")
		m.shows("yes")
		ends(m, 0)
	})
	for _, s := range []struct {
		sig    syscall.Signal
		script string
		code   int
	}{
		{syscall.SIGTERM, "trap 'echo told; exit 5' TERM", 5},
		{syscall.SIGINT, "trap 'echo told; exit 6' INT", 6},
		{syscall.SIGQUIT, "trap 'echo told; exit 7' QUIT", 7},
		{syscall.SIGUSR1, "trap 'echo told; exit 8' USR1", 8},
		{syscall.SIGTERM, "trap '' TERM", 0},
	} {
		t.Run(s.sig.String()+" to "+s.script, func(t *testing.T) {
			m := run(t, "012", nil, "/bin/sh", "-c", s.script+"; echo up; while :; do sleep 0.05; done")
			m.shows("up\r")
			m.soon("the terminal is raw", m.raw)
			m.Process.Signal(s.sig)
			if s.code == 0 {
				// It won't end by that. When it is told once more, it is killed.
				m.soon("it has ended", func() bool { return m.Process.Signal(s.sig) != nil })
				ends(m, 137)
				return
			}
			m.shows("told")
			ends(m, s.code)
		})
	}
	t.Run("hotkey", func(t *testing.T) {
		m := run(t, "012", nil, "/bin/sh", "-c", "trap '' INT TERM; echo up; sleep 300")
		m.shows("up\r")
		m.soon("the terminal is raw", m.raw)
		m.write("\x1d\x1d\x1d")
		ends(m, 137)
	})
	t.Run("hang-up", func(t *testing.T) {
		m := run(t, "012", nil, "/bin/sh", "-c", "trap '' HUP; echo up; while :; do sleep 0.1; done")
		m.shows("up\r")
		m.hangUp()
		if code, err := m.Code(most); err != nil || code == 0 {
			t.Errorf("status %d, %v", code, err)
		}
		if left, err := os.ReadDir(dir + "/store/machines"); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
	t.Run("a bar", func(t *testing.T) {
		s := stage.New(t, stage.Unified)
		tt := sit(t, 101, 37)
		r := s.StartAs(tt.as("012", nil), append([]string{"LAUNCH_STORE=" + dir + "/second"}, env[1:]...), launch, "pull", ref)
		m := &machine{r, tt, dir}
		m.ends(0)
		m.restored()
		// It is drawn once the only layer is there, at the latest, and goes away.
		m.shows("launch: [##############################] ")
		m.shows("1 of 1 layers\x1b[K")
		m.shows("\r\x1b[Klaunch: pulled " + ref + ", sha256:")
		m.shows("\r\n")
	})
}
