package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// run is a benchmark that runs.
type run struct {
	*daemon
	all    []contender
	table  table
	serial int
	stage  *stage // of the parts about snapshots, once raised
}

// id is a name that no container had yet.
func (r *run) id(c contender) string {
	r.serial++
	return fmt.Sprintf("%s-%d", c.name, r.serial)
}

// interleave calls f once for each of all in each round. Each round has an order of its own: what
// one leaves the kernel to do, the next has to bear. The first r.warmup rounds do not count.
func (r *run) interleave(all []contender, n int, f func(c contender, counts bool) error) error {
	order := rand.New(rand.NewPCG(1, 1)) //nolint:gosec // G404: no secret, and the same in every run
	for i := range r.warmup + n {
		for _, j := range order.Perm(len(all)) {
			c := all[j]
			if err := f(c, i >= r.warmup); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// profile is a spec to measure with.
type profile struct {
	name string
	opts []oci.SpecOpts
}

// profiles are containerd's default spec, which has no limits, without and with its seccomp profile.
func profiles() []profile {
	return []profile{
		{"without seccomp", nil},
		{"with containerd's seccomp profile", []oci.SpecOpts{seccomp.WithDefaultProfile()}},
	}
}

// older makes the spec one that Debian's crun accepts: 1.8 knows no ociVersion but 1.0. All get the same.
func older(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Version = "1.0.2"
	return nil
}

// undevised takes the device rules out of a spec.
func undevised(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Linux.Resources.Devices = nil
	return nil
}

// probe runs one container with each contender, and says what is not the same for all.
//
// Debian's crun 1.8 cannot load a device filter without CAP_SYS_RESOURCE: it raises RLIMIT_MEMLOCK
// first, which no kernel since 5.11 asks for. There it goes without: to its advantage.
func (r *run) probe() (list []fact, err error) {
	for i := range r.all {
		c := &r.all[i]
		err := r.life(&section{}, *c, false, nil)
		if err != nil && c.binary != "" && strings.Contains(err.Error(), "RLIM_MEMLOCK") {
			c.opts = append(c.opts, undevised)
			list = append(list, fact{c.name + " has less to do", "no device filter: it needs CAP_SYS_RESOURCE for one"})
			err = r.life(&section{}, *c, false, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return list, nil
}

var sleeper = oci.WithProcessArgs("/bin/sleep", "1000000")

// container makes a container's record and its snapshot.
func (r *run) container(c contender, id string, opts ...oci.SpecOpts) (containerd.Container, error) {
	return r.client.NewContainer(r.ctx, id, c.runtime(),
		containerd.WithSnapshotter(snapshotter),
		containerd.WithNewSnapshot(id, r.image),
		containerd.WithNewSpec(slices.Concat(opts, []oci.SpecOpts{older}, c.opts)...))
}

// running makes a container that runs until it is killed.
func (r *run) running(c contender, id string, opts ...oci.SpecOpts) (containerd.Task, error) {
	made, err := r.container(c, id, append([]oci.SpecOpts{sleeper}, opts...)...)
	if err != nil {
		return nil, err
	}
	task, err := made.NewTask(r.ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	return task, task.Start(r.ctx)
}

// remove takes away what running has made.
func (r *run) remove(task containerd.Task) error {
	if _, err := task.Delete(r.ctx, containerd.WithProcessKill); err != nil {
		return err
	}
	made, err := r.client.LoadContainer(r.ctx, task.ID())
	if err != nil {
		return err
	}
	return made.Delete(r.ctx, containerd.WithSnapshotCleanup)
}

// watch cuts time into laps.
type watch struct{ begun, last time.Time }

func newWatch() *watch {
	now := time.Now()
	return &watch{begun: now, last: now}
}

// lap is the time since the last lap, in milliseconds.
func (w *watch) lap() float64 {
	now := time.Now()
	d := now.Sub(w.last)
	w.last = now
	return milliseconds(d)
}

func (w *watch) total() float64 { return milliseconds(w.last.Sub(w.begun)) }

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// measureLives follows single containers from nothing to nothing.
func (r *run) measureLives() error {
	for _, p := range profiles() {
		s := r.table.section("A container of /bin/true through containerd, "+p.name, "ms")
		err := r.interleave(r.all, r.n, func(c contender, counts bool) error {
			return r.life(s, c, counts, p.opts)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *run) life(s *section, c contender, counts bool, opts []oci.SpecOpts) error {
	id := r.id(c)
	opts = append([]oci.SpecOpts{oci.WithProcessArgs("/bin/true")}, opts...)
	w := newWatch()
	made, err := r.container(c, id, opts...)
	if err != nil {
		return fmt.Errorf("container: %w", err)
	}
	record := w.lap()
	task, err := made.NewTask(r.ctx, cio.NullIO)
	if err != nil {
		return errors.Join(fmt.Errorf("create: %w", err), made.Delete(r.ctx, containerd.WithSnapshotCleanup))
	}
	create := w.lap()
	exited, err := task.Wait(r.ctx)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if err := task.Start(r.ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	start := w.lap()
	if err := succeeded(<-exited); err != nil {
		return err
	}
	exit := w.lap()
	if _, err := task.Delete(r.ctx); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	remove := w.lap()
	if err := made.Delete(r.ctx, containerd.WithSnapshotCleanup); err != nil {
		return fmt.Errorf("container delete: %w", err)
	}
	record += w.lap()
	if counts {
		s.add("create", c, create)
		s.add("start", c, start)
		s.add("exit", c, exit)
		s.add("delete", c, remove)
		s.add("sum of these", c, create+start+exit+remove)
		s.add("container and snapshot, made and removed", c, record)
		s.add("whole life", c, w.total())
	}
	return nil
}

// succeeded is an error for a process that did not do its work: its figures are not worth a thing.
func succeeded(status containerd.ExitStatus) error {
	code, _, err := status.Result()
	if err == nil && code != 0 {
		err = fmt.Errorf("exit status %d", code)
	}
	return err
}

// measureExecs runs processes in one container for each contender.
func (r *run) measureExecs() error {
	for _, p := range profiles() {
		s := r.table.section("An exec of /bin/true through containerd, "+p.name, "ms")
		tasks, err := r.execTasks(r.all, p.opts)
		if err != nil {
			return err
		}
		err = r.interleave(r.all, r.n, func(c contender, counts bool) error {
			return r.exec(s, c, counts, tasks[c.name])
		})
		if err != nil {
			return err
		}
		if err := r.removeTasks(tasks); err != nil {
			return err
		}
	}
	return nil
}

// execTask is a container that runs, and the process to run in it.
type execTask struct {
	containerd.Task
	process *specs.Process
}

// execTasks makes one for each of all, by its name.
func (r *run) execTasks(all []contender, opts []oci.SpecOpts) (map[string]execTask, error) {
	tasks := make(map[string]execTask)
	for _, c := range all {
		task, err := r.running(c, r.id(c), opts...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		spec, err := task.Spec(r.ctx)
		if err != nil {
			return nil, err
		}
		// As a kubelet's probe: the container's own process with other arguments.
		spec.Process.Args = []string{"/bin/true"}
		tasks[c.name] = execTask{task, spec.Process}
	}
	return tasks, nil
}

func (r *run) removeTasks(tasks map[string]execTask) error {
	for name, task := range tasks {
		if err := r.remove(task.Task); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (r *run) exec(s *section, c contender, counts bool, task execTask) error {
	w := newWatch()
	p, err := task.Exec(r.ctx, r.id(c), task.process, cio.NullIO)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	register := w.lap()
	exited, err := p.Wait(r.ctx)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if err := p.Start(r.ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	start := w.lap()
	if err := succeeded(<-exited); err != nil {
		return err
	}
	exit := w.lap()
	if _, err := p.Delete(r.ctx); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	remove := w.lap()
	if counts {
		s.add("register", c, register)
		s.add("start", c, start)
		s.add("exit", c, exit)
		s.add("delete", c, remove)
		s.add("sum", c, w.total())
	}
	return nil
}
