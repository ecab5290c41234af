#include "textflag.h"

// nothing is a signal handler.
TEXT ·nothing(SB), NOSPLIT|NOFRAME, $0-0
	RET

// back is where a handler returns to: sigreturn(2).
TEXT ·back(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $139, R8 // rt_sigreturn
	SVC
	BRK

// func handler() (nothing, back uintptr)
TEXT ·handler(SB), NOSPLIT, $0-16
	MOVD $·nothing(SB), R0
	MOVD R0, nothing+0(FP)
	MOVD $·back(SB), R0
	MOVD R0, back+8(FP)
	RET
