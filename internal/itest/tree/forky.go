package tree

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// PeerSuite is the Debian release that the newest peers are taken from.
const PeerSuite = "forky"

// PeerPackages are the peers: the runtimes that launch-oci is compared with,
// the engines that call it, and systemd-nspawn. The rest is what they need to
// be started, since nothing that is only recommended comes along.
var PeerPackages = []string{"crun", "runc", "podman", "buildah", "containerd", "systemd-container",
	"busybox-static", "iproute2", "procps", "nftables", "strace"}

// Peers gives the path of a tree of the newest peers, which is made when it is
// not there yet (two to four minutes). It is never written to: a cell lays a
// layer over it.
func Peers(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	return cached(t, "peers", peersID(), makePeers)
}

// PeersThere gives that tree, and skips the test where nobody made it so far:
// for tests that run every day and can do without.
func PeersThere(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := keptAs("peers", peersID())
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the tree of %s's peers isn't there: a slow test makes it (make bundles)", PeerSuite)
	}
	return dir
}

// PeersDir is Peers for a program that is no test.
func PeersDir() (string, error) { return keep("peers", peersID(), makePeers) }

func peersID() string {
	return strings.Join(append([]string{"1", PeerSuite, runtime.GOARCH}, PeerPackages...), "\n")
}

func makePeers(dir string) error {
	sources, err := aptSources(Suite)
	if err != nil {
		return err
	}
	// The same mirror, and one suite alone: no updates, no security.
	source := ""
	for _, s := range sources {
		if f := strings.Fields(s); len(f) >= 4 && f[len(f)-2] == Suite && f[len(f)-1] == "main" {
			f[len(f)-2] = PeerSuite
			source = strings.Join(f, " ")
			break
		}
	}
	if source == "" {
		return fmt.Errorf("the host's apt has no source for main of %s, whose mirror could be asked for %s", Suite, PeerSuite)
	}
	args := []string{"--quiet", "--variant=minbase", "--include=" + strings.Join(PeerPackages, ","),
		// A mirror that stands still has a Release file whose date has passed;
		// its signature is checked all the same.
		`--aptopt=Acquire::Check-Valid-Until "false"`, `--aptopt=APT::Install-Recommends "false"`}
	for _, opt := range aptAcquire() {
		args = append(args, "--aptopt="+opt)
	}
	for _, l := range left {
		args = append(args, "--dpkgopt=path-exclude="+l)
	}
	args = append(args, PeerSuite, dir, source)
	if err := mmdebstrap(args); err != nil {
		return err
	}
	// systemd-nspawn 262 asks for one.
	return os.WriteFile(filepath.Join(dir, "etc/machine-id"), []byte(MachineID+"\n"), 0o444)
}
