package container

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
)

// Hooks are the user's own programs, and the only ones that run beneath the shim
// besides log binaries: runtime-spec config.md#posix-platform-hooks. Those of the
// runtime's namespaces are children of the shim. Those of the container's are made
// as an exec is, by the agent: so there is one way into a container, no thread of
// the shim ever is in there, and a hook that is a program of the image has no more
// rights than the image's others. Both get the state on stdin, and what they print
// is told if they fail.

const (
	// hookOutput is how much of a hook's output an error has.
	hookOutput = 4 << 10
	// hookGrace is how long the output of a hook that has ended is waited for:
	// what it left running may hold it open.
	hookGrace = 100 * time.Millisecond
	// stoppedTimeout is for all hooks of a deletion, which must come to an end.
	stoppedTimeout = 30 * time.Second
)

// hookWay makes the process of a hook with these streams. The pid is the
// container's, as the hook is to see it.
type hookWay struct {
	pid   int
	spawn func(ctx context.Context, h *specs.Hook, in, out *os.File) (hookProcess, error)
}

// hookProcess is a hook that runs.
type hookProcess interface {
	kill() error
	wait() (unix.WaitStatus, error)
}

// hooks are those of one kind.
func (c *Container) hooks(kind string) []specs.Hook {
	for _, h := range compile.AllHooks(c.cfg.Spec.Hooks) {
		if h.Name == kind {
			return h.List
		}
	}
	return nil
}

// runHooks runs those of one kind, in their order, until one fails.
func (c *Container) runHooks(ctx context.Context, kind string, status specs.ContainerState, way hookWay) error {
	for i, h := range c.hooks(kind) {
		state := specs.State{
			Version: c.cfg.Spec.Version, ID: c.cfg.ID, Status: status,
			Pid: way.pid, Bundle: c.cfg.Bundle, Annotations: c.cfg.Spec.Annotations,
		}
		err := runHook(ctx, &h, &state, way)
		if err == nil {
			continue
		}
		err = fmt.Errorf("hooks.%s[%d]: %s: %w", kind, i, h.Path, err)
		if status != specs.StateStopped {
			return err
		}
		// After the end the others run as if it had not failed.
		if c.cfg.Warned != nil {
			c.cfg.Warned(err)
		}
	}
	return nil
}

// runHook runs one to its end.
func runHook(ctx context.Context, h *specs.Hook, state *specs.State, way hookWay) error {
	if h.Timeout != nil {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(*h.Timeout)*time.Second,
			fmt.Errorf("not done within %d s", *h.Timeout))
		defer cancel()
	}
	in, err := stateFile(state)
	if err != nil {
		return err
	}
	defer in.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := way.spawn(ctx, h, in, w)
	w.Close()
	if err != nil {
		return err
	}
	read := make(chan []byte, 1)
	go func() { read <- tail(r) }()
	stop := context.AfterFunc(ctx, func() { _ = p.kill() })
	ws, err := p.wait()
	stopped := !stop()
	_ = r.SetReadDeadline(time.Now().Add(hookGrace))
	output := <-read
	switch {
	case err != nil:
		return err
	case stopped && ctx.Err() != nil:
		err = context.Cause(ctx)
	case ws.Signaled():
		err = errors.New(unix.SignalName(ws.Signal()))
	case ws.ExitStatus() != 0:
		err = fmt.Errorf("exit status %d", ws.ExitStatus())
	default:
		return nil
	}
	if len(output) > 0 {
		err = fmt.Errorf("%w: %s", err, output)
	}
	return err
}

// stateFile is the state as a file to be read: one whose reader does not read is
// nobody's trouble.
func stateFile(state *specs.State) (*os.File, error) {
	data, err := json.Marshal(state)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("state", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), "state")
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// tail reads to the end and keeps the last of it.
func tail(r *os.File) []byte {
	var kept []byte
	buf := make([]byte, hookOutput)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:n]...)
		if len(kept) > hookOutput {
			kept = append([]byte("..."), kept[len(kept)-hookOutput:]...)
		}
		if err != nil {
			return bytes.TrimSpace(kept)
		}
	}
}

// outside is the way of the hooks of the runtime's namespaces.
func (c *Container) outside(pid int) hookWay {
	return hookWay{pid, func(_ context.Context, h *specs.Hook, in, out *os.File) (hookProcess, error) {
		args := h.Args
		if len(args) == 0 {
			args = []string{h.Path}
		}
		p, err := os.StartProcess(h.Path, args, &os.ProcAttr{
			Dir: c.cfg.Bundle, Env: append([]string{}, h.Env...), Files: []*os.File{in, out, out},
			// A group of its own: what it started goes with it.
			Sys: &syscall.SysProcAttr{Setpgid: true},
		})
		if err != nil {
			return nil, errors.Unwrap(err)
		}
		return &hostHook{p: p}, nil
	}}
}

// hostHook is the first process of a group, whose number is the group's. It is
// nobody else's until that process is reaped: kill and the reaping must not meet.
type hostHook struct {
	p *os.Process

	mu     sync.Mutex
	reaped bool
}

func (h *hostHook) kill() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reaped {
		return nil
	}
	return unix.Kill(-h.p.Pid, unix.SIGKILL)
}

func (h *hostHook) wait() (unix.WaitStatus, error) {
	// WNOWAIT leaves it a zombie, waitid(2).
	for {
		err := unix.Waitid(unix.P_PID, h.p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return 0, fmt.Errorf("waitid: %w", err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reaped = true
	state, err := h.p.Wait()
	if err != nil {
		return 0, err
	}
	return unix.WaitStatus(state.Sys().(syscall.WaitStatus)), nil
}

// inside is the way of the hooks of the container's namespaces, those of proc.
func (c *Container) inside(proc *agent.Process, compiled func(h *specs.Hook) (*program.Plan, error)) (hookWay, error) {
	pid, err := innerPid(proc.Pid)
	if err != nil {
		return hookWay{}, err
	}
	return hookWay{pid, func(ctx context.Context, h *specs.Hook, in, out *os.File) (hookProcess, error) {
		plan, err := compiled(h)
		if err != nil {
			return nil, err
		}
		return c.spawnInside(ctx, proc, plan, in, out)
	}}, nil
}

func (c *Container) spawnInside(ctx context.Context, proc *agent.Process, plan *program.Plan, in, out *os.File) (h hookProcess, err error) {
	cerr := proc.Control(func(pidfd int) error {
		cmd := agent.Command{Program: &plan.Program, Cgroup: c.group.FD(), Forks: plan.Forks, Files: []uintptr{uintptr(pidfd)}}
		cmd.Around = c.thawed(cmd.Cgroup)
		cmd.Stdio = [3]uintptr{in.Fd(), out.Fd(), out.Fd()}
		p, err := c.agent.Start(ctx, cmd)
		if err != nil {
			return err
		}
		if err := p.Open(ctx); err != nil {
			return errors.Join(err, p.Abandon())
		}
		h = innerHook{p}
		return nil
	})
	return h, cerr
}

type innerHook struct{ p *agent.Process }

func (h innerHook) kill() error                    { return h.p.Signal(unix.SIGKILL) }
func (h innerHook) wait() (unix.WaitStatus, error) { return h.p.Wait() }

// innerPid is the pid in the innermost of a process's pid namespaces:
// proc_pid_status(5).
func innerPid(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			pids := strings.Fields(list)
			return strconv.Atoi(pids[len(pids)-1])
		}
	}
	return 0, errors.New("status: no NSpid")
}

// createHooks runs those before the container has its root, which it waits for.
func (c *Container) createHooks(ctx context.Context, proc *agent.Process) error {
	for _, kind := range []string{"prestart", "createRuntime"} {
		if err := c.runHooks(ctx, kind, specs.StateCreating, c.outside(proc.Pid)); err != nil {
			return err
		}
	}
	if len(c.hooks("createContainer")) == 0 {
		return nil
	}
	way, err := c.inside(proc, func(h *specs.Hook) (*program.Plan, error) {
		return compile.CreateContainerHook(c.cfg.Spec, h)
	})
	if err != nil {
		return err
	}
	return c.runHooks(ctx, "createContainer", specs.StateCreating, way)
}

// startHooks runs those before the container's program, inside.
func (c *Container) startHooks(ctx context.Context, proc *agent.Process) error {
	if len(c.hooks("startContainer")) == 0 {
		return nil
	}
	way, err := c.inside(proc, func(h *specs.Hook) (*program.Plan, error) {
		return compile.StartContainerHook(c.cfg.Spec, h, compile.Options{
			ID: c.cfg.ID, Bundle: c.cfg.Bundle, Filter: c.filter, SELinux: labelled(c.cfg.Spec, nil),
		})
	})
	if err != nil {
		return err
	}
	return c.runHooks(ctx, "startContainer", specs.StateCreated, way)
}

// startedHooks runs those after the container's program has begun.
func (c *Container) startedHooks(ctx context.Context, proc *agent.Process) error {
	return c.runHooks(ctx, "poststart", specs.StateRunning, c.outside(proc.Pid))
}

// stoppedHooks runs those after the end, once.
func (c *Container) stoppedHooks() {
	c.stopped.Do(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), stoppedTimeout,
			fmt.Errorf("not done within %s", stoppedTimeout))
		defer cancel()
		_ = c.runHooks(ctx, "poststop", specs.StateStopped, c.outside(0))
	})
}
