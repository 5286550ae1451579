# Runs in a cell with CRIU. $1 is the case. Each makes a container that counts,
# writes it into files, and brings it back; what comes out is told in words.
set -u
cd /run
mkdir -p b/rootfs/bin b/rootfs/proc b/rootfs/dev b/rootfs/data b/rootfs/sh b/rootfs/tmp b/rootfs/more "b/rootfs/odd]:x" src shsrc more
cp "$(command -v busybox)" b/rootfs/bin/
ln -sf busybox b/rootfs/bin/sh
cat >counting <<'X'
#!/bin/sh
i=0
while :; do
	i=$((i + 1))
	echo $i >/data/count
	echo $i >/tmp/count
	echo $i
	/bin/busybox sleep 0.05
done
X
chmod 755 counting
cp counting b/rootfs/bin/
# criu says that it was started.
cat >criu <<'X'
#!/bin/sh
: >/run/criu-started
exec /usr/sbin/criu "$@"
X
chmod 755 criu
oci="launch-oci --criu /run/criu"

# config SOURCE-OF-DATA OPTIONS-OF-DATA MORE-MOUNTS CAPS [TARGET]
config() {
	cat >b/config.json <<X
{"ociVersion": "1.0.2",
 "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/counting"], "env": ["PATH=/bin"], "cwd": "/",
  "capabilities": {"bounding": [$4], "effective": [$4], "permitted": [$4]}, "noNewPrivileges": true},
 "root": {"path": "rootfs"},
 "mounts": [
  {"destination": "/proc", "type": "proc", "source": "proc"},
  {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
  {"destination": "${5:-/data}", "type": "bind", "source": "$1", "options": ["rbind"$2]},
  {"destination": "/sh", "type": "bind", "source": "/run/shsrc", "options": ["bind", "rshared"]},$3
  {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777", "size=1m"]}],
 "linux": {"cgroupsPath": "/box", "rootfsPropagation": "rslave",
  "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
  "maskedPaths": ["/proc/version", "/proc/acpi", "/proc/nothing"], "readonlyPaths": ["/proc/sys"]}}
X
}
more=' {"destination": "/more", "type": "bind", "source": "/run/more", "options": ["bind"]},'
pts=' {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},'
kill='"CAP_KILL"'

begin() {
	config /run/src "" "" "$kill"
	$oci run -d --pid-file pid -b b box </dev/null >/dev/null 2>&1 || exit 9
	wait_for src
	rm -f criu-started
}
# wait_for DIR: until somebody counts in it.
wait_for() {
	rm -f "$1/count"
	for i in $(seq 100); do
		[ -s "$1/count" ] && return
		sleep 0.05
	done
	echo "nobody counts in $1"
}
# asking makes the bundle of a container with a terminal, that answers there.
asking() {
	cat >b/rootfs/bin/asking <<'X'
#!/bin/sh
while read -r line; do
	[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo "asked: $line, on a terminal"
done
X
	chmod 755 b/rootfs/bin/asking
	config /run/src "" "$pts" "$kill"
	sed -i 's|"/bin/counting"|"/bin/asking"|; s|"process": {|"process": {"terminal": true, |' b/config.json
}
# terminal SOCKET TEXT: waits for a terminal in the background.
terminal() {
	recvtty "$1" "$2" >"out-$2" 2>&1 &
	while ! [ -S "$1" ]; do sleep 0.05; done
}
# says FILE TEXT: until the text is there.
says() {
	for i in $(seq 100); do
		grep -q "$2" "$1" && return
		sleep 0.05
	done
	echo "nobody says $2"
}
checkpoint() { $oci checkpoint --image-path img "$@" box 2>&1 | sed 's/.*msg="//; s/"$//'; }
restore() { $oci restore -d --image-path img --pid-file pid -b b "$@" box </dev/null 2>err >/dev/null; status=$?; sed 's/.*msg="//; s/"$//' err; return $status; }
mounts() { sed 's/^[0-9]* [0-9]* [0-9:]* //; s/shared:[0-9]*/shared/; s/master:[0-9]*/master/' "/proc/$(cat pid)/mountinfo" | sort; }
state() { $oci state box 2>/dev/null | sed -n 's/.*"status": "\(.*\)".*/\1/p'; }
started() { if [ -e criu-started ]; then echo "criu was started"; else echo "criu was not started"; fi; }
left() { ls /run/launch-oci 2>/dev/null; ls -d /sys/fs/cgroup/box 2>/dev/null; grep -c seat /proc/self/mountinfo || :; }
end() {
	$oci delete -f box
	left
}

case $1 in
simple)
	begin
	mounts >before
	checkpoint
	state
	a=$(cat src/count)
	restore || exit 8
	wait_for src
	b=$(cat src/count)
	[ "$b" -gt "$a" ] && [ "$b" -lt $((a + 100)) ] && echo "it goes on"
	t=$(cat "/proc/$(cat pid)/root/tmp/count")
	[ "$t" -ge $((b - 1)) ] && echo "so does its tmpfs"
	mounts >after
	cmp before after && echo "with the same mounts"
	sed -n 's/^0:://p' "/proc/$(cat pid)/cgroup"
	# What is mounted on the host arrives, and the other way round.
	mkdir -p shsrc/in && mount -t tmpfs in shsrc/in
	grep -c "/sh/in " "/proc/$(cat pid)/mountinfo"
	umount shsrc/in
	state
	$oci exec box /bin/sh -c 'echo inside' 2>/dev/null
	end
	;;
cgroups)
	# A cgroup namespace of its own, and what it shows of the host's cgroups.
	config /run/src "" ' {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},' "$kill"
	mkdir -p b/rootfs/sys/fs/cgroup
	sed -i 's|{"type": "mount"}|{"type": "mount"}, {"type": "cgroup"}|' b/config.json
	cp b/config.json kept
	sees() {
		grep -c ' - cgroup2\? ' "/proc/$(cat pid)/mountinfo"
		grep ' - cgroup2 ' "/proc/$(cat pid)/mountinfo" | cut -d' ' -f4 | sort -u
		sed -n 's/^0:://p' "/proc/$(cat pid)/cgroup"
		$oci exec box /bin/busybox sed -n '/:[^/]*:\/./p; s/^0:://p' /proc/1/cgroup
	}
	$oci run -d --pid-file pid -b b box </dev/null >/dev/null 2>&1 || exit 9
	wait_for src
	sees >before
	cat before
	for mode in ignore soft; do
		checkpoint --manage-cgroups-mode $mode
		sed -i 's|"/box"|"/other/box"|' b/config.json
		restore --manage-cgroups-mode $mode || exit 8
		wait_for src && echo "$mode: it counts on"
		sees
		checkpoint --manage-cgroups-mode $mode
		cp kept b/config.json
		restore --manage-cgroups-mode $mode || exit 8
		wait_for src
		sees | cmp - before && echo "it sees the same"
		ls -d img/.criu* /sys/fs/cgroup/other 2>/dev/null
	done
	end
	;;
moved)
	begin
	checkpoint
	cp -a src elsewhere
	rm -r src
	config /run/elsewhere "" "" "$kill"
	restore || exit 8
	wait_for elsewhere && echo "it counts elsewhere"
	end
	;;
missing)
	begin
	checkpoint
	sed -i '/"\/data"/d' b/config.json
	rm -f criu-started
	restore
	started
	left
	;;
additional)
	begin
	checkpoint
	config /run/src "" "$more" "$kill"
	rm -f criu-started
	restore
	started
	left
	;;
gone)
	begin
	checkpoint
	rm -r src
	rm -f criu-started
	restore
	started
	left
	;;
link)
	begin
	checkpoint
	mv src real
	ln -s /etc src
	rm -f criu-started
	restore
	started
	left
	;;
stricter)
	begin
	checkpoint
	config /run/src ', "ro"' "" "$kill"
	rm -f criu-started
	restore
	started
	left
	;;
rights)
	begin
	checkpoint
	config /run/src "" "" ""
	restore
	sleep 0.3
	a=$(cat src/count)
	sleep 0.3
	[ "$a" = "$(cat src/count)" ] && echo "nobody counts"
	left
	;;
running)
	begin
	checkpoint --leave-running
	wait_for src && echo "it counts on"
	state
	end
	;;
ended)
	# A process that ended, and that nobody asks for.
	cat >b/rootfs/bin/ending <<'X'
#!/bin/sh
/bin/busybox true &
exec /bin/busybox tail -f /bin/ending
X
	chmod 755 b/rootfs/bin/ending
	config /run/src "" "" "$kill"
	sed -i 's|"/bin/counting"|"/bin/ending"|' b/config.json
	ended() {
		for i in $(seq 100); do
			for p in $(grep -ls "^PPid:.$(cat pid)\$" /proc/[0-9]*/status); do
				grep -qs "^State:.Z" "$p" && echo "one has ended" && return
			done
			sleep 0.05
		done
		echo "none has ended"
	}
	$oci run -d --pid-file pid -b b box </dev/null >/dev/null 2>&1 || exit 9
	ended
	checkpoint
	restore
	ended
	state
	end
	;;
paused)
	begin
	$oci pause box
	checkpoint
	restore || exit 8
	wait_for src && echo "it counts on"
	end
	;;
predump)
	begin
	checkpoint --pre-dump --image-path /run/img0
	mkdir -p img
	wait_for src && echo "it counts on"
	checkpoint --parent-path ../img0
	ls img | grep -c parent
	restore || exit 8
	wait_for src && echo "it goes on"
	end
	;;
pipe)
	config /run/src "" "" "$kill"
	$oci run -d --pid-file pid -b b box </dev/null 2>/dev/null | cat >one &
	wait_for src
	checkpoint
	$oci restore -d --image-path img --pid-file pid -b b box </dev/null 2>err | cat >two &
	wait_for src
	cat err
	sleep 0.3
	a=$(tail -n1 one) b=$(sed -n 2p two)
	[ "$b" -gt "$a" ] && [ "$b" -lt $((a + 100)) ] && echo "it goes on in another pipe"
	end
	;;
files)
	# What it writes goes to files of the host's, then to others.
	config /run/src "" "" "$kill"
	$oci run -d --pid-file pid -b b box </dev/null >>one 2>&1 || exit 9
	wait_for src
	checkpoint
	$oci restore -d --image-path img --pid-file pid -b b box </dev/null >>two 2>err
	wait_for src
	cat err
	sleep 0.3
	a=$(tail -n1 one) b=$(sed -n 2p two)
	[ "$b" -gt "$a" ] && [ "$b" -lt $((a + 100)) ] && echo "it goes on in another file"
	[ "$(tail -n1 one)" = "$a" ] && echo "and not in the first"
	end
	;;
terminal)
	asking
	terminal tty1 one
	$oci run -d --console-socket tty1 --pid-file pid -b b box 2>err || cat err
	says out-one "asked: one"
	checkpoint
	wait
	cat out-one
	terminal tty2 two
	restore --console-socket tty2
	says out-two "asked: two"
	cat out-two
	state
	end
	wait
	;;
terminals)
	asking
	terminal tty1 one
	$oci run -d --console-socket tty1 --pid-file pid -b b box 2>err || cat err
	says out-one "asked: one"
	checkpoint
	wait
	sed -i 's/"terminal": true, //' b/config.json
	restore
	left
	asking
	restore
	left
	rm -r img
	begin
	checkpoint
	asking
	terminal tty3 three
	restore --console-socket tty3
	left
	kill $! # nobody sent it a terminal
	wait $! 2>/dev/null || :
	;;
odd)
	config /run/src "" "" "$kill" "/odd]:x"
	$oci run -d --pid-file pid -b b box </dev/null >/dev/null 2>&1 || exit 9
	sleep 0.3
	rm -f criu-started
	checkpoint
	started
	state
	end
	;;
foreground)
	begin
	checkpoint
	$oci restore --image-path img --pid-file pid -b b box </dev/null >/dev/null 2>&1 &
	wait_for src
	$oci kill box KILL
	wait $!
	echo "status $?"
	left
	;;
none)
	begin
	oci=launch-oci PATH=/usr/local/bin:/bin:/usr/bin
	checkpoint
	oci="launch-oci --criu /bin/false"
	checkpoint
	state
	oci="launch-oci --criu /run/criu"
	end
	;;
bad)
	begin
	checkpoint
	for edit in 's/"launch-mounts": 1/"launch-mounts": 2/' 's/"parent": 1,/"parent": 99,/' 's/"type": "proc"/"type": "debugfs"/' 's/"point": "\/data"/"point": "\/..\/data"/'; do
		cp img/launch-mounts.json kept
		sed -i "$edit" img/launch-mounts.json
		rm -f criu-started
		restore
		started
		cp kept img/launch-mounts.json
	done
	for edit in 's/"m-[0-9a-f]*"/"..\/..\/etc"/' 's/"launch-checkpoint": 1/"launch-checkpoint": 2/' 's/"stdio": \[/"stdio": [ "fd[0]:x",/'; do
		cp img/launch-outside.json kept
		sed -i "$edit" img/launch-outside.json
		restore
		started
		cp kept img/launch-outside.json
	done
	# The tree that is told is not the one that CRIU brings back.
	sed -i '0,/"point": "\/dev"/s//"point": "\/sh2"/' img/launch-mounts.json
	restore
	left
	;;
esac
