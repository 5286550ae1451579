/* Installs the filters that it is given (files of struct sock_filter), then
 * makes every call of the file named first, a line each: ABI NR A0 ... A5, in
 * hexadecimal, ABI 0 for x86-64 (and x32 by its bit), 1 for i386. Each runs in
 * a child of its own. Prints a line each: the errno, 0 for success, or minus
 * the signal that ended the child. */
#include <linux/filter.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static long call64(long nr, const unsigned long *a)
{
	long ret;
	register long r10 asm("r10") = a[3];
	register long r8 asm("r8") = a[4];
	register long r9 asm("r9") = a[5];
	asm volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8), "r"(r9)
		     : "rcx", "r11", "memory");
	return ret;
}

/* The registers are loaded from memory: rbx and rbp are the compiler's. */
static long call32(long nr, const unsigned long *a)
{
	long ret = nr;
	asm volatile("push %%rbp\n\tpush %%rbx\n\t"
		     "mov 0(%1), %%ebx\n\tmov 8(%1), %%ecx\n\tmov 16(%1), %%edx\n\t"
		     "mov 24(%1), %%esi\n\tmov 32(%1), %%edi\n\tmov 40(%1), %%ebp\n\t"
		     "int $0x80\n\tpop %%rbx\n\tpop %%rbp"
		     : "+a"(ret)
		     : "r"(a)
		     : "memory", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
	return (int)ret;
}

int main(int argc, char **argv)
{
	static struct sock_filter code[4096];
	volatile long *result = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	FILE *calls = fopen(argv[1], "r");
	unsigned abi;
	unsigned long nr, a[6];

	if (!calls)
		return 2;
	setvbuf(calls, NULL, _IOFBF, 1 << 20);
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	for (int i = 2; i < argc; i++) {
		FILE *f = fopen(argv[i], "r");
		if (!f)
			return 2;
		struct sock_fprog prog = { fread(code, 8, 4096, f), code };
		fclose(f);
		if (syscall(SYS_seccomp, 1, 0, &prog)) {
			perror(argv[i]);
			return 3;
		}
	}
	while (fscanf(calls, "%x %lx %lx %lx %lx %lx %lx %lx", &abi, &nr, a, a + 1, a + 2, a + 3, a + 4, a + 5) == 8) {
		int status = 0;
		*result = 99999;
		fflush(stdout);
		pid_t pid = fork();
		if (pid == 0) {
			struct itimerval soon = { { 0, 0 }, { 0, 200000 } };
			setitimer(ITIMER_REAL, &soon, NULL);
			*result = abi ? call32(nr, a) : call64(nr, a);
			syscall(SYS_exit_group, 0);
		}
		waitpid(pid, &status, 0);
		if (WIFSIGNALED(status))
			printf("%d\n", -WTERMSIG(status));
		else if (*result < 0 && *result > -4096)
			printf("%ld\n", -*result);
		else
			printf("0\n");
	}
	return 0;
}
