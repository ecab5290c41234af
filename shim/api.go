package shim

import (
	"context"

	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/runtime/protoiface"

	"github.com/containerd-mini/mini/shim/internal/api"
)

// register serves the task API in both of its versions. They differ in their
// name alone (a test compares their descriptors), so one set of messages
// serves both.
func register(srv *ttrpc.Server, s *service) {
	methods := map[string]ttrpc.Method{
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
		methods[name] = func(ctx context.Context, unmarshal func(any) error) (any, error) {
			defer s.rest.set(true)
			return f(ctx, unmarshal)
		}
	}
	for _, name := range []string{"containerd.task.v2.Task", "containerd.task.v3.Task"} {
		srv.RegisterService(name, &ttrpc.ServiceDesc{Methods: methods})
	}
}

// method makes a ttrpc.Method of f, which takes and gives messages of package
// api.
func method[Req, Resp any](f func(context.Context, *Req) (*Resp, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		req := new(Req)
		if err := unmarshal(&message{req}); err != nil {
			return nil, err
		}
		resp, err := f(ctx, req)
		if err != nil {
			return nil, toStatus(err)
		}
		return &message{resp}, nil
	}
}

// message lets ttrpc carry a message of package api. ttrpc wants a
// proto.Message, which package proto reads and writes by the methods that it
// brings along, if it does: so a generated type of vtprotobuf does, and so does
// this, which has nothing else.
type message struct{ m any }

// Reset is called before a message is read: this one is new.
func (*message) Reset() {}

func (m *message) ProtoReflect() protoreflect.Message { return reflected{message: m} }

type reflected struct {
	protoreflect.Message // nil: there is nothing to reflect on
	message              *message
}

func (r reflected) IsValid() bool                        { return true }
func (r reflected) Interface() protoreflect.ProtoMessage { return r.message }
func (r reflected) ProtoMethods() *protoiface.Methods    { return methods }

var methods = &protoiface.Methods{
	Marshal: func(in protoiface.MarshalInput) (protoiface.MarshalOutput, error) {
		m := in.Message.Interface().(*message)
		return protoiface.MarshalOutput{Buf: append(in.Buf, api.Marshal(m.m)...)}, nil
	},
	Unmarshal: func(in protoiface.UnmarshalInput) (protoiface.UnmarshalOutput, error) {
		m := in.Message.Interface().(*message)
		return protoiface.UnmarshalOutput{}, api.Unmarshal(in.Buf, m.m)
	},
	// proto3 has no required fields.
	CheckInitialized: func(protoiface.CheckInitializedInput) (protoiface.CheckInitializedOutput, error) {
		return protoiface.CheckInitializedOutput{}, nil
	},
}
