package shim

import (
	"encoding/json"
	"fmt"
	"io"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/containerd-mini/mini/shim/internal/api"
	"github.com/containerd-mini/mini/shim/internal/bootstrap"
	"github.com/containerd-mini/mini/shim/internal/compile"
)

// featuresType is how containerd's typeurl calls features.Features.
const featuresType = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

// Features are what mini does, in the words of runtime-spec features.md.
// Kubernetes allows by it: user namespaces where idmap is enabled, recursive
// read-only mounts where mountOptions has rro.
func Features() *features.Features {
	yes, no := true, false
	modes, flags := compile.MemoryPolicies()
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		Hooks:         compile.HookNames(),
		MountOptions:  compile.MountOptions(),
		// What is in them systemd does, as root.
		PotentiallyUnsafeConfigAnnotations: []string{compile.PropertyAnnotation},
		Linux: &features.Linux{
			Namespaces:      compile.Namespaces(),
			Capabilities:    compile.Capabilities(),
			Cgroup:          &features.Cgroup{V1: &no, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp:         compile.SeccompFeatures(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &yes},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			MemoryPolicy:    &features.MemoryPolicy{Modes: modes, Flags: flags},
			NetDevices:      &features.NetDevices{Enabled: &yes},
		},
	}
}

// printInfo answers `-info`: containerd.api.RuntimeInfo. What containerd
// says on stdin, the options of a runtime, changes nothing of it.
func printInfo(stdin io.Reader, w io.Writer) error {
	in, err := io.ReadAll(io.LimitReader(stdin, maxSpec))
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	var options api.Any
	if err := api.Unmarshal(in, &options); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	list, err := json.Marshal(Features())
	if err != nil {
		return err
	}
	info := &api.RuntimeInfo{
		Name:     "io.containerd.mini.v2",
		Version:  &api.RuntimeVersion{Version: bootstrap.Version},
		Features: &api.Any{TypeURL: featuresType, Value: list},
	}
	if options.TypeURL != "" {
		info.Options = &options
	}
	_, err = w.Write(api.Marshal(info))
	return err
}

// FeaturesJSON is [Features] as `runc features` prints them.
func FeaturesJSON() (string, error) {
	data, err := json.MarshalIndent(Features(), "", "  ")
	return string(data), err
}

// Version of mini.
func Version() string { return bootstrap.Version }
