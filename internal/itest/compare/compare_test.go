package compare

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

//go:embed differences.txt
var differences string

// most is how long one run may take; it takes 0.2 s.
const most = 30 * time.Second

var combinations = []combination{
	{name: "plain"},
	{name: "uuid-null", args: "--uuid=00000000000000000000000000000000", fails: true},
	{name: "uuid", args: "--uuid=3f0d8a526b1c4e7d9a2051c4e8f7b6d1"}, // that of the tree wins
	{name: "exit-status", payload: "/usr/bin/probe 42"},
	{name: "payload-by-name", payload: "probe"},
	{name: "as-pid2", args: "--as-pid2"},
	{name: "console-read-only", args: "--console=read-only"},
	{name: "console-read-only-as-pid2", args: "--console=read-only --as-pid2"},
	{name: "console-autopipe", args: "--console=autopipe"},
	{name: "settings-off", args: "--settings=no"},

	// the root
	{name: "read-only", args: "--read-only"},
	{name: "volatile-yes", args: "--volatile=yes"},
	{name: "volatile-state", args: "--volatile=state"},
	{name: "volatile-overlay", args: "--volatile=overlay"},
	{name: "volatile-read-only", args: "--volatile=yes --read-only"},
	{name: "ephemeral", args: "--ephemeral"},
	{name: "volatile-users", args: "--volatile=yes --private-users=1310720:65536 --private-users-ownership=map"},
	{name: "volatile-state-users", args: "--volatile=state --private-users=1310720:65536 --private-users-ownership=map"},
	{name: "read-only-users", args: "--read-only --private-users=1310720:65536 --private-users-ownership=map"},

	// mounts
	{name: "bind-dir", args: "--bind=OUT/dir:/mnt/dir"},
	{name: "bind-dir-ro", args: "--bind-ro=OUT/dir:/mnt/dir"},
	{name: "bind-dir-norbind", args: "--bind=OUT/dir:/mnt/dir:norbind"},
	{name: "bind-file", args: "--bind=OUT/file:/mnt/file"},
	{name: "bind-file-ro", args: "--bind-ro=OUT/file:/srv/file"},
	{name: "bind-over-dir", args: "--bind=OUT/dir:/opt/data"},
	{name: "bind-over-file", args: "--bind=OUT/file:/opt/data/file"},
	{name: "bind-deep-target", args: "--bind=OUT/dir:/mnt/a/b/c/d"},
	{name: "bind-same-path", args: "--bind=/usr/lib/os-release"},
	{name: "bind-from-tree", args: "--bind=+/opt/data:/mnt/again"},
	{name: "bind-empty-source", args: "--bind=:/mnt/fresh"},
	{name: "bind-twice", args: "--bind=OUT/dir:/mnt/a --bind=OUT/lower:/mnt/a/sub"},
	{name: "bind-unsorted", args: "--bind=OUT/lower:/mnt/a/sub --bind=OUT/dir:/mnt/a"},
	{name: "bind-over-tmp", args: "--bind=OUT/dir:/tmp"},
	{name: "bind-in-run", args: "--bind=OUT/dir:/run/dir"},
	{name: "bind-in-dev", args: "--bind=/dev/null:/dev/nothing"},
	{name: "bind-missing", args: "--bind=OUT/missing:/mnt/x", fails: true},
	{name: "bind-dir-on-file", args: "--bind=OUT/dir:/opt/data/file", fails: true},
	{name: "bind-relative-target", args: "--bind=OUT/dir:mnt", fails: true},
	{name: "bind-unknown-option", args: "--bind=OUT/dir:/mnt/dir:bogus", fails: true},
	{name: "tmpfs", args: "--tmpfs=/mnt/t"},
	{name: "tmpfs-options", args: "--tmpfs=/mnt/t:size=1m,mode=0700,noexec"},
	{name: "tmpfs-over-var", args: "--tmpfs=/var"},
	{name: "tmpfs-then-bind", args: "--bind=OUT/file:/mnt/t/file --tmpfs=/mnt/t"},
	{name: "overlay", args: "--overlay=OUT/lower:OUT/upper:/mnt/o"},
	{name: "overlay-ro", args: "--overlay-ro=OUT/lower:OUT/dir:/mnt/o"},
	{name: "overlay-three", args: "--overlay=OUT/lower:OUT/dir:OUT/upper:/mnt/o"},
	{name: "overlay-tree", args: "--overlay=+/opt:OUT/upper:/opt"},
	{name: "overlay-empty-upper", args: "--overlay=+/opt::/opt"},
	{name: "inaccessible-file", args: "--inaccessible=/srv/secret"},
	{name: "inaccessible-dir", args: "--inaccessible=/opt/data"},
	{name: "inaccessible-missing", args: "--inaccessible=/no/such", fails: true},
	{name: "all-mounts", args: "--bind=OUT/dir:/mnt/dir --bind-ro=OUT/file:/srv/file --tmpfs=/mnt/t --overlay=+/opt:OUT/upper:/opt --inaccessible=/srv/secret"},
	{name: "mounts-read-only", args: "--read-only --bind=OUT/dir:/opt/data --tmpfs=/srv"},
	{name: "mounts-volatile", args: "--volatile=yes --bind=OUT/dir:/opt/data --tmpfs=/srv"},
	{name: "root-overlay", args: "--overlay=+/:OUT/upper:/"},
	{name: "root-overlay-fresh", args: "--overlay=+/::/"},
	{name: "root-bind", args: "--bind=+/:/ --bind=OUT/dir:/mnt/dir"},
	{name: "root-bind-ro", args: "--bind-ro=+/:/"},
	{name: "root-users", args: "--private-users=1310720:65536 --private-users-ownership=off --bind=+/:/"},
	{name: "root-users-map", args: "--private-users=1310720:65536 --private-users-ownership=map --bind=+/:/", fails: true},
	{name: "overlay-to-tree", args: "--overlay=OUT/lower:+/opt/data:/mnt/o"},
	{name: "root-tmpfs", args: "--tmpfs=/ --bind=+/usr:/usr", fails: true},

	// the program
	{name: "setenv", args: "--setenv=A=b --setenv=C=d=e\\sf -E EMPTY="},
	{name: "setenv-over", args: "--setenv=PATH=/usr/bin --setenv=HOME=/x --setenv=container=mine --setenv=TERM=dumb"},
	{name: "setenv-inherit", args: "--setenv=LANG", env: []string{"LANG=de_DE.UTF-8"}},
	{name: "chdir", args: "--chdir=/opt/data"},
	{name: "chdir-missing", args: "--chdir=/no/such", fails: true},
	{name: "user", args: "--user=alice"},
	{name: "user-number", args: "--user=1000"},
	{name: "user-root", args: "--user=root"},
	{name: "user-unknown", args: "--user=nobody-such", fails: true},
	{name: "user-chdir", args: "--user=alice --chdir=/opt"},
	{name: "user-read-only-console", args: "--user=alice --console=read-only"},
	{name: "hostname", args: "--hostname=other"},
	{name: "hostname-long", args: "--hostname=a.b.c.example"},
	{name: "rlimit", args: "--rlimit=RLIMIT_NOFILE=100:200 --rlimit=CORE=0 --rlimit=NPROC=5000"},
	{name: "rlimit-infinity", args: "--rlimit=STACK=infinity"},
	{name: "rlimit-bad", args: "--rlimit=NOFILE=2:1", fails: true},
	{name: "oom", args: "--oom-score-adjust=500"},
	{name: "affinity", args: "--cpu-affinity=0"},
	{name: "personality", args: "--personality=x86", only: "amd64"},
	{name: "notify-ready", args: "--notify-ready=no"},
	{name: "kill-signal", args: "--kill-signal=SIGUSR1"},
	{name: "credential", args: "--set-credential=mine:some\\stext"},
	{name: "credential-file", args: "--load-credential=file:OUT/file"},
	{name: "credential-user", args: "--set-credential=mine:x --user=alice --no-new-privileges=yes"},

	// users
	{name: "users-no", args: "--private-users=no"},
	{name: "users-identity", args: "--private-users=identity"},
	{name: "users-off", args: "--private-users=1310720:65536 --private-users-ownership=off"},
	{name: "users-map", args: "--private-users=1310720:65536 --private-users-ownership=map"},
	{name: "users-chown", args: "--private-users=1310720:65536 --private-users-ownership=chown"},
	{name: "users-auto", args: "--private-users=1310720:65536 --private-users-ownership=auto"},
	{name: "users-narrow", args: "--private-users=1310720:2000 --private-users-ownership=map"},
	{name: "users-pick", args: "--private-users=pick"},
	{name: "users-U", args: "-U"},
	{name: "users-user", args: "--private-users=1310720:65536 --private-users-ownership=map --user=alice"},
	{name: "users-network", args: "--private-users=1310720:65536 --private-users-ownership=map --private-network"},
	{name: "users-bind", args: "--private-users=1310720:65536 --private-users-ownership=map --bind=OUT/dir:/mnt/dir"},
	{name: "users-bind-idmap", args: "--private-users=1310720:65536 --private-users-ownership=map --bind=OUT/owned:/mnt/dir:idmap"},
	{name: "users-bind-rootidmap", args: "--private-users=1310720:65536 --private-users-ownership=map --bind=OUT/owned:/mnt/dir:rootidmap"},
	{name: "users-all-mounts", args: "--private-users=1310720:65536 --private-users-ownership=map --bind=OUT/dir:/mnt/dir --bind-ro=OUT/file:/srv/file --tmpfs=/mnt/t --overlay=+/opt:OUT/upper:/opt --inaccessible=/srv/secret"},
	{name: "users-console", args: "--private-users=1310720:65536 --private-users-ownership=map --console=read-only"},
	{name: "users-as-pid2", args: "--private-users=1310720:65536 --private-users-ownership=map --as-pid2"},
	{name: "bind-idmap-without-users", args: "--bind=OUT/owned:/mnt/dir:idmap", fails: true},

	// privileges
	{name: "private-network", args: "--private-network"},
	{name: "capability", args: "--capability=CAP_NET_ADMIN,CAP_SYSLOG"},
	{name: "capability-all", args: "--capability=all"},
	{name: "capability-drop", args: "--drop-capability=CAP_SYS_ADMIN,CAP_MKNOD,CAP_AUDIT_WRITE"},
	{name: "capability-drop-all", args: "--drop-capability=all"},
	{name: "capability-both", args: "--capability=CAP_NET_ADMIN --drop-capability=CAP_NET_ADMIN"},
	{name: "capability-drop-user", args: "--drop-capability=CAP_CHOWN --user=alice"},
	{name: "capability-ambient", args: "--ambient-capability=CAP_NET_BIND_SERVICE --user=alice"},
	{name: "capability-network", args: "--private-network --drop-capability=CAP_NET_ADMIN"},
	{name: "capability-unknown", args: "--capability=CAP_NO_SUCH", fails: true},
	{name: "no-new-privileges", args: "--no-new-privileges=yes"},
	{name: "no-new-privileges-user", args: "--no-new-privileges=yes --user=alice"},
	{name: "filter-allow", args: "--system-call-filter=@keyring\\sbpf"},
	{name: "filter-deny", args: "--system-call-filter=~sethostname\\s@chown"},

	// switches in the environment
	{name: "api-writable", env: []string{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=1"}},
	{name: "api-network", env: []string{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"}},
	{name: "tmpfs-tmp-off", env: []string{"SYSTEMD_NSPAWN_TMPFS_TMP=0"}},
	{name: "seccomp-off", env: []string{"SYSTEMD_SECCOMP=0"}},
	{name: "share-uts", env: []string{"SYSTEMD_NSPAWN_SHARE_NS_UTS=1"}},
	{name: "share-ipc", env: []string{"SYSTEMD_NSPAWN_SHARE_NS_IPC=1"}},
	// Not SYSTEMD_NSPAWN_USE_CGNS=0: without a cgroup namespace nspawn's mount
	// of cgroup2 changes the options of the host's.
	{name: "service-name", env: []string{"SYSTEMD_NSPAWN_CONTAINER_SERVICE=mine"}},

	// files of the image
	{name: "pivot-root-alone", args: "--pivot-root=/deploy"},
	{name: "pivot-root", args: "--pivot-root=/deploy:/data"},
	{name: "resolv-conf-copy", args: "--resolv-conf=copy-host"},
	{name: "resolv-conf-bind", args: "--resolv-conf=bind-host"},
	{name: "resolv-conf-bind-read-only", args: "--resolv-conf=bind-host --read-only"},
	{name: "resolv-conf-replace", args: "--resolv-conf=replace-host"},

	// .nspawn files
	{name: "file-exec", args: "--settings=trusted", setting: "[Exec]\nEnvironment=A=b\nWorkingDirectory=/opt\nHostname=filed\nNoNewPrivileges=yes\nDropCapability=CAP_CHOWN\n"},
	{name: "file-mounts", args: "--settings=trusted", setting: "[Files]\nBind=OUT/dir:/mnt/dir\nTemporaryFileSystem=/mnt/t:mode=0700\nReadOnly=yes\n"},
	{name: "file-over-options", args: "--settings=override --setenv=A=option --hostname=option", setting: "[Exec]\nEnvironment=A=file\nHostname=file\n"},
	{name: "file-untrusted", args: "--settings=yes", setting: "[Exec]\nCapability=CAP_NET_ADMIN\nEnvironment=A=b\n[Files]\nBind=OUT/dir:/mnt/dir\n"},
	{name: "file-private", args: "--settings=trusted", setting: "[Network]\nPrivate=yes\n[Exec]\nPrivateUsers=1310720:65536\n[Files]\nPrivateUsersOwnership=map\n"},
}

// result is what one launcher made of a combination.
type result struct {
	vector vector
	code   int
	said   string // what it wrote beside the probe's line
	failed string // why there is no vector
}

// run starts the probe once. Everything is fresh and has the same names as in
// the other run: the tree, what is outside, /run and the cgroup.
func run(t *testing.T, l stage.Launcher, c combination, dir string) (res result) {
	base, out := filepath.Join(dir, "cmp"), filepath.Join(dir, "out")
	tree.Fresh(t, tree.Tiny(t), base)
	if err := os.RemoveAll(out); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"dir/sub", "lower", "upper", "owned"} {
		if err := os.MkdirAll(filepath.Join(out, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"dir/file", "file", "lower/file", "lower/low", "owned/file"} {
		if err := os.WriteFile(filepath.Join(out, f), []byte("outside "+f+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"owned", "owned/file"} {
		if err := os.Chown(filepath.Join(out, f), 1000, 1000); err != nil {
			t.Fatal(err)
		}
	}
	words := func(s string) string { return strings.ReplaceAll(s, "OUT", out) }
	os.Remove(base + ".nspawn")
	if c.setting != "" {
		if err := os.WriteFile(base+".nspawn", []byte(words(c.setting)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	argv := []string{l.Path, "--quiet", "--directory=" + base, "--machine=cmp", "--register=no", "--keep-unit", "--timezone=off", "--link-journal=no"}
	for _, standard := range []string{"--console=pipe", "--resolv-conf=off"} {
		if name, _, _ := strings.Cut(standard, "="); !strings.Contains(" "+c.args, " "+name+"=") {
			argv = append(argv, standard)
		}
	}
	for a := range strings.FieldsSeq(words(c.args)) {
		argv = append(argv, strings.ReplaceAll(a, `\s`, " "))
	}
	if c.payload == "" {
		c.payload = "/usr/bin/probe"
	}
	argv = append(argv, strings.Fields(c.payload)...)

	s := stage.New(t, stage.Unified)
	s.Mount("-t", "tmpfs", "-o", "mode=755", "sub", filepath.Join(out, "dir/sub"))
	r := s.Start(append(l.Env, c.env...), argv...)
	code, err := r.Code(most)
	if err != nil {
		res.failed = err.Error()
	}
	res.code = code
	saw, said, err := read(r.Out.String())
	res.said = said
	if err != nil {
		if res.failed == "" {
			res.failed = fmt.Sprintf("exit status %d: %s", code, strings.TrimSpace(said))
		}
		return res
	}
	res.vector = normal(saw, world{ns: s.Namespaces(), cgroup: r.Cgroup, tree: base, out: out, argv: strings.Join(argv, " ")})
	res.vector["exit status"] = fmt.Sprint(code)
	if left := r.Left(); len(left) > 0 {
		res.vector["left running"] = fmt.Sprint(len(left))
	}
	return res
}

// both runs a combination under two launchers.
func both(t *testing.T, a, b stage.Launcher, c combination) (ra, rb result) {
	dir := tree.Scratch(t)
	t.Run("under-"+a.Name, func(t *testing.T) { ra = run(t, a, c, dir) })
	t.Run("and-"+b.Name, func(t *testing.T) { rb = run(t, b, c, dir) })
	return ra, rb
}

// TestPeersSample is a part of the grid, for every day: each choice of each
// axis is in it.
func TestPeersSample(t *testing.T) {
	if strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		t.Skip("TestPeersSee runs the whole grid")
	}
	tree.NeedRoot(t)
	nspawn, launch := stage.Nspawn(t), stage.Under(t)
	by, err := explanations(differences)
	if err != nil {
		t.Fatal(err)
	}
	sample := []string{
		"grid-api-no-no-tmp-volatile-map-whole", "grid-api-network-tmp-state-host-users-pivot", "grid-api-yes-no-tmp-overlay-host-users-whole",
		"grid-api-no-tmp-keep-pick-pivot", "grid-api-no-no-tmp-keep-chown-whole",
	}
	for _, c := range grid() {
		if !slices.Contains(sample, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			n, l := both(t, nspawn, launch, c)
			if n.vector == nil {
				t.Skipf("fails under systemd-nspawn: %s", n.failed)
			}
			if l.vector == nil {
				t.Fatalf("fails under launch: %s", l.failed)
			}
			_, left := explain(differ(c.name, n.vector, l.vector), by)
			for _, d := range left {
				t.Errorf("%s", d)
			}
		})
	}
}

// TestGrid: the grid is complete, and knows its holes.
func TestGrid(t *testing.T) {
	all, names, fail := grid(), map[string]bool{}, 0
	want := 1
	for _, axis := range axes {
		want *= len(axis)
	}
	for _, c := range all {
		names[c.name] = true
		if c.fails {
			fail++
		}
	}
	if len(all) != want || len(names) != want || want != 192 {
		t.Errorf("%d combinations of %d names, want %d", len(all), len(names), want)
	}
	// 2 of 3 with users, and chown with what is thrown away.
	if want := 2*3*2*4*2 + 1*3*2*2; fail != want {
		t.Errorf("%d fail, want %d", fail, want)
	}
}

// TestPeersSee is the comparison. With LAUNCH_PEER=nspawn it compares
// systemd-nspawn with itself, which must give nothing at all.
func TestPeersSee(t *testing.T) {
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "peers") {
		t.Skip("slow: runs with LAUNCH_TEST=peers (make peers)")
	}
	tree.NeedRoot(t)
	nspawn, launch := stage.Nspawn(t), stage.Under(t)
	by, err := explanations(differences)
	if err != nil {
		t.Fatal(err)
	}
	if launch.Name == "nspawn" {
		by = nil
	}
	ran, explained, unexplained, failed := 0, 0, 0, 0
	for _, c := range everything() {
		if c.only != "" && c.only != runtime.GOARCH {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			ran++
			n, l := both(t, nspawn, launch, c)
			if c.fails {
				if n.vector != nil {
					failed++
					t.Logf("systemd-nspawn accepts what it should refuse")
				}
				if l.vector != nil {
					unexplained++
					t.Errorf("%s | accepted | no | yes", c.name)
				} else if l.code == 0 {
					unexplained++
					t.Errorf("%s | exit status | %d | 0", c.name, n.code)
				}
				return
			}
			if n.vector == nil {
				failed++
				t.Logf("fails under systemd-nspawn: %s", n.failed)
				return
			}
			if l.vector == nil {
				l.vector = vector{"exit status": "failed: " + strings.Join(strings.Fields(l.failed), " ")}
				n.vector = vector{"exit status": n.vector["exit status"]}
			}
			ok, left := explain(differ(c.name, n.vector, l.vector), by)
			explained += ok
			unexplained += len(left)
			for _, d := range left {
				t.Errorf("%s", d)
			}
		})
	}
	if ran == count() { // not when -run chose some of them
		for _, e := range by {
			if e.used == 0 {
				unexplained++
				t.Errorf("differences.txt:%d explains nothing any more: %s | %s | %s | %s", e.line, e.combination, e.fact, e.nspawn, e.launch)
			}
		}
	}
	fmt.Printf("%d combinations, %d differences explained, %d unexplained, %d failed under nspawn\n", ran, explained, unexplained, failed)
}

// everything is all that make compare runs.
func everything() []combination {
	return append(combinations[:len(combinations):len(combinations)], grid()...)
}

func count() int {
	n := 0
	for _, c := range everything() {
		if c.only == "" || c.only == runtime.GOARCH {
			n++
		}
	}
	return n
}

// The differ finds nothing between two runs of the same, and finds what an
// option changes.
func TestDifferOnTwins(t *testing.T) {
	tree.NeedRoot(t)
	nspawn := stage.Nspawn(t)
	dir := tree.Scratch(t)
	var plain, again, other result
	t.Run("plain", func(t *testing.T) { plain = run(t, nspawn, combination{}, dir) })
	t.Run("again", func(t *testing.T) { again = run(t, nspawn, combination{}, dir) })
	t.Run("other", func(t *testing.T) {
		other = run(t, nspawn, combination{args: "--hostname=other --tmpfs=/mnt/t --no-new-privileges=yes"}, dir)
	})
	for _, r := range []result{plain, again, other} {
		if r.vector == nil {
			t.Fatal(r.failed)
		}
	}
	for _, d := range differ("twins", plain.vector, again.vector) {
		t.Errorf("between two runs of the same: %s", d)
	}
	found := map[string]bool{}
	for _, d := range differ("other", plain.vector, other.vector) {
		found[d.fact] = true
	}
	for _, fact := range []string{"self uname", "mount /mnt/t fstype", "mount /mnt/t flags", "status NoNewPrivs", "path /mnt/t"} {
		if !found[fact] {
			t.Errorf("not found between different runs: %s", fact)
		}
	}
}
