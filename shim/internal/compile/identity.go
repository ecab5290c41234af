package compile

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// capNames are capabilities(7), by number.
var capNames = [...]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
	"SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
	"IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
	"SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
	"LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// Capabilities are the names that process.capabilities may have, for the
// features that mini announces.
func Capabilities() []string {
	names := make([]string, len(capNames))
	for i, n := range capNames {
		names[i] = "CAP_" + n
	}
	return names
}

// capSets is process.capabilities as bit masks.
type capSets struct {
	bounding, effective, inheritable, permitted, ambient uint64
}

func parseCaps(c *specs.LinuxCapabilities) (capSets, error) {
	var s capSets
	if c == nil {
		return s, nil
	}
	for _, set := range []struct {
		name string
		from []string
		to   *uint64
	}{
		{"bounding", c.Bounding, &s.bounding},
		{"effective", c.Effective, &s.effective},
		{"inheritable", c.Inheritable, &s.inheritable},
		{"permitted", c.Permitted, &s.permitted},
		{"ambient", c.Ambient, &s.ambient},
	} {
		for _, name := range set.from {
			n := capNumber(name)
			if n < 0 {
				return s, invalid("process.capabilities."+set.name, "%q: unknown", name)
			}
			*set.to |= 1 << n
		}
	}
	return s, nil
}

func capNumber(name string) int {
	short, ok := strings.CutPrefix(name, "CAP_")
	if !ok {
		return -1
	}
	for i, n := range capNames {
		if n == short {
			return i
		}
	}
	return -1
}

// identity becomes process.user with process.capabilities. Where a filter is
// to be loaded without no_new_privs, which takes CAP_SYS_ADMIN (seccomp(2)),
// that one capability stays until after the gate: the ops that take it away are
// returned.
func (b *builder) identity(filtered bool) ([]program.Op, error) {
	caps, err := parseCaps(b.proc.Capabilities)
	if err != nil {
		return nil, err
	}
	for n := range capNames {
		if caps.bounding&(1<<n) == 0 {
			// EINVAL: a capability that this kernel does not have.
			b.call("drop CAP_"+capNames[n]+" from the bounding set", unix.SYS_PRCTL,
				program.Named(unix.PR_CAPBSET_DROP, "PR_CAPBSET_DROP"), program.Named(n, "CAP_"+capNames[n])).
				Answers = []unix.Errno{unix.EINVAL}
		}
	}
	if err := b.ids(); err != nil {
		return nil, err
	}
	late := filtered && !b.proc.NoNewPrivileges
	now := caps
	if late {
		const admin = 1 << unix.CAP_SYS_ADMIN
		now.permitted |= admin
		now.effective |= admin
	}
	b.add(capset(now))
	for n := range capNames {
		if caps.ambient&(1<<n) != 0 {
			b.call("raise CAP_"+capNames[n]+" in the ambient set", unix.SYS_PRCTL,
				program.Named(unix.PR_CAP_AMBIENT, "PR_CAP_AMBIENT"), program.Named(unix.PR_CAP_AMBIENT_RAISE, "PR_CAP_AMBIENT_RAISE"),
				program.Named(n, "CAP_"+capNames[n]), program.Int(0), program.Int(0))
		}
	}
	if b.proc.NoNewPrivileges {
		b.call("set no_new_privs", unix.SYS_PRCTL, program.Named(unix.PR_SET_NO_NEW_PRIVS, "PR_SET_NO_NEW_PRIVS"),
			program.Int(1), program.Int(0), program.Int(0), program.Int(0))
	}
	if late {
		return []program.Op{capset(caps)}, nil
	}
	return nil, nil
}

// noID is (uid_t)-1, which means "leave it as it is": setresuid(2). A process
// that is to have it would be root.
const noID = ^uint32(0)

// ids sets the groups, then the user: in this order, as the last one takes the
// right to do the first. credentials(7).
func (b *builder) ids() error {
	u := b.proc.User
	for _, id := range []struct {
		field string
		value uint32
	}{{"uid", u.UID}, {"gid", u.GID}} {
		if id.value == noID {
			return invalid("process.user."+id.field, "%d: not an id", id.value)
		}
	}
	umask := uint32(0o022)
	if u.Umask != nil {
		umask = *u.Umask
	}
	if umask > 0o777 {
		return invalid("process.user.umask", "%#o: above 0777", umask)
	}
	groups := []byte{}
	for _, g := range u.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	b.call("set groups", unix.SYS_SETGROUPS, program.Int(len(u.AdditionalGids)),
		program.Bytes(append(groups, 0, 0, 0, 0), fmt.Sprint(u.AdditionalGids)))
	b.call(fmt.Sprintf("set gid %d", u.GID), unix.SYS_SETRESGID, program.Int(u.GID), program.Int(u.GID), program.Int(u.GID))
	if u.UID != 0 {
		// Leaving uid 0 would empty the permitted set: capabilities(7).
		b.call("keep capabilities", unix.SYS_PRCTL, program.Named(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), program.Int(1))
	}
	b.call(fmt.Sprintf("set uid %d", u.UID), unix.SYS_SETRESUID, program.Int(u.UID), program.Int(u.UID), program.Int(u.UID))
	if u.UID != 0 {
		b.call("keep capabilities", unix.SYS_PRCTL, program.Named(unix.PR_SET_KEEPCAPS, "PR_SET_KEEPCAPS"), program.Int(0))
		// A change of ids makes a process what fs.suid_dumpable says.
		b.call("protect the agent", unix.SYS_PRCTL, program.Named(unix.PR_SET_DUMPABLE, "PR_SET_DUMPABLE"), program.Int(0))
	}
	b.call("", unix.SYS_UMASK, program.Named(umask, fmt.Sprintf("%#o", umask)))
	return nil
}

// capset sets the three sets of a thread: capset(2), version 3.
func capset(c capSets) program.Op {
	header := binary.LittleEndian.AppendUint32(nil, unix.LINUX_CAPABILITY_VERSION_3)
	header = binary.LittleEndian.AppendUint32(header, 0)
	var data []byte
	for half := range 2 {
		for _, set := range []uint64{c.effective, c.permitted, c.inheritable} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>(32*half)))
		}
	}
	return program.Op{
		Nr: unix.SYS_CAPSET,
		Args: []program.Arg{
			program.Bytes(header, "{_LINUX_CAPABILITY_VERSION_3, 0}"),
			program.Bytes(data, fmt.Sprintf("{effective=%s, permitted=%s, inheritable=%s}",
				capText(c.effective), capText(c.permitted), capText(c.inheritable))),
		},
		Step: "set capabilities",
	}
}

func capText(set uint64) string {
	if set == 0 {
		return "0"
	}
	names := make([]string, 0, bits.OnesCount64(set))
	for n := range capNames {
		if set&(1<<n) != 0 {
			names = append(names, capNames[n])
		}
	}
	return strings.Join(names, "|")
}
