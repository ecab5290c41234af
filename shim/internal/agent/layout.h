// The layout of an image, shared by the assembly here and by encode.go.

// A fixed address below everything the kernel places by itself, and the size
// of the reservation there: it bounds argv, envp and filters together.
#define BASE 0x10000000
#define SIZE 0x1000000

// Offsets in the header.
#define LENGTH 0
#define REPORT 8
#define ARGS 16
#define RETRIES 504
#define OPS 512

// Offsets in an op, and its size as a shift.
#define OP_NR 0
#define OP_FLAGS 2
#define OP_OUT 4
#define OP_THEN 8
#define OP_ELSE 10
#define OP_ANSWERS 12
#define OP_ARGS 16
#define OP_SHIFT 6

#define SOCKET 3
#define LET 0xffff
#define FLAG_EOF 6
#define FLAG_RETRY 7

// EAGAIN, and how often a Program may get it from calls that are tried again.
#define AGAIN 11
#define MAX_RETRIES 0x4000
