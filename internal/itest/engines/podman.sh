export CONTAINERS_CONF=/run/containers.conf STORAGE_DRIVER=vfs CONTAINERS_STORAGE_CONF=/run/storage.conf PODMAN_IGNORE_CGROUPSV1_WARNING=1
podman() { command podman --runtime "$TRIED" "$@"; }
V="--network none --pids-limit -1"
run() { podman run $V "$@"; }
furnish() {
	printf '[containers]\n%s\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n' "$(limits)" >/run/containers.conf
	printf '[storage]\ndriver="vfs"\nrunroot="/run/containers/storage"\ngraphroot="/var/lib/containers/storage"\n' >/run/storage.conf
	mkdir -p /etc/containers
	[ -s /etc/containers/policy.json ] || echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
	archive /run/image && podman load -q -i /run/image/image.tar
}
