#include "textflag.h"

// func caught()
//
// Called by the kernel as C would: the signal's number is in DI, the address
// of returned on top of the stack.
TEXT ·caught(SB), NOSPLIT|NOFRAME, $0-0
	PUSHQ DI
	MOVQ  SP, SI
	MOVQ  $1, DX
	MOVL  ·signalPipe(SB), DI
	MOVQ  $1, AX // write
	SYSCALL
	POPQ  DI
	RET

// func returned()
TEXT ·returned(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $15, AX // rt_sigreturn
	SYSCALL
	INT  $3

// func handlers() (handler, restorer uintptr)
TEXT ·handlers(SB), NOSPLIT, $0-16
	LEAQ ·caught(SB), AX
	MOVQ AX, handler+0(FP)
	LEAQ ·returned(SB), AX
	MOVQ AX, restorer+8(FP)
	RET
