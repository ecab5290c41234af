package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// TestOneAPI: versions 2 and 3 of the task API differ in nothing but their
// package, which register relies on.
func TestOneAPI(t *testing.T) {
	text := func(f protoreflect.FileDescriptor, version string) string {
		d := protodesc.ToFileDescriptorProto(f)
		d.Name, d.Options = nil, nil
		return strings.ReplaceAll(fmt.Sprint(d), "containerd.task."+version, "containerd.task")
	}
	v2, v3 := taskv2.File_runtime_task_v2_shim_proto, task.File_runtime_task_v3_shim_proto
	if a, b := text(v2, "v2"), text(v3, "v3"); a != b {
		t.Errorf("v2 and v3 differ:\n%s\n%s", a, b)
	}
}

// execSpec is a process of an exec.
func execSpec(t testing.TB, args ...string) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(&specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{Value: data}
}

// TestLife is the life of a container with an exec, by way of both versions.
func TestLife(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	created, err := r.client.Create(ctx, r.request("a", r.spec("sh", "-c", "while :; do sleep 1; done")))
	if err != nil {
		t.Fatal(err)
	}
	r.state("a", "", tasktypes.Status_CREATED)
	if _, err := r.client.Start(ctx, &task.StartRequest{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	r.state("a", "", tasktypes.Status_RUNNING)
	old := taskv2.NewTTRPCTaskClient(r.conn)
	if _, err := old.Exec(ctx, &taskv2.ExecProcessRequest{ID: "a", ExecID: "e", Spec: execSpec(t, "sh", "-c", "exit 5")}); err != nil {
		t.Fatal(err)
	}
	r.state("a", "e", tasktypes.Status_CREATED)
	started, err := old.Start(ctx, &taskv2.StartRequest{ID: "a", ExecID: "e"})
	if err != nil || started.Pid == 0 || started.Pid == created.Pid {
		t.Fatalf("%v %v", started, err)
	}
	waited, err := old.Wait(ctx, &taskv2.WaitRequest{ID: "a", ExecID: "e"})
	if err != nil || waited.ExitStatus != 5 {
		t.Fatalf("%v %v", waited, err)
	}
	deleted, err := r.client.Delete(ctx, &task.DeleteRequest{ID: "a", ExecID: "e"})
	if err != nil || deleted.ExitStatus != 5 || deleted.Pid != started.Pid {
		t.Fatalf("%v %v", deleted, err)
	}
	if _, err := r.client.Pause(ctx, &task.PauseRequest{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	r.state("a", "", tasktypes.Status_PAUSED)
	if _, err := r.client.Resume(ctx, &task.ResumeRequest{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if got := r.remove("a"); got.ExitStatus != 137 || got.Pid != created.Pid {
		t.Errorf("deleted %v", got)
	}
	r.events.await(t, "create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete")
	r.assertClean()
}

func (r *rig) state(id, execID string, want tasktypes.Status) {
	r.t.Helper()
	got, err := r.client.State(r.t.Context(), &task.StateRequest{ID: id, ExecID: execID})
	if err != nil || got.Status != want {
		r.t.Fatalf("state of %s %s: %v, %v, want %v", id, execID, got.GetStatus(), err, want)
	}
}

// TestStateTable asks everything of a container in each state of its life, and
// compares the kinds of the answers.
func TestStateTable(t *testing.T) {
	const ok, no, gone, exists = codes.OK, codes.FailedPrecondition, codes.NotFound, codes.AlreadyExists
	for _, state := range []struct {
		name                                                           string
		reach                                                          func(*rig)
		create, start, exec, pause, resume, update, kill, delete, pids codes.Code
	}{
		{"unknown", func(*rig) {}, ok, gone, gone, gone, gone, gone, gone, gone, gone},
		{"created", func(r *rig) { r.create("x", "sleep", "100") }, exists, ok, ok, no, no, ok, ok, ok, ok},
		{"running", func(r *rig) { r.run("x", "sleep", "100") }, exists, no, ok, ok, no, ok, ok, no, ok},
		{"paused", func(r *rig) { r.run("x", "sleep", "100"); r.must(r.pause("x")) }, exists, no, no, no, ok, ok, ok, no, ok},
		{"stopped", func(r *rig) { r.run("x", "true"); r.wait("x") }, exists, no, no, no, no, no, gone, ok, ok},
		{"deleted", func(r *rig) { r.run("x", "true"); r.wait("x"); r.remove("x") }, ok, gone, gone, gone, gone, gone, gone, gone, gone},
	} {
		for _, verb := range []struct {
			name string
			want codes.Code
			do   func(r *rig) error
		}{
			{"create", state.create, func(r *rig) error {
				_, err := r.client.Create(t.Context(), r.request("x", r.spec("true")))
				return err
			}},
			{"start", state.start, func(r *rig) error {
				_, err := r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
				return err
			}},
			{"exec", state.exec, func(r *rig) error {
				_, err := r.client.Exec(t.Context(), &task.ExecProcessRequest{ID: "x", ExecID: "e", Spec: execSpec(t, "true")})
				return err
			}},
			{"pause", state.pause, func(r *rig) error { return r.pause("x") }},
			{"resume", state.resume, func(r *rig) error {
				_, err := r.client.Resume(t.Context(), &task.ResumeRequest{ID: "x"})
				return err
			}},
			{"update", state.update, func(r *rig) error {
				_, err := r.client.Update(t.Context(), &task.UpdateTaskRequest{ID: "x", Resources: &anypb.Any{Value: []byte("{}")}})
				return err
			}},
			{"kill", state.kill, func(r *rig) error {
				_, err := r.client.Kill(t.Context(), &task.KillRequest{ID: "x", Signal: uint32(unix.SIGKILL)})
				return err
			}},
			{"delete", state.delete, func(r *rig) error {
				_, err := r.client.Delete(t.Context(), &task.DeleteRequest{ID: "x"})
				return err
			}},
			{"pids", state.pids, func(r *rig) error {
				_, err := r.client.Pids(t.Context(), &task.PidsRequest{ID: "x"})
				return err
			}},
		} {
			t.Run(state.name+"/"+verb.name, func(t *testing.T) {
				r := newRig(t)
				state.reach(r)
				if err := verb.do(r); status.Code(err) != verb.want {
					t.Errorf("%v, want %v", err, verb.want)
				}
				if _, err := r.client.State(t.Context(), &task.StateRequest{ID: "x"}); err == nil {
					r.remove("x")
				}
				r.assertClean()
			})
		}
	}
}

func (r *rig) create(id string, args ...string) {
	r.t.Helper()
	_, err := r.client.Create(r.t.Context(), r.request(id, r.spec(args...)))
	r.must(err)
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) pause(id string) error {
	_, err := r.client.Pause(r.t.Context(), &task.PauseRequest{ID: id})
	return err
}

func (r *rig) wait(id string) {
	r.t.Helper()
	_, err := r.client.Wait(r.t.Context(), &task.WaitRequest{ID: id})
	r.must(err)
}

// TestRefusedCreate: what Create cannot do it says, and leaves nothing.
func TestRefusedCreate(t *testing.T) {
	for name, change := range map[string]func(*rig, *specs.Spec, *task.CreateTaskRequest){
		`exec: "nope": executable file not found in $PATH`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Process.Args[0] = "nope" },
		`exec: "/nope": no such file or directory`:         func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Process.Args[0] = "/nope" },
		`exec: "/bin": is a directory`:                     func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Process.Args[0] = "/bin" },
		`mounts[1].source: open_tree /nonexistent: no such file or directory`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/nonexistent", Type: "bind"})
		},
		`mount nofs on /x: no such device`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "nofs"})
		},
		`mount tmpfs on /x: size=banana: invalid argument`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "tmpfs", Options: []string{"size=banana"}})
		},
		`open mount point /bin/sh/x: not a directory`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin/sh/x", Type: "tmpfs"})
		},
		`linux.namespaces[3].path: open /nonexistent: no such file or directory`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/nonexistent"})
		},
		`linux.namespaces[3].path: open /dev/null: not a namespace`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/dev/null"})
		},
		`linux.resources.unified[nope.max]: cgroup controller nope is not available`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) {
			s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"nope.max": "1"}}
		},
		`root.path: open_tree /nonexistent: no such file or directory`: func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Root.Path = "/nonexistent" },
		`linux.intelRdt: not supported`:                                func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		`stdout: unknown scheme "gopher"`:                              func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) { q.Stdout = "gopher://x" },
		`checkpoint: restore: not supported`:                           func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) { q.Checkpoint = "/x" },
		`options: type "x.Y": unknown`:                                 func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) { q.Options = &anypb.Any{TypeUrl: "x.Y"} },
		`bundle: "relative": not an absolute path`:                     func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) { q.Bundle = "relative" },
		`rootfs: mount overlay: lowerdir+: open /nonexistent: no such file or directory`: func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) {
			q.Rootfs = []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/nonexistent:/bin"}}}
		},
		`enter the working directory /bin/sh: not a directory`:   func(_ *rig, s *specs.Spec, _ *task.CreateTaskRequest) { s.Process.Cwd = "/bin/sh" },
		`open a terminal in /dev/pts: no such file or directory`: func(_ *rig, _ *specs.Spec, q *task.CreateTaskRequest) { q.Terminal = true },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			spec := r.spec("true")
			req := &task.CreateTaskRequest{}
			change(r, spec, req)
			made := r.request("x", spec)
			made.Stdout, made.Terminal, made.Checkpoint, made.Options, made.Rootfs = req.Stdout, req.Terminal, req.Checkpoint, req.Options, req.Rootfs
			if req.Bundle != "" {
				made.Bundle = req.Bundle
			}
			_, err := r.client.Create(t.Context(), made)
			if err == nil || !strings.Contains(status.Convert(err).Message(), name) {
				t.Errorf("error %v", err)
			}
			r.events.await(t)
			r.assertClean()
			// The name is free again.
			r.run("x", "true")
			r.remove("x")
			r.assertClean()
		})
	}
}

// TestPidsSubtree: a container may keep all of its processes in cgroups that
// it made itself; an empty answer would get it buried (containerd issue 13784).
func TestPidsSubtree(t *testing.T) {
	r := newRig(t)
	spec := r.spec("sh", "-c", "mkdir /cg/sub && echo 0 > /cg/sub/cgroup.procs && echo ready && sleep 100; true")
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/cg", Type: "cgroup", Source: "cgroup"})
	req := r.request("x", spec)
	req.Stdout = filepath.Join(r.dir, "out")
	if err := unix.Mkfifo(req.Stdout, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(req.Stdout, os.O_RDWR, 0)
	r.must(err)
	defer out.Close()
	r.fds = countFds(t)
	_, err = r.client.Create(t.Context(), req)
	r.must(err)
	_, err = r.client.Start(t.Context(), &task.StartRequest{ID: "x"})
	r.must(err)
	line := make([]byte, 6)
	if _, err := out.Read(line); err != nil || string(line) != "ready\n" {
		t.Fatalf("%q %v", line, err)
	}
	// The shell, and soon its child.
	deadline := time.Now().Add(time.Minute)
	for {
		pids, err := r.client.Pids(t.Context(), &task.PidsRequest{ID: "x"})
		r.must(err)
		if len(pids.Processes) == 2 {
			break
		}
		if len(pids.Processes) == 0 || time.Now().After(deadline) {
			t.Fatalf("pids %v", pids)
		}
	}
	r.remove("x")
	r.assertClean()
}

// TestWaitForUnstarted: who waits for an exec that is deleted before it was
// started is answered.
func TestWaitForUnstarted(t *testing.T) {
	r := newRig(t)
	r.run("x", "sleep", "100")
	_, err := r.client.Exec(t.Context(), &task.ExecProcessRequest{ID: "x", ExecID: "e", Spec: execSpec(t, "true")})
	r.must(err)
	waited := make(chan error)
	go func() {
		_, err := r.client.Wait(context.Background(), &task.WaitRequest{ID: "x", ExecID: "e"})
		waited <- err
	}()
	time.Sleep(50 * time.Millisecond)
	_, err = r.client.Delete(t.Context(), &task.DeleteRequest{ID: "x", ExecID: "e"})
	r.must(err)
	if err := <-waited; err != nil && status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	r.remove("x")
	r.assertClean()
}

// TestMountPoint: Delete removes the directory that containerd made to mount the root on, and nobody's files.
func TestMountPoint(t *testing.T) {
	r := newRig(t)
	for id, file := range map[string]string{"empty": "", "full": "file"} {
		q := r.request(id, r.spec("true"))
		dir := filepath.Join(q.Bundle, "rootfs")
		r.must(os.MkdirAll(filepath.Join(dir, file), 0o711))
		if _, err := r.client.Create(t.Context(), q); err != nil {
			t.Fatal(err)
		}
		r.remove(id)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) != (file == "") {
			t.Errorf("%s: %v", id, err)
		}
	}
	r.assertClean()
}

// TestForgotten: a container that ended is kept as long as its bundle is, and
// then goes by itself.
func TestForgotten(t *testing.T) {
	r := newRig(t)
	r.run("x", "true")
	r.wait("x")
	time.Sleep(200 * time.Millisecond)
	r.state("x", "", tasktypes.Status_STOPPED)
	r.must(os.RemoveAll(filepath.Join(r.dir, "bundle-x")))
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := r.client.State(t.Context(), &task.StateRequest{ID: "x"})
		if status.Code(err) == codes.NotFound {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("still there")
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.assertClean()
}

// TestEventsWait: events wait while containerd is away, and come in order.
func TestEventsWait(t *testing.T) {
	r := newRig(t)
	path := r.events.path
	r.events = &eventSink{path: filepath.Join(r.dir, "later.sock")}
	r.serveAgain()
	r.run("x", "true")
	r.wait("x")
	r.remove("x")
	r.events.listen(t)
	r.events.await(t, "create", "start", "exit", "delete")
	_ = path
}

func (r *rig) serveAgain() {
	r.must(os.Remove(filepath.Join(r.dir, "shim.sock")))
	r.serve()
}

// TestSharedRoot: a root on a mount that is shared, as all are under systemd.
func TestSharedRoot(t *testing.T) {
	r := newRig(t)
	rootfs := r.spec().Root.Path
	r.must(unix.Mount(rootfs, rootfs, "", unix.MS_BIND, ""))
	t.Cleanup(func() { r.must(unix.Unmount(rootfs, unix.MNT_DETACH)) })
	r.must(unix.Mount("", rootfs, "", unix.MS_SHARED, ""))
	before, err := os.ReadFile("/proc/self/mountinfo")
	r.must(err)
	r.run("x", "true")
	r.wait("x")
	if got := r.remove("x"); got.ExitStatus != 0 {
		t.Errorf("status %d", got.ExitStatus)
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	r.must(err)
	if b, a := strings.Count(string(before), rootfs), strings.Count(string(after), rootfs); a != b {
		t.Errorf("%d mentions of the root in the host's mounts, %d before", a, b)
	}
}
