package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
	"github.com/containerd-mini/mini/shim/internal/stdio"
	"github.com/containerd-mini/mini/shim/internal/systemd"
)

// Bounds of what may wait for a process or for somebody outside.
const (
	freezeTimeout = 10 * time.Second
	deleteTimeout = 10 * time.Second
	// drainTimeout is how long an exit may wait for output to be read,
	// releaseTimeout how long a delete may, as in containerd's own runtime.
	drainTimeout   = 500 * time.Millisecond
	releaseTimeout = 2 * time.Second
)

// Config is what it takes to create a container.
type Config struct {
	ID     string
	Bundle string
	Spec   *specs.Spec
	Rootfs []Mount
	Stdio  stdio.Config

	// SeedDir is where the seed is kept, the mount namespace of the node that
	// containers copy: "" has them copy the host's.
	SeedDir string

	// CgroupRoot is where cgroup v2 is mounted.
	CgroupRoot string
	// SystemdCgroup asks for a scope of systemd's where the spec does not
	// say.
	SystemdCgroup bool
	// IgnoreControllers passes over limits whose controller is missing;
	// Ignored is told of each.
	IgnoreControllers bool
	Ignored           func(program.Write)

	// Warned is told of what went wrong and is no reason to fail.
	Warned func(error)

	// Created is called once, with the first process at its gate. Started
	// is called for each process that has begun to run.
	Created, Started func(*Process)
	// Exited is called once for each process that was created, when it has
	// ended. OOMKilled is called when the kernel has killed a process of
	// the container for want of memory below the container's own limit,
	// KilledForOthers when it was the limit of a cgroup above, or the
	// machine's memory: always before the Exited that it led to.
	Exited                     func(*Process)
	OOMKilled, KilledForOthers func()
}

// Container is a running container, or one that was. Methods may be called
// concurrently.
type Container struct {
	cfg   Config
	agent *agent.Agent
	group *cgroup.Group
	unit  string // of systemd, whose cgroup it is, or ""
	init  *Process

	cgroup    string      // its path
	filter    *program.Op // that loads its seccomp filter, for its execs
	stopped   sync.Once   // its poststop hooks have run
	stopWatch context.CancelFunc

	// alive ends with the first process: nobody goes on making an exec then.
	alive context.Context
	die   context.CancelFunc

	// cloning is held for reading while a process is cloned, and for writing
	// while the container is frozen: see agent.Command.
	cloning sync.RWMutex

	// deleting is held while the container is deleted: that is done once.
	deleting sync.Mutex
	deleted  bool

	// oomMu guards oom, the OOM kills that were told.
	oomMu sync.Mutex
	oom   cgroup.OOMKills

	// mu guards what follows, and is held while a state changes.
	mu    sync.Mutex
	execs map[string]*Process
	ended bool // the first process has
}

// Create makes a container: its first process stands at its gate, ready to
// start. After an error nothing of it is left.
func Create(ctx context.Context, a *agent.Agent, cfg Config) (_ *Container, err error) {
	if err := Kernel(); err != nil {
		return nil, err
	}
	if found, advice := cgroup.Layout(cfg.CgroupRoot); found != "" {
		return nil, fmt.Errorf("%s; %s", found, advice)
	}
	if err := compile.Labels(cfg.Spec, labelled(cfg.Spec, cfg.Spec.Process)); err != nil {
		return nil, err
	}
	c := &Container{cfg: cfg, agent: a, execs: map[string]*Process{}}
	c.alive, c.die = context.WithCancel(context.Background())
	var undo cleanup
	defer func() { err = undo.unless(err) }()

	ns := &maker{ctx: ctx, agent: a, seed: -1}
	defer ns.close()
	if cfg.SeedDir != "" {
		if ns.seed, err = OpenSeed(cfg.SeedDir); err != nil && cfg.Warned != nil {
			cfg.Warned(err) // it is slower without
		}
	}
	rootfs, err := openRootfs(cfg.Rootfs, rootPath(&cfg), ns)
	if err != nil {
		return nil, err
	}
	defer func() { unix.Close(rootfs) }()
	plan, err := c.compile(rootfs, ns.seed >= 0)
	if err != nil {
		return nil, err
	}
	c.filter = plan.Filter
	if err := c.record(plan, &undo); err != nil {
		return nil, err
	}
	if c.showsRootfs() {
		if rootfs, err = showRootfs(rootfs, rootPath(&cfg)); err != nil {
			return nil, err
		}
	}
	// Before the files: one of them may be the cgroup.
	if err := c.makeGroup(ctx, plan, &undo); err != nil {
		return nil, err
	}
	if plan.CgroupOwner != nil {
		if err := ownCgroup(c.group.FD(), int(*plan.CgroupOwner)); err != nil {
			return nil, fmt.Errorf("linux.cgroupsPath: %w", err)
		}
	}
	files, err := openFiles(plan.Files, rootfs, ns)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	c.init = newProcess(c, "", cfg.Spec.Process, cfg.Stdio)
	if err := c.init.make(ctx, plan, files, ns.mountPoints(plan, rootfs, files)); err != nil {
		return nil, err
	}
	if plan.Scope != nil {
		undo.add(c.init.discard)
		if err := c.startScope(ctx, plan); err != nil {
			return nil, err
		}
	}
	c.forget()
	var watch context.Context
	watch, c.stopWatch = context.WithCancel(context.Background())
	go c.watchOOM(watch)
	cfg.Created(c.init)
	go c.init.wait()
	return c, nil
}

// forget lets go of what it took to make the container.
func (c *Container) forget() {
	if !c.showsRootfs() {
		c.cfg.Rootfs = nil
	}
	c.cfg.Spec = compile.Keep(c.cfg.Spec)
	c.init.spec = c.cfg.Spec.Process
	c.cfg.Created = nil // and the request that it knows
}

func rootPath(cfg *Config) string {
	if cfg.Spec.Root == nil {
		return cfg.Bundle
	}
	if filepath.IsAbs(cfg.Spec.Root.Path) {
		return cfg.Spec.Root.Path
	}
	return filepath.Join(cfg.Bundle, cfg.Spec.Root.Path)
}

func (c *Container) compile(rootfs int, seed bool) (*program.Plan, error) {
	dir, scope, err := compile.Cgroup(c.cfg.ID, c.cfg.Spec, c.cfg.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	opt := compile.Options{ID: c.cfg.ID, Bundle: c.cfg.Bundle, Cgroup: dir, Seed: seed, SELinux: labelled(c.cfg.Spec, c.cfg.Spec.Process)}
	if p := c.cfg.Spec.Process; p != nil {
		opt.Home = home(rootfs, p.User.UID)
	}
	plan, err := compile.Container(c.cfg.Spec, opt)
	if err != nil {
		return nil, err
	}
	c.cgroup, plan.Scope = dir, scope
	return plan, nil
}

// record writes to the bundle what would be left to clean up after a kill of the
// shim, before there is any of it.
func (c *Container) record(plan *program.Plan, undo *cleanup) error {
	if plan.Scope != nil {
		c.unit = plan.Scope.Unit
	}
	r := record{Cgroup: c.cgroup, Unit: c.unit}
	if c.cfg.Spec.Hooks != nil {
		r.ID = c.cfg.ID
	}
	if c.showsRootfs() {
		r.Rootfs = rootPath(&c.cfg)
	}
	if err := r.write(c.cfg.Bundle); err != nil {
		return err
	}
	// The last of all: hooks come when the container is no more.
	undo.add(c.afterEnd)
	return nil
}

// makeGroup creates the cgroup with its limits, or for systemd without them.
func (c *Container) makeGroup(ctx context.Context, plan *program.Plan, undo *cleanup) error {
	if plan.Scope != nil {
		if err := systemd.Booted(); err != nil {
			return fmt.Errorf("linux.cgroupsPath: %w", err)
		}
		if err := ensureSlice(ctx, c.cfg.CgroupRoot, c.cgroup, plan.Scope); err != nil {
			return fmt.Errorf("linux.cgroupsPath: %w", err)
		}
	}
	group, err := cgroup.Create(c.cfg.CgroupRoot, c.cgroup, controllers(plan.Cgroup))
	if err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	c.group = group
	undo.add(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
		defer cancel()
		return errors.Join(stopScope(ctx, c.unit), group.Delete(ctx), group.Close())
	})
	if plan.Scope != nil {
		return nil
	}
	return c.apply(plan.Cgroup, nil)
}

// controllers are those that limits need, and those that count: a container
// without a limit is measured too, may be killed for want of memory by an
// ancestor's limit, and may be given a limit later.
func controllers(r program.Resources) []string {
	need := []string{"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"}
	for _, w := range r.Writes {
		if w.Controller != "" {
			need = append(need, w.Controller)
		}
	}
	return need
}

// apply sets limits. Those whose controller is missing are passed over if they
// change nothing, or if so configured. last, if not nil, is given those that
// were set, and undoes them by its error.
func (c *Container) apply(r program.Resources, last func(program.Resources) error) error {
	for {
		err := c.group.ApplyThen(r, func() error {
			if last == nil {
				return nil
			}
			return last(r)
		})
		var missing *cgroup.MissingControllerError
		if !errors.As(err, &missing) {
			return err
		}
		var kept []program.Write
		for _, w := range r.Writes {
			switch {
			case w.Controller != missing.Controller:
				kept = append(kept, w)
			case w.Default:
			case c.cfg.IgnoreControllers:
				c.cfg.Ignored(w)
			default:
				missing.Field = w.Field
				return missing
			}
		}
		r.Writes = kept
	}
}

// ID is the container's name.
func (c *Container) ID() string { return c.cfg.ID }

// Bundle is its directory.
func (c *Container) Bundle() string { return c.cfg.Bundle }

// Process returns the container's first process for "", or an exec.
func (c *Container) Process(execID string) (*Process, error) {
	if execID == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.execs[execID]; ok {
		return p, nil
	}
	return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.cfg.ID, errdefs.ErrNotFound)
}

// Exec registers a further process. It is made when it is started.
func (c *Container) Exec(execID string, proc *specs.Process, io stdio.Config) (*Process, error) {
	if err := allow(verbExec, c.init.State(), c.cfg.ID); err != nil {
		return nil, err
	}
	// What cannot be run is refused now, before it is registered. Without the
	// lock: this reads a file of the container's.
	plan, err := compile.Exec(c.cfg.Spec, proc, compile.Options{
		ID: c.cfg.ID, Bundle: c.cfg.Bundle, Home: homeIn(c.init.Pid(), proc.User.UID), Filter: c.filter,
		SELinux: labelled(c.cfg.Spec, proc),
	})
	if err != nil {
		return nil, err
	}
	p := newProcess(c, execID, proc, io)
	p.plan = plan
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[execID]; ok {
		return nil, fmt.Errorf("exec %s in container %s: %w", execID, c.cfg.ID, errdefs.ErrAlreadyExists)
	}
	if c.ended {
		return nil, errStopped(c.cfg.ID)
	}
	c.execs[execID] = p
	return p, nil
}

// Pause freezes all processes.
func (c *Container) Pause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := allow(verbPause, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeTimeout)
	defer cancel()
	c.cloning.Lock()
	defer c.cloning.Unlock()
	if err := c.group.Freeze(ctx); err != nil {
		return c.known(err)
	}
	c.init.pause(true)
	return nil
}

// thawed calls clone when the cgroup that it is to clone into is not frozen. We
// are not the only ones to freeze it: somebody may a cgroup above.
func (c *Container) thawed(dir int) func(clone func() error) error {
	return func(clone func() error) error {
		c.cloning.RLock()
		defer c.cloning.RUnlock()
		frozen, err := cgroup.Frozen(dir)
		if err != nil {
			return err
		}
		if frozen {
			return fmt.Errorf("container %s: its cgroup is frozen: %w", c.cfg.ID, errdefs.ErrFailedPrecondition)
		}
		return clone()
	}
}

// Resume lets them go on.
func (c *Container) Resume() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := allow(verbResume, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), freezeTimeout)
	defer cancel()
	if err := c.group.Thaw(ctx); err != nil {
		return c.known(err)
	}
	c.init.pause(false)
	return nil
}

// Update changes limits: all or none.
func (c *Container) Update(r *specs.LinuxResources) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := allow(verbUpdate, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	res, err := compile.Resources(r)
	if err != nil {
		return err
	}
	return c.apply(res, c.setScope)
}

// Pids are all processes of the container: those of its cgroup and of the
// cgroups below. Where that is gone there are none: systemd removes the cgroup
// of a scope with its last process.
func (c *Container) Pids() ([]int, error) {
	pids, err := c.group.Pids()
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return pids, c.known(err)
}

// ExecID tells which exec, "" for none, has the pid.
func (c *Container) ExecID(pid int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.execs {
		if p.Pid() == pid {
			return id
		}
	}
	return ""
}

// Stats measures the container.
func (c *Container) Stats() (*api.Metrics, error) {
	m, err := c.group.Stats()
	return m, c.known(err)
}

// known says of a question that came too late, to a cgroup that is gone, that it did.
func (c *Container) known(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("container %s: %w: %w", c.cfg.ID, errdefs.ErrNotFound, err)
	}
	return err
}

// KillAll signals every process of the container.
func (c *Container) KillAll(sig unix.Signal) error {
	if err := allow(verbKill, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	if sig == unix.SIGKILL {
		return c.group.Kill()
	}
	return c.signalAll(sig)
}

// signalAll sends by pidfd, to those only that are still in the cgroup after
// their pidfd is held: a pid that was used again is not one of them.
func (c *Container) signalAll(sig unix.Signal) error {
	pids, err := c.group.Pids()
	if err != nil {
		return c.known(err)
	}
	held := map[int]int{}
	defer func() {
		for _, fd := range held {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			held[pid] = fd
		}
	}
	if pids, err = c.group.Pids(); err != nil {
		return c.known(err)
	}
	for _, pid := range pids {
		fd, ok := held[pid]
		if !ok {
			continue
		}
		err := unix.PidfdSendSignal(fd, sig, nil, 0)
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("signal %d: unknown: %w", sig, errdefs.ErrInvalidArgument)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("signal %d: pidfd_send_signal: %w", pid, err)
		}
	}
	return nil
}

// Delete frees a container that has stopped, or was never started.
func (c *Container) Delete() error {
	c.deleting.Lock()
	defer c.deleting.Unlock()
	if c.deleted {
		return fmt.Errorf("container %s: %w", c.cfg.ID, errdefs.ErrNotFound)
	}
	if err := allow(verbDelete, c.init.State(), c.cfg.ID); err != nil {
		return err
	}
	if err := c.group.Kill(); err != nil {
		return err
	}
	<-c.init.done
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	if err := stopScope(ctx, c.unit); err != nil {
		return err
	}
	if err := c.group.Delete(ctx); err != nil {
		return err
	}
	c.deleted = true
	c.mu.Lock()
	execs := c.execs
	c.execs = map[string]*Process{}
	c.mu.Unlock()
	for _, p := range execs {
		// One whose start is under way is given up by now, as there is no
		// cgroup for it, and one that has run has ended.
		_ = p.neverStart()
		p.release()
	}
	c.init.release()
	c.stopWatch()
	err := errors.Join(c.group.Close(), c.afterEnd())
	c.removeMountPoint()
	return err
}

// removeMountPoint spares containerd 2 to read the host's whole mount table: it made the directory rootfs in the
// bundle for a shim to mount on, and unmounts what may be there (mount.UnmountRecursive), unless it is gone. What
// is mounted there, or has anything in it, stays: rmdir(2).
func (c *Container) removeMountPoint() { _ = unix.Rmdir(filepath.Join(c.cfg.Bundle, "rootfs")) }

// afterEnd runs the hooks that want to know of it, and removes what is in the
// bundle.
func (c *Container) afterEnd() error {
	c.stoppedHooks()
	if c.showsRootfs() {
		if err := hideRootfs(rootPath(&c.cfg)); err != nil {
			return err
		}
	}
	return removeRecord(c.cfg.Bundle)
}

// DeleteExec forgets an exec that has ended, or was never started.
func (c *Container) DeleteExec(p *Process) error {
	if err := p.neverStart(); err != nil {
		return err
	}
	p.release()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.execs[p.execID] == p { // and not another by its name
		delete(c.execs, p.execID)
	}
	return nil
}

// killRest ends what the first process left behind. In a pid namespace of its
// own nothing is: pid_namespaces(7). In a shared one the cgroup knows. Execs
// end before their container does.
func (c *Container) killRest() {
	c.mu.Lock()
	c.ended = true
	c.die()
	var started []*Process
	for _, p := range c.execs {
		if p.Pid() != 0 {
			started = append(started, p)
		}
	}
	c.mu.Unlock()
	// A cgroup that cannot be killed keeps its processes, and Delete will
	// say so.
	_ = c.group.Kill()
	for _, p := range started {
		select {
		case <-p.done:
		case <-time.After(deleteTimeout):
		}
	}
}

// stopping tells whether killRest has begun.
func (c *Container) stopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// watchOOM reports OOM kills while the container runs.
func (c *Container) watchOOM(ctx context.Context) {
	// Without its file there is nothing to watch; checkOOM looks once more
	// at the end.
	_ = c.group.OOMEvents(ctx, c.sawOOM)
}

func (c *Container) sawOOM(kills cgroup.OOMKills) {
	// Held while it is told: who finds that it has not grown may go on to
	// report the exit.
	c.oomMu.Lock()
	defer c.oomMu.Unlock()
	if kills.Own > c.oom.Own {
		c.oom.Own = kills.Own
		c.cfg.OOMKilled()
	}
	if kills.Others > c.oom.Others {
		c.oom.Others = kills.Others
		c.cfg.KilledForOthers()
	}
}

// checkOOM counts OOM kills before an exit is reported, as the watch may come
// later than the exit. killed is the first process, if SIGKILL ended it, or 0.
func (c *Container) checkOOM(killed int) {
	if kills, err := c.group.OOMKillsAtEnd(killed); err == nil {
		c.sawOOM(kills)
	}
}

// setOOMScore writes /proc/PID/oom_score_adj of a process that waits at its
// gate, and so has its pid: proc_pid_oom_score_adj(5).
func setOOMScore(pid, score int) error {
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	if err := os.WriteFile(path, []byte(strconv.Itoa(score)), 0); err != nil {
		return fmt.Errorf("process.oomScoreAdj: %d: %w", score, errors.Unwrap(err))
	}
	return nil
}
