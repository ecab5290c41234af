// Package early runs what needs no daemon (package bootstrap) while the program
// is being initialised, before the packages that only the daemon needs: Go
// takes them by import path, each after what it imports, and what bootstrap
// imports is little. A test of hack/fence keeps it so. It is imported for that
// effect alone, by the shim's main package.
package early

import (
	"os"

	"github.com/containerd-mini/mini/shim/internal/bootstrap"
)

func init() {
	handled, err := bootstrap.Run(os.Args[1:])
	if err != nil {
		os.Stderr.WriteString("containerd-shim-mini-v2: " + err.Error() + "\n")
		os.Exit(1)
	}
	if handled {
		os.Exit(0)
	}
}
