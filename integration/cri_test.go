package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// A pod as the kubelet makes it: a sandbox, two containers that share its network and ipc, and one
// shim for all of them.
func TestPod(t *testing.T) {
	versions(t, func(t *testing.T, version string) {
		c := startCRI(t, version)
		ctx := c.ctx
		sandbox := c.runPod(t, "pod")
		one := c.create(t, sandbox, "one", "echo to stdout; echo to stderr >&2; touch /dev/shm/from-one; "+
			"trap 'exit 0' TERM; while :; do sleep 0.05; done")
		two := c.create(t, sandbox, "two", "sleep 1000 & wait")
		for _, id := range []string{one, two} {
			_, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
			must(t, err)
		}

		// One shim for the pod.
		if got := c.d.Shims(); got != 1 {
			t.Errorf("%d shims, want 1", got)
		}

		// The namespaces of a pod: network and ipc are shared, pids and mounts are not.
		eventually(t, "/dev/shm is shared", func() bool {
			return strings.Contains(c.exec(t, two, "ls", "/dev/shm"), "from-one")
		})
		for name, shared := range map[string]bool{"net": true, "ipc": true, "uts": true, "pid": false, "mnt": false} {
			link := "/proc/self/ns/" + name
			if got := c.exec(t, one, "readlink", link) == c.exec(t, two, "readlink", link); got != shared {
				t.Errorf("namespace %s: shared is %t, want %t", name, got, shared)
			}
		}
		if got := c.exec(t, one, "hostname"); got != "pod\n" {
			t.Errorf("hostname %q", got)
		}
		if got := c.exec(t, one, "ip", "addr"); !strings.Contains(got, "eth0") || !strings.Contains(got, "10.88.0.") {
			t.Errorf("no network of the pod: %s", got)
		}
		// A client in one reaches a server in the other by the loopback of the pod.
		c.exec(t, one, "sh", "-c", "nc -l -p 8080 -e echo hello </dev/null >/dev/null 2>&1 &")
		eventually(t, "loopback is shared", func() bool {
			return c.exec(t, two, "sh", "-c", "nc 127.0.0.1 8080 </dev/null || true") == "hello\n"
		})

		reply, err := c.runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: one, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}, Timeout: 10})
		must(t, err)
		if reply.ExitCode != 3 || string(reply.Stdout) != "out\n" || string(reply.Stderr) != "err\n" {
			t.Errorf("ExecSync: %v", reply)
		}

		c.checkLog(t, "one")
		stats, err := c.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: one})
		must(t, err)
		if stats.Stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
			t.Errorf("ContainerStats: no processor time: %v", stats.Stats)
		}

		// Stopping: one has a handler for SIGTERM, two has not and is killed when its time is over.
		for id, want := range map[string]int32{one: 0, two: 137} {
			_, err := c.runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: 1})
			must(t, err)
			status, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
			must(t, err)
			if s := status.Status; s.State != cri.ContainerState_CONTAINER_EXITED || s.ExitCode != want {
				t.Errorf("%s: %s, exit code %d, want %d", s.Metadata.Name, s.State, s.ExitCode, want)
			}
			_, err = c.runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: id})
			must(t, err)
		}
		c.removePod(t, sandbox)
		c.d.AssertClean()
	})
}

// containerd is killed under a pod, which goes on and can be stopped by the next one.
func TestPodOutlivesContainerd(t *testing.T) {
	c := startCRI(t, "2.4")
	sandbox := c.runPod(t, "pod")
	id := c.create(t, sandbox, "one", "sleep 1000 & wait")
	_, err := c.runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: id})
	must(t, err)
	c.d.Crash()
	c.d.Restart()
	eventually(t, "CRI is ready again", func() bool {
		_, err := c.runtime.Version(c.ctx, &cri.VersionRequest{})
		return err == nil
	})
	if got := c.exec(t, id, "echo", "still here"); got != "still here\n" {
		t.Errorf("exec after the restart: %q", got)
	}
	status, err := c.runtime.PodSandboxStatus(c.ctx, &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	must(t, err)
	if status.Status.State != cri.PodSandboxState_SANDBOX_READY {
		t.Errorf("sandbox: %s", status.Status.State)
	}
	c.removePod(t, sandbox)
	c.d.AssertClean()
}

// hasCapability tells whether the tests run with a capability.
func hasCapability(capability int) bool {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(data), "CapEff:")
	word, _, _ := strings.Cut(strings.TrimSpace(after), "\n")
	set, err := strconv.ParseUint(word, 16, 64)
	return err == nil && set>>capability&1 == 1
}

// kubelet is a client of the CRI plugin, and its configuration of pods.
type kubelet struct {
	d       *daemon.Daemon
	ctx     context.Context //nolint:containedctx // of one test, which this lives in
	runtime cri.RuntimeServiceClient
	logs    string
	pod     *cri.PodSandboxConfig

	parent    string                       // of the pod's cgroups
	resources *cri.LinuxContainerResources // of the containers to come
	users     *cri.UserNamespace           // of the pods and their containers
	handler   string                       // of the pods
	mounts    []*cri.Mount                 // of the containers
}

// startCRI starts a containerd with the CRI plugin, whose only runtime handler is mini, and with more of a
// configuration.
func startCRI(t *testing.T, version string, more ...string) *kubelet {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "mini.toml"), []byte("missing_controllers = \"ignore\"\n"), 0o644))
	d := daemon.Start(t, daemon.Options{Version: version, CRI: true, Config: criConfig(t, version, dir) + strings.Join(more, "\n")})
	d.Hide("/var/lib/cni") // what plugins gave out
	for _, image := range []string{daemon.Busybox, daemon.Pause} {
		d.ImportInto("k8s.io", image)
	}
	conn, err := grpc.NewClient("unix://"+d.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	c := &kubelet{
		d: d, ctx: ctx, runtime: cri.NewRuntimeServiceClient(conn), logs: filepath.Join(dir, "logs"), parent: "/" + d.Namespace, handler: "mini",
		// What a kubelet asks for in every container.
		resources: &cri.LinuxContainerResources{CpuShares: 512, OomScoreAdj: 500},
	}
	status, err := c.runtime.Status(ctx, &cri.StatusRequest{})
	must(t, err)
	for _, condition := range status.Status.Conditions {
		if !condition.Status && condition.Type != cri.NetworkReady {
			t.Fatalf("CRI is not ready: %v", condition)
		}
	}
	return c
}

// criConfig is the CRI plugin's part of containerd's configuration: how a handler is added is what
// README.md tells users, too.
func criConfig(t *testing.T, version, dir string) string {
	t.Helper()
	plugins, err := daemon.Tools("cni")
	must(t, err)
	list, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "mini-test",
		"plugins": []any{map[string]any{
			"type": "ptp",
			"ipam": map[string]any{"type": "host-local", "subnet": "10.88.0.0/24", "dataDir": filepath.Join(dir, "ipam")},
		}},
	})
	must(t, err)
	must(t, os.Mkdir(filepath.Join(dir, "net.d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "net.d", "10-mini.conflist"), list, 0o644))
	// Below its own score only CAP_SYS_RESOURCE takes a process, proc_pid_oom_score_adj(5); CRI wants -998
	// for a sandbox, and is content with containerd's own where it is told so.
	restrict := !hasCapability(unix.CAP_SYS_RESOURCE)
	options := ""
	switch { // what docs/kubernetes.md says: in a file, or here
	case !mini() || hasController("cpu"):
	case version == "2.2":
		options = `missing_controllers = "ignore"`
	default:
		options = fmt.Sprintf("TypeUrl = \"runtimeoptions.v1.Options\"\nConfigPath = %q", filepath.Join(dir, "mini.toml"))
	}
	if version == "1.7" {
		return fmt.Sprintf(`
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
netns_mounts_under_state_dir = true
disable_apparmor = true
restrict_oom_score_adj = %t
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = %q
conf_dir = %q
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "mini"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mini]
runtime_type = %q
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.mini.options]
%s
`, daemon.Pause, restrict, plugins, filepath.Join(dir, "net.d"), daemon.Runtime(), options)
	}
	return fmt.Sprintf(`
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = %q
[plugins."io.containerd.cri.v1.runtime"]
netns_mounts_under_state_dir = true
disable_apparmor = true
restrict_oom_score_adj = %t
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [%q]
conf_dir = %q
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "mini"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.mini]
runtime_type = %q
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.mini.options]
%s
`, daemon.Pause, restrict, plugins, filepath.Join(dir, "net.d"), daemon.Runtime(), options)
}

// runPod runs a sandbox. A test that fails leaves it to the sweeping of daemon.
func (c *kubelet) runPod(t *testing.T, name string) string {
	t.Helper()
	c.pod = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Namespace: "default", Uid: c.d.Namespace, Attempt: 1},
		Hostname:     name,
		LogDirectory: c.logs,
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: c.parent,
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: c.users},
			},
		},
	}
	must(t, os.MkdirAll(c.logs, 0o755))
	reply, err := c.runtime.RunPodSandbox(c.ctx, &cri.RunPodSandboxRequest{Config: c.pod, RuntimeHandler: c.handler})
	must(t, err)
	return reply.PodSandboxId
}

func (c *kubelet) removePod(t *testing.T, id string) {
	t.Helper()
	_, err := c.runtime.StopPodSandbox(c.ctx, &cri.StopPodSandboxRequest{PodSandboxId: id})
	must(t, err)
	_, err = c.runtime.RemovePodSandbox(c.ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	must(t, err)
}

// create makes a container.
func (c *kubelet) create(t *testing.T, sandbox, name, script string) string {
	t.Helper()
	reply, err := c.runtime.CreateContainer(c.ctx, &cri.CreateContainerRequest{
		PodSandboxId:  sandbox,
		SandboxConfig: c.pod,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: name},
			Image:    &cri.ImageSpec{Image: daemon.Busybox},
			Command:  []string{"sh", "-c", script},
			LogPath:  name + ".log",
			Mounts:   c.mounts,
			Linux: &cri.LinuxContainerConfig{
				Resources: c.resources,
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, UsernsOptions: c.users},
					Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
				},
			},
		},
	})
	must(t, err)
	return reply.ContainerId
}

// exec runs a command in a container and gives its output.
func (c *kubelet) exec(t *testing.T, id string, args ...string) string {
	t.Helper()
	reply, err := c.runtime.ExecSync(c.ctx, &cri.ExecSyncRequest{ContainerId: id, Cmd: args, Timeout: 60})
	must(t, err)
	if reply.ExitCode != 0 {
		t.Errorf("%q: exit code %d: %s", args, reply.ExitCode, reply.Stderr)
	}
	return string(reply.Stdout)
}

// checkLog looks at a container's log, whose lines are "TIME STREAM TAG TEXT".
func (c *kubelet) checkLog(t *testing.T, name string) {
	t.Helper()
	for _, want := range []string{" stdout F to stdout\n", " stderr F to stderr\n"} {
		eventually(t, "the log has "+want, func() bool {
			data, err := os.ReadFile(filepath.Join(c.logs, name+".log"))
			return err == nil && strings.Contains(string(data), want)
		})
	}
}
