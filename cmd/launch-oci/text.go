package main

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
	"launch/oci/bundle"
)

// textVariable names the descriptor of a text that the start before this one
// has read: what comes through a pipe is there once, and this program may have
// to start itself again.
const textVariable = "_LAUNCH_OCI_TEXT"

// piped is a text that can't be read a second time.
var piped []byte

// readText reads a file that an option names, which may be a pipe.
func readText(file string) ([]byte, error) {
	if n, err := strconv.Atoi(os.Getenv(textVariable)); err == nil {
		// By descriptor: there are users to whom /proc/self/fd isn't open.
		if _, err := sys.Seek(n, 0, unix.SEEK_SET); err != nil {
			return nil, err
		}
		return sys.ReadAll(n, bundle.Limit)
	}
	n, err := sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	text, err := sys.ReadAll(n, bundle.Limit)
	if err != nil {
		return nil, err
	}
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		piped = text
	}
	return text, err
}

// carry leaves the text of a pipe to the next start of this program.
func carry() error {
	if piped == nil {
		return nil
	}
	n, err := sys.MemfdCreate("text", 0)
	if err != nil {
		return err
	}
	if m, err := sys.Pwrite(n, piped, 0); err != nil || m < len(piped) {
		return errors.Join(err, unix.EIO)
	}
	// A second descriptor, which isn't closed when a program is executed.
	kept, err := sys.Dup(n)
	if err == nil {
		err = sys.Dup3(n, kept, 0)
	}
	if err != nil {
		return err
	}
	return os.Setenv(textVariable, strconv.Itoa(kept))
}
