package stdio

import (
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// kind says what a descriptor is, as far as copying depends on it.
type kind uint8

const (
	fileEnd kind = iota // a regular file or a device: blocking, never waited for
	pipeEnd             // a pipe or a FIFO
	ttyEnd              // the master of a pty
)

// end is a descriptor that a pump copies from or to. All but files are non-blocking and registered
// with the netpoller. It is closed when the last of its holders has released it; a holder may use
// fd directly.
type end struct {
	fd    int
	kind  kind
	named bool // a FIFO: its reader may come, go and come back
	file  *os.File
	raw   syscall.RawConn
	refs  atomic.Int32
}

// newEnd takes over fd, also when it fails.
func newEnd(fd int, name string) (*end, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: stat: %w", name, err)
	}
	e := &end{fd: fd}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFIFO:
		e.kind = pipeEnd
	case st.Mode&unix.S_IFMT == unix.S_IFCHR && isMaster(fd):
		e.kind = ttyEnd
	}
	if err := unix.SetNonblock(fd, e.kind != fileEnd); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("%s: set nonblocking: %w", name, err)
	}
	e.refs.Store(1)
	// NewFile registers with the netpoller what is non-blocking.
	e.file = os.NewFile(uintptr(fd), name)
	raw, err := e.file.SyscallConn()
	if err != nil {
		_ = e.file.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	e.raw = raw
	return e, nil
}

// isMaster: only the master of a pty has a number to tell (ioctl_tty(2), TIOCGPTN).
func isMaster(fd int) bool {
	_, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	return err == nil
}

func (e *end) hold() *end {
	e.refs.Add(1)
	return e
}

func (e *end) release() {
	if e.refs.Add(-1) == 0 {
		_ = e.file.Close()
	}
}

// past is a deadline that has been reached: it wakes a waiting goroutine.
var past = time.Unix(1, 0)

func (e *end) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(e.fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func (e *end) write(b []byte) (int, error) {
	for {
		n, err := unix.Write(e.fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// queued is how many bytes are in the pipe (or in the terminal's line buffer).
func (e *end) queued() int {
	n, err := unix.IoctlGetInt(e.fd, unix.TIOCINQ) // FIONREAD has the same number, pipe(7)
	if err != nil {
		return 0
	}
	return n
}

// hasReader is for the only write end of a pipe: POLLERR says that no read end is open (poll(2)).
func (e *end) hasReader() bool {
	fds := []unix.PollFd{{Fd: int32(e.fd), Events: unix.POLLOUT}}
	for {
		_, err := unix.Poll(fds, 0)
		if err != unix.EINTR {
			return err != nil || fds[0].Revents&unix.POLLERR == 0
		}
	}
}

// unlinked says that no other process can open the FIFO any more.
func (e *end) unlinked() bool {
	var st unix.Stat_t
	return unix.Fstat(e.fd, &st) == nil && st.Nlink == 0
}

// writeUnread writes into a FIFO that has no reader, by being its reader for that long. The FIFO
// is found through its descriptor: its name may be another's by now.
func (e *end) writeUnread(b []byte) (int, error) {
	r, err := open("/proc/self/fd/"+strconv.Itoa(e.fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	n, err := e.write(b)
	_ = unix.Close(r)
	return n, err
}
