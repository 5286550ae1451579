// Package criu asks CRIU to write processes into files and to bring them back.
//
// It guarantees that CRIU gets the descriptors it is to have and no others, is
// ended with its caller, and that an error has what CRIU said last. It refuses
// to know containers.
//
//	c, err := criu.Start(l, path, criu.With{})
//	defer c.Close()
//	pid, err := c.Do(criu.Dump, &criu.Options{…}, nil)
//
// Room: host.
package criu

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/sys"
)

// Kind is what CRIU is asked for.
type Kind uint64

// The kinds of requests.
const (
	Dump    Kind = 1
	Restore Kind = 2
	PreDump Kind = 4
	notify  Kind = 6
	version Kind = 10
)

func (k Kind) String() string {
	switch k {
	case Dump:
		return "dump"
	case Restore:
		return "restore"
	case PreDump:
		return "pre-dump"
	}
	return "answer"
}

// Least is the oldest CRIU that restores mounts as they are made here.
const Least = 40000

// ErrNone: there is no CRIU.
var ErrNone = errors.New("there is no program criu in PATH: install CRIU 4.0 or newer, or name it with --criu=")

// Find gives CRIU's path.
func Find(search string) (string, error) {
	for dir := range strings.SplitSeq(search, ":") {
		file := path.Join(dir, "criu")
		if !path.IsAbs(file) {
			continue
		}
		if st, err := sys.Statx(unix.AT_FDCWD, file, unix.STATX_TYPE|unix.STATX_MODE); err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return file, nil
		}
	}
	return "", ErrNone
}

const (
	socketFd       = 3
	firstInherited = 4
)

// Inherited is the number that CRIU has the i-th descriptor of With.Inherit by.
func Inherited(i int) int { return firstInherited + i }

// With is what a CRIU is started with.
type With struct {
	// Inherit are descriptors that it passes on to what it restores.
	Inherit []int
	Env     []string
	// Cgroup is where it and what it restores are born; -1: where the caller is.
	Cgroup int
	// Placed, if there is one, may put it into a cgroup before it begins.
	Placed func(pid int) error
	// Rooted: it is in a cgroup namespace that begins at its cgroup, and so is
	// what it restores.
	Rooted bool
}

// CRIU is a running one. It serves one request.
type CRIU struct {
	proc *child.Process
	fd   int
}

// Start runs CRIU in the namespaces of the thread.
func Start(l sys.Locked, file string, w With) (*CRIU, error) {
	ours, theirs, err := sys.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET)
	if err != nil {
		return nil, fmt.Errorf("make a socket for CRIU: %w", err)
	}
	defer sys.Close(theirs)
	p := child.New(14 + 2*len(w.Inherit))
	p.Add("die with the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL))
	// Out of the way first, of numbers that are still to be given.
	const apart = 1 << 9
	var moved []int
	defer func() {
		for _, n := range moved {
			sys.Close(n)
		}
	}()
	for i, n := range append([]int{theirs}, w.Inherit...) {
		to, err := sys.DupAbove(n, apart)
		if err != nil {
			sys.Close(ours)
			return nil, fmt.Errorf("move a descriptor for CRIU: %w", err)
		}
		moved = append(moved, to)
		p.Add("pass on a descriptor", unix.SYS_DUP3, uintptr(to), uintptr(socketFd+i), 0)
	}
	p.Add("close all other descriptors", unix.SYS_CLOSE_RANGE, uintptr(firstInherited+len(w.Inherit)), ^uintptr(0)>>32, 0)
	if w.Placed != nil {
		var one byte
		p.Add("wait for the launcher", unix.SYS_READ, socketFd, child.Keep(p, &one), 1).NeedResult()
	}
	if w.Rooted {
		p.Add("unshare the cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	p.Add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	p.Add("execute "+file, unix.SYS_EXECVE, p.String(file), p.Strings("criu", "swrk", fmt.Sprint(socketFd)), p.Strings(w.Env...))
	o := child.Options{}
	if w.Cgroup > 0 {
		o.Cgroup = w.Cgroup
	}
	proc, err := child.Start(l, p, o)
	if err != nil {
		sys.Close(ours)
		return nil, fmt.Errorf("start CRIU: %w", err)
	}
	c := &CRIU{proc, ours}
	if w.Placed != nil {
		if err = w.Placed(proc.PID); err == nil {
			err = sys.WriteString(ours, "g")
		}
		if err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// Close ends CRIU.
func (c *CRIU) Close() {
	sys.Close(c.fd)
	sys.PidfdSignal(c.proc.Pidfd, int(unix.SIGKILL))
	sys.Wait(c.proc.Pidfd)
	sys.Close(c.proc.Pidfd)
}

// Version gives CRIU's version: 40200 is 4.2.
func (c *CRIU) Version() (int, error) {
	r, err := c.ask(version, nil, nil)
	return r.version, err
}

// Told is called at each stage, which CRIU has names for, with a descriptor if
// CRIU sent one, else -1. It is closed afterwards. An error ends it all.
type Told func(stage string, pid, fd int) error

// Do asks for something, and gives the process that was restored.
func (c *CRIU) Do(kind Kind, o *Options, told Told) (pid int, err error) {
	r, err := c.ask(kind, o.encode(), told)
	return r.pid, err
}

const (
	maxReply = 64 << 10
	// undoTime is how long CRIU may take, in ms, to undo what it did.
	undoTime = 3000
)

func (c *CRIU) ask(kind Kind, options message, told Told) (r reply, err error) {
	var m message
	m.number(1, uint64(kind))
	if options != nil {
		m.text(2, string(options))
	}
	var sent []int
	defer func() {
		for _, n := range sent {
			sys.Close(n)
		}
	}()
	for {
		if _, err := sys.Write(c.fd, m); err != nil {
			return r, c.gone(err)
		}
		got, err := c.receive()
		sent = append(sent, got.Fds...)
		if err != nil || len(got.Data) == 0 {
			return r, c.gone(err)
		}
		if r, err = parse(got.Data); err != nil {
			return r, err
		}
		if !r.success && r.kind != notify {
			e := &Failed{Kind: kind, Said: r.said}
			if r.errno > 0 {
				e.Errno = unix.Errno(r.errno)
			}
			return r, e
		}
		if r.kind != notify {
			if r.kind != kind {
				return r, errWire
			}
			return r, nil
		}
		if told != nil {
			fd := -1
			if len(got.Fds) > 0 {
				fd = got.Fds[0]
			}
			if err := told(r.script, r.about, fd); err != nil {
				// CRIU undoes what it did, once it knows.
				m = nil
				m.number(1, uint64(notify))
				m.number(3, 0)
				if _, werr := sys.Write(c.fd, m); werr == nil {
					fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
					sys.Poll(fds, undoTime)
				}
				return r, err
			}
		}
		m = nil
		m.number(1, uint64(notify))
		m.number(3, 1)
	}
}

// receive waits for a message.
func (c *CRIU) receive() (sys.Message, error) {
	for {
		// A signal may end the waiting.
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
		if _, err := sys.Poll(fds, -1); err != nil {
			return sys.Message{}, err
		}
		if fds[0].Revents != 0 {
			return sys.Receive(c.fd, maxReply, true)
		}
	}
}

// gone says why CRIU doesn't answer.
func (c *CRIU) gone(err error) error {
	if f := c.proc.Failure(); f != nil {
		return f
	}
	if err == nil || err == unix.ECONNRESET || err == unix.EPIPE {
		err = errors.New("it ended without an answer")
	}
	return fmt.Errorf("CRIU: %w", err)
}

// Failed is a request that CRIU could not fulfil.
type Failed struct {
	Kind  Kind
	Errno unix.Errno // 0: it gave none
	Said  string
	// Log is the first error in its log, if there was one, and File the log's
	// name.
	Log, File string
}

func (e *Failed) Error() string {
	text := "CRIU could not " + e.Kind.String()
	if why := cmp.Or(e.Log, strings.TrimSpace(e.Said)); why != "" {
		text += ": " + why
	}
	if e.Errno != 0 && e.Said == "" && e.Log == "" {
		text += ": " + e.Errno.Error()
	}
	if e.File != "" {
		text += " (see " + e.File + ")"
	}
	return text
}

// FirstError gives the first error in the text of a log that says why it
// failed.
func FirstError(log string) string {
	for line := range strings.Lines(log) {
		_, text, ok := strings.Cut(line, "Error (")
		if !ok || strings.Contains(text, "RLIMIT_NOFILE") {
			continue // which it can do without
		}
		if _, after, ok := strings.Cut(text, "): "); ok {
			text = after
		}
		return strings.TrimSpace(text)
	}
	return ""
}
