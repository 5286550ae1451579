#include "go_asm.h"
#include "textflag.h"

// func caught()
//
// Called by the kernel as C would: what is to be known of the signal is where R1
// points to, the address of returned in R30.
TEXT ·caught(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $const_signalSize, R2
	MOVW ·signalPipe(SB), R0
	MOVD $64, R8 // write
	SVC
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
