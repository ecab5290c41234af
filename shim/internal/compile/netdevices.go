package compile

import (
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/containerd-mini/mini/shim/internal/program"
)

// netDevices has the shim move network devices into the namespace that is there by
// now, with the hooks or, without any, before anything else is made.
func (b *builder) netDevices() error {
	devices := b.spec.Linux.NetDevices
	if len(devices) == 0 {
		return nil
	}
	if !b.hasNamespace(specs.NetworkNamespace) {
		return invalid("linux.netDevices", "needs a network namespace")
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(devices)) {
		field := "linux.netDevices[" + name + "]"
		to := devices[name].Name
		if to == "" {
			to = name
		}
		switch {
		case !deviceName(name) || strings.Contains(name, "%"):
			return invalid(field, "not the name of a network device")
		case !deviceName(to):
			return invalid(field+".name", "%q: not the name of a network device", to)
		case seen[to] && !strings.Contains(to, "%d"):
			return invalid(field+".name", "%q: given twice", to)
		}
		seen[to] = true
		b.plan.NetDevices = append(b.plan.NetDevices, program.NetDevice{Name: name, NewName: to})
	}
	if !b.shown {
		b.plan.Waits = true
		b.wait("wait for network devices")
	}
	return nil
}

// deviceName: dev_valid_name of the kernel's net/core/dev.c.
func deviceName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && !strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}
