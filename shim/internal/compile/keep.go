package compile

import specs "github.com/opencontainers/runtime-spec/specs-go"

// Keep is what is left to do with the spec of a container that has been made: Exec does with it what it does
// with the whole, and so do HostIDs and hooks. A shim keeps one for as long as the container lives, and most
// of a spec is mounts, the system calls of a seccomp profile, and the environment.
func Keep(spec *specs.Spec) *specs.Spec {
	if spec.Hooks != nil { // they read all of it
		return spec
	}
	kept := *spec
	kept.Mounts = nil
	if spec.Process != nil {
		p := *spec.Process
		p.Args, p.Env, p.Capabilities, p.Rlimits = nil, nil, nil, nil
		kept.Process = &p
	}
	listens := false
	if spec.Linux != nil {
		l := *spec.Linux
		l.Resources, l.Devices, l.NetDevices, l.Sysctl = nil, nil, nil, nil
		l.MaskedPaths, l.ReadonlyPaths = nil, nil
		if l.Seccomp != nil {
			listens = l.Seccomp.ListenerPath != ""
			s := *l.Seccomp // its filter is compiled: Plan.Filter
			s.Syscalls, s.Architectures = nil, nil
			l.Seccomp = &s
		}
		kept.Linux = &l
	}
	if !listens { // whom else the state is shown to
		kept.Annotations = nil
	}
	return &kept
}
