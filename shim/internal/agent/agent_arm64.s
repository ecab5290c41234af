#include "textflag.h"
#include "layout.h"

// func text() uintptr
TEXT ·text(SB), NOSPLIT, $0-8
	MOVD $·agent(SB), R0
	MOVD R0, ret+0(FP)
	RET

// agent: see agent_amd64.s, which this follows line by line.
//
//	R19 the image   R20 the op   R21 bytes read   R22 the op's index
//	R23 the op's flags
//
// syscall(2): number in R8, arguments in R0 to R5.
TEXT ·agent(SB), NOSPLIT|NOFRAME, $0-0
	MOVD $BASE, R19
	MOVD R19, R0
	MOVD $SIZE, R1
	MOVD $3, R2
	MOVD $0x104022, R3
	MOVD $-1, R4
	MOVD $0, R5
	MOVD $222, R8 // mmap
	SVC
	CMP  R19, R0
	BNE  exit
	MOVD $0, R21

receive:
	MOVD $SOCKET, R0
	ADD  R21, R19, R1
	MOVD $SIZE, R2
	SUB  R21, R2, R2
	MOVD $63, R8 // read
	SVC
	CMP  $0, R0
	BLE  exit
	ADD  R0, R21, R21
	MOVD LENGTH(R19), R1
	CMP  R1, R21
	BLT  receive
	MOVD $0, R22

next:
	LSL  $OP_SHIFT, R22, R20
	ADD  R19, R20, R20
	ADD  $OPS, R20, R20
	MOVHU OP_FLAGS(R20), R23

	MOVD $0, R9
	ADD  $OP_ARGS, R20, R10
	ADD  $ARGS, R19, R11
argument:
	MOVD.P 8(R10), R12
	LSR  R9, R23, R13
	TBZ  $0, R13, value
	MOVD (R12), R12
value:
	MOVD.P R12, 8(R11)
	ADD  $1, R9, R9
	CMP  $6, R9
	BNE  argument

	MOVD (ARGS+0)(R19), R0
	MOVD (ARGS+8)(R19), R1
	MOVD (ARGS+16)(R19), R2
	MOVD (ARGS+24)(R19), R3
	MOVD (ARGS+32)(R19), R4
	MOVD (ARGS+40)(R19), R5
	MOVHU OP_NR(R20), R8
	MOVD $LET, R9
	CMP  R9, R8
	BEQ  result
	SVC

result:
	CMN  $4095, R0
	BHS  failed
	MOVWU OP_OUT(R20), R9
	CBZ  R9, kept
	ADD  R19, R9, R9
	MOVD R0, (R9)
kept:
	TBZ  $FLAG_EOF, R23, succeeded
	CBZ  R0, exit
succeeded:
	MOVHU OP_THEN(R20), R9
skip:
	ADD  R9, R22, R22
	ADD  $1, R22, R22
	B    next

failed:
	NEG  R0, R0
	CMP  $AGAIN, R0
	BNE  answers
	TBZ  $FLAG_RETRY, R23, answers
	MOVWU RETRIES(R19), R9
	ADD  $1, R9, R9
	MOVW R9, RETRIES(R19)
	MOVD $MAX_RETRIES, R10
	CMP  R10, R9
	BLS  next
answers:
	MOVWU OP_ANSWERS(R20), R9
answer:
	AND  $0xff, R9, R10
	CBZ  R10, report
	CMP  R10, R0
	BEQ  answered
	LSR  $8, R9, R9
	B    answer
answered:
	MOVHU OP_ELSE(R20), R9
	B    skip

report:
	MOVW R22, (REPORT+0)(R19)
	MOVW R0, (REPORT+4)(R19)
	MOVD $SOCKET, R0
	ADD  $REPORT, R19, R1
	MOVD $8, R2
	MOVD $64, R8 // write
	SVC

exit:
	MOVD $1, R0
	MOVD $94, R8 // exit_group
	SVC
	B    exit

	WORD $0x20656874 // "the "
	WORD $0x6e656761 // "agen"
	WORD $0x6e652074 // "t en"
	WORD $0x002e7364 // "ds."
