export DOCKER_HOST=unix:///run/docker.sock
V="--network none"
run() { docker run $V "$@"; }
on2() { DOCKER_HOST=tcp://10.9.0.2:2375 "$@"; }
furnish() {
	mkdir -p /run/docker-etc
	sed "s|/usr/local/bin/launch-oci|$TRIED|" /run/given/examples/daemon.json >/run/docker-etc/daemon.json
	setsid dockerd --config-file /run/docker-etc/daemon.json --exec-root /run/docker --data-root /var/lib/docker -p /run/docker.pid \
		-H unix:///run/docker.sock ${DOCKER_ALSO:-} --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs >/run/docker.log 2>&1 </dev/null &
	await 90 docker version >/dev/null 2>&1 || { cat /run/docker.log; return 1; }
	archive /run/image && docker load -q -i /run/image/image.tar
}
