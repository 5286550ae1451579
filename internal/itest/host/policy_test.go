package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

// A grant is what a user who isn't root may do with a method of
// systemd-machined's.
type grant struct{ method, args string }

// grants are all methods of systemd-machined, on a machine M with first process L, whose
// descriptor has the number I.
// Those of the first list only tell what everybody can see.
var readable = []grant{
	{"GetMachine", "s M"}, {"GetMachineByPID", "u L"}, {"ListMachines", ""}, {"GetMachineAddresses", "s M"}, {"GetMachineOSRelease", "s M"},
	{"GetMachineUIDShift", "s M"}, {"MapFromMachineUser", "su M 0"}, {"MapFromMachineGroup", "su M 0"}, {"MapToMachineUser", "u 0"}, {"MapToMachineGroup", "u 0"},
	{"GetImage", "s M"}, {"ListImages", ""}, {"GetImageHostname", "s M"}, {"GetImageMachineID", "s M"}, {"GetImageMachineInfo", "s M"}, {"GetImageOSRelease", "s M"},
	{"GetMachineSSHInfo", "s M"},
}

const id = "16 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1"

var refused = []grant{
	{"KillMachine", "ssi M leader 9"}, {"TerminateMachine", "s M"}, {"UnregisterMachine", "s M"},
	{"OpenMachinePTY", "s M"}, {"OpenMachineLogin", "s M"}, {"OpenMachineShell", "sssasas M root /bin/sh 0 0"}, {"OpenMachineRootDirectory", "s M"},
	{"BindMountMachine", "sssbb M /etc /mnt false true"}, {"CopyFromMachine", "sss M /etc/shadow /tmp/x"}, {"CopyToMachine", "sss M /etc/passwd /tmp/x"},
	{"CopyFromMachineWithFlags", "ssst M /etc/shadow /tmp/x 0"}, {"CopyToMachineWithFlags", "ssst M /etc/passwd /tmp/x 0"},
	{"RegisterMachine", "sayssus evil " + id + " x container L /"}, {"RegisterMachineWithNetwork", "sayssusai evil " + id + " x container L / 0"},
	{"CreateMachine", "sayssusa(sv) evil " + id + " x container L / 0"}, {"CreateMachineWithNetwork", "sayssusaia(sv) evil " + id + " x container L / 0 0"},
	{"RegisterMachineEx", "sa(sv) evil 3 LeaderPID u L LeaderPIDFDID t I Class s container"}, {"CreateMachineEx", "sa(sv)a(sv) evil 3 LeaderPID u L LeaderPIDFDID t I Class s container 0"},
	{"RemoveImage", "s M"}, {"RenameImage", "ss M x"}, {"CloneImage", "ssb M x false"}, {"MarkImageReadOnly", "sb M true"},
	{"SetPoolLimit", "t 1"}, {"SetImageLimit", "st M 1"}, {"CleanPool", "s all"},
}

// TestPolicy: a user who isn't root gets no more of launch's machines than of
// systemd-nspawn's, and of those what systemd-machined grants: to look. With a
// rule that grants more, the same calls get more.
func TestPolicy(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1", "c2")
			const manager = "busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager "
			const user = "setpriv --reuid=daemon --regid=daemon --clear-groups "
			run(t, h, `systemctl start launch@c1 && up c1
systemd-run --quiet --unit=run-c2 --collect systemd-nspawn --quiet --boot -D /var/lib/machines/c2 -M c2 --console=read-only --link-journal=no --network-veth -U && up c2`)
			// ask tells how a call ends.
			ask := func(machine string, as string, g grant) string {
				t.Helper()
				args := ""
				for _, a := range strings.Fields(g.args) {
					switch a {
					case "M":
						a = machine
					case "L":
						a = "$(leader " + machine + ")"
					case "I":
						a = "$(machinectl show " + machine + " -p LeaderPIDFDId --value)"
					}
					args += ` "` + a + `"`
				}
				out, err := h.Sh(words + as + manager + g.method + args + " 2>&1 >/dev/null")
				switch {
				case err == nil:
					return "yes"
				case strings.Contains(out, "Access denied"), strings.Contains(out, "Interactive authentication required"), strings.Contains(out, "Permission denied"), strings.Contains(out, "Operation not permitted"):
					return "denied"
				}
				return out
			}
			known := strings.Fields(run(t, h, "busctl introspect org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager | sed -n 's/^[.]\\([A-Za-z]*\\) *method.*/\\1/p'"))
			if len(known) < 30 {
				t.Fatalf("systemd-machined has only the methods %q", known)
			}
			for _, m := range known {
				if !slices.ContainsFunc(slices.Concat(readable, refused), func(g grant) bool { return g.method == m }) {
					t.Errorf("systemd-machined has a method that nobody has thought of: %s", m)
				}
			}
			before := run(t, h, "leader c1; leader c2")
			for _, g := range refused {
				if !slices.Contains(known, g.method) {
					continue
				}
				if got := ask("c1", user, g); got != "denied" {
					t.Errorf("%s: %q", g.method, got)
				}
			}
			for _, g := range readable {
				if slices.Contains(known, g.method) {
					if ours, peers := ask("c1", user, g), ask("c2", user, g); ours != peers && !strings.Contains(ours, "c1") {
						t.Errorf("%s: %q, of systemd-nspawn's machine %q", g.method, ours, peers)
					}
				}
			}
			if after := run(t, h, "leader c1; leader c2; machinectl show evil 2>/dev/null || true"); after != before {
				t.Errorf("after all that, the machines are %q, they were %q", after, before)
			}
			// What launch itself keeps is root's alone, and so is what it does.
			if got := run(t, h, user+"ls /run/launch 2>/dev/null || echo no; "+user+"launch --cleanup -M c1 >/dev/null 2>&1 || echo no; "+
				user+"launch -D /var/lib/machines/c1 true >/dev/null 2>&1 || echo no; "+user+"kill -9 $(leader c1) 2>/dev/null || echo no"); got != "no\nno\nno\nno" {
				t.Errorf("a user: %q", got)
			}
			// The control: who is granted more gets more, so denials are seen.
			h.Write("etc/polkit-1/rules.d/10-itest.rules", `polkit.addRule(function(action, subject) {
	if (action.id.indexOf("org.freedesktop.machine1.") == 0) return polkit.Result.YES;
});
`, 0o644)
			run(t, h, "chmod 755 /etc/polkit-1/rules.d; systemctl restart polkit")
			for _, g := range []grant{{"KillMachine", "ssi M all 0"}, {"KillMachine", "ssi M leader 37"}} {
				if got := ask("c1", user, g); got == "denied" {
					t.Errorf("the control: %s %s is denied to somebody who may", g.method, g.args)
				}
			}
			run(t, h, "gone c1; ended launch@c1")
		})
	}
}

// TestInstances: names of instances that are options, paths or specifiers
// elsewhere are names here, or nothing.
func TestInstances(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) { instances(t, Boot(t, suite, "c1")) })
	}
}

func instances(t *testing.T, h *Host) {
	run(t, h, "ln -s c1 /var/lib/machines/c-1.x")
	// There are trees of these names, so that it is the names that are in the way.
	for _, name := range []string{"-x", "--help", "-D/", "@c1", "%h", "%%", "..", "c1/../c1", "c1 --bind=/", "c1;reboot", "$HOME", "c1\\x20-x", "é", strings.Repeat("c", 65)} {
		if !strings.Contains(name, "/") && name != ".." {
			if err := os.Symlink("c1", filepath.Join(h.Dir, "var/lib/machines", name)); err != nil {
				t.Fatal(err)
			}
		}
		out, err := h.Sh(words + "systemctl start -- 'launch@" + name + ".service' 2>&1 && echo started; machinectl list --no-legend | wc -l; ls /run/launch 2>/dev/null | wc -l")
		if !strings.HasSuffix(out, "0\n0") || strings.Contains(out, "started") {
			t.Errorf("launch@%s: %v %q", name, err, out)
		}
	}
	// The twin: a name with a dash and a dot is one.
	if got := run(t, h, "systemctl start launch@c-1.x && up c-1.x && machinectl show -p Name -p Unit --value c-1.x; systemctl stop launch@c-1.x"); got != "c-1.x\nlaunch@c-1.x.service" {
		t.Errorf("%q", got)
	}
}

// TestUnits: a bundle's unit, and root's own service manager.
func TestUnits(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1")
			step := steps(t, h)
			step("verify", `for s in "" --user; do systemd-analyze $s verify --man=no --recursive-errors=no launch@web.service; done 2>&1 | grep launch | grep -v "'DelegateSubgroup'\|'CoredumpReceive'"; systemd-analyze verify --man=no --recursive-errors=no launch-oci@web.service 2>&1 | grep launch | grep -v "'DelegateSubgroup'" || true`, "")
			h.Write("var/lib/launch-oci/db/config.json", `{"ociVersion":"1.2.0","root":{"path":"/var/lib/machines/c1","readonly":true},
"process":{"cwd":"/","user":{"uid":0,"gid":0},"args":["/bin/sh","-c","trap 'exit 0' TERM; cat /proc/self/cgroup; while :; do sleep 0.2; done"],"env":["PATH=/bin:/usr/bin"]},
"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"ipc"},{"type":"uts"},{"type":"network"}]}}`, 0o644)
			step("bundle", `systemctl start launch-oci@db && systemctl is-active launch-oci@db; [ -d /sys/fs/cgroup/machine.slice/launch-oci@db.service/db ] || [ -d /sys/fs/cgroup/machine.slice/db ] && echo cgroup; systemctl stop launch-oci@db; systemctl show -p Result --value launch-oci@db; ls /run/launch; find /sys/fs/cgroup/machine.slice -name 'db*' -o -name 'launch-oci*'`, "active\ncgroup\nsuccess")
			step("user", `loginctl enable-linger root; export XDG_RUNTIME_DIR=/run/user/0; until_ 'systemctl --user is-system-running | grep -q "running\|degraded"'; systemctl --user start launch@c1; systemctl --user is-active launch@c1; p=/sys/fs/cgroup/user.slice/user-0.slice/user@0.service/machine.slice/launch@c1.service/payload/init.scope/cgroup.procs; until_ "grep -q . $p"; l=$(head -n1 $p); until_ "nsenter -t $l -a systemctl is-system-running | grep -q 'running\|degraded'" && nsenter -t $l -a hostname; machinectl list --no-legend | wc -l; systemctl --user stop launch@c1; systemctl --user is-failed launch@c1; ls /run/launch`, "active\nc1\n0\ninactive")
		})
	}
}

// TestNoBus: for who can't reach D-Bus, systemd itself makes the scope, and
// systemd-machined, where it speaks Varlink, is told all the same.
func TestNoBus(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1")
			const launch = `unshare --mount --propagation private sh -c 'mount -t tmpfs x /run/dbus; exec "$@"' sh launch -D /var/lib/machines/c1 -M nb --timezone=off`
			step := steps(t, h)
			step("a scope", launch+` --register=no --slice=nobus --pipe sh -c "touch /root/up; sleep 5" </dev/null & until_ '[ -e /var/lib/machines/c1/root/up ]'; systemctl show -p ActiveState -p Slice --value machine-nb.scope | sort; wait; systemctl is-active machine-nb.scope || true; ls /run/launch; rm /var/lib/machines/c1/root/up`,
				"active\nnobus.slice\ninactive")
			if suite == tree.Suite {
				// 252 speaks D-Bus alone.
				step("no machine", launch+` --pipe echo hi </dev/null 2>&1 | tr -d '\r'; `+launch+` --register=yes --pipe echo hi </dev/null 2>&1 || true`,
					"launch: register machine nb: no such file or directory; machinectl will not show the machine\nhi\nlaunch: register machine nb: no such file or directory\n  from:  --register")
				return
			}
			step("a machine", launch+` --register=yes --pipe sh -c "touch /root/up; sleep 5" </dev/null & until_ '[ -e /var/lib/machines/c1/root/up ]'; machinectl show -p Unit -p State --value nb; wait; machinectl show nb 2>/dev/null || echo gone; ls /run/launch`,
				"machine-nb.scope\nrunning\ngone")
		})
	}
}
