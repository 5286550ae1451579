package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"launch/settings"
)

// Name is what messages begin with.
const Name = "launch"

// Report prints an error: one sentence, where the value comes from that it is
// about, and what to do instead.
func Report(w io.Writer, err error) {
	var e *settings.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(w, "%s: %s\n", Name, Printable(err.Error()))
		return
	}
	// An outer layer may have put its own words in front.
	say(w, err.Error(), e)
}

// Warn prints a warning in the same form.
func Warn(w io.Writer, warning settings.Warning) { say(w, warning.What, &warning) }

func say(w io.Writer, what string, e *settings.Error) {
	fmt.Fprintf(w, "%s: %s\n", Name, Printable(what))
	if place := e.Place(); place != "" && !strings.Contains(what, place) {
		fmt.Fprintf(w, "  from:  %s\n", Printable(place))
	}
	if e.Hint != "" {
		fmt.Fprintf(w, "  hint:  %s\n", Printable(e.Hint))
	}
}

// Printable writes out what a terminal would act on: values come from files
// that anybody may have written, and a line must stay one line.
func Printable(s string) string {
	clean := true
	for _, c := range s {
		clean = clean && c != utf8.RuneError && unicode.IsPrint(c)
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i, c := range s {
		switch {
		case c == utf8.RuneError:
			fmt.Fprintf(&b, "\\x%02x", s[i])
		case !unicode.IsPrint(c):
			b.WriteString(strings.Trim(strconv.QuoteRune(c), "'"))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// PrintableLines is Printable for a text of several lines.
func PrintableLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = Printable(lines[i])
	}
	return strings.Join(lines, "\n")
}

// Usage prints the short help.
func Usage(w io.Writer) {
	fmt.Fprintf(w, "Usage: %s [OPTION…] [COMMAND [ARGUMENT…]]\n\nRun a command, or a whole system, in a directory tree of its own.\n", Name)
	for _, topic := range settings.Topics {
		fmt.Fprintf(w, "\n%s:\n", topic)
		for i := range settings.Options {
			if o := &settings.Options[i]; o.Topic == topic {
				line(w, o)
			}
		}
	}
}

// column is where the explanations begin.
const column = 34

// spelling gives `  -D --directory=PATH`.
func spelling(o *settings.Option) string {
	s := "     "
	if o.Short != 0 {
		s = "  -" + string([]byte{o.Short}) + " "
	}
	if o.Flag != "" {
		s += "--" + o.Flag
	}
	switch o.Arg {
	case settings.RequiredArg:
		s += "=" + o.Placeholder
	case settings.OptionalArg:
		s += "[=" + o.Placeholder + "]"
	}
	return s
}

// ListValues prints what an option may be told, one a line.
func ListValues(w io.Writer, o *settings.Option) {
	for _, v := range o.Values() {
		fmt.Fprintln(w, v)
	}
}
