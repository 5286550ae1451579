#include "textflag.h"
#include "go_asm.h"

#define SYS_fcntl           25
#define SYS_ioctl           29
#define SYS_chdir           49
#define SYS_openat          56
#define SYS_close           57
#define SYS_write           64
#define SYS_exit_group      94
#define SYS_setitimer       103
#define SYS_kill            129
#define SYS_rt_sigprocmask  135
#define SYS_rt_sigtimedwait 137
#define SYS_reboot          142
#define SYS_setsid          157
#define SYS_prctl           167
#define SYS_clone           220
#define SYS_execve          221
#define SYS_wait4           260
#define SYS_seccomp         277

// System calls keep all registers but R0. In the whole program:
//
//	R19  the block
//	R20  process 2
//	R21  the command for reboot(2) that a signal asked for; 0: none
//	R22  how process 2 ended, as wait4 tells it; before: the step
//	R23  8 bytes that can be written to
//
// It needs no stack, no loader, and no other memory.
TEXT program<>(SB), NOSPLIT|NOFRAME, $0
	MOVD $const_blockAddr, R19
	MOVD RSP, R23
	SUB  $64, R23

	// It must not reach the payload. Where it isn't there, this is a second
	// run: the payload names /proc/self/exe as its interpreter, or is it.
	MOVD block_status(R19), R0
	MOVD $2, R1 // F_SETFD
	MOVD $1, R2 // FD_CLOEXEC
	MOVD $SYS_fcntl, R8
	SVC
	MOVD R0, R9
	MOVD $127, R0
	TBNZ $63, R9, leave

	// Nor must the one behind it, if there is one: see Status.
	MOVD block_status(R19), R0
	ADD  $1, R0
	MOVD $SYS_fcntl, R8
	SVC

	MOVD block_only(R19), R9
	CBNZ R9, payload

	// Signals are never delivered, but fetched below.
	MOVD $2, R0 // SIG_SETMASK
	ADD  $block_all, R19, R1
	MOVD ZR, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC

	MOVD $15, R0 // PR_SET_NAME
	ADD  $block_name, R19, R1
	MOVD $SYS_prctl, R8
	SVC

	MOVD $const_Fork, R22
	MOVD $17, R0 // SIGCHLD
	MOVD ZR, R1
	MOVD ZR, R2
	MOVD ZR, R3
	MOVD ZR, R4
	MOVD $SYS_clone, R8
	SVC
	CBZ  R0, second
	TBNZ $63, R0, failed
	MOVD R0, R20

	// From here on the launcher sees the end of the pipe when process 2
	// runs the payload.
	MOVD block_status(R19), R0
	MOVD $SYS_close, R8
	SVC

	// A directory that the payload leaves can be unmounted.
	ADD  $block_root, R19, R0
	MOVD $SYS_chdir, R8
	SVC

	MOVD ZR, R21

reap:
	MOVD $-1, R0
	MOVD R23, R1
	MOVD $0x40000000, R2 // __WALL
	ADD  $1, R2          // WNOHANG
	MOVD ZR, R3
	MOVD $SYS_wait4, R8
	SVC
	CBZ  R0, listen
	TBNZ $63, R0, blind
	CMP  R20, R0
	BNE  reap
	MOVWU (R23), R22
	B    ended

listen:
	ADD  $block_all, R19, R0
	MOVD ZR, R1
	MOVD ZR, R2 // no timeout
	MOVD $8, R3
	MOVD $SYS_rt_sigtimedwait, R8
	SVC
	TBNZ $63, R0, deaf
	CMP  $14, R0 // SIGALRM: the time is over
	BEQ  over
	MOVD block_poweroff(R19), R9
	MOVD block_poweroffCmd(R19), R10
	LSR  R0, R9, R9
	TBNZ $0, R9, stop
	MOVD block_reboot(R19), R9
	MOVD block_rebootCmd(R19), R10
	LSR  R0, R9, R9
	TBNZ $0, R9, stop
	B    reap

blind:
	CMN  $10, R0 // ECHILD
	BEQ  listen
	B    forbidden

deaf:
	CMN  $4, R0 // EINTR
	BEQ  reap

forbidden:
	// A filter forbids it. Better to end than to be deaf, or busy, or never to
	// hear that process 2 has ended.
	MOVD $0xff00, R22
	B    exit

stop:
	CBNZ R21, reap
	MOVD R10, R21
	MOVD R20, R0
	MOVD $15, R1 // SIGTERM
	MOVD $SYS_kill, R8
	SVC
	MOVD R20, R0
	MOVD $18, R1 // SIGCONT
	MOVD $SYS_kill, R8
	SVC
	MOVD R20, R0
	MOVD $1, R1 // SIGHUP
	MOVD $SYS_kill, R8
	SVC
	MOVD ZR, R0 // ITIMER_REAL
	ADD  $block_grace, R19, R1
	MOVD ZR, R2
	MOVD $SYS_setitimer, R8
	SVC
	B    reap

over:
	CBZ  R21, reap
	MOVD $0xff00, R22

ended:
	CBZ  R21, exit
	MOVD block_magic1(R19), R0
	MOVD block_magic2(R19), R1
	MOVD R21, R2
	MOVD ZR, R3
	MOVD $SYS_reboot, R8
	SVC
	// It came back: process 1 lacks CAP_SYS_BOOT.

exit:
	LSR  $8, R22, R0
	AND  $255, R0
	TST  $127, R22
	BEQ  leave
	MOVD $255, R0

leave:
	MOVD $SYS_exit_group, R8
	SVC
	// A filter forbids it: then it ends by a signal.
	UNDEF

second:
	MOVD $const_Setsid, R22
	MOVD $SYS_setsid, R8
	SVC
	TBNZ $63, R0, failed

	MOVD block_terminal(R19), R9
	CBZ  R9, unblock
	MOVD $const_CtlTTY, R22
	MOVD ZR, R0
	MOVD $0x540e, R1 // TIOCSCTTY
	MOVD ZR, R2
	MOVD $SYS_ioctl, R8
	SVC
	TBNZ $63, R0, failed

unblock:
	MOVD $2, R0 // SIG_SETMASK
	ADD  $block_none, R19, R1
	MOVD ZR, R2
	MOVD $8, R3
	MOVD $SYS_rt_sigprocmask, R8
	SVC

payload:
	MOVD block_labelSize(R19), R9
	CBZ  R9, filter
	MOVD $const_Label, R22
	MOVD $-100, R0 // AT_FDCWD
	MOVD block_labelFile(R19), R1
	MOVD $0x80001, R2 // O_WRONLY, O_CLOEXEC
	MOVD ZR, R3
	MOVD $SYS_openat, R8
	SVC
	TBNZ $63, R0, failed
	MOVD block_label(R19), R1
	MOVD block_labelSize(R19), R2
	MOVD $SYS_write, R8
	SVC
	TBNZ $63, R0, failed

filter:
	MOVD block_filter(R19), R9
	CBZ  R9, execute
	MOVD $const_Filter, R22
	MOVD $1, R0 // SECCOMP_SET_MODE_FILTER
	MOVD block_filterFlags(R19), R1
	ADD  $block_filter, R19, R2
	MOVD $SYS_seccomp, R8
	SVC
	TBNZ $63, R0, failed

execute:
	MOVD $const_Exec, R22
	MOVD block_program(R19), R0
	MOVD block_argv(R19), R1
	MOVD block_envp(R19), R2
	MOVD $SYS_execve, R8
	SVC
	CMN  $8, R0 // ENOEXEC
	BNE  failed
	MOVD R0, R20
	MOVD $2, R0
	MOVD block_words(R19), R1
	MOVD block_wordsSize(R19), R2
	MOVD $SYS_write, R8
	SVC
	MOVD R20, R0

failed:
	NEG  R0, R0
	MOVW R0, (R23)
	MOVW R22, 4(R23)
	MOVD block_status(R19), R0
	MOVD R23, R1
	MOVD $const_ReportSize, R2
	MOVD $SYS_write, R8
	SVC
	MOVD $1, R0
	B    leave
	DWORD $const_mark

// func entry() unsafe.Pointer
TEXT ·entry(SB), NOSPLIT, $0-8
	MOVD $program<>(SB), R0
	MOVD R0, ret+0(FP)
	RET
