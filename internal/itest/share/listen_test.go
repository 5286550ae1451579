package share

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestListen: sockets of the service manager's get through to the payload, and
// nothing else does.
func TestListen(t *testing.T) {
	p := begin(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	fmt.Fprintln(w, "from the service manager")
	// The shell in front of the launcher keeps its number through all execs.
	start := func(env, script string, args ...string) string {
		t.Helper()
		argv := append([]string{"sh", "-c", env + ` exec "$@"`, "sh", p.l.Path, "--quiet", "--directory=" + p.dir, "--machine=" + name, "--register=no", "--keep-unit",
			"--console=pipe", "--resolv-conf=off", "--timezone=off"}, args...)
		run := p.StartAs(func(c *exec.Cmd) { c.ExtraFiles = []*os.File{r} }, p.l.Env, append(argv, "/bin/busybox", "ash", "-c", script)...)
		if code, err := run.Code(most); err != nil || code != 0 {
			return fmt.Sprintf("%d %v %s", code, err, run.Out)
		}
		return strings.TrimSpace(run.Out.String())
	}
	const script = `ls -l /proc/self/fd 2>/dev/null | grep -v /proc/ >/tmp/fds; echo $LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES $$ $(cat /tmp/fds | sed -n "s/.* \([0-9]*\) -> .*/\1/p" | sort -n | head -n20 | tr "\n" " "); [ -z "$LISTEN_FDS" ] || head -n1 <&3`
	const told = "export LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=one;"
	if got := start(told, script); got != "1 1 one 1 0 1 2 3\nfrom the service manager" {
		t.Errorf("%q", got)
	}
	fmt.Fprintln(w, "from the service manager")
	if got := start(told, script, "--as-pid2"); got != "1 2 one 2 0 1 2 3\nfrom the service manager" {
		t.Errorf("as process 2: %q", got)
	}
	// Not meant for the launcher: closed.
	if got := start("export LISTEN_FDS=1 LISTEN_PID=1;", script); got != "1 0 1 2" {
		t.Errorf("for another process: %q", got)
	}
	// Those that aren't there would be the launcher's own.
	if got := start("export LISTEN_FDS=3 LISTEN_PID=$$;", script); !strings.Contains(got, "descriptor 4 of $LISTEN_FDS") {
		t.Errorf("descriptors that aren't there: %q", got)
	}
}
