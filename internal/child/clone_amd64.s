#include "textflag.h"

// func clone(args *cloneArgs, size uintptr, ops *Op) (pid int, errno uintptr)
//
// struct Op: Nr 0, Arg 8…48, Ret 56, Allow 64, Flags 72; 80 bytes.
TEXT ·clone(SB), NOSPLIT, $0-40
	MOVQ args+0(FP), DI
	MOVQ size+8(FP), SI
	MOVQ ops+16(FP), R12 // SYSCALL changes only AX, CX and R11
	MOVQ $435, AX        // clone3
	SYSCALL
	TESTQ AX, AX
	JEQ  loop
	CMPQ AX, $0xfffffffffffff001
	JCC  failed
	MOVQ AX, pid+24(FP)
	MOVQ $0, errno+32(FP)
	RET

failed:
	NEGQ AX
	MOVQ $0, pid+24(FP)
	MOVQ AX, errno+32(FP)
	RET

	// From here on it is the child, on a stack that it never uses.
loop:
	MOVQ 0(R12), AX
	CMPQ AX, $-1 // end of the table
	JEQ  exit
	MOVQ 8(R12), DI
	MOVQ 16(R12), SI
	MOVQ 24(R12), DX
	MOVQ 32(R12), R10
	MOVQ 40(R12), R8
	MOVQ 48(R12), R9
	SYSCALL
	MOVQ AX, 56(R12)
	CMPQ AX, $0xfffffffffffff001
	JCC  errno
	MOVQ 72(R12), R13
	TESTQ AX, AX
	JNE  result
	TESTQ $1, R13 // needResult
	JNE  exit
	JMP  next

result:
	TESTQ $2, R13 // needNone
	JNE  exit

next:
	ADDQ $80, R12
	JMP  loop

errno:
	NEGQ AX
	CMPQ AX, $64
	JCC  exit
	MOVQ 64(R12), R13
	BTQ  AX, R13
	JCS  next

exit:
	MOVQ $231, AX // exit_group
	MOVQ $127, DI
	SYSCALL
	// Its filter forbids it: then it ends by a signal.
	UNDEF
