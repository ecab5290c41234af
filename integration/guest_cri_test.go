package integration

import (
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// A pod with limits, as Kubernetes asks for it: under every containerd that is at hand.
func TestGuestPodLimits(t *testing.T) {
	needs(t, "memory", "cpu")
	versions(t, func(t *testing.T, version string) {
		if _, err := daemon.Tools("containerd-" + version); err != nil {
			t.Skipf("%s: no containerd %s here", t.Name(), version)
		}
		c := startCRI(t, version)
		podLimits(t, c, "0::/")
	})
}

// The same with the kubelet's systemd driver: the pod is a slice, its containers are scopes.
func TestSystemdPodLimits(t *testing.T) {
	needsSystemd(t)
	c := startCRI(t, "2.4")
	name := strings.ReplaceAll(c.d.Namespace, "-", "_")
	c.parent = "/" + name + ".slice/" + name + "-pod1.slice"
	t.Cleanup(func() { systemctl(t, "stop", name+"-pod1.slice", name+".slice") })
	podLimits(t, c, "cri-containerd-")
}

// podLimits runs the containers of a pod into their limits, measures and changes them.
func podLimits(t *testing.T, c *kubelet, cgroup string) {
	ctx := c.ctx
	sandbox := c.runPod(t, "pod")
	c.resources = &cri.LinuxContainerResources{
		CpuShares: 512, CpuQuota: 50_000, CpuPeriod: 100_000, MemoryLimitInBytes: 64 * mebi, MemorySwapLimitInBytes: 64 * mebi, OomScoreAdj: -997,
	}
	eats := c.create(t, sandbox, "eats", "exec dd if=/dev/zero of=/dev/null bs=128M count=1")
	lives := c.create(t, sandbox, "lives", "exec dd if=/dev/zero of=/dev/null bs=24M")
	for _, id := range []string{eats, lives} {
		_, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
		must(t, err)
	}
	var status *cri.ContainerStatus
	eventually(t, "the one that eats has ended", func() bool {
		reply, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: eats})
		must(t, err)
		status = reply.Status
		return status.State == cri.ContainerState_CONTAINER_EXITED
	})
	if status.ExitCode != 137 || status.Reason != "OOMKilled" {
		t.Errorf("exit code %d, reason %q; want 137, OOMKilled", status.ExitCode, status.Reason)
	}

	var stats *cri.ContainerStats
	eventually(t, "the one that lives uses 24 MiB", func() bool {
		reply, err := c.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: lives})
		must(t, err)
		stats = reply.Stats
		return stats.GetMemory().GetWorkingSetBytes().GetValue() >= 24*mebi
	})
	m := stats.Memory
	if m.GetWorkingSetBytes().GetValue() > 64*mebi || m.GetRssBytes().GetValue() < 20*mebi || m.GetPageFaults().GetValue() == 0 ||
		m.GetUsageBytes().GetValue() < m.GetWorkingSetBytes().GetValue() {
		t.Errorf("memory: %v", m)
	}
	if stats.GetCpu().GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("processor: %v", stats.GetCpu())
	}
	pods, err := c.runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
	must(t, err)
	if len(pods.Stats) != 1 {
		t.Fatalf("%d pods are measured", len(pods.Stats))
	}
	linux := pods.Stats[0].GetLinux()
	if n := linux.GetNetwork().GetDefaultInterface(); n.GetName() != "eth0" {
		t.Errorf("network: %v", linux.GetNetwork())
	}
	// containerd counts those of the sandbox's own container.
	if linux.GetProcess().GetProcessCount().GetValue() != 1 {
		t.Errorf("processes: %v", linux.GetProcess())
	}

	if got := c.exec(t, lives, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"); got != "67108864\n50000 100000\n" {
		t.Errorf("limits: %q", got)
	}
	_, err = c.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{
		ContainerId: lives, Linux: &cri.LinuxContainerResources{CpuQuota: 80_000, CpuPeriod: 100_000, MemoryLimitInBytes: 128 * mebi, MemorySwapLimitInBytes: 128 * mebi},
	})
	must(t, err)
	if got := c.exec(t, lives, "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max"); got != "134217728\n80000 100000\n" {
		t.Errorf("limits after the update: %q", got)
	}
	reply, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: lives, Verbose: true})
	must(t, err)
	pid := between(reply.Info["info"], `"pid":`, ",")
	if got := read(t, "/proc", pid, "cgroup"); !strings.Contains(got, cgroup) {
		t.Errorf("its cgroup is %s, want one with %s", got, cgroup)
	}
	if got := read(t, "/proc", pid, "oom_score_adj"); got != "-997" {
		t.Errorf("oom_score_adj is %s, want -997", got)
	}
	c.removePod(t, sandbox)
	c.d.AssertClean()
}

// between is what stands between two texts.
func between(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return strings.TrimSpace(s)
}
