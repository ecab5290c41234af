package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestCrictl runs testdata/crictl/*.txtar, as TestScripts does its own, with crictl in the PATH: the client of
// those who look after nodes. mini is containerd's default runtime, and a handler by the name of mini. LOGS is
// where the logs of pods go.
func TestCrictl(t *testing.T) {
	tools := client(t, "crictl")
	c := startCRI(t, "2.4")
	runScripts(t, "testdata/crictl/*.txtar", func(e *testscript.Env) error {
		lent := c.d.Lend(e.T().(script).T)
		if err := setup(e, lent); err != nil {
			return err
		}
		e.Setenv("LOGS", e.WorkDir+"/logs")
		e.Setenv("NETNS", lent.Network())
		return os.WriteFile(filepath.Join(e.WorkDir, ".bin", "crictl"), fmt.Appendf(nil, `#!/bin/sh
exec nsenter --net=%s -- %s/crictl --runtime-endpoint unix://%s --image-endpoint unix://%[3]s --timeout 120s "$@"
`, lent.Network(), tools, lent.Socket()), 0o755)
	})
}
