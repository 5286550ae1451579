// Package selinux looks at what the kernel is told of labels. Test hosts mostly
// have no SELinux: there, one is shown that has it as far as launch looks, and
// what the kernel says to the labels is known.
//
// Room: test.
package selinux

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/cell"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(stage.Main(m)) }

const (
	most    = time.Minute
	process = "system_u:system_r:container_t:s0:c1,c2"
	files   = "system_u:object_r:container_file_t:s0:c1,c2"
	usual   = " --quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no --restrict-address-families= -D /w/t "
)

// open gives a cell with a tree in /w/t.
func open(t *testing.T) func(script string) (string, int) {
	t.Helper()
	root := tree.PeersThere(t)
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		t.Skip("this host has SELinux: nobody knows what its policy allows")
	}
	c := cell.Given(t, cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/given/launch": stage.Launch(t).Path, "/given/tiny": tree.Tiny(t)}}, "", most)
	shell := func(script string) (string, int) {
		t.Helper()
		out, code, err := c.Shell(script, most)
		if err != nil {
			t.Fatal(err)
		}
		return out, code
	}
	if out, code := shell("set -e; echo 11112222333344445555666677778888 >/etc/machine-id; mkdir -p /w; mount -t tmpfs w /w; cp -a /given/tiny /w/t"); code != 0 {
		t.Fatal(out)
	}
	return shell
}

// TestPeersWithout: where there is no SELinux, a label is an error. Under
// systemd-nspawn, the machine runs without one.
func TestPeersWithout(t *testing.T) {
	shell := open(t)
	for _, c := range []struct {
		args         string
		nspawn, ours bool
	}{
		{"", true, true},
		{"--selinux-context=" + process, true, false},
		{"-L " + files, false, false},
		{"-Z " + process + " -L " + files, false, false},
		{"-Z a:b:c -Z ''", true, true},
		{"--selinux-apifs-context=", false, true}, // no label at all
	} {
		for launcher, want := range map[string]bool{"systemd-nspawn": c.nspawn, "/given/launch": c.ours} {
			out, code := shell(launcher + usual + c.args + " /bin/sh -c 'echo ran' </dev/null")
			if (code == 0) != want || strings.Contains(out, "ran\n") != want {
				t.Errorf("%s %s: exit status %d, %s", launcher, c.args, code, out)
			}
			if launcher != "systemd-nspawn" && !want && !strings.Contains(out, "launch: cannot set the SELinux label: SELinux is not enabled on the host\n  from:  -") {
				t.Errorf("%s: %s", c.args, out)
			}
		}
	}
}

// enable shows launch a host with SELinux.
const enable = `set -e
mkdir -p /run/cg
mount --bind /sys/fs/cgroup /run/cg
mount -t tmpfs fs /sys/fs
mkdir -p /sys/fs/selinux /sys/fs/cgroup
mount --bind /run/cg /sys/fs/cgroup
echo 1 >/sys/fs/selinux/enforce
`

// TestTold follows the labels to the kernel, which has no module for them here and
// says so.
func TestTold(t *testing.T) {
	shell := open(t)
	if out, code := shell(enable); code != 0 {
		t.Fatal(out)
	}
	for name, c := range map[string]struct{ args, told, said string }{
		"process": {"-Z " + process,
			// After the stub was executed, and never before.
			`(?s)^[^"]*execveat\(.*\) = 0\n.*openat\(AT_FDCWD, "/proc/thread-self/attr/exec", O_WRONLY\|O_CLOEXEC\) = (\d+)\n.*write\((\d+), "` + process + `", ` + fmt.Sprint(len(process)) + `\) = -1 EINVAL`,
			`cannot start machine "t": step \d+, set the SELinux label ` + process + `: invalid argument\n  from:  -Z\n  hint:  the host's policy must know`},
		"process 2": {"-a -Z " + process,
			`(?s)execveat\(.*\) = 0\n.*openat\(AT_FDCWD, "/proc/thread-self/attr/exec", O_WRONLY\|O_CLOEXEC\) = (\d+)\n.*write\((\d+), "` + process + `", ` + fmt.Sprint(len(process)) + `\) = -1 EINVAL`,
			`cannot start machine "t": step \d+, set the SELinux label ` + process + `: invalid argument\n  from:  -Z\n  hint:  the host's policy must know`},
		"files": {"-L " + files,
			`fsconfig\(\d+, FSCONFIG_SET_STRING, "context", "` + files + `", 0\) = -1 EINVAL`,
			`cannot start machine "t": step \d+, mount tmpfs on /tmp: option context: invalid argument.*\n.*\n  hint:  the host must run SELinux, and its policy must know`},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := shell("strace -f -s 200 -o /run/trace -e trace=execveat,openat,write,fsconfig /given/launch" + usual + c.args +
				" /bin/sh -c 'echo ran' </dev/null; s=$?; echo '--- told'; cat /run/trace; exit $s")
			said, trace, _ := strings.Cut(out, "--- told\n")
			told, err := whole(trace)
			if err != nil {
				t.Fatal(err)
			}
			if code == 0 || strings.Contains(said, "ran\n") {
				t.Errorf("the machine ran: %s", said)
			}
			if !regexp.MustCompile(c.said).MatchString(said) {
				t.Errorf("said: %s", said)
			}
			if !regexp.MustCompile(c.told).MatchString(told) {
				t.Errorf("told: %s", told)
			}
		})
	}
}

var labels = regexp.MustCompile(`execveat|attr/exec|container_|context`)

// whole gives the calls of a trace that are about labels, without the processes'
// numbers. One that another process's calls came between stands where it ended.
func whole(trace string) (string, error) {
	begun := stage.Pieces{}
	var b strings.Builder
	for line := range strings.Lines(trace) {
		number, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		pid, err := strconv.Atoi(number)
		if err != nil {
			return "", err
		}
		rest = strings.TrimLeft(rest, " ")
		call, err := begun.Join(pid, rest)
		if err != nil {
			return "", err
		}
		if call != rest {
			call = padding.ReplaceAllString(call, ") =")
		}
		if labels.MatchString(call) {
			b.WriteString(call + "\n")
		}
	}
	return b.String(), nil
}

// padding is what strace puts before the result of a resumed call, for looks.
var padding = regexp.MustCompile(`\) +=`)

func TestWhole(t *testing.T) {
	for trace, want := range map[string]string{
		"7 execveat(4, \"\", [\"x\"]) = 0\n": "execveat(4, \"\", [\"x\"]) = 0\n",
		"7  execveat(4, \"\", AT_EMPTY_PATH <unfinished ...>\n8 openat(1, \"b\", 0) = 3\n7 <... execveat resumed>)      = 0\n7 openat(1, \"attr/exec\", 0) = 4\n": "execveat(4, \"\", AT_EMPTY_PATH) = 0\nopenat(1, \"attr/exec\", 0) = 4\n",
	} {
		if got, err := whole(trace); got != want || err != nil {
			t.Errorf("%q gives %q, %v", trace, got, err)
		}
	}
}
