package console

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Mode is what is forwarded. Passive needs no Forwarder: nobody reads, and the
// machine waits once its terminal is full.
type Mode uint8

const (
	// Interactive forwards both ways. A local terminal becomes raw: each key
	// goes into the machine, and only hotkeys stay outside.
	Interactive Mode = iota
	// ReadOnly forwards output. The local terminal stays as it is, so that
	// ^C still reaches the launcher.
	ReadOnly
	// Lines forwards both ways, and the local terminal stays as it is: it
	// yields whole lines, echoes them itself, and keeps the keys for signals,
	// so ^C reaches the launcher. The machine gets a line when it has read the one
	// before; what it never asks for stays for who reads the terminal next.
	Lines
)

// Config is what a Forwarder works with. The descriptors stay the caller's.
type Config struct {
	In, Out int // the user's side; -1: no input, or output thrown away
	Master  int // the machine's side; it becomes non-blocking
	Mode    Mode

	// Columns and Lines, unless 0, are the size at the start. Later the local
	// terminal's own size counts, when it changes.
	Columns, Lines uint16

	// Title, unless empty, becomes the terminal's title; Reset brings the
	// terminal's modes back at the end, which the machine may have changed.
	// Both write escape sequences, and only to a terminal: the caller
	// knows whether it is a dumb one.
	Title string
	Reset bool

	// Yield: while the launcher is a job in the background, nothing is done
	// to the input. It isn't stopped by the terminal (SIGTTOU, SIGTTIN) then,
	// and begins when it is brought to the front.
	Yield bool

	// Hotkey is called by Handle for each hotkey that was typed at a
	// terminal. Without it there are none, and every byte goes in.
	Hotkey func(Hotkey)

	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// State is what became of the user's side.
type State uint8

const (
	// Running: bytes pass. Input may have ended; that is not the end of
	// output.
	Running State = iota
	// Hung: the local terminal hung up, or nobody reads the output any more.
	// It is for good. As long as the caller goes on to poll and handle, the
	// machine's output is read and thrown away, so that the machine never
	// waits for a terminal that is gone.
	Hung
	// Lost: the machine's terminal fails, again and again. It is for good, and
	// the machine would wait for ever: the caller must close the terminal.
	Lost
)

// OutputError says that what the machine writes can't be passed on, though
// somebody wants it.
type OutputError struct {
	What string // what was being done
	Err  error
}

func (e *OutputError) Error() string { return e.What + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *OutputError) Unwrap() error { return e.Err }

const (
	outRoom  = 64 << 10 // output of the machine, waiting for the user's side
	inRoom   = 64 << 10 // input, waiting for the machine
	typeRoom = 1 << 20  // the same, if it comes from a terminal
	chunk    = 4 << 10  // one read of input

	// A machine that takes no input for so long, with typeRoom full, gets no
	// more of what is typed: hotkeys must work, most of all then.
	stuck = 2 * time.Second

	// How often is looked whether the launcher came to the front, or the machine
	// read its line.
	frontPause = time.Second
	linePause  = 20 * time.Millisecond // the first time; then ever longer
	lineMost   = time.Second

	// How long output must be silent before an end of input is told.
	idle = 100 * time.Millisecond
	// How long output that is never silent can delay it.
	busy = 2 * time.Second
	// The longest wait between two tellings, and between two looks.
	eofPause = 10 * time.Second
	eofLook  = 2 * time.Second

	// How long the master is left alone after a hang-up of the slave.
	hangupPause = 10 * time.Millisecond
	retryPause  = 100 * time.Millisecond
	// How often in a row the master may fail.
	patience = 8

	// What Drain takes at most from a terminal that somebody still writes to.
	drainRoom = 1 << 20
)

// Forwarder passes bytes between the user's side and the machine's. It is used
// by one goroutine; none of its functions needs a certain thread, except that
// New must run on one that sees the host's /proc.
type Forwarder struct {
	c       Config
	in, out local
	master  int

	// peer is the slave, held open and never used for input or output. Else,
	// while nobody has it open, reads and writes of the master would fail and
	// poll would report a hang-up without end: a booted machine closes and
	// reopens its console all the time. After vhangup it counts as open still.
	peer  int
	retry time.Time // leave the master alone until then

	failed int // calls on the master that failed in a row

	toUser, toMachine queue
	keys              keys
	scratch           [chunk]byte
	taken             time.Time // when the machine last took input, or had taken all

	behind    bool      // in the background: see Config.Yield
	frontLook time.Time // when to look again
	lineLook  time.Time // when to look whether the machine has read its line
	linePause time.Duration

	state    State
	inEnded  bool
	draining bool
	restored bool

	lastIn   byte          // the last byte that the machine got
	eofDue   time.Time     // when to tell the end of input
	eofLast  time.Time     // when it was told last, or came
	eofDelay time.Duration // until it is told again
	eofCheck time.Duration // until it is looked at again whether the machine reads
}

// New takes hold of the terminal: it makes it raw, gives the machine its size
// and sets the title. Restore, deferred, undoes that.
func New(c Config) (*Forwarder, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Mode == ReadOnly {
		c.In = -1
	}
	f := &Forwarder{c: c, master: c.Master, peer: -1, in: local{fd: -1, flags: -1}, out: local{fd: -1, flags: -1}}
	if err := f.start(); err != nil {
		f.Restore()
		return nil, err
	}
	return f, nil
}

func (f *Forwarder) start() (err error) {
	if _, err := sys.PtyNumber(f.master); err != nil {
		return fmt.Errorf("ask number of console: %w", err)
	}
	flags, err := sys.StatusFlags(f.master)
	if err == nil {
		err = sys.SetStatusFlags(f.master, flags|unix.O_NONBLOCK)
	}
	if err != nil {
		return fmt.Errorf("make console master non-blocking: %w", err)
	}
	if f.hold(f.c.Now()); f.peer >= 0 {
		f.retry = time.Time{}
	}
	if f.in, err = openLocal(f.c.In, "input", unix.O_RDONLY); err != nil {
		return err
	}
	if f.out, err = openLocal(f.c.Out, "output", unix.O_WRONLY); err != nil {
		return err
	}
	f.look(f.c.Now())
	if err := f.setTerms(); err != nil {
		return err
	}
	if err := f.resize(f.c.Columns, f.c.Lines); err != nil {
		return err
	}
	if f.c.Title != "" && f.out.term {
		f.toUser.append([]byte(titleOn(f.c.Title)))
	}
	return nil
}

// look finds out whether the launcher may use the terminal.
func (f *Forwarder) look(now time.Time) {
	f.behind = f.c.Yield && f.in.term && sys.InBackground(f.in.fd)
	f.frontLook = now.Add(frontPause)
}

func (f *Forwarder) setTerms() error {
	if f.c.Mode != Interactive || !f.in.term || f.behind {
		return nil
	}
	err := f.in.setTerm(rawInput)
	// The settings are the terminal's, not the descriptor's: where output is
	// the same terminal, its saved settings are those that input made,
	// and restoring in reverse order comes out right. Where output is no
	// terminal, messages on this one must keep their line ends.
	if err == nil && f.out.term {
		err = f.out.setTerm(plainOutput)
	}
	if err != nil {
		return fmt.Errorf("make terminal raw: %w", err)
	}
	return nil
}

// Resize gives the machine the size of the local terminal; it is called when
// that has changed (SIGWINCH).
func (f *Forwarder) Resize() error { return f.resize(0, 0) }

func (f *Forwarder) resize(columns, lines uint16) error {
	if f.restored {
		return nil
	}
	var w unix.Winsize
	err := error(unix.ENOTTY)
	if f.out.term {
		w, err = sys.TermSize(f.out.fd)
	}
	if err != nil && f.in.term {
		w, err = sys.TermSize(f.in.fd)
	}
	if err != nil {
		if columns == 0 && lines == 0 {
			return nil
		}
		if w, err = sys.TermSize(f.master); err != nil {
			return fmt.Errorf("ask console size: %w", err)
		}
	}
	if columns != 0 {
		w.Col, w.Xpixel = columns, 0
	}
	if lines != 0 {
		w.Row, w.Ypixel = lines, 0
	}
	if w.Col == 0 && w.Row == 0 {
		return nil // a terminal that does not know; the machine's keeps what it has
	}
	if err := sys.SetTermSize(f.master, w); err != nil {
		return fmt.Errorf("set console size: %w", err)
	}
	return nil
}

// Fds appends the three descriptors that the next poll must include, each with
// what it is waited for; Handle wants the same three back. One that is not
// waited for has the number -1, which poll passes over.
func (f *Forwarder) Fds(fds []unix.PollFd) []unix.PollFd {
	in, out, master := unix.PollFd{Fd: -1}, unix.PollFd{Fd: -1}, unix.PollFd{Fd: -1}
	if f.restored {
		return append(fds, in, out, master)
	}
	now := f.c.Now()
	if f.reading() && !f.unread(now) && (f.toMachine.len() < f.inRoom() || f.isStuck(now)) {
		in = unix.PollFd{Fd: int32(f.in.fd), Events: unix.POLLIN}
	}
	if f.out.fd >= 0 && f.state != Hung {
		// Without output too: an error or a hang-up is always reported.
		out.Fd = int32(f.out.fd)
		if f.toUser.len() > 0 {
			out.Events = unix.POLLOUT
		}
	}
	if !now.Before(f.retry) {
		if f.toUser.len() < outRoom {
			master.Events |= unix.POLLIN
		}
		if f.toMachine.len() > 0 {
			master.Events |= unix.POLLOUT
		}
		if master.Events != 0 {
			master.Fd = int32(f.master)
		}
	}
	return append(fds, in, out, master)
}

// Timeout is how many milliseconds the next poll may take at most before
// Handle must be called; -1 is for ever.
func (f *Forwarder) Timeout() int {
	if f.restored {
		return -1
	}
	now := f.c.Now()
	wait := time.Duration(-1)
	until := func(t time.Time) {
		if d := max(0, t.Sub(now)); wait < 0 || d < wait {
			wait = d
		}
	}
	if now.Before(f.retry) {
		until(f.retry)
	}
	if f.behind {
		until(f.frontLook)
	}
	if now.Before(f.lineLook) {
		until(f.lineLook)
	}
	if f.tellsEOF() {
		until(f.eofDue)
	}
	if f.reading() && f.in.term && f.toMachine.len() >= f.inRoom() && !f.isStuck(now) {
		until(f.taken.Add(stuck))
	}
	if wait < 0 {
		return -1
	}
	return int((wait + time.Millisecond - 1) / time.Millisecond)
}

// Handle does what the poll found possible. fds are the three that Fds
// appended, as poll left them.
//
// An error tells what went wrong on the way of the bytes, once; it is no
// reason to end the machine.
func (f *Forwarder) Handle(fds []unix.PollFd) (State, error) {
	if f.restored {
		return f.state, nil
	}
	in, out, master := fds[0].Revents, fds[1].Revents, fds[2].Revents
	now := f.c.Now()
	var errs [5]error
	if f.behind && !now.Before(f.frontLook) {
		if f.look(now); !f.behind {
			errs[4] = f.Resume()
		}
	}
	if master&(unix.POLLIN|unix.POLLHUP|unix.POLLERR|unix.POLLNVAL) != 0 {
		_, errs[0] = f.fetch(now)
	}
	if out&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
		f.hang()
	}
	errs[1] = f.show()
	if in != 0 && f.reading() {
		errs[2] = f.take(now)
	}
	errs[3] = f.feed(now)
	f.tellEOF(now)
	for len(f.keys.hit) > 0 {
		k := f.keys.hit[0]
		f.keys.hit = f.keys.hit[1:]
		f.c.Hotkey(k)
	}
	return f.state, errors.Join(errs[:]...)
}

// hang: the user's side is gone.
func (f *Forwarder) hang() {
	f.state = Hung
	f.inEnded = true
	f.toUser.drop(f.toUser.len())
}

func (f *Forwarder) reading() bool { return f.in.fd >= 0 && !f.inEnded && !f.behind }

// unread: the machine has not read the line that it got last.
func (f *Forwarder) unread(now time.Time) bool {
	if f.c.Mode != Lines || !f.in.term || f.lastIn == 0 {
		return false
	}
	if now.Before(f.lineLook) {
		return true
	}
	waits := f.toMachine.len() > 0
	if !waits && f.peer >= 0 {
		p := [1]unix.PollFd{{Fd: int32(f.peer), Events: unix.POLLIN}}
		n, err := sys.Poll(p[:], 0)
		waits = err == nil && n != 0 && p[0].Revents&unix.POLLIN != 0
	}
	if waits {
		f.linePause = min(max(linePause, 2*f.linePause), lineMost)
		f.lineLook = now.Add(f.linePause)
	} else {
		f.linePause = 0
	}
	return waits
}

func (f *Forwarder) inRoom() int {
	if f.in.term {
		return typeRoom
	}
	return inRoom
}

func (f *Forwarder) isStuck(now time.Time) bool {
	return f.in.term && f.c.Hotkey != nil && now.Sub(f.taken) >= stuck
}

// fetch reads from the machine until there is no more, or no more room; done
// means that there was no more.
func (f *Forwarder) fetch(now time.Time) (done bool, err error) {
	for got := 0; f.toUser.len() < outRoom && got < outRoom; {
		n, err := sys.Read(f.master, f.toUser.tail(outRoom))
		switch {
		case err == unix.EAGAIN, err == nil && n == 0:
			f.failed = 0
			return true, nil
		case err == unix.EIO:
			// Nobody has the slave open: it could not be held before.
			f.failed = 0
			if !f.draining {
				f.hold(now)
			}
			return true, nil
		case err != nil:
			return true, f.fail(now, "read console", err)
		}
		f.failed = 0
		f.toUser.grew(n)
		got += n
		if f.inEnded {
			f.eofDue, f.eofCheck = f.eofTime(now), idle
		}
		if f.out.fd < 0 || f.state == Hung {
			f.toUser.drop(n)
		}
	}
	return false, nil
}

// fail leaves the master alone for a while. Only the first of several failures
// is told.
func (f *Forwarder) fail(now time.Time, what string, err error) error {
	f.retry = now.Add(retryPause)
	if f.failed++; f.failed == patience {
		f.state = Lost
		return &OutputError{"hear from the machine's terminal", err}
	}
	if f.failed > 1 {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// hold opens the slave, so that the master has one.
func (f *Forwarder) hold(now time.Time) {
	if f.peer >= 0 {
		sys.Close(f.peer)
	}
	var err error
	f.peer, err = sys.PtyPeer(f.master, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK)
	f.retry = now.Add(hangupPause)
	if err != nil {
		// The machine may have claimed it for itself (TIOCEXCL).
		f.peer, f.retry = -1, now.Add(retryPause)
	}
}

// show writes to the user's side what it takes.
func (f *Forwarder) show() error {
	for f.toUser.len() > 0 && f.out.fd >= 0 && f.state != Hung {
		n, err := sys.Write(f.out.fd, f.toUser.bytes())
		switch {
		case err == unix.EAGAIN, err == nil && n == 0:
			return nil
		case err == unix.EPIPE, err == unix.EIO:
			f.hang()
			return nil
		case err != nil:
			f.hang()
			return &OutputError{"write the machine's output", err}
		}
		f.toUser.drop(n)
	}
	return nil
}

// take reads what was typed, once.
func (f *Forwarder) take(now time.Time) error {
	room := f.inRoom() - f.toMachine.len()
	full := room == 0
	if full {
		room = chunk
	}
	n, err := sys.Read(f.in.fd, f.scratch[:min(room, chunk)])
	switch {
	case err == unix.EAGAIN:
		return nil
	case err == nil && f.in.term && f.c.Mode == Lines && (n > 0 || !hungUp(f.in.fd)):
		f.taken = now
		f.toMachine.append(f.scratch[:n])
		if n == 0 || f.scratch[n-1] != '\n' {
			// ^D was typed: it hands over the line that was begun, or none.
			f.toMachine.append([]byte{f.eofKey()})
		}
		return nil
	case err == unix.EIO, err == nil && n == 0 && f.in.term:
		f.hang()
		return nil
	case err != nil:
		f.endInput(now)
		return fmt.Errorf("read console input: %w", err)
	case n == 0:
		f.endInput(now)
		return nil
	}
	b := f.scratch[:n]
	// A file may hold any bytes; only who sits at a terminal means hotkeys.
	if f.in.term && f.c.Hotkey != nil {
		b = f.keys.filter(b, now)
	}
	if full {
		return nil
	}
	if f.toMachine.len() == 0 {
		f.taken = now
	}
	f.toMachine.append(b)
	return nil
}

// eofKey is what says ^D to the machine's terminal.
func (f *Forwarder) eofKey() byte {
	if t, err := sys.TermGet(f.master); err == nil && t.Cc[unix.VEOF] != 0 {
		return t.Cc[unix.VEOF]
	}
	return 4
}

// feed writes to the machine what it takes.
func (f *Forwarder) feed(now time.Time) error {
	for f.toMachine.len() > 0 && !now.Before(f.retry) {
		b := f.toMachine.bytes()
		n, err := sys.Write(f.master, b)
		switch {
		case err == unix.EAGAIN, err == nil && n == 0:
			return nil
		case err == unix.EIO:
			f.hold(now)
			return nil
		case err != nil:
			return f.fail(now, "write to console", err)
		}
		f.failed = 0
		f.lastIn, f.taken = b[n-1], now
		f.toMachine.drop(n)
		if f.inEnded {
			f.eofDue = f.eofTime(now)
		}
	}
	return nil
}

// A pipe that has ended stays ended: every read of it tells so. A terminal has
// no such state, only a key (VEOF, ^D) that ends one read of one program. So
// the end of input is told by that key, after all input was taken and output
// was silent, and again and again as long as a program reads it away, with
// growing pauses. Told too early, it would be swallowed by a program that only
// just starts, or by a shell that changes the terminal's mode between commands.

func (f *Forwarder) endInput(now time.Time) {
	f.inEnded = true
	f.eofLast, f.eofDelay, f.eofCheck = now, idle, idle
	f.eofDue = f.eofTime(now)
}

// eofTime is when the end is told, if nothing happens from now on.
func (f *Forwarder) eofTime(now time.Time) time.Time {
	earliest := f.eofLast.Add(f.eofDelay)
	latest := earliest.Add(busy)
	t := now.Add(idle)
	if t.Before(earliest) {
		return earliest
	}
	if t.After(latest) {
		return latest
	}
	return t
}

func (f *Forwarder) tellsEOF() bool {
	return f.inEnded && f.state != Hung && f.toMachine.len() == 0
}

func (f *Forwarder) tellEOF(now time.Time) {
	if !f.tellsEOF() || now.Before(f.eofDue) {
		return
	}
	f.eofDue = now.Add(f.eofCheck)
	f.eofCheck = min(2*f.eofCheck, eofLook)
	if f.peer < 0 {
		f.hold(now)
		return
	}
	// Is something still unread? An end told earlier counts too.
	p := [1]unix.PollFd{{Fd: int32(f.peer), Events: unix.POLLIN}}
	if n, err := sys.Poll(p[:], 0); n != 0 || err != nil {
		if p[0].Revents&unix.POLLHUP != 0 {
			f.hold(now) // a getty hung up everybody, and the peer too
		}
		return
	}
	t, err := sys.TermGet(f.master)
	if err != nil || t.Cc[unix.VEOF] == 0 {
		return
	}
	keys := []byte{t.Cc[unix.VEOF]}
	if t.Lflag&unix.ICANON != 0 && f.lastIn != '\n' && f.lastIn != 0 {
		// The first one only hands over the line that was begun.
		keys = append(keys, keys[0])
	}
	if n, err := sys.Write(f.master, keys); err != nil || n == 0 {
		return
	}
	f.lastIn = 0
	f.eofDelay = min(4*f.eofDelay, eofPause)
	f.eofLast, f.eofDue = now, now.Add(f.eofDelay)
}

// Drain passes on what the machine wrote before it ended. It waits for a slow
// reader, at most as long as limit; what is lost then is an error.
func (f *Forwarder) Drain(limit time.Duration) error {
	if f.restored {
		return nil
	}
	f.draining = true
	defer func() { f.draining = false }()
	deadline := f.c.Now().Add(limit)
	for got := 0; ; {
		now := f.c.Now()
		had := f.toUser.len()
		done, err := f.fetch(now)
		if f.state == Lost {
			return err
		}
		if err != nil || f.failed > 0 {
			continue
		}
		got += f.toUser.len() - had
		if err := f.show(); err != nil {
			return err
		}
		late := now.After(deadline)
		if f.toUser.len() == 0 {
			// Somebody who outlived the machine may write for ever.
			if done || late || got >= drainRoom {
				return nil
			}
			continue
		}
		if late {
			return fmt.Errorf("write the machine's output: %d bytes are lost: %w", f.toUser.len(), unix.ETIMEDOUT)
		}
		wait := (deadline.Sub(now) + time.Millisecond) / time.Millisecond
		if _, err := sys.Poll([]unix.PollFd{{Fd: int32(f.out.fd), Events: unix.POLLOUT}}, int(wait)); err != nil {
			return fmt.Errorf("wait for the machine's output: %w", err)
		}
	}
}

// Suspend gives the terminal back its settings, before the launcher stops
// itself.
func (f *Forwarder) Suspend() {
	f.out.restoreTerm()
	f.in.restoreTerm()
}

// Resume takes the terminal again, after the launcher was stopped and goes on
// (SIGCONT), also if it was stopped without Suspend.
func (f *Forwarder) Resume() error {
	if f.restored {
		return nil
	}
	f.look(f.c.Now())
	if err := f.setTerms(); err != nil {
		return err
	}
	return f.Resize()
}

// Restore gives the local terminal back as it was; the Forwarder is of no use
// after it. It may be called more than once, and belongs into a defer, so that
// a panic finds a usable terminal too.
func (f *Forwarder) Restore() {
	if f == nil || f.restored {
		return
	}
	f.restored = true
	if f.out.term && f.state != Hung {
		var s string
		if f.c.Reset {
			s = reset
		}
		if f.c.Title != "" {
			s += titleOff
		}
		if s != "" {
			sys.Write(f.out.fd, []byte(s)) // best effort: the terminal may be stopped
		}
	}
	raw := f.in.raw
	f.Suspend()
	if raw {
		// What was typed and not yet read was meant for the machine, or is a
		// terminal's answer to what the machine wrote. The host's shell must
		// not run it.
		sys.TermFlush(f.in.fd)
	}
	f.out.close()
	f.in.close()
	if f.peer >= 0 {
		sys.Close(f.peer)
		f.peer = -1
	}
}
