package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/origin"
	"launch/settings"
)

// Inits are what --boot runs, the first that is there.
var inits = []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init"}

// DefaultPath is the PATH of a payload.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// payload plans what the machine runs.
func (c *compiler) payload() {
	e := c.Settings.Exec
	words := e.Words
	var set []string
	if e.Mode == settings.Boot {
		// Words like KEY=VALUE become the init's environment, as the kernel
		// does it with its own command line; KEY with a dot, or what else is in
		// no name of a variable, stays a word.
		var rest []string
		for _, w := range words {
			key, value, ok := strings.Cut(w, "=")
			if key = strings.ReplaceAll(key, "-", "_"); ok && settings.IsEnv(key) {
				set = append(set, key+"="+value)
			} else {
				rest = append(rest, w)
			}
		}
		words = rest
	}
	p := &c.Plan.Payload
	p.User, p.Group, p.AnyID, p.Dir = e.User, e.Group, c.Profile.App, e.Dir
	if p.Dir == "" && (e.Mode == settings.Boot || len(words) > 0) {
		p.Dir = "/"
	}
	p.UserOrigin, p.DirOrigin = c.from("uid"), c.from("chdir")
	switch {
	case e.Mode == settings.Boot:
		p.Candidates = inits
		p.Args = append([]string{""}, words...)
	case len(words) > 0:
		p.Candidates = []string{words[0]}
		p.Args = words
		p.Shell = "/bin/sh" // as execvp(3) does
	default:
		p.Candidates = []string{"/bin/bash", "/bin/sh"}
		p.Args = []string{"-"}
		if p.Dir == "" {
			p.Dir = Home
		}
	}
	host := c.Facts.Host
	// How programs inside recognise where they are.
	container := "container=" + c.Plan.Service
	env := []string{defaultPath, container}
	// Output that is only written down has no terminal that TERM could be of.
	written := c.Console == settings.ConsoleReadOnly && !host.StdoutTTY
	if c.pty() && !written && host.Term != "" && host.Term != "dumb" {
		env = append(env, "TERM="+host.Term)
		if host.Colorterm != "" {
			env = append(env, "COLORTERM="+host.Colorterm)
		}
		if host.NoColor != "" {
			env = append(env, "NO_COLOR="+host.NoColor)
		}
	} else {
		env = append(env, "TERM=dumb")
	}
	if c.Profile.App {
		env = append(env, "HOME=/root", "HOSTNAME="+c.Hostname)
	} else {
		env = append(env, "HOME=/root", "USER=root", "LOGNAME=root", "container_uuid="+dashed(c.Plan.ID))
		env = append(env, "NOTIFY_SOCKET=/run/host/notify")
	}
	if host.Listen > 0 {
		c.Plan.Listen = host.Listen
		pid := 1
		if e.Mode == settings.PID2 {
			pid = 2
		}
		env = append(env, fmt.Sprintf("LISTEN_FDS=%d", host.Listen), fmt.Sprintf("LISTEN_PID=%d", pid))
		if host.ListenNames != "" {
			env = append(env, "LISTEN_FDNAMES="+host.ListenNames)
		}
	}
	if len(c.Plan.Credentials) > 0 {
		env = append(env, "CREDENTIALS_DIRECTORY=/run/host/credentials")
	}
	if e.Mode != settings.Boot && !c.Profile.App {
		env = append(env, "LANG=C.UTF-8")
	}
	for _, f := range [][2]string{{"id", host.OSFields.ID}, {"version_id", host.OSFields.VersionID},
		{"build_id", host.OSFields.BuildID}, {"variant_id", host.OSFields.VariantID}} {
		if f[1] != "" && !c.Profile.App {
			env = append(env, "container_host_"+f[0]+"="+f[1])
		}
	}
	for _, a := range append(slices.Clip(e.Env), set...) {
		env = SetEnv(env, a)
	}
	p.Env = env
	if e.Mode == settings.PID2 {
		p.StubEnv = []string{container, "container_uuid=" + c.Plan.ID}
	}
	c.Plan.Stop = Stop{Signal: c.stopSignal(), Pass: c.Profile.App}
}

// SetEnv adds an assignment, replacing one of the same name.
func SetEnv(env []string, assignment string) []string {
	name, _, _ := strings.Cut(assignment, "=")
	for i, e := range env {
		if strings.HasPrefix(e, name+"=") {
			env[i] = assignment
			return env
		}
	}
	return append(env, assignment)
}

// Getenv gives a variable's value, or "".
func Getenv(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// untilFiltered are the system calls of a first process from its first filter
// to where the last one is installed in any case.
var untilFiltered = []string{"seccomp", "read", "write", "setgroups", "setresgid", "setresuid", "unshare", "mount_setattr", "keyctl", "prlimit64"}

// program plans the first process.
func (c *compiler) program() {
	list := &c.Program
	op := func(call Call, o origin.Origin, a, b, d uint64, format string, args ...any) {
		if o == (origin.Origin{}) {
			o = c.base
		}
		*list = append(*list, Op{Call: call, Text: fmt.Sprintf(format, args...), A: a, B: b, C: d, Origin: o})
	}
	none := origin.Origin{}
	s := c.Settings
	private := c.Plan.Users.Private()
	two := s.Exec.Mode == settings.PID2
	// Here: own pid, ipc and uts namespace (and user namespace), the host's
	// mount namespace as the launcher's thread has it. The launcher goes on
	// with the mounts meanwhile.
	if c.Facts.Host.LoginUID != "" {
		// Else it would be taken for the one who logs in inside.
		op(NoLogin, none, 0, 0, 0, "forget that user %s logged in on the host", c.Facts.Host.LoginUID)
	}
	op(CloseGo, none, 0, 0, 0, "close the other end of the go pipe")
	op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the launcher")
	for _, n := range c.Namespaces {
		if n.Late {
			op(Unshare, n.Origin, n.Flag, 0, 0, "unshare the %s namespace", n.Name)
		}
	}
	op(Ready, none, 0, 0, 0, "tell the launcher that the namespaces are there")
	if o := s.Exec.OOMScore; o.Told {
		op(OOMScore, c.from("oom-score-adjust"), uint64(o.Adjust), 0, 0, "set the oom_score_adj to %d", o.Adjust)
	}
	// What needs nothing of the tree is done while the launcher makes that.
	op(Setsid, none, 0, 0, 0, "begin a session")
	own, text := c.stdio()
	op(Stdio, c.from("console"), own, 0, 0, "%s", text)
	if c.controls() && !two {
		op(CtlTTY, c.from("console"), 0, 0, 0, "take the terminal")
	}
	if cpus := s.Exec.CPUs; len(cpus) > 0 {
		c.Plan.CPUs = cpus
		op(Affinity, c.from("cpu-affinity"), 0, 0, 0, "keep to the processors %s", cpus)
	}
	if p := s.Exec.Personality; p != "" {
		persona := uint64(perLinux)
		if settings.Sibling(p) {
			persona = perLinux32
		}
		op(Persona, c.from("personality"), persona, 0, 0, "set the personality to %s", p)
	}
	op(Umask, none, 0o022, 0, 0, "set the umask to 022")
	// Keys and limits belong to users, so these have to be the machine's.
	users := func() {
		op(Keyring, none, 0, 0, 0, "join a new session keyring")
		for _, l := range c.limits() {
			op(Rlimit, l.from, uint64(l.resource), l.soft, l.hard, "set RLIMIT_%s to %s:%s", l.name, number(l.soft), number(l.hard))
		}
	}
	if !private {
		users()
	}
	caps := c.bounding()
	from := c.base
	if s.Exec.AddCaps != 0 {
		from = c.from("capability")
	}
	if s.Exec.DropCaps != 0 {
		from = c.from("drop-capability")
	}
	if !s.Exec.Unfiltered {
		c.filters(caps)
	}
	// Before capabilities and user change: without new privileges being
	// renounced, a filter takes CAP_SYS_ADMIN. And before the tree, unless it
	// refuses what comes next: the kernel takes longer for it than for a mount.
	late := 0
	for late < len(c.Filters) && c.Filters[late].Passes(untilFiltered...) {
		late++
	}
	filters := func(i, end int) {
		for ; i < end; i++ {
			op(Seccomp, c.Filters[i].Origin, uint64(i), 0, 0, "install system-call filter %d", i+1)
		}
	}
	filters(0, late)
	op(Go, none, 0, 0, 0, "wait for the launcher")
	// From here: the ids are mapped, the tree is finished and is the root.
	if private {
		op(BecomeRoot, c.Plan.Users.Origin, 0, 0, 0, "become the machine's root user")
		op(Unshare, c.Plan.Users.Origin, unix.CLONE_NEWNS, 0, 0, "copy the mount namespace, with every mount locked")
	}
	op(Share, none, 0, 0, 0, "let mounts propagate inside the machine")
	if c.shares("incoming") {
		// A mount can be moved only out of one that nobody shares.
		op(Incoming, none, 0, 0, 0, "let mounts come in by /run/host/incoming")
	}
	if s.Image.Mounts != "" {
		// Not before: those that are not to propagate would.
		op(Ready, c.from("mounts"), 0, 0, 0, "tell the launcher that the mount namespace is there")
		op(Mounted, c.from("mounts"), 0, 0, 0, "wait for the launcher to bring back the saved mounts")
	}
	if private {
		users()
	}
	filters(late, len(c.Filters))
	op(Bounding, from, caps, 0, 0, "keep the capabilities %#x at most", caps)
	ambient := s.Exec.AmbientCaps
	if ambient == 0 {
		op(Switch, c.from("uid"), 0, 0, 0, "become %s", userWord(s.Exec.User))
		op(Caps, from, caps, 0, 0, "set the capabilities")
	} else {
		from = c.from("ambient-capability")
		op(KeepCaps, from, 0, 0, 0, "keep the capabilities when the user changes")
		op(Switch, c.from("uid"), 0, 0, 0, "become %s", userWord(s.Exec.User))
		op(Caps, from, caps, ambient, 0, "set the capabilities, ambient %#x", ambient)
	}
	if s.Exec.NoNewPrivileges {
		op(NoNewPrivs, c.from("no-new-privileges"), 0, 0, 0, "renounce new privileges")
	}
	// Changing ids cleared it; a launcher that died meanwhile is noticed now.
	op(DieWith, none, uint64(unix.SIGKILL), 0, 0, "die with the launcher, as this user too")
	op(Alive, none, 0, 0, 0, "make sure that the launcher is still there")
	rest := "close all other descriptors"
	if n := c.Plan.Listen; n > 0 {
		rest += fmt.Sprintf(" but the %d that were handed over", n)
	}
	// Closed before any path is followed: one through /proc/self/fd must not
	// find a descriptor of the launcher's.
	op(CloseRest, none, 0, 0, 0, "%s", rest)
	op(Chdir, c.from("chdir"), 0, 0, 0, "change to %s", dirWord(c.Plan.Payload.Dir))
	if c.Facts.Host.Ignored != 0 {
		// The kernel lets what is ignored pass to a child, and through exec.
		op(Signals, none, c.Facts.Host.Ignored, 0, 0, "stop ignoring signals")
	}
	if two {
		// Both processes have the same rights: the payload's. Process 1 has no
		// terminal, so that process 2 can take it.
		op(ExecStub, c.from("as-pid2"), 0, 0, 0, "exec the stub as process 1")
		list = &c.Second
		op(Fork, c.from("as-pid2"), 0, 0, 0, "fork process 2")
		op(Setsid, none, 0, 0, 0, "begin a session as process 2")
		if c.controls() {
			op(CtlTTY, c.from("console"), 0, 0, 0, "take the terminal as process 2")
		}
	}
	op(Unblock, none, 0, 0, 0, "unblock signals")
	if !two {
		// Only then is a file of the tree executed: it may name /proc/self/exe
		// as its interpreter, and that must not be the launcher.
		op(ExecStub, none, 0, 0, 0, "exec the stub")
	}
	if label := s.SELinux.Process; label != "" {
		// It holds for the next file that is executed. That is to be the
		// payload: no policy lets a machine's processes begin with a file of the
		// launcher's.
		op(Label, c.from("selinux-context"), 0, 1, 0, "set the SELinux label %s", label)
		(*list)[len(*list)-1].Path, (*list)[len(*list)-1].Data = execLabel, label
	}
	op(Exec, none, 0, 0, 0, "exec %s", strings.Join(c.Plan.Payload.Candidates, " or "))
}

func userWord(user string) string {
	if user == "" {
		return "root"
	}
	return "the user " + user
}

func dirWord(dir string) string {
	if dir == Home {
		return "the home directory"
	}
	return path.Clean(dir)
}

// Home is the payload's directory when it is the user's home, which only the
// finished tree can tell.
const Home = "~"

func number(n uint64) string {
	if n == infinity {
		return "infinity"
	}
	return fmt.Sprint(n)
}
