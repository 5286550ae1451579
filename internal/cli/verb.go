package cli

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"launch/settings"
)

// Told is what a verb's own options were told, by the options' names.
type Told map[string][]string

// Has tells whether the option was there.
func (t Told) Has(name string) bool { return t[name] != nil }

// Get gives what was told last, or "".
func (t Told) Get(name string) string {
	if v := t[name]; v != nil {
		return v[len(v)-1]
	}
	return ""
}

// All gives everything that was told.
func (t Told) All(name string) []string { return t[name] }

// Only gives the options of these names.
func (t Told) Only(names ...string) Told {
	some := Told{}
	for _, n := range names {
		if t[n] != nil {
			some[n] = t[n]
		}
	}
	return some
}

func (t Told) add(o *settings.Option, w word) error {
	if o.Enum != nil && !slices.Contains(o.Enum, w.value) {
		return &settings.Error{What: fmt.Sprintf("cannot use %s: it may be %s", given(w), strings.Join(o.Enum, ", "))}
	}
	if o.Arg == settings.RequiredArg && w.value == "" {
		return &settings.Error{What: fmt.Sprintf("option '%s' has nothing behind it", w.typed)}
	}
	t[o.Name] = append(t[o.Name], w.value)
	return nil
}

// verbTable gives getopt's view of a verb's own options, whose ids begin at
// first.
func verbTable(v *settings.Verb, first int) []option {
	list := make([]option, len(v.Options))
	for i := range v.Options {
		o := &v.Options[i]
		list[i] = option{long: o.Flag, short: o.Short, arg: uint8(o.Arg), id: first + i}
	}
	return list
}

// ParseVerb reads the words behind a verb: its options, and what it is about,
// which may stand between them.
func ParseVerb(v *settings.Verb, args []string) (Told, []string, error) {
	if v.Start {
		r, told, err := ParseStart(v, args, nil, "/")
		for _, a := range r.Assignments {
			if a.Option.Name == "quiet" {
				told["quiet"] = []string{""} // which it shares with the others
			}
		}
		return told, r.Words, err
	}
	told := Told{}
	var words []string
	for len(args) > 0 {
		rest, err := getopt(args, verbTable(v, 0), func(w word) error { return told.add(&v.Options[w.id], w) })
		var bad *badOption
		if errors.As(err, &bad) {
			err = &settings.Error{What: bad.text, Hint: suggest(bad.unknown, v)}
		}
		if err != nil {
			return told, words, err
		}
		if n := len(args) - len(rest); n > 0 && args[n-1] == "--" {
			return told, append(words, rest...), nil
		}
		if len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
		args = rest
	}
	return told, words, nil
}

// VerbUsage prints the short help of a verb.
func VerbUsage(w io.Writer, v *settings.Verb) {
	fmt.Fprintf(w, "Usage: %s %s [OPTION…] %s\n\n%s.\n\n", Name, v.Name, v.Words, v.Help)
	for i := range v.Options {
		line(w, &v.Options[i])
	}
	if v.Start {
		fmt.Fprintf(w, "\nAll options of %s may stand beside these: %s --help lists them.\n", Name, Name)
	}
}

// line prints an option and what it is for.
func line(w io.Writer, o *settings.Option) {
	left := spelling(o)
	if n := utf8.RuneCountInString(left); n <= column {
		fmt.Fprintf(w, "%s%s  %s\n", left, strings.Repeat(" ", column-n), o.Help)
	} else {
		fmt.Fprintf(w, "%s\n%s  %s\n", left, strings.Repeat(" ", column), o.Help)
	}
}

// Beside gives the path of a program that lies beside another one.
func Beside(self, program string) string { return path.Join(path.Dir(self), program) }
