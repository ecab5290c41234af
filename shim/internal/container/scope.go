package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/program"
	"github.com/containerd-mini/mini/shim/internal/systemd"
)

// ensureSlice leaves it to systemd to make the slice that a scope is to be in:
// one that we made we would remove.
func ensureSlice(ctx context.Context, root, dir string, scope *program.Scope) error {
	_, err := os.Stat(filepath.Join(root, filepath.Dir(dir)))
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return systemd.EnsureSlice(ctx, scope.Slice)
}

// startScope hands the cgroup over to systemd, with the process that stands in
// it at its gate, and then sets the limits, which systemd has been told of.
func (c *Container) startScope(ctx context.Context, plan *program.Plan) error {
	scope := *plan.Scope
	limits, err := compile.Properties(plan.Cgroup.Writes)
	if err != nil {
		return err
	}
	scope.Properties = slices.Concat(limits, scope.Properties) // annotations win
	if err := systemd.Start(ctx, &scope, c.init.Pid()); err != nil {
		return fmt.Errorf("linux.cgroupsPath: %w", err)
	}
	pids, err := c.group.Pids()
	if err != nil {
		return err
	}
	if !slices.Contains(pids, c.init.Pid()) {
		return fmt.Errorf("linux.cgroupsPath: systemd has not put %s at %s: is it the systemd of another cgroup root?", scope.Unit, c.group.Path())
	}
	return c.apply(plan.Cgroup, nil)
}

// stopScope has systemd forget the unit, if there is one.
func stopScope(ctx context.Context, unit string) error {
	if unit == "" {
		return nil
	}
	return systemd.Stop(ctx, unit)
}

// setScope tells systemd of new limits.
func (c *Container) setScope(r program.Resources) error {
	if c.unit == "" {
		return nil
	}
	p, err := compile.Properties(r.Writes)
	if err != nil {
		return err
	}
	// systemd takes it at the start of a unit only.
	p = slices.DeleteFunc(p, func(p program.Property) bool { return p.Name == "OOMPolicy" })
	ctx, cancel := context.WithTimeout(context.Background(), deleteTimeout)
	defer cancel()
	return systemd.Set(ctx, c.unit, p)
}

// discard ends a first process that waits at its gate, where creating the
// container did not get to its end.
func (p *Process) discard() error {
	return errors.Join(p.proc.Abandon(), p.io.Close())
}
