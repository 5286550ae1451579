#include "textflag.h"

// func clone(args *cloneArgs, size uintptr, ops *Op) (pid int, errno uintptr)
//
// struct Op: Nr 0, Arg 8…48, Ret 56, Allow 64, Flags 72; 80 bytes.
TEXT ·clone(SB), NOSPLIT, $0-40
	MOVD args+0(FP), R0
	MOVD size+8(FP), R1
	MOVD ops+16(FP), R19 // SVC changes only R0
	MOVD $435, R8        // clone3
	SVC
	CBZ  R0, loop
	CMN  $4095, R0
	BCS  failed
	MOVD R0, pid+24(FP)
	MOVD ZR, errno+32(FP)
	RET

failed:
	NEG  R0, R0
	MOVD ZR, pid+24(FP)
	MOVD R0, errno+32(FP)
	RET

	// From here on it is the child, on a stack that it never uses.
loop:
	MOVD 0(R19), R8
	CMN  $1, R8 // end of the table
	BEQ  exit
	MOVD 8(R19), R0
	MOVD 16(R19), R1
	MOVD 24(R19), R2
	MOVD 32(R19), R3
	MOVD 40(R19), R4
	MOVD 48(R19), R5
	SVC
	MOVD R0, 56(R19)
	CMN  $4095, R0
	BCS  errno
	MOVD 72(R19), R9
	CBNZ R0, result
	TBNZ $0, R9, exit // needResult
	B    next

result:
	TBNZ $1, R9, exit // needNone

next:
	ADD $80, R19
	B   loop

errno:
	NEG  R0, R0
	CMP  $64, R0
	BCS  exit
	MOVD 64(R19), R9
	LSR  R0, R9, R9
	TBNZ $0, R9, next

exit:
	MOVD $94, R8 // exit_group
	MOVD $127, R0
	SVC
	// Its filter forbids it: then it ends by a signal.
	UNDEF
