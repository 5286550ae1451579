package mounts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
	saved "launch/mount/tree"
)

// made is what a payload does, and tells when it is done.
const made = `mkdir -p /srv/a /srv/b /tmp/t/x /opt/again
mount -t tmpfs -o size=64k new /srv/a
mount -t tmpfs other /tmp/t
mkdir -p /srv/a/in /tmp/t/x
mount -o bind /srv/a/in /srv/b
mount -o bind,ro /opt/data /opt/again
echo made
sleep 20`

// TestMachine: what a payload mounted is brought back in the next machine, on
// top of what settings say, and is what is saved again.
func TestMachine(t *testing.T) {
	for name, more := range map[string][]string{"": nil, "-U": {"-U"}} {
		t.Run("machine"+name, func(t *testing.T) {
			s := stage.New(t, stage.Unified)
			l := stage.Under(t)
			if l.Name != "launch" {
				t.Skip("only launch has this")
			}
			dir := tree.Copy(t, tree.Tiny(t))
			files := t.TempDir()
			one, two := filepath.Join(files, "one"), filepath.Join(files, "two")
			now := filepath.Join(files, "now")
			run := func(payload string, args ...string) string {
				words := append(append([]string{l.Path, "-q", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-saved"}, more...), args...)
				argv := []string{"sh", "-c", `launch=$1 now=$2 payload=$3 name=launch-test-saved
shift 3
"$@" sh -c "$payload" 2>&1 &
for i in $(seq 100); do
	$launch mounts save $name $now >/dev/null 2>&1 && grep -q '"point": "/opt/again"' $now && break
	sleep 0.05
done
$launch freeze $name
cgroup=$(sed -n 's/^cgroup //p' /run/launch/$name/undo)
grep frozen $cgroup/cgroup.events
$launch thaw $name
grep frozen $cgroup/cgroup.events
kill $!
wait`, "sh", l.Path, now, payload}
				return s.Look(append(argv, words...)...)
			}
			out := run(made)
			if err := os.Rename(now, one); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			out = run("sleep 20", "--mounts="+one)
			if err := os.Rename(now, two); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(out, "frozen 1\nfrozen 0\n") {
				t.Errorf("freeze and thaw: %s", out)
			}
			a, _ := os.ReadFile(one)
			b, _ := os.ReadFile(two)
			if !strings.Contains(string(a), `"point": "/opt/again"`) {
				t.Fatalf("the payload's mounts are not in the file:\n%s\n%s", a, out)
			}
			if more == nil {
				if err := differ(a, b); err != nil {
					t.Errorf("%v\n%s", err, out)
				}
				return
			}
			// But for sharing groups.
			f, err := saved.Decode(a)
			if err != nil {
				t.Fatal(err)
			}
			g, err := saved.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			if what := saved.Differ(f, g); what != "" {
				t.Errorf("%s\n%s", what, out)
			}
		})
	}
}

// TestMachineRefused: files that ask for more than settings give.
func TestMachineRefused(t *testing.T) {
	s := stage.New(t, stage.Unified)
	l := stage.Under(t)
	if l.Name != "launch" {
		t.Skip("only launch has this")
	}
	dir := tree.Copy(t, tree.Tiny(t))
	file := filepath.Join(t.TempDir(), "file")
	const head = `{"launch-mounts": 1, "sources": [{"id": "root", "external": true, "type": "ext4"}, %s],
 "namespaces": [{"mounts": [{"id": 1, "point": "/", "source": "root", "root": "/"}, %s]}]}`
	for _, c := range [][3]string{
		{`{"id": "x", "external": true, "type": "ext4"}`, `{"id": 2, "parent": 1, "point": "/srv", "source": "x", "root": "/"}`, "bind nothing of the host's there"},
		{`{"id": "s1", "type": "proc"}`, `{"id": 2, "parent": 1, "point": "/srv", "source": "s1", "root": "/"}`, "mount no proc there"},
		{`{"id": "s1", "type": "proc"}`, `{"id": 2, "parent": 1, "point": "/proc", "source": "s1", "root": "/"}, {"id": 3, "parent": 1, "point": "/srv", "source": "s1", "root": "/sys"}`,
			"a part of a proc would be seen"},
		{`{"id": "s1", "type": "tmpfs"}`, `{"id": 2, "parent": 1, "point": "/srv", "source": "s1", "root": "/"}, {"id": 3, "parent": 1, "point": "/mnt", "source": "root", "root": "/"}`, "covers"},
		{`{"id": "s1", "type": "tmpfs"}`, `{"id": 2, "parent": 1, "point": "/nothing", "source": "s1", "root": "/"}`, "no such file"},
		{`{"id": "s1", "type": "tmpfs"}`, `{"id": 2, "parent": 1, "point": "/proc", "source": "s1", "root": "/"}`, "was a tmpfs, and is a proc"},
		{`{"id": "s1", "type": "debugfs"}`, `{"id": 2, "parent": 1, "point": "/srv", "source": "s1", "root": "/"}`, "only an external one"},
	} {
		text := strings.Replace(strings.Replace(head, "%s", c[0], 1), "%s", c[1], 1)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out := s.Look("sh", "-c", `"$@" 2>&1 || echo failed`, "sh", l.Path, "-q", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-refused", "--inaccessible=/root", "--mounts="+file, "true")
		if !strings.Contains(out, c[2]) || !strings.Contains(out, "failed") {
			t.Errorf("%s: got %s, want %q", c[1], out, c[2])
		}
	}
}
