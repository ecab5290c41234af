package shim

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

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
	return &features.Features{
		OCIVersionMin: "1.0.0",
		OCIVersionMax: specs.Version,
		MountOptions:  compile.MountOptions(),
		Linux: &features.Linux{
			Namespaces:      compile.Namespaces(),
			Capabilities:    compile.Capabilities(),
			Cgroup:          &features.Cgroup{V1: &no, V2: &yes, Systemd: &yes, SystemdUser: &no, Rdma: &yes},
			Seccomp:         compile.SeccompFeatures(),
			Apparmor:        &features.Apparmor{Enabled: &yes},
			Selinux:         &features.Selinux{Enabled: &no},
			IntelRdt:        &features.IntelRdt{Enabled: &no},
			MountExtensions: &features.MountExtensions{IDMap: &features.IDMap{Enabled: &yes}},
			NetDevices:      &features.NetDevices{Enabled: &no},
		},
	}
}

// printInfo answers `-info`: containerd.types.RuntimeInfo. What containerd
// says on stdin, the options of a runtime, changes nothing of it.
func printInfo(stdin io.Reader, w io.Writer) error {
	in, err := io.ReadAll(io.LimitReader(stdin, maxSpec))
	if err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	var options anypb.Any
	if err := proto.Unmarshal(in, &options); err != nil {
		return fmt.Errorf("stdin: %w", err)
	}
	list, err := json.Marshal(Features())
	if err != nil {
		return err
	}
	info := &types.RuntimeInfo{
		Name:     "io.containerd.mini.v2",
		Version:  &types.RuntimeVersion{Version: bootstrap.Version},
		Features: &anypb.Any{TypeUrl: featuresType, Value: list},
	}
	if options.TypeUrl != "" {
		info.Options = &options
	}
	data, err := proto.Marshal(info)
	if err != nil {
		return err
	}
	_, err = w.Write(data)
	return err
}

// FeaturesJSON is [Features] as `runc features` prints them.
func FeaturesJSON() (string, error) {
	data, err := json.MarshalIndent(Features(), "", "  ")
	return string(data), err
}

// Version of mini.
func Version() string { return bootstrap.Version }
