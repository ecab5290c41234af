package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// A container that takes more memory than it may is killed, and whoever follows its events hears why
// before hearing that it has ended.
func TestGuestOOM(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	next := follow(t, d)
	for i := range 5 {
		id := fmt.Sprintf("box%d", i)
		task := start(t, d, id, limited(memory(32*mebi)), oci.WithProcessArgs(hold(128)...))
		if got := end(t, d, task); got != 137 {
			t.Errorf("status %d, want 137", got)
		}
		want := []string{"/tasks/create " + id, "/tasks/start " + id, "/tasks/oom " + id, "/tasks/exit " + id + " 137", "/tasks/delete " + id}
		if got := until(next, "/tasks/delete "+id); !slices.Equal(got, want) {
			t.Errorf("events:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
}

// The first process lives on when an exec is killed for want of memory. None of many is missed, and none
// is told after the exit that it led to. MINI_TEST_OOM_KILLS is how many.
func TestGuestOOMOfExec(t *testing.T) {
	needs(t, "memory")
	kills := 40
	if n, err := strconv.Atoi(os.Getenv("MINI_TEST_OOM_KILLS")); err == nil {
		kills = n
	}
	// A test has five minutes.
	for first := 0; first < kills; first += 100 {
		t.Run(fmt.Sprint("from-", first), func(t *testing.T) { killExecs(t, min(100, kills-first)) })
	}
}

func killExecs(t *testing.T, kills int) {
	d := shared(t, "2.4")
	next := follow(t, d)
	task := start(t, d, "box", limited(memory(16*mebi)), sleeper())
	until(next, "/tasks/start box")
	for i := range kills {
		id := fmt.Sprintf("e%d", i)
		if status, out := command(t, d, task, id, "", hold(128)...); status != 137 {
			t.Fatalf("%s: status %d, want 137: %s", id, status, out)
		}
		want := []string{"/tasks/exec-added " + id, "/tasks/exec-started " + id, "/tasks/oom box", "/tasks/exit " + id + " 137"}
		got := until(next, "/tasks/exit "+id+" 137")
		slices.Sort(got[:len(got)-1]) // it may be killed before its start is told
		slices.Sort(want[:len(want)-1])
		if !slices.Equal(got, want) {
			t.Errorf("events:\n\t%s\nwant:\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
		}
	}
	status, err := task.Status(d.Context())
	must(t, err)
	if status.Status != containerd.Running {
		t.Errorf("the container is %s, want running", status.Status)
	}
	if got := measure(t, d, task).MemoryEvents.GetOomKill(); got != uint64(kills) {
		t.Errorf("%d kills measured, want %d", got, kills)
	}
}

// One that is killed by somebody else, below its limit, is not said to be out of memory.
func TestGuestNoOOM(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	next := follow(t, d)
	task := start(t, d, "box", limited(memory(64*mebi)), sleeper())
	if status, out := command(t, d, task, "fits", "", hold(16)...); status != 0 {
		t.Errorf("status %d: %s", status, out)
	}
	must(t, task.Kill(d.Context(), 9))
	if got := end(t, d, task); got != 137 {
		t.Errorf("status %d, want 137", got)
	}
	if got := until(next, "/tasks/delete box"); slices.Contains(got, "/tasks/oom box") {
		t.Errorf("events:\n\t%s", strings.Join(got, "\n\t"))
	}
}

// A child cgroup of the container's own, with a limit of its own, is part of the container.
func TestGuestOOMInChild(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	next := follow(t, d)
	task := start(t, d, "box", limited(memory(256*mebi)), oci.WithHostNamespace(specs.CgroupNamespace),
		oci.WithMounts([]specs.Mount{{Destination: "/cg", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind", "rw"}}}),
		sleeper())
	status, out := command(t, d, task, "e", "", "sh", "-c", fmt.Sprintf(`cd /cg/%s/box && mkdir init child &&
for pid in $(cat cgroup.procs); do echo $pid >init/cgroup.procs; done
echo +memory >cgroup.subtree_control && echo 16M >child/memory.max && echo 0 >child/cgroup.procs &&
exec %s`, d.Namespace, strings.Join(hold(64), " ")))
	if status != 137 {
		t.Fatalf("status %d, want 137: %s", status, out)
	}
	if got := until(next, "/tasks/exit e 137"); !slices.Contains(got, "/tasks/oom box") {
		t.Errorf("events:\n\t%s", strings.Join(got, "\n\t"))
	}
	if status, out := command(t, d, task, "after", "", "echo", "there"); status != 0 {
		t.Errorf("exec into a container with cgroups of its own: status %d: %s", status, out)
	}
}

// pod makes a cgroup with a limit, as a kubelet does, and gives the path of a container's cgroup in it.
func pod(t *testing.T, d *daemon.Daemon, limit int64) (dir string, in func(id string) oci.SpecOpts) {
	t.Helper()
	top := filepath.Join("/sys/fs/cgroup", d.Namespace)
	dir = filepath.Join(top, "pod")
	must(t, os.MkdirAll(dir, 0o755))
	t.Cleanup(func() { _ = os.Remove(dir); _ = os.Remove(top) })
	for _, set := range []struct{ file, value string }{
		{top + "/cgroup.subtree_control", "+memory"},
		{dir + "/memory.max", strconv.FormatInt(limit, 10)},
		{dir + "/memory.swap.max", "0"},
	} {
		must(t, os.WriteFile(set.file, []byte(set.value), 0))
	}
	return dir, func(id string) oci.SpecOpts { return oci.WithCgroup("/" + d.Namespace + "/pod/" + id) }
}

// The limit of the pod is not the container's: whoever is killed for it did not exceed what he was given,
// and is not said to have.
func TestGuestOOMOfPod(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	_, in := pod(t, d, 32*mebi)
	next := follow(t, d)
	big := start(t, d, "big", in("big"), limited(memory(256*mebi)), sleeper())
	free := start(t, d, "free", in("free"), sleeper())
	small := start(t, d, "small", in("small"), limited(memory(8*mebi)), sleeper())
	for i := range 3 {
		for _, c := range []struct {
			task containerd.Task
			own  bool
		}{{big, false}, {free, false}, {small, true}, {big, false}} {
			id := fmt.Sprintf("e%d", i)
			if status, out := command(t, d, c.task, id, "", hold(64)...); status != 137 {
				t.Fatalf("%s: status %d, want 137: %s", c.task.ID(), status, out)
			}
			got := until(next, "/tasks/exit "+id+" 137")
			if said := slices.Contains(got, "/tasks/oom "+c.task.ID()); said != c.own {
				t.Errorf("%s: events:\n\t%s\nits own limit: %t", c.task.ID(), strings.Join(got, "\n\t"), c.own)
			}
		}
	}
}

// memory.oom.group takes the whole container along: because of its own limit, which is told, or of the
// pod's, which is not.
func TestGuestOOMOfGroup(t *testing.T) {
	needs(t, "memory")
	d := shared(t, "2.4")
	_, in := pod(t, d, 64*mebi)
	next := follow(t, d)
	for _, c := range []struct {
		id    string
		limit int64
	}{{"own", 16 * mebi}, {"pods", 256 * mebi}} {
		r := memory(c.limit)
		r.Unified = map[string]string{"memory.oom.group": "1"}
		task := start(t, d, c.id, in(c.id), limited(r), sleeper())
		if status, out := command(t, d, task, "e", "", hold(128)...); status != 137 {
			t.Fatalf("status %d, want 137: %s", status, out)
		}
		if got := end(t, d, task); got != 137 {
			t.Errorf("the first process lived on: status %d, want 137", got)
		}
		got := until(next, "/tasks/delete "+c.id)
		at, exit := slices.Index(got, "/tasks/oom "+c.id), slices.Index(got, "/tasks/exit "+c.id+" 137")
		if own := c.id == "own"; own != (at >= 0) || at > exit {
			t.Errorf("events:\n\t%s\nits own limit: %t", strings.Join(got, "\n\t"), own)
		}
	}
}
