package compile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// namespaceFlags are the namespaces that mini makes or joins: namespaces(7).
var namespaceFlags = map[specs.LinuxNamespaceType]uintptr{
	specs.PIDNamespace:     unix.CLONE_NEWPID,
	specs.MountNamespace:   unix.CLONE_NEWNS,
	specs.UTSNamespace:     unix.CLONE_NEWUTS,
	specs.IPCNamespace:     unix.CLONE_NEWIPC,
	specs.NetworkNamespace: unix.CLONE_NEWNET,
	specs.CgroupNamespace:  unix.CLONE_NEWCGROUP,
	specs.UserNamespace:    unix.CLONE_NEWUSER,
	specs.TimeNamespace:    unix.CLONE_NEWTIME,
}

func flagsArg(flags uintptr) program.Arg {
	return program.Named(flags, strings.Join(program.NamespaceFlags(flags), "|"))
}

// Namespaces are the types that a spec may have, for the features that mini
// announces.
func Namespaces() []string {
	var names []string
	for t := range namespaceFlags {
		names = append(names, string(t))
	}
	slices.Sort(names)
	return names
}

// namespaces makes new ones a flag of the clone and joins the others. Those that
// are joined may belong to the host: so they come before the user namespace, which
// takes the right to do it, and which those that are made belong to.
func (b *builder) namespaces() error {
	seen := map[specs.LinuxNamespaceType]bool{}
	user := -1
	for i, ns := range b.spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		flag, ok := namespaceFlags[ns.Type]
		switch {
		case !ok:
			return invalid(field+".type", "%q: unknown", ns.Type)
		case seen[ns.Type]:
			return invalid(field, "%s: given twice", ns.Type)
		}
		seen[ns.Type] = true
		switch {
		case ns.Type == specs.UserNamespace:
			user = i
		case ns.Type == specs.TimeNamespace:
			if err := b.timeNamespace(field, ns.Path); err != nil {
				return err
			}
		case ns.Path == "":
			b.newFlags |= flag
		case ns.Type == specs.MountNamespace:
			// Its processes would find their root pivoted away.
			return unsupported(field + ".path: an existing mount namespace")
		case ns.Type == specs.PIDNamespace:
			b.joinsPID = true
			fallthrough
		default:
			b.join(string(ns.Type), b.addFile(program.FileNamespace, ns.Path, field+".path"), ns.Path, flag)
		}
	}
	switch {
	case !seen[specs.MountNamespace]:
		return unsupported("linux.namespaces: a container without a mount namespace")
	case len(b.spec.Linux.TimeOffsets) > 0 && !seen[specs.TimeNamespace]:
		return invalid("linux.timeOffsets", "needs a time namespace")
	case user >= 0:
		return b.userNamespace(user)
	}
	b.plan.Cloneflags = b.newFlags
	if b.fromSeed() {
		b.plan.Cloneflags &^= unix.CLONE_NEWNS
		b.enterSeed()
		b.call("copy it", unix.SYS_UNSHARE, flagsArg(unix.CLONE_NEWNS))
	}
	if b.joinsPID && b.plan.Waits {
		// Hooks want to see the process that it will be.
		b.enterPID()
	}
	return nil
}

// fromSeed tells whether the mount namespace is a copy of the seed. Hooks want
// one of the host's.
func (b *builder) fromSeed() bool { return b.opt.Seed && !b.shown }

// enterSeed joins the mount namespace to copy. The agent can: it has but one
// thread, and shares its root with nobody. setns(2).
func (b *builder) enterSeed() {
	b.call("enter the seed", unix.SYS_SETNS, program.Int(b.addFile(program.FileSeed, "", "linux.namespaces")), flagsArg(unix.CLONE_NEWNS))
}

// enterPID has a child born in the pid namespace that was joined: setns(2) moves
// only children there. Its other processes see it, and one with CAP_SYS_PTRACE is
// let into its root and its memory. So an exec does this when it is no more than
// they are, but for its filter; and a container that is made, which needs an
// instance of proc from in there, when nothing of the host can be seen any more
// (CVE-2016-9962).
func (b *builder) enterPID() {
	if b.joinsPID && !b.plan.Forks {
		b.fork("enter the pid namespace", 0)
	}
}

// enterSharedPID does so after the root of the host has gone.
func (b *builder) enterSharedPID() error {
	b.enterPID()
	return nil
}

func (b *builder) join(kind string, fd int, path string, flag uintptr) {
	b.call(strings.TrimSpace(fmt.Sprintf("join %s namespace %s", kind, path)), unix.SYS_SETNS, program.Int(fd), flagsArg(flag))
}

// timeNamespace joins one. A new one is made by the shim, as its offsets must be
// written before a process is in it: time_namespaces(7).
func (b *builder) timeNamespace(field, path string) error {
	if path != "" {
		if len(b.spec.Linux.TimeOffsets) > 0 {
			return invalid("linux.timeOffsets", "the time namespace %s has its own", path)
		}
		b.join("time", b.addFile(program.FileNamespace, path, field+".path"), path, unix.CLONE_NEWTIME)
		return nil
	}
	var offsets strings.Builder
	for _, clock := range slices.Sorted(maps.Keys(b.spec.Linux.TimeOffsets)) {
		if clock != "monotonic" && clock != "boottime" {
			return invalid("linux.timeOffsets", "%q: unknown clock", clock)
		}
		o := b.spec.Linux.TimeOffsets[clock]
		fmt.Fprintf(&offsets, "%s %d %d\n", clock, o.Secs, o.Nanosecs)
	}
	fd := b.addFile(program.FileTimeNamespace, "", "linux.timeOffsets")
	b.plan.Files[fd-program.FdFiles].Text = offsets.String()
	b.join("time", fd, "", unix.CLONE_NEWTIME)
	return nil
}

// hasNamespace tells whether the container has a namespace of its own, or of
// another container: not the host's.
func (b *builder) hasNamespace(t specs.LinuxNamespaceType) bool {
	for _, ns := range b.spec.Linux.Namespaces {
		if ns.Type == t {
			return true
		}
	}
	return false
}

// newNamespace tells whether the clone makes one.
func (b *builder) newNamespace(t specs.LinuxNamespaceType) bool {
	return b.newFlags&namespaceFlags[t] != 0
}

// joinContainer enters the namespaces of the container by its init's pidfd, in
// one call: setns(2), Linux 5.8. Into the pid namespace one can only be born.
func (b *builder) joinContainer() error {
	var flags uintptr
	for _, ns := range b.spec.Linux.Namespaces {
		flags |= namespaceFlags[ns.Type]
	}
	b.joinsPID = flags&unix.CLONE_NEWPID != 0
	if b.hasNamespace(specs.UserNamespace) {
		if err := b.hostOnly(); err != nil {
			return err
		}
	}
	b.call("join the container's namespaces", unix.SYS_SETNS, program.Int(program.FdFiles), flagsArg(flags))
	if b.hasNamespace(specs.UserNamespace) {
		b.becomeRoot()
	}
	return nil
}

func (b *builder) hostname() error {
	if name := b.spec.Hostname; name != "" {
		if !b.hasNamespace(specs.UTSNamespace) {
			return invalid("hostname", "needs a uts namespace")
		}
		b.call("set hostname "+name, unix.SYS_SETHOSTNAME, program.Str(name), program.Int(len(name)))
	}
	if name := b.spec.Domainname; name != "" {
		if !b.hasNamespace(specs.UTSNamespace) {
			return invalid("domainname", "needs a uts namespace")
		}
		b.call("set domainname "+name, unix.SYS_SETDOMAINNAME, program.Str(name), program.Int(len(name)))
	}
	return nil
}

// loopback brings lo up in a new network namespace, as every runtime does:
// netdevice(7). A joined one belongs to whoever made it.
func (b *builder) loopback() error {
	if !b.newNamespace(specs.NetworkNamespace) {
		return nil
	}
	const step = "bring up lo"
	b.call(step, unix.SYS_SOCKET, program.Named(unix.AF_INET, "AF_INET"),
		program.Named(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, "SOCK_DGRAM|SOCK_CLOEXEC"), program.Int(0)).Out = slotTmp
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	ifreq[unix.IFNAMSIZ] = unix.IFF_UP | unix.IFF_RUNNING
	b.call(step, unix.SYS_IOCTL, program.From(slotTmp), program.Named(unix.SIOCSIFFLAGS, "SIOCSIFFLAGS"),
		program.Bytes(ifreq, "{lo, IFF_UP|IFF_RUNNING}"))
	b.call(step, unix.SYS_CLOSE, program.From(slotTmp))
	return nil
}
