package cgroup

import (
	"fmt"
	"math"

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
// (Documentation/bpf/standardization/instruction-set.rst). Jumps compare the
// low 32 bits: the 64-bit ones extend the sign of imm, and a major number may
// have bit 31.
const (
	opLoad32 = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opLoad16 = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_H
	opMov    = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAnd    = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opShr    = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opJump   = unix.BPF_JMP | unix.BPF_JA
	opJne32  = unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K
	opJset32 = unix.BPF_JMP32 | unix.BPF_JSET | unix.BPF_K
	opExit   = unix.BPF_JMP | unix.BPF_EXIT
)

// Registers of the filter. The kernel passes struct bpf_cgroup_dev_ctx in r1.
const (
	regVerdict = 0
	regCtx     = 1
	regScratch = 2
	regAccess  = 3 // what is asked for and not allowed yet
)

// Offsets in struct bpf_cgroup_dev_ctx. The first word is access<<16 | type.
const (
	ctxAccessType = 0
	ctxMajor      = 4
	ctxMinor      = 8
)

const allAccess = unix.BPF_DEVCG_ACC_READ | unix.BPF_DEVCG_ACC_WRITE | unix.BPF_DEVCG_ACC_MKNOD

// deviceFilter compiles the rules of linux.resources.devices. For each kind of
// access asked for, the last rule that names device and access decides, and
// none means no; a request is allowed if all that it asks for is.
//
// So the rules are gone through from the last to the first: one that allows
// strikes its accesses off the request and accepts when none is left; one that
// denies rejects if one of its own is still there.
func deviceFilter(rules []specs.LinuxDeviceCgroup) ([]insn, error) {
	prog := []insn{
		{opLoad32, regAccess | regCtx<<4, ctxAccessType, 0},
		{opShr, regAccess, 0, 16},
	}
	var ended bool
	for i := len(rules) - 1; i >= 0; i-- {
		r, err := parseDeviceRule(&rules[i])
		if err != nil {
			return nil, fmt.Errorf("linux.resources.devices[%d].%w", i, err)
		}
		// All rules are checked, but the verifier refuses unreachable code.
		if !ended {
			prog = append(prog, r.insns()...)
			ended = r.matchesAll()
		}
	}
	if !ended {
		prog = append(prog, verdict(false)...)
	}
	return prog, nil
}

// allowsAll tells that the filter would have nothing to refuse: a privileged
// container needs none.
func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	if len(rules) == 0 {
		return false
	}
	r, err := parseDeviceRule(&rules[len(rules)-1])
	return err == nil && r.allow && r.matchesAll()
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

// matchesAll tells that no request gets past the rule.
func (r *deviceRule) matchesAll() bool {
	return r.kind < 0 && r.major < 0 && r.minor < 0 && r.access == allAccess
}

func (r *deviceRule) insns() []insn {
	var body []insn
	switch {
	case r.access == allAccess:
	case r.allow:
		body = []insn{
			{opAnd, regAccess, 0, allAccess &^ r.access},
			{opJne32, regAccess, 2, 0}, // over the verdict
		}
	default:
		body = []insn{
			{opJset32, regAccess, 1, r.access}, // to the verdict
			{opJump, 0, 2, 0},
		}
	}
	body = append(body, verdict(r.allow)...)

	// The tests before it, from the last to the first, each jumping over all
	// that follows. Each loads what it looks at anew: did the numbers stay in
	// registers, the verifier would go through the rest of the rules once for
	// each number that it knows by then, and give up at about 1000 rules.
	for _, test := range []struct {
		load byte
		off  int16
		want int64
	}{
		{opLoad32, ctxMinor, r.minor},
		{opLoad32, ctxMajor, r.major},
		{opLoad16, ctxAccessType, int64(r.kind)},
	} {
		if test.want >= 0 {
			body = append([]insn{
				{test.load, regScratch | regCtx<<4, test.off, 0},
				{opJne32, regScratch, int16(len(body)), int32(uint32(test.want))},
			}, body...)
		}
	}
	return body
}

func verdict(allow bool) []insn {
	v := insn{opMov, regVerdict, 0, 0}
	if allow {
		v.imm = 1
	}
	return []insn{v, {code: opExit}}
}
