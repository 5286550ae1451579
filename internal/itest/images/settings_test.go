package images

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"launch/internal/itest/stage"
)

// TestOptions: what launch can do with a tree, it can with an image.
func TestOptions(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/sh"}, "Volumes": map[string]any{"/var/data": map[string]any{}, "/missing": map[string]any{}}}).
		layer(gzipped, shell(t)).layer(gzipped, tarOf(file{name: "var/data", kind: tar0, uid: 1000, mode: 0o750}, file{name: "var/data/old", data: "old", uid: 1000})).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	w.does("pull", "--quiet", ref)
	source := filepath.Join(w.dir, "source")
	if err := os.MkdirAll(filepath.Join(source, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	sh := func(args ...string) func(script string) string {
		return func(script string) string {
			t.Helper()
			return w.machine(append(args, ref, "/bin/sh", "-c", script+"; true")...)
		}
	}
	for _, c := range []struct {
		name, got, want string
	}{
		{"bind", sh("--bind-ro=" + source + ":/srv/x")("ls /srv/x; touch /srv/x/new 2>&1"), "dir\ntouch: /srv/x/new: Read-only file system\n"},
		{"tmpfs", sh("--tmpfs=/mnt/t:size=1m,mode=0700")("stat -f -c %T /mnt/t; stat -c %a:%u /mnt/t"), "tmpfs\n700:0\n"},
		{"limits", sh("--rlimit=NOFILE=77:99", "--oom-score-adjust=500", "--cpu-affinity=0")("ulimit -n; cat /proc/self/oom_score_adj; grep Cpus_allowed_list /proc/self/status"), "77\n500\nCpus_allowed_list:\t0\n"},
		{"read-only", sh("--read-only")("touch /x 2>&1; cat /var/data/old; touch /var/data/new && stat -c %a:%u /var/data"), "touch: /x: Read-only file system\nold750:1000\n"},
		{"volumes", sh()("ls -d /missing; touch /var/data/new && cat /var/data/old"), "/missing\nold"},
		{"host name", sh("--hostname=other", "--name=named", "--rm")("hostname; cat /etc/hostname; grep other /etc/hosts"), "other\nother\n127.0.1.1\tother\n"},
		{"own users", sh("--private-users=1310720")("cat /proc/self/uid_map; stat -c %u /bin/busybox"), "         0    1310720      65536\n0\n"},
		{"some users", sh("--private-users=yes")("grep -c '^ *0 *0 ' /proc/self/uid_map; stat -c %u /bin/busybox"), "0\n0\n"},
		{"bind with owners", sh("--bind=" + source + ":/srv/x:idmap")("stat -c %u /srv/x"), "0\n"},
		{"the host's users", sh("--private-users=no")("cat /proc/self/uid_map; stat -c %u /bin/busybox"), "         0          0 4294967295\n0\n"},
		{"the host's network", sh("--network=host")("ls /sys/class/net | wc -l"), w.Look("sh", "-c", "ls /sys/class/net | wc -l")},
		{"user and group", sh("--uid=1000", "--chdir=/tmp", "-E", "A=b c")("id -u; id -G; pwd; echo $A"), "1000\n1000 10\n/tmp\nb c\n"},
		{"no such user", sh("--uid=4242")("id -u; id -g; echo $HOME"), "4242\n0\n/\n"},
		{"its processes", sh()("ls -d /proc/[0-9]*"), "/proc/1\n"},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", c.name, c.got, c.want)
		}
	}
	for _, args := range [][]string{{"--directory=/"}, {"--boot"}, {"--volatile=yes"}, {"--ephemeral"}, {"--machine=x"}, {"--join=x"}} {
		w.refuses("cannot use this option with an image", append(append([]string{"run"}, args...), ref)...)
	}
	// Nothing that is written stays anywhere.
	if err := os.Chown(filepath.Join(source, "dir"), 1000, 0); err != nil {
		t.Fatal(err)
	}
	out := sh("--overlay-all", "--bind="+source+":/srv/x:idmap", "--name=none")("echo a >/srv/x/new; echo b >/new; cat /srv/x/new /new; grep -c '^launch-layer / overlay rw,nodev,' /proc/mounts; stat -c %u /srv/x/dir")
	if out != "a\nb\n1\n1000\n" {
		t.Errorf("with --overlay-all: %q", out)
	}
	if out := w.Look("find", filepath.Join(w.store, "machines/none"), source, "-name", "new"); out != "" {
		t.Errorf("with --overlay-all, there is afterwards\n%s", out)
	}
	w.does("rmi", "--quiet", "--machine=none")
	// Mount points that are missing in something read-only.
	out = sh("--profile=sandbox", "--read-only", "--bind-ro="+source+":/srv/x", "--tmpfs=/srv/x/deep/er")("touch /srv/x/deep/er/new && ls -d /srv/x/dir /srv/x/deep/er/new; touch /x 2>&1")
	if out != "/srv/x/deep/er/new\n/srv/x/dir\ntouch: /x: Read-only file system\n" {
		t.Errorf("with --profile=sandbox: %q", out)
	}
	if out := w.Look("ls", source); out != "dir\n" {
		t.Errorf("what was bound read-only has now\n%s", out)
	}
	w.refuses("did you mean --detach?", "run", "--detatch", ref)
	w.refuses("--pull=sometimes", "run", "--pull=sometimes", ref)
	if left, _ := os.ReadDir(filepath.Join(w.store, "machines")); len(left) != 0 {
		t.Errorf("machines left: %v", left)
	}
}

const tar0 = '5' // a directory

// TestPassed: standard input, exit status and signals.
func TestPassed(t *testing.T) {
	w := here(t)
	p := draw(map[string]any{"Cmd": []string{"/bin/cat"}}).layer(gzipped, shell(t)).finish()
	ref := "oci:" + w.layout("box", map[string]*picture{"v1": p}) + ":v1"
	w.does("pull", "--quiet", ref)
	// What is caught here, nobody started from here has ignored: nohup may have
	// run the test.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	defer signal.Reset(syscall.SIGHUP)
	launch := func(in string, words ...string) (*bytes.Buffer, int) {
		var out bytes.Buffer
		r := w.StartAs(func(c *exec.Cmd) { c.Stdin, c.Stdout, c.Stderr = strings.NewReader(in), &out, &out }, w.env,
			append([]string{filepath.Join(w.bin, "launch"), "run", "--quiet", "--register=no", "--keep-unit", ref}, words...)...)
		code, err := r.Code(most)
		if err != nil {
			t.Fatal(err)
		}
		return &out, code
	}
	if out, code := launch("one\ntwo\n"); out.String() != "one\ntwo\n" || code != 0 {
		t.Errorf("cat: %q, %d", out, code)
	}
	for _, c := range []struct {
		script string
		code   int
	}{{"exit 0", 0}, {"exit 42", 42}, {"exit 133", 133}, {"trap '' TERM; kill -KILL 1; exit 3", 3}} {
		if out, code := launch("", "/bin/sh", "-c", c.script); code != c.code {
			t.Errorf("%s: status %d, want %d\n%s", c.script, code, c.code, out)
		}
	}
	// No status means that the command is to be started again.
	out, code := w.launch("run", "--quiet", "--register=no", ref, "/bin/sh", "-c", "echo once; exit 133")
	if out != "once\n" || code != 133 {
		t.Errorf("a command that ends with status 133: %d, %q", code, out)
	}
	if out, code := w.launch("run", "--quiet", "--register=no", ref, "/bin/sh", "-c", "echo once; busybox kill -TRAP 1; exit 133"); code != 133 {
		t.Errorf("a command that says it with 133: %d, %q", code, out)
	}
	for _, s := range []struct {
		sig  syscall.Signal
		name string
	}{{syscall.SIGTERM, "TERM"}, {syscall.SIGINT, "INT"}, {syscall.SIGHUP, "HUP"}, {syscall.SIGUSR1, "USR1"}, {syscall.SIGQUIT, "QUIT"}} {
		r := w.Start(w.env, filepath.Join(w.bin, "launch"), "run", "--quiet", "--register=no", "--keep-unit", ref,
			"/bin/sh", "-c", "trap 'echo got "+s.name+"; exit 9' "+s.name+"; echo up; while :; do sleep 0.05; done")
		if err := r.Await("up\n", most); err != nil {
			t.Fatal(err)
		}
		r.Process.Signal(s.sig)
		if err := r.Await("got "+s.name+"\n", most); err != nil {
			t.Errorf("SIG%s: %v", s.name, err)
		}
		if code, err := r.Code(most); err != nil || code != 9 {
			t.Errorf("SIG%s: status %d, %v", s.name, code, err)
		}
	}
}

// TestNames: the machine has its own hosts, host name and resolver, wherever the
// image keeps them.
func TestNames(t *testing.T) {
	w := here(t)
	link := func(name, to string) file { return file{name: name, kind: tar.TypeSymlink, link: to} }
	for name, layer := range map[string][]file{
		"files":               {{name: "etc/hosts", data: "6.6.6.6 localhost"}, {name: "etc/hostname", data: "evil"}, {name: "etc/resolv.conf", data: "nameserver 6.6.6.6"}},
		"links":               {link("etc/hosts", "static/hosts"), {name: "etc/static/hosts", data: "x"}, link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"), link("etc/hostname", "/hostname")},
		"a linked etc":        {{name: ".wh.etc"}, link("etc", "store/etc"), {name: "store/etc", kind: tar.TypeDir}},
		"no etc":              {{name: ".wh.etc"}},
		"links that lead out": {link("etc/hosts", "../../../../../../../../tmp/hosts"), link("etc/hostname", "/proc/sys/kernel/hostname")},
	} {
		t.Run(name, func(t *testing.T) {
			w := *w
			w.T = t
			ref := "oci:" + w.layout("names "+name, map[string]*picture{"v1": draw(nil).layer(gzipped, shell(t)).layer(gzipped, tarOf(layer...)).finish()}) + ":v1"
			w.does("pull", "--quiet", ref)
			if out := w.machine("--hostname=mine", ref, "/bin/cat", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"); out !=
				"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\tmine\nmine\n# This machine has no network.\n" {
				t.Errorf("the machine has\n%s", out)
			}
		})
	}
	// Where there is no room for them, that is said.
	ref := "oci:" + w.layout("dir", map[string]*picture{"v1": draw(nil).layer(gzipped, shell(t)).layer(gzipped, tarOf(file{name: "etc/hosts/x"})).finish()}) + ":v1"
	w.does("pull", "--quiet", ref)
	w.refuses("/etc/hosts", "run", "--quiet", ref, "/bin/true")
}

// TestLabels: what an image says of itself beyond the fields that count changes
// nothing, and a store may lie anywhere.
func TestLabels(t *testing.T) {
	w := here(t)
	w.store = filepath.Join(w.dir, "a,b:c\\d\"e\nf=g h")
	w.env[0] = "LAUNCH_STORE=" + w.store
	base := map[string]any{"Cmd": []string{"/bin/echo", "it runs"}, "Env": []string{"A=b"}}
	more := map[string]any{"Labels": map[string]any{"run.oci.hooks": "x", "io.podman.annotations.privileged": "TRUE", "org.opencontainers.image.x": "y"},
		"Healthcheck": map[string]any{"Test": []string{"CMD", "/bin/false"}}, "OnBuild": []string{"RUN x"}, "Domainname": "x", "Hostname": "evil", "Tty": true, "AttachStdin": true,
		"MacAddress": "00:11:22:33:44:55", "Shell": []string{"/bin/bad"}, "Privileged": true, "CapAdd": []string{"ALL"}, "HostConfig": map[string]any{"Privileged": true}, "Mounts": []any{map[string]any{"source": "/", "destination": "/host"}}}
	for k, v := range base {
		more[k] = v
	}
	a := draw(base).layer(gzipped, shell(t)).finish()
	b := draw(more).layer(gzipped, shell(t)).finish()
	dir := w.layout("box", map[string]*picture{"a": a, "b": b})
	plan := func(tag string) string {
		ref := "oci:" + dir + ":" + tag
		w.does("pull", "--quiet", ref)
		if out := w.machine(ref); out != "it runs\n" {
			t.Errorf("%s says %q", tag, out)
		}
		text := w.does("run", "--plan", "--name=same", ref)
		var kept []string
		for l := range strings.Lines(strings.ReplaceAll(text, ref, "REF")) {
			if !strings.Contains(l, "container-uuid") && !strings.Contains(l, "boot-id") && !strings.Contains(l, stage.CgroupPrefix) {
				kept = append(kept, l)
			}
		}
		return strings.Join(kept, "")
	}
	if x, y := plan("a"), plan("b"); x != y || len(x) < 1000 {
		t.Errorf("the plans differ:\n%s\n%s", x, y)
	}
}
