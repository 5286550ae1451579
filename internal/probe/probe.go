// Package probe finds out the facts that a plan is made from. It only reads.
//
// What it can't read stays unknown; only a root directory that can't be
// opened is an error.
//
// Room: host.
package probe

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/facts"
	"launch/internal/sys"
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

// inTree is how a name of the tree is looked up.
const inTree = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS

// Root looks at the tree behind the descriptor.
func Root(n int) facts.Root {
	var r facts.Root
	st, err := sys.Statx(n, "", unix.STATX_BASIC_STATS)
	if err != nil {
		return r
	}
	r.Known = true
	r.UID, r.GID = st.Uid, st.Gid
	r.Bin, r.Usr, r.Var = kind(n, "bin"), kind(n, "usr"), kind(n, "var")
	r.UsrBin, r.UsrSbin, r.UsrLib = kind(n, "usr/bin"), kind(n, "usr/sbin"), kind(n, "usr/lib")
	for _, name := range loaders {
		for _, lib := range []string{"usr/lib64", "usr/lib"} {
			if r.Loader64 == "" && exists(n, lib+"/"+name) {
				r.Loader64 = lib
			}
		}
	}
	r.OSRelease = exists(n, "etc/os-release") || exists(n, "usr/lib/os-release")
	if b, err := read(n, "etc/machine-id"); err == nil {
		id := strings.TrimSpace(string(b))
		if _, err := hex.DecodeString(id); err == nil && len(id) == 32 && id != strings.Repeat("0", 32) {
			r.MachineID = strings.ToLower(id)
		}
	}
	return r
}

// loaders are what the dynamic loaders of 64-bit architectures are called.
var loaders = [...]string{"ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}

// kind tells what a name of the tree is; a link in the last place is not
// followed, those before it stay inside.
func kind(n int, name string) facts.Kind {
	fd, err := sys.Openat2(n, name, unix.O_PATH|unix.O_NOFOLLOW, 0, inTree)
	if err == unix.ENOENT || err == unix.ENOTDIR {
		return facts.Absent
	}
	if err != nil {
		return facts.Unknown
	}
	st, err := sys.Statx(fd, "", unix.STATX_TYPE)
	sys.Close(fd)
	if err != nil {
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

func exists(n int, name string) bool {
	how := uint64(inTree)
	if n == unix.AT_FDCWD {
		how = 0
	}
	fd, err := sys.Openat2(n, name, unix.O_PATH, 0, how)
	if err != nil {
		return false
	}
	sys.Close(fd)
	return true
}

// read reads a small regular file of the tree.
func read(n int, name string) ([]byte, error) {
	return sys.ReadIn(n, name, inTree, fileMax)
}

// Host looks at the host. env is the launcher's environment.
func Host(env []string) facts.Host {
	var h facts.Host
	h.Known = true
	h.Root = unix.Geteuid() == 0
	if b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/sys/kernel/hostname", fileMax); err == nil {
		h.Hostname = strings.TrimSpace(string(b))
	}
	for _, name := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		if b, err := sys.ReadFile(unix.AT_FDCWD, name, fileMax); err == nil {
			h.OSRelease = name
			h.OSFields = osFields(string(b))
			break
		}
	}
	h.Cgroup, h.CgroupMount = cgroup()
	h.StdinTTY, h.StdoutTTY = tty(0), tty(1)
	h.Fuse, h.Tun = opens("/dev/fuse"), opens("/dev/net/tun")
	h.Kcore = exists(unix.AT_FDCWD, "/proc/kcore")
	for _, e := range env {
		switch k, v, _ := strings.Cut(e, "="); k {
		case "TERM":
			h.Term = v
		case "COLORTERM":
			h.Colorterm = v
		case "NO_COLOR":
			h.NoColor = v
		}
	}
	if b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/1/limits", fileMax); err == nil {
		h.Processes, h.Signals = limit(string(b), "Max processes"), limit(string(b), "Max pending signals")
	}
	if b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/sys/fs/nr_open", fileMax); err == nil {
		h.OpenMax, _ = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	}
	for i := range h.Limits {
		h.Limits[i], _ = sys.Getrlimit(i)
	}
	if b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/self/status", fileMax); err == nil {
		h.Caps = hexField(string(b), "CapBnd:")
		h.Ignored = hexField(string(b), "SigIgn:")
		h.Raise = hexField(string(b), "CapEff:")>>unix.CAP_SYS_RESOURCE&1 == 1
	}
	h.UserNamespaces = exists(unix.AT_FDCWD, "/proc/self/ns/user")
	return h
}

func hexField(status, key string) uint64 {
	_, rest, _ := strings.Cut(status, "\n"+key)
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	return n
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

func tty(n int) bool {
	_, err := sys.TermGet(n)
	return err == nil
}

// opens gives the permissions of a device that can be used, else 0.
func opens(path string) uint32 {
	n, err := sys.Openat(unix.AT_FDCWD, path, unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_MODE)
	if err != nil {
		return 0
	}
	return uint32(st.Mode) & 0o777
}

// cgroup finds the cgroup2 hierarchy and the launcher's place in it.
func cgroup() (own, mount string) {
	b, err := sys.ReadFile(unix.AT_FDCWD, "/proc/self/cgroup", fileMax)
	if err != nil {
		return "", ""
	}
	for line := range strings.SplitSeq(string(b), "\n") {
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
			continue
		}
		st, err := sys.Fstatfs(n)
		sys.Close(n)
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
		v = strings.Trim(strings.TrimSpace(v), `"'`)
		switch k {
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

// Image finds the tree of a machine by its name, where systemd keeps them.
func Image(name string) (directory string, ok bool) {
	for _, dir := range settings.ImageDirs {
		n, err := sys.Openat(unix.AT_FDCWD, dir+"/"+name, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err == nil {
			sys.Close(n)
			return dir + "/" + name, true
		}
	}
	return "", false
}

// SettingsFile reads a machine's settings. A link is not followed and nothing
// but a regular file is read: the file may lie beside a tree that somebody else
// made.
func SettingsFile(path string) ([]byte, error) {
	n, err := sys.Openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer sys.Close(n)
	st, err := sys.Statx(n, "", unix.STATX_TYPE|unix.STATX_UID)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("it is no regular file: %w", unix.EINVAL)
	}
	return sys.ReadAll(n, nspawn.MaxSize)
}
