package hostile

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// payload and launcher are the programs as built for this run.
var payload, launcher string

func TestMain(m *testing.M) { os.Exit(main(m)) }

func main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "launch-hostile-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	payload, launcher = filepath.Join(dir, "payload"), filepath.Join(dir, "launch")
	if os.Geteuid() == 0 {
		for _, b := range [][2]string{{payload, "./payload"}, {launcher, "../../../cmd/launch"}} {
			if out, err := build(b[0], "", b[1]); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", b[1], err, out)
				return 1
			}
		}
	}
	return m.Run()
}

// build makes a program; overlay may be the path of a build overlay.
func build(out, overlay, pkg string) ([]byte, error) {
	args := []string{"build", "-o", out, "-trimpath", "-buildvcs=false", "-ldflags=-s -w"}
	if overlay != "" {
		args = append(args, "-overlay="+overlay)
	}
	c := exec.Command("go", append(args, pkg)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	return c.CombinedOutput()
}

// hostileRun tells whether this is the long run, make hostile.
func hostileRun() bool { return os.Getenv("LAUNCH_TEST") == "hostile" }

// TestHostileCases runs every case with a host whose root is private, and with
// one whose root is shared.
func TestHostileCases(t *testing.T) {
	for _, shared := range []bool{false, true} {
		name := "private"
		if shared {
			name = "shared"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, shared)
			for _, c := range cases() {
				if c.slow && !hostileRun() {
					continue
				}
				t.Run(strings.ReplaceAll(c.name, "/", "|"), func(t *testing.T) {
					if why := c.missing(); why != "" {
						t.Skip(why)
					}
					var fault string
					w.do(func() { fault = w.try(launcher, c) })
					if fault != "" {
						t.Errorf("%s %s: %s", c.row, c.name, fault)
					}
				})
			}
		})
	}
}
