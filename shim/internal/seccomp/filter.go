package seccomp

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Filter is what seccomp(2) takes for SECCOMP_SET_MODE_FILTER. Without Insns
// there is nothing to load.
type Filter struct {
	Insns []unix.SockFilter
	Flags uint // SECCOMP_FILTER_FLAG_*
}

// Notifies tells that loading it makes a descriptor, on which somebody must
// listen: seccomp_unotify(2).
func (f Filter) Notifies() bool { return f.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 }

// The instructions that filters are made of, classic_bpf of
// Documentation/networking/filter.rst.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opEq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opGt   = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opGe   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
)

// Offsets in struct seccomp_data (linux/seccomp.h). Both our architectures are
// little-endian: the low half of an argument comes first.
const (
	dataNr   = 0
	dataArch = 4
	dataArgs = 16
)

// String lists the filter, one instruction a line, jumps by line number.
func (f Filter) String() string {
	var b strings.Builder
	for i, in := range f.Insns {
		fmt.Fprintf(&b, "%4d  ", i)
		to := func(off uint8) int { return i + 1 + int(off) }
		switch in.Code {
		case opLoad:
			fmt.Fprintf(&b, "ld   %s", dataName(in.K))
		case opAnd:
			fmt.Fprintf(&b, "and  %#x", in.K)
		case opJump:
			fmt.Fprintf(&b, "ja   %d", i+1+int(in.K))
		case opEq:
			fmt.Fprintf(&b, "jeq  %#x, %d, %d", in.K, to(in.Jt), to(in.Jf))
		case opGt:
			fmt.Fprintf(&b, "jgt  %#x, %d, %d", in.K, to(in.Jt), to(in.Jf))
		case opGe:
			fmt.Fprintf(&b, "jge  %#x, %d, %d", in.K, to(in.Jt), to(in.Jf))
		case opRet:
			fmt.Fprintf(&b, "ret  %s", actionName(in.K))
		default:
			fmt.Fprintf(&b, "op%#x %#x, %d, %d", in.Code, in.K, to(in.Jt), to(in.Jf))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func dataName(off uint32) string {
	switch {
	case off == dataNr:
		return "nr"
	case off == dataArch:
		return "arch"
	case off >= dataArgs:
		arg := (off - dataArgs) / 8
		if off%8 == 0 {
			return fmt.Sprintf("arg%d.low", arg)
		}
		return fmt.Sprintf("arg%d.high", arg)
	}
	return fmt.Sprintf("[%d]", off)
}

func actionName(v uint32) string {
	data := v & unix.SECCOMP_RET_DATA
	switch v &^ unix.SECCOMP_RET_DATA {
	case unix.SECCOMP_RET_ALLOW:
		return "allow"
	case unix.SECCOMP_RET_LOG:
		return "log"
	case unix.SECCOMP_RET_TRACE:
		return fmt.Sprintf("trace %d", data)
	case unix.SECCOMP_RET_ERRNO:
		if name := unix.ErrnoName(unix.Errno(data)); name != "" {
			return "errno " + name
		}
		return fmt.Sprintf("errno %d", data)
	case unix.SECCOMP_RET_TRAP:
		return "trap"
	case unix.SECCOMP_RET_USER_NOTIF:
		return "notify"
	case unix.SECCOMP_RET_KILL_PROCESS:
		return "kill_process"
	case unix.SECCOMP_RET_KILL_THREAD:
		return "kill_thread"
	}
	return fmt.Sprintf("%#x", v)
}

// addr is the place of an instruction, counted from the end of the filter, the
// last being 1. So it is known before what comes ahead of it is written.
type addr int

// builder writes a filter from its end to its beginning: jumps go forward only,
// and all that an instruction jumps to is there already.
type builder struct {
	rev  []unix.SockFilter
	rets []ret
}

// ret is the nearest place where an action is returned.
type ret struct {
	action uint32
	at     addr
}

func (b *builder) here() addr { return addr(len(b.rev)) }

func (b *builder) put(code uint16, jt, jf uint8, k uint32) addr {
	b.rev = append(b.rev, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return b.here()
}

// ret returns the place of an instruction that ends with action, and writes one
// if there is none near.
func (b *builder) ret(action uint32) addr {
	const near = 128
	i := slices.IndexFunc(b.rets, func(r ret) bool { return r.action == action })
	if i < 0 {
		i = len(b.rets)
		b.rets = append(b.rets, ret{action: action})
	}
	if r := &b.rets[i]; r.at == 0 || b.here()-r.at > near {
		r.at = b.put(opRet, 0, 0, action)
	}
	return b.rets[i].at
}

// jump compares and goes to t if it is so and to f if not. Conditional jumps
// reach 255 instructions; what is further away is reached by one more jump.
func (b *builder) jump(op uint16, k uint32, t, f addr) addr {
	if t == f {
		return t
	}
	const reach = 255 - 2 // two such jumps may come in between
	if b.here()-t > reach {
		t = b.put(opJump, 0, 0, uint32(b.here()-t))
	}
	if b.here()-f > reach {
		f = b.put(opJump, 0, 0, uint32(b.here()-f))
	}
	return b.put(op, uint8(b.here()-t), uint8(b.here()-f), k)
}

// load reads a word of seccomp_data and goes on at next.
func (b *builder) load(off uint32, next addr) addr {
	return b.then(next, opLoad, off)
}

// then writes an instruction that does not jump, and goes on at next.
func (b *builder) then(next addr, code uint16, k uint32) addr {
	if next != b.here() {
		b.put(opJump, 0, 0, uint32(b.here()-next))
	}
	return b.put(code, 0, 0, k)
}

func (b *builder) filter() []unix.SockFilter {
	slices.Reverse(b.rev)
	return b.rev
}
