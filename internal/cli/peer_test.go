package cli

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// differences are the values that we judge otherwise than systemd-nspawn 252,
// each with its reason.
var differences = map[string]string{
	"--bind=-/a":               "ours: a source that may be missing",
	"--bind=/a/../b":           "mounts could not be ordered by such a target",
	"--bind=/a:/b/../c":        "mounts could not be ordered by such a target",
	"--tmpfs=/a/../b":          "mounts could not be ordered by such a target",
	"--bind=/a:/b:c:d":         "systemd-nspawn refuses it when it mounts",
	"--bind=/a:/b:nosuch":      "systemd-nspawn refuses it when it mounts",
	"--tmpfs=/a:rbind":         "a new file system has nothing to bind",
	"--inaccessible=/":         "nothing could run",
	"--capability=41":          "the kernel has no such capability",
	"--capability=62":          "the kernel has no such capability",
	"--capability=63":          "the kernel has no such capability",
	"--chdir=/a/../b":          "newer versions refuse it",
	"--chdir=/dev":             "newer versions refuse it",
	"--chdir=/proc":            "newer versions refuse it",
	"--chdir=/sys/x":           "newer versions refuse it",
	"--kill-signal=SIGIOT":     "a second name of SIGABRT",
	"--kill-signal=term":       "case is no reason to refuse",
	"--rlimit=AS=1.K":          "a point without digits is a typing mistake",
	"--rlimit=AS=+1K":          "a size has no sign",
	"--cpu-affinity=3-0":       "systemd-nspawn ignores it with a warning",
	"--cpu-affinity=0x1":       "nobody counts processors so",
	"--pivot-root=/:/":         "nothing would be seen of the new root",
	"--pivot-root=/a:/":        "nothing would be seen of the new root",
	`--pivot-root=/a\:b`:       "what looks escaped is not, there either; and b is relative",
	"--pivot-root=/a//b":       "two slashes are one",
	"--ambient-capability=all": "systemd-nspawn refuses it later",
	"--user=a:b":               "no user database can hold the name",
}

// TestPeer asks systemd-nspawn which values it takes. It reads its options
// from left to right and stops at --version, so that nothing is started.
func TestPeer(t *testing.T) {
	nspawn, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		t.Skip("no systemd-nspawn to compare with")
	}
	if os.Getenv("LAUNCH_TEST") != "peers" {
		t.Skip("takes 20 seconds; run with LAUNCH_TEST=peers")
	}
	values := map[string][]string{
		"--bind": {"", "/a", "a", "/a:/b", "a:/b", ":/b", "/a:", "/a:b", ":", "::", "+/a", "+a:/b", "+a", `/a\:b`, `/a\`, "/a:/b:", "/a:/b:norbind",
			"/a:/b:idmap", "/:/", "/a/../b", "-/a", "-/a:/b", "/a:/b/../c", "/a:/b:nosuch", "/a:/b:c:d", "/a:/b:norbind,idmap", `\/a:/b`},
		"--tmpfs":        {"", "/a", "a", "/a:", "/a:size=1", "/a:ro,noexec", ":", `/a\:b`, "/", "/a/../b", "/a:rbind"},
		"--overlay":      {"", "/a", "/a:/b", "/a:/b:/c", "/a::/c", ":/b:/c", "/a:b", "a:/b", "/a:/b:c", "a:b:/c", "+/a:+/b:/c", "+a:/b:/c", "/a:+/b", "/a:", "::", "/a:/b:/c:/d", "/a:/b:"},
		"--inaccessible": {"", "/a", "a", "/", "/a:b", "/a//b/"},
		"--setenv":       {"", "A", "A=1", "=1", "1A=1", "A-B=1", "A B=1", "A=\x01", "A=\n", "A=\xff", "_=", "NOT_THERE"},
		"--chdir":        {"", "/", "/a", "a", "/a/", "/a//b", "/a/./b", "/a/../b", "/proc", "/sys/x", "/dev"},
		"--private-users": {"yes", "no", "pick", "identity", "0", "1", "65535", "65536", "00", "01", "+1", "1:", "1:0", "1:1", ":1", "4294967295", "4294967294",
			"4294901760:65536", "4294901759:65536", "1:2:3", "true", "nosuch", "0x10", "managed"},
		"--private-users-ownership": {"", "off", "chown", "map", "auto", "yes", "no", "nosuch"},
		"--volatile":                {"yes", "no", "state", "overlay", "1", "0", "on", "nosuch"},
		"--kill-signal":             {"SIGTERM", "TERM", "term", "15", "0", "64", "65", "SIGRTMIN+3", "RTMIN+3", "RTMIN+30", "RTMIN+31", "RTMAX-3", "SIGRTMAX", "nosuch", "-1", "RTMIN3", "SIGIOT", "SIGCLD", "RTMAX-0", "RTMAX-31"},
		"--capability":              {"CAP_CHOWN", "cap_chown", "chown", "all", "CAP_CHOWN,CAP_KILL", "CAP_CHOWN CAP_KILL", "CAP_CHOWN,,CAP_KILL", ",", "", "5", "40", "41", "62", "63", "64", "CAP_NOSUCH", "ALL"},
		"--hostname":                {"", "a", "a.b", "a_b", "-a", "a-", "a.", ".a", "a..b", "a.-b", "a-.b", "A1", strings.Repeat("a", 64), strings.Repeat("a", 65), "é", "a b"},
		"--machine":                 {"", "a", "a.b", "a_b", "a.", strings.Repeat("a", 65), "-a"},
		"--console":                 {"interactive", "read-only", "passive", "pipe", "nosuch", ""},
		"--register":                {"yes", "no", "1", "f", "nosuch", ""},
		"--no-new-privileges":       {"yes", "no", "T", "F", "ON", "off", "Y", "n", "2", ""},
		"--settings":                {"yes", "no", "override", "trusted", "1", "nosuch", ""},
		"--user":                    {"joe", "", "0", "a:b", "1000"},
		"--directory":               {"/", "a", "", "a/../b"},
		"--rlimit": {"NOFILE=1", "nofile=1", "RLIMIT_NOFILE=1", "LimitNOFILE=1", "NOFILE=", "NOFILE", "NOFILE=5:3", "NOFILE=3:5", "NOFILE=3:", "NOFILE=:3", "NOFILE=infinity", "NOFILE=INFINITY",
			"NOFILE=1K", "NOFILE=0x10", "NOFILE=010", "NOFILE=+1", "NOFILE= 1", "NOFILE=-1", "NOFILE=18446744073709551615", "NOFILE=18446744073709551614", "NOFILE=1:2:3", "NOFILE=0b1", "NOFILE=0o7", "NOFILE=08",
			"AS=1K", "AS=1k", "AS=1.5K", "AS=1B", "AS=1KB", "AS=1M2K", "AS=2K1M", "AS=1 K", "AS=1K ", "AS=16E", "AS=15E", "AS=-1", "AS=0", "AS=1.K", "AS=.5K", "AS=1.5", "AS=1K1K", "AS=1K 1B", "AS= 1K", "AS=+1K",
			"CPU=1", "CPU=1s", "CPU=1min 30s", "CPU=1h5", "CPU=1ms", "CPU=1.5", "CPU=1x", "CPU=-1", "CPU=0", "CPU=", "CPU=1 ", "CPU= 1", "CPU=1 s", "CPU=.5", "CPU=1.", "CPU=1s1s", "CPU=1M", "CPU=1month", "CPU=1S", "CPU=5μs", "CPU=infinity:infinity",
			"RTTIME=1", "RTTIME=1week", "RTTIME=1.5", "NICE=+19", "NICE=+20", "NICE=-20", "NICE=-21", "NICE=40", "NICE=41", "NICE=0", "NICE=infinity", "NICE=-1:+1", "NICE=+1:-1", "NICE=+-1", "NICE=", "RTPRIO=100", "NOSUCH=1", ""},
		"--port": {"80", "080", "0x50", "+80", " 80", "80 ", "0", "65535", "65536", "-1", "80:0", "80:65536", "80:", ":80", "", ":", "tcp:80", "TCP:80", "udp:80", "sctp:80", "dccp:80",
			"tcp:", "tcp:80:90", "tcp:80:90:1", "80:90:1", "80:080", "80:0x50", "80-90", "http", "80/tcp", "99999999999", "80: 90", "80 :90", "6:80", "tcp::80", "1:2:3", "00", "0b11", "0o17", "0x", "0xg", "++1", "+080", "+ 1", "+0x1"},
		"--oom-score-adjust":   {"0", "1000", "1001", "-1000", "-1001", "", "+5", "0x10", "5x", "010", " 1"},
		"--cpu-affinity":       {"", "0", "0,1", "0 1", "0-3", "3-0", "0-", "8191", "8192", "a", "0,,1", ",", "0 - 3", `"0"`, "-1", "0x1", "01"},
		"--ambient-capability": {"CAP_CHOWN", "all", "", "CAP_CHOWN,CAP_KILL", "CAP_NOSUCH"},
		"--suppress-sync":      {"yes", "", "x"},
		"--uuid": {"0", "", "00000000000000000000000000000000", "00000000-0000-0000-0000-000000000000", "01234567-89ab-cdef-0123-456789abcdef", "0123456789abcdef0123456789abcdef",
			"0123456789ABCDEF0123456789ABCDEF", "0123456789abcdef-0123456789abcdef", "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdeg"},
		"--pivot-root":  {"/a", "a", "/a:/b", "/a:b", "/a:", ":/b", "", "/a:/b:/c", "/", "/:/", "/a/../b", "/a:/", `/a\:b`, "/a//b", "/:/a"},
		"--personality": {"", "nosuch", "x86_64", "i386", "X86"},
	}
	seen := map[string]bool{}
	for flag, list := range values {
		for _, v := range list {
			arg := flag + "=" + v
			_, err := Parse([]string{arg}, []string{"A=1"}, "/srv/web")
			theirs := exec.Command(nspawn, arg, "--version")
			theirs.Dir, theirs.Env = "/", []string{"A=1", "PATH=/usr/bin:/bin"}
			out, err2 := theirs.CombinedOutput()
			reason, known := differences[arg]
			differs := (err == nil) != (err2 == nil)
			seen[arg] = true
			if differs != known {
				t.Errorf("%q: ours %v, theirs %v %s (known: %s)", arg, err, err2, strings.TrimSpace(string(out[:min(len(out), 150)])), reason)
			}
		}
	}
	for arg := range differences {
		if !seen[arg] {
			t.Errorf("%q is no longer compared", arg)
		}
	}
}
