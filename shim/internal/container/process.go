package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
	"github.com/containerd-mini/mini/shim/internal/stdio"
)

// Process is a process of a container: its first, or an exec.
type Process struct {
	container *Container
	execID    string
	spec      *specs.Process
	stdioCfg  stdio.Config
	plan      *program.Plan // of an exec, until it is made

	// start is held while the process is started: that is done once.
	start sync.Mutex

	// done is closed when the process has ended and that has been
	// reported.
	done chan struct{}
	// mu guards what follows.
	mu    sync.Mutex
	state State
	proc  *agent.Process // nil before it is made
	pid   int
	io    *stdio.IO
	// stdinEnded: CloseStdin has been called.
	stdinEnded bool
	status     uint32
	exited     time.Time
}

func newProcess(c *Container, execID string, spec *specs.Process, cfg stdio.Config) *Process {
	cfg.Terminal = spec.Terminal
	if cfg.UID == 0 && cfg.GID == 0 {
		// A user who is not root opens /dev/stdout anew.
		uid, gid := compile.HostIDs(c.cfg.Spec, spec.User)
		cfg.UID, cfg.GID = int(uid), int(gid)
	}
	return &Process{
		container: c, execID: execID, spec: spec, stdioCfg: cfg,
		done: make(chan struct{}),
	}
}

// make opens the streams and makes the process, up to its gate. After an error
// nothing is left.
func (p *Process) make(ctx context.Context, plan *program.Plan, files []int, mountPoint func(number int) error) (err error) {
	var devices netDevices
	defer devices.close() // after what undoes their move
	var undo cleanup
	defer func() { err = undo.unless(err) }()
	io, err := stdio.Open(ctx, p.stdioCfg)
	if err != nil {
		return err
	}
	undo.add(io.Close)
	cmd := agent.Command{
		Program: &plan.Program, Cloneflags: plan.Cloneflags,
		Cgroup: p.container.group.FD(), Forks: plan.Forks, MountPoint: mountPoint,
	}
	cmd.Around = p.container.thawed(cmd.Cgroup)
	if plan.Filter != nil && plan.Filter.Out != 0 {
		cmd.Listener = p.sendListener
	}
	for i, f := range io.Child() {
		cmd.Stdio[i] = f.Fd()
	}
	for _, fd := range files {
		cmd.Files = append(cmd.Files, uintptr(fd))
	}
	proc, err := p.container.agent.Start(ctx, cmd)
	if errors.Is(err, unix.EBUSY) && p.execID != "" {
		// The container has made cgroups of its own and given them
		// controllers: processes are in leaves alone, as its first is
		// (cgroups(7), "no internal processes").
		proc, err = p.startBesideInit(ctx, cmd)
	}
	if err != nil {
		return p.container.group.Refused(err)
	}
	undo.add(proc.Abandon)
	if plan.Waits {
		if err := devices.move(proc.Pid, plan.NetDevices, &undo); err != nil {
			return err
		}
		if err := p.container.createHooks(ctx, proc); err != nil {
			return err
		}
		if err := proc.Pass(ctx); err != nil {
			return err
		}
	}
	if plan.OOMScoreAdj != nil {
		if err := setOOMScore(proc.Pid, *plan.OOMScoreAdj); err != nil {
			return err
		}
	}
	if s := plan.Scheduler; s != nil {
		if err := unix.SchedSetAttr(proc.Pid, &s.Attr, 0); err != nil {
			return fmt.Errorf("process.scheduler: %s: %w", s.Name, err)
		}
	}
	if p.spec.Terminal {
		if err := takeConsole(io, proc.Received); err != nil {
			return err
		}
	}
	io.Started()
	p.mu.Lock()
	p.proc, p.pid, p.io = proc, proc.Pid, io
	ended := p.stdinEnded
	p.mu.Unlock()
	if ended {
		return io.CloseStdin()
	}
	return nil
}

// startBesideInit starts an exec in the cgroup that the container's first
// process has moved to.
func (p *Process) startBesideInit(ctx context.Context, cmd agent.Command) (*agent.Process, error) {
	c := p.container
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.init.Pid()))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		path, v2 := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !v2 || !strings.HasPrefix(path, c.cgroup+"/") {
			continue
		}
		fd, err := unix.Open(filepath.Join(c.cfg.CgroupRoot, path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		cmd.Cgroup, cmd.Around = fd, c.thawed(fd)
		return c.agent.Start(ctx, cmd)
	}
	return nil, fmt.Errorf("cgroup of process %d: not below the container's", c.init.Pid())
}

// takeConsole checks that what came out of the container is the master of a
// pty, before anything is done with it.
func takeConsole(io *stdio.IO, master *os.File) error {
	if master == nil {
		return errors.New("terminal: the agent sent none")
	}
	var stat unix.Stat_t
	rc, err := master.SyscallConn()
	if err == nil {
		if cerr := rc.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &stat) }); cerr != nil {
			err = cerr
		}
	}
	// Unix98 pty masters are char 5:2: pts(4).
	if err == nil && (stat.Mode&unix.S_IFMT != unix.S_IFCHR || stat.Rdev != unix.Mkdev(5, 2)) {
		err = errors.New("/dev/pts/ptmx is not a pty multiplexer")
	}
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	return io.SetConsole(master)
}

// Start starts the process. A container's stands at its gate; an exec is made
// now. After an error the process has ended.
func (p *Process) Start(ctx context.Context) error {
	made, err := p.tryStart(ctx)
	if err != nil && made {
		<-p.done
	}
	return err
}

// tryStart returns whether there is a process, which its waiter will report.
func (p *Process) tryStart(ctx context.Context) (made bool, err error) {
	p.start.Lock()
	defer p.start.Unlock()
	if err := allow(verbStart, p.State(), p.name()); err != nil {
		return false, err
	}
	if p.execID != "" {
		if err := p.makeExec(ctx); err != nil {
			// It never ran: containerd deletes it, and asks how it
			// ended.
			p.end(255, time.Now())
			close(p.done)
			return false, err
		}
		go p.wait()
	}
	init := p.execID == ""
	if init {
		if err := p.container.startHooks(ctx, p.proc); err != nil {
			return true, p.failed(err)
		}
	}
	if err := p.io.OpenInput(); err != nil {
		return true, p.failed(err)
	}
	if err := p.proc.Open(ctx); err != nil {
		return true, err
	}
	p.mu.Lock()
	p.state = Running
	p.mu.Unlock()
	if init {
		if err := p.container.startedHooks(ctx, p.proc); err != nil {
			return true, p.failed(err)
		}
	}
	p.container.cfg.Started(p)
	return true, nil
}

// failed ends the process because of err.
func (p *Process) failed(err error) error {
	if kerr := p.proc.Signal(unix.SIGKILL); !errors.Is(kerr, os.ErrProcessDone) {
		err = errors.Join(err, kerr)
	}
	return err
}

// makeExec makes an exec's process inside the container. It is given up when
// the container ends.
func (p *Process) makeExec(ctx context.Context) error {
	c := p.container
	if err := allow(verbExec, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	plan := p.plan
	p.plan = nil
	// The files have a pidfd of their own. To hold the first process's any
	// longer would keep its waiter from closing it, and from saying that it
	// has ended.
	var files []int
	err := c.init.proc.Control(func(pidfd int) (err error) {
		files, err = openFiles(plan.Files, pidfd, nil)
		return err
	})
	if errors.Is(err, os.ErrProcessDone) {
		return errStopped(c.cfg.ID)
	}
	if err != nil {
		return err
	}
	defer closeAll(files)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.alive, cancel)()
	err = p.make(ctx, plan, files, nil)
	if c.stopping() {
		if err == nil {
			// Its cgroup may have been killed before it was there.
			err = p.discard()
		}
		err = errors.Join(errStopped(c.cfg.ID), err)
	}
	return err
}

func errStopped(id string) error {
	return fmt.Errorf("container %s has stopped: %w", id, errdefs.ErrFailedPrecondition)
}

// wait waits for the end of the process and sees it through.
func (p *Process) wait() {
	ws, err := p.proc.Wait()
	at := time.Now()
	status := agent.ExitStatus(ws)
	if err != nil {
		status = 255
	}
	if p.execID == "" {
		p.container.killRest()
	}
	killed := 0
	if p.execID == "" && ws.Signaled() && ws.Signal() == unix.SIGKILL {
		killed = p.Pid()
	}
	p.container.checkOOM(killed)
	// First its last words: containerd's clients close their ends when they
	// hear of the exit. A reader that does not read delays it, and no more.
	_ = p.io.Drain(drainTimeout)
	// An end is never reported before its start.
	p.start.Lock()
	p.proc.Close()
	p.end(status, at)
	p.container.cfg.Exited(p)
	p.start.Unlock()
	close(p.done)
}

func (p *Process) end(status uint32, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.state, p.status, p.exited = Stopped, status, at
}

// neverStart prepares a process for its deletion: if it was not started it has
// ended now, for those who wait for it.
func (p *Process) neverStart() error {
	p.start.Lock()
	defer p.start.Unlock()
	state := p.State()
	if err := allow(verbDelete, state, p.name()); err != nil {
		return err
	}
	if state == Created {
		p.end(255, time.Now())
		close(p.done)
	}
	return nil
}

// release frees what is left of a process that has ended or never began.
func (p *Process) release() {
	p.mu.Lock()
	io := p.io
	p.mu.Unlock()
	if io != nil {
		// The process is gone: neither a reader that does not read nor
		// a log binary that has to be killed is a reason to keep it.
		_ = io.Drain(releaseTimeout)
		_ = io.Close()
	}
}

// Signal sends a signal to this process alone.
func (p *Process) Signal(sig unix.Signal) error {
	if err := allow(verbKill, p.State(), p.name()); err != nil {
		return err
	}
	p.mu.Lock()
	proc := p.proc
	p.mu.Unlock()
	if proc == nil {
		return fmt.Errorf("process %s: not started: %w", p.name(), errdefs.ErrFailedPrecondition)
	}
	err := proc.Signal(sig)
	if errors.Is(err, os.ErrProcessDone) {
		return allow(verbKill, Stopped, p.name())
	}
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("signal %d: unknown: %w", sig, errdefs.ErrInvalidArgument)
	}
	return err
}

// Resize sets the size of the terminal, in characters. Without a terminal
// there is nothing to do.
func (p *Process) Resize(width, height uint32) error {
	p.mu.Lock()
	io := p.io
	p.mu.Unlock()
	if io == nil || !p.spec.Terminal {
		return nil
	}
	return io.Resize(width, height)
}

// CloseStdin gives the process the end of its input, after what was written. A
// client may be through with it while the process is being made: it writes as
// soon as the streams are open.
func (p *Process) CloseStdin() error {
	p.mu.Lock()
	io := p.io
	p.stdinEnded = true
	p.mu.Unlock()
	if io == nil {
		return nil
	}
	return io.CloseStdin()
}

func (p *Process) pause(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case on && p.state == Running:
		p.state = Paused
	case !on && p.state == Paused:
		p.state = Running
	}
}

// State is where the process is in its life. An exec of a paused container is
// as paused as its container.
func (p *Process) State() State {
	p.mu.Lock()
	state := p.state
	p.mu.Unlock()
	if p.execID != "" && state == Running && p.container.init.State() == Paused {
		return Paused
	}
	return state
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Pid is 0 before the process is made.
func (p *Process) Pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Exit tells how and when the process ended: its exit status, or 128 plus a
// signal.
func (p *Process) Exit() (status uint32, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status, p.exited
}

// ExecID is "" for the container's first process.
func (p *Process) ExecID() string { return p.execID }

// Stdio is what the process was given.
func (p *Process) Stdio() stdio.Config { return p.stdioCfg }

func (p *Process) name() string {
	if p.execID != "" {
		return p.execID
	}
	return p.container.cfg.ID
}
