//go:build ignore

/* What the two floors share: it is put before each of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#endif
#ifndef OPEN_TREE_CLOEXEC
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* sys/mount.h and linux/mount.h can't be had together, so by hand: */
enum { umount_detach = 2, ms_shared = 1 << 20, ms_private = 1 << 18, ms_slave = 1 << 19 };

static void die(const char *what, const char *on)
{
	fprintf(stderr, "floor: %s %s: %s\n", what, on, strerror(errno));
	_exit(125);
}

#define NS MOUNT_ATTR_NOSUID
#define ND MOUNT_ATTR_NODEV
#define NX MOUNT_ATTR_NOEXEC
#define RO MOUNT_ATTR_RDONLY
#define SA MOUNT_ATTR_STRICTATIME

static void attach(int mnt, const char *target)
{
	if (syscall(SYS_move_mount, mnt, "", AT_FDCWD, target, MOVE_MOUNT_F_EMPTY_PATH) < 0)
		die("move_mount", target);
	close(mnt);
}

/* A new file system from what ctx says of it. */
static void made(int ctx, const char *type, const char *target, unsigned attr)
{
	if (syscall(SYS_fsconfig, ctx, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		die("create", type);
	int mnt = syscall(SYS_fsmount, ctx, FSMOUNT_CLOEXEC, attr);
	if (mnt < 0)
		die("fsmount", type);
	close(ctx);
	attach(mnt, target);
}

/* A new file system; options is a list of key, value pairs that ends in NULL. */
static void fresh(const char *type, const char *target, unsigned attr, const char **options)
{
	int ctx = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);

	if (ctx < 0)
		die("fsopen", type);
	for (; options && *options; options += 2)
		if (syscall(SYS_fsconfig, ctx, options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, options[0], options[1], 0) < 0)
			die("fsconfig", options[0]);
	made(ctx, type, target, attr);
}

/* A detached bind mount, or -1 if the source isn't there. */
static int copied(const char *source, unsigned flags, unsigned attr, unsigned propagation)
{
	int mnt = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);

	if (mnt < 0 && errno == ENOENT)
		return -1;
	if (mnt < 0)
		die("open_tree", source);
	struct mount_attr a = { .attr_set = attr, .propagation = propagation };
	if ((attr || propagation) && syscall(SYS_mount_setattr, mnt, "", AT_EMPTY_PATH | flags, &a, sizeof a) < 0)
		die("mount_setattr", source);
	return mnt;
}

static void bound(const char *source, const char *target, unsigned attr)
{
	int mnt = copied(source, 0, attr, 0);

	if (mnt >= 0)
		attach(mnt, target);
}

static void file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die("write", path);
	close(fd);
}

static void dir(const char *path, mode_t mode)
{
	if (mkdir(path, mode) < 0 && errno != EEXIST && errno != EROFS)
		die("mkdir", path);
}

static void node(const char *path, mode_t mode, dev_t dev)
{
	if (mknod(path, mode, dev) < 0)
		die("mknod", path);
}

/* A cgroup below our own in the cgroup2 tree, wherever that is; -1 without one. */
static int cgroup(char *path, size_t size)
{
	char line[512], own[512] = "";
	FILE *f = fopen("/proc/self/cgroup", "re");

	while (f && fgets(line, sizeof line, f))
		if (strncmp(line, "0::", 3) == 0) {
			line[strcspn(line, "\n")] = 0;
			strcpy(own, line + 3);
		}
	if (f)
		fclose(f);
	const char *at = access("/sys/fs/cgroup/unified/cgroup.procs", F_OK) == 0 ? "/sys/fs/cgroup/unified" : "/sys/fs/cgroup";
	snprintf(path, size, "%s%s/floor-%d", at, own, getpid());
	if (!*own || mkdir(path, 0755) < 0)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}
