// Package early runs what needs no daemon (package bootstrap) while the program
// is being initialised. Go initialises packages in the order of their import
// paths, as far as their imports allow: so at this point little more than os
// and syscall has been, and the inits of protobuf, ttrpc and net (a third of
// the time that `start` takes) never run. It is imported for that effect alone,
// by the shim's main package.
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
