// Package probe finds out the facts that a plan is made from. It only reads.
//
// What is not there stays unknown. What is there but can't be read stays
// unknown, too, but is an error beside: a plan may be shown all the same, but a
// machine must not be started from it, since not knowing may mean not
// restricting.
//
// Room: host.
package probe

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/sys"
	"launch/mount"
	"launch/settings"
	"launch/settings/nspawn"
)

// fileMax is more than any file read here has.
const fileMax = 64 << 10

// OpenRoot pins the directory that becomes the machine's root.
func OpenRoot(dir string) (int, error) {
	n, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("open the directory %s: %w", dir, err)
	}
	return n, nil
}

// RealPath gives the path of a directory without links; "" if it has none that
// can be reached.
func RealPath(n int) (string, error) {
	text, err := sys.PathOf(n)
	if err != nil {
		return "", err
	}
	// The kernel marks what was removed in the text alone.
	at, err := sys.Openat2(unix.AT_FDCWD, text, unix.O_PATH|unix.O_DIRECTORY, 0, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		if missing(err) {
			return "", nil
		}
		return "", err
	}
	defer sys.Close(at)
	var is, was unix.Statx_t
	if err = sys.StatxFd(at, unix.STATX_INO, &is); err == nil {
		err = sys.StatxFd(n, unix.STATX_INO, &was)
	}
	if err != nil || is.Ino != was.Ino || is.Dev_major != was.Dev_major || is.Dev_minor != was.Dev_minor {
		return "", err
	}
	return text, nil
}

// ErrLeadsNowhere: what stands in a directory's place is a link.
var ErrLeadsNowhere = errors.New("a link to what is not there")

// OpenTree pins the tree that a machine will run from: its directory or, where
// that is missing, the template, and says where the directory is to be made.
func OpenTree(directory, template string) (n int, parent string, missing bool, err error) {
	n, err = OpenRoot(directory)
	if template == "" || !errors.Is(err, unix.ENOENT) {
		return n, "", false, err
	}
	up, err := OpenRoot(path.Dir(directory))
	if err != nil {
		return -1, "", false, err
	}
	defer sys.Close(up)
	switch to, err := sys.Readlinkat(up, path.Base(directory)); err {
	case nil:
		return -1, "", false, fmt.Errorf("cannot make %s of a template: it is %w, %s", directory, ErrLeadsNowhere, to)
	case unix.ENOENT, unix.EINVAL: // not there, or no link
	default:
		return -1, "", false, fmt.Errorf("look at %s: %w", directory, err)
	}
	if parent, err = RealPath(up); err == nil && parent == "" {
		err = unix.ENOENT
	}
	if err != nil {
		return -1, "", false, fmt.Errorf("look at the path of %s: %w", path.Dir(directory), err)
	}
	n, err = OpenRoot(template)
	return n, parent, true, err
}

// look keeps the first thing that went wrong.
type look struct{ err error }

func (l *look) fail(what string, err error) {
	if l.err == nil {
		l.err = fmt.Errorf("%s: %w", what, err)
	}
}

// missing are the errors that say that nothing is there, or nothing that we
// could mean.
func missing(err error) bool {
	return err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP
}

// Root looks at the tree behind the descriptor. If another directory of it is
// to become the root (pivot), what is in the tree is looked up there.
func Root(n int, pivot string) (facts.Root, error) {
	var r facts.Root
	var l look
	st, err := sys.Statx(n, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return r, fmt.Errorf("look at the tree: %w", err)
	}
	r.Known = true
	r.UID, r.GID = st.Uid, st.Gid
	r.MountPoint = st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
	if r.Path, err = RealPath(n); err != nil {
		l.fail("look at the tree's path", err)
	}
	if pivot != "" {
		// The range of users is the tree's, the rest is the new root's.
		if n, err = sys.Openat2(n, pivot, unix.O_PATH|unix.O_DIRECTORY, 0, sys.InRoot); err != nil {
			return facts.Root{}, fmt.Errorf("open %s of the tree: %w", pivot, err)
		}
		defer sys.Close(n)
	}
	// Of /usr, it matters what it leads to.
	r.Bin, r.Usr, r.Var = l.kind(n, "bin"), l.kind(n, "usr/."), l.kind(n, "var")
	r.UsrBin, r.UsrSbin, r.UsrLib = l.kind(n, "usr/bin"), l.kind(n, "usr/sbin"), l.kind(n, "usr/lib")
	r.Loader64 = l.loader(n, "usr/")
	r.OSRelease = l.exists(n, "etc/os-release") || l.exists(n, "usr/lib/os-release")
	if r.MachineID, err = machineID(n, "etc/machine-id"); err != nil {
		l.fail("read /etc/machine-id of the tree", err)
	}
	return r, l.err
}

// machineID reads a tree's machine id, 32 hex digits; "" if there is none.
func machineID(n int, name string) (string, error) {
	b, err := read(n, name)
	switch {
	case err == nil:
		id := strings.TrimSpace(string(b))
		if _, err := hex.DecodeString(id); err == nil && len(id) == 32 && id != strings.Repeat("0", 32) {
			return strings.ToLower(id), nil
		}
	case !missing(err) && err != unix.EINVAL && err != unix.EFBIG: // no file, or none with an id
		return "", err
	}
	return "", nil
}

// loaders are what the dynamic loaders of 64-bit architectures are called.
var loaders = [...]string{"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}

// loader tells in which directory of /usr, seen from n as usr, the dynamic
// loader is, as seen from the root; "" if there is none.
func (l *look) loader(n int, usr string) string {
	for _, name := range loaders {
		for _, lib := range [...]string{"lib64", "lib"} {
			if l.exists(n, usr+lib+"/"+name) {
				return "usr/" + lib
			}
		}
	}
	return ""
}

// kind tells what a name of the tree is; a link in the last place is not
// followed, those before it stay inside.
func (l *look) kind(n int, name string) facts.Kind {
	fd, err := sys.Openat2(n, name, unix.O_PATH|unix.O_NOFOLLOW, 0, sys.InRoot)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return facts.Absent
	}
	if err != nil {
		l.fail("open "+path.Clean("/"+name)+" of the tree", err)
		return facts.Unknown
	}
	st, err := sys.Statx(fd, "", unix.STATX_TYPE)
	sys.Close(fd)
	if err != nil {
		l.fail("look at /"+name+" of the tree", err)
		return facts.Unknown
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return facts.Dir
	case unix.S_IFREG:
		return facts.File
	case unix.S_IFLNK:
		return facts.Link
	}
	return facts.Other
}

func (l *look) exists(n int, name string) bool {
	how, what := uint64(sys.InRoot), "open /"+name+" of the tree"
	if n == unix.AT_FDCWD {
		how, what = 0, "open "+name
	}
	fd, err := sys.Openat2(n, name, unix.O_PATH, 0, how)
	if err != nil {
		if !missing(err) {
			l.fail(what, err)
		}
		return false
	}
	sys.Close(fd)
	return true
}

// read reads a small regular file of the tree.
func read(n int, name string) ([]byte, error) {
	return sys.ReadIn(n, name, sys.InRoot, fileMax)
}

// file reads a file of the host's; ok is false when it is not there.
func (l *look) file(path string) (text string, ok bool) {
	b, err := sys.ReadFile(unix.AT_FDCWD, path, fileMax)
	if err != nil && !missing(err) {
		l.fail("read "+path, err)
	}
	return string(b), err == nil
}

// Host looks at the host. env is the launcher's environment.
func Host(env []string) (facts.Host, error) {
	var h facts.Host
	var l look
	h.Known = true
	h.Root = unix.Geteuid() == 0
	h.Hostname = l.hostname()
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if s, ok := l.file(name); ok {
			h.OSRelease = name
			h.OSFields = osFields(s)
			break
		}
	}
	h.Cgroup, h.CgroupMount = l.cgroup()
	h.Systemd = l.exists(unix.AT_FDCWD, "/run/systemd/system")
	there := func(kind string) bool { return l.exists(unix.AT_FDCWD, settings.ResolvFile(kind)) }
	h.Resolv = facts.Resolv{Host: there("host"), Static: there("static"), Uplink: there("uplink"), Stub: there("stub")}
	h.Localtime, h.Zone = l.localtime()
	h.StdinTTY, h.StdoutTTY, h.StderrTTY = l.tty(0, "input"), l.tty(1, "output"), l.tty(2, "error")
	// Asked only where it matters.
	h.Pipeline = h.StdinTTY && (!h.StdoutTTY && l.pipe(1, "output") || !h.StderrTTY && l.pipe(2, "error"))
	h.Fuse, h.Tun = l.opens("/dev/fuse"), l.opens("/dev/net/tun")
	h.Kcore = l.exists(unix.AT_FDCWD, "/proc/kcore")
	for _, e := range env {
		switch k, v, _ := strings.Cut(e, "="); k {
		case "TERM":
			h.Term = v
		case "COLORTERM":
			h.Colorterm = v
		case "NO_COLOR":
			h.NoColor = v
		case "COLUMNS":
			h.Columns = characters(v)
		case "LINES":
			h.Lines = characters(v)
		}
	}
	h.Processes, h.Signals = l.init()
	if s, ok := l.file("/proc/sys/fs/nr_open"); ok {
		h.OpenMax, _ = strconv.ParseUint(strings.TrimSpace(s), 10, 64)
	}
	if s, ok := l.file("/proc/self/status"); ok {
		h.Caps = facts.StatusMask(s, "CapBnd:")
		h.Ignored = facts.StatusMask(s, "SigIgn:")
		h.Raise = facts.StatusMask(s, "CapEff:")>>unix.CAP_SYS_RESOURCE&1 == 1
	} else {
		// Without it nobody would know which capabilities to drop.
		l.fail("read /proc/self/status", unix.ENOENT)
	}
	h.Listen, h.ListenNames = l.listen(env)
	for i := range h.Limits {
		var err error
		if h.Limits[i], err = sys.Getrlimit(i); err != nil {
			l.fail(fmt.Sprintf("get resource limit %d", i), err)
		}
	}
	h.UserNamespaces = l.exists(unix.AT_FDCWD, "/proc/self/ns/user")
	const nobody = "4294967295"
	if s, ok := l.file("/proc/self/loginuid"); ok && s != nobody {
		h.LoginUID = s
	}
	return h, l.err
}

// mostListen is how many descriptors a launcher may be started with.
const mostListen = 4096

// listen gives the descriptors of socket activation. Those that aren't there
// would be the launcher's own in a moment.
func (l *look) listen(env []string) (n int, names string) {
	pid := ""
	for _, e := range env {
		switch k, v, _ := strings.Cut(e, "="); k {
		case "LISTEN_FDS":
			n, _ = strconv.Atoi(v)
		case "LISTEN_PID":
			pid = v
		case "LISTEN_FDNAMES":
			names = v
		}
	}
	if n <= 0 || pid != strconv.Itoa(os.Getpid()) {
		return 0, ""
	}
	if n > mostListen {
		l.fail("look at the descriptors of $LISTEN_FDS", unix.E2BIG)
		return 0, ""
	}
	for i := range n {
		if flags, err := sys.DescriptorFlags(3 + i); err != nil || flags&unix.FD_CLOEXEC != 0 {
			l.fail(fmt.Sprintf("look at descriptor %d of $LISTEN_FDS", 3+i), unix.EBADF)
			return 0, ""
		}
	}
	return n, names
}

func (l *look) hostname() string {
	s, err := sys.Hostname()
	if err != nil {
		l.fail("get the host name", err)
	}
	return s
}

// Hostname gives the host's name alone, "" if it can't be read.
func Hostname() string {
	var l look
	return l.hostname()
}

// init gives process 1's limits of processes and of pending signals. Users who may
// not ask the kernel can read them, which takes longer.
func (l *look) init() (processes, signals [2]uint64) {
	processes, err := sys.RlimitOf(1, unix.RLIMIT_NPROC)
	if err == nil {
		signals, err = sys.RlimitOf(1, unix.RLIMIT_SIGPENDING)
	}
	if err != nil {
		s, _ := l.file("/proc/1/limits")
		processes, signals = limit(s, "Max processes"), limit(s, "Max pending signals")
	}
	return processes, signals
}

// limit reads a line of /proc/PID/limits.
func limit(text, name string) (l [2]uint64) {
	_, rest, ok := strings.Cut(text, name)
	if !ok {
		return l
	}
	f := strings.Fields(rest)
	for i := range l {
		if i < len(f) && f[i] == "unlimited" {
			l[i] = unix.RLIM_INFINITY
		} else if i < len(f) {
			l[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
	}
	return l
}

func (l *look) tty(n int, word string) bool {
	_, err := sys.TermGet(n)
	switch err {
	case nil, unix.EIO:
		// Only a terminal can be hung up, or have no line. Taken for another
		// file, it would be handed to the machine.
		return true
	case unix.ENOTTY, unix.EINVAL, unix.EBADF, unix.ENXIO, unix.ENODEV: // another file, or none
	default:
		l.fail("ask whether standard "+word+" is a terminal", err)
	}
	return false
}

// pipe tells whether somebody else reads what is written there.
func (l *look) pipe(n int, word string) bool {
	st, err := sys.Statx(n, "", unix.STATX_TYPE)
	if err != nil {
		l.fail("look at standard "+word, err)
	}
	kind := st.Mode & unix.S_IFMT
	return kind == unix.S_IFIFO || kind == unix.S_IFSOCK
}

// characters reads a size; what is none is 0.
func characters(text string) uint16 {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0
	}
	return uint16(n)
}

// Terminal tells whether a descriptor of the launcher's is a terminal.
func Terminal(n int) bool {
	_, err := sys.TermGet(n)
	return err == nil
}

// opens gives the permissions of a device that can be used, else 0.
func (l *look) opens(path string) uint32 {
	n, err := sys.Openat(unix.AT_FDCWD, path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	switch {
	case err == nil:
	case missing(err), err == unix.ENXIO, err == unix.ENODEV, err == unix.EPERM, err == unix.EACCES, err == unix.EROFS:
		return 0 // no driver, or not for us
	default:
		l.fail("open "+path, err)
		return 0
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_MODE)
	if err != nil {
		l.fail("look at "+path, err)
		return 0
	}
	return uint32(st.Mode) & 0o777
}

// cgroup finds the cgroup2 hierarchy and the launcher's place in it.
func (l *look) cgroup() (own, mount string) {
	text, _ := l.file("/proc/self/cgroup")
	for line := range strings.SplitSeq(text, "\n") {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			own = p
		}
	}
	if own == "" || strings.HasPrefix(own, "/..") {
		return "", ""
	}
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		n, err := sys.Openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			if !missing(err) {
				l.fail("open "+dir, err)
			}
			continue
		}
		st, err := sys.Fstatfs(n)
		sys.Close(n)
		if err != nil {
			l.fail("look at "+dir, err)
		}
		if err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return own, dir
		}
	}
	return "", ""
}

func osFields(text string) (f facts.OSFields) {
	for line := range strings.SplitSeq(text, "\n") {
		k, v, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		v = unquoted(v)
		switch strings.TrimLeft(k, " \t") {
		case "ID":
			f.ID = v
		case "VERSION_ID":
			f.VersionID = v
		case "BUILD_ID":
			f.BuildID = v
		case "VARIANT_ID":
			f.VariantID = v
		}
	}
	return f
}

// unquoted reads a value as a shell would, and as systemd does: quotes have a meaning
// at the beginning, and behind others.
func unquoted(text string) string {
	const blank = " \t\r"
	var b []byte
	var quote byte // that is open; 'v': none, and none can be opened any more
	kept := 0      // blanks at the end are left out, unless they were quoted
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case (quote == '\'' || quote == '"') && c == quote:
			quote = 0
			continue
		case quote == 0 && strings.IndexByte(blank, c) >= 0:
			continue
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
			continue
		case quote == 0:
			quote = 'v'
		}
		bare := c
		if c == '\\' && quote != '\'' && i+1 < len(text) && (quote == 'v' || strings.IndexByte("\"\\`$", text[i+1]) >= 0) {
			i++
			c = text[i]
		}
		b = append(b, c)
		if quote != 'v' || strings.IndexByte(blank, bare) < 0 {
			kept = len(b)
		}
	}
	return string(b[:kept])
}

// NewID gives a fresh random id, 32 hex digits, in the form of a version 4
// UUID.
func NewID() (string, error) {
	var b [16]byte
	if err := sys.Random(b[:]); err != nil {
		return "", fmt.Errorf("get random bytes: %w", err)
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return hex.EncodeToString(b[:]), nil
}

// localtime tells what the host's /etc/localtime is, and the zone it names.
func (l *look) localtime() (facts.Kind, string) {
	st, err := sys.Statx(unix.AT_FDCWD, "/etc/localtime", unix.STATX_TYPE)
	if err == unix.ENOENT {
		return facts.Absent, ""
	}
	if err != nil {
		l.fail("look at /etc/localtime", err)
		return facts.Unknown, ""
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return facts.File, ""
	case unix.S_IFLNK:
		to, err := sys.Readlinkat(unix.AT_FDCWD, "/etc/localtime")
		if err != nil {
			l.fail("read the link /etc/localtime", err)
		}
		_, zone, _ := strings.Cut(to, "/zoneinfo/")
		return facts.Link, zone
	}
	return facts.Other, ""
}

// NewSuffix gives the 16 hex digits that make the name of a throw-away copy
// unlike any other.
func NewSuffix() (string, error) {
	var b [8]byte
	if err := sys.Random(b[:]); err != nil {
		return "", fmt.Errorf("get random bytes: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// SettingsFile reads a machine's settings. Only a regular file is read. In a
// directory of the administrator it may be a link, which may lead to /dev/null
// and is then as an empty file; beside a tree, which somebody else may have made,
// a link is not followed.
func SettingsFile(c nspawn.Candidate) ([]byte, error) {
	how := unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY
	if !c.Trusted {
		how |= unix.O_NOFOLLOW
	}
	n, err := sys.Openat(unix.AT_FDCWD, c.Path, how, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_UID)
	if err != nil {
		return nil, err
	}
	const null = 1<<8 | 3
	if c.Trusted && st.Mode&unix.S_IFMT == unix.S_IFCHR && unix.Mkdev(st.Rdev_major, st.Rdev_minor) == null {
		return nil, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("it is no regular file: %w", unix.EINVAL)
	}
	return sys.ReadAll(n, nspawn.MaxSize)
}

// Journal looks at where the host has, or would have, the journal of the
// machine with that id. told: somebody asked for it.
func Journal(id string, told bool) (facts.Journal, error) {
	const dir = "/var/log/journal"
	j := facts.Journal{Known: true, Kind: facts.Absent}
	var l look
	st, err := sys.Statx(unix.AT_FDCWD, dir+"/"+id, unix.STATX_TYPE)
	switch {
	case missing(err):
		j.Parent = l.exists(unix.AT_FDCWD, dir)
	case err != nil:
		l.fail("look at "+dir+"/"+id, err)
	default:
		j.Parent = true
		j.Mounted = st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			j.Kind = facts.Dir
		case unix.S_IFREG:
			j.Kind = facts.File
		case unix.S_IFLNK:
			j.Kind = facts.Link
			if j.Link, err = sys.Readlinkat(unix.AT_FDCWD, dir+"/"+id); err != nil {
				l.fail("read the link "+dir+"/"+id, err)
			}
		default:
			j.Kind = facts.Other
		}
	}
	if told || j.Kind != facts.Absent {
		text, _ := l.file("/etc/machine-id")
		j.HostID = strings.TrimSpace(text)
	}
	return j, l.err
}

// Receiver looks for systemd-journal-remote: in $PATH, and where it usually is.
func Receiver(search string) (facts.Receiver, error) {
	const name = "systemd-journal-remote"
	for _, dir := range strings.Split(search+":/usr/lib/systemd:/lib/systemd", ":") {
		if !path.IsAbs(dir) {
			continue
		}
		file := path.Join(dir, name)
		st, err := sys.Statx(unix.AT_FDCWD, file, unix.STATX_TYPE|unix.STATX_MODE)
		if err != nil && !missing(err) && err != unix.EACCES {
			return facts.Receiver{}, fmt.Errorf("look for %s: %w", file, err)
		}
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0 {
			return facts.Receiver{Known: true, Path: file}, nil
		}
	}
	return facts.Receiver{Known: true}, nil
}

// Network looks at what decides about the machine's interfaces. mount is where
// the host's cgroups are.
func Network(mount string) (facts.Network, error) {
	var l look
	id, _ := l.file("/etc/machine-id")
	n := facts.Network{Known: true, HostID: strings.TrimSpace(id)}
	// A service that does not run has no cgroup.
	n.Managed = mount != "" && l.exists(unix.AT_FDCWD, mount+"/system.slice/systemd-networkd.service")
	return n, l.err
}

// perMachine is how many inotify instances a booted system has at least: its
// systemd some, and each of its services one.
const perMachine = 8

// Devices finds the device nodes among the sources of bind mounts, links followed
// as the mount does. What is missing may be so.
func Devices(mounts []mount.Mount) (list []facts.Device, err error) {
	var l look
	for _, m := range mounts {
		if m.Kind != mount.Bind || m.Source.InRoot || m.Source.Temp {
			continue
		}
		var st unix.Statx_t
		n, err := sys.Openat(unix.AT_FDCWD, m.Source.Path, unix.O_PATH, 0)
		if err == nil {
			err = sys.StatxFd(n, unix.STATX_TYPE, &st)
			sys.Close(n)
		}
		if err != nil {
			if !missing(err) {
				l.fail("look at "+m.Source.Path, err)
			}
			continue
		}
		kind := st.Mode & unix.S_IFMT
		if kind == unix.S_IFCHR || kind == unix.S_IFBLK {
			list = append(list, facts.Device{Path: m.Source.Path, Block: kind == unix.S_IFBLK, Major: st.Rdev_major, Minor: st.Rdev_minor})
		}
	}
	return list, l.err
}

// Watches looks whether a machine that is booted can watch files. Those of all
// users of its user namespace count as the launcher's, too.
func Watches() (w facts.Watches, err error) {
	var l look
	text, ok := l.file("/proc/sys/fs/inotify/max_user_instances")
	if !ok {
		return w, l.err
	}
	w.Known = true
	w.Most, _ = strconv.Atoi(strings.TrimSpace(text))
	for range perMachine {
		n, err := sys.InotifyInit(unix.IN_CLOEXEC)
		if err != nil {
			w.Few = err == unix.EMFILE
			break
		}
		defer sys.Close(n)
	}
	return w, l.err
}

// SELinux tells whether the kernel has it and it is at work, which shows by a file
// system of its own.
func SELinux() bool {
	_, err := sys.Statx(unix.AT_FDCWD, "/sys/fs/selinux/enforce", unix.STATX_TYPE)
	return err == nil
}
