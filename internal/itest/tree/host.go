package tree

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// HostPackages are what a host with systemd, a bus and systemd-machined needs
// beside the packages of a bootable tree.
var HostPackages = []string{"systemd-container", "strace"}

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
	{"systemd-tmpfiles-setup-dev.service", "makes device nodes"},
	{"sys-kernel-config.mount", "would show the outer machine's configfs"},
	{"systemd-networkd.service", "has nothing to configure"},
}

// Host gives the path of a tree that boots as a host of machines: systemd, a
// bus, systemd-machined. It is to be copied, never used. It is made when it is
// not there yet (about 40 s).
func Host(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	id := []string{"1", Suite, runtime.GOARCH} // count up when makeHost changes
	id = append(append(append(id, Packages...), HostPackages...), left...)
	for _, m := range append(masks[:len(masks):len(masks)], hostMasks...) {
		id = append(id, m.unit)
	}
	return cached(t, "host", strings.Join(id, "\n"), makeHost)
}

func makeHost(dir string) error {
	if err := debian(dir, append(Packages[:len(Packages):len(Packages)], HostPackages...), append(masks[:len(masks):len(masks)], hostMasks...)); err != nil {
		return err
	}
	// What happened can be read after a crash.
	return os.MkdirAll(filepath.Join(dir, "var/log/journal"), 0o755)
}
