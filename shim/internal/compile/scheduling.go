package compile

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// schedPolicies: sched(7). SCHED_ISO is a name that no kernel implements.
var schedPolicies = map[specs.LinuxSchedulerPolicy]uint32{
	specs.SchedOther:    unix.SCHED_NORMAL,
	specs.SchedFIFO:     unix.SCHED_FIFO,
	specs.SchedRR:       unix.SCHED_RR,
	specs.SchedBatch:    unix.SCHED_BATCH,
	specs.SchedIdle:     unix.SCHED_IDLE,
	specs.SchedDeadline: unix.SCHED_DEADLINE,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork:  unix.SCHED_FLAG_RESET_ON_FORK,
	specs.SchedFlagReclaim:      unix.SCHED_FLAG_RECLAIM,
	specs.SchedFlagDLOverrun:    unix.SCHED_FLAG_DL_OVERRUN,
	specs.SchedFlagKeepPolicy:   unix.SCHED_FLAG_KEEP_POLICY,
	specs.SchedFlagKeepParams:   unix.SCHED_FLAG_KEEP_PARAMS,
	specs.SchedFlagUtilClampMin: unix.SCHED_FLAG_UTIL_CLAMP_MIN,
	specs.SchedFlagUtilClampMax: unix.SCHED_FLAG_UTIL_CLAMP_MAX,
}

// scheduler reads process.scheduler: sched_setattr(2). To ask for more than others
// get takes CAP_SYS_NICE on the host, and a deadline forbids to fork: so it is the
// shim that sets it, when the process stands at its gate.
func (b *builder) scheduler() error {
	s := b.proc.Scheduler
	if s == nil {
		return nil
	}
	const field = "process.scheduler"
	policy, ok := schedPolicies[s.Policy]
	realtime := policy == unix.SCHED_FIFO || policy == unix.SCHED_RR
	switch {
	case !ok:
		return invalid(field+".policy", "%q: unknown", s.Policy)
	case s.Nice < -20 || s.Nice > 19:
		return invalid(field+".nice", "%d: not between -20 and 19", s.Nice)
	case s.Priority != 0 && !realtime:
		return invalid(field+".priority", "only SCHED_FIFO and SCHED_RR have one")
	case (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0) && policy != unix.SCHED_DEADLINE:
		return invalid(field+".runtime", "only SCHED_DEADLINE has runtime, deadline and period")
	}
	var flags uint64
	for _, f := range s.Flags {
		flag, ok := schedFlags[f]
		if !ok {
			return invalid(field+".flags", "%q: unknown", f)
		}
		flags |= flag
	}
	b.plan.Scheduler = &program.Scheduler{Name: string(s.Policy), Attr: unix.SchedAttr{
		Size: unix.SizeofSchedAttr, Policy: policy, Flags: flags, Nice: s.Nice, Priority: uint32(s.Priority),
		Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period,
	}}
	return nil
}

var ioClasses = map[specs.IOPriorityClass]int{specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3}

// ioPriority sets process.ioPriority: ioprio_set(2).
func (b *builder) ioPriority() error {
	p := b.proc.IOPriority
	if p == nil {
		return nil
	}
	const field = "process.ioPriority"
	class, ok := ioClasses[p.Class]
	switch {
	case !ok:
		return invalid(field+".class", "%q: unknown", p.Class)
	case p.Priority < 0 || p.Priority > 7:
		return invalid(field+".priority", "%d: not between 0 and 7", p.Priority)
	}
	const whoProcess, classShift = 1, 13
	b.call(fmt.Sprintf("%s: %s %d", field, p.Class, p.Priority), unix.SYS_IOPRIO_SET,
		program.Named(whoProcess, "IOPRIO_WHO_PROCESS"), program.Int(0),
		program.Named(class<<classShift|p.Priority, fmt.Sprintf("%s|%d", p.Class, p.Priority)))
	return nil
}

// affinity sets one part of process.execCPUAffinity, which is for execs:
// sched_setaffinity(2). An exec is born in the container's cgroup, so there is no
// time before that: "initial" is what it begins with there, if its cpuset has any of
// these CPUs.
func (b *builder) affinity(name string) error {
	a := b.proc.ExecCPUAffinity
	if a == nil {
		return nil
	}
	list := map[string]string{"initial": a.Initial, "final": a.Final}[name]
	field := "process.execCPUAffinity." + name
	mask, err := parseSet(field, list)
	if err != nil || mask == nil || !b.exec {
		return err
	}
	op := b.call(field+": "+list, unix.SYS_SCHED_SETAFFINITY, program.Int(0), program.Int(len(mask)), program.Bytes(mask, "["+list+"]"))
	if name == "initial" {
		op.Answers = []unix.Errno{unix.EINVAL}
	}
	return nil
}

// maxSet is more CPUs or memory nodes than a kernel can be built for.
const maxSet = 8192

// parseSet turns a list such as "0-3,7" into a bit mask: cpuset(7), List format.
func parseSet(field, list string) ([]byte, error) {
	if list == "" {
		return nil, nil
	}
	mask := make([]byte, maxSet/8)
	top := 0
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, terr := strconv.ParseUint(last, 10, 16)
		if err != nil || terr != nil || from > to || to >= maxSet {
			return nil, invalid(field, "%q: want a list such as 0-3,7", list)
		}
		for i := from; i <= to; i++ {
			mask[i/8] |= 1 << (i % 8)
		}
		top = max(top, int(to))
	}
	return mask[:8*(top/64+1)], nil
}

var personalities = map[specs.LinuxPersonalityDomain]int{specs.PerLinux: 0, specs.PerLinux32: 8}

// personality sets linux.personality: personality(2).
func (b *builder) personality() error {
	p := b.spec.Linux.Personality
	if p == nil {
		return nil
	}
	domain, ok := personalities[p.Domain]
	switch {
	case !ok:
		return invalid("linux.personality.domain", "%q: unknown", p.Domain)
	case len(p.Flags) > 0:
		return invalid("linux.personality.flags", "%q: unknown", p.Flags[0])
	}
	b.call("linux.personality: "+string(p.Domain), unix.SYS_PERSONALITY, program.Named(domain, "PER_"+string(p.Domain)))
	return nil
}

// memoryModes and memoryFlags: set_mempolicy(2), linux/mempolicy.h.
var memoryModes = map[specs.MemoryPolicyModeType]int{
	specs.MpolDefault:            0,
	specs.MpolPreferred:          1,
	specs.MpolBind:               2,
	specs.MpolInterleave:         3,
	specs.MpolLocal:              4,
	specs.MpolPreferredMany:      5, // Linux 5.15
	specs.MpolWeightedInterleave: 6, // Linux 6.9
}

var memoryFlags = map[specs.MemoryPolicyFlagType]int{
	specs.MpolFNumaBalancing: 1 << 13,
	specs.MpolFRelativeNodes: 1 << 14,
	specs.MpolFStaticNodes:   1 << 15,
}

// MemoryPolicies are the modes and flags that linux.memoryPolicy may have, for the
// features that mini announces.
func MemoryPolicies() (modes, flags []string) {
	return keys(memoryModes), keys(memoryFlags)
}

// memoryPolicy sets linux.memoryPolicy.
func (b *builder) memoryPolicy() error {
	p := b.spec.Linux.MemoryPolicy
	if p == nil {
		return nil
	}
	const field = "linux.memoryPolicy"
	mode, ok := memoryModes[p.Mode]
	if !ok {
		return invalid(field+".mode", "%q: unknown", p.Mode)
	}
	text := string(p.Mode)
	for _, f := range p.Flags {
		flag, ok := memoryFlags[f]
		if !ok {
			return invalid(field+".flags", "%q: unknown", f)
		}
		mode |= flag
		text += "|" + string(f)
	}
	mask, err := parseSet(field+".nodes", p.Nodes)
	if err != nil {
		return err
	}
	nodes, bits := null, 0
	if mask != nil {
		// The kernel looks at one bit less than it is told of.
		nodes, bits = program.Bytes(mask, "["+p.Nodes+"]"), 8*len(mask)+1
	}
	b.call(field+": "+strings.TrimSpace(text+" "+p.Nodes), unix.SYS_SET_MEMPOLICY, program.Named(mode, text), nodes, program.Int(bits))
	return nil
}

// consoleSize is struct winsize: ioctl_tty(2).
func consoleSize(size *specs.Box) (program.Arg, error) {
	if size.Height > 0xffff || size.Width > 0xffff {
		return null, invalid("process.consoleSize", "%dx%d: a side is above 65535", size.Width, size.Height)
	}
	ws := binary.LittleEndian.AppendUint16(nil, uint16(size.Height))
	ws = binary.LittleEndian.AppendUint16(ws, uint16(size.Width))
	return program.Bytes(append(ws, 0, 0, 0, 0), fmt.Sprintf("{%d, %d}", size.Height, size.Width)), nil
}

// keys are the keys of a table, sorted.
func keys[K ~string, V any](table map[K]V) []string {
	var names []string
	for k := range table {
		names = append(names, string(k))
	}
	slices.Sort(names)
	return names
}
