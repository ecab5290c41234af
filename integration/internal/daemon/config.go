package daemon

import (
	"fmt"
	"strings"
)

// The plugins no test needs, by the names of each config version. Without them containerd is up in
// half the time and its log is about us.
var (
	unneeded = map[string][]string{
		"1.7": {
			"io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
			"io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs",
			"io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
			"io.containerd.tracing.processor.v1.otlp",
		},
		"2": {
			"io.containerd.internal.v1.tracing",
			"io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.blockfile",
			"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
			"io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
			"io.containerd.tracing.processor.v1.otlp",
		},
	}
	cri = map[string][]string{
		"1.7": {"io.containerd.grpc.v1.cri"},
		"2": {
			"io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri",
			"io.containerd.podsandbox.controller.v1.podsandbox",
		},
	}
)

// Config is the containerd configuration for a daemon that keeps all it has in dir, or what outlives a boot in
// the options' Root.
func Config(dir string, o Options) string {
	family, version := "2", 3
	if o.Version == "1.7" {
		family, version = "1.7", 2
	}
	disabled := unneeded[family]
	if !o.CRI {
		disabled = append(cri[family][:len(cri[family]):len(cri[family])], disabled...)
	}
	quoted := make([]string, len(disabled))
	for i, plugin := range disabled {
		quoted[i] = fmt.Sprintf("%q", plugin)
	}
	root := o.Root
	if root == "" {
		root = dir + "/root"
	}
	text := fmt.Sprintf(`version = %d
root = %[4]q
state = "%[2]s/state"
disabled_plugins = [%[3]s]

[grpc]
address = "%[2]s/c.sock"

[ttrpc]
address = "%[2]s/c.sock.ttrpc"

[debug]
level = "debug"

[plugins."io.containerd.internal.v1.opt"]
path = "%[2]s/opt"
`, version, dir, strings.Join(quoted, ", "), root)
	return text + "\n" + o.Config
}
