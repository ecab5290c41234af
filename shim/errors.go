package shim

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
)

// kinds are what containerd takes each kind of error for: google/rpc/code.proto,
// and containerd's errgrpc, which a test compares them with.
var kinds = []struct {
	kind error
	code int32
}{
	{context.Canceled, 1},
	{errdefs.ErrInvalidArgument, 3},
	{context.DeadlineExceeded, 4},
	{errdefs.ErrNotFound, 5},
	{errdefs.ErrAlreadyExists, 6},
	{errdefs.ErrPermissionDenied, 7},
	{errdefs.ErrResourceExhausted, 8},
	{errdefs.ErrFailedPrecondition, 9},
	{errdefs.ErrConflict, 9},
	{errdefs.ErrNotModified, 9},
	{errdefs.ErrAborted, 10},
	{errdefs.ErrOutOfRange, 11},
	{errdefs.ErrNotImplemented, 12},
	{errdefs.ErrInternal, 13},
	{errdefs.ErrUnavailable, 14},
	{errdefs.ErrDataLoss, 15},
	{errdefs.ErrUnauthenticated, 16},
}

// code is the one place where an error becomes a status. Its kind was chosen
// where the error was made: an errno of a step is no kind, and stays unknown, 2,
// with its text.
func code(err error) int32 {
	kind := errdefs.Resolve(err)
	for _, k := range kinds {
		if errors.Is(kind, k.kind) {
			return k.code
		}
	}
	return 2
}
