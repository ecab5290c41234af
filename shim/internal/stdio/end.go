package stdio

import (
	"fmt"
	"os"
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
	status := unix.O_NONBLOCK
	if e.kind == fileEnd {
		status = unix.O_APPEND
	}
	if err := e.register(name, status); err != nil {
		return nil, err
	}
	return e, nil
}

// register sets the status flags (F_SETFL of fcntl(2)) and makes e's file. NewFile registers with
// the netpoller what is non-blocking. It closes fd when it fails.
func (e *end) register(name string, status int) error {
	if _, err := unix.FcntlInt(uintptr(e.fd), unix.F_SETFL, status); err != nil {
		_ = unix.Close(e.fd)
		return fmt.Errorf("%s: set flags: %w", name, err)
	}
	e.refs.Store(1)
	e.file = os.NewFile(uintptr(e.fd), name)
	raw, err := e.file.SyscallConn()
	if err != nil {
		_ = e.file.Close()
		return fmt.Errorf("%s: %w", name, err)
	}
	e.raw = raw
	return nil
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
