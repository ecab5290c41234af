// Command containerd-shim-mini-v2 is the containerd runtime
// io.containerd.mini.v2. containerd starts it; see package shim.
package main

import (
	"fmt"
	"os"

	"github.com/containerd-mini/mini/shim"

	// First of all: `start` and `delete` are done before the rest of this
	// program is initialised.
	_ "github.com/containerd-mini/mini/shim/early"
)

func main() {
	if err := shim.Main(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "containerd-shim-mini-v2:", err)
		os.Exit(1)
	}
}
