package program

import (
	"slices"
	"strconv"
	"strings"
)

type argKind uint8

const (
	argInt  argKind = iota // value
	argSlot                // the content of slot
	argAddr                // the address of slot
	argData                // the address of a copy of data
	argStr                 // the address of text, NUL-terminated
	argPtrs                // the address of a NULL-terminated array of strings
	argVec                 // the address of an array of 64-bit words, each an Arg
	argBuf                 // the address of buf
	argLoad                // the 64-bit word at value in buf
)

// Arg is one argument of a system call: a number, what a slot holds, or the
// address of some memory that travels with the Program. It is small, and makes no
// text before somebody prints it: the Program of a container has a thousand.
type Arg struct {
	kind  argKind
	slot  Slot
	value uint64
	text  string // of argStr the string, else how it prints where the kind alone does not say
	at    *pointee
}

// pointee is what an Arg points to where that is not one string.
type pointee struct {
	data []byte
	strs []string
	vec  []Arg
	buf  *Buffer
}

// Int is a number, printed in decimal.
func Int[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{value: uint64(v)}
}

// Named is a number with its symbolic form, such as "MS_NOSUID|MS_NODEV".
func Named[T ~int | ~int32 | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](v T, text string) Arg {
	return Arg{value: uint64(v), text: text}
}

// From is the content of a slot.
func From(s Slot) Arg { return Arg{kind: argSlot, slot: s} }

// Addr is the address of a slot.
func Addr(s Slot) Arg { return Arg{kind: argAddr, slot: s} }

// Str is the address of a NUL-terminated string.
func Str(s string) Arg { return Arg{kind: argStr, text: s} }

// Bytes is the address of data, which text stands for in print. The kernel may
// write to it.
func Bytes(data []byte, text string) Arg {
	return Arg{kind: argData, at: &pointee{data: data}, text: text}
}

// Strs is the address of a NULL-terminated array of strings: argv or envp.
func Strs(s []string) Arg { return Arg{kind: argPtrs, at: &pointee{strs: s}} }

// Vec is the address of an array of 64-bit words: a struct that itself holds
// pointers, such as struct sock_fprog or struct msghdr.
func Vec(text string, words ...Arg) Arg {
	return Arg{kind: argVec, at: &pointee{vec: words}, text: text}
}

// Buffer is memory that one Op has the kernel write to and later ones read from.
type Buffer struct{ Size int }

// Addr is where it is, text what stands for it in print.
func (b *Buffer) Addr(text string) Arg { return Arg{kind: argBuf, at: &pointee{buf: b}, text: text} }

// Load is the 64-bit word at an offset in it. A call that wants less looks at the
// low bits alone.
func (b *Buffer) Load(offset int, text string) Arg {
	return Arg{kind: argLoad, at: &pointee{buf: b}, value: uint64(offset), text: text}
}

func (a Arg) String() string {
	switch a.kind {
	case argSlot:
		return slotName(a.slot)
	case argAddr:
		return "&" + slotName(a.slot)
	case argStr:
		return quote(a.text)
	case argPtrs:
		q := make([]string, len(a.at.strs))
		for i, s := range a.at.strs {
			q[i] = quote(s)
		}
		return "[" + strings.Join(q, ", ") + "]"
	case argInt:
		if a.text == "" {
			return strconv.FormatInt(int64(a.value), 10)
		}
		return a.text
	default:
		return a.text
	}
}

// hasNUL tells whether a string of a ends before its end: the kernel would see
// another one than the spec has.
func (a Arg) hasNUL() bool {
	switch a.kind {
	case argStr:
		return strings.IndexByte(a.text, 0) >= 0
	case argPtrs:
		return slices.ContainsFunc(a.at.strs, func(s string) bool { return strings.IndexByte(s, 0) >= 0 })
	default:
		return false
	}
}

func slotName(s Slot) string { return "$" + strconv.Itoa(int(s)) }

// quote is strconv.Quote, cut the way strace -s cuts.
func quote(s string) string {
	const most = 512
	if len(s) > most {
		return strconv.Quote(s[:most]) + "..."
	}
	return strconv.Quote(s)
}
