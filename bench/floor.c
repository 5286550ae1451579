//go:build ignore

/*
 * floor: the least that starting a machine can cost.
 *
 *	floor [-U FIRST] -D TREE PROGRAM [ARGUMENT…]
 *
 * It makes the same kernel objects as `launch -D TREE PROGRAM` and
 * systemd-nspawn do by default, on a root directory that is used as it is, with
 * the host's network, and the host's users or, with -U, 65536 of the machine's
 * own that begin at FIRST on the host, and that the tree belongs to already: the namespaces, the API mounts of the nspawn
 * profile, the nodes and links of /dev, the files below /run/host, a cgroup, the
 * two filters of system calls, the socket for notifications, and what the host
 * shares with the machine. It decides nothing: no options, no settings files, no
 * checks of the tree, no locks, no undo, no console, no registration; the filters
 * are put before this file as numbers. What launch needs on top of this is the
 * price of being a program for people.
 *
 * With -DBARE it leaves out filters, socket and shares, as it did before launch
 * had them: for figures that can be held to those of then.
 *
 * cat floor.h.c filters.h floor.c | gcc -O2 -static -x c -o floor -
 */
#ifndef BARE
#include <linux/seccomp.h>
#include <sys/socket.h>
#include <sys/un.h>

extern int umount2(const char *target, int flags);

/* What the host shares with the machine is there. */
#define SHARES "/run/systemd/nspawn/floor"

static void filter(struct sock_filter *code, size_t length)
{
	struct sock_fprog program = { length, code };

	if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
		die("seccomp", "");
}

/* Where programs in the machine tell how they do. */
static void listens(const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };
	int ear = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;

	strcpy(name.sun_path, path);
	if (ear < 0 || bind(ear, (struct sockaddr *)&name, sizeof name) < 0 || setsockopt(ear, SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
	    chmod(path, 0200) < 0)
		die("listen", path);
}
#endif

static void uuid(char *s, const char *end)
{
	unsigned char b[16];

	if (getrandom(b, sizeof b, 0) != sizeof b)
		die("getrandom", "");
	b[6] = (b[6] & 0x0f) | 0x40;
	b[8] = (b[8] & 0x3f) | 0x80;
	for (int i = 0; i < 16; i++)
		s += sprintf(s, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", b[i]);
	strcpy(s, end);
}

/* The machine's users on the host; 0: the host's own. */
static uid_t first;

/* What is made from here on belongs to the machine's root, or to ours again. */
static void as(uid_t id)
{
	if (first) {
		setfsuid(id);
		setfsgid(id);
	}
}

/* A node, which the machine's root could not make, but owns. */
static void owned(const char *path, mode_t mode, dev_t dev)
{
	node(path, mode, dev);
	if (first && lchown(path, first, first) < 0)
		die("chown", path);
}

/* A tmpfs of the machine's, with further options. */
static void tmpfs(const char *target, unsigned attr, const char *mode, const char *size, const char *inodes)
{
	char id[16];

	sprintf(id, "%u", first);
	fresh("tmpfs", target, attr, (const char *[]){ "mode", mode, "size", size, "nr_inodes", inodes, first ? "uid" : NULL, id, "gid", id, NULL });
}

/* The tree and all mounts in it that need nothing of the machine's namespaces. */
static void outer(const char *tree)
{
	static const char *const bases[] = { "/root", "/usr", "/var", "/etc", "/proc", "/sys", "/dev", "/run", "/tmp" };
	static const struct { const char *name; int major, minor; mode_t mode; } nodes[] = {
		{ "null", 1, 3, 0666 }, { "zero", 1, 5, 0666 }, { "full", 1, 7, 0666 }, { "random", 1, 8, 0666 },
		{ "urandom", 1, 9, 0666 }, { "tty", 5, 0, 0666 }, { "fuse", 10, 229, 0600 }, { "net/tun", 10, 200, 0600 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "/dev/fd" }, { "/proc/self/fd/0", "/dev/stdin" }, { "/proc/self/fd/1", "/dev/stdout" },
		{ "/proc/self/fd/2", "/dev/stderr" }, { "pts/ptmx", "/dev/ptmx" }, { "/proc/kcore", "/dev/core" },
	};
	char a[128], b[128], id[64];
	int core = access("/proc/kcore", F_OK) == 0;

	/* Nothing goes back to the host; the tree becomes a mount of its own. */
	struct mount_attr slave = { .propagation = ms_slave };
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &slave, sizeof slave) < 0)
		die("mount_setattr", "/");
	int root = copied(tree, AT_RECURSIVE, 0, ms_private);
	if (root < 0)
		die("open_tree", tree);
	int release = copied("/etc/os-release", 0, RO | NS | NX | ND, ms_private);
#ifndef BARE
	int incoming = copied(SHARES "/propagate", 0, RO | NS | NX | ND, ms_slave), export = copied(SHARES "/unix-export", 0, NS | NX | ND, ms_slave);
	struct mount_attr writable = { .attr_clr = RO };
	if (syscall(SYS_mount_setattr, export, "", AT_EMPTY_PATH, &writable, sizeof writable) < 0)
		die("mount_setattr", SHARES "/unix-export");
#endif
	attach(root, tree);
	if (chdir(tree) < 0)
		die("chdir", tree);
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		die("pivot_root", tree);
	if (syscall(SYS_umount2, ".", umount_detach) < 0)
		die("umount", "the old root");
	if (chdir("/") < 0)
		die("chdir", "/");
	umask(0);

	as(first);
	for (size_t i = 0; i < sizeof bases / sizeof *bases; i++)
		dir(bases[i], 0755);

	tmpfs("/tmp", NS | ND | SA, "01777", "10%", "400k");
	fresh("sysfs", "/sys", RO | NS | NX | ND, NULL);
	tmpfs("/dev", NS | SA, "0755", "4m", "64k");
	dir("/dev/shm", 01777);
	tmpfs("/dev/shm", NS | ND | SA, "01777", "10%", "400k");
	tmpfs("/run", NS | ND | SA, "0755", "20%", "800k");
	dir("/run/host", 0755);
	bound("/run/host", "/run/host", 0);

	/* /dev */
	dir("/dev/net", 0755);
	dir("/dev/char", 0755);
	for (size_t i = 0; i < sizeof nodes / sizeof *nodes; i++) {
		sprintf(a, "/dev/%s", nodes[i].name);
		as(0);
		owned(a, S_IFCHR | nodes[i].mode, makedev(nodes[i].major, nodes[i].minor));
		as(first);
		sprintf(b, "/dev/char/%d:%d", nodes[i].major, nodes[i].minor);
		sprintf(a, "../%s", nodes[i].name);
		if (symlink(a, b) < 0)
			die("symlink", b);
	}
	for (size_t i = 0; i < sizeof links / sizeof *links - !core; i++)
		if (symlink(links[i][0], links[i][1]) < 0)
			die("symlink", links[i][1]);
	dir("/dev/pts", 0755);
	sprintf(a, "%u", first + 5);
	fresh("devpts", "/dev/pts", NS | NX, (const char *[]){ "newinstance", NULL, "ptmxmode", "0666", "mode", "0600", "gid", a, NULL });
	as(0);
	if (first && lchown("/dev/pts", first, first) < 0)
		die("chown", "/dev/pts");
	as(first);
	dir("/dev/mqueue", 0755);

	/* /run/host */
	dir("/run/host/inaccessible", 0755);
	node("/run/host/inaccessible/reg", S_IFREG, 0);
	dir("/run/host/inaccessible/dir", 0);
	node("/run/host/inaccessible/fifo", S_IFIFO, 0);
	node("/run/host/inaccessible/sock", S_IFSOCK, 0);
	if (chmod("/run/host/inaccessible", 0555) < 0)
		die("chmod", "/run/host/inaccessible");
	as(0);
	owned("/run/host/inaccessible/chr", S_IFCHR, makedev(0, 0));
	owned("/run/host/inaccessible/blk", S_IFBLK, makedev(0, 0));
	as(first);
	dir("/run/host/incoming", 0600);
	file("/run/host/container-manager", "floor\n", 0444);
	uuid(id, "\n");
	file("/run/host/container-uuid", id, 0444);
	if (release >= 0) {
		node("/run/host/os-release", S_IFREG | 0444, 0);
		attach(release, "/run/host/os-release");
	}
	uuid(id, "\n");
	file("/run/host/proc-sys-kernel-random-boot-id", id, 0444);
	node("/run/host/proc-kmsg", S_IFIFO | 0600, 0);
#ifndef BARE
	dir("/run/host/unix-export", 0755);
	listens("/run/host/notify");
	as(0);
	attach(incoming, "/run/host/incoming");
	if (first && fchownat(export, "", first, first, AT_EMPTY_PATH) < 0)
		die("chown", "/run/host/unix-export");
	attach(export, "/run/host/unix-export");
#endif
	as(0);
}

/* The mounts that show a namespace: all others are there. pids is the machine's
 * namespace of processes, -1: we are in it. */
static void inner(int pids)
{
	static const char *const masked[] = { "kallsyms", "kcore", "keys", "sysrq-trigger", "timer_list" };
	static const char *const closed[] = { "acpi", "apm", "asound", "bus", "fs", "irq", "scsi" };
	char a[128];

	int ctx = syscall(SYS_fsopen, "proc", FSOPEN_CLOEXEC);
	if (ctx < 0)
		die("fsopen", "proc");
	if (pids >= 0 && syscall(SYS_fsconfig, ctx, FSCONFIG_SET_FD, "pidns", NULL, pids) < 0)
		die("fsconfig", "pidns");
	made(ctx, "proc", "/proc", NS | NX | ND);
	bound("/proc/sys", "/proc/sys", RO | NS | NX | ND);
	for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
		sprintf(a, "/proc/%s", masked[i]);
		if (access(a, F_OK) == 0)
			bound("/run/host/inaccessible/reg", a, RO | NS | NX | ND);
	}
	for (size_t i = 0; i < sizeof closed / sizeof *closed; i++) {
		sprintf(a, "/proc/%s", closed[i]);
		bound(a, a, RO | NS | NX | ND);
	}
	bound("/run/host/proc-sys-kernel-random-boot-id", "/proc/sys/kernel/random/boot_id", RO | NS | NX | ND);
	bound("/run/host/proc-kmsg", "/proc/kmsg", 0);
#ifdef BARE
	bound("/run/host/incoming", "/run/host/incoming", 0);
#endif
	fresh("mqueue", "/dev/mqueue", NS | NX | ND, NULL);
	if (access("/sys/fs/cgroup", F_OK) == 0)
		fresh("cgroup2", "/sys/fs/cgroup", NS | NX | ND, NULL);
	struct mount_attr ro = { .attr_set = RO | NS | NX | ND };
	if (syscall(SYS_mount_setattr, AT_FDCWD, "/run/host", 0, &ro, sizeof ro) < 0)
		die("mount_setattr", "/run/host");
}

/* The process itself, which becomes the payload. */
static void become(char **words)
{
	struct mount_attr shared = { .propagation = ms_shared };

	if (syscall(SYS_mount_setattr, AT_FDCWD, "/", AT_RECURSIVE, &shared, sizeof shared) < 0)
		die("mount_setattr", "/");

	umask(022);
	setsid();
	sethostname("floor", 5);
	for (int r = 0; r < RLIMIT_NLIMITS; r++) {
		struct rlimit l;
		if (getrlimit(r, &l) < 0 || setrlimit(r, &l) < 0)
			die("setrlimit", "");
	}
#ifndef BARE
	filter(filter1, sizeof filter1 / sizeof *filter1);
	filter(filter2, sizeof filter2 / sizeof *filter2);
#endif
	syscall(SYS_keyctl, 1 /* join a new session keyring */, NULL);
	if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		die("setresuid", "0");
	uint64_t keep = 0xfdecbfffULL; /* about nspawn's default set */
	struct __user_cap_header_struct head = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &head, data) < 0)
		die("capget", "");
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted &= (uint32_t)(keep >> 32 * i);
	for (int c = 0; c <= CAP_LAST_CAP; c++)
		if (!(keep >> c & 1))
			prctl(PR_CAPBSET_DROP, c, 0, 0, 0);
	if (syscall(SYS_capset, &head, data) < 0)
		die("capset", "");
	static char *env[] = { "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "container=floor",
		"HOME=/root", "USER=root", "LOGNAME=root", NULL };
	syscall(SYS_close_range, 3, ~0U, 0);
	execve(words[0], words, env);
	die("execve", words[0]);
}

static void say(int fd)
{
	if (write(fd, "", 1) != 1)
		die("write", "a pipe");
}

static void hear(int fd)
{
	char c;

	if (read(fd, &c, 1) != 1)
		die("read", "a pipe");
}

static void map(int proc, pid_t pid, const char *which)
{
	char path[64], text[32];

	sprintf(path, "%d/%s", pid, which);
	int fd = openat(proc, path, O_WRONLY | O_CLOEXEC), n = sprintf(text, "0 %u 65536\n", first);
	if (fd < 0 || write(fd, text, n) != n)
		die("write", path);
	close(fd);
}

/* The first process of a machine with the host's users makes the tree itself. */
static void child(const char *tree, char **words)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	outer(tree);
	/* The cgroup namespace's root is the cgroup that we are in by now. */
	if (unshare(CLONE_NEWCGROUP) < 0)
		die("unshare", "cgroup");
	inner(-1);
	become(words);
}

/* With users of its own it must not be able to undo what we have mounted. */
static void shifted(int up, int down, char **words)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	if (unshare(CLONE_NEWCGROUP) < 0)
		die("unshare", "cgroup");
	say(up);
	hear(down);
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		die("setresuid", "0");
	if (unshare(CLONE_NEWNS) < 0)
		die("unshare", "mount");
	become(words);
}

int main(int argc, char **argv)
{
	char path[600], name[64];
	int proc = -1, home = -1, up[2], down[2];

	if (argc > 2 && strcmp(argv[1], "-U") == 0) {
		first = strtoul(argv[2], NULL, 10);
		argc -= 2;
		argv += 2;
	}
	if (argc < 4 || strcmp(argv[1], "-D") != 0) {
		fprintf(stderr, "usage: floor [-U FIRST] -D TREE PROGRAM [ARGUMENT...]\n");
		return 2;
	}
#ifndef BARE
	dir("/run/systemd", 0755);
	dir("/run/systemd/nspawn", 0755);
	dir(SHARES, 0755);
	dir(SHARES "/propagate", 0600);
	dir(SHARES "/unix-export", 0755);
	fresh("tmpfs", SHARES "/unix-export", RO | NS | NX | ND, (const char *[]){ "mode", "0755", "size", "4M", "nr_inodes", "64", NULL });
#endif
	int group = cgroup(path, sizeof path), pidfd = -1;
	struct clone_args args = {
		.flags = (first ? CLONE_NEWUSER : CLONE_NEWNS) | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_PIDFD |
			(group >= 0 ? CLONE_INTO_CGROUP : 0),
		.pidfd = (uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
		.cgroup = group,
	};
	if (first) {
		proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
		home = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
		if (proc < 0 || home < 0 || pipe2(up, O_CLOEXEC) < 0 || pipe2(down, O_CLOEXEC) < 0 || unshare(CLONE_NEWNS) < 0)
			die("begin", "");
		outer(argv[2]);
	}
	long pid = syscall(SYS_clone3, &args, sizeof args);
	if (pid < 0)
		die("clone3", "");
	if (pid == 0 && first)
		shifted(up[1], down[0], argv + 3);
	if (pid == 0)
		child(argv[2], argv + 3);
	if (first) {
		close(up[1]);
		close(down[0]);
		hear(up[0]);
		map(proc, pid, "uid_map");
		map(proc, pid, "gid_map");
		sprintf(name, "%ld/ns/pid", pid);
		int pids = openat(proc, name, O_RDONLY | O_CLOEXEC);
		if (pids < 0 || setns(pidfd, CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP) < 0)
			die("join", "the namespaces");
		inner(pids);
		say(down[1]);
	}
	siginfo_t info = { 0 };
	if (waitid(P_PIDFD, pidfd, &info, WEXITED) < 0)
		die("waitid", "");
	if (first && setns(home, CLONE_NEWNS) < 0)
		die("setns", "home");
	if (group >= 0 && rmdir(path) < 0)
		die("rmdir", path);
#ifndef BARE
	if (umount2(SHARES "/unix-export", umount_detach) < 0 || rmdir(SHARES "/unix-export") < 0 || rmdir(SHARES "/propagate") < 0 || rmdir(SHARES) < 0)
		die("remove", SHARES);
#endif
	return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}
