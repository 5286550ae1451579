package bus

import (
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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

// TestOddMessages: what is no message is refused, however it goes on, and nothing is
// waited for that nobody could want to send.
func TestOddMessages(t *testing.T) {
	// A head says how long the body is, and how long the fields are.
	head := func(body, fields string) string { return "l\x02\x00\x01" + body + "\x01\x00\x00\x00" + fields }
	const none, much = "\x00\x00\x00\x00", "\xff\xff\xff\xff"
	for what, in := range map[string]string{
		"no byte order":      "x" + strings.Repeat("\x00", 40),
		"an endless body":    head(much, none),
		"endless fields":     head(none, much),
		"a field of nothing": head(none, "\x04\x00\x00\x00") + "\x01\x01z\x00" + strings.Repeat("\x00", 16),
		"a long signature":   head(none, "\x08\x00\x00\x00") + "\x08\xff" + strings.Repeat("x", 14),
		"a string beyond it": head(none, "\x10\x00\x00\x00") + "\x03\x01s\x00" + much + "12345678",
		"a string of 2 GiB":  head(none, "\x10\x00\x00\x00") + "\x03\x01s\x00\xff\xff\xff\x7f12345678",
		"a number cut off":   head(none, "\x06\x00\x00\x00") + "\x05\x01u\x00\x01\x02\x00\x00",
	} {
		c := &Conn{n: -1, in: []byte(in)}
		if _, err := c.next(time.Time{}); err == nil || err == unix.ETIMEDOUT {
			t.Errorf("%s: %v", what, err)
		}
	}
	// And arguments that are not what the signature of the call has them be.
	for _, body := range []string{"", "\x00", "\x01\x00\x00\x00", "\xff\xff\xff\xffabc\x00", "\x04\x00\x00\x00ab"} {
		m := Message{order: binary.LittleEndian, body: []byte(body)}
		if s := m.Reader().Str(); s != "" {
			t.Errorf("%q is read as %q", body, s)
		}
	}
	c := &Conn{n: -1, in: []byte(strings.Repeat("nonsense ", 1000))}
	if _, err := c.line(time.Time{}); err == nil || err == unix.ETIMEDOUT {
		t.Errorf("a greeting without an end: %v", err)
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
