// Package tree makes the OS trees that root tests start: a bootable Debian, and
// a tiny one of busybox and the probe. It guarantees that a tree is made once,
// however many test binaries ask for it at the same time, that the cached tree
// is never handed out itself but only copied, and that nothing about mirrors
// is written down here: it asks the host's apt. It refuses to know launchers.
//
//	dir := tree.Copy(t, tree.Debian(t))
//
// Room: test.
package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Suite is the Debian release of the trees.
const Suite = "bookworm"

// Packages is what a bootable tree needs beside the essential packages.
var Packages = []string{"systemd", "systemd-sysv", "dbus", "libpam-systemd", "iproute2", "procps"}

// left out of the tree: a third of its files, and no test looks at them. Each
// boot test copies the tree, so this is most of its time.
var left = []string{
	"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*", "/usr/share/locale/*",
	"/usr/share/lintian/*", "/usr/share/bug/*", "/usr/share/zoneinfo/*", "/usr/share/i18n/*",
	"/usr/lib/x86_64-linux-gnu/gconv/*", "/usr/lib/aarch64-linux-gnu/gconv/*",
}

// A mask is a unit that cannot work where the tests run, or disturbs them.
type mask struct{ unit, why string }

// masks are put where a volatile machine, which only has /usr, finds them too.
var masks = []mask{
	{"console-getty.service", "hangs up the console when it starts, which cuts off whatever is being written there"},
	{"apt-daily.timer", "would reach for the network of whoever runs the tests"},
	{"apt-daily-upgrade.timer", "as apt-daily.timer"},
	{"dpkg-db-backup.timer", "its first run falls into the test when the tree is old"},
	{"e2scrub_all.timer", "looks at the disks of the outer machine"},
	{"e2scrub_reap.service", "as e2scrub_all.timer"},
	{"dev-hugepages.mount", "a mount that a nested machine may be refused, depending on the outer one"},
	{"sys-fs-fuse-connections.mount", "as dev-hugepages.mount"},
	{"sys-kernel-debug.mount", "would show the outer machine's debugfs where that is allowed"},
	{"sys-kernel-tracing.mount", "as sys-kernel-debug.mount"},
	{"systemd-firstboot.service", "asks questions on the console when /etc is empty (--volatile=yes)"},
}

// Cache is the directory where trees are kept between runs.
func Cache() string {
	if d := os.Getenv("LAUNCH_TEST_CACHE"); d != "" {
		return d
	}
	return "/var/cache/launch-test"
}

// NeedRoot skips the test where it can't have what root tests need.
func NeedRoot(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
}

// Debian gives the path of a bootable Debian tree, which is made when it is
// not there yet (about 40 s). It is to be copied, never used.
func Debian(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	id := []string{"2", Suite, runtime.GOARCH} // count up when makeDebian changes
	id = append(id, Packages...)
	id = append(id, left...)
	for _, m := range masks {
		id = append(id, m.unit)
	}
	return cached(t, "debian", strings.Join(id, "\n"), makeDebian)
}

func makeDebian(dir string) error { return debian(dir, Suite, Packages, masks) }

func debian(dir, suite string, packages []string, masks []mask) error {
	sources, err := sourcesOf(suite)
	if err != nil {
		return err
	}
	args := []string{"--quiet", "--variant=minbase", "--include=" + strings.Join(packages, ",")}
	if suite != Suite {
		args = append(args, stale...)
	}
	for _, opt := range aptAcquire() {
		args = append(args, "--aptopt="+opt)
	}
	for _, l := range left {
		args = append(args, "--dpkgopt=path-exclude="+l)
	}
	args = append(args, suite, dir)
	if err := mmdebstrap(append(args, sources...)); err != nil {
		return err
	}
	local := filepath.Join(dir, "usr/local/lib/systemd/system")
	if err := os.MkdirAll(local, 0o755); err != nil {
		return err
	}
	for _, m := range masks {
		if err := os.Symlink("/dev/null", filepath.Join(local, m.unit)); err != nil {
			return err
		}
	}
	// mmdebstrap copies these from the host.
	for _, f := range []string{"etc/hostname", "etc/resolv.conf"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	// A machine id of its own, so that no boot is the first boot and every
	// launcher is given the same id.
	id := filepath.Join(dir, "etc/machine-id")
	if err := os.Remove(id); err != nil && !os.IsNotExist(err) {
		return err
	}
	return os.WriteFile(id, []byte(MachineID+"\n"), 0o444)
}

// mmdebstrap runs it in mount and pid namespaces of its own: it mounts /proc,
// /sys and parts of /dev in the tree, and where it was killed, or outlived a
// test binary that was, they would still be there when the half made tree is
// removed.
func mmdebstrap(args []string) error {
	runtime.LockOSThread() // whose end would be the end of the command
	defer runtime.UnlockOSThread()
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc", "mmdebstrap"}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("mmdebstrap: %w\n%s", err, out)
	}
	return nil
}

// MachineID is the id in /etc/machine-id of every tree.
const MachineID = "6c61756e636841a5b6c7d8e9f0a1b2c3"

// aptSources gives the host's sources for a suite and what goes with it
// (updates, security), as lines for sources.list. apt answers with what it
// really uses, whatever the format of its files.
func aptSources(suite string) ([]string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format",
		"$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SIGNED_BY)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get indextargets: %w", err)
	}
	var lines []string
	for l := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSpace(l), "\t")
		if len(f) < 3 || f[1] != suite && !strings.HasPrefix(f[1], suite+"-") {
			continue
		}
		signed := ""
		if len(f) == 4 && strings.HasPrefix(f[3], "/") {
			signed = "[signed-by=" + f[3] + "] "
		}
		line := "deb " + signed + f[0] + " " + f[1] + " " + f[2]
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("the host's apt has no source for %s", suite)
	}
	return lines, nil
}

// aptAcquire gives the host's settings for fetching (proxies, checks of
// dates), as mmdebstrap takes them.
func aptAcquire() []string {
	out, err := exec.Command("apt-config", "dump", "Acquire").Output()
	if err != nil {
		return nil
	}
	var opts []string
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSpace(l)
		for _, p := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"} {
			if strings.HasPrefix(l, p) && !strings.HasSuffix(l, ` "";`) {
				opts = append(opts, strings.TrimSuffix(l, ";"))
			}
		}
	}
	return opts
}

// Tiny gives the path of a tree of a few files: busybox as the shell and its
// tools, and the probe as /usr/bin/probe.
func Tiny(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "apt-get", "dpkg-deb", "gcc")
	probe := Probe(t)
	return cached(t, "tiny", "4\n"+probe, func(dir string) error { return makeTiny(dir, probe) })
}

func makeTiny(dir, probe string) error {
	deb, err := os.MkdirTemp("", "launch-deb-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(deb)
	get := exec.Command("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "busybox-static")
	get.Dir = deb
	if out, err := get.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get download busybox-static: %w\n%s", err, out)
	}
	found, _ := filepath.Glob(filepath.Join(deb, "*.deb"))
	if len(found) != 1 {
		return fmt.Errorf("apt-get download gave %d packages", len(found))
	}
	if out, err := exec.Command("dpkg-deb", "-x", found[0], filepath.Join(deb, "x")).CombinedOutput(); err != nil {
		return fmt.Errorf("dpkg-deb: %w\n%s", err, out)
	}
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/lib", "etc", "var/tmp", "var/log", "proc", "sys", "dev", "run", "tmp", "root",
		"mnt/file-parent", "srv", "opt/data", "home/alice"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range [][2]string{{"bin", "usr/bin"}, {"sbin", "usr/sbin"}, {"lib", "usr/lib"}} {
		if err := os.Symlink(l[1], filepath.Join(dir, l[0])); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(dir, "root"), 0o700); err != nil {
		return err
	}
	if err := os.Chown(filepath.Join(dir, "home/alice"), 1000, 1000); err != nil {
		return err
	}
	for _, f := range []struct {
		from, to string
	}{{filepath.Join(deb, "x/bin/busybox"), "usr/bin/busybox"}, {probe, "usr/bin/probe"}} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, f.to), b, 0o755); err != nil {
			return err
		}
	}
	for _, name := range strings.Fields("sh cat ls id env sleep kill mount stat touch mkdir grep cut true false hostname ip") {
		if err := os.Symlink("busybox", filepath.Join(dir, "usr/bin", name)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"etc/os-release": "ID=tiny\nNAME=Tiny\nVERSION_ID=1\n",
		"etc/machine-id": MachineID + "\n",
		"etc/passwd":     "root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n",
		"etc/group":      "root:x:0:\nalice:x:1000:\nfriends:x:1001:alice\n",
		"etc/hostname":   "tiny\n",
		"opt/data/file":  "from the tree\n",
		"srv/secret":     "secret\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, d := range []string{"usr", "data"} { // another root, for --pivot-root
		if err := os.MkdirAll(filepath.Join(dir, "deploy", d), 0o755); err != nil {
			return err
		}
	}
	if out, err := exec.Command("cp", "-a", filepath.Join(dir, "usr/bin"), filepath.Join(dir, "deploy/usr/bin")).CombinedOutput(); err != nil {
		return fmt.Errorf("cp: %w\n%s", err, out)
	}
	// The launcher we are compared with looks users up by running getent.
	return os.WriteFile(filepath.Join(dir, "usr/bin/getent"), []byte(`#!/bin/sh
case $1 in
passwd) grep "^$2:\|^[^:]*:[^:]*:$2:" /etc/passwd ;;
group) grep "^$2:" /etc/group ;;
initgroups) echo "$2 $(grep "[:,]$2\(,\|\$\)" /etc/group | cut -d: -f3)" ;;
*) exit 1 ;;
esac
`), 0o755)
}

// Probe gives the path of the static probe, which prints what a payload sees;
// see probe/probe.c.
func Probe(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "gcc")
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("where is this file?")
	}
	source := filepath.Join(filepath.Dir(here), "../probe/probe.c")
	if _, err := os.Stat(source); err != nil { // built with -trimpath: tests run in their package's directory
		wd, _ := os.Getwd()
		for source = ""; wd != "/"; wd = filepath.Dir(wd) {
			if _, err := os.Stat(filepath.Join(wd, "go.mod")); err == nil {
				source = filepath.Join(wd, "internal/itest/probe/probe.c")
				break
			}
		}
	}
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	dir := cached(t, "probe", string(text), func(dir string) error {
		out, err := exec.Command("gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", filepath.Join(dir, "probe"), source).CombinedOutput()
		if err != nil {
			return fmt.Errorf("gcc: %w\n%s", err, out)
		}
		return nil
	})
	return filepath.Join(dir, "probe")
}

// cached gives the directory named after the hash of id, and lets fill make it
// first when it is missing.
func cached(t testing.TB, kind, id string, fill func(dir string) error) string {
	t.Helper()
	dir, err := keep(kind, id, fill)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Kept is for other things that are made once and kept between runs: it gives
// the directory for this id, which fill makes if it isn't there yet. Who reads
// it never writes to it.
func Kept(t testing.TB, kind, id string, fill func(dir string) error) string {
	t.Helper()
	return cached(t, kind, id, fill)
}

// keptAs is the name that a tree is kept under.
func keptAs(kind, id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(Cache(), kind+"-"+hex.EncodeToString(sum[:8]))
}

// keep is cached for those who have no test. The lock lets one process make it
// and the others wait; a half made tree never gets the final name.
func keep(kind, id string, fill func(dir string) error) (string, error) {
	dir := keptAs(kind, id)
	if err := os.MkdirAll(Cache(), 0o755); err != nil {
		return "", err
	}
	unlock, err := locked(dir+".lock", unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	half := dir + ".new"
	if err := remove(half); err != nil {
		return "", err
	}
	if err := os.Mkdir(half, 0o755); err != nil {
		return "", err
	}
	if err := fill(half); err != nil {
		return "", errors.Join(err, remove(half))
	}
	return dir, os.Rename(half, dir)
}

func lock(t testing.TB, path string, how int) (unlock func()) {
	t.Helper()
	unlock, err := locked(path, how)
	if err != nil {
		t.Fatal(err)
	}
	return unlock
}

func locked(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

var scratch struct {
	sync.Mutex
	dir  string
	held *os.File // its lock says that the directory is in use
	n    int
}

// Scratch gives an empty directory on the cache's file system, so that copies
// can share blocks. It is removed with the test; what a killed test binary left
// behind is removed by the next one.
func Scratch(t testing.TB) string {
	t.Helper()
	scratch.Lock()
	defer scratch.Unlock()
	if scratch.dir == "" {
		work := filepath.Join(Cache(), "work")
		if err := os.MkdirAll(work, 0o755); err != nil {
			t.Fatal(err)
		}
		unlock := lock(t, filepath.Join(Cache(), "work.lock"), unix.LOCK_EX)
		defer unlock()
		sweep(work)
		dir, err := os.MkdirTemp(work, "")
		if err != nil {
			t.Fatal(err)
		}
		// MkdirTemp makes it 0700, and a machine's users must get through.
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		scratch.dir, scratch.held = dir, f
	}
	scratch.n++
	dir := filepath.Join(scratch.dir, fmt.Sprint(scratch.n))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
		os.Remove(scratch.dir) // when it was the last one
		scratch.Lock()
		defer scratch.Unlock()
		if _, err := os.Stat(scratch.dir); err != nil {
			scratch.held.Close()
			scratch.dir, scratch.held = "", nil
		}
	})
	return dir
}

// remove refuses to cross into a mount that was left behind: what lies below
// may be the host's.
func remove(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if bytes.Contains(mounts, []byte(" "+dir+"/")) {
		return errors.New("something is still mounted there")
	}
	return os.RemoveAll(dir)
}

func sweep(work string) {
	old, _ := os.ReadDir(work)
	for _, e := range old {
		f, err := os.Open(filepath.Join(work, e.Name()))
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			remove(f.Name())
		}
		f.Close()
	}
}

// Copy gives a copy of a cached tree, removed with the test.
func Copy(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(Scratch(t), "tree")
	Fresh(t, from, to)
	return to
}

// Fresh makes to a copy of from, whatever was there before.
func Fresh(t testing.TB, from, to string) {
	t.Helper()
	if err := remove(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", "--reflink=auto", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
}
