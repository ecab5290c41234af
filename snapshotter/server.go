package snapshotter

import (
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"google.golang.org/grpc"
)

const (
	// Requests that are served by goroutines which are there already: the stack of a new one is too small for
	// gRPC, and is copied as it grows, in every request. More at a time get new ones.
	ready = 8
	// No request is larger than that but by its labels. A fixed window needs no probing of the
	// bandwidth, which is a ping and its answer more for each request.
	window = 1 << 20
)

// NewServer gives a gRPC server with the API that containerd's proxy plugin speaks.
func NewServer(s *Snapshotter, opts ...grpc.ServerOption) *grpc.Server {
	server := grpc.NewServer(append([]grpc.ServerOption{
		grpc.UnaryInterceptor(s.metrics.unary), grpc.StreamInterceptor(s.metrics.stream),
		grpc.NumStreamWorkers(ready), grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window),
	}, opts...)...)
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	return server
}
