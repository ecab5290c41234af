package stdio

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SetConsole takes over the master of the process's terminal, also when it fails, and starts
// copying from it to stdout; OpenInput copies from stdin to it.
func (s *IO) SetConsole(master *os.File) error {
	console, err := dupEnd(master)
	_ = master.Close()
	if err != nil {
		return fmt.Errorf("console: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		err = errClosed
	case !s.cfg.Terminal:
		err = errors.New("console: not asked for")
	case s.console != nil:
		err = errors.New("console: set twice")
	}
	if err != nil {
		console.release()
		return err
	}
	s.console = console
	if s.size != nil {
		err = s.setSize(s.size)
	}
	if s.in != nil {
		s.in.dst = console.hold()
	}
	for _, p := range s.outs {
		p.src = console.hold()
	}
	s.startPumps()
	return err
}

// dupEnd makes an end of a file that may be known to the netpoller or not, blocking or not. Fd
// would switch it to blocking, so the descriptor is duplicated.
func dupEnd(f *os.File) (*end, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("dup: %w", dupErr)
	}
	return newEnd(fd, f.Name())
}

// Resize tells the terminal its size. Before there is one it is remembered; a process without a
// terminal has no size, which is no error to containerd.
func (s *IO) Resize(width, height uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	size := &unix.Winsize{Col: uint16(width), Row: uint16(height)}
	switch {
	case !s.cfg.Terminal || s.closed:
		return nil
	case s.console == nil:
		s.size = size
		return nil
	}
	return s.setSize(size)
}

// setSize is TIOCSWINSZ. Precondition: mu is held, so the console is open.
func (s *IO) setSize(size *unix.Winsize) error {
	if err := unix.IoctlSetWinsize(s.console.fd, unix.TIOCSWINSZ, size); err != nil {
		return fmt.Errorf("console: resize: %w", err)
	}
	return nil
}

// typedEOF puts into buf what ends the input of a reader of the terminal: the end-of-file
// character, twice if the last line is not complete, for then the first one only delivers it
// (termios(3), VEOF).
func typedEOF(tty *end, last byte, buf []byte) []byte {
	t, err := unix.IoctlGetTermios(tty.fd, unix.TCGETS) // the slave's, when asked of the master
	if err != nil || t.Cc[unix.VEOF] == 0 {             // 0 is _POSIX_VDISABLE
		return nil
	}
	n := 1
	if last != 0 && last != '\n' && last != '\r' {
		n = 2
	}
	for i := range n {
		buf[i] = t.Cc[unix.VEOF]
	}
	return buf[:n]
}
