/* What the machines of these tests begin with, where the probe alone is not
 * enough. It is told by its name which part it plays:
 *
 * init behaves as the init of an operating system does: it has a cgroup of its
 * own below the machine's, runs the probe in another one, says that it is
 * ready, reaps what it is left, and powers off.
 *
 * again reboots the machine when it comes for the first time, and runs the
 * probe when it comes for the second.
 *
 * ported gives the machine an address, and runs the probe when the launcher has had
 * the time to hear of it.
 *
 * systemd-journal-remote is no part of a machine: it takes what comes to the socket that
 * it gets, until it is told to end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
	perror(what);
	_exit(90);
}

static void probe(void) {
	execl("/bin/true", "/bin/true", (char *)NULL);
	die("/bin/true");
}

static void cgroup(const char *name) {
	char dir[100], procs[120];
	snprintf(dir, sizeof dir, "/sys/fs/cgroup/%s", name);
	snprintf(procs, sizeof procs, "%s/cgroup.procs", dir);
	if (mkdir(dir, 0755) < 0)
		die(dir);
	int fd = open(procs, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "0", 1) != 1)
		die(procs);
	close(fd);
}

static void notify(const char *text) {
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!path || fd < 0)
		die("NOTIFY_SOCKET");
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	if (sendto(fd, text, strlen(text), 0, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + strlen(path) + 1) < 0)
		die(path);
	close(fd);
}

static void address(void) {
	struct ifreq r = {.ifr_name = "host0"};
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	a->sin_family = AF_INET;
	if (inet_pton(AF_INET, "10.9.9.2", &a->sin_addr) != 1 || fd < 0 || ioctl(fd, SIOCSIFADDR, &r) < 0)
		die("host0");
	close(fd);
	usleep(150000); /* it looks ten times a second */
}

static void end(int signal) {
	(void)signal;
	_exit(0);
}

static void receive(void) {
	char buf[4096];
	struct sigaction a = {.sa_handler = end};
	if (sigaction(SIGTERM, &a, NULL) < 0)
		die("SIGTERM");
	for (;;) {
		int fd = accept(3, NULL, NULL);
		if (fd < 0)
			die("accept");
		while (read(fd, buf, sizeof buf) > 0)
			;
		close(fd);
	}
}

int main(int argc, char **argv) {
	(void)argc;
	const char *name = strrchr(argv[0], '/') ? strrchr(argv[0], '/') + 1 : argv[0];
	if (!strcmp(name, "again")) {
		if (access("/rebooted", F_OK) == 0)
			probe();
		int fd = open("/rebooted", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
		if (fd < 0)
			die("/rebooted");
		reboot(RB_AUTOBOOT);
		die("reboot");
	}
	if (!strcmp(name, "systemd-journal-remote"))
		receive();
	if (!strcmp(name, "ported")) {
		address();
		probe();
	}
	if (getpid() != 1)
		die("an init that is not process 1");
	cgroup("init.scope");
	if (mount("tmp", "/tmp", "tmpfs", 0, NULL) < 0)
		die("/tmp");
	int status = 0;
	pid_t orphan, child = fork();
	if (child == 0) {
		/* Somebody who is still there at the end, and in a session of its own. */
		if (fork() == 0) {
			setsid();
			for (int i = 0; i < 3; i++)
				close(i);
			pause();
			_exit(0);
		}
		cgroup("probe.service");
		probe();
	}
	while ((orphan = wait(&status)) != child)
		if (orphan < 0)
			die("wait");
	if (status)
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 91);
	notify("READY=1\nSTATUS=up");
	reboot(RB_POWER_OFF);
	die("power off");
}
