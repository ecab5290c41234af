package compile

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// Options are what a Plan depends on besides the spec.
type Options struct {
	ID     string
	Bundle string // absolute; relative paths of the spec start here

	// Cgroup is the container's cgroup, an absolute path on the host's
	// cgroup2 mount.
	Cgroup string

	// Seed says that there is one, to take a mount namespace from.
	Seed bool

	// SELinux says that the kernel has it.
	SELinux bool

	// Filter is Plan.Filter of the container, for an exec.
	Filter *program.Op

	// Path is what an exec executes, if that is not what process.args begins
	// with.
	Path string

	// Home is the value of HOME where process.env has none.
	Home string
}

// Slots of the Programs here: what an earlier op leaves for a later one.
const (
	_ program.Slot = iota
	slotDest
	slotParent
	slotFS
	slotMount
	slotMask
	slotDev
	slotProc
	slotMaster
	slotSlave
	slotCmsgLen  // struct cmsghdr: length,
	slotCmsgType // level and type,
	slotCmsgFd   // and the descriptor: three slots in a row
	slotPath
	slotCwd
	slotTmp
	slotForkPid
	slotForkLen  // of another struct cmsghdr,
	slotForkType // as above
	slotForkFd
	slotListener // of the seccomp filter, the same for every exec
	slotMore     // and up: whoever needs more
)

// fdRoot is the root of the container, once there: a mount by descriptor.
const fdRoot = program.FdFiles

// builder writes a Plan.
type builder struct {
	plan *program.Plan
	spec *specs.Spec
	proc *specs.Process
	exec bool
	opt  Options

	shown    bool            // the root is where hooks look for it
	idmaps   *program.IDMaps // of the container's user namespace, if known
	newFlags uintptr         // the namespaces that are made
	joinsPID bool            // a pid namespace is joined
	more     program.Slot    // the next that is free
	early    map[int]program.Slot
	nowhere  []int // ops of the mount point in hand: mayLeadNowhere
}

// slot returns one that nobody else uses.
func (b *builder) slot() program.Slot {
	b.more++
	return slotMore + b.more - 1
}

// Container compiles the Program of a container's first process.
func Container(spec *specs.Spec, opt Options) (*program.Plan, error) {
	if err := supported(spec); err != nil {
		return nil, err
	}
	if err := Labels(spec, opt.SELinux); err != nil {
		return nil, err
	}
	b := &builder{plan: &program.Plan{}, spec: spec, proc: spec.Process, opt: opt}
	b.plan.OOMScoreAdj = spec.Process.OOMScoreAdj
	b.addFile(program.FileRootfs, rootPath(spec, opt.Bundle), "root.path")
	b.begin()
	steps := []func() error{
		b.hooks,
		b.lsm,
		b.mappings,
		b.namespaces,
		b.netDevices,
		b.root,
		b.enterSharedPID,
		b.mounts,
		b.devices,
		b.setUp,
		b.terminal,
		b.sysctl,
		b.masks,
		b.hostname,
		b.loopback,
		b.sealRoot,
		b.resources,
		b.process,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, err
		}
	}
	// Only now is it known how many files there are.
	b.plan.Ops[indexCloseRange].Args[0] = program.Int(program.FdFiles + len(b.plan.Files))
	return b.plan, nil
}

// Exec compiles the Program of a further process in a running container. Its
// one File is the pidfd of the container's init.
func Exec(spec *specs.Spec, proc *specs.Process, opt Options) (*program.Plan, error) {
	if err := supportedProcess("process", proc); err != nil {
		return nil, err
	}
	b := &builder{plan: &program.Plan{}, spec: spec, proc: execProfile(spec, proc), exec: true, opt: opt}
	b.plan.OOMScoreAdj = proc.OOMScoreAdj
	if b.plan.OOMScoreAdj == nil && spec.Process != nil {
		b.plan.OOMScoreAdj = spec.Process.OOMScoreAdj
	}
	b.addFile(program.FileInit, "", "")
	b.begin()
	if err := b.affinity("initial"); err != nil {
		return nil, err
	}
	for _, step := range []func() error{b.lsm, b.joinContainer, b.terminal, b.process} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	b.plan.Ops[indexCloseRange].Args[0] = program.Int(program.FdFiles + len(b.plan.Files))
	return b.plan, nil
}

// indexCloseRange is the place of the close_range call in begin.
const indexCloseRange = 1

// begin closes the doors behind us, before anything that a container could
// have a hand in.
func (b *builder) begin() {
	// A process that shares our pid namespace must not trace the agent or
	// read its memory: PR_SET_DUMPABLE(2const), CVE-2016-9962.
	b.call("protect the agent", unix.SYS_PRCTL, program.Named(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), program.Int(0))
	// Nothing of the host may stay open here: CVE-2024-21626.
	b.call("close other files", unix.SYS_CLOSE_RANGE, program.Int(0), maxFd, program.Int(0))
	b.call("", unix.SYS_UMASK, program.Named(0, "0"))
}

var maxFd = program.Named(uint64(^uint32(0)), "~0")

// call adds an op without slots, answers or jumps.
func (b *builder) call(step string, nr int, args ...program.Arg) *program.Op {
	return b.plan.Call(step, nr, args...)
}

func (b *builder) add(op program.Op) { b.plan.Add(op) }

// preset gives a slot a value before the first op.
func (b *builder) preset(s program.Slot, v uint64) {
	if b.plan.Preset == nil {
		b.plan.Preset = map[program.Slot]uint64{}
	}
	b.plan.Preset[s] = v
}

// addFile asks the shim for a file and returns its descriptor in the agent.
func (b *builder) addFile(kind program.FileKind, path, field string) int {
	b.plan.Files = append(b.plan.Files, program.File{Kind: kind, Path: path, Field: field})
	return program.FdFiles + len(b.plan.Files) - 1
}

// here is the index of the next op; hop makes an earlier op, on success, go
// there. miss does the same for its answers.
func (b *builder) here() int { return len(b.plan.Ops) }

func (b *builder) hop(from int)  { b.plan.Ops[from].Then = b.here() - from - 1 }
func (b *builder) miss(from int) { b.plan.Ops[from].Else = b.here() - from - 1 }

// jump adds an unconditional jump, to be aimed by hop.
func (b *builder) jump() int {
	b.add(program.Op{Nr: program.Let})
	return b.here() - 1
}

// fail adds an op that fails.
func (b *builder) fail(step string, errno unix.Errno) {
	b.add(program.Op{
		Nr:   program.Let,
		Args: []program.Arg{program.Named(-int64(errno), "-"+unix.ErrnoName(errno))},
		Step: step,
	})
}
