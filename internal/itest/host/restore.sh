# Runs in a host with systemd and CRIU. $1 is the case, $2 the runtime. Each makes
# containers that count, writes one into files, and brings it back; what comes
# out is told in words.
set -u
rm -rf /run/restored
mkdir -p /run/restored && cd /run/restored
mkdir -p b/rootfs/bin b/rootfs/proc b/rootfs/dev b/rootfs/sys b/rootfs/tmp
cp "$(command -v busybox)" b/rootfs/bin/
ln -s busybox b/rootfs/bin/sh
cat >b/rootfs/bin/counting <<'E'
#!/bin/sh
i=0
while :; do
	i=$((i + 1))
	echo $i >/tmp/count
	/bin/busybox sleep 0.05
done
E
# two have a process that is in a cgroup of its own (see divide).
cat >b/rootfs/bin/two <<'E'
#!/bin/sh
/bin/counting &
while :; do /bin/busybox sleep 1000; done
E
chmod 755 b/rootfs/bin/counting b/rootfs/bin/two
runtime=${2:-launch-oci}

# by DRIVER: what the verbs from here on are told.
by() {
	oci=$runtime
	[ "$1" = cgroupfs ] || oci="$runtime --systemd-cgroup"
}
# conf CGROUPSPATH: the usual bundle, with annotations.
conf() {
	rm -f b/config.json
	launch-oci spec -b b
	sed -i 's/"terminal": true/"terminal": false/; s|"sh"|"/bin/counting"|; s/"readonly": true/"readonly": false/
s/"hostname"/"annotations": {"org.systemd.property.TimeoutStopUSec": "uint64 7000000"}, "hostname"/' b/config.json
	sed -i '0,/"linux": {/s!!"linux": {"cgroupsPath": "'"$1"'",!' b/config.json
}
pid() { $runtime state "$1" | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'; }
state() { $runtime state "$1" 2>/dev/null | sed -n 's/.*"status": "\([a-z]*\)".*/\1/p'; }
# counts ID: until somebody counts there.
counts() {
	f=/proc/$(pid "$1")/root/tmp/count
	rm -f "$f"
	for i in $(seq 100); do
		[ -s "$f" ] && echo "it counts" && return
		sleep 0.05
	done
	echo "nobody counts"
}
# Who appends to a file gets another one without a question of CRIU's. runc has
# no place for files of the host's.
err=err modes=
# And where it manages cgroups, as it does unless told otherwise, those of version
# 1 around this host come and go.
[ "$runtime" = launch-oci ] || err=/dev/null modes="--manage-cgroups-mode ignore"
run() {
	: >$err
	$oci run -d -b b "$@" </dev/null >/dev/null 2>>$err && counts "$1" && return
	sed 's/.*msg="//; s/"$//' $err
}
checkpoint() { $runtime checkpoint $modes --image-path "$PWD/img" "$@" 2>&1 | grep -v level=warning | sed 's/.*msg="//; s/"$//'; }
restore() {
	: >$err
	$oci restore -d $modes -b "$PWD/b" --image-path "$PWD/img" "$@" </dev/null >/dev/null 2>>$err && return
	grep -v level=warning $err | sed 's/.*msg="//; s/"$//; s/process [0-9]*/process PID/'
	return 1
}
# see ID: what the host sees of it, and it of the host.
see() {
	p=$(pid "$1")
	sed -n 's/^0:://p' "/proc/$p/cgroup"
	grep ' - cgroup2 ' "/proc/$p/mountinfo" | cut -d' ' -f4,5
	$runtime exec "$1" /bin/busybox grep ^0: /proc/1/cgroup
	counts "$1"
}
unit() { systemctl show -p Slice -p Delegate -p DefaultDependencies -p TimeoutStopUSec -p ActiveState -p ControlGroup "$1"; }
# living: processes of containers. Who ends leaves his cgroup a moment before he
# is gone, and may wait for being reaped then.
living() {
	for p in $(grep -lx 'counting\|two\|criu\|launch-oci.*' /proc/[0-9]*/comm 2>/dev/null); do
		! grep -qs '^State:.[RSDTt]' "${p%comm}status" || echo "$p"
	done
}
# left: what there is of containers, of whoever.
left() {
	ls "/run/$runtime"
	systemctl list-units --all --plain --no-legend 'oci-*' 'launch-one*' | cut -d' ' -f1
	find /sys/fs/cgroup -name 'oci-*' -o -name box
	for i in $(seq 20); do
		now=$(living)
		[ "$now" ] || break
		sleep 0.05
	done
	[ -z "$now" ] || echo "$now"
	grep seat /proc/self/mountinfo
	find img -name '.criu*' 2>/dev/null
}
# insist COMMAND: whatever manages cgroups writes down those of version 1 around a
# host like this one, and some may be gone when it brings them back. What failed
# so is made and written down anew.
insist() {
	for i in $(seq 5); do
		"$@" >out 2>&1
		grep -q 'bad cgroup path' out || break
	done
	cat out
}
# back_inside is for containers that divided their cgroup.
back_inside() {
	run one
	divide /sys/fs/cgroup$g
	checkpoint --manage-cgroups-mode $mode one
	# To another place, where what the files name is not.
	restore --manage-cgroups-mode $mode -f elsewhere.json two
	echo "$mode, $namespace"
	for p in $(grep -lx 'counting\|two' /proc/[0-9]*/comm); do sed -n 's/^0:://p' "${p%/comm}/cgroup"; done | sort -u
	counts two
	$runtime delete -f two
	left
	rm -r img
}
# divide DIR: who counts gets a cgroup of its own there.
divide() {
	mkdir "$1/sub"
	for p in $(cat "$1/cgroup.procs"); do
		! grep -qsx counting "/proc/$p/comm" || echo "$p" >"$1/sub/cgroup.procs"
	done
}

case $1 in
# The same container comes back where it was: for each runtime.
same)
	for driver in systemd cgroupfs; do
		by $driver
		if [ $driver = systemd ]; then conf system.slice:oci:one; else conf /box; fi
		run one
		see one
		checkpoint one
		left
		restore one && see one
		[ $driver = cgroupfs ] || unit oci-one.scope
		$runtime delete -f one
		left
		rm -r img
	done
	;;
# It comes back as what is said today.
moved)
	for driver in systemd cgroupfs; do
		by $driver
		if [ $driver = systemd ]; then conf system.slice:oci:one; else conf /box; fi
		run one
		checkpoint --leave-running one
		by systemd
		restore two && see two || echo "it is running"
		conf a-b.slice:oci:two
		restore two && see two
		unit oci-two.scope
		by cgroupfs
		conf /box/three
		restore three && see three
		$runtime list -q
		for c in one two three; do $runtime delete -f $c; done
		left
		rm -r img
	done
	;;
verbs)
	conf system.slice:oci:one
	by systemd
	run one
	checkpoint one
	restore one
	$runtime pause one
	state one
	$runtime resume one
	counts one
	echo '{"pids": {"limit": -1}}' | $runtime update -r - one && echo updated
	$runtime events --stats one | grep -c '"cpu":{"usage":{"total":[1-9]'
	$runtime ps -f json one | grep -c ','
	systemctl daemon-reload
	$runtime exec one /bin/busybox true && echo "it is there"
	checkpoint one
	restore one && counts one
	$runtime kill one KILL
	until [ "$(state one)" = stopped ] && ! systemctl --quiet is-active oci-one.scope; do sleep 0.1; done
	$runtime delete one
	left
	restore one
	systemctl stop oci-one.scope
	until [ "$(state one)" = stopped ]; do sleep 0.1; done
	$runtime delete one
	left
	(
		$oci restore -b b --image-path img --pid-file pid one </dev/null >/dev/null 2>>err
		echo "status $?"
	) &
	for i in $(seq 100); do
		[ -s pid ] && systemctl --quiet is-active oci-one.scope && break
		sleep 0.1
	done
	$runtime kill one KILL
	wait
	left
	;;
# What fails leaves nothing, and nothing of somebody else's goes.
fails)
	conf system.slice:oci:one
	by systemd
	run one
	checkpoint one
	systemd-run --quiet --scope --unit=oci-one sleep 1000 &
	until systemctl --quiet is-active oci-one.scope; do sleep 0.1; done
	restore one
	run one
	systemctl is-active oci-one.scope
	left
	kill "$(cat /sys/fs/cgroup/system.slice/oci-one.scope/cgroup.procs)"
	wait
	until ! systemctl --quiet is-active oci-one.scope; do sleep 0.1; done
	sed -i 's/"CAP_KILL"/"CAP_CHOWN"/' b/config.json
	restore one
	left
	conf system.slice:oci:one
	sed -i 's/"uint64 7000000"/"true"/' b/config.json
	restore one
	left
	conf system.slice:oci:one.slice
	restore one
	left
	conf /box
	restore one
	left
	;;
# Cgroups inside come back if that is asked for, and its own ends at its own.
inside)
	for driver in systemd cgroupfs; do
		for mode in soft ignore; do
			for namespace in own none; do
				by $driver
				if [ $driver = systemd ]; then conf system.slice:oci:one; else conf /box; fi
				g=/box
				[ $driver = cgroupfs ] || g=/system.slice/oci-one.scope
				sed -i 's|/bin/counting|/bin/two|' b/config.json
				if [ $namespace = none ]; then
					tr -d '\n\t' <b/config.json | sed 's/,{"type": "cgroup"}//' >none
					mv none b/config.json
				fi
				sed 's|system.slice:oci:one|a-b.slice:oci:two|; s|/box|/box/two|' b/config.json >b/elsewhere.json
				insist back_inside
			done
		done
	done
	;;
users)
	conf ""
	by systemd
	oci="$oci --rootless true"
	run one
	left
	by systemd
	run one
	checkpoint one
	oci="$oci --rootless true"
	restore one
	left
	loginctl enable-linger root
	until [ -e /run/user/0/bus ]; do sleep 0.1; done
	export XDG_RUNTIME_DIR=/run/user/0
	restore one && see one
	systemctl --user show -p Slice -p ActiveState launch-one.scope
	$runtime delete -f one
	systemctl --user show -p LoadState --value launch-one.scope
	loginctl disable-linger root
	left
	unset XDG_RUNTIME_DIR
	chmod -R a+rX .
	oci="setpriv --reuid=65534 --regid=65534 --clear-groups $runtime --systemd-cgroup --root=/tmp/nobody"
	restore one
	ls /tmp/nobody
	left
	;;
# Each system call of a restore, or what $4 says, fails once, or is its last; $3
# says how.
faults)
	if [ "${4-}" = create ]; then
		bring() { $oci create -b b one; }
	else
		bring() { $oci restore -d -b b --image-path img one; }
	fi
	conf system.slice:oci:one
	by systemd
	run one
	checkpoint one
	runtime=launch-oci-faults
	by systemd
	export LAUNCH_FAULT_LOG=/run/restored/calls
	bring </dev/null >/dev/null 2>>err
	unset LAUNCH_FAULT_LOG
	runtime=launch-oci
	$runtime delete -f one
	# Which descriptors are closed, nobody depends on.
	awk '$3 != "close" {print $1, $3, $4}' calls >points
	n=0
	while read -r at what; do
		export LAUNCH_FAULT="$at=$3"
		: >err
		bring </dev/null >/dev/null 2>>err
		status=$?
		unset LAUNCH_FAULT
		n=$((n + 1))
		if [ "$3" != kill ] && [ $status != 0 ]; then
			[ -s err ] || echo "$at $what: it says nothing"
			found=$(left)
			[ -z "$found" ] || echo "$at $what: status $status, and there is" $found
		fi
		$runtime delete -f one 2>err || { echo "$at $what: delete --force fails"; cat err; }
		# And systemd may take a moment to see that a scope is empty.
		for i in $(seq 20); do
			found=$(left)
			[ "$found" ] || break
			sleep 0.1
		done
		[ -z "$found" ] || echo "$at $what: delete --force leaves" $found
	done <points
	[ $n -gt 200 ] && echo "all was tried"
	;;
esac
