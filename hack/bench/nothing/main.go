// Command nothing is a shim that answers every call of the task API and makes no container: what a
// container costs with it is containerd's own share.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func main() {
	var err error
	switch action := os.Args[len(os.Args)-1]; action {
	case "start":
		err = start()
	case "delete":
		err = answer(&task.DeleteResponse{ExitedAt: timestamppb.Now()})
	default:
		err = serve(action)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nothing:", err)
		os.Exit(1)
	}
}

// start leaves a daemon behind that listens, as a shim does.
func start() error {
	id := os.Args[slices.Index(os.Args, "-id")+1]
	path := fmt.Sprintf("/run/containerd/s/nothing-%s-%d", id, os.Getpid())
	if err := os.MkdirAll("/run/containerd/s", 0o711); err != nil {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		return err
	}
	daemon := exec.Command("/proc/self/exe", path)
	daemon.Args[0] = os.Args[0]
	daemon.ExtraFiles = []*os.File{f}
	daemon.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := daemon.Start(); err != nil {
		return err
	}
	// Without this containerd runs -info at every Create.
	capabilities, err := anypb.New(&types.MountCapabilities{})
	if err != nil {
		return err
	}
	return answer(&bootstrap.BootstrapResult{
		Version: 3, Address: "unix://" + path, Protocol: "ttrpc",
		Extensions: []*bootstrap.Extension{{Value: &anypb.Any{TypeUrl: "containerd.types.MountCapabilities", Value: capabilities.Value}}},
	})
}

func answer(m proto.Message) error {
	data, err := proto.Marshal(m)
	if err == nil {
		_, err = os.Stdout.Write(data)
	}
	return err
}

func serve(path string) error {
	defer os.Remove(path)
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	s := &service{started: map[string]bool{}, over: make(chan struct{})}
	task.RegisterTTRPCTaskService(srv, s)
	go func() {
		<-s.over
		time.Sleep(5 * time.Millisecond) // for the reply
		os.Remove(path)
		os.Exit(0)
	}()
	return srv.Serve(context.Background(), l)
}

// service has one task, whose processes end as soon as they are started.
type service struct {
	started map[string]bool // by exec id; containerd asks one thing at a time
	over    chan struct{}
}

var errNot = errors.New("nothing does not")

func (s *service) State(_ context.Context, r *task.StateRequest) (*task.StateResponse, error) {
	status := tasktypes.Status_CREATED
	if s.started[r.ExecID] {
		status = tasktypes.Status_STOPPED
	}
	return &task.StateResponse{ID: r.ID, ExecID: r.ExecID, Pid: pid(), Status: status, ExitedAt: timestamppb.Now()}, nil
}

func pid() uint32 { return uint32(os.Getpid()) }

func (s *service) Create(context.Context, *task.CreateTaskRequest) (*task.CreateTaskResponse, error) {
	return &task.CreateTaskResponse{Pid: pid()}, nil
}

func (s *service) Start(_ context.Context, r *task.StartRequest) (*task.StartResponse, error) {
	s.started[r.ExecID] = true
	return &task.StartResponse{Pid: pid()}, nil
}

func (s *service) Wait(context.Context, *task.WaitRequest) (*task.WaitResponse, error) {
	return &task.WaitResponse{ExitedAt: timestamppb.Now()}, nil
}

func (s *service) Delete(_ context.Context, r *task.DeleteRequest) (*task.DeleteResponse, error) {
	delete(s.started, r.ExecID)
	return &task.DeleteResponse{Pid: pid(), ExitedAt: timestamppb.Now()}, nil
}

func (s *service) Pids(context.Context, *task.PidsRequest) (*task.PidsResponse, error) {
	return &task.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: pid()}}}, nil
}

func (s *service) Connect(context.Context, *task.ConnectRequest) (*task.ConnectResponse, error) {
	return &task.ConnectResponse{ShimPid: pid(), TaskPid: pid()}, nil
}

func (s *service) Exec(context.Context, *task.ExecProcessRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (s *service) Kill(_ context.Context, r *task.KillRequest) (*emptypb.Empty, error) {
	s.started[r.ExecID] = true
	return &emptypb.Empty{}, nil
}

func (s *service) Shutdown(context.Context, *task.ShutdownRequest) (*emptypb.Empty, error) {
	close(s.over)
	return &emptypb.Empty{}, nil
}

func (s *service) Pause(context.Context, *task.PauseRequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) Resume(context.Context, *task.ResumeRequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) Checkpoint(context.Context, *task.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) ResizePty(context.Context, *task.ResizePtyRequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) CloseIO(context.Context, *task.CloseIORequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) Update(context.Context, *task.UpdateTaskRequest) (*emptypb.Empty, error) {
	return nil, errNot
}

func (s *service) Stats(context.Context, *task.StatsRequest) (*task.StatsResponse, error) {
	return nil, errNot
}
