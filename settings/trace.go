package settings

import (
	"strings"

	"launch/internal/origin"
)

// Trace is the log of a Resolve: every assignment and what became of it, in
// the order in which they were told.
type Trace []Entry

// Entry is one assignment and its fate.
type Entry struct {
	Assignment
	Fate Fate
	// By is what hid the assignment.
	By origin.Origin
	// Why says more about an ignored assignment.
	Why string
}

// Fate is what became of an assignment.
type Fate string

// The fates.
const (
	Applied Fate = "applied"
	Hidden  Fate = "hidden"
	Ignored Fate = "ignored"
)

// Origin gives the place of what is in force for the row of that name; zero if
// nobody said anything.
func (t Trace) Origin(name string) origin.Origin { o, _ := t.origin(name); return o }

// origin gives the text that was written there, too.
func (t Trace) origin(name string) (origin.Origin, string) {
	for i := len(t) - 1; i >= 0; i-- {
		if t[i].Fate == Applied && !t[i].Reset && t[i].Option.slot() == name {
			return t[i].Origin, t[i].Text
		}
	}
	return origin.Origin{}, ""
}

// String gives one line per assignment.
func (t Trace) String() string {
	var b strings.Builder
	for _, e := range t {
		line := e.Origin.String()
		if e.Text != "" && e.layer() != file {
			line = written(e.Origin, e.Text)
		} else if e.Text != "" {
			line += e.Text
		}
		b.WriteString(line)
		for n := len(line); n < 48; n++ {
			b.WriteByte(' ')
		}
		b.WriteString("  " + string(e.Fate))
		if e.By != (origin.Origin{}) {
			b.WriteString(" by " + e.By.String())
		}
		if e.Why != "" {
			b.WriteString(": " + e.Why)
		}
		b.WriteByte('\n')
	}
	return b.String()
}
