package container

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// SELinux tells whether the kernel has SELinux, and it is switched on: only then
// there is a file system of its own, which libselinux, too, looks for at this place.
func SELinux() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && st.Type == unix.SELINUX_MAGIC
}

// labelled tells so of a spec or of an exec with a label. Most have none: nobody
// asks the kernel for them.
func labelled(spec *specs.Spec, proc *specs.Process) bool {
	has := proc != nil && proc.SelinuxLabel != ""
	has = has || spec.Process != nil && spec.Process.SelinuxLabel != ""
	has = has || spec.Linux != nil && spec.Linux.MountLabel != ""
	return has && SELinux()
}
