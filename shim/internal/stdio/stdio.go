package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Config says where the streams of one process go, in the words of containerd's
// CreateTaskRequest and ExecProcessRequest.
type Config struct {
	// Each is empty (/dev/null), the path of a FIFO, or a URI: fifo:, and for output also
	// file:, binary: and binary-v2:.
	Stdin, Stdout, Stderr string
	// Terminal: the process has a terminal, handed over by SetConsole. Stderr is not used.
	Terminal bool
	// ID and Namespace are told to a log binary.
	ID, Namespace string
	// UID and GID own the pipes, as IDs of the host: a process that is not root opens
	// /dev/stdout through /proc, which asks the pipe's inode for permission.
	UID, GID int

	grace, term time.Duration // instead of readerGrace and loggerTerm, for tests
}

// IO is the standard streams of one process. Its methods may be called from several goroutines.
type IO struct {
	cfg   Config
	child [3]*os.File
	in    *pump
	outs  []*pump
	logs  []*logger

	input string // the stdin FIFO

	mu      sync.Mutex
	hold    int  // our write end of the stdin FIFO, -1 when there is none
	reading bool // the pump of stdin runs
	ended   bool // CloseStdin has been called
	console *end
	size    *unix.Winsize // asked for before the console was there
	started bool
	closed  bool
}

// errClosed is returned by calls that come after Close.
var errClosed = errors.New("stdio: closed")

// closeWait bounds Close's wait for a pump that sits in a write(2) it cannot be called back from:
// a log file on a filesystem that hangs. Such a pump closes its descriptors itself, later.
const closeWait = time.Second

// Open opens the FIFOs and files and starts the log binaries of cfg. It waits for the readers of
// the FIFOs and for the readiness of log binaries, no longer than ctx allows.
func Open(ctx context.Context, cfg Config) (_ *IO, err error) {
	if cfg.grace == 0 {
		cfg.grace = readerGrace
	}
	if cfg.term == 0 {
		cfg.term = loggerTerm
	}
	s := &IO{cfg: cfg, hold: -1}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	if err := s.openStdin(); err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	if err := s.openOutput(ctx); err != nil {
		return nil, err
	}
	return s, s.fillNull()
}

// Child returns the files that the process is to have as 0, 1 and 2. They are blocking and belong
// to the IO: Started closes them. With a terminal all three are /dev/null. The same file may be
// there more than once.
func (s *IO) Child() [3]*os.File { return s.child }

// Started is called when the process has its streams: it closes the shim's copies of them, without
// which there would be no end of file, and starts copying what it writes.
func (s *IO) Started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started || s.closed {
		return
	}
	s.started = true
	s.closeChild()
	if s.cfg.Terminal {
		return // SetConsole starts the pumps
	}
	s.startPumps()
}

// CloseStdin is containerd's CloseIO: what the client has written is delivered, and when the
// client has closed its end too the process sees the end of its input.
func (s *IO) CloseStdin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	return s.dropHold()
}

// Drain is called when the process has exited. It waits until all that the process wrote has been
// copied, at most for timeout, and gives the readers their end of file.
func (s *IO) Drain(timeout time.Duration) error {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	s.mu.Lock()
	running := s.running()
	switch { // nobody is left to read the input
	case !running || s.in == nil:
	case s.cfg.Terminal:
		s.in.halt(stopDrained)
	default:
		s.in.halt(stopNow)
	}
	s.mu.Unlock()
	if !running {
		return nil
	}
	for _, p := range s.outs {
		p.halt(stopDrained)
	}
	for _, p := range s.outs {
		select {
		case <-p.copied:
		case <-timer.C:
			return fmt.Errorf("%s: drain: %w", p.name, os.ErrDeadlineExceeded)
		}
	}
	for _, l := range s.logs {
		if !l.drain(timer.C) {
			return fmt.Errorf("%s: drain: %w", l.name, os.ErrDeadlineExceeded)
		}
	}
	return nil
}

// Err returns what went wrong while copying: writes that failed, log binaries that died. None of
// it stopped the process.
func (s *IO) Err() error {
	var errs []error
	for _, p := range s.pumps() {
		errs = append(errs, p.failure())
	}
	for _, l := range s.logs {
		errs = append(errs, l.failure())
	}
	return errors.Join(errs...)
}

// Close stops what still runs and frees all. Log binaries get some time to end by themselves.
func (s *IO) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	running, reading := s.running(), s.reading
	s.closeChild()
	_ = s.dropHold()
	if s.console != nil {
		s.console.release()
	}
	if s.in != nil && !reading { // a client that waits in open(2) for its reader
		if fd, err := open(s.input, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
			_ = unix.Close(fd)
		}
	}
	s.mu.Unlock()

	for _, p := range s.pumps() {
		p.halt(stopNow)
		if p == s.in && !reading || p != s.in && !running {
			go p.run() // it ends at once, freeing its descriptors as every pump does
		}
	}
	var errs []error
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	for _, p := range s.pumps() {
		select {
		case <-p.done:
			p.free()
		case <-timer.C:
			timer.Reset(0) // the rest had the same time
			errs = append(errs, fmt.Errorf("%s: close: %w", p.name, os.ErrDeadlineExceeded))
		}
	}
	for _, l := range s.logs {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// running says whether the pumps of the output have been started. Precondition: mu is held.
func (s *IO) running() bool {
	return s.started && !s.cfg.Terminal || s.console != nil
}

// startPumps starts those of the output. Precondition: mu is held.
func (s *IO) startPumps() {
	for _, p := range s.outs {
		go p.run()
	}
}

func (s *IO) pumps() []*pump {
	if s.in == nil {
		return s.outs
	}
	return append([]*pump{s.in}, s.outs...)
}

// dropHold closes our write end of the stdin FIFO. Precondition: mu is held.
func (s *IO) dropHold() error {
	fd := s.hold
	if fd < 0 {
		return nil
	}
	s.hold = -1
	if err := unix.Close(fd); err != nil {
		return fmt.Errorf("stdin: close: %w", err)
	}
	return nil
}

// closeChild closes the process's files, each once. Precondition: mu is held, or no other
// goroutine knows s.
func (s *IO) closeChild() {
	for _, f := range s.child {
		if f != nil {
			_ = f.Close() // a second Close of the same file does nothing
		}
	}
	s.child = [3]*os.File{}
}
