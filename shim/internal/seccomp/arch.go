package seccomp

import (
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run gen.go

// none stands in the tables for "has no such call".
const none = 0xffff

// x32Bit is set in the numbers of x32 calls (arch/x86/include/uapi/asm/unistd.h).
const x32Bit = 0x40000000

// abi is one way of making system calls.
type abi struct {
	name    specs.Arch
	audit   uint32 // seccomp_data.arch
	bit     uint32 // set in all its numbers
	wide    bool   // arguments have 64 bits
	mux     bool   // has socketcall(2) and ipc(2)
	numbers *[nNames]uint16
}

// Those that a machine can run, its native one first.
var (
	amd64 = []abi{
		{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, wide: true, numbers: &numbersX86_64},
		{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, bit: x32Bit, numbers: &numbersX32},
		{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, mux: true, numbers: &numbersX86},
	}
	arm64 = []abi{
		{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, wide: true, numbers: &numbersAARCH64},
		{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, numbers: &numbersARM},
	}
)

// number returns that of a name, by index, without the abi's bit.
func (a *abi) number(name int) (nr uint32, ok bool) {
	v := uint32(a.numbers[name])
	switch {
	case v == none:
		return 0, false
	case v >= 0xf000: // arm's private calls begin at 0xf0000
		return 0xf0000 | v&0xfff, true
	}
	return v, true
}

// lookup returns the index of a name in the tables, -1 if it is in none.
func lookup(name string) int {
	i := sort.Search(nNames, func(i int) bool { return nameAt(i) >= name })
	if i < nNames && nameAt(i) == name {
		return i
	}
	return -1
}

func nameAt(i int) string {
	if i == 0 {
		return names[:nameEnds[0]]
	}
	return names[nameEnds[i-1]:nameEnds[i]]
}

// multiplexed tells which call of i386 also does what name does, and by what
// first argument: linux/net.h, linux/ipc.h.
func multiplexed(name string) (call string, which uint64) {
	switch name {
	case "socket":
		return "socketcall", 1
	case "bind":
		return "socketcall", 2
	case "connect":
		return "socketcall", 3
	case "listen":
		return "socketcall", 4
	case "accept":
		return "socketcall", 5
	case "getsockname":
		return "socketcall", 6
	case "getpeername":
		return "socketcall", 7
	case "socketpair":
		return "socketcall", 8
	case "send":
		return "socketcall", 9
	case "recv":
		return "socketcall", 10
	case "sendto":
		return "socketcall", 11
	case "recvfrom":
		return "socketcall", 12
	case "shutdown":
		return "socketcall", 13
	case "setsockopt":
		return "socketcall", 14
	case "getsockopt":
		return "socketcall", 15
	case "sendmsg":
		return "socketcall", 16
	case "recvmsg":
		return "socketcall", 17
	case "accept4":
		return "socketcall", 18
	case "recvmmsg":
		return "socketcall", 19
	case "sendmmsg":
		return "socketcall", 20
	case "semop":
		return "ipc", 1
	case "semget":
		return "ipc", 2
	case "semctl":
		return "ipc", 3
	case "semtimedop":
		return "ipc", 4
	case "msgsnd":
		return "ipc", 11
	case "msgrcv":
		return "ipc", 12
	case "msgget":
		return "ipc", 13
	case "msgctl":
		return "ipc", 14
	case "shmat":
		return "ipc", 21
	case "shmdt":
		return "ipc", 22
	case "shmget":
		return "ipc", 23
	case "shmctl":
		return "ipc", 24
	}
	return "", 0
}
