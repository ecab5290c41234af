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
func openFiles(files []program.File, given int, ns *maker) (_ []int, err error) {
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
		case program.FileBind, program.FileRecursiveBind:
			fd, err = openMapped(&f, ns)
		case program.FileCopiedTmpfs:
			fd, err = openCopiedTmpfs(&f, given)
		case program.FileDevice:
			fd, err = openDevice(&f)
		case program.FileNamespace:
			fd, err = openNamespace(f.Path)
		case program.FileSeed:
			fd, err = unix.FcntlInt(uintptr(ns.seed), unix.F_DUPFD_CLOEXEC, 0)
		case program.FileUserNamespace:
			fd, err = openUserNamespace(&f, ns)
		case program.FileTimeNamespace:
			fd, err = ns.time(f.Text)
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

// openMapped clones a tree, and maps its ids if that is asked for.
func openMapped(f *program.File, ns *maker) (int, error) {
	fd, err := openTree(f.Path, f.Kind == program.FileRecursiveBind)
	if err != nil || f.IDs == nil {
		return fd, err
	}
	if err := ns.idmap(fd, f.IDs, f.MapAll); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("%s: %w", f.Path, err)
	}
	return fd, nil
}

// openUserNamespace opens the one at a path, or has one made.
func openUserNamespace(f *program.File, ns *maker) (int, error) {
	if f.Path != "" {
		return openNamespace(f.Path)
	}
	fd, err := ns.user(f.IDs)
	if err != nil {
		return -1, err
	}
	// ns keeps its own.
	return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
}

// openDevice clones a device of the host, and looks at what it got.
func openDevice(f *program.File) (int, error) {
	fd, err := openTree(f.Path, false)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && (st.Mode&unix.S_IFMT != f.Mode || st.Rdev != f.Rdev) {
		err = fmt.Errorf("not the device %d:%d", unix.Major(f.Rdev), unix.Minor(f.Rdev))
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "open_tree", Path: f.Path, Err: err}
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
