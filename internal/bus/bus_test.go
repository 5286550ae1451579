package bus

import (
	"encoding/binary"
	"errors"
	"path/filepath"
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

// TestFullQueue: who doesn't take connections any more is given up, also when there
// is no room to wait in, and so is who takes them and doesn't answer.
func TestFullQueue(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bus")
	n, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		defer unix.Close(n)
		err = unix.Bind(n, &unix.SockaddrUnix{Name: path})
	}
	if err == nil {
		err = unix.Listen(n, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	const patience = 200 * time.Millisecond
	for _, what := range []string{"the first waits in the queue", "the next finds it full"} {
		began := time.Now()
		done := make(chan error, 1)
		go func() {
			_, _, err := dial(patience, path, true, nil)
			done <- err
		}()
		select {
		case err := <-done:
			if took := time.Since(began); took < patience || err == nil || !errors.Is(err, unix.ETIMEDOUT) {
				t.Errorf("%s: %v after %v", what, err, took)
			}
		case <-time.After(20 * patience):
			t.Fatalf("%s: it waits still", what)
		}
		// The one that was given up stays in the queue, which has room for it alone.
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
