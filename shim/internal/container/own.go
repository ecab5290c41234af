package container

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// delegateList has the files of a cgroup that its owner gets, as far as the kernel
// knows them; delegated are the three that there always are: cgroups(7), "Cgroups
// delegation: delegating a hierarchy to a less privileged user".
const delegateList = "/sys/kernel/cgroup/delegate"

var delegated = []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}

// ownCgroup gives a cgroup to somebody, who may make others below it.
func ownCgroup(dir, uid int) error {
	if err := unix.Fchownat(dir, "", uid, -1, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "chown", Path: "cgroup", Err: err}
	}
	files := delegated
	if data, err := os.ReadFile(delegateList); err == nil {
		files = strings.Fields(string(data))
	}
	for _, name := range files {
		err := unix.Fchownat(dir, name, uid, -1, unix.AT_SYMLINK_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "chown", Path: name, Err: err}
		}
	}
	return nil
}
