package shim

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// What happens at once, or too late.

// TestEndWhileExecStarts: an exec that does not get on with its start, here for its log binary, keeps nobody from
// hearing how the container ended, and from deleting it.
func TestEndWhileExecStarts(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.run("x", "sleep", "1000")
	up := filepath.Join(r.dir, "up")
	logger := filepath.Join(r.dir, "logger")
	r.must(os.WriteFile(logger, []byte("#!/bin/sh\n: > "+up+"\nexec sleep 1000\n"), 0o700))
	for _, id := range []string{"hangs", "never"} {
		_, err := r.client.Exec(ctx, &task.ExecProcessRequest{ID: "x", ExecID: id, Stdout: "binary://" + logger, Spec: execSpec(t, "true")})
		r.must(err)
	}
	ended := make(chan error, 2)
	go func() {
		_, err := r.client.Start(ctx, &task.StartRequest{ID: "x", ExecID: "hangs"})
		ended <- err
	}()
	r.eventually("a log binary", func() bool { _, err := os.Stat(up); return err == nil })
	go func() {
		_, err := r.client.Wait(ctx, &task.WaitRequest{ID: "x", ExecID: "never"})
		ended <- err
	}()
	_, err := r.client.Kill(ctx, &task.KillRequest{ID: "x", Signal: 9})
	r.must(err)
	bounded, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = r.client.Wait(bounded, &task.WaitRequest{ID: "x"})
	r.must(err)
	_, err = r.client.Delete(bounded, &task.DeleteRequest{ID: "x"})
	r.must(err)
	for range 2 {
		select {
		case err := <-ended:
			if code := status.Code(err); code != codes.OK && code != codes.FailedPrecondition && code != codes.NotFound {
				t.Error(err)
			}
		case <-bounded.Done():
			t.Fatal("nobody tells of the exec")
		}
	}
	r.events.await(t, "create", "start", "exec-added", "exec-added", "exit", "delete")
	r.assertClean()
}

func (r *rig) eventually(what string, done func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			r.t.Fatal("no " + what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestDeletesAtOnce: one of them deletes, the others are told that there is nothing any more.
func TestDeletesAtOnce(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	var want []string
	for range 20 {
		r.run("x", "true")
		r.wait("x")
		want = append(want, "create", "start", "exit", "delete")
		var codesOf sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				_, err := r.client.Delete(ctx, &task.DeleteRequest{ID: "x"})
				codesOf.Store(i, err)
			})
		}
		all.Wait()
		done := 0
		codesOf.Range(func(_, v any) bool {
			err, _ := v.(error)
			switch status.Code(err) {
			case codes.OK:
				done++
			case codes.NotFound:
			default:
				t.Error(err)
			}
			return true
		})
		if done != 1 {
			t.Errorf("deleted %d times", done)
		}
	}
	r.events.await(t, want...)
	r.assertClean()
}

// TestCgroupIsGone: systemd removes that of a scope with its last process. What a containerd that comes back asks
// first is Pids, and an error would make it bury how the container ended.
func TestCgroupIsGone(t *testing.T) {
	r := newRig(t)
	r.run("x", "sh", "-c", "exit 3")
	r.wait("x")
	r.must(os.Remove(filepath.Join(cgroupRoot(), testCgroup, t.Name())))
	pids, err := r.client.Pids(t.Context(), &task.PidsRequest{ID: "x"})
	if err != nil || len(pids.Processes) != 1 {
		t.Errorf("%v %v", pids, err)
	}
	if _, err := r.client.Stats(t.Context(), &task.StatsRequest{ID: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("stats: %v", err)
	}
	if got := r.remove("x"); got.ExitStatus != 3 {
		t.Errorf("status %d", got.ExitStatus)
	}
	r.assertClean()
}

// TestUnknownSignal: to one or to all, it is a bad argument, and nobody hears of it.
func TestUnknownSignal(t *testing.T) {
	r := newRig(t)
	r.run("x", "sleep", "1000")
	for _, all := range []bool{false, true} {
		_, err := r.client.Kill(t.Context(), &task.KillRequest{ID: "x", Signal: math.MaxUint32, All: all})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("all %v: %v", all, err)
		}
	}
	r.remove("x")
	r.assertClean()
}

// TestFrozenAbove: somebody else has frozen the cgroup, or one above. A process cloned into it would hold a thread of
// the shim, and soon the whole shim.
func TestFrozenAbove(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.run("x", "sleep", "1000")
	parent := filepath.Join(cgroupRoot(), testCgroup)
	freeze := func(on string) {
		t.Helper()
		r.must(os.WriteFile(filepath.Join(parent, "cgroup.freeze"), []byte(on), 0))
		r.eventually("cgroup.events", func() bool {
			data, err := os.ReadFile(filepath.Join(parent, "cgroup.events"))
			return err == nil && strings.Contains(string(data), "frozen "+on)
		})
	}
	freeze("1")
	_, err := r.client.Exec(ctx, &task.ExecProcessRequest{ID: "x", ExecID: "e", Spec: execSpec(t, "true")})
	r.must(err)
	if _, err := r.client.Start(ctx, &task.StartRequest{ID: "x", ExecID: "e"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("exec: %v", err)
	}
	spec := r.spec("true")
	spec.Linux.CgroupsPath += "2"
	if _, err := r.client.Create(ctx, r.request("y", spec)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("create: %v", err)
	}
	freeze("0")
	r.remove("x")
	r.assertClean()
}

// TestEventsAreBounded: one that is killed for want of memory, all the time that containerd is away, does not fill the
// shim; and what containerd will never take keeps nothing back.
func TestEventsAreBounded(t *testing.T) {
	r := &rig{t: t, dir: t.TempDir()}
	sink := &eventSink{path: filepath.Join(r.dir, "later.sock")}
	p := newPublisher(sink.path, "test")
	defer p.close(time.Minute)
	for range 1000 {
		p.send(topicOOM, &api.TaskOOM{ContainerID: "a"})
		p.send(topicOOM, &api.TaskOOM{ContainerID: "b"})
	}
	p.send("/tasks/refused", &api.TaskPaused{ContainerID: "a"})
	p.send("/tasks/exit", &api.TaskExit{ContainerID: "a"})
	sink.refuse = "/tasks/refused"
	sink.listen(t)
	// The first may be on its way already, and does not count.
	r.eventually("exit", func() bool { return slices.Contains(sink.topics(), "exit") })
	if got := sink.topics(); len(got) > 4 {
		t.Errorf("events %q", got)
	}
}

// TestLease: a file of the container's that nobody can open, because its owner holds a lease, holds up no exec.
func TestLease(t *testing.T) {
	r := newRig(t)
	etc := filepath.Join(r.dir, "rootfs", "etc")
	r.must(os.Mkdir(etc, 0o755))
	f, err := os.Create(filepath.Join(etc, "passwd"))
	r.must(err)
	defer f.Close()
	r.fds++
	r.run("x", "sleep", "1000")
	signal.Ignore(unix.SIGIO) // which tells that somebody wants the file
	defer signal.Reset(unix.SIGIO)
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		t.Skipf("needs a file system with leases: %v", err)
	}
	_, err = r.client.Exec(t.Context(), &task.ExecProcessRequest{ID: "x", ExecID: "e", Spec: execSpec(t, "true")})
	r.must(err)
	// The kernel breaks that of one who makes others wait: proc_locks(5).
	var st unix.Stat_t
	r.must(unix.Fstat(int(f.Fd()), &st))
	locks, err := os.ReadFile("/proc/locks")
	r.must(err)
	held := regexp.MustCompile(fmt.Sprintf(`LEASE +BREAKING .*:%d `, st.Ino))
	if !held.Match(locks) {
		t.Errorf("the exec has waited for the end of the lease: %s", locks)
	}
	r.remove("x")
	r.assertClean()
}
