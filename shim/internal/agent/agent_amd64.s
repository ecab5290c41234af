#include "textflag.h"
#include "layout.h"

// func text() uintptr
TEXT ·text(SB), NOSPLIT, $0-8
	LEAQ ·agent(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// agent is the whole program of the process between clone and execve. It is
// never called: its bytes are copied. Registers only, no stack: the kernel
// gave it one, but nothing here needs it.
//
//	R12 the image   R13 the op   R14 bytes read   R15 the op's index
//	BX  the op's flags
//
// syscall(2): number in AX, arguments in DI SI DX R10 R8 R9; the kernel
// overwrites CX and R11.
TEXT ·agent(SB), NOSPLIT|NOFRAME, $0-0
	// mmap(BASE, SIZE, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|
	//      MAP_NORESERVE|MAP_FIXED_NOREPLACE, -1, 0)
	MOVL $BASE, R12
	MOVQ R12, DI
	MOVL $SIZE, SI
	MOVL $3, DX
	MOVL $0x104022, R10
	MOVQ $-1, R8
	XORL R9, R9
	MOVL $9, AX
	SYSCALL
	CMPQ AX, R12
	JNE  exit
	XORL R14, R14

receive:
	// read(SOCKET, BASE+R14, SIZE-R14): one message of the socket, until
	// all that the first word promises is here
	MOVL $SOCKET, DI
	LEAQ (R12)(R14*1), SI
	MOVL $SIZE, DX
	SUBQ R14, DX
	XORL AX, AX
	SYSCALL
	CMPQ AX, $0
	JLE  exit
	ADDQ AX, R14
	CMPQ R14, LENGTH(R12)
	JLT  receive
	XORL R15, R15

next:
	MOVQ R15, R13
	SHLQ $OP_SHIFT, R13
	LEAQ OPS(R12)(R13*1), R13
	MOVWLZX OP_FLAGS(R13), BX

	// An argument whose bit is set is the address of its value.
	XORL CX, CX
argument:
	MOVQ OP_ARGS(R13)(CX*8), AX
	BTL  CX, BX
	JCC  value
	MOVQ (AX), AX
value:
	MOVQ AX, ARGS(R12)(CX*8)
	INCL CX
	CMPL CX, $6
	JNE  argument

	MOVQ (ARGS+0)(R12), DI
	MOVQ (ARGS+8)(R12), SI
	MOVQ (ARGS+16)(R12), DX
	MOVQ (ARGS+24)(R12), R10
	MOVQ (ARGS+32)(R12), R8
	MOVQ (ARGS+40)(R12), R9
	MOVWLZX OP_NR(R13), AX
	CMPL AX, $LET
	JEQ  let
	SYSCALL
	JMP  result
let:
	MOVQ DI, AX

result:
	CMPQ AX, $-4095
	JCC  failed
	MOVL OP_OUT(R13), CX
	TESTL CX, CX
	JEQ  kept
	MOVQ AX, (R12)(CX*1)
kept:
	BTL  $FLAG_EOF, BX
	JCC  succeeded
	TESTQ AX, AX
	JEQ  exit
succeeded:
	MOVWLZX OP_THEN(R13), CX
skip:
	LEAQ 1(R15)(CX*1), R15
	JMP  next

failed:
	NEGQ AX
	CMPL AX, $AGAIN
	JNE  answers
	BTL  $FLAG_RETRY, BX
	JCC  answers
	INCL RETRIES(R12)
	CMPL RETRIES(R12), $MAX_RETRIES
	JLS  next
answers:
	MOVL OP_ANSWERS(R13), DX
answer:
	TESTB DL, DL
	JEQ  report
	CMPB DL, AL
	JEQ  answered
	SHRL $8, DX
	JMP  answer
answered:
	MOVWLZX OP_ELSE(R13), CX
	JMP  skip

report:
	// write(SOCKET, {index, errno}, 8)
	MOVL R15, (REPORT+0)(R12)
	MOVL AX, (REPORT+4)(R12)
	MOVL $SOCKET, DI
	LEAQ REPORT(R12), SI
	MOVL $8, DX
	MOVL $1, AX
	SYSCALL

exit:
	// exit_group(1)
	MOVL $1, DI
	MOVL $231, AX
	SYSCALL
	JMP  exit

	// Where the copy ends: see text.go.
	BYTE $'t'; BYTE $'h'; BYTE $'e'; BYTE $' '
	BYTE $'a'; BYTE $'g'; BYTE $'e'; BYTE $'n'
	BYTE $'t'; BYTE $' '; BYTE $'e'; BYTE $'n'
	BYTE $'d'; BYTE $'s'; BYTE $'.'; BYTE $0
