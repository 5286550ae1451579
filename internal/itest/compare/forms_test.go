package compare

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// prepare makes a cell like a host: a place for trees that can have other owners,
// and nodes to mask with.
const prepare = `set -e
echo 11112222333344445555666677778888 >/etc/machine-id
mkdir -p /w /run/systemd/inaccessible
mount -t tmpfs w /w
cd /run/systemd/inaccessible
(umask 777; : >reg; mkdir dir; mkfifo fifo; mknod chr c 0 0; mknod blk b 0 0)
chmod 755 .
`

// script runs one form under the launcher $1.
func (f form) script(launcher string) string {
	args := f.args
	if !f.bare {
		args = usual + " " + args
	}
	if !f.withoutScript {
		payload := f.payload
		if payload == "" {
			payload = "echo ok"
		}
		args += ` /bin/sh -c "$payload"`
		return fmt.Sprintf(steps, f.setup, cell.Quoted(payload), f.env, launcher, args, f.after)
	}
	return fmt.Sprintf(steps, f.setup, "''", f.env, launcher, args, f.after)
}

const steps = `
rm -rf /w/* /w/.[!.]* /etc/systemd/nspawn
mkdir -p /etc/systemd/nspawn
cp -a /given/tiny /w/cmp
cd /w
%s
payload=%s
env %s timeout -k 5 20 %s %s </dev/null 2>/run/said
echo "exit status $?"
cd /w
%s
cd /
`

// daily begins the names of the forms that are tried every day: those that launch
// had otherwise than systemd-nspawn once.
func daily() []string {
	return []string{"uid=", "tmpfs=/mnt/t:", "tmpfs, users", "file is", "Capability=", "DropCapability=", "PrivateUsers=", "Bind=", "boot words", "load-credential=a:.", "timezone=symlink",
		"resolv-conf=bind", "set-credential=a b", "private-users=identity", "bind=d:/mnt/x:", "in a network", "a network", "below /run/host", "a missing upper", "system-call-filter=", "owners", "no name", "RestrictAddressFamilies=", "usr is", "a tree that can't", "a tree below", "a name of", "a script without", "cable --network-zone=lab", "cable --network-bridge=br9 -U"}
}

func always(name string) bool {
	return slices.ContainsFunc(daily(), func(p string) bool { return strings.HasPrefix(name, p) })
}

// TestDaily: a form that was given another name is not left out from then on.
func TestDaily(t *testing.T) {
	for _, p := range daily() {
		if !slices.ContainsFunc(forms(), func(f form) bool { return strings.HasPrefix(f.name, p) }) {
			t.Errorf("no form begins with %q", p)
		}
	}
}

// TestPeersForms writes options and settings files in all the ways that there are,
// and compares the exit status, and what is seen inside and left outside, with the
// newest systemd-nspawn.
func TestPeersForms(t *testing.T) {
	root, all := tree.PeersThere(t), strings.Contains(os.Getenv("LAUNCH_TEST"), "peers")
	c := cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t)}}, prepare, time.Minute)
	ran, other := 0, 0
	for _, f := range forms() {
		if !all && !always(f.name) {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			ran++
			see := func(launcher string) (saw, said string) {
				out, _, err := c.Shell(f.script(launcher)+"\necho; echo \"--- said\"; cat /run/said", most)
				if err != nil {
					t.Fatal(err)
				}
				saw, said, ok := cutStatus(out)
				if !ok {
					t.Fatalf("nothing to compare: %s", out)
				}
				return saw, said
			}
			n, nsaid := see("systemd-nspawn")
			l, lsaid := see("/given/launch")
			switch {
			case n == l && f.differs != "":
				t.Errorf("it is the same, and need not be explained: %s", f.differs)
			case n != l && f.differs != "":
				other++
			case n != l:
				t.Errorf("under systemd-nspawn:\n%s%s\nunder launch:\n%s%s", n, nsaid, l, lsaid)
			}
		})
	}
	t.Logf("%d forms, %d of them other under launch", ran, other)
}

// cutStatus parts what was seen from what the launcher said, which comes last.
func cutStatus(out string) (saw, said string, ok bool) {
	const mark = "\n--- said\n"
	saw, said, ok = strings.Cut(out, mark)
	return saw, said, ok && strings.Contains(saw, "exit status ")
}
