// Command report runs checks and `go test -json`, shows what failed and what
// was skipped with the reasons, and ends with one line of sums:
//
//	report [-summary FILE] [-check 'NAME COMMAND …']… [--] go test -json ./…
//
// It exits with 1 if anything failed, or if nothing ran at all: a run that
// tests nothing is no good news.
//
// Room: test.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	t := newTally(stdout)
	summary := ""
	for len(args) > 0 && strings.HasPrefix(args[0], "-") {
		if args[0] == "--" {
			args = args[1:]
			break
		}
		if len(args) < 2 || args[0] != "-check" && args[0] != "-summary" {
			fmt.Fprintf(stderr, "report: don't know what to do with %q\n", args[0])
			return 2
		}
		if args[0] == "-summary" {
			summary = args[1]
		} else {
			name, command, _ := strings.Cut(args[1], " ")
			t.check(name, strings.Fields(command))
		}
		args = args[2:]
	}
	if len(args) > 0 {
		t.test(args, stderr)
	}
	line, ok := t.end()
	if summary != "" {
		if err := os.WriteFile(summary, []byte(line+"\n"), 0o644); err != nil {
			fmt.Fprintf(stderr, "report: %v\n", err)
			ok = false
		}
	}
	if !ok {
		return 1
	}
	return 0
}

// event is one line of `go test -json`.
type event struct {
	Action, Package, Test, Output, ImportPath, FailedBuild string
	Elapsed                                                float64
}

// tally counts. A test with subtests counts only if it failed by itself: its
// subtests speak for it.
type tally struct {
	w                       io.Writer
	passed, failed, skipped int

	output  map[string][]string // of a test or package that has not ended
	parents map[string]bool     // tests that have subtests
	broken  map[string]bool     // tests below which one failed
	skips   []string
	builds  map[string]bool // import paths whose build failed, shown once
	shown   map[string]bool // packages of which a failed test was shown
}

func newTally(w io.Writer) *tally {
	return &tally{w: w, output: map[string][]string{}, parents: map[string]bool{}, broken: map[string]bool{}, builds: map[string]bool{}, shown: map[string]bool{}}
}

// check runs a command that says nothing and exits with 0 if all is well.
func (t *tally) check(name string, command []string) {
	start := time.Now()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.failed++
		fmt.Fprintf(t.w, "FAIL  %s: %s: %v\n%s", name, strings.Join(command, " "), err, indent(string(out)))
		return
	}
	t.passed++
	fmt.Fprintf(t.w, "ok    %s (%.1fs)\n", name, time.Since(start).Seconds())
}

// test runs a command that prints what `go test -json` prints.
func (t *tally) test(command []string, stderr io.Writer) {
	c := exec.Command(command[0], command[1:]...)
	c.Stderr = stderr
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.failed++
		fmt.Fprintf(t.w, "FAIL  %s: %v\n", strings.Join(command, " "), err)
		return
	}
	before := t.failed
	t.read(out)
	err = c.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && (t.failed == before || !errors.As(err, &exit)) {
		// It failed for a reason that no event told.
		t.failed++
		fmt.Fprintf(t.w, "FAIL  %s: %v\n", strings.Join(command, " "), err)
	}
}

// read takes events until the end.
func (t *tally) read(r io.Reader) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 64<<20)
	for s.Scan() {
		var e event
		if json.Unmarshal(s.Bytes(), &e) != nil || e.Action == "" {
			fmt.Fprintln(t.w, s.Text()) // not an event: somebody should see it
			continue
		}
		t.take(e)
	}
	if err := s.Err(); err != nil {
		t.failed++
		fmt.Fprintf(t.w, "FAIL  reading the results: %v\n", err)
	}
	// What began and never ended: the test binary died.
	for key, lines := range t.output {
		if pkg, test, _ := strings.Cut(key, "\x00"); test != "" {
			t.failed++
			fmt.Fprintf(t.w, "FAIL  %s %s: it never ended\n%s", pkg, test, indent(strings.Join(lines, "")))
		}
	}
	clear(t.output)
}

func (t *tally) take(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "build-output":
		if !t.builds[e.ImportPath] {
			t.builds[e.ImportPath] = true
			fmt.Fprintf(t.w, "FAIL  build of %s\n", e.ImportPath)
		}
		fmt.Fprint(t.w, indent(e.Output))
	case "run":
		t.output[key] = nil
		if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
			t.parents[e.Package+"\x00"+e.Test[:i]] = true
		}
	case "output":
		t.output[key] = append(t.output[key], e.Output)
	case "pass", "fail", "skip":
		lines := t.output[key]
		delete(t.output, key)
		if e.Test == "" {
			t.endPackage(e, lines)
			return
		}
		switch {
		case e.Action == "fail":
			if i := strings.LastIndexByte(e.Test, '/'); i >= 0 {
				t.broken[e.Package+"\x00"+e.Test[:i]] = true
			}
			t.shown[e.Package] = true
			if !t.broken[key] { // else the subtest was counted and shown
				t.failed++
			}
			fmt.Fprintf(t.w, "FAIL  %s %s (%.2fs)\n%s", e.Package, e.Test, e.Elapsed, indent(plain(lines)))
		case e.Action == "skip":
			t.skipped++
			t.skips = append(t.skips, fmt.Sprintf("%s %s: %s", e.Package, e.Test, reason(lines)))
		case !t.parents[key]:
			t.passed++
		}
	}
}

func (t *tally) endPackage(e event, lines []string) {
	switch e.Action {
	case "fail":
		if e.FailedBuild != "" || !t.told(e.Package) {
			// A build, a TestMain or an exit that no test stands for.
			t.failed++
			fmt.Fprintf(t.w, "FAIL  %s\n%s", e.Package, indent(plain(lines)))
			return
		}
		fmt.Fprintf(t.w, "FAIL  %s (%.1fs)\n", e.Package, e.Elapsed)
	case "pass":
		fmt.Fprintf(t.w, "ok    %s (%.1fs)\n", e.Package, e.Elapsed)
	}
	for key := range t.broken {
		if strings.HasPrefix(key, e.Package+"\x00") {
			delete(t.broken, key)
		}
	}
}

// told reports whether a test of the package has failed visibly.
func (t *tally) told(pkg string) bool {
	for key := range t.output {
		if strings.HasPrefix(key, pkg+"\x00") {
			return true // it never ended: shown at the end
		}
	}
	return t.shown[pkg]
}

// plain drops the lines with which the testing package frames a test.
func plain(lines []string) string {
	var s strings.Builder
	for _, l := range lines {
		trimmed := strings.TrimSpace(l)
		if strings.HasPrefix(trimmed, "=== ") || strings.HasPrefix(trimmed, "--- ") {
			continue
		}
		s.WriteString(l)
	}
	return s.String()
}

// reason gives what a skipped test said, on one line, without file and line.
func reason(lines []string) string {
	s := strings.Join(strings.Fields(plain(lines)), " ")
	if _, after, ok := strings.Cut(s, ".go:"); ok {
		if _, after, ok := strings.Cut(after, ": "); ok {
			s = after
		}
	}
	if s == "" {
		s = "no reason given"
	}
	return s
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "      " + strings.ReplaceAll(strings.TrimSuffix(s, "\n"), "\n", "\n      ") + "\n"
}

// end prints the list of what was skipped and the sums.
func (t *tally) end() (line string, ok bool) {
	if len(t.skips) > 0 {
		fmt.Fprintf(t.w, "\nskipped:\n")
		for _, s := range t.skips {
			fmt.Fprintf(t.w, "  %s\n", s)
		}
	}
	fmt.Fprintln(t.w)
	ok = t.failed == 0
	if t.passed == 0 && t.failed == 0 {
		fmt.Fprintln(t.w, "nothing passed and nothing failed: no test ran")
		ok = false
	}
	line = fmt.Sprintf("%d passed, %d failed, %d skipped", t.passed, t.failed, t.skipped)
	fmt.Fprintln(t.w, line)
	return line, ok
}
