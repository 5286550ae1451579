package engine

import (
	"fmt"
	"math/bits"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/child"
	"launch/internal/plan"
	"launch/internal/state"
	"launch/internal/sys"
	"launch/settings"
)

// receiver is a systemd-journal-remote that takes what the machine's journal hands
// on, for one start of the machine.
//
// It gets the socket that it listens on, and parses what the machine sends: so it
// keeps no other descriptor, and of all rights only the one to write where it is
// told to, whoever owns that. A thread of its own is its parent, which stays until
// the machine has ended: when the launcher is killed, so is that thread, and the
// kernel tells the program to end. It isn't killed at once, for its file to be
// closed as it should be. Who doesn't end then is in the journal, for the next start
// or a clean-up.
type receiver struct {
	number int // of the step
	step   plan.Step
	socket int // that it listens on; -1 when nobody else has it any more
	said   int // what it says; -1: nothing yet
	thread *Thread
	proc   *child.Process
	runs   bool // it has answered
	ended  bool // and nobody waits for it any more
	// own are sockets that it had when the machine wasn't there yet; nil: unknown.
	own []string
}

const (
	// soon is how long it may take until it answers.
	soon = 10 * time.Second
	// rest is how long it may take to write down what is left.
	rest = 5 * time.Second
	// backlog is how many connections may wait.
	backlog = 128
)

// receive makes the socket, which belongs to the machine's root. The program comes
// later, when the launcher is in its cgroup.
func (s *supervisor) receive(number int, step plan.Step) error {
	if err := mkdirAll(step.Source.Path, step.Mode, step.Mode); err != nil {
		return err
	}
	dir, err := sys.Openat(unix.AT_FDCWD, step.Source.Path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == unix.ENOTDIR {
		return &settings.Error{What: "cannot forward the machine's journal: " + step.Source.Path + " is no directory", Origin: step.Origin,
			Hint: "give a directory, or the name of a file that ends in .journal"}
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", step.Source.Path, err)
	}
	sys.Close(dir)
	if err := mkdirAll(path.Dir(step.Path), 0o755, 0o755); err != nil {
		return err
	}
	if err := s.state.Record(state.File, step.Path); err != nil {
		return err
	}
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("make a socket for the journal: %w", err)
	}
	s.receiver = &receiver{number: number, step: step, socket: n, said: -1}
	if err = sys.BindUnix(n, step.Path); err == nil {
		err = sys.Fchmodat(unix.AT_FDCWD, step.Path, 0o644)
	}
	if u := s.plan.Users; err == nil && u.Private() {
		err = sys.Fchownat(unix.AT_FDCWD, step.Path, u.Range.Start, u.Range.Start)
	}
	if err == nil {
		err = sys.Listen(n, backlog)
	}
	if err != nil {
		return fmt.Errorf("make the socket %s: %w", step.Path, err)
	}
	return nil
}

// received starts the program, if there is to be one, and waits until it answers.
func (s *supervisor) received() error {
	r := s.receiver
	if r == nil {
		return nil
	}
	err := r.start(s.state, s.plan.HostCaps)
	if err == nil {
		err = r.ask(soon)
	}
	if err == nil {
		r.own, err = r.sockets()
	}
	if err != nil {
		return &StepError{r.number, r.step.Origin, fmt.Errorf("receive the machine's journal: %s: %w", path.Base(r.step.Args[0]), err)}
	}
	r.runs = true
	// If it ends, nobody listens, and who connects is told so.
	sys.Close(r.socket)
	r.socket = -1
	return nil
}

func (r *receiver) start(st *state.Machine, caps uint64) error {
	var open []int
	defer func() {
		for _, n := range open {
			sys.Close(n)
		}
	}()
	gate, goW, err := sys.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	open = append(open, gate, goW)
	said, saidW, err := sys.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	r.said = said
	open = append(open, saidW)
	// What it says is read when it has ended, and it must not wait for that.
	if err := sys.SetStatusFlags(saidW, unix.O_WRONLY|unix.O_NONBLOCK); err != nil {
		return fmt.Errorf("set up a pipe: %w", err)
	}
	null, err := sys.Openat(unix.AT_FDCWD, "/dev/null", unix.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	open = append(open, null)
	const apart, first = 1 << 9, 3 // SD_LISTEN_FDS_START
	socket, err := sys.DupAbove(r.socket, apart)
	if err != nil {
		return fmt.Errorf("move the socket: %w", err)
	}
	open = append(open, socket)

	p := child.New(24)
	var one byte
	p.Add("end with the launcher", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM))
	p.Add("close the other end of the pipe", unix.SYS_CLOSE, uintptr(goW))
	p.Add("wait for the launcher", unix.SYS_READ, uintptr(gate), child.Keep(p, &one), 1).NeedResult()
	r.thread = NewThread()
	if err := r.thread.run(func(l sys.Locked) (err error) {
		r.proc, err = child.Start(l, p, child.Options{})
		return err
	}); err != nil {
		return fmt.Errorf("clone a process: %w", err)
	}
	// Here: it waits, and ends if we do. Now that it has a number, that is noted
	// before it becomes anything.
	began, err := state.StartTime(r.proc.PID)
	if err != nil {
		if f := r.proc.Failure(); f != nil {
			return f
		}
		return fmt.Errorf("look at process %d: %w", r.proc.PID, err)
	}
	if err := st.Record(state.Process, fmt.Sprintf("/%d/%d", r.proc.PID, began)); err != nil {
		return err
	}
	caps &= 1 << unix.CAP_DAC_OVERRIDE
	hdr := &unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	data := &[2]unix.CapUserData{{Effective: uint32(caps), Permitted: uint32(caps), Inheritable: uint32(caps)}}
	const noRoot, noRootLocked = 1 << 0, 1 << 1
	p.Add("set up standard input", unix.SYS_DUP3, uintptr(null), 0, 0)
	p.Add("set up standard output", unix.SYS_DUP3, uintptr(saidW), 1, 0)
	p.Add("set up standard error", unix.SYS_DUP3, uintptr(saidW), 2, 0)
	p.Add("pass on the socket", unix.SYS_DUP3, uintptr(socket), first, 0)
	p.Add("close all other descriptors", unix.SYS_CLOSE_RANGE, first+1, ^uintptr(0)>>32, 0)
	// A key that is pressed for the launcher is not for this one.
	p.Add("leave the session", unix.SYS_SETSID)
	p.Add("go to the root", unix.SYS_CHDIR, p.String("/"))
	if own := fileLimit(); own != nil {
		p.Add("set the limit of open files", unix.SYS_PRLIMIT64, 0, unix.RLIMIT_NOFILE, child.Keep(p, own), 0)
	}
	p.Add("get no rights by being root", unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noRoot|noRootLocked, 0, 0, 0)
	p.Add("give up the capabilities", unix.SYS_CAPSET, child.Keep(p, hdr), child.Keep(p, data))
	if caps != 0 {
		p.Add("keep a capability", unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(bits.TrailingZeros64(caps)), 0, 0)
	}
	p.Add("get no new privileges", unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	// Nobody reads what it says when the launcher was killed, and it has to close its
	// file afterwards. The kernel's struct sigaction: handler, flags, restorer, mask.
	ignore := [4]uint64{1} // SIG_IGN
	p.Add("set a signal to be ignored", unix.SYS_RT_SIGACTION, uintptr(unix.SIGPIPE), child.Keep(p, &ignore), 0, 8)
	p.Add("unblock signals", unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, child.Keep(p, new(uint64)), 0, 8)
	p.Add("exec "+r.step.Args[0], unix.SYS_EXECVE, p.String(r.step.Args[0]), p.Strings(r.step.Args...), p.Strings(
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "SYSTEMD_LOG_TARGET=console",
		// What the host has set up for other senders is not for this one.
		"SYSTEMD_JOURNAL_REMOTE_CONFIG_FILE=/dev/null",
		"LISTEN_FDS=1", "LISTEN_PID="+strconv.Itoa(r.proc.PID)))
	if err := sys.WriteString(goW, "g"); err != nil {
		return fmt.Errorf("let it begin: %w", err)
	}
	return nil
}

// ask connects, says nothing, and waits until that connection is taken: then all that
// came before are, too.
func (r *receiver) ask(most time.Duration) error {
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer sys.Close(n)
	if err := sys.SendTimeout(n, most); err != nil {
		return fmt.Errorf("set up a socket: %w", err)
	}
	if err := sys.ConnectUnix(n, r.step.Path); err != nil {
		return fmt.Errorf("connect to %s: %w", r.step.Path, err)
	}
	if err := sys.Shutdown(n, unix.SHUT_WR); err != nil {
		return fmt.Errorf("end a connection: %w", err)
	}
	fds := []unix.PollFd{{Fd: int32(n), Events: unix.POLLIN}, {Fd: int32(r.proc.Pidfd), Events: unix.POLLIN}}
	for end := time.Now().Add(most); ; {
		left := int(time.Until(end) / time.Millisecond)
		if left <= 0 {
			return fmt.Errorf("it did not answer within %v", most)
		}
		if _, err := sys.Poll(fds, left); err != nil {
			return fmt.Errorf("wait for its answer: %w", err)
		}
		if fds[1].Revents != 0 {
			if err := r.reap(); err != nil {
				return err
			}
			return fmt.Errorf("it has ended")
		}
		if fds[0].Revents != 0 {
			return nil
		}
	}
}

// sockets lists the sockets that it has open.
func (r *receiver) sockets() (list []string, err error) {
	at := procPath(r.proc.PID, "fd")
	dir, err := sys.Openat(unix.AT_FDCWD, at, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", at, err)
	}
	defer sys.Close(dir)
	names, err := sys.Names(dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", at, err)
	}
	for _, name := range names {
		to, err := sys.Readlinkat(dir, name)
		if err != nil && err != unix.ENOENT { // closed meanwhile
			return nil, fmt.Errorf("read %s/%s: %w", at, name, err)
		}
		if strings.HasPrefix(to, "socket:") {
			list = append(list, to)
		}
	}
	return list, nil
}

// finish waits until it has heard the last of everybody.
func (r *receiver) finish(most time.Duration) error {
	end := time.Now().Add(most)
	if err := r.ask(most); err != nil {
		return err
	}
	for {
		list, err := r.sockets()
		if err != nil || !slices.ContainsFunc(list, func(s string) bool { return !slices.Contains(r.own, s) }) {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("it was not done within %v", most)
		}
		if _, err := sys.Poll([]unix.PollFd{{Fd: int32(r.proc.Pidfd), Events: unix.POLLIN}}, 2); err != nil {
			return fmt.Errorf("wait for it: %w", err)
		}
	}
}

// reap takes the end of the program, and gives it as an error, with what it said.
func (r *receiver) reap() error {
	code, status, err := sys.Wait(r.proc.Pidfd)
	r.ended = true
	if err != nil {
		return fmt.Errorf("wait for its end: %w", err)
	}
	if f := r.proc.Failure(); f != nil {
		return f
	}
	if code == cldExited && status == 0 {
		return nil
	}
	err = fmt.Errorf("exit status %d", status)
	if code != cldExited {
		err = fmt.Errorf("signal: %s", unix.SignalName(unix.Signal(status)))
	}
	if text := r.words(); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// words gives the beginning of what the program said, in one line.
func (r *receiver) words() string {
	n, err := sys.Unread(r.said)
	if err != nil || n == 0 {
		return ""
	}
	var buf [512]byte
	n, _ = sys.Read(r.said, buf[:min(n, len(buf))])
	return strings.Join(strings.Fields(strings.ToValidUTF8(string(buf[:max(n, 0)]), "?")), " ")
}

// pidfd is what becomes readable when the program ends; -1 if it has.
func (r *receiver) pidfd() int {
	if r == nil || r.ended {
		return -1
	}
	return r.proc.Pidfd
}

// lost is called when the program has ended, and the machine hasn't. It goes on:
// its journal keeps its own files.
func (s *supervisor) lost() {
	r := s.receiver
	err := r.reap()
	if err == nil {
		err = fmt.Errorf("exit status 0")
	}
	s.opt.Warn(fmt.Sprintf("%s ended (%v): what the machine's journal says is no longer forwarded", path.Base(r.step.Args[0]), err))
}

// JournalError says that the end of a machine's journal may not have reached the
// host. The machine itself may have done well.
type JournalError struct{ Err error }

func (e *JournalError) Error() string {
	return "the last lines of its journal may be missing: " + e.Err.Error()
}

// Unwrap gives the cause.
func (e *JournalError) Unwrap() error { return e.Err }

// unreceive ends the program, when all is written down that the machine has sent:
// a program that is asked to end does so at once.
func (s *supervisor) unreceive() error {
	r := s.receiver
	if r == nil {
		return nil
	}
	s.receiver = nil
	defer r.close()
	if r.proc == nil || r.ended {
		return nil
	}
	var err error
	if r.runs {
		err = r.finish(rest)
	}
	if !r.ended {
		gone, eerr := state.End(r.proc.Pidfd)
		if gone && eerr == nil {
			eerr = r.reap()
		}
		if err == nil && eerr != nil {
			err = fmt.Errorf("end it: %w", eerr)
		}
	}
	if err != nil && r.runs { // else the start failed, and has an error of its own
		return &JournalError{fmt.Errorf("%s: %w", path.Base(r.step.Args[0]), err)}
	}
	return nil
}

func (r *receiver) close() {
	for _, n := range []int{r.socket, r.said} {
		if n >= 0 {
			sys.Close(n)
		}
	}
	if r.proc != nil {
		sys.Close(r.proc.Pidfd)
	}
	if r.thread != nil {
		r.thread.end()
	}
}
