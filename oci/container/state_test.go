package container

import (
	"reflect"
	"testing"
	"time"

	"launch/internal/cgroup"
	"launch/internal/cgroup/systemd"
)

func full() *State {
	return &State{ID: "a", Bundle: "/srv/a b%", Rootfs: "/srv/\n", Created: time.Unix(1, 2).UTC(), Owner: 5, PID: 7, Began: 9,
		Annotations: [][2]string{{"k", ""}, {"x y", "z"}},
		Group:       cgroup.Group{Rootless: true, Dirs: []cgroup.Dir{{Version: 1, Mount: "/sys/fs/cgroup/cpu", Path: "/x", Controllers: []string{"cpu", "cpuacct"}}, {Version: 2, Mount: "/sys/fs/cgroup", Path: "/"}}},
		Unit:        systemd.Unit{Name: "a.scope", Slice: "s.slice", User: true}, Under: 11, RDT: cgroup.RDT{Dir: "/r", Made: true, Monitor: "m"}}
}

// TestState: what is written is what is read.
func TestState(t *testing.T) {
	for _, s := range []*State{full(), {Created: time.Unix(0, 0).UTC()}} {
		got, err := parse(s.text())
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Errorf("%q: %+v, %v; want %+v", s.text(), got, err, s)
		}
	}
	for _, bad := range []string{"", "{}", magic, "launch-oci-state 2\n", magic + "\npid x y\n", magic + "\nowner 1", magic + "\ncreated never\n"} {
		if s, err := parse(bad); err == nil {
			t.Errorf("%q: %+v", bad, s)
		}
	}
}

// FuzzState: whatever is in the file, it is refused, or means the same when it
// is written again.
func FuzzState(f *testing.F) {
	f.Add(full().text())
	f.Add((&State{}).text())
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parse(text)
		if err != nil {
			return
		}
		again, err := parse(s.text())
		if err != nil {
			t.Fatalf("%q was written as %q: %v", text, s.text(), err)
		}
		if again.text() != s.text() {
			t.Fatalf("%q: %q, then %q", text, s.text(), again.text())
		}
	})
}
