package container

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The seed is a mount namespace with next to nothing in it, of which containers
// take their copy. A copy of the host's costs a microsecond or more for each
// mount there, under a lock that is one for the machine (copy_tree in
// fs/namespace.c), as much again to let go of it, and a node has thousands. There
// is one seed for a node, kept alive by a bind mount of it and by no process: a
// file and two mounts below its directory. Whoever finds none makes it.

// seedFile is the namespace, in the directory of the seed.
const seedFile = "mnt"

// OpenSeed opens the seed that is kept in dir, or makes it. The descriptor is the
// caller's.
func OpenSeed(dir string) (int, error) {
	path := filepath.Join(dir, seedFile)
	if fd, err := openNamespace(path); err == nil {
		return fd, nil
	}
	//nolint:forbidigo // a directory of the host
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return -1, err
	}
	// Not dir itself: what is locked must not be covered by a mount.
	lock, err := unix.Open(filepath.Dir(dir), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: filepath.Dir(dir), Err: err}
	}
	defer unix.Close(lock)
	if err := ignoringEINTR(func() error { return unix.Flock(lock, unix.LOCK_EX) }); err != nil {
		return -1, fmt.Errorf("lock %s: %w", filepath.Dir(dir), err)
	}
	if fd, err := openNamespace(path); err == nil {
		return fd, nil // somebody else was faster
	}
	if err := makeSeed(dir, path); err != nil {
		return -1, fmt.Errorf("seed %s: %w", dir, err)
	}
	return openNamespace(path)
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// makeSeed makes one and mounts it on path. A mount namespace can only be mounted
// where mounts are not shared (mount_namespaces(7), and the kernel's check for
// loops): so dir becomes a mount of its own, private before it is attached.
func makeSeed(dir, path string) (err error) {
	self, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(self)
	private := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(self, "", unix.AT_EMPTY_PATH, private); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := unix.MoveMount(self, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, RemoveSeed(dir))
		}
	}()
	file, err := unix.Openat(self, seedFile, unix.O_RDONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return &os.PathError{Op: "create", Path: path, Err: err}
	}
	unix.Close(file)

	onThread(func() {
		if err = sow(); err == nil {
			err = plant(path)
		}
	})
	return err
}

// plant mounts the namespace of this thread on path, in the namespace of all other threads. The kernel
// takes it for a loop unless it is younger than that one (mnt_ns_loop in fs/namespace.c), and since Linux 6.18
// tells their ages by numbers that each CPU has a stock of: the number of a later one may be lower. It is
// higher, though, on the CPU where that one was made. What is cloned here has three mounts: that takes no time.
func plant(path string) error {
	err := plantThis(path)
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("sched_getaffinity: %w", err)
	}
	for cpu := 0; errors.Is(err, unix.EINVAL) && cpu < len(cpus)*bits.UintSize; cpu++ {
		if !cpus.IsSet(cpu) {
			continue
		}
		var one unix.CPUSet
		one.Set(cpu)
		if unix.SchedSetaffinity(0, &one) != nil {
			continue // it is gone
		}
		//nolint:forbidigo // the thread ends
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("unshare: %w", err)
		}
		err = plantThis(path)
	}
	return err
}

func plantThis(path string) error {
	ns, err := openNamespace("/proc/thread-self/ns/mnt")
	if err != nil {
		return err
	}
	defer unix.Close(ns)
	mounted := make(chan error)
	go func() { mounted <- unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns), path, "", unix.MS_BIND, "") }()
	if err := <-mounted; err != nil {
		return fmt.Errorf("mount the namespace on %s: %w", path, err)
	}
	return nil
}

// sow takes this thread into a new mount namespace and empties it. What stays is
// what a container's copy is good for: a proc and a sysfs of which all is seen,
// without which the kernel lets a user namespace have none of its own
// (mount_too_revealing, Linux 4.3).
func sow() error {
	//nolint:forbidigo // the thread ends
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the old tree private: %w", err)
	}
	root, err := newMount("tmpfs", 0, [2]string{"mode", "0555"}, [2]string{"size", "4096"})
	if err != nil {
		return err
	}
	defer unix.Close(root)
	for _, name := range []string{"proc", "sys"} {
		if err := unix.Mkdirat(root, name, 0o555); err != nil {
			return fmt.Errorf("mkdir %s: %w", name, err)
		}
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("fchdir: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("detach the old root: %w", err)
	}
	for fstype, name := range map[string]string{"proc": "proc", "sysfs": "sys"} {
		fd, err := newMount(fstype, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		if err != nil {
			return err
		}
		err = unix.MoveMount(fd, "", root, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("mount %s: %w", fstype, err)
		}
	}
	return nil
}

// newMount makes a file system, detached: fsopen(2), fsmount(2).
func newMount(fstype string, attr int, options ...[2]string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("%s: %s=%s: %w", fstype, o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("%s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("fsmount %s: %w", fstype, err)
	}
	return fd, nil
}

// RemoveSeed undoes what OpenSeed made. Containers keep what they have.
func RemoveSeed(dir string) error {
	for _, path := range []string{filepath.Join(dir, seedFile), dir} {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return &os.PathError{Op: "umount", Path: path, Err: err}
		}
	}
	return os.RemoveAll(dir)
}
