#include "textflag.h"
#include "go_asm.h"

#define SYS_write           1
#define SYS_close           3
#define SYS_rt_sigprocmask  14
#define SYS_ioctl           16
#define SYS_setitimer       38
#define SYS_clone           56
#define SYS_execve          59
#define SYS_wait4           61
#define SYS_kill            62
#define SYS_fcntl           72
#define SYS_chdir           80
#define SYS_setsid          112
#define SYS_rt_sigtimedwait 128
#define SYS_prctl           157
#define SYS_reboot          169
#define SYS_exit_group      231
#define SYS_openat          257
#define SYS_seccomp         317

// System calls keep all registers but AX, CX and R11. In the whole program:
//
//	BX   the block
//	R12  process 2
//	R13  the command for reboot(2) that a signal asked for; 0: none
//	R14  how process 2 ended, as wait4 tells it; before: the step
//	R15  8 bytes that can be written to
//
// It needs no stack, no loader, and no other memory.
TEXT program<>(SB), NOSPLIT|NOFRAME, $0
	MOVQ $const_blockAddr, BX
	MOVQ SP, R15
	SUBQ $64, R15

	// It must not reach the payload. Where it isn't there, this is a second
	// run: the payload names /proc/self/exe as its interpreter, or is it.
	MOVQ block_status(BX), DI
	MOVQ $2, SI // F_SETFD
	MOVQ $1, DX // FD_CLOEXEC
	MOVQ $SYS_fcntl, AX
	SYSCALL
	MOVQ $127, DI
	TESTQ AX, AX
	JLT  leave

	// Nor must the one behind it, if there is one: see Status.
	MOVQ block_status(BX), DI
	INCQ DI
	MOVQ $SYS_fcntl, AX
	SYSCALL

	CMPQ block_only(BX), $0
	JNE  payload

	// Signals are never delivered, but fetched below.
	MOVQ $2, DI // SIG_SETMASK
	LEAQ block_all(BX), SI
	XORL DX, DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigprocmask, AX
	SYSCALL

	MOVQ $15, DI // PR_SET_NAME
	LEAQ block_name(BX), SI
	MOVQ $SYS_prctl, AX
	SYSCALL

	MOVQ $const_Fork, R14
	MOVQ $17, DI // SIGCHLD
	XORL SI, SI
	XORL DX, DX
	XORL R10, R10
	XORL R8, R8
	MOVQ $SYS_clone, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  second
	JLT  failed
	MOVQ AX, R12

	// From here on the launcher sees the end of the pipe when process 2
	// runs the payload.
	MOVQ block_status(BX), DI
	MOVQ $SYS_close, AX
	SYSCALL

	// A directory that the payload leaves can be unmounted.
	LEAQ block_root(BX), DI
	MOVQ $SYS_chdir, AX
	SYSCALL

	XORL R13, R13

reap:
	MOVQ $-1, DI
	MOVQ R15, SI
	MOVQ $0x40000001, DX // __WALL, WNOHANG
	XORL R10, R10
	MOVQ $SYS_wait4, AX
	SYSCALL
	TESTQ AX, AX
	JEQ  listen
	JLT  blind
	CMPQ AX, R12
	JNE  reap
	MOVL (R15), R14
	JMP  ended

listen:
	LEAQ block_all(BX), DI
	XORL SI, SI
	XORL DX, DX // no timeout
	MOVQ $8, R10
	MOVQ $SYS_rt_sigtimedwait, AX
	SYSCALL
	TESTQ AX, AX
	JLT  deaf
	CMPQ AX, $14 // SIGALRM: the time is over
	JEQ  over
	MOVQ block_poweroff(BX), R8
	MOVQ block_poweroffCmd(BX), R9
	BTQ  AX, R8
	JCS  stop
	MOVQ block_reboot(BX), R8
	MOVQ block_rebootCmd(BX), R9
	BTQ  AX, R8
	JCS  stop
	JMP  reap

blind:
	CMPQ AX, $-10 // ECHILD
	JEQ  listen
	JMP  forbidden

deaf:
	CMPQ AX, $-4 // EINTR
	JEQ  reap

forbidden:
	// A filter forbids it. Better to end than to be deaf, or busy, or never to
	// hear that process 2 has ended.
	MOVQ $0xff00, R14
	JMP  exit

stop:
	TESTQ R13, R13
	JNE  reap
	MOVQ R9, R13
	MOVQ R12, DI
	MOVQ $15, SI // SIGTERM
	MOVQ $SYS_kill, AX
	SYSCALL
	MOVQ R12, DI
	MOVQ $18, SI // SIGCONT
	MOVQ $SYS_kill, AX
	SYSCALL
	MOVQ R12, DI
	MOVQ $1, SI // SIGHUP
	MOVQ $SYS_kill, AX
	SYSCALL
	XORL DI, DI // ITIMER_REAL
	LEAQ block_grace(BX), SI
	XORL DX, DX
	MOVQ $SYS_setitimer, AX
	SYSCALL
	JMP  reap

over:
	TESTQ R13, R13
	JEQ  reap
	MOVQ $0xff00, R14

ended:
	TESTQ R13, R13
	JEQ  exit
	MOVQ block_magic1(BX), DI
	MOVQ block_magic2(BX), SI
	MOVQ R13, DX
	XORL R10, R10
	MOVQ $SYS_reboot, AX
	SYSCALL
	// It came back: process 1 lacks CAP_SYS_BOOT.

exit:
	MOVL R14, DI
	SHRL $8, DI
	ANDL $255, DI
	TESTL $127, R14
	JEQ  leave
	MOVQ $255, DI

leave:
	MOVQ $SYS_exit_group, AX
	SYSCALL
	// A filter forbids it: then it ends by a signal.
	UNDEF

second:
	MOVQ $const_Setsid, R14
	MOVQ $SYS_setsid, AX
	SYSCALL
	TESTQ AX, AX
	JLT  failed

	CMPQ block_terminal(BX), $0
	JEQ  unblock
	MOVQ $const_CtlTTY, R14
	XORL DI, DI
	MOVQ $0x540e, SI // TIOCSCTTY
	XORL DX, DX
	MOVQ $SYS_ioctl, AX
	SYSCALL
	TESTQ AX, AX
	JLT  failed

unblock:
	MOVQ $2, DI // SIG_SETMASK
	LEAQ block_none(BX), SI
	XORL DX, DX
	MOVQ $8, R10
	MOVQ $SYS_rt_sigprocmask, AX
	SYSCALL

payload:
	CMPQ block_labelSize(BX), $0
	JEQ  filter
	MOVQ $const_Label, R14
	MOVQ $-100, DI // AT_FDCWD
	MOVQ block_labelFile(BX), SI
	MOVQ $0x80001, DX // O_WRONLY, O_CLOEXEC
	XORL R10, R10
	MOVQ $SYS_openat, AX
	SYSCALL
	TESTQ AX, AX
	JLT  failed
	MOVQ AX, DI
	MOVQ block_label(BX), SI
	MOVQ block_labelSize(BX), DX
	MOVQ $SYS_write, AX
	SYSCALL
	TESTQ AX, AX
	JLT  failed

filter:
	CMPQ block_filter(BX), $0
	JEQ  execute
	MOVQ $const_Filter, R14
	MOVQ $1, DI // SECCOMP_SET_MODE_FILTER
	MOVQ block_filterFlags(BX), SI
	LEAQ block_filter(BX), DX
	MOVQ $SYS_seccomp, AX
	SYSCALL
	TESTQ AX, AX
	JLT  failed

execute:
	MOVQ $const_Exec, R14
	MOVQ block_program(BX), DI
	MOVQ block_argv(BX), SI
	MOVQ block_envp(BX), DX
	MOVQ $SYS_execve, AX
	SYSCALL
	CMPQ AX, $-8 // ENOEXEC
	JNE  failed
	MOVQ AX, R12
	MOVQ $2, DI
	MOVQ block_words(BX), SI
	MOVQ block_wordsSize(BX), DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ R12, AX

failed:
	NEGQ AX
	MOVL AX, (R15)
	MOVL R14, 4(R15)
	MOVQ block_status(BX), DI
	MOVQ R15, SI
	MOVQ $const_ReportSize, DX
	MOVQ $SYS_write, AX
	SYSCALL
	MOVQ $1, DI
	JMP  leave
	QUAD $const_mark

// func entry() unsafe.Pointer
TEXT ·entry(SB), NOSPLIT, $0-8
	LEAQ program<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
