// Package hostns runs a command in the mount namespace of the host, from a
// privileged container that has the host's pid namespace; and it gives a
// program that runs on the host a mount namespace of its own.
//
// What it guarantees: nothing is run unless process 1 is the host's first
// process and sees other mounts than the caller; the command takes the caller's
// place, with its number, descriptors, environment and words. It refuses to
// know what the command is for, and never enters a namespace by anything but
// the descriptor that it has looked at.
//
//	path, args := hostns.Command("bootctl", "install")
//	cmd := exec.Cmd{Path: path, Args: args} // its main calls hostns.Exec
//
// Room: host.
package hostns

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// Name is what a program is called by that is to run its arguments in the
// host's mount namespace.
const Name = "exec-in-host-mount-namespace"

// Exit statuses, those of env(1) and nohup(1).
const (
	Failed        = 125 // the command could not be tried
	NotExecutable = 126 // it is there, and can't be executed
	NotFound      = 127 // it is not there
)

// Error is why a command was not run.
type Error struct {
	// Status is the exit status for it.
	Status int
	// What is wrong: verb and object, lower case.
	What string
	// Hint says what to do instead; may be empty.
	Hint string
	// Err is the cause; may be nil.
	Err error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.What
	}
	return fmt.Sprintf("%s: %v", e.What, e.Err)
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Command gives the program and the arguments, from the name on, of a process
// that runs the words in the host's mount namespace. The program is the calling
// one: its main hands over to Exec when it is called Name.
func Command(words ...string) (path string, args []string) {
	return self, append([]string{Name}, words...)
}

const self = "/proc/self/exe"

// Options are what else is said about the command.
type Options struct {
	// Nested: the host is a machine itself. Process 1 need not be the first of
	// the whole computer, which is all that can be told from inside.
	Nested bool
}

// Exec replaces the calling program by the command, whose first word is also
// its name, in the host's mount namespace and root directory. A command without
// a slash is looked for there, in the directories of PATH in env. It returns only
// *Error; after one that says 126 or 127, nothing of the caller has changed but
// the limit of open files, which is again what the program was started with.
func Exec(words, env []string, o Options) error {
	fail := func(what, hint string, err error) error { return &Error{Failed, what, hint, err} }
	switch {
	case len(words) == 0:
		return fail("no command to run in the host's mount namespace", "name one, with its arguments", nil)
	case words[0] == "":
		return fail("the command to run in the host's mount namespace has no name", "its first word is empty", nil)
	case slices.ContainsFunc(words, func(w string) bool { return strings.IndexByte(w, 0) >= 0 }):
		return fail("the command to run in the host's mount namespace has a NUL byte", "no program can be given one", nil)
	case os.Geteuid() != 0:
		return fail("cannot enter the host's mount namespace as this user", "run it as root", nil)
	}
	ns, err := host(o)
	if err != nil {
		return err
	}
	defer sys.Close(ns)
	return inside(ns, words, env)
}

// firstPID is the number of the kernel's first pid namespace, the same on every
// boot of every kernel. Process 1 of another one is the first of a container.
const firstPID = 0xeffffffc

// host opens the mount namespace of process 1, if that is the host's.
func host(o Options) (ns int, err error) {
	fail := func(what, hint string, err error) (int, error) { return -1, &Error{Failed, what, hint, err} }
	const share = "start the container with the host's pid namespace: podman run --pid=host, or $SYSTEMD_NSPAWN_SHARE_NS_PID=1 for launch"
	mnt, st, err := namespace("/proc/1/ns/mnt", unix.CLONE_NEWNS)
	switch {
	case err == nil:
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fail("may not look at the mount namespace of process 1", "start the container privileged: it takes CAP_SYS_PTRACE in the host's users", err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fail("the mount namespace of process 1 is not available", "there must be a proc file system on /proc", err)
	default:
		return fail("cannot open the mount namespace of process 1", "", err)
	}
	defer func() {
		if err != nil {
			sys.Close(mnt)
		}
	}()
	pid, first, err := namespace("/proc/1/ns/pid", unix.CLONE_NEWPID)
	if err != nil {
		return fail("cannot look at the pid namespace of process 1", "", err)
	}
	sys.Close(pid)
	if first.Ino != firstPID && !o.Nested {
		return fail("process 1 is a container's, not the host's: the host's pid namespace is missing", share, nil)
	}
	own, now, err := namespace("/proc/thread-self/ns/mnt", unix.CLONE_NEWNS)
	if err != nil {
		return fail("cannot look at our own mount namespace", "", err)
	}
	sys.Close(own)
	if st.Ino == now.Ino && st.Dev_major == now.Dev_major && st.Dev_minor == now.Dev_minor {
		return fail("process 1 has our own mount namespace: this is the host, or the host's pid namespace is missing",
			"on the host itself the command needs nothing in front of it; else "+share, nil)
	}
	return mnt, nil
}

// namespace opens a file that must be a namespace of that kind.
func namespace(file string, kind int) (n int, st unix.Statx_t, err error) {
	if n, err = sys.Openat(unix.AT_FDCWD, file, unix.O_RDONLY, 0); err != nil {
		return -1, st, err
	}
	got, err := sys.Ioctl(n, unix.NS_GET_NSTYPE, 0)
	if err == nil && got != kind {
		err = unix.EINVAL
	}
	if err != nil {
		sys.Close(n)
		return -1, st, fmt.Errorf("%s is no such namespace: %w", file, err)
	}
	if st, err = sys.Statx(n, "", unix.STATX_INO); err != nil {
		sys.Close(n)
	}
	return n, st, err
}

// inside enters the mount namespace and executes the command there. A failure
// leaves the caller's other threads where they were.
func inside(ns int, words, env []string) error {
	return sys.Apart(func(l sys.Locked) error { return enter(l, ns, words, env) })
}

func enter(l sys.Locked, ns int, words, env []string) error {
	fail := func(what, hint string, err error) error { return &Error{Failed, what, hint, err} }
	// The kernel lets only a thread with a root directory of its own change it.
	if err := sys.Unshare(l, unix.CLONE_FS); err != nil {
		return fail("cannot part from the other threads' root directory", "", err)
	}
	switch err := sys.Setns(l, ns, unix.CLONE_NEWNS); {
	case err == unix.EPERM:
		return fail("may not enter the host's mount namespace",
			"start the container privileged: it takes CAP_SYS_ADMIN and CAP_SYS_CHROOT in the host's users, and a filter that lets setns pass", err)
	case err != nil:
		return fail("cannot enter the host's mount namespace", "", err)
	}
	if err := sys.Chdir(l, "/"); err != nil {
		return fail("cannot change to the host's root", "", err)
	}
	if absent("/usr") && !absent("/root/usr") {
		// A supermin appliance: its first process changed its root, where
		// others pivot.
		err := sys.Chdir(l, "/root")
		if err == nil {
			err = sys.Chroot(l)
		}
		if err != nil {
			return fail("cannot change the root to /root", "the host has no /usr, but a /root/usr", err)
		}
	}
	return execute(words, env)
}

// absent reports whether there is nothing of that name. What may not be
// looked at is there.
func absent(name string) bool {
	n, err := sys.Openat(unix.AT_FDCWD, name, unix.O_PATH, 0)
	if err == nil {
		sys.Close(n)
	}
	return err == unix.ENOENT
}

// execute executes the words, by execvp's rules: the first file that is there
// and can be executed. A file that is no program isn't handed to a shell.
func execute(words, env []string) error {
	name := words[0]
	if strings.Contains(name, "/") {
		return unusable(name, sys.Exec(name, words, env))
	}
	var found error
	for _, dir := range search(env) {
		file := path.Join(dir, name)
		err := sys.Exec(file, words, env)
		if err == unix.ENOENT && absent(file) || err == unix.ENOTDIR {
			continue
		}
		if err != unix.EACCES {
			return unusable(file, err)
		}
		if found == nil { // there may be another one
			found = unusable(file, err)
		}
	}
	if found != nil {
		return found
	}
	return &Error{NotFound, fmt.Sprintf("the host has no command %s", name), "looked in " + strings.Join(search(env), ":") + " of the host", nil}
}

// unusable is why a file could not be executed.
func unusable(file string, err error) error {
	if err == unix.ENOTDIR || err == unix.ENOENT && absent(file) {
		return &Error{NotFound, "the host has no " + file, "", err}
	}
	hint := ""
	switch err {
	case unix.ENOENT:
		hint = "the file is there: its interpreter is not"
	case unix.EACCES:
		hint = "is it a file, may it be executed, and is its file system mounted without noexec?"
	case unix.ENOEXEC:
		hint = "it is no program for this machine; a script needs a first line that names its interpreter"
	}
	return &Error{NotExecutable, "cannot execute the host's " + file, hint, err}
}

// search gives the directories of PATH. As for a shell, an empty one is the
// working directory, which is the host's root.
func search(env []string) []string {
	for _, v := range env {
		if list, ok := strings.CutPrefix(v, "PATH="); ok {
			dirs := strings.Split(list, ":")
			for i := range dirs {
				if dirs[i] == "" {
					dirs[i] = "."
				}
			}
			return dirs
		}
	}
	return []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
}

// guard names the variable that tells the program what Unshare has done: it
// holds the process's number, so that it means nothing to a child.
const guard = "LAUNCH_UNSHARED"

// Unshare starts the calling program anew, with the same words, in a mount
// namespace of its own, if it is root and still has the host's. What it mounts
// from then on, the host doesn't see; what the host mounts still arrives. The
// program's main calls it first: it returns nil if there is nothing to do, which
// is what it finds the second time.
func Unshare(args, env []string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	first, st, err := namespace("/proc/1/ns/mnt", unix.CLONE_NEWNS)
	if err != nil {
		return fmt.Errorf("look at the mount namespace of process 1: %w", err)
	}
	sys.Close(first)
	own, now, err := namespace("/proc/thread-self/ns/mnt", unix.CLONE_NEWNS)
	if err != nil {
		return fmt.Errorf("look at our own mount namespace: %w", err)
	}
	sys.Close(own)
	if st.Ino != now.Ino {
		return nil
	}
	mark := guard + "=" + strconv.Itoa(os.Getpid())
	if slices.Contains(env, mark) {
		return errors.New("still in the host's mount namespace after it was unshared")
	}
	env = append(slices.DeleteFunc(slices.Clone(env), func(v string) bool { return strings.HasPrefix(v, guard+"=") }), mark)
	return sys.Apart(func(l sys.Locked) error { return alone(l, args, env) })
}

func alone(l sys.Locked, args, env []string) error {
	if err := sys.Unshare(l, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare the mount namespace: %w", err)
	}
	root, err := sys.Openat(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	defer sys.Close(root)
	if err := sys.MountSetattr(root, unix.AT_RECURSIVE, &unix.MountAttr{Propagation: unix.MS_SLAVE}); err != nil {
		return fmt.Errorf("cut off mount propagation to the host: %w", err)
	}
	return fmt.Errorf("execute this program again: %w", sys.Exec(self, args, env))
}
