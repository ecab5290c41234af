package snapshotter

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
)

// ConfigContainerd writes the part of containerd's configuration that makes the snapshotter known, for
// a file that config.toml imports. The version is that of the configuration: 2 for containerd 1.7,
// 3 from 2.0 on, 4 from 2.3 on. What it announces is what this machine can do with c.Root, which
// need not exist: containerd asks nobody.
func ConfigContainerd(version int, c Config) (string, error) {
	var images, handlers string // of the CRI plugin
	switch version {
	case 2:
		images, handlers = `[plugins."io.containerd.grpc.v1.cri".containerd]`, `plugins."io.containerd.grpc.v1.cri".containerd.runtimes`
	case 3, 4:
		images, handlers = `[plugins."io.containerd.cri.v1.images"]`, `plugins."io.containerd.cri.v1.runtime".containerd.runtimes`
	default:
		return "", fmt.Errorf("configuration version %d: containerd 1.7 has 2, later ones have 3 and 4: %w", version, errdefs.ErrInvalidArgument)
	}
	quoted := make([]string, 0, 2)
	for _, capability := range detect().Capabilities() {
		quoted = append(quoted, fmt.Sprintf("%q", capability))
	}
	platform := "linux/" + runtime.GOARCH
	var b strings.Builder
	fmt.Fprintf(&b, `# The mini snapshotter, for containerd. Made by: mini config containerd %[1]d
version = %[1]d

[proxy_plugins.mini]
type = "snapshot"
address = %[2]q
capabilities = [%[3]s]
[proxy_plugins.mini.exports]
root = %[4]q

# Without its line here a pull with --snapshotter mini ends in "no unpack platforms defined". The
# line of overlayfs is containerd's default, which the list replaces.
[plugins."io.containerd.transfer.v1.local"]
`, version, c.Address, strings.Join(quoted, ", "), c.Root)
	if version > 2 {
		b.WriteString("max_concurrent_unpacks = 4 # layers of an image; containerd's default is one after the other\n")
	}
	for _, name := range []string{"overlayfs", "mini"} {
		fmt.Fprintf(&b, `[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = %q
snapshotter = %q
differ = "walking"
`, platform, name)
	}
	b.WriteString("\n# For Kubernetes, a handler for the pods of a runtime class, with mini as its runtime and this snapshotter:\n")
	if version == 2 {
		fmt.Fprintf(&b, `# (In config.toml itself: containerd 1.7 takes all tables of a plugin from one file, the last. And with the
# handler that it has by itself, which it forgets where there is any other.)
# [%s.runc]
# runtime_type = "io.containerd.runc.v2"
`, handlers)
	}
	fmt.Fprintf(&b, `# [%[2]s.mini]
# runtime_type = "io.containerd.mini.v2"
# snapshotter = "mini"

# For Kubernetes, the snapshotter for all pods:
# %[1]s
# snapshotter = "mini"
`, images, handlers)
	return b.String(), nil
}
