package mounts

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// made is what a payload does, and tells when it is done.
const made = `mkdir -p /srv/a /srv/b /tmp/t/x /opt/again
mount -t tmpfs -o size=64k new /srv/a
mount -t tmpfs other /tmp/t
mkdir -p /srv/a/in /tmp/t/x
mount -o bind /srv/a/in /srv/b
mount --make-private /srv/a
mkdir /srv/a/peer /srv/a/slave /srv/a/both /srv/a/alone
mount --make-shared /srv/a
for d in peer slave both; do mount -o bind /srv/a/in /srv/a/$d; done
mount --make-slave /srv/a/slave
mount --make-slave /srv/a/both
mount --make-shared /srv/a/both
mount -t tmpfs alone /srv/a/alone
mount --make-private /srv/a/alone
mount -t tmpfs over /srv/a
mount --make-unbindable /srv/a
mount --make-private /srv/b
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
				return saving(s, l, dir, now, payload, append(slices.Clone(more), args...)...)
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
			for _, want := range []string{`"point": "/opt/again"`, `"slave": `, `"master": `, `"unbindable": true`, `"point": "/alone"`} {
				if !strings.Contains(string(a), want) {
					t.Fatalf("the payload's mounts are not in the file: no %s\n%s\n%s", want, a, out)
				}
			}
			if err := differ(a, b); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// saving runs a machine, saves its mounts when /opt/again is one, freezes and thaws
// it, and ends it.
func saving(s *stage.Stage, l stage.Launcher, dir, file, payload string, args ...string) string {
	words := append([]string{l.Path, "-q", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-saved"}, args...)
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
wait`, "sh", l.Path, file, payload}
	return s.Look(append(argv, words...)...)
}

// TestMachineLayers: layers and stubs are not the payload's. A machine has those
// that its settings ask for, whatever the file's machine had, and the payload's
// mounts lie in what is seen.
func TestMachineLayers(t *testing.T) {
	s := stage.New(t, stage.Unified)
	l := stage.Under(t)
	if l.Name != "launch" {
		t.Skip("only launch has this")
	}
	src := filepath.Join(t.TempDir(), "src")
	if err := os.MkdirAll(filepath.Join(src, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(src, "in", "hello"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	bind := "--bind=" + src + ":/mnt"
	plain, layer := []string{bind}, []string{bind, "--overlay-all"}
	stubs := []string{"--profile=sandbox", "--timezone=off", "--resolv-conf=off", "--read-only", "--bind-ro=" + src + ":/mnt", "--tmpfs=/mnt/stub", "--tmpfs=/missing"}
	writable := []string{"--profile=sandbox", "--timezone=off", "--resolv-conf=off", bind, "--tmpfs=/mnt/stub", "--tmpfs=/missing"}
	const binds = `mount -t tmpfs new /srv
mkdir -p /srv/deep /srv/slave
mount -o bind /mnt/in /srv/deep
mount --make-private /srv/deep
mount -o bind /mnt/in /srv/slave
mount --make-slave /srv/slave
mount -t tmpfs over /mnt/in
mount -o bind /mnt/in /opt/again
sleep 20`
	const look = `grep -c launch-layer /proc/self/mountinfo
grep -c launch-stubs /proc/self/mountinfo
ls /srv/deep
ls /mnt/in
touch /mnt/in/t && ls /opt/again
grep -c -e " /srv " -e " /srv/deep " -e " /mnt/in " -e " /opt/again " /proc/self/mountinfo`
	const there = "hello\nt\n4\n"
	for _, c := range []struct {
		name      string
		one, two  []string
		same, say string
	}{
		{"layers", layer, layer, "same", "5\n0\n" + there},
		{"stubs", stubs, stubs, "same", "1\n5\n" + there},
		{"layers no more", layer, plain, "", "0\n0\n" + there},
		{"layers now", plain, layer, "", "5\n0\n" + there},
		{"stubs no more", stubs, writable, "", "1\n0\n" + there},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree.Copy(t, tree.Tiny(t))
			if err := os.Mkdir(filepath.Join(dir, "opt/again"), 0o755); err != nil {
				t.Fatal(err)
			}
			one, two := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "two")
			out := saving(s, l, dir, one, binds, c.one...)
			a, err := os.ReadFile(one)
			if err != nil || !strings.Contains(string(a), `"point": "/opt/again"`) {
				t.Fatalf("%v\n%s\n%s", err, a, out)
			}
			args := append([]string{"sh", "-c", `"$@" 2>&1 || echo failed`, "sh", l.Path, "-q", "--console=pipe", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-layers"}, c.two...)
			if out := s.Look(append(args, "--mounts="+one, "sh", "-c", look)...); out != c.say {
				t.Errorf("it says\n%s, want\n%s", out, c.say)
			}
			if c.same == "" {
				return
			}
			out = saving(s, l, dir, two, "sleep 20", append(slices.Clone(c.two), "--mounts="+one)...)
			b, err := os.ReadFile(two)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := differ(a, b); err != nil {
				t.Error(err)
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
		{`{"id": "s1", "type": "tmpfs"}], "groups": [{"id": 1, "outside": "g-1"}`, `{"id": 2, "parent": 1, "point": "/srv", "source": "s1", "root": "/", "slave": 1}`, "hear of the host's"},
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
	} // What is the host's is changed in no way, in memory or not.
	text := strings.Replace(strings.Replace(head, "%s", `{"id": "m-1", "external": true, "type": "tmpfs"}, {"id": "s1", "type": "tmpfs"}`, 1), "%s",
		`{"id": 2, "parent": 1, "point": "/opt/data", "source": "m-1", "root": "/"}, {"id": 3, "parent": 2, "point": "/made", "source": "s1", "root": "/"}`, 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := s.Look("unshare", "-m", "sh", "-c", `mount -t tmpfs host /mnt && mkdir /mnt/in; "$@" 2>&1 || echo failed; ls /mnt /mnt/in`, "sh",
		l.Path, "-q", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-refused", "--bind=/mnt:/opt/data", "--mounts="+file, "true")
	if !strings.Contains(out, "no such file") || !strings.HasSuffix(out, "failed\n/mnt:\nin\n\n/mnt/in:\n") {
		t.Errorf("in what is the host's: %s", out)
	}
}

// TestMachineLocked: what settings make read-only, the machine's users can't
// write to in another place either.
func TestMachineLocked(t *testing.T) {
	s := stage.New(t, stage.Unified)
	l := stage.Under(t)
	if l.Name != "launch" {
		t.Skip("only launch has this")
	}
	dir, src := tree.Copy(t, tree.Tiny(t)), t.TempDir()
	if err := os.Mkdir(filepath.Join(src, "in"), 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(src, "in"), 0o777) // not by the mask of who runs this
	file := filepath.Join(t.TempDir(), "file")
	text := `{"launch-mounts": 1, "sources": [{"id": "root", "external": true, "type": "ext4"}, {"id": "m-1", "external": true, "type": "ext4"}],
 "namespaces": [{"mounts": [{"id": 1, "point": "/", "source": "root", "root": "/"}, {"id": 2, "parent": 1, "point": "/mnt", "source": "m-1", "root": "/"},
  {"id": 3, "parent": 1, "point": "/srv", "source": "m-1", "root": "/in"}]}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"--bind-ro=", "refused\nread-only\n"}, {"--bind=", "made\n"}} {
		option, want := c[0], c[1]
		out := s.Look("sh", "-c", `"$@" 2>/dev/null || echo failed`, "sh", l.Path, "-qU", "--console=pipe", "--register=no", "--keep-unit", "-D", dir, "-M", "launch-test-locked",
			option+src+":/mnt", "--mounts="+file, "sh", "-c", "exec 2>/dev/null; mount -o remount,bind,rw /srv || echo refused; touch /srv/made || echo read-only; ls /srv")
		if out != want {
			t.Errorf("%s: %s", option, out)
		}
	}
}

// TestRestore: the verb makes the namespaces of two processes, and runs a command
// there.
func TestRestore(t *testing.T) {
	s := stage.New(t, stage.Unified)
	l := stage.Under(t)
	if l.Name != "launch" {
		t.Skip("only launch has this")
	}
	dir := tree.Copy(t, tree.Tiny(t))
	look := func(script string) string {
		t.Helper()
		return s.Look("unshare", "-m", "sh", "-c", "exec 2>&1\nL=$1 dir=$2 file=$3\n"+script, "sh", l.Path, dir, filepath.Join(t.TempDir(), "file"))
	}
	// The second one has a copy of the first one's namespace, and one mount more.
	const saved = `
unshare -m sh -c 'mount --bind "$1" /mnt; cd /mnt; mount -t tmpfs t srv; mount --bind /proc proc; pivot_root . tmp; busybox umount -l /tmp
	echo >/srv/ready; exec sleep 1000' sh "$dir" &
one=$!
until [ -e /proc/$one/root/srv/ready ]; do sleep 0.05; done
nsenter -t $one -m -r busybox unshare -m sh -c "mount -t tmpfs more /home; echo >/home/ready; exec sleep 1000" &
two=$!
until [ -e /proc/$two/root/home/ready ]; do sleep 0.05; done
$L mounts save $one,$two "$file" | cut -f2- | sed 's/^\([a-z]*\).*namespace/\1 namespace/'
kill $one $two
`
	tmpdir := func(script, want string) {
		t.Helper()
		if out := look("mkdir -p \"$dir/home\"\n" + saved + script); !strings.HasSuffix(out, want) {
			t.Errorf("it says\n%s\nwant, at the end,\n%s", out, want)
		}
	}
	// What it prints is what must have a meaning; the command has its words, its
	// descriptors and its status.
	tmpdir(`before=$(cut -d" " -f5- /proc/self/mountinfo)
$L mounts restore --external=root="$dir":ro "$file" -- sh -c 'echo "$0 $1"; for n in 3 4; do readlink /proc/self/fd/$n | cut -d: -f1; done; readlink /proc/self/ns/mnt | cut -d: -f1
	busybox nsenter --mount=/proc/self/fd/3 grep -c " /home " /proc/self/mountinfo; grep -c " /home " /proc/self/mountinfo; touch /x; exit 7' "a b" --
echo $?
[ "$before" = "$(cut -d" " -f5- /proc/self/mountinfo)" ] && echo as before; ls /run/launch 2>/dev/null | grep mounts-; true`,
		"a b --\nmnt\nmnt\n1\n0\ntouch: /x: Read-only file system\n7\nas before\n")
	// Users of its own: they are its root, and nobody else.
	tmpdir(`$L mounts restore -U --external=root="$dir" "$file" sh -c 'tr -s " " </proc/self/uid_map | cut -d" " -f2,4; id -u; stat -c %u /srv; mount -t tmpfs own /home && echo mounts'
echo $?; ls /run/launch 2>/dev/null | grep mounts-; true`, "0 65536\n0\n0\nmounts\n0\n")
	for _, c := range [][2]string{
		{`$L mounts restore "$file" true`, "nobody says what root is"},
		{`$L mounts restore --external=root="$dir" --external=m-1=/ "$file" true`, "there is no external m-1"},
		{`$L mounts restore --external=root="$dir" "$file" /no/such`, "not found in the tree"},
		{`ln -s "$dir" /mnt/link; $L mounts restore --external=root=/mnt/link "$file" true`, "is a link"},
		{`$L mounts restore --external=root="$dir" "$file" sh -c 'kill -9 $$'; [ $? = 137 ] && echo killed`, "killed"},
		{`$L mounts save 999999999 "$file"`, "cannot save the mounts"},
		{`$L mounts save nobody "$file"`, "no such machine"},
	} {
		out := look("mkdir -p \"$dir/home\"; mount -t tmpfs x /mnt\n" + saved + "mount -t tmpfs x /mnt\n" + c[0] + "\nls /run/launch 2>/dev/null | grep mounts- && echo left; true")
		if !strings.Contains(out, c[1]) || strings.Contains(out, "left") {
			t.Errorf("%s: got %s, want %q", c[0], out, c[1])
		}
	}
}
