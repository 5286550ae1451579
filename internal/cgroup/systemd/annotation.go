package systemd

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// prefix begins the annotations that are properties of the container's unit.
const prefix = "org.systemd.property."

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

// Annotated gives the properties that a container's annotations ask for, such
// as org.systemd.property.TimeoutStopUSec: "uint64 5000000". Values are
// GVariant text, as gdbus and busctl have it: true, 7, uint64 7, 'text',
// ['a', 'b']. A property that ends in Sec has seconds, and becomes the one in
// microseconds that systemd has.
func Annotated(annotations map[string]string) ([]Property, error) {
	var list []Property
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		text := strings.TrimSpace(annotations[key])
		read := variant
		if base, ok := strings.CutSuffix(name, "Sec"); ok && !strings.HasSuffix(base, "U") {
			name, read = base+"USec", microseconds
		}
		value, err := read(text)
		if name == "" || strings.Trim(name, letters) != "" {
			err = fmt.Errorf("%q is no name of a property", name)
		}
		if err != nil {
			return nil, fmt.Errorf("annotation %s: %w", key, err)
		}
		list = append(list, Property{name, value})
	}
	return list, nil
}

// microseconds reads a number of seconds, with or without its type.
func microseconds(text string) (any, error) {
	_, number, typed := strings.Cut(text, " ")
	if !typed {
		number = text
	}
	n, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(n >= 0 && n*1e6 < math.MaxUint64) {
		return nil, fmt.Errorf("%q is no number of seconds", text)
	}
	return uint64(n * 1e6), nil
}

// variant reads one value of the kinds that units' properties have.
func variant(text string) (any, error) {
	bad := fmt.Errorf("%q is no value that a unit can have: true, 7, uint64 7, 'text', or a list of those in brackets", text)
	switch {
	case text == "true", text == "false":
		return text == "true", nil
	case strings.HasPrefix(text, "'"), strings.HasPrefix(text, `"`):
		s, rest, ok := quoted(text)
		if !ok || rest != "" {
			return nil, bad
		}
		return s, nil
	case strings.HasPrefix(text, "["):
		return elements(text, bad)
	}
	kind, number, typed := strings.Cut(text, " ")
	if !typed {
		kind, number = "int32", text
	}
	number = strings.TrimSpace(number)
	switch kind {
	case "int32":
		if n, err := strconv.ParseInt(number, 0, 32); err == nil {
			return int32(n), nil
		}
	case "uint32":
		if n, err := strconv.ParseUint(number, 0, 32); err == nil {
			return uint32(n), nil
		}
	case "uint64":
		if n, err := strconv.ParseUint(number, 0, 64); err == nil {
			return n, nil
		}
	}
	return nil, bad
}

// elements reads a list of texts or of numbers.
func elements(text string, bad error) (any, error) {
	var texts []string
	var numbers []int32
	rest := strings.TrimSpace(text[1:])
	for first := true; rest != "]"; first = false {
		if !first {
			var ok bool
			if rest, ok = strings.CutPrefix(rest, ","); !ok {
				return nil, bad
			}
			rest = strings.TrimSpace(rest)
		}
		if s, after, ok := quoted(rest); ok {
			texts, rest = append(texts, s), strings.TrimSpace(after)
			continue
		}
		end := strings.IndexAny(rest, ",]")
		if end < 0 {
			return nil, bad
		}
		n, err := strconv.ParseInt(strings.TrimSpace(rest[:end]), 0, 32)
		if err != nil {
			return nil, bad
		}
		numbers, rest = append(numbers, int32(n)), rest[end:]
	}
	switch {
	case texts != nil && numbers != nil, texts == nil && numbers == nil:
		return nil, bad
	case texts != nil:
		return texts, nil
	}
	return numbers, nil
}

// quoted reads a text in quotes, and gives what comes behind.
func quoted(text string) (s, rest string, ok bool) {
	if text == "" || text[0] != '\'' && text[0] != '"' {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == text[0]:
			return b.String(), text[i+1:], true
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}
