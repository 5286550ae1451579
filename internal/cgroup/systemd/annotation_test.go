package systemd

import (
	"reflect"
	"strings"
	"testing"
)

func TestAnnotated(t *testing.T) {
	for text, want := range map[string]Property{
		"CollectMode: 'inactive-or-failed'":      {"CollectMode", "inactive-or-failed"},
		`Description: "it's \"one\""`:            {"Description", `it's "one"`},
		"DefaultDependencies: true":              {"DefaultDependencies", true},
		"KillSignal: 37":                         {"KillSignal", int32(37)},
		"CPUWeight: uint64 18446744073709551615": {"CPUWeight", infinity},
		"Mode: uint32 0x1ed":                     {"Mode", uint32(0o755)},
		"After: ['a.service', \"b.service\"]":    {"After", []string{"a.service", "b.service"}},
		"SuccessExitStatus: [1, 2]":              {"SuccessExitStatus", []int32{1, 2}},
		"TimeoutStopUSec: uint64 5":              {"TimeoutStopUSec", uint64(5)},
		"TimeoutStopSec: 2.5":                    {"TimeoutStopUSec", uint64(2500000)},
		"TimeoutStopSec: uint64 7":               {"TimeoutStopUSec", uint64(7000000)},
	} {
		name, value, _ := strings.Cut(text, ": ")
		got, err := Annotated(map[string]string{prefix + name: value, "org.other": "x"})
		if err != nil || !reflect.DeepEqual(got, []Property{want}) {
			t.Errorf("%s: %#v, %v; want %#v", text, got, err, want)
		}
	}
	for _, text := range []string{"A: ", "A: x", "A: 'x", "A: 'x' y", "A: uint32 -1", "A: 2147483648", "A: []", "A: ['a', 1]", "A: ['a'", "A: [1 2]", "A: [,]",
		"A: byte 1", "A-b: 1", ": 1", "TimeoutStopSec: -1", "TimeoutStopSec: 'x'", "TimeoutStopSec: NaN"} {
		name, value, _ := strings.Cut(text, ": ")
		if got, err := Annotated(map[string]string{prefix + name: value}); err == nil {
			t.Errorf("%s: %v, want an error", text, got)
		} else if !strings.Contains(err.Error(), "annotation "+prefix+name) {
			t.Errorf("%s: %v doesn't name the annotation", text, err)
		}
	}
}

func FuzzAnnotated(f *testing.F) {
	for _, s := range []string{"true", "['a', 'b']", "[1, 2]", "uint64 7", `"x\"y"`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		_, _ = Annotated(map[string]string{prefix + "A": value, prefix + "BSec": value})
	})
}
