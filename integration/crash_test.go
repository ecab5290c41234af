package integration

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// containerd is killed and comes back: what ran runs, and can be worked with as before.
func TestContainerdIsKilled(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d := daemon.Start(t, daemon.Options{Version: version})
		d.Import(daemon.Busybox)
		ctx := d.Context()
		task := start(t, d, "runner", sleeper())
		long := execute(t, d, task, "long", cio.NullIO, "sh", "-c", "trap 'exit 4' USR1; while :; do sleep 0.05; done")
		must(t, long.Start(ctx))
		d.Crash()
		d.Restart()

		found := find(t, d, "runner")
		if found.Pid() != task.Pid() {
			t.Errorf("pid %d, was %d", found.Pid(), task.Pid())
		}
		if status, err := task.Status(ctx); err != nil || status.Status != containerd.Running {
			t.Errorf("status %s, %v", status.Status, err)
		}
		if status, out := command(t, d, task, "new", "", "echo", "still here"); status != 0 || out != "still here\n" {
			t.Errorf("exec after the restart: status %d, output %q", status, out)
		}
		done, err := long.Wait(ctx)
		must(t, err)
		must(t, long.Kill(ctx, syscall.SIGUSR1))
		if got := wait(t, done); got != 4 {
			t.Errorf("exec from before the restart: status %d, want 4", got)
		}
		must(t, task.Kill(ctx, syscall.SIGKILL))
		if got := end(t, d, task); got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		d.AssertClean()
	})
}

// A container that ends while containerd is away says how when it is back.
func TestEndWhileContainerdIsAway(t *testing.T) {
	if !mini() {
		t.Skip("containerd drops the task of a shim that has no process left to tell of")
	}
	versions(t, func(t *testing.T, version string) {
		d := daemon.Start(t, daemon.Options{Version: version})
		d.Import(daemon.Busybox)
		gate := t.TempDir()
		task := start(t, d, "leaver", shell("until [ -e /gate/open ]; do sleep 0.02; done; exit 7"),
			oci.WithMounts([]specs.Mount{{Type: "bind", Source: gate, Destination: "/gate", Options: []string{"rbind", "ro"}}}))
		d.Crash()
		must(t, os.WriteFile(filepath.Join(gate, "open"), nil, 0o644))
		eventually(t, "the container ends", func() bool { return syscall.Kill(int(task.Pid()), 0) != nil })
		d.Restart()
		if got := end(t, d, find(t, d, "leaver")); got != 7 {
			t.Errorf("status %d, want 7", got)
		}
		d.AssertClean()
	})
}

// find asks containerd for a task that an earlier one knew.
func find(t *testing.T, d *daemon.Daemon, id string) containerd.Task {
	t.Helper()
	c, err := d.Client().LoadContainer(d.Context(), id)
	must(t, err)
	task, err := c.Task(d.Context(), nil)
	must(t, err)
	return task
}

// A shim is killed: containerd calls `delete`, and nothing of the container is left.
func TestShimIsKilled(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		d := shared(t, version)
		ctx := d.Context()
		task := start(t, d, "box", shell("sleep 1000 & sleep 1000"))
		p := execute(t, d, task, "long", cio.NullIO, "sleep", "1000")
		must(t, p.Start(ctx))
		done, err := task.Wait(ctx)
		must(t, err)
		must(t, syscall.Kill(d.ShimPid("box"), syscall.SIGKILL))
		status := <-done
		t.Logf("wait: status %d, %v", status.ExitCode(), status.Error())
		d.AssertClean()
		if _, err := task.Status(ctx); !errdefs.IsNotFound(err) {
			t.Errorf("status: %v, want not found", err)
		}
	})
}

// A shim is killed while containerd is away: the next containerd cleans up.
func TestShimIsKilledWhileContainerdIsAway(t *testing.T) {
	d := daemon.Start(t, daemon.Options{})
	d.Import(daemon.Busybox)
	start(t, d, "box", shell("sleep 1000 & sleep 1000"))
	shim := d.ShimPid("box")
	d.Crash()
	must(t, syscall.Kill(shim, syscall.SIGKILL))
	d.Restart()
	d.AssertClean()
}
