package cgroup

import (
	"fmt"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// insn is struct bpf_insn of linux/bpf.h.
type insn struct {
	code byte
	regs byte // destination in the low half, source in the high one
	off  int16
	imm  int32
}

// The instructions that the filter is made of
// (Documentation/bpf/standardization/instruction-set.rst). Comparisons are of
// 32 bits: those of 64 extend the sign of imm.
const (
	opLoad32 = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opLoad16 = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_H
	opMov    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opMovReg = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opAnd    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opOrReg  = unix.BPF_ALU64 | unix.BPF_OR | unix.BPF_X
	opShl    = unix.BPF_ALU64 | unix.BPF_LSH | unix.BPF_K
	opShr    = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opJeq32  = unix.BPF_JMP32 | unix.BPF_JEQ | unix.BPF_K
	opJne32  = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJset32 = unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K
	opExit   = unix.BPF_JMP | unix.BPF_EXIT
)

// Registers of the filter. The kernel passes struct bpf_cgroup_dev_ctx in r1.
const (
	regVerdict = 0
	regCtx     = 1
	regDevice  = 2 // major << minorBits | minor
	regAccess  = 3 // what is asked for and not allowed yet
	regScratch = 4
)

// Offsets in struct bpf_cgroup_dev_ctx. The first word is access<<16 | type.
const (
	ctxAccessType = 0
	ctxMajor      = 4
	ctxMinor      = 8
)

// The kernel's own dev_t has 12 and 20 bits (linux/kdev_t.h): a request cannot
// have greater numbers, and both are compared at once.
const (
	minorBits = 20
	majorBits = 12
)

const allAccess = unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE | unix.BPF_DEVCG_ACC_MKNOD

// deviceFilter compiles the rules of linux.resources.devices. For each kind of
// access asked for, the last rule that names device and access decides, and
// none means no; a request is allowed if all that it asks for is.
//
// So the rules are gone through from the last to the first: one that allows
// strikes its accesses off the request and accepts when none is left; one that
// denies rejects if one of its own is still there.
//
// Loading a filter takes the verifier about 3 us for each branch, so there are
// few: one for the type, then one for each rule of that type.
func deviceFilter(rules []specs.LinuxDeviceCgroup) ([]insn, error) {
	parsed := make([]deviceRule, len(rules))
	for i := range rules {
		var err error
		if parsed[i], err = parseDeviceRule(&rules[i]); err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d].%w", i, err)
		}
	}
	blocks := section(parsed, unix.BPF_DEVCG_DEV_BLOCK)
	chars := section(parsed, unix.BPF_DEVCG_DEV_CHAR)
	if len(blocks) > math.MaxInt16 {
		return nil, fmt.Errorf("linux.resources.devices: %d rules are too many", len(rules))
	}
	prog := append([]insn{
		{opLoad32, regAccess | regCtx<<4, ctxAccessType, 0},
		{opShr, regAccess, 0, 16},
		{opLoad16, regScratch | regCtx<<4, ctxAccessType, 0},
		{opJeq32, regScratch, int16(len(blocks)), unix.BPF_DEVCG_DEV_CHAR},
	}, blocks...)
	return append(prog, chars...), nil
}

// loadDevice fills regDevice.
var loadDevice = []insn{
	{opLoad32, regDevice | regCtx<<4, ctxMajor, 0},
	{opShl, regDevice, 0, minorBits},
	{opLoad32, regScratch | regCtx<<4, ctxMinor, 0},
	{opOrReg, regDevice | regScratch<<4, 0, 0},
}

// section is the part of the filter for one type of device.
func section(rules []deviceRule, kind int32) (prog []insn) {
	prog = append(prog, loadDevice...)
	for _, r := range slices.Backward(rules) {
		if r.kind >= 0 && r.kind != kind || r.major >= 1<<majorBits || r.minor >= 1<<minorBits {
			continue
		}
		prog = append(prog, r.insns()...)
		if r.major < 0 && r.minor < 0 && r.access == allAccess {
			// Nothing gets past it, and the verifier refuses
			// unreachable code.
			return prog
		}
	}
	return append(prog, verdict(false)...)
}

// allowsAll tells that the filter would have nothing to refuse: a privileged
// container needs none.
func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	if len(rules) == 0 {
		return false
	}
	r, err := parseDeviceRule(&rules[len(rules)-1])
	return err == nil && r.allow && r.kind < 0 && r.major < 0 && r.minor < 0 && r.access == allAccess
}

// deviceRule is a rule in the kernel's terms, -1 for any.
type deviceRule struct {
	allow        bool
	kind         int32
	major, minor int64
	access       int32
}

func parseDeviceRule(d *specs.LinuxDeviceCgroup) (r deviceRule, err error) {
	r.allow = d.Allow
	switch d.Type {
	case "", "a":
		r.kind = -1
	case "b":
		r.kind = unix.BPF_DEVCG_DEV_BLOCK
	case "c":
		r.kind = unix.BPF_DEVCG_DEV_CHAR
	default:
		return r, fmt.Errorf("type: %q is none of a, b, c", d.Type)
	}
	if r.major, err = deviceNumber(d.Major); err != nil {
		return r, fmt.Errorf("major: %w", err)
	}
	if r.minor, err = deviceNumber(d.Minor); err != nil {
		return r, fmt.Errorf("minor: %w", err)
	}
	for _, c := range d.Access {
		switch c {
		case 'r':
			r.access |= unix.BPF_DEVCG_ACC_READ
		case 'w':
			r.access |= unix.BPF_DEVCG_ACC_WRITE
		case 'm':
			r.access |= unix.BPF_DEVCG_ACC_MKNOD
		default:
			return r, fmt.Errorf("access: %q is not made of r, w, m", d.Access)
		}
	}
	if r.access == 0 {
		return r, fmt.Errorf("access: empty")
	}
	return r, nil
}

func deviceNumber(n *int64) (int64, error) {
	switch {
	case n == nil || *n == -1:
		return -1, nil
	case *n < 0 || *n > math.MaxUint32:
		return 0, fmt.Errorf("%d out of range", *n)
	}
	return *n, nil
}

// insns decide what the rule decides, and fall out at the end otherwise.
func (r *deviceRule) insns() (prog []insn) {
	var act []insn
	switch {
	case r.access == allAccess:
	case r.allow:
		act = []insn{
			{opAnd, regAccess, 0, allAccess &^ r.access},
			{opJne32, regAccess, 2, 0}, // over the verdict
		}
	default:
		act = []insn{
			{opJset32, regAccess, 1, r.access}, // to the verdict
			{opJump, 0, 2, 0},
		}
	}
	act = append(act, verdict(r.allow)...)
	skip := int16(len(act))

	switch {
	case r.major >= 0 && r.minor >= 0:
		prog = []insn{{opJne32, regDevice, skip, int32(uint32(r.major<<minorBits | r.minor))}}
	case r.major >= 0:
		prog = []insn{
			{opMovReg, regScratch | regDevice<<4, 0, 0},
			{opShr, regScratch, 0, minorBits},
			{opJne32, regScratch, skip, int32(r.major)},
		}
	case r.minor >= 0:
		prog = []insn{
			{opMovReg, regScratch | regDevice<<4, 0, 0},
			{opAnd, regScratch, 0, 1<<minorBits - 1},
			{opJne32, regScratch, skip, int32(r.minor)},
		}
	}
	prog = append(prog, act...)
	if len(prog) > len(act) && r.access != allAccess {
		// Make the verifier forget the number. Else it goes through all
		// that follows once for each number that it knows by then, and
		// gives up at about 1000 rules.
		prog = append(prog, loadDevice...)
	}
	return prog
}

func verdict(allow bool) []insn {
	v := insn{opMov, regVerdict, 0, 0}
	if allow {
		v.imm = 1
	}
	return []insn{v, {code: opExit}}
}
