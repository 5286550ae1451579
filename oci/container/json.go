package container

import "strconv"

// StateJSON is the container's state as the runtime specification has it,
// which hooks get and the verb state prints.
func (s *State) StateJSON(status Status, pid int) []byte {
	b := append([]byte(nil), `{"ociVersion":`...)
	b = quote(b, s.Version)
	b = append(b, `,"id":`...)
	b = quote(b, s.ID)
	b = append(b, `,"status":`...)
	b = quote(b, string(status))
	if pid != 0 {
		b = append(b, `,"pid":`...)
		b = strconv.AppendInt(b, int64(pid), 10)
	}
	b = append(b, `,"bundle":`...)
	b = quote(b, s.Bundle)
	b = s.annotations(b)
	return append(b, '}')
}

func (s *State) annotations(b []byte) []byte {
	if len(s.Annotations) == 0 {
		return b
	}
	b = append(b, `,"annotations":{`...)
	for i, a := range s.Annotations {
		if i > 0 {
			b = append(b, ',')
		}
		b = quote(b, a[0])
		b = append(b, ':')
		b = quote(b, a[1])
	}
	return append(b, '}')
}

const hex = "0123456789abcdef"

// quote appends a JSON string. Bytes that are no UTF-8 become U+FFFD.
func quote(b []byte, s string) []byte {
	b = append(b, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r == '\n':
			b = append(b, '\\', 'n')
		case r == '\t':
			b = append(b, '\\', 't')
		case r < 0x20:
			b = append(b, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			b = append(b, string(r)...)
		}
	}
	return append(b, '"')
}

// Quote gives a JSON string.
func Quote(s string) string { return string(quote(nil, s)) }
