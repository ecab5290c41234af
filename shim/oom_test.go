package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
)

// hasController says whether cgroup v2 has a controller to give.
func hasController(name string) bool {
	data, _ := os.ReadFile(filepath.Join(cgroupRoot(), "cgroup.controllers"))
	return strings.Contains(" "+strings.TrimSpace(string(data))+" ", " "+name+" ")
}

// TestOOMKills: of many execs that the kernel kills for want of memory, in several containers at once, each is
// told as it was: one TaskOOM for each, and before the exit that it led to. MINI_TEST_OOM_KILLS is how many.
func TestOOMKills(t *testing.T) {
	if !hasController("memory") {
		t.Skip("TestOOMKills: no memory controller in cgroup v2 on this machine")
	}
	kills := 80
	if n, err := strconv.Atoi(os.Getenv("MINI_TEST_OOM_KILLS")); err == nil {
		kills = n
	}
	r := newRig(t)
	next := make(chan int, kills)
	for i := range kills {
		next <- i
	}
	close(next)
	const containers = 4
	limit := int64(8 << 20)
	var all sync.WaitGroup
	for c := range containers {
		id := fmt.Sprintf("c%d", c)
		spec := r.spec("sleep", "100000")
		spec.Linux.CgroupsPath += "/" + id
		spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		if _, err := r.client.Create(t.Context(), r.request(id, spec)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.client.Start(t.Context(), &task.StartRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		all.Go(func() {
			for i := range next {
				if i%100 == 99 {
					t.Logf("kill %d of %d", i, kills)
				}
				if err := r.killForMemory(t, id, fmt.Sprintf("e%d", i)); err != nil {
					t.Errorf("kill %d, in %s: %v", i, id, err)
					return
				}
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	ooms, exits := r.kills(t, kills)
	sum := 0
	for c := range containers {
		id := fmt.Sprintf("c%d", c)
		dir := filepath.Join(cgroupRoot(), r.spec().Linux.CgroupsPath, id)
		events, err := os.ReadFile(filepath.Join(dir, "memory.events"))
		if want := fmt.Sprintf("oom_kill %d\n", exits[id]); err != nil || !strings.Contains(string(events), want) || ooms[id] != exits[id] {
			t.Errorf("%s: %d exits and %d OOMs were told; the kernel: %q, %v", id, exits[id], ooms[id], events, err)
		}
		sum += ooms[id]
		r.remove(id)
	}
	t.Logf("%d processes were killed, %d OOMs told", kills, sum)
	r.assertClean()
}

// killForMemory has an exec take more memory than there is.
func (r *rig) killForMemory(t *testing.T, id, exec string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	spec := execSpec(t, "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=32M", "count=1")
	if _, err := r.client.Exec(ctx, &task.ExecProcessRequest{ID: id, ExecID: exec, Spec: spec}); err != nil {
		return err
	}
	if _, err := r.client.Start(ctx, &task.StartRequest{ID: id, ExecID: exec}); err != nil {
		return err
	}
	if end, err := r.client.Wait(ctx, &task.WaitRequest{ID: id, ExecID: exec}); err != nil || end.ExitStatus != 137 {
		return fmt.Errorf("it ended with %v, %w", end, err)
	}
	_, err := r.client.Delete(ctx, &task.DeleteRequest{ID: id, ExecID: exec})
	return err
}

// kills waits for the exits of n execs, and counts by container what was told. An exit that no OOM came
// before is an error.
func (r *rig) kills(t *testing.T, n int) (ooms, exits map[string]int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		ended := 0
		for _, topic := range r.events.topics() {
			if topic == "exit" {
				ended++
			}
		}
		if ended == n {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d exits were told of %d", ended, n)
		}
	}
	ooms, exits = map[string]int{}, map[string]int{}
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	for _, e := range r.events.got {
		var oom eventsapi.TaskOOM
		var exit eventsapi.TaskExit
		switch e.Topic {
		case "/tasks/oom":
			if err := proto.Unmarshal(e.Event.Value, &oom); err != nil {
				t.Fatal(err)
			}
			ooms[oom.ContainerID]++
		case "/tasks/exit":
			if err := proto.Unmarshal(e.Event.Value, &exit); err != nil {
				t.Fatal(err)
			}
			if exits[exit.ContainerID]++; ooms[exit.ContainerID] < exits[exit.ContainerID] {
				t.Errorf("exit %d of %s: only %d OOMs were told before it", exits[exit.ContainerID], exit.ContainerID, ooms[exit.ContainerID])
			}
		}
	}
	return ooms, exits
}
