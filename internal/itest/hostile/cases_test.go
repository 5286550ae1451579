package hostile

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"launch/settings"
)

// kase is one hostile tree, or one hostile caller, and what has to come of it.
type kase struct {
	name string
	row  string // of the threat table
	trap func(w *world) error
	// args are the launcher's; $C is the canary.
	args    []string
	program string
	words   []string
	tty     bool // the caller has a terminal
	ctty    bool // only as the session's, not as standard input and output
	ambient bool // the caller has ambient capabilities and groups
	leak    int  // descriptors that the caller leaks
	keys    bool // the caller's keys are looked for
	env     []string
	during  func(p *os.Process)
	// after takes back what the trap did beside the tree.
	after func(w *world)
	// alone replaces the start of one launcher and the look at what came of it.
	alone func(w *world, bin string) string
	slow  bool   // only in the hostile run
	needs string // a file without which the case says nothing

	// refused is a part of the error; "" where the machine has to run.
	refused string
	// status is the exit status of one that is refused; 0 means 1.
	status int
	// ends is the exit status of what is executed, but is not the payload, and
	// says nothing.
	ends int
	// mounted are targets that must be mounts inside.
	mounted []string
	// shows are directories inside which the canary may be seen.
	shows []string
	cwd   string
	user  string // "1000 1000 1000,1001": user, group, groups
	check func(w *world, r result) string
}

// missing tells what the case needs and the host hasn't.
func (c *kase) missing() string {
	if c.needs != "" {
		if _, err := os.Lstat(c.needs); err != nil {
			return "this kernel has no " + c.needs
		}
	}
	return ""
}

// users tells whether the machine has users of its own.
func (c *kase) users() bool {
	return slices.ContainsFunc(c.args, func(a string) bool { return strings.HasPrefix(a, "--private-users=") })
}

func (c *kase) network() bool { return slices.Contains(c.args, "--private-network") }

// judge compares what became of a case with what had to.
func (c *kase) judge(w *world, r result) string {
	say := func(format string, args ...any) string {
		return fmt.Sprintf(format, args...) + fmt.Sprintf("\nstatus %d, errors: %s", r.status, strings.TrimSpace(r.errs))
	}
	if c.refused != "" {
		want := max(c.status, 1)
		lines := strings.Split(strings.TrimSpace(r.errs), "\n")
		switch {
		case r.view != nil:
			return say("the payload ran, but it had to be refused: %s", c.refused)
		case r.status != want:
			return say("status %d, want %d", r.status, want)
		case !strings.Contains(r.errs, c.refused):
			return say("the error doesn't say %q", c.refused)
		case !strings.HasPrefix(lines[0], "launch: "):
			return say("the error is no sentence of launch's")
		case strings.Contains(r.errs, bait) || strings.Contains(r.errs, "c0ffee"):
			return say("the error shows what is in the canary")
		}
		for _, l := range lines[1:] {
			if !strings.HasPrefix(l, "  ") {
				return say("the error is more than one sentence: %q", l)
			}
		}
		if c.check != nil {
			return c.check(w, r)
		}
		return ""
	}
	v := r.view
	if c.ends != 0 {
		if v != nil || r.status != c.ends || r.out != "" || r.errs != "" {
			return say("want status %d and no word, it says %q", c.ends, r.out)
		}
		return ""
	}
	if v == nil || r.status != 0 {
		return say("the payload did not run: %q", r.out)
	}
	if f := c.vector(v); f != "" {
		return say("%s", f)
	}
	for _, p := range v.Found {
		if !slices.ContainsFunc(c.shows, func(dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }) {
			return say("the canary can be seen as %s", p)
		}
	}
	for _, m := range c.mounted {
		m = strings.ReplaceAll(m, "$C", w.canary)
		if !slices.ContainsFunc(v.Mounts, func(x Mount) bool { return x.Target == m }) {
			return say("nothing is mounted on %s inside", m)
		}
	}
	for _, dir := range c.shows {
		if !slices.ContainsFunc(v.Found, func(p string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }) {
			return say("what was bound cannot be seen below %s: %q", dir, v.Found)
		}
	}
	if c.check != nil {
		if f := c.check(w, r); f != "" {
			return say("%s", f)
		}
	}
	return ""
}

// hostCaps is the bounding set that launchers are started with.
var hostCaps = sync.OnceValue(func() uint64 {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "CapBnd:")
	n, _ := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	return n
})

// vector holds the state of every payload that runs.
func (c *kase) vector(v *View) string {
	for n, to := range v.FDs {
		if n != "0" && n != "1" && n != "2" && !strings.HasPrefix(to, "anon_inode:[event") {
			return fmt.Sprintf("descriptor %s is open: %s", n, to)
		}
	}
	caps := settings.NSpawn.Caps
	if c.network() {
		caps |= settings.NSpawn.NetworkCaps
	} else if c.users() {
		caps &^= 1 << unix.CAP_NET_BIND_SERVICE
	}
	if !c.users() {
		caps &= hostCaps() // a launcher can't give what it hasn't
	}
	set := fmt.Sprintf("%016x", caps)
	eff, ids, groups := set, "0 0 0 0", ""
	if c.user != "" {
		f := strings.Fields(c.user)
		eff, ids = strings.Repeat("0", 16), strings.TrimSuffix(strings.Repeat(f[0]+" ", 4), " ")
		groups = strings.ReplaceAll(f[2], ",", " ")
	}
	for _, want := range [][2]string{
		{"CapBnd", set}, {"CapEff", eff}, {"CapPrm", eff}, {"CapInh", strings.Repeat("0", 16)}, {"CapAmb", strings.Repeat("0", 16)},
		{"Uid", ids}, {"Groups", groups}, {"NoNewPrivs", "0"},
	} {
		if got := v.Status[want[0]]; got != want[1] {
			return fmt.Sprintf("%s is %q, want %q", want[0], got, want[1])
		}
	}
	if c.users() == (v.UIDMap == "0 0 4294967295") {
		return "the uid map is " + v.UIDMap
	}
	pid := "1"
	if slices.Contains(c.args, "--as-pid2") {
		pid = "2"
	}
	cwd := c.cwd
	if cwd == "" {
		cwd = "/"
	}
	switch {
	case v.Cwd != cwd:
		return fmt.Sprintf("the working directory is %s, want %s", v.Cwd, cwd)
	case !v.UpIsTop:
		return "/.. is not /"
	case !v.OneIsUs:
		return "/proc/1/root is not /"
	case c.keys && v.Key:
		return "the caller's key can be found"
	case v.Status["Pid"] != pid:
		return "the payload is process " + v.Status["Pid"]
	}
	const quiet = "nosuid,nodev,noexec"
	for _, want := range [][3]string{
		{"/proc", "proc", quiet}, {"/proc/sys", "proc", "ro," + quiet}, {"/dev", "tmpfs", "nosuid"}, {"/run", "tmpfs", "nosuid,nodev"},
		{"/run/host", "tmpfs", "ro," + quiet}, {"/sys", "", "ro," + quiet}, {"/dev/pts", "devpts", "nosuid,noexec"},
		{"/proc/sys/kernel/random/boot_id", "tmpfs", "ro," + quiet},
	} {
		i := slices.IndexFunc(v.Mounts, func(m Mount) bool {
			return m.Target == want[0] && (want[1] == "" || m.Type == want[1])
		})
		if i < 0 {
			return fmt.Sprintf("no %s on %s", want[1], want[0])
		}
		flags := "," + v.Mounts[i].Flags + ","
		for word := range strings.SplitSeq(want[2], ",") {
			if !strings.Contains(flags, ","+word+",") {
				return fmt.Sprintf("%s has the flags %s, want %s", want[0], v.Mounts[i].Flags, want[2])
			}
		}
	}
	if c.tty {
		if v.Console != "pts/0" || v.FDs["0"] != "/dev/pts/0" || v.TTY != "open" {
			return fmt.Sprintf("console %s, standard input %s, /dev/tty: %s", v.Console, v.FDs["0"], v.TTY)
		}
	} else if v.TTY != "no such device or address" {
		return "/dev/tty: " + v.TTY
	}
	return ""
}

// bad is something that a tree may have where something else is expected.
type bad struct {
	name string
	make func(path string) error
	// leads is where a link leads inside; "" for what is no link, and for what
	// leads nowhere.
	leads string
}

func linkTo(to string) func(string) error {
	return func(path string) error { return os.Symlink(to, path) }
}

// bads are the traps, for a name at any depth.
var bads = []bad{
	{"absolute link", linkTo("/box/canary/dir"), "/box/canary/dir"},
	{"relative link", linkTo("../../../../../../../box/canary/dir"), "/box/canary/dir"},
	{"magic link cwd", linkTo("/proc/self/cwd"), "/proc/self/cwd"},
	{"magic link root", linkTo("/proc/self/root/box/canary/dir"), "/proc/self/root/box/canary/dir"},
	{"magic link pid 1", linkTo("/proc/1/root/box/canary/dir"), "/proc/1/root/box/canary/dir"},
	{"dangling link", linkTo("/nowhere/at/all"), "/nowhere/at/all"},
	{"loop", func(p string) error { return os.Symlink(filepath.Base(p), p) }, ""},
	{"file", func(p string) error { return os.WriteFile(p, []byte("file\n"), 0o644) }, ""},
	{"fifo", func(p string) error { return unix.Mkfifo(p, 0o644) }, ""},
	{"node", func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }, ""},
	{"socket", func(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o666, 0) }, ""},
}

func (b bad) link() bool { return b.leads != "" || b.name == "loop" }

// put replaces a name of the tree.
func put(name string, b bad) func(*world) error {
	return func(w *world) error {
		p := w.tree + name
		return errors.Join(os.RemoveAll(p), os.MkdirAll(filepath.Dir(p), 0o755), b.make(p))
	}
}

// cases gives the whole table.
func cases() []*kase {
	var all []*kase
	add := func(c kase) { all = append(all, &c) }

	// Directories of the tree itself. A few of the traps are tried every day,
	// all of them in the hostile run.
	few := func(b bad) bool { return strings.Contains("absolute link, relative link, loop, fifo", b.name) }
	for _, b := range bads {
		for _, name := range []string{"/proc", "/sys", "/dev", "/run"} {
			kind := "no directory"
			if b.link() {
				kind = "a symlink"
			}
			why := fmt.Sprintf("the tree's %s is %s", name, kind)
			add(kase{name: "api" + name + " " + b.name, row: "A1", trap: put(name, b), refused: why, slow: !few(b)})
			if name == "/dev" {
				add(kase{name: "terminal, api" + name + " " + b.name, row: "A2", trap: put(name, b), tty: true, refused: why, slow: b.name != "absolute link"})
			}
			if name == "/sys" {
				add(kase{name: "network, api" + name + " " + b.name, row: "A1", trap: put(name, b), args: []string{"--private-network"}, refused: why, slow: b.name != "absolute link"})
			}
		}
		onto := func(target string) string {
			switch {
			case b.leads != "":
				return "open " + target + ": no such file or directory"
			case b.name == "loop":
				return "open " + target + ": too many levels of symbolic links"
			}
			return target + " is no directory, what goes there is a directory"
		}
		c := kase{name: "api/tmp " + b.name, row: "A1", trap: put("/tmp", b), refused: onto("/tmp"), slow: !few(b)}
		add(c)
		c = kase{name: "state/var " + b.name, row: "A1", trap: put("/var", b), args: []string{"--volatile=state"}, refused: onto("/var"), slow: !few(b)}
		add(c)
		for _, v := range []string{"no", "yes", "state", "overlay"} {
			add(kase{name: "usr " + b.name + " volatile " + v, row: "A1", trap: put("/usr", b), args: []string{"--volatile=" + v}, refused: map[bool]string{false: "it has no /usr directory", true: "open /usr of the tree: too many levels"}[b.name == "loop"],
				slow: v == "state" || v == "overlay" || !few(b)})
		}
		// What lies below a directory that is always mounted over is never
		// looked at.
		for _, name := range []string{"/run/host", "/dev/pts", "/dev/shm", "/dev/console", "/dev/null", "/dev/ptmx", "/dev/mqueue", "/dev/tty", "/dev/fd", "/sys/fs", "/proc/sys", "/proc/kallsyms", "/run/host/inaccessible", "/dev/pts/0"} {
			c := kase{name: "covered " + name + " " + b.name, row: "A2", trap: put(name, b)}
			c.tty = strings.HasPrefix(name, "/dev/") && b.name != "magic link cwd"
			if name == "/sys/fs" && b.name != "relative link" {
				c.args = []string{"--private-network"}
			}
			c.slow = b.name != "absolute link" && !(name == "/dev/console" && few(b))
			add(c)
			for _, mode := range [][]string{{"--read-only"}, {"--private-users=655360:65536", "--private-users-ownership=map"}} {
				if c.tty {
					c.args, c.slow = mode, b.name != "absolute link" || name != "/dev/console"
					c.name = "covered " + name + " " + b.name + " " + strings.Join(mode, " ")
					add(c)
				}
			}
		}
		// The files that the launcher reads.
		c = kase{name: "machine-id " + b.name, row: "A10", trap: put("/etc/machine-id", b), check: randomID, slow: !few(b)}
		switch b.name {
		case "absolute link", "relative link": // lead to an id, below
		case "fifo":
			c.trap = fifoWith("/etc/machine-id", "c0ffeec0ffeec0ffeec0ffeec0ffee00\n")
			add(c)
		case "socket":
			c.refused, c.check = "read /etc/machine-id of the tree", nil
			add(c)
		default:
			add(c)
		}
		etc := b
		switch b.name {
		case "absolute link":
			etc.make = linkTo("/box/canary/etc")
		case "relative link":
			etc.make = linkTo("../../../../box/canary/etc")
		}
		add(kase{name: "etc " + b.name, row: "A10", trap: put("/etc", etc), check: randomID, slow: !few(b)})
		why := "invalid argument"
		switch {
		case b.name == "magic link pid 1": // the one of them that the machine's /proc has
			why = "too many levels of symbolic links"
		case b.leads != "":
			why = "no such file or directory"
		case b.name == "loop":
			why = "too many levels of symbolic links"
		case b.name == "socket":
			why = "no such device or address"
		}
		c = kase{name: "passwd " + b.name, row: "A9", trap: put("/etc/passwd", b), args: []string{"--user=bob"}, refused: "read /etc/passwd of the tree: " + why, slow: !few(b)}
		if b.name == "file" {
			c.refused = "no such user"
		}
		add(c)
		c = kase{name: "group " + b.name, row: "A9", trap: put("/etc/group", b), args: []string{"--user=bob"}, refused: "read /etc/group of the tree: " + why, slow: !few(b)}
		// A missing group file is none: a link that leads nowhere is the same.
		if b.name == "file" || b.leads != "" && b.name != "magic link pid 1" {
			c.refused, c.user = "", "1000 1000 1000"
		}
		add(c)
	}

	// Targets of custom mounts, with the trap in the last and in the last but
	// one place.
	kinds := []struct {
		name, arg string
		dir       bool
		shows     string
	}{
		{"bind directory", "--bind=$C/dir:@", true, "/file"},
		{"bind file", "--bind=$C/dir/file:@", false, ""},
		{"bind-ro", "--bind-ro=$C/dir:@", true, "/file"},
		{"tmpfs", "--tmpfs=@", true, "-"},
		{"overlay", "--overlay-ro=$C/dir:$C/etc:@", true, "/file"},
		{"mapped bind", "--bind=$C/dir:@:idmap", true, "/file"},
		{"inaccessible", "--inaccessible=@", false, "-"},
	}
	modes := [][]string{nil, {"--private-users=655360:65536", "--private-users-ownership=map"}, {"--private-network"}, {"--volatile=overlay"}}
	for _, k := range kinds {
		for _, b := range bads {
			for _, place := range []string{"/srv/trap", "/srv/trap/below"} {
				for i, mode := range modes {
					mapped := k.name == "mapped bind"
					if mapped && i != 1 {
						continue // it takes users to map to
					}
					c := kase{row: "A1", args: append([]string{strings.ReplaceAll(k.arg, "@", place)}, mode...), trap: put("/srv/trap", b)}
					c.name = fmt.Sprintf("%s on %s%s %s", k.name, b.name, strings.TrimPrefix(place, "/srv/trap"), strings.Join(mode, " "))
					c.slow = !few(b) && !(k.name == "tmpfs" && i == 0) || i > 0 && !(k.name == "tmpfs" && b.name == "absolute link") ||
						i == 0 && strings.Contains("bind-ro, overlay", k.name) && b.name != "absolute link"
					c.slow = c.slow && !(mapped && b.name == "absolute link")
					last := place == "/srv/trap"
					at := strings.Replace(place, "/srv/trap", b.leads, 1)
					switch {
					case b.name == "loop":
						c.refused = "too many levels of symbolic links"
					case b.leads == "" && !last:
						c.refused = "not a directory"
					case b.leads == "" && k.dir:
						c.refused = place + " is no directory, what goes there is a directory"
					case b.leads == "":
						c.mounted = []string{place}
					case k.name == "inaccessible":
						c.refused = "no such file or directory"
					case strings.HasPrefix(at, "/proc"):
						c.refused = "which the machine's own file system on /proc covers"
					default:
						c.mounted = []string{at}
					}
					if c.mounted != nil && k.shows != "-" {
						c.shows = []string{c.mounted[0] + k.shows}
					}
					add(c)
				}
			}
		}
	}

	// Directories of the tree that a mount is made of.
	for _, b := range bads {
		for _, s := range []struct{ name, arg string }{
			{"upper", "--overlay=$C/etc:+/srv/trap:/mnt"}, {"lower", "--overlay-ro=+/srv/trap:$C/etc:/mnt"}, {"root", "--bind=+/srv/trap:/"},
		} {
			c := kase{name: "made of: " + s.name + " is a " + b.name, row: "A1", trap: put("/srv/trap", b), args: []string{s.arg}, slow: b.name != "absolute link"}
			switch {
			case b.name == "loop":
				c.refused = "too many levels of symbolic links"
			case b.leads != "":
				c.refused = "no such file or directory"
			case s.name == "root":
				c.refused = "/ is a directory, what goes there is no directory"
			default:
				c.refused = "not a directory"
			}
			add(c)
		}
	}

	// What is put into the tree's /etc. Nothing is ever written through a name
	// that is there.
	outside := func(name string) func(*world) error {
		return func(w *world) error {
			p := w.tree + name
			return errors.Join(os.RemoveAll(p), os.WriteFile("/box/outside", []byte(bait), 0o600), os.Link("/box/outside", p))
		}
	}
	unwritten := func(*world, result) string {
		b, err := os.ReadFile("/box/outside")
		i, serr := os.Lstat("/box/outside")
		if err != nil || serr != nil || string(b) != bait || i.Mode() != 0o600 {
			return fmt.Sprintf("a file outside of the tree, which has a name in it, was changed: %q %v %v", b, i.Mode(), err)
		}
		return ""
	}
	for _, f := range []struct {
		name, option string
		modes        []string
	}{
		{"/etc/resolv.conf", "--resolv-conf=", []string{"copy-host", "replace-host", "bind-host"}},
		{"/etc/localtime", "--timezone=", []string{"copy", "symlink", "bind"}},
	} {
		for _, mode := range f.modes {
			args := []string{f.option + mode}
			binds, copies := strings.HasPrefix(mode, "bind"), mode == "copy" || mode == "copy-host"
			for _, to := range []string{"/box/canary/dir/file", "../../../../box/canary/dir/file", "/proc/1/root/box/canary/dir/file"} {
				c := kase{name: "put " + f.name + " " + mode + ", link to " + to, row: "A10", trap: put(f.name, bad{make: linkTo(to)}), args: args, slow: !copies && !binds || strings.Contains(to, "proc")}
				if binds { // on the link itself
					c.mounted = []string{f.name}
				}
				if mode == "copy-host" { // the tree has its own arrangement
					c.check = func(w *world, _ result) string {
						if now, err := os.Readlink(w.tree + f.name); now != to {
							return fmt.Sprintf("the link was replaced: %q, %v", now, err)
						}
						return ""
					}
				}
				add(c)
			}
			c := kase{name: "put " + f.name + " " + mode + ", hard link", row: "A10", trap: outside(f.name), args: args, check: unwritten, slow: !copies,
				after: func(*world) { os.Remove("/box/outside") }}
			add(c)
			for _, b := range bads[6:] {
				add(kase{name: "put " + f.name + " " + mode + ", " + b.name, row: "A10", trap: put(f.name, b), args: args, slow: true})
			}
		}
	}

	// Legal twins: what looks alike and has to work.
	dirs := func(names ...string) func(*world) error {
		return func(w *world) error {
			for _, n := range names {
				from, to, isLink := strings.Cut(n, "->")
				p := w.tree + from
				var err error
				if isLink {
					err = errors.Join(os.RemoveAll(p), os.Symlink(to, p))
				} else {
					err = os.MkdirAll(p, 0o755)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}
	}
	add(kase{name: "twin plain", row: "A1"})
	add(kase{name: "twin terminal", row: "A6", tty: true})
	add(kase{name: "twin network", row: "A1", args: []string{"--private-network"}})
	for _, v := range []string{"yes", "state", "overlay"} {
		for _, m := range [][]string{nil, {"--private-users=655360:65536", "--private-users-ownership=map"}} {
			want := map[string]string{"yes": "no such file or directory", "state": "read-only file system", "overlay": "written"}[v]
			add(kase{name: "twin volatile " + v + " " + strings.Join(m, " "), row: "A1", args: append([]string{"--volatile=" + v}, m...),
				words: []string{"write:/srv", "write:/var"}, check: all2(all2(did("write:/srv", want), did("write:/var", "written")), untouched("/srv", "/var"))})
		}
	}
	add(kase{name: "twin read-only", row: "A8", args: []string{"--read-only"}, words: []string{"write:/etc"}, check: did("write:/etc", "read-only file system")})
	add(kase{name: "twin users chown", row: "A11", args: []string{"--private-users=655360:65536", "--private-users-ownership=chown"},
		words: []string{"stat:/usr/bin/payload"}, check: did("stat:/usr/bin/payload", "0:0 100755")})
	add(kase{name: "twin users map", row: "A11", args: []string{"--private-users=655360:65536", "--private-users-ownership=map"},
		words: []string{"stat:/usr/bin/payload"}, check: did("stat:/usr/bin/payload", "0:0 100755")})
	add(kase{name: "twin parent below /var/run -> /run", row: "A1", trap: dirs("/var/run->/run"), args: []string{"--bind=$C/dir:/var/run/new/dir"}, mounted: []string{"/run/new/dir"}, shows: []string{"/run/new/dir/file"}})
	add(kase{name: "twin target is a link to a directory", row: "A1", trap: dirs("/opt/real", "/srv/link->/opt/real"), args: []string{"--tmpfs=/srv/link"}, mounted: []string{"/opt/real"}})
	add(kase{name: "twin target is a relative link", row: "A1", trap: dirs("/opt/real", "/srv/link->../opt/real"), args: []string{"--tmpfs=/srv/link/x"}, mounted: []string{"/opt/real/x"}})
	add(kase{name: "twin link above the root", row: "A1", trap: dirs("/opt/real", "/srv/link->../../../../opt/real"), args: []string{"--tmpfs=/srv/link"}, mounted: []string{"/opt/real"}})
	add(kase{name: "twin two links on the way", row: "A1", trap: dirs("/opt/real", "/opt/a->/opt/real", "/srv/b->/opt/a"), args: []string{"--bind=$C/dir/file:/srv/b/new"}, mounted: []string{"/opt/real/new"}, shows: []string{"/opt/real/new"}})
	add(kase{name: "twin parent 0711", row: "A1", trap: func(w *world) error { return os.Mkdir(w.tree+"/opt", 0o711) }, args: []string{"--tmpfs=/opt/x/y", "--private-users=655360:65536", "--private-users-ownership=map"}, mounted: []string{"/opt/x/y"},
		words: []string{"stat:/opt/x"}, check: did("stat:/opt/x", "0:0 40755")})
	add(kase{name: "twin mask in a merged /usr", row: "A4", args: []string{"--inaccessible=/lib/secret"}, trap: func(w *world) error {
		return os.WriteFile(w.tree+"/usr/lib/secret", []byte("secret\n"), 0o644)
	}, words: []string{"read:/usr/lib/secret"}, mounted: []string{"/usr/lib/secret"}, check: did("read:/usr/lib/secret", "=")})
	add(kase{name: "twin tree without API directories", row: "A1", trap: func(w *world) error {
		for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "root", "var"} {
			if err := os.RemoveAll(w.tree + "/" + d); err != nil {
				return err
			}
		}
		return nil
	}})
	add(kase{name: "twin /tmp -> /var/tmp", row: "A1", trap: dirs("/var/tmp", "/tmp->/var/tmp"), mounted: []string{"/var/tmp"}})
	add(kase{name: "twin etc in the tree by link", row: "A10", trap: func(w *world) error {
		return errors.Join(os.Rename(w.tree+"/etc", w.tree+"/usr/etc"), os.Symlink("/usr/etc", w.tree+"/etc"),
			os.WriteFile(w.tree+"/usr/etc/machine-id", []byte("0123456789abcdef0123456789abcdef\n"), 0o644))
	}, args: []string{"--user=bob"}, user: "1000 1000 1000,1001", check: hasID("01234567-89ab-cdef-0123-456789abcdef")})

	add(kase{name: "hard link to the canary, chown", row: "A11", args: []string{"--private-users=655360:65536", "--private-users-ownership=chown"},
		trap:    func(w *world) error { return os.Link(w.canary+"/secret", w.tree+"/srv/hard") },
		refused: "names outside of the tree"})
	add(kase{name: "twin hard links in the tree, chown", row: "A11", args: []string{"--private-users=655360:65536", "--private-users-ownership=chown"},
		trap: func(w *world) error {
			return errors.Join(os.WriteFile(w.tree+"/srv/one", nil, 0o644), os.Link(w.tree+"/srv/one", w.tree+"/srv/two"))
		}, words: []string{"stat:/srv/one"}, check: did("stat:/srv/one", "0:0 100644")})

	// A3, A8: nothing is made in a read-only source, and nothing is writable.
	for _, missing := range []string{"--tmpfs=/mnt/new", "--bind=$C/dir/file:/mnt/new", "--tmpfs=/mnt/sub/new/er", "--overlay-ro=$C/dir:$C/etc:/mnt/new"} {
		add(kase{name: "missing target in a read-only bind: " + missing, row: "A3", args: []string{"--bind-ro=$C/dir:/mnt", missing}, refused: "read-only file system"})
	}
	add(kase{name: "twin target that is there in a read-only bind", row: "A3", args: []string{"--bind-ro=$C/dir:/mnt", "--tmpfs=/mnt/sub"}, mounted: []string{"/mnt/sub"}, shows: []string{"/mnt"}})
	add(kase{name: "read-only bind is read-only", row: "A8", args: []string{"--bind-ro=$C/dir:/mnt"}, words: []string{"write:/mnt"},
		shows: []string{"/mnt"}, check: did("write:/mnt", "read-only file system")})

	// A4: masks are made of the launcher's own nodes.
	add(kase{name: "mask source behind a bind", row: "A4", trap: func(w *world) error {
		d := w.tree + "/srv/fake"
		return errors.Join(os.Mkdir(d, 0o755), os.WriteFile(d+"/reg", []byte("not empty\n"), 0o666), os.Mkdir(d+"/dir", 0o777),
			os.WriteFile(d+"/dir/x", nil, 0o644))
	}, args: []string{"--bind=+/srv/fake:/run/host/inaccessible"}, words: []string{"read:/proc/kallsyms", "read:/proc/keys", "read:/proc/sysrq-trigger"},
		check: func(w *world, r result) string {
			for k, v := range r.view.Did {
				if v != "=" && v != "no such file or directory" && v != "permission denied" {
					return fmt.Sprintf("%s gave %q", k, v)
				}
			}
			return ""
		}})
	for _, f := range []string{"/proc/kallsyms", "/proc/keys", "/proc/timer_list", "/proc/sysrq-trigger", "/proc/kcore"} {
		add(kase{name: "mask of " + f, row: "A4", trap: func(w *world) error { return os.Symlink("/proc/version", w.tree+"/dev/null") },
			words: []string{"read:" + f}, check: masked(f), needs: f})
	}

	// A9: users.
	for _, u := range []string{"4294967296", "4294967295", "-1", "+0", "0x0", " 0", "1:", "00", "99999999999999999999"} {
		add(kase{name: fmt.Sprintf("user %q", u), row: "A9", args: []string{"--user=" + u}, refused: map[bool]string{true: "is not the name of a user", false: "user"}[u == "1:"], trap: func(w *world) error {
			return os.WriteFile(w.tree+"/etc/passwd", []byte(u+":x:0:0::/:/bin/sh\nroot:x:0:0::/:/\n"), 0o644)
		}})
	}
	passwd := func(text string) func(*world) error {
		return func(w *world) error { return os.WriteFile(w.tree+"/etc/passwd", []byte(text), 0o644) }
	}
	add(kase{name: "user 1 named in an entry for 0", row: "A9", args: []string{"--user=1"}, trap: passwd("1:x:0:0::/:/bin/sh\n"), refused: "no such user"})
	add(kase{name: "user id out of range in passwd", row: "A9", args: []string{"--user=bob"}, trap: passwd("bob:x:4294967296:0::/:/bin/sh\n"), refused: "no such user"})
	add(kase{name: "user id negative in passwd", row: "A9", args: []string{"--user=bob"}, trap: passwd("bob:x:-1:0::/:/bin/sh\n"), refused: "no such user"})
	add(kase{name: "twin user by number", row: "A9", args: []string{"--user=1000"}, user: "1000 1000 1000,1001"})
	add(kase{name: "twin user by name", row: "B8", args: []string{"--user=bob"}, user: "1000 1000 1000,1001", ambient: true})
	add(kase{name: "passwd line of 100 kB", row: "A9", args: []string{"--user=bob"}, trap: passwd("bob:x:1000:1000:" + strings.Repeat("x", 100<<10) + ":/:/bin/sh\n"), refused: "longer than"})
	add(kase{name: "passwd sparse, 1 GiB", row: "A9", args: []string{"--user=bob"}, trap: func(w *world) error {
		return errors.Join(os.WriteFile(w.tree+"/etc/passwd", nil, 0o644), os.Truncate(w.tree+"/etc/passwd", 1<<30))
	}, refused: "file too large"})
	add(kase{name: "passwd of 2 MiB of lines", row: "A9", args: []string{"--user=bob"}, trap: passwd(strings.Repeat("x:x:1:1::/:/bin/sh\n", 110000) + "bob:x:1000:1000::/:/\n"), refused: "file too large"})
	add(kase{name: "passwd fifo with text in it", row: "A9", args: []string{"--user=bob"}, trap: fifoWith("/etc/passwd", "bob:x:0:0::/:/bin/sh\n"),
		refused: "read /etc/passwd of the tree: invalid argument"})
	add(kase{name: "passwd with NUL", row: "A9", args: []string{"--user=bob"}, trap: passwd("a\x00b:x:0:0::/:/\nbob:x:1000:1000::/:/\n"), refused: "NUL"})
	add(kase{name: "passwd link to the canary's", row: "A9", args: []string{"--user=bob"}, trap: put("/etc/passwd", bad{make: linkTo("/box/canary/passwd")}), refused: "no such file"})
	add(kase{name: "passwd link above the root", row: "A9", args: []string{"--user=bob"}, trap: put("/etc/passwd", bad{make: linkTo("../../../../box/canary/passwd")}), refused: "no such file"})
	add(kase{name: "group link to the canary's", row: "A9", args: []string{"--user=bob"}, trap: put("/etc/group", bad{make: linkTo("/box/canary/group")}), user: "1000 1000 1000"})
	add(kase{name: "machine-id link to the canary's", row: "A10", trap: put("/etc/machine-id", bad{make: linkTo("/box/canary/machine-id")}), check: randomID})
	add(kase{name: "machine-id link above the root", row: "A10", trap: put("/etc/machine-id", bad{make: linkTo("../../../../box/canary/machine-id")}), check: randomID})
	add(kase{name: "machine-id too long", row: "A10", trap: func(w *world) error {
		return os.WriteFile(w.tree+"/etc/machine-id", []byte(strings.Repeat("a", 1<<20)), 0o644)
	}, check: randomID})
	add(kase{name: "boot with os-release link to the canary's", row: "A10", trap: put("/etc/os-release", bad{make: linkTo("/box/canary/os-release")}), args: []string{"--boot"}, program: "x", refused: "holds no operating system"})

	// The program.
	for _, l := range []struct{ name, to string }{
		{"canary", "/box/canary/program"}, {"above the root", "../../../../box/canary/program"}, {"by magic link", "/proc/self/cwd/program"}, {"loop", "payload2"},
	} {
		add(kase{name: "program is a link: " + l.name, row: "A12", trap: put("/usr/bin/payload2", bad{make: linkTo(l.to)}), program: "/usr/bin/payload2", refused: "cannot run /usr/bin/payload2"})
	}
	for _, b := range bads[6:] {
		add(kase{name: "program is a " + b.name, row: "A12", trap: put("/usr/bin/payload2", b), program: "payload2", refused: "cannot run payload2"})
	}
	add(kase{name: "program is the launcher: /proc/self/exe", row: "B1", program: "/proc/self/exe", refused: "cannot run"})
	add(kase{name: "program is a link to /proc/self/exe", row: "B1", trap: put("/usr/bin/payload2", bad{make: linkTo("/proc/self/exe")}), program: "/usr/bin/payload2", refused: "cannot run"})
	add(kase{name: "program is the program of process 1", row: "B1", program: "/proc/1/exe", refused: "cannot run /proc/1/exe"})
	add(kase{name: "program is a link to the program of process 1", row: "B1", trap: put("/usr/bin/payload2", bad{make: linkTo("/proc/1/exe")}), program: "/usr/bin/payload2", refused: "cannot run /usr/bin/payload2"})
	// --version is for the launcher, should it run in the machine.
	version := []string{"--version"}
	users := []string{"--private-users=655360:65536", "--private-users-ownership=map"}
	for _, mode := range [][]string{nil, users, {"--as-pid2"}} {
		on := strings.TrimSuffix(", "+strings.Join(mode, " "), ", ")
		refused := "the interpreter of /usr/bin/payload2, is "
		add(kase{name: "interpreter is /proc/self/exe" + on, row: "B1", trap: script("/usr/bin/payload2", "/proc/self/exe"), args: mode, program: "/usr/bin/payload2", words: version, refused: refused + "not in the tree"})
		add(kase{name: "interpreter is the program of process 1" + on, row: "B1", trap: script("/usr/bin/payload2", " /proc/1/exe -D/"), args: mode, program: "/usr/bin/payload2", words: version, refused: refused + "a link in a circle, or one of /proc"})
		if len(mode) < 2 {
			add(kase{name: "twin interpreter" + on, row: "B1", trap: func(w *world) error {
				return errors.Join(os.Symlink("payload", w.tree+"/usr/bin/sh"), script("/usr/bin/payload2", "/bin/sh -x")(w))
			}, args: mode, program: "payload2", words: []string{"read:/etc/os-release"}, check: did("read:/etc/os-release", "=ID=hostile\n")})
		}
	}
	add(kase{name: "interpreter is a link to /proc/self/exe", row: "B1", trap: func(w *world) error {
		return errors.Join(os.Symlink("/proc/self/exe", w.tree+"/usr/bin/sh"), script("/usr/bin/payload2", "/bin/sh")(w))
	}, program: "/usr/bin/payload2", words: version, refused: "/bin/sh, the interpreter of /usr/bin/payload2, is not in the tree"})
	add(kase{name: "interpreter's interpreter is /proc/self/exe", row: "B1", trap: func(w *world) error {
		return errors.Join(script("/usr/bin/sh", "/proc/self/exe")(w), script("/usr/bin/payload2", "/bin/sh")(w))
	}, program: "/usr/bin/payload2", words: version, refused: "/proc/self/exe, the interpreter of /bin/sh, is not in the tree"})
	for _, mode := range [][]string{nil, users} {
		add(kase{name: strings.TrimSpace("loader is /proc/self/exe " + strings.Join(mode, " ")), row: "B1", trap: loaded("/usr/bin/payload2", "/proc/self/exe"), args: mode, program: "/usr/bin/payload2", words: version, ends: 127})
	}
	add(kase{name: "the program is swapped while it is looked at", row: "B1", alone: swapProgram})
	add(kase{name: "program is a directory of the host's", row: "A12", program: "$C/program", refused: "cannot run"})
	add(kase{name: "twin program is a link", row: "A12", trap: put("/usr/bin/payload2", bad{make: linkTo("/bin/payload")}), program: "payload2"})

	// A12, B2: descriptors.
	for n := 3; n <= 64; n++ {
		slow := n > 5 && n != 64
		add(kase{name: fmt.Sprintf("chdir to descriptor %d", n), row: "A12", leak: 61, slow: slow, args: []string{fmt.Sprintf("--chdir=/proc/self/fd/%d", n)}, refused: "no command may start in /proc"})
		if n <= 4 {
			continue // the status pipe and the stub have these numbers
		}
		add(kase{name: fmt.Sprintf("chdir to a link to descriptor %d", n), row: "A12", leak: 61, slow: slow && n != 7, args: []string{"--chdir=/srv/dir"}, trap: put("/srv/dir", bad{make: linkTo(fmt.Sprintf("/proc/self/fd/%d", n))}), refused: "change to /srv/dir"})
	}
	add(kase{name: "chdir to the canary", row: "A12", args: []string{"--chdir=/box/canary"}, refused: "change to /box/canary"})
	add(kase{name: "chdir to where the launcher is", row: "A12", args: []string{"--chdir=/proc/self/cwd"}, refused: "no command may start in /proc"})
	add(kase{name: "twin chdir by link", row: "A12", args: []string{"--chdir=/srv/dir"}, trap: put("/srv/dir", bad{make: linkTo("/mnt")}), cwd: "/mnt"})
	add(kase{name: "leaked descriptors", row: "B2", leak: 198})
	add(kase{name: "leaked descriptors, nearly a thousand", row: "B2", leak: 990, slow: true})
	add(kase{name: "leaked descriptors, terminal", row: "B2", leak: 198, tty: true})
	add(kase{name: "leaked descriptors, users", row: "B2", leak: 198, args: []string{"--private-users=655360:65536", "--private-users-ownership=map"}})
	add(kase{name: "caller's ambient capabilities and groups", row: "B7", ambient: true})
	add(kase{name: "caller's ambient capabilities and groups, users", row: "B7", ambient: true, args: []string{"--private-users=655360:65536", "--private-users-ownership=map"}})

	for _, c := range []kase{
		{name: "twin", row: "A1"},
		{name: "leaked descriptors", row: "B2", leak: 198},
		{name: "leaked descriptors and terminal", row: "B2", leak: 198, tty: true},
		{name: "caller's keys", row: "B9", keys: true},
		{name: "open all programs for writing", row: "B1", words: []string{"exe"}, check: did("exe", "")},
		{name: "push input to the session's terminal", row: "C1", ctty: true, words: []string{"inject"}, check: did("inject", "")},
		{name: "undo masks with users", row: "C6", words: []string{"undo"}, check: did("undo", ""), args: []string{"--private-users=655360:65536", "--private-users-ownership=map"}},
	} {
		c.name, c.args = "as-pid2: "+c.name, append([]string{"--as-pid2"}, c.args...)
		add(c)
	}

	// C1: the caller's terminal.
	add(kase{name: "push input to the caller's terminal", row: "C1", tty: true, words: []string{"inject"}, check: did("inject", "")})
	add(kase{name: "push input to the session's terminal", row: "C1", ctty: true, words: []string{"inject"}, check: did("inject", "")})
	add(kase{name: "push input to the caller's terminal, pipe", row: "C1", tty: true, args: []string{"--console=pipe"}, words: []string{"inject"}, check: did("inject", "")})
	add(kase{name: "push input to the session's terminal, users", row: "C1", ctty: true, words: []string{"inject"}, args: []string{"--private-users=655360:65536", "--private-users-ownership=map"}, check: did("inject", "")})

	// C5: whatever is unmounted inside stays inside.
	sub := func(w *world) error { return unix.Mount("sub", w.canary+"/dir/sub", "tmpfs", 0, "size=64k") }
	noSub := func(w *world) { unix.Unmount(w.canary+"/dir/sub", unix.MNT_DETACH) }
	add(kase{name: "undo everything inside", row: "C5", trap: sub, after: noSub, args: []string{"--bind=$C/dir:/mnt"}, words: []string{"undo"}, shows: []string{"/mnt"}, mounted: []string{"/mnt/sub"}})
	add(kase{name: "a mount made inside a bind", row: "C5", args: []string{"--bind=$C/dir:/mnt"}, words: []string{"mount:/mnt/sub", "mounted:/mnt/sub"}, shows: []string{"/mnt"}, check: did("mounted:/mnt/sub", "yes")})
	add(kase{name: "a mount made on the host, in the tree", row: "C5", alone: mountedLater})
	// C6: with users of its own a machine can't undo its masks.
	for _, more := range [][]string{nil, {"--private-network"}, {"--volatile=overlay"}, {"--volatile=yes"}, {"--bind-ro=$C/dir:/mnt"}} {
		c := kase{name: "undo masks with users " + strings.Join(more, " "), row: "C6", words: []string{"undo"}, check: did("undo", ""),
			args: append([]string{"--private-users=655360:65536", "--private-users-ownership=map"}, more...)}
		if strings.Contains(strings.Join(more, ""), "bind") {
			c.shows = []string{"/mnt"}
		}
		add(c)
	}
	for _, m := range [][]string{users, append([]string{"--private-network"}, users...)} {
		add(kase{name: "undo masks in users of users " + strings.Join(m, " "), row: "C6", words: []string{"nested"}, check: did("nested", ""), args: m})
	}
	add(kase{name: "caller's keys", row: "B9", keys: true})
	add(kase{name: "caller's keys, unfiltered", row: "B9", keys: true, env: []string{"SYSTEMD_SECCOMP=0"}})
	add(kase{name: "caller's keys, users", row: "B9", keys: true, args: users})
	add(kase{name: "the tree is swapped while it is looked at", row: "A1", alone: swapTree})
	add(kase{name: "/usr is swapped while it is looked at", row: "A1", alone: swapUsr})
	add(kase{name: "a launcher that is killed writes no core", row: "B3", alone: noCore})

	// Kinds.
	add(kase{name: "bind a file onto a directory", row: "A1", args: []string{"--bind=$C/dir/file:/srv"}, refused: "/srv is a directory, what goes there is no directory"})
	add(kase{name: "bind a directory onto a file", row: "A1", args: []string{"--bind=$C/dir:/etc/passwd"}, refused: "/etc/passwd is no directory, what goes there is a directory"})
	add(kase{name: "twin bind onto the program's directory", row: "A1", args: []string{"--bind=$C/dir/file:/usr/bin/hosts"}, mounted: []string{"/usr/bin/hosts"}, shows: []string{"/usr/bin/hosts"}})

	return all
}

func all2(a, b func(*world, result) string) func(*world, result) string {
	return func(w *world, r result) string {
		if f := a(w, r); f != "" {
			return f
		}
		return b(w, r)
	}
}

// untouched: what was written inside is not in the tree.
func untouched(dirs ...string) func(*world, result) string {
	return func(w *world, _ result) string {
		for _, dir := range dirs {
			if _, err := os.Lstat(w.tree + dir + "/written-inside"); err == nil {
				return "it was written to the tree's " + dir
			}
		}
		return ""
	}
}

// fifoWith puts a FIFO with text in it in the place of a name.
func fifoWith(name, text string) func(*world) error {
	var reader int
	return func(w *world) error {
		p := w.tree + name
		if err := errors.Join(os.RemoveAll(p), unix.Mkfifo(p, 0o644)); err != nil {
			return err
		}
		// The reading end stays open, so that the text stays; the writing
		// end doesn't, so that a reader would come to its end.
		var err error
		if reader > 0 {
			unix.Close(reader)
		}
		if reader, err = unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err != nil {
			return err
		}
		writer, err := unix.Open(p, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		_, err = unix.Write(writer, []byte(text))
		unix.Close(writer)
		return err
	}
}

// script puts a program into the tree whose first line is given.
func script(name, line string) func(*world) error {
	return func(w *world) error { return os.WriteFile(w.tree+name, []byte("#!"+line+"\n"), 0o755) }
}

// loaded puts a program into the tree that wants to be loaded by another.
func loaded(name, loader string) func(*world) error {
	return func(w *world) error {
		var b bytes.Buffer
		text := loader + "\x00"
		head := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', 2, 1, 1}, Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64),
			Version: 1, Entry: 64, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 2}
		if runtime.GOARCH == "arm64" {
			head.Machine = uint16(elf.EM_AARCH64)
		}
		size := uint64(64 + 2*56 + len(text))
		binary.Write(&b, binary.LittleEndian, head)
		binary.Write(&b, binary.LittleEndian, []elf.Prog64{
			{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: 64 + 2*56, Vaddr: 64 + 2*56, Filesz: uint64(len(text)), Memsz: uint64(len(text))},
			{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Filesz: size, Memsz: size, Align: 0x10000},
		})
		b.WriteString(text)
		return os.WriteFile(w.tree+name, b.Bytes(), 0o755)
	}
}

func did(what, want string) func(*world, result) string {
	return func(_ *world, r result) string {
		if got := r.view.Did[what]; got != want {
			return fmt.Sprintf("%s gave %q, want %q", what, got, want)
		}
		return ""
	}
}

func masked(f string) func(*world, result) string {
	return func(_ *world, r result) string {
		got := r.view.Did["read:"+f]
		i := slices.IndexFunc(r.view.Mounts, func(m Mount) bool { return m.Target == f })
		if i < 0 {
			return "it is not covered"
		}
		if m := r.view.Mounts[i]; m.Root != "/host/inaccessible/reg" || !strings.HasPrefix(m.Flags, "ro") || got != "=" && got != "permission denied" {
			return fmt.Sprintf("covered by %v, reading gives %q", m, got)
		}
		return ""
	}
}

// randomID: the machine's id is its own.
func randomID(_ *world, r result) string {
	for _, e := range r.view.Env {
		if id, ok := strings.CutPrefix(e, "container_uuid="); ok && len(id) == 36 && !strings.Contains(id, "c0ffee") {
			return ""
		}
	}
	return "the machine's id comes from the canary"
}

func hasID(want string) func(*world, result) string {
	return func(_ *world, r result) string {
		if !slices.Contains(r.view.Env, "container_uuid="+want) {
			return "the machine's id is not the tree's"
		}
		return ""
	}
}

// swapTree starts machines while the tree's directory and another one change
// places. What was looked at for the plan must be what runs, or nothing.
func swapTree(w *world, bin string) string {
	const a, b = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	other := filepath.Dir(w.tree) + "/other"
	if err := os.WriteFile(w.tree+"/etc/machine-id", []byte(a), 0o644); err != nil {
		return err.Error()
	}
	if err := os.Rename(w.tree, other); err != nil {
		return err.Error()
	}
	defer os.RemoveAll(other)
	if err := errors.Join(w.grow(false), os.WriteFile(w.tree+"/etc/machine-id", []byte(b), 0o644)); err != nil {
		return err.Error()
	}
	stop := w.swap("tree", "other")
	defer stop()
	c := &kase{words: []string{"read:/etc/machine-id"}}
	ran, refused := 0, 0
	for range 40 {
		r, err := w.start(bin, c)
		switch {
		case err != nil:
			return err.Error()
		case r.view == nil && strings.Contains(r.errs, "replaced while"):
			refused++
		case r.view == nil:
			return fmt.Sprintf("neither ran nor was refused: status %d, %s", r.status, r.errs)
		default:
			ran++
			id := strings.TrimPrefix(r.view.Did["read:/etc/machine-id"], "=")
			for _, e := range r.view.Env {
				if have, ok := strings.CutPrefix(e, "container_uuid="); ok && strings.ReplaceAll(have, "-", "") != id {
					return fmt.Sprintf("planned for the tree %s, ran in %s", have, id)
				}
			}
		}
	}
	if ran == 0 || refused == 0 {
		return fmt.Sprintf("%d ran and %d were refused: the swap was never met", ran, refused)
	}
	return ""
}

// swapUsr starts machines that only get the tree's /usr, while that is by turns
// a directory and a link to a directory of the host's.
func swapUsr(w *world, bin string) string {
	const host = "/box/other"
	defer os.RemoveAll(host)
	err := errors.Join(os.MkdirAll(host+"/bin", 0o755), os.Link("/box/bin/payload", host+"/bin/payload"),
		os.WriteFile(host+"/secret", []byte(bait), 0o600), os.Symlink(host, w.tree+"/link"))
	if err != nil {
		return err.Error()
	}
	dir, err := unix.Open(w.tree, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	stop := swapAt(dir, "usr", "link", 0)
	defer stop()
	c := &kase{args: []string{"--volatile=yes"}}
	ran, refused := 0, 0
	for range 60 {
		r, err := w.start(bin, c)
		switch {
		case err != nil:
			return err.Error()
		case r.view == nil && r.status == 1 && strings.HasPrefix(r.errs, "launch: "):
			refused++
		case r.view == nil:
			return fmt.Sprintf("neither ran nor was refused: status %d, %s", r.status, r.errs)
		case len(r.view.Found) > 0:
			return fmt.Sprintf("a directory of the host's is the machine's /usr: %q", r.view.Found)
		default:
			ran++
		}
	}
	if ran == 0 || refused == 0 {
		return fmt.Sprintf("%d ran and %d were refused: the swap was never met", ran, refused)
	}
	return ""
}

// swapProgram starts machines whose program is by turns a program and a link
// to the launcher's: what the launcher looks at is not what the kernel
// executes.
func swapProgram(w *world, bin string) string {
	err := errors.Join(os.Symlink("/proc/self/exe", w.tree+"/usr/bin/link"), os.Link("/box/bin/payload", w.tree+"/usr/bin/payload2"))
	if err != nil {
		return err.Error()
	}
	dir, err := unix.Open(w.tree+"/usr/bin", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	stop := swapAt(dir, "payload2", "link", 0)
	defer stop()
	c := &kase{program: "/usr/bin/payload2", words: []string{"--version"}}
	ran, refused := 0, 0
	for range 60 {
		r, err := w.start(bin, c)
		switch {
		case err != nil:
			return err.Error()
		case r.view != nil:
			ran++
		case r.status == 1 && strings.HasPrefix(r.errs, "launch: cannot run"):
			refused++
		case r.status == 127 && r.out == "" && r.errs == "":
			// The stub was executed again.
		default:
			return fmt.Sprintf("neither ran nor was refused: status %d, it says %q and %q", r.status, r.out, r.errs)
		}
	}
	if ran == 0 || refused == 0 {
		return fmt.Sprintf("%d ran and %d were refused: the swap was never met", ran, refused)
	}
	return ""
}

// mountedLater mounts something on the tree while the machine runs.
func mountedLater(w *world, bin string) string {
	defer unix.Unmount(w.tree+"/mnt", unix.MNT_DETACH)
	var fault error
	c := &kase{words: []string{"tell:/srv/ready", "wait:/srv/go", "mounted:/mnt"}, during: func(*os.Process) {
		for range 1000 {
			if _, fault = os.Lstat(w.tree + "/srv/ready"); fault == nil {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if fault == nil {
			fault = unix.Mount("later", w.tree+"/mnt", "tmpfs", 0, "size=64k")
		}
		fault = errors.Join(fault, os.WriteFile(w.tree+"/srv/go", nil, 0o644))
	}}
	r, err := w.start(bin, c)
	switch {
	case err != nil || fault != nil:
		return fmt.Sprintf("%v, %v", err, fault)
	case r.view == nil || r.view.Did["wait:/srv/go"] != "there":
		return fmt.Sprintf("the machine did not wait: status %d, %q, %s", r.status, r.out, r.errs)
	case r.view.Did["mounted:/mnt"] != "no":
		return "what the host mounts in the tree appears in the machine"
	}
	return ""
}

// noCore kills a launcher in a way that leaves a core where that is allowed.
func noCore(w *world, bin string) string {
	defer exec.Command(bin, "--cleanup").Run()
	c := &kase{words: []string{"sleep"}, env: []string{"GOTRACEBACK=crash"}, during: func(p *os.Process) {
		unix.Prlimit(p.Pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil)
		for range 1000 {
			// It is beyond its first steps once it has a child.
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Pid))
			for _, t := range tasks {
				if b, _ := os.ReadFile(t); len(b) > 0 {
					p.Signal(unix.SIGABRT)
					return
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
	}}
	r, err := w.start(bin, c)
	os.Remove(w.canary + "/core")
	switch {
	case err != nil:
		return err.Error()
	case r.core:
		return "the launcher wrote a core"
	case r.signal != unix.SIGABRT:
		return fmt.Sprintf("the launcher was not ended by SIGABRT: status %d, %s", r.status, r.errs)
	}
	return ""
}
