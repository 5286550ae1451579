/* probe prints what a payload sees, as one line of JSON on standard output.
 *
 * It is C, static and single-threaded on purpose. The Go runtime raises the
 * soft RLIMIT_NOFILE, installs handlers for all signals and opens descriptors
 * before main, and a dynamic program needs libraries in the tree: all of that
 * would be measured instead of what the launcher left behind. It only collects;
 * what differs between two runs by nature is taken out by the reader
 * (internal/itest/compare).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static FILE *out;
static int comma; /* whether a comma is due before the next item */

static void text(const char *s, size_t n) {
	fputc('"', out);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = s[i];
		if (c == '"' || c == '\\')
			fprintf(out, "\\%c", c);
		else if (c < 0x20 || c >= 0x7f)
			fprintf(out, "\\u%04x", c);
		else
			fputc(c, out);
	}
	fputc('"', out);
}

static void key(const char *k) {
	if (comma)
		fputc(',', out);
	text(k, strlen(k));
	fputc(':', out);
	comma = 1;
}

static void str(const char *k, const char *v) {
	key(k);
	text(v, strlen(v));
}

static void fmt(const char *k, const char *f, ...) __attribute__((format(printf, 2, 3)));
static void fmt(const char *k, const char *f, ...) {
	char b[PATH_MAX + 256];
	va_list a;
	va_start(a, f);
	vsnprintf(b, sizeof b, f, a);
	va_end(a);
	str(k, b);
}

static void err(const char *k) { fmt(k, "error: %s", strerrorname_np(errno) ? strerrorname_np(errno) : "?"); }

static void open_object(const char *k) {
	key(k);
	fputc('{', out);
	comma = 0;
}
static void close_object(void) {
	fputc('}', out);
	comma = 1;
}

/* a file of /proc: its size is unknown */
static void file(const char *k, const char *path) {
	static char b[1 << 20];
	size_t n = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		err(k);
		return;
	}
	for (;;) {
		ssize_t r = read(fd, b + n, sizeof b - n);
		if (r < 0 && n == 0) {
			err(k);
			close(fd);
			return;
		}
		if (r <= 0)
			break;
		n += r;
	}
	close(fd);
	key(k);
	text(b, n);
}

static void target(const char *k, const char *path) {
	char b[PATH_MAX];
	ssize_t n = readlink(path, b, sizeof b);
	if (n < 0) {
		err(k);
		return;
	}
	key(k);
	text(b, n);
}

/* "TYPE MODE UID:GID", then the device number, the link target or the size */
static void describe(const char *k, const char *path) {
	struct stat st;
	char link[PATH_MAX], more[PATH_MAX + 16] = "";
	const char *type;
	if (lstat(path, &st) < 0) {
		err(k);
		return;
	}
	switch (st.st_mode & S_IFMT) {
	case S_IFDIR: type = "dir"; break;
	case S_IFREG: type = "file"; break;
	case S_IFLNK: type = "link"; break;
	case S_IFCHR: type = "char"; break;
	case S_IFBLK: type = "block"; break;
	case S_IFIFO: type = "fifo"; break;
	case S_IFSOCK: type = "socket"; break;
	default: type = "other";
	}
	if (S_ISLNK(st.st_mode)) {
		ssize_t n = readlink(path, link, sizeof link - 1);
		link[n < 0 ? 0 : n] = 0;
		snprintf(more, sizeof more, " -> %s", link);
	} else if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		snprintf(more, sizeof more, " %u:%u", major(st.st_rdev), minor(st.st_rdev));
	fmt(k, "%s %04o %u:%u%s", type, st.st_mode & 07777, st.st_uid, st.st_gid, more);
}

/* everything below a directory, as deep as asked; the keys are paths */
static void list(const char *path, int deep) {
	struct dirent **e;
	int n = scandir(path, &e, NULL, alphasort);
	if (n < 0) {
		err(path);
		return;
	}
	for (int i = 0; i < n; i++) {
		char p[PATH_MAX];
		struct stat st;
		if (!strcmp(e[i]->d_name, ".") || !strcmp(e[i]->d_name, ".."))
			continue;
		snprintf(p, sizeof p, "%s/%s", strcmp(path, "/") ? path : "", e[i]->d_name);
		describe(p, p);
		if (deep > 0 && lstat(p, &st) == 0 && S_ISDIR(st.st_mode))
			list(p, deep - 1);
		free(e[i]);
	}
	free(e);
}

/* small regular files below a directory, by path */
static void contents(const char *path, int deep) {
	struct dirent **e;
	int n = scandir(path, &e, NULL, alphasort);
	for (int i = 0; i < n; i++) {
		char p[PATH_MAX];
		struct stat st;
		if (!strcmp(e[i]->d_name, ".") || !strcmp(e[i]->d_name, ".."))
			continue;
		snprintf(p, sizeof p, "%s/%s", path, e[i]->d_name);
		if (lstat(p, &st) == 0) {
			if (S_ISREG(st.st_mode) && st.st_size < 4096)
				file(p, p);
			else if (S_ISDIR(st.st_mode) && deep > 0)
				contents(p, deep - 1);
		}
		free(e[i]);
	}
	if (n >= 0)
		free(e);
}

static void descriptors(void) {
	/* Numbers are collected first: the directory's own descriptor must not
	 * be among them. */
	int fds[4096], n = 0;
	DIR *d = opendir("/proc/self/fd");
	if (!d) {
		err("error");
		return;
	}
	for (struct dirent *e; (e = readdir(d));)
		if (e->d_name[0] != '.' && atoi(e->d_name) != dirfd(d) && n < 4096)
			fds[n++] = atoi(e->d_name);
	closedir(d);
	for (int i = 0; i < n; i++) {
		char k[32], p[64], link[PATH_MAX];
		struct stat st;
		int flags = fcntl(fds[i], F_GETFL), fdflags = fcntl(fds[i], F_GETFD);
		ssize_t l;
		snprintf(p, sizeof p, "/proc/self/fd/%d", fds[i]);
		l = readlink(p, link, sizeof link - 1);
		link[l < 0 ? 0 : l] = 0;
		if (fstat(fds[i], &st) < 0)
			memset(&st, 0, sizeof st);
		snprintf(k, sizeof k, "%d", fds[i]);
		fmt(k, "%s flags %#o cloexec %d mode %06o owner %u:%u tty %d", link, flags, fdflags & FD_CLOEXEC,
			st.st_mode, st.st_uid, st.st_gid, isatty(fds[i]));
	}
}

static void signals(void) {
	char b[65 * 8] = "";
	for (int s = 1; s <= 64; s++) {
		struct sigaction a;
		if (sigaction(s, NULL, &a) == 0 && a.sa_handler != SIG_DFL)
			sprintf(b + strlen(b), "%s%d%s", *b ? " " : "", s, a.sa_handler == SIG_IGN ? "" : "!");
	}
	str("not default", b);
	sigset_t m;
	*b = 0;
	sigprocmask(SIG_BLOCK, NULL, &m);
	for (int s = 1; s <= 64; s++)
		if (sigismember(&m, s) == 1)
			sprintf(b + strlen(b), "%s%d", *b ? " " : "", s);
	str("blocked", b);
}

static void interfaces(void) {
	struct if_nameindex *i = if_nameindex();
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	for (struct if_nameindex *p = i; p && p->if_index; p++) {
		struct ifreq r;
		memset(&r, 0, sizeof r);
		snprintf(r.ifr_name, IFNAMSIZ, "%s", p->if_name);
		if (s < 0 || ioctl(s, SIOCGIFFLAGS, &r) < 0)
			err(p->if_name);
		else
			fmt(p->if_name, "%s", r.ifr_flags & IFF_UP ? "up" : "down");
	}
	if (i)
		if_freenameindex(i);
	if (s >= 0)
		close(s);
}

/* What calls answer to arguments that cannot work: the filter's errno when it
 * is filtered, the kernel's when it is not. Each call runs in a child, since
 * a filter may also kill. Only calls that do nothing with such arguments. */
static const struct {
	const char *name;
	long nr, a, b, c, d, e;
} calls[] = {
#define C(n, ...) {#n, SYS_##n, __VA_ARGS__},
	C(acct, -1, 0, 0, 0, 0)
	C(add_key, 0, 0, 0, 0, 0)
	C(adjtimex, -1, 0, 0, 0, 0)
	C(bpf, -1, 0, 0, 0, 0)
	C(chroot, -1, 0, 0, 0, 0)
	C(clock_adjtime, -1, -1, 0, 0, 0)
	C(clock_settime, -1, -1, 0, 0, 0)
	C(clone3, 0, 0, 0, 0, 0)
	C(delete_module, -1, 0, 0, 0, 0)
	C(fanotify_init, -1, -1, 0, 0, 0)
	C(finit_module, -1, -1, 0, 0, 0)
	C(get_mempolicy, -1, -1, -1, -1, -1)
	C(init_module, -1, 0, -1, 0, 0)
	C(io_uring_setup, 0, 0, 0, 0, 0)
	C(kcmp, -1, -1, -1, -1, -1)
	C(kexec_file_load, -1, -1, 0, 0, -1)
	C(kexec_load, -1, -1, 0, -1, 0)
	C(keyctl, -1, 0, 0, 0, 0)
	C(lookup_dcookie, 0, 0, 0, 0, 0)
	C(mbind, -1, -1, -1, -1, -1)
	C(migrate_pages, -1, -1, -1, -1, 0)
	C(mount, 0, -1, 0, 0, 0)
	C(mount_setattr, -1, -1, 0, 0, 0)
	C(move_pages, -1, -1, -1, -1, -1)
	C(name_to_handle_at, -1, -1, -1, -1, -1)
	C(nfsservctl, -1, 0, 0, 0, 0)
	C(open_by_handle_at, -1, -1, -1, 0, 0)
	C(perf_event_open, -1, -1, -1, -1, -1)
	C(personality, 0xffffffff, 0, 0, 0, 0)
	C(pidfd_open, -1, 0, 0, 0, 0)
	C(pivot_root, -1, -1, 0, 0, 0)
	C(process_vm_readv, -1, -1, 0, 0, 0)
	C(ptrace, -1, -1, 0, 0, 0)
	C(quotactl, -1, -1, -1, -1, 0)
	C(reboot, 0, 0, 0, 0, 0)
	C(request_key, 0, 0, 0, 0, 0)
	C(set_mempolicy, -1, -1, -1, 0, 0)
	C(sethostname, -1, -1, 0, 0, 0)
	C(setns, -1, -1, 0, 0, 0)
	C(settimeofday, -1, -1, 0, 0, 0)
	C(swapoff, -1, 0, 0, 0, 0)
	C(swapon, -1, -1, 0, 0, 0)
	C(syslog, -1, 0, 0, 0, 0)
	C(umount2, -1, -1, 0, 0, 0)
	C(unshare, 0, 0, 0, 0, 0)
	C(userfaultfd, -1, 0, 0, 0, 0)
#ifdef SYS_iopl
	C(iopl, -1, 0, 0, 0, 0)
	C(ioperm, -1, -1, 0, 0, 0)
	C(modify_ldt, -1, 0, 0, 0, 0)
	C(sysfs, -1, 0, 0, 0, 0)
	C(uselib, -1, 0, 0, 0, 0)
	C(ustat, -1, -1, 0, 0, 0)
	C(create_module, 0, 0, 0, 0, 0)
	C(_sysctl, 0, 0, 0, 0, 0)
#endif
#undef C
	{"socket netlink audit", SYS_socket, AF_NETLINK, SOCK_RAW, 9, 0, 0},
	{"socket netlink kobject", SYS_socket, AF_NETLINK, SOCK_RAW, 15, 0, 0},
	{"socket packet", SYS_socket, AF_PACKET, SOCK_RAW, 0, 0, 0},
	{"socket alg", SYS_socket, 38, SOCK_SEQPACKET, 0, 0, 0},
	{"socket vsock", SYS_socket, 40, SOCK_STREAM, 0, 0, 0},
	{"socket raw", SYS_socket, AF_INET, SOCK_RAW, 1, 0, 0},
	{"socket unix", SYS_socket, AF_UNIX, SOCK_STREAM, 0, 0, 0},
	{"number 9999", 9999, 0, 0, 0, 0, 0},
};

static void answers(void) {
	for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
		int p[2], status, e = -1;
		if (pipe2(p, O_CLOEXEC) < 0) {
			err(calls[i].name);
			continue;
		}
		pid_t pid = fork();
		if (pid == 0) {
			/* a raw errno; the children must not write what is buffered */
			alarm(5);
			long r = syscall(calls[i].nr, calls[i].a, calls[i].b, calls[i].c, calls[i].d, calls[i].e);
			e = r < 0 ? errno : 0;
			_exit(write(p[1], &e, sizeof e) != sizeof e);
		}
		close(p[1]);
		if (pid < 0 || read(p[0], &e, sizeof e) != sizeof e)
			e = -1;
		close(p[0]);
		if (pid > 0)
			waitpid(pid, &status, 0);
		else
			status = 0;
		if (e >= 0)
			str(calls[i].name, e ? strerrorname_np(e) : "works");
		else
			fmt(calls[i].name, "killed by signal %d", WTERMSIG(status));
	}
}

static void writable(const char *path) {
	struct statfs f;
	if (statfs(path, &f) < 0) {
		err(path);
		return;
	}
	fmt(path, "%s magic %lx", access(path, W_OK) ? strerrorname_np(errno) : "writable", (long)f.f_type);
}

extern char **environ;

int main(int argc, char **argv) {
	char b[PATH_MAX];
	struct utsname u;
	size_t size;
	char *all;

	/* First, before anything else is opened. Written at once at the end. */
	out = open_memstream(&all, &size);
	if (!out)
		return 70;
	fputc('{', out);

	open_object("fd");
	descriptors();
	close_object();

	open_object("signals");
	signals();
	close_object();

	open_object("file");
	static const char *files[] = {"mountinfo", "status", "limits", "cgroup", "uid_map", "gid_map", "setgroups",
		"oom_score_adj", "personality", "loginuid", "sessionid", "timerslack_ns", "coredump_filter", "attr/current", "comm"};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		snprintf(b, sizeof b, "/proc/self/%s", files[i]);
		file(files[i], b);
	}
	static const char *more[] = {"/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname", "/proc/sys/kernel/random/boot_id",
		"/proc/1/comm", "/etc/resolv.conf", "/etc/machine-id", "/opt/data/file", "/srv/file", "/mnt/file"};
	for (size_t i = 0; i < sizeof more / sizeof *more; i++)
		file(more[i], more[i]);
	close_object();

	open_object("ns");
	static const char *ns[] = {"cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
	for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) {
		snprintf(b, sizeof b, "/proc/self/ns/%s", ns[i]);
		target(ns[i], b);
	}
	close_object();

	open_object("env");
	for (char **e = environ; *e; e++) {
		char *eq = strchr(*e, '=');
		if (!eq) {
			str(*e, "(no value)");
			continue;
		}
		snprintf(b, sizeof b, "%.*s", (int)(eq - *e), *e);
		/* Others find the first of two. */
		if (eq > *e && getenv(b) != eq + 1)
			strcat(b, " again");
		str(b, eq + 1);
	}
	close_object();

	open_object("self");
	fmt("argc", "%d", argc);
	str("argv0", argc ? argv[0] : "(none)");
	str("cwd", getcwd(b, sizeof b) ? b : strerrorname_np(errno));
	target("root", "/proc/self/root");
	target("exe", "/proc/self/exe");
	fmt("pid", "%d", getpid());
	fmt("ppid", "%d", getppid());
	fmt("session", "%d", getsid(0));
	fmt("pgrp", "%d", getpgrp());
	fmt("resuid", "%d %d", getuid(), geteuid());
	mode_t m = umask(0);
	umask(m);
	fmt("umask", "%04o", m);
	int tty = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (tty < 0)
		err("controlling tty");
	else {
		str("controlling tty", "yes");
		fmt("foreground group", "%d", tcgetpgrp(tty));
		close(tty);
	}
	for (int i = 0; i < 3; i++) {
		char k[16];
		snprintf(k, sizeof k, "ttyname %d", i);
		if (ttyname_r(i, b, sizeof b) == 0)
			str(k, b);
	}
	struct termios tio;
	if (tcgetattr(0, &tio) == 0)
		fmt("termios", "%x %x %x %x", tio.c_iflag, tio.c_oflag, tio.c_cflag, tio.c_lflag);
	if (uname(&u) == 0)
		fmt("uname", "%s %s %s %s", u.sysname, u.nodename, u.domainname, u.machine);
	fmt("personality", "%lx", (long)personality(0xffffffff));
	errno = 0;
	fmt("nice", "%d", getpriority(PRIO_PROCESS, 0));
	fmt("scheduler", "%d", sched_getscheduler(0));
	fmt("dumpable", "%d", prctl(PR_GET_DUMPABLE));
	fmt("child subreaper", "%d", ({ int v = -1; prctl(PR_GET_CHILD_SUBREAPER, &v); v; }));
	fmt("securebits", "%x", prctl(PR_GET_SECUREBITS));
	fmt("pdeathsig", "%d", ({ int v = -1; prctl(PR_GET_PDEATHSIG, &v); v; }));
	fmt("thp disable", "%d", prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0));
	/* KEYCTL_DESCRIBE of the session keyring */
	long n = syscall(SYS_keyctl, 6, -3, b, sizeof b - 1, 0);
	if (n < 0)
		err("session keyring");
	else {
		b[n] = 0;
		str("session keyring", b);
	}
	close_object();

	open_object("interface");
	interfaces();
	close_object();

	open_object("path");
	describe("/", "/");
	list("/", 0);
	list("/dev", 3);
	list("/run", 4);
	list("/tmp", 1);
	list("/etc", 0);
	list("/root", 0);
	list("/home", 1);
	list("/var", 1);
	list("/mnt", 1);
	list("/srv", 1);
	list("/opt", 2);
	list("/sys", 0);
	list("/sys/fs", 0);
	list("/sys/fs/cgroup", 0);
	static const char *paths[] = {"/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/kmsg",
		"/proc/acpi", "/proc/apm", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/scsi", "/proc/sys", "/proc/sys/net",
		"/proc/sys/kernel/random/boot_id", "/sys/firmware", "/sys/kernel/security", "/sys/class/net"};
	for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
		describe(paths[i], paths[i]);
	close_object();

	open_object("access");
	static const char *places[] = {"/", "/proc", "/proc/sys", "/proc/sys/net", "/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/proc/bus",
		"/proc/irq", "/proc/kcore", "/sys", "/sys/fs/cgroup", "/sys/kernel", "/dev", "/dev/shm", "/dev/mqueue", "/run", "/run/host", "/tmp", "/usr",
		"/etc", "/var", "/root", "/mnt", "/srv", "/opt/data", "/opt/data/file"};
	for (size_t i = 0; i < sizeof places / sizeof *places; i++)
		writable(places[i]);
	close_object();

	open_object("content");
	contents("/run/host", 2);
	close_object();

	open_object("syscall");
	answers();
	close_object();

	fputs("}\n", out);
	fclose(out);
	for (size_t done = 0; done < size;) {
		ssize_t w = write(1, all + done, size - done);
		if (w <= 0)
			return 71;
		done += w;
	}
	return argc > 1 ? atoi(argv[1]) : 0;
}
