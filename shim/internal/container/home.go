package container

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// home is the home directory of uid in the passwd(5) below the directory root,
// "/" if it is not there. Every runtime sets HOME from it. The file belongs to
// the container: it is looked up inside its root, and read no further than a
// megabyte.
func home(root int, uid uint32) string {
	// First what it is, then open it: opening a device may do things.
	fd, err := openInRoot(root, "etc/passwd", unix.O_PATH)
	if err != nil {
		return "/"
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return "/"
	}
	// O_NONBLOCK: whoever owns the file may hold a lease on it, and let an open
	// wait for 45 seconds: F_SETLEASE(2const).
	f, err := openFile(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "/"
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		field := strings.Split(lines.Text(), ":")
		if len(field) < 6 {
			continue
		}
		if id, err := strconv.ParseUint(field[2], 10, 32); err == nil && uint32(id) == uid && strings.HasPrefix(field[5], "/") {
			return field[5]
		}
	}
	return "/"
}

// openFile is os.OpenFile for a regular file. That would offer it to epoll first, which has no use for
// one: five system calls.
func openFile(path string, flags int, mode uint32) (f *os.File, err error) {
	err = ignoringEINTR(func() error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if err == nil {
			f = os.NewFile(uintptr(fd), path)
		}
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

// openInRoot opens a path as a process of the container would. Where a rename or a
// mount, anywhere, comes between, the kernel cannot tell where ".." leads, and says
// EAGAIN: openat2(2).
func openInRoot(root int, path string, flags uint64) (fd int, err error) {
	const tries = 1000
	for range tries {
		fd, err = unix.Openat2(root, path, &unix.OpenHow{
			Flags:   flags | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return fd, err
}

// homeIn is home in a running process's root.
func homeIn(pid int, uid uint32) string {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "/"
	}
	defer unix.Close(root)
	return home(root, uid)
}
