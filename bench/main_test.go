package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSum(t *testing.T) {
	times := func(list ...int) (d []time.Duration) {
		for _, ms := range list {
			d = append(d, time.Duration(ms)*time.Millisecond)
		}
		return d
	}
	got := sum([]*contestant{
		{Name: "absent", Missing: "it isn't there"},
		{Name: "even", times: times(4, 1, 3, 2), faults: []int64{10, 30, 20, 40}},
		{Name: "odd", times: times(50, 10, 5), faults: []int64{7}},
		{Name: "ten", times: times(10, 9, 8, 7, 6, 5, 4, 3, 2, 1), faults: []int64{1}},
	})
	for i, want := range []figures{
		{Name: "absent", Missing: "it isn't there"},
		{Name: "even", Median: 2.5, Best: 1, P90: 4, Ratio: 1, Faults: 25},
		{Name: "odd", Median: 10, Best: 5, P90: 50, Ratio: 4, Faults: 7},
		{Name: "ten", Median: 5.5, Best: 1, P90: 9, Ratio: 2.2, Faults: 1},
	} {
		if got[i] != want {
			t.Errorf("got  %+v\nwant %+v", got[i], want)
		}
	}
}

// TestRun runs the benchmark itself: the floor must be measured, a launcher that fails must
// not, and nothing may stay.
func TestRun(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("gcc"); err != nil {
		t.Skip("needs gcc")
	}
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("#!/bin/sh\necho no luck >&2\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", dir)
	t.Setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
	cgroups := func() (list []string) {
		for _, top := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
			more, _ := filepath.Glob(filepath.Join(top, "launch-bench-*"))
			list = append(list, more...)
		}
		return list
	}
	before := cgroups() // of those that are measured elsewhere, or were killed
	cgroup, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = run(&out, 2, 0, 0, true, "", []string{"bad=" + bad})
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("a launcher that fails: error %v", err)
	}
	var r struct {
		Rounds  int
		Results []figures
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	for _, f := range r.Results {
		switch f.Name {
		case "floor", "bare floor", "floor with users", "bare floor with users":
			if f.Missing != "" || f.Median <= 0 || f.Best > f.Median || f.Median > f.P90 || f.Name == "floor" && f.Ratio != 1 {
				t.Errorf("%s: %+v", f.Name, f)
			}
		case "bad", "bad with users":
			if f.Missing == "" || f.Median != 0 {
				t.Errorf("a launcher that fails: %+v", f)
			}
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "launch-bench-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if now, _ := os.ReadFile("/proc/self/cgroup"); string(now) != string(cgroup) {
		t.Errorf("the cgroup was\n%sand is\n%s", cgroup, now)
	}
	if left := slices.DeleteFunc(cgroups(), func(c string) bool { return slices.Contains(before, c) }); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
