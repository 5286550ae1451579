// Package bus speaks D-Bus as far as a launcher needs it: it connects to a bus,
// or to systemd itself where there is none, makes calls, and reads answers and
// signals.
//
// All that is known beforehand (who we are, the first calls) is sent in one go,
// and nothing is done before it is asked for, since a library that does more
// costs a start half a millisecond; tests hold it against that library. It
// guarantees that whatever comes in, reading it ends, and that no answer is
// waited for longer than half a minute. It refuses to know what the calls mean.
//
//	c, serials, err := bus.Dial("/run/dbus/system_bus_socket", false, bus.Call{…})
//	m, err := c.Reply(serials[0])
//	name := m.Reader().Str()
//
// Room: host.
package bus

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// A Conn is a connection to a bus.
type Conn struct {
	// Name is the one that the bus gave us, ":1.42"; "" without a bus between.
	Name string

	n      int
	serial uint32
	in     []byte // read and not yet looked at
	// waiting are signals that came while a reply was waited for.
	waiting []Message
	// fds: descriptors may be sent.
	fds bool
}

// Patience is how long a reply may take. Starting a unit takes milliseconds,
// on a host that is busy a second or two.
const Patience = 30 * time.Second

// A Call is a call of a method.
type Call struct {
	Destination, Path, Interface, Member string
	// Body are the arguments; nil means none.
	Body *Writer
}

// Addresses gives where systemd's manager may be reached, and whether there is
// a bus between or the manager itself answers.
func Addresses(user bool, getenv func(string) string) (list []string, direct []bool) {
	add := func(a string, d bool) { list, direct = append(list, a), append(direct, d) }
	run := getenv("XDG_RUNTIME_DIR")
	env, file, private := "DBUS_SYSTEM_BUS_ADDRESS", "/run/dbus/system_bus_socket", "/run/systemd/private"
	if user {
		env, file, private = "DBUS_SESSION_BUS_ADDRESS", path.Join(run, "bus"), path.Join(run, "systemd/private")
	}
	for a := range strings.SplitSeq(getenv(env), ";") {
		if kind, rest, _ := strings.Cut(a, ":"); kind == "unix" {
			for kv := range strings.SplitSeq(rest, ",") {
				switch k, v, _ := strings.Cut(kv, "="); k {
				case "path":
					add(unescape(v), false)
				case "abstract":
					add("@"+unescape(v), false)
				}
			}
		}
	}
	if list == nil && (!user || run != "") {
		add(file, false)
	}
	if !user || run != "" {
		add(private, true)
	}
	return list, direct
}

// unescape undoes the %XX of an address.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Dial connects to a bus; direct says that the other side is no bus, but the
// one who is asked. The first calls are sent with the greeting; their serials
// are for Reply.
func Dial(address string, direct bool, first ...Call) (*Conn, []uint32, error) {
	return dial(Patience, address, direct, first)
}

// dial is Dial with another patience.
func dial(patience time.Duration, address string, direct bool, first []Call) (*Conn, []uint32, error) {
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	c := &Conn{n: n}
	// Who doesn't take connections any more has others wait in line, and then at its
	// end; and a write waits for who doesn't read.
	if err = sys.SendTimeout(n, patience); err != nil {
		c.Close()
		return nil, nil, err
	}
	serials, err := c.begin(address, direct, first, patience)
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return c, serials, nil
}

// begin says who we are (the other side sees that for itself, whatever number
// we have in our user namespace), and asks.
func (c *Conn) begin(address string, direct bool, first []Call, patience time.Duration) ([]uint32, error) {
	if err := sys.ConnectUnix(c.n, address); err != nil {
		return nil, late(err)
	}
	out := []byte("\x00AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n")
	hello := uint32(0)
	if !direct {
		out = append(out, c.bytes(Call{"org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", nil})...)
		hello = c.serial
	}
	var serials []uint32
	for _, f := range first {
		out = append(out, c.bytes(f)...)
		serials = append(serials, c.serial)
	}
	if err := c.send(out, nil); err != nil {
		return nil, err
	}
	deadline := time.Now().Add(patience)
	for known := false; ; {
		line, err := c.line(deadline)
		if err != nil {
			return nil, err
		}
		word, _, _ := strings.Cut(line, " ")
		switch {
		case word == "OK":
			known = true
			continue
		case known: // the answer about descriptors
			c.fds = word == "AGREE_UNIX_FD"
		case word == "REJECTED" || word == "ERROR":
			return nil, fmt.Errorf("the bus refuses us: %s", line)
		default:
			continue
		}
		break
	}
	if !direct {
		m, err := c.reply(hello, deadline)
		if err != nil {
			return nil, err
		}
		c.Name = m.Reader().Str()
	}
	return serials, nil
}

// Close ends the connection.
func (c *Conn) Close() { sys.Close(c.n) }

// Error is what the other side says instead of doing what it was asked.
type Error struct{ Name, Text string }

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Name
	}
	return e.Text
}

// late gives the kernel's word for a send timeout that is over its usual name.
func late(err error) error {
	if err == unix.EAGAIN {
		return unix.ETIMEDOUT
	}
	return err
}

// send writes; descriptors go with the first byte.
func (c *Conn) send(out []byte, fds []int) error {
	if len(fds) > 0 {
		if err := sys.SendRights(c.n, out[:1], fds...); err != nil {
			return err
		}
		out = out[1:]
	}
	for len(out) > 0 {
		n, err := sys.Write(c.n, out)
		if err != nil {
			return late(err)
		}
		out = out[n:]
	}
	return nil
}

// FD is what wakes who waits for a signal; it is the connection's.
func (c *Conn) FD() int { return c.n }

// fill reads more.
func (c *Conn) fill(deadline time.Time) error {
	left := time.Until(deadline)
	if left <= 0 {
		return unix.ETIMEDOUT
	}
	n, err := sys.Poll([]unix.PollFd{{Fd: int32(c.n), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
	if err != nil || n == 0 {
		return err // n is 0: a signal, or time is up, which the next round finds
	}
	more := make([]byte, 16<<10)
	if n, err = sys.Read(c.n, more); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("the connection was closed")
	}
	c.in = append(c.in, more[:n]...)
	return nil
}

func (c *Conn) line(deadline time.Time) (string, error) {
	for {
		if before, after, ok := strings.Cut(string(c.in), "\r\n"); ok {
			c.in = []byte(after)
			return before, nil
		}
		if len(c.in) > 4096 {
			return "", errors.New("what answers there is no bus")
		}
		if err := c.fill(deadline); err != nil {
			return "", err
		}
	}
}

// Message is what came in.
type Message struct {
	// Member is a signal's name.
	Member string

	order   binary.ByteOrder
	kind    byte
	reply   uint32
	errName string
	body    []byte
}

// Reader gives the arguments.
func (m Message) Reader() *Reader { return &Reader{b: m.body, order: m.order} }

const (
	methodCall   = 1
	methodReturn = 2
	errorReply   = 3
	signal       = 4
)

// next gives the next message.
func (c *Conn) next(deadline time.Time) (Message, error) {
	for {
		if len(c.in) >= 16 {
			var m Message
			switch c.in[0] {
			case 'l':
				m.order = binary.LittleEndian
			case 'B':
				m.order = binary.BigEndian
			default:
				return m, errors.New("what answers there is no bus")
			}
			body, fields := m.order.Uint32(c.in[4:]), m.order.Uint32(c.in[12:])
			if body > 1<<26 || fields > 1<<26 {
				return m, errors.New("a message is too long")
			}
			head := 16 + (int(fields)+7)&^7
			if len(c.in) >= head+int(body) {
				m.kind = c.in[1]
				r := &Reader{b: c.in[:16+int(fields)], at: 16, order: m.order}
				for r.at < len(r.b) && !r.bad {
					r.align(8)
					code := r.byte()
					switch sig := r.Signature(); {
					case sig == "s" || sig == "o":
						s := r.Str()
						switch code {
						case 3:
							m.Member = s
						case 4:
							m.errName = s
						}
					case sig == "g":
						r.Signature()
					case sig == "u":
						n := r.Uint32()
						if code == 5 {
							m.reply = n
						}
					default:
						r.bad = true
					}
				}
				if r.bad {
					return m, errors.New("a message can't be read")
				}
				m.body = append([]byte(nil), c.in[head:head+int(body)]...)
				c.in = c.in[head+int(body):]
				return m, nil
			}
		}
		if err := c.fill(deadline); err != nil {
			return Message{}, err
		}
	}
}

// reply waits for the answer to a call.
func (c *Conn) reply(serial uint32, deadline time.Time) (Message, error) {
	for {
		m, err := c.next(deadline)
		if err != nil {
			return m, err
		}
		switch {
		case m.kind == signal:
			c.waiting = append(c.waiting, m)
		case m.reply == serial && m.kind == errorReply:
			e := &Error{Name: m.errName}
			if len(m.body) > 0 {
				e.Text = m.Reader().Str()
			}
			return m, e
		case m.reply == serial && m.kind == methodReturn:
			return m, nil
		}
	}
}

// Reply waits for the answer to one of the first calls.
func (c *Conn) Reply(serial uint32) (Message, error) {
	return c.reply(serial, time.Now().Add(Patience))
}

// Ask makes a call and waits for its answer.
func (c *Conn) Ask(call Call) (Message, error) {
	var fds []int
	if call.Body != nil {
		fds = call.Body.fds
	}
	if len(fds) > 0 && !c.fds {
		return Message{}, errors.New("the bus takes no descriptors")
	}
	out := c.bytes(call)
	serial := c.serial
	if err := c.send(out, fds); err != nil {
		return Message{}, err
	}
	return c.Reply(serial)
}

// Signal gives the next signal, as soon as there is one.
func (c *Conn) Signal(deadline time.Time) (Message, error) {
	if len(c.waiting) > 0 {
		m := c.waiting[0]
		c.waiting = c.waiting[1:]
		return m, nil
	}
	for {
		m, err := c.next(deadline)
		if err != nil || m.kind == signal {
			return m, err
		}
	}
}

// Signals gives the signals that are there already, without waiting. An error
// is the connection's end.
func (c *Conn) Signals() (list []Message, err error) {
	for {
		m, err := c.Signal(time.Now().Add(time.Millisecond))
		if err == unix.ETIMEDOUT {
			return list, nil
		}
		if err != nil {
			return list, err
		}
		list = append(list, m)
	}
}

// Job waits until the job of systemd's is done that an answer names. Signals
// about other jobs are dropped, all others kept.
func (c *Conn) Job(m Message) error {
	job := m.Reader().Str()
	deadline := time.Now().Add(Patience)
	var kept []Message
	defer func() { c.waiting = append(kept, c.waiting...) }()
	for {
		s, err := c.Signal(deadline)
		if err != nil {
			return err
		}
		if s.Member != "JobRemoved" {
			kept = append(kept, s)
			continue
		}
		r := s.Reader() // id, job, unit, result
		r.Uint32()
		if r.Str() != job {
			continue
		}
		r.Str()
		if result := r.Str(); result != "done" {
			return fmt.Errorf("the job ended with %q", result)
		}
		return nil
	}
}

// bytes gives a call as it is sent.
func (c *Conn) bytes(call Call) []byte {
	c.serial++
	body := call.Body
	if body == nil {
		body = &Writer{}
	}
	var h Writer
	h.b = append(h.b, 'l', methodCall, 0, 1)
	h.Uint32(uint32(len(body.b)))
	h.Uint32(c.serial)
	h.Array(8, func() {
		field := func(code byte, sig, s string) {
			h.align(8)
			h.b = append(h.b, code)
			h.signature(sig)
			if sig == "g" {
				h.signature(s)
			} else {
				h.Str(s)
			}
		}
		field(1, "o", call.Path)
		field(2, "s", call.Interface)
		field(3, "s", call.Member)
		field(6, "s", call.Destination)
		if body.Sig != "" {
			field(8, "g", body.Sig)
		}
		if len(body.fds) > 0 {
			h.align(8)
			h.b = append(h.b, 9)
			h.signature("u")
			h.Uint32(uint32(len(body.fds)))
		}
	})
	h.align(8)
	return append(h.b, body.b...)
}

// Writer writes values as the wire has them, aligned from its beginning.
type Writer struct {
	// Sig is the signature of all that is written.
	Sig string

	b   []byte
	fds []int
}

// Strings gives arguments that are all strings, or paths.
func Strings(sig string, values ...string) *Writer {
	w := &Writer{Sig: sig}
	for _, s := range values {
		w.Str(s)
	}
	return w
}

func (w *Writer) align(n int) {
	for len(w.b)%n != 0 {
		w.b = append(w.b, 0)
	}
}

// Uint32 writes a u.
func (w *Writer) Uint32(n uint32) {
	w.align(4)
	w.b = binary.LittleEndian.AppendUint32(w.b, n)
}

// Uint64 writes a t.
func (w *Writer) Uint64(n uint64) {
	w.align(8)
	w.b = binary.LittleEndian.AppendUint64(w.b, n)
}

// Str writes an s or an o.
func (w *Writer) Str(s string) {
	w.Uint32(uint32(len(s)))
	w.b = append(append(w.b, s...), 0)
}

func (w *Writer) signature(s string) {
	w.b = append(append(append(w.b, byte(len(s))), s...), 0)
}

// Array writes elements that are aligned to n; the length counts from the
// first one.
func (w *Writer) Array(n int, elements func()) {
	w.Uint32(0)
	at := len(w.b) - 4
	w.align(n)
	start := len(w.b)
	elements()
	binary.LittleEndian.PutUint32(w.b[at:], uint32(len(w.b)-start))
}

// A Property is a name with a value, as (sv) has it. See Value for its types.
type Property struct {
	Name  string
	Value any
}

// Properties writes an a(sv).
func (w *Writer) Properties(list []Property) {
	w.Array(8, func() {
		for _, p := range list {
			w.align(8)
			w.Str(p.Name)
			w.signature(signature(p.Value))
			w.Value(p.Value)
		}
	})
}

// FD is a descriptor that is sent along.
type FD int

// Value writes a string, bool, number, list of those, pairs of strings, or a
// list of structures of the same kind ([][]any, not empty).
func (w *Writer) Value(v any) {
	switch v := v.(type) {
	case string:
		w.Str(v)
	case bool:
		n := uint32(0)
		if v {
			n = 1
		}
		w.Uint32(n)
	case int32:
		w.Uint32(uint32(v))
	case uint32:
		w.Uint32(v)
	case uint64:
		w.Uint64(v)
	case FD:
		w.Uint32(uint32(len(w.fds)))
		w.fds = append(w.fds, int(v))
	case []uint32:
		w.Array(4, func() {
			for _, n := range v {
				w.Uint32(n)
			}
		})
	case []int32:
		w.Array(4, func() {
			for _, n := range v {
				w.Uint32(uint32(n))
			}
		})
	case []byte:
		w.Array(1, func() { w.b = append(w.b, v...) })
	case []string:
		w.Array(4, func() {
			for _, s := range v {
				w.Str(s)
			}
		})
	case [][2]string:
		w.Array(8, func() {
			for _, p := range v {
				w.align(8)
				w.Str(p[0])
				w.Str(p[1])
			}
		})
	case [][]any:
		w.Array(8, func() {
			for _, s := range v {
				w.align(8)
				for _, field := range s {
					w.Value(field)
				}
			}
		})
	default:
		panic(fmt.Sprintf("bus: a value of type %T", v)) // a mistake of the caller
	}
}

func signature(v any) string {
	switch v := v.(type) {
	case string:
		return "s"
	case bool:
		return "b"
	case int32:
		return "i"
	case uint32:
		return "u"
	case uint64:
		return "t"
	case FD:
		return "h"
	case []uint32:
		return "au"
	case []int32:
		return "ai"
	case []byte:
		return "ay"
	case []string:
		return "as"
	case [][2]string:
		return "a(ss)"
	case [][]any:
		s := "a("
		if len(v) > 0 {
			for _, field := range v[0] {
				s += signature(field)
			}
		}
		return s + ")"
	}
	panic(fmt.Sprintf("bus: a value of type %T", v)) // a mistake of the caller
}

// Reader reads values. After a mistake of the sender bad is set and all values
// are zero.
type Reader struct {
	b     []byte
	at    int
	order binary.ByteOrder
	bad   bool
}

func (r *Reader) take(n int) []byte {
	if r.bad || n < 0 || r.at > len(r.b) || n > len(r.b)-r.at {
		r.bad = true
		return make([]byte, min(max(n, 0), 8))
	}
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

func (r *Reader) align(n int) { r.at += (n - r.at%n) % n }

func (r *Reader) byte() byte { return r.take(1)[0] }

// Uint32 reads a u.
func (r *Reader) Uint32() uint32 {
	r.align(4)
	return r.order.Uint32(r.take(4))
}

// Str reads an s or an o.
func (r *Reader) Str() string {
	n := int(r.Uint32())
	if r.bad {
		return ""
	}
	s := string(r.take(n))
	r.take(1)
	if r.bad {
		return ""
	}
	return s
}

// Signature reads the type of a variant.
func (r *Reader) Signature() string {
	n := int(r.byte())
	s := string(r.take(n))
	r.take(1)
	if r.bad {
		return ""
	}
	return s
}
