package shim

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestMany makes containers one after the other, and some at once: after all of
// them nothing is left, neither a cgroup nor a descriptor. They have limits where
// the machine has any. MINI_TEST_MANY is how many.
func TestMany(t *testing.T) {
	many := 100
	if n, err := strconv.Atoi(os.Getenv("MINI_TEST_MANY")); err == nil {
		many = n
	}
	r := newRig(t)
	limited := func(args ...string) *specs.Spec {
		s := r.spec(args...)
		s.Linux.Resources = &specs.LinuxResources{}
		if limit := int64(64 << 20); hasController("memory") {
			s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		}
		if most := int64(20); hasController("pids") {
			s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &most}
		}
		return s
	}
	progress := func(i int) { // a guest that says nothing is taken for dead
		if i%100 == 0 && i > 0 {
			t.Logf("%d of %d", i, many)
		}
	}
	for i := range many / 2 {
		progress(i)
		id := fmt.Sprintf("c%d", i)
		if _, err := r.client.Create(t.Context(), r.request(id, limited("true"))); err != nil {
			t.Fatal(err)
		}
		if _, err := r.client.Start(t.Context(), &task.StartRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		r.wait(id)
		r.remove(id)
		if err := os.RemoveAll(r.dir + "/bundle-" + id); err != nil {
			t.Fatal(err)
		}
	}
	// These have children, and cgroups of their own below the container's.
	const atOnce = 10
	for i := 0; i < many-many/2; i += atOnce {
		progress(many/2 + i)
		var all sync.WaitGroup
		for k := range atOnce {
			id := fmt.Sprintf("p%d", i+k)
			spec := limited("sh", "-c", "sleep 1000 & sleep 1000 & wait")
			spec.Linux.CgroupsPath += "/" + id
			request := r.request(id, spec)
			all.Go(func() {
				_, err := r.client.Create(t.Context(), request)
				if err == nil {
					_, err = r.client.Start(t.Context(), &task.StartRequest{ID: id})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		for k := range atOnce {
			id := fmt.Sprintf("p%d", i+k)
			below := cgroupRoot() + r.spec().Linux.CgroupsPath + "/" + id + "/below/it"
			if err := os.MkdirAll(below, 0o755); err != nil {
				t.Fatal(err)
			}
			r.remove(id)
			if err := os.RemoveAll(r.dir + "/bundle-" + id); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.assertClean()
}
