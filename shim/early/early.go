// Package early runs what needs no daemon (package bootstrap) while the program
// is being initialised, before the packages that only the daemon needs, as far
// as Go's order allows: by import path, each after what it imports. It is
// imported for that effect alone, by the shim's main package.
package early

import (
	"fmt"
	"os"

	"github.com/containerd-mini/mini/shim/internal/bootstrap"
)

func init() {
	handled, err := bootstrap.Run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-mini-v2:", err)
		os.Exit(1)
	}
	if handled {
		os.Exit(0)
	}
}
