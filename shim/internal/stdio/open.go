package stdio

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The schemes of containerd's docs/runtime-v2.md, "Logging".
const (
	schemeFIFO     = "fifo"
	schemeFile     = "file"
	schemeBinary   = "binary"
	schemeBinaryV2 = "binary-v2"
)

// locate parses one stream's address. A path is a path even where it would not be a URI ("%").
func locate(addr string) (*url.URL, error) {
	if strings.HasPrefix(addr, "/") || !strings.Contains(addr, ":") {
		return &url.URL{Scheme: schemeFIFO, Path: addr}, nil
	}
	u, err := url.Parse(addr)
	if err != nil {
		return nil, err
	}
	return u, nil
}

// openStdin looks at the FIFO and, without a terminal, makes the process's pipe.
func (s *IO) openStdin() error {
	if s.cfg.Stdin == "" {
		return nil
	}
	u, err := locate(s.cfg.Stdin)
	if err != nil {
		return err
	}
	if u.Scheme != schemeFIFO {
		return fmt.Errorf("unknown scheme %q", u.Scheme)
	}
	if err := unix.Access(u.Path, unix.F_OK); err != nil {
		return fmt.Errorf("open %s: %w", u.Path, err)
	}
	s.in, s.input = newPump("stdin", s.cfg.grace), u.Path
	if s.cfg.Terminal {
		return nil
	}
	s.in.dst, s.child[0], err = s.pipe("stdin", false)
	return err
}

// OpenInput is called when the process is there and may read: it lets the client write. A client has
// nothing to close the input of before that (doc.go, "Opening").
func (s *IO) OpenInput() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil || s.reading || s.closed {
		return nil
	}
	fd, err := open(s.input, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	src, err := newEnd(fd, s.input)
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	if src.kind == pipeEnd && !s.ended {
		// Never ENXIO: there is a reader, we.
		if s.hold, err = open(s.input, unix.O_WRONLY|unix.O_NONBLOCK, 0); err != nil {
			src.release()
			return fmt.Errorf("stdin: %w", err)
		}
	}
	s.in.src, s.reading = src, true
	go s.in.run()
	return nil
}

// openOutput opens stdout and stderr.
func (s *IO) openOutput(ctx context.Context) error {
	if err := s.openStream(ctx, 1, "stdout", s.cfg.Stdout); err != nil {
		return fmt.Errorf("stdout: %w", err)
	}
	if s.cfg.Terminal {
		return nil
	}
	if s.cfg.Stderr == s.cfg.Stdout && len(s.logs) == 0 {
		s.child[2] = s.child[1]
		return nil
	}
	if err := s.openStream(ctx, 2, "stderr", s.cfg.Stderr); err != nil {
		return fmt.Errorf("stderr: %w", err)
	}
	return nil
}

// openStream opens the destination of the process's descriptor i and the pipe that leads there.
func (s *IO) openStream(ctx context.Context, i int, name, addr string) error {
	if addr == "" {
		if s.cfg.Terminal { // somebody has to read the terminal
			s.outs = append(s.outs, newPump(name, s.cfg.grace))
		}
		return nil
	}
	u, err := locate(addr)
	if err != nil {
		return err
	}
	var dst *end
	switch u.Scheme {
	case schemeFIFO:
		dst, err = openSink(ctx, u.Path, 0)
	case schemeFile:
		//nolint:forbidigo // a log file of the host, named by containerd
		if err := os.MkdirAll(filepath.Dir(u.Path), 0o755); err != nil {
			return err
		}
		dst, err = openSink(ctx, u.Path, unix.O_CREAT)
	case schemeBinary, schemeBinaryV2:
		return s.openLogger(ctx, i, name, addr, u)
	default:
		return fmt.Errorf("unknown scheme %q", u.Scheme)
	}
	if err != nil {
		return err
	}
	p := newPump(name, s.cfg.grace)
	p.dst = dst
	s.outs = append(s.outs, p)
	if s.cfg.Terminal {
		return nil
	}
	p.src, s.child[i], err = s.pipe(name, true)
	return err
}

// openSink opens a FIFO or file for writing. A FIFO without a reader says ENXIO (fifo(7)); it is
// asked again until ctx ends. What is no FIFO is appended to, as containerd-shim-runc-v2 does.
func openSink(ctx context.Context, path string, flags int) (*end, error) {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		fd, err := open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY|flags, 0o644)
		if err == nil {
			e, err := newEnd(fd, path)
			if err == nil {
				e.named = e.kind == pipeEnd
			}
			return e, err
		}
		if !errors.Is(err, unix.ENXIO) || !isFIFO(path) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("open %s: no reader: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

func isFIFO(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFIFO
}

// pipe makes a pipe between the process and a pump, and returns their ends of it. output says that
// the process is the one who writes.
func (s *IO) pipe(name string, output bool) (ours *end, child *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("pipe: %w", err)
	}
	us, them := fds[1], fds[0]
	if output {
		us, them = fds[0], fds[1]
	}
	child = os.NewFile(uintptr(them), name)
	ours = &end{fd: us, kind: pipeEnd}
	if err := ours.register(name, unix.O_NONBLOCK); err != nil {
		_ = child.Close()
		return nil, nil, err
	}
	if err := s.own(child); err != nil {
		_ = child.Close()
		ours.release()
		return nil, nil, err
	}
	return ours, child, nil
}

// own gives a pipe to the process's user.
func (s *IO) own(f *os.File) error {
	if s.cfg.UID == 0 && s.cfg.GID == 0 {
		return nil
	}
	return f.Chown(s.cfg.UID, s.cfg.GID)
}

// fillNull gives the process /dev/null for all that it has no stream for.
func (s *IO) fillNull() error {
	var null *os.File
	for i := range s.child {
		if s.child[i] != nil {
			continue
		}
		if null == nil {
			fd, err := open(os.DevNull, unix.O_RDWR, 0)
			if err != nil {
				return fmt.Errorf("stdio: %w", err)
			}
			null = os.NewFile(uintptr(fd), os.DevNull)
		}
		s.child[i] = null
	}
	return nil
}

// open is open(2), close-on-exec, with an error that says which file.
func open(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if err == nil {
			return fd, nil
		}
		if err != unix.EINTR {
			return -1, fmt.Errorf("open %s: %w", path, err)
		}
	}
}
