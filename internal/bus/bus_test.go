package bus

import (
	"reflect"
	"testing"
	"time"
)

func TestAddresses(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(k string) string {
			for i := 0; i < len(kv); i += 2 {
				if kv[i] == k {
					return kv[i+1]
				}
			}
			return ""
		}
	}
	for _, c := range []struct {
		user bool
		env  func(string) string
		want []string
	}{
		{false, env(), []string{"/run/dbus/system_bus_socket", "/run/systemd/private"}},
		{true, env(), nil},
		{true, env("XDG_RUNTIME_DIR", "/run/user/7"), []string{"/run/user/7/bus", "/run/user/7/systemd/private"}},
		{true, env("DBUS_SESSION_BUS_ADDRESS", "unix:abstract=/tmp/x%20y,guid=1"), []string{"@/tmp/x y"}},
	} {
		if got, _ := Addresses(c.user, c.env); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

// FuzzNext: whatever comes in, reading it ends.
func FuzzNext(f *testing.F) {
	c := &Conn{}
	f.Add(c.bytes(Call{"a", "/b", "c.d", "E", Strings("ss", "x", "y")}))
	f.Add([]byte("l\x02\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x08\x00\x00\x00\x05\x01u\x00\x07\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := &Conn{n: -1, in: in}
		m, err := c.next(time.Time{})
		if err == nil {
			m.Reader().Str()
		}
	})
}
