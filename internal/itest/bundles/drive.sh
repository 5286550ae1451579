# drive.sh NAME PROGRAM WHAT…: runs the bundles under a runtime. Results go to
# /run/results/NAME/BUNDLE.{out,err,status}.
name=$1 program=$2
shift 2
results=/run/results/$name
mkdir -p $results /run/root /run/rt /run/other
mkdir -p /run/out
mount -t tmpfs -o mode=755 out /run/out
mkdir -p /run/out/dir/sub /run/out/lower /run/out/nosuid /run/out/upper
mount -t tmpfs -o mode=755 sub /run/out/dir/sub
mount -t tmpfs -o nosuid,nodev,noexec nosuid /run/out/nosuid
echo outside >/run/out/file
echo outside >/run/out/dir/file
echo low >/run/out/lower/low
ln -sfn root /run/rootlink
# Namespaces to join, held by a process of their own.
unshare --net --ipc --uts --cgroup sleep infinity &
held=$!
for n in net ipc uts cgroup; do
	until [ "$(readlink /proc/$held/ns/$n)" != "$(readlink /proc/self/ns/$n)" ]; do sleep 0.05; done
	: >>/run/other/$n
	mount --bind /proc/$held/ns/$n /run/other/$n
done
for n in /proc/self/ns/*; do echo "${n##*/} $(readlink $n)"; done >$results/ns
for b in "$@"; do
	# A root that is fresh each time: runtimes make mount points in it.
	mount -t tmpfs -o mode=755 layer /run/layer 2>/dev/null || { mkdir -p /run/layer && mount -t tmpfs -o mode=755 layer /run/layer; }
	mkdir /run/layer/u /run/layer/w
	mount -t overlay -o lowerdir=/run/given/tiny,upperdir=/run/layer/u,workdir=/run/layer/w root /run/root
	rm -rf /run/out/upper/*
	mkdir /run/out/upper/u /run/out/upper/w
	timeout -k 5 30 "$program" --root /run/rt run --bundle /run/given/bundles/$b $name-b </dev/null >$results/$b.out 2>$results/$b.err
	echo $? >$results/$b.status
	[ -d /run/rt/$name-b ] && timeout -k 5 10 "$program" --root /run/rt delete --force $name-b >/dev/null 2>&1
	umount -R /run/root || umount -l /run/root
	umount /run/layer || umount -l /run/layer
done
kill $held
