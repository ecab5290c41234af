#include "textflag.h"

// nothing is a signal handler.
TEXT ·nothing(SB), NOSPLIT|NOFRAME, $0-0
	RET

// back is where a handler returns to: sigreturn(2).
TEXT ·back(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $15, AX // rt_sigreturn
	SYSCALL
	INT  $3

// func handler() (nothing, back uintptr)
TEXT ·handler(SB), NOSPLIT, $0-16
	LEAQ ·nothing(SB), AX
	MOVQ AX, nothing+0(FP)
	LEAQ ·back(SB), AX
	MOVQ AX, back+8(FP)
	RET
