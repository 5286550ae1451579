package bundle

import (
	"strconv"
	"unicode/utf8"
)

// writer appends JSON as encoding/json writes it, compact or with an indent.
// A name comes before each value of an object.
type writer struct {
	b      []byte
	indent string // "" is compact
	depth  int
	empty  bool // nothing is in the object or list yet
}

// newline begins the next value of an object or a list.
func (w *writer) newline() {
	if w.indent == "" {
		return
	}
	w.b = append(w.b, '\n')
	for range w.depth {
		w.b = append(w.b, w.indent...)
	}
}

func (w *writer) next() {
	if !w.empty {
		w.b = append(w.b, ',')
	}
	w.empty = false
	w.newline()
}

func (w *writer) open(bracket byte) {
	w.b = append(w.b, bracket)
	w.depth++
	w.empty = true
}

func (w *writer) close(bracket byte) {
	w.depth--
	if !w.empty {
		w.newline()
	}
	w.empty = false
	w.b = append(w.b, bracket)
}

func (w *writer) name(name string) {
	w.next()
	w.b = appendString(w.b, name)
	w.b = append(w.b, ':')
	if w.indent != "" {
		w.b = append(w.b, ' ')
	}
}

func (w *writer) string(name, value string) {
	w.name(name)
	w.b = appendString(w.b, value)
}

func (w *writer) number(n int) { w.b = strconv.AppendInt(w.b, int64(n), 10) }

func (w *writer) int(name string, n int) {
	w.name(name)
	w.number(n)
}

func (w *writer) bool(name string, v bool) {
	w.name(name)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *writer) strings(name string, list []string) {
	w.name(name)
	w.open('[')
	for _, s := range list {
		w.next()
		w.b = appendString(w.b, s)
	}
	w.close(']')
}

// texts writes a map, which is left out if nothing is in it.
func (w *writer) texts(name string, m map[string]string) {
	if len(m) == 0 {
		return
	}
	w.name(name)
	w.open('{')
	for _, k := range sortedKeys(m) {
		w.string(k, m[k])
	}
	w.close('}')
}

// appendString writes a string so that it can stand in HTML, too.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\b':
				b = append(b, '\\', 'b')
			case '\f':
				b = append(b, '\\', 'f')
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				if c < ' ' || c == '<' || c == '>' || c == '&' {
					b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
				} else {
					b = append(b, c)
				}
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case r == '\u2028' || r == '\u2029':
			b = append(b, `\u202`...)
			b = append(b, hex[r&15])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}
