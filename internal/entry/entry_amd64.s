#include "textflag.h"

#define fcntl 72
#define getfd 1
#define madvise 28
#define prlimit 302
#define nofile 7

// begin is called by the kernel, with the stack as it makes it. A call changes
// AX, CX and R11 only.
TEXT ·begin(SB),NOSPLIT|NOFRAME,$0
	// The runtime opens standard descriptors that are closed: then it needs files.
	XORL	BX, BX
standard:
	MOVL	$fcntl, AX
	MOVL	BX, DI
	MOVL	$getfd, SI
	SYSCALL
	TESTQ	AX, AX
	JLT	go
	INCL	BX
	CMPL	BX, $3
	JLT	standard

	MOVL	$prlimit, AX
	XORL	DI, DI
	MOVL	$nofile, SI
	XORL	DX, DX
	LEAQ	·files(SB), R10
	SYSCALL
	TESTQ	AX, AX
	JLT	go
	// The soft limit: the hard one would not come back.
	PUSHQ	·files+8(SB)
	PUSHQ	$0
	MOVL	$prlimit, AX
	MOVQ	SP, DX
	XORL	R10, R10
	SYSCALL
	ADDQ	$16, SP
go:
	XORL	DX, DX
	JMP	_rt0_amd64_linux(SB)

TEXT ·restore(SB),NOSPLIT,$0-0
	MOVL	$prlimit, AX
	XORL	DI, DI
	MOVL	$nofile, SI
	LEAQ	·files(SB), DX
	XORL	R10, R10
	SYSCALL
	RET

// func advise(at, size, how uintptr)
TEXT ·advise(SB),NOSPLIT,$0-24
	MOVL	$madvise, AX
	MOVQ	at+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	how+16(FP), DX
	SYSCALL
	RET

// func code() (from, to uintptr)
TEXT ·code(SB),NOSPLIT,$0-16
	LEAQ	runtime·text(SB), AX
	MOVQ	AX, from+0(FP)
	LEAQ	runtime·epclntab(SB), AX
	MOVQ	AX, to+8(FP)
	RET
