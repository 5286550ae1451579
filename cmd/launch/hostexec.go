package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/cli"
	"launch/internal/sys"
	"launch/mount/hostns"
	"launch/settings"
)

// hostExec is `launch host-exec [--nested] [--] COMMAND [ARGUMENT…]`: it becomes
// the command, in the host's mount namespace.
func hostExec(words, env []string) int {
	const usage = "launch host-exec [--nested] -- COMMAND [ARGUMENT…]"
	var o hostns.Options
	if len(words) > 0 && words[0] == "--nested" {
		o.Nested, words = true, words[1:]
	}
	var err error
	switch {
	case len(words) > 0 && words[0] == "--":
		words = words[1:]
		err = hostns.Exec(words, env, o)
	case len(words) > 0 && strings.HasPrefix(words[0], "-"):
		err = &hostns.Error{Status: hostns.Failed, What: "host-exec has no option " + words[0], Hint: usage}
	default:
		err = hostns.Exec(words, env, o)
	}
	var bad *hostns.Error
	if !errors.As(err, &bad) {
		bad = &hostns.Error{Status: hostns.Failed, What: err.Error()}
	}
	if len(words) == 0 {
		bad.Hint = usage
	}
	cli.Report(os.Stderr, &settings.Error{What: bad.Error(), Hint: bad.Hint})
	log(bad.Error())
	return bad.Status
}

// log leaves a line in the system's log, if there is one and it has room. Who
// starts installers from a service looks there, and not at standard error.
func log(text string) {
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer sys.Close(n)
	const userErr = 1<<3 | 3 // facility and priority of syslog
	_ = sys.SendUnix(n, fmt.Appendf(nil, "<%d>launch[%d]: host-exec: %s", userErr, os.Getpid(), text), "/dev/log")
}
