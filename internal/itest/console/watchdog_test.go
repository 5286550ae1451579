package console

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/stage"
)

// TestWatchdog: a service manager that wants to hear from the launcher does, in
// time; the machine sees nothing of it.
func TestWatchdog(t *testing.T) {
	for _, c := range []struct {
		name, pid string
		pings     bool
	}{{"for the launcher", "$$", true}, {"for anybody", "", true}, {"for another process", "1", false}} {
		t.Run(c.name, func(t *testing.T) {
			l := stage.Under(t)
			s := stage.New(t, stage.Unified)
			path := filepath.Join(t.TempDir(), "notify")
			manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err != nil {
				t.Fatal(err)
			}
			defer manager.Close()
			argv, _ := command(t, l, "--quiet", "--console=pipe", "/bin/busybox", "ash", "-c", "env; echo up; sleep 300")
			set := ""
			if c.pid != "" {
				set = "export WATCHDOG_PID=" + c.pid + "; "
			}
			r := s.Start(append(l.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=600000"),
				append([]string{"sh", "-c", set + `exec "$@"`, "sh"}, argv...)...)
			if err := r.Await("up\n", most); err != nil {
				t.Fatal(err, r.Out)
			}
			if strings.Contains(r.Out.String(), "WATCHDOG") {
				t.Errorf("the machine has the service manager's variables:\n%s", r.Out)
			}
			pings, from := 0, time.Now()
			var last time.Time
			for b := make([]byte, 4096); time.Since(from) < 3*time.Second; {
				manager.SetReadDeadline(time.Now().Add(time.Second))
				n, err := manager.Read(b)
				if err != nil || !strings.Contains(string(b[:n]), "WATCHDOG=1") {
					continue
				}
				// A loaded host may delay one, but not to twice the time.
				pings++
				if now := time.Now(); pings > 1 && now.Sub(last) > 1200*time.Millisecond {
					t.Errorf("a ping after %v", now.Sub(last))
				}
				last = time.Now()
			}
			if c.pings && (pings < 5 || pings > 12) || !c.pings && pings != 0 {
				t.Errorf("%d pings in three seconds", pings)
			}
			r.Process.Signal(syscall.SIGTERM)
			if code, err := r.Code(most); err != nil || code != 1 {
				t.Errorf("exit status %d, %v\n%s", code, err, r.Out)
			}
		})
	}
}
