package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// A log binary whose pipes have ended gets loggerEOF to end by itself, then SIGTERM; ten
	// seconds for its cleanup are promised by containerd-shim-runc-v2 (process/io.go). Then SIGKILL.
	loggerEOF  = time.Second
	loggerTerm = 10 * time.Second // the default of Config.term
	loggerKill = time.Second
)

// logger is a log binary. It has the read ends of the process's stdout and stderr as descriptors
// 3 and 4, and tells through 5 that it is ready (containerd docs/runtime-v2.md, "Logging").
type logger struct {
	name, addr, path string
	pid              int
	done             chan struct{} // closed when it has been reaped
	term             time.Duration

	mu     sync.Mutex
	dead   bool // reaped; pid is another's now
	told   bool // to end: how it ends is no failure
	closed bool
	held   [2]int      // our copies of the read ends; -1 when given to a pump
	spare  [2]*os.File // the write ends that no stream has taken
	drops  []*pump     // after its death
	err    error       // how it ended
	clean  bool        // it was right to
}

// openLogger connects the process's descriptor i to the log binary that addr names. The two
// streams share one when they have the same address.
func (s *IO) openLogger(ctx context.Context, i int, name, addr string, u *url.URL) error {
	k := slices.IndexFunc(s.logs, func(l *logger) bool { return l.addr == addr })
	if k < 0 {
		l, err := s.startLogger(ctx, name, addr, u)
		if err != nil {
			return fmt.Errorf("log binary %s: %w", u.Path, err)
		}
		k = len(s.logs)
		s.logs = append(s.logs, l)
	}
	l := s.logs[k]
	w := l.spare[i-1]
	l.spare[i-1] = nil
	if !s.cfg.Terminal {
		s.child[i] = w
		return s.own(w)
	}
	p := newPump(name, s.cfg.grace)
	dst, err := dupEnd(w)
	_ = w.Close()
	p.dst = dst
	s.outs = append(s.outs, p)
	return err
}

// startLogger starts a log binary and waits until it is ready.
func (s *IO) startLogger(ctx context.Context, name, addr string, u *url.URL) (*logger, error) {
	l := &logger{name: name, addr: addr, path: u.Path, term: s.cfg.term,
		done: make(chan struct{}), held: [2]int{-1, -1}}
	for i := range l.held {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			l.freePipes()
			return nil, fmt.Errorf("pipe: %w", err)
		}
		l.held[i] = fds[0]
		l.spare[i] = os.NewFile(uintptr(fds[1]), name)
	}
	var wait [2]int
	if err := unix.Pipe2(wait[:], unix.O_CLOEXEC); err != nil {
		l.freePipes()
		return nil, fmt.Errorf("pipe: %w", err)
	}
	pidfd, err := l.spawn(s.cfg, u, wait[1])
	_ = unix.Close(wait[1])
	if err != nil {
		_ = unix.Close(wait[0])
		l.freePipes()
		return nil, fmt.Errorf("start: %w", err)
	}
	go l.watch(pidfd)
	if err := l.ready(ctx, wait[0], u.Scheme == schemeBinaryV2); err != nil {
		l.tell(unix.SIGKILL)
		_ = l.close()
		return nil, err
	}
	return l, nil
}

// spawn is fork and exec. The arguments are the keys and values of the query, as they are given by
// containerd-shim-runc-v2 (process/io_util.go), but in the order of the keys.
func (l *logger) spawn(cfg Config, u *url.URL, wait int) (*end, error) {
	argv := []string{u.Path}
	query := u.Query()
	for _, k := range sortedKeys(query) {
		argv = append(argv, k, query[k][0])
	}
	null, err := open(os.DevNull, unix.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	pidfd := -1
	files := []uintptr{uintptr(null), uintptr(null), uintptr(null),
		uintptr(l.held[0]), uintptr(l.held[1]), uintptr(wait)}
	l.pid, err = syscall.ForkExec(u.Path, argv, &syscall.ProcAttr{
		Env:   []string{"CONTAINER_ID=" + cfg.ID, "CONTAINER_NAMESPACE=" + cfg.Namespace},
		Files: files,
		Sys:   &syscall.SysProcAttr{PidFD: &pidfd},
	})
	if err != nil {
		return nil, err
	}
	e := &end{fd: pidfd}
	if err := e.register("pidfd", unix.O_NONBLOCK); err != nil {
		_ = unix.Kill(l.pid, unix.SIGKILL)
		_, _ = unix.Wait4(l.pid, nil, 0, nil)
		return nil, err
	}
	return e, nil
}

func sortedKeys(q url.Values) []string {
	keys := make([]string, 0, len(q))
	for k := range q {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// ready waits for the logger's word. To binary an end of file is good enough, to binary-v2 it must
// be a byte: nothing else tells readiness from death.
func (l *logger) ready(ctx context.Context, fd int, strict bool) error {
	e, err := newEnd(fd, "CONTAINER_WAIT")
	if err != nil {
		return err
	}
	defer e.release()
	stop := context.AfterFunc(ctx, func() { _ = e.file.SetReadDeadline(past) })
	defer stop()
	_, err = e.file.Read(make([]byte, 1))
	switch {
	case err == nil, errors.Is(err, io.EOF) && !strict:
		return nil
	case errors.Is(err, io.EOF):
		return l.notReady()
	case ctx.Err() != nil:
		return fmt.Errorf("not ready: %w", ctx.Err())
	}
	return fmt.Errorf("ready: %w", err)
}

// notReady says why there is no byte, if the logger's death is the reason.
func (l *logger) notReady() error {
	select {
	case <-l.done:
		return fmt.Errorf("not ready: %w", l.err)
	case <-time.After(100 * time.Millisecond):
		return errors.New("not ready: CONTAINER_WAIT closed without a byte")
	}
}

// watch reaps the logger, and takes its place if the process still writes.
func (l *logger) watch(pidfd *end) {
	defer close(l.done)
	defer pidfd.release()
	var ws unix.WaitStatus
	err := pidfd.raw.Read(func(uintptr) bool { return l.reap(&ws) })
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil { // the netpoller does not take pidfds: cannot be, Linux 5.3
		l.err = fmt.Errorf("wait: %w", err)
		return
	}
	l.err = errors.New(describe(ws))
	l.clean = l.told || ws.Exited() && ws.ExitStatus() == 0
	if l.closed {
		return
	}
	for i, fd := range l.held {
		l.held[i] = -1
		src, err := newEnd(fd, l.name) // non-blocking from now on: the other reader is dead
		if err != nil {
			continue
		}
		p := newPump(l.name, 0)
		p.src = src
		l.drops = append(l.drops, p)
		go p.run()
	}
}

// reap says whether the logger has ended. Under the lock, so that nobody signals a pid that is
// free.
func (l *logger) reap(ws *unix.WaitStatus) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		pid, err := unix.Wait4(l.pid, ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		l.dead = pid != 0 || err != nil // ECHILD: somebody else has reaped it
		return l.dead
	}
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return "killed: " + ws.Signal().String()
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// tell sends a signal; 0 says only that the end is expected.
func (l *logger) tell(sig syscall.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told = true
	if !l.dead && sig != 0 {
		_ = unix.Kill(l.pid, sig)
	}
}

// drain waits until the logger has read what the process has written. That the logger has ended
// then is not waited for: one may well wait for the exit event itself, as nerdctl's does.
func (l *logger) drain(timeout <-chan time.Time) bool {
	l.tell(0)
	l.mu.Lock()
	l.closeSpare()
	l.mu.Unlock()
	for wait := time.Millisecond; l.unread(); wait = min(2*wait, 20*time.Millisecond) {
		select {
		case <-timeout:
			return false
		case <-time.After(wait):
		}
	}
	return true
}

func (l *logger) unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fd := range l.held {
		if fd < 0 {
			continue
		}
		if n, err := unix.IoctlGetInt(fd, unix.TIOCINQ); err == nil && n > 0 {
			return true
		}
	}
	return false
}

// close ends the logger: first by the end of its input, if no grandchild has that open.
func (l *logger) close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.freePipes()
	for _, step := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{0, loggerEOF}, {unix.SIGTERM, l.term}, {unix.SIGKILL, loggerKill}} {
		l.tell(step.sig)
		select {
		case <-l.done:
			return l.closeDrops()
		case <-time.After(step.wait):
		}
	}
	return fmt.Errorf("%s: log binary %s: close: %w", l.name, l.path, os.ErrDeadlineExceeded)
}

// closeDrops ends what watch has started. Precondition: watch has ended.
func (l *logger) closeDrops() error {
	for _, p := range l.drops {
		p.halt(stopNow)
		<-p.done
		p.free()
	}
	return nil
}

// closeSpare. Precondition: mu is held.
func (l *logger) closeSpare() {
	for i, f := range l.spare {
		if f != nil {
			_ = f.Close()
			l.spare[i] = nil
		}
	}
}

func (l *logger) freePipes() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeSpare()
	for i, fd := range l.held {
		if fd >= 0 {
			_ = unix.Close(fd)
			l.held[i] = -1
		}
	}
}

// failure is how the logger died, if that was before its time. A logger may end well when its input
// does, so that alone is none; dropping output is.
func (l *logger) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var dropped int64
	for _, p := range l.drops {
		dropped += p.dropped.Load()
	}
	switch {
	case dropped > 0:
		return fmt.Errorf("%s: log binary %s: %w, %d bytes dropped", l.name, l.path, l.err, dropped)
	case l.clean || l.err == nil:
		return nil
	}
	return fmt.Errorf("%s: log binary %s: %w", l.name, l.path, l.err)
}
