package host

import (
	"testing"

	"launch/internal/itest/tree"
)

// TestUserManager: with --user, a machine is one of root's own service manager,
// and of root's own systemd-machined where there is one.
func TestUserManager(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1")
			const launch = "launch -D /var/lib/machines/c1 -M um --timezone=off "
			// It says when it is up, and ends when it is asked.
			const payload = ` --kill-signal=SIGTERM --pipe sh -c 'trap "echo asked; exit 0" TERM; touch /root/up; while :; do sleep 0.1; done' </dev/null 2>&1`
			const await = "until_ '[ -e /var/lib/machines/c1/root/up ]'; rm /var/lib/machines/c1/root/up; "
			const at = "d=$(find /sys/fs/cgroup -path '*machine-um.scope/payload'); grep -q . $d/cgroup.procs && echo $d | sed s,/sys/fs/cgroup,,; "
			const user = "export XDG_RUNTIME_DIR=/run/user/0; "
			const hint = "\n  from:  --user\n  hint:  loginctl enable-linger starts a user's service manager, and XDG_RUNTIME_DIR=/run/user/UID is where it is; without --user, the system's is asked\n1"
			step := steps(t, h)
			step("nobody says where", launch+"--user --pipe echo started </dev/null 2>&1; echo $?",
				"launch: connect to the user's bus: neither $DBUS_SESSION_BUS_ADDRESS nor $XDG_RUNTIME_DIR says where it is"+hint)
			step("no manager", user+launch+"--user --pipe echo started </dev/null 2>&1; echo $?",
				"launch: connect to the user's bus at /run/user/0/bus: no such file or directory"+hint)
			step("manager", user+`loginctl enable-linger root; until_ 'systemctl --user is-system-running | grep -q "running\|degraded"'; ls /run/user/0/bus`, "/run/user/0/bus")
			step("scope", user+launch+"--user --register=no"+payload+" & "+await+at+
				"systemctl --user show -p ActiveState -p Slice --value machine-um.scope | sort; systemctl is-active machine-um.scope; systemctl --user stop machine-um.scope; wait; systemctl --user is-active machine-um.scope; ls /run/launch",
				"/user.slice/user-0.slice/user@0.service/machine.slice/machine-um.scope/payload\nactive\nmachine.slice\ninactive\nasked\ninactive")
			step("slice and properties", user+launch+"--user --register=no --slice=a-b --property=TasksMax=77"+payload+" & "+await+at+
				"systemctl --user show -p TasksMax --value machine-um.scope; systemctl --user stop machine-um.scope; wait",
				"/user.slice/user-0.slice/user@0.service/a.slice/a-b.slice/machine-um.scope/payload\n77\nasked")
			// Without a bus of the user's, the manager itself is asked.
			step("no bus", "mkdir -p /run/alone && ln -sfn /run/user/0/systemd /run/alone/systemd; XDG_RUNTIME_DIR=/run/alone "+launch+"--user --register=no"+payload+" & "+await+at+
				"kill $!; wait", "/user.slice/user-0.slice/user@0.service/machine.slice/machine-um.scope/payload\nasked")
			step("another user's", `loginctl enable-linger daemon; until_ '[ -e /run/user/1/systemd/private ]'; for d in DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1/bus XDG_RUNTIME_DIR=/run/user/1; do env $d `+launch+"--user --pipe echo started </dev/null 2>&1 | grep -c \"connect to the user's bus at\\|started\"; done; loginctl disable-linger daemon", "1\n1")
			step("kept", user+launch+"--user --keep-unit --register=no"+payload+" & "+await+"systemctl --user is-active machine-um.scope; kill $!; wait", "inactive\nasked")
			if suite == tree.Suite {
				// 252 has no systemd-machined for users.
				step("auto", user+launch+"--user --pipe echo started </dev/null 2>&1 | tr -d '\\r' | sed 's/org.*files/NAME/'", "launch: register machine um: The name NAME; machinectl will not show the machine\nstarted")
				step("yes", user+launch+"--user --register=yes --pipe echo started </dev/null 2>&1 | sed 's/org.*files/NAME/'; machinectl list --no-legend | wc -l", "launch: register machine um: The name NAME\n  from:  --register\n0")
			} else {
				step("machine", user+launch+"--user --register=yes"+payload+" & "+await+
					"machinectl --user list --no-legend | tr -s ' ' | cut -d' ' -f1-3; machinectl --user show -p Unit -p RootDirectory --value um; machinectl list --no-legend | wc -l; machinectl --user terminate um; wait; machinectl --user list --no-legend | wc -l",
					"um container systemd-nspawn\nmachine-um.scope\n/var/lib/machines/c1\n0\nasked\n0")
				step("machine without a bus", "XDG_RUNTIME_DIR=/run/alone "+launch+"--user --register=yes"+payload+" & "+await+user+
					"machinectl --user show -p Name -p RootDirectory --value um; kill $!; wait; machinectl --user list --no-legend | wc -l", "um\n/var/lib/machines/c1\nasked\n0")
			}
			step("nothing is left", user+"ls /run/launch; systemctl --user list-units --no-legend 'machine-*' | wc -l; systemctl --user list-units --no-legend --state=failed 'machine*' | wc -l", "0\n0")
		})
	}
}
