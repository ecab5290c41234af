package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// What the kernel does to a container that has limits. Many machines have given the controllers to
// cgroup v1: these tests run where cgroup v2 has them, and in the guest of hack/vm/test.

const mebi = 1 << 20

// needs skips a test where cgroup v2 lacks one of the controllers.
func needs(t *testing.T, controllers ...string) {
	t.Helper()
	for _, c := range controllers {
		if !hasController(c) {
			t.Skipf("%s: no %s controller in cgroup v2 on this machine", t.Name(), c)
		}
	}
}

// memory is a limit, without swap beyond it.
func memory(limit int64) *specs.LinuxResources {
	return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
}

// limited gives a container resources, beside the devices of the default spec.
func limited(r *specs.LinuxResources) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		r.Devices = s.Linux.Resources.Devices
		s.Linux.Resources = r
		return nil
	}
}

// hold is a command that fills n MiB of memory, and ends with 0 if it may.
func hold(n int) []string {
	return []string{"dd", "if=/dev/zero", "of=/dev/null", "count=1", fmt.Sprintf("bs=%dM", n)}
}

// follow gives the events of the tasks of a test, each as describe says it.
func follow(t *testing.T, d *daemon.Daemon) (next func() string) {
	t.Helper()
	stream, errs := d.Client().Subscribe(d.Context(), `namespace==`+d.Namespace+`,topic~="^/tasks/"`)
	return func() string {
		t.Helper()
		select {
		case e := <-stream:
			return describe(t, e)
		case err := <-errs:
			t.Fatal(err)
		case <-time.After(2 * time.Minute):
			t.Fatal("no further event")
		}
		return ""
	}
}

// until gives the events up to and with the last one.
func until(next func() string, last string) []string {
	var all []string
	for {
		e := next()
		all = append(all, e)
		if e == last {
			return all
		}
	}
}

// measure reads what the container has used.
func measure(t *testing.T, d *daemon.Daemon, task containerd.Task) *stats.Metrics {
	t.Helper()
	m, err := task.Metrics(d.Context())
	must(t, err)
	v, err := typeurl.UnmarshalAny(m.Data)
	must(t, err)
	return v.(*stats.Metrics)
}

// group is a file of the cgroup of a container.
func group(t *testing.T, d *daemon.Daemon, id, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", d.Namespace, id, file))
	must(t, err)
	return strings.TrimSpace(string(data))
}

// No more processes than allowed: fork fails, and nobody else suffers.
func TestGuestPids(t *testing.T) {
	needs(t, "pids")
	d := shared(t, "2.4")
	most := int64(6)
	task := start(t, d, "box", limited(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &most}}), sleeper())
	status, out := command(t, d, task, "bomb", "", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait")
	if status == 0 || !strings.Contains(out, "can't fork") {
		t.Errorf("status %d, output %q; want can't fork", status, out)
	}
	m := measure(t, d, task)
	if m.Pids.GetLimit() != 6 || m.Pids.GetCurrent() == 0 || m.Pids.GetCurrent() > 6 {
		t.Errorf("measured: %v", m.Pids)
	}
	// Full: not even an exec fits, and its error says why.
	p := execute(t, d, task, "late", cio.NullIO, "true")
	if err := p.Start(d.Context()); err == nil {
		t.Log("an exec fits") // the shell has ended
		done, err := p.Wait(d.Context())
		must(t, err)
		wait(t, done)
	} else if !strings.Contains(err.Error(), "temporarily unavailable") {
		t.Errorf("exec into a full container: %v", err)
	}
	_, err := p.Delete(d.Context())
	must(t, err)
}

// A container that always wants to run gets its share of a processor and is throttled beyond it.
func TestGuestCPUQuota(t *testing.T) {
	needs(t, "cpu")
	d := shared(t, "2.4")
	quota, period := int64(20_000), uint64(100_000)
	task := start(t, d, "box", limited(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}),
		shell("while :; do :; done"))
	eventually(t, "it is throttled", func() bool { return measure(t, d, task).CPU.GetNrThrottled() > 0 })
	// From before the first look until after the second: on a slow machine a look takes its time.
	from := time.Now()
	before := measure(t, d, task).CPU
	time.Sleep(2 * time.Second)
	after, wall := measure(t, d, task).CPU, time.Since(from)
	if after.NrThrottled <= before.NrThrottled || after.ThrottledUsec <= before.ThrottledUsec {
		t.Errorf("throttled no more: %v, then %v", before, after)
	}
	used := time.Duration(after.UsageUsec-before.UsageUsec) * time.Microsecond
	if share := used.Seconds() / wall.Seconds(); share > 0.3 {
		t.Errorf("used %s of %s, want a fifth", used, wall)
	}
}

// A container sees and uses the processors it was given.
func TestGuestCpuset(t *testing.T) {
	needs(t, "cpuset")
	d := shared(t, "2.4")
	task := start(t, d, "box", limited(&specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}}), sleeper())
	if _, out := command(t, d, task, "e", "", "grep", "Cpus_allowed_list", "/proc/self/status"); strings.Fields(out + " - -")[1] != "0" {
		t.Errorf("%q, want the processor 0 alone", out)
	}
}

// A limit that is raised lets through what it has killed before; an update that fails changes nothing.
func TestGuestUpdate(t *testing.T) {
	needs(t, "memory", "cpu", "pids")
	d := shared(t, "2.4")
	ctx := d.Context()
	task := start(t, d, "box", limited(memory(32*mebi)), sleeper())
	if status, out := command(t, d, task, "before", "", hold(64)...); status != 137 {
		t.Errorf("status %d, want 137: %s", status, out)
	}
	must(t, task.Update(ctx, containerd.WithResources(memory(256*mebi))))
	if got, want := group(t, d, "box", "memory.max"), fmt.Sprint(256*mebi); got != want {
		t.Errorf("memory.max is %s, want %s", got, want)
	}
	if status, out := command(t, d, task, "after", "", hold(64)...); status != 0 {
		t.Errorf("status %d, want 0: %s", status, out)
	}

	// A controller that the container did not begin with.
	most := int64(7)
	must(t, task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &most}})))
	if got := group(t, d, "box", "pids.max"); got != "7" {
		t.Errorf("pids.max is %s, want 7", got)
	}

	wrong := memory(128 * mebi)
	period, quota := uint64(1), int64(1000) // the kernel wants a millisecond
	wrong.CPU = &specs.LinuxCPU{Period: &period, Quota: &quota}
	if err := task.Update(ctx, containerd.WithResources(wrong)); err == nil || !strings.Contains(err.Error(), "cpu") {
		t.Errorf("update with a period of 1 us: %v, want an error that names cpu", err)
	}
	if got, want := group(t, d, "box", "memory.max"), fmt.Sprint(256*mebi); got != want {
		t.Errorf("memory.max is %s after an update that failed, want %s", got, want)
	}
}

// What is measured is what is used.
func TestGuestMetrics(t *testing.T) {
	needs(t, "memory", "io")
	d := shared(t, "2.4")
	task := start(t, d, "box", limited(memory(64*mebi)),
		oci.WithProcessArgs("dd", "if=/dev/zero", "of=/dev/null", "bs=24M"))
	eventually(t, "24 MiB are used", func() bool { return measure(t, d, task).Memory.GetUsage() >= 24*mebi })
	m := measure(t, d, task)
	if m.Memory.GetUsageLimit() != 64*mebi || m.Memory.GetUsage() > 64*mebi || m.Memory.GetAnon() < 20*mebi || m.Memory.GetMaxUsage() < 24*mebi {
		t.Errorf("memory: %v", m.Memory)
	}
	if m.CPU.GetUsageUsec() == 0 || m.Pids.GetCurrent() != 1 {
		t.Errorf("cpu %v, pids %v", m.CPU, m.Pids)
	}
	if m.Memory.GetPSI() == nil || m.CPU.GetPSI() == nil {
		t.Errorf("no pressure: memory %v, cpu %v", m.Memory.GetPSI(), m.CPU.GetPSI())
	}
	out := d.Ctr("task", "metrics", "box")
	for _, want := range []string{`memory.usage +[1-9]`, `memory.usage_limit +67108864`, `cpu.usage_usec +[1-9]`} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("ctr task metrics has no %q:\n%s", want, out)
		}
	}
}

// A container that is paused is killed and deleted all the same, with the cgroups it has made.
func TestGuestKillPaused(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	task := start(t, d, "box", limited(memory(64*mebi)), sleeper())
	must(t, os.Mkdir(filepath.Join("/sys/fs/cgroup", d.Namespace, "box", "own"), 0o755))
	must(t, task.Pause(d.Context()))
	ctx, cancel := context.WithTimeout(d.Context(), time.Minute)
	defer cancel()
	must(t, task.Kill(ctx, 9))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	d.AssertClean()
}

// throttled is a limit for the disk that containers' files are on. It skips the test where that is a part of one:
// the kernel throttles whole disks.
func throttled(t *testing.T, d *daemon.Daemon, rate uint64) (device specs.LinuxThrottleDevice) {
	t.Helper()
	var stat unix.Stat_t
	must(t, unix.Stat(d.Dir, &stat))
	device.Major, device.Minor, device.Rate = int64(unix.Major(stat.Dev)), int64(unix.Minor(stat.Dev)), rate
	if _, err := os.Stat(fmt.Sprintf("/sys/dev/block/%d:%d/queue", device.Major, device.Minor)); err != nil {
		t.Skipf("%s: %s is not on a whole disk: %v", t.Name(), d.Dir, err)
	}
	return device
}

// Writes to a disk and reads of it are as slow as they have to be.
func TestGuestIO(t *testing.T) {
	needs(t, "io")
	d := shared(t, "2.4")
	slow := throttled(t, d, mebi)
	task := start(t, d, "box", limited(&specs.LinuxResources{
		BlockIO: &specs.LinuxBlockIO{
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{slow}, ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{slow},
		},
	}), sleeper())
	for i, args := range [][]string{
		{"dd", "if=/dev/zero", "of=/file", "bs=1M", "count=4", "conv=fsync"},
		{"dd", "if=/file", "of=/dev/null", "bs=1M", "count=4", "iflag=direct"},
	} {
		from := time.Now()
		if status, out := command(t, d, task, fmt.Sprint("e", i), "", args...); status != 0 {
			t.Errorf("%s: status %d: %s", args, status, out)
		}
		if took := time.Since(from); took < 3*time.Second {
			t.Errorf("%s: 4 MiB at 1 MiB/s in %s", args, took)
		}
	}
	for _, e := range measure(t, d, task).Io.GetUsage() {
		if e.Major == uint64(slow.Major) && e.Minor == uint64(slow.Minor) && e.Wbytes >= 4*mebi {
			return
		}
	}
	t.Errorf("measured: %v", measure(t, d, task).Io)
}
