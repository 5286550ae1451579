package tree

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// HostPackages are what a host with systemd, a bus, systemd-machined and
// networks of machines needs beside the packages of a bootable tree.
var HostPackages = []string{"systemd-container", "dbus-user-session", "libnss-mymachines", "polkitd", "udev", "nftables", "strace"}

// hostRuntimes are what containers on the newest host are held against, and made
// of: older hosts have no CRIU that would work with this kernel.
var hostRuntimes = []string{"runc", "criu", "iptables", "busybox-static"}

// hostPackages are what a host of the suite has beside those.
func hostPackages(suite string) []string {
	if suite != PeerSuite {
		return HostPackages
	}
	return append(HostPackages[:len(HostPackages):len(HostPackages)], hostRuntimes...)
}

// hostMasks are units that would reach what belongs to the machine outside.
var hostMasks = []mask{
	{"systemd-sysctl.service", "sets the outer kernel's variables"},
	{"systemd-binfmt.service", "registers with the outer kernel"},
	{"systemd-modules-load.service", "loads modules into the outer kernel"},
	{"systemd-udev-trigger.service", "replays the outer machine's devices"},
	{"systemd-random-seed.service", "feeds the outer kernel"},
	{"systemd-pstore.service", "empties the outer machine's crash dumps"},
	{"systemd-oomd.service", "judges by the outer machine's memory"},
	{"systemd-timesyncd.service", "sets the outer machine's clock"},
	{"systemd-networkd-wait-online.service", "there is no network to wait for"},
	{"systemd-udev-settle.service", "as systemd-udev-trigger.service"},
	{"systemd-hwdb-update.service", "takes long"},
	{"systemd-tmpfiles-setup-dev.service", "makes device nodes"},
	{"sys-kernel-config.mount", "would show the outer machine's configfs"},
}

// Host gives the path of a tree of the suite that boots as a host of machines:
// systemd, a bus, systemd-machined. It is to be copied, never used. It is made when
// it is not there yet (about a minute).
func Host(t testing.TB, suite string) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	return cached(t, "host", hostID(suite), func(dir string) error { return makeHost(dir, suite, hostPackages(suite)) })
}

// HostThere gives that tree, and skips the test where nobody made it so far.
func HostThere(t testing.TB, suite string) string {
	t.Helper()
	NeedRoot(t)
	dir := keptAs("host", hostID(suite))
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the tree of a host of %s isn't there: a slow test makes it (make host)", suite)
	}
	return dir
}

// userPackages are what a host or a machine needs to know users by their
// records, and to take journals.
var userPackages = append(HostPackages[:len(HostPackages):len(HostPackages)], "systemd-userdbd", "libnss-systemd", "systemd-journal-remote")

// Users gives the path of a tree of the newest suite that boots as a host of
// machines, or as a machine, where systemd-userdbd and getent know the users that
// have records. It is to be copied, never used. It is made when it is not there yet
// (about a minute).
func Users(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	return cached(t, "users", idOf(PeerSuite, userPackages), func(dir string) error { return makeHost(dir, PeerSuite, userPackages) })
}

// UsersThere gives that tree, and skips the test where nobody made it so far.
func UsersThere(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := keptAs("users", idOf(PeerSuite, userPackages))
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the tree of a host of %s that knows user records isn't there: a slow test makes it (make peers)", PeerSuite)
	}
	return dir
}

func hostID(suite string) string { return idOf(suite, hostPackages(suite)) }

func idOf(suite string, packages []string) string {
	id := []string{"2", suite, runtime.GOARCH} // count up when makeHost changes
	id = append(append(append(id, Packages...), packages...), left...)
	for _, m := range append(masks[:len(masks):len(masks)], hostMasks...) {
		id = append(id, m.unit)
	}
	return strings.Join(id, "\n")
}

func makeHost(dir, suite string, packages []string) error {
	if err := debian(dir, suite, append(Packages[:len(Packages):len(Packages)], packages...), append(masks[:len(masks):len(masks)], hostMasks...)); err != nil {
		return err
	}
	wants := filepath.Join(dir, "etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	if err := os.Symlink("/usr/lib/systemd/system/systemd-networkd.service", filepath.Join(wants, "systemd-networkd.service")); err != nil && !os.IsExist(err) {
		return err
	}
	// What happened can be read after a crash.
	return os.MkdirAll(filepath.Join(dir, "var/log/journal"), 0o755)
}
