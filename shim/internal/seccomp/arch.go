package seccomp

import (
	"sort"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run gen.go

// entry is a row of the tables in tables.go, which are sorted by number.
type entry struct {
	nr   uint16
	name uint16 // its index
}

// number is that of the call, without the bit of x32. Those of arm's private
// calls, from 0xf0000 on, are kept as from 0xf000 on.
func (e entry) number() uint32 {
	if e.private() {
		return 0xf0000 | uint32(e.nr)&0xfff
	}
	return uint32(e.nr)
}

func (e entry) private() bool { return e.nr >= 0xf000 }

// x32 has calls of its own from firstX32 on. Below that are those of x86_64,
// less some, for which the kernel says ENOSYS (since Linux 5.4). x32Bit is set in
// all its numbers (arch/x86/include/uapi/asm/unistd.h).
const (
	firstX32 = 512
	x32Bit   = 0x40000000
)

// abi is one way of making system calls.
type abi struct {
	name  specs.Arch
	audit uint32 // seccomp_data.arch
	x32   bool   // x86_64 besides, to be told by x32Bit
	wide  bool   // arguments have 64 bits
	mux   bool   // has socketcall(2) and ipc(2)
	calls []entry
}

// Those that a machine can run, its native one first.
var (
	amd64 = []abi{
		{name: specs.ArchX86_64, audit: unix.AUDIT_ARCH_X86_64, wide: true, calls: callsX86_64},
		{name: specs.ArchX32, audit: unix.AUDIT_ARCH_X86_64, x32: true, calls: callsX32},
		{name: specs.ArchX86, audit: unix.AUDIT_ARCH_I386, mux: true, calls: callsX86},
	}
	arm64 = []abi{
		{name: specs.ArchAARCH64, audit: unix.AUDIT_ARCH_AARCH64, wide: true, calls: callsAARCH64},
		{name: specs.ArchARM, audit: unix.AUDIT_ARCH_ARM, calls: callsARM},
	}
)

// lookup returns the index of a name in the tables, -1 if it is in none. hint
// is what it returned before: profiles list names by the alphabet.
func lookup(name string, hint int) int {
	if name == "sync_file_range2" {
		// Where that is a call of its own we do not run.
		name = "arm_sync_file_range"
	}
	for i := hint + 1; i < min(hint+4, nNames); i++ {
		if nameAt(i) == name {
			return i
		}
	}
	low, high := 0, nNames
	for low < high {
		mid := (low + high) / 2
		switch c := strings.Compare(nameAt(mid), name); {
		case c == 0:
			return mid
		case c < 0:
			low = mid + 1
		default:
			high = mid
		}
	}
	return -1
}

func nameAt(i int) string {
	if i == 0 {
		return names[:nameEnds[0]]
	}
	return names[nameEnds[i-1]:nameEnds[i]]
}

// multiplexed are the calls that i386 also has by way of another, sorted by
// name, and the first argument that selects them there (linux/net.h,
// linux/ipc.h).
var multiplexed = [...]struct {
	name, by string
	which    uint64
}{
	{"accept", "socketcall", 5},
	{"accept4", "socketcall", 18},
	{"bind", "socketcall", 2},
	{"connect", "socketcall", 3},
	{"getpeername", "socketcall", 7},
	{"getsockname", "socketcall", 6},
	{"getsockopt", "socketcall", 15},
	{"listen", "socketcall", 4},
	{"msgctl", "ipc", 14},
	{"msgget", "ipc", 13},
	{"msgrcv", "ipc", 12},
	{"msgsnd", "ipc", 11},
	{"recv", "socketcall", 10},
	{"recvfrom", "socketcall", 12},
	{"recvmmsg", "socketcall", 19},
	{"recvmsg", "socketcall", 17},
	{"semctl", "ipc", 3},
	{"semget", "ipc", 2},
	{"semop", "ipc", 1},
	{"semtimedop", "ipc", 4},
	{"send", "socketcall", 9},
	{"sendmmsg", "socketcall", 20},
	{"sendmsg", "socketcall", 16},
	{"sendto", "socketcall", 11},
	{"setsockopt", "socketcall", 14},
	{"shmat", "ipc", 21},
	{"shmctl", "ipc", 24},
	{"shmdt", "ipc", 22},
	{"shmget", "ipc", 23},
	{"shutdown", "socketcall", 13},
	{"socket", "socketcall", 1},
	{"socketpair", "socketcall", 8},
}

// multiplex tells which call of i386 also does what name does, "" if none, and
// by what first argument.
func multiplex(name string) (by string, which uint64) {
	i, ok := sort.Find(len(multiplexed), func(i int) int { return strings.Compare(name, multiplexed[i].name) })
	if !ok {
		return "", 0
	}
	return multiplexed[i].by, multiplexed[i].which
}
