package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd-mini/mini/shim/internal/bootstrap"
	"github.com/containerd-mini/mini/shim/internal/cgroup"
)

// writeRecord writes down the cgroup, and the unit of systemd that it is, if it
// is one: a line each.
func writeRecord(bundle, cgroup, unit string) error {
	if err := os.WriteFile(filepath.Join(bundle, bootstrap.RecordName), []byte(cgroup+"\n"+unit+"\n"), 0o600); err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	return nil
}

func removeRecord(bundle string) error {
	err := os.Remove(filepath.Join(bundle, bootstrap.RecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Bury removes what a container left whose shim was killed: its processes and
// its cgroup. What is already gone is no error.
func Bury(ctx context.Context, cgroupRoot, bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, bootstrap.RecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	path, rest, _ := strings.Cut(string(data), "\n")
	unit := strings.TrimSpace(rest)
	if err := removeGroup(ctx, cgroupRoot, path, unit); err != nil {
		return err
	}
	return removeRecord(bundle)
}

func removeGroup(ctx context.Context, root, path, unit string) error {
	group, err := cgroup.Open(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return stopScope(ctx, unit)
	}
	if err != nil {
		return err
	}
	defer group.Close()
	if err := group.Kill(); err != nil {
		return err
	}
	if err := stopScope(ctx, unit); err != nil {
		return err
	}
	return group.Delete(ctx)
}
