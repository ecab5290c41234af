package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// Command is what it takes to make a process. All descriptors stay the
// caller's: Start borrows them.
type Command struct {
	Program    *program.Program // freed by Process.Open
	Cloneflags uintptr

	// Stdio are the process's descriptors 0, 1 and 2.
	Stdio [3]uintptr
	// Files become program.FdFiles and up.
	Files []uintptr

	// Cgroup is the directory that the process is born in: CLONE_INTO_CGROUP
	// of clone(2). Negative is the shim's own.
	Cgroup int

	// Forks says that the Program forks (program.Plan.Forks): the child is
	// the Process, its parent ends.
	Forks bool

	// Around, if not nil, is given the clone to call when the Cgroup is not
	// frozen, and while nobody freezes it: Agent.clone says why.
	Around func(clone func() error) error

	// Listener gets the listener of the process's seccomp filter, if that has
	// one, before execve(2). It may not keep it.
	Listener func(pid int, listener *os.File) error

	// MountPoint makes the one that the agent misses, by its number in
	// program.Plan.MountPoints.
	MountPoint func(number int) error
}

// Process is a child of the shim, by pidfd: it cannot be mistaken for another
// that got its pid.
type Process struct {
	Pid     int
	program *program.Program
	pidfd   *os.File
	sock    *os.File

	listener   func(pid int, listener *os.File) error
	mountPoint func(number int) error

	// Received is what the agent sent along with its gate: a pty's master.
	// The caller owns it. Nil without one.
	Received *os.File

	// parent is the process group of a process that forks, until its child
	// has taken its place.
	parent int

	// reaped says that Wait has done so before the gate.
	reaped bool
}

// StepError is an Op that failed.
type StepError struct {
	Step  string // what it was for
	Errno unix.Errno
}

func (e *StepError) Error() string { return e.Step + ": " + e.Errno.Error() }
func (e *StepError) Unwrap() error { return e.Errno }

// Agent holds the executable that every process begins as.
type Agent struct {
	memfd int
	// emulator runs the agent of another machine, in a test.
	emulator string
}

// New makes the agent's executable. A shim does so once.
func New() (*Agent, error) {
	code, err := machineCode()
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	fd, err := newMemfd(executable(code, runtime.GOARCH))
	if err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	return &Agent{memfd: fd}, nil
}

// Close frees the executable. Processes that run are not touched.
func (a *Agent) Close() error { return unix.Close(a.memfd) }

// Start makes a process and waits until it stands at its gate, as long as ctx
// allows. After an error there is no process: it has been killed and reaped.
func (a *Agent) Start(ctx context.Context, c Command) (_ *Process, err error) {
	image, err := c.Program.Encode()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	// O_NONBLOCK belongs to the open file description: only our end waits
	// in Go's poller, the agent's blocks in read(2).
	sock, err := pollable(pair[0], "agent")
	if err != nil {
		sock.Close()
		unix.Close(pair[1])
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	p := &Process{program: c.Program, listener: c.Listener, mountPoint: c.MountPoint, sock: sock}
	clone := func() error { return a.clone(&c, p, pair[1]) }
	if c.Around == nil {
		err = clone()
	} else {
		err = c.Around(clone)
	}
	// Now, or the end of an agent that is killed would not be an end of file.
	unix.Close(pair[1])
	if err != nil {
		p.sock.Close()
		return nil, err
	}
	// A step that never returns (a dead NFS server) must not hold a request
	// for ever.
	if err := p.until(ctx, func() error { return p.begin(image) }); err != nil {
		return nil, errors.Join(err, p.abandon())
	}
	return p, nil
}

// until calls f, which uses the socket, for no longer than ctx allows.
func (p *Process) until(ctx context.Context, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = p.sock.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return err
}

// Pass opens a gate that is not the last, and waits until the process stands at
// the next. After an error the process is still there, to be abandoned.
func (p *Process) Pass(ctx context.Context) error {
	return p.until(ctx, func() error {
		if _, err := p.sock.Write([]byte{1}); err != nil {
			return fmt.Errorf("agent: ended at its gate: %w", err)
		}
		return p.arrive()
	})
}

// clone runs the agent in a new process. Precondition: that can run. The thread waits for its execve in the kernel,
// as after vfork(2), with signals blocked and without Go's scheduler knowing: were the process frozen, the next
// collection of garbage would wait for that thread, and all that goes on in the shim for the collection.
func (a *Agent) clone(c *Command, p *Process, sock int) error {
	pidfd := -1
	files := append([]uintptr{c.Stdio[0], c.Stdio[1], c.Stdio[2], uintptr(sock), uintptr(a.memfd)}, c.Files...)
	attr := &syscall.ProcAttr{
		Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags:  c.Cloneflags,
			UseCgroupFD: c.Cgroup >= 0,
			CgroupFD:    c.Cgroup,
			PidFD:       &pidfd,
			Setpgid:     c.Forks, // so that its child can be found
		},
	}
	// The agent's own descriptor is one of the list, so that ForkExec
	// cannot put another file over it before it is executed.
	path := fmt.Sprintf("/proc/self/fd/%d", program.FdAgent)
	var argv []string
	if a.emulator != "" {
		path, argv = a.emulator, []string{a.emulator, path}
	}
	var err error
	if p.Pid, err = syscall.ForkExec(path, argv, attr); err != nil {
		return fmt.Errorf("clone: %w", err)
	}
	// A pidfd with O_NONBLOCK makes waitid(2) answer EAGAIN instead of
	// waiting (Linux 5.10), so Go's poller waits, and no thread.
	if p.pidfd, err = pollable(pidfd, "pidfd"); err != nil {
		return errors.Join(fmt.Errorf("pidfd: %w", err), p.abandon())
	}
	if c.Forks {
		p.parent = p.Pid
	}
	return nil
}

// pollable makes a file that waits in Go's poller of a descriptor that has no other status flag (F_SETFL of
// fcntl(2)). There is one after an error, too.
func pollable(fd int, name string) (*os.File, error) {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_SETFL, unix.O_NONBLOCK)
	return os.NewFile(uintptr(fd), name), err
}

// begin sends the image and waits for the gate.
func (p *Process) begin(image []byte) error {
	// A message must fit the socket's buffer, which is above 200 kB by
	// default; the agent reads until it has all.
	const chunk = 64 << 10
	for len(image) > 0 {
		n := min(len(image), chunk)
		if _, err := p.sock.Write(image[:n]); err != nil {
			return fmt.Errorf("send program: %w", err)
		}
		image = image[n:]
	}
	return p.arrive()
}

// Open opens the gate and returns when execve(2) has happened, or with the
// step that failed. After an error the process is ending: Wait still reaps it.
func (p *Process) Open(ctx context.Context) error {
	defer p.sock.Close()
	if _, err := p.sock.Write([]byte{1}); err != nil {
		// It was killed at its gate: that is an exit like any other.
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = p.sock.SetDeadline(time.Unix(1, 0)) })
	m, err := p.receive(true)
	if err == nil && m.listener > 0 {
		if err = p.takeListener(m.listener); err == nil {
			_, err = p.receive(true)
		}
	}
	// It has served: a hundred kilobytes that would stay for the life of
	// the container.
	p.program.Free()
	p.program, p.listener, p.mountPoint = nil, nil, nil
	if !stop() && err != nil {
		// An execve that hangs (a dead NFS server) is not one that may
		// still happen after we said that it failed.
		return errors.Join(ctx.Err(), p.Signal(unix.SIGKILL))
	}
	return err
}

// Wait waits for the end of the process, reaps it, and says how and when it
// ended. It is called once.
func (p *Process) Wait() (unix.WaitStatus, error) {
	defer p.pidfd.Close()
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("pidfd: %w", err)
	}
	var ws unix.WaitStatus
	var werr error
	err = rc.Read(func(fd uintptr) bool {
		ws, werr = waitid(int(fd))
		return !errors.Is(werr, unix.EAGAIN) && !errors.Is(werr, unix.EINTR)
	})
	if err = errors.Join(err, werr); err != nil {
		return 0, fmt.Errorf("waitid: %w", err)
	}
	return ws, nil
}

// waitid reaps by pidfd and returns the status in the form of wait4(2).
func waitid(pidfd int) (unix.WaitStatus, error) {
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PIDFD, pidfd, &info, unix.WEXITED, nil); err != nil {
		return 0, err
	}
	code, status := siginfoStatus(&info)
	const cldExited, cldDumped = 1, 3
	switch code {
	case cldExited:
		return unix.WaitStatus(status << 8), nil
	case cldDumped:
		return unix.WaitStatus(status | 0x80), nil
	default:
		return unix.WaitStatus(status), nil
	}
}

// Close frees what is left of a process that Wait has reaped, be it that its
// gate was never opened.
func (p *Process) Close() { p.sock.Close() }

// Signal sends sig. A process that has ended is os.ErrProcessDone.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.Control(func(pidfd int) error {
		return unix.PidfdSendSignal(pidfd, sig, nil, 0)
	})
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("pidfd_send_signal: %w", err)
	}
	return err
}

// Control calls f with the pidfd, which stays open meanwhile. Once Wait has
// closed it the answer is os.ErrProcessDone.
func (p *Process) Control(f func(pidfd int) error) error {
	rc, err := p.pidfd.SyscallConn()
	if err != nil {
		return os.ErrProcessDone
	}
	var ferr error
	if err := rc.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return os.ErrProcessDone
	}
	return ferr
}

// Abandon ends a process that waits at its gate.
func (p *Process) Abandon() error { return p.abandon() }

// abandon kills the process and reaps it.
func (p *Process) abandon() error {
	p.sock.Close()
	if p.parent != 0 {
		return p.abandonFamily()
	}
	if p.Received != nil {
		p.Received.Close()
	}
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if p.reaped {
		return nil
	}
	_, err := p.Wait()
	return err
}

func describe(ws unix.WaitStatus) string {
	if ws.Signaled() {
		return unix.SignalName(ws.Signal())
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

// ExitStatus is the shell's form of a wait status: 128 plus the signal for a
// process that one killed.
func ExitStatus(ws unix.WaitStatus) uint32 {
	if ws.Signaled() {
		return 128 + uint32(ws.Signal())
	}
	return uint32(ws.ExitStatus())
}
