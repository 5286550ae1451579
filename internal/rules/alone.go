package rules

import (
	"os"
	"path/filepath"
	"syscall"
)

// Alone waits until no other test on this host starts machines of the names
// that documents use, and keeps others waiting until the function that it
// gives is called. Test binaries of several packages run at once, and a
// machine's name can be taken only once.
func Alone() (done func(), err error) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "launch-test-names.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
