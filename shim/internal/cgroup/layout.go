package cgroup

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Layout says what is mounted at root where that is not cgroup2, and what to do about it: cgroups(7). Nothing
// where it is.
func Layout(root string) (found, advice string) {
	const boot = "boot with cgroup v2 alone: systemd.unified_cgroup_hierarchy=1 on the kernel's command line " +
		`(without systemd rc_cgroup_mode="unified" in rc.conf)`
	is, err := fileSystem(root)
	switch {
	case err == nil && is == unix.CGROUP2_SUPER_MAGIC:
		return "", ""
	case err != nil && !errors.Is(err, unix.ENOENT):
		return fmt.Sprintf("%s: %v", root, err), "make it a cgroup2 file system"
	}
	// In both old layouts there is a tmpfs, with a directory for each hierarchy.
	const unified = "/unified"
	if inner, err := fileSystem(root + unified); err == nil && inner == unix.CGROUP2_SUPER_MAGIC {
		return fmt.Sprintf("%s is not cgroup2 but the hybrid layout: cgroup2 is at %[1]s%s, the controllers are in cgroup v1", root, unified), boot
	}
	if is == unix.TMPFS_MAGIC {
		return root + " is not cgroup2 but the layout of cgroup v1", boot
	}
	return root + " is not cgroup2, and no cgroup v1 either", "mount -t cgroup2 cgroup2 " + root
}

func fileSystem(path string) (magic int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("statfs: %w", err)
	}
	return int64(st.Type), nil
}
