package compile

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// mappings reads linux.uidMappings and linux.gidMappings.
func (b *builder) mappings() error {
	l := b.spec.Linux
	if len(l.UIDMappings) == 0 && len(l.GIDMappings) == 0 {
		return nil
	}
	if !b.hasNamespace(specs.UserNamespace) {
		return invalid("linux.uidMappings", "needs a user namespace")
	}
	ids, err := parseMaps("linux", l.UIDMappings, l.GIDMappings)
	if err != nil {
		return err
	}
	b.idmaps = ids
	return b.mapped()
}

// mapped checks that the container's root and its user are somebody.
func (b *builder) mapped() error {
	user := b.proc.User
	for _, id := range []struct {
		field string
		maps  []program.IDMap
		id    uint32
	}{
		{"linux.uidMappings", b.idmaps.UIDs, 0},
		{"linux.gidMappings", b.idmaps.GIDs, 0},
		{"process.user.uid", b.idmaps.UIDs, user.UID},
		{"process.user.gid", b.idmaps.GIDs, user.GID},
	} {
		if _, ok := program.Outside(id.maps, id.id); !ok {
			return invalid(id.field, "%d: not mapped in the user namespace", id.id)
		}
	}
	for _, gid := range user.AdditionalGids {
		if _, ok := program.Outside(b.idmaps.GIDs, gid); !ok {
			return invalid("process.user.additionalGids", "%d: not mapped in the user namespace", gid)
		}
	}
	return nil
}

func parseMaps(field string, uids, gids []specs.LinuxIDMapping) (*program.IDMaps, error) {
	u, err := parseMap(field+".uidMappings", uids)
	if err != nil {
		return nil, err
	}
	g, err := parseMap(field+".gidMappings", gids)
	if err != nil {
		return nil, err
	}
	return &program.IDMaps{UIDs: u, GIDs: g}, nil
}

// maxMaps is what the kernel takes: user_namespaces(7).
const maxMaps = 340

func parseMap(field string, in []specs.LinuxIDMapping) ([]program.IDMap, error) {
	switch {
	case len(in) == 0:
		return nil, invalid(field, "missing")
	case len(in) > maxMaps:
		return nil, invalid(field, "%d lines, at most %d", len(in), maxMaps)
	}
	var out []program.IDMap
	for i, m := range in {
		if m.Size == 0 {
			return nil, invalid(fmt.Sprintf("%s[%d].size", field, i), "0: an empty range")
		}
		for j, other := range in[:i] {
			if overlap(m.ContainerID, m.Size, other.ContainerID, other.Size) || overlap(m.HostID, m.Size, other.HostID, other.Size) {
				return nil, invalid(fmt.Sprintf("%s[%d]", field, i), "overlaps with [%d]", j)
			}
		}
		out = append(out, program.IDMap{Inside: m.ContainerID, Outside: m.HostID, Size: m.Size})
	}
	return out, nil
}

func overlap(a, n, b, m uint32) bool {
	return uint64(a) < uint64(b)+uint64(m) && uint64(b) < uint64(a)+uint64(n)
}

// userNamespace joins one, be it that the shim has just made it, and makes the
// container's other namespaces in it. What only the host's root may do comes
// before: user_namespaces(7).
func (b *builder) userNamespace(i int) error {
	field := fmt.Sprintf("linux.namespaces[%d]", i)
	path := b.spec.Linux.Namespaces[i].Path
	if path == "" && b.idmaps == nil {
		return invalid("linux.uidMappings", "missing: a new user namespace needs them")
	}
	fd := b.addFile(program.FileUserNamespace, path, field+".path")
	if path == "" {
		b.plan.Files[fd-program.FdFiles].Field = "linux.uidMappings"
	}
	b.plan.Files[fd-program.FdFiles].IDs = b.idmaps
	if err := b.hostOnly(); err != nil {
		return err
	}
	if b.fromSeed() {
		b.enterSeed()
	}
	b.join("user", fd, path, unix.CLONE_NEWUSER)
	if b.newFlags&unix.CLONE_NEWPID != 0 || b.joinsPID {
		// Not later, as in enterPID: the instance of proc is made below. What
		// can be seen of the host here is what the user namespace may see.
		b.fork("make the container's namespaces", b.newFlags)
	} else {
		b.call("make the container's namespaces", unix.SYS_UNSHARE, flagsArg(b.newFlags))
	}
	b.becomeRoot()
	return b.earlyMounts()
}

// hostOnly is what takes capabilities of the host: to raise a limit is
// CAP_SYS_RESOURCE, getrlimit(2).
func (b *builder) hostOnly() error {
	if err := b.rlimits(); err != nil {
		return err
	}
	return b.ioPriority()
}

// fork has a child born in new namespaces, and in the pid namespace that was
// joined: one is never in another pid namespace oneself. The shim is its parent,
// too; it learns who it is by its pidfd.
func (b *builder) fork(step string, newFlags uintptr) {
	b.plan.Forks = true
	flags := unix.CLONE_PARENT | newFlags
	zero := program.Int(0)
	// struct clone_args: clone(2). With CLONE_PARENT the signal at its end
	// is that of its parent.
	args := program.Vec("{"+strings.Join(append([]string{"CLONE_PARENT"}, program.NamespaceFlags(newFlags)...), "|")+"}",
		program.Int(flags), zero, zero, zero, zero, zero, zero, zero)
	b.call(step, unix.SYS_CLONE3, args, program.Int(8*8)).Out = slotForkPid
	// There is no pid 0: that is the child.
	child := b.here()
	op := b.call(step, unix.SYS_PIDFD_OPEN, program.From(slotForkPid), program.Int(0))
	op.Out, op.Answers = slotForkFd, []unix.Errno{unix.EINVAL}
	b.preset(slotForkLen, unix.SizeofCmsghdr+4)
	b.preset(slotForkType, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32)
	b.sendFd(step, program.SaysForked, slotForkLen, program.From(slotForkFd))
	b.call(step, unix.SYS_EXIT_GROUP, program.Int(0))
	b.miss(child)
}

// sendFd tells the shim something, together with the descriptor in the control
// message that begins at slot: unix(7).
func (b *builder) sendFd(step string, says byte, slot program.Slot, fd program.Arg) {
	word := program.Str(string(says))
	iov := program.Vec(fmt.Sprintf("{%s, 1}", word), word, program.Int(1))
	msg := program.Vec(fmt.Sprintf("{%s, SCM_RIGHTS=[%s]}", word, fd),
		program.Int(0), program.Int(0), iov, program.Int(1),
		program.Addr(slot), program.Int(unix.SizeofCmsghdr+8), program.Int(0))
	b.call(step, unix.SYS_SENDMSG, gateFd, msg, program.Int(0))
}

// becomeRoot takes the ids of the user namespace's root: until then they are
// those of the host's, which mean nothing in there.
func (b *builder) becomeRoot() {
	const step = "become root of the user namespace"
	zero := program.Int(0)
	b.call(step, unix.SYS_SETGROUPS, zero, null)
	b.call(step, unix.SYS_SETRESGID, zero, zero, zero)
	b.call(step, unix.SYS_SETRESUID, zero, zero, zero)
	b.call("protect the agent", unix.SYS_PRCTL, program.Named(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), zero)
}

// maxEarly is for how many there are slots.
const maxEarly = 16

// earlyMounts makes the instances of proc and sysfs while the host's can still be
// seen: the kernel gives a user namespace none that shows more than what is
// there already (mount_too_revealing, Linux 4.3).
func (b *builder) earlyMounts() error {
	b.early = map[int]program.Slot{}
	for i := range b.spec.Mounts {
		m := &b.spec.Mounts[i]
		if m.Type != "proc" && m.Type != "sysfs" || b.sysfsIsBind(m) {
			continue
		}
		opts, err := parseOptions(fmt.Sprintf("mounts[%d].options", i), m.Options)
		if err != nil {
			return err
		}
		if !opts.bind {
			if len(b.early) == maxEarly {
				return unsupported(fmt.Sprintf("mounts[%d]: more than %d of proc and sysfs in a user namespace", i, maxEarly))
			}
			b.early[i] = b.slot()
			b.fsopen(fmt.Sprintf("mount %s on %s", m.Type, m.Destination), m.Type, m.Source, opts.data, opts.attr.set, b.early[i])
		}
	}
	if len(b.spec.Linux.Sysctl) > 0 {
		b.privateProc()
	}
	return nil
}

// sysfsIsBind tells whether the host's sysfs has to do: one can be made only by
// who owns the network namespace.
func (b *builder) sysfsIsBind(m *specs.Mount) bool {
	return m.Type == "sysfs" && b.hasNamespace(specs.UserNamespace) && !b.hasNamespace(specs.NetworkNamespace)
}

// HostIDs are the ids of a process's user on the host.
func HostIDs(spec *specs.Spec, user specs.User) (uid, gid uint32) {
	uid, gid = user.UID, user.GID
	l := spec.Linux
	if l == nil || len(l.UIDMappings) == 0 {
		return uid, gid
	}
	ids, err := parseMaps("linux", l.UIDMappings, l.GIDMappings)
	if err != nil {
		return uid, gid
	}
	if id, ok := program.Outside(ids.UIDs, uid); ok {
		uid = id
	}
	if id, ok := program.Outside(ids.GIDs, gid); ok {
		gid = id
	}
	return uid, gid
}

// MakeNamespace is the Program of a process that makes a namespace and waits, so
// that the shim can finish it and keep it.
func MakeNamespace(flag uintptr) *program.Plan {
	b := &builder{plan: &program.Plan{}, proc: &specs.Process{}}
	b.begin()
	b.plan.Ops[indexCloseRange].Args[0] = program.Int(program.FdSocket + 1)
	b.call("make a namespace", unix.SYS_UNSHARE, flagsArg(flag))
	b.gate()
	b.call("", unix.SYS_EXIT_GROUP, program.Int(0))
	return b.plan
}
