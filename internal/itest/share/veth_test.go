package share

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"launch/internal/itest/stage"
)

// network is a network namespace that stands for the host's.
type network struct {
	t   *testing.T
	ns  string
	pid int // of somebody in it
}

func newNetwork(t *testing.T) network {
	t.Helper()
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip(8)")
	}
	c := exec.Command("unshare", "--net", "sleep", "300")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	n := network{t, fmt.Sprintf("--net=/proc/%d/ns/net", c.Process.Pid), c.Process.Pid}
	// unshare has executed sleep when it is in the namespace.
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if out, err := exec.Command("nsenter", n.ns, "cat", fmt.Sprintf("/proc/%d/comm", c.Process.Pid)).Output(); err == nil && string(out) == "sleep\n" {
			return n
		} else if time.Now().After(end) {
			t.Fatal("unshare --net does nothing: ", err)
		}
	}
}

// ip runs ip(8) there.
func (n network) ip(args ...string) string {
	n.t.Helper()
	out, err := exec.Command("nsenter", append([]string{n.ns, "ip"}, args...)...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// facts gives what interfaces beside lo are called and have as addresses.
func (n network) facts() (list []string) {
	for l := range strings.Lines(n.ip("-o", "link")) {
		f := strings.Fields(l)
		fact := strings.TrimSuffix(f[1], ":")
		fact, _, _ = strings.Cut(fact, "@")
		for i, w := range f {
			if w == "link/ether" || strings.HasSuffix(w, "altname") {
				fact += " " + f[i+1]
			}
		}
		if fact != "lo" {
			list = append(list, fact)
		}
	}
	slices.Sort(list)
	return list
}

// within starts a machine in the network's namespace.
func (p *place) within(n network, l stage.Launcher, script string, args ...string) *stage.Run {
	p.t.Helper()
	argv := append([]string{"nsenter", n.ns, l.Path, "--quiet", "--directory=" + p.dir, "--register=no", "--keep-unit",
		"--console=pipe", "--resolv-conf=off", "--timezone=off", "--network-veth"}, args...)
	return p.Start(l.Env, append(argv, "/bin/busybox", "ash", "-c", script)...)
}

// until waits for something.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: ", what)
		}
	}
}

// TestVeth: host and machine are joined, by interfaces whose names and
// addresses are those that systemd-nspawn gives, and that end with the machine.
func TestVeth(t *testing.T) {
	p, n := begin(t), newNetwork(t)
	const look = "echo mac=$(cat /sys/class/net/host0/address).; until [ -e /tmp/end ]; do sleep 0.02; done"
	for _, args := range [][]string{{"--machine=web"}, {"--machine=averylongcontainername"},
		{"--machine=web", "--private-users=1310720:65536", "--private-users-ownership=map"}} {
		seen := func(l stage.Launcher) []string {
			t.Helper()
			r := p.within(n, l, look, args...)
			if err := r.Await("mac=", most); err != nil {
				t.Fatal(err, r.Out)
			}
			_, mac, _ := strings.Cut(r.Out.String(), "mac=")
			mac, _, _ = strings.Cut(mac, ".")
			all := append(n.facts(), mac)
			leader, err := r.Leader(most)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command("nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", leader), "touch", "/tmp/end").CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
			if code, err := r.Code(most); code != 0 || err != nil {
				t.Fatal(code, err, r.Out)
			}
			until(t, "the interface is gone", func() bool { return len(n.facts()) == 0 })
			return all
		}
		ours, peers := seen(p.l), seen(stage.Nspawn(t))
		if !slices.Equal(ours, peers) || len(ours) != 2 {
			t.Errorf("%v: %q, under systemd-nspawn %q", args, ours, peers)
		}
	}
}

// TestVethWorks: a packet gets through, without any network manager.
func TestVethWorks(t *testing.T) {
	p, n := begin(t), newNetwork(t)
	if stage.Under(t).Name == "nspawn" {
		t.Skip("systemd-nspawn leaves that to network managers")
	}
	// Nobody gives addresses, but each end has one of its own link.
	r := p.within(n, p.l, "ip -6 addr show dev host0 | sed -n 's/.*inet6 \\(fe80[^/]*\\).*/\\1/p'; echo; sleep 60", "--machine=web")
	if err := r.Await("fe80", most); err != nil {
		t.Fatal(err, r.Out)
	}
	addr := strings.TrimSpace(r.Out.String())
	until(t, "an answer of "+addr, func() bool {
		return exec.Command("nsenter", n.ns, p.dir+"/bin/busybox", "ping", "-c1", "-W1", addr+"%ve-web").Run() == nil
	})
	r.Process.Signal(syscall.SIGTERM)
	r.Code(most)
}

// TestVethUndone: what a killed launcher leaves is removed, and nothing else.
func TestVethUndone(t *testing.T) {
	p, n := begin(t), newNetwork(t)
	l := stage.Launch(t)
	clean := func() { p.Look("nsenter", n.ns, l.Path, "--cleanup") }
	start := func() (*stage.Run, *exec.Cmd) {
		t.Helper()
		r := p.within(n, l, "echo up; sleep 60", "--machine=web")
		if err := r.Await("up", most); err != nil {
			t.Fatal(err, r.Out)
		}
		leader, err := r.Leader(most)
		if err != nil {
			t.Fatal(err)
		}
		// The kernel removes it with the machine's namespace: that stays.
		keep := exec.Command("nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", leader), "sleep", "300")
		if err := keep.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { keep.Process.Kill(); keep.Wait() })
		until(t, "somebody is in the machine's network", func() bool {
			out, _ := exec.Command("cat", fmt.Sprintf("/proc/%d/comm", keep.Process.Pid)).Output()
			return string(out) == "sleep\n"
		})
		r.Process.Signal(syscall.SIGKILL)
		r.Code(most)
		return r, keep
	}
	start()
	if len(n.facts()) != 1 {
		t.Fatalf("after the kill there is %q: nothing to remove", n.facts())
	}
	clean()
	if left := n.facts(); left != nil {
		t.Errorf("left after --cleanup: %q", left)
	}

	// The next start does it as well.
	start()
	r := p.within(n, l, "echo again", "--machine=web")
	if code, err := r.Code(most); code != 0 || err != nil || !strings.Contains(r.Out.String(), "again") {
		t.Errorf("after a kill: %d %v %s", code, err, r.Out)
	}
	until(t, "the interface is gone", func() bool { return len(n.facts()) == 0 })

	// Another one of that name is not ours: it stays, whether it was there before
	// the start or came after the kill.
	n.ip("link", "add", "ve-web", "type", "veth", "peer", "name", "other")
	r = p.within(n, l, "echo never", "--machine=web")
	if code, err := r.Code(most); code != 1 || err != nil || !strings.Contains(r.Out.String(), "there is one of that name") || strings.Contains(r.Out.String(), "never") {
		t.Errorf("the name is taken: %d %v %s", code, err, r.Out)
	}
	if left := n.facts(); len(left) != 2 {
		t.Errorf("a start that failed has removed another's interface: %q", left)
	}
	n.ip("link", "delete", "ve-web")
	start()
	n.ip("link", "delete", "ve-web")
	n.ip("link", "add", "ve-web", "type", "veth", "peer", "name", "other")
	clean()
	if left := n.facts(); len(left) != 2 {
		t.Errorf("--cleanup has removed another's interface: %q", left)
	}
}

// TestZone: machines of a zone, of both launchers, share a bridge that the last of
// them removes, and a clean-up after a launcher that was killed.
func TestZone(t *testing.T) {
	p, n := begin(t), newNetwork(t)
	l, nspawn := stage.Launch(t), stage.Nspawn(t)
	names := func() (list []string) {
		for _, f := range n.facts() {
			name, _, _ := strings.Cut(f, " ")
			list = append(list, name)
		}
		return list
	}
	start := func(l stage.Launcher, machine string) *stage.Run {
		t.Helper()
		r := p.within(n, l, "echo up; sleep 60", "--machine="+machine, "--network-zone=lab", "--volatile=overlay")
		if err := r.Await("up", most); err != nil {
			t.Fatal(err, r.Out)
		}
		return r
	}
	end := func(r *stage.Run) {
		t.Helper()
		r.Process.Signal(syscall.SIGTERM)
		r.Code(most)
	}
	// systemd-nspawn can't be the last here: it looks for who is left in a /sys that
	// shows another network.
	for _, order := range [][2]stage.Launcher{{l, l}, {nspawn, l}} {
		a, b := start(order[0], "one"), start(order[1], "two")
		if got := strings.Join(names(), " "); got != "vb-one vb-two vz-lab" {
			t.Errorf("with two machines there are %s", got)
		}
		end(a)
		until(t, "the first is gone", func() bool { return strings.Join(names(), " ") == "vb-two vz-lab" })
		end(b)
		until(t, "the zone is gone", func() bool { return names() == nil })
	}
	r := start(l, "one")
	r.Process.Signal(syscall.SIGKILL)
	r.Code(most)
	until(t, "the kernel has removed the cable", func() bool { return strings.Join(names(), " ") == "vz-lab" })
	p.Look("nsenter", n.ns, l.Path, "--cleanup")
	if left := names(); left != nil {
		t.Errorf("left after --cleanup: %q", left)
	}
}
