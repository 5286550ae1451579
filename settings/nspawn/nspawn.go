// Package nspawn reads .nspawn files, in the syntax and with the rules that
// systemd-nspawn has for them. Each line becomes an assignment with its file
// and line; what of them counts is for settings.Resolve to say.
//
// It refuses to open files itself: which files to look for is data
// (Candidates), and Load gets a function that opens one.
//
// It is apart from package settings so that a program which reads no such
// files doesn't link an ini library.
//
//	file, warnings, err := nspawn.Load(nspawn.Candidates(machine, directory), open)
//	s, trace, more, err := settings.Resolve(append(flags, file...), around)
//
// Room: paper.
package nspawn

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"gopkg.in/ini.v1"

	"launch/internal/origin"
	"launch/settings"
)

// How long a file may be, one of the administrator's, and one that lies beside
// a tree. Whoever opens a file need not read more than one byte beyond.
const (
	MaxSize          = 4 << 20
	MaxUntrustedSize = 64 << 10
)

// Candidate is a place where the settings of a machine may be.
type Candidate struct {
	Path string
	// Trusted: only the administrator can put a file there.
	Trusted bool
}

// Candidates gives the places in their order. The first file that is there is
// the only one read.
func Candidates(machine, directory string) []Candidate {
	file := machine + ".nspawn"
	return []Candidate{
		{Path: "/etc/systemd/nspawn/" + file, Trusted: true},
		{Path: "/run/systemd/nspawn/" + file, Trusted: true},
		{Path: path.Join(path.Dir(directory), file)},
	}
}

// Load reads the first candidate that exists. The open function gives the
// file's content, or an error that is fs.ErrNotExist if there is no such file;
// any other error ends the search.
func Load(candidates []Candidate, place settings.Place, open func(c Candidate) ([]byte, error)) ([]settings.Assignment, []settings.Warning, error) {
	for _, c := range candidates {
		text, err := open(c)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return nil, nil, unread(c, err)
		}
		return Read(c, place, text)
	}
	return nil, nil, nil
}

// unread is the error about a file that is there, and can't be read.
func unread(c Candidate, err error) error {
	e := &settings.Error{
		What:   "cannot read settings: " + err.Error(),
		Origin: origin.Origin{Source: origin.File, Path: c.Path},
		Hint:   "--settings=no starts without the file",
	}
	if !c.Trusted && errors.Is(err, unix.ELOOP) {
		e.What, e.Hint = "cannot read settings: a link beside a tree is not followed", "put the file itself there, or into /etc/systemd/nspawn, where it may be a link; "+e.Hint
	}
	return e
}

// Read turns the text of a file into assignments. What is wrong with a single
// line is a warning, and the line is left out; an error means that the file
// can't be relied on.
func Read(c Candidate, place settings.Place, text []byte) ([]settings.Assignment, []settings.Warning, error) {
	limit := MaxUntrustedSize
	if c.Trusted {
		limit = MaxSize
	}
	if len(text) > limit {
		return nil, nil, &settings.Error{
			What:   fmt.Sprintf("cannot read settings: the file is larger than %d KiB", limit>>10),
			Origin: origin.Origin{Source: origin.File, Path: c.Path},
		}
	}
	l, err := lex(c.Path, text)
	if err != nil {
		return nil, l.warnings, err
	}
	lines, err := store(l.found)
	if err != nil {
		return nil, l.warnings, fmt.Errorf("read settings file %s: %w", c.Path, err)
	}
	var list []settings.Assignment
	for _, line := range lines {
		l.line = line.line
		o := settings.FindKey(line.section, line.key)
		a := settings.Assignment{
			Option: o, Origin: l.place(line.line, line.key+"="), Text: line.value, Untrusted: !c.Trusted,
		}
		if line.value == "" {
			switch o.Empty {
			case settings.EmptyWarns:
				l.warn(line.key+"=", "", line.key+"= is ignored: it has no value", "")
				continue
			case settings.EmptyNothing:
				continue
			}
			a.Reset = true
			list = append(list, a)
			continue
		}
		parse := o.Parse
		if o.ParseKey != nil {
			parse = o.ParseKey
		}
		v, err := parse(place, line.value)
		var refusal *settings.Refusal
		var partial settings.Partial
		switch {
		case errors.As(err, &refusal):
			a.Err = refusal
		case errors.As(err, &partial):
			l.warn(line.key+"=", line.value, "a part of "+line.key+"= is ignored: "+err.Error(), "")
		case err != nil:
			l.warn(line.key+"=", line.value, line.key+"= is ignored: "+err.Error(), "")
			continue
		}
		if o.Old != "" {
			flag, value, _ := strings.Cut(o.Old, "=")
			hint := ""
			if now := settings.Find(flag); now != nil {
				hint = "use " + now.Key + "=" + value
			}
			l.warn(line.key+"=", line.value, line.key+"= is deprecated", hint)
		}
		a.Value = v
		list = append(list, a)
	}
	return list, l.warnings, nil
}

// store puts the lexer's lines into an ini file, and takes them out again. The
// library gets one line for each of them, with the value between two marks and
// the line's number before it: it would drop an empty value, strip quotes, trim
// what Unicode calls a space, and lose the order of different keys.
func store(found []assignment) ([]assignment, error) {
	if len(found) == 0 {
		return nil, nil
	}
	var b strings.Builder
	section := ""
	for _, a := range found {
		if a.section != section {
			section = a.section
			b.WriteString("[" + section + "]\n")
		}
		b.WriteString(a.key + "=\x01" + strconv.Itoa(a.line) + "\x01" + a.value + "\x01\n")
	}
	file, err := ini.LoadSources(ini.LoadOptions{
		AllowShadows: true, AllowDuplicateShadowValues: true, IgnoreContinuation: true, IgnoreInlineComment: true,
		PreserveSurroundedQuote: true, KeyValueDelimiters: "=", ChildSectionDelimiter: "\x00",
	}, []byte(b.String()))
	if err != nil {
		return nil, err
	}
	list := make([]assignment, 0, len(found))
	for _, s := range file.Sections() {
		for _, k := range s.Keys() {
			// Not String: that expands %(name)s.
			for _, v := range k.ValueWithShadows() {
				line, value, ok := strings.Cut(strings.TrimPrefix(v, "\x01"), "\x01")
				n, err := strconv.Atoi(line)
				if !ok || err != nil {
					return nil, fmt.Errorf("mangled value %q", v)
				}
				list = append(list, assignment{s.Name(), k.Name(), strings.TrimSuffix(value, "\x01"), n})
			}
		}
	}
	slices.SortFunc(list, func(a, b assignment) int { return a.line - b.line })
	return list, nil
}
