package seccomp

import (
	"fmt"
	"math"
	"runtime"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// maxInsns is BPF_MAXINSNS (linux/bpf_common.h).
const maxInsns = 4096

const enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)

// Compile translates a profile for the machine that this program was built for.
// A profile that says nothing at all is an empty Filter.
func Compile(p *specs.LinuxSeccomp) (Filter, error) {
	if runtime.GOARCH == "arm64" {
		return compile(p, arm64)
	}
	return compile(p, amd64)
}

func compile(p *specs.LinuxSeccomp, machine []abi) (Filter, error) {
	if p == nil || p.DefaultAction == "" && len(p.Syscalls) == 0 {
		return Filter{}, nil
	}
	pr, err := parse(p, machine)
	if err != nil {
		return Filter{}, err
	}
	c := compiler{profile: pr}
	at := c.ret(unix.SECCOMP_RET_KILL_THREAD) // no abi that is in
	for i := len(pr.abis) - 1; i >= 0; i-- {
		a := &pr.abis[i]
		if a.x32 {
			continue // comes with x86_64, as seccomp_data.arch has it
		}
		at = c.jump(opEq, a.audit, c.section(a), at)
	}
	c.load(dataArch, at)
	if n := len(c.rev); n > maxInsns {
		return Filter{}, fmt.Errorf("linux.seccomp: filter of %d instructions, the kernel takes %d", n, maxInsns)
	}
	return Filter{Insns: c.filter(), Flags: pr.flags}, nil
}

type compiler struct {
	builder
	profile *profile
	lists   []list
}

// list are the rules for one name, all with conditions.
type list struct {
	rules []rule
	at    [2]addr // where they are written, for arguments of 32 and 64 bits
}

// outcome is what becomes of a call: an action, or what a list says and the
// default action after it, or what is decided elsewhere.
type outcome struct {
	action uint32
	list   uint16 // 1 is compiler.lists[0]
	wide   bool   // the list is about arguments of 64 bits
	to     addr
}

// segment is a range of numbers, up to where the next one starts.
type segment struct {
	start uint64
	outcome
}

// section writes what is for one architecture, as seccomp_data tells them apart.
func (c *compiler) section(a *abi) addr {
	root := c.search(overlay(c.calls(a), c.ground(a)), 1<<32)
	if a.audit != unix.AUDIT_ARCH_X86_64 {
		return c.load(dataNr, root)
	}
	var other addr
	if i := slices.IndexFunc(c.profile.abis, func(a abi) bool { return a.x32 }); i >= 0 {
		x32 := &c.profile.abis[i]
		other = c.search(overlay(c.calls(x32), c.groundX32(x32, root)), 1<<32)
		other = c.then(other, opAnd, math.MaxUint32&^x32Bit)
	} else {
		// An architecture that is not in, but for -1: a tracer sets that
		// to skip a call, and seccomp(2) says it is filtered then too.
		other = c.jump(opEq, math.MaxUint32, c.ret(c.profile.action), c.ret(unix.SECCOMP_RET_KILL_THREAD))
	}
	return c.load(dataNr, c.jump(opGe, x32Bit, other, root))
}

// search writes the search for the number among segments, which end at end.
func (c *compiler) search(segs []segment, end uint64) addr {
	if at, ok := c.pick(segs, end); ok {
		return at
	}
	at := middle(segs, end)
	high := c.search(segs[at:], end)
	low := c.search(segs[:at], segs[at].start)
	return c.jump(opGe, uint32(segs[at].start), high, low)
}

// pick writes the search among segments that are all the same but for few
// numbers: one comparison for each of these, where halving would take two.
func (c *compiler) pick(segs []segment, end uint64) (at addr, ok bool) {
	const most = 3
	var few [most + 1]segment
	numbers := few[:0]
	var rest *outcome
	for i, s := range segs {
		next := end
		if i+1 < len(segs) {
			next = segs[i+1].start
		}
		switch {
		case rest != nil && s.outcome == *rest:
		case next == s.start+1:
			numbers = append(numbers, s)
		case rest == nil:
			rest = &segs[i].outcome
		default:
			return 0, false
		}
		if len(numbers) > most {
			return 0, false
		}
	}
	if rest == nil {
		rest = &numbers[0].outcome
	}
	at = c.decide(*rest)
	for _, s := range slices.Backward(numbers) {
		at = c.jump(opEq, uint32(s.start), c.decide(s.outcome), at)
	}
	return at, true
}

// middle is where to divide segments so that about as many calls are on either
// side: the kernel tries every number once when it loads a filter, so the
// widest ranges are to be found first.
func middle(segs []segment, end uint64) int {
	from, to := rank(segs[0].start), rank(end)
	half := from + (to-from)/2
	at := 1
	for at < len(segs)-1 && rank(segs[at].start) < half {
		at++
	}
	// The one before may be nearer.
	if at > 1 && rank(segs[at].start)-half > half-rank(segs[at-1].start) {
		at--
	}
	return at
}

// rank is how much is to be found below a number: calls, and beyond them (as of
// Linux 7.1 the last is 471) next to nothing.
func rank(nr uint64) uint64 {
	const calls = 512
	if nr < calls {
		return nr << 32
	}
	return calls<<32 + nr
}

func (c *compiler) decide(o outcome) addr {
	switch {
	case o.to != 0:
		return o.to
	case o.list == 0:
		return c.ret(o.action)
	}
	l := &c.lists[o.list-1]
	width := 0
	if o.wide {
		width = 1
	}
	if l.at[width] == 0 {
		l.at[width] = c.rules(l.rules, o.wide, c.ret(c.profile.action))
	}
	return l.at[width]
}

// calls are the numbers that rules are for, in their order. x32 shares with
// x86_64 what it can.
func (c *compiler) calls(a *abi) []segment {
	segs := make([]segment, 0, len(a.calls))
	for _, e := range a.calls {
		first := c.profile.first[e.name]
		if first == 0 {
			continue
		}
		o, ok := c.outcome(first, a)
		if ok && (!a.x32 || e.nr >= firstX32 || o.list != 0) {
			segs = append(segs, segment{uint64(e.number()), o})
		}
	}
	return segs
}

// outcome is what the rules from refs[at] on, all for one name, come to. There
// may be none for this abi.
func (c *compiler) outcome(at uint16, a *abi) (o outcome, ok bool) {
	refs, first := c.profile.refs, at
	var rules []rule
	mux := false
	for ; at != 0; at = refs[at].next {
		if refs[at].mux && !a.mux {
			continue
		}
		r := c.profile.rules[refs[at].rule]
		if len(r.conds) == 0 {
			return outcome{action: r.action}, true
		}
		rules = append(rules, r)
		mux = mux || refs[at].mux
	}
	if len(rules) == 0 {
		return outcome{}, false
	}
	o = outcome{list: refs[first].list, wide: a.wide}
	if o.list == 0 || mux {
		c.lists = append(c.lists, list{rules: rules})
		o.list = uint16(len(c.lists))
	}
	if !mux {
		refs[first].list = o.list
	}
	return o, true
}

// ground is what becomes of numbers that no rule is for.
func (c *compiler) ground(a *abi) []segment {
	segs := []segment{{0, outcome{action: c.profile.action}}}
	if last := c.lastNamed(a); last > 0 && !passes(c.profile.action) {
		segs = append(segs, segment{uint64(last) + 1, outcome{action: enosys}})
	}
	return segs
}

// groundX32 is the same for x32, without its bit: below its own numbers it has
// those of x86_64, for which the search begins at root.
func (c *compiler) groundX32(a *abi, root addr) []segment {
	segs := []segment{{0, outcome{to: root}}, {firstX32, outcome{action: c.profile.action}}}
	if last := c.lastNamed(a); last > 0 && !passes(c.profile.action) {
		segs = append(segs, segment{max(uint64(last)+1, firstX32), outcome{action: enosys}})
	}
	return segs
}

// lastNamed is the highest number of a call that the profile names, 0 if none.
func (c *compiler) lastNamed(a *abi) uint32 {
	for _, e := range slices.Backward(a.calls) {
		if c.profile.named[e.name] && !e.private() {
			return e.number()
		}
	}
	return 0
}

// overlay puts calls, each one number, over the ground. Both are sorted.
func overlay(calls, ground []segment) []segment {
	segs := make([]segment, 0, 2*len(calls)+len(ground))
	add := func(s segment) {
		if n := len(segs); n > 0 && segs[n-1].outcome == s.outcome {
			return
		}
		segs = append(segs, s)
	}
	at := uint64(0)
	for at <= math.MaxUint32 {
		for len(ground) > 1 && ground[1].start <= at {
			ground = ground[1:]
		}
		if len(calls) > 0 && calls[0].start == at {
			add(calls[0])
			calls = calls[1:]
			at++
			continue
		}
		add(segment{at, ground[0].outcome})
		at = math.MaxUint32 + 1
		if len(ground) > 1 {
			at = ground[1].start
		}
		if len(calls) > 0 {
			at = min(at, calls[0].start)
		}
	}
	return segs
}
