package bundle

import (
	"encoding/json"
	"math/rand"
	"reflect"
	"testing"
	"testing/quick"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestValue holds AppendValue against encoding/json, with resources of all
// kinds, and that what is written can be read.
func TestValue(t *testing.T) {
	check := func(r *specs.LinuxResources) {
		want, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(AppendValue(nil, r)); got != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	check(nil)
	check(&specs.LinuxResources{})
	random := rand.New(rand.NewSource(1))
	for range 300 {
		v, ok := quick.Value(reflect.TypeFor[*specs.LinuxResources](), random)
		if !ok {
			t.Fatal("no such value")
		}
		check(v.Interface().(*specs.LinuxResources))
	}
	text := `{"unified":{"memory.high":"7","a\n\"b":"<&>"},"memory":{"limit":-1},"pids":{"limit":0},"devices":[{"allow":true,"major":-1}],"cpu":{"cpus":"0-1","shares":7}}`
	r, _, err := DecodeResources("-", text)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := DecodeResources("-", string(AppendValue(nil, r)))
	if err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("%v: %s", err, AppendValue(nil, again))
	}
	type embedded struct{ F float64 }
	type mixed struct {
		embedded
		Inner struct{} `json:"inner,omitempty"`
		M     map[string]uint64
		L     []struct{} `json:"l"`
		Skip  int        `json:"-"`
	}
	for _, v := range []any{mixed{}, mixed{embedded: embedded{1.25}, M: map[string]uint64{"b": 1, "a": 2}, L: []struct{}{}}, []float64{0, 0.01, 100.5}} {
		want, _ := json.Marshal(v)
		if got := string(AppendValue(nil, v)); got != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
