package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// openCopiedTmpfs makes a tmpfs with what the root has at a path: mounts[].options
// tmpcopyup. All is by descriptor, and no symlink is followed but those of the path
// itself, inside the root. Its size is the tmpfs's: an image cannot fill the memory
// of the host. What is copied is charged to the shim.
func openCopiedTmpfs(f *program.File, rootfs int) (_ int, err error) {
	fd, mode, err := newTmpfs(f)
	if err != nil {
		return -1, fmt.Errorf("tmpfs: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	from, err := openInRoot(rootfs, f.Path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err == nil {
		err = copyTo(from, fd, !mode)
	} else if errors.Is(err, unix.ENOENT) {
		err = nil // nothing to copy
	}
	if err == nil && f.Attr&unix.MOUNT_ATTR_RDONLY != 0 {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		return -1, fmt.Errorf("tmpcopyup %s: %w", f.Path, err)
	}
	return fd, nil
}

// newTmpfs returns a detached tmpfs, and whether its options say what its mode is.
func newTmpfs(f *program.File) (fd int, mode bool, err error) {
	c, err := newContext("tmpfs")
	if err != nil {
		return -1, false, err
	}
	defer c.close()
	for _, o := range f.Options {
		key, value, ok := strings.Cut(o, "=")
		mode = mode || key == "mode"
		if ok {
			c.set(key, value)
		} else {
			c.flag(o)
		}
	}
	fd, err = c.mount(int(f.Attr &^ unix.MOUNT_ATTR_RDONLY))
	return fd, mode, err
}

func copyTo(from, mount int, own bool) error {
	to, err := unix.Openat(mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		unix.Close(from)
		return err
	}
	return copyDir(from, to, own)
}

// copyDir copies what is in one directory to another, and if own is set what the
// directory itself is. It closes both.
func copyDir(from, to int, own bool) error {
	dir := os.NewFile(uintptr(from), "directory")
	defer dir.Close()
	defer unix.Close(to)
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := copyEntry(from, to, name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if !own {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	return copyMeta(from, to, &st)
}

func copyEntry(from, to int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(from, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: name, Err: err}
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = copySubdir(from, to, name)
	case unix.S_IFREG:
		err = copyFile(from, to, name)
	case unix.S_IFLNK:
		err = copyLink(from, to, name, &st)
	case unix.S_IFSOCK:
		// It is the end of a connection that nobody has.
	default:
		if err = unix.Mknodat(to, name, st.Mode, int(st.Rdev)); err == nil {
			err = unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
		}
	}
	if err != nil {
		return &os.PathError{Op: "copy", Path: name, Err: err}
	}
	return nil
}

func copySubdir(from, to int, name string) error {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if err := unix.Mkdirat(to, name, 0o700); err != nil {
		return err
	}
	src, err := unix.Openat(from, name, flags, 0)
	if err != nil {
		return err
	}
	dst, err := unix.Openat(to, name, flags, 0)
	if err != nil {
		unix.Close(src)
		return err
	}
	return copyDir(src, dst, true)
}

func copyLink(from, to int, name string, st *unix.Stat_t) error {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(from, name, target)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(string(target[:n]), to, name); err != nil {
		return err
	}
	return unix.Fchownat(to, name, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
}

func copyFile(from, to int, name string) error {
	// O_NONBLOCK, should it have become a fifo.
	src, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	var st unix.Stat_t
	if err := unix.Fstat(src, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("changed meanwhile")
	}
	dst, err := unix.Openat(to, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	for {
		const most = 1 << 20
		n, err := unix.Sendfile(dst, src, nil, most)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n == 0 && err == nil {
			return copyMeta(src, dst, &st)
		}
	}
}

// copyMeta copies owner, mode and extended attributes: the owner first, as a change
// of it takes the set-user-ID bit, and capabilities, away.
func copyMeta(from, to int, st *unix.Stat_t) error {
	if err := unix.Fchown(to, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Fchmod(to, st.Mode&0o7777); err != nil {
		return err
	}
	list, value := make([]byte, 64<<10), make([]byte, 64<<10)
	n, err := unix.Flistxattr(from, list)
	if err != nil || n == 0 {
		return nil //nolint:nilerr // it has none
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:n]), "\x00"), "\x00") {
		n, err := unix.Fgetxattr(from, name, value)
		if err != nil {
			continue // gone meanwhile
		}
		err = unix.Fsetxattr(to, name, value[:n], 0)
		// A tmpfs keeps no label where it was given one by an option, and not
		// all kinds of attributes in all kernels.
		if err != nil && err != unix.EOPNOTSUPP && err != unix.EPERM {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
