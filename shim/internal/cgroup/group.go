package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Root is where cgroup v2 is mounted on every host that has nothing else.
const Root = "/sys/fs/cgroup"

// ErrNotEmpty is what Create answers when the cgroup holds processes.
var ErrNotEmpty = errors.New("not empty")

// MissingControllerError says that a limit was asked for whose controller the
// cgroup does not have. The caller refuses the limit or passes over it.
type MissingControllerError struct {
	Controller string // "memory"
	Field      string // "linux.resources.memory.limit"
	Err        error  // why it could not be enabled, if we tried
}

func (e *MissingControllerError) Error() string {
	s := e.Field + ": cgroup controller " + e.Controller + " is not available"
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *MissingControllerError) Unwrap() error { return e.Err }

// Group is a handle on one cgroup v2 directory. Its methods may be called
// concurrently.
type Group struct {
	root, path string

	mu sync.RWMutex
	fd int // guarded by mu; -1 once closed

	// refused tells why Create could not enable a controller.
	refused map[string]error

	oom oomJudge
}

// Open returns a handle on a cgroup that exists. root is where cgroup v2 is
// mounted, or a directory below that.
func Open(root, path string) (*Group, error) {
	g, err := newGroup(root, path)
	if err != nil {
		return nil, err
	}
	top, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	defer unix.Close(top)
	if g.fd, err = openDir(top, g.path[1:]); err != nil {
		return nil, g.err("open", err)
	}
	return g, nil
}

func newGroup(root, name string) (*Group, error) {
	// path.Clean would make something of "/a/../../b" that nobody asked for.
	if slices.Contains(strings.Split(name, "/"), "..") {
		return nil, fmt.Errorf("cgroup %s: path has a .. element", name)
	}
	clean := path.Clean("/" + name)
	if clean == "/" {
		return nil, fmt.Errorf("cgroup %s: path is the root", name)
	}
	return &Group{root: root, path: clean, fd: -1}, nil
}

// FD is the descriptor of the directory, for CLONE_INTO_CGROUP. It is the
// Group's own and stays open until Close.
func (g *Group) FD() int {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.fd
}

// Path is the cleaned path below the root, with a leading slash.
func (g *Group) Path() string { return g.path }

// Close gives up the descriptor. The cgroup stays.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fd < 0 {
		return g.err("close", os.ErrClosed)
	}
	err := unix.Close(g.fd)
	g.fd = -1
	return err
}

// Controllers are those that limits can be set for: cgroup.controllers.
func (g *Group) Controllers() ([]string, error) {
	b, err := g.read("cgroup.controllers", nil)
	if err != nil {
		return nil, g.err("read cgroup.controllers", err)
	}
	return strings.Fields(string(b)), nil
}

func (g *Group) err(op string, err error) error {
	return fmt.Errorf("cgroup %s: %s: %w", g.path, op, err)
}

// open opens one of the cgroup's files, or "." for the directory itself.
func (g *Group) open(name string, flags int) (int, error) {
	g.mu.RLock()
	defer g.mu.RUnlock()
	if g.fd < 0 {
		return -1, os.ErrClosed
	}
	return openFile(g.fd, name, flags)
}

// read appends the content of a file to buf[:0].
func (g *Group) read(name string, buf []byte) ([]byte, error) {
	fd, err := g.open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, buf)
}

func (g *Group) write(name, value string) error {
	fd, err := g.open(name, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return writeAll(fd, value)
}

// openRoot opens the mountpoint and makes sure that it is one: writing to an
// ordinary directory of that name would succeed and limit nothing.
func openRoot(root string) (int, error) {
	fd, err := again(func() (int, error) {
		return unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, fmt.Errorf("cgroup root %s: open: %w", root, err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("cgroup root %s: statfs: %w", root, err)
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		unix.Close(fd)
		return -1, fmt.Errorf("cgroup root %s: not a cgroup2 file system", root)
	}
	return fd, nil
}

// openDir opens a directory below dir and never leaves the file system.
func openDir(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	return again(func() (int, error) { return unix.Openat2(dir, name, &how) })
}

// openFile opens a file of the cgroup dir. Names come from the spec too
// (linux.resources.unified): they name a file of this cgroup or nothing.
func openFile(dir int, name string, flags int) (int, error) {
	if strings.Contains(name, "/") {
		return -1, unix.EINVAL
	}
	return again(func() (int, error) {
		return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// readAll reads from the beginning, wherever the offset is: reading is also
// what arms the file's next POLLPRI.
func readAll(fd int, buf []byte) ([]byte, error) {
	buf = slices.Grow(buf[:0], 512)
	for {
		n, err := again(func() (int, error) {
			return unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		})
		if errors.Is(err, unix.ENODEV) {
			// kernfs: the cgroup went after we opened the file. Of a
			// write it may mean a device (io.max), so only here.
			err = unix.ENOENT
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return buf, nil
		}
		buf = slices.Grow(buf[:len(buf)+n], 512)
	}
}

// writeAll writes value in one call: the kernel takes each for a request.
func writeAll(fd int, value string) error {
	_, err := again(func() (int, error) { return unix.Write(fd, []byte(value)) })
	return err
}

// again repeats a call that a signal interrupted: the Go runtime preempts
// goroutines by signal, and a write to memory.max can take its time.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// gone tells that the cgroup is no more. ENODEV comes from files and
// directories that were open when it went.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV)
}
