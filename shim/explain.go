package shim

import (
	"path/filepath"

	"github.com/containerd-mini/mini/shim/internal/compile"
	"github.com/containerd-mini/mini/shim/internal/container"
)

// Explain returns what would be done to create the container of a bundle: one
// line a step, as strace(1) would show it. Nothing is done.
func Explain(bundle string) (string, error) {
	bundle, err := filepath.Abs(bundle)
	if err != nil {
		return "", err
	}
	spec, err := readSpec(bundle)
	if err != nil {
		return "", err
	}
	id := filepath.Base(bundle)
	dir, scope, err := compile.Cgroup(id, spec, false)
	if err != nil {
		return "", err
	}
	plan, err := compile.Container(spec, compile.Options{ID: id, Bundle: bundle, Cgroup: dir, Home: "/root", SELinux: container.SELinux()})
	if err != nil {
		return "", err
	}
	plan.Scope = scope
	return plan.String(), nil
}
