// Package share tries what host and machine have in common beside files that
// somebody asked for: the way in for mounts, exported sockets, credentials, the
// journal, and trees of the foreign range. With LAUNCH_PEER=nspawn what that
// has, too, is held to systemd-nspawn.
//
// Room: test.
package share

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "serve" {
		if os.Args[1] == "hand" {
			hand(os.Args[2])
		}
		serve(os.Args[1]) // we are a machine's payload
	}
	os.Exit(stage.Main(m))
}

const (
	most = 30 * time.Second
	name = "launch-test-share"
)

// place is a stage, and a tree to start from.
type place struct {
	*stage.Stage
	t   *testing.T
	l   stage.Launcher
	dir string
}

func begin(t *testing.T) *place {
	t.Helper()
	l := stage.Under(t)
	return &place{t: t, l: l, Stage: stage.New(t, stage.Unified), dir: tree.Copy(t, tree.Tiny(t))}
}

// start starts a machine that runs the script.
func (p *place) start(script string, args ...string) *stage.Run {
	p.t.Helper()
	return p.env(nil, script, args...)
}

func (p *place) env(env []string, script string, args ...string) *stage.Run {
	p.t.Helper()
	argv := append([]string{p.l.Path, "--quiet", "--directory=" + p.dir, "--machine=" + name, "--register=no", "--keep-unit",
		"--console=pipe", "--resolv-conf=off", "--timezone=off"}, args...)
	return p.Start(append(p.l.Env, env...), append(argv, "/bin/busybox", "ash", "-c", script)...)
}

// says runs the script to its end and gives what it said.
func (p *place) says(script string, args ...string) string {
	p.t.Helper()
	out, code := end(p.t, p.start(script, args...))
	if code != 0 {
		p.t.Errorf("%q: exit status %d\n%s", args, code, out)
	}
	return out
}

// refuses runs a machine that can't be.
func (p *place) refuses(want string, args ...string) {
	p.t.Helper()
	out, code := end(p.t, p.start("echo it runs", args...))
	if code != 1 || !strings.Contains(out, want) {
		p.t.Errorf("%q: exit status %d, want 1 with %q\n%s", args, code, want, out)
	}
}

func end(t *testing.T, r *stage.Run) (string, int) {
	t.Helper()
	code, err := r.Code(most)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	return r.Out.String(), code
}

func launchOnly(t *testing.T, why string) {
	t.Helper()
	if stage.Under(t).Name == "nspawn" {
		t.Skip("systemd-nspawn 252 has none: ", why)
	}
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

const users = "--private-users=1310720:65536"

// TestIncoming: what the host mounts in the tunnel comes in, and can be moved
// to its place; nothing goes out; nothing is left.
func TestIncoming(t *testing.T) {
	for kind, args := range map[string][]string{"plain": nil, "users": {users, "--private-users-ownership=map"}} {
		t.Run(kind, func(t *testing.T) {
			p := begin(t)
			move := `mount -o move /run/host/incoming/x /mnt && cat /mnt/mark`
			if kind == "users" {
				move = "" // it belongs to the host's users, and nobody inside can
			}
			r := p.start(`stat -c "%a %F" /run/host/incoming; touch /run/host/incoming/y 2>/dev/null && echo written
				echo up; while ! grep -q ' /run/host/incoming/x ' /proc/self/mountinfo; do sleep 0.1; done; echo came; `+move, args...)
			if err := r.Await("up\n", most); err != nil {
				t.Fatalf("%v\n%s", err, r.Out)
			}
			tunnel := "/run/systemd/nspawn/propagate/" + name
			want(t, "the tunnel outside", p.Look("stat", "-c", "%a %u %F", filepath.Dir(tunnel), tunnel), "600 0 directory\n600 0 directory\n")
			p.Look("sh", "-c", "mkdir /run/launch-test-from && mount -t tmpfs from /run/launch-test-from && echo marked >/run/launch-test-from/mark && mkdir "+tunnel+"/x && mount --bind /run/launch-test-from "+tunnel+"/x")
			out, code := end(t, r)
			p.Look("umount", "/run/launch-test-from")
			said := "600 directory\nup\ncame\nmarked\n"
			if kind == "users" {
				said = "600 directory\nup\ncame\n"
			}
			want(t, "inside", out, said)
			if code != 0 {
				t.Errorf("exit status %d", code)
			}
			if stage.Under(t).Name == "nspawn" {
				p.Look("sh", "-c", "umount -l "+tunnel+"/x; rmdir "+tunnel+"/x "+tunnel+" 2>/dev/null || :")
				return
			}
			// The mount that nobody took is gone, too.
			want(t, "what is left", p.Look("ls", "/run/systemd/nspawn/propagate"), "")
		})
	}
}

// TestExport: what the machine puts there is seen outside, and only seen.
func TestExport(t *testing.T) {
	launchOnly(t, "unix-export came with 256")
	for kind, args := range map[string][]string{"plain": nil, "users": {users, "--private-users-ownership=map"}} {
		t.Run(kind, func(t *testing.T) {
			p := begin(t)
			r := p.start(`echo hello >/run/host/unix-export/file; ln -s /etc/shadow /run/host/unix-export/link; stat -c "%a %u" /run/host/unix-export
				i=0; while [ $i -lt 100 ] && touch /run/host/unix-export/$i 2>/dev/null; do i=$((i+1)); done; [ $i -lt 100 ] && echo full
				echo up; while [ ! -e /stop ]; do sleep 0.1; done`, args...)
			if err := r.Await("up\n", most); err != nil {
				t.Fatalf("%v\n%s", err, r.Out)
			}
			dir := "/run/systemd/nspawn/unix-export/" + name
			look := func(script string) string { return p.Look("sh", "-c", "cd "+dir+" && "+script+" 2>&1 || :") }
			want(t, "the file", look("cat file"), "hello\n")
			newer := "/run/systemd/nspawn/" + name
			want(t, "the file, where systemd 261 looks for it", p.Look("sh", "-c", "cat "+newer+"/unix-export/file; stat -c '%a %u %F' "+newer), "hello\n755 0 directory\n")
			if out := look("echo x >file"); !strings.Contains(out, "Read-only") {
				t.Errorf("the host may write: %q", out)
			}
			if out := look("cat link"); !strings.Contains(out, "Too many levels") {
				t.Errorf("the host follows links: %q", out)
			}
			os.WriteFile(filepath.Join(p.dir, "stop"), nil, 0o644)
			out, _ := end(t, r)
			want(t, "inside", out, "755 0\nfull\nup\n")
			want(t, "what is left", p.Look("ls", filepath.Dir(dir)), "")
			want(t, "what is left of the other name", p.Look("sh", "-c", "ls -d "+newer+" 2>/dev/null || :"), "")
		})
	}
}

// TestExportTaken: what a systemd-nspawn has under the same name stays its own, and
// a machine may be called as a directory that is beside those of machines.
func TestExportTaken(t *testing.T) {
	launchOnly(t, "unix-export came with 256")
	p := begin(t)
	its := "/run/systemd/nspawn/" + name + "/unix-export"
	p.Look("sh", "-c", "mkdir -p "+its+" && mount -t tmpfs theirs "+its+" && : >"+its+"/mark")
	out, code := end(t, p.start("echo hello >/run/host/unix-export/file; cat /run/host/unix-export/file"))
	if code != 0 || out != "hello\n" {
		t.Errorf("beside another: exit status %d\n%s", code, out)
	}
	want(t, "what another has", p.Look("ls", its), "mark\n")
	p.Look("sh", "-c", "umount "+its+" && rmdir "+its+" "+filepath.Dir(its))

	for _, as := range []string{"propagate", "unix-export", "locks", "journal"} {
		p.Look("mkdir", "-p", "/run/systemd/nspawn/"+as+"/others")
		if out, code := end(t, p.start("echo up", "--machine="+as)); code != 0 || out != "up\n" {
			t.Errorf("called %s: exit status %d\n%s", as, code, out)
		}
		want(t, "what is left of "+as, p.Look("ls", "/run/systemd/nspawn/"+as), "others\n")
		p.Look("rmdir", "/run/systemd/nspawn/"+as+"/others")
	}
}

// TestKilled: a launcher that is gone leaves its mounts to the clean-up.
func TestKilled(t *testing.T) {
	launchOnly(t, "its machines outlive it")
	p := begin(t)
	r := p.start("echo up; sleep 60")
	if err := r.Await("up\n", most); err != nil {
		t.Fatal(err)
	}
	tunnel := "/run/systemd/nspawn/propagate/" + name
	p.Look("sh", "-c", "mkdir "+tunnel+"/x && mount -t tmpfs x "+tunnel+"/x && mount -t tmpfs y "+tunnel+"/x && : >"+tunnel+"/file")
	r.Process.Kill()
	end(t, r)
	r.Cleanup(p.l)
	want(t, "what is left", p.Look("ls", "/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"),
		"/run/systemd/nspawn/propagate:\n\n/run/systemd/nspawn/unix-export:\n")
	want(t, "what is left of the other name", p.Look("sh", "-c", "ls -d /run/systemd/nspawn/"+name+" 2>/dev/null || :"), "")
}

// TestCredentials: who reads what, and what is no credential.
func TestCredentials(t *testing.T) {
	show := `cd $CREDENTIALS_DIRECTORY; pwd; stat -c "%a %u:%g %n" . *; for f in *; do busybox od -An -c $f; done; touch x 2>/dev/null; grep -o 'credentials r[ow],[^ ]*' /proc/self/mountinfo | tail -1`
	t.Run("set", func(t *testing.T) {
		got := begin(t).says(show, "--set-credential=a:plain", `--set-credential=b:x\x00\n\101`, "--set-credential=c:")
		want(t, "inside", got, `/run/host/credentials
500 0:0 .
400 0:0 a
400 0:0 b
400 0:0 c
   p   l   a   i   n
   x  \0  \n   A
credentials ro,nosuid,nodev,noexec,relatime
`)
	})
	t.Run("users", func(t *testing.T) {
		got := begin(t).says("cd $CREDENTIALS_DIRECTORY; stat -c '%a %u:%g' . a; cat a", users, "--private-users-ownership=map", "--set-credential=a:plain")
		want(t, "inside", got, "500 0:0\n400 0:0\nplain")
	})
	t.Run("for a user alone", func(t *testing.T) {
		got := begin(t).says("cd $CREDENTIALS_DIRECTORY; stat -c '%a' . a; cat a", "--user=alice", "--no-new-privileges=yes", "--set-credential=a:plain")
		want(t, "inside", got, "555\n444\nplain")
	})
	t.Run("not for a user with others", func(t *testing.T) {
		p := begin(t)
		out, code := end(t, p.start("cat $CREDENTIALS_DIRECTORY/a", "--user=alice", "--set-credential=a:plain"))
		if code == 0 || strings.Contains(out, "plain") {
			t.Errorf("alice reads root's credential: %q", out)
		}
	})
	t.Run("none", func(t *testing.T) {
		want(t, "inside", begin(t).says("echo [$CREDENTIALS_DIRECTORY]; ls -d /run/host/credentials 2>/dev/null; :"), "[]\n")
	})
	t.Run("load", func(t *testing.T) {
		dir := t.TempDir()
		big := strings.Repeat("x", 1<<20)
		for file, text := range map[string]string{"file": "from a file", "own": "its own", "most": big, "more": big + "x"} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := net.Listen("unix", filepath.Join(dir, "socket"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(c, "from ", "a socket")
				c.Close()
			}
		}()
		p := begin(t)
		out, _ := end(t, p.env([]string{"CREDENTIALS_DIRECTORY=" + dir}, "cd $CREDENTIALS_DIRECTORY; cat a b c; wc -c <d",
			"--load-credential=a:"+dir+"/file", "--load-credential=b:"+dir+"/socket", "--load-credential=c:own", "--load-credential=d:"+dir+"/most"))
		want(t, "inside", out, "from a filefrom a socketits own1048576\n")
		p.refuses("", "--load-credential=a:"+dir+"/missing")
		if p.l.Name == "launch" {
			p.refuses("too large", "--load-credential=a:"+dir+"/more")
			p.refuses("two credentials called a", "--set-credential=a:1", "--load-credential=a:"+dir+"/file")
			p.refuses("given no credentials", "--load-credential=a:own")
		}
	})
}

const id = tree.MachineID

// journal gives the host a place for journals, with what is there already.
func (p *place) journal(t *testing.T, prepare string) *place {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(p.dir, "var/log/journal")); err != nil {
		t.Fatal(err)
	}
	p.Look("sh", "-c", strings.NewReplacer("ID", id, "TREE", p.dir).Replace("rm -rf /var/log/journal && mkdir /var/log/journal && cd /var/log/journal && "+prepare))
	return &place{Stage: p.Stage, t: t, l: p.l, dir: p.dir}
}

func (p *place) outside() string {
	p.t.Helper()
	out := p.Look("sh", "-c", "cd /var/log/journal 2>/dev/null || exit 0; find . -mindepth 1 -printf '%P %y %U %l\\n' | sort")
	return strings.NewReplacer(id, "ID", p.dir, "TREE").Replace(out)
}

// TestJournal: each mode, with each thing that may be there already.
func TestJournal(t *testing.T) {
	// write leaves a mark in the machine's journal.
	const write = `d=/var/log/journal/` + id + `; [ -d $d ] && { echo x >$d/mark; stat -c %u $d; grep -c " $d " /proc/self/mountinfo; }; :`
	all := begin(t)
	all.Mount("-t", "tmpfs", "-o", "mode=755", "log", "/var/log")
	for what, c := range map[string]struct {
		args    []string
		prepare string // in the host's /var/log/journal
		inside  string // owner, and whether it is a mount
		outside string // afterwards
		launch  bool   // only launch does it like this
	}{
		"no":                      {[]string{"--link-journal=no"}, "mkdir ID", "", "ID d 0 \n", false},
		"auto without":            {[]string{"--link-journal=auto"}, ":", "", "", false},
		"default":                 {nil, "mkdir ID", "0\n1\n", "ID d 0 \nID/mark f 0 \n", false},
		"auto":                    {[]string{"--link-journal=auto"}, "mkdir ID", "0\n1\n", "ID d 0 \nID/mark f 0 \n", false},
		"host":                    {[]string{"--link-journal=host"}, ":", "0\n1\n", "ID d 0 \nID/mark f 0 \n", false},
		"host for link":           {[]string{"--link-journal=host"}, "ln -s /nowhere ID", "0\n1\n", "ID d 0 \nID/mark f 0 \n", false},
		"host with users":         {[]string{"--link-journal=host", users, "--private-users-ownership=map"}, ":", "0\n1\n", "ID d 0 \nID/mark f 0 \n", true},
		"guest":                   {[]string{"--link-journal=guest"}, ":", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"try-guest":               {[]string{"-j"}, ":", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"guest again":             {[]string{"--link-journal=guest"}, "ln -s TREE/var/log/journal/ID ID", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"guest for link":          {[]string{"--link-journal=guest"}, "ln -s /nowhere ID", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"guest for directory":     {[]string{"--link-journal=guest"}, "mkdir ID", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"auto with link":          {[]string{"--link-journal=auto"}, "ln -s TREE/var/log/journal/ID ID", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"guest with users":        {[]string{"--link-journal=guest", users, "--private-users-ownership=map"}, ":", "0\n0\n", "ID l 0 TREE/var/log/journal/ID\n", false},
		"try-guest, full":         {[]string{"--link-journal=try-guest"}, "mkdir -p ID/full", "0\n0\n", "ID d 0 \nID/full d 0 \n", true},
		"try-host without":        {[]string{"--link-journal=try-host"}, "rmdir ../journal", "", "", false},
		"try-guest without":       {[]string{"--link-journal=try-guest"}, "rmdir ../journal", "", "", true},
		"try-guest and ephemeral": {[]string{"--link-journal=try-guest", "--ephemeral"}, ":", "", "", false},
		"try-guest, volatile":     {[]string{"--link-journal=try-guest", "--volatile=overlay"}, ":", "", "", true},
	} {
		t.Run(what, func(t *testing.T) {
			if c.launch {
				launchOnly(t, "it differs")
			}
			p := all.journal(t, c.prepare)
			want(t, "inside", p.says(write, c.args...), c.inside)
			want(t, "outside", p.outside(), c.outside)
		})
	}
	for what, c := range map[string]struct {
		args    []string
		prepare string
		want    string
	}{
		"guest, full":         {[]string{"--link-journal=guest"}, "mkdir -p ID/full", "not empty"},
		"host without":        {[]string{"--link-journal=host"}, "rmdir ../journal", "the host keeps no journals"},
		"guest without":       {[]string{"--link-journal=guest"}, "rmdir ../journal", "the host keeps no journals"},
		"guest and ephemeral": {[]string{"--link-journal=guest", "--ephemeral"}, ":", "throw-away copy"},
		"guest and volatile":  {[]string{"--link-journal=guest", "--volatile=state"}, ":", "is gone with the machine"},
		"guest and read-only": {[]string{"--link-journal=guest", "--read-only"}, ":", "read-only"},
		"host for a file":     {[]string{"--link-journal=host"}, ": >ID", "no directory"},
		"host for a mount":    {[]string{"--link-journal=host"}, "mkdir ID", "mounted"},
	} {
		t.Run("refuses "+what, func(t *testing.T) {
			p := all.journal(t, c.prepare)
			if strings.HasSuffix(what, "mount") {
				p.Mount("-t", "tmpfs", "x", "/var/log/journal/"+id)
			}
			before := p.outside()
			if p.l.Name != "launch" {
				c.want = ""
			}
			p.refuses(c.want, c.args...)
			want(t, "outside", p.outside(), before)
			if strings.HasSuffix(what, "mount") {
				p.Look("umount", "/var/log/journal/"+id)
			}
		})
	}
	t.Run("the host's own id", func(t *testing.T) {
		p := all.journal(t, ":")
		p.Look("sh", "-c", "echo "+id+" >/var/log/machine-id")
		p.Mount("--bind", "/var/log/machine-id", "/etc/machine-id")
		p.refuses("", "--link-journal=host")
		want(t, "outside", p.outside(), "")
		want(t, "inside", p.says(write+" 2>&1", "--link-journal=try-host"), "")
	})
}

// TestForeign: a tree that belongs to the foreign range.
func TestForeign(t *testing.T) {
	launchOnly(t, "the foreign range came with 258")
	const base = 0x7ffe0000
	shifted := func(t *testing.T) *place {
		p := begin(t)
		err := filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			i, err := d.Info()
			if err != nil {
				return err
			}
			st := i.Sys().(*syscall.Stat_t)
			if err := os.Lchown(path, int(st.Uid)+base, int(st.Gid)+base); err != nil || d.Type()&fs.ModeSymlink != 0 {
				return err
			}
			return syscall.Chmod(path, st.Mode&0o7777)
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for what, args := range map[string][]string{
		"foreign":          {users, "--private-users-ownership=foreign"},
		"auto":             {users, "--private-users-ownership=auto"},
		"pick":             {"--private-users=pick"},
		"identity":         {"--private-users=identity", "--private-users-ownership=foreign"},
		"U":                {"-U"},
		"with --volatile":  {"-U", "--volatile=yes"},
		"with --read-only": {"-U", "--read-only"},
	} {
		t.Run(what, func(t *testing.T) {
			p := shifted(t)
			got := p.says(`stat -c %u:%g /usr /usr/bin/busybox; [ -d /home/alice ] && stat -c %u:%g /home/alice; touch /opt/new 2>/dev/null; :`, args...)
			home := "1000:1000\n"
			if what == "with --volatile" {
				home = ""
			}
			want(t, "inside", got, "0:0\n0:0\n"+home)
			for _, f := range []string{"", "opt/new", "home/alice"} {
				var st syscall.Stat_t
				if err := syscall.Lstat(filepath.Join(p.dir, f), &st); err != nil {
					if f == "opt/new" && strings.HasPrefix(what, "with") {
						continue
					}
					t.Fatal(err)
				}
				if st.Uid>>16 != base>>16 {
					t.Errorf("/%s belongs to %d", f, st.Uid)
				}
			}
		})
	}
	t.Run("refuses another tree", func(t *testing.T) {
		begin(t).refuses("not to the range for foreign trees", users, "--private-users-ownership=foreign")
	})
	t.Run("and bind mounts", func(t *testing.T) {
		p, dir := shifted(t), t.TempDir()
		if err := os.Chown(dir, 1000, 1000); err != nil {
			t.Fatal(err)
		}
		// Those are the host's, whatever the tree is.
		want(t, "inside", p.says("stat -c %u:%g /mnt", users, "--private-users-ownership=foreign", "--bind="+dir+":/mnt:idmap"), "1000:1000\n")
	})
}
