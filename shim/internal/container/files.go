package container

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

func errNotSupported(what string) error {
	return fmt.Errorf("%s: not supported: %w", what, errdefs.ErrNotImplemented)
}

// openFiles opens what a Plan hands to the agent, but for the root and the
// init's pidfd, which are given.
func openFiles(files []program.File, given int) (_ []int, err error) {
	var fds []int
	defer func() {
		if err != nil {
			closeAll(fds)
		}
	}()
	for _, f := range files {
		fd := -1
		switch f.Kind {
		case program.FileRootfs, program.FileInit:
			// Not ours to close: a duplicate would be.
			fd, err = unix.FcntlInt(uintptr(given), unix.F_DUPFD_CLOEXEC, 0)
		case program.FileBind:
			fd, err = openTree(f.Path, false)
		case program.FileRecursiveBind:
			fd, err = openTree(f.Path, true)
		case program.FileNull:
			fd, err = openNull(f.Path)
		case program.FileNamespace:
			fd, err = openNamespace(f.Path)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Field, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// openNull clones the host's /dev/null, and looks at what it got.
func openNull(path string) (int, error) {
	fd, err := openTree(path, false)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3)) {
		err = errors.New("not the null device")
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return fd, nil
}

// openNamespace opens an nsfs file: namespaces(7). O_NONBLOCK, should it be a
// FIFO.
func openNamespace(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	var st unix.Statfs_t
	err = unix.Fstatfs(fd, &st)
	if err == nil && st.Type != unix.NSFS_MAGIC {
		err = errors.New("not a namespace")
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}
