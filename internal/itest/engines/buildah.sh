export STORAGE_DRIVER=vfs CONTAINERS_CONF=/run/containers.conf CONTAINERS_STORAGE_CONF=/run/storage.conf
R="--runtime $TRIED --isolation oci --network none"
furnish() {
	printf '[containers]\n%s\n[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n' "$(limits)" >/run/containers.conf
	printf '[storage]\ndriver="vfs"\nrunroot="/run/containers/storage"\ngraphroot="/var/lib/containers/storage"\n' >/run/storage.conf
	mkdir -p /etc/containers
	[ -s /etc/containers/policy.json ] || echo '{"default":[{"type":"insecureAcceptAnything"}]}' >/etc/containers/policy.json
	archive /run/image && buildah pull -q docker-archive:/run/image/image.tar:localhost/bb:latest
}
