package integration

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/containerd-mini/mini/integration/internal/daemon"
	"github.com/containerd-mini/mini/proto/options"
	"github.com/containerd-mini/mini/snapshotter"
)

// A storm: containers live side by side, each another life, while containerd and the snapshotter are killed and come
// back, and shims are killed. Who asked them asks again when they are back. Each life has to
// come to its end, with the status that it had, and nothing may be left of any.
//
// MINI_TEST_STORM is how long it lasts, in Go's notation, and has some of them share a shim, which lingers half a
// minute at the end; MINI_TEST_STORM_SEED repeats the lives of another one, if not what comes between them.
func TestStorm(t *testing.T) {
	lasting := 10 * time.Second
	if text := os.Getenv("MINI_TEST_STORM"); text != "" {
		var err error
		lasting, err = time.ParseDuration(text)
		must(t, err)
	}
	seed, err := strconv.ParseUint(os.Getenv("MINI_TEST_STORM_SEED"), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("MINI_TEST_STORM_SEED=%d", seed)

	d, service := withSnapshotter(t, "2.4")
	d.Ctr("images", "import", "--snapshotter", "mini", archive(t))
	s := &storm{
		t: t, d: d, service: service, until: time.Now().Add(lasting), seed: seed,
		shims: make(map[string]bool), struck: make(map[string]bool), deeds: make(map[string]int),
		members: make(map[string]bool), grouped: os.Getenv("MINI_TEST_STORM") != "",
	}
	var lives sync.WaitGroup
	for worker := range uint64(5) {
		lives.Go(func() { s.live(worker) })
	}
	s.rage()
	lives.Wait()
	t.Logf("%v", s.deeds)
	service.end(syscall.SIGTERM)
	if found, err := snapshotter.Fsck(service.config, false); err != nil || len(found) > 0 {
		t.Errorf("fsck: %q, %v", found, err)
	}
}

type storm struct {
	t       *testing.T
	d       *daemon.Daemon
	service *service
	until   time.Time
	seed    uint64
	grouped bool

	mu      sync.Mutex
	shims   map[string]bool // whose tasks are there
	members map[string]bool // of the group that shares a shim
	struck  map[string]bool // whose shims were killed
	deeds   map[string]int
}

func (s *storm) did(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deeds[what]++
}

// rage kills, in the test's own goroutine.
func (s *storm) rage() {
	random := rand.New(rand.NewPCG(s.seed, 1<<32))
	for time.Now().Before(s.until) && !s.t.Failed() {
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		switch random.IntN(5) {
		case 0:
			s.d.Crash()
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			s.d.Restart()
			s.did("containerd killed")
		case 1:
			s.service.end(syscall.SIGKILL)
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			s.service.serve()
			s.did("snapshotter killed")
		default:
			s.strike()
		}
	}
}

// strike kills the shim of one container.
func (s *storm) strike() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.shims {
		if pid := s.d.ShimPid(id); pid != 0 {
			s.struck[id] = true
			delete(s.shims, id)
			if id == shimGroup {
				maps.Copy(s.struck, s.members)
				s.deeds["shim of the group killed"]++
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
			s.deeds["shim killed"]++
			return
		}
	}
}

func (s *storm) live(worker uint64) {
	random := rand.New(rand.NewPCG(s.seed, worker))
	for n := 0; time.Now().Before(s.until) && !s.t.Failed(); n++ {
		l := life{storm: s, random: random, id: fmt.Sprintf("box-%d-%d", worker, n)}
		live := l.live
		switch kind := random.IntN(4); {
		case kind == 0:
			live = l.livePod
		case kind == 1 && s.grouped:
			live = l.liveInGroup
		}
		if err := live(); err != nil {
			s.t.Errorf("%s: %s: %v", l.id, l.what, err)
		}
	}
}

// shimGroup is the one whose members share a shim.
const shimGroup = "storm"

// A life is that of one container.
type life struct {
	*storm
	random *rand.Rand
	id     string
	pod    string // whose shim it is in, "" for one of its own
	member bool   // of the group
	what   string // is being done
	task   containerd.Task
}

// ask asks until containerd is there to answer, and says in again whether it may have been asked before.
func (l *life) ask(what string, f func(ctx context.Context, again bool) error) error {
	l.what = what
	deadline := time.Now().Add(2 * time.Minute)
	for again := false; ; again = true {
		ctx, cancel := context.WithDeadline(namespaces.WithNamespace(context.Background(), l.d.Namespace), deadline)
		err := f(ctx, again)
		cancel()
		// Not all that the client returns is translated.
		away := errdefs.IsUnavailable(err) || grpcstatus.Code(err) == codes.Unavailable
		if !away || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// wasStruck tells whether somebody killed the shim: then the task may be gone at any time.
func (l *life) wasStruck() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.struck[cmp.Or(l.pod, l.id)]
}

// liveInGroup is a life in the shim of the group.
func (l *life) liveInGroup() error {
	l.member = true
	err := l.live()
	l.did("life in the group")
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.members, l.id)
	if len(l.members) == 0 {
		delete(l.shims, shimGroup)
	}
	return err
}

// livePod is the life of a container in whose shim two others live.
func (l *life) livePod() error {
	pod, err := l.create("sleep 1000 & sleep 1000")
	if err != nil {
		return err
	}
	if err = l.begin(pod); err == nil {
		err = l.start()
	}
	var members sync.WaitGroup
	for n := range 2 {
		if err != nil {
			break
		}
		member := life{storm: l.storm, pod: l.id, id: fmt.Sprintf("%s-%d", l.id, n), random: rand.New(rand.NewPCG(l.random.Uint64(), 0))}
		members.Go(func() {
			if err := member.live(); err != nil {
				l.t.Errorf("%s: %s: %v", member.id, member.what, err)
			}
		})
	}
	members.Wait()
	if err == nil {
		err = l.kill(syscall.SIGKILL)
	}
	if err != nil && !l.wasStruck() {
		return err
	}
	l.did("pod")
	return l.remove(pod)
}

func (l *life) live() error {
	status := uint32(l.random.IntN(100))
	kind := l.random.IntN(4)
	script := []string{
		fmt.Sprintf("exit %d", status),
		fmt.Sprintf("sleep 0.%d; exit %d", l.random.IntN(10), status),
		fmt.Sprintf("trap 'exit %d' TERM; while :; do sleep 0.02; done", status),
		"sleep 1000 & sleep 1000",
	}[kind]
	container, err := l.create(script)
	if err != nil {
		return err
	}
	err = l.begin(container)
	switch {
	case err != nil:
	case l.random.IntN(8) == 0: // never started
		status = 137
		err = l.kill(syscall.SIGKILL)
	default:
		err = l.start()
		if err == nil && kind >= 2 {
			err = l.meanwhile()
		}
		switch {
		case err != nil:
		case kind == 2:
			err = l.kill(syscall.SIGTERM)
		case kind == 3:
			status = 137
			err = l.kill(syscall.SIGKILL)
		}
	}
	got := uint32(0)
	if err == nil {
		got, err = l.wait()
	}
	switch {
	case l.wasStruck():
	case err != nil:
		return err
	case got != status:
		return fmt.Errorf("status %d, want %d", got, status)
	default:
		l.did("whole life")
	}
	return l.remove(container)
}

// create makes the container. If containerd went away meanwhile there may be its snapshot, or all of it.
func (l *life) create(script string) (c containerd.Container, err error) {
	return c, l.ask("create the container", func(ctx context.Context, again bool) error {
		if again {
			l.id += "x"
		}
		image, err := l.d.Client().GetImage(ctx, daemon.Busybox)
		if err != nil {
			return err
		}
		c, err = l.d.Client().NewContainer(ctx, l.id, containerd.WithSnapshotter("mini"),
			containerd.WithNewSnapshot(l.id, image), containerd.WithNewSpec(oci.WithImageConfig(image), shell(script),
				oci.WithAnnotations(map[string]string{"io.kubernetes.cri.sandbox-id": cmp.Or(l.pod, l.id)})),
			containerd.WithRuntime(daemon.Runtime(), l.options()))
		return err
	})
}

func (l *life) options() any {
	if !l.member {
		return nil
	}
	return &options.Options{ShimGroup: shimGroup}
}

func (l *life) begin(c containerd.Container) error {
	if l.member {
		l.mu.Lock()
		l.members[l.id] = true
		l.mu.Unlock()
	}
	err := l.ask("create the task", func(ctx context.Context, again bool) (err error) {
		if again {
			if l.task, err = c.Task(ctx, nil); !errdefs.IsNotFound(err) {
				return err
			}
		}
		l.task, err = c.NewTask(ctx, cio.NullIO)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err != nil || l.pod != "":
	case l.member && !l.struck[l.id]:
		l.shims[shimGroup] = true
	case !l.member:
		l.shims[l.id] = true
	}
	return err
}

func (l *life) start() error {
	return l.ask("start", func(ctx context.Context, again bool) error {
		if again {
			if s, err := l.task.Status(ctx); err != nil || s.Status != containerd.Created {
				return err
			}
		}
		return l.task.Start(ctx)
	})
}

// meanwhile is what happens while a container runs: execs, and a pause.
func (l *life) meanwhile() error {
	for n := range l.random.IntN(3) {
		want := uint32(l.random.IntN(100))
		id := fmt.Sprintf("exec-%d", n)
		err := l.ask("exec", func(ctx context.Context, _ bool) error {
			id += "x" // another one if it may have been there before; that ends with the container
			process, err := l.task.Exec(ctx, id, &specs.Process{
				Args: []string{"sh", "-c", fmt.Sprintf("exit %d", want)}, Cwd: "/", Env: []string{"PATH=/bin"},
			}, cio.NullIO)
			if err != nil {
				return err
			}
			done, err := process.Wait(ctx)
			if err != nil {
				return err
			}
			if err := process.Start(ctx); err != nil {
				return err
			}
			status := <-done
			if err := status.Error(); err != nil {
				return err
			}
			if status.ExitCode() != want {
				return fmt.Errorf("status %d, want %d", status.ExitCode(), want)
			}
			_, err = process.Delete(ctx)
			return err
		})
		if err != nil {
			return err
		}
		l.did("exec")
	}
	if l.random.IntN(4) > 0 {
		return nil
	}
	for _, what := range []struct {
		name string
		do   func(context.Context) error
	}{{"pause", l.task.Pause}, {"resume", l.task.Resume}} {
		err := l.ask(what.name, func(ctx context.Context, again bool) error {
			err := what.do(ctx)
			if again && errdefs.IsFailedPrecondition(err) {
				return nil // it was done
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	l.did("pause")
	return nil
}

// kill kills until there is nothing to kill: a shell may not have come to its trap.
func (l *life) kill(signal syscall.Signal) error {
	for {
		stopped := false
		err := l.ask("kill", func(ctx context.Context, _ bool) error {
			if err := l.task.Kill(ctx, signal); err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			s, err := l.task.Status(ctx)
			stopped = s.Status == containerd.Stopped
			return err
		})
		if err != nil || stopped {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (l *life) wait() (status uint32, err error) {
	return status, l.ask("wait", func(ctx context.Context, _ bool) error {
		done, err := l.task.Wait(ctx)
		if err != nil {
			return err
		}
		s := <-done
		status = s.ExitCode()
		return s.Error()
	})
}

// remove ends what there is, and says whether it can. containerd needs a moment to see that a shim is dead.
func (l *life) remove(c containerd.Container) error {
	l.mu.Lock()
	delete(l.shims, l.id)
	l.mu.Unlock()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := l.ask("delete the task", func(ctx context.Context, _ bool) error {
			task, err := c.Task(ctx, nil)
			if err != nil {
				return err
			}
			_, err = task.Delete(ctx, containerd.WithProcessKill)
			return err
		})
		if errdefs.IsNotFound(err) {
			break
		}
		if err != nil && (!l.wasStruck() || time.Since(begun) > time.Minute) {
			return err
		}
	}
	return l.ask("delete the container", func(ctx context.Context, _ bool) error {
		err := c.Delete(ctx, containerd.WithSnapshotCleanup)
		if errdefs.IsNotFound(err) {
			return nil
		}
		return err
	})
}
