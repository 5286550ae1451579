// Package remake edits the project's own source for one build, so that a test
// can be shown to be one that fails: a program without one of its defences must
// not pass. It guarantees that no file of the project is touched, and that an
// edit which doesn't fit any more is an error. It refuses to know what a defence
// is.
//
//	over, err := remake.Overlay(t.TempDir(), remake.Edit{"mount/resolve.go", "if bad {", "if false {"})
//	exec.Command("go", "build", "-overlay", over, "-o", bin, "launch/cmd/launch")
//
// Room: test.
package remake

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Edit is a file, by its path from the project's root, a text in it, and what is
// put in its place. The file must have the text once, or, where that begins with a
// star, any number of times.
type Edit [3]string

// In makes the edit in the file's text.
func (e Edit) In(text string) (string, error) {
	old, often := strings.CutPrefix(e[1], "*")
	if n := strings.Count(text, old); n != 1 && (n == 0 || !often) {
		return "", fmt.Errorf("%s has this %d times, the edit needs it once: %q", e[0], n, e[1])
	}
	return strings.ReplaceAll(text, old, e[2]), nil
}

// Overlay writes the edited copies into dir, and gives the file that go takes as
// -overlay. Edits of one file are made in their order.
func Overlay(dir string, edits ...Edit) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	texts := map[string]string{}
	for _, e := range edits {
		path := filepath.Join(root, e[0])
		text, ok := texts[path]
		if !ok {
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text = string(b)
		}
		if texts[path], err = e.In(text); err != nil {
			return "", err
		}
	}
	replace := map[string]string{}
	for path, text := range texts {
		to := filepath.Join(dir, fmt.Sprintf("edited%d.go", len(replace)))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			return "", err
		}
		replace[path] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	return list, os.WriteFile(list, b, 0o644)
}

// Test runs tests of the package in dir, with the edits of an overlay: those that
// run names, in the way that LAUNCH_TEST=mode asks for. What such a test builds in
// its turn is made of the same sources. It gives what go wrote.
func Test(dir, overlay, mode, run string) (string, error) {
	c := exec.Command("go", "test", "-count=1", "-v", "-vet=off", "-run", run, ".")
	c.Dir = dir
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "LAUNCH_TEST="+mode, "GOFLAGS=-overlay="+overlay)
	out, err := c.CombinedOutput()
	return string(out), err
}

// Root is the project's directory: the nearest above that has a go.mod.
func Root() (string, error) {
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir, nil
		}
	}
	return "", errors.Join(err, errors.New("no go.mod here or above"))
}
