# The users of a host, and how a machine is started. Sourced by each run, in a cell.
set -u
H= WRAP= ROOT= T=/mnt/tiny R=/etc/userdb MANY=

# once makes the places.
once() {
	mount -t tmpfs -o mode=755 homes /home
	mount -t tmpfs -o size=3G trees /mnt
	mkdir /mnt/kept /etc/systemd/nspawn
	cp /etc/passwd /etc/group /etc/shadow /mnt/kept
}

# again makes users and tree as they were; the word is that of the tree.
again() {
	[ -e /mnt/userdbd ] && kill $(cat /mnt/userdbd) 2>/dev/null
	rm -rf /mnt/userdbd /run/systemd/userdb /etc/userdb /run/userdb /run/host /usr/local/lib/userdb /usr/lib/userdb /etc/systemd/nspawn/* /mnt/*.nspawn
	while umount /home/joe/sub 2>/dev/null || umount /home/joe 2>/dev/null; do :; done
	rm -rf /home/* /mnt/tiny /mnt/.#*
	cp /mnt/kept/passwd /mnt/kept/group /mnt/kept/shadow /etc
	for u in joe:1500 ann:1600 daemonic:200 _d-y_n:1700 homeless:1800; do
		echo "${u%:*}:x:${u#*:}:${u#*:}:Some One,Room 1:/home/${u%:*}:/bin/${u%:*}sh" >>/etc/passwd
		echo "${u%:*}:x:${u#*:}:" >>/etc/group
		echo "${u%:*}:!:19000:0:99999:7:::" >>/etc/shadow
		mkdir -m 700 /home/${u%:*}
		echo x >/home/${u%:*}/.profile
		chown -R ${u#*:}:${u#*:} /home/${u%:*}
	done
	rmdir /home/homeless 2>/dev/null || rm -r /home/homeless
	shadow 'joe:$6$salt$hash:19000:0:99999:7:::'
	T=/mnt/$1 ROOT="-D /mnt/$1"
	case $1 in
	image*)
		[ -e /dev/loop-control ] || mknod /dev/loop-control c 10 237
		for i in $(seq 0 63); do [ -e /dev/loop$i ] || mknod /dev/loop$i b 7 $i; done
		cp /trees/images/$1.raw /mnt/tiny.raw
		ROOT="-i /mnt/tiny.raw"
		;;
	tiny) cp -a /trees/tiny /mnt/tiny ;;
	big) [ -e /mnt/big ] || cp -a /trees/big /mnt/big ;;
	esac
}

# shadow gives joe another line there.
shadow() {
	grep -av ^joe: /etc/shadow >/mnt/kept/s
	printf '%s\n' "$1" >>/mnt/kept/s
	cat /mnt/kept/s >/etc/shadow
}

# field changes one of a user in passwd, whatever is in it.
field() {
	awk -F: -v OFS=: -v user="$1" -v at="$2" -v text="$3" '$1 == user { $at = text } { print }' /etc/passwd >/mnt/kept/p
	cat /mnt/kept/p >/etc/passwd
}
chsh() { field "$1" 7 "$2"; }
home() { field "$1" 6 "$2"; }

# zoe makes a user by a record, with more of it.
zoe() {
	mkdir -p $R /home/zoe
	chown 3100:3100 /home/zoe
	echo "{\"userName\":\"zoe\",\"uid\":3100,\"gid\":3100,\"homeDirectory\":\"${H:-/home/zoe}\"${1:+,$1}}" >$R/zoe.user
	echo "{\"groupName\":\"zoe\",\"gid\":3100${2:+,$2}}" >$R/zoe.group
	ln -sfn zoe.group $R/3100.group
	ln -sfn zoe.user $R/3100.user
}
privileged() { (umask 077; echo "{\"privileged\":$1}" >$R/zoe.user-privileged); }

# settings writes a file into a directory.
settings() {
	{ echo '[Files]'; shift_=; for l; do [ -n "$shift_" ] && echo "$l"; shift_=1; done; } >$1/tiny.nspawn
}

# answers notes the process that answers for the host's users, and waits until it does.
answers() {
	echo $1 >/mnt/userdbd
	for i in $(seq 100); do
		[ -S /run/systemd/userdb/io.systemd.Multiplexer ] && return
		sleep 0.05
	done
	exit 99
}

# userdbd starts systemd-userdbd, as a host has it.
userdbd() {
	mkdir -p /run/systemd/userdb
	setsid /usr/lib/systemd/systemd-userdbd </dev/null >/dev/null 2>&1 &
	answers $!
}

# fake answers in its place, always the same.
fake() {
	mkdir -p /run/systemd/userdb
	setsid perl -MSocket -e '$SIG{PIPE} = "IGNORE"; socket(S, AF_UNIX, SOCK_STREAM, 0); bind(S, sockaddr_un("/run/systemd/userdb/io.systemd.Multiplexer")); listen(S, 9);
		while (accept(C, S)) { sysread(C, $in, 4096); if ($ARGV[0] eq "endless") { while (syswrite(C, "x" x 4096)) {} } else { syswrite(C, $ARGV[0] . "\0") } close(C) }' "$1" </dev/null >/dev/null 2>&1 &
	answers $!
}

# apart runs something that does not see the users in the files.
apart() {
	unshare -m sh -c 'mount --bind /mnt/kept/passwd /etc/passwd && mount --bind /mnt/kept/group /etc/group && exec "$@"' sh "$@"
}

# see is what a payload looks at: the records, the homes, and how they are mounted. What
# differs from run to run is left out.
see='see() {
cd /run/host/userdb 2>/dev/null || echo no userdb
for f in /run/host/home /run/host/userdb /run/host/userdb/* /run/host/home/*; do
	[ -e "$f" ] && stat -c "%A %u:%g %n" "$f"
done
for f in /run/host/userdb/*; do
	if [ -L "$f" ]; then echo "$f -> $(readlink "$f")"; elif [ -f "$f" ]; then echo "$f: $(cat "$f")"; fi
done
find /run/host/home -mindepth 2 2>/dev/null | sort | while read f; do stat -c "%A %u:%g %n" "$f"; done
while read id parent dev root at flags rest; do
	case $at in /run/host/home*|/run/host/userdb*)
		tags=; for w in $rest; do case $w in -) break ;; *:*) tags="$tags ${w%%:*}" ;; esac; done
		echo "$root $at $flags$tags ${rest#* - }" ;;
	esac
done </proc/self/mountinfo
cat /proc/self/uid_map
}'

# run starts a machine: the launcher, what the machine runs, and options.
run() {
	launcher=$1 payload=$2
	shift 2
	$WRAP $launcher --restrict-address-families= --quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no \
		$ROOT "$@" /bin/sh -c "$see
echo '=== payload'
$payload" </dev/null 2>&1
}

# boot boots the whole tree, which runs a script once it is up, and powers off: the
# launcher, the script, and options.
boot() {
	launcher=$1 script=$2
	shift 2
	cat >$T/etc/systemd/system/view.service <<-X
		[Unit]
		After=multi-user.target
		[Service]
		Type=oneshot
		ExecStart=-/bin/sh /etc/view
		ExecStopPost=/bin/systemctl --no-block poweroff
	X
	cat >$T/etc/systemd/system/view.target <<-X
		[Unit]
		Requires=multi-user.target
		Wants=view.service
		AllowIsolate=yes
	X
	ln -sf /etc/systemd/system/view.target $T/etc/systemd/system/default.target
	printf '%s\n{ %s\n} >/var/view 2>&1\n' "$see" "$script" >$T/etc/view
	rm -f $T/var/view
	$launcher --restrict-address-families= --quiet --register=no --keep-unit --console=pipe --resolv-conf=off --timezone=off --link-journal=no \
		-D "$T" "$@" --boot </dev/null 2>&1
	code=$?
	echo '=== payload'
	cat $T/var/view
	return $code
}
