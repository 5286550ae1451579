package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// TermGet gives the settings of a terminal; ENOTTY says that the descriptor is
// none. Asked of a pty's master, the settings are the slave's.
func TermGet(n int) (unix.Termios, error) {
	var t unix.Termios
	err := IoctlPtr(n, unix.TCGETS, unsafe.Pointer(&t))
	return t, err
}

// TermSet changes the settings of a terminal at once, without waiting for
// output that a stopped terminal might never take.
func TermSet(n int, t *unix.Termios) error {
	return IoctlPtr(n, unix.TCSETS, unsafe.Pointer(t))
}

// TermFlush throws away what was typed at a terminal and not yet read.
func TermFlush(n int) error {
	_, err := Ioctl(n, unix.TCFLSH, unix.TCIFLUSH)
	return err
}

// TermSize gives a terminal's size in characters and pixels; 0 is unknown.
func TermSize(n int) (unix.Winsize, error) {
	var w unix.Winsize
	err := IoctlPtr(n, unix.TIOCGWINSZ, unsafe.Pointer(&w))
	return w, err
}

// SetTermSize sets a terminal's size; when it changes, the terminal's
// foreground processes get SIGWINCH.
func SetTermSize(n int, w unix.Winsize) error {
	return IoctlPtr(n, unix.TIOCSWINSZ, unsafe.Pointer(&w))
}

// PtyUnlock lets the slave of a master be opened.
func PtyUnlock(master int) error {
	var locked int32
	return IoctlPtr(master, unix.TIOCSPTLCK, unsafe.Pointer(&locked))
}

// PtyNumber gives the slave's name in its devpts.
func PtyNumber(master int) (int, error) {
	var n uint32
	err := IoctlPtr(master, unix.TIOCGPTN, unsafe.Pointer(&n))
	return int(n), err
}

// PtyPeer opens the slave of a master without looking up any path. O_CLOEXEC
// is always added.
func PtyPeer(master int, flags int) (int, error) {
	return result(call("ioctl", unix.SYS_IOCTL, fd(master), unix.TIOCGPTPEER, uintptr(flags|unix.O_CLOEXEC), 0, 0, 0))
}

// StatusFlags gives the flags of an open file description (O_NONBLOCK,
// O_APPEND, …), which everybody shares who inherited the descriptor.
func StatusFlags(n int) (int, error) {
	return result(call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_GETFL, 0, 0, 0, 0))
}

// DescriptorFlags gives FD_CLOEXEC, or nothing.
func DescriptorFlags(n int) (int, error) {
	return result(call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_GETFD, 0, 0, 0, 0))
}

// SetStatusFlags sets them.
func SetStatusFlags(n int, flags int) error {
	_, err := call("fcntl", unix.SYS_FCNTL, fd(n), unix.F_SETFL, uintptr(flags), 0, 0, 0)
	return err
}

// InBackground reports whether a terminal is the caller's controlling one and
// has another process group in front, so that reading it, or changing its
// settings, would stop the caller.
func InBackground(n int) bool {
	var front int32
	if IoctlPtr(n, unix.TIOCGPGRP, unsafe.Pointer(&front)) != nil {
		return false // no terminal of ours
	}
	own, err := call("getpgid", unix.SYS_GETPGID, 0, 0, 0, 0, 0, 0)
	return err == nil && front != 0 && front != int32(own)
}
