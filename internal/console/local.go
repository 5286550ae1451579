package console

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// local is one of the launcher's own descriptors, input or output.
type local struct {
	fd    int  // what is polled, read or written; -1: none
	given int  // what the caller gave
	term  bool // a terminal

	flags int // status flags to put back; -1: none changed

	raw   bool // the terminal's settings were changed
	saved unix.Termios
}

// openLocal makes a descriptor usable in a loop that must not block.
//
// O_NONBLOCK belongs to the open file description, and that is shared with the
// shell, with whatever else writes to it and with the launcher's own standard
// error: set there, others would lose output, and for good if the launcher
// were killed. So a terminal, or a pipe to write to, is opened once more. A
// pipe to read from is not: polled first, one read of it never blocks, and a
// new description would not see that the writer has long gone. Files and
// /dev/null never block.
func openLocal(n int, name string, flags int) (local, error) {
	l := local{fd: n, given: n, flags: -1}
	if n < 0 {
		l.fd = -1
		return l, nil
	}
	st, err := sys.Statx(n, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return l, fmt.Errorf("look at console %s: %w", name, err)
	}
	if _, err := sys.TermGet(n); err == nil {
		l.term = true
	}
	kind := st.Mode & unix.S_IFMT
	writing := flags == unix.O_WRONLY
	if !l.term && (!writing || kind != unix.S_IFIFO && kind != unix.S_IFSOCK) {
		return l, nil
	}
	// Opening ptmx again would make another pty.
	if ptmx := st.Rdev_major == 5 && st.Rdev_minor == 2; kind != unix.S_IFSOCK && !ptmx {
		if m, err := reopen(n, flags|unix.O_NONBLOCK|unix.O_NOCTTY, &st); err == nil {
			l.fd = m
			return l, nil
		}
	}
	if !writing {
		return l, nil // a terminal, polled before each read
	}
	old, err := sys.StatusFlags(n)
	if err == nil && old&unix.O_NONBLOCK == 0 {
		err = sys.SetStatusFlags(n, old|unix.O_NONBLOCK)
		l.flags = old
	}
	if err != nil {
		return l, fmt.Errorf("make console %s non-blocking: %w", name, err)
	}
	return l, nil
}

// reopen opens what n is once more. /proc is believed only if it is one, and
// the result only if it is the same file: the calling thread may see another
// tree than it thinks.
func reopen(n, flags int, want *unix.Statx_t) (int, error) {
	proc, err := sys.Openat(unix.AT_FDCWD, "/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, err
	}
	defer sys.Close(proc)
	fs, err := sys.Fstatfs(proc)
	if err != nil {
		return -1, err
	}
	if fs.Type != unix.PROC_SUPER_MAGIC {
		return -1, unix.ENOTTY
	}
	m, err := sys.Openat(proc, "self/fd/"+strconv.Itoa(n), flags, 0)
	if err != nil {
		return -1, err
	}
	st, err := sys.Statx(m, "", unix.STATX_BASIC_STATS)
	if err != nil || st.Dev_major != want.Dev_major || st.Dev_minor != want.Dev_minor || st.Ino != want.Ino ||
		st.Rdev_major != want.Rdev_major || st.Rdev_minor != want.Rdev_minor {
		sys.Close(m)
		return -1, unix.ENOTTY
	}
	return m, nil
}

// close puts the status flags back.
func (l *local) close() {
	if l.flags >= 0 {
		sys.SetStatusFlags(l.given, l.flags)
	}
	if l.fd != l.given {
		sys.Close(l.fd)
	}
	l.fd, l.flags = -1, -1
}

// setTerm changes the terminal's settings, which are saved the first time.
func (l *local) setTerm(change func(*unix.Termios)) error {
	if !l.raw {
		t, err := sys.TermGet(l.fd)
		if err != nil {
			return err
		}
		l.saved = t
	}
	t := l.saved
	change(&t)
	// From here on it is restored, even if the call is interrupted by a stop
	// and repeated.
	l.raw = true
	return sys.TermSet(l.fd, &t)
}

func (l *local) restoreTerm() {
	if l.raw {
		sys.TermSet(l.fd, &l.saved)
	}
	l.raw = false
}

// rawInput lets every key through as bytes, ^C and ^Z too: they are the
// machine's. Output is another matter: see plainOutput.
func rawInput(t *unix.Termios) {
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
}

// plainOutput leaves bytes as they are: the machine's pty has already made
// carriage return and line feed of its line feeds.
func plainOutput(t *unix.Termios) { t.Oflag &^= unix.OPOST }

// hungUp tells the end of a terminal from the end of input that was typed.
func hungUp(n int) bool {
	_, err := sys.TermGet(n)
	return err != nil
}
