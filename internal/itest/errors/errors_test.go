// Package errors looks at what a person reads when launch can't do what it was
// told: one sentence, where that was said, and what to do instead. All of it is
// in testdata/errors.txt, so that a change to any of them can be read.
//
// Room: test.
package errors

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/disks"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
	"launch/settings"
)

var update = flag.Bool("update", false, "write the golden anew")

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

const (
	golden = "testdata/errors.txt"
	most   = 30 * time.Second
	name   = "launch-test-errors"
)

// bad is a value for each option that takes one, which it refuses. More words
// behind it are other options.
var bad = map[string][]string{
	"directory": {"/no/such"},
	"image": {"/no/such", "OUT/dir", "OUT/file", "/dev/null", "OUT/roots.raw", "OUT/home.raw", "OUT/verity.raw", "OUT/locked.raw", "OUT/overlap.raw", "OUT/twice.raw",
		"OUT/cut.raw", "OUT/ext3.raw", "OUT/plain.raw", "OUT/plain.raw --boot", "OUT/plain.raw --directory=OUT/dir", "OUT/plain.raw --template=OUT/dir",
		"OUT/plain.raw --link-journal=guest", "OUT/plain.raw --pivot-root=/no/such", "OUT/hashed.raw"},
	"mstack": {"/no/such", "OUT/file", "OUT/dir", "OUT/stack --pivot-root=/no/such", "OUT/stack --directory=OUT/dir", "OUT/stack --image=OUT/plain.raw", "OUT/stack --template=OUT/dir", "OUT/stack --ephemeral",
		"OUT/stack --link-journal=guest", "OUT/stack --private-users=pick --private-users-ownership=chown"},
	"image-policy":            {"frob", "root=frob", "*", "root=verity --image=OUT/plain.raw", "root=open:home=absent --image=OUT/whole.raw"},
	"root-hash":               {"0011", "xyz", "00112233445566778899aabbccddeeff", "00112233445566778899aabbccddeeff --image=OUT/plain.raw"},
	"root-hash-sig":           {"base64:!", "base64:AAAA --image=OUT/plain.raw"},
	"verity-data":             {"OUT/file --image=OUT/plain.raw"},
	"oci-bundle":              {"/no/such", "OUT/bundle"},
	"slice":                   {"a/b"},
	"mounts":                  {"/no/such", "/etc/passwd"},
	"property":                {"Nope", "MemoryMax=abc"},
	"template":                {"/no/such --directory=/no/such-either", "OUT/dir --directory=OUT/lost"},
	"volatile":                {"overlya", "= "},
	"profile":                 {"sandbx", "= "},
	"join":                    {"a/b", "launch-test-no-such"},
	"pivot-root":              {"deploy", "/deploy:data", "/no/such", "/deploy:/nope"},
	"machine":                 {"a_b", strings.Repeat("x", 65), "-x", "a..b"},
	"chdir":                   {"opt", "/proc/1", "/no/such", "/a/../b"},
	"setenv":                  {"1A=b", "=b"},
	"uid":                     {"a/b", "4294967295", "nobody-such"},
	"user":                    {"a:b"},
	"kill-signal":             {"SIGTREM", "65"},
	"hostname":                {"a_b"},
	"uuid":                    {"00000000000000000000000000000000", "1234", "xyz"},
	"personality":             {"vax"},
	"suppress-sync":           {"maybe"},
	"private-users":           {"pikc", "managed", "1:0", "4294967290:10", "0x10"},
	"private-users-ownership": {"mpa", "foreign --private-users=1310720", "chown --private-users=pick --read-only", "chown --private-users=100000"},
	"network-namespace-path":  {"/no/such", "/etc/passwd", "/proc/self/ns/uts", "/proc/self/ns/net --network-veth", "/proc/self/ns/net --network-zone=z"},
	// None of these gets as far as to make an interface of the host's.
	"network-bridge":                {"a/b", "absent0", "absent0 --network-zone=z"},
	"network-zone":                  {"", "thirteenbytes"},
	"network-veth-extra":            {"", "a:b:c", "toolonginterfacename1", "a:x --network-veth-extra=b:x", "a:x --network-veth-extra=a:y", "a:host0 --network-veth", "lo", "a:lo"},
	"network-macvlan":               {"12", "absent0", "lo:a --network-interface=lo"},
	"network-ipvlan":                {"all", "absent0"},
	"network-interface":             {"a/b", "absent0", "lo", "lo:a --network-interface=lo:b"},
	"background":                    {"red", "4;;4"},
	"port":                          {"0", "8080:65536", "sctp:80", "http", "1:2:3", "80", "80:81 --private-network --port=tcp:80"},
	"capability":                    {"CAP_SYS_ADMNI", "CAP_SYS_ADMIN,bogus"},
	"drop-capability":               {"CAP_BOGUS"},
	"ambient-capability":            {"all", "CAP_SYS_TIME", "CAP_CHOWN --boot"},
	"no-new-privileges":             {"2"},
	"restrict-address-families":     {"AF_INTE"},
	"rlimit":                        {"NOFILE", "NOFLIE=1", "NOFILE=2:1", "NOFILE=x"},
	"selinux-context":               {"container_t", "a:b:c d", "a:b:c"},
	"selinux-apifs-context":         {"container_t", "a:b:c"},
	"oom-score-adjust":              {"1001", "x"},
	"cpu-affinity":                  {"5000", "3-1", "x"},
	"bind":                          {"", "x:y", "/no/such:/mnt", "OUT/dir:/mnt:bogus", "OUT/dir:/opt/data/file", "OUT/dir:/mnt:idmap", "OUT/dir:/ --private-users=pick", "/proc:/mnt:idmap --private-users=1310720"},
	"bind-ro":                       {`a\`, "OUT/dir:/mnt/../etc"},
	"tmpfs":                         {"mnt", "/mnt:size=bogus", "/mnt:rbind", "/ --private-users=1310720 --private-users-ownership=map"},
	"overlay":                       {"OUT/dir", "OUT/dir:+/no/such:/mnt", "OUT/dir:OUT/no-such/up:/mnt", ":OUT/dir:/mnt"},
	"overlay-ro":                    {"OUT/file:OUT/dir:/mnt"},
	"inaccessible":                  {"srv", "/", "/no/such"},
	"bind-user":                     {"", "1000", "a/b", strings.Repeat("x", 32), "nobody-such", "root", "nobody", "alice", "friends", "groupless", "lonely", "homeless", "rootless", "numberless", "relative", "strange", "filed", "full --private-users=1310720:2000 --private-users-ownership=off"},
	"bind-user-shell":               {"maybe", "bin/sh", "/bin/../sh", "/bin/sh", "yes --bind-user=odd"},
	"bind-user-group":               {"", "0", "a:b", "wheel"},
	"resolv-conf":                   {"copy-hots"},
	"timezone":                      {"symlnik"},
	"link-journal":                  {"guets", "guest --ephemeral", "guest --overlay-all", "guest --volatile"},
	"forward-journal":               {"OUT/x.journal --set-credential=journal.forward_to_socket:x"},
	"forward-journal-max-use":       {"x", "1M"},
	"forward-journal-keep-free":     {"10%"},
	"forward-journal-max-file-size": {"-1"},
	"forward-journal-max-files":     {"-1"},
	"set-credential":                {"nocolon", "a/b:x", `a:\q`, "a:1 --set-credential=a:2"},
	"load-credential":               {"a:/no/such", "a:", "a:b", "../a:/etc/hostname"},
	"console":                       {"pips"},
	"register":                      {"maybe"},
	"notify-ready":                  {"maybe"},
	"settings":                      {"overrdie"},
	"plan":                          {"josn"},
}

// people are users of the host, by the records of which the values above speak.
var people = map[string]string{
	"alice.user":      `{"userName":"alice","uid":4001,"homeDirectory":"/tmp"}`,
	"friends.user":    `{"userName":"friends","uid":4002,"homeDirectory":"/tmp"}`,
	"groupless.user":  `{"userName":"groupless","uid":4003,"homeDirectory":"/tmp"}`,
	"lonely.user":     `{"userName":"lonely","uid":4004,"gid":4001,"homeDirectory":"/tmp"}`,
	"homeless.user":   `{"userName":"homeless","uid":4005,"homeDirectory":"/no/such"}`,
	"rootless.user":   `{"userName":"rootless","uid":4006,"homeDirectory":"/"}`,
	"numberless.user": `{"userName":"numberless","homeDirectory":"/tmp"}`,
	"relative.user":   `{"userName":"relative","uid":4008,"homeDirectory":"tmp"}`,
	"strange.user":    `{"userName":"stranger","uid":4009,"homeDirectory":"/tmp"}`,
	"filed.user":      `{"userName":"filed","uid":4010,"homeDirectory":"/etc/passwd"}`,
	"full.user":       `{"userName":"full","uid":4011,"homeDirectory":"/tmp"}`,
	"4001.group":      `{"groupName":"alice","gid":4001}`,
	"4002.group":      `{"groupName":"friends","gid":4002}`,
	"4005.group":      `{"groupName":"homeless","gid":4005}`,
	"4006.group":      `{"groupName":"rootless","gid":4006}`,
	"4008.group":      `{"groupName":"relative","gid":4008}`,
	"4010.group":      `{"groupName":"filed","gid":4010}`,
	"4011.group":      `{"groupName":"full","gid":4011}`,
}

// anything are options that no value is bad for.
var anything = map[string]string{
	"system-call-filter": "what nobody knows is ignored with a notice, since tables of calls differ",
}

// others are mistakes that are no option's value.
var others = []string{
	// Options that aren't any.
	"--read-olny", "--bnid=/x", "--pri=x", "-y", "--directory", "--chdir", "-u", "--read-only=yes", "--private-users-delegate=x", "--help=x",
	// What doesn't go together.
	"--system-call-filter=~execve", "--boot --as-pid2", "--ephemeral --template=OUT/dir --directory=OUT/other", "--template=OUT/dir",
	// Trees that are none.
	"--directory=OUT/file", "--directory=OUT/dir", "--directory=OUT/dir --boot", "--directory=/", "--boot",
	"--directory=OUT/dir/sub --volatile", "--machine=launch-test-no-such",
	// Commands that can't be run.
	"-- /no/such", "-- nothing-like-that", "-- /etc/passwd", "--as-pid2 -- /no/such", "--user=alice -- /root/x",
	"cat", "cat /no/such/launch-test",
}

// files are settings beside the tree. What is wrong with a line is a warning
// as a rule, so that an error shows only where the file can't be relied on, or
// the machine can't be made.
var files = []string{
	"[Exec\nBoot=no\n",
	"[Files]\nBind=/no/such:/mnt\n",
	"[Files]\nBind=OUT/dir:/mnt:idmap\n",
	"[Files]\n\n# one mount\nTemporaryFileSystem=/mnt:size=bogus\n",
	"[Files]\nInaccessible=/no/such\n",
	"[Network]\nInterface=absent0\n",
	"[Network]\nBridge=absent0\nZone=z\n",
	"[Network]\nMACVLAN=lo a/b\n",
	"[Exec]\nUser=nobody-such\n",
	"[Exec]\nWorkingDirectory=/no/such\n",
	"[Exec]\nPivotRoot=/no/such\n",
	// What launch can't do, or what nobody knows, and can't be left out.
	"[Exec]\nPrivateUsersDelegate=1\n",
	"[Exec]\nPrivateUsers=managed\n",
	"[Files]\nBind=OUT/dir:/mnt:ro\n",
	"[Files]\nBindUser=homeless 1x\n",
	"[Files]\nBindUserShell=/bin/sh\n",
	"[Network]\nPort=sctp:80\nPort=80\n",
	// With warnings before: nearest names, bad values.
	"[Exec]\nHostnaem=x\nWorkingDirectory=/no/such\n",
	"[Exce]\nBoot=no\n[Files]\nBind=/no/such:/mnt\n",
	"[Exec]\nPrivateUsers=pikc\nKillSignal=SIGTREM\nNoNewPrivileges=maybe\n[Files]\nBind=/no/such:/mnt\n",
	"[Exec]\nBoot=yes\nProcessTwo=yes\nUser=nobody-such\n",
}

var step = regexp.MustCompile(`step [0-9]+,`)

// place is where launch is run from, and what the golden calls things.
type place struct {
	*stage.Stage
	t        *testing.T
	bin      string
	dir, out string
	names    *strings.Replacer
	text     bytes.Buffer
	count    int
}

// lines keeps what launch itself wrote.
func (p *place) ask(label string, argv ...string) {
	p.t.Helper()
	argv = append([]string{p.bin}, argv...)
	r := p.Start(nil, argv...)
	code, err := r.Code(most)
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", label, err, r.Out)
	}
	// How many steps come before depends on the host and the tree.
	said := step.ReplaceAllString(p.names.Replace(r.Out.String()), "step N,")
	p.count++
	p.text.WriteString("$ " + label + "\n" + said + "\n")
	if code != 1 {
		p.t.Errorf("%s: exit status %d, want 1", label, code)
	}
	errors := 0
	for line := range strings.Lines(said) {
		switch {
		case strings.HasPrefix(line, "launch: "):
			errors++
			if strings.HasSuffix(strings.TrimSpace(line), ".") {
				p.t.Errorf("%s: a full stop at the end: %s", label, line)
			}
		case strings.HasPrefix(line, "  from:  "), strings.HasPrefix(line, "  hint:  "):
		default:
			p.t.Errorf("%s: a line of its own kind: %s", label, line)
		}
	}
	if errors == 0 {
		p.t.Errorf("%s: launch says nothing", label)
	}
	// What the kernel refused can't be known from the words alone.
	for _, part := range []string{"  from:  ", "  hint:  "} {
		if strings.Contains(said, " step N, ") && !strings.Contains(said, part) {
			p.t.Errorf("%s: no %s in\n%s", label, strings.TrimSpace(part), said)
		}
	}
}

// run runs a machine from the tree, unless the words name another one.
func (p *place) run(words string) {
	p.t.Helper()
	var argv []string
	for w := range strings.SplitSeq(strings.ReplaceAll(words, "OUT", p.out), " ") {
		argv = append(argv, w)
	}
	said := func(option string) bool {
		return slices.ContainsFunc(argv, func(w string) bool { return w == option || strings.HasPrefix(w, option+"=") })
	}
	if argv[0] != "cat" {
		if !said("--directory") && !said("--image") && !said("--mstack") && !said("--oci-bundle") && !said("--template") && !strings.Contains(words, "no-such") || strings.Contains(words, "nobody-such") || strings.Contains(words, "OUT/no-such") {
			argv = append([]string{"--directory=" + p.dir}, argv...)
		}
		if !said("--machine") && words != "--template=OUT/dir" {
			argv = append([]string{"--machine=" + name}, argv...)
		}
		if !said("--console") {
			argv = append([]string{"--console=pipe"}, argv...)
		}
		if !said("--") && !said("--boot") {
			argv = append(argv, "/bin/true")
		}
	}
	p.ask("launch "+words, argv...)
}

// things is what a start could leave: files under /run, mounts, the tree.
func (p *place) things() string {
	p.t.Helper()
	list := p.Look("find", "/run", "/var/tmp", p.out, p.dir, "(", "-name", "launch-test-*", "-o", "-name", "launch-bench-*", ")", "-prune", "-o", "-printf", "%p %y %m %U %s %l\n")
	return list + p.Look("findmnt", "-rno", "TARGET,SOURCE,FSTYPE,OPTIONS,PROPAGATION", "-R", "/run")
}

// TestErrors is all of it.
func TestErrors(t *testing.T) {
	if stage.Under(t).Name == "nspawn" {
		t.Skip("the words are launch's")
	}
	tree.NeedRoot(t)
	p := &place{t: t, Stage: stage.New(t, stage.Unified), bin: stage.Launch(t).Path, dir: tree.Copy(t, tree.Tiny(t))}
	p.out = filepath.Join(tree.Scratch(t), "out")
	for _, d := range []string{"dir/sub/usr", "dir/sub/bin", "stack/layer@1/usr", "stack/rw", "bundle"} {
		if err := os.MkdirAll(filepath.Join(p.out, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"file", "dir/file"} {
		if err := os.WriteFile(filepath.Join(p.out, f), []byte("text\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(p.out, "bundle/config.json"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain := disks.FS(t, "ext4", p.out+"/dir", 1<<20)
	part := func(kind, fs string) disks.Part { return disks.Part{Type: kind, Data: disks.Fake(fs)} }
	root, home := disks.Part{Type: disks.Root, Data: plain}, part(disks.Home, "ext4")
	for name, image := range map[string][]byte{
		"plain": plain, "hashed": plain, "ext3": disks.Fake("ext3"), "locked": disks.Fake("crypto_LUKS"),
		"whole": disks.GPT(disks.Table{Parts: []disks.Part{root, home}}),
		"roots": disks.GPT(disks.Table{Parts: []disks.Part{part(disks.Linux, "ext4"), part(disks.Linux, "ext4")}}),
		"home":  disks.GPT(disks.Table{Parts: []disks.Part{home}}), "verity": disks.GPT(disks.Table{Parts: []disks.Part{root, part(disks.RootVerity, "verity")}}),
		"overlap": disks.GPT(disks.Table{Parts: []disks.Part{root, home}, Change: func(_, e []byte) { copy(e[128+32:128+48], e[32:48]) }}),
		"twice":   append([]byte("XFSB"), disks.Fake("ext4")[4:]...), "cut": disks.GPT(disks.Table{Parts: []disks.Part{root, home}})[:1<<20],
	} {
		if err := os.WriteFile(filepath.Join(p.out, name+".raw"), image, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", p.out+"/lost"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p.out+"/hashed.roothash", []byte("00"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.names = strings.NewReplacer(p.dir, "TREE", p.out, "OUT", filepath.Dir(p.dir), "BESIDE", name, "MACHINE", "\r\n", "\n",
		"known: x86-64, x86)", "known: ARCHITECTURES)", "known: arm64, arm)", "known: ARCHITECTURES)")
	// Mount points stay in the tree, and so do directories for the kernel's
	// file systems: they are there before.
	if code, err := p.Start(nil, p.bin, "--quiet", "--console=pipe", "--directory="+p.dir, "--machine="+name, "--tmpfs=/mnt", "/bin/true").Code(most); code != 0 || err != nil {
		t.Fatal("no machine starts: ", code, err)
	}
	p.Look("mkdir", "-p", "/run/launch", "/run/userdb")
	for name, text := range people {
		p.Look("sh", "-c", `printf %s "$2" >"/run/userdb/$1"`, "sh", name, text)
	}
	before := p.things()

	p.text.WriteString("# What launch says when it can't. Written by go test ./internal/itest/errors -update.\n\n")
	for i := range settings.Options {
		o := &settings.Options[i]
		values := bad[o.Name]
		if o.Flag == "" || o.Arg == settings.NoArg || o.Later || anything[o.Name] != "" {
			if values != nil {
				t.Errorf("--%s has a bad value, but no value can be", o.Name)
			}
			continue
		}
		if values == nil {
			t.Errorf("--%s takes a value, and none is tried that is bad", o.Flag)
		}
		for _, v := range values {
			p.run("--" + o.Flag + "=" + strings.TrimPrefix(v, "= "))
		}
	}
	for _, words := range others {
		p.run(words)
	}
	file := p.dir + ".nspawn"
	for _, text := range files {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "OUT", p.out)), 0o644); err != nil {
			t.Fatal(err)
		}
		p.text.WriteString("MACHINE.nspawn:\n" + "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n")
		p.ask("launch --settings=trusted", "--console=pipe", "--settings=trusted", "--directory="+p.dir, "/bin/true")
	}
	os.Remove(file)

	// Somebody else has it.
	r := p.Start(nil, p.bin, "--quiet", "--console=pipe", "--directory="+p.dir, "--machine="+name, "/bin/busybox", "sh", "-c", "echo up; sleep 60")
	if err := r.Await("up\n", most); err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	p.ask("launch, while the machine runs", "--console=pipe", "--directory="+p.dir, "--machine="+name, "/bin/true")
	p.ask("launch --machine=other, while the tree is used", "--console=pipe", "--directory="+p.dir, "--machine=launch-test-other", "/bin/true")
	p.ask("launch --cleanup, while the machine runs", "--cleanup", "--machine="+name)
	r.Process.Signal(unix.SIGTERM)
	if _, err := r.Code(most); err != nil {
		t.Fatal(err)
	}

	if after := p.things(); after != before {
		t.Errorf("the host is not as it was:\n%s", difference(t, before, after))
	}
	if p.count < 40 {
		t.Errorf("only %d errors", p.count)
	}
	got := p.text.String()
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("other words than in %s (-update writes it anew):\n%s", golden, difference(t, string(want), got))
	}
}

func difference(t *testing.T, a, b string) string {
	dir := t.TempDir()
	for n, text := range map[string]string{"want": a, "got": b} {
		if err := os.WriteFile(filepath.Join(dir, n), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, _ := exec.Command("diff", "-u", filepath.Join(dir, "want"), filepath.Join(dir, "got")).CombinedOutput()
	return string(out)
}
