package container

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/compile"
)

// Mount is a mount as a snapshotter describes it: how to come by the root of
// a container.
type Mount struct {
	Type, Source string
	Options      []string
}

// openRootfs returns the container's root as a detached mount, which nobody
// else sees and which goes away with its descriptor. Without mounts it is the
// directory at path.
func openRootfs(mounts []Mount, path string, ns *maker) (int, error) {
	switch len(mounts) {
	case 0:
		fd, err := openBind(Mount{Source: path}, ns)
		if err != nil {
			return -1, fmt.Errorf("root.path: %w", err)
		}
		return fd, nil
	case 1:
	default:
		return -1, errNotSupported("rootfs: more than one mount")
	}
	m := mounts[0]
	var fd int
	var err error
	switch {
	case m.Type == "overlay":
		fd, err = openOverlay(m, ns)
	case m.Type == "bind" || hasOption(m.Options, "bind") || hasOption(m.Options, "rbind"):
		fd, err = openBind(m, ns)
	default:
		fd, err = openFS(m)
	}
	if err != nil {
		return -1, fmt.Errorf("rootfs: mount %s: %w", m.Type, err)
	}
	return fd, nil
}

// showsRootfs tells whether the root is mounted where the spec says: hooks may
// look for it there, and nobody else does.
func (c *Container) showsRootfs() bool { return c.cfg.Spec.Hooks != nil && len(c.cfg.Rootfs) > 0 }

// showRootfs attaches the root at path, and returns a clone of it for the
// container. It closes rootfs.
func showRootfs(rootfs int, path string) (int, error) {
	defer unix.Close(rootfs)
	if err := unix.MoveMount(rootfs, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return -1, fmt.Errorf("root.path: %w", &os.PathError{Op: "move_mount", Path: path, Err: err})
	}
	// What is mounted in the one is not to appear in the other.
	return openBind(Mount{Source: path}, nil)
}

func hideRootfs(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	// EINVAL: nothing is mounted there. containerd may have been first.
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return &os.PathError{Op: "umount2", Path: path, Err: err}
	}
	return nil
}

func hasOption(options []string, name string) bool {
	for _, o := range options {
		if o == name {
			return true
		}
	}
	return false
}

// openTree clones the tree at path: open_tree(2).
func openTree(path string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

func openBind(m Mount, ns *maker) (int, error) {
	ids, options, err := takeIDs(m.Options)
	if err != nil {
		return -1, err
	}
	fd, err := openTree(m.Source, true)
	if err != nil {
		return -1, err
	}
	if ids != nil {
		if err := ns.idmap(fd, ids, true); err != nil {
			unix.Close(fd)
			return -1, err
		}
	}
	attr := &unix.MountAttr{Propagation: unix.MS_PRIVATE}
	for _, o := range options {
		if o == "ro" {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, attr); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return fd, nil
}

// openFS mounts a file system of its own, such as ext4 on a block device.
func openFS(m Mount) (int, error) {
	c, err := newContext(m.Type)
	if err != nil {
		return -1, err
	}
	defer c.close()
	c.set("source", m.Source)
	var attr int
	for _, o := range m.Options {
		key, value, ok := strings.Cut(o, "=")
		switch {
		case o == "ro":
			attr |= unix.MOUNT_ATTR_RDONLY
			c.flag(o)
		case o == "rw" || o == "defaults":
		case o == "loop":
			return -1, errNotSupported("option loop")
		case ok:
			c.set(key, value)
		default:
			c.flag(o)
		}
	}
	return c.mount(attr)
}

// openOverlay mounts an overlay with one call for each layer, so that neither
// their number nor the length of their paths meets the one page of options
// that mount(2) takes: "mount options is too long".
func openOverlay(m Mount, ns *maker) (int, error) {
	ids, options, err := takeIDs(m.Options)
	if err != nil {
		return -1, err
	}
	if ids != nil {
		return openMappedOverlay(Mount{Source: m.Source, Options: options}, ids, ns)
	}
	if layers := lowerLayers(m); len(layers) >= worthClone && takesDetached() {
		if fd, err := overlayOfClone(m, commonDir(layers)); err == nil {
			return fd, nil
		}
		// A layer may be a mount of its own. What else was wrong is wrong again.
	}
	fd, err := overlay(m, nil)
	if errors.Is(err, errOnePage) {
		return overlayInOnePage(m, nil)
	}
	return fd, err
}

func overlayOfClone(m Mount, path string) (int, error) {
	in, err := openLayerDir(path)
	if err != nil {
		return -1, err
	}
	defer in.close()
	return overlay(m, in)
}

// overlay mounts one whose lower layers are opened by way of in, if that is not nil.
func overlay(m Mount, in *layerDir) (int, error) {
	c, err := newContext("overlay")
	if err != nil {
		return -1, err
	}
	defer c.close()
	var attr int
	c.set("source", "overlay")
	for _, o := range m.Options {
		key, value, ok := strings.Cut(o, "=")
		switch {
		case key == "lowerdir" && ok:
			for _, l := range splitLayers(value) {
				c.dir(l.key, l.path, in)
			}
		case (key == "upperdir" || key == "workdir") && ok:
			c.dir(key, value, nil)
		case o == "ro":
			attr |= unix.MOUNT_ATTR_RDONLY
		case o == "rw" || o == "defaults":
		case ok:
			c.set(key, value)
		default:
			c.flag(o)
		}
	}
	return c.mount(attr)
}

// fsContext is a file system being configured: fsopen(2). It keeps the first
// error.
type fsContext struct {
	fd  int
	err error
}

func newContext(fstype string) (*fsContext, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	return &fsContext{fd: fd}, nil
}

func (c *fsContext) close() { unix.Close(c.fd) }

func (c *fsContext) fail(what string, err error) {
	if c.err == nil && err != nil {
		c.err = fmt.Errorf("%s: %w%s", what, err, c.log())
	}
}

func (c *fsContext) set(key, value string) {
	if c.err == nil {
		c.fail(key+"="+value, unix.FsconfigSetString(c.fd, key, compile.OptionValue(key, value)))
	}
}

func (c *fsContext) flag(key string) {
	if c.err == nil {
		c.fail(key, unix.FsconfigSetFlag(c.fd, key))
	}
}

// dir gives a directory by descriptor, which overlayfs takes since Linux 6.13.
// Linux 6.8 wants a name: that of the descriptor is short enough for the 256
// bytes of an fsconfig string.
func (c *fsContext) dir(key, path string, in *layerDir) {
	if c.err != nil {
		return
	}
	fd, err := in.open(path)
	if err != nil {
		c.fail(key, err)
		return
	}
	defer unix.Close(fd)
	err = unix.FsconfigSetFd(c.fd, key, fd)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBADF) {
		err = unix.FsconfigSetString(c.fd, key, fmt.Sprintf("/proc/self/fd/%d", fd))
		if errors.Is(err, unix.EINVAL) && strings.HasSuffix(key, "+") {
			err = errOnePage // Linux 6.5 to 6.7 do not know the key
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = errOnePage // before 6.5 they know of mount(2) alone
	}
	c.fail(key+"="+path, err)
}

// mount makes the superblock and its detached mount.
func (c *fsContext) mount(attr int) (int, error) {
	if c.err == nil {
		c.fail("create", unix.FsconfigCreate(c.fd))
	}
	if c.err != nil {
		return -1, c.err
	}
	fd, err := unix.Fsmount(c.fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

// log is what the kernel says about the failure: one message for each read.
func (c *fsContext) log() string {
	var out strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(c.fd, buf)
		if err != nil || n <= 0 {
			return out.String()
		}
		out.WriteString(": " + string(bytes.TrimSpace(buf[:n])))
	}
}
