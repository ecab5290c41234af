package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errOnePage says that overlayfs does not take its layers one by one.
var errOnePage = errors.New("overlayfs takes layers one by one since Linux 6.8")

// overlayInOnePage is for Linux 5.15 to 6.7, where all of an overlay's options must
// fit the one page of mount(2), as an fsconfig string has 256 bytes. So the layers
// are opened, and named by their descriptors, relative to /proc/thread-self/fd:
// "lowerdir=12:13:14" has room for more layers than overlayfs takes.
//
// mount(2) attaches what it makes. For that there is a mount namespace of one
// thread, which ends with it; what is left is a detached clone. It costs a copy of
// the host's mount table, which later kernels save.
//
// Layers that are id-mapped are opened in their mount, which is attached in that
// namespace: until Linux 6.15 overlayfs takes none that is not.
func overlayInOnePage(m Mount, in *layerDir) (fd int, err error) {
	onThread(func() { fd, err = overlayHere(m, in) })
	return fd, err
}

// overlayHere does so in a mount namespace that it makes for its thread.
func overlayHere(m Mount, in *layerDir) (int, error) {
	//nolint:forbidigo // the thread ends
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make / private: %w", err)
	}
	if err := unix.Chdir("/proc/thread-self/fd"); err != nil {
		return -1, fmt.Errorf("/proc/thread-self/fd: %w", err)
	}
	o := onePage{in: in}
	defer o.close()
	if in != nil {
		// On top of the root, where no path leads: it begins below.
		if err := unix.MoveMount(in.clone, "", unix.AT_FDCWD, "/", unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return -1, fmt.Errorf("attach id-mapped layers: %w", err)
		}
	}
	if err := o.read(m.Options); err != nil {
		return -1, err
	}
	data := strings.Join(o.data, ",")
	if len(data) >= os.Getpagesize() {
		return -1, fmt.Errorf("options of %d bytes: they must fit one page before Linux 6.8", len(data))
	}
	// Any directory will do to attach it to: nobody else is here.
	if err := unix.Mount("overlay", o.first, "overlay", o.flags, data); err != nil {
		return -1, &os.PathError{Op: "mount", Path: data, Err: err}
	}
	defer func() { _ = unix.Unmount(o.first, unix.MNT_DETACH) }()
	return openTree(o.first, false)
}

// onePage are the options of an overlay for mount(2).
type onePage struct {
	data  []string
	flags uintptr
	fds   []int
	first string // of the layers, by its path

	in *layerDir // where the lower layers are, or nil
}

func (o *onePage) close() { closeAll(o.fds) }

func (o *onePage) read(options []string) error {
	for _, opt := range options {
		key, value, ok := strings.Cut(opt, "=")
		switch {
		case key == "lowerdir" && ok:
			if err := o.lower(value); err != nil {
				return err
			}
		case (key == "upperdir" || key == "workdir") && ok:
			name, err := o.dir(value, nil)
			if err != nil {
				return err
			}
			o.data = append(o.data, key+"="+name)
		case opt == "ro":
			o.flags |= unix.MS_RDONLY
		case opt == "rw" || opt == "defaults":
		default:
			o.data = append(o.data, opt)
		}
	}
	return nil
}

func (o *onePage) lower(value string) error {
	var list strings.Builder
	for i, l := range splitLayers(value) {
		if l.key != "lowerdir+" {
			return fmt.Errorf("lowerdir: data-only layers: %w", errOnePage)
		}
		name, err := o.dir(l.path, o.in)
		if err != nil {
			return err
		}
		if i > 0 {
			list.WriteByte(':')
		}
		list.WriteString(name)
	}
	o.data = append(o.data, "lowerdir="+list.String())
	return nil
}

// dir opens a directory, in this namespace: overlayfs takes none of another. Its
// name is relative to /proc/thread-self/fd.
func (o *onePage) dir(path string, in *layerDir) (string, error) {
	fd, err := in.open(path)
	if err != nil {
		return "", err
	}
	o.fds = append(o.fds, fd)
	if o.first == "" {
		o.first = path
	}
	return strconv.Itoa(fd), nil
}
