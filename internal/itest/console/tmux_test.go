package console

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// TestWindow: in a terminal that somebody looks at, the window has the
// machine's name meanwhile and its own afterwards, what is on the screen is
// what the machine wrote, and a change of size arrives.
func TestWindow(t *testing.T) {
	if os.Getenv("LAUNCH_PEER") == "nspawn" {
		t.Skip("systemd-nspawn has another title")
	}
	tree.NeedRoot(t, "tmux")
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	for _, c := range []struct {
		name, set string
		title     bool
	}{{"title", "", true}, {"no title", "SYSTEMD_ADJUST_TERMINAL_TITLE=0 ", false}} {
		t.Run(c.name, func(t *testing.T) {
			argv, _ := command(t, l, "--quiet", "/bin/busybox", "ash", "-i")
			socket := filepath.Join(t.TempDir(), "tmux")
			// The server is the stage's child, so that it ends with it.
			server := s.Start([]string{"PS1=outside> ", "SHELL=/bin/sh"}, "tmux", "-f", "/dev/null", "-S", socket, "-D")
			tmux := func(args ...string) string {
				t.Helper()
				out, err := exec.Command("tmux", append([]string{"-S", socket}, args...)...).CombinedOutput()
				if err != nil {
					t.Fatalf("tmux %q: %v\n%s\n%s", args, err, out, server.Out)
				}
				return string(out)
			}
			for end := time.Now().Add(most); ; time.Sleep(20 * time.Millisecond) {
				if _, err := os.Stat(socket); err == nil {
					break
				}
				if time.Now().After(end) {
					t.Fatal("tmux does not start: ", server.Out)
				}
			}
			defer func() {
				exec.Command("tmux", "-S", socket, "kill-server").Run()
				if _, err := server.Code(most); err != nil {
					t.Error(err)
				}
			}()
			tmux("new-session", "-d", "-x", "90", "-y", "30", "sh -i")
			tmux("set-option", "-g", "window-size", "manual")
			until := func(what string, get func() string, is func(string) bool) {
				t.Helper()
				for end := time.Now().Add(most); ; time.Sleep(20 * time.Millisecond) {
					got := get()
					if is(got) {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("not so: %s: %q", what, got)
					}
				}
			}
			screen := func() string { return tmux("capture-pane", "-p") }
			shows := func(words string) {
				t.Helper()
				until("the screen shows "+words, screen, func(s string) bool { return strings.Contains(s, words) })
			}
			title := func() string { return strings.TrimSpace(tmux("display-message", "-p", "#{pane_title}")) }
			before := title()
			say := func(text string) { t.Helper(); tmux("send-keys", "-l", text); tmux("send-keys", "Enter") }
			shows("outside>")
			say(c.set + strings.Join(argv, " "))
			say("echo ins''ide")
			shows("inside")
			want := before
			if c.title {
				want = "machine launch-test-console"
			}
			until("the title is "+want, title, func(s string) bool { return s == want })
			say("stty size")
			shows("30 90")
			tmux("resize-window", "-x", "77", "-y", "22")
			// Asked again: it may take a moment.
			until("the new size arrives", func() string { say("stty size"); time.Sleep(100 * time.Millisecond); return screen() },
				func(s string) bool { return strings.Contains(s, "22 77") })
			say("exit 4")
			shows("outside>")
			until("the prompt is the last line", screen, func(s string) bool {
				lines := strings.Split(strings.TrimRight(s, "\n "), "\n")
				return strings.HasPrefix(lines[len(lines)-1], "outside>")
			})
			say("echo sta''tus $?")
			shows("status 4")
			until("the title is not the machine's", title, func(s string) bool { return s != "machine launch-test-console" })
		})
	}
}
