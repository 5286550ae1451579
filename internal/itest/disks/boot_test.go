package disks_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/cell"
	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// report is what the booted machine says, and then it powers off.
const report = `#!/bin/sh
{
	echo "itest: state $(systemctl is-system-running --wait)"
	grep -E ' (/|/usr|/home|/var|/etc) ' /proc/self/mountinfo | while read -r l; do echo "itest: $l"; done
	[ -e /home/mark ] && echo "itest: marked"
	(: >/home/mark)
} >/dev/console 2>/dev/null
systemctl poweroff
`

// TestPeersBoot boots a Debian from an image with a root and a home, twice each
// under systemd-nspawn and launch: it comes up, sees the same, and finds
// what it has written.
func TestPeersBoot(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make peers)")
	}
	peers, dir := tree.PeersThere(t), tree.Copy(t, tree.Debian(t))
	wants := dir + "/usr/lib/systemd/system/multi-user.target.wants"
	for name, text := range map[string]string{
		"usr/lib/itest-report":                        report,
		"usr/lib/systemd/system/itest-report.service": "[Unit]\nAfter=multi-user.target\n[Service]\nType=exec\nExecStart=/usr/lib/itest-report\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(wants, 0o755)
	if err := os.Symlink("../itest-report.service", wants+"/itest-report.service"); err != nil {
		t.Fatal(err)
	}
	given := t.TempDir()
	image := disks.GPT(disks.Table{Parts: []disks.Part{
		{Type: disks.Root, Label: "debian_12", Data: disks.FS(t, "ext4", dir, 300<<20)}, {Type: disks.Home, Data: disks.FS(t, "ext4", t.TempDir(), 8<<20)},
	}})
	if err := os.WriteFile(given+"/debian", image, 0o644); err != nil {
		t.Fatal(err)
	}
	c := cell.Given(t, cell.Options{Root: peers, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/images": given}}, prepare, most)
	for _, args := range []string{"", "--volatile=overlay"} {
		see := func(launcher string) string {
			script := fmt.Sprintf(`rm -rf /w/* /run/systemd/nspawn; cp --sparse=always /images/debian /w/disk.raw
for n in 1 2; do
	timeout -k 5 60 %s %s --image=/w/disk.raw %s --boot </dev/null >/w/said 2>&1
	echo "exit status $?"
	grep -o 'itest: .*' /w/said || cat /w/said
done
ls -A /w
losetup -ln -O BACK-FILE | grep ^/w
true`, launcher, strings.Replace(usual, "--console=pipe", "--console=read-only", 1), args)
			out, _, err := c.Shell(script, 3*most)
			if err != nil {
				t.Fatal(err)
			}
			out = normal(strings.ReplaceAll(out, "itest: ", ""))
			if strings.Count(out, "exit status 0") != 2 || strings.Count(out, "state running") != 2 || strings.Contains(out, "marked") != (args == "") {
				t.Errorf("under %s %s:\n%s", launcher, args, out)
			}
			return out
		}
		if n, l := see("systemd-nspawn"), see("/given/launch"); n != l {
			t.Errorf("%s: under systemd-nspawn:\n%s\nunder launch:\n%s", args, n, l)
		}
	}
}
