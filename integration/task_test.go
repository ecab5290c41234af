package integration

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

func TestStatuses(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task, err := create(t, d, "box", shell("exit 7")).NewTask(ctx, cio.NullIO)
	must(t, err)
	status := func() containerd.ProcessStatus {
		s, err := task.Status(ctx)
		must(t, err)
		return s.Status
	}
	if got := status(); got != containerd.Created {
		t.Errorf("after create: %s", got)
	}
	if task.Pid() == 0 {
		t.Error("a created task has no pid")
	}
	if _, err := task.Delete(ctx); !errdefs.IsFailedPrecondition(err) && err != nil {
		t.Errorf("delete of a created task: %v", err)
	} else if err == nil {
		return // containerd's client may delete a created one
	}
	must(t, task.Start(ctx))
	if err := task.Start(ctx); err == nil {
		t.Error("started twice")
	}
	if got := end(t, d, task); got != 7 {
		t.Errorf("status %d, want 7", got)
	}
	if _, err := task.Status(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("status of a deleted task: %v, want not found", err)
	}
}

// A task that was created and never started is deleted without a trace.
func TestDeleteWithoutStart(t *testing.T) {
	d := shared(t, "2.4")
	task, err := create(t, d, "box", sleeper()).NewTask(d.Context(), cio.NullIO)
	must(t, err)
	if _, err := task.Delete(d.Context(), containerd.WithProcessKill); err != nil {
		t.Fatal(err)
	}
	d.AssertClean()
}

func TestKill(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", shell("trap 'exit 9' USR1; while :; do sleep 0.05; done"))
	time.Sleep(200 * time.Millisecond) // until the shell has its trap
	must(t, task.Kill(ctx, syscall.SIGUSR1))
	done, err := task.Wait(ctx)
	must(t, err)
	if got := wait(t, done); got != 9 {
		t.Errorf("status %d, want that of the handler, 9", got)
	}
	if err := task.Kill(ctx, syscall.SIGKILL); !errdefs.IsNotFound(err) {
		t.Errorf("kill of an ended task: %v, want not found", err)
	}
}

// Processes in the pid namespace of the machine have no process 1 that takes them along.
func TestKillAllWithoutPidNamespace(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", oci.WithHostNamespace(specs.PIDNamespace), shell("sleep 1000 & sleep 1000 & sleep 1000 & wait"))
	eventually(t, "four processes", func() bool {
		pids, err := task.Pids(ctx)
		return err == nil && len(pids) == 4
	})
	done, err := task.Wait(ctx)
	must(t, err)
	must(t, task.Kill(ctx, syscall.SIGKILL, containerd.WithKillAll))
	if got := wait(t, done); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	_, err = task.Delete(ctx)
	must(t, err)
	d.AssertClean()
}

// Deleted after its first process has ended, a container without a pid namespace leaves no other one.
func TestOrphansWithoutPidNamespace(t *testing.T) {
	d := shared(t, "2.4")
	task := start(t, d, "box", oci.WithHostNamespace(specs.PIDNamespace), shell("sleep 1000 & sleep 1000 & exit 3"))
	if got := end(t, d, task); got != 3 {
		t.Errorf("status %d, want 3", got)
	}
	d.AssertClean()
}

func TestExecs(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", sleeper())

	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			id := fmt.Sprintf("e%d", i)
			status, out := command(t, d, task, id, "", "sh", "-c", fmt.Sprintf("echo %s; exit %d", id, i))
			if status != uint32(i) || out != id+"\n" {
				t.Errorf("%s: status %d, output %q", id, status, out)
			}
		})
	}
	group.Wait()

	// The id of one that exists is taken.
	p := execute(t, d, task, "twice", cio.NullIO, "true")
	if _, err := task.Exec(ctx, "twice", &specs.Process{Args: []string{"true"}, Cwd: "/"}, cio.NullIO); !errdefs.IsAlreadyExists(err) {
		t.Errorf("second exec of one id: %v, want already exists", err)
	}
	_, err := p.Delete(ctx) // one that never ran
	must(t, err)
}

// When process 1 goes, execs go too, and are told so.
func TestExecEndsWithInit(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", sleeper())
	p := execute(t, d, task, "long", cio.NullIO, "sleep", "1000")
	must(t, p.Start(ctx))
	done, err := p.Wait(ctx)
	must(t, err)
	must(t, task.Kill(ctx, syscall.SIGKILL))
	if got := wait(t, done); got != 137 {
		t.Errorf("status of the exec %d, want 137", got)
	}
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
}

// Every byte comes through, both ways.
func TestStreams(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	in, feed := io.Pipe()
	sum := sha256.New()
	task, err := create(t, d, "box", oci.WithProcessArgs("cat")).NewTask(ctx, cio.NewCreator(cio.WithStreams(in, sum, io.Discard)))
	must(t, err)
	done, err := task.Wait(ctx)
	must(t, err)
	must(t, task.Start(ctx))
	_, err = feed.Write(sent)
	must(t, err)
	feed.Close()
	must(t, task.CloseIO(ctx, containerd.WithStdinCloser))
	if got := wait(t, done); got != 0 {
		t.Errorf("status %d", got)
	}
	_, err = task.Delete(ctx)
	must(t, err)
	if want := sha256.Sum256(sent); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("what came back is not what was sent")
	}
}

// A process that an exec has left behind, with the streams of the exec, does not keep Delete waiting.
func TestDeleteDoesNotWaitForStrays(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	var out bytes.Buffer
	task := start(t, d, "box", sleeper())
	p := execute(t, d, task, "leaver", cio.NewCreator(cio.WithStreams(nil, &out, io.Discard)), "sh", "-c", "echo said; sleep 1000 &")
	done, err := p.Wait(ctx)
	must(t, err)
	must(t, p.Start(ctx))
	if got := wait(t, done); got != 0 {
		t.Errorf("status %d", got)
	}
	deleted := make(chan error, 1)
	go func() {
		_, err := p.Delete(ctx)
		deleted <- err
	}()
	select {
	case err := <-deleted:
		must(t, err)
		if out.String() != "said\n" {
			t.Errorf("output %q", out.String())
		}
	case <-time.After(time.Minute):
		t.Error("delete of the exec waits for what it has left behind")
	}
	must(t, task.Kill(ctx, syscall.SIGKILL))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d", got)
	}
}

func TestTerminalResize(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	in, feed := io.Pipe()
	screen, out := io.Pipe()
	task, err := create(t, d, "box", oci.WithProcessArgs("sh"), oci.WithTTY).NewTask(ctx,
		cio.NewCreator(cio.WithStreams(in, out, nil), cio.WithTerminal))
	must(t, err)
	must(t, task.Start(ctx))
	must(t, task.Resize(ctx, 123, 45))
	seen := drain(screen)
	_, err = io.WriteString(feed, "stty size\nexit 5\n")
	must(t, err)
	if got := end(t, d, task); got != 5 {
		t.Errorf("status %d, want 5", got)
	}
	out.Close()
	if got := <-seen; !strings.Contains(got, "45 123") {
		t.Errorf("stty size: %q, want 45 123", got)
	}
}

// A shim's descriptors and threads do not grow with what it has done.
func TestShimDoesNotGrow(t *testing.T) {
	d := shared(t, "2.4")
	task := start(t, d, "box", sleeper())
	shim := d.ShimPid("box")
	warm := func(from, n int) {
		for i := range n {
			if status, _ := command(t, d, task, fmt.Sprintf("e%d", from+i), "x", "cat"); status != 0 {
				t.Fatalf("status %d", status)
			}
		}
	}
	warm(0, 5)
	before := daemon.Descriptors(shim)
	warm(100, 30)
	var after []string
	defer func() {
		if t.Failed() {
			t.Logf("before: %q\nafter: %q", before, after)
		}
	}()
	eventually(t, "as many descriptors as before", func() bool {
		after = daemon.Descriptors(shim)
		return len(after) <= len(before)
	})
}

func TestManyAtOnce(t *testing.T) {
	d := shared(t, "2.4")
	const many = 16
	tasks := make([]containerd.Task, many)
	containers := make([]containerd.Container, many)
	for i := range containers {
		containers[i] = create(t, d, fmt.Sprintf("box%d", i), shell(fmt.Sprintf("exit %d", i)))
	}
	var group sync.WaitGroup
	for i := range tasks {
		group.Go(func() {
			var err error
			if tasks[i], err = containers[i].NewTask(d.Context(), cio.NullIO); err != nil {
				t.Error(err)
				return
			}
			done, err := tasks[i].Wait(d.Context())
			if err == nil {
				err = tasks[i].Start(d.Context())
			}
			if err != nil {
				t.Error(err)
				return
			}
			if got := (<-done).ExitCode(); got != uint32(i) {
				t.Errorf("box%d: status %d", i, got)
			}
			if _, err := tasks[i].Delete(d.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

// What mini does not do is refused as not implemented, so that callers can tell.
func TestCheckpointIsRefused(t *testing.T) {
	if !mini() {
		t.Skip("another runtime may do it")
	}
	d := shared(t, "2.4")
	task := start(t, d, "box", sleeper())
	if _, err := task.Checkpoint(d.Context()); !errdefs.IsNotImplemented(err) {
		t.Errorf("checkpoint: %v, want not implemented", err)
	}
	if status, err := task.Status(d.Context()); err != nil || status.Status != containerd.Running {
		t.Errorf("after a refused checkpoint: %s, %v", status.Status, err)
	}
}

func mini() bool { return strings.HasPrefix(daemon.Runtime(), "io.containerd.mini.") }

// Limits of a running container change, or are refused by name where there is no such controller.
func TestUpdate(t *testing.T) {
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", sleeper())
	limit := int64(64 << 20)
	err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}))
	if !hasController("memory") {
		if mini() && (err == nil || !strings.Contains(err.Error(), "memory")) {
			t.Errorf("update without a controller: %v, want an error that names memory", err)
		}
		return
	}
	must(t, err)
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", d.Namespace, "box", "memory.max"))
	must(t, err)
	if got := strings.TrimSpace(string(data)); got != strconv.FormatInt(limit, 10) {
		t.Errorf("memory.max is %s, want %d", got, limit)
	}
}
