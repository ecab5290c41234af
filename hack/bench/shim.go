package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// shimTimeout bounds what one shim may take for one life.
const shimTimeout = 30 * time.Second

// measureShims drives shims as containerd does, without containerd: what is left is the shim's own.
func (r *run) measureShims() error {
	for _, p := range profiles() {
		s := r.table.section("The shim alone, over ttrpc, /bin/true, "+p.name, "ms")
		err := r.interleave(r.all, r.n, func(c contender, counts bool) error {
			return r.shim(s, c, counts, p.opts)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// shim prepares a container, has its shim make it, and removes it.
func (r *run) shim(s *section, c contender, counts bool, opts []oci.SpecOpts) error {
	opts = append([]oci.SpecOpts{oci.WithProcessArgs("/bin/true")}, opts...)
	made, err := r.container(c, r.id(c), opts...)
	if err != nil {
		return err
	}
	a, err := r.newAlone(c, made)
	if err != nil {
		return err
	}
	defer a.close()
	ctx, cancel := context.WithTimeout(r.ctx, shimTimeout)
	defer cancel()
	if err := a.life(ctx, s, counts); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(a.bundle), made.Delete(r.ctx, containerd.WithSnapshotCleanup))
}

// alone is a shim without containerd above it.
type alone struct {
	*run
	contender
	id, bundle string
	rootfs     []*types.Mount
	options    *anypb.Any
	log        *os.File
	group      *os.File // the shim's cgroup, beside the container's
}

// newAlone does what containerd does before it starts a shim: it makes a bundle.
func (r *run) newAlone(c contender, made containerd.Container) (*alone, error) {
	a := &alone{run: r, contender: c, id: made.ID(), bundle: filepath.Join("/run/bundles", made.ID())}
	info, err := made.Info(r.ctx)
	if err != nil {
		return nil, err
	}
	if o := info.Runtime.Options; o != nil {
		a.options = &anypb.Any{TypeUrl: o.GetTypeUrl(), Value: o.GetValue()}
	}
	mounts, err := r.client.SnapshotService(snapshotter).Mounts(r.ctx, made.ID())
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		a.rootfs = append(a.rootfs, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	spec, err := made.Spec(r.ctx)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(a.bundle+"/rootfs", 0o711); err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.bundle+"/config.json", data, 0o600); err != nil {
		return nil, err
	}
	// A shim's log is a FIFO that containerd reads.
	if err := unix.Mkfifo(a.bundle+"/log", 0o600); err != nil {
		return nil, fmt.Errorf("mkfifo: %w", err)
	}
	if a.log, err = os.OpenFile(a.bundle+"/log", os.O_RDWR, 0); err != nil {
		return nil, err
	}
	// keeper removes it.
	group := filepath.Join(cgroupRoot, a.cgroup(), "shims")
	if err := os.MkdirAll(group, 0o755); err != nil {
		return nil, err
	}
	a.group, err = os.Open(group)
	return a, err
}

func (a *alone) close() {
	a.log.Close()
	a.group.Close()
}

// cpu is the processor time, in milliseconds, that this run's cgroups have used: what a shim, its
// children and its container take, also where they have ended.
func (a *alone) cpu() (float64, error) {
	data, err := os.ReadFile(filepath.Join(cgroupRoot, a.cgroup(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "usage_usec ")
	usec, _, _ := strings.Cut(rest, "\n")
	v, err := strconv.ParseFloat(usec, 64)
	return v / 1000, err
}

// life is that of one container, by the calls that containerd makes.
func (a *alone) life(ctx context.Context, s *section, counts bool) error {
	stdin, err := a.params()
	if err != nil {
		return err
	}
	before, err := a.cpu()
	if err != nil {
		return err
	}
	w := newWatch()
	out, err := a.command(ctx, stdin, "start")
	if err != nil {
		return err
	}
	start := w.lap()

	closed := make(chan struct{})
	task, err := dial(out, closed)
	if err != nil {
		return err
	}
	_, err = task.Create(ctx, &taskapi.CreateTaskRequest{
		ID: a.id, Bundle: a.bundle, Rootfs: a.rootfs, Options: a.options,
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	create := w.lap()
	if _, err := task.Start(ctx, &taskapi.StartRequest{ID: a.id}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	run := w.lap()
	status, err := task.Wait(ctx, &taskapi.WaitRequest{ID: a.id})
	if err != nil || status.ExitStatus != 0 {
		return fmt.Errorf("exit status %d: %w", status.GetExitStatus(), err)
	}
	exit := w.lap()
	if _, err := task.Delete(ctx, &taskapi.DeleteRequest{ID: a.id}); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	// The reply may be lost with the connection.
	if _, err := task.Shutdown(ctx, &taskapi.ShutdownRequest{ID: a.id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		return fmt.Errorf("shutdown: %w", err)
	}
	remove := w.lap()
	sum := w.total()

	select {
	case <-closed: // so the next contender does not pay for this one's end
	case <-ctx.Done():
		return fmt.Errorf("the shim did not end: %w", ctx.Err())
	}
	ended := w.lap()
	if _, err := a.command(ctx, nil, "-bundle", a.bundle, "delete"); err != nil {
		return err
	}
	bury := w.lap()
	after, err := a.cpu()
	if err != nil {
		return err
	}
	if counts {
		s.add("the start process", a.contender, start)
		s.add("Create, with the connection", a.contender, create)
		s.add("Start", a.contender, run)
		s.add("exit", a.contender, exit)
		s.add("Delete and Shutdown", a.contender, remove)
		s.add("sum of these", a.contender, sum)
		s.add("end of the shim after its last reply", a.contender, ended)
		s.add("the delete process", a.contender, bury)
		s.add("CPU, of all these", a.contender, after-before)
	}
	return nil
}

// params is the stdin of `start`: what containerd 2.3 and newer say.
func (a *alone) params() ([]byte, error) {
	p := &bootstrap.BootstrapParams{
		InstanceID: a.id, Namespace: a.cgroup(), ContainerdVersion: "2.4.2",
		ContainerdGrpcAddress: a.grpc(), ContainerdTtrpcAddress: a.ttrpc(),
		ContainerdBinary: a.tools + "/containerd",
	}
	if a.options != nil {
		if err := p.AddExtension(a.options); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(p)
}

// command runs the shim's binary as containerd does, and gives its stdout.
func (a *alone) command(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	args = append([]string{
		"-namespace", a.cgroup(), "-address", a.grpc(), "-publish-binary", a.tools + "/containerd", "-id", a.id,
	}, args...)
	cmd := exec.CommandContext(ctx, filepath.Join(a.bin, a.linked()), args...)
	cmd.Dir = a.bundle
	cmd.Env = append(os.Environ(),
		"GOMAXPROCS=2", "MAX_SHIM_VERSION=2", "TTRPC_ADDRESS="+a.ttrpc(), "GRPC_ADDRESS="+a.grpc(), "NAMESPACE="+a.cgroup())
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(a.group.Fd())}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", cmd, err, stderr.String())
	}
	return out, nil
}

// dial connects to the shim that has answered `start`.
func dial(answer []byte, closed chan struct{}) (taskapi.TTRPCTaskService, error) {
	var result bootstrap.BootstrapResult
	if err := proto.Unmarshal(answer, &result); err != nil {
		return nil, fmt.Errorf("answer of start: %w", err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(result.Address, "unix://"))
	if err != nil {
		return nil, err
	}
	client := ttrpc.NewClient(conn, ttrpc.WithOnClose(func() { close(closed) }))
	return taskapi.NewTTRPCTaskClient(client), nil
}
