package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/bootstrap"
	"github.com/containerd-mini/mini/shim/internal/container"
	"github.com/containerd-mini/mini/shim/internal/program"
	"github.com/containerd-mini/mini/shim/internal/spec"
	"github.com/containerd-mini/mini/shim/internal/stdio"
)

// service is containerd's task API, for the containers of one shim: one, those
// of a pod, or those of a group that an operator has made.
type service struct {
	namespace string
	agent     *agent.Agent
	events    *publisher
	idle      *idle  // without containers
	rest      *idle  // without requests
	cgroups   string // where cgroup v2 is mounted
	seed      string // where the seed is, see container.Config
	shutdown  func() // ends the shim when it has replied to all
	socket    string // where it listens
	linger    bool   // Shutdown is left to the idle timer
	// forgetAfter is how often to look whether containerd still knows of a
	// container that has ended.
	forgetAfter time.Duration

	// mu guards what follows. A nil container is one that is being created.
	mu         sync.Mutex
	containers map[string]*container.Container
	ending     bool
}

func (s *service) container(id string) (*container.Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (s *service) process(id, execID string) (*container.Container, *container.Process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.Process(execID)
	return c, p, err
}

// Create makes a container, up to the gate before its program.
func (s *service) Create(ctx context.Context, r *api.CreateTaskRequest) (*api.CreateTaskResponse, error) {
	if err := s.reserve(r.ID); err != nil {
		return nil, err
	}
	var c *container.Container
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.containers[r.ID] = c; c == nil { // also after a panic
			delete(s.containers, r.ID)
			s.idle.set(len(s.containers) == 0)
		}
	}()
	c, err := s.create(ctx, r)
	if err != nil {
		return nil, err
	}
	p, err := c.Process("")
	if err != nil {
		return nil, err
	}
	return &api.CreateTaskResponse{Pid: uint32(p.Pid())}, nil
}

func (s *service) reserve(id string) error {
	if id == "" {
		return fmt.Errorf("id: missing: %w", errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return fmt.Errorf("the shim is shutting down: %w", errdefs.ErrUnavailable)
	}
	if _, ok := s.containers[id]; ok {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.containers[id] = nil
	s.idle.set(false)
	return nil
}

func (s *service) create(ctx context.Context, r *api.CreateTaskRequest) (*container.Container, error) {
	if r.Checkpoint != "" {
		return nil, fmt.Errorf("checkpoint: restore: not supported: %w", errdefs.ErrNotImplemented)
	}
	opts, err := parseOptions(r.Options)
	if err != nil {
		return nil, err
	}
	config, err := readSpec(r.Bundle)
	if err != nil {
		return nil, err
	}
	if config.Process != nil {
		config.Process.Terminal = r.Terminal
	}
	return container.Create(ctx, s.agent, container.Config{
		ID: r.ID, Bundle: r.Bundle, Spec: config,
		Rootfs: rootfsMounts(r.Rootfs),
		Stdio: stdio.Config{
			Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, ID: r.ID, Namespace: s.namespace,
			UID: int(opts.ioUID), GID: int(opts.ioGID),
		},
		CgroupRoot:        s.cgroups,
		SeedDir:           s.seed,
		SystemdCgroup:     opts.systemdCgroup,
		IgnoreControllers: opts.ignoreControllers,
		Ignored: func(w program.Write) {
			warn(r.Bundle, "limit passed over: the host has no such controller", "field", w.Field, "controller", w.Controller)
		},
		Warned:    func(err error) { warn(r.Bundle, "container", "id", r.ID, "error", err) },
		Created:   func(p *container.Process) { s.created(r, p) },
		Started:   func(p *container.Process) { s.started(r.ID, p) },
		Exited:    func(p *container.Process) { s.exited(r.ID, p) },
		OOMKilled: func() { s.events.send(topicOOM, &api.TaskOOM{ContainerID: r.ID}) },
		KilledForOthers: func() {
			warn(r.Bundle, "process killed for want of memory above the container's own limit", "id", r.ID)
		},
	})
}

// maxSpec bounds config.json: the daemon's own messages are no larger.
const maxSpec = 16 << 20

func readSpec(bundle string) (*specs.Spec, error) {
	if !filepath.IsAbs(bundle) {
		return nil, fmt.Errorf("bundle: %q: not an absolute path: %w", bundle, errdefs.ErrInvalidArgument)
	}
	path := filepath.Join(bundle, "config.json")
	// O_NONBLOCK means nothing for a regular file, and spares the four calls by which os.Open would try it.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Size() > maxSpec {
		return nil, fmt.Errorf("%s: %d bytes, at most %d: %w", path, st.Size(), maxSpec, errdefs.ErrInvalidArgument)
	}
	data := make([]byte, st.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	var config specs.Spec
	if err := spec.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return &config, nil
}

func rootfsMounts(in []*api.Mount) []container.Mount {
	var out []container.Mount
	for _, m := range in {
		out = append(out, container.Mount{Type: m.Type, Source: m.Source, Options: m.Options})
	}
	return out
}

func (s *service) created(r *api.CreateTaskRequest, p *container.Process) {
	s.events.send("/tasks/create", &api.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Pid: uint32(p.Pid()),
		IO: &api.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
}

func (s *service) started(id string, p *container.Process) {
	if p.ExecID() != "" {
		s.events.send("/tasks/exec-started", &api.TaskExecStarted{ContainerID: id, ExecID: p.ExecID(), Pid: uint32(p.Pid())})
		return
	}
	s.events.send("/tasks/start", &api.TaskStart{ContainerID: id, Pid: uint32(p.Pid())})
}

func (s *service) exited(id string, p *container.Process) {
	name := p.ExecID()
	if name == "" {
		name = id
	}
	status, at := p.Exit()
	s.events.send("/tasks/exit", &api.TaskExit{
		ContainerID: id, ID: name, Pid: uint32(p.Pid()), ExitStatus: status, ExitedAt: api.Time(at),
	})
	if p.ExecID() == "" {
		time.AfterFunc(s.forgetAfter, func() { s.forgotten(id) })
	}
}

// forgotten deletes a container that has ended and that containerd knows
// nothing of any more: it has removed the bundle. As long as that is there,
// containerd may come back and ask how the container ended.
func (s *service) forgotten(id string) {
	c, err := s.container(id)
	if err != nil {
		return
	}
	if _, err := os.Stat(c.Bundle()); !errors.Is(err, os.ErrNotExist) {
		time.AfterFunc(s.forgetAfter, func() { s.forgotten(id) })
		return
	}
	if err := c.Delete(); err != nil {
		warn(".", "delete a forgotten container", "id", id, "error", err)
	}
	s.forget(id, c)
}

// Start lets a container run, or makes an exec.
func (s *service) Start(ctx context.Context, r *api.StartRequest) (*api.StartResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withoutCaller(ctx)
	defer cancel()
	if err := p.Start(ctx); err != nil {
		return nil, err
	}
	return &api.StartResponse{Pid: uint32(p.Pid())}, nil
}

// withoutCaller is ctx with its deadline, but not cancelled when the connection ends: a containerd that is killed
// while it starts a process finds it running when it is back, and not killed half way.
func withoutCaller(ctx context.Context) (context.Context, context.CancelFunc) {
	if deadline, ok := ctx.Deadline(); ok {
		return context.WithDeadline(context.WithoutCancel(ctx), deadline)
	}
	return context.WithoutCancel(ctx), func() {}
}

// Exec registers a process to be started in a container.
func (s *service) Exec(_ context.Context, r *api.ExecProcessRequest) (*api.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		return nil, fmt.Errorf("exec_id: missing: %w", errdefs.ErrInvalidArgument)
	}
	var proc specs.Process
	if err := spec.Unmarshal(r.Spec.GetValue(), &proc); err != nil {
		return nil, fmt.Errorf("spec: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	proc.Terminal = r.Terminal
	_, err = c.Exec(r.ExecID, &proc, stdio.Config{
		Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, ID: r.ID, Namespace: s.namespace,
	})
	if err != nil {
		return nil, err
	}
	s.events.send("/tasks/exec-added", &api.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &api.Empty{}, nil
}

var statuses = map[container.State]api.Status{
	container.Created: api.Created,
	container.Running: api.Running,
	container.Paused:  api.Paused,
	container.Stopped: api.Stopped,
}

// State tells where a process is in its life.
func (s *service) State(_ context.Context, r *api.StateRequest) (*api.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	io := p.Stdio()
	resp := &api.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: c.Bundle(), Pid: uint32(p.Pid()), Status: statuses[p.State()],
		Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: io.Terminal,
	}
	if p.State() == container.Stopped {
		status, at := p.Exit()
		resp.ExitStatus, resp.ExitedAt = status, api.Time(at)
	}
	return resp, nil
}

// Wait waits for the end of a process.
func (s *service) Wait(ctx context.Context, r *api.WaitRequest) (*api.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	status, at := p.Exit()
	return &api.WaitResponse{ExitStatus: status, ExitedAt: api.Time(at)}, nil
}

// Kill signals one process, or all of a container.
func (s *service) Kill(_ context.Context, r *api.KillRequest) (*api.Empty, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.All && r.ExecID == "" {
		err = c.KillAll(unix.Signal(r.Signal))
	} else {
		err = p.Signal(unix.Signal(r.Signal))
	}
	return &api.Empty{}, err
}

// Pids lists the processes of a container. One that has ended and is not
// deleted yet is listed by its first process: a containerd that comes back
// takes an empty list for a leaked shim, and would bury how the container ended.
func (s *service) Pids(_ context.Context, r *api.PidsRequest) (*api.PidsResponse, error) {
	c, p, err := s.process(r.ID, "")
	if err != nil {
		return nil, err
	}
	pids, err := c.Pids()
	if err != nil {
		return nil, err
	}
	if len(pids) == 0 {
		pids = []int{p.Pid()}
	}
	resp := &api.PidsResponse{}
	for _, pid := range pids {
		info := &api.ProcessInfo{Pid: uint32(pid)}
		if execID := c.ExecID(pid); execID != "" {
			info.Info = &api.Any{
				TypeURL: "containerd.runc.v1.ProcessDetails", Value: api.Marshal(&api.ProcessDetails{ExecID: execID}),
			}
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}

// Pause freezes a container.
func (s *service) Pause(_ context.Context, r *api.PauseRequest) (*api.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.Pause(); err != nil {
		return nil, err
	}
	s.events.send("/tasks/paused", &api.TaskPaused{ContainerID: r.ID})
	return &api.Empty{}, nil
}

// Resume undoes Pause.
func (s *service) Resume(_ context.Context, r *api.ResumeRequest) (*api.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if err := c.Resume(); err != nil {
		return nil, err
	}
	s.events.send("/tasks/resumed", &api.TaskResumed{ContainerID: r.ID})
	return &api.Empty{}, nil
}

// Update changes the limits of a container.
func (s *service) Update(_ context.Context, r *api.UpdateTaskRequest) (*api.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	var res specs.LinuxResources
	if err := spec.Unmarshal(r.Resources.GetValue(), &res); err != nil {
		return nil, fmt.Errorf("resources: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return &api.Empty{}, c.Update(&res)
}

// Stats measures a container.
func (s *service) Stats(_ context.Context, r *api.StatsRequest) (*api.StatsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	m, err := c.Stats()
	if err != nil {
		return nil, err
	}
	return &api.StatsResponse{Stats: &api.Any{TypeURL: "io.containerd.cgroups.v2.Metrics", Value: api.Marshal(m)}}, nil
}

// ResizePty sets the size of a terminal.
func (s *service) ResizePty(_ context.Context, r *api.ResizePtyRequest) (*api.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	return &api.Empty{}, p.Resize(r.Width, r.Height)
}

// CloseIO ends a process's input.
func (s *service) CloseIO(_ context.Context, r *api.CloseIORequest) (*api.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if !r.Stdin {
		return &api.Empty{}, nil
	}
	return &api.Empty{}, p.CloseStdin()
}

// Connect tells the pids of the shim and of the container.
func (s *service) Connect(_ context.Context, r *api.ConnectRequest) (*api.ConnectResponse, error) {
	resp := &api.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if _, p, err := s.process(r.ID, ""); err == nil {
		resp.TaskPid = uint32(p.Pid())
	}
	return resp, nil
}

// Delete frees a process that has ended, or a container.
func (s *service) Delete(_ context.Context, r *api.DeleteRequest) (*api.DeleteResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if r.ExecID != "" {
		if err := c.DeleteExec(p); err != nil {
			return nil, err
		}
		return deleted(p), nil
	}
	if err := c.Delete(); err != nil {
		return nil, err
	}
	s.forget(r.ID, c)
	resp := deleted(p)
	s.events.send("/tasks/delete", &api.TaskDelete{
		ContainerID: r.ID, ID: r.ID, Pid: resp.Pid, ExitStatus: resp.ExitStatus, ExitedAt: resp.ExitedAt,
	})
	return resp, nil
}

func deleted(p *container.Process) *api.DeleteResponse {
	status, at := p.Exit()
	return &api.DeleteResponse{Pid: uint32(p.Pid()), ExitStatus: status, ExitedAt: api.Time(at)}
}

func (s *service) forget(id string, c *container.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[id] == c { // and not another by its name
		delete(s.containers, id)
	}
	s.idle.set(len(s.containers) == 0)
}

// Checkpoint is not implemented.
func (s *service) Checkpoint(context.Context, *api.CheckpointTaskRequest) (*api.Empty, error) {
	return nil, fmt.Errorf("checkpoint: not supported: %w", errdefs.ErrNotImplemented)
}

// Shutdown ends the shim, unless other containers of its pod need it. One that
// lingers may be the next pod's already.
func (s *service) Shutdown(context.Context, *api.ShutdownRequest) (*api.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.containers) == 0 && !s.linger {
		_ = os.Remove(s.socket)
		s.end()
	}
	return &api.Empty{}, nil
}

// endIfIdle ends a shim that has had no containers for a while, if none is on its way.
func (s *service) endIfIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.containers) > 0:
	case bootstrap.Retire(s.socket, s.idle.timeout):
		s.end()
	default:
		s.idle.set(true)
	}
}

// end is for when nobody can be sent to the socket any more: from then on a new
// shim may have one of the same name.
func (s *service) end() {
	s.ending = true
	s.shutdown()
}
