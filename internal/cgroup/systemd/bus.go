package systemd

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/sys"
)

// A Bus is a connection to the manager that a container's unit belongs to.
type Bus struct {
	c *bus.Conn
	// version is the manager's, 0 if it didn't say.
	version int
}

const (
	destination = "org.freedesktop.systemd1"
	object      = "/org/freedesktop/systemd1"
	manager     = "org.freedesktop.systemd1.Manager"
)

// A Property is one property of a unit. Value is of a type that bus.Value knows.
type Property bus.Property

func wire(list []Property) []bus.Property {
	out := make([]bus.Property, len(list))
	for i, p := range list {
		out[i] = bus.Property(p)
	}
	return out
}

// Running reports whether systemd is this host's init, as sd_booted(3) does.
func Running() bool {
	_, err := sys.Statx(unix.AT_FDCWD, "/run/systemd/system", unix.STATX_TYPE)
	return err == nil
}

// Connect reaches the system's manager, or the user's own.
func Connect(user bool) (*Bus, error) {
	list, direct := bus.Addresses(user, os.Getenv)
	var first error
	for i, a := range list {
		b, err := dial(a, direct[i])
		if err == nil {
			return b, nil
		}
		if first == nil {
			first = fmt.Errorf("connect to systemd at %s: %w", a, err)
		}
	}
	if first == nil {
		first = errors.New("connect to the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set")
	}
	return nil, first
}

func dial(address string, direct bool) (*Bus, error) {
	var calls []bus.Call
	if !direct {
		calls = append(calls, bus.Call{Destination: "org.freedesktop.DBus", Path: "/org/freedesktop/DBus", Interface: "org.freedesktop.DBus", Member: "AddMatch",
			Body: bus.Strings("s", "type='signal',sender='"+destination+"',interface='"+manager+"',member='JobRemoved'")})
	}
	calls = append(calls, call("Subscribe", nil), bus.Call{Destination: destination, Path: object, Interface: "org.freedesktop.DBus.Properties",
		Member: "Get", Body: bus.Strings("ss", manager, "Version")})
	c, serials, err := bus.Dial(address, direct, calls...)
	if err != nil {
		return nil, err
	}
	b := &Bus{c: c}
	m, err := c.Reply(serials[len(serials)-1])
	if err != nil {
		c.Close()
		return nil, err
	}
	if r := m.Reader(); r.Signature() == "s" {
		b.version = versionOf(r.Str())
	}
	return b, nil
}

// versionOf reads the number of 252.39-1~deb12u1 or v258.
func versionOf(s string) int {
	s = strings.TrimPrefix(s, "v")
	end := 0
	for end < len(s) && s[end] >= '0' && s[end] <= '9' {
		end++
	}
	n, _ := strconv.Atoi(s[:end])
	return n
}

// Close ends the connection.
func (b *Bus) Close() { b.c.Close() }

// call is a call of the manager's.
func call(member string, body *bus.Writer) bus.Call {
	return bus.Call{Destination: destination, Path: object, Interface: manager, Member: member, Body: body}
}

// ask makes a call of the manager and waits for its answer.
func (b *Bus) ask(member string, body *bus.Writer) (bus.Message, error) {
	return b.c.Ask(call(member, body))
}
