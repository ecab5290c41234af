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
// (6.8, overlay.go), clones of detached mounts and layers in them (6.15,
// compile/masks.go and layers.go), MFD_EXEC (6.3). An overlay of id-mapped layers
// needs 5.19 and is refused by the kernel before.
const (
	leastMajor, leastMinor = 5, 14
	leastWhy               = "cgroup.kill, mount_setattr and openat2"
)

// Kernel returns an error that says why, if the machine's Linux is too old.
var Kernel = sync.OnceValue(func() error {
	k, err := thisKernel()
	if err != nil {
		return err
	}
	return k.tooOld()
})

// takesDetached tells whether overlayfs takes layers of a mount that is attached nowhere: since Linux 6.15,
// clone_private_mount in fs/namespace.c. To try would leave a line in the kernel's log.
var takesDetached = sync.OnceValue(func() bool {
	k, err := thisKernel()
	return err == nil && k.since(6, 15)
})

type kernel struct {
	release      string
	major, minor int
}

var thisKernel = sync.OnceValues(func() (kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return kernel{}, fmt.Errorf("uname: %w", err)
	}
	return parseKernel(unix.ByteSliceToString(u.Release[:]))
})

func parseKernel(release string) (kernel, error) {
	k := kernel{release: release}
	if n, err := fmt.Sscanf(release, "%d.%d", &k.major, &k.minor); n != 2 {
		return k, fmt.Errorf("kernel %q: not a release: %w", release, err)
	}
	return k, nil
}

func (k kernel) since(major, minor int) bool {
	return k.major > major || k.major == major && k.minor >= minor
}

func (k kernel) tooOld() error {
	if k.since(leastMajor, leastMinor) {
		return nil
	}
	return fmt.Errorf("kernel %s: mini needs Linux %d.%d or later, for %s: %w",
		k.release, leastMajor, leastMinor, leastWhy, errdefs.ErrNotImplemented)
}
