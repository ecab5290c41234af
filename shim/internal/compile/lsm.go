package compile

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// lsm says with which profile of AppArmor, or which label of SELinux, the
// container's program will run. It is among the first things that an agent does:
// there /proc is the host's, and no image has a hand in it (CVE-2019-16884,
// CVE-2025-52881). The kernel keeps the word until the execve, whatever ids,
// namespaces and no_new_privs come in between: aa_change_onexec(2), setexeccon(3).
func (b *builder) lsm() error {
	if err := b.appArmor(); err != nil {
		return err
	}
	return b.selinux()
}

// appArmor says so by a name of its own, as attr/exec belongs to another LSM where
// two are stacked (Linux 5.8).
func (b *builder) appArmor() error {
	const field = "process.apparmorProfile"
	profile := b.proc.ApparmorProfile
	if profile == "" {
		return nil
	}
	if err := checkLSM(field, profile, 1024, "the name of a profile"); err != nil {
		return err
	}
	step := field + ": " + profile
	missing := b.openAttr(step, "apparmor/exec")
	b.plan.Ops[missing].Answers = []unix.Errno{unix.ENOENT}
	refused := b.writeAttr(step, "exec "+profile)
	b.plan.Ops[refused].Answers = []unix.Errno{unix.ENOENT, unix.EINVAL}
	b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
	done := b.jump()
	// Once more, to tell the two apart.
	b.miss(refused)
	off := b.writeAttr(step+": not loaded", "exec "+profile)
	b.plan.Ops[off].Answers = []unix.Errno{unix.EINVAL}
	b.miss(off)
	b.fail(step+": AppArmor is switched off", unix.ENOTSUP)
	b.miss(missing)
	b.fail(step+": AppArmor is not in this kernel", unix.ENOTSUP)
	b.hop(done)
	b.hop(off)
	return nil
}

// selinux gives its label to the program, and to the session keyring that it gets:
// it could not use one with the shim's. An execve ends both: proc_pid_attr(5).
func (b *builder) selinux() error {
	const field = "process.selinuxLabel"
	label := b.proc.SelinuxLabel
	if label == "" {
		return nil
	}
	if err := checkLabel(field, label, b.opt.SELinux); err != nil {
		return err
	}
	step := field + ": " + label
	for _, attr := range []string{"exec", "keycreate"} {
		b.openAttr(step, attr)
		refused := b.writeAttr(step, label)
		b.plan.Ops[refused].Answers = []unix.Errno{unix.EINVAL}
		b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
		done := b.jump()
		b.miss(refused)
		b.fail(step+": unknown to the policy that is loaded", unix.EINVAL)
		b.hop(done)
	}
	return nil
}

func (b *builder) openAttr(step, name string) (op int) {
	b.call(step, unix.SYS_OPENAT, cwd, program.Str("/proc/thread-self/attr/"+name),
		program.Named(unix.O_WRONLY|unix.O_CLOEXEC, "O_WRONLY|O_CLOEXEC")).Out = slotTmp
	return b.here() - 1
}

func (b *builder) writeAttr(step, text string) (op int) {
	b.call(step, unix.SYS_WRITE, program.From(slotTmp), program.Str(text), program.Int(len(text)))
	return b.here() - 1
}

func checkLSM(field, name string, most int, what string) error {
	if len(name) > most || strings.ContainsAny(name, "\x00\n") {
		return invalid(field, "%q: not %s", name, what)
	}
	return nil
}

func checkLabel(field, label string, selinux bool) error {
	if !selinux {
		return fmt.Errorf("%s: %s: SELinux is not in this kernel, or not at /sys/fs/selinux: %w", field, label, errdefs.ErrNotImplemented)
	}
	return checkLSM(field, label, 4095, "a label")
}

// Labels refuses a spec with labels where there is no SELinux. [Container] does so,
// too; but before it the root is mounted, which may have the label already.
func Labels(spec *specs.Spec, selinux bool) error {
	if spec.Process != nil && spec.Process.SelinuxLabel != "" {
		if err := checkLabel("process.selinuxLabel", spec.Process.SelinuxLabel, selinux); err != nil {
			return err
		}
	}
	if spec.Linux != nil && spec.Linux.MountLabel != "" {
		return checkLabel("linux.mountLabel", spec.Linux.MountLabel, selinux)
	}
	return nil
}

// execProfile gives an exec the container's profile and label, unless it has
// others.
func execProfile(spec *specs.Spec, proc *specs.Process) *specs.Process {
	if spec.Process == nil {
		return proc
	}
	p := *proc
	if p.ApparmorProfile == "" {
		p.ApparmorProfile = spec.Process.ApparmorProfile
	}
	if p.SelinuxLabel == "" {
		p.SelinuxLabel = spec.Process.SelinuxLabel
	}
	return &p
}

// mountContext is linux.mountLabel as an option of a new file system, "" where that
// has labels of its own, or none, or an option that says another. Where it is an
// option of mount(2) it has quotes, for the commas in it: fsconfig(2) wants none.
func (b *builder) mountContext(fstype string, data []string) string {
	l := b.spec.Linux.MountLabel
	if l == "" || unlabelled[fstype] {
		return ""
	}
	for _, o := range data {
		if key, _, _ := strings.Cut(o, "="); strings.HasSuffix(key, "context") {
			return ""
		}
	}
	return l
}

// OptionValue is the value of an option as fsconfig(2) takes it.
func OptionValue(key, value string) string {
	if strings.HasSuffix(key, "context") {
		return strings.Trim(value, `"`)
	}
	return value
}

// unlabelled file systems have labels of their own, or none.
var unlabelled = map[string]bool{"proc": true, "sysfs": true, "mqueue": true, "cgroup2": true}

// label gives a mqueue linux.mountLabel, which it does not take as an option.
func (b *builder) label(fstype string, mounted program.Slot) {
	l := b.spec.Linux.MountLabel
	if l == "" || fstype != "mqueue" {
		return
	}
	const step = "linux.mountLabel"
	b.call(step, unix.SYS_OPENAT, program.From(mounted), program.Str("."),
		program.Named(unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, "O_RDONLY|O_DIRECTORY|O_CLOEXEC")).Out = slotTmp
	b.call(step+": "+l, unix.SYS_FSETXATTR, program.From(slotTmp), program.Str("security.selinux"), program.Str(l), program.Int(len(l)), program.Int(0))
	b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
}
