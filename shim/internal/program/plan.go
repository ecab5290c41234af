package program

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Numbers of the descriptors that the agent is born with. Plan.Files follow.
const (
	FdSocket = 3 // SEQPACKET to the shim: the image, the gate, the report
	FdAgent  = 4 // the agent's own memfd; the first Ops close it
	FdFiles  = 5 // Plan.Files[0]
)

// What the agent says on its socket, a byte each.
const (
	SaysReady  = 'g' // it stands at a gate
	SaysForked = 'p' // it has forked; the child's pidfd comes along
	// A mount point is to be made, that with the number in the next two bytes,
	// the low one first, of Plan.MountPoints.
	SaysMissing = 'm'
)

// ListenerSize is how long the message is that tells the number of the listener
// of a seccomp filter; no other is as long.
const ListenerSize = 4

// Plan is a Program and all that the shim does around it.
type Plan struct {
	Program

	// Cloneflags are the CLONE_NEW* flags of clone3(2).
	Cloneflags uintptr

	// Forks says that the process forks once, to be born in a pid namespace
	// that it has joined, or in namespaces that belong to a user namespace
	// that it has joined: its child is the one to go on with.
	Forks bool

	// Waits says that there is one more gate, before the one at the end: there
	// the shim moves NetDevices, and runs the hooks that belong to the creation.
	Waits bool

	// Files are opened by the shim, in the host's namespaces, and handed
	// over as FdFiles and up.
	Files []File

	// MountPoints are those that the agent may ask for.
	MountPoints []MountPoint

	// Cgroup is what is written to the container's cgroup before the clone.
	Cgroup Resources

	// Scope, where not nil, is the unit of systemd that the cgroup becomes
	// before the gate opens.
	Scope *Scope

	// CgroupOwner is given the container's cgroup: a uid of the host's. Nil
	// leaves it root's.
	CgroupOwner *uint32

	// NetDevices are moved into the container's network namespace at that
	// gate, before the hooks.
	NetDevices []NetDevice

	// Filter is the op that loads the seccomp filter, nil without one: execs
	// in the container load the same.
	Filter *Op

	// OOMScoreAdj is written to /proc/PID/oom_score_adj before the gate
	// opens, nil leaves the shim's own. proc_pid_oom_score_adj(5).
	OOMScoreAdj *int

	// Scheduler is set by the shim before the gate opens, nil leaves the
	// shim's own.
	Scheduler *Scheduler
}

// Scheduler is a scheduling policy with its parameters: sched_setattr(2).
type Scheduler struct {
	Name string // of the policy
	Attr unix.SchedAttr
}

// MountPoint is a path in the container, and what it is for: a directory, or what
// File, of Plan.Files, turns out to be. File is -1 for none.
type MountPoint struct {
	Path string
	File int
}

// NetDevice is a network device of the host, and its name in the container.
type NetDevice struct{ Name, NewName string }

// FileKind tells how the shim comes by a File.
type FileKind uint8

const (
	// FileRootfs is the detached mount of the container's root.
	FileRootfs FileKind = iota
	// FileBind is a detached clone of the tree at Path: open_tree(2) with
	// OPEN_TREE_CLONE.
	FileBind
	// FileRecursiveBind is the same with AT_RECURSIVE.
	FileRecursiveBind
	// FileCopiedTmpfs is a tmpfs with Options and Attr, filled with a copy of
	// what the root has at Path.
	FileCopiedTmpfs
	// FileDevice is a FileBind of a device, verified to be that of Mode and
	// Rdev: S_IFCHR and 1:3 for /dev/null.
	FileDevice
	// FileNamespace is the namespace at Path, opened to be joined.
	FileNamespace
	// FileUserNamespace is one with the mapping IDs: that at Path, or without
	// a path a new one.
	FileUserNamespace
	// FileTimeNamespace is a new one with the offsets in Text.
	FileTimeNamespace
	// FileSeed is a mount namespace to be copied: an almost empty one.
	FileSeed
	// FileInit is the pidfd of the container's init, for an exec.
	FileInit
)

// File is a descriptor that the shim hands to the agent.
type File struct {
	Kind FileKind
	Path string
	// Mode is the type of a device, as in st_mode, Rdev its number.
	Mode uint32
	Rdev uint64
	// Options are those of a new file system, Attr are the attributes of its
	// mount: fsmount(2).
	Options []string
	Attr    uint64
	// IDs is how a bind is id-mapped, or the mapping of a new user
	// namespace. Nil for none.
	IDs *IDMaps
	// Text is what /proc/PID/timens_offsets gets: time_namespaces(7).
	Text string
	// MapAll id-maps the mounts below, too.
	MapAll bool
	// Field is what the spec calls it: "mounts[3].source".
	Field string
}

// Resources are the limits of a cgroup v2 directory.
type Resources struct {
	Writes []Write

	// Devices is the device allow-list, in the order of the spec: the last
	// rule that matches wins. Nil means no filter at all.
	Devices []specs.LinuxDeviceCgroup
}

// Write is one file of a cgroup and its new content.
type Write struct {
	// Controller is "" for the files that every cgroup has.
	Controller string
	File       string // "memory.max"
	Value      string
	// Field is what the spec calls it: "linux.resources.memory.limit".
	Field string
	// Default says that Value is what every new cgroup has: where the
	// controller is missing there is nothing to limit.
	Default bool
	// Optional says that a kernel without the File has nothing to limit.
	Optional bool
	// Or says that File is another place for what the write before sets: one
	// of the two must be there, and be for the device that is meant.
	Or bool
	// AtLeast, where not empty, is the file that tells what is in use: a
	// Value below that is refused. linux.resources.memory.checkBeforeUpdate.
	AtLeast string
}

// Scope is a transient unit of systemd's around a process: systemd.scope(5).
type Scope struct {
	Unit       string // "cri-containerd-ID.scope"
	Slice      string // "kubepods-besteffort.slice"
	Properties []Property
}

// Property of a unit. Either Value is set, to a string, bool, uint64 or []byte,
// or Text, which is GVariant's text format.
type Property struct {
	Name  string
	Value any
	Text  string
	// Field is what the spec calls it, "" for what every container has.
	Field string
}

// String prints the Plan: what the shim does first, then the Program.
func (p *Plan) String() string {
	var b strings.Builder
	for _, w := range p.Cgroup.Writes {
		fmt.Fprintf(&b, "cgroup  %s = %s  # %s\n", w.File, w.Value, w.Field)
	}
	for _, d := range p.Cgroup.Devices {
		fmt.Fprintf(&b, "device  %s\n", deviceText(d))
	}
	if p.Scope != nil {
		fmt.Fprintf(&b, "systemd %s in %s\n", p.Scope.Unit, p.Scope.Slice)
		for _, q := range p.Scope.Properties {
			fmt.Fprintf(&b, "systemd %s\n", q)
		}
	}
	if p.CgroupOwner != nil {
		fmt.Fprintf(&b, "cgroup  owner = %d\n", *p.CgroupOwner)
	}
	for i, f := range p.Files {
		fmt.Fprintf(&b, "file    %d = %s  # %s\n", FdFiles+i, f, f.Field)
	}
	for _, d := range p.NetDevices {
		fmt.Fprintf(&b, "netdev  %s -> %s\n", d.Name, d.NewName)
	}
	if p.OOMScoreAdj != nil {
		fmt.Fprintf(&b, "oom     oom_score_adj = %d\n", *p.OOMScoreAdj)
	}
	if s := p.Scheduler; s != nil {
		fmt.Fprintf(&b, "sched   %s flags=%#x nice=%d priority=%d runtime=%d deadline=%d period=%d\n",
			s.Name, s.Attr.Flags, s.Attr.Nice, s.Attr.Priority, s.Attr.Runtime, s.Attr.Deadline, s.Attr.Period)
	}
	fmt.Fprintf(&b, "clone   %s\n", cloneText(p.Cloneflags))
	b.WriteString(p.Program.String())
	return b.String()
}

func (q Property) String() string {
	text := q.Text
	if q.Value != nil {
		text = fmt.Sprint(q.Value)
	}
	if q.Field != "" {
		text += "  # " + q.Field
	}
	return q.Name + " = " + text
}

func (f File) String() string {
	switch f.Kind {
	case FileRootfs:
		return "root " + f.Path
	case FileBind, FileDevice:
		return "open_tree " + f.Path + f.mapText()
	case FileRecursiveBind:
		return "open_tree AT_RECURSIVE " + f.Path + f.mapText()
	case FileCopiedTmpfs:
		return fmt.Sprintf("tmpfs {%s}, attr=%#x, copy of %s in the root", strings.Join(f.Options, ","), f.Attr, f.Path)
	case FileUserNamespace:
		if f.Path == "" {
			return "user namespace " + f.IDs.String()
		}
		return "open " + f.Path
	case FileTimeNamespace:
		return strings.TrimSpace("time namespace " + strings.ReplaceAll(strings.TrimSpace(f.Text), "\n", ", "))
	case FileNamespace:
		return "open " + f.Path
	case FileSeed:
		return "the seed, a mount namespace"
	default:
		return "pidfd of the container"
	}
}

func (f File) mapText() string {
	switch {
	case f.IDs == nil:
		return ""
	case f.MapAll:
		return ", MOUNT_ATTR_IDMAP AT_RECURSIVE " + f.IDs.String()
	default:
		return ", MOUNT_ATTR_IDMAP " + f.IDs.String()
	}
}

func cloneText(flags uintptr) string {
	return strings.Join(append([]string{"CLONE_INTO_CGROUP"}, NamespaceFlags(flags)...), "|")
}

// NamespaceFlags are the names of CLONE_NEW* flags.
func NamespaceFlags(flags uintptr) []string {
	var names []string
	for _, n := range []struct {
		flag uintptr
		name string
	}{
		{unix.CLONE_NEWNS, "CLONE_NEWNS"}, {unix.CLONE_NEWCGROUP, "CLONE_NEWCGROUP"},
		{unix.CLONE_NEWUTS, "CLONE_NEWUTS"}, {unix.CLONE_NEWIPC, "CLONE_NEWIPC"},
		{unix.CLONE_NEWPID, "CLONE_NEWPID"}, {unix.CLONE_NEWNET, "CLONE_NEWNET"},
		{unix.CLONE_NEWUSER, "CLONE_NEWUSER"}, {unix.CLONE_NEWTIME, "CLONE_NEWTIME"},
	} {
		if flags&n.flag != 0 {
			names = append(names, n.name)
		}
	}
	return names
}

func deviceText(d specs.LinuxDeviceCgroup) string {
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	verdict, kind := "deny", d.Type
	if d.Allow {
		verdict = "allow"
	}
	if kind == "" {
		kind = "a"
	}
	return fmt.Sprintf("%s %s %s:%s %s", verdict, kind, number(d.Major), number(d.Minor), d.Access)
}
