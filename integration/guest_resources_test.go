package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// More of what the kernel does to a container that has limits: docs/resources.md has the list.

// throwaway skips a test that changes the machine: swap, huge pages, schedulers.
func throwaway(t *testing.T) {
	t.Helper()
	if os.Getenv("MINI_TEST_GUEST") == "" {
		t.Skipf("%s: changes the machine, and this is not the guest of hack/vm/test", t.Name())
	}
}

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// spin is a container that always wants to run, on the processor 0.
func spin(t *testing.T, d *daemon.Daemon, id string, cpu specs.LinuxCPU) containerd.Task {
	t.Helper()
	cpu.Cpus = "0"
	return start(t, d, id, limited(&specs.LinuxResources{CPU: &cpu}), shell("while :; do :; done"))
}

// use is the processor time that tasks use within a time.
func use(t *testing.T, d *daemon.Daemon, within time.Duration, tasks ...containerd.Task) []time.Duration {
	t.Helper()
	used := make([]time.Duration, len(tasks))
	for _, sign := range []time.Duration{-1, 1} {
		for i, task := range tasks {
			used[i] += sign * time.Duration(measure(t, d, task).CPU.GetUsageUsec()) * time.Microsecond
		}
		if sign < 0 {
			time.Sleep(within)
		}
	}
	return used
}

// outruns looks whether one uses so many times as much of a processor as another. One look may come while the
// machine that the guest is on does something else.
func outruns(t *testing.T, d *daemon.Daemon, fast, slow containerd.Task, times float64) {
	t.Helper()
	var used []time.Duration
	for range 5 {
		used = use(t, d, 4*time.Second, fast, slow)
		if used[0].Seconds() >= times*used[1].Seconds() {
			return
		}
	}
	t.Errorf("%s used %s, %s %s; want %g times as much", fast.ID(), used[0], slow.ID(), used[1], times)
}

// Two that compete for a processor get it by their shares; one that is idle gets what is left.
func TestGuestCPUShares(t *testing.T) {
	needs(t, "cpu", "cpuset")
	d := shared(t, "2.4")
	few, many, idle := uint64(128), uint64(4096), int64(1)
	// Shares are of no account for one that is idle, and no error. It begins before there is anything to run
	// beside: beginning takes a processor, too.
	c := spin(t, d, "idle", specs.LinuxCPU{Shares: &many, Idle: &idle})
	a := spin(t, d, "few", specs.LinuxCPU{Shares: &few})
	b := spin(t, d, "many", specs.LinuxCPU{Shares: &many})
	// Weights 20 and 279 (10^((l^2+125l)/612-7/34)): 14 to 1, and the machine wants some, too.
	outruns(t, d, b, a, 4)
	// The other way round while they run.
	must(t, a.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &many}})))
	must(t, b.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &few}})))
	outruns(t, d, a, b, 4)
	must(t, b.Kill(d.Context(), 9))
	end(t, d, b)

	outruns(t, d, a, c, 10)
	// Dying takes a processor too.
	must(t, a.Kill(d.Context(), 9))
	end(t, d, a)
}

// What was not used may be used later, up to the burst.
func TestGuestCPUBurst(t *testing.T) {
	needs(t, "cpu")
	d := shared(t, "2.4")
	quota, period, burst := int64(30_000), uint64(100_000), uint64(30_000)
	limit := &specs.LinuxCPU{Quota: &quota, Period: &period, Burst: &burst}
	task := start(t, d, "box", limited(&specs.LinuxResources{CPU: limit}),
		shell("while :; do sleep 0.5; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done"))
	eventually(t, "it bursts", func() bool {
		c := measure(t, d, task).CPU
		return c.GetNrBursts() > 0 && c.GetBurstUsec() > 0
	})
	// A lower quota than the burst that was.
	lower, none := int64(10_000), uint64(0)
	limit.Quota, limit.Burst = &lower, &none
	must(t, task.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{CPU: limit})))
	if got := group(t, d, "box", "cpu.max") + " " + group(t, d, "box", "cpu.max.burst"); got != "10000 100000 0" {
		t.Errorf("after the update: %s", got)
	}
}

// Pages come from the nodes that were given, and there is no other one.
func TestGuestMems(t *testing.T) {
	needs(t, "cpuset")
	d := shared(t, "2.4")
	task := start(t, d, "box", limited(&specs.LinuxResources{CPU: &specs.LinuxCPU{Mems: "0"}}), sleeper())
	if _, out := command(t, d, task, "e", "", "grep", "Mems_allowed_list", "/proc/self/status"); strings.Fields(out + " - -")[1] != "0" {
		t.Errorf("%q, want the node 0 alone", out)
	}
	_, err := create(t, d, "none", limited(&specs.LinuxResources{CPU: &specs.LinuxCPU{Mems: "63"}}), sleeper()).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "linux.resources.cpu.mems") {
		t.Errorf("a node that is not there: %v, want an error that names linux.resources.cpu.mems", err)
	}
}

// Memory that is reserved is not taken for others.
func TestGuestReservation(t *testing.T) {
	needs(t, "memory", "io")
	d := shared(t, "2.4")
	dir, in := pod(t, d, 48*mebi)
	must(t, os.WriteFile(filepath.Join(dir, "memory.min"), []byte("0"), 0))
	reserved := int64(32 * mebi)
	files := func(id string, r *specs.LinuxResources) containerd.Task {
		task := start(t, d, id, in(id), limited(r), sleeper())
		// The data of a file that was written is reclaimed like any other once it is on the disk.
		if status, out := command(t, d, task, "fill", "", "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=20 conv=fsync && cat /f >/dev/null"); status != 0 {
			t.Fatalf("status %d: %s", status, out)
		}
		return task
	}
	kept := files("kept", &specs.LinuxResources{Memory: &specs.LinuxMemory{Reservation: &reserved}})
	lost := files("lost", &specs.LinuxResources{})
	greedy := start(t, d, "greedy", in("greedy"), sleeper())
	if status, out := command(t, d, greedy, "e", "", "sh", "-c", "dd if=/dev/zero of=/f bs=1M count=100 conv=fsync && cat /f /f >/dev/null"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	k, l := measure(t, d, kept).Memory.GetFile(), measure(t, d, lost).Memory.GetFile()
	if k < 15*mebi || k < 2*l {
		t.Errorf("reserved: %d MiB are left of 20; not reserved: %d MiB", k/mebi, l/mebi)
	}
}

// Swap is what is allowed beyond the memory: containerd and the spec count both together.
func TestGuestSwap(t *testing.T) {
	needs(t, "memory")
	throwaway(t)
	d := shared(t, "2.4")
	file := filepath.Join(t.TempDir(), "swap")
	run(t, "dd", "if=/dev/zero", "of="+file, "bs=1M", "count=64")
	run(t, "mkswap", file)
	must(t, os.Chmod(file, 0o600))
	run(t, "swapon", file)
	t.Cleanup(func() { run(t, "swapoff", file) })

	limit, both := int64(16*mebi), int64(32*mebi)
	task := start(t, d, "swaps", limited(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &both}}), sleeper())
	if got, want := group(t, d, "swaps", "memory.swap.max"), fmt.Sprint(both-limit); got != want {
		t.Errorf("memory.swap.max is %s, want what is beyond the memory, %s", got, want)
	}
	if status, out := command(t, d, task, "fits", "", full(24)...); status != 0 {
		t.Errorf("24 MiB do not fit into 16 of memory and 16 of swap: status %d: %s", status, out)
	}
	peak := uint64(6 * mebi)
	if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", d.Namespace, "swaps", "memory.swap.peak")); err != nil {
		peak = 0 // before Linux 6.5 the kernel does not keep it
	}
	if m := measure(t, d, task).Memory; m.GetSwapMaxUsage() < peak || m.GetSwapLimit() != 16*mebi {
		t.Errorf("measured: %v", m)
	}
	if status, _ := command(t, d, task, "more", "", full(40)...); status != 137 {
		t.Errorf("40 MiB fit: status %d", status)
	}
	none := start(t, d, "none", limited(memory(16*mebi)), sleeper())
	if status, _ := command(t, d, none, "more", "", full(24)...); status != 137 {
		t.Errorf("24 MiB fit into 16 without swap: status %d", status)
	}
	any := int64(-1)
	free := start(t, d, "free", limited(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &any}}), sleeper())
	if status, out := command(t, d, free, "fits", "", full(24)...); status != 0 {
		t.Errorf("24 MiB do not fit into 16 with swap: status %d: %s", status, out)
	}
}

// full is hold with what the kernel has to keep: since Linux 6.12 it makes nothing of pages full of zeros.
func full(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf("tr '\\000' x </dev/zero | dd of=/dev/null count=1 iflag=fullblock bs=%dM; exit $?", n)}
}

// An update that would take what is in use is refused, where that is asked for.
func TestGuestCheckBeforeUpdate(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	task := start(t, d, "box", limited(memory(64*mebi)), oci.WithProcessArgs("dd", "if=/dev/zero", "of=/dev/null", "bs=24M"))
	eventually(t, "24 MiB are used", func() bool { return measure(t, d, task).Memory.GetAnon() >= 24*mebi })
	check := true
	less := memory(16 * mebi)
	less.Memory.CheckBeforeUpdate = &check
	err := task.Update(d.Context(), containerd.WithResources(less))
	if err == nil || !strings.Contains(err.Error(), "linux.resources.memory.limit") || !strings.Contains(err.Error(), "in use") {
		t.Errorf("%v, want an error that names linux.resources.memory.limit", err)
	}
	if got := group(t, d, "box", "memory.max"); got != fmt.Sprint(64*mebi) {
		t.Errorf("memory.max is %s", got)
	}
	more := memory(128 * mebi)
	more.Memory.CheckBeforeUpdate = &check
	must(t, task.Update(d.Context(), containerd.WithResources(more)))
	// Without the check the kernel makes room, and kills for it.
	must(t, task.Update(d.Context(), containerd.WithResources(memory(8*mebi))))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
}

// Huge pages, up to the limit.
func TestGuestHugepages(t *testing.T) {
	needs(t, "hugetlb")
	throwaway(t)
	const pages = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
	must(t, os.WriteFile(pages, []byte("8"), 0))
	t.Cleanup(func() { must(t, os.WriteFile(pages, []byte("0"), 0)) })
	d := shared(t, "2.4")
	huge := oci.WithMounts([]specs.Mount{{Destination: "/huge", Type: "hugetlbfs", Source: "hugetlbfs", Options: []string{"pagesize=2M"}}})
	task := start(t, d, "box", huge, sleeper(), limited(&specs.LinuxResources{
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 * mebi}},
	}))
	if status, out := command(t, d, task, "fits", "", "fallocate", "-l", "4194304", "/huge/a"); status != 0 {
		t.Errorf("two pages of two: status %d: %s", status, out)
	}
	measured := measure(t, d, task).Hugetlb
	if !slices.ContainsFunc(measured, func(h *stats.HugeTlbStat) bool {
		return h.Pagesize == "2MB" && h.Current == 4*mebi && h.Max == 4*mebi
	}) {
		t.Errorf("measured: %v", measured)
	}
	if status, out := command(t, d, task, "more", "", "fallocate", "-l", "4194304", "/huge/b"); status == 0 {
		t.Errorf("two pages more than two: %s", out)
	}
	_, err := create(t, d, "none", sleeper(), limited(&specs.LinuxResources{
		HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "3MB", Limit: 1}},
	})).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "linux.resources.hugepageLimits[0]") {
		t.Errorf("pages of a size that is not there: %v", err)
	}
}

// A device that is not there has no limits: the error says whose.
func TestGuestRdma(t *testing.T) {
	needs(t, "rdma")
	d := shared(t, "2.4")
	handles := uint32(1)
	_, err := create(t, d, "box", sleeper(), limited(&specs.LinuxResources{
		Rdma: map[string]specs.LinuxRdma{"mlx5_7": {HcaHandles: &handles}},
	})).NewTask(d.Context(), cio.NullIO)
	if err == nil || !strings.Contains(err.Error(), "linux.resources.rdma[mlx5_7]") {
		t.Errorf("%v, want an error that names linux.resources.rdma[mlx5_7]", err)
	}
}

// unified has the last word, about this cgroup and no other.
func TestGuestUnified(t *testing.T) {
	needs(t, "memory", "pids")
	d := shared(t, "2.4")
	r := memory(256 * mebi)
	r.Unified = map[string]string{"memory.max": fmt.Sprint(32 * mebi), "pids.max": "5"}
	task := start(t, d, "box", sleeper(), limited(r))
	if status, out := command(t, d, task, "more", "", hold(64)...); status != 137 {
		t.Errorf("64 MiB fit into 32: status %d: %s", status, out)
	}
	if got := measure(t, d, task).Pids.GetLimit(); got != 5 {
		t.Errorf("%d processes are allowed, want 5", got)
	}
	for _, file := range []string{
		"../memory.max", "/etc/x.y", "memory/../../x.y", "..", ".", "memory..max", "cgroup.procs", "cgroup.subtree_control", "memory", "memory.none", "none.max",
	} {
		err := task.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{Unified: map[string]string{file: "1"}}))
		if err == nil || !strings.Contains(err.Error(), "linux.resources.unified") {
			t.Errorf("%q: %v, want an error that names linux.resources.unified", file, err)
		}
	}
}

// nodes gives a container the nodes of devices, which is not the right to open them.
func nodes(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
	s.Linux.Devices = append(s.Linux.Devices,
		specs.LinuxDevice{Path: "/dev/loop", Type: "c", Major: 10, Minor: 237},
		specs.LinuxDevice{Path: "/dev/disk", Type: "b", Major: 259, Minor: 0})
	return nil
}

// A device of the list can be opened, one that is not in it cannot, whatever node there is.
func TestGuestDevices(t *testing.T) {
	d := shared(t, "2.4")
	major, minor := int64(10), int64(237) // /dev/loop-control
	task := start(t, d, "box", sleeper(), nodes, specOf(func(s *oci.Spec) {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "r"}}
	}))
	try := func(id, script string) string {
		_, out := command(t, d, task, id, "", "sh", "-c", script)
		return out
	}
	if out := try("read", "exec 3</dev/loop && echo open"); out != "open\n" {
		t.Errorf("a device that is allowed: %s", out)
	}
	for id, script := range map[string]string{"write": "exec 3>/dev/loop", "disk": "exec 3</dev/disk"} {
		if out := try(id, script); !strings.Contains(out, "Operation not permitted") {
			t.Errorf("%s: %q, want not permitted", script, out)
		}
	}
	const defaults = "echo x >/dev/null && head -c 1 /dev/urandom | wc -c"
	if out := try("null", defaults); out != "1\n" {
		t.Errorf("default devices: %s", out)
	}
	// An update that repeats the list, as the kubelet's do, takes none of them away.
	must(t, task.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}})))
	if out := try("null-again", defaults); out != "1\n" {
		t.Errorf("default devices after an update: %s", out)
	}
	if out := try("read-again", "exec 3</dev/loop"); !strings.Contains(out, "Operation not permitted") {
		t.Errorf("a device that was taken away: %q", out)
	}
}

// bytesRead is what the container has read of a device.
func bytesRead(t *testing.T, d *daemon.Daemon, task containerd.Task, major, minor uint32) (n uint64) {
	t.Helper()
	for _, e := range measure(t, d, task).Io.GetUsage() {
		if e.Major == uint64(major) && e.Minor == uint64(minor) {
			n = e.Rbytes
		}
	}
	return n
}

// Two that read the same disk get it by their weight, where a scheduler keeps it.
func TestGuestIOWeight(t *testing.T) {
	needs(t, "io")
	throwaway(t)
	d := shared(t, "2.4")
	var stat unix.Stat_t
	must(t, unix.Stat(d.Dir, &stat))
	major, minor := unix.Major(stat.Dev), unix.Minor(stat.Dev)
	scheduler := fmt.Sprintf("/sys/dev/block/%d:%d/queue/scheduler", major, minor)
	_ = exec.Command("modprobe", "bfq").Run()
	if err := os.WriteFile(scheduler, []byte("bfq"), 0); err != nil {
		t.Skipf("%s: no BFQ on %s: %v", t.Name(), d.Dir, err)
	}
	t.Cleanup(func() { _ = os.WriteFile(scheduler, []byte("none"), 0) })
	reader := func(id string, weight uint16) containerd.Task {
		return start(t, d, id, limited(&specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: &weight}}),
			shell("dd if=/dev/zero of=/f bs=1M count=16 conv=fsync; for i in 1 2 3; do while :; do dd if=/f of=/dev/null bs=64k iflag=direct; done & done; wait"))
	}
	light, heavy := reader("light", 10), reader("heavy", 1000)
	if got := group(t, d, "heavy", "io.bfq.weight"); got != "default 1000" && got != "1000" {
		t.Errorf("io.bfq.weight is %q", got)
	}
	eventually(t, "both read", func() bool {
		return bytesRead(t, d, light, major, minor) > 0 && bytesRead(t, d, heavy, major, minor) > 0
	})
	// Weights count as long as both have something to read, which takes more than one that asks on a fast disk.
	compete := func(light, heavy containerd.Task) {
		t.Helper()
		var l, h uint64
		for range 5 {
			l0, h0 := bytesRead(t, d, light, major, minor), bytesRead(t, d, heavy, major, minor)
			time.Sleep(4 * time.Second)
			l, h = bytesRead(t, d, light, major, minor)-l0, bytesRead(t, d, heavy, major, minor)-h0
			if h >= 2*l {
				return
			}
		}
		t.Errorf("weight 10 read %d KiB, weight 1000 read %d KiB", l>>10, h>>10)
	}
	compete(light, heavy)
	// The other way round, for this disk alone.
	for _, c := range []struct {
		task   containerd.Task
		weight uint16
	}{{light, 1000}, {heavy, 10}} {
		weight := specs.LinuxWeightDevice{Weight: &c.weight}
		weight.Major, weight.Minor = int64(major), int64(minor)
		must(t, c.task.Update(d.Context(), containerd.WithResources(&specs.LinuxResources{
			BlockIO: &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}},
		})))
	}
	compete(heavy, light)
}

// Reads and writes as few as they have to be.
func TestGuestIOPS(t *testing.T) {
	needs(t, "io")
	d := shared(t, "2.4")
	slow := throttled(t, d, 10)
	task := start(t, d, "box", limited(&specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{
			ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{slow}, ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{slow},
		},
	}), sleeper())
	if status, out := command(t, d, task, "fill", "", "dd", "if=/dev/zero", "of=/f", "bs=4k", "count=30", "conv=fsync"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	for id, args := range map[string][]string{
		"read":  {"dd", "if=/f", "of=/dev/null", "bs=4k", "count=30", "iflag=direct"},
		"write": {"dd", "if=/dev/zero", "of=/f", "bs=4k", "count=30", "oflag=direct", "conv=notrunc"},
	} {
		from := time.Now()
		if status, out := command(t, d, task, id, "", args...); status != 0 {
			t.Fatalf("%s: status %d: %s", id, status, out)
		}
		if took := time.Since(from); took < 2*time.Second {
			t.Errorf("%s: 30 at 10 a second in %s", id, took)
		}
	}
}

// A container that has made cgroups of its own, and has its processes there, is listed, frozen, killed and
// removed whole.
func TestGuestNested(t *testing.T) {
	needs(t, "memory", "pids")
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", limited(memory(256*mebi)), oci.WithHostNamespace(specs.PIDNamespace), sleeper())
	top := filepath.Join("/sys/fs/cgroup", d.Namespace, "box")
	deep := filepath.Join(top, "a", "b", "c")
	must(t, os.MkdirAll(deep, 0o755))
	command(t, d, task, "fork", "", "sh", "-c", "for i in 1 2 3; do (while :; do sleep 0.02; done) >/dev/null 2>&1 & done")
	pids := func() int {
		all, err := task.Pids(ctx)
		must(t, err)
		return len(all)
	}
	eventually(t, "there are forkers", func() bool { return pids() > 3 })
	for _, pid := range strings.Fields(read(t, top, "cgroup.procs")) {
		_ = os.WriteFile(filepath.Join(deep, "cgroup.procs"), []byte(pid), 0)
	}
	if n := pids(); n < 4 {
		t.Errorf("%d processes are listed", n)
	}
	must(t, task.Pause(ctx))
	if got := read(t, deep, "cgroup.events"); !strings.Contains(got, "frozen 1") {
		t.Errorf("not frozen below: %s", got)
	}
	used := use(t, d, time.Second, task)
	if used[0] > 50*time.Millisecond {
		t.Errorf("paused, it used %s in a second", used[0])
	}
	must(t, task.Kill(ctx, unix.SIGKILL, containerd.WithKillAll))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	d.AssertClean()
}
