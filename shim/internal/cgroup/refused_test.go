package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// born tries to have a process born in g, and says what Refused makes of it.
func born(g *Group) error {
	cmd := exec.Command("true")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: g.FD()}
	err := cmd.Run()
	var e *os.PathError
	if errors.As(err, &e) {
		err = e.Err
	}
	if err == nil {
		return nil
	}
	return g.Refused(err)
}

// TestRefusedThreaded: below a threaded cgroup there is no place for a process.
func TestRefusedThreaded(t *testing.T) {
	top := newTestGroup(t, "top")
	if err := born(top); err != nil {
		t.Fatal(err)
	}
	middle := newTestGroup(t, "top", "middle")
	if err := middle.write("cgroup.type", "threaded"); err != nil {
		t.Skipf("%s: cgroup.type: %v", t.Name(), err)
	}
	below := newTestGroup(t, "top", "middle", "below")
	err := born(below)
	if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), below.Path()+": no process fits below "+middle.Path()+`, which is "threaded"`) {
		t.Errorf("%v, want an error that names %s", err, middle.Path())
	}
}

// TestKillThreaded: processes that make their cgroup a threaded one are listed,
// frozen and killed all the same.
func TestKillThreaded(t *testing.T) {
	newTestGroup(t, "top")
	g := newTestGroup(t, "top", "box")
	cmd := start(t, g, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
	if err := g.write("cgroup.type", "threaded"); err != nil {
		t.Skipf("%s: cgroup.type: %v", t.Name(), err)
	}
	var pids []int
	for deadline := time.Now().Add(time.Minute); len(pids) != 3 && time.Now().Before(deadline); {
		var err error
		if pids, err = g.Pids(); err != nil {
			t.Fatal(err)
		}
	}
	if len(pids) != 3 {
		t.Errorf("pids %v, want three", pids)
	}
	if err := g.Freeze(soon(t)); err != nil {
		t.Error(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it lives")
	}
	if err := g.Delete(soon(t)); err != nil {
		t.Error(err)
	}
}

// TestRefusedBusy: one that gives controllers holds no processes, and one that
// holds processes gives none.
func TestRefusedBusy(t *testing.T) {
	g := newLimited(t, 0, "a")
	if err := g.write("cgroup.subtree_control", "+memory"); err != nil {
		t.Fatal(err)
	}
	err := born(g)
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), g.Path()+": it gives controllers (memory)") {
		t.Errorf("%v, want an error that names the cgroup and the rule", err)
	}

	full := newLimited(t, 0, "b")
	start(t, full, "sleep", "1000")
	child, err := Create(testRoot, testPath(t, "b", "c"), []string{"memory"})
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, child)
	err = child.Apply(program.Resources{Writes: []program.Write{{Controller: "memory", File: "memory.max", Value: "1000000", Field: "limit"}}})
	if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "limit: cgroup controller memory is not available: cgroup "+full.Path()+": ") ||
		!strings.Contains(err.Error(), "it holds processes itself") {
		t.Errorf("%v, want an error that names the ancestor and the rule", err)
	}
}
