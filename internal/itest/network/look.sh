# Functions for the scripts that run in a cell, whose network stands for the
# host's. The caller sets L to the launcher.

cd /
mount -o remount,bind,ro /sys # nobody waits for udev, which doesn't run
printf '#!/bin/busybox sh\n%s\n' 'echo up $(readlink /proc/self/ns/net); read word; eval "$word"' >/run/payload
for tree in /t /u /trees/b /trees/c; do
	mkdir -p $tree/bin $tree/sbin $tree/etc $tree/usr/lib $tree/usr/bin
	cp /bin/busybox $tree/bin/
	cp /run/payload $tree/sbin/init
	chmod 755 $tree/sbin/init
	echo ID=tiny >$tree/usr/lib/os-release
done

# An interface with a cable: eth0 to up0.
cable() {
	ip link add "$1" type veth peer name "up${1#eth}"
	ip link set "$1" address "02:00:00:00:01:0${1#eth}"
	ip link set "up${1#eth}" address "02:00:00:00:03:0${1#eth}" up
}

# start NAME OPTIONS… starts a machine, which waits for a word to eval.
start() {
	local name=$1 fd
	shift
	[ "${!#}" = --boot ] || set -- "$@" /bin/busybox sh /sbin/init
	rm -f /run/$name.in /run/$name.out
	mkfifo /run/$name.in
	: >/run/$name.out
	local tree=/t
	[ ! -e /trees/$name ] || tree=/trees/$name
	$L --quiet -D $tree -M $name --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no "$@" </run/$name.in >/run/$name.out 2>&1 &
	echo $! >/run/$name.pid
	exec {fd}>/run/$name.in
	echo $fd >/run/$name.fd
	local i
	for i in $(seq 600); do
		grep -q '^up ' /run/$name.out && return 0
		kill -0 $(cat /run/$name.pid) 2>/dev/null || break
		sleep 0.02
	done
	grep -q '^up ' /run/$name.out
}

# say NAME WORD tells a machine what to do, hang NAME lets it go without a word,
# and end NAME waits for the launcher and gives its status.
say() {
	echo "$2" >&$(cat /run/$1.fd)
	hang $1
}
hang() {
	local fd=$(cat /run/$1.fd)
	exec {fd}>&-
}
end() { wait $(cat /run/$1.pid); }

# run NAME OPTIONS… is a machine that ends at once.
run() {
	start "$@" && say $1 : || hang $1
	end $1 && return 0
	local status=$?
	grep -v '^up ' /run/$1.out
	return $status
}

# net NAME is a process in the machine's network.
net() {
	local ns p
	ns=$(sed -n 's/^up //p' /run/$1.out)
	for p in /proc/[0-9]*; do
		[ "$(readlink $p/ns/net)" != "$ns" ] || { echo ${p#/proc/}; return; }
	done
}

# in NAME COMMAND… runs a command of the host's in the machine's network.
in_() { nsenter --net=/proc/$(net $1)/ns/net "${@:2}"; }

links() { ip -o link | sed 's/^[0-9]*: //; s/[@:].*//' | grep -v '^lo$' | sort | tr '\n' ' '; }
# gone waits until there is no such interface.
gone() { for i in $(seq 250); do [ -e /sys/class/net/$1 ] || return 0; sleep 0.02; done; echo "$1 is still there"; return 1; }
