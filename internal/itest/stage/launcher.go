package stage

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A Launcher is a program that takes systemd-nspawn's options.
type Launcher struct {
	Name string // "launch" or "nspawn"
	Path string
	Env  []string
}

// Nspawn is the peer. It is told to use cgroup2 inside, which it otherwise
// works out from the systemd of the tree.
func Nspawn(t testing.TB) Launcher {
	t.Helper()
	path, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skip("needs systemd-nspawn: ", err)
	}
	return Launcher{Name: "nspawn", Path: path, Env: []string{"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"}}
}

var built struct {
	sync.Once
	path string
	err  error
	out  []byte
}

// Launch is the launcher under test: $LAUNCH, or one built from this tree.
func Launch(t testing.TB) Launcher {
	t.Helper()
	if p := os.Getenv("LAUNCH"); p != "" {
		return Launcher{Name: "launch", Path: p}
	}
	built.Do(build)
	if built.err != nil {
		t.Fatalf("build launch: %v\n%s", built.err, built.out)
	}
	return Launcher{Name: "launch", Path: built.path}
}

// Under gives the launcher that $LAUNCH_PEER names: launch, unless it is
// "nspawn".
func Under(t testing.TB) Launcher {
	t.Helper()
	switch p := os.Getenv("LAUNCH_PEER"); p {
	case "", "launch":
		return Launch(t)
	case "nspawn":
		return Nspawn(t)
	default:
		t.Fatalf("LAUNCH_PEER=%s: it is launch or nspawn", p)
		panic("not reached")
	}
}

var buildDir string

// LinkFlags are those that make links the programs with.
const LinkFlags = "-ldflags=-s -w -E launch/internal/entry.begin"

func build() {
	buildDir, built.err = os.MkdirTemp("", "launch-test-")
	if built.err != nil {
		return
	}
	fresh := filepath.Join(buildDir, "built")
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", LinkFlags, "-o", fresh, "launch/cmd/launch")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if built.out, built.err = c.CombinedOutput(); built.err != nil {
		return
	}
	// A copy, as install(1) makes it: what the linker writes starts slower.
	built.path = filepath.Join(buildDir, "launch")
	built.err = install(fresh, built.path)
}

var pull struct {
	sync.Once
	dir string
	err error
	out []byte
}

// WithPull gives a directory with launch and launch-pull in it, built from this
// tree.
func WithPull(t testing.TB) string {
	t.Helper()
	pull.Do(func() {
		if pull.dir, pull.err = os.MkdirTemp("", "launch-test-"); pull.err != nil {
			return
		}
		c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", LinkFlags, "-o", pull.dir, "launch/cmd/launch", "launch/cmd/launch-pull")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		pull.out, pull.err = c.CombinedOutput()
	})
	if pull.err != nil {
		t.Fatalf("build launch and launch-pull: %v\n%s", pull.err, pull.out)
	}
	return pull.dir
}

func install(from, to string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return err
	}
	return w.Close()
}

// Main is what TestMain calls: it runs the tests and removes what was built.
func Main(m *testing.M) int {
	before := passedOn()
	code := m.Run()
	// A machine on a host with cgroup2 alone has controllers passed on to it, which
	// stays so. Where others are on the host's version 1, crun then refuses to work.
	for at, now := range passedOn() {
		for name := range strings.FieldsSeq(now) {
			if !slices.Contains(strings.Fields(before[at]), name) {
				os.WriteFile(at, []byte("-"+name), 0)
			}
		}
	}
	for _, dir := range []string{buildDir, pull.dir} {
		if dir != "" {
			os.RemoveAll(dir)
		}
	}
	return code
}

// passedOn gives the controllers that the host's cgroup2 passes on, by the file
// that says so.
func passedOn() map[string]string {
	found := map[string]string{}
	for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		at := filepath.Join(top, "cgroup.subtree_control")
		if text, err := os.ReadFile(at); err == nil {
			found[at] = string(text)
		}
	}
	return found
}
