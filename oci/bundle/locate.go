package bundle

import (
	"strconv"
	"strings"

	"launch/internal/origin"
)

// Locate adds the line to an origin that has a JSON pointer into the text. If
// there is nothing at the pointer, it is the line of what should have it.
func Locate(o origin.Origin, text string) origin.Origin {
	if o.Line == 0 && o.Source == origin.Bundle && len(text) <= Limit {
		o.Line = lineOf(text, o.Key)
	}
	return o
}

// lineOf gives the line on which the value at a pointer begins. Of names that
// stand there twice it takes the last.
func lineOf(text, pointer string) int {
	d := decoder{text: text}
	d.space()
	found := d.at
	for pointer != "" && d.err == nil {
		var part string
		part, pointer, _ = strings.Cut(pointer[1:], "/")
		if pointer != "" {
			pointer = "/" + pointer
		}
		name := strings.ReplaceAll(strings.ReplaceAll(part, "~1", "/"), "~0", "~")
		at := -1
		switch d.peek() {
		case '{':
			d.open('{', "")
			for d.more('}') {
				if k := d.key(); k == name || strings.EqualFold(k, name) {
					d.space()
					at = d.at
				}
				d.skip()
			}
		case '[':
			d.open('[', "")
			index, _ := strconv.Atoi(part)
			for i := 0; d.more(']'); i++ {
				if d.space(); i == index {
					at = d.at
				}
				d.skip()
			}
		}
		if at < 0 || d.err != nil {
			break
		}
		found, d.at = at, at
	}
	return d.line(found)
}
