package nspawn

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"launch/internal/origin"
	"launch/settings"
)

// maxLine is the longest line that is read, and the longest that may come
// together by continuations.
const maxLine = 1 << 20

// blanks are what is taken off both ends of lines, keys and values. Other
// white space (form feed, no-break space) belongs to the text.
const blanks = " \t\r\n"

// assignment is one `Key=Value` line.
type assignment struct {
	section, key, value string
	// line is where the key stands; continuations follow it.
	line int
}

// lexer follows systemd's rules for raw lines, which no ini library has: what
// ends a line, which backslash joins lines, and that a comment does not end a
// continuation.
type lexer struct {
	path     string
	line     int
	section  string
	begun    bool // there was a section header
	skip     bool // the section is none of ours
	found    []assignment
	warnings []settings.Warning
}

// lex reads a whole file. An error means that the file can't be relied on at
// all.
func lex(path string, text []byte) (*lexer, error) {
	l := &lexer{path: path}
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf"))
	var joined []byte
	first, joining := 0, false
	for number := 1; len(text) > 0; number++ {
		var raw []byte
		raw, text = cutLine(text)
		l.line = number
		if len(raw)+len(joined) > maxLine {
			return l, l.fail(number, "line of more than 1 MiB")
		}
		if t := bytes.TrimLeft(raw, blanks); len(t) > 0 && (t[0] == '#' || t[0] == ';') {
			continue
		}
		if !joining {
			first = number
		}
		// What was joined so far ends in a blank that nothing protects, so
		// only the new part has to be looked at.
		joined = append(joined, raw...)
		if joining = continued(raw); joining {
			joined[len(joined)-1] = ' '
			continue
		}
		l.line = first
		if err := l.read(string(joined)); err != nil {
			return l, err
		}
		joined = joined[:0]
	}
	if joining {
		l.line = first
		return l, l.read(string(joined))
	}
	return l, nil
}

// cutLine takes the first line off. Newline, carriage return and NUL all end
// one; a second, different one right behind belongs to the same end, but
// nothing behind a NUL does.
func cutLine(text []byte) (line, rest []byte) {
	n := bytes.IndexAny(text, "\n\r\x00")
	if n < 0 {
		return text, nil
	}
	line, seen := text[:n], [3]bool{}
	for ; n < len(text) && !seen[0]; n++ {
		k := bytes.IndexByte([]byte("\x00\n\r"), text[n])
		if k < 0 || seen[k] {
			break
		}
		seen[k] = true
	}
	return line, text[n:]
}

// continued reports whether the last byte is a backslash that no other one
// protects.
func continued(line []byte) bool {
	escaped := false
	for _, c := range line {
		escaped = !escaped && c == '\\'
	}
	return escaped
}

// read takes one whole line.
func (l *lexer) read(line string) error {
	line = strings.Trim(line, blanks)
	switch {
	case line == "":
		return nil
	case !utf8.ValidString(line):
		return l.fail(l.line, "the line is not UTF-8")
	case line[0] == '[':
		if line[len(line)-1] != ']' {
			return l.fail(l.line, fmt.Sprintf("the section header %q has no end", line))
		}
		name := line[1 : len(line)-1]
		if strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f || c == '"' || c == '\'' || c == '\\' }) {
			return l.fail(l.line, fmt.Sprintf("the section header %q has characters that no name has", line))
		}
		l.enter(name)
		return nil
	case !l.begun:
		l.warn("", "", "line ignored: it stands before the first section", "")
		return nil
	case l.skip:
		return nil
	}
	key, value, told := strings.Cut(line, "=")
	key, value = strings.Trim(key, blanks), strings.Trim(value, blanks)
	switch {
	case !told:
		l.warn("", "", fmt.Sprintf("line ignored: %q has no equals sign", line), "")
	case key == "":
		l.warn("", "", "line ignored: there is no key before the equals sign", "")
	case settings.FindKey(l.section, key) != nil:
		l.found = append(l.found, assignment{l.section, key, value, l.line})
	case strings.HasPrefix(key, "X-"):
	default:
		l.warn(key+"=", value, fmt.Sprintf("unknown key %s= in section [%s], ignored", key, l.section), nearKey(l.section, key))
	}
	return nil
}

func (l *lexer) enter(section string) {
	l.begun, l.section = true, section
	switch section {
	case "Exec", "Files", "Network":
		l.skip = false
		return
	}
	l.skip = true
	if !strings.HasPrefix(section, "X-") {
		hint := ""
		if near := settings.Nearest(section, "Exec", "Files", "Network"); near != "" {
			hint = "did you mean [" + near + "]?"
		}
		l.warn("", "", fmt.Sprintf("unknown section [%s], ignored", section), hint)
	}
}

// nearKey gives the key that a wrong one may have been meant to be; it may
// belong to another section.
func nearKey(section, key string) string {
	var here, all []string
	for i := range settings.Options {
		o := &settings.Options[i]
		if o.Key == "" {
			continue
		}
		if o.Key == key {
			return "it belongs to section [" + o.Section + "]"
		}
		all = append(all, o.Key)
		if o.Section == section {
			here = append(here, o.Key)
		}
	}
	near := settings.Nearest(key, here...)
	if near == "" {
		near = settings.Nearest(key, all...)
	}
	if near == "" {
		return ""
	}
	return "did you mean " + near + "=?"
}

func (l *lexer) place(line int, key string) origin.Origin {
	return origin.Origin{Source: origin.File, Path: l.path, Line: line, Key: key}
}

func (l *lexer) warn(key, value, what, hint string) {
	l.warnings = append(l.warnings, settings.Warning{What: what, Origin: l.place(l.line, key), Value: value, Hint: hint})
}

func (l *lexer) fail(line int, what string) error {
	return &settings.Error{What: "cannot read settings: " + what, Origin: l.place(line, "")}
}
