package main

import (
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"launch/internal/cli"
	"launch/settings"
	"launch/settings/nspawn"
)

// TestConvert: a shell and the reader of files get back what was said.
func TestConvert(t *testing.T) {
	args := []string{"-D", "/srv/it's web", "--read-only", "-E", "A=1 \"2\" '3' $x `y`", "-E", "B=\\", "--bind=/a b:/c", "--rlimit=NOFILE=5:6",
		"--capability=CAP_SYS_TIME,CAP_NET_ADMIN", "--private-users=65536", "--", "sh", "-c", "echo 'a' \"b\" #c", "", "--boot"}
	resolve := func(said []settings.Assignment) settings.Settings {
		t.Helper()
		s, _, _, err := settings.Resolve(said, settings.Surroundings{Place: settings.Place{Cwd: "/"}})
		if err != nil {
			t.Fatal(err)
		}
		for i := range s.Mounts {
			s.Mounts[i].Origin.Source, s.Mounts[i].Origin.Path, s.Mounts[i].Origin.Key, s.Mounts[i].Origin.Line = "", "", "", 0
		}
		return s
	}
	parse := func(args ...string) []settings.Assignment {
		t.Helper()
		req, err := cli.Parse(args, nil, "/")
		if err != nil {
			t.Fatal(err)
		}
		return req.Assignments
	}
	want := resolve(parse(args...))
	list, missed := settings.Say(want)
	if missed != nil {
		t.Errorf("missed %q", missed)
	}
	line := asArgs(list)
	out, err := exec.Command("/bin/sh", "-c", "launch() { for i; do printf '%s\\0' \"$i\"; done; }; "+line).Output()
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
	if got := resolve(parse(words...)); !reflect.DeepEqual(got, want) {
		t.Errorf("%s\nsays %+v\nwant %+v", line, got, want)
	}

	file, missed := asFile(list, want.Exec.Mode)
	if !slices.Equal(missed, []string{"--directory=/srv/it's web", "--machine=itsweb"}) {
		t.Errorf("a file can't say %q", missed)
	}
	said, warnings, err := nspawn.Read(nspawn.Candidate{Path: "x.nspawn", Trusted: true}, settings.Place{Cwd: "/elsewhere"}, []byte(file))
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	if got := resolve(append(parse("-D", "/srv/it's web"), said...)); !reflect.DeepEqual(got, want) {
		t.Errorf("%s\nsays %+v\nwant %+v", file, got, want)
	}
}
