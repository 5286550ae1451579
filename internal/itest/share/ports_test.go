package share

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"launch/internal/itest/cell"
	"launch/internal/itest/stage"
	"launch/internal/itest/tree"
)

// serve is a machine's payload: it tells on TCP port 80 and UDP port 5353 who it
// is, and who asks.
func serve(name string) {
	go func() {
		c, err := net.ListenPacket("udp", "[::]:5353")
		for b := make([]byte, 100); err == nil; {
			var from net.Addr
			if _, from, err = c.ReadFrom(b); err == nil {
				c.WriteTo([]byte(name+" hears "+from.(*net.UDPAddr).IP.String()), from)
			}
		}
		fmt.Println("udp: ", err)
		os.Exit(1)
	}()
	l, err := net.Listen("tcp", "[::]:80")
	for fmt.Println("serving"); err == nil; {
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			io.WriteString(c, name+" hears "+c.RemoteAddr().(*net.TCPAddr).IP.String())
			c.Close()
		}
	}
	fmt.Println("tcp: ", err)
	os.Exit(1)
}

// asks connects from the network to an address and gives what is answered there,
// or why nothing is.
func (n network) asks(protocol, address string) string {
	n.t.Helper()
	done := make(chan string)
	go func() {
		runtime.LockOSThread() // and never unlocked: it ends
		ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			defer unix.Close(ns)
			err = unix.Setns(ns, unix.CLONE_NEWNET)
		}
		if err != nil {
			done <- err.Error()
			return
		}
		answer := make([]byte, 100)
		c, err := net.DialTimeout(protocol, address, 2*time.Second)
		size := 0
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(2 * time.Second))
			if protocol == "udp" {
				_, err = c.Write([]byte("?"))
			}
			if err == nil {
				size, err = c.Read(answer)
			}
		}
		switch {
		case err == nil:
			done <- string(answer[:size])
		case errors.Is(err, syscall.ECONNREFUSED):
			done <- "refused"
		case errors.Is(err, os.ErrDeadlineExceeded):
			done <- "nobody"
		default:
			done <- err.Error()
		}
	}()
	return <-done
}

// hasNft skips the test where nobody can look at the rules.
func hasNft(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft(8)")
	}
}

// nft runs nft(8) there.
func (n network) nft(args ...string) string {
	n.t.Helper()
	out, err := exec.Command("nsenter", append([]string{n.ns, "nft"}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("nft %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// street is a host, and another one that is joined with it.
func street(t *testing.T) (host, outside network) {
	t.Helper()
	host = newNetwork(t)
	return host, neighbour(t, host)
}

// neighbour makes the other one.
func neighbour(t *testing.T, host network) (outside network) {
	t.Helper()
	outside = newNetwork(t)
	host.ip("link", "set", "lo", "up")
	outside.ip("link", "set", "lo", "up")
	host.ip("link", "add", "out", "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(outside.pid))
	for _, e := range []struct {
		n      network
		dev, i string
	}{{host, "out", "1"}, {outside, "eth0", "2"}} {
		e.n.ip("addr", "add", "192.0.2."+e.i+"/24", "dev", e.dev)
		e.n.ip("addr", "add", "2001:db8::"+e.i+"/64", "dev", e.dev, "nodad")
		e.n.ip("link", "set", e.dev, "up")
	}
	outside.ip("route", "add", "default", "via", "192.0.2.1")
	outside.ip("-6", "route", "add", "default", "via", "2001:db8::1")
	// Whether a host forwards is its own decision, with either launcher.
	for _, name := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if out, err := exec.Command("nsenter", host.ns, "sh", "-c", "echo 1 >/proc/sys/net/"+name).CombinedOutput(); err != nil {
			t.Fatal(err, string(out))
		}
	}
	return outside
}

// house is a machine in the street, which does what it is told.
type house struct {
	*stage.Run
	t   *testing.T
	dir string // its tree
	out *stage.Output
	// ended waits for its end.
	ended func(most time.Duration) (int, error)
}

// payload serves, and takes an address, another one, and none.
const payload = `/bin/serve NAME &
ip link set host0 up
when() { until [ -e /srv/$1 ]; do [ ! -e /srv/end ] || exit 0; sleep 0.02; done; }
take() {
	ip addr add 10.0.NET.$1/24 dev host0
	ip addr add fd00:NET::$1/64 dev host0
	ip route add default via 10.0.NET.1
	ip -6 route add default via fd00:NET::1 dev host0
}
when first; take 2; echo has first
when second; ip addr flush dev host0 scope global; take 3; echo has second
when none; ip addr flush dev host0 scope global; echo has none
when end`

func script(name, subnet string) string {
	return strings.NewReplacer("NAME", name, "NET", subnet).Replace(payload)
}

// furnish puts the server into a tree.
func furnish(t *testing.T, dir string) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bin/serve"), self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"first", "second", "none", "end"} {
		os.Remove(filepath.Join(dir, "srv", word))
	}
}

// move starts a machine that serves.
func (p *place) move(host network, l stage.Launcher, name, subnet string, args ...string) *house {
	p.t.Helper()
	furnish(p.t, p.dir)
	r := p.within(host, l, script(name, subnet), append([]string{"--machine=" + name}, args...)...)
	h := &house{Run: r, t: p.t, dir: p.dir, out: r.Out, ended: r.Code}
	h.settle(host, name, subnet)
	return h
}

// settle waits until it serves, and gives the host's end of the cable addresses.
func (h *house) settle(host network, name, subnet string) {
	h.t.Helper()
	until(h.t, "it serves", func() bool { return strings.Contains(h.out.String(), "serving") })
	host.ip("addr", "add", "10.0."+subnet+".1/24", "dev", "ve-"+name)
	host.ip("addr", "add", "fd00:"+subnet+"::1/64", "dev", "ve-"+name, "nodad")
	host.ip("link", "set", "ve-"+name, "up")
}

// now tells the machine to go on, and waits until it has.
func (h *house) now(word string) {
	h.t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, "srv", word), nil, 0o644); err != nil {
		h.t.Fatal(err)
	}
	if word != "end" {
		until(h.t, "it has "+word, func() bool { return strings.Contains(h.out.String(), "has "+word) })
	} else if code, err := h.ended(most); code != 0 || err != nil {
		h.t.Fatal(code, err, h.out)
	}
}

// expect waits until an answer is what it should be.
func expect(t *testing.T, from network, protocol, address, want string) {
	t.Helper()
	got := ""
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = from.asks(protocol, address); got == want {
			return
		}
	}
	t.Errorf("%s to %s: %q, want %q", protocol, address, got, want)
}

// nspawnFor is the peer, which may choose between two ways.
func nspawnFor(t *testing.T) stage.Launcher {
	l := stage.Nspawn(t)
	l.Env = append(l.Env, "SYSTEMD_FIREWALL_BACKEND=nftables")
	return l
}

// ports is what is asked for.
var ports = []string{"--port=8080:80", "--port=udp:53:5353"}

// answers says who answers where, when the machine has an address, or not.
func answers(t *testing.T, host, outside network, there bool) {
	t.Helper()
	ask := func(from network, protocol, address, who string) {
		t.Helper()
		want := "refused"
		if there {
			want = "web hears " + who // nobody is masked
		}
		expect(t, from, protocol, address, want)
	}
	ask(outside, "tcp", "192.0.2.1:8080", "192.0.2.2")
	ask(outside, "udp", "192.0.2.1:53", "192.0.2.2")
	ask(outside, "tcp", "[2001:db8::1]:8080", "2001:db8::2")
	ask(outside, "udp", "[2001:db8::1]:53", "2001:db8::2")
	// The host asks itself.
	ask(host, "tcp", "192.0.2.1:8080", "192.0.2.1")
	ask(host, "udp", "192.0.2.1:53", "192.0.2.1")
	ask(host, "tcp", "[2001:db8::1]:8080", "2001:db8::1")
	ask(host, "udp", "[2001:db8::1]:53", "2001:db8::1")
	ask(host, "tcp", "10.0.1.1:8080", "10.0.1.1")
	// Neither loopback, nor others, nor another protocol's port, nor the machine's.
	for _, c := range []struct {
		from    network
		address string
	}{{host, "127.0.0.1:8080"}, {host, "[::1]:8080"}, {host, "192.0.2.2:8080"}, {host, "[2001:db8::2]:8080"}, {host, "192.0.2.1:53"}, {host, "10.0.1.1:80"},
		{outside, "192.0.2.1:53"}, {outside, "192.0.2.1:80"}, {outside, "192.0.2.2:8080"}} {
		if got := c.from.asks("tcp", c.address); got != "refused" {
			t.Errorf("%s: %q", c.address, got)
		}
	}
}

var element = regexp.MustCompile(`(\d+) \. (\d+) : (\S+) \. (\d+)`)

// meant is what rules come to, whatever tables, chains and maps are called.
func meant(ruleset string) (list []string) {
	family, chain := "", ""
	for line := range strings.Lines(strings.NewReplacer(" tcp . ", " 6 . ", " udp . ", " 17 . ", "priority -99;", "priority dstnat + 1;").Replace(ruleset)) {
		line = strings.TrimSpace(line)
		f := strings.Fields(line)
		switch {
		case len(f) > 1 && f[0] == "table":
			family = f[1]
		case strings.HasPrefix(line, "type nat hook "):
			chain = line
		case strings.Contains(line, "dnat "):
			rule, _, _ := strings.Cut(line, "@")
			list = append(list, family+": "+chain+" "+rule)
		}
		for _, e := range element.FindAllStringSubmatch(line, -1) {
			list = append(list, family+": "+strings.Join(e[1:], " "))
		}
	}
	slices.Sort(list)
	return list
}

// live is the machine's life; it gives what the rules meant in its course.
func (h *house) live(host, outside network) (rules [][]string) {
	h.t.Helper()
	answers(h.t, host, outside, false)
	for _, word := range []string{"first", "second", "none"} {
		h.now(word)
		answers(h.t, host, outside, word != "none")
		rules = append(rules, meant(host.nft("list", "ruleset")))
	}
	h.now("end")
	return rules
}

// others are somebody's rules, which stay.
const others = "add table ip other; add chain ip other c { type nat hook prerouting priority -100; }; add rule ip other c tcp dport 99 accept"

// TestPorts: connections to the host's ports reach the machine, from other hosts
// and from the host itself, wherever the machine's address is, and nowhere when it
// has none. systemd-nspawn does the same.
func TestPorts(t *testing.T) {
	hasNft(t)
	var rules [][][]string
	for _, l := range []stage.Launcher{stage.Launch(t), nspawnFor(t)} {
		for _, users := range [][]string{nil, {"--private-users=1310720:65536", "--private-users-ownership=map"}} {
			if users != nil && l.Name == "nspawn" {
				continue
			}
			t.Run(l.Name+strings.Join(users, ""), func(t *testing.T) {
				p := begin(t)
				host, outside := street(t)
				host.nft(others)
				before := host.nft("list", "ruleset")
				rules = append(rules, p.move(host, l, "web", "1", append(users, ports...)...).live(host, outside))
				if after := host.nft("list", "ruleset"); l.Name == "launch" && after != before {
					t.Errorf("rules before:\n%s\nand after:\n%s", before, after)
				}
			})
		}
	}
	same(t, rules)
}

// same holds the rules of runs against each other.
func same(t *testing.T, rules [][][]string) {
	t.Helper()
	// Two rules for each family, two ports for each.
	if len(rules) < 2 || len(rules[0]) != 3 || len(rules[0][0]) != 8 || len(rules[0][1]) != 8 || len(rules[0][2]) != 4 {
		t.Fatalf("there are not the rules that should be: %q", rules)
	}
	for _, r := range rules[1:] {
		for i := range rules[0] {
			if !slices.Equal(r[i], rules[0][i]) {
				t.Errorf("rules mean\n%s\nunder another launcher\n%s", strings.Join(rules[0][i], "\n"), strings.Join(r[i], "\n"))
			}
		}
	}
}

// TestPortsNewest is the same, beside the newest systemd-nspawn.
func TestPortsNewest(t *testing.T) {
	hasNft(t)
	root := tree.PeersThere(t)
	var rules [][][]string
	for _, l := range []string{"/run/launch-test", "systemd-nspawn"} {
		t.Run(filepath.Base(l), func(t *testing.T) {
			c, err := cell.Open(cell.Options{Root: root, View: cell.Unified, Bind: map[string]string{"/run/launch-test": stage.Launch(t).Path, "/run/tree": tree.Tiny(t)}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			host := network{t, fmt.Sprintf("--net=/proc/%d/ns/net", c.Pid), c.Pid}
			outside := neighbour(t, host)
			host.nft(others)
			before := host.nft("list", "ruleset")
			if out, code, err := c.Shell("cp -a /run/tree /var/tree", most); code != 0 || err != nil {
				t.Fatal(code, err, out)
			}
			h := &house{t: t, dir: c.Path("/var/tree"), out: &stage.Output{}}
			furnish(t, h.dir)
			cmd := c.Command(append(append([]string{l, "--quiet", "--directory=/var/tree", "--machine=web", "--register=no", "--keep-unit", "--console=pipe", "--resolv-conf=off", "--timezone=off",
				"--network-veth"}, ports...), "/bin/busybox", "ash", "-c", script("web", "1"))...)
			cmd.Stdout, cmd.Stderr = h.out, h.out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Process.Kill()
			h.ended = func(time.Duration) (int, error) { return 0, cmd.Wait() }
			h.settle(host, "web", "1")
			rules = append(rules, h.live(host, outside))
			if after := host.nft("list", "ruleset"); l != "systemd-nspawn" && after != before {
				t.Errorf("rules before:\n%s\nand after:\n%s", before, after)
			}
		})
	}
	same(t, rules)
}

// TestPortsBeside: machines with different ports run side by side, also one of
// systemd-nspawn's; who wants a port that is taken hears who has it.
func TestPortsBeside(t *testing.T) {
	hasNft(t)
	host, outside := street(t)
	before := host.nft("list", "ruleset")
	launch, nspawn := stage.Launch(t), nspawnFor(t)
	p := begin(t)
	web, db, peer := p.move(host, launch, "web", "1", "--port=8080:80"), begin(t).move(host, launch, "db", "2", "--port=8081:80", "--port=udp:53:5353"), begin(t).move(host, nspawn, "peer", "3", "--port=8082:80")
	for _, h := range []*house{web, db, peer} {
		h.now("first")
	}
	all := func(names ...string) {
		t.Helper()
		for i, name := range names {
			want := name + " hears 192.0.2.2"
			if name == "" {
				want = "refused"
			}
			expect(t, outside, "tcp", fmt.Sprintf("192.0.2.1:808%d", i), want)
		}
	}
	all("web", "db", "peer")
	expect(t, outside, "udp", "192.0.2.1:53", "db hears 192.0.2.2")
	until(t, "IPv6 addresses are tried", func() bool { return strings.Count(host.nft("list", "ruleset"), "::2 . ") == 4 })
	q := begin(t)
	refused := func(want string, args ...string) {
		t.Helper()
		r := q.within(host, launch, "echo it runs", append([]string{"--machine=late"}, args...)...)
		if code, err := r.Code(most); err != nil || code != 1 || r.Out.String() != want {
			t.Errorf("%q: %d, %v, got\n%swant\n%s", args, code, err, r.Out, want)
		}
	}
	rules := host.nft("list", "ruleset")
	refused(`launch: cannot start machine "late": machine db forwards the tcp port 8081 already
  from:  --port=8081:80
  hint:  stop that machine, or give another port of the host, as --port=tcp:PORT:80
`, "--port=8083:80", "--port=8081:80", "--port=udp:53")
	refused(`launch: cannot start machine "late": machine db forwards the udp port 53 already
  from:  --port=udp:53:1000
  hint:  stop that machine, or give another port of the host, as --port=udp:PORT:1000
`, "--port=53", "--port=udp:53:1000")
	refused(`launch: cannot start machine "late": systemd-nspawn forwards the tcp port 8082 already
  from:  --port=8082
  hint:  stop its machine; one that was killed leaves that in the nftables table io.systemd.nat
`, "--port=8082")
	if after := host.nft("list", "ruleset"); after != rules {
		t.Errorf("a refusal has changed the rules from\n%s\nto\n%s", rules, after)
	}
	all("web", "db", "peer")
	web.now("end")
	all("", "db", "peer")
	db.now("end")
	all("", "", "peer")
	peer.now("end")
	host.nft("delete", "table", "ip", "io.systemd.nat") // it stays
	host.nft("delete", "table", "ip6", "io.systemd.nat")
	if after := host.nft("list", "ruleset"); after != before {
		t.Errorf("rules before:\n%s\nand after:\n%s", before, after)
	}
}

// TestPortsUndone: whatever ends a launcher, its rules are gone with it.
func TestPortsUndone(t *testing.T) {
	hasNft(t)
	p := begin(t)
	host, _ := street(t)
	l := stage.Launch(t)
	host.nft("add table ip other; add chain ip other c; add rule ip other c tcp dport 8080 accept")
	before := host.nft("list", "ruleset")
	same := func(what string) {
		t.Helper()
		if after := host.nft("list", "ruleset"); after != before {
			t.Errorf("%s: rules before:\n%s\nand after:\n%s", what, before, after)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGKILL} {
		h := p.move(host, l, "web", "1", "--port=8080:80")
		h.now("first")
		expect(t, host, "tcp", "192.0.2.1:8080", "web hears 192.0.2.1")
		h.Process.Signal(sig)
		h.Code(most)
		// Before anything else is started.
		same(sig.String())
	}
	p.Look("nsenter", host.ns, l.Path, "--cleanup")
	same("--cleanup")

	// A start that fails when the rules are there.
	r := p.within(host, l, "true", "--machine=web", "--port=8080:80", "--chdir=/no/such")
	if code, err := r.Code(most); code == 0 || err != nil {
		t.Error(code, err, r.Out)
	}
	same("a start that failed")
}

// TestPortsReboot: a machine that reboots keeps its ports, and is followed again.
func TestPortsReboot(t *testing.T) {
	hasNft(t)
	p := begin(t)
	host, outside := street(t)
	furnish(t, p.dir)
	// Not with --keep-unit: then a reboot is the service manager's.
	r := p.Start(nil, "nsenter", host.ns, stage.Launch(t).Path, "--quiet", "--directory="+p.dir, "--machine=web", "--register=no", "--console=pipe", "--resolv-conf=off", "--timezone=off",
		"--network-veth", "--port=8080:80", "/bin/busybox", "ash", "-c", `/bin/serve web &
ip link set host0 up; ip addr add 10.0.1.2/24 dev host0; ip route add default via 10.0.1.1; echo a life
until [ -e /srv/end ]; do sleep 0.02; done; rm /srv/end
[ ! -e /srv/again ] || exit 0
touch /srv/again; reboot -f`)
	for life := 1; life <= 2; life++ {
		until(t, "it lives", func() bool { return strings.Count(r.Out.String(), "a life") == life })
		if list := host.nft("list", "ruleset"); !strings.Contains(list, "table ip launch-tcp/8080 ") {
			t.Errorf("life %d: the port is free:\n%s", life, list)
		}
		host.ip("addr", "add", "10.0.1.1/24", "dev", "ve-web")
		expect(t, outside, "tcp", "192.0.2.1:8080", "web hears 192.0.2.2")
		if err := os.WriteFile(filepath.Join(p.dir, "srv/end"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if code, err := r.Code(most); code != 0 || err != nil {
		t.Error(code, err, r.Out)
	}
	if list := host.nft("list", "ruleset"); list != "" {
		t.Errorf("left: %s", list)
	}
}

// TestPortsFlood: a machine that changes its addresses without end keeps neither
// the launcher nor the host busy, and is followed when it rests.
func TestPortsFlood(t *testing.T) {
	hasNft(t)
	p := begin(t)
	host, outside := street(t)
	h := p.move(host, stage.Launch(t), "web", "1", "--port=8080:80")
	h.now("first")
	expect(t, outside, "tcp", "192.0.2.1:8080", "web hears 192.0.2.2")
	leader, err := h.Leader(most)
	if err != nil {
		t.Fatal(err)
	}
	flood := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", leader), "ip", "-batch", "-")
	flood.Stdin = strings.NewReader(strings.Repeat("addr add 10.0.0.1/32 dev host0\naddr del 10.0.0.1/32 dev host0\n", 20000))
	spent := func() time.Duration {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.Process.Pid))
		f := strings.Fields(string(text)[strings.LastIndex(string(text), ")")+1:])
		var u, s int
		fmt.Sscan(f[11]+" "+f[12], &u, &s)
		return time.Duration(u+s) * 10 * time.Millisecond
	}
	began, used := time.Now(), spent()
	if out, err := flood.CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	took, used := time.Since(began), spent()-used
	t.Logf("in %v of changes, the launcher worked for %v", took, used)
	if used > took/5+50*time.Millisecond {
		t.Errorf("in %v of changes, the launcher worked for %v", took, used)
	}
	expect(t, outside, "tcp", "192.0.2.1:8080", "web hears 192.0.2.2")
	h.now("second")
	expect(t, outside, "tcp", "192.0.2.1:8080", "web hears 192.0.2.2")
	h.Process.Signal(syscall.SIGTERM)
	if code, err := h.Code(most); err != nil {
		t.Error(code, err, h.Out)
	}
}
