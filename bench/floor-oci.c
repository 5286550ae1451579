//go:build ignore

/*
 * floor-oci: the least that a container can cost.
 *
 *	floor-oci ROOTFS PROGRAM [ARGUMENT…]
 *
 * It makes the same kernel objects as `runc run` does of the bundle that
 * `runc spec` makes: the namespaces, the mounts, the nodes, what is masked and
 * read-only, a cgroup, a directory with the state. It decides nothing: it reads
 * no config.json, filters no devices, runs no hooks, has no console, and can't
 * be asked about its containers.
 *
 * cat floor.h.c floor-oci.c | gcc -O2 -static -x c -o floor-oci -
 */
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void within(const char *root, char **words)
{
	static const struct { const char *name; int major, minor; } nodes[] = {
		{ "null", 1, 3 }, { "zero", 1, 5 }, { "full", 1, 7 }, { "random", 1, 8 }, { "urandom", 1, 9 }, { "tty", 5, 0 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" }, { "/proc/self/fd/1", "dev/stdout" },
		{ "/proc/self/fd/2", "dev/stderr" }, { "/proc/kcore", "dev/core" }, { "pts/ptmx", "dev/ptmx" },
	};
	static const char *const masked[] = { "acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi" };
	static const char *const closed[] = { "bus", "fs", "irq", "sys", "sysrq-trigger" };
	char a[128];

	struct mount_attr slave = { .propagation = ms_slave }, ro = { .attr_set = RO };
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof slave) < 0)
		die("mount_setattr", "/");
	attach(copied(root, AT_RECURSIVE, 0, ms_private), root);
	if (chdir(root) < 0)
		die("chdir", root);
	fresh("proc", "proc", 0, NULL);
	fresh("tmpfs", "dev", NS | SA, (const char *[]){ "mode", "755", "size", "65536k", NULL });
	dir("dev/pts", 0755);
	fresh("devpts", "dev/pts", NS | NX, (const char *[]){ "newinstance", NULL, "ptmxmode", "0666", "mode", "0620", "gid", "5", NULL });
	dir("dev/shm", 0755);
	fresh("tmpfs", "dev/shm", NS | NX | ND, (const char *[]){ "mode", "1777", "size", "65536k", NULL });
	dir("dev/mqueue", 0755);
	fresh("mqueue", "dev/mqueue", NS | NX | ND, NULL);
	fresh("sysfs", "sys", RO | NS | NX | ND, NULL);
	if (unshare(CLONE_NEWCGROUP) < 0)
		die("unshare", "cgroup");
	fresh("cgroup2", "sys/fs/cgroup", RO | NS | NX | ND, NULL);
	umask(0);
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
		sprintf(a, "dev/%s", nodes[i].name);
		node(a, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor));
	}
	for (size_t i = 0; i < sizeof links / sizeof *links; i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			die("symlink", links[i][1]);
	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
		struct stat st;
		sprintf(a, "proc/%s", masked[i]);
		if (stat(a, &st) < 0)
			continue;
		if (S_ISDIR(st.st_mode))
			fresh("tmpfs", a, RO, NULL);
		else
			bound("dev/null", a, 0);
	}
	fresh("tmpfs", "sys/firmware", RO, NULL);
	for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
		sprintf(a, "proc/%s", closed[i]);
		bound(a, a, RO);
	}
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (s < 0 || ioctl(s, SIOCSIFFLAGS, &lo) < 0)
		die("bring up", "lo");
	close(s);
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		die("pivot_root", root);
	if (syscall(SYS_umount2, ".", umount_detach) < 0)
		die("umount", "the old root");
	if (chdir("/") < 0)
		die("chdir", "/");
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &ro, sizeof ro) < 0)
		die("mount_setattr", "/");

	/* The process itself. */
	umask(022);
	setsid();
	sethostname("runc", 4);
	struct rlimit files = { 1024, 1024 };
	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		die("setrlimit", "");
	syscall(SYS_keyctl, 1 /* join a new session keyring */, NULL);
	uint64_t keep = 1 << CAP_AUDIT_WRITE | 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE;
	for (int c = 0; c <= CAP_LAST_CAP; c++)
		if (!(keep >> c & 1))
			prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		die("setresuid", "0");
	struct __user_cap_header_struct own = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2] = { { keep, keep, 0 }, { 0, 0, 0 } };
	if (syscall(SYS_capset, &own, data) < 0)
		die("capset", "");
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	static char *env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", NULL };
	syscall(SYS_close_range, 3, ~0U, 0);
	execve(words[0], words, env);
	die("execve", words[0]);
}

int main(int argc, char **argv)
{
	char group[600], state[64], name[80], text[1500];

	if (argc < 3) {
		fprintf(stderr, "usage: floor-oci ROOTFS PROGRAM [ARGUMENT...]\n");
		return 2;
	}
	sprintf(state, "/run/floor-%d", getpid());
	sprintf(name, "%s/state.json", state);
	memset(text, ' ', sizeof text - 1);
	text[sizeof text - 1] = 0;
	if (mkdir(state, 0711) < 0)
		die("mkdir", state);
	int at = cgroup(group, sizeof group), pidfd = -1;
	if (at < 0)
		die("make", "a cgroup");
	struct clone_args args = {
		.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | CLONE_PIDFD | CLONE_INTO_CGROUP,
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = at,
	};
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		die("clone3", "");
	if (pid == 0)
		within(argv[1], argv + 2);
	file(name, text, 0600);
	siginfo_t info = { 0 };
	if (waitid(P_PIDFD, pidfd, &info, WEXITED) < 0)
		die("waitid", "");
	if (rmdir(group) < 0 || unlink(name) < 0 || rmdir(state) < 0)
		die("remove", state);
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}
