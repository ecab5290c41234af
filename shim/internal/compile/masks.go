package compile

import (
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// masks hides and write-protects paths: runtime-spec
// config-linux.md#masked-paths and #readonly-paths. What does not exist needs
// no mask.
func (b *builder) masks() error {
	l := b.spec.Linux
	for _, p := range l.MaskedPaths {
		if !path.IsAbs(p) {
			return invalid("linux.maskedPaths", "%q: not an absolute path", p)
		}
	}
	for _, p := range l.ReadonlyPaths {
		if !path.IsAbs(p) {
			return invalid("linux.readonlyPaths", "%q: not an absolute path", p)
		}
		b.readonly(p)
	}
	if len(l.MaskedPaths) > 0 {
		b.mask(l.MaskedPaths)
	}
	return nil
}

func (b *builder) readonly(p string) {
	step := "make " + p + " read-only"
	missing := b.here()
	b.open(step, p, howPath, slotDest).Answers = []unix.Errno{unix.ENOENT}
	b.call(step, unix.SYS_OPEN_TREE, program.From(slotDest), emptyPath,
		program.Named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
			"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH|AT_RECURSIVE")).Out = slotTmp
	b.setattr(step, program.From(slotTmp), mountAttr{set: unix.MOUNT_ATTR_RDONLY}, true)
	b.attach(step, program.From(slotTmp))
	b.miss(missing)
}

// mask covers directories with one empty read-only tmpfs, and files with the
// host's /dev/null, which the shim opened and found to be char 1:3: never with
// a /dev/null that the container could have replaced (CVE-2025-31133).
func (b *builder) mask(paths []string) {
	const step = "make an empty directory for masked paths"
	b.fsopen(step, "tmpfs", "", []string{"mode=0555", "nr_inodes=1", "size=0"},
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, slotMask)
	devNull := program.Int(b.addDevice("/dev/null", unix.S_IFCHR, unix.Mkdev(1, 3), "linux.maskedPaths"))
	for _, p := range paths {
		step := "mask " + p
		// Is it a directory? A bind mount that fails would wait for an
		// RCU grace period, so ask first.
		missing := b.here()
		b.open(step, p, howPath, slotDest).Answers = []unix.Errno{unix.ENOENT}
		isFile := b.here()
		b.call(step, unix.SYS_OPENAT, program.From(slotDest), program.Str("."), oPath).Answers = []unix.Errno{unix.ENOTDIR}
		b.cover(step, program.From(slotMask))
		done := b.jump()
		b.miss(isFile)
		b.cover(step, devNull)
		b.hop(done)
		b.miss(missing)
	}
}

// cover attaches a clone of fd to slotDest. The first time fd is not attached
// anywhere, which before Linux 6.15 cannot be cloned (EINVAL): then fd itself
// goes there.
func (b *builder) cover(step string, fd program.Arg) {
	detached := b.here()
	op := b.call(step, unix.SYS_OPEN_TREE, fd, emptyPath,
		program.Named(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH,
			"OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_EMPTY_PATH"))
	op.Out, op.Answers = slotTmp, []unix.Errno{unix.EINVAL}
	b.attach(step, program.From(slotTmp))
	done := b.jump()
	b.miss(detached)
	b.attach(step, fd)
	b.hop(done)
}

// sysctl writes linux.sysctl, those only that belong to a namespace of the
// container, through a procfs that no one else can see: CVE-2025-52881.
func (b *builder) sysctl() error {
	if len(b.spec.Linux.Sysctl) == 0 {
		return nil
	}
	for name := range b.spec.Linux.Sysctl {
		if err := b.checkSysctl(name); err != nil {
			return err
		}
	}
	if b.early == nil {
		b.privateProc()
	}
	how := openHow(unix.O_WRONLY|unix.O_CLOEXEC, 0,
		unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_XDEV,
		"{O_WRONLY|O_CLOEXEC, RESOLVE_BENEATH|NO_SYMLINKS|NO_XDEV}")
	for _, name := range slices.Sorted(maps.Keys(b.spec.Linux.Sysctl)) {
		value := b.spec.Linux.Sysctl[name]
		step := "set sysctl " + name
		b.call(step, unix.SYS_OPENAT2, program.From(slotProc), program.Str("sys/"+sysctlPath(name)), how,
			program.Int(sizeofOpenHow)).Out = slotTmp
		b.call(step, unix.SYS_WRITE, program.From(slotTmp), program.Str(value), program.Int(len(value)))
		b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
	}
	return nil
}

// privateProc leaves a procfs that no one else can see in slotProc.
func (b *builder) privateProc() {
	b.fsopen("open a private /proc", "proc", "", nil, 0, slotProc)
}

// sysctlPath follows sysctl(8): the separator is the first of "." and "/", and
// the other stands for itself.
func sysctlPath(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		return strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return name
}

// ipcSysctls belong to an ipc namespace: ipc_namespaces(7).
var ipcSysctls = []string{
	"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
	"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced",
}

func (b *builder) checkSysctl(name string) error {
	field := "linux.sysctl[" + name + "]"
	p := path.Clean(sysctlPath(name))
	switch {
	case p != sysctlPath(name):
		return invalid(field, "not a sysctl")
	case strings.HasPrefix(p, "net/"):
		if b.hasNamespace(specs.NetworkNamespace) {
			return nil
		}
		return invalid(field, "needs a network namespace")
	case slices.Contains(ipcSysctls, p), strings.HasPrefix(p, "fs/mqueue/"):
		if b.hasNamespace(specs.IPCNamespace) {
			return nil
		}
		return invalid(field, "needs an ipc namespace")
	case strings.HasPrefix(p, "user/"):
		if b.hasNamespace(specs.UserNamespace) {
			return nil
		}
		return invalid(field, "needs a user namespace")
	case p == "kernel/hostname", p == "kernel/domainname":
		if b.hasNamespace(specs.UTSNamespace) {
			return nil
		}
		return invalid(field, "needs a uts namespace")
	}
	return invalid(field, "not namespaced: it would change the host")
}
