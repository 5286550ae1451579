// Package console is the machine's terminal as seen from outside: it makes the
// pty, and passes bytes between it and the terminal the user sits at.
//
// It guarantees that the pty comes from the machine's own devpts, by
// descriptor and without any path; that the user's own terminal is never
// handed to the machine, and is as it was before once Restore has run; that no
// call blocks, except Drain, which is bounded; and that nothing is lost between
// machine and user while both live, however slow one of them is.
//
// It refuses to know what a machine is, when one ends and what a hotkey does:
// the caller owns the loop, waits on Fds, and is told by Handle. It writes
// nothing but the machine's bytes, the title and the terminal reset that it
// was asked for. What the machine writes is passed on as it is, with every
// escape sequence: that is what a terminal is for. Names that the launcher
// itself shows go through Printable.
//
//	f, err := console.New(console.Config{In: 0, Out: 1, Master: pty.Master, Mode: console.Interactive})
//	defer f.Restore()
//	for !ended {
//		fds = f.Fds(append(fds[:0], own...))
//		sys.Poll(fds, f.Timeout())
//		state, err := f.Handle(fds[len(own):])
//		…
//	}
//	f.Drain(time.Second)
//
// Room: host.
package console

import (
	"fmt"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Pty is a pair of descriptors, both close-on-exec: the launcher keeps the
// master, the machine gets the slave. Number is the slave's name in the
// machine's devpts.
type Pty struct {
	Master, Slave int
	Number        int
}

// A devpts numbers its slaves as minors of this one major.
const slaveMajor = 136

// Open makes a pty in the devpts that the descriptor is (the root of an
// attached or of a still detached mount).
//
// The devpts may already be in reach of the machine, or belong to another one
// that was restarted, so nothing is believed: the descriptor must be a devpts,
// the slave comes from the master and not from a name (a name can be swapped,
// CVE-2025-52565), and what came is looked at.
func Open(devpts int) (Pty, error) {
	none := Pty{Master: -1, Slave: -1}
	if err := isDevpts(devpts); err != nil {
		return none, fmt.Errorf("open ptmx: %w", err)
	}
	master, err := sys.Openat(devpts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return none, fmt.Errorf("open ptmx: %w", err)
	}
	p := Pty{Master: master, Slave: -1}
	if err := isDevpts(master); err != nil {
		p.Close()
		return none, fmt.Errorf("open ptmx: %w", err)
	}
	// Locked, the slave cannot be opened by anybody.
	if err := sys.PtyUnlock(master); err != nil {
		p.Close()
		return none, fmt.Errorf("unlock pty: %w", err)
	}
	if p.Number, err = sys.PtyNumber(master); err != nil {
		p.Close()
		return none, fmt.Errorf("ask number of pty: %w", err)
	}
	if p.Slave, err = sys.PtyPeer(master, unix.O_RDWR|unix.O_NOCTTY); err != nil {
		p.Close()
		return none, fmt.Errorf("open slave of pty: %w", err)
	}
	if err := isSlave(p.Slave, p.Number); err != nil {
		p.Close()
		return none, fmt.Errorf("open slave of pty: %w", err)
	}
	return p, nil
}

// Own gives the slave to the machine's root and tty group, in the numbers of
// the caller's user namespace: devpts made it the launcher's own, who is
// nobody inside.
func (p Pty) Own(uid, gid uint32) error {
	if err := sys.Fchownat(p.Slave, "", uid, gid); err != nil {
		return fmt.Errorf("change owner of console: %w", err)
	}
	return nil
}

// Fit gives it the size of the first of the descriptors that is a terminal with
// a size, else the size that is given.
func (p Pty) Fit(like []int, columns, lines uint16) error {
	w := unix.Winsize{Col: columns, Row: lines}
	for _, n := range like {
		if l, err := sys.TermSize(n); err == nil && l.Col != 0 && l.Row != 0 {
			w = l
			break
		}
	}
	return sys.SetTermSize(p.Master, w)
}

// Silence turns its echo off: who types sees it already.
func (p Pty) Silence() error {
	t, err := sys.TermGet(p.Master)
	if err == nil {
		t.Lflag &^= unix.ECHO
		err = sys.TermSet(p.Master, &t)
	}
	return err
}

// CloseSlave closes the slave, once the machine has it.
func (p *Pty) CloseSlave() {
	if p.Slave >= 0 {
		sys.Close(p.Slave)
	}
	p.Slave = -1
}

// Close closes both ends.
func (p *Pty) Close() {
	p.CloseSlave()
	if p.Master >= 0 {
		sys.Close(p.Master)
	}
	p.Master = -1
}

func isDevpts(n int) error {
	fs, err := sys.Fstatfs(n)
	if err != nil {
		return err
	}
	if fs.Type != unix.DEVPTS_SUPER_MAGIC {
		return fmt.Errorf("not on a devpts (file system type %#x)", fs.Type)
	}
	return nil
}

func isSlave(n, number int) error {
	if err := isDevpts(n); err != nil {
		return err
	}
	st, err := sys.Statx(n, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev_major != slaveMajor || st.Rdev_minor != uint32(number) {
		return fmt.Errorf("not slave %d (mode %#o, device %d:%d)", number, st.Mode, st.Rdev_major, st.Rdev_minor)
	}
	return nil
}
