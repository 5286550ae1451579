package settings

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"launch/internal/origin"
)

func TestLimits(t *testing.T) {
	const inf = Infinity
	for _, c := range []struct {
		text       string
		soft, hard uint64
	}{
		{"NOFILE=1", 1, 1}, {"RLIMIT_NOFILE=1:2", 1, 2}, {"LimitNOFILE=infinity", inf, inf}, {"NOFILE=3:infinity", 3, inf},
		{"NOFILE=0x10", 16, 16}, {"NOFILE=010", 8, 8}, {"NOFILE=+1", 1, 1}, {"NOFILE=18446744073709551614", inf - 1, inf - 1},
		{"AS=1K", 1 << 10, 1 << 10}, {"AS=1.5K", 1536, 1536}, {"AS=1B", 1, 1}, {"AS=1M2K", 1<<20 + 2048, 1<<20 + 2048}, {"AS=1 K", 1024, 1024},
		{"AS=15E", 15 << 60, 15 << 60}, {"AS=0", 0, 0}, {"AS=1G:2G", 1 << 30, 2 << 30}, {"AS=0.5", 0, 0}, {"MSGQUEUE=0.25T", 1 << 38, 1 << 38},
		{"CPU=1", 1, 1}, {"CPU=1min 30s", 90, 90}, {"CPU=1h5", 3605, 3605}, {"CPU=1ms", 1, 1}, {"CPU=1.5", 2, 2}, {"CPU=0", 0, 0}, {"CPU=1d:2weeks", 86400, 1209600},
		{"RTTIME=1", 1, 1}, {"RTTIME=1ms", 1000, 1000}, {"RTTIME=1s 5", 1000005, 1000005}, {"RTTIME=2µs", 2, 2}, {"RTTIME=1.25ms", 1250, 1250},
		{"NICE=+19", 1, 1}, {"NICE=-20", 40, 40}, {"NICE=40", 40, 40}, {"NICE=0", 0, 0}, {"NICE=+0", 20, 20}, {"NICE=+1:-1", 19, 21},
		{"RTPRIO=99", 99, 99},
	} {
		v, err := parseRlimit(Place{}, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if l := v.(Rlimit); l.Soft != c.soft || l.Hard != c.hard {
			t.Errorf("%s: %d:%d, want %d:%d", c.text, l.Soft, l.Hard, c.soft, c.hard)
		}
	}
	for _, text := range []string{
		"", "NOFILE", "NOFILE=", "nofile=1", "NOSUCH=1", "=1", "NOFILE=5:3", "NOFILE=3:", "NOFILE=:3", "NOFILE=1:2:3", "NOFILE=INFINITY",
		"NOFILE=1K", "NOFILE=-1", "NOFILE=1_0", "NOFILE=18446744073709551615", "AS=1k", "AS=1KB", "AS=2K1M", "AS=1K ", "AS=16E", "AS=-1", "AS=.", "AS=K", "AS=1.2.3",
		"AS=15.99999999E1.5E", "CPU=1x", "CPU=-1", "CPU=", "CPU= ", "CPU=s", "CPU=1.2.3", "CPU=99999999999y", "NICE=+20", "NICE=-21", "NICE=41", "NICE=infinity", "NICE=-1:+1", "NICE=+-1", "NICE=",
	} {
		if v, err := parseRlimit(Place{}, text); err == nil {
			t.Errorf("%s is taken for %v", text, v)
		}
	}
	// Each row of a key has a limit that the flag knows by the same name.
	for _, name := range limitList() {
		o := FindKey("Exec", "Limit"+name)
		if o == nil {
			t.Errorf("Limit%s= has no row", name)
			continue
		}
		v, err := o.Parse(Place{}, "7")
		if err != nil || v.(Rlimit).Name != name || Find("rlimit").Row(v) != o.Name || o.Group != Group("limit "+name) {
			t.Errorf("Limit%s=: %v, %v", name, v, err)
		}
	}
}

func TestCPUs(t *testing.T) {
	for text, want := range map[string]string{
		"0": "0", "0,2-4": "0,2-4", "4 2  3,0": "0,2-4", "0-1,1-2": "0-2", "": "", ",": "", "8191": "8191", `"1"`: "1", "1,3,5": "1,3,5",
	} {
		v, err := readCPUs(text)
		if err != nil || v.String() != want {
			t.Errorf("%q: %v, %v, want %s", text, v, err, want)
		}
	}
	for _, text := range []string{"a", "-1", "0-", "3-0", "8192", "0 - 3", "1-2-3", "99999999999", `"1`} {
		if v, err := readCPUs(text); err == nil {
			t.Errorf("%q is taken for %v", text, v)
		}
	}
	// Flags take each other's place, lines of a file add up.
	for _, c := range []struct {
		parse func(Place, string) (any, error)
		want  string
	}{{Find("cpu-affinity").Parse, "3"}, {Find("cpu-affinity").ParseKey, "0-1,3"}} {
		var s Settings
		for _, text := range []string{"0-1", "3"} {
			v, err := c.parse(Place{}, text)
			if err != nil {
				t.Fatal(err)
			}
			Find("cpu-affinity").Set(&s, Assignment{Value: v})
		}
		if got := s.Exec.CPUs.String(); got != c.want {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
	if got := CPUs.add(CPUs{1, 5}, CPUs{0, 5}); !slices.Equal(got, CPUs{0, 1, 5}) {
		t.Error(got)
	}
}

func TestFamilies(t *testing.T) {
	for _, c := range []struct{ values, want string }{
		{"AF_INET", "AF_INET"}, {"AF_INET AF_UNIX", "AF_UNIX AF_INET"}, {"AF_LOCAL", "AF_UNIX"}, {"af_inet", "AF_INET"}, {"~Af_Decnet", "any but AF_DECnet"}, {"none", "none"}, {"~AF_INET", "any but AF_INET"},
		{"AF_INET|AF_INET6", "AF_INET AF_INET6"}, {"AF_INET AF_INET6|~AF_INET", "AF_INET6"}, {"~AF_INET AF_INET6|AF_INET", "any but AF_INET6"},
		{"AF_INET|", "any"}, {"|AF_INET", "AF_INET"}, {"AF_INET|none", "none"}, {"none|AF_INET", "AF_INET"}, {"~AF_INET|~AF_VSOCK", "any but AF_INET AF_VSOCK"},
	} {
		var f Families
		for text := range strings.SplitSeq(c.values, "|") {
			v, err := parseFamilies(Place{}, text)
			if err != nil {
				t.Errorf("%s: %v", c.values, err)
				continue
			}
			f = f.add(v.(Families))
		}
		if f.String() != c.want {
			t.Errorf("%s: %s, want %s", c.values, f, c.want)
		}
	}
	// In a file, names that nobody knows are left out, and never the restriction.
	for text, want := range map[string]string{"AF_NOSUCH": "none", "AF_NOSUCH AF_INET": "AF_INET", "AF_INET,AF_UNIX": "none", "~AF_NOSUCH AF_INET": "any but AF_INET", "AF_INET none": "AF_INET", "AF_INET": "AF_INET"} {
		v, err := parseFamiliesKey(Place{}, text)
		var part Partial
		if errors.As(err, &part) != (text != "AF_INET") || v.(Families).String() != want {
			t.Errorf("a line %q: %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"~", "~none", "~AF_NOSUCH", `"AF_INET`} {
		if v, err := parseFamiliesKey(Place{}, text); err == nil || errors.As(err, new(Partial)) {
			t.Errorf("a line %q is taken for %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"AF_NOSUCH", "INET", "~", "~none", "AF_", "AF_INET none", `"AF_INET`} {
		if v, err := parseFamilies(Place{}, text); err == nil {
			t.Errorf("%q is taken for %v", text, v)
		}
	}
}

func TestOtherValues(t *testing.T) {
	for _, c := range []struct {
		row, text, want string
	}{
		{"oom-score-adjust", "0", "{true 0}"}, {"oom-score-adjust", "-1000", "{true -1000}"}, {"oom-score-adjust", "+5", "{true 5}"}, {"oom-score-adjust", "0x10", "{true 16}"},
		{"selinux-context", "a:b:c", "a:b:c"}, {"selinux-context", "sys.id:sys.role:x-y.fs:s0-s0:c0.c1023", "sys.id:sys.role:x-y.fs:s0-s0:c0.c1023"},
		{"selinux-context", "a:b", ""}, {"selinux-context", "a", ""}, {"selinux-context", ":b:c", ""}, {"selinux-context", "a::c", ""}, {"selinux-context", "a:b:c:", ""},
		{"selinux-apifs-context", "a:b:c d", ""}, {"selinux-apifs-context", "a:b:\"c\"", ""}, {"selinux-apifs-context", "a:b:c\n", ""}, {"selinux-apifs-context", "a:b:c\x00", ""}, {"selinux-apifs-context", "a:b:ü", ""},
		{"oom-score-adjust", "1001", ""}, {"oom-score-adjust", "-1001", ""}, {"oom-score-adjust", "", ""}, {"oom-score-adjust", "5x", ""},
		{"uuid", "01234567-89ab-cdef-0123-456789abcdef", "0123456789abcdef0123456789abcdef"}, {"uuid", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcdef"},
		{"uuid", "", ""}, {"uuid", "0", ""}, {"uuid", "00000000-0000-0000-0000-000000000000", ""}, {"uuid", "0123456789abcdef-0123456789abcdef", ""}, {"uuid", "g123456789abcdef0123456789abcdef", ""},
		{"pivot-root", "/a", "/a"}, {"pivot-root", "/a:/b", "/a:/b"}, {"pivot-root", "/a//b/:/c", "/a/b:/c"}, {"pivot-root", "/a:", "/a"}, {"pivot-root", "/:/a", "/:/a"},
		{"pivot-root", "a", ""}, {"pivot-root", "/a:b", ""}, {"pivot-root", ":/b", ""}, {"pivot-root", "", ""}, {"pivot-root", "/a/../b", ""}, {"pivot-root", "/a:/../b", ""}, {"pivot-root", "/a:/", ""},
		{"ambient-capability", "CAP_CHOWN,CAP_KILL", "33"}, {"ambient-capability", "all", ""}, {"ambient-capability", "CAP_CHOWN,all", ""}, {"ambient-capability", "CAP_X", ""},
		{"personality", "", ""}, {"personality", "pdp11", ""},
		{"api-vfs-writable", "network", "network"}, {"api-vfs-writable", "1", "yes"}, {"api-vfs-writable", "x", ""},
		{"container-service", "a\nb", ""}, {"container-service", "podman", "podman"},
	} {
		v, err := Find(c.row).Parse(Place{Cwd: "/"}, c.text)
		if c.want == "" && err == nil || c.want != "" && (err != nil || fmt.Sprint(v) != c.want) {
			t.Errorf("%s %q: %v, %v, want %s", c.row, c.text, v, err, c.want)
		}
	}
	if v, err := parseAmbientKey(Place{}, "CAP_CHOWN all"); err == nil {
		t.Error(v)
	}
}

// TestEnvironment: what the environment says holds until somebody else says
// something, and an error names the variable.
func TestEnvironment(t *testing.T) {
	flag := func(name, text string) Assignment {
		o := Find(name)
		v, err := o.Parse(Place{Cwd: "/"}, text)
		if err != nil {
			t.Fatal(err)
		}
		return Assignment{Option: o, Value: v, Origin: origin.Origin{Source: origin.CommandLine, Path: "--" + name}, Text: text}
	}
	line := func(name, text string) Assignment {
		a := flag(name, text)
		a.Origin = origin.Origin{Source: origin.File, Path: "web.nspawn", Line: 2, Key: a.Option.Key + "="}
		return a
	}
	resolve := func(env []string, files FileMode, said ...Assignment) (Settings, Trace, []Warning, error) {
		t.Helper()
		place := Place{Cwd: "/srv/web", Env: env}
		list, err := FromEnvironment(place)
		if err != nil {
			t.Fatal(err)
		}
		return Resolve(append(list, said...), Surroundings{Place: place, Files: files, PID2: true})
	}
	sync := []string{"SYSTEMD_SUPPRESS_SYNC=yes", "SYSTEMD_SUPPRESS_SYNC=no"} // the first counts
	for _, c := range []struct {
		files FileMode
		said  []Assignment
		want  bool
	}{
		{FileYes, nil, true},
		{FileYes, []Assignment{flag("suppress-sync", "no")}, false},
		{FileYes, []Assignment{line("suppress-sync", "no")}, false},
		{FileOverride, []Assignment{line("suppress-sync", "no")}, false},
		{FileYes, []Assignment{flag("suppress-sync", "yes"), line("suppress-sync", "no")}, true},
	} {
		s, trace, _, err := resolve(sync, c.files, c.said...)
		if err != nil || s.Exec.SuppressSync != c.want {
			t.Errorf("%v, %v\n%s", s.Exec.SuppressSync, err, trace)
		}
	}
	s, trace, warnings, err := resolve([]string{"SYSTEMD_NSPAWN_SHARE_SYSTEM=1", "SYSTEMD_NSPAWN_SHARE_NS_IPC=0", "SYSTEMD_NSPAWN_TMPFS_TMP=0",
		"SYSTEMD_NSPAWN_USE_CGNS=no", "SYSTEMD_NSPAWN_CHECK_OS_RELEASE=0", "SYSTEMD_SECCOMP=0", "SYSTEMD_LOG_LEVEL=nonsense", "SYSTEMD_NSPAWN_API_VFS_WRITABLE=network"}, FileYes)
	want := Environment{ShareIPC: true, SharePID: true, ShareUTS: true, NoTmpfsTmp: true, NoCgroupNamespace: true, AnyTree: true, API: APINetwork}
	if err != nil || s.Environment != want || !s.Exec.Unfiltered || s.Life.Quiet || s.Life.Register != Never {
		t.Errorf("%+v, %v\n%s", s, err, trace)
	}
	if len(warnings) != 5 {
		t.Errorf("%d warnings, want one for each that weakens: %v", len(warnings), warnings)
	}
	for _, w := range warnings {
		if !strings.HasPrefix(w.Place(), "$SYSTEMD_") {
			t.Errorf("%q does not name the variable: %q", w.What, w.Place())
		}
	}
	if o := trace.Origin("api-vfs-writable"); o.String() != "$SYSTEMD_NSPAWN_API_VFS_WRITABLE" {
		t.Error(o)
	}
	if s, _, _, _ := resolve([]string{"SYSTEMD_LOG_LEVEL=err"}, FileYes); !s.Life.Quiet {
		t.Error("SYSTEMD_LOG_LEVEL=err does not keep it quiet")
	}
	for i := range Options {
		o := &Options[i]
		if o.Env == "" || o.Name == "log-level" || o.Name == "container-service" {
			continue
		}
		for _, text := range []string{"", "maybe"} {
			_, err := FromEnvironment(Place{Env: []string{"A=1", o.Env + "=" + text}})
			if err == nil || !strings.Contains(err.Error(), "$"+o.Env) {
				t.Errorf("%s=%s: %v", o.Env, text, err)
			}
		}
	}
	for _, c := range []struct {
		env  string
		said []Assignment
		want string
	}{
		{"SYSTEMD_NSPAWN_SHARE_NS_PID=1", []Assignment{flag("boot", "yes")}, "leave out $SYSTEMD_NSPAWN_SHARE_NS_PID"},
		{"SYSTEMD_NSPAWN_SHARE_NS_UTS=1", []Assignment{flag("as-pid2", "yes")}, "leave out $SYSTEMD_NSPAWN_SHARE_NS_UTS"},
		{"A=1", []Assignment{flag("share-system", "yes"), flag("boot", "yes")}, "leave out --share-system"},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=1", []Assignment{flag("private-users", "pick"), flag("private-network", "yes")}, "leave out --private-users="},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network", []Assignment{flag("private-users", "pick")}, "add --private-network"},
		{"A=1", []Assignment{flag("ambient-capability", "CAP_CHOWN"), flag("boot", "yes")}, "--ambient-capability="},
		{"SYSTEMD_NSPAWN_API_VFS_WRITABLE=network", []Assignment{flag("private-users", "pick"), flag("private-network", "yes")}, ""},
		{"SYSTEMD_NSPAWN_SHARE_NS_IPC=1", []Assignment{flag("boot", "yes")}, ""},
	} {
		_, trace, _, err := resolve([]string{c.env}, FileYes, c.said...)
		e, _ := err.(*Error)
		if c.want == "" && err != nil || c.want != "" && (e == nil || !strings.Contains(e.Hint, c.want)) {
			t.Errorf("%s: %v\n%s", c.env, err, trace)
		}
	}
}

// TestLimitGroups: each limit is merged by itself, and the flag is in the
// group of the key.
func TestLimitGroups(t *testing.T) {
	said := func(row, text string, o origin.Origin) Assignment {
		r := Find(row)
		v, err := r.Parse(Place{}, text)
		if err != nil {
			t.Fatal(err)
		}
		if r.Row != nil {
			r = Find(r.Row(v))
		}
		return Assignment{Option: r, Value: v, Origin: o, Text: text}
	}
	cli := origin.Origin{Source: origin.CommandLine, Path: "--rlimit"}
	file := func(line int) origin.Origin {
		return origin.Origin{Source: origin.File, Path: "web.nspawn", Line: line, Key: "Limit="}
	}
	list := []Assignment{said("rlimit", "NOFILE=1", cli), said("rlimit", "AS=1K", cli), said("rlimit", "NOFILE=2:3", cli), said("limit-nofile", "7", file(1)), said("limit-core", "8", file(2))}
	s, trace, _, err := Resolve(list, Surroundings{Place: Place{Cwd: "/srv/web"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Rlimit{{"AS", 1024, 1024}, {"CORE", 8, 8}, {"NOFILE", 2, 3}}
	if !slices.Equal(s.Exec.Rlimits, want) {
		t.Errorf("%v, want %v\n%s", s.Exec.Rlimits, want, trace)
	}
	if o := trace.Origin("limit-nofile"); o != cli {
		t.Error(o)
	}
	fates := []Fate{Hidden, Applied, Applied, Hidden, Applied}
	for i, e := range trace {
		if e.Fate != fates[i] {
			t.Errorf("%d is %s, want %s\n%s", i, e.Fate, fates[i], trace)
		}
	}
}
