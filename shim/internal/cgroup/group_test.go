package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

func TestPathMayNotEscape(t *testing.T) {
	for _, p := range []string{"", "/", ".", "/a/../b", "..", "../x", "/a/.."} {
		if _, err := Create("/nowhere", p, nil); err == nil || !strings.HasPrefix(err.Error(), "cgroup "+p+": path ") {
			t.Errorf("Create %q: %v", p, err)
		}
		if _, err := Open("/nowhere", p); err == nil {
			t.Errorf("Open %q: no error", p)
		}
	}
}

// oldLayout is a tmpfs as machines with cgroup v1 have it; hybrid with cgroup2 beside.
func oldLayout(t *testing.T, hybrid bool) string {
	t.Helper()
	root, err := os.MkdirTemp("/dev/shm", "mini-cgroup-")
	if err != nil {
		t.Skip("needs /dev/shm: ", err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if is, err := fileSystem(root); err != nil || is != unix.TMPFS_MAGIC {
		t.Skipf("needs a tmpfs at /dev/shm: %#x, %v", is, err)
	}
	if err := os.Mkdir(root+"/memory", 0o755); err != nil {
		t.Fatal(err)
	}
	if hybrid {
		if err := os.Symlink(testRoot, root+"/unified"); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestLayout(t *testing.T) {
	needRoot(t)
	v1, hybrid := oldLayout(t, false), oldLayout(t, true)
	for _, c := range []struct{ root, found, advice string }{
		{testRoot, "", ""},
		{v1, v1 + " is not cgroup2 but the layout of cgroup v1", "systemd.unified_cgroup_hierarchy=1"},
		{hybrid, "cgroup2 is at " + hybrid + "/unified, the controllers are in cgroup v1", "systemd.unified_cgroup_hierarchy=1"},
		{"/proc", "/proc is not cgroup2, and no cgroup v1 either", "mount -t cgroup2 cgroup2 /proc"},
		{"/nonexistent", "no cgroup v1 either", "mount -t cgroup2"},
		{"/proc/version/x", "not a directory", "make it"},
	} {
		found, advice := Layout(c.root)
		if !strings.Contains(found, c.found) || !strings.Contains(advice, c.advice) || (found == "") != (c.found == "") {
			t.Errorf("%s: %q, %q", c.root, found, advice)
		}
	}
}

func TestRootMustBeCgroup2(t *testing.T) {
	_, err := Create(t.TempDir(), "/x", nil)
	if err == nil || !strings.Contains(err.Error(), "not a cgroup2 file system") {
		t.Errorf("got %v", err)
	}
	_, err = Open("/nonexistent", "/x")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestCreatePlaceDelete(t *testing.T) {
	g := newTestGroup(t, "ns", "id")
	if g.Path() != testPath(t, "ns", "id") {
		t.Errorf("path %q", g.Path())
	}
	cmd := start(t, g, "sleep", "1000")
	pids, err := g.Pids()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("pids %v, %v; want %d", pids, err, cmd.Process.Pid)
	}

	if _, err := Create(testRoot, g.Path(), nil); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("create while in use: %v", err)
	}

	again, err := Open(testRoot, g.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if err := again.Kill(); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.String() != "signal: killed" {
		t.Errorf("killed process: %v", err)
	}
	// Another handle, as in another process, removes the parent too.
	if err := again.Delete(soon(t)); err != nil {
		t.Error(err)
	}
	if _, err := Open(testRoot, testPath(t, "ns")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("parent is left: %v", err)
	}
	for _, gone := range []error{g.Delete(soon(t)), g.Kill()} {
		if gone != nil {
			t.Errorf("on a cgroup that is gone: %v", gone)
		}
	}
	if _, err := g.Pids(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pids of a cgroup that is gone: %v", err)
	}
	if _, err := g.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stats of a cgroup that is gone: %v", err)
	}
}

func TestDeleteSparesParents(t *testing.T) {
	needRoot(t)
	keep := newTestGroup(t, "pod") // kubelet's, say
	if err := unix.Fremovexattr(keep.FD(), mark); err != nil {
		t.Fatal(err)
	}
	a := newTestGroup(t, "pod", "ns", "a")
	b := newTestGroup(t, "pod", "ns", "b")
	exists := func(want bool, elem ...string) {
		t.Helper()
		g, err := Open(testRoot, testPath(t, elem...))
		if (err == nil) != want {
			t.Errorf("%v: exists: %v", elem, err)
		}
		if err == nil {
			g.Close()
		}
	}
	if err := a.Delete(soon(t)); err != nil {
		t.Error(err)
	}
	exists(true, "pod", "ns") // b uses it
	if err := b.Delete(soon(t)); err != nil {
		t.Error(err)
	}
	exists(false, "pod", "ns")
	exists(true, "pod") // not ours

	// Nor one that was asked for by name, though it is empty.
	newTestGroup(t, "asked")
	c := newTestGroup(t, "asked", "c")
	if err := c.Delete(soon(t)); err != nil {
		t.Error(err)
	}
	exists(true, "asked")
}

func TestCreateUndoes(t *testing.T) {
	needRoot(t)
	parent := newTestGroup(t)
	// A line feed in the name makes the last step fail (cgroup_mkdir).
	_, err := Create(testRoot, testPath(t, "a", "b", "x\ny"), nil)
	if !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v", err)
	}
	if left, err := children(parent.FD()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestCreateTakesOver(t *testing.T) {
	needRoot(t)
	t.Run("ours", func(t *testing.T) {
		old := newTestGroup(t)
		if err := unix.Mkdirat(old.FD(), "below", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := old.Apply(program.Resources{Devices: denyAll}); err != nil {
			t.Fatal(err)
		}
		g := newTestGroup(t)
		if out, err := inside(t, g, "head -c1 </dev/zero >/dev/null"); err != nil {
			t.Errorf("the old device filter still acts: %v %s", err, out)
		}
		if names, err := children(g.FD()); err != nil || len(names) > 0 {
			t.Errorf("children %v, %v", names, err)
		}
	})
	t.Run("prepared", func(t *testing.T) {
		old := newTestGroup(t)
		if err := unix.Fremovexattr(old.FD(), mark); err != nil {
			t.Fatal(err)
		}
		if err := old.Freeze(soon(t)); err != nil {
			t.Fatal(err)
		}
		g := newTestGroup(t)
		if out, err := inside(t, g, "echo alive"); err != nil || out != "alive\n" {
			t.Errorf("%q, %v", out, err)
		}
		if _, err := old.Pids(); err != nil {
			t.Errorf("it was made anew: %v", err)
		}
	})
}

func TestCreateRaces(t *testing.T) {
	needRoot(t)
	newTestGroup(t, "keep")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				g, err := Create(testRoot, testPath(t, "ns", fmt.Sprintf("%d-%d", i, j)), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if err := g.Delete(soon(t)); err != nil {
					t.Error(err)
				}
				g.Close()
			}
		})
	}
	wg.Wait()
	if g, err := Open(testRoot, testPath(t, "ns")); err == nil {
		t.Error("the last one out left the parent")
		g.Close()
	}
}

func TestNestedPids(t *testing.T) {
	g := newTestGroup(t)
	// What a container with a writable cgroup does: systemd's init.scope.
	for _, p := range []string{"init.scope", "a", "a/b", "a/b/c"} {
		if err := unix.Mkdirat(g.FD(), p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	sub, err := Open(testRoot, testPath(t, "a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	cmd := start(t, sub, "sleep", "1000")
	pids, err := g.Pids()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("pids %v, %v; want %d", pids, err, cmd.Process.Pid)
	}

	// A threaded subtree: cgroup.procs is unreadable in it.
	if err := unix.Mkdirat(g.FD(), "a/b/c/t", 0o755); err != nil {
		t.Fatal(err)
	}
	thread, err := Open(testRoot, testPath(t, "a", "b", "c", "t"))
	if err != nil {
		t.Fatal(err)
	}
	defer thread.Close()
	if err := thread.write("cgroup.type", "threaded"); err != nil {
		t.Fatal(err)
	}
	if err := thread.write("cgroup.threads", fmt.Sprint(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	pids, err = g.Pids()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("pids %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
}

func TestDeepTree(t *testing.T) {
	g := newTestGroup(t)
	// Beyond PATH_MAX, and beyond the descriptors that a process has.
	const depth = 1200
	name := strings.Repeat("d", 100)
	at, err := openDir(g.FD(), ".")
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			t.Fatal(err)
		}
		next, err := openDir(at, name)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(at)
		at = next
	}
	bottom := &Group{root: testRoot, path: "/bottom", fd: at}
	defer bottom.Close()
	cmd := start(t, bottom, "sleep", "1000")
	pids, err := g.Pids()
	if err != nil || !slices.Equal(pids, []int{cmd.Process.Pid}) {
		t.Errorf("pids %v, %v; want %d", pids, err, cmd.Process.Pid)
	}
}

func TestFreezeThaw(t *testing.T) {
	g := newTestGroup(t)
	cmd := start(t, g, "sh", "-c", "while :; do sleep 0.01; done")
	for range 3 {
		if err := g.Freeze(soon(t)); err != nil {
			t.Fatal(err)
		}
		if ev, err := readEvents(g.FD()); err != nil || !ev.frozen {
			t.Errorf("%+v, %v", ev, err)
		}
		if err := g.Thaw(soon(t)); err != nil {
			t.Fatal(err)
		}
		if ev, err := readEvents(g.FD()); err != nil || ev.frozen {
			t.Errorf("%+v, %v", ev, err)
		}
	}

	// Killed while frozen.
	if err := g.Freeze(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("not killed")
	}
}

func TestFreezeFails(t *testing.T) {
	g := newTestGroup(t)
	start(t, g, "sh", "-c", "while :; do :; done")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := g.Freeze(ctx)
	if err == nil {
		t.Skip("TestFreezeFails: the kernel was faster")
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if b, err := g.read("cgroup.freeze", nil); err != nil || string(b) != "0\n" {
		t.Errorf("cgroup.freeze %q, %v: left frozen", b, err)
	}
}

func TestThawBelowFrozenAncestor(t *testing.T) {
	top := newTestGroup(t)
	g := newTestGroup(t, "below")
	if err := top.Freeze(soon(t)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := g.Thaw(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if err := top.Thaw(soon(t)); err != nil {
		t.Error(err)
	}
}

func TestDeleteWaits(t *testing.T) {
	g := newTestGroup(t)
	cmd := start(t, g, "sleep", "1000")

	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	err := g.Delete(ctx)
	want := fmt.Sprintf(`cgroup %s: delete: context deadline exceeded: pid %d "sleep" state `, g.Path(), cmd.Process.Pid)
	// It sleeps, or on a slow machine is on its way there: running, or waiting for its pages.
	if err == nil || !strings.HasPrefix(err.Error(), want) || !strings.ContainsAny(err.Error()[len(want):], "SRD") {
		t.Errorf("got  %v\nwant %s", err, want)
	}

	done := make(chan error, 1)
	go func() { done <- g.Delete(soon(t)) }()
	time.Sleep(20 * time.Millisecond)
	select {
	case err := <-done:
		t.Fatalf("returned early: %v", err)
	default:
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	g := newTestGroup(t)
	if err := g.Delete(soon(t)); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if _, err := g.Pids(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("pids: %v", err)
	}
	if err := g.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("close: %v", err)
	}
	// The cleanup's Kill must not mistake a closed handle for success.
	if err := g.Kill(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("kill: %v", err)
	}
	*g = *mustCreate(t)
}

func mustCreate(t *testing.T) *Group {
	g, err := Create(testRoot, testPath(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}
