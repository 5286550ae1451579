package container

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/sys"
	"launch/settings"
)

// Caller looks at what a container takes from who makes it, and at no more:
// this is on the way of every start.
func Caller() (facts.Host, error) {
	h := facts.Host{Known: true, Root: unix.Geteuid() == 0, Kcore: true}
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/self/status", 1<<16)
	if err != nil {
		return h, fmt.Errorf("read /proc/self/status: %w", err)
	}
	s := string(text)
	// What isn't permitted can't be passed on.
	h.Caps = facts.StatusMask(s, "CapBnd:") & facts.StatusMask(s, "CapPrm:")
	h.Ignored = facts.StatusMask(s, "SigIgn:")
	h.Raise = facts.StatusMask(s, "CapEff:")>>unix.CAP_SYS_RESOURCE&1 == 1
	// Go raised our own soft limit of open files; the parent has the one that
	// we were started with.
	own, err := sys.Getrlimit(unix.RLIMIT_NOFILE)
	if err != nil {
		return h, fmt.Errorf("get the limit of open files: %w", err)
	}
	if theirs, err := sys.RlimitOf(os.Getppid(), unix.RLIMIT_NOFILE); err == nil && theirs[0] <= own[1] {
		own[0] = theirs[0]
	}
	h.Limits[unix.RLIMIT_NOFILE] = own
	return h, nil
}

// labels finds out which security modules there are, if the process or the
// mounts have labels of theirs.
func labels(h *facts.Host, s *settings.Settings) {
	x := s.Exec.Process
	if x == nil || x.AppArmor == "" && x.SELinux == "" && s.Bundle.MountLabel == "" {
		return
	}
	there := func(name string) bool {
		_, err := sys.Statx(unix.AT_FDCWD, name, unix.STATX_TYPE)
		return err == nil
	}
	h.SELinux = there("/sys/fs/selinux/enforce")
	on, err := sys.ReadFile(unix.AT_FDCWD, "/sys/module/apparmor/parameters/enabled", 16)
	h.AppArmor = err == nil && strings.HasPrefix(string(on), "Y")
}
