package settings

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"

	"launch/internal/origin"
	"launch/mount"
)

// Credential is a small secret that the machine finds as a file of its own.
type Credential struct {
	ID string `json:"id"`
	// Path is the file or socket that it is read from, on the host; "" if Value
	// holds it.
	Path string `json:"path,omitempty"`
	// Value is never shown.
	Value  string        `json:"-"`
	Origin origin.Origin `json:"origin,omitzero"`
}

// CredentialMax is how long one may be.
const CredentialMax = 1 << 20

// parseSetCredential reads ID:VALUE, in which C's escapes are undone: a value
// may have any byte.
func parseSetCredential(_ Place, text string) (any, error) {
	id, value, err := cutCredential(text, "VALUE")
	if err != nil {
		return nil, err
	}
	if value, err = unescape(value); err != nil {
		// Not with the text: it is a secret.
		return nil, fmt.Errorf("the value of credential %s: %w", id, err)
	}
	if len(value) > CredentialMax {
		return nil, fmt.Errorf("credential %s is longer than %d KiB", id, CredentialMax>>10)
	}
	return Credential{ID: id, Value: value}, nil
}

// parseLoadCredential reads ID:PATH, or ID:NAME with the name of a credential
// that the launcher itself was given.
func parseLoadCredential(p Place, text string) (any, error) {
	id, from, err := cutCredential(text, "PATH")
	if err != nil {
		return nil, err
	}
	c := Credential{ID: id, Path: from}
	switch {
	case strings.IndexByte(from, 0) >= 0:
		return nil, errors.New("a path can't have a NUL byte")
	case strings.HasPrefix(from, "/"):
		return c, nil
	case strings.Contains(from, "/"):
		c.Path = mount.Absolute(from, p.Cwd)
		return c, nil
	}
	if err := checkCredential(from); err != nil {
		return nil, fmt.Errorf("%q is neither a path nor the name of a credential", from)
	}
	dir := ""
	for _, e := range p.Env {
		if v, ok := strings.CutPrefix(e, "CREDENTIALS_DIRECTORY="); ok {
			dir = v
		}
	}
	if !strings.HasPrefix(dir, "/") {
		return nil, fmt.Errorf("launch was given no credentials ($CREDENTIALS_DIRECTORY), and so none that is called %s", from)
	}
	c.Path = path.Join(dir, from)
	return c, nil
}

func cutCredential(text, what string) (id, rest string, err error) {
	id, rest, ok := strings.Cut(text, ":")
	if !ok {
		return "", "", fmt.Errorf("it is not ID:%s", what)
	}
	if err := checkCredential(id); err != nil {
		return "", "", err
	}
	if rest == "" && what == "PATH" {
		return "", "", fmt.Errorf("credential %s has no path to be read from", id)
	}
	return id, rest, nil
}

// checkCredential refuses what is no name of a file, or would be none of a
// descriptor that systemd passes on.
func checkCredential(id string) error {
	bad := id == "" || id == "." || id == ".." || len(id) > 255
	for _, c := range []byte(id) {
		bad = bad || c < ' ' || c >= 0x7f || c == '/' || c == ':'
	}
	if bad {
		return fmt.Errorf("%q can't be the name of a credential", id)
	}
	return nil
}

// unescape undoes C's escapes.
func unescape(text string) (string, error) {
	if strings.IndexByte(text, '\\') < 0 {
		return text, nil
	}
	var b []byte
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b = append(b, text[i])
			continue
		}
		if i++; i == len(text) {
			return "", errors.New("a backslash at the end protects nothing")
		}
		number := func(digits, base int) (uint64, error) {
			if i+digits > len(text) {
				return 0, errors.New("an escape with too few digits")
			}
			n, err := strconv.ParseUint(text[i:i+digits], base, 32)
			if err != nil || strings.IndexByte(text[i:i+digits], '_') >= 0 {
				return 0, errors.New("an escape with something else than digits")
			}
			i += digits - 1
			return n, nil
		}
		var n uint64
		var err error
		switch c := text[i]; c {
		case 'a', 'b', 'e', 'f', 'n', 'r', 's', 't', 'v':
			b = append(b, "\a\b\x1b\f\n\r \t\v"[strings.IndexByte("abefnrstv", c)])
		case '\\', '"', '\'':
			b = append(b, c)
		case 'x':
			i++
			n, err = number(2, 16)
			b = append(b, byte(n))
		case 'u', 'U':
			digits := 4
			if c == 'U' {
				digits = 8
			}
			i++
			if n, err = number(digits, 16); err == nil && (n > utf8.MaxRune || !utf8.ValidRune(rune(n))) {
				err = errors.New("an escape that is no character")
			}
			if err == nil {
				b = utf8.AppendRune(b, rune(n))
			}
		case '0', '1', '2', '3', '4', '5', '6', '7':
			if n, err = number(3, 8); err == nil && n > 255 {
				err = errors.New("an escape that is more than a byte")
			}
			b = append(b, byte(n))
		default:
			err = fmt.Errorf("unknown escape \\%c", c)
		}
		if err != nil {
			return "", err
		}
	}
	return string(b), nil
}

// addCredential: one ID is told once; see resolver.check.
func addCredential(s *Settings, a Assignment) {
	c := a.Value.(Credential)
	c.Origin = a.Origin
	s.Credentials = append(s.Credentials, c)
}

// sameCredential finds an ID that was told twice.
func (r *resolver) sameCredential() error {
	for i, c := range r.s.Credentials {
		if c.ID == ForwardCredential && r.s.Host.Forward.To != "" {
			return &Error{What: "cannot give the machine a credential called " + c.ID + ": it is what --forward-journal= sets", Origin: c.Origin, Hint: "leave out one of them"}
		}
		for _, before := range r.s.Credentials[:i] {
			if before.ID == c.ID {
				return &Error{What: fmt.Sprintf("cannot give the machine two credentials called %s", c.ID), Origin: c.Origin, Hint: "leave out one of them"}
			}
		}
	}
	return nil
}
