package shim

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"
)

// TestCode compares with containerd's own package.
func TestCode(t *testing.T) {
	for _, kind := range []error{
		context.Canceled, context.DeadlineExceeded, errors.New("something"),
		errdefs.ErrUnknown, errdefs.ErrInvalidArgument, errdefs.ErrNotFound, errdefs.ErrAlreadyExists,
		errdefs.ErrPermissionDenied, errdefs.ErrResourceExhausted, errdefs.ErrFailedPrecondition,
		errdefs.ErrConflict, errdefs.ErrNotModified, errdefs.ErrAborted, errdefs.ErrOutOfRange,
		errdefs.ErrNotImplemented, errdefs.ErrInternal, errdefs.ErrUnavailable, errdefs.ErrDataLoss,
		errdefs.ErrUnauthenticated,
	} {
		for _, err := range []error{
			kind, fmt.Errorf("container: %w", kind), errors.Join(errors.New("first"), kind),
			fmt.Errorf("spec: %w: %w", kind, errdefs.ErrInvalidArgument),
		} {
			if want := int32(status.Code(errgrpc.ToGRPC(err))); code(err) != want {
				t.Errorf("%v is %d, want %d", err, code(err), want)
			}
		}
	}
}
