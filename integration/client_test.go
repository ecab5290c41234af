package integration

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// versions runs a test under every containerd that is supported.
func versions(t *testing.T, test func(t *testing.T, version string)) {
	for _, version := range []string{"2.4", "2.2", "1.7"} {
		t.Run("containerd-"+version, func(t *testing.T) { test(t, version) })
	}
}

// shared is a namespace in the shared containerd with the busybox image in it.
func shared(t *testing.T, version string) *daemon.Daemon {
	t.Helper()
	d := daemon.Shared(t, version)
	d.Import(daemon.Busybox)
	return d
}

// create makes a container, which is deleted when the test ends, with its task if it has one.
func create(t *testing.T, d *daemon.Daemon, id string, opts ...oci.SpecOpts) containerd.Container {
	t.Helper()
	return createWith(t, d, id, nil, opts...)
}

// createWith is create with options for the runtime.
func createWith(t *testing.T, d *daemon.Daemon, id string, options any, opts ...oci.SpecOpts) containerd.Container {
	t.Helper()
	ctx := d.Context()
	image, err := d.Client().GetImage(ctx, daemon.Busybox)
	must(t, err)
	opts = append([]oci.SpecOpts{oci.WithImageConfig(image)}, opts...)
	c, err := d.Client().NewContainer(ctx, id,
		containerd.WithNewSnapshot(id, image),
		containerd.WithNewSpec(opts...),
		containerd.WithRuntime(daemon.Runtime(), options))
	must(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), d.Namespace), 3*time.Minute)
		defer cancel()
		if task, err := c.Task(ctx, nil); err == nil {
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
				t.Errorf("cleanup: %s: %v", id, err)
			}
		}
		if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil {
			t.Errorf("cleanup: %s: %v", id, err)
		}
	})
	return c
}

// specOf changes a spec.
func specOf(change func(*oci.Spec)) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		change(s)
		return nil
	}
}

// start makes a container and starts its task, without streams.
func start(t *testing.T, d *daemon.Daemon, id string, opts ...oci.SpecOpts) containerd.Task {
	t.Helper()
	task, err := create(t, d, id, opts...).NewTask(d.Context(), cio.NullIO)
	must(t, err)
	must(t, task.Start(d.Context()))
	return task
}

// sleeper runs until it is killed.
func sleeper() oci.SpecOpts { return oci.WithProcessArgs("sleep", "1000") }

// shell runs a script.
func shell(script string) oci.SpecOpts { return oci.WithProcessArgs("sh", "-c", script) }

// command is an exec of the container of task, started and waited for: its status and its output.
func command(t *testing.T, d *daemon.Daemon, task containerd.Task, id, stdin string, args ...string) (status uint32, output string) {
	t.Helper()
	ctx := d.Context()
	var out, errors bytes.Buffer
	p := execute(t, d, task, id, cio.NewCreator(cio.WithStreams(strings.NewReader(stdin), &out, &errors)), args...)
	done, err := p.Wait(ctx)
	must(t, err)
	must(t, p.Start(ctx))
	must(t, p.CloseIO(ctx, containerd.WithStdinCloser))
	code := wait(t, done)
	_, err = p.Delete(ctx) // waits for the streams, too
	must(t, err)
	return code, out.String() + errors.String()
}

// execute creates an exec and does not start it.
func execute(t *testing.T, d *daemon.Daemon, task containerd.Task, id string, creator cio.Creator, args ...string) containerd.Process {
	t.Helper()
	p, err := task.Exec(d.Context(), id, &specs.Process{
		Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}, NoNewPrivileges: true,
	}, creator)
	must(t, err)
	return p
}

// wait gives the status that a process ends with, soon.
func wait(t *testing.T, done <-chan containerd.ExitStatus) uint32 {
	t.Helper()
	select {
	case status := <-done:
		must(t, status.Error())
		return status.ExitCode()
	case <-time.After(2 * time.Minute):
		t.Fatal("does not end")
		return 0
	}
}

// end waits for a task and deletes it.
func end(t *testing.T, d *daemon.Daemon, task containerd.Task) uint32 {
	t.Helper()
	done, err := task.Wait(d.Context())
	must(t, err)
	wait(t, done)
	status, err := task.Delete(d.Context())
	must(t, err)
	return status.ExitCode()
}

// eventually waits until f is true: in an emulated guest on a busy machine that may take its time.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not within 90 s: %s", what)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// drain reads what there is, until the end.
func drain(r io.Reader) <-chan string {
	c := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(r)
		c <- string(data)
	}()
	return c
}
