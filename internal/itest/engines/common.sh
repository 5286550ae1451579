# Sourced before every command of checks.txt, in the engine's cell. $TRIED is the
# runtime, /run/given/tiny the tree of the image.

# await SECONDS COMMAND…: until the command succeeds.
await() {
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || { echo "await: it never came true: $*"; return 1; }
		sleep 0.2
	done
}

# says PATTERN COMMAND…: whether the command's output has it.
says() {
	local want=$1
	shift
	"$@" 2>&1 | grep -q -e "$want"
}

# archive: the image in the form of docker save, made here since there is no
# registry. Tags: localhost/bb and, with a program that waits, localhost/pause.
archive() {
	local d=$1 layer
	mkdir -p "$d"
	tar -C /run/given/tiny --owner=0 --group=0 -cf "$d/layer.tar" .
	layer=$(sha256sum "$d/layer.tar" | cut -d' ' -f1)
	for image in bb pause; do
		case $image in
		bb) cmd='"Cmd":["/bin/sh","-c","echo default; exit 4"]' ;;
		pause) cmd='"Entrypoint":["/bin/busybox","sleep","100000"]' ;;
		esac
		printf '{"architecture":"%s","os":"linux","config":{%s,"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin","IMAGE=%s"],"WorkingDir":"/opt","Labels":{"check":"yes"}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
			"$ARCH" "$cmd" "$image" "$layer" >"$d/$image.json"
	done
	printf '[{"Config":"bb.json","RepoTags":["localhost/bb:latest"],"Layers":["layer.tar"]},{"Config":"pause.json","RepoTags":["localhost/pause:latest"],"Layers":["layer.tar"]}]' >"$d/manifest.json"
	tar -C "$d" -cf "$d/image.tar" manifest.json bb.json pause.json layer.tar
}

# limits: a line of containers.conf. Newer builders ask for a million open files
# by themselves, which takes CAP_SYS_RESOURCE.
limits() {
	echo "default_ulimits=[\"nofile=$(ulimit -Sn):$(ulimit -Hn)\",\"nproc=$(ulimit -Su):$(ulimit -Hu)\"]" | sed 's/unlimited/-1/g'
}

# tty COMMAND…: the command on a terminal of its own, with its exit status.
tty() {
	script -qec "$(printf '%q ' "$@")" /dev/null </dev/null
}
