package compile

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// namespaceFlags are the namespaces that mini makes or joins: namespaces(7).
var namespaceFlags = map[specs.LinuxNamespaceType]struct {
	flag uintptr
	name string
}{
	specs.PIDNamespace:     {unix.CLONE_NEWPID, "CLONE_NEWPID"},
	specs.MountNamespace:   {unix.CLONE_NEWNS, "CLONE_NEWNS"},
	specs.UTSNamespace:     {unix.CLONE_NEWUTS, "CLONE_NEWUTS"},
	specs.IPCNamespace:     {unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
	specs.NetworkNamespace: {unix.CLONE_NEWNET, "CLONE_NEWNET"},
	specs.CgroupNamespace:  {unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
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

// namespaces makes new ones a flag of the clone and joins the others.
func (b *builder) namespaces() error {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range b.spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		known, ok := namespaceFlags[ns.Type]
		switch {
		case ns.Type == specs.UserNamespace, ns.Type == specs.TimeNamespace:
			return unsupported(field + ": " + string(ns.Type))
		case !ok:
			return invalid(field+".type", "%q: unknown", ns.Type)
		case seen[ns.Type]:
			return invalid(field, "%s: given twice", ns.Type)
		}
		seen[ns.Type] = true
		switch {
		case ns.Path == "":
			b.plan.Cloneflags |= known.flag
		case ns.Type == specs.MountNamespace:
			// Its processes would find their root pivoted away.
			return unsupported(field + ".path: an existing mount namespace")
		case ns.Type == specs.PIDNamespace:
			b.plan.PIDNamespace = ns.Path
		default:
			fd := b.addFile(program.FileNamespace, ns.Path, field+".path")
			b.call(fmt.Sprintf("join %s namespace %s", ns.Type, ns.Path), unix.SYS_SETNS,
				program.Int(fd), program.Named(known.flag, known.name))
		}
	}
	if !seen[specs.MountNamespace] {
		return unsupported("linux.namespaces: a container without a mount namespace")
	}
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
	return b.plan.Cloneflags&namespaceFlags[t].flag != 0
}

// joinContainer enters the namespaces of the container by its init's pidfd, in
// one call: setns(2), Linux 5.8. The pid namespace is the shim's part: a
// process can only be born into one.
func (b *builder) joinContainer() error {
	var flags uintptr
	text := ""
	for _, ns := range b.spec.Linux.Namespaces {
		known, ok := namespaceFlags[ns.Type]
		if !ok || ns.Type == specs.PIDNamespace {
			continue
		}
		flags |= known.flag
		if text != "" {
			text += "|"
		}
		text += known.name
	}
	b.call("join the container's namespaces", unix.SYS_SETNS, program.Int(program.FdFiles), program.Named(flags, text))
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
