package integration

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/containerd-mini/mini/integration/internal/daemon"
)

// A handler may have a snapshotter of its own, while all other pods are on another one.
func TestPodOnSnapshotter(t *testing.T) {
	for _, version := range []string{"2.4", "1.7"} {
		t.Run("containerd-"+version, func(t *testing.T) { podOnSnapshotter(t, version) })
	}
}

func podOnSnapshotter(t *testing.T, version string) {
	s := newService(t)
	// As the drop-in has it, without its comment signs; another name leaves criConfig's own handler alone.
	handler := strings.ReplaceAll(printedHandler(t, version), ".mini]", ".mini-on-mini]")
	handler = strings.ReplaceAll(handler, "io.containerd.mini.v2", daemon.Runtime())
	if mini() && !hasController("cpu") {
		header, _, _ := strings.Cut(handler[strings.LastIndex(handler, "["):], "]")
		handler += "\n" + header + ".options]\nmissing_controllers = \"ignore\"\n"
	}
	c := startCRI(t, version, s.dropIn(version), handler)
	s.daemon = c.d
	s.serve()
	t.Cleanup(func() { s.end(syscall.SIGTERM) })
	c.handler = "mini-on-mini"
	sandbox := c.runPod(t, "pod")
	one := c.create(t, sandbox, "one", "echo there >/f; exec sleep 1000")
	_, err := c.runtime.StartContainer(c.ctx, &cri.StartContainerRequest{ContainerId: one})
	must(t, err)
	var found []string
	eventually(t, "the file that it wrote is in the snapshotter", func() bool {
		found, err = filepath.Glob(s.config.Root + "/snapshots/*/fs/f")
		must(t, err)
		return len(found) == 1
	})
	if got := read(t, found[0]); got != "there" {
		t.Errorf("%s: %q", found[0], got)
	}
	c.removePod(t, sandbox)
}
