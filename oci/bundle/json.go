package bundle

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"launch/internal/origin"
	"launch/settings"
)

// Limit is how long a file may be that is decoded.
const Limit = 16 << 20

// maxDepth is how deep objects and lists may lie in each other.
const maxDepth = 512

// decoder reads one JSON text from front to end, without looking back. What it
// accepts and what it makes of it is what encoding/json does, which every
// other runtime is built on: two readers of one bundle must not see two
// containers. After the first error everything it does is nothing.
type decoder struct {
	file string
	// text is the whole file; strings without escapes are parts of it.
	text  string
	at    int
	depth int
	// first: the next thing comes after the opening bracket.
	first bool
	// path is where the value lies that is read.
	path     []step
	warnings []settings.Warning
	err      *settings.Error
}

// step is a name, or, if that is empty and index is not -1, a place in a list.
type step struct {
	name  string
	index int
}

// pointer gives the path as a JSON pointer (RFC 6901).
func (d *decoder) pointer() string {
	var b []byte
	for _, s := range d.path {
		if s.index >= 0 {
			b = strconv.AppendInt(append(b, '/'), int64(s.index), 10)
		} else {
			b = append(append(b, '/'), escape(s.name)...)
		}
	}
	return string(b)
}

// escape writes a name as a JSON pointer takes it.
func escape(name string) string {
	if strings.IndexByte(name, '~') < 0 && strings.IndexByte(name, '/') < 0 {
		return name
	}
	return strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
}

// line counts from 1.
func (d *decoder) line(at int) int { return 1 + strings.Count(d.text[:min(at, len(d.text))], "\n") }

func (d *decoder) origin(at int) origin.Origin {
	return origin.Origin{Source: origin.Bundle, Path: d.file, Line: d.line(at), Key: d.pointer()}
}

// fail ends the reading. The value is what was written there, as far as that
// says more.
func (d *decoder) fail(at int, value, what, hint string) {
	if d.err != nil {
		return
	}
	d.err = &settings.Error{What: what, Origin: d.origin(at), Value: snippet(value), Hint: hint}
	d.at = len(d.text)
}

// syntax says what is wrong with the text itself.
func (d *decoder) syntax(at int, wanted string) {
	found := "the end of the file"
	if at < len(d.text) {
		r, _ := utf8.DecodeRuneInString(d.text[at:])
		found = strconv.QuoteRune(r)
	}
	hint := ""
	switch {
	case at == 0 && strings.HasPrefix(d.text, "\ufeff"):
		hint = "save the file without a byte order mark"
	case strings.HasPrefix(d.text[min(at, len(d.text)):], "//"), strings.HasPrefix(d.text[min(at, len(d.text)):], "/*"):
		hint = "JSON has no comments"
	}
	d.fail(at, "", fmt.Sprintf("cannot read the JSON text: %s where %s should be", found, wanted), hint)
}

// snippet is the beginning of a value, for a message.
func snippet(s string) string {
	if i := strings.IndexByte(s, '\n'); i >= 0 {
		s = strings.TrimRight(s[:i], ", \t\r")
	}
	const most = 60
	if len(s) > most {
		s = s[:most]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	return s
}

func (d *decoder) space() {
	for d.at < len(d.text) {
		switch d.text[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

// peek gives the first byte of the next value; 0 at the end.
func (d *decoder) peek() byte {
	d.space()
	if d.at < len(d.text) {
		return d.text[d.at]
	}
	return 0
}

// null reports whether a null was there. It says nothing about what it stands
// for.
func (d *decoder) null() bool {
	if d.peek() != 'n' {
		return false
	}
	d.word("null")
	return d.err == nil
}

func (d *decoder) word(w string) {
	if !strings.HasPrefix(d.text[d.at:], w) {
		i := 0
		for i < len(w) && d.at+i < len(d.text) && d.text[d.at+i] == w[i] {
			i++
		}
		d.syntax(d.at+i, "the rest of "+w)
		return
	}
	d.at += len(w)
}

// open enters an object or a list. It reports false if there is none: for a
// null, or after an error.
func (d *decoder) open(bracket byte, wanted string) bool {
	c := d.peek()
	switch {
	case d.err != nil:
		return false
	case c == 'n':
		d.word("null")
		return false
	case c != bracket:
		d.mismatch(wanted)
		return false
	}
	d.at++
	d.first = true
	d.deeper()
	return d.err == nil
}

func (d *decoder) deeper() {
	if d.depth++; d.depth > maxDepth {
		d.fail(d.at, "", fmt.Sprintf("cannot read more than %d lists and objects in each other", maxDepth), "")
	}
}

// more reports whether another value comes before the closing bracket.
func (d *decoder) more(bracket byte) bool {
	c := d.peek()
	first := d.first
	d.first = false
	switch {
	case d.err != nil:
		return false
	case c == bracket:
		d.at++
		d.depth--
		return false
	case first:
		return true
	case c != ',':
		d.syntax(d.at, `"," or "`+string(rune(bracket))+`"`)
		return false
	}
	d.at++
	return true
}

// key reads a name and its colon.
func (d *decoder) key() string {
	if d.peek() != '"' {
		d.syntax(d.at, "a name in quotes")
		return ""
	}
	name := d.quoted()
	if d.peek() != ':' {
		d.syntax(d.at, `":"`)
		return ""
	}
	d.at++
	return name
}

func (d *decoder) enter(name string) { d.path = append(d.path, step{name, -1}) }
func (d *decoder) enterAt(index int) { d.path = append(d.path, step{"", index}) }
func (d *decoder) leave()            { d.path = d.path[:len(d.path)-1] }
func (d *decoder) warn(w, hint string) {
	d.warnings = append(d.warnings, settings.Warning{What: w, Origin: d.origin(d.at), Hint: hint})
}

// known enters a field; seen has a bit for each that was there before.
func (d *decoder) known(name string, seen *uint64, bit uint64) {
	d.enter(name)
	if *seen&bit != 0 && d.err == nil {
		d.warn("the same name stands there twice; the last one counts", "")
	}
	*seen |= bit
}

// unknown passes over a field that the runtime spec doesn't have.
func (d *decoder) unknown(name string, names []string) {
	d.enter(name)
	if d.err != nil {
		return
	}
	hint := ""
	if near := settings.Nearest(name, names...); near != "" {
		hint = "did you mean " + near + "?"
	}
	d.warn("ignored: the runtime specification has no such field", hint)
	d.skip()
}

// foreign passes over what is for another platform.
func (d *decoder) foreign(platform string) {
	if d.null() || d.err != nil {
		return
	}
	d.warn("ignored: this is for "+platform, "")
	d.skip()
}

// fold finds the name that differs in case only; "" if there is none.
func fold(name string, names []string) string {
	for _, n := range names {
		if strings.EqualFold(n, name) {
			return n
		}
	}
	return ""
}

// mismatch is the error about a value of the wrong kind.
func (d *decoder) mismatch(wanted string) {
	kind := ""
	switch c := d.peek(); {
	case c == '{':
		kind = "an object"
	case c == '[':
		kind = "a list"
	case c == '"':
		kind = "a string"
	case c == 't', c == 'f':
		kind = "a boolean"
	case c == '-', c >= '0' && c <= '9':
		kind = "a number"
	default:
		d.syntax(d.at, wanted)
		return
	}
	from := d.at
	rest := decoder{text: d.text, at: from}
	rest.skip()
	value := d.text[from:rest.at]
	if rest.err != nil {
		value = ""
	}
	d.fail(from, value, fmt.Sprintf("found %s where %s should be", kind, wanted), "")
}

func (d *decoder) bool(v *bool) {
	switch d.peek() {
	case 't':
		if d.word("true"); d.err == nil {
			*v = true
		}
	case 'f':
		if d.word("false"); d.err == nil {
			*v = false
		}
	case 'n':
		d.word("null")
	default:
		d.mismatch("true or false")
	}
}

// number gives the text of a number; "" for a null, or after an error.
func (d *decoder) number(wanted string) string {
	c := d.peek()
	switch {
	case d.err != nil:
		return ""
	case c == 'n':
		d.word("null")
		return ""
	case c != '-' && (c < '0' || c > '9'):
		d.mismatch(wanted)
		return ""
	}
	from := d.at
	d.digits()
	return d.text[from:d.at]
}

// digits passes over a number.
func (d *decoder) digits() {
	some := func() {
		from := d.at
		for d.at < len(d.text) && d.text[d.at] >= '0' && d.text[d.at] <= '9' {
			d.at++
		}
		if d.at == from {
			d.syntax(d.at, "a digit")
		}
	}
	is := func(c byte) bool { return d.err == nil && d.at < len(d.text) && d.text[d.at] == c }
	if is('-') {
		d.at++
	}
	if is('0') {
		d.at++
	} else {
		some()
	}
	if is('.') {
		d.at++
		some()
	}
	if is('e') || is('E') {
		d.at++
		if is('+') || is('-') {
			d.at++
		}
		some()
	}
}

type signed interface{ ~int | ~int32 | ~int64 }
type unsigned interface {
	~uint | ~uint16 | ~uint32 | ~uint64
}

func bitsOf[T signed | unsigned]() int {
	n := 0
	for x := T(1); x != 0; x <<= 1 {
		n++
	}
	return n
}

func decodeInt[T signed](d *decoder, v *T) {
	text := d.number("a number")
	if text == "" || d.err != nil {
		return
	}
	n, err := strconv.ParseInt(text, 10, bitsOf[T]())
	if err != nil {
		d.badNumber(text, fmt.Sprintf("a whole number of %d bits", bitsOf[T]()))
		return
	}
	*v = T(n)
}

func decodeUint[T unsigned](d *decoder, v *T) {
	text := d.number("a number")
	if text == "" || d.err != nil {
		return
	}
	n, err := strconv.ParseUint(text, 10, bitsOf[T]())
	if err != nil {
		d.badNumber(text, fmt.Sprintf("a whole number from 0 to %d", T(0)-1))
		return
	}
	*v = T(n)
}

func (d *decoder) badNumber(text, wanted string) {
	d.fail(d.at-len(text), text, fmt.Sprintf("found %s where %s should be", snippet(text), wanted), "")
}

func decodeBool(d *decoder, v *bool) { d.bool(v) }

func decodeString[T ~string](d *decoder, v *T) {
	switch c := d.peek(); {
	case d.err != nil:
	case c == 'n':
		d.word("null")
	case c != '"':
		d.mismatch("a string")
	default:
		if s := d.quoted(); d.err == nil {
			*v = T(s)
		}
	}
}

// quoted reads a string, whose first quote is next.
func (d *decoder) quoted() string {
	d.at++
	from := d.at
	ascii := true
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			s := d.text[from:d.at]
			d.at++
			if !ascii && !utf8.ValidString(s) {
				s = valid(s)
			}
			return s
		case c == '\\':
			return d.unquote(from)
		case c < ' ':
			d.syntax(d.at, "the rest of a string")
			return ""
		case c >= utf8.RuneSelf:
			ascii = false
		}
		d.at++
	}
	d.syntax(d.at, "the end of a string")
	return ""
}

// unquote reads the rest of a string that has escapes.
func (d *decoder) unquote(from int) string {
	b := append(make([]byte, 0, 2*(d.at-from)+16), d.text[from:d.at]...)
	for d.at < len(d.text) {
		switch c := d.text[d.at]; {
		case c == '"':
			d.at++
			return valid(string(b))
		case c < ' ':
			d.syntax(d.at, "the rest of a string")
			return ""
		case c != '\\':
			b = append(b, c)
			d.at++
		default:
			d.at++
			if d.at == len(d.text) {
				break
			}
			c := d.text[d.at]
			switch c {
			case '"', '\\', '/':
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'u':
				b = d.unicode(b)
				continue
			default:
				d.syntax(d.at, `one of "\/bfnrtu`)
				return ""
			}
			b = append(b, c)
			d.at++
		}
	}
	d.syntax(d.at, "the end of a string")
	return ""
}

// unicode reads what follows the backslash of \uXXXX. Half of a pair alone is
// U+FFFD.
func (d *decoder) unicode(b []byte) []byte {
	r := d.hex()
	if d.err != nil {
		return b
	}
	if r >= 0xd800 && r < 0xe000 {
		low := rune(-1)
		if r < 0xdc00 && strings.HasPrefix(d.text[d.at:], `\u`) {
			at := d.at
			d.at++
			low = d.hex()
			if d.err != nil {
				return b
			}
			if low < 0xdc00 || low >= 0xe000 {
				d.at, low = at, -1
			}
		}
		if low < 0 {
			r = utf8.RuneError
		} else {
			r = (r-0xd800)<<10 + (low - 0xdc00) + 0x10000
		}
	}
	return utf8.AppendRune(b, r)
}

// hex reads uXXXX.
func (d *decoder) hex() rune {
	var r rune
	for i := 1; i <= 4; i++ {
		at := d.at + i
		c := byte(0)
		if at < len(d.text) {
			c = d.text[at]
		}
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			d.syntax(at, "a digit of a number to base 16")
			return 0
		}
		r = r<<4 | rune(c)
	}
	d.at += 5
	return r
}

// valid puts U+FFFD in the place of each byte that is no UTF-8.
func valid(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s)+8)
	for _, r := range s {
		b = utf8.AppendRune(b, r)
	}
	return string(b)
}

// skip passes over a value of any kind.
func (d *decoder) skip() {
	switch c := d.peek(); {
	case d.err != nil:
	case c == '{' || c == '[':
		d.at++
		d.first = true
		end := c + 2 // of both brackets
		for d.deeper(); d.more(end); {
			if c == '{' {
				d.key()
			}
			d.skip()
		}
	case c == '"':
		d.quoted()
	case c == '-' || c >= '0' && c <= '9':
		d.digits()
	case c == 't':
		d.word("true")
	case c == 'f':
		d.word("false")
	case c == 'n':
		d.word("null")
	default:
		d.syntax(d.at, "a value")
	}
}

// end holds that nothing follows.
func (d *decoder) end() {
	if d.peek(); d.at < len(d.text) {
		d.syntax(d.at, "the end of the file")
	}
}

// decodePointer reads what may be left out. As everywhere below, what is there
// already is added to, as encoding/json does it.
func decodePointer[T any](d *decoder, p **T, decode func(*decoder, *T)) {
	if d.null() {
		*p = nil
		return
	}
	if d.err != nil {
		return
	}
	if *p == nil {
		*p = new(T)
	}
	decode(d, *p)
}

func decodeSlice[T any](d *decoder, s *[]T, decode func(*decoder, *T)) {
	if d.null() {
		*s = nil
		return
	}
	if !d.open('[', "a list") {
		return
	}
	list, i := *s, 0
	for d.more(']') {
		if i >= cap(list) {
			list = slices.Grow(list, 1)
		}
		if i >= len(list) {
			list = list[:i+1]
		}
		d.enterAt(i)
		decode(d, &list[i])
		d.leave()
		i++
	}
	if list = list[:i]; i == 0 {
		list = []T{}
	}
	*s = list
}

func decodeMap[T any](d *decoder, m *map[string]T, decode func(*decoder, *T)) {
	if d.null() {
		*m = nil
		return
	}
	if !d.open('{', "an object") {
		return
	}
	if *m == nil {
		*m = map[string]T{}
	}
	for d.more('}') {
		name := d.key()
		var v T
		d.enter(name)
		if _, twice := (*m)[name]; twice && d.err == nil {
			d.warn("the same name stands there twice; the last one counts", "")
		}
		decode(d, &v)
		if d.err == nil {
			(*m)[name] = v
		}
		d.leave()
	}
}
