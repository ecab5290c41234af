package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is struct seccomp_data, as far as filters look at it.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// reference says what a profile does to a call, by doc.go, in the plainest way
// and without any of the compiler's steps. The profile is one that compiles.
func reference(p *specs.LinuxSeccomp, machine []abi, c call) uint32 {
	def := refAction(p.DefaultAction, p.DefaultErrnoRet)
	var a abi
	for _, m := range machine {
		in := m.name == machine[0].name || slices.Contains(p.Architectures, m.name)
		if in && m.audit == c.arch && m.x32 == (m.audit == unix.AUDIT_ARCH_X86_64 && c.nr >= x32Bit) {
			a = m
		}
	}
	if a.name == "" {
		if c.arch == unix.AUDIT_ARCH_X86_64 && machine[0].audit == c.arch && c.nr == 0xffffffff {
			return def
		}
		return unix.SECCOMP_RET_KILL_THREAD
	}
	limit := a
	if a.x32 {
		c.nr &^= x32Bit
		if c.nr < firstX32 {
			limit = machine[0]
			if !refHas(a, c.nr) {
				a = machine[0]
			}
		}
	}
	if act, ok := refRules(p, a, c.nr, c.args, def); ok {
		return act
	}
	if slices.Contains([]specs.LinuxSeccompAction{specs.ActAllow, specs.ActLog, specs.ActTrace}, p.DefaultAction) {
		return def
	}
	var last uint32
	for _, s := range p.Syscalls {
		for _, name := range s.Names {
			if n, ok := refNumber(limit, name); ok && n < 0xf0000 {
				last = max(last, n)
			}
		}
	}
	if last > 0 && c.nr > last {
		return enosys
	}
	return def
}

func refHas(a abi, nr uint32) bool {
	return slices.ContainsFunc(a.calls, func(e entry) bool { return e.number() == nr })
}

func refRules(p *specs.LinuxSeccomp, a abi, nr uint32, args [6]uint64, def uint32) (uint32, bool) {
	var conditional []func() (uint32, bool)
	for _, s := range p.Syscalls {
		action := refAction(s.Action, s.ErrnoRet)
		if action == def {
			continue
		}
		for _, name := range s.Names {
			if n, ok := refNumber(a, name); ok && n == nr {
				if len(s.Args) == 0 {
					return action, true
				}
				conditional = append(conditional, func() (uint32, bool) { return action, refArgs(s.Args, args, a.wide) })
			}
			by, which := multiplex(name)
			if !a.mux || by == "" || len(s.Args) > 0 && passes(action) {
				continue
			}
			if n, ok := refNumber(a, by); ok && n == nr {
				conditional = append(conditional, func() (uint32, bool) { return action, uint32(args[0]) == uint32(which) })
			}
		}
	}
	for _, f := range conditional {
		if action, ok := f(); ok {
			return action, true
		}
	}
	// A call that has rules is known, whatever they say.
	return def, len(conditional) > 0
}

func refNumber(a abi, name string) (uint32, bool) {
	if name == "sync_file_range2" {
		name = "arm_sync_file_range"
	}
	n, ok := refNumbers[a.name][name]
	return n, ok
}

var refNumbers = func() map[specs.Arch]map[string]uint32 {
	all := map[specs.Arch]map[string]uint32{}
	for _, a := range slices.Concat(amd64, arm64) {
		all[a.name] = map[string]uint32{}
		for _, e := range a.calls {
			all[a.name][nameAt(int(e.name))] = e.number()
		}
	}
	return all
}()

func refAction(a specs.LinuxSeccompAction, ret *uint) uint32 {
	n := uint32(1)
	if ret != nil {
		n = uint32(*ret)
	}
	switch a {
	case specs.ActErrno:
		return 0x50000 | n
	case specs.ActTrace:
		return 0x7ff00000 | n
	}
	return map[specs.LinuxSeccompAction]uint32{
		specs.ActKill: 0, specs.ActKillThread: 0, specs.ActKillProcess: 0x80000000, specs.ActTrap: 0x30000,
		specs.ActAllow: 0x7fff0000, specs.ActLog: 0x7ffc0000, specs.ActNotify: 0x7fc00000,
	}[a]
}

func refArgs(conds []specs.LinuxSeccompArg, args [6]uint64, wide bool) bool {
	var seen [6]int
	for _, c := range conds {
		seen[c.Index]++
	}
	if slices.Max(seen[:]) > 1 {
		return slices.ContainsFunc(conds, func(c specs.LinuxSeccompArg) bool { return refArg(c, args[c.Index], wide) })
	}
	return !slices.ContainsFunc(conds, func(c specs.LinuxSeccompArg) bool { return !refArg(c, args[c.Index], wide) })
}

func refArg(c specs.LinuxSeccompArg, v uint64, wide bool) bool {
	if !wide {
		v, c.Value, c.ValueTwo = uint64(uint32(v)), uint64(uint32(c.Value)), uint64(uint32(c.ValueTwo))
	}
	switch c.Op {
	case specs.OpEqualTo:
		return v == c.Value
	case specs.OpNotEqual:
		return v != c.Value
	case specs.OpLessThan:
		return v < c.Value
	case specs.OpLessEqual:
		return v <= c.Value
	case specs.OpGreaterThan:
		return v > c.Value
	case specs.OpGreaterEqual:
		return v >= c.Value
	case specs.OpMaskedEqual:
		return v&c.Value == c.ValueTwo&c.Value
	}
	panic(c.Op)
}
