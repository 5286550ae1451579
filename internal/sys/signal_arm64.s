#include "textflag.h"

// func caught()
//
// Called by the kernel as C would: the signal's number is in R0, the address
// of returned in R30.
TEXT ·caught(SB), NOSPLIT|NOFRAME, $0-0
	SUB  $16, RSP
	MOVD R0, 0(RSP)
	MOVD RSP, R1
	MOVD $1, R2
	MOVW ·signalPipe(SB), R0
	MOVD $64, R8 // write
	SVC
	ADD  $16, RSP
	RET

// func returned()
TEXT ·returned(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $139, R8 // rt_sigreturn
	SVC
	BRK

// func handlers() (handler, restorer uintptr)
TEXT ·handlers(SB), NOSPLIT, $0-16
	MOVD $·caught(SB), R0
	MOVD R0, handler+0(FP)
	MOVD $·returned(SB), R0
	MOVD R0, restorer+8(FP)
	RET
