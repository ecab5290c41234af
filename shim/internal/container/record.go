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

func writeRecord(bundle, cgroup string) error {
	if err := os.WriteFile(filepath.Join(bundle, bootstrap.RecordName), []byte(cgroup+"\n"), 0o600); err != nil {
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
	path := strings.TrimSpace(string(data))
	if err := removeGroup(ctx, cgroupRoot, path); err != nil {
		return err
	}
	return removeRecord(bundle)
}

func removeGroup(ctx context.Context, root, path string) error {
	group, err := cgroup.Open(root, path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer group.Close()
	if err := group.Kill(); err != nil {
		return err
	}
	return group.Delete(ctx)
}
