package bundle

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"launch/mount"

	"launch/settings"
)

// wide is what other runtimes print, by the same rules.
type wide struct {
	Version     string            `json:"ociVersion"`
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Status      string            `json:"status"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     string            `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Owner       string            `json:"owner"`
}

func states() []State {
	return []State{
		{},
		{Version: "1.3.0", ID: "a", PID: 12, Status: "running", Bundle: "/b", Rootfs: "/b/r", Created: "2026-01-02T03:04:05.678Z", Owner: "root"},
		{Version: "1.0.2-dev", ID: "<&>\u2028\u2029é\x7f", PID: 1 << 30, Status: "stopped", Bundle: "/\x00\x1f\b\f\n\r\t\"\\", Annotations: map[string]string{"z": "", "a/b": "\xffx\xc3", "": "1"}},
	}
}

func TestStates(t *testing.T) {
	for _, s := range states() {
		want, _ := json.MarshalIndent(wide(s2w(s)), "", "  ")
		if got := s.Append(nil); !bytes.Equal(got, want) {
			t.Errorf("state is\n%s\nwant\n%s", got, want)
		}
		spec := specs.State{Version: s.Version, ID: s.ID, Status: specs.ContainerState(s.Status), Pid: s.PID, Bundle: s.Bundle, Annotations: s.Annotations}
		want, _ = json.Marshal(spec)
		if got := s.AppendSpec([]byte("x"))[1:]; !bytes.Equal(got, want) {
			t.Errorf("state is\n%s\nwant\n%s", got, want)
		}
		for _, metadata := range []string{"", "m\"x"} {
			want, _ = json.Marshal(specs.ContainerProcessState{Version: s.Version, Fds: []string{specs.SeccompFdName}, Pid: s.PID, Metadata: metadata, State: spec})
			if got := s.AppendListener(nil, metadata); !bytes.Equal(got, want) {
				t.Errorf("state is\n%s\nwant\n%s", got, want)
			}
		}
	}
	var all []wide
	for _, s := range states() {
		all = append(all, s2w(s))
	}
	want, _ := json.Marshal(all)
	if got := AppendList(nil, states()); !bytes.Equal(got, want) {
		t.Errorf("list is\n%s\nwant\n%s", got, want)
	}
	if got := string(AppendList(nil, nil)); got != "null" {
		t.Errorf("an empty list is %s", got)
	}
	for _, pids := range [][]int{nil, {1}, {3, 2, 1}} {
		want, _ := json.Marshal(append([]int{}, pids...))
		if got := AppendPIDs(nil, pids); !bytes.Equal(got, want) {
			t.Errorf("pids are %s, want %s", got, want)
		}
	}
}

func s2w(s State) wide {
	return wide(s)
}

// FuzzState: what is written is read again, and anything else does no harm.
func FuzzState(f *testing.F) {
	for _, s := range states() {
		f.Add(string(s.Append(nil)))
		f.Add(string(s.AppendSpec(nil)))
	}
	f.Add(`{"id":1}`)
	f.Add(`{"pid":"1"}`)
	f.Fuzz(func(t *testing.T, text string) {
		s, _, err := DecodeState("s", text)
		if err != nil {
			return
		}
		again, warnings, err := DecodeState("s", string(s.Append(nil)))
		if len(s.Annotations) == 0 {
			s.Annotations = nil
		}
		if err != nil || len(warnings) > 0 || !reflect.DeepEqual(s, again) {
			t.Errorf("%q: read %+v, and again %+v (%v)", text, s, again, err)
		}
		var w wide
		if err := json.Unmarshal(s.Append(nil), &w); err != nil || w.ID != s.ID || w.PID != s.PID || !maps.Equal(w.Annotations, s.Annotations) {
			t.Errorf("%q: encoding/json reads %+v (%v)", text, w, err)
		}
	})
}

// TestFeatures: the features are what the specification's types hold, nothing is
// unknown to them or left open, and each word is one that is understood.
func TestFeatures(t *testing.T) {
	text := AppendFeatures(nil, Built{Version: "1.2.3", Systemd: true})
	golden(t, "features.golden", string(text)+"\n")
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var f features.Features
	if err := d.Decode(&f); err != nil {
		t.Fatal(err)
	}
	want, _ := json.MarshalIndent(f, "", "    ")
	if !bytes.Equal(text, want) {
		t.Errorf("features are\n%s\nwant\n%s", text, want)
	}
	if f.OCIVersionMax != specs.Version || Version != specs.Version {
		t.Errorf("version %s, the specification's types are of %s", f.OCIVersionMax, specs.Version)
	}
	var whole func(at string, v reflect.Value)
	whole = func(at string, v reflect.Value) {
		switch v.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			if v.IsNil() {
				t.Errorf("%s is left open", at)
			} else if v.Kind() == reflect.Pointer {
				whole(at, v.Elem())
			}
		case reflect.Struct:
			for i := range v.NumField() {
				whole(at+"."+v.Type().Field(i).Name, v.Field(i))
			}
		}
	}
	whole("features", reflect.ValueOf(f))
	if !slices.IsSorted(f.MountOptions) || len(slices.Compact(slices.Clone(f.MountOptions))) != len(f.MountOptions) {
		t.Error("mount options are not in order, or not unique")
	}
	for _, o := range f.MountOptions {
		if _, ok := mount.FindOption(o); !ok && !slices.Contains(bundleOptions[:], o) {
			t.Errorf("%s is no mount option", o)
		}
	}
	// All that the specification demands, but what the kernel lacks.
	for o := range strings.FieldsSeq(`async atime bind defaults dev diratime dirsync exec iversion lazytime loud noatime nodev
		nodiratime noexec noiversion nolazytime norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev
		rdiratime relatime remount rexec rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro
		rprivate rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave
		strictatime suid symfollow sync tmpcopyup unbindable idmap ridmap mand nomand`) {
		if !slices.Contains(f.MountOptions, o) {
			t.Errorf("the specification's mount option %s is missing", o)
		}
	}
}

func BenchmarkFeatures(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		AppendFeatures(nil, Built{Version: "1"})
	}
}

var namesState = [...]string{"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"}

// DecodeState reads what Append and AppendSpec write.
func DecodeState(name, text string) (*State, []settings.Warning, error) {
	return decodeWhole(name, text, decodeState)
}

func decodeState(d *decoder, s *State) {
	if !d.open('{', "an object") {
		return
	}
	for seen := uint64(0); d.more('}'); {
		name := d.key()
		i := slices.Index(namesState[:], name)
		if i < 0 {
			d.unknown(name, namesState[:])
			d.leave()
			continue
		}
		d.known(name, &seen, 1<<i)
		switch name {
		case "ociVersion":
			decodeString(d, &s.Version)
		case "id":
			decodeString(d, &s.ID)
		case "pid":
			decodeInt(d, &s.PID)
		case "status":
			decodeString(d, &s.Status)
		case "bundle":
			decodeString(d, &s.Bundle)
		case "rootfs":
			decodeString(d, &s.Rootfs)
		case "created":
			decodeString(d, &s.Created)
		case "annotations":
			decodeMap(d, &s.Annotations, decodeString[string])
		case "owner":
			decodeString(d, &s.Owner)
		}
		d.leave()
	}
}
