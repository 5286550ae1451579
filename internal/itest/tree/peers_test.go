package tree

import (
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
)

// TestPeers asks the peers for their versions.
func TestPeers(t *testing.T) {
	c, err := cell.Open(cell.Options{Root: PeersThere(t), View: cell.Unified})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, p := range []string{"crun", "runc", "podman", "buildah", "containerd", "systemd-nspawn"} {
		out, status, err := c.Shell(p+" --version", time.Minute)
		if err != nil || status != 0 {
			t.Errorf("%s: %d %v\n%s", p, status, err, out)
		}
		line, _, _ := strings.Cut(out, "\n")
		t.Log(line)
	}
}
