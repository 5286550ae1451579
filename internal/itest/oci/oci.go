// Package oci knows which OCI runtime is tried: $RUNTIME, or launch-oci built
// from this tree. The outside suites are themselves tried with other runtimes,
// which is why none of them names one.
//
// Room: test.
package oci

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"launch/internal/itest/stage"
)

// Runtime is a program with runc's command line.
type Runtime struct {
	Name    string // the last part of its path
	Path    string // absolute
	Version string // the first line of --version, "crun version 1.8.1"
}

// List is the name of the file with what is expected of it: launch-oci, or
// the name and version of another, as crun-1.8.1.
func (r Runtime) List() string {
	if strings.HasPrefix(r.Name, "launch-oci") {
		return "launch-oci"
	}
	f := strings.Fields(r.Version)
	if len(f) < 3 {
		return r.Name
	}
	version, _, _ := strings.Cut(f[2], "+")
	return f[0] + "-" + version
}

// Under gives the runtime to try.
func Under(t testing.TB) Runtime {
	t.Helper()
	if p := os.Getenv("RUNTIME"); p != "" {
		path, err := exec.LookPath(p)
		if err == nil {
			path, err = filepath.Abs(path)
		}
		if err != nil {
			t.Fatalf("RUNTIME=%s: %v", p, err)
		}
		return Named(t, path)
	}
	built.Do(build)
	if built.none {
		t.Skip("there is no cmd/launch-oci here: name another runtime by RUNTIME=")
	}
	if built.err != nil {
		t.Fatalf("build launch-oci: %v\n%s", built.err, built.out)
	}
	return Named(t, built.path)
}

// Named gives the runtime of that path.
func Named(t testing.TB, path string) Runtime {
	t.Helper()
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		t.Fatalf("%s --version: %v", path, err)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return Runtime{Name: filepath.Base(path), Path: path, Version: line}
}

var built struct {
	sync.Once
	dir, path string
	none      bool
	err       error
	out       []byte
}

func build() {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "launch/cmd/launch-oci").Output()
	if err != nil || len(out) == 0 {
		built.none = true
		return
	}
	if built.dir, built.err = os.MkdirTemp("", "launch-oci-test-"); built.err != nil {
		return
	}
	// Others than root start it too.
	if built.err = os.Chmod(built.dir, 0o755); built.err != nil {
		return
	}
	fresh := filepath.Join(built.dir, "built")
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", stage.LinkFlags, "-o", fresh, "launch/cmd/launch-oci")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if built.out, built.err = c.CombinedOutput(); built.err != nil {
		return
	}
	// A copy, as install(1) makes it: what the linker writes starts slower.
	built.path = filepath.Join(built.dir, "launch-oci")
	built.err = install(fresh, built.path)
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
		return fmt.Errorf("copy %s: %w", from, err)
	}
	return w.Close()
}

// Main is what TestMain calls: it runs the tests and removes what was built.
func Main(m *testing.M) int {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	return code
}
