package container

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// What needs which Linux, beside what stands at each step:
//
//	5.6   openat2        every path of an image or a container
//	5.7   clone3         CLONE_INTO_CGROUP
//	5.8   setns          by a pidfd: every exec
//	5.10  pidfd_open     O_NONBLOCK, to wait without a thread
//	5.11  close_range    CLOSE_RANGE_CLOEXEC
//	5.12  mount_setattr  attributes of mounts, id-mapped mounts
//	5.14  cgroup.kill    the end of every container
//
// What came later is done in another way where it is missing: layers by fsconfig
// (6.8, overlay.go), clones of detached mounts (6.15, compile/masks.go), MFD_EXEC
// (6.3). An overlay of id-mapped layers needs 5.19 and is refused by the kernel
// before.
const (
	leastMajor, leastMinor = 5, 14
	leastWhy               = "cgroup.kill, mount_setattr and openat2"
)

// Kernel returns an error that says why, if the machine's Linux is too old.
var Kernel = sync.OnceValue(func() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	return oldKernel(unix.ByteSliceToString(u.Release[:]))
})

func oldKernel(release string) error {
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return fmt.Errorf("kernel %q: not a release: %w", release, err)
	}
	if major > leastMajor || major == leastMajor && minor >= leastMinor {
		return nil
	}
	return fmt.Errorf("kernel %s: mini needs Linux %d.%d or later, for %s: %w",
		release, leastMajor, leastMinor, leastWhy, errdefs.ErrNotImplemented)
}
