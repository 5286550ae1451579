package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestResctrlMount(t *testing.T) {
	if at := resctrl("5 1 0:9 / /sys/fs/resctrl rw shared:3 - resctrl resctrl rw\n"); at != "/sys/fs/resctrl" {
		t.Error(at)
	}
	if at := resctrl(hybridMounts); at != "" {
		t.Error(at)
	}
}

// TestRDTFiles goes through the spec's rules in plain directories, since the
// hardware is rare.
func TestRDTFiles(t *testing.T) {
	mount := t.TempDir()
	class := func(name, schemata string) {
		t.Helper()
		dir := filepath.Join(mount, name)
		if err := os.MkdirAll(filepath.Join(dir, "mon_groups"), 0o755); err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string]string{"schemata": schemata, "tasks": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	class("gold", "    MB:0=100;1= 70\n    L3:0=007f0;1=1f\n")
	class(".", "")
	const name = "error: "
	for _, c := range []struct {
		r    specs.LinuxIntelRdt
		want string
	}{
		{specs.LinuxIntelRdt{ClosID: "gold"}, "gold"},
		{specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=7F0;1=1f", MemBwSchema: "MB:1=70"}, "gold"},
		{specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=7f1"}}, name + "differ"},
		{specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, "gold"},
		{specs.LinuxIntelRdt{ClosID: "none"}, name + "no class"},
		{specs.LinuxIntelRdt{ClosID: "../x"}, name + "can't be the name"},
		{specs.LinuxIntelRdt{ClosID: "info"}, name + "can't be the name"},
		{specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "L3:0=1"}, name + "MB:"},
		{specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"a\nb"}}, name + "one line"},
		{specs.LinuxIntelRdt{ClosID: "/"}, "."},
		{specs.LinuxIntelRdt{}, "id"},
	} {
		r, err := CreateRDT(mount, &c.r, "id")
		if words, bad := strings.CutPrefix(c.want, name); bad {
			if err == nil || !strings.Contains(err.Error(), words) {
				t.Errorf("%+v: %v, want %s", c.r, err, words)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", c.r, err)
			continue
		}
		if r.Dir != filepath.Join(mount, c.want) || r.Made != (c.want == "id") || (r.Monitor != "") != c.r.EnableMonitoring {
			t.Errorf("%+v: %+v", c.r, r)
		}
		if err := r.Delete(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(r.Dir); (err == nil) == (c.want == "id") {
			t.Errorf("%+v: %s after Delete: %v", c.r, r.Dir, err)
		}
	}
	for _, made := range []string{"none", "x", "gold/mon_groups/id"} {
		if _, err := os.Stat(filepath.Join(mount, made)); err == nil {
			t.Errorf("%s is left", made)
		}
	}
	lines, err := schemata(&specs.LinuxIntelRdt{L3CacheSchema: "L3:0=1\nMB:0=5", MemBwSchema: "MB:0=6", Schemata: []string{"L2:0=1"}})
	if err != nil || strings.Join(lines, " ") != "L3:0=1 MB:0=6 L2:0=1" {
		t.Error(lines, err)
	}
}
