package main

import (
	"context"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// hollowName is the name of the snapshotter that does nothing.
const hollowName = "nothing"

// hollow answers every request at once and keeps nothing: what a request takes with it is what containerd
// and the socket take.
type hollow struct {
	snapshotsapi.UnimplementedSnapshotsServer
}

var (
	hollowMounts = []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"index=off", "workdir=/nothing/work", "upperdir=/nothing/fs", "lowerdir=/nothing/lower",
	}}}
	hollowInfo = &snapshotsapi.Info{
		Name: "nothing", Parent: "base", Kind: snapshotsapi.Kind_ACTIVE,
		CreatedAt: timestamppb.Now(), UpdatedAt: timestamppb.Now(),
	}
	done = &emptypb.Empty{}
)

func (hollow) Prepare(context.Context, *snapshotsapi.PrepareSnapshotRequest) (*snapshotsapi.PrepareSnapshotResponse, error) {
	return &snapshotsapi.PrepareSnapshotResponse{Mounts: hollowMounts}, nil
}

func (hollow) View(context.Context, *snapshotsapi.ViewSnapshotRequest) (*snapshotsapi.ViewSnapshotResponse, error) {
	return &snapshotsapi.ViewSnapshotResponse{Mounts: hollowMounts}, nil
}

func (hollow) Mounts(context.Context, *snapshotsapi.MountsRequest) (*snapshotsapi.MountsResponse, error) {
	return &snapshotsapi.MountsResponse{Mounts: hollowMounts}, nil
}

func (hollow) Stat(_ context.Context, r *snapshotsapi.StatSnapshotRequest) (*snapshotsapi.StatSnapshotResponse, error) {
	if r.Key == "none" { // as raise asks, to see who is there
		return nil, status.Error(codes.NotFound, "none")
	}
	return &snapshotsapi.StatSnapshotResponse{Info: hollowInfo}, nil
}

func (hollow) Usage(context.Context, *snapshotsapi.UsageRequest) (*snapshotsapi.UsageResponse, error) {
	return &snapshotsapi.UsageResponse{Size: 4096 * bigFiles, Inodes: bigFiles}, nil
}

func (hollow) Commit(context.Context, *snapshotsapi.CommitSnapshotRequest) (*emptypb.Empty, error) {
	return done, nil
}

func (hollow) Remove(context.Context, *snapshotsapi.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	return done, nil
}

func (hollow) Cleanup(context.Context, *snapshotsapi.CleanupRequest) (*emptypb.Empty, error) {
	return done, nil
}

func (hollow) List(*snapshotsapi.ListSnapshotsRequest, snapshotsapi.Snapshots_ListServer) error {
	return nil
}
