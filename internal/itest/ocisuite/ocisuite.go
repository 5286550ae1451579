// Package ocisuite runs the validation programs of the OCI's runtime-tools
// against a runtime: $RUNTIME, or launch-oci built from this tree. Each program
// prints TAP; what it found is held against expected/NAME.txt, where every
// program that is not clean has its reason. A program that got better fails as
// well as one that got worse, so that the list stays true.
//
// The programs are a module of their own (programs/go.mod), since they need
// old versions of what they are built from.
//
// Room: test.
package ocisuite

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// result is what one program printed.
type result struct {
	ok, notOK, skip int
	failed          []string // the descriptions of what was not ok
	trouble         []string // errors that stand beside no point of their own
	status          int      // the exit status
	said            string
}

// clean says that nothing was wrong. Some programs speak only of what is
// wrong, so silence is clean; that everything was skipped is not: it shows
// nothing.
func (r result) clean() bool {
	return r.status == 0 && r.notOK == 0 && len(r.trouble) == 0 && (r.ok > 0 || r.skip == 0)
}

func (r result) String() string {
	s := fmt.Sprintf("%d ok, %d not ok, %d skipped, exit status %d", r.ok, r.notOK, r.skip, r.status)
	if words := append(slices.Clone(r.failed), r.trouble...); len(words) > 0 {
		s += ": " + strings.Join(words, "; ")
	}
	return s
}

// A line is `ok 1 - words`, `not ok 2 - words`, with `# skip words` or `# TODO`.
var point = regexp.MustCompile(`^(not )?ok\b(?: +\d+)?(?: +-)? *(.*)$`)

// note is the line of a note (YAML, in which they write JSON) that tells an error.
var note = regexp.MustCompile(`^ +"error": "(.+)",?$`)

// tap reads what a program printed. Indented lines are notes.
func tap(output string) result {
	var r result
	r.said = output
	for line := range strings.Lines(output) {
		m := point.FindStringSubmatch(strings.TrimRight(line, "\r\n"))
		switch {
		case m == nil:
			// Beside points the notes are about those.
			if n := note.FindStringSubmatch(strings.TrimRight(line, "\n")); n != nil && r.ok+r.notOK == 0 {
				r.trouble = append(r.trouble, n[1])
			}
		case strings.Contains(strings.ToLower(m[2]), "# skip"):
			r.skip++
		case m[1] == "":
			r.ok++
		default:
			r.notOK++
			r.failed = append(r.failed, m[2])
		}
	}
	return r
}

// expected is a line of a list.
type expected struct{ word, reason string }

// expectations reads a list: `NAME clean`, `NAME unclean REASON`, or `NAME
// unsteady REASON` for a program whose own race decides.
func expectations(text string) (map[string]expected, error) {
	out := map[string]expected{}
	n := 0
	for line := range strings.Lines(text) {
		n++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 2 || !slices.Contains([]string{"clean", "unclean", "unsteady"}, f[1]) || f[1] == "clean" && len(f) > 2 {
			return nil, fmt.Errorf("line %d: want NAME clean, or NAME unclean|unsteady REASON", n)
		}
		if f[1] != "clean" && len(f) < 5 {
			return nil, fmt.Errorf("line %d: %s: that is no reason", n, f[0])
		}
		if _, twice := out[f[0]]; twice {
			return nil, fmt.Errorf("line %d: %s stands there twice", n, f[0])
		}
		out[f[0]] = expected{f[1], strings.Join(f[2:], " ")}
	}
	return out, nil
}

// compare holds results against a list and gives what is wrong.
func compare(found map[string]result, want map[string]expected) []string {
	var wrong []string
	for name, r := range found {
		w, listed := want[name]
		switch {
		case !listed:
			wrong = append(wrong, fmt.Sprintf("%s isn't in the list: %s", name, r))
		case w.word == "clean" && !r.clean():
			wrong = append(wrong, fmt.Sprintf("%s was clean: %s", name, r))
		case w.word == "unclean" && r.clean():
			wrong = append(wrong, fmt.Sprintf("%s is clean now, and the list says why it isn't: %s", name, w.reason))
		}
	}
	for name := range want {
		if _, ran := found[name]; !ran {
			wrong = append(wrong, name+" is in the list and there is no such program")
		}
	}
	slices.Sort(wrong)
	return wrong
}
