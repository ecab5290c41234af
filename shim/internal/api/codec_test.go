package api

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/events"
	task "github.com/containerd/containerd/api/runtime/task/v3"
	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	minioptions "github.com/containerd-mini/mini/proto/options"
)

// pairs are our messages and containerd's.
var pairs = []struct {
	ours   any
	theirs proto.Message
}{
	{Any{}, &anypb.Any{}},
	{Empty{}, &emptypb.Empty{}},
	{Timestamp{}, &timestamppb.Timestamp{}},
	{Mount{}, &types.Mount{}},
	{ProcessInfo{}, &tasktypes.ProcessInfo{}},
	{RuntimeInfo{}, &types.RuntimeInfo{}},
	{MiniOptions{}, &minioptions.Options{}},
	{RuntimeOptions{}, &runtimeoptions.Options{}},
	{RuncOptions{}, &runcoptions.Options{}},
	{ProcessDetails{}, &runcoptions.ProcessDetails{}},
	{CreateTaskRequest{}, &task.CreateTaskRequest{}},
	{CreateTaskResponse{}, &task.CreateTaskResponse{}},
	{DeleteRequest{}, &task.DeleteRequest{}},
	{DeleteResponse{}, &task.DeleteResponse{}},
	{ExecProcessRequest{}, &task.ExecProcessRequest{}},
	{ResizePtyRequest{}, &task.ResizePtyRequest{}},
	{StateRequest{}, &task.StateRequest{}},
	{StateResponse{}, &task.StateResponse{}},
	{KillRequest{}, &task.KillRequest{}},
	{CloseIORequest{}, &task.CloseIORequest{}},
	{PidsRequest{}, &task.PidsRequest{}},
	{PidsResponse{}, &task.PidsResponse{}},
	{CheckpointTaskRequest{}, &task.CheckpointTaskRequest{}},
	{UpdateTaskRequest{}, &task.UpdateTaskRequest{}},
	{StartRequest{}, &task.StartRequest{}},
	{StartResponse{}, &task.StartResponse{}},
	{WaitRequest{}, &task.WaitRequest{}},
	{WaitResponse{}, &task.WaitResponse{}},
	{StatsRequest{}, &task.StatsRequest{}},
	{StatsResponse{}, &task.StatsResponse{}},
	{ConnectRequest{}, &task.ConnectRequest{}},
	{ConnectResponse{}, &task.ConnectResponse{}},
	{ShutdownRequest{}, &task.ShutdownRequest{}},
	{PauseRequest{}, &task.PauseRequest{}},
	{ResumeRequest{}, &task.ResumeRequest{}},
	{TaskCreate{}, &events.TaskCreate{}},
	{TaskIO{}, &events.TaskIO{}},
	{TaskStart{}, &events.TaskStart{}},
	{TaskDelete{}, &events.TaskDelete{}},
	{TaskExit{}, &events.TaskExit{}},
	{TaskOOM{}, &events.TaskOOM{}},
	{TaskExecAdded{}, &events.TaskExecAdded{}},
	{TaskExecStarted{}, &events.TaskExecStarted{}},
	{TaskPaused{}, &events.TaskPaused{}},
	{TaskResumed{}, &events.TaskResumed{}},
	{ForwardRequest{}, &eventsapi.ForwardRequest{}},
	{Envelope{}, &types.Envelope{}},
	{RPCRequest{}, &ttrpc.Request{}},
	{RPCHeader{}, &ttrpc.KeyValue{}},
	{RPCResponse{}, &ttrpc.Response{}},
	{RPCStatus{}, &status.Status{}},
	{Metrics{}, &stats.Metrics{}},
	{PSIData{}, &stats.PSIData{}},
	{PSIStats{}, &stats.PSIStats{}},
	{PidsStat{}, &stats.PidsStat{}},
	{CPUStat{}, &stats.CPUStat{}},
	{MemoryStat{}, &stats.MemoryStat{}},
	{MemoryEvents{}, &stats.MemoryEvents{}},
	{RdmaStat{}, &stats.RdmaStat{}},
	{RdmaEntry{}, &stats.RdmaEntry{}},
	{IOStat{}, &stats.IOStat{}},
	{IOEntry{}, &stats.IOEntry{}},
	{HugeTlbStat{}, &stats.HugeTlbStat{}},
	{NetworkStat{}, &stats.NetworkStat{}},
}

// kinds are what a kind of protobuf is in our messages.
var kinds = map[protoreflect.Kind]reflect.Kind{
	protoreflect.StringKind: reflect.String, protoreflect.BytesKind: reflect.Slice, protoreflect.BoolKind: reflect.Bool,
	protoreflect.Uint32Kind: reflect.Uint32, protoreflect.Uint64Kind: reflect.Uint64, protoreflect.Int32Kind: reflect.Int32,
	protoreflect.Int64Kind: reflect.Int64, protoreflect.DoubleKind: reflect.Float64, protoreflect.EnumKind: reflect.Int32,
	protoreflect.MessageKind: reflect.Pointer,
}

// TestFields: each message has the fields of containerd's, with their names,
// numbers and types, and no others.
func TestFields(t *testing.T) {
	for _, pair := range pairs {
		typ := reflect.TypeOf(pair.ours)
		desc := pair.theirs.ProtoReflect().Descriptor()
		if typ.NumField() != desc.Fields().Len() {
			t.Errorf("%s has %d fields, %s %d", typ.Name(), typ.NumField(), desc.FullName(), desc.Fields().Len())
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			theirs := desc.Fields().ByNumber(number(f))
			if theirs == nil || !strings.EqualFold(f.Name, strings.ReplaceAll(string(theirs.Name()), "_", "")) {
				t.Errorf("%s.%s: %d is %v", typ.Name(), f.Name, number(f), theirs)
				continue
			}
			kind, want := f.Type, kinds[theirs.Kind()]
			switch {
			case theirs.IsMap():
				want = reflect.Map
			case theirs.IsList():
				if kind.Kind() != reflect.Slice {
					t.Errorf("%s.%s is repeated", typ.Name(), f.Name)
					continue
				}
				kind = kind.Elem()
			}
			if kind.Kind() != want {
				t.Errorf("%s.%s: %s, want %s", typ.Name(), f.Name, kind.Kind(), want)
			}
		}
	}
}

// fill sets everything in v.
func fill(v reflect.Value, seed int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), seed+i+1)
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), seed)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"a": "é", "": ""}))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte{0xff, byte(seed)})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), seed)
		fill(v.Index(1), seed+1)
	case reflect.String:
		v.SetString(strings.Repeat("é", 100*seed))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(-1.5)
	case reflect.Int32, reflect.Int64:
		v.SetInt(-int64(seed))
	default:
		v.SetUint(uint64(seed) << 28)
	}
}

// TestRoundTrip: what we write containerd reads, and back.
func TestRoundTrip(t *testing.T) {
	for _, pair := range pairs {
		for _, filled := range []bool{false, true} {
			want := reflect.New(reflect.TypeOf(pair.ours))
			if filled {
				fill(want.Elem(), 0)
			}
			theirs := pair.theirs.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(Marshal(want.Interface()), theirs); err != nil {
				t.Errorf("%T: %v", pair.ours, err)
				continue
			}
			if unknown := theirs.ProtoReflect().GetUnknown(); len(unknown) > 0 {
				t.Errorf("%T: unknown to containerd: %x", pair.ours, unknown)
			}
			data, err := proto.Marshal(theirs)
			if err != nil {
				t.Fatal(err)
			}
			got := reflect.New(reflect.TypeOf(pair.ours))
			if err := Unmarshal(data, got.Interface()); err != nil {
				t.Errorf("%T: %v", pair.ours, err)
			}
			if !reflect.DeepEqual(got.Interface(), want.Interface()) {
				t.Errorf("%+v, want %+v", got.Elem(), want.Elem())
			}
		}
	}
}

// FuzzUnmarshal: of any bytes we read what containerd's types read, for every
// message.
func FuzzUnmarshal(f *testing.F) {
	for i, pair := range pairs {
		v := reflect.New(reflect.TypeOf(pair.ours))
		fill(v.Elem(), 0)
		f.Add(uint8(i), Marshal(v.Interface()))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		pair := pairs[int(which)%len(pairs)]
		ours := reflect.New(reflect.TypeOf(pair.ours)).Interface()
		theirs, again := pair.theirs.ProtoReflect().New().Interface(), pair.theirs.ProtoReflect().New().Interface()
		err, wantErr := Unmarshal(data, ours), proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(data, theirs)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%T: %v, containerd's types: %v", pair.ours, err, wantErr)
		}
		if err != nil {
			return
		}
		if err := proto.Unmarshal(Marshal(ours), again); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(again, theirs) {
			t.Errorf("%T: %v, containerd's types: %v", pair.ours, again, theirs)
		}
	})
}
