// Command mini is the operator's tool: it explains, diagnoses and tells its
// version. Nothing but `snapshotter fsck --repair` changes anything.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/containerd-mini/mini/shim"
)

const usage = `usage: mini COMMAND

  explain BUNDLE   print what would be done to create the container of an OCI
                   bundle, one line a step, like strace(1)
  features         print the OCI features of the runtime, as JSON
  doctor [--containerd-config FILE] [--config FILE]
                   look at this machine: kernel, cgroups, containerd, the
                   snapshotter's disk; say what to do about each finding
  config containerd VERSION
                   print the part of containerd's configuration that makes
                   the snapshotter known; 2, 3 or 4 is that configuration's
                   version
  snapshotter ls|usage|fsck [--repair]
                   look at the snapshots, and mend them
  version          print the version
`

func main() {
	flag.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	flag.Parse()
	if err := run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mini:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		flag.Usage()
		os.Exit(2)
	}
	command, rest := args[0], args[1:]
	switch {
	case command == "explain" && len(rest) != 1:
		return errors.New("explain: want the directory of a bundle")
	case (command == "features" || command == "version") && len(rest) > 0:
		return fmt.Errorf("%s: unexpected argument %q", command, rest[0])
	}
	switch command {
	case "config":
		return runConfig(rest)
	case "doctor":
		return runDoctor(rest)
	case "snapshotter":
		return runSnapshotter(rest)
	case "explain":
		text, err := shim.Explain(rest[0])
		fmt.Print(text)
		return err
	case "features":
		text, err := shim.FeaturesJSON()
		fmt.Println(text)
		return err
	case "version":
		fmt.Println("mini", shim.Version())
		return nil
	}
	flag.Usage()
	return fmt.Errorf("%q: unknown command", command)
}
