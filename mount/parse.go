package mount

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// The longest path that the kernel takes, with its terminating NUL.
const maxPath = 4096

// ParseBind reads `SOURCE[:TARGET[:OPTIONS]]`. A relative source is put below
// cwd; a source with a leading `+` is a path in the machine's root, one with a
// leading `-` may be missing, and an empty one is a fresh directory. Without a
// target it is the source.
func ParseBind(text, cwd string, readOnly bool) (Mount, error) {
	m := Mount{Kind: Bind, ReadOnly: readOnly}
	if text == "" {
		return Mount{}, errors.New("empty bind mount")
	}
	source, rest, more, err := field(text)
	if err != nil {
		return Mount{}, err
	}
	var target, options string
	if more {
		// Options are taken as they are: no escapes are undone in them.
		target, options, _, err = field(rest)
		if err != nil {
			return Mount{}, err
		}
	}
	source, m.Optional = strings.CutPrefix(source, "-")
	if !more {
		target = strings.TrimPrefix(source, "+")
	}
	if m.Source, err = source2path(source, cwd); err != nil {
		return Mount{}, err
	}
	if m.Optional && m.Source.Temp {
		return Mount{}, errors.New("a lone `-` names no source")
	}
	if m.Target, err = ParseTarget(target); err != nil {
		return Mount{}, err
	}
	for _, word := range strings.Split(options, ",") {
		if err := m.bindOption(word); err != nil {
			return Mount{}, err
		}
	}
	return m, nil
}

// ErrBindOption: a bind mount was given an option that nobody knows.
var ErrBindOption = errors.New("unknown bind option")

// bindWords are the options of a bind mount, for errors and completion.
var bindWords = [...]string{"rbind", "norbind", "idmap", "noidmap", "rootidmap", "owneridmap"}

// bindOption sets one option. A word nobody knows is refused here, and not
// when the machine starts: a misspelt option must not wait for that.
func (m *Mount) bindOption(word string) error {
	switch word {
	case "":
	case "rbind":
		m.NoRecurse = false
	case "norbind":
		m.NoRecurse = true
	case "noidmap":
		m.IDMap = NoIDMap
	case "idmap":
		m.IDMap = FullIDMap
	case "rootidmap":
		m.IDMap = RootIDMap
	case "owneridmap":
		m.IDMap = OwnerIDMap
	default:
		return fmt.Errorf("%w %q (known: %s)", ErrBindOption, word, strings.Join(bindWords[:], ", "))
	}
	return nil
}

// ParseTmpfs reads `TARGET[:OPTIONS]`. Without options the file system's root
// gets mode 0755.
func ParseTmpfs(text string) (Mount, error) {
	target, options, _, err := field(text)
	if err != nil {
		return Mount{}, err
	}
	m := Mount{Kind: Tmpfs, Options: options}
	if m.Target, err = ParseTarget(target); err != nil {
		return Mount{}, err
	}
	if options == "" {
		m.Options = "mode=0755"
	}
	if _, _, err := SplitOptions(m.Options); err != nil {
		return Mount{}, err
	}
	return m, nil
}

// ParseOverlay reads `LOWER[:LOWER…]:UPPER:TARGET`, the leftmost directory
// being the lowest, or `LOWER:UPPER`, with UPPER as the target. Directories are
// written as a bind's source; none of them may be optional.
func ParseOverlay(text, cwd string, readOnly bool) (Mount, error) {
	var fields []string
	for more := true; more; {
		var f string
		var err error
		if f, text, more, err = field(text); err != nil {
			return Mount{}, err
		}
		fields = append(fields, f)
	}
	n := len(fields)
	if n < 2 {
		return Mount{}, errors.New("an overlay needs a lower and an upper directory")
	}
	target, dirs := fields[n-1], fields[:n-1]
	m := Mount{Kind: Overlay, ReadOnly: readOnly}
	if n == 2 {
		// The upper directory is the target as well, and may be relative.
		upper, err := source2path(target, cwd)
		if err != nil {
			return Mount{}, err
		}
		target, dirs = upper.Path, fields
	}
	var err error
	if m.Target, err = ParseTarget(target); err != nil {
		return Mount{}, err
	}
	for i, dir := range dirs {
		p, err := source2path(dir, cwd)
		if err != nil {
			return Mount{}, err
		}
		if i == len(dirs)-1 {
			m.Source = p
			break
		}
		if p.Temp {
			return Mount{}, errors.New("empty lower directory; only the upper one may be empty")
		}
		m.Lower = append(m.Lower, p)
	}
	return m, nil
}

// ParseInaccessible reads one absolute path. It has no fields and no escapes.
func ParseInaccessible(text string) (Mount, error) {
	target, err := ParseTarget(text)
	if err != nil {
		return Mount{}, err
	}
	if target == "/" {
		return Mount{}, errors.New("the root itself can't be made inaccessible")
	}
	return Mount{Kind: Inaccessible, Target: target}, nil
}

// field cuts the text at the first `:` that no backslash protects, and undoes
// the escapes of the part before it. more says whether there was a `:`.
func field(text string) (f, rest string, more bool, err error) {
	plain := strings.IndexByte(text, '\\') < 0
	if plain {
		f, rest, more = strings.Cut(text, ":")
		return f, rest, more, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '\\':
			if i++; i == len(text) {
				return "", "", false, errors.New("a backslash at the end protects nothing")
			}
			b.WriteByte(text[i])
		case ':':
			return b.String(), text[i+1:], true, nil
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "", false, nil
}

// source2path reads one source.
func source2path(text, cwd string) (Path, error) {
	if text == "" {
		return Path{Temp: true}, nil
	}
	if below, ok := strings.CutPrefix(text, "+"); ok {
		if !strings.HasPrefix(below, "/") {
			return Path{}, fmt.Errorf("source %q: a path in the machine's root must be absolute", text)
		}
		if err := check(below); err != nil {
			return Path{}, err
		}
		return Path{Path: Simplify(below), InRoot: true}, nil
	}
	p := Absolute(text, cwd)
	return Path{Path: p}, check(p)
}

// ParseTarget checks a path inside the machine's root, and gives its clean
// form. A `..` is refused: what it leads to depends on symlinks in the tree, so
// mounts could not be ordered by their targets.
func ParseTarget(text string) (string, error) {
	switch {
	case text == "":
		return "", errors.New("empty target")
	case text[0] != '/':
		return "", fmt.Errorf("%q is not an absolute path", text)
	}
	if err := check(text); err != nil {
		return "", err
	}
	p := Simplify(text)
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return "", fmt.Errorf("%q has a `..`, which symlinks could lead anywhere", text)
		}
	}
	return p, nil
}

func check(p string) error {
	switch {
	case strings.IndexByte(p, 0) >= 0:
		return fmt.Errorf("path %q has a NUL byte", p)
	case len(p) >= maxPath:
		return fmt.Errorf("path of %d bytes: longer than the kernel takes", len(p))
	case !utf8.ValidString(p):
		return fmt.Errorf("path %q is not UTF-8", p)
	}
	return nil
}

// Absolute puts a relative path below cwd, which must be a path without
// symlinks: that is why leading `..` parts can be taken off it. A `..` further
// on stays, since only the kernel knows what it leads to.
func Absolute(p, cwd string) string {
	if strings.HasPrefix(p, "/") {
		return Simplify(p)
	}
	p = Simplify(p)
	for {
		rest, ok := strings.CutPrefix(p, "..")
		if !ok || rest != "" && rest[0] != '/' {
			break
		}
		cwd = cwd[:max(strings.LastIndexByte(cwd, '/'), 0)]
		p = strings.TrimPrefix(rest, "/")
	}
	return Simplify(cwd + "/" + p)
}

// Simplify takes empty and `.` parts out of a path, and a slash at its end. It
// leaves `..` alone.
func Simplify(p string) string {
	var b strings.Builder
	b.Grow(len(p))
	rooted := strings.HasPrefix(p, "/")
	for part := range strings.SplitSeq(p, "/") {
		if part == "" || part == "." {
			continue
		}
		if rooted || b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(part)
	}
	if b.Len() == 0 && rooted {
		return "/"
	}
	return b.String()
}
