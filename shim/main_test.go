package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/containerd-mini/mini/shim/internal/agent"
	"github.com/containerd-mini/mini/shim/internal/container"
)

// testCgroup is the parent of all cgroups of these tests, in this run: another
// one may share the machine.
var testCgroup = fmt.Sprintf("mini-shim-test-%d", os.Getpid())

// cgroupRoot is where this machine has cgroup v2.
func cgroupRoot() string {
	for _, dir := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

// rig is a service as a shim serves it, a client of it, and the containerd that
// takes its events.
type rig struct {
	t      testing.TB
	client task.TTRPCTaskService
	conn   *ttrpc.Client
	dir    string
	groups string // where the shim looks for cgroup v2
	fds    int
	events *eventSink
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return newRigAt(t, cgroupRoot())
}

func newRigAt(t testing.TB, groups string) *rig {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: namespaces and cgroups")
	}
	if cgroupRoot() == "" {
		t.Skip("needs cgroup v2")
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static")
	}
	r := &rig{t: t, dir: t.TempDir(), groups: groups}
	rootfs := filepath.Join(r.dir, "rootfs", "bin")
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(rootfs, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "true", "sleep", "cat", "echo", "mkdir"} {
		if err := os.Symlink("busybox", filepath.Join(rootfs, name)); err != nil {
			t.Fatal(err)
		}
	}
	r.events = newEventSink(t, filepath.Join(r.dir, "events.sock"))
	r.serve()
	return r
}

func (r *rig) serve() {
	t := r.t
	a, err := agent.New()
	if err != nil {
		t.Fatal(err)
	}
	seed := filepath.Join(t.TempDir(), "run", "seed")
	fd, err := container.OpenSeed(seed) // now, so that no container adds to the mounts
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	t.Cleanup(func() {
		if err := container.RemoveSeed(seed); err != nil {
			t.Error(err)
		}
	})
	s := &service{
		seed:      seed,
		namespace: "test", agent: a, cgroups: r.groups, forgetAfter: 50 * time.Millisecond,
		events:     newPublisher(r.events.path, "test"),
		containers: map[string]*container.Container{}, shutdown: func() {},
	}
	s.idle = newIdle(time.Hour, func() {})
	s.rest = newIdle(time.Millisecond, new(memory).giveBack)
	srv := newServer(s)
	path := filepath.Join(r.dir, "shim.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	r.dial()
	t.Cleanup(func() {
		r.conn.Close()
		l.Close()
		s.events.close(time.Second)
		s.idle.timer.Stop()
		a.Close()
	})
	// One call and one event open what opens once.
	_, _ = r.client.Connect(t.Context(), &task.ConnectRequest{ID: "none"})
	if _, err := os.Stat(r.events.path); err == nil {
		s.events.send("/tasks/warm", &emptypb.Empty{})
		r.events.await(t, "warm")
		r.events.got = nil
	}
	r.fds = countFds(t)
}

// dial connects to the service.
func (r *rig) dial() {
	conn, err := net.Dial("unix", filepath.Join(r.dir, "shim.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.conn = ttrpc.NewClient(conn)
	r.client = task.NewTTRPCTaskClient(r.conn)
}

// spec is a small container that runs args.
func (r *rig) spec(args ...string) *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: filepath.Join(r.dir, "rootfs")},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			CgroupsPath: "/" + testCgroup + "/" + strings.ReplaceAll(r.t.Name(), "/", "-"),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.CgroupNamespace},
			},
		},
	}
}

// request makes a bundle.
func (r *rig) request(id string, spec *specs.Spec) *task.CreateTaskRequest {
	r.t.Helper()
	bundle := filepath.Join(r.dir, "bundle-"+id)
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		r.t.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return &task.CreateTaskRequest{ID: id, Bundle: bundle}
}

// run creates and starts a container.
func (r *rig) run(id string, args ...string) {
	r.t.Helper()
	if _, err := r.client.Create(r.t.Context(), r.request(id, r.spec(args...))); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.client.Start(r.t.Context(), &task.StartRequest{ID: id}); err != nil {
		r.t.Fatal(err)
	}
}

// remove ends and deletes a container.
func (r *rig) remove(id string) *task.DeleteResponse {
	r.t.Helper()
	ctx := r.t.Context()
	_, _ = r.client.Kill(ctx, &task.KillRequest{ID: id, Signal: 9, All: true})
	if _, err := r.client.Wait(ctx, &task.WaitRequest{ID: id}); err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.Delete(ctx, &task.DeleteRequest{ID: id})
	if err != nil {
		r.t.Fatal(err)
	}
	return resp
}

// assertClean fails unless nothing of any container is left.
func (r *rig) assertClean() {
	r.t.Helper()
	if _, err := os.Stat(filepath.Join(cgroupRoot(), testCgroup)); !errors.Is(err, fs.ErrNotExist) {
		r.t.Errorf("cgroup left: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(r.dir, "bundle-*", "mini.*"))
	if err != nil || len(left) > 0 {
		r.t.Errorf("left in the bundle: %v", left)
	}
	if data, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(data), r.dir) {
		r.t.Errorf("mount left, or %v", err)
	}
	// Pumps and watchers close what they have when they have noticed.
	deadline := time.Now().Add(30 * time.Second)
	for countFds(r.t) > r.fds && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if n := countFds(r.t); n > r.fds {
		r.t.Errorf("%d descriptors, %d before:\n%s", n, r.fds, listFds())
	}
	if children := childPids(r.t); len(children) > 0 {
		r.t.Errorf("children left: %v", children)
	}
}

func countFds(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func listFds() string {
	var b strings.Builder
	list, _ := filepath.Glob("/proc/self/fd/*")
	for _, f := range list {
		target, _ := os.Readlink(f)
		fmt.Fprintf(&b, "%s %s\n", filepath.Base(f), target)
	}
	return b.String()
}

func childPids(t testing.TB) []string {
	t.Helper()
	var all []string
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		data, err := os.ReadFile(f)
		if err == nil {
			all = append(all, strings.Fields(string(data))...)
		}
	}
	return all
}

// eventSink is the events service of containerd.
type eventSink struct {
	path   string
	refuse string // a topic
	mu     sync.Mutex
	got    []*types.Envelope
}

func newEventSink(t testing.TB, path string) *eventSink {
	s := &eventSink{path: path}
	s.listen(t)
	return s
}

// listen serves until the test is over, or stop is called.
func (s *eventSink) listen(t testing.TB) (stop func()) {
	t.Helper()
	srv, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	eventsapi.RegisterTTRPCEventsService(srv, s)
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(context.Background(), l) }()
	t.Cleanup(func() { srv.Close() })
	return func() { srv.Close() }
}

func (s *eventSink) Forward(_ context.Context, r *eventsapi.ForwardRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Envelope.Topic == s.refuse {
		return nil, status.Error(codes.InvalidArgument, "refused")
	}
	s.got = append(s.got, r.Envelope)
	return &emptypb.Empty{}, nil
}

func (s *eventSink) topics() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.got {
		out = append(out, strings.TrimPrefix(e.Topic, "/tasks/"))
	}
	return out
}

// await waits until the topics are these.
func (s *eventSink) await(t testing.TB, want ...string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !slices.Equal(s.topics(), want) {
		if time.Now().After(deadline) {
			t.Fatalf("events %q, want %q", s.topics(), want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
