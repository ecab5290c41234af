package seccomp

import (
	"errors"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// profile is what an OCI profile says, names resolved and all of it checked.
type profile struct {
	action uint32 // the default
	abis   []abi
	flags  uint
	rules  []rule

	// By name: whether it occurs at all, and its rules in the order of the
	// profile, as lists through refs. There 0 is none, and refs[0] unused.
	named       [nNames]bool
	first, last [nNames]uint16
	refs        []ref
}

// rule is an action and the conditions that must all hold for it.
type rule struct {
	action uint32
	conds  []cond
}

// ref says that a rule is for a name.
type ref struct {
	rule, next uint16
	list       uint16 // of the compiler, made when it comes to the first
	mux        bool   // only where the call multiplexes
}

// refer adds a rule to those of a name.
func (pr *profile) refer(name, rule int, mux bool) {
	pr.refs = append(pr.refs, ref{rule: uint16(rule), mux: mux})
	at := uint16(len(pr.refs) - 1)
	if last := pr.last[name]; last != 0 {
		pr.refs[last].next = at
	} else {
		pr.first[name] = at
	}
	pr.last[name] = at
}

func parse(p *specs.LinuxSeccomp, machine []abi) (*profile, error) {
	pr := &profile{refs: make([]ref, 1, 512)}
	var err error
	if pr.action, err = parseAction(p.DefaultAction); err != nil {
		return pr, fmt.Errorf("linux.seccomp.defaultAction: %w", err)
	}
	if pr.action == unix.SECCOMP_RET_USER_NOTIF {
		return pr, fmt.Errorf("linux.seccomp.defaultAction: %s: not for every call: who listens hears of it by write(2)", p.DefaultAction)
	}
	if pr.action, err = withErrno(pr.action, p.DefaultErrnoRet); err != nil {
		return pr, fmt.Errorf("linux.seccomp.defaultErrnoRet: %w", err)
	}
	if pr.abis, err = parseArchs(p.Architectures, machine); err != nil {
		return pr, err
	}
	mux := slices.ContainsFunc(pr.abis, func(a abi) bool { return a.mux })
	for i := range p.Syscalls {
		if err := pr.add(&p.Syscalls[i], mux); err != nil {
			return pr, fmt.Errorf("linux.seccomp.syscalls[%d].%w", i, err)
		}
	}
	if pr.flags, err = parseFlags(p.Flags, pr.notifies()); err != nil {
		return pr, err
	}
	if pr.notifies() && p.ListenerPath == "" {
		return pr, errors.New("linux.seccomp.listenerPath: missing: SCMP_ACT_NOTIFY needs one")
	}
	return pr, nil
}

// notifies tells that a rule sends calls to a listener.
func (pr *profile) notifies() bool {
	return slices.ContainsFunc(pr.rules, func(r rule) bool { return r.action == unix.SECCOMP_RET_USER_NOTIF })
}

// add takes in one entry of linux.seccomp.syscalls.
func (pr *profile) add(s *specs.LinuxSyscall, mux bool) error {
	action, err := parseAction(s.Action)
	if err != nil {
		return fmt.Errorf("action: %w", err)
	}
	if action, err = withErrno(action, s.ErrnoRet); err != nil {
		return fmt.Errorf("errnoRet: %w", err)
	}
	conds, err := parseArgs(s.Args)
	if err != nil {
		return err
	}
	first := len(pr.rules)
	if action != pr.action {
		if repeats(conds) {
			for i := range conds {
				pr.rules = append(pr.rules, rule{action, conds[i : i+1]})
			}
		} else {
			pr.rules = append(pr.rules, rule{action, conds})
		}
	}
	last := len(pr.rules)
	hint := -1
	for i, s := range s.Names {
		if s == "" {
			return fmt.Errorf("names[%d]: empty", i)
		}
		name := lookup(s, hint)
		if name < 0 {
			continue
		}
		hint = name
		if action == unix.SECCOMP_RET_USER_NOTIF && s == "write" {
			// The agent would wait for a listener whose descriptor it
			// has still to tell. runc refuses it, too.
			return fmt.Errorf("names[%d]: write: not with SCMP_ACT_NOTIFY: who listens hears of it by write(2)", i)
		}
		pr.named[name] = true
		for r := first; r < last; r++ {
			pr.refer(name, r, false)
		}
		if mux && first < last && (len(conds) == 0 || !passes(action)) {
			pr.multiplex(s, action)
		}
		if len(pr.refs) > maxRefs || len(pr.rules) > maxRefs {
			return errors.New("names: too many rules")
		}
	}
	return nil
}

// maxRefs is far more than a filter can hold: each rule is an instruction.
const maxRefs = 1 << 15

// multiplex adds the rule that i386 needs besides one for name.
func (pr *profile) multiplex(name string, action uint32) {
	by, which := multiplex(name)
	if by == "" {
		return
	}
	pr.rules = append(pr.rules, rule{action, []cond{{op: specs.OpEqualTo, value: which}}})
	pr.refer(lookup(by, -1), len(pr.rules)-1, true)
}

func parseAction(a specs.LinuxSeccompAction) (uint32, error) {
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("%q: unknown", a)
}

// withErrno adds to the actions that carry a number the one to carry. For the
// others the runtime-spec calls it an error, and no runtime does.
func withErrno(action uint32, n *uint) (uint32, error) {
	most := uint(unix.SECCOMP_RET_DATA)
	switch action {
	case unix.SECCOMP_RET_ERRNO:
		most = 4095 // MAX_ERRNO; the kernel makes greater ones this
	case unix.SECCOMP_RET_TRACE:
	default:
		return action, nil
	}
	if n == nil {
		return action | uint32(unix.EPERM), nil
	}
	if *n > most {
		return 0, fmt.Errorf("%d out of range", *n)
	}
	return action | uint32(*n), nil
}

// passes tells that an action lets the call through, if perhaps not unseen.
func passes(action uint32) bool {
	switch action &^ unix.SECCOMP_RET_DATA {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return true
	}
	return false
}

func parseArgs(args []specs.LinuxSeccompArg) (conds []cond, err error) {
	for i, a := range args {
		c := cond{index: uint32(a.Index), op: a.Op, value: a.Value}
		switch {
		case a.Index > 5:
			return nil, fmt.Errorf("args[%d].index: %d out of range", i, a.Index)
		case !known(a.Op):
			return nil, fmt.Errorf("args[%d].op: %q: unknown", i, a.Op)
		case a.Op == specs.OpMaskedEqual:
			// value is the mask, valueTwo what to compare with.
			// libseccomp masks that too.
			c.mask = a.Value
			c.value = a.ValueTwo & a.Value
		}
		conds = append(conds, c)
	}
	return conds, nil
}

// repeats tells that two conditions are on the same argument.
func repeats(conds []cond) bool {
	var seen uint
	for _, c := range conds {
		if seen&(1<<c.index) != 0 {
			return true
		}
		seen |= 1 << c.index
	}
	return false
}

// parseArchs returns the abis of machine that are in.
func parseArchs(archs []specs.Arch, machine []abi) ([]abi, error) {
	for i, a := range archs {
		if !slices.Contains(allArchs, a) {
			return nil, fmt.Errorf("linux.seccomp.architectures[%d]: %q: unknown", i, a)
		}
	}
	in := machine[:1:1]
	for _, a := range machine[1:] {
		if slices.Contains(archs, a.name) {
			in = append(in, a)
		}
	}
	return in, nil
}

// allArchs are those that the runtime-spec knows.
var allArchs = []specs.Arch{
	specs.ArchX86, specs.ArchX86_64, specs.ArchX32, specs.ArchARM, specs.ArchAARCH64, specs.ArchMIPS,
	specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32,
	specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X, specs.ArchPARISC,
	specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// parseFlags returns SECCOMP_FILTER_FLAG_*.
func parseFlags(flags []specs.LinuxSeccompFlag, notifies bool) (uint, error) {
	var v uint
	if flags == nil {
		v = unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
	}
	if notifies {
		v |= unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	for i, f := range flags {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// In no version of the spec, but runc takes it. The agent
			// has one thread.
		case specs.LinuxSeccompFlagLog:
			v |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			v |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			// EINVAL without a listener, and before Linux 5.19.
			if !notifies {
				return 0, fmt.Errorf("linux.seccomp.flags[%d]: %s: needs SCMP_ACT_NOTIFY", i, f)
			}
			v |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
		default:
			return 0, fmt.Errorf("linux.seccomp.flags[%d]: %q: unknown", i, f)
		}
	}
	return v, nil
}
