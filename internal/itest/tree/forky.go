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

// criuPackages are a CRIU that works with today's kernels, and what a container
// for it is made of.
var criuPackages = []string{"criu", "busybox-static", "iproute2", "procps", "iptables", "nftables"}

// CRIU gives the path of a tree with a CRIU of 4.2 or newer, which is made when
// it is not there yet (a minute). It is never written to.
func CRIU(t testing.TB) string {
	t.Helper()
	NeedRoot(t, "mmdebstrap", "apt-get")
	return cached(t, "criu", criuID(), func(dir string) error { return forky(dir, criuPackages) })
}

// CRIUThere gives that tree, and skips the test where nobody made it so far.
func CRIUThere(t testing.TB) string {
	t.Helper()
	NeedRoot(t)
	dir := keptAs("criu", criuID())
	if _, err := os.Stat(dir); err != nil {
		t.Skip("the tree with CRIU isn't there: a slow test makes it (make checkpoint)")
	}
	return dir
}

func criuID() string {
	return strings.Join(append([]string{"1", PeerSuite, runtime.GOARCH}, criuPackages...), "\n")
}

// stale are mmdebstrap's options for a mirror that stands still: its Release file
// has a date that has passed, and is signed all the same.
var stale = []string{`--aptopt=Acquire::Check-Valid-Until "false"`, `--aptopt=APT::Install-Recommends "false"`}

// sourcesOf gives the sources of a suite: the host's own, or, where it has none
// for it, the suite alone from the host's mirror, without updates.
func sourcesOf(suite string) ([]string, error) {
	if suite == Suite {
		return aptSources(suite)
	}
	sources, err := aptSources(Suite)
	if err != nil {
		return nil, err
	}
	for _, s := range sources {
		if f := strings.Fields(s); len(f) >= 4 && f[len(f)-2] == Suite && f[len(f)-1] == "main" {
			f[len(f)-2] = suite
			return []string{strings.Join(f, " ")}, nil
		}
	}
	return nil, fmt.Errorf("the host's apt has no source for main of %s, whose mirror could be asked for %s", Suite, suite)
}

func makePeers(dir string) error { return forky(dir, PeerPackages) }

// forky makes a tree of the newest suite.
func forky(dir string, packages []string) error {
	sources, err := sourcesOf(PeerSuite)
	if err != nil {
		return err
	}
	args := append([]string{"--quiet", "--variant=minbase", "--include=" + strings.Join(packages, ",")}, stale...)
	for _, opt := range aptAcquire() {
		args = append(args, "--aptopt="+opt)
	}
	for _, l := range left {
		args = append(args, "--dpkgopt=path-exclude="+l)
	}
	args = append(args, PeerSuite, dir)
	if err := mmdebstrap(append(args, sources...)); err != nil {
		return err
	}
	// systemd-nspawn 262 asks for one.
	return os.WriteFile(filepath.Join(dir, "etc/machine-id"), []byte(MachineID+"\n"), 0o444)
}
