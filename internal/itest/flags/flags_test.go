// Package flags tries options one by one, and looks from inside at what they
// did. With LAUNCH_PEER=nspawn the same cases run under systemd-nspawn.
//
// Room: test.
package flags

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// inside is set in the machine, where this program is its own payload.
const inside = "LAUNCH_TEST_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		look(os.Args[1:])
		os.Exit(0)
	}
	os.Exit(stage.Main(m))
}

// look does what no busybox can.
func look(what []string) {
	for _, w := range what {
		switch name, arg, _ := strings.Cut(w, "="); name {
		case "socket":
			family, _ := strconv.Atoi(arg)
			_, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
			fmt.Printf("socket %d: %v\n", family, err)
		case "open-sync":
			_, err := unix.Open("/tmp/file", unix.O_CREAT|unix.O_RDWR|unix.O_SYNC, 0o600)
			fmt.Printf("open-sync: %v\n", err)
		case "read":
			n, err := unix.Open(arg, unix.O_RDONLY|unix.O_NONBLOCK, 0)
			var st unix.Stat_t
			kind := "no fifo"
			if err == nil && unix.Fstat(n, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO {
				kind = "fifo"
			}
			if err == nil {
				_, err = unix.Read(n, make([]byte, 1))
			}
			fmt.Printf("read: %s, %v\n", kind, err)
		case "fsync":
			n, _ := strconv.Atoi(arg)
			fmt.Printf("fsync %d: %v\n", n, unix.Fsync(n))
		}
	}
}

const most = 30 * time.Second

// machine is a start of a machine from a tree of its own.
type machine struct {
	dir  string
	env  []string
	args []string
	// self: this program is the payload.
	self bool
	// boot: no payload.
	bare bool
}

// run starts it, waits for its end, and gives what it said.
func (m machine) run(t *testing.T, payload ...string) (string, int) {
	t.Helper()
	l := stage.Under(t)
	s := stage.New(t, stage.Unified)
	if m.dir == "" {
		m.dir = tree.Copy(t, tree.Tiny(t))
	}
	argv := []string{l.Path, "--quiet", "--directory=" + m.dir, "--machine=launch-test-flags", "--register=no", "--keep-unit", "--console=pipe"}
	argv = append(argv, m.args...)
	switch {
	case m.self:
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		argv = append(argv, "--setenv="+inside+"=1", "--bind-ro="+self+":/test", "/test")
	case !m.bare:
		argv = append(argv, "/bin/busybox", "ash", "-c")
	}
	argv = append(argv, payload...)
	r := s.Start(append(l.Env, m.env...), argv...)
	code, err := r.Code(most)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.Out)
	}
	return r.Out.String(), code
}

func limits(t *testing.T, out string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for line := range strings.Lines(out) {
		if len(line) > 66 && strings.HasPrefix(line, "Max ") {
			f := strings.Fields(line[26:])
			m[strings.TrimSpace(line[4:26])] = f[0] + ":" + f[1]
		}
	}
	return m
}

func TestLimits(t *testing.T) {
	for _, users := range []string{"no", "1310720:65536"} {
		t.Run("users="+users, func(t *testing.T) {
			out, code := machine{args: []string{"--private-users=" + users, "--private-users-ownership=off",
				"--rlimit=NOFILE=100:200", "--rlimit=RLIMIT_AS=1G:2G", "--rlimit=LimitCPU=1min 500ms", "--rlimit=RTTIME=1ms",
				"--rlimit=CORE=1.5K", "--rlimit=STACK=infinity", "--rlimit=NICE=+5"}}.run(t, "cat /proc/self/limits")
			if code != 0 {
				t.Fatalf("exit status %d\n%s", code, out)
			}
			got := limits(t, out)
			for name, want := range map[string]string{
				"open files": "100:200", "address space": "1073741824:2147483648", "cpu time": "61:61", "realtime timeout": "1000:1000",
				"core file size": "1536:1536", "stack size": "unlimited:unlimited", "locked memory": "8388608:8388608", "msgqueue size": "819200:819200",
			} {
				if got[name] != want {
					t.Errorf("%s is %s, want %s", name, got[name], want)
				}
			}
			// Raised only by who may.
			if n := got["nice priority"]; n != "15:15" && n != "0:0" {
				t.Errorf("nice priority is %s", n)
			}
		})
	}
	// A launcher with a hard limit of its own, and no right to raise it.
	t.Run("clamped", func(t *testing.T) {
		l := stage.Under(t)
		dir := tree.Copy(t, tree.Tiny(t))
		for _, args := range []string{"--private-users=1310720:65536 --private-users-ownership=off", "--rlimit=NOFILE=5000:6000 --private-users=1310720:65536 --private-users-ownership=off"} {
			r := stage.New(t, stage.Unified).Start(l.Env, "sh", "-c", "ulimit -n 700; exec \"$@\"", "sh", "sh", "-c", l.Path+
				" --quiet --directory="+dir+" --machine=launch-test-flags --register=no --keep-unit --console=pipe "+args+" /bin/busybox cat /proc/self/limits")
			code, err := r.Code(most)
			if err != nil || code != 0 {
				t.Fatalf("exit status %d, %v\n%s", code, err, r.Out)
			}
			if n := limits(t, r.Out.String())["open files"]; !strings.HasSuffix(n, ":700") {
				t.Errorf("open files is %s, want a hard limit of 700", n)
			}
		}
	})
}

func TestOOMScore(t *testing.T) {
	own, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	l := stage.Under(t)
	dir := tree.Copy(t, tree.Tiny(t))
	for _, users := range []string{"", "--private-users=1310720:65536 --private-users-ownership=off"} {
		if users != "" && l.Name == "nspawn" {
			continue // it sets the score from inside, where nobody may
		}
		r := stage.New(t, stage.Unified).Start(l.Env, "sh", "-c", "exec "+l.Path+" --quiet --directory="+dir+
			" --machine=launch-test-flags --register=no --keep-unit --console=pipe --oom-score-adjust=321 "+users+
			" /bin/busybox ash -c '(cat /proc/self/oom_score_adj); echo up; read x </dev/console; sleep 9'")
		if err := r.Await("up\n", most); err != nil {
			t.Fatalf("%v\n%s", err, r.Out)
		}
		if !strings.HasPrefix(r.Out.String(), "321\n") {
			t.Errorf("%s: the machine has %q", users, r.Out)
		}
		// The launcher itself is not killed for it. It puts its own score back
		// once it knows that the payload runs, which may speak before that.
		var now []byte
		for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(time.Millisecond) {
			if now, err = os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", r.Process.Pid)); err != nil || string(now) == string(own) {
				break
			}
		}
		if err != nil || string(now) != string(own) {
			t.Errorf("%s: the launcher has %q, want %q (%v)", users, now, own, err)
		}
		r.Process.Signal(unix.SIGTERM)
		r.Code(most)
	}
	if stage.Under(t).Name == "launch" {
		// What may not be set is told, with the option.
		out, code := machine{args: []string{"--oom-score-adjust=-1000"}}.run(t, "cat /proc/self/oom_score_adj")
		if !(code == 0 && out == "-1000\n") && !(code == 1 && strings.Contains(out, "set the oom_score_adj to -1000: permission denied\n  from:  --oom-score-adjust")) {
			t.Errorf("exit status %d: %s", code, out)
		}
	}
}

func TestCPUAffinity(t *testing.T) {
	var have unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil || !have.IsSet(0) || !have.IsSet(1) {
		t.Skip("needs the processors 0 and 1")
	}
	for _, c := range []struct{ args, want string }{{"1", "1"}, {"0,1", "0-1"}, {"1 --cpu-affinity=0", "0"}, {"0,77", "0"}} {
		args := strings.Fields("--cpu-affinity=" + c.args)
		out, code := machine{args: args}.run(t, "grep Cpus_allowed_list: /proc/self/status")
		if f := strings.Fields(out); code != 0 || len(f) != 2 || f[1] != c.want {
			t.Errorf("%s: exit status %d, %q, want %s", args, code, out, c.want)
		}
	}
	out, code := machine{args: []string{"--cpu-affinity=4000"}}.run(t, "true")
	if code != 1 || stage.Under(t).Name == "launch" && !strings.Contains(out, "keep to the processors 4000: invalid argument") {
		t.Errorf("exit status %d: %s", code, out)
	}
}

func TestPersonality(t *testing.T) {
	names := map[string][2]string{"x86_64": {"x86", "i686"}, "aarch64": {"arm", "armv8l"}}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	native := unix.ByteSliceToString(u.Machine[:])
	sibling, ok := names[native]
	if !ok {
		t.Skip("no sibling is known of " + native)
	}
	for arg, want := range map[string]string{"": native, sibling[0]: sibling[1], strings.ReplaceAll(strings.ReplaceAll(native, "x86_64", "x86-64"), "aarch64", "arm64"): native} {
		var args []string
		if arg != "" {
			args = []string{"--personality=" + arg}
		}
		out, code := machine{args: args}.run(t, "uname -m")
		if code != 0 || strings.TrimSpace(out) != want {
			t.Errorf("%q: exit status %d, %q, want %s", arg, code, out, want)
		}
	}
}

// caps reads the sets from /proc/self/status.
func caps(out string) map[string]uint64 {
	m := map[string]uint64{}
	for line := range strings.Lines(out) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok && strings.HasPrefix(k, "Cap") {
			m[k], _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	return m
}

func TestAmbientCapability(t *testing.T) {
	const raw = 1 << unix.CAP_NET_RAW
	for _, users := range []string{"no", "1310720:65536"} {
		for _, user := range []string{"root", "alice"} {
			t.Run(user+"/users="+users, func(t *testing.T) {
				uid := "--uid="
				if stage.Under(t).Name == "nspawn" {
					uid = "--user=" // up to version 260
				}
				out, code := machine{args: []string{"--ambient-capability=CAP_NET_RAW", uid + user,
					"--private-users=" + users, "--private-users-ownership=off"}}.run(t, "cat /proc/self/status")
				if code != 0 {
					t.Fatalf("exit status %d\n%s", code, out)
				}
				c := caps(out)
				if c["CapAmb"] != raw || c["CapInh"]&raw == 0 || c["CapEff"]&raw == 0 {
					t.Errorf("%x", c)
				}
				if user == "alice" && (c["CapEff"] != raw || c["CapPrm"] != raw || c["CapInh"] != raw) {
					t.Errorf("a user has more than it was given: %x", c)
				}
				if user == "root" && c["CapEff"] == raw {
					t.Errorf("root has lost its own: %x", c)
				}
			})
		}
	}
	for _, args := range []string{"--ambient-capability=CAP_SYS_TIME", "--ambient-capability=CAP_NET_RAW --drop-capability=CAP_NET_RAW", "--ambient-capability=CAP_NET_RAW --boot"} {
		out, code := machine{args: strings.Fields(args), bare: true}.run(t)
		if code != 1 || stage.Under(t).Name == "launch" && !strings.Contains(out, "cannot give") {
			t.Errorf("%s: exit status %d\n%s", args, code, out)
		}
	}
}

func TestSuppressSync(t *testing.T) {
	for _, m := range []machine{{self: true, args: []string{"--suppress-sync=yes"}}, {self: true, env: []string{"SYSTEMD_SUPPRESS_SYNC=1"}}} {
		out, code := m.run(t, "open-sync", "fsync=1", "fsync=-1")
		// A pipe can't be synced, so 0 tells that the kernel was not asked.
		if code != 0 || out != "open-sync: invalid argument\nfsync 1: <nil>\nfsync -1: bad file descriptor\n" {
			t.Errorf("exit status %d\n%s", code, out)
		}
	}
	for _, m := range []machine{{self: true}, {self: true, args: []string{"--suppress-sync=no"}, env: []string{"SYSTEMD_SUPPRESS_SYNC=1"}}} {
		if len(m.env) > 0 && stage.Under(t).Name == "nspawn" {
			continue // there the variable has the last word
		}
		out, code := m.run(t, "open-sync", "fsync=1")
		if code != 0 || out != "open-sync: <nil>\nfsync 1: invalid argument\n" {
			t.Errorf("exit status %d\n%s", code, out)
		}
	}
}

func TestRestrictAddressFamilies(t *testing.T) {
	if stage.Under(t).Name == "nspawn" {
		t.Skip("systemd-nspawn has it from version 261 on")
	}
	const ok, no = "<nil>", "address family not supported by protocol"
	for _, c := range []struct {
		args              string
		unix, inet, inet6 string
	}{
		{"", ok, ok, ok},
		{"AF_UNIX AF_INET", ok, ok, no},
		{"~AF_INET", ok, no, ok},
		{"none", no, no, no},
	} {
		m := machine{self: true}
		if c.args != "" {
			m.args = []string{"--restrict-address-families=" + c.args}
		}
		out, code := m.run(t, "socket=1", "socket=2", "socket=10")
		want := fmt.Sprintf("socket 1: %s\nsocket 2: %s\nsocket 10: %s\n", c.unix, c.inet, c.inet6)
		if code != 0 || out != want {
			t.Errorf("%s: exit status %d\n%swant\n%s", c.args, code, out, want)
		}
	}
}

func TestMachineID(t *testing.T) {
	const told, dashed = "0123456789ABCDEF0123456789abcdef", "01234567-89ab-cdef-0123-456789abcdef"
	for _, c := range []struct {
		name string
		file string
		want string
	}{
		{"missing", "", dashed},
		{"empty", "\x00", dashed},
		{"uninitialized", "uninitialized\n", dashed},
		{"valid", tree.MachineID + "\n", tree.MachineID[:8] + "-" + tree.MachineID[8:12] + "-" + tree.MachineID[12:16] + "-" + tree.MachineID[16:20] + "-" + tree.MachineID[20:]},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree.Copy(t, tree.Tiny(t))
			file := filepath.Join(dir, "etc/machine-id")
			os.Remove(file)
			if c.file != "" {
				if err := os.WriteFile(file, []byte(strings.Trim(c.file, "\x00")), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			out, code := machine{dir: dir, args: []string{"--uuid=" + told}}.run(t, "echo $container_uuid; cat /run/host/container-uuid")
			if code != 0 || out != c.want+"\n"+c.want+"\n" {
				t.Errorf("exit status %d, %q", code, out)
			}
		})
	}
}

// pivotTree has another tree in its directory new, and a link to it.
func pivotTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tree.Copy(t, tree.Tiny(t)), filepath.Join(dir, "new")); err != nil {
		t.Skip("cannot put one tree into another: ", err)
	}
	for _, d := range []string{"usr", "new/old"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"mark": "outer\n", "new/mark": "inner\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/new", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestPivotRoot(t *testing.T) {
	nspawn := stage.Under(t).Name == "nspawn"
	const show = "cat /mark /old/mark 2>/dev/null; stat -c %u /mark /old/mark 2>/dev/null; (: >/w) 2>/dev/null && echo / writable; (: >/old/w) 2>/dev/null && echo /old writable; true"
	for _, c := range []struct{ args, want string }{
		{"--pivot-root=/new", "inner\n0\n/ writable\n/old writable\n"},
		{"--pivot-root=/link", "inner\n0\n/ writable\n/old writable\n"},
		{"--pivot-root=/new:/old", "inner\nouter\n0\n0\n/ writable\n/old writable\n"},
		{"--pivot-root=/new:/old --read-only", "inner\nouter\n0\n0\n"},
		{"--pivot-root=/new:/old --volatile=state", "inner\nouter\n0\n0\n"},
		{"--pivot-root=/new --volatile=overlay", "inner\n0\n/ writable\n/old writable\n"},
		{"--pivot-root=/new --volatile=yes", "/ writable\n"},
		{"--pivot-root=/link --volatile=yes", "/ writable\n"},
		{"--pivot-root=/new:/old --private-users=1310720:65536 --private-users-ownership=map", "inner\nouter\n0\n0\n/ writable\n/old writable\n"},
		{"--pivot-root=/new:/old --private-users=1310720:65536 --private-users-ownership=chown", "inner\nouter\n0\n0\n/ writable\n/old writable\n"},
	} {
		t.Run(c.args, func(t *testing.T) {
			if nspawn && (strings.Contains(c.args, ":/old") || strings.Contains(c.args, "/link")) {
				t.Skip("systemd-nspawn fails to move the old root, and to follow a link")
			}
			out, code := machine{dir: pivotTree(t), args: strings.Fields(c.args)}.run(t, show)
			if code != 0 || out != c.want {
				t.Errorf("exit status %d\n%swant\n%s", code, out, c.want)
			}
		})
	}
	for args, want := range map[string]string{
		"--pivot-root=/nope":     "no such file or directory",
		"--pivot-root=/new:/no":  "no such file or directory",
		"--pivot-root=/usr":      "no /usr directory",
		"--pivot-root=/new/mark": "not a directory",
	} {
		out, code := machine{dir: pivotTree(t), args: []string{args}}.run(t, "true")
		if code != 1 || !nspawn && (!strings.Contains(out, want) || !strings.Contains(out, "from:  --pivot-root")) {
			t.Errorf("%s: exit status %d\n%s", args, code, out)
		}
	}
}

// The switches of the environment.
func TestEnvironment(t *testing.T) {
	own := func(name string) string {
		s, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const namespaces = "for n in ipc pid uts; do readlink /proc/self/ns/$n; done"
	for env, names := range map[string]string{
		"SYSTEMD_NSPAWN_SHARE_NS_IPC=1": "ipc", "SYSTEMD_NSPAWN_SHARE_NS_PID=1": "pid",
		"SYSTEMD_NSPAWN_SHARE_NS_UTS=1": "uts", "SYSTEMD_NSPAWN_SHARE_SYSTEM=yes": "ipc pid uts", "SYSTEMD_NSPAWN_SHARE_NS_PID=0": "",
	} {
		out, code := machine{env: []string{env}}.run(t, namespaces)
		f := strings.Fields(out)
		if code != 0 || len(f) != 3 {
			t.Errorf("%s: exit status %d\n%s", env, code, out)
			continue
		}
		for i, n := range []string{"ipc", "pid", "uts"} {
			if (f[i] == own(n)) != strings.Contains(names, n) {
				t.Errorf("%s: the machine's %s namespace is %s, ours %s", env, n, f[i], own(n))
			}
		}
	}
	// What it leaves running in a shared pid namespace ends with it.
	before := processes(t)
	if _, code := (machine{env: []string{"SYSTEMD_NSPAWN_SHARE_NS_PID=1"}}).run(t, "sleep 4711 & exit 3"); code != 3 {
		t.Errorf("exit status %d", code)
	}
	if stage.Under(t).Name == "launch" && processes(t) > before {
		t.Error("a process of the machine outlives it")
	}

	const mounts = "while read a b c d on how rest; do case $on in /tmp|/proc/sys|/proc/sys/net|/proc/kallsyms|/sys|/sys/kernel|/sys/fs/cgroup) echo $on ${how%%,*};; esac; done </proc/self/mountinfo"
	for _, c := range []struct {
		env, args string
		has, not  string
	}{
		{"SYSTEMD_NSPAWN_TMPFS_TMP=1", "", "/tmp rw|/proc/sys ro|/sys ro", "/proc/sys/net"},
		{"SYSTEMD_NSPAWN_TMPFS_TMP=0", "", "/proc/sys ro", "/tmp"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=no", "--private-network", "/proc/sys ro|/proc/sys/net rw|/sys ro|/sys/kernel ro", ""},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network", "", "/proc/sys ro|/proc/sys/net rw|/sys ro|/sys/kernel ro", ""},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes", "", "/sys rw", "/proc/sys|/proc/kallsyms"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes", "--private-network", "/sys rw|/sys/kernel rw", "/proc/sys|/proc/kallsyms"},
	} {
		out, code := machine{env: []string{c.env}, args: strings.Fields(c.args)}.run(t, mounts)
		if code != 0 {
			t.Errorf("%s %s: exit status %d\n%s", c.env, c.args, code, out)
		}
		// The last mount on a place is what is seen.
		last := map[string]string{}
		for line := range strings.Lines(out) {
			on, how, _ := strings.Cut(strings.TrimSpace(line), " ")
			last[on] = how
		}
		for want := range strings.SplitSeq(c.has, "|") {
			if on, how, _ := strings.Cut(want, " "); last[on] != how {
				t.Errorf("%s %s: %s is %q, want %s", c.env, c.args, on, last[on], how)
			}
		}
		for on := range strings.SplitSeq(c.not, "|") {
			if how, there := last[on]; there {
				t.Errorf("%s %s: %s is mounted, %s", c.env, c.args, on, how)
			}
		}
	}

	out, code := machine{env: []string{"SYSTEMD_NSPAWN_CONTAINER_SERVICE=other"}}.run(t, "echo $container; cat /run/host/container-manager")
	if code != 0 || out != "other\nother\n" {
		t.Errorf("exit status %d\n%s", code, out)
	}
	for _, c := range []struct{ env, args string }{
		{"SYSTEMD_NSPAWN_SHARE_NS_PID=1", "--as-pid2"},
		{"SYSTEMD_NSPAWN_SHARE_NS_UTS=1", "--boot"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes", "--private-users=1310720:65536"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network", "--private-users=1310720:65536"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=maybe", ""},
		{"SYSTEMD_NSPAWN_USE_CGNS=maybe", ""},
		{"SYSTEMD_NSPAWN_TMPFS_TMP=", ""},
	} {
		out, code := machine{env: []string{c.env}, args: strings.Fields(c.args), bare: true}.run(t, "/bin/true")
		name, _, _ := strings.Cut(c.env, "=")
		if code != 1 || stage.Under(t).Name == "launch" && !strings.Contains(out, "$"+name) {
			t.Errorf("%s %s: exit status %d\n%s", c.env, c.args, code, out)
		}
	}
}

// processes counts those that sleep for us.
func processes(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), "sleep\x004711") {
			n++
		}
	}
	return n
}

func TestNoCgroupNamespace(t *testing.T) {
	if stage.Under(t).Name == "nspawn" {
		t.Skip("systemd-nspawn 252 does it only where all hierarchies are of the same kind")
	}
	for _, args := range []string{"", "--private-network", "--private-users=1310720:65536 --private-users-ownership=off"} {
		out, code := machine{env: []string{"SYSTEMD_NSPAWN_USE_CGNS=0"}, args: strings.Fields(args)}.run(t,
			`own=$(grep ^0: /proc/self/cgroup | cut -d: -f3); mkdir /sys/fs/cgroup$own/mine && echo made; mkdir /sys/fs/cgroup/mine 2>/dev/null || echo refused; rmdir /sys/fs/cgroup$own/mine; echo $own; grep ' /sys/fs/cgroup.* master:' /proc/self/mountinfo; true`)
		f := strings.Fields(out)
		// What is mounted on the host's cgroups later does not appear inside.
		if code != 0 || len(f) != 3 || f[0] != "made" || f[1] != "refused" || f[2] == "/" {
			t.Errorf("%s: exit status %d\n%s", args, code, out)
		}
	}
}

// Who reads the kernel's log in a machine waits for ever: it never ends.
func TestKmsg(t *testing.T) {
	for _, users := range []string{"no", "1310720:65536"} {
		out, code := machine{self: true, args: []string{"--private-users=" + users, "--private-users-ownership=off"}}.run(t, "read=/proc/kmsg")
		if code != 0 || out != "read: fifo, resource temporarily unavailable\n" {
			t.Errorf("exit status %d\n%s", code, out)
		}
	}
}
