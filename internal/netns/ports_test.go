package netns

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"launch/internal/sys"
)

// within runs f in a network namespace of its own, where nft(8) and ip(8) can be
// run.
func within(t *testing.T, f func(l sys.Locked, run func(args ...string) string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces of the network take root")
	}
	for _, p := range []string{"ip", "nft"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skip(p + "(8) is not there")
		}
	}
	done := make(chan bool)
	go func() {
		defer close(done)
		// The thread is not used again.
		l := sys.Lock()
		if err := sys.Unshare(l, unix.CLONE_NEWNET); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		f(l, func(args ...string) string {
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil {
				t.Errorf("%v: %v: %s", args, err, out)
			}
			return string(out)
		})
	}()
	<-done
}

// plain gives what nft(8) lists without what differs from version to version, and
// from host to host: how protocols are called, and what comes first.
func plain(ruleset string) string {
	var lines []string
	for line := range strings.Lines(ruleset) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " # progname")
		line = strings.TrimSuffix(strings.TrimSuffix(strings.TrimPrefix(line, "elements = { "), ","), " }")
		line = strings.Replace(line, "priority -99;", "priority dstnat + 1;", 1)
		for number, name := range map[string]string{"6 . ": "tcp . ", "17 . ": "udp . "} {
			if rest, ok := strings.CutPrefix(line, number); ok {
				line = name + rest
			}
		}
		lines = append(lines, line)
	}
	// Tables stay apart, since their order is that of their names.
	for i, from := 0, 0; i < len(lines); i++ {
		if i+1 == len(lines) || strings.HasPrefix(lines[i+1], "table ") {
			slices.Sort(lines[from : i+1])
			from = i + 1
		}
	}
	return strings.Join(lines, "\n")
}

// rules is what nft(8) shows of the tables that are about forwarding.
const rules = `table ip launch-tcp/8080 {
	comment "web"
	flags owner
}
table ip launch-udp/53 {
	comment "web"
	flags owner
}
table ip launch/web {
	comment "web"
	flags owner

	map ports {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 8080 : 192.0.2.7 . 80,
			     udp . 53 : 192.0.2.7 . 5353 }
	}

	chain prerouting {
		type nat hook prerouting priority dstnat + 1; policy accept;
		fib daddr type local dnat ip to meta l4proto . th dport map @ports
	}

	chain output {
		type nat hook output priority dstnat + 1; policy accept;
		ip daddr != 127.0.0.0/8 oif "lo" dnat ip to meta l4proto . th dport map @ports
	}
}
table ip6 launch/web {
	comment "web"
	flags owner

	map ports {
		type inet_proto . inet_service : ipv6_addr . inet_service
		elements = { tcp . 8080 : 2001:db8::7 . 80,
			     udp . 53 : 2001:db8::7 . 5353 }
	}

	chain prerouting {
		type nat hook prerouting priority dstnat + 1; policy accept;
		fib daddr type local dnat ip6 to meta l4proto . th dport map @ports
	}

	chain output {
		type nat hook output priority dstnat + 1; policy accept;
		ip6 daddr != ::1 oif "lo" dnat ip6 to meta l4proto . th dport map @ports
	}
}
`

var (
	web  = []Port{{"tcp", 8080, 80}, {"udp", 53, 5353}}
	four = string([]byte{192, 0, 2, 7})
	six  = "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x07"
)

// TestForward: the rules are those that were meant, as nft(8) reads them.
func TestForward(t *testing.T) {
	within(t, func(_ sys.Locked, run func(...string) string) {
		run("nft", "add table ip other; add chain ip other c { type nat hook prerouting priority 0; }")
		before := run("nft", "list", "ruleset")
		ruleset := func() string {
			return plain(strings.Replace(run("nft", "list", "ruleset"), before, "", 1))
		}
		p, err := Forward("web", web)
		if err != nil {
			t.Error(err)
			return
		}
		if got := ruleset(); strings.Contains(got, "elements") || strings.Count(got, "table ") != 4 {
			t.Errorf("nobody said where ports lead:\n%s", got)
		}
		if err := p.To(four, six); err != nil {
			t.Error(err)
		}
		if got := ruleset(); got != plain(rules) {
			t.Errorf("got\n%s\nwant\n%s", got, plain(rules))
		}
		if err := p.To(four[:3]+"\x08", six); err != nil {
			t.Error(err)
		}
		if got := ruleset(); got != strings.ReplaceAll(plain(rules), "192.0.2.7", "192.0.2.8") {
			t.Errorf("to another address:\n%s", got)
		}
		if err := p.To("", six); err != nil {
			t.Error(err)
		}
		if got := ruleset(); strings.Contains(got, "192.0.2") || !strings.Contains(got, "2001:db8") {
			t.Errorf("without IPv4:\n%s", got)
		}

		// Who comes second hears who has it, and leaves nothing.
		kept := ruleset()
		_, err = Forward("db", []Port{{"tcp", 53, 53}, {"udp", 53, 80}})
		var taken *TakenError
		if !errors.As(err, &taken) || taken.By != "web" || taken.Port.Protocol != "udp" || taken.Port.Host != 53 || taken.Peer {
			t.Errorf("a port that is taken: %v", err)
		}
		if got := ruleset(); got != kept {
			t.Errorf("a failure has left\n%s\nbefore there was\n%s", got, kept)
		}
		other, err := Forward("db", []Port{{"tcp", 53, 53}})
		if err != nil {
			t.Error(err)
		}
		other.Close()
		// A host that loads its rules anew doesn't take ours away.
		run("nft", "flush ruleset")
		if got := ruleset(); got != kept {
			t.Errorf("after a flush:\n%s\nbefore\n%s", got, kept)
		}
		run("nft", "add table ip io.systemd.nat; add map ip io.systemd.nat map_port_ipport { type inet_proto . inet_service : ipv4_addr . inet_service; elements = { tcp . 99 : 192.0.2.1 . 80 }; }")
		if _, err = Forward("db", []Port{{"tcp", 98, 53}, {"tcp", 99, 53}}); !errors.As(err, &taken) || !taken.Peer || taken.Port.Host != 99 {
			t.Errorf("a port that systemd-nspawn has: %v", err)
		}
		run("nft", "delete table ip io.systemd.nat")

		p.Free()
		if got := run("nft", "list", "ruleset"); got != "" {
			t.Errorf("left: %s", got)
		}
		p.Close()
		if p, err = Forward("web", web); err != nil {
			t.Error(err)
			return
		}
		p.Close()
		if got := run("nft", "list", "ruleset"); got != "" {
			t.Errorf("left by the socket: %s", got)
		}

		// More than one message has room for.
		var many []Port
		for i := range 1500 {
			many = append(many, Port{"tcp", uint16(1000 + i), uint16(i + 1)})
		}
		p, err = Forward("many", many)
		if err != nil {
			t.Error(err)
			return
		}
		if err := p.To(four, six); err != nil {
			t.Error(err)
		}
		if got := run("nft", "list", "ruleset"); strings.Count(got, " : 192.0.2.7 . ") != 1500 || strings.Count(got, " : 2001:db8::7 . ") != 1500 {
			t.Errorf("of 1500 ports there are %d", strings.Count(got, "192.0.2.7"))
		}
		if _, err = Forward("more", many); !errors.As(err, &taken) || taken.By != "many" || taken.Port.Host != 1000 {
			t.Errorf("all of them are taken: %v", err)
		}
		if err := p.To("", ""); err != nil {
			t.Error(err)
		}
		p.Free()
		p.Close()
	})
}

// TestWatch: what is told are addresses that others can send to.
func TestWatch(t *testing.T) {
	within(t, func(_ sys.Locked, run func(...string) string) {
		w, err := WatchAddresses()
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		heard := func(ms int) bool {
			fds := []unix.PollFd{{Fd: int32(w.FD()), Events: unix.POLLIN}}
			n, _ := sys.Poll(fds, ms)
			return n == 1
		}
		if heard(0) {
			t.Error("nothing has changed")
		}
		run("ip", "link", "add", "two", "type", "veth", "peer", "name", "one")
		run("ip", "link", "set", "lo", "up")
		for _, c := range []struct{ do, four, six string }{
			{"", "", ""},
			{"addr add 127.0.0.9/8 dev one scope global", "", ""},
			{"addr add 224.0.0.9/8 dev one", "", ""},
			{"addr add 0.1.2.3/8 dev one", "", ""},
			{"addr add 169.254.1.1/16 dev one scope link", "", ""},
			{"addr add 192.0.2.9/24 dev one", "192.0.2.9", ""},
			{"addr add 10.0.0.1/24 dev two", "192.0.2.9", ""},
			{"addr add 192.0.1.1/24 dev one scope site", "192.0.2.9", ""},
			{"addr add 192.0.2.8/32 peer 192.0.2.7 dev one", "192.0.2.8", ""},
			{"addr add 203.0.113.1/32 dev lo", "203.0.113.1", ""},
			{"addr del 203.0.113.1/32 dev lo", "192.0.2.8", ""},
			{"addr flush dev one", "10.0.0.1", ""},
			{"addr add fe80::5/64 dev one nodad", "10.0.0.1", ""},
			{"addr add 2001:db8::9/64 dev one", "10.0.0.1", ""}, // it is tried first, and one is down
			{"addr add 2001:db8::8/64 dev one nodad", "10.0.0.1", "2001:db8::8"},
			{"addr add 2001:db8::5/64 dev one nodad preferred_lft 0 valid_lft 100", "10.0.0.1", "2001:db8::8"},
			{"addr add ::ffff:1.2.3.4/128 dev lo nodad", "10.0.0.1", "2001:db8::8"},
			{"addr add fd00::1/64 dev one nodad", "10.0.0.1", "2001:db8::8"},
			{"addr add 2001:db8::7/64 dev one nodad", "10.0.0.1", "2001:db8::7"},
			{"addr flush dev two", "", "2001:db8::7"},
			{"link delete one", "", ""},
		} {
			if c.do != "" {
				run(append([]string{"ip"}, strings.Fields(c.do)...)...)
				if !strings.HasPrefix(c.do, "link") && !heard(5000) { // of IPv6 it hears later
					t.Errorf("%s: nothing to be heard", c.do)
				}
			}
			v4, v6, err := w.Addresses()
			if err != nil || written(v4) != c.four || written(v6) != c.six {
				t.Errorf("%s: %s and %q, %v", c.do, written(v4), written(v6), err)
			}
			if c.six == "" && heard(0) && !strings.Contains(c.do, "::") {
				t.Errorf("%s: what was heard isn't over", c.do)
			}
		}
	})
}

// written writes an address as ip(8) does.
func written(a string) string {
	if addr, ok := netip.AddrFromSlice([]byte(a)); ok {
		return addr.String()
	}
	return ""
}

// TestWatchSpoofed: who rules the namespace can send to the launcher's sockets,
// and is neither believed nor waited for.
func TestWatchSpoofed(t *testing.T) {
	within(t, func(_ sys.Locked, run func(...string) string) {
		w, err := WatchAddresses()
		if err != nil {
			t.Error(err)
			return
		}
		defer w.Close()
		// The socket has its address from its first question.
		if _, _, err := w.Addresses(); err != nil {
			t.Error(err)
		}
		name, err := unix.Getsockname(w.asks)
		if err != nil {
			t.Error(err)
			return
		}
		s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(s)
		lie := made(unix.RTM_NEWADDR, w.seq+1, append([]byte{unix.AF_INET, 24, 0, 0, 9, 0, 0, 0}, attribute(nil, unix.IFA_LOCAL, []byte{10, 9, 9, 9})...))
		lie = append(lie, made(unix.NLMSG_DONE, w.seq+1, make([]byte, 4))...)
		if err := unix.Sendto(s, lie, 0, name); err != nil {
			t.Error("nothing can be sent there: ", err)
		}
		if v4, v6, err := w.Addresses(); v4 != "" || v6 != "" || err != nil {
			t.Errorf("%q, %q, %v", v4, v6, err)
		}
		// Filled up, there may be no answer, but there is an end.
		for range 10000 {
			if unix.Sendto(s, lie, unix.MSG_DONTWAIT, name) != nil {
				break
			}
		}
		if v4, v6, _ := w.Addresses(); v4 != "" || v6 != "" {
			t.Errorf("%q, %q", v4, v6)
		}
		run("ip", "addr", "add", "192.0.2.1/32", "dev", "lo")
		if v4, _, err := w.Addresses(); written(v4) != "192.0.2.1" || err != nil {
			t.Errorf("afterwards: %s, %v", written(v4), err)
		}
	})
}

// TestSpoofed: the same for a request in a namespace that we were sent to.
func TestSpoofed(t *testing.T) {
	within(t, func(sys.Locked, func(...string) string) {
		other, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		if err == nil {
			err = unix.Bind(other, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: 1})
		}
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(other)
		// A socket that has no address gets the number of its process.
		us := &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: uint32(os.Getpid())}
		stop, stopped := make(chan bool), make(chan int)
		go func() {
			yes, sent := made(unix.NLMSG_ERROR, 0, make([]byte, 4)), 0
			for {
				select {
				case <-stop:
					stopped <- sent
					return
				default:
					if unix.Sendto(other, yes, unix.MSG_DONTWAIT, us) == nil {
						sent++
					}
				}
			}
		}()
		believed := 0
		for range 20000 {
			if _, err := request(unix.RTM_GETLINK, 0, attribute(link(0, 0), unix.IFLA_IFNAME, []byte("missing\x00"))); err == nil {
				believed++
			}
		}
		close(stop)
		if sent := <-stopped; sent == 0 || believed > 0 {
			t.Errorf("of %d lies %d were believed", sent, believed)
		}
	})
}

// made is a message of the kernel's.
func made(kind uint16, seq uint32, body []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, 0, 0)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = append(append(b, 0, 0, 0, 0), body...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

// FuzzChoose: whatever comes as the addresses of a namespace, it is read to an
// end, and what is taken is an address.
func FuzzChoose(f *testing.F) {
	good := made(unix.RTM_NEWADDR, 7, append([]byte{unix.AF_INET, 24, 0, 0, 9, 0, 0, 0}, attribute(nil, unix.IFA_LOCAL, []byte{10, 9, 9, 9})...))
	f.Add(good)
	f.Add(append(good, made(unix.RTM_NEWADDR, 7, append([]byte{unix.AF_INET6, 64, 0x80, 0, 9, 0, 0, 0},
		attribute(attribute(nil, unix.IFA_ADDRESS, []byte(six)), unix.IFA_FLAGS, []byte{0x80, 0, 0, 0})...))...))
	f.Add(made(unix.NLMSG_DONE, 7, make([]byte, 4)))
	f.Add(made(unix.NLMSG_ERROR, 7, []byte{0xff, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var four, six address
		choose(b, 7, &four, &six)
		if n := len(four.bytes); n != 0 && (n != 4 || four.bytes[0] == 127 || four.bytes[0] == 0) || four.scope >= unix.RT_SCOPE_LINK {
			t.Errorf("%+v", four)
		}
		if n := len(six.bytes); n != 0 && (n != 16 || six.bytes[0] == 0xff) || six.scope >= unix.RT_SCOPE_LINK {
			t.Errorf("%+v", six)
		}
	})
}

// FuzzComment: whatever another program calls its table.
func FuzzComment(f *testing.F) {
	f.Add(append(make([]byte, sizeofNfgenmsg), table("launch-tcp/80", "web")...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, c := range comment(b) {
			if c < ' ' || c > '~' {
				t.Errorf("%q", comment(b))
			}
		}
	})
	if got := comment(append(make([]byte, sizeofNfgenmsg), table("launch-tcp/80", "web")...)); got != "web" {
		f.Errorf("%q", got)
	}
}
