package host

import (
	"os"
	"slices"
	"strings"
	"testing"

	"launch/internal/itest/tree"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// words are what the scripts here are made of.
const words = `
until_() { n=0; until eval "$1" >/dev/null 2>&1; do n=$((n + 1)); [ $n -lt 150 ] || { echo "never: $1"; return 1; }; sleep 0.1; done; }
leader() { machinectl show "$1" -p Leader --value 2>/dev/null; }
gone() { until_ "! machinectl show $1"; }
# Up: the machine's own manager answers, so that it hears signals.
up() { until_ "nsenter -t \$(leader $1) -a systemctl is-system-running | grep -q 'running\|degraded'"; }
state() { for p in Result NRestarts ActiveState SubState; do systemctl show launch@c1 -p $p --value; done | tr '\n' ' '; }
ended() { until_ "systemctl is-active $1 | grep -qx 'inactive\|failed'"; }
`

func run(t *testing.T, h *Host, script string) string {
	t.Helper()
	out, err := h.Sh(words + script)
	if err != nil {
		t.Errorf("%s\n%v\n%s\n--- journal ---\n%s", script, err, out, h.Journal())
	}
	return out
}

// show reads KEY=VALUE lines and leaves out some.
func show(text string, without ...string) []string {
	var list []string
	for l := range strings.Lines(text) {
		k, _, _ := strings.Cut(strings.TrimSpace(l), "=")
		if k != "" && !slices.Contains(without, k) {
			list = append(list, strings.TrimSpace(l))
		}
	}
	slices.Sort(list)
	return list
}

// TestHost is a host's day with machines of launch and of systemd-nspawn.
func TestHost(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			if suite != tree.Suite {
				long(t)
			}
			day(t, Boot(t, suite, "c1", "c2"))
		})
		// And the host is a machine of launch's itself.
		t.Run(suite+" by launch", func(t *testing.T) {
			long(t)
			day(t, BootBy(t, "launch", suite, "c1", "c2"))
		})
	}
}

func day(t *testing.T, h *Host) {

	// The unit is like systemd-nspawn's own, as far as both say something.
	const same = "-p Type,Slice,KillMode,Delegate,TasksMax,DevicePolicy,WatchdogUSec,SuccessExitStatus,RestartForceExitStatus,PartOf,WantedBy,RequiresMountsFor"
	ours, peers := show(run(t, h, "systemctl show launch@c1 "+same)), show(run(t, h, "systemctl show systemd-nspawn@c1 "+same))
	if !slices.Equal(ours, peers) || len(ours) < 10 {
		t.Errorf("launch@c1 is\n%s\nsystemd-nspawn@c1\n%s", strings.Join(ours, "\n"), strings.Join(peers, "\n"))
	}

	t.Run("service", func(t *testing.T) {
		step := func(what, script, want string) {
			t.Helper()
			if got := run(t, h, script); got != want {
				t.Errorf("%s: %q, want %q\n%s", what, got, want, h.Journal())
			}
		}
		step("start", "systemctl start launch@c1 && up c1 && state", "success 0 active running")
		step("cgroups", `sed -n 's/^0:://p' /proc/$(leader c1)/cgroup /proc/$(systemctl show -p MainPID --value launch@c1)/cgroup`,
			"/machine.slice/launch@c1.service/payload/init.scope\n/machine.slice/launch@c1.service/supervisor")
		// The address comes from the host's network manager, by the machine's own.
		step("list", `until_ 'machinectl list --no-legend | grep -q "192[.]168[.]\|10[.]\|172[.]"'; machinectl list --no-legend | tr -s ' ' | sed 's/[0-9.]*[…]*$/ADDRESS/'`, "c1 container systemd-nspawn debian 12 ADDRESS")
		step("status", "machinectl status c1 | grep -c 'Unit: launch@c1.service\\|Service: systemd-nspawn; class container\\|Root: /var/lib/machines/c1'", "3")
		// Who is rebooted is another process of the same unit.
		step("reboot", `a=$(leader c1); machinectl reboot c1; until_ "[ \$(leader c1) ] && [ \$(leader c1) != $a ]"; up c1; state`, "success 1 active running")
		step("restart", `a=$(leader c1); systemctl restart launch@c1; until_ "[ \$(leader c1) ] && [ \$(leader c1) != $a ]"; up c1; state`, "success 0 active running")
		step("kill", `l=$(leader c1); kill -9 $(systemctl show -p MainPID --value launch@c1); gone c1; until_ 'systemctl is-failed launch@c1'; state; [ -e /proc/$l ] || echo none; ls /run/launch`,
			"signal 0 failed failed none")
		step("start after a kill", "systemctl start launch@c1 && up c1 && state", "success 0 active running")
		step("terminate", "machinectl terminate c1; gone c1; ended launch@c1; state", "success 0 inactive dead")
		step("start after the end", "systemctl start launch@c1 && up c1 && state", "success 0 active running")
		step("poweroff", "machinectl poweroff c1; gone c1; ended launch@c1; state", "success 0 inactive dead")
		step("nothing is left", "ls /run/launch /run/systemd/machines; ls -d /sys/fs/cgroup/machine.slice/* 2>/dev/null | grep launch || true", "/run/launch:\n\n/run/systemd/machines:")
	})

	t.Run("scope", func(t *testing.T) {
		const scope = `'machine-c\x2d2.scope'`
		// What differs from start to start, or is of another version.
		without := []string{"Leader", "Timestamp", "TimestampMonotonic"}
		look := func(program, args string) (machine, unit []string, cgroup string) {
			t.Helper()
			run(t, h, "systemd-run --quiet --unit=run-c2 --collect --service-type=notify "+program+" --quiet --boot -D /var/lib/machines/c2 -M c-2 --console=read-only --link-journal=no "+args+" && up c-2")
			machine = show(run(t, h, "machinectl show c-2"), without...)
			unit = show(run(t, h, "systemctl show "+scope+" -p Description,Slice,Delegate,DevicePolicy,KillMode,KillSignal,ControlGroup,CollectMode,TasksMax,ActiveState,SubState,Transient,TimeoutStopUSec"))
			return machine, unit, run(t, h, "sed -n 's/^0:://p' /proc/$(leader c-2)/cgroup")
		}
		m1, u1, g1 := look("launch", "")
		// The launcher begins anew, with a scope of the same name.
		if got := run(t, h, `a=$(leader c-2); machinectl reboot c-2; until_ "[ \$(leader c-2) ] && [ \$(leader c-2) != $a ]"; up c-2; systemctl is-active run-c2 `+scope); got != "active\nactive" {
			t.Errorf("after a reboot: %q\n%s", got, h.Journal())
		}
		// Who ends the scope asks the machine.
		if got := run(t, h, "machinectl terminate c-2; gone c-2; ended run-c2; systemctl is-active "+scope+"; journalctl -b -u run-c2 -o cat | grep -c 'Halting system'; ls /run/launch"); got != "inactive\n1" {
			t.Errorf("terminate: %q\n%s", got, h.Journal())
		}
		if h.Suite != tree.Suite {
			return // TestPeersSeeUnits has what differs from a newer one
		}
		m2, u2, g2 := look("systemd-nspawn", "")
		run(t, h, "machinectl terminate c-2; gone c-2; ended run-c2")
		if !slices.Equal(m1, m2) || len(m1) < 6 {
			t.Errorf("machinectl shows\n%s\nfor systemd-nspawn\n%s", strings.Join(m1, "\n"), strings.Join(m2, "\n"))
		}
		if !slices.Equal(u1, u2) || len(u1) < 10 {
			t.Errorf("the scope is\n%s\nthat of systemd-nspawn\n%s", strings.Join(u1, "\n"), strings.Join(u2, "\n"))
		}
		if g1 != g2 || g1 == "" {
			t.Errorf("the machine is in %s, that of systemd-nspawn in %s", g1, g2)
		}
	})

	t.Run("properties", func(t *testing.T) {
		got := run(t, h, `systemd-run --quiet --pipe --wait --collect launch --quiet -D /var/lib/machines/c2 -M c3 --slice=a-b --property=MemoryHigh=3G --property=IPAddressDeny=10.0.0.0/8 --property=CPUQuota=150% --pipe sh -c 'cat /proc/self/cgroup | grep ^0; sleep 3' </dev/null &
until_ 'systemctl is-active machine-c3.scope'; systemctl show machine-c3.scope -p ControlGroup,MemoryHigh,CPUQuotaPerSecUSec,IPAddressDeny --value; wait`)
		for _, want := range []string{"/a.slice/a-b.slice/machine-c3.scope", "3221225472", "1.500000s", "10.0.0.0/8", "0::/"} {
			if !slices.Contains(strings.Split(got, "\n"), want) {
				t.Errorf("no %q in\n%s", want, got)
			}
		}
		// A device that is bound can be used, wherever its node is, and one that is
		// not bound by name can't.
		if got := run(t, h, `mkdir -p /srv/nodes && mknod /srv/control c 10 237 && mknod /srv/autofs c 10 235 && mknod /srv/nodes/other c 10 234 && ln -s autofs /srv/link
launch --quiet -D /var/lib/machines/c2 -M c7 --register=yes --bind=/srv/control:/mnt/control --bind-ro=/srv/link:/mnt/ro --bind=/srv/nodes:/mnt/nodes --pipe sh -c '
(: </mnt/control) && (: <>/mnt/control) && (: </mnt/ro) && echo used; (: <>/mnt/ro) 2>/dev/null || echo read only; (: </mnt/nodes/other) 2>/dev/null || echo closed' </dev/null`); got != "used\nread only\nclosed" {
			t.Errorf("devices: %q\n%s", got, h.Journal())
		}
		// What is killed leaves a scope that goes by itself, and the name is free.
		if got := run(t, h, `launch --quiet -D /var/lib/machines/c2 -M c5 --pipe sleep 60 </dev/null & until_ 'machinectl show c5'; kill -9 $!; wait 2>/dev/null
launch --quiet -D /var/lib/machines/c2 -M c5 --register=yes --property=TasksMax=99 --pipe echo again </dev/null; ls /run/launch; ended machine-c5.scope`); !strings.HasSuffix(got, "again") {
			t.Errorf("after a kill: %q\n%s", got, h.Journal())
		}
		if got := run(t, h, `export DBUS_SYSTEM_BUS_ADDRESS=unix:path=/none; launch -D /var/lib/machines/c2 -M c6 --timezone=off --pipe grep ^0 /proc/self/cgroup </dev/null 2>&1
launch --quiet -D /var/lib/machines/c2 -M c6 --slice=a --pipe true </dev/null >/dev/null 2>&1; echo $?`); got != "launch: connect to the system's bus at /none: no such file or directory; the machine is known to nobody\r\n0::/\n1" {
			t.Errorf("without a bus: %q\n%s", got, h.Journal())
		}
		if got := run(t, h, `systemctl mask --runtime --now -q systemd-machined dbus-org.freedesktop.machine1.service 2>/dev/null; systemctl stop systemd-machined; launch --quiet -D /var/lib/machines/c2 -M c4 --pipe echo hi </dev/null 2>&1; launch --quiet -D /var/lib/machines/c2 -M c4 --register=yes --pipe echo hi </dev/null >/dev/null 2>&1; echo $?`); got != "hi\n1" {
			t.Errorf("without systemd-machined: %q\n%s", got, h.Journal())
		}
	})
}
