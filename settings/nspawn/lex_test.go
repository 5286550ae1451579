package nspawn

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/settings"
)

// told writes down what a text yields: its lines in order, how many warnings
// there are, or the error.
func told(text string) string {
	l, err := lex("web.nspawn", []byte(text))
	if err != nil {
		return "error: " + err.Error()
	}
	list, err := store(l.found)
	if err != nil {
		return "store: " + err.Error()
	}
	var parts []string
	for _, a := range list {
		parts = append(parts, fmt.Sprintf("%s=%q@%d", a.key, a.value, a.line))
	}
	if n := len(l.warnings); n > 0 {
		parts = append(parts, fmt.Sprintf("warnings %d", n))
	}
	return strings.Join(parts, " ")
}

// TestLex has one case for each feature of systemd's syntax.
func TestLex(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, c := range []struct{ name, in, want string }{
		{"plain", "[Exec]\nUser=a\n", `User="a"@2`},
		{"no newline at the end", "[Exec]\nUser=a", `User="a"@2`},
		{"empty file", "", ""},
		{"only newlines", "\n\n\n", ""},
		{"repeated key", "[Exec]\nUser=a\nUser=b\n", `User="a"@2 User="b"@3`},
		{"duplicate values", "[Exec]\nUser=a\nUser=a\n", `User="a"@2 User="a"@3`},
		{"empty value", "[Exec]\nUser=a\nUser=\nUser=b\n", `User="a"@2 User=""@3 User="b"@4`},
		{"only an empty value", "[Exec]\nUser=\n", `User=""@2`},
		{"order of different keys", "[Exec]\nUser=a\nHostname=h\nUser=b\n", `User="a"@2 Hostname="h"@3 User="b"@4`},
		{"order across sections", "[Files]\nBind=/a\n[Exec]\nUser=a\n[Files]\nBind=/b\n", `Bind="/a"@2 User="a"@4 Bind="/b"@6`},
		{"comment #", "[Exec]\n#User=a\nUser=b\n", `User="b"@3`},
		{"comment ;", "[Exec]\n;User=a\nUser=b\n", `User="b"@3`},
		{"indented comment", "[Exec]\n \t# User=a\nUser=b\n", `User="b"@3`},
		{"no comment inside a line", "[Exec]\nUser=a # b\nHostname=a;b\n", `User="a # b"@2 Hostname="a;b"@3`},
		{"comment ends in a backslash", "[Exec]\n# a \\\nUser=b\n", `User="b"@3`},
		{"continuation", "[Exec]\nUser=a\\\nb\n", `User="a b"@2`},
		{"continuation keeps blanks", "[Exec]\nUser=a \\\n  b\n", `User="a    b"@2`},
		{"two continuations", "[Exec]\nUser=a\\\nb\\\nc\nHostname=h\n", `User="a b c"@2 Hostname="h"@5`},
		{"continuation at the end", "[Exec]\nUser=a\\\n", `User="a"@2`},
		{"continuation with nothing", "[Exec]\nUser=a\\\n\nHostname=h\n", `User="a"@2 Hostname="h"@4`},
		{"comment in a continuation", "[Exec]\nUser=a\\\n# c\nb\n", `User="a b"@2`},
		{"comment ends in a backslash in a continuation", "[Exec]\nUser=a\\\n; c \\\nb\nHostname=h\n", `User="a b"@2 Hostname="h"@5`},
		{"two backslashes", "[Exec]\nUser=a\\\\\nHostname=h\n", `User="a\\\\"@2 Hostname="h"@3`},
		{"three backslashes", "[Exec]\nUser=a\\\\\\\nb\n", `User="a\\\\ b"@2`},
		{"backslash and a blank", "[Exec]\nUser=a\\ \nHostname=h\n", `User="a\\"@2 Hostname="h"@3`},
		{"backslash inside", "[Exec]\nUser=a\\b\n", `User="a\\b"@2`},
		{"continued key", "[Exec]\nUs\\\ner=a\n", `warnings 1`},
		{"continuation before the equals sign", "[Exec]\nUser\\\n=a\n", `User="a"@2`},
		{"continued section", "[Exec\\\n]\nUser=a\n", `warnings 1`},
		{"value in double quotes", "[Exec]\nUser=\"a b\"\n", `User="\"a b\""@2`},
		{"value in single quotes", "[Exec]\nUser='a'\n", `User="'a'"@2`},
		{"backtick", "[Exec]\nUser=`a\nHostname=h\n", "User=\"`a\"@2 Hostname=\"h\"@3"},
		{"triple quotes", "[Exec]\nUser=\"\"\"a\nHostname=h\n", `User="\"\"\"a"@2 Hostname="h"@3`},
		{"percent", "[Exec]\nUser=%(Hostname)s\nHostname=%h\n", `User="%(Hostname)s"@2 Hostname="%h"@3`},
		{"colon is no delimiter", "[Exec]\nUser:a\nHostname=a:b\n", `Hostname="a:b"@3 warnings 1`},
		{"equals sign in the value", "[Exec]\nEnvironment=A=b=c\n", `Environment="A=b=c"@2`},
		{"no equals sign", "[Exec]\nUser\nHostname=h\n", `Hostname="h"@3 warnings 1`},
		{"empty key", "[Exec]\n=a\n", `warnings 1`},
		{"key -", "[Exec]\n-=a\n", `warnings 1`},
		{"quoted key", "[Exec]\n\"User\"=a\n", `warnings 1`},
		{"other case", "[Exec]\nuser=a\n", `warnings 1`},
		{"blanks around", "  [Exec]  \n\t User \t=\t a b \t\n", `User="a b"@2`},
		{"text behind a header", "[Exec] x\nUser=a\n", `error: cannot read settings: the section header "[Exec] x" has no end`},
		{"comment behind a header", "[Exec] # c\n", `error: cannot read settings: the section header "[Exec] # c" has no end`},
		{"header without an end", "[Exec\n", `error: cannot read settings: the section header "[Exec" has no end`},
		{"backslash in a header", "[a\\b]\n", `error: cannot read settings: the section header "[a\\b]" has characters that no name has`},
		{"quote in a header", "[X-'a']\n", `error: cannot read settings: the section header "[X-'a']" has characters that no name has`},
		{"bracket in a header", "[Ex]ec]\nUser=a\n", `warnings 1`},
		{"empty header", "[]\nUser=a\n", `warnings 1`},
		{"blanks in a header", "[ Exec ]\nUser=a\n", `warnings 1`},
		{"unknown section", "[Unit]\nUser=a\n[Exec]\nUser=b\n", `User="b"@4 warnings 1`},
		{"unknown section with junk", "[Unit]\nnothing\n=\n", `warnings 1`},
		{"private section", "[X-Mine]\nUser=a\n", ""},
		{"private key", "[Exec]\nX-User=a\n", ""},
		{"repeated section", "[Exec]\nUser=a\n[Exec]\nHostname=h\n", `User="a"@2 Hostname="h"@4`},
		{"key of another section", "[Files]\nUser=a\n", `warnings 1`},
		{"before the first section", "User=a\n[Exec]\nUser=b\n", `User="b"@3 warnings 1`},
		{"CRLF", "[Exec]\r\nUser=a\r\nHostname=h\r\n", `User="a"@2 Hostname="h"@3`},
		{"LFCR", "[Exec]\n\rUser=a\n\r", `User="a"@2`},
		{"CRLF and a continuation", "[Exec]\r\nUser=a\\\r\nb\r\n", `User="a b"@2`},
		{"empty lines with CRLF", "[Exec]\r\n\r\n\r\nUser=a\r\n", `User="a"@4`},
		{"lone CR", "[Exec]\rUser=a\rHostname=h", `User="a"@2 Hostname="h"@3`},
		{"NUL", "[Exec]\x00User=a\x00Hostname=h", `User="a"@2 Hostname="h"@3`},
		{"NUL and newline", "[Exec]\n\x00User=a\x00\nHostname=h", `User="a"@2 Hostname="h"@4`},
		{"not UTF-8", "[Exec]\nUser=\xff\n", "error: cannot read settings: the line is not UTF-8"},
		{"comment that is not UTF-8", "[Exec]\n# \xff\nUser=a\n", `User="a"@3`},
		{"byte order mark", "\xef\xbb\xbf[Exec]\nUser=a\n", `User="a"@2`},
		{"UTF-16", "\xff\xfe[\x00E\x00", "error: cannot read settings: the line is not UTF-8"},
		{"no-break space", "[Exec]\nUser=\u00a0a\u00a0\n", "User=\"\\u00a0a\\u00a0\"@2"},
		{"form feed", "[Exec]\nUser=\fa\f\n", `User="\fa\f"@2`},
		{"control byte", "[Exec]\nUser=\x01a\x01\n", `User="\x01a\x01"@2`},
		{"3 kB", "[Exec]\nUser=" + long(3000) + "\n", `User="` + long(3000) + `"@2`},
		{"100 kB", "[Exec]\nUser=" + long(100000) + "\n", `User="` + long(100000) + `"@2`},
		{"1.1 MB", "[Exec]\nUser=" + long(1100000) + "\n", "error: cannot read settings: line of more than 1 MiB"},
		{"1.1 MB in pieces", "[Exec]\nUser=" + strings.Repeat(long(1000)+"\\\n", 1100), "error: cannot read settings: line of more than 1 MiB"},
	} {
		if got := told(c.in); got != c.want {
			t.Errorf("%s:\n got %.200s\nwant %.200s", c.name, got, c.want)
		}
	}
}

// TestWarnings holds the sentences, and the lines they point to.
func TestWarnings(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"[Exec]\n\nUsr=a\n", "web.nspawn:3 (Usr=a): unknown key Usr= in section [Exec], ignored; did you mean User=?"},
		{"[Exec]\nBind=/a\n", "web.nspawn:2 (Bind=/a): unknown key Bind= in section [Exec], ignored; it belongs to section [Files]"},
		{"[Exec]\nzzzzzzzz=a\n", "web.nspawn:2 (zzzzzzzz=a): unknown key zzzzzzzz= in section [Exec], ignored; "},
		{"[File]\nBind=/a\n", "web.nspawn:1: unknown section [File], ignored; did you mean [Files]?"},
		{"[Files]\nBind=\n", "web.nspawn:2 (Bind=): Bind= is ignored: it has no value; "},
		{"[Exec]\nDropCapability=CAP_NEW CAP_KILL\n", "web.nspawn:2 (DropCapability=CAP_NEW CAP_KILL): a part of DropCapability= is ignored: unknown capability \"CAP_NEW\"; "},
		{"[Exec]\nEnvironment=A=b c\n", "web.nspawn:2 (Environment=A=b c): a part of Environment= is ignored: \"c\" is not NAME=VALUE; "},
		{"[Files]\nPrivateUsersChown=yes\n", "web.nspawn:2 (PrivateUsersChown=yes): PrivateUsersChown= is deprecated; use PrivateUsersOwnership=chown"},
		{"[Exec]\nParameters=a 'b\n", "web.nspawn:2 (Parameters=a 'b): Parameters= is ignored: the quote ' is not closed; "},
	} {
		_, warnings, err := Read(Candidate{Path: "web.nspawn", Trusted: true}, settings.Place{Cwd: "/"}, []byte(c.in))
		got := ""
		for _, w := range warnings {
			got += w.Place() + ": " + w.What + "; " + w.Hint
		}
		if err != nil || got != c.want {
			t.Errorf("%q\n got %s %v\nwant %s", c.in, got, err, c.want)
		}
	}
}

// TestLoad: the first file that is there wins, and is the only one read.
func TestLoad(t *testing.T) {
	files := map[string]string{}
	open := func(c Candidate) ([]byte, error) {
		path := c.Path
		text, ok := files[path]
		switch {
		case !ok:
			return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
		case text == "!":
			return nil, fs.ErrPermission
		case text == "->":
			return nil, unix.ELOOP
		}
		return []byte(text), nil
	}
	load := func() string {
		list, _, err := Load(Candidates("web", "/var/lib/machines/tree"), settings.Place{Cwd: "/"}, open)
		var e *settings.Error
		if errors.As(err, &e) {
			return e.What + " (" + e.Place() + ")"
		}
		if err != nil {
			return err.Error()
		}
		s := ""
		for _, a := range list {
			s += fmt.Sprintf("%s %v untrusted=%v;", a.Origin, a.Value, a.Untrusted)
		}
		return s
	}
	for _, step := range []struct{ path, text, want string }{
		{"", "", ""},
		{"/var/lib/machines/web.nspawn", "->", "cannot read settings: a link beside a tree is not followed (/var/lib/machines/web.nspawn)"},
		{"/var/lib/machines/web.nspawn", "[Exec]\nUser=c", "/var/lib/machines/web.nspawn:2 User= c untrusted=true;"},
		{"/run/systemd/nspawn/web.nspawn", "[Exec]\nUser=b", "/run/systemd/nspawn/web.nspawn:2 User= b untrusted=false;"},
		{"/etc/systemd/nspawn/web.nspawn", "[Exec]\nUser=a", "/etc/systemd/nspawn/web.nspawn:2 User= a untrusted=false;"},
		{"/etc/systemd/nspawn/web.nspawn", "!", "cannot read settings: permission denied (/etc/systemd/nspawn/web.nspawn)"},
	} {
		if step.path != "" {
			files[step.path] = step.text
		}
		if got := load(); got != step.want {
			t.Errorf("after %s\n got %s\nwant %s", step.path, got, step.want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	text := []byte(strings.Repeat("# comment\n", MaxUntrustedSize/10+1))
	_, _, err := Read(Candidate{Path: "web.nspawn"}, settings.Place{}, text)
	var e *settings.Error
	if !errors.As(err, &e) || e.What != "cannot read settings: the file is larger than 64 KiB" {
		t.Errorf("an untrusted file: %v", err)
	}
	if _, _, err := Read(Candidate{Path: "web.nspawn", Trusted: true}, settings.Place{}, text); err != nil {
		t.Errorf("a trusted file: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("[Exec]\nUser=a\\\n# c\nb\n[Files]\nBind=/a:/b:idmap\nVolatile=\n"))
	f.Add([]byte("\xef\xbb\xbf[Network]\r\nPrivate=`yes\x00Zone=\"\"\"\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		l, err := lex("web.nspawn", text)
		if err != nil {
			return
		}
		list, err := store(l.found)
		if err != nil {
			t.Fatalf("the library refuses what the lexer gives: %v", err)
		}
		if fmt.Sprint(list) != fmt.Sprint(l.found) {
			t.Fatalf("stored %v\n   as  %v", l.found, list)
		}
		a, _, err := Read(Candidate{Path: "web.nspawn"}, settings.Place{Cwd: "/"}, text)
		if err == nil {
			s, trace, _, _ := settings.Resolve(a, settings.Surroundings{Place: settings.Place{Cwd: "/srv/web"}})
			// No file beside a tree may open anything to the payload.
			if len(s.Mounts) > 0 || s.Exec.AddCaps != 0 || s.Users.Mode != "" || s.Network.Private {
				t.Fatalf("an untrusted file was heard:\n%s", trace)
			}
		}
	})
}
