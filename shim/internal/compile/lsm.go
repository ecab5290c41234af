package compile

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// lsm says with which profile of AppArmor the container's program will run. It
// is among the first things that an agent does: there /proc is the host's, and
// no image has a hand in it (CVE-2019-16884, CVE-2025-52881). The kernel keeps
// the word until the execve, whatever ids, namespaces and no_new_privs come in
// between: aa_change_onexec(2).
//
// It is said by a name of its own, as attr/exec belongs to another LSM where
// two are stacked (Linux 5.8).
func (b *builder) lsm() error {
	const field = "process.apparmorProfile"
	profile := b.proc.ApparmorProfile
	if profile == "" {
		return nil
	}
	if len(profile) > 1024 || strings.ContainsAny(profile, "\x00\n") {
		return invalid(field, "%q: not the name of a profile", profile)
	}
	step := field + ": " + profile
	missing := b.here()
	b.call(step, unix.SYS_OPENAT, cwd, program.Str("/proc/thread-self/attr/apparmor/exec"),
		program.Named(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC")).Out = slotTmp
	b.plan.Ops[missing].Answers = []unix.Errno{unix.ENOENT}
	request := "exec " + profile
	write := func(step string) *program.Op {
		return b.call(step, unix.SYS_WRITE, program.From(slotTmp), program.Str(request), program.Int(len(request)))
	}
	refused := b.here()
	write(step).Answers = []unix.Errno{unix.ENOENT, unix.EINVAL}
	b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
	done := b.jump()
	// Once more, to tell the two apart.
	b.miss(refused)
	off := b.here()
	write(step + ": not loaded").Answers = []unix.Errno{unix.EINVAL}
	b.miss(off)
	b.fail(step+": AppArmor is switched off", unix.ENOTSUP)
	b.miss(missing)
	b.fail(step+": AppArmor is not in this kernel", unix.ENOTSUP)
	b.hop(done)
	b.hop(off)
	return nil
}

// execProfile gives an exec the container's profile, unless it has one.
func execProfile(spec *specs.Spec, proc *specs.Process) *specs.Process {
	if proc.ApparmorProfile != "" || spec.Process == nil || spec.Process.ApparmorProfile == "" {
		return proc
	}
	p := *proc
	p.ApparmorProfile = spec.Process.ApparmorProfile
	return &p
}
