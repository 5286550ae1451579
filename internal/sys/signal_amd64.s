#include "go_asm.h"
#include "textflag.h"

// func caught()
//
// Called by the kernel as C would: what is to be known of the signal is where SI
// points to, the address of returned on top of the stack.
TEXT ·caught(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $const_signalSize, DX
	MOVL ·signalPipe(SB), DI
	MOVQ $1, AX // write
	SYSCALL
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
