package shim

import (
	"fmt"
	"os"
	"strings"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/status"
)

// TestScheduling asks the kernel what a container's process has of what its spec
// says of processors, disks and memory; with a user namespace, too, where the
// process itself could not ask for it.
func TestScheduling(t *testing.T) {
	for _, user := range []bool{false, true} {
		t.Run(fmt.Sprintf("user=%t", user), func(t *testing.T) { testScheduling(t, user) })
	}
}

func testScheduling(t *testing.T, user bool) {
	r := newRig(t)
	r.applets("grep")
	spec := r.spec("sleep", "100")
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork}}
	spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_RT, Priority: 6}
	spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	_, _, numa := unix.Syscall6(unix.SYS_SET_MEMPOLICY, 0, 0, 0, 0, 0, 0)
	if numa == 0 {
		spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}
	}
	if user {
		r.chown(spec.Root.Path, mappedRoot)
		mapped(spec)
	}
	created, err := r.client.Create(t.Context(), r.request("x", spec))
	r.must(err)
	pid := int(created.Pid)
	_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
	r.must(err)
	attr, err := unix.SchedGetAttr(pid, 0)
	if err != nil || attr.Policy != unix.SCHED_FIFO || attr.Priority != 3 || attr.Flags&unix.SCHED_FLAG_RESET_ON_FORK == 0 {
		t.Errorf("scheduler: %+v, %v", attr, err)
	}
	prio, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(pid), 0)
	if errno != 0 || prio != 1<<13|6 {
		t.Errorf("io priority %#x, %v", prio, errno)
	}
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/personality", pid)); err != nil || string(data) != "00000008\n" {
		t.Errorf("personality %q, %v", data, err)
	}
	if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/numa_maps", pid)); numa == 0 && (err != nil || !strings.Contains(string(data), "bind:0")) {
		t.Errorf("memory policy: %.100s, %v", data, err)
	} else if numa != 0 {
		t.Log("memory policy: this kernel has none: ", numa)
	}

	proc := sh("grep Cpus_allowed_list /proc/self/status; cat /proc/self/personality")
	proc.ExecCPUAffinity = &specs.CPUAffinity{Initial: "8000", Final: "0"}
	if code, got := r.exec("x", proc); code != 0 || got != "Cpus_allowed_list:\t0\n00000008\n" {
		t.Errorf("exec: %d, %q", code, got)
	}
	r.remove("x")
	r.assertClean()
}

// TestDeadline: a deadline is set last, as who has one cannot fork.
func TestDeadline(t *testing.T) {
	r := newRig(t)
	spec := r.spec("sleep", "100")
	spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e7, Deadline: 1e8, Period: 1e8}
	created, err := r.client.Create(t.Context(), r.request("x", spec))
	if err != nil && strings.Contains(status.Convert(err).Message(), "process.scheduler: SCHED_DEADLINE: operation not permitted") {
		r.assertClean()
		t.Skip("this machine grants no deadlines")
	}
	r.must(err)
	attr, err := unix.SchedGetAttr(int(created.Pid), 0)
	if err != nil || attr.Policy != unix.SCHED_DEADLINE || attr.Runtime != 1e7 || attr.Deadline != 1e8 || attr.Period != 1e8 {
		t.Errorf("%+v, %v", attr, err)
	}
	r.remove("x")
	r.assertClean()
}

// TestRefusedScheduling: what the kernel does not grant is told by the field, and
// nothing is left.
func TestRefusedScheduling(t *testing.T) {
	r := newRig(t)
	for want, change := range map[string]func(*specs.Spec){
		"linux.memoryPolicy: MPOL_BIND: ": func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind} },
		"process.scheduler: SCHED_FIFO: invalid argument": func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1000}
		},
		"process.scheduler: SCHED_DEADLINE: invalid argument": func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 5000, Deadline: 3000}
		},
	} {
		spec := r.spec("true")
		change(spec)
		_, err := r.client.Create(t.Context(), r.request("x", spec))
		if err == nil || !strings.HasPrefix(status.Convert(err).Message(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		r.assertClean()
	}
}
