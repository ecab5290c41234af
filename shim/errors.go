package shim

import "github.com/containerd/errdefs/pkg/errgrpc"

// toStatus is the one place where an error becomes a status. Its kind was
// chosen where the error was made: an errno of a step is no kind, and stays
// Unknown with its text.
func toStatus(err error) error { return errgrpc.ToGRPC(err) }
