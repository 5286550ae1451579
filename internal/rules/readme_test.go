package rules

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// documents are the texts whose commands are run.
var documents = []string{"README.md", "CONTRIBUTING.md"}

// long are the make targets that a test can't run for real, because they run
// the tests or take long: make is asked whether it knows what to do.
var long = set("test unit bench bench-base checkpoint compare faults hostile peers ocisuite engines bundles images fuzz install deb host")

// errRoot and errTree say that a command can't be run here, which is no fault
// of the document.
var (
	errRoot = errors.New("needs root")
	errDeps = errors.New("apt could not get all packages, or isn't here")
	errTree = errors.New("needs a tree with an operating system, which the tests of booted machines have")
)

// shop is where the commands are run: the module's root, with everything that
// is built going to a directory of the test.
type shop struct {
	dir, out, bin string
	root          bool // may become root
}

func (s shop) env() []string {
	return append(os.Environ(), "OUT="+s.out, "BIN="+s.bin, "PREFIX="+s.out+"/prefix")
}

// try runs a command of a document, or as much of it as can be run.
func (s shop) try(c Command) error {
	words := strings.Fields(c.Text)
	sudo := words[0] == "sudo"
	if sudo {
		words = words[1:]
	}
	switch words[0] {
	case "make":
		switch {
		case len(words) == 2 && long[words[1]]:
			return s.run("make", "-n", words[1])
		case len(words) == 2 && words[1] == "run" && !s.root:
			return errRoot
		case len(words) == 2 && words[1] == "deps":
			if err := s.run("make", "deps"); err != nil && strings.Contains(err.Error(), "\ndeps: ") {
				return errDeps // it said what it couldn't get
			} else {
				return err
			}
		}
		return s.run("make", words[1:]...)
	case "go":
		if len(words) < 3 || words[1] != "test" {
			break
		}
		// The packages must be there; that they pass is what is going on.
		out, err := s.output("go", append([]string{"list"}, words[2:]...)...)
		if err == nil && strings.TrimSpace(out) == "" {
			err = errors.New("there are no such packages")
		}
		return err
	case "bin/launch":
		if c.Mark == "tree" {
			return errTree
		}
		if sudo && !s.root {
			return errRoot
		}
		return s.run(filepath.Join(s.bin, "launch"), words[1:]...)
	}
	return errors.New("no test knows how to run this: teach it to internal/rules/readme_test.go")
}

func (s shop) run(name string, args ...string) error {
	_, err := s.output(name, args...)
	return err
}

func (s shop) output(name string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), 2*time.Minute)
	defer stop()
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Env, c.WaitDelay = s.dir, s.env(), time.Second
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil {
		return "", fmt.Errorf("%w\n%s%s", err, out.String(), errs.String())
	}
	return out.String(), nil
}

// TestDocuments runs what the documents tell a reader to run.
func TestDocuments(t *testing.T) {
	done, err := Alone()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if testing.Short() {
		t.Skip("it builds and starts machines")
	}
	dir := t.TempDir()
	s := shop{dir: mustAbs(t, root), out: filepath.Join(dir, "out"), bin: filepath.Join(dir, "bin"), root: os.Getuid() == 0}
	if err := s.run("make", "build"); err != nil {
		t.Fatalf("make build: %v", err)
	}
	for _, name := range documents {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		all := Commands(string(text))
		if len(all) < 4 {
			t.Errorf("%s: found only %d commands", name, len(all))
		}
		for _, c := range all {
			t.Run(fmt.Sprintf("%s:%d", name, c.Line), func(t *testing.T) {
				switch err := s.try(c); {
				case err == errRoot || err == errTree || err == errDeps:
					t.Skipf("%s: %v", c.Text, err)
				case err != nil:
					t.Errorf("%s: %v", c.Text, err)
				}
			})
		}
	}
}

// TestMakeRun: what `make run` starts is a machine, not just a command.
func TestMakeRun(t *testing.T) {
	done, err := Alone()
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	s := shop{dir: mustAbs(t, root), out: filepath.Join(dir, "out"), bin: filepath.Join(dir, "bin")}
	out, err := s.output("make", "run")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`host name +throwaway`, `process +1, the first of [1-9][0-9]?`, `mounts +[1-9][0-9]`, `container +systemd-nspawn`} {
		if !regexp.MustCompile(`(?m)^` + line + `\r?$`).MatchString(out) {
			t.Errorf("make run doesn't say %q:\n%s", line, out)
		}
	}
}

// TestOptions: the options that README.md lists are those that launch has. The
// list need not be complete.
func TestOptions(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds launch")
	}
	dir := t.TempDir()
	s := shop{dir: mustAbs(t, root), out: filepath.Join(dir, "out"), bin: filepath.Join(dir, "bin")}
	if err := s.run("make", "build"); err != nil {
		t.Fatalf("make build: %v", err)
	}
	help, err := s.output(filepath.Join(s.bin, "launch"), "--help")
	if err != nil {
		t.Fatalf("launch --help: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Options\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := options(section)
	if len(listed) < 10 {
		t.Fatalf("found only %q", listed)
	}
	for _, o := range strangers(listed, options(help)) {
		t.Errorf("README.md lists %s, launch --help doesn't", o)
	}
}

// options gives the long options that a text names.
func options(text string) []string {
	return regexp.MustCompile(`--[a-z][a-z0-9-]*`).FindAllString(text, -1)
}

// strangers gives what is listed and not known.
func strangers(listed, known []string) []string {
	return slices.DeleteFunc(listed, func(o string) bool { return slices.Contains(known, o) })
}

func TestStrangers(t *testing.T) {
	got := strangers(options("`--bind` `--bind-ro=A:B`, --ephemeral"), options("  --bind=SRC  --bind-ro=SRC\n"))
	if len(got) != 1 || got[0] != "--ephemeral" {
		t.Errorf("strangers = %q", got)
	}
}

// TestDocumentsRed: commands that don't work are found out.
func TestDocumentsRed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Makefile"), []byte("good:\n\ttrue\nbad:\n\tfalse\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte("module small\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "launch"), []byte("#!/bin/sh\n[ \"$1\" = --good ]\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := shop{dir: dir, out: dir, bin: dir, root: true}
	for _, c := range []struct {
		text, mark string
		ok         bool
	}{
		{"make good", "", true},
		{"make bad", "", false},
		{"make nothing-of-that-name", "", false},
		{"make fuzz", "", false}, // this Makefile has no such target
		{"bin/launch --good", "", true},
		{"sudo bin/launch --good", "", true},
		{"bin/launch --bad", "", false},
		{"go test ./nowhere/...", "", false},
		{"rm -rf something", "", false},
	} {
		err := s.try(Command{Text: c.text, Mark: c.mark})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.text, err)
		}
	}
	s.root = false
	if err := s.try(Command{Text: "sudo bin/launch --good"}); err != errRoot {
		t.Errorf("without root: %v", err)
	}
}

func TestCommands(t *testing.T) {
	text := "# A\n\n```sh\nmake test  # comment\n# only a comment\n\na \\\n  --b\n```\n\n```\nnot this\n```\n" +
		"<!-- run: tree -->\n```sh\nc # d\n```\nword\n```sh\ne#f\n```\n"
	var got []string
	for _, c := range Commands(text) {
		got = append(got, fmt.Sprintf("%d %q %s", c.Line, c.Text, c.Mark))
	}
	want := []string{`4 "make test" `, `7 "a --b" `, `16 "c" tree`, `20 "e#f" `}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}
