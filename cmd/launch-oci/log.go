package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// log writes what engines read: a line of text or a JSON object each.
type log struct {
	fd   int // -1: standard error only
	json bool
	// debugging: tell more.
	debugging bool
}

func (l *log) open(file string) error {
	l.fd = -1
	if file == "" {
		return nil
	}
	n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_WRONLY|unix.O_CREAT|unix.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("open the log file %s: %w", file, err)
	}
	l.fd = n
	return nil
}

func (l *log) line(level, text string) {
	now := time.Now().Format(time.RFC3339)
	var s string
	if l.json {
		s = `{"level":"` + level + `","msg":` + quote(text) + `,"time":"` + now + `"}` + "\n"
	} else {
		s = `time="` + now + `" level=` + level + ` msg=` + quote(text) + "\n"
	}
	if l.fd >= 0 {
		_ = sys.WriteString(l.fd, s)
		return
	}
	os.Stderr.WriteString(s)
}

// warn tells what didn't keep anything from being done. Podman reads the log as
// one object, the error: so a warning goes there only if all is wanted.
func (l *log) warn(text string) {
	if l.fd >= 0 && !l.debugging {
		os.Stderr.WriteString(text + "\n")
		return
	}
	l.line("warning", text)
}

// debug tells what is done.
func (l *log) debug(format string, args ...any) {
	if l.debugging {
		l.line("debug", fmt.Sprintf(format, args...))
	}
}

// fail tells an error, in the log and to who looks at standard error.
func (l *log) fail(err error) {
	text := strings.ReplaceAll(sentence(err), "\n", "; ")
	l.line("error", text)
	if l.fd >= 0 {
		fmt.Fprintln(os.Stderr, text)
	}
}

// say writes what was asked for, and gives the exit status: who reads it must
// not take a part of it for all.
func say(text []byte) int {
	if _, err := os.Stdout.Write(text); err != nil {
		out.fail(err)
		return 1
	}
	return 0
}

const hex = "0123456789abcdef"

// quote gives a JSON string, which a line of text can have as well. Bytes that
// are no UTF-8 become U+FFFD.
func quote(s string) string {
	b := []byte{'"'}
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
	return string(append(b, '"'))
}
