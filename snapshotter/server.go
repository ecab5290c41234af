package snapshotter

import (
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"google.golang.org/grpc"
)

// NewServer gives a gRPC server with the API that containerd's proxy plugin speaks.
func NewServer(s *Snapshotter, opts ...grpc.ServerOption) *grpc.Server {
	opts = append(opts, grpc.UnaryInterceptor(s.metrics.unary), grpc.StreamInterceptor(s.metrics.stream))
	server := grpc.NewServer(opts...)
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(s))
	return server
}
