export CONTAINERD_ADDRESS=/run/containerd/containerd.sock CRI_SOCKET=/run/containerd/containerd.sock CRI_LOGS=/run/logs
S="--snapshotter native --runc-binary $TRIED"
run() { ctr run $S "$@"; }
cri() { /run/given/cri "$@"; }
I=localhost/bb:latest
# pod NAME: a pod with the host's network.
pod() { cri pod "$1" "${2:-host}"; }
# up NAME CMD…: a pod with one started container; its id.
up() {
	local p c n=$1
	shift
	p=$(pod "$n") && c=$(cri create "$p" "$n" "$@") && cri start "$c" && echo "$c"
}
furnish() {
	mkdir -p /run/logs /etc/cni/net.d /opt/cni
	[ -d /usr/lib/cni ] && ln -sfn /usr/lib/cni /opt/cni/bin
	echo '{"cniVersion":"0.4.0","name":"checks","plugins":[{"type":"bridge","bridge":"checks0","isGateway":true,"ipMasq":false,"ipam":{"type":"host-local","ranges":[[{"subnet":"10.88.7.0/24"}]]}},{"type":"loopback"}]}' >/etc/cni/net.d/10-checks.conflist
	local v=$(containerd --version | sed 's/.* v\{0,1\}\([0-9]\)\.[0-9].*/\1/')
	{
		echo 'root = "/var/lib/containerd"'
		echo 'state = "/run/containerd"'
		echo '[grpc]'
		echo 'address = "/run/containerd/containerd.sock"'
		if [ "$v" = 2 ]; then
			echo "disabled_plugins = ['io.containerd.snapshotter.v1.btrfs','io.containerd.snapshotter.v1.zfs','io.containerd.snapshotter.v1.devmapper','io.containerd.snapshotter.v1.blockfile','io.containerd.internal.v1.tracing','io.containerd.nri.v1.nri']" >/run/first
			cat <<-T
			[plugins.'io.containerd.cri.v1.images']
			snapshotter = 'native'
			[plugins.'io.containerd.cri.v1.images'.pinned_images]
			sandbox = 'localhost/pause:latest'
			[plugins.'io.containerd.cri.v1.runtime']
			restrict_oom_score_adj = true
			disable_apparmor = true
			[plugins.'io.containerd.cri.v1.runtime'.containerd]
			default_runtime_name = 'tried'
			[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.tried]
			runtime_type = 'io.containerd.runc.v2'
			snapshotter = 'native'
			[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.tried.options]
			BinaryName = '$TRIED'
			T
			echo 'version = 3' >/run/version
		else
			echo "disabled_plugins = ['io.containerd.snapshotter.v1.aufs','io.containerd.snapshotter.v1.btrfs','io.containerd.snapshotter.v1.zfs','io.containerd.snapshotter.v1.devmapper']" >/run/first
			cat <<-T
			[plugins.'io.containerd.grpc.v1.cri']
			sandbox_image = 'localhost/pause:latest'
			restrict_oom_score_adj = true
			disable_apparmor = true
			[plugins.'io.containerd.grpc.v1.cri'.containerd]
			snapshotter = 'native'
			default_runtime_name = 'tried'
			[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.tried]
			runtime_type = 'io.containerd.runc.v2'
			[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.tried.options]
			BinaryName = '$TRIED'
			T
			echo 'version = 2' >/run/version
		fi
	} >/run/rest
	cat /run/version /run/first /run/rest >/run/containerd.toml
	setsid containerd -c /run/containerd.toml >/run/containerd.log 2>&1 </dev/null &
	await 60 ctr version >/dev/null 2>&1 || { cat /run/containerd.log; return 1; }
	archive /run/image
	# Newer ones have a service for it, which is told in the configuration alone
	# which snapshotter there is.
	local how=
	ctr image import --help | grep -q -e --local && how=--local
	for ns in default k8s.io; do ctr -n $ns image import $how --snapshotter native /run/image/image.tar >/dev/null || return 1; done
}
