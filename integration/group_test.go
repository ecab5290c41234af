package integration

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"

	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
	"github.com/containerd-mini/mini/proto/options"
)

// shim_group: pods share a shim, which is none the worse for the end of any, finds all of them with a containerd
// that comes back, and does not end with the last. Killed, it takes all of them with it, and nothing is left.
func TestShimGroup(t *testing.T) {
	if !mini() {
		t.Skipf("needs mini as the runtime of these tests: %s has no shim_group", daemon.Runtime())
	}
	// As an operator writes it, and as a client does.
	text := &runtimeoptions.Options{ConfigBody: []byte("shim_group = \"node\"\n")}
	message := &options.Options{ShimGroup: "node"}
	versions(t, func(t *testing.T, version string) {
		d := daemon.Start(t, daemon.Options{Version: version})
		d.Import(daemon.Busybox)
		ctx := d.Context()
		run := func(id string, options any, opts ...oci.SpecOpts) (containerd.Task, <-chan containerd.ExitStatus) {
			t.Helper()
			task, err := createWith(t, d, id, options, opts...).NewTask(ctx, cio.NullIO)
			must(t, err)
			done, err := task.Wait(ctx)
			must(t, err)
			must(t, task.Start(ctx))
			return task, done
		}
		pod := oci.WithAnnotations(map[string]string{"io.kubernetes.cri.sandbox-id": "a"})
		a, _ := run("a", text, sleeper(), pod)
		shim := d.ShimPid("node")
		run("a-1", text, sleeper(), pod)
		b, _ := run("b", message, sleeper())
		run("alone", nil, sleeper())
		if n := d.Shims(); n != 2 || d.ShimPid("alone") == shim {
			t.Errorf("%d shims, want one of the group and one alone", n)
		}
		must(t, a.Kill(ctx, syscall.SIGKILL))
		if got := end(t, d, a); got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		if status, out := command(t, d, b, "exec", "", "echo", "still here"); status != 0 || out != "still here\n" {
			t.Errorf("exec: status %d, output %q", status, out)
		}

		d.Crash()
		d.Restart()
		ctx = d.Context()
		for _, id := range []string{"a-1", "b", "alone"} {
			task := find(t, d, id)
			must(t, task.Kill(ctx, syscall.SIGKILL))
			if got := end(t, d, task); got != 137 {
				t.Errorf("%s: status %d, want 137", id, got)
			}
		}
		c, done := run("c", text, shell("exit 3"))
		if got := wait(t, done); got != 3 {
			t.Errorf("status %d, want 3", got)
		}
		_, err := c.Delete(ctx)
		must(t, err)
		if d.ShimPid("node") != shim {
			t.Error("the shim has ended with its last container")
		}

		manyOf(t, d, text)
		if d.ShimPid("node") != shim {
			t.Error("the shim has ended between two containers")
		}

		_, first := run("d", text, shell("sleep 1000 & sleep 1000"))
		_, second := run("e", message, sleeper())
		must(t, syscall.Kill(shim, syscall.SIGKILL))
		for _, done := range []<-chan containerd.ExitStatus{first, second} {
			status := <-done
			t.Logf("wait: status %d, %v", status.ExitCode(), status.Error())
		}
		d.AssertClean()

		bad := createWith(t, d, "bad", &options.Options{ShimGroup: "a/b"}, sleeper())
		if _, err := bad.NewTask(ctx, cio.NullIO); err == nil || !strings.Contains(err.Error(), `shim_group: "a/b": not a name`) {
			t.Errorf("%v", err)
		}
		if version == "2.4" { // it takes half a minute
			f, done := run("f", text, shell("exit 4"))
			if got := wait(t, done); got != 4 {
				t.Errorf("status %d, want 4", got)
			}
			_, err := f.Delete(ctx)
			must(t, err)
			d.AssertClean() // it has ended by itself
		}
	})
}

// manyOf makes containers of one group, several at once, so that there are moments without any.
func manyOf(t *testing.T, d *daemon.Daemon, options any) {
	t.Helper()
	const atOnce, each = 4, 6
	var all sync.WaitGroup
	errs := make(chan error, atOnce*each)
	for i := range atOnce {
		var containers []containerd.Container
		for n := range each {
			containers = append(containers, createWith(t, d, fmt.Sprintf("many-%d-%d", i, n), options, shell("exit 5")))
		}
		all.Go(func() {
			for _, c := range containers {
				errs <- lifeOf(d, c, 5)
			}
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		must(t, err)
	}
}

// lifeOf runs a container, which ends with that status.
func lifeOf(d *daemon.Daemon, c containerd.Container, want uint32) error {
	ctx := d.Context()
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return err
	}
	done, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := task.Start(ctx); err != nil {
		return err
	}
	if got := <-done; got.Error() != nil || got.ExitCode() != want {
		return fmt.Errorf("%s: status %d, %w, want %d", c.ID(), got.ExitCode(), got.Error(), want)
	}
	_, err = task.Delete(ctx)
	return err
}

// An option of a handler, as docs/kubernetes.md has it: its pods share a shim.
func TestPodsShareShim(t *testing.T) {
	if !mini() {
		t.Skipf("needs mini as the runtime of these tests: %s has no shim_group", daemon.Runtime())
	}
	for _, version := range []string{"2.4", "1.7"} {
		t.Run("containerd-"+version, func(t *testing.T) { podsShareShim(t, version) })
	}
}

func podsShareShim(t *testing.T, version string) {
	handler := strings.ReplaceAll(printedHandler(t, version), ".mini]", ".mini-grouped]")
	handler = strings.ReplaceAll(handler, "io.containerd.mini.v2", daemon.Runtime())
	handler = strings.ReplaceAll(handler, `snapshotter = "mini"`, `snapshotter = "overlayfs"`)
	header, _, _ := strings.Cut(handler[strings.LastIndex(handler, "["):], "]")
	handler += "\n" + header + ".options]\nshim_group = \"node\"\n"
	if !hasController("cpu") {
		handler += "missing_controllers = \"ignore\"\n"
	}
	c := startCRI(t, version, handler)
	c.handler = "mini-grouped"
	start := func(pod string) (sandbox, id string) {
		t.Helper()
		sandbox = c.runPod(t, pod)
		id = c.create(t, sandbox, "box-"+pod, "exec sleep 1000")
		_, err := c.runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: id})
		must(t, err)
		return sandbox, id
	}
	one, _ := start("one")
	shim := c.d.ShimPidIn("k8s.io", "node")
	two, box := start("two")
	if n := c.d.Shims(); n != 1 {
		t.Errorf("%d shims, want 1", n)
	}
	c.removePod(t, one)
	if got := c.exec(t, box, "echo", "still here"); got != "still here\n" {
		t.Errorf("%q", got)
	}
	c.removePod(t, two)
	three, last := start("three")
	if c.d.ShimPidIn("k8s.io", "node") != shim || c.d.Shims() != 1 {
		t.Error("the next pod has another shim")
	}
	must(t, syscall.Kill(shim, syscall.SIGKILL))
	eventually(t, "the container has ended with its shim", func() bool {
		reply, err := c.runtime.ContainerStatus(c.ctx, &cri.ContainerStatusRequest{ContainerId: last})
		must(t, err)
		return reply.Status.State == cri.ContainerState_CONTAINER_EXITED && reply.Status.ExitCode != 0
	})
	c.removePod(t, three)
}
