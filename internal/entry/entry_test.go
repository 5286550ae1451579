package entry_test

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestEntry: a program that begins here has the limit of open files that it was
// started with, and so have those that it starts. Where Go's runtime has to open a
// standard descriptor, it can.
func TestEntry(t *testing.T) {
	dir := t.TempDir()
	build := func(name, ldflags string) string {
		to := filepath.Join(dir, name)
		c := exec.Command("go", "build", "-buildvcs=false", "-ldflags="+ldflags, "-o", to, "./testdata/program")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
		return to
	}
	begins := build("begins", "-E launch/internal/entry.begin")
	usual := build("usual", "")
	for _, k := range []struct {
		program, with string
		begun         bool
	}{
		{begins, "", true}, {begins, "<&-", false}, {begins, "2>&-", false}, {begins, "<&- >&- 2>&-", false}, {usual, "", false}, {usual, "<&-", false},
	} {
		out, err := exec.Command("sh", "-c", `ulimit -Sn 77; ulimit -Hn 150; exec 5>&1; exec "$0" a b `+k.with, k.program).CombinedOutput()
		want := fmt.Sprintf("%v 150 %q 3\n", k.begun, "77\n150\n")
		if err != nil || string(out) != want {
			t.Errorf("%s %s: %v, %q, want %q", filepath.Base(k.program), k.with, err, out, want)
		}
	}
	// With no file to be had at all, it is as good.
	out, err := exec.Command("sh", "-c", `exec 5>&1; ulimit -Sn 0; exec "$0"`, begins).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic") {
		t.Errorf("with a limit of 0: %v, %q", err, out) // its own child needs pipes
	}

	f, err := elf.Open(begins)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range symbols {
		if s.Name == "_rt0_"+runtime.GOARCH+"_linux" && s.Value == f.Entry {
			t.Error("the program begins with Go's runtime")
		}
	}
}
