package compare

import (
	"fmt"
	"strings"
)

// A form is one way to write an option, or a line of a settings file, and what
// shows what became of it. All but the name is shell code: the words of the
// command line, what is done before in the directory that has the tree in cmp,
// what the machine runs, and what is looked at when it has ended.
type form struct {
	name, args    string
	env           string
	setup         string
	payload       string
	after         string
	differs       string // why it is another thing under launch
	bare          bool   // without the usual options
	withoutScript bool   // the words have a command of their own, or none
}

// usual is said before the words of each form that isn't bare.
const usual = "-q -D /w/cmp -M cmp --register=no --keep-unit -P --timezone=off --resolv-conf=off --link-journal=no"

// booted makes an init that shows what it was started with.
const booted = `mkdir cmp/usr/lib/systemd; printf '#!/bin/sh\necho init "$@"; env | sort\nexit 5\n' >cmp/usr/lib/systemd/systemd; chmod 755 cmp/usr/lib/systemd/systemd`

// forms lists them all.
func forms() (list []form) {
	add := func(f form) { list = append(list, f) }
	// each adds one form for each value of an option.
	each := func(option, payload, values string) {
		for v := range strings.SplitSeq(values, "|") {
			add(form{name: option + "=" + v, args: fmt.Sprintf("'--%s=%s'", option, v), payload: payload})
		}
	}
	// key adds a file of the administrator's for each value of a key.
	key := func(section, key, payload, values string) {
		for v := range strings.SplitSeq(values, "|") {
			add(form{name: key + "=" + v, setup: fmt.Sprintf("printf '%%s\\n' '[%s]' '%s=%s' >/etc/systemd/nspawn/cmp.nspawn", section, key, v), payload: payload})
		}
	}
	differs := func(reason string, names ...string) {
		for i := range list {
			for _, n := range names {
				if list[i].name == n {
					list[i].differs = reason
				}
			}
		}
	}
	const status, bounding, hold = "grep NoNewPrivs /proc/self/status", "grep CapBnd /proc/self/status", "cat /proc/self/limits"
	const mounts = `cut -d' ' -f5,6 /proc/self/mountinfo | grep -e /mnt -e /opt | sort`
	const bools = "yes|no|1|0|true|false|on|off|t|f|y|n|YES|oN||maybe|2"

	each("no-new-privileges", status, bools)
	each("suppress-sync", "", bools)
	each("volatile", "ls -d /opt/data /srv/secret 2>/dev/null; true", bools)
	each("private-users", "cat /proc/self/uid_map; "+bounding, bools+"|65536|0:65536|1:1|:5|65536:0|4294967295|4294967294:1|0x10000|65536:65536:1|identity|pick|managed|bogus")
	for _, words := range []string{"--private-users-ownership=map", "--private-users-ownership=off", "--private-users-ownership=map --private-users=no", "--private-users-chown", "--private-users-ownership=off -U",
		"--private-users-chown -U", "-U --private-users=131072", "--private-users=131072 -U"} {
		add(form{name: "owners " + words, args: words, payload: "cat /proc/self/uid_map; stat -c %u /etc", after: "stat -c %u cmp/etc"})
	}
	each("setenv", "env | sort", `A=b|A|A=|=b||A B=c|1A=x|A-B=c|A=%n|A=\x41`)
	each("chdir", "pwd", `/|/opt/data|/opt/../etc|/proc|/sys/x|/dev||opt|/nope|/opt/data/file`)
	each("uid", "id -u; pwd", `root|alice||bob|al ice|../x|-1|99999999999`)
	each("kill-signal", "", `TERM|SIGTERM|15|SIGRTMIN+3|SIGRTMAX-1|0|-1|65|64||FOO|SIGRTMIN+31`)
	each("hostname", "hostname", `other|a.b.c|-x|x-|x_Y|.x|a..b|a b`)
	each("uuid", "echo $container_uuid", `3f0d8a526b1c4e7d9a2051c4e8f7b6d1|3F0D8A52-6B1C-4E7D-9A20-51C4E8F7B6D1|0|00000000000000000000000000000000|`)
	each("personality", "/bin/busybox uname -m", "x86-64||mips")
	each("capability", bounding, `CAP_NET_ADMIN|net_admin|cap_syslog|all|ALL||12|63|64|CAP_NET_ADMIN,CAP_SYSLOG|CAP_NET_ADMIN CAP_SYSLOG`)
	each("drop-capability", bounding, `CAP_KILL|all||CAP_KILL,CAP_CHOWN|CAP_FOO`)
	each("rlimit", hold, `NOFILE=100|RLIMIT_NOFILE=100:200|LimitNOFILE=1K|NOFILE=200:100|NOFILE=infinity|NOFILE=|NOFILE|FOO=1|CPU=1min|NICE=+5|NICE=41|MEMLOCK=1M:2M|RTTIME=5|STACK=-1`)
	each("oom-score-adjust", "cat /proc/self/oom_score_adj", `0|500|1001|-1001||x`)
	each("cpu-affinity", "grep Cpus_allowed: /proc/self/status", `0|0-1|0,1|1-0||x|0-`)
	each("settings", "", `yes|no|override|trusted|on||maybe`)
	each("set-credential", "ls -l /run/host/credentials | cut -c1-10; cat /run/host/credentials/*", `a:b|a:|a|:b|a:\x41\x00B|a:\101|a/b:c|..:c|a b:c||a:b:c`)
	each("resolv-conf", "", "off|auto|bogus||yes")
	each("timezone", "", "off|auto|bogus||yes")
	each("link-journal", "", "no|auto|bogus||yes")
	each("console", "", "pipe|bogus|")
	each("register", "", "no|bogus|")
	each("background", "", "|44|44;1|38;2;1;2;3|foo|;|4;;4")
	each("network-namespace-path", "", "|/nope|/etc/passwd|/proc/self/ns/mnt|rel|/proc/self/ns/net")
	const lab = "ip netns del lab 2>/dev/null; ip netns add lab; ip -n lab link add here type veth peer name there;"
	for _, words := range []string{"", "--private-network", "-U", "--private-users=131072", "--capability=CAP_NET_ADMIN", "--network-veth", "--private-network -U"} {
		add(form{name: "in a network that is there " + words, setup: lab, args: "--network-namespace-path=/run/netns/lab " + words,
			payload: bounding + "; ls /sys /sys/class/net; cat /sys/class/net/*/flags; cut -d: -f1 /proc/net/dev; " + `cut -d' ' -f5,6 /proc/self/mountinfo | grep -e ' /sys' -e /proc/sys | sort -u`, after: "ip netns del lab"})
	}
	// What is on the host meanwhile: names, addresses, bridges, and nothing afterwards.
	// Whether the ends are up is for a network manager, which isn't there.
	const links = `ip -br link | sed 's/@[^ ]*//; s/  *[A-Z]*  */ /; s/<.*//; s/^br9 .*/br9/' | sort; ls -d /sys/class/net/*/brif/*`
	for _, words := range []string{"-n", "--network-bridge=br9", "--network-bridge=none", "--network-bridge=lo", "--network-bridge=", "--network-zone=lab", "--network-zone=twelvechars12", "--network-zone=a/b",
		"--network-zone=lab --network-bridge=br9", "--network-veth-extra=one", "--network-veth-extra=one:two --network-veth-extra=three:", "--network-veth-extra=one:two:three", "--network-veth-extra=:two",
		"--network-veth-extra=one:host0 -n", "--network-veth-extra=lo", "--network-veth-extra=one -n --network-bridge=br9", "--network-veth-extra=7", "--network-zone=lab -U", "--network-bridge=br9 -U --network-veth-extra=one",
		"--network-zone=lab --network-namespace-path=/proc/self/ns/net", "--network-bridge=br9 -M a-machine-with-a-long-name"} {
		add(form{name: "cable " + words, setup: "ip link add br9 type bridge 2>/dev/null; (sleep 0.5; " + links + " >/run/links) &", args: words,
			payload: "sleep 1; for i in /sys/class/net/*; do echo ${i##*/} $(cat $i/address); done; " + bounding, after: "wait; cat /run/links; " + links})
	}
	add(form{name: "a network by a relative path", setup: lab + "cd /run/netns", args: "--network-namespace-path=lab", payload: "cut -d: -f1 /proc/net/dev", after: "ip netns del lab"})
	add(form{name: "a network in a file", setup: lab + "printf '[Network]\\nNamespacePath=/run/netns/lab\\n' >/etc/systemd/nspawn/cmp.nspawn", payload: "cut -d: -f1 /proc/net/dev", after: "ip netns del lab"})
	add(form{name: "a network in a file that isn't trusted", setup: lab + "printf '[Network]\\nNamespacePath=/run/netns/lab\\n' >cmp.nspawn", payload: "cut -d: -f1 /proc/net/dev", after: "ip netns del lab"})

	const looked = `; ls -ln /mnt /mnt/x 2>/dev/null | sed 's/ [A-Z][a-z][a-z]  *[0-9]* [0-9:]*//'`
	for _, f := range []string{
		"d:/mnt/x", "./d:/mnt/x", "../w/d:/mnt/x", "ff:/mnt/x", "dl:/mnt/x", `a\:b:/mnt/x`, `a\:b:/mnt/x\:y`, "a b:/mnt/x", ":", "", "d:", ":/mnt/x", "d:mnt/x", "d:/lnk/y",
		"d:/opt/data/file", "ff:/opt/data", "nope:/mnt/x", "d:/mnt/x:norbind", "d:/mnt/x:idmap", "d:/mnt/x:rootidmap", "d:/mnt/x:owneridmap", "d:/mnt/x:ro", "d:/mnt/x:,", "+/opt:/mnt/x", "+opt:/mnt/x",
	} {
		for _, users := range []string{"", " --private-users=131072 --private-users-ownership=map"} {
			add(form{name: "bind=" + f + users, args: "'--bind=" + f + "'" + users, payload: mounts + looked,
				setup: `mkdir -p d; echo x >d/f; echo y >ff; chown 1000:1000 d d/f; ln -s d dl; echo z >a:b; echo q >'a b'; ln -s /opt cmp/lnk`,
				after: `ls -ln d | sed 's/ [A-Z][a-z][a-z]  *[0-9]* [0-9:]*//'`})
		}
	}
	for _, f := range []string{"low:new:/mnt/o", "low:no/new:/mnt/o", "low:lost:/mnt/o", "low:ff/x:/mnt/o", "low:ff:/mnt/o"} {
		for _, users := range []string{"", " --private-users=131072 --private-users-ownership=map"} {
			add(form{name: "a missing upper directory " + f + users, args: "--overlay=" + f + users, setup: "mkdir low; echo 1 >low/a; ln -s nope lost; echo >ff",
				payload: "stat -c '%a %u' /mnt/o; cat /mnt/o/a; echo new >/mnt/o/n", after: "stat -c '%n %u %a' new new/* lost; ls -d .#*"})
		}
	}
	differs("under systemd-nspawn the machine can't write to what was made for it", "a missing upper directory low:new:/mnt/o --private-users=131072 --private-users-ownership=map")
	for _, words := range []string{"--bind=d:/run/host/x", "--bind-ro=ff:/run/host/a/b", "--tmpfs=/run/host/t", "--overlay=d::/run/host/o", "--tmpfs=/run/host/t --bind=d:/run/host/t/e", "--bind=d:/run/host/x -U"} {
		add(form{name: "below /run/host " + words, args: words, setup: "mkdir d; echo x >d/f; echo y >ff",
			payload: "find /run/host/[atox] | sort | xargs stat -c '%n %F %a %u'; cut -d' ' -f5,6 /proc/self/mountinfo | grep '/run/host/[atox] ' | sort; touch /run/host/z"})
	}
	each("tmpfs", mounts+`; stat -c '%a %u %g' /mnt/t`, `/mnt/t|/mnt/t:|/mnt/t:size=1m|/mnt/t:mode=700|/mnt/t:ro|/mnt/t:noexec,nosuid,nodev|/mnt/t:exec,dev|/mnt/t:suid|/mnt/t:rw|/mnt/t:strictatime|/mnt/t:foo|/mnt/t:uid=1000||mnt|/mnt/t:size=1m,noatime`)
	differs("mount(2) lets strictatime, which systemd-nspawn adds, win", "tmpfs=/mnt/t:size=1m,noatime")
	for _, v := range []string{"/mnt/t:ro", "/mnt/t:noexec", "/mnt/t"} {
		add(form{name: "tmpfs, users " + v, args: "--private-users=131072 --private-users-ownership=map --tmpfs=" + v, payload: mounts + `; stat -c '%a %u %g' /mnt/t`})
	}

	// Settings files.
	for _, s := range [][3]string{
		{"file is a link", "printf '[Exec]\\nEnvironment=A=1\\n' >x; ln -s /w/x /etc/systemd/nspawn/cmp.nspawn", ""},
		{"file is a link to nothing", "ln -s /nope /etc/systemd/nspawn/cmp.nspawn; printf '[Exec]\\nEnvironment=A=1\\n' >cmp.nspawn", ""},
		{"file is a link to null", "ln -s /dev/null /etc/systemd/nspawn/cmp.nspawn; printf '[Exec]\\nEnvironment=A=1\\n' >cmp.nspawn", ""},
		{"file is a directory", "mkdir /etc/systemd/nspawn/cmp.nspawn", ""},
		{"file has a bad header", "printf '[Exec\\nEnvironment=A=1\\n' >/etc/systemd/nspawn/cmp.nspawn", ""},
	} {
		add(form{name: s[0], setup: s[1], payload: `echo "A is $A"`})
	}
	key("Exec", "Environment", "env | sort", `A=b B=c|"A=b c" B=d|A=b c`)
	differs("systemd-nspawn hands out a word that is no variable, too, and loses others by it", "Environment=A=b c")
	key("Exec", "Capability", bounding, "CAP_SYSLOG|CAP_NEWER CAP_SYSLOG|CAP_NET_ADMIN,CAP_SYSLOG|all|")
	key("Exec", "DropCapability", bounding, "CAP_KILL|CAP_NEWER CAP_KILL|")
	each("system-call-filter", "mkdir /tmp/a; chroot / true; hostname x; grep Seccomp: /proc/self/status", "~mkdir|~chroot sethostname|~@file-system|~seccomp|~prctl|~execve|~mkdir:EPERM|@nope|~@nope mkdir|mkdir|~|")
	const sockets = "ip link >/dev/null && echo netlink; ping -c1 127.0.0.1 2>&1 | grep -c transmitted"
	each("restrict-address-families", sockets, "AF_INET|~AF_INET|none||AF_NOPE|af_inet|INET|2|~none|AF_INET,AF_UNIX|AF_INET6 AF_NETLINK")
	key("Exec", "RestrictAddressFamilies", sockets, "AF_INET|~AF_INET|none||AF_NOPE|AF_NOPE AF_NETLINK|~AF_NOPE AF_NETLINK|af_inet|INET|2|~none|AF_INET,AF_UNIX|~")
	key("Exec", "PrivateUsers", "cat /proc/self/uid_map; "+bounding, "yes|no|0|1|identity|131072|managed|foo|")
	key("Files", "Bind", mounts, "/etc:/mnt/x|/etc:/mnt/x:norbind|/etc:/mnt/x:foo|/etc:rel|/nope|")
	key("Network", "Bridge", "cat /sys/class/net/host0/address", "br9|none|a/b|")
	key("Network", "Zone", "cat /sys/class/net/host0/address", "lab|a/b")
	key("Network", "VirtualEthernetExtra", "cat /sys/class/net/*/address", "one:two|one|a:b:c|")
	key("Network", "Interface", "", "none|a/b|eth0:a:b|eth0:all")
	key("Network", "MACVLAN", "", "none|a/b|eth0:a:b|eth0:all")
	key("Network", "IPVLAN", "", "none|a/b|eth0:a:b|eth0:all")

	// Which file is read: each of these says in A where it lies.
	for _, f := range [][3]string{
		{"/etc/systemd/nspawn/cmp /run/systemd/nspawn/cmp /w/cmp", "-D /w/cmp", ""}, {"/run/systemd/nspawn/cmp /w/cmp", "-D /w/cmp", ""}, {"/usr/lib/systemd/nspawn/cmp /w/cmp/cmp", "-D /w/cmp", ""},
		{"/w/cmp /w/other", "-D /w/cmp -M other", ""}, {"/etc/systemd/nspawn/cmp", "-D /w/cmp -M other", ""}, {"/w/cmp", "-x -D /w/cmp", ""}, {"/w/cmp /w/other", "-x -D /w/cmp -M other", ""}, {"/w/cmp", "", "cd cmp"},
		{"/w/cmp /w/new", "-D /w/new --template=/w/cmp", ""}, {"/w/cmp", "-x --template=/w/cmp", ""}, {"/w/ab /w/a_b", "-D /w/a_b", "mv cmp a_b"}, {"/w/A /w/a", "-D /w/A", "mv cmp A"},
		{"/w/s/cmp /w/link", "-D /w/link", "mv cmp s; mkdir t; mv s t/cmp; mkdir s; mv t/cmp s/cmp; ln -s s/cmp link"},
	} {
		add(form{name: "which file of " + f[0] + ", " + f[1], bare: true, args: "-q -P --register=no --keep-unit " + f[1],
			setup:   f[2] + "\nhere=$PWD; for i in " + f[0] + "; do mkdir -p ${i%/*}; printf \"[Exec]\\nEnvironment=A=$i\\n\" >$i.nspawn; done; cd $here",
			payload: "echo $A", after: "rm -rf /run/systemd/nspawn/*.nspawn /usr/lib/systemd/nspawn"})
	}

	// Who wins: what the command line says hides what a file says of the same, and
	// nothing else; with override it is the other way round.
	const whole = `[Exec]\nEnvironment=A=1\nUser=alice\nWorkingDirectory=/opt\nCapability=CAP_SYSLOG\nDropCapability=CAP_CHOWN\nAmbientCapability=CAP_KILL\nNoNewPrivileges=yes\nKillSignal=INT\n` +
		`Personality=x86\nMachineID=3f0d8a526b1c4e7d9a2051c4e8f7b6d1\nPrivateUsers=131072\nNotifyReady=yes\nSystemCallFilter=~mkdir\nRestrictAddressFamilies=AF_UNIX AF_NETLINK\n` +
		`LimitNOFILE=99\nLimitCORE=7\nHostname=filehost\nCPUAffinity=1\nSuppressSync=yes\n[Files]\nReadOnly=yes\nBind=/etc:/mnt/a\nTemporaryFileSystem=/mnt/b\nOverlay=/w/low:/w/up:/mnt/c\n` +
		`[Network]\nPrivate=yes\nVirtualEthernet=yes\n`
	for _, words := range []string{"", "--as-pid2", "-E B=2", "-u root", "--chdir=/srv", "--capability=CAP_SYS_MODULE", "--drop-capability=CAP_KILL", "--ambient-capability=CAP_CHOWN", "--no-new-privileges=no",
		"--kill-signal=TERM", "--personality=x86-64", "--uuid=4f0d8a526b1c4e7d9a2051c4e8f7b6d1", "--private-users=196608", "-U", "--private-users=no", "--private-users-ownership=map", "--notify-ready=no",
		"--system-call-filter=~chroot", "--restrict-address-families='AF_INET AF_UNIX'", "--rlimit=NOFILE=55", "--hostname=other", "--cpu-affinity=0", "--suppress-sync=no", "--read-only", "--volatile=state",
		"--bind=/etc:/mnt/z", "--tmpfs=/mnt/y", "--overlay=low:up:/mnt/z", "--private-network", "-n", "-n -p 81"} {
		for _, mode := range []string{"", " --settings=override"} {
			add(form{name: "beside a whole file " + words + mode, args: words + mode, setup: "mkdir -p low up cmp/mnt/a cmp/mnt/b cmp/mnt/c cmp/mnt/y cmp/mnt/z; printf '" + whole + "' >/etc/systemd/nspawn/cmp.nspawn",
				payload: "env | sort; id -u; pwd; hostname; busybox uname -m; grep -e CapBnd -e CapAmb -e NoNew -e Cpus_allowed: /proc/self/status; grep -e open -e core /proc/self/limits; cat /proc/self/uid_map | wc -c; " +
					"cut -d' ' -f5,6 /proc/self/mountinfo | grep -E '^/(mnt.*|var|) ' | sort; ls /sys/class/net; mkdir /tmp/q; touch /zz"})
		}
	}

	// What the tree is like.
	for _, words := range []string{"", "--volatile", "--volatile=state", "--volatile=overlay", "-U"} {
		add(form{name: "usr is a link " + words, args: words, setup: "mv cmp/usr cmp/u; ln -s u cmp/usr", payload: "stat -c %F /usr; ls /; cut -d' ' -f4-6 /proc/self/mountinfo | grep /u | sort"})
	}
	for name, to := range map[string]string{"nothing": "nope", "itself": "usr", "a file": "etc/hostname"} {
		add(form{name: "usr is a link to " + name, setup: "mv cmp/usr cmp/u; ln -s " + to + " cmp/usr"})
	}
	const unchanging = "mkdir -p /var/lib/machines; mount -t tmpfs x /var/lib/machines; cp -a cmp /var/lib/machines/foo; busybox chattr +i /var/lib/machines/foo;"
	for _, words := range []string{"", "-x", "-U", "--volatile=state", "--private-users=131072 --private-users-ownership=chown", "-D /var/lib/machines/foo"} {
		add(form{name: "a tree that can't be changed " + words, bare: true, args: "-q -P -M foo --register=no --keep-unit " + words, setup: unchanging,
			payload: "touch /x; touch /opt/x; cut -d' ' -f5,6 /proc/self/mountinfo | grep -e '^/ ' -e ' /var'", after: "umount /var/lib/machines"})
	}
	add(form{name: "a tree that can't be changed and a file", bare: true, args: "-q -P -M foo --register=no --keep-unit", setup: unchanging + "printf '[Files]\nReadOnly=no\n' >/etc/systemd/nspawn/foo.nspawn",
		payload: "touch /x; touch /opt/x; cut -d' ' -f5,6 /proc/self/mountinfo | grep '^/ '", after: "umount /var/lib/machines"})
	const below = "mkdir -p /usr/lib/machines; mount -t tmpfs x /usr/lib/machines; cp -a cmp /usr/lib/machines/foo;"
	for name, f := range map[string]form{
		"by its name": {}, "copied": {args: "-x"}, "with users": {args: "-U"}, "by its path": {args: "-D /usr/lib/machines/foo"},
		"with other owners": {args: "--private-users=131072 --private-users-ownership=chown"},
		"of a version":      {setup: "cd /usr/lib/machines; mkdir foo.v; mv foo foo.v/foo_1; cd /w"},
		"by a link there":   {setup: "mkdir -p /var/lib/machines; mount -t tmpfs x /var/lib/machines; ln -s /usr/lib/machines/foo /var/lib/machines/", after: "umount /var/lib/machines"},
		"by a link away":    {setup: "rm -rf /usr/lib/machines/foo; ln -s /w/cmp /usr/lib/machines/foo"},
		"and a file":        {setup: `printf '[Files]\nReadOnly=no\n' >/etc/systemd/nspawn/foo.nspawn`},
	} {
		add(form{name: "a tree below /usr " + name, bare: true, args: "-q -P -M foo --register=no --keep-unit " + f.args, setup: below + f.setup,
			payload: "touch /opt/x; cut -d' ' -f5,6 /proc/self/mountinfo | grep '^/ '", after: "umount /usr/lib/machines; " + f.after})
	}
	for _, dir := range []string{"-x-", "--x--", "a b..c-", "a-.b", "a.-b", "a.-.b", "_-a_.b_-", ".-.", "---", "a..", "a--b", "a.b.", "...a", "-.a", "é-b"} {
		add(form{name: "a name of " + dir, bare: true, args: "-q -P --register=no --keep-unit -D '/w/" + dir + "'", setup: "mv cmp './" + dir + "'", payload: "uname -n"})
	}

	// What is run.
	for _, words := range []string{"plain a b", "/usr/bin/plain a", "-a plain", "usr/bin/plain", "--chdir=/usr/bin ./plain", "-E PATH=. --chdir=/usr/bin plain", "empty", "--uid=nobody plain", "unreadable", "nameless"} {
		add(form{name: "a script without a first line " + words, args: words, withoutScript: true, setup: `cd cmp/usr/bin; printf 'echo "$0 $@"; exit 3' >plain; : >empty; printf '#!\necho nameless' >nameless;
			cp plain unreadable; chmod 755 plain empty nameless; chmod 111 unreadable; echo nobody:x:65534:65534::/:/bin/sh >>../../etc/passwd; cd /w`})
	}
	add(form{name: "a script without a first line or a shell", args: "plain", withoutScript: true, setup: "printf 'exit 3' >cmp/usr/bin/plain; chmod 755 cmp/usr/bin/plain; rm cmp/usr/bin/sh"})
	add(form{name: "boot words", setup: booted, args: `-b a b=c d.e=f - -- =x g-h=i 'a b=c' B="x y" 1a=b _=y`, withoutScript: true})
	add(form{name: "boot words beside variables", setup: booted, args: `-b -E A=1 -E B=2 A=3 PATH=/bin`, withoutScript: true})
	add(form{name: "boot without os-release", setup: booted + "; rm cmp/etc/os-release", args: "-b", withoutScript: true})
	for _, words := range []string{"/nope", "etc/passwd", "/etc/passwd", "/etc", "''", "cat /etc/hostname", "-- cat /etc/hostname",
		"sh -c 'exit 133'", "sh -c 'exit 255'", "-a sh -c 'kill -9 $$'", "-a sh -c 'exit 7'", "-a sh -c 'exit 133'", "-b"} {
		add(form{name: "run " + words, args: words, withoutScript: true})
	}
	for _, v := range []string{"./ff", "../w/ff", "cmp/etc/hostname", "/w/ff", "/nope", "name"} {
		add(form{name: "load-credential=a:" + v, args: "--load-credential=a:" + v, setup: "echo f >ff", payload: "cat /run/host/credentials/a"})
	}

	// Files of the tree.
	for name, host := range map[string]string{"missing": "", "a file": "echo x >/etc/localtime;", "a link to nothing": "ln -s /nope /etc/localtime;"} {
		add(form{name: "timezone=symlink, the host's is " + name, args: "--timezone=symlink", setup: "rm -f /etc/localtime;" + host + "mkdir -p cmp/usr/share/zoneinfo; echo old >cmp/etc/localtime",
			payload: "readlink /etc/localtime; cat /etc/localtime", after: "rm -f /etc/localtime"})
	}
	for _, m := range []string{"bind-host", "bind-uplink", "copy-host", "replace-host", "delete", "off"} {
		add(form{name: "resolv-conf=" + m + " over a link", args: "--resolv-conf=" + m,
			setup:   "mkdir -p /run/systemd/resolve; echo up >/run/systemd/resolve/resolv.conf; echo h >/etc/resolv.conf; ln -s ../run/foo/resolv.conf cmp/etc/resolv.conf",
			payload: `cat /etc/resolv.conf; readlink /etc/resolv.conf; ls /run/foo; cut -d' ' -f5,6 /proc/self/mountinfo | grep resolv`, after: "readlink cmp/etc/resolv.conf"})
	}
	for _, d := range []string{"-x", "x-", "x.-y", "x-.y", "-", "a--b", "-.-", "a.-", "-a-.-b-", "a-.", "..a-b..", "a_b", "é", strings.Repeat("a", 63) + "-b"} {
		add(form{name: "no name and the directory " + d, bare: true, setup: "mv cmp ./" + d, args: "-q -P -D /w/" + d + " --register=no --keep-unit", payload: "hostname"})
	}
	add(form{name: "no name and a copy", bare: true, args: "-x -q -P -D /w/cmp --register=no --keep-unit", payload: "hostname | cut -c1-4; hostname | wc -c"})
	add(form{name: "template", bare: true, args: "-q -P -D /w/new --template=/w/cmp --register=no --keep-unit", payload: "hostname", after: "ls new | wc -l"})
	add(form{name: "working directory", bare: true, setup: "cd cmp", args: "-q -P --register=no --keep-unit", payload: "hostname"})

	for _, words := range []string{"", "-U", "--private-users=131072", "--capability=CAP_NET_ADMIN"} {
		differs("/sys shows the network that the machine is in, and not the host's", "in a network that is there "+words)
	}
	differs("systemd-nspawn leaves out the whole line, and not only the name", "RestrictAddressFamilies=AF_NOPE AF_NETLINK", "RestrictAddressFamilies=~AF_NOPE AF_NETLINK")
	differs("a network that a file gives the machine comes with the right to rule it, whatever is said about other rights", "beside a whole file --capability=CAP_SYS_MODULE",
		"beside a whole file --drop-capability=CAP_KILL", "beside a whole file --ambient-capability=CAP_CHOWN")
	differs("systemd-nspawn fails to show the network's part of /sys", "in a network that is there --private-network -U")
	differs("systemd-nspawn hands out the name alone, which is no variable", "setenv=A")
	return list
}
