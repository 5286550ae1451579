package host

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"launch/internal/itest/tree"
)

// long is for what takes minutes.
func long(t *testing.T) {
	t.Helper()
	if !strings.Contains(os.Getenv("LAUNCH_TEST"), "host") {
		t.Skip("slow: runs with LAUNCH_TEST=host (make host)")
	}
}

// suites are what hosts are made of: the systemd of 2022, and that of today.
var suites = []string{tree.Suite, tree.PeerSuite}

// steps runs scripts one after the other, and compares what they say.
func steps(t *testing.T, h *Host) func(what, script, want string) {
	return func(what, script, want string) {
		t.Helper()
		if got := run(t, h, script); got != want {
			t.Errorf("%s: %q, want %q\n%s", what, got, want, h.Journal())
		}
	}
}

// TestVerbs: everything that machinectl, systemctl and their like do with a
// machine, they do with one of launch's.
func TestVerbs(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1", "c2")
			h.Write("etc/nsswitch.conf", "passwd: files mymachines\ngroup: files mymachines\nhosts: files mymachines dns\n", 0o644)
			// machinectl bind is for machines with the host's users.
			h.Write("etc/systemd/nspawn/c2.nspawn", "[Exec]\nPrivateUsers=no\n", 0o644)
			h.Write("etc/systemd/system/systemd-nspawn@.service.d/launch.conf", h.Read("usr/share/launch/systemd-nspawn@.service.d/launch.conf"), 0o644)
			run(t, h, "systemctl daemon-reload")
			step := steps(t, h)
			step("start", "systemctl start launch@c1 launch@c2 && up c1 && up c2 && state", "success 0 active running")
			step("list", `until_ 'machinectl list --no-legend | grep "^c1 " | grep -q "192[.]168[.]\|10[.]\|172[.]"'; machinectl list --no-legend | grep '^c1 ' | tr -s ' ' | cut -d' ' -f1-5`, "c1 container systemd-nspawn debian 12")
			step("show", `machinectl show c1 -p Name -p Id -p Service -p Unit -p Class -p RootDirectory -p State; busctl get-property org.freedesktop.machine1 /org/freedesktop/machine1/machine/c1 org.freedesktop.machine1.Machine NetworkInterfaces | sed "s/ $(cat /sys/class/net/ve-c1/ifindex)$/ interface/"`,
				"Name=c1\nId="+tree.MachineID+"\nService=systemd-nspawn\nUnit=launch@c1.service\nClass=container\nRootDirectory=/var/lib/machines/c1\nState=running\nai 1 interface")
			step("status", "machinectl status c1 | grep -c 'Unit: launch@c1.service\\|Iface: ve-c1\\|OS: Debian'", "3")
			step("uid shift", `cut -c-22 /proc/$(leader c1)/uid_map | tr -s ' ' | cut -d' ' -f2,3 | grep -c '^0 [1-9]'; machinectl show-image c1 -p Name --value`, "1\nc1")
			step("shell", `machinectl -q shell c1 /bin/sh -c 'echo in $(hostname) as $(id -un)' </dev/null | tr -d '\r'`, "in c1 as root")
			step("shell as another", `machinectl -q shell nobody@c1 /bin/sh -c 'id -un' </dev/null | tr -d '\r'`, "nobody")
			step("login", `(sleep 5) | timeout 4 script -qec "machinectl login c1" /dev/null 2>&1 | grep -c 'c1 login:'`, "1")
			step("systemd-run", "systemd-run -q -M c1 --wait --pipe /bin/hostname", "c1")
			step("systemctl", "systemctl -M c1 show -p Version --value | grep -c ^252; systemctl -M c1 is-active dbus", "1\nactive")
			step("journalctl", "systemd-run -q -M c1 --wait --pipe /bin/sh -c 'echo a word to the journal | systemd-cat -t itest; journalctl --sync' && journalctl -M c1 -t itest -o cat", "a word to the journal")
			step("copy", `echo there >/root/to; machinectl copy-to c1 /root/to /root/to && machinectl copy-from c1 /root/to /root/back && cat /root/back; nsenter -t $(leader c1) -a stat -c %u /root/to`, "there\n0")
			step("bind", `mkdir -p /srv/shared && echo shared >/srv/shared/file; machinectl bind c2 --mkdir /srv/shared /srv/got && nsenter -t $(leader c2) -a cat /srv/got/file; machinectl bind c1 --mkdir /srv/shared /srv/got 2>/dev/null || echo refused`, "shared\nrefused")
			step("names", `getent ahostsv4 c1 | head -n1 | grep -c '192[.]168\|^10[.]\|^172[.]'; [ "u $(tr -s ' ' </proc/$(leader c1)/uid_map | cut -d' ' -f3)" = "$(busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager MapFromMachineUser su c1 0)" ] && echo mapped`, "1\nmapped")
			step("ping", `a=$(getent ahostsv4 c1 | head -n1 | cut -d' ' -f1); nsenter -t $(leader c1) -n ip -o -4 addr show dev host0 | grep -c "$a"; nsenter -t $(leader c1) -n ip route get $(ip -o -4 addr show dev ve-c1 | tr -s ' ' | cut -d' ' -f4 | cut -d/ -f1) | grep -c 'dev host0'`, "1\n1")
			step("kill", `a=$(leader c2); machinectl kill c2 --kill-whom=leader --signal=SIGRTMIN+5 2>/dev/null || machinectl kill c2 --kill-who=leader --signal=SIGRTMIN+5; until_ "[ \$(leader c2) ] && [ \$(leader c2) != $a ]"; up c2; systemctl is-active launch@c2`, "active")
			step("reboot", `a=$(leader c1); machinectl reboot c1; until_ "[ \$(leader c1) ] && [ \$(leader c1) != $a ]"; up c1; state`, "success 1 active running")
			step("terminate", "machinectl terminate c1; gone c1; ended launch@c1; state", "success 0 inactive dead")
			// machinectl's own unit is launch's by the drop-in.
			step("machinectl start", `machinectl start c1 && up c1; systemctl show -p Unit -p MainPID systemd-nspawn@c1 --value | xargs -I% readlink /proc/%/exe; machinectl show c1 -p Unit --value`, "/usr/bin/launch\nsystemd-nspawn@c1.service")
			step("machinectl stop", "machinectl stop c1; gone c1; ended systemd-nspawn@c1; systemctl is-failed systemd-nspawn@c1 || true", "inactive")
			step("machinectl enable", "machinectl enable c1 2>/dev/null; systemctl is-enabled systemd-nspawn@c1 machines.target; machinectl disable c1 2>/dev/null; systemctl is-enabled systemd-nspawn@c1 || true", "enabled\nenabled\ndisabled")
			step("poweroff", "machinectl poweroff c2; gone c2; ended launch@c2; systemctl is-failed launch@c2 || true", "inactive")
			step("nothing is left", "ls /run/launch /run/systemd/machines; ip -o link | grep -c ve-; ls -d /sys/fs/cgroup/machine.slice/* 2>/dev/null | grep launch || true", "/run/launch:\n\n/run/systemd/machines:\n0")
		})
	}
}

// TestNotified: what a machine says of itself reaches the host's systemd, and what
// it wants to be kept comes back.
func TestNotified(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite)
			step := steps(t, h)
			h.Write("root/payload", `#!/usr/bin/perl
# The first process itself says it: from others it would not be believed.
use Socket;
$| = 1;
$SIG{TERM} = sub { exit 0 };
my $f;
my $given = $ENV{LISTEN_FDNAMES} && open($f, "<&=", 3) ? <$f> : "nothing\n";
print "given: $ENV{LISTEN_FDNAMES} $given";
socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die "socket: $!";
connect($s, sockaddr_un($ENV{NOTIFY_SOCKET})) or die "$ENV{NOTIFY_SOCKET}: $!";
my $sendmsg = (split " ", qx(uname -m))[0] eq "x86_64" ? 46 : 211;
sub tell {
	my ($text, $fd) = @_;
	my $iov = pack "P Q", $text, length $text;
	my $control = defined $fd ? pack "Q l l l x4", 20, 1, 1, $fd : "";
	syscall($sendmsg, fileno $s, my $m = pack("Q L x4 P Q P Q l x4", 0, 0, $iov, 1, $control, length $control, 0), 0) == -1 and die "sendmsg: $!";
}
select undef, undef, undef, 0.1 until -e "/root/go";
open my $keep, "<", "/root/payload" or die $!;
&tell("FDSTORE=1\nFDNAME=kept", fileno $keep) unless $ENV{LISTEN_FDNAMES};
&tell("STATUS=all is well");
&tell("READY=1");
select undef, undef, undef, 0.1 while 1;
`, 0o755)
			h.Write("etc/systemd/system/told.service", `[Service]
Type=notify
FileDescriptorStoreMax=8
ExecStart=/usr/bin/launch --quiet --keep-unit --register=no --notify-ready=yes --kill-signal=SIGTERM --console=pipe -D / --volatile=yes --bind=/root -M told /root/payload
`, 0o644)
			const show = "systemctl show told -p ActiveState -p StatusText --value | sort; "
			step("not yet", "systemctl daemon-reload; systemctl start --no-block told; until_ 'systemctl show told -p StatusText --value | grep started'; "+show, "Machine started.\nactivating")
			step("ready", "touch /root/go; until_ 'systemctl is-active told'; "+show, "Machine running: all is well\nactive")
			step("kept", "systemctl show told -p NFileDescriptorStore --value; systemctl restart told; journalctl --sync; journalctl -b -u told -o cat | grep ^given:", "1\ngiven:  nothing\ngiven: kept #!/usr/bin/perl")
			step("stopped", "systemctl stop told; systemctl show told -p ActiveState -p Result --value | sort; ls /run/launch", "inactive\nsuccess")
		})
	}
}

// TestAgain: a unit that is restarted, rebooted from inside and killed again and
// again, with systemd reloading meanwhile, always comes back.
func TestAgain(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			h := Boot(t, suite, "c1")
			again := func(what string, times int, how string) {
				t.Helper()
				out, err := h.ShFor(8*time.Minute, words+fmt.Sprintf(`
systemctl start launch@c1 && up c1 || exit 1
(while [ ! -e /run/enough ]; do systemctl daemon-reload; sleep 0.3; done) & reload=$!
for i in $(seq %d); do
	a=$(leader c1)
	%s
	until_ "[ \$(leader c1) ] && [ \$(leader c1) != $a ]" && up c1 || { echo "time $i"; systemctl status launch@c1; break; }
done
touch /run/enough; wait $reload; rm /run/enough
systemctl is-active launch@c1; machinectl list --no-legend | wc -l; ls /run/launch; journalctl -b -u launch@c1 -o cat | grep -ic 'exists\|busy\|start request repeated'`, times, how))
				if want := "active\n1\nc1\n0"; err != nil && !strings.HasSuffix(out, "0") || out != want {
					t.Errorf("%s: %q, want %q\n%s", what, out, want, h.Journal())
				}
			}
			again("restart", 20, "systemctl restart launch@c1")
			again("reboot from inside", 5, "nsenter -t $a -a systemctl reboot 2>/dev/null")
			again("kill the launcher", 5, `kill -9 $(systemctl show -p MainPID --value launch@c1); systemctl start launch@c1 || { until_ 'systemctl is-failed launch@c1'; systemctl start launch@c1; }; systemctl is-active -q launch@c1 || { until_ 'systemctl is-failed launch@c1'; systemctl start launch@c1; }`)
		})
	}
}

// TestFifty: fifty machines that are started at once all come up, each with users
// and a network of its own. The kernel lets one user watch so many files at most
// that it takes more than its default; launch says so.
func TestFifty(t *testing.T) {
	long(t)
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) { fifty(t, suite) })
	}
}

func fifty(t *testing.T, suite string) {
	const limit, machines = "/proc/sys/fs/inotify/max_user_instances", 50
	before, err := os.ReadFile(limit)
	if err != nil {
		t.Fatal(err)
	}
	raise := func(to string) {
		t.Helper()
		if err := os.WriteFile(limit, []byte(to), 0); err != nil {
			t.Skip(err)
		}
	}
	t.Cleanup(func() { raise(strings.TrimSpace(string(before))) })
	h := Boot(t, suite, "base")
	// One tree for all, each with a layer of its own.
	h.Write("etc/systemd/system/launch@.service.d/fifty.conf", "[Unit]\nRequiresMountsFor=\n[Service]\nExecStart=\nExecStart=/usr/bin/launch --quiet --keep-unit --boot --link-journal=no --network-veth -U --volatile=overlay --directory=/var/lib/machines/base --machine=%i\n", 0o644)
	run(t, h, "systemctl daemon-reload")

	// Without that, launch names what is in the way.
	if n, err := strconv.Atoi(strings.TrimSpace(string(before))); err == nil && n <= 1024 {
		out := run(t, h, `cat >/run/eat.c <<E
E
perl -e 'require "syscall.ph"; 1' 2>/dev/null; perl -e 'my @f; for (1..4000) { my $n = syscall(294, 0); last if $n < 0; push @f, $n; } print "full\n"; $| = 1; system("launch --boot -D /var/lib/machines/base --volatile=overlay -M few --console=read-only --kill-signal=SIGKILL </dev/null >/run/few 2>&1 & sleep 3; machinectl terminate few 2>/dev/null; sleep 1"); '; grep -c 'fs.inotify.max_user_instances' /run/few`)
		if !strings.HasSuffix(out, "1") {
			t.Errorf("the limit is not named: %s", out)
		}
	}
	raise("8192")
	out, err := h.ShFor(10*time.Minute, words+fmt.Sprintf(`
up() { n=0; until nsenter -t $(leader $1) -a systemctl is-system-running 2>/dev/null | grep -q 'running\|degraded'; do n=$((n + 1)); [ $n -lt 300 ] || { echo "$1 never"; return 1; }; sleep 1; done; }
began=$(date +%%s)
systemctl start $(seq -f launch@m%%g %d)
for i in $(seq %d); do up m$i || true; done
machinectl list --no-legend | grep -c 'container systemd-nspawn debian'
systemctl list-units --no-legend 'launch@m*' | grep -c 'active *running'
ip -o link | grep -c ': ve-m'
cat /proc/[0-9]*/uid_map 2>/dev/null | grep -v ' 0  *0 ' | sort -u | wc -l
echo "$(($(date +%%s) - began)) s" >/root/took
systemctl stop 'launch@m*'
machinectl list --no-legend | wc -l; ls /run/launch 2>/dev/null | wc -l; ip -o link | grep -c ': ve-m'; systemctl list-units --no-legend --state=failed 'launch@m*' | wc -l`, machines, machines))
	f := strings.Fields(out)
	if want := []string{"50", "50", "50"}; err != nil && len(f) < 3 || len(f) != 8 || !slices.Equal(f[:3], want) || f[3] < "50" || !slices.Equal(f[4:], []string{"0", "0", "0", "0"}) {
		t.Errorf("%v %q\n%s", err, out, h.Journal())
	}
	took, _ := exec.Command("cat", h.Dir+"/root/took").Output()
	t.Logf("fifty machines were up after %s", took)
}
