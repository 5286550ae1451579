package systemd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// A Bus is a connection to the manager that a container's unit belongs to.
type Bus struct {
	n      int
	serial uint32
	in     []byte // read and not yet looked at
	// waiting are signals that came while a reply was waited for.
	waiting []message
	// version is the manager's, 0 if it didn't say.
	version int
}

// patience is how long a reply may take. Starting a unit takes milliseconds,
// on a host that is busy a second or two.
const patience = 30 * time.Second

const (
	destination = "org.freedesktop.systemd1"
	object      = "/org/freedesktop/systemd1"
	manager     = "org.freedesktop.systemd1.Manager"
)

// addresses gives where a manager may be reached, and whether there is a bus
// between or the manager itself answers.
func addresses(user bool, getenv func(string) string) (list []string, direct []bool) {
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

// Connect reaches the system's manager, or the user's own.
func Connect(user bool) (*Bus, error) {
	list, direct := addresses(user, os.Getenv)
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
	n, err := sys.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	b := &Bus{n: n}
	if err := b.begin(address, direct); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// begin sends all that is known before in one go: who we are (the other side
// sees that for itself, whatever number we have in our user namespace), and
// the first calls.
func (b *Bus) begin(address string, direct bool) error {
	if err := sys.ConnectUnix(b.n, address); err != nil {
		return err
	}
	out := []byte("\x00AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
	if !direct {
		const bus = "org.freedesktop.DBus"
		out = append(out, b.call(bus, "/org/freedesktop/DBus", bus, "Hello", nil)...)
		out = append(out, b.call(bus, "/org/freedesktop/DBus", bus, "AddMatch",
			args("s", "type='signal',sender='"+destination+"',interface='"+manager+"',member='JobRemoved'"))...)
	}
	out = append(out, b.call(destination, object, manager, "Subscribe", nil)...)
	out = append(out, b.call(destination, object, "org.freedesktop.DBus.Properties", "Get", args("ss", manager, "Version"))...)
	asked := b.serial
	if err := b.send(out); err != nil {
		return err
	}
	deadline := time.Now().Add(patience)
	for {
		line, err := b.line(deadline)
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "OK") {
			break
		}
		if strings.HasPrefix(line, "REJECTED") || strings.HasPrefix(line, "ERROR") {
			return fmt.Errorf("the bus refuses us: %s", line)
		}
	}
	m, err := b.reply(asked, deadline)
	if err != nil {
		return err
	}
	r := &parser{b: m.body, order: m.order}
	if r.signature() == "s" {
		b.version = versionOf(r.str())
	}
	return nil
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
func (b *Bus) Close() { sys.Close(b.n) }

// Error is what the other side says instead of doing what it was asked.
type Error struct{ Name, Text string }

func (e *Error) Error() string {
	if e.Text == "" {
		return e.Name
	}
	return e.Text
}

func (b *Bus) send(out []byte) error {
	for len(out) > 0 {
		n, err := sys.Write(b.n, out)
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
}

// fill reads more.
func (b *Bus) fill(deadline time.Time) error {
	left := time.Until(deadline)
	if left <= 0 {
		return unix.ETIMEDOUT
	}
	n, err := sys.Poll([]unix.PollFd{{Fd: int32(b.n), Events: unix.POLLIN}}, int(left/time.Millisecond)+1)
	if err != nil || n == 0 {
		return err // n is 0: a signal, or time is up, which the next round finds
	}
	more := make([]byte, 16<<10)
	if n, err = sys.Read(b.n, more); err != nil {
		return err
	}
	if n == 0 {
		return errors.New("the connection was closed")
	}
	b.in = append(b.in, more[:n]...)
	return nil
}

func (b *Bus) line(deadline time.Time) (string, error) {
	for {
		if before, after, ok := strings.Cut(string(b.in), "\r\n"); ok {
			b.in = []byte(after)
			return before, nil
		}
		if len(b.in) > 4096 {
			return "", errors.New("what answers there is no bus")
		}
		if err := b.fill(deadline); err != nil {
			return "", err
		}
	}
}

// message is what came in.
type message struct {
	order           binary.ByteOrder
	kind            byte
	reply           uint32
	member, errName string
	body            []byte
}

const (
	methodCall   = 1
	methodReturn = 2
	errorReply   = 3
	signal       = 4
)

// next gives the next message.
func (b *Bus) next(deadline time.Time) (message, error) {
	for {
		if len(b.in) >= 16 {
			var m message
			switch b.in[0] {
			case 'l':
				m.order = binary.LittleEndian
			case 'B':
				m.order = binary.BigEndian
			default:
				return m, errors.New("what answers there is no bus")
			}
			body, fields := m.order.Uint32(b.in[4:]), m.order.Uint32(b.in[12:])
			if body > 1<<26 || fields > 1<<26 {
				return m, errors.New("a message is too long")
			}
			head := 16 + (int(fields)+7)&^7
			if len(b.in) >= head+int(body) {
				m.kind = b.in[1]
				r := &parser{b: b.in[:16+int(fields)], at: 16, order: m.order}
				for r.at < len(r.b) && !r.bad {
					r.align(8)
					code := r.byte()
					switch sig := r.signature(); {
					case sig == "s" || sig == "o":
						s := r.str()
						switch code {
						case 3:
							m.member = s
						case 4:
							m.errName = s
						}
					case sig == "g":
						r.signature()
					case sig == "u":
						n := r.uint32()
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
				m.body = append([]byte(nil), b.in[head:head+int(body)]...)
				b.in = b.in[head+int(body):]
				return m, nil
			}
		}
		if err := b.fill(deadline); err != nil {
			return message{}, err
		}
	}
}

// reply waits for the answer to a call.
func (b *Bus) reply(serial uint32, deadline time.Time) (message, error) {
	for {
		m, err := b.next(deadline)
		if err != nil {
			return m, err
		}
		switch {
		case m.kind == signal:
			b.waiting = append(b.waiting, m)
		case m.reply == serial && m.kind == errorReply:
			r := &parser{b: m.body, order: m.order}
			e := &Error{Name: m.errName}
			if len(m.body) > 0 {
				e.Text = r.str()
			}
			return m, e
		case m.reply == serial && m.kind == methodReturn:
			return m, nil
		}
	}
}

// ask makes a call of the manager and waits for its answer.
func (b *Bus) ask(member string, body *builder) (message, error) {
	out := b.call(destination, object, manager, member, body)
	serial := b.serial
	if err := b.send(out); err != nil {
		return message{}, err
	}
	return b.reply(serial, time.Now().Add(patience))
}

// job waits until the job is done that an answer names.
func (b *Bus) job(m message) error {
	r := &parser{b: m.body, order: m.order}
	job := r.str()
	deadline := time.Now().Add(patience)
	for {
		var s message
		if len(b.waiting) > 0 {
			s, b.waiting = b.waiting[0], b.waiting[1:]
		} else {
			var err error
			if s, err = b.next(deadline); err != nil {
				return err
			}
		}
		if s.kind != signal || s.member != "JobRemoved" {
			continue
		}
		r := &parser{b: s.body, order: s.order} // id, job, unit, result
		r.uint32()
		if r.str() != job {
			continue
		}
		r.str()
		if result := r.str(); result != "done" {
			return fmt.Errorf("the job ended with %q", result)
		}
		return nil
	}
}

// call gives the bytes of a call.
func (b *Bus) call(dest, path, iface, member string, body *builder) []byte {
	b.serial++
	if body == nil {
		body = &builder{}
	}
	var h builder
	h.b = append(h.b, 'l', methodCall, 0, 1)
	h.uint32(uint32(len(body.b)))
	h.uint32(b.serial)
	h.array(8, func() {
		field := func(code byte, sig, s string) {
			h.align(8)
			h.b = append(h.b, code)
			h.signature(sig)
			if sig == "g" {
				h.signature(s)
			} else {
				h.str(s)
			}
		}
		field(1, "o", path)
		field(2, "s", iface)
		field(3, "s", member)
		field(6, "s", dest)
		if body.sig != "" {
			field(8, "g", body.sig)
		}
	})
	h.align(8)
	return append(h.b, body.b...)
}

// builder writes values as the wire has them, aligned from its beginning.
type builder struct {
	b   []byte
	sig string
}

// args writes strings as the arguments of a call.
func args(sig string, values ...string) *builder {
	w := &builder{sig: sig}
	for _, s := range values {
		w.str(s)
	}
	return w
}

func (w *builder) align(n int) {
	for len(w.b)%n != 0 {
		w.b = append(w.b, 0)
	}
}

func (w *builder) uint32(n uint32) {
	w.align(4)
	w.b = binary.LittleEndian.AppendUint32(w.b, n)
}

func (w *builder) uint64(n uint64) {
	w.align(8)
	w.b = binary.LittleEndian.AppendUint64(w.b, n)
}

func (w *builder) str(s string) {
	w.uint32(uint32(len(s)))
	w.b = append(append(w.b, s...), 0)
}

func (w *builder) signature(s string) {
	w.b = append(append(append(w.b, byte(len(s))), s...), 0)
}

// array writes elements that are aligned to n; the length counts from the
// first one.
func (w *builder) array(n int, elements func()) {
	w.uint32(0)
	at := len(w.b) - 4
	w.align(n)
	start := len(w.b)
	elements()
	binary.LittleEndian.PutUint32(w.b[at:], uint32(len(w.b)-start))
}

// properties writes an a(sv).
func (w *builder) properties(list []Property) {
	w.array(8, func() {
		for _, p := range list {
			w.align(8)
			w.str(p.Name)
			w.variant(p.Value)
		}
	})
}

func (w *builder) variant(v any) {
	switch v := v.(type) {
	case string:
		w.signature("s")
		w.str(v)
	case bool:
		w.signature("b")
		n := uint32(0)
		if v {
			n = 1
		}
		w.uint32(n)
	case uint64:
		w.signature("t")
		w.uint64(v)
	case []uint32:
		w.signature("au")
		w.array(4, func() {
			for _, n := range v {
				w.uint32(n)
			}
		})
	case []byte:
		w.signature("ay")
		w.array(1, func() { w.b = append(w.b, v...) })
	case []string:
		w.signature("as")
		w.array(4, func() {
			for _, s := range v {
				w.str(s)
			}
		})
	case [][2]string:
		w.signature("a(ss)")
		w.array(8, func() {
			for _, p := range v {
				w.align(8)
				w.str(p[0])
				w.str(p[1])
			}
		})
	default:
		panic(fmt.Sprintf("systemd: a property of type %T", v)) // a mistake in this package
	}
}

// parser reads values. After a mistake of the sender bad is set and all values
// are zero.
type parser struct {
	b     []byte
	at    int
	order binary.ByteOrder
	bad   bool
}

func (r *parser) take(n int) []byte {
	if r.bad || n < 0 || r.at > len(r.b) || n > len(r.b)-r.at {
		r.bad = true
		return make([]byte, min(max(n, 0), 8))
	}
	b := r.b[r.at : r.at+n]
	r.at += n
	return b
}

func (r *parser) align(n int) { r.at += (n - r.at%n) % n }

func (r *parser) byte() byte { return r.take(1)[0] }

func (r *parser) uint32() uint32 {
	r.align(4)
	return r.order.Uint32(r.take(4))
}

func (r *parser) str() string {
	n := int(r.uint32())
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

func (r *parser) signature() string {
	n := int(r.byte())
	s := string(r.take(n))
	r.take(1)
	if r.bad {
		return ""
	}
	return s
}
