package compile

import (
	"encoding/binary"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
	"github.com/containerd-mini/mini/shim/internal/seccomp"
)

// filters has the one of the last container: compiling takes longer than all the
// rest of a Plan.
var filters seccomp.Cache

// seccomp returns the op that loads linux.seccomp, or nil. An exec gets its
// container's filter: runtime-spec has one for both.
func (b *builder) seccomp() (*program.Op, error) {
	if b.spec.Linux.Seccomp == nil || b.opt.Filter != nil {
		return b.opt.Filter, nil
	}
	filter, err := filters.Compile(b.spec.Linux.Seccomp)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(filter.Insns) == 0 {
		return nil, nil
	}
	code := make([]byte, 0, 8*len(filter.Insns))
	for _, i := range filter.Insns {
		code = binary.LittleEndian.AppendUint16(code, i.Code)
		code = append(code, i.Jt, i.Jf)
		code = binary.LittleEndian.AppendUint32(code, i.K)
	}
	text := fmt.Sprintf("{%d instructions}", len(filter.Insns))
	// struct sock_fprog: seccomp(2).
	fprog := program.Vec(text, program.Int(len(filter.Insns)), program.Bytes(code, text))
	op := &program.Op{
		Nr: unix.SYS_SECCOMP,
		Args: []program.Arg{
			program.Named(unix.SECCOMP_SET_MODE_FILTER, "SECCOMP_SET_MODE_FILTER"),
			program.Named(filter.Flags, fmt.Sprintf("%#x", filter.Flags)), fprog,
		},
		Step: "load the seccomp filter",
	}
	if filter.Notifies() {
		op.Out = slotListener
	}
	return op, nil
}

// listener tells the shim the number of the filter's listener, and waits until it
// has taken that and given it to linux.seccomp.listenerPath: seccomp_unotify(2).
// By write(2), which the profile cannot send there; execve(2) closes it here.
func (b *builder) listener() {
	const step = "hand over the listener of the seccomp filter"
	sock := program.Named(program.FdSocket, "gate")
	b.call(step, unix.SYS_WRITE, sock, program.Addr(slotListener), program.Int(program.ListenerSize))
	b.call(step, unix.SYS_READ, sock, program.Bytes(make([]byte, 8), "buf"), program.Int(1)).EOF = true
}

// SeccompFeatures are what linux.seccomp may have.
func SeccompFeatures() *features.Seccomp {
	yes := true
	archs := []string{string(specs.ArchX86), string(specs.ArchX32), string(specs.ArchX86_64)}
	if runtime.GOARCH == "arm64" {
		archs = []string{string(specs.ArchAARCH64), string(specs.ArchARM)}
	}
	flags := []string{
		"SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
		"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
	}
	return &features.Seccomp{
		Enabled: &yes,
		Actions: []string{
			string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
			string(specs.ActKillThread), string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap),
		},
		Operators: []string{
			string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
			string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual),
		},
		Archs:          archs,
		KnownFlags:     flags,
		SupportedFlags: flags,
	}
}
