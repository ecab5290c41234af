package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/bootstrap"
	"github.com/containerd-mini/mini/shim/internal/cgroup"
	"github.com/containerd-mini/mini/shim/internal/spec"
)

// record is what a container leaves if its shim is killed.
type record struct {
	Cgroup string `json:"cgroup"`
	// Unit is that of systemd which the cgroup is, if it is one.
	Unit string `json:"unit,omitempty"`
	// ID is given if there are hooks; Rootfs is where a mount shows it to them.
	ID     string `json:"id,omitempty"`
	Rootfs string `json:"rootfs,omitempty"`
}

func (r record) write(bundle string) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := openFile(filepath.Join(bundle, bootstrap.RecordName), unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
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

// Bury removes what a container left whose shim was killed: its processes, its
// cgroup, its mount, and what its hooks clean up. What is already gone is no error.
func Bury(ctx context.Context, cgroupRoot, bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, bootstrap.RecordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(data) == 0 {
		return removeRecord(bundle) // killed between open and write: nothing was made yet
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("bundle: %s: %w", bootstrap.RecordName, err)
	}
	if err := removeGroup(ctx, cgroupRoot, r.Cgroup, r.Unit); err != nil {
		return err
	}
	if r.ID != "" {
		buryHooks(bundle, r.ID)
	}
	if r.Rootfs != "" {
		if err := hideRootfs(r.Rootfs); err != nil {
			return err
		}
	}
	return removeRecord(bundle)
}

// buryHooks runs the hooks after the end. A bundle that cannot be read has none.
func buryHooks(bundle, id string) {
	var config specs.Spec
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err == nil {
		err = spec.Unmarshal(data, &config) // as Create reads it: two readers could find other hooks
	}
	if err == nil {
		if abs, aerr := filepath.Abs(bundle); aerr == nil {
			bundle = abs
		}
		c := &Container{cfg: Config{ID: id, Bundle: bundle, Spec: &config}}
		c.stoppedHooks()
	}
}

// stopTimeout leaves containerd's five seconds for a cleanup something.
const stopTimeout = 3 * time.Second

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
	stop, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := stopScope(stop, unit); errors.Is(err, context.DeadlineExceeded) {
		// It is busy, and containerd does not wait long. A scope that has
		// become empty it removes by itself, with its cgroup.
		return nil
	} else if err != nil {
		return err
	}
	return group.Delete(ctx)
}
