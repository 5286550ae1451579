// Package machine makes a machine known to the host's service manager: as a
// scope unit of systemd, and as a machine of systemd-machined, so that
// systemctl and machinectl show it and can end it.
//
// It guarantees that a scope is complete when Start returns, that the
// registration is about the process that was named and no later one of its
// number (a descriptor is sent where machined takes it). It refuses to know what
// is in the machine and when it starts.
//
//	h, err := machine.Connect(false)
//	cgroup, err := h.Start(machine.Scope{Name: "machine-web.scope", …}, pid)
//	err = h.Register(machine.Machine{Name: "web", …})
//	…
//	err = h.Unregister("web")
//	h.Release()
//
// Room: host.
package machine

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/bus"
	"launch/internal/sys"
)

// Host is a connection to systemd, and to systemd-machined if that is on the
// same bus.
type Host struct {
	c *bus.Conn
	// direct: there is no bus, but systemd itself answers.
	direct bool
	// socket is where systemd-machined speaks Varlink.
	socket string
	scope  string // what Start has made
}

// Scope is a unit that is asked for.
type Scope struct {
	Name       string
	Properties []bus.Property
	// Newer are properties that older versions of systemd don't know, and that
	// can be missed.
	Newer []bus.Property
}

// Machine is what systemd-machined is told.
type Machine struct {
	Name string
	// ID is 32 hex digits.
	ID      string
	Service string
	Class   string
	// Leader is the first process, and Pidfd stands for it; -1: there is none.
	Leader, Pidfd int
	Root          string
	// Interfaces are the numbers of the host's network interfaces that belong
	// to the machine.
	Interfaces []int32
}

const (
	units        = "org.freedesktop.systemd1"
	unitsPath    = "/org/freedesktop/systemd1"
	unitsFace    = units + ".Manager"
	machines     = "org.freedesktop.machine1"
	machinesPath = "/org/freedesktop/machine1"
	machinesFace = machines + ".Manager"
)

func manage(member string, body *bus.Writer) bus.Call {
	return bus.Call{Destination: units, Path: unitsPath, Interface: unitsFace, Member: member, Body: body}
}

// Connect reaches the system's bus, or that of the user, or systemd itself where
// there is none. Then systemd-machined is told by Varlink, and who stops the scope
// ends what is in it, since systemd has no way to ask us.
func Connect(user bool) (*Host, error) {
	whose, named, socket := "system", "DBUS_SYSTEM_BUS_ADDRESS", systemSocket
	if user {
		whose, named, socket = "user", "DBUS_SESSION_BUS_ADDRESS", path.Join(os.Getenv("XDG_RUNTIME_DIR"), userSocket)
	}
	list, direct := bus.Addresses(user, os.Getenv)
	var first error
	for i, a := range list {
		if direct[i] && (!missing(first) || os.Getenv(named) != "") {
			continue // a bus that is there, or that was named, is the one that counts
		}
		// Signals about a job come before its answer, or after it.
		call := manage("Subscribe", nil)
		if !direct[i] {
			call = bus.Call{Destination: "org.freedesktop.DBus", Path: "/org/freedesktop/DBus", Interface: "org.freedesktop.DBus", Member: "AddMatch",
				Body: bus.Strings("s", "type='signal',sender='"+units+"',interface='"+unitsFace+"',member='JobRemoved'")}
		}
		c, _, err := bus.Dial(a, direct[i], call)
		if err == nil && user {
			// The variables may be left from somebody else's session.
			if err = ours(c); err != nil {
				c.Close()
			}
		}
		if err == nil {
			return &Host{c: c, direct: direct[i], socket: socket}, nil
		}
		if first == nil || !missing(err) {
			first = fmt.Errorf("connect to the %s's bus at %s: %w", whose, a, err)
		}
	}
	switch {
	case first != nil:
	case os.Getenv(named) != "":
		first = fmt.Errorf("connect to the %s's bus: $%s names no socket", whose, named)
	default:
		first = errors.New("connect to the user's bus: neither $DBUS_SESSION_BUS_ADDRESS nor $XDG_RUNTIME_DIR says where it is")
	}
	return nil, first
}

// ours fails if who answers is another user's.
func ours(c *bus.Conn) error {
	peer, err := sys.PeerUser(c.FD())
	if own := unix.Geteuid(); err == nil && int(peer) != own {
		return fmt.Errorf("it is user %d's, and this is user %d", peer, own)
	}
	return err
}

// Close ends the connection.
func (h *Host) Close() { h.c.Close() }

// FD can be read from when the host has something to say; see Stop.
func (h *Host) FD() int { return h.c.FD() }

// Stop reports whether systemd was asked to end the scope, and leaves it to
// us. An error is the connection's end.
func (h *Host) Stop() (bool, error) {
	list, err := h.c.Signals()
	for _, m := range list {
		if m.Member == "RequestStop" {
			return true, err
		}
	}
	return false, err
}

// missing reports whether there is nobody to be told anything: no bus, or no
// such service on it.
func missing(err error) bool {
	var e *bus.Error
	if errors.As(err, &e) {
		switch e.Name {
		case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner",
			"org.freedesktop.DBus.Error.Spawn.ServiceNotFound", "org.freedesktop.systemd1.NoSuchUnit", "org.freedesktop.systemd1.UnitMasked":
			return true
		}
		return false
	}
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED)
}

func is(err error, name string) bool {
	var e *bus.Error
	return errors.As(err, &e) && e.Name == name
}

// patience is how long a scope of the same name may take to go.
const patience = 5 * time.Second

// Start makes the scope with the process in it, and gives its cgroup. Whoever
// wants to end the scope asks us, and not the processes in it: see Stop. The
// scope ends with its last process, and is remembered until Release.
func (h *Host) Start(s Scope, pid int) (cgroup string, err error) {
	props := []bus.Property{{Name: "PIDs", Value: []uint32{uint32(pid)}}, {Name: "AddRef", Value: true}}
	if !h.direct {
		props = append(props, bus.Property{Name: "Controller", Value: h.c.Name})
	} else {
		props = props[:1] // systemd counts references by the names of a bus
	}
	props = append(props, s.Properties...)
	fail := func(err error) (string, error) { return "", fmt.Errorf("start unit %s: %w", s.Name, err) }
	deadline := time.Now().Add(patience)
	for newer := s.Newer; ; {
		body := &bus.Writer{Sig: "ssa(sv)a(sa(sv))"}
		body.Str(s.Name)
		body.Str("fail")
		body.Properties(append(props[:len(props):len(props)], newer...))
		body.Array(8, func() {})
		m, err := h.c.Ask(manage("StartTransientUnit", body))
		if newer != nil && is(err, "org.freedesktop.DBus.Error.PropertyReadOnly") {
			newer = nil // so says who doesn't know one of them
			continue
		}
		if is(err, "org.freedesktop.systemd1.UnitExists") && time.Now().Before(deadline) {
			// An earlier one, perhaps of this machine before it rebooted, is about
			// to go, or has failed and would stay.
			_, _ = h.c.Ask(manage("ResetFailedUnit", bus.Strings("s", s.Name)))
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if err == nil {
			err = h.c.Job(m)
		}
		if err != nil {
			return fail(err)
		}
		break
	}
	h.scope = s.Name
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/cgroup", 1<<16)
	if err != nil {
		return fail(err)
	}
	for line := range strings.Lines(string(text)) {
		if at, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return at, nil
		}
	}
	return fail(errors.New("its process is in no cgroup"))
}

// Release lets systemd forget the scope, whose processes are gone, so that
// another one can have its name.
func (h *Host) Release() {
	if h.scope != "" && !h.direct {
		// Else it does so when the connection ends.
		_, _ = h.c.Ask(manage("UnrefUnit", bus.Strings("s", h.scope)))
	}
	h.scope = ""
}

// Clear makes systemd-machined forget a machine of that name whose first process
// is gone, as a launcher leaves it that was killed. Else it would do so by itself
// in a while, and end the scope of that name, which may be the next machine's by
// then.
func (h *Host) Clear(name string) error {
	leader, err := h.leader(name)
	if err == nil && !lives(leader) {
		err = h.Unregister(name)
	}
	if is(err, machines+".NoSuchMachine") || is(err, varlinkFace+".NoSuchMachine") || is(err, "org.freedesktop.DBus.Error.UnknownObject") {
		return nil
	}
	return err
}

// leader gives the first process of a machine.
func (h *Host) leader(name string) (int, error) {
	if h.direct {
		return h.leaderVarlink(name)
	}
	m, err := h.c.Ask(ask("GetMachine", bus.Strings("s", name)))
	if err != nil {
		return 0, err
	}
	m, err = h.c.Ask(bus.Call{Destination: machines, Path: m.Reader().Str(), Interface: "org.freedesktop.DBus.Properties", Member: "Get",
		Body: bus.Strings("ss", machines+".Machine", "Leader")})
	if err != nil {
		return 0, err
	}
	r := m.Reader()
	if r.Signature() != "u" {
		return 0, errNonsense
	}
	pid := int(r.Uint32())
	if pid <= 0 {
		// No process has that number, so it would be taken for one that is gone.
		return 0, errNonsense
	}
	return pid, nil
}

// lives tells whether there is a process of that number that has not ended.
func lives(pid int) bool {
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/stat", 4096)
	if err != nil {
		return err != unix.ENOENT && err != unix.ESRCH
	}
	at := strings.LastIndex(string(text), ") ")
	return at < 0 || !strings.HasPrefix(string(text[at:]), ") Z") && !strings.HasPrefix(string(text[at:]), ") X")
}

// From tells whether a process is systemd-machined, the system's or a user's.
func From(pid int) bool {
	text, err := sys.ReadFile(unix.AT_FDCWD, "/proc/"+strconv.Itoa(pid)+"/cgroup", 1<<16)
	return err == nil && strings.Contains(string(text), "/systemd-machined.service\n")
}

// Register tells systemd-machined about the machine.
func (h *Host) Register(m Machine) error { return told("register", m.Name, h.register(m)) }

func (h *Host) register(m Machine) error {
	id, err := hex.DecodeString(m.ID)
	if err != nil || len(id) != 16 {
		return fmt.Errorf("%q is no machine id", m.ID)
	}
	if h.direct {
		return h.registerVarlink(m)
	}
	if m.Pidfd >= 0 {
		body := &bus.Writer{Sig: "sa(sv)"}
		body.Str(m.Name)
		props := []bus.Property{
			{Name: "Id", Value: id}, {Name: "Service", Value: m.Service}, {Name: "Class", Value: m.Class},
			{Name: "LeaderPIDFD", Value: bus.FD(m.Pidfd)}, {Name: "RootDirectory", Value: m.Root},
		}
		if len(m.Interfaces) > 0 {
			props = append(props, bus.Property{Name: "NetworkInterfaces", Value: m.Interfaces})
		}
		body.Properties(props)
		_, err := h.c.Ask(ask("RegisterMachineEx", body))
		// Before 259 there is no such call, and the number has to do: the process
		// is our child, so nobody else has it.
		if !is(err, "org.freedesktop.DBus.Error.UnknownMethod") {
			return err
		}
	}
	body := &bus.Writer{Sig: "sayssusai"}
	body.Str(m.Name)
	body.Value(id)
	body.Str(m.Service)
	body.Str(m.Class)
	body.Uint32(uint32(m.Leader))
	body.Str(m.Root)
	body.Value(m.Interfaces)
	_, err = h.c.Ask(ask("RegisterMachineWithNetwork", body))
	return err
}

// Unregister makes systemd-machined forget the machine, whose first process is
// gone. One that is forgotten already is no error.
func (h *Host) Unregister(name string) error {
	if h.direct {
		return told("unregister", name, h.unregisterVarlink(name))
	}
	_, err := h.c.Ask(ask("UnregisterMachine", bus.Strings("s", name)))
	if is(err, machines+".NoSuchMachine") {
		return nil
	}
	return told("unregister", name, err)
}

func ask(member string, body *bus.Writer) bus.Call {
	return bus.Call{Destination: machines, Path: machinesPath, Interface: machinesFace, Member: member, Body: body}
}

func told(what, name string, err error) error {
	if err != nil {
		return fmt.Errorf("%s machine %s: %w", what, name, err)
	}
	return nil
}
