package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/rpc"
)

// newServer serves the task API in both of its versions. They differ in their
// name alone (a test compares their descriptors), so one set of messages
// serves both.
func newServer(s *service) *rpc.Server {
	methods := map[string]rpc.Method{
		"State":      method(s.State),
		"Create":     method(s.Create),
		"Start":      method(s.Start),
		"Delete":     method(s.Delete),
		"Pids":       method(s.Pids),
		"Pause":      method(s.Pause),
		"Resume":     method(s.Resume),
		"Checkpoint": method(s.Checkpoint),
		"Kill":       method(s.Kill),
		"Exec":       method(s.Exec),
		"ResizePty":  method(s.ResizePty),
		"CloseIO":    method(s.CloseIO),
		"Update":     method(s.Update),
		"Wait":       method(s.Wait),
		"Stats":      method(s.Stats),
		"Connect":    method(s.Connect),
		"Shutdown":   method(s.Shutdown),
	}
	for name, f := range methods {
		methods[name] = func(ctx context.Context, request []byte) ([]byte, error) {
			defer s.rest.set(true)
			return f(ctx, request)
		}
	}
	return &rpc.Server{
		Services: map[string]bool{"containerd.task.v2.Task": true, "containerd.task.v3.Task": true},
		Methods:  methods, Code: code,
	}
}

// method makes an rpc.Method of f, which takes and gives messages of package
// api.
func method[Req, Resp any](f func(context.Context, *Req) (*Resp, error)) rpc.Method {
	return func(ctx context.Context, request []byte) ([]byte, error) {
		req := new(Req)
		if err := api.Unmarshal(request, req); err != nil {
			return nil, fmt.Errorf("request: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		resp, err := f(ctx, req)
		if err != nil {
			return nil, err
		}
		return api.Marshal(resp), nil
	}
}
