package program

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// String prints the Program, one line a step.
func (p *Program) String() string {
	var b strings.Builder
	for i := range p.Ops {
		fmt.Fprintf(&b, "%3d  %s\n", i, p.Ops[i].line(i))
	}
	return b.String()
}

// String prints the call alone.
func (o *Op) String() string {
	args := make([]string, len(o.Args))
	for i, a := range o.Args {
		args[i] = a.String()
	}
	list := strings.Join(args, ", ")
	if o.Nr == Let {
		if len(o.Args) == 0 {
			return "jump"
		}
		return list
	}
	return callName(o.Nr) + "(" + list + ")"
}

// line adds to the call what becomes of its result.
func (o *Op) line(i int) string {
	var b strings.Builder
	if o.Out != 0 {
		b.WriteString(slotName(o.Out) + " = ")
	}
	b.WriteString(o.String())
	if o.EOF {
		b.WriteString("  [0: exit]")
	}
	if o.Then > 0 {
		fmt.Fprintf(&b, "  [ok: goto %d]", i+1+o.Then)
	}
	if len(o.Answers) > 0 {
		names := make([]string, len(o.Answers))
		for j, e := range o.Answers {
			names[j] = unix.ErrnoName(e)
		}
		fmt.Fprintf(&b, "  [%s: goto %d]", strings.Join(names, "|"), i+1+o.Else)
	}
	if o.Step != "" {
		b.WriteString("  # " + o.Step)
	}
	return b.String()
}

// callName knows the calls that the compiler uses.
func callName(nr int) string {
	if s, ok := callNames[nr]; ok {
		return s
	}
	return "syscall_" + strconv.Itoa(nr)
}

var callNames = map[int]string{
	unix.SYS_FCHMODAT:          "fchmodat",
	unix.SYS_STATX:             "statx",
	unix.SYS_FSETXATTR:         "fsetxattr",
	unix.SYS_CAPSET:            "capset",
	unix.SYS_CHDIR:             "chdir",
	unix.SYS_CLONE3:            "clone3",
	unix.SYS_CLOSE:             "close",
	unix.SYS_CLOSE_RANGE:       "close_range",
	unix.SYS_DUP3:              "dup3",
	unix.SYS_EXECVE:            "execve",
	unix.SYS_EXIT_GROUP:        "exit_group",
	unix.SYS_FACCESSAT2:        "faccessat2",
	unix.SYS_FCHDIR:            "fchdir",
	unix.SYS_FCHOWNAT:          "fchownat",
	unix.SYS_FSCONFIG:          "fsconfig",
	unix.SYS_FSMOUNT:           "fsmount",
	unix.SYS_FSOPEN:            "fsopen",
	unix.SYS_IOCTL:             "ioctl",
	unix.SYS_IOPRIO_SET:        "ioprio_set",
	unix.SYS_KEYCTL:            "keyctl",
	unix.SYS_MKDIRAT:           "mkdirat",
	unix.SYS_MKNODAT:           "mknodat",
	unix.SYS_MOUNT:             "mount",
	unix.SYS_MOUNT_SETATTR:     "mount_setattr",
	unix.SYS_MOVE_MOUNT:        "move_mount",
	unix.SYS_OPENAT:            "openat",
	unix.SYS_OPENAT2:           "openat2",
	unix.SYS_OPEN_TREE:         "open_tree",
	unix.SYS_PERSONALITY:       "personality",
	unix.SYS_PIDFD_OPEN:        "pidfd_open",
	unix.SYS_PIVOT_ROOT:        "pivot_root",
	unix.SYS_PRCTL:             "prctl",
	unix.SYS_PRLIMIT64:         "prlimit64",
	unix.SYS_READ:              "read",
	unix.SYS_SCHED_SETAFFINITY: "sched_setaffinity",
	unix.SYS_SECCOMP:           "seccomp",
	unix.SYS_SENDMSG:           "sendmsg",
	unix.SYS_SETDOMAINNAME:     "setdomainname",
	unix.SYS_SETGROUPS:         "setgroups",
	unix.SYS_SETHOSTNAME:       "sethostname",
	unix.SYS_SET_MEMPOLICY:     "set_mempolicy",
	unix.SYS_SETNS:             "setns",
	unix.SYS_SETRESGID:         "setresgid",
	unix.SYS_SETRESUID:         "setresuid",
	unix.SYS_SETSID:            "setsid",
	unix.SYS_SYMLINKAT:         "symlinkat",
	unix.SYS_UMASK:             "umask",
	unix.SYS_UMOUNT2:           "umount2",
	unix.SYS_UNSHARE:           "unshare",
	unix.SYS_WRITE:             "write",
	unix.SYS_SOCKET:            "socket",
}
