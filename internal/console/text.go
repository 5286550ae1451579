package console

import "strconv"

// maxText keeps a hostile name from filling the screen.
const maxText = 128

// Printable makes a text from elsewhere (a machine's name, its host name, a
// path) fit to be shown on a terminal: what is not a printable character or a
// plain space becomes a question mark, so that no control character, escape
// sequence or change of writing direction gets through, and what is too long
// is cut.
func Printable(s string) string {
	b := make([]byte, 0, min(len(s), maxText))
	n := 0
	for _, r := range s {
		if n++; n > maxText {
			return string(append(b, "..."...))
		}
		// A byte that is not UTF-8 comes as U+FFFD, which counts as
		// printable, but only in terminals that do UTF-8.
		if r == '\uFFFD' || !strconv.IsPrint(r) {
			r = '?'
		}
		b = append(b, string(r)...)
	}
	return string(b)
}

// The title is pushed, set, cleared and popped: terminals without a stack of
// titles ignore the pushing, and end with none.
func titleOn(s string) string { return "\x1b[22;0t\x1b]0;" + Printable(s) + st }

const (
	// st ends a control string. It comes first in what is written at the end,
	// in case the machine ended in the middle of one.
	st       = "\x1b\\"
	titleOff = st + "\x1b]0;" + st + "\x1b[23;0t"
	// Soft reset; no mouse reports, bracketed paste or focus reports; line
	// wrap; plain text. Not the full reset, which would wipe the screen that
	// the user still wants to read.
	reset = st + "\x1b[!p\x1b[?1000;1002;1003;1004;1006;2004l\x1b[?7h\x1b[0m"
)
