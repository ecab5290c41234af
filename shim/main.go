package shim

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/bootstrap"
	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/container"
)

// buryTimeout is below what containerd waits for `delete`: 5 seconds.
const buryTimeout = 4 * time.Second

// Main is what is left of the shim's command after package early: the daemon,
// -info, and a `delete` that has something to clean up.
func Main(argv []string) error {
	a, err := bootstrap.Parse(argv)
	switch {
	case err != nil:
		return err
	case a.Info:
		return printInfo(os.Stdin, os.Stdout)
	case a.Action == "delete":
		return bury(&a)
	case a.Action == "start":
		return startLate(bootstrap.Late())
	}
	f := os.NewFile(bootstrap.ListenerFd, "socket")
	l, err := net.FileListener(f)
	if err != nil {
		return fmt.Errorf("the shim is started by containerd, by its action start: %w", err)
	}
	f.Close()
	return Serve(l, Config{
		Namespace: a.Namespace, EventAddress: os.Getenv("TTRPC_ADDRESS"), Socket: a.Socket, Linger: a.Linger,
	})
}

// startLate reads from the options which group the container is in.
func startLate(s *bootstrap.Start) error {
	url, value := s.Options()
	o, err := parseOptions(&api.Any{TypeURL: url, Value: value})
	if err != nil {
		return err
	}
	return s.Run(o.shimGroup)
}

func bury(a *bootstrap.Args) error {
	bundle := a.Bundle
	if bundle == "" {
		bundle = "."
	}
	ctx, cancel := context.WithTimeout(context.Background(), buryTimeout)
	defer cancel()
	if err := container.Bury(ctx, cgroup.Root, bundle); err != nil {
		return err
	}
	return bootstrap.Deleted(a)
}
