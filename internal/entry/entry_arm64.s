#include "textflag.h"

#define fcntl 25
#define getfd 1
#define prlimit 261
#define madvise 233
#define nofile 7

// begin is called by the kernel, with the stack as it makes it. A call changes R0
// only.
TEXT ·begin(SB),NOSPLIT|NOFRAME,$0
	// The runtime opens standard descriptors that are closed: then it needs files.
	MOVD	$0, R9
standard:
	MOVD	$fcntl, R8
	MOVD	R9, R0
	MOVD	$getfd, R1
	SVC
	TBNZ	$63, R0, go
	ADD	$1, R9
	CMP	$3, R9
	BLT	standard

	MOVD	$prlimit, R8
	MOVD	$0, R0
	MOVD	$nofile, R1
	MOVD	$0, R2
	MOVD	$·files(SB), R3
	SVC
	TBNZ	$63, R0, go
	// The soft limit: the hard one would not come back.
	MOVD	·files+8(SB), R4
	SUB	$16, RSP
	STP	(ZR, R4), (RSP)
	MOVD	$0, R0
	MOVD	RSP, R2
	MOVD	$0, R3
	SVC
	ADD	$16, RSP
go:
	B	_rt0_arm64_linux(SB)

TEXT ·restore(SB),NOSPLIT,$0-0
	MOVD	$prlimit, R8
	MOVD	$0, R0
	MOVD	$nofile, R1
	MOVD	$·files(SB), R2
	MOVD	$0, R3
	SVC
	RET

// func advise(at, size, how uintptr)
TEXT ·advise(SB),NOSPLIT,$0-24
	MOVD	$madvise, R8
	MOVD	at+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	how+16(FP), R2
	SVC
	RET

// func code() (from, to uintptr)
TEXT ·code(SB),NOSPLIT,$0-16
	MOVD	$runtime·text(SB), R0
	MOVD	R0, from+0(FP)
	MOVD	$runtime·epclntab(SB), R0
	MOVD	R0, to+8(FP)
	RET
